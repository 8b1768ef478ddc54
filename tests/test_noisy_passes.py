"""Noisy copies share a pass only where that changes nothing, which is found out by running the model."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from helpers import one
from models import CLASSES, cut_inputs, cut_model, images, seeded
from oracle import CutModel, expected, inputs_seen, noisy_copies, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerSmoothGradCAMpp, explain

N_SAMPLES = 6
INFLUENCE = "n_samples_batch_size: noisy copies go through the model one at a time, because its scores"
REFUSED = "n_samples_batch_size: noisy copies go through the model one at a time, because it does not take several"


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def by_capacity(values: Tensor) -> Tensor:
    """What an expert does that takes the first two rows of a pass."""
    return torch.cat([values[:2].square(), values[2:]])


def with_part(part: Callable[[], nn.Module], above: bool = False, dtype: torch.dtype = torch.float64) -> CutModel:
    """A small network with a part that joins the rows of a pass, below the layer or above it."""

    def build() -> nn.Module:
        plain = cut_model(rectified=False, smooth=True, dtype=dtype)
        if above:
            return CutModel(plain.below, plain.layer, nn.Sequential(*plain.above[:1], part(), *plain.above[1:]))  # type: ignore[index]
        return CutModel(nn.Sequential(*plain.below[:1], part(), *plain.below[1:]), plain.layer, plain.above)  # type: ignore[index]

    model: CutModel = seeded(build)
    return model.to(dtype)


JOINING: dict[str, Callable[[int], nn.Module]] = {
    "batch norm": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "batch norm without affine": lambda channels: nn.BatchNorm2d(channels, affine=False, track_running_stats=False),
    "scaled by the whole batch": lambda _: Function(lambda values: (values - values.mean()) / values.std()),
    "centred by the whole batch": lambda _: Function(lambda values: values - values.mean()),
    "norm without dim": lambda _: Function(lambda values: values / values.norm()),
    "largest of the batch": lambda _: Function(lambda values: values / values.abs().max()),
    "attention over the batch": lambda _: Function(
        lambda values: (values.flatten(1) @ values.flatten(1).T).softmax(-1) @ values.flatten(1)
    ),
    "an expert of limited capacity": lambda _: Function(by_capacity),
    "a branch on the size of the batch": lambda _: Function(
        lambda values: values.square() if len(values) > 2 else values
    ),
}
joining = pytest.mark.parametrize("part", JOINING.values(), ids=JOINING)


def attribute(model: Any, inputs: Any, layer: Any = "layer", **options: Any) -> Tensor:
    """The map before the ReLU, with the same noise each time."""
    options = {"target": 1, "n_samples": N_SAMPLES, "stdevs": 0.3, "relu_attributions": False, **options}
    generator = torch.Generator().manual_seed(0)
    return one(LayerSmoothGradCAMpp(model, layer).attribute(inputs, generator=generator, **options))


# --- examples that influence one another -----------------------------------------------------------------------------


@pytest.mark.pairwise
@joining
@pytest.mark.parametrize("above", [False, True], ids=["below", "above"])
@pytest.mark.parametrize("size", [None, 4])
def test_copies_that_influence_one_another_go_through_the_model_one_at_a_time(
    part: Callable[[int], nn.Module], above: bool, size: int | None
) -> None:
    model = with_part(lambda: Shaped(part(6 if above else 4)), above)
    inputs = 2 * cut_inputs(examples=1)
    with pytest.warns(UserWarning, match=INFLUENCE) as warned:
        attribution = attribute(model, inputs, n_samples_batch_size=size)
    assert len(warned) == 1
    with inputs_seen(model) as seen:
        wanted = attribute(model, inputs, n_samples_batch_size=1)
    assert len(seen) == 1 + N_SAMPLES
    assert torch.equal(attribution, wanted)


class Shaped(nn.Module):
    """Restores the shape that a part may have flattened."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.part(values)
        return found.reshape(values.shape)


