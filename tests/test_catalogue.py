"""A fifth method: a subclass and a row of the table, and everything knows it."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as chrome
import numpy as np
import pytest
import torch
from models import images
from PIL import Image
from torch import Generator, Tensor, nn
from torch.utils.data import TensorDataset

from captum_sgcampp import (
    Explanation,
    LayerGradCamPlusPlus,
    SmoothCamAttribution,
    attribute_dataset,
    explain,
    open_maps,
)
from captum_sgcampp.explanation import METHODS
from captum_sgcampp.formulas import Derivatives
from captum_sgcampp.methods import catalogue
from captum_sgcampp.methods.catalogue import Method
from captum_sgcampp.methods.grad_cam import GradCam

NOISE: dict[str, Any] = {"n_samples": 3, "stdevs": 0.3}


class SmoothHiResCam(SmoothCamAttribution):
    """HiResCAM on averaged gradients: each position is weighted by its gradient, of either sign."""

    def weights(self, activations: Tensor, derivatives: Derivatives) -> Tensor:  # noqa: ARG002
        return derivatives.gradient


FIFTH = Method("Smooth HiResCAM", "smooth-hirescam", __name__, "SmoothHiResCam", is_smooth=True)


@pytest.fixture(autouse=True)
def with_a_fifth_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "METHODS", (*catalogue.METHODS, FIFTH))


def network() -> nn.Module:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 5, 3), nn.Tanh())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 6), nn.Tanh(), nn.Linear(6, 4))
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), relu=nn.ReLU(), block=block, head=head)).eval()


def generator() -> Generator:
    return Generator().manual_seed(0)


def fifth_map(model: Any, inputs: Tensor, layer: str, target: int, **options: Any) -> Tensor:
    attribution: Tensor = SmoothHiResCam(model, layer).attribute(
        inputs, target, generator=generator(), **{**NOISE, **options}
    )
    assert attribution.any()
    return attribution


def explanation() -> tuple[Any, Tensor, Explanation]:
    model, x = network(), images(1, 3, 11, 13, dtype=torch.float32)
    methods = list(catalogue.by_name())
    explained = explain(model, x, ["conv", "block"], [1, 2], methods=methods, generator=generator(), **NOISE)
    return model, x, explained


def test_each_class_is_found_by_its_row() -> None:
    for method in catalogue.METHODS:
        assert catalogue.method_of(method.load()) is method
        assert catalogue.method_of(type("Sub", (method.load(),), {})) is method
        assert catalogue.method_of(type("Other", (method.load(),), {"weights": lambda *_: None})) is None


def test_no_row_contradicts_its_class_or_another_row() -> None:
    assert len(catalogue.by_name()) == len(catalogue.by_word()) == len(catalogue.METHODS)
    for method in catalogue.METHODS:
        assert method.is_smooth == issubclass(method.load(), SmoothCamAttribution)
        assert method.is_smooth or method.without_noise is None


class HandsOn(LayerGradCamPlusPlus):
    def __init__(self, *args: Any, strength: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.strength = strength


def test_settings_reach_a_class_that_hands_them_on() -> None:
    method = Method("Handing on", "handing-on", __name__, "HandsOn")
    assert [one for one in ("alpha", "derivatives", "strength", "other") if method.takes(one)] == [
        "alpha",
        "derivatives",
        "strength",
    ]
    made = method.make(network(), "conv", alpha="eq5", derivatives="exp", other=1)
    assert isinstance(made, HandsOn) and (made.alpha, made.derivatives) == ("eq5", "exp")


class TrueSecond(SmoothCamAttribution):
    """Needs the true second derivative, whatever `explain` is given."""

    def __init__(self, forward_func: Any, layer: Any) -> None:
        super().__init__(forward_func, layer, derivatives="autograd")

    def weights(self, activations: Tensor, derivatives: Derivatives) -> Tensor:  # noqa: ARG002
        return derivatives.second


def test_explain_refuses_a_source_that_a_method_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Method("True second", "true-second", __name__, "TrueSecond", is_smooth=True)
    monkeypatch.setattr(catalogue, "METHODS", (row,))
    x = images(1, 3, 5, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match="derivatives: must be 'autograd' for True second, but is 'powers'"):
        explain(network(), x, "conv", [1], methods=["True second"])
    explained = explain(
        network(), x, "conv", [1], methods=["True second"], derivatives="autograd", n_samples=1, generator=generator()
    )
    alone = TrueSecond(network(), "conv").attribute(x, 1, n_samples=1, stdevs=0.3, generator=generator())
    torch.testing.assert_close(explained.maps["True second", "conv", 1], alone)


def test_only_grad_cam_plus_plus_has_an_alpha() -> None:
    model = network()
    having = [method.name for method in catalogue.METHODS if hasattr(method.make(model, "conv", alpha="eq5"), "alpha")]
    assert having == ["Grad-CAM++", "Smooth Grad-CAM++"]


def test_explain_knows_it() -> None:
    model, x, explained = explanation()
    shown = [method for method, layer, target in explained.maps if (layer, target) == ("conv", 1)]
    assert shown == [*METHODS, "Smooth HiResCAM"]
    for layer in ("conv", "block"):
        torch.testing.assert_close(
            explained.maps["Smooth HiResCAM", layer, 2], fifth_map(model, x, layer, 2), rtol=1e-5, atol=1e-6
        )
    alone = explain(model, x, "conv", [1], methods=["Smooth HiResCAM"], generator=generator(), **NOISE)
    assert list(alone.maps) == [("Smooth HiResCAM", "conv", 1)]
    with pytest.raises(ValueError, match=r"methods: must be one of .*'Smooth HiResCAM', but is 'other'"):
        explain(model, x, "conv", methods=["other"])


def test_a_method_without_a_name_for_no_noise_says_only_that_there_is_none() -> None:
    model, x, _ = explanation()
    with pytest.warns(UserWarning, match=r"^n_samples: is 0, so no noise is added\. Give a number"):
        SmoothHiResCam(model, "conv").attribute(x, 1)


def test_datasets_know_it(tmp_path: Path) -> None:
    model, x = network(), images(3, 3, 11, 13, dtype=torch.float32)
    maps = attribute_dataset(SmoothHiResCam(model, "conv"), TensorDataset(x), tmp_path / "maps", target=1, **NOISE)
    assert len(maps) == 3 and all(maps[name].any() for name in maps.names)


MODEL = """
import torch
from torch import nn
from torchvision.transforms.functional import resize, to_tensor

