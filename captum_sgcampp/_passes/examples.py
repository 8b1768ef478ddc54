"""The inputs: examples in tensors, and a description of what was given instead."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor


def as_examples(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Formats the inputs as a tuple, as Captum does.

    Raises:
        TypeError: They are not tensors.
        ValueError: There are none, or they hold no examples.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors:
        raise ValueError("inputs: is an empty tuple; give at least one tensor, (N, ...).")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            within = f"a tuple with {_in_words(tensor)}" if isinstance(inputs, tuple) else _in_words(tensor)
            raise TypeError(f"inputs: must be a tensor or a tuple of tensors, each (N, ...), but is {within}.")
    if tensors[0].dim() and not len(tensors[0]):
        raise ValueError(f"inputs: there are no examples in a shape of {tuple(tensors[0].shape)}; give at least one.")
    return tensors


def as_one_example(inputs: Any) -> Tensor:
    """The single input of a model, (1, ...).

    Raises:
        TypeError: It is not a tensor.
        ValueError: It is not one example.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs: must be one tensor, (1, ...), but is {_in_words(inputs)}.")
    as_examples(inputs)
    if not inputs.dim() or len(inputs) != 1:
        hint = ". If that has no dimension for the batch, give inputs[None]" if 0 < inputs.dim() < 4 else ""
        raise ValueError(f"inputs: must be one example, (1, ...), but have the shape {tuple(inputs.shape)}{hint}.")
    return inputs


def _in_words(value: Any) -> str:
    """What was given instead of a tensor, and how to make one of it."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        keys = [key for key, one in value.items() if isinstance(one, Tensor)]
        key = "pixel_values" if "pixel_values" in keys else next(iter(keys), None)
        advice = f"; give one of its tensors, inputs[{key!r}]"
        if key is None:
            advice = ", none of which is a tensor; a processor makes tensors with return_tensors='pt'"
        others = ", and the others as additional_forward_args" if len(keys) > 1 else ""
        return f"a {kind} with the keys {', '.join(map(repr, value)) or 'none'}{advice}{others}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array {value.shape}; torch.from_numpy makes a tensor of it, which the model takes as floats"
    if isinstance(value, Image.Image):
        return "a PIL image; give what the preprocessing of the model makes of it, as a tensor (1, C, H, W)"
    if isinstance(value, (tuple, list)):
        kinds = ", ".join(type(one).__name__ for one in value[:5]) or "nothing"
        return (
            f"a {kind} of {kinds}; give the tensor itself, with the images of a batch in one (torch.stack), and what "
            "else the model takes as additional_forward_args"
        )
    return "None" if value is None else f"{value!r:.80}, of type {kind}"
