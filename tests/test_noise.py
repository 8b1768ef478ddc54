"""The noise: what the model sees, and what is refused."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers import one
from models import CLASSES, TARGETS, cut_inputs, cut_model, images, seeded
from oracle import CutModel, copies_seen, expected, inputs_seen, noisy_copies, relative_error, samples_of
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp._passes.noise import BoundNoise, Noise

SEVERAL = [2, 3, 6, 7, 100, None]
"""How many copies may share a pass."""
CHUNKS = [1, *SEVERAL]


def noisy_inputs(
    inputs: Tensor,
    batch_size: int | None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    n_samples: int = 6,
    model: CutModel | None = None,
) -> list[Tensor]:
    """The noisy inputs that a model saw, one chunk after the other."""
    model = model or cut_model()
    with inputs_seen(model) as seen:
        LayerSmoothGradCAMpp(model, model.layer).attribute(
            inputs, target=1, n_samples=n_samples, n_samples_batch_size=batch_size, generator=generator
        )
    return noisy_copies(seen)


@pytest.mark.parametrize("batch_size", CHUNKS)
def test_a_seed_means_the_same_noise_in_chunks_of_any_size(batch_size: int | None) -> None:
    inputs = cut_inputs()
    torch.manual_seed(5)
    wanted = torch.cat(noisy_inputs(inputs, 1))
    torch.manual_seed(5)
    assert torch.equal(torch.cat(noisy_inputs(inputs, batch_size)), wanted)


def test_generators_must_fit_each_input_with_noise() -> None:
    cut = cut_model(smooth=True)

    def forward(image: Tensor, other: Tensor) -> Tensor:
        scores: Tensor = cut(image + other)
        return scores

    inputs = (cut_inputs(), cut_inputs()[:1])
    method, generators = LayerSmoothGradCAMpp(forward, cut.layer), [torch.Generator() for _ in TARGETS]
    with inputs_seen(cut) as seen, pytest.raises(ValueError, match=r"^generator: 3 .* for 1 example.* of input 1\."):
        method.attribute(inputs, TARGETS, n_samples=2, generator=generators)
    assert seen == []
    how: dict[str, Any] = {"n_samples": 2, "n_samples_batch_size": 1, "generator": generators}
    assert one(method.attribute(inputs, TARGETS, stdevs=(0.1, 0), **how)).any()


class Jitter(nn.Module):
    """Adds noise of its own to whatever passes, in any mode."""

    def forward(self, values: Tensor) -> Tensor:
        return values + 0.01 * torch.randn_like(values)


@pytest.mark.filterwarnings("ignore:forward_func. the model is in training mode")
@pytest.mark.parametrize("batch_size", CHUNKS)
@pytest.mark.parametrize("drawing", [Jitter, nn.Dropout])
def test_a_seed_means_the_same_noise_also_where_the_model_draws_from_torchs_generator(
    drawing: Callable[[], nn.Module], batch_size: int | None
) -> None:
    inputs, plain = cut_inputs(), cut_model()
    model = CutModel(nn.Sequential(plain.below, drawing()), plain.layer, plain.above)  # in training mode
    torch.manual_seed(5)
    wanted = torch.cat(noisy_inputs(inputs, 1, model=model))
    torch.manual_seed(5)
    assert torch.equal(torch.cat(noisy_inputs(inputs, batch_size, model=model)), wanted)


def test_the_next_call_has_other_noise() -> None:
    first, second = (torch.cat(noisy_inputs(cut_inputs(), None)) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("batch_size", CHUNKS)
def test_a_generator_means_the_same_noise_in_chunks_of_any_size(batch_size: int | None) -> None:
    inputs = cut_inputs()
    wanted = torch.cat(noisy_inputs(inputs, 1, torch.Generator().manual_seed(5)))
    actual = torch.cat(noisy_inputs(inputs, batch_size, torch.Generator().manual_seed(5)))
    assert torch.equal(actual, wanted)
    assert not torch.equal(actual, torch.cat(noisy_inputs(inputs, batch_size, torch.Generator().manual_seed(6))))


@pytest.mark.parametrize(
    ("n_samples", "at_most", "sizes"),
    [(5, 4, [3, 2]), (25, 4, [4, 4, 4, 4, 3, 3, 3]), (8, 4, [4, 4]), (7, 7, [7]), (3, 100, [3]), (3, 1, [1, 1, 1])],
)
def test_passes_are_of_even_size(n_samples: int, at_most: int, sizes: list[int]) -> None:
    inputs = cut_inputs()
    assert [len(noisy) for noisy in noisy_inputs(inputs, at_most, n_samples=n_samples)] == [
        size * len(inputs) for size in sizes
    ]


@pytest.mark.parametrize("batch_size", SEVERAL)
def test_the_map_does_not_depend_on_the_chunks(batch_size: int | None) -> None:
    model, inputs = cut_model(), cut_inputs()
    maps = []
    for size in (1, batch_size):
        attribution = LayerSmoothGradCAMpp(model, model.layer).attribute(
            inputs,
            target=TARGETS,
            n_samples=6,
            n_samples_batch_size=size,
            generator=torch.Generator().manual_seed(5),
        )
        assert isinstance(attribution, Tensor)
        maps.append(attribution)
    assert relative_error(maps[1], maps[0]) < 1e-13


def test_without_a_generator_the_noise_has_one_of_its_own_whose_seed_is_known() -> None:
    torch.manual_seed(5)
    first = Noise(n_samples=3).bind((cut_inputs(),))
    assert isinstance(first.generator, torch.Generator)
    assert first.generator is not torch.default_generator
    assert first.seed is not None
    again = Noise(n_samples=3, generator=torch.Generator().manual_seed(first.seed)).bind((cut_inputs(),))
    for (_, (copies,)), (_, (same,)) in zip(first.chunks(2), again.chunks(3), strict=False):
        assert torch.equal(copies[: len(cut_inputs())], same[: len(cut_inputs())])


def test_without_noise_torchs_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    assert Noise().bind((cut_inputs(),)).seed is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("noise", [{}, {"n_samples": 3, "n_samples_batch_size": 1}])
def test_noise_is_bound_once_before_the_model_runs(noise: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, bound = cut_model(), list[int]()
    bind = Noise.bind
    with inputs_seen(model) as seen:

        def counted(self: Noise, inputs: tuple[Tensor, ...]) -> BoundNoise:
            bound.append(len(seen))
            return bind(self, inputs)

        monkeypatch.setattr(Noise, "bind", counted)
        method = LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus
        method(model, model.layer).attribute(cut_inputs(), TARGETS, **noise)
    assert bound == [0]
    assert len(seen) == 1 + noise.get("n_samples", 0)


def test_a_generator_leaves_torchs_own_alone() -> None:
    state = torch.get_rng_state()
    noisy_inputs(cut_inputs(), 2, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("stdevs", [0.1, 0])
def test_torchs_generator_advances_by_the_same_however_many_samples_there_are(stdevs: float) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = LayerSmoothGradCAMpp(model, model.layer)

    def state_after(**noise: Any) -> Tensor:
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "n_samples: smoothing changes nothing")
            method.attribute(inputs, TARGETS, stdevs=stdevs, **noise)
        return torch.get_rng_state()

    wanted = state_after(n_samples=1)
    assert not torch.equal(wanted, torch.Generator().manual_seed(5).get_state())
    for n_samples in (2, 7):
        for batch_size in (1, 3, None):
            assert torch.equal(state_after(n_samples=n_samples, n_samples_batch_size=batch_size), wanted)


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_a_generator_is_drawn_from_directly(batch_size: int | None) -> None:
    """So that the noise can be told from its seed: it is one draw for each sample, and nothing else is drawn."""
    inputs = torch.zeros_like(cut_inputs())
    used, same = (torch.Generator().manual_seed(5) for _ in range(2))
    noise = torch.cat(noisy_inputs(inputs, batch_size, used))
    draws = [torch.randn(inputs.shape, dtype=torch.float64, generator=same) for _ in range(6)]
    assert torch.equal(noise, 0.15 * torch.cat(draws))
    assert torch.equal(used.get_state(), same.get_state())


@pytest.mark.filterwarnings("ignore:n_samples. is 0")
def test_no_noise_leaves_torchs_generator_alone() -> None:
    state = torch.get_rng_state()
    assert noisy_inputs(cut_inputs(), None, n_samples=0) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_goes_on_where_it_was() -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.cat(noisy_inputs(cut_inputs(), None, generator)) for _ in range(2))
    assert not torch.equal(first, second)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("batch_size", CHUNKS)
@pytest.mark.parametrize("kind", [list, tuple])
def test_with_a_generator_of_its_own_an_example_has_the_same_noise_in_any_batch(
    kind: Callable[[Any], Sequence[torch.Generator]], batch_size: int | None
) -> None:
    inputs, seeds = cut_inputs(), [5, 6, 7]
    state = torch.get_rng_state()
    together = torch.cat(noisy_inputs(inputs, batch_size, kind(generators(*seeds)))).reshape(6, *inputs.shape)
    for number, seed in enumerate(seeds):
        alone = torch.cat(noisy_inputs(inputs[number : number + 1], 6, generators(seed)))
        assert torch.equal(together[:, number], alone)
    turned = torch.cat(noisy_inputs(inputs.flip(0), 2, generators(*seeds[::-1]))).reshape(6, *inputs.shape)
    assert torch.equal(turned.flip(1), together)
    assert torch.equal(torch.get_rng_state(), state)
    noise = together - inputs
    assert len(torch.unique(noise)) == noise.numel()


def test_with_a_generator_of_its_own_an_example_has_the_same_map_in_any_batch() -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    method = LayerSmoothGradCAMpp(model, model.layer)
    together = one(method.attribute(inputs, TARGETS, n_samples=4, generator=generators(5, 6, 7)))
    alone = one(method.attribute(inputs[1:2], TARGETS[1], n_samples=4, generator=generators(6)))
    assert relative_error(together[1:2], alone) < 1e-12


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_generators_of_examples_with_several_inputs(batch_size: int | None) -> None:
    model, inputs = two_inputs()

    def noisy(inputs: tuple[Tensor, ...], *seeds: int) -> list[Tensor]:
        with inputs_seen(model) as seen:
            LayerSmoothGradCAMpp(model, model.layer).attribute(
                inputs, 1, n_samples=4, n_samples_batch_size=batch_size, generator=generators(*seeds)
            )
        return [
            torch.cat([args[number] for args in copies_seen(seen)]).reshape(4, *clean.shape)
            for number, clean in enumerate(inputs)
        ]

    together = noisy(inputs, 5, 6, 7)
    alone = noisy(tuple(tensor[1:2] for tensor in inputs), 6)
    for number in range(2):
        assert torch.equal(together[number][:, 1:2], alone[number])


@pytest.mark.parametrize(
    ("generator", "error"),
    [
        pytest.param(5, TypeError, id="a number"),
        pytest.param("cpu", TypeError, id="a string"),
        pytest.param(np.random.default_rng(0), TypeError, id="NumPy's"),
        pytest.param([5, 6, 7], TypeError, id="numbers"),
        pytest.param([*generators(5, 6), None], TypeError, id="one is None"),
        pytest.param(generators(5, 6), ValueError, id="too few"),
        pytest.param(generators(5, 6, 7, 8), ValueError, id="too many"),
        pytest.param([], ValueError, id="none"),
    ],
)
@pytest.mark.parametrize("n_samples", [0, 2])
@pytest.mark.filterwarnings("ignore:n_samples. is 0")
def test_wrong_generators_are_refused_before_the_model_runs(
    generator: Any, error: type[Exception], n_samples: int
) -> None:
    model = cut_model()
    with inputs_seen(model) as seen, pytest.raises(error, match=r"^generator: "):
        LayerSmoothGradCAMpp(model, model.layer).attribute(
            cut_inputs(), TARGETS, n_samples=n_samples, generator=generator
        )
    assert seen == []


def test_every_example_and_sample_has_noise_of_its_own() -> None:
    inputs = images(1, 2, 6, 6).expand(3, 2, 6, 6)
    noise = torch.cat(noisy_inputs(inputs, 4)) - inputs[:1]
    assert len(torch.unique(noise)) == noise.numel() == 18 * 2 * 36


class TwoInputs(nn.Module):
    """Takes two images, of other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 3, 3)
        self.right = nn.Conv2d(1, 3, 2)
        self.layer = nn.ReLU()
        self.head = nn.Linear(3 * 16, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(self.left(left) * self.right(right)).flatten(1).square())
        return scores