def load():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 4))
    return nn.Sequential(features, head), lambda photograph: to_tensor(resize(photograph, (32, 32))), None
"""


def test_the_command_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchvision", reason="the command needs the extra demo")
    from captum_sgcampp.__main__ import main

    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 40)).save("photo.png")
    given = ["photo.png", "--model", "model.py:load", "--layer", "0.2", "--n-samples", "2", "--seed", "1"]

    with pytest.raises(SystemExit):
        main(["--help"])
    assert "smooth-hirescam" in capsys.readouterr().out
    assert main([*given, "--methods", "grad-cam", "smooth-hirescam", "--output", "two.png"]) == 0
    assert main([*given, "--methods", "grad-cam", "--output", "one.png"]) == 0
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert two.width > one.width + 100

    maps: dict[str, Tensor] = {}
    for word in ("smooth-hirescam", "smooth-layer-cam", "smooth-grad-cam++"):
        assert main([*given, "--methods", word, "--maps", word]) == 0
        maps[word] = open_maps(word)["photo.png"]
    assert maps["smooth-hirescam"].any()
    assert not any(torch.equal(maps["smooth-hirescam"], other) for word, other in maps.items() if word != FIFTH.word)


class SmoothGradCam(SmoothCamAttribution):
    def weights(self, activations: Tensor, derivatives: Derivatives) -> Tensor:
        return GradCam.weights(self, activations, derivatives)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with chrome.chromium() as found:
        yield found


def test_the_call_that_a_page_prints_can_be_run(chromium: Any, tmp_path: Path) -> None:
    model, x, explained = explanation()
    explained.save_page(tmp_path / "page.html")
    with chrome.open_page(chromium, tmp_path / "page.html") as page:
        chrome.settled(page)
        shown = page.evaluate(SHOWN, {"method": "Smooth HiResCAM", "layer": "block", "target": 2})
    names: dict[str, Any] = {"model": model, "x": x}
    exec(shown["call"], names)  # noqa: S102
    assert f"from {__name__} import SmoothHiResCam" in shown["call"]
    wanted: Tensor = names["attribution"]
    assert torch.equal(wanted, fifth_map(model, x, "block", 2))
    actual = torch.tensor(shown["map"]).reshape(wanted.shape)
    torch.testing.assert_close(actual, wanted, rtol=1e-2, atol=1e-2 * float(wanted.max()))


@pytest.mark.filterwarnings("ignore:n_samples. is 0:UserWarning")
@pytest.mark.parametrize("filters", [[], [1, 3]])
@pytest.mark.parametrize("derivatives", ["powers", "exp"])
def test_without_noise_the_call_is_that_of_the_method_that_is_named(
    chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, derivatives: str, filters: list[int]
) -> None:
    """Captum's own class has another interface."""
    row = Method("Smooth Grad-CAM", "smooth-grad-cam", __name__, "SmoothGradCam", True, without_noise="Grad-CAM")
    monkeypatch.setattr(catalogue, "METHODS", (*catalogue.METHODS, row))
    model, x = network(), images(1, 3, 11, 13, dtype=torch.float32)
    explain(
        model, x, "block", [1], methods=["Grad-CAM", "Smooth Grad-CAM"], n_samples=0, derivatives=derivatives
    ).save_page(tmp_path / "page.html")
    with chrome.open_page(chromium, tmp_path / "page.html") as page:
        chrome.settled(page)
        calls = [
            page.evaluate(SHOWN, {"method": method, "layer": "block", "target": 1, "filters": filters})["call"]
            for method in ("Grad-CAM", "Smooth Grad-CAM")
        ]
    assert calls[0] == calls[1] and "LayerGradCam" in calls[0]
    exec(calls[1], {"model": model, "x": x})  # noqa: S102


SHOWN = """async (choice) => {
    await store.choose(choice);
    return { map: [...shownMap()], call: element("call").textContent };
}"""
