"""The grid of a transformer's tokens: given, derived from the input and the model, or refused."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import SMOOTH, one
from models import seeded
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, explain, tokens_to_map
from captum_sgcampp._models.patches import PatchedInputs, patch_grids
from captum_sgcampp.reshape import TokensToMap

Pair = tuple[int, int]


class Patches(nn.Module):
    """A transformer with a class token, and registers if there are any, whose patches may overlap or be padded."""

    def __init__(self, kernel: Pair, stride: Pair | None = None, padding: int = 0, n_prefix_tokens: int = 1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, kernel, stride=stride or kernel, padding=padding)
        self.prefix = nn.Parameter(torch.randn(1, n_prefix_tokens, 8))
        self.layer = nn.LayerNorm(8)
        self.above = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(image), -1, -1), patches], dim=1)
        scores: Tensor = self.head(self.above(self.layer(tokens)).mean(dim=1))
        return scores


def behind_a_function(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function that calls the model, of which nothing else is known."""

    def run(image: Tensor) -> Tensor:
        scores: Tensor = model(image)
        return scores

    return run


def build(*arguments: Any, **options: Any) -> Any:
    return seeded(lambda: Patches(*arguments, **options))


CASES = [
    pytest.param((16, 16), {}, (384, 96), (24, 6), id="144 = 12 x 12"),
    pytest.param((16, 16), {}, (32, 128), (2, 8), id="16 = 4 x 4"),
    pytest.param((16, 16), {}, (224, 224), (14, 14), id="square"),
    pytest.param((16, 16), {}, (230, 100), (14, 6), id="not a multiple of the patches"),
    pytest.param((8, 32), {}, (64, 256), (8, 8), id="patches that are not square"),
    pytest.param((16, 8), {}, (128, 128), (8, 16), id="patches that are not square of a square image"),
    pytest.param((16, 16), {"stride": (10, 10)}, (128, 256), (12, 25), id="patches that overlap"),
    pytest.param((7, 7), {"stride": (4, 4), "padding": 3}, (100, 36), (25, 9), id="padded"),
    pytest.param((16, 16), {"n_prefix_tokens": 5}, (64, 256), (4, 16), id="registers"),
    pytest.param((16, 16), {"n_prefix_tokens": 0}, (64, 256), (4, 16), id="no class token"),
]


@pytest.mark.parametrize("noise", [{}, SMOOTH])
@pytest.mark.parametrize(("kernel", "options", "size", "grid"), CASES)
def test_the_grid_is_that_of_the_model(
    kernel: Pair, options: dict[str, Any], size: Pair, grid: Pair, noise: dict[str, Any]
) -> None:
    model, image = build(kernel, **options), torch.rand(2, 3, *size)
    n_prefix_tokens = options.get("n_prefix_tokens", 1)
    method = LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus

    def attribute(**given: Any) -> Tensor:
        transform = tokens_to_map(n_prefix_tokens, **given)
        torch.manual_seed(3)
        return one(method(model, "layer", reshape_transform=transform).attribute(image, [1, 3], **noise))

    assert attribute().shape == (2, 1, *grid)
    assert torch.equal(attribute(), attribute(grid=grid))


@pytest.mark.parametrize(("size", "grid"), [((384, 96), (24, 6)), ((32, 128), (2, 8)), ((224, 224), (14, 14))])
def test_behind_a_function_patches_are_squares_that_divide_the_image(size: Pair, grid: Pair) -> None:
    model, image = build((16, 16)), torch.rand(1, 3, *size)
    function, transform = behind_a_function(model), tokens_to_map()
    explanation = explain(function, image, model.layer, [1], n_samples=2, reshape_transform=transform)
    assert {tuple(found.shape) for found in explanation.maps.values()} == {(1, 1, *grid)}


