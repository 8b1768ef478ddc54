"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """Writes a file under another name beside it and then renames it, so that it is never seen half written.

    Args:
        file: The file. If it exists, it is replaced; what is not a regular file, such as a pipe, is written to.
        content: What to write.

    Raises:
        OSError: It cannot be written. Nothing is left behind then.
    """
    target = file.resolve()  # a link keeps pointing to the file
    if target.exists() and not target.is_file():
        target.write_bytes(content)
        return
    unfinished = target.with_name(f".captum-sgcampp-{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
