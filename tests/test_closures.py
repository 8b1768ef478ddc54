"""A function is as good as a model: the modules that it calls are found, whatever it is, and nothing of it is run."""

import functools
import sys
import threading
import warnings
import weakref
from collections import OrderedDict, UserDict, deque, namedtuple
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from helpers import one
from models import CLASSES, TARGETS, cut_inputs, cut_model, images, seeded
from oracle import relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp._models.closures import modules_of

MODEL = nn.Sequential(nn.Identity())
OWN = threading.local()
OWN.model = MODEL
HOLDER = SimpleNamespace(model=MODEL)
LIBRARY: Any = ModuleType("library")
LIBRARY.inner = ModuleType("library.inner")
LIBRARY.inner.model = MODEL
LIBRARY.inner.other = nn.Tanh()


class Config:
    model = MODEL


def by_global(x: Any) -> Any:
    return MODEL(x)


def by_global_function(x: Any) -> Any:
    return by_global(x) + 1


def by_python_module(x: Any) -> Any:
    return LIBRARY.inner.model(x)


def by_object(x: Any) -> Any:
    return HOLDER.model(x)


def by_class(x: Any) -> Any:
    return Config.model(x)


def by_inner_function(x: Any) -> Any:
    return sorted(x, key=lambda y: MODEL(y))  # noqa: PLW0108


def by_import(x: Any) -> Any:
    import a_library_of_the_test  # type: ignore[import-not-found]

    return a_library_of_the_test.model(x)


def by_default(x: Any, model: Any = MODEL) -> Any:
    return model(x)


def by_keyword(x: Any, *, model: Any = MODEL) -> Any:
    return model(x)


def by_annotated_call(model: Any, x: Any) -> Any:
    return model(x)


@torch.no_grad()
def by_decorated(x: Any) -> Any:
    return MODEL(x)


@functools.lru_cache
def by_cached(x: Any) -> Any:
    return MODEL(x)


