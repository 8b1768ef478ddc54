"""Whether two outputs of a model are the same but for rounding."""

from collections.abc import Iterable

import torch
from torch import Tensor


def equal_up_to_rounding(values: Tensor, reference: Tensor, dtypes: Iterable[torch.dtype] = ()) -> bool:
    """Compares what a model returned for the same examples in two passes of different size.

    Convolution algorithms change with the size of a batch, and with them the rounding. Outputs count as the same if
    they agree in half of the digits, relative to the largest value.

    Args:
        values: The values of one pass.
        reference: The values of the other, in the same shape.
        dtypes: Further dtypes that the model computes in, the least precise of which matters.
    """
    finite = reference.isfinite()
    if not torch.equal(finite, values.isfinite()):
        return False
    difference, size = (values - reference)[finite].abs(), reference[finite].abs()
    epsilon = max(torch.finfo(dtype).eps for dtype in (reference.dtype, *dtypes) if dtype.is_floating_point)
    return not size.numel() or bool(difference.max() <= epsilon**0.5 * size.max())
