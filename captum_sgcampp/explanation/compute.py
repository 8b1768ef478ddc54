"""From a model and an input to an explanation: all methods, layers and targets by the same passes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Generator, Tensor
from torch.nn import Module

from captum_sgcampp._captum import _format_additional_forward_args
from captum_sgcampp._checks import indices_of, require_choice
from captum_sgcampp._passes.examples import as_one_example
from captum_sgcampp._passes.maps import AllMaps, MapMaker, Weighting
from captum_sgcampp._passes.noise import Noise
from captum_sgcampp._passes.selection import Selection
from captum_sgcampp._passes.sources import SOURCES
from captum_sgcampp._recipe import Recipe
from captum_sgcampp.explanation.arguments import (
    ClassNames,
    choose_classes,
    chosen_methods,
    names_of_classes,
    names_of_layers,
    one_stdev,
    require_row_of_scores,
    require_source,
    require_transform,
)
from captum_sgcampp.explanation.example_view import ExampleView
from captum_sgcampp.explanation.explanation import Explanation
from captum_sgcampp.explanation.photograph import input_as_photograph, pixels
from captum_sgcampp.explanation.scores import ScoreReader
from captum_sgcampp.formulas import ALPHAS
from captum_sgcampp.layers import is_named
from captum_sgcampp.methods import catalogue

METHODS = tuple(catalogue.by_name())
"""The methods that :func:`explain` knows."""


def explain(
    model: Callable[..., Any],
    inputs: Tensor,
    layers: Module | str | Sequence[Module | str],
    targets: Iterable[int] | None = None,
    additional_forward_args: Any = None,
    *,
    top_k: int = 1,
    methods: Sequence[str] = METHODS,
    n_samples: int = 25,
    stdevs: float | Sequence[float] = 0.3,
    n_samples_batch_size: int | None = None,
    generator: Generator | None = None,
    alpha: str = "bounded",
    derivatives: str = "powers",
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    filters: Iterable[int] | None = None,
    subset: Iterable[Iterable[int]] | None = None,
    region: bool = False,
    photograph: Any = None,
    title: str = "",
    class_names: ClassNames | None = None,
    model_name: str | None = None,
    show_progress: bool = False,
) -> Explanation:
    r"""Explains one input by several methods, for several layers and targets, from the same passes through the model.

    One pass without noise gives the probabilities, the activations and the gradients of methods that are not smooth;
    the passes with noise follow only if a smooth method is chosen. Nothing is printed or written.

    Args:
        model: The model, or a function that calls it. It returns logits, (1, classes), or an object or mapping with
            `logits`, as those of Hugging Face do.
        inputs: The input, (1, ...), as the model takes it.
        layers: One layer or several: modules, or dotted names in `model`.
        targets: Indices of the classes to explain; negative ones count from the end. Default: None, the `top_k` most
            probable
        additional_forward_args: Further arguments of `model`, after the input. Default: None
        top_k: The number of classes to explain if `targets` are not given. Default: 1
        methods: Some of :data:`METHODS`, in the order of the picture's columns. Default: all
        n_samples: Number of noisy copies; with 0, smooth methods show the map without noise. Default: 25
        stdevs: Standard deviation of the noise, in the units of `inputs`; see
            :meth:`LayerSmoothGradCAMpp.attribute`. Default: 0.3
        n_samples_batch_size: As in :meth:`LayerSmoothGradCAMpp.attribute`. Default: None
        generator: Source of the noise. Default: None, a generator of its own, seeded from torch's
        alpha: As in :class:`LayerGradCamPlusPlus`. Default: "bounded"
        derivatives: As in :class:`LayerGradCamPlusPlus`. Default: "powers"
        reshape_transform: As in :class:`LayerGradCamPlusPlus`, for all layers. Default: None
        filters: As in :meth:`LayerGradCamPlusPlus.attribute`. Default: None
        subset: As in :meth:`LayerGradCamPlusPlus.attribute`. Default: None
        region: As in :meth:`LayerGradCamPlusPlus.attribute`. Default: False
        photograph: What the picture shows, framed as the model sees it, in any resolution: a PIL image or an array, (H,
            W, 3) or (H, W), of unsigned integers or of floats in [0, 1]. Default: None, the input itself, scaled to
            [0, 1]
        title: The title of the photograph. Default: none
        class_names: The names of the classes: a list, or a mapping by number. Default: None, numbers
        model_name: The model's name in the picture. Default: None, the name of its type
        show_progress: Show a progress bar over the noise samples. Default: False

    Returns:
        The explanation.

    Raises:
        TypeError: `inputs` is not a tensor, or `methods`, `layers`, `targets` or `class_names` is not a list.
        ValueError: `inputs` is not one example, or the model does not return one row of scores; `methods`, `layers` or
            `targets` is empty, repeats one or has an unknown one; some classes have no name; `photograph` is
            not an image; a layer has several tensors, or rows that are not the example, such as frames or windows; or,
            without a `reshape_transform`, it surely is no map of the image: tokens, or channels that are last. Beyond
            that, whatever :meth:`LayerSmoothGradCAMpp.attribute` raises.

    Example::

        >>> import torch
        >>> from captum_sgcampp import explain
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> explanation = explain(model, torch.rand(1, 3, 8, 8), "0", targets=[3, 5], n_samples=5)
        >>> explanation.maps["Smooth Grad-CAM++", "0", 3].shape
        torch.Size([1, 1, 6, 6])
        >>> explanation.picture().savefig("explanation.png")  # doctest: +SKIP
    """
    chosen = chosen_methods(methods)
    require_choice("alpha", alpha, ALPHAS)
    require_choice("derivatives", derivatives, SOURCES)
    require_transform(reshape_transform)
    stdevs = one_stdev(stdevs)
    inputs = as_one_example(inputs)
    names = names_of_layers(model, layers)
    noise = Noise(
        n_samples if any(method.is_smooth for method in chosen) else 0, stdevs, n_samples_batch_size, generator
    )
    shown = input_as_photograph(inputs) if photograph is None else pixels(photograph)
    selection = Selection(filters, subset, region)
    # Other filters cost nothing, and the page shows them; only true derivatives are taken filter by filter.
    all_channels = derivatives != "autograd"
    read_scores = ScoreReader()
    maker = MapMaker(
        model,
        list(names),
        ExampleView.of(inputs, model, selection, reshape_transform, names, compute_all_channels=all_channels),
        derivatives,
        noise,
        read_scores=read_scores,
        show_progress=show_progress,
    )
    indices = None if targets is None else indices_of("targets", targets, "class")

    def choose(output: Tensor) -> list[int]:
        require_row_of_scores(output)
        names_of_classes(class_names, output.shape[1])  # before the passes with noise
        return choose_classes(output[0], indices, top_k)

    weightings = []
    for method in chosen:
        made = method.make(model, list(names), alpha=alpha, derivatives=derivatives)
        require_source(method.name, made.derivatives, derivatives)
        weightings.append(Weighting(made.weights, method.is_smooth))
    found = maker.run(weightings, (inputs,), additional_forward_args, choose)
    maps, activations, weights = _by_name(found, [method.name for method in chosen], names)
    recipe = Recipe(
        model_name=model_name or type(model).__name__,
        n_samples=noise.n_samples,
        stdevs=stdevs,
        seed=found.seed,
        alpha=alpha,
        derivatives=derivatives,
        has_reshape_transform=reshape_transform is not None,
        has_forward_args=bool(_format_additional_forward_args(additional_forward_args)),
        scores_within=read_scores.within,
        layers_by_name=frozenset(name for layer, name in names.items() if is_named(model, layer, name)),
    )
    return Explanation(
        found.output[0],
        maps,
        shown,
        str(title),
        recipe.in_words(names.values()),
        names_of_classes(class_names, found.output.shape[1]),
        selection,
        activations,
        weights,
        recipe,
    )


MapKey = tuple[str, str, int]


def _by_name(
    found: AllMaps, methods: Sequence[str], names: Mapping[Module, str]
) -> tuple[dict[MapKey, Tensor], dict[str, Tensor], dict[MapKey, Tensor]]:
    """The maps, the activations and the weights, by the names of methods and layers, and the targets."""
    maps: dict[MapKey, Tensor] = {}
    activations: dict[str, Tensor] = {}
    weights: dict[MapKey, Tensor] = {}
    for target, at_layers in zip(found.targets, found.at_targets, strict=True):
        assert isinstance(target, int)
        for at_layer in at_layers:
            layer = names[at_layer.layer]
            activations[layer] = at_layer.activations
            for method, of_method in zip(methods, at_layer.of_each, strict=True):
                if (method, layer, target) in maps:
                    raise ValueError(f"layers: {layer} has several tensors; choose a layer within it.")
                maps[method, layer, target] = of_method.attribution
                weights[method, layer, target] = of_method.weights
    return maps, activations, weights
