"""Backward hooks of the model's owner count as with Captum: as often, in the same order, with the same gradients."""

from typing import Any

import pytest
import torch
from helpers import N_SAMPLES, SETTINGS, attribute, captums_map, one
from models import CLASSES, cut_inputs, cut_model
from oracle import inputs_seen, relative_error
from torch import Tensor, nn


def guided(_module: nn.Module, gradients: Any, _of_output: Any) -> Any:
    """Lets only positive gradients through, as guided backpropagation does."""
    return (gradients[0].relu(),)


def halved(_module: nn.Module, gradients: Any) -> Any:
    return (gradients[0] * 0.5 + 0.01,)


def with_backward_hooks(model: nn.Module, place: str, kind: str) -> None:
    """Registers hooks that change gradients "after" a module's backward pass, "before" it, or "both"."""
    module = model.get_submodule(place)
    if kind != "before":
        module.register_full_backward_hook(guided)
    if kind != "after":
        module.register_full_backward_pre_hook(halved)


KINDS = pytest.mark.parametrize("kind", ["after", "before", "both"])


@pytest.mark.pairwise
@pytest.mark.parametrize(
    "place", ["", "below", "below.0", "layer", "layer.0", "layer.1", "above", "above.0", "above.1", "above.3"]
)
@pytest.mark.parametrize("layer", ["layer", "layer.0", "below"])
@KINDS
def test_full_backward_hooks_count_as_with_captum(place: str, layer: str, kind: str) -> None:
    """For inputs that require a gradient, as such hooks need them to at the beginning of a model."""
    model, inputs = cut_model(), cut_inputs().requires_grad_()
    with_backward_hooks(model, place, kind)
    wanted = captums_map(model, layer, inputs)
    assert relative_error(attribute(model, layer, inputs=inputs), wanted) < 1e-10


@pytest.mark.pairwise
@pytest.mark.parametrize("place", ["above", "above.0", "above.1", "above.3"])
@pytest.mark.parametrize("layer", ["layer", "layer.0", "below"])
@KINDS
def test_full_backward_hooks_above_a_frozen_layer_count_as_with_captum(place: str, layer: str, kind: str) -> None:
    model = cut_model().requires_grad_(False)
    with_backward_hooks(model, place, kind)
    wanted = captums_map(model, layer)
    assert relative_error(attribute(model, layer), wanted) < 1e-10


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("layer", ["layer", "layer.0", "below", "above.0"])
def test_backward_hooks_are_called_as_often_as_with_captum(layer: str) -> None:
    """And in the same order."""
    model, calls = cut_model(), list[str]()
    for name, module in model.named_modules():
        module.register_full_backward_hook(lambda *_, name=name: calls.append(f"after {name}"))
        module.register_full_backward_pre_hook(lambda *_, name=name: calls.append(f"before {name}"))
    captums_map(model, layer)
    wanted = calls.copy()
    calls.clear()
    attribute(model, layer)
    assert calls == wanted
    assert wanted


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@SETTINGS
def test_guided_backpropagation_above_the_layer(n_samples: int, frozen: bool) -> None:
    """The hooked network is a twin whose ReLU has such a gradient."""

    class GuidedReLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:
            ctx.save_for_backward(values)
            return values.relu()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            (values,) = ctx.saved_tensors
            return one((gradients[0] * (values > 0)).relu())

    class Guided(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            rectified: Tensor = GuidedReLU.apply(values)
            return rectified

    hooked, twin = (cut_model().requires_grad_(not frozen) for _ in range(2))
    hooked.get_submodule("above.1").register_full_backward_hook(guided)
    assert isinstance(twin.above, nn.Sequential)
    twin.above[1] = Guided()
    hooked.layer.register_full_backward_hook(lambda *_: None)
    hooked.register_full_backward_hook(lambda *_: None)
    maps = [attribute(model, "layer", n_samples) for model in (hooked, twin, cut_model())]
    assert relative_error(maps[0], maps[1]) < 1e-12
    assert relative_error(maps[0], maps[2]) > 1e-3


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@N_SAMPLES
def test_hooks_that_take_gradients_per_example(n_samples: int) -> None:
    """As Opacus does: from the inputs that forward hooks have kept, and the gradients that backward hooks see."""
    model = cut_model()
    taken: dict[nn.Module, list[Tensor]] = {}
    per_example: list[Tensor] = []

    def keep(module: nn.Module, args: Any, _output: Any) -> None:
        if torch.is_grad_enabled():
            taken.setdefault(module, []).append(args[0].detach())

    def take(module: nn.Module, _gradients: Any, gradients: Any) -> None:
        inputs = taken[module].pop()
        if isinstance(module, nn.Linear):
            per_example.append(torch.einsum("no,ni->noi", gradients[0], inputs))

    for module in model.modules():
        module.register_forward_hook(keep)
        module.register_full_backward_hook(take)
    assert torch.equal(attribute(model, "layer", n_samples), attribute(cut_model(), "layer", n_samples))
    assert [gradient.shape for gradient in per_example] == [(3, CLASSES, 24)] * max(1, n_samples)


def test_errors_of_a_backward_hook_are_passed_on_at_once() -> None:
    model, calls = cut_model(), list[int]()

    def fails(*_: Any) -> None:
        calls.append(1)
        raise torch.cuda.OutOfMemoryError("no memory left")

    model.above.register_full_backward_pre_hook(fails)
    with inputs_seen(model) as seen, pytest.raises(torch.cuda.OutOfMemoryError):
        attribute(model, "layer")
    assert len(seen) == len(calls) == 1
