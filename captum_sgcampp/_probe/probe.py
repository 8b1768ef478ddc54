"""Runs the model, and again where it needs a concession."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module, MultiheadAttention

from captum_sgcampp._captum import _extract_device_ids, _run_forward, _sort_key_list
from captum_sgcampp._models.closures import modules_of
from captum_sgcampp._models.unreached_layers import reason
from captum_sgcampp._probe.capture import LayerCapture
from captum_sgcampp._probe.concessions import Attempt, Concession, ConcessionNeeded, Concessions, chain_of
from captum_sgcampp._probe.layer_pass import LayerPass, LayerTensor
from captum_sgcampp._probe.outputs import require_consumed, require_scores
from captum_sgcampp._probe.pass_state import PassState
from captum_sgcampp._probe.rounding import ROUNDING, relative_difference
from captum_sgcampp._probe.saved_tensors import SavedTensors
from captum_sgcampp._probe.unfused import unfused
from captum_sgcampp._torch import refuses_saved_tensors_hooks, weights_are_cached
from captum_sgcampp.layers import layer_name

Result = TypeVar("Result")


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
        self._roots = modules_of(forward_func)
        self._modules = list(dict.fromkeys(module for root in self._roots for module in root.modules()))
        self._buffers = [buffer for root in self._roots for buffer in root.buffers()]
        self._attention = [module for module in self._modules if isinstance(module, MultiheadAttention)]
        self._older_threads = set(threading.enumerate())
        # What one pass finds necessary for this model is kept for the passes that follow.
        keep_all = keep_graph or weights_are_cached()
        self._concessions = Concessions(frozenset({Concession.NO_HOOKS}) if keep_all else frozenset())
        self._copies_are_verified = False

    @property
    def modules(self) -> list[Module]:
        """The modules that the model may run, each by itself: not those within it."""
        return self._modules

    def restorable(self, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
        """Remembers what a pass changes, and returns a function that undoes it, before the model runs again.

        These are the buffers of modules in training mode, such as the running statistics of batch normalization, and
        the state of torch's random numbers.

        Args:
            inputs: The inputs of the pass.
        """
        return PassState(self._modules, inputs).restore

    def run(
        self,
        inputs: tuple[Tensor, ...],
        forward_args: tuple[Any, ...],
        compute: Callable[[LayerPass], Result],
        *,
        with_activations: bool = False,
    ) -> Result:
        """Runs the model once, recording its graph as Captum does, and returns what `compute` returns for the pass.

        If the model turns out to need a :class:`Concession`, it runs again with it, and `compute` is called again too.
        There are at most as many repetitions as concessions. Nothing else starts one: all other errors are raised.

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
            restore = self.restorable(inputs)
            attempt = Attempt(self._concessions)
            try:
                return self._run(attempt, inputs, forward_args, compute, with_activations)
            except ConcessionNeeded as needed:
                if needed.attempt is not attempt:
                    raise
                self._concessions = attempt.concessions.with_(needed)
            restore()

    def _run(
        self,
        attempt: Attempt,
        inputs: tuple[Tensor, ...],
        forward_args: tuple[Any, ...],
        compute: Callable[[LayerPass], Result],
        with_activations: bool,
    ) -> Result:
        """Runs the model once, and raises a :class:`ConcessionNeeded` if the attempt needs one."""
        saved = SavedTensors(attempt, self._buffers)
        capture = LayerCapture(
            self._layers,
            attribute_to_layer_input=self._attribute_to_layer_input,
            with_values=with_activations,
            keep_graph=self._keep_graph,
            older_threads=self._older_threads,
            concessions=attempt.concessions,
            on_reached=saved.keep_from_here,
        )
        with torch.inference_mode(False), torch.enable_grad():
            try:
                with capture.hooks():  # also during gradients: a checkpoint then runs layers again
                    with saved.while_the_model_runs(), unfused(self._attention):
                        plain, returned = self._outputs(attempt, capture, inputs, forward_args)
                    attempt.require_enough()  # before anything is made of what a model does that caught the signal
                    output = self._checked(attempt, capture, plain, returned)
                    result = compute(LayerPass(output, self._layer_tensors(capture)))
                    attempt.require_enough()
                    return result
            except Exception as error:
                has_hooks = Concession.NO_HOOKS not in attempt.concessions
                if has_hooks and any(map(refuses_saved_tensors_hooks, chain_of(error))):
                    raise attempt.needs(Concession.NO_HOOKS, error) from error
                if attempt.is_behind(error):
                    attempt.require_enough()
                raise
            finally:
                capture.restore()
                saved.close()

    def _outputs(
        self, attempt: Attempt, capture: LayerCapture, inputs: tuple[Tensor, ...], forward_args: tuple[Any, ...]
    ) -> tuple[Tensor | None, Any]:
        """Calls the model, where views are copied first without, to compare, until they have been found to be right."""
        plain = None
        if Concession.COPY_VIEWS in attempt.concessions and not self._copies_are_verified:
            restore = self.restorable(inputs)
            with capture.paused():
                plain = self._read_scores(_call(self._forward_func, inputs, forward_args)).detach()
            restore()
        try:
            return plain, _call(self._forward_func, inputs, forward_args)
        except RuntimeError as error:
            layer = capture.attached_view()
            if layer and "in-place operation" in str(error):
                raise _written_view(attempt, layer) from error
            raise

    def _checked(self, attempt: Attempt, capture: LayerCapture, plain: Tensor | None, returned: Any) -> Tensor:
        """The scores in what the model returned. Raises if layers did not run, or it has written into their views."""
        capture.require_accepted()
        require_consumed(returned)
        scores = self._read_scores(returned)
        self._require_runs(attempt, capture)
        output = require_scores(scores)
        layer = capture.written_view()
        if layer or (plain is not None and not _equal_up_to_rounding(output, plain)):
            raise _written_view(attempt, layer or next(iter(self._layers.values())))
        self._copies_are_verified = Concession.COPY_VIEWS in attempt.concessions
        return output

    def _require_runs(self, attempt: Attempt, capture: LayerCapture) -> None:
        """Raises if a layer has not run."""
        for layer, name in self._layers.items():
            if capture.has_run(layer):
                continue
            why = (
                " It runs in a thread that was started earlier; let the model start its threads in each call."
                if capture.ran_in_older_thread(layer)
                else reason(self._forward_func, self._roots)
            )
            error = ValueError(f"layer: {name} does not run when forward_func is called with these inputs.{why}")
            if capture.ran_in_new_thread(layer):
                raise attempt.needs(Concession.OTHER_THREADS, error)
            raise error

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


def _written_view(attempt: Attempt, layer: str) -> ConcessionNeeded:
    return attempt.needs(
        Concession.COPY_VIEWS,
        ValueError(
            f"layer: {layer} takes or returns a view, and the model modifies its memory in place and reads it "
            "elsewhere; the gradient of what follows would be lost. Choose the layer before or after it."
        ),
    )


def _call(forward_func: Callable[..., Any], inputs: tuple[Tensor, ...], forward_args: tuple[Any, ...]) -> Any:
    """Calls the model, as Captum does, with copies of the inputs, which some models write into."""
    copies = tuple(tensor.clone() for tensor in inputs)
    output: Any = _run_forward(forward_func, copies, additional_forward_args=forward_args)
    return output


def _equal_up_to_rounding(output: Tensor, plain: Tensor) -> bool:
    """Whether two outputs are equal up to rounding."""
    return relative_difference([output], [plain]) <= ROUNDING * torch.finfo(plain.dtype).eps
