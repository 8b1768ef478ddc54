"""Reads the code of functions without running it."""

import dis
from collections.abc import Iterator
from types import CodeType

_READ_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_of(constant)


def instructions_of(code: CodeType) -> Iterator[dis.Instruction]:
    """The instructions of a function and of the functions within it."""
    for part in codes_of(code):
        yield from dis.get_instructions(part)


def global_names_of(code: CodeType) -> frozenset[str]:
    """The names of globals in a function's code, without those of attributes."""
    return frozenset(one.argval for one in instructions_of(code) if one.opname in _READ_GLOBALS)


def is_installed(file: str) -> bool:
    """Whether a file belongs to an installed package."""
    return not {"site-packages", "dist-packages"}.isdisjoint(file.replace("\\", "/").split("/"))
