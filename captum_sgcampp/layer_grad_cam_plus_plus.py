"""Grad-CAM++ as a Captum layer attribution."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor
from torch.nn import Module

from captum_sgcampp import formulas, user_warnings
from captum_sgcampp._captum import (
    TargetType,
    _format_additional_forward_args,
    _format_outputs,
    _format_tensor_into_tuples,
    log_usage,
)
from captum_sgcampp.averaging import Averaging
from captum_sgcampp.formulas import ALPHAS
from captum_sgcampp.layer_pass import LayerProbe
from captum_sgcampp.layer_view import LayerView
from captum_sgcampp.layers import find_layer
from captum_sgcampp.noise import Noise
from captum_sgcampp.selection import Selection
from captum_sgcampp.sources import SOURCES

Attribution = Tensor | tuple[Tensor, ...]
"""A map, or one for each of a layer's tensors where it has several."""


class LayerGradCamPlusPlus(LayerAttribution, GradientAttribution):
    r"""Grad-CAM++ for a layer: Grad-CAM whose positions are weighted by second and third derivatives.

    For each example, with :math:`g` the gradient of its score by the layer's activations :math:`A`,

    .. math::
        \alpha_{ki} = \frac{g_{ki}^2}{2 g_{ki}^2 + \sum_j A_{kj} \, g_{ki}^3}, \qquad
        w_k = \sum_i \alpha_{ki} \, \mathrm{relu}(g_{ki}), \qquad
        L_i = \mathrm{relu}\Big(\sum_k w_k A_{ki}\Big)

    as Chattopadhay et al. define it (*Grad-CAM++*, arXiv:1710.11063), and eqs. (5), (3), (2) of Omeiza et al.
    (*Smooth Grad-CAM++*, arXiv:1908.01224). The sum over j runs over channel k alone, and no epsilon is added:
    where numerator or denominator is zero, :math:`\alpha` is zero.

    It is used as Captum's :class:`~captum.attr.LayerGradCam`, on its own or within
    :class:`~captum.attr.NoiseTunnel`. One default differs: ``relu_attributions`` is True, as in the paper.

    Args:
        forward_func: The model, or any function that calls it and returns one score for each example and class.
        layer: The layer to attribute to, usually the last convolutional one: a module, or the dotted name of one
            within `forward_func`. Its tensors are (N, C, \*spatial), with any number of spatial dimensions, also
            none. A list of layers is attributed to in the same passes through the model.
        device_ids: Device IDs, needed only if `forward_func` applies a DataParallel model without being one.
        alpha: Which form of :math:`\alpha`. "bounded" takes the ReLU of the sum's term, which keeps
            :math:`\alpha` in [0, 1/2] and changes nothing where activations are rectified; "eq5" is eq. (5) as it
            stands, which has a pole where activations carry a sign; "eq7" has the numerator
            :math:`D_1` that eq. (7) prints. Default: "bounded"
        derivatives: Where the derivatives come from. "powers" takes the powers of the gradient, the derivatives of
            exp(score) on a network that is piecewise linear above the layer, but for the factor exp(score). "exp"
            has that factor too, so that noisy copies count by their own score. "autograd" takes the true derivatives
            of whatever `forward_func` returns, each with respect to one activation alone. That is costly: for each
            noisy copy, two backward passes through the part above the layer for every position of every channel (of
            `filters`, where given), against one for the others. On a network that is piecewise linear, `forward_func`
            has to return the exponential of the score, as its higher derivatives are zero otherwise. Default: "powers"
        reshape_transform: For layers that are not (N, C, \*spatial): a function from the layer's tensor to one that
            is, such as :func:`tokens_to_map` and :func:`channels_last_to_map` for transformers. Default: None

    Raises:
        TypeError: `layer` is a name, and `forward_func` has no layers to look it up in.
        ValueError: `alpha` or `derivatives` is none of the choices, or there is no layer of that name, or none
            at all.

    Example::

        >>> import torch
        >>> from captum_sgcampp import LayerGradCamPlusPlus
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> method = LayerGradCamPlusPlus(model, model[1])
        >>> attribution = method.attribute(torch.rand(2, 3, 8, 8), target=3)
        >>> attribution.shape
        torch.Size([2, 1, 6, 6])
        >>> method.interpolate(attribution, (8, 8), "bilinear").shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: Module | str | list[Module | str],
        device_ids: list[int] | None = None,
        *,
        alpha: str = "bounded",
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
        _require_choice("alpha", alpha, tuple(ALPHAS))
        _require_choice("derivatives", derivatives, SOURCES)
        self.alpha = alpha
        self.derivatives = derivatives
        self.reshape_transform = reshape_transform

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
    ) -> Attribution | list[Attribution]:
        r"""Computes the Grad-CAM++ map of each example.

        The parameters are those of Captum's :meth:`LayerGradCam.attribute <captum.attr.LayerGradCam.attribute>`,
        whose documentation says more of `inputs`, `target` and `additional_forward_args`.

        Args:
            inputs: Input tensor, or a tuple of them, each (N, ...).
            target: The class to explain: an integer, a tuple, or a tensor or list with one for each example.
                Default: None, for a `forward_func` that returns one score for each example.
            additional_forward_args: What else `forward_func` takes, after the inputs. Default: None
            attribute_to_layer_input: Attribute to the layer's input, not its output. As with Captum, the input of a
                layer in a frozen network counts from that layer on, not in branches that read it before. Default: False
            relu_attributions: Rectify the map, as the paper does. (Captum's `LayerGradCam` does not, unless asked
                to.) Default: True
            attr_dim_summation: Sum over the channels; False returns a map for each. Default: None, which sums
                unless there are `filters`
            grad_kwargs: Further arguments for `torch.autograd.grad`. With ``{"create_graph": True}`` the
                attributions can themselves be differentiated. Default: None
            filters: Indices of the channels to see (section 3.5 of the paper); a map for each, in their order, or
                with ``attr_dim_summation=True`` their sum. Default: None, which is all
            subset: Coordinates of the neurons to see (section 3.6), one number for each spatial dimension: (row,
                column) for a layer with two. Everything else is zero in the map. The weights still come from the
                whole channel. Default: None, which is all
            region: Take `subset` as two opposite corners of a box of neurons, both inclusive. Default: False

        Returns:
            The attributions, (N, 1, \*spatial), or (N, channels, \*spatial) if channels are not summed; a tuple of
            them if the layer has several tensors; a list if `layer` is one. float64 where the layer is, otherwise
            float32; not normalized; detached, unless ``create_graph`` is asked for.

        Raises:
            AssertionError: `target` does not fit the output (Captum's checks).
            IndexError: The layer does not have a filter or a neuron that is asked for.
            RuntimeError: Several threads run the layer, and it cannot be known which belong to this attribution.
            TypeError: `forward_func` or the layer returns something else than tensors of floating point, or
                `filters` or `subset` is not a list of integers.
            ValueError: The layer does not run, the score does not depend on it, or it has no channels or positions;
                there are no examples; `filters` or `subset` is empty, coordinates are not those of the layer's spatial
                dimensions, or `region` is given without two corners; the layer's tensor is a view of memory that the
                model writes into and reads elsewhere.

        Warns:
            UserWarning: The layer runs more than once in a forward pass, and the map is that of the last time;
                activations or gradients are not finite, or activations overflow in their sum; `forward_func` has
                dropout or batch norm in training mode; with "autograd", the second derivatives are zero.
        """
        (attribution,) = self._attribute(
            Noise(),
            Selection(filters, subset, region),
            inputs,
            [target],
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
        )
        return attribution

    @log_usage
    def attribute_targets(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Iterable[TargetType],
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool | None = None,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        filters: Iterable[int] | None = None,
        subset: Iterable[Iterable[int]] | None = None,
        region: bool = False,
    ) -> tuple[Attribution | list[Attribution], ...]:
        """Computes the maps of several targets from the same pass through the model, and one backward pass each.

        Args:
            inputs: Input tensor, or a tuple of them, each (N, ...).
            targets: The targets, each of which can be anything that :meth:`attribute` takes as its target.
            additional_forward_args: As in :meth:`attribute`.
            attribute_to_layer_input: As in :meth:`attribute`.
            relu_attributions: As in :meth:`attribute`.
            attr_dim_summation: As in :meth:`attribute`.
            grad_kwargs: As in :meth:`attribute`.
            filters: As in :meth:`attribute`.
            subset: As in :meth:`attribute`.
            region: As in :meth:`attribute`.

        Returns:
            For each target, what :meth:`attribute` returns for it.

        Raises:
            ValueError: There are no targets. Beyond that, what :meth:`attribute` raises.
        """
        return self._attribute(
            Noise(),
            Selection(filters, subset, region),
            inputs,
            targets,
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
        )

    def _attribute(
        self,
        noise: Noise,
        selection: Selection,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Iterable[TargetType],
        additional_forward_args: object,
        attribute_to_layer_input: bool,
        relu_attributions: bool,
        attr_dim_summation: bool | None,
        grad_kwargs: dict[str, Any] | None,
        show_progress: bool = False,
    ) -> tuple[Attribution | list[Attribution], ...]:
        """Computes the maps from derivatives averaged over noise samples; Grad-CAM++ is the case of no noise."""
        inputs = _format_tensor_into_tuples(inputs)
        if inputs[0].dim() and not len(inputs[0]):
            raise ValueError(
                f"inputs: hold no examples, their shape being {tuple(inputs[0].shape)}; give at least one."
            )
        noise.check(inputs)
        targets = _as_list(targets)
        keep_graph = bool(grad_kwargs and grad_kwargs.get("create_graph"))
        sum_channels = selection.filters is None if attr_dim_summation is None else attr_dim_summation
        layers = self.layer if isinstance(self.layer, list) else [self.layer]
        user_warnings.warn(user_warnings.training_mode(self.forward_func))
        probe = LayerProbe(
            self.forward_func,
            layers,
            device_ids=self.device_ids,
            attribute_to_layer_input=attribute_to_layer_input,
            keep_graph=keep_graph,
        )
        view = LayerView(selection, self.reshape_transform)
        with torch.inference_mode(False), torch.set_grad_enabled(keep_graph):
            averaging = Averaging(
                probe,
                view,
                self.derivatives,
                noise,
                list(map(_for_autograd, targets)),
                grad_kwargs or {},
                show_progress,
            )
            forward_args = tuple(map(_for_autograd, _format_additional_forward_args(additional_forward_args) or ()))
            attributions = []
            for statistics in averaging.run(inputs, forward_args):
                maps: dict[Module, tuple[Tensor, ...]] = dict.fromkeys(layers, ())
                for layer, activations, derivatives in statistics:
                    alpha = ALPHAS[self.alpha](derivatives, activations)
                    weights = formulas.weights(alpha, derivatives)
                    attribution = formulas.weighted_activations(weights, activations, sum_channels)
                    rectified = attribution.relu() if relu_attributions else attribution
                    maps[layer] += (selection.neurons(rectified),)
                attributions.append(_format_outputs(isinstance(self.layer, list), [maps[layer] for layer in layers]))
        return tuple(attributions)


def _as_list(targets: Iterable[TargetType]) -> list[TargetType]:
    try:
        as_list = list(targets)
    except TypeError as error:
        raise TypeError(f"targets: must be a list of targets, and is {targets!r}.") from error
    if not as_list:
        raise ValueError("targets: is empty; give at least one target.")
    return as_list


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(map(repr, choices))}, and is {value!r}.")


def _for_autograd(value: Any) -> Any:
    """Copies a tensor that was made in inference mode, which autograd refuses to save; all else stays."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
