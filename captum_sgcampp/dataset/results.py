"""What of an object or a function is a result or a cache: it does not decide what comes next."""

import dis
import functools
from collections import Counter
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any

from torch.nn import Module

from captum_sgcampp._models.bytecode import instructions_of

_LOADS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CONST", "DELETE_")
"""What the instructions that use a variable or an attribute begin with."""


def attributes_of(value: object) -> dict[str, Any]:
    """The attributes of an object that are neither results nor caches."""
    return without_results(type(value), getattr(value, "__dict__", {}))


def without_results(kind: type, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what is surely a result or a cache. What only may be one counts, lest a map be silently wrong.

    Args:
        kind: The class of the object.
        attributes: Its attributes.
    """
    assigned = _assigned_in_calls(kind)
    return {
        name: value
        for name, value in attributes.items()
        if name not in assigned
        and not name.strip("_").endswith("cache")
        and not isinstance(getattr(kind, name, None), functools.cached_property)
    }


def results_of(code: CodeType) -> set[str]:
    """The variables beyond its own that code only assigns to or counts up, and never uses otherwise."""
    instructions = list(instructions_of(code))
    assigned = {one.argval for one in instructions if one.opname in {"STORE_GLOBAL", "STORE_DEREF"}}
    return assigned - _used(instructions, "STORE_GLOBAL", "STORE_DEREF")


def _assigned_in_calls(kind: type) -> frozenset[str]:
    """The attributes that a class assigns to in calls of its objects and never uses: results, such as a counter."""
    methods = (
        (name, function.__code__)
        for base in kind.__mro__
        if base not in {Module, object}
        for name, value in vars(base).items()
        if (function := function_of(value))
    )
    return _assigned_in_calls_of(tuple(methods))


@functools.lru_cache(maxsize=1024)  # a model has many modules, and few classes
def _assigned_in_calls_of(methods: tuple[tuple[str, CodeType], ...]) -> frozenset[str]:
    functions = [(name, list(instructions_of(code))) for name, code in methods]
    called = {name for name, _ in functions if name.startswith("forward") or name in {"__call__", "__getitem__"}}
    reached: set[str] = set()
    while called - reached:  # with the methods that these call
        reached |= called
        called = {one.argval for name, code in functions if name in reached for one in code if is_attribute(one)}
        called &= {name for name, _ in functions}
    assigned = {one.argval for name, code in functions if name in reached for one in code if one.opname == "STORE_ATTR"}
    return frozenset(assigned).difference(*(_used(code, "STORE_ATTR") for _, code in functions))


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


def is_attribute(instruction: dis.Instruction) -> bool:
    """Whether an instruction looks up an attribute."""
    return instruction.opname.startswith(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER"))


def function_of(value: object) -> FunctionType | None:
    """The function behind an attribute of a class."""
    value = value.fget if isinstance(value, property) else value
    value = value.func if isinstance(value, functools.cached_property) else value
    value = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    return value if isinstance(value, FunctionType) else None
