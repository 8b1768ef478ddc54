"""The command: one explanation after the other, its messages, and the exit status."""

import argparse
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from tqdm.auto import tqdm

from captum_sgcampp import Explanation, explain
from captum_sgcampp.cli.arguments import DEFAULT_METHOD
from captum_sgcampp.cli.classifier import ChosenLayers, Classifier
from captum_sgcampp.cli.errors import CommandError, described, in_the_commands_words, one_line
from captum_sgcampp.cli.maps import default_device, is_first_process, write_maps
from captum_sgcampp.cli.networks import load_classifier
from captum_sgcampp.cli.outputs import page_file, picture_files, write_page, write_picture
from captum_sgcampp.cli.photographs import find
from captum_sgcampp.methods import catalogue

N_PRINTED = 5
"""The number of most probable classes that are printed."""


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Args:
        options: What :func:`captum_sgcampp.cli.arguments.parse` returned.

    Returns:
        The exit status: 0, or 2 if anything could not be done.
    """
    _print_any_name()
    with warnings.catch_warnings():
        warnings.showwarning = _each_once(_say if is_first_process() else _say_nothing)
        try:
            return _run(options)
        except CommandError as error:
            return _fail(error)


def _run(options: argparse.Namespace) -> int:
    device = _device(options.device)
    if options.list_layers:
        _print_layers(load_classifier(options.model, device, options.weights, options.classes))
        return 0
    photographs = find(options.images)
    several = len(photographs) > 1 or any(image.is_dir() for image in options.images)
    read = [file for file in (options.weights, options.classes) if file]
    pictures: list[Path] | list[None] = [None] * len(photographs)
    if not options.page or options.output:
        pictures = picture_files(photographs, options.output, read, several=several)
    page = page_file(options.page, photographs, read) if options.page else None
    classifier = load_classifier(options.model, device, options.weights, options.classes)
    classifier.require_scores()
    layers = classifier.choose(
        options.layer or classifier.default_layers(of_each_resolution=bool(page and not options.output))
    )
    targets = list(dict.fromkeys(classifier.class_index(target) for target in options.target))

    status, explanations = 0, []
    if options.maps:
        status = 2 if write_maps(classifier, layers, targets, photographs, options) else 0
        if not (options.output or page) or not is_first_process():
            return status
    for photograph, picture in tqdm(list(zip(photographs, pictures, strict=True)), desc="Images", disable=not several):
        try:
            explanation = _explain(classifier, layers, targets, options, photograph.name, photograph.open())
            if picture:
                write_picture(_drawn(explanation, options.scale), picture)
        except CommandError as error:
            status = _fail(error)
        else:
            title = f"{photograph.name}: {classifier.name}, layer {', '.join(layers.names)}"
            tqdm.write("\n".join([title, *_ranking(explanation), *([str(picture)] if picture else [])]))
            explanations += [explanation] if page else []
    if page and explanations:
        write_page(explanations, page)
        tqdm.write(str(page))
    return status


def _explain(
    classifier: Classifier,
    layers: ChosenLayers,
    targets: list[int],
    options: argparse.Namespace,
    name: str,
    photograph: Image.Image,
) -> Explanation:
    try:
        inputs = classifier.inputs(photograph)
        return explain(
            classifier.model,
            inputs,
            layers.names,
            targets or None,
            top_k=min(options.top_k, classifier.n_classes),
            methods=_methods(options),
            n_samples=options.n_samples,
            stdevs=options.stdevs,
            generator=torch.Generator(inputs.device).manual_seed(options.seed),  # the same noise for every photograph
            alpha=options.alpha,
            reshape_transform=classifier.reshape_transform_of(layers, (inputs.shape[-2], inputs.shape[-1])),
            filters=options.filters,
            subset=options.subset,
            region=options.region,
            photograph=classifier.frame(photograph) if classifier.frame else None,
            title=name,
            class_names=classifier.classes,
            model_name=classifier.name,
        )
    except CommandError:
        raise
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(f"cannot explain {name}: {in_the_commands_words(error)}") from error
    except Exception as error:  # whatever a network of one's own raises
        raise CommandError(f"cannot explain {name}: {described(error)}") from error


def _drawn(explanation: Explanation, scale: str | None) -> Figure:
    try:
        return explanation.picture(scale)
    except ValueError as error:
        raise CommandError(f"cannot draw {explanation.title}: {in_the_commands_words(error)}") from error


def _methods(options: argparse.Namespace) -> list[str]:
    """The methods to show side by side; by default all, or with filters only one, which then has a panel for each."""
    chosen = options.methods or ([DEFAULT_METHOD] if options.filters else catalogue.by_word())
    return [method.name for method in catalogue.METHODS if method.word in chosen]


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or default_device())
        torch.ones(1, device=device).item()
    except Exception as error:  # each kind of device has its own
        raise CommandError(f"cannot compute on device '{name}': {one_line(error)}") from error
    return device


def _print_layers(classifier: Classifier) -> None:
    """Prints one layer per line, in columns, and marks the default."""
    layers, default = classifier.layers, classifier.default_layer()
    name_width = max((len(layer.name) for layer in layers), default=0)
    type_width = max((len(type(layer.module).__name__) for layer in layers), default=0)
    for layer in layers:
        mark = "  <- default" if layer.name == default else ""
        print(f"{layer.name:{name_width}}  {type(layer.module).__name__:{type_width}}  {layer.output_summary}{mark}")
    classifier.require_layers()


def _ranking(explanation: Explanation) -> list[str]:
    """The most probable classes, one per line."""
    ranking = explanation.scores.argsort(descending=True)[:N_PRINTED].tolist()
    numbers = {index: explanation.probability_or_score(index) for index in ranking}
    return [f"{number:>7}  {explanation.class_name(index)} ({index})" for index, number in numbers.items()]


def _print_any_name() -> None:
    """Lets names of files be printed as they are, whatever their bytes, and other text whatever the terminal's code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")


def _each_once(show: Callable[[str], object]) -> Callable[..., None]:
    """Shows each different message once."""
    seen: set[str] = set()

    def show_new(message: object, *_args: object, **_kwargs: object) -> None:
        text = in_the_commands_words(message)
        if text not in seen:
            seen.add(text)
            show(text)

    return show_new


def _fail(error: CommandError) -> int:
    _say(error)
    return 2


def _say(message: object) -> None:
    """Prints a message in one line, without breaking a progress bar."""
    tqdm.write(f"captum-sgcampp: {message}", file=sys.stderr)


def _say_nothing(_message: object) -> None:
    """Of several processes, the first speaks for all."""
