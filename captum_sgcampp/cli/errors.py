"""What the command line says instead of a traceback."""

import difflib
from collections.abc import Collection


class CommandError(Exception):
    """Something the user can mend. The message is one line."""


def unknown(what: str, name: str, known: Collection[str]) -> CommandError:
    """The error for a name that does not exist, with the closest ones that do."""
    words = [candidate for candidate in known if name.lower() in candidate.lower().split()]
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    suggestions = list(dict.fromkeys([*words, *close]))[:5]
    hint = f"; the closest: {', '.join(suggestions)}" if suggestions else ""
    return CommandError(f"unknown {what} '{name}'{hint}")


def one_line(error: Exception) -> str:
    """What another library says, shortened to a line."""
    return " ".join(str(error).split())[:300]
