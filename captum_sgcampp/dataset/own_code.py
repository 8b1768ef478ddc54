"""The user's own code: which it is, and what its functions find in the user's own modules."""

import dis
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

from captum_sgcampp._models.bytecode import is_installed

_WITH_VERSIONS = {"captum", "captum_sgcampp", "torch"}
"""Packages whose versions a run knows, however they are installed."""


def is_own(module: str | None) -> bool:
    """Whether code of this module is the user's own, and not that of Python or of an installed package."""
    package = (module or "").partition(".")[0]
    if package in _WITH_VERSIONS or package in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return not file or not is_installed(file)


def imported_by(function: FunctionType, instructions: Iterable[dis.Instruction]) -> Iterator[Any]:
    """The user's own modules that a function imports when it is called; they are imported now."""
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


def named_in(modules: Iterable[Any], attributes: set[str]) -> dict[str, Any]:
    """What the user's own modules have under some names; modules among that are searched too."""
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


def _is_of_user(name: str) -> bool:
    """Whether a module that may not be imported yet is the user's own."""
    package = name.partition(".")[0]
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    return is_own(name) and not is_installed(str(spec.origin if spec else ""))
