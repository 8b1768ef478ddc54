"""What tells functions, objects and modules apart when a run goes on, and what does not."""

import enum
import functools
import importlib
import json
import operator
import os
import re
import subprocess
import sys
import textwrap
import warnings
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from models import images, seeded
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from captum_sgcampp import (
    LayerGradCamPlusPlus,
    LayerSmoothGradCAMpp,
    LayerSmoothLayerCAM,
    Maps,
    attribute_dataset,
    channels_last_to_map,
    open_maps,
)
from captum_sgcampp.dataset.fingerprint import fingerprint, fingerprint_of_parts, fingerprint_of_tensors, name_of
from captum_sgcampp.formulas import Derivatives

pytest.importorskip("safetensors", reason="maps need the extra maps")

Build = Callable[[float], Any]
SCALE = 1.0


def scaled(values: Tensor, factor: float = 1.0) -> Tensor:
    return values * factor


class Scaled:
    """Whose text says nothing of its factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.n_calls = 0

    def __call__(self, values: Tensor) -> Tensor:
        self.n_calls += 1
        return values * self.factor

    def method(self, values: Tensor) -> Tensor:
        return values * self.factor

    def __repr__(self) -> str:
        return "Scaled()"


class Slots:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


class ScaledModule(nn.Module):
    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        self.last = values  # a result
        scores: Tensor = values * self.factor
        return scores


def from_text(text: str, **names: Any) -> Any:
    """What a text defines as `made`."""
    found: dict[str, Any] = {"torch": torch, "__name__": "of_a_user", **names}
    exec(textwrap.dedent(text), found)  # noqa: S102
    return found["made"]


def over(value: Any) -> Any:
    """A function with a value in its closure."""

    def function(values: Tensor) -> tuple[Any, Tensor]:
        return value, values

    return function


def with_default(number: float) -> Any:
    def function(values: Tensor, factor: float = number) -> Tensor:
        return values * factor

    return function


def with_keyword_default(number: float) -> Any:
    def function(values: Tensor, *, factor: float = number) -> Tensor:
        return values * factor

    return function


def decorated(number: float) -> Any:
    def decorator(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        @functools.wraps(function)
        def wrapper(values: Tensor) -> Tensor:
            return function(values) * number

        return wrapper

    return decorator(scaled)


def recursive(number: float) -> Any:
    def function(values: Tensor) -> Tensor:
        return function(values / 2) if values.sum() > number else values

    return function


def class_with(number: float) -> Any:
    class Method(LayerGradCamPlusPlus):
        def weights(self, _activations: Tensor, derivatives: Derivatives) -> Tensor:
            return derivatives.gradient * number

    return Method


def traced(callee: Any) -> Any:
    trace: Any = torch.jit.trace
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return trace(callee, torch.ones(2))


def patched(number: float) -> nn.Module:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
    module.forward = MethodType(lambda _self, values: values * number, module)  # type: ignore[method-assign]
    return module


def user_module(number: float) -> Any:
    helpers = ModuleType("helpers_of_a_user")
    exec(f"SCALE = {number}\ndef scale(x): return x * SCALE", vars(helpers))  # noqa: S102
    return from_text("def made(x): return helpers.scale(x)", helpers=helpers)


class Config:
    """Whose text says nothing of its factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor


class Kind(enum.Enum):
    FIRST = 1.0
    SECOND = 2.0


SETTINGS: dict[str, Build] = {
    "object": Config,
    "enum": Kind,
    "array": lambda number: np.array([number]),
    "number of numpy": np.float32,
    "list of tensors": lambda number: [torch.tensor(number)],
    "dict of tensors": lambda number: {"factor": torch.tensor(number)},
    "slice": slice,
    "range": lambda number: range(int(number)),
    "deque": lambda number: deque([number]),
    "decimal": Decimal,
    "fraction": lambda number: Fraction(int(number), 3),
    "device": lambda number: torch.device(f"cuda:{int(number)}"),
    "path": lambda number: Path(str(number)),
    "list with an object": lambda number: [1, Config(number)],
    "dict in another order": lambda number: dict.fromkeys((number, 3 - number)),
    "mapping proxy": lambda number: MappingProxyType({"factor": number}),
    "pattern's flags": lambda number: re.compile("a", re.IGNORECASE if number > 1 else re.DOTALL),
}


