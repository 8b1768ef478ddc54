"""`explain`: several methods, layers and classes of one input, from the same passes."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from models import cut_model, images, seeded
from PIL import Image
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM, explain, picture
from captum_sgcampp.explanation import METHODS
from captum_sgcampp.picture import Row


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def rgb_model() -> Any:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(45, 6)
        )
    )


def rgb_input() -> Tensor:
    return images(1, 3, 6, 6, dtype=torch.float32)


LAYERS = ["0", "1"]


@pytest.mark.filterwarnings("ignore:n_samples. is 0:UserWarning")
@pytest.mark.parametrize("n_samples", [0, 5])
def test_maps_are_those_of_the_methods(n_samples: int) -> None:
    model, inputs = rgb_model(), rgb_input()
    explanation = explain(model, inputs, LAYERS, [4, 2], n_samples=n_samples, generator=generator())
    assert len(explanation.maps) == len(METHODS) * 2 * 2
    noise: dict[str, Any] = {"n_samples": n_samples, "stdevs": 0.3, "generator": generator()}
    smooth = LayerSmoothGradCAMpp if n_samples else LayerGradCamPlusPlus
    several = smooth(model, list(LAYERS)).attribute_targets(inputs, [4, 2], **(noise if n_samples else {}))
    for target, by_layer in zip([4, 2], several, strict=True):
        for layer, wanted in zip(LAYERS, by_layer, strict=True):
            maps = explanation.maps
            assert torch.equal(maps["Smooth Grad-CAM++", layer, target], wanted)
            layer_cam = LayerSmoothLayerCAM(model, layer).attribute(
                inputs, target, **{**noise, "generator": generator()}
            )
            assert torch.equal(maps["Smooth Layer-CAM", layer, target], layer_cam)
            plus_plus = LayerGradCamPlusPlus(model, layer).attribute(inputs, target)
            assert torch.equal(maps["Grad-CAM++", layer, target], plus_plus)
            captums = LayerGradCam(model, model[int(layer)]).attribute(inputs, target, relu_attributions=True)
            torch.testing.assert_close(maps["Grad-CAM", layer, target], captums)


def test_probabilities_come_from_the_pass_without_noise_and_choose_the_classes() -> None:
    model, inputs = rgb_model(), rgb_input()
    rows: list[int] = []
    model.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    explanation = explain(model, inputs, "1", top_k=3, n_samples=4, n_samples_batch_size=2)
    # One pass without noise for probabilities, activations and the clean gradients; one row more as in NoisyPasses.
    assert rows == [1, 2 + 1, 2]
    with torch.no_grad():
        wanted = model(inputs).softmax(dim=1)[0]
    assert explanation.probabilities is not None
    assert torch.equal(explanation.probabilities, wanted)
    assert explanation.targets == wanted.argsort(descending=True)[:3].tolist()


def test_without_a_smooth_method_there_is_no_noise() -> None:
    model, rows = rgb_model(), []
    model.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    explanation = explain(model, rgb_input(), "1", [0], methods=["Grad-CAM"])
    assert rows == [1]
    assert [method for method, _, _ in explanation.maps] == ["Grad-CAM"]


def test_filters_and_neurons_are_those_of_the_methods() -> None:
    model, inputs = rgb_model(), rgb_input()
    selection: dict[str, Any] = {"filters": [3, 1], "subset": [(0, 1), (2, 3)], "region": True}
    explanation = explain(
        model, inputs, model[1], [1], methods=["Smooth Grad-CAM++"], generator=generator(), **selection
    )
    wanted = LayerSmoothGradCAMpp(model, "1").attribute(
        inputs, 1, n_samples=25, stdevs=0.3, generator=generator(), **selection
    )
    assert torch.equal(explanation.maps["Smooth Grad-CAM++", "1", 1], wanted)
    assert len(explanation.picture().axes) == 1 + 2 + 1  # the photograph, the maps, the color bar


def test_the_picture_has_a_row_for_each_class_and_a_column_for_each_method(tmp_path: Path) -> None:
    names = ["ant", "bee", "cat", "dog", "eel", "fox"]
    photograph = Image.fromarray(np.full((20, 30, 3), 99, dtype=np.uint8))
    explanation = explain(
        rgb_model(), rgb_input(), "1", [5, 0], n_samples=2, class_names=names, photograph=photograph, title="my photo"
    )
    figure = explanation.picture()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == titles[5] == "my photo"
    assert [title.splitlines()[0] for title in titles[1 : len(METHODS) + 1]] == list(METHODS)
    assert all("fox, " in title for title in titles[1:5])
    assert all("ant, " in title for title in titles[6:10])
    figure.savefig(tmp_path / "picture.png")


def test_the_input_is_the_photograph_where_none_is_given() -> None:
    inputs = 5 * rgb_input() - 2
    shown = explain(rgb_model(), inputs, "1", [0], n_samples=1).photograph
    assert shown is not None
    assert (shown.min(), shown.max()) == (0, 1)
    wanted = (inputs - inputs.min()) / (inputs.max() - inputs.min())
    np.testing.assert_allclose(shown, wanted[0].permute(1, 2, 0), rtol=1e-6)


def test_an_input_that_is_not_an_image_is_explained_but_not_drawn() -> None:
    model, inputs = cut_model(1), images(1, 2, 6)
    explanation = explain(model, inputs, "layer", [0], n_samples=1)
    assert explanation.maps["Grad-CAM", "layer", 0].dim() == 3
    with pytest.raises(ValueError, match="photograph: a picture needs one"):
        explanation.picture()


@pytest.mark.parametrize("kind", ["grey", "float"])
def test_photographs_of_other_kinds(kind: str) -> None:
    photograph = np.full((8, 9), 51, dtype=np.uint8) if kind == "grey" else np.full((8, 9, 3), 0.2)
    shown = explain(rgb_model(), rgb_input(), "1", [0], n_samples=1, photograph=photograph).photograph
    assert shown is not None
    assert shown.shape == (8, 9, 3)
    np.testing.assert_allclose(shown, 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["CAM"]}, "methods: must be one of 'Grad-CAM', .* but is 'CAM'"),
        ({"methods": []}, "methods: must be one or several different methods"),
        ({"methods": ["Grad-CAM", "Grad-CAM"]}, "methods: must be one or several different methods"),
        ({"targets": []}, "targets: must be one or several different classes"),
        ({"targets": [1, 1]}, "targets: must be one or several different classes"),
        ({"top_k": 7}, "top_k: must be from 1 to the 6 classes, but is 7"),
        ({"layers": []}, "layers: must be one or several different layers"),
        ({"inputs": torch.rand(2, 3, 6, 6)}, r"inputs: must be one example, .* \(2, 3, 6, 6\)"),
        ({"photograph": np.full((2, 2, 3), 300.0)}, "photograph: must be .* range 300.0 to 300.0"),
        ({"alpha": "eq6"}, "alpha: must be one of"),
        ({"n_samples": -1}, "n_samples: must be at least 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    call = {"inputs": rgb_input(), "layers": "1", "n_samples": 1, **arguments}
    with pytest.raises(ValueError, match=message):
        explain(rgb_model(), **call)


def test_tensors_made_in_inference_mode() -> None:
    plain, model = rgb_model(), rgb_model()

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor, factor: Tensor) -> Tensor:
            scores: Tensor = self.model(image) * factor
            return scores

    with torch.inference_mode():
        inputs, factor = rgb_input(), torch.full((1, 1), 2.0)
        actual = explain(Scaled(), inputs, "model.1", [0], factor, n_samples=2, generator=generator())
    wanted = explain(plain, rgb_input(), "1", [0], n_samples=2, generator=generator())
    torch.testing.assert_close(actual.maps["Grad-CAM", "model.1", 0], 2 * wanted.maps["Grad-CAM", "1", 0])
    assert not actual.scores.is_inference()


@pytest.mark.parametrize("kind", ["object", "dict", "transformers"])
def test_models_that_return_an_object_with_logits(kind: str) -> None:
    model = rgb_model()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor) -> Any:
            logits = self.model(image)
            if kind == "dict":
                return {"loss": None, "logits": logits}
            if kind == "transformers":
                outputs = pytest.importorskip("transformers.modeling_outputs")
                return outputs.ImageClassifierOutput(logits=logits)
            return SimpleNamespace(logits=logits)

    actual = explain(Wrapped(), rgb_input(), "model.1", [1], n_samples=2, generator=generator())
    wanted = explain(model, rgb_input(), "1", [1], n_samples=2, generator=generator())
    assert torch.equal(actual.scores, wanted.scores)
    for method in METHODS:
        assert torch.equal(actual.maps[method, "model.1", 1], wanted.maps[method, "1", 1])


def test_shared_and_own_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Sequence[Row], str]] = []
    monkeypatch.setattr(picture, "draw", lambda rows, _title, scale: drawn.append((rows, scale)))
    layers, methods = ["0", "1"], ["Grad-CAM", "Grad-CAM++"]
    explanation = explain(rgb_model(), rgb_input(), layers, [0, 1], n_samples=1, methods=methods)
    maps = explanation.maps
    for scale in (None, "shared", "each"):
        explanation.picture(scale)
    (default, in_words), (shared, _), (each, own_in_words) = drawn
    assert len(shared) == 4
    for row in shared:
        for panel in row.panels:
            method, _, layer = panel.title.splitlines()
            assert panel.maximum == max(float(maps[method, layer, target].max()) for target in (0, 1))
    assert [panel.maximum for row in default for panel in row.panels] == [
        panel.maximum for row in shared for panel in row.panels
    ]
    assert {panel.maximum for row in each for panel in row.panels} == {None}
    assert "all maps of the method" in in_words
    assert "own maximum" in own_in_words

    explain(rgb_model(), rgb_input(), "1", [0], n_samples=1).picture()
    assert drawn[-1][1] == own_in_words
    with pytest.raises(ValueError, match="scale: must be one of 'each', 'shared', but is 'both'"):
        explanation.picture("both")


def test_a_layer_given_twice_counts_once() -> None:
    model = rgb_model()
    assert {layer for _, layer, _ in explain(model, rgb_input(), ["1", model[1]], n_samples=1).maps} == {"1"}


def test_a_model_without_a_row_of_scores_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match=r"model: must return one row of scores, .* returned \(1, 4, 4, 4\)"):
        explain(model, rgb_input(), "0", n_samples=1)


@pytest.mark.parametrize("targets", [torch.tensor([4, 1]), np.array([4, 1]), iter([4, 1])])
def test_targets_of_any_integer_type(targets: Any) -> None:
    assert explain(rgb_model(), rgb_input(), "1", targets, n_samples=1).targets == [4, 1]


@pytest.mark.parametrize("targets", [3, [True], ["ant"], [1.5]])
def test_targets_that_are_no_indices(targets: Any) -> None:
    with pytest.raises(TypeError, match="targets: must be a list of class indices, but is "):
        explain(rgb_model(), rgb_input(), "1", targets, n_samples=1)


def test_a_repeated_element_of_a_tensor_is_a_repeated_target() -> None:
    with pytest.raises(ValueError, match="targets: must be one or several different classes"):
        explain(rgb_model(), rgb_input(), "1", torch.tensor([1, 1]), n_samples=1)


def test_nothing_is_printed_or_written(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    explain(rgb_model(), rgb_input(), "1", n_samples=2).picture()
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
