"""Files that are written whole or not at all, whenever a process dies and however many write at once."""

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_PREFIX, _SUFFIX = ".captum_sgcampp-", ".tmp"
"""The names of temporary files: hidden, and different each time."""
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def write_whole(file: Path, content: bytes | memoryview | Callable[[BinaryIO], object], *, keep: bool = False) -> None:
    """Writes a file under a temporary name beside it, and gives it its own when it is complete.

    Args:
        file: The file. A link keeps pointing to it; what is not a regular file, such as a pipe, is written to directly.
        content: What to write, or a function that writes it, which may be called more than once.
        keep: Leave the file as it is if it is there already, also if another process has just written it.

    Raises:
        OSError: It cannot be written. What was there before is left as it was, and nothing else is left behind.
    """
    if file.exists() and not file.is_file():  # asked before links are followed, which for /dev/stdout lead nowhere
        with file.open("wb") as stream:
            _write(stream, content)
        return
    target = file.resolve()
    while True:
        temporary = target.with_name(f"{_PREFIX}{uuid.uuid4().hex}{_SUFFIX}")
        try:
            with temporary.open("xb") as stream:
                _write(stream, content)
                stream.flush()
                os.fsync(stream.fileno())
            if _renamed(temporary, target, keep):
                return
        finally:
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Removes what processes that were killed have left. One that is still writing notices, and writes again."""
    for temporary in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        temporary.unlink(missing_ok=True)


def _write(stream: BinaryIO, content: bytes | memoryview | Callable[[BinaryIO], object]) -> None:
    if callable(content):
        content(stream)
    else:
        stream.write(content)


def _renamed(temporary: Path, file: Path, keep: bool) -> bool:
    """Gives a file its own name; False if another process has removed it meanwhile."""
    try:
        if not keep or not _linked(temporary, file):
            temporary.replace(file)
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise
        return False
    return True


def _linked(temporary: Path, file: Path) -> bool:
    """Gives a file a second name unless there is one of that name; False if the file system has no links."""
    try:
        os.link(temporary, file)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return file.exists()
    return True