def test_patches_that_are_merged_later() -> None:
    transform = tokens_to_map(0).for_inputs((torch.empty(1, 3, 128, 320),), build((4, 4)))
    for grid in [(32, 80), (16, 40), (8, 20), (4, 10)]:
        assert transform(torch.empty(1, grid[0] * grid[1], 8)).shape == (1, 8, *grid)


@pytest.mark.parametrize("wrap", [lambda model: model, behind_a_function])
@pytest.mark.parametrize("n_prefix_tokens", [1, 2])
@pytest.mark.parametrize(("size", "n_patches", "grid"), [((384, 96), 144, "24 x 6"), ((32, 128), 16, "2 x 8")])
def test_a_wrong_number_of_prefix_tokens_is_said_with_the_right_one(
    size: Pair, n_patches: int, grid: str, n_prefix_tokens: int, wrap: Callable[[nn.Module], Any]
) -> None:
    model = build((16, 16), n_prefix_tokens=n_prefix_tokens + 1)
    method = LayerGradCamPlusPlus(wrap(model), model.layer, reshape_transform=tokens_to_map(n_prefix_tokens))
    message = (
        rf"n_prefix_tokens: without {n_prefix_tokens} prefix .* leave {n_patches + 1}, the number of patches, which "
        rf"fill no grid of an input \(1, 3, {size[0]}, {size[1]}\); n_prefix_tokens={n_prefix_tokens + 1} would leave "
        rf"{grid}\. .*grid=\(24, 6\)"
    )
    with pytest.raises(ValueError, match=message):
        method.attribute(torch.rand(1, 3, *size), 1)


@pytest.mark.parametrize("transform", [tokens_to_map(), tokens_to_map(grid=(9, 8))])
def test_patches_that_are_no_squares_behind_a_function(transform: TokensToMap) -> None:
    model, image = build((8, 32)), torch.rand(1, 3, 72, 256)
    method = LayerGradCamPlusPlus(behind_a_function(model), model.layer, reshape_transform=transform)
    assert one(method.attribute(image, 1)).shape == (1, 1, 9, 8)


def test_an_image_that_no_squares_fill_is_refused_where_nothing_is_known_of_its_patches() -> None:
    transform = tokens_to_map().for_inputs((torch.empty(1, 3, 72, 256),), lambda image: image)
    with pytest.raises(ValueError, match=r"leave 72, .* no grid of an input \(1, 3, 72, 256\).*grid=\(24, 6\)"):
        transform(torch.empty(1, 73, 8))


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 64), id="text"),
        pytest.param((1, 64, 8), id="embeddings"),
        pytest.param((1, 4, 3, 32, 32), id="video"),
    ],
)
def test_what_is_no_image_has_no_grid(shape: tuple[int, ...]) -> None:
    """64 tokens of a text are not 8 x 8, and 64 of a video may be 4 x 4 x 4."""
    transform = tokens_to_map(0).for_inputs((torch.empty(shape),), lambda tokens: tokens)
    with pytest.raises(ValueError, match=r"leave 64, .*such as grid=\(24, 6\)"):
        transform(torch.empty(1, 64, 8))
    given = tokens_to_map(0, (4, 4, 4)).for_inputs((torch.empty(shape),), lambda tokens: tokens)
    assert given(torch.empty(1, 64, 8)).shape == (1, 8, 4, 4, 4)


def test_the_image_among_several_inputs() -> None:
    transform = tokens_to_map().for_inputs((torch.empty(1, 77), torch.empty(1, 3, 384, 96)), lambda *_inputs: None)
    assert transform(torch.empty(1, 145, 8)).shape == (1, 8, 24, 6)


