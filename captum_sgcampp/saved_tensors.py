"""What autograd keeps of a forward pass: nothing that it saves before a layer is reached."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from captum_sgcampp._torch import version_of


class DiscardedError(Exception):
    """A backward pass needs a tensor that was not kept as it was.

    :class:`SavedTensors` records this, and the pass is repeated; callers see it only where they use the graph of a
    pass that is over.
    """


class SavedTensors:
    """Decides which of the tensors that autograd saves for the backward pass are kept.

    The backward pass runs from the score to the layers. What autograd saves before the first of them is reached is
    never needed, and keeping it would make up most of the memory. The graph itself is recorded as always, so that
    nobody else notices.

    Args:
        copy: Keep copies, which later in-place operations do not reach.

    Attributes:
        missed: Whether a discarded tensor turned out to be needed: the model takes gradients of its own below the
            layers, or a checkpoint surrounds them. The pass has to be repeated with everything kept.
        overwritten: Whether a tensor that was kept has been written to since, as models do that are made for
            inference alone. The pass has to be repeated with copies.
    """

    def __init__(self, *, copy: bool = False) -> None:
        self.missed = False
        self.overwritten = False
        self._copy = copy
        self._keep = False

    def keep_from_here(self) -> None:
        """Keeps all that is saved from now on."""
        self._keep = True

    def hooks(self) -> AbstractContextManager[None]:
        """Applies to what the current thread saves within the context; other threads keep everything."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> tuple[Tensor, int] | None:
        if not self._keep:
            return None
        # Detached: a tensor that its own graph holds would never be freed.
        kept = tensor.detach().clone() if self._copy else tensor.detach()
        return kept, version_of(kept)

    def _unpack(self, saved: tuple[Tensor, int] | None) -> Tensor:
        if saved is None:
            self.missed = True
            raise DiscardedError("This tensor was saved below the layers and not kept.")
        tensor, version = saved
        if version_of(tensor) != version:  # torch checks this only where there are no hooks
            self.overwritten = True
            raise DiscardedError("This tensor has been modified by an in-place operation since it was saved.")
        return tensor
