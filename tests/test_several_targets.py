"""Several targets from the same passes."""

from typing import Any

import pytest
import torch
from helpers import SMOOTH, one
from models import cut_inputs, cut_model
from oracle import inputs_seen

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

TARGETS: list[Any] = [1, [1, 4, 2], torch.tensor([0, 0, 3]), (2,), torch.tensor(4)]


@pytest.mark.parametrize("noise", [{}, SMOOTH, {**SMOOTH, "n_samples_batch_size": 3}])
@pytest.mark.parametrize("source", ["powers", "exp", "autograd"])
@pytest.mark.parametrize("options", [{}, {"filters": [2, 0], "subset": [(1, 1)]}, {"attr_dim_summation": False}])
def test_the_same_as_one_by_one(noise: dict[str, Any], source: str, options: dict[str, Any]) -> None:
    model, inputs = cut_model(rectified=False, smooth=True), cut_inputs()
    method = (LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus)(model, "layer", derivatives=source)
    torch.manual_seed(4)
    with inputs_seen(model) as seen:
        together = method.attribute_targets(inputs, TARGETS, **noise, **options)
    passes = len(seen)
    assert len(together) == len(TARGETS)
    for target, attribution in zip(TARGETS, together, strict=True):
        torch.manual_seed(4)
        with inputs_seen(model) as seen:
            alone = method.attribute(inputs, target, **noise, **options)
        assert len(seen) == passes
        torch.testing.assert_close(attribution, alone, rtol=1e-10, atol=1e-14)
    assert not all(torch.equal(attribution, together[0]) for attribution in together)


def test_without_noise_and_for_lists_of_layers() -> None:
    model, inputs = cut_model(), cut_inputs()
    method = LayerGradCamPlusPlus(model, ["layer", "below"])
    together = method.attribute_targets(inputs, range(3))
    for target, attributions in enumerate(together):
        torch.testing.assert_close(attributions, method.attribute(inputs, target))


def test_with_create_graph_each_can_be_differentiated() -> None:
    model, inputs = cut_model(smooth=True), cut_inputs().requires_grad_()
    method = LayerGradCamPlusPlus(model, "layer")
    together = method.attribute_targets(inputs, [0, 3], grad_kwargs={"create_graph": True})
    for target, attribution in zip([0, 3], together, strict=True):
        alone = one(method.attribute(inputs, target, grad_kwargs={"create_graph": True}))
        (gradient,) = torch.autograd.grad(one(attribution).sum(), inputs, retain_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(alone.sum(), inputs)[0])
        assert gradient.any()


@pytest.mark.filterwarnings("ignore:n_samples. is 0")
@pytest.mark.parametrize("build", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp])
def test_no_targets_are_refused(build: type[LayerGradCamPlusPlus]) -> None:
    with pytest.raises(ValueError, match="targets: is empty"):
        build(cut_model(), "layer").attribute_targets(cut_inputs(), [])


@pytest.mark.filterwarnings("ignore:n_samples. is 0")
@pytest.mark.parametrize("build", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp])
@pytest.mark.parametrize("targets", [3, None, torch.tensor(3)])
def test_a_target_in_place_of_a_list_is_refused(targets: Any, build: type[LayerGradCamPlusPlus]) -> None:
    model = cut_model()
    with inputs_seen(model) as seen, pytest.raises(TypeError, match=f"^targets: .*{targets}"):
        build(model, "layer").attribute_targets(cut_inputs(), targets)
    assert seen == []


def test_a_wrong_target_is_refused_before_the_noisy_passes() -> None:
    model = cut_model()
    with inputs_seen(model) as seen, pytest.raises(IndexError):
        LayerSmoothGradCAMpp(model, "layer").attribute_targets(cut_inputs(), [0, 99], **SMOOTH)
    assert len(seen) == 1