@pytest.mark.parametrize("wrap", [ScaledModule, Scaled, over], ids=["module", "object", "closure"])
@pytest.mark.parametrize("build", SETTINGS.values(), ids=SETTINGS.keys())
def test_settings_of_any_type_count(build: Build, wrap: Callable[[Any], Any]) -> None:
    assert fingerprint(wrap(build(1.0))) == fingerprint(wrap(build(1.0)))
    assert fingerprint(wrap(build(1.0))) != fingerprint(wrap(build(2.0)))


def test_the_interpolation_of_a_transform_counts() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    presets = pytest.importorskip("torchvision.transforms._presets")
    modes = transforms.InterpolationMode
    builds: list[Callable[[Any], Any]] = [
        lambda mode: transforms.Resize((16, 16), interpolation=mode),
        lambda mode: over(transforms.Resize((16, 16), interpolation=mode)),
        lambda mode: presets.ImageClassification(crop_size=16, interpolation=mode),
    ]
    for build in builds:
        assert fingerprint(build(modes.NEAREST)) == fingerprint(build(modes.NEAREST))
        assert fingerprint(build(modes.NEAREST)) != fingerprint(build(modes.BICUBIC))


def test_a_cached_property_is_no_setting_but_its_code_counts() -> None:
    def build(number: float) -> Any:
        return from_text(
            f"""
            import functools
            class Scale:
                @functools.cached_property
                def factor(self): return {number}
            made = Scale()
            """
        )

    made = build(1.0)
    before = fingerprint(made)
    assert before == fingerprint(build(1.0)) != fingerprint(build(2.0))
    assert made.factor == 1.0
    assert fingerprint(made) == before


