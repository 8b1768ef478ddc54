"""The part of a photograph that a network sees, for pictures: sharper than its input, or without normalization."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, v2
from torchvision.transforms import functional as transforms

SHOWN_AT = 2
"""How many times larger than the network's input a photograph is shown."""


def frame_of(preprocess: Any) -> Callable[[Image.Image], Any] | None:
    """Finds a function that crops photographs as a preprocessing does. None unless that is torchvision's."""
    if hasattr(preprocess, "resize_size") and hasattr(preprocess, "crop_size"):  # the presets of torchvision's weights
        return lambda photograph: _cropped(preprocess, photograph)
    if isinstance(preprocess, (Compose, v2.Compose)):
        return lambda photograph: _unnormalized(preprocess, photograph)
    return None


def _cropped(preset: Any, photograph: Image.Image) -> npt.NDArray[np.float32]:
    resized = transforms.resize(photograph, [SHOWN_AT * size for size in preset.resize_size])
    cropped = transforms.center_crop(resized, [SHOWN_AT * size for size in preset.crop_size])
    return np.asarray(cropped, dtype=np.float32) / np.float32(255)


def _unnormalized(preprocess: Any, photograph: Image.Image) -> npt.NDArray[np.float32] | None:
    """The photograph after all steps except the normalization; None if the result is not an image."""
    image: Any = photograph
    for step in preprocess.transforms:
        if not isinstance(step, (Normalize, v2.Normalize)):
            image = step(image)
    return as_photograph(image)


def as_photograph(image: Any) -> npt.NDArray[np.float32] | None:
    """Turns a tensor (C, H, W) in [0, 1] into an array (H, W, C). None for anything else."""
    if not isinstance(image, Tensor) or image.dim() != 3 or len(image) not in {1, 3}:
        return None
    if not image.is_floating_point() or not (image.min() >= 0 and image.max() <= 1):
        return None
    return image.permute(1, 2, 0).float().cpu().numpy()
