"""What the maps of a run depend on, and how two runs differ."""

import hashlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from numbers import Integral
from typing import Any

import torch
from captum.attr import LayerAttribution
from torch import Tensor
from torch.nn import Module
from torch.utils.data import Dataset

import captum_sgcampp
from captum_sgcampp._models.closures import modules_of
from captum_sgcampp.dataset.batch_maps import BatchMaps
from captum_sgcampp.dataset.fingerprint import (
    fingerprint,
    fingerprint_of_parts,
    fingerprint_of_tensors,
    name_of,
    text_of,
)
from captum_sgcampp.dataset.images import file_state, folder_of, lists_files, origin
from captum_sgcampp.dataset.results import attributes_of
from captum_sgcampp.layers import unwrap

_DESCRIBED_ELSEWHERE = {"self", "forward_func", "model", "layer", "device_ids"}
_WITHOUT_INFLUENCE = {"self", "inputs", "target", "generator", "n_samples_batch_size", "show_progress"}

ATTRIBUTES = "attributes"
"""Under which name the settings have what else a dataset has; this changes with its images."""


def run_settings(maps: BatchMaps, dataset: Any) -> dict[str, Any]:
    """Describes what the maps depend on, in values that JSON has.

    Args:
        maps: Computes the maps.
        dataset: The dataset.

    Raises:
        TypeError: `attribute` does not take one of the arguments.
    """
    method = maps.method
    try:
        arguments = inspect.signature(method.attribute).bind_partial(**maps.arguments)
    except TypeError as error:
        raise TypeError(f"arguments: {type(method).__name__}.attribute {error}.") from error
    arguments.apply_defaults()
    return {
        "method": {"name": name_of(type(method)), "code": _code_of(method), **_parameters_of(method)},
        "model": _described_model(method.forward_func, maps.layers),
        "layer": maps.layer_names,
        "target": _described(maps.targets.kind),
        "arguments": {
            name: _described(value) for name, value in arguments.arguments.items() if name not in _WITHOUT_INFLUENCE
        },
        "seed": maps.seed,
        "device": maps.device.type,  # another has other random numbers
        "dataset": _described_dataset(origin(dataset, 0)[0]),
        "versions": {
            "captum_sgcampp": captum_sgcampp.__version__,
            "captum": version("captum"),
            "torch": torch.__version__,
        },
    }


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Says what differs between the settings of a folder and those of a run."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys([*there, *here]):
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} is {_shortened(there)} there and {_shortened(here)} here"


def _parameters_of(method: LayerAttribution) -> dict[str, Any]:
    """What the constructor of a method takes, as far as it keeps it; other attributes may change from call to call."""
    constructors = [vars(kind)["__init__"] for kind in type(method).__mro__ if "__init__" in vars(kind)]
    names = [name for constructor in constructors for name in inspect.signature(constructor).parameters]
    known = vars(method)
    return {
        name: _described(known.get(name, known.get(f"_{name}")))
        for name in dict.fromkeys(names)
        if name not in _DESCRIBED_ELSEWHERE and not {name, f"_{name}"}.isdisjoint(known)
    }


def _code_of(method: LayerAttribution) -> str:
    """The fingerprint of a method's class, and of what replaces its functions in this one object."""
    own = {name: value for name, value in vars(method).items() if callable(getattr(type(method), name, None))}
    return fingerprint((type(method), own))


def _described_model(forward_func: Any, layers: list[Module]) -> dict[str, Any]:
    """A model by its structure, code and weights; another function by its name and code, and the modules it calls."""
    is_module = isinstance(forward_func, Module)
    model = unwrap(forward_func)[-1] if is_module else torch.nn.ModuleList([*layers, *modules_of(forward_func)])
    structure = "\n".join(
        f"{name}: {name_of(type(part))} {text_of(part.extra_repr())}" for name, part in model.named_modules()
    )
    return {
        "name": name_of(type(model)) if is_module else _label(forward_func),
        "code": fingerprint_of_parts(model) if is_module else fingerprint(forward_func),
        "structure": hashlib.sha256(structure.encode()).hexdigest(),
        "weights": fingerprint_of_tensors({**dict(model.named_buffers()), **model.state_dict()}),
        "training": [name for name, part in model.named_modules() if part.training],
    }


def _described_dataset(dataset: Any, around: tuple[Any, ...] = ()) -> dict[str, Any]:
    """A dataset by its class, its transforms and whatever else it has, except its files, whose states are written."""
    transforms = getattr(dataset, "transforms", None) or getattr(dataset, "transform", None)
    folder = folder_of(dataset)
    others = {
        name: _relative(value, folder) if lists_files(value, dataset) else value
        for name, value in attributes_of(dataset).items()
        if name not in {"transform", "transforms"} and not _is_folder(value, folder)
    }
    return {
        "type": name_of(type(dataset)),
        "code": fingerprint(type(dataset)),
        "transform": _described(transforms),
        "data": fingerprint(dataset) if isinstance(dataset, (list, tuple)) else "",
        ATTRIBUTES: {name: _described_attribute(value, (*around, dataset)) for name, value in others.items()},
    }


def _described_attribute(value: Any, around: tuple[Any, ...]) -> Any:
    """An attribute of a dataset; a dataset within it with the states of its files, which the index does not have."""
    if isinstance(value, Dataset):
        if any(value is one for one in around):
            return "around this one"
        states = [file_state(value, index) for index in range(len(value))] if hasattr(value, "__len__") else []
        return {**_described_dataset(value, around), "files": fingerprint(states)}
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, Dataset) for one in value):
        return {str(number): _described_attribute(one, around) for number, one in enumerate(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"{name_of(type(value))} {fingerprint(value)}"  # no text, which may be as long as the dataset


def _relative(samples: Sequence[Any], folder: str) -> list[Any]:
    """What a dataset lists for its items, with the files relative to their folder, which may move."""
    pairs = (sample if isinstance(sample, (list, tuple)) else (sample,) for sample in samples)
    return [(os.fspath(file).removeprefix(folder), *others) for file, *others in pairs]


def _is_folder(value: Any, folder: str) -> bool:
    return bool(folder) and isinstance(value, (str, os.PathLike)) and os.path.join(os.fspath(value), "") == folder  # noqa: PTH118


def _described(value: Any) -> Any:
    """A value in terms of JSON: what JSON has as it is, a tensor by a hash, others by their label and fingerprint."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Integral):  # as of numpy
        return int(value)
    if isinstance(value, (list, tuple, range)):
        return [_described(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _described(one) for key, one in value.items()}
    return f"{_label(value)} {fingerprint(value)}"


def _label(value: Any) -> str:
    """What tells a reader which value it is: its name if it has one, or its text."""
    if isinstance(value, (Module, Tensor)):
        return name_of(type(value))
    return name_of(value) if hasattr(value, "__qualname__") else text_of(value)


def _shortened(value: Any) -> str:
    text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", repr(value))
    return text if len(text) <= 200 else f"{text[:200]}..."
