"""How fast is a dataset attributed to, beside its floor?

    python benchmarks/dataset.py [--images 64]

prints the tables that the README shows. The floor is the method alone: the same batches with the same noise, of images
that have been decoded before, and whose maps are thrown away. What is compared with it is the whole way, from JPEG
files to shards on the disk. Both take turns in one process, in a new order each round, and are given as ratios of
medians. After that, one process with two threads and two processes with one thread take turns. Weights are random,
since they change no time. Needs the extra `benchmark`.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from photographs import photographs
from torchvision import models
from torchvision.datasets import ImageFolder

from captum_sgcampp import CamAttribution, LayerGradCamPlusPlus, LayerSmoothGradCAMpp, attribute_dataset
from captum_sgcampp._passes.noise import images_at_once

MODEL, LAYER = "resnet50", "layer3"
N_SAMPLES = (0, 5)
WORKERS = (0, 1, 2)
ROUNDS = 3


def write_photographs(folder: Path, number: int) -> None:
    """Writes JPEG files of the size that is usual in ImageNet."""
    (folder / "class").mkdir(parents=True)
    known = list(photographs().values())
    for index in range(number):
        photograph = known[index % len(known)]
        left, top = 5 * (index // len(known)), 3 * (index // len(known))
        part = photograph.crop((left, top, photograph.width, photograph.height))
        part.resize((500, 375)).save(folder / "class" / f"{index:06}.jpg", quality=90)


def dataset(folder: Path) -> ImageFolder:
    """The photographs as the network takes them."""
    return ImageFolder(str(folder), models.get_model_weights(MODEL).DEFAULT.transforms())


def method_and_noise(n_samples: int) -> tuple[CamAttribution, dict[str, Any]]:
    """Grad-CAM++, or with noise Smooth Grad-CAM++."""
    torch.manual_seed(0)
    model = models.get_model(MODEL, weights=None).eval()
    if n_samples:
        return LayerSmoothGradCAMpp(model, LAYER), {"n_samples": n_samples, "stdevs": 0.3}
    return LayerGradCamPlusPlus(model, LAYER), {}


def attribute(folder: Path, output: Path, n_samples: int, num_workers: int) -> None:
    """The whole way."""
    method, noise = method_and_noise(n_samples)
    attribute_dataset(method, dataset(folder), output, num_workers=num_workers, target=0, **noise)


def calls(folder: Path, n_samples: int) -> dict[str, Callable[[], object]]:
    """Everything that is compared, by its name in the table."""
    batches = torch.split(torch.stack([image for image, _ in dataset(folder)]), images_at_once(torch.device("cpu")))
    method, noise = method_and_noise(n_samples)

    def floor() -> None:
        for batch in batches:
            method.attribute(batch, target=0, **noise)

    def whole(num_workers: int) -> Callable[[], object]:
        def call() -> None:
            with tempfile.TemporaryDirectory() as output:
                attribute(folder, Path(output), n_samples, num_workers)

        return call

    workers = {f"JPEG files, {number} worker(s)": whole(number) for number in WORKERS}
    return {"floor": floor, **workers}


def seconds(call: Callable[[], object]) -> float:
    """The time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(compared: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median time of each call, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(ROUNDS):
        for name, call in random.sample(list(compared.items()), len(compared)):
            times[name].append(seconds(call))
    return {name: statistics.median(measured) for name, measured in times.items()}


def run_processes(folder: Path, n_samples: int, n_processes: int, n_threads: int) -> float:
    """The time of a run by processes that torchrun starts, from its first file to its last, in seconds."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
        subprocess.run(
            [*command, __file__, "--part", str(folder), output, str(n_samples)],
            env={**os.environ, "OMP_NUM_THREADS": str(n_threads)},
            check=True,
        )
        first, last = (Path(output, name).stat().st_mtime for name in ("run.json", "index.csv"))
    return last - first


def main() -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--part", nargs=3, metavar=("FOLDER", "OUTPUT", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.part:
        folder, output, n_samples = options.part
        attribute(Path(folder), Path(output), int(n_samples), num_workers=0)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder, options.images)
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads; {MODEL}, {LAYER}; {options.images} images"
        )
        measured = {n_samples: medians(calls(folder, n_samples)) for n_samples in N_SAMPLES}
        speeds = ", ".join(
            f"{options.images / times['floor']:.1f} a second at n = {n}" for n, times in measured.items()
        )
        print(f"floor: {speeds}\n\n| images a second, floor = 1 | {' | '.join(f'n = {n}' for n in N_SAMPLES)} |")
        print(f"| --- {'| ---: ' * len(N_SAMPLES)}|")
        for name in measured[N_SAMPLES[0]]:
            ratios = [f"{times['floor'] / times[name]:.2f}" for times in measured.values()]
            print(f"| {name} | {' | '.join(ratios)} |")
        runs = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, (n_processes, n_threads) in runs.items():
                times[name].append(run_processes(folder, N_SAMPLES[-1], n_processes, n_threads))
        print(f"\n| n = {N_SAMPLES[-1]} | images a second |\n| --- | ---: |")
        for name, measured_times in times.items():
            print(f"| {name} | {options.images / statistics.median(measured_times):.1f} |")


if __name__ == "__main__":
    main()
