"""What is attributed to is the very tensor of the layer, whoever else reads it, writes into it or keeps it.

The wanted maps come from Captum's own gradients, one image at a time, or from a twin of the model that writes nothing
in place.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from helpers import FROZEN, N_SAMPLES, SETTINGS, captums_map, hooks_on, one
from models import CLASSES, TARGETS, cut_inputs, cut_model, images, seeded
from oracle import example_map, inputs_seen, noisy_copies, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp


def attribute(model: nn.Module, layer: Any, inputs: Tensor, n_samples: int, **options: Any) -> Any:
    """The attribution before the ReLU, for `TARGETS`, with the same noise each time."""
    options = {"target": TARGETS[: len(inputs)], "relu_attributions": False, **options}
    if not n_samples:
        return LayerGradCamPlusPlus(model, layer).attribute(inputs, **options)
    generator = torch.Generator().manual_seed(3)
    return LayerSmoothGradCAMpp(model, layer).attribute(inputs, **options, n_samples=n_samples, generator=generator)


# --- tensors that are used in several places -------------------------------------------------------------------------


def conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, padding=1), nn.Tanh())


class Classifier(nn.Module):
    """A head that is nonlinear, so that noise counts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, 4)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.conv(features).square().mean(dim=(2, 3)))
        return scores


class HookedUNet(nn.Module):
    """As fastai builds them: hooks from the model's construction keep what the encoder gives, for the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(2, 3), conv(3, 4, 2), conv(4, 4, 2))
        self.up = nn.ModuleList([nn.ConvTranspose2d(4, 4, 3, 2, 1), nn.ConvTranspose2d(8, 3, 2, 2)])
        self.head = Classifier(6)
        self.kept: dict[int, Tensor] = {}
        for number in (0, 1):
            self.encoder[number].register_forward_hook(partial(self.keep, number))

    def keep(self, number: int, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.kept[number] = output

    def forward(self, image: Tensor) -> Tensor:
        deepest = self.encoder(image)
        features = torch.cat([self.up[0](deepest), self.kept[1]], dim=1)
        scores: Tensor = self.head(torch.cat([self.up[1](features), self.kept[0]], dim=1))
        return scores


class ReadsHooksAlone(nn.Module):
    """A head on features that hooks fetch out of a backbone, whose own result is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(2, 3), conv(3, 3), nn.Flatten(), nn.Linear(108, CLASSES))
        self.head = Classifier(6)
        self.kept: list[Tensor] = []
        for number in (0, 1):
            self.backbone[number].register_forward_hook(lambda _module, _args, output: self.kept.append(output))

    def forward(self, image: Tensor) -> Tensor:
        self.kept.clear()
        self.backbone(image)
        scores: Tensor = self.head(torch.cat(self.kept, dim=1))
        return scores


class Remembers(nn.Module):
    """A layer that keeps what it returns as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(2, 3)
        self.kept = torch.zeros(())

    def forward(self, image: Tensor) -> Tensor:
        self.kept = self.conv(image)
        return self.kept


class ReadsAnAttribute(nn.Module):
    """A model that reads the attribute of one of its modules later."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Remembers()
        self.second = conv(3, 3)
        self.head = Classifier(6)

    def forward(self, image: Tensor) -> Tensor:
        features = self.second(self.first(image))
        scores: Tensor = self.head(torch.cat([features, self.first.kept], dim=1))
        return scores


class Skips(nn.Module):
    """A residual block, with a skip connection around two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(2, 3)
        self.conv1, self.conv2 = conv(3, 3), conv(3, 3)
        self.head = Classifier(3)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(image)
        scores: Tensor = self.head(self.conv2(self.conv1(features)) + features)
        return scores


class SkipsFromTheImage(nn.Module):
    """A skip connection from the model's input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(2, 2)
        self.head = Classifier(4)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.cat([self.conv(image), image], dim=1))
        return scores


class Branches(nn.Module):
    """Two branches from one tensor, which the first has used before the second runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(2, 3)
        self.first, self.second = conv(3, 3), conv(3, 3)
        self.head = Classifier(6)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(image)
        scores: Tensor = self.head(torch.cat([self.first(features), self.second(features)], dim=1))
        return scores


class UNet(nn.Module):
    """A U-Net whose skip connections are variables of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encode1, self.encode2 = conv(2, 3), conv(3, 4)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(4, 3, 2, 2)
        self.head = Classifier(6)

    def forward(self, image: Tensor) -> Tensor:
        features = self.encode1(image)
        deeper = self.encode2(self.pool(features))
        scores: Tensor = self.head(torch.cat([self.up(deeper), features], dim=1))
        return scores


