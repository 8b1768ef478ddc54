"""Where the derivatives come from: "exp" and "autograd" against oracles in float64, one position at a time."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import SMOOTH, method_for, one
from models import TARGETS, cut_inputs, cut_model, images, seeded
from oracle import Channels, CutModel, alpha, by_channel, inputs_seen, noisy_copies, relative_error, samples_of
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, channels_last_to_map
from captum_sgcampp._passes import higher_derivatives

Transform = Callable[[Tensor], Tensor]


def with_head(model: CutModel, head: Callable[[Tensor], Tensor]) -> CutModel:
    """The same model, with a function at its end."""

    class Head(nn.Module):
        def forward(self, scores: Tensor) -> Tensor:
            return head(scores)

    return CutModel(model.below, model.layer, nn.Sequential(model.above, Head()))


def as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def derivatives_at(
    model: CutModel, example: Tensor, target: int, transform: Transform = as_it_is
) -> tuple[Channels, Channels, Channels, float]:
    """D1, D2, D3 of the score by each activation alone: a function of one number, differentiated three times."""
    rows = model.activation(example.unsqueeze(0)).double()  # one, unless the layer has several rows for an example
    numbers = transform(torch.arange(rows.numel()).reshape(rows.shape))[0]
    orders: list[list[float]] = [[], [], []]
    for number in numbers.flatten().tolist():
        unit = torch.zeros(rows.numel(), dtype=torch.float64)
        unit[number] = 1
        step = torch.zeros((), dtype=torch.float64, requires_grad=True)
        derivative = model.above(rows + step * unit.reshape(rows.shape))[0, target]
        score = derivative.item()
        for order in orders:
            if derivative.requires_grad:
                (derivative,) = torch.autograd.grad(derivative, step, create_graph=True)
            else:
                derivative = torch.zeros(())
            order.append(derivative.item())
    first, second, third = (
        by_channel(torch.tensor(order, dtype=torch.float64).reshape(numbers.shape)) for order in orders
    )
    return first, second, third, score


def map_from(
    name: str, activation: Tensor, samples: list[tuple[Channels, Channels, Channels]], weights: list[float]
) -> Tensor:
    """The map of one example before its ReLU, from the derivatives of its noise samples and their weights."""
    values = by_channel(activation)
    result = [0.0] * len(values[0])
    for k, channel in enumerate(values):
        w = 0.0
        for i in range(len(channel)):
            d1, d2, d3 = (
                sum(weight * sample[p][k][i] for weight, sample in zip(weights, samples, strict=True)) / len(samples)
                for p in range(3)
            )
            w += alpha(name, d1, max(d2, 0.0) if name == "bounded" else d2, d3, sum(channel)) * max(0.0, d1)
        result = [total + w * value for total, value in zip(result, channel, strict=True)]
    return torch.tensor(result, dtype=torch.float64).reshape(1, *activation.shape[1:])


def power(values: Channels, exponent: int) -> Channels:
    return [[value**exponent for value in channel] for channel in values]


def wanted(
    model: CutModel, inputs: Tensor, noisy: list[Tensor], name: str, source: str, transform: Transform = as_it_is
) -> Tensor:
    maps = []
    for example, copies, target in zip(inputs, samples_of(inputs, noisy), TARGETS[: len(inputs)], strict=True):
        found = [derivatives_at(model, copy, target, transform) for copy in copies or [example]]
        samples = [(first, second, third) for first, second, third, _ in found]
        weights = [1.0] * len(found)
        if source == "exp":
            scores = [score for *_, score in found]
            weights = [math.exp(score - max(scores)) for score in scores]
            samples = [(first, power(first, 2), power(first, 3)) for first, _, _ in samples]
        maps.append(map_from(name, transform(model.activation(example.unsqueeze(0)))[0], samples, weights))
    return torch.stack(maps)


def take_at_once(n_positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets "autograd" take so many positions at once, always."""
    monkeypatch.setattr(higher_derivatives, "POSITIONS_AT_ONCE", (n_positions,))


