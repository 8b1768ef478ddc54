"""The two methods are Captum methods through and through."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from captum.attr import GradientAttribution, LayerAttribution, LayerGradCam, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from models import CLASSES, TARGETS, cut_inputs, cut_model, hooks_on, images, one, seeded
from oracle import CutModel, expected, inputs_seen, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp.layers import layer_name

Method = Callable[..., LayerGradCamPlusPlus]
METHODS: list[Method] = [LayerGradCamPlusPlus, LayerSmoothGradCAMpp]
both_methods = pytest.mark.parametrize("build", METHODS)
NOISE = [
    pytest.param(LayerGradCamPlusPlus, {}, id="plus_plus"),
    pytest.param(LayerSmoothGradCAMpp, {"n_samples": 3}, id="smooth"),
]
with_and_without_noise = pytest.mark.parametrize(("build", "noise"), NOISE)


def seeded_map(method: LayerGradCamPlusPlus, *args: Any, **kwargs: Any) -> Tensor:
    """A map whose noise, if any, has the same seed each time."""
    torch.manual_seed(11)
    return one(method.attribute(*args, **kwargs))


# --- what they are ---------------------------------------------------------------------------------------------------


@both_methods
def test_classes(build: Method) -> None:
    model = cut_model()
    method = build(model, model.layer)
    assert isinstance(method, LayerAttribution)
    assert isinstance(method, GradientAttribution)
    assert method.forward_func is model
    assert method.layer is model.layer
    assert method.device_ids is None
    assert not method.has_convergence_delta()


@pytest.mark.parametrize("method", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp])
def test_attribute_is_wrapped_by_captums_log_usage(method: type[LayerGradCamPlusPlus]) -> None:
    model, inputs = cut_model(), cut_inputs()
    wrapped: Any = method.attribute.__wrapped__  # type: ignore[attr-defined]
    assert inspect.isfunction(wrapped)
    built = method(model, model.layer)
    assert torch.equal(wrapped(built, inputs, target=1), one(built.attribute(inputs, target=1)))


@pytest.mark.parametrize("method", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp])
def test_the_first_parameters_are_captums(method: type[LayerGradCamPlusPlus]) -> None:
    theirs = list(inspect.signature(LayerGradCam.attribute).parameters.values())
    ours = list(inspect.signature(method.attribute).parameters.values())
    assert len(theirs) == 8  # self and seven
    assert [parameter.name for parameter in ours[:8]] == [parameter.name for parameter in theirs]
    assert all(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in ours[:8])
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in ours[8:])
    different = {"relu_attributions", "attr_dim_summation"}
    assert [p.default for p in ours[:8] if p.name not in different] == [
        p.default for p in theirs if p.name not in different
    ]


@pytest.mark.parametrize("method", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp])
def test_the_constructor_begins_as_captums(method: type[LayerGradCamPlusPlus]) -> None:
    theirs = list(inspect.signature(LayerGradCam.__init__).parameters)
    ours = list(inspect.signature(method.__init__).parameters.values())
    assert [parameter.name for parameter in ours[: len(theirs)]] == theirs
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in ours[len(theirs) :])


def test_defaults_are_the_papers() -> None:
    parameters = inspect.signature(LayerSmoothGradCAMpp.attribute).parameters
    assert parameters["relu_attributions"].default is True
    assert parameters["attr_dim_summation"].default is None
    assert parameters["n_samples"].default == 0
    assert parameters["stdevs"].default == 0.15
    assert parameters["n_samples_batch_size"].default is None
    assert parameters["generator"].default is None
    assert parameters["show_progress"].default is False
    model = cut_model()
    assert LayerSmoothGradCAMpp(model, model.layer).alpha == "bounded"
    assert LayerSmoothGradCAMpp(model, model.layer).derivatives == "powers"


def test_without_noise_smooth_grad_cam_plus_plus_is_grad_cam_plus_plus() -> None:
    model, inputs = cut_model(), cut_inputs()
    with pytest.warns(UserWarning, match=r"n_samples.*Grad-CAM\+\+"):
        smooth = one(LayerSmoothGradCAMpp(model, model.layer).attribute(inputs, target=TARGETS))
    assert torch.equal(smooth, one(LayerGradCamPlusPlus(model, model.layer).attribute(inputs, target=TARGETS)))
    assert (smooth >= 0).all()


@both_methods
@pytest.mark.parametrize("argument", ["alpha", "derivatives"])
def test_unknown_choices_are_refused(build: Method, argument: str) -> None:
    model = cut_model()
    with pytest.raises(ValueError, match=f"{argument}.*'other'"):
        build(model, model.layer, **{argument: "other"})


@with_and_without_noise
def test_attributions_are_detached(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = cut_model(), cut_inputs().requires_grad_()
    attribution = one(build(model, model.layer).attribute(inputs, target=1, **noise))
    assert not attribution.requires_grad
    assert attribution.grad_fn is None


@both_methods
def test_interpolate(build: Method) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = build(model, model.layer)
    upsampled = one(method.interpolate(one(method.attribute(inputs, target=1)), (6, 6), "bilinear"))
    assert upsampled.shape == (3, 1, 6, 6)
    assert (upsampled >= 0).all() and upsampled.any()


# --- NoiseTunnel and the metrics -------------------------------------------------------------------------------------


class Weighted(nn.Module):
    """A model with a further argument for each example."""

    def __init__(self, model: CutModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, factor: Tensor) -> Tensor:
        scores: Tensor = self.model(image) * factor.reshape(-1, 1)
        return scores


FACTOR = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
by_type = pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])


@both_methods
@by_type
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_noise_tunnel(build: Method, nt_type: str, batch_size: int | None) -> None:
    model, inputs = Weighted(cut_model()), cut_inputs()
    method = build(model, model.model.layer)
    with inputs_seen(model) as seen:
        attribution = NoiseTunnel(method).attribute(
            inputs,
            nt_type=nt_type,
            nt_samples=5,
            nt_samples_batch_size=batch_size,
            stdevs=0.2,
            target=torch.tensor(TARGETS),
            additional_forward_args=FACTOR,
        )
    maps: list[list[Tensor]] = [[], [], []]
    for noisy, factor in seen:
        for row, row_factor in zip(noisy, factor, strict=True):
            number = int((inputs - row).flatten(1).norm(dim=1).argmin())
            assert row_factor == FACTOR[number]
            row_map = LayerGradCamPlusPlus(model, model.model.layer).attribute(
                row.unsqueeze(0), target=TARGETS[number], additional_forward_args=row_factor.unsqueeze(0)
            )
            maps[number].append(one(row_map)[0])
    assert [len(samples) for samples in maps] == [5, 5, 5]
    mean = torch.stack([torch.stack(samples).mean(dim=0) for samples in maps])
    mean_of_squares = torch.stack([torch.stack(samples).square().mean(dim=0) for samples in maps])
    wanted = {"smoothgrad": mean, "smoothgrad_sq": mean_of_squares, "vargrad": mean_of_squares - mean**2}[nt_type]
    assert relative_error(one(attribution), wanted) < 1e-10
    assert hooks_on(model) == 0


def test_noise_tunnel_around_noise_of_its_own() -> None:
    model, inputs = cut_model(), cut_inputs()
    with inputs_seen(model) as seen:
        attribution = one(
            NoiseTunnel(LayerSmoothGradCAMpp(model, model.layer)).attribute(
                inputs, nt_samples=2, nt_samples_batch_size=1, stdevs=0.1, target=TARGETS, n_samples=4
            )
        )
    calls = [args[0] for args in seen]
    clean = [number for number, call in enumerate(calls) if number == 0 or len(calls) // 2 == number]
    maps = [expected(model, calls[start], calls[start + 1 : start + len(calls) // 2], TARGETS) for start in clean]
    assert len(maps) == 2
    assert relative_error(attribution, (maps[0] + maps[1]) / 2) < 1e-10


@both_methods
def test_infidelity(build: Method) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = build(model, model.layer)
    upsampled = one(method.interpolate(one(method.attribute(inputs, target=TARGETS)), (6, 6))).expand_as(inputs)

    def perturb(batch: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.01 * torch.randn_like(batch)
        return noise, batch - noise

    values = infidelity(model, perturb, inputs, upsampled, target=TARGETS, n_perturb_samples=4)
    assert values.shape == (3,)
    assert values.isfinite().all() and (values > 0).all()


@with_and_without_noise
def test_sensitivity_max(build: Method, noise: dict[str, Any]) -> None:
    """Captum repeats an explanation of several examples right if it comes in a tuple, as all layer methods' must."""
    model, inputs = Weighted(cut_model()), cut_inputs()
    method = build(model, model.model.layer)
    options: dict[str, Any] = {"stdevs": 0.0, **noise} if noise else {}  # so that the right value is known

    def explain(*args: Any, **kwargs: Any) -> tuple[Tensor]:
        return (one(method.attribute(*args, **kwargs)),)

    with unchanged(model, inputs):
        values = sensitivity_max(
            explain,
            inputs,
            perturb_func=lambda batch: ((batch[0] if isinstance(batch, tuple) else batch) + 0.05,),
            n_perturb_samples=2,
            target=torch.tensor(TARGETS),
            additional_forward_args=FACTOR,
            **options,
        )
    plain = LayerGradCamPlusPlus(model, model.model.layer)
    before, after = (
        one(plain.attribute(batch, target=TARGETS, additional_forward_args=FACTOR)).flatten(1)
        for batch in (inputs, inputs + 0.05)
    )
    wanted = (after - before).norm(dim=1) / before.norm(dim=1)
    assert wanted.min() > 0
    torch.testing.assert_close(values, wanted, rtol=1e-9, atol=0)


