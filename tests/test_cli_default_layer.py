"""The default layer of the command, and how layers are seen as maps."""

import warnings
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("torchvision", reason="the command needs the extra demo")
from cli_helpers import CPU, calibrated
from torchvision import models

from captum_sgcampp import LayerSmoothGradCAMpp, channels_last_to_map, explain, tokens_to_map
from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import CommandError
from captum_sgcampp.cli.map_of_layer import as_map, unchanged

pytestmark = pytest.mark.usefixtures("coarse_pictures", "in_empty_folder")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("mnasnet0_5", "layers.12.3"),
        ("mobilenet_v3_small", "features.10"),
        ("regnet_y_400mf", "trunk_output.block4.block4-4"),
        ("resnet18", "layer4.0"),
        ("shufflenet_v2_x0_5", "stage4.2"),
        ("squeezenet1_1", "features.11"),
        *(
            pytest.param(*family, marks=pytest.mark.slow)
            for family in [
                ("alexnet", "features.11"),
                ("convnext_tiny", "features.7.1"),
                ("densenet121", "features.denseblock3"),
                ("efficientnet_b0", "features.6.3"),
                ("googlenet", "inception5a"),
                ("inception_v3", "Mixed_7b"),
                ("maxvit_t", "blocks.3.layers.0"),
                ("mobilenet_v2", "features.16"),
                ("resnet50", "layer4.1"),
                ("swin_t", "features.5.5.norm1"),
                ("vgg11_bn", "features.27"),
                ("vit_b_32", "encoder.layers.encoder_layer_11.ln_1"),
            ]
        ),
    ],
)
def test_smoothing_matters_at_the_default_layer_of_torchvisions_families(name: str, layer: str) -> None:
    preset = models.get_model_weights(name).DEFAULT.transforms()
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    model = models.get_model(name, num_classes=5, **options)
    for weight in model.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.02)  # torchvision's classifiers of transformers are zero
    size = preset.crop_size[0]
    calibrated(model, torch.randn(3, 3, size, size))
    classifier = Classifier(name, model, preset, CPU)
    chosen = classifier.choose(classifier.default_layers())
    assert chosen.names == [layer]
    method = LayerSmoothGradCAMpp(model, layer, reshape_transform=classifier.reshape_transform_of(chosen))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as "smoothing changes nothing"
        attribution = method.attribute(torch.randn(1, 3, size, size), 3, n_samples=3, stdevs=0.5)
    assert attribution.dim() == 4
    assert min(attribution.shape[2:]) > 1


def test_the_last_block_of_a_resnet_has_nothing_to_smooth() -> None:
    """The reason for the choice."""
    model = calibrated(models.resnet18(num_classes=5), torch.randn(3, 3, 224, 224))
    with pytest.warns(UserWarning, match="smoothing changes nothing at layer 'layer4.1'"):
        LayerSmoothGradCAMpp(model, "layer4.1").attribute(torch.randn(1, 3, 224, 224), 3, n_samples=3, stdevs=0.5)


@pytest.mark.parametrize(
    ("shape", "options", "wanted"),
    [
        ((1, 512, 7, 7), {}, (1, 512, 7, 7)),
        ((1, 7, 7, 512), {}, (1, 512, 7, 7)),
        ((1, 56, 56, 56), {}, (1, 56, 56, 56)),
        ((1, 128, 4, 16), {}, None),  # pixels within patches, of MobileViTv2
        ((1, 1, 196, 384), {}, None),  # tokens, of NesT
        ((8, 96, 7, 7), {}, None),  # heads, of MViTv2
        ((1, 12, 197, 197), {"patch_size": (16, 16)}, None),  # attention
        ((1, 197, 768), {"patch_size": (16, 16)}, (1, 768, 14, 14)),
        ((1, 201, 768), {"patch_size": (16, 16), "n_prefix_tokens": 5}, (1, 768, 14, 14)),
        ((1, 201, 768), {"patch_size": (16, 16), "n_prefix_tokens": 1}, None),
        ((1, 49, 768), {"patch_size": (4, 4)}, (1, 768, 7, 7)),
        ((1, 197, 768), {}, None),
        ((1, 256, 49), {"patch_size": (16, 16)}, None),
        ((16, 196, 768), {"patch_size": (16, 16)}, None),
        ((1, 1000), {}, None),
    ],
)
def test_layers_are_seen_as_maps(
    shape: tuple[int, ...], options: dict[str, Any], wanted: tuple[int, ...] | None
) -> None:
    to_map = as_map(shape, (224, 224), **options)
    assert (None if to_map is None else tuple(to_map(torch.empty(shape)).shape)) == wanted


