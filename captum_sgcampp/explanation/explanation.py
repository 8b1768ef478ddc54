"""From a model and an input to an explanation: probabilities, and the map of each method, layer and target."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor
from torch.nn import Module

from captum_sgcampp import formulas, page, picture
from captum_sgcampp._passes import user_warnings
from captum_sgcampp._passes.averaging import Averaging
from captum_sgcampp._passes.examples import as_one_example
from captum_sgcampp._passes.noise import Noise
from captum_sgcampp._passes.selection import Selection
from captum_sgcampp._passes.sources import SOURCES
from captum_sgcampp._probe.probe import LayerProbe
from captum_sgcampp.explanation.arguments import (
    ClassNames,
    choose_classes,
    indices_of_classes,
    names_of_classes,
    names_of_layers,
    one_stdev,
    require_choices,
    require_row_of_scores,
    require_transform,
)
from captum_sgcampp.explanation.example_view import ExampleView
from captum_sgcampp.explanation.photograph import pixels
from captum_sgcampp.explanation.recipe import Recipe, seed_of
from captum_sgcampp.formulas import ALPHAS, Derivatives
from captum_sgcampp.layers import is_named
from captum_sgcampp.methods.base import as_forward_args, require_choice
from captum_sgcampp.picture import Box, Panel, Row


class _Method(NamedTuple):
    """A method that :func:`explain` knows."""

    smooth: bool
    """Whether its derivatives are those averaged over the noise samples, or those at the input."""
    weights: Callable[[str, Tensor, Derivatives], Tensor]
    """Computes its weights from the form of alpha, the activations and the derivatives."""


def _plus_plus(alpha: str, activations: Tensor, derivatives: Derivatives) -> Tensor:
    return formulas.grad_cam_pp_weights(ALPHAS[alpha](derivatives, activations), derivatives)


_METHODS = {
    "Grad-CAM": _Method(False, lambda _alpha, _activations, found: formulas.grad_cam_weights(found)),
    "Grad-CAM++": _Method(False, _plus_plus),
    "Smooth Grad-CAM++": _Method(True, _plus_plus),
    "Smooth Layer-CAM": _Method(True, lambda _alpha, _activations, found: formulas.layer_cam_weights(found)),
}
METHODS = tuple(_METHODS)
"""The methods that :func:`explain` knows."""

SCALES = {
    "each": picture.SCALED_BY_ITSELF,
    "shared": "fraction of the maximum of\nall maps of the method",
}
"""The scales of a picture, in words."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    r"""What a model finds in one input: probabilities, and the map for each method, layer and target.

    Attributes:
        scores: The model's output without noise, (classes,).
        maps: The maps by method, layer (its name, or its type if it is not a module of the model) and target: each
            (1, 1, \*spatial), or (1, len(filters), \*spatial), rectified and not normalized.
        photograph: The photograph of the picture, (H, W, 3) in [0, 1]; None if the input is not an image and none was
            given.
        title: The title of the photograph.
        settings: The title of the picture: model, layers and noise.
        class_names: The names of the classes, if known.
        selection: The selected filters and neurons.
        activations: The activations of each layer without noise, (1, C, \*spatial), of all channels, or of the selected
            ones with ``derivatives="autograd"``.
        weights: Their weights by method, layer and target: (1, C, 1, ...), or (1, C, \*spatial) for Smooth Layer-CAM.
        recipe: How the maps were computed.
    """

    scores: Tensor
    maps: dict[tuple[str, str, int], Tensor]
    photograph: npt.NDArray[np.float32] | None
    title: str
    settings: str
    class_names: Sequence[str] | None
    selection: Selection
    activations: dict[str, Tensor]
    weights: dict[tuple[str, str, int], Tensor]
    recipe: Recipe

    @property
    def probabilities(self) -> Tensor | None:
        """The softmax of the scores, (classes,), for a model that returns logits of exclusive classes.

        None for a model with a single score, which has nothing to be compared with.
        """
        return self.scores.softmax(dim=0) if len(self.scores) > 1 else None

    @property
    def targets(self) -> list[int]:
        """The explained classes, in the order of the picture's rows."""
        return list(dict.fromkeys(target for _, _, target in self.maps))

    def class_name(self, target: int) -> str:
        """The name of a class, or its number if names are not known."""
        return f"class {target}" if self.class_names is None else self.class_names[target]

    def probability_or_score(self, target: int) -> str:
        """The probability of a class in words, or for a model with a single score that score."""
        if self.probabilities is None:
            return f"score {float(self.scores[target]):.3g}"
        return f"{float(self.probabilities[target]):.1%}"

    def picture(self, scale: str | None = None) -> Figure:
        """Draws the photograph and the maps: a row for each layer and target, a column for each method and filter.

        Args:
            scale: "each" scales each map by its own maximum; "shared" scales all maps of one method at one layer by
                their largest value, so that classes and filters can be compared. Maps of different methods or layers
                have different units and are never compared. Default: None, "shared" for several targets

        Raises:
            ValueError: There is no photograph; a map does not have two spatial dimensions, or is not finite; or `scale`
                is unknown.
        """
        scale = scale or ("shared" if len(self.targets) > 1 else "each")
        require_choice("scale", scale, SCALES)
        if self.photograph is None:
            raise ValueError("photograph: a picture needs one, because the input is not an image; give one to explain.")
        rows: dict[tuple[str, int], list[Panel]] = {}
        outlines = self._outlines()
        n_layers = len({layer for _, layer, _ in self.maps})
        for (method, layer, target), attribution in self.maps.items():
            if attribution.dim() != 4:
                raise ValueError(
                    f"layer: {layer} has a map of shape {tuple(attribution.shape)}, and a picture needs (N, C, H, "
                    "W). Choose another layer, or give a reshape_transform, such as tokens_to_map() for the tokens "
                    "of a transformer."
                )
            if not attribution.isfinite().all():
                raise ValueError(f"layer: the {method} map of {layer} is not finite.")
            name = f"{self.class_name(target)}, {self.probability_or_score(target)}"
            where = f"{name}\n{layer}" if n_layers > 1 else name
            filters = [f"{method}, filter {index}" for index in self.selection.filters or ()] or [method]
            maximum = self._maximum(method, layer) if scale == "shared" else None
            rows.setdefault((layer, target), []).extend(
                Panel(f"{of_filter}\n{where}", channel, outlines, maximum)
                for of_filter, channel in zip(filters, torch.split(attribution, 1, dim=1), strict=True)
            )
        drawn = [Row(self.photograph, self.title, panels) for panels in rows.values()]
        return picture.draw(drawn, self.settings, SCALES[scale])

    def _maximum(self, method: str, layer: str) -> float:
        """The largest value of all maps of a method at a layer."""
        return max(float(found.max()) for (*key, _), found in self.maps.items() if key == [method, layer])

    def save_page(self, path: str | PathLike[str], max_bytes: int = page.MAX_BYTES) -> None:
        """Writes a page to explore the maps in a browser: one HTML file that needs no network.

        See :func:`captum_sgcampp.page.save_page`, which writes several explanations into one page.
        """
        page.save_page([self], path, max_bytes)

    def __repr__(self) -> str:
        """What is explained, in one line."""
        model, layers = self.recipe.model_name, list(self.activations)
        return f"Explanation(title={self.title!r}, model={model!r}, layers={layers!r}, targets={self.targets!r})"

    def _repr_html_(self) -> str | None:
        """Shows the page in a notebook, within a frame of its own; None if there is nothing that it can show."""
        try:
            return page.frame([self])
        except ValueError:
            return None

    def _outlines(self) -> list[Box]:
        """The boxes around the selected neurons."""
        subset = self.selection.subset or ()
        if self.selection.region:
            rows, columns = zip(*subset, strict=True)
            return [Box(min(rows), min(columns), max(rows), max(columns))]
        return [Box(*neuron, *neuron) for neuron in subset]


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

    One pass without noise gives the probabilities, the activations and the gradients of Grad-CAM and Grad-CAM++; the
    passes with noise follow only if a smooth method is chosen. Nothing is printed or written.

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
            `targets` is empty, repeats one or has an unknown one; there is not a name for each class; `photograph` is
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
    require_choices("methods", methods, METHODS)
    require_choice("alpha", alpha, ALPHAS)
    require_choice("derivatives", derivatives, SOURCES)
    require_transform(reshape_transform)
    stdevs = one_stdev(stdevs)
    inputs = as_one_example(inputs)
    names = names_of_layers(model, layers)
    smooth = [_METHODS[method].smooth for method in methods]
    noise = Noise(n_samples if any(smooth) else 0, stdevs, n_samples_batch_size, generator)
    noise.check((inputs,))
    if noise.n_samples:
        noise = replace(noise, generator=noise.source((inputs,)))  # already here, to know its seed
    seed = seed_of(noise.generator)
    shown = _input_as_photograph(inputs) if photograph is None else pixels(photograph)
    selection = Selection(filters, subset, region)
    # Other filters cost nothing, and the page shows them; only true derivatives are taken filter by filter.
    all_channels = derivatives != "autograd"
    view = ExampleView.of(inputs, model, selection, reshape_transform, names, compute_all_channels=all_channels)
    read_scores = _ScoreReader()
    probe = LayerProbe(model, list(names), read_scores=read_scores)
    user_warnings.warn(user_warnings.training_mode(probe.modules))
    averaging = Averaging(
        probe,
        view,
        derivatives,
        noise,
        show_progress=show_progress,
        with_clean_derivatives=not all(smooth),
    )
    chosen = None if targets is None else indices_of_classes(targets)

    def choose(output: Tensor) -> list[int]:
        require_row_of_scores(output)
        names_of_classes(class_names, output.shape[1])  # before the passes with noise
        return choose_classes(output[0], chosen, top_k)

    with torch.inference_mode(False), torch.no_grad():
        forward_args = as_forward_args(additional_forward_args)
        averages = averaging.run((inputs,), forward_args, choose)
        maps: dict[tuple[str, str, int], Tensor] = {}
        all_activations: dict[str, Tensor] = {}
        all_weights: dict[tuple[str, str, int], Tensor] = {}
        for target, at_layers in zip(averages.targets, averages.statistics, strict=True):
            assert isinstance(target, int)
            for statistics in at_layers:
                layer, activations = names[statistics.layer], statistics.activations
                all_activations[layer] = activations
                for method in methods:
                    if (method, layer, target) in maps:
                        raise ValueError(f"layers: {layer} has several tensors; choose a layer within it.")
                    found = statistics.averaged if _METHODS[method].smooth else statistics.clean
                    assert found is not None, "they are taken where a method needs them"
                    weights = _METHODS[method].weights(alpha, activations, found)
                    all_weights[method, layer, target] = weights
                    maps[method, layer, target] = view.attribution(weights, activations)
    recipe = Recipe(
        model_name=model_name or type(model).__name__,
        n_samples=noise.n_samples,
        stdevs=stdevs,
        seed=seed,
        alpha=alpha,
        derivatives=derivatives,
        has_reshape_transform=reshape_transform is not None,
        has_forward_args=bool(forward_args),
        scores_within=read_scores.within,
        layers_by_name=frozenset(name for layer, name in names.items() if is_named(model, layer, name)),
    )
    settings = f"{recipe.model_name}, layer {', '.join(names.values())}"
    if noise.n_samples:
        settings += f"; noise: n = {n_samples}, \N{GREEK SMALL LETTER SIGMA} = {stdevs:g}"
    return Explanation(
        averages.output[0],
        maps,
        shown,
        str(title),
        settings,
        names_of_classes(class_names, averages.output.shape[1]),
        selection,
        all_activations,
        all_weights,
        recipe,
    )


def logits_of(output: Any) -> Any:
    """The scores of a model that returns an object or a mapping with a tensor of `logits`; anything else as it is."""
    scores = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return scores if isinstance(scores, Tensor) else output


class _ScoreReader:
    """Reads the scores of a model, and remembers whether they were within an object."""

    within = False

    def __call__(self, output: Any) -> Any:
        scores = logits_of(output)
        self.within = scores is not output
        return scores


def _input_as_photograph(inputs: Tensor) -> npt.NDArray[np.float32] | None:
    """The input, scaled to [0, 1], as (H, W, 3); None if it is not an image."""
    image = inputs[0].detach().float().cpu()
    if image.dim() != 3 or len(image) not in {1, 3}:
        return None
    low, high = image.min(), image.max()
    return pixels(((image - low) / (high - low).clamp_min(torch.finfo().tiny)).permute(1, 2, 0).numpy())
