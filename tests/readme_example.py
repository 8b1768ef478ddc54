"""The README's example, for mypy to check in strict mode."""

from captum.attr import LayerAttribution
from torch import Tensor
from torchvision.models import VGG

from captum_sgcampp import LayerSmoothGradCAMpp


def heat_maps(model: VGG, x: Tensor, c: int) -> list[Tensor]:
    method = LayerSmoothGradCAMpp(model, model.features[29])  # VGG-16's last ReLU before the last pooling
    attribution = method.attribute(x, target=c, n_samples=5, stdevs=0.3)  # (N, 1, 14, 14)
    heat_map = LayerAttribution.interpolate(attribution, x.shape[2:], "bilinear")
    return [heat_map]
