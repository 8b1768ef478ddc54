"""One forward pass that is over: its scores, the layers' tensors, and the gradients between the two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import Module

from captum_sgcampp._captum import TargetType, _reduce_list
from captum_sgcampp._probe.captured import Captured
from captum_sgcampp._probe.targets import select_scores


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
        for tensor in self.tensors:
            if any(captured.checkpointed for captured in tensor.by_device) and not fill_with_zeros:
                raise ValueError(
                    f"layer: the score at this target does not depend on the tensor of {tensor.name}, because the "
                    "model runs it in a reentrant checkpoint, which does not record it. Choose a layer outside it, or "
                    "call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
                )
        found = iter(_gradients_at(scores, edges, options))
        return [
            tuple(
                _gradient_or_zeros(next(found), captured, tensor.name, scores, fill_with_zeros)
                for captured in tensor.by_device
            )
            for tensor in self.tensors
        ]


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Joins the pieces of several devices on the first one."""
    tensor: Tensor = _reduce_list(pieces)
    return tensor


def _gradients_at(scores: Tensor, edges: Sequence[GradientEdge | None], options: dict[str, Any]) -> list[Tensor | None]:
    """The gradients at the edges; None for those that do not exist or that the scores do not depend on."""
    known = [edge for edge in edges if edge is not None]
    if not known or not scores.requires_grad:
        return [None] * len(edges)
    try:
        found = iter(torch.autograd.grad(torch.unbind(scores), known, **options))
    except RuntimeError as error:
        if "cudnn RNN backward" not in str(error):
            raise
        raise RuntimeError(
            f"forward_func: {error}. In evaluation mode, cuDNN keeps nothing of recurrent layers for gradients; "
            "attribute within torch.backends.cudnn.flags(enabled=False)."
        ) from error
    return [None if edge is None else next(found) for edge in edges]


def _gradient_or_zeros(
    gradient: Tensor | None, captured: Captured, layer: str, scores: Tensor, fill_with_zeros: bool
) -> Tensor:
    if gradient is not None:
        return gradient
    if fill_with_zeros:
        return torch.zeros(captured.value.shape, dtype=captured.value.dtype, device=scores.device)
    raise ValueError(
        f"layer: the score at this target does not depend on the tensor of {layer}, or the graph between the two "
        "is cut (by torch.no_grad or detach). Choose a layer that the score is computed from. If only one of a "
        "layer's tensors is unused, grad_kwargs={'materialize_grads': True} treats its gradient as zero."
    )
