"""`python -m captum_sgcampp`, and the command `captum-sgcampp`."""

import sys


def main() -> int:
    """Runs the command line, or reports a missing package."""
    try:
        from captum_sgcampp.cli.command import run
    except ModuleNotFoundError as error:
        print(f"captum-sgcampp: {error.name} is missing; pip install 'captum-sgcampp[demo]' brings it", file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
