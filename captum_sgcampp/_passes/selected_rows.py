"""Layers whose rows are selected by their values, such as a detector's boxes, and differ from pass to pass."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._torch import DispatchMode

SELECTING = {
    "gather",
    "index",
    "index_select",
    "masked_select",
    "narrow",
    "ps_roi_align",
    "ps_roi_pool",
    "roi_align",
    "roi_pool",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "take",
}
"""The operations that take parts of a tensor, by their names in torch and torchvision."""

Selection = tuple[str, list[Any]]
"""The name of an operation, and where it takes something from."""


class SelectionWatch:
    """A context for a pass, in which the model must take the same parts of its tensors as in the pass before.

    Averaged over noisy copies, row 5 of a layer would otherwise be something else each time. Frames and windows, and
    what depends on a mask or on words that are the same in each pass, are taken from the same places.

    Args:
        layers: The layers to watch, with their names for messages; what follows them does not matter. With none, the
            context does nothing.

    Raises:
        ValueError: On leaving the context, the rows of a layer are others.
    """

    def __init__(self, layers: Mapping[Module, str]) -> None:
        self._layers = dict(layers)
        self._stack = ExitStack()
        self._before: dict[Module, list[Selection]] = {}
        self._now: dict[Module, list[Selection]] = {}

    def __enter__(self) -> None:
        self._now = {}
        if self._layers:
            recorder = self._stack.enter_context(_Recorder())
            for layer in self._layers:
                self._stack.callback(layer.register_forward_pre_hook(self._noting(layer, recorder)).remove)

    def _noting(self, layer: Module, recorder: "_Recorder") -> Callable[..., None]:
        def note(*_args: Any) -> None:
            self._now[layer] = list(recorder.selections)

        return note

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is not None:
            return
        for layer, name in self._layers.items():
            now = self._now.get(layer, [])
            operation = _difference(self._before.setdefault(layer, now), now)
            if operation:
                raise ValueError(
                    f"layer: the rows of {name} are not those of the inputs, and which they are depends on values: "
                    f"the model takes other parts ({operation}) for each noisy copy. A row is then something else in "
                    "each pass, and their average means nothing. Choose a layer with a row for each example, such as "
                    "one before the selection, or attribute without noise."
                )


class _Recorder(DispatchMode):  # type: ignore[no-untyped-call]
    """Remembers what is taken of tensors, and where."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.selections: list[Selection] = []

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(getattr(function, "overloadpacket", None), "__name__", "")
        if name in SELECTING:
            self.selections.append((name, _places(args[1:])))
        return function(*args, **(kwargs or {}))


def _places(values: Any) -> list[Any]:
    """The numbers and the tensors among the arguments of an operation."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found += _places(value)
        else:
            found.append(value.detach().clone() if isinstance(value, Tensor) else value)
    return found


def _difference(before: list[Selection], now: list[Selection]) -> str | None:
    """The first operation that takes other parts; None if all take the same."""
    if len(before) != len(now):
        return "another number of them"
    for (name, places), (other_name, other_places) in zip(before, now, strict=True):
        if name != other_name or len(places) != len(other_places) or not all(map(_are_equal, places, other_places)):
            return name
    return None


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(one == other)
