"""Fingerprints of functions, objects and modules: the same for what computes the same, in every process.

A function is known by what decides what it computes: its instructions with their names and constants, its defaults, and
the values of its closure and of the globals that it names. Not by its name or place, so that it may move.

Code of installed packages is taken as it is: their classes count by their names, and what their functions find among
their globals does not count. Bytecode differs between versions of Python, and so do the fingerprints.
"""

import copyreg
import dis
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

import captum_sgcampp
from captum_sgcampp._models.bytecode import global_names_of, instructions_of
from captum_sgcampp._torch import uncompiled_function
from captum_sgcampp.dataset.module_settings import PLAIN, compiled_graph, settings_of
from captum_sgcampp.dataset.own_code import imported_by, is_own, named_in
from captum_sgcampp.dataset.results import function_of, is_attribute, results_of, without_results
from captum_sgcampp.layers import unwrap

MAX_DEPTH = 50
"""How many values within one another are looked at."""
_WITHOUT_INFLUENCE = ("random.", "numpy.random.", f"{torch.Generator.__module__}.Generator", "tqdm.", "logging.")
"""What objects are called whose state changes with every use, and whether it decides nothing or cannot be compared."""


def fingerprint(value: object) -> str:
    """The fingerprint of any value, in 64 hexadecimal digits. What cannot be looked into counts by its type."""
    return _hashed(_Description().of(value))


def fingerprint_of_parts(model: Module) -> str:
    """The fingerprint of what the state dict of a model does not tell: the code of its classes, and their settings."""
    return _hashed(_Description().of_parts(model))


def fingerprint_of_tensors(tensors: Mapping[str, Any]) -> str:
    """A hash of tensors, whatever their device and memory format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if not isinstance(tensor, Tensor):
            digest.update(f"{name} {fingerprint(tensor)}\n".encode())
            continue
        try:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            values = tensor.detach().cpu()
            values = values.dequantize() if values.is_quantized else values
            values = values.to_dense() if values.layout != torch.strided else values
            values = values.resolve_conj().resolve_neg().contiguous()
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
        except (NotImplementedError, RuntimeError, ValueError):  # without values, as of meta tensors and lazy layers
            digest.update(f"{name} {name_of(type(tensor))}\n".encode())
    return digest.hexdigest()


def name_of(value: Any) -> str:
    """The module and name of a function or a class; what this package exports has the name that it exports it by."""
    module, name = value.__module__, value.__qualname__
    is_exported = name in captum_sgcampp.__all__ and getattr(captum_sgcampp, name) is value
    return f"{captum_sgcampp.__name__ if is_exported else module}.{name}"


def text_of(value: object) -> str:
    """The text of an object, without the addresses that change from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


