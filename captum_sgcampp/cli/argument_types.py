"""The types of the command's arguments: each reads a text, or says what would be right."""

import argparse
from collections.abc import Callable
from pathlib import Path


def not_empty(text: str) -> str:
    """Reads a text that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def path(text: str) -> Path:
    """Reads a path."""
    return Path(not_empty(text))


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be an integer, but is {text}") from error


def at_least(minimum: int) -> Callable[[str], int]:
    """Makes the type of integers with a minimum."""

    def integer(text: str) -> int:
        number = _integer(text)
        if number < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, but is {text}")
        return number

    return integer


def seed(text: str) -> int:
    """Reads a seed, in the range of torch's generators."""
    number = _integer(text)
    if not -(2**63) <= number < 2**64:
        raise argparse.ArgumentTypeError(f"must be from {-(2**63)} to {2**64 - 1}, but is {text}")
    return number


def deviation(text: str) -> float:
    """Reads a standard deviation."""
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, but is {text}") from error
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be finite and not negative, but is {text}")
    return number


def coordinate(text: str) -> tuple[int, int]:
    """Reads the row and column of a neuron."""
    try:
        row, column = map(int, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be ROW,COLUMN, but is {text}") from error
    if min(row, column) < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, but is {text}")
    return row, column
