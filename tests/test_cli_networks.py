"""The networks of the command: torchvision's, timm's, Hugging Face's, one's own, and weights of any kind."""

import argparse
import os
import subprocess
import sys
import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from cli_helpers import opened, panels, photograph
from torchvision import models

import captum_sgcampp
from captum_sgcampp import LayerSmoothGradCAMpp, channels_last_to_map, explain, tokens_to_map
from captum_sgcampp.__main__ import main
from captum_sgcampp.cli import command
from captum_sgcampp.cli.classifier import Classifier
from captum_sgcampp.cli.errors import CommandError
from captum_sgcampp.cli.map_of_layer import as_map, unchanged
from captum_sgcampp.cli.networks import load_classifier
from captum_sgcampp.cli.weights import load_weights, n_classes_of, read_weights

CPU = torch.device("cpu")
FAST = ["--n-samples", "2", "--methods", "smooth-grad-cam++"]
NAMES = ["ant", "bee", "cat", "dog", "eel"]

pytestmark = pytest.mark.usefixtures("coarse_pictures")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def calibrated(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Gives the batch norms of a random network the statistics of its activations, so that they do not vanish."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(inputs)
    return model.eval()


# The default layer


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


# timm and Hugging Face, from configurations, as no hub can be reached


def timm_folder(name: str, **options: Any) -> Path:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False, num_classes=5, **options)
    calibrated(model, torch.randn(2, *model.pretrained_cfg["input_size"]))
    folder = Path(f"saved-{name}")
    timm.models.save_for_hf(model, folder, model_config={"label_names": NAMES})
    return folder


