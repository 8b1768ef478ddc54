"""The maps of a batch of images: one method, some targets, and noise that depends on each image alone."""

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from captum.attr import LayerAttribution
from torch import Generator, Tensor
from torch.nn import Module

from captum_sgcampp._captum import TargetType, _format_additional_forward_args, _run_forward
from captum_sgcampp._models.closures import modules_of
from captum_sgcampp._probe.layer_pass import LayerPass
from captum_sgcampp._probe.probe import LayerProbe
from captum_sgcampp.dataset.neighbours import Outcome
from captum_sgcampp.dataset.targets import BatchTarget, ImageTarget, Targets
from captum_sgcampp.layers import dotted_name
from captum_sgcampp.methods.base import CamAttribution
from captum_sgcampp.methods.smooth_base import SmoothCamAttribution


class Map(NamedTuple):
    """The map of one image at one layer for one target."""

    suffix: str
    """What follows the image's name in the name of the map: layer and target, where there are several."""
    layer: str
    of: ImageTarget
    values: Tensor
    r"""(C, \*spatial), on the CPU."""


class MapsOfBatch(NamedTuple):
    """The maps of a batch, and the output that they explain."""

    of_each: list[list[Map]]
    """The maps of each image."""
    output: Tensor
    """What the model returned, without noise."""


@dataclass(frozen=True)
class BatchMaps:
    """Computes the maps of a batch.

    Args:
        method: The method.
        targets: Chooses the targets.
        seed: The seed of the noise, together with the name of each image.
        arguments: The further arguments of `attribute`.
    """

    method: LayerAttribution
    targets: Targets
    seed: int
    arguments: dict[str, Any]

    @property
    def layers(self) -> list[Module]:
        """The layers of the method."""
        return list(self.method.layer) if isinstance(self.method.layer, list) else [self.method.layer]

    @property
    def modules(self) -> list[Module]:
        """The modules of the model, as far as they are seen, and the layers, each by itself."""
        models = [*modules_of(self.method.forward_func), *self.layers]
        return list(dict.fromkeys(part for model in models for part in model.modules()))

    @property
    def layer_names(self) -> list[str]:
        """Their dotted names in the model; a number where a layer is not in it."""
        names = [dotted_name(self.method.forward_func, layer) for layer in self.layers]
        return [str(number) if name is None else name for number, name in enumerate(names)]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        for module in (self.method.forward_func, *self.layers):
            if isinstance(module, Module):
                for tensor in (*module.parameters(), *module.buffers()):
                    return tensor.device
        return torch.device("cpu")

    def __call__(self, names: Sequence[str], images: Tensor, labels: Sequence[int | None]) -> MapsOfBatch:
        """Computes the maps of each image.

        Args:
            names: The names of the images.
            images: (N, ...), on any device.
            labels: Their labels, if the dataset has any.

        Raises:
            ValueError: What the method returns does not have one row per image. Beyond that, whatever the method and
                :meth:`Targets.choose` raise.
        """
        images = images.to(self.device, non_blocking=True)
        is_plain = isinstance(self.method, CamAttribution) and self.method.has_plain_attribute()
        attribute = self._ours if is_plain else self._others
        output, targets, attributions = attribute(names, images, labels)
        maps: list[list[Map]] = [[] for _ in names]
        for target, attribution in zip(targets, attributions, strict=True):
            for layer, suffix, tensor in self._by_layer(attribution):
                if not tensor.dim() or len(tensor) != len(images):
                    raise ValueError(
                        f"method: returned a shape of {tuple(tensor.shape)} at layer {layer} for {len(images)} "
                        "image(s), where a dataset needs one row per image."
                    )
                for of_image, of, values in zip(maps, target.of_each, tensor.detach().cpu(), strict=True):
                    full_suffix = [*suffix, of.target] if len(targets) > 1 else suffix
                    of_image.append(Map("/".join(full_suffix), layer, of, values.contiguous().clone()))
        return MapsOfBatch(maps, output)

    def run(self, images: Tensor) -> Outcome:
        """Runs the model as :meth:`__call__` does without noise."""
        images = images.to(self.device, copy=True)  # some models write into it
        forward_args = _format_additional_forward_args(self.arguments.get("additional_forward_args")) or ()
        weights = {weight.dtype for module in self.modules for weight in module.parameters(recurse=False)}
        if not isinstance(self.method, CamAttribution):
            with torch.no_grad():
                output: Any = _run_forward(self.method.forward_func, images, None, forward_args)
            return Outcome(output, weights)
        probe = LayerProbe(
            self.method.forward_func,
            self.layers,
            device_ids=self.method.device_ids,
            attribute_to_layer_input=self.arguments.get("attribute_to_layer_input", False),
        )

        def look(layer_pass: LayerPass) -> Outcome:
            # Of a layer within autocast, too.
            at_layers = {piece.value.dtype for tensor in layer_pass.tensors for piece in tensor.by_device}
            return Outcome(layer_pass.output.detach(), weights | at_layers)

        return probe.run((images,), forward_args, look)

    def _ours(
        self, names: Sequence[str], images: Tensor, labels: Sequence[int | None]
    ) -> tuple[Tensor, list[BatchTarget], Sequence[Any]]:
        """Our methods choose the targets in the pass without noise, so that no further pass is needed."""
        assert isinstance(self.method, CamAttribution)
        chosen: list[tuple[Tensor, list[BatchTarget]]] = []

        def choose(output: Tensor) -> list[TargetType]:
            targets = self.targets.choose(output, labels)
            chosen[:] = [(output, targets)]
            return [target.for_captum for target in targets]

        attributions = self.method.attribute_targets(images, choose, **self._arguments(names, images))
        return *chosen[0], attributions

    def _others(
        self, names: Sequence[str], images: Tensor, labels: Sequence[int | None]
    ) -> tuple[Tensor, list[BatchTarget], Sequence[Any]]:
        """Captum's methods, and an `attribute` of the user's, need the targets beforehand, from a pass of its own."""
        output, _ = self.run(images)
        targets = self.targets.choose(output, labels)
        if "target" not in inspect.signature(self.method.attribute).parameters:  # as in LayerActivation
            return output, targets, [self.method.attribute(images, **self.arguments)] * len(targets)
        return (
            output,
            targets,
            [
                self.method.attribute(images, target=target.for_captum, **self._arguments(names, images))
                for target in targets
            ],
        )

    def _arguments(self, names: Sequence[str], images: Tensor) -> dict[str, Any]:
        """The further arguments of `attribute`, with noise that depends on each image alone."""
        if not isinstance(self.method, SmoothCamAttribution):
            return self.arguments
        generators = [Generator(images.device).manual_seed(noise_seed(self.seed, name)) for name in names]
        return {**self.arguments, "generator": generators}

    def _by_layer(self, attribution: Any) -> Iterator[tuple[str, list[str], Tensor]]:
        """The tensors that a method returned, each with its layer's name and its suffix."""
        several_layers = isinstance(self.method.layer, list)
        for layer, at_layer in zip(self.layer_names, attribution if several_layers else [attribution], strict=True):
            tensors = at_layer if isinstance(at_layer, tuple) else (at_layer,)
            for number, tensor in enumerate(tensors):
                suffix = [layer] if several_layers else []
                yield layer, suffix + ([str(number)] if len(tensors) > 1 else []), tensor


def noise_seed(seed: int, name: str) -> int:
    """The seed of an image's noise, in 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1
