"""Everything private that this package takes from torch, so that a new release is this file's work."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn import Module
from torch.nn.utils import parametrize


def version_of(tensor: Tensor) -> int:
    """The number of in-place operations on a tensor so far, as autograd counts them."""
    return tensor._version


@contextmanager
def preserved_version(tensor: Tensor) -> Iterator[None]:
    """Hides an in-place operation that changes no value from graphs in which the tensor is already saved."""
    with _unsafe_preserve_version_counter(tensor):
        yield


def is_view(tensor: Tensor) -> bool:
    """Whether autograd treats a tensor as a view of another one."""
    return tensor._is_view()


def is_replica(module: Module) -> bool:
    """Whether a module is a copy that DataParallel made for one of its devices."""
    return bool(getattr(module, "_is_replica", False))


def weights_are_cached() -> bool:
    """Whether parametrized weights computed now stay in use, by `torch.nn.utils.parametrize.cached`."""
    return bool(parametrize._cache_enabled)
