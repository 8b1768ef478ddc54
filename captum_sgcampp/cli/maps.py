"""The maps of many photographs, for `--maps`: hands photographs and network to :func:`attribute_dataset`."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from captum.attr import LayerAttribution
from PIL import Image
from torch import Tensor
from torch.nn import Module
from torch.utils.data import Dataset

from captum_sgcampp import attribute_dataset
from captum_sgcampp.cli.classifier import ChosenLayers, Classifier, preprocessed
from captum_sgcampp.cli.errors import CommandError, described, in_the_commands_words
from captum_sgcampp.cli.options import DEFAULT_METHOD, AttributionOptions, DatasetOptions
from captum_sgcampp.cli.photographs import Photograph, as_rgb
from captum_sgcampp.cli.processes import forks, is_first_process
from captum_sgcampp.explanation import logits_of
from captum_sgcampp.methods import catalogue


class Photographs(Dataset[Tensor]):
    """Photographs as a network's inputs, (C, H, W).

    Args:
        photographs: The photographs.
        transform: Turns a photograph, 8-bit RGB, into the network's input.
        model_name: The network's name, for messages.
        image_size: The height and the width that the network's input must have. None means any.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        transform: Callable[[Image.Image], Any],
        model_name: str,
        image_size: tuple[int, int] | None,
    ) -> None:
        self.photographs, self.transform, self.model_name = photographs, transform, model_name
        self.image_size = image_size
        self.samples = [photograph.file for photograph in photographs]  # attribute_dataset notices changed files by it

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> Tensor:
        image = preprocessed(self.transform(as_rgb(self.photographs[index].load())), self.model_name)
        if self.image_size not in {None, tuple(image.shape[1:])}:
            raise CommandError(
                f"the input of {self.model_name} is {tuple(image.shape[1:])} for this photograph and {self.image_size} "
                "for others, so the positions of its tokens are unknown"
            )
        return image


class LogitsOf(Module):
    """A network that returns the logits alone.

    Args:
        model: A network that returns an object with them.
    """

    def __init__(self, model: Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Runs the network."""
        logits: Tensor = logits_of(self.model(inputs))
        return logits


def write_maps(
    classifier: Classifier,
    layers: ChosenLayers,
    targets: Sequence[int],
    photographs: Sequence[Photograph],
    attribution: AttributionOptions,
    dataset: DatasetOptions,
) -> int:
    """Writes the maps of photographs, or this process's part of them.

    Args:
        classifier: The network.
        layers: The layers.
        targets: The classes to explain. Empty means the most probable.
        photographs: The photographs.
        attribution: How a map is computed.
        dataset: Where the maps are written, and how.

    Returns:
        In the first process, the number of photographs without a map; in the others 0, because torchrun ends all
        processes when one fails.

    Raises:
        CommandError: The maps cannot be computed or written.
    """
    photographs = list({photograph.file: photograph for photograph in photographs}.values())  # a file given twice
    image_size = None if layers.are_maps or classifier.reshape_transform else classifier.image_size
    names = names_of(photographs)
    try:
        method, noise = _method(classifier, layers, attribution)
        maps = attribute_dataset(
            method,
            Photographs(photographs, classifier.preprocess, classifier.name, image_size),
            dataset.folder,
            target=_target(targets),
            names=names,
            class_names=classifier.classes,
            seed=attribution.seed,
            batch_size=dataset.batch_size,
            num_workers=int(forks()) if dataset.workers is None else dataset.workers,
            retry_failed=dataset.retry_failed,
            show_progress=True,
            filters=attribution.filters,
            subset=attribution.subset,
            region=attribution.region,
            **noise,
        )
    except CommandError:
        raise
    except OSError as error:
        raise CommandError(in_the_commands_words(error.strerror or error)) from error
    except (AssertionError, ImportError, IndexError, RuntimeError, TypeError, ValueError) as error:
        words = in_the_commands_words(error)
        raise CommandError(words if words.startswith("--") else f"cannot write maps: {words}") from error
    except Exception as error:  # a user's network may raise anything
        raise CommandError(f"cannot write maps: {described(error)}") from error
    return len(maps.errors) if is_first_process() else 0


def names_of(photographs: Sequence[Photograph]) -> list[str]:
    """The names of photographs: their paths below the folder, or their whole paths if two of those are the same."""
    places = [photograph.place.as_posix() for photograph in photographs]
    if len(set(places)) == len(places):
        return places
    return [(photograph.file or photograph.place).as_posix() for photograph in photographs]


def _target(targets: Sequence[int]) -> Any:
    if not targets:
        return "predicted"
    return targets[0] if len(targets) == 1 else list(targets)


def _method(
    classifier: Classifier, layers: ChosenLayers, attribution: AttributionOptions
) -> tuple[LayerAttribution, dict[str, Any]]:
    """The method, and its parameters of the noise."""
    method = catalogue.by_word()[(attribution.methods or (DEFAULT_METHOD,))[0]]
    noise = {"n_samples": attribution.n_samples, "stdevs": attribution.stdevs} if method.is_smooth else {}
    model, names = classifier.model, layers.names
    with suppress(Exception):  # of a network that cannot be changed, or has weights of more dimensions
        # The fastest for convolutional networks; their first convolution makes the images follow.
        model.to(memory_format=torch.channels_last)
    if classifier.wraps_logits:
        model, names = LogitsOf(model), [f"model.{name}" for name in names]
    name: Any = names[0] if len(names) == 1 else names
    reshape_transform = classifier.reshape_transform_of(layers)
    return method.make(model, name, alpha=attribution.alpha, reshape_transform=reshape_transform), noise