def test_a_spectrogram_may_be_turned_around() -> None:
    """Transformers' AST takes (N, time, frequency) and cuts (N, 1, frequency, time) into patches."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}

    def attribute(max_length: int, **grid: Any) -> Tensor:
        config = transformers.ASTConfig(**small, max_length=max_length, num_mel_bins=64)
        model = seeded(lambda: transformers.ASTForAudioClassification(config))
        layer = model.audio_spectrogram_transformer.layernorm
        (layer,) = [module for name, module in model.named_modules() if name.endswith("layernorm_before")] or [layer]

        class Scores(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, values: Tensor) -> Tensor:
                logits: Tensor = self.model(values).logits
                return logits

        method = LayerGradCamPlusPlus(Scores(), layer, reshape_transform=tokens_to_map(2, **grid))
        return one(method.attribute(torch.rand(1, max_length, 64), 1))

    assert attribute(64).shape == (1, 1, 5, 5)
    with pytest.raises(ValueError, match=r"grid: the 45 patches .* can be 5 x 9 or 9 x 5 of an input \(1, 100, 64\)"):
        attribute(100)
    assert attribute(100, grid=(5, 9)).shape == (1, 1, 5, 9)


@pytest.mark.parametrize(
    ("name", "options", "layer", "n_prefix_tokens"),
    [
        ("vit_tiny_patch16_224", {"img_size": (384, 96)}, "blocks.1.norm1", 1),
        ("deit_tiny_distilled_patch16_224", {"img_size": (384, 96)}, "blocks.1.norm1", 2),
        ("vit_tiny_patch16_224", {"img_size": (384, 96), "reg_tokens": 4}, "blocks.1.norm1", 5),
        ("mixer_s16_224", {"img_size": (384, 96)}, "blocks.1.norm1", 0),
    ],
)
def test_timm(name: str, options: dict[str, Any], layer: str, n_prefix_tokens: int) -> None:
    timm = pytest.importorskip("timm")
    model = seeded(lambda: timm.create_model(name, pretrained=False, num_classes=5, **options))
    transform = tokens_to_map(n_prefix_tokens)
    method = LayerGradCamPlusPlus(model, layer, reshape_transform=transform)
    assert one(method.attribute(torch.rand(1, 3, 384, 96), 1)).shape == (1, 1, 24, 6)
    assert transform.inputs is None  # the method binds a copy


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager"), nn.Sequential])
def test_a_model_within_another(wrap: Callable[[nn.Module], Any]) -> None:
    model = build((8, 32))
    method = LayerGradCamPlusPlus(wrap(model), model.layer, reshape_transform=tokens_to_map())
    assert one(method.attribute(torch.rand(1, 3, 72, 256), 1)).shape == (1, 1, 9, 8)


def test_the_number_of_prefix_tokens_is_not_guessed_from_a_video() -> None:
    transform = tokens_to_map(0).for_inputs((torch.empty(1, 4, 3, 32, 32),), build((8, 8)))
    with pytest.raises(ValueError, match="leave 32, ") as error:
        transform(torch.empty(1, 32, 8))
    assert "would leave" not in str(error.value)


def test_known_inputs_can_be_pickled() -> None:
    transform = tokens_to_map().for_inputs((torch.empty(1, 3, 384, 96),), build((16, 16)))
    again = pickle.loads(pickle.dumps(transform))  # noqa: S301
    assert again == transform
    assert hash(again) == hash(transform)
    assert again(torch.empty(1, 145, 8)).shape == (1, 8, 24, 6)


def test_other_functions_stay_as_they_are() -> None:
    """A function around tokens_to_map knows no input, and takes a square as before."""

    def transform(tokens: Tensor) -> Tensor:
        return tokens_to_map()(tokens)

    method = LayerGradCamPlusPlus(build((16, 16)), "layer", reshape_transform=transform)
    assert one(method.attribute(torch.rand(1, 3, 224, 224), 1)).shape == (1, 1, 14, 14)


def test_convolutional_networks_tell_no_patches_unless_they_begin_with_them() -> None:
    stack = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 2, stride=2))
    assert patch_grids(stack, (1, 3, 32, 32)) == frozenset()
    assert patch_grids(build((16, 16)), (1, 3, 64, 32)) == {(4, 2)}
    assert PatchedInputs.of((torch.empty(1, 3, 2, 2),), build((16, 16))).told == frozenset()
