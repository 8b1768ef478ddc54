"""Helpers that several test files share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from models import TARGETS, cut_inputs
from oracle import CutModel, example_map, inputs_seen, noisy_copies, samples_of
from torch import Tensor, nn

from captum_sgcampp import (
    CamAttribution,
    LayerGradCamPlusPlus,
    LayerSmoothGradCAMpp,
    LayerSmoothLayerCAM,
    SmoothCamAttribution,
)

SMOOTH: dict[str, Any] = {"n_samples": 3, "stdevs": 0.1}
"""A little noise."""

Method = Callable[..., CamAttribution]
OF_THE_PAPERS: list[type[CamAttribution]] = [LayerGradCamPlusPlus, LayerSmoothGradCAMpp]
"""Grad-CAM++ and Smooth Grad-CAM++, where a test compares with the oracle or uses alpha."""
METHODS = [*OF_THE_PAPERS, LayerSmoothLayerCAM]
every_method = pytest.mark.parametrize("build", METHODS)
the_papers_methods = pytest.mark.parametrize("build", OF_THE_PAPERS)
smooth_methods = pytest.mark.parametrize(
    "build", [build for build in METHODS if issubclass(build, SmoothCamAttribution)]
)


def _with_and_without_noise(methods: list[type[CamAttribution]]) -> pytest.MarkDecorator:
    """Those that take noise with some."""
    noise: dict[bool, dict[str, Any]] = {False: {}, True: {"n_samples": 3}}
    cases = [
        pytest.param(build, noise[issubclass(build, SmoothCamAttribution)], id=build.__name__) for build in methods
    ]
    return pytest.mark.parametrize(("build", "noise"), cases)


with_and_without_noise = _with_and_without_noise(METHODS)
the_papers_with_and_without_noise = _with_and_without_noise(OF_THE_PAPERS)
ALPHAS = ["bounded", "eq5", "eq7"]
N_SAMPLES = pytest.mark.parametrize("n_samples", [0, 3])
FROZEN = pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
SETTINGS = pytest.mark.parametrize(
    ("n_samples", "frozen"), [(0, False), (3, False), (3, True)], ids=["plain", "noise", "noise, frozen"]
)
without_noise_on_purpose = pytest.mark.filterwarnings("ignore:n_samples. is 0:UserWarning")
where_smoothing_changes_nothing = pytest.mark.filterwarnings("ignore:n_samples. smoothing changes nothing:UserWarning")


def one(attribution: object) -> Tensor:
    """The attribution to a layer of one tensor."""
    assert isinstance(attribution, Tensor)
    return attribution


def hooks_on(model: nn.Module) -> int:
    """The number of hooks on a model and everything in it."""
    return sum(
        len(hooks)
        for module in model.modules()
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


def method_for(n_samples: int) -> type[LayerGradCamPlusPlus]:
    """The class whose map it is: without noise, Smooth Grad-CAM++ says that it is Grad-CAM++."""
    return LayerSmoothGradCAMpp if n_samples else LayerGradCamPlusPlus


def attribute(model: Any, layer: Any, n_samples: int = 0, inputs: Tensor | None = None, **options: Any) -> Tensor:
    """The map before the ReLU, for `TARGETS`, with the same noise each time, and one copy of the inputs in a pass."""
    inputs = cut_inputs() if inputs is None else inputs
    options = {"target": TARGETS[: len(inputs)], "relu_attributions": False, **options}
    method = options.pop("method", {})
    if not n_samples:
        return one(LayerGradCamPlusPlus(model, layer, **method).attribute(inputs, **options))
    noise: dict[str, Any] = {
        "n_samples": n_samples,
        "n_samples_batch_size": 1,
        "generator": torch.Generator().manual_seed(3),
    }
    return one(LayerSmoothGradCAMpp(model, layer, **method).attribute(inputs, **options, **noise))


def captums_map(
    model: nn.Module,
    layer: str,
    inputs: Tensor | None = None,
    noisy: Sequence[Tensor] = (),
    *,
    to_input: bool = False,
    transform: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Tensor:
    """The map before the ReLU, for `TARGETS`, that follows from Captum's gradients.

    Args:
        model: The model.
        layer: The name of the layer.
        inputs: None takes those of `cut_model`.
        noisy: Noisy copies of the inputs, whose gradients are then taken one at a time. Of a pass that ran twice, it
            has the copies twice; they count once.
        to_input: Whether it is a map of the layer's input.
        transform: Makes maps of the layer's tensors.
    """
    inputs = cut_inputs() if inputs is None else inputs
    targets = TARGETS[: len(inputs)]

    def gradients_at(points: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        (gradients,), (activations,) = compute_layer_gradients_and_eval(
            model, model.get_submodule(layer), points, target, attribute_to_layer_input=to_input
        )
        return transform(gradients), transform(activations.detach())

    gradients, activations = gradients_at(inputs, targets)
    samples = [[gradient] for gradient in gradients]
    if noisy:
        once = [
            batch for number, batch in enumerate(noisy) if not any(batch.equal(before) for before in noisy[:number])
        ]
        samples = [
            [gradients_at(copy.unsqueeze(0), target)[0][0] for copy in copies]
            for copies, target in zip(samples_of(inputs, once), targets, strict=True)
        ]
    maps = [example_map("bounded", *found, relu=False) for found in zip(activations, samples, strict=True)]
    return torch.stack(maps)


def smooth_map(
    model: CutModel,
    inputs: Tensor,
    alpha: str = "bounded",
    n_samples: int = 5,
    batch_size: int | None = None,
    *,
    stdev: float = 0.3,
    relu: bool = True,
    sum_channels: bool | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The package's map, and the noisy inputs that the model saw for it."""
    noise: dict[str, Any] = {"n_samples": n_samples, "stdevs": stdev, "n_samples_batch_size": batch_size}
    torch.manual_seed(3)
    with inputs_seen(model) as seen:
        method = method_for(n_samples)(model, model.layer, alpha=alpha)
        attribution = one(
            method.attribute(
                inputs,
                target=TARGETS[: len(inputs)],
                relu_attributions=relu,
                attr_dim_summation=sum_channels,
                **noise if n_samples else {},
            )
        )
    noisy = noisy_copies(seen)
    assert torch.equal(seen[0][0], inputs)
    assert sum(map(len, noisy)) == n_samples * len(inputs)
    return attribution, noisy


def seeded_map(method: CamAttribution, *args: Any, **kwargs: Any) -> Tensor:
    """A map whose noise, if any, has the same seed each time."""
    torch.manual_seed(11)
    return one(method.attribute(*args, **kwargs))


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


def memory(field: str) -> int:
    """What Linux tells of the memory of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])
