"""A user's method is a subclass that overrides the weights; all else comes with it."""

from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from helpers import one
from models import TARGETS, cut_inputs, cut_model
from torch import Tensor

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp.formulas import Derivatives


class GradCam(LayerGradCamPlusPlus):
    def weights(self, activations: Tensor, derivatives: Derivatives) -> Tensor:
        return derivatives.gradient.mean(dim=tuple(range(2, activations.dim())), keepdim=True)


class SmoothGradCam(LayerSmoothGradCAMpp):
    weights = GradCam.weights


def noise() -> dict[str, Any]:
    return {"n_samples": 4, "stdevs": 0.3, "generator": torch.Generator().manual_seed(0)}


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("relu_attributions", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_grad_cam_is_captums(dims: int, relu_attributions: bool, rectified: bool) -> None:
    model, inputs = cut_model(dims, rectified=rectified), cut_inputs(dims)
    ours = GradCam(model, model.layer).attribute(inputs, TARGETS, relu_attributions=relu_attributions)
    captums = LayerGradCam(model, model.layer).attribute(inputs, TARGETS, relu_attributions=relu_attributions)
    torch.testing.assert_close(ours, captums, rtol=1e-12, atol=1e-14)


def test_with_noise_its_weights_are_means() -> None:
    model, inputs = cut_model(), cut_inputs()
    generator = torch.Generator().manual_seed(0)
    copies = [inputs + 0.3 * torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype) for _ in range(4)]
    clean = model.layer(model.below(inputs)).detach()
    gradients = []
    for copy in copies:
        activations = model.layer(model.below(copy)).detach().requires_grad_()
        scores = model.above(activations)[range(3), TARGETS]
        gradients.append(torch.autograd.grad(scores.sum(), activations)[0])
    weights = torch.stack(gradients).mean(dim=(0, 3, 4)).reshape(3, -1, 1, 1)
    wanted = (weights * clean).sum(dim=1, keepdim=True).relu()
    actual = SmoothGradCam(model, model.layer).attribute(inputs, TARGETS, **noise())
    torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-14)


def test_filters_neurons_layers_and_targets_come_with_it() -> None:
    model, inputs = cut_model(), cut_inputs()
    method = SmoothGradCam(model, [model.layer, model.below])
    selected: dict[str, Any] = {"filters": [2, 0], "subset": [(0, 1), (1, 0)]}
    several = method.attribute_targets(inputs, [1, 2], **selected, **noise())
    assert len(several) == 2
    for target, maps in zip([1, 2], several, strict=True):
        alone = method.attribute(inputs, target, **selected, **noise())
        for actual, wanted in zip(maps, alone, strict=True):
            assert one(actual).shape[1] == 2
            assert not one(actual)[:, :, 0, 0].any()
            torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=0)
