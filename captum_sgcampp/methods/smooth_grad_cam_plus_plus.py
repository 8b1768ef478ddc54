"""Smooth Grad-CAM++ as a Captum layer attribution."""

from captum_sgcampp.methods.grad_cam_plus_plus import LayerGradCamPlusPlus
from captum_sgcampp.methods.smooth_base import SmoothCamAttribution


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
