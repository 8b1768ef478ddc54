"""The forward pass: what is recorded, and what the model may do meanwhile."""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import hooks_on, one, without_noise_on_purpose
from models import TARGETS, cut_inputs, cut_model
from oracle import CutModel, expected, inputs_seen, relative_error
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp


class Tracer(nn.Module):
    """Notes of every tensor that passes whether it is recorded, and watches its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[bool] = []
        self.memory: list[weakref.ref[torch.UntypedStorage]] = []

    def forward(self, values: Tensor) -> Tensor:
        self.recorded.append(values.requires_grad)
        self.memory.append(weakref.ref(values.untyped_storage()))
        return values


class Watched(nn.Module):
    """A model that looks, when it has run, which of the tensors on the way are still in memory."""

    def __init__(self) -> None:
        super().__init__()
        cut = cut_model()
        self.tracers = [Tracer(), Tracer(), Tracer()]
        assert isinstance(cut.below, nn.Sequential) and isinstance(cut.above, nn.Sequential)
        below = nn.Sequential(*cut.below, self.tracers[0], nn.Tanh())  # after a Tanh, which saves what it returns
        above = nn.Sequential(nn.Tanh(), self.tracers[1], *cut.above, self.tracers[2])
        self.model = CutModel(below, cut.layer, above)
        self.kept: list[list[bool]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.model(inputs)
        self.kept.append([tracer.memory[-1]() is not None for tracer in self.tracers])
        return scores


@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("to_input", [False, True])
def test_the_graph_is_recorded_and_what_it_saves_below_the_layer_is_not_kept(
    n_samples: int, requires_grad: bool, to_input: bool
) -> None:
    watched, inputs = Watched(), cut_inputs().requires_grad_(requires_grad)
    layer = watched.model.get_submodule("layer.0" if to_input else "layer")
    noise: dict[str, Any] = {"n_samples": n_samples, "n_samples_batch_size": 1} if n_samples else {}
    build = LayerSmoothGradCAMpp if n_samples else LayerGradCamPlusPlus
    build(watched, layer).attribute(inputs, target=1, attribute_to_layer_input=to_input, **noise)
    assert all(tracer.recorded == [True] * (1 + n_samples) for tracer in watched.tracers)
    assert watched.kept == [[False, True, True]] * (1 + n_samples)


@pytest.mark.parametrize("n_samples", [0, 3])
def test_with_create_graph_everything_is_kept(n_samples: int) -> None:
    watched = Watched()
    noise: dict[str, Any] = {"n_samples": n_samples, "n_samples_batch_size": 1} if n_samples else {}
    build = LayerSmoothGradCAMpp if n_samples else LayerGradCamPlusPlus
    build(watched, watched.model.layer).attribute(cut_inputs(), target=1, grad_kwargs={"create_graph": True}, **noise)
    assert watched.kept == [[True, True, True]] * (1 + n_samples)


def test_each_chunk_is_one_pass() -> None:
    model = cut_model()
    with inputs_seen(model) as seen:
        LayerSmoothGradCAMpp(model, model.layer).attribute(cut_inputs(), target=1, n_samples=5, n_samples_batch_size=2)
    assert [len(args[0]) for args in seen] == [3, 6 + 3, 6, 3]  # with the inputs without noise once more: NoisyPasses


# --- models that set the grad mode themselves ------------------------------------------------------------------------


class Around(CutModel):
    """Runs the layer with recording on, as a model that always needs gradients there would."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            features = self.layer(self.below(inputs))
        scores: Tensor = self.above(features)
        return scores


class Below(CutModel):
    """Runs what is below the layer without recording, as a frozen backbone is run."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.below(inputs)
        scores: Tensor = self.above(self.layer(features))
        return scores


class Everywhere(CutModel):
    """Runs with recording on."""

    @torch.enable_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)


class Aside(CutModel):
    """Computes something without recording on the way."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.layer(self.below(inputs))
        with torch.no_grad():
            largest = features.abs().amax(dim=(1, 2, 3), keepdim=True)
        scores: Tensor = self.above(features / largest)
        return scores


class PutBack(CutModel):
    """Switches recording on and back by function calls."""

    def forward(self, inputs: Tensor) -> Tensor:
        before = torch.is_grad_enabled()
        features = self.below(inputs)
        torch.set_grad_enabled(True)
        features = self.layer(features)
        torch.set_grad_enabled(before)
        scores: Tensor = self.above(features)
        return scores


class ByMode(CutModel):
    """Leaves recording as its training mode has it."""

    def forward(self, inputs: Tensor) -> Tensor:
        torch.set_grad_enabled(self.training)
        return super().forward(inputs)


class InThread(CutModel):
    """Runs in a thread of its own, where recording is on whatever it is here."""

    def forward(self, inputs: Tensor) -> Tensor:
        results: list[Tensor] = []
        thread = threading.Thread(target=lambda: results.append(super(InThread, self).forward(inputs)))
        thread.start()
        thread.join()
        return results[0]


