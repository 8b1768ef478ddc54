"""The methods are Captum methods: classes, signatures, defaults, forward functions."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from captum.attr import GradientAttribution, LayerAttribution, LayerGradCam
from helpers import (
    Method,
    every_method,
    hooks_on,
    one,
    seeded_map,
    the_papers_methods,
    unchanged,
    with_and_without_noise,
    without_noise_on_purpose,
)
from models import TARGETS, cut_inputs, cut_model
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM


@every_method
def test_classes(build: Method) -> None:
    model = cut_model()
    method = build(model, model.layer)
    assert isinstance(method, LayerAttribution)
    assert isinstance(method, GradientAttribution)
    assert method.forward_func is model
    assert method.layer is model.layer
    assert method.device_ids is None
    assert not method.has_convergence_delta()


@without_noise_on_purpose
@pytest.mark.parametrize("method", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM])
def test_attribute_is_wrapped_by_captums_log_usage(method: type[LayerGradCamPlusPlus]) -> None:
    model, inputs = cut_model(), cut_inputs()
    wrapped: Any = method.attribute.__wrapped__  # type: ignore[attr-defined]
    assert inspect.isfunction(wrapped)
    built = method(model, model.layer)
    assert torch.equal(wrapped(built, inputs, target=1), one(built.attribute(inputs, target=1)))


@pytest.mark.parametrize("method", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM])
def test_the_first_parameters_are_captums(method: type[LayerGradCamPlusPlus]) -> None:
    theirs = list(inspect.signature(LayerGradCam.attribute).parameters.values())
    ours = list(inspect.signature(method.attribute).parameters.values())
    assert len(theirs) == 8  # self and seven
    assert [parameter.name for parameter in ours[:8]] == [parameter.name for parameter in theirs]
    assert all(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in ours[:8])
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in ours[8:])
    different = {"relu_attributions", "attr_dim_summation"}
    assert [p.default for p in ours[:8] if p.name not in different] == [
        p.default for p in theirs if p.name not in different
    ]


@pytest.mark.parametrize("method", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM])
def test_the_constructor_begins_as_captums(method: type[LayerGradCamPlusPlus]) -> None:
    theirs = list(inspect.signature(LayerGradCam.__init__).parameters)
    ours = list(inspect.signature(method.__init__).parameters.values())
    assert [parameter.name for parameter in ours[: len(theirs)]] == theirs
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in ours[len(theirs) :])


def test_defaults_are_the_papers() -> None:
    parameters = inspect.signature(LayerSmoothGradCAMpp.attribute).parameters
    assert parameters["relu_attributions"].default is True
    assert parameters["attr_dim_summation"].default is None
    assert parameters["n_samples"].default == 0
    assert parameters["stdevs"].default == 0.15
    assert parameters["n_samples_batch_size"].default is None
    assert parameters["generator"].default is None
    assert parameters["show_progress"].default is False
    model = cut_model()
    assert LayerSmoothGradCAMpp(model, model.layer).alpha == "bounded"
    assert LayerSmoothGradCAMpp(model, model.layer).derivatives == "powers"


def test_without_noise_smooth_grad_cam_plus_plus_is_grad_cam_plus_plus() -> None:
    model, inputs = cut_model(), cut_inputs()
    with pytest.warns(UserWarning, match=r"n_samples.*Grad-CAM\+\+"):
        smooth = one(LayerSmoothGradCAMpp(model, model.layer).attribute(inputs, target=TARGETS))
    assert torch.equal(smooth, one(LayerGradCamPlusPlus(model, model.layer).attribute(inputs, target=TARGETS)))
    assert (smooth >= 0).all()


@the_papers_methods
@pytest.mark.parametrize("argument", ["alpha", "derivatives"])
def test_unknown_choices_are_refused(build: Method, argument: str) -> None:
    model = cut_model()
    with pytest.raises(ValueError, match=f"{argument}.*'other'"):
        build(model, model.layer, **{argument: "other"})


@with_and_without_noise
def test_attributions_are_detached(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = cut_model(), cut_inputs().requires_grad_()
    attribution = one(build(model, model.layer).attribute(inputs, target=1, **noise))
    assert not attribution.requires_grad
    assert attribution.grad_fn is None


@without_noise_on_purpose
@every_method
def test_interpolate(build: Method) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = build(model, model.layer)
    upsampled = one(method.interpolate(one(method.attribute(inputs, target=1)), (6, 6), "bilinear"))
    assert upsampled.shape == (3, 1, 6, 6)
    assert (upsampled >= 0).all() and upsampled.any()


@with_and_without_noise
@pytest.mark.parametrize("kind", ["function", "lambda", "method", "parallel", "partial", "device_ids"])
def test_kinds_of_forward_func(build: Method, noise: dict[str, Any], kind: str) -> None:
    model, inputs = cut_model(), cut_inputs()

    def function(image: Tensor) -> Tensor:
        scores: Tensor = model(image)
        return scores

    functions: dict[str, Callable[..., Tensor]] = {
        "function": function,
        "lambda": lambda *args: model(*args),  # noqa: PLW0108
        "method": model.forward,
        "parallel": nn.DataParallel(model),
        "partial": partial(function),
        "device_ids": model,
    }
    device_ids = [0] if kind == "device_ids" else None
    wanted = seeded_map(build(model, model.layer), inputs, TARGETS, **noise)
    method = build(functions[kind], model.layer, device_ids)
    assert torch.equal(seeded_map(method, inputs, TARGETS, **noise), wanted)
    assert method.device_ids == device_ids
    assert hooks_on(model) == 0


@without_noise_on_purpose
@every_method
def test_a_forward_func_without_arguments(build: Method) -> None:
    """Captum reads from the signature whether there are any."""
    model, inputs = cut_model(), cut_inputs()
    attribution = seeded_map(build(lambda: model(inputs), model.layer), inputs, TARGETS)
    assert torch.equal(attribution, seeded_map(build(model, model.layer), inputs, TARGETS))


@with_and_without_noise
@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_a_forward_func_that_returns_no_tensor(build: Method, noise: dict[str, Any], kind: Any) -> None:
    model, inputs = cut_model(), cut_inputs()

    def function(image: Tensor) -> Any:
        return kind([("scores", model(image))]) if kind is dict else kind([model(image)])

    with unchanged(model, inputs), pytest.raises(TypeError, match=f"forward_func.*{kind.__name__}"):
        build(function, model.layer).attribute(inputs, target=1, **noise)
