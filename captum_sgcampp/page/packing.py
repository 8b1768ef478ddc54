"""Tensors and photographs as text that fits into JSON."""

import base64
import io
import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

LARGEST_SIDE = 768
"""A photograph is scaled down to this many pixels."""
JPEG_QUALITY = 92


def pack_halves(tensor: Tensor) -> dict[str, Any]:
    """Packs a tensor in half precision.

    It is divided by a power of two first, which rounds nothing, so that its largest value is far from the limits of
    half precision, whatever its unit.

    Raises:
        ValueError: It has values that are not finite.
    """
    values = _finite(tensor)
    largest = float(values.abs().max())
    scale = 2.0 ** (math.frexp(largest)[1] - 15) if largest else 1.0
    return {"type": "float16", "scale": scale, "data": _pack((values.double() / scale).numpy().astype("<f2"))}


def pack_floats(tensor: Tensor) -> dict[str, Any]:
    """Packs a tensor in single precision.

    Raises:
        ValueError: It has values that are not finite.
    """
    return {"type": "float32", "scale": 1.0, "data": _pack(_finite(tensor).numpy().astype("<f4"))}


def pack_photograph(photograph: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Packs a photograph, (H, W, 3) in [0, 1], as a JPEG in a data URL, with its size."""
    image = Image.fromarray(np.rint(photograph * 255).astype(np.uint8))
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    url = f"data:image/jpeg;base64,{_base64(file.getvalue())}"
    return {"url": url, "width": image.width, "height": image.height}


def pack_colors(colors: npt.NDArray[np.uint8]) -> str:
    """Packs a table of colors, (n, 4): red, green, blue and opacity."""
    return _base64(colors.tobytes())


def _finite(tensor: Tensor) -> Tensor:
    values = tensor.detach().cpu().float()
    if not values.isfinite().all():
        raise ValueError("not finite")
    return torch.flatten(values)


def _pack(values: npt.NDArray[Any]) -> str:
    return _base64(zlib.compress(values.tobytes(), 9))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
