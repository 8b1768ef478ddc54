"""How fast is Smooth Grad-CAM++, and how much memory does it take, beside its floor and its peers?

    python benchmarks/speed.py [--device cuda]

prints the tables of benchmarks/README.md. Times are interleaved in one process, after a warm-up, in a new order each
round, and given as ratios of medians to the floor: n + 1 forward passes without gradients, at the fastest of several
numbers of images at once. The column "limit" is the machine's own: the rate at which a call does its multiplications
and additions, as a part of the rate of one large matrix product, timed in the same rounds. Memory is what a call needs
at its peak beyond the model and its input, measured in a process for each, in which what is freed goes back to the
system at once. Weights are random, since they change neither. Needs the extra `benchmark`; on Linux.
"""

import argparse
import gc
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.attr import NoiseTunnel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchcam.methods import SmoothGradCAMpp
from torchvision import models

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp._passes.noise import default_batch_size

LAYERS = {
    "resnet50": ["layer3", "layer2", "layer3.3"],
    "vgg16": ["features.29", "features.22", "features.15"],
}
"""The layer of each network, and two more where three are compared."""
TARGET = 281
TARGETS = range(5)
STDEV = 0.3
MATRIX_SIZE = {"cpu": 4096, "cuda": 8192}

MEMORY_ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
"""Where memory is measured. Otherwise glibc keeps much of what is freed, and a peak seems the lower for it."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        model_name: A network of torchvision's.
        n_samples: The number of noise samples of each image.
        n_images: The number of images.
        device: Where it runs.
    """

    model_name: str
    n_samples: int
    n_images: int
    device: torch.device

    def model(self) -> nn.Module:
        """The network, with random weights."""
        torch.manual_seed(0)
        model: nn.Module = models.get_model(self.model_name, weights=None)
        return model.eval().to(self.device)


def calls(case: Case, chunks: Sequence[int] = ()) -> dict[str, Call]:
    """Everything that is compared, by its name in the table; ours also with each of the given chunk sizes."""
    model, n_samples, device = case.model(), case.n_samples, case.device
    names = LAYERS[case.model_name]
    layer = model.get_submodule(names[0])
    images = torch.rand(case.n_images, 3, 224, 224, device=device)
    smooth = LayerSmoothGradCAMpp(model, layer)
    of_three = LayerSmoothGradCAMpp(model, list(names))
    tunnel = NoiseTunnel(LayerGradCamPlusPlus(model, layer))
    noise: dict[str, Any] = {"n_samples": n_samples, "stdevs": STDEV}

    def ours(inputs: Tensor, batch_size: int | None = None) -> object:
        return smooth.attribute(inputs, TARGET, **noise, n_samples_batch_size=batch_size)

    def in_bfloat16() -> object:
        with torch.autocast(device.type, torch.bfloat16):
            return ours(images.contiguous(memory_format=torch.channels_last))

    def torchcam(layer_names: list[str], targets: Iterable[int]) -> object:
        with SmoothGradCAMpp(model, list(layer_names), num_samples=n_samples, std=STDEV) as extractor:
            return [extractor(target, model(images)) for target in targets]

    def utility() -> object:
        copies = images.repeat(n_samples, 1, 1, 1)
        noisy = copies + STDEV * torch.randn_like(copies)
        return compute_layer_gradients_and_eval(model, layer, noisy, TARGET)

    def floor(at_once: int) -> Call:
        def passes() -> None:
            copies = torch.arange(len(images) * (n_samples + 1), device=device) % len(images)
            with torch.no_grad():
                for chunk in torch.split(copies, at_once):
                    model(images[chunk])

        return passes

    on_cpu = device.type == "cpu"
    sizes = (2, 4, 5, 8) if on_cpu else (8, 16, 32, 64, 128)
    compared: dict[str, Call] = {
        **{f"floor, {size} at once": floor(size) for size in sizes},
        "this package": lambda: ours(images),
        **{f"this package, chunks of {size}": partial(ours, images, size) for size in chunks},
        "the same, channels_last": lambda: ours(images.contiguous(memory_format=torch.channels_last)),
        "torchcam": lambda: torchcam(names[:1], [TARGET]),
        "NoiseTunnel(LayerGradCamPlusPlus)": lambda: tunnel.attribute(
            images, nt_samples=n_samples, nt_samples_batch_size=default_batch_size(images), stdevs=STDEV, target=TARGET
        ),
        "Captum's utility, whole noisy batch": utility,
        "five targets": lambda: smooth.attribute_targets(images, TARGETS, **noise),
        "torchcam, five targets": lambda: torchcam(names[:1], TARGETS),
        "three layers": lambda: of_three.attribute(images, TARGET, **noise),
        "torchcam, three layers": lambda: torchcam(names, [TARGET]),
    }
    return compared if on_cpu else {**compared, "bfloat16 autocast, channels_last": in_bfloat16}


