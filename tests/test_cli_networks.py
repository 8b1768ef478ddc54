"""The networks of the command: those of timm and Hugging Face, and downloads that fail."""

import os
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("torchvision", reason="the command needs the extra demo")

from cli_helpers import CPU, FAST, calibrated, opened, panels, photograph

from captum_sgcampp.__main__ import main
from captum_sgcampp.cli.errors import CommandError
from captum_sgcampp.cli.networks import load_classifier

NAMES = ["ant", "bee", "cat", "dog", "eel"]

pytestmark = pytest.mark.usefixtures("coarse_pictures", "in_empty_folder")


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


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
