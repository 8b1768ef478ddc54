"""A folder of photographs, and the network and methods that the tests of datasets use on them.

    python tests/photograph_folder.py PHOTOGRAPHS OUTPUT [--argument value]

attributes to the folder in a process of its own. The variables `DIE_AT` and `DIE_RANK` let it kill itself in the
middle of a file, before it has been restarted; the others wait until it has begun one, so that work is left for it.
`FILE_LIMIT` is the largest size of a file.
"""

import argparse
import os
import resource
import signal
import time
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import seeded
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_pre_hooks
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from captum_sgcampp import LayerSmoothGradCAMpp, Maps, attribute_dataset

CLASSES = 6
LAYER = "features.10"
NOISE: dict[str, Any] = {"n_samples": 2, "stdevs": 0.3}


def write_photograph(file: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """Writes a colorful photograph of a width and height, as PNG or JPEG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file)


def write_photographs(root: Path, number: int) -> None:
    """Writes photographs of three classes."""
    for index in range(number):
        write_photograph(root / f"class {index % 3}" / f"{index:04}.png", index)


def network() -> nn.Module:
    """A SqueezeNet, whose weights are the same in every process."""
    return deepcopy(_network())


@cache
def _network() -> nn.Module:
    model: nn.Module = seeded(lambda: models.squeezenet1_1(num_classes=CLASSES))
    return model


def watch(model: nn.Module, note: Callable[[Tensor], None], monkeypatch: Any) -> nn.Module:
    """Calls a function with what goes into a network, whose own hook would make it another network for a run."""

    def watched(module: nn.Module, args: tuple[Tensor]) -> None:
        if module is model:
            note(args[0])

    monkeypatch.setitem(_global_forward_pre_hooks, id(model), watched)
    return model


def photographs(root: Path, *, size: int | None = 64) -> ImageFolder:
    """The folder as torchvision reads it, with one size for all photographs or each in its own."""
    steps = [transforms.ToTensor(), transforms.Normalize(3 * [0.5], 3 * [0.25])]
    return ImageFolder(str(root), transforms.Compose([transforms.Resize((size, size)), *steps] if size else steps))


def attribute(root: Path, output: Path, **options: Any) -> Maps:
    """Attributes to a folder with Smooth Grad-CAM++."""
    method = LayerSmoothGradCAMpp(network(), LAYER)
    return attribute_dataset(
        method, photographs(root), output, **{"shard_size": 4, "batch_size": 3, **NOISE, **options}
    )


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder, with hidden ones."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def die_in_the_middle_of_a_file(output: Path) -> None:
    """Kills this process when it has written all of a file but not given it its name."""
    left = int(os.environ.get("DIE_AT", "0"))
    is_first_try = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if not left or not is_first_try:
        return
    if os.environ.get("RANK", "0") != os.environ.get("DIE_RANK", "0"):
        deadline = time.monotonic() + 60
        while not list(output.glob(".captum_sgcampp-*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.01)
        return
    sync = os.fsync

    def sync_and_die(descriptor: int) -> None:
        nonlocal left
        left -= 1
        sync(descriptor)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = sync_and_die  # type: ignore[assignment]


def main() -> None:
    """Attributes to a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--n-samples", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--shard-size", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    die_in_the_middle_of_a_file(options.output)
    if "FILE_LIMIT" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(os.environ["FILE_LIMIT"]),))
    attribute(
        options.root,
        options.output,
        n_samples=options.n_samples,
        num_workers=options.workers,
        shard_size=options.shard_size,
        show_progress=True,
    )


if __name__ == "__main__":
    main()
