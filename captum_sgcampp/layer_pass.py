"""One pass through the model: its scores, the layers' activations, and the gradients between the two."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import Module, MultiheadAttention
from torch.overrides import TorchFunctionMode

from captum_sgcampp._captum import (
    TargetType,
    _extract_device_ids,
    _reduce_list,
    _run_forward,
    _sort_key_list,
)
from captum_sgcampp._torch import refuses_saved_tensors_hooks, weights_are_cached
from captum_sgcampp.layer_capture import Captured, LayerCapture, OtherThreadError
from captum_sgcampp.layers import layer_name
from captum_sgcampp.saved_tensors import SavedTensors
from captum_sgcampp.targets import select_scores

Result = TypeVar("Result")


class LayerTensor(NamedTuple):
    """A tensor that a layer took or returned in a forward pass."""

    layer: Module
    name: str
    """The layer's name, for messages."""
    calls: int
    """The number of times that the layer ran in that pass; the tensor is that of the last run."""
    by_device: tuple[Captured, ...]
    """The tensor, in one piece for each device that the model is spread over."""


@dataclass(frozen=True, eq=False)
class LayerPass:
    """One forward pass: the model's output, and the tensors of the layers."""

    output: Tensor
    """What the model returned."""
    tensors: list[LayerTensor]
    """The tensors of all layers, in the order of the layers."""

    def activations(self) -> list[Tensor]:
        """The values that the layers took or returned, joined over devices in the order of the examples."""
        return [joined([captured.value for captured in tensor.by_device]) for tensor in self.tensors]

    def scores(self, target: TargetType) -> Tensor:
        """Selects the class score S of each example, as Captum selects targets.

        Raises:
            AssertionError: The target does not fit the output, or leaves several scores for an example.
        """
        return select_scores(self.output, target)

    def gradients(self, scores: Tensor, grad_kwargs: dict[str, Any]) -> list[tuple[Tensor, ...]]:
        """Takes the gradients g = dS/dA of each example's score at each tensor, by device.

        Args:
            scores: What :meth:`scores` returned.
            grad_kwargs: Passed on to `torch.autograd.grad`.

        Raises:
            ValueError: The scores do not depend on a layer.
        """
        edges = [captured.live_edge() for tensor in self.tensors for captured in tensor.by_device]
        options = {"allow_unused": True, **grad_kwargs}
        fill_with_zeros = options.pop("materialize_grads", False)  # torch fills them in for tensors, not for edges
        found = iter(_gradients_at(scores, edges, options))
        zeros_on = scores.device if fill_with_zeros else None
        return [
            tuple(_gradient_or_zeros(next(found), captured, tensor.name, zeros_on) for captured in tensor.by_device)
            for tensor in self.tensors
        ]