class _Description:
    """Describes values in text. Each function, class or object is described once, and then by its number."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, object]] = {}
        self._depth = 0

    def of(self, value: Any) -> str:
        """Describes a value."""
        if self._depth > MAX_DEPTH:
            return name_of(type(value))
        self._depth += 1
        try:
            return self._described(value)
        except Exception:  # whatever an object does when it is looked into
            return name_of(type(value))
        finally:
            self._depth -= 1

    def of_parts(self, model: Module) -> str:
        """Describes the classes and settings of a model's parts."""
        return self._list(
            f"{name}: {self._class(type(part))} {self._items(settings_of(part))}"
            for name, part in model.named_modules()
        )

    def _described(self, value: Any) -> str:
        simple: list[tuple[Any, Callable[[Any], str]]] = [
            (PLAIN, repr),
            (CodeType, self._code),
            (tuple, self._sequence),
            ((set, frozenset), lambda values: self._list(sorted(_Description().of(one) for one in values))),
            (Tensor, lambda tensor: fingerprint_of_tensors({"": tensor})),
        ]
        for kinds, describe in simple:
            if isinstance(value, kinds):
                return f"{type(value).__name__} {describe(value)}"
        if type(value) in {np.ndarray, np.memmap} and not value.dtype.hasobject:
            return f"{value.dtype.str} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        if id(value) in self._seen:
            return f"seen {self._seen[id(value)][0]}"
        self._seen[id(value)] = len(self._seen), value  # kept, so that no other object gets its id
        return _hashed(self._new(value))

    def _new(self, value: Any) -> str:
        """Describes what may contain itself."""
        value = uncompiled_function(value)
        containers: list[tuple[Any, Callable[[Any], str]]] = [
            (list, self._sequence),
            ((dict, MappingProxyType), self._in_order),
            (type, self._class),
            (Module, self._module),
            (ModuleType, lambda module: module.__name__),
            (functools.partial, lambda partial: self._sequence((partial.func, partial.args, partial.keywords))),
            (FunctionType, self._function),
            (MethodType, lambda method: self._sequence((method.__func__, method.__self__))),
            (BuiltinFunctionType, lambda builtin: f"{name_of(builtin)} {self.of(builtin.__self__)}"),
            (torch.jit.ScriptFunction, lambda function: self._items(compiled_graph(function))),
        ]
        for kinds, describe in containers:
            if isinstance(value, kinds):
                return f"{name_of(type(value))} {describe(value)}"
        return f"{name_of(type(value))} {self._object(value)}"

    def _function(self, function: FunctionType) -> str:
        code = function.__code__
        instructions = list(instructions_of(code))
        results, globals_read = results_of(code), global_names_of(code)
        closure = {
            name: cell
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            if name not in results
        }
        known = {
            name: value
            for name, value in function.__globals__.items()
            if name in globals_read - results and is_own(function.__module__)
        }
        # What a function calls as an attribute of the user's own modules, as in `helpers.scale(x)`, or imports.
        attributes = {one.argval for one in instructions if is_attribute(one) or one.opname == "IMPORT_FROM"}
        modules = [*known.values(), *imported_by(function, instructions)] if is_own(function.__module__) else []
        within = named_in(modules, attributes)
        settings = {name: value for name, value in vars(function).items() if name != "__wrapped__"}
        return self._list(
            [
                self._code(code),
                self.of(function.__defaults__),
                self.of(function.__kwdefaults__),
                self._items({name: _content(cell) for name, cell in closure.items()}),
                self._items(known),
                self._items(within),
                self._items(settings),
            ]
        )

    def _code(self, code: CodeType) -> str:
        signature = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_freevars, code.co_cellvars, getattr(code, "co_exceptiontable", b""))
        instructions = (f"{one.opname} {self.of(one.argval)}" for one in dis.get_instructions(code))
        return f"{signature} {names} {self._list(instructions)}"

    def _class(self, kind: type) -> str:
        """The name of a class, and its code if that is the user's own or has been replaced by it."""
        own: dict[str, Any] = {}
        for base in kind.__mro__:
            for name, value in vars(base).items():
                function = function_of(value)
                if function is not None:
                    is_described = is_own(function.__module__)
                else:
                    is_described = is_own(base.__module__) and not name.startswith("__")
                if is_described:
                    own.setdefault(name, function or value)
        return f"{name_of(kind)} {self._items(own)}"

    def _module(self, module: Module) -> str:
        model = unwrap(module)[-1]
        structure = [f"{name}: {part.extra_repr()} {part.training}" for name, part in model.named_modules()]
        weights = fingerprint_of_tensors({**dict(model.named_buffers()), **model.state_dict()})
        return f"{self._list(structure)} {self.of_parts(model)} {weights}"

    def _object(self, value: Any) -> str:
        """Describes an object as pickle sees it; an operator of a package by its name, and a wrapper by its content."""
        kind = type(value)
        if name_of(kind).startswith(_WITHOUT_INFLUENCE):
            return ""
        if hasattr(value, "__wrapped__"):  # as of functools.lru_cache
            return self.of(value.__wrapped__)
        if callable(value) and hasattr(value, "__name__") and not is_own(kind.__module__):
            return f"{value.__name__} {text_of(value)}"
        registered = copyreg.dispatch_table.get(kind)  # as of patterns
        reduced: Any = registered(value) if registered else value.__reduce_ex__(2)
        if isinstance(reduced, str):
            return reduced
        function, args, state, items, pairs = (*reduced, None, None, None)[:5]
        if isinstance(state, dict) or state is None:  # as where there is nothing in it yet
            state = self._items(without_results(kind, state or {}))
        return self._sequence((kind, function, args, state, list(items or ()), list(pairs or ())))

    def _sequence(self, values: Iterable[Any]) -> str:
        return self._list(map(self.of, values))

    def _in_order(self, values: Mapping[Any, Any]) -> str:
        return self._list(f"{self.of(key)}: {self.of(value)}" for key, value in values.items())

    def _items(self, values: Mapping[Any, Any]) -> str:
        keys = sorted(((self.of(key), key) for key in values), key=lambda pair: pair[0])
        return self._list(f"{text}: {self.of(values[key])}" for text, key in keys)

    def _list(self, texts: Iterable[str]) -> str:
        return "[" + ", ".join(texts) + "]"


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
