"""Networks of the user that are no stack of nn.Conv2d, or no model at all: a default layer, or one line that helps."""

import csv
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from torchvision import transforms
from torchvision.models import quantization

from captum_sgcampp.__main__ import main
from captum_sgcampp.cli import from_file
from captum_sgcampp.layers import list_layers

SIZE = 32
GRAY = torch.rand(1, 3, SIZE, SIZE)
PREPROCESS = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])
INTEGERS = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.PILToTensor()])
NO_LAYER = "has no layer that is known to be a map; choose one (see --list-layers)"
UNSEEN = "has no layer that is known to be a map: none is seen when it runs, as in a scripted or an exported model"

pytestmark = pytest.mark.usefixtures("coarse_pictures")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")


class OwnConv(nn.Module):
    """A convolution by a function."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_outputs, n_inputs, 3, 3) / 3)

    def forward(self, maps: Tensor) -> Tensor:
        return nn.functional.conv2d(maps, self.weight, padding=1)


class Functional(nn.Module):
    """Whose only layers are activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8, 8, 3, 3))
        self.last, self.act = nn.Linear(8, 3), nn.ReLU()

    def forward(self, image: Tensor) -> Any:
        maps = self.act(nn.functional.conv2d(image, self.first, stride=2))
        maps = nn.functional.conv2d(maps, self.second).relu()
        return self.last(maps.mean((2, 3)))


class Patches(nn.Module):
    """A convolution by nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16, 8)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.linear(nn.functional.unfold(image, 4, stride=4).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, (SIZE // 4, SIZE // 4))  # type: ignore[no-any-return]


class Then(nn.Module):
    """A small network whose scores are changed."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.change = small(), change

    def forward(self, image: Tensor) -> Any:
        return self.change(self.network(image.float() / 255 if image.dtype == torch.uint8 else image))


class Refusing(nn.Module):
    """A network that refuses to be moved, as a quantized one of bitsandbytes, or to be set to a mode."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.network = small()
        self.method = method

    def forward(self, image: Tensor) -> Any:
        return self.network(image)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        if self.method == "to":
            raise ValueError("`.to` is not supported for `4-bit` or `8-bit` models")
        return super().to(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        if self.method == "train":
            raise NotImplementedError("Calling train() is not supported yet.")
        return super().train(mode)


class WithVolumes(nn.Module):
    """Which torch cannot put into the format channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.volumes, self.network = nn.Conv3d(1, 1, 3, padding=1), small()

    def forward(self, image: Tensor) -> Any:
        return self.network(self.volumes(image[:, None])[:, 0])


def head(n_channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_channels, 8), nn.ReLU(), nn.Linear(8, 3)]


def stack(*layers: nn.Module, n_channels: int = 8) -> nn.Module:
    return nn.Sequential(*layers, *head(n_channels)).eval()


def small() -> nn.Module:
    return stack(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())


def quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit and quantization are deprecated
        return make()


