"""Tensors made in inference mode, and maps computed in it."""

from typing import Any

import torch
from helpers import Method, seeded_map, with_and_without_noise
from models import FACTOR, TARGETS, Weighted, cut_inputs, cut_model


@with_and_without_noise
def test_inputs_made_in_inference_mode(build: Method, noise: dict[str, Any]) -> None:
    model = cut_model()
    wanted = seeded_map(build(model, model.layer), cut_inputs(), TARGETS, **noise)
    with torch.inference_mode():
        inputs = cut_inputs().clone()
        actual = seeded_map(build(model, model.layer), inputs, TARGETS, **noise)
    assert inputs.is_inference()
    assert torch.equal(actual, wanted)
    assert torch.equal(seeded_map(build(model, model.layer), inputs, TARGETS, **noise), wanted)


@with_and_without_noise
def test_targets_made_in_inference_mode(build: Method, noise: dict[str, Any]) -> None:
    """As from the model's own prediction there."""
    model, inputs = cut_model(), cut_inputs()
    wanted = seeded_map(build(model, model.layer), inputs, model(inputs).argmax(dim=1), **noise)
    with torch.inference_mode():
        target = model(inputs).argmax(dim=1)
        assert torch.equal(seeded_map(build(model, model.layer), inputs, target, **noise), wanted)


@with_and_without_noise
def test_forward_args_made_in_inference_mode(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = Weighted(cut_model()), cut_inputs()
    wanted = seeded_map(build(model, model.model.layer), inputs, TARGETS, FACTOR, **noise)
    with torch.inference_mode():
        factor = FACTOR.clone()
        assert torch.equal(seeded_map(build(model, model.model.layer), inputs, TARGETS, factor, **noise), wanted)


@with_and_without_noise
def test_differentiable_maps_in_inference_mode(build: Method, noise: dict[str, Any]) -> None:
    model = cut_model(smooth=True)
    with torch.inference_mode():
        inputs = cut_inputs().clone()
        actual = seeded_map(build(model, model.layer), inputs, TARGETS, grad_kwargs={"create_graph": True}, **noise)
    assert actual.requires_grad  # by the model's parameters
