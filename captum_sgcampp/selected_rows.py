"""Layers whose rows are selected by their values, such as a detector's boxes, and differ from pass to pass."""

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._torch import DispatchMode

SELECTING = {
    "argmax",
    "argmin",
    "argsort",
    "kthvalue",
    "masked_select",
    "multinomial",
    "nms",
    "nonzero",
    "ps_roi_align",
    "ps_roi_pool",
    "roi_align",
    "roi_pool",
    "sort",
    "topk",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
}
"""The operations by which a model decides from values which rows follow, by their names in torch and torchvision."""


class SelectionWatch:
    """A context that raises if rows of a layer are selected before it runs. Only the first use watches.

    Averaged over noisy copies, row 5 of such a layer would be something else each time. Rows that are selected by
    their place, as those of frames or windows, are not.

    Args:
        layers: The layers to watch, with their names for messages. With none, the context does nothing.

    Raises:
        ValueError: On leaving the context, a layer's rows are selected.
    """

    def __init__(self, layers: Mapping[Module, str]) -> None:
        self._layers = dict(layers)
        self._stack = ExitStack()
        self._selected: dict[str, str] = {}

    def __enter__(self) -> None:
        if not self._layers:
            return
        recorder: _Recorder = self._stack.enter_context(_Recorder())  # type: ignore[no-untyped-call]
        for layer, name in self._layers.items():

            def note(*_args: Any, name: str = name) -> None:
                if recorder.selecting:
                    self._selected.setdefault(name, recorder.selecting)

            self._stack.callback(layer.register_forward_pre_hook(note).remove)

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        self._layers = {}
        if kind is None:
            for name, operation in self._selected.items():
                raise ValueError(
                    f"layer: the rows of {name} are neither those of the inputs nor a fixed number for each: the model "
                    f"selects them by their values, with {operation}. With noise, a row is something else in each "
                    "pass, and their average means nothing. Choose a layer with a row for each example, such as one "
                    "before the selection, or attribute without noise."
                )


class _Recorder(DispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the last operation that selects."""

    selecting = ""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in SELECTING or (name == "index" and any(_is_mask(index) for index in args[1])):
            self.selecting = "a mask" if name == "index" else name
        return function(*args, **(kwargs or {}))


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in {torch.bool, torch.uint8}