def positions_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions "autograd" takes at once, each time."""
    taken: list[int] = []
    original = higher_derivatives._differentiate_twice

    def counted(*args: Any) -> tuple[Tensor, Tensor]:
        taken.append(len(args[2]))
        return original(*args)

    monkeypatch.setattr(higher_derivatives, "_differentiate_twice", counted)
    return taken


def attribute(model: CutModel, inputs: Tensor, noise: dict[str, Any], **options: Any) -> tuple[Tensor, list[Tensor]]:
    method = method_for(noise.get("n_samples", 0))(model, model.layer, **options)
    torch.manual_seed(0)
    with inputs_seen(model) as seen:
        attribution = one(method.attribute(inputs, TARGETS, relu_attributions=False, **noise))
    return attribution, noisy_copies(seen)


@pytest.mark.parametrize("noise", [{}, SMOOTH, {**SMOOTH, "n_samples_batch_size": 2}])
@pytest.mark.parametrize("name", ["bounded", "eq5", "eq7"])
@pytest.mark.parametrize("rectified", [True, False])
def test_exp_weighs_samples_by_their_score(name: str, noise: dict[str, Any], rectified: bool) -> None:
    model, inputs = cut_model(rectified=rectified), cut_inputs()
    attribution, noisy = attribute(model, inputs, noise, alpha=name, derivatives="exp")
    expected = wanted(model, inputs, noisy, name, "exp")
    assert relative_error(attribution, expected) < 1e-9
    if noise:  # else the weights do nothing, and this test could not fail
        plain, _ = attribute(model, inputs, noise, alpha=name)
        assert relative_error(plain, expected) > 1e-3


def test_exp_does_not_overflow_and_does_not_depend_on_the_chunks() -> None:
    model = with_head(cut_model(dtype=torch.float32), lambda scores: 300 * scores)
    inputs = cut_inputs(dtype=torch.float32)

    def maps(size: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        method = LayerSmoothGradCAMpp(model, "layer", derivatives="exp")
        noise: dict[str, Any] = {"n_samples": 7, "stdevs": 0.3, "n_samples_batch_size": size, "generator": generator}
        return one(method.attribute(inputs, TARGETS, **noise))

    assert maps(7).isfinite().all()
    assert maps(7).max() > 0
    for size in (1, 2, 3):
        torch.testing.assert_close(maps(size), maps(7), rtol=1e-4, atol=1e-4 * maps(7).max().item())


@pytest.mark.pairwise
@pytest.mark.parametrize("noise", [{}, SMOOTH, {**SMOOTH, "n_samples_batch_size": 2}])
@pytest.mark.parametrize("name", ["bounded", "eq5", "eq7"])
@pytest.mark.parametrize("head", [lambda scores: scores, lambda scores: scores.softmax(dim=1), nn.functional.gelu])
def test_autograd_on_smooth_networks(
    name: str, noise: dict[str, Any], head: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_at_once(8, monkeypatch)
    model, inputs = with_head(cut_model(rectified=False, smooth=True), head), cut_inputs()
    attribution, noisy = attribute(model, inputs, noise, alpha=name, derivatives="autograd")
    expected = wanted(model, inputs, noisy, name, "autograd")
    assert relative_error(attribution, expected) < 1e-8
    plain, _ = attribute(model, inputs, noise, alpha=name)
    assert relative_error(plain, expected) > 1e-2


@pytest.mark.parametrize(("power", "cheaper"), [(0, 8), (1.5, 1)])
def test_autograd_keeps_to_the_number_of_positions_at_once_that_is_cheaper(
    power: float, cheaper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the time of so many is their number to a power."""
    model, inputs = cut_model(rectified=False, smooth=True), cut_inputs()
    sizes = positions_taken(monkeypatch)
    monkeypatch.setattr(higher_derivatives, "perf_counter", lambda: sum(size**power for size in sizes))
    LayerGradCamPlusPlus(model, "layer", derivatives="autograd").attribute(inputs, TARGETS)
    assert sizes[:5] == [1, 8, 1, 8, cheaper]
    assert sum(sizes) == 27


