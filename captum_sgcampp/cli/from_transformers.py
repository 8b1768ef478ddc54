"""Image classifiers of Hugging Face transformers."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import CommandError, brought_by, with_cause
from captum_sgcampp.cli.framing import as_photograph
from captum_sgcampp.cli.weights import load_weights, n_classes_of


def load(name: str, weights: Mapping[str, Tensor] | None, device: torch.device) -> Classifier:
    """Builds an image classifier of transformers.

    Args:
        name: Its name on the hub, or a folder.
        weights: A state dict, for any number of classes. None takes the pretrained one.
        device: Where it will run.

    Raises:
        CommandError: transformers is missing, or the network, its preprocessing or its weights cannot be loaded.
    """
    with brought_by("hf"):
        from transformers import AutoImageProcessor
        from transformers.utils import logging

    full_name = f"hf:{name}"
    logging.set_verbosity_error()  # those that matter become errors here
    logging.disable_progress_bar()
    try:
        processor = AutoImageProcessor.from_pretrained(name)
        model = _pretrained(name) if weights is None else _with_weights(name, weights, full_name)
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"{full_name} cannot be loaded ({with_cause(error)})") from error

    def preprocess(photograph: Image.Image, **options: Any) -> Any:
        return processor(images=photograph, return_tensors="pt", **options)["pixel_values"]

    def frame(photograph: Image.Image) -> Any:
        return as_photograph(preprocess(photograph, do_normalize=False)[0])

    classes = [str(model.config.id2label.get(index, f"class {index}")) for index in range(model.config.num_labels)]
    return Classifier(full_name, model, preprocess, device, frame, classes)


def _pretrained(name: str) -> Any:
    from transformers import AutoModelForImageClassification

    model, report = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
    missing = sorted(report["missing_keys"])
    if missing:  # which transformers fills with random numbers
        raise CommandError(f"hf:{name} has no weights for {missing[0]}; it is not a trained image classifier")
    return model


def _with_weights(name: str, weights: Mapping[str, Tensor], full_name: str) -> Any:
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(name)
    with torch.device("meta"):
        reference = AutoModelForImageClassification.from_config(config)
    n_classes = n_classes_of(weights, reference, config.num_labels)
    if n_classes != config.num_labels:
        config.num_labels = n_classes
    model = AutoModelForImageClassification.from_config(config)
    load_weights(model, weights, full_name)
    return model
