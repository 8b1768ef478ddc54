"""Images of a dataset that cannot be read, or that the model refuses: a row with the error, and nothing else."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import one
from models import cut_inputs, cut_model
from photograph_folder import (
    LAYER,
    NOISE,
    attribute,
    content,
    network,
    photographs,
    watch,
    write_photograph,
    write_photographs,
)
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, Maps, attribute_dataset

N_PHOTOGRAPHS = 8
FAILED = pytest.mark.filterwarnings("ignore:dataset. .* have no map:UserWarning")


def errors_in_index(folder: Path) -> dict[str, str]:
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row["error"] for row in csv.DictReader(file) if row["error"]}


def make_unreadable(root: Path) -> dict[str, str]:
    """Spoils photographs of a folder; returns the error that each must have."""
    (root / "class 0" / "0000.png").write_bytes(b"no picture")
    (root / "class 1" / "0001.png").write_bytes((root / "class 1" / "0001.png").read_bytes()[:300])
    (root / "class 1" / "0004.png").write_bytes(b"")
    (root / "class 2" / "0005.png").unlink()
    (root / "class 2" / "0005.png").symlink_to("nowhere")
    return {
        "class 0/0000.png": "UnidentifiedImageError",
        "class 1/0001.png": "truncated",
        "class 1/0004.png": "UnidentifiedImageError",
        "class 2/0005.png": "FileNotFoundError",
    }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_costs_no_other_its_map(tmp_path: Path, num_workers: int) -> None:
    root = tmp_path / "photographs"
    write_photographs(root, N_PHOTOGRAPHS)
    dataset = photographs(root)
    wanted = dict(attribute(root, tmp_path / "wanted"))
    errors = make_unreadable(root)
    method = LayerSmoothGradCAMpp(network(), LAYER)
    with pytest.warns(UserWarning, match=r"4 of 8 image\(s\) have no map, such as 'class 0/0000.png': Unidentified"):
        maps = attribute_dataset(
            method, dataset, tmp_path / "maps", num_workers=num_workers, batch_size=3, shard_size=4, **NOISE
        )
    assert maps.errors == errors_in_index(tmp_path / "maps")
    assert maps.errors.keys() == errors.keys()
    assert all(text in maps.errors[name] for name, text in errors.items())
    assert maps.keys() == wanted.keys() - errors.keys()
    for name in maps:
        torch.testing.assert_close(maps[name], wanted[name], rtol=1e-4, atol=1e-5 * wanted[name].max().item())
    with pytest.raises(KeyError, match=r"no map 'class 0/0000.png': UnidentifiedImageError"):
        maps["class 0/0000.png"]


@FAILED
def test_an_image_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photographs(tmp_path / "photographs", 2)
    write_photograph(tmp_path / "photographs" / "class 2" / "large.png", 9, (100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # an error from twice as many on
    maps = attribute(tmp_path / "photographs", tmp_path / "maps")
    assert maps.errors.keys() == {"class 2/large.png"}
    assert "DecompressionBombError" in maps.errors["class 2/large.png"]
    assert len(maps) == 2


class Refusing(nn.Module):
    """Refuses images whose first value is above 50, as a model that runs out of memory does."""

    def __init__(self) -> None:
        super().__init__()
        self.model = cut_model()

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs[:, 0, 0, 0].max() > 50:
            raise RuntimeError("out of\nmemory")
        scores: Tensor = self.model(inputs)
        return scores


def refused(*places: int) -> Tensor:
    inputs = torch.cat([cut_inputs(), cut_inputs() / 2])
    inputs[list(places), 0, 0, 0] = 99
    return inputs


@FAILED
def test_an_image_that_the_model_refuses(tmp_path: Path) -> None:
    model, inputs = Refusing(), refused(1, 4)
    method = LayerSmoothGradCAMpp(model, "model.layer")
    noise: dict[str, Any] = {"n_samples": 4, "stdevs": 1.0}
    maps = attribute_dataset(method, TensorDataset(inputs), tmp_path / "1", target=1, **noise)
    assert maps.errors == {"1": "RuntimeError: out of memory", "4": "RuntimeError: out of memory"}
    good = [0, 2, 3, 5]
    names = [str(place) for place in good]
    wanted = attribute_dataset(
        method, TensorDataset(inputs[good]), tmp_path / "2", target=1, names=names, batch_size=1, **noise
    )
    for name in names:
        torch.testing.assert_close(maps[name], wanted[name])


@FAILED
def test_an_image_whose_shape_the_model_refuses(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs", 3)
    write_photograph(tmp_path / "photographs" / "class 1" / "tiny.png", 7, (5, 5))
    dataset = photographs(tmp_path / "photographs", size=None)
    maps = attribute_dataset(LayerGradCamPlusPlus(network(), LAYER), dataset, tmp_path / "maps")
    assert maps.errors.keys() == {"class 1/tiny.png"}
    assert len(maps) == 3


@FAILED
def test_a_label_that_is_no_class(tmp_path: Path) -> None:
    dataset = TensorDataset(cut_inputs(), torch.tensor([4, 99, -1]))
    maps = attribute_dataset(LayerGradCamPlusPlus(cut_model(), "layer"), dataset, tmp_path, target="label")
    assert maps.errors == {
        "1": "ValueError: target: the label 99 is not one of the model's classes, 0 to 4.",
        "2": "ValueError: target: the label -1 is not one of the model's classes, 0 to 4.",
    }
    torch.testing.assert_close(maps["0"], one(LayerGradCamPlusPlus(cut_model(), "layer").attribute(cut_inputs(), 4))[0])


@FAILED
@pytest.mark.filterwarnings("ignore:layer. the .* are not all finite:UserWarning")
def test_a_map_that_is_not_finite_is_none(tmp_path: Path) -> None:
    inputs = cut_inputs()
    inputs[1, 0, 2, 2] = float("nan")
    maps = attribute_dataset(LayerGradCamPlusPlus(cut_model(), "layer"), TensorDataset(inputs), tmp_path, target=1)
    assert maps.errors == {"1": "ValueError: the map is not finite"}
    assert list(maps) == ["0", "2"]


@FAILED
def test_a_shard_without_any_map(tmp_path: Path) -> None:
    method = LayerGradCamPlusPlus(Refusing(), "model.layer")
    maps = attribute_dataset(method, TensorDataset(refused(2, 3)), tmp_path, target=1, shard_size=2)
    assert maps.errors.keys() == {"2", "3"}
    assert list(maps) == ["0", "1", "4", "5"]


class Raising(Dataset[Tensor]):
    """A dataset with an item that raises something with a very long message."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        if index == 1:
            raise LookupError("long, \n" * 100_000)
        return cut_inputs()[index]


