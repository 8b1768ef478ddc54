"""Second and third derivatives by automatic differentiation, each with respect to a single activation."""

import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

POSITIONS_AT_ONCE: tuple[int, ...] = (1, 8)
"""The choices for the number of positions differentiated at once. Work and memory grow with its square.

More than 8 was not faster above any layer tried, from a pooling layer to a pair of convolutions.
"""


def second_and_third_derivatives(
    activations: GradientEdge,
    gradients: Tensor,
    indices: Tensor,
    grad_kwargs: dict[str, Any],
    on_positions: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    r"""Differentiates the gradient twice more, :math:`\partial^2 S / \partial A_i^2, \partial^3 S / \partial A_i^3`.

    These are the diagonal of the Hessian and the derivative of each of its elements with respect to the same
    activation: two backward passes for each position. Several positions can share these passes, but through a graph
    that is as many times larger, which pays off only if the graph is small. So the choices are timed first, and the
    fastest is kept; the results differ only by rounding.

    Args:
        activations: The edge of the layer's tensor.
        gradients: dS/dA, the shape of that tensor, with its graph.
        indices: Flat indices of activations in that tensor, (rows, P): P positions of each example. Examples do not
            depend on each other, and are differentiated together.
        grad_kwargs: For `torch.autograd.grad`.
        on_positions: Called with the number of positions that are finished, times the number of rows.

    Returns:
        Second and third derivatives, each (rows, P).
    """
    rows, n_positions = indices.shape
    trials = [*POSITIONS_AT_ONCE, *POSITIONS_AT_ONCE]
    seconds = dict.fromkeys(POSITIONS_AT_ONCE, math.inf)
    parts: list[tuple[Tensor, Tensor]] = []
    done = 0
    while done < n_positions:
        size = trials.pop(0) if trials else min(seconds, key=seconds.__getitem__)
        chunk = indices[:, done : done + size].T
        start = perf_counter()
        parts.append(_differentiate_twice(activations, gradients, chunk, grad_kwargs))
        seconds[size] = min(seconds[size], (perf_counter() - start) / len(chunk))
        done += len(chunk)
        on_positions(rows * len(chunk))
    second, third = (torch.cat(part).T for part in zip(*parts, strict=True))
    return second, third


def _differentiate_twice(
    activations: GradientEdge, gradients: Tensor, indices: Tensor, grad_kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Second and third derivatives at some positions, (positions, rows), each given by its flat indices."""
    n_positions, rows = indices.shape
    units = gradients.new_zeros(n_positions, gradients.numel()).scatter_(1, indices, 1)
    second = _products(
        activations, gradients, units.reshape(n_positions, *gradients.shape), grad_kwargs, create_graph=True
    )
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
    create_graph: bool = False,
    like: Tensor | None = None,
) -> Tensor:
    """Products of vectors with the Jacobian of the outputs; zero where these do not depend on the activations."""
    like = outputs if like is None else like
    products = None
    if outputs.requires_grad:
        kwargs = {**grad_kwargs, "retain_graph": True, "allow_unused": True}
        if create_graph:
            kwargs["create_graph"] = True
        if len(vectors) == 1:  # batching a single vector is slower
            (products,) = torch.autograd.grad(outputs, [activations], vectors[0], **kwargs)
            products = None if products is None else products.unsqueeze(0)
        else:
            (products,) = torch.autograd.grad(outputs, [activations], vectors, **kwargs, is_grads_batched=True)
    return like.new_zeros(len(vectors), *like.shape) if products is None else products
