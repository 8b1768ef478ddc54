"""Classifiers of timm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import CommandError, brought_by, unknown, with_cause
from captum_sgcampp.cli.framing import SHOWN_AT, as_photograph
from captum_sgcampp.cli.paths import is_folder
from captum_sgcampp.cli.weights import load_weights, n_classes_of


def load(name: str, weights: Mapping[str, Tensor] | None, device: torch.device) -> Classifier:
    """Builds a classifier of timm.

    Args:
        name: Its name in timm, hf_hub:NAME, or a folder.
        weights: A state dict, for any number of classes. None takes the pretrained one.
        device: Where it will run.

    Raises:
        CommandError: timm is missing, the name is unknown, or the weights cannot be loaded.
    """
    with brought_by("timm"):
        import timm
        from timm.data import create_transform, resolve_model_data_config

    full_name = f"timm:{name}"
    known = name if ":" in name else f"local-dir:{name}" if is_folder(Path(name)) else name
    if ":" not in known and not timm.is_model(known.partition(".")[0]):
        raise unknown("model", name, timm.list_models())
    try:
        model = timm.create_model(known, pretrained=weights is None)
        if weights is not None:
            n_classes = n_classes_of(weights, model, model.num_classes)
            model = timm.create_model(known, pretrained=False, num_classes=n_classes)
    except Exception as error:
        raise CommandError(
            f"{full_name} cannot be loaded ({with_cause(error)}); --weights takes a file instead of a download"
        ) from error
    if weights is not None:
        load_weights(model, weights, full_name)

    config = resolve_model_data_config(model)
    _, height, width = config["input_size"]
    larger = {"input_size": (3, SHOWN_AT * height, SHOWN_AT * width), "mean": (0, 0, 0), "std": (1, 1, 1)}
    show = create_transform(**{**config, **larger})
    return Classifier(
        full_name,
        model,
        create_transform(**config),
        device,
        lambda photograph: as_photograph(show(photograph)),
        _class_names(model),
        getattr(model, "num_prefix_tokens", 0),
    )


def _class_names(model: Any) -> list[str] | None:
    """The names that come with the weights, or those of the variant of ImageNet that the model was trained on."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = model.pretrained_cfg
    names = list(config.get("label_names") or ())
    descriptions = config.get("label_descriptions") or {}
    if names:
        names = [descriptions.get(name, name) for name in names]
    else:
        subset = infer_imagenet_subset(model)
        if subset:
            info = ImageNetInfo(subset)
            names = [info.index_to_description(index) for index in range(info.num_classes())]
    return names if len(names) == model.num_classes else None
