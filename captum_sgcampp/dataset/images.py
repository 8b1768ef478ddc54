"""The images of a dataset: their names, in an order that every process agrees on, and the files that they come from."""

import os
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from torch.utils.data import IterableDataset, Subset

_LISTS_OF_FILES = (
    *("samples", "imgs", "files", "paths", "filenames", "file_names", "filepaths", "file_paths", "file_list"),
    *("images", "image_files", "image_paths", "img_files", "img_paths", "image_list", "_samples", "_image_files"),
    *("_images", "_files", "_paths"),
)
"""What datasets call the list of their files, beginning with what torchvision's ImageFolder does."""
_FOLDERS = ("root", "root_dir", "image_dir", "img_dir", "images_dir", "data_dir", "folder", "directory")
"""What they call the folder of these files."""


class FileState(NamedTuple):
    """What tells whether a file has changed; empty where an image has no file."""

    size: str = ""
    """In bytes."""
    modified: str = ""
    """In nanoseconds since 1970."""


@dataclass(frozen=True)
class Images:
    """The images of a dataset.

    Args:
        dataset: The dataset.
        names: The names of the images, as they are written.
        indices: The index of each in the dataset.
    """

    dataset: Any
    names: list[str]
    indices: "array[int]"

    def file_state(self, position: int) -> FileState:
        """The present state of the file of the image at a position of :attr:`names`."""
        return file_state(self.dataset, self.indices[position])


def name_images(dataset: Any, names: Sequence[str] | None) -> Images:
    """Names the images of a dataset.

    Args:
        dataset: A map-style dataset. Where it lists files, as `samples` of torchvision's ImageFolder or under another
            usual name, the names are those of the files relative to its root; otherwise they are the indices.
        names: The names, if the caller gives them.

    Raises:
        TypeError: The dataset is not map-style.
        ValueError: It is empty, two images have the same name, or some images have no name.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"dataset: must be map-style, with a length and an item for each index, but is a {type(dataset).__name__}."
        )
    if not len(dataset):
        raise ValueError("dataset: is empty.")
    if names is None:
        given = [_name_of(dataset, index) for index in range(len(dataset))]
        is_listed = file_of(dataset, 0) is not None
    elif len(names) == len(dataset):
        given, is_listed = list(names), True
    else:
        raise ValueError(f"names: there are {len(names)} for the {len(dataset)} images of the dataset.")
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"names: must be strings, but {name!r} is a {type(name).__name__}.")
    written = [as_written(name) for name in given]
    order = range(len(written))
    indices = array("q", sorted(order, key=written.__getitem__) if is_listed else order)
    ordered = [written[index] for index in indices]
    if len(set(ordered)) < len(ordered):
        twice, _ = Counter(ordered).most_common(1)[0]
        raise ValueError(f"names: must be different, but {twice!r} is there more than once.")
    return Images(dataset, ordered, indices)


def as_written(name: str) -> str:
    r"""The name of an image in every file that is written: what is not UTF-8 becomes an escape such as ``\udce9``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def file_of(dataset: Any, index: int) -> str | None:
    """The file of an item, if the dataset lists its files."""
    dataset, index = origin(dataset, index)
    own = getattr(dataset, "__dict__", {})  # not properties, which may read a whole dataset
    lists = (own.get(name, getattr(dataset, name, None) if name == "samples" else None) for name in _LISTS_OF_FILES)
    return next((_path(files[index], dataset) for files in lists if lists_files(files, dataset)), None)


def lists_files(values: Any, dataset: Any) -> TypeGuard[Sequence[Any]]:
    """Whether values are the files of a dataset, one for each item, or tuples that begin with them."""
    is_list = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim == 1)
    if not is_list or not len(values) or len(values) != len(dataset):
        return False
    first = _path(values[0], dataset)
    return first is not None and (values is getattr(dataset, "samples", None) or os.path.exists(first))  # noqa: PTH110


def _path(sample: Any, dataset: Any) -> str | None:
    """The file of what a list of files has for an item; relative to the dataset's root if it is only there."""
    file = sample[0] if isinstance(sample, (list, tuple)) and sample else sample
    if not isinstance(file, (str, os.PathLike)):
        return None
    path = os.fspath(file)
    below = os.path.join(folder_of(dataset), path)  # noqa: PTH118 - keeps ".." and links
    return below if os.path.exists(below) and not os.path.exists(path) else path  # noqa: PTH110


def file_state(dataset: Any, index: int) -> FileState:
    """The present state of the file of an item."""
    file = file_of(dataset, index)
    try:
        found = None if file is None else os.stat(file)  # noqa: PTH116 - ten times faster, for a million of them
    except (OSError, ValueError):
        return FileState()
    return FileState() if found is None else FileState(str(found.st_size), str(found.st_mtime_ns))


def _name_of(dataset: Any, index: int) -> str:
    file = file_of(dataset, index)
    dataset, index = origin(dataset, index)
    if file is None:
        return str(index)
    return file.removeprefix(folder_of(dataset)).replace(os.sep, "/")


def folder_of(dataset: Any) -> str:
    """The folder of a dataset's files, with a slash at the end; empty if it names none."""
    folders = (getattr(dataset, name, None) for name in _FOLDERS)
    folder = next((folder for folder in folders if isinstance(folder, (str, os.PathLike))), "")
    return os.path.join(os.fspath(folder), "")  # noqa: PTH118 - keeps ".." and links


def origin(dataset: Any, index: int) -> tuple[Any, int]:
    """The dataset and index that an item comes from, where the dataset is a Subset."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, dataset.indices[index]
    return dataset, index
