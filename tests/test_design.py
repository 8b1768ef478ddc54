"""The design names the files of the package, all of them and no others."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DESIGN = ROOT / "docs" / "design.md"


@pytest.mark.skipif(not DESIGN.exists(), reason="only in a checkout")
def test_the_design_names_every_module_and_no_other() -> None:
    named = {Path(name).name for name in re.findall(r"`([\w./]+\.(?:py|js))`", DESIGN.read_text("utf-8"))}
    modules = {file.name for kind in ("*.py", "*.js") for file in (ROOT / "captum_sgcampp").rglob(kind)}
    assert named == modules - {"__init__.py"}
