"""How a layer is seen where its map is to be drawn: as one map, of one example."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_sgcampp._models import layouts
from captum_sgcampp._models.closures import modules_of
from captum_sgcampp._models.patches import MAX_PREFIX_TOKENS, is_grid_of, patch_grids
from captum_sgcampp._passes.layer_view import LayerView
from captum_sgcampp._passes.selection import Selection
from captum_sgcampp.layers import layer_name
from captum_sgcampp.reshape import for_inputs


@dataclass(frozen=True)
class ExampleView(LayerView):
    r"""A view of a layer as the map of one example, (1, C, \*spatial).

    Args:
        inputs_shape: The shape of the input.
        patch_grids: The grids of its patches, if it is an image and the model a transformer.
        modules: The modules of the model, as far as they are seen, if the input is an image.
        layers: The layers by their names in messages, as far as they are known.
    """

    inputs_shape: tuple[int, ...] = ()
    patch_grids: frozenset[tuple[int, int]] = frozenset()
    modules: tuple[Module, ...] = ()
    layers: dict[str, Module] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        inputs: Tensor,
        model: Callable[..., Any],
        selection: Selection,
        reshape_transform: Callable[[Tensor], Tensor] | None,
        layers: Iterable[Module] = (),
        *,
        compute_all_channels: bool,
    ) -> "ExampleView":
        """The view of the layers of a model at one input."""
        shape = tuple(inputs.shape)
        models = modules_of(model) if len(shape) == 4 else []
        return cls(
            selection,
            for_inputs(reshape_transform, (inputs,), model),
            compute_all_channels,
            shape,
            frozenset[tuple[int, int]]().union(*(patch_grids(found, shape) for found in models)),
            tuple(module for found in models for module in found.modules()),
            {layer_name(model, layer): layer for layer in layers},
        )

    def _check(self, tensor: Tensor, maps: Tensor, layer: str) -> None:
        if len(maps) != 1:
            raise ValueError(self._rows_in_words(tuple(tensor.shape), tuple(maps.shape), layer))
        if self.reshape_transform is None:
            self._require_map(tuple(tensor.shape), layer)
        super()._check(tensor, maps, layer)

    def _rows_in_words(self, shape: tuple[int, ...], map_shape: tuple[int, ...], layer: str) -> str:
        made = f", which reshape_transform turns into {map_shape}" if self.reshape_transform else ""
        advice = "" if shape[1:2] != (1,) else " If its second dimension is that of the examples, transpose(0, 1) it."
        return (
            f"layer: {layer} has {map_shape[0]} rows for the one example, in a shape of {shape}{made}; explain shows "
            "one map. Give a reshape_transform that joins the rows into it: frames as a dimension of their own, (1, C, "
            "frames, H, W), or windows put back into the image, (1, C, H, W). Otherwise choose another layer, or take "
            f"attribute of a method, which returns a map for each row.{advice}"
        )

    def _require_map(self, shape: tuple[int, ...], layer: str) -> None:
        """Raises an error if a layer of an image is surely not (1, C, H, W)."""
        if len(self.inputs_shape) != 4:
            return
        height, width = self.inputs_shape[2:]
        if len(shape) == 3 and (self._are_tokens(shape[1]) or self._modules_say_last(shape[2], layer)):
            raise ValueError(
                f"layer: {layer} returns tokens, {shape}. Give reshape_transform=tokens_to_map(), which makes a map of "
                "them; without a class token, or with registers, with n_prefix_tokens."
            )
        if len(shape) != 4:
            return
        if self._are_by_heads(shape, layer):
            raise ValueError(
                f"layer: {layer} returns {shape}, tokens by heads or the attention between them, which is not a map. "
                "Choose a layer that returns (1, tokens, C), with reshape_transform=tokens_to_map()."
            )
        if self._channels_are_last(shape, layer):
            raise ValueError(
                f"layer: {layer} returns {shape} for an image of {height} x {width}, so its channels seem to be last. "
                "Give reshape_transform=channels_last_to_map; or if they are not last, lambda tensor: tensor."
            )
        if not self._can_be_map(shape, layer):
            raise ValueError(
                f"layer: {layer} returns {shape} for an image of {height} x {width}, which seems to be no map: such as "
                "tokens by windows, by heads or by their place within patches. Choose another layer, or give a "
                "reshape_transform that makes a map of it, (1, C, H, W); or if it is one, lambda tensor: tensor."
            )

    def _are_by_heads(self, shape: tuple[int, ...], layer: str) -> bool:
        """Whether it surely has tokens by heads, or the attention between tokens."""
        height, width = self.inputs_shape[2:]
        channels, rows, columns = shape[1:]
        if channels == layouts.number_of_heads(self._parent(layer)):
            return True
        if rows == columns and rows not in _halved(height) and self._are_tokens(rows):
            return True
        if self._has_aspect(rows, columns) or (
            self._has_unequal_strides() and rows in _halved(height) and columns in _halved(width)
        ):
            return False
        return self._are_tokens(channels) or self._are_tokens(rows)

    def _channels_are_last(self, shape: tuple[int, ...], layer: str) -> bool:
        """Whether the first two dimensions after the examples surely are height and width, and the last the channels.

        If by their sizes the last two may be height and width as well, it is up to the layer's own modules.
        """
        height, width = self.inputs_shape[2:]
        _, rows, columns = shape[1:]
        if not is_grid_of(shape[1:3], (height, width)):
            return False
        if self._modules_say_last(columns, layer):
            return True
        if self._has_aspect(rows, columns):
            return False
        told = not self._has_unequal_strides() and columns in layouts.features_that_are_last(self.modules)
        return told or not self._may_be_unequal_strides(rows, columns)

    def _can_be_map(self, shape: tuple[int, ...], layer: str) -> bool:
        """Whether height and width may be divided by the same number, or the model may divide them by different ones.

        A square may come from an adaptive pooling, or from an image that the model resizes.
        """
        height, width = self.inputs_shape[2:]
        rows, columns = shape[2:]
        if rows == columns or self._has_aspect(rows, columns) or self._has_unequal_strides():
            return True
        if self._modules_say_last(columns, layer):
            return False
        if rows in _halved(height) and self._may_be_unequal_strides(rows, columns):
            return True
        # Each stride and each padding rounds anew.
        least = max(height / (rows + 1.5), width / (columns + 1.5))
        most = min(height / max(rows - 1.5, 0.1), width / max(columns - 1.5, 0.1))
        return least < most or not layouts.keep_the_aspect(self.modules)

    def _has_aspect(self, rows: int, columns: int) -> bool:
        """Whether it has the proportions of the image; it may also be enlarged."""
        height, width = self.inputs_shape[2:]
        return is_grid_of((rows, columns), (height, width)) or rows * width == columns * height

    def _modules_say_last(self, n_features: int, layer: str) -> bool:
        """Whether the layer, or what it is a part of if it has nothing of its own to tell, has its channels last."""
        module = self.layers.get(layer)
        if module is not None and not [*module.parameters()]:
            module = self._parent(layer)
        return module is not None and layouts.has_channels_last(module, n_features)

    def _parent(self, layer: str) -> Module | None:
        module = self.layers.get(layer)
        return None if module is None else layouts.parent_of(module, self.modules)

    def _has_unequal_strides(self) -> bool:
        return layouts.have_unequal_strides(self.modules)

    def _are_tokens(self, number: int) -> bool:
        """Whether so many can be the tokens of the model's patches, with those before them."""
        numbers = [rows * columns for rows, columns in self.patch_grids]
        return any(1 < n_patches <= number <= n_patches + MAX_PREFIX_TOKENS for n_patches in numbers)

    def _may_be_unequal_strides(self, rows: int, columns: int) -> bool:
        """Whether a map of this size can come from unequal strides, as in networks for sound or for lines of text."""
        _, channels, height, width = self.inputs_shape
        if channels == 3 and (height == width or rows * width >= columns * height):
            return False  # those for lines of text shrink a wide image's height more than its width
        return columns in _halved(width)


def _halved(length: int) -> set[int]:
    """A length, and what is left of it after strides of 2."""
    halvings = range(length.bit_length() + 1)
    return {length >> number for number in halvings} | {-(-length >> number) for number in halvings}