class Dense(nn.Module):
    """Every layer reads all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(2, 3), conv(5, 3), conv(8, 3)])
        self.head = Classifier(11)

    def forward(self, image: Tensor) -> Tensor:
        features = [image]
        for layer in self.convs:
            features.append(layer(torch.cat(features, dim=1)))
        scores: Tensor = self.head(torch.cat(features, dim=1))
        return scores


USED_TWICE = [
    (HookedUNet, "encoder.0", False),
    (HookedUNet, "encoder.1", False),
    (HookedUNet, "encoder.1", True),
    (ReadsHooksAlone, "backbone.0", False),
    (ReadsHooksAlone, "backbone.1", False),
    (ReadsAnAttribute, "first", False),
    (ReadsAnAttribute, "second", True),
    (Skips, "stem", False),
    (Skips, "conv1", True),
    (SkipsFromTheImage, "conv", True),
    (Branches, "first", True),
    (UNet, "encode1", False),
    (UNet, "pool", True),
    (Dense, "convs.0", False),
    (Dense, "convs.1", False),
]


@pytest.mark.pairwise
@pytest.mark.parametrize(("build", "layer", "to_input"), USED_TWICE)
@SETTINGS
def test_every_use_of_the_layers_tensor_counts(
    build: Callable[[], nn.Module], layer: str, to_input: bool, n_samples: int, frozen: bool
) -> None:
    model, inputs = seeded(build).double(), images()
    with inputs_seen(model) as seen:
        attribution = one(
            attribute(model.requires_grad_(not frozen), layer, inputs, n_samples, attribute_to_layer_input=to_input)
        )
    noisy = noisy_copies(seen) if n_samples else []
    wanted = captums_map(model.requires_grad_(True), layer, inputs, noisy, to_input=to_input)
    assert relative_error(attribution, wanted) < 1e-10


@N_SAMPLES
def test_uses_before_the_layer_takes_its_tensor_count_too(n_samples: int) -> None:
    """Not where all below the layer is frozen: there they are not in the graph, with Captum neither."""
    model, inputs = seeded(Branches).double(), images()
    with inputs_seen(model) as seen:
        attribution = one(attribute(model, "second", inputs, n_samples, attribute_to_layer_input=True))
    noisy = noisy_copies(seen) if n_samples else []
    wanted = captums_map(model, "second", inputs, noisy, to_input=True)
    assert relative_error(attribution, wanted) < 1e-10


@pytest.mark.parametrize(
    ("build", "layer"), [(HookedUNet, "encoder.0"), (ReadsHooksAlone, "backbone.0"), (ReadsAnAttribute, "first")]
)
@FROZEN
def test_a_model_whose_tensors_others_keep_computes_what_it_always_does(
    build: Callable[[], nn.Module], layer: str, frozen: bool
) -> None:
    """And attributing a second time finds what it found at first."""
    model, inputs = seeded(build).double().requires_grad_(not frozen), images()
    layer = next(
        name for name, module in model.named_modules() if isinstance(module, nn.Sequential) and len(module) < 3
    )
    outputs: list[Tensor] = []
    plain = model(inputs).detach()
    handle = model.register_forward_hook(lambda _module, _args, output: outputs.append(output.detach()))
    maps = [one(attribute(model, layer, inputs, 0)) for _ in range(2)]
    handle.remove()
    assert len(outputs) == 2
    assert all(torch.equal(output, plain) for output in (*outputs, model(inputs)))
    assert torch.equal(*maps)


# --- networks of torchvision -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> Any:
    models = pytest.importorskip("torchvision.models")
    return seeded(models.resnet18).double()


@pytest.mark.parametrize(
    ("layer", "block_before", "n_samples", "frozen"),
    [
        ("layer3.1.conv1", "layer3.0", 0, False),
        ("layer3.1.conv1", "layer3.0", 0, True),
        ("layer3.1.conv1", "layer3.0", 2, False),
        ("layer4.1.conv1", "layer4.0", 0, False),
    ],
)
def test_a_residual_block_takes_what_the_block_before_it_returns(
    resnet: nn.Module, layer: str, block_before: str, n_samples: int, frozen: bool
) -> None:
    resnet.requires_grad_(not frozen)
    inputs = images(1, 3, 64, 64)
    with inputs_seen(resnet) as seen:
        taken = one(attribute(resnet, layer, inputs, n_samples, attribute_to_layer_input=True))
    returned = one(attribute(resnet, block_before, inputs, n_samples))
    assert relative_error(taken, returned) < 1e-12
    noisy = noisy_copies(seen) if n_samples else []
    assert relative_error(taken, captums_map(resnet.requires_grad_(True), layer, inputs, noisy, to_input=True)) < 1e-10


@pytest.mark.parametrize(
    ("layer", "to_input"),
    [
        ("features.conv0", False),
        ("features.denseblock1.denselayer1", False),
        ("features.denseblock1", False),
        ("features.denseblock1", True),
        ("features.transition1.norm", True),
        ("features.norm5", False),  # the model's next step writes into this one
    ],
)
@FROZEN
def test_a_densenet_of_torchvision(layer: str, to_input: bool, frozen: bool) -> None:
    models = pytest.importorskip("torchvision.models")
    model = seeded(
        lambda: models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, num_classes=CLASSES)
    )
    inputs = images(2, 3, 64, 64)
    model.double().requires_grad_(not frozen)
    attribution = one(attribute(model, layer, inputs, 0, attribute_to_layer_input=to_input))
    wanted = captums_map(model.requires_grad_(True), layer, inputs, to_input=to_input)
    assert relative_error(attribution, wanted) < 1e-10


# --- lists of layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "layers", "to_input"),
    [
        (HookedUNet, ["encoder.0", "encoder.1", "encoder.2"], False),
        (HookedUNet, ["encoder.2", "encoder.0"], False),
        (Branches, ["second", "first"], True),
        (ReadsHooksAlone, ["backbone.1", "backbone.0"], False),
        (Dense, ["convs.0", "convs.2", "head"], True),
    ],
)
@SETTINGS
def test_each_layer_of_a_list_gets_its_map(
    build: Callable[[], nn.Module], layers: list[str], to_input: bool, n_samples: int, frozen: bool
) -> None:
    model, inputs = seeded(build).double().requires_grad_(not frozen), images()
    with inputs_seen(model) as seen:
        attributions = attribute(model, layers, inputs, n_samples, attribute_to_layer_input=to_input)
    noisy = noisy_copies(seen) if n_samples else []
    model.requires_grad_(True)
    for layer, attribution in zip(layers, attributions, strict=True):
        wanted = captums_map(model, layer, inputs, noisy, to_input=to_input)
        assert relative_error(attribution, wanted) < 1e-10


@SETTINGS
def test_a_list_with_a_layer_and_the_one_that_writes_into_its_tensor(n_samples: int, frozen: bool) -> None:
    def build(inplace: bool) -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Dropout(), nn.ReLU(inplace), Classifier(3))

    maps = [
        attribute(model.double().requires_grad_(not frozen), ["0", "1", "2"], images(), n_samples)
        for model in (seeded(partial(build, inplace)) for inplace in (True, False))
    ]
    for actual, wanted in zip(*maps, strict=True):
        assert relative_error(actual, wanted) < 1e-12


# --- tensors that are written into -----------------------------------------------------------------------------------


class Applies(nn.Module):
    """A layer that is a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "new": lambda: nn.Conv2d(3, 3, 1),
    "the same": nn.Dropout,
    "flattened": lambda: nn.Flatten(2),
    "permuted": lambda: Applies(lambda features: features.permute(0, 1, 3, 2)),
    "channels last": lambda: Applies(lambda features: features.permute(0, 2, 3, 1)),
    "part": lambda: Applies(lambda features: features[:, 1:]),
    "view of a view": lambda: Applies(lambda features: features.flatten(2)[:, :, 3:].unsqueeze(-1)),
}
"""Layers by what they return: a tensor of their own, their input itself, or a view of it."""
VIEWS = [name for name in LAYERS if name not in {"new", "the same"}]


