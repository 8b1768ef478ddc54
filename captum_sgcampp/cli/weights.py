"""Reads users' weight files, state dicts and checkpoints of torch.save or safetensors, and loads them into models."""

import argparse
import pickle
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Conv2d, Linear, Module

from captum_sgcampp._torch import state_dict_without_prefix
from captum_sgcampp.cli.errors import CommandError, brought_by, described
from captum_sgcampp.cli.paths import shown

CONTAINERS = ("state_dict", "model_state_dict", "model", "state_dict_ema")
"""Where checkpoints keep the state dict."""


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """Reads a state dict, without running code that the file might contain.

    Args:
        file: A file of safetensors or of `torch.save`, with a state dict or a checkpoint that holds one.

    Raises:
        CommandError: It cannot be read, or holds no state dict.
    """
    try:
        content = _load(file)
    except OSError as error:
        raise CommandError(f"cannot read weights from {shown(file)}: {error.strerror or error}") from error
    for name in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not _is_state_dict(content):
        raise CommandError(
            f"cannot read weights from {shown(file)}: it holds no state dict (a model's parameters by name), neither "
            f"at its top level nor under {', '.join(CONTAINERS)}"
        )
    state: Mapping[str, Tensor] = content
    return state


def _load(file: Path) -> Any:
    if file.suffix == ".safetensors":
        with brought_by("demo"):
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        try:
            return load_file(file)
        except SafetensorError as error:
            raise CommandError(f"cannot read weights from {shown(file)}: {described(error)}") from error
    allow = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    try:
        with allow([argparse.Namespace]) if allow else nullcontext():  # training scripts save their arguments
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise CommandError(
            f"cannot read weights from {shown(file)}: it is not a file that torch.save wrote, or holds objects other "
            "than tensors, which could run code; save the state dict alone"
        ) from error
    except Exception as error:  # another kind of file may make torch raise anything
        raise CommandError(
            f"cannot read weights from {shown(file)}: it is not a file that torch.save wrote ({described(error)})"
        ) from error


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def without_prefix(weights: Mapping[str, Tensor], model: Module) -> dict[str, Tensor]:
    """Removes the prefix that DataParallel (`module.`), Lightning (`model.`) and others put before each name, if any.

    Args:
        weights: A state dict.
        model: The model.
    """
    known = model.state_dict()
    some_name = next(iter(known), "")
    prefixes = dict.fromkeys(["", *(name.removesuffix(some_name) for name in weights if name.endswith(some_name))])
    best = max(prefixes, key=lambda prefix: sum(name.removeprefix(prefix) in known for name in weights))
    return state_dict_without_prefix(weights, best, known)


def n_classes_of(weights: Mapping[str, Tensor], model: Module, n_classes: int) -> int:
    """The number of classes of a state dict, from the weight of the classification layer.

    Args:
        weights: The state dict.
        model: A model of the same architecture.
        n_classes: Its number of classes.

    Returns:
        The number of rows of that weight. If the state dict lacks it, `n_classes`.
    """
    classifiers = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if (isinstance(module, Linear) and module.out_features == n_classes)
        or (isinstance(module, Conv2d) and module.out_channels == n_classes)
    ]
    found = without_prefix(weights, model)
    rows = [len(found[name]) for name in classifiers if name in found and found[name].dim()]
    return rows[-1] if rows else n_classes


def load_weights(model: Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Loads a state dict into a model.

    Args:
        model: The model.
        weights: The state dict, whose names may have a prefix.
        name: The name of the model, for messages.

    Raises:
        CommandError: It does not fit the model. The message names the first parameters that differ, with their shapes.
    """
    fitting = without_prefix(weights, model)
    try:
        model.load_state_dict(fitting)
    except Exception as error:
        wanted = model.state_dict()
        missing = [key for key in wanted if key not in fitting and not key.endswith("num_batches_tracked")]
        unexpected = [key for key in fitting if key not in wanted]
        reshaped = [key for key in wanted if key in fitting and fitting[key].shape != wanted[key].shape]
        reasons = [
            *_first("missing", missing, wanted),
            *_first("unexpected", unexpected, fitting),
            *(f"{key} is {_shape(fitting[key])} and must be {_shape(wanted[key])}" for key in reshaped[:1]),
        ]
        raise CommandError(f"the weights are not those of {name}: {'; '.join(reasons) or described(error)}") from error


def _first(what: str, names: Sequence[str], tensors: Mapping[str, Tensor]) -> list[str]:
    if not names:
        return []
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{what} {names[0]} {_shape(tensors[names[0]])}{others}"]


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
