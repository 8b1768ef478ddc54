"""Limits what autograd keeps of a forward pass: nothing that it saves before a layer is reached."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum, auto
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from captum_sgcampp._probe.concessions import Attempt, Concession, DiscardedError
from captum_sgcampp._torch import base_of, modified_in_place, version_counter, version_of


class _Phase(Enum):
    """What is going on."""

    MODEL = auto()
    """The model runs. What it differentiates meanwhile is its own affair."""
    GRADIENTS = auto()
    """The attribution takes its gradients."""
    OVER = auto()
    """The pass is over, but its graph is still there if somebody has kept it."""


class _Kept(NamedTuple):
    """A saved tensor."""

    tensor: Tensor
    """The tensor, or a copy."""
    counter: Tensor
    """Shares the version of the tensor itself, and not necessarily its memory."""
    version: int
    """The version that was saved."""


class SavedTensors:
    """Decides which of the tensors that autograd saves for the backward pass are kept.

    The backward pass runs from the score to the layers. What autograd saves before the first of them is reached is
    never needed, and keeping it would take most of the memory. The graph itself is recorded as usual, so nothing else
    is affected. Parameters, buffers and other leaves of the graph are kept in any case, which costs nothing: some
    models cache what they compute from them, with its graph.

    If a discarded tensor is needed after all, the attempt needs a concession. If a kept one was written to, the model
    gets torch's error for its own gradients, and only those of the attribution need one.

    Args:
        attempt: The attempt at the pass. With no hooks conceded, autograd keeps everything.
        buffers: The buffers of the model.
    """

    def __init__(self, attempt: Attempt, buffers: Iterable[Tensor] = ()) -> None:
        self._attempt = attempt
        self._buffers = frozenset(map(id, buffers))
        self._set_hooks = Concession.NO_HOOKS not in attempt.concessions
        self._keep = Concession.KEEP_ALL in attempt.concessions
        self._copy = Concession.KEEP_COPIES in attempt.concessions
        self._phase = _Phase.MODEL
        self._thread = threading.current_thread()

    def keep_from_here(self) -> None:
        """Keeps everything that is saved from now on."""
        self._keep = True

    @contextmanager
    def while_the_model_runs(self) -> Iterator[None]:
        """A context in which these decisions apply to the current thread; other threads keep everything."""
        hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        with hooks if self._set_hooks else nullcontext():
            yield
        self._phase = _Phase.GRADIENTS

    def close(self) -> None:
        """Ends the pass."""
        self._phase = _Phase.OVER

    def _pack(self, tensor: Tensor) -> _Kept | None:
        if not (self._keep or self._is_held_anyway(base_of(tensor))):
            return None
        # Detached, because a tensor held by its own graph would never be freed.
        if self._copy:
            return _Kept(tensor.detach().clone(), version_counter(tensor), version_of(tensor))
        kept = tensor.detach()
        return _Kept(kept, kept, version_of(kept))

    def _is_held_anyway(self, base: Tensor) -> bool:
        """Whether a tensor is a parameter, a buffer or a leaf that gradients are taken at."""
        is_parameter = issubclass(
            type(base), Parameter
        )  # a tenth of the time of isinstance, which also asks the object
        return is_parameter or (base.is_leaf and base.requires_grad) or id(base) in self._buffers

    def _unpack(self, saved: _Kept | None) -> Tensor:
        if saved is None:
            raise self._missing(Concession.KEEP_ALL, DiscardedError())
        version = version_of(saved.counter)
        if version != saved.version:  # torch does not check this if hooks are set
            error = modified_in_place(saved.tensor, version, saved.version)
            if self._phase is not _Phase.GRADIENTS:
                raise error
            if not self._copy:
                raise self._missing(Concession.KEEP_COPIES, error)
        return saved.tensor

    def _missing(self, concession: Concession, error: RuntimeError) -> BaseException:
        """What to raise where a concession is needed: after the pass it comes too late."""
        if self._phase is _Phase.OVER:
            return error
        signal = self._attempt.needs(concession, error)
        return signal if _passes_on(self._thread) else error


def _passes_on(attributing: threading.Thread) -> bool:
    """Whether the current thread passes every exception on to the attributing one.

    Autograd's own threads do so. Those of a model, such as DataParallel's, may do so for an `Exception` alone.
    """
    current = threading.current_thread()
    return current is attributing or isinstance(current, threading._DummyThread)  # noqa: SLF001