class Writes(nn.Module):
    """A model that writes into the tensor of its layer, or into a new one in its place.

    Args:
        layer: One of `LAYERS`.
        where: Through what the tensor is written into: what the layer "returned", what a hook "kept", or what the
            layer "took". "kept and read" reads it there as well, and "took and read" what the layer took.
        inplace: Write in place.
    """

    def __init__(self, layer: str, where: str, inplace: bool) -> None:
        super().__init__()
        self.where = where
        self.inplace = inplace
        self.below = nn.Conv2d(2, 3, 3)
        self.layer = LAYERS[layer]()
        size = self.layer(torch.zeros(1, 3, 4, 4)).numel()
        self.above = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.Softplus(), nn.Linear(6, CLASSES))
        self.aside = nn.Sequential(nn.Flatten(), nn.Softplus(), nn.Linear(size, CLASSES))
        self.kept = torch.zeros(())
        if where.startswith("kept"):
            self.layer.register_forward_hook(self.keep)

    def keep(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.kept = output

    def written(self, features: Tensor) -> Tensor:
        if not self.inplace:
            return torch.cat([3 * features[:, :1], features[:, 1:]], dim=1).sub(0.1).relu()
        features[:, :1] = 3 * features[:, :1]
        return features.sub_(0.1).relu_()

    def forward(self, image: Tensor) -> Tensor:
        taken = self.below(image)
        features = self.layer(taken)
        if not self.inplace:
            features = self.written(features)
        elif self.where.startswith("kept"):
            self.written(self.kept)
        else:
            features = self.written(features)
        scores: Tensor = self.above(features)
        if self.where == "kept and read":
            scores = scores + self.aside(self.kept if self.inplace else features)
        return scores


def maps_and_outputs(build: Callable[[bool], nn.Module], n_samples: int, frozen: bool) -> list[tuple[Tensor, Tensor]]:
    """Of the model that writes in place and of its twin: the map, and what its first and its last run return."""
    found = []
    for inplace in (True, False):
        model, outputs = seeded(partial(build, inplace)).double().requires_grad_(not frozen), list[Tensor]()
        model.register_forward_hook(lambda _module, _args, output, outputs=outputs: outputs.append(output.detach()))
        attribution = one(attribute(model, "layer", images(), n_samples))
        found.append((attribution, torch.cat([outputs[0], outputs[-1]])))
    return found


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        *[(layer, "returned") for layer in LAYERS],
        *[(layer, where) for layer in ("new", "the same") for where in ("kept", "kept and read")],
    ],
)
@SETTINGS
def test_what_is_written_into_the_layers_tensor_later_is_no_part_of_it(
    layer: str, where: str, n_samples: int, frozen: bool
) -> None:
    """The map is that of a twin which writes nothing in place, and the model returns what it always does."""
    (actual, outputs), (wanted, outputs_wanted) = maps_and_outputs(partial(Writes, layer, where), n_samples, frozen)
    assert relative_error(actual, wanted) < 1e-12
    assert relative_error(outputs, outputs_wanted) < 1e-12


