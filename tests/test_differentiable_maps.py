"""Maps with a graph, and other arguments for torch.autograd.grad."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    Method,
    in_every_grad_mode,
    seeded_map,
    the_papers_with_and_without_noise,
    unchanged,
    with_and_without_noise,
)
from models import TARGETS, TwoTensors, cut_inputs, cut_model, images, seeded
from oracle import relative_error
from torch import Tensor

from captum_sgcampp import LayerGradCamPlusPlus


@the_papers_with_and_without_noise
@pytest.mark.parametrize("alpha", ["bounded", "eq5", "eq7"])
@pytest.mark.parametrize("to_input", [False, True])
def test_create_graph(build: Method, noise: dict[str, Any], alpha: str, to_input: bool) -> None:
    """The map's gradient by the input agrees with finite differences."""
    model, inputs = cut_model(rectified=False, smooth=True), cut_inputs(examples=2).requires_grad_()
    method = build(model, model.layer, alpha=alpha)

    def total(batch: Tensor, **kwargs: Any) -> Tensor:
        return seeded_map(
            method,
            batch,
            TARGETS[:2],
            attribute_to_layer_input=to_input,
            relu_attributions=False,
            **kwargs,
            **noise,
        ).sum()

    with unchanged(model, inputs):
        (actual,) = torch.autograd.grad(total(inputs, grad_kwargs={"create_graph": True}), inputs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        step = 1e-6 * direction
        with torch.no_grad():
            wanted = (total(inputs + step) - total(inputs - step)) / 2e-6
        assert (actual * direction).sum().item() == pytest.approx(wanted.item(), rel=1e-5)


@with_and_without_noise
@in_every_grad_mode
def test_create_graph_does_not_change_the_map(build: Method, noise: dict[str, Any], mode: Callable[[], Any]) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = build(model, model.layer)
    wanted = seeded_map(method, inputs, TARGETS, **noise)
    with mode(), unchanged(model, inputs):
        actual = seeded_map(method, inputs, TARGETS, grad_kwargs={"create_graph": True}, **noise)
    assert actual.requires_grad
    assert relative_error(actual.detach(), wanted) < 1e-13


def test_grad_kwargs_reach_torch() -> None:
    """A tensor of the layer that is not used has a gradient of zero, if that is asked for."""

    class Unused(TwoTensors):
        def forward(self, image: Tensor) -> Tensor:
            left, _ = self.layer(image)
            scores: Tensor = self.left(left)
            return scores

    model, inputs = seeded(lambda: Unused(tuple)).double(), images()
    method = LayerGradCamPlusPlus(model, model.layer)
    with pytest.raises(ValueError, match="materialize_grads"):
        method.attribute(inputs, target=1)
    attribution = method.attribute(inputs, target=1, grad_kwargs={"materialize_grads": True})
    assert isinstance(attribution, tuple)
    assert attribution[0].any() and not attribution[1].any()