class Annealed(nn.Module):
    """Assigns to its setting while it learns."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            self.factor *= 0.99
        return values * self.factor


class OfAnother(Annealed):
    """Assigns to an attribute of another object that has the name of a setting."""

    def forward(self, values: Any) -> Tensor:
        values.factor = 1
        product: Tensor = values * getattr(self, "factor")  # noqa: B009
        return product


def annealed(number: float) -> Any:
    def function(values: Tensor) -> Tensor:
        nonlocal number
        if values.requires_grad:
            number *= 0.99
        return values * number

    return function


@pytest.mark.parametrize("build", [Annealed, OfAnother, annealed])
def test_a_setting_that_a_call_may_assign_to_counts(build: Build) -> None:
    assert fingerprint(build(1.0)) == fingerprint(build(1.0))
    assert fingerprint(build(1.0)) != fingerprint(build(0.1))


def test_results_of_the_methods_that_a_call_calls_do_not_matter() -> None:
    class Counting(ScaledModule):
        n_calls, size = 0, None

        def note(self, values: Tensor) -> None:
            self.n_calls += 1
            self.size = values.shape

        def forward(self, values: Tensor) -> Tensor:
            self.note(values)
            return super().forward(values)

    module = Counting(2)
    before = fingerprint(module)
    module(torch.ones(2))
    assert fingerprint(module) == before != fingerprint(Counting(3))


IMPORTS = {
    "import": "import {0}.helpers\ndef made(x): return {0}.helpers.scale(x)",
    "import in function": "def made(x):\n    import {0}.helpers\n    return {0}.helpers.scale(x)",
    "import as, in function": "def made(x):\n    import {0}.helpers as other\n    return other.scale(x)",
    "function in function": "def made(x):\n    from {0}.helpers import scale\n    return scale(x)",
    "module in function": "def made(x):\n    from {0} import helpers\n    return helpers.scale(x)",
    "relative": "def made(x):\n    from .helpers import scale\n    return scale(x)",
}


@pytest.mark.parametrize("text", IMPORTS.values(), ids=IMPORTS.keys())
def test_what_a_function_imports_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = "package_of_a_user"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()

    def build(number: float) -> str:
        for module in [module for module in sys.modules if module.startswith(name)]:
            monkeypatch.delitem(sys.modules, module)
        (tmp_path / name / "helpers.py").write_text(f"def scale(x): return x * {number}")
        importlib.invalidate_caches()
        made = from_text(text.format(name), __package__=name)
        before = fingerprint(made)
        assert made(1) == number
        assert fingerprint(made) == before
        return before

    assert build(1.0) == build(1.0) != build(2.0)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_that_may_change_an_output_count(register: str) -> None:
    def build(number: float) -> nn.Module:
        module = ScaledModule(2)
        getattr(module, register)(lambda *args: args[-1] * number)
        return module

    assert fingerprint(build(1.0)) == fingerprint(build(1.0))
    assert len({fingerprint(module) for module in (build(1.0), build(2.0), ScaledModule(2))}) == 3


def test_a_progress_bar_does_not_matter() -> None:
    tqdm = pytest.importorskip("tqdm")
    with open(os.devnull, "w") as file:  # noqa: PTH123
        first, second = (tqdm.tqdm(total=10, file=file) for _ in range(2))
        second.update(3)
        assert fingerprint(over(first)) == fingerprint(over(second))


PAIRS: dict[str, Build] = {
    "constant": lambda number: from_text(f"made = lambda x: x * {number}"),
    "name": lambda number: from_text(f"made = lambda x: torch.{'sin' if number > 1 else 'cos'}(x)"),
    "attribute": lambda number: from_text(f"made = lambda x: x.{'logits' if number > 1 else 'aux'}"),
    "set": lambda number: from_text(f"made = lambda x: x in {{'a', 'b', {number}}}"),
    "nested": lambda number: from_text(f"def made(x):\n    def inner(y): return y * {number}\n    return inner(x)"),
    "comprehension": lambda number: from_text(f"made = lambda x: [y * {number} for y in x]"),
    "handler": lambda number: from_text(
        f"def made(x):\n    try: return x.y\n    except {'KeyError' if number > 1 else 'AttributeError'}: return x"
    ),
    "default": with_default,
    "keyword default": with_keyword_default,
    "closure": over,
    "tensor": lambda number: over(torch.tensor([number])),
    "array": lambda number: over(np.array([number])),
    "container": lambda number: over({"factors": [number]}),
    "namespace": lambda number: over(SimpleNamespace(factor=number)),
    "pattern": lambda number: over(re.compile(str(number))),
    "getter": operator.itemgetter,
    "operator": lambda number: over(torch.ops.aten.sin if number > 1 else torch.ops.aten.cos),
    "function in closure": lambda number: over(lambda values: values * number),
    "module in closure": lambda number: over(ScaledModule(number)),
    "global": lambda number: from_text("made = lambda x: x * scale", scale=number),
    "global function": lambda number: from_text(
        f"def inner(x): return x * {number}\ndef outer(x): return inner(x)\nmade = lambda x: outer(x)"
    ),
    "own module": user_module,
    "partial": lambda number: partial(scaled, factor=number),
    "partial of a partial": lambda number: partial(partial(scaled, factor=number)),
    "object": Scaled,
    "slots": Slots,
    "bound method": lambda number: Scaled(number).method,
    "decorated": decorated,
    "cached": lambda number: functools.lru_cache(lambda values: values * number),
    "recursive": recursive,
    "function attribute": lambda number: from_text(f"def made(x): return x * made.factor\nmade.factor = {number}"),
    "class": class_with,
    "instance": lambda number: object.__new__(class_with(number)),
    "module attribute": ScaledModule,
    "module's tensor": lambda number: ScaledModule(torch.tensor(number)),
    "module's function": lambda number: ScaledModule(lambda values: values * number),
    "module's options": lambda number: ScaledModule(SimpleNamespace(factor=number)),
    "patched module": patched,
    "traced": lambda number: traced(lambda values: values * number),
    "traced module": lambda number: traced(ScaledModule(number)),
    "traced tensor": lambda number: traced(ScaledModule(torch.tensor([number, 1]))),
    "exported": lambda number: torch.fx.symbolic_trace(ScaledModule(number)),
}


@pytest.mark.parametrize("build", PAIRS.values(), ids=PAIRS.keys())
def test_what_computes_something_else_has_another_fingerprint(build: Build) -> None:
    assert fingerprint(build(1.0)) == fingerprint(build(1.0))
    assert fingerprint(build(1.0)) != fingerprint(build(2.0))


def test_the_place_of_a_function_and_its_text_do_not_matter() -> None:
    first = from_text("def made(x):\n    return x * 2\n")
    moved = from_text('import os\n\n\ndef made(x):\n    """Doubles."""\n    # a comment\n    return x * 2\n')
    assert fingerprint(first) == fingerprint(moved)


def test_results_do_not_matter() -> None:
    """Of a call of an object or function, and caches."""
    one, values = Scaled(2), torch.ones(1)
    module: Any = ScaledModule(2)
    counter = 0

    def count(values: Tensor) -> Tensor:
        nonlocal counter
        counter += 1
        return values

    before = [fingerprint(callee) for callee in (one, module, count)]
    for callee in (one, module, count):
        callee(values)
    module.cache = {"cpu": values}
    assert [fingerprint(callee) for callee in (one, module, count)] == before


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_cannot_be_looked_into_raises_nothing() -> None:
    class Hostile:
        def __reduce_ex__(self, _protocol: Any) -> Any:
            raise RuntimeError("no")

        def __getattr__(self, name: str) -> Any:
            raise OSError(name)

    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with open(os.devnull) as file:  # noqa: PTH123
        for value in (Hostile(), deep, cyclic, file, iter(()), torch.Generator(), sys, ..., Hostile, nn.Linear):
            assert fingerprint(value) == fingerprint(value)
            assert fingerprint(lambda given=value: given)
    assert fingerprint_of_tensors({"": torch.ones(2, device="meta")})
    assert fingerprint_of_parts(nn.LazyLinear(3))


@pytest.mark.filterwarnings("ignore::UserWarning")  # quantized tensors are deprecated
def test_tensors_without_plain_memory() -> None:
    quantized = [torch.quantize_per_tensor(torch.tensor([value]), 0.1, 0, torch.qint8) for value in (1.0, 2.0)]
    complex_ones = [torch.tensor([1 + value * 1j]) for value in (1, 2)]
    conjugated = [value.conj() for value in complex_ones]
    for first, second in (quantized, complex_ones, conjugated, (complex_ones[0], conjugated[0])):
        assert fingerprint_of_tensors({"": first}) != fingerprint_of_tensors({"": second})


SCRIPT = """
import functools, json, sys
import torch
from types import SimpleNamespace
from torchvision import models, transforms
from captum_sgcampp.dataset.fingerprint import fingerprint, fingerprint_of_parts
OPTIONS = SimpleNamespace(names={"a", "b", "c"}, factor=2)
class Model(torch.nn.Module):
    kinds = frozenset({"x", "y", "z"})
    def __init__(self):
        super().__init__()
        self.inner, self.tags = torch.nn.Linear(2, 2), {"k", "l", "m"}
    def forward(self, x):
        return self.inner(x) * OPTIONS.factor if "x" in {"p", "q", "r", "s"} else x