@joining
def test_the_map_is_that_of_the_paper(part: Callable[[int], nn.Module]) -> None:
    model, inputs = with_part(lambda: Shaped(part(4))), 2 * cut_inputs(examples=1)
    with pytest.warns(UserWarning, match=INFLUENCE), inputs_seen(model) as seen:
        attribution = attribute(model, inputs)
    passes = [args[0] for args in seen if len(args[0]) == 1][-N_SAMPLES:]
    assert relative_error(attribution, expected(model, inputs, passes, [1], relu=False)) < 1e-10


@pytest.mark.parametrize("source", ["powers", "exp", "autograd"])
@pytest.mark.parametrize("layers", [["layer"], ["layer", "below"]])
def test_every_source_and_several_layers_and_targets(source: str, layers: list[nn.Module | str]) -> None:
    model, inputs = with_part(lambda: nn.BatchNorm2d(4, track_running_stats=False)), cut_inputs(examples=2)
    method = LayerSmoothGradCAMpp(model, layers, derivatives=source)
    options: dict[str, Any] = {"n_samples": 4, "stdevs": 0.3}
    with pytest.warns(UserWarning, match=INFLUENCE):
        found = method.attribute_targets(inputs, [1, [3, 2]], generator=torch.Generator().manual_seed(0), **options)
    wanted = method.attribute_targets(
        inputs, [1, [3, 2]], generator=torch.Generator().manual_seed(0), n_samples_batch_size=1, **options
    )
    for at_target, wanted_there in zip(found, wanted, strict=True):
        for at_layer, wanted_at_layer in zip(at_target, wanted_there, strict=True):
            assert relative_error(at_layer, wanted_at_layer) < 1e-12


def test_what_was_wrong_by_a_third() -> None:
    """A layer below which a batch norm uses the statistics of the pass, as in few-shot learning and adaptation."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES),
        )
    )  # fmt: skip
    inputs = images(1, 3, 16, 16, dtype=torch.float32)
    with pytest.warns(UserWarning, match=INFLUENCE):
        attribution = attribute(model, inputs, "2")
    assert relative_error(attribution, attribute(model, inputs, "2", n_samples_batch_size=1)) < 1e-6


def test_explain_too() -> None:
    model = with_part(lambda: nn.BatchNorm2d(4, track_running_stats=False), dtype=torch.float32)
    inputs = images(1, 2, 6, 6, dtype=torch.float32)
    maps = []
    for size in (None, 1):
        with pytest.warns(UserWarning, match=INFLUENCE) if size is None else nothing_warned():
            explanation = explain(
                model, inputs, "layer", [1], n_samples_batch_size=size, generator=torch.Generator().manual_seed(0)
            )
        maps.append(explanation.maps["Smooth Grad-CAM++", "layer", 1])
    assert relative_error(*maps) < 1e-6


def nothing_warned() -> Any:
    """A context without meaning: warnings are errors in the tests."""
    return torch.enable_grad()


def test_forward_args_and_targets_of_the_inputs_behind_the_copies() -> None:
    """It gets its own, so that an ordinary model is not taken for one that joins examples."""

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = cut_model(smooth=True)

        def forward(self, image: Tensor, factor: Tensor, power: int) -> Tensor:
            scores: Tensor = self.cut(image * factor.reshape(-1, 1, 1, 1)) ** power
            return scores

    model, inputs = Asking(), images(2, 2, 6, 6)
    args = (torch.tensor([0.5, 3.0], dtype=torch.float64), 2)
    for target in ([1, 4], torch.tensor([0, 2]), 3):
        options = {"target": target, "additional_forward_args": args}
        with inputs_seen(model) as seen:
            attribution = attribute(model, inputs, "cut.layer", **options)
        assert max(len(rows) for rows in noisy_copies(seen)) > 2
        wanted = attribute(model, inputs, "cut.layer", n_samples_batch_size=1, **options)
        assert relative_error(attribution, wanted) < 1e-12


# --- models that are not what they seem ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, None])
@pytest.mark.parametrize("n_examples", [1, 2])
def test_at_most_one_copy_more(batch_size: int | None, n_examples: int) -> None:
    model = cut_model()
    with inputs_seen(model) as seen:
        attribute(model, cut_inputs(examples=n_examples), n_samples_batch_size=batch_size)
    assert sum(len(args[0]) for args in seen) == (1 + N_SAMPLES + 1) * n_examples


@pytest.mark.filterwarnings("ignore:forward_func. the model is in training mode")
def test_a_random_model_is_not_one_that_joins_examples() -> None:
    """Its scores differ by themselves; its copies share passes as before, and nobody is told otherwise."""
    plain = cut_model()
    model = CutModel(nn.Sequential(plain.below, nn.Dropout(0.3)), plain.layer, plain.above)
    with inputs_seen(model) as seen:
        attribute(model, cut_inputs(examples=1))
    assert [len(args[0]) for args in seen] == [1, 4, 1, 4, 3]  # the third and fourth show that the model is random


@pytest.mark.filterwarnings("ignore:forward_func. the model is in training mode")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_batch_norm_in_training_mode(dropout: float) -> None:
    """It joins the examples, and its statistics are those of the passes that count."""
    models = []
    for size in (None, 1):
        model = with_part(lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(dropout)))
        model.train()
        torch.manual_seed(1)
        if size is None:
            with pytest.warns(UserWarning, match=INFLUENCE):
                attribute(model, cut_inputs(examples=2))
        else:
            attribute(model, cut_inputs(examples=2), n_samples_batch_size=size)
        models.append(model)
    norms = [next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d)) for model in models]
    assert [int(norm.num_batches_tracked or 0) for norm in norms] == [1 + N_SAMPLES] * 2
    assert norms[0].running_mean is not None and norms[1].running_mean is not None
    assert torch.allclose(norms[0].running_mean, norms[1].running_mean, rtol=1e-12)


# --- models that take one copy ---------------------------------------------------------------------------------------


class Masked(nn.Module):
    """Adds a mask of its own, for one image."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = cut_model(smooth=True)
        self.mask = images(2, 2, 6, 6, seed=4)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.cut(image * self.mask[: len(self.mask)])
        return scores


