"""Paths that no file system takes, wherever the command takes a path."""

import errno
import os
from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from captum_sgcampp.__main__ import main

LONG = 300 * "a"
TOO_LONG = os.strerror(errno.ENAMETOOLONG)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([LONG], f"cannot read {LONG}: {TOO_LONG}"),
        (["--model", f"timm:{LONG}"], f"unknown model '{LONG}'"),
        (["--model", f"hf:{LONG}"], f"hf:{LONG} cannot be loaded"),
        (["--model", f"{LONG}.py:load"], f"cannot read {LONG}.py: there is no such file"),
        (["--weights", LONG], f"cannot read weights from {LONG}: {TOO_LONG}"),
        (["--classes", LONG], f"cannot read classes from {LONG}: {TOO_LONG}"),
        (["--n-samples", "0", "--output", f"{LONG}.png"], f"cannot write {LONG}.png: {TOO_LONG}"),
        (["--n-samples", "0", "--page", f"{LONG}.html"], f"cannot write {LONG}.html: {TOO_LONG}"),
        (["--n-samples", "0", "--maps", LONG], TOO_LONG),
    ],
    ids=["photograph", "timm", "hf", "file", "weights", "classes", "output", "page", "maps"],
)
@pytest.mark.filterwarnings("default")
def test_a_path_that_is_too_long_is_one_line(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _, name = given[-1].partition(":")
    if name == LONG:
        pytest.importorskip({"timm": "timm", "hf": "transformers"}[source])
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"captum-sgcampp: {message}")
