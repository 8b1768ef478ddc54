"""On a real network and real photographs: smooth maps converge, and half precision is close to full."""

import copy
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision", reason="the network comes with the extra demo")

from PIL import Image
from skimage import data

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.networks import load_classifier

LAYERS = ["_blocks.4", "_blocks.7", "_blocks.10", "_blocks.14"]
"""Layers whose activations carry a sign."""


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier("efficientnet_lite0", torch.device("cpu"))


def explained(classifier: Classifier, photograph: str) -> tuple[Tensor, int]:
    """A photograph as the network's input, and the class that it finds."""
    inputs = classifier.inputs(Image.fromarray(getattr(data, photograph)()))
    with torch.no_grad():
        return inputs, int(classifier.model(inputs).argmax())


def smooth(classifier: Classifier, photograph: str, n_samples: int, seed: int, alpha: str = "bounded") -> list[Tensor]:
    inputs, target = explained(classifier, photograph)
    method = LayerSmoothGradCAMpp(classifier.model, list(LAYERS), alpha=alpha)
    generator = torch.Generator().manual_seed(seed)
    attributions: Any = method.attribute(inputs, target, n_samples=n_samples, stdevs=0.3, generator=generator)
    return [attribution.flatten() for attribution in attributions]


def correlation(one: Tensor, other: Tensor) -> float:
    return torch.corrcoef(torch.stack([one, other]).double())[0, 1].item()


@pytest.mark.parametrize(
    "photograph", ["chelsea", *(pytest.param(other, marks=pytest.mark.slow) for other in ("coffee", "rocket"))]
)
def test_two_seeds_agree(classifier: Classifier, photograph: str) -> None:
    maps = [smooth(classifier, photograph, 16, seed) for seed in (0, 1)]
    for layer, first, second in zip(LAYERS, *maps, strict=True):
        assert correlation(first, second) > 0.95, layer


def test_with_the_pole_of_eq5_they_do_not(classifier: Classifier) -> None:
    maps = [smooth(classifier, "chelsea", 16, seed, "eq5") for seed in (0, 1)]
    assert statistics.median(correlation(first, second) for first, second in zip(*maps, strict=True)) < 0.5


@pytest.mark.slow
def test_the_error_falls_with_the_root_of_n(classifier: Classifier) -> None:
    """From 8 to 32 samples it halves: measured against 256, that is 1.9."""
    long_run = smooth(classifier, "chelsea", 256, 100)

    def errors(n_samples: int, seeds: range) -> list[float]:
        runs = [smooth(classifier, "chelsea", n_samples, seed) for seed in seeds]
        return [
            statistics.mean((run[layer] - long_run[layer]).norm().item() for run in runs)
            for layer in range(len(LAYERS))
        ]

    for layer, few, many in zip(LAYERS, errors(8, range(8)), errors(32, range(8, 12)), strict=True):
        assert 1.4 < few / many < 3, layer


@pytest.mark.pairwise
@pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 0.99), (torch.bfloat16, 0.95)], ids=["half", "bfloat16"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("n_samples", [0, 4])
def test_half_precision_is_close(
    classifier: Classifier, dtype: torch.dtype, least: float, autocast: bool, n_samples: int
) -> None:
    inputs, target = explained(classifier, "coffee")

    def maps(model: torch.nn.Module, inputs: Tensor) -> Any:
        torch.manual_seed(0)
        if not n_samples:
            return LayerGradCamPlusPlus(model, list(LAYERS)).attribute(inputs, target)
        return LayerSmoothGradCAMpp(model, list(LAYERS)).attribute(inputs, target, n_samples=n_samples, stdevs=0.1)

    full = maps(classifier.model, inputs)
    if autocast:
        with torch.autocast("cpu", dtype):
            low = maps(classifier.model, inputs)
    else:
        low = maps(copy.deepcopy(classifier.model).to(dtype), inputs.to(dtype))
    for layer, one, other in zip(LAYERS, full, low, strict=True):
        assert other.dtype is torch.float32
        assert other.isfinite().all()
        assert correlation(one.flatten(), other.flatten()) > least, layer


@pytest.mark.filterwarnings("ignore:layer. '_blocks.*_swish' .* runs 2 times")
def test_bounded_is_eq5_on_rectified_maps_without_noise(classifier: Classifier) -> None:
    inputs, target = explained(classifier, "chelsea")
    rectified = [
        name
        for name, module in classifier.model.named_modules()
        if isinstance(module, torch.nn.ReLU6) and name.startswith("_blocks")
    ]
    assert len(rectified) == 16
    maps: list[Any] = [
        LayerGradCamPlusPlus(classifier.model, list(rectified), alpha=alpha).attribute(inputs, target)
        for alpha in ("bounded", "eq5")
    ]
    for bounded, eq5 in zip(*maps, strict=True):
        torch.testing.assert_close(bounded, eq5, rtol=1e-5, atol=1e-6 * eq5.max().item())
