"""A network that classifies photographs, with all that the command needs to know about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import Module

from captum_sgcampp.cli.default_layer import default_layer
from captum_sgcampp.cli.errors import CommandError, described, unknown
from captum_sgcampp.cli.map_of_layer import as_map, patch_size_of, unchanged
from captum_sgcampp.explanation import logits_of
from captum_sgcampp.layers import LayerInfo, last_maps, list_layers
from captum_sgcampp.reshape import for_inputs

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


class ChosenLayers(NamedTuple):
    """The layers to attribute to."""

    names: list[str]
    are_maps: bool
    """Whether all of them return maps, so that none needs a `reshape_transform`."""


class _Trial(NamedTuple):
    """What one run of a network shows."""

    inputs: Tensor
    """The input, (1, C, H, W), on the device "meta"."""
    output: Any
    layers: list[LayerInfo]
    patch_size: tuple[int, int] | None


@dataclass(frozen=True)
class Classifier:
    """A network that classifies photographs.

    Args:
        name: Its name.
        model: The network, from (N, C, H, W) images to (N, classes) logits, or an object with `logits`.
        preprocess: Turns a photograph, 8-bit RGB, into the network's input, (C, H, W) or (1, C, H, W).
        device: Where the network runs.
        frame: Crops a photograph as the network sees it, for the picture: (H, W, 3) in [0, 1], in any resolution.
            None shows the network's input.
        classes: The names of the classes. None means numbers.
        n_prefix_tokens: In a transformer, the number of tokens before those of the patches. None derives it.
        reshape_transform: Turns the network's layers into maps. None finds one for each layer.
    """

    name: str
    model: Module
    preprocess: Callable[[Image.Image], Any]
    device: torch.device
    frame: Callable[[Image.Image], Any] | None = None
    classes: Sequence[str] | None = None
    n_prefix_tokens: int | None = None
    reshape_transform: Callable[[Tensor], Tensor] | None = None

    def inputs(self, photograph: Image.Image) -> Tensor:
        """Turns a photograph into the network's input, (1, C, H, W)."""
        return preprocessed(self.preprocess(photograph), self.name)[None].to(self.device)

    def class_index(self, wanted: str) -> int:
        """Finds a class by its index or its name."""
        if wanted.isdecimal():
            if int(wanted) >= self.n_classes:
                raise CommandError(f"unknown class {wanted}; {self.name} has the classes 0 to {self.n_classes - 1}")
            return int(wanted)
        classes = self.classes or ()
        found = [index for index, known in enumerate(classes) if known.lower() == wanted.lower()]
        if not found:
            raise unknown("class", wanted, dict.fromkeys(classes))
        if len(found) > 1:
            raise CommandError(f"class '{wanted}' is the name of {' and '.join(map(str, found))}; give the number")
        return found[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """The height and the width of the network's input, for a photograph of 640 x 480."""
        height, width = self._trial.inputs.shape[-2:]
        return height, width

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return self._scores.shape[1]

    @property
    def wraps_logits(self) -> bool:
        """Whether the network returns an object with the logits rather than the logits themselves."""
        return self._scores is not self._trial.output

    @property
    def layers(self) -> list[LayerInfo]:
        """The network's layers, in the order in which they finish."""
        return self._trial.layers

    def default_layer(self) -> str | None:
        """The name of the default layer; None if no rule finds one, as with a `reshape_transform`."""
        return None if self.reshape_transform else default_layer(self.layers, self._reshape)

    def default_layers(self, *, of_each_resolution: bool = False) -> list[str]:
        """The names of the layers to explain if none are given.

        Args:
            of_each_resolution: Whether the last map of each resolution precedes the default layer.
        """
        self.require_layers()
        default = self.default_layer()
        if default is None:
            raise CommandError(f"{self.name} has no layer that is known to be a map; choose one (see --list-layers)")
        others = last_maps(self.layers) if of_each_resolution else []
        return [*(layer.name for layer in others if layer.name != default), default]

    def require_scores(self) -> None:
        """Raises a CommandError unless the network returns a row of scores that have gradients, one per class name."""
        _ = self._scores
        if any(type(module).__module__.startswith(_QUANTIZED) for module in self.model.modules()):
            raise CommandError(f"{self.name} is quantized and has no gradients; give the model that it was made from")

    def require_layers(self) -> None:
        """Raises a CommandError if no layer runs as a module when the network runs."""
        if not any(layer.calls for layer in self.layers):
            raise CommandError(
                f"{self.name} has no layer that is known to be a map: none is seen when it runs, as in a scripted or "
                "an exported model; give the model that it was made from, or torch.export.unflatten(program)"
            )

    def choose(self, names: Sequence[str]) -> ChosenLayers:
        """Finds layers by their dotted names.

        Raises:
            CommandError: There is no such layer, or one is not a map.
        """
        layers = {layer.name: layer for layer in self.layers}
        for name in names:
            if name not in layers:
                raise unknown("layer", name, layers)
            self._require_map(layers[name])
        return ChosenLayers(list(dict.fromkeys(names)), all(self._reshape(layers[name]) is unchanged for name in names))

    def reshape_transform_of(
        self, layers: ChosenLayers, image_size: tuple[int, int] | None = None
    ) -> Callable[[Tensor], Tensor] | None:
        """The `reshape_transform` of layers, as the attribution methods take it.

        Args:
            layers: The layers.
            image_size: The height and the width of the network's input. None takes those of the trial run.
        """
        if self.reshape_transform or layers.are_maps:
            return self.reshape_transform
        return partial(
            _to_map,
            image_size=image_size or self.image_size,
            patch_size=self._trial.patch_size,
            n_prefix_tokens=self.n_prefix_tokens,
        )

    def _require_map(self, layer: LayerInfo) -> None:
        if not layer.calls:
            raise CommandError(f"layer {layer.name} does not run; choose another (see --list-layers)")
        if len(layer.shapes) != 1:
            raise CommandError(f"layer {layer.name} returns {layer.output_summary}; choose a layer within it")
        to_map = self._reshape(layer)
        if to_map is None:
            raise CommandError(f"layer {layer.name} returns {layer.shapes[0]}, which is not a map (see --list-layers)")
        try:
            shape = tuple(to_map(torch.empty(layer.shapes[0], device="meta")).shape)
        except Exception as error:  # a user's function may raise anything
            raise CommandError(f"layer {layer.name} cannot be seen as a map: {described(error)}") from error
        if len(shape) != 4 or shape[0] != 1:
            raise CommandError(f"the reshape_transform of layer {layer.name} returns {shape}, which is not a map")
        if shape[2:] == (1, 1):
            raise CommandError(
                f"layer {layer.name} has maps of 1 x 1, without positions to show; choose a layer before the pooling "
                "(see --list-layers)"
            )

    def _reshape(self, layer: LayerInfo) -> Callable[[Tensor], Tensor] | None:
        """The function that makes a layer a map; None if there is none."""
        if self.reshape_transform:
            return for_inputs(self.reshape_transform, [self._trial.inputs], self.model)
        return as_map(layer.shapes[0], self.image_size, self._trial.patch_size, self.n_prefix_tokens)

    @cached_property
    def _trial(self) -> _Trial:
        """A run of the network on a gray photograph."""
        try:
            inputs = self.inputs(Image.new("RGB", (640, 480), "gray"))
            layers = list_layers(self.model, inputs)
            with torch.no_grad():
                output = self.model(inputs)
            return _Trial(inputs.to("meta"), output, layers, patch_size_of(self.model))
        except CommandError:
            raise
        except (Exception, SystemExit) as error:
            raise CommandError(f"{self.name} does not run: {described(error)}") from error

    @cached_property
    def _scores(self) -> Tensor:
        """The scores of the trial run."""
        output = self._trial.output
        try:
            scores = logits_of(output)
        except Exception as error:  # a user's object may raise anything
            raise CommandError(f"{self.name} must return scores, but: {described(error)}") from error
        if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != 1 or not scores.numel():
            kind = str(tuple(scores.shape)) if isinstance(scores, Tensor) else type(scores).__name__
            raise CommandError(f"{self.name} must return a row of scores, (1, classes), but returned {kind}")
        if not scores.is_floating_point():
            raise CommandError(f"{self.name} must return floating-point scores, but returned {scores.dtype}")
        if self.classes is not None and len(self.classes) != scores.shape[1]:
            raise CommandError(f"{self.name} has {scores.shape[1]} classes, but there are {len(self.classes)} names")
        return scores


def _to_map(
    values: Tensor, image_size: tuple[int, int], patch_size: tuple[int, int] | None, n_prefix_tokens: int | None
) -> Tensor:
    """A `reshape_transform` for several layers. The first dimension of `values` also counts noisy copies."""
    to_map = as_map((1, *values.shape[1:]), image_size, patch_size, n_prefix_tokens)
    if to_map is None:
        raise ValueError(f"layer: returns {tuple(values.shape)}, which is not a map of an input {image_size}.")
    return to_map(values)


def preprocessed(image: Any, name: str) -> Tensor:
    """Checks what the preprocessing of a network returned.

    Args:
        image: A tensor, (C, H, W) or (1, C, H, W).
        name: The network's name.

    Returns:
        The tensor, (C, H, W).

    Raises:
        CommandError: It is something else.
    """
    if not isinstance(image, Tensor) or image.dim() not in {3, 4} or (image.dim() == 4 and len(image) != 1):
        kind = f"a tensor {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise CommandError(f"the preprocessing of {name} must return a tensor (C, H, W), but returned {kind}")
    return image.reshape(image.shape[-3:])
