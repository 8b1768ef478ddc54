"""Small models for the tests, each with weights from a fixed seed."""

from collections.abc import Callable
from typing import Any

import torch
from oracle import CutModel
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CHANNELS = 3
CLASSES = 5
TARGETS = [1, 4, 2]
"""A target for each of the examples of `images`."""


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> Any:
    """Builds a module with weights from a seed, and leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def images(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs without negative or equal values, of a shape (N, C, *spatial)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape or (3, 2, 6, 6), generator=generator, dtype=torch.float64).to(dtype)


def cut_model(
    dims: int = 2, *, rectified: bool = True, smooth: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0
) -> CutModel:
    """A network with a layer of `CHANNELS` channels, for inputs (N, 2, 6, ...) with `dims` spatial dimensions.

    Args:
        dims: Number of spatial dimensions; with none, the inputs are (N, 8).
        rectified: Whether the layer ends in a ReLU; otherwise its activations carry a sign.
        smooth: Whether the part above the layer is smooth; otherwise it is piecewise linear.
        dtype: Of the weights.
        seed: Of the weights.
    """
    bend = nn.Softplus if smooth else nn.ReLU

    def build() -> nn.Module:
        if dims == 0:
            linear: nn.Module = nn.Linear(6, CHANNELS)
            return CutModel(
                nn.Sequential(nn.Linear(8, 6), nn.Tanh()),
                nn.Sequential(linear, nn.ReLU()) if rectified else linear,
                nn.Sequential(nn.Linear(CHANNELS, 16), bend(), nn.Linear(16, CLASSES)),
            )
        conv = CONV[dims](4, CHANNELS, 2)
        return CutModel(
            nn.Sequential(CONV[dims](2, 4, 3), nn.Tanh()),
            nn.Sequential(conv, nn.ReLU()) if rectified else conv,
            nn.Sequential(CONV[dims](CHANNELS, 6, 2), bend(), nn.Flatten(), nn.Linear(6 * 2**dims, CLASSES)),
        )

    model: CutModel = seeded(build, seed)
    with torch.no_grad():
        list(model.above.parameters())[-2].mul_(30)  # else D3 would hardly count beside D2
    return model.to(dtype)


def cut_inputs(dims: int = 2, examples: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs for `cut_model`, spread enough that their noisy copies cannot be mistaken for one another."""
    return 2 * images(*((examples, 8) if dims == 0 else (examples, 2, *[6] * dims)), dtype=dtype)


def remade(kind: type[CutModel]) -> Any:
    """A model of that kind from the parts of `cut_model`."""
    plain = cut_model(smooth=True)
    return kind(plain.below, plain.layer, plain.above).eval()


class Weighted(nn.Module):
    """A model with a further argument for each example."""

    def __init__(self, model: CutModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, factor: Tensor) -> Tensor:
        scores: Tensor = self.model(image) * factor.reshape(-1, 1)
        return scores


FACTOR = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
"""A factor for each of the examples of `cut_inputs`."""


class Pair(nn.Module):
    """A layer of two tensors."""

    def __init__(self, kind: type[tuple[Tensor, ...]] | type[list[Tensor]]) -> None:
        super().__init__()
        self.kind = kind
        self.left = nn.Conv2d(2, 3, 3)
        self.right = nn.Conv2d(2, 4, 5)

    def forward(self, image: Tensor) -> Any:
        return self.kind((self.left(image).relu(), self.right(image).relu()))


class TwoTensors(nn.Module):
    """A model with a layer of two tensors."""

    def __init__(self, kind: type[tuple[Tensor, ...]] | type[list[Tensor]]) -> None:
        super().__init__()
        self.layer = Pair(kind)
        self.left = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES))
        self.right = nn.Sequential(nn.Conv2d(4, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        left, right = self.layer(image)
        scores: Tensor = self.left(left) + self.right(right)
        return scores
