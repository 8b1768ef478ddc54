"""The maps of a dataset: each is that of its image alone, and the index says what it is."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import (
    LayerActivation,
    LayerAttribution,
    LayerConductance,
    LayerDeepLift,
    LayerGradCam,
    LayerIntegratedGradients,
)
from helpers import every_method, one, unchanged, without_noise_on_purpose
from models import TwoTensors, cut_inputs, cut_model, images, seeded
from photograph_folder import (
    CLASSES,
    LAYER,
    NOISE,
    attribute,
    content,
    network,
    photographs,
    write_photograph,
    write_photographs,
)
from safetensors import safe_open
from torch import Generator, Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder

from captum_sgcampp import (
    LayerGradCamPlusPlus,
    LayerSmoothGradCAMpp,
    SmoothCamAttribution,
    attribute_dataset,
    open_maps,
)
from captum_sgcampp.dataset.batch_maps import noise_seed

N_PHOTOGRAPHS = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, N_PHOTOGRAPHS)
    return folder


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_name(dataset: ImageFolder) -> dict[str, Tensor]:
    """The images of a folder by the names that they must have, each (1, 3, H, W)."""
    files = [Path(file).relative_to(dataset.root).as_posix() for file, _ in dataset.samples]
    return {name: image[None] for name, (image, _) in zip(files, dataset, strict=True)}


def alone(method: LayerAttribution, image: Tensor, name: str, target: Any, **arguments: Any) -> Any:
    """What the method returns for an image alone, with the noise that it has in the dataset."""
    if isinstance(method, SmoothCamAttribution):
        arguments["generator"] = [Generator().manual_seed(noise_seed(0, name))]
    return method.attribute(image, target=target, **arguments)


def assert_equal_to_rounding(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


# --- the maps --------------------------------------------------------------------------------------------------------


@without_noise_on_purpose
@every_method
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_each_map_is_that_of_its_image_alone(root: Path, tmp_path: Path, build: Any, batch_size: int | None) -> None:
    method, dataset = build(network(), LAYER), photographs(root)
    noise = NOISE if isinstance(method, SmoothCamAttribution) else {}
    maps = attribute_dataset(method, dataset, tmp_path, batch_size=batch_size, shard_size=4, **noise)
    assert list(maps) == sorted(by_name(dataset))
    for name, image in by_name(dataset).items():
        target = int(network()(image).argmax())
        assert_equal_to_rounding(maps[name], one(alone(method, image, name, target, **noise))[0])


def test_the_noise_is_that_of_the_seed_and_of_no_other_image(root: Path, tmp_path: Path) -> None:
    first, again, other = (attribute(root, tmp_path / f"{n}", seed=seed) for n, seed in enumerate([3, 3, 4]))
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.allclose(first[name], other[name], rtol=1e-2)
    assert len({noise_seed(3, name) for name in first}) == len(first)


@pytest.mark.parametrize("build", [LayerGradCam, LayerActivation, LayerIntegratedGradients])
def test_captums_layer_methods(root: Path, tmp_path: Path, build: Any) -> None:
    model, dataset = network(), photographs(root)
    method = build(model, model.get_submodule(LAYER))
    arguments: dict[str, Any] = {"n_steps": 4} if build is LayerIntegratedGradients else {}
    maps = attribute_dataset(method, dataset, tmp_path, batch_size=3, shard_size=4, **arguments)
    assert len(maps) == N_PHOTOGRAPHS
    for row in index(tmp_path):
        image = by_name(dataset)[row["name"]]
        target = model(image).argmax(dim=1)
        assert row["target"] == str(target.item())
        of_target = {} if build is LayerActivation else {"target": target}
        wanted = one(method.attribute(image, **of_target, **arguments)).detach()[0]
        assert_equal_to_rounding(maps[row["key"]], wanted)


@pytest.mark.parametrize("build", [LayerConductance, LayerDeepLift, LayerGradCam, LayerGradCamPlusPlus])
def test_a_method_that_keeps_something_from_its_last_call_may_go_on(tmp_path: Path, build: Any) -> None:
    model: nn.Module = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)))
    method, dataset = build(model, model.get_submodule("0")), TensorDataset(images(dtype=torch.float32))
    attribute_dataset(method, dataset, tmp_path)
    before = content(tmp_path)
    for again in (method, build(model, model.get_submodule("0"))):
        assert not attribute_dataset(again, dataset, tmp_path).errors
    assert content(tmp_path) == before


def test_images_of_different_shapes_share_a_batch(tmp_path: Path) -> None:
    for number, size in enumerate([(64, 40), (40, 64), (64, 40)]):
        write_photograph(tmp_path / "photographs" / "class" / f"{number}.png", number, size)
    dataset = photographs(tmp_path / "photographs", size=None)
    method = LayerSmoothGradCAMpp(network(), "features.7")
    maps = attribute_dataset(method, dataset, tmp_path / "maps", target=3, batch_size=3, **NOISE)
    assert [maps[name].shape[1] < maps[name].shape[2] for name in maps] == [True, False, True]
    for name, image in by_name(dataset).items():
        assert_equal_to_rounding(maps[name], one(alone(method, image, name, 3, **NOISE))[0])


def test_workers_load_the_same_images(root: Path, tmp_path: Path) -> None:
    without, with_workers = attribute(root, tmp_path / "0"), attribute(root, tmp_path / "2", num_workers=2)
    assert len(without) == N_PHOTOGRAPHS
    for name in without:
        assert torch.equal(without[name], with_workers[name])


def test_half_precision_is_written_in_full(root: Path, tmp_path: Path) -> None:
    dataset = photographs(root)
    double = TensorDataset(torch.cat(list(by_name(dataset).values())).double())
    maps = attribute_dataset(LayerGradCamPlusPlus(network().double(), LAYER), double, tmp_path, target=2)
    wanted = one(LayerGradCamPlusPlus(network().double(), LAYER).attribute(double.tensors[0], 2))
    assert maps["7"].dtype == torch.float64
    torch.testing.assert_close(maps["7"], wanted[7])


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_index_describes_each_map(root: Path, tmp_path: Path) -> None:
    names = [f"kind of {number}" for number in range(CLASSES)]
    maps = attribute(root, tmp_path, class_names=names)
    rows = index(tmp_path)
    assert [row["name"] for row in rows] == sorted(maps.names)
    for row in rows:
        probabilities = network()(by_name(photographs(root))[row["name"]])[0].softmax(dim=0)
        assert row["key"] == row["name"] and row["layer"] == LAYER and not row["error"]
        assert int(row["target"]) == probabilities.argmax()
        assert row["target_name"] == names[int(row["target"])]
        assert float(row["probability"]) == pytest.approx(probabilities.max().item(), rel=1e-5)
        assert float(row["maximum"]) == pytest.approx(maps[row["key"]].max().item())
        assert float(row["mean"]) == pytest.approx(maps[row["key"]].mean().item())
        assert row["zero"] == "False"
        state = (root / row["name"]).stat()
        assert (int(row["size"]), int(row["modified"])) == (state.st_size, state.st_mtime_ns)


def test_each_shard_has_its_part_of_the_index_beside_it(root: Path, tmp_path: Path) -> None:
    attribute(root, tmp_path)
    header, *rows = (tmp_path / "index.csv").read_bytes().splitlines(keepends=True)
    for shard, number in enumerate([4, 4, 2]):
        part = (tmp_path / f"maps-{shard:06}.csv").read_bytes().splitlines(keepends=True)
        assert part == [header, *rows[4 * shard : 4 * shard + number]]
        with safe_open(tmp_path / f"maps-{shard:06}.safetensors", framework="pt") as file:
            assert len(file.keys()) == number
            assert json.loads(file.metadata()["captum_sgcampp"]) == open_maps(tmp_path).settings


def test_a_map_of_zeros_is_marked(root: Path, tmp_path: Path) -> None:
    model = network()
    nn.init.zeros_(model.get_parameter("classifier.1.weight"))
    attribute_dataset(LayerGradCamPlusPlus(model, LAYER), photographs(root), tmp_path)
    assert {row["zero"] for row in index(tmp_path)} == {"True"}


def test_the_record_holds_what_the_maps_depend_on(root: Path, tmp_path: Path) -> None:
    maps = attribute(root, tmp_path, seed=5, filters=iter([3, 1]))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["names"] == maps.names == sorted(by_name(photographs(root)))
    assert record["settings"] == maps.settings
    settings = maps.settings
    assert (
        settings["method"]["name"] == "captum_sgcampp.LayerSmoothGradCAMpp" and settings["method"]["alpha"] == "bounded"
    )
    assert settings["model"]["name"].endswith(".SqueezeNet") and len(settings["model"]["weights"]) == 64
    assert settings["layer"] == [LAYER] and settings["seed"] == 5 and settings["target"] == "predicted"
    assert settings["arguments"]["stdevs"] == 0.3 and settings["arguments"]["filters"] == [3, 1]
    assert "Normalize" in settings["dataset"]["transform"]
    assert settings["versions"]["torch"] == torch.__version__


# --- targets and layers ----------------------------------------------------------------------------------------------


def test_labels_are_targets_with_the_names_of_the_datasets_classes(tmp_path: Path) -> None:
    for number in range(2 * CLASSES):
        write_photograph(tmp_path / "photographs" / f"kind {number % CLASSES}" / f"{number}.png", number)
    dataset, method = photographs(tmp_path / "photographs"), LayerGradCamPlusPlus(network(), LAYER)
    maps = attribute_dataset(method, dataset, tmp_path / "maps", target="label", batch_size=5)
    for row in index(tmp_path / "maps"):
        image, target = by_name(dataset)[row["name"]], int(row["target"])
        assert row["target_name"] == f"kind {target}" == row["name"].partition("/")[0]
        assert float(row["probability"]) == pytest.approx(network()(image).softmax(dim=1)[0, target].item(), rel=1e-5)
        assert_equal_to_rounding(maps[row["key"]], one(method.attribute(image, target))[0])


def test_several_layers_and_targets_are_told_apart_by_a_suffix(root: Path, tmp_path: Path) -> None:
    layers = ["features.7", LAYER]
    method, dataset = LayerSmoothGradCAMpp(network(), [*layers]), photographs(root)
    maps = attribute_dataset(method, dataset, tmp_path, target=[4, 1], batch_size=3, shard_size=4, **NOISE)
    assert len(maps) == 4 * N_PHOTOGRAPHS
    rows = {row["key"]: row for row in index(tmp_path)}
    for name, image in by_name(dataset).items():
        for target in [4, 1]:
            at_layers = alone(method, image, name, target, **NOISE)
            for layer, wanted in zip(layers, at_layers, strict=True):
                key = f"{name}/{layer}/{target}"
                assert_equal_to_rounding(maps[key], wanted[0])
                assert (rows[key]["name"], rows[key]["layer"], rows[key]["target"]) == (name, layer, str(target))
    with pytest.raises(KeyError, match=rf"its maps are '{name}/features.7/4'"):
        maps[name]


def test_a_layer_of_two_tensors(tmp_path: Path) -> None:
    model: TwoTensors = seeded(lambda: TwoTensors(tuple)).double()
    maps = attribute_dataset(LayerGradCamPlusPlus(model, "layer"), TensorDataset(images()), tmp_path, target=1)
    wanted = LayerGradCamPlusPlus(model, "layer").attribute(images(), 1)
    assert isinstance(wanted, tuple)
    assert list(maps) == ["0/0", "0/1", "1/0", "1/1", "2/0", "2/1"]
    torch.testing.assert_close([maps["2/0"], maps["2/1"]], [wanted[0][2], wanted[1][2]])


def test_filters_and_neurons(tmp_path: Path) -> None:
    method = LayerGradCamPlusPlus(cut_model(), "layer")
    options: dict[str, Any] = {"filters": [2, 0], "subset": [(0, 1)]}
    maps = attribute_dataset(method, TensorDataset(cut_inputs()), tmp_path, target=1, **options)
    torch.testing.assert_close(maps["2"], one(method.attribute(cut_inputs(), 1, **options))[2])


def test_a_model_of_one_score_or_of_scores_in_a_grid(tmp_path: Path) -> None:
    model = cut_model()

    def one_score(inputs: Tensor) -> Tensor:
        scores: Tensor = model(inputs)[:, 2]
        return scores

    def grid(inputs: Tensor) -> Tensor:
        scores: Tensor = model(inputs)
        return scores[:, :, None].expand(-1, -1, 3)

    method, dataset = LayerGradCamPlusPlus(one_score, model.layer), TensorDataset(cut_inputs())
    wanted = one(LayerGradCamPlusPlus(model, "layer").attribute(cut_inputs(), 2))
    maps = attribute_dataset(method, dataset, tmp_path / "one", target=None)
    torch.testing.assert_close(maps["1"], wanted[1])
    maps = attribute_dataset(
        LayerGradCamPlusPlus(grid, model.layer), dataset, tmp_path / "grid", target=[(2, 1), (0, 0)]
    )
    torch.testing.assert_close(maps["1/2,1"], wanted[1])
    assert {row["probability"] for folder in ("one", "grid") for row in index(tmp_path / folder)} == {""}


# --- the guest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_model_and_torch_are_left_as_they_were(root: Path, tmp_path: Path, num_workers: int) -> None:
    model = network()
    torch.manual_seed(1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with unchanged(model):
        attribute_dataset(
            LayerSmoothGradCAMpp(model, LAYER), photographs(root), tmp_path, num_workers=num_workers, **NOISE
        )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_it_writes_nothing_to_the_terminal_unless_asked(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attribute(root, tmp_path / "silent")
    assert capfd.readouterr() == ("", "")
    attribute(root, tmp_path / "shown", show_progress=True)
    out, err = capfd.readouterr()
    assert not out
    assert f"Images: {N_PHOTOGRAPHS} of {N_PHOTOGRAPHS}" in err.splitlines()[-1]
    assert len(err.splitlines()) <= 3


def test_on_a_terminal_there_is_a_bar(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    attribute(root, tmp_path, show_progress=True)
    err = capsys.readouterr().err
    assert f"| {N_PHOTOGRAPHS}/{N_PHOTOGRAPHS} [" in err
    assert err.count("\n") == 1


def test_the_files_have_the_usual_permissions(root: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    attribute(root, tmp_path / "maps")
    assert {file.stat().st_mode for file in (tmp_path / "maps").iterdir()} == {(tmp_path / "usual").stat().st_mode}


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_map_is_read_from_its_own_shard_alone(root: Path, tmp_path: Path) -> None:
    attribute(root, tmp_path)
    maps = open_maps(tmp_path)
    *others, _last = sorted(tmp_path.glob("maps-*"))[::2]
    for shard in others:
        shard.with_suffix(".safetensors").unlink()
    (tmp_path / "index.csv").unlink()
    assert maps[maps.names[-1]].shape == (1, 3, 3)
    with pytest.raises(KeyError, match="there is no map"):
        maps[maps.names[0]]


def test_keys_that_are_not_there(root: Path, tmp_path: Path) -> None:
    maps = attribute(root, tmp_path)
    assert "class 0/9999.png" not in maps
    with pytest.raises(KeyError, match=r"there is no image 'class 0/9999.png'"):
        maps["class 0/9999.png"]
    with pytest.raises(KeyError, match=r"its maps are 'class 0/0000.png'"):
        maps["class 0/0000.png/features.3"]
    (tmp_path / "maps-000000.csv").unlink()
    (tmp_path / "maps-000000.safetensors").unlink()
    with pytest.raises(KeyError, match="it has not been reached yet"):
        maps["class 0/0000.png"]


def test_a_folder_that_holds_no_maps(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        open_maps(tmp_path)
    (tmp_path / "run.json").write_text('{"another": "program"}')
    with pytest.raises(ValueError, match=r"run\.json is not a record that this version"):
        open_maps(tmp_path)
