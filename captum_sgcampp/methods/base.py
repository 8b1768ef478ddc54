"""The base of all class activation maps: weights times a layer's activations."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._captum import TargetType, _format_outputs, log_usage
from captum_sgcampp._checks import require_choice
from captum_sgcampp._passes.examples import as_examples
from captum_sgcampp._passes.layer_view import LayerView
from captum_sgcampp._passes.maps import MapMaker, Weighting
from captum_sgcampp._passes.noise import Noise
from captum_sgcampp._passes.selection import Selection
from captum_sgcampp._passes.sources import SOURCES
from captum_sgcampp.formulas import Derivatives
from captum_sgcampp.layers import find_layer
from captum_sgcampp.reshape import for_inputs


@dataclass(frozen=True)
class Arguments:
    """What follows the target in an `attribute`, checked as far as it can be by itself."""

    additional_forward_args: object
    attribute_to_layer_input: bool
    relu_attributions: bool
    attr_dim_summation: bool | None
    grad_kwargs: dict[str, Any]
    selection: Selection
    noise: Noise
    show_progress: bool


class CamAttribution(LayerAttribution, GradientAttribution):
    r"""The base of the methods whose map is a weighted sum of a layer's activations, :math:`\sum_k w_k A_{ki}`.

    A method is a subclass that overrides :meth:`weights`: of this class, or of :class:`SmoothCamAttribution` if its
    derivatives are averaged over noisy copies of the input. Filters, neurons, several layers and several targets come
    with them.

    Args:
        forward_func: The model, or any function that calls it and returns one score for each example and class.
        layer: The layer: a module, its dotted name in `forward_func`, or a list of either.
        device_ids: Device IDs, needed only if `forward_func` applies a DataParallel model without being one.
        derivatives: The source of the derivatives, "powers", "exp" or "autograd"; see :class:`LayerGradCamPlusPlus`.
            Default: "powers"
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

    @log_usage
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool | None = None,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        filters: Iterable[int] | None = None,
        subset: Iterable[Iterable[int]] | None = None,
        region: bool = False,
    ) -> Tensor | Any:
        r"""Computes the map of each example.

        The parameters are those of Captum's :meth:`LayerGradCam.attribute <captum.attr.LayerGradCam.attribute>`,
        which documents `inputs`, `target` and `additional_forward_args` in more detail.

        Args:
            inputs: Input tensor, or a tuple of them, each (N, ...).
            target: The class to explain: an integer, a tuple, or a tensor or list with one for each example.
                Default: None, for a `forward_func` that returns one score for each example
            additional_forward_args: Further arguments of `forward_func`, after the inputs. Default: None
            attribute_to_layer_input: Attribute to the layer's input instead of its output. As with Captum, the input of
                a layer in a frozen network counts only from that layer on, not in branches that read it earlier.
                Default: False
            relu_attributions: Rectify the map, as in the paper. (Captum's `LayerGradCam` does so only on request.)
                Default: True
            attr_dim_summation: Sum over the channels; False returns a map for each. Default: None, which sums
                unless `filters` are given
            grad_kwargs: Further arguments for `torch.autograd.grad`. With ``{"create_graph": True}`` the
                attributions can themselves be differentiated. Default: None
            filters: Indices of the channels to show (section 3.5 of the paper). Returns a map for each, in this order,
                or with ``attr_dim_summation=True`` their sum. Default: None, all channels
            subset: Coordinates of the neurons to show (section 3.6), one number for each spatial dimension: (row,
                column) for a layer with two. Everything else is zero in the map. The weights still come from the
                whole channel. Default: None, all neurons
            region: Treat `subset` as two opposite corners of a box of neurons, both inclusive. Default: False

        Returns:
            The attributions, (N, 1, \*spatial), or (N, channels, \*spatial) if channels are not summed: a tensor; a
            tuple of tensors if the layer has several; a list if `layer` is one. float64 where the layer is, otherwise
            float32; not normalized; detached, unless ``create_graph`` is set.

        Raises:
            AssertionError: `target` does not fit the output (Captum's checks).
            IndexError: A filter or neuron is out of range for the layer.
            RuntimeError: Several threads run the layer, and it is unknown which of them belong to this attribution.
            TypeError: `forward_func` or the layer returns something other than tensors of floating point, or
                `filters` or `subset` is not a list of integers.
            ValueError: The layer does not run, the score does not depend on it, or it has no channels or positions;
                there are no examples; `filters` or `subset` is empty, coordinates do not match the layer's spatial
                dimensions, or `region` is given without two corners; the layer's tensor is a view of memory that the
                model writes into and reads elsewhere.

        Warns:
            UserWarning: The layer runs more than once in a forward pass, so the map is that of the last time;
                activations or gradients are not finite, or activations overflow in their sum; `forward_func` has
                dropout or batch norm in training mode; with "autograd", the second derivatives are zero.
        """
        arguments = self._arguments(
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
            filters=filters,
            subset=subset,
            region=region,
        )
        return self._attribute(inputs, lambda _output: [target], arguments)[0]

    _plain_attribute: ClassVar[Callable[..., Any]] = attribute
    """The `attribute` that only packs its arguments, to tell whether a subclass has another one."""

    @log_usage
    def attribute_targets(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Iterable[TargetType] | Callable[[Tensor], Iterable[TargetType]],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor | Any, ...]:
        """Computes the maps of several targets from the same passes through the model, and so from the same noise.

        Args:
            inputs: Input tensor, or a tuple of them, each (N, ...).
            targets: The targets, each of which can be anything that :meth:`attribute` takes as its target; or a
                function that chooses them, given what `forward_func` returns for the inputs without noise.
            *args: What follows the target in :meth:`attribute`.
            **kwargs: The same, by keyword.

        Returns:
            For each target, what :meth:`attribute` returns for it.

        Raises:
            TypeError: `targets` is neither a list nor a function; the arguments are not those of :meth:`attribute`; or
                the class overrides :meth:`attribute`, which this method would pass by.
            ValueError: There are no targets. Beyond that, whatever :meth:`attribute` raises.
        """
        if not self.has_plain_attribute():
            raise TypeError(
                f"attribute_targets: {type(self).__name__} overrides attribute, which would not be called. Override "
                "weights instead, or call attribute for each target."
            )
        try:
            bound = inspect.signature(self.attribute).bind(inputs, None, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"attribute_targets: what follows the targets must suit attribute: {error}.") from error
        bound.apply_defaults()
        _inputs, _target, *others = bound.args
        if callable(targets):
            choose = targets
            return self._attribute(
                inputs, lambda output: _as_list(choose(output)), self._arguments(*others, **bound.kwargs)
            )
        given = _as_list(targets)
        return self._attribute(inputs, lambda _output: given, self._arguments(*others, **bound.kwargs))

    @classmethod
    def has_plain_attribute(cls) -> bool:
        """Whether its `attribute` is that of this package, which only packs its arguments."""
        return cls.attribute is cls._plain_attribute

    def _arguments(
        self,
        additional_forward_args: object,
        attribute_to_layer_input: bool,
        relu_attributions: bool,
        attr_dim_summation: bool | None,
        grad_kwargs: dict[str, Any] | None,
        *,
        filters: Iterable[int] | None,
        subset: Iterable[Iterable[int]] | None,
        region: bool,
    ) -> Arguments:
        """Checks what follows the target in :meth:`attribute`."""
        if not isinstance(grad_kwargs, Mapping | None):
            raise TypeError(
                f"grad_kwargs: must be a dict with arguments of torch.autograd.grad, or None, but is {grad_kwargs!r}."
            )
        return Arguments(
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            dict(grad_kwargs or {}),
            Selection(filters, subset, region),
            Noise(),
            show_progress=False,
        )

    def _attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        choose_targets: Callable[[Tensor], Sequence[TargetType]],
        arguments: Arguments,
    ) -> tuple[Any, ...]:
        """Computes what `attribute` returns for each of the targets."""
        inputs = as_examples(inputs)
        layers = self.layer if isinstance(self.layer, list) else [self.layer]
        maker = MapMaker(
            self.forward_func,
            layers,
            LayerView(arguments.selection, for_inputs(self.reshape_transform, inputs, self.forward_func)),
            self.derivatives,
            arguments.noise,
            device_ids=self.device_ids,
            attribute_to_layer_input=arguments.attribute_to_layer_input,
            grad_kwargs=arguments.grad_kwargs,
            show_progress=arguments.show_progress,
        )
        method = Weighting(self.weights, is_smooth=arguments.noise.n_samples > 0)
        found = maker.run(
            [method],
            inputs,
            arguments.additional_forward_args,
            choose_targets,
            relu_attributions=arguments.relu_attributions,
            sum_channels=arguments.attr_dim_summation,
        )
        attributions = []
        for at_layers in found.at_targets:
            by_layer: dict[Module, tuple[Tensor, ...]] = dict.fromkeys(layers, ())
            for at_layer in at_layers:
                by_layer[at_layer.layer] += (at_layer.of_each[0].attribution,)
            attributions.append(_format_outputs(isinstance(self.layer, list), [by_layer[layer] for layer in layers]))
        return tuple(attributions)


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