@FAILED
def test_whatever_an_item_raises(tmp_path: Path) -> None:
    maps = attribute_dataset(LayerGradCamPlusPlus(cut_model(), "layer"), Raising(), tmp_path, target=1)
    assert maps.errors["1"].startswith("LookupError: long, long, ") and len(maps.errors["1"]) == 500
    assert list(maps) == ["0", "2"]


# --- trying again ----------------------------------------------------------------------------------------------------


@FAILED
def test_failed_images_are_tried_again_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photographs(tmp_path / "photographs", N_PHOTOGRAPHS)
    write_photograph(tmp_path / "photographs" / "class 2" / "large.png", 9, (100, 100))
    with monkeypatch.context() as context:
        context.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
        assert attribute(tmp_path / "photographs", tmp_path / "maps").errors.keys() == {"class 2/large.png"}
    before = content(tmp_path / "maps")
    assert attribute(tmp_path / "photographs", tmp_path / "maps").errors
    assert content(tmp_path / "maps") == before
    attributed: list[int] = []
    monkeypatch.setattr("photograph_folder.network", lambda: counting(attributed, monkeypatch))
    maps = attribute(tmp_path / "photographs", tmp_path / "maps", retry_failed=True)
    assert not maps.errors and len(maps) == N_PHOTOGRAPHS + 1
    # The pass without noise, and that of its two noisy copies, with the image itself behind them: NoisyPasses.
    assert attributed == [1, 2 + 1]
    changed = {name for name, now in content(tmp_path / "maps").items() if now != before[name]}
    assert changed == {"maps-000002.csv", "maps-000002.safetensors", "index.csv"}