@pytest.mark.parametrize("dims", [0, 1, 3])
def test_autograd_in_any_dimensions(dims: int) -> None:
    model, inputs = cut_model(dims, rectified=False, smooth=True), cut_inputs(dims)
    attribution, _ = attribute(model, inputs, {}, derivatives="autograd")
    assert relative_error(attribution, wanted(model, inputs, [], "bounded", "autograd")) < 1e-8


@pytest.mark.parametrize("noise", [{}, SMOOTH])
@pytest.mark.parametrize("rectified", [True, False])
def test_autograd_of_exp_is_powers_on_piecewise_linear_networks(noise: dict[str, Any], rectified: bool) -> None:
    plain, inputs = cut_model(rectified=rectified), cut_inputs()
    exponential = with_head(plain, torch.exp)

    def maps(model: CutModel, source: str) -> Tensor:
        torch.manual_seed(0)
        method = method_for(noise.get("n_samples", 0))(model, "layer", derivatives=source)
        return one(method.attribute(inputs, TARGETS, relu_attributions=False, **noise))

    true = maps(exponential, "autograd")
    same = maps(plain, "exp")
    scale = [true[n].abs().max() / same[n].abs().max() for n in range(3)]
    for n in range(3):
        assert relative_error(true[n] / scale[n], same[n]) < 1e-8
    if not noise:
        assert torch.equal(same, maps(plain, "powers"))


