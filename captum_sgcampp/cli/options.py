"""What the user asked for, with types. This file imports nothing slow."""

from dataclasses import dataclass
from pathlib import Path

from captum_sgcampp.methods import catalogue

DEFAULT_MODEL = "efficientnet_lite0"
"""A network whose weights come with pip."""
DEFAULT_METHOD = catalogue.by_name()[catalogue.DEFAULT].word
"""The method to show where only one is shown."""
EXAMPLE = "camera"
"""The photograph that is explained if none is given; it comes with scikit-image."""
FROM_STDIN = Path("-")
"""The argument that stands for standard input."""


@dataclass(frozen=True)
class NetworkOptions:
    """The network, and where it runs.

    Args:
        name: Its name, with the prefix of its source.
        weights: A file of weights. None takes the pretrained ones.
        classes: A file with the names of the classes. None takes those that come with the network.
        device: The device. None takes the default.
    """

    name: str
    weights: Path | None
    classes: Path | None
    device: str | None

    @property
    def files(self) -> list[Path]:
        """The files to read."""
        return [file for file in (self.weights, self.classes) if file]


@dataclass(frozen=True)
class AttributionOptions:
    """How a map is computed.

    Args:
        methods: The methods, as the command spells them. Empty means the default.
        alpha: The form of alpha.
        n_samples: The number of noise samples.
        stdevs: The standard deviation of the noise.
        seed: The seed of the noise.
        filters: Single channels, each once. None means all.
        subset: The (row, column) of single neurons. None means all.
        region: Whether `subset` is two opposite corners of a box.
    """

    methods: tuple[str, ...]
    alpha: str
    n_samples: int
    stdevs: float
    seed: int
    filters: tuple[int, ...] | None
    subset: tuple[tuple[int, int], ...] | None
    region: bool


@dataclass(frozen=True)
class DatasetOptions:
    """How `--maps` writes the maps of many photographs.

    Args:
        folder: The folder for the maps.
        batch_size: How many photographs go through the network at once. None takes the default.
        workers: How many processes read photographs in the background. None takes the default.
        retry_failed: Whether to retry photographs that failed.
    """

    folder: Path
    batch_size: int | None
    workers: int | None
    retry_failed: bool


@dataclass(frozen=True)
class Options:
    """All options.

    Args:
        images: Files, folders and `-`. Empty means the example.
        network: The network.
        list_layers: Whether to list the network's layers, and nothing else.
        layers: The names of layers. Empty means the default layer.
        targets: The numbers or names of classes. Empty means the most probable.
        top_k: How many of the most probable classes to explain if there are no `targets`.
        attribution: How a map is computed.
        scale: How the maps of a picture are scaled, "each" or "shared". None takes the default.
        output: The file or folder for the pictures; text, because a slash at its end matters. None takes the default.
        page: The file of the page. None writes no page.
        dataset: How the maps are written as numbers. None does not write them.
    """

    images: tuple[Path, ...]
    network: NetworkOptions
    list_layers: bool
    layers: tuple[str, ...]
    targets: tuple[str, ...]
    top_k: int
    attribution: AttributionOptions
    scale: str | None
    output: str | None
    page: Path | None
    dataset: DatasetOptions | None