@with_and_without_noise
def test_sensitivity_max_of_the_method_itself(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = cut_model(), cut_inputs(examples=1)
    with unchanged(model, inputs):
        values = sensitivity_max(
            build(model, model.layer).attribute, inputs, target=1, n_perturb_samples=1, perturb_radius=0.1, **noise
        )
    assert values.shape == (1,)
    assert values.isfinite().all() and (values > 0).all()


# --- targets ---------------------------------------------------------------------------------------------------------


class Shaped(nn.Module):
    """A model whose output has a shape (N, ...)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.ReLU()
        self.above = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, int(torch.tensor(shape).prod()))
        )

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.above(self.layer(self.conv(image)))
        return scores.reshape(-1, *self.shape)


def shaped(*shape: int) -> tuple[Shaped, CutModel, Tensor]:
    """The model, the same model with a flat output, and inputs."""
    model: Shaped = seeded(lambda: Shaped(*shape)).double()
    return model, CutModel(model.conv, model.layer, model.above), 2 * images()


@with_and_without_noise
@pytest.mark.parametrize(
    ("shape", "target", "flat"),
    [
        ((4,), 2, [2, 2, 2]),
        ((4,), -1, [3, 3, 3]),
        ((4,), (1,), [1, 1, 1]),
        ((4,), torch.tensor(3), [3, 3, 3]),
        ((4,), torch.tensor([3]), [3, 3, 3]),
        ((4,), torch.tensor([[3]]), [3, 3, 3]),
        ((4,), torch.tensor([3, 0, 2]), [3, 0, 2]),
        ((4,), [3, 0, 2], [3, 0, 2]),
        ((4,), [(3,), (0,), (2,)], [3, 0, 2]),
        ((1,), None, [0, 0, 0]),
        ((), None, [0, 0, 0]),
        ((2, 3), (1, 0), [3, 3, 3]),
        ((2, 3), [(1, 0), (0, 2), (1, 1)], [3, 2, 4]),
        ((2, 1), 0, [0, 0, 0]),
        ((1, 2), (0, 1), [1, 1, 1]),
        ((2, 2, 2), (1, 0, 1), [5, 5, 5]),
        ((2, 2, 2), [(1, 0, 1), (0, 0, 1), (1, 1, 1)], [5, 1, 7]),
    ],
    ids=str,
)
def test_every_kind_of_target(
    build: Method, noise: dict[str, Any], shape: tuple[int, ...], target: Any, flat: list[int]
) -> None:
    model, cut, inputs = shaped(*shape)
    method = build(model, model.layer)
    with inputs_seen(model) as seen:
        attribution = one(method.attribute(inputs, target=target, relu_attributions=False, **noise))
    wanted = expected(cut, inputs, [args[0] for args in seen[1:]], flat, relu=False)
    assert relative_error(attribution, wanted) < 1e-10


@with_and_without_noise
@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((4,), None),
        ((4,), 4),
        ((4,), -5),
        ((4,), (4,)),
        ((4,), (1, 0)),
        ((4,), [1, 2]),
        ((4,), [1, 2, 3, 0]),
        ((4,), [1.0, 2.0, 3.0]),
        ((4,), torch.tensor([1, 2])),
        ((4,), torch.tensor(1.0)),
        ((4,), torch.tensor([[1], [2], [0]])),
        ((4,), "cat"),
        ((4,), 1.0),
        ((4,), [(1,), (2,), (9,)]),
        ((2, 3), 1),
        ((2, 3), None),
        ((2, 3), [1, 0, 1]),
        ((2, 3), torch.tensor([1, 0, 1])),
        ((2, 3), (1, 3)),
        ((2, 3), (1, 1, 1)),
        ((2, 3), [(1,), (0,), (1,)]),
        ((), 0),
    ],
    ids=str,
)
def test_wrong_targets_raise_what_captum_raises(
    build: Method, noise: dict[str, Any], shape: tuple[int, ...], target: Any
) -> None:
    model, _, inputs = shaped(*shape)
    with pytest.raises((AssertionError, IndexError)) as theirs:
        LayerGradCam(model, model.layer).attribute(inputs, target=target)
    with unchanged(model, inputs), pytest.raises(theirs.type):
        build(model, model.layer).attribute(inputs, target=target, **noise)


@with_and_without_noise
@pytest.mark.parametrize("target", [torch.tensor([1, 2, 4]), [1, -1, 2]], ids=str)
def test_wrong_targets_for_each_example(build: Method, noise: dict[str, Any], target: Any) -> None:
    model, _, inputs = shaped(4)
    with unchanged(model, inputs), pytest.raises((RuntimeError, IndexError)):
        build(model, model.layer).attribute(inputs, target=target, **noise)


def test_the_message_of_a_missing_target() -> None:
    model, _, inputs = shaped(4)
    with pytest.raises(AssertionError, match=r"target=None.*\(3, 4\)"):
        LayerGradCamPlusPlus(model, model.layer).attribute(inputs)


# --- what is left behind ---------------------------------------------------------------------------------------------


@contextmanager
def unchanged(model: nn.Module, *inputs: Tensor) -> Iterator[None]:
    """Asserts that the model, the inputs and torch are afterwards as they were, also after an error."""

    def state() -> list[object]:
        tensors = [*model.parameters(), *model.buffers(), *inputs]
        return [
            hooks_on(model),
            [module.training for module in model.modules()],
            [tensor.requires_grad for tensor in tensors],
            [tensor.is_leaf for tensor in tensors],
            [tensor.grad is None for tensor in tensors if tensor.is_leaf],
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_rng_state().shape,
        ]

    before, values = state(), [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers(), *inputs)]
    try:
        yield
    finally:
        assert state() == before
        for tensor, value in zip((*model.parameters(), *model.buffers(), *inputs), values, strict=True):
            assert torch.equal(tensor.detach(), value)


GRAD_MODES: list[Callable[[], Any]] = [torch.enable_grad, torch.no_grad, torch.inference_mode]
in_every_grad_mode = pytest.mark.parametrize("mode", GRAD_MODES, ids=["enable_grad", "no_grad", "inference_mode"])


@with_and_without_noise
@in_every_grad_mode
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(
    build: Method,
    noise: dict[str, Any],
    mode: Callable[[], Any],
    to_input: bool,
    requires_grad: bool,
    training: bool,
) -> None:
    model, inputs = cut_model().train(training), cut_inputs().requires_grad_(requires_grad)
    next(model.parameters()).requires_grad_(False)
    wanted = seeded_map(build(model, model.layer), inputs, TARGETS, attribute_to_layer_input=to_input, **noise)
    with mode(), unchanged(model, inputs):
        actual = seeded_map(build(model, model.layer), inputs, TARGETS, attribute_to_layer_input=to_input, **noise)
    assert torch.equal(actual, wanted)
    assert not actual.requires_grad


@with_and_without_noise
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("first", [nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True)], ids=str)
def test_the_first_layer_of_a_model(
    build: Method, noise: dict[str, Any], requires_grad: bool, create_graph: bool, to_input: bool, first: nn.Module
) -> None:
    """The hook must not make the caller's tensor require a gradient."""
    model = nn.Sequential(first, seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)))).double()
    cut = CutModel(nn.Identity(), nn.Identity(), model[1])
    inputs = images()  # not negative, so that the ReLU changes nothing
    inputs.requires_grad_(requires_grad)
    method = build(model, first)
    options: dict[str, Any] = {"stdevs": 0.0, **noise} if noise else {}
    with unchanged(model, inputs):
        attribution = seeded_map(
            method, inputs, TARGETS, None, to_input, grad_kwargs={"create_graph": create_graph}, **options
        )
    assert relative_error(attribution.detach(), expected(cut, inputs.detach(), [], TARGETS)) < 1e-10


