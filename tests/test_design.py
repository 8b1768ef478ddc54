"""The pages for contributors name the files that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "captum_sgcampp"
PAGES = [ROOT / "docs" / "design.md", ROOT / "CONTRIBUTING.md"]

pytestmark = pytest.mark.skipif(not all(path.exists() for path in [*PAGES, ROOT / ".ci"]), reason="only in a checkout")


def named_files(page: Path) -> set[str]:
    return set(re.findall(r"`([\w./]+\.(?:py|js|md|txt|toml))`", page.read_text("utf-8")))


def test_the_design_names_every_module() -> None:
    modules = {file.name for kind in ("*.py", "*.js") for file in PACKAGE.rglob(kind)} - {"__init__.py"}
    assert modules - named_files(PAGES[0]) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    files = [file.relative_to(ROOT).as_posix() for folder in (PACKAGE, ROOT / "tests") for file in folder.rglob("*.*")]
    files += [file.name for file in ROOT.iterdir()] + [f"docs/{file.name}" for file in (ROOT / "docs").iterdir()]
    files += [f".ci/{file.name}" for file in (ROOT / ".ci").iterdir()]
    missing = {name for name in named_files(page) if not any(f"/{file}".endswith(f"/{name}") for file in files)}
    assert missing == set()
