"""Grad-CAM with the layers, filters and neurons of this package's methods."""

from torch import Tensor

from captum_sgcampp.formulas import Derivatives, grad_cam_weights
from captum_sgcampp.methods.base import CamAttribution


class GradCam(CamAttribution):
    r"""Grad-CAM for a layer: each channel is weighted by the mean of its gradient.

    .. math::
        w_k = \frac{1}{Z} \sum_i g_{ki}, \qquad L_i = \mathrm{relu}\Big(\sum_k w_k A_{ki}\Big)

    as in Selvaraju et al. (*Grad-CAM*, arXiv:1610.02391). The map is that of Captum's
    :class:`~captum.attr.LayerGradCam`, which has no `reshape_transform`, filters, neurons or several targets.

    Parameters, errors and what :meth:`attribute` takes are those of :class:`CamAttribution`.

    Example::

        >>> import torch
        >>> from captum_sgcampp.methods.grad_cam import GradCam
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> GradCam(model, model[0]).attribute(torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    def weights(self, activations: Tensor, derivatives: Derivatives) -> Tensor:  # noqa: ARG002
        """Returns the mean of each channel's gradient over its positions."""
        return grad_cam_weights(derivatives)
