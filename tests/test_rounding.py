"""Rounding is told from the influence of rows on one another."""

import pytest
import torch
from models import images, seeded
from torchvision import models

from captum_sgcampp import LayerSmoothGradCAMpp
from captum_sgcampp._probe.rounding import relative_difference

LAYERS = {
    "densenet121": "features.denseblock3",
    "inception_v3": "Mixed_6e",
    "mobilenet_v2": "features.10",
    "resnet18": "layer3",
    "swin_t": "features.5",
}


@pytest.mark.filterwarnings("ignore:layer. the gradients of .* are zero")  # random weights, in float16
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        "resnet18",
        *(pytest.param(name, marks=pytest.mark.slow) for name in LAYERS if name not in {"mobilenet_v2", "resnet18"}),
    ],
)
def test_rounding_is_not_taken_for_influence(name: str, dtype: torch.dtype) -> None:
    """Without a warning: other warnings are errors in the tests."""
    options = {"init_weights": False, "aux_logits": False} if name == "inception_v3" else {}
    model = seeded(lambda: getattr(models, name)(weights=None, **options)).to(dtype)
    inputs, seen = images(1, 3, 96, 96).to(dtype), []
    handle = model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    method = LayerSmoothGradCAMpp(model, LAYERS[name])
    method.attribute(inputs, 1, n_samples=3, stdevs=0.3)
    handle.remove()
    assert seen == [1, 4]


def test_what_a_difference_is_relative_to() -> None:
    reference = torch.tensor([[1.0, -100.0, 0.0]])
    samples = torch.tensor([[[1.0, -100.0, 0.5]], [[1.5, -100.0, 0.25]]])
    assert relative_difference([reference], [reference]) == 0
    assert relative_difference([reference + torch.tensor([0.5, 0, 0])], [reference]) == pytest.approx(0.005)
    assert relative_difference([reference + torch.tensor([0, 0, 0.1])], [reference], samples) == pytest.approx(0.1)
    near_zero, varying = torch.tensor([[1e-9]]), torch.tensor([[[1e-9]], [[0.5]]])
    assert relative_difference([near_zero + 0.1], [near_zero], varying) == pytest.approx(0.2)
    activations = torch.tensor([[10.0, 0.0]])
    assert relative_difference([reference, activations + 1], [reference, activations]) == pytest.approx(0.1)
    assert relative_difference([reference, activations[:, :1]], [reference, activations]) == torch.inf
    assert relative_difference([reference.log()], [reference]) == torch.inf
    infinite = torch.tensor([[torch.inf, 1.0]])
    assert relative_difference([infinite], [infinite], infinite[None]) == 0
