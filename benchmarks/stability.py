"""Do smooth maps converge? Two seeds, and the error against a long run, at several layers.

    python benchmarks/stability.py

prints the table that the README shows. The network is EfficientNet-Lite0, pretrained on ImageNet; the photographs are
those of `photographs.py`; each is explained for the class that the network says it is. Needs the extra `benchmark`.
"""

import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from photographs import efficientnet_lite0, photographs
from torch import Tensor
from torch.nn import Module
from torchcam.methods import SmoothGradCAMpp
from tqdm.auto import tqdm

from captum_sgcampp import LayerSmoothGradCAMpp, __version__

LAYERS = ["_blocks.4", "_blocks.7", "_blocks.10", "_blocks.14", "_blocks.15"]
N_SAMPLES = 16
STDEV = 0.3
LONG_RUN = 512
RUNS = {4: 4, 16: 2, 64: 1}
"""How many runs of each length are compared with the long one."""

Maps = Callable[[Tensor, int, int, int], Sequence[Tensor]]
"""From input, class, number of samples and seed to a map for each layer."""


def ours(model: Module, alpha: str) -> Maps:
    """This package's maps."""
    method = LayerSmoothGradCAMpp(model, list(LAYERS), alpha=alpha)

    def maps(inputs: Tensor, target: int, n_samples: int, seed: int) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        attributions: Any = method.attribute(inputs, target, n_samples=n_samples, stdevs=STDEV, generator=generator)
        return [attribution[0, 0] for attribution in attributions]

    return maps


def torchcams(model: Module) -> Maps:
    """Torchcam's maps."""

    def maps(inputs: Tensor, target: int, n_samples: int, seed: int) -> Sequence[Tensor]:
        torch.manual_seed(seed)
        with SmoothGradCAMpp(model, list(LAYERS), num_samples=n_samples, std=STDEV) as extractor:
            scores = model(inputs)
            cams: list[Tensor] = extractor(target, scores, normalized=False)
        return [cam[0] for cam in cams]

    return maps


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of two maps; 0 where one of them does not vary."""
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1].nan_to_num().item()


def error(estimate: Tensor, reference: Tensor) -> float:
    """The distance of two maps in units of the reference's norm."""
    return float((estimate - reference).norm() / reference.norm())


def main() -> None:
    """Measures, and prints the table."""
    model, preprocess = efficientnet_lite0()
    columns = {
        "torchcam": torchcams(model),
        "`eq5`": ours(model, "eq5"),
        "`bounded`": ours(model, "bounded"),
    }
    agreement: dict[str, list[list[float]]] = {name: [[] for _ in LAYERS] for name in columns}
    errors: dict[int, list[list[float]]] = {n_samples: [[] for _ in LAYERS] for n_samples in RUNS}
    images = photographs().values()
    for image in tqdm(images):
        inputs = preprocess(image)
        with torch.no_grad():
            target = int(model(inputs).argmax())
        for name, maps in columns.items():
            pairs = zip(maps(inputs, target, N_SAMPLES, 0), maps(inputs, target, N_SAMPLES, 1), strict=True)
            for found, pair in zip(agreement[name], pairs, strict=True):
                found.append(correlation(*pair))
        references = columns["`bounded`"](inputs, target, LONG_RUN, 2)
        for n_samples, n_runs in RUNS.items():
            for seed in range(n_runs):
                estimates = columns["`bounded`"](inputs, target, n_samples, 3 + seed)
                for found, estimate, reference in zip(errors[n_samples], estimates, references, strict=True):
                    found.append(error(estimate, reference))

    print(
        f"captum-sgcampp {__version__}, torchcam {version('torchcam')}, torch {torch.__version__}; "
        f"medians over {len(images)} images (half of them mirrored), sigma = {STDEV}"
    )
    print(f"\n| layer | {' | '.join(columns)} | {' | '.join(f'error, n = {n}' for n in RUNS)} |")
    print(f"| --- {'| ---: ' * (len(columns) + len(RUNS))}|")
    for number, layer in enumerate(LAYERS):
        agreements = [f"{statistics.median(agreement[name][number]):.2f}" for name in columns]
        distances = [f"{statistics.median(errors[n_samples][number]):.3f}" for n_samples in RUNS]
        print(f"| `{layer}` | {' | '.join(agreements + distances)} |")


if __name__ == "__main__":
    main()
