"""The picture: a photograph, and beside it what each method sees in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from captum.attr import LayerAttribution
from captum.attr import visualization as viz
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

COLOUR_MAP = "inferno"
"""Perceptually uniform: equal steps of the map are equal steps to the eye, also in print and without colour vision."""


class Panel(NamedTuple):
    """One map, and what stands above it."""

    title: str
    attribution: Tensor
    """(1, 1, H, W), in the layer's resolution."""


def save_picture(
    file: Path, title: str, photograph: npt.NDArray[np.float32], photograph_title: str, rows: Sequence[Sequence[Panel]]
) -> None:
    """Draws a row of panels for each class explained, each beside the photograph, and writes them to a file.

    Args:
        file: Where to.
        title: What stands above the whole.
        photograph: What the network sees, (H, W, 3) in [0, 1].
        photograph_title: What stands above it.
        rows: The panels.
    """
    columns = 1 + max(len(row) for row in rows)
    figure = Figure(figsize=(3.2 * columns, 0.5 + 3.75 * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for row, axes in zip(rows, figure.subplots(len(rows), columns, squeeze=False), strict=True):
        _draw_photograph(axes[0], photograph, photograph_title)
        for panel, axis in zip(row, axes[1:], strict=False):
            _draw_map(figure, axis, photograph, panel)
    figure.savefig(file, dpi=100, bbox_inches="tight", pad_inches=0.1)


def _draw_photograph(axis: Axes, photograph: npt.NDArray[np.float32], title: str) -> None:
    axis.imshow(photograph)
    axis.set_title(title)
    axis.set_axis_off()


def _draw_map(figure: Figure, axis: Axes, photograph: npt.NDArray[np.float32], panel: Panel) -> None:
    height, width = photograph.shape[:2]
    upsampled = LayerAttribution.interpolate(panel.attribution, (height, width), "bilinear")
    attribution = upsampled[0].permute(1, 2, 0).cpu().numpy()
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
