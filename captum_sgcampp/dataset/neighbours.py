"""Whether what a model returns for an image depends on the other images of its batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from captum_sgcampp.rounding import equal_up_to_rounding


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
    n_rows, rest = divmod(len(output), len(images))
    with torch.random.fork_rng({output.device.index} if output.is_cuda else ()):
        for place in (len(images) - 1, 0):
            image = images[place : place + 1]
            alone, dtypes = run(image)
            together = output[place * n_rows : (place + 1) * n_rows]
            if rest or len(alone) != n_rows or not _equal(together, alone, dtypes):
                return _equal(run(image).output, alone, dtypes)
    return False


def _equal(values: Tensor, reference: Tensor, dtypes: set[torch.dtype]) -> bool:
    if not reference.is_floating_point():
        values, reference = values.double(), reference.double()
    return equal_up_to_rounding(values, reference, dtypes)