class _WrittenViewError(Exception):
    """The layer's tensor is a view, and the model writes into its memory afterwards."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f"layer: {layer} takes or returns a view, and the model modifies its memory in place and reads it "
            "elsewhere; the gradient of what follows would be lost. Choose the layer before or after it."
        )


class LayerProbe:
    """Runs the model and captures the tensors of layers.

    Args:
        forward_func: The model, or a function that calls it.
        layers: The layers to capture.
        device_ids: For DataParallel, as in Captum's attribution methods.
        attribute_to_layer_input: Capture what the layers take, rather than what they return.
        keep_graph: Keep the whole graph, for derivatives of the attribution itself.
        read_scores: Picks the scores out of what the model returns, if that is not a tensor.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layers: Sequence[Module],
        *,
        device_ids: list[int] | None = None,
        attribute_to_layer_input: bool = False,
        keep_graph: bool = False,
        read_scores: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        self._forward_func = forward_func
        self._read_scores = read_scores
        self._layers = {layer: layer_name(forward_func, layer) for layer in layers}
        self._device_ids = device_ids
        self._attribute_to_layer_input = attribute_to_layer_input
        self._keep_graph = keep_graph
        self._weights = (
            [*forward_func.parameters(), *forward_func.buffers()] if isinstance(forward_func, Module) else []
        )
        self._older_threads = set(threading.enumerate())
        # What one pass finds necessary for this model is kept for the passes that follow.
        self._without_hooks = keep_graph or weights_are_cached()
        self._keep_all = False
        self._keep_copies = False
        self._copy_views = False
        self._copies_are_verified = False
        self._other_threads = False

    def run(
        self,
        inputs: tuple[Tensor, ...],
        forward_args: tuple[Any, ...],
        compute: Callable[[LayerPass], Result],
        *,
        with_activations: bool = False,
    ) -> Result:
        """Runs the model once, recording its graph as Captum does, and returns what `compute` returns for the pass.

        If gradients need something that was not kept (see :class:`SavedTensors`), the model runs again and keeps it,
        and `compute` is called again too.

        Args:
            inputs: The inputs.
            forward_args: What follows the inputs.
            compute: Computes the result from the pass, gradients included. The graph is freed afterwards.
            with_activations: Keep the activations, which costs a copy. Otherwise only their shapes are kept.

        Raises:
            ValueError: A layer does not run, or is called without a positional argument to attribute to.
            TypeError: The model does not return a tensor, or a layer has something other than floating-point tensors.
        """
        while True:
            saved = None if self._without_hooks else self._saved_tensors()
            try:
                result = self._run(inputs, forward_args, compute, with_activations, saved)
            except _WrittenViewError as error:
                if self._copy_views:
                    raise ValueError(str(error)) from None
                self._copy_views = True
            except OtherThreadError:
                self._other_threads = True
            except Exception as error:
                if saved and refuses_saved_tensors_hooks(error):
                    self._without_hooks = True
                elif not (saved and self._must_repeat(saved)):
                    raise
            else:
                if not (saved and self._must_repeat(saved)):  # otherwise the model caught the error
                    return result

    @property
    def modules(self):
        return list(self._forward_func.modules()) if isinstance(self._forward_func, Module) else []

    def restorable(self):
        saved = [(b, b.detach().clone()) for m in self.modules if m.training for b in m.buffers(recurse=False)]

        def undo():
            with torch.no_grad():
                for b, v in saved:
                    b.copy_(v)

        return undo

    def _saved_tensors(self) -> SavedTensors:
        return SavedTensors(self._weights, keep=self._keep_all, copy=self._keep_copies)

    def _must_repeat(self, saved: SavedTensors) -> bool:
        """Whether a pass needed a tensor that was discarded or overwritten. If so, the next pass keeps it."""
        self._keep_all |= saved.missed
        self._keep_copies |= saved.overwritten
        return saved.missed or saved.overwritten

    def _run(
        self,
        inputs: tuple[Tensor, ...],
        forward_args: tuple[Any, ...],
        compute: Callable[[LayerPass], Result],
        with_activations: bool,
        saved: SavedTensors | None,
    ) -> Result:
        capture = LayerCapture(
            self._layers,
            attribute_to_layer_input=self._attribute_to_layer_input,
            with_values=with_activations,
            keep_graph=self._keep_graph,
            older_threads=self._older_threads,
            copy_views=self._copy_views,
            other_threads=self._other_threads,
            on_reached=saved.keep_from_here if saved else lambda: None,
        )
        with torch.inference_mode(False), torch.enable_grad():
            try:
                with capture.hooks():  # also during gradients: a checkpoint then runs layers again
                    with saved.hooks() if saved else nullcontext(), _unfused(self._forward_func):
                        output = self._checked_call(capture, inputs, forward_args)
                    return compute(LayerPass(output, self._layer_tensors(capture)))
            finally:
                capture.restore()

    def _checked_call(self, capture: LayerCapture, inputs: tuple[Tensor, ...], forward_args: tuple[Any, ...]) -> Tensor:
        """Calls the model, and raises if it writes into captured views."""
        plain = None
        if self._copy_views and not self._copies_are_verified:
            devices = {tensor.device.index for tensor in inputs if tensor.is_cuda}
            with capture.paused(), torch.random.fork_rng(devices):
                plain = self._read_scores(_call(self._forward_func, inputs, forward_args)).detach()
        try:
            output: Tensor = _call(capture.checked(self._forward_func, self._read_scores), inputs, forward_args)
        except RuntimeError as error:
            layer = capture.attached_view()
            if layer and "in-place operation" in str(error):
                raise _WrittenViewError(layer) from error
            raise
        layer = capture.written_view()
        if layer or (plain is not None and not _equal_up_to_rounding(output, plain)):
            raise _WrittenViewError(layer or next(iter(self._layers.values())))
        self._copies_are_verified = self._copy_views
        return output

    def _layer_tensors(self, capture: LayerCapture) -> list[LayerTensor]:
        runs: dict[Module, Any] = {layer: capture.last_runs(layer) for layer in self._layers}
        devices = _sort_key_list(
            list(next(iter(runs.values()))), _extract_device_ids(self._forward_func, runs, self._device_ids)
        )
        return [
            LayerTensor(layer, name, capture.calls(layer), by_device)
            for layer, name in self._layers.items()
            for by_device in zip(*(runs[layer][key] for key in devices), strict=True)
        ]


