"""Captum's NoiseTunnel and metrics around the methods."""

from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from helpers import (
    Method,
    every_method,
    hooks_on,
    one,
    the_papers_methods,
    the_papers_with_and_without_noise,
    unchanged,
    where_smoothing_changes_nothing,
    with_and_without_noise,
    without_noise_on_purpose,
)
from models import FACTOR, TARGETS, Weighted, cut_inputs, cut_model
from oracle import expected, inputs_seen, relative_error
from torch import Tensor

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

by_type = pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])


@without_noise_on_purpose
@the_papers_methods
@by_type
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_noise_tunnel(build: Method, nt_type: str, batch_size: int | None) -> None:
    model, inputs = Weighted(cut_model()), cut_inputs()
    method = build(model, model.model.layer)
    with inputs_seen(model) as seen:
        attribution = NoiseTunnel(method).attribute(
            inputs,
            nt_type=nt_type,
            nt_samples=5,
            nt_samples_batch_size=batch_size,
            stdevs=0.2,
            target=torch.tensor(TARGETS),
            additional_forward_args=FACTOR,
        )
    maps: list[list[Tensor]] = [[], [], []]
    for noisy, factor in seen:
        for row, row_factor in zip(noisy, factor, strict=True):
            number = int((inputs - row).flatten(1).norm(dim=1).argmin())
            assert row_factor == FACTOR[number]
            row_map = LayerGradCamPlusPlus(model, model.model.layer).attribute(
                row.unsqueeze(0), target=TARGETS[number], additional_forward_args=row_factor.unsqueeze(0)
            )
            maps[number].append(one(row_map)[0])
    assert [len(samples) for samples in maps] == [5, 5, 5]
    mean = torch.stack([torch.stack(samples).mean(dim=0) for samples in maps])
    mean_of_squares = torch.stack([torch.stack(samples).square().mean(dim=0) for samples in maps])
    wanted = {"smoothgrad": mean, "smoothgrad_sq": mean_of_squares, "vargrad": mean_of_squares - mean**2}[nt_type]
    assert relative_error(one(attribution), wanted) < 1e-10
    assert hooks_on(model) == 0


def test_noise_tunnel_around_noise_of_its_own() -> None:
    model, inputs = cut_model(), cut_inputs()
    with inputs_seen(model) as seen:
        attribution = one(
            NoiseTunnel(LayerSmoothGradCAMpp(model, model.layer)).attribute(
                inputs, nt_samples=2, nt_samples_batch_size=1, stdevs=0.1, target=TARGETS, n_samples=4
            )
        )
    calls = [args[0] for args in seen]
    clean = [number for number, call in enumerate(calls) if number == 0 or len(calls) // 2 == number]
    maps = [expected(model, calls[start], calls[start + 1 : start + len(calls) // 2], TARGETS) for start in clean]
    assert len(maps) == 2
    assert relative_error(attribution, (maps[0] + maps[1]) / 2) < 1e-10


@without_noise_on_purpose
@every_method
def test_infidelity(build: Method) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = build(model, model.layer)
    upsampled = one(method.interpolate(one(method.attribute(inputs, target=TARGETS)), (6, 6))).expand_as(inputs)

    def perturb(batch: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.01 * torch.randn_like(batch)
        return noise, batch - noise

    values = infidelity(model, perturb, inputs, upsampled, target=TARGETS, n_perturb_samples=4)
    assert values.shape == (3,)
    assert values.isfinite().all() and (values > 0).all()


@where_smoothing_changes_nothing
@the_papers_with_and_without_noise
def test_sensitivity_max(build: Method, noise: dict[str, Any]) -> None:
    """Captum repeats an explanation of several examples right if it comes in a tuple, as all layer methods' must."""
    model, inputs = Weighted(cut_model()), cut_inputs()
    method = build(model, model.model.layer)
    options: dict[str, Any] = {"stdevs": 0.0, **noise} if noise else {}  # so that the right value is known

    def explain(*args: Any, **kwargs: Any) -> tuple[Tensor]:
        return (one(method.attribute(*args, **kwargs)),)

    with unchanged(model, inputs):
        values = sensitivity_max(
            explain,
            inputs,
            perturb_func=lambda batch: ((batch[0] if isinstance(batch, tuple) else batch) + 0.05,),
            n_perturb_samples=2,
            target=torch.tensor(TARGETS),
            additional_forward_args=FACTOR,
            **options,
        )
    plain = LayerGradCamPlusPlus(model, model.model.layer)
    before, after = (
        one(plain.attribute(batch, target=TARGETS, additional_forward_args=FACTOR)).flatten(1)
        for batch in (inputs, inputs + 0.05)
    )
    wanted = (after - before).norm(dim=1) / before.norm(dim=1)
    assert wanted.min() > 0
    torch.testing.assert_close(values, wanted, rtol=1e-9, atol=0)


@where_smoothing_changes_nothing
@with_and_without_noise
def test_sensitivity_max_of_the_method_itself(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = cut_model(), cut_inputs(examples=1)
    with unchanged(model, inputs):
        values = sensitivity_max(
            build(model, model.layer).attribute, inputs, target=1, n_perturb_samples=1, perturb_radius=0.1, **noise
        )
    assert values.shape == (1,)
    assert values.isfinite().all() and (values > 0).all()
