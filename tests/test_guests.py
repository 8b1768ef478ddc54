"""A model finds everything as it is with Captum: hooks of others, the grad mode, gradients of its own.

The wanted maps are those of Captum's own gradients, or of a plain twin of the model.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from helpers import FROZEN, N_SAMPLES, SETTINGS, attribute, captums_map, hooks_on, one
from models import CLASSES, TARGETS, cut_inputs, cut_model, images, remade, seeded
from oracle import CutModel, inputs_seen, relative_error
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

# --- backward hooks --------------------------------------------------------------------------------------------------


def guided(_module: nn.Module, gradients: Any, _of_output: Any) -> Any:
    """Lets only positive gradients through, as guided backpropagation does."""
    return (gradients[0].relu(),)


def halved(_module: nn.Module, gradients: Any) -> Any:
    return (gradients[0] * 0.5 + 0.01,)


def with_backward_hooks(model: nn.Module, place: str, kind: str) -> None:
    """Registers hooks that change gradients "after" a module's backward pass, "before" it, or "both"."""
    module = model.get_submodule(place)
    if kind != "before":
        module.register_full_backward_hook(guided)
    if kind != "after":
        module.register_full_backward_pre_hook(halved)


KINDS = pytest.mark.parametrize("kind", ["after", "before", "both"])


@pytest.mark.parametrize(
    "place", ["", "below", "below.0", "layer", "layer.0", "layer.1", "above", "above.0", "above.1", "above.3"]
)
@pytest.mark.parametrize("layer", ["layer", "layer.0", "below"])
@KINDS
def test_full_backward_hooks_count_as_with_captum(place: str, layer: str, kind: str) -> None:
    """For inputs that require a gradient, as such hooks need them to at the beginning of a model."""
    model, inputs = cut_model(), cut_inputs().requires_grad_()
    with_backward_hooks(model, place, kind)
    wanted = captums_map(model, layer, inputs)
    assert relative_error(attribute(model, layer, inputs=inputs), wanted) < 1e-10


