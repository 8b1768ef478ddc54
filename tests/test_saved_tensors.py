"""What autograd keeps below the layer: models that read it, write into it, or forbid to look at it."""

from typing import Any

import pytest
import torch
from helpers import one
from models import CLASSES, TARGETS, cut_inputs, cut_model, images, seeded
from oracle import CutModel
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp


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
