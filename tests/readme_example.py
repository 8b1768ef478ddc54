"""The README's example, for mypy to check in strict mode."""

from torch import Tensor, nn

from captum_sgcampp import LayerSmoothGradCAMpp


def heat_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    method = LayerSmoothGradCAMpp(model, "layer4.1")
    attribution = method.attribute(x, target=model(x).argmax(), n_samples=25, stdevs=0.66)  # (1, 1, 7, 7)
    heat_map = method.interpolate(attribution, x.shape[2:], "bilinear")[0]
    return [heat_map]
