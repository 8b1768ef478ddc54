"""The command's networks from a file of the user's own: a default layer, classes and maps, or one line that helps."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("torchvision", reason="the command needs the extra demo")
from cli_helpers import CPU, FAST, panels

import captum_sgcampp
from captum_sgcampp.__main__ import main
from captum_sgcampp.cli import command
from captum_sgcampp.cli.networks import load_classifier

pytestmark = pytest.mark.usefixtures("coarse_pictures", "in_empty_folder")

OWN = """
import torch
from beside import NAMES
from torchvision import transforms

def load():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
        torch.nn.Linear(128, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2),
    )
    preprocess = transforms.Compose([
        transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(3 * [0.5], 3 * [0.5])
    ])
    return model, preprocess, NAMES

def two(): return 1, 2
def strings(): return "a", "b", "c"
def fails(): raise KeyError("oh")
def many(): return load()[:2] + (["x", "y", "z"],)
def rows(): return torch.nn.Conv2d(3, 8, 3), load()[1], None
def numpy():
    return load()[0], lambda image: 3, None
def dictionary(): return load()[:2] + ({1: "eggs", 0: "ham"},)
def seven(): return load()[:2] + (7,)
def exits(): raise SystemExit(3)
def notcallable(): return load() + (3,)
def bare():
    class Bare(torch.nn.Module):
        def forward(self, x): return x.mean((2, 3))
    return Bare(), load()[1], None
def badreshape():
    def reshape(x): return x.reshape(1, 2, 3, 4)
    return load() + (reshape,)
def uncropped():
    class Tokens(torch.nn.Module):
        patch_size = 16
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head = torch.nn.Conv2d(3, 8, 16, stride=16), torch.nn.Linear(8, 2)
            self.norm = torch.nn.LayerNorm(8)
        def forward(self, x):
            return self.head(self.norm(self.embed(x).flatten(2).transpose(1, 2)).relu().mean(1))
    return Tokens(), transforms.ToTensor(), None
def tokens():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Conv2d(3, 8, 16, stride=16), torch.nn.Linear(8, 2)
            self.first = torch.nn.Linear(8, 8)
        def forward(self, x):
            return {"logits": self.head(self.first(self.embed(x).flatten(2).transpose(1, 2)).relu().mean(1))}
    return Tokens(), load()[1], None, lambda x: x.transpose(1, 2).reshape(len(x), 8, 4, 4)
"""


@pytest.fixture
def own(in_empty_folder: Path) -> Path:
    (in_empty_folder / "mine").mkdir()
    Path("mine/beside.py").write_text('NAMES = ["ham", "eggs"]')
    file = Path("mine/model.py")
    file.write_text(OWN)
    return file


@pytest.fixture(autouse=True)
def same_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "beside", raising=False)


def test_a_model_of_ones_own(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", f"{own}:load", "--target", "eggs", "--n-samples", "0", "--methods", "grad-cam"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"camera: {own}:load, layer 1"
    assert {line.split()[-2] for line in lines[1:3]} == {"ham", "eggs"}
    shown, _ = panels(lines[-1])
    assert shown.std() > 0.15

    classifier = load_classifier(f"{own}:load", CPU)
    state = {name: torch.zeros_like(value) for name, value in classifier.model.state_dict().items()}
    torch.save(state, "zeros.pt")
    assert not load_classifier(f"{own}:load", CPU, Path("zeros.pt")).model[0].weight.any()  # type: ignore[index]


def test_a_model_of_ones_own_with_tokens_and_an_object_of_logits(own: Path) -> None:
    assert main(["--model", f"{own}:tokens", "--layer", "first", *FAST, "--target", "1", "--output", "x.png"]) == 0
    assert len(panels("x.png")) == 2


def test_the_grid_of_tokens_is_that_of_each_photograph(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in [("land", (64, 48)), ("port", (48, 64)), ("square", (48, 48))]:
        Image.effect_noise(size, 60).save(f"{name}.png")
    grids = {}
    explain = captum_sgcampp.explain

    def recorded(*args: Any, **kwargs: Any) -> Any:
        explanation = explain(*args, **kwargs)
        grids[kwargs["title"]] = tuple(next(iter(explanation.maps.values())).shape[2:])
        return explanation

    monkeypatch.setattr(command, "explain", recorded)
    photographs = ["land.png", "port.png", "square.png"]
    assert main([*photographs, "--model", f"{own}:uncropped", "--layer", "norm", "--methods", "grad-cam"]) == 0
    assert grids == {"land.png": (3, 4), "port.png": (4, 3), "square.png": (3, 3)}


def test_names_of_classes_by_number(own: Path) -> None:
    assert load_classifier(f"{own}:dictionary", CPU).classes == ["ham", "eggs"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine/model.py", "--model mine/model.py lacks the function that returns the model, as in mine/model.py:load"),
        (
            "mine/model.py:seven",
            "must return the names of the classes as a list, or as a dict by number from 0, not as",
        ),
        ("mine/model.py:exits", "exits of mine/model.py failed: SystemExit: 3"),
        ("mine/model.py:notcallable", "must return a function as its reshape_transform, not int"),
        ("mine/model.py:bare", "mine/model.py:bare has no layer that is known to be a map"),
        ("mine/model.py:badreshape", "layer 0 cannot be seen as a map: RuntimeError: "),
        ("nowhere.py:load", "cannot read nowhere.py: there is no such file"),
        ("mine/model.py:lode", "unknown function in mine/model.py: 'lode'; the closest: load"),
        ("mine/model.py:two", "two of mine/model.py must return its model, its preprocessing and the names of its"),
        ("mine/model.py:strings", "must return a Module and a function first, not str and str"),
        ("mine/model.py:fails", "fails of mine/model.py failed: KeyError: 'oh'"),
        ("mine/model.py:many", "mine/model.py:many has 2 classes, but there are 3 names"),
        ("mine/model.py:rows", r"mine/model.py:rows must return a row of scores, (1, classes), but returned (1, 8, "),
        ("mine/model.py:numpy", "must return a tensor (C, H, W), but returned int"),
        ("mine/broken.py:load", "mine/broken.py cannot be imported: SyntaxError: "),
    ],
)
@pytest.mark.usefixtures("own")
def test_wrong_models_of_ones_own(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/broken.py").write_text("def")
    layer = ["--layer", "0"] if name.endswith("badreshape") else []
    assert main(["--model", name, *layer]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
