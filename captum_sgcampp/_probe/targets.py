"""The targets that Captum takes, and integers of other libraries in their place."""

import operator
from typing import Any

import torch
from torch import Tensor

from captum_sgcampp._captum import TargetType, _select_targets


def as_target(target: Any) -> TargetType:
    """Converts a target of NumPy's integers, or a tensor of a small integer type, to one that Captum takes."""
    if isinstance(target, Tensor):
        small = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
        return target.long() if small else target
    if isinstance(target, list):
        return [_as_integers(one) for one in target]
    return _as_integers(target)  # type: ignore[no-any-return]


def select_scores(output: Tensor, target: TargetType) -> Tensor:
    """Selects the class score S of each example, as Captum selects targets.

    Raises:
        AssertionError: The target does not fit the output, or leaves several scores for an example.
        IndexError: The target is not one of the classes.
        RuntimeError: The target of an example is not one of the classes, or not an integer.
    """
    _require_classes(output, target)
    try:
        scores: Tensor = _select_targets(output, target)
    except AssertionError as error:
        if output.dim() > 1:
            raise
        raise AssertionError(
            f"{error} A target chooses among the classes, the second dimension of (N, classes), and forward_func "
            "returned one only. If it has one score for each example, leave the target out; if squeeze() removed "
            "the dimension of a single example, write squeeze(1) or flatten(1)."
        ) from None
    except RuntimeError as error:
        raise RuntimeError(
            f"target: {target!r} does not select a score for each row of an output of shape {tuple(output.shape)}: "
            f"{error}"
        ) from error
    assert scores.dim() > 0 and scores[0].numel() == 1, (
        "Target not provided when necessary, cannot take gradient with respect to multiple outputs: "
        f"target={target!r} selects {tuple(scores.shape)} of an output of shape {tuple(output.shape)}, "
        "where one score for each example is needed."
    )
    return scores


def _require_classes(output: Tensor, target: TargetType) -> None:
    """Raises what torch does, before a GPU would end the process, if the target of an example is not a class."""
    of_examples = target.tolist() if isinstance(target, Tensor) and target.dim() == 1 and len(target) > 1 else target
    if not isinstance(of_examples, list) or output.dim() != 2 or len(of_examples) != len(output):
        return
    for one in of_examples:
        if isinstance(one, int) and not 0 <= one < output.shape[1]:
            raise RuntimeError(
                f"target: {one} is out of range; with a target for each example, they are 0 to {output.shape[1] - 1}."
            )


def _as_integers(target: Any) -> Any:
    """Integers, also those in a tuple, as Python's own; anything else as it is, for Captum to refuse."""
    if isinstance(target, tuple):
        return tuple(map(_as_integers, target))
    if isinstance(target, (bool, Tensor)):
        return target
    try:
        return operator.index(target)
    except TypeError:
        return target
