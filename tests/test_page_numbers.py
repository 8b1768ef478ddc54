"""The numbers of the page, computed in the browser, against the Python call that it shows."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import browser as chrome
import pytest
import torch
from browser import settled
from models import images, seeded
from PIL import Image
from torch import Generator, Tensor, nn

from captum_sgcampp import Explanation, explain
from captum_sgcampp.explanation import METHODS

pytestmark = pytest.mark.slow  # a browser

HALF = 2.0**-11
"""The relative error of rounding to half precision."""
TARGETS = [4, 2]
STATES = 12
"""The random choices for each recipe."""


class Named(nn.Module):
    """A network with two layers of different grids, whose activations carry a sign at the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3)
        self.block = nn.Sequential(nn.Conv2d(7, 5, 3, stride=2), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(5, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 3 * 4, 6), nn.Softplus())

    def forward(self, image: Tensor, factor: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(self.block(self.conv(image)))
        return scores if factor is None else scores * factor


class ChannelsLast(Named):
    """The same, whose layer has the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()

    def forward(self, image: Tensor, factor: Tensor | None = None) -> Tensor:
        assert factor is None
        maps = self.last(self.conv(image).movedim(1, -1)).movedim(-1, 1)
        scores: Tensor = self.head(self.block(maps))
        return scores


class Wrapped(Named):
    """The same, which returns its scores within an object, as those of Hugging Face do."""

    def forward(self, image: Tensor, factor: Tensor | None = None) -> Any:
        return SimpleNamespace(logits=super().forward(image, factor))


def to_channels_first(tensor: Tensor) -> Tensor:
    return tensor.movedim(-1, 1)


def used_generator() -> Generator:
    generator = Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    return generator


def seeded_generator() -> Generator:
    return Generator().manual_seed(2**63 + 5)  # a seed beyond JavaScript's integers


RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "scaled down": {"scale": 1e-9},
    "known seed": {"generator": seeded_generator},
    "used generator": {"generator": used_generator},
    "no noise": {"n_samples": 0},
    "eq5": {"alpha": "eq5"},
    "eq7": {"alpha": "eq7"},
    "exp": {"derivatives": "exp"},
    "autograd, some filters": {"derivatives": "autograd", "filters": [3, 0, 4], "layers": ["block"], "n_samples": 1},
    "arguments": {"additional_forward_args": torch.full((1, 1), 3.0)},
    "reshaped": {"build": ChannelsLast, "layers": ["last"], "reshape_transform": to_channels_first},
    "reshaped, exp": {
        "build": ChannelsLast,
        "layers": ["last"],
        "reshape_transform": to_channels_first,
        "derivatives": "exp",
    },
    "function": {"function": True},
    "object with logits": {"build": Wrapped},
    "object with logits, no noise, eq5": {"build": Wrapped, "n_samples": 0, "alpha": "eq5"},
}


class Case:
    """An explanation by one recipe, and what the names in its calls stand for."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        recipe = dict(recipe)
        network = seeded(recipe.pop("build", Named))
        scale, function = recipe.pop("scale", None), recipe.pop("function", False)
        if scale:
            with torch.no_grad():
                network.head[-2].weight.mul_(scale)
        make_generator: Callable[[], Generator] | None = recipe.pop("generator", None)
        self.names: dict[str, Any] = {"x": images(1, 3, 11, 13, dtype=torch.float32), "model": network}
        layers: list[Any] = recipe.pop("layers", ["conv", "block"])
        if function:
            layers = [network.block]
            self.names |= {"model": network.forward, "layer": network.block}
        self.names |= {key: recipe[key] for key in ("reshape_transform", "additional_forward_args") if key in recipe}
        if make_generator:
            recipe["generator"] = make_generator()
            self.names["generator"] = make_generator  # made anew for each call
        arguments = {"targets": TARGETS, "n_samples": 4, "title": "photo", **recipe}
        self.explanation: Explanation = explain(self.names["model"], self.names["x"], layers, **arguments)

    def run(self, call: str) -> Tensor:
        """Executes a call as it is shown."""
        names = dict(self.names)
        if "generator" in names:
            names["generator"] = names["generator"]()
        exec(call, names)  # noqa: S102
        attribution: Tensor = names["attribution"]
        return attribution


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chrome.chromium() as browser:
        yield browser


def random_state(explanation: Explanation, targets: Sequence[int], draw: random.Random) -> dict[str, Any]:
    layer = draw.choice(list(explanation.activations))
    _, channels, rows, columns = explanation.activations[layer].shape
    selected = explanation.selection.filters if explanation.recipe.derivatives == "autograd" else None
    filters = draw.sample(list(selected or range(channels)), draw.choice([0, 1, 3]))
    neurons = [[draw.randrange(rows), draw.randrange(columns)] for _ in range(draw.choice([0, 1, 2, 2, 3]))]
    return {
        "target": draw.choice(targets),
        "method": draw.choice(METHODS),
        "layer": layer,
        "filters": filters,
        "neurons": neurons,
        "region": len(neurons) == 2 and draw.random() < 0.7,
    }


SHOWN = """async (choice) => {
    await store.choose(choice);
    const { state, layer } = store.now;
    const positions = positionsOf(layer, state.neurons, state.region);
    return {
        map: [...shownMap()],
        call: element("call").textContent,
        shares: shares(layer, weightsOf(layer, state), positions),
        fragment: location.hash,
    };
}"""


@pytest.mark.filterwarnings("ignore:n_samples. is 0:UserWarning")
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_the_map_is_that_of_the_call(browser: Any, recipe: dict[str, Any], tmp_path: Path) -> None:
    case = Case(recipe)
    check(browser, case.explanation, case.run, tmp_path / "page.html", STATES)


def test_the_map_of_a_real_network_is_that_of_the_call(browser: Any, tmp_path: Path) -> None:
    networks = pytest.importorskip("captum_sgcampp.cli.networks", reason="the network is in the extra demo")
    data = pytest.importorskip("skimage.data", reason="the photograph is in the extra demo")
    classifier = networks.load_classifier("efficientnet_lite0", torch.device("cpu"))
    model, x = classifier.model, classifier.inputs(Image.fromarray(data.chelsea()))
    explained = explain(
        model, x, ["_blocks.10", "_blocks.15"], [285, 282], n_samples=2, generator=Generator().manual_seed(1)
    )

    def run(call: str) -> Tensor:
        names: dict[str, Any] = {"model": model, "x": x}
        exec(call, names)  # noqa: S102
        attribution: Tensor = names["attribution"]
        return attribution

    check(browser, explained, run, tmp_path / "page.html", 8, targets=[285, 282])


def check(
    browser: Any,
    explanation: Explanation,
    run: Callable[[str], Tensor],
    file: Path,
    n_states: int,
    targets: Sequence[int] = TARGETS,
) -> None:
    """Compares the page's numbers with the calls that it shows, for random choices."""
    explanation.save_page(file)
    draw = random.Random(3)  # noqa: S311
    n_lit = 0
    with chrome.open_page(browser, file) as page:
        settled(page)
        for _ in range(n_states):
            choice = random_state(explanation, targets, draw)
            shown = page.evaluate(SHOWN, choice)
            wanted = run(shown["call"])
            actual = torch.tensor(shown["map"]).reshape(wanted.shape)  # which also compares the shapes
            bound = rounding(explanation, choice)
            assert ((actual - wanted).abs() <= bound).all(), (choice, shown["call"])
            n_lit += bool(wanted.any())
            check_shares(explanation, choice, shown["shares"])
    assert n_lit >= n_states // 4


def products(explanation: Explanation, choice: dict[str, Any]) -> Tensor:
    layer = choice["layer"]
    weights = explanation.weights[choice["method"], layer, choice["target"]]
    return (weights * explanation.activations[layer])[0].double()


def places(explanation: Explanation, choice: dict[str, Any]) -> list[int]:
    """Where the chosen filters are among those that were computed."""
    filters: list[int] = choice["filters"]
    if explanation.recipe.derivatives != "autograd":
        return filters
    selected = explanation.selection.filters
    assert selected is not None
    return [selected.index(number) for number in filters]


def rounding(explanation: Explanation, choice: dict[str, Any]) -> Tensor:
    """How far the page's map may be from the library's, position by position."""
    terms = products(explanation, choice).abs()
    if choice["filters"]:
        terms = terms[places(explanation, choice)]
    n_halves = 2 if choice["method"] == "Smooth Layer-CAM" else 1
    bound = terms.sum(dim=0) * (1.01 * n_halves * HALF + 1e-5)  # and what single precision rounds in two runs
    return bound + 1e-9 * bound.max()


def check_shares(explanation: Explanation, choice: dict[str, Any], shares: list[dict[str, Any]]) -> None:
    """The numbers beside each filter: mean activation and weight at the neurons, and the share."""
    layer = choice["layer"]
    activations = explanation.activations[layer][0].double()
    weights = explanation.weights[choice["method"], layer, choice["target"]][0].double().expand_as(activations)
    chosen = torch.ones(activations.shape[1:], dtype=torch.bool)
    if choice["neurons"]:
        rows, columns = zip(*choice["neurons"], strict=True)
        chosen[:] = False
        if choice["region"]:
            chosen[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1] = True
        else:
            chosen[list(rows), list(columns)] = True
    terms = products(explanation, choice)
    positive = chosen & (terms.sum(dim=0) > 0)
    total = terms.sum(dim=0)[positive].sum()
    for place, share in enumerate(shares):
        at = {"activation": activations[place][chosen], "weight": weights[place][chosen]}
        for key, values in at.items():
            assert share[key] == pytest.approx(
                values.mean().item(), abs=1.1 * HALF * values.abs().mean().item() + 1e-30
            )
        if total > 0:
            wanted = (terms[place][positive].sum() / total).item()
            own, all_filters = (some[..., positive].abs().sum() / total for some in (terms[place], terms))
            slack = 2 * HALF * (own + abs(wanted) * all_filters)  # of the numerator and the denominator
            assert share["share"] == pytest.approx(wanted, abs=1.1 * slack.item() + 1e-9)
        else:
            assert share["share"] is None
    if total > 0:
        assert sum(share["share"] for share in shares) == pytest.approx(1)