@with_and_without_noise
def test_parameters_keep_their_gradients(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = cut_model(), cut_inputs().requires_grad_()
    model(inputs).sum().backward()
    before = [tensor.grad.clone() for tensor in (inputs, *model.parameters()) if tensor.grad is not None]
    assert len(before) == 1 + len(list(model.parameters()))
    build(model, model.layer).attribute(inputs, target=1, **noise)
    after = [tensor.grad for tensor in (inputs, *model.parameters()) if tensor.grad is not None]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


class Breaks(nn.Module):
    """Raises an error of its own when its turn has come."""

    def __init__(self, error: Exception, turn: int = 1) -> None:
        super().__init__()
        self.error = error
        self.turn = turn

    def forward(self, values: Tensor) -> Tensor:
        self.turn -= 1
        if self.turn <= 0:
            raise self.error
        return values


@with_and_without_noise
@in_every_grad_mode
@pytest.mark.parametrize("place", ["below", "layer", "above"])
@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), ValueError("broken"), KeyError("broken"), NotImplementedError("broken")], ids=repr
)
def test_errors_of_the_model_come_through(
    build: Method, noise: dict[str, Any], mode: Callable[[], Any], place: str, error: Exception
) -> None:
    for turn in (1, 2) if noise else (1,):
        model, inputs = cut_model(), cut_inputs()
        setattr(model, place, nn.Sequential(getattr(model, place), Breaks(error, turn)))
        with mode(), unchanged(model, inputs), pytest.raises(type(error)) as raised:
            build(model, model.layer).attribute(inputs, target=1, **noise)
        assert raised.value is error


