"""Averages derivatives over noise samples: a pass without noise for the activations, and passes with it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import Module

from captum_sgcampp import formulas, user_warnings
from captum_sgcampp._captum import (
    ExpansionTypes,
    NullProgress,
    TargetType,
    _expand_additional_forward_args,
    _expand_target,
    progress,
)
from captum_sgcampp.formulas import Derivatives
from captum_sgcampp.layer_pass import LayerPass, LayerProbe
from captum_sgcampp.layer_view import LayerView
from captum_sgcampp.noise import Noise, default_batch_size
from captum_sgcampp.sources import PassDerivatives, pass_derivatives
from captum_sgcampp.user_warnings import warn

Tick = Callable[[int], object]


class LayerStatistics(NamedTuple):
    """What the formulas need to know of one of the layers' tensors, for one target."""

    layer: Module
    activations: Tensor
    r"""A, at the input without noise; (N, C, \*spatial), of the selected channels."""
    derivatives: Derivatives
    """D1, D2, D3, for each of them."""


class _CleanTensor(NamedTuple):
    """One of the layers' tensors in the pass without noise."""

    layer: Module
    name: str
    n_rows: int
    """The first dimension of the tensor as the model has it."""
    activations: Tensor
    r"""The selected channels of the map, (N, C, \*spatial)."""


class _CleanPass(NamedTuple):
    """What is kept of the pass without noise."""

    tensors: list[_CleanTensor]
    n_scores: int
    sampled: list[list[PassDerivatives]]
    """The derivatives of each tensor for each target if there is no noise, otherwise nothing."""


