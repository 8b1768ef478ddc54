"""On a GPU: the maps of the CPU, in chunks of any size, through DataParallel, and nearly so in bfloat16."""

from typing import Any

import pytest
import torch
from helpers import Method, seeded_map, smooth_methods, with_and_without_noise
from models import images, seeded
from oracle import relative_error
from torch import Generator, Tensor, nn
from torchvision import models

from captum_sgcampp._passes import noise as noise_module

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

LAYER = "layer3"
TARGETS = [3, 7]
NOISE: dict[str, Any] = {"n_samples": 6, "stdevs": 0.1}


def network(dtype: torch.dtype = torch.float64) -> Any:
    return seeded(lambda: models.resnet18(weights=None, num_classes=10)).to("cuda", dtype)


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return images(2, 3, 64, 64, dtype=dtype).cuda()


@with_and_without_noise
def test_the_map_is_that_of_the_cpu(build: Method, noise: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def same_on_both(tensor: Tensor, _generator: Generator) -> Tensor:
        return torch.randn(tensor.shape, dtype=tensor.dtype, generator=drawn_on_cpu).to(tensor.device)

    monkeypatch.setattr(noise_module, "_normal", same_on_both)
    model, maps = network(), []
    for device in ("cuda", "cpu"):
        drawn_on_cpu = Generator().manual_seed(5)
        maps.append(seeded_map(build(model.to(device), LAYER), inputs().to(device), TARGETS, **noise))
    assert maps[0].is_cuda
    assert relative_error(maps[0].cpu(), maps[1]) < 1e-9


@smooth_methods
def test_the_size_of_the_chunks_does_not_matter(build: Method) -> None:
    method = build(network(), LAYER)
    one_by_one, at_once, default = (
        seeded_map(method, inputs(), TARGETS, **NOISE, n_samples_batch_size=size) for size in (1, 6, None)
    )
    assert relative_error(one_by_one, at_once) < 1e-9
    assert relative_error(default, at_once) < 1e-9


@with_and_without_noise
def test_the_same_seed_gives_the_same_map(build: Method, noise: dict[str, Any]) -> None:
    method = build(network(), LAYER)
    first, second = (seeded_map(method, inputs(), TARGETS, **noise) for _ in range(2))
    assert relative_error(second, first) < 1e-9


@with_and_without_noise
def test_data_parallel_gives_the_map_of_the_model(build: Method, noise: dict[str, Any]) -> None:
    model = network()
    wanted = seeded_map(build(model, LAYER), inputs(), TARGETS, **noise)
    assert relative_error(seeded_map(build(nn.DataParallel(model), LAYER), inputs(), TARGETS, **noise), wanted) < 1e-9


@with_and_without_noise
def test_bfloat16_autocast_gives_nearly_the_map(build: Method, noise: dict[str, Any]) -> None:
    model = network(torch.float32)
    wanted = seeded_map(build(model, LAYER), inputs(torch.float32), TARGETS, **noise)
    with torch.autocast("cuda", torch.bfloat16):
        nearly = seeded_map(build(model, LAYER), inputs(torch.float32), TARGETS, **noise)
    assert relative_error(nearly, wanted) < 0.03
