"""Each equation against the loops of `oracle`, with the noise that the model saw."""

import pytest
import torch
from captum.attr import LayerGradCam
from helpers import ALPHAS, one, smooth_map
from models import CHANNELS, TARGETS, cut_inputs, cut_model
from oracle import (
    by_channel,
    expected,
    gradient,
    gradients_of,
    mean_of_powers,
    pole_distance,
    relative_error,
)
from torch import Tensor

from captum_sgcampp import LayerGradCamPlusPlus

DIMS = [0, 1, 2, 3]


def layer_kinds() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rectified", [True, False], ids=["rectified", "signed"])


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dims", DIMS)
@layer_kinds()
def test_grad_cam_plus_plus(alpha: str, dims: int, rectified: bool) -> None:
    model, inputs = cut_model(dims, rectified=rectified), cut_inputs(dims)
    method = LayerGradCamPlusPlus(model, model.layer, alpha=alpha)
    attribution = one(method.attribute(inputs, target=TARGETS, relu_attributions=False))
    assert relative_error(attribution, expected(model, inputs, [], TARGETS, alpha, relu=False)) < 1e-10


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dims", DIMS)
@layer_kinds()
def test_smooth_grad_cam_plus_plus(alpha: str, dims: int, rectified: bool) -> None:
    model, inputs = cut_model(dims, rectified=rectified), cut_inputs(dims)
    attribution, noisy = smooth_map(model, inputs, alpha, relu=False)
    assert relative_error(attribution, expected(model, inputs, noisy, TARGETS, alpha, relu=False)) < 1e-10


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("sum_channels", [True, False, None])
@pytest.mark.parametrize("n_samples", [0, 4])
@layer_kinds()
def test_options(relu: bool, sum_channels: bool | None, n_samples: int, rectified: bool) -> None:
    model, inputs = cut_model(rectified=rectified), cut_inputs()
    attribution, noisy = smooth_map(model, inputs, n_samples=n_samples, relu=relu, sum_channels=sum_channels)
    assert attribution.shape == (3, CHANNELS if sum_channels is False else 1, 3, 3)
    wanted = expected(model, inputs, noisy, TARGETS, relu=relu, sum_channels=sum_channels is not False)
    assert relative_error(attribution, wanted) < 1e-10
    assert (attribution < 0).any().item() == (not relu and not rectified)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n_samples", [0, 6])
@layer_kinds()
def test_float32(alpha: str, n_samples: int, rectified: bool) -> None:
    model, inputs = cut_model(rectified=rectified, dtype=torch.float32), cut_inputs(dtype=torch.float32)
    attribution, noisy = smooth_map(model, inputs, alpha, n_samples)
    assert attribution.dtype == torch.float32
    distance = 1.0
    if alpha != "bounded":  # the others amplify rounding near their pole
        distance = min(pole_distance(*example) for example in gradients_of(model, inputs, noisy, TARGETS))
        assert distance > 1e-4
    assert relative_error(attribution, expected(model, inputs, noisy, TARGETS, alpha)) < 1e-5 / distance


@pytest.mark.parametrize("n_samples", [0, 5])
def test_the_sum_over_j_is_not_mixed_with_i(n_samples: int) -> None:
    """Implementations that take `(A * D3).sum()` for `A.sum() * D3` give another map in this setting."""
    model, inputs = cut_model(), cut_inputs()
    attribution, noisy = smooth_map(model, inputs, "eq5", n_samples)
    mixed = []
    for activation, gradients in gradients_of(model, inputs, noisy, TARGETS):
        first, second, third = (
            torch.tensor(mean_of_powers(gradients, power), dtype=torch.float64) for power in (1, 2, 3)
        )
        values = torch.tensor(by_channel(activation), dtype=torch.float64)
        denominator = 2 * second + (values * third).sum(dim=1, keepdim=True)
        alpha = torch.where(denominator == 0, 0, second / denominator)
        weight = (alpha * first.relu()).sum(dim=1)
        mixed.append((weight @ values).relu().reshape(1, *activation.shape[1:]))
    assert relative_error(attribution, expected(model, inputs, noisy, TARGETS, "eq5")) < 1e-10
    assert relative_error(attribution, torch.stack(mixed)) > 1e-2


