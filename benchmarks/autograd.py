"""What does derivatives="autograd" cost, by the number of positions?

    python benchmarks/autograd.py

prints the table that the README shows: time and memory of Grad-CAM++ with true derivatives, for layers of 32 to 1,024
positions, with 1, 2, 4 and 8 positions at once and with what the package finds by itself. Times are in units of the
fastest of these; each is the least of several, taken in turns. Memory is what a call needs at its peak, in a process
for each. On Linux.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from speed import MEMORY_ENVIRONMENT, peak_mebibytes_of
from torch import nn

from captum_sgcampp import LayerGradCamPlusPlus
from captum_sgcampp._passes import higher_derivatives

GRIDS = {32: (2, 2), 128: (4, 4), 512: (8, 8), 1024: (8, 16)}
"""The grid of the layer, which has 8 channels, by its number of positions."""
ABOVE = {
    "linear": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(8, 32, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ),
}
"""The part of the network above the layer, by its name in the table."""
AT_ONCE = (1, 2, 4, 8)
ROUNDS = 3


def call(above: str, n_positions: int, at_once: tuple[int, ...]) -> Callable[[], object]:
    """An attribution that may take these numbers of positions at once."""
    torch.manual_seed(0)
    layer = nn.Identity()
    model = nn.Sequential(layer, ABOVE[above](), nn.Softmax(dim=1)).eval()
    inputs = torch.rand(1, 8, *GRIDS[n_positions])
    method = LayerGradCamPlusPlus(model, layer, derivatives="autograd")

    def attribute() -> object:
        higher_derivatives.POSITIONS_AT_ONCE = at_once
        return method.attribute(inputs, target=3)

    return attribute


def fastest(calls: dict[tuple[int, ...], Callable[[], object]]) -> dict[tuple[int, ...], float]:
    """The least of several times, in seconds, of each call."""
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for at_once, attribute in random.sample(list(calls.items()), len(calls)):
            start = time.perf_counter()
            attribute()
            seconds[at_once] = min(seconds[at_once], time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measures, and prints the table."""
    if len(sys.argv) > 1:
        name, *numbers = sys.argv[1:]
        positions, *sizes = map(int, numbers)
        call(name, min(GRIDS), tuple(sizes))()  # loads what is loaded once
        print(peak_mebibytes_of(call(name, positions, tuple(sizes))))
        return

    choices: list[tuple[int, ...]] = [*((size,) for size in AT_ONCE), higher_derivatives.POSITIONS_AT_ONCE]
    columns = " | ".join(map(str, AT_ONCE))
    print(f"| above the layer | positions | {columns} | chosen | MiB: {columns} | chosen |")
    print(f"| --- {'| ---: ' * (1 + 2 * len(choices))}|")
    for above in ABOVE:
        for n_positions in GRIDS:
            seconds = fastest({at_once: call(above, n_positions, at_once) for at_once in choices})
            times = [f"{seconds[at_once] / min(seconds.values()):.2f}" for at_once in choices]
            memory = [f"{_memory(above, n_positions, at_once):.1f}" for at_once in choices]
            print(f"| {above} | {n_positions} | {' | '.join(times)} | {' | '.join(memory)} |", flush=True)


def _memory(above: str, n_positions: int, at_once: tuple[int, ...]) -> float:
    command = [sys.executable, __file__, above, str(n_positions), *map(str, at_once)]
    return float(subprocess.check_output(command, text=True, env=MEMORY_ENVIRONMENT))


if __name__ == "__main__":
    main()
