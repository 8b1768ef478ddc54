r"""Functions for `reshape_transform`, for layers that are not (N, C, \*spatial)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from captum_sgcampp._checks import index_of, require_integer
from captum_sgcampp._models.patches import MAX_PREFIX_TOKENS, Grid, PatchedInputs


@dataclass(frozen=True)
class TokensToMap:
    r"""A `reshape_transform` for a transformer's tokens, (N, tokens, C): see :func:`tokens_to_map`.

    Args:
        n_prefix_tokens: The number of tokens before those of the patches.
        grid: The number of patches in each spatial dimension. None derives it.
        inputs: What is known of the model's inputs. None, if nothing is known, derives a square.
    """

    n_prefix_tokens: int = 1
    grid: Grid | None = None
    inputs: PatchedInputs | None = None

    def __post_init__(self) -> None:
        if isinstance(self.n_prefix_tokens, Tensor):
            raise TypeError("tokens_to_map: is to be called, as in reshape_transform=tokens_to_map().")
        require_integer("n_prefix_tokens", self.n_prefix_tokens, minimum=0)

    def __call__(self, tokens: Tensor) -> Tensor:
        r"""Turns (N, tokens, C) into (N, C, \*grid).

        Raises:
            ValueError: It is not of that shape, or the tokens do not fill a grid.
        """
        if tokens.dim() != 3:
            raise ValueError(
                f"tokens_to_map: needs a layer of shape (N, tokens, C), but its shape is {tuple(tokens.shape)}."
            )
        patches = tokens[:, self.n_prefix_tokens :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *self._grid(tokens.shape[1], patches.shape[2]))

    def for_inputs(self, inputs: Sequence[Tensor], forward_func: Callable[..., Any]) -> "TokensToMap":
        """The same function for these inputs of a model, from which it derives the grid if that is not given."""
        return replace(self, inputs=PatchedInputs.of(inputs, forward_func))

    def _grid(self, n_tokens: int, n_patches: int) -> Grid:
        left = f"without n_prefix_tokens={self.n_prefix_tokens}"
        if self.grid is not None:
            if math.prod(self.grid) != n_patches:
                raise ValueError(
                    f"grid: {self.grid} does not hold the {n_patches} patches that {n_tokens} tokens leave {left}; "
                    "give the number of patches in each dimension."
                )
            return self.grid
        grids = self._grids(n_patches)
        if not grids:
            raise ValueError(self._no_grid(n_tokens, n_patches))
        if len(grids) > 1:
            raise ValueError(
                f"grid: the {n_patches} patches that {n_tokens} tokens leave {left} can be "
                f"{' or '.join(map(_by, grids))} of an input {self._sizes()}; give the right one, such as "
                f"grid={grids[0]}."
            )
        return grids[0]

    def _grids(self, n_patches: int) -> list[Grid]:
        """The grids that so many patches may fill."""
        if self.inputs is not None:
            return self.inputs.grids(n_patches)
        side = math.isqrt(n_patches)
        return [(side, side)] if side**2 == n_patches else []

    def _no_grid(self, n_tokens: int, n_patches: int) -> str:
        """The words for tokens that fill no grid, with the least number of prefix tokens for which they do."""
        leave = f"n_prefix_tokens: without {self.n_prefix_tokens} prefix token(s), {n_tokens} tokens leave {n_patches}"
        if self.inputs is None:
            why = "which is not a square number"
        else:
            why = f"the number of patches, which fill no grid of an input {self._sizes()}"
        tried = MAX_PREFIX_TOKENS + 1 if self.inputs is None or self.inputs.have_image else 0
        for number in range(min(n_tokens, tried)):
            for grid in self._grids(n_tokens - number):
                other = f"n_prefix_tokens={number} would leave {_by(grid)}"
                return f"{leave}, {why}; {other}. If the patches form another grid, give it, such as grid=(24, 6)."
        return f"{leave}, {why}. Give the number of patches in each dimension, such as grid=(24, 6)."

    def _sizes(self) -> str:
        """The sizes of the inputs, in words."""
        return " and ".join(str(shape) for shape in self.inputs.shapes) if self.inputs else ""


def tokens_to_map(n_prefix_tokens: int = 1, grid: Grid | None = None) -> TokensToMap:
    r"""Makes a `reshape_transform` for a transformer's tokens, (N, tokens, C).

    Args:
        n_prefix_tokens: The number of tokens before those of the patches, which are dropped: the class token, and
            registers if there are any. Default: 1
        grid: The number of patches in each spatial dimension. Default: None, which derives it. The attribution methods
            and :func:`explain` know the input: the model's patches, if it tells their size or begins with a
            convolution, or square patches that divide an image without a rest. Patches may be merged 2 x 2 later in the
            model. On its own, the function takes a square

    Returns:
        A function from (N, tokens, C) to (N, C, \*grid), which can be pickled. It raises a ValueError if the tokens do
        not fill the grid, or if none or several fit the input, as with text or a spectrogram (N, time, frequency).

    Example::

        >>> import torch
        >>> from captum_sgcampp import tokens_to_map
        >>> tokens_to_map()(torch.rand(2, 1 + 14 * 14, 768)).shape
        torch.Size([2, 768, 14, 14])
    """
    if grid is not None:
        try:
            grid = tuple(map(index_of, grid))
        except TypeError as error:
            raise TypeError(f"grid: must be a tuple of integers, such as (24, 6), but is {grid!r}: {error}.") from error
    return TokensToMap(n_prefix_tokens, grid)


def for_inputs(
    reshape_transform: Callable[[Tensor], Tensor] | None, inputs: Sequence[Tensor], forward_func: Callable[..., Any]
) -> Callable[[Tensor], Tensor] | None:
    """Tells a `reshape_transform` that derives a grid what inputs it is for; others stay as they are."""
    if isinstance(reshape_transform, TokensToMap):
        return reshape_transform.for_inputs(inputs, forward_func)
    return reshape_transform


def _by(grid: Grid) -> str:
    return " x ".join(map(str, grid))


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