@pytest.mark.parametrize(
    ("name", "layer", "grid"),
    [
        ("resnet18", "layer4.0", 7),
        ("convnext_atto", "stages.3.blocks.0", 7),
        ("vit_tiny_patch16_224", "blocks.11.norm1", 14),
        ("deit_tiny_distilled_patch16_224", "blocks.11.norm1", 14),
        pytest.param("vit_small_patch14_reg4_dinov2", "blocks.11.norm1", 37, marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", "layers.2.blocks.5.norm1", 14, marks=pytest.mark.slow),
        ("mixer_s32_224", "blocks.7.norm1", 7),
        pytest.param("mobilevit_xxs", "stages.4.0", 8, marks=pytest.mark.slow),
        pytest.param("vgg11", "features.19", 14, marks=pytest.mark.slow),
    ],
)
def test_timm(name: str, layer: str, grid: int, capsys: pytest.CaptureFixture[str]) -> None:
    folder = timm_folder(name)
    classifier = load_classifier(f"timm:{folder}", CPU)
    assert classifier.classes == NAMES
    chosen = classifier.choose(classifier.default_layers())
    assert chosen.names == [layer]
    values = torch.empty(next(found.shapes[0] for found in classifier.layers if found.name == layer))
    reshape_transform = classifier.reshape_transform_of(chosen)
    map_of_layer = reshape_transform(values) if reshape_transform else values
    assert tuple(map_of_layer.shape[2:]) == (grid, grid)
    assert main(["--model", f"timm:{folder}", *FAST, "--target", "bee"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"camera: timm:{folder}, layer {layer}"
    assert len(panels(lines[-1])) == 2


def test_timms_own_preprocessing_and_frame() -> None:
    timm = pytest.importorskip("timm")
    folder = timm_folder("vit_tiny_patch16_224")  # normalized by 0.5 and 0.5, 90 % crop
    classifier = load_classifier(f"timm:{folder}", CPU)
    image = opened(photograph("coffee.png"))
    config = timm.data.resolve_model_data_config(classifier.model)
    torch.testing.assert_close(classifier.inputs(image)[0], timm.data.create_transform(**config)(image))
    assert classifier.frame is not None
    framed = classifier.frame(image)
    assert framed.shape == (448, 448, 3)
    small = np.asarray(Image.fromarray((framed * 255).astype(np.uint8)).resize((224, 224))) / 255
    seen = (classifier.inputs(image)[0] / 2 + 0.5).permute(1, 2, 0).numpy()
    assert np.abs(small - seen).mean() < 0.02


def transformers_folder(kind: str) -> Path:
    transformers = pytest.importorskip("transformers")
    names = dict(enumerate(NAMES))
    small = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 32}
    of_classes = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    config, processor = {
        "vit": lambda: (transformers.ViTConfig(**small, **of_classes), transformers.ViTImageProcessor()),
        "registers": lambda: (
            transformers.Dinov2WithRegistersConfig(**small, patch_size=14, image_size=224, **of_classes),
            transformers.BitImageProcessor(crop_size={"height": 224, "width": 224}),
        ),
        "swin": lambda: (
            transformers.SwinConfig(embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], **of_classes),
            transformers.ViTImageProcessor(),
        ),
        "resnet": lambda: (
            transformers.ResNetConfig(
                embedding_size=16, hidden_sizes=[16, 16, 32, 64], depths=[2] * 4, layer_type="basic", **of_classes
            ),
            transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
        ),
        "convnext": lambda: (
            transformers.ConvNextConfig(hidden_sizes=[16, 16, 32, 64], depths=[2] * 4, **of_classes),
            transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
        ),
        "siglip": lambda: (
            transformers.SiglipConfig(vision_config={**small, "image_size": 224, "patch_size": 16}, **of_classes),
            transformers.SiglipImageProcessor(),
        ),
    }[kind]()
    model = transformers.AutoModelForImageClassification.from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.2)  # those of new models are so small that nothing bends
    calibrated(model, torch.randn(2, 3, 224, 224))
    folder = Path(f"saved-{kind}")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "layer", "grid"),
    [
        ("vit", "layernorm_before", 14),
        ("registers", "norm1", 16),
        ("swin", "layernorm_before", 14),
        ("resnet", "stages.3.layers.0", 7),
        ("convnext", "stages.3.layers.0", 7),
        ("siglip", "layer_norm1", 14),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_hugging_face(kind: str, layer: str, grid: int, capsys: pytest.CaptureFixture[str]) -> None:
    folder = transformers_folder(kind)
    classifier = load_classifier(f"hf:{folder}", CPU)
    assert classifier.classes == NAMES
    chosen = classifier.choose(classifier.default_layers())
    (name,) = chosen.names
    assert name.endswith(layer)
    values = torch.empty(next(found.shapes[0] for found in classifier.layers if found.name == name))
    reshape_transform = classifier.reshape_transform_of(chosen)
    map_of_layer = reshape_transform(values) if reshape_transform else values
    assert tuple(map_of_layer.shape[2:]) == (grid, grid)
    assert main(["--model", f"hf:{folder}", *FAST, "--target", "bee"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == f"camera: hf:{folder}, layer {name}"
    assert len(panels(captured.out.splitlines()[-1])) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_hugging_faces_own_preprocessing_and_frame() -> None:
    folder = transformers_folder("vit")
    transformers = pytest.importorskip("transformers")
    classifier = load_classifier(f"hf:{folder}", CPU)
    image = opened(photograph("coffee.png"))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    wanted = processor(images=image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(classifier.inputs(image), wanted)
    assert classifier.frame is not None
    np.testing.assert_allclose(classifier.frame(image), (wanted[0] / 2 + 0.5).permute(1, 2, 0), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hugging_face_model_without_a_trained_head_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    folder = transformers_folder("vit")
    transformers.ViTModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(CommandError, match=r"has no weights for classifier\.\w+; it is not a trained image classifier"):
        load_classifier(f"hf:{folder}", CPU)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_weights_of_ones_own_for_timm_and_hugging_face(capsys: pytest.CaptureFixture[str]) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), "timm.pt")
    assert main(["--model", "timm:resnet18", "--weights", "timm.pt", *FAST, "--target", "2"]) == 0
    folder = transformers_folder("resnet")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(
        folder, num_labels=3, ignore_mismatched_sizes=True
    )
    torch.save(model.state_dict(), "hf.pt")
    assert main(["--model", f"hf:{folder}", "--weights", "hf.pt", *FAST, "--target", "2"]) == 0
    assert main(["--model", "timm:resnet18", "--weights", "hf.pt", *FAST]) == 2
    assert "the weights are not those of timm:resnet18: missing conv1.weight (64, 3, 7, 7)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet1", "unknown model 'resnet1'; the closest: resnet18"),
        ("timm:resnet18", "timm:resnet18 cannot be loaded ("),
        ("hf:nobody/nothing", "hf:nobody/nothing cannot be loaded ("),
        ("hf:folder", "hf:folder cannot be loaded ("),
    ],
)
@pytest.mark.filterwarnings("default")
def test_a_failed_download_says_what_failed(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    Path("folder").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["--model", name]) == 2
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith(f"captum-sgcampp: {message}")
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_failed_download_of_a_process_says_what_failed(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    command_line = [sys.executable, "-m", "captum_sgcampp", "--model", "timm:resnet18"]
    outcome = subprocess.run(command_line, capture_output=True, text=True, check=False, env=offline)
    assert outcome.returncode == 2
    *_, error = outcome.stderr.splitlines()
    assert error.startswith("captum-sgcampp: timm:resnet18 cannot be loaded (")
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(("name", "extra"), [("timm:resnet18", "timm"), ("hf:some/model", "hf")])
def test_without_the_extras_it_says_what_is_missing(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CommandError, match=rf"is missing; pip install 'captum-sgcampp\[{extra}\]' brings it"):
        load_classifier(name, CPU)


@pytest.mark.usefixtures("no_network")
def test_weights_of_torchvision_that_cannot_be_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "resnet18"]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert "the weights of resnet18 cannot be downloaded" in error
    assert "efficientnet_lite0 needs no download" in error


