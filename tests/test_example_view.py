"""`explain` shows one map of one example: layers with other rows, tokens and channels that are last are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models import seeded
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, channels_last_to_map, explain, list_layers, tokens_to_map
from captum_sgcampp._passes.selection import Selection
from captum_sgcampp.explanation.example_view import ExampleView


def scores() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 5))


class Rows(nn.Module):
    """Scores a bag of images, (1, n, C, H, W), or a video, by joining the scores of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = scores()

    def forward(self, rows: Tensor) -> Tensor:
        of_each: Tensor = self.scores(rows.flatten(0, 1))
        return of_each.reshape(*rows.shape[:2], -1).logsumexp(dim=1)


@pytest.mark.parametrize("selection", [{}, {"filters": [2, 0]}, {"subset": [(0, 0)]}])
@pytest.mark.parametrize("n_rows", [5, 6])
def test_frames_and_bags(n_rows: int, selection: dict[str, Any]) -> None:
    model, inputs = seeded(Rows), torch.rand(1, n_rows, 3, 8, 8)
    called: list[int] = []
    model.register_forward_pre_hook(lambda _module, args: called.append(len(args[0])))
    with pytest.raises(
        ValueError,
        match=rf"layer: 'scores.1' \(Tanh\) has {n_rows} rows for the one example, in a shape of \({n_rows}, ",
    ) as error:
        explain(model, inputs, "scores.1", [1], n_samples=3, photograph=torch.rand(8, 8).numpy(), **selection)
    assert called == [1]  # before the passes with noise
    assert "reshape_transform" in str(error.value)
    assert "attribute" in str(error.value)
    # As advised:
    attribution = LayerGradCamPlusPlus(model, "scores.1").attribute(inputs, 1)
    assert len(attribution) == n_rows


@pytest.mark.parametrize(("filters", "n_maps"), [(None, 1), ([2, 0], 2)])
def test_rows_that_are_joined(filters: list[int] | None, n_maps: int) -> None:
    model, inputs = seeded(Rows), torch.rand(1, 5, 3, 8, 8)

    def joined(rows: Tensor) -> Tensor:
        return rows.reshape(-1, 5, *rows.shape[1:]).transpose(1, 2)

    explanation = explain(model, inputs, "scores.1", [1], n_samples=2, reshape_transform=joined, filters=filters)
    assert {tuple(found.shape) for found in explanation.maps.values()} == {(1, n_maps, 5, 6, 6)}
    if filters is None:
        # A map of each row has weights of its own; in one map they are those of the whole video.
        of_rows = LayerGradCamPlusPlus(model, "scores.1").attribute(inputs, 1)
        whole = explanation.maps["Grad-CAM++", "scores.1", 1][0, 0]
        assert whole.shape == of_rows[:, 0].shape
        assert whole.max() > 0


def test_a_reshape_transform_that_leaves_rows() -> None:
    message = r"has 5 rows .* \(5, 4, 6, 6\), which reshape_transform turns into \(5, 6, 4, 6\)"
    with pytest.raises(ValueError, match=message):
        explain(
            seeded(Rows), torch.rand(1, 5, 3, 8, 8), "scores.1", reshape_transform=lambda rows: rows.transpose(1, 2)
        )


def swin() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=5
    )
    model = seeded(lambda: transformers.SwinForImageClassification(config))
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def test_the_windows_of_a_swin_transformer(tmp_path: Path) -> None:
    model, image = swin(), torch.rand(1, 3, 32, 32)
    (layer, *_) = [name for name, _ in model.named_modules() if name.endswith((".q_proj", ".query"))]
    with pytest.raises(ValueError, match=r"has 4 rows for the one example, in a shape of \(4, 16, 8\)"):
        explain(model, image, layer, [1], n_samples=2).save_page(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())

    def joined(windows: Tensor) -> Tensor:
        by_place = windows.reshape(-1, 2, 2, 4, 4, 8)  # (N, rows and columns of windows, those within, C)
        return by_place.permute(0, 5, 1, 3, 2, 4).reshape(len(by_place), 8, 8, 8)

    explanation = explain(model, image, layer, [1], n_samples=2, reshape_transform=joined)
    assert {tuple(found.shape) for found in explanation.maps.values()} == {(1, 1, 8, 8)}
    explanation.save_page(tmp_path / "page.html")
    # Without a shift, the windows' rows put back are those of the layer before, whose gradient is not lost on the way.
    seen: dict[str, Tensor] = {}
    block = layer.rpartition(".attention")[0]
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: seen.update({name: call[2]}))
        for name in (f"{block}.layernorm_before", layer)
    ]
    model(image)
    for handle in handles:
        handle.remove()
    projection = model.get_submodule(layer)
    tokens = tokens_to_map(0)(projection(seen[f"{block}.layernorm_before"]))
    torch.testing.assert_close(joined(seen[layer]), tokens)


