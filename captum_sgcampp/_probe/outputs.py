"""Checks what the model returns."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from captum_sgcampp._probe.tensor_kinds import unsuitable

_USUAL_NAMES = ("logits", "out", "scores", "output", "predictions", "pred_logits")


def require_consumed(output: object) -> None:
    """Raises a TypeError if the model has not run yet: it returned a generator or a coroutine.

    Args:
        output: What the model returned.
    """
    if inspect.isgenerator(output):
        raise TypeError(
            "forward_func: returned a generator, so its layers run only when that is consumed. Return a tensor, as in "
            "forward_func=lambda *args: next(model(*args))."
        )
    if inspect.iscoroutine(output):
        output.close()  # otherwise Python warns that it was never awaited
        raise TypeError(
            "forward_func: returned a coroutine, so its layers run only when that is awaited. Return a tensor, as in "
            "forward_func=lambda *args: asyncio.run(model(*args))."
        )
    if inspect.isasyncgen(output):
        raise TypeError(
            "forward_func: returned an asynchronous generator, so its layers run only when that is consumed. Return a "
            "tensor."
        )


def require_scores(output: object) -> Tensor:
    """Returns the scores if they are real numbers, with a dimension for the examples.

    Args:
        output: What the model returned.

    Raises:
        AssertionError: The scores have no dimensions; Captum too refuses them so.
        TypeError: They are not a tensor, or one that has no gradients.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"forward_func: must return a tensor of scores, but returned {type(output).__name__}. " + _advice(output)
        )
    kind = unsuitable(output)
    if kind:
        raise TypeError(
            f"forward_func: must return scores that are real floating-point numbers, which have gradients, but "
            f"returned {kind}."
        )
    assert output.dim(), (
        "forward_func: returned a tensor of shape (), where one score for each example is needed, (N, ...). squeeze() "
        "without a dimension removes that of the examples too if there is only one; write squeeze(1) or flatten(1)."
    )
    return output


def _advice(output: Any) -> str:
    """How to get at the scores within what the model returned."""
    tensors = [access for access, value in _entries(output).items() if isinstance(value, Tensor)]
    if not tensors:
        return "Let it return a tensor of torch, with the scores of each example in a row."
    usual = [access for name in _USUAL_NAMES for access in tensors if access.strip(".[']") == name]
    others = f" (its tensors are at {', '.join(tensors[:8])})" if len(tensors) > 1 else ""
    return (
        f"Wrap it, as in forward_func=lambda *args: model(*args){[*usual, *tensors][0]}{others}; the layer must then "
        "be a module, not a name."
    )


def _entries(output: Any) -> dict[str, Any]:
    """What an output holds, each by the Python code that gets at it: an index, a key or an attribute."""
    attributes: dict[str, Any] = getattr(output, "__dict__", {})
    if isinstance(output, Mapping):
        return {f".{key}" if key in attributes else f"[{key!r}]": value for key, value in output.items()}
    if hasattr(output, "_asdict"):  # a named tuple
        attributes = output._asdict()
    elif isinstance(output, (tuple, list)):
        return {f"[{place}]": value for place, value in enumerate(output)}
    return {f".{name}": value for name, value in attributes.items()}
