"""A model does not notice that it is attributed to: not what it looks at, and no errors but its own."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from helpers import N_SAMPLES, SETTINGS, attribute, hooks_on, one
from models import TARGETS, cut_inputs, cut_model, remade
from oracle import CutModel, inputs_seen, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerSmoothGradCAMpp

# --- models that look ------------------------------------------------------------------------------------------------


class AssertsGradMode(CutModel):
    """Works with recording on only."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert torch.is_grad_enabled()
        features = self.below(inputs)
        assert torch.is_grad_enabled()
        activation = self.layer(features)
        assert torch.is_grad_enabled()
        scores: Tensor = self.above(activation)
        return scores


class RaisesAnotherError(CutModel):
    """Raises what is no RuntimeError where there is no graph."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs)
        if features.grad_fn is None:
            raise LookupError("The features have no graph.")
        scores: Tensor = self.above(self.layer(features))
        return scores


class GoesByRequiresGrad(CutModel):
    """Computes something else where no gradient is required."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs)
        scores: Tensor = self.above(self.layer(features if features.requires_grad else features * 0.5))
        return scores


class GoesByGradMode(CutModel):
    """Computes something else where nothing is recorded, as a fused path for inference does."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs)
        scores: Tensor = self.above(self.layer(features if torch.is_grad_enabled() else features * 0.5))
        return scores


class HooksItsFeatures(CutModel):
    """Registers a hook on a tensor below the layer, which torch refuses where that requires no gradient."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs)
        try:
            features.register_hook(lambda gradient: gradient)
        except RuntimeError:
            features = features * 0.5
        scores: Tensor = self.above(self.layer(features))
        return scores


@pytest.mark.parametrize(
    "kind", [AssertsGradMode, RaisesAnotherError, GoesByRequiresGrad, GoesByGradMode, HooksItsFeatures]
)
@N_SAMPLES
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_model_that_looks_whether_it_is_recorded_finds_that_it_is(
    kind: type[CutModel], n_samples: int, mode: Callable[[], Any]
) -> None:
    model = remade(kind)
    with mode(), inputs_seen(model) as seen:
        attribution = attribute(model, "layer", n_samples)
    assert len(seen) == 1 + n_samples
    assert torch.equal(attribution, attribute(remade(CutModel), "layer", n_samples))


class CatchesErrors(CutModel):
    """Goes on without its layers where they fail."""

    caught: type[BaseException] = RuntimeError

    def forward(self, inputs: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                scale = self.above(self.layer(self.below(inputs))).abs().amax()
            features = self.layer(self.below(inputs / scale))
        except self.caught:
            features = self.layer(self.below(inputs * 0))
        scores: Tensor = self.above(features)
        return scores


class CatchesAll(CatchesErrors):
    """Whatever they fail with."""

    caught = BaseException


class CatchesNothing(CatchesErrors):
    """The plain twin: there is nothing to catch."""

    caught = ZeroDivisionError


@pytest.mark.parametrize("kind", [CatchesErrors, CatchesAll])
@SETTINGS
@pytest.mark.filterwarnings("ignore:layer.* runs 2 times")
def test_a_model_that_catches_errors_has_none_to_catch(kind: type[CutModel], n_samples: int, frozen: bool) -> None:
    model = remade(kind).requires_grad_(not frozen)
    with inputs_seen(model) as seen:
        attribution = attribute(model, "layer", n_samples)
    assert len(seen) == 1 + n_samples
    assert relative_error(attribution, attribute(remade(CatchesNothing), "layer", n_samples)) < 1e-12


# --- errors ----------------------------------------------------------------------------------------------------------


ERRORS = [
    torch.cuda.OutOfMemoryError("no memory left"),
    RuntimeError("of the model"),
    NotImplementedError("of the model"),
    AssertionError("of the model"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["below", "layer", "above"])
@pytest.mark.parametrize("n_samples", [0, 3])
def test_errors_are_passed_on_at_once(error: BaseException, place: str, n_samples: int) -> None:
    """The model does not run again, whatever the error is: with one of memory that would take twice the time."""

    class Fails(nn.Module):
        calls = 0

        def forward(self, _: Tensor) -> Tensor:
            self.calls += 1
            raise error

    model, fails = cut_model(), Fails()
    setattr(model, place, fails)
    with pytest.raises(type(error)) as raised:
        attribute(model, "layer", n_samples)
    assert raised.value is error
    assert fails.calls == 1
    assert error.__cause__ is None
    assert error.__context__ is None
    assert hooks_on(model) == 0


# --- checkpoints -----------------------------------------------------------------------------------------------------


# --- transformers and others of well-known libraries -----------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("source", ["powers", "autograd"])
@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autograd.graph.disable_saved_tensors_hooks("not here"),
        torch.autograd.graph.save_on_cpu,
        lambda: torch.autograd.set_multithreading_enabled(False),
        lambda: torch.device("meta"),  # where tensors are made that are not told where
    ],
    ids=["no hooks", "save_on_cpu", "one thread", "default device"],
)
def test_contexts_of_torch_around_the_call(around: Callable[[], Any], source: str, frozen: bool) -> None:
    model, inputs = cut_model(smooth=True).requires_grad_(not frozen), cut_inputs()
    method = LayerSmoothGradCAMpp(model, "layer", derivatives=source)
    maps = []
    for context in (nullcontext, around):
        torch.manual_seed(0)
        with context():
            maps.append(one(method.attribute(inputs, TARGETS, n_samples=2, stdevs=0.2)))
    assert relative_error(maps[1], maps[0]) < 1e-12
