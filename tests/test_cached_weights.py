"""What a model computes from its weights and keeps meanwhile can be trained afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from helpers import SMOOTH
from models import TARGETS, cut_inputs, cut_model, seeded
from oracle import CutModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, list_layers


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight.tanh()


def parametrized() -> CutModel:
    model = cut_model()
    for layer in (model.get_submodule("below.0"), model.get_submodule("above.0")):
        parametrize.register_parametrization(layer, "weight", Doubled())
    return model


def smooth(model: CutModel, inputs: Tensor) -> object:
    return LayerSmoothGradCAMpp(model, "layer").attribute(inputs, TARGETS, **SMOOTH)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, inputs: LayerGradCam(model, model.layer).attribute(inputs, TARGETS),  # the contract
        lambda model, inputs: LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS),
        smooth,
        list_layers,
    ],
    ids=["captum", "plus_plus", "smooth", "list_layers"],
)
def test_weights_that_are_cached_meanwhile_can_be_trained(use: Callable[[CutModel, Tensor], object]) -> None:
    gradients = []
    for used in (False, True):
        model, inputs = parametrized(), cut_inputs()
        with parametrize.cached():
            if used:
                use(model, inputs)
            model(inputs).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


class Caching(nn.Module):
    """Keeps what it computes from its weights, as some of timm's transformers do when they are evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.biases = nn.Parameter(torch.rand(2, 4))
        self.places: Tensor
        self.register_buffer("places", torch.arange(36).reshape(6, 6) % 4)
        self.cache: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = self.biases[:, self.places]
        return image + self.cache


@pytest.mark.parametrize("noise", [{}, SMOOTH])
def test_what_a_model_computes_from_its_weights_and_keeps_can_be_trained(noise: dict[str, Any]) -> None:
    cut = cut_model(smooth=True)  # whose gradient any noise changes
    caching: Caching = seeded(Caching).double()
    model = CutModel(nn.Sequential(caching, cut.below), cut.layer, cut.above)
    build = LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus
    build(model, "layer").attribute(cut_inputs(), TARGETS, **noise)
    assert caching.cache is not None and caching.cache.requires_grad
    model(cut_inputs()).sum().backward()
    assert caching.biases.grad is not None and caching.biases.grad.any()


def test_a_graph_that_goes_through_a_pass_says_what_is_missing() -> None:
    cut, kept = cut_model(), list[Tensor]()
    cut.below.register_forward_hook(lambda _module, _args, output: kept.append(output))
    LayerGradCamPlusPlus(cut, "layer").attribute(cut_inputs(), TARGETS)
    with pytest.raises(RuntimeError, match="run by captum_sgcampp, which kept nothing below the layers"):
        torch.autograd.grad(kept[0].sum(), list(cut.below.parameters()))
