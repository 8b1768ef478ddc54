"""Files that are written whole or not at all, by one process or several."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from photograph_folder import content

from captum_sgcampp._files import remove_temporary_files, write_whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize(
    "new", [b"new content", memoryview(b"new content"), lambda stream: stream.write(b"new content")]
)
def test_a_file_is_replaced(file: Path, new: Any) -> None:
    for _ in range(2):
        write_whole(file, new)
        assert content(file.parent) == {"file": b"new content"}
        file.write_bytes(b"old")


def test_a_full_disk_leaves_what_was_there_and_nothing_else(file: Path) -> None:
    def full_disk(stream: Any) -> None:
        stream.write(b"ne")
        raise OSError(28, "No space left on device")

    file.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, full_disk)
    assert content(file.parent) == {"file": b"old"}


def test_an_interruption_leaves_nothing_behind(file: Path) -> None:
    def interrupted(_stream: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(file, interrupted)
    assert content(file.parent) == {}


@pytest.mark.parametrize("keep", [False, True])
def test_a_link_keeps_pointing_to_the_file(tmp_path: Path, keep: bool) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "file")
    write_whole(link, b"through", keep=keep)
    assert link.is_symlink()
    assert content(tmp_path / "folder") == {"file": b"through"}


def test_a_pipe_is_written_to(file: Path) -> None:
    os.mkfifo(file)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(file.read_bytes()))
    reader.start()
    write_whole(file, b"content")
    reader.join()
    assert read == [b"content"]
    assert stat.S_ISFIFO(file.stat().st_mode)


def test_a_link_to_standard_output_is_written_to(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    code = (
        "import sys, pathlib, captum_sgcampp._files as files; files.write_whole(pathlib.Path(sys.argv[1]), b'content')"
    )
    outcome = subprocess.run([sys.executable, "-c", code, link], stdout=subprocess.PIPE, check=True)
    assert outcome.stdout == b"content"


def test_a_file_has_the_permissions_of_any_new_one(file: Path) -> None:
    (file.parent / "other").touch()
    write_whole(file, b"content")
    assert file.stat().st_mode == (file.parent / "other").stat().st_mode


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "gone" / "file", b"content")


def test_temporary_files_may_be_removed_while_another_process_writes_them(file: Path) -> None:
    """The other, here in the middle of a file, writes it again."""
    tries = []

    def write(stream: Any) -> None:
        tries.append(stream.name)
        stream.write(b"content")
        if len(tries) == 1:
            remove_temporary_files(file.parent)

    write_whole(file, write)
    assert content(file.parent) == {"file": b"content"}
    assert len(tries) == 2


def test_of_two_files_written_at_once_the_first_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(stream: Any) -> None:
        file.write_bytes(b"first")
        stream.write(b"second")

    write_whole(file, write, keep=True)
    assert content(file.parent) == {"file": b"first"}
    file.unlink()
    monkeypatch.setattr(os, "link", refuse_links)
    write_whole(file, write, keep=True)
    assert content(file.parent) == {"file": b"first"}
    file.unlink()
    write_whole(file, b"alone", keep=True)
    assert content(file.parent) == {"file": b"alone"}


def refuse_links(*_: object) -> None:
    raise PermissionError(1, "this file system has no links")
