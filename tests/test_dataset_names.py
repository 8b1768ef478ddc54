"""The names of a dataset's images: any that a file system has, and those of datasets without files."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import one
from models import cut_inputs, cut_model
from photograph_folder import LAYER, attribute, content, network, photographs, write_photograph, write_photographs
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from captum_sgcampp import LayerGradCamPlusPlus, Maps, attribute_dataset, open_maps

NAMES = [
    "with space/a b.png",
    "with, comma/1,2.png",
    'with "quotes"/"1".png',
    "with\nnewline/1\n2.png",
    "with\rreturn/1\r2.png",
    "tab\t/\t.png",
    "ünïcode/猫.png",
    os.fsdecode(b"not utf-8 \xff/caf\xe9.png"),
    "same stem/1.png",
    "same stem/1.jpg",
    "same stem, too/1.png",
    "back\\slash/1.png",
    "#&?%20/$HOME 'x' *.png",
    "-dash/--help.png",
]


def attribute_to(dataset: Any, output: Path, **options: Any) -> Maps:
    return attribute_dataset(LayerGradCamPlusPlus(cut_model(), "layer"), dataset, output, target=1, **options)


def names_in_index(folder: Path) -> list[str]:
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:  # readable without further options
        return [row["name"] for row in csv.DictReader(file)]


def map_of(file: Path) -> Tensor:
    """The map of a single photograph."""
    dataset = photographs(file.parent.parent)
    (image,) = (dataset[number][0] for number, (path, _) in enumerate(dataset.samples) if path == str(file))
    return one(LayerGradCamPlusPlus(network(), LAYER).attribute(image[None], 1))[0]


# --- files -----------------------------------------------------------------------------------------------------------


def test_any_name_that_a_file_can_have(tmp_path: Path) -> None:
    root, output = tmp_path / "photographs", tmp_path / "maps"
    for number, name in enumerate(NAMES):
        write_photograph(root / name, number)
    attribute_dataset(LayerGradCamPlusPlus(network(), LAYER), photographs(root), output, target=1, batch_size=1)
    maps = open_maps(output)
    assert len(maps) == len(NAMES)
    assert names_in_index(output) == maps.names == list(maps)
    for name in NAMES:
        assert torch.equal(maps[name], map_of(root / name))
        (written,) = [found for found in maps.names if found in {name, name.encode(errors="backslashreplace").decode()}]
        assert torch.equal(maps[written], maps[name])


def test_names_that_would_be_written_alike_are_refused(tmp_path: Path) -> None:
    names = [os.fsdecode(b"\xff"), "\\udcff", "other"]
    with pytest.raises(ValueError, match=r"names: must be different, but .*udcff' is there more than once"):
        attribute_to(TensorDataset(cut_inputs()), tmp_path, names=names)


def test_symbolic_links_keep_their_own_names(tmp_path: Path) -> None:
    write_photograph(tmp_path / "elsewhere" / "real" / "1.png", 1)
    (tmp_path / "photographs" / "class").mkdir(parents=True)
    (tmp_path / "photographs" / "class" / "file.png").symlink_to(tmp_path / "elsewhere" / "real" / "1.png")
    (tmp_path / "photographs" / "folder").symlink_to(tmp_path / "elsewhere" / "real")
    (tmp_path / "link").symlink_to("photographs")
    maps = attribute(tmp_path / "link", tmp_path / "maps")
    assert maps.names == ["class/file.png", "folder/1.png"]
    assert len(maps) == 2


def test_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photographs(tmp_path / "photographs", 3)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for root in ("../photographs", "../photographs/"):
        assert attribute(Path(root), Path("maps")).names[0] == "class 0/0000.png"


def test_a_folder_may_move(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs", 3)
    attribute(tmp_path / "photographs", tmp_path / "maps")
    before = content(tmp_path / "maps")
    (tmp_path / "photographs").rename(tmp_path / "moved")
    attribute(tmp_path / "moved", tmp_path / "maps")
    assert content(tmp_path / "maps") == before


def test_a_subset_has_the_names_of_the_whole(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs", 6)
    whole = photographs(tmp_path / "photographs")
    subset = Subset(Subset(whole, [5, 3, 1]), [2, 0])
    maps = attribute_dataset(LayerGradCamPlusPlus(network(), LAYER), subset, tmp_path / "maps", target=1)
    names = [Path(whole.samples[index][0]).relative_to(tmp_path / "photographs").as_posix() for index in (1, 5)]
    assert maps.names == sorted(names)
    for name in names:
        torch.testing.assert_close(maps[name], map_of(tmp_path / "photographs" / name))


# --- no files --------------------------------------------------------------------------------------------------------


def test_without_files_the_names_are_the_indices_in_their_order(tmp_path: Path) -> None:
    inputs = torch.cat(4 * [cut_inputs()])
    maps = attribute_to(TensorDataset(inputs), tmp_path)
    assert maps.names == [str(index) for index in range(12)] == names_in_index(tmp_path)
    wanted = one(LayerGradCamPlusPlus(cut_model(), "layer").attribute(inputs, 1))
    for index in range(12):
        torch.testing.assert_close(maps[str(index)], wanted[index])


def test_a_subset_without_files_has_the_indices_of_the_whole(tmp_path: Path) -> None:
    assert attribute_to(Subset(TensorDataset(cut_inputs()), [2, 0]), tmp_path).names == ["2", "0"]


def test_given_names(tmp_path: Path) -> None:
    maps = attribute_to(TensorDataset(cut_inputs()), tmp_path, names=["c", "a/x", "b"])
    assert maps.names == ["a/x", "b", "c"]
    wanted = one(LayerGradCamPlusPlus(cut_model(), "layer").attribute(cut_inputs(), 1))
    torch.testing.assert_close(torch.stack([maps["c"], maps["a/x"], maps["b"]]), wanted)


class Listed(Dataset[Tensor]):
    """A dataset with an attribute that torchvision's folders have too, and that means something else here."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        return cut_inputs()[index]


