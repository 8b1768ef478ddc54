"""Puts the buffers of a model in training mode back to what they were before a pass."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module


class _Buffer(NamedTuple):
    module: Module
    name: str
    tensor: Tensor
    value: Tensor


class BuffersInTraining:
    """The buffers of all modules in training mode, such as the running statistics of batch normalization.

    Nothing is copied for modules in evaluation mode.

    Args:
        modules: The modules, each by itself: not those within it.
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        self._buffers = [
            _Buffer(module, name, tensor, tensor.detach().clone())
            for module in modules
            if module.training
            for name, tensor in module.named_buffers(recurse=False)
            if not tensor.is_inference()  # which cannot be written to
        ]

    def restore(self) -> None:
        """Puts the buffers back, with their values."""
        with torch.no_grad():
            for module, name, tensor, value in self._buffers:
                if getattr(module, name) is not tensor:
                    setattr(module, name, tensor)
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
