"""Are the maps those of the equations? This package and public implementations on a float64 oracle.

    python benchmarks/accuracy.py

prints the table that the README shows, the largest error of each implementation's map; with `--correlation`, how the
maps correlate with the oracle's. Needs the extra `benchmark`.

The network is EfficientNet-Lite0, pretrained on ImageNet; the photographs are scikit-image's; each is explained for the
class that the network predicts, in float32, at one layer of each of three kinds:

- the last feature map, which is rectified; everything above it is affine, so that the gradients of a channel are equal,
  with and without noise, and a mistake in the sum over positions does not show;
- `_blocks.10._bn1`, rectified too (see `rectified`), with nonlinear layers above;
- `_blocks.10`, whose activations carry a sign, so that eq. (5) may come near its pole.

Each at logits multiplied by 1, by 1e-3 and by 1e-6. The oracle has the same scale: eq. (5) depends on it.

The oracle is eq. (5), (8) and (2) of the paper in float64, on the gradients of the network in float64, at the very
inputs that the implementation gave to its network. All are judged on eq. (5) as printed. This package's default,
"bounded", is judged where it is the same, at rectified layers without noise.

Maps are compared at the layer's own resolution, before an implementation rescales them, and up to scale and offset:
each is brought to [0, 1]. A map that is not finite or does not vary is NaN.

Captum's LayerGradCam is left out. Its weights are another equation's, the plain means of the gradients, in which there
are no higher derivatives to get wrong.
"""

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from photographs import efficientnet_lite0
from PIL import Image
from pytorch_grad_cam import GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from skimage import data
from torch import Tensor, nn
from torchcam.methods import GradCAMpp, SmoothGradCAMpp
from tqdm.auto import tqdm

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

Column = tuple[str, str]
"""Layer and scale."""

LAYERS = {
    "network._bn1": "last map",
    "network._blocks.10._bn1": "`_blocks.10._bn1`",
    "network._blocks.10": "`_blocks.10`",
}
"""Layers by their names in `Scaled`, and how the table calls them."""
RECTIFIED = ("network._bn1", "network._blocks.10._bn1")
SCALES = ("1", "1e-3", "1e-6")
N_SAMPLES = 5
STDEV = 0.3
PACKAGES = ("captum-sgcampp", "torchcam", "grad-cam", "torch")


class Scaled(nn.Module):
    """A network whose logits are multiplied by a number."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network = network
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.network(images)
        return self.scale * logits


class Case(NamedTuple):
    """A photograph, and the network and layer to explain it with."""

    model: nn.Module
    exact: nn.Module
    """The same in float64."""
    layer: str
    image: Tensor
    target: int


class Implementation(NamedTuple):
    """A way to compute the map of a case, (H, W)."""

    package: str
    method: str
    compute: Callable[[Case], Tensor]
    layers: tuple[str, ...] = tuple(LAYERS)
    """Where it means eq. (5)."""


def oracle(case: Case, inputs: list[Tensor]) -> Tensor:
    """The map of eq. (5), (8) and (2), with A from the photograph and the derivatives from `inputs`."""
    activation, _ = activation_and_gradient(case, case.image)
    gradients = torch.stack([activation_and_gradient(case, image)[1] for image in inputs])
    d1, d2, d3 = (gradients.pow(power).mean(dim=0) for power in (1, 2, 3))
    denominator = 2 * d2 + activation.sum(dim=(1, 2), keepdim=True) * d3
    alpha = torch.where(denominator == 0, 0, d2 / denominator)
    weights = (alpha * d1.relu()).sum(dim=(1, 2), keepdim=True)
    return (weights * activation).sum(dim=0).relu()


def activation_and_gradient(case: Case, image: Tensor) -> tuple[Tensor, Tensor]:
    """A and dS/dA in float64, (C, H, W) each."""
    activations: list[Tensor] = []

    def cut(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        activations.append(output.detach().requires_grad_())
        return activations[0]

    handle = case.exact.get_submodule(case.layer).register_forward_hook(cut)
    score = case.exact(image.double())[0, case.target]
    handle.remove()
    (gradient,) = torch.autograd.grad(score, activations)
    return activations[0][0].detach(), gradient[0]


@contextmanager
def images_seen(model: nn.Module) -> Iterator[list[Tensor]]:
    """Records each image that goes through a model, (1, C, H, W)."""
    seen: list[Tensor] = []

    def record(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.extend(image.unsqueeze(0) for image in args[0].detach().clone())

    handle = model.register_forward_pre_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


def ours(alpha: str) -> Callable[[Case], Tensor]:
    """This package's Grad-CAM++."""

    def compute(case: Case) -> Tensor:
        attribution = LayerGradCamPlusPlus(case.model, case.layer, alpha=alpha).attribute(case.image, case.target)
        assert isinstance(attribution, Tensor)
        return attribution[0, 0]

    return compute


def ours_smooth(case: Case) -> Tensor:
    """This package's Smooth Grad-CAM++."""
    method = LayerSmoothGradCAMpp(case.model, case.layer, alpha="eq5")
    attribution = method.attribute(case.image, case.target, n_samples=N_SAMPLES, stdevs=STDEV)
    assert isinstance(attribution, Tensor)
    return attribution[0, 0]


def torchcam(case: Case) -> Tensor:
    """Torchcam's Grad-CAM++."""
    with GradCAMpp(case.model, case.layer) as extractor:
        scores = case.model(case.image)
        cams: list[Tensor] = extractor(case.target, scores, normalized=False)
    return cams[0][0]


