"""What a run notices when it goes on: another mode, head, function or data, and files that were damaged."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from models import images, seeded
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from captum_sgcampp import LayerGradCamPlusPlus, Maps, attribute_dataset, open_maps

pytest.importorskip("safetensors", reason="maps need the extra maps")

REFUSED = "holds maps of another run"


def small_model() -> Any:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(4 * 4 * 4, 5),
            nn.ReLU(),
            nn.Linear(5, 3),
        )
    ).eval()


def data(offset: float = 0.0, number: int = 6) -> TensorDataset:
    return TensorDataset(images(number, 3, 6, 6, dtype=torch.float32) + offset)


def run(forward_func: Callable[..., Any], layer: nn.Module, folder: Path, dataset: Any = None, **options: Any) -> Maps:
    method = LayerGradCamPlusPlus(forward_func, layer)
    return attribute_dataset(method, dataset or data(), folder, shard_size=2, **options)


@pytest.mark.filterwarnings("ignore:forward_func. is in training mode", "ignore:.*training mode")
def test_maps_in_training_mode_are_not_those_in_evaluation_mode(tmp_path: Path) -> None:
    model = small_model()
    model[2].train()
    run(model, model[0], tmp_path)
    with pytest.raises(ValueError, match=rf"{REFUSED}: .*training"):
        run(model.eval(), model[0], tmp_path)


@pytest.mark.parametrize("wrap", ["lambda", "partial", "method"])
def test_the_weights_behind_a_function_are_noticed(tmp_path: Path, wrap: str) -> None:
    model = small_model()

    def call(network: nn.Module, image: Tensor) -> Any:
        return network(image)

    functions: dict[str, Callable[..., Any]] = {
        "lambda": lambda image: model(image) + 0,
        "partial": partial(call, model),
        "method": model.forward,
    }
    function = functions[wrap]
    run(function, model[0], tmp_path)
    run(function, model[0], tmp_path)
    with torch.no_grad():
        model.get_parameter("6.weight").add_(1)  # above the layer
    with pytest.raises(ValueError, match=REFUSED):
        run(function, model[0], tmp_path)


def test_another_function_is_noticed(tmp_path: Path) -> None:
    model = small_model()
    run(lambda image: +model(image), model[0], tmp_path)
    with pytest.raises(ValueError, match=REFUSED):
        run(lambda image: -model(image), model[0], tmp_path)


def test_other_tensors_are_noticed(tmp_path: Path) -> None:
    model = small_model()
    run(model, model[0], tmp_path)
    with pytest.raises(ValueError, match=REFUSED):
        run(model, model[0], tmp_path, data(offset=1))


@pytest.mark.parametrize("damage", [b"", b"12", b"\xff\xfe"])
@pytest.mark.parametrize("file", ["maps-000001.safetensors", "maps-000001.csv"])
def test_a_damaged_shard_is_made_again(tmp_path: Path, file: str, damage: bytes) -> None:
    model = small_model()
    whole = {key: value.clone() for key, value in run(model, model[0], tmp_path).items()}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / file).write_bytes(damage)
    again = run(model, model[0], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_rows_and_maps_that_do_not_belong_together_are_made_again(tmp_path: Path) -> None:
    model = small_model()
    run(model, model[0], tmp_path)
    rows = tmp_path / "maps-000000.csv"
    text = rows.read_text()
    before = rows.read_bytes()
    rows.write_text("\n".join(text.splitlines()[:-1]) + "\n")  # as another process may leave it
    assert sorted(run(model, model[0], tmp_path)) == [str(number) for number in range(6)]
    assert rows.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", '{"format": 1}', "[]"])
def test_a_damaged_record_is_refused_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    model = small_model()
    with pytest.raises(ValueError, match=r"run\.json is not a record that this version of captum_sgcampp can read"):
        run(model, model[0], tmp_path)


@pytest.mark.parametrize(("rank", "world_size"), [("3", None), ("1", "1"), ("-1", "2")])
def test_a_rank_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, world_size: str | None
) -> None:
    monkeypatch.setenv("RANK", rank)
    if world_size:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    model = small_model()
    with pytest.raises(ValueError, match="RANK: must be from 0 to WORLD_SIZE - 1"):
        run(model, model[0], tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


class Failing(Dataset[Tensor]):
    """Whose error is not text in UTF-8, as of a file name with other bytes."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        if index == 1:
            raise ValueError("cannot decode caf\udce9.png")
        image: Tensor = data()[index][0]
        return image


def test_errors_that_are_not_text_are_rows(tmp_path: Path) -> None:
    model = small_model()
    with pytest.warns(UserWarning, match=r"1 of 3 image\(s\) have no map"):
        maps = run(model, model[0], tmp_path, Failing())
    assert maps.errors == {"1": "ValueError: cannot decode caf\\udce9.png"}
    assert sorted(maps) == ["0", "2"]


def test_keys_that_are_no_names(tmp_path: Path) -> None:
    model = small_model()
    run(model, model[0], tmp_path)
    maps: Any = open_maps(tmp_path)
    with pytest.raises(KeyError, match="there is no map 0: names are text, such as '0'"):
        maps[0]
    assert 0 not in maps
    assert maps.get(0) is None


def test_other_files_with_like_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "maps-labels.csv").write_text("mine")
    model = small_model()
    run(model, model[0], tmp_path, show_progress=True)
    assert (tmp_path / "maps-labels.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": range(6)}, TypeError, "names: must be strings, but 0 is a int"),
        ({"seed": 1.5}, TypeError, "seed: must be an integer"),
        ({"seed": 2**70}, ValueError, r"seed: must be below 2\*\*64"),
        ({"target": True}, TypeError, "target: must be an integer, but is True"),
        ({"target": [[1, 2]]}, TypeError, "target: must be an integer"),
    ],
)
def test_arguments_that_cannot_be(tmp_path: Path, options: dict[str, Any], error: type, message: str) -> None:
    model = small_model()
    with pytest.raises(error, match=message):
        run(model, model[0], tmp_path / "maps", **options)
    assert not (tmp_path / "maps").exists()


def test_numbers_of_numpy(tmp_path: Path) -> None:
    model = small_model()
    method = LayerGradCam(model, model[0])
    numbers: dict[str, Any] = {"target": np.int64(1), "seed": np.int64(3)}
    attribute_dataset(method, data(), tmp_path, **numbers)
    assert open_maps(tmp_path).settings["seed"] == 3


def test_labels_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    model = small_model()
    labeled = TensorDataset(*data().tensors, torch.tensor([0.9, 1.7, 0.0, 1.0, 2.0, 2.7]))
    with pytest.raises(ValueError, match="the dataset gives no label: an integer after the image"):
        run(model, model[0], tmp_path, labeled, target="label")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = small_model()
    with pytest.raises(OSError, match=f"output: cannot make the folder {tmp_path / 'file'}"):
        run(model, model[0], tmp_path / "file")
