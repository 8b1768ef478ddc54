"""The model's side of the work: run it, and tell the activations and the gradients at the layers.

This is the only part of an attribution that runs the model. The hooks that read the layers are Captum's. Those added
here, which run before them, protect the caller's tensors, notice a layer that runs not at all or twice, and switch the
recording of the graph on at the layers, so that nothing below them is recorded.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, device
from torch.nn import Module

from captum_sgcampp._captum import (
    TargetType,
    _extract_device_ids,
    _forward_layer_distributed_eval,
    _reduce_list,
    _select_targets,
    _sort_key_list,
)
from captum_sgcampp.layers import layer_name


class LayerProbe:
    """Runs the model and looks at layers.

    Args:
        forward_func: The model, or a function that calls it.
        layers: The layers to look at.
        device_ids: As Captum's attribution methods take it, for DataParallel.
        attribute_to_layer_input: Look at what the layers take, rather than at what they return.
        record_below: Record the graph below the layers too. Only derivatives of the attribution itself need that.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layers: Sequence[Module],
        *,
        device_ids: list[int] | None = None,
        attribute_to_layer_input: bool = False,
        record_below: bool = False,
    ) -> None:
        self._forward_func = forward_func
        self._layers = {layer: layer_name(forward_func, layer) for layer in layers}
        self._device_ids = device_ids
        self._attribute_to_layer_input = attribute_to_layer_input
        self._record_below = record_below

    def run(self, inputs: tuple[Tensor, ...], forward_args: tuple[Any, ...] = ()) -> "LayerPass":
        """Runs the model once.

        Raises:
            ValueError: A layer does not run, or is called without a positional argument to attribute to.
            TypeError: What the model returns, or a layer takes or returns, is no tensor of floating point.
        """
        if not self._record_below:
            try:
                return self._run(inputs, forward_args)
            except RuntimeError:
                # Some models have to be run with recording on throughout: they set the grad mode themselves, leave
                # it to other threads (DataParallel), or take gradients of their own. If that was not the reason,
                # the error is raised again from here.
                self._record_below = True
        return self._run(inputs, forward_args)

    def _run(self, inputs: tuple[Tensor, ...], forward_args: tuple[Any, ...]) -> "LayerPass":
        watch = _Watch(self._layers, self._attribute_to_layer_input, not self._record_below)
        with torch.set_grad_enabled(self._record_below), watch.hooks(), _unfused():
            saved, output = _forward_layer_distributed_eval(
                watch.wrap(self._forward_func),
                tuple(tensor.clone() for tensor in inputs),  # some models write into theirs
                list(self._layers),
                additional_forward_args=forward_args,
                attribute_to_layer_input=self._attribute_to_layer_input,
                forward_hook_with_return=True,
                require_layer_grads=True,
            )
        devices = _sort_key_list(
            list(next(iter(saved.values()))), _extract_device_ids(self._forward_func, saved, self._device_ids)
        )
        return LayerPass(
            output,
            [
                LayerTensor(layer, name, watch.calls(layer), by_device)
                for layer, name in self._layers.items()
                for by_device in zip(*(saved[layer][key] for key in devices), strict=True)
            ],
        )


@contextmanager
def _unfused() -> Iterator[None]:
    """Keeps nn.MultiheadAttention and nn.TransformerEncoder off their fused path.

    They take it where no graph is recorded. It passes inner layers by, and it treats padded positions differently.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class LayerTensor(NamedTuple):
    """A tensor that a layer took or returned in a forward pass."""

    layer: Module
    name: str
    """The layer's name, for messages."""
    calls: int
    """How often the layer ran in that pass. The tensor is that of the last time."""
    by_device: tuple[Tensor, ...]
    """The tensor, in one piece for each device that the model is spread over."""


