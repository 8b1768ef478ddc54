"""Whether what a model returns for an image depends on the other images of its batch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._probe.pass_state import PassState
from captum_sgcampp._probe.rounding import are_influenced


class Outcome(NamedTuple):
    """What a model returned."""

    output: Tensor
    dtypes: set[torch.dtype]
    """What it computes in, as far as can be seen."""


def depends_on_neighbours(
    images: Tensor, output: Tensor, run: Callable[[Tensor], Outcome], modules: Sequence[Module]
) -> bool:
    """Compares the outputs for the last and the first image of a batch with those for the images alone.

    Shapes do not show it: a batch norm without running statistics returns a row for each image too. Models that limit
    what goes through an expert drop the last images; the first is for those that divide by the largest value of all,
    which the last may have.

    Args:
        images: The images, (N, ...).
        output: What the model returned for them.
        run: Runs the model. One that is random by itself is found out by a second run.
        modules: The modules of the model, each by itself. Their buffers and torch's generator are left as they were.
    """
    n_images = len(images)
    if len(output) % n_images:
        return True
    before = PassState(modules, [output])
    try:
        return any(_is_influenced(images, output, place, run, modules) for place in (n_images - 1, 0))
    finally:
        before.restore()


def _is_influenced(
    images: Tensor, output: Tensor, place: int, run: Callable[[Tensor], Outcome], modules: Sequence[Module]
) -> bool:
    """Whether the output for an image depends on the others."""
    image, of_images = images[place : place + 1], output.chunk(len(images))
    alone, dtypes = run(image)
    if len(alone) != len(of_images[place]):
        return True
    return are_influenced(
        [of_images[place]],
        [alone],
        torch.stack(of_images),
        again=lambda: [run(image).output],
        repeated=lambda: [[of_copy] for of_copy in run(torch.cat([image] * len(images))).output.chunk(len(images))],
        dtypes={alone.dtype, *dtypes},
        modules=modules,
    )
