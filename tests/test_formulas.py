"""The pure functions on tensors."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captum_sgcampp import formulas
from captum_sgcampp.formulas import Alpha, Derivatives

SHAPE = (2, 3, 4, 5)
values = st.floats(-(2.0**50), 2.0**50, width=32) | st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 1e-8, -1e-8])


def gradients(n: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *(shape or SHAPE), generator=generator, dtype=torch.float64).to(dtype)


def fields(derivatives: Derivatives) -> list[Tensor]:
    return [getattr(derivatives, field.name) for field in dataclasses.fields(derivatives)]


def unscaled(derivatives: Derivatives) -> tuple[Tensor, Tensor, Tensor]:
    """D1, D2, D3 in float64."""
    scale = derivatives.scale.double()
    return (
        derivatives.first.double() * scale,
        derivatives.second.double() * scale**2,
        derivatives.third.double() * scale**3,
    )


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 3, 4)])
def test_sums_of_powers(shape: tuple[int, ...]) -> None:
    samples = gradients(4, *shape)
    for power, derivative in enumerate(unscaled(formulas.sum_of_powers(samples)), start=1):
        wanted = torch.stack([sample**power for sample in samples]).sum(dim=0)
        torch.testing.assert_close(derivative, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("split", [(1, 6), (3, 4), (6, 1), (2, 2, 3), (1, 1, 1, 1, 1, 1, 1)])
def test_sums_do_not_depend_on_how_samples_are_split(split: tuple[int, ...]) -> None:
    samples = gradients(7)
    samples *= torch.logspace(-6, 6, 7, dtype=torch.float64).reshape(7, 1, 1, 1, 1)  # each chunk has another scale
    total, *others = map(formulas.sum_of_powers, torch.split(samples, list(split)))
    for other in others:
        total = total + other
    for actual, wanted in zip(unscaled(total), unscaled(formulas.sum_of_powers(samples)), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=0)


def test_adding_zero_changes_nothing() -> None:
    derivatives = formulas.sum_of_powers(gradients(3))
    zero = formulas.sum_of_powers(torch.zeros(1, *SHAPE, dtype=torch.float64))
    for total in (derivatives + zero, zero + derivatives):
        for actual, wanted in zip(fields(total), fields(derivatives), strict=True):
            assert torch.equal(actual, wanted)


def test_mean_is_the_sum_divided() -> None:
    total = formulas.sum_of_powers(gradients(4))
    for mean, derivative in zip(unscaled(total / 4), unscaled(total), strict=True):
        torch.testing.assert_close(mean, derivative / 4, rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_is_a_power_of_two_for_each_example_and_channel(dtype: torch.dtype) -> None:
    samples = gradients(3, dtype=dtype)
    samples[:, 0, 1] *= 1e-12
    samples[:, 1, 2] *= 1e9
    scale = formulas.sum_of_powers(samples).scale
    assert scale.shape == (2, 3, 1, 1)
    assert scale.dtype == dtype
    mantissa, _ = torch.frexp(scale)
    assert torch.equal(mantissa, torch.full_like(mantissa, 0.5))
    largest = samples.abs().amax(dim=(0, 3, 4), keepdim=True).squeeze(0)
    assert ((scale <= largest) & (largest < 2 * scale)).all()


def test_fields_are_of_the_order_of_one() -> None:
    derivatives = formulas.sum_of_powers(gradients(1) * 1e-100)
    for field in fields(derivatives)[:3]:
        assert 1 <= field.abs().max() < 8


@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("alpha", ["bounded", "eq5"])
def test_gradients_of_any_magnitude_count_in_float32(magnitude: float, alpha: str) -> None:
    """The cube of 1e-30 would be zero in float32, and the weights with it."""
    slopes = gradients(1, dtype=torch.float32)
    activations = gradients(1)[0].abs().float() / magnitude  # so that D3 counts beside D2
    derivatives = formulas.sum_of_powers(slopes * magnitude)
    weights = formulas.grad_cam_pp_weights(formulas.ALPHAS[alpha](derivatives, activations), derivatives)

    slope = (slopes * magnitude)[0].double()
    product = activations.double().sum(dim=(2, 3), keepdim=True) * slope
    wanted = (slope.relu() / (2 + (product.relu() if alpha == "bounded" else product))).sum(dim=(2, 3), keepdim=True)
    assert wanted.abs().min() > 0
    torch.testing.assert_close(weights.double(), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("magnitude", [1e-39, 1e-30, 1.0, 1e20, 1e22])
@pytest.mark.parametrize("alpha", formulas.ALPHAS)
def test_weights_in_float32_are_those_of_float64(alpha: str, magnitude: float) -> None:
    """Also where alpha itself, or a power of the scale, would leave the range of float32.

    1e-39 is subnormal there, and so is the weight that eq. (5) makes of it: its last place is 1e-6 of it.
    """
    slopes = gradients(1, dtype=torch.float32) * magnitude
    activations = gradients(1, dtype=torch.float32)[0].abs()

    def weights(dtype: torch.dtype) -> Tensor:
        derivatives = formulas.sum_of_powers(slopes.to(dtype))  # the same slopes, which float32 has rounded
        return formulas.grad_cam_pp_weights(formulas.ALPHAS[alpha](derivatives, activations.to(dtype)), derivatives)

    slope = slopes[0].double()
    numerator = slope if alpha == "eq7" else slope**2
    total = activations.double().sum(dim=(2, 3), keepdim=True)
    wanted = (numerator / (2 * slope**2 + total * slope**3) * slope.relu()).sum(dim=(2, 3), keepdim=True)
    assert wanted.min() > 0
    torch.testing.assert_close(weights(torch.float64), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(weights(torch.float32).double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("alpha", formulas.ALPHAS)
@pytest.mark.parametrize("activation", [1.0, -1.0, math.inf, -math.inf])
def test_gradients_of_zero_give_weights_of_zero(alpha: str, activation: float) -> None:
    derivatives = formulas.sum_of_powers(torch.zeros(2, *SHAPE))
    activations = torch.full(SHAPE, activation)
    weights = formulas.grad_cam_pp_weights(formulas.ALPHAS[alpha](derivatives, activations), derivatives)
    assert torch.equal(weights, torch.zeros(2, 3, 1, 1))
    assert torch.equal(formulas.weighted_activations(weights, activations, False), torch.zeros(SHAPE))


def plain(first: float, second: float, third: float) -> Derivatives:
    """D1, D2, D3 at one position of one channel."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    return Derivatives(first * one, second * one, third * one, one)


