"""Other threads that use the same model meanwhile: nothing changes for them, nor for the attribution.

Threads run in turns here: a thread runs when it is its turn, from one stop in the model to the next. So each way in
which two threads can overlap is tried, and none is left to chance. What a thread returns is compared with what a thread
returns that is alone: torch may round otherwise in another thread.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import pytest
import torch
from helpers import hooks_on, one, where_smoothing_changes_nothing
from models import CLASSES, TARGETS, cut_inputs, cut_model, images, seeded
from oracle import CutModel
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp

SECONDS = 60
"""How long a thread waits for its turn before it gives up."""


class Turns:
    """Has threads run in turns.

    Args:
        order: The name of the thread that each turn belongs to. Without turns, every thread runs as it likes.
    """

    def __init__(self, order: str = "") -> None:
        self._left = order
        self._changed = threading.Condition()

    def wait(self, name: str) -> None:
        """Waits for the thread's turn, if it has any left."""
        with self._changed:
            its_turn = self._changed.wait_for(lambda: name not in self._left or self._left[0] == name, SECONDS)
            assert its_turn, f"no turn for {name!r} in time; left are {self._left!r}"

    def stop(self, name: str) -> None:
        """Ends the thread's turn, and waits for its next."""
        with self._changed:
            self._left = self._left.removeprefix(name)
            self._changed.notify_all()
        self.wait(name)

    def finish(self, name: str) -> None:
        """Gives up what turns the thread has left."""
        with self._changed:
            self._left = self._left.replace(name, "")
            self._changed.notify_all()


OURS, THEIRS = NAMES = "ot"
EXAMPLES = {OURS: 3, THEIRS: 2}
"""Which of two threads it is that runs a model is known by the size of the batch."""

ORDERS = sorted({"".join(order) for order in permutations(3 * OURS + 3 * THEIRS)})
"""Every order in which two threads can take three turns each."""
STARTED_MEANWHILE = [order for order in ORDERS if order[0] == OURS]


