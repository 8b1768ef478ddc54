"""What the maps of a run depend on, and how two runs differ."""

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from captum.attr import LayerAttribution
from torch import Tensor
from torch.nn import Module
from torch.utils.data import TensorDataset

import captum_sgcampp
from captum_sgcampp.dataset.batch_maps import BatchMaps
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
    dataset, _ = origin(dataset, 0)
    transforms = getattr(dataset, "transforms", None) or getattr(dataset, "transform", None)
    return {
        "method": {"name": _name_of(type(method)), **_parameters_of(method)},
        "model": _described_model(method.forward_func, maps.layers),
        "layer": maps.layer_names,
        "target": _described(maps.targets.kind),
        "arguments": {
            name: _described(value) for name, value in arguments.arguments.items() if name not in _WITHOUT_INFLUENCE
        },
        "seed": maps.seed,
        "device": maps.device.type,  # another has other random numbers
        "dataset": {"type": _name_of(type(dataset)), "transform": _described(transforms), "data": _data_of(dataset)},
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


def _described_model(forward_func: Any, layers: list[Module]) -> dict[str, Any]:
    """A model by its structure and weights; of another function, what can be seen: its name and the layers."""
    is_module = isinstance(forward_func, Module)
    model = unwrap(forward_func)[-1] if is_module else torch.nn.ModuleList([*layers, *_modules_of(forward_func)])
    structure = "\n".join(
        f"{name}: {_name_of(type(part))} {_text(part.extra_repr())}" for name, part in model.named_modules()
    )
    code = getattr(inspect.unwrap(forward_func), "__code__", None) if not is_module else None
    return {
        "name": _name_of(type(model)) if is_module else _described(forward_func),
        "code": hashlib.sha256(code.co_code).hexdigest() if code else None,
        "structure": hashlib.sha256(structure.encode()).hexdigest(),
        "weights": _digest({**dict(model.named_buffers()), **model.state_dict()}),
        "training": [name for name, part in model.named_modules() if part.training],
    }


def _data_of(dataset: Any) -> list[str]:
    """The tensors of a TensorDataset, whose images have no files that tell whether they have changed."""
    return [_digest({"": tensor}) for tensor in dataset.tensors] if isinstance(dataset, TensorDataset) else []


def _modules_of(function: Any) -> list[Module]:
    """The modules that a function calls, as far as they can be seen: those of its closure, `self`, or a `partial`."""
    function, bound = inspect.unwrap(function), [getattr(function, "__self__", None)]
    if isinstance(function, partial):
        return [*_modules_of(function.func), *(one for one in function.args if isinstance(one, Module))]
    if inspect.isfunction(function):
        variables = inspect.getclosurevars(function)
        bound += [*variables.nonlocals.values(), *variables.globals.values()]
    return [one for one in bound if isinstance(one, Module)]


def _digest(tensors: Mapping[str, Any]) -> str:
    """A hash of tensors, whatever their device and memory format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            values = tensor.detach().cpu()
            values = values.to_dense() if values.layout != torch.strided else values
            digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _described(value: Any) -> Any:
    """A value in terms of JSON: functions and modules by their names, tensors by a hash, others by their text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, range)):
        return [_described(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _described(one) for key, one in value.items()}
    if isinstance(value, Tensor):
        return f"tensor {_digest({'': value})}"
    if isinstance(value, Module):
        return _name_of(type(value)) + f" {_digest(value.state_dict())}" if value.state_dict() else _text(value)
    return _name_of(value) if hasattr(value, "__qualname__") else _text(value)


def _name_of(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _text(value: object) -> str:
    """The text of an object, without the addresses that change from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


def _shortened(value: Any) -> str:
    text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", repr(value))
    return text if len(text) <= 200 else f"{text[:200]}..."
