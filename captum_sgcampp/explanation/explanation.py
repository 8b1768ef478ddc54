"""An explanation: probabilities, and the map of each method, layer and target, to draw or to explore."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_sgcampp import page, picture
from captum_sgcampp._checks import require_choice
from captum_sgcampp._passes.selection import Selection
from captum_sgcampp._recipe import Recipe
from captum_sgcampp.picture import Box, Panel, Row

SCALES = {
    "each": picture.SCALED_BY_ITSELF,
    "shared": "fraction of the maximum of\nall maps of the method",
}
"""The scales of a picture, in words."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    r"""What a model finds in one input: probabilities, and the map for each method, layer and target.

    Attributes:
        scores: The model's output without noise, (classes,).
        maps: The maps by method, layer (its name, or its type if it is not a module of the model) and target: each
            (1, 1, \*spatial), or (1, len(filters), \*spatial), rectified and not normalized.
        photograph: The photograph of the picture, (H, W, 3) in [0, 1]; None if the input is not an image and none was
            given.
        title: The title of the photograph.
        settings: The title of the picture: model, layers and noise.
        class_names: The names of the classes, if known.
        selection: The selected filters and neurons.
        activations: The activations of each layer without noise, (1, C, \*spatial), of all channels, or of the selected
            ones with ``derivatives="autograd"``.
        weights: Their weights by method, layer and target: (1, C, 1, ...), or (1, C, \*spatial) for
            methods that weight each position, as Smooth Layer-CAM does.
        recipe: How the maps were computed.
    """

    scores: Tensor
    maps: dict[tuple[str, str, int], Tensor]
    photograph: npt.NDArray[np.float32] | None
    title: str
    settings: str
    class_names: Sequence[str] | None
    selection: Selection
    activations: dict[str, Tensor]
    weights: dict[tuple[str, str, int], Tensor]
    recipe: Recipe

    @property
    def probabilities(self) -> Tensor | None:
        """The softmax of the scores, (classes,), for a model that returns logits of exclusive classes.

        None for a model with a single score, which has nothing to be compared with.
        """
        return self.scores.softmax(dim=0) if len(self.scores) > 1 else None

    @property
    def targets(self) -> list[int]:
        """The explained classes, in the order of the picture's rows."""
        return list(dict.fromkeys(target for _, _, target in self.maps))

    def class_name(self, target: int) -> str:
        """The name of a class, or its number if names are not known."""
        return f"class {target}" if self.class_names is None else self.class_names[target]

    def probability_or_score(self, target: int) -> str:
        """The probability of a class in words, or for a model with a single score that score."""
        if self.probabilities is None:
            return f"score {float(self.scores[target]):.3g}"
        return f"{float(self.probabilities[target]):.1%}"

    def picture(self, scale: str | None = None) -> Figure:
        """Draws the photograph and the maps: a row for each layer and target, a column for each method and filter.

        Args:
            scale: "each" scales each map by its own maximum; "shared" scales all maps of one method at one layer by
                their largest value, so that classes and filters can be compared. Maps of different methods or layers
                have different units and are never compared. Default: None, "shared" for several targets

        Raises:
            ValueError: There is no photograph; a map does not have two spatial dimensions, or is not finite; or `scale`
                is unknown.
        """
        scale = scale or ("shared" if len(self.targets) > 1 else "each")
        require_choice("scale", scale, SCALES)
        if self.photograph is None:
            raise ValueError("photograph: a picture needs one, because the input is not an image; give one to explain.")
        rows: dict[tuple[str, int], list[Panel]] = {}
        outlines = self._outlines()
        n_layers = len({layer for _, layer, _ in self.maps})
        for (method, layer, target), attribution in self.maps.items():
            if attribution.dim() != 4:
                raise ValueError(
                    f"layer: {layer} has a map of shape {tuple(attribution.shape)}, and a picture needs (N, C, H, "
                    "W). Choose another layer, or give a reshape_transform, such as tokens_to_map() for the tokens "
                    "of a transformer."
                )
            if not attribution.isfinite().all():
                raise ValueError(f"layer: the {method} map of {layer} is not finite.")
            name = f"{self.class_name(target)}, {self.probability_or_score(target)}"
            where = f"{name}\n{layer}" if n_layers > 1 else name
            filters = [f"{method}, filter {index}" for index in self.selection.filters or ()] or [method]
            maximum = self._maximum(method, layer) if scale == "shared" else None
            rows.setdefault((layer, target), []).extend(
                Panel(f"{of_filter}\n{where}", channel, outlines, maximum)
                for of_filter, channel in zip(filters, torch.split(attribution, 1, dim=1), strict=True)
            )
        drawn = [Row(self.photograph, self.title, panels) for panels in rows.values()]
        return picture.draw(drawn, self.settings, SCALES[scale])

    def _maximum(self, method: str, layer: str) -> float:
        """The largest value of all maps of a method at a layer."""
        return max(float(found.max()) for (*key, _), found in self.maps.items() if key == [method, layer])

    def save_page(self, path: str | PathLike[str], max_bytes: int = page.MAX_BYTES) -> None:
        """Writes a page to explore the maps in a browser: one HTML file that needs no network.

        See :func:`captum_sgcampp.page.save_page`, which writes several explanations into one page.
        """
        page.save_page([self], path, max_bytes)

    def __repr__(self) -> str:
        """What is explained, in one line."""
        model, layers = self.recipe.model_name, list(self.activations)
        return f"Explanation(title={self.title!r}, model={model!r}, layers={layers!r}, targets={self.targets!r})"

    def _repr_html_(self) -> str | None:
        """Shows the page in a notebook, within a frame of its own; None if there is nothing that it can show."""
        try:
            return page.frame([self])
        except ValueError:
            return None

    def _outlines(self) -> list[Box]:
        """The boxes around the selected neurons."""
        subset = self.selection.subset or ()
        if self.selection.region:
            rows, columns = zip(*subset, strict=True)
            return [Box(min(rows), min(columns), max(rows), max(columns))]
        return [Box(*neuron, *neuron) for neuron in subset]