@both_methods
def test_hooks_of_others_stay(build: Method) -> None:
    model, inputs = cut_model(), cut_inputs()
    calls: list[str] = []
    model.layer.register_forward_hook(lambda *_: calls.append("after"))
    model.layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    build(model, model.layer).attribute(inputs, target=1)
    assert hooks_on(model) == 2
    assert calls == ["before", "after"]


# --- inference mode --------------------------------------------------------------------------------------------------


@with_and_without_noise
def test_inputs_made_in_inference_mode(build: Method, noise: dict[str, Any]) -> None:
    model = cut_model()
    wanted = seeded_map(build(model, model.layer), cut_inputs(), TARGETS, **noise)
    with torch.inference_mode():
        inputs = cut_inputs().clone()
        actual = seeded_map(build(model, model.layer), inputs, TARGETS, **noise)
    assert inputs.is_inference()
    assert torch.equal(actual, wanted)
    assert torch.equal(seeded_map(build(model, model.layer), inputs, TARGETS, **noise), wanted)


@with_and_without_noise
def test_targets_made_in_inference_mode(build: Method, noise: dict[str, Any]) -> None:
    """As from the model's own prediction there."""
    model, inputs = cut_model(), cut_inputs()
    wanted = seeded_map(build(model, model.layer), inputs, model(inputs).argmax(dim=1), **noise)
    with torch.inference_mode():
        target = model(inputs).argmax(dim=1)
        assert torch.equal(seeded_map(build(model, model.layer), inputs, target, **noise), wanted)


