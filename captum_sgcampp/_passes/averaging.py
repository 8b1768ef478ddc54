"""Averages derivatives over noise samples: one pass without noise for the activations, and passes with it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._captum import (
    ExpansionTypes,
    NullProgress,
    TargetType,
    _expand_target,
    progress,
)
from captum_sgcampp._passes import user_warnings
from captum_sgcampp._passes.clean_pass import CleanPass, CleanTensor
from captum_sgcampp._passes.layer_view import LayerView
from captum_sgcampp._passes.noise import Noise
from captum_sgcampp._passes.noisy_passes import CopiesPass, NoisyPasses
from captum_sgcampp._passes.running_sum import RunningSum
from captum_sgcampp._passes.sources import DerivativeSource, PassDerivatives
from captum_sgcampp._probe.layer_pass import LayerPass
from captum_sgcampp._probe.probe import LayerProbe
from captum_sgcampp._probe.targets import as_target
from captum_sgcampp.formulas import Derivatives

OnProgress = Callable[[int], object]


class LayerStatistics(NamedTuple):
    """All that the formulas need of one layer tensor, for one target."""

    layer: Module
    activations: Tensor
    r"""A at the input without noise, (N, C, \*spatial), of the selected channels."""
    averaged: Derivatives
    """D1, D2, D3, averaged over the noise samples; without noise, those at the input."""
    clean: Derivatives | None
    """D1, D2, D3 at the input without noise, where they were taken."""


class Averages(NamedTuple):
    """The outcome of all passes."""

    output: Tensor
    """The model's output without noise, detached."""
    targets: Sequence[TargetType]
    """The targets that were chosen."""
    statistics: list[list[LayerStatistics]]
    """For each target, the statistics of each layer tensor."""
    seed: int | None
    """The seed of the noise, if it is known."""


