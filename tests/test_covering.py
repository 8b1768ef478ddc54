"""What the default run leaves to CI: all pairs of parameters are tried, and what is left out is said."""

from itertools import product
from pathlib import Path

import pytest
from covering import covering, parts_of

pytest_plugins = ["pytester"]


def parts_of_all(rows: list[tuple[int, ...]]) -> set[object]:
    return set().union(*(parts_of(row) for row in rows))


@pytest.mark.parametrize("sizes", [(1,), (5,), (2, 3), (2, 2, 2), (3, 3, 2, 2, 2), (6, 4, 3, 2), (2,) * 8], ids=str)
def test_every_pair_is_chosen_once_at_least(sizes: tuple[int, ...]) -> None:
    rows = list(product(*map(range, sizes)))
    chosen = covering(rows)
    assert parts_of_all([rows[number] for number in chosen]) == parts_of_all(rows)
    assert chosen == sorted(set(chosen)) == covering(rows)
    largest, second = (*sorted(sizes, reverse=True), 1)[:2]
    assert len(chosen) <= 2 * largest * second


def test_rows_that_are_no_product() -> None:
    assert covering([]) == []
    assert covering([(0, 0), (1, 1), (1, 1)]) == [0, 1]


TESTS = """
import pytest

@pytest.mark.pairwise
@pytest.mark.parametrize("a", range(2))
@pytest.mark.parametrize("b", range(2))
@pytest.mark.parametrize("c", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_product(a, b, c):
    pass

@pytest.mark.slow
def test_of_ci():
    pass

@pytest.mark.skip(reason="there is no such thing")
def test_of_nobody():
    pass
"""


def prepare(pytester: pytest.Pytester) -> None:
    """A folder with `TESTS` and the settings of this one."""
    here = Path(__file__).parent
    for file in ("conftest.py", "covering.py"):
        pytester.makepyfile(**{file.removesuffix(".py"): (here / file).read_text("utf-8")})
    pytester.makeini("[pytest]\nmarkers =\n  slow\n  pairwise\naddopts = -m 'not slow'")
    pytester.makepyfile(test_some=TESTS)


@pytest.mark.parametrize("options", [(), pytest.param(("-n1",), marks=pytest.mark.slow)], ids=str)
def test_the_last_lines_say_what_is_left_out(options: tuple[str, ...], pytester: pytest.Pytester) -> None:
    if options == ("-n1",):
        pytest.importorskip("xdist")
    prepare(pytester)
    outcome = pytester.runpytest(*options)
    outcome.assert_outcomes(passed=5, skipped=1, deselected=0 if "-n1" in options else 8)
    outcome.stdout.fnmatch_lines(
        [
            "Left out, and run by CI with `pytest -m slow`: 8 tests, 8 of them in test_some.py",
            "Skipped: 1 test, there is no such thing",
        ],
        consecutive=True,
    )


def test_nothing_is_said_where_nothing_is_left_out(pytester: pytest.Pytester) -> None:
    prepare(pytester)
    outcome = pytester.runpytest("-m", "slow or not slow")
    outcome.assert_outcomes(passed=13, skipped=1)
    outcome.stdout.no_fnmatch_line("Left out*")