def two_inputs() -> tuple[TwoInputs, tuple[Tensor, Tensor]]:
    return seeded(TwoInputs), (images(3, 2, 6, 6, dtype=torch.float32), images(3, 1, 5, 5, dtype=torch.float32))


@pytest.mark.filterwarnings("ignore:n_samples. smoothing changes nothing")
@pytest.mark.parametrize(
    ("stdevs", "wanted"),
    [
        (0.15, (0.15, 0.15)),
        (2, (2.0, 2.0)),
        ((0.1, 0.4), (0.1, 0.4)),
        ([0.1, 0.4], (0.1, 0.4)),
        ((0.3, 0.0), (0.3, 0.0)),
        (0.0, (0.0, 0.0)),
        (np.float32(0.25), (0.25, 0.25)),
    ],
    ids=str,
)
def test_statistics(stdevs: Any, wanted: tuple[float, float]) -> None:
    model, inputs = two_inputs()
    with inputs_seen(model) as seen:
        LayerSmoothGradCAMpp(model, model.layer).attribute(
            inputs,
            target=1,
            n_samples=200,
            stdevs=stdevs,
            n_samples_batch_size=50,
            generator=torch.Generator().manual_seed(0),
        )
    for number, sigma in enumerate(wanted):
        clean, chunks = seen[0][number], [args[number] for args in copies_seen(seen)]
        noise = torch.cat(chunks) - clean.repeat(200, 1, 1, 1)
        if not sigma:
            assert torch.equal(noise, torch.zeros_like(noise))
            continue
        error = sigma / math.sqrt(noise.numel())
        assert abs(noise.mean().item()) < 4 * error
        assert abs(noise.std().item() - sigma) < 4 * error
        kurtosis = (noise / sigma).pow(4).mean().item()
        assert kurtosis == pytest.approx(3, abs=0.2)  # normal: uniform noise has 1.8


