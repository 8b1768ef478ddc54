"""Chromium for the tests of the page, and a page to test."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

NEEDED = bool(os.environ.get("CAPTUM_SGCAMPP_NEEDS_BROWSER"))
"""Whether the tests fail where there is no browser, as in CI. Otherwise they are skipped."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Starts the system's Chromium."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _missing("the page is tested with playwright, which pip install -e '.[test]' brings")
    if path is None:
        _missing("the page is tested in Chromium, which is not installed; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def _missing(reason: str) -> NoReturn:
    (pytest.fail if NEEDED else pytest.skip)(reason)


@contextmanager
def open_page(browser: Any, file: Path, fragment: str = "", **context: Any) -> Iterator[Any]:
    """Opens a file, and asserts in the end that nothing else was asked for and that the console has no errors."""
    opened = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **context})
    problems: list[str] = []
    requests: list[str] = []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    opened.on("weberror", lambda error: problems.append(str(error.error)))
    page = opened.new_page()
    page.goto(file.as_uri() + (f"#{fragment}" if fragment else ""))
    try:
        yield page
        asked_for = {url.split("#")[0] for url in requests if not url.startswith(("data:", "blob:", "about:srcdoc"))}
        assert asked_for == {file.as_uri()}
        assert problems == []
    finally:
        opened.close()


def settled(page: Any) -> Any:
    """Waits until the page shows its map; returns the page."""
    page.wait_for_selector("#strip button")
    return page


def wait_until(page: Any, expression: str) -> None:
    """Waits until an expression is true. The page refuses Playwright's own way, which evaluates a string in it."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.01)
