"""A map of a dataset does not depend on the images that share its batch."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam
from models import images, seeded
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, Maps, attribute_dataset
from captum_sgcampp.dataset.neighbours import Outcome, depends_on_neighbours

pytest.importorskip("safetensors", reason="maps need the extra maps")

WARNS = r"dataset: the model's output for an image depends on the other images of its batch"
NOISE: dict[str, Any] = {"n_samples": 2, "stdevs": 0.1, "n_samples_batch_size": 1}


class Mixing(nn.Module):
    """A network whose forward begins with a step of its own."""

    def __init__(self, step: Callable[[Tensor], Tensor], head: Callable[[Tensor], Tensor] = lambda z: z) -> None:
        super().__init__()
        self.step, self.finish = step, head
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.batches: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.batches.append(len(inputs))
        z = self.conv(self.step(inputs)).relu().mean((2, 3))
        return self.finish(self.head(z))


def batch_norm() -> nn.Module:
    return nn.BatchNorm2d(3, track_running_stats=False).eval()


def by_capacity(z: Tensor) -> Tensor:
    """Gives no more than two images to the expert."""
    return torch.cat([z[:2] * 2, z[2:]])


def of_longest(inputs: Tensor) -> Tensor:
    return inputs * len(inputs)


MIXED: dict[str, Callable[[], Mixing]] = {
    "batch norm": lambda: Mixing(batch_norm()),
    "whole tensor": lambda: Mixing(lambda x: (x - x.mean()) / x.std()),
    "norm": lambda: Mixing(lambda x: x, lambda z: z / z.norm()),
    "batch norm in training": lambda: Mixing(nn.BatchNorm2d(3, affine=False).train()),
    "capacity": lambda: Mixing(lambda x: x, by_capacity),
    "size": lambda: Mixing(of_longest),
    "maximum": lambda: Mixing(lambda x: x / x.max()),
}


def data(number: int = 7) -> TensorDataset:
    values = images(number, 3, 8, 8, dtype=torch.float32)
    return TensorDataset(values * torch.linspace(0.5, 2, number)[:, None, None, None])


def run(
    folder: Path, model: Any, dataset: Any = None, build: Any = LayerSmoothGradCAMpp, layer: Any = None, **options: Any
) -> Maps:
    noise = NOISE if build is LayerSmoothGradCAMpp else {}
    layer = model.conv if layer is None else layer
    return attribute_dataset(build(model, layer), dataset or data(), folder, **{"target": 1, **noise, **options})


def assert_same(found: Maps, wanted: Maps) -> None:
    assert list(found) == list(wanted)
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5 * one.abs().max().item())


@pytest.mark.filterwarnings("ignore:.*training mode", "ignore:(?!dataset).*influence")
@pytest.mark.parametrize("build", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerGradCam])
@pytest.mark.parametrize("model", MIXED.values(), ids=MIXED.keys())
def test_images_that_influence_one_another_go_one_at_a_time(
    tmp_path: Path, model: Callable[[], Mixing], build: Any
) -> None:
    alone, together = seeded(model), seeded(model)
    if isinstance(alone.step, nn.BatchNorm2d) and alone.step.track_running_stats:
        alone.step.train()
        together.step.train()
    wanted = run(tmp_path / "1", alone, build=build, batch_size=1)
    with pytest.warns(UserWarning, match=WARNS) as caught:
        found = run(tmp_path / "5", together, build=build, batch_size=5)
    assert_same(found, wanted)
    assert sum("of its batch" in str(warning.message) for warning in caught) == 1
    of_us = [warning for warning in caught if "of its batch" in str(warning.message)]
    assert of_us[0].filename == __file__


def test_a_batch_is_tried_once_and_costs_two_images_more(tmp_path: Path) -> None:
    model = seeded(lambda: Mixing(lambda x: x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path / "separate", model, build=LayerGradCamPlusPlus, batch_size=3)
    assert model.batches == [1, 3, 1, 1, 2, 2]  # the trial before the run, and two images of the first batch
    mixing = seeded(lambda: Mixing(lambda x: x / x.max()))
    with pytest.warns(UserWarning, match=WARNS):
        run(tmp_path / "mixing", mixing, build=LayerGradCamPlusPlus, batch_size=3)
    # The last image has the maximum; the first alone, once more, and a batch of its copies, for how large rounding is.
    assert mixing.batches == [1, 3, 1, 1, 1, 3, *7 * [1]]


def test_a_run_that_goes_on_and_other_processes_find_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> Any:
        return seeded(lambda: Mixing(batch_norm()))

    wanted = run(tmp_path / "1", model(), batch_size=1, shard_size=3)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.warns(UserWarning, match=WARNS):
            found = run(tmp_path / "2", model(), batch_size=2, shard_size=3)
        assert_same(found, wanted)
        for file in (tmp_path / "2").glob("maps-000001.*"):
            file.unlink()  # is left to do for the other


@pytest.mark.filterwarnings("ignore:.*training mode")
def test_a_model_that_is_random_keeps_its_batches(tmp_path: Path) -> None:
    model = seeded(lambda: Mixing(nn.Dropout()))
    model.step.train()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=WARNS)
        run(tmp_path, model, build=LayerGradCamPlusPlus, batch_size=7)
    # Of the last image and the first: alone, once more, and in a batch of its copies, which shows how random it is.
    assert model.batches == [1, 7, 1, 1, 7, 1, 1, 7]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_rounding_is_not_mistaken_for_influence(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    models = pytest.importorskip("torchvision.models")
    model = seeded(lambda: models.get_model(name)).to(dtype)
    layer = {"resnet18": "layer3", "mobilenet_v3_small": "features.8"}[name]
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    dataset = TensorDataset(torch.randn(6, 3, 128, 128, generator=torch.Generator().manual_seed(0)).to(dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=WARNS)
        run(tmp_path, model, dataset, LayerActivation, model.get_submodule(layer), batch_size=6, target=None)
    assert seen[-4:] == [6, 6, 1, 1]


def test_autocast_within_the_model_is_rounding(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    network = seeded(models.resnet18)

    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                scores: Tensor = self.network(inputs)
            return scores.float()

    dataset = TensorDataset(torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=WARNS)
        run(tmp_path, Autocast(), dataset, LayerGradCamPlusPlus, network.layer3, batch_size=4)


def test_one_score_for_a_batch_is_none_of_an_image(tmp_path: Path) -> None:
    def model() -> Any:
        return seeded(lambda: Mixing(lambda x: x, lambda z: z.square().sum().reshape(1)))

    wanted = run(tmp_path / "1", model(), build=LayerGradCamPlusPlus, batch_size=1, target=None)
    with pytest.warns(UserWarning, match=WARNS):
        assert_same(run(tmp_path / "4", model(), build=LayerGradCamPlusPlus, batch_size=4, target=None), wanted)


def test_outputs_that_are_no_floats(tmp_path: Path) -> None:
    model = seeded(lambda: Mixing(lambda x: x, lambda z: z.argmax(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path, model, build=LayerActivation, batch_size=7, target=None)
    assert model.batches[-3:] == [7, 1, 1]


@pytest.mark.filterwarnings("ignore:dataset. .* have no map:UserWarning", "ignore:.*not all finite")
def test_an_image_that_is_refused_alone_decides_nothing(tmp_path: Path) -> None:
    def step(inputs: Tensor) -> Tensor:
        if len(inputs) == 1 and inputs.max() > 1.9:
            raise RuntimeError("refused")
        return inputs / inputs.max()

    order = [0, 1, 6, 2, 3, 4, 5]  # the last image of the first batch is refused

    def model() -> Any:
        return seeded(lambda: Mixing(step))

    wanted = run(tmp_path / "1", model(), Subset(data(), order), LayerGradCamPlusPlus, batch_size=1)
    with pytest.warns(UserWarning, match=WARNS):
        found = run(tmp_path / "3", model(), Subset(data(), order), LayerGradCamPlusPlus, batch_size=3)
    assert found.errors == wanted.errors == {"6": "RuntimeError: refused"}
    assert_same(found, wanted)


def test_the_trial_leaves_statistics_and_random_numbers_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.Flatten()).train()
    images = torch.rand(5, 3, 6, 6)
    output = model(images)
    before = [buffer.clone() for buffer in model.buffers()]
    random = torch.get_rng_state()
    modules = [*model.modules()]
    assert depends_on_neighbours(images, output, lambda some: Outcome(model(some).detach(), {torch.float32}), modules)
    assert all(map(torch.equal, model.buffers(), before))
    assert torch.equal(torch.get_rng_state(), random)