@pytest.mark.parametrize("samples", [cut_inputs(), cut_inputs().numpy(), list(cut_inputs()), ["one"], None, [()] * 3])
def test_samples_that_are_not_files(tmp_path: Path, samples: Any) -> None:
    assert attribute_to(Listed(samples), tmp_path).names == ["0", "1", "2"]


def test_a_dataset_that_lists_files_alone(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("c", "a", "b")]
    for file in files:
        file.touch()
    assert attribute_to(Listed(files), tmp_path / "maps").names == sorted(map(str, files))


class Photographs(Dataset[Tensor]):
    """Lists its files under a name of its own."""

    def __init__(self, name: str, files: Any) -> None:
        setattr(self, name, files)
        self.listed = files

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: int) -> Tensor:
        return cut_inputs()[:1].squeeze(0) * len(Path(self.listed[index]).read_bytes())


@pytest.mark.parametrize("name", ["samples", "files", "paths", "filenames", "image_paths", "images", "_images"])
@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_files_under_any_usual_name_are_noticed_when_they_change(tmp_path: Path, name: str, kind: Any) -> None:
    files = [str(tmp_path / f"{number}.bin") for number in range(3)]
    for file in files:
        Path(file).write_bytes(b"1")
    before = dict(attribute_to(Photographs(name, kind(files)), tmp_path / "maps"))
    assert list(before) == files
    Path(files[1]).write_bytes(b"1234")
    after = attribute_to(Photographs(name, kind(files)), tmp_path / "maps")
    assert [torch.equal(after[file], before[file]) for file in files] == [True, False, True]
    with pytest.raises(ValueError, match=r"another run: 1 image\(s\) are only there, such as '.*2\.bin'\. Choose"):
        attribute_to(Photographs(name, kind(files[:2])), tmp_path / "maps")


def test_files_relative_to_the_root_of_a_dataset(tmp_path: Path) -> None:
    class Below(Photographs):
        root = tmp_path / "files"

        def __getitem__(self, index: int) -> Tensor:
            return cut_inputs()[0] * len((self.root / self.listed[index]).read_bytes())

    Below.root.mkdir()
    for name in "ab":
        (Below.root / name).write_bytes(b"1")
    before = dict(attribute_to(Below("files", ["a", "b"]), tmp_path / "maps"))
    (Below.root / "b").write_bytes(b"1234")
    after = attribute_to(Below("files", ["a", "b"]), tmp_path / "maps")
    assert [torch.equal(after[name], before[name]) for name in "ab"] == [True, False]


# --- what is not a dataset -------------------------------------------------------------------------------------------


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(cut_inputs())


@pytest.mark.parametrize("dataset", [Stream(), iter(cut_inputs()), 5])
def test_a_dataset_that_is_not_map_style(tmp_path: Path, dataset: Any) -> None:
    with pytest.raises(TypeError, match=r"dataset: must be map-style, .* but is a "):
        attribute_to(dataset, tmp_path)


@pytest.mark.parametrize(
    ("dataset", "names", "message"),
    [
        ([], None, "dataset: is empty"),
        (TensorDataset(cut_inputs()), ["a", "b"], "names: there are 2 for the 3 images"),
        (TensorDataset(cut_inputs()), ["a", "b", "a"], "names: must be different, but 'a' is there more than once"),
        (Subset(TensorDataset(cut_inputs()), [1, 1]), None, "names: must be different, but '1' is there more than"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, dataset: Any, names: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute_to(dataset, tmp_path, names=names)
    assert not list(tmp_path.iterdir())
