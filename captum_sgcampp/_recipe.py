"""How the maps of an explanation were computed, so that the same call can be made again."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The arguments of `explain` that decide the values of the maps, besides the model and its input."""

    model_name: str
    n_samples: int
    """The number of noisy copies; 0 if no method needed them."""
    stdevs: float
    seed: int | None
    """The seed of the noise; None if it is not known, as with a generator that had been used before."""
    alpha: str
    derivatives: str
    has_reshape_transform: bool
    has_forward_args: bool
    """Whether there were further arguments of the model."""
    scores_within: bool
    """Whether the model returns its scores within an object, so that the methods need a function around it."""
    layers_by_name: frozenset[str]
    """The layers that ``model.get_submodule`` finds by their names."""

    def in_words(self, layers: Iterable[str]) -> str:
        """The model, the layers and the noise, for the title of a picture."""
        words = f"{self.model_name}, layer {', '.join(layers)}"
        if self.n_samples:
            words += f"; noise: n = {self.n_samples}, \N{GREEK SMALL LETTER SIGMA} = {self.stdevs:g}"
        return words
