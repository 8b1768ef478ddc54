"""DistributedDataParallel: attributing through the wrapper leaves training as it is.

Two processes are started for all tests together. They go through the cases side by side; then the first of them goes
through those of a single process.
"""

import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from captum.attr import LayerGradCam
from helpers import one
from models import TARGETS, cut_inputs, cut_model, images
from oracle import CutModel
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp, list_layers

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without gloo"
)

SECONDS = 120
"""After which the processes are ended. They need a few."""

NO_MAP = torch.zeros(0)


# --- what is done with a model beside training it, given as it is wrapped and as it is -------------------------------


def nothing(_wrapped: nn.Module, _model: CutModel) -> Tensor:
    return NO_MAP


def captum(wrapped: nn.Module, model: CutModel) -> Tensor:
    return one(LayerGradCam(wrapped, model.layer).attribute(cut_inputs(), TARGETS))


def by_module(wrapped: nn.Module, model: CutModel) -> Tensor:
    return one(LayerGradCamPlusPlus(wrapped, model.layer).attribute(cut_inputs(), TARGETS))


def by_name(wrapped: nn.Module, _model: CutModel) -> Tensor:
    return one(LayerGradCamPlusPlus(wrapped, "layer").attribute(cut_inputs(), TARGETS))


def to_input(wrapped: nn.Module, _model: CutModel) -> Tensor:
    return one(LayerGradCamPlusPlus(wrapped, "layer.1").attribute(cut_inputs(), TARGETS, attribute_to_layer_input=True))


def with_noise(wrapped: nn.Module, _model: CutModel) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    method = LayerSmoothGradCAMpp(wrapped, "layer")
    return one(method.attribute(cut_inputs(), TARGETS, n_samples=3, n_samples_batch_size=2, generator=generator))


def listed(wrapped: nn.Module, _model: CutModel) -> Tensor:
    list_layers(wrapped, cut_inputs())
    return NO_MAP


Use = Callable[[nn.Module, CutModel], Tensor]
USES: dict[str, Use] = {
    "nothing": nothing,
    "captum": captum,
    "by module": by_module,
    "by name": by_name,
    "to the layer's input": to_input,
    "with noise": with_noise,
    "list_layers": listed,
}
FIRST_ONLY: dict[str, Use] = {"captum, first process": captum, "by name, first process": by_name}
"""Of several processes, only the first does this, as where one process alone writes the pictures."""

SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "find_unused_parameters": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
}
BETWEEN_STEPS, WITHIN_STEP = MOMENTS = ["between two steps", "between forward and backward"]


class Case(NamedTuple):
    processes: int
    rank: int
    settings: str
    moment: str
    use: str


class Outcome(NamedTuple):
    error: str
    """The traceback, if something was raised."""
    trained: list[Tensor]
    """The gradients of the last step and the parameters after it."""
    wrapped: Tensor
    """The map of the wrapped model."""
    plain: Tensor
    """The map of a copy of the model that never was wrapped."""


# --- in the processes ------------------------------------------------------------------------------------------------


class Spare(CutModel):
    """A model with parameters that no score depends on, which DistributedDataParallel has to find."""

    def __init__(self, model: CutModel) -> None:
        super().__init__(model.below, model.layer, model.above)
        self.spare = nn.Linear(2, 2).double()


def train(case: Case) -> Outcome:
    """Trains a model for three steps, and does something else with it after the first or during the second."""
    model = cut_model() if case.settings == "as it comes" else Spare(cut_model())
    wrapped = DistributedDataParallel(model, **SETTINGS[case.settings])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    maps = NO_MAP, NO_MAP
    for step in range(3):
        optimizer.zero_grad()
        if (step, case.moment) == (1, BETWEEN_STEPS):
            maps = use(case, wrapped, model)
        loss = cross_entropy(wrapped(images(seed=2 + 3 * case.rank + step)), torch.tensor(TARGETS))
        if (step, case.moment) == (1, WITHIN_STEP):
            maps = use(case, wrapped, model)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    return Outcome("", [*gradients, *(parameter.detach() for parameter in trained)], *maps)


