"""Limits what autograd keeps of a forward pass: nothing that it saves before a layer is reached."""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from captum_sgcampp._torch import base_of, version_of


class DiscardedError(RuntimeError):
    """A backward pass needs a tensor that was discarded or overwritten.

    :class:`SavedTensors` records this, and the pass is repeated. Callers get it only if they use the graph of a
    finished pass.
    """


class SavedTensors:
    """Decides which of the tensors that autograd saves for the backward pass are kept.

    The backward pass runs from the score to the layers. What autograd saves before the first of them is reached is
    never needed, and keeping it would take most of the memory. The graph itself is recorded as usual, so nothing else
    is affected. Parameters and buffers are kept in any case, which costs nothing: some models cache what they compute
    from them, with its graph.

    Args:
        weights: The parameters and buffers of the model.
        keep: Keep everything.
        copy: Keep copies, so that later in-place operations do not matter.

    Attributes:
        missed: Whether a discarded tensor turned out to be needed: the model takes gradients of its own below the
            layers, or a checkpoint surrounds them. The pass must be repeated with everything kept.
        overwritten: Whether a kept tensor has been written to since, as by models made only for inference. The pass
            must be repeated with copies.
    """

    def __init__(self, weights: Iterable[Tensor] = (), *, keep: bool = False, copy: bool = False) -> None:
        self.missed = False
        self.overwritten = False
        self._weights = frozenset(map(id, weights))
        self._keep = keep
        self._copy = copy

    def keep_from_here(self) -> None:
        """Keeps everything that is saved from now on."""
        self._keep = True

    def hooks(self) -> AbstractContextManager[None]:
        """A context in which these decisions apply to the current thread; other threads keep everything."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> tuple[Tensor, int] | None:
        if not self._keep and id(base_of(tensor)) not in self._weights:
            return None
        # Detached, because a tensor held by its own graph would never be freed.
        kept = tensor.detach().clone() if self._copy and self._keep else tensor.detach()
        return kept, version_of(kept)

    def _unpack(self, saved: tuple[Tensor, int] | None) -> Tensor:
        if saved is None:
            self.missed = True
            raise DiscardedError(
                "This backward pass goes through a forward pass run by captum_sgcampp, which kept nothing below the "
                "layers. If the model keeps tensors between calls, clear them, or call it once before you "
                "attribute."
            )
        tensor, version = saved
        if version_of(tensor) != version:  # torch does not check this if hooks are set
            self.overwritten = True
            raise DiscardedError(
                "One of the variables needed for gradient computation has been modified by an inplace operation: a "
                f"tensor of shape {tuple(tensor.shape)} is at version {version_of(tensor)}; expected version {version}."
            )
        return tensor
