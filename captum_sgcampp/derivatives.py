"""The derivatives D1, D2, D3 of the score at the layers: at the input itself, or averaged over noise."""

import warnings
from typing import Any, NamedTuple

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
from captum_sgcampp.formulas import Derivatives
from captum_sgcampp.layer_pass import LayerPass, LayerProbe
from captum_sgcampp.layer_view import LayerView
from captum_sgcampp.noise import Noise


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
    noise: Noise,
    inputs: tuple[Tensor, ...],
    target: TargetType,
    forward_args: tuple[Any, ...],
    grad_kwargs: dict[str, Any] | None,
) -> list[Seen]:
    """Computes, for what is seen of each of the layers' tensors, the activations A and the derivatives D1, D2, D3.

    The activations are always those of the input without noise. The derivatives are taken there too if there is
    no noise; otherwise they are means over the noise samples, eq. (6), (7). The sums run along with the samples,
    so that memory does not grow with their number.

    Raises:
        AssertionError: The target does not fit the output.
        IndexError: The layer does not have a selected filter or neuron.
        ValueError: The score does not depend on what is seen of a layer, or that is no map.
    """
    clean = probe.run(inputs, forward_args)
    _warn_of_repeated_layers(clean)
    scores = clean.scores(target)
    activations = [
        view.activations(activation, tensor.name)
        for activation, tensor in zip(clean.activations(), clean.tensors, strict=True)
    ]
    layers = [tensor.layer for tensor in clean.tensors]
    if not noise.n_samples:
        return list(map(Seen, layers, activations, _summed(clean, view, scores, 1, activations, grad_kwargs)))
    del clean, scores  # and with them the graph

    total: list[Derivatives] = []
    with progress(total=noise.n_samples, desc="Noise samples") if noise.show_progress else NullProgress() as bar:
        for n_samples, noisy_inputs in noise.chunks(inputs):
            noisy_args = _expand_additional_forward_args(forward_args, n_samples, ExpansionTypes.repeat)
            noisy = probe.run(noisy_inputs, noisy_args or ())
            scores = noisy.scores(_expand_target(target, n_samples, ExpansionTypes.repeat))
            chunk = _summed(noisy, view, scores, n_samples, activations, grad_kwargs)
            total = list(map(formulas.add, total, chunk)) if total else chunk
            bar.update(n_samples)
    means = [formulas.divide(derivatives, noise.n_samples) for derivatives in total]
    return list(map(Seen, layers, activations, means))


def _summed(
    layer_pass: LayerPass,
    view: LayerView,
    scores: Tensor,
    n_samples: int,
    activations: list[Tensor],
    grad_kwargs: dict[str, Any] | None,
) -> list[Derivatives]:
    """Sums the derivatives over the samples of one pass, which stand there one after the other."""
    if len(scores) % n_samples:
        raise ValueError(
            f"forward_func: returned {len(scores)} score(s) for {n_samples} noisy copies of the inputs. It must "
            "return one score for each example, or be given one copy at a time, n_samples_batch_size=1."
        )
    summed = []
    gradients = layer_pass.gradients(scores, grad_kwargs)
    for gradient, activation, tensor in zip(gradients, activations, layer_pass.tensors, strict=True):
        seen = view.gradients(gradient, tensor.name)
        if seen.shape != (n_samples * len(activation), *activation.shape[1:]):
            raise ValueError(
                f"layer: {tensor.name} gives {tuple(activation.shape)} for the inputs, and for {n_samples} noisy "
                f"copies of them {tuple(seen.shape)}. Its first dimension must be that of the examples; otherwise "
                "noise has to be added to one copy at a time, n_samples_batch_size=1."
            )
        summed.append(formulas.sum_of_powers(seen.reshape(n_samples, *activation.shape)))
    return summed


def _warn_of_repeated_layers(layer_pass: LayerPass) -> None:
    for layer, calls in {tensor.name: tensor.calls for tensor in layer_pass.tensors}.items():
        if calls > 1:
            warnings.warn(
                f"layer: {layer} runs {calls} times in one forward pass; the attribution is to the last time alone. "
                "Give each place in the model a module of its own to attribute to another.",
                stacklevel=6,
            )
