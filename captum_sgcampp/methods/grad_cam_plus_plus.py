"""Grad-CAM++ as a Captum layer attribution."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_sgcampp._captum import TargetType, log_usage
from captum_sgcampp._passes.selection import Selection
from captum_sgcampp.formulas import ALPHAS, Derivatives, grad_cam_pp_weights
from captum_sgcampp.methods.base import CamAttribution, require_choice


class LayerGradCamPlusPlus(CamAttribution):
    r"""Grad-CAM++ for a layer: Grad-CAM whose positions are weighted by second and third derivatives.

    For each example, with :math:`g` the gradient of its score with respect to the layer's activations :math:`A`,

    .. math::
        \alpha_{ki} = \frac{g_{ki}^2}{2 g_{ki}^2 + \mathrm{relu}\big(\sum_j A_{kj} \, g_{ki}^3\big)}, \qquad
        w_k = \sum_i \alpha_{ki} \, \mathrm{relu}(g_{ki}), \qquad
        L_i = \mathrm{relu}\Big(\sum_k w_k A_{ki}\Big)

    as Chattopadhay et al. define it (*Grad-CAM++*, arXiv:1710.11063), and eqs. (5), (3), (2) of Omeiza et al.
    (*Smooth Grad-CAM++*, arXiv:1908.01224), except for the ReLU in the denominator, which removes the pole of eq. (5)
    and which ``alpha="eq5"`` omits. The sum over j runs over the positions of channel k only, and no epsilon is added:
    where the numerator or denominator is zero, :math:`\alpha` is zero.

    Use it like Captum's :class:`~captum.attr.LayerGradCam`, on its own or within
    :class:`~captum.attr.NoiseTunnel`. One default differs: ``relu_attributions`` is True, as in the paper.

    Args:
        forward_func: The model, or any function that calls it and returns one score for each example and class.
        layer: The layer to attribute to, usually one of the last convolutional ones: a module, or its dotted name in
            `forward_func`. Its tensors are (N, C, \*spatial), with any number of spatial dimensions, including none.
            A list of layers is attributed to in the same passes through the model.
        device_ids: Device IDs, needed only if `forward_func` applies a DataParallel model without being one.
        alpha: The form of :math:`\alpha`. "bounded" is the formula above. It stays in [0, 1/2], and without noise it
            equals eq. (5) where activations are rectified. "eq5" is eq. (5) as printed, without the ReLU in the
            denominator, which has a pole where activations carry a sign; "eq7" is "eq5" with the numerator
            :math:`D_1` that eq. (7) prints. Default: "bounded"
        derivatives: The source of the derivatives. "powers" takes the powers of the gradient, which are the derivatives
            of exp(score) on a network that is piecewise linear above the layer, without the factor exp(score). "exp"
            includes that factor, so that noisy copies are weighted by their own score. "autograd" takes the true
            derivatives of whatever `forward_func` returns, each with respect to one activation. That is costly: for
            each noisy copy, two backward passes through the part above the layer for every position of every channel
            (of `filters`, if given), instead of one. For a piecewise linear network, `forward_func` then has to return
            the exponential of the score, because the higher derivatives of the score itself are zero.
            Default: "powers"
        reshape_transform: For layers that are not (N, C, \*spatial): a function from the layer's tensor to one of that
            shape, such as :func:`tokens_to_map` and :func:`channels_last_to_map` for transformers. Default: None

    Raises:
        TypeError: `layer` is a name, and `forward_func` is not a module.
        ValueError: `alpha` or `derivatives` is not one of the choices, there is no layer of that name, or the list of
            layers is empty.

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
        super().__init__(forward_func, layer, device_ids, derivatives=derivatives, reshape_transform=reshape_transform)
        require_choice("alpha", alpha, ALPHAS)
        self.alpha = alpha

    def weights(self, activations: Tensor, derivatives: Derivatives) -> Tensor:
        """Computes the weights of eqs. (3), (8), with the chosen form of alpha."""
        return grad_cam_pp_weights(ALPHAS[self.alpha](derivatives, activations), derivatives)

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
        r"""Computes the Grad-CAM++ map of each example.

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
        return self._attribute(
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
            Selection(filters, subset, region),
        )
