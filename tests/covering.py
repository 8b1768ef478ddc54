"""A choice from the product of a test's parameters, in which every pair of values occurs."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations


def parts_of(row: Sequence[Hashable]) -> set[tuple[tuple[int, Hashable], ...]]:
    """Every value of a row, and every pair of them, each value with its column."""
    values = list(enumerate(row))
    return {*combinations(values, 1), *combinations(values, 2)}


def covering(rows: Iterable[Sequence[Hashable]]) -> list[int]:
    """The numbers of some of the rows, in order, that have every pair of values of the columns that all rows have.

    Nearly every mistake that depends on parameters depends on one or two of them. The rows are taken one by one, each
    time the first of those that bring the most pairs that are not there yet, so the choice is the same each time.
    """
    left = [parts_of(row) for row in rows]
    chosen = []
    while any(left):
        best = max(range(len(left)), key=lambda number: len(left[number]))
        chosen.append(best)
        covered = left[best]
        left = [parts - covered for parts in left]
    return sorted(chosen)
