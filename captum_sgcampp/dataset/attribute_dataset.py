"""Attributes to a whole dataset, in shards that any number of processes share and that survive a crash."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captum.attr import LayerAttribution
from torch.utils.data import Dataset

from captum_sgcampp._checks import require_integer
from captum_sgcampp._files import remove_temporary_files
from captum_sgcampp._passes import user_warnings
from captum_sgcampp._passes.noise import images_at_once
from captum_sgcampp.dataset.batch_maps import BatchMaps
from captum_sgcampp.dataset.images import name_images, origin
from captum_sgcampp.dataset.maps import Maps
from captum_sgcampp.dataset.run import Run
from captum_sgcampp.dataset.settings import run_settings
from captum_sgcampp.dataset.shards import Record, RunFolder, require_safetensors
from captum_sgcampp.dataset.targets import LABEL, FixedTarget, Targets


def attribute_dataset(
    method: LayerAttribution,
    dataset: Dataset[Any],
    output: str | os.PathLike[str],
    *,
    target: str | FixedTarget | list[FixedTarget] | None = "predicted",
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    shard_size: int = 64,
    num_workers: int = 0,
    retry_failed: bool = False,
    show_progress: bool = False,
    **arguments: Any,
) -> Maps:
    r"""Computes the maps of all images of a dataset and writes them to a folder.

    The work is divided among any number of processes, on one machine or on several that share the folder: start them
    with ``torchrun``, and each finds its part through the variables ``RANK`` and ``WORLD_SIZE``. They need no process
    group. A run that was interrupted, however that happened, goes on with the same call, and attributes only to the
    images that have no map yet or whose files have changed since.

    An image that cannot be read, or that the model refuses, costs no other image its map; it has its error in the
    index.

    The folder then holds:

    - ``run.json``: the names of all images, and what the maps depend on: the model and its weights, the method and its
      arguments, the seed, what the dataset has, versions. Functions among these are known by their code and by
      what it refers to, which other versions of Python compile to something else.
    - ``maps-*.safetensors``: the maps, a tensor for each, in the resolution of the layer. :func:`open_maps` reads them.
    - ``maps-*.csv``, one beside each, and at the end ``index.csv`` with all of them: for each map the image's `name`,
      the map's `key` in :func:`open_maps`, `layer`, `target`, `target_name`, `probability` (the softmax of the model's
      output, empty for a single score), `maximum`, `mean`, and whether it is `zero` everywhere; the `error` of an image
      that has no map; and `size` and `modified`, which tell whether its file has changed and are empty for an image
      without a file. Read it with ``pandas.read_csv("index.csv", keep_default_na=False)``, or names such as "NA" are
      lost.

    The noise of an image is seeded from `seed` and its name. Its map is therefore the same for any number of processes,
    and the same to rounding for any `batch_size` and number of threads. Where a model lets the images of a batch
    influence one another, which two images of the first batch show, images go through it one at a time.

    Args:
        method: The method: one of this package, or one of Captum's layer methods. Those of Captum's that draw random
            numbers are not seeded.
        dataset: A map-style dataset whose items are images, (C, H, W) or whatever else the model takes for one example,
            or tuples of an image and its label. Where it lists files, as `samples` of torchvision's ImageFolder, or as
            `files`, `paths` or another usual name, images are named by their files, relative to its `root`. Only then
            does a run that goes on notice that a file has changed.
        output: The folder. It is made if there is none.
        target: The class to explain: "predicted", the one with the highest score; "label", the one that the dataset
            gives; a class, or a tuple as Captum takes it for models with more dimensions; None, for a model that
            returns one score; or a list of classes or tuples, with a map of each image for each. Default: "predicted"
        names: The names of the images. Default: None, the names of their files, or their indices
        class_names: The names of the model's classes, for the index. Default: None, `dataset.classes` if the targets
            are labels
        seed: The seed of the noise. Default: 0
        batch_size: The number of images that go through the model at once. Default: None, 5 on the CPU and 32 on other
            devices
        shard_size: The number of images in a file. A process that is killed loses the maps of the shard at which it
            works. Default: 64
        num_workers: The number of further processes that load images while the model works, as in
            :class:`torch.utils.data.DataLoader`. Default: 0
        retry_failed: Try images again that have no map. Default: False
        show_progress: Show a progress bar for the whole run, or a line every half minute where there is no terminal.
            Default: False
        **arguments: The further arguments of the method's `attribute`, such as `n_samples`, `stdevs` and `filters`, the
            same for all images.

    Returns:
        The maps, as :func:`open_maps` returns them. All images are done then, by this process or another.

    Raises:
        ImportError: safetensors is not installed.
        OSError: A file cannot be written, for example because the disk is full. What was written before is whole.
        TypeError: `method` is not a layer method, `dataset` is not map-style or has items that are not tensors, or
            `attribute` does not take an argument.
        ValueError: The folder holds maps of other images, another model, or another method or argument, and the message
            says what differs; or an argument is out of range. The first image is tried before anything is written, so
            whatever the method raises for every image is raised at once.

    Warns:
        UserWarning: Images have no map, or would influence one another's.

    Example::

        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from captum_sgcampp import LayerSmoothGradCAMpp, attribute_dataset
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> dataset = TensorDataset(torch.rand(100, 3, 8, 8), torch.arange(100) % 10)
        >>> method = LayerSmoothGradCAMpp(model, "0")
        >>> maps = attribute_dataset(method, dataset, "maps", target="label", n_samples=5)  # doctest: +SKIP
        >>> maps["17"].shape  # doctest: +SKIP
        torch.Size([1, 6, 6])
    """
    require_safetensors()
    if not isinstance(method, LayerAttribution):
        raise TypeError(f"method: must be a layer method of this package or Captum, but is a {type(method).__name__}.")
    for name, number, minimum in (("shard_size", shard_size, 1), ("num_workers", num_workers, 0)):
        require_integer(name, number, minimum)
    require_integer("seed", seed, -(2**63))
    if seed >= 2**64:
        raise ValueError(f"seed: must be below 2**64, but is {seed}.")
    rank, world_size = _place_among_processes()
    if batch_size is not None:
        require_integer("batch_size", batch_size, 1)
    if "generator" in arguments:
        raise TypeError("generator: is not an argument here, because noise is seeded from seed and an image's name.")
    images = name_images(dataset, names)
    if class_names is None and target == LABEL:
        class_names = getattr(origin(dataset, 0)[0], "classes", None)
    arguments = {name: list(value) if isinstance(value, Iterator) else value for name, value in arguments.items()}
    maps_of = BatchMaps(method, Targets(target, class_names), int(seed), arguments)
    folder = RunFolder(Path(output))
    record = Record(run_settings(maps_of, dataset), int(shard_size), images.names)
    run = Run(images, maps_of, folder, record, batch_size or images_at_once(maps_of.device))
    if not folder.is_started():
        run.try_first_images()
    folder.start(record)
    if retry_failed:
        run.retry_failed()
    run.work(rank, world_size, num_workers, show_progress=show_progress and not rank)
    maps = Maps(folder.path)
    if not rank:
        folder.write_index(record.n_shards)
        remove_temporary_files(folder.path)
        user_warnings.warn(user_warnings.images_without_map(maps.errors, len(images.names)))
    return maps


def _place_among_processes() -> tuple[int, int]:
    """The number of this process and the number of all, as torchrun says."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= rank < world_size:
        raise ValueError(f"RANK: must be from 0 to WORLD_SIZE - 1, {world_size - 1}, but is {rank} in the environment.")
    return rank, world_size
