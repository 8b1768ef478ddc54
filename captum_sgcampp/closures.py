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

_MOST_OBJECTS = 1_000
"""How many objects are looked at; more cost time, and functions that reach further are rather programs."""
_DEEPEST = 12
"""How many steps away from the function they may be."""
_OF_EVERY_MODULE = frozenset(vars(Module()))
_LIBRARIES = frozenset({"torch", "numpy", "captum"}) | sys.stdlib_module_names
"""Where functions have no models of their own."""
_INSTALLED = "site-packages"
"""A part of the path of installed packages, whose functions are not searched for global names: that would take long."""
_WITHOUT_PARTS = (str, bytes, int, float, complex, bool, type(None), Tensor, CodeType)


def modules_of(forward_func: Callable[..., Any]) -> list[Module]:
    """Finds the modules that a model or function may call, as far as they can be seen.

    That is the model itself; of a function, what its closure, its defaults, the global names in its code, its
    `functools.partial`, its `self` and the attributes of an object that is called lead to, also within containers and
    through other functions. Nothing is called, not even a property. What only running it would show is not found, such
    as the result of another call, nor what an installed package has in its global names. Modules may be among them that
    do not run.

    Args:
        forward_func: The model, or a function.

    Returns:
        The outermost modules, in the order in which they are found; the others are within these.

    Example::

        >>> import torch
        >>> from captum_sgcampp.closures import modules_of
        >>> model = torch.nn.Sequential(torch.nn.ReLU())
        >>> modules_of(lambda x: model(x).mean()) == modules_of(model) == [model]
        True
    """
    found: dict[int, list[Module]] = {}  # with what is within them
    seen: dict[int, Any] = {}  # the objects themselves, so that no identity is used twice
    pending: deque[tuple[Any, int]] = deque([(forward_func, 0)])
    while pending and len(seen) < _MOST_OBJECTS:
        current, depth = pending.popleft()
        if id(current) in seen or issubclass(type(current), _WITHOUT_PARTS):
            continue
        seen[id(current)] = current
        with suppress(Exception):  # whatever odd object it is
            if issubclass(type(current), Module):  # isinstance would ask the object, which may answer anything
                found[id(current)] = list(current.modules())
                parts: Iterable[Any] = _unregistered(found[id(current)])
            else:
                parts = _parts(current)
            if depth < _DEEPEST:
                pending.extend((part, depth + 1) for part in islice(parts, _MOST_OBJECTS))
    within = {id(part) for _, *others in found.values() for part in others}
    return [module for module, *_ in found.values() if id(module) not in within]


def _parts(value: Any) -> Iterable[Any]:
    """What an object leads to."""
    return next(parts for kinds, parts in _PARTS if issubclass(type(value), kinds))(value)


def _builtin(value: Any) -> Any:
    """The built-in type of a container, whose methods are no code of the user."""
    return next(kind for kind in type(value).__mro__ if kind.__module__ in {"builtins", "collections"})


def _unregistered(modules: Iterable[Module]) -> Iterator[Any]:
    """The modules that modules keep where torch does not look, such as in a list."""
    for module in modules:
        if not type(module).__module__.startswith("torch.nn."):
            for name, value in vars(module).items():
                if type(value) in {list, tuple, dict} and name not in _OF_EVERY_MODULE:
                    values = value.values() if isinstance(value, dict) else value
                    yield from (part for part in islice(values, 100) if issubclass(type(part), Module))


def _of_function(function: FunctionType) -> Iterator[Any]:
    """What a function's code can reach by name, and what it has been given."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # which has no value yet
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()  # such as __wrapped__
    space = function.__globals__
    if str(space.get("__name__")).partition(".")[0] in _LIBRARIES or _INSTALLED in function.__code__.co_filename:
        return
    names = dict.fromkeys(_names_in(function.__code__))
    for name in names:
        if name in space:
            yield from _named(space[name], names)
        elif name in sys.modules:  # which the function imports itself
            yield from _named(sys.modules[name], names)


def _names_in(code: CodeType) -> Iterator[str]:
    """All names in a function's code, and in that of the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _named(value: Any, names: Iterable[str]) -> Iterator[Any]:
    """A global, or if it is a Python module or a class, what the code names of it."""
    pending, seen = [value], set[int]()
    while pending:
        current = pending.pop()
        if not isinstance(current, (ModuleType, type)):
            yield current
        elif id(current) not in seen and not _in_library(current):
            seen.add(id(current))
            scopes = current.__mro__ if isinstance(current, type) else (current,)
            pending += [vars(scope)[name] for scope in scopes for name in names if name in vars(scope)]


def _of_method(method: MethodType) -> Iterator[Any]:
    """The object that a method belongs to and the method itself; of a class, what the method names of it."""
    yield from (method.__self__, method.__func__)
    if isinstance(method.__self__, type) and isinstance(method.__func__, FunctionType):
        yield from _named(method.__self__, dict.fromkeys(_names_in(method.__func__.__code__)))


def _in_library(value: ModuleType | type) -> bool:
    """Whether a Python module or a class belongs to a library that has no models of the user."""
    name: str = value.__module__ if isinstance(value, type) else value.__name__
    return name.partition(".")[0] in _LIBRARIES


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
    for kind in kinds:
        for member in vars(kind).values():
            if isinstance(member, property):
                yield from (member.fget, member.fset)
            elif issubclass(type(member), (FunctionType, staticmethod, classmethod, Module)):
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