@pytest.mark.parametrize("place", ["above", "above.0", "above.1", "above.3"])
@pytest.mark.parametrize("layer", ["layer", "layer.0", "below"])
@KINDS
def test_full_backward_hooks_above_a_frozen_layer_count_as_with_captum(place: str, layer: str, kind: str) -> None:
    model = cut_model().requires_grad_(False)
    with_backward_hooks(model, place, kind)
    wanted = captums_map(model, layer)
    assert relative_error(attribute(model, layer), wanted) < 1e-10


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("layer", ["layer", "layer.0", "below", "above.0"])
def test_backward_hooks_are_called_as_often_as_with_captum(layer: str) -> None:
    """And in the same order."""
    model, calls = cut_model(), list[str]()
    for name, module in model.named_modules():
        module.register_full_backward_hook(lambda *_, name=name: calls.append(f"after {name}"))
        module.register_full_backward_pre_hook(lambda *_, name=name: calls.append(f"before {name}"))
    captums_map(model, layer)
    wanted = calls.copy()
    calls.clear()
    attribute(model, layer)
    assert calls == wanted
    assert wanted


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@SETTINGS
def test_guided_backpropagation_above_the_layer(n_samples: int, frozen: bool) -> None:
    """The hooked network is a twin whose ReLU has such a gradient."""

    class GuidedReLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:
            ctx.save_for_backward(values)
            return values.relu()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            (values,) = ctx.saved_tensors
            return one((gradients[0] * (values > 0)).relu())

    class Guided(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            rectified: Tensor = GuidedReLU.apply(values)
            return rectified

    hooked, twin = (cut_model().requires_grad_(not frozen) for _ in range(2))
    hooked.get_submodule("above.1").register_full_backward_hook(guided)
    assert isinstance(twin.above, nn.Sequential)
    twin.above[1] = Guided()
    hooked.layer.register_full_backward_hook(lambda *_: None)
    hooked.register_full_backward_hook(lambda *_: None)
    maps = [attribute(model, "layer", n_samples) for model in (hooked, twin, cut_model())]
    assert relative_error(maps[0], maps[1]) < 1e-12
    assert relative_error(maps[0], maps[2]) > 1e-3


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@N_SAMPLES
def test_hooks_that_take_gradients_per_example(n_samples: int) -> None:
    """As Opacus does: from the inputs that forward hooks have kept, and the gradients that backward hooks see."""
    model = cut_model()
    taken: dict[nn.Module, list[Tensor]] = {}
    per_example: list[Tensor] = []

    def keep(module: nn.Module, args: Any, _output: Any) -> None:
        if torch.is_grad_enabled():
            taken.setdefault(module, []).append(args[0].detach())

    def take(module: nn.Module, _gradients: Any, gradients: Any) -> None:
        inputs = taken[module].pop()
        if isinstance(module, nn.Linear):
            per_example.append(torch.einsum("no,ni->noi", gradients[0], inputs))

    for module in model.modules():
        module.register_forward_hook(keep)
        module.register_full_backward_hook(take)
    assert torch.equal(attribute(model, "layer", n_samples), attribute(cut_model(), "layer", n_samples))
    assert [gradient.shape for gradient in per_example] == [(3, CLASSES, 24)] * max(1, n_samples)


# --- models that look ------------------------------------------------------------------------------------------------


class AssertsGradMode(CutModel):
    """Works with recording on only."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert torch.is_grad_enabled()
        features = self.below(inputs)
        assert torch.is_grad_enabled()
        activation = self.layer(features)
        assert torch.is_grad_enabled()
        scores: Tensor = self.above(activation)
        return scores


class RaisesAnotherError(CutModel):
    """Raises what is no RuntimeError where there is no graph."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs)
        if features.grad_fn is None:
            raise LookupError("The features have no graph.")
        scores: Tensor = self.above(self.layer(features))
        return scores


class GoesByRequiresGrad(CutModel):
    """Computes something else where no gradient is required."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs)
        scores: Tensor = self.above(self.layer(features if features.requires_grad else features * 0.5))
        return scores


class GoesByGradMode(CutModel):
    """Computes something else where nothing is recorded, as a fused path for inference does."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs)
        scores: Tensor = self.above(self.layer(features if torch.is_grad_enabled() else features * 0.5))
        return scores


class HooksItsFeatures(CutModel):
    """Registers a hook on a tensor below the layer, which torch refuses where that requires no gradient."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs)
        try:
            features.register_hook(lambda gradient: gradient)
        except RuntimeError:
            features = features * 0.5
        scores: Tensor = self.above(self.layer(features))
        return scores


@pytest.mark.parametrize(
    "kind", [AssertsGradMode, RaisesAnotherError, GoesByRequiresGrad, GoesByGradMode, HooksItsFeatures]
)
@N_SAMPLES
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_model_that_looks_whether_it_is_recorded_finds_that_it_is(
    kind: type[CutModel], n_samples: int, mode: Callable[[], Any]
) -> None:
    model = remade(kind)
    with mode(), inputs_seen(model) as seen:
        attribution = attribute(model, "layer", n_samples)
    assert len(seen) == 1 + n_samples
    assert torch.equal(attribution, attribute(remade(CutModel), "layer", n_samples))


class CatchesErrors(CutModel):
    """Goes on without its layers where they fail."""

    caught: type[BaseException] = RuntimeError

    def forward(self, inputs: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                scale = self.above(self.layer(self.below(inputs))).abs().amax()
            features = self.layer(self.below(inputs / scale))
        except self.caught:
            features = self.layer(self.below(inputs * 0))
        scores: Tensor = self.above(features)
        return scores


class CatchesAll(CatchesErrors):
    """Whatever they fail with."""

    caught = BaseException


class CatchesNothing(CatchesErrors):
    """The plain twin: there is nothing to catch."""

    caught = ZeroDivisionError


@pytest.mark.parametrize("kind", [CatchesErrors, CatchesAll])
@SETTINGS
@pytest.mark.filterwarnings("ignore:layer.* runs 2 times")
def test_a_model_that_catches_errors_has_none_to_catch(kind: type[CutModel], n_samples: int, frozen: bool) -> None:
    model = remade(kind).requires_grad_(not frozen)
    with inputs_seen(model) as seen:
        attribution = attribute(model, "layer", n_samples)
    assert len(seen) == 1 + n_samples
    assert relative_error(attribution, attribute(remade(CatchesNothing), "layer", n_samples)) < 1e-12


# --- errors ----------------------------------------------------------------------------------------------------------


ERRORS = [
    torch.cuda.OutOfMemoryError("no memory left"),
    RuntimeError("of the model"),
    NotImplementedError("of the model"),
    AssertionError("of the model"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["below", "layer", "above"])
@pytest.mark.parametrize("n_samples", [0, 3])
def test_errors_are_passed_on_at_once(error: BaseException, place: str, n_samples: int) -> None:
    """The model does not run again, whatever the error is: with one of memory that would take twice the time."""

    class Fails(nn.Module):
        calls = 0

        def forward(self, _: Tensor) -> Tensor:
            self.calls += 1
            raise error

    model, fails = cut_model(), Fails()
    setattr(model, place, fails)
    with pytest.raises(type(error)) as raised:
        attribute(model, "layer", n_samples)
    assert raised.value is error
    assert fails.calls == 1
    assert error.__cause__ is None
    assert error.__context__ is None
    assert hooks_on(model) == 0


def test_errors_of_a_backward_hook_are_passed_on_at_once() -> None:
    model, calls = cut_model(), list[int]()

    def fails(*_: Any) -> None:
        calls.append(1)
        raise torch.cuda.OutOfMemoryError("no memory left")

    model.above.register_full_backward_pre_hook(fails)
    with inputs_seen(model) as seen, pytest.raises(torch.cuda.OutOfMemoryError):
        attribute(model, "layer")
    assert len(seen) == len(calls) == 1


# --- gradients that the model takes itself ---------------------------------------------------------------------------


class TakesGradients(nn.Module):
    """The gradient of a small energy with respect to the input, times that.

    Args:
        how: By which of torch's functions.
        caught: Errors that it catches, with something else as the result.
    """

    def __init__(self, how: str, caught: type[BaseException] | tuple[()] = ()) -> None:
        super().__init__()
        self.how = how
        self.caught = caught

    @staticmethod
    def energies(image: Tensor) -> Tensor:
        return image.sin() * image.exp()

    def energy(self, image: Tensor) -> Tensor:
        return self.energies(image).sum()

    def gradient(self, image: Tensor) -> Tensor:
        ones = torch.ones_like(image)
        gradient: Any
        if self.how == "func.grad":
            gradient = torch.func.grad(self.energy)(image)
        elif self.how == "func.vmap":
            gradient = torch.func.vmap(torch.func.grad(self.energy))(image)
        elif self.how == "func.vjp":
            gradient = torch.func.vjp(self.energies, image)[1](ones)[0]
        elif self.how == "func.jvp":
            gradient = torch.func.jvp(self.energies, (image,), (ones,))[1]
        elif self.how == "backward":
            leaf = image.detach().requires_grad_()
            torch.autograd.backward(self.energy(leaf))
            gradient = leaf.grad
        else:
            point = image if image.requires_grad else image.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.energy(point), point, create_graph=self.how == "create_graph")
        return one(gradient)

    def forward(self, image: Tensor) -> Tensor:
        try:
            return image + self.gradient(image)
        except self.caught:
            return image * 0.5


class Explicit(TakesGradients):
    """The same without autograd."""

    def gradient(self, image: Tensor) -> Tensor:
        return (image.cos() + image.sin()) * image.exp()


def with_part(place: str, part: nn.Module) -> CutModel:
    """A model that begins with the part, or has it just below or above its layer, or within it."""
    model = cut_model(smooth=True, rectified=False)
    if place == "first":
        model.below = nn.Sequential(part, model.below)
    elif place == "below":
        model.below = nn.Sequential(model.below, part)
    elif place == "within":
        model.layer = nn.Sequential(part, model.layer)
    else:
        model.above = nn.Sequential(part, model.above)
    return model


AUTOGRAD = ["autograd", "create_graph", "backward"]
FUNC = ["func.grad", "func.vmap", "func.vjp", "func.jvp"]


@pytest.mark.parametrize("place", ["first", "below", "within", "above"])
@pytest.mark.parametrize(
    ("how", "caught"),
    [
        *[(how, ()) for how in AUTOGRAD + FUNC],
        *[(how, caught) for how in AUTOGRAD for caught in (RuntimeError, Exception)],
    ],
)
@SETTINGS
def test_a_model_that_takes_gradients_of_its_own(
    place: str, how: str, caught: type[Exception] | tuple[()], n_samples: int, frozen: bool
) -> None:
    """It may need what autograd has saved below the layer; only then it runs a second time, and only once."""
    model = with_part(place, TakesGradients(how, caught)).requires_grad_(not frozen)
    with inputs_seen(model) as seen:
        attribution = attribute(model, "layer", n_samples)
    # Above the layer, a gradient that is taken without create_graph depends on nothing.
    twin = with_part(place, Constant() if place == "above" and how in {"autograd", "backward"} else Explicit(how))
    assert relative_error(attribution, attribute(twin, "layer", n_samples)) < 1e-12
    assert 1 + n_samples <= len(seen) <= 2 + n_samples
    assert hooks_on(model) == 0


class Constant(Explicit):
    """The same, with a gradient that depends on nothing."""

    def __init__(self) -> None:
        super().__init__("")

    def gradient(self, image: Tensor) -> Tensor:
        return super().gradient(image).detach()


class Forces(CutModel):
    """Scores that contain the gradient of an energy with respect to the input, through the layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        positions = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
        energies = self.above(self.layer(self.below(positions)))
        (forces,) = torch.autograd.grad(energies.square().sum(), positions, create_graph=True)
        scores: Tensor = energies + forces.flatten(1)[:, :CLASSES]
        return scores


@SETTINGS
def test_a_model_that_takes_the_gradient_of_its_output(n_samples: int, frozen: bool) -> None:
    model = remade(Forces).requires_grad_(not frozen)
    with inputs_seen(model) as seen:
        attribution = attribute(model, "layer", n_samples)
    assert len(seen) == 2 + n_samples
    assert attribution.isfinite().all()
    if n_samples == 0:
        assert relative_error(attribution, captums_map(model, "layer")) < 1e-10


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Checkpointed(CutModel):
    """Computes a part of itself again in the backward pass, instead of keeping it."""

    part = ""
    use_reentrant = False

    def forward(self, inputs: Tensor) -> Tensor:
        def again(*modules: nn.Module) -> Callable[[Tensor], Tensor]:
            def run(values: Tensor) -> Tensor:
                def all_of_them(values: Tensor) -> Tensor:
                    for module in modules:
                        values = module(values)
                    return values

                result: Tensor = checkpoint(all_of_them, values, use_reentrant=self.use_reentrant)
                return result

            return run

        parts: dict[str, list[Callable[[Tensor], Tensor]]] = {
            "below": [again(self.below), self.layer, self.above],
            "layer": [self.below, again(self.layer), self.above],
            "above": [self.below, self.layer, again(self.above)],
            "below and layer": [again(self.below, self.layer), self.above],
            "layer and above": [self.below, again(self.layer, self.above)],
            "all": [again(self.below, self.layer, self.above)],
            "each": [again(self.below), again(self.layer), again(self.above)],
        }
        for part in parts[self.part]:
            inputs = part(inputs)
        return inputs


@pytest.mark.parametrize(
    "part", ["below", "layer", "above", "below and layer", "layer and above", "all", "each", "below, reentrant"]
)
@pytest.mark.parametrize(
    ("layer", "to_input"), [("layer", False), ("layer", True), ("layer.0", False), ("above.0", False)]
)
@SETTINGS
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpoints(part: str, layer: str, to_input: bool, n_samples: int, frozen: bool) -> None:
    plain = cut_model().requires_grad_(not frozen)
    model = Checkpointed(plain.below, plain.layer, plain.above)
    model.part, _, reentrant = part.partition(", ")
    model.use_reentrant = bool(reentrant)
    with inputs_seen(model) as seen:
        attribution = attribute(model, layer, n_samples, attribute_to_layer_input=to_input)
    assert 1 + n_samples <= len(seen) <= 2 + n_samples
    assert relative_error(attribution, attribute(plain, layer, n_samples, attribute_to_layer_input=to_input)) < 1e-12


# --- names and compiled models ---------------------------------------------------------------------------------------


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


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """What is compiled here is not left to other tests."""
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    yield
    dynamo.reset()


BACKENDS = pytest.mark.parametrize("backend", ["eager", "aot_eager"])


@BACKENDS
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_model_whose_layers_were_inlined_before_is_refused_in_words(backend: str) -> None:
    model: Any = torch.compile(cut_model(), backend=backend)
    model(cut_inputs())
    with pytest.raises(ValueError, match=r"layer: 'layer'.* does not run.*compiled") as raised:
        attribute(model, "layer")
    assert "before" in str(raised.value)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@BACKENDS
@N_SAMPLES
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_model_can_be_attributed_to_before_its_first_run(backend: str, n_samples: int) -> None:
    """Later it can again, or it is said that it cannot; the original model can always."""
    plain = cut_model()
    model: Any = torch.compile(plain, backend=backend)
    wanted = attribute(cut_model(), "layer", n_samples)
    assert relative_error(attribute(model, "layer", n_samples), wanted) < 1e-12
    scores = cut_model()(cut_inputs())
    torch.testing.assert_close(model(cut_inputs()), scores)
    for _ in range(2):
        try:
            again = attribute(model, "layer", n_samples)
        except ValueError as refused:
            assert "compile" in str(refused)  # noqa: PT017
        else:
            assert relative_error(again, wanted) < 1e-12
        assert relative_error(attribute(plain, "layer", n_samples), wanted) < 1e-12
        torch.testing.assert_close(model(cut_inputs()), scores)


# --- transformers and others of well-known libraries -----------------------------------------------------------------


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


class MissedAndOverwritten(nn.Module):
    """Reads the input of a layer before the layer does, and writes into what has been saved for that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.ReLU(inplace=True)
        self.head = nn.Linear(48, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image).tanh()
        aside = features.sin()
        scores: Tensor = self.head((self.layer(features) + aside).flatten(1))
        return scores


@pytest.mark.parametrize("noise", [{}, {"n_samples": 2}])
def test_a_pass_that_lacks_what_it_discarded_and_what_was_overwritten(noise: dict[str, Any]) -> None:
    model: nn.Module = seeded(MissedAndOverwritten).double()
    model.requires_grad_(True)
    build = LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus
    attribution = one(
        build(model, "layer").attribute(
            images(), TARGETS, attribute_to_layer_input=True, relu_attributions=False, **noise
        )
    )
    assert attribution.any()


def test_a_model_that_forbids_hooks_on_saved_tensors_in_words_of_its_own() -> None:
    class Forbids(CutModel):
        def forward(self, inputs: Tensor) -> Tensor:
            with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
                features = self.below(inputs)
            scores: Tensor = self.above(self.layer(features))
            return scores

    plain = cut_model()
    model, inputs = Forbids(plain.below, plain.layer, plain.above), cut_inputs()
    wanted = one(LayerGradCamPlusPlus(plain, "layer").attribute(inputs, TARGETS))
    assert torch.equal(one(LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS)), wanted)


@pytest.mark.parametrize("early", [False, True])
def test_a_model_with_a_pool_of_threads(early: bool) -> None:
    """A thread that is there before may be anybody's."""

    class Pooled(CutModel):
        pool: ThreadPoolExecutor | None = None

        def forward(self, inputs: Tensor) -> Tensor:
            self.pool = self.pool or ThreadPoolExecutor(1)
            scores: Tensor = self.pool.submit(super().forward, inputs).result()
            return scores

    plain = cut_model()
    model, inputs = Pooled(plain.below, plain.layer, plain.above), cut_inputs()
    if early:
        model(inputs)
        with pytest.raises(ValueError, match=r"layer: 'layer' .* runs in a thread that was started earlier"):
            LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS)
    else:
        wanted = one(LayerGradCamPlusPlus(plain, "layer").attribute(inputs, TARGETS))
        torch.testing.assert_close(one(LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS)), wanted)
    assert model.pool is not None
    model.pool.shutdown()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("source", ["powers", "autograd"])
@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autograd.graph.disable_saved_tensors_hooks("not here"),
        torch.autograd.graph.save_on_cpu,
        lambda: torch.autograd.set_multithreading_enabled(False),
        lambda: torch.device("meta"),  # where tensors are made that are not told where
    ],
    ids=["no hooks", "save_on_cpu", "one thread", "default device"],
)
def test_contexts_of_torch_around_the_call(around: Callable[[], Any], source: str, frozen: bool) -> None:
    model, inputs = cut_model(smooth=True).requires_grad_(not frozen), cut_inputs()
    method = LayerSmoothGradCAMpp(model, "layer", derivatives=source)
    maps = []
    for context in (nullcontext, around):
        torch.manual_seed(0)
        with context():
            maps.append(one(method.attribute(inputs, TARGETS, n_samples=2, stdevs=0.2)))
    assert relative_error(maps[1], maps[0]) < 1e-12
