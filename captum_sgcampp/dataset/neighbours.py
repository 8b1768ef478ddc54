"""Whether what a model returns for an image depends on the other images of its batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from captum_sgcampp.rounding import are_influenced


class Outcome(NamedTuple):
    """What a model returned."""

    output: Tensor
    dtypes: set[torch.dtype]
    """What it computes in, as far as can be seen."""


def depends_on_neighbours(images: Tensor, output: Tensor, run: Callable[[Tensor], Outcome]) -> bool:
    """Compares the outputs for the last and the first image of a batch with those for the images alone.

    Shapes do not show it: a batch norm without running statistics returns a row for each image too. Models that limit
    what goes through an expert drop the last images; the first is for those that divide by the largest value of all,
    which the last may have.

    Args:
        images: The images, (N, ...).
        output: What the model returned for them.
        run: Runs the model. One that is random by itself is found out by a second run. Torch's generator is left as it
            was.
    """
    n_images = len(images)
    if len(output) % n_images:
        return True
    with torch.random.fork_rng({output.device.index} if output.is_cuda else ()):
        return any(_is_influenced(images, output, place, run) for place in (n_images - 1, 0))


def _is_influenced(images: Tensor, output: Tensor, place: int, run: Callable[[Tensor], Outcome]) -> bool:
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
    )
