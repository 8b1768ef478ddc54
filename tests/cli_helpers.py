"""What the tests of the command share: photographs, and pictures cut into their panels."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

CPU = torch.device("cpu")
FAST = ["--n-samples", "2", "--methods", "smooth-grad-cam++"]


def opened(file: str | Path) -> Image.Image:
    """Reads a picture, and closes its file."""
    with Image.open(file) as image:
        image.load()
        return image


def photograph(path: str) -> Path:
    """Writes a photograph that scikit-image ships."""
    from skimage import data

    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(getattr(data, file.stem.split("-")[0])())).save(file)
    return file


def panels(picture: str | Path) -> list[npt.NDArray[np.float64]]:
    """Cuts the panels of the last row out of a picture: what is not white, between white columns."""
    image = opened(picture)
    inch = image.info["dpi"][0]
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    row = pixels[int(len(pixels) * 0.5) :]  # beneath the titles
    white = (row == 1).all(axis=(0, 2))
    edges = np.flatnonzero(np.diff(np.concatenate([[True], white, [True]]).astype(int)))
    # The color bar and its labels are narrower.
    return [row[:, left:right] for left, right in zip(edges[::2], edges[1::2], strict=True) if right - left > inch]


def center(panel: npt.NDArray[np.float64]) -> float:
    """Where the heat of a map lies between left, 0, and right, 1. Inferno goes from blue to yellow."""
    heat = (panel[..., 0] + panel[..., 1] - 2 * panel[..., 2]).clip(0).sum(axis=0)
    return float((heat * np.linspace(0, 1, len(heat))).sum() / heat.sum())


def outlined(panel: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Where a panel is cyan, the color of outlines."""
    return (panel[..., 0] < 0.3) & (panel[..., 1] > 0.7) & (panel[..., 2] > 0.7)


def calibrated(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Gives the batch norms of a random network the statistics of its activations, so that they do not vanish."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(inputs)
    return model.eval()
