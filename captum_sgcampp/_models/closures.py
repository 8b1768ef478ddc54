"""Finds the modules that a function may call, without running anything."""

import functools
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from itertools import islice
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_sgcampp._models.bytecode import codes_of, global_names_of, is_installed
from captum_sgcampp._torch import FORWARD_HOOKS

_MOST_OBJECTS = 1_000
"""How many objects are looked into; more cost time, and functions that reach further are rather programs."""
_LONGEST = 10_000
"""How much of a container is looked at."""
_DEEPEST = 12
"""How many steps away from the function they may be."""
_OF_EVERY_MODULE = frozenset(vars(Module()))
_LIBRARIES = frozenset({"torch", "numpy", "captum"}) | sys.stdlib_module_names
"""Where functions have no models of their own."""
_CONTAINERS = frozenset({list, tuple, dict})
_CALLED = (Module, FunctionType, MethodType, functools.partial)
_KEPT_IN_CLASSES = (Module, FunctionType, staticmethod, classmethod, functools.partial, list, tuple, dict)
_WITHOUT_PARTS = (str, bytes, int, float, complex, bool, type(None), Tensor, CodeType)


def modules_of(forward_func: Callable[..., Any]) -> list[Module]:
    """Finds the modules that a model or function may call, as far as they can be seen.

    That is the model itself; of a function, what its closure, its defaults, the global names in its code, its
    `functools.partial`, its `self` and the attributes of an object that is called lead to, also within containers and
    through other functions. Modules of the user's own classes are such objects too; of those of installed packages,
    only functions and modules that they were given, and their hooks, are looked at. Nothing is called, not even a
    property. What only running it would show is not found, such as the result of another call, nor what an installed
    package has in its global names. Some of the modules found may not run.

    Args:
        forward_func: The model, or a function.

    Returns:
        The outermost modules, in the order in which they are found; the others are within these.

    Example::

        >>> import torch
        >>> from captum_sgcampp._models.closures import modules_of
        >>> model = torch.nn.Sequential(torch.nn.ReLU())
        >>> modules_of(lambda x: model(x).mean()) == modules_of(model) == [model]
        True
    """
    found: dict[int, list[Module]] = {}  # with what is within them
    known = set[int]()  # the modules found, and those within them
    seen: dict[int, Any] = {}  # the objects themselves, so that no identity is used twice
    turns: deque[tuple[Iterator[Any], int]] = deque([(iter((forward_func,)), 0)])
    while turns and len(seen) < _MOST_OBJECTS:
        parts, depth = turns.popleft()
        with suppress(Exception):  # whatever odd object it is
            current = next(parts)
            turns.append((parts, depth))  # one part of each at a time, so that nothing waits behind a long list
            if id(current) in seen or id(current) in known:
                continue
            seen[id(current)] = current
            if issubclass(type(current), Module):  # isinstance would ask the object, which may answer anything
                found[id(current)] = list(current.modules())
                new = [module for module in found[id(current)] if id(module) not in known]
                known.update(map(id, new))
                further: Iterable[Any] = _of_modules(new)
            else:
                further = _parts(current)
            if depth < _DEEPEST:
                turns.append((filter(_has_parts, islice(further, _LONGEST)), depth + 1))
    within = {id(part) for _, *others in found.values() for part in others}
    return [module for module, *_ in found.values() if id(module) not in within]


def _has_parts(value: Any) -> bool:
    """Whether an object can lead to others."""
    return not issubclass(type(value), _WITHOUT_PARTS)


def _parts(value: Any) -> Iterable[Any]:
    """What an object leads to."""
    return next(parts for kinds, parts in _PARTS if issubclass(type(value), kinds))(value)


def _builtin(value: Any) -> Any:
    """The built-in type of a container, whose methods are no code of the user."""
    return next(kind for kind in type(value).__mro__ if kind.__module__ in {"builtins", "collections"})


def _of_modules(modules: Iterable[Module]) -> Iterator[Any]:
    """What modules call beside those that they register: what their hooks, attributes and functions lead to."""
    kinds: dict[type, None] = {}  # in order
    for module in modules:
        kind, attributes = type(module), vars(module)
        kinds[kind] = None
        for hooks in FORWARD_HOOKS:
            if attributes[hooks]:
                yield from attributes[hooks].values()
        if not kind.__module__.startswith("torch.nn."):
            yield from _of_attributes(attributes, only_called=_is_installed(kind.__module__))
        elif "forward" in attributes:  # torch's own modules call nothing else that they were given
            yield attributes["forward"]
    bases = dict.fromkeys(base for kind in kinds for base in kind.__mro__)
    yield from _of_classes(base for base in bases if not _is_installed(base.__module__))


def _of_attributes(attributes: dict[str, Any], *, only_called: bool) -> Iterator[Any]:
    """The attributes of a module and what is in their containers, or only the modules and functions among these."""
    wanted: Any = _CALLED if only_called else object
    for value in [attributes[name] for name in attributes if name not in _OF_EVERY_MODULE]:
        values = value.values() if type(value) is dict else value if type(value) in _CONTAINERS else (value,)
        yield from (part for part in islice(values, 100) if issubclass(type(part), wanted))


