"""Where pictures and pages go. Nothing is written over a file that the command reads, or that it has written itself."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from captum_sgcampp._files import write_whole
from captum_sgcampp.cli.errors import CommandError, one_line, shown
from captum_sgcampp.cli.photographs import RESULT, Photograph, is_folder, standard_input
from captum_sgcampp.explanation import Explanation
from captum_sgcampp.page import save_page

MAX_STEM = 200
"""The most bytes of a photograph's name in that of its picture; most file systems take 255 in all."""


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
        CommandError: `output` cannot be the file or the folder that it has to be.
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
    """The file of the page, an HTML file.

    Args:
        page: What was asked for.
        photographs: The photographs.
        read: The files that the command reads besides the photographs.

    Raises:
        CommandError: It is a folder, or a file that the command reads.
    """
    file = page if page.suffix else page.with_name(f"{page.name}.html")
    return _checked("--page", file, _inputs(photographs, read))


def _checked(flag: str, file: Path, inputs: set[tuple[int, int]]) -> Path:
    if is_folder(file):
        raise CommandError(f"{flag} {shown(file)} is a folder")
    if _identities([file]) & inputs:
        raise CommandError(f"{flag} {shown(file)} would overwrite a file that the command reads")
    return file


def _inputs(photographs: Sequence[Photograph], read: Sequence[Path]) -> set[tuple[int, int]]:
    """The files that must not be written over."""
    inputs = _identities([*read, *(photograph.file for photograph in photographs if photograph.file)])
    if any(photograph.read is standard_input for photograph in photographs):
        with suppress(AttributeError, OSError, ValueError):  # where there is none, or not of the system
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
    """The first of PHOTOGRAPH.png, PHOTOGRAPH-2.png, ... that is neither read nor the picture of another photograph."""
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
    """What tells files apart, whatever their names."""
    identities = set()
    for file in files:
        with suppress(OSError, ValueError):  # it does not exist, or cannot
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
    except Exception as error:  # each format has its own
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise CommandError(f"cannot write {shown(file)}: {reason}") from error
