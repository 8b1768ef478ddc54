r"""The mathematics of Grad-CAM++ and Smooth Grad-CAM++, as pure functions on tensors.

Equation numbers are those of the paper, Omeiza et al., *Smooth Grad-CAM++* (arXiv:1908.01224). For one
example, one class score :math:`Y` and one layer, with :math:`A_{ki}` the activation of channel :math:`k` at
position :math:`i`:

.. math::
    D_p &= \frac{1}{n} \sum_{s=1}^{n} \frac{\partial^p Y_s}{\partial A_{ki}^p}, \quad p = 1, 2, 3
        && \text{(6), (7)} \\
    \alpha_{ki} &= \frac{D_2}{2 D_2 + \sum_j A_{kj} D_3} && \text{(5)} \\
    w_k &= \sum_i \alpha_{ki} \, \mathrm{relu}(D_1) && \text{(3), (8)} \\
    L_i &= \mathrm{relu}\Big(\sum_k w_k A_{ki}\Big) && \text{(2)}

Tensors have the shape (N, C, \*spatial): N examples, C channels, and any number of spatial dimensions, also
none. They are float32 or float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Derivatives(NamedTuple):
    r"""The derivatives :math:`D_1, D_2, D_3`, each divided by a power of their own scale.

    :math:`D_p` is ``scale ** p`` times the field, and the fields are of the order of one. Bare cubes of small
    gradients would vanish: in float32, the cube of 1e-16 is zero.
    """

    first: Tensor
    """:math:`D_1 / scale`, shape (N, C, \\*spatial)."""
    second: Tensor
    """:math:`D_2 / scale^2`, same shape."""
    third: Tensor
    """:math:`D_3 / scale^3`, same shape."""
    scale: Tensor
    """A power of two for each example and channel, so that scaling rounds nothing; shape (N, C, 1, ...)."""


def sum_of_powers(gradients: Tensor) -> Derivatives:
    r"""Sums the derivatives of noise samples, :math:`D_p = \sum_s g_s^p` with :math:`g = \partial S / \partial A`.

    These are the derivatives of :math:`Y = \exp(S)` where the network is piecewise linear above the layer, but
    for the common factor :math:`\exp(S)`, which is dropped for each sample.

    Args:
        gradients: One gradient for each noise sample, shape (n, N, C, \*spatial).
    """
    scale = _power_of_two_at_most(_over_positions(torch.amax, gradients.detach().abs().amax(dim=0)))
    scaled = gradients / scale
    return Derivatives(scaled.sum(dim=0), scaled.pow(2).sum(dim=0), scaled.pow(3).sum(dim=0), scale)


def add(left: Derivatives, right: Derivatives) -> Derivatives:
    """Adds two sums of derivatives, at the larger of their scales."""
    scale = torch.maximum(left.scale, right.scale)
    first, second, third = (
        a * (left.scale / scale) ** power + b * (right.scale / scale) ** power
        for power, (a, b) in enumerate(zip(left[:3], right[:3], strict=True), start=1)
    )
    return Derivatives(first, second, third, scale)


def divide(total: Derivatives, n_samples: int) -> Derivatives:
    """Turns the sum over noise samples into their mean, eq. (6), (7)."""
    return Derivatives(total.first / n_samples, total.second / n_samples, total.third / n_samples, total.scale)


def alpha_eq5(derivatives: Derivatives, activations: Tensor) -> Tensor:
    r""":math:`\alpha = D_2 / (2 D_2 + \sum_j A_{kj} D_3)`, eq. (5) as it stands.

    It has a pole where the denominator crosses zero, which it does at layers whose activations carry a sign.
    """
    _, second, third, scale = derivatives
    return _ratio(second, 2 * second + scale * (_channel_sum(activations) * third))


def alpha_eq7(derivatives: Derivatives, activations: Tensor) -> Tensor:
    r""":math:`\alpha = D_1 / (2 D_2 + \sum_j A_{kj} D_3)`, with the numerator as eq. (7) prints it.

    It has the pole of eq. (5), and the dimension of one over a derivative.
    """
    first, second, third, scale = derivatives
    return _ratio(first, 2 * second + scale * (_channel_sum(activations) * third)) / scale


def alpha_bounded(derivatives: Derivatives, activations: Tensor) -> Tensor:
    r""":math:`\alpha = D_2 / (2 D_2 + \mathrm{relu}(\sum_j A_{kj} D_3))`: eq. (5) without its pole.

    Always in [0, 1/2], and equal to eq. (5) on what that was derived for, rectified activations without noise
    (there the sum counts only where :math:`D_3 > 0`: elsewhere :math:`\mathrm{relu}(D_1)` is zero). A negative
    :math:`D_2`, which no sum of squares has, counts as zero.
    """
    _, second, third, scale = derivatives
    curvature = second.relu()
    return _ratio(curvature, 2 * curvature + (scale * (_channel_sum(activations) * third)).relu())


ALPHAS: dict[str, Callable[[Derivatives, Tensor], Tensor]] = {
    "bounded": alpha_bounded,
    "eq5": alpha_eq5,
    "eq7": alpha_eq7,
}
"""The forms of alpha by the name that the attribution methods take."""


def weights(alpha: Tensor, derivatives: Derivatives) -> Tensor:
    r""":math:`w_k = \sum_i \alpha_{ki} \, \mathrm{relu}(D_1)`, eq. (3), (8); shape (N, C, 1, ...)."""
    return _over_positions(torch.sum, alpha * derivatives.first.relu()) * derivatives.scale


def weighted_activations(weights: Tensor, activations: Tensor, sum_channels: bool) -> Tensor:
    r""":math:`\sum_k w_k A_{ki}`, eq. (2) before its ReLU, or with ``sum_channels=False`` each :math:`w_k A_{ki}`."""
    weighted = weights * activations
    return weighted.sum(dim=1, keepdim=True) if sum_channels else weighted


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divides, with 0 where the denominator is 0; a plain division would put NaN there, or in its gradient."""
    defined = denominator != 0
    return torch.where(defined, numerator / torch.where(defined, denominator, 1), 0)


def _channel_sum(activations: Tensor) -> Tensor:
    r""":math:`\sum_j A_{kj}`: over the positions of channel k alone; shape (N, C, 1, ...)."""
    return _over_positions(torch.sum, activations)


def _over_positions(reduce: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Reduces over the spatial dimensions and keeps them; without any, each value is its own only position."""
    positions = values.unsqueeze(-1)
    return reduce(positions, dim=tuple(range(2, positions.dim())), keepdim=True).squeeze(-1)


def _power_of_two_at_most(values: Tensor) -> Tensor:
    """The power of two p with p <= value < 2 p; values below the smallest normal number count as that."""
    mantissa, _ = torch.frexp(values := values.clamp_min(torch.finfo(values.dtype).tiny))
    return values / (2 * mantissa)
