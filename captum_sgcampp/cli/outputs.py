"""Where pictures and pages go. No file that the command reads or has written in this run is overwritten."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from captum_sgcampp._files import write_whole
from captum_sgcampp.cli.errors import CommandError, one_line
from captum_sgcampp.cli.paths import is_folder, shown
from captum_sgcampp.cli.photographs import RESULT, Photograph, standard_input
from captum_sgcampp.explanation import Explanation
from captum_sgcampp.page import save_page

MAX_STEM = 200
"""How many bytes of a photograph's name its picture's name keeps; most file systems allow 255 in all."""


def picture_files(
    photographs: Sequence[Photograph], output: str | None, read: Sequence[Path], *, several: bool
) -> list[Path]:
    """Chooses the file of each photograph's picture.

    Args:
        photographs: The photographs.
        output: The file or the folder that was asked for. None means the current folder.
        read: The files that the command reads besides the photographs.
        several: Whether several photographs, or those in a folder, were asked for.

    Raises:
        CommandError: `output` is a file and must be a folder, or cannot be written.
    """
    inputs = _inputs(photographs, read)
    if output and not several and not _is_folder(output):
        return [_single_file(Path(output), inputs)]
    folder = Path(output or ".")
    if _identities([folder]) and not is_folder(folder):
        raise CommandError(f"--output {shown(folder)} must be a folder, but is a file")
    if several and folder.suffix[1:].lower() in _formats() and not is_folder(folder):
        raise CommandError(f"--output {shown(folder)} must be a folder, as there are several photographs")
    taken: set[str] = set()
    return [_free_file(folder / photograph.place, inputs, taken) for photograph in photographs]


def page_file(page: Path, photographs: Sequence[Photograph], read: Sequence[Path]) -> Path:
    """The file of the page, with .html at its end unless it has an ending.

    Args:
        page: What was asked for.
        photographs: The photographs.
        read: The files that the command reads besides the photographs.

    Raises:
        CommandError: It is a folder, or a file that the command reads.
    """
    if not page.name:
        raise CommandError(f"--page {shown(page)} is a folder")
    file = page if page.suffix else page.with_name(f"{page.name}.html")
    return _checked("--page", file, _inputs(photographs, read))


def _checked(flag: str, file: Path, inputs: set[tuple[int, int]]) -> Path:
    if is_folder(file):
        raise CommandError(f"{flag} {shown(file)} is a folder")
    if _identities([file]) & inputs:
        raise CommandError(f"{flag} {shown(file)} would overwrite a file that the command reads")
    return file


def _inputs(photographs: Sequence[Photograph], read: Sequence[Path]) -> set[tuple[int, int]]:
    """The files that must not be overwritten."""
    inputs = _identities([*read, *(photograph.file for photograph in photographs if photograph.file)])
    if any(photograph.load is standard_input for photograph in photographs):
        with suppress(AttributeError, OSError, ValueError):  # no standard input, or not a file of the system
            stat = os.fstat(sys.stdin.fileno())
            inputs.add((stat.st_dev, stat.st_ino))
    return inputs


def _is_folder(output: str) -> bool:
    separators = tuple(filter(None, (os.sep, os.altsep)))
    return output.endswith(separators) or is_folder(Path(output))


def _single_file(file: Path, inputs: set[tuple[int, int]]) -> Path:
    if not file.suffix and not file.name.startswith("."):
        file = file.with_name(f"{file.name}.png")
    if file.suffix[1:].lower() not in _formats():
        raise CommandError(f"cannot write {shown(file)}: the format must be one of {', '.join(sorted(_formats()))}")
    return _checked("--output", file, inputs)


def _free_file(place: Path, inputs: set[tuple[int, int]], taken: set[str]) -> Path:
    """The first of PHOTOGRAPH.png, PHOTOGRAPH-2.png, ... that is neither an input nor another photograph's picture."""
    stem = place.stem
    if len(os.fsencode(stem)) > MAX_STEM:
        stem = os.fsencode(stem)[:MAX_STEM].decode("utf-8", "ignore")
    number = 1
    while True:
        again = f"-{number}" if number > 1 else ""
        file = place.with_name(f"{RESULT}{stem}{again}.png")
        key = os.path.realpath(file).casefold()  # some file systems ignore case
        if key not in taken and not _identities([file]) & inputs:
            taken.add(key)
            return file
        number += 1


def _identities(files: Sequence[Path]) -> set[tuple[int, int]]:
    """The device and inode of files, which tell them apart whatever their names."""
    identities = set()
    for file in files:
        with suppress(OSError, ValueError):  # no such file, or no such name
            stat = file.stat()
            identities.add((stat.st_dev, stat.st_ino))
    return identities


def _formats() -> set[str]:
    return set(FigureCanvasBase.get_supported_filetypes())


def write_picture(figure: Figure, file: Path) -> None:
    """Writes a picture, whole or not at all.

    Raises:
        CommandError: It cannot be written.
    """
    content = BytesIO()
    with _errors_of(file):
        figure.savefig(content, format=file.suffix[1:].lower(), bbox_inches="tight", pad_inches=0.1)
        write_whole(file, content.getbuffer())


def write_page(explanations: Sequence[Explanation], file: Path) -> None:
    """Writes a page for several photographs, whole or not at all.

    Raises:
        CommandError: It cannot be written.
    """
    with _errors_of(file):
        save_page(explanations, file)


@contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:  # each format raises its own
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise CommandError(f"cannot write {shown(file)}: {reason}") from error
