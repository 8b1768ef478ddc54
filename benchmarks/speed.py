"""How fast is Smooth Grad-CAM++, and how much memory does it take, beside its floor and its peers?

    python benchmarks/speed.py [--device cuda]

prints the tables that the README shows. Times are interleaved in one process, after a warm-up, in a new order each
round, and given as ratios of medians to the floor: n + 1 forward passes without gradients, at the fastest of several
numbers of images at once. Memory is what a call needs at its peak beyond the model and its input, measured in a process
for each, in which what is freed goes back to the system at once. Weights are random, since they change neither. Needs
the extra `benchmark`; on Linux.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.attr import NoiseTunnel
from torch import Tensor
from torchcam.methods import SmoothGradCAMpp
from torchvision import models

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp.noise import default_batch_size

LAYERS = {"resnet50": "layer4", "vgg16": "features.29"}
TARGET = 281
STDEV = 0.3
ROUNDS = 9

MEMORY_ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
"""Where memory is measured. Otherwise glibc keeps much of what is freed, and a peak seems the lower for it."""

Call = Callable[[], object]


def calls(model_name: str, n_samples: int, device: torch.device) -> dict[str, Call]:
    """Everything that is compared, by its name in the table."""
    torch.manual_seed(0)
    model = models.get_model(model_name, weights=None).eval().to(device)
    name, layer = LAYERS[model_name], model.get_submodule(LAYERS[model_name])
    image = torch.rand(1, 3, 224, 224, device=device)
    smooth = LayerSmoothGradCAMpp(model, layer)
    tunnel = NoiseTunnel(LayerGradCamPlusPlus(model, layer))

    def ours(inputs: Tensor) -> object:
        return smooth.attribute(inputs, TARGET, n_samples=n_samples, stdevs=STDEV)

    def five_targets() -> object:
        return smooth.attribute_targets(image, range(5), n_samples=n_samples, stdevs=STDEV)

    def torchcam() -> object:
        with SmoothGradCAMpp(model, name, num_samples=n_samples, std=STDEV) as extractor:
            return extractor(TARGET, model(image))

    def utility() -> object:
        noisy = image + STDEV * torch.randn(n_samples, *image.shape[1:], device=device)
        return compute_layer_gradients_and_eval(model, layer, noisy, TARGET)

    def floor(at_once: int) -> Call:
        def passes() -> None:
            with torch.no_grad():
                for images in torch.split(image.expand(n_samples + 1, -1, -1, -1), at_once):
                    model(images.clone())

        return passes

    sizes = (2, 4, 5, 8) if device.type == "cpu" else (8, 16, 32, 64)
    return {
        **{f"floor, {size} at once": floor(size) for size in sizes},
        "this package": lambda: ours(image),
        "the same, channels_last": lambda: ours(image.contiguous(memory_format=torch.channels_last)),
        "five targets": five_targets,
        "torchcam": torchcam,
        "NoiseTunnel(LayerGradCamPlusPlus)": lambda: tunnel.attribute(
            image, nt_samples=n_samples, nt_samples_batch_size=default_batch_size(image), stdevs=STDEV, target=TARGET
        ),
        "Captum's utility, whole noisy batch": utility,
    }


def seconds(call: Call, device: torch.device) -> float:
    """The time of one call, with all that it set going on the device."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ratios(model_name: str, n_samples: int, device: torch.device) -> tuple[float, dict[str, float]]:
    """The floor in seconds, and each call's median time in units of it."""
    compared = calls(model_name, n_samples, device)
    for call in compared.values():
        seconds(call, device)
    times: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(ROUNDS):
        for name, call in random.sample(list(compared.items()), len(compared)):
            times[name].append(seconds(call, device))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    floor = min(median for name, median in medians.items() if name.startswith("floor"))
    return floor, {name: median / floor for name, median in medians.items()}


def peak_mebibytes(model_name: str, n_samples: int, name: str, device: torch.device) -> float:
    """The memory of one call at its peak, beyond what is there before; for a process of its own."""
    call = calls(model_name, n_samples, device)[name]
    calls(model_name, 1, device)[name]()  # loads what is loaded once
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - allocated) / 2**20
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
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--n-samples", type=int, nargs="+", default=[5, 25])
    parser.add_argument("--models", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--memory-of", nargs=3, metavar=("MODEL", "N", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # smoothing changes nothing at ResNet-50's layer4, and costs what it costs
    if options.memory_of:
        model_name, n_samples, name = options.memory_of
        print(peak_mebibytes(model_name, int(n_samples), name, options.device))
        return

    def memory(model_name: str, n_samples: int, name: str) -> str:
        command = [sys.executable, __file__, "--device", str(options.device)]
        output = subprocess.check_output(
            [*command, "--memory-of", model_name, str(n_samples), name], text=True, env=MEMORY_ENVIRONMENT
        )
        return f"{float(output):.0f}"

    n_memory = (25, 100)
    print(
        f"torch {torch.__version__} on {options.device}, {torch.get_num_threads()} threads; times in units of the floor"
    )
    for model_name in options.models:
        measured = {n_samples: ratios(model_name, n_samples, options.device) for n_samples in options.n_samples}
        floors = ", ".join(f"{floor:.2f} s at n = {n_samples}" for n_samples, (floor, _) in measured.items())
        times = " | ".join(f"time, n = {n_samples}" for n_samples in measured)
        print(f"\n{model_name}, {LAYERS[model_name]}; floor {floors}\n")
        print(f"| | {times} | {' | '.join(f'MiB, n = {n_samples}' for n_samples in n_memory)} |")
        print(f"| --- {'| ---: ' * (len(measured) + len(n_memory))}|")
        for name in next(iter(measured.values()))[1]:
            cells = [f"{of_n[name]:.2f}" for _, of_n in measured.values()]
            cells += [memory(model_name, n_samples, name) for n_samples in n_memory]
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
