"""Layers that do not run, run twice, take and return several tensors, or are written into."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers import (
    Method,
    every_method,
    hooks_on,
    in_every_grad_mode,
    one,
    seeded_map,
    the_papers_with_and_without_noise,
    unchanged,
    where_smoothing_changes_nothing,
    with_and_without_noise,
    without_noise_on_purpose,
)
from models import CLASSES, TARGETS, TwoTensors, cut_inputs, cut_model, images, seeded
from oracle import CutModel, expected, inputs_seen, noisy_copies, relative_error
from torch import Tensor, nn

from captum_sgcampp.layers import layer_name


@with_and_without_noise
@in_every_grad_mode
def test_a_layer_that_never_runs(build: Method, noise: dict[str, Any], mode: Callable[[], Any]) -> None:
    model, inputs = cut_model(), cut_inputs()
    model.add_module("spare", nn.ReLU())
    with mode(), unchanged(model, inputs), pytest.raises(ValueError, match=r"layer.*'spare' \(ReLU\) does not run"):
        build(model, model.get_submodule("spare")).attribute(inputs, target=1, **noise)


@without_noise_on_purpose
@every_method
def test_a_layer_of_another_model(build: Method) -> None:
    model, inputs = cut_model(), cut_inputs()
    with pytest.raises(ValueError, match=r"\(Linear\) does not run"):
        build(model, nn.Linear(1, 1)).attribute(inputs, target=1)


class Detour(nn.Module):
    """A model whose scores do not depend on one of its layers."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.ReLU()
        self.head = nn.Linear(48, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        aside = self.layer(features)
        if self.how == "unused":
            aside = features
        elif self.how == "detached":
            aside = aside.detach()
        elif self.how == "no_grad":
            with torch.no_grad():
                aside = aside + 1
        elif self.how == "integer":
            aside = aside.long().to(aside.dtype)
        scores: Tensor = self.head(aside.flatten(1))
        return scores


@with_and_without_noise
@pytest.mark.parametrize("how", ["unused", "detached", "no_grad", "integer"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_score_that_does_not_depend_on_the_layer(
    build: Method, noise: dict[str, Any], how: str, frozen: bool
) -> None:
    model: Detour = seeded(lambda: Detour(how)).requires_grad_(not frozen)
    inputs = images(dtype=torch.float32)
    with (
        unchanged(model, inputs),
        pytest.raises(ValueError, match=r"layer.*does not depend on the tensor of 'layer' \(ReLU\)"),
    ):
        build(model, model.layer).attribute(inputs, target=1, **noise)


class Shared(nn.Module):
    """A ReLU in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Conv2d(2, 4, 3)
        self.between = nn.Conv2d(4, 3, 2)
        self.relu = nn.ReLU()
        self.above = nn.Sequential(nn.Conv2d(3, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.above(self.relu(self.between(self.relu(self.below(image)))))
        return scores


@the_papers_with_and_without_noise
def test_a_layer_that_runs_twice(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = seeded(Shared).double(), 2 * images()
    cut = CutModel(nn.Sequential(model.below, nn.ReLU(), model.between), nn.ReLU(), model.above)
    with (
        inputs_seen(model) as seen,
        pytest.warns(UserWarning, match=r"layer: 'relu' \(ReLU\) runs 2 times") as warned,
    ):
        attribution = one(build(model, model.relu).attribute(inputs, target=TARGETS, **noise))
    assert len(warned) == 1
    assert warned[0].filename == __file__  # it points at the caller
    wanted = expected(cut, inputs, noisy_copies(seen), TARGETS)
    assert relative_error(attribution, wanted) < 1e-10


@with_and_without_noise
def test_a_layer_whose_last_run_is_not_recorded(build: Method, noise: dict[str, Any]) -> None:
    class Twice(CutModel):
        def forward(self, inputs: Tensor) -> Tensor:
            features = self.below(inputs)
            activation = self.layer(features)
            with torch.no_grad():
                activation = activation + self.layer(2 * features)
            scores: Tensor = self.above(activation)
            return scores

    plain = cut_model()
    model, inputs = Twice(plain.below, plain.layer, plain.above), cut_inputs()
    with pytest.warns(UserWarning, match="runs 2 times"), pytest.raises(ValueError, match="does not depend on"):
        build(model, model.layer).attribute(inputs, target=1, **noise)
    assert hooks_on(model) == 0


@with_and_without_noise
@pytest.mark.parametrize("to_input", [False, True])
def test_a_layer_that_runs_once_warns_of_nothing(
    build: Method, noise: dict[str, Any], to_input: bool, recwarn: pytest.WarningsRecorder
) -> None:
    model, inputs = cut_model(), cut_inputs()
    build(model, model.layer).attribute(inputs, target=1, attribute_to_layer_input=to_input, **noise)
    assert len(recwarn) == 0


class Residual(nn.Module):
    """A block with every habit of writing in place, or without."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.below = nn.Conv2d(2, 3, 3)
        self.before = nn.ReLU(inplace=inplace)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.ReLU(inplace=inplace)
        self.above = nn.Sequential(nn.Conv2d(3, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        features = self.before(self.below(image))
        out = self.conv2(self.relu(self.conv(features)))
        if self.inplace:
            out += features
            out.mul_(1.5).sub_(0.1)
        else:
            out = (out + features) * 1.5 - 0.1
        scores: Tensor = self.above(self.last(out))
        return scores


@pytest.mark.pairwise
@with_and_without_noise
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("layer", ["below", "before", "conv", "relu", "conv2", "last", "above.0"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_writing_in_place_changes_nothing(
    build: Method, noise: dict[str, Any], to_input: bool, layer: str, create_graph: bool
) -> None:
    maps = []
    for inplace in (True, False):
        model: Residual = seeded(partial(Residual, inplace)).double()
        inputs = 2 * images()
        with unchanged(model, inputs):
            attribution = seeded_map(
                build(model, model.get_submodule(layer)),
                inputs,
                TARGETS,
                attribute_to_layer_input=to_input,
                relu_attributions=False,
                grad_kwargs={"create_graph": create_graph},
                **noise,
            )
        maps.append(attribution.detach())
    assert relative_error(*maps) < 1e-12


@with_and_without_noise
def test_a_model_that_writes_into_its_input(build: Method, noise: dict[str, Any]) -> None:
    """The caller's image stays, and the noise is added to that, not to what an earlier pass left."""

    class Normalizes(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.sub_(0.4).div_(0.3)

    class NormalizesACopy(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (image - 0.4) / 0.3

    maps = []
    for first in (Normalizes(), NormalizesACopy()):
        model, inputs = cut_model(), cut_inputs()
        model.below = nn.Sequential(first, model.below)
        with unchanged(model, inputs):
            maps.append(seeded_map(build(model, model.layer), inputs, TARGETS, **noise))
    assert relative_error(*maps) < 1e-12


@with_and_without_noise
@pytest.mark.parametrize("frozen", [False, True])
def test_what_the_layer_took_may_be_written_over(build: Method, noise: dict[str, Any], frozen: bool) -> None:
    class Overwrites(CutModel):
        def forward(self, inputs: Tensor) -> Tensor:
            features = self.below(inputs)
            activation = self.layer(features)
            features.zero_()
            scores: Tensor = self.above(activation)
            return scores

    plain, inputs = cut_model().requires_grad_(not frozen), cut_inputs()
    model = Overwrites(plain.below, plain.layer, plain.above)
    maps = [
        seeded_map(build(forward_func, plain.layer), inputs, TARGETS, None, True, **noise)
        for forward_func in (model, plain)
    ]
    assert relative_error(*maps) < 1e-12


@the_papers_with_and_without_noise
def test_the_layers_input(build: Method, noise: dict[str, Any]) -> None:
    """The input of a layer is the output of what comes before it."""
    model, inputs = cut_model(), cut_inputs()
    method = build(model, model.layer)
    to_input = seeded_map(method, inputs, TARGETS, attribute_to_layer_input=True, **noise)
    with inputs_seen(model) as seen:
        again = seeded_map(method, inputs, TARGETS, None, True, **noise)
    assert torch.equal(again, to_input)
    cut = CutModel(nn.Identity(), model.below, nn.Sequential(model.layer, model.above))
    assert relative_error(to_input, expected(cut, inputs, noisy_copies(seen), TARGETS)) < 1e-10
    assert torch.equal(seeded_map(build(model, model.below), inputs, TARGETS, **noise), to_input)


@without_noise_on_purpose
@every_method
def test_the_input_of_a_layer_called_with_keywords_alone(build: Method) -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Flatten()
            self.head = nn.Linear(72, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            scores: Tensor = self.head(self.layer(input=image))
            return scores

    model: Keywords = seeded(Keywords)
    with pytest.raises(ValueError, match=r"attribute_to_layer_input.*'layer' \(Flatten\).*keyword"):
        build(model, model.layer).attribute(images(dtype=torch.float32), target=1, attribute_to_layer_input=True)
    assert hooks_on(model) == 0


@where_smoothing_changes_nothing
@the_papers_with_and_without_noise
@pytest.mark.parametrize("kind", [tuple, list])
def test_a_layer_of_several_tensors(build: Method, noise: dict[str, Any], kind: Any) -> None:
    model, inputs = seeded(lambda: TwoTensors(kind)).double(), 2 * images()
    with inputs_seen(model) as seen:
        attribution = build(model, model.layer).attribute(inputs, target=TARGETS, relu_attributions=False, **noise)
    assert isinstance(attribution, tuple)
    assert [tuple(part.shape) for part in attribution] == [(3, 1, 4, 4), (3, 1, 2, 2)]
    noisy = noisy_copies(seen)
    for part, below, above in zip(
        attribution, (model.layer.left, model.layer.right), (model.left, model.right), strict=True
    ):
        cut = CutModel(below, nn.ReLU(), above)
        assert relative_error(part, expected(cut, inputs, noisy, TARGETS, relu=False)) < 1e-10


@without_noise_on_purpose
@every_method
def test_a_layer_without_channels_is_refused(build: Method) -> None:
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (3, 72)), seeded(lambda: nn.Linear(72, CLASSES)))
    inputs = images(dtype=torch.float32)
    with unchanged(model, inputs), pytest.raises(ValueError, match=r"layer: '0' \(Flatten\).*\(216,\).*\(N, C"):
        build(model, model[0]).attribute(inputs, target=1)


def test_names_of_layers() -> None:
    inner = nn.ReLU()
    model = nn.Sequential(nn.Sequential(inner), nn.Tanh())
    assert layer_name(model, inner) == "'0.0' (ReLU)"
    assert layer_name(model, model[1]) == "'1' (Tanh)"
    assert layer_name(model, model) == "(Sequential)"
    assert layer_name(model, nn.GELU()) == "(GELU)"
    assert layer_name(lambda image: model(image), model[1]) == "(Tanh)"  # noqa: PLW0108
    assert layer_name(nn.DataParallel(model), model[1]).endswith("1' (Tanh)")


@where_smoothing_changes_nothing
@the_papers_with_and_without_noise
def test_the_model_itself_as_the_layer(build: Method, noise: dict[str, Any]) -> None:
    """The gradient of the score by the scores is one at the target."""
    model, inputs = cut_model(), cut_inputs()
    attribution = seeded_map(build(model, model), inputs, 1, relu_attributions=False, **noise)
    score = model(inputs)[:, 1:2].detach()
    assert relative_error(attribution, score / (2 + score.relu())) < 1e-10