def test_the_default_width_is_the_papers() -> None:
    inputs = cut_inputs()
    noise = torch.cat(noisy_inputs(inputs, 50, torch.Generator().manual_seed(0), n_samples=50)) - inputs.repeat(
        50, 1, 1, 1
    )
    assert noise.std().item() == pytest.approx(0.15, rel=0.03)


@pytest.mark.parametrize("stdevs", [0.1, (0.1,), [0.1]], ids=str)
def test_a_tuple_of_one_input_is_that_input(stdevs: Any) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = LayerSmoothGradCAMpp(model, model.layer)
    alone, in_tuple = (
        method.attribute(argument, target=1, n_samples=3, stdevs=stdevs, generator=torch.Generator().manual_seed(0))
        for argument in (inputs, (inputs,))
    )
    assert isinstance(alone, Tensor) and isinstance(in_tuple, Tensor)
    assert torch.equal(alone, in_tuple)


def test_inputs_stay_as_they_are() -> None:
    inputs = cut_inputs()
    before = inputs.clone()
    noisy_inputs(inputs, 2)
    assert torch.equal(inputs, before)


def test_an_input_that_takes_no_noise_need_not_be_of_floating_point() -> None:
    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)
            self.layer = nn.Tanh()
            self.head = nn.Linear(48, CLASSES)

        def forward(self, image: Tensor, index: Tensor) -> Tensor:
            scores: Tensor = self.head(self.layer(self.conv(image)).flatten(1)).square()
            return scores.gather(1, index)

    model: Indexed = seeded(Indexed)
    image, index = images(3, 2, 6, 6, dtype=torch.float32), torch.tensor([[1], [2], [0]])
    with inputs_seen(model) as seen:
        LayerSmoothGradCAMpp(model, model.layer).attribute(
            (image, index), n_samples=2, stdevs=(0.2, 0.0), n_samples_batch_size=2
        )
    assert torch.equal(copies_seen(seen)[0][1], index.repeat(2, 1))