def use(case: Case, wrapped: DistributedDataParallel, model: CutModel) -> tuple[Tensor, Tensor]:
    """The maps of the model as it is wrapped, and of a copy that never was."""
    copy = deepcopy(model)
    if case.use in USES:
        return USES[case.use](wrapped, model), USES[case.use](copy, copy)
    return (FIRST_ONLY[case.use](wrapped, model), FIRST_ONLY[case.use](copy, copy)) if not case.rank else (NO_MAP,) * 2


def go_through_cases(cases: list[Case], folder: Path) -> dict[Case, Outcome]:
    """Goes through the cases together with the other processes."""
    outcomes = {}
    for number, case in enumerate(cases):
        processes, rank = case.processes, case.rank
        store = (folder / f"{processes}_{number}").as_uri()  # its own, so that no case sees what another one left
        dist.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=processes, timeout=timedelta(seconds=10)
        )
        try:
            outcomes[case] = train(case)
        except Exception:  # the test of this case shows it
            outcomes[case] = Outcome(traceback.format_exc(), [], NO_MAP, NO_MAP)
        dist.destroy_process_group()
    return outcomes


def process(rank: int, folder: Path, cases: list[Case]) -> None:
    torch.set_num_threads(1)
    outcomes = go_through_cases([case._replace(rank=rank) for case in cases if case.processes == 2], folder)
    if not rank:
        outcomes |= go_through_cases([case for case in cases if case.processes == 1], folder)
    torch.save([(tuple(case), tuple(outcome)) for case, outcome in outcomes.items()], folder / f"{rank}.pt")


# --- in the tests ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Outcome]:
    """What became of each case that a test is about to look at, and of the same with nothing done beside training."""
    items = [one for one in request.session.items if isinstance(one, pytest.Function) and one.module is request.module]
    chosen: list[dict[str, Any]] = [dict(item.callspec.params) for item in items]
    plain = {(processes, settings, BETWEEN_STEPS) for processes in (1, 2) for settings in SETTINGS}
    plain |= {(one["processes"], one["settings"], one["moment"]) for one in chosen if "use" in one}
    used = {(one["processes"], one["settings"], one["moment"], one["use"]) for one in chosen if "use" in one}
    cases = [
        Case(processes, 0, settings, moment, use)
        for processes, settings, moment, use in sorted(used | {(*one, "nothing") for one in plain})
    ]
    folder = tmp_path_factory.mktemp("distributed")
    context = spawn(process, (folder, cases), nprocs=2, join=False)  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, f"the processes are still running after {SECONDS} seconds"
    finally:
        for started in context.processes:
            started.kill()
    return {
        Case(*case): Outcome(*outcome)
        for rank in range(2)
        for case, outcome in torch.load(folder / f"{rank}.pt", weights_only=True)
    }


@pytest.mark.pairwise
@pytest.mark.parametrize(
    ("processes", "use"),
    [(1, use) for use in USES if use != "nothing"] + [(2, use) for use in [*USES, *FIRST_ONLY] if use != "nothing"],
)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_training_goes_on_as_if_nothing_had_been_attributed(
    outcomes: dict[Case, Outcome], processes: int, settings: str, moment: str, use: str
) -> None:
    """Captum's LayerGradCam is among the uses: where training survives it, it has to survive the methods here."""
    for rank in range(processes):
        case = outcomes[Case(processes, rank, settings, moment, use)]
        without = outcomes[Case(processes, rank, settings, moment, "nothing")]
        assert not case.error, case.error
        assert not without.error, without.error
        assert len(without.trained) > 0
        for actual, wanted in zip(case.trained, without.trained, strict=True):
            assert torch.equal(actual, wanted)
        assert torch.equal(case.wrapped, case.plain)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_two_processes_share_their_gradients(outcomes: dict[Case, Outcome], settings: str) -> None:
    """Else the cases of two processes would be two cases of one."""
    alone = outcomes[Case(1, 0, settings, BETWEEN_STEPS, "nothing")]
    first, second = (outcomes[Case(2, rank, settings, BETWEEN_STEPS, "nothing")] for rank in range(2))
    assert len(alone.trained) > 0
    assert all(torch.equal(*tensors) for tensors in zip(first.trained, second.trained, strict=True))
    assert not any(torch.equal(*tensors) for tensors in zip(first.trained, alone.trained, strict=True))
