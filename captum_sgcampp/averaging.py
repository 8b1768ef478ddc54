"""The passes through the model: one without noise for the activations, and the derivatives' means over the others."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp import formulas
from captum_sgcampp._captum import (
    ExpansionTypes,
    NullProgress,
    TargetType,
    _expand_additional_forward_args,
    _expand_target,
    progress,
)
from captum_sgcampp.derivatives import Sampled, sampled_derivatives
from captum_sgcampp.formulas import Derivatives
from captum_sgcampp.layer_pass import LayerPass, LayerProbe
from captum_sgcampp.layer_view import LayerView
from captum_sgcampp.noise import Noise

SAME_GRADIENT = 16
"""Gradients that differ by less than this many units in the last place of the largest count as the same.

Above an affine part of a network they may differ by rounding alone: measured in float32 on eight networks of
torchvision, with 1, 4 and 12 noisy images in a pass, by nothing at all. What noise really changes was at least a
thousand units, for a hundredth of the paper's noise and a single layer normalization above.
"""


class Seen(NamedTuple):
    """What the formulas need to know of one of the layers' tensors."""

    layer: Module
    activations: Tensor
    r"""A, at the input without noise; (N, C, \*spatial), of the selected channels."""
    derivatives: Derivatives
    """D1, D2, D3, for each of them."""


def see_layers(
    probe: LayerProbe,
    view: LayerView,
    source: str,
    noise: Noise,
    inputs: tuple[Tensor, ...],
    targets: Sequence[TargetType],
    forward_args: tuple[Any, ...],
    grad_kwargs: dict[str, Any],
) -> list[list[Seen]]:
    """Computes, for what is seen of each of the layers' tensors, the activations A and the derivatives D1, D2, D3.

    The activations are always those of the input without noise. The derivatives are taken there too if there is
    no noise; otherwise they are means over the noise samples, eq. (6), (7). The sums run along with the samples,
    so that memory does not grow with their number.

    Args:
        probe: Runs the model.
        view: What to see of the layers.
        source: Where the derivatives come from.
        noise: The noise samples.
        inputs: The inputs without noise.
        targets: The targets, whose derivatives all come from the same passes.
        forward_args: What follows the inputs.
        grad_kwargs: For `torch.autograd.grad`.

    Returns:
        For each target, what is seen of each tensor.

    Raises:
        AssertionError: A target does not fit the output.
        IndexError: The layer does not have a selected filter or neuron.
        ValueError: The score does not depend on what is seen of a layer, or that is no map.

    Warns:
        UserWarning: A layer runs again in a pass; noise changes nothing; something is not finite, or has no curvature.
    """
    # Alone, although one pass less would be faster: then A is right in models that mix examples too, and what the
    # noisy passes return is compared with its shape.
    clean = probe.run(inputs, forward_args)
    for target in targets:
        clean.scores(target)  # refused before the noisy passes
    activations = [
        view.activations(activation, tensor.name)
        for activation, tensor in zip(clean.activations(), clean.tensors, strict=True)
    ]
    layers = [tensor.layer for tensor in clean.tensors]
    names = [tensor.name for tensor in clean.tensors]
    _warn(_repeated_layers(clean))
    for name, activation in zip(names, activations, strict=True):
        _warn(_not_finite("activations", name, activation))
    sums = [[_RunningSum() for _ in activations] for _ in targets]

    def add(layer_pass: LayerPass, n_samples: int, tick: Callable[[int], object]) -> None:
        for number, (target, sums_at_target) in enumerate(zip(targets, sums, strict=True)):
            again = {"retain_graph": True} if number < len(targets) - 1 else {}
            scores = layer_pass.scores(_expand_target(target, n_samples, ExpansionTypes.repeat))
            sampled = sampled_derivatives(
                source, layer_pass, scores, n_samples, activations, view, {**grad_kwargs, **again}, tick
            )
            for running_sum, of_tensor in zip(sums_at_target, sampled, strict=True):
                running_sum.add(of_tensor)
        if source != "autograd":
            tick(n_samples)

    if source == "autograd":
        n_steps, unit = len(targets) * sum(activation.numel() for activation in activations), "Positions"
    else:
        n_steps, unit = 1, "Noise samples"
    n_steps *= max(1, noise.n_samples)
    with progress(total=n_steps, desc=unit) if noise.show_progress else NullProgress() as bar:
        if not noise.n_samples:
            add(clean, 1, bar.update)
        del clean  # and with it its graph
        for n_samples, noisy_inputs in noise.chunks(inputs):
            noisy_args = _expand_additional_forward_args(forward_args, n_samples, ExpansionTypes.repeat)
            add(probe.run(noisy_inputs, noisy_args or ()), n_samples, bar.update)

    means = [[running_sum.mean() for running_sum in sums_at_target] for sums_at_target in sums]
    _warn(
        message
        for at_target in zip(sums, means, strict=True)
        for name, running_sum, mean in zip(names, *at_target, strict=True)
        for message in _useless_derivatives(source, name, running_sum, mean)
    )
    return [list(map(Seen, layers, activations, means_at_target)) for means_at_target in means]


