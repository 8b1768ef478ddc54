"""What `explain` and the methods say of arguments that are something else, and of outputs without a row of scores."""

import re
from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import images, seeded
from PIL import Image
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM, explain, tokens_to_map

X = images(1, 3, 6, 6, dtype=torch.float32)


def build() -> Any:
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)))


class Processed(UserDict[str, Any]):
    """A mapping as the processors of transformers return it."""


WRONG_INPUTS = [
    pytest.param([X], "a list of Tensor; give the tensor itself", id="list"),
    pytest.param((X, 3), ("a tuple of Tensor, int; ", "a tuple with 3, of type int"), id="tensor and number"),
    pytest.param((X, None), ("a tuple of Tensor, NoneType; ", "a tuple with None"), id="tensor and None"),
    pytest.param(None, "None", id="None"),
    pytest.param(X.numpy(), "a NumPy array (1, 3, 6, 6); torch.from_numpy", id="array"),
    pytest.param(Image.new("RGB", (6, 6)), "a PIL image; give what the preprocessing", id="PIL"),
    pytest.param("cat.jpg", "'cat.jpg', of type str", id="name"),
    pytest.param(7, "7, of type int", id="number"),
    pytest.param(
        Processed(pixel_mask=torch.ones(1, 6, 6), pixel_values=X),
        "a Processed with the keys 'pixel_mask', 'pixel_values'; give one of its tensors, inputs['pixel_values'], and "
        "the others as additional_forward_args",
        id="processor",
    ),
    pytest.param({"audio": X}, "a dict with the keys 'audio'; give one of its tensors, inputs['audio'].", id="mapping"),
    pytest.param({"pixel_values": [1]}, "a dict with .*, none of which is a tensor; .*return_tensors='pt'", id="lists"),
]


def matching(words: str) -> str:
    return words if ".*" in words else re.escape(words)


@pytest.mark.parametrize(("inputs", "words"), WRONG_INPUTS)
def test_inputs_that_are_no_tensor(inputs: Any, words: str | tuple[str, str]) -> None:
    of_explain, of_methods = (words, words) if isinstance(words, str) else words
    with pytest.raises(TypeError, match=f"^inputs: must be one tensor, .* but is {matching(of_explain)}"):
        explain(build(), inputs, "1", [1])
    for method in (LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM):
        noise: dict[str, Any] = {} if method is LayerGradCamPlusPlus else {"n_samples": 2}
        with pytest.raises(TypeError, match=f"^inputs: must be a tensor or a tuple .* but is {matching(of_methods)}"):
            method(build(), "1").attribute(inputs, 1, **noise)


def test_what_transformers_processors_return() -> None:
    transformers = pytest.importorskip("transformers")
    features = transformers.BatchFeature({"pixel_values": X})
    with pytest.raises(TypeError, match=r"a BatchFeature with the keys 'pixel_values'; .*inputs\['pixel_values'\]\."):
        explain(build(), features, "1", [1])
    assert explain(build(), features["pixel_values"], "1", [1], n_samples=1).targets == [1]


def test_tuples() -> None:
    with pytest.raises(TypeError, match=r"inputs: must be one tensor, .* but is a tuple of Tensor; give the tensor"):
        explain(build(), (X,), "1", [1])  # type: ignore[arg-type]
    assert len(LayerGradCamPlusPlus(build(), "1").attribute((X,), 1)) == 1
    with pytest.raises(TypeError, match=r"inputs: must be one tensor, .* but is a tuple of nothing"):
        explain(build(), (), "1", [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inputs: is an empty tuple"):
        LayerGradCamPlusPlus(build(), "1").attribute((), 1)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (X[0], r"\(3, 6, 6\)\. If that has no dimension for the batch, give inputs\[None\]"),
        (X[0, 0], r"\(6, 6\)\. If that has no dimension"),
        (X.repeat(4, 1, 1, 1), r"\(4, 3, 6, 6\)\.$"),
        (torch.tensor(1.0), r"\(\)\.$"),
    ],
)
def test_inputs_that_are_not_one_example(inputs: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^inputs: must be one example, \(1, ...\), but have the shape {words}"):
        explain(build(), inputs, "1", [1])


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda output: output.squeeze(), r"\(5,\)"),
        (lambda output: output[:, 1], r"\(1,\)"),
    ],
)
def test_an_output_without_its_first_dimension(change: Callable[[Tensor], Tensor], shape: str) -> None:
    model = build()

    def run(image: Tensor) -> Tensor:
        return change(model(image))

    with pytest.raises(
        ValueError, match=rf"^model: must return one row of scores, .* returned {shape}\..*squeeze"
    ) as error:
        explain(run, X, model[1], n_samples=1)
    assert "scores.reshape(1, -1)" in str(error.value)

    def as_advised(image: Tensor) -> Tensor:
        return run(image).reshape(1, -1)

    assert explain(as_advised, X, model[1], n_samples=1).scores.dim() == 1


def test_an_output_without_dimensions() -> None:
    model = build()
    with pytest.raises(AssertionError, match=r"^forward_func: returned a tensor of shape \(\), .*squeeze\(1\)"):
        explain(lambda image: model(image)[0, 1], X, model[1], n_samples=1)


