"""The package as a whole: what it imports, and what it claims."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import captum_sgcampp
from captum_sgcampp import _captum

PACKAGE = Path(_captum.__file__).parent
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_it_imports_nothing_beyond_captum() -> None:
    outcome = python(
        "import sys, captum.attr; packages = lambda: {name.partition('.')[0] for name in sys.modules}; "
        "before = packages(); from captum_sgcampp import *; "
        "print(sorted(packages() - before - sys.stdlib_module_names))"
    )
    assert outcome.stdout.strip() == "['captum_sgcampp']", outcome.stderr


def test_only_one_file_imports_captums_private_parts() -> None:
    private = [file.name for file in PACKAGE.rglob("*.py") if re.search(r"captum\._|captum\.\w+\._", file.read_text())]
    assert private == ["_captum.py"]


OF_TORCH = (torch, nn, torch.autograd, torch.utils, torch.Tensor, torch.Generator, nn.Module(), nn.DataParallel)
PRIVATE_NAMES = {
    *(name for part in OF_TORCH for name in dir(part) if re.match(r"_[^_]", name)),
    *("_is_replica", "_is_torch_compile", "_metadata", "_orig_mod", "_torchdynamo_orig_callable"),
}


def private_parts_of_torch(code: str) -> list[str]:
    """What code uses of torch's private API: what it imports, its attributes, and names of these as text."""
    nodes = list(ast.walk(ast.parse(code)))
    imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    imported = [
        (
            f"{getattr(node, 'module', None) or ''}.{alias.name}".lstrip("."),
            alias.asname or alias.name.partition(".")[0],
        )
        for node in imports
        for alias in node.names
    ]
    names = {name for path, name in imported if path.partition(".")[0] == "torch"}
    found = [path for path, _ in imported if re.match(r"torch\.(.*\.)?_", path)]
    for node in nodes:
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            text = ast.unparse(node)
            is_own = ast.unparse(node.value) in {"self", "cls", "super()"}
            if text.partition(".")[0] in names or (node.attr in PRIVATE_NAMES and not is_own):
                found.append(text)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if node.value in PRIVATE_NAMES or re.match(r"torch\.(\w+\.)*_", node.value) else []
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import torch._dynamo",
        "import torch._dynamo as dynamo",
        "from torch import _C",
        "from torch._C import Generator",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm",
        "import torch; torch._C._functorch.is_batchedtensor(1)",
        "from torch.nn.utils import parametrize; parametrize._cache_enabled",
        "module._forward_hooks",
        "self.layer._buffers",
        "tensor._version",
        "getattr(model, '_orig_mod', None)",
        "vars(module)['_forward_pre_hooks']",
        "HOOKS = ('_backward_hooks',)",
        "'torch._dynamo' in sys.modules",
    ],
)
def test_a_private_part_of_torch_is_found(line: str) -> None:
    assert private_parts_of_torch(line)


@pytest.mark.parametrize(
    "line",
    [
        "import torch",
        "from torch.nn.modules.module import Module",
        "from captum_sgcampp._torch import BatchNorm",
        "self._buffers = [module.__dict__]",
        "output._asdict()",
        "'torch.nn.' in text, '_'",
        "def _values(): return _values",
    ],
)
def test_what_is_public_or_no_part_of_torch_is_not_found(line: str) -> None:
    assert not private_parts_of_torch(line)


def test_only_one_file_uses_torchs_private_parts() -> None:
    found = {str(file.relative_to(PACKAGE)): private_parts_of_torch(file.read_text()) for file in PACKAGE.rglob("*.py")}
    assert {file for file, parts in found.items() if parts} == {"_torch.py"}, found


def test_a_captum_that_lacks_a_part_is_refused_with_those_that_work() -> None:
    outcome = python(
        "import captum._utils.common as common; del common._select_targets; from captum_sgcampp import explain"
    )
    assert outcome.returncode == 1
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: captum-sgcampp works with captum{_captum.SUPPORTED_CAPTUM}; captum ")
    assert "_select_targets" in last


@pytest.mark.skipif(not PYPROJECT.exists(), reason="only in a checkout")
def test_the_supported_captum_is_what_pip_is_asked_for() -> None:
    assert f'"captum{_captum.SUPPORTED_CAPTUM}"' in PYPROJECT.read_text()


def test_it_is_typed_and_has_a_version() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", captum_sgcampp.__version__)
    assert set(captum_sgcampp.__all__) <= set(dir(captum_sgcampp))


@pytest.mark.parametrize("name", captum_sgcampp.__all__)
def test_what_it_promises_is_there_whatever_is_imported_first(name: str) -> None:
    assert getattr(captum_sgcampp, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = captum_sgcampp.nonsense


def test_it_is_imported_without_waiting_for_torch() -> None:
    outcome = python("import sys, captum_sgcampp; print('torch' in sys.modules, captum_sgcampp.picture.DPI)")
    assert outcome.stdout.split() == ["False", "200"], outcome.stderr


README = PYPROJECT.with_name("README.md")
EXAMPLE = Path(__file__).parent / "readme_example.py"


@pytest.mark.skipif(not README.exists(), reason="only in a checkout")
def test_the_type_checked_example_is_the_readmes() -> None:
    """mypy checks the file in strict mode."""
    (body,) = re.findall(r"(?s)def heat_maps\(.*?\n(.*)", EXAMPLE.read_text())
    code = [line.strip() for line in body.splitlines() if line.strip() and "return" not in line]
    readme = README.read_text()
    assert len(code) == 3
    assert all(line in readme for line in code)


@pytest.mark.skipif(not README.exists(), reason="only in a checkout")
def test_the_citation_and_the_changelog_have_the_version() -> None:
    citation = README.with_name("CITATION.cff").read_text()
    assert f"version: {captum_sgcampp.__version__}\n" in citation
    latest, *_ = re.findall(r"^## ([^\s,]+)", README.with_name("CHANGELOG.md").read_text(), re.MULTILINE)
    assert latest == captum_sgcampp.__version__


FLOORS = [
    ["__main__"],
    ["cli"],
    ["dataset", "explanation"],
    ["page"],
    ["methods"],
    ["_passes"],
    ["reshape"],
    ["_probe"],
    ["layers"],
    ["_models"],
    ["_captum", "_checks", "_extras", "_files", "_recipe", "_torch", "formulas", "picture"],
]
"""The rooms of the package, from the top floor down."""


def imported_rooms(file: Path) -> Iterator[str]:
    """The rooms that a file imports from, the package's public names left out."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "captum_sgcampp":
            path = node.module.split(".")[1:]
            yield from [path[0]] if path else [name.name for name in node.names]


def test_no_room_imports_from_one_above_it() -> None:
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    files = sorted(PACKAGE.rglob("*.py"))
    rooms_of_files = {file: file.relative_to(PACKAGE).with_suffix("").parts[0] for file in files}
    assert {*rooms_of_files.values()} == {*floors, "__init__"}
    for file, room in rooms_of_files.items():
        if room == "__init__":
            continue
        for imported in imported_rooms(file):
            if imported in floors:
                assert imported == room or floors[imported] > floors[room], (file, imported)
