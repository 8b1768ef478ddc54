"""Transformers that torch fuses where nothing is recorded: their layers run all the same."""

import pytest
import torch
from helpers import one, where_smoothing_changes_nothing, without_noise_on_purpose
from models import CLASSES, TARGETS, images, seeded
from oracle import relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp


class Sentences(nn.Module):
    """A classifier of sequences by an encoder whose modules are passed by where nothing is recorded."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, words: Tensor, padding: Tensor | None = None) -> Tensor:
        features = self.encoder(words, src_key_padding_mask=padding)
        if padding is not None:
            features = features.masked_fill(padding.unsqueeze(-1), 0)
        scores: Tensor = self.head(features.mean(dim=1))
        return scores


PADDING = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]).bool()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@where_smoothing_changes_nothing
@without_noise_on_purpose
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize(
    "name", ["encoder.layers.0", "encoder.layers.1", "encoder.layers.0.linear1", "encoder.layers.1.norm2", "encoder"]
)
def test_fused_transformers(name: str, n_samples: int, padded: bool) -> None:
    model: Sentences = seeded(Sentences)
    words = images(3, 5, 8, dtype=torch.float32)
    method = LayerSmoothGradCAMpp(model, model.get_submodule(name))
    maps = []
    for create_graph in (False, True):  # with True nothing is fused
        attribution = method.attribute(
            words,
            target=TARGETS,
            additional_forward_args=PADDING if padded else None,
            grad_kwargs={"create_graph": create_graph},
            n_samples=n_samples,
            generator=torch.Generator().manual_seed(0),
            relu_attributions=False,
        )
        maps.append(one(attribution).detach())
    assert maps[0].shape == (3, 1, 16 if name.endswith("linear1") else 8)
    assert relative_error(*maps) < 1e-5


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["encoder.layers.0", "encoder.layers.0.linear1"])
def test_fused_transformers_that_are_frozen(name: str, padded: bool) -> None:
    """Where no parameter requires a gradient, they are fused whatever the grad mode is."""
    maps = []
    for frozen in (False, True):
        model: Sentences = seeded(Sentences).requires_grad_(not frozen)
        attribution = LayerGradCamPlusPlus(model, model.get_submodule(name)).attribute(
            images(3, 5, 8, dtype=torch.float32),
            target=TARGETS,
            additional_forward_args=PADDING if padded else None,
            relu_attributions=False,
        )
        maps.append(one(attribution))
    assert relative_error(maps[1], maps[0]) < 1e-5