class Viewed(nn.Module):
    """Flattens one image."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = cut_model(smooth=True)
        self.head = nn.Linear(27, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.cut.layer(self.cut.below(image))
        scores: Tensor = self.head(maps.view(1, -1).square())
        return scores


class WithRows(nn.Module):
    """Takes a dict with a row for each example, which nobody repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = cut_model(smooth=True)

    def forward(self, image: Tensor, rows: dict[str, Tensor]) -> Tensor:
        scores: Tensor = self.cut(image * rows["factor"].reshape(-1, 1, 1, 1))
        return scores


class Strict(Masked):
    """Asserts the size of its batch."""

    def forward(self, image: Tensor) -> Tensor:
        assert len(image) == 2
        scores: Tensor = self.cut(image)
        return scores


ONE_SIZE: list[Any] = [
    pytest.param(Masked, 2, None, id="a mask"),
    pytest.param(Viewed, 1, None, id="a view"),
    pytest.param(WithRows, 2, {"factor": torch.tensor([0.5, 2.0], dtype=torch.float64)}, id="a dict of rows"),
    pytest.param(Strict, 2, None, id="an assertion"),
]


@pytest.mark.parametrize(("build", "n_examples", "args"), ONE_SIZE)
@pytest.mark.parametrize("size", [None, 3])
def test_a_model_that_takes_one_size_gets_one_copy_at_a_time(
    build: Callable[[], nn.Module], n_examples: int, args: Any, size: int | None
) -> None:
    model: nn.Module = seeded(build).double()
    inputs, options = cut_inputs(examples=n_examples), {"additional_forward_args": args}
    with pytest.warns(UserWarning, match=REFUSED) as warned:
        attribution = attribute(model, inputs, "cut.layer", n_samples_batch_size=size, **options)
    assert len(warned) == 1
    assert "n_samples_batch_size=1" in str(warned[0].message)
    assert torch.equal(attribution, attribute(model, inputs, "cut.layer", n_samples_batch_size=1, **options))


def test_an_error_of_the_noisy_pass_itself_is_raised_without_a_warning() -> None:
    """Warnings are errors in the tests, so it would be in the way."""

    class Picky(Masked):
        def forward(self, image: Tensor) -> Tensor:
            if image.max() > 1:
                raise ValueError("values must be in [0, 1]")
            scores: Tensor = self.cut(image)
            return scores

    model: Picky = seeded(Picky).double()
    with pytest.raises(ValueError, match="values must be in"):
        attribute(model, cut_inputs(examples=1).clamp(0, 1), "cut.layer", stdevs=2)