def counting(attributed: list[int], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The network, which notes the size of each batch that it gets."""
    return watch(network(), lambda inputs: attributed.append(len(inputs)), monkeypatch)


@FAILED
def test_an_image_that_fails_again(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs", 4)
    (tmp_path / "photographs" / "class 1" / "0001.png").write_bytes(b"no picture")
    attribute(tmp_path / "photographs", tmp_path / "maps")
    before = content(tmp_path / "maps")
    attribute(tmp_path / "photographs", tmp_path / "maps", retry_failed=True)
    assert content(tmp_path / "maps") == before


@FAILED
def test_a_failed_image_that_has_been_repaired_is_tried_again_by_itself(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs", N_PHOTOGRAPHS)
    wanted = attribute(tmp_path / "photographs", tmp_path / "wanted")
    file = tmp_path / "photographs" / "class 1" / "0001.png"
    good = file.read_bytes()
    file.write_bytes(good[:200])
    assert attribute(tmp_path / "photographs", tmp_path / "maps").errors.keys() == {"class 1/0001.png"}
    file.write_bytes(good)
    maps = attribute(tmp_path / "photographs", tmp_path / "maps")
    assert not maps.errors
    for name in wanted:
        torch.testing.assert_close(maps[name], wanted[name], rtol=1e-4, atol=1e-5 * wanted[name].max().item())


# --- what is wrong with all images is wrong with the call ------------------------------------------------------------


class Items(Dataset[Any]):
    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return self.item


def attribute_items(output: Path, item: Any = None, layer: Any = "layer", **options: Any) -> Maps:
    method = LayerSmoothGradCAMpp(cut_model(), layer)
    item = cut_inputs()[0] if item is None else item
    return attribute_dataset(method, Items(item), output, **{"target": 1, "n_samples": 2, "stdevs": 0.1, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"item": "photograph"}, TypeError, "dataset: an item must be a tensor, .* item 0 has a str"),
        ({"item": (Image.new("RGB", (9, 9)), 1)}, TypeError, "item 0 has a Image. Give the dataset a transform"),
        ({"item": {"image": cut_inputs()[0]}}, TypeError, "item 0 has a dict"),
        ({"item": ()}, TypeError, "item 0 has a tuple"),
        ({"item": torch.zeros(3, 9, 9).double()}, RuntimeError, "channels"),
        ({"target": 99}, IndexError, "out of bounds"),
        ({"target": "label"}, ValueError, "target: is 'label', but the dataset gives no label"),
        ({"target": "labels"}, ValueError, "target: must be one of 'predicted', 'label', but is 'labels'"),
        ({"target": []}, ValueError, "target: must be one or several different targets"),
        ({"target": [1, 1]}, ValueError, "target: must be one or several different targets"),
        ({"target": -1}, ValueError, "target: must be at least 0, but is -1"),
        ({"target": [1, 0.5]}, TypeError, "target: must be an integer, but is 0.5"),
        ({"target": "predicted", "class_names": ["a"]}, ValueError, "class_names: there are 1, but the model has 5"),
        ({"n_samples": -1}, ValueError, "n_samples: must be at least 0"),
        ({"filters": [7]}, IndexError, "filters: 7 is out of range"),
        ({"n_smples": 3}, TypeError, "LayerSmoothGradCAMpp.attribute got an unexpected keyword argument 'n_smples'"),
        ({"generator": torch.Generator()}, TypeError, "generator: is not an argument here"),
        ({"batch_size": 0}, ValueError, "batch_size: must be at least 1"),
        ({"shard_size": 0}, ValueError, "shard_size: must be at least 1"),
        ({"num_workers": -1}, ValueError, "num_workers: must be at least 0"),
        ({"num_workers": 1.5}, TypeError, "num_workers: must be an integer"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, dict) else "",
)
def test_what_fails_for_every_image_is_raised_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        attribute_items(tmp_path / "maps", **options)
    assert not (tmp_path / "maps").exists()


def test_a_method_that_is_not_of_a_layer(tmp_path: Path) -> None:
    from captum.attr import NoiseTunnel

    method = NoiseTunnel(LayerGradCamPlusPlus(cut_model(), "layer"))
    with pytest.raises(TypeError, match="method: must be a layer method of this package or Captum, but is a NoiseTun"):
        attribute_dataset(method, TensorDataset(cut_inputs()), tmp_path)  # type: ignore[arg-type]


def test_rows_that_are_not_images(tmp_path: Path) -> None:
    class Frames(nn.Module):
        """Takes videos, and its layer sees their frames."""

        def __init__(self) -> None:
            super().__init__()
            self.model = cut_model()

        def forward(self, videos: Tensor) -> Tensor:
            scores: Tensor = self.model(videos.flatten(0, 1)).unflatten(0, videos.shape[:2]).mean(dim=1)
            return scores

    method = LayerGradCamPlusPlus(Frames(), "model.layer")
    with pytest.raises(
        ValueError, match=r"method: returned a shape of \(3, .*\) at layer model.layer for 1 image\(s\)"
    ):
        attribute_dataset(method, TensorDataset(cut_inputs()[None]), tmp_path, target=1)


@FAILED
def test_the_first_images_may_fail_where_others_do_not(tmp_path: Path) -> None:
    method = LayerGradCamPlusPlus(Refusing(), "model.layer")
    maps = attribute_dataset(method, TensorDataset(refused(0, 1, 2, 3, 4)), tmp_path, target=1)
    assert list(maps) == ["5"]
    shutil.rmtree(tmp_path)
    with pytest.raises(RuntimeError, match="out of\nmemory"):
        attribute_dataset(method, TensorDataset(refused(0, 1, 2, 3, 4, 5)), tmp_path, target=1)
    assert not tmp_path.exists()
