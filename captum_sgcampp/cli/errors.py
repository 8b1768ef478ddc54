"""What the command line says instead of a traceback."""

from collections.abc import Collection

from captum_sgcampp.layers import closest


class CommandError(Exception):
    """Something the user can mend. The message is one line."""


def unknown(what: str, name: str, known: Collection[str]) -> CommandError:
    """The error for a name that does not exist, with the closest ones that do."""
    suggestions = closest(name, known)
    hint = f"; the closest: {', '.join(suggestions)}" if suggestions else ""
    return CommandError(f"unknown {what} '{name}'{hint}")


def one_line(error: Exception) -> str:
    """What another library says, shortened to a line."""
    return " ".join(str(error).split())[:300]