class Asking(nn.Module):
    """Its score depends on a tensor and an object beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.ReLU()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Softplus(), nn.Linear(8, CLASSES))

    def forward(self, image: Tensor, factor: Tensor, power: int) -> Tensor:
        features: Tensor = self.layer(self.conv(image))
        scores: Tensor = self.head(features * factor.reshape(-1, 1, 1, 1)) ** power
        return scores


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, None])
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_targets_and_forward_args_stay_with_their_example(batch_size: int | None, kind: Any) -> None:
    model: Asking = seeded(Asking).double()
    inputs, factor = 3 * images(3, 2, 6, 6), torch.tensor([0.1, 1.0, -3.0], dtype=torch.float64)
    with inputs_seen(model) as seen:
        attribution = LayerSmoothGradCAMpp(model, model.layer).attribute(
            inputs,
            target=kind(TARGETS),
            additional_forward_args=(factor, 3),
            n_samples=5,
            n_samples_batch_size=batch_size,
            relu_attributions=False,
        )
    assert isinstance(attribution, Tensor)
    for args in seen[1:]:
        assert args[2] == 3
        for row, factor_seen in zip(args[0], args[1], strict=True):
            assert factor_seen == factor[(inputs - row).flatten(1).norm(dim=1).argmin()]
    copies = samples_of(inputs, noisy_copies(seen))
    for number, target in enumerate(TARGETS):  # each example on its own, cut by hand

        class Head(nn.Module):
            def forward(self, features: Tensor) -> Tensor:
                scores: Tensor = model.head(features * factor[number]) ** 3  # noqa: B023
                return scores

        cut = CutModel(model.conv, model.layer, Head())
        wanted = expected(cut, inputs[number : number + 1], [torch.stack(copies[number])], [target], relu=False)
        assert relative_error(attribution[number : number + 1], wanted) < 1e-10


def test_another_order_of_targets_is_another_map() -> None:
    model, inputs = cut_model(), cut_inputs()
    with inputs_seen(model) as seen:
        attribution = LayerSmoothGradCAMpp(model, model.layer).attribute(
            inputs, target=TARGETS, n_samples=4, n_samples_batch_size=4
        )
    assert isinstance(attribution, Tensor)
    noisy = noisy_copies(seen)
    assert relative_error(attribution, expected(model, inputs, noisy, TARGETS)) < 1e-10
    assert relative_error(attribution, expected(model, inputs, noisy, TARGETS[::-1])) > 1e-2


@pytest.mark.filterwarnings("ignore:n_samples. is 0")
@pytest.mark.parametrize("n_samples", [0, 4])
def test_channels_last(n_samples: int) -> None:
    model, inputs = cut_model(), cut_inputs()
    maps = []
    for argument in (inputs, inputs.to(memory_format=torch.channels_last)):
        attribution = LayerSmoothGradCAMpp(model, model.layer).attribute(
            argument, target=TARGETS, n_samples=n_samples, generator=torch.Generator().manual_seed(0)
        )
        assert isinstance(attribution, Tensor)
        maps.append(attribution)
    assert relative_error(maps[1], maps[0]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gets_the_same_noise(dtype: torch.dtype) -> None:
    def noise(dtype: torch.dtype) -> Tensor:
        model, inputs = cut_model(dtype=dtype), torch.zeros(cut_inputs().shape, dtype=dtype)
        with inputs_seen(model) as seen:
            torch.manual_seed(0)
            LayerSmoothGradCAMpp(model, model.layer).attribute(inputs, TARGETS, n_samples=2, stdevs=0.3)
        return torch.cat(noisy_copies(seen))

    assert torch.equal(noise(dtype), noise(torch.float32).to(dtype))


@pytest.mark.parametrize("size", [1, 3])
def test_channels_last_stays_so_through_the_noise(size: int) -> None:
    model, inputs = cut_model(), cut_inputs().to(memory_format=torch.channels_last)
    with inputs_seen(model) as seen:
        LayerSmoothGradCAMpp(model, model.layer).attribute(inputs, TARGETS, n_samples=3, n_samples_batch_size=size)
    assert len(copies_seen(seen)) == 3 // size
    for (noisy,) in seen:
        assert noisy.is_contiguous(memory_format=torch.channels_last)
        assert not noisy.is_contiguous()


@pytest.mark.parametrize(
    ("kwargs", "error", "name"),
    [
        ({"n_samples": -1}, ValueError, "n_samples"),
        ({"n_samples": 2.0}, TypeError, "n_samples"),
        ({"n_samples": "2"}, TypeError, "n_samples"),
        ({"n_samples": None}, TypeError, "n_samples"),
        ({"n_samples_batch_size": 0}, ValueError, "n_samples_batch_size"),
        ({"n_samples_batch_size": -3}, ValueError, "n_samples_batch_size"),
        ({"n_samples_batch_size": 1.5}, TypeError, "n_samples_batch_size"),
        ({"stdevs": -0.1}, ValueError, "stdevs"),
        ({"stdevs": (0.1, -0.1)}, ValueError, "stdevs"),
        ({"stdevs": math.nan}, ValueError, "stdevs"),
        ({"stdevs": math.inf}, ValueError, "stdevs"),
        ({"stdevs": (0.1, math.nan)}, ValueError, "stdevs"),
        ({"stdevs": "0.1"}, TypeError, "stdevs"),
        ({"stdevs": None}, TypeError, "stdevs"),
        ({"stdevs": ("0.1", 0.1)}, TypeError, "stdevs"),
        ({"stdevs": (0.1,)}, ValueError, "stdevs"),
        ({"stdevs": (0.1, 0.1, 0.1)}, ValueError, "stdevs"),
        ({"stdevs": ()}, ValueError, "stdevs"),
        ({"n_samples": True}, TypeError, "n_samples"),
        ({"n_samples_batch_size": True}, TypeError, "n_samples_batch_size"),
        ({"stdevs": True}, TypeError, "stdevs"),
        ({"stdevs": (0.1, False)}, TypeError, "stdevs"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_the_model_runs(
    kwargs: dict[str, Any], error: type[Exception], name: str
) -> None:
    model, inputs = two_inputs()
    with inputs_seen(model) as seen, pytest.raises(error, match=name):
        LayerSmoothGradCAMpp(model, model.layer).attribute(inputs, target=1, **{"n_samples": 3, **kwargs})
    assert seen == []


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_noise_is_refused_for_inputs_not_of_floating_point(dtype: torch.dtype) -> None:
    model, (left, right) = two_inputs()
    with inputs_seen(model) as seen, pytest.raises(TypeError, match=r"inputs.*1.*" + str(dtype)):
        LayerSmoothGradCAMpp(model, model.layer).attribute((left, right.to(dtype)), target=1, n_samples=2)
    assert seen == []


def test_integers_of_other_kinds() -> None:
    model, inputs = cut_model(), cut_inputs()
    one_of_numpys: Any = np.int64(1)
    with inputs_seen(model) as seen:
        LayerSmoothGradCAMpp(model, model.layer).attribute(
            inputs, target=1, n_samples=one_of_numpys, n_samples_batch_size=one_of_numpys
        )
    assert len(seen) == 2


def test_a_function_that_joins_the_copies_is_refused() -> None:
    model, inputs = cut_model(), cut_inputs()

    def mean_score(batch: Tensor) -> Tensor:
        scores: Tensor = model(batch).mean(dim=0, keepdim=True)
        return scores

    method = LayerSmoothGradCAMpp(mean_score, model.layer)
    with pytest.raises(ValueError, match="n_samples_batch_size: must be 1"):
        method.attribute(inputs, target=1, n_samples=2, n_samples_batch_size=2)
    for size in (1, None):
        attribution = one(method.attribute(inputs, target=1, n_samples=2, n_samples_batch_size=size))
        assert attribution.shape == (3, 1, 3, 3)


def test_progress_is_shown_if_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = LayerSmoothGradCAMpp(model, model.layer)
    method.attribute(inputs, target=1, n_samples=4)
    assert capfd.readouterr() == ("", "")
    method.attribute(inputs, target=1, n_samples=4, show_progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "Noise samples" in shown.err and "100%" in shown.err


def test_the_method_is_not_changed_by_use() -> None:
    model, inputs = cut_model(), cut_inputs()
    method = LayerSmoothGradCAMpp(model, model.layer)
    before = copy.copy(vars(method))
    method.attribute(inputs, target=1, n_samples=2)
    assert vars(method) == before
