"""The photographs that come with the packages of the extras; none is downloaded."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image
from skimage import data


def photographs() -> dict[str, Image.Image]:
    """Opens the photographs in colour that scikit-image and matplotlib ship, and mirrors each."""
    shown = {
        name: Image.fromarray(np.asarray(getattr(data, name)()))
        for name in ("astronaut", "chelsea", "coffee", "rocket")
    }
    hopper = Path(mpl.get_data_path(), "sample_data", "grace_hopper.jpg")
    shown["grace_hopper"] = Image.open(hopper).convert("RGB")
    mirrored = {f"{name}, mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for name, image in shown.items()}
    return shown | mirrored
