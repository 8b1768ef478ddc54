"""How to see a layer as a map: with its channels first or last, or as the tokens of a transformer."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import Module

from captum_sgcampp.reshape import channels_last_to_map, tokens_to_map

MAX_PREFIX_TOKENS = 16
"""Class tokens and registers before the tokens of the patches; no known network has more."""


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
        n_prefix_tokens: The number of tokens before those of the patches. None finds it out.

    Returns:
        The function, as the attribution methods take it: :func:`unchanged` if the layer is a map as it is. None if it
        cannot be seen as one.
    """
    if shape[:1] != (1,):
        return None
    if len(shape) == 3 and patch_size is not None:
        return _tokens_as_map(shape[1], image_size, patch_size, n_prefix_tokens)
    if len(shape) != 4:
        return None
    if _is_grid(shape[2:], image_size):
        is_attention = patch_size and _tokens_as_map(shape[2], image_size, patch_size, n_prefix_tokens)
        return None if is_attention and shape[2] == shape[3] > 1 else unchanged
    return channels_last_to_map if _is_grid(shape[1:3], image_size) else None


def unchanged(tensor: Tensor) -> Tensor:
    """The `reshape_transform` of what is a map already."""
    return tensor


def _tokens_as_map(
    n_tokens: int, image_size: tuple[int, int], patch_size: tuple[int, int], n_prefix_tokens: int | None
) -> Callable[[Tensor], Tensor] | None:
    rows, columns = (size // patch for size, patch in zip(image_size, patch_size, strict=True))
    while rows and columns:  # some networks merge 2 x 2 patches from stage to stage
        n_others = n_tokens - rows * columns
        if n_others == n_prefix_tokens or (n_prefix_tokens is None and 0 <= n_others <= MAX_PREFIX_TOKENS):
            return tokens_to_map(n_others, (rows, columns))
        rows, columns = rows // 2, columns // 2
    return None


def patch_size_of(model: Module) -> tuple[int, int] | None:
    """The size of a transformer's patches, from the module that makes them; None for other networks."""
    for module in model.modules():
        size = getattr(module, "patch_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (tuple, list)) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def _is_grid(shape: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Whether this can be an image's height and width, both divided by the same number."""
    (rows, columns), (height, width) = shape, image_size
    if height == width:
        return rows == columns <= width
    return abs(columns - rows * width / height) < 2 and rows <= height and columns <= width
