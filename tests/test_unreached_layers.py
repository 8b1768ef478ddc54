"""Models whose layers are gone, or run unseen: it is said why, and what to do."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import hooks_on, one, without_noise_on_purpose
from models import TARGETS, cut_inputs, cut_model
from oracle import CutModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp


def traced(model: nn.Module) -> Any:
    return torch.jit.trace(model, cut_inputs())  # type: ignore[no-untyped-call]


def scripted(model: nn.Module) -> Any:
    return torch.jit.script(model)


def exported(model: nn.Module) -> Any:
    # Strict export, the default of torch 2.3, runs the compiler, whose state other tests change.
    return torch.export.export(model, (cut_inputs(),), strict=False).module()


def model_to_compile() -> nn.Module:
    cut = cut_model()
    return nn.Sequential(OrderedDict(below=cut.below, layer=cut.layer, above=cut.above)).eval()


GONE = pytest.mark.parametrize(
    ("make", "words"),
    [(traced, r"torch\.jit"), (scripted, r"torch\.jit"), (exported, r"torch\.export\.unflatten")],
)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
@GONE
def test_layers_of_the_model_from_which_another_was_made(make: Callable[[nn.Module], Any], words: str) -> None:
    model = model_to_compile()
    made = make(model)
    for forward_func in (made, lambda x: made(x) + 0):
        with pytest.raises(ValueError, match=rf"layer: .*does not run .*{words}"):
            LayerGradCamPlusPlus(forward_func, model.get_submodule("layer")).attribute(cut_inputs(), TARGETS)
    assert hooks_on(model) == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
@GONE
@pytest.mark.parametrize("name", ["layer", "layer.0", "layer.1"])
def test_a_name_of_a_layer_that_is_gone(make: Callable[[nn.Module], Any], words: str, name: str) -> None:
    made = make(model_to_compile())
    with pytest.raises(ValueError, match=rf"layer: .*{words}"):
        LayerGradCamPlusPlus(made, name).attribute(cut_inputs(), TARGETS)


@pytest.mark.skipif(torch.__version__ < "2.5", reason="earlier versions cannot unflatten a child of a Sequential")
def test_what_is_advised_for_an_exported_program_works() -> None:
    model = model_to_compile()
    unflattened: Any = torch.export.unflatten(torch.export.export(model, (cut_inputs(),), strict=False))
    maps = [one(LayerGradCamPlusPlus(any_, "layer").attribute(cut_inputs(), TARGETS)) for any_ in (model, unflattened)]
    torch.testing.assert_close(*maps)


def test_a_model_of_which_nothing_is_known_gets_no_hint() -> None:
    with pytest.raises(ValueError, match=r"does not run when forward_func is called with these inputs\.$"):
        LayerGradCamPlusPlus(cut_model(), nn.ReLU()).attribute(cut_inputs(), TARGETS)


class Reentrant(CutModel):
    """Runs the layer and what is below it in a checkpoint that records nothing."""

    requires = True

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.clone().requires_grad_(self.requires)
        features = checkpoint(lambda x: self.layer(self.below(x)), inputs, use_reentrant=True)
        scores: Tensor = self.above(features)
        return scores


@without_noise_on_purpose
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("requires", [False, True])
@pytest.mark.parametrize("n_samples", [0, 2])
def test_a_reentrant_checkpoint_around_the_layer_is_named(n_samples: int, requires: bool) -> None:
    cut = cut_model()
    model = Reentrant(cut.below, cut.layer, cut.above)
    model.requires = requires
    with pytest.raises(ValueError, match=r"does not depend on the tensor of 'layer'.*use_reentrant=False"):
        LayerSmoothGradCAMpp(model, "layer").attribute(cut_inputs(), TARGETS, n_samples=n_samples)


def test_torch_no_grad_is_not_taken_for_a_checkpoint() -> None:
    class Unrecorded(CutModel):
        @torch.no_grad()
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs)

    cut = cut_model()
    with pytest.raises(ValueError, match=r"is cut \(by torch.no_grad or detach\)"):
        LayerGradCamPlusPlus(Unrecorded(cut.below, cut.layer, cut.above), "layer").attribute(cut_inputs(), TARGETS)
