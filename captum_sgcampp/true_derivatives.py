"""Second and third derivatives by automatic differentiation, each by one activation alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ELEMENTS_AT_ONCE = 2**22
"""How many elements of the layer's tensor are differentiated at once, over all positions: it bounds the memory."""


def second_and_third_derivatives(
    activations: Tensor,
    gradients: Tensor,
    positions: Tensor,
    grad_kwargs: dict[str, Any],
    tick: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    r"""Differentiates the gradient twice more, :math:`\partial^2 S / \partial A_i^2` and its third.

    That is the diagonal of the Hessian, and the derivative of each of its elements by the same activation. Both are
    vector-Jacobian products with unit vectors, vectorized over as many positions as memory is spent for.

    Args:
        activations: The layer's tensor, (rows, ...), a leaf of the graph or within it.
        gradients: dS/dA, the same shape, with its graph.
        positions: Flat indices of the activations within a row; P of them, of any shape.
        grad_kwargs: For `torch.autograd.grad`.
        tick: Called with the number of positions done, times the number of rows.

    Returns:
        Second and third derivatives, each (rows, P).
    """
    flat = positions.flatten()
    size = max(1, ELEMENTS_AT_ONCE // max(1, activations.numel()))
    with torch.enable_grad():  # the second derivative's graph is needed for the third
        chunks = [
            _differentiate_twice(activations, gradients, chunk, grad_kwargs, tick) for chunk in torch.split(flat, size)
        ]
    second, third = (torch.cat(parts, dim=1) for parts in zip(*chunks, strict=True))
    return second, third


def _differentiate_twice(
    activations: Tensor,
    gradients: Tensor,
    positions: Tensor,
    grad_kwargs: dict[str, Any],
    tick: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    rows, n_positions = len(activations), len(positions)
    number = torch.arange(n_positions, device=positions.device)

    # One unit vector for each position, in all rows at once: the rows do not depend on each other.
    units = activations.new_zeros(n_positions, rows, activations[0].numel())
    units[number, :, positions] = 1
    units = units.reshape(n_positions, *activations.shape)
    second = _batched_gradient(gradients, activations, units, {**grad_kwargs, "create_graph": True})
    second = second.reshape(n_positions, rows, -1)[number, :, positions]

    identity = torch.eye(n_positions, dtype=second.dtype, device=second.device)
    each = identity.unsqueeze(-1).expand(n_positions, n_positions, rows)
    third = _batched_gradient(second, activations, each, {**grad_kwargs, "retain_graph": True})
    third = third.reshape(n_positions, rows, -1)[number, :, positions]
    if not grad_kwargs.get("create_graph"):
        second, third = second.detach(), third.detach()
    tick(n_positions * rows)
    return second.T, third.T


def _batched_gradient(outputs: Tensor, inputs: Tensor, vectors: Tensor, grad_kwargs: dict[str, Any]) -> Tensor:
    """Vector-Jacobian products with a batch of vectors; zero where the outputs do not depend on the inputs."""
    if not outputs.requires_grad:
        return vectors.new_zeros(len(vectors), *inputs.shape)
    kwargs = {**grad_kwargs, "allow_unused": True, "is_grads_batched": True}
    (products,) = torch.autograd.grad(outputs, inputs, vectors, **kwargs)
    return vectors.new_zeros(len(vectors), *inputs.shape) if products is None else products