class LayerPass(NamedTuple):
    """What one forward pass left at the layers."""

    output: Tensor
    """What the model returned."""
    tensors: list[LayerTensor]
    """The tensors of all layers, one after the other."""

    def activations(self) -> list[Tensor]:
        """Tells what the layers took or returned, joined over devices in the order of the examples."""
        return [joined(tensor.by_device) for tensor in self.tensors]

    def scores(self, target: TargetType) -> Tensor:
        """Selects the class score S of each example, as Captum selects targets.

        Raises:
            AssertionError: The target does not fit the output, or leaves several scores for an example.
        """
        with torch.enable_grad():
            scores: Tensor = _select_targets(self.output, target)
        assert scores.dim() > 0 and scores[0].numel() == 1, (
            "Target not provided when necessary, cannot take gradient with respect to multiple outputs: "
            f"target={target!r} selects {tuple(scores.shape)} of an output of shape {tuple(self.output.shape)}, "
            "where one score for each example is needed."
        )
        return scores

    def gradients(self, scores: Tensor, grad_kwargs: dict[str, Any]) -> list[tuple[Tensor, ...]]:
        """Takes the gradients g = dS/dA of each example's score, for each tensor in the same pieces as it is in.

        Args:
            scores: What :meth:`scores` returned.
            grad_kwargs: Passed on to `torch.autograd.grad`.

        Raises:
            ValueError: The scores do not depend on a layer.
        """
        pieces = [piece for tensor in self.tensors for piece in tensor.by_device]
        found: tuple[Tensor | None, ...] = (None,) * len(pieces)
        if scores.requires_grad:
            kwargs = {"allow_unused": True, **grad_kwargs}
            with torch.enable_grad():
                found = torch.autograd.grad(torch.unbind(scores), pieces, **kwargs)
        gradients = iter(found)
        return [tuple(_required(next(gradients), tensor.name) for _ in tensor.by_device) for tensor in self.tensors]


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Joins what is in pieces, one for each device, on the first of these."""
    tensor: Tensor = _reduce_list(pieces)
    return tensor


def _required(gradient: Tensor | None, layer: str) -> Tensor:
    if gradient is None:
        raise ValueError(
            f"layer: the score at this target does not depend on what {layer} gives to the model, or the graph "
            "between the two is cut (by torch.no_grad or detach). Choose a layer that the score is computed from. "
            "If only one of a layer's tensors is unused, grad_kwargs={'materialize_grads': True} takes its "
            "gradient as zero."
        )
    return gradient


class _Watch:
    """Watches one forward pass: that every layer runs, how often, and that no part of the graph is left out.

    Args:
        layers: The layers, each with its name for messages.
        attribute_to_layer_input: Watch what the layers take, rather than what they return.
        record_from_layers: Switch recording on where a layer is reached, in a pass that begins without.
    """

    def __init__(self, layers: dict[Module, str], attribute_to_layer_input: bool, record_from_layers: bool) -> None:
        self._layers = layers
        self._attribute_to_layer_input = attribute_to_layer_input
        self._record_from_layers = record_from_layers
        self._runs: Counter[tuple[Module, device]] = Counter()
        self._lock = Lock()

    def calls(self, layer: Module) -> int:
        """How often the layer ran; with several devices, on any one of them."""
        return max((n for (ran, _), n in self._runs.items() if ran is layer), default=0)

    def wrap(self, forward_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Adds to `forward_func` the checks that can only be made when it has run."""

        # Captum reads from the signature whether the function takes arguments at all.
        @wraps(forward_func, assigned=(), updated=())
        def forward(*args: Any) -> Tensor:
            output = forward_func(*args)
            missing = [name for layer, name in self._layers.items() if not self.calls(layer)]
            if self._record_from_layers and (missing or not torch.is_grad_enabled()):
                raise RuntimeError("A layer was not reached, or not everything after it was recorded.")
            if missing:
                raise ValueError(f"layer: {missing[0]} does not run when forward_func is called with these inputs.")
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"forward_func: must return a tensor of scores, and returned {type(output).__name__}. "
                    "Wrap it in a function that picks the tensor."
                )
            return output

        return forward

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Keeps the hooks in place. To run before Captum's, they have to be registered before them."""
        handles = [
            layer.register_forward_pre_hook(partial(self._before, layer))
            if self._attribute_to_layer_input
            else layer.register_forward_hook(partial(self._after, layer))
            for layer in self._layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, layer: Module, _: Module, args: tuple[Any, ...]) -> Any:
        if not args:
            raise ValueError(
                f"attribute_to_layer_input: layer {self._layers[layer]} is called with keyword arguments only, and "
                "Captum's hook sees positional ones. Attribute to its output, or to the layer before it."
            )
        return self._reached(layer, args)

    def _after(self, layer: Module, _: Module, _args: Any, output: Any) -> Any:
        return self._reached(layer, output)

    def _reached(self, layer: Module, values: Any) -> Any:
        """Notes that the layer runs, and gives the model a copy of its tensors.

        Captum's hook makes the tensor that it reads require a gradient: that must not be the caller's, as it would
        be at the model's first layer. What the model does in place later must not reach it either.
        """
        tensors = values if isinstance(values, (tuple, list)) else (values,)
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise TypeError(
                    f"layer: {self._layers[layer]} takes or returns {kind}, where attribution needs tensors of "
                    "floating point, alone or in a tuple. Choose a layer within it."
                )
        copies = [tensor.clone() for tensor in tensors]
        with self._lock:
            if self._record_from_layers:
                if self._runs and not torch.is_grad_enabled():
                    raise RuntimeError("Recording was switched off after a layer had switched it on.")
                torch.set_grad_enabled(True)
            self._runs[layer, tensors[0].device] += 1
        if isinstance(values, (tuple, list)):
            return tuple(copies) if isinstance(values, tuple) else copies
        return copies[0]
