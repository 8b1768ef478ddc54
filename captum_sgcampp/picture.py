"""Pictures: photographs with maps beside them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from captum.attr import LayerAttribution
from captum.attr import visualization as viz
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

COLOUR_MAP = "inferno"
"""A perceptually uniform colour map."""

OUTLINE_COLOUR = "cyan"
"""A colour that the colour map does not have."""


PANEL_WIDTH = 3.2
"""The width of a photograph or a map, in inches."""

LINE = 0.25
"""The height of a line of text, in inches."""


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
    """(1, 1, H, W), in the layer's resolution."""
    outlines: Sequence[Box] = ()
    """The neurons to outline in it."""


class Row(NamedTuple):
    """A photograph and the maps beside it."""

    photograph: npt.NDArray[np.float32]
    """What the network sees, (H, W, 3) in [0, 1]."""
    title: str
    """The title of the photograph."""
    panels: Sequence[Panel]


def draw(rows: Sequence[Row], title: str | None = None) -> Figure:
    """Draws each photograph with its maps beside it, each map scaled by its own maximum.

    Args:
        rows: The photographs and their maps, one below the other.
        title: The title of the whole picture.
    """
    columns = 1 + max(len(row.panels) for row in rows)
    heights = [_height(row) for row in rows]
    figure = Figure(
        figsize=(PANEL_WIDTH * columns, sum(heights) + 2 * LINE * (title is not None)), layout="constrained"
    )
    if title is not None:
        figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for row, axes in zip(rows, grid, strict=True):
        _draw_photograph(axes[0], row.photograph, row.title)
        for panel, axis in zip(row.panels, axes[1:], strict=False):
            _draw_map(figure, axis, row.photograph, panel)
        for axis in axes[1 + len(row.panels) :]:
            axis.set_axis_off()
    return figure


def _height(row: Row) -> float:
    """The height of a row in inches: the photograph and the lines above it."""
    height, width = row.photograph.shape[:2]
    n_lines = max(text.count("\n") for text in (row.title, *(panel.title for panel in row.panels))) + 1
    return PANEL_WIDTH * int(height) / int(width) + LINE * n_lines


def _draw_photograph(axis: Axes, photograph: npt.NDArray[np.float32], title: str) -> None:
    axis.imshow(photograph)
    axis.set_title(title)
    axis.set_axis_off()


def _draw_map(figure: Figure, axis: Axes, photograph: npt.NDArray[np.float32], panel: Panel) -> None:
    height, width = photograph.shape[:2]
    # Interpolation would blur selected neurons into those that are not.
    mode = "nearest" if panel.outlines else "bilinear"
    upsampled = LayerAttribution.interpolate(panel.attribution, (height, width), mode)
    attribution = upsampled[0].permute(1, 2, 0).detach().cpu().numpy()
    if not attribution.any():  # Captum cannot scale it
        axis.imshow(photograph.mean(axis=2), cmap="gray")
        axis.set_title(f"{panel.title}\n(zero everywhere)")
    else:
        viz.visualize_image_attr(
            attribution,
            photograph,
            method="blended_heat_map",
            sign="positive",
            plt_fig_axis=(figure, axis),
            cmap=COLOUR_MAP,
            alpha_overlay=0.6,
            title=panel.title,
            use_pyplot=False,
        )
    axis.set_axis_off()
    row, column = height / panel.attribution.shape[2], width / panel.attribution.shape[3]
    for box in panel.outlines:
        corner = (box.left * column - 0.5, box.top * row - 0.5)
        size = ((box.right - box.left + 1) * column, (box.bottom - box.top + 1) * row)
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=OUTLINE_COLOUR, linewidth=1.5))
