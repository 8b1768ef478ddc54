"""The command line, run as a user would, down to the pixels of the picture."""

import subprocess
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from torchvision import models

from captum_sgcampp import __main__
from captum_sgcampp.cli.classifiers import Classifier, classifier_names, load_classifier
from captum_sgcampp.cli.command import run

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def opened(file: str | Path) -> Image.Image:
    """Reads a picture, and closes its file."""
    with Image.open(file) as image:
        image.load()
        return image


def photograph(path: str) -> Path:
    """Writes a photograph that scikit-image ships."""
    from skimage import data

    file = Path(path)
    Image.fromarray(np.asarray(getattr(data, file.stem.split("-")[0])())).save(file)
    return file


def panels(picture: Path) -> list[npt.NDArray[np.float64]]:
    """Cuts the panels of the last row out of a picture: what is not white, between white columns."""
    pixels = np.asarray(opened(picture).convert("RGB"), dtype=np.float64) / 255
    row = pixels[int(len(pixels) * 0.5) :]  # beneath the titles
    white = (row == 1).all(axis=(0, 2))
    edges = np.flatnonzero(np.diff(np.concatenate([[True], white, [True]]).astype(int)))
    return [row[:, left:right] for left, right in zip(edges[::2], edges[1::2], strict=True) if right - left > 50]


def centre(panel: npt.NDArray[np.float64]) -> float:
    """Where the heat of a map lies between left, 0, and right, 1. Inferno goes from blue to yellow."""
    heat = (panel[..., 0] + panel[..., 1] - 2 * panel[..., 2]).clip(0).sum(axis=0)
    return float((heat * np.linspace(0, 1, len(heat))).sum() / heat.sum())


