"""The Python blocks of the README and of the pages in docs run, each alone, as a reader would paste it."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models

import captum_sgcampp

ROOT = Path(__file__).parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if page.exists()]


def blocks() -> list[Any]:
    """Each block, with the page and the line where it begins as its name."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start(1)) + 1
            found.append(pytest.param(match[1], id=f"{page.name}:{line}"))
    return found


def random_weights(weights: models.WeightsEnum, *_args: Any, **_kwargs: Any) -> dict[str, torch.Tensor]:
    """Weights of the right shapes, in place of those that torchvision would download."""
    name = next(name for name in models.list_models() if models.get_model_weights(name) is type(weights))
    build = models.get_model_builder(name)
    without = {"weights", "weights_backbone"} & set(inspect.signature(build).parameters)
    state: dict[str, torch.Tensor] = build(**dict.fromkeys(without)).state_dict()
    return state


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with photographs, and no network."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (250, 300, 3), np.uint8)
    for name in ("cat.jpg", "photos/cats/1.jpg", "photos/cats/2.jpg"):
        image.fromarray(pixels).save(tmp_path / name)
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", random_weights)


def without_hub(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in place of those that timm and transformers would download, if the block uses them."""
    if "import timm" in block:
        pytest.importorskip("timm", reason="it is in the extra timm")
        monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_args, **_kwargs: None)
    if "transformers" in block:
        transformers = pytest.importorskip("transformers", reason="it is in the extra hf")
        network, processor = transformers.AutoModelForImageClassification, transformers.ConvNextImageProcessor()
        built = network.from_config(transformers.ResNetConfig())
        monkeypatch.setattr(network, "from_pretrained", lambda _name: built)
        monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", lambda _name: processor)


@pytest.mark.parametrize("block", blocks())
def test_a_block_imports_what_there_is(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module == captum_sgcampp.__name__:
            assert {alias.name for alias in node.names} <= set(captum_sgcampp.__all__)


@pytest.mark.slow  # many build large networks
@pytest.mark.parametrize("block", blocks())
@pytest.mark.usefixtures("reader")
def test_a_block_runs_alone(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_hub(block, monkeypatch)
    torch.manual_seed(0)
    exec(block, {})  # noqa: S102  # it is ours


def test_the_readme_has_some() -> None:
    assert not PAGES or len(blocks()) >= 4
