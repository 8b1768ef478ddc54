"""The command's --weights and --classes: files of any kind, with the number of classes that they have."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from cli_helpers import CPU, FAST
from torchvision import models

from captum_sgcampp.__main__ import main
from captum_sgcampp.cli.errors import CommandError
from captum_sgcampp.cli.networks import load_classifier
from captum_sgcampp.cli.weights import load_weights, n_classes_of, read_weights

pytestmark = pytest.mark.usefixtures("coarse_pictures", "in_empty_folder")


def small_resnet(n_classes: int = 7) -> nn.Module:
    model: nn.Module = models.resnet18(num_classes=n_classes)
    return model


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.module.", "module._orig_mod.", "net."])
@pytest.mark.parametrize(
    ("suffix", "container"),
    [
        (".safetensors", None),  # which has no containers
        *((".pt", container) for container in [None, "state_dict", "model", "model_state_dict", "state_dict_ema"]),
    ],
)
def test_weights_of_users(suffix: str, prefix: str, container: str | None) -> None:
    def small_model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))

    model = small_model()
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    file = Path(f"weights{suffix}")
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, file)
    else:
        torch.save(state if container is None else {container: state, "epoch": 3, "optimizer": {}}, file)
    loaded = small_model()
    load_weights(loaded, read_weights(file), "it")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("wrap", [False, True])
def test_versions_of_modules_are_kept(wrap: bool) -> None:
    """MNASNet refuses a state dict without its version."""
    model = models.mnasnet0_5(num_classes=3)
    torch.save((nn.DataParallel(model) if wrap else model).state_dict(), "mnasnet.pt")
    loaded = load_classifier("mnasnet0_5", CPU, Path("mnasnet.pt")).model
    assert torch.equal(loaded.classifier[1].bias, model.classifier[1].bias)  # type: ignore[index, union-attr]
    pytest.importorskip("safetensors.torch").save_file(model.state_dict(), "mnasnet.safetensors")
    load_classifier("mnasnet0_5", CPU, Path("mnasnet.safetensors"))


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="torch before 2.5")
def test_a_checkpoint_may_hold_the_arguments_of_the_training() -> None:
    state = small_resnet().state_dict()
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}, "checkpoint.pth")
    assert read_weights(Path("checkpoint.pth")).keys() == state.keys()


def test_a_prefix_that_belongs_to_the_model_stays() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)

    state = {f"model.{name}": value + 1 for name, value in Wrapper().state_dict().items()}
    loaded = Wrapper()
    load_weights(loaded, state, "it")
    assert torch.equal(loaded.model.bias, state["model.model.bias"])
    load_weights(loaded, Wrapper().state_dict(), "it")


def test_the_number_of_classes_comes_from_the_classifiers_weight(capsys: pytest.CaptureFixture[str]) -> None:
    state = small_resnet().state_dict()
    state["last"] = state.pop("fc.bias")  # the last entry says nothing
    assert n_classes_of(state, models.resnet18(), 1000) == 7
    reordered = dict(sorted(small_resnet().state_dict().items()))
    assert next(reversed(reordered)) == "layer4.1.conv2.weight"
    torch.save(reordered, "mine.pt")
    Path("names.txt").write_text("\ufeffant\nbee\n cat\ndog\neel\nfox\ngnu\n\n", encoding="utf-8")
    mine = ["--model", "resnet18", "--weights", "mine.pt", *FAST]
    assert main([*mine, "--target", "class 4"]) == 0
    assert main([*mine, "--target", "cat", "--classes", "names.txt"]) == 0
    out = capsys.readouterr().out
    assert "camera: resnet18, layer layer4.0" in out
    assert "class 4 (4)" in out
    assert "cat (2)" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--weights", "missing.pt"], "cannot read weights from missing.pt: No such file"),
        (["--weights", "missing.safetensors"], "cannot read weights from missing.safetensors: No such file"),
        (["--weights", "folder"], "cannot read weights from folder: Is a directory"),
        (["--weights", "text.pt"], "cannot read weights from text.pt: it is not a file that torch.save wrote"),
        (["--weights", "empty.pt"], "cannot read weights from empty.pt: it is not a file that torch.save wrote"),
        (["--weights", "text.safetensors"], "cannot read weights from text.safetensors: SafetensorError"),
        (["--weights", "object.pt"], "cannot read weights from object.pt: it is not a file that torch.save wrote, or"),
        (["--weights", "list.pt"], "cannot read weights from list.pt: it holds no state dict"),
        (["--weights", "nested.pt"], "cannot read weights from nested.pt: it holds no state dict"),
        (["--weights", "numbers.pt"], "cannot read weights from numbers.pt: it holds no state dict"),
        (["--weights", "other.pt"], "the weights are not those of efficientnet_lite0: missing _conv_stem.weight (32, "),
        (["--classes", "missing.txt"], "cannot read classes from missing.txt: No such file"),
        (["--classes", "object.pt"], "cannot read classes from object.pt: it is not text in UTF-8"),
        (["--classes", "text.pt"], "efficientnet_lite0 has 1000 classes, but there are 1 names"),
    ],
)
def test_odd_weights_and_classes(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    Path("folder").mkdir()
    for name in ("text.pt", "text.safetensors"):
        Path(name).write_text("no weights")
    Path("empty.pt").touch()
    torch.save({"args": Path(), "state_dict": {}}, "object.pt")
    torch.save([1, 2], "list.pt")
    torch.save({"state_dict": {"a": [1]}}, "nested.pt")
    torch.save({0: torch.zeros(1)}, "numbers.pt")
    torch.save(nn.Linear(2, 3).state_dict(), "other.pt")
    assert main([*given, "--n-samples", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"captum-sgcampp: {message}")
    assert len(error.splitlines()) == 1


def test_a_wrong_fit_says_what_differs() -> None:
    state = small_resnet().state_dict()
    state["stem.weight"] = torch.zeros(2, 3)
    state["stem.bias"] = torch.zeros(2)
    state["layer1.0.conv1.weight"] = torch.zeros(5, 5)
    del state["conv1.weight"]
    message = (
        r"the weights are not those of it: missing conv1.weight \(64, 3, 7, 7\); unexpected stem.weight \(2, 3\) and 1 "
        r"more; layer1.0.conv1.weight is \(5, 5\) and must be \(64, 64, 3, 3\)"
    )
    with pytest.raises(CommandError, match=message):
        load_weights(small_resnet(), state, "it")


def test_weights_are_loaded_without_running_code() -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (Path("harm"),)  # type: ignore[return-value]

    torch.save({"state_dict": {"weight": Hostile()}}, "hostile.pt")
    assert main(["--weights", "hostile.pt"]) == 2
    assert not Path("harm").exists()
