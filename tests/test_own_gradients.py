"""Models that take gradients themselves, on their way to the scores."""

from typing import Any

import pytest
import torch
from helpers import SETTINGS, attribute, captums_map, hooks_on, one
from models import CLASSES, cut_model, remade
from oracle import CutModel, inputs_seen, relative_error
from torch import Tensor, nn


class TakesGradients(nn.Module):
    """The gradient of a small energy with respect to the input, times that.

    Args:
        how: By which of torch's functions.
        caught: Errors that it catches, with something else as the result.
    """

    def __init__(self, how: str, caught: type[BaseException] | tuple[()] = ()) -> None:
        super().__init__()
        self.how = how
        self.caught = caught

    @staticmethod
    def energies(image: Tensor) -> Tensor:
        return image.sin() * image.exp()

    def energy(self, image: Tensor) -> Tensor:
        return self.energies(image).sum()

    def gradient(self, image: Tensor) -> Tensor:
        ones = torch.ones_like(image)
        gradient: Any
        if self.how == "func.grad":
            gradient = torch.func.grad(self.energy)(image)
        elif self.how == "func.vmap":
            gradient = torch.func.vmap(torch.func.grad(self.energy))(image)
        elif self.how == "func.vjp":
            gradient = torch.func.vjp(self.energies, image)[1](ones)[0]
        elif self.how == "func.jvp":
            gradient = torch.func.jvp(self.energies, (image,), (ones,))[1]
        elif self.how == "backward":
            leaf = image.detach().requires_grad_()
            torch.autograd.backward(self.energy(leaf))
            gradient = leaf.grad
        else:
            point = image if image.requires_grad else image.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.energy(point), point, create_graph=self.how == "create_graph")
        return one(gradient)

    def forward(self, image: Tensor) -> Tensor:
        try:
            return image + self.gradient(image)
        except self.caught:
            return image * 0.5


class Explicit(TakesGradients):
    """The same without autograd."""

    def gradient(self, image: Tensor) -> Tensor:
        return (image.cos() + image.sin()) * image.exp()


def with_part(place: str, part: nn.Module) -> CutModel:
    """A model that begins with the part, or has it just below or above its layer, or within it."""
    model = cut_model(smooth=True, rectified=False)
    if place == "first":
        model.below = nn.Sequential(part, model.below)
    elif place == "below":
        model.below = nn.Sequential(model.below, part)
    elif place == "within":
        model.layer = nn.Sequential(part, model.layer)
    else:
        model.above = nn.Sequential(part, model.above)
    return model


AUTOGRAD = ["autograd", "create_graph", "backward"]


FUNC = ["func.grad", "func.vmap", "func.vjp", "func.jvp"]


@pytest.mark.pairwise
@pytest.mark.parametrize("place", ["first", "below", "within", "above"])
@pytest.mark.parametrize(
    ("how", "caught"),
    [
        *[(how, ()) for how in AUTOGRAD + FUNC],
        *[(how, caught) for how in AUTOGRAD for caught in (RuntimeError, Exception)],
    ],
)
@SETTINGS
def test_a_model_that_takes_gradients_of_its_own(
    place: str, how: str, caught: type[Exception] | tuple[()], n_samples: int, frozen: bool
) -> None:
    """It may need what autograd has saved below the layer; only then it runs a second time, and only once."""
    model = with_part(place, TakesGradients(how, caught)).requires_grad_(not frozen)
    with inputs_seen(model) as seen:
        attribution = attribute(model, "layer", n_samples)
    # Above the layer, a gradient that is taken without create_graph depends on nothing.
    twin = with_part(place, Constant() if place == "above" and how in {"autograd", "backward"} else Explicit(how))
    assert relative_error(attribution, attribute(twin, "layer", n_samples)) < 1e-12
    assert 1 + n_samples <= len(seen) <= 2 + n_samples
    assert hooks_on(model) == 0


class Constant(Explicit):
    """The same, with a gradient that depends on nothing."""

    def __init__(self) -> None:
        super().__init__("")

    def gradient(self, image: Tensor) -> Tensor:
        return super().gradient(image).detach()


class Forces(CutModel):
    """Scores that contain the gradient of an energy with respect to the input, through the layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        positions = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
        energies = self.above(self.layer(self.below(positions)))
        (forces,) = torch.autograd.grad(energies.square().sum(), positions, create_graph=True)
        scores: Tensor = energies + forces.flatten(1)[:, :CLASSES]
        return scores


@SETTINGS
def test_a_model_that_takes_the_gradient_of_its_output(n_samples: int, frozen: bool) -> None:
    model = remade(Forces).requires_grad_(not frozen)
    with inputs_seen(model) as seen:
        attribution = attribute(model, "layer", n_samples)
    assert len(seen) == 2 + n_samples
    assert attribution.isfinite().all()
    if n_samples == 0:
        assert relative_error(attribution, captums_map(model, "layer")) < 1e-10
