"""What an attribution leaves changed in a model and in torch: nothing, also where it fails."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    SMOOTH,
    Method,
    every_method,
    hooks_on,
    in_every_grad_mode,
    one,
    seeded_map,
    the_papers_with_and_without_noise,
    unchanged,
    where_smoothing_changes_nothing,
    with_and_without_noise,
    without_noise_on_purpose,
)
from models import CLASSES, TARGETS, cut_inputs, cut_model, images, seeded
from oracle import CutModel, expected, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, list_layers


def scripted_child() -> nn.Sequential:
    """A model with a part that takes no hooks."""
    model: nn.Sequential = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(48, 5)))
    )
    model[1] = torch.jit.script(model[1])
    return model


# --- hooks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_input", [False, True])
def test_hooks_that_came_before_one_that_fails_are_removed(to_input: bool) -> None:
    model = scripted_child()
    method = LayerGradCamPlusPlus(model, ["0", "2", "1"])
    with pytest.raises(ValueError, match=r"layer: '1' .* takes no hooks"):
        method.attribute(images(dtype=torch.float32), 1, attribute_to_layer_input=to_input)
    assert hooks_on(model) == 0


def test_list_layers_passes_over_what_takes_no_hooks() -> None:
    model = scripted_child()
    assert [layer.name for layer in list_layers(model, images(dtype=torch.float32))] == ["0", "2.0", "2.1", "2"]
    assert hooks_on(model) == 0
    with pytest.raises(RuntimeError, match="channels"):
        list_layers(model, torch.rand(1, 5, 6, 6))
    assert hooks_on(model) == 0


# --- torch itself ---------------------------------------------------------------------------------------------------


def state_of_torch() -> list[object]:
    with torch.autograd.graph.disable_saved_tensors_hooks("there are hooks"):  # which it says if there are
        return [
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.get_rng_state().tolist(),
        ]


class Fails(nn.Module):
    """Fails in a pass of its choice."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def forward(self, values: Tensor) -> Tensor:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return values


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("part", ["below", "above"])
@pytest.mark.parametrize("number", [1, 2])
def test_an_interruption_leaves_nothing_behind(number: int, part: str, mode: Callable[[], Any]) -> None:
    model = cut_model()
    setattr(model, part, nn.Sequential(getattr(model, part), Fails(number)))
    generator = torch.Generator()
    with mode():
        before = state_of_torch()
        with pytest.raises(KeyboardInterrupt):
            LayerSmoothGradCAMpp(model, "layer").attribute(cut_inputs(), TARGETS, generator=generator, **SMOOTH)
        assert state_of_torch() == before
    assert hooks_on(model) == 0


def test_an_error_while_gradients_are_taken_leaves_nothing_behind() -> None:
    model, inputs = cut_model(), cut_inputs()
    model.above.register_full_backward_hook(lambda *_: 1 / 0)
    before, hooks = state_of_torch(), hooks_on(model)
    with pytest.raises(ZeroDivisionError):
        one(LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS))
    assert state_of_torch() == before
    assert hooks_on(model) == hooks


# --- the whole model, in every mode -----------------------------------------------------------------------------------


@pytest.mark.pairwise
@with_and_without_noise
@in_every_grad_mode
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(
    build: Method,
    noise: dict[str, Any],
    mode: Callable[[], Any],
    to_input: bool,
    requires_grad: bool,
    training: bool,
) -> None:
    model, inputs = cut_model().train(training), cut_inputs().requires_grad_(requires_grad)
    next(model.parameters()).requires_grad_(False)
    wanted = seeded_map(build(model, model.layer), inputs, TARGETS, attribute_to_layer_input=to_input, **noise)
    with mode(), unchanged(model, inputs):
        actual = seeded_map(build(model, model.layer), inputs, TARGETS, attribute_to_layer_input=to_input, **noise)
    assert torch.equal(actual, wanted)
    assert not actual.requires_grad


@pytest.mark.pairwise
@where_smoothing_changes_nothing
@the_papers_with_and_without_noise
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("first", [nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True)], ids=str)
def test_the_first_layer_of_a_model(
    build: Method, noise: dict[str, Any], requires_grad: bool, create_graph: bool, to_input: bool, first: nn.Module
) -> None:
    """The hook must not make the caller's tensor require a gradient."""
    model = nn.Sequential(first, seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)))).double()
    cut = CutModel(nn.Identity(), nn.Identity(), model[1])
    inputs = images()  # not negative, so that the ReLU changes nothing
    inputs.requires_grad_(requires_grad)
    method = build(model, first)
    options: dict[str, Any] = {"stdevs": 0.0, **noise} if noise else {}
    with unchanged(model, inputs):
        attribution = seeded_map(
            method, inputs, TARGETS, None, to_input, grad_kwargs={"create_graph": create_graph}, **options
        )
    assert relative_error(attribution.detach(), expected(cut, inputs.detach(), [], TARGETS)) < 1e-10


@with_and_without_noise
def test_parameters_keep_their_gradients(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = cut_model(), cut_inputs().requires_grad_()
    model(inputs).sum().backward()
    before = [tensor.grad.clone() for tensor in (inputs, *model.parameters()) if tensor.grad is not None]
    assert len(before) == 1 + len(list(model.parameters()))
    build(model, model.layer).attribute(inputs, target=1, **noise)
    after = [tensor.grad for tensor in (inputs, *model.parameters()) if tensor.grad is not None]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


class Breaks(nn.Module):
    """Raises an error of its own when its turn has come."""

    def __init__(self, error: Exception, turn: int = 1) -> None:
        super().__init__()
        self.error = error
        self.turn = turn

    def forward(self, values: Tensor) -> Tensor:
        self.turn -= 1
        if self.turn <= 0:
            raise self.error
        return values


@pytest.mark.pairwise
@with_and_without_noise
@in_every_grad_mode
@pytest.mark.parametrize("place", ["below", "layer", "above"])
@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), ValueError("broken"), KeyError("broken"), NotImplementedError("broken")], ids=repr
)
def test_errors_of_the_model_come_through(
    build: Method, noise: dict[str, Any], mode: Callable[[], Any], place: str, error: Exception
) -> None:
    for turn in (1, 2) if noise else (1,):
        model, inputs = cut_model(), cut_inputs()
        setattr(model, place, nn.Sequential(getattr(model, place), Breaks(error, turn)))
        with mode(), unchanged(model, inputs), pytest.raises(type(error)) as raised:
            build(model, model.layer).attribute(inputs, target=1, **noise)
        assert raised.value is error


@without_noise_on_purpose
@every_method
def test_hooks_of_others_stay(build: Method) -> None:
    model, inputs = cut_model(), cut_inputs()
    calls: list[str] = []
    model.layer.register_forward_hook(lambda *_: calls.append("after"))
    model.layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    build(model, model.layer).attribute(inputs, target=1)
    assert hooks_on(model) == 2
    assert calls == ["before", "after"]
