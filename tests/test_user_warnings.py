"""What is refused or warned of in words: inputs and layers without anything in them, training mode, and no noise."""

import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from helpers import SMOOTH, Method, every_method, hooks_on, one, without_noise_on_purpose
from models import CLASSES, TARGETS, cut_inputs, cut_model
from oracle import CutModel, inputs_seen
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

Attribute = Callable[[LayerGradCamPlusPlus, Tensor], object]


def methods() -> pytest.MarkDecorator:
    """Both methods, Smooth Grad-CAM++ with noise."""
    return pytest.mark.parametrize(
        ("build", "noise"),
        [
            pytest.param(LayerGradCamPlusPlus, {}, id="plus_plus"),
            pytest.param(LayerSmoothGradCAMpp, SMOOTH, id="smooth"),
        ],
    )


# --- inputs and layers -----------------------------------------------------------------------------------------------


@methods()
@pytest.mark.parametrize("as_tuple", [False, True])
def test_a_batch_of_no_examples_is_refused(
    build: type[LayerGradCamPlusPlus], noise: dict[str, Any], as_tuple: bool
) -> None:
    model, inputs = cut_model(), cut_inputs()[:0]
    with inputs_seen(model) as seen, pytest.raises(ValueError, match=r"^inputs: .*\(0, 2, 6, 6\)"):
        build(model, "layer").attribute((inputs,) if as_tuple else inputs, 1, **noise)
    assert seen == []


class Beside(nn.Module):
    """A model whose score depends on its maps, and on what a layer makes of them."""

    def __init__(self, layer: nn.Module, read: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 4)
        self.layer = layer
        self.read = read
        self.head = nn.Linear(27, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs)
        scores: Tensor = self.head(self.read(self.layer(maps), maps).flatten(1))
        return scores


class Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean()


class Nothing(nn.Module):
    def forward(self, _maps: Tensor) -> tuple[Tensor, ...]:
        return ()


class NoRows(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps[:, :, :0]


@methods()
@pytest.mark.parametrize(
    ("layer", "read", "error", "words"),
    [
        pytest.param(
            Mean(), lambda mean, maps: mean * maps, ValueError, "has shape (), where (N, C, *spatial)", id="0-d"
        ),
        pytest.param(Nothing(), lambda _, maps: maps, TypeError, "an empty tuple", id="empty tuple"),
        pytest.param(
            NoRows(),
            lambda rows, maps: torch.cat([rows, maps], 2),
            ValueError,
            "has shape (3, 3, 0, 3)",
            id="zero-size",
        ),
    ],
)
def test_layers_that_give_nothing_to_attribute_to_are_refused(
    layer: nn.Module,
    read: Callable[[Any, Tensor], Tensor],
    error: type[Exception],
    words: str,
    build: type[LayerGradCamPlusPlus],
    noise: dict[str, Any],
) -> None:
    model = Beside(layer, read).double()
    name = re.escape(f"layer: 'layer' ({type(layer).__name__})")
    with inputs_seen(model) as seen, pytest.raises(error, match=f"^{name} .*{re.escape(words)}"):
        build(model, "layer").attribute(cut_inputs(), TARGETS, **noise)
    assert len(seen) == 1
    assert hooks_on(model) == 0


@every_method
@without_noise_on_purpose
@pytest.mark.parametrize("wrong", [5, "create_graph", [("create_graph", True)]])
def test_grad_kwargs_must_be_a_dict(build: Method, wrong: Any) -> None:
    model = cut_model()
    with inputs_seen(model) as seen, pytest.raises(TypeError, match=r"^grad_kwargs: must be a dict .* but is "):
        build(model, "layer").attribute(cut_inputs(), TARGETS, grad_kwargs=wrong)
    assert seen == []


@every_method
@without_noise_on_purpose
@pytest.mark.parametrize("wrong", ["01", b"01", 5])
def test_targets_must_be_a_list(build: Method, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^targets: must be a list of targets, but is "):
        build(cut_model(), "layer").attribute_targets(cut_inputs(), wrong)


@every_method
@without_noise_on_purpose
@pytest.mark.parametrize("returned", [None, 3, ()])
def test_reshape_transform_must_return_a_tensor(build: Method, returned: Any) -> None:
    kind = type(returned).__name__
    message = rf"^reshape_transform: must return a tensor.* returned {kind} for a layer of shape \(3, "
    with pytest.raises(TypeError, match=message):
        build(cut_model(), "layer", reshape_transform=lambda _: returned).attribute(cut_inputs(), TARGETS)


# --- training mode ---------------------------------------------------------------------------------------------------


def attribute(method: LayerGradCamPlusPlus, inputs: Tensor) -> object:
    return method.attribute(inputs, TARGETS)


def attribute_targets(method: LayerGradCamPlusPlus, inputs: Tensor) -> object:
    return method.attribute_targets(inputs, [0, TARGETS])


def smooth(method: LayerGradCamPlusPlus, inputs: Tensor) -> object:
    return method.attribute(inputs, TARGETS, n_samples=5, n_samples_batch_size=1)  # type: ignore[call-arg]


def smooth_targets(method: LayerGradCamPlusPlus, inputs: Tensor) -> object:
    return method.attribute_targets(inputs, [0, TARGETS], n_samples=5, n_samples_batch_size=1)


def calls() -> pytest.MarkDecorator:
    """Both methods, and both ways to call each; Smooth Grad-CAM++ with noise."""
    return pytest.mark.parametrize(
        ("build", "call"),
        [
            (LayerGradCamPlusPlus, attribute),
            (LayerGradCamPlusPlus, attribute_targets),
            (LayerSmoothGradCAMpp, smooth),
            (LayerSmoothGradCAMpp, smooth_targets),
        ],
    )


def with_part(part: nn.Module) -> CutModel:
    """A model in evaluation mode, but for a part far inside, below the layer."""
    model = cut_model(smooth=True)
    model.below = nn.Sequential(model.below, nn.Sequential(nn.Identity(), part.double()))
    return model


@calls()
@pytest.mark.parametrize(
    "part",
    [
        nn.Dropout(0.1),
        nn.Dropout2d(),
        nn.AlphaDropout(),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        StochasticDepth(0.1, "row"),
    ],
    ids=str,
)
def test_a_model_in_training_mode_is_warned_of_once(
    part: nn.Module, build: type[LayerGradCamPlusPlus], call: Attribute
) -> None:
    model, inputs = with_part(part.train()), cut_inputs()
    with pytest.warns(UserWarning, match=rf"^forward_func: .* training mode.*{type(part).__name__}") as caught:
        call(build(model, "layer"), inputs)
    assert len(caught) == 1


@calls()
@pytest.mark.parametrize(
    "part",
    [
        nn.Dropout(0.1).eval(),
        nn.BatchNorm2d(4).eval(),
        nn.Dropout(0.0).train(),
        StochasticDepth(0.0, "row").train(),
        nn.Tanh().train(),
        nn.GroupNorm(2, 4).train(),
    ],
    ids=str,
)
def test_a_model_that_every_pass_leaves_the_same_is_not_warned_of(
    part: nn.Module, build: type[LayerGradCamPlusPlus], call: Attribute
) -> None:
    training = part.training
    model, inputs = with_part(part), cut_inputs()
    model.train()
    part.train(training)  # the others do nothing else in training mode
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(build(model, "layer"), inputs)


@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential])
def test_training_mode_is_found_within_a_wrapper(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = with_part(nn.Dropout().train())
    wrapped = wrap(model)
    with pytest.warns(UserWarning, match="training mode") as caught:
        LayerGradCamPlusPlus(wrapped, model.layer).attribute(cut_inputs(), TARGETS)
    assert len(caught) == 1


def test_the_warning_of_training_mode_is_at_the_callers_line() -> None:
    method = LayerGradCamPlusPlus(with_part(nn.Dropout().train()), "layer")
    with pytest.warns(UserWarning, match="training mode") as caught:
        method.attribute(cut_inputs(), TARGETS)
    assert caught[0].filename == __file__


# --- no noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"n_samples": 0}, {"n_samples": 0, "stdevs": 0.3, "n_samples_batch_size": 2}])
@pytest.mark.parametrize("several", [False, True])
def test_smooth_grad_cam_plus_plus_without_noise_says_so(how: dict[str, Any], several: bool) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = LayerSmoothGradCAMpp(model, "layer")
    with pytest.warns(UserWarning, match=r"^n_samples: .*Grad-CAM\+\+") as caught:
        attribution = (
            method.attribute_targets(inputs, [TARGETS, 0], **how)[0]
            if several
            else method.attribute(inputs, TARGETS, **how)
        )
    (warning,) = caught
    assert warning.filename == __file__
    wanted = one(LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS))
    assert torch.equal(one(attribution), wanted)


