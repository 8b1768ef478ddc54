"""Models that compute parts of themselves again in the backward pass."""

from collections.abc import Callable

import pytest
from helpers import SETTINGS, attribute
from models import cut_model
from oracle import CutModel, inputs_seen, relative_error
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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


@pytest.mark.pairwise
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
