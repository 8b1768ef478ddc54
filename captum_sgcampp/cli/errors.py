"""The errors that the command prints instead of a traceback, in its own words."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from captum_sgcampp._checks import closest

_FLAGS = {
    "filters": "--filters",
    "layer": "--layer",
    "layers": "--layer",
    "n_samples": "--n-samples",
    "output": "--maps",
    "stdevs": "--stdevs",
    "subset": "--subset",
    "targets": "--target",
    "top_k": "--top-k",
}
"""What Python calls by these names is a flag here."""


class CommandError(Exception):
    """An error that the user can fix. The message is one line."""


def unknown(what: str, name: str, known: Collection[str]) -> CommandError:
    """The error for a name that does not exist, with the closest ones that do."""
    suggestions = closest(name, known)
    hint = f"; the closest: {', '.join(suggestions)}" if suggestions else ""
    return CommandError(f"unknown {what} '{name}'{hint}")


def one_line(error: object) -> str:
    """Shortens a message of another library to a line."""
    try:
        text = str(error)
    except Exception:  # an error of one's own may have no text
        text = ""
    return " ".join(text.split())[:300]


def described(error: BaseException) -> str:
    """The type and the message of an unexpected error, in a line."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def with_cause(error: BaseException) -> str:
    """An error and what it came from in the first place, such as a failed connection."""
    first = error
    while first.__cause__ or first.__context__:
        first = first.__cause__ or first.__context__ or first
    return described(error) if first is error else f"{described(error)}, because of {described(first)}"


def in_the_commands_words(message: object) -> str:
    """Rewords a message of the library: parameters become flags, and those that the command lacks are not mentioned."""
    text = re.sub(r"[^.]*\b(reshape_transform|grad_kwargs)\b[^.]*\.", "", one_line(message))
    if "missing from font" in text:  # matplotlib says it for each character
        return "the picture's font lacks some characters of the names"
    text = text.replace("retry_failed=True", "--retry-failed")
    text = re.sub(r"\bn_samples=(\d+)", r"--n-samples \1", text)
    text = re.sub(r"^(layers?|targets|output):", lambda found: f"{_FLAGS[found[1]]}:", text)
    return re.sub(r"\b(n_samples|stdevs|filters|subset|top_k)\b(?=[:,.]| and)", lambda found: _FLAGS[found[1]], text)


def shown(path: Path | str) -> str:
    """A path as text that can be printed and drawn, also if its bytes are not text or it has control characters."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