@with_and_without_noise
def test_forward_args_made_in_inference_mode(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = Weighted(cut_model()), cut_inputs()
    wanted = seeded_map(build(model, model.model.layer), inputs, TARGETS, FACTOR, **noise)
    with torch.inference_mode():
        factor = FACTOR.clone()
        assert torch.equal(seeded_map(build(model, model.model.layer), inputs, TARGETS, factor, **noise), wanted)


@with_and_without_noise
def test_differentiable_maps_in_inference_mode(build: Method, noise: dict[str, Any]) -> None:
    model = cut_model(smooth=True)
    with torch.inference_mode():
        inputs = cut_inputs().clone()
        actual = seeded_map(build(model, model.layer), inputs, TARGETS, grad_kwargs={"create_graph": True}, **noise)
    assert actual.requires_grad  # by the model's parameters


# --- layers ----------------------------------------------------------------------------------------------------------


@with_and_without_noise
@in_every_grad_mode
def test_a_layer_that_never_runs(build: Method, noise: dict[str, Any], mode: Callable[[], Any]) -> None:
    model, inputs = cut_model(), cut_inputs()
    model.add_module("spare", nn.ReLU())
    with mode(), unchanged(model, inputs), pytest.raises(ValueError, match=r"layer.*'spare' \(ReLU\) does not run"):
        build(model, model.get_submodule("spare")).attribute(inputs, target=1, **noise)


@both_methods
def test_a_layer_of_another_model(build: Method) -> None:
    model, inputs = cut_model(), cut_inputs()
    with pytest.raises(ValueError, match=r"\(Linear\) does not run"):
        build(model, nn.Linear(1, 1)).attribute(inputs, target=1)


class Detour(nn.Module):
    """A model whose scores do not depend on one of its layers."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.ReLU()
        self.head = nn.Linear(48, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        aside = self.layer(features)
        if self.how == "unused":
            aside = features
        elif self.how == "detached":
            aside = aside.detach()
        elif self.how == "no_grad":
            with torch.no_grad():
                aside = aside + 1
        elif self.how == "integer":
            aside = aside.long().to(aside.dtype)
        scores: Tensor = self.head(aside.flatten(1))
        return scores


@with_and_without_noise
@pytest.mark.parametrize("how", ["unused", "detached", "no_grad", "integer"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_score_that_does_not_depend_on_the_layer(
    build: Method, noise: dict[str, Any], how: str, frozen: bool
) -> None:
    model: Detour = seeded(lambda: Detour(how)).requires_grad_(not frozen)
    inputs = images(dtype=torch.float32)
    with unchanged(model, inputs), pytest.raises(ValueError, match=r"layer.*does not depend on what 'layer' \(ReLU\)"):
        build(model, model.layer).attribute(inputs, target=1, **noise)


class Shared(nn.Module):
    """A ReLU in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Conv2d(2, 4, 3)
        self.between = nn.Conv2d(4, 3, 2)
        self.relu = nn.ReLU()
        self.above = nn.Sequential(nn.Conv2d(3, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.above(self.relu(self.between(self.relu(self.below(image)))))
        return scores


@with_and_without_noise
def test_a_layer_that_runs_twice(build: Method, noise: dict[str, Any]) -> None:
    model, inputs = seeded(Shared).double(), 2 * images()
    cut = CutModel(nn.Sequential(model.below, nn.ReLU(), model.between), nn.ReLU(), model.above)
    with (
        inputs_seen(model) as seen,
        pytest.warns(UserWarning, match=r"layer: 'relu' \(ReLU\) runs 2 times") as warned,
    ):
        attribution = one(build(model, model.relu).attribute(inputs, target=TARGETS, **noise))
    assert len(warned) == 1
    assert warned[0].filename == __file__  # it points at the caller
    wanted = expected(cut, inputs, [args[0] for args in seen[1:]], TARGETS)
    assert relative_error(attribution, wanted) < 1e-10


@with_and_without_noise
def test_a_layer_whose_last_run_is_not_recorded(build: Method, noise: dict[str, Any]) -> None:
    class Twice(CutModel):
        def forward(self, inputs: Tensor) -> Tensor:
            features = self.below(inputs)
            activation = self.layer(features)
            with torch.no_grad():
                activation = activation + self.layer(2 * features)
            scores: Tensor = self.above(activation)
            return scores

    plain = cut_model()
    model, inputs = Twice(plain.below, plain.layer, plain.above), cut_inputs()
    with pytest.warns(UserWarning, match="runs 2 times"), pytest.raises(ValueError, match="does not depend on"):
        build(model, model.layer).attribute(inputs, target=1, **noise)
    assert hooks_on(model) == 0


@with_and_without_noise
@pytest.mark.parametrize("to_input", [False, True])
def test_a_layer_that_runs_once_warns_of_nothing(
    build: Method, noise: dict[str, Any], to_input: bool, recwarn: pytest.WarningsRecorder
) -> None:
    model, inputs = cut_model(), cut_inputs()
    build(model, model.layer).attribute(inputs, target=1, attribute_to_layer_input=to_input, **noise)
    assert len(recwarn) == 0


class Residual(nn.Module):
    """A block with every habit of writing in place, or without."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.below = nn.Conv2d(2, 3, 3)
        self.before = nn.ReLU(inplace=inplace)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.ReLU(inplace=inplace)
        self.above = nn.Sequential(nn.Conv2d(3, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        features = self.before(self.below(image))
        out = self.conv2(self.relu(self.conv(features)))
        if self.inplace:
            out += features
            out.mul_(1.5).sub_(0.1)
        else:
            out = (out + features) * 1.5 - 0.1
        scores: Tensor = self.above(self.last(out))
        return scores


@with_and_without_noise
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("layer", ["below", "before", "conv", "relu", "conv2", "last", "above.0"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_writing_in_place_changes_nothing(
    build: Method, noise: dict[str, Any], to_input: bool, layer: str, create_graph: bool
) -> None:
    maps = []
    for inplace in (True, False):
        model: Residual = seeded(partial(Residual, inplace)).double()
        inputs = 2 * images()
        with unchanged(model, inputs):
            attribution = seeded_map(
                build(model, model.get_submodule(layer)),
                inputs,
                TARGETS,
                attribute_to_layer_input=to_input,
                relu_attributions=False,
                grad_kwargs={"create_graph": create_graph},
                **noise,
            )
        maps.append(attribution.detach())
    assert relative_error(*maps) < 1e-12


@with_and_without_noise
def test_a_model_that_writes_into_its_input(build: Method, noise: dict[str, Any]) -> None:
    """The caller's image stays, and the noise is added to that, not to what an earlier pass left."""

    class Normalizes(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.sub_(0.4).div_(0.3)

    class NormalizesACopy(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (image - 0.4) / 0.3

    maps = []
    for first in (Normalizes(), NormalizesACopy()):
        model, inputs = cut_model(), cut_inputs()
        model.below = nn.Sequential(first, model.below)
        with unchanged(model, inputs):
            maps.append(seeded_map(build(model, model.layer), inputs, TARGETS, **noise))
    assert relative_error(*maps) < 1e-12


@with_and_without_noise
@pytest.mark.parametrize("frozen", [False, True])
def test_what_the_layer_took_may_be_written_over(build: Method, noise: dict[str, Any], frozen: bool) -> None:
    class Overwrites(CutModel):
        def forward(self, inputs: Tensor) -> Tensor:
            features = self.below(inputs)
            activation = self.layer(features)
            features.zero_()
            scores: Tensor = self.above(activation)
            return scores

    plain, inputs = cut_model().requires_grad_(not frozen), cut_inputs()
    model = Overwrites(plain.below, plain.layer, plain.above)
    maps = [
        seeded_map(build(forward_func, plain.layer), inputs, TARGETS, None, True, **noise)
        for forward_func in (model, plain)
    ]
    assert relative_error(*maps) < 1e-12


@with_and_without_noise
def test_the_layers_input(build: Method, noise: dict[str, Any]) -> None:
    """The input of a layer is the output of what comes before it."""
    model, inputs = cut_model(), cut_inputs()
    method = build(model, model.layer)
    to_input = seeded_map(method, inputs, TARGETS, attribute_to_layer_input=True, **noise)
    with inputs_seen(model) as seen:
        again = seeded_map(method, inputs, TARGETS, None, True, **noise)
    assert torch.equal(again, to_input)
    cut = CutModel(nn.Identity(), model.below, nn.Sequential(model.layer, model.above))
    assert relative_error(to_input, expected(cut, inputs, [args[0] for args in seen[1:]], TARGETS)) < 1e-10
    assert torch.equal(seeded_map(build(model, model.below), inputs, TARGETS, **noise), to_input)


@both_methods
def test_the_input_of_a_layer_called_with_keywords_alone(build: Method) -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Flatten()
            self.head = nn.Linear(72, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            scores: Tensor = self.head(self.layer(input=image))
            return scores

    model: Keywords = seeded(Keywords)
    with pytest.raises(ValueError, match=r"attribute_to_layer_input.*'layer' \(Flatten\).*keyword"):
        build(model, model.layer).attribute(images(dtype=torch.float32), target=1, attribute_to_layer_input=True)
    assert hooks_on(model) == 0


class Pair(nn.Module):
    """A layer of two tensors."""

    def __init__(self, kind: type[tuple[Tensor, ...]] | type[list[Tensor]]) -> None:
        super().__init__()
        self.kind = kind
        self.left = nn.Conv2d(2, 3, 3)
        self.right = nn.Conv2d(2, 4, 5)

    def forward(self, image: Tensor) -> Any:
        return self.kind((self.left(image).relu(), self.right(image).relu()))


class TwoTensors(nn.Module):
    """A model with a layer of two tensors."""

    def __init__(self, kind: type[tuple[Tensor, ...]] | type[list[Tensor]]) -> None:
        super().__init__()
        self.layer = Pair(kind)
        self.left = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES))
        self.right = nn.Sequential(nn.Conv2d(4, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        left, right = self.layer(image)
        scores: Tensor = self.left(left) + self.right(right)
        return scores


@with_and_without_noise
@pytest.mark.parametrize("kind", [tuple, list])
def test_a_layer_of_several_tensors(build: Method, noise: dict[str, Any], kind: Any) -> None:
    model, inputs = seeded(lambda: TwoTensors(kind)).double(), 2 * images()
    with inputs_seen(model) as seen:
        attribution = build(model, model.layer).attribute(inputs, target=TARGETS, relu_attributions=False, **noise)
    assert isinstance(attribution, tuple)
    assert [tuple(part.shape) for part in attribution] == [(3, 1, 4, 4), (3, 1, 2, 2)]
    noisy = [args[0] for args in seen[1:]]
    for part, below, above in zip(
        attribution, (model.layer.left, model.layer.right), (model.left, model.right), strict=True
    ):
        cut = CutModel(below, nn.ReLU(), above)
        assert relative_error(part, expected(cut, inputs, noisy, TARGETS, relu=False)) < 1e-10


@both_methods
@pytest.mark.parametrize("kind", ["dict", "nested", "integers"])
def test_layers_of_other_kinds_are_refused(build: Method, kind: str) -> None:
    class Odd(nn.Module):
        def forward(self, image: Tensor) -> Any:
            return {"dict": {"image": image}, "nested": (image, (image, image)), "integers": image.long()}[kind]

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Odd()
            self.head = nn.Linear(72, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            self.layer(image)
            scores: Tensor = self.head(image.flatten(1))
            return scores

    model, inputs = Around(), images(dtype=torch.float32)
    named = {"dict": "dict", "nested": "tuple", "integers": "int64"}[kind]
    with unchanged(model, inputs), pytest.raises(TypeError, match=rf"layer: 'layer' \(Odd\).*{named}"):
        build(model, model.layer).attribute(inputs, target=1)


@both_methods
def test_a_layer_without_channels_is_refused(build: Method) -> None:
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (3, 72)), seeded(lambda: nn.Linear(72, CLASSES)))
    inputs = images(dtype=torch.float32)
    with unchanged(model, inputs), pytest.raises(ValueError, match=r"layer: '0' \(Flatten\).*\(216,\).*\(N, C"):
        build(model, model[0]).attribute(inputs, target=1)


def test_names_of_layers() -> None:
    inner = nn.ReLU()
    model = nn.Sequential(nn.Sequential(inner), nn.Tanh())
    assert layer_name(model, inner) == "'0.0' (ReLU)"
    assert layer_name(model, model[1]) == "'1' (Tanh)"
    assert layer_name(model, model) == "(Sequential)"
    assert layer_name(model, nn.GELU()) == "(GELU)"
    assert layer_name(lambda image: model(image), model[1]) == "(Tanh)"  # noqa: PLW0108
    assert layer_name(nn.DataParallel(model), model[1]).endswith("1' (Tanh)")


@with_and_without_noise
def test_the_model_itself_as_the_layer(build: Method, noise: dict[str, Any]) -> None:
    """The gradient of the score by the scores is one at the target."""
    model, inputs = cut_model(), cut_inputs()
    attribution = seeded_map(build(model, model), inputs, 1, relu_attributions=False, **noise)
    score = model(inputs)[:, 1:2].detach()
    assert relative_error(attribution, score / (2 + score.relu())) < 1e-10


# --- forward_func ----------------------------------------------------------------------------------------------------


@with_and_without_noise
@pytest.mark.parametrize("kind", ["function", "lambda", "method", "parallel", "partial", "device_ids"])
def test_kinds_of_forward_func(build: Method, noise: dict[str, Any], kind: str) -> None:
    model, inputs = cut_model(), cut_inputs()

    def function(image: Tensor) -> Tensor:
        scores: Tensor = model(image)
        return scores

    functions: dict[str, Callable[..., Tensor]] = {
        "function": function,
        "lambda": lambda *args: model(*args),  # noqa: PLW0108
        "method": model.forward,
        "parallel": nn.DataParallel(model),
        "partial": partial(function),
        "device_ids": model,
    }
    device_ids = [0] if kind == "device_ids" else None
    wanted = seeded_map(build(model, model.layer), inputs, TARGETS, **noise)
    method = build(functions[kind], model.layer, device_ids)
    assert torch.equal(seeded_map(method, inputs, TARGETS, **noise), wanted)
    assert method.device_ids == device_ids
    assert hooks_on(model) == 0


@both_methods
def test_a_forward_func_without_arguments(build: Method) -> None:
    """Captum reads from the signature whether there are any."""
    model, inputs = cut_model(), cut_inputs()
    attribution = seeded_map(build(lambda: model(inputs), model.layer), inputs, TARGETS)
    assert torch.equal(attribution, seeded_map(build(model, model.layer), inputs, TARGETS))


@with_and_without_noise
@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_a_forward_func_that_returns_no_tensor(build: Method, noise: dict[str, Any], kind: Any) -> None:
    model, inputs = cut_model(), cut_inputs()

    def function(image: Tensor) -> Any:
        return kind([("scores", model(image))]) if kind is dict else kind([model(image)])

    with unchanged(model, inputs), pytest.raises(TypeError, match=f"forward_func.*{kind.__name__}"):
        build(function, model.layer).attribute(inputs, target=1, **noise)


# --- differentiable maps ---------------------------------------------------------------------------------------------


@with_and_without_noise
@pytest.mark.parametrize("alpha", ["bounded", "eq5", "eq7"])
@pytest.mark.parametrize("to_input", [False, True])
def test_create_graph(build: Method, noise: dict[str, Any], alpha: str, to_input: bool) -> None:
    """The map's gradient by the input agrees with finite differences."""
    model, inputs = cut_model(rectified=False, smooth=True), cut_inputs(examples=2).requires_grad_()
    method = build(model, model.layer, alpha=alpha)

    def total(batch: Tensor, **kwargs: Any) -> Tensor:
        return seeded_map(
            method,
            batch,
            TARGETS[:2],
            attribute_to_layer_input=to_input,
            relu_attributions=False,
            **kwargs,
            **noise,
        ).sum()

    with unchanged(model, inputs):
        (actual,) = torch.autograd.grad(total(inputs, grad_kwargs={"create_graph": True}), inputs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        step = 1e-6 * direction
        with torch.no_grad():
            wanted = (total(inputs + step) - total(inputs - step)) / 2e-6
        assert (actual * direction).sum().item() == pytest.approx(wanted.item(), rel=1e-5)


@with_and_without_noise
@in_every_grad_mode
def test_create_graph_does_not_change_the_map(build: Method, noise: dict[str, Any], mode: Callable[[], Any]) -> None:
    model, inputs = cut_model(), cut_inputs()
    method = build(model, model.layer)
    wanted = seeded_map(method, inputs, TARGETS, **noise)
    with mode(), unchanged(model, inputs):
        actual = seeded_map(method, inputs, TARGETS, grad_kwargs={"create_graph": True}, **noise)
    assert actual.requires_grad
    assert relative_error(actual.detach(), wanted) < 1e-13


def test_grad_kwargs_reach_torch() -> None:
    """A tensor of the layer that is not used has a gradient of zero, if that is asked for."""

    class Unused(TwoTensors):
        def forward(self, image: Tensor) -> Tensor:
            left, _ = self.layer(image)
            scores: Tensor = self.left(left)
            return scores

    model, inputs = seeded(lambda: Unused(tuple)).double(), images()
    method = LayerGradCamPlusPlus(model, model.layer)
    with pytest.raises(ValueError, match="materialize_grads"):
        method.attribute(inputs, target=1)
    attribution = method.attribute(inputs, target=1, grad_kwargs={"materialize_grads": True})
    assert isinstance(attribution, tuple)
    assert attribution[0].any() and not attribution[1].any()
