"""The arguments of `explain` besides its input: the methods, the layers, and the classes of the model's output."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_sgcampp._checks import require_choice, require_integer
from captum_sgcampp.layers import dotted_name, find_layer
from captum_sgcampp.methods import catalogue
from captum_sgcampp.methods.catalogue import Method

ClassNames = Sequence[str] | Mapping[int, str]


def chosen_methods(names: Sequence[str]) -> list[Method]:
    """The methods of these names."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"methods: must be a list, but is {names!r}.")
    known = catalogue.by_name()
    for name in names:
        require_choice("methods", name, list(known))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"methods: must be one or several different methods, but are {list(names)}.")
    return [known[name] for name in names]


def require_source(method: str, needed: str, derivatives: str) -> None:
    """Raises a ValueError if a method needs another source of the derivatives than all methods here are given.

    Those that always take the powers of the gradient need its first only, which is the same from each source.
    """
    if needed not in {"powers", derivatives}:
        raise ValueError(f"derivatives: must be {needed!r} for {method}, but is {derivatives!r}.")


def names_of_layers(model: Callable[..., Any], layers: Module | str | Sequence[Module | str]) -> dict[Module, str]:
    """The layers, each with the name that it has in the explanation."""
    if not isinstance(layers, (Module, str)) and not hasattr(layers, "__iter__"):
        raise TypeError(f"layers: must be a module, a name, or a list of these, but is {layers!r}.")
    names: dict[Module, str] = {}
    for layer in [layers] if isinstance(layers, (Module, str)) else layers:
        module = find_layer(model, layer)
        names[module] = layer if isinstance(layer, str) else dotted_name(model, layer) or type(layer).__name__
    if not names or len(set(names.values())) < len(names):
        raise ValueError(f"layers: must be one or several different layers, but are {list(names.values())}.")
    return names


def one_stdev(stdevs: float | Sequence[float]) -> float:
    """The standard deviation for the one input, also from a list of one."""
    if not isinstance(stdevs, Sequence) or isinstance(stdevs, str):
        return stdevs  # Noise refuses what is no number
    if len(stdevs) != 1:
        raise ValueError(f"stdevs: must be one number, for the one input, but is {stdevs!r}.")
    return stdevs[0]


def require_transform(reshape_transform: object) -> None:
    """Raises a TypeError if a `reshape_transform` is no function."""
    if reshape_transform is not None and not callable(reshape_transform):
        raise TypeError(
            f"reshape_transform: must be a function, such as tokens_to_map(), but is {reshape_transform!r:.80}."
        )


def require_row_of_scores(output: Tensor) -> None:
    """Raises a ValueError if a model's output is not (1, classes)."""
    if output.dim() == 2 and len(output) == 1 and output.shape[1]:
        return
    advice = "Wrap it in a function that does."
    if not output.numel():
        advice = "It has no classes."
    elif output.dim() < 2:
        advice = (
            "If that is one score for each class, or a single score, a squeeze() may have removed the first dimension: "
            "leave that out, or wrap the model in a function that returns scores.reshape(1, -1)."
        )
    raise ValueError(
        f"model: must return one row of scores, (1, classes), but returned {tuple(output.shape)}. {advice}"
    )


def choose_classes(scores: Tensor, targets: Sequence[int] | None, top_k: int) -> list[int]:
    """The classes to explain: the given ones, of which negative ones count from the end, or those with highest scores.

    Raises:
        IndexError: A target is not one of the classes.
        TypeError: `top_k` is not an integer.
        ValueError: `targets` is empty or repeats one, or `top_k` is out of range.
    """
    n_classes = len(scores)
    if targets is None:
        require_integer("top_k", top_k, minimum=1)
        if top_k > n_classes:
            raise ValueError(f"top_k: must be from 1 to the {n_classes} classes, but is {top_k}.")
        return scores.argsort(descending=True)[:top_k].tolist()
    for target in targets:
        if not -n_classes <= target < n_classes:
            raise IndexError(f"targets: {target} is out of range; the model has {n_classes} classes.")
    classes = [target % n_classes for target in targets]
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"targets: must be one or several different classes, but are {list(targets)}.")
    return classes


def names_of_classes(class_names: ClassNames | None, n_classes: int) -> Sequence[str] | None:
    """The names of the classes in their order, also from a mapping by number, such as Hugging Face's `id2label`.

    Raises:
        TypeError: They are not a list.
        ValueError: Some classes have no name, or there are more names than classes.
    """
    if class_names is None:
        return None
    if isinstance(class_names, (str, bytes)) or not hasattr(class_names, "__getitem__"):
        raise TypeError(f"class_names: must be a list of names, but is {class_names!r:.80}.")
    if len(class_names) != n_classes:
        raise ValueError(f"class_names: there are {len(class_names)}, but the model has {n_classes} classes.")
    if not isinstance(class_names, Mapping):
        return class_names
    if {*class_names} != {*range(n_classes)}:
        raise ValueError(
            f"class_names: must be a list, or a mapping from the numbers 0 to {n_classes - 1}, but has the keys "
            f"{', '.join(map(repr, [*class_names][:3]))}, ..."
        )
    return [class_names[number] for number in range(n_classes)]
