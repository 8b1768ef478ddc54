"""Kinds of floating point numbers, and the scale of the score."""

from collections.abc import Callable

import pytest
import torch
from models import TARGETS, cut_inputs, cut_model
from oracle import expected, inputs_seen, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

ALPHAS = ["bounded", "eq5", "eq7"]


class Scaled(nn.Module):
    """A score in other units."""

    def __init__(self, head: nn.Module, factor: float) -> None:
        super().__init__()
        self.head = head
        self.factor = factor

    def forward(self, activation: Tensor) -> Tensor:
        scores: Tensor = self.factor * self.head(activation)
        return scores


@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(dtype: torch.dtype, n_samples: int) -> None:
    model = cut_model(dtype=dtype)
    attribution = LayerSmoothGradCAMpp(model, model.layer).attribute(
        cut_inputs(dtype=dtype), target=1, n_samples=n_samples
    )
    assert isinstance(attribution, Tensor)
    assert attribution.dtype == dtype


@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("alpha", ALPHAS[:2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision(dtype: torch.dtype, tolerance: float, alpha: str, n_samples: int) -> None:
    half = cut_model(dtype=dtype)
    single = cut_model(dtype=dtype).float()  # the very same weights
    inputs = cut_inputs(dtype=dtype)
    with inputs_seen(half) as seen:
        attribution = LayerSmoothGradCAMpp(half, half.layer, alpha=alpha).attribute(
            inputs, target=TARGETS, n_samples=n_samples
        )
    assert isinstance(attribution, Tensor)
    assert attribution.dtype == torch.float32
    assert attribution.isfinite().all()
    wanted = expected(single, inputs, [args[0] for args in seen[1:]], TARGETS, alpha)
    assert relative_error(attribution, wanted) < tolerance


@pytest.mark.parametrize("n_samples", [0, 3])
def test_autocast(n_samples: int) -> None:
    model, inputs = cut_model(dtype=torch.float32), cut_inputs(dtype=torch.float32)
    method = LayerSmoothGradCAMpp(model, model.layer)
    kinds: list[torch.dtype] = []
    handle = model.layer.register_forward_hook(lambda _module, _args, output: kinds.append(output.dtype))
    with inputs_seen(model) as seen, torch.autocast("cpu", torch.bfloat16):
        attribution = method.attribute(inputs, target=TARGETS, n_samples=n_samples)
    handle.remove()
    assert set(kinds) == {torch.bfloat16}  # autocast was in force
    assert isinstance(attribution, Tensor)
    assert attribution.dtype == torch.float32
    assert attribution.isfinite().all()
    wanted = expected(model, inputs, [args[0] for args in seen[1:]], TARGETS)
    assert relative_error(attribution, wanted) < 0.1


@pytest.mark.parametrize("n_samples", [0, 4])
@pytest.mark.parametrize("factor", [1e-12, 1e-9, 1e-6, 1e-3, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_any_scale_of_the_score(alpha: str, factor: float, n_samples: int) -> None:
    model, inputs = cut_model(dtype=torch.float32), cut_inputs(dtype=torch.float32)
    model.above = Scaled(model.above, factor)
    with inputs_seen(model) as seen:
        attribution = LayerSmoothGradCAMpp(model, model.layer, alpha=alpha).attribute(
            inputs, target=TARGETS, n_samples=n_samples, stdevs=0.05
        )
    assert isinstance(attribution, Tensor)
    wanted = expected(model, inputs, [args[0] for args in seen[1:]], TARGETS, alpha)
    assert relative_error(attribution, wanted) < 2e-5


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**-20])
@pytest.mark.parametrize("build", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp])
def test_small_scores_give_the_same_map_in_other_units(
    build: Callable[..., LayerGradCamPlusPlus], factor: float
) -> None:
    """Where the sum's term does not count beside 2 D2, the map goes with the score's scale, exactly."""
    model, inputs = cut_model(dtype=torch.float32), cut_inputs(dtype=torch.float32)
    head = model.above
    maps = []
    for extra in (1.0, 2.0**-10):
        model.above = Scaled(head, factor * 2.0**-20 * extra)
        attribution = build(model, model.layer).attribute(inputs, target=TARGETS)
        assert isinstance(attribution, Tensor)
        maps.append(attribution)
    assert relative_error(maps[1] * 2.0**10, maps[0]) < 1e-6