@pytest.mark.parametrize(
    ("alpha", "first", "second", "third", "total", "wanted"),
    [
        ("bounded", 1.0, 2.0, 3.0, 4.0, 2 / 16),
        ("bounded", 1.0, 2.0, -3.0, 4.0, 1 / 2),
        ("bounded", 1.0, 2.0, 3.0, -4.0, 1 / 2),
        ("bounded", 1.0, 0.0, 3.0, 4.0, 0.0),
        ("bounded", 1.0, 0.0, -3.0, 4.0, 0.0),
        ("bounded", 1.0, 0.0, 0.0, 4.0, 0.0),
        ("bounded", 1.0, -2.0, 0.0, 4.0, 0.0),
        ("bounded", 1.0, -2.0, 3.0, 4.0, 0.0),
        ("eq5", 1.0, 2.0, 3.0, 4.0, 2 / 16),
        ("eq5", 1.0, 2.0, -3.0, 4.0, -2 / 8),
        ("eq5", 1.0, 2.0, -1.0, 4.0, 0.0),  # the pole
        ("eq5", 1.0, 0.0, 3.0, 4.0, 0.0),
        ("eq5", 1.0, 0.0, 0.0, 4.0, 0.0),
        ("eq7", 1.0, 2.0, 3.0, 4.0, 1 / 16),
        ("eq7", 1.0, 2.0, -3.0, 4.0, -1 / 8),
        ("eq7", 1.0, 2.0, -1.0, 4.0, 0.0),  # the pole
        ("eq7", 0.0, 2.0, 3.0, 4.0, 0.0),
        ("eq7", 1.0, 0.0, 0.0, 4.0, 0.0),
    ],
)
def test_alpha(alpha: str, first: float, second: float, third: float, total: float, wanted: float) -> None:
    activations = torch.full((1, 1, 1), total, dtype=torch.float64)
    actual = formulas.ALPHAS[alpha](plain(first, second, third), activations)
    assert actual.values.item() == pytest.approx(wanted, rel=1e-15, abs=0)


