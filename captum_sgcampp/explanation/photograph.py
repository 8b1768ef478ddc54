"""Photographs: the pixels of an image or an array, whatever the type of their numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION, _SAMPLE_FORMAT = 258, 262, 284, 339
"""Tags of TIFF, for what a mode of Pillow does not say."""
_WHITE_IS_ZERO, _SEPARATE_PLANES, _UNSIGNED = 0, 2, 1
"""Values of these tags."""


def pixels(photograph: Any) -> npt.NDArray[np.float32]:
    """Converts a photograph to floats.

    Args:
        photograph: A PIL image, or an array, (H, W, 3), (H, W, 1) or (H, W), of unsigned integers, which are scaled by
            the range of their type, or of floats in [0, 1].

    Returns:
        (H, W, 3) in [0, 1].

    Raises:
        ValueError: It is neither, or its floats are not in [0, 1].
    """
    array = np.asarray(to_rgb(photograph) if isinstance(photograph, Image.Image) else photograph)
    if np.issubdtype(array.dtype, np.unsignedinteger):
        array = array / np.float32(np.iinfo(array.dtype).max)
    if array.ndim == 2:
        array = array[:, :, None]
    is_numeric = array.dtype.kind in "biuf"
    is_image = is_numeric and array.ndim == 3 and array.shape[2] in {1, 3} and array.size
    if not is_image or not (array.min() >= 0 and array.max() <= 1):
        extent = f" and the range {array.min()} to {array.max()}" if is_numeric and array.size else ""
        raise ValueError(
            "photograph: must be (H, W, 3) or (H, W), of unsigned integers or of floats in [0, 1], but has the shape "
            f"{array.shape}{extent}{'' if is_numeric else f' and is {photograph!r:.80}'}."
        )
    return np.broadcast_to(array, (*array.shape[:2], 3)).astype(np.float32)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to 8-bit RGB: upright, and on white where it is transparent.

    Pillow alone clips what has more than 8 bits; here integers are scaled by the range of their type.

    Args:
        image: The image. Floating-point images must be in [0, 1].

    Raises:
        ValueError: The pixels are negative, or floats outside [0, 1]; or their meaning is not known.
    """
    tags = _tiff_tags(image)
    if tags.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:
        raise ValueError("it is a TIFF with more than 8 bits in separate planes, which Pillow reads wrongly")
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_scaled(np.asarray(upright), image)).convert("RGB")
    if image.mode in {"RGBA", "RGBa", "LA", "La", "PA"} or "transparency" in image.info:
        visible = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", visible.size, "white"), visible).convert("RGB")
    return upright.convert("RGB")


def _scaled(values: npt.NDArray[Any], image: Image.Image) -> npt.NDArray[np.uint8]:
    """The grays of an image of 16 or 32 bits, in 8 bits."""
    tags = _tiff_tags(image)
    if values.dtype == np.int32 and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED and tags:
        values = values.view(np.uint32)
    largest = _largest(values, image, tags)
    if not (values.min() >= 0 and values.max() <= largest):
        raise ValueError(
            f"its pixels are from {values.min()} to {values.max()}; they must be from 0 to {largest:g}, the range of "
            "their type (1 for floating point)"
        )
    grays: npt.NDArray[Any] = np.rint(values / largest * 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grays = 255 - grays
    if "transparency" in image.info:
        grays = np.where(values == image.info["transparency"], 255, grays).astype(np.uint8)
    return grays


def _largest(values: npt.NDArray[Any], image: Image.Image, tags: Any) -> float:
    """The value of white."""
    if values.dtype.kind == "f":
        return 1.0
    if tags:
        bits = tags.get(_BITS_PER_SAMPLE, (1,))[0]
        return float(2 ** (bits if values.dtype.kind == "u" else bits - 1) - 1)
    if image.format in {"PNG", "PPM"}:  # 16 bits, which Pillow may hand out as 32
        return float(np.iinfo(np.uint16).max)
    if values.dtype.kind == "i":
        raise ValueError(f"its range is not known from the mode {image.mode}; give an array of unsigned integers")
    return float(np.iinfo(values.dtype).max)


def _tiff_tags(image: Image.Image) -> Any:
    """The tags of a TIFF; none for other formats."""
    return getattr(image, "tag_v2", {})


def input_as_photograph(inputs: Tensor) -> npt.NDArray[np.float32] | None:
    """The input, scaled to [0, 1], as (H, W, 3); None if it is not an image."""
    image = inputs[0].detach().float().cpu()
    if image.dim() != 3 or len(image) not in {1, 3}:
        return None
    low, high = image.min(), image.max()
    return pixels(((image - low) / (high - low).clamp_min(torch.finfo().tiny)).permute(1, 2, 0).numpy())