# One's own

OWN = """
import torch
from beside import NAMES
from torchvision import transforms

def load():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
        torch.nn.Linear(128, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2),
    )
    preprocess = transforms.Compose([
        transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(3 * [0.5], 3 * [0.5])
    ])
    return model, preprocess, NAMES

def two(): return 1, 2
def strings(): return "a", "b", "c"
def fails(): raise KeyError("oh")
def many(): return load()[:2] + (["x", "y", "z"],)
def rows(): return torch.nn.Conv2d(3, 8, 3), load()[1], None
def numpy():
    return load()[0], lambda image: 3, None
def dictionary(): return load()[:2] + ({1: "eggs", 0: "ham"},)
def seven(): return load()[:2] + (7,)
def exits(): raise SystemExit(3)
def notcallable(): return load() + (3,)
def bare():
    class Bare(torch.nn.Module):
        def forward(self, x): return x.mean((2, 3))
    return Bare(), load()[1], None
def badreshape():
    def reshape(x): return x.reshape(1, 2, 3, 4)
    return load() + (reshape,)
def uncropped():
    class Tokens(torch.nn.Module):
        patch_size = 16
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head = torch.nn.Conv2d(3, 8, 16, stride=16), torch.nn.Linear(8, 2)
            self.norm = torch.nn.LayerNorm(8)
        def forward(self, x):
            return self.head(self.norm(self.embed(x).flatten(2).transpose(1, 2)).relu().mean(1))
    return Tokens(), transforms.ToTensor(), None
def tokens():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Conv2d(3, 8, 16, stride=16), torch.nn.Linear(8, 2)
            self.first = torch.nn.Linear(8, 8)
        def forward(self, x):
            return {"logits": self.head(self.first(self.embed(x).flatten(2).transpose(1, 2)).relu().mean(1))}
    return Tokens(), load()[1], None, lambda x: x.transpose(1, 2).reshape(len(x), 8, 4, 4)
"""


@pytest.fixture
def own() -> Path:
    Path("mine").mkdir()
    Path("mine/beside.py").write_text('NAMES = ["ham", "eggs"]')
    file = Path("mine/model.py")
    file.write_text(OWN)
    return file


@pytest.fixture(autouse=True)
def same_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "beside", raising=False)


