"""A run that goes on: after it was killed, beside another, on a full disk; and another run, which is refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
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
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM, attribute_dataset, open_maps
from captum_sgcampp._files import write_whole
from captum_sgcampp.dataset.run import shards_in_order

N_PHOTOGRAPHS = 10
SCRIPT = str(Path(__file__).with_name("photograph_folder.py"))


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, N_PHOTOGRAPHS)
    return folder


def counting_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes the number of images in each pass of the networks that follow."""
    attributed, build = list[int](), network

    def counted() -> nn.Module:
        return watch(build(), lambda inputs: attributed.append(len(inputs)), monkeypatch)

    monkeypatch.setattr("photograph_folder.network", counted)
    return attributed


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_second_call_attributes_to_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute(root, tmp_path / "maps")
    before = content(tmp_path / "maps")
    attributed = counting_images(monkeypatch)
    assert len(attribute(root, tmp_path / "maps")) == N_PHOTOGRAPHS
    assert not attributed
    assert content(tmp_path / "maps") == before


@pytest.mark.parametrize("missing", ["maps-000001.csv", "maps-000001.safetensors", "index.csv"])
def test_what_is_missing_is_made_again(
    root: Path, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attribute(root, tmp_path / "maps")
    before = content(tmp_path / "maps")
    (tmp_path / "maps" / missing).unlink()
    attributed = counting_images(monkeypatch)
    attribute(root, tmp_path / "maps")
    assert content(tmp_path / "maps") == before
    # And two of the first batch alone, and each behind its noisy copies, to see whether images influence
    # one another.
    assert sum(attributed) == (0 if missing == "index.csv" else 4 * 3 + 2 + 4)


def test_maps_can_be_read_while_the_run_is_not_complete(root: Path, tmp_path: Path) -> None:
    attribute(root, tmp_path / "maps")
    for name in ("maps-000001.csv", "maps-000001.safetensors", "index.csv"):
        (tmp_path / "maps" / name).unlink()
    maps = open_maps(tmp_path / "maps")
    assert len(maps) == N_PHOTOGRAPHS - 4
    assert maps[maps.names[0]].shape == maps[maps.names[-1]].shape


@pytest.mark.parametrize("change", ["content", "touched", "link"])
def test_an_image_that_has_changed_is_attributed_to_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    file = root / "class 1" / "0004.png"
    if change == "link":
        write_photograph(tmp_path / "elsewhere.png", 4)
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere.png")
    attribute(root, tmp_path / "maps")
    before = dict(open_maps(tmp_path / "maps"))
    if change == "touched":
        os.utime(file, ns=(1, 10**18))
    else:
        write_photograph(tmp_path / "elsewhere.png" if change == "link" else file, 999)
    attributed = counting_images(monkeypatch)
    maps = attribute(root, tmp_path / "maps")
    assert sum(attributed) == 3 + 1  # one image, without noise, two times with it, and once behind these copies
    wanted = attribute(root, tmp_path / "wanted")
    for name in maps:
        torch.testing.assert_close(maps[name], wanted[name], rtol=1e-4, atol=1e-5 * wanted[name].max().item())
        if name != "class 1/0004.png":
            assert torch.equal(maps[name], before[name])
    assert (tmp_path / "maps" / "index.csv").read_text().count("0004.png") == 2  # name and key


def test_an_image_that_has_gone_has_an_error(root: Path, tmp_path: Path) -> None:
    dataset = photographs(root)
    method = LayerSmoothGradCAMpp(network(), LAYER)
    attribute_dataset(method, dataset, tmp_path / "maps", **NOISE)
    (root / "class 1" / "0004.png").unlink()
    with pytest.warns(UserWarning, match=r"1 of 10 image\(s\) have no map"):
        maps = attribute_dataset(method, dataset, tmp_path / "maps", **NOISE)
    assert maps.errors.keys() == {"class 1/0004.png"}
    assert "class 1/0004.png" not in maps
    assert len(maps) == N_PHOTOGRAPHS - 1


def test_temporary_files_of_processes_that_were_killed_are_removed(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "maps", DIE_AT="4", code=-9)  # the record, the first shard's two files, then the second's maps
    assert len(list((tmp_path / "maps").glob(".*.tmp"))) == 1
    assert not (tmp_path / "maps" / "maps-000001.safetensors").exists()
    attribute(root, tmp_path / "maps")
    attribute(root, tmp_path / "wanted")
    assert content(tmp_path / "maps") == content(tmp_path / "wanted")


def run(
    root: Path, output: Path, *arguments: str, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Attributes in a process of its own."""
    outcome = subprocess.run(
        [sys.executable, SCRIPT, root, output, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == code, outcome.stderr
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("die_at", range(1, 9))
def test_a_process_may_be_killed_in_any_file(root: Path, tmp_path: Path, die_at: int) -> None:
    """There are a record, two files for each of three shards, and the index."""
    run(root, tmp_path / "maps", DIE_AT=str(die_at), code=-9)
    attribute(root, tmp_path / "maps")
    attribute(root, tmp_path / "wanted")
    assert content(tmp_path / "maps") == content(tmp_path / "wanted")


# --- two at once -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_runs_at_once_do_no_harm(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, str(root), str(tmp_path / "maps"), "--shard-size=1"]
    runs = [
        subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outcomes = [process.communicate()[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outcomes
    attribute(root, tmp_path / "wanted", shard_size=1)
    assert content(tmp_path / "maps") == content(tmp_path / "wanted")


def test_two_runs_of_different_methods_at_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second starts when the first has looked whether there is a record, and not yet written its own."""

    def second_first(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr("captum_sgcampp.dataset.shards.write_whole", write_whole)
        attribute(root, tmp_path / "maps", seed=2)
        write_whole(*args, **kwargs)

    monkeypatch.setattr("captum_sgcampp.dataset.shards.write_whole", second_first)
    with pytest.raises(ValueError, match="another run: seed is 2 there and 1 here"):
        attribute(root, tmp_path / "maps", seed=1)
    assert open_maps(tmp_path / "maps").settings["seed"] == 2


# --- several processes, one after the other --------------------------------------------------------------------------


@pytest.mark.parametrize("n_shards", [1, 2, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_each_process_looks_at_every_shard_its_own_first(n_shards: int, world_size: int) -> None:
    orders = [list(shards_in_order(n_shards, rank, world_size)) for rank in range(world_size)]
    for rank, order in enumerate(orders):
        own = range(rank, n_shards, world_size)
        assert order[: len(own)] == list(own)
        assert sorted(order) == list(range(n_shards))


@pytest.mark.parametrize(("rank", "world_size"), [(0, 2), (1, 2), (2, 3)])
def test_the_bytes_do_not_depend_on_who_writes_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int
) -> None:
    attribute(root, tmp_path / "wanted")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    maps = attribute(root, tmp_path / "maps")
    assert len(maps) == N_PHOTOGRAPHS  # those of the processes that never come too
    wanted = content(tmp_path / "wanted")
    if rank:
        wanted.pop("index.csv")
    assert content(tmp_path / "maps") == wanted


def test_a_shard_that_another_process_finishes_first_is_left_to_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attribute(root, tmp_path / "wanted")
    attributed = list[int]()
    build = network

    def overtaken() -> nn.Module:
        def overtake(inputs: Tensor) -> None:
            attributed.append(len(inputs))
            if len(attributed) == 7:  # two for the trial, and five for the first shard
                for file in (tmp_path / "wanted").glob("maps-000001.*"):
                    (tmp_path / "maps" / file.name).write_bytes(file.read_bytes())

        return watch(build(), overtake, monkeypatch)

    monkeypatch.setattr("photograph_folder.network", overtaken)
    attribute(root, tmp_path / "maps")
    assert content(tmp_path / "maps") == content(tmp_path / "wanted")
    assert sum(attributed) < 4 * N_PHOTOGRAPHS  # without noise, two copies, and without noise behind these


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"]
    if subprocess.run(["mount", *options, folder], capture_output=True, check=False).returncode:  # noqa: S607
        pytest.skip("a small file system can be mounted only by root")
    yield folder
    subprocess.run(["umount", folder], check=True)  # noqa: S607


def test_a_full_disk_is_one_error_and_what_was_whole_stays_whole(root: Path, tmp_path: Path, small_disk: Path) -> None:
    attribute(root, tmp_path / "wanted")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(46 * 1024))
    with pytest.raises(OSError, match=r"output: No space left on device, while writing .*What was written before is"):
        attribute(root, small_disk / "maps")
    written, wanted = content(small_disk / "maps"), content(tmp_path / "wanted")
    assert written and len(written) < len(wanted)
    assert all(whole == wanted[name] for name, whole in written.items())
    filler.unlink()
    attribute(root, small_disk / "maps")
    assert content(small_disk / "maps") == wanted


def test_a_limit_on_files_is_one_error(root: Path, tmp_path: Path) -> None:
    """As a quota, and where the tests may not mount a small file system."""
    attribute(root, tmp_path / "wanted")
    wanted = content(tmp_path / "wanted")
    limit = len(wanted["run.json"]) - 1
    assert limit > len(wanted["index.csv"])
    outcome = run(root, tmp_path / "maps", FILE_LIMIT=str(limit), code=1)
    assert "output: File too large, while writing run.json. What was written before is whole" in outcome.stderr
    assert content(tmp_path / "maps") == {}


# --- another run -----------------------------------------------------------------------------------------------------


class Halved(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.model(inputs) / 2
        return scores


def other_weights() -> nn.Module:
    model = network()
    with torch.no_grad():
        model.get_parameter("classifier.1.bias")[0].add_(1e-6)
    return model


def other_structure() -> nn.Module:
    model = network()
    model.get_submodule("features.2").ceil_mode = False  # type: ignore[assignment]
    return model


OTHERS = {
    "seed": ({"seed": 1}, "seed is 0 there and 1 here"),
    "argument": ({"stdevs": 0.25}, "arguments.stdevs is 0.3 there and 0.25 here"),
    "filters": ({"filters": [1]}, r"arguments.filters is None there and \[1\] here"),
    "target": ({"target": 3}, "target is 'predicted' there and 3 here"),
    "shard size": ({"shard_size": 5}, "shard_size is 4 there and 5 here"),
    "several": ({"seed": 1, "target": 3}, "target is .* here; seed is"),
    "weights": ({"model": other_weights}, r"model.weights is '\w{12}...' there and '\w{12}...' here"),
    "structure": ({"model": other_structure}, "model.structure is"),
    "model": ({"model": lambda: Halved(network()), "layer": f"model.{LAYER}"}, "model.name is .*SqueezeNet' there and"),
    "precision": ({"model": lambda: network().bfloat16()}, "model.weights is"),
    "layer": ({"layer": "features.7"}, r"layer is \['features.10'\] there and \['features.7'\] here"),
    "layers": ({"layer": [LAYER, "features.7"]}, r"layer is \['features.10'\] there and \['features.10', 'fea"),
    "method": (
        {"build": LayerSmoothLayerCAM},
        "method.name is .*LayerSmoothGradCAMpp' there and .*LayerSmoothLayerCAM",
    ),
    "alpha": ({"alpha": "eq5"}, "method.alpha is 'bounded' there and 'eq5' here"),
    "reshape": ({"reshape_transform": torch.relu}, "method.reshape_transform is None there and"),
    "transform": ({"size": 32}, r"dataset.transform is .*64.* there and .*32.* here"),
}


@pytest.mark.parametrize(("options", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_another_run_is_refused_with_what_differs(
    root: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    attribute(root, tmp_path)
    before = content(tmp_path)
    options = {"shard_size": 4, "batch_size": 3, **NOISE, **options}
    parameters = {name: options.pop(name) for name in ("alpha", "reshape_transform") if name in options}
    build, model = options.pop("build", LayerSmoothGradCAMpp), options.pop("model", network)()
    method = build(model, options.pop("layer", LAYER), **parameters)
    dataset = photographs(root, size=options.pop("size", 64))
    with pytest.raises(ValueError, match=rf"output: .* holds maps of another run: .*{message}.*Choose another folder"):
        attribute_dataset(method, dataset, tmp_path, **options)
    assert content(tmp_path) == before


def test_what_does_not_change_the_maps_may_differ(root: Path, tmp_path: Path) -> None:
    attribute(root, tmp_path)
    before = content(tmp_path)
    attribute(root, tmp_path, batch_size=2, n_samples_batch_size=1, num_workers=1)
    method = LayerSmoothGradCAMpp(torch.compile(network()), LAYER)
    attribute_dataset(method, photographs(root), tmp_path, shard_size=4, **NOISE)
    method = LayerSmoothGradCAMpp(network().to(memory_format=torch.channels_last), LAYER)
    attribute_dataset(method, photographs(root), tmp_path, shard_size=4, **NOISE)
    assert content(tmp_path) == before


def test_other_images_are_refused_with_what_differs(root: Path, tmp_path: Path) -> None:
    attribute(root, tmp_path / "maps")
    before = content(tmp_path / "maps")
    write_photograph(root / "class 1" / "new.png", 50)
    with pytest.raises(
        ValueError, match=r"another run: 1 image\(s\) are only here, such as 'class 1/new.png'\. Choose"
    ):
        attribute(root, tmp_path / "maps")
    (root / "class 1" / "new.png").rename(root / "class 0" / "newer.png")
    (root / "class 1" / "0001.png").unlink()
    with pytest.raises(
        ValueError, match=r"only there, such as 'class 1/0001.png'; 1 .* only here, such as 'class 0/newer"
    ):
        attribute(root, tmp_path / "maps")
    assert content(tmp_path / "maps") == before


def test_indices_in_another_order_are_refused(tmp_path: Path) -> None:
    method, inputs = LayerGradCamPlusPlus(cut_model(), "layer"), TensorDataset(cut_inputs())
    attribute_dataset(method, Subset(inputs, [0, 1]), tmp_path, target=1)
    with pytest.raises(ValueError, match="another run: the images are in another order"):
        attribute_dataset(method, Subset(inputs, [1, 0]), tmp_path, target=1)


def test_another_version_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute(root, tmp_path)
    monkeypatch.setattr("captum_sgcampp.__version__", "9.9.9")
    with pytest.raises(ValueError, match=r"versions.captum_sgcampp is '.*' there and '9\.9\.9' here"):
        attribute(root, tmp_path)


def test_a_function_is_known_by_its_name_and_the_weights_of_its_layers(tmp_path: Path) -> None:
    def attribute_function(model: Any, name: str) -> None:
        def function(inputs: Tensor) -> Tensor:
            scores: Tensor = model(inputs)
            return scores

        function.__qualname__ = name
        attribute_dataset(LayerGradCamPlusPlus(function, model.layer), TensorDataset(cut_inputs()), tmp_path, target=1)

    attribute_function(cut_model(), "scores")
    attribute_function(cut_model(), "scores")
    with pytest.raises(ValueError, match=r"model.name is '.*scores' there and '.*logits' here"):
        attribute_function(cut_model(), "logits")
    with pytest.raises(ValueError, match=r"model.weights is"):
        attribute_function(cut_model(seed=1), "scores")


def test_maps_without_their_record_are_left_alone(root: Path, tmp_path: Path) -> None:
    attribute(root, tmp_path)
    (tmp_path / "run.json").unlink()
    before = content(tmp_path)
    with pytest.raises(ValueError, match=r"holds maps, but no run\.json"):
        attribute(root, tmp_path)
    assert content(tmp_path) == before


def test_other_files_of_the_folder_are_left_alone(root: Path, tmp_path: Path) -> None:
    others = {"notes.txt": b"mine", ".hidden.tmp": b"mine", "maps.csv": b"mine"}
    for name, text in others.items():
        (tmp_path / name).write_bytes(text)
    attribute(root, tmp_path)
    assert content(tmp_path).items() >= others.items()
