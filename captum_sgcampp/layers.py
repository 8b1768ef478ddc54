"""The layers of a model: listing them, and finding one by its name."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import Conv2d, DataParallel, Module
from torch.nn.parallel import DistributedDataParallel

from captum_sgcampp._checks import closest
from captum_sgcampp._models.unreached_layers import EXPORTED, SCRIPTED
from captum_sgcampp._torch import weights_are_cached


@dataclass(frozen=True, eq=False)
class LayerInfo:
    """A layer of a model in one forward pass."""

    name: str
    """Its dotted name in the model."""
    module: Module
    """The layer itself."""
    shapes: tuple[tuple[int, ...], ...]
    """The shape of each tensor that it returned in its last run; empty if it did not run."""
    calls: int
    """The number of times that it ran."""
    input_shapes: tuple[tuple[int, ...], ...] = ()
    """The shape of each tensor that it was given by position in its last run."""

    @property
    def output_summary(self) -> str:
        """The shapes in words, and whether the layer runs once, several times or not at all."""
        if not self.calls:
            return "does not run"
        shapes = " and ".join(map(str, self.shapes)) or "no tensor"
        return f"{shapes}, the last of {self.calls} times" if self.calls > 1 else shapes

    def __str__(self) -> str:
        """Name, type and shapes in one line."""
        return f"{self.name}: {type(self.module).__name__}, {self.output_summary}"


def list_layers(model: Module, *inputs: Any) -> list[LayerInfo]:
    """Lists the layers of a model that can be attributed to, with the shapes of what they return.

    Args:
        model: The model. It runs once, in its current mode, without gradients.
        *inputs: The arguments to call it with.

    Returns:
        The layers in the order in which they finish; those that do not run come last. Layers that take no hooks, such
        as scripted ones, are left out.

    Example::

        >>> import torch
        >>> from captum_sgcampp import list_layers
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> for layer in list_layers(model, torch.rand(1, 3, 8, 8)):
        ...     print(layer)
        0: Conv2d, (1, 8, 6, 6)
        1: ReLU, (1, 8, 6, 6)
    """
    names = {module: name for name, module in model.named_modules() if name}
    finished: dict[Module, LayerInfo] = {}

    def finish(module: Module, args: Any, output: Any) -> None:
        calls = finished.pop(module).calls if module in finished else 0
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        finished[module] = LayerInfo(names[module], module, _shapes(outputs), calls + 1, _shapes(args))

    with ExitStack() as stack:
        for module in list(names):
            try:
                stack.callback(module.register_forward_hook(finish).remove)
            except RuntimeError:  # from torch.jit
                del names[module]
        # Cached weights are reused, and need the graph that they would have without this pass.
        stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled() and weights_are_cached()))
        model(*inputs)
    return list(finished.values()) + [
        LayerInfo(name, module, (), 0) for module, name in names.items() if module not in finished
    ]


def last_maps(layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """Chooses the layers of a convolutional network that are usually worth a look: the last map of each resolution.

    A resolution is that of a convolution's output, above 1 x 1. Left out are pooling layers, layers that run more than
    once, and those within a block that changes their resolution, which are a part of the next map.

    Args:
        layers: What :func:`list_layers` returned.

    Returns:
        The layers from the finest to the coarsest resolution; none for networks without two-dimensional maps.

    Example::

        >>> import torch
        >>> from captum_sgcampp import list_layers
        >>> from captum_sgcampp.layers import last_maps
        >>> conv, relu, pool = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
        >>> model = torch.nn.Sequential(conv, relu, pool, torch.nn.Conv2d(8, 16, 1))
        >>> [layer.name for layer in last_maps(list_layers(model, torch.rand(1, 3, 8, 8)))]
        ['1', '3']
    """
    resolutions = {layer.name: _resolution(layer.shapes) for layer in layers}
    convolved = {resolutions[layer.name] for layer in layers if is_convolution(layer.module)} - {None, (1, 1)}
    blocks = [layer for layer in layers if _resolution(layer.input_shapes) not in {None, resolutions[layer.name]}]
    last: dict[tuple[int, ...] | None, LayerInfo] = {}
    for layer in layers:
        resolution = resolutions[layer.name]
        within = [block for block in blocks if layer.name.startswith(f"{block.name}.")]
        is_map = resolution in convolved and layer.calls == 1 and "Pool" not in type(layer.module).__name__
        if is_map and all(_resolution(block.input_shapes) != resolution for block in within):
            last[resolution] = layer
    return [last[resolution] for resolution in sorted(last, key=lambda size: size or (), reverse=True)]


def is_convolution(module: Module) -> bool:
    """Whether a layer is a two-dimensional convolution: torch's, a quantized one, or one with weights of that shape."""
    if isinstance(module, Conv2d):
        return True
    if next(module.children(), None) is not None or "Pool" in type(module).__name__:
        return False
    own = any(weight.dim() == 4 and len(weight) > 1 for weight in module.parameters(recurse=False))
    return own or hasattr(module, "kernel_size")