class Predictor:
    """Has the model as an attribute, or calls a method that has it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: Any) -> Any:
        return self.model(x)

    def predict(self, x: Any) -> Any:
        return self.model(x)


class Indirect:
    """Calls methods and properties of its own, which reach a global."""

    def __call__(self, x: Any) -> Any:
        return self.go(x)

    def go(self, x: Any) -> Any:
        return self.net(x)

    @property
    def net(self) -> Any:
        return MODEL


class OfTheClass:
    """Keeps the model in the class."""

    net = MODEL

    @classmethod
    def go(cls, x: Any) -> Any:
        return cls.net(x)

    def __call__(self, x: Any) -> Any:
        return self.net(x)


class Slots:
    __slots__ = ("missing", "model")

    def __init__(self) -> None:
        self.model = MODEL

    def __call__(self, x: Any) -> Any:
        return self.model(x)


@dataclass
class Record:
    parts: Any

    def __call__(self, x: Any) -> Any:
        return self.parts(x)


Pair = namedtuple("Pair", "model name")


def closed(value: Any) -> Callable[[Any], Any]:
    """A function with something in its closure."""
    return lambda x: (value, x)


def nested(depth: int) -> Callable[[Any], Any]:
    function: Any = MODEL
    for _ in range(depth):
        function = closed(function)
    return function  # type: ignore[no-any-return]


def cyclic() -> Callable[[Any], Any]:
    parts: list[Any] = []
    parts.append(parts)
    holder = SimpleNamespace(parts=parts)
    holder.itself = holder
    parts += [holder, MODEL]
    return closed(holder)


def wrapped() -> Any:
    @functools.wraps(by_global)
    def function(x: Any) -> Any:
        return x

    return function


FUNCTIONS: dict[str, Any] = {
    "module": MODEL,
    "global": by_global,
    "lambda": lambda x: MODEL(x),  # noqa: PLW0108
    "global function": by_global_function,
    "python module": by_python_module,
    "object": by_object,
    "class": by_class,
    "inner function": by_inner_function,
    "default": by_default,
    "keyword": by_keyword,
    "decorated": by_decorated,
    "lru_cache": by_cached,
    "closure": closed(MODEL),
    "nested": nested(8),
    "cyclic": cyclic(),
    "wrapped": wrapped(),
    "partial": functools.partial(by_annotated_call, MODEL),
    "partial by keyword": functools.partial(by_annotated_call, model=MODEL),
    "partial of partial": functools.partial(functools.partial(by_annotated_call, MODEL)),
    "forward": MODEL.forward,
    "__call__": MODEL.__call__,
    "bound method": Predictor(MODEL).predict,
    "callable": Predictor(MODEL),
    "callable within": Predictor(Predictor(MODEL)),
    "dataclass": Record({"a": [MODEL]}),
    "indirect": Indirect(),
    "of the class": OfTheClass(),
    "class method": OfTheClass.go,
    "slots": Slots(),
    "list": closed([1, [MODEL]]),
    "tuple": closed((1, (MODEL,))),
    "named tuple": closed(Pair(MODEL, "name")),
    "dict": closed({"a": {"b": MODEL}}),
    "ordered": closed(OrderedDict(a=MODEL)),
    "user dict": closed(UserDict(a=MODEL)),
    "set": closed({MODEL}),
    "frozen set": closed(frozenset([MODEL])),
    "deque": closed(deque([MODEL])),
    "proxy": closed(MappingProxyType({"a": MODEL})),
    "weak reference": closed(weakref.ref(MODEL)),
    "context variable": closed(ContextVar("variable", default=MODEL)),
    "thread's own": closed(OWN),
    "item": {"a": MODEL}.__getitem__,
    "modules in a module": nn.Sequential(MODEL),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_model_is_found(kind: str) -> None:
    found = modules_of(FUNCTIONS[kind])
    assert MODEL in [part for module in found for part in module.modules()]
    assert len(found) == 1


def test_what_a_function_imports_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = ModuleType("a_library_of_the_test")
    library.model = MODEL
    monkeypatch.setitem(sys.modules, "a_library_of_the_test", library)
    assert modules_of(by_import) == [MODEL]


def test_the_outermost_modules_come_in_order_and_once() -> None:
    first, second = nn.Sequential(nn.ReLU()), nn.Tanh()
    assert modules_of(closed([first[0], second, first, second])) == [second, first]


def test_modules_that_a_module_does_not_register_are_found() -> None:
    class Hides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [MODEL]
            self.named = {"second": nn.Tanh()}

    hides = Hides()
    assert modules_of(hides) == [hides, MODEL, hides.named["second"]]
    around = nn.Sequential(hides)
    assert modules_of(around)[1:] == [MODEL, hides.named["second"]]


def test_nothing_hides_behind_a_long_list() -> None:
    log = [{"step": step, "losses": [step] * 3} for step in range(20_000)]
    assert modules_of(closed([log, [[[[MODEL]]]]])) == [MODEL]
    assert modules_of(closed([*range(2_000), MODEL])) == [MODEL]


class Wrapper(nn.Module):
    """A module of the user that keeps a model as an attribute which torch does not register."""

    def __init__(self, **kept: Any) -> None:
        super().__init__()
        vars(self).update(kept)


class ByGlobal(nn.Module):
    def forward(self, x: Any) -> Any:
        return MODEL(x)


class ByHelper(nn.Module):
    @property
    def net(self) -> nn.Module:
        return MODEL

    def forward(self, x: Any) -> Any:
        return self.net(x)


class InClass(nn.Module):
    teacher = MODEL


class InDictOfClass(nn.Module):
    teachers: Any = {"a": {"b": MODEL}}  # noqa: RUF012


class Inherits(ByGlobal):
    pass


def patched(module: nn.Module, function: Callable[..., Any]) -> nn.Module:
    module.forward = function
    return module


def hooked(hook: Callable[..., Any]) -> nn.Module:
    module = nn.Identity()
    module.register_forward_hook(hook)
    return module


HIDES: dict[str, Callable[[], nn.Module]] = {
    "global": ByGlobal,
    "property": ByHelper,
    "inherited": Inherits,
    "of the class": InClass,
    "dict of the class": InDictOfClass,
    "attribute": lambda: Wrapper(kept=MODEL),
    "bound method": lambda: Wrapper(kept=MODEL.forward),
    "lambda": lambda: Wrapper(kept=lambda x: MODEL(x)),  # noqa: PLW0108
    "partial": lambda: Wrapper(kept=functools.partial(by_annotated_call, MODEL)),
    "holder": lambda: Wrapper(kept=Predictor(MODEL)),
    "dict in dict": lambda: Wrapper(kept={"a": {"b": MODEL}}),
    "set": lambda: Wrapper(kept={MODEL}),
    "patched": lambda: patched(Wrapper(), lambda x: MODEL(x)),  # noqa: PLW0108
    "patched of torch": lambda: patched(nn.Identity(), MODEL.forward),
    "hook": lambda: hooked(lambda *_: MODEL(1)),
}


@pytest.mark.parametrize("kind", HIDES)
@pytest.mark.parametrize("around", [lambda hides: hides, lambda hides: nn.Sequential(nn.ReLU(), hides), closed])
def test_a_module_is_searched_as_any_other_object(kind: str, around: Callable[[Any], Any]) -> None:
    hides = HIDES[kind]()
    found = modules_of(around(hides))
    assert len(found) == 2
    assert found[0] is hides or hides in found[0].children()
    assert found[1] is MODEL


def test_what_is_made_where_it_is_called_is_searched() -> None:
    assert modules_of(lambda x: ByGlobal()(x)) == [MODEL]  # noqa: PLW0108
    assert modules_of(lambda x: Indirect()(x)) == [MODEL]  # noqa: PLW0108


model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())  # another model of the notebook, being trained
teacher = SimpleNamespace(model=MODEL)


def by_teacher(x: Any) -> Any:
    return teacher.model(x)


def test_the_name_of_an_attribute_is_not_that_of_a_global() -> None:
    assert modules_of(by_teacher) == [MODEL]
    assert modules_of(lambda x: [teacher.model(part) for part in x]) == [MODEL]
    assert modules_of(lambda x: model(teacher.model(x))) == [model, MODEL]


class Explodes:
    """Fails whatever is done with it, but for what Python itself does."""

    def fails(self, *_: object) -> NoReturn:
        raise AssertionError("it was run")

    __getattribute__ = __getattr__ = __eq__ = __hash__ = __iter__ = __len__ = __bool__ = fails
    __call__ = __repr__ = __contains__ = __getitem__ = fails
    __class__ = property(fails)
    model = property(fails)


class Lists(list[Any]):
    def __iter__(self) -> NoReturn:
        raise AssertionError("it was run")


class Dicts(dict[str, Any]):
    def values(self) -> NoReturn:
        raise AssertionError("it was run")


ODD: dict[str, Callable[[], Any]] = {
    "explodes": Explodes,  # made in the test, because pytest looks at parameters
    "list": lambda: Lists([MODEL]),
    "dict": lambda: Dicts(a=MODEL),
    "no __init__": lambda: nn.Module.__new__(nn.Module),
    "unknown name": lambda: lambda: missing,  # type: ignore[name-defined]  # noqa: F821
    "generator": lambda: (n for n in [1]),
    "weak proxy": lambda: weakref.proxy(MODEL),
    "type": lambda: type,
    "built-in": lambda: len,
    "number": lambda: 3,
    "None": lambda: None,
    "object": object,
}


@pytest.mark.parametrize("kind", ODD)
def test_nothing_is_run_and_nothing_fails(kind: str) -> None:
    odd = ODD[kind]()
    assert modules_of(closed((odd, [MODEL]))) == [MODEL]
    assert modules_of(odd) == ([MODEL] if kind in {"list", "dict"} else [])


ODD_GLOBAL: Any = None


def by_odd_global(x: Any) -> Any:
    return ODD_GLOBAL, MODEL(x)


def test_an_odd_global_does_not_hide_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ODD_GLOBAL", Explodes())
    assert modules_of(by_odd_global) == [MODEL]


def test_a_cell_without_a_value_yet() -> None:
    def early() -> Callable[[], Any]:
        def function() -> Any:
            return late

        found.append(modules_of(function))
        late = MODEL
        return function

    found: list[list[nn.Module]] = []
    assert modules_of(early()) == [MODEL]
    assert found == [[]]


def test_large_containers_and_long_ways_end() -> None:
    assert modules_of(closed(list(range(10**6)))) == []
    way: Any = MODEL
    for _ in range(100):
        way = [way]
    assert modules_of(closed(way)) == []


def test_installed_packages_are_not_searched() -> None:
    """What a function names of them is looked at, but not the globals that this uses in turn."""
    code = compile("def function(x):\n    return MODEL(x)", "/lib/site-packages/library.py", "exec")
    names: dict[str, Any] = {"MODEL": MODEL, "__name__": "library"}
    exec(code, names)  # noqa: S102
    assert modules_of(names["function"]) == []
    assert modules_of(functools.partial(names["function"], MODEL)) == [MODEL]


# --- what follows from it --------------------------------------------------------------------------------------------


def around(model: nn.Module) -> dict[str, Callable[..., Any]]:
    models = {"a": model}
    return {
        "lambda": lambda *args: model(*args),  # noqa: PLW0108
        "partial": functools.partial(by_annotated_call, model),
        "method": model.forward,
        "dict": lambda x: models["a"](x) + 0,
        "callable": Predictor(model),
    }


HOW = pytest.mark.parametrize("how", ["lambda", "partial", "method", "dict", "callable"])


class Global(nn.Module):
    """Calls a model that it does not have, but that the notebook has."""

    def forward(self, *args: Any) -> Any:
        return NOTEBOOK.model(*args)


NOTEBOOK = SimpleNamespace(model=MODEL)
NOISE = pytest.mark.parametrize("noise", [{}, {"n_samples": 2, "stdevs": 0.1}], ids=["plain", "noise"])


def method_for(noise: dict[str, Any]) -> Any:
    return LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus


@HOW
@NOISE
def test_what_timms_levit_caches_can_be_trained_after_an_attribution(how: str, noise: dict[str, Any]) -> None:
    """It computes its attention biases from a parameter and a buffer once, when it is evaluated."""
    levit = pytest.importorskip("timm.models.levit")
    model = seeded(
        lambda: levit.Levit(
            img_size=64, embed_dim=(16, 24), key_dim=8, depth=(1, 1), num_heads=(2, 3), num_classes=CLASSES
        )
    )
    image = images(2, 3, 64, 64, dtype=torch.float32)
    method_for(noise)(around(model)[how], model.stages[0]).attribute(image, TARGETS[:2], **noise)
    model(image).sum().backward()
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("attention_biases")]
    assert biases and all(bias.grad is not None for bias in biases)


class Sentences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]).bool()
        features = self.encoder(words, src_key_padding_mask=padding)
        scores: Tensor = self.head(features.masked_fill(padding.unsqueeze(-1), 0).mean(dim=1))
        return scores


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@HOW
@pytest.mark.parametrize("layer", ["encoder.layers.0", "encoder.layers.1.linear1"])
def test_frozen_encoders_are_not_fused_in_a_function_either(how: str, layer: str) -> None:
    model: Sentences = seeded(Sentences).requires_grad_(False)
    words = images(3, 5, 8, dtype=torch.float32)
    maps = [
        one(LayerGradCamPlusPlus(forward_func, model.get_submodule(layer)).attribute(words, TARGETS))
        for forward_func in (model, around(model)[how])
    ]
    assert maps[0].any()
    assert relative_error(*maps) < 1e-6


class Keeps(nn.Module):
    """Keeps what it computes from its weights in several steps."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1, 2, 1, 1))
        self.kept: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.scale.sigmoid().exp()
        return image * self.kept