def test_a_model_of_ones_own(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", f"{own}:load", "--target", "eggs", "--n-samples", "0", "--methods", "grad-cam"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"camera: {own}:load, layer 1"
    assert {line.split()[-2] for line in lines[1:3]} == {"ham", "eggs"}
    shown, _ = panels(lines[-1])
    assert shown.std() > 0.15

    classifier = load_classifier(f"{own}:load", CPU)
    state = {name: torch.zeros_like(value) for name, value in classifier.model.state_dict().items()}
    torch.save(state, "zeros.pt")
    assert not load_classifier(f"{own}:load", CPU, Path("zeros.pt")).model[0].weight.any()  # type: ignore[index]


def test_a_model_of_ones_own_with_tokens_and_an_object_of_logits(own: Path) -> None:
    assert main(["--model", f"{own}:tokens", "--layer", "first", *FAST, "--target", "1", "--output", "x.png"]) == 0
    assert len(panels("x.png")) == 2


def test_the_grid_of_tokens_is_that_of_each_photograph(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in [("land", (64, 48)), ("port", (48, 64)), ("square", (48, 48))]:
        Image.effect_noise(size, 60).save(f"{name}.png")
    grids = {}
    explain = captum_sgcampp.explain

    def recorded(*args: Any, **kwargs: Any) -> Any:
        explanation = explain(*args, **kwargs)
        grids[kwargs["title"]] = tuple(next(iter(explanation.maps.values())).shape[2:])
        return explanation

    monkeypatch.setattr(command, "explain", recorded)
    photographs = ["land.png", "port.png", "square.png"]
    assert main([*photographs, "--model", f"{own}:uncropped", "--layer", "norm", "--methods", "grad-cam"]) == 0
    assert grids == {"land.png": (3, 4), "port.png": (4, 3), "square.png": (3, 3)}


def test_names_of_classes_by_number(own: Path) -> None:
    assert load_classifier(f"{own}:dictionary", CPU).classes == ["ham", "eggs"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine/model.py", "--model mine/model.py lacks the function that returns the model, as in mine/model.py:load"),
        (
            "mine/model.py:seven",
            "must return the names of the classes as a list, or as a dict by number from 0, not as",
        ),
        ("mine/model.py:exits", "exits of mine/model.py failed: SystemExit: 3"),
        ("mine/model.py:notcallable", "must return a function as its reshape_transform, not int"),
        ("mine/model.py:bare", "mine/model.py:bare has no layer that is known to be a map"),
        ("mine/model.py:badreshape", "layer 0 cannot be seen as a map: RuntimeError: "),
        ("nowhere.py:load", "cannot read nowhere.py: there is no such file"),
        ("mine/model.py:lode", "unknown function in mine/model.py: 'lode'; the closest: load"),
        ("mine/model.py:two", "two of mine/model.py must return its model, its preprocessing and the names of its"),
        ("mine/model.py:strings", "must return a Module and a function first, not str and str"),
        ("mine/model.py:fails", "fails of mine/model.py failed: KeyError: 'oh'"),
        ("mine/model.py:many", "mine/model.py:many has 2 classes, but there are 3 names"),
        ("mine/model.py:rows", r"mine/model.py:rows must return a row of scores, (1, classes), but returned (1, 8, "),
        ("mine/model.py:numpy", "must return a tensor (C, H, W), but returned int"),
        ("mine/broken.py:load", "mine/broken.py cannot be imported: SyntaxError: "),
    ],
)
@pytest.mark.usefixtures("own")
def test_wrong_models_of_ones_own(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/broken.py").write_text("def")
    layer = ["--layer", "0"] if name.endswith("badreshape") else []
    assert main(["--model", name, *layer]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


# Weights and classes


def small_resnet(n_classes: int = 7) -> nn.Module:
    model: nn.Module = models.resnet18(num_classes=n_classes)
    return model


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.module.", "module._orig_mod.", "net."])
@pytest.mark.parametrize("container", [None, "state_dict", "model", "model_state_dict", "state_dict_ema"])
def test_weights_that_people_have(suffix: str, prefix: str, container: str | None) -> None:
    def small_model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))

    model = small_model()
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    file = Path(f"weights{suffix}")
    if suffix == ".safetensors":
        if container:
            pytest.skip("safetensors has no containers")
        pytest.importorskip("safetensors.torch").save_file(state, file)
    else:
        torch.save(state if container is None else {container: state, "epoch": 3, "optimizer": {}}, file)
    loaded = small_model()
    load_weights(loaded, read_weights(file), "it")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("wrap", [False, True])
def test_versions_of_modules_are_kept(wrap: bool) -> None:
    """MNASNet refuses a state dict without its version."""
    model = models.mnasnet0_5(num_classes=3)
    torch.save((nn.DataParallel(model) if wrap else model).state_dict(), "mnasnet.pt")
    loaded = load_classifier("mnasnet0_5", CPU, Path("mnasnet.pt")).model
    assert torch.equal(loaded.classifier[1].bias, model.classifier[1].bias)  # type: ignore[index, union-attr]
    pytest.importorskip("safetensors.torch").save_file(model.state_dict(), "mnasnet.safetensors")
    load_classifier("mnasnet0_5", CPU, Path("mnasnet.safetensors"))


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="torch before 2.5")
def test_a_checkpoint_may_hold_the_arguments_of_the_training() -> None:
    state = small_resnet().state_dict()
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}, "checkpoint.pth")
    assert read_weights(Path("checkpoint.pth")).keys() == state.keys()


def test_a_prefix_that_belongs_to_the_model_stays() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)

    state = {f"model.{name}": value + 1 for name, value in Wrapper().state_dict().items()}
    loaded = Wrapper()
    load_weights(loaded, state, "it")
    assert torch.equal(loaded.model.bias, state["model.model.bias"])
    load_weights(loaded, Wrapper().state_dict(), "it")


