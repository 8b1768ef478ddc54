"""How a layer's tensor is seen: as a map, (N, C, *spatial), of the selected filters and neurons."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sgcampp import formulas
from captum_sgcampp._passes.selection import Selection


@dataclass(frozen=True)
class LayerView:
    """Turns a layer's activations and gradients into maps in full precision, and these into an attribution.

    Filters are selected first, before anything is computed; neurons last, in the finished attribution, because their
    weights come from the whole channel.

    Args:
        selection: The filters and neurons.
        reshape_transform: Turns the layer's tensor into (N, C, *spatial), where it has another shape.
        compute_all_channels: Select the filters last too, so that activations and weights are those of all channels.
    """

    selection: Selection
    reshape_transform: Callable[[Tensor], Tensor] | None = None
    compute_all_channels: bool = False

    def activations(self, tensor: Tensor, layer: str) -> Tensor:
        """Turns activations into maps.

        Args:
            tensor: The layer's tensor, of any shape that `reshape_transform` takes.
            layer: The layer's name, for messages.

        Returns:
            The selected channels, (N, C, *spatial), in float64 if the tensor is, otherwise in float32.

        Raises:
            IndexError: The layer does not have a selected filter or neuron.
            TypeError: `reshape_transform` does not return a tensor.
            ValueError: There are no channels, or the coordinates do not match the spatial dimensions.
        """
        maps = self._maps(tensor)
        if maps.dim() < 2:
            raise ValueError(
                f"layer: {layer} has shape {tuple(maps.shape)}, where (N, C, *spatial) is needed; reshape_transform "
                "can turn the one into the other."
            )
        if not maps.numel():
            raise ValueError(f"layer: {layer} has shape {tuple(maps.shape)}, which holds nothing to attribute to.")
        self._check(tensor, maps, layer)
        return self._selected(maps)

    def gradients(self, tensor: Tensor, layer: str) -> Tensor:
        """Turns gradients into maps.

        Raises:
            ValueError: The score does not depend on the part of the layer that `reshape_transform` keeps, but on the
                rest of it.
        """
        maps = self._maps(tensor)
        if self.reshape_transform and tensor.any() and not maps.any():
            raise ValueError(
                f"layer: the score depends on {layer} only through what reshape_transform leaves out, such as the "
                "class token, which is often all that is read after the last block. Choose an earlier layer, such "
                "as the first normalization in that block."
            )
        return self._selected(maps)

    def indices(self, tensor: Tensor, layer: str) -> Tensor:
        r"""Finds the place of each element of the maps in the layer's tensor.

        Args:
            tensor: The layer's tensor, of which only shape and device matter.
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

    def attribution(
        self, weights: Tensor, activations: Tensor, *, relu_attributions: bool = True, sum_channels: bool | None = None
    ) -> Tensor:
        r"""Combines weights and activations to the map of eq. (2).

        Args:
            weights: The weights of the same channels, (N, C, 1, ...), or of each position, (N, C, \*spatial).
            activations: What :meth:`activations` returned.
            relu_attributions: Rectify the map.
            sum_channels: Sum over the channels. None sums unless filters are selected.

        Returns:
            (N, 1, \*spatial), or (N, C, \*spatial) if channels are not summed; zero except at the selected neurons.
        """
        if sum_channels is None:
            sum_channels = self.selection.filters is None
        if self.compute_all_channels:
            weights, activations = self.selection.channels(weights), self.selection.channels(activations)
        attribution = formulas.weighted_activations(weights, activations, sum_channels)
        return self.selection.neurons(attribution.relu() if relu_attributions else attribution)

    def _check(self, _tensor: Tensor, maps: Tensor, layer: str) -> None:
        """Raises an error if the maps of a layer's tensor are not those to select from."""
        self.selection.check(maps.shape, layer)

    def _maps(self, tensor: Tensor) -> Tensor:
        if not self.reshape_transform:
            return tensor
        maps: object = self.reshape_transform(tensor)
        if not isinstance(maps, Tensor):
            raise TypeError(
                f"reshape_transform: must return a tensor, (N, C, *spatial), but returned {type(maps).__name__} for a "
                f"layer of shape {tuple(tensor.shape)}."
            )
        return maps

    def _selected(self, maps: Tensor) -> Tensor:
        """The channels to compute, in full precision: half becomes float32; float32 and float64 stay."""
        selected = maps if self.compute_all_channels else self.selection.channels(maps)
        return selected.to(torch.promote_types(maps.dtype, torch.float32))
