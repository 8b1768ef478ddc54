"""Makes maps of layers with channels first or last, and of the tokens of a transformer."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import Module

from captum_sgcampp._models.patches import MAX_PREFIX_TOKENS, grids_of, is_grid_of, patch_sizes_of
from captum_sgcampp.reshape import TokensToMap, channels_last_to_map, tokens_to_map


def as_map(
    shape: tuple[int, ...],
    image_size: tuple[int, int],
    patch_size: tuple[int, int] | None = None,
    n_prefix_tokens: int | None = None,
) -> Callable[[Tensor], Tensor] | None:
    """Finds the `reshape_transform` of a layer.

    Args:
        shape: The shape of what the layer returns for one photograph.
        image_size: The height and the width of the network's input.
        patch_size: The height and the width of a transformer's patches. None means that it is not a transformer.
        n_prefix_tokens: The number of tokens before those of the patches. None derives it from the sizes.

    Returns:
        The function, as the attribution methods take it: :func:`unchanged` if the layer returns a map. None if no map
        can be made of it.
    """
    if shape[:1] != (1,):
        return None
    if len(shape) == 3 and patch_size is not None:
        return _tokens_as_map(shape[1], image_size, patch_size, n_prefix_tokens)
    if len(shape) != 4:
        return None
    if is_grid_of(shape[2:], image_size):
        is_attention = patch_size and _tokens_as_map(shape[2], image_size, patch_size, n_prefix_tokens)
        return None if is_attention and shape[2] == shape[3] > 1 else unchanged
    return channels_last_to_map if is_grid_of(shape[1:3], image_size) else None


def unchanged(tensor: Tensor) -> Tensor:
    """The `reshape_transform` of a layer that returns a map."""
    return tensor


def patch_size_of(model: Module) -> tuple[int, int] | None:
    """The size of a transformer's patches, from the first module that makes them; None for other networks."""
    return next(patch_sizes_of(model), None)


def _tokens_as_map(
    n_tokens: int, image_size: tuple[int, int], patch_size: tuple[int, int], n_prefix_tokens: int | None
) -> TokensToMap | None:
    grids = list(grids_of(image_size, patch_size))
    others = range(MAX_PREFIX_TOKENS + 1) if n_prefix_tokens is None else [n_prefix_tokens]
    # A grid that the tokens fill comes first: next to it, one of fewer patches looks like it with a few class tokens.
    grids.sort(key=lambda grid: math.prod(grid) != n_tokens)
    for grid in grids:
        n_others = n_tokens - math.prod(grid)
        if n_others in others:
            return tokens_to_map(n_others, grid)
    return None
