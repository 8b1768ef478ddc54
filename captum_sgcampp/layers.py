"""What layers a model has."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module


class LayerInfo(NamedTuple):
    """A layer of a model, as one forward pass meets it."""

    name: str
    """Its dotted name in the model."""
    module: Module
    """The layer itself."""
    shapes: tuple[tuple[int, ...], ...]
    """The shape of each tensor that it returned, when it ran for the last time; none if it did not run."""
    calls: int
    """How often it ran."""

    @property
    def ran(self) -> str:
        """The shapes in words, and what has to be known of how the layer runs."""
        if not self.calls:
            return "does not run"
        shapes = " and ".join(map(str, self.shapes)) or "no tensor"
        return f"{shapes}, the last of {self.calls} times" if self.calls > 1 else shapes


def list_layers(model: Module, *inputs: Any) -> list[LayerInfo]:
    """Lists the layers of a model that can be attributed to, with the shapes of what they return.

    Args:
        model: The model. It runs once, in the mode that it is in, without gradients.
        *inputs: What to call it with.

    Returns:
        The layers in the order in which they finish; those that do not run come last.

    Example::

        >>> import torch
        >>> from captum_sgcampp import list_layers
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> for layer in list_layers(model, torch.rand(1, 3, 8, 8)):
        ...     print(layer.name, layer.module, layer.shapes)
        0 Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1)) ((1, 8, 6, 6),)
        1 ReLU() ((1, 8, 6, 6),)
    """
    names = {module: name for name, module in model.named_modules() if name}
    finished: dict[Module, tuple[int, tuple[tuple[int, ...], ...]]] = {}

    def finish(module: Module, _args: Any, output: Any) -> None:
        calls, _ = finished.pop(module, (0, ()))
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        shapes = tuple(tuple(tensor.shape) for tensor in tensors if isinstance(tensor, Tensor))
        finished[module] = calls + 1, shapes

    handles = [module.register_forward_hook(finish) for module in names]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [LayerInfo(names[module], module, shapes, calls) for module, (calls, shapes) in finished.items()] + [
        LayerInfo(name, module, (), 0) for module, name in names.items() if module not in finished
    ]


def layer_name(forward_func: Callable[..., Any], layer: Module) -> str:
    """Says which layer is meant: its dotted name in the model where `forward_func` is one, and its type."""
    names = forward_func.named_modules() if isinstance(forward_func, Module) else ()
    dotted = [f"'{name}' " for name, module in names if module is layer and name]
    return f"{dotted[0] if dotted else ''}({type(layer).__name__})"