class Stop(nn.Module):
    """A place in a model where the turn of the thread that runs it ends."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.turns = turns

    def forward(self, values: Tensor) -> Tensor:
        for name, examples in EXAMPLES.items():
            if len(values) == examples:
                self.turns.stop(name)
        return values


def model_with_stops(turns: Turns, frozen: bool = False) -> CutModel:
    """A model with a stop below and one above its layer: three turns for a pass."""
    model = cut_model()
    model.below = nn.Sequential(model.below, Stop(turns))
    model.above = nn.Sequential(Stop(turns), model.above)
    return model.requires_grad_(not frozen)


def together(turns: Turns, ours: Callable[[], Any], theirs: Callable[[], Any], started_meanwhile: bool = False) -> Any:
    """What two functions return that run in turns: `ours` in this thread, `theirs` in another.

    Args:
        turns: The turns.
        ours: The one function.
        theirs: The other.
        started_meanwhile: Whether the other thread is started when its first turn comes. Otherwise it exists before.
    """

    def their_turns() -> Any:
        turns.wait(THEIRS)
        try:
            return in_new_thread(theirs) if started_meanwhile else theirs()
        finally:
            turns.finish(THEIRS)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(their_turns)
        turns.wait(OURS)
        try:
            mine = ours()
        finally:
            turns.finish(OURS)
        return mine, future.result(SECONDS)


def in_new_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(SECONDS)


# --- threads that predict or train -----------------------------------------------------------------------------------


class Used(NamedTuple):
    """What a thread finds that uses a model."""

    tensors: list[Tensor]
    """What its parts return, and the gradients of its parameters if there are any."""
    kinds: list[tuple[object, ...]]
    """What kind of tensors these are for autograd, when they are returned and at the end."""


def use(model: CutModel, mode: Callable[[], Any]) -> Used:
    """Predicts with a model, and takes its gradients where the mode records them."""

    def kind(tensor: Tensor) -> tuple[object, ...]:
        return tensor.requires_grad, tensor.is_leaf, tensor.is_inference(), type(tensor.grad_fn)

    tensors, kinds = [images(2, 2, 6, 6, seed=9)], []
    with mode():
        for part in (model.below, model.layer, model.above):
            tensors.append(part(tensors[-1]))
            kinds.append(kind(tensors[-1]))
        gradients = torch.autograd.grad(tensors[-1].square().sum(), list(model.parameters())) if kinds[-1][0] else ()
        kinds += map(kind, tensors)
    return Used([tensor.detach() for tensor in (*tensors, *gradients)], kinds)


def assert_same_use(actual: Used, wanted: Used) -> None:
    assert actual.kinds == wanted.kinds
    assert all(torch.equal(*tensors) for tensors in zip(actual.tensors, wanted.tensors, strict=True))


MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


@pytest.mark.pairwise
@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("order", "started_meanwhile"),
    [(order, False) for order in ORDERS] + [(order, True) for order in STARTED_MEANWHILE],
)
def test_another_thread_uses_the_model_as_if_it_were_alone(
    order: str, started_meanwhile: bool, mode: Callable[[], Any], frozen: bool
) -> None:
    """In particular, what a frozen network returns there does not come to require a gradient."""
    turns = Turns(order)
    model, alone = model_with_stops(turns, frozen), model_with_stops(Turns(), frozen)
    wanted_map = one(LayerGradCamPlusPlus(alone, alone.layer).attribute(cut_inputs(), TARGETS))
    wanted_use = in_new_thread(lambda: use(alone, mode))

    method = LayerGradCamPlusPlus(model, model.layer)
    actual_map, actual_use = together(
        turns, lambda: one(method.attribute(cut_inputs(), TARGETS)), lambda: use(model, mode), started_meanwhile
    )
    assert_same_use(actual_use, wanted_use)
    assert torch.equal(actual_map, wanted_map)
    assert hooks_on(model) == 0


@pytest.mark.pairwise
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["oto", "oott", "ooto"])
def test_another_thread_uses_the_model_in_every_pass(
    order: str, mode: Callable[[], Any], frozen: bool, to_input: bool
) -> None:
    """With noise, also where the layer's input is hooked: each time that one thread stops, the other goes on."""
    turns = Turns(20 * order)
    model, alone = model_with_stops(turns, frozen), model_with_stops(Turns(), frozen)
    options: dict[str, Any] = {"n_samples": 3, "n_samples_batch_size": 1, "attribute_to_layer_input": to_input}
    attribute = seeded_attribution(cut_inputs(), TARGETS, **options)
    wanted_map = attribute(alone, alone.layer)
    wanted_use = in_new_thread(lambda: use(alone, mode))
    actual_map, actual_uses = together(
        turns, lambda: attribute(model, model.layer), lambda: [use(model, mode) for _ in range(4)]
    )
    for actual_use in actual_uses:
        assert_same_use(actual_use, wanted_use)
    assert torch.equal(actual_map, wanted_map)
    assert hooks_on(model) == 0


def seeded_attribution(inputs: Tensor, target: Any, **options: Any) -> Callable[[nn.Module, Any], Tensor]:
    """Attributes with the same noise each time, if any."""

    def attribute(model: nn.Module, layer: Any) -> Tensor:
        if options.get("n_samples"):
            noise = {**options, "generator": torch.Generator().manual_seed(4)}
            return one(LayerSmoothGradCAMpp(model, layer).attribute(inputs, target, **noise))
        return one(LayerGradCamPlusPlus(model, layer).attribute(inputs, target))

    return attribute


# --- threads that attribute ------------------------------------------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("layers", [("layer", "layer"), ("layer", "below.0"), ("below.0", "layer")])
@pytest.mark.parametrize(
    ("order", "started_meanwhile"),
    [(order, False) for order in ORDERS] + [(order, True) for order in STARTED_MEANWHILE],
)
def test_two_threads_attribute_on_one_model(
    order: str, started_meanwhile: bool, layers: tuple[str, str], frozen: bool
) -> None:
    turns = Turns(order)
    model, alone = model_with_stops(turns, frozen), model_with_stops(Turns(), frozen)
    ours, theirs = (seeded_attribution(*batch) for batch in BATCHES)
    wanted = ours(alone, layers[0]), theirs(alone, layers[1])
    actual = together(turns, lambda: ours(model, layers[0]), lambda: theirs(model, layers[1]), started_meanwhile)
    assert all(map(torch.equal, actual, wanted))
    assert hooks_on(model) == 0