def _of_function(function: FunctionType) -> Iterator[Any]:
    """What a function's code can reach by name, and what it has been given."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # which has no value yet
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()  # such as __wrapped__
    space = function.__globals__
    if str(space.get("__name__")).partition(".")[0] in _LIBRARIES or is_installed(function.__code__.co_filename):
        return  # to search installed packages would take long
    names = dict.fromkeys(_names_in(function.__code__))
    candidates = [name for name in names if name in space and _may_lead_on(space[name])]
    if candidates:
        read = _global_names_in(function.__code__)
        for name in candidates:
            if name in read:
                yield from _named(space[name], names)
    for name in names:
        if name not in space and name in sys.modules:  # which the function imports itself
            yield from _named(sys.modules[name], names)


def _names_in(code: CodeType) -> Iterator[str]:
    """All names in a function's code: of globals, attributes and Python modules."""
    return (name for part in codes_of(code) for name in part.co_names)


_global_names_in = functools.lru_cache(maxsize=_MOST_OBJECTS)(global_names_of)
"""Remembers, because to read code takes longer than all else."""


def _named(value: Any, names: Iterable[str]) -> Iterator[Any]:
    """A global, or if it is a Python module or a class, what the code names of it, or calls of its instances."""
    pending, seen = [value], set[int]()
    while pending:
        current = pending.pop()
        if not issubclass(type(current), (ModuleType, type)):  # isinstance would ask the object
            yield current
        elif id(current) not in seen and not _in_library(current):
            seen.add(id(current))
            scopes: tuple[Any, ...] = current.__mro__ if isinstance(current, type) else (current,)
            pending += [vars(scope)[name] for scope in scopes for name in names if name in vars(scope)]
            if isinstance(current, type) and any("__call__" in vars(scope) for scope in scopes):  # as a Module's
                yield from _of_classes(scope for scope in scopes if not _is_installed(scope.__module__))


def _of_method(method: MethodType) -> Iterator[Any]:
    """The object that a method belongs to and the method itself; of a class, what the method names of it."""
    yield from (method.__self__, method.__func__)
    if isinstance(method.__self__, type) and isinstance(method.__func__, FunctionType):
        yield from _named(method.__self__, dict.fromkeys(_names_in(method.__func__.__code__)))


def _in_library(value: ModuleType | type) -> bool:
    """Whether a Python module or a class belongs to a library that has no models of the user."""
    name: str = value.__module__ if isinstance(value, type) else value.__name__
    return name.partition(".")[0] in _LIBRARIES


def _may_lead_on(value: Any) -> bool:
    """Whether a global can lead to the user's models."""
    return _has_parts(value) and not (issubclass(type(value), (ModuleType, type)) and _in_library(value))


@functools.lru_cache(maxsize=_MOST_OBJECTS)
def _is_installed(module: str) -> bool:
    """Whether a Python module, by name, is of an installed package."""
    file = getattr(sys.modules.get(module), "__file__", None)  # None in a notebook
    return module.partition(".")[0] in _LIBRARIES or is_installed(str(file))


def _of_instance(value: Any) -> Iterator[Any]:
    """The attributes of an object, and the methods that may use others."""
    kinds = [kind for kind in type(value).__mro__ if not _in_library(kind)]
    for kind in kinds:
        for member in vars(kind).values():
            if isinstance(member, MemberDescriptorType):  # of __slots__
                with suppress(AttributeError):
                    yield member.__get__(value)
    with suppress(AttributeError):
        yield from object.__getattribute__(value, "__dict__").values()
    yield from _of_classes(kinds)


def _of_classes(kinds: Iterable[type]) -> Iterator[Any]:
    """The functions of classes, and what else is kept in them."""
    for kind in kinds:
        for member in vars(kind).values():
            if isinstance(member, property):
                yield from (member.fget, member.fset)
            elif issubclass(type(member), _KEPT_IN_CLASSES):
                yield member


_PARTS: list[tuple[Any, Callable[[Any], Iterable[Any]]]] = [
    (FunctionType, _of_function),
    (MethodType, _of_method),
    ((BuiltinMethodType, MethodWrapperType), lambda method: (method.__self__,)),
    ((staticmethod, classmethod), lambda method: (method.__func__,)),
    (functools.partial, lambda partial: (partial.func, *partial.args, *partial.keywords.values())),
    ((list, tuple, set, frozenset, deque), lambda values: _builtin(values).__iter__(values)),
    ((dict, MappingProxyType), lambda values: _builtin(values).values(values)),
    (ContextVar, lambda variable: (variable.get(),)),
    (threading.local, lambda own: threading.local.__getattribute__(own, "__dict__").values()),
    (weakref.ref, lambda reference: (weakref.ref.__call__(reference),)),
    ((ModuleType, type), lambda _: ()),  # they have too much, and functions name what they use of it
    (object, _of_instance),
]
"""How to get at the parts of each kind of object."""