def torchcam_smooth(case: Case) -> Tensor:
    """Torchcam's Smooth Grad-CAM++; it takes A and the input from the pass before, which is without noise."""
    with SmoothGradCAMpp(case.model, case.layer, num_samples=N_SAMPLES, std=STDEV) as extractor:
        case.model(case.image)
        cams: list[Tensor] = extractor(case.target, normalized=False)
    return cams[0][0]


def pytorch_grad_cam(case: Case) -> Tensor:
    """pytorch-grad-cam's Grad-CAM++, as it is before it is rescaled and resized."""
    layer, targets = case.model.get_submodule(case.layer), [ClassifierOutputTarget(case.target)]
    with GradCAMPlusPlus(case.model, [layer]) as extractor:
        extractor(case.image, targets)
        seen = extractor.activations_and_grads
        activations, gradients = seen.activations[0].numpy(), seen.gradients[0].numpy()
        cam = extractor.get_cam_image(case.image, layer, targets, activations, gradients)
    return torch.from_numpy(cam[0]).relu()


IMPLEMENTATIONS = [
    Implementation("captum-sgcampp", 'Grad-CAM++, `alpha="eq5"`', ours("eq5")),
    Implementation("captum-sgcampp", "Grad-CAM++, default", ours("bounded"), RECTIFIED),
    Implementation("torchcam", "GradCAMpp", torchcam),
    Implementation("pytorch-grad-cam", "GradCAMPlusPlus", pytorch_grad_cam),
    Implementation("captum-sgcampp", 'Smooth Grad-CAM++, `alpha="eq5"`', ours_smooth),
    Implementation("torchcam", "SmoothGradCAMpp", torchcam_smooth),
]


def to_unit_range(values: Tensor) -> Tensor:
    """Brings a map to a minimum of 0 and a maximum of 1."""
    above_minimum = values.double() - values.double().min()
    return above_minimum / above_minimum.max()


def largest_error(actual: Tensor, wanted: Tensor) -> float:
    """The largest difference of two maps in [0, 1]."""
    return (to_unit_range(actual) - to_unit_range(wanted)).abs().max().item()


def correlation(actual: Tensor, wanted: Tensor) -> float:
    """Pearson's correlation of two maps."""
    return torch.corrcoef(torch.stack([to_unit_range(actual).flatten(), to_unit_range(wanted).flatten()]))[0, 1].item()


def judge(implementation: Implementation, case: Case, measure: Callable[[Tensor, Tensor], float]) -> float:
    """Compares a map with the oracle's at the inputs that the implementation chose."""
    torch.manual_seed(0)
    with images_seen(case.model) as seen:
        actual = implementation.compute(case)
    noisy = [image for image in seen if not image.equal(case.image)]
    return measure(actual, oracle(case, noisy or [case.image]))


def rectified(network: nn.Module) -> nn.Module:
    """Makes the ReLU6 before the head and those of block 10 part of the modules before them; computes the same.

    A rectified map is a module's output then. The network's own ReLU6 run more than once in a pass.
    """
    for part in (network, network.get_submodule("_blocks.10")):
        for name in ("_bn0", "_bn1"):
            part.add_module(name, nn.Sequential(part.get_submodule(name), nn.ReLU6()))
        part.add_module("_swish", nn.Identity())
    return network


def cases() -> Iterator[tuple[Column, Case]]:
    """Yields the cases for each column of the table: each photograph, and the class that the network says it is."""
    model, preprocess = efficientnet_lite0()
    network = rectified(model)
    images = [preprocess(Image.fromarray(picture)) for picture in (data.chelsea(), data.coffee())]
    with torch.no_grad():
        targets = [int(network(image).argmax()) for image in images]
    for scale in SCALES:
        model = Scaled(network, float(scale))
        exact = deepcopy(model).double().requires_grad_(False)
        for layer, (image, target) in itertools.product(LAYERS, zip(images, targets, strict=True)):
            yield (layer, scale), Case(model, exact, layer, image, target)


def median(values: list[float]) -> str:
    """The median, NaN if one of the values is."""
    return f"{np.median(values):#.2g}".replace("nan", "NaN")


def print_table(rows: dict[Implementation, dict[Column, list[float]]]) -> None:
    """Prints a Markdown table of the medians, with a dash where an implementation was not judged."""
    columns = list(itertools.product(LAYERS, SCALES))
    print(f"| implementation | method | {' | '.join(f'{LAYERS[layer]}, {scale}' for layer, scale in columns)} |")
    print(f"| --- | --- {'| ---: ' * len(columns)}|")
    for implementation, found in rows.items():
        cells = [median(found[column]) if column in found else "-" for column in columns]
        print(f"| {implementation.package} | {implementation.method} | {' | '.join(cells)} |")


def main() -> None:
    """Compares, and prints the table."""
    parser = argparse.ArgumentParser(description="Compare implementations with a float64 oracle.")
    parser.add_argument("--correlation", action="store_true", help="print correlations instead of the largest errors")
    measure = correlation if parser.parse_args().correlation else largest_error
    warnings.filterwarnings("ignore", "n_samples: smoothing changes nothing")  # at the last map, see above

    rows: dict[Implementation, dict[Column, list[float]]] = {one: {} for one in IMPLEMENTATIONS}
    for column, case in tqdm(list(cases())):
        for implementation, found in rows.items():
            if case.layer in implementation.layers:
                found.setdefault(column, []).append(judge(implementation, case, measure))
    print(f"python benchmarks/accuracy.py{' --correlation' if measure is correlation else ''}")
    print(", ".join(f"{package} {version(package)}" for package in PACKAGES), end="; ")
    print(f"{measure.__name__.replace('_', ' ')}, medians over 2 photographs, n = {N_SAMPLES}, sigma = {STDEV}\n")
    print_table(rows)


if __name__ == "__main__":
    main()
