"""The photographs to explain: files, the images in folders, standard input, or an example."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from captum_sgcampp.cli.errors import CommandError, brought_by, described
from captum_sgcampp.cli.options import EXAMPLE, FROM_STDIN
from captum_sgcampp.cli.paths import is_folder, shown
from captum_sgcampp.explanation.photograph import to_rgb

RESULT = "captum-sgcampp-"
"""The prefix of pictures that the command names itself; the search of folders skips them."""
MAX_ASPECT = 100
"""The largest ratio of a photograph's sides; networks enlarge the short one to hundreds of pixels."""
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognizes but cannot read by itself."""


class Photograph(NamedTuple):
    """A photograph that has not been read yet."""

    name: str
    """Its name in messages and in the picture."""
    place: Path
    """Its path below the folder that was given, or its file name: where its picture goes, below the output folder."""
    file: Path | None
    """The file; None for standard input and the example."""
    load: Callable[[], Image.Image]
    """Reads it, in the mode that it has."""

    def read(self) -> Image.Image:
        """Reads it as 8-bit RGB.

        Raises:
            CommandError: It cannot be read.
        """
        try:
            return as_rgb(self.load())
        except CommandError:
            raise
        except UnidentifiedImageError as error:
            raise CommandError(f"{self.name} is not an image") from error
        except OSError as error:
            raise CommandError(f"cannot read {self.name}: {error.strerror or error}") from error
        except ValueError as error:
            raise CommandError(f"cannot read {self.name}: {error}") from error
        except Exception as error:  # a broken file may make Pillow raise anything
            raise CommandError(f"cannot read {self.name}: {described(error)}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to 8-bit RGB.

    Raises:
        ValueError: It is too long and narrow, or its pixels cannot be converted.
    """
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ValueError(f"it is {image.width} x {image.height}, more than {MAX_ASPECT} times longer than wide")
    return to_rgb(image)


def find(arguments: Sequence[Path]) -> list[Photograph]:
    """Finds the photographs.

    Args:
        arguments: Files, folders, and `-`. Empty means the example.

    Raises:
        CommandError: A folder has no images, or cannot be read.
    """
    if not arguments:
        return [Photograph(EXAMPLE, Path(EXAMPLE), None, _example)]
    found = []
    for argument in arguments:
        if argument == FROM_STDIN:
            found.append(Photograph("standard input", Path("stdin"), None, standard_input))
        elif is_folder(argument):
            found += _in_folder(argument)
        else:
            found.append(Photograph(shown(argument.name), Path(argument.name), argument, _reader(argument)))
    return found


def _in_folder(folder: Path) -> list[Photograph]:
    extensions = _extensions()
    files = sorted(
        parent / name
        for parent, names in _walk(folder)
        for name in names
        if Path(name).suffix.lower() in extensions and not name.startswith(RESULT)
    )
    if not files:
        raise CommandError(f"{shown(folder)} has no images")
    places = [file.relative_to(folder) for file in files]
    return [Photograph(shown(place), place, file, _reader(file)) for place, file in zip(places, files, strict=True)]


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders in a folder and the names of their files, without hidden ones. Links are followed, once."""

    def refuse(error: OSError) -> None:
        raise CommandError(f"cannot read {shown(error.filename)}: {error.strerror}") from error

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        place = os.path.realpath(parent)
        folders[:] = [] if place in seen else sorted(name for name in folders if not name.startswith("."))
        if place not in seen:
            yield Path(parent), [name for name in names if not name.startswith(".")]
        seen.add(place)


def _extensions() -> set[str]:
    """The extensions of the formats that Pillow reads."""
    extensions = Image.registered_extensions()
    return {extension for extension, name in extensions.items() if name in Image.OPEN and name not in _NOT_DECODED}


def _reader(file: Path) -> Callable[[], Image.Image]:
    return partial(_load, file)  # can be sent to another process


def _load(source: Any) -> Image.Image:
    with Image.open(source) as image:
        image.load()
        return image


def standard_input() -> Image.Image:
    """Reads an image from standard input."""
    return _load(BytesIO(sys.stdin.buffer.read()))


def _example() -> Image.Image:
    with brought_by("demo"):
        from skimage import data

    return Image.fromarray(np.asarray(getattr(data, EXAMPLE)()))