def test_autograd_differentiates_only_what_filters_need(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = cut_model(rectified=False, smooth=True), cut_inputs()
    every, _ = attribute(model, inputs, {"attr_dim_summation": False}, derivatives="autograd")
    positions = positions_taken(monkeypatch)
    picked, _ = attribute(model, inputs, {"filters": [2]}, derivatives="autograd")
    assert sum(positions) == 9  # of the 27 in the layer
    torch.testing.assert_close(picked, every[:, [2]])


def test_autograd_through_reshape_transform() -> None:
    class Last(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps.movedim(1, -1)

    class First(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps.movedim(-1, 1)

    plain, inputs = cut_model(rectified=False, smooth=True), cut_inputs()
    model = CutModel(plain.below, nn.Sequential(plain.layer, Last()), nn.Sequential(First(), plain.above))
    method = LayerGradCamPlusPlus(model, "layer", derivatives="autograd", reshape_transform=channels_last_to_map)
    attribution = one(method.attribute(inputs, TARGETS, filters=[1, 0]))
    direct = LayerGradCamPlusPlus(plain, "layer", derivatives="autograd")
    torch.testing.assert_close(attribution, one(direct.attribute(inputs, TARGETS, filters=[1, 0])))
    assert attribution.max() > 0

    averaging = LayerGradCamPlusPlus(
        model, "layer", derivatives="autograd", reshape_transform=lambda maps: maps.movedim(-1, 1) / 2
    )
    with pytest.raises(ValueError, match="reshape_transform: must only move elements"):
        averaging.attribute(inputs, TARGETS)


@pytest.mark.parametrize("noise", [{}, {**SMOOTH, "stdevs": 0}])
def test_autograd_where_reshape_transform_makes_one_map_of_all_rows(noise: dict[str, Any]) -> None:
    """S = s^3 / 6, s the sum of four ones: D1 = 8, D2 = 4, D3 = 1, alpha = 4 / (8 + 4), and w = 4 * 8 / 3."""

    class Cube(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, rows: Tensor) -> Tensor:
            total: Tensor = self.layer(rows).sum().reshape(1)
            return total**3 / 6

    method = method_for(noise.get("n_samples", 0))(
        Cube(), "layer", derivatives="autograd", reshape_transform=lambda rows: rows.T[None]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_samples: smoothing changes nothing")
        attribution = one(method.attribute(torch.ones(4, 1, dtype=torch.float64), **noise))
    torch.testing.assert_close(attribution, torch.full((1, 1, 4), 32 / 3, dtype=torch.float64))


def clips(by_frame: bool = False) -> CutModel:
    """Scores clips of two frames, (N, 2, 5), each frame a row of its own in the layer, (2 N, 2, 3).

    Args:
        by_frame: Whether all first frames come before all second ones, rather than each clip before the next.
    """

    class Frames(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            return torch.cat(clips.unbind(dim=1)) if by_frame else clips.flatten(0, 1)

    class Clips(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            clips = frames.reshape(2, -1, 6).transpose(0, 1) if by_frame else frames
            return clips.reshape(-1, 12)

    model: CutModel = seeded(
        lambda: CutModel(
            nn.Sequential(Frames(), nn.Linear(5, 4), nn.Tanh()),
            nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))),
            nn.Sequential(Clips(), nn.Linear(12, 6), nn.Softplus(), nn.Linear(6, 5)),
        )
    )
    with torch.no_grad():
        next(model.above.parameters()).mul_(4)  # a sharper curve, else D3 would hardly count beside D2
    return model.double()


@pytest.mark.parametrize("noise", [{}, SMOOTH])
@pytest.mark.parametrize(
    ("by_frame", "examples", "transform"),
    [
        pytest.param(False, 3, lambda rows: rows.unflatten(0, (-1, 2)).transpose(1, 2), id="frames are a dimension"),
        pytest.param(True, 3, lambda rows: rows.unflatten(0, (2, -1)).movedim(0, 2), id="all first frames come first"),
        pytest.param(False, 3, lambda rows: rows.reshape(-1, 4, 3), id="rows are channels"),
        pytest.param(False, 3, lambda rows: rows.unflatten(0, (-1, 2)).movedim(1, 3).flatten(2), id="frames alternate"),
        pytest.param(False, 3, lambda rows: rows.reshape(-1, 12), id="elements are channels"),
        pytest.param(False, 1, lambda rows: rows.reshape(1, -1, 3), id="rows of one example are channels"),
        pytest.param(False, 1, lambda rows: rows.movedim(0, -1)[None], id="rows of one example are a dimension"),
    ],
)
def test_autograd_where_reshape_transform_joins_rows_of_an_example(
    by_frame: bool, examples: int, transform: Transform, noise: dict[str, Any]
) -> None:
    """Each element is differentiated by itself, not together with that at its place in the example's other rows."""
    model, inputs = clips(by_frame), images(examples, 2, 5)
    options: dict[str, Any] = {"derivatives": "autograd", "reshape_transform": transform}
    method = method_for(noise.get("n_samples", 0))(model, "layer", **options)
    with inputs_seen(model) as seen:
        attribution = one(method.attribute(inputs, TARGETS[:examples], relu_attributions=False, **noise))
    noisy = noisy_copies(seen)
    assert relative_error(attribution, wanted(model, inputs, noisy, "bounded", "autograd", transform)) < 1e-8


def test_autograd_of_filters_where_reshape_transform_joins_rows() -> None:
    model, inputs = clips(), images(3, 2, 5)
    method = LayerGradCamPlusPlus(
        model, "layer", derivatives="autograd", reshape_transform=lambda rows: rows.reshape(-1, 4, 3)
    )
    every = one(method.attribute(inputs, TARGETS, attr_dim_summation=False))
    assert every.amax(dim=(0, 2)).min() > 0
    torch.testing.assert_close(one(method.attribute(inputs, TARGETS, filters=[3, 0])), every[:, [3, 0]])


def long_model() -> CutModel:
    """With 64 positions at its layer."""
    model: CutModel = seeded(
        lambda: CutModel(
            nn.Conv1d(2, 4, 3),
            nn.Conv1d(4, 1, 3),
            nn.Sequential(nn.Tanh(), nn.Conv1d(1, 3, 4, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5)),
        )
    )
    return model.double()


LONG_INPUTS = 2 * images(2, 2, 68)


@pytest.fixture(scope="module")
def wanted_of_long_model() -> Tensor:
    return wanted(long_model(), LONG_INPUTS, [], "bounded", "autograd")


@pytest.mark.parametrize("at_once", [1, 2, 16, 256])
def test_autograd_does_not_depend_on_how_many_positions_are_taken_at_once(
    at_once: int, wanted_of_long_model: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_at_once(at_once, monkeypatch)
    sizes = positions_taken(monkeypatch)
    method = LayerGradCamPlusPlus(long_model(), "layer", derivatives="autograd")
    attribution = one(method.attribute(LONG_INPUTS, TARGETS[:2], relu_attributions=False))
    assert attribution.shape == (2, 1, 64)
    assert sum(sizes) == 64
    assert max(sizes) == min(at_once, 64)
    assert relative_error(attribution, wanted_of_long_model) < 1e-8


def test_autograd_with_create_graph_can_be_differentiated() -> None:
    model, inputs = cut_model(rectified=False, smooth=True), cut_inputs(examples=1)
    method = LayerGradCamPlusPlus(model, "layer", derivatives="autograd")

    def total(inputs: Tensor) -> Tensor:
        kwargs = {"create_graph": True}
        return one(method.attribute(inputs, 1, relu_attributions=False, grad_kwargs=kwargs)).square().sum()

    leaf = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(leaf), leaf)
    direction = images(*inputs.shape, seed=5)
    step = 1e-5
    finite = (total(inputs + step * direction) - total(inputs - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), finite.detach(), rtol=1e-5, atol=0)


def test_autograd_without_curvature_says_so() -> None:
    model, inputs = cut_model(), cut_inputs()
    with pytest.warns(UserWarning, match="derivatives: the second derivatives of the score with respect to 'layer'"):
        attribution = one(LayerGradCamPlusPlus(model, "layer", derivatives="autograd").attribute(inputs, TARGETS))
    assert not attribution.any()


@pytest.mark.parametrize("source", ["exp", "autograd"])
def test_examples_and_rows_of_the_layer_must_be_the_same(source: str) -> None:
    class Frames(nn.Module):
        """Scores films by what is in their frames, each a row of the layer."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.head = nn.Linear(3, 5)

        def forward(self, films: Tensor) -> Tensor:
            scores: Tensor = self.head(self.layer(films.flatten(0, 1)).tanh()).unflatten(0, films.shape[:2]).mean(1)
            return scores

    model, films = seeded(Frames), images(3, 2, 4, dtype=torch.float32)
    assert one(LayerSmoothGradCAMpp(model, "layer").attribute(films, 1, **SMOOTH)).shape == (6, 1)
    with pytest.raises(ValueError, match=f"derivatives: '{source}' needs a layer with one row for each score"):
        LayerSmoothGradCAMpp(model, "layer", derivatives=source).attribute(films, 1, **SMOOTH)


def test_progress_of_autograd_counts_positions(capfd: pytest.CaptureFixture[str]) -> None:
    model, inputs = cut_model(smooth=True), cut_inputs()
    method = LayerSmoothGradCAMpp(model, "layer", derivatives="autograd")
    method.attribute(inputs, TARGETS, n_samples=2, stdevs=0.1, show_progress=True)
    assert f"{2 * 3 * 27}/{2 * 3 * 27}" in capfd.readouterr().err


@pytest.mark.parametrize("source", ["powers", "exp", "autograd"])
@pytest.mark.parametrize("noise", [{}, SMOOTH])
def test_gradients_that_are_zero_give_a_zero_map_and_no_warning(source: str, noise: dict[str, Any]) -> None:
    model, inputs = with_head(cut_model(), lambda scores: scores * 0), cut_inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method = method_for(noise.get("n_samples", 0))(model, "layer", derivatives=source)
        assert not one(method.attribute(inputs, TARGETS, **noise)).any()


@pytest.mark.parametrize(
    ("what", "model"),
    [
        ("gradients", with_head(cut_model(), lambda scores: (scores * 0).sqrt())),
        (
            "activations",
            CutModel(
                cut_model().below, nn.Sequential(cut_model().layer, nn.Threshold(0.1, math.inf)), cut_model().above
            ),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:n_samples. smoothing changes nothing")
@pytest.mark.parametrize("noise", [{}, SMOOTH])
def test_what_is_not_finite_is_said_with_its_layer(what: str, model: CutModel, noise: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=f"layer: the {what} of 'layer' .* are not all finite") as caught:
        method_for(noise.get("n_samples", 0))(model, "layer").attribute(cut_inputs(), TARGETS, **noise)
    assert sum(what in str(warning.message) for warning in caught) == 1
    assert caught[0].filename == __file__


def affine_above() -> CutModel:
    """Global average pooling and one linear layer, as after the last block of a ResNet."""
    model = cut_model(dtype=torch.float32)
    above = seeded(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)))
    return CutModel(model.below, model.layer, above)


@pytest.mark.parametrize("size", [None, 1, 3, 7])
def test_smoothing_that_cannot_matter_is_said_once(size: int | None) -> None:
    model, inputs = affine_above(), cut_inputs(dtype=torch.float32)
    method = LayerSmoothGradCAMpp(model, ["layer", "layer.0"])
    with pytest.warns(
        UserWarning, match="n_samples: smoothing changes nothing at layer 'layer' .* Choose an earlier layer"
    ) as caught:
        smooth, _ = method.attribute(inputs, TARGETS, n_samples=7, stdevs=0.3, n_samples_batch_size=size)
    assert len(caught) == 1  # not for the convolution, which has a ReLU above it
    plain = LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS)
    torch.testing.assert_close(smooth, plain)


@pytest.mark.parametrize("stdev", [1e-2, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smoothing_that_matters_little_is_not_denied(stdev: float, dtype: torch.dtype) -> None:
    model, inputs = cut_model(smooth=True, dtype=dtype), cut_inputs(dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LayerSmoothGradCAMpp(model, "layer").attribute(inputs, TARGETS, n_samples=3, stdevs=stdev)


def test_no_noise_at_all_is_said() -> None:
    model, inputs = cut_model(smooth=True), cut_inputs()
    with pytest.warns(UserWarning, match="smoothing changes nothing"):
        LayerSmoothGradCAMpp(model, "layer").attribute(inputs, TARGETS, n_samples=2, stdevs=0)


class Mixed(nn.Module):
    """Each channel of each example adds to the score, in a straight line or along a curve, and times a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3)

    def forward(self, inputs: Tensor, factors: Tensor, curved: Tensor) -> Tensor:
        maps = self.layer(inputs)
        values = torch.where(curved[..., None, None], nn.functional.softplus(maps), maps)
        return (factors[..., None, None] * values).sum(dim=(1, 2, 3))


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize(
    ("factors", "curved"),
    [
        pytest.param([[1e6, 1e6], [1, 1]], [[False, False], [True, True]], id="of one example"),
        pytest.param([[1e6, 1], [1e6, 1]], [[False, True], [False, True]], id="of one channel"),
        pytest.param([[1e6, 1e6], [1e6, 1]], [[False, False], [False, True]], id="of one channel of one example"),
        pytest.param([[1, 1], [1, 1]], [[False, False], [False, True]], id="of the same size"),
    ],
)
def test_gradients_that_change_are_seen_beside_larger_ones_that_do_not(
    factors: list[list[float]], curved: list[list[bool]], size: int | None
) -> None:
    method = LayerSmoothGradCAMpp(seeded(Mixed), "layer")
    inputs = images(2, 2, 5, 5, dtype=torch.float32)

    def attribute(curved: Tensor) -> None:
        args = torch.tensor(factors), curved
        method.attribute(inputs, None, args, n_samples=6, stdevs=0.3, n_samples_batch_size=size)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute(torch.tensor(curved))
    with pytest.warns(UserWarning, match="n_samples: smoothing changes nothing at layer 'layer'") as caught:
        attribute(torch.zeros(2, 2, dtype=torch.bool))
    assert len(caught) == 1
