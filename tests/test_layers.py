"""Finding layers by name, lists of layers, and layers that are no maps until reshape_transform makes them so."""

import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers import SMOOTH, one
from models import TARGETS, cut_inputs, cut_model, images, seeded
from oracle import inputs_seen
from torch import Tensor, nn

from captum_sgcampp import (
    LayerGradCamPlusPlus,
    LayerSmoothGradCAMpp,
    channels_last_to_map,
    list_layers,
    tokens_to_map,
)
from captum_sgcampp.layers import find_layer


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


def method_for(noise: dict[str, Any]) -> type[LayerGradCamPlusPlus]:
    """The class whose map it is: without noise, Smooth Grad-CAM++ says that it is Grad-CAM++."""
    return LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, partial(torch.compile, backend="eager")])
def test_layer_by_name(wrap: Any) -> None:
    model: Any = cut_model()
    inputs = cut_inputs()
    wanted = one(LayerGradCamPlusPlus(model, model.layer[0]).attribute(inputs, target=TARGETS))
    method = LayerGradCamPlusPlus(wrap(model), "layer.0")
    assert method.layer is model.layer[0]
    torch.testing.assert_close(one(method.attribute(inputs, target=TARGETS)), wanted)


def test_names_within_a_wrapper_and_from_outside_it() -> None:
    model = cut_model()
    wrapped = nn.DataParallel(model)
    assert find_layer(wrapped, "layer.0") is find_layer(wrapped, "module.layer.0") is find_layer(model, "layer.0")


def test_a_wrong_name_says_the_closest() -> None:
    with pytest.raises(ValueError, match=r"layer: there is no 'layers\.0'; the closest: layer\.0"):
        LayerGradCamPlusPlus(cut_model(), "layers.0")


@pytest.mark.parametrize(("forward_func", "layer"), [(lambda x: x, "layer"), (cut_model(), 3), (cut_model(), None)])
def test_what_is_no_layer(forward_func: Any, layer: Any) -> None:
    with pytest.raises(TypeError, match="layer: must be a module, or the name of one"):
        LayerGradCamPlusPlus(forward_func, layer)


@pytest.mark.parametrize("noise", [{}, SMOOTH])
def test_a_list_of_layers_is_a_list_of_attributions_from_the_same_passes(noise: dict[str, Any]) -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    layers = ["above.0", model.below, "layer", "above.0"]  # in no order, and one of them twice

    def attribute(layer: Any) -> Any:
        torch.manual_seed(2)
        return method_for(noise)(model, layer).attribute(inputs, TARGETS, **noise)

    with inputs_seen(model) as seen:
        attributions = attribute(layers)
    n_passes = len(seen)
    with inputs_seen(model) as seen:
        alone = [attribute(layer) for layer in layers]
    assert n_passes * len(layers) == len(seen)
    assert isinstance(attributions, list)
    assert len(attributions) == len(layers)
    for attribution, wanted in zip(attributions, alone, strict=True):
        torch.testing.assert_close(attribution, wanted)
        assert attribution.abs().max() > 0


def test_a_list_of_one_layer_is_a_list() -> None:
    model, inputs = cut_model(), cut_inputs()
    attributions = LayerGradCamPlusPlus(model, [model.layer]).attribute(inputs, TARGETS)
    assert isinstance(attributions, list)
    (attribution,) = attributions
    assert torch.equal(one(attribution), one(LayerGradCamPlusPlus(model, model.layer).attribute(inputs, TARGETS)))


def test_a_list_of_no_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="layer: the list is empty"):
        LayerGradCamPlusPlus(cut_model(), [])


def test_a_list_with_a_layer_that_does_not_run_is_refused() -> None:
    model = cut_model()
    with pytest.raises(ValueError, match=r"layer: \(Linear\) does not run"):
        LayerGradCamPlusPlus(model, [model.layer, nn.Linear(1, 1)]).attribute(cut_inputs(), TARGETS)


@pytest.mark.parametrize("noise", [{}, SMOOTH])
@pytest.mark.parametrize("selection", [{}, {"filters": [2, 0]}, {"subset": [(0, 1), (3, 3)]}])
def test_channels_last(noise: dict[str, Any], selection: dict[str, Any]) -> None:
    inputs = images()

    def attribute(last: bool) -> Tensor:
        model = seeded(lambda: ChannelsLast(last)).double()
        transform = channels_last_to_map if last else None
        method = method_for(noise)(model, "layer", reshape_transform=transform)
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
        method = method_for(noise)(model, layer, reshape_transform=transform if layer == "first" else None)
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
    method = method_for(noise)(model, "last", reshape_transform=tokens_to_map())
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


def test_list_layers_tells_what_runs_and_what_it_returns() -> None:
    model = cut_model()
    model.add_module("unused", nn.Linear(1, 1))
    layers = {layer.name: layer for layer in list_layers(model, cut_inputs())}
    assert layers["layer"].shapes == ((3, 3, 3, 3),)
    assert layers["layer"].module is model.layer
    assert list(layers)[-1] == "unused"
    assert layers["unused"].output_summary == "does not run"
    assert str(layers["unused"]) == f"unused: {type(layers['unused'].module).__name__}, does not run"


def test_list_layers_tells_several_tensors_and_leaves_no_hook() -> None:
    model = nn.Sequential(nn.LSTM(4, 3, batch_first=True))
    (layer,) = list_layers(model, torch.zeros(2, 5, 4))
    assert (layer.name, layer.shapes, layer.calls) == ("0", ((2, 5, 3),), 1)
    assert not model[0]._forward_hooks


class Siamese(nn.Module):
    """Two names of one encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
        self.enc2 = self.enc1
        self.above = cut_model().float().above

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.above(self.enc2(image)[:, :, :3, :3])
        return scores


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel], ids=["plain", "DataParallel"])
@pytest.mark.parametrize("name", ["enc1", "enc1.1", "enc2", "enc2.1"])
def test_a_shared_module_is_found_by_each_of_its_names(wrap: Callable[[nn.Module], nn.Module], name: str) -> None:
    model = seeded(Siamese)
    method = LayerGradCamPlusPlus(wrap(model), name)
    assert method.layer is model.get_submodule(name)
    assert one(method.attribute(images(dtype=torch.float32), TARGETS)).any()


def test_a_list_of_two_names_of_one_module() -> None:
    maps: Any = LayerGradCamPlusPlus(seeded(Siamese), ["enc1.1", "enc2.1"]).attribute(
        images(dtype=torch.float32), TARGETS
    )
    assert torch.equal(*maps)


def test_a_second_name_that_is_wrong_says_the_closest() -> None:
    with pytest.raises(ValueError, match=r"layer: there is no 'enc2.7'; the closest: .*enc2\.1"):
        LayerGradCamPlusPlus(seeded(Siamese), "enc2.7")
