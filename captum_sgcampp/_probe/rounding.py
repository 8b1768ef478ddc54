"""Whether rows influence one another in a model, or what it returns for them differs by rounding alone."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._torch import BatchNorm

ROUNDING, OF_HALF = 64, 2
"""A difference of less than this many units in the last place of the largest value is rounding.

The algorithms of convolutions and matrix products change with the size of a batch. On 40 networks of torchvision, timm
and EfficientNet-Lite, an image alone and the same image beside five others differed by at most 19 units in float32 and
float64, at any layer, and by 2 in half precision, where 64 would be a large difference.
"""
LARGEST_ROUNDING = 0.05
"""More than this is never rounding: 6 units of bfloat16."""


def relative_difference(values: Sequence[Tensor], reference: Sequence[Tensor], samples: Tensor | None = None) -> float:
    """The largest difference between what a model returned for the same rows in two passes.

    Args:
        values: The output of one pass, and the tensors of the layers.
        reference: Those of the other.
        samples: The output for noisy copies of these rows, (n, N, ...), or for others. Scores that are the same for
            all of them, such as those of masked classes, may be of another size, and are not what differences are
            compared with; how far the others vary is, where all are near zero.

    Returns:
        The difference in units of the largest score, or of the largest activation of the layer. Infinite where
        something has another shape, or is finite in one of them only.
    """
    differences = [0.0]
    for number, (found, wanted) in enumerate(zip(map(_exact, values), map(_exact, reference), strict=True)):
        finite = wanted.isfinite()
        if found.shape != wanted.shape or not torch.equal(finite, found.isfinite()):
            return torch.inf
        sizes = wanted.abs()
        if not number and samples is not None:
            variation = (_exact(samples) - wanted).abs().nan_to_num(0, 0).amax(dim=0)
            sizes = torch.maximum(sizes * (variation > 0), variation) if variation.any() else sizes
        difference, size = (found - wanted)[finite].abs(), sizes[finite]
        if difference.any():
            differences.append(float(difference.max() / size.max()))
    return max(differences)


def _exact(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def are_influenced(
    together: Sequence[Tensor],
    alone: Sequence[Tensor],
    samples: Tensor,
    again: Callable[[], Sequence[Tensor]],
    repeated: Callable[[], Iterable[Sequence[Tensor]]],
    dtypes: Iterable[torch.dtype],
    modules: Iterable[Module],
) -> bool:
    """Whether what a model returns for some rows depends on the other rows of the pass.

    Args:
        together: The output and the tensors of the layers for these rows, in a pass with others.
        alone: The same, in a pass of these rows alone.
        samples: As in :func:`relative_difference`.
        again: Runs these rows alone once more, which shows whether the model is random. Not called without need.
        repeated: Runs a pass of copies of these rows, as large as that with the others, which shows how much rounding
            and randomness there is in it. Yields the same for each copy. Not called without need.
        dtypes: What the model computes in, as far as can be seen; the least precise counts.
        modules: The modules of the model, each by itself. With a batch norm that joins the examples, any difference
            above rounding is enough, also if the model is random.
    """
    epsilon = max(_epsilon(dtype, samples.device) for dtype in dtypes)
    bound = min(ROUNDING * epsilon, max(ROUNDING * torch.finfo(torch.float32).eps, OF_HALF * epsilon))
    difference = relative_difference(together, alone, samples)
    if difference <= bound or any(map(_joins_examples, modules)):
        return difference > bound
    by_itself = relative_difference(again(), alone, samples)
    if by_itself <= bound and difference > LARGEST_ROUNDING:
        return True
    control = max(relative_difference(copy, alone, samples) for copy in repeated())
    if by_itself <= bound:
        return difference > 2 * control + bound
    # Two runs of a random model differ about as much as equal copies in one run do.
    return control > 100 * by_itself or difference > 4 * control + bound


def _joins_examples(module: Module) -> bool:
    return isinstance(module, BatchNorm) and (module.training or module.running_mean is None)


def _epsilon(dtype: torch.dtype, device: torch.device) -> float:
    """The unit in the last place of 1, in the precision in which products of this dtype may be computed."""
    if not dtype.is_floating_point:
        return 0.0
    epsilon = torch.finfo(dtype).eps
    if dtype != torch.float32:
        return epsilon
    if torch.get_float32_matmul_precision() == "medium":
        return torch.finfo(torch.bfloat16).eps
    # Convolutions on a GPU use TensorFloat32, with 10 bits, unless that is switched off.
    return epsilon if device.type == "cpu" and torch.get_float32_matmul_precision() == "highest" else 2.0**-10
