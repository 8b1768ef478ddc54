"""The words for a package that an extra of this one brings, and that is not there."""


def missing(package: str | None, extra: str) -> str:
    """Says which extra brings a package.

    Args:
        package: The package as it is imported.
        extra: The extra of `pyproject.toml` that has it.
    """
    return f"{package} is missing; pip install 'captum-sgcampp[{extra}]' brings it"