@dataclass(frozen=True)
class Averaging:
    """Averages derivatives over noise samples, for several targets from the same passes.

    The activations are always those of the input without noise. The derivatives are means over the noise samples, eq.
    (6), (7); without noise, they are taken at the input itself. Sums are updated pass by pass, so that memory does not
    grow with the number of samples.

    Args:
        probe: Runs the model.
        view: Turns the layers' tensors into maps.
        source: The name of the source of the derivatives.
        noise: The noise samples.
        grad_kwargs: For `torch.autograd.grad`.
        show_progress: Show a progress bar.
        with_clean_derivatives: Take the derivatives at the input too where there is noise.
    """

    probe: LayerProbe
    view: LayerView
    source: str
    noise: Noise
    grad_kwargs: dict[str, Any] = field(default_factory=dict)
    show_progress: bool = False
    with_clean_derivatives: bool = False

    def run(
        self,
        inputs: tuple[Tensor, ...],
        forward_args: tuple[Any, ...],
        choose_targets: Callable[[Tensor], Sequence[TargetType]],
    ) -> Averages:
        """Runs the model, first without noise and then on the noisy copies.

        Args:
            inputs: The inputs without noise.
            forward_args: What follows the inputs.
            choose_targets: Chooses the targets, given the output without noise.

        Raises:
            AssertionError: A target does not fit the output.
            IndexError: The layer does not have a selected filter or neuron.
            TypeError: Noise would be added to an input that is not a floating-point tensor.
            ValueError: The score does not depend on the layer's map, or the layer has none; several copies are to
                share a pass, and rows are not examples; or the noise does not match the inputs.

        Warns:
            UserWarning: A layer runs more than once in a pass; noise changes nothing; something is not finite, or has
                no curvature.
        """
        # The pass without noise is a pass of its own, although one less would be faster: then A is right in models that
        # mix examples too, and its shapes show whether several copies may share a pass.
        noise = self.noise.bind(inputs)  # before the model may draw numbers
        take_clean = partial(self._clean_pass, choose_targets=choose_targets)
        clean = self.probe.run(inputs, forward_args, take_clean, with_activations=True)
        sums = [[RunningSum() for _ in clean.tensors] for _ in clean.targets]
        if not noise.n_samples:
            _add(sums, clean.derivatives)
        else:
            at_once = clean.copies_at_once(noise, forward_args)
            with self._progress(clean.targets, clean.tensors) as bar:
                take = partial(self._derivatives, clean=clean, on_positions=bar.update)

                def add(derivatives: list[list[PassDerivatives]]) -> None:
                    _add(sums, derivatives)
                    if self.source != "autograd":
                        bar.update(len(derivatives[0][0].gradients))

                passes = NoisyPasses(self.probe, clean, inputs, forward_args, take)
                passes.run(noise.chunks(at_once), add)
        statistics = [
            [
                LayerStatistics(
                    tensor.layer,
                    tensor.activations,
                    running_sum.mean(),
                    clean.derivatives[number][place].summed if clean.derivatives else None,
                )
                for place, (tensor, running_sum) in enumerate(zip(clean.tensors, sums_at_target, strict=True))
            ]
            for number, sums_at_target in enumerate(sums)
        ]
        self._warn(clean, sums, statistics)
        return Averages(clean.output, clean.targets, statistics, noise.seed)

    def _clean_pass(self, layer_pass: LayerPass, choose_targets: Callable[[Tensor], Sequence[TargetType]]) -> CleanPass:
        """Keeps what is needed of the pass without noise."""
        output = layer_pass.output.detach()
        targets = [as_target(target) for target in choose_targets(output)]
        n_scores, *_ = [len(layer_pass.scores(target)) for target in targets]  # wrong targets raise here
        for tensor in layer_pass.tensors:
            user_warnings.warn(user_warnings.repeated_layer(tensor.name, tensor.calls))
        tensors = [
            CleanTensor(
                tensor.layer,
                tensor.name,
                values,
                self.view.activations(values, tensor.name),
            )
            for values, tensor in zip(layer_pass.activations(), layer_pass.tensors, strict=True)
        ]
        clean = CleanPass(output, targets, n_scores, tensors, [])
        if self.noise.n_samples and not self.with_clean_derivatives:
            return clean
        # A progress bar for the noise samples follows where there are any.
        bar_of_pass = NullProgress() if self.noise.n_samples else self._progress(targets, tensors)
        with bar_of_pass as bar:
            derivatives = self._derivatives(CopiesPass(layer_pass, 1), clean, bar.update)
            if self.source != "autograd":
                bar.update(1)
            return replace(clean, derivatives=derivatives)

    def _derivatives(
        self, copies: CopiesPass, clean: CleanPass, on_positions: OnProgress
    ) -> list[list[PassDerivatives]]:
        """Takes the derivatives at each tensor for each target from a pass of one or several noise samples."""
        layer_pass, n_samples, n_beside = copies
        source = DerivativeSource(self.source, self.view, self.grad_kwargs, on_positions, n_beside)
        activations = [tensor.activations for tensor in clean.tensors]
        derivatives = []
        for number, target in enumerate(clean.targets, start=1):
            scores = layer_pass.scores(_expand_target(target, n_samples, ExpansionTypes.repeat))
            if len(scores) != n_samples * clean.n_scores:
                raise ValueError(
                    f"forward_func: returned {len(scores)} score(s) for {n_samples} noisy copies of inputs, and "
                    f"{clean.n_scores} for the inputs. It must return one score for each example, or be given "
                    "one copy at a time with n_samples_batch_size=1."
                )
            others_follow = number < len(clean.targets)
            derivatives.append(
                source.derivatives(layer_pass, scores, n_samples, activations, retain_graph=others_follow)
            )
        return derivatives

    def _progress(self, targets: Sequence[TargetType], tensors: Sequence[CleanTensor]) -> AbstractContextManager[Any]:
        if not self.show_progress:
            return NullProgress()
        n_passes = max(1, self.noise.n_samples)
        if self.source != "autograd":
            return progress(total=n_passes, desc="Noise samples")
        n_positions = sum(tensor.activations.numel() for tensor in tensors)
        return progress(total=n_passes * len(targets) * n_positions, desc="Positions")

    def _warn(
        self,
        clean: CleanPass,
        sums: list[list[RunningSum]],
        statistics: list[list[LayerStatistics]],
    ) -> None:
        messages: list[str] = []
        for at_target, sums_at_target in zip(statistics, sums, strict=True):
            for tensor, running_sum, (_, activations, mean, _) in zip(
                clean.tensors, sums_at_target, at_target, strict=True
            ):
                messages += user_warnings.not_finite(tensor.name, activations, mean)
                in_float16 = torch.float16 in {tensor.rows.dtype, clean.output.dtype}
                if in_float16 and not mean.first.flatten(1).any(dim=1).all():
                    messages += user_warnings.underflow(tensor.name)
                if mean.first.any():
                    if running_sum.n_samples > 1 and running_sum.same_gradient:
                        messages += user_warnings.smoothing_without_effect(tensor.name)
                    if self.source == "autograd" and not mean.second.any():
                        messages += user_warnings.no_curvature(tensor.name)
        user_warnings.warn(messages)


def _add(sums: list[list[RunningSum]], derivatives: list[list[PassDerivatives]]) -> None:
    for sums_at_target, at_target in zip(sums, derivatives, strict=True):
        for running_sum, at_tensor in zip(sums_at_target, at_target, strict=True):
            running_sum.add(at_tensor)
