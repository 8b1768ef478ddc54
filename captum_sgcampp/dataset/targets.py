"""The targets of a batch of images: the predicted class, the dataset's label, or fixed ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from captum_sgcampp._captum import TargetType
from captum_sgcampp._checks import require_choice, require_integer

FixedTarget = int | tuple[int, ...]
PREDICTED, LABEL = "predicted", "label"


class ImageTarget(NamedTuple):
    """The target of one image, as the index shows it."""

    target: str
    name: str
    probability: float | None
    """The softmax of its score; None without classes, or with a single one."""


class BatchTarget(NamedTuple):
    """A target for each image of a batch."""

    for_captum: TargetType
    """As `attribute` takes it."""
    of_each: list[ImageTarget]


@dataclass(frozen=True)
class Targets:
    """Chooses the targets of a batch.

    Args:
        kind: "predicted", "label", one target as Captum takes it, or a list of such targets.
        class_names: The names of the classes, if known.

    Raises:
        TypeError: A target is not an integer or a tuple of integers.
        ValueError: It is negative, or the list is empty or repeats one.
    """

    kind: str | FixedTarget | list[FixedTarget] | None
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.kind, str):
            require_choice("target", self.kind, (PREDICTED, LABEL))
        if self.kind is None or isinstance(self.kind, str):
            return
        fixed = self.kind if isinstance(self.kind, list) else [self.kind]
        for target in fixed:
            for number in target if isinstance(target, tuple) else (target,):
                require_integer("target", number, minimum=0)
        if not fixed or len(set(fixed)) < len(fixed):
            raise ValueError(f"target: must be one or several different targets, but is {self.kind!r}.")
        # Captum takes Python's integers only.
        plain = [tuple(map(int, target)) if isinstance(target, tuple) else int(target) for target in fixed]
        object.__setattr__(self, "kind", plain if isinstance(self.kind, list) else plain[0])

    def choose(self, output: Tensor, labels: Sequence[int | None]) -> list[BatchTarget]:
        """Chooses the targets, given the model's output.

        Args:
            output: (N, classes), or whatever else the model returns if the target is fixed.
            labels: The labels of the images, if the dataset has any.

        Returns:
            One target, or several if a list of them is fixed.

        Raises:
            ValueError: The output is not that of a classifier, a label is not one of its classes, or there is not a
                name for each.
        """
        n_images, is_classifier = len(labels), output.dim() == 2
        if is_classifier and self.class_names is not None and len(self.class_names) != output.shape[1]:
            raise ValueError(
                f"class_names: there are {len(self.class_names)}, but the model has {output.shape[1]} classes. If the "
                "names come from the dataset, its labels are not the model's classes."
            )
        if isinstance(self.kind, str) and not is_classifier:
            raise ValueError(
                f"target: {self.kind!r} needs a model that returns (N, classes), but it returned "
                f"{tuple(output.shape)}. Wrap it in a function that does, or give the target itself."
            )
        if self.kind == PREDICTED:
            return [self._of_batch(output.argmax(dim=1).tolist(), output)]
        if self.kind == LABEL:
            return [self._of_batch(_checked(labels, output.shape[1]), output)]
        fixed = self.kind if isinstance(self.kind, list) else [self.kind]
        return [self._of_batch([target] * n_images, output) for target in fixed]

    def _of_batch(self, targets: list[Any], output: Tensor) -> BatchTarget:
        same = all(target == targets[0] for target in targets)
        names = [""] * len(targets)
        probabilities: list[float | None] = [None] * len(targets)
        if output.dim() == 2 and all(isinstance(target, int) and target < output.shape[1] for target in targets):
            if output.shape[1] > 1:  # a single score has nothing to be compared with
                softmax = output.detach().float().softmax(dim=1)
                probabilities = softmax[range(len(targets)), targets].tolist()
            names = names if self.class_names is None else [self.class_names[target] for target in targets]
        return BatchTarget(
            targets[0] if same else targets,
            [
                ImageTarget(as_text(target), name, probability)
                for target, name, probability in zip(targets, names, probabilities, strict=True)
            ],
        )


def as_text(target: Any) -> str:
    """A target as the index and the names of maps show it: 281, or 3,0,1 for a tuple."""
    return "" if target is None else ",".join(map(str, target if isinstance(target, tuple) else (target,)))


def _checked(labels: Sequence[int | None], n_classes: int) -> list[int]:
    """The labels, if all of them are classes of the model."""
    checked = []
    for label in labels:
        if label is None:
            raise ValueError("target: is 'label', but the dataset gives no label: an integer after the image.")
        if not 0 <= label < n_classes:
            raise ValueError(f"target: the label {label} is not one of the model's classes, 0 to {n_classes - 1}.")
        checked.append(label)
    return checked
