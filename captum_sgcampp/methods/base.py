"""The base of all class activation maps: weights times a layer's activations."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._captum import (
    TargetType,
    _format_additional_forward_args,
    _format_outputs,
)
from captum_sgcampp._passes import user_warnings
from captum_sgcampp._passes.averaging import Averaging
from captum_sgcampp._passes.examples import as_examples
from captum_sgcampp._passes.layer_view import LayerView
from captum_sgcampp._passes.noise import Noise
from captum_sgcampp._passes.selection import Selection
from captum_sgcampp._passes.sources import SOURCES
from captum_sgcampp._probe.probe import LayerProbe
from captum_sgcampp.formulas import Derivatives
from captum_sgcampp.layers import find_layer
from captum_sgcampp.reshape import for_inputs


class SeveralTargets(NamedTuple):
    """Several targets on their way through `attribute`, which then returns a tuple with the maps of each."""

    choose: Callable[[Tensor], list[TargetType]]
    """Chooses them, given the model's output without noise."""


class CamAttribution(LayerAttribution, GradientAttribution):
    r"""The base of the methods whose map is a weighted sum of a layer's activations, :math:`\sum_k w_k A_{ki}`.

    A method of this kind is a subclass that overrides :meth:`weights`. Subclass :class:`LayerGradCamPlusPlus` for a
    method without noise and :class:`LayerSmoothGradCAMpp` for one with noise; filters, neurons, several layers and
    several targets come with them.

    Args:
        forward_func: The model, or any function that calls it and returns one score for each example and class.
        layer: The layer: a module, its dotted name in `forward_func`, or a list of either.
        device_ids: Device IDs, needed only if `forward_func` applies a DataParallel model without being one.
        derivatives: The source of the derivatives, "powers", "exp" or "autograd". Default: "powers"
        reshape_transform: For layers that are not (N, C, \*spatial): a function from the layer's tensor to one of that
            shape. Default: None

    Raises:
        TypeError: `layer` is a name, and `forward_func` is not a module.
        ValueError: `derivatives` is not one of the choices, there is no layer of that name, or the list of layers is
            empty.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: Module | str | list[Module | str],
        device_ids: list[int] | None = None,
        *,
        derivatives: str = "powers",
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if isinstance(layer, list):
            if not layer:
                raise ValueError("layer: the list is empty; give at least one layer.")
            LayerAttribution.__init__(self, forward_func, [find_layer(forward_func, one) for one in layer], device_ids)
        else:
            LayerAttribution.__init__(self, forward_func, find_layer(forward_func, layer), device_ids)
        GradientAttribution.__init__(self, forward_func)
        require_choice("derivatives", derivatives, SOURCES)
        self.derivatives = derivatives
        self.reshape_transform = reshape_transform

    def weights(self, activations: Tensor, derivatives: Derivatives) -> Tensor:
        r"""Computes the weights of a layer's channels. This is the step that defines a method.

        Args:
            activations: The activations of the selected channels without noise, (N, C, \*spatial).
            derivatives: The derivatives of the scores with respect to them, averaged over the noise samples if there
                are any. ``derivatives.gradient`` is the first.

        Returns:
            The weights: (N, C, 1, ...), or (N, C, \*spatial) for a method that weights each position by itself.
        """
        raise NotImplementedError

    def attribute_targets(
        self, inputs: Tensor | tuple[Tensor, ...], targets: Iterable[TargetType], *args: Any, **kwargs: Any
    ) -> tuple[Tensor | Any, ...]:
        """Computes the maps of several targets from the same passes through the model, and so from the same noise.

        Args:
            inputs: Input tensor, or a tuple of them, each (N, ...).
            targets: The targets, each of which can be anything that :meth:`attribute` takes as its target.
            *args: What follows the target in :meth:`attribute`.
            **kwargs: The same, by keyword.

        Returns:
            For each target, what :meth:`attribute` returns for it.

        Raises:
            TypeError: `targets` is not a list.
            ValueError: There are no targets. Beyond that, whatever :meth:`attribute` raises.
        """
        given = _as_list(targets)
        attributions: tuple[Tensor | Any, ...] = self.attribute(
            inputs, SeveralTargets(lambda _output: given), *args, **kwargs
        )
        return attributions

    def _attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType,
        additional_forward_args: object,
        attribute_to_layer_input: bool,
        relu_attributions: bool,
        attr_dim_summation: bool | None,
        grad_kwargs: dict[str, Any] | None,
        selection: Selection,
        *,
        noise: Noise | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Computes the maps that `attribute` returns: of one target, or a tuple with those of several."""
        if not isinstance(grad_kwargs, Mapping | None):
            raise TypeError(
                f"grad_kwargs: must be a dict with arguments of torch.autograd.grad, or None, but is {grad_kwargs!r}."
            )
        noise = noise or Noise()
        inputs = as_examples(inputs)
        noise.check(inputs)
        several = target if isinstance(target, SeveralTargets) else SeveralTargets(lambda _output: [target])
        keep_graph = bool(grad_kwargs and grad_kwargs.get("create_graph"))
        layers = self.layer if isinstance(self.layer, list) else [self.layer]
        probe = LayerProbe(
            self.forward_func,
            layers,
            device_ids=self.device_ids,
            attribute_to_layer_input=attribute_to_layer_input,
            keep_graph=keep_graph,
        )
        user_warnings.warn(user_warnings.training_mode(probe.modules))
        view = LayerView(selection, for_inputs(self.reshape_transform, inputs, self.forward_func))
        averaging = Averaging(probe, view, self.derivatives, noise, grad_kwargs or {}, show_progress)
        with torch.inference_mode(False), torch.set_grad_enabled(keep_graph):
            forward_args = as_forward_args(additional_forward_args)
            attributions = []
            for statistics in averaging.run(
                inputs, forward_args, lambda output: list(map(_for_autograd, several.choose(output)))
            ).statistics:
                maps: dict[Module, tuple[Tensor, ...]] = dict.fromkeys(layers, ())
                for layer, activations, averaged, _ in statistics:
                    attribution = view.attribution(
                        self.weights(activations, averaged),
                        activations,
                        relu_attributions=relu_attributions,
                        sum_channels=attr_dim_summation,
                    )
                    maps[layer] += (attribution,)
                attributions.append(_format_outputs(isinstance(self.layer, list), [maps[layer] for layer in layers]))
        return tuple(attributions) if isinstance(target, SeveralTargets) else attributions[0]


def as_forward_args(additional_forward_args: object) -> tuple[Any, ...]:
    """Formats the further arguments of the model as a tuple, as Captum does, ready for autograd."""
    return tuple(map(_for_autograd, _format_additional_forward_args(additional_forward_args) or ()))


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raises a ValueError if a parameter is not one of its choices."""
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(map(repr, choices))}, but is {value!r}.")


def _as_list(targets: Iterable[TargetType]) -> list[TargetType]:
    if isinstance(targets, (str, bytes)):
        raise TypeError(f"targets: must be a list of targets, but is {targets!r}.")
    try:
        as_list = list(targets)
    except TypeError as error:
        raise TypeError(f"targets: must be a list of targets, but is {targets!r}.") from error
    if not as_list:
        raise ValueError("targets: is empty; give at least one target.")
    return as_list


def _for_autograd(value: Any) -> Any:
    """Copies a tensor that was made in inference mode, which autograd refuses to save; returns all else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
