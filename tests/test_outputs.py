"""What forward_func returns is refused by name if it is no row of scores, or nothing that has run yet."""

from collections import OrderedDict, namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import Method, every_method, hooks_on, one, without_noise_on_purpose
from models import TARGETS, cut_inputs, cut_model
from oracle import CutModel
from torch import Tensor

from captum_sgcampp import LayerGradCamPlusPlus, explain

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
