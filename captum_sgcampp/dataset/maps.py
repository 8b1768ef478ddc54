"""Reads the maps of a dataset."""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_sgcampp.dataset.images import as_written
from captum_sgcampp.dataset.shards import Row, RunFolder, require_safetensors


class Maps(Mapping[str, Tensor]):
    r"""The maps that :func:`attribute_dataset` has written, as a mapping from names to tensors, (C, \*spatial).

    The name of a map is that of its image, followed by the layer and the target where there are several, as in
    ``"cats/1.jpg/layer3/281"``; it is the column ``key`` of the index. Each map is read when it is asked for, and none
    is kept. Maps of a run that is not complete can be read too, as far as it has come.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._run = RunFolder(self.folder)
        self._record = self._run.read_record()

    @property
    def names(self) -> list[str]:
        """The names of all images, with or without a map, in the order of the index."""
        return self._record.names

    @property
    def settings(self) -> dict[str, Any]:
        """What the maps depend on: the model, the method and its arguments, the seed, versions."""
        return self._record.settings

    @property
    def errors(self) -> dict[str, str]:
        """Why images have no map, by their names."""
        return {row.name: row.error for row in self._rows() if row.error}

    def __getitem__(self, key: str) -> Tensor:
        """Reads a map.

        Raises:
            KeyError: There is no such map. The message says why.
        """
        if not isinstance(key, str):
            raise KeyError(f"there is no map {key!r}: names are text, such as {self.names[0]!r}")
        key = as_written(key)
        name = key
        while name not in self._positions and "/" in name:
            name, _, _ = name.rpartition("/")
        if name not in self._positions:
            raise KeyError(f"there is no image {key!r}")
        shard = self._positions[name] // self._record.shard_size
        found = self._run.read_maps(shard, [key])
        if not found:
            rows = self._run.read_rows(shard).get(name)
            known = ", ".join(repr(row.key) for row in rows or [] if row.key)
            reason = f"its maps are {known}" if known else rows[0].error if rows else "it has not been reached yet"
            raise KeyError(f"there is no map {key!r}: {reason}")
        return found[key]

    def __iter__(self) -> Iterator[str]:
        """The names of all maps that there are so far."""
        return (row.key for row in self._rows() if row.key)

    def __len__(self) -> int:
        """The number of maps that there are so far."""
        return sum(1 for _ in self)

    def _rows(self) -> Iterator[Row]:
        for shard in range(self._record.n_shards):
            for rows in self._run.read_rows(shard).values():
                yield from rows

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self._record.names)}


def open_maps(folder: str | os.PathLike[str]) -> Maps:
    r"""Opens the maps that :func:`attribute_dataset` has written. None is read until it is asked for.

    Args:
        folder: The folder that was given as `output`.

    Returns:
        A mapping from the name of each map to the map, (C, \*spatial).

    Raises:
        FileNotFoundError: There is no ``run.json`` in the folder.
        ImportError: safetensors is not installed.
        ValueError: It is not one of this package.

    Example::

        >>> from captum_sgcampp import open_maps
        >>> maps = open_maps("maps")  # doctest: +SKIP
        >>> maps["cats/1.jpg"].shape  # doctest: +SKIP
        torch.Size([1, 7, 7])
    """
    require_safetensors()
    return Maps(folder)
