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
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._models.bytecode import global_names_of, instructions_of, is_installed
from captum_sgcampp.layers import unwrap

MAX_DEPTH = 50
"""How many values within one another are looked at."""
_WITH_VERSIONS = {"captum", "captum_sgcampp", "torch"}
"""Packages whose versions a run knows, however they are installed."""
_WITHOUT_INFLUENCE = ("random.", "numpy.random.", "torch._C.Generator", "tqdm.", "logging.")
"""What objects are called whose state changes with every use, and whether it decides nothing or cannot be compared."""
_LOADS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CONST", "DELETE_")
"""What the instructions that use a variable or an attribute begin with."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
"""Where modules have the functions that may change what goes in or comes out."""
_OF_EVERY_MODULE = {*vars(Module()), *vars(Module), "_is_torch_compile"} - {"forward"}


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


def attributes_of(value: object) -> dict[str, Any]:
    """The attributes of an object that are neither results nor caches."""
    kind, attributes = type(value), getattr(value, "__dict__", {})
    assigned = _assigned_in_calls(kind)
    return {name: one for name, one in attributes.items() if not _is_cache(kind, name, assigned)}


def is_own(module: str | None) -> bool:
    """Whether code of this module is the user's own, and not that of Python or of an installed package."""
    package = (module or "").partition(".")[0]
    if package in _WITH_VERSIONS or package in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return not file or not is_installed(file)


def name_of(value: Any) -> str:
    """The module and name of a function or a class."""
    return f"{value.__module__}.{value.__qualname__}"


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
            f"{name}: {self._class(type(part))} {self._items(_settings_of(part))}"
            for name, part in model.named_modules()
        )

    def _described(self, value: Any) -> str:
        simple: list[tuple[Any, Callable[[Any], str]]] = [
            (_PLAIN, repr),
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
        value = getattr(value, "_torchdynamo_orig_callable", value)
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
            (torch.jit.ScriptFunction, lambda function: self._items(_compiled(function))),
        ]
        for kinds, describe in containers:
            if isinstance(value, kinds):
                return f"{name_of(type(value))} {describe(value)}"
        return f"{name_of(type(value))} {self._object(value)}"

    def _function(self, function: FunctionType) -> str:
        code = function.__code__
        instructions = list(instructions_of(code))
        results, globals_read = _results(code), global_names_of(code)
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
        # What a function calls as an attribute of a module of one's own, as in `helpers.scale(x)`, or imports from it.
        attributes = {one.argval for one in instructions if _is_attribute(one) or one.opname == "IMPORT_FROM"}
        modules = [*known.values(), *_imported(function, instructions)] if is_own(function.__module__) else []
        within = _of_modules(modules, attributes)
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
                function = _function_of(value)
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
            assigned = _assigned_in_calls(kind)
            state = self._items(
                {name: one for name, one in (state or {}).items() if not _is_cache(kind, name, assigned)}
            )
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


def _imported(function: FunctionType, instructions: Iterable[dis.Instruction]) -> Iterator[Any]:
    """The modules of one's own that a function imports when it is called; they are imported now."""
    package = str(function.__globals__.get("__package__") or "")
    level, name = 0, ""
    for one in instructions:
        with suppress(Exception):  # which the function may expect
            if one.opname in {"LOAD_CONST", "LOAD_SMALL_INT"} and isinstance(one.argval, int):
                level = one.argval  # how many packages further up, of the import that follows
            elif one.opname == "IMPORT_NAME":
                name = importlib.util.resolve_name("." * level + one.argval, package)
                if _is_of_user(name):
                    yield importlib.import_module(name)
                    yield sys.modules[name.partition(".")[0]]
            elif one.opname == "IMPORT_FROM" and _is_of_user(name) and not hasattr(sys.modules[name], one.argval):
                importlib.import_module(f"{name}.{one.argval}")


def _is_of_user(name: str) -> bool:
    """Whether a module that may not be imported yet is the user's own."""
    package = name.partition(".")[0]
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    return is_own(name) and not is_installed(str(spec.origin if spec else ""))


def _of_modules(modules: Iterable[Any], attributes: set[str]) -> dict[str, Any]:
    """What modules of one's own have under some names, and so the modules within them."""
    found: dict[str, Any] = {}
    pending, seen = list(modules), set[int]()
    while pending:
        module = pending.pop()
        if isinstance(module, ModuleType) and is_own(module.__name__) and id(module) not in seen:
            seen.add(id(module))
            own = {name: value for name, value in vars(module).items() if name in attributes}
            found |= {f"{module.__name__}.{name}": value for name, value in own.items()}
            pending += own.values()
    return found


