"""Grad-CAM++ and Smooth Grad-CAM++ as Captum layer attributions."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import Module

from captum_sgcampp._checks import require_choice
from captum_sgcampp.formulas import ALPHAS, Derivatives, grad_cam_pp_weights
from captum_sgcampp.methods.base import CamAttribution
from captum_sgcampp.methods.smooth_base import SmoothCamAttribution


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


class LayerSmoothGradCAMpp(SmoothCamAttribution, LayerGradCamPlusPlus):
    r"""Smooth Grad-CAM++ for a layer: Grad-CAM++ whose derivatives are averaged over noisy copies of the input.

    With :math:`g_s` the gradient of the score at the s-th of n noisy copies, and :math:`A` the activations of
    the input without noise,

    .. math::
        D_p = \frac{1}{n} \sum_s g_s^p, \qquad
        \alpha_{ki} = \frac{D_2}{2 D_2 + \mathrm{relu}\big(\sum_j A_{kj} D_3\big)}, \qquad
        w_k = \sum_i \alpha_{ki} \, \mathrm{relu}(D_1), \qquad
        L_i = \mathrm{relu}\Big(\sum_k w_k A_{ki}\Big)

    as in eqs. (5) to (8) and (2) of Omeiza et al. (*Smooth Grad-CAM++*, arXiv:1908.01224), except for the ReLU in the
    denominator, which removes the pole of eq. (5) and which ``alpha="eq5"`` omits. It averages the derivatives;
    ``NoiseTunnel(LayerGradCamPlusPlus(...))`` averages the maps.

    Parameters and errors are those of :class:`LayerGradCamPlusPlus`; :meth:`attribute` also takes the parameters of
    the noise.

    Example::

        >>> import torch
        >>> from captum_sgcampp import LayerSmoothGradCAMpp
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> method = LayerSmoothGradCAMpp(model, model[0])
        >>> attribution = method.attribute(torch.rand(2, 3, 8, 8), target=3, n_samples=5, stdevs=0.3)
        >>> attribution.shape
        torch.Size([2, 1, 6, 6])

        One map for each of two filters, and in them the neurons of the upper left quarter:

        >>> corners = [(0, 0), (2, 2)]
        >>> method.attribute(torch.rand(2, 3, 8, 8), 3, n_samples=5, filters=[4, 1], subset=corners, region=True).shape
        torch.Size([2, 2, 6, 6])
    """
