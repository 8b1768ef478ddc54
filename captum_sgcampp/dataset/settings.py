"""What the maps of a run depend on, and how two runs differ."""

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from numbers import Integral
from typing import Any

import torch
from captum.attr import LayerAttribution
from torch import Tensor
from torch.nn import Module
from torch.utils.data import TensorDataset

import captum_sgcampp
from captum_sgcampp.closures import modules_of
from captum_sgcampp.dataset.batch_maps import BatchMaps
from captum_sgcampp.dataset.fingerprint import (
    fingerprint,
    fingerprint_of_parts,
    fingerprint_of_tensors,
    name_of,
    text_of,
)
from captum_sgcampp.dataset.images import origin
from captum_sgcampp.layers import unwrap

_DESCRIBED_ELSEWHERE = {"self", "forward_func", "model", "layer", "device_ids"}
_WITHOUT_INFLUENCE = {"self", "inputs", "target", "generator", "n_samples_batch_size", "show_progress"}


def run_settings(maps: BatchMaps, dataset: Any) -> dict[str, Any]:
    """Describes what the maps depend on, in values that JSON has.

    Args:
        maps: Computes the maps.
        dataset: The dataset, of which only the type and the transforms are described.

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


def _described_dataset(dataset: Any) -> dict[str, Any]:
    """A dataset by its class, its transforms and, as it has no files that tell whether they changed, its tensors."""
    transforms = getattr(dataset, "transforms", None) or getattr(dataset, "transform", None)
    return {
        "type": name_of(type(dataset)),
        "code": fingerprint(type(dataset)),
        "transform": _described(transforms),
        "data": [fingerprint_of_tensors({"": tensor}) for tensor in dataset.tensors]
        if isinstance(dataset, TensorDataset)
        else [],
    }


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
