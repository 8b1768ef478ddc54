"""An independent computation of the maps, from the paper's equations, in Python floats and explicit loops.

It shares nothing with the package: a model here is three modules, `below`, `layer` and `above`, so that it can be
cut by hand at the layer; gradients are taken for one sample at a time; and the noise is what the model saw.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

Channels = list[list[float]]
"""Values by channel and position."""


class CutModel(nn.Module):
    """A model that can be cut at its layer."""

    def __init__(self, below: nn.Module, layer: nn.Module, above: nn.Module) -> None:
        super().__init__()
        self.below = below
        self.layer = layer
        self.above = above

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.above(self.layer(self.below(inputs)))
        return scores

    def activation(self, inputs: Tensor) -> Tensor:
        """The layer's output, without a graph."""
        with torch.no_grad():
            activation: Tensor = self.layer(self.below(inputs))
        return activation


@contextmanager
def inputs_seen(model: nn.Module) -> Iterator[list[tuple[Any, ...]]]:
    """Records the arguments of every call of the model."""
    seen: list[tuple[Any, ...]] = []

    def record(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(tuple(arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args))

    handle = model.register_forward_pre_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


def copies_seen(seen: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The arguments of the passes with noise, without what shows whether copies influence one another.

    That are the inputs without noise behind the copies of the first shared pass. In a random model, they are there a
    second time alone, and then in a pass of equal copies.
    """
    clean, *passes = seen
    n_rows = len(clean[0])
    shared = next((number for number, args in enumerate(passes) if len(args[0]) > n_rows), None)
    if shared is None:
        return passes
    assert torch.equal(passes[shared][0][-n_rows:], clean[0])
    copies = tuple(arg[:-n_rows] if isinstance(arg, Tensor) and arg.dim() else arg for arg in passes[shared])
    rest, is_noisy = passes[shared + 1 :], not torch.equal(copies[0][:n_rows], clean[0])
    while is_noisy and rest and all(torch.equal(clean[0], rows) for rows in rest[0][0].split(n_rows)):
        del rest[0]
    return [*passes[:shared], copies, *rest]


def noisy_copies(seen: list[tuple[Any, ...]]) -> list[Tensor]:
    """The first inputs of the passes with noise."""
    return [args[0] for args in copies_seen(seen)]


def samples_of(inputs: Tensor, noisy: Sequence[Tensor]) -> list[list[Tensor]]:
    """The noisy copies of each example, which are told apart by which example they are closest to."""
    samples: list[list[Tensor]] = [[] for _ in inputs]
    for row in torch.cat(list(noisy)) if noisy else ():
        distances = [(row - example).norm().item() for example in inputs]
        samples[distances.index(min(distances))].append(row)
    return samples


def gradient(above: Callable[[Tensor], Tensor], activation: Tensor, target: int) -> Tensor:
    """dS/dA for one example, whose activation is (C, *spatial)."""
    leaf = activation.detach().clone().requires_grad_()
    with torch.enable_grad():
        score = above(leaf.unsqueeze(0))[0, target]
    return torch.autograd.grad(score, leaf)[0]


def by_channel(tensor: Tensor) -> Channels:
    """The values of (C, *spatial) by channel and position; without spatial dimensions there is one position."""
    values: Channels = tensor.detach().double().reshape(tensor.shape[0], -1).tolist()
    return values


def mean_of_powers(gradients: Sequence[Tensor], power: int) -> Channels:
    """D_p, eq. (6) and (7): the mean over the samples of the gradient's power."""
    samples = [by_channel(sample) for sample in gradients]
    channels, positions = len(samples[0]), len(samples[0][0])
    return [
        [sum(sample[k][i] ** power for sample in samples) / len(samples) for i in range(positions)]
        for k in range(channels)
    ]


def alpha(name: str, d1: float, d2: float, d3: float, activation_sum: float) -> float:
    """Alpha at one position."""
    product = activation_sum * d3
    numerator = d1 if name == "eq7" else d2
    denominator = 2 * d2 + (max(0.0, product) if name == "bounded" else product)
    if numerator == 0 or denominator == 0:
        return 0.0
    return numerator / denominator


def weights(name: str, activation: Tensor, gradients: Sequence[Tensor]) -> list[float]:
    """w_k, eq. (3) and (8), of one example."""
    first, second, third = (mean_of_powers(gradients, power) for power in (1, 2, 3))
    result = []
    for k, values in enumerate(by_channel(activation)):
        activation_sum = sum(values)
        result.append(
            math.fsum(
                alpha(name, first[k][i], second[k][i], third[k][i], activation_sum) * max(0.0, first[k][i])
                for i in range(len(values))
            )
        )
    return result


def example_map(
    name: str, activation: Tensor, gradients: Sequence[Tensor], *, relu: bool = True, sum_channels: bool = True
) -> Tensor:
    """The map of one example, eq. (2): (1, *spatial), or (C, *spatial) without the sum."""
    weight = weights(name, activation, gradients)
    values = by_channel(activation)
    rows = [[weight[k] * value for value in values[k]] for k in range(len(values))]
    if sum_channels:
        rows = [[math.fsum(row[i] for row in rows) for i in range(len(rows[0]))]]
    if relu:
        rows = [[max(0.0, value) for value in row] for row in rows]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), *activation.shape[1:])


