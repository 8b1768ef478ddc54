"""Passes that are repeated: at most once for each concession, and for nothing else; the model sees none of it."""

import _thread
import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers import N_SAMPLES, hooks_on, one, unchanged
from models import CLASSES, TARGETS, cut_inputs, cut_model, images, seeded
from oracle import CutModel, inputs_seen, relative_error
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp._probe.concessions import (
    Attempt,
    Concession,
    ConcessionNeeded,
    Concessions,
    DiscardedError,
    chain_of,
)
from captum_sgcampp._probe.pass_state import PassState
from captum_sgcampp._probe.saved_tensors import SavedTensors

AROUND = pytest.mark.parametrize(
    "around",
    [lambda model: model, lambda model: lambda *args: model(*args)],  # noqa: PLW0108
    ids=["module", "function"],
)


def attribute(model: Any, layer: nn.Module, n_samples: int = 0, inputs: Tensor | None = None) -> Tensor:
    inputs = cut_inputs() if inputs is None else inputs
    targets = TARGETS[: len(inputs)]
    if not n_samples:
        return one(LayerGradCamPlusPlus(model, layer).attribute(inputs, targets, relu_attributions=False))
    noise: dict[str, Any] = {"n_samples": n_samples, "generator": torch.Generator().manual_seed(3)}
    return one(LayerSmoothGradCAMpp(model, layer).attribute(inputs, targets, relu_attributions=False, **noise))


# --- what is written to while the model runs -------------------------------------------------------------------------


class Overwrites(nn.Module):
    """Takes a gradient through what it has written to since, which torch refuses.

    Args:
        kind: What it writes to.
        caught: What it catches; it then goes on without the gradient.
    """

    def __init__(self, kind: str, caught: type[BaseException] | tuple[()] = ()) -> None:
        super().__init__()
        self.kind = kind
        self.caught = caught
        self.answers: list[str] = []
        self.factor: Tensor
        factor = torch.ones(1, dtype=torch.float64)
        self.register_buffer("factor", factor) if kind == "buffer" else self.register_parameter(
            "factor", nn.Parameter(factor, requires_grad=kind != "frozen parameter")
        )

    def forward(self, image: Tensor) -> Tensor:
        try:
            point = image.clone().requires_grad_() if not image.requires_grad else image
            aside = torch.ones_like(image) if self.kind == "tensor" else self.factor
            energy = (point * aside).sum()
            with torch.no_grad():
                aside.add_(0)
            gradient = torch.autograd.grad(energy, point)[0]
        except self.caught:
            self.answers.append("except")
            return image * 0.5
        self.answers.append("try")
        return image + gradient


KINDS = ["buffer", "parameter", "frozen parameter"]


def with_part(place: str, part: nn.Module) -> CutModel:
    model = cut_model(smooth=True, rectified=False)
    if place == "below":
        model.below = nn.Sequential(part, model.below)
    else:
        model.above = nn.Sequential(part, model.above)
    return model


