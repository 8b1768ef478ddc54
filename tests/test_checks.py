"""The checks of arguments."""

from typing import Any

import numpy as np
import pytest
import torch

from captum_sgcampp._checks import closest, index_of, indices_of, require_choice, require_integer


def test_a_choice_is_one_of_those_named() -> None:
    require_choice("alpha", "eq5", ["bounded", "eq5"])
    with pytest.raises(ValueError, match=r"alpha: must be one of 'bounded', 'eq5', but is 'eq6'\."):
        require_choice("alpha", "eq6", ["bounded", "eq5"])


@pytest.mark.parametrize("value", [0, 7, np.int64(7), 2**70])
def test_integers_of_any_type_are_taken(value: Any) -> None:
    require_integer("n", value, minimum=0)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-1, ValueError, r"n: must be at least 0, but is -1\."),
        (True, TypeError, r"n: must be an integer, but is True\."),
        (1.0, TypeError, r"n: must be an integer, but is 1\.0\."),
        ("1", TypeError, r"n: must be an integer, but is '1'\."),
    ],
)
def test_what_is_no_integer_or_too_small_is_an_error(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        require_integer("n", value, minimum=0)


def test_indices_are_pythons_integers() -> None:
    for values in ([1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2])):
        found = indices_of("filters", values, "channel")
        assert found == (1, 2)
        assert {*map(type, found)} == {int}


@pytest.mark.parametrize("mask", [True, np.bool_(True), torch.tensor(True)])
def test_a_mask_is_no_list_of_indices(mask: Any) -> None:
    with pytest.raises(TypeError, match=r"a mask is not a list of indices"):
        index_of(mask)
    with pytest.raises(TypeError, match=r"filters: must be a list of channel indices, but is .*: a mask is not"):
        indices_of("filters", [mask], "channel")


def test_the_closest_names_begin_with_those_that_have_the_word() -> None:
    known = ["tabby", "tiger cat", "cab", "Egyptian cat", "cart"]
    assert closest("cat", known)[:2] == ["tiger cat", "Egyptian cat"]
    assert "cart" in closest("cat", known)
    assert len(closest("a", [f"a {number}" for number in range(9)])) == 5
    assert not closest("zebra", known)
