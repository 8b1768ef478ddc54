"""A layer's tensor in the graph of a pass, and the edge at which its gradient is taken."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from captum_sgcampp._torch import gradient_edge, in_reentrant_checkpoint, is_view, preserved_version, version_of


@dataclass(frozen=True, eq=False)
class Captured:
    """A tensor that a layer took or returned, on one device."""

    value: Tensor
    """Its value when the layer ran; on the device "meta" if values are not kept."""
    edge: GradientEdge | None
    """The edge of the graph at which its gradient is taken. None if it cannot have a gradient."""
    unrecorded: tuple[Tensor, int] | None = None
    """The tensor itself and its version, if the model records no graph, which then lacks later in-place operations."""
    checkpointed: bool = False
    """Whether that is because a reentrant checkpoint surrounds the layer."""

    def live_edge(self) -> GradientEdge | None:
        """The edge, unless unrecorded operations have changed the tensor."""
        if self.unrecorded and version_of(self.unrecorded[0]) != self.unrecorded[1]:
            return None
        return self.edge


class GraphTensors:
    """The tensors of a pass that are part of its graph, if need be because they are attached to it.

    Args:
        with_values: Keep the values, which costs a copy.
        keep_graph: Keep the values' graph.
    """

    def __init__(self, *, with_values: bool, keep_graph: bool) -> None:
        self._with_values = with_values
        self._keep_graph = keep_graph
        self._attached: list[Tensor] = []

    def capture(self, tensor: Tensor, *, recorded: bool) -> Captured:
        """Captures a tensor.

        Args:
            tensor: The tensor.
            recorded: Whether the model records a graph.
        """
        if not self._with_values:
            value = torch.empty_like(tensor, device="meta")
        else:
            value = tensor.clone() if self._keep_graph else tensor.detach().clone()
        if tensor.is_inference():  # autograd cannot use it
            return Captured(value, None)
        if not tensor.requires_grad:
            self._attach(tensor)
        if recorded:
            return Captured(value, gradient_edge(tensor))
        return Captured(value, gradient_edge(tensor), (tensor, version_of(tensor)), in_reentrant_checkpoint())

    def is_attached(self, tensor: Tensor) -> bool:
        """Whether a tensor was attached to the graph."""
        return any(tensor is attached for attached in self._attached)

    def _attach(self, tensor: Tensor) -> None:
        """Adds a tensor to the graph, which it is not part of if everything below the layer is frozen.

        The tensor itself is changed, until :meth:`restore`, so that every use counts, not only the next layer's.
        """
        if is_view(tensor):
            tensor.requires_grad_()
        else:
            with preserved_version(tensor):
                _Attach.apply(tensor, tensor.new_zeros(()).requires_grad_())
        self._attached.append(tensor)

    def restore(self) -> None:
        """Removes the attached tensors from the graph."""
        for tensor in self._attached:
            if not is_view(tensor):
                tensor.detach_()
            elif tensor.is_leaf:
                tensor.requires_grad_(False)


class _Attach(torch.autograd.Function):
    """Makes a tensor the output of a node without changing its value.

    A leaf that requires gradients would also do, but the model could not write to it in place.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, _anchor: Tensor) -> Tensor:
        ctx.mark_dirty(tensor)
        return tensor

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
