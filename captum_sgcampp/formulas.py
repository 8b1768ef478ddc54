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

Tensors have the shape (N, C, \*spatial): N examples, C channels, and any number of spatial dimensions,
including none. They are float32 or float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Derivatives:
    r"""The derivatives :math:`D_1, D_2, D_3`, each divided by a power of their own scale.

    :math:`D_p` is ``scale ** p`` times the field, and the fields are of the order of one. Bare cubes of small
    gradients would vanish: in float32, the cube of 1e-16 is zero. ``a + b`` adds the derivatives of two sets of
    noise samples, and ``total / n`` turns a sum over n samples into their mean.
    """

    first: Tensor
    r""":math:`D_1 / scale`, shape (N, C, \*spatial)."""
    second: Tensor
    r""":math:`D_2 / scale^2`, same shape."""
    third: Tensor
    r""":math:`D_3 / scale^3`, same shape."""
    scale: Tensor
    """A power of two for each example and channel, so that scaling rounds nothing; shape (N, C, 1, ...)."""
    log_unit: Tensor = field(default_factory=partial(torch.zeros, ()))
    """The logarithm of a unit that all three share and that cancels in alpha; broadcasts over (N, C, 1, ...)."""

    def __add__(self, other: "Derivatives") -> "Derivatives":
        """Adds two sums of derivatives, in the larger of their scales and of their units."""
        scale = torch.maximum(self.scale, other.scale)
        log_unit = torch.maximum(self.log_unit, other.log_unit)
        a, b = ((one.log_unit - log_unit).exp() for one in (self, other))
        c, d = (one.scale / scale for one in (self, other))
        return Derivatives(
            a * c * self.first + b * d * other.first,
            a * c**2 * self.second + b * d**2 * other.second,
            a * c**3 * self.third + b * d**3 * other.third,
            scale,
            log_unit,
        )

    def __truediv__(self, n_samples: int) -> "Derivatives":
        """Turns the sum over noise samples into their mean, eq. (6), (7)."""
        return replace(self, first=self.first / n_samples, second=self.second / n_samples, third=self.third / n_samples)

    @property
    def gradient(self) -> Tensor:
        r""":math:`D_1` itself, shape (N, C, \*spatial)."""
        return self.scale * self.first


def sum_of_powers(gradients: Tensor, scores: Tensor | None = None) -> Derivatives:
    r"""Sums over noise samples the derivatives of :math:`Y = \exp(S)`, S piecewise linear above the layer.

    With :math:`g = \partial S / \partial A` these are :math:`D_p = \sum_s \exp(S_s) \, g_s^p`, here in units of
    :math:`\exp(\max S)`. Without scores, the factor :math:`\exp(S_s)` is dropped for each sample.

    Args:
        gradients: One gradient for each noise sample, shape (n, N, C, \*spatial).
        scores: The scores S, shape (n, N, 1, 1, ...).
    """
    scale = _scale(gradients)
    scaled = gradients / scale
    powers = [scaled, scaled.square(), scaled * scaled.square()]
    if scores is None:
        log_unit = scale.new_zeros(())
    else:
        log_unit = scores.amax(dim=0)
        powers = [(scores - log_unit).exp() * power for power in powers]
    first, second, third = (power.sum(dim=0) for power in powers)
    return Derivatives(first, second, third, scale, log_unit)


def sum_of_derivatives(first: Tensor, second: Tensor, third: Tensor) -> Derivatives:
    r"""Sums given derivatives over noise samples.

    Args:
        first: :math:`\partial Y / \partial A` of each noise sample, shape (n, N, C, \*spatial).
        second: :math:`\partial^2 Y / \partial A^2`, same shape.
        third: :math:`\partial^3 Y / \partial A^3`, same shape.
    """
    # Roots give the three the same dimension, and keep them in the range of floating point.
    scale = _scale(torch.stack([first, second.abs() ** (1 / 2), third.abs() ** (1 / 3)]).flatten(0, 1).detach())
    return Derivatives(
        (first / scale).sum(dim=0),
        (second / scale / scale).sum(dim=0),
        (third / scale / scale / scale).sum(dim=0),
        scale,
        scale.new_zeros(()),
    )


class Alpha(NamedTuple):
    r"""The weights :math:`\alpha` of the positions, divided by a power of the derivatives' scale.

    So that no power of a very small or large scale leaves the range of floating point, :math:`\alpha` is
    ``scale ** power`` times `values`.
    """

    values: Tensor
    r""":math:`\alpha / scale^{power}`, shape (N, C, \*spatial)."""
    power: int = 0


