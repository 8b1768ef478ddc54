"""Smooth Layer-CAM as a Captum layer attribution."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import Module

from captum_sgcampp.formulas import Derivatives, layer_cam_weights
from captum_sgcampp.methods.smooth_base import SmoothCamAttribution


class LayerSmoothLayerCAM(SmoothCamAttribution):
    r"""Smooth Layer-CAM for a layer: each position is weighted by its own gradient, averaged over noisy inputs.

    With :math:`g_s` the gradient of the score at the s-th of n noisy copies, and :math:`A` the activations of
    the input without noise,

    .. math::
        D_1 = \frac{1}{n} \sum_s g_s, \qquad
        L_i = \mathrm{relu}\Big(\sum_k \mathrm{relu}(D_{1,ki}) \, A_{ki}\Big)

    With ``n_samples=0`` this is Layer-CAM as published by Jiang et al. (*LayerCAM: Exploring Hierarchical Class
    Activation Maps for Localization*, IEEE Transactions on Image Processing 30, 2021). The average over noisy copies,
    eq. (7) of Omeiza et al. (*Smooth Grad-CAM++*, arXiv:1908.01224), is an addition of this package.

    Parameters and errors are those of :class:`LayerGradCamPlusPlus`, without `alpha` and `derivatives`, because only
    the first derivative is needed; :meth:`attribute` also takes the parameters of the noise.

    Example::

        >>> import torch
        >>> from captum_sgcampp import LayerSmoothLayerCAM
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> method = LayerSmoothLayerCAM(model, model[0])
        >>> method.attribute(torch.rand(2, 3, 8, 8), target=3, n_samples=5, stdevs=0.3).shape
        torch.Size([2, 1, 6, 6])
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: Module | str | list[Module | str],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, reshape_transform=reshape_transform)

    def weights(self, activations: Tensor, derivatives: Derivatives) -> Tensor:  # noqa: ARG002
        """Returns the rectified gradient of each position."""
        return layer_cam_weights(derivatives)
