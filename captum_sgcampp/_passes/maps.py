"""From a model and its inputs to maps: of one method or several, for several layers and targets, by the same passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._captum import TargetType, _format_additional_forward_args
from captum_sgcampp._passes import user_warnings
from captum_sgcampp._passes.averaging import Averaging, LayerStatistics
from captum_sgcampp._passes.layer_view import LayerView
from captum_sgcampp._passes.noise import Noise
from captum_sgcampp._probe.probe import LayerProbe
from captum_sgcampp.formulas import Derivatives


class Weighting(NamedTuple):
    """What distinguishes one method from another."""

    weights: Callable[[Tensor, Derivatives], Tensor]
    """Computes the weights from the activations and the derivatives."""
    is_smooth: bool
    """Whether the derivatives are those averaged over the noise samples, or those at the input."""


class WeightedMap(NamedTuple):
    """The map of one method."""

    weights: Tensor
    r"""(N, C, 1, ...), or (N, C, \*spatial)."""
    attribution: Tensor
    r"""(N, 1, \*spatial), or (N, C, \*spatial) if channels are not summed."""


class LayerMaps(NamedTuple):
    """The maps at one layer tensor, for one target."""

    layer: Module
    activations: Tensor
    r"""The activations without noise, (N, C, \*spatial)."""
    of_each: list[WeightedMap]
    """The map of each method."""


class AllMaps(NamedTuple):
    """The outcome of all passes."""

    output: Tensor
    """The model's output without noise, detached."""
    targets: Sequence[TargetType]
    """The targets that were chosen."""
    at_targets: list[list[LayerMaps]]
    """For each target, the maps at each layer tensor."""
    seed: int | None
    """The seed of the noise, if it is known."""


@dataclass(frozen=True)
class MapMaker:
    """Computes maps.

    Args:
        forward_func: The model, or a function that calls it.
        layers: The layers.
        view: How the layers' tensors become maps.
        derivatives: The source of the derivatives.
        noise: The noise samples.
        device_ids: For DataParallel, as in Captum's attribution methods.
        attribute_to_layer_input: Attribute to what the layers take, rather than what they return.
        read_scores: Picks the scores out of what the model returns, if that is not a tensor.
        grad_kwargs: For `torch.autograd.grad`.
        show_progress: Show a progress bar.
    """

    forward_func: Callable[..., Any]
    layers: Sequence[Module]
    view: LayerView
    derivatives: str
    noise: Noise
    device_ids: list[int] | None = None
    attribute_to_layer_input: bool = False
    read_scores: Callable[[Any], Any] = lambda output: output
    grad_kwargs: dict[str, Any] = field(default_factory=dict)
    show_progress: bool = False

    def run(
        self,
        methods: Sequence[Weighting],
        inputs: tuple[Tensor, ...],
        additional_forward_args: object,
        choose_targets: Callable[[Tensor], Sequence[TargetType]],
        *,
        relu_attributions: bool = True,
        sum_channels: bool | None = None,
    ) -> AllMaps:
        """Runs the model, without noise and with it, and computes the maps.

        Args:
            methods: The methods.
            inputs: The inputs without noise.
            additional_forward_args: What follows the inputs.
            choose_targets: Chooses the targets, given the output without noise.
            relu_attributions: Rectify the maps.
            sum_channels: Sum over the channels. None sums unless filters are selected.

        Raises:
            Exception: Whatever :meth:`Averaging.run` raises.

        Warns:
            UserWarning: The model is in training mode; or what :meth:`Averaging.run` warns of.
        """
        keep_graph = bool(self.grad_kwargs.get("create_graph"))
        probe = LayerProbe(
            self.forward_func,
            self.layers,
            device_ids=self.device_ids,
            attribute_to_layer_input=self.attribute_to_layer_input,
            keep_graph=keep_graph,
            read_scores=self.read_scores,
        )
        user_warnings.warn(user_warnings.training_mode(probe.modules))
        averaging = Averaging(
            probe,
            self.view,
            self.derivatives,
            self.noise,
            self.grad_kwargs,
            self.show_progress,
            with_clean_derivatives=not all(method.is_smooth for method in methods),
        )

        def map_by(method: Weighting, at_layer: LayerStatistics) -> WeightedMap:
            derivatives = at_layer.averaged if method.is_smooth else at_layer.clean
            assert derivatives is not None, "they are taken where a method needs them"
            weights = method.weights(at_layer.activations, derivatives)
            attribution = self.view.attribution(
                weights, at_layer.activations, relu_attributions=relu_attributions, sum_channels=sum_channels
            )
            return WeightedMap(weights, attribution)

        with torch.inference_mode(False), torch.set_grad_enabled(keep_graph):
            forward_args = tuple(map(_for_autograd, _format_additional_forward_args(additional_forward_args) or ()))
            averages = averaging.run(
                inputs, forward_args, lambda output: list(map(_for_autograd, choose_targets(output)))
            )
            at_targets = [
                [
                    LayerMaps(at_layer.layer, at_layer.activations, [map_by(method, at_layer) for method in methods])
                    for at_layer in at_layers
                ]
                for at_layers in averages.statistics
            ]
        return AllMaps(averages.output, averages.targets, at_targets, averages.seed)


def _for_autograd(value: Any) -> Any:
    """Copies a tensor that was made in inference mode, which autograd refuses to save; returns all else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
