"""The command's --maps: the same maps as explain's, for folders of any depth and any number of processes."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from PIL import Image
from torch import Generator, Tensor

from captum_sgcampp import explain, open_maps
from captum_sgcampp.__main__ import main
from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.networks import load_classifier
from captum_sgcampp.cli.processes import default_device
from captum_sgcampp.dataset.batch_maps import noise_seed
from captum_sgcampp.methods import catalogue

PHOTOGRAPHS = ["1.png", "a/1.png", "a/b c/2.jpg", "a/b c/d,e/3.png"]
NETWORK = """
from torch import nn
from torchvision.models import squeezenet1_1
from torchvision.transforms.functional import resize, to_tensor
import torch

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = squeezenet1_1(num_classes=5)

    def forward(self, images):
        return {"logits": self.network(images)}

def preprocess(photograph):
    return to_tensor(resize(photograph, (64, 64)))

def load():
    torch.manual_seed(0)
    return squeezenet1_1(num_classes=5), preprocess, ["a", "b", "c", "d", "e"]

def load_wrapped():
    torch.manual_seed(0)
    return Wrapped(), preprocess, None
"""
FAST = ["--model", "my_model.py:load", "--layer", "features.7", "--n-samples", "2", "--workers", "0"]

pytestmark = pytest.mark.usefixtures("coarse_pictures")


@pytest.fixture(autouse=True)
def in_folder_with_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_model.py").write_text(NETWORK)
    for seed, name in enumerate(PHOTOGRAPHS):
        file = Path("photos", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 50), Image.Resampling.BICUBIC).save(file)


def classifier(function: str = "load") -> Classifier:
    return load_classifier(f"my_model.py:{function}", torch.device("cpu"))


def index(folder: str = "maps") -> list[dict[str, str]]:
    with Path(folder, "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def explained(name: str, method: str, function: str = "load", layer: str = "features.7", **options: Any) -> Tensor:
    """The map of a photograph alone, with a network whose weights lie in memory as usual."""
    known = classifier(function)
    with Image.open(Path("photos", name)) as photograph:
        inputs = known.inputs(photograph.convert("RGB"))
    generator = Generator().manual_seed(noise_seed(0, name))
    noise = {"n_samples": 2, "stdevs": 0.3, "generator": generator}
    explanation = explain(known.model, inputs, layer, methods=[method], **{**noise, **options})
    (found,) = explanation.maps.values()
    return found[0]


def assert_equal_to_rounding(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("method", "spelled"), [(method.name, method.word) for method in catalogue.METHODS])
def test_the_maps_are_those_of_explain(method: str, spelled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["photos", "--maps", "maps", *FAST, "--methods", spelled, "--batch-size", "3"]) == 0
    assert capsys.readouterr().out == ""
    maps = open_maps("maps")
    assert maps.names == sorted(PHOTOGRAPHS) == [row["name"] for row in index()]
    for name in PHOTOGRAPHS:
        assert_equal_to_rounding(maps[name], explained(name, method))
    assert {file.name for file in Path().iterdir()} == {"maps", "my_model.py", "photos"}  # no pictures


def test_filters_neurons_and_targets() -> None:
    chosen = ["--filters", "3", "1", "--subset", "1,1", "2,3", "--region", "--target", "c", "--target", "4"]
    assert main(["photos", "--maps", "maps", *FAST, *chosen]) == 0
    options: dict[str, Any] = {"filters": [3, 1], "subset": [(1, 1), (2, 3)], "region": True}
    for target, name in [(2, "c"), (4, "e")]:
        key = f"a/1.png/{target}"
        wanted = explained("a/1.png", "Smooth Grad-CAM++", targets=[target], **options)
        assert_equal_to_rounding(open_maps("maps")[key], wanted)
        assert [row["target_name"] for row in index() if row["key"] == key] == [name]


def test_a_network_that_returns_an_object_with_logits() -> None:
    given = ["--model", "my_model.py:load_wrapped", "--layer", "network.features.7", "--n-samples", "2"]
    assert main(["photos", "--maps", "maps", *given]) == 0
    wanted = explained("1.png", "Smooth Grad-CAM++", "load_wrapped", "network.features.7")
    assert_equal_to_rounding(open_maps("maps")["1.png"], wanted)


def test_pictures_are_drawn_if_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["photos/1.png", "photos/a/b c", "--maps", "maps", "--output", "pictures", *FAST]) == 0
    assert open_maps("maps").names == ["1.png", "2.jpg", "d,e/3.png"]
    assert capsys.readouterr().out.count(".png") >= 3
    assert len(list(Path("pictures").rglob("captum-sgcampp-*.png"))) == 3


def test_photographs_of_one_name_have_their_whole_paths() -> None:
    assert main(["photos/1.png", "photos/a", "--maps", "maps", *FAST]) == 0
    assert open_maps("maps").names == ["photos/1.png", "photos/a/1.png", "photos/a/b c/2.jpg", "photos/a/b c/d,e/3.png"]


@pytest.mark.filterwarnings("default")
def test_a_photograph_that_fails_has_a_row_and_is_tried_again_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("photos/bad.png").write_text("no image")
    Image.new("L", (100, 100)).save("photos/huge.png")
    with monkeypatch.context() as context:
        context.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
        assert main(["photos", "--maps", "maps", *FAST]) == 2
    assert "captum-sgcampp: dataset: 2 of 6 image(s) have no map, such as 'bad.png'" in capsys.readouterr().err
    errors = {row["name"]: row["error"] for row in index() if row["error"]}
    assert "UnidentifiedImageError" in errors["bad.png"] and "DecompressionBombError" in errors["huge.png"]
    assert main(["photos", "--maps", "maps", *FAST]) == 2
    assert open_maps("maps").errors.keys() == errors.keys()
    assert main(["photos", "--maps", "maps", *FAST, "--retry-failed"]) == 2
    assert "and --retry-failed tries them again" in capsys.readouterr().err
    assert open_maps("maps").errors.keys() == {"bad.png"}
    Image.new("L", (60, 50), "gray").save("photos/bad.png")
    assert main(["photos", "--maps", "maps", *FAST]) == 0


def test_another_run_is_refused_in_the_commands_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["photos", "--maps", "maps", *FAST]) == 0
    assert main(["photos", "--maps", "maps", *FAST, "--seed", "1"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "captum-sgcampp: --maps: maps holds maps of another run: seed is 0 there and 1 here. Choose another folder."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch-size", "3"], "argument --batch-size: is for --maps"),
        (["--workers", "0"], "argument --workers: is for --maps"),
        (["--retry-failed"], "argument --retry-failed: is for --maps"),
        (["--maps", "maps", "--top-k", "2"], "argument --maps: is for the most probable class or --target"),
        (["--maps", "maps", "--methods", "grad-cam", "grad-cam++"], "argument --maps: is for one method at a time"),
        (["--maps", "maps", "-"], "argument --maps: needs files, not standard input, -"),
        (["--maps", "maps", "--batch-size", "0"], "argument --batch-size: must be at least 1, but is 0"),
    ],
)
def test_arguments_that_do_not_go_together(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(given)
    assert message in capsys.readouterr().err


def test_each_process_has_a_graphics_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for local_rank, device in [("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")]:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert default_device() == device


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("fails", [False, True])
def test_two_processes_are_the_same_command(fails: bool) -> None:
    if fails:
        Path("photos/bad.png").write_text("no image")
    given = ["photos", *FAST]
    assert main([*given, "--maps", "wanted"]) == 2 * fails
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    outcome = subprocess.run(
        [*torchrun, "-m", "captum_sgcampp", *given, "--maps", "maps"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert bool(outcome.returncode) == fails, outcome.stderr
    assert ("exitcode  : 2" in outcome.stderr) == fails
    written, wanted = (
        {file.name: file.read_bytes() for file in Path(folder).iterdir()} for folder in ("maps", "wanted")
    )
    assert written == wanted