def _results(code: CodeType) -> set[str]:
    """The variables beyond its own that code only assigns to or counts up, and never uses otherwise."""
    instructions = list(instructions_of(code))
    assigned = {one.argval for one in instructions if one.opname in {"STORE_GLOBAL", "STORE_DEREF"}}
    return assigned - _used(instructions, "STORE_GLOBAL", "STORE_DEREF")


def _used(instructions: list[dis.Instruction], *stores: str) -> set[str]:
    """The names that code uses, other than to count them up, as `counter += 1` does; also as text, for `getattr`."""
    loads: Counter[str] = Counter()
    for number, one in enumerate(instructions):
        if one.opname in stores and _counts_up(instructions, number):
            loads[one.argval] -= 1
        elif one.opname.startswith(_LOADS) and isinstance(one.argval, str):
            loads[one.argval] += 1
    return {name for name, times in loads.items() if times > 0}


def _counts_up(instructions: list[dis.Instruction], number: int) -> bool:
    """Whether an instruction stores what the one before has changed in place."""
    before = next(one for one in reversed(instructions[:number]) if one.opname not in {"SWAP", "ROT_TWO"})
    return before.opname.startswith("INPLACE_") or (before.opname == "BINARY_OP" and str(before.argrepr)[-1:] == "=")


def _assigned_in_calls(kind: type) -> frozenset[str]:
    """The attributes that a class assigns to in calls of its objects and never uses: results, such as a counter."""
    methods = (
        (name, function.__code__)
        for base in kind.__mro__
        if base not in {Module, object}
        for name, value in vars(base).items()
        if (function := _function_of(value))
    )
    return _assigned_in_calls_of(tuple(methods))


@functools.lru_cache(maxsize=1024)  # a model has many modules, and few classes
def _assigned_in_calls_of(methods: tuple[tuple[str, CodeType], ...]) -> frozenset[str]:
    functions = [(name, list(instructions_of(code))) for name, code in methods]
    called = {name for name, _ in functions if name.startswith("forward") or name in {"__call__", "__getitem__"}}
    reached: set[str] = set()
    while called - reached:  # with the methods that these call
        reached |= called
        called = {one.argval for name, code in functions if name in reached for one in code if _is_attribute(one)}
        called &= {name for name, _ in functions}
    assigned = {one.argval for name, code in functions if name in reached for one in code if one.opname == "STORE_ATTR"}
    return frozenset(assigned).difference(*(_used(code, "STORE_ATTR") for _, code in functions))


def _is_attribute(instruction: dis.Instruction) -> bool:
    return instruction.opname.startswith(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER"))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _function_of(value: object) -> FunctionType | None:
    """The function behind an attribute of a class."""
    value = value.fget if isinstance(value, property) else value
    value = value.func if isinstance(value, functools.cached_property) else value
    value = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    return value if isinstance(value, FunctionType) else None


def _settings_of(module: Module) -> dict[str, Any]:
    """What decides what a module computes and is neither in its state dict nor a result or a cache of its passes."""
    kind, compiled = type(module), _compiled(module)
    assigned = _assigned_in_calls(kind)
    settings = {
        name: value
        for name, value in vars(module).items()
        if name not in _OF_EVERY_MODULE
        and not _is_cache(kind, name, assigned)
        and (not compiled or isinstance(value, (Tensor, *_PLAIN)))  # the others are torch's own
    }
    hooks = {name: hooks for name in _HOOKS if (hooks := list(vars(module).get(name, {}).values()))}
    return {**settings, **compiled, **hooks}


def _is_cache(kind: type, name: str, assigned: frozenset[str]) -> bool:
    """Whether an attribute is surely a result or a cache. What only may be one counts, lest a map be silently wrong."""
    is_cached = isinstance(getattr(kind, name, None), functools.cached_property)
    return is_cached or name in assigned or name.strip("_").endswith("cache")


def _compiled(value: Any) -> dict[str, Any]:
    """The graph and the constants of what torch has scripted, traced or exported."""
    graph = getattr(value, "graph", None)
    if isinstance(graph, torch.fx.Graph):
        return {"graph": str(graph)}
    if isinstance(value, (torch.jit.ScriptModule, torch.jit.ScriptFunction)) and graph is not None:
        _, constants = getattr(value, "code_with_constants", (None, None))
        text = re.sub(r"\.___torch_mangle_\d+", "", graph.str(False))  # without places, and the number of the copy
        return {"graph": text, "constants": getattr(constants, "const_mapping", None)}
    return {}
