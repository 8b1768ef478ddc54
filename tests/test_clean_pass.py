"""Models in which the rows of a tensor are not the examples: their noisy copies go through the model one at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from helpers import one
from models import CLASSES, cut_model, images, seeded
from oracle import CutModel, example_map, expected, inputs_seen, noisy_copies, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

N_SAMPLES = 4
STDEV = 0.3
TARGETS = [1, 4]
N_EXAMPLES = pytest.mark.parametrize("n_examples", [1, 2])
# One image at a time would hide what several do on the CPU, where two of them leave room for two copies of each.


def attribute(model: Any, layer: Any, inputs: Any, **options: Any) -> Any:
    """The attribution before the ReLU, with the same noise each time."""
    options = {"relu_attributions": False, "n_samples": N_SAMPLES, "stdevs": STDEV, **options}
    return LayerSmoothGradCAMpp(model, layer).attribute(inputs, generator=torch.Generator().manual_seed(7), **options)


def by_hand(model: nn.Module, layer: str, seen: list[tuple[Any, ...]], target: Any, args: Any = None) -> Tensor:
    """The map of each of the layer's rows, from the input alone and from noisy copies that ran one by one."""
    found = [
        compute_layer_gradients_and_eval(model, model.get_submodule(layer), inputs, target, args) for inputs, *_ in seen
    ]
    (activations,) = found[0][1]
    gradients = torch.stack([gradient for (gradient,), _ in found[1:]])
    return torch.stack(
        [
            example_map("bounded", activation.detach(), list(samples), relu=False)
            for activation, samples in zip(activations, gradients.unbind(dim=1), strict=True)
        ]
    )


def conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.Tanh())