@dataclass(frozen=True)
class Averaging:
    """Averages derivatives over noise samples, for several targets from the same passes.

    The activations are always those of the input without noise. The derivatives are taken there too if there is no
    noise; otherwise they are means over the noise samples, eq. (6), (7). The sums run along with the samples, so that
    memory does not grow with their number.

    Args:
        probe: Runs the model.
        view: What to see of the layers.
        source: Where the derivatives come from.
        noise: The noise samples.
        targets: The targets.
        grad_kwargs: For `torch.autograd.grad`.
        show_progress: Show a progress bar.
    """

    probe: LayerProbe
    view: LayerView
    source: str
    noise: Noise
    targets: Sequence[TargetType]
    grad_kwargs: dict[str, Any]
    show_progress: bool = False

    def run(self, inputs: tuple[Tensor, ...], forward_args: tuple[Any, ...]) -> list[list[LayerStatistics]]:
        """Runs the model, and returns for each target the activations and mean derivatives of each tensor.

        Args:
            inputs: The inputs without noise.
            forward_args: What follows the inputs.

        Raises:
            AssertionError: A target does not fit the output.
            IndexError: The layer does not have a selected filter or neuron.
            ValueError: The score does not depend on what is seen of a layer, or that is no map; or several copies are
                to share a pass, and rows are not examples.

        Warns:
            UserWarning: A layer runs again in a pass; noise changes nothing; something is not finite, or has no
                curvature.
        """
        # The pass without noise is a pass of its own, although one less would be faster: then A is right in models that
        # mix examples too, and its shapes show whether several copies may share a pass.
        source = self.noise.source(inputs) if self.noise.n_samples else None  # before the model may draw numbers
        clean = self.probe.run(inputs, forward_args, self._look, with_activations=True)
        sums = [[_RunningSum() for _ in clean.tensors] for _ in self.targets]
        _add(sums, clean.sampled)
        if source is not None:
            at_once = self._copies_at_once(clean, inputs, forward_args)
            with self._progress(clean.tensors) as bar:
                for n_samples, noisy_inputs in self.noise.chunks(inputs, at_once, source):
                    compute = partial(
                        self._sample,
                        tensors=clean.tensors,
                        n_scores=clean.n_scores,
                        n_samples=n_samples,
                        tick=bar.update,
                    )
                    args = _repeated(forward_args, n_samples)
                    _add(sums, self.probe.run(noisy_inputs, args, compute))
        statistics = [
            [
                LayerStatistics(tensor.layer, tensor.activations, running_sum.mean())
                for tensor, running_sum in zip(clean.tensors, sums_at_target, strict=True)
            ]
            for sums_at_target in sums
        ]
        self._warn_of_derivatives(clean.tensors, sums, statistics)
        return statistics

    def _look(self, layer_pass: LayerPass) -> _CleanPass:
        """Takes what is needed from the pass without noise."""
        n_scores, *_ = [len(layer_pass.scores(target)) for target in self.targets]  # wrong targets end here
        for tensor in layer_pass.tensors:
            warn(user_warnings.repeated_layer(tensor.name, tensor.calls))
        tensors = [
            _CleanTensor(
                tensor.layer,
                tensor.name,
                len(values) if values.dim() else 0,
                self.view.activations(values, tensor.name),
            )
            for values, tensor in zip(layer_pass.activations(), layer_pass.tensors, strict=True)
        ]
        if self.noise.n_samples:
            return _CleanPass(tensors, n_scores, [])
        with self._progress(tensors) as bar:
            return _CleanPass(tensors, n_scores, self._sample(layer_pass, tensors, n_scores, 1, bar.update))

    def _sample(
        self, layer_pass: LayerPass, tensors: list[_CleanTensor], n_scores: int, n_samples: int, tick: Tick
    ) -> list[list[PassDerivatives]]:
        """Takes the derivatives of each tensor for each target from a pass of several noise samples."""
        sampled = []
        for number, target in enumerate(self.targets, start=1):
            scores = layer_pass.scores(_expand_target(target, n_samples, ExpansionTypes.repeat))
            if len(scores) != n_samples * n_scores:
                raise ValueError(
                    f"forward_func: returned {len(scores)} score(s) for {n_samples} noisy copies of inputs that it "
                    f"returns {n_scores} for. It must return one score for each example, or be given one copy at a "
                    "time, n_samples_batch_size=1."
                )
            again = {"retain_graph": True} if number < len(self.targets) else {}
            activations = [tensor.activations for tensor in tensors]
            kwargs = {**self.grad_kwargs, **again}
            sampled.append(
                pass_derivatives(self.source, layer_pass, scores, n_samples, activations, self.view, kwargs, tick)
            )
        if self.source != "autograd":
            tick(n_samples)
        return sampled

    def _copies_at_once(self, clean: _CleanPass, inputs: tuple[Tensor, ...], forward_args: tuple[Any, ...]) -> int:
        """How many noisy copies may share a pass: one, unless all rows are examples."""
        asked = self.noise.batch_size
        rows = {
            "inputs": [len(tensor) if tensor.dim() else 0 for tensor in inputs],
            "additional_forward_args": [
                len(arg) if arg.dim() else 0 for arg in forward_args if isinstance(arg, Tensor)
            ],
            **{f"layer {tensor.name}": [tensor.n_rows, len(tensor.activations)] for tensor in clean.tensors},
        }
        other = [what for what, numbers in rows.items() if any(number != clean.n_scores for number in numbers)]
        if not other:
            return asked or default_batch_size(inputs[0])
        if asked is not None and min(asked, self.noise.n_samples) > 1:
            raise ValueError(
                f"n_samples_batch_size: must be 1 or None, and is {asked}: there are {clean.n_scores} score(s), and "
                f"{' and '.join(other)} of other first dimension(s), so rows are not examples, and noisy copies that "
                "share a pass could not be told apart."
            )
        return 1

    def _progress(self, tensors: list[_CleanTensor]) -> AbstractContextManager[Any]:
        if not self.show_progress:
            return NullProgress()
        n_passes = max(1, self.noise.n_samples)
        if self.source != "autograd":
            return progress(total=n_passes, desc="Noise samples")
        n_positions = sum(tensor.activations.numel() for tensor in tensors)
        return progress(total=n_passes * len(self.targets) * n_positions, desc="Positions")

    def _warn_of_derivatives(
        self,
        tensors: list[_CleanTensor],
        sums: "list[list[_RunningSum]]",
        statistics: list[list[LayerStatistics]],
    ) -> None:
        messages: list[str] = []
        for at_target, sums_at_target in zip(statistics, sums, strict=True):
            for tensor, running_sum, (_, activations, mean) in zip(tensors, sums_at_target, at_target, strict=True):
                messages += user_warnings.not_finite(tensor.name, activations, mean)
                if mean.first.any():
                    if running_sum.n_samples > 1 and running_sum.same_gradient:
                        messages += user_warnings.smoothing_without_effect(tensor.name)
                    if self.source == "autograd" and not mean.second.any():
                        messages += user_warnings.no_curvature(tensor.name)
        warn(messages)


@dataclass
class _RunningSum:
    """The derivatives of one of the layers' tensors, summed over the noise samples so far."""

    n_samples: int = 0
    same_gradient: bool = True
    total: Derivatives | None = None
    first_gradient: Tensor | None = field(default=None, repr=False)

    def add(self, sampled: PassDerivatives) -> None:
        """Adds the samples of a pass."""
        if self.same_gradient:
            if self.first_gradient is None:
                self.first_gradient = sampled.gradients[0].detach().clone()  # not the whole pass is kept
            self.same_gradient = user_warnings.same_gradient(sampled.gradients, self.first_gradient)
        self.n_samples += len(sampled.gradients)
        self.total = sampled.summed if self.total is None else formulas.add(self.total, sampled.summed)

    def mean(self) -> Derivatives:
        """The mean over the samples."""
        assert self.total is not None, "there is always one pass"
        return formulas.divide(self.total, self.n_samples)


def _add(sums: list[list[_RunningSum]], sampled: list[list[PassDerivatives]]) -> None:
    for sums_at_target, sampled_at_target in zip(sums, sampled, strict=False):
        for running_sum, of_tensor in zip(sums_at_target, sampled_at_target, strict=True):
            running_sum.add(of_tensor)


def _repeated(forward_args: tuple[Any, ...], n_samples: int) -> tuple[Any, ...]:
    """Repeats the arguments of each example along with the inputs, as Captum does."""
    if n_samples == 1:
        return forward_args
    return _expand_additional_forward_args(forward_args, n_samples, ExpansionTypes.repeat) or ()
