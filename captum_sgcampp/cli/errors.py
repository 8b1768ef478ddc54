"""The errors that the command line prints instead of a traceback."""

from collections.abc import Collection

from captum_sgcampp.layers import closest


class CommandError(Exception):
    """An error that the user can fix. The message is one line."""


def unknown(what: str, name: str, known: Collection[str]) -> CommandError:
    """The error for a name that does not exist, with the closest ones that do."""
    suggestions = closest(name, known)
    hint = f"; the closest: {', '.join(suggestions)}" if suggestions else ""
    return CommandError(f"unknown {what} '{name}'{hint}")


def one_line(error: Exception) -> str:
    """The message of another library's error, shortened to a line."""
    return " ".join(str(error).split())[:300]