torch.manual_seed(0)
model = Model()
def function(x, marker=object()):
    return OPTIONS.names and functools.partial(model)(x)
made = [function, model, Model, lambda x: function(x), torch.sin, torch.nn.functional.relu,
        transforms.Compose([transforms.Resize(3), transforms.Lambda(lambda x: x * 2)])]
print(json.dumps([*map(fingerprint, made), fingerprint_of_parts(models.resnet18())]))
"""


def test_fingerprints_are_the_same_in_every_process_and_place(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    found = []
    for number in (1, 2):
        script = tmp_path / str(number) / f"script{number}.py"
        script.parent.mkdir()
        script.write_text("\n" * number * 7 + SCRIPT)
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        found.append(json.loads(subprocess.check_output([sys.executable, script], env=environment)))
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0])


# --- in a run --------------------------------------------------------------------------------------------------------


def small_model() -> Any:
    return seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    )


MODEL = small_model()


class Tensors(Dataset[Tensor]):
    def __init__(self, transform: Any = None) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        return images(3, 3, 6, 6, dtype=torch.float32)[index]


def run(
    folder: Path,
    forward_func: Any = MODEL,
    dataset: Any = None,
    build: Any = LayerGradCamPlusPlus,
    reshape_transform: Any = None,
    **options: Any,
) -> Maps:
    how = {} if reshape_transform is None else {"reshape_transform": reshape_transform}
    return attribute_dataset(build(forward_func, MODEL[0], **how), dataset or Tensors(), folder, **options)


def other_dataset(number: float) -> Any:
    class Same(Tensors):
        def __getitem__(self, index: int) -> Tensor:
            return super().__getitem__(index) * number

    return Same()


class Having(Tensors):
    """A dataset with an attribute of any name."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        setattr(self, name, value)


