r"""Functions for `reshape_transform`, for layers that are not (N, C, \*spatial)."""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor


def tokens_to_map(n_prefix_tokens: int = 1, grid: tuple[int, ...] | None = None) -> Callable[[Tensor], Tensor]:
    r"""Makes a `reshape_transform` for a transformer's tokens, (N, tokens, C).

    Args:
        n_prefix_tokens: The number of tokens before those of the patches, which are dropped: the class token, and
            registers if there are any. Default: 1
        grid: The number of patches in each spatial dimension. Default: None, a square

    Returns:
        A function from (N, tokens, C) to (N, C, \*grid), which can be pickled and raises a ValueError if the tokens do
        not fill the grid.

    Example::

        >>> import torch
        >>> from captum_sgcampp import tokens_to_map
        >>> tokens_to_map()(torch.rand(2, 1 + 14 * 14, 768)).shape
        torch.Size([2, 768, 14, 14])
    """
    if n_prefix_tokens < 0:
        raise ValueError(f"n_prefix_tokens: must not be negative, but is {n_prefix_tokens}.")
    return partial(_tokens_to_map, n_prefix_tokens=n_prefix_tokens, grid=grid)


def _tokens_to_map(tokens: Tensor, n_prefix_tokens: int, grid: tuple[int, ...] | None) -> Tensor:
    if tokens.dim() != 3:
        raise ValueError(
            f"tokens_to_map: needs a layer of shape (N, tokens, C), but its shape is {tuple(tokens.shape)}."
        )
    patches = tokens[:, n_prefix_tokens:].transpose(1, 2)
    n_tokens, n_patches = tokens.shape[1], patches.shape[2]
    side = math.isqrt(n_patches)
    if grid is None and side**2 != n_patches:
        larger = math.isqrt(n_tokens)
        raise ValueError(
            f"n_prefix_tokens: without {n_prefix_tokens} prefix token(s), {n_tokens} tokens leave {n_patches}, which "
            f"is not a square number; n_prefix_tokens={n_tokens - larger**2} would leave {larger} x {larger}. If the "
            "patches do not form a square, give their grid."
        )
    shape = grid or (side, side)
    if math.prod(shape) != n_patches:
        raise ValueError(
            f"grid: {shape} does not hold the {n_patches} patches that {n_tokens} tokens leave without "
            f"n_prefix_tokens={n_prefix_tokens}; give the number of patches in each dimension."
        )
    return patches.reshape(*patches.shape[:2], *shape)


def channels_last_to_map(tensor: Tensor) -> Tensor:
    r"""A `reshape_transform` for layers with the channels last, as in a Swin transformer.

    Args:
        tensor: (N, \*spatial, C).

    Returns:
        (N, C, \*spatial).

    Example::

        >>> import torch
        >>> from captum_sgcampp import channels_last_to_map
        >>> channels_last_to_map(torch.rand(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """
    return tensor.movedim(-1, 1)
