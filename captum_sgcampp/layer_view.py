"""How a layer's tensor is seen: as a map, (N, C, *spatial), of the filters that are asked for."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from captum_sgcampp.selection import Selection


class LayerView(NamedTuple):
    """Turns a layer's activations, and in the same way its gradients, into maps in full precision."""

    selection: Selection
    """What is asked for."""
    reshape_transform: Callable[[Tensor], Tensor] | None = None
    """Turns the layer's tensor into (N, C, *spatial), where it is something else."""

    def activations(self, tensor: Tensor, layer: str) -> Tensor:
        """Turns activations into maps.

        Args:
            tensor: The layer's tensor, of any shape that `reshape_transform` takes.
            layer: The layer's name, for messages.

        Returns:
            The selected channels, (N, C, *spatial), in float64 if the tensor is, otherwise in float32.

        Raises:
            IndexError: The layer does not have a selected filter or neuron.
            ValueError: There are no channels, or the coordinates are not those of the spatial dimensions.
        """
        maps = self._maps(tensor)
        if maps.dim() < 2:
            raise ValueError(
                f"layer: {layer} gives {tuple(maps.shape)}, where (N, C, *spatial) is needed; reshape_transform can "
                "turn the one into the other."
            )
        if not maps.numel():
            raise ValueError(f"layer: {layer} gives {tuple(maps.shape)}, which holds nothing to attribute to.")
        self.selection.check(maps.shape, layer)
        return self._full(maps)

    def gradients(self, tensor: Tensor, layer: str) -> Tensor:
        """Turns gradients into maps.

        Raises:
            ValueError: What `reshape_transform` leaves of the layer cannot influence the score, though the rest can.
        """
        maps = self._maps(tensor)
        if self.reshape_transform and tensor.any() and not maps.any():
            raise ValueError(
                f"layer: the score depends on {layer} only through what reshape_transform leaves out, such as a class "
                "token that is alone read after the last block. Choose an earlier layer, such as the first "
                "normalization in that block."
            )
        return self._full(maps)

    def indices(self, tensor: Tensor, layer: str) -> Tensor:
        r"""Finds where in the layer's tensor each element of the maps is.

        Args:
            tensor: The layer's tensor, of which only shape and device count.
            layer: The layer's name, for messages.

        Returns:
            Flat indices into the tensor, in the shape of the selected channels, (N, C, \*spatial).

        Raises:
            ValueError: `reshape_transform` does more than move elements.
        """
        # Random numbers, whose sums and means are not among them.
        generator = torch.Generator("cpu").manual_seed(0)
        codes = torch.rand(tensor.shape, dtype=torch.float64, generator=generator, device="cpu").to(tensor.device)
        ordered, order = codes.flatten().sort()
        maps = self.selection.channels(self._maps(codes))
        places = torch.searchsorted(ordered, maps.contiguous()).clamp_max(len(ordered) - 1)
        if not torch.equal(ordered[places], maps):
            raise ValueError(
                f"reshape_transform: must only move elements of layer {layer} for derivatives='autograd', and it "
                "computes with them."
            )
        return order[places]

    def _maps(self, tensor: Tensor) -> Tensor:
        return self.reshape_transform(tensor) if self.reshape_transform else tensor

    def _full(self, maps: Tensor) -> Tensor:
        """Half precision becomes float32; float32 and float64 stay."""
        return self.selection.channels(maps).to(torch.promote_types(maps.dtype, torch.float32))
