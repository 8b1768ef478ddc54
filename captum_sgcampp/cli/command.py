"""What the command does: arguments in, a picture for each photograph out."""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import LayerGradCam
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, __version__
from captum_sgcampp.cli.classifiers import EFFICIENTNET_LITE0, ChosenLayer, Classifier, load_classifier
from captum_sgcampp.cli.errors import CommandError, one_line
from captum_sgcampp.formulas import ALPHAS
from captum_sgcampp.layers import LayerInfo
from captum_sgcampp.picture import Box, Panel, Row, draw

EXAMPLE = "chelsea"
"""The photograph that is explained where none is given: scikit-image ships it."""
N_PRINTED = 5


class Explanation(NamedTuple):
    """What is to be explained, and how."""

    classifier: Classifier
    layer: ChosenLayer
    targets: list[int]
    """The classes; none means the most probable."""
    top_k: int
    n_samples: int
    stdevs: float
    seed: int
    alpha: str
    filters: list[int] | None
    subset: list[tuple[int, ...]] | None
    region: bool


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Its arguments; None takes those of the process.

    Returns:
        The exit status: 0, or 2 if anything could not be done.
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_kwargs: _say(message)
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        classifier = load_classifier(options.model, options.weights, _device(options.device))
        if options.list_layers:
            _print_layers(classifier.layers())
            return 0
        explanation = Explanation(
            classifier,
            classifier.layer(options.layer),
            [classifier.class_index(target) for target in options.target],
            min(options.top_k, len(classifier.classes)),
            options.n_samples,
            options.stdevs,
            options.seed,
            options.alpha,
            options.filters,
            options.subset,
            options.region,
        )
        outputs = _outputs(options.images, options.output)
    except CommandError as error:
        return _fail(error)

    status = 0
    for image, output in tqdm(outputs, desc="Images", disable=len(outputs) == 1):
        try:
            tqdm.write("\n".join(_explain(explanation, image, output)))
        except CommandError as error:
            status = _fail(error)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captum-sgcampp",
        description="Explain what a network sees in photographs: Captum's Grad-CAM, Grad-CAM++ and Smooth Grad-CAM++ "
        "side by side, in one PNG for each photograph.",
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", type=Path, help=f"photographs; default: {EXAMPLE}")
    parser.add_argument(
        "--model",
        metavar="NAME",
        default=EFFICIENTNET_LITE0,
        help="a classification model of torchvision's; default: %(default)s, which needs no download",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a state dict, in place of pretrained weights")
    parser.add_argument("--layer", metavar="NAME", help="the layer's dotted name; default: one that suits the model")
    parser.add_argument("--list-layers", action="store_true", help="print name, type and output shape, and do no more")
    explained = parser.add_mutually_exclusive_group()
    explained.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="CLASS",
        help="a class to explain, number or name; repeatable; default: the most probable",
    )
    explained.add_argument(
        "--top-k", type=_at_least(1), default=1, metavar="K", help="explain the K most probable classes"
    )
    parser.add_argument(
        "--n-samples",
        type=_at_least(0),
        default=25,
        metavar="N",
        help="noisy copies of the photograph; default: %(default)s",
    )
    parser.add_argument(
        "--stdevs",
        type=_deviation,
        default=0.3,
        metavar="SIGMA",
        help="standard deviation of the noise, in units of the normalized image; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise; default: %(default)s")
    parser.add_argument("--alpha", choices=list(ALPHAS), default="bounded", help="form of alpha; default: %(default)s")
    parser.add_argument(
        "--filters",
        nargs="+",
        type=int,
        metavar="K",
        help="show Smooth Grad-CAM++ of single channels, a panel for each",
    )
    parser.add_argument(
        "--subset",
        nargs="+",
        type=_coordinate,
        metavar="ROW,COLUMN",
        help="show these neurons of the layer alone, such as 2,8 5,3",
    )
    parser.add_argument(
        "--region", action="store_true", help="show the box of neurons of which --subset gives two opposite corners"
    )
    parser.add_argument("--device", help="where to compute; default: cuda where there is one, otherwise cpu")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="the PNG, or with several photographs a folder; default: captum-sgcampp-IMAGE.png, in this folder",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _at_least(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        number = int(text)
        if number < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, and is {text}")
        return number

    return integer


def _deviation(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be finite and not negative, and is {text}")
    return number


def _coordinate(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be ROW,COLUMN, and is {text}") from error


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise CommandError(f"cannot compute on device '{name}': {one_line(error)}") from error
    return device


def _outputs(images: list[Path], output: Path | None) -> list[tuple[Path | None, Path]]:
    """Pairs each photograph, None being the example, with a file of its own to write."""
    if len(images) <= 1:
        image = images[0] if images else None
        return [(image, output or Path(f"captum-sgcampp-{image.stem if image else EXAMPLE}.png"))]
    folder = output or Path()
    if folder.suffix and not folder.is_dir():
        raise CommandError(f"--output {folder} must be a folder, as there are {len(images)} images")
    seen: Counter[str] = Counter()
    outputs: list[tuple[Path | None, Path]] = []
    for image in images:
        seen[image.stem] += 1
        again = f"-{seen[image.stem]}" if seen[image.stem] > 1 else ""
        outputs.append((image, folder / f"captum-sgcampp-{image.stem}{again}.png"))
    return outputs


def _print_layers(layers: list[LayerInfo]) -> None:
    """Prints one layer a line, in columns."""
    name_width = max(len(layer.name) for layer in layers)
    type_width = max(len(type(layer.module).__name__) for layer in layers)
    for layer in layers:
        print(f"{layer.name:{name_width}}  {type(layer.module).__name__:{type_width}}  {layer.output_summary}")


def _explain(explanation: Explanation, image: Path | None, output: Path) -> list[str]:
    """Explains one photograph, and returns what there is to say: the most probable classes, the picture's path."""
    photograph = _open(image)
    classifier = explanation.classifier
    inputs = classifier.preprocess(photograph)
    with torch.no_grad():
        probabilities = classifier.model(inputs).softmax(dim=1)[0]
    ranking = probabilities.argsort(descending=True).tolist()
    name = image.name if image else EXAMPLE

    targets = explanation.targets or ranking[: explanation.top_k]
    shown = classifier.crop(photograph)
    rows = []
    for target, maps in zip(targets, _attributions(explanation, inputs, targets), strict=True):
        named, outlines = f"{classifier.classes[target]}, {probabilities[target]:.1%}", _outlines(explanation)
        rows.append(Row(shown, name, [Panel(f"{what}\n{named}", attribution, outlines) for what, attribution in maps]))
    title = (
        f"{classifier.name}, layer {explanation.layer.name}; "
        f"Smooth Grad-CAM++ with n = {explanation.n_samples}, $\\sigma$ = {explanation.stdevs:g}"
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draw(rows, title).savefig(output, bbox_inches="tight", pad_inches=0.1)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write {output}: {one_line(error)}") from error
    ranked = [f"{probabilities[index]:7.1%}  {classifier.classes[index]} ({index})" for index in ranking[:N_PRINTED]]
    return [f"{name}: {classifier.name}, layer {explanation.layer.name}", *ranked, str(output)]


def _outlines(explanation: Explanation) -> list[Box]:
    """What to outline in a map: the neurons that are shown, where that is not all of them."""
    subset = explanation.subset or []
    if explanation.region:
        rows, columns = zip(*subset, strict=True)
        return [Box(min(rows), min(columns), max(rows), max(columns))]
    return [Box(*neuron, *neuron) for neuron in subset]


def _attributions(explanation: Explanation, inputs: Tensor, targets: list[int]) -> Iterator[list[tuple[str, Tensor]]]:
    """Computes, for each target, the maps to be shown beside each other, each with its name."""
    layer = explanation.layer
    try:
        maps = _compute(explanation, inputs, targets)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(f"cannot attribute to layer {layer.name}: {one_line(error)}") from error
    for at_target in zip(*maps.values(), strict=True):
        panels: list[tuple[str, Tensor]] = []
        for method, attribution in zip(maps, at_target, strict=True):
            if not isinstance(attribution, Tensor) or attribution.dim() != 4:
                raise CommandError(f"layer {layer.name} gives no (N, C, H, W) map (see --list-layers)")
            if not attribution.isfinite().all():
                raise CommandError(f"the {method} map at layer {layer.name} is not finite")
            names = [f"{method}, filter {index}" for index in explanation.filters or ()] or [method]
            panels.extend(zip(names, torch.split(attribution, 1, dim=1), strict=True))
        yield panels


def _compute(explanation: Explanation, inputs: Tensor, targets: list[int]) -> dict[str, Sequence[object]]:
    """Computes a map for each target, by method: as many of the methods as can show what is asked for."""
    model, layer = explanation.classifier.model, explanation.layer
    how: dict[str, Any] = {"alpha": explanation.alpha, "reshape_transform": layer.reshape_transform}
    what: dict[str, Any] = {
        "filters": explanation.filters,
        "subset": explanation.subset,
        "region": explanation.region,
    }
    generator = torch.Generator(inputs.device).manual_seed(explanation.seed)  # the same noise for every photograph
    plus_plus_of = LayerGradCamPlusPlus(model, layer.module, **how).attribute_targets
    noise: dict[str, Any] = {"n_samples": explanation.n_samples, "stdevs": explanation.stdevs, "generator": generator}
    if explanation.n_samples:
        smooth = LayerSmoothGradCAMpp(model, layer.module, **how).attribute_targets(inputs, targets, **noise, **what)
    else:  # without the warning, as it is what the user asked for
        smooth = plus_plus_of(inputs, targets, **what)
    if explanation.filters:
        return {"Smooth Grad-CAM++": smooth}
    plus_plus = plus_plus_of(inputs, targets, **what)
    if explanation.subset or layer.reshape_transform:
        return {"Grad-CAM++": plus_plus, "Smooth Grad-CAM++": smooth}
    method = LayerGradCam(model, layer.module)
    grad_cam = [method.attribute(inputs, target, relu_attributions=True) for target in targets]
    return {"Grad-CAM": grad_cam, "Grad-CAM++": plus_plus, "Smooth Grad-CAM++": smooth}


def _open(image: Path | None) -> Image.Image:
    if image is None:
        from skimage import data

        return Image.fromarray(np.asarray(data.chelsea()))
    try:
        with Image.open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError as error:
        raise CommandError(f"{image} is no image") from error
    except OSError as error:
        raise CommandError(f"cannot read {image}: {error.strerror or error}") from error


def _fail(error: CommandError) -> int:
    _say(error)
    return 2


def _say(message: object) -> None:
    """Says what went wrong in one line, without breaking a progress bar."""
    tqdm.write(f"captum-sgcampp: {message}", file=sys.stderr)