@calls()
def test_with_noise_and_for_grad_cam_plus_plus_there_is_no_warning(
    build: type[LayerGradCamPlusPlus], call: Attribute
) -> None:
    method, inputs = build(cut_model(smooth=True), "layer"), cut_inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(method, inputs)


def test_one_noise_sample_is_noise() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LayerSmoothGradCAMpp(cut_model(smooth=True), "layer").attribute(cut_inputs(), TARGETS, n_samples=1)


def test_noise_tunnel_around_grad_cam_plus_plus_gives_no_warning() -> None:
    model, inputs = cut_model(), cut_inputs()
    tunnel = NoiseTunnel(LayerGradCamPlusPlus(model, "layer"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tunnel.attribute(inputs, nt_samples=2, target=TARGETS)


@every_method
@without_noise_on_purpose
def test_a_model_that_returns_an_object_is_told_how_to_wrap_it(build: Method) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, 3))
    layer, inputs = model[0], torch.rand(1, 1, 6, 6)

    def wrapped(image: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=model(image))

    message = (
        r"forward_func: must return a tensor of scores, but returned SimpleNamespace\. Wrap it, as in "
        r"forward_func=lambda \*args: model\(\*args\)\.logits; the layer must then be a module, not a name\.$"
    )
    with pytest.raises(TypeError, match=message):
        build(wrapped, layer).attribute(inputs, 0)
    as_advised = build(lambda *args: wrapped(*args).logits, layer)
    assert torch.equal(one(as_advised.attribute(inputs, 0)), one(build(model, layer).attribute(inputs, 0)))


def test_recurrent_layers_of_cudnn_in_evaluation_mode() -> None:
    """Torch's error on a GPU is passed on with what to do; the node here raises it on any device."""

    class LikeCudnn(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, maps: Tensor) -> Tensor:
            return maps.clone()

        @staticmethod
        def backward(_ctx: Any, _gradient: Tensor) -> Tensor:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")

    class Recurrent(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            found: Tensor = LikeCudnn.apply(maps)
            return found

    cut = cut_model()
    model = CutModel(cut.below, cut.layer, nn.Sequential(Recurrent(), cut.above))
    with pytest.raises(RuntimeError, match=r"training mode\. .*cudnn\.flags\(enabled=False\)") as raised:
        LayerGradCamPlusPlus(model, "layer").attribute(cut_inputs(), TARGETS)
    assert isinstance(raised.value.__cause__, RuntimeError)