def matrix_product(device: torch.device) -> Call:
    """One large product of matrices."""
    size = MATRIX_SIZE[device.type]
    left, right = torch.rand(2, size, size, device=device)
    return lambda: left @ right


def operations(call: Call) -> int:
    """The multiplications and additions of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    gc.collect()  # the counter's reference cycles hold the tensors of the call
    return int(counter.get_total_flops())


def seconds(call: Call, device: torch.device) -> float:
    """The time of one call, with all that it set going on the device."""
    gc.collect()  # what earlier calls left behind is not for this one to clean up
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Measured:
    """The floor in seconds, and of each call its median time in units of it and its part of the machine's limit."""

    floor: float
    ratios: dict[str, float]
    parts: dict[str, float]


def measured(case: Case, chunks: Sequence[int], rounds: int) -> Measured:
    """Times everything that is compared, in turn."""
    compared = calls(case, chunks)
    counts = {name: operations(call) for name, call in compared.items()}
    product = matrix_product(case.device)
    every_call = {**compared, "product": product}
    for call in every_call.values():
        seconds(call, case.device)
    times: dict[str, list[float]] = {name: [] for name in every_call}
    for _ in range(rounds):
        for name, call in random.sample(list(every_call.items()), len(every_call)):
            times[name].append(seconds(call, case.device))
    medians = {name: statistics.median(of_call) for name, of_call in times.items()}
    limit = operations(product) / medians["product"]
    floor = min(median for name, median in medians.items() if name.startswith("floor"))
    return Measured(
        floor,
        {name: medians[name] / floor for name in compared},
        {name: counts[name] / medians[name] / limit for name in compared},
    )


def peak_mebibytes(case: Case, chunks: Sequence[int], name: str) -> float:
    """The memory of one call at its peak, beyond what is there before; for a process of its own."""
    call = calls(case, chunks)[name]
    calls(replace(case, n_samples=1), chunks)[name]()  # loads what is loaded once
    if case.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(case.device)
        allocated = torch.cuda.memory_allocated(case.device)
        call()
        return (torch.cuda.max_memory_allocated(case.device) - allocated) / 2**20
    return peak_mebibytes_of(call)


def peak_mebibytes_of(call: Call) -> float:
    """The memory of this process at its peak during a call, beyond what is there before."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 2**10


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--models", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--n-samples", type=int, nargs="+", default=[5, 25])
    parser.add_argument("--images", type=int, default=1, help="images in one call")
    parser.add_argument("--chunks", type=int, nargs="*", default=[], help="values of n_samples_batch_size to compare")
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[25, 100], help="numbers of samples; none leaves it out"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory-of", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        case = Case(options.models[0], options.n_samples[0], options.images, options.device)
        print(peak_mebibytes(case, options.chunks, options.memory_of))
        return

    def memory(model_name: str, n_samples: int, name: str) -> str:
        if options.device.type == "cuda":  # whose memory is counted exactly, in this process too
            case = Case(model_name, n_samples, options.images, options.device)
            return f"{peak_mebibytes(case, options.chunks, name):.0f}"
        command = [sys.executable, __file__, "--device", options.device, "--models", model_name]
        command += ["--n-samples", n_samples, "--images", options.images, "--chunks", *options.chunks]
        command += ["--memory-of", name]
        output = subprocess.check_output([str(part) for part in command], text=True, env=MEMORY_ENVIRONMENT)
        return f"{float(output):.0f}"

    # Convolutions run in TensorFloat-32 where there is any; so must the matrix product, the machine's limit.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    print(
        f"torch {torch.__version__} on {options.device}, {torch.get_num_threads()} threads, {options.images} images a "
        "call; times in units of the floor"
    )
    for model_name in options.models:
        by_n = {
            n_samples: measured(
                Case(model_name, n_samples, options.images, options.device), options.chunks, options.rounds
            )
            for n_samples in options.n_samples
        }
        floors = ", ".join(f"{of_n.floor:.3g} s at n = {n_samples}" for n_samples, of_n in by_n.items())
        heads = [f"time, n = {n_samples}" for n_samples in by_n]
        heads += [f"limit, n = {options.n_samples[-1]}"]
        heads += [f"MiB, n = {n_samples}" for n_samples in options.memory]
        print(f"\n{model_name}, {LAYERS[model_name][0]}; floor {floors}\n")
        print(f"| | {' | '.join(heads)} |")
        print(f"| --- {'| ---: ' * len(heads)}|")
        for name, part in by_n[options.n_samples[-1]].parts.items():
            cells = [f"{of_n.ratios[name]:.2f}" for of_n in by_n.values()] + [f"{part:.2f}"]
            cells += [memory(model_name, n_samples, name) for n_samples in options.memory]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
