"""What is averaged over noise samples: the derivatives, at activations without noise, in chunks of any size."""

from pathlib import Path

import pytest
import torch
from helpers import ALPHAS, memory, smooth_map
from models import TARGETS, cut_inputs, cut_model
from oracle import (
    by_channel,
    example_map,
    expected,
    gradients_of,
    mean_of_powers,
    relative_error,
)
from torch import nn

from captum_sgcampp import LayerSmoothGradCAMpp


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_samples_in_chunks(alpha: str, batch_size: int) -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    attribution, noisy = smooth_map(model, inputs, alpha, batch_size=batch_size)
    assert [len(chunk) for chunk in noisy] == [
        3 * min(batch_size, 5 - start) for start in range(0, 5, batch_size)
    ]  # the chunks are really of that size
    assert relative_error(attribution, expected(model, inputs, noisy, TARGETS, alpha)) < 1e-10


def test_one_example_and_one_sample() -> None:
    model, inputs = cut_model(), cut_inputs(examples=1)
    attribution, noisy = smooth_map(model, inputs, n_samples=1)
    assert relative_error(attribution, expected(model, inputs, noisy, TARGETS[:1])) < 1e-10


@pytest.mark.filterwarnings("ignore:n_samples. smoothing changes nothing")
def test_noise_of_zero_width_is_no_noise() -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    attribution, _ = smooth_map(model, inputs, stdev=0.0)
    assert relative_error(attribution, expected(model, inputs, [], TARGETS)) < 1e-10


def test_noise_changes_the_map() -> None:
    model, inputs = cut_model(), cut_inputs()
    attribution, _ = smooth_map(model, inputs)
    assert relative_error(attribution, expected(model, inputs, [], TARGETS)) > 1e-2


def test_more_noise_samples_than_gradients_differ_from_averaged_maps() -> None:
    """The derivatives are averaged, not the maps."""
    model, inputs = cut_model(), cut_inputs()
    attribution, noisy = smooth_map(model, inputs)
    of_maps = torch.stack(
        [
            torch.stack([example_map("bounded", activation, [sample]) for sample in gradients]).mean(dim=0)
            for activation, gradients in gradients_of(model, inputs, noisy, TARGETS)
        ]
    )
    assert relative_error(attribution, of_maps) > 1e-3


def test_relu_is_of_the_averaged_first_derivative() -> None:
    """And not the average of each sample's ReLU, which is another map in this setting."""
    model, inputs = cut_model(), cut_inputs()
    attribution, noisy = smooth_map(model, inputs, stdev=0.5)
    each = []
    for activation, gradients in gradients_of(model, inputs, noisy, TARGETS):
        rectified, second, third = (
            torch.tensor(mean_of_powers(samples, power), dtype=torch.float64)
            for samples, power in (([sample.relu() for sample in gradients], 1), (gradients, 2), (gradients, 3))
        )
        values = torch.tensor(by_channel(activation), dtype=torch.float64)
        denominator = 2 * second + (values.sum(dim=1, keepdim=True) * third).relu()
        alpha = torch.where(denominator == 0, 0, second / denominator)
        weight = (alpha * rectified).sum(dim=1)
        each.append((weight @ values).relu().reshape(1, *activation.shape[1:]))
    assert relative_error(attribution, expected(model, inputs, noisy, TARGETS)) < 1e-10
    assert relative_error(attribution, torch.stack(each)) > 1e-3


def test_activations_are_those_without_noise() -> None:
    model, inputs = cut_model(), cut_inputs()
    attribution, noisy = smooth_map(model, inputs, stdev=0.5, n_samples=1)
    noisy_activations = torch.stack(
        [
            example_map("bounded", model.activation(copy.unsqueeze(0))[0], gradients)
            for copy, (_, gradients) in zip(noisy[0], gradients_of(model, inputs, noisy, TARGETS), strict=True)
        ]
    )
    assert relative_error(attribution, noisy_activations) > 1e-2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux")
def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 16, 3, padding=1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layer(inputs).tanh().mean(dim=(2, 3))  # type: ignore[no-any-return]

    method = LayerSmoothGradCAMpp(Model(), "layer")
    image = torch.rand(1, 1, 256, 256)  # 4 MiB for each sample at the layer

    def peak(n_samples: int) -> float:
        Path("/proc/self/clear_refs").write_text("5")
        method.attribute(image, 1, n_samples=n_samples)
        return memory("VmHWM") / 2**10

    peak(8)
    few, many = peak(8), peak(264)
    assert many < few + 400  # 1024 MiB more, if but one tensor of each sample were kept