def test_tokens_of_a_model_that_tells_its_patches() -> None:
    model, image = swin(), torch.rand(1, 3, 32, 32)
    (layer, *_) = [name for name, _ in model.named_modules() if name.endswith("layernorm_before")]
    with pytest.raises(ValueError, match=r"returns tokens, \(1, 64, 8\)\. Give reshape_transform=tokens_to_map\(\)"):
        explain(model, image, layer, [1], n_samples=1)
    explanation = explain(model, image, layer, [1], n_samples=1, reshape_transform=tokens_to_map(0))
    assert explanation.maps["Grad-CAM", layer, 1].shape == (1, 1, 8, 8)


def test_attention_is_no_map() -> None:
    timm = pytest.importorskip("timm")
    model = seeded(lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5))
    for block in model.blocks:
        block.attn.fused_attn = False
    with pytest.raises(ValueError, match=r"returns \(1, 3, 17, 17\), tokens by heads or the attention between them"):
        explain(model, torch.rand(1, 3, 64, 64), "blocks.0.attn.attn_drop", [1], n_samples=1)
    view = ExampleView.of(torch.rand(1, 3, 64, 64), model, Selection(), None, compute_all_channels=True)
    for shape in [(1, 3, 17, 64), (1, 17, 3, 64)]:
        with pytest.raises(ValueError, match="tokens by heads"):
            view.activations(torch.empty(shape), "layer")
    for shape in [(1, 17, 32, 32), (1, 17, 16, 16), (1, 17, 4, 4), (1, 17, 64, 64)]:
        assert view.activations(torch.empty(shape), "layer").shape == shape


def test_tokens_behind_a_function_are_refused() -> None:
    timm = pytest.importorskip("timm")
    model = seeded(lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5))
    with pytest.raises(ValueError, match=r"returns tokens, \(1, 17, 192\)\. .*tokens_to_map\(\)"):
        explain(lambda image: 2 * model(image), torch.rand(1, 3, 64, 64), model.blocks[1].norm1, n_samples=1)


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
@pytest.mark.parametrize("size", [(64, 64), (64, 128)])
def test_channels_that_are_last(kind: str, size: tuple[int, int]) -> None:
    library = pytest.importorskip(kind)
    if kind == "timm":
        options: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
        model = seeded(lambda: library.models.SwinTransformer(img_size=size, num_classes=5, **options))
        layer = "layers.1.blocks.1.norm1"
    else:
        options = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": [4, 4]}
        model = seeded(lambda: library.models.SwinTransformer(patch_size=[4, 4], num_classes=5, **options))
        layer = "features.3.1.norm1"
    image = torch.rand(1, 3, *size)
    rows, columns = size[0] // 8, size[1] // 8
    message = rf"returns \(1, {rows}, {columns}, 48\) for an image of {size[0]} x {size[1]}, .*channels_last_to_map"
    with pytest.raises(ValueError, match=message):
        explain(model, image, layer, [1], n_samples=1)
    explanation = explain(model, image, layer, [1], n_samples=1, reshape_transform=channels_last_to_map)
    assert explanation.maps["Grad-CAM", layer, 1].shape == (1, 1, rows, columns)
    kept = explain(model, image, layer, [1], n_samples=1, reshape_transform=lambda tensor: tensor)
    assert kept.maps["Grad-CAM", layer, 1].shape == (1, 1, columns, 48)
    # attribute stays as permissive as Captum's
    assert LayerGradCamPlusPlus(model, layer).attribute(image, 1).shape == (1, 1, columns, 48)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((32, 64), (1, 32, 64, 128)),
        ((32, 32), (1, 16, 64, 64)),
        ((224, 224), (1, 56, 56, 56)),
        ((64, 96), (1, 7, 7, 11)),
    ],
)
def test_maps_that_are_larger_than_the_image_or_have_as_many_channels_as_rows(
    size: tuple[int, int], shape: tuple[int, ...]
) -> None:
    view = ExampleView.of(torch.empty(1, 3, *size), nn.Identity(), Selection(), None, compute_all_channels=True)
    assert view.activations(torch.empty(shape), "layer").shape == shape


