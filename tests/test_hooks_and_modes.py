"""Hooks, gradients, modes and inputs are as before, also after an error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    Method,
    every_method,
    hooks_on,
    in_every_grad_mode,
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
