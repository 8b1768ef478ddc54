"""Classifiers of torchvision."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Module
from torchvision import models

from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import CommandError, one_line, unknown
from captum_sgcampp.cli.framing import frame_of
from captum_sgcampp.cli.options import DEFAULT_MODEL
from captum_sgcampp.cli.weights import load_weights, n_classes_of

IMAGENET_CLASSES: list[str] = models.EfficientNet_B0_Weights.DEFAULT.meta["categories"]
"""The names of ImageNet's classes."""


def load(name: str, weights: Mapping[str, Tensor] | None, device: torch.device) -> Classifier:
    """Builds a classifier of torchvision.

    Args:
        name: Its name in torchvision.
        weights: A state dict, for any number of classes. None downloads the pretrained one.
        device: Where it will run.

    Raises:
        CommandError: The name is unknown, the weights cannot be downloaded, or they do not fit.
    """
    names = models.list_models(module=models)
    if name not in names:
        raise unknown("model", name, [DEFAULT_MODEL, *names])
    pretrained = models.get_model_weights(name).DEFAULT
    preset = pretrained.transforms()
    classes = list(pretrained.meta["categories"])
    if weights is None:
        model = _pretrained(name, pretrained)
    else:
        model, n_classes = _with_weights(name, weights, len(classes))
        classes = class_names(classes, n_classes)
    return Classifier(name, model, preset, device, frame_of(preset), classes)


def class_names(known: list[str], n_classes: int) -> list[str]:
    """The known names, or numbers if there are not as many."""
    return known if n_classes == len(known) else [f"class {index}" for index in range(n_classes)]


def _pretrained(name: str, pretrained: models.WeightsEnum) -> Module:
    try:
        model: Module = models.get_model(name, weights=pretrained)
    except OSError as error:
        raise CommandError(
            f"the weights of {name} cannot be downloaded ({one_line(error)}); {DEFAULT_MODEL} needs no download, and "
            "--weights takes a file"
        ) from error
    return model


def _with_weights(name: str, weights: Mapping[str, Tensor], n_classes: int) -> tuple[Module, int]:
    options = {}
    if name in {"googlenet", "inception_v3"}:
        options = {"init_weights": False, "aux_logits": any("aux" in key.lower() for key in weights)}
    with torch.device("meta"):
        n_classes = n_classes_of(weights, models.get_model(name, weights=None, **options), n_classes)
    model: Module = models.get_model(name, weights=None, num_classes=n_classes, **options)
    load_weights(model, weights, name)
    return model, n_classes