def test_tokens_before_examples() -> None:
    view = ExampleView.of(torch.empty(1, 3, 32, 32), nn.Identity(), Selection(), None, compute_all_channels=True)
    with pytest.raises(ValueError, match=r"has 17 rows .*second dimension is that of the examples, transpose\(0, 1\)"):
        view.activations(torch.empty(17, 1, 8), "layer")


class TextLines(nn.Module):
    """Reads lines of text, or sound: the height shrinks faster than the width, or the other way round."""

    def __init__(self, channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Conv2d(before, after, 3, stride=stride, padding=1)
                for before, after in [(channels, 8), (8, 16), (16, 32), (32, 64), (64, 128)]
            )
        )
        self.head = nn.Linear(128, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(image).mean(dim=(2, 3)))
        return logits


WIDE = [(32, 100), (64, 256), (32, 128), (128, 1024)]


@pytest.mark.parametrize(
    ("channels", "size", "stride"),
    [
        *((channels, size, (2, 1)) for channels in (1, 3) for size in WIDE),
        *((1, size, stride) for size in [(128, 128), (64, 64), (1024, 128)] for stride in [(2, 1), (1, 2)]),
    ],
)
def test_networks_with_unequal_strides_are_left_alone(
    channels: int, size: tuple[int, int], stride: tuple[int, int]
) -> None:
    """Also where by chance the channels are as many as the rows."""
    model, image = seeded(lambda: TextLines(channels, stride)), torch.rand(1, channels, *size)
    view = ExampleView.of(image, model, Selection(), None, compute_all_channels=True)
    for layer in list_layers(model.layers, image):
        view.activations(torch.empty(layer.shapes[0]), layer.name)


def shown(view: ExampleView, model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Looks at a layer as `explain` does, without a pass."""
    view.activations(torch.empty(shape), f"'{name}' ({type(model.get_submodule(name)).__name__})")


def view_of(model: nn.Module, channels: int, size: tuple[int, int]) -> ExampleView:
    return ExampleView.of(
        torch.empty(1, channels, *size), model, Selection(), None, model.modules(), compute_all_channels=True
    )


class ChannelsLast(nn.Module):
    """A Swin transformer's layout: patches, and then blocks that have the channels last."""

    def __init__(self, channels: int, features: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, features, patch, patch)
        self.block = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, 4 * features),
            nn.GELU(),
            nn.Linear(4 * features, features),
            nn.Dropout(),
        )
        self.head = nn.Linear(features, 5)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.block(self.patches(image).permute(0, 2, 3, 1)).mean(dim=(1, 2)))
        return scores


@pytest.mark.parametrize(
    ("channels", "size", "features", "patch"),
    [
        (3, (64, 96), 96, 16),
        (3, (48, 96), 48, 16),
        (3, (96, 160), 160, 16),
        (1, (96, 96), 48, 16),
        (2, (96, 96), 96, 16),
        (3, (96, 96), 24, 4),
        (3, (96, 48), 24, 4),
    ],
)
def test_channels_that_are_last_and_as_many_as_columns(
    channels: int, size: tuple[int, int], features: int, patch: int
) -> None:
    model, image = seeded(lambda: ChannelsLast(channels, features, patch)).eval(), torch.rand(1, channels, *size)
    rows, columns = size[0] // patch, size[1] // patch
    for layer in ["block", "block.0", "block.3", "block.4"]:
        with pytest.raises(ValueError, match=rf"\(1, {rows}, {columns}, {features}\) .*channels seem to be last"):
            explain(model, image, layer, [1], n_samples=1)
    explanation = explain(model, image, "block.0", [1], n_samples=1, reshape_transform=channels_last_to_map)
    assert explanation.maps["Grad-CAM", "block.0", 1].shape == (1, 1, rows, columns)
    explain(model, image, "patches", [1], n_samples=1)  # a map, also where it is as large as the others
    view = view_of(model, channels, size)
    with pytest.raises(ValueError, match="channels seem to be last"):
        shown(view, model, "block.2", (1, rows, columns, 4 * features))  # which tells nothing itself


