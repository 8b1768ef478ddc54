"""The files of a run: shards of maps, each with its part of the index, and the record of what all maps depend on."""

import csv
import importlib.util
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from captum_sgcampp._extras import missing
from captum_sgcampp._files import write_whole
from captum_sgcampp.dataset.settings import ATTRIBUTES, differences

FORMAT = 1
RECORD, INDEX = "run.json", "index.csv"


class Row(NamedTuple):
    """A row of the index: one map, or an image that has none. All values are as they are written."""

    name: str
    """The name of the image."""
    key: str = ""
    """The name of the map: that of the image, followed by layer and target where there are several."""
    layer: str = ""
    target: str = ""
    target_name: str = ""
    probability: str = ""
    maximum: str = ""
    mean: str = ""
    zero: str = ""
    """Whether the map is zero everywhere."""
    error: str = ""
    """Why there is no map."""
    size: str = ""
    """The size of the image's file in bytes, when it was read."""
    modified: str = ""
    """When that file was last modified, in nanoseconds since 1970."""


@dataclass(frozen=True)
class Record:
    """What a run does: the content of ``run.json``."""

    settings: dict[str, Any]
    """What the maps depend on."""
    shard_size: int
    """The number of images in a shard."""
    names: list[str]
    """The names of all images."""

    def shard(self, number: int) -> range:
        """The positions of a shard's images among the names."""
        start = number * self.shard_size
        return range(start, min(start + self.shard_size, len(self.names)))

    @property
    def n_shards(self) -> int:
        """The number of shards."""
        return -(-len(self.names) // self.shard_size)


class RunFolder:
    """The folder that a run writes to.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def maps_file(self, shard: int) -> Path:
        """The maps of a shard."""
        return self.path / f"maps-{shard:06}.safetensors"

    def rows_file(self, shard: int) -> Path:
        """A shard's part of the index. It is written after the maps, so where it is, the shard is complete."""
        return self.path / f"maps-{shard:06}.csv"

    def is_started(self) -> bool:
        """Whether there is a record."""
        return (self.path / RECORD).exists()

    def start(self, record: Record) -> None:
        """Writes the record, or compares it with the one that is there.

        Raises:
            ValueError: The folder holds maps of another run.
            OSError: It cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise OSError(error.errno, f"output: cannot make the folder {self.path}: {reason}") from error
        file = self.path / RECORD
        if not self.is_started():
            if any(self.path.glob("maps-*.safetensors")):
                raise ValueError(f"output: {self.path} holds maps, but no {RECORD} that says of what.")
            text = json.dumps({"format": FORMAT, **vars(record)}, indent=1)
            _write(file, text.encode(), keep=True)
        there = self.read_record()
        found = list(differences({**vars(there), "names": None}, {**vars(record), "names": None}))
        found = [text.removeprefix("settings.") for text in found]
        other_names = _other_names(there.names, record.names)
        if other_names:  # which say more than the attributes of the dataset that list them
            found = [text for text in found if not text.startswith(f"dataset.{ATTRIBUTES}.")]
        found += other_names
        if found:
            raise ValueError(
                f"output: {self.path} holds maps of another run: {'; '.join(found)}. Choose another folder."
            )

    def read_record(self) -> Record:
        """Reads the record.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not one.
        """
        file = self.path / RECORD
        try:
            content = json.loads(file.read_bytes())
            if content.pop("format") == FORMAT:
                return Record(**content)
        except (AttributeError, KeyError, TypeError, ValueError):  # of another program, or damaged
            pass
        raise ValueError(f"output: {file} is not a record that this version of captum_sgcampp can read.")

    def read_rows(self, shard: int) -> dict[str, list[Row]]:
        """Reads a shard's part of the index, by the names of the images; nothing if it is not complete."""
        try:
            text = self.rows_file(shard).read_bytes().decode()
        except (FileNotFoundError, UnicodeDecodeError):
            return {}
        rows: dict[str, list[Row]] = {}
        for cells in list(csv.reader(io.StringIO(text, newline="")))[1:]:
            if len(cells) != len(Row._fields):  # damaged
                return {}
            row = Row(*cells)
            rows.setdefault(row.name, []).append(row)
        keys = {row.key for row_of_image in rows.values() for row in row_of_image if row.key}
        return rows if keys == self._keys(shard) else {}

    def _keys(self, shard: int) -> set[str] | None:
        """The names of the maps of a shard; None if its file is not there, or not whole."""
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - of an extra

        try:
            with safe_open(self.maps_file(shard), framework="pt") as file:
                return set(file.keys())
        except (FileNotFoundError, SafetensorError):
            return None

    def rows_version(self, shard: int) -> object:
        """What tells whether a shard's part of the index has been written anew; None if it is not complete."""
        try:
            state = self.rows_file(shard).stat()
        except FileNotFoundError:
            return None
        return state.st_mtime_ns, state.st_ino

    def complete(self) -> set[int]:
        """The numbers of the shards that are complete."""
        return {int(file.stem.removeprefix("maps-")) for file in self.path.glob("maps-[0-9]*[0-9].csv")}

    def read_maps(self, shard: int, keys: Iterable[str]) -> dict[str, Tensor]:
        """Reads maps of a shard, those that are there, and nothing else of it."""
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - of an extra

        try:
            with safe_open(self.maps_file(shard), framework="pt") as file:
                return {key: file.get_tensor(key) for key in set(file.keys()).intersection(keys)}
        except (FileNotFoundError, SafetensorError):
            return {}

    def write_shard(self, shard: int, rows: Sequence[Row], maps: dict[str, Tensor], settings: dict[str, Any]) -> None:
        """Writes the maps of a shard, and then its part of the index.

        Raises:
            OSError: They cannot be written.
        """
        from safetensors.torch import save  # noqa: PLC0415 - of an extra

        # One entry, because safetensors writes several in any order, and the same run must write the same bytes.
        content = save(maps, {"captum_sgcampp": json.dumps(settings)})
        _write(self.maps_file(shard), content)
        text = io.StringIO(newline="")
        csv.writer(text).writerows([Row._fields, *rows])
        rows_text = text.getvalue().encode("utf-8", "backslashreplace")  # as the names of images are written
        _write(self.rows_file(shard), rows_text)

    def write_index(self, n_shards: int) -> None:
        """Joins the parts of the index.

        Raises:
            OSError: It cannot be written.
        """

        def join(index: BinaryIO) -> None:
            for shard in range(n_shards):
                with self.rows_file(shard).open("rb") as part:
                    header = part.readline()
                    if not shard:
                        index.write(header)
                    shutil.copyfileobj(part, index)

        _write(self.path / INDEX, join)


def _write(file: Path, content: bytes | Callable[[BinaryIO], object], *, keep: bool = False) -> None:
    """Writes a file whole or not at all, with an error that says how a run goes on."""
    try:
        write_whole(file, content, keep=keep)
    except OSError as error:
        raise OSError(
            error.errno,
            f"output: {os.strerror(error.errno or 0)}, while writing {file.name}. What was written before is whole, "
            "and the same call goes on from there",
            str(file.parent),
        ) from error


def _other_names(there: list[str], here: list[str]) -> list[str]:
    if there == here:
        return []
    only = {"there": sorted(set(there) - set(here)), "here": sorted(set(here) - set(there))}
    found = [f"{len(names)} image(s) are only {where}, such as {names[0]!r}" for where, names in only.items() if names]
    return found or ["the images are in another order"]


def require_safetensors() -> None:
    """Raises an ImportError that says how to install safetensors, if it is missing."""
    if importlib.util.find_spec("safetensors") is None:
        raise ImportError(f"{missing('safetensors', 'maps')}.")
