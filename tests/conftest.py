"""Settings for all tests, and what the default run leaves to CI."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering

torch.set_num_threads(1)  # the models are so small that threads would only wait for each other

LEFT_OUT = pytest.StashKey[Counter[str]]()
"""How many tests of each file are left out."""


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes slow what a test marked `pairwise` need not try for every pair of its parameters' values."""
    products: dict[object, list[Any]] = defaultdict(list)
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and item.get_closest_marker("pairwise")
            and not item.get_closest_marker("slow")
        ):
            products[item.function].append(item)
    for cases in products.values():
        chosen = set(covering([id(value) for value in case.callspec.params.values()] for case in cases))
        for number, case in enumerate(cases):
            if number not in chosen:
                case.add_marker(pytest.mark.slow)


def pytest_deselected(items: list[pytest.Item]) -> None:
    slow = Counter(item.location[0] for item in items if item.get_closest_marker("slow"))
    if items:
        items[0].config.stash.setdefault(LEFT_OUT, Counter[str]()).update(slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist tells the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = dict(session.config.stash.get(LEFT_OUT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left out", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says what has not been run, and why."""
    left_out = config.stash.get(LEFT_OUT, None)
    if left_out:
        most = ", ".join(f"{number} of them in {file}" for file, number in left_out.most_common(3))
        terminalreporter.write_line(
            f"Left out, and run by CI with `pytest -m slow`: {_tests(left_out.total())}, {most}"
        )
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"Skipped: {_tests(number)}, {reason}")


def _tests(number: int) -> str:
    return f"{number} test{'s' * (number != 1)}"


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files may be written, with the same random numbers each time."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


@pytest.fixture
def coarse_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the resolution, as most of the time of the command goes into the pixels of pictures."""
    monkeypatch.setattr("captum_sgcampp.picture.DPI", 100)
