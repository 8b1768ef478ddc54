"""The command: flags, names of files, and the exit status."""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from captum_sgcampp import Explanation, __version__, explain
from captum_sgcampp.cli.classifiers import EFFICIENTNET_LITE0, ChosenLayer, Classifier, load_classifier
from captum_sgcampp.cli.errors import CommandError, one_line
from captum_sgcampp.explanation import METHODS
from captum_sgcampp.formulas import ALPHAS
from captum_sgcampp.layers import LayerInfo

EXAMPLE = "chelsea"
"""The photograph that is explained if none is given; it comes with scikit-image."""
N_PRINTED = 5
"""The number of most probable classes that are printed."""


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
        layer = classifier.layer(options.layer)
        targets = [classifier.class_index(target) for target in options.target]
        outputs = _outputs(options.images, options.output)
    except CommandError as error:
        return _fail(error)

    status = 0
    for image, output in tqdm(outputs, desc="Images", disable=len(outputs) == 1):
        try:
            name, photograph = _open(image)
            explanation = _explain(classifier, layer, targets, options, name, photograph)
            _write(explanation, output)
            tqdm.write(
                "\n".join([f"{name}: {classifier.name}, layer {layer.name}", *_ranking(explanation), str(output)])
            )
        except CommandError as error:
            status = _fail(error)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captum-sgcampp",
        description="Explain a network's predictions for photographs: the maps of several methods side by "
        "side, in one PNG for each photograph.",
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", type=Path, help=f"photographs; default: {EXAMPLE}")
    parser.add_argument(
        "--model",
        metavar="NAME",
        default=EFFICIENTNET_LITE0,
        help="a classification model from torchvision; default: %(default)s, which needs no download",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a state dict, instead of pretrained weights")
    parser.add_argument(
        "--layer", metavar="NAME", help="the layer's dotted name; default: one that suits the model (see --list-layers)"
    )
    parser.add_argument(
        "--list-layers", action="store_true", help="print the name, type and output shape of each layer, and exit"
    )
    explained = parser.add_mutually_exclusive_group()
    explained.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="CLASS",
        help="a class to explain, by number or name; repeatable; default: the most probable",
    )
    explained.add_argument(
        "--top-k", type=_at_least(1), default=1, metavar="K", help="explain the K most probable classes"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(map(_flag, METHODS)),
        metavar="METHOD",
        help=f"some of {', '.join(map(_flag, METHODS))}; default: all, or smooth-grad-cam++ with --filters",
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
        help="show single channels, a panel for each",
    )
    parser.add_argument(
        "--subset",
        nargs="+",
        type=_coordinate,
        metavar="ROW,COLUMN",
        help="show only these neurons of the layer, such as 2,8 5,3",
    )
    parser.add_argument(
        "--region", action="store_true", help="treat --subset as two opposite corners of a box of neurons"
    )
    parser.add_argument("--device", help="the device; default: cuda if there is one, otherwise cpu")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="the PNG, or a folder for several photographs; default: captum-sgcampp-IMAGE.png in the current folder",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _at_least(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        number = int(text)
        if number < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, but is {text}")
        return number

    return integer


def _deviation(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be finite and not negative, but is {text}")
    return number


def _coordinate(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be ROW,COLUMN, but is {text}") from error


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise CommandError(f"cannot compute on device '{name}': {one_line(error)}") from error
    return device


def _outputs(images: list[Path], output: Path | None) -> list[tuple[Path | None, Path]]:
    """Pairs each photograph (None is the example) with the file to write."""
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
    """Prints one layer per line, in columns."""
    name_width = max(len(layer.name) for layer in layers)
    type_width = max(len(type(layer.module).__name__) for layer in layers)
    for layer in layers:
        print(f"{layer.name:{name_width}}  {type(layer.module).__name__:{type_width}}  {layer.output_summary}")


def _explain(
    classifier: Classifier,
    layer: ChosenLayer,
    targets: list[int],
    options: argparse.Namespace,
    name: str,
    photograph: Image.Image,
) -> Explanation:
    inputs = classifier.preprocess(photograph)
    try:
        return explain(
            classifier.model,
            inputs,
            layer.name,
            targets or None,
            top_k=min(options.top_k, len(classifier.classes)),
            methods=_methods(options),
            n_samples=options.n_samples,
            stdevs=options.stdevs,
            generator=torch.Generator(inputs.device).manual_seed(options.seed),  # the same noise for every photograph
            alpha=options.alpha,
            reshape_transform=layer.reshape_transform,
            filters=options.filters,
            subset=options.subset,
            region=options.region,
            photograph=classifier.crop(photograph),
            title=name,
            class_names=classifier.classes,
            model_name=classifier.name,
        )
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(f"cannot attribute to layer {layer.name}: {one_line(error)}") from error


def _methods(options: argparse.Namespace) -> list[str]:
    """The methods to show side by side; by default all, or with filters only one, which then has a panel for each."""
    chosen = options.methods or ([_flag("Smooth Grad-CAM++")] if options.filters else list(map(_flag, METHODS)))
    return [method for method in METHODS if _flag(method) in chosen]


def _flag(method: str) -> str:
    """A method's name on the command line."""
    return method.lower().replace(" ", "-")


def _ranking(explanation: Explanation) -> list[str]:
    """The most probable classes, one per line."""
    probabilities = explanation.probabilities
    ranking = probabilities.argsort(descending=True)[:N_PRINTED].tolist()
    return [f"{probabilities[index]:7.1%}  {explanation.class_name(index)} ({index})" for index in ranking]


def _write(explanation: Explanation, output: Path) -> None:
    try:
        figure = explanation.picture()
    except ValueError as error:
        raise CommandError(one_line(error)) from error
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, bbox_inches="tight", pad_inches=0.1)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write {output}: {one_line(error)}") from error


def _open(image: Path | None) -> tuple[str, Image.Image]:
    """Opens a photograph, or the example; returns its name too."""
    if image is None:
        from skimage import data

        return EXAMPLE, Image.fromarray(np.asarray(data.chelsea()))
    try:
        with Image.open(image) as opened:
            return image.name, ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError as error:
        raise CommandError(f"{image} is not an image") from error
    except OSError as error:
        raise CommandError(f"cannot read {image}: {error.strerror or error}") from error


def _fail(error: CommandError) -> int:
    _say(error)
    return 2


def _say(message: object) -> None:
    """Prints a message in one line, without breaking a progress bar."""
    tqdm.write(f"captum-sgcampp: {message}", file=sys.stderr)
