"""Keeps torch's attention off its fused path, which skips layers."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.nn import MultiheadAttention
from torch.overrides import TorchFunctionMode


def unfused(attention: Iterable[MultiheadAttention]) -> AbstractContextManager[object]:
    """Keeps frozen nn.MultiheadAttention and nn.TransformerEncoder off their fused path, in this thread only.

    The fused path skips inner layers and treats padded positions differently. These modules avoid it if torch's
    functions are overridden, even by overrides without effect.
    """
    frozen = any(not any(weight.requires_grad for weight in module.parameters()) for module in attention)
    return _Overridden() if frozen else nullcontext()


class _Overridden(TorchFunctionMode):
    """Overrides torch's functions without effect."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))