class Photographs(Tensors):
    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        self.files = files


DATASETS: dict[str, tuple[str, Callable[[float], Any]]] = {
    "function": (r"attributes\.preprocess", lambda number: Having("preprocess", Scaled(number))),
    "number": (r"attributes\.scale is 1\.0 there and 2\.0 here", lambda number: Having("scale", number)),
    "tensor": (r"attributes\.data", lambda number: Having("data", torch.full((3,), number))),
    "array": (r"attributes\.data", lambda number: Having("data", np.full(3, number))),
    "list of tensors": (r"dataset\.data", lambda number: list(number * images(3, 3, 6, 6, dtype=torch.float32))),
    "wrapper": (r"attributes\.base\.transform", lambda number: Having("base", Tensors(Scaled(number)))),
    "part": (r"base\.attributes\.indices", lambda number: Having("base", Subset(Tensors(), [0, int(number), 0]))),
    "several": (r"attributes\.datasets\.0\.transform", lambda number: ConcatDataset([Tensors(Scaled(number))])),
}


@pytest.mark.parametrize(("message", "build"), DATASETS.values(), ids=DATASETS.keys())
def test_a_run_notices_whatever_a_dataset_has(tmp_path: Path, message: str, build: Callable[[float], Any]) -> None:
    run(tmp_path, dataset=build(1.0))
    run(tmp_path, dataset=build(1.0))
    with pytest.raises(ValueError, match=f"holds maps of another run: .*{message}"):
        run(tmp_path, dataset=build(2.0))


