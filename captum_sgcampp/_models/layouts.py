"""How a model's modules show that its tensors are laid out: as maps, (N, C, H, W), or with channels last."""

from collections.abc import Iterable, Iterator
from inspect import getattr_static
from typing import Any

from torch.nn import AvgPool2d, Conv2d, GroupNorm, Linear, MaxPool2d, Module

from captum_sgcampp._torch import AdaptiveAvgPool, AdaptiveMaxPool, BatchNorm

_NUMBERS_OF_HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")


def features_that_are_last(modules: Iterable[Module]) -> Iterator[int]:
    """The sizes of the last dimension that linear layers and normalizations over it return."""
    for module in modules:
        if isinstance(module, Linear):
            yield module.out_features
        elif not _is_of_maps(module):
            normalized = getattr_static(module, "normalized_shape", None)
            if isinstance(normalized, (tuple, list)) and len(normalized) == 1:
                yield normalized[0]


def has_channels_last(layer: Module, n_features: int) -> bool:
    """Whether a layer consists of modules over the last dimension, one of them of this size, and none over maps."""
    modules = [*layer.modules()]
    return n_features in features_that_are_last(modules) and not any(map(_is_of_maps, modules))


def number_of_heads(module: Module | None) -> int | None:
    """How many heads a module has, if it is attention with several."""
    heads = (getattr_static(module, name, None) for name in _NUMBERS_OF_HEADS)
    return next((number for number in heads if isinstance(number, int)), None)


def parent_of(layer: Module, modules: Iterable[Module]) -> Module | None:
    """The module that a layer is a direct part of."""
    return next((module for module in modules if any(child is layer for child in module.children())), None)


def have_unequal_strides(modules: Iterable[Module]) -> bool:
    """Whether height and width shrink differently, as in networks for sound or for lines of text."""
    return any(len({*_strides(module)}) > 1 for module in modules)


def keep_the_aspect(modules: Iterable[Module]) -> bool:
    """Whether all convolutions, of which there are some, only divide height and width, as they are padded."""
    convolutions = [module for module in modules if isinstance(module, Conv2d)]
    return bool(convolutions) and all(map(_only_divides, convolutions))


def _is_of_maps(module: Module) -> bool:
    """Whether a module works on maps; some normalizations over channels are made from those over the last dimension."""
    if isinstance(module, (BatchNorm, GroupNorm, AdaptiveAvgPool, AdaptiveMaxPool)):
        return True
    channels_first = getattr_static(module, "data_format", None) == "channels_first"  # Hugging Face's ConvNeXt
    return channels_first or type(module).__name__.endswith("2d") or "kernel_size" in vars(module)


def _strides(module: Module) -> tuple[Any, ...]:
    """By how much a convolution or a pooling divides height and width, or to what an adaptive pooling sets them."""
    values: Any = ()
    if isinstance(module, (Conv2d, MaxPool2d, AvgPool2d)):
        values = module.stride
    elif isinstance(module, (AdaptiveAvgPool, AdaptiveMaxPool)):
        values = module.output_size
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


def _only_divides(convolution: Conv2d) -> bool:
    if isinstance(convolution.padding, str):
        return convolution.padding == "same"
    sizes = zip(convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation, strict=True)
    return all(
        abs(2 * padding - dilation * (kernel - 1)) < max(2, stride) for kernel, stride, padding, dilation in sizes
    )
