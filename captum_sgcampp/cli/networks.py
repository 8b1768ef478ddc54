"""Networks by name, from torchvision, timm, Hugging Face, or the user's own file."""

from dataclasses import replace
from pathlib import Path

import torch
from torch.fx import GraphModule
from torch.nn import Module

from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import CommandError, described
from captum_sgcampp.cli.options import DEFAULT_MODEL
from captum_sgcampp.cli.paths import shown
from captum_sgcampp.cli.weights import read_weights


def load_classifier(
    name: str, device: torch.device, weights_file: Path | None = None, classes_file: Path | None = None
) -> Classifier:
    """Builds a network with its pretrained weights, or with weights from a file.

    Args:
        name: A classifier of torchvision; timm:NAME; hf:NAME; or FILE.py:FUNCTION.
        device: Where the network runs.
        weights_file: A file with a state dict, for any number of classes. None takes the pretrained weights.
        classes_file: A file with the names of the classes, one per line. None takes those that come with the network.

    Raises:
        CommandError: The network is unknown, or it, its weights or its classes cannot be loaded.
    """
    weights = None if weights_file is None else read_weights(weights_file)
    source, _, rest = name.partition(":")
    if source == "timm":
        from captum_sgcampp.cli.from_timm import load as load_timm

        classifier = load_timm(rest, weights, device)
    elif source == "hf":
        from captum_sgcampp.cli.from_transformers import load as load_transformers

        classifier = load_transformers(rest, weights, device)
    elif ".py:" in name:
        from captum_sgcampp.cli.from_file import load as load_file

        classifier = load_file(name, weights, device)
    elif name.endswith(".py"):
        raise CommandError(f"--model {shown(name)} lacks the function that returns the model, as in {shown(name)}:load")
    elif name == DEFAULT_MODEL:
        from captum_sgcampp.cli.efficientnet_lite import load as load_efficientnet_lite

        classifier = load_efficientnet_lite(weights, device)
    else:
        from captum_sgcampp.cli.from_torchvision import load as load_torchvision

        classifier = load_torchvision(name, weights, device)
    _prepare(classifier.model, classifier.name, device)
    return classifier if classes_file is None else replace(classifier, classes=_read_classes(classes_file))


def _prepare(model: Module, name: str, device: torch.device) -> None:
    """Moves a network to the device and into evaluation mode. One that refuses may already be there."""
    try:
        model.to(device)
    except Exception as error:  # each kind of network raises its own
        if any(tensor.device.type != device.type for tensor in (*model.parameters(), *model.buffers())):
            raise CommandError(f"{name} cannot be moved to the device '{device}': {described(error)}") from error
    try:
        model.eval()
    except Exception as error:
        if any(module.training for module in model.modules()):
            hint = "; give torch.export.unflatten(program)" if isinstance(model, GraphModule) else ""
            raise CommandError(f"{name} cannot be put in evaluation mode: {described(error)}{hint}") from error


def _read_classes(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CommandError(f"cannot read classes from {shown(file)}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"cannot read classes from {shown(file)}: it is not text in UTF-8") from error
    return [line.strip() for line in text.rstrip().splitlines()]
