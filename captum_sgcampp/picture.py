"""Pictures: photographs with maps beside them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from captum.attr import LayerAttribution
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

COLOR_MAP = "inferno"
"""A color map whose lightness rises evenly from black, so that it reads in grayscale too."""

OUTLINE_COLOR = "cyan"
"""A color that the color map does not have."""

PANEL_WIDTH = 3.2
"""The width of a photograph or a map, in inches."""

LINE = 0.25
"""The height of a line of text, in inches."""

DPI = 200
"""The resolution of a picture, in pixels per inch."""

LINE_LENGTH = 34
"""The number of characters of a title that fit above a panel; longer lines are shortened."""

BEHIND = (0.06, 0.32)
"""The grays of black and white in the photograph behind a map.

They are so dark that white where the map is zero is no brighter than black at 0.36 of the maximum.
"""

SCALED_BY_ITSELF = "fraction of each map's\nown maximum"
"""The label of the color bar, unless another is given."""


class Box(NamedTuple):
    """A box of neurons, in rows and columns of the layer, both ends inclusive."""

    top: int
    left: int
    bottom: int
    right: int


class Panel(NamedTuple):
    """One map and its title."""

    title: str
    attribution: Tensor
    """(1, 1, H, W), in the layer's resolution; negative values are drawn as zero."""
    outlines: Sequence[Box] = ()
    """The neurons to outline in it."""
    maximum: float | None = None
    """The value that is brightest, where several maps are compared. None means the map's own maximum."""


class Row(NamedTuple):
    """A photograph and the maps beside it."""

    photograph: npt.NDArray[np.float32]
    """What the network sees, (H, W, 3) in [0, 1]."""
    title: str
    """The title of the photograph."""
    panels: Sequence[Panel]


def draw(rows: Sequence[Row], title: str | None = None, scale: str = SCALED_BY_ITSELF) -> Figure:
    """Draws each photograph with its maps beside it, in color over the darkened photograph.

    Args:
        rows: The photographs and their maps, one below the other.
        title: The title of the whole picture.
        scale: What the colors mean, beside the color bar. Default: a fraction of each map's own maximum
    """
    columns = 1 + max(len(row.panels) for row in rows)
    heights = [_height(row) for row in rows]
    figure = Figure(
        figsize=(PANEL_WIDTH * columns + 3 * LINE, sum(heights) + 2 * LINE * (title is not None)),
        dpi=DPI,
        layout="compressed",
    )
    if title is not None:
        figure.suptitle(title, fontsize=11, parse_math=False)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for row, axes in zip(rows, grid, strict=True):
        _draw_photograph(axes[0], row.photograph, row.title)
        for panel, axis in zip(row.panels, axes[1:], strict=False):
            _draw_map(axis, row.photograph, panel)
        for axis in axes[1 + len(row.panels) :]:
            axis.set_axis_off()
    bar = figure.colorbar(ScalarMappable(cmap=COLOR_MAP), ax=grid[0], pad=0.01, aspect=25)
    bar.set_ticks([0, 0.5, 1])
    bar.set_label(scale, fontsize=9)
    return figure


def shortened(text: str, length: int = LINE_LENGTH) -> str:
    """Shortens a text in its middle."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def blended(values: npt.NDArray[np.float32], photograph: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Lays a map over a darkened photograph, as light is added to light: the higher the map, the brighter the picture.

    Args:
        values: The map, (H, W) in [0, 1].
        photograph: (H, W, 3) in [0, 1].

    Returns:
        (H, W, 3) in [0, 1].
    """
    black, white = BEHIND
    behind = black + (white - black) * photograph.mean(axis=2, keepdims=True)
    colors = colormaps[COLOR_MAP](values)[..., :3]
    return np.asarray(1 - (1 - behind) * (1 - colors), dtype=np.float32)


def _height(row: Row) -> float:
    """The height of a row in inches: the photograph and the lines above it."""
    height, width = row.photograph.shape[:2]
    n_lines = max(text.count("\n") for text in (row.title, *(panel.title for panel in row.panels))) + 1
    return PANEL_WIDTH * int(height) / int(width) + LINE * n_lines


def _set_title(axis: Axes, title: str) -> None:
    axis.set_title("\n".join(map(shortened, title.split("\n"))), fontsize=10, parse_math=False)
    axis.set_axis_off()


def _draw_photograph(axis: Axes, photograph: npt.NDArray[np.float32], title: str) -> None:
    axis.imshow(photograph)
    _set_title(axis, title)


def _draw_map(axis: Axes, photograph: npt.NDArray[np.float32], panel: Panel) -> None:
    height, width = photograph.shape[:2]
    # Interpolation would blur selected neurons into those that are not.
    mode = "nearest" if panel.outlines else "bilinear"
    attribution = panel.attribution.detach().clamp_min(0)
    maximum = float(attribution.max()) if panel.maximum is None else panel.maximum
    fractions = attribution / maximum if maximum > 0 else attribution
    values = LayerAttribution.interpolate(fractions.float(), (height, width), mode)[0, 0].clamp_max(1)
    axis.imshow(blended(values.cpu().numpy(), photograph))
    if not attribution.any():
        axis.text(0.5, 0.5, "zero everywhere", transform=axis.transAxes, ha="center", va="center", color="white")
    _set_title(axis, panel.title)
    row, column = height / panel.attribution.shape[2], width / panel.attribution.shape[3]
    for box in panel.outlines:
        corner = (box.left * column - 0.5, box.top * row - 0.5)
        size = ((box.right - box.left + 1) * column, (box.bottom - box.top + 1) * row)
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=OUTLINE_COLOR, linewidth=1.5))
