"""The errors that the command prints instead of a traceback, in its own words."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from captum_sgcampp._checks import closest
from captum_sgcampp._extras import missing

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
"""The library's names and the command's flags for them."""


class CommandError(Exception):
    """An error that the user can fix. The message is one line."""


@contextmanager
def brought_by(extra: str) -> Iterator[None]:
    """Says how to install a package, if one that is imported within is missing.

    Args:
        extra: The extra of `pyproject.toml` that has it.

    Raises:
        CommandError: It is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(missing(error.name, extra)) from error


def unknown(what: str, name: str, known: Collection[str]) -> CommandError:
    """The error for a name that does not exist, with the closest ones that do."""
    suggestions = closest(name, known)
    hint = f"; the closest: {', '.join(suggestions)}" if suggestions else ""
    return CommandError(f"unknown {what} '{name}'{hint}")


def one_line(error: object) -> str:
    """Shortens a message of another library to one line."""
    try:
        text = str(error)
    except Exception:  # a user's error may have no text
        text = ""
    return " ".join(text.split())[:300]


def described(error: BaseException) -> str:
    """The type and the message of an unexpected error, in one line."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def with_cause(error: BaseException) -> str:
    """An error and its first cause, such as a failed connection, in one line."""
    first = error
    while first.__cause__ or first.__context__:
        first = first.__cause__ or first.__context__ or first
    return described(error) if first is error else f"{described(error)}, because of {described(first)}"


def in_the_commands_words(message: object) -> str:
    """Rewords a message of the library: parameters become flags, and sentences about others are left out."""
    text = re.sub(r"[^.]*\b(reshape_transform|grad_kwargs)\b[^.]*\.", "", one_line(message))
    if "missing from font" in text:  # matplotlib warns for each character
        return "the picture's font lacks some characters of the names"
    text = text.replace("retry_failed=True", "--retry-failed")
    text = re.sub(r"\bn_samples=(\d+)", r"--n-samples \1", text)
    text = re.sub(r"^(layers?|targets|output):", lambda found: f"{_FLAGS[found[1]]}:", text)
    return re.sub(r"\b(n_samples|stdevs|filters|subset|top_k)\b(?=[:,.]| and)", lambda found: _FLAGS[found[1]], text)
