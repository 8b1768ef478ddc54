"""Images from the dataset, decoded beside the model and put together in batches."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_sgcampp.dataset.images import FileState, file_state


class Task(NamedTuple):
    """An image to load."""

    shard: int
    position: int
    """Its place in the order of the run."""
    item: int
    """Its index in the dataset."""


class Loaded(NamedTuple):
    """An image as the dataset gave it, or the reason why it gave none."""

    task: Task
    state: FileState
    """The state of its file before it was read."""
    image: Tensor | None
    label: int | None
    error: str


class Group(NamedTuple):
    """Images of one shape."""

    positions: list[int]
    states: list[FileState]
    labels: list[int | None]
    images: Tensor
    """(N, ...)."""

    def only(self, number: int) -> "Group":
        """One of the images."""
        one = slice(number, number + 1)
        return Group(self.positions[one], self.states[one], self.labels[one], self.images[one])


class Batch(NamedTuple):
    """What goes through the model next."""

    shard: int
    groups: list[Group]
    failed: list[Loaded]


class Loading(Dataset[Loaded]):
    """Loads images by their tasks. One that cannot be loaded takes its error along and stops no other.

    Args:
        dataset: The dataset.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, task: Task) -> Loaded:
        """Loads an image.

        Raises:
            TypeError: The item is not a tensor, or a tuple that begins with one.
        """
        state = file_state(self.dataset, task.item)
        try:
            found = self.dataset[task.item]
        except Exception as error:  # whatever a dataset raises is a row of the index
            return Loaded(task, state, None, None, in_one_line(error))
        image, *others = found if isinstance(found, (tuple, list)) and found else (found,)
        if not isinstance(image, Tensor):
            raise TypeError(
                "dataset: an item must be a tensor, or a tuple of one and its label, but item "
                f"{task.item} has a {type(image).__name__}. Give the dataset a transform that makes tensors."
            )
        return Loaded(task, state, image, _label(others), "")


def collate(loaded: Sequence[Loaded]) -> Batch:
    """Puts images together in groups that can be stacked."""
    groups: dict[tuple[torch.Size, torch.dtype], list[Loaded]] = {}
    for one in loaded:
        if one.image is not None:
            groups.setdefault((one.image.shape, one.image.dtype), []).append(one)
    stacked = [
        Group(
            [one.task.position for one in group],
            [one.state for one in group],
            [one.label for one in group],
            torch.stack([one.image for one in group if one.image is not None]),
        )
        for group in groups.values()
    ]
    return Batch(loaded[0].task.shard, stacked, [one for one in loaded if one.image is None])


def in_one_line(error: Exception) -> str:
    """An error as the index shows it."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _label(others: Sequence[Any]) -> int | None:
    try:
        return operator.index(others[0])
    except (IndexError, TypeError, ValueError, RuntimeError):  # there is none, or it is not an integer
        return None
