"""Networks of timm, torchvision and transformers: the maps of Captum's own gradients, also with checkpoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from helpers import FROZEN, attribute, captums_map, hooks_on
from models import CLASSES, images, seeded
from oracle import relative_error
from torch import Tensor, nn


def from_timm(name: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    if name == "vit":
        return timm.models.VisionTransformer(  # type: ignore[no-any-return]
            img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=CLASSES, global_pool="avg"
        )
    if name == "swin":
        return timm.models.SwinTransformer(  # type: ignore[no-any-return]
            img_size=32, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, num_classes=CLASSES
        )
    return timm.models.ResNet(  # type: ignore[no-any-return]
        timm.models.resnet.BasicBlock,
        layers=[1, 1, 2, 1],
        channels=(8, 8, 12, 12),
        num_classes=CLASSES,
        zero_init_last=False,
    )


def from_transformers(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    if name == "vit":
        config = transformers.ViTConfig(
            image_size=32,
            patch_size=8,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
        )
    else:
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 12], depths=[1, 1, 2], layer_type="basic"
        )
    config.num_labels = CLASSES
    kind = transformers.ViTForImageClassification if name == "vit" else transformers.ResNetForImageClassification
    return kind(config)  # type: ignore[no-any-return]


def from_torchvision(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    if name == "vit":
        vit = models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=CLASSES
        )
        nn.init.normal_(vit.heads.head.weight)  # torchvision's are zero
        return vit  # type: ignore[no-any-return]
    return models.SwinTransformer(  # type: ignore[no-any-return]
        patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=CLASSES
    )


class Logits(nn.Module):
    """The scores of a model of transformers, which returns them with other things."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.model(image).logits
        return scores


def channels_first(tokens: Tensor) -> Tensor:
    """Tokens (N, T, C), or maps (N, H, W, C), with the channels in the second place."""
    return tokens.movedim(-1, 1)


def as_it_is(features: Tensor) -> Tensor:
    return features


LIBRARIES: list[Any] = [
    pytest.param(partial(from_timm, "vit"), "blocks.1", channels_first, id="timm vit"),
    pytest.param(partial(from_timm, "vit"), "blocks.1.norm1", channels_first, id="timm vit norm"),
    pytest.param(partial(from_timm, "swin"), "layers.1.blocks.0", channels_first, id="timm swin"),
    pytest.param(partial(from_timm, "resnet"), "layer3.1", as_it_is, id="timm resnet"),
    pytest.param(partial(from_timm, "resnet"), "layer3.0.conv1", as_it_is, id="timm resnet conv"),
    pytest.param(partial(from_torchvision, "vit"), "encoder.layers.encoder_layer_0", channels_first, id="vision vit"),
    pytest.param(partial(from_torchvision, "swin"), "features.1", channels_first, id="vision swin"),
    pytest.param(partial(from_torchvision, "swin"), "features.3.0.norm1", channels_first, id="vision swin norm"),
    pytest.param(
        lambda: Logits(from_transformers("vit")), "model.vit.layers.1.layernorm_before", channels_first, id="hf vit"
    ),
    pytest.param(
        lambda: Logits(from_transformers("resnet")), "model.resnet.encoder.stages.1", as_it_is, id="hf resnet"
    ),
]


def with_checkpoints(model: Any) -> None:
    """Turns the model's own checkpoints on, if it has any. Those of transformers are for training alone."""
    if hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing(True)
    if isinstance(model, Logits) and model.model.supports_gradient_checkpointing:
        inner: Any = model.model
        inner.gradient_checkpointing_enable()


@pytest.mark.parametrize(("build", "layer", "transform"), LIBRARIES)
@pytest.mark.parametrize("checkpoints", [False, True])
@FROZEN
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
def test_networks_of_well_known_libraries(
    build: Callable[[], nn.Module], layer: str, transform: Callable[[Tensor], Tensor], checkpoints: bool, frozen: bool
) -> None:
    model, inputs = seeded(build).double(), images(2, 3, 32, 32)
    wanted = captums_map(model, layer, inputs, transform=transform)
    if checkpoints:
        with_checkpoints(model)
    model.requires_grad_(not frozen)
    attribution = attribute(model, layer, inputs=inputs, method={"reshape_transform": transform})
    assert relative_error(attribution, wanted) < 1e-10
    assert hooks_on(model) == 0


@pytest.mark.filterwarnings("ignore:.*training mode", "ignore:.*gradient_checkpointing_enable")
def test_a_transformer_of_hugging_face_that_is_trained_with_checkpoints() -> None:
    model = seeded(lambda: Logits(from_transformers("vit"))).double().train()  # without dropout by default
    inputs, layer = images(2, 3, 32, 32), "model.vit.layers.1.layernorm_before"
    wanted = captums_map(model, layer, inputs, transform=channels_first)
    with_checkpoints(model)
    attribution = attribute(model, layer, inputs=inputs, method={"reshape_transform": channels_first})
    assert relative_error(attribution, wanted) < 1e-10
