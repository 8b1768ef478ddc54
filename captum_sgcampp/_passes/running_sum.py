"""Sums derivatives over noise samples, and notes whether these have the same gradient."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_sgcampp._passes.sources import PassDerivatives
from captum_sgcampp.formulas import Derivatives, over_positions

SAME_GRADIENT = 16
"""Gradients count as the same if they differ by less than this many units in the last place of the largest.

Where everything above the layer is affine, only rounding can make them differ: on eight networks of torchvision, in
float32 and with 1, 4 and 12 noisy images in a pass, they did not differ at all. The smallest real effect of noise was a
thousand units, for a hundredth of the paper's noise and with a single layer normalization above.
"""


@dataclass
class RunningSum:
    """The derivatives at one layer tensor, summed over the noise samples so far."""

    n_samples: int = 0
    same_gradient: bool = True
    total: Derivatives | None = None
    first_gradient: Tensor | None = field(default=None, repr=False)

    def add(self, derivatives: PassDerivatives) -> None:
        """Adds the samples of a pass."""
        if self.same_gradient:
            if self.first_gradient is None:
                self.first_gradient = derivatives.gradients[0].detach().clone()  # so that the rest can be freed
            self.same_gradient = same_gradient(derivatives.gradients, self.first_gradient)
        self.n_samples += len(derivatives.gradients)
        self.total = derivatives.summed if self.total is None else self.total + derivatives.summed

    def mean(self) -> Derivatives:
        """The mean over the samples."""
        assert self.total is not None, "there is always one pass"
        return self.total / self.n_samples


def same_gradient(gradients: Tensor, first: Tensor) -> bool:
    r"""Whether all noise samples have the first one's gradient, relative to the largest of each example and channel.

    Args:
        gradients: (n, N, C, \*spatial).
        first: (N, C, \*spatial).
    """
    tolerance = SAME_GRADIENT * torch.finfo(first.dtype).eps * over_positions(torch.amax, first.abs())
    return bool(((gradients - first).abs() <= tolerance).all())