def test_a_run_notices_changed_files_of_a_dataset_within_another(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.touch()
    run(tmp_path / "maps", dataset=Having("base", Photographs(files)))
    run(tmp_path / "maps", dataset=Having("base", Photographs(files)))
    files[1].write_text("other")
    with pytest.raises(ValueError, match=r"another run: dataset\.attributes\.base\.files is"):
        run(tmp_path / "maps", dataset=Having("base", Photographs(files)))


def test_datasets_that_refer_to_one_another(tmp_path: Path) -> None:
    outer = Having("base", Tensors())
    outer.base.view = outer  # type: ignore[attr-defined]
    run(tmp_path, dataset=outer)
    run(tmp_path, dataset=outer)


def test_a_run_notices_another_loader_of_a_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    (tmp_path / "root" / "class").mkdir(parents=True)
    for number in range(2):
        (tmp_path / "root" / "class" / f"{number}.png").touch()

    def folder(offset: float) -> Any:
        return datasets.ImageFolder(
            str(tmp_path / "root"), loader=lambda _: images(1, 3, 6, 6, dtype=torch.float32)[0] + offset
        )

    run(tmp_path / "maps", dataset=folder(1.0))
    run(tmp_path / "maps", dataset=folder(1.0))
    with pytest.raises(ValueError, match=r"another run: dataset\.attributes\.loader is"):
        run(tmp_path / "maps", dataset=folder(2.0))


def after_model(after: Scaled, image: Tensor) -> Tensor:
    return after(MODEL(image))


RUNS: dict[str, Callable[[float], dict[str, Any]]] = {
    "forward_func": lambda number: {"forward_func": lambda image: MODEL(image) * number},
    "object": lambda number: {"forward_func": partial(after_model, Scaled(number))},
    "reshape_transform": lambda number: {"reshape_transform": lambda tensor: tensor * number},
    "transform": lambda number: {"dataset": Tensors(Scaled(number))},
    "dataset": lambda number: {"dataset": other_dataset(number)},
    "method": lambda number: {"build": class_with(number)},
    "argument": lambda number: {
        "forward_func": lambda image, after: after(MODEL(image)),
        "additional_forward_args": Scaled(number),
    },
    "Captum's": lambda number: {"build": LayerGradCam, "forward_func": lambda image: MODEL(image) * number},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_a_run_notices_another_function(tmp_path: Path, options: Callable[[float], dict[str, Any]]) -> None:
    run(tmp_path, **options(1.0))
    run(tmp_path, **options(1.0))
    with pytest.raises(ValueError, match=r"holds maps of another run: .* there and .* here"):
        run(tmp_path, **options(2.0))


def test_a_run_notices_another_forward_of_a_class(tmp_path: Path) -> None:
    def model(number: float) -> Any:
        class Same(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = MODEL

            def forward(self, image: Tensor) -> Any:
                return self.inner(image) * number

        return Same()

    run(tmp_path, model(1.0))
    run(tmp_path, model(1.0))
    with pytest.raises(ValueError, match=r"another run: model\.code is '\w{12}...' there and '\w{12}...' here\."):
        run(tmp_path, model(-1.0))


def test_a_folder_of_before_is_refused_but_its_maps_can_be_read(tmp_path: Path) -> None:
    run(tmp_path, MODEL.forward)
    record = json.loads((tmp_path / "run.json").read_text())
    record["settings"]["model"]["code"] = "0" * 64  # of the bytecode alone
    del record["settings"]["method"]["code"], record["settings"]["dataset"]["code"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert len(open_maps(tmp_path)) == 3
    with pytest.raises(ValueError, match=r"another run: method\.code is None there and '.*model\.code is '0{12}...'"):
        run(tmp_path, MODEL.forward)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    dataset = TensorDataset(images(2, 3, 6, 6, dtype=torch.float32))
    run(tmp_path, dataset=dataset, filters=[1])
    run(tmp_path, dataset=dataset, filters=[np.int64(1)])


EXPORTED = [LayerGradCamPlusPlus, LayerSmoothGradCAMpp, LayerSmoothLayerCAM, channels_last_to_map]


@pytest.mark.parametrize("exported", EXPORTED)
def test_what_the_package_exports_is_known_by_the_name_that_it_exports_it_by(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the file that it is in, which may change."""
    before = fingerprint(exported)
    monkeypatch.setattr(exported, "__module__", "captum_sgcampp.elsewhere")
    assert name_of(exported) == f"captum_sgcampp.{exported.__name__}"
    assert fingerprint(exported) == before


def test_a_class_that_only_has_an_exported_name_keeps_its_own() -> None:
    own = type("LayerGradCamPlusPlus", (LayerGradCamPlusPlus,), {"__module__": "captum_sgcampp.elsewhere"})
    assert name_of(own) == "captum_sgcampp.elsewhere.LayerGradCamPlusPlus"
    assert fingerprint(own) != fingerprint(LayerGradCamPlusPlus)
