"""How far the maps of a real network in half precision are from those in single precision."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from helpers import one
from PIL import Image

pytest.importorskip("efficientnet_lite_pytorch", reason="the network needs the extra demo")

from skimage import data

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM
from captum_sgcampp.cli.networks import load_classifier

NOISE: dict[str, Any] = {"n_samples": 8, "stdevs": 0.3}
METHODS: list[tuple[Any, dict[str, Any]]] = [
    (LayerGradCamPlusPlus, {}),
    (LayerSmoothGradCAMpp, NOISE),
    (LayerSmoothLayerCAM, NOISE),
]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.1), (torch.bfloat16, 0.25)])
@pytest.mark.parametrize("layer", ["_blocks.10", "_blocks.14", "_blocks.15"])
@pytest.mark.filterwarnings("ignore:n_samples. smoothing changes nothing")
def test_maps_in_half_precision(layer: str, dtype: torch.dtype, tolerance: float) -> None:
    """In units of the map's maximum; see docs/reference.md."""
    classifier = load_classifier("efficientnet_lite0", torch.device("cpu"))
    half = deepcopy(classifier.model).to(dtype)
    errors = []
    for photograph in (data.astronaut(), data.coffee(), data.chelsea()):
        inputs = classifier.inputs(Image.fromarray(photograph))
        target = int(classifier.model(inputs).argmax())
        for build, noise in METHODS:
            maps = []
            for model, image in ((classifier.model, inputs), (half, inputs.to(dtype))):
                generator = {"generator": torch.Generator().manual_seed(0)} if noise else {}
                maps.append(one(build(model, layer).attribute(image, target, **noise, **generator)))
            errors.append((maps[0] - maps[1]).abs().max().item() / maps[0].max().item())
    assert max(errors) < tolerance
    assert max(errors) > 1e-3  # so that it is worth a warning in the documentation