class Tokens(nn.Module):
    """A transformer whose patches overlap, so that their number does not follow from sizes of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 7, stride=4, padding=3)
        self.norm = nn.LayerNorm(8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.block(self.norm(self.patches(image).flatten(2).transpose(1, 2))).mean(dim=1))
        return scores


def test_tokens_that_only_the_layer_tells() -> None:
    model, image = seeded(Tokens).eval(), torch.rand(1, 3, 32, 32)
    for layer in ["norm", "block.norm1", "block"]:
        with pytest.raises(
            ValueError, match=r"returns tokens, \(1, 64, 8\)\. Give reshape_transform=tokens_to_map\(\)"
        ):
            explain(model, image, layer, [1], n_samples=0)
    explanation = explain(model, image, "norm", [1], n_samples=0, reshape_transform=tokens_to_map(0))
    assert explanation.maps["Grad-CAM", "norm", 1].shape == (1, 1, 8, 8)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(24, 24, 7, padding=3, groups=24)
        self.last = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 24))

    def forward(self, maps: Tensor) -> Tensor:
        added: Tensor = self.last(self.depthwise(maps).movedim(1, -1)).movedim(-1, 1)
        return maps + added


@pytest.mark.parametrize("size", [(96, 96), (64, 96), (96, 160), (32, 256)])
def test_the_blocks_of_a_convnext_are_maps(size: tuple[int, int]) -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 24, 4, 4),
            LayerNorm2d(24),
            ConvNeXtBlock(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
    )
    for layer in ["0", "1", "2", "2.depthwise"]:  # (1, 24, 24, 24) of 96 x 96, too
        found = explain(model, torch.rand(1, 3, *size), layer, [1], n_samples=1)
        assert found.maps["Grad-CAM", layer, 1].shape == (1, 1, size[0] // 4, size[1] // 4)
    with pytest.raises(ValueError, match="channels seem to be last"):
        explain(model, torch.rand(1, 3, *size), "2.last.0", [1], n_samples=1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.q_norm = nn.Identity()


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(48)
        self.unfolded = nn.GroupNorm(1, 8)
        self.attention = Attention()
        self.pool = nn.AdaptiveAvgPool2d(7)


@pytest.mark.parametrize(
    ("layer", "shape", "size", "message"),
    [
        ("norm", (1, 1, 196, 48), (224, 224), "seems to be no map"),
        ("norm", (1, 4, 49, 48), (224, 224), "seems to be no map"),
        ("unfolded", (1, 8, 4, 15), (96, 160), "seems to be no map"),
        ("unfolded", (1, 8, 4, 49), (224, 224), "seems to be no map"),
        ("attention.q_norm", (1, 4, 730, 32), (224, 224), "tokens by heads"),
        ("attention.q_norm", (1, 4, 196, 196), (224, 224), "tokens by heads"),
    ],
)
def test_windows_heads_and_places_within_patches_are_no_map(
    layer: str, shape: tuple[int, ...], size: tuple[int, int], message: str
) -> None:
    model = seeded(Windows)
    with pytest.raises(ValueError, match=message):
        shown(view_of(model, 3, size), model, layer, shape)


@pytest.mark.parametrize(
    ("layer", "shape", "size"),
    [
        ("pool", (1, 8, 7, 7), (64, 256)),  # an adaptive pooling
        ("pool", (1, 8, 1, 1), (64, 256)),
        ("stem", (1, 8, 1, 7), (60, 240)),  # rounded down in several steps
        ("stem", (1, 8, 12, 30), (96, 240)),
        ("stem", (1, 8, 192, 480), (96, 240)),  # enlarged
    ],
)
def test_maps_that_are_rounded_pooled_or_enlarged(layer: str, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    model = seeded(Windows)
    shown(view_of(model, 3, size), model, layer, shape)


def test_maps_of_convolutions_without_padding() -> None:
    model = seeded(lambda: nn.Sequential(*(nn.Conv2d(3, 3, 5) for _ in range(6))))
    shown(view_of(model, 3, (32, 64)), model, "5", (1, 3, 8, 40))


@pytest.mark.parametrize(("size", "stem"), [((32, 128), 4), ((64, 256), 8), ((128, 128), 8)])
def test_patches_and_unequal_strides_with_as_many_channels_as_patches(size: tuple[int, int], stem: int) -> None:
    n_patches = size[0] * size[1] // stem**2
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, stem, stem),
            nn.Conv2d(8, 8, 3, stride=(2, 1), padding=1),
            nn.Conv2d(8, n_patches, 3, stride=(2, 1), padding=1),
        )
    )
    shown(view_of(model, 1, size), model, "2", (1, n_patches, size[0] // stem // 4, size[1] // stem))
