"""The page's script: its modules, joined into one.

The modules are JavaScript's own, in a narrow form that is joined by leaving words out, and in which names cannot clash:

* An import is a line ``import { one, other } from "./module.js";``.
* An export is a declaration at the beginning of a line with ``export`` before it: of a function, a class or a constant.
* Each declaration at the beginning of a line declares one name, and no two modules declare the same.
* No text goes over several lines, and none ends the script's element in HTML or begins a comment there.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_IMPORT = re.compile(r'import \{ (\w+(?:, \w+)*) \} from "\./(\w+\.js)";')
_DECLARATION = re.compile(r"(?:const|let|class|(?:async )?function\*?) (\w+)\b")
_EXPORT = re.compile(r"export (?!let)(?=" + _DECLARATION.pattern + ")")
_MODULE_WORD = re.compile(r"\s*(?:import|export)\b")
_ENDS_SCRIPT = re.compile(r"</script|<!--", re.IGNORECASE)
_DECLARING_WORD = re.compile(r"(?:const|let|var|class|async|function)\b")


@dataclass(frozen=True)
class _Module:
    name: str
    imports: tuple[tuple[str, tuple[str, ...]], ...]
    """The names that it imports, by module."""
    declared: tuple[str, ...]
    """The names that it declares at its top level."""
    exported: frozenset[str]
    code: str
    """Its code without the words that make it a module."""


def join(entry: str, read: Callable[[str], str]) -> str:
    """Joins a module and those that it imports, directly or not, into one classic script.

    Each module comes after those that it imports, once.

    Args:
        entry: The name of the module to start with.
        read: Returns the text of a module, given its name.

    Raises:
        ValueError: A line has another form than this file describes; a module imports itself, directly or not, or what
            is not exported; or a name is declared twice.
    """
    modules: dict[str, _Module] = {}
    _add(entry, read, modules, ())
    _require_exports(modules)
    _require_one_declaration(modules.values())
    return '"use strict";\n' + "\n".join(module.code for module in modules.values())


def _add(name: str, read: Callable[[str], str], modules: dict[str, _Module], above: tuple[str, ...]) -> None:
    """Adds a module after all that it imports."""
    if name in above:
        raise ValueError(f"{name}: imports itself, through {' and '.join(above[above.index(name) + 1 :]) or name}.")
    if name in modules:
        return
    module = _parse(name, read(name))
    for imported, _ in module.imports:
        _add(imported, read, modules, (*above, name))
    modules[name] = module


def _parse(name: str, text: str) -> _Module:
    imports, declared, exported, code = [], [], set(), []
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _IMPORT.fullmatch(line):
            imports.append((found[2], tuple(found[1].split(", "))))
            continue
        is_exported = _EXPORT.match(line)
        plain = line[is_exported.end() :] if is_exported else line
        declaration = _DECLARATION.match(plain)
        is_other = _MODULE_WORD.match(plain) or (_DECLARING_WORD.match(plain) and not declaration)
        if is_other or line.count("`") % 2 or _ENDS_SCRIPT.search(line):
            raise ValueError(f"{name}, line {number}: has a form that is not joined, {line!r}; see scripts.py.")
        if declaration:
            declared.append(declaration[1])
        if is_exported and declaration:
            exported.add(declaration[1])
        code.append(plain)
    return _Module(name, tuple(imports), tuple(declared), frozenset(exported), "\n".join(code).strip() + "\n")


def _require_exports(modules: dict[str, _Module]) -> None:
    for module in modules.values():
        for source, names in module.imports:
            for name in names:
                if name not in modules[source].exported:
                    raise ValueError(f"{module.name}: imports {name} from {source}, which does not export it.")


def _require_one_declaration(modules: Iterable[_Module]) -> None:
    """A name that two modules declare would be one in the joined script."""
    declared_in: dict[str, str] = {}
    for module in modules:
        for name in module.declared:
            if name in declared_in:
                raise ValueError(f"{module.name}: declares {name}, which {declared_in[name]} declares too.")
            declared_in[name] = module.name
