"""`explain` shows one map of one example: layers with other rows, tokens and channels that are last are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models import seeded
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, channels_last_to_map, explain, list_layers, tokens_to_map
from captum_sgcampp.example_view import ExampleView
from captum_sgcampp.selection import Selection


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
