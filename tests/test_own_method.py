"""A user's method is a subclass that overrides the weights; all else comes with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from helpers import one
from models import TARGETS, cut_inputs, cut_model
from torch import Tensor
from torch.utils.data import TensorDataset

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, attribute_dataset
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


class Doubled(LayerSmoothGradCAMpp):
    """Overrides `attribute`, not the weights."""

    def attribute(self, inputs: Any, target: Any = None, *args: Any, factor: float = 2, **kwargs: Any) -> Any:
        return super().attribute(inputs, target, *args, **kwargs) * factor


def test_an_attribute_of_the_users_is_never_passed_by(tmp_path: Path) -> None:
    model, inputs = cut_model(), cut_inputs()
    with pytest.raises(TypeError, match="attribute_targets: Doubled overrides attribute, which would not be called"):
        Doubled(model, "layer").attribute_targets(inputs, [1], **noise())
    options: dict[str, Any] = {"target": [1, 2], "n_samples": 2}
    plain = attribute_dataset(LayerSmoothGradCAMpp(model, "layer"), TensorDataset(inputs), tmp_path / "1", **options)
    maps = attribute_dataset(Doubled(model, "layer"), TensorDataset(inputs), tmp_path / "2", factor=3, **options)
    for key in (f"{name}/{target}" for name in maps.names for target in (1, 2)):
        assert plain[key].any()
        torch.testing.assert_close(maps[key], plain[key] * 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"n_sample": 3}, "unexpected keyword argument 'n_sample'"),
        ((), {"target": 3}, "multiple values for argument 'target'"),
        ((None,) * 6, {}, "too many positional arguments"),
    ],
)
def test_wrong_arguments_of_several_targets(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(
        TypeError, match=f"^attribute_targets: what follows the targets must suit attribute: .*{message}"
    ):
        LayerSmoothGradCAMpp(cut_model(), "layer").attribute_targets(cut_inputs(), [1], *args, **kwargs)
