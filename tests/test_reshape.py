"""Layers that are no maps until reshape_transform makes them so: tokens, and channels that are last."""

import math
import pickle
from typing import Any

import pytest
import torch
from helpers import SMOOTH, method_for, one
from models import TARGETS, images, seeded
from torch import Tensor, nn

from captum_sgcampp import (
    LayerGradCamPlusPlus,
    LayerSmoothGradCAMpp,
    channels_last_to_map,
    tokens_to_map,
)


class Transformer(nn.Module):
    """A small vision transformer: patches of 2 x 2, a class token, and the class read from it alone."""

    def __init__(self, n_registers: int = 0) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 8, 2, stride=2)
        self.prefix = nn.Parameter(torch.randn(1, 1 + n_registers, 8))
        self.first, self.last = (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(inputs), -1, -1), patches], dim=1)
        scores: Tensor = self.head(self.last(self.first(tokens))[:, 0])
        return scores


class ChannelsLast(nn.Module):
    """A network whose layer returns (N, H, W, C), and its twin whose layer returns (N, C, H, W)."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.Identity()
        self.head = nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
        self.last = last

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs)
        maps = self.layer(maps.movedim(1, -1)).movedim(-1, 1) if self.last else self.layer(maps)
        scores: Tensor = self.head(maps)
        return scores


@pytest.mark.parametrize("noise", [{}, SMOOTH])
@pytest.mark.parametrize("selection", [{}, {"filters": [2, 0]}, {"subset": [(0, 1), (3, 3)]}])
def test_channels_last(noise: dict[str, Any], selection: dict[str, Any]) -> None:
    inputs = images()

    def attribute(last: bool) -> Tensor:
        model = seeded(lambda: ChannelsLast(last)).double()
        transform = channels_last_to_map if last else None
        method = method_for(noise.get("n_samples", 0))(model, "layer", reshape_transform=transform)
        torch.manual_seed(2)
        return one(method.attribute(inputs, TARGETS, **noise, **selection))

    assert attribute(last=True).abs().max() > 0
    torch.testing.assert_close(attribute(last=True), attribute(last=False))


@pytest.mark.parametrize("noise", [{}, SMOOTH])
@pytest.mark.parametrize("n_registers", [0, 2])
def test_tokens(n_registers: int, noise: dict[str, Any]) -> None:
    model, inputs = seeded(lambda: Transformer(n_registers)).double(), images(3, 2, 6, 8)
    transform = tokens_to_map(1 + n_registers, grid=(3, 4))

    def attribute(layer: str, **selection: Any) -> Tensor:
        method = method_for(noise.get("n_samples", 0))(
            model, layer, reshape_transform=transform if layer == "first" else None
        )
        torch.manual_seed(2)
        return one(method.attribute(inputs, TARGETS, **noise, **selection))

    attribution = attribute("first")
    assert attribution.shape == (3, 1, 3, 4)
    assert attribution.abs().max() > 0
    # A patch's row and column are its place in the photograph.
    corner = attribute("first", subset=[(2, 3)])
    assert torch.equal(corner[..., 2, 3], attribution[..., 2, 3])
    assert corner.count_nonzero() <= 3


def test_gradients_are_taken_at_the_layer() -> None:
    """By hand: cut the transformer at its first block, and take the gradient by that block's tokens."""
    model, inputs = seeded(Transformer).double(), images(1, 2, 6, 6)
    tokens: list[Tensor] = []
    handle = model.first.register_forward_hook(lambda _module, _args, output: tokens.append(output.detach()))
    model(inputs)
    handle.remove()
    leaf = tokens[0].requires_grad_()
    gradient = torch.autograd.grad(model.head(model.last(leaf)[:, 0])[0, 3], leaf)[0]
    a, g = (tensor.detach()[0, 1:].T for tensor in (leaf, gradient))
    total = (a.sum(dim=1, keepdim=True) * g**3).relu()
    weights = (g**2 / (2 * g**2 + total) * g.relu()).sum(dim=1, keepdim=True)
    wanted = (weights * a).sum(dim=0).relu().reshape(1, 1, 3, 3)
    method = LayerGradCamPlusPlus(model, "first", reshape_transform=tokens_to_map())
    torch.testing.assert_close(one(method.attribute(inputs, target=3)), wanted)
    assert wanted.max() > 0


