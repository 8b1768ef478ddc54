"""What an attribution leaves behind in a model and in torch: nothing, also where it fails."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from helpers import hooks_on, one
from models import TARGETS, cut_inputs, cut_model, images, seeded
from oracle import CutModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, list_layers

NOISE: dict[str, Any] = {"n_samples": 2, "stdevs": 0.1}


def scripted_child() -> nn.Sequential:
    """A model with a part that takes no hooks."""
    model: nn.Sequential = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(48, 5)))
    )
    model[1] = torch.jit.script(model[1])
    return model


# --- hooks -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("to_input", [False, True])
def test_hooks_that_came_before_one_that_fails_are_removed(to_input: bool) -> None:
    model = scripted_child()
    method = LayerGradCamPlusPlus(model, ["0", "2", "1"])
    with pytest.raises(ValueError, match=r"layer: '1' .* takes no hooks"):
        method.attribute(images(dtype=torch.float32), 1, attribute_to_layer_input=to_input)
    assert hooks_on(model) == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_list_layers_passes_over_what_takes_no_hooks() -> None:
    model = scripted_child()
    assert [layer.name for layer in list_layers(model, images(dtype=torch.float32))] == ["0", "2.0", "2.1", "2"]
    assert hooks_on(model) == 0
    with pytest.raises(RuntimeError, match="channels"):
        list_layers(model, torch.rand(1, 5, 6, 6))
    assert hooks_on(model) == 0


# --- weights that are cached ----------------------------------------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight.tanh()


def parametrized() -> CutModel:
    model = cut_model()
    for layer in (model.get_submodule("below.0"), model.get_submodule("above.0")):
        parametrize.register_parametrization(layer, "weight", Doubled())
    return model


def smooth(model: CutModel, inputs: Tensor) -> object:
    return LayerSmoothGradCAMpp(model, "layer").attribute(inputs, TARGETS, **NOISE)


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


@pytest.mark.parametrize("noise", [{}, NOISE])
def test_what_a_model_computes_from_its_weights_and_keeps_can_be_trained(noise: dict[str, Any]) -> None:
    cut = cut_model()
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
            LayerSmoothGradCAMpp(model, "layer").attribute(cut_inputs(), TARGETS, generator=generator, **NOISE)
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