class Maps(nn.Module):
    """A network whose layer returns a map for each row, and that joins the rows of an example in its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.below = conv(2, 4)
        self.layer = conv(4, 3)
        self.above = nn.Sequential(conv(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))

    def scores(self, rows: Tensor) -> Tensor:
        """A row of scores for each row."""
        scores: Tensor = self.above(self.layer(self.below(rows)))
        return scores


class TwoViews(Maps):
    """Each image and its mirror image, one half of the batch each."""

    def forward(self, image: Tensor) -> Tensor:
        one_view, another = self.scores(torch.cat([image, image.flip(-1)])).square().chunk(2)
        return one_view * another.exp()


class Frames(Maps):
    """The frames of a video, (N, frames, C, H, W), each as a row."""

    def forward(self, video: Tensor) -> Tensor:
        return self.scores(video.flatten(0, 1)).square().reshape(*video.shape[:2], CLASSES).logsumexp(dim=1)


class FramesInTurn(Maps):
    """The first frame of all videos, then the second of all."""

    def forward(self, video: Tensor) -> Tensor:
        frames = video.transpose(0, 1)
        return self.scores(frames.flatten(0, 1)).square().reshape(*frames.shape[:2], CLASSES).logsumexp(dim=0)


class EachFrame(Maps):
    """Scores of each frame, the first frame of all videos first."""

    def forward(self, video: Tensor) -> Tensor:
        return self.scores(video.transpose(0, 1).flatten(0, 1)).square()


class Windows(Maps):
    """Four windows of each image."""

    def forward(self, image: Tensor) -> Tensor:
        windows = image.unfold(2, 3, 3).unfold(3, 3, 3).permute(2, 3, 0, 1, 4, 5)
        return self.scores(windows.flatten(0, 2)).square().reshape(4, len(image), CLASSES).logsumexp(dim=0)


class Pairs(Maps):
    """Every image is compared with the next one: half as many scores as images."""

    def forward(self, image: Tensor) -> Tensor:
        left, right = self.scores(image).square().reshape(-1, 2, CLASSES).unbind(dim=1)
        return left - right.exp()


class OneForAll(Maps):
    """One row of scores for the whole batch."""

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(image).square().logsumexp(dim=0, keepdim=True)


class Words(nn.Module):
    """A network of sequences, whose layer returns (T, N, C).

    Args:
        batch_first: Whether the model takes (N, T, C), or (T, N, C) as its layer does.
    """

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.below = nn.LSTM(3, 4)
        self.layer = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
        self.attention = nn.MultiheadAttention(3, 1)
        self.above = nn.Linear(3, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        words = words.transpose(0, 1) if self.batch_first else words
        features = self.layer(self.below(words)[0])
        scores: Tensor = self.above(self.attention(features, features, features)[0].square().sum(dim=0))
        return scores


JOINED: list[Any] = [
    pytest.param(TwoViews, lambda n: images(n, 2, 6, 6), lambda n: TARGETS[:n], id="two views"),
    pytest.param(Frames, lambda n: images(n, 3, 2, 6, 6), lambda n: TARGETS[:n], id="frames"),
    pytest.param(FramesInTurn, lambda n: images(n, 3, 2, 6, 6), lambda n: TARGETS[:n], id="frames in turn"),
    pytest.param(EachFrame, lambda n: images(n, 3, 2, 6, 6), lambda _: 1, id="each frame"),
    pytest.param(Windows, lambda n: images(n, 2, 6, 6), lambda n: TARGETS[:n], id="windows"),
    pytest.param(Pairs, lambda n: images(2 * n, 2, 6, 6), lambda n: TARGETS[:n], id="pairs"),
    pytest.param(OneForAll, lambda n: images(n + 1, 2, 6, 6), lambda _: 1, id="one score for all"),
    pytest.param(lambda: Words(True), lambda n: images(n, 4, 3), lambda n: TARGETS[:n], id="words"),
    pytest.param(lambda: Words(False), lambda n: images(2 * n, n, 3), lambda n: TARGETS[:n], id="words first"),
]
joined = pytest.mark.parametrize(("build", "inputs_of", "targets_of"), JOINED)


@joined
@N_EXAMPLES
def test_rows_that_are_not_examples_go_through_the_model_one_copy_at_a_time(
    build: Callable[[], nn.Module], inputs_of: Callable[[int], Tensor], targets_of: Any, n_examples: int
) -> None:
    inputs, target = inputs_of(n_examples), targets_of(n_examples)
    model = seeded(build).double()
    with inputs_seen(model) as seen:
        attribution = one(attribute(model, "layer", inputs, target=target))
    one_at_a_time = one(attribute(model, "layer", inputs, target=target, n_samples_batch_size=1))
    assert relative_error(attribution, one_at_a_time) < 1e-12
    assert [args[0].shape for args in seen] == [inputs.shape] * (1 + N_SAMPLES)
    assert relative_error(attribution, by_hand(model, "layer", seen, target)) < 1e-10


@joined
@N_EXAMPLES
def test_asking_for_several_copies_of_rows_that_are_not_examples_is_refused(
    build: Callable[[], nn.Module], inputs_of: Callable[[int], Tensor], targets_of: Any, n_examples: int
) -> None:
    """As soon as the pass without noise has shown it."""
    inputs, target = inputs_of(n_examples), targets_of(n_examples)
    model = seeded(build).double()
    with inputs_seen(model) as seen, pytest.raises(ValueError, match="n_samples_batch_size"):
        attribute(model, "layer", inputs, target=target, n_samples_batch_size=2)
    assert len(seen) == 1


@joined
def test_without_noise_rows_need_not_be_examples(
    build: Callable[[], nn.Module], inputs_of: Callable[[int], Tensor], targets_of: Any
) -> None:
    inputs, target = inputs_of(2), targets_of(2)
    model = seeded(build).double()
    attribution = one(LayerGradCamPlusPlus(model, "layer").attribute(inputs, target, relu_attributions=False))
    assert relative_error(attribution, by_hand(model, "layer", [(inputs,)] * 2, target)) < 1e-10


@joined
def test_several_targets_of_rows_that_are_not_examples(
    build: Callable[[], nn.Module], inputs_of: Callable[[int], Tensor], targets_of: Any
) -> None:
    inputs, targets = inputs_of(2), [targets_of(2), 3]
    model = seeded(build).double()
    with inputs_seen(model) as seen:
        attributions = LayerSmoothGradCAMpp(model, "layer").attribute_targets(
            inputs, targets, relu_attributions=False, n_samples=N_SAMPLES, stdevs=STDEV
        )
    assert len(seen) == 1 + N_SAMPLES
    for attribution, target in zip(attributions, targets, strict=True):
        assert relative_error(one(attribution), by_hand(model, "layer", seen, target)) < 1e-10


def test_one_layer_of_a_list_whose_rows_are_not_examples_is_enough() -> None:
    class Late(Maps):
        """Joins and parts the views between its two layers."""

        def __init__(self) -> None:
            super().__init__()
            self.first = conv(2, 2)

        def forward(self, image: Tensor) -> Tensor:
            features = self.first(image)
            left, right = self.scores(torch.cat([features, features.flip(-1)])).square().chunk(2)
            return left * right.exp()

    inputs = images(2, 2, 6, 6)
    model = seeded(Late).double()
    for layers in (["first", "layer"], ["layer", "first"]):
        with inputs_seen(model) as seen:
            attributions = attribute(model, layers, inputs, target=TARGETS)
        assert len(seen) == 1 + N_SAMPLES
        for layer, attribution in zip(layers, attributions, strict=True):
            assert relative_error(attribution, by_hand(model, layer, seen, TARGETS)) < 1e-10


def test_reshape_transform_may_make_rows_the_examples_that_they_were_not() -> None:
    """(T, N, C) becomes (N, C, T), whatever the number of copies."""
    inputs = images(2, 4, 3)
    model = seeded(lambda: Words(True)).double()
    method = LayerSmoothGradCAMpp(model, "layer", reshape_transform=lambda words: words.permute(1, 2, 0))
    maps = []
    for batch_size in (None, 1):
        attribution = method.attribute(
            inputs,
            TARGETS,
            n_samples=N_SAMPLES,
            stdevs=STDEV,
            n_samples_batch_size=batch_size,
            generator=torch.Generator().manual_seed(7),
            relu_attributions=False,
        )
        maps.append(one(attribution))
    assert maps[0].shape == (2, 1, 4)
    assert relative_error(*maps) < 1e-12


# --- further arguments -----------------------------------------------------------------------------------------------


class Conditioned(CutModel):
    """Takes a further tensor of any shape that can be added to the features."""

    def forward(self, inputs: Tensor, offset: Tensor | float = 0.0, *_rest: Any) -> Tensor:
        scores: Tensor = self.above(self.layer(self.below(inputs) + offset))
        return scores


def conditioned() -> Conditioned:
    plain = cut_model(smooth=True)
    return Conditioned(plain.below, plain.layer, plain.above)


@pytest.mark.parametrize("shape", [(4, 4), (4, 1, 1), (4,), (1, 4, 4, 4)], ids=str)
def test_a_tensor_that_belongs_to_no_example_is_given_as_it_is(shape: tuple[int, ...]) -> None:
    """A table for all examples, whose first dimension is not theirs, is not repeated for the copies."""
    model, inputs, table = conditioned(), 2 * images(2, 2, 6, 6), images(*shape, seed=5)
    with inputs_seen(model) as seen:
        attribution = one(attribute(model, "layer", inputs, target=TARGETS, additional_forward_args=table))
    assert all(torch.equal(args[1], table) for args in seen)
    assert [len(args[0]) for args in seen] == [2] * (1 + N_SAMPLES)
    assert relative_error(attribution, by_hand(model, "layer", seen, TARGETS, table)) < 1e-10


def test_several_copies_with_a_tensor_that_belongs_to_no_example_are_refused() -> None:
    model, table = conditioned(), images(4, 1, 1, seed=5)
    with pytest.raises(ValueError, match="n_samples_batch_size"):
        attribute(
            model,
            "layer",
            images(2, 2, 6, 6),
            target=TARGETS,
            additional_forward_args=table,
            n_samples_batch_size=2,
        )


@pytest.mark.parametrize("others", [(), (None,), (3, "words"), (True, 0.5, [1, 2, 3])], ids=str)
def test_a_number_without_dimensions_is_given_as_it_is(others: tuple[Any, ...]) -> None:
    model, inputs, args = conditioned(), 2 * images(2, 2, 6, 6), (torch.tensor(0.3), *others)
    with inputs_seen(model) as seen:
        attribution = one(attribute(model, "layer", inputs, target=TARGETS, additional_forward_args=args))
    assert all(noted[2:] == others for noted in seen)
    one_at_a_time = attribute(
        model, "layer", inputs, target=TARGETS, additional_forward_args=args, n_samples_batch_size=1
    )
    assert relative_error(attribution, one(one_at_a_time)) < 1e-12


# --- ordinary models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_examples", [1, 2])
@pytest.mark.parametrize("args", [(), (None, 3, "words"), ("each",)], ids=str)
def test_ordinary_models_get_several_copies_at_once(n_examples: int, args: tuple[Any, ...]) -> None:
    model, inputs = conditioned(), 2 * images(n_examples, 2, 6, 6)
    if args == ("each",):
        args = (images(n_examples, 4, 4, 4, seed=5),)
    elif args:
        args = (0.0, *args)
    with inputs_seen(model) as seen:
        attribution = one(
            attribute(model, "layer", inputs, target=TARGETS[:n_examples], additional_forward_args=args or None)
        )
    assert len(noisy_copies(seen)) < N_SAMPLES
    assert sum(len(rows) for rows in noisy_copies(seen)) == N_SAMPLES * n_examples
    assert sum(len(args[0]) for args in seen) == (1 + N_SAMPLES + 1) * n_examples  # see NoisyPasses
    one_at_a_time = attribute(
        model,
        "layer",
        inputs,
        target=TARGETS[:n_examples],
        additional_forward_args=args or None,
        n_samples_batch_size=1,
    )
    assert relative_error(attribution, one(one_at_a_time)) < 1e-12


def test_a_segmentation_network_gets_several_copies_at_once() -> None:
    """Its rows are the examples, although each has a score for every pixel."""
    plain = cut_model(smooth=True)
    model = CutModel(plain.below, plain.layer, nn.Sequential(nn.Conv2d(3, CLASSES, 2), nn.Softplus()))
    model, inputs = seeded(lambda: model).double(), 2 * images(1, 2, 6, 6)
    with inputs_seen(model) as seen:
        attribution = one(attribute(model, "layer", inputs, target=(1, 0, 1), stdevs=0.15))
    assert len(seen) == 2

    class Pixel(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            scores: Tensor = model.above(features)[:, :, 0, 1]
            return scores

    cut = CutModel(model.below, model.layer, Pixel())
    assert relative_error(attribution, expected(cut, inputs, noisy_copies(seen), [1], relu=False)) < 1e-10
