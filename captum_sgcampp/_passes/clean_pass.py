"""The pass without noise: what is kept of it, and whether its rows are examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import Module

from captum_sgcampp._captum import TargetType
from captum_sgcampp._passes.noise import BoundNoise, default_batch_size
from captum_sgcampp._passes.sources import PassDerivatives


class CleanTensor(NamedTuple):
    """One layer tensor in the pass without noise."""

    layer: Module
    name: str
    """The layer's name, for messages."""
    rows: Tensor
    """The tensor as it is in the model."""
    activations: Tensor
    r"""The selected channels of the map, (N, C, \*spatial)."""

    @property
    def n_rows(self) -> int:
        """The first dimension of the tensor as it is in the model."""
        return len(self.rows) if self.rows.dim() else 0


@dataclass(frozen=True)
class CleanPass:
    """What is kept of the pass without noise.

    Args:
        output: The model's output, detached.
        targets: The targets that were chosen.
        n_scores: The number of scores for each target.
        tensors: The layers' tensors, one after the other.
        derivatives: For each target, the derivatives at each tensor; empty if they were not taken.
    """

    output: Tensor
    targets: Sequence[TargetType]
    n_scores: int
    tensors: list[CleanTensor]
    derivatives: list[list[PassDerivatives]]

    def copies_at_once(self, noise: BoundNoise, forward_args: tuple[Any, ...]) -> int:
        """The number of noisy copies that may share a pass: one, unless all rows are examples.

        Args:
            noise: The noise samples, with the number that the caller asks for.
            forward_args: What follows the inputs.

        Raises:
            ValueError: The caller asks for more than one, and rows are not examples.
        """
        rows = {
            "inputs": [len(tensor) if tensor.dim() else 0 for tensor in noise.inputs],
            "additional_forward_args": [
                len(arg) if arg.dim() else 0 for arg in forward_args if isinstance(arg, Tensor)
            ],
            **{f"layer {tensor.name}": [tensor.n_rows, len(tensor.activations)] for tensor in self.tensors},
        }
        others = [name for name, numbers in rows.items() if any(number != self.n_scores for number in numbers)]
        if not others:
            return noise.batch_size or default_batch_size(noise.inputs[0])
        if noise.batch_size is not None and min(noise.batch_size, noise.n_samples) > 1:
            raise ValueError(
                f"n_samples_batch_size: must be 1 or None, but is {noise.batch_size}: there are {self.n_scores} "
                f"score(s), but another first dimension in {' and '.join(others)}, so rows are not examples, and noisy "
                "copies that share a pass could not be told apart."
            )
        return 1

    def layers_with_other_rows(self, inputs: tuple[Tensor, ...]) -> dict[Module, str]:
        """The layers whose rows are not those of the inputs, with their names: windows, frames, detected boxes."""
        n_rows = {len(tensor) for tensor in inputs if tensor.dim()}
        return {
            tensor.layer: tensor.name
            for tensor in self.tensors
            if n_rows.isdisjoint({tensor.n_rows, len(tensor.activations)})
        }
