"""The notebooks as they are committed: run from top to bottom without a word of complaint, and small. CI runs them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(ROOT.glob("tutorials/*.ipynb"))
MAX_BYTES = 1_000_000


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    of_any_kind = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in of_any_kind if cell["cell_type"] == kind]


def prose(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(notebook, "markdown")]


def outputs(notebook: Path) -> list[dict[str, Any]]:
    return [output for cell in cells(notebook, "code") for output in cell["outputs"]]


def test_there_are_eight() -> None:
    assert [notebook.name[:2] for notebook in NOTEBOOKS] == [f"{number:02}" for number in range(1, 9)]


def test_each_has_contents_and_leads_to_the_next() -> None:
    for notebook, following in zip(NOTEBOOKS, [*NOTEBOOKS[1:], NOTEBOOKS[0]], strict=True):
        first, *_, last = prose(notebook)
        assert "\nContents: " in first
        assert f"({following.name})" in last


def test_links_between_them_lead_somewhere() -> None:
    for notebook in NOTEBOOKS:
        text = "\n".join(prose(notebook))
        headings = [heading.replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
        for target in re.findall(r"\]\(([^)\s]*)\)", text):
            if target.startswith("#"):
                assert target[1:] in headings, (notebook.name, target)
            elif "://" not in target:
                assert (notebook.parent / target.partition("#")[0]).exists(), (notebook.name, target)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_ran_from_top_to_bottom(notebook: Path) -> None:
    counts = [cell["execution_count"] for cell in cells(notebook, "code")]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_has_figures_and_neither_warnings_nor_errors(notebook: Path) -> None:
    assert any({"image/jpeg", "image/png"} & output.get("data", {}).keys() for output in outputs(notebook))
    assert {output["output_type"] for output in outputs(notebook)} <= {"display_data", "execute_result", "stream"}
    assert {output.get("name", "stdout") for output in outputs(notebook)} == {"stdout"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_is_small(notebook: Path) -> None:
    assert notebook.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_readme_links_it_with_a_thumbnail(notebook: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    thumbnail = f"tutorials/images/{notebook.stem}.jpg"
    assert f"(tutorials/{notebook.name})" in readme
    assert thumbnail in readme
    assert (ROOT / thumbnail).stat().st_size < 50_000
