"""Names of layers."""

from collections.abc import Callable
from typing import Any

from torch.nn import Module


def layer_name(forward_func: Callable[..., Any], layer: Module) -> str:
    """Says which layer is meant: its dotted name in the model where `forward_func` is one, and its type."""
    names = forward_func.named_modules() if isinstance(forward_func, Module) else ()
    dotted = [f"'{name}' " for name, module in names if module is layer and name]
    return f"{dotted[0] if dotted else ''}({type(layer).__name__})"
