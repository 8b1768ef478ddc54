"""What the page holds: an explanation as JSON, with the tensors from which the browser computes every map."""

import json
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

from captum_sgcampp.methods import catalogue
from captum_sgcampp.page.explained import Explained
from captum_sgcampp.page.packing import pack_colors, pack_floats, pack_halves, pack_photograph
from captum_sgcampp.picture import COLOR_MAP

MAX_BYTES = 3_000_000
"""The largest size of the layers of one photograph in a page."""


def contents(explanations: Sequence[Explained], max_bytes: int) -> dict[str, Any]:
    """Collects what the page shows.

    Args:
        explanations: One for each photograph.
        max_bytes: The largest size of the layers of one photograph. The largest layers are left out beyond that.

    Raises:
        ValueError: There are no explanations; or one has no photograph, or no layer that the page can show.
    """
    if not explanations:
        raise ValueError("explanations: is empty; give at least one.")
    colors = mpl.colormaps[COLOR_MAP](np.arange(256), bytes=True)
    return {
        "colors": pack_colors(colors),
        "methods": [_method(method) for method in catalogue.by_name().values()],
        "photographs": [_photograph(explanation, max_bytes) for explanation in explanations],
    }


def _method(method: catalogue.Method) -> dict[str, Any]:
    """What the page's calls need to know of a method."""
    return {
        "name": method.name,
        # The class to call is Captum's own where it has one.
        "className": f"captum.attr.{method.captums}" if method.captums else f"{method.module}.{method.class_name}",
        "smooth": method.is_smooth,
        "settings": [] if method.captums else [one for one in ("alpha", "derivatives") if method.takes(one)],
        # Where the table has no method without noise, it is the same class, which adds none by default.
        "withoutNoise": method.without_noise if method.without_noise in catalogue.by_name() else method.name,
    }


def _photograph(explanation: Explained, max_bytes: int) -> dict[str, Any]:
    if explanation.photograph is None:
        raise ValueError("photograph: a page needs one, because the input is not an image; give one to explain.")
    if not explanation.scores.softmax(dim=0).isfinite().all():
        raise ValueError("model: has scores that are not finite, which a page cannot show.")
    layers, left_out = _layers(explanation, max_bytes)
    if not layers:
        raise ValueError("layers: the page can show none. " + " ".join(one["why"] for one in left_out))
    recipe = explanation.recipe
    methods = list(dict.fromkeys(method for method, _, _ in explanation.maps))
    return {
        "title": str(explanation.title),
        "model": recipe.model_name,
        "image": pack_photograph(explanation.photograph),
        "classes": [_class(explanation, target) for target in explanation.targets],
        "methods": methods,
        "layers": layers,
        "leftOut": left_out,
        "opening": {
            "method": catalogue.DEFAULT if catalogue.DEFAULT in methods else methods[0],
            "filters": list(dict.fromkeys(explanation.selection.filters or ())),
            "neurons": list(dict.fromkeys(explanation.selection.subset or ())),
            "region": explanation.selection.region,
        },
        "recipe": {
            "samples": int(recipe.n_samples),
            "stdevs": repr(float(recipe.stdevs)),
            "seed": None if recipe.seed is None else str(recipe.seed),  # it can be larger than JavaScript's integers
            "alpha": recipe.alpha,
            "derivatives": recipe.derivatives,
            "reshaped": recipe.has_reshape_transform,
            "forwardArgs": recipe.has_forward_args,
            "scoresWithin": recipe.scores_within,
        },
    }


def _class(explanation: Explained, target: int) -> dict[str, Any]:
    """A class with its probability, or with its score if that is the only one."""
    named = {"target": target, "name": str(explanation.class_name(target))}
    if explanation.probabilities is None:
        return {**named, "score": float(explanation.scores[target])}
    return {**named, "probability": float(explanation.probabilities[target])}


def _layers(explanation: Explained, max_bytes: int) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The layers that fit, in their order, and those that are left out, with the reason."""
    layers, left_out = [], []
    for name in explanation.activations:
        try:
            layers.append(_layer(explanation, name))
        except ValueError as error:
            left_out.append({"name": name, "why": str(error)})
    sizes = {layer["name"]: len(json.dumps(layer)) for layer in layers}
    kept, total = set(), 0
    for name in sorted(sizes, key=sizes.__getitem__):  # the smallest first
        if total + sizes[name] <= max_bytes:
            kept.add(name)
            total += sizes[name]
        else:
            why = (
                f"{name} is too large: it takes {sizes[name] / 1e6:.1f} MB, and all layers of a photograph together "
                f"may take {max_bytes / 1e6:.1f} MB. Explain fewer classes, methods or layers, or raise max_bytes."
            )
            left_out.append({"name": name, "why": why})
    return [layer for layer in layers if layer["name"] in kept], left_out


def _layer(explanation: Explained, name: str) -> dict[str, Any]:
    activations = explanation.activations[name]
    if activations.dim() != 4:
        raise ValueError(
            f"{name} has maps of shape {tuple(activations.shape)}, and the page shows those of shape (1, C, H, W)."
        )
    all_weights: dict[str, dict[int, Any]] = {}
    try:
        packed = pack_halves(activations)
        for (method, layer, target), weights in explanation.weights.items():
            if layer == name:
                for_each_position = weights.shape[2:] == activations.shape[2:] != (1, 1)
                pack = pack_halves if for_each_position else pack_floats
                all_weights.setdefault(method, {})[target] = pack(weights)
    except ValueError as error:
        raise ValueError(f"{name} has activations or weights that are {error}.") from error
    return {
        "name": name,
        "named": name in explanation.recipe.layers_by_name,
        "grid": list(activations.shape[2:]),
        # With true derivatives, there are weights of the selected filters only.
        "filters": explanation.selection.filters if explanation.recipe.derivatives == "autograd" else None,
        "channels": activations.shape[1],
        "activations": packed,
        "weights": all_weights,
    }