def test_inputs_that_are_not_square() -> None:
    to_map = as_map((1, 1 + 14 * 20, 64), (224, 320), (16, 16))
    assert to_map is not None
    assert to_map(torch.empty(1, 281, 64)).shape == (1, 64, 14, 20)
    assert as_map((1, 64, 14, 20), (224, 320)) is unchanged
    assert as_map((1, 14, 20, 64), (224, 320)) is channels_last_to_map
    assert as_map((1, 14, 20, 64), (320, 224)) is None


@pytest.mark.parametrize(
    ("n_tokens", "size", "grid"),
    [
        (8 * 13, (64, 100), (8, 13)),
        (12 * 13, (96, 100), (12, 13)),
        (7 * 7, (100, 100), (7, 7)),
        (4 * 7, (64, 104), (4, 7)),
        (4 * 7, (64, 100), (4, 7)),
        (16 * 25, (64, 100), (16, 25)),
    ],
)
def test_tokens_that_fill_a_padded_grid_have_no_prefix(
    n_tokens: int, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """Swin transformers pad what they merge; 8 of these 104 are no class tokens before 8 x 12 patches."""
    assert as_map((1, n_tokens, 24), size, (4, 4)) == tokens_to_map(0, grid)


def test_a_plain_stack_of_convolutions_is_seen_below_its_last_nonlinearity() -> None:
    stack = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()]
    model = nn.Sequential(*stack, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    assert Classifier("stack", model, preset, CPU).default_layers() == ["3"]


@pytest.mark.parametrize("name", ["levit_128s", "crossvit_9_240", "hiera_tiny_224", "nest_tiny"])
def test_the_stem_of_a_transformer_is_no_default(name: str) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False, num_classes=3).eval()
    preprocess = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with pytest.raises(CommandError, match="has no layer that is known to be a map; choose one"):
        Classifier(name, model, preprocess, CPU, n_prefix_tokens=0).default_layers()


def test_a_stage_that_has_most_of_the_blocks_is_not_skipped() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("sequencer2d_s", pretrained=False, num_classes=3).eval()
    preprocess = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    (layer,) = Classifier("it", model, preprocess, CPU, n_prefix_tokens=0).default_layers()
    assert layer == "stages.3.blocks.2.norm1"


def test_the_grid_of_tokens_follows_from_the_networks_input() -> None:
    """A file with its own `tokens_to_map()`, for an input that is not square: 8 patches are 4 x 2."""
    timm = pytest.importorskip("timm")
    model = timm.models.VisionTransformer(img_size=(64, 32), patch_size=16, embed_dim=16, depth=1, num_heads=2)
    classifier = Classifier(
        "mine",
        model.eval(),
        lambda _photograph: torch.full((3, 64, 32), 0.5),
        torch.device("cpu"),
        reshape_transform=tokens_to_map(),
    )
    chosen = classifier.choose(["blocks.0.norm1"])
    inputs = classifier.inputs(Image.new("RGB", (8, 8), "gray"))
    transform = classifier.reshape_transform_of(chosen)
    explanation = explain(model, inputs, chosen.names, [3], reshape_transform=transform, methods=["Grad-CAM"])
    assert explanation.maps["Grad-CAM", "blocks.0.norm1", 3].shape == (1, 1, 4, 2)
