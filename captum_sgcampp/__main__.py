"""`python -m captum_sgcampp`, and the command `captum-sgcampp`."""

import os
import sys
from collections.abc import Sequence

from captum_sgcampp.cli.arguments import parse

INTERRUPTED, CLOSED_PIPE = 130, 141
"""The exit statuses that a shell reports for SIGINT and SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Its arguments. None takes those of the process.

    Returns:
        The exit status: 0; 2 if anything could not be done; 130 after Ctrl-C; 141 if nobody reads the output any more.
    """
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("captum-sgcampp: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it exits
        return CLOSED_PIPE
    return status


def _run(arguments: Sequence[str] | None) -> int:
    options = parse(arguments)
    try:
        from captum_sgcampp.cli.command import run
    except ModuleNotFoundError as error:
        print(f"captum-sgcampp: {error.name} is missing; pip install 'captum-sgcampp[demo]' brings it", file=sys.stderr)
        return 2
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
