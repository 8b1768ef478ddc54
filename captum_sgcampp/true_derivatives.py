"""Second and third derivatives by automatic differentiation, each with respect to one activation alone."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

POSITIONS_AT_ONCE = 8
"""At most so many positions are differentiated at once: memory and work grow with the square of their number."""


def second_and_third_derivatives(
    activations: GradientEdge,
    gradients: Tensor,
    indices: Tensor,
    grad_kwargs: dict[str, Any],
    tick: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    r"""Differentiates the gradient twice more, :math:`\partial^2 S / \partial A_i^2` and its third.

    That is the diagonal of the Hessian, and the derivative of each of its elements with respect to the same activation:
    two backward passes for each position. Several positions at once share the calls, but each of them then goes through
    a graph that is as many times larger, which pays only where the graph is small. So the number doubles for as long as
    that makes a position cheaper.

    Args:
        activations: The edge of the layer's tensor.
        gradients: dS/dA, the shape of that tensor, with its graph.
        indices: Flat indices of activations in that tensor, (rows, P): P positions of each example. Examples do not
            depend on each other, and are differentiated together.
        grad_kwargs: For `torch.autograd.grad`.
        tick: Called with the number of positions done, times the number of rows.

    Returns:
        Second and third derivatives, each (rows, P).
    """
    rows, n_positions = indices.shape
    parts: list[tuple[Tensor, Tensor]] = []
    done, size, cheapest, grows = 0, 1, float("inf"), True
    while done < n_positions:
        start = perf_counter()
        chunk = indices[:, done : done + size].T
        parts.append(_differentiate_twice(activations, gradients, chunk, grad_kwargs))
        cost = (perf_counter() - start) / len(chunk)
        done += len(chunk)
        tick(rows * len(chunk))
        if grows:
            grows = cost < cheapest and size < POSITIONS_AT_ONCE
            size = 2 * size if grows else (size if cost < cheapest else size // 2)
            cheapest = min(cost, cheapest)
    second, third = (torch.cat(part).T for part in zip(*parts, strict=True))
    return second, third


def _differentiate_twice(
    activations: GradientEdge, gradients: Tensor, indices: Tensor, grad_kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Second and third derivatives at some positions, (positions, rows), each given by its flat indices."""
    n_positions, rows = indices.shape
    units = gradients.new_zeros(n_positions, gradients.numel()).scatter_(1, indices, 1)
    second = _products(activations, gradients, units.reshape(n_positions, *gradients.shape), grad_kwargs, again=True)
    second = second.flatten(1).gather(1, indices)
    each = torch.eye(n_positions, dtype=second.dtype, device=second.device)
    each = each.unsqueeze(-1).expand(n_positions, n_positions, rows)
    third = _products(activations, second, each, grad_kwargs, like=gradients).flatten(1).gather(1, indices)
    if not grad_kwargs.get("create_graph"):
        second, third = second.detach(), third.detach()
    return second, third


def _products(
    activations: GradientEdge,
    outputs: Tensor,
    vectors: Tensor,
    grad_kwargs: dict[str, Any],
    *,
    again: bool = False,
    like: Tensor | None = None,
) -> Tensor:
    """Products of vectors with the Jacobian of the outputs; zero where these do not depend on the activations."""
    like = outputs if like is None else like
    products = None
    if outputs.requires_grad:
        kwargs = {**grad_kwargs, "retain_graph": True, "allow_unused": True}
        if again:
            kwargs["create_graph"] = True
        if len(vectors) == 1:  # vectorized, it would be slower
            (products,) = torch.autograd.grad(outputs, [activations], vectors[0], **kwargs)
            products = None if products is None else products.unsqueeze(0)
        else:
            (products,) = torch.autograd.grad(outputs, [activations], vectors, **kwargs, is_grads_batched=True)
    return like.new_zeros(len(vectors), *like.shape) if products is None else products
