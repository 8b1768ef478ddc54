"""Finding layers by name, and lists of layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers import SMOOTH, method_for, one
from models import TARGETS, cut_inputs, cut_model, images, seeded
from oracle import inputs_seen
from torch import Tensor, nn

from captum_sgcampp import (
    LayerGradCamPlusPlus,
    list_layers,
)
from captum_sgcampp.layers import find_layer


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, partial(torch.compile, backend="eager")])
def test_layer_by_name(wrap: Any) -> None:
    model: Any = cut_model()
    inputs = cut_inputs()
    wanted = one(LayerGradCamPlusPlus(model, model.layer[0]).attribute(inputs, target=TARGETS))
    method = LayerGradCamPlusPlus(wrap(model), "layer.0")
    assert method.layer is model.layer[0]
    torch.testing.assert_close(one(method.attribute(inputs, target=TARGETS)), wanted)


def test_names_within_a_wrapper_and_from_outside_it() -> None:
    model = cut_model()
    wrapped = nn.DataParallel(model)
    assert find_layer(wrapped, "layer.0") is find_layer(wrapped, "module.layer.0") is find_layer(model, "layer.0")


def test_a_wrong_name_says_the_closest() -> None:
    with pytest.raises(ValueError, match=r"layer: there is no 'layers\.0'; the closest: layer\.0"):
        LayerGradCamPlusPlus(cut_model(), "layers.0")


@pytest.mark.parametrize(("forward_func", "layer"), [(lambda x: x, "layer"), (cut_model(), 3), (cut_model(), None)])
def test_what_is_no_layer(forward_func: Any, layer: Any) -> None:
    with pytest.raises(TypeError, match="layer: must be a module, or the name of one"):
        LayerGradCamPlusPlus(forward_func, layer)


@pytest.mark.parametrize("noise", [{}, SMOOTH])
def test_a_list_of_layers_is_a_list_of_attributions_from_the_same_passes(noise: dict[str, Any]) -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    layers = ["above.0", model.below, "layer", "above.0"]  # in no order, and one of them twice

    def attribute(layer: Any) -> Any:
        torch.manual_seed(2)
        return method_for(noise.get("n_samples", 0))(model, layer).attribute(inputs, TARGETS, **noise)

    with inputs_seen(model) as seen:
        attributions = attribute(layers)
    n_passes = len(seen)
    with inputs_seen(model) as seen:
        alone = [attribute(layer) for layer in layers]
    assert n_passes * len(layers) == len(seen)
    assert isinstance(attributions, list)
    assert len(attributions) == len(layers)
    for attribution, wanted in zip(attributions, alone, strict=True):
        torch.testing.assert_close(attribution, wanted)
        assert attribution.abs().max() > 0


def test_a_list_of_one_layer_is_a_list() -> None:
    model, inputs = cut_model(), cut_inputs()
    attributions = LayerGradCamPlusPlus(model, [model.layer]).attribute(inputs, TARGETS)
    assert isinstance(attributions, list)
    (attribution,) = attributions
    assert torch.equal(one(attribution), one(LayerGradCamPlusPlus(model, model.layer).attribute(inputs, TARGETS)))


def test_a_list_of_no_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="layer: the list is empty"):
        LayerGradCamPlusPlus(cut_model(), [])


def test_a_list_with_a_layer_that_does_not_run_is_refused() -> None:
    model = cut_model()
    with pytest.raises(ValueError, match=r"layer: \(Linear\) does not run"):
        LayerGradCamPlusPlus(model, [model.layer, nn.Linear(1, 1)]).attribute(cut_inputs(), TARGETS)


def test_list_layers_tells_what_runs_and_what_it_returns() -> None:
    model = cut_model()
    model.add_module("unused", nn.Linear(1, 1))
    layers = {layer.name: layer for layer in list_layers(model, cut_inputs())}
    assert layers["layer"].shapes == ((3, 3, 3, 3),)
    assert layers["layer"].module is model.layer
    assert list(layers)[-1] == "unused"
    assert layers["unused"].output_summary == "does not run"
    assert str(layers["unused"]) == f"unused: {type(layers['unused'].module).__name__}, does not run"


def test_list_layers_tells_several_tensors_and_leaves_no_hook() -> None:
    model = nn.Sequential(nn.LSTM(4, 3, batch_first=True))
    (layer,) = list_layers(model, torch.zeros(2, 5, 4))
    assert (layer.name, layer.shapes, layer.calls) == ("0", ((2, 5, 3),), 1)
    assert not model[0]._forward_hooks


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