@NOISE
def test_what_is_computed_from_weights_in_several_steps_and_kept_is_said(noise: dict[str, Any]) -> None:
    """The limit that docs/reference.md names, and the ways out that the message does."""
    for ways_out in (lambda keeps: keeps(cut_inputs()), lambda keeps: setattr(keeps, "kept", None)):
        cut, keeps = cut_model(smooth=True), seeded(Keeps).double()
        cut.below = nn.Sequential(keeps, cut.below)
        if ways_out(keeps) is not None:  # once before
            method_for(noise)(cut, "layer").attribute(cut_inputs(), TARGETS, **noise)
        else:
            method_for(noise)(cut, "layer").attribute(cut_inputs(), TARGETS, **noise)
            with pytest.raises(RuntimeError, match=r"captum_sgcampp.*If the model keeps tensors .* clear them, or"):
                cut(cut_inputs()).sum().backward()
            ways_out(keeps)
        torch.autograd.backward(cut(cut_inputs()).sum())
        assert keeps.scale.grad.any()


@pytest.mark.parametrize("leaf", ["parameter", "plain tensor"])
def test_leaves_that_no_module_has_are_kept(leaf: str) -> None:
    """Such as the parameters of a model that is called by torch.func.functional_call."""
    cut, kept = cut_model(smooth=True), dict[str, Tensor]()  # a ReLU may leave no gradient
    scale: Tensor = nn.Parameter(torch.rand(1, 2, 1, 1, dtype=torch.float64))
    if leaf == "plain tensor":
        scale = scale.detach().clone().requires_grad_()
    held = weakref.WeakValueDictionary({"scale": scale})  # which is not looked into

    def forward(x: Tensor) -> Tensor:
        scale = held["scale"]
        cache = kept.setdefault("cache", scale * scale)
        scores: Tensor = cut(x * cache)
        return scores

    LayerGradCamPlusPlus(forward, cut.layer).attribute(cut_inputs(), TARGETS)
    torch.autograd.backward(forward(cut_inputs()).sum())
    assert scale.grad is not None and scale.grad.any()