def test_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "chelsea: efficientnet_lite0, layer _blocks.15"
    assert len(lines) == 7
    assert "Egyptian cat (285)" in lines[1]
    probabilities = [float(line.split("%")[0]) for line in lines[1:6]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 30 < probabilities[0] < 50

    file = Path(lines[-1])
    assert opened(file).format == "PNG"
    shown, grad_cam, plus_plus, smooth, layer_cam = panels(file)
    # The photograph is in colour and sharp; the maps are different from it and from each other.
    expected = load_classifier("efficientnet_lite0", None, CPU).crop(opened(photograph("chelsea.png")))
    lower = expected[-shown.shape[0] :]
    assert abs(shown[: len(lower)].mean() - lower.mean()) < 0.05
    assert shown.std() > 0.15
    for one, other in [(shown, grad_cam), (grad_cam, plus_plus), (plus_plus, smooth), (smooth, layer_cam)]:
        width = min(one.shape[1], other.shape[1])
        assert np.abs(one[:, :width] - other[:, :width]).mean() > 0.01


def test_maps_lie_where_the_object_is() -> None:
    cup = np.asarray(opened(photograph("coffee.png")))
    beside = np.full((400, 400, 3), 128, dtype=np.uint8)
    for name, column in [("left", 0), ("right", 200)]:
        canvas = beside.copy()
        canvas[100:300, column : column + 200] = np.asarray(Image.fromarray(cup[:, 100:500]).resize((200, 200)))
        Image.fromarray(canvas).save(f"{name}.png")
        assert run([f"{name}.png", "--target", "espresso", "--output", f"{name}-map.png", "--n-samples", "5"]) == 0
    for left, right in zip(panels(Path("left-map.png"))[1:], panels(Path("right-map.png"))[1:], strict=True):
        assert centre(left) < 0.45
        assert centre(right) > 0.55


def test_runs_repeat_with_the_seed() -> None:
    for name, seed in [("first", "3"), ("again", "3"), ("other", "4")]:
        assert run(["--seed", seed, "--n-samples", "2", "--stdevs", "0.5", "--output", f"{name}.png"]) == 0
    first, again, other = (np.asarray(opened(f"{name}.png")) for name in ("first", "again", "other"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_targets_and_top_k_have_a_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    heights = []
    for arguments in (["--target", "tabby"], ["--target", "281", "--target", "Tiger Cat"], ["--top-k", "2"]):
        assert run([*arguments, "--n-samples", "0", "--output", "picture.png"]) == 0
        heights.append(opened("picture.png").height)
    assert heights[1] == heights[2] > 1.8 * heights[0]
    assert "Egyptian cat" in capsys.readouterr().out


def outlined(panel: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Where a panel is cyan, the colour of outlines."""
    return (panel[..., 0] < 0.3) & (panel[..., 1] > 0.7) & (panel[..., 2] > 0.7)


def test_filters_have_a_panel_each_and_regions_an_outline() -> None:
    selection = ["--layer", "_blocks.10", "--n-samples", "2", "--filters", "10", "32", "3"]
    assert run([*selection, "--output", "filters.png"]) == 0
    photo, *maps = panels(Path("filters.png"))
    assert len(maps) == 3
    assert not any(outlined(panel).any() for panel in maps)
    assert np.abs(maps[0][:, :300] - maps[1][:, :300]).mean() > 0.01

    assert run([*selection, "--subset", "9,10", "2,4", "--region", "--output", "region.png"]) == 0
    for panel in panels(Path("region.png"))[1:]:
        columns = np.flatnonzero(outlined(panel).any(axis=0)) / panel.shape[1]
        assert columns.min() == pytest.approx(4 / 14, abs=0.02)
        assert columns.max() == pytest.approx(11 / 14, abs=0.02)
        assert not outlined(photo).any()
        outside = panel[:, : int(3.5 / 14 * panel.shape[1])]  # nothing but the grey photograph
        assert np.ptp(outside, axis=2).max() < 0.1


def test_neurons_are_marked() -> None:
    assert run(["--n-samples", "1", "--layer", "_blocks.10", "--subset", "12,3", "11,9", "--output", "subset.png"]) == 0
    _, *maps = panels(Path("subset.png"))
    assert len(maps) == 4
    for panel in maps:
        columns = np.flatnonzero(outlined(panel).any(axis=0)) / panel.shape[1] * 14
        for neuron in (3, 9):
            assert ((columns > neuron - 0.3) & (columns < neuron + 1.3)).any()
        assert not ((columns > 4.4) & (columns < 8.6)).any()


def test_methods_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--methods", "smooth-layer-cam", "grad-cam", "--n-samples", "2", "--output", "two.png"]) == 0
    assert len(panels(Path("two.png"))) == 1 + 2
    with pytest.raises(SystemExit):
        run(["--methods", "cam"])
    assert "smooth-layer-cam" in capsys.readouterr().err


def test_transformers_are_shown_by_their_patches(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    state = models.vit_b_32(num_classes=3).state_dict()
    state["heads.head.weight"].normal_()  # torchvision's are zero
    torch.save(state, "vit.pt")
    assert run(["--model", "vit_b_32", "--weights", "vit.pt", "--n-samples", "1", "--subset", "0,0", "6,6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "chelsea: vit_b_32, layer encoder.layers.encoder_layer_11.ln_1"
    assert len(panels(Path(lines[-1]))) == 1 + 4


def test_several_images_are_done_though_some_fail(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").write_text("no image")
    Path("other").mkdir()
    good, same_name = photograph("coffee.png"), photograph("other/coffee.jpg")
    images = ["text.png", "missing.png", str(good), str(same_name)]
    assert run([*images, "--output", "maps", "--n-samples", "1"]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("espresso") == 2
    assert [line for line in captured.out.splitlines() if line.endswith(".png")] == [
        "maps/captum-sgcampp-coffee.png",
        "maps/captum-sgcampp-coffee-2.png",
    ]
    assert all(path.exists() for path in Path("maps").glob("*")) and len(list(Path("maps").iterdir())) == 2
    assert "text.png is not an image" in captured.err
    assert "cannot read missing.png: No such file or directory" in captured.err
    assert "Images: 100%" in captured.err  # the progress bar


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet5"], "unknown model 'resnet5'; the closest: resnet50"),
        (["--layer", "_block.15"], "unknown layer '_block.15'; the closest: _blocks.15"),
        (["--target", "cat"], "unknown class 'cat'; the closest: tiger cat"),
        (["--target", "1000"], "unknown class 1000; efficientnet_lite0 has the classes 0 to 999"),
        (["--target", "cardigan"], "class 'cardigan' is the name of 264 and 474; give the number"),
        (["--weights", "missing.pt"], "cannot read weights from missing.pt: No such file"),
        (["--weights", "text.pt"], "cannot read weights from text.pt: it is not a file that torch.save wrote"),
        (["--weights", "list.pt"], "cannot read weights from list.pt: it does not hold a state dict"),
        (["--weights", "other.pt"], "the weights are not those of efficientnet_lite0"),
        (["--device", "nonsense"], "cannot compute on device 'nonsense'"),
        (["--filters", "320"], "cannot attribute to layer _blocks.15: filters: 320 is out of range"),
        (["--subset", "7,0"], "cannot attribute to layer _blocks.15: subset: (7, 0) is out of range"),
        (["--subset", "7"], "cannot attribute to layer _blocks.15: subset: (7,) has 1 number(s)"),
        (["--region"], "cannot attribute to layer _blocks.15: region: needs two opposite corners"),
        (["--layer", "_fc"], "layer: _fc has a map of shape (1, 1)"),
        (["--output", "picture.nonsense"], "cannot write picture.nonsense"),
        (["a.png", "b.png", "--output", "one.png"], "--output one.png must be a folder"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.pt").write_text("no weights")
    torch.save([1, 2], "list.pt")
    torch.save(nn.Linear(2, 3).state_dict(), "other.pt")
    assert run([*arguments, "--n-samples", "0"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(f"captum-sgcampp: {message}")


@pytest.mark.usefixtures("no_network")
def test_weights_that_cannot_be_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--model", "resnet18"]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert "the weights of resnet18 cannot be downloaded" in error
    assert "efficientnet_lite0 needs no download" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--top-k", "0"],
        ["--n-samples", "-1"],
        ["--stdevs", "nan"],
        ["--top-k", "2", "--target", "1"],
        ["--subset", "a"],
    ],
)
def test_arguments_out_of_range(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run(arguments)
    assert exit_info.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_model_of_ones_own_weights(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=7).state_dict(), "mine.pt")
    assert run(["--model", "resnet18", "--weights", "mine.pt", "--target", "class 4", "--n-samples", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "chelsea: resnet18, layer layer4"
    assert Path(lines[-1]).exists()


def test_weights_are_loaded_without_running_code() -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (Path("harm"),)  # type: ignore[return-value]

    torch.save({"weight": Hostile()}, "hostile.pt")
    assert run(["--weights", "hostile.pt"]) == 2
    assert not Path("harm").exists()


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--layer", "_swish", "--n-samples", "0"]) == 0
    assert all(line.startswith("captum-sgcampp: layer: '_swish'") for line in capsys.readouterr().err.splitlines())


def test_list_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--list-layers"]) == 0
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["_blocks.15"] == ["MBConvBlock", "(1, 320, 7, 7)"]
    assert rows["_fc"] == ["Linear", "(1, 1000)"]
    assert rows["_swish"] == ["ReLU6", "(1, 1280, 7, 7), the last of 2 times"]
    assert rows["_blocks"] == ["ModuleList", "does not run"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("alexnet", "features.11"),
        ("densenet121", "features"),
        ("googlenet", "inception5b"),
        ("mobilenet_v3_small", "features"),
        ("resnet18", "layer4"),
        ("shufflenet_v2_x0_5", "conv5"),
        ("vgg16_bn", "features.42"),
    ],
)
def test_default_layer_is_the_last_map(name: str, layer: str) -> None:
    weights = models.get_model_weights(name).DEFAULT
    model = models.get_model(name, weights=None, init_weights=False) if name == "googlenet" else models.get_model(name)
    assert Classifier(name, model.eval(), weights.transforms(), []).layer(None).name == layer


def test_every_classifier_of_torchvision_is_offered() -> None:
    assert {"efficientnet_lite0", "resnet50", "vgg16", "vit_b_16", "swin_t"} <= set(classifier_names())


def test_module_runs_as_a_command() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "captum_sgcampp", "--model", "nonsense"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("captum-sgcampp: unknown model 'nonsense'")
    assert "Traceback" not in outcome.stderr


def test_without_the_extra_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "captum_sgcampp.cli.command", None)
    assert __main__.main() == 2
    assert "pip install 'captum-sgcampp[demo]'" in capsys.readouterr().err
