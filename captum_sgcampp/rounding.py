"""Whether a model returned the same in two passes, but for rounding."""

from collections.abc import Iterable

import torch
from torch import Tensor

ROUNDING = 1024
"""Outputs count as the same if they differ by less than this many units in the last place of the largest.

The algorithms of convolutions and matrix products change with the size of a batch. On 40 networks of torchvision, timm
and EfficientNet-Lite, an image alone and the same image beside five others differed by at most 19 units in float32 and
float64, at any layer, and by 2 in half precision.
"""


def equal_up_to_rounding(values: Tensor, reference: Tensor, dtypes: Iterable[torch.dtype] = ()) -> bool:
    """Compares what a model returned for the same examples in two passes of different size.

    In precisions where :data:`ROUNDING` units are no small number, half of the digits must agree.

    Args:
        values: The values of one pass.
        reference: The values of the other. Another shape is another value.
        dtypes: Further dtypes that the model computes in; the least precise counts.
    """
    if values.shape != reference.shape:
        return False
    finite = reference.isfinite()
    if not torch.equal(finite, values.isfinite()):
        return False
    difference, size = (values - reference)[finite].abs(), reference[finite].abs()
    epsilon = max(_epsilon(dtype, reference.device) for dtype in (reference.dtype, *dtypes))
    return not size.numel() or bool(difference.max() <= min(ROUNDING * epsilon, epsilon**0.5) * size.max())


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
