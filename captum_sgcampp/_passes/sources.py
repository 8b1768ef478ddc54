"""The sources of the derivatives: D1, D2, D3 of the noise samples in one pass, and their sums."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from captum_sgcampp import formulas
from captum_sgcampp._passes.higher_derivatives import second_and_third_derivatives
from captum_sgcampp._passes.layer_view import LayerView
from captum_sgcampp._probe.layer_pass import LayerPass, LayerTensor, joined
from captum_sgcampp.formulas import Derivatives

SOURCES = ("powers", "exp", "autograd")
"""The values of `derivatives` that the attribution methods accept."""


class PassDerivatives(NamedTuple):
    """One pass's derivatives at one layer tensor."""

    gradients: Tensor
    r"""dS/dA for each noise sample, (n, N, C, \*spatial), of the selected channels."""
    summed: Derivatives
    """The sums of D1, D2, D3 over the noise samples."""


@dataclass(frozen=True)
class DerivativeSource:
    """Takes the derivatives of passes in which the noise samples follow one another.

    Args:
        name: One of :data:`SOURCES`.
        view: How the layers' tensors become maps.
        grad_kwargs: For `torch.autograd.grad`.
        on_positions: Called by "autograd", which is slow, with the number of positions that it has finished.
        n_beside: The number of rows that follow those of the noise samples in the layers' tensors, and are left out.
    """

    name: str
    view: LayerView
    grad_kwargs: dict[str, Any]
    on_positions: Callable[[int], object]
    n_beside: int = 0

    def derivatives(
        self,
        layer_pass: LayerPass,
        scores: Tensor,
        n_samples: int,
        activations: list[Tensor],
        *,
        retain_graph: bool,
    ) -> list[PassDerivatives]:
        r"""Takes the derivatives at each layer tensor of a pass.

        Args:
            layer_pass: The pass.
            scores: Its scores, one for each of n_samples * N examples.
            n_samples: The number of noise samples of each example in the pass.
            activations: The map of each layer tensor without noise, (N, C, \*spatial).
            retain_graph: Keep the graph, for the derivatives of other scores.

        Raises:
            ValueError: The rows of the scores or of a layer are not noise samples of the examples.
        """
        grad_kwargs = {**self.grad_kwargs, "retain_graph": True} if retain_graph else self.grad_kwargs
        first_order = {**grad_kwargs, "create_graph": True} if self.name == "autograd" else grad_kwargs
        derivatives = []
        for tensor, pieces, activation in zip(
            layer_pass.tensors, layer_pass.gradients(scores, first_order), activations, strict=True
        ):
            gradients = self.view.gradients(joined(pieces), tensor.name)
            if len(gradients) == n_samples * len(activation) + self.n_beside:
                gradients = gradients[: n_samples * len(activation)]
            self._require_rows(gradients, activation, scores, n_samples, tensor.name)
            by_sample = gradients.reshape(n_samples, *activation.shape)
            if self.name == "autograd":
                higher = self._higher_derivatives(tensor, pieces, grad_kwargs)
                second, third = (values.to(by_sample.dtype).reshape_as(by_sample) for values in higher)
                summed = formulas.sum_of_derivatives(by_sample, second, third)
            elif self.name == "exp":
                by_score = scores.to(by_sample.dtype).reshape(n_samples, -1, *[1] * (activation.dim() - 1))
                summed = formulas.sum_of_powers(by_sample, by_score)
            else:
                summed = formulas.sum_of_powers(by_sample)
            derivatives.append(PassDerivatives(by_sample, summed))
        return derivatives

    def _require_rows(self, gradients: Tensor, activation: Tensor, scores: Tensor, n_samples: int, layer: str) -> None:
        """Raises if the rows of a layer are not the noise samples, or not those of the scores where that matters."""
        if gradients.shape != (n_samples * len(activation), *activation.shape[1:]):
            raise ValueError(
                f"layer: {layer} has shape {tuple(activation.shape)} for the inputs, and {tuple(gradients.shape)} for "
                f"{n_samples} noisy copies of them. It needs the rows of the examples, which reshape_transform can "
                "restore. If the model selects rows by their values, as for one of several experts, noise changes "
                "them; then choose a layer with a row for each example."
            )
        if self.name != "powers" and len(scores) != len(gradients):
            raise ValueError(
                f"derivatives: {self.name!r} needs a layer with one row for each score, but layer {layer} has "
                f"{len(gradients)} row(s) for {len(scores)} score(s). 'powers' does not need it."
            )

    def _higher_derivatives(
        self, tensor: LayerTensor, pieces: tuple[Tensor, ...], grad_kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """True second and third derivatives at the elements of the maps, row by row."""
        by_device = []
        for captured, gradient in zip(tensor.by_device, pieces, strict=True):
            indices = self.view.indices(gradient, tensor.name).flatten(1)
            if gradient is pieces[-1]:
                indices = indices[: len(indices) - self.n_beside]
            if captured.edge is None:  # its gradient was taken as zero
                by_device.append((gradient.new_zeros(indices.shape),) * 2)
            else:
                by_device.append(
                    second_and_third_derivatives(captured.edge, gradient, indices, grad_kwargs, self.on_positions)
                )
        second, third = map(joined, zip(*by_device, strict=True))
        return second, third