class WritesThroughAView(nn.Module):
    """A model that goes on with a view of a tensor, writes into it, and reads the tensor itself too.

    Args:
        inplace: Write in place; otherwise the same is computed anew.
    """

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.below = nn.Conv2d(2, 3, 3)
        self.layer = nn.Flatten(2)
        self.head = Classifier(3)
        self.aside = nn.Sequential(nn.Flatten(), nn.Softplus(), nn.Linear(48, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        base = self.below(image)
        rows = self.layer(base)
        if self.inplace:
            rows.mul_(1.5).relu_()
        else:
            rows = (rows * 1.5).relu()
            base = rows.unflatten(2, base.shape[2:])
        scores: Tensor = self.head(base) + self.aside(rows)
        return scores


@pytest.mark.parametrize(
    "build",
    [
        WritesThroughAView,
        *[partial(Writes, layer, where) for layer in VIEWS for where in ("kept", "kept and read")],
    ],
    ids=lambda build: " ".join(getattr(build, "args", [build.__name__ if isinstance(build, type) else ""])),
)
@SETTINGS
def test_a_view_that_is_written_into_and_read_elsewhere_is_right_or_refused(
    build: Callable[[bool], nn.Module], n_samples: int, frozen: bool
) -> None:
    """Autograd then knows the view no more, only what it is a view of."""
    try:
        (actual, outputs), (wanted, outputs_wanted) = maps_and_outputs(build, n_samples, frozen)
    except ValueError as refused:
        assert "layer: 'layer'" in str(refused)  # noqa: PT017
        assert "view" in str(refused)  # noqa: PT017
    else:
        assert relative_error(actual, wanted) < 1e-12
        assert relative_error(outputs, outputs_wanted) < 1e-12


class SkipsWhatIsWrittenInto(nn.Module):
    """A block that begins with a ReLU, in place or not; the skip connection reads what that has left."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.stem = nn.Conv2d(2, 3, 3)
        self.relu = nn.ReLU(inplace)
        self.conv = conv(3, 3)
        self.head = Classifier(3)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(image)
        rectified = self.relu(features)
        scores: Tensor = self.head(self.conv(rectified) + (features if self.inplace else rectified))
        return scores


@pytest.mark.parametrize(("layer", "to_input"), [("stem", False), ("relu", True), ("relu", False), ("conv", True)])
@SETTINGS
def test_a_layer_that_writes_into_what_a_skip_connection_reads(
    layer: str, to_input: bool, n_samples: int, frozen: bool
) -> None:
    maps = [
        one(attribute(model, layer, images(), n_samples, attribute_to_layer_input=to_input))
        for model in (
            seeded(partial(SkipsWhatIsWrittenInto, inplace)).double().requires_grad_(not frozen)
            for inplace in (True, False)
        )
    ]
    assert relative_error(*maps) < 1e-12


@pytest.mark.parametrize("layer", VIEWS)
@SETTINGS
def test_layers_that_return_views(layer: str, n_samples: int, frozen: bool) -> None:
    model = seeded(partial(Writes, layer, "returned", False)).double()
    with inputs_seen(model) as seen:
        attribution = one(attribute(model.requires_grad_(not frozen), "layer", images(), n_samples))
    noisy = noisy_copies(seen) if n_samples else []
    assert relative_error(attribution, captums_map(model.requires_grad_(True), "layer", images(), noisy)) < 1e-10


@pytest.mark.parametrize("layer", LAYERS)
@FROZEN
def test_true_derivatives_of_a_tensor_that_is_written_into(layer: str, frozen: bool) -> None:
    maps = []
    for inplace in (True, False):
        model = seeded(partial(Writes, layer, "returned", inplace)).double().requires_grad_(not frozen)
        method = LayerGradCamPlusPlus(model, "layer", derivatives="autograd")
        maps.append(one(method.attribute(images(), TARGETS, relu_attributions=False)))
    assert relative_error(*maps) < 1e-10


@pytest.mark.parametrize("layer", LAYERS)
def test_a_differentiable_map_of_a_tensor_that_is_written_into(layer: str) -> None:
    """The gradient of its sum with respect to the image is that of the twin, too."""
    found = []
    for inplace in (True, False):
        model, inputs = seeded(partial(Writes, layer, "returned", inplace)).double(), images().requires_grad_()
        attribution = one(attribute(model, "layer", inputs, 0, grad_kwargs={"create_graph": True}))
        found.append((attribution.detach(), *torch.autograd.grad(attribution.sum(), inputs)))
    for actual, wanted in zip(*found, strict=True):
        assert relative_error(actual, wanted) < 1e-10


@pytest.mark.parametrize("kind", [tuple, list])
@FROZEN
def test_a_layer_that_returns_several_views_of_one_tensor(kind: Callable[..., Any], frozen: bool) -> None:
    class Chunks(nn.Module):
        kind: Callable[..., Any] = tuple

        def forward(self, features: Tensor) -> Any:
            return self.kind(features.chunk(2, dim=1))

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below = nn.Conv2d(2, 6, 3)
            self.layer = Chunks()
            self.head = Classifier(3)

        def forward(self, image: Tensor) -> Tensor:
            values, gate = self.layer(self.below(image))
            scores: Tensor = self.head(values * gate.sigmoid())
            return scores

    model, inputs = seeded(Gated).double(), images()
    gradients, activations = compute_layer_gradients_and_eval(model, model.layer, inputs, TARGETS)
    model.layer.kind = kind
    attributions = attribute(model.requires_grad_(not frozen), "layer", inputs, 0)
    for attribution, activation, gradient in zip(attributions, activations, gradients, strict=True):
        wanted = [
            example_map("bounded", values, [slope], relu=False)
            for values, slope in zip(activation.detach(), gradient, strict=True)
        ]
        assert relative_error(attribution, torch.stack(wanted)) < 1e-10


# --- tensors that others hold stay as they were ----------------------------------------------------------------------


@pytest.mark.parametrize(("build", "layer", "to_input"), USED_TWICE)
@N_SAMPLES
def test_a_layers_tensor_that_others_keep_does_not_require_a_gradient_afterwards(
    build: Callable[[], nn.Module], layer: str, to_input: bool, n_samples: int
) -> None:
    """Where the model is frozen: nor does anything else that it or the caller has, in any of the passes."""
    model, inputs = seeded(build).double().requires_grad_(False), images()
    hooks, before = hooks_on(model), inputs.clone()
    kept: list[Tensor] = []
    handle = (
        model.get_submodule(layer).register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
        if to_input
        else model.get_submodule(layer).register_forward_hook(lambda _module, _args, output: kept.append(output))
    )
    attribute(model, layer, inputs, n_samples, attribute_to_layer_input=to_input)
    handle.remove()
    assert len(kept) == 1 + n_samples
    for tensor in (*kept, inputs, *model.parameters(), *model.buffers()):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None
        assert tensor.grad is None
    assert torch.equal(inputs, before)
    assert hooks_on(model) == hooks


@pytest.mark.parametrize("layer", LAYERS)
@N_SAMPLES
def test_a_view_that_others_keep_does_not_require_a_gradient_afterwards(layer: str, n_samples: int) -> None:
    model = seeded(partial(Writes, layer, "kept", False)).double().requires_grad_(False)
    bases: list[Tensor] = []
    model.layer.register_forward_pre_hook(lambda _module, args: bases.append(args[0]))
    attribute(model, "layer", images(), n_samples)
    assert len(bases) == 1 + n_samples
    for tensor in (model.kept, *bases):
        assert not tensor.requires_grad


class Returns(nn.Module):
    """A layer that returns a tensor of its own as it is, or a view of it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        values = torch.rand(1, 3, 4, 4)
        self.kind = kind
        if kind.startswith("buffer"):
            self.register_buffer("table", values)
        else:
            self.table = nn.Parameter(values, requires_grad=kind == "parameter")

    def forward(self, features: Tensor) -> Tensor:
        if self.kind.endswith("expanded"):
            return self.table.expand(len(features), -1, -1, -1)
        return self.table[:] if self.kind.endswith("view") else self.table


class Adds(nn.Module):
    """A model that adds a table to its features, as transformers do with positions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.below = nn.Conv2d(2, 3, 3)
        self.table = Returns(kind)
        self.head = Classifier(3)

    def forward(self, image: Tensor) -> Tensor:
        features = self.below(image)
        scores: Tensor = self.head(features + self.table(features))
        return scores


@pytest.mark.parametrize(
    "kind",
    [
        "parameter",
        "frozen parameter",
        "frozen parameter view",
        "frozen parameter expanded",
        "buffer",
        "buffer view",
        "buffer expanded",
    ],
)
@SETTINGS
def test_parameters_and_buffers_that_a_layer_returns(kind: str, n_samples: int, frozen: bool) -> None:
    model, inputs = seeded(partial(Adds, kind)).double(), images(1, 2, 6, 6)
    model.below.requires_grad_(not frozen)
    model.head.requires_grad_(not frozen)
    table = model.table.table
    before, required = table.detach().clone(), table.requires_grad
    with inputs_seen(model) as seen:
        options = {"n_samples_batch_size": 1} if n_samples else {}  # the table has a single row for all copies
        attribution = one(attribute(model, "table", inputs, n_samples, **options))
    assert model.table.table is table
    assert table.requires_grad == required == (kind == "parameter")
    assert table.is_leaf
    assert table.grad is None
    assert torch.equal(table.detach(), before)
    table.detach().add_(1).sub_(1)
    noisy = noisy_copies(seen) if n_samples else []
    assert relative_error(attribution, captums_map(model, "table", inputs, noisy)) < 1e-10


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("what", ["image", "mask"])
@N_SAMPLES
def test_what_the_caller_gives_does_not_require_a_gradient_afterwards(
    to_input: bool, what: str, n_samples: int
) -> None:
    """Neither inputs nor further arguments, where a layer takes or returns them as they are."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Identity()
            self.mask = nn.Identity()
            self.head = Classifier(2)

        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            scores: Tensor = self.head(self.image(image) * self.mask(mask))
            return scores

    model, inputs, mask = seeded(Masked).double(), images(), images(3, 1, 6, 6, seed=2)
    copies = inputs.clone(), mask.clone()
    attribution = one(
        attribute(model, what, inputs, n_samples, additional_forward_args=mask, attribute_to_layer_input=to_input)
    )
    assert attribution.any()
    for tensor, copy in zip((inputs, mask), copies, strict=True):
        assert not tensor.requires_grad
        assert tensor.grad is None
        assert tensor.is_leaf
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("kind", ["frozen parameter", "buffer"])
def test_an_error_above_the_layer_leaves_its_tensor_as_it_was(kind: str) -> None:
    class Fails(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise ValueError("of the model")

    model = seeded(partial(Adds, kind)).requires_grad_(False)
    kept: list[Tensor] = []
    model.below.register_forward_hook(lambda _module, _args, output: kept.append(output))
    model.head = Fails()
    with pytest.raises(ValueError, match="of the model"):
        LayerGradCamPlusPlus(model, ["table", "below"]).attribute(images(1, 2, 6, 6, dtype=torch.float32), 1)
    assert not model.table.table.requires_grad
    assert kept
    assert not any(tensor.requires_grad for tensor in kept)


class WrittenThrough(nn.Module):
    """A layer that returns a view of what it keeps; the model writes into the view and reads what the layer keeps."""

    def __init__(self, scores_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.Flatten(2)
        self.head = nn.Linear(16, CLASSES)
        self.scores_of = scores_of

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        rows = self.layer(features)
        rows *= 3
        scores: Tensor = self.head((rows.tanh() * features.flatten(2).sin()).mean(1))
        return self.scores_of(scores)


@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
def test_scores_that_are_not_finite_do_not_hide_what_a_copy_changes(value: float) -> None:
    masked = torch.tensor([0, 0, 0, 0, 1]).bool()
    model: nn.Module = seeded(lambda: WrittenThrough(lambda scores: scores.masked_fill(masked, value))).double()
    with pytest.raises(ValueError, match=r"layer: 'layer' .* view"):
        LayerGradCamPlusPlus(model, "layer").attribute(images(), TARGETS)


@pytest.mark.filterwarnings("ignore:.*training mode")
def test_a_model_that_draws_numbers_may_write_into_a_view() -> None:
    model: nn.Module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3),
            nn.Flatten(2),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(48, CLASSES),
        )
    )
    attribution = one(LayerGradCamPlusPlus(model.double().train(), "1").attribute(images(), TARGETS))
    assert attribution.shape == (3, 1, 16)


@FROZEN
@pytest.mark.parametrize("layer", ["conv", "relu"])
def test_what_is_written_without_recording_is_cut_off(layer: str, frozen: bool) -> None:
    """A backbone without gradients that ends in place: what follows does not depend on the tensor before that."""

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)
            self.relu = nn.ReLU(inplace=True)
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES), nn.Tanh())

        def forward(self, image: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.relu(self.conv(image))
            scores: Tensor = self.head(features)
            return scores

    model: Backbone = seeded(Backbone).double().requires_grad_(not frozen)
    with pytest.raises(ValueError, match=f"does not depend on the tensor of '{layer}'"):
        LayerGradCamPlusPlus(model, layer).attribute(images(), 1, attribute_to_layer_input=layer == "relu")


class TensorImage(Tensor):
    """A subclass, as fastai gives images."""


@FROZEN
@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("layer", ["below", "layer", "layer.1"])
def test_subclasses_of_tensor(layer: str, n_samples: int, frozen: bool) -> None:
    model, inputs = cut_model().requires_grad_(not frozen), cut_inputs()
    model.layer[1] = nn.ReLU(inplace=True)  # type: ignore[operator]
    actual, wanted = (
        attribute(model, layer, argument, n_samples) for argument in (inputs.as_subclass(TensorImage), inputs)
    )
    assert relative_error(one(actual).as_subclass(Tensor), one(wanted)) < 1e-12
