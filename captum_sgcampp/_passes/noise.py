"""The noise of eq. (6): noisy copies of the input, which for a given seed do not depend on the size of the chunks."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Generator, Tensor

from captum_sgcampp._checks import require_integer

IMAGES_AT_ONCE = {"cpu": 5}
"""The default number of noisy images in one forward pass, by type of device.

On the CPU, 5 and 6 were the fastest for a ResNet-50 and a VGG-16, and 5 needs less memory.
"""
IMAGES_AT_ONCE_ELSEWHERE = 32
"""The default on other devices.

On an H200, 64 was no faster for a ResNet-50 and 8 % faster for a VGG-16, with twice the memory; 16 took up to 2.3 times
as long, and 8 up to 2.7 times.
"""


@dataclass(frozen=True)
class Noise:
    """The noise samples of one attribution.

    Args:
        n_samples: Number of noisy copies of each input, n in eq. (6). 0 means none.
        stdevs: Standard deviation of the noise, in the units of the input; one for all inputs, or one for each.
        batch_size: Maximum number of noisy copies of each input in one forward pass. None chooses it by device.
        generator: Source of the noise, or one for each example. None makes one, seeded from torch's.

    Raises:
        TypeError: An argument is not a number of the right kind, or not a generator.
        ValueError: An argument is out of its range.
    """

    n_samples: int = 0
    stdevs: float | Sequence[float] = 0.15
    batch_size: int | None = None
    generator: Generator | Sequence[Generator] | None = None

    def __post_init__(self) -> None:
        require_integer("n_samples", self.n_samples, minimum=0)
        if self.batch_size is not None:
            require_integer("n_samples_batch_size", self.batch_size, minimum=1)
        for stdev in self.stdevs if isinstance(self.stdevs, Sequence) else (self.stdevs,):
            if not isinstance(stdev, Real) or isinstance(stdev, bool):
                raise TypeError(f"stdevs: must be a number or one number for each input, but is {self.stdevs!r}.")
            if not 0 <= stdev < math.inf:
                raise ValueError(f"stdevs: must be finite and not negative, but is {self.stdevs!r}.")
        if self.generator is not None:
            generators = self.generator if isinstance(self.generator, Sequence) else [self.generator]
            if not all(isinstance(generator, Generator) for generator in generators):
                raise TypeError(
                    "generator: must be a torch.Generator, or a sequence with one for each example, but is "
                    f"{self.generator!r}."
                )

    def bind(self, inputs: tuple[Tensor, ...]) -> "BoundNoise":
        """The noise for these inputs, each (N, ...): checked, and with a generator.

        That is the given one, or a new one, seeded from torch's. It is not torch's own: the model may draw from that
        too, and the noise would then depend on the order.

        Raises:
            TypeError: Noise would be added to an input that is not a floating-point tensor.
            ValueError: The number of `stdevs` does not match the inputs, or the number of generators the examples.
        """
        stdevs = self._stdev_of_each(inputs) if self.n_samples else (0.0,) * len(inputs)
        if isinstance(self.generator, Sequence):
            _require_one_for_each(self.generator, inputs, stdevs)
        generator = self.generator
        if generator is None and self.n_samples:
            seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
            generator = Generator(inputs[0].device).manual_seed(seed)
        return BoundNoise(inputs, self.n_samples, stdevs, self.batch_size, generator, seed_of(generator))

    def _stdev_of_each(self, inputs: tuple[Tensor, ...]) -> tuple[float, ...]:
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
                    f"inputs: noise can only be added to floating-point tensors, but input {number} is {tensor.dtype}. "
                    "Give it a standard deviation of 0 in stdevs, or n_samples=0."
                )
        return stdevs


@dataclass(frozen=True)
class BoundNoise:
    """The noise samples of one attribution, for its inputs.

    Args:
        inputs: The inputs without noise, each (N, ...).
        n_samples: Number of noisy copies of each.
        stdevs: Standard deviation of the noise of each.
        batch_size: Maximum number of noisy copies of each in one forward pass. None chooses it by device.
        generator: Source of the noise, or one for each example. None only without noise.
        seed: The seed of the noise, if it is known.
    """

    inputs: tuple[Tensor, ...]
    n_samples: int
    stdevs: tuple[float, ...]
    batch_size: int | None
    generator: Generator | Sequence[Generator] | None
    seed: int | None

    def chunks(self, max_copies: int) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yields the noisy copies in chunks, each for one forward pass.

        Args:
            max_copies: Maximum number of copies of each input in a chunk.

        Yields:
            The number of samples m in the chunk, and the inputs with noise, each (m * N, ...): the first sample of
            all examples, then the second, and so on.
        """
        for n_samples in even_parts(self.n_samples, max_copies):
            yield n_samples, _joined_copies([self._sample() for _ in range(n_samples)])

    def _sample(self) -> tuple[Tensor, ...]:
        """One noisy copy of all examples. Copies are drawn one by one, so that the size of chunks does not matter."""
        assert self.generator is not None, "there is one wherever there is noise"
        return tuple(
            tensor + (stdev * _normal(tensor, self.generator)).to(tensor.dtype) if stdev else tensor
            for tensor, stdev in zip(self.inputs, self.stdevs, strict=True)
        )


def seed_of(generator: object) -> int | None:
    """The seed that a generator was given, if it has not been used since; otherwise None."""
    if not isinstance(generator, Generator):
        return None
    seed = generator.initial_seed()
    fresh = Generator(generator.device).manual_seed(seed)
    return seed if torch.equal(fresh.get_state(), generator.get_state()) else None


def _require_one_for_each(
    generators: Sequence[Generator], inputs: tuple[Tensor, ...], stdevs: tuple[float, ...]
) -> None:
    """Raises a ValueError unless there is a generator for each example of the inputs that get noise."""
    for number, (tensor, stdev) in enumerate(zip(inputs, stdevs, strict=True)):
        if (stdev or number == 0) and len(generators) != len(tensor):
            which = f" of input {number}" if number else ""
            raise ValueError(
                f"generator: {len(generators)} are given for {len(tensor)} example(s){which}. Give one for all "
                "examples, or a sequence with one for each."
            )


def _normal(tensor: Tensor, generator: Generator | Sequence[Generator]) -> Tensor:
    """Standard normal noise in the shape of a tensor, in full precision so that half precision has the same noise."""
    if isinstance(generator, Sequence):
        return torch.stack([_normal(row, row_generator) for row, row_generator in zip(tensor, generator, strict=True)])
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.randn(tensor.shape, dtype=dtype, device=tensor.device, generator=generator)


def _joined_copies(samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return samples[0] if len(samples) == 1 else tuple(torch.cat(copies) for copies in zip(*samples, strict=True))


def images_at_once(device: torch.device) -> int:
    """The default number of images in one forward pass."""
    return IMAGES_AT_ONCE.get(device.type, IMAGES_AT_ONCE_ELSEWHERE)


def default_batch_size(inputs: Tensor) -> int:
    """The default number of copies of an input, (N, ...), in one forward pass."""
    return max(1, images_at_once(inputs.device) // max(1, len(inputs)))


def even_parts(total: int, max_part: int) -> Iterator[int]:
    """Splits a number into the fewest even parts; a pass with a single image costs more than its share."""
    n_parts = math.ceil(total / max_part)
    for number in range(n_parts):
        yield total // n_parts + (number < total % n_parts)