def test_what_interrupts_a_shared_pass_is_not_caught() -> None:
    class Slow(Masked):
        def forward(self, image: Tensor) -> Tensor:
            if len(image) > 1:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                signal.pause()
            scores: Tensor = self.cut(image)
            return scores

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("too slow")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(TimeoutError, match="too slow"):
            attribute(seeded(Slow).double(), cut_inputs(examples=1), "cut.layer")
    finally:
        signal.signal(signal.SIGALRM, before)


# --- how large a difference is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [-1e9, 1e5, torch.finfo(torch.float32).min, -torch.inf, torch.nan])
def test_a_large_constant_among_the_scores_hides_nothing(constant: float) -> None:
    """As where classes that are not allowed are masked, or boxes in pixels stand beside probabilities."""
    model = with_part(lambda: nn.BatchNorm2d(6, track_running_stats=False), above=True, dtype=torch.float32)
    inputs = 2 * cut_inputs(examples=1, dtype=torch.float32)

    def masked(image: Tensor) -> Tensor:
        scores: Tensor = model(image)
        return scores.masked_fill(torch.tensor([True, False, True, True, True]), constant)

    with pytest.warns(UserWarning, match=INFLUENCE):
        found = attribute(masked, inputs, model.layer)
    assert torch.equal(found, attribute(masked, inputs, model.layer, n_samples_batch_size=1))


def test_a_score_near_zero_is_not_taken_for_influence() -> None:
    """Its rounding is that of the terms that cancel."""
    model = cut_model(dtype=torch.float32)
    inputs = 2 * cut_inputs(examples=1, dtype=torch.float32)
    with torch.no_grad():
        scores = model(inputs)
    attribute(lambda image: model(image) - scores, inputs, model.layer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_influence_is_found_in_half_precision(dtype: torch.dtype, autocast: bool) -> None:
    weights = torch.float32 if autocast else dtype
    model = with_part(lambda: nn.BatchNorm2d(4, track_running_stats=False), dtype=weights)
    inputs = 2 * cut_inputs(examples=1, dtype=weights)
    with torch.autocast("cpu", dtype, enabled=autocast), pytest.warns(UserWarning, match=INFLUENCE):
        attribute(model, inputs, stdevs=1.0)


def test_rounding_of_half_precision_that_scores_in_single_do_not_tell() -> None:
    model = with_part(lambda: nn.LayerNorm(4), dtype=torch.float32)

    def in_half(image: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            scores: Tensor = model(image)
        return scores.float()

    attribute(in_half, 2 * cut_inputs(examples=1, dtype=torch.float32), model.below)


@pytest.mark.filterwarnings("ignore:forward_func. the model is in training mode")
def test_a_random_model_that_joins_examples_too() -> None:
    def joined(values: Tensor) -> Tensor:
        values = nn.functional.batch_norm(values, None, None, training=True)
        return values + 1e-3 * torch.randn_like(values)

    model = with_part(lambda: Function(joined))
    with pytest.warns(UserWarning, match=INFLUENCE):
        attribute(model, 2 * cut_inputs(examples=1), stdevs=1.0)


def test_a_small_noise_hides_nothing() -> None:
    """The influence of copies on one another is as small, and larger than that on the example without noise."""
    model = with_part(lambda: Function(lambda values: values / values.square().mean().sqrt()), dtype=torch.float32)
    inputs = 2 * cut_inputs(examples=1, dtype=torch.float32)
    with pytest.warns(UserWarning, match=INFLUENCE):
        attribute(model, inputs, stdevs=0.01)


def test_an_error_that_ends_an_iteration_is_the_models_own() -> None:
    class Ending(Masked):
        def forward(self, image: Tensor) -> Tensor:
            if image.max() > 1:
                raise StopIteration
            scores: Tensor = self.cut(image)
            return scores

    with pytest.raises(StopIteration):
        attribute(seeded(Ending).double(), cut_inputs(examples=1).clamp(0, 1), "cut.layer", stdevs=2)
