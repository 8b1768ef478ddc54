"""Helpers that several test files share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM
from captum_sgcampp.methods.base import CamAttribution

SMOOTH: dict[str, Any] = {"n_samples": 3, "stdevs": 0.1}
"""A little noise."""

Method = Callable[..., CamAttribution]
METHODS: list[Method] = [LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM]
every_method = pytest.mark.parametrize("build", METHODS)
the_papers_methods = pytest.mark.parametrize("build", METHODS[:2])
"""Grad-CAM++ and Smooth Grad-CAM++, where a test compares with the oracle or uses alpha."""
NOISE = [
    pytest.param(LayerGradCamPlusPlus, {}, id="plus_plus"),
    pytest.param(LayerSmoothGradCAMpp, {"n_samples": 3}, id="smooth"),
    pytest.param(LayerSmoothLayerCAM, {"n_samples": 3}, id="layer_cam"),
]
with_and_without_noise = pytest.mark.parametrize(("build", "noise"), NOISE)
without_noise_on_purpose = pytest.mark.filterwarnings("ignore:n_samples. is 0:UserWarning")
where_smoothing_changes_nothing = pytest.mark.filterwarnings("ignore:n_samples. smoothing changes nothing:UserWarning")
the_papers_with_and_without_noise = pytest.mark.parametrize(("build", "noise"), NOISE[:2])


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
