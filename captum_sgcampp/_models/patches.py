"""The grid of an input's patches, as far as the sizes of the input and of the patches determine it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import getattr_static
from itertools import islice
from typing import Any

from torch import Tensor
from torch.nn import Conv2d, Module

from captum_sgcampp._models.closures import modules_of

Grid = tuple[int, ...]

MAX_PREFIX_TOKENS = 16
"""Class tokens and registers before the tokens of the patches; no known network has more."""


@dataclass(frozen=True)
class PatchedInputs:
    """The grids that tokens can fill, as far as inputs and model determine them.

    Args:
        shapes: The shapes of the inputs.
        told: The grids that follow from the model's own patches.
    """

    shapes: tuple[tuple[int, ...], ...]
    told: frozenset[Grid]

    @classmethod
    def of(cls, inputs: Sequence[Tensor], forward_func: Callable[..., Any]) -> "PatchedInputs":
        """Reads them from the inputs and the model."""
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        models = modules_of(forward_func)
        return cls(
            shapes, frozenset(grid for model in models for shape in shapes for grid in _told_grids(model, shape))
        )

    @property
    def have_image(self) -> bool:
        """Whether there is an image, (N, C, H, W), among them."""
        return any(map(_is_image, self.shapes))

    def grids(self, n_patches: int) -> list[Grid]:
        """The grids of so many patches: of the model's own size, or if none fits, of square patches of an image."""
        told = sorted(grid for grid in self.told if math.prod(grid) == n_patches)
        if told:
            return told
        sizes = {(shape[2], shape[3]) for shape in self.shapes if _is_image(shape)}
        return sorted({grid for size in sizes if (grid := _grid_of_squares(n_patches, size))})


def patch_sizes_of(model: Module) -> Iterator[tuple[int, int]]:
    """The sizes of a transformer's patches, from the modules that make them; none for other networks."""
    for module in model.modules():
        size = getattr_static(module, "patch_size", None)  # which runs no code of the model
        if isinstance(size, int):
            size = (size, size)
        if isinstance(size, (tuple, list)) and len(size) == 2 and min(size) > 0:
            yield int(size[0]), int(size[1])


def grids_of(size: tuple[int, int], patch_size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The grids of an input's patches, from the finest: some networks merge 2 x 2 patches from stage to stage.

    Where a size is not a multiple of the patches', what is left over is cut off or padded.
    """
    (height, width), (rows, columns) = size, patch_size
    while rows <= height and columns <= width:
        yield height // rows, width // columns
        yield -(-height // rows), -(-width // columns)
        rows, columns = 2 * rows, 2 * columns


def patch_grids(model: Module, shape: tuple[int, ...]) -> frozenset[tuple[int, int]]:
    """The finest grids of an image's patches, if the model is a transformer or begins as one; otherwise none.

    Args:
        model: The model.
        shape: The shape of the image, (N, C, H, W).
    """
    sizes = {*patch_sizes_of(model)}
    for module in model.modules():
        if isinstance(module, Conv2d) and module.in_channels == shape[1] and module.kernel_size == module.stride:
            rows, columns = module.kernel_size
            sizes |= {(rows, columns)} - {(1, 1)}
    return frozenset(grid for size in sizes for grid in islice(grids_of((shape[2], shape[3]), size), 2))


def is_grid_of(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether this can be an image's height and width, both divided by the same number."""
    (rows, columns), (height, width) = shape, size
    if height == width:
        return rows == columns <= width
    return abs(columns - rows * width / height) < 2 and rows <= height and columns <= width


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4


def _grid_of_squares(n_patches: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """The grid of square patches; of a square image, of which they may also be cut off, a square grid."""
    height, width = size
    if height == width:
        side = math.isqrt(n_patches)
        return (side, side) if side**2 == n_patches and 0 < side <= height else None
    patch = math.isqrt(height * width // max(1, n_patches))
    fits = patch and height % patch == width % patch == 0
    return (height // patch, width // patch) if fits and height * width == n_patches * patch**2 else None


def _told_grids(model: Module, shape: tuple[int, ...]) -> Iterator[Grid]:
    """The grids that follow from the sizes of patches, and from the convolutions that see the input itself.

    An input without channels, (N, rows, columns), may be turned around before it is cut into patches.
    """
    if len(shape) < 3:
        return
    height, width = shape[-2:]
    channels = shape[1:-2] or (1,)
    for size in {(height, width)} | ({(width, height)} if len(shape) == 3 else set()):
        for patch_size in patch_sizes_of(model):
            yield from grids_of(size, patch_size)
        for module in model.modules():
            if isinstance(module, Conv2d) and module.in_channels in channels:
                yield from grids_of(_convolved(size, module), (1, 1))


def _convolved(size: tuple[int, int], convolution: Conv2d) -> tuple[int, int]:
    """The size of a convolution's output."""
    if convolution.padding == "same":
        return size  # torch allows no stride here
    padding = (0, 0) if isinstance(convolution.padding, str) else convolution.padding
    rows, columns = (
        (length + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for length, pad, dilation, kernel, stride in zip(
            size, padding, convolution.dilation, convolution.kernel_size, convolution.stride, strict=True
        )
    )
    return rows, columns