def _shapes(values: Iterable[Any]) -> tuple[tuple[int, ...], ...]:
    # Nested tensors have no shape.
    return tuple(tuple(value.shape) for value in values if isinstance(value, Tensor) and not value.is_nested)


def _resolution(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...] | None:
    """The height and width of a single tensor of maps, (N, C, H, W); None for other shapes."""
    return shapes[0][2:] if len(shapes) == 1 and len(shapes[0]) == 4 else None


def find_layer(forward_func: Callable[..., Any], layer: Module | str) -> Module:
    """Finds a layer by its dotted name, also within DataParallel and torch.compile's wrappers.

    Args:
        forward_func: The model.
        layer: Its dotted name; a module is returned unchanged.

    Raises:
        TypeError: It is neither a module nor a name, or `forward_func` is not a module.
        ValueError: There is no layer of that name.
    """
    if isinstance(layer, Module):
        return layer
    if not isinstance(layer, str) or not isinstance(forward_func, Module):
        raise TypeError(
            "layer: must be a module, or the name of one in forward_func if that is a module; it is "
            f"{layer!r}, and forward_func is a {type(forward_func).__name__}."
        )
    wrappers = unwrap(forward_func)
    for wrapper in reversed(wrappers):
        try:
            if layer:
                return wrapper.get_submodule(layer)
        except AttributeError:
            continue
        except RuntimeError as error:  # from torch.jit
            raise ValueError(f"layer: {layer!r} cannot be taken from forward_func: {SCRIPTED}") from error
    names = {name: None for wrapper in wrappers for name, _ in wrapper.named_modules(remove_duplicate=False) if name}
    hint = f" {EXPORTED}" if isinstance(wrappers[-1], GraphModule) else ""
    raise ValueError(f"layer: there is no {layer!r}; the closest: {', '.join(closest(layer, names)) or 'none'}.{hint}")


def dotted_name(forward_func: Callable[..., Any], layer: Module) -> str | None:
    """The dotted name of a layer in the model, or in the model that it wraps; None if the layer is not in it."""
    wrappers = unwrap(forward_func) if isinstance(forward_func, Module) else []
    names = [name for wrapper in wrappers for name, module in wrapper.named_modules() if module is layer and name]
    return names[-1] if names else None


def is_named(forward_func: Callable[..., Any], layer: Module, name: str) -> bool:
    """Whether `get_submodule` of `forward_func` finds the layer by this name."""
    if not isinstance(forward_func, Module):
        return False
    return dict(forward_func.named_modules(remove_duplicate=False)).get(name) is layer


def layer_name(forward_func: Callable[..., Any], layer: Module) -> str:
    """Describes a layer in messages: its dotted name if it is in the model, and its type."""
    name = dotted_name(forward_func, layer)
    return f"({type(layer).__name__})" if name is None else f"'{name}' ({type(layer).__name__})"


def unwrap(model: Module) -> list[Module]:
    """The model and the modules that it wraps, from the outside in."""
    wrapped = getattr(model, "_orig_mod", None)  # torch.compile
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        wrapped = model.module
    return [model, *(unwrap(wrapped) if isinstance(wrapped, Module) else [])]