def test_a_model_in_training_mode_behind_a_module_is_said() -> None:
    cut = cut_model()
    cut.below = nn.Sequential(cut.below, nn.Dropout(0.1))
    NOTEBOOK.model = cut
    with pytest.warns(UserWarning, match="training mode, with Dropout"):
        LayerGradCamPlusPlus(Global(), cut.layer).attribute(cut_inputs(), TARGETS)


def test_another_model_in_training_mode_is_not_warned_of() -> None:
    """The global `model`, whose name the attribute of `teacher` has."""
    teacher.model = cut_model().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LayerGradCamPlusPlus(by_teacher, teacher.model.layer).attribute(cut_inputs(), TARGETS)


def test_what_a_model_behind_a_module_caches_can_be_trained() -> None:
    cut: Any = cut_model(smooth=True)
    scale: Any = nn.Module()
    scale.register_buffer("places", torch.arange(2))
    kept = dict[str, Tensor]()
    scale.weight = nn.Parameter(torch.rand(2, dtype=torch.float64))

    def cached(_module: nn.Module, args: tuple[Tensor]) -> Tensor:
        biases = kept.setdefault("biases", scale.weight[scale.places])
        return args[0] + biases.view(1, 2, 1, 1)

    cut.scale = scale
    cut.register_forward_pre_hook(cached)
    NOTEBOOK.model = cut
    LayerGradCamPlusPlus(Global(), cut.layer).attribute(cut_inputs(), TARGETS)
    torch.autograd.backward(cut(cut_inputs()).sum())
    assert scale.weight.grad is not None
