"""Paths as users give them: too long to exist, not text, with control characters."""

import os
from pathlib import Path


def is_folder(path: Path) -> bool:
    """Whether there is a folder at this path, which may be too long to exist."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether there is a file at this path, which may be too long to exist."""
    try:
        return path.is_file()
    except OSError:
        return False


def shown(path: Path | str) -> str:
    """A path as text that can be printed and drawn; what cannot be becomes a replacement character."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