BATCHES: list[tuple[Tensor, Any]] = [(cut_inputs(), TARGETS), (images(2, 2, 6, 6, seed=9), [3, 0])]
"""The inputs and targets of two threads."""


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("layers", [("layer", "layer"), ("layer", "below.0")])
@pytest.mark.parametrize("order", ["ot", "oott", "ooot", "oooott"])
def test_two_threads_smooth_on_one_model(order: str, layers: tuple[str, str], frozen: bool) -> None:
    turns = Turns(10 * order)
    model, alone = model_with_stops(turns, frozen), model_with_stops(Turns(), frozen)
    noise: dict[str, Any] = {"n_samples": 3, "n_samples_batch_size": 1}
    ours, theirs = (seeded_attribution(*batch, **noise) for batch in BATCHES)
    wanted = ours(alone, layers[0]), theirs(alone, layers[1])
    actual = together(turns, lambda: ours(model, layers[0]), lambda: theirs(model, layers[1]))
    assert all(map(torch.equal, actual, wanted))
    assert hooks_on(model) == 0


# --- models that start threads ---------------------------------------------------------------------------------------


class InThread(CutModel):
    """Runs in a thread of its own, where recording is on whatever it is here."""

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = in_new_thread(lambda: super(InThread, self).forward(inputs))
        return scores


class AsReplica(CutModel):
    """Runs as DataParallel runs a model on each of its devices: a shallow copy, in a thread of its own.

    There is one copy, as there is one device here; DataParallel itself, on one device, would make none.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        replicas = {module: module._replicate_for_data_parallel() for module in self.modules()}  # type: ignore[no-untyped-call]
        for module, replica in replicas.items():
            for name, child in module.named_children():
                setattr(replica, name, replicas[child])
            for name, parameter in module.named_parameters(recurse=False):
                setattr(replica, name, parameter.view_as(parameter))  # there, it is no leaf either
        scores: Tensor = in_new_thread(lambda: CutModel.forward(replicas[self], inputs))
        return scores


class InParts(CutModel):
    """Runs each half of the batch in a thread of its own, both on one device."""

    def forward(self, inputs: Tensor) -> Tensor:
        forward = super().forward
        return torch.cat([in_new_thread(partial(forward, part)) for part in inputs.tensor_split(2)])


@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("kind", [InThread, AsReplica])
def test_models_that_run_in_a_thread_of_their_own(kind: type[CutModel], frozen: bool, n_samples: int) -> None:
    plain = cut_model().requires_grad_(not frozen)
    model = kind(plain.below, plain.layer, plain.above)
    attribute = seeded_attribution(cut_inputs(), TARGETS, n_samples=n_samples)
    assert torch.equal(attribute(model, model.layer), attribute(plain, plain.layer))
    assert hooks_on(model) == 0


@pytest.mark.parametrize("n_samples", [0, 3])
def test_a_batch_in_parts_on_one_device_is_refused(n_samples: int) -> None:
    """Only parts on different devices, as DataParallel makes them, can be told apart, here as in Captum."""
    plain = cut_model()
    model = InParts(plain.below, plain.layer, plain.above)
    with pytest.raises(RuntimeError, match=r"layer: 'layer' .* runs in several threads"):
        seeded_attribution(cut_inputs(), TARGETS, n_samples=n_samples)(model, model.layer)
    assert hooks_on(model) == 0


@pytest.mark.pairwise
@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("order", ORDERS)
def test_two_threads_on_a_model_that_starts_threads_get_right_maps_or_an_error(order: str, frozen: bool) -> None:
    """Whose threads those are cannot be known."""
    turns = Turns(order)
    parts = model_with_stops(turns, frozen)
    model = InThread(parts.below, parts.layer, parts.above)
    alone = model_with_stops(Turns(), frozen)
    wanted = [seeded_attribution(*batch)(alone, alone.layer) for batch in BATCHES]

    def outcome(batch: tuple[Tensor, Any]) -> Any:
        try:
            return seeded_attribution(*batch)(model, model.layer)
        except RuntimeError as error:
            return error

    outcomes = together(turns, lambda: outcome(BATCHES[0]), lambda: outcome(BATCHES[1]))
    assert all(
        isinstance(actual, RuntimeError) or torch.equal(actual, wanted_map)
        for actual, wanted_map in zip(outcomes, wanted, strict=True)
    )
    assert hooks_on(model) == 0


# --- the fast path of torch's transformers ---------------------------------------------------------------------------


class Sentences(nn.Module):
    """A classifier of sequences by torch's encoder, with a stop below and above it."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.below = Stop(turns)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.above = Stop(turns)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        features = self.encoder(self.below(words), src_key_padding_mask=words[..., 0] < 0.3)
        scores: Tensor = self.head(self.above(features).square().mean(dim=1))
        return scores


