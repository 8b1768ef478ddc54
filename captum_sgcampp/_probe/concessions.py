"""What a pass concedes to a model that the usual one does not fit, and the signal that it must concede more."""

from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Concessions:
    """All that a pass concedes. A pass is repeated only with more of them, so at most as often as there are any."""

    made: frozenset[Concession] = frozenset()

    def __contains__(self, concession: Concession) -> bool:
        return concession in self.made

    def with_(self, needed: "ConcessionNeeded") -> "Concessions":
        """These and the one that is needed.

        Raises:
            Exception: It has been made already and did not help; the error is the one that `needed` has for this.
        """
        if needed.concession in self:
            raise needed.error from None
        return Concessions(self.made | {needed.concession})


class Attempt:
    """One attempt at a pass.

    Args:
        concessions: What it concedes.

    Attributes:
        needed: The first further concession that turned out to be needed.
    """

    def __init__(self, concessions: Concessions) -> None:
        self.concessions = concessions
        self.needed: Concession | None = None

    def needs(self, concession: Concession, error: Exception) -> "ConcessionNeeded":
        """Notes that a concession is needed, in case the model catches the signal, and makes the signal.

        Args:
            concession: What is needed.
            error: What callers get if it has been conceded already.
        """
        self.needed = self.needed or concession
        return ConcessionNeeded(self, concession, error)

    def require_enough(self) -> None:
        """Sends the signal again if a concession is needed, in case the model has caught it."""
        if self.needed:
            raise ConcessionNeeded(self, self.needed, DiscardedError())

    def is_behind(self, error: BaseException) -> bool:
        """Whether an error follows from the signal, or from the error in its place."""
        return any(
            isinstance(cause, DiscardedError) or (isinstance(cause, ConcessionNeeded) and cause.attempt is self)
            for cause in chain_of(error)
        )


class ConcessionNeeded(BaseException):
    """The signal that ends an attempt that needs a concession; the pass runs again with it.

    It is no `Exception`, so that a model that catches its own errors does not go another way because of this one.

    Args:
        attempt: The attempt. That of another attribution, around this one, is none of this one's business.
        concession: What is needed.
        error: What callers get if it has been conceded already.
    """

    def __init__(self, attempt: Attempt, concession: Concession, error: Exception) -> None:
        super().__init__(str(error))
        self.attempt = attempt
        self.concession = concession
        self.error = error


class DiscardedError(RuntimeError):
    """A backward pass needs a tensor that was discarded.

    Callers get it only if they use the graph of a finished pass.
    """

    def __init__(self, *_: object) -> None:
        super().__init__(
            "This backward pass goes through a forward pass run by captum_sgcampp, which kept nothing below the "
            "layers. If the model keeps tensors between calls, clear them, or call it once before you attribute."
        )


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from or while handling."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            pending += [other for other in (current.__cause__, current.__context__) if other is not None]
