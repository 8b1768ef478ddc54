"""The passes with noise: how many copies share one, and whether they may."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from captum_sgcampp import user_warnings
from captum_sgcampp._captum import ExpansionTypes, _expand_additional_forward_args
from captum_sgcampp.clean_pass import CleanPass
from captum_sgcampp.layer_pass import LayerPass, LayerProbe
from captum_sgcampp.rounding import equal_up_to_rounding
from captum_sgcampp.selected_rows import SelectionWatch

Result = TypeVar("Result")

REFUSALS = (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
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

    Shapes do not show whether they do: a batch norm without running statistics keeps them. So the last example without
    noise goes through the first shared pass too, behind the copies, and must come out as it did without them.

    Args:
        probe: Runs the model.
        clean: The pass without noise.
        inputs: The inputs of that pass.
        forward_args: What follows them.
        compute: Computes the result of a pass.
    """

    probe: LayerProbe
    clean: CleanPass
    inputs: tuple[Tensor, ...]
    forward_args: tuple[Any, ...]
    compute: Callable[[CopiesPass], Result]

    def run(self, chunks: Iterable[tuple[int, tuple[Tensor, ...]]]) -> Iterator[Result]:
        """Runs all copies.

        Args:
            chunks: The noisy copies that may share a pass as far as shapes show, with the number of samples in each.

        Yields:
            The result of each pass.

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
                found, warning = self._first_together(n_samples, copies)
                together = found is not None
                if found is not None:
                    yield found
                    continue
            for part in [copies] if together else _one_by_one(copies, n_samples):
                with watch:
                    result = self._run(part, n_samples if together else 1)
                user_warnings.warn(warning)  # after a pass that shows it to be true
                warning = []
                yield result

    def _run(self, copies: tuple[Tensor, ...], n_samples: int) -> Result:
        """A pass of copies alone."""
        args = _repeated(self.forward_args, n_samples)
        return self.probe.run(copies, args, lambda found: self.compute(CopiesPass(found, n_samples)))

    def _first_together(self, n_samples: int, copies: tuple[Tensor, ...]) -> tuple[Result | None, list[str]]:
        """The first pass with several copies, and the last example beside them.

        Returns:
            The result; or None, and why the copies must not share a pass.
        """
        undo = self.probe.restorable(self.inputs)
        beside = tuple(torch.cat([many, one[-1:]]) for many, one in zip(copies, self.inputs, strict=True))
        args = tuple(
            torch.cat([many, one[-1:]]) if isinstance(one, Tensor) else one
            for many, one in zip(_repeated(self.forward_args, n_samples), self.forward_args, strict=True)
        )

        def compared(found: LayerPass) -> tuple[bool, Result]:
            copies_pass = CopiesPass(replace(found, output=found.output[:-1]), n_samples, n_beside=1)
            return self._last_is_alike(found), self.compute(copies_pass)

        try:
            alike, result = self.probe.run(beside, args, compared, with_activations=True)
        except REFUSALS as error:
            undo()
            return None, list(user_warnings.several_copies_refused(error))
        if alike or self._is_random():
            return result, []
        undo()
        return None, list(user_warnings.examples_influence_one_another())

    def _last_is_alike(self, layer_pass: LayerPass) -> bool:
        """Whether the last row is that of the pass without noise."""
        found = [layer_pass.output, *layer_pass.activations()]
        wanted = [self.clean.output, *(tensor.last_row for tensor in self.clean.tensors)]
        dtypes = {tensor.dtype for tensor in (*wanted, *self.inputs)}
        return all(
            equal_up_to_rounding(values[-1:], row[-1:], dtypes) for values, row in zip(found, wanted, strict=True)
        )

    def _is_random(self) -> bool:
        """Whether the model returns something else in each pass, although no batch norm joins the examples."""
        if any(isinstance(module, _BatchNorm) and _joins_examples(module) for module in self.probe.modules):
            return False
        undo = self.probe.restorable(self.inputs)
        again = self.probe.run(self.inputs, self.forward_args, lambda found: found.output.detach())
        undo()
        return not equal_up_to_rounding(again, self.clean.output)


def _joins_examples(module: _BatchNorm) -> bool:
    return module.training or module.running_mean is None


def _one_by_one(copies: tuple[Tensor, ...], n_samples: int) -> list[tuple[Tensor, ...]]:
    """The copies of each sample."""
    if n_samples == 1:
        return [copies]
    return list(zip(*(tensor.chunk(n_samples) for tensor in copies), strict=True))


def _repeated(forward_args: tuple[Any, ...], n_samples: int) -> tuple[Any, ...]:
    """Repeats the arguments of each example along with the inputs, as Captum does."""
    if n_samples == 1:
        return forward_args
    return _expand_additional_forward_args(forward_args, n_samples, ExpansionTypes.repeat) or ()
