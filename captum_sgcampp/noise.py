"""The noise of eq. (6): noisy copies of the input, drawn so that a seed means the same noise in chunks of any size."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Generator, Tensor

IMAGES_AT_ONCE = {"cpu": 5}
"""How many noisy images go through the model at once where the caller does not say, by type of device.

On the CPU 5 and 6 were the fastest for a ResNet-50 and a VGG-16, and 5 takes less memory.
"""
IMAGES_AT_ONCE_ELSEWHERE = 32
"""On other devices; not measured."""


@dataclass(frozen=True)
class Noise:
    """The noise samples of one attribution.

    Args:
        n_samples: Number of noisy copies of each input, n in eq. (6). 0 means none.
        stdevs: Standard deviation of the noise, in the units of the input; one for all inputs, or one for each.
        batch_size: How many noisy copies of each input go through the model at once, at most. None picks it by device.
        generator: Source of the noise. None takes torch's own.
        show_progress: Show a progress bar over the noise samples.

    Raises:
        TypeError: An argument is not the kind of number that it should be.
        ValueError: An argument is out of its range.
    """

    n_samples: int = 0
    stdevs: float | Sequence[float] = 0.15
    batch_size: int | None = None
    generator: Generator | None = None
    show_progress: bool = False

    def __post_init__(self) -> None:
        _require_integer("n_samples", self.n_samples, at_least=0)
        if self.batch_size is not None:
            _require_integer("n_samples_batch_size", self.batch_size, at_least=1)
        for stdev in self.stdevs if isinstance(self.stdevs, Sequence) else (self.stdevs,):
            if not isinstance(stdev, Real):
                raise TypeError(f"stdevs: must be a number or one number for each input, and is {self.stdevs!r}.")
            if not 0 <= stdev < math.inf:
                raise ValueError(f"stdevs: must be finite and not negative, and is {self.stdevs!r}.")

    def chunks(self, inputs: tuple[Tensor, ...]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yields the noisy copies in chunks that go through the model at once.

        Args:
            inputs: The inputs without noise, each (N, ...).

        Yields:
            The number of samples m in the chunk, and the inputs with noise, each (m * N, ...): the first sample of
            all examples, then the second, and so on.

        Raises:
            TypeError: There is noise to add to an input that is not of floating point.
            ValueError: The number of `stdevs` is not that of the inputs.
        """
        stdevs = self._for_each(inputs)
        for n_samples in _even_parts(self.n_samples, self.batch_size or default_batch_size(inputs[0])):
            samples = [self._sample(inputs, stdevs) for _ in range(n_samples)]
            yield n_samples, tuple(torch.cat(copies) for copies in zip(*samples, strict=True))

    def check(self, inputs: tuple[Tensor, ...]) -> None:
        """Raises what :meth:`chunks` would, before anything is computed."""
        if self.n_samples:
            self._for_each(inputs)

    def _for_each(self, inputs: tuple[Tensor, ...]) -> tuple[float, ...]:
        """The standard deviation for each input."""
        if not isinstance(self.stdevs, Sequence):
            stdevs = (self.stdevs,) * len(inputs)
        elif len(self.stdevs) == len(inputs):
            stdevs = tuple(self.stdevs)
        else:
            raise ValueError(
                f"stdevs: {len(self.stdevs)} are given for {len(inputs)} input tensor(s): {self.stdevs!r}. "
                "Give one number for all inputs, or a tuple with one for each."
            )
        for number, (tensor, stdev) in enumerate(zip(inputs, stdevs, strict=True)):
            if stdev and not tensor.is_floating_point():
                raise TypeError(
                    f"inputs: noise can only be added to floating point, and input {number} is {tensor.dtype}. "
                    "Give it a standard deviation of 0 in stdevs, or n_samples=0."
                )
        return stdevs

    def _sample(self, inputs: tuple[Tensor, ...], stdevs: tuple[float, ...]) -> tuple[Tensor, ...]:
        """One noisy copy of all examples. Each is a draw of its own, whatever the size of the chunk it goes to."""

        def normal(tensor: Tensor, stdev: float) -> Tensor:
            # Half precision gets the noise of float32, rounded, so that a seed means the same there too.
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            noise = torch.randn(tensor.shape, dtype=dtype, device=tensor.device, generator=self.generator)
            return (stdev * noise).to(tensor.dtype)

        return tuple(
            tensor + normal(tensor, stdev) if stdev else tensor for tensor, stdev in zip(inputs, stdevs, strict=True)
        )


def default_batch_size(inputs: Tensor) -> int:
    """How many copies of an input, (N, ...), go through the model at once where the caller does not say."""
    images = IMAGES_AT_ONCE.get(inputs.device.type, IMAGES_AT_ONCE_ELSEWHERE)
    return max(1, images // max(1, len(inputs)))


def _even_parts(whole: int, at_most: int) -> Iterator[int]:
    """Splits a number into the fewest parts, as even as can be: a pass of a single image costs more than its share."""
    n_parts = math.ceil(whole / at_most)
    for number in range(n_parts):
        yield whole // n_parts + (number < whole % n_parts)


def _require_integer(name: str, value: object, at_least: int) -> None:
    if not isinstance(value, Integral):
        raise TypeError(f"{name}: must be an integer, and is {value!r}.")
    if int(value) < at_least:
        raise ValueError(f"{name}: must be at least {at_least}, and is {value}.")
