"""Warnings about maps that are not what they seem."""

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import Module, MultiheadAttention
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.rnn import RNNBase

from captum_sgcampp.formulas import Derivatives, over_positions


def warn(messages: Iterable[str]) -> None:
    """Emits each warning once, at the line of the caller outside this package and Captum."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in {"captum", "captum_sgcampp"}:
        frame, level = frame.f_back, level + 1
    for message in dict.fromkeys(messages):
        warnings.warn(message, stacklevel=level)


def training_mode(modules: Iterable[Module]) -> Iterator[str]:
    """A model that behaves differently in each pass, as far as its modules show."""
    kinds = {type(module).__name__ for module in modules if module.training and _is_random_or_updated(module)}
    if kinds:
        yield (
            f"forward_func: the model is in training mode, with {', '.join(sorted(kinds))}. Each pass drops "
            "different activations or updates running statistics. Call eval() first, unless you want this."
        )


def _is_random_or_updated(module: Module) -> bool:
    """Whether a module in training mode drops activations, or updates running statistics."""
    if isinstance(module, _NormBase):
        return module.track_running_stats
    if isinstance(module, (RNNBase, MultiheadAttention)):
        return module.dropout > 0
    if isinstance(module, _DropoutNd) or type(module).__name__ == "StochasticDepth":  # of torchvision
        return bool(module.p)
    return type(module).__name__ == "DropPath" and bool(getattr(module, "drop_prob", 0))  # of timm and others


def no_noise(method: str | None) -> Iterator[str]:
    """A smooth method without noise, which is the paper's default, and what it is called then, if that is known."""
    map_of = f" and the map is that of {method}" if method else ""
    yield f"n_samples: is 0, so no noise is added{map_of}. Give a number such as n_samples=25."


def repeated_layer(layer: str, calls: int) -> Iterator[str]:
    """A layer that runs more than once, of which only the last run counts."""
    if calls > 1:
        yield (
            f"layer: {layer} runs {calls} times in one forward pass; the attribution is for the last run only. To "
            "attribute to another run, use a separate module for each."
        )


def examples_influence_one_another() -> Iterator[str]:
    """Noisy copies that may not share a pass, although each has a row of its own in every tensor."""
    yield (
        "n_samples_batch_size: noisy copies go through the model one at a time, because its scores for an example "
        "depend on the other examples of the pass, as with a batch norm without running statistics. Maps of several "
        "examples that share a call influence one another in the same way."
    )


def several_copies_refused(error: Exception) -> Iterator[str]:
    """A model that does not take several noisy copies in one pass."""
    yield (
        "n_samples_batch_size: noisy copies go through the model one at a time, because it does not take several: "
        f"{type(error).__name__}: {str(error).rstrip('.')}. n_samples_batch_size=1 does so from the start."
    )


def not_finite(layer: str, activations: Tensor, mean: Derivatives) -> Iterator[str]:
    """Values that make the map not finite, or a channel count for nothing."""
    if not mean.first.isfinite().all():
        yield f"layer: the gradients of {layer} are not all finite; do not trust the attribution."
    counts = over_positions(torch.amax, (mean.first != 0).to(activations.dtype)) != 0
    if not activations[counts.expand_as(activations)].isfinite().all():
        yield f"layer: the activations of {layer} are not all finite; do not trust the attribution."
    elif not over_positions(torch.sum, activations)[counts].isfinite().all():
        yield (
            f"layer: the activations of {layer} overflow when they are summed over a channel, which then counts for "
            "nothing in the attribution. Run the model in float64."
        )


def underflow(layer: str) -> Iterator[str]:
    """Gradients that half precision may be unable to hold."""
    yield (
        f"layer: the gradients of {layer} are zero for an example, and so is its attribution. Computed in float16, "
        "they may be too small for it. Run the model in float32 or bfloat16, or let forward_func return the score "
        "times a large number."
    )


def smoothing_without_effect(layer: str) -> Iterator[str]:
    """Noise that does not change the gradient."""
    yield (
        f"n_samples: smoothing changes nothing at layer {layer}, where the gradient is the same for all noisy "
        "copies. Either everything above it is affine, as after the last block of many networks, or the noise is "
        "too small to matter. Choose an earlier layer, or larger stdevs."
    )


def no_curvature(layer: str) -> Iterator[str]:
    """Derivatives by "autograd" of a piecewise linear score."""
    yield (
        f"derivatives: the second derivatives of the score with respect to {layer} are zero, and so is the "
        "attribution. Let forward_func return the exponential of the score, or choose derivatives='exp' or 'powers', "
        "which assume that exponential."
    )


def images_without_map(errors: Mapping[str, str], n_images: int) -> Iterator[str]:
    """Images of a dataset that could not be read, or that the model refused."""
    if errors:
        name, error = next(iter(errors.items()))
        yield (
            f"dataset: {len(errors)} of {n_images} image(s) have no map, such as {name!r}: {error}. The index has the "
            "error of each, and retry_failed=True tries them again."
        )


def images_influence_one_another() -> Iterator[str]:
    """A model whose output for an image of a dataset depends on the others of its batch."""
    yield (
        "dataset: the model's output for an image depends on the other images of its batch, as with a batch norm "
        "without running statistics. Images go through the model one at a time, so that no map depends on its "
        "neighbours; batch_size=1 asks for this."
    )