def test_the_number_of_classes_comes_from_the_classifiers_weight(capsys: pytest.CaptureFixture[str]) -> None:
    state = small_resnet().state_dict()
    state["last"] = state.pop("fc.bias")  # the last entry says nothing
    assert n_classes_of(state, models.resnet18(), 1000) == 7
    reordered = dict(sorted(small_resnet().state_dict().items()))
    assert next(reversed(reordered)) == "layer4.1.conv2.weight"
    torch.save(reordered, "mine.pt")
    Path("names.txt").write_text("\ufeffant\nbee\n cat\ndog\neel\nfox\ngnu\n\n", encoding="utf-8")
    mine = ["--model", "resnet18", "--weights", "mine.pt", *FAST]
    assert main([*mine, "--target", "class 4"]) == 0
    assert main([*mine, "--target", "cat", "--classes", "names.txt"]) == 0
    out = capsys.readouterr().out
    assert "camera: resnet18, layer layer4.0" in out
    assert "class 4 (4)" in out
    assert "cat (2)" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--weights", "missing.pt"], "cannot read weights from missing.pt: No such file"),
        (["--weights", "missing.safetensors"], "cannot read weights from missing.safetensors: No such file"),
        (["--weights", "folder"], "cannot read weights from folder: Is a directory"),
        (["--weights", "text.pt"], "cannot read weights from text.pt: it is not a file that torch.save wrote"),
        (["--weights", "empty.pt"], "cannot read weights from empty.pt: it is not a file that torch.save wrote"),
        (["--weights", "text.safetensors"], "cannot read weights from text.safetensors: SafetensorError"),
        (["--weights", "object.pt"], "cannot read weights from object.pt: it is not a file that torch.save wrote, or"),
        (["--weights", "list.pt"], "cannot read weights from list.pt: it holds no state dict"),
        (["--weights", "nested.pt"], "cannot read weights from nested.pt: it holds no state dict"),
        (["--weights", "numbers.pt"], "cannot read weights from numbers.pt: it holds no state dict"),
        (["--weights", "other.pt"], "the weights are not those of efficientnet_lite0: missing _conv_stem.weight (32, "),
        (["--classes", "missing.txt"], "cannot read classes from missing.txt: No such file"),
        (["--classes", "object.pt"], "cannot read classes from object.pt: it is not text in UTF-8"),
        (["--classes", "text.pt"], "efficientnet_lite0 has 1000 classes, but there are 1 names"),
    ],
)
def test_odd_weights_and_classes(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    Path("folder").mkdir()
    for name in ("text.pt", "text.safetensors"):
        Path(name).write_text("no weights")
    Path("empty.pt").touch()
    torch.save({"args": Path(), "state_dict": {}}, "object.pt")
    torch.save([1, 2], "list.pt")
    torch.save({"state_dict": {"a": [1]}}, "nested.pt")
    torch.save({0: torch.zeros(1)}, "numbers.pt")
    torch.save(nn.Linear(2, 3).state_dict(), "other.pt")
    assert main([*given, "--n-samples", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"captum-sgcampp: {message}")
    assert len(error.splitlines()) == 1


def test_a_wrong_fit_says_what_differs() -> None:
    state = small_resnet().state_dict()
    state["stem.weight"] = torch.zeros(2, 3)
    state["stem.bias"] = torch.zeros(2)
    state["layer1.0.conv1.weight"] = torch.zeros(5, 5)
    del state["conv1.weight"]
    message = (
        r"the weights are not those of it: missing conv1.weight \(64, 3, 7, 7\); unexpected stem.weight \(2, 3\) and 1 "
        r"more; layer1.0.conv1.weight is \(5, 5\) and must be \(64, 64, 3, 3\)"
    )
    with pytest.raises(CommandError, match=message):
        load_weights(small_resnet(), state, "it")


def test_weights_are_loaded_without_running_code() -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (Path("harm"),)  # type: ignore[return-value]

    torch.save({"state_dict": {"weight": Hostile()}}, "hostile.pt")
    assert main(["--weights", "hostile.pt"]) == 2
    assert not Path("harm").exists()


def test_the_grid_of_tokens_follows_from_the_networks_input() -> None:
    """A `tokens_to_map()` of one's own, in a file, for an input that is not square: 8 patches are 4 x 2."""
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
