"""Where the derivatives come from: D1, D2, D3 of the noise samples of one pass, and their sums."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from captum_sgcampp import formulas
from captum_sgcampp.formulas import Derivatives
from captum_sgcampp.higher_derivatives import second_and_third_derivatives
from captum_sgcampp.layer_capture import Captured
from captum_sgcampp.layer_pass import LayerPass, joined
from captum_sgcampp.layer_view import LayerView

SOURCES = ("powers", "exp", "autograd")
"""The names that the attribution methods take."""


class PassDerivatives(NamedTuple):
    """What a pass tells of one of the layers' tensors."""

    gradients: Tensor
    r"""dS/dA for each noise sample, (n, N, C, \*spatial), of the selected channels."""
    summed: Derivatives
    """The sums of D1, D2, D3 over the noise samples."""


def pass_derivatives(
    source: str,
    layer_pass: LayerPass,
    scores: Tensor,
    n_samples: int,
    activations: list[Tensor],
    view: LayerView,
    grad_kwargs: dict[str, Any],
    tick: Callable[[int], object],
) -> list[PassDerivatives]:
    r"""Takes the derivatives of one pass, in which the noise samples stand one after the other.

    Args:
        source: One of :data:`SOURCES`.
        layer_pass: The pass.
        scores: Its scores, of n_samples * N examples.
        n_samples: How many samples of each example are in it.
        activations: What is seen of each of the layers' tensors without noise, (N, C, \*spatial).
        view: How it is seen.
        grad_kwargs: For `torch.autograd.grad`.
        tick: Called by "autograd", which takes long, with the number of positions done.

    Raises:
        ValueError: The examples cannot be told apart in the scores or in a layer.
    """
    kwargs = {**grad_kwargs, "create_graph": True} if source == "autograd" else grad_kwargs
    sampled = []
    for tensor, pieces, activation in zip(
        layer_pass.tensors, layer_pass.gradients(scores, kwargs), activations, strict=True
    ):
        gradients = view.gradients(joined(pieces), tensor.name)
        if gradients.shape != (n_samples * len(activation), *activation.shape[1:]):
            raise ValueError(
                f"layer: {tensor.name} gives {tuple(activation.shape)} for the inputs, and for {n_samples} noisy "
                f"copies of them {tuple(gradients.shape)}. Its first dimension must be that of the examples, which "
                "reshape_transform can see to; if the layer joins examples, noise has to be added to one copy at a "
                "time, n_samples_batch_size=1."
            )
        if source != "powers" and len(scores) != len(gradients):
            raise ValueError(
                f"derivatives: {source!r} needs a layer with one row for each score, and for {len(scores)} score(s) "
                f"layer {tensor.name} has {len(gradients)}; 'powers' does not need it."
            )
        by_sample = gradients.reshape(n_samples, *activation.shape)
        if source == "powers":
            summed = formulas.sum_of_powers(by_sample)
        elif source == "exp":
            shape = (n_samples, len(activation), *[1] * (activation.dim() - 1))
            summed = formulas.sum_of_powers(by_sample, scores.to(by_sample.dtype).reshape(shape))
        else:
            higher = [
                _higher_derivatives(piece, gradient, view, tensor.name, grad_kwargs, tick)
                for piece, gradient in zip(tensor.by_device, pieces, strict=True)
            ]
            second, third = (
                joined(both).to(by_sample.dtype).reshape_as(by_sample) for both in zip(*higher, strict=True)
            )
            summed = formulas.sum_of_derivatives(by_sample, second, third)
        sampled.append(PassDerivatives(by_sample, summed))
    return sampled


def _higher_derivatives(
    piece: Captured,
    gradient: Tensor,
    view: LayerView,
    layer: str,
    grad_kwargs: dict[str, Any],
    tick: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    """True second and third derivatives at the elements of the maps, row by row."""
    indices = view.indices(gradient, layer).flatten(1)
    if piece.edge is None:  # its gradient was taken as zero
        zeros = gradient.new_zeros(indices.shape)
        return zeros, zeros
    return second_and_third_derivatives(piece.edge, gradient, indices, grad_kwargs, tick)