@AROUND
@N_SAMPLES
@pytest.mark.parametrize("place", ["below", "above"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_refuses_is_refused_after_one_pass(
    kind: str, place: str, n_samples: int, around: Callable[[nn.Module], Any]
) -> None:
    model = with_part(place, Overwrites(kind))
    with pytest.raises(RuntimeError) as by_torch:
        model(cut_inputs())
    with (
        unchanged(model),
        inputs_seen(model) as seen,
        pytest.raises(RuntimeError, match="modified by an inplace operation") as raised,
    ):
        attribute(around(model), model.layer, n_samples)
    assert len(seen) == 1
    assert type(raised.value) is RuntimeError
    start, end = "one of the variables", "Hint"
    versions = [str(error.value).partition("]")[0] for error in (by_torch, raised)]
    assert versions[0] == versions[1]
    assert str(raised.value).startswith(start) and end in str(raised.value)
    assert hooks_on(model) == 0


def test_what_only_a_repeated_pass_can_see_is_refused_after_that() -> None:
    """The tensor is none that the model holds, so the first pass has not kept it."""
    model = with_part("below", Overwrites("tensor"))
    with inputs_seen(model) as seen, pytest.raises(RuntimeError, match="modified by an inplace operation"):
        attribute(model, model.layer)
    assert len(seen) == 2


@N_SAMPLES
@pytest.mark.parametrize("caught", [RuntimeError, Exception, BaseException])
@pytest.mark.parametrize("place", ["below", "above"])
@pytest.mark.parametrize("kind", [*KINDS, "tensor"])
def test_a_model_takes_the_branch_that_it_takes_with_torch(
    kind: str, place: str, caught: type[BaseException], n_samples: int
) -> None:
    model, part = with_part(place, Overwrites(kind, caught)), Overwrites(kind, caught)
    part(cut_inputs())
    assert part.answers == ["except"]

    class Halves(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image * 0.5

    attribution = attribute(model, model.layer, n_samples)
    halves = with_part(place, Halves())
    assert relative_error(attribution, attribute(halves, halves.layer, n_samples)) < 1e-12


class OverwritesTwice(CutModel):
    """Writes into what the attribution's gradient needs, and into what its own gradient needs."""

    answers: list[str]

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.answers = []

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.layer(self.below(inputs))
        bent = features.exp()
        doubled = bent * 2
        bent.zero_()  # of which exp needs the values
        point = features.detach().requires_grad_()
        factor = torch.ones_like(point)
        energy = (point * factor).sum()
        factor.add_(1)
        try:
            doubled = doubled + torch.autograd.grad(energy, point)[0]
            self.answers.append("try")
        except RuntimeError:
            self.answers.append("except")
        scores: Tensor = self.above(doubled)
        return scores


@N_SAMPLES
def test_copies_do_not_hide_from_the_model_what_it_has_written_to(n_samples: int) -> None:
    class Plain(CutModel):
        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.above(self.layer(self.below(inputs)).exp() * 2)
            return scores

    cut = cut_model(smooth=True)
    model, plain = (kind(cut.below, cut.layer, cut.above) for kind in (OverwritesTwice, Plain))
    attribution = attribute(model, model.layer, n_samples)
    assert isinstance(model, OverwritesTwice)
    assert model.answers == ["except"] * (2 + n_samples)
    assert relative_error(attribution, attribute(plain, plain.layer, n_samples)) < 1e-12


def test_what_was_written_to_is_said_to_those_who_keep_the_graph_too() -> None:
    cut, kept = cut_model(), list[Tensor]()

    class Keeps(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            bent = features.exp()
            kept.append((bent * 2).sum())
            with torch.no_grad():
                bent.zero_()
            return features

    cut.above = nn.Sequential(Keeps(), cut.above)
    attribute(cut, cut.layer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(kept[0])


# --- errors that are not ours ----------------------------------------------------------------------------------------


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises a TimeoutError after that time."""

    def ring(*_: object) -> None:
        raise TimeoutError("too slow")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has none")
@pytest.mark.parametrize("kind", ["buffer", "tensor"])
def test_a_timeout_within_the_model_comes_through(kind: str) -> None:
    """Also in a model in which an error has been raised and caught before."""

    class Sleeps(nn.Module):
        calls = 0

        def forward(self, values: Tensor) -> Tensor:
            self.calls += 1
            time.sleep(30)
            return values

    model, sleeps = with_part("below", Overwrites(kind, RuntimeError)), Sleeps()
    model.above = nn.Sequential(sleeps, model.above)
    started = time.monotonic()
    with alarm(0.3), pytest.raises(TimeoutError, match="too slow"):
        attribute(model, model.layer)
    assert sleeps.calls == 1
    assert time.monotonic() - started < 20
    assert hooks_on(model) == 0


class Catches(CutModel):
    """Takes a gradient below its layer, which the first pass lacks, and catches whatever is raised there."""

    caught: type[BaseException] = Exception
    then: Callable[[], None] = staticmethod(lambda: None)
    finally_: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.n_caught = 0

    def forward(self, inputs: Tensor) -> Tensor:
        point = inputs.tanh().detach().requires_grad_()
        gradient = None
        try:
            gradient = torch.autograd.grad(point.sin().tanh().sum(), point)[0]
        except self.caught:
            self.n_caught += 1
            self.then()
        finally:
            if gradient is None:
                self.finally_()
        scores: Tensor = self.above(self.layer(self.below(inputs * 0.5 if gradient is None else inputs + gradient)))
        return scores


class Twin(CutModel):
    """The same without autograd."""

    def forward(self, inputs: Tensor) -> Tensor:
        point = inputs.tanh()
        gradient = point.cos() * (1 - point.sin().tanh().square())
        scores: Tensor = self.above(self.layer(self.below(inputs + gradient.detach())))
        return scores


def catches() -> Catches:
    cut = cut_model()
    return Catches(cut.below, cut.layer, cut.above)


def twins_map(n_samples: int = 0) -> Tensor:
    cut = cut_model()
    return attribute(Twin(cut.below, cut.layer, cut.above), cut.layer, n_samples)


@N_SAMPLES
def test_a_model_that_catches_its_errors_does_not_catch_our_signal(n_samples: int) -> None:
    model = catches()
    with inputs_seen(model) as seen:
        attribution = attribute(model, model.layer, n_samples)
    assert model.n_caught == 0
    assert len(seen) == 2 + n_samples
    assert relative_error(attribution, twins_map(n_samples)) < 1e-12


def test_a_model_that_catches_everything_runs_again_all_the_same() -> None:
    model = catches()
    model.caught = BaseException
    attribution = attribute(model, model.layer)
    assert model.n_caught == 1
    assert relative_error(attribution, twins_map()) < 1e-12


@pytest.mark.parametrize("returned", ["scores", "nothing"])
def test_what_a_model_does_that_has_caught_our_signal_is_not_judged(returned: str) -> None:
    """Such as that its layer does not run, or that it returns something else."""

    class GivesUp(Catches):
        def forward(self, inputs: Tensor) -> Any:
            try:
                point = inputs.tanh().detach().requires_grad_()
                torch.autograd.grad(point.sin().tanh().sum(), point)
                return super().forward(inputs)
            except BaseException:
                self.n_caught += 1
                return inputs.flatten(1)[:, :CLASSES] if returned == "scores" else None

    cut = cut_model()
    model = GivesUp(cut.below, cut.layer, cut.above)
    assert relative_error(attribute(model, model.layer), twins_map()) < 1e-12
    assert model.n_caught == 1


@pytest.mark.parametrize("where", ["then", "finally_"])
def test_an_error_that_follows_from_our_signal_is_no_error_of_the_model(where: str) -> None:
    def fails() -> None:
        raise KeyError("state that is incomplete")

    model = catches()
    model.caught = BaseException if where == "then" else Exception
    setattr(model, where, fails)
    assert relative_error(attribute(model, model.layer), twins_map()) < 1e-12


def test_an_error_of_the_models_own_after_it_has_caught_our_signal_is_raised() -> None:
    model, error = catches(), ArithmeticError("of the model")
    model.caught = BaseException

    class Fails(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise error

    model.above = Fails()
    with inputs_seen(model) as seen, pytest.raises(ArithmeticError) as raised:
        attribute(model, model.layer)
    assert raised.value is error
    assert len(seen) == 1


class AttributesWithin(CutModel):
    """Attributes another model within its forward; that one takes a gradient through what this one has computed."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.other = cut_model(seed=1)
        self.caught: list[Exception] = []

    def forward(self, inputs: Tensor) -> Tensor:
        below = self.below(inputs)
        energy = below.sin().sum()

        def other(inputs: Tensor) -> Tensor:
            (gradient,) = torch.autograd.grad(energy, below, retain_graph=True)
            return self.other(inputs) + 0 * gradient.sum()  # type: ignore[no-any-return]

        try:
            attribute(other, self.other.layer, inputs=inputs.detach())
        except Exception as error:
            self.caught.append(error)
            raise
        scores: Tensor = self.above(self.layer(below))
        return scores


def test_an_attribution_within_another_leaves_the_others_signal_to_it() -> None:
    cut = cut_model()
    model = AttributesWithin(cut.below, cut.layer, cut.above)
    with inputs_seen(model.below) as seen, inputs_seen(model.other) as seen_within:
        found = attribute(model, model.layer)
    assert torch.equal(found, attribute(cut, cut.layer))
    assert len(seen) == 2
    assert len(seen_within) == 1  # the first pass ends before it
    assert model.caught == []


class RegistersHooks(CutModel):
    """Has hooks of its own on a tensor that autograd has saved."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.below(inputs).exp()
        saved: Any = features.grad_fn
        saved._raw_saved_result.register_hooks(lambda tensor: tensor, lambda tensor: tensor)
        scores: Tensor = self.above(self.layer(features.tanh()))
        return scores


class RefusedAndRaised(CutModel):
    """Uses torch.func, and says so in an error of its own where that fails."""

    def forward(self, inputs: Tensor) -> Tensor:
        try:
            factor = torch.func.grad(lambda x: (x * inputs).sum())(torch.ones((), dtype=inputs.dtype))
        except RuntimeError as error:
            raise ValueError("the model cannot use torch.func") from error
        scores: Tensor = self.above(self.layer(self.below(inputs * 0 + factor.sin())))
        return scores


@pytest.mark.parametrize("kind", [RegistersHooks, RefusedAndRaised])
def test_models_that_work_without_our_hooks_only(kind: type[CutModel]) -> None:
    cut = cut_model()
    model = kind(cut.below, cut.layer, cut.above)
    model(cut_inputs())
    with inputs_seen(model) as seen:
        assert attribute(model, model.layer).any()
    assert len(seen) == 2


# --- how often -------------------------------------------------------------------------------------------------------


class NeedsMuch(nn.Module):
    """Needs what is saved below its layer, which a checkpoint surrounds, and copies of what is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Conv2d(2, 3, 3)
        self.layer = nn.Tanh()
        self.head = nn.Linear(48, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        features = checkpoint(lambda x: self.layer(self.below(x)).sin(), image, use_reentrant=False)
        bent = features.exp()
        doubled = bent * 2
        bent.zero_()
        scores: Tensor = self.head(doubled.flatten(1))
        return scores


@N_SAMPLES
def test_a_pass_is_repeated_once_for_each_concession(n_samples: int) -> None:
    """And the passes that follow make them at once."""
    model: NeedsMuch = seeded(NeedsMuch).double()
    with inputs_seen(model) as seen:
        attribution = attribute(model, model.layer, n_samples)
    assert len(seen) == 3 + n_samples
    assert attribution.any()


def test_a_failed_pass_is_freed_before_the_next() -> None:
    """No cycle of an error and its traceback keeps it until the garbage is collected."""
    alive: list[int] = []
    storages: list[weakref.ref[torch.UntypedStorage]] = []

    class Notes(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            alive.append(sum(storage() is not None for storage in storages))
            storages.append(weakref.ref(values.untyped_storage()))
            return values

    model: NeedsMuch = seeded(NeedsMuch).double()
    model.below = nn.Sequential(model.below, Notes())  # type: ignore[assignment]
    gc.collect()
    gc.disable()
    try:
        attribute(model, model.layer)
    finally:
        gc.enable()
    assert alive[0] == 0
    assert len(alive) >= 3
    assert alive[-1] <= 1  # that of the pass itself, which the checkpoint runs twice


class Counted(nn.Module):
    """Counts its batches in two ways, and needs two repetitions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.rest = NeedsMuch()
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        self.count = self.count + 1
        scores: Tensor = self.rest(self.norm(image))
        return scores


@pytest.mark.filterwarnings("ignore:forward_func. the model is in training mode")
@N_SAMPLES
@AROUND
def test_a_repeated_pass_updates_running_statistics_once(around: Callable[[nn.Module], Any], n_samples: int) -> None:
    model, once = (seeded(Counted).double().train() for _ in range(2))
    with inputs_seen(model.rest) as seen:
        attribute(around(model), model.rest.layer, n_samples, images())
    assert len(seen) == 3 + n_samples
    assert model.norm.num_batches_tracked == model.count == 1 + n_samples
    if not n_samples:
        once(images())
        assert torch.equal(model.norm.running_mean, once.norm.running_mean)
        assert torch.equal(model.norm.running_var, once.norm.running_var)


@pytest.mark.filterwarnings("ignore:forward_func. the model is in training mode", "ignore:.*Lazy modules")
def test_buffers_of_other_kinds_do_no_harm() -> None:
    """Sparse ones, which cannot be compared, those that have no value yet, and none."""
    model: NeedsMuch = seeded(NeedsMuch).double().train()
    sparse = torch.eye(2, dtype=torch.float64).to_sparse()
    model.register_buffer("sparse", sparse)
    model.register_buffer("nothing", None)
    model.register_buffer("meta", torch.empty(2, device="meta"))
    model.head = nn.Sequential(nn.LazyBatchNorm1d(dtype=torch.float64), model.head)  # type: ignore[assignment]
    assert attribute(model, model.layer, 0, images()).any()
    assert torch.equal(sparse.to_dense(), torch.eye(2, dtype=torch.float64))


class Loses(nn.Module):
    """Loses a buffer, or has something else in its place, before it fails."""

    def __init__(self, instead: Any) -> None:
        super().__init__()
        self.rest, self.instead = cut_model(smooth=True), instead
        self.count: Any
        self.register_buffer("count", torch.zeros(()), persistent=False)

    def forward(self, _image: Tensor) -> Tensor:
        del self.count
        if self.instead is not None:
            self.count = self.instead
        raise ValueError("the model's own")


@pytest.mark.parametrize("instead", [None, 3, nn.Parameter(torch.ones(()))], ids=["nothing", "number", "parameter"])
def test_a_buffer_that_a_pass_has_lost_is_put_back(instead: Any) -> None:
    model = Loses(instead).train()
    count, saved = model.count, set(model.state_dict())
    parameters = dict(model.named_parameters())
    state = PassState(model.modules(), ())
    with pytest.raises(ValueError, match="own"):
        model(cut_inputs())
    state.restore()
    assert model.count is count
    assert [name for name, _ in model.named_buffers()] == ["count"]
    assert set(model.state_dict()) == saved  # without it
    assert dict(model.named_parameters()).keys() == parameters.keys()


class LosesBesideOthers(Loses):
    """Does so only if there are several copies."""

    def forward(self, image: Tensor) -> Tensor:
        if len(image) > 1:
            super().forward(image)
        scores: Tensor = self.rest(image)
        return scores


def test_copies_go_alone_through_a_model_that_loses_a_buffer_beside_others() -> None:
    model = LosesBesideOthers(None).train()
    method = LayerSmoothGradCAMpp(model, model.rest.layer)
    with pytest.warns(
        UserWarning, match="one at a time, because it does not take several: ValueError: the model's own"
    ):
        assert one(method.attribute(cut_inputs()[:1], 1, n_samples=2, n_samples_batch_size=2)).any()
    assert isinstance(model.count, Tensor)


@pytest.mark.filterwarnings("ignore:forward_func. the model is in training mode")
def test_a_repeated_pass_draws_the_random_numbers_of_the_first() -> None:
    """So that they, and what follows from them, are those of one pass, as with Captum."""
    drawn: list[Tensor] = []

    class Drops(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            drawn.append(torch.rand(3))
            return nn.functional.dropout(values, 0.5, self.training)

    model: NeedsMuch = seeded(NeedsMuch).double().train()
    model.head = nn.Sequential(Drops(), model.head)  # type: ignore[assignment]
    torch.manual_seed(7)
    attribution = attribute(model, model.layer, 0, images())
    after = torch.rand(3)
    assert len(drawn) == 3
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn[0])
    nn.functional.dropout(torch.ones(3, 48, dtype=torch.float64), 0.5)
    assert torch.equal(torch.rand(3), after)
    assert attribution.any()


# --- the parts -------------------------------------------------------------------------------------------------------


def test_the_signal_is_no_exception_that_models_catch() -> None:
    needed = Attempt(Concessions()).needs(Concession.KEEP_ALL, RuntimeError("words"))
    assert not isinstance(needed, Exception)
    assert str(needed) == "words"


def test_a_concession_is_made_once() -> None:
    attempt, made = Attempt(Concessions()), Concessions()
    for number, concession in enumerate(Concession, start=1):
        assert concession not in made
        made = made.with_(attempt.needs(concession, KeyError(concession.name)))
        assert concession in made
        assert len(made.made) == number
    for concession in Concession:
        with pytest.raises(KeyError, match=concession.name):
            made.with_(attempt.needs(concession, KeyError(concession.name)))
    assert not Concessions().made


def test_only_threads_that_pass_it_on_get_the_signal() -> None:
    """Others, such as DataParallel's, pass on what is an `Exception`. The need is noted all the same."""

    def raised_in(start: Callable[[Callable[[], None]], object]) -> tuple[type[BaseException], Concession | None]:
        attempt, errors, done = Attempt(Concessions()), list[BaseException](), threading.Event()
        saved = SavedTensors(attempt)

        def unpack() -> None:
            try:
                saved._unpack(None)
            except BaseException as error:
                errors.append(error)
            done.set()

        start(unpack)
        assert done.wait(10)
        return type(errors[0]), attempt.needed

    assert raised_in(lambda unpack: unpack()) == (ConcessionNeeded, Concession.KEEP_ALL)
    # Autograd's own threads are not known to Python, like this one.
    assert raised_in(lambda unpack: _thread.start_new_thread(unpack, ())) == (ConcessionNeeded, Concession.KEEP_ALL)
    started = raised_in(lambda unpack: threading.Thread(target=unpack).start())
    assert started == (DiscardedError, Concession.KEEP_ALL)


def test_a_chain_of_errors_has_causes_and_contexts_and_may_be_a_cycle() -> None:
    first, second, third = KeyError(1), KeyError(2), KeyError(3)
    third.__cause__, third.__context__, first.__context__ = second, first, third
    assert {id(error) for error in chain_of(third)} == {id(first), id(second), id(third)}
