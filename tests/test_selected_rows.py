"""Layers whose rows a model selects by their values: with noise, these are others in each pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hooks_on, one, unchanged
from models import CLASSES, images, seeded
from torch import Tensor, nn
from torchvision.models import detection

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

NOISE: dict[str, Any] = {"n_samples": 3, "stdevs": 0.3}
SELECTED = r"^layer: the rows of .* which they are depends on values: .* other parts "


def smooth_map(model: Any, layer: Any, inputs: Tensor, target: Any = 1, **options: Any) -> Tensor:
    """A map with the same noise each time."""
    generator = torch.Generator().manual_seed(3)
    method = LayerSmoothGradCAMpp(model, layer)
    return one(method.attribute(inputs, target, generator=generator, **{**NOISE, **options}))


# --- a detector ------------------------------------------------------------------------------------------------------


def detector() -> Any:
    return seeded(
        lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None,
            weights_backbone=None,
            box_score_thresh=0.0,
            rpn_post_nms_top_n_test=5,
            box_detections_per_img=5,
        )
    )


@pytest.mark.parametrize("layer", ["roi_heads.box_roi_pool", "roi_heads.box_head.fc7"])
@pytest.mark.parametrize("each_box", [False, True], ids=["a score for the image", "a score for each box"])
def test_the_boxes_of_a_detector_are_refused(layer: str, each_box: bool) -> None:
    model, inputs = detector(), images(1, 3, 160, 160, dtype=torch.float32)

    def scores(batch: Tensor) -> Tensor:
        found = [boxes["scores"] for boxes in model(list(batch))]
        return (torch.cat(found) if each_box else torch.stack([of_image.sum() for of_image in found]))[:, None]

    with unchanged(model, inputs), pytest.raises(ValueError, match=SELECTED):
        smooth_map(scores, model.get_submodule(layer), inputs, 0)


def test_the_layers_below_a_detectors_boxes_are_not() -> None:
    model, inputs = detector(), images(1, 3, 160, 160, dtype=torch.float32)

    def scores(batch: Tensor) -> Tensor:
        return torch.stack([boxes["scores"].sum() for boxes in model(list(batch))])[:, None]

    assert smooth_map(scores, model.get_submodule("backbone.body.13"), inputs, 0).shape == (1, 1, 10, 10)


def test_without_noise_boxes_have_maps() -> None:
    model, inputs = detector(), images(1, 3, 160, 160, dtype=torch.float32)

    def scores(batch: Tensor) -> Tensor:
        return torch.stack([boxes["scores"].sum() for boxes in model(list(batch))])[:, None]

    method = LayerGradCamPlusPlus(scores, model.roi_heads.box_roi_pool)
    assert one(method.attribute(inputs, 0)).shape == (5, 1, 7, 7)


# --- experts ---------------------------------------------------------------------------------------------------------


class Experts(nn.Module):
    """Sends each example to one of two experts.

    Args:
        select: Finds the rows of an expert, given the choice of each row and the expert's number.
    """

    def __init__(self, select: Callable[[Tensor, int], Any]) -> None:
        super().__init__()
        self.select = select
        self.conv = nn.Conv2d(2, 4, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 3, 3), nn.Tanh()) for _ in range(2)])
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Softplus(), nn.Linear(8, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        maps = self.conv(image)
        mean = image.mean((1, 2, 3))
        choice = torch.stack([0.5 - mean, mean - 0.5], dim=1).argmax(dim=1)
        found = maps.new_zeros(len(maps), 3, 2, 2)
        for number, expert in enumerate(self.experts):
            rows = self.select(choice, number)
            found[rows] = expert(maps[rows])
        scores: Tensor = self.head(found)
        return scores


SELECTIONS: dict[str, Callable[[Tensor, int], Any]] = {
    "mask": lambda choice, number: choice == number,
    "where": lambda choice, number: torch.where(choice == number)[0],
    "nonzero": lambda choice, number: (choice == number).nonzero().flatten(),
    "list": lambda choice, number: [row for row, chosen in enumerate(choice.tolist()) if chosen == number],
}


def shades(*means: float) -> Tensor:
    """Images around some means, which decide on the expert."""
    noise = images(len(means), 2, 6, 6) - 0.5
    return noise - noise.mean((1, 2, 3), keepdim=True) + torch.tensor(means, dtype=torch.float64).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_an_expert_that_gets_others_with_noise_is_refused(select: Callable[[Tensor, int], Any]) -> None:
    """Also where it gets as many by chance."""
    model, inputs = seeded(lambda: Experts(select)).double(), shades(0.5, 0.5, 0.5, 0.5, 0.5, 0.9)
    with unchanged(model, inputs), pytest.raises(ValueError, match=r"^layer: .*experts.0.* row"):
        smooth_map(model, "experts.0", inputs, n_samples=12)


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_an_expert_that_gets_the_same_examples_in_each_pass_is_not(select: Callable[[Tensor, int], Any]) -> None:
    model, inputs = seeded(lambda: Experts(select)).double(), shades(0.1, 0.9, 0.9, 0.2, 0.9, 0.9)
    assert len(smooth_map(model, "experts.0", inputs)) == 2


class Parts(nn.Module):
    """Looks once more at some of six parts of an image.

    Args:
        select: Finds them, given a value for each part.
    """

    def __init__(self, select: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.select = select
        self.layer = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Softplus(), nn.Linear(8, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        parts = image.unfold(3, 3, 3).squeeze(0).movedim(2, 0)  # (6, 2, 3, 3)
        chosen = torch.stack([parts[int(place)] for place in self.select(parts.mean((1, 2, 3)))])
        scores: Tensor = self.head(self.layer(chosen)).square().sum(dim=0, keepdim=True)
        return scores


@pytest.mark.parametrize(
    "select",
    [
        pytest.param(lambda values: values.topk(3).indices, id="topk"),
        pytest.param(lambda values: values.argsort()[:3], id="argsort"),
        pytest.param(lambda values: [values.max(0)[1]] * 3, id="max"),
        pytest.param(lambda values: np.argsort(-values.detach().numpy())[:3], id="numpy"),
        pytest.param(lambda values: sorted(range(6), key=lambda place: values[place].item())[:3], id="sorted"),
    ],
)
def test_parts_that_are_others_with_noise_are_refused(select: Callable[[Tensor], Any]) -> None:
    model, inputs = seeded(lambda: Parts(select)).double(), images(1, 2, 3, 18)
    with unchanged(model, inputs), pytest.raises(ValueError, match=SELECTED):
        smooth_map(model, "layer", inputs, n_samples=6)


@pytest.mark.parametrize(
    "select",
    [
        pytest.param(lambda _: torch.tensor([[9, 3, 4], [7, 9, 1], [2, 2, 9]]).argmax(dim=1), id="argmax of words"),
        pytest.param(lambda _: torch.tensor([True, False, True, False, True, False]).nonzero().flatten(), id="mask"),
        pytest.param(lambda values: torch.arange(3) + 0 * int(values.quantile(0.5) > 9), id="quantile"),
        pytest.param(lambda _: torch.tensor([3, 1, 2]).sort().indices, id="sorted lengths"),
    ],
)
def test_parts_that_are_the_same_with_noise_are_not(select: Callable[[Tensor], Any]) -> None:
    model, inputs = seeded(lambda: Parts(select)).double(), images(1, 2, 3, 18)
    assert smooth_map(model, "layer", inputs, n_samples=6).shape == (3, 1, 2, 2)


@pytest.mark.parametrize("layer", ["conv", "head.1"])
def test_layers_with_a_row_for_each_example_are_not(layer: str) -> None:
    model, inputs = seeded(lambda: Experts(SELECTIONS["mask"])).double(), shades(0.1, 0.9, 0.9, 0.2)
    assert len(smooth_map(model, layer, inputs)) == 4
    assert hooks_on(model) == 0


@pytest.mark.filterwarnings("ignore:n_samples_batch_size. noisy copies go through the model one at a time")
def test_an_example_that_noise_sends_to_another_expert_is_an_error() -> None:
    """It says that the rows of the layer depend on the noise, whether or not it has any in the pass without noise."""
    for means in ([0.4999], [0.1, 0.4999]):
        model = seeded(lambda: Experts(SELECTIONS["where"])).double()
        with pytest.raises(ValueError, match=r"^layer: 'experts.0' .* rows? .*noise"):
            smooth_map(model, "experts.0", shades(*means), n_samples=12)


# --- rows that are selected by their place ---------------------------------------------------------------------------


class Places(nn.Module):
    """Makes rows of the frames of a video, or of windows of an image, after an operation that only looks as if."""

    def __init__(self, rows_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rows_of = rows_of
        self.layer = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES))

    def forward(self, inputs: Tensor) -> Tensor:
        rows = self.layer(self.rows_of(inputs))
        best = self.head(rows).reshape(len(inputs), -1, CLASSES).topk(2, dim=1).values  # after the layer
        scores: Tensor = best.square().sum(dim=1)
        return scores


@pytest.mark.parametrize(
    ("shape", "rows_of"),
    [
        pytest.param((2, 5, 2, 6, 6), lambda video: video.flatten(0, 1), id="frames"),
        pytest.param(
            (2, 2, 8, 8),
            lambda image: image.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2),
            id="windows",
        ),
        pytest.param((2, 5, 2, 6, 6), lambda video: video[:, torch.tensor([0, 2, 4])].flatten(0, 1), id="every other"),
    ],
)
def test_frames_and_windows_are_not(shape: tuple[int, ...], rows_of: Callable[[Tensor], Tensor]) -> None:
    inputs = images(*shape)
    model = seeded(lambda: Places(rows_of)).double()
    assert len(smooth_map(model, "layer", inputs)) == len(rows_of(inputs))
