"""The user's own network, from a function in a Python file."""

import sys
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import CommandError, described, unknown
from captum_sgcampp.cli.framing import frame_of
from captum_sgcampp.cli.paths import is_file, shown
from captum_sgcampp.cli.weights import load_weights

RETURNS = "its model, its preprocessing and the names of its classes, and possibly a reshape_transform"


def load(name: str, weights: Mapping[str, Tensor] | None, device: torch.device) -> Classifier:
    """Calls the function, which returns the model, its preprocessing and the names of its classes.

    The preprocessing turns a PIL image, 8-bit RGB, into the model's input, (C, H, W) or (1, C, H, W). The names may
    be None. A fourth item, if there is one, is the `reshape_transform` of the model's layers.

    Args:
        name: FILE.py:FUNCTION.
        weights: A state dict to load into the model. None leaves it as it is.
        device: Where the model will run.

    Raises:
        CommandError: The file or the function fails, or the function returns something else.
    """
    path, _, function_name = name.rpartition(":")
    module = _imported(Path(path))
    functions = [found for found, value in vars(module).items() if callable(value) and not found.startswith("_")]
    if function_name not in functions:
        raise unknown(f"function in {shown(path)}:", function_name, functions)
    try:
        returned = vars(module)[function_name]()
    except (Exception, SystemExit) as error:
        raise CommandError(f"{function_name} of {shown(path)} failed: {described(error)}") from error
    if not isinstance(returned, (tuple, list)) or len(returned) not in {3, 4}:
        raise CommandError(f"{function_name} of {shown(path)} must return {RETURNS}, but returned {_kind(returned)}")
    model, preprocess, classes, reshape_transform = (*returned, None)[:4]
    model = getattr(model, "_orig_mod", model)  # torch.compile takes no hooks that come and go
    if not isinstance(model, Module) or not callable(preprocess):
        kinds = f"{_kind(model)} and {_kind(preprocess)}"
        raise CommandError(f"{function_name} of {shown(path)} must return a Module and a function first, not {kinds}")
    if reshape_transform is not None and not callable(reshape_transform):
        raise CommandError(
            f"{function_name} of {shown(path)} must return a function as its reshape_transform, not "
            f"{_kind(reshape_transform)}"
        )
    names = _class_names(classes, f"{function_name} of {shown(path)}")
    if weights is not None:
        load_weights(model, weights, shown(name))
    return Classifier(
        shown(name),
        model,
        preprocess,
        device,
        frame_of(preprocess),
        names,
        reshape_transform=reshape_transform,
    )


def _class_names(classes: Any, function: str) -> list[str] | None:
    """The names of the classes, from a list, or from a dict by number such as Hugging Face's `id2label`."""
    if isinstance(classes, Mapping) and {*classes} == {*range(len(classes))}:
        classes = [classes[index] for index in range(len(classes))]
    if classes is not None and not isinstance(classes, (list, tuple)):
        raise CommandError(
            f"{function} must return the names of the classes as a list, or as a dict by number from 0, not as "
            f"{_kind(classes)}"
        )
    return None if classes is None else [str(name) for name in classes]


def _imported(file: Path) -> ModuleType:
    """Imports a file as `python FILE` does: it can import the modules beside it."""
    spec = spec_from_file_location("captum_sgcampp_model_file", file)  # hides no other module
    if spec is None or spec.loader is None or not is_file(file):
        raise CommandError(f"cannot read {shown(file)}: there is no such file")
    module = module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CommandError(f"{shown(file)} cannot be imported: {described(error)}") from error
    return module


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{type(value).__name__}{size}"
