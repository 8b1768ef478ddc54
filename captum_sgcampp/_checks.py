"""Checks of arguments, whose errors name the argument, its value and what would be right."""

import difflib
import operator
from collections.abc import Collection, Iterable
from numbers import Integral


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raises a ValueError if an argument is not one of its choices."""
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(map(repr, choices))}, but is {value!r}.")


def require_integer(name: str, value: object, minimum: int) -> None:
    """Raises a TypeError if an argument is not an integer, and a ValueError if it is too small."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: must be an integer, but is {value!r}.")
    if int(value) < minimum:
        raise ValueError(f"{name}: must be at least {minimum}, but is {value}.")


def index_of(value: object) -> int:
    """Converts to an integer. Booleans are refused, because a mask is not a list of indices."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in {"bool", "torch.bool"}:  # NumPy's, torch's
        raise TypeError("a mask is not a list of indices")
    return operator.index(value)  # type: ignore[arg-type]


def indices_of(name: str, values: Iterable[int], what: str) -> tuple[int, ...]:
    """Converts an argument to indices, from integers of any type, such as a tensor's.

    Args:
        name: The argument.
        values: Its value.
        what: What the indices choose among, in one word.

    Raises:
        TypeError: It is not a list of integers.
    """
    try:
        return tuple(map(index_of, values))
    except TypeError as error:
        raise TypeError(f"{name}: must be a list of {what} indices, but is {values!r}: {error}.") from error


def closest(name: str, known: Collection[str]) -> list[str]:
    """Finds up to five similar known names: first those that contain the same word."""
    words = [candidate for candidate in known if name.lower() in candidate.lower().split()]
    return list(dict.fromkeys([*words, *difflib.get_close_matches(name, known, n=5, cutoff=0.5)]))[:5]
