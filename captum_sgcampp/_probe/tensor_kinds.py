"""Kinds of tensors that have no gradients, or none that a map could be made from."""

from collections.abc import Callable

import torch
from torch import Tensor

from captum_sgcampp._torch import is_batched

_KINDS: list[tuple[Callable[[Tensor], bool], str]] = [
    # Subclasses come first, because they may refuse to tell anything else.
    (lambda tensor: _is_a(tensor, "torch.masked", "MaskedTensor"), "a masked tensor (get_data() is a plain one)"),
    (lambda tensor: _is_a(tensor, "torch.distributed", "DTensor"), "a DTensor (full_tensor() is a plain one)"),
    (is_batched, "a tensor within torch.func.vmap (a model that is given the whole batch has plain ones)"),
    (lambda tensor: tensor.is_nested, "a nested tensor (to_padded_tensor(0.0) is a plain one)"),
    (lambda tensor: tensor.is_quantized, "a quantized tensor, {dtype} (the model before quantization has gradients)"),
    (lambda tensor: tensor.layout != torch.strided, "a tensor of layout {layout} (to_dense() is a plain one)"),
    (lambda tensor: tensor.is_complex(), "a tensor of {dtype} (abs() and .real are real)"),
    (lambda tensor: not tensor.is_floating_point(), "a tensor of {dtype}"),
    (lambda tensor: tensor.element_size() < 2, "a tensor of {dtype} (in float16 or larger it has gradients)"),
]


def unsuitable(value: object) -> str | None:
    """Says what kind of value it is, and what would be right, if attribution cannot use it.

    Args:
        value: What a layer takes or returns, or what the model returns.

    Returns:
        None for plain tensors of real floating-point numbers, and for subclasses that behave like them.
    """
    if not isinstance(value, Tensor):
        return type(value).__name__
    kind = next((words for is_of_kind, words in _KINDS if is_of_kind(value)), None)
    return kind and kind.format(dtype=value.dtype, layout=value.layout)


def _is_a(tensor: Tensor, package: str, name: str) -> bool:
    """Whether a tensor is of a class of torch that may not have been imported."""
    return any(kind.__name__ == name and kind.__module__.startswith(package) for kind in type(tensor).__mro__)
