"""The selected filters and neurons of a layer (sections 3.5 and 3.6 of the paper)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from captum_sgcampp._checks import index_of, indices_of


class Selection:
    """The filters and neurons to show. :meth:`check` compares them with a layer once its shape is known.

    Args:
        filters: Indices of channels. None means all.
        subset: Coordinates in the layer's spatial grid, one number for each spatial dimension. None means all.
        region: Whether `subset` is two opposite corners of a box, both inclusive, rather than single neurons.

    Raises:
        TypeError: `filters` or `subset` does not consist of integers.
        ValueError: `filters` or `subset` is empty, or `region` is given without two corners.
    """

    def __init__(
        self,
        filters: Iterable[int] | None = None,
        subset: Iterable[Iterable[int]] | None = None,
        region: bool = False,
    ) -> None:
        self.filters = None if filters is None else indices_of("filters", filters, "channel")
        self.subset = None if subset is None else _coordinates(subset)
        self.region = region
        if self.filters == ():
            raise ValueError("filters: is empty; give at least one channel index, or None for all channels.")
        if self.subset == ():
            raise ValueError("subset: is empty; give at least one coordinate, or None for all neurons.")
        if region and (self.subset is None or len(self.subset) != 2):
            raise ValueError(
                f"region: needs two opposite corners of a box in subset, but subset is {subset!r}. "
                "For single neurons, use region=False."
            )

    def check(self, shape: torch.Size, layer: str) -> None:
        r"""Raises if a map of this shape lacks a filter or neuron.

        Args:
            shape: The shape of the map, (N, C, \*spatial).
            layer: The layer's name, for messages.

        Raises:
            IndexError: A filter or a coordinate is out of range.
            ValueError: The length of a coordinate is not the number of spatial dimensions.
        """
        n_channels, grid = shape[1], tuple(shape[2:])
        for index in self.filters or ():
            if not 0 <= index < n_channels:
                raise IndexError(
                    f"filters: {index} is out of range; layer {layer} has {n_channels} channels, 0 to {n_channels - 1}."
                )
        for coordinate in self.subset or ():
            if len(coordinate) != len(grid):
                raise ValueError(
                    f"subset: {coordinate} has {len(coordinate)} number(s), but layer {layer} has {len(grid)} spatial "
                    f"dimension(s); its grid is {grid}."
                )
            if not all(0 <= place < size for place, size in zip(coordinate, grid, strict=True)):
                raise IndexError(f"subset: {coordinate} is out of range; the grid of layer {layer} is {grid}.")

    def channels(self, maps: Tensor) -> Tensor:
        """Selects the filters, in their order: (N, C, *spatial) becomes (N, len(filters), *spatial)."""
        return maps if self.filters is None else maps[:, list(self.filters)]

    def neurons(self, attribution: Tensor) -> Tensor:
        """Sets all but the selected neurons of a map to zero."""
        if self.subset is None:
            return attribution
        mask = torch.zeros(attribution.shape[2:], dtype=torch.bool, device=attribution.device)
        if self.region:
            mask[tuple(slice(min(corners), max(corners) + 1) for corners in zip(*self.subset, strict=True))] = True
        else:
            mask[tuple(zip(*self.subset, strict=True))] = True
        return torch.where(mask, attribution, 0)


def _coordinates(values: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple(tuple(map(index_of, coordinate)) for coordinate in values)
    except TypeError as error:
        raise TypeError(
            f"subset: must be a list of coordinates, each a list of integers, but is {values!r}: {error}."
        ) from error