class _RunningSum:
    """The derivatives of one of the layers' tensors, summed over the noise samples so far."""

    def __init__(self) -> None:
        self.n_samples = 0
        self.same_gradient = True
        self.total: Derivatives | None = None
        self._first_gradient: Tensor | None = None

    def add(self, sampled: Sampled) -> None:
        """Adds the samples of a pass."""
        if self.same_gradient:
            if self._first_gradient is None:
                self._first_gradient = sampled.gradients[0].detach().clone()  # not the whole pass is kept
            first = self._first_gradient
            tolerance = SAME_GRADIENT * torch.finfo(first.dtype).eps * first.abs().amax()
            self.same_gradient = bool(((sampled.gradients - first).abs() <= tolerance).all())
        self.n_samples += len(sampled.gradients)
        self.total = sampled.summed if self.total is None else formulas.add(self.total, sampled.summed)

    def mean(self) -> Derivatives:
        """The mean over the samples."""
        assert self.total is not None, "there is always one pass"
        return formulas.divide(self.total, self.n_samples)


def _repeated_layers(layer_pass: LayerPass) -> Iterator[str]:
    for tensor in layer_pass.tensors:
        if tensor.calls > 1:
            yield (
                f"layer: {tensor.name} runs {tensor.calls} times in one forward pass; the attribution is to the last "
                "time alone. Give each place in the model a module of its own to attribute to another."
            )


def _not_finite(what: str, layer: str, tensor: Tensor) -> Iterator[str]:
    if not tensor.isfinite().all():
        yield f"layer: the {what} of {layer} are not all finite, and so the attribution is not."


def _useless_derivatives(source: str, layer: str, running_sum: _RunningSum, mean: Derivatives) -> Iterator[str]:
    yield from _not_finite("gradients", layer, mean.first)
    if running_sum.n_samples > 1 and running_sum.same_gradient and mean.first.any():
        yield (
            f"n_samples: smoothing changes nothing at layer {layer}, where the gradient is the same for all noisy "
            "copies. Either everything above it is affine, as after the last block of many networks, or the noise is "
            "too small to matter. Choose a layer further down, or larger stdevs."
        )
    if source == "autograd" and mean.first.any() and not mean.second.any():
        yield (
            f"derivatives: the score has no second derivative by the activations of {layer}, and so the attribution is "
            "zero. Let forward_func return the exponential of the score, or choose derivatives='exp' or 'powers', "
            "which stand for that."
        )


def _warn(messages: Iterable[str]) -> None:
    """Warns once of each, at the line of the user's: the first above this package and Captum's wrappers."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in {"captum", "captum_sgcampp"}:
        frame, level = frame.f_back, level + 1
    for message in dict.fromkeys(messages):
        warnings.warn(message, stacklevel=level)
