"""What the command makes of its arguments."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from captum_sgcampp.cli.arguments import parse
from captum_sgcampp.cli.options import AttributionOptions, DatasetOptions, NetworkOptions, Options

GIVEN = (
    "a.png b --model vit_b_16 --weights w.pt --classes c.txt --device cpu --list-layers --layer x.1 x.2 --target cat "
    "--target 3 --methods grad-cam --alpha eq7 --n-samples 5 --stdevs 0.5 --seed -1 --filters 3 1 3 --subset 2,4 9,10 "
    "--region --scale each --output maps/ --page p.html --maps m --batch-size 2 --workers 0 --retry-failed"
)


def test_every_argument_has_its_place() -> None:
    assert parse(GIVEN.split()) == Options(
        images=(Path("a.png"), Path("b")),
        network=NetworkOptions("vit_b_16", Path("w.pt"), Path("c.txt"), "cpu"),
        list_layers=True,
        layers=("x.1", "x.2"),
        targets=("cat", "3"),
        top_k=1,
        attribution=AttributionOptions(("grad-cam",), "eq7", 5, 0.5, -1, (3, 1), ((2, 4), (9, 10)), region=True),
        scale="each",
        output="maps/",
        page=Path("p.html"),
        dataset=DatasetOptions(Path("m"), 2, 0, retry_failed=True),
    )


def test_without_arguments() -> None:
    assert parse([]) == Options(
        images=(),
        network=NetworkOptions("efficientnet_lite0", None, None, None),
        list_layers=False,
        layers=(),
        targets=(),
        top_k=1,
        attribution=AttributionOptions((), "bounded", 25, 0.3, 0, None, None, region=False),
        scale=None,
        output=None,
        page=None,
        dataset=None,
    )


@pytest.mark.parametrize("given", [[], GIVEN.split()])
def test_nothing_changes_the_options_afterwards(given: list[str]) -> None:
    options = parse(given)
    hash(options)  # as only what is frozen all the way down has
    with pytest.raises(FrozenInstanceError):
        options.top_k = 2  # type: ignore[misc]
