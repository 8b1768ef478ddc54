"""What a pass concedes to a model that the usual one does not fit, and the signal that a concession is needed."""

from collections.abc import Iterator
from enum import Enum, auto


class Concession(Enum):
    """A way in which a pass differs from the usual one."""

    NO_HOOKS = auto()
    """No hooks on saved tensors, with which `torch.func` does not work. Autograd then keeps everything."""
    KEEP_ALL = auto()
    """Keep what is saved below the layers too: the model takes gradients there, or a checkpoint surrounds them."""
    KEEP_COPIES = auto()
    """Keep copies of what is saved, because the model writes into it afterwards, as models for inference do."""
    COPY_VIEWS = auto()
    """Let the model go on with a copy where the layer's tensor is a view, because it writes into its memory."""
    OTHER_THREADS = auto()
    """Capture the runs in threads that were started during the attribution."""


class ConcessionNeeded(BaseException):
    """Ends a pass that needs a concession; it runs again with it.

    It is no `Exception`, so that a model that catches its own errors does not go another way because of this one.

    Args:
        concession: What is needed.
        error: What callers get if it has been conceded already.
    """

    def __init__(self, concession: Concession, error: Exception) -> None:
        super().__init__(str(error))
        self.concession = concession
        self.error = error


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from or while handling."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            pending += [other for other in (current.__cause__, current.__context__) if other is not None]
