"""Tensors that have no gradients, or none that a map could be made from, are refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    Method,
    every_method,
    unchanged,
    without_noise_on_purpose,
)
from models import CLASSES, cut_inputs, cut_model, images
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus


@without_noise_on_purpose
@every_method
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


def masked(tensor: Tensor) -> Any:
    from torch.masked import masked_tensor

    return masked_tensor(tensor.detach(), tensor > 0)


def distributed(tensor: Tensor) -> Any:
    """A tensor of one process."""
    dist = pytest.importorskip("torch.distributed")
    tensors = pytest.importorskip("torch.distributed.tensor")
    if not hasattr(tensors, "DTensor"):
        pytest.skip("this release of torch has it elsewhere")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return tensors.DTensor.from_local(tensor, tensors.init_device_mesh("cpu", (1,)))
    finally:
        dist.destroy_process_group()


UNSUITABLE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "coo": (lambda tensor: tensor.to_sparse(), r"torch\.sparse_coo \(to_dense\(\)"),
    "csr": (lambda tensor: tensor[0, 0].to_sparse_csr(), r"torch\.sparse_csr \(to_dense\(\)"),
    "csc": (lambda tensor: tensor[0, 0].to_sparse_csc(), r"torch\.sparse_csc \(to_dense\(\)"),
    "bsr": (lambda tensor: tensor[0, 0].to_sparse_bsr((2, 2)), r"torch\.sparse_bsr \(to_dense\(\)"),
    "bsc": (lambda tensor: tensor[0, 0].to_sparse_bsc((2, 2)), r"torch\.sparse_bsc \(to_dense\(\)"),
    "mkldnn": (lambda tensor: tensor.detach().to_mkldnn(), r"torch\._mkldnn \(to_dense\(\)"),
    "quantized": (
        lambda tensor: torch.quantize_per_tensor(tensor.detach(), 0.1, 0, torch.quint8),
        r"a quantized tensor, torch\.quint8 \(the model before quantization",
    ),
    "float8": (lambda tensor: tensor.to(torch.float8_e4m3fn), r"torch\.float8_e4m3fn \(in float16 or larger"),
    "complex": (torch.fft.fft, r"torch\.complex64 \(abs\(\) and \.real"),
    "bool": (lambda tensor: tensor > 0, r"torch\.bool"),
    "nested": (lambda tensor: torch.nested.nested_tensor(list(tensor.detach())), r"a nested tensor \(to_padded"),
    "masked": (masked, r"a masked tensor \(get_data\(\)"),
    "distributed": (distributed, r"a DTensor \(full_tensor\(\)"),
}


class Aside(nn.Module):
    """Has a layer whose tensor is of another kind, and goes on without it."""

    def __init__(self, convert: Callable[[Tensor], Any], caught: type[Exception] | tuple[()] = ()) -> None:
        super().__init__()
        self.convert = convert
        self.caught = caught
        self.layer = nn.Identity()
        self.head = nn.Linear(72, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        converted = self.convert(image)
        try:
            self.layer(converted)
        except self.caught:
            image = image * 2
        scores: Tensor = self.head(image.flatten(1))
        return scores


@pytest.mark.filterwarnings(
    "ignore:.*MaskedTensors is in prototype stage",
    "ignore:.*Sparse .* tensor support is in beta state",
    "ignore:.*nested tensors is in prototype stage",
    "ignore:.*quantize",
)
@pytest.mark.parametrize("kind", UNSUITABLE)
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("caught", [(), Exception], ids=["uncaught", "caught"])
def test_tensors_without_gradients_are_refused_by_name(kind: str, to_input: bool, caught: Any) -> None:
    """Also where the model catches that, as it would go on in another way than without the attribution."""
    convert, words = UNSUITABLE[kind]
    model, inputs = Aside(convert, caught), images(dtype=torch.float32)
    with unchanged(model, inputs), pytest.raises(TypeError, match=rf"layer: 'layer' \(Identity\) .*{words}"):
        LayerGradCamPlusPlus(model, "layer").attribute(inputs, 1, attribute_to_layer_input=to_input)


def test_a_layer_within_vmap_is_refused() -> None:
    """There, its tensor is that of one example and stands for several."""
    model, inputs = cut_model(), cut_inputs()

    def forward(batch: Tensor) -> Tensor:
        scores: Tensor = torch.func.vmap(lambda image: model(image[None])[0])(batch)
        return scores

    with unchanged(model, inputs), pytest.raises(TypeError, match=r"a tensor within torch\.func\.vmap"):
        LayerGradCamPlusPlus(forward, model.layer).attribute(inputs, 1)


def test_a_refusal_that_the_model_catches_is_raised_at_the_end_in_other_cases_too() -> None:
    class CallsBoth(Aside):
        def forward(self, image: Tensor) -> Tensor:
            try:
                self.layer(input=image)
            except ValueError:
                image = image * 2
            return super().forward(image)

    for model, error, words, to_input in [
        (CallsBoth(lambda image: image), ValueError, "keyword arguments only", True),
        (Aside(lambda image: image.sum(), Exception), ValueError, r"has shape \(\)", False),
        (Aside(lambda _: (), Exception), TypeError, "an empty tuple", False),
        (Aside(lambda image: {"image": image}, Exception), TypeError, "returns dict", False),
    ]:
        with pytest.raises(error, match=words):
            LayerGradCamPlusPlus(model, "layer").attribute(
                images(dtype=torch.float32), 1, attribute_to_layer_input=to_input
            )