@pytest.mark.parametrize(
    ("class_names", "kind", "words"),
    [
        (["a"] * 4, ValueError, "there are 4, but the model has 5 classes"),
        (["a"] * 6, ValueError, "there are 6, but the model has 5 classes"),
        ([], ValueError, "there are 0, but the model has 5 classes"),
        ("abcde", TypeError, "must be a list of names, but is 'abcde'"),
        (5, TypeError, "must be a list of names, but is 5"),
        ({"a", "b", "c", "d", "e"}, TypeError, "must be a list of names, but is {"),
        (iter("abcde"), TypeError, "must be a list of names, but is <"),
        ({0: "a"}, ValueError, "there are 1, but the model has 5 classes"),
        (dict(enumerate("abcde", start=1)), ValueError, "a mapping from the numbers 0 to 4, but has the keys 1, 2, 3,"),
        ({name: number for number, name in enumerate("abcde")}, ValueError, "but has the keys 'a', 'b', 'c',"),
    ],
)
def test_class_names_that_do_not_fit(class_names: Any, kind: type[Exception], words: str) -> None:
    model, rows = build(), []
    model.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    with pytest.raises(kind, match=f"^class_names: .*{words}"):
        explain(model, X, "1", [1], class_names=class_names)
    assert rows == [1]  # before the passes with noise


@pytest.mark.parametrize(
    "class_names", [list("abcde"), tuple("abcde"), np.array(list("abcde")), {4: "e", 1: "b", 0: "a", 2: "c", 3: "d"}]
)
def test_class_names_of_every_kind_that_fits(class_names: Any) -> None:
    explanation = explain(build(), X, "1", [1], n_samples=1, class_names=class_names)
    assert [explanation.class_name(target) for target in range(5)] == list("abcde")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layers": None}, "layers: must be a module, a name, or a list of these, but is None"),
        ({"layers": 3}, "layers: must be a module, a name, or a list of these, but is 3"),
        ({"methods": "Grad-CAM"}, "methods: must be a list, but is 'Grad-CAM'"),
        ({"top_k": True}, "top_k: must be an integer, but is True"),
        ({"top_k": 1.5}, "top_k: must be an integer, but is 1.5"),
        ({"reshape_transform": tokens_to_map}, r"tokens_to_map: is to be called, .*tokens_to_map\(\)"),
        ({"methods": None}, "methods: must be a list, but is None"),
        ({"reshape_transform": 5}, "reshape_transform: must be a function, .* but is 5"),
        ({"reshape_transform": lambda _maps: None}, "reshape_transform: must return a tensor, .* returned NoneType"),
        ({"stdevs": "0.3"}, "stdevs: must be a number or .* but is '0.3'"),
    ],
)
def test_other_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        explain(build(), X, **{"layers": "1", **arguments})


def test_a_target_that_is_no_class() -> None:
    with pytest.raises(IndexError, match="targets: 5 is out of range; the model has 5 classes"):
        explain(build(), X, "1", [1, 5])


def test_negative_targets_count_from_the_end() -> None:
    model = build()
    explanation = explain(model, X, "1", [-1, 2], n_samples=1, class_names=list("abcde"))
    assert explanation.targets == [4, 2]
    assert explanation.class_name(4) == "e"
    with pytest.raises(ValueError, match=r"targets: must be one or several different classes, but are \[-1, 4\]"):
        explain(model, X, "1", [-1, 4], n_samples=1)


@pytest.mark.parametrize("stdevs", [(0.3,), [0.3]])
def test_a_list_of_one_standard_deviation(stdevs: Any) -> None:
    given, number = (
        explain(build(), X, "0", [1], n_samples=2, stdevs=stdev, generator=torch.Generator().manual_seed(1))
        for stdev in (stdevs, 0.3)
    )
    assert given.settings == number.settings
    assert given.recipe.stdevs == 0.3
    assert all(torch.equal(given.maps[key], number.maps[key]) for key in number.maps)


@pytest.mark.parametrize("stdevs", [(), (0.3, 0.3)])
def test_standard_deviations_for_other_inputs(stdevs: Any) -> None:
    with pytest.raises(ValueError, match="stdevs: must be one number, for the one input, but is"):
        explain(build(), X, "1", [1], stdevs=stdevs)


@pytest.mark.parametrize("several", [tuple, list])
def test_several_logits_are_not_taken_for_the_whole_output(several: Callable[[Any], Any]) -> None:
    """Advice to take [0] of the output would fail at its mapping."""
    model = build()
    with pytest.raises(TypeError, match=r"but returned dict\. Let it return a tensor of torch"):
        explain(lambda image: {"logits": several([model(image)] * 2)}, X, model[1])


def test_a_model_without_classes() -> None:
    model = build()
    with pytest.raises(ValueError, match=r"must return one row of scores, .* returned \(1, 0\)\. It has no classes"):
        explain(lambda image: model(image)[:, :0], X, model[1])


def test_a_photograph_that_is_no_image() -> None:
    with pytest.raises(ValueError, match=r"photograph: must be .* is 'cat.jpg'"):
        explain(build(), X, "1", photograph="cat.jpg", n_samples=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"grid": 14}, "grid: must be a tuple of integers, such as .* but is 14"),
        ({"grid": "33"}, "grid: must be a tuple of integers, such as .* but is '33'"),
        ({"grid": (3.0, 3)}, r"grid: must be a tuple of integers, such as .* but is \(3.0, 3\)"),
        ({"n_prefix_tokens": None}, "n_prefix_tokens: must be an integer, but is None"),
        ({"n_prefix_tokens": True}, "n_prefix_tokens: must be an integer, but is True"),
    ],
)
def test_arguments_of_tokens_to_map(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        tokens_to_map(**arguments)
