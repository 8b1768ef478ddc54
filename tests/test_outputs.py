"""What forward_func returns is refused by name if it is no row of scores; so are models whose layers do not run."""

from collections import OrderedDict, namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import Method, every_method, hooks_on, one, without_noise_on_purpose
from models import TARGETS, cut_inputs, cut_model
from oracle import CutModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, explain

pytestmark = without_noise_on_purpose
NamedOutput = namedtuple("NamedOutput", "loss out")


class ModelOutput(OrderedDict[str, Any]):
    """Has its keys as attributes too, as in transformers."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        vars(self).update(values)


@every_method
@pytest.mark.parametrize(
    ("wrap", "access"),
    [
        (lambda scores: (scores,), "[0]"),
        (lambda scores: (None, scores), "[1]"),
        (lambda scores: [scores, scores], "[0]"),
        (lambda scores: {"labels": 3, "scores": scores}, "['scores']"),
        (lambda scores: {"aux": scores * 2, "out": scores}, "['out']"),
        (lambda scores: {1: scores}, "[1]"),
        (lambda scores: NamedOutput(0.5, scores), ".out"),
        (lambda scores: SimpleNamespace(loss=1, prediction=scores), ".prediction"),
        (lambda scores: SimpleNamespace(hidden=scores * 2, logits=scores), ".logits"),
        (lambda scores: ModelOutput(hidden=scores * 2, logits=scores), ".logits"),
    ],
)
def test_the_way_to_the_scores_is_said_and_works(wrap: Callable[[Tensor], Any], access: str, build: Method) -> None:
    cut = cut_model()
    with pytest.raises(TypeError, match="forward_func: must return a tensor of scores") as raised:
        build(lambda x: wrap(cut(x)), cut.layer).attribute(cut_inputs(), TARGETS)
    assert f"lambda *args: model(*args){access}" in str(raised.value)
    advised = eval(f"lambda *args: model(*args){access}", {"model": lambda x: wrap(cut(x))})  # noqa: S307
    attribution = build(advised, cut.layer).attribute(cut_inputs(), TARGETS)
    assert torch.equal(one(attribution), one(build(cut, cut.layer).attribute(cut_inputs(), TARGETS)))


def test_some_of_several_tensors_are_named() -> None:
    cut = cut_model()
    function: Callable[..., Any] = lambda x: {"a": cut(x), "n": 1, "b": x}  # noqa: E731
    with pytest.raises(TypeError, match=r"its tensors are at \['a'\], \['b'\]"):
        LayerGradCamPlusPlus(function, cut.layer).attribute(cut_inputs(), TARGETS)


@pytest.mark.parametrize("value", [None, 1.5, (), {}, "text", ((torch.ones(3),),)], ids=str)
def test_what_holds_no_tensor_is_told_what_is_needed(value: Any) -> None:
    cut = cut_model()

    def forward(x: Tensor) -> Any:
        cut(x)
        return value

    with pytest.raises(TypeError, match=rf"returned {type(value).__name__}\. Let it return a tensor of torch"):
        LayerGradCamPlusPlus(forward, cut.layer).attribute(cut_inputs(), TARGETS)


@every_method
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scores: scores.to(torch.complex128), r"torch\.complex128 \(abs\(\) and \.real are real\)"),
        (lambda scores: scores > 0, r"torch\.bool"),
        (lambda scores: scores.argmax(1), r"torch\.int64"),
        (lambda scores: scores.to_sparse(), r"torch\.sparse_coo \(to_dense\(\)"),
    ],
    ids=["complex", "bool", "int", "sparse"],
)
def test_scores_that_are_no_real_numbers(change: Callable[[Tensor], Tensor], words: str, build: Method) -> None:
    cut = cut_model()
    with pytest.raises(TypeError, match=rf"forward_func: must return scores that are real .*{words}"):
        build(lambda x: change(cut(x)), cut.layer).attribute(cut_inputs(), TARGETS)
    assert hooks_on(cut) == 0


@every_method
@pytest.mark.parametrize("target", [None, 0, [0]])
def test_a_score_without_dimensions_is_told_of_squeeze(target: Any, build: Method) -> None:
    cut = cut_model()
    with pytest.raises(AssertionError, match=r"shape \(\), where one score for each example .* squeeze\(\)"):
        build(lambda x: cut(x)[:, :1].squeeze(), cut.layer).attribute(cut_inputs(examples=1), target)


@pytest.mark.parametrize("target", [1, (1,), [1]])
def test_a_target_among_scores_that_have_lost_their_examples_is_told_of_squeeze(target: Any) -> None:
    cut = cut_model()
    with pytest.raises(AssertionError, match=r"squeeze\(\) removed the dimension of a single example"):
        LayerGradCamPlusPlus(lambda x: cut(x).squeeze(), cut.layer).attribute(cut_inputs(examples=1), target)


def test_explain_says_the_same() -> None:
    cut = cut_model()

    class Pair(CutModel):
        def forward(self, inputs: Tensor) -> Any:
            return super().forward(inputs), 1

    pair = Pair(cut.below, cut.layer, cut.above)
    with pytest.raises(TypeError, match=r"returned tuple\. .*model\(\*args\)\[0\]"):
        explain(pair, cut_inputs(examples=1), "layer", n_samples=2)


# --- models that have not run yet ------------------------------------------------------------------------------------


def test_generators_and_coroutines_are_told_that_they_have_not_run() -> None:
    cut = cut_model()

    def generates(x: Tensor) -> Iterator[Tensor]:
        yield cut(x)

    async def waits(x: Tensor) -> Any:
        return cut(x)

    async def generates_and_waits(x: Tensor) -> AsyncIterator[Tensor]:
        yield cut(x)

    functions: list[tuple[Callable[..., Any], str]] = [
        (generates, r"a generator, .*next\(model"),
        (waits, r"a coroutine, .*asyncio\.run"),
        (generates_and_waits, r"an asynchronous generator"),
    ]
    for function, words in functions:
        with pytest.raises(TypeError, match=f"forward_func: returned {words}"):
            LayerGradCamPlusPlus(function, cut.layer).attribute(cut_inputs(), TARGETS)
    attribution = LayerGradCamPlusPlus(lambda x: next(iter(generates(x))), cut.layer).attribute(cut_inputs(), TARGETS)
    assert torch.equal(one(attribution), one(LayerGradCamPlusPlus(cut, "layer").attribute(cut_inputs(), TARGETS)))


# --- models whose layers are gone ------------------------------------------------------------------------------------


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