def pole_distance(activation: Tensor, gradients: Sequence[Tensor]) -> float:
    """How close eq. (5) comes to its pole where it counts: 1 is far, and rounding errors grow by its inverse."""
    first, second, third = (mean_of_powers(gradients, power) for power in (1, 2, 3))
    closest = 1.0
    for k, values in enumerate(by_channel(activation)):
        for d1, d2, d3 in zip(first[k], second[k], third[k], strict=True):
            product = sum(values) * d3
            if d1 > 0:
                closest = min(closest, abs(2 * d2 + product) / (2 * d2 + abs(product)))
    return closest


def gradients_of(
    model: CutModel, inputs: Tensor, noisy: Sequence[Tensor], targets: Sequence[int]
) -> list[tuple[Tensor, list[Tensor]]]:
    """The clean activation and the gradients of each example, at its noisy copies, or without any at itself."""
    double = _double_copy(model)
    examples = []
    for example, copies, target in zip(inputs, samples_of(inputs, noisy), targets, strict=True):
        points = [copy.double() for copy in copies] or [example.double()]
        activations = [double.activation(point.unsqueeze(0))[0] for point in points]
        clean = double.activation(example.double().unsqueeze(0))[0]
        examples.append((clean, [gradient(double.above, activation, target) for activation in activations]))
    return examples


def expected(
    model: CutModel,
    inputs: Tensor,
    noisy: Sequence[Tensor],
    targets: Sequence[int],
    name: str = "bounded",
    *,
    relu: bool = True,
    sum_channels: bool = True,
) -> Tensor:
    """The maps of a batch: A from `inputs`, the derivatives from `noisy`, or if that is empty from `inputs` too."""
    return torch.stack(
        [
            example_map(name, activation, gradients, relu=relu, sum_channels=sum_channels)
            for activation, gradients in gradients_of(model, inputs, noisy, targets)
        ]
    )


def relative_error(actual: Tensor, wanted: Tensor) -> float:
    """The largest error in units of the largest value wanted, which must not be zero: that would compare nothing."""
    assert actual.shape == wanted.shape
    largest = wanted.abs().max().item()
    assert largest > 0
    return (actual.double() - wanted.double()).abs().max().item() / largest


def _double_copy(model: CutModel) -> CutModel:
    """The model in double precision and evaluation mode, with the same weights and without the hooks on it."""
    below, layer, above = (deepcopy(part).double().eval() for part in (model.below, model.layer, model.above))
    return CutModel(below, layer, above)