@pytest.mark.parametrize("noise", [{}, SMOOTH])
def test_tokens_that_cannot_influence_the_target_are_an_error(noise: dict[str, Any]) -> None:
    model = seeded(Transformer)
    method = method_for(noise.get("n_samples", 0))(model, "last", reshape_transform=tokens_to_map())
    with pytest.raises(ValueError, match=r"depends on 'last' .* only through what reshape_transform leaves out"):
        method.attribute(images(dtype=torch.float32), TARGETS, **noise)


def test_tokens_that_do_not_fill_the_grid() -> None:
    with pytest.raises(ValueError, match=r"grid: \(2, 4\) does not hold the 9 patches"):
        tokens_to_map(grid=(2, 4))(torch.rand(1, 10, 4))
    with pytest.raises(ValueError, match=r"tokens_to_map: needs a layer of shape \(N, tokens, C\)"):
        tokens_to_map()(torch.rand(1, 4, 3, 3))
    with pytest.raises(ValueError, match="n_prefix_tokens: must be at least 0, but is -1"):
        tokens_to_map(-1)


@pytest.mark.parametrize(("n_patches", "n_prefix_tokens"), [(196, 2), (196, 5), (256, 5), (9, 2), (196, 0)])
def test_a_wrong_number_of_prefix_tokens_is_said_with_the_right_one(n_patches: int, n_prefix_tokens: int) -> None:
    tokens = torch.rand(1, n_patches + n_prefix_tokens, 4)
    with pytest.raises(ValueError, match=rf"n_prefix_tokens: .*n_prefix_tokens={n_prefix_tokens}\b"):
        tokens_to_map()(tokens)
    assert tokens_to_map(n_prefix_tokens)(tokens).shape == (1, 4, math.isqrt(n_patches), math.isqrt(n_patches))


@pytest.mark.parametrize(
    "arguments", [{}, {"n_prefix_tokens": 3}, {"grid": (2, 4)}, {"n_prefix_tokens": 0, "grid": (3, 3)}]
)
def test_tokens_to_map_can_be_pickled(arguments: dict[str, Any]) -> None:
    transform = tokens_to_map(**arguments)
    again = pickle.loads(pickle.dumps(transform))  # noqa: S301
    tokens = torch.rand(2, arguments.get("n_prefix_tokens", 1) + math.prod(arguments.get("grid", (3, 3))), 4)
    assert torch.equal(again(tokens), transform(tokens))
    with pytest.raises(ValueError, match="tokens_to_map"):
        again(torch.rand(3))


def test_tokens_are_laid_out_row_by_row() -> None:
    tokens = torch.arange(7.0).reshape(1, 7, 1)
    assert tokens_to_map(1, (2, 3))(tokens).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    assert tokens_to_map(3)(tokens).tolist() == [[[[3, 4], [5, 6]]]]


@pytest.mark.parametrize("layer", ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1"])
def test_vision_transformer_of_torchvision(layer: str) -> None:
    models = pytest.importorskip("torchvision.models")
    model = seeded(
        lambda: models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=5
        )
    )
    nn.init.normal_(model.heads.head.weight, generator=torch.Generator().manual_seed(0))  # torchvision's are zero
    inputs = images(3, 3, 32, 32, dtype=torch.float32)
    method = LayerSmoothGradCAMpp(model, layer, reshape_transform=tokens_to_map())
    attribution = one(method.attribute(inputs, TARGETS, **SMOOTH))
    assert attribution.shape == (3, 1, 4, 4)
    assert attribution.isfinite().all()
    assert attribution.max() > 0


def test_swin_transformer_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    model = seeded(
        lambda: models.SwinTransformer(
            patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=5
        )
    )
    inputs = images(3, 3, 32, 32, dtype=torch.float32)
    last = one(LayerGradCamPlusPlus(model, "norm", reshape_transform=channels_last_to_map).attribute(inputs, TARGETS))
    first = one(LayerGradCamPlusPlus(model, "permute").attribute(inputs, TARGETS))
    assert last.shape == (3, 1, 4, 4)
    assert last.max() > 0
    torch.testing.assert_close(last, first)  # torchvision's own permutation is between the two
