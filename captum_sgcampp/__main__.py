"""`python -m captum_sgcampp`, and the command `captum-sgcampp`."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from captum_sgcampp._extras import missing
from captum_sgcampp.cli.arguments import parse

INTERRUPTED, CLOSED_PIPE = 130, 141
"""The exit statuses that a shell reports for SIGINT and SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Its arguments. None takes those of the process.

    Returns:
        The exit status: 0; 2 if anything could not be done; 130 after Ctrl-C; 141 if the output is a closed pipe.
    """
    sys.stdout = sys.stdout or io.StringIO()  # None if it is closed
    sys.stderr = sys.stderr or sys.stdout
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("captum-sgcampp: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # of standard output; all others are reported where they occur
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it exits
        if isinstance(error, BrokenPipeError):
            return CLOSED_PIPE
        print(f"captum-sgcampp: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return 2
    return status


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C end the process at once. The import of torch can lose a KeyboardInterrupt."""

    def end(*_args: object) -> None:
        os.write(2, b"captum-sgcampp: interrupted\n")
        os._exit(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(arguments: Sequence[str] | None) -> int:
    options = parse(arguments)
    try:
        with _interruptible():
            from captum_sgcampp.cli.command import run
    except ModuleNotFoundError as error:
        print(f"captum-sgcampp: {missing(error.name, 'demo')}", file=sys.stderr)
        return 2
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
