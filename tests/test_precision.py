"""Kinds of floating point numbers, the scale of the score, and activations that are not finite."""

import math
import warnings
from typing import Any

import pytest
import torch
from helpers import ALPHAS, method_for, one
from models import TARGETS, cut_inputs, cut_model
from oracle import CutModel, expected, inputs_seen, noisy_copies, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus


def noise(n_samples: int, stdevs: float = 0.15) -> dict[str, Any]:
    """The arguments that only Smooth Grad-CAM++ takes."""
    return {"n_samples": n_samples, "stdevs": stdevs} if n_samples else {}


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
    method = method_for(n_samples)(model, model.layer)
    attribution = one(method.attribute(cut_inputs(dtype=dtype), target=1, **noise(n_samples)))
    assert attribution.dtype == dtype


@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("alpha", ["bounded", "eq5"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision(dtype: torch.dtype, tolerance: float, alpha: str, n_samples: int) -> None:
    half = cut_model(dtype=dtype)
    single = cut_model(dtype=dtype).float()  # the very same weights
    inputs = cut_inputs(dtype=dtype)
    torch.manual_seed(0)
    with inputs_seen(half) as seen:
        method = method_for(n_samples)(half, half.layer, alpha=alpha)
        attribution = one(method.attribute(inputs, target=TARGETS, **noise(n_samples)))
    assert attribution.dtype == torch.float32
    assert attribution.isfinite().all()
    wanted = expected(single, inputs, noisy_copies(seen), TARGETS, alpha)
    assert relative_error(attribution, wanted) < tolerance


@pytest.mark.parametrize("n_samples", [0, 3])
def test_autocast(n_samples: int) -> None:
    # Smooth, as which side of a ReLU's kink a noisy copy is on would be left to rounding in bfloat16.
    model, inputs = cut_model(smooth=True, dtype=torch.float32), cut_inputs(dtype=torch.float32)
    method = method_for(n_samples)(model, model.layer)
    kinds: list[torch.dtype] = []
    handle = model.layer.register_forward_hook(lambda _module, _args, output: kinds.append(output.dtype))
    torch.manual_seed(0)
    with inputs_seen(model) as seen, torch.autocast("cpu", torch.bfloat16):
        attribution = one(method.attribute(inputs, target=TARGETS, **noise(n_samples)))
    handle.remove()
    assert set(kinds) == {torch.bfloat16}  # autocast was in force
    assert attribution.dtype == torch.float32
    assert attribution.isfinite().all()
    wanted = expected(model, inputs, noisy_copies(seen), TARGETS)
    assert relative_error(attribution, wanted) < 0.1


@pytest.mark.parametrize("n_samples", [0, 4])
@pytest.mark.parametrize("factor", [1e-12, 1e-9, 1e-6, 1e-3, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_any_scale_of_the_score(alpha: str, factor: float, n_samples: int) -> None:
    model, inputs = cut_model(dtype=torch.float32), cut_inputs(dtype=torch.float32)
    model.above = Scaled(model.above, factor)
    torch.manual_seed(0)
    with inputs_seen(model) as seen:
        method = method_for(n_samples)(model, model.layer, alpha=alpha)
        attribution = one(method.attribute(inputs, target=TARGETS, **noise(n_samples, stdevs=0.05)))
    wanted = expected(model, inputs, noisy_copies(seen), TARGETS, alpha)
    assert relative_error(attribution, wanted) < 2e-5


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**-20])
@pytest.mark.parametrize("n_samples", [0, 3])
def test_small_scores_give_the_same_map_in_other_units(n_samples: int, factor: float) -> None:
    """Where the sum's term does not count beside 2 D2, the map goes with the score's scale, exactly."""
    model, inputs = cut_model(dtype=torch.float32), cut_inputs(dtype=torch.float32)
    head = model.above
    maps = []
    for extra in (1.0, 2.0**-10):
        model.above = Scaled(head, factor * 2.0**-20 * extra)
        torch.manual_seed(0)
        maps.append(one(method_for(n_samples)(model, model.layer).attribute(inputs, TARGETS, **noise(n_samples))))
    assert relative_error(maps[1] * 2.0**10, maps[0]) < 1e-6


@pytest.mark.parametrize("n_samples", [0, 4])
@pytest.mark.parametrize(("factor", "tolerance"), [(1e-39, 1e-4), (1e-30, 2e-5), (1e20, 2e-5), (1e22, 2e-5)])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_smallest_and_the_largest_gradients(alpha: str, factor: float, tolerance: float, n_samples: int) -> None:
    """In float32, 1e-39 is subnormal: its last place is 1e-6 of it, and some such errors add up in the gradient."""
    model, inputs = cut_model(dtype=torch.float32), cut_inputs(dtype=torch.float32)
    model.above = Scaled(model.above, factor)
    torch.manual_seed(0)
    with inputs_seen(model) as seen:
        method = method_for(n_samples)(model, model.layer, alpha=alpha)
        attribution = one(method.attribute(inputs, target=TARGETS, **noise(n_samples, stdevs=0.05)))
    wanted = expected(model, inputs, noisy_copies(seen), TARGETS, alpha)
    assert relative_error(attribution, wanted) < tolerance


class Offset(nn.Module):
    """Adds a number to one activation of a channel."""

    def __init__(self, offset: float, channel: int) -> None:
        super().__init__()
        self.offset = offset
        self.channel = channel

    def forward(self, activation: Tensor) -> Tensor:
        offset = torch.zeros_like(activation)
        offset[:, self.channel, 1, 2] = self.offset
        return activation + offset


class Unread(nn.Module):
    """Does not read one channel of the layer, or not where it is large."""

    def __init__(self, head: nn.Module, channel: int, only_where_large: bool = False) -> None:
        super().__init__()
        self.head = head
        self.channel = channel
        self.only_where_large = only_where_large

    def forward(self, activation: Tensor) -> Tensor:
        unread = torch.zeros_like(activation, dtype=torch.bool)
        unread[:, self.channel] = True
        if self.only_where_large:
            unread &= activation > 1e30
        scores: Tensor = self.head(activation.masked_fill(unread, 0))
        return scores


@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
@pytest.mark.parametrize(
    "how",
    [
        *({"alpha": alpha, "derivatives": derivatives} for alpha in ALPHAS for derivatives in ("powers", "exp")),
        {"derivatives": "autograd"},
    ],
)
def test_infinite_activations_do_not_count_where_their_channel_does_not(
    how: dict[str, Any], infinite: float, n_samples: int
) -> None:
    plain, inputs = cut_model(rectified=False, smooth=True), cut_inputs()
    above = Unread(plain.above, channel=1)
    model = CutModel(plain.below, nn.Sequential(plain.layer, Offset(infinite, channel=1)), above)
    with_all, without = (
        method_for(n_samples)(network, "layer", **how) for network in (model, CutModel(plain.below, plain.layer, above))
    )
    options: dict[str, Any] = {"target": TARGETS, "relu_attributions": False}

    def attribute(method: LayerGradCamPlusPlus, **selection: Any) -> Tensor:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return one(method.attribute(inputs, **options, **noise(n_samples), **selection))

    wanted = attribute(without, filters=[0, 2], attr_dim_summation=True)
    assert relative_error(attribute(with_all), wanted) < 1e-12
    by_channel = attribute(with_all, attr_dim_summation=False)
    assert not by_channel[:, 1].any()
    assert relative_error(by_channel[:, [0, 2]], attribute(without, filters=[0, 2])) < 1e-12


@pytest.mark.parametrize("n_samples", [0, 3])
def test_infinite_activations_in_a_channel_that_counts_are_said(n_samples: int) -> None:
    plain, inputs = cut_model(rectified=False, smooth=True), cut_inputs()
    model = CutModel(
        plain.below,
        nn.Sequential(plain.layer, Offset(math.inf, channel=1)),
        Unread(plain.above, channel=1, only_where_large=True),
    )
    with pytest.warns(UserWarning, match=r"^layer: the activations of 'layer' .* are not all finite") as caught:
        method_for(n_samples)(model, "layer").attribute(inputs, TARGETS, **noise(n_samples))
    assert len(caught) == 1


@pytest.mark.parametrize("n_samples", [0, 3])
def test_activations_whose_sum_overflows_are_said(n_samples: int) -> None:
    """Each is finite in float32, and so is the sum in float64."""

    class Downscaled(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.head = head

        def forward(self, activation: Tensor) -> Tensor:
            scores: Tensor = self.head(activation / 2e38)
            return scores

    class Large(nn.Module):
        def forward(self, activation: Tensor) -> Tensor:
            return 1e38 + 1e38 * activation.sigmoid()

    def attribute(dtype: torch.dtype) -> Tensor:
        plain = cut_model(rectified=False, smooth=True, dtype=dtype)
        model = CutModel(plain.below, nn.Sequential(plain.layer, Large()), Downscaled(plain.above))
        inputs = cut_inputs(dtype=dtype)
        return one(method_for(n_samples)(model, "layer").attribute(inputs, TARGETS, **noise(n_samples)))

    with pytest.warns(UserWarning, match=r"^layer: the activations of 'layer' .* overflow") as caught:
        attribute(torch.float32)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attribute(torch.float64).isfinite().all()


@pytest.mark.parametrize("n_samples", [0, 3])
def test_gradients_that_are_too_small_for_float16_are_said(n_samples: int) -> None:
    """The map is blank then, and that of float32 is not."""
    plain = cut_model(dtype=torch.float16)
    half = CutModel(plain.below, plain.layer, nn.Sequential(*plain.above, Scaled(nn.Identity(), 1e-9)))  # type: ignore[misc]
    inputs, options = cut_inputs(dtype=torch.float16), noise(n_samples)
    with pytest.warns(UserWarning, match=r"^layer: the gradients of 'layer' .* zero for an example.* float16"):
        attribution = one(method_for(n_samples)(half, "layer").attribute(inputs, TARGETS, **options))
    assert not attribution.any()
    single = one(method_for(n_samples)(half.float(), "layer").attribute(inputs.float(), TARGETS, **options))
    assert single.any()


def test_a_blank_map_of_float32_is_not_said_to_be_too_small() -> None:
    """Warnings are errors in the tests."""
    model = cut_model(dtype=torch.float32)
    blank = CutModel(model.below, model.layer, nn.Sequential(*model.above, Scaled(nn.Identity(), 0.0)))  # type: ignore[misc]
    assert not one(LayerGradCamPlusPlus(blank, "layer").attribute(cut_inputs(dtype=torch.float32), TARGETS)).any()