class LayerInThread(CutModel):
    """Runs the layer alone in a thread."""

    def forward(self, inputs: Tensor) -> Tensor:
        features, results = self.below(inputs), list[Tensor]()
        thread = threading.Thread(target=lambda: results.append(self.layer(features)))
        thread.start()
        thread.join()
        scores: Tensor = self.above(results[0])
        return scores


class Checkpointed(CutModel):
    """Saves memory by running the part with the layer twice."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = checkpoint(lambda batch: self.layer(self.below(batch)), inputs, use_reentrant=False)
        scores: Tensor = self.above(features)
        return scores


KINDS = [Around, Below, Everywhere, PutBack, InThread, LayerInThread, Checkpointed]


@pytest.mark.pairwise
@without_noise_on_purpose
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [False, True])
def test_models_that_set_the_grad_mode(
    kind: type[CutModel], n_samples: int, mode: Callable[[], Any], frozen: bool
) -> None:
    plain, inputs = cut_model(), cut_inputs()
    plain.requires_grad_(not frozen)
    model = kind(plain.below, plain.layer, plain.above).eval()
    with mode():
        before = torch.is_grad_enabled()
        torch.manual_seed(0)
        actual = one(LayerSmoothGradCAMpp(model, model.layer).attribute(inputs, target=TARGETS, n_samples=n_samples))
        assert torch.is_grad_enabled() == before
        torch.manual_seed(0)
        wanted = one(LayerSmoothGradCAMpp(plain, plain.layer).attribute(inputs, target=TARGETS, n_samples=n_samples))
    assert torch.equal(actual, wanted)
    assert hooks_on(model) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_set_the_grad_mode_on_inputs_of_inference_mode(kind: type[CutModel]) -> None:
    plain = cut_model()
    wanted = one(LayerGradCamPlusPlus(plain, plain.layer).attribute(cut_inputs(), target=TARGETS))
    model = kind(plain.below, plain.layer, plain.above).eval()
    with torch.inference_mode():
        inputs = cut_inputs().clone()
        assert torch.equal(one(LayerGradCamPlusPlus(model, model.layer).attribute(inputs, target=TARGETS)), wanted)


def test_a_part_that_is_not_recorded_stays_so() -> None:
    """The gradient is the plain model's, to which the divisor is a constant."""
    plain, inputs = cut_model(), cut_inputs(examples=1)
    model = Aside(plain.below, plain.layer, plain.above)
    largest = model.activation(inputs).abs().max().item()

    class Divided(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            scores: Tensor = plain.above(features / largest)
            return scores

    cut = CutModel(plain.below, plain.layer, Divided())
    attribution = one(LayerGradCamPlusPlus(model, model.layer).attribute(inputs, target=1))
    assert relative_error(attribution, expected(cut, inputs, [], [1])) < 1e-10


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_a_model_that_goes_by_its_training_mode(training: bool, mode: Callable[[], Any]) -> None:
    """It switches recording off for evaluation, and the caller's grad mode stays."""
    plain, inputs = cut_model(), cut_inputs()
    model = ByMode(plain.below, plain.layer, plain.above).train(training)
    method = LayerGradCamPlusPlus(model, plain.layer)
    with mode():
        before = torch.is_grad_enabled()
        if training:
            wanted = one(LayerGradCamPlusPlus(plain, plain.layer).attribute(inputs, target=TARGETS))
            assert torch.equal(one(method.attribute(inputs, target=TARGETS)), wanted)
        else:
            with pytest.raises(ValueError, match="does not depend on the tensor of 'layer'"):
                method.attribute(inputs, target=TARGETS)
        assert torch.is_grad_enabled() == before
    assert hooks_on(model) == 0


@pytest.mark.parametrize("decorator", [torch.no_grad, torch.inference_mode])
def test_a_model_that_records_nothing(decorator: Callable[[], Any]) -> None:
    class Unrecorded(CutModel):
        def forward(self, inputs: Tensor) -> Tensor:
            with decorator():
                return super().forward(inputs)

    plain = cut_model()
    model = Unrecorded(plain.below, plain.layer, plain.above)
    with pytest.raises(ValueError, match="does not depend on the tensor of 'layer'"):
        LayerGradCamPlusPlus(model, model.layer).attribute(cut_inputs(), target=1)
    assert hooks_on(model) == 0


def test_the_error_of_a_pass_that_is_tried_again_is_the_models_own() -> None:
    """And it is the only one: the first try leaves no trace in it."""
    error = RuntimeError("of the model")

    class Fails(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise error

    model = cut_model()
    model.above = Fails()
    with pytest.raises(RuntimeError) as raised:
        LayerGradCamPlusPlus(model, model.layer).attribute(cut_inputs(), target=1)
    assert raised.value is error
    assert error.__cause__ is None
    assert hooks_on(model) == 0