def test_the_sum_over_j_is_over_the_activations_of_one_channel() -> None:
    ones = torch.ones(2, 3, 4, dtype=torch.float64)
    derivatives = Derivatives(ones, ones, ones, torch.ones(2, 3, 1, dtype=torch.float64))
    activations = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4)
    wanted = (1 / (2 + activations.sum(dim=2, keepdim=True))).expand(2, 3, 4)
    torch.testing.assert_close(formulas.alpha_eq5(derivatives, activations).values, wanted, rtol=1e-15, atol=0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(values, min_size=4, max_size=4), min_size=1, max_size=4),
    st.lists(values, min_size=4, max_size=4),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_bounded_is_between_0_and_a_half(samples: list[list[float]], layer: list[float], dtype: torch.dtype) -> None:
    derivatives = formulas.sum_of_powers(torch.tensor(samples, dtype=dtype).reshape(-1, 1, 2, 2))
    alpha = formulas.alpha_bounded(derivatives, torch.tensor(layer, dtype=dtype).reshape(1, 2, 2)).values
    assert ((alpha >= 0) & (alpha <= 0.5)).all()  # which no NaN is


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(values, values, values),
    st.lists(values, min_size=3, max_size=3),
    st.sampled_from(sorted(formulas.ALPHAS)),
)
def test_zeros_are_never_nan(derivative: tuple[float, float, float], layer: list[float], name: str) -> None:
    """Also where numerator or denominator is zero, and in the gradient by everything that goes in."""
    first, second, third = (
        torch.tensor([[[value, 0.0, 1.0]]], dtype=torch.float64, requires_grad=True) for value in derivative
    )
    activations = torch.tensor([[layer]], dtype=torch.float64, requires_grad=True)
    derivatives = Derivatives(first, second, third, torch.ones(1, 1, 1, dtype=torch.float64))
    alpha = formulas.ALPHAS[name](derivatives, activations).values
    assert alpha.isfinite().all()
    numerator, denominator = (first if name == "eq7" else second), 2 * second + activations.sum() * third
    undefined = numerator == 0 if name == "bounded" else (numerator == 0) | (denominator == 0)
    assert torch.equal(alpha[undefined], torch.zeros(int(undefined.sum()), dtype=torch.float64))
    grads = torch.autograd.grad(alpha.sum(), (first, second, third, activations), allow_unused=True)
    for gradient in grads:
        assert gradient is None or not gradient.isnan().any()


@pytest.mark.parametrize("alpha", formulas.ALPHAS)
def test_the_graph_of_zero_gradients_has_no_nan(alpha: str) -> None:
    slopes = torch.zeros(2, *SHAPE, dtype=torch.float64, requires_grad=True)
    activations = torch.ones(SHAPE, dtype=torch.float64, requires_grad=True)
    derivatives = formulas.sum_of_powers(slopes) / 2
    weights = formulas.grad_cam_pp_weights(formulas.ALPHAS[alpha](derivatives, activations), derivatives)
    total = formulas.weighted_activations(weights, activations, True).sum()
    for gradient in torch.autograd.grad(total, (slopes, activations)):
        assert gradient.isfinite().all()


def test_weights_rectify_the_first_derivative() -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    first = torch.tensor([[[-3.0, 1.0, 2.0]]], dtype=torch.float64)
    alpha = torch.tensor([[[1.0, 0.5, 0.25]]], dtype=torch.float64)
    derivatives = Derivatives(first, first, first, 4 * one)
    assert torch.equal(formulas.grad_cam_pp_weights(Alpha(alpha), derivatives), 4 * one)
    assert torch.equal(formulas.grad_cam_pp_weights(Alpha(alpha, power=-1), derivatives), one)


@pytest.mark.parametrize("sum_channels", [True, False])
def test_weighted_activations(sum_channels: bool) -> None:
    weights = torch.tensor([2.0, -3.0]).reshape(1, 2, 1)
    activations = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    wanted = [[[-7.0, -8.0]]] if sum_channels else [[[2.0, 4.0], [-9.0, -12.0]]]
    assert formulas.weighted_activations(weights, activations, sum_channels).tolist() == wanted


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_scale_cancels_in_the_graph(power: int) -> None:
    """The scale depends on the gradients, and still takes no part in differentiating by them."""
    slopes = gradients(2, 1, 2, 3).requires_grad_()
    derivatives = formulas.sum_of_powers(slopes)
    value = fields(derivatives)[power - 1] * derivatives.scale**power
    (actual,) = torch.autograd.grad(value.sum(), slopes)
    torch.testing.assert_close(actual, power * slopes.detach() ** (power - 1), rtol=1e-13, atol=0)


def test_the_smallest_gradients_do_not_divide_by_zero() -> None:
    smallest = torch.full((1, 1, 1, 2), torch.finfo(torch.float32).smallest_normal / 8)  # subnormal
    derivatives = formulas.sum_of_powers(smallest)
    assert all(field.isfinite().all() for field in fields(derivatives))
    assert math.isclose((derivatives.first.double() * derivatives.scale.double())[0, 0, 0], smallest[0, 0, 0, 0].item())