def exported(*, dynamic: bool = False) -> Any:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    return torch.export.export(small(), (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=shapes)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return small()


class FailingError(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def fail(_scores: Tensor) -> Any:
    raise FailingError


def leave(_scores: Tensor) -> Any:
    raise SystemExit(3)


def traced() -> Any:
    trace: Any = torch.jit.trace
    return trace(small(), GRAY)


def scripted() -> Any:
    script: Any = torch.jit.script
    return script(small())


EXPLAINED: dict[str, tuple[Callable[[], Any], str]] = {
    "own convolution": (lambda: stack(OwnConv(3, 8), nn.ReLU(), OwnConv(8, 8), nn.ReLU()), "3"),
    "functions": (Functional, "act"),
    "linear": (lambda: stack(Patches(), nn.ReLU()), "1"),
    "transposed": (
        lambda: stack(nn.ConvTranspose2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 3, 1, 1), nn.ReLU()),
        "3",
    ),
    "no parameters": (lambda: nn.Sequential(nn.MaxPool2d(4), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()), "1"),
    "lazy": (lambda: stack(nn.LazyConv2d(8, 3), nn.ReLU(), nn.LazyConv2d(8, 3), nn.ReLU()), "3"),
    "traced by fx": (lambda: torch.fx.symbolic_trace(small()), "3"),
    "compiled": (lambda: torch.compile(small(), backend="eager"), "3"),
    "refuses to be moved": (lambda: Refusing("to"), "network.3"),
    "refuses a mode, and is in evaluation mode": (lambda: Refusing("train").requires_grad_(), "network.3"),
    "volumes": (WithVolumes, "network.3"),
    "logits": (lambda: Then(lambda scores: SimpleNamespace(logits=scores)), "network.3"),
}
if torch.__version__ >= "2.5":  # earlier versions cannot unflatten a child of a Sequential
    EXPLAINED["unflattened"] = (lambda: torch.export.unflatten(exported(dynamic=True)), "3")


def give(monkeypatch: pytest.MonkeyPatch, model: Any, preprocess: Any = PREPROCESS) -> list[str]:
    """Lets a file return a model."""
    module = SimpleNamespace(load=lambda: (model, preprocess, None))
    monkeypatch.setattr(from_file, "_imported", lambda _file: module)
    return ["--model", "mine.py:load"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("build", "layer"), EXPLAINED.values(), ids=EXPLAINED.keys())
def test_the_default_layer_is_listed_and_explained(
    build: Callable[[], Any], layer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build()
    for module in model.modules():
        module.training = False
    given = [*give(monkeypatch, model), "--n-samples", "2"]
    assert main([*given, "--list-layers"]) == 0
    marked = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("<- default")]
    assert marked == [layer]
    assert main([*given, "photos/0.png", "--page", "page.html", "--output", "picture.png"]) == 0
    assert Path("page.html").exists() and Path("picture.png").exists()
    assert main([*given, "photos", "--maps", "maps", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert f"layer {layer}" in out
    rows = list(csv.DictReader((Path("maps") / "index.csv").open(newline="", encoding="utf-8")))
    assert [row["layer"].removeprefix("model.") for row in rows] == [layer, layer]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "volumes": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 8, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3)
        ),
        NO_LAYER,
    ),
    "signals": (lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 3, 9), nn.Flatten(), nn.LazyLinear(3)), NO_LAYER),
    "pooling": (lambda: nn.Sequential(nn.MaxPool2d(8), nn.Flatten(), nn.Linear(48, 8), nn.ReLU()), NO_LAYER),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), NO_LAYER),
    "quantized": (
        lambda: quietly(lambda: quantization.resnet18(quantize=True)),
        "mine.py:load is quantized and has no",
    ),
    "scripted": (lambda: quietly(scripted), UNSEEN),
    "traced": (lambda: quietly(traced), UNSEEN),
    "exported": (
        lambda: exported().module(),
        "cannot be put in evaluation mode: NotImplementedError: Calling eval() is not supported yet.; give "
        "torch.export.unflatten(program)",
    ),
    "meta": (on_meta, "cannot be moved to the device 'cpu': NotImplementedError: Cannot copy out of meta tensor"),
    "mode": (lambda: Refusing("train"), "cannot be put in evaluation mode: NotImplementedError: Calling train()"),
    "boxes": (
        lambda: Then(lambda scores: {"logits": scores[:, None].expand(-1, 5, -1), "pred_boxes": scores}),
        "must return a row of scores, (1, classes), but returned (1, 5, 3)",
    ),
    "tuple": (
        lambda: Then(lambda scores: (scores, 1)),
        "must return a row of scores, (1, classes), but returned tuple",
    ),
    "scalar": (lambda: Then(torch.sum), "must return a row of scores, (1, classes), but returned ()"),
    "no classes": (lambda: Then(lambda scores: scores[:, :0]), "but returned (1, 0)"),
    "classes": (
        lambda: Then(lambda scores: scores.argmax(1, True)),
        "floating-point scores, but returned torch.int64",
    ),
    "complex": (lambda: Then(lambda scores: scores * 1j), "floating-point scores, but returned torch.complex64"),
    "not a number": (lambda: Then(lambda scores: scores * torch.nan), "not finite"),
    "without a graph": (lambda: Then(Tensor.detach), "the score at this target does not depend on the tensor of"),
    "an error": (lambda: Then(fail), "mine.py:load does not run: FailingError"),
    "exit": (lambda: Then(leave), "mine.py:load does not run: SystemExit: 3"),
    "precision": (lambda: small().double(), "mine.py:load does not run: RuntimeError: "),
    "function": (lambda: lambda image: image, "must return a Module and a function first, not function and Compose"),
    "class": (lambda: nn.Sequential, "must return a Module and a function first, not type and Compose"),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("how", [["photos/0.png"], ["photos/0.png", "--page", "page"], ["photos", "--maps", "maps"]])
@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_one_line_says_what_is_the_matter(
    build: Callable[[], Any],
    message: str,
    how: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = give(monkeypatch, build())
    workers = ["--workers", "0"] if "--maps" in how else []
    assert main([*how, *given, "--n-samples", "2", *workers]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("captum-sgcampp: ")]
    assert message.format("mine.py:load") in errors[-1]
    assert not list(Path().glob("captum-sgcampp-*"))


LISTED: dict[str, tuple[Callable[[], Any], str]] = {
    "volumes": (REFUSED["volumes"][0], "Conv3d"),
    "pooling": (REFUSED["pooling"][0], "(1, 3, 4, 4)"),
    "quantized": (REFUSED["quantized"][0], "layer4.0.add_relu"),
    "boxes": (REFUSED["boxes"][0], "network.3"),
    "scalar": (REFUSED["scalar"][0], "network.3"),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("build", "line"), LISTED.values(), ids=LISTED.keys())
def test_layers_are_listed_of_what_cannot_be_explained(
    build: Callable[[], Any], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*give(monkeypatch, build()), "--list-layers"]) == 0
    assert line in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_layers_that_do_not_run_are_listed_with_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*give(monkeypatch, quietly(traced)), "--list-layers"]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("does not run") == 9
    assert UNSEEN.format("mine.py:load") in captured.err


def test_integers_are_explained_without_noise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["photos/0.png", *give(monkeypatch, Then(lambda scores: scores), INTEGERS)]
    assert main(given) == 2
    assert "noise can only be added to floating-point tensors" in (error := capsys.readouterr().err)
    assert error.endswith("or --n-samples 0.\n")
    assert main([*given, "--n-samples", "0", "--methods", "grad-cam"]) == 0


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_layers_that_return_nested_tensors_are_listed() -> None:
    class Nested(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return torch.nested.nested_tensor(list(values))

    (layer,) = list_layers(nn.Sequential(Nested()), torch.rand(2, 3))
    assert layer.output_summary == "no tensor"
