"""Captures the tensors of layers during a forward pass."""

import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock, Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor, device
from torch.nn import Module

from captum_sgcampp._probe.captured import Captured, GraphTensors
from captum_sgcampp._probe.concessions import Concession, Concessions
from captum_sgcampp._probe.tensor_kinds import unsuitable
from captum_sgcampp._torch import is_replica, is_view, version_of


class LayerRun(NamedTuple):
    """One run of a layer."""

    thread: Thread
    """The thread that it ran in."""
    module: Module
    """The module that ran: the layer, or a replica of it."""
    tensors: tuple[Captured, ...]
    """What the layer took or returned."""
    device: device
    """The device of the first of these tensors."""


class LayerCapture:
    """Captures the tensors of layers during one forward pass.

    The layer's own tensor is captured and the model continues with it, so that every use of it counts: by the next
    layer, by a skip connection, or by another library's hook. Its gradient is taken at its edge in the graph right
    after the layer, so later in-place operations do not matter. Views are the exception: they lose their edge
    with the first in-place operation on the memory that they share (see :meth:`written_view`).

    Hooks belong to a module and run in every thread that uses it. Runs are captured in the attributing thread, in the
    threads of `DataParallel`, and if that is conceded in those that the model has started since.

    Args:
        layers: The layers, each with its name for messages.
        attribute_to_layer_input: Capture what the layers take, rather than what they return.
        with_values: Keep the values, which costs a copy.
        keep_graph: Keep the values' graph.
        older_threads: The threads whose runs are never captured.
        concessions: What the pass concedes. With copies of views, the model continues with a copy if the layer's tensor
            is a view, as Captum does with all tensors. Threads started since may not belong to the model.
        on_reached: Called when a layer is reached.
    """

    def __init__(
        self,
        layers: dict[Module, str],
        *,
        attribute_to_layer_input: bool,
        with_values: bool,
        keep_graph: bool,
        older_threads: set[Thread],
        concessions: Concessions,
        on_reached: Callable[[], object],
    ) -> None:
        self._layers = layers
        self._attribute_to_layer_input = attribute_to_layer_input
        self._tensors = GraphTensors(with_values=with_values, keep_graph=keep_graph)
        self._copy_views = Concession.COPY_VIEWS in concessions
        self._on_reached = on_reached
        self._thread = threading.current_thread()
        self._lock = Lock()
        self._runs: dict[Module, list[LayerRun]] = defaultdict(list)
        self._older_threads = older_threads - {self._thread}
        self._other_threads = Concession.OTHER_THREADS in concessions
        self._refusal: Exception | None = None
        self._reached_elsewhere: set[Module] = set()
        self._reached_by_older: set[Module] = set()
        self._paused = False
        self._views: list[tuple[str, Tensor, int]] = []

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """A context in which the hooks are registered."""
        with ExitStack() as stack:
            for layer, name in self._layers.items():
                try:
                    handle = (
                        layer.register_forward_pre_hook(_eager(partial(self._before, layer)))
                        if self._attribute_to_layer_input
                        else layer.register_forward_hook(_eager(partial(self._after, layer)))
                    )
                except RuntimeError as error:  # from torch.jit
                    raise ValueError(
                        f"layer: {name} takes no hooks ({error}). Choose a layer that is not scripted."
                    ) from error
                stack.callback(handle.remove)
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which the hooks do nothing."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def require_accepted(self) -> None:
        """Raises the error again with which a layer's tensor was refused, in case the model has caught it."""
        if self._refusal:
            raise self._refusal

    def has_run(self, layer: Module) -> bool:
        """Whether a run of the layer was captured."""
        return bool(self._runs[layer])

    def ran_in_new_thread(self, layer: Module) -> bool:
        """Whether the layer ran in a thread that was started since."""
        return layer in self._reached_elsewhere

    def ran_in_older_thread(self, layer: Module) -> bool:
        """Whether the layer ran in another thread that was there before."""
        return layer in self._reached_by_older

    def calls(self, layer: Module) -> int:
        """The number of times that the layer ran; with DataParallel, on one device."""
        return max(Counter(run.thread for run in self._own_runs(layer)).values())

    def last_runs(self, layer: Module) -> dict[device, tuple[Captured, ...]]:
        """The layer's tensors by device: of its last run, or of the last one on each DataParallel device.

        Raises:
            RuntimeError: Several threads or replicas ran the layer on the same device.
        """
        runs = self._own_runs(layer)
        if runs[-1].thread is self._thread:
            return {runs[-1].device: runs[-1].tensors}
        if len({(run.thread, run.module) for run in runs}) > len({run.device for run in runs}):
            raise RuntimeError(
                f"layer: {self._layers[layer]} runs in several threads on one device, and it is unknown which of them "
                "belong to this attribution. Attribute in one thread at a time."
            )
        return {run.device: run.tensors for run in runs}

    def _own_runs(self, layer: Module) -> list[LayerRun]:
        """The runs in the attributing thread, or if there are none, those in threads started since."""
        runs = self._runs[layer]
        return [run for run in runs if run.thread is self._thread] or runs

    def written_view(self) -> str | None:
        """The name of a layer whose tensor is a view of memory that has been written to since.

        The gradient of what follows then does not reach the captured edge.
        """
        return next((name for name, view, version in self._views if version_of(view) != version), None)

    def attached_view(self) -> str | None:
        """The name of a layer whose tensor is a view and has become a leaf of the graph, which cannot be written to."""
        return next((name for name, view, _ in self._views if self._tensors.is_attached(view)), None)

    def _before(self, layer: Module, module: Module, args: tuple[Any, ...]) -> Any:
        if not self._should_capture(layer, module):
            return None
        if not args:
            raise self._refused(
                ValueError(
                    f"attribute_to_layer_input: layer {self._layers[layer]} is called with keyword arguments only; its "
                    "input is captured from positional ones. Attribute to its output, or to the layer before it."
                )
            )
        return self._capture_run(layer, module, args)

    def _after(self, layer: Module, module: Module, _args: Any, output: Any) -> Any:
        return self._capture_run(layer, module, output) if self._should_capture(layer, module) else None

    def _refused(self, error: Exception) -> Exception:
        """Remembers an error that the model may catch."""
        self._refusal = self._refusal or error
        return error

    def _should_capture(self, layer: Module, module: Module) -> bool:
        """Whether to capture a run in the current thread."""
        thread = threading.current_thread()
        if self._paused:
            return False
        if thread is self._thread or is_replica(module):
            return True
        if not torch.is_grad_enabled():
            return False
        if thread in self._older_threads:
            self._reached_by_older.add(layer)
            return False
        self._reached_elsewhere.add(layer)
        return self._other_threads

    def _capture_run(self, layer: Module, module: Module, values: Any) -> Any:
        """Captures the layer's tensors. Returns what the model continues with, or None to leave it unchanged."""
        tensors = values if isinstance(values, (tuple, list)) else (values,)
        self._require_tensors(layer, tensors)
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():  # also where the model has switched it off, as Captum's hook does
            captured = tuple(self._tensors.capture(tensor, recorded=recorded) for tensor in tensors)
            passed_on = [tensor.clone() if self._copy_views and is_view(tensor) else tensor for tensor in tensors]
        with self._lock:
            self._runs[layer].append(LayerRun(threading.current_thread(), module, captured, tensors[0].device))
            self._views += [
                (self._layers[layer], tensor, version_of(tensor))
                for tensor in tensors
                if is_view(tensor) and not tensor.is_inference()
            ]
        self._on_reached()
        if not self._copy_views:
            return None
        if not isinstance(values, (tuple, list)):
            return passed_on[0]
        return type(values)(*passed_on) if hasattr(values, "_fields") else type(values)(passed_on)

    def _require_tensors(self, layer: Module, tensors: Sequence[Any]) -> None:
        name = self._layers[layer]
        if not tensors:
            raise self._refused(
                TypeError(f"layer: {name} takes or returns an empty tuple. Choose a layer with a tensor.")
            )
        for tensor in tensors:
            kind = unsuitable(tensor)
            if kind:
                raise self._refused(
                    TypeError(
                        f"layer: {name} takes or returns {kind}, where attribution needs a floating-point "
                        "tensor or a tuple of them. Choose a layer inside it, or before or after it."
                    )
                )
            if not tensor.dim():
                raise self._refused(ValueError(f"layer: {name} has shape (), where (N, C, *spatial) is needed."))

    def restore(self) -> None:
        """Leaves the layers' tensors as they were."""
        self._refusal = None  # whose traceback holds the pass
        self._tensors.restore()


def _eager(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps torch.compile from tracing a hook. Nothing is compiled unless its modules are imported."""
    return torch.compiler.disable(hook) if "torch._dynamo" in sys.modules else hook  # type: ignore[no-untyped-call]
