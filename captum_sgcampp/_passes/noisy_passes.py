"""The passes with noise: how many copies share one, and whether they may."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from captum_sgcampp._captum import ExpansionTypes, _expand_additional_forward_args
from captum_sgcampp._passes import user_warnings
from captum_sgcampp._passes.clean_pass import CleanPass
from captum_sgcampp._passes.selected_rows import SelectionWatch
from captum_sgcampp._probe.layer_pass import LayerPass
from captum_sgcampp._probe.probe import LayerProbe
from captum_sgcampp._probe.rounding import are_influenced

Result = TypeVar("Result")
Inputs = tuple[Tensor, ...]

REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a model raises that does not take several copies. Whatever else interrupts a pass is not caught."""


class CopiesPass(NamedTuple):
    """A pass with noisy copies."""

    layer_pass: LayerPass
    """The pass. Its output has the rows of the copies alone."""
    n_samples: int
    """The number of noise samples."""
    n_beside: int = 0
    """The number of rows that follow those of the copies in the tensors of the layers, and count for nothing."""


@dataclass(frozen=True)
class NoisyPasses(Generic[Result]):
    """Runs the model on noisy copies, several at once unless these influence one another.

    Shapes do not show whether they do: a batch norm without running statistics keeps them. So the inputs without noise
    go through the first shared pass too, behind the copies, and must come out as they did without them. That is one
    copy more, and no pass more.

    Args:
        probe: Runs the model.
        clean: The pass without noise.
        inputs: The inputs of that pass.
        forward_args: What follows them.
        compute: Computes the result of a pass.
    """

    probe: LayerProbe
    clean: CleanPass
    inputs: Inputs
    forward_args: tuple[Any, ...]
    compute: Callable[[CopiesPass], Result]

    def run(self, chunks: Iterable[tuple[int, Inputs]], add: Callable[[Result], object]) -> None:
        """Runs all copies.

        Args:
            chunks: The noisy copies that may share a pass as far as shapes show, with the number of samples in each.
            add: Called with the result of each pass.

        Raises:
            ValueError: The rows of a layer are selected by their values, so that they are others for each copy.

        Warns:
            UserWarning: Copies go through the model one at a time, because they influence one another, or because the
                model does not take several.
        """
        together: bool | None = None  # not known before the first pass with several
        warning: list[str] = []
        watch = SelectionWatch(self.clean.layers_with_other_rows(self.inputs))
        for n_samples, copies in chunks:
            if n_samples > 1 and together is None:
                result, warning = self._first_together(copies, n_samples)
                together = result is not None
                if result is not None:
                    add(result)
                    continue
            for part, size in [(copies, n_samples)] if together else _one_by_one(copies, n_samples):
                with watch:
                    result = self._run(part, size)
                user_warnings.warn(warning)  # after a pass that shows it to be true
                warning = []
                add(result)

    def _run(self, copies: Inputs, n_samples: int) -> Result:
        args = self._args(n_samples)
        return self.probe.run(copies, args, lambda found: self.compute(CopiesPass(found, n_samples)))

    def _first_together(self, copies: Inputs, n_samples: int) -> tuple[Result | None, list[str]]:
        """The first pass with several copies, and the inputs without noise behind them.

        Returns:
            The result; or None, and why the copies must not share a pass.
        """
        undo = self.probe.restorable(self.inputs)
        n_beside = len(self.clean.output)

        def looked_at(found: LayerPass) -> tuple[list[Tensor], Tensor, Result]:
            rows = [tensor.detach()[-n_beside:] for tensor in (found.output, *found.activations())]
            copies_alone = replace(found, output=found.output[:-n_beside])
            result = self.compute(CopiesPass(copies_alone, n_samples, n_beside))
            return rows, torch.stack(copies_alone.output.detach().chunk(n_samples)), result

        try:
            beside, samples, result = self.probe.run(
                tuple(torch.cat(pair) for pair in zip(copies, self.inputs, strict=True)),
                self._args(n_samples + 1),
                looked_at,
                with_activations=True,
            )
        except REFUSALS as error:
            undo()
            return None, list(user_warnings.several_copies_refused(error))
        if not self._are_influenced(beside, samples):
            return result, []
        undo()
        return None, list(user_warnings.examples_influence_one_another())

    def _are_influenced(self, beside: list[Tensor], samples: Tensor) -> bool:
        """Whether the inputs without noise came out otherwise beside the copies. Leaves no trace in the model."""
        alone = [self.clean.output, *(tensor.rows for tensor in self.clean.tensors)]
        undo = self.probe.restorable(self.inputs)

        def run(n_copies: int) -> list[list[Tensor]]:
            """Runs the model on copies without noise, and returns what each has come out as."""
            inputs = tuple(torch.cat([tensor] * n_copies) for tensor in self.inputs)
            output, layers = self.probe.run(
                inputs,
                self._args(n_copies),
                lambda found: (found.output.detach(), found.activations()),
                with_activations=True,
            )
            return [
                list(of_copy) for of_copy in zip(*(rows.chunk(n_copies) for rows in (output, *layers)), strict=True)
            ]

        found = are_influenced(
            beside,
            alone,
            samples,
            again=lambda: run(1)[0],
            repeated=lambda: run(len(samples) + 1),
            dtypes={tensor.dtype for tensor in (*alone, *self.inputs)},
            modules=self.probe.modules,
        )
        undo()
        return found

    def _args(self, n_samples: int) -> tuple[Any, ...]:
        """The arguments of each example, repeated along with the inputs, as Captum does."""
        if n_samples == 1:
            return self.forward_args
        return _expand_additional_forward_args(self.forward_args, n_samples, ExpansionTypes.repeat) or ()


def _one_by_one(copies: Inputs, n_samples: int) -> list[tuple[Inputs, int]]:
    """The copies of each sample, and that they are of one."""
    if n_samples == 1:
        return [(copies, 1)]
    return [(part, 1) for part in zip(*(tensor.chunk(n_samples) for tensor in copies), strict=True)]