@pytest.mark.parametrize("dims", DIMS)
def test_bounded_is_eq5_on_rectified_layers_without_noise(dims: int) -> None:
    model, inputs = cut_model(dims), cut_inputs(dims)
    bounded, eq5 = (
        one(
            LayerGradCamPlusPlus(model, model.layer, alpha=alpha).attribute(
                inputs, target=TARGETS, relu_attributions=False
            )
        )
        for alpha in ("bounded", "eq5")
    )
    assert relative_error(bounded, eq5) < 1e-14


def test_bounded_is_another_map_on_signed_layers() -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    bounded, eq5 = (smooth_map(model, inputs, alpha, n_samples=0)[0] for alpha in ("bounded", "eq5"))
    assert relative_error(bounded, eq5) > 1e-2


@pytest.mark.parametrize("alpha", ["bounded", "eq5"])
def test_powers_are_the_derivatives_of_exp_score(alpha: str) -> None:
    """D1, D2, D3 by differentiating Y = exp(S) three times, on a network that is piecewise linear above the layer."""
    model, inputs = cut_model(rectified=True), cut_inputs(examples=1)
    activation = model.activation(inputs)[0].requires_grad_()
    score = model.above(activation.unsqueeze(0))[0, 1].exp()
    (first,) = torch.autograd.grad(score, activation, create_graph=True)
    second, third = torch.zeros_like(first), torch.zeros_like(first)
    for index in torch.cartesian_prod(*map(torch.arange, activation.shape)).tolist():
        where = tuple(index)
        (row,) = torch.autograd.grad(first[where], activation, create_graph=True)
        second[where] = row[where].detach()
        third[where] = torch.autograd.grad(row[where], activation, retain_graph=True)[0][where]
    total = activation.detach().sum(dim=(1, 2), keepdim=True)
    weight = (second / (2 * second + total * third)).nan_to_num() * first.detach().relu()
    wanted = (weight.sum(dim=(1, 2), keepdim=True) * activation.detach()).sum(dim=0, keepdim=True)
    attribution = one(LayerGradCamPlusPlus(model, model.layer, alpha=alpha).attribute(inputs, target=1))
    assert relative_error(attribution * score.item(), wanted.unsqueeze(0)) < 1e-10


def test_examples_do_not_influence_each_other() -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    method = LayerGradCamPlusPlus(model, model.layer)
    together = one(method.attribute(inputs, target=TARGETS))
    alone = [one(method.attribute(inputs[i : i + 1], target=TARGETS[i])) for i in range(3)]
    assert relative_error(together, torch.cat(alone)) < 1e-12


def test_without_spatial_dimensions_each_value_is_its_own_position() -> None:
    model, inputs = cut_model(0, rectified=False), cut_inputs(0, examples=1)
    activation = model.activation(inputs)[0]
    slope = gradient(model.above, activation, 1)
    alpha = 1 / (2 + (activation * slope).relu())
    wanted = (alpha * slope.relu() * activation).sum().relu()
    attribution = one(LayerGradCamPlusPlus(model, model.layer).attribute(inputs, target=1, relu_attributions=False))
    assert attribution.shape == (1, 1)
    assert attribution.relu().item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("sum_channels", [True, False])
def test_shapes_are_those_of_captums_grad_cam(dims: int, sum_channels: bool) -> None:
    model, inputs = cut_model(dims), cut_inputs(dims)
    ours = LayerGradCamPlusPlus(model, model.layer).attribute(inputs, target=1, attr_dim_summation=sum_channels)
    theirs = LayerGradCam(model, model.layer).attribute(inputs, target=1, attr_dim_summation=sum_channels)
    assert isinstance(ours, Tensor) and isinstance(theirs, Tensor)
    assert ours.shape == theirs.shape
