"""Smooth Layer-CAM: its formula, the published Layer-CAM as its case without noise, and what it inherits."""

from typing import Any

import pytest
import torch
from helpers import one
from models import TARGETS, cut_inputs, cut_model, images, seeded
from torch import Tensor, nn

from captum_sgcampp import LayerSmoothGradCAMpp, LayerSmoothLayerCAM


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer_cam(model: Any, inputs: Tensor, noisy: list[Tensor]) -> Tensor:
    """The formula, with the gradients of each example and noisy copy taken one by one."""
    clean = model.activation(inputs)
    gradients = torch.zeros_like(clean)
    for copy in noisy:
        for number, target in enumerate(TARGETS):
            activations = model.activation(copy[number : number + 1]).requires_grad_()
            score = model.above(activations)[0, target]
            gradients[number] += torch.autograd.grad(score, activations)[0][0] / len(noisy)
    weighted: Tensor = gradients.clamp(min=0) * clean
    return weighted.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_formula(dims: int, rectified: bool) -> None:
    model, inputs = cut_model(dims, rectified=rectified), cut_inputs(dims)
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    actual = one(
        LayerSmoothLayerCAM(model, model.layer).attribute(
            inputs, TARGETS, n_samples=5, stdevs=0.4, n_samples_batch_size=1, relu_attributions=False
        )
    )
    handle.remove()
    clean, *noisy = seen
    assert torch.equal(clean, inputs)
    assert len(noisy) == 5
    assert actual.any()
    torch.testing.assert_close(actual, layer_cam(model, inputs, noisy), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rectified", [True, False])
def test_without_noise_it_is_layer_cam_and_says_so(rectified: bool) -> None:
    model, inputs = cut_model(rectified=rectified), cut_inputs()
    with pytest.warns(UserWarning, match="n_samples: is 0, .* the map is that of Layer-CAM"):
        actual = one(LayerSmoothLayerCAM(model, model.layer).attribute(inputs, TARGETS))
    torch.testing.assert_close(actual, layer_cam(model, inputs, [inputs]).relu(), rtol=1e-12, atol=1e-14)


def scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low)


def rectified_network() -> Any:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(512, 5)
        )
    )


@pytest.mark.filterwarnings("ignore:n_samples. is 0:UserWarning")
def test_without_noise_it_is_torchcams() -> None:
    methods = pytest.importorskip("torchcam.methods", reason="torchcam is in the extra benchmark")
    model, inputs = rectified_network(), images(1, 3, 12, 12, dtype=torch.float32)
    ours = one(LayerSmoothLayerCAM(model, "1").attribute(inputs, 3))
    with methods.LayerCAM(model, "1") as extractor:
        theirs = extractor(3, model(inputs))[0]
    torch.testing.assert_close(scaled(ours)[0], scaled(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:n_samples. is 0:UserWarning")
def test_without_noise_it_is_pytorch_grad_cams() -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is in the extra benchmark")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs = rectified_network(), images(1, 3, 12, 12, dtype=torch.float32)
    ours = one(LayerSmoothLayerCAM(model, "1").attribute(inputs, 3))
    with grad_cam.LayerCAM(model, [model[1]]) as extractor:
        # Before it resizes them to the input.
        extractor.activations_and_grads(inputs)
        theirs = extractor(inputs, [ClassifierOutputTarget(3)])
    wanted = nn.functional.interpolate(scaled(ours), (12, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(torch.from_numpy(theirs), scaled(wanted)[0], rtol=1e-3, atol=1e-3)


def noise(n_samples: int, seed: int) -> dict[str, Any]:
    return {"n_samples": n_samples, "stdevs": 0.3, "generator": generator(seed)}


@pytest.mark.parametrize("rectified", [pytest.param(True, marks=pytest.mark.slow), False])
def test_two_seeds_agree_and_the_error_falls_with_n(rectified: bool) -> None:
    model, inputs = cut_model(rectified=rectified, smooth=True), cut_inputs()
    method = LayerSmoothLayerCAM(model, model.layer)
    first, second = (one(method.attribute(inputs, TARGETS, **noise(64, seed))) for seed in (0, 1))
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1] > 0.95
    truth = one(method.attribute(inputs, TARGETS, **noise(1024, 99)))

    def error(n_samples: int) -> float:
        maps = [one(method.attribute(inputs, TARGETS, **noise(n_samples, seed))) for seed in range(8)]
        return float(torch.stack([(found - truth).square().mean() for found in maps]).mean().sqrt())

    few, many = error(8), error(128)
    assert many < few / 2.5  # a quarter, on average


def test_filters_add_up_and_neurons_are_cut_out() -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    method = LayerSmoothLayerCAM(model, model.layer)
    channels = method.attribute(inputs, TARGETS, relu_attributions=False, attr_dim_summation=False, **noise(3, 0))
    whole = method.attribute(inputs, TARGETS, **noise(3, 0))
    torch.testing.assert_close(one(channels).sum(dim=1, keepdim=True).relu(), whole, rtol=1e-12, atol=1e-14)
    selected = method.attribute(inputs, TARGETS, filters=[2, 0], subset=[(0, 1)], **noise(3, 0))
    assert torch.equal(one(selected)[:, :, 0, 1], channels[:, [2, 0], 0, 1].relu())
    assert one(selected).count_nonzero() <= 2 * len(inputs)


def test_layers_and_targets_share_passes_and_noise() -> None:
    model, inputs = cut_model(), cut_inputs()
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda _module, _args: calls.append(1))
    method = LayerSmoothLayerCAM(model, ["below", "layer"])
    several = method.attribute_targets(inputs, [1, 2], n_samples_batch_size=2, **noise(4, 0))
    handle.remove()
    assert len(calls) == 1 + 2
    for target, (_, found) in zip([1, 2], several, strict=True):
        alone = LayerSmoothLayerCAM(model, "layer").attribute(inputs, target, **noise(4, 0))
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=0)


def test_it_has_the_parameters_of_smooth_grad_cam_plus_plus_but_for_alpha_and_derivatives() -> None:
    model = cut_model()
    assert LayerSmoothLayerCAM.attribute is LayerSmoothGradCAMpp.attribute
    for argument in ("alpha", "derivatives"):
        wrong: dict[str, Any] = {argument: "powers"}
        with pytest.raises(TypeError, match=argument):
            LayerSmoothLayerCAM(model, model.layer, **wrong)