def _call(forward_func: Callable[..., Any], inputs: tuple[Tensor, ...], forward_args: tuple[Any, ...]) -> Any:
    """Calls the model, as Captum does, with copies of the inputs, which some models write into."""
    copies = tuple(tensor.clone() for tensor in inputs)
    output: Any = _run_forward(forward_func, copies, additional_forward_args=forward_args)
    return output


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Joins the pieces of several devices on the first one."""
    tensor: Tensor = _reduce_list(pieces)
    return tensor


def _gradients_at(scores: Tensor, edges: Sequence[GradientEdge | None], options: dict[str, Any]) -> list[Tensor | None]:
    """The gradients at the edges; None for those that do not exist or that the scores do not depend on."""
    known = [edge for edge in edges if edge is not None]
    if not known or not scores.requires_grad:
        return [None] * len(edges)
    found = iter(torch.autograd.grad(torch.unbind(scores), known, **options))
    return [None if edge is None else next(found) for edge in edges]


def _gradient_or_zeros(
    gradient: Tensor | None, captured: Captured, layer: str, zeros_on: torch.device | None
) -> Tensor:
    if gradient is not None:
        return gradient
    if zeros_on is not None:
        return torch.zeros(captured.value.shape, dtype=captured.value.dtype, device=zeros_on)
    raise ValueError(
        f"layer: the score at this target does not depend on the tensor of {layer}, or the graph between the two "
        "is cut (by torch.no_grad or detach). Choose a layer that the score is computed from. If only one of a "
        "layer's tensors is unused, grad_kwargs={'materialize_grads': True} treats its gradient as zero."
    )


def _equal_up_to_rounding(output: Tensor, plain: Tensor) -> bool:
    """Whether two outputs are equal up to rounding."""
    finite = plain.isfinite()
    if not torch.equal(finite, output.isfinite()):
        return False
    difference, size = (output - plain)[finite].abs(), plain[finite].abs()
    return not size.numel() or bool(difference.max() <= 64 * torch.finfo(plain.dtype).eps * size.max())


def _unfused(forward_func: Callable[..., Any]) -> AbstractContextManager[object]:
    """Keeps frozen nn.MultiheadAttention and nn.TransformerEncoder off their fused path, in this thread only.

    The fused path skips inner layers and treats padded positions differently. These modules avoid it if torch's
    functions are overridden, even by overrides without effect.
    """
    modules = forward_func.modules() if isinstance(forward_func, Module) else ()
    frozen = any(
        isinstance(module, MultiheadAttention) and not any(weight.requires_grad for weight in module.parameters())
        for module in modules
    )
    return _Overridden() if frozen else nullcontext()


class _Overridden(TorchFunctionMode):
    """Overrides torch's functions without effect."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))
