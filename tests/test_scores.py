"""A model with a single score: there is no probability, so the score itself is shown, wherever one would be."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import chromium, open_page, settled
from models import seeded
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_sgcampp import Explanation, LayerGradCamPlusPlus, attribute_dataset, explain


def build() -> Any:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1)))
    nn.init.constant_(model[-1].bias, 3.71)
    nn.init.zeros_(model[-1].weight[0, 8:])
    return model


def inputs() -> Tensor:
    return torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def explanation(**arguments: Any) -> Explanation:
    return explain(build(), inputs(), "1", n_samples=1, title="photo", **arguments)


def score() -> float:
    with torch.no_grad():
        return float(build()(inputs()))


@pytest.mark.parametrize("arguments", [{}, {"targets": [0]}, {"top_k": 1}])
def test_there_is_no_probability(arguments: dict[str, Any]) -> None:
    explained = explanation(**arguments)
    assert explained.targets == [0]
    assert explained.probabilities is None
    assert explained.scores.tolist() == [pytest.approx(score())]
    assert explained.probability_or_score(0) == f"score {score():.3g}"


def test_several_scores_have_probabilities() -> None:
    model = nn.Sequential(build(), nn.Linear(1, 2)).eval()
    explained = explain(model, inputs(), "0.1", n_samples=1)
    assert explained.probabilities is not None
    target = explained.targets[0]
    assert explained.probability_or_score(target) == f"{float(explained.probabilities[target]):.1%}"


def test_the_picture() -> None:
    titles = [axes.get_title() for axes in explanation(class_names=["grade"]).picture().axes]
    assert titles[1:5] == [
        f"{method}\ngrade, score {score():.3g}"
        for method in ("Grad-CAM", "Grad-CAM++", "Smooth Grad-CAM++", "Smooth Layer-CAM")
    ]


def test_the_page_holds_the_score(tmp_path: Path) -> None:
    explanation().save_page(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    (found,) = json.loads(data)["photographs"][0]["classes"]
    assert found == {"target": 0, "name": "class 0", "score": pytest.approx(score())}


def test_the_page_shows_the_score(tmp_path: Path) -> None:
    explanation().save_page(tmp_path / "page.html")
    with chromium() as browser, open_page(browser, tmp_path / "page.html") as page:
        settled(page)
        assert page.locator("#classes .aside").all_inner_texts() == [f"score {score():.3g}"]
        assert page.locator("#classes .bar").count() == 0
        assert page.locator("#layers .aside").count() == 1


def test_a_lone_score_that_is_not_finite_is_no_page(tmp_path: Path) -> None:
    explained = explanation()
    for value in (torch.inf, -torch.inf, torch.nan):
        explained.scores[0] = value
        with pytest.raises(ValueError, match="model: has scores that are not finite"):
            explained.save_page(tmp_path / "page.html")


@pytest.mark.parametrize("target", ["predicted", 0])
def test_the_index_of_a_dataset(target: Any, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    dataset = TensorDataset(inputs().repeat(2, 1, 1, 1))
    attribute_dataset(LayerGradCamPlusPlus(build(), "1"), dataset, tmp_path, target=target, class_names=["grade"])
    header, *rows = (tmp_path / "index.csv").read_text("utf-8").splitlines()
    columns = header.split(",")
    for row in rows:
        found = dict(zip(columns, row.split(","), strict=True))
        assert (found["target"], found["target_name"], found["probability"]) == ("0", "grade", "")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision", reason="the command needs the extra demo")
    from captum_sgcampp.__main__ import main

    monkeypatch.chdir(tmp_path)
    Path("grade.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from torchvision.transforms import functional as F\n\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    model = nn.Sequential(\n"
        "        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 1))\n"
        "    nn.init.constant_(model[-1].bias, -371.4)\n"
        "    return model, lambda image: F.to_tensor(image.resize((32, 32))), ['grade']\n"
    )
    assert main(["--model", "grade.py:build", "--layer", "1", "--n-samples", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "score -371  grade (0)"
    assert "%" not in "\n".join(lines)