def alpha_eq5(derivatives: Derivatives, activations: Tensor) -> Alpha:
    r""":math:`\alpha = D_2 / (2 D_2 + \sum_j A_{kj} D_3)`, eq. (5) as printed.

    It has a pole where the denominator crosses zero, as happens at layers with activations of both signs.
    """
    second = derivatives.second
    return Alpha(_ratio(second, 2 * second + _third_term(derivatives, activations)))


def alpha_eq7(derivatives: Derivatives, activations: Tensor) -> Alpha:
    r""":math:`\alpha = D_1 / (2 D_2 + \sum_j A_{kj} D_3)`, with the numerator printed in eq. (7).

    It has the pole of eq. (5), and the dimension of an inverse derivative.
    """
    denominator = 2 * derivatives.second + _third_term(derivatives, activations)
    return Alpha(_ratio(derivatives.first, denominator), power=-1)


def alpha_bounded(derivatives: Derivatives, activations: Tensor) -> Alpha:
    r""":math:`\alpha = D_2 / (2 D_2 + \mathrm{relu}(\sum_j A_{kj} D_3))`: eq. (5) without its pole.

    Always in [0, 1/2], and equal to eq. (5) for rectified activations without noise, for which that was derived
    (there the sum matters only where :math:`D_3 > 0`: elsewhere :math:`\mathrm{relu}(D_1)` is zero). A negative
    :math:`D_2`, which only true derivatives can have, counts as zero.
    """
    curvature = derivatives.second.relu()
    return Alpha(_ratio(curvature, 2 * curvature + _third_term(derivatives, activations).relu()))


ALPHAS: dict[str, Callable[[Derivatives, Tensor], Alpha]] = {
    "bounded": alpha_bounded,
    "eq5": alpha_eq5,
    "eq7": alpha_eq7,
}
"""The forms of alpha, by the names that the attribution methods accept."""


def grad_cam_pp_weights(alpha: Alpha, derivatives: Derivatives) -> Tensor:
    r""":math:`w_k = \sum_i \alpha_{ki} \, \mathrm{relu}(D_1)`, eq. (3), (8); shape (N, C, 1, ...)."""
    unit = derivatives.scale ** (alpha.power + 1)
    return over_positions(torch.sum, alpha.values * derivatives.first.relu()) * unit


def grad_cam_weights(derivatives: Derivatives) -> Tensor:
    r""":math:`w_k = \frac{1}{Z} \sum_i D_1`, over Z positions; shape (N, C, 1, ...).

    Not from the paper: the weights of Grad-CAM (Selvaraju et al., arXiv:1610.02391), with the gradient averaged.
    """
    return over_positions(torch.mean, derivatives.first) * derivatives.scale


def layer_cam_weights(derivatives: Derivatives) -> Tensor:
    r""":math:`w_{ki} = \mathrm{relu}(D_1)`, a weight for each position; shape (N, C, \*spatial).

    Not from the paper: the weights of Layer-CAM (Jiang et al., *LayerCAM: Exploring Hierarchical Class Activation Maps
    for Localization*, IEEE Transactions on Image Processing 30, 2021), with the gradient averaged.
    """
    return derivatives.gradient.relu()


def weighted_activations(weights: Tensor, activations: Tensor, sum_channels: bool) -> Tensor:
    r""":math:`\sum_k w_k A_{ki}`, eq. (2) before its ReLU, or with ``sum_channels=False`` each :math:`w_k A_{ki}`."""
    # A channel of zero weight adds nothing, even where its activations are infinite.
    weighted = weights * torch.where((weights != 0) | activations.isfinite(), activations, 0)
    return weighted.sum(dim=1, keepdim=True) if sum_channels else weighted


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divides, with 0 where either is 0; a plain division would put NaN there, or in its gradient."""
    defined = (numerator != 0) & (denominator != 0)
    return torch.where(defined, numerator / torch.where(defined, denominator, 1), 0)


def _third_term(derivatives: Derivatives, activations: Tensor) -> Tensor:
    r""":math:`\sum_j A_{kj} D_3`, in units of scale squared: the sum is over the positions of channel k only."""
    return derivatives.scale * (over_positions(torch.sum, activations) * derivatives.third)


def over_positions(reduce: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Reduces over the spatial dimensions and keeps them; without any, each value is a single position."""
    positions = values.unsqueeze(-1)
    return reduce(positions, dim=tuple(range(2, positions.dim())), keepdim=True).squeeze(-1)


def _scale(gradients: Tensor) -> Tensor:
    """The largest power of two up to the largest gradient of each example and channel, over all noise samples."""
    largest = over_positions(torch.amax, gradients.detach().abs().amax(dim=0))
    largest = largest.clamp_min(torch.finfo(largest.dtype).tiny)
    mantissa, _ = torch.frexp(largest)
    return largest / (2 * mantissa)
