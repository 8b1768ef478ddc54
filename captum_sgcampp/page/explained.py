"""What the page needs of an explanation."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from captum_sgcampp._passes.selection import Selection
from captum_sgcampp._recipe import Recipe


class Explained(Protocol):
    """The part of a :class:`captum_sgcampp.Explanation` that the page shows; that class documents each attribute.

    An explanation saves its page, so this room lies below it and does not import it.
    """

    @property
    def photograph(self) -> npt.NDArray[np.float32] | None: ...  # noqa: D102
    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def scores(self) -> Tensor: ...  # noqa: D102
    @property
    def probabilities(self) -> Tensor | None: ...  # noqa: D102
    @property
    def targets(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def maps(self) -> Mapping[tuple[str, str, int], Tensor]: ...  # noqa: D102
    @property
    def activations(self) -> Mapping[str, Tensor]: ...  # noqa: D102
    @property
    def weights(self) -> Mapping[tuple[str, str, int], Tensor]: ...  # noqa: D102
    @property
    def selection(self) -> Selection: ...  # noqa: D102
    @property
    def recipe(self) -> Recipe: ...  # noqa: D102

    def class_name(self, target: int) -> str: ...  # noqa: D102