WORDS: list[tuple[Tensor, Any]] = [
    (images(examples, 5, 8, seed=20 + examples, dtype=torch.float32), 1) for examples in EXAMPLES.values()
]


@pytest.fixture(params=[True, False])
def fast_path(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the fast path is enabled, which it is again afterwards whatever the test does to it."""
    enabled: bool = request.param
    with set_fast_path(enabled):
        yield enabled


@contextmanager
def set_fast_path(enabled: bool) -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def sentences(turns: Turns, frozen: bool) -> Sentences:
    model: Sentences = seeded(lambda: Sentences(turns))
    return model.requires_grad_(not frozen)


ENCODER_LAYERS = ["encoder.layers.0.linear1", "encoder.layers.1", "encoder", "head"]


@pytest.mark.pairwise
@where_smoothing_changes_nothing
@pytest.mark.parametrize("n_samples", [0, 3])
@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("layer", ENCODER_LAYERS)
def test_the_switch_of_the_fast_path_is_not_touched(fast_path: bool, layer: str, frozen: bool, n_samples: int) -> None:
    model, seen = sentences(Turns(), frozen), []
    for stop in (model.below, model.above):
        stop.register_forward_hook(lambda *_: seen.append(torch.backends.mha.get_fastpath_enabled()))
    seeded_attribution(*WORDS[0], n_samples=n_samples)(model, layer)
    assert seen == [fast_path] * len(seen)
    assert len(seen) >= 2
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("order", ORDERS[::4])
def test_the_fast_path_is_as_before_when_calls_have_overlapped(fast_path: bool, order: str, frozen: bool) -> None:
    turns = Turns(order)
    model, alone = sentences(turns, frozen), sentences(Turns(), frozen)
    ours, theirs = (seeded_attribution(*batch) for batch in WORDS)
    layers = "encoder.layers.0.linear1", "encoder.layers.1"
    wanted = ours(alone, layers[0]), in_new_thread(lambda: theirs(alone, layers[1]))
    actual = together(turns, lambda: ours(model, layers[0]), lambda: theirs(model, layers[1]))
    assert torch.backends.mha.get_fastpath_enabled() == fast_path
    assert all(map(torch.equal, actual, wanted))


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("order", ORDERS[::4])
def test_another_thread_keeps_its_fast_path(order: str, frozen: bool) -> None:
    """It predicts bit by bit what it predicts alone, which the other path does not."""

    def predict(model: Sentences) -> Tensor:
        with torch.no_grad():
            scores: Tensor = model(WORDS[1][0])
        return scores

    turns = Turns(order)
    model, alone = sentences(turns, frozen), sentences(Turns(), frozen)
    with set_fast_path(False):
        slow = in_new_thread(lambda: predict(alone))
    with set_fast_path(True):
        wanted = in_new_thread(lambda: predict(alone))
        _, actual = together(turns, lambda: seeded_attribution(*WORDS[0])(model, "head"), lambda: predict(model))
    assert torch.equal(actual, wanted)
    assert not actual.requires_grad
    assert not torch.equal(slow, wanted)


@pytest.mark.parametrize("early", [False, True])
def test_a_model_with_a_pool_of_threads(early: bool) -> None:
    """A thread that is there before may be anybody's."""

    class Pooled(CutModel):
        pool: ThreadPoolExecutor | None = None

        def forward(self, inputs: Tensor) -> Tensor:
            self.pool = self.pool or ThreadPoolExecutor(1)
            scores: Tensor = self.pool.submit(super().forward, inputs).result()
            return scores

    plain = cut_model()
    model, inputs = Pooled(plain.below, plain.layer, plain.above), cut_inputs()
    if early:
        model(inputs)
        with pytest.raises(ValueError, match=r"layer: 'layer' .* runs in a thread that was started earlier"):
            LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS)
    else:
        wanted = one(LayerGradCamPlusPlus(plain, "layer").attribute(inputs, TARGETS))
        torch.testing.assert_close(one(LayerGradCamPlusPlus(model, "layer").attribute(inputs, TARGETS)), wanted)
    assert model.pool is not None
    model.pool.shutdown()
