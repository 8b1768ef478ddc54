"""The command from its options to its exit status."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from captum_sgcampp import Explanation, explain
from captum_sgcampp.cli.classifier import ChosenLayers, Classifier
from captum_sgcampp.cli.console import allow_any_text, each_once, print_layers, ranking, say, say_nothing
from captum_sgcampp.cli.errors import CommandError, described, in_the_commands_words, one_line
from captum_sgcampp.cli.maps import write_maps
from captum_sgcampp.cli.networks import load_classifier
from captum_sgcampp.cli.options import DEFAULT_METHOD, AttributionOptions, NetworkOptions, Options
from captum_sgcampp.cli.outputs import page_file, picture_files, write_page, write_picture
from captum_sgcampp.cli.paths import is_folder
from captum_sgcampp.cli.photographs import Photograph, find
from captum_sgcampp.cli.processes import default_device, is_first_process
from captum_sgcampp.methods import catalogue


def run(options: Options) -> int:
    """Runs the command.

    Args:
        options: What the user asked for.

    Returns:
        The exit status: 0, or 2 if anything could not be done.
    """
    allow_any_text()
    with warnings.catch_warnings():
        warnings.showwarning = each_once(say if is_first_process() else say_nothing)
        try:
            return _run(options)
        except CommandError as error:
            return _fail(error)


def _run(options: Options) -> int:
    device = _device(options.network.device)
    if options.list_layers:
        classifier = _load(options.network, device)
        print_layers(classifier)
        classifier.require_layers()
        return 0
    photographs = find(options.images)
    several = len(photographs) > 1 or any(is_folder(image) for image in options.images)
    read = options.network.files
    pictures: list[Path] | list[None] = [None] * len(photographs)
    if not options.page or options.output:
        pictures = picture_files(photographs, options.output, read, several=several)
    page = page_file(options.page, photographs, read) if options.page else None
    classifier = _load(options.network, device)
    classifier.require_scores()
    layers = classifier.choose(
        options.layers or classifier.default_layers(of_each_resolution=bool(page and not options.output))
    )
    targets = list(dict.fromkeys(classifier.class_index(target) for target in options.targets))

    status, explanations = 0, []
    if options.dataset:
        status = 2 if write_maps(classifier, layers, targets, photographs, options.attribution, options.dataset) else 0
        if not (options.output or page) or not is_first_process():
            return status
    for photograph, picture in tqdm(list(zip(photographs, pictures, strict=True)), desc="Images", disable=not several):
        try:
            explanation = _explain(classifier, layers, targets, options.top_k, options.attribution, photograph)
            if picture:
                write_picture(_drawn(explanation, options.scale), picture)
        except CommandError as error:
            status = _fail(error)
        else:
            title = f"{photograph.name}: {classifier.name}, layer {', '.join(layers.names)}"
            tqdm.write("\n".join([title, *ranking(explanation), *([str(picture)] if picture else [])]))
            explanations += [explanation] if page else []
    if page and explanations:
        write_page(explanations, page)
        tqdm.write(str(page))
    return status


def _load(network: NetworkOptions, device: torch.device) -> Classifier:
    return load_classifier(network.name, device, network.weights, network.classes)


def _explain(
    classifier: Classifier,
    layers: ChosenLayers,
    targets: Sequence[int],
    top_k: int,
    attribution: AttributionOptions,
    photograph: Photograph,
) -> Explanation:
    image = photograph.read()
    try:
        inputs = classifier.inputs(image)
        return explain(
            classifier.model,
            inputs,
            layers.names,
            targets or None,
            top_k=min(top_k, classifier.n_classes),
            methods=_methods(attribution),
            n_samples=attribution.n_samples,
            stdevs=attribution.stdevs,
            generator=torch.Generator(inputs.device).manual_seed(attribution.seed),  # the same noise for each
            alpha=attribution.alpha,
            reshape_transform=classifier.reshape_transform_of(layers, (inputs.shape[-2], inputs.shape[-1])),
            filters=attribution.filters,
            subset=attribution.subset,
            region=attribution.region,
            photograph=classifier.frame(image) if classifier.frame else None,
            title=photograph.name,
            class_names=classifier.classes,
            model_name=classifier.name,
        )
    except CommandError:
        raise
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(f"cannot explain {photograph.name}: {in_the_commands_words(error)}") from error
    except Exception as error:  # a user's network may raise anything
        raise CommandError(f"cannot explain {photograph.name}: {described(error)}") from error


def _fail(error: CommandError) -> int:
    say(error)
    return 2


def _drawn(explanation: Explanation, scale: str | None) -> Figure:
    try:
        return explanation.picture(scale)
    except ValueError as error:
        raise CommandError(f"cannot draw {explanation.title}: {in_the_commands_words(error)}") from error


def _methods(attribution: AttributionOptions) -> list[str]:
    """The methods to show side by side; by default all, or with filters only one, which then has a panel for each."""
    chosen = attribution.methods or ([DEFAULT_METHOD] if attribution.filters else catalogue.by_word())
    return [method.name for method in catalogue.METHODS if method.word in chosen]


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or default_device())
        torch.ones(1, device=device).item()
    except Exception as error:  # each kind of device has its own
        raise CommandError(f"cannot compute on device '{name}': {one_line(error)}") from error
    return device
