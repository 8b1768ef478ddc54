"""Writing the page: what it holds, how large it is, what is left out, and that it is written whole or not at all."""

import base64
import dataclasses
import importlib
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution
from models import cut_model, images, seeded
from torch import Generator, Tensor, nn

from captum_sgcampp import Explanation, explain, list_layers
from captum_sgcampp._passes.noise import seed_of
from captum_sgcampp.explanation import METHODS
from captum_sgcampp.layers import last_maps
from captum_sgcampp.page import MAX_BYTES, save_page
from captum_sgcampp.page.packing import pack_halves


def explanation(**arguments: Any) -> Explanation:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 2), nn.Flatten(), nn.Linear(45, 6), nn.Softplus()
        )
    )
    inputs = images(1, 3, 6, 6, dtype=torch.float32)
    return explain(model, inputs, ["1", "2"], **{"targets": [4, 2], "n_samples": 3, **arguments})


def data(path: Path) -> dict[str, Any]:
    """The data in a page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"))
    contents: dict[str, Any] = json.loads(text)
    return contents


@pytest.mark.parametrize("selection", [{}, {"filters": [3, 0]}, {"subset": [(0, 1)]}])
def test_a_map_is_its_weights_times_its_activations(selection: dict[str, Any]) -> None:
    explained = explanation(**selection)
    assert {layer: tensor.shape for layer, tensor in explained.activations.items()} == {
        "1": (1, 8, 4, 4),
        "2": (1, 5, 3, 3),
    }
    for (method, layer, target), attribution in explained.maps.items():
        weights = explained.weights[method, layer, target]
        assert weights.shape[1] == explained.activations[layer].shape[1]  # all channels, whatever is selected
        terms = weights * explained.activations[layer]
        filters = selection.get("filters")
        wanted = terms[:, filters] if filters else terms.sum(dim=1, keepdim=True)
        if subset := selection.get("subset"):
            mask = torch.zeros_like(wanted)
            mask[..., subset[0][0], subset[0][1]] = 1
            wanted = wanted * mask
        assert torch.equal(attribution, wanted.relu())


def test_true_derivatives_are_taken_of_the_selected_filters_only() -> None:
    explained = explanation(derivatives="autograd", filters=[3, 0], n_samples=1)
    assert {tensor.shape[1] for tensor in [*explained.activations.values(), *explained.weights.values()]} == {2}


def test_it_prints_in_one_line() -> None:
    wanted = "Explanation(title='photo', model='Sequential', layers=['1', '2'], targets=[4, 2])"
    assert repr(explanation(title="photo")) == wanted


def test_the_seed_is_known_unless_the_generator_was_used_before() -> None:
    generator = Generator().manual_seed(11)
    assert seed_of(generator) == 11
    torch.rand(1, generator=generator)
    assert seed_of(generator) is None
    assert explanation(generator=Generator().manual_seed(7)).recipe.seed == 7
    torch.manual_seed(3)
    first = explanation()
    again = explanation(generator=Generator().manual_seed(first.recipe.seed or 0))
    for key, attribution in first.maps.items():
        assert torch.equal(attribution, again.maps[key])


def test_the_page_is_one_file_without_addresses(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    explanation(title="photo").save_page(file)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    text = file.read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s\"'<]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, which is not fetched
    assert not re.search(r"\b(src|href)=[\"']?\w", text)
    assert "<title>photo</title>" in text


def test_the_same_explanation_is_the_same_page(tmp_path: Path) -> None:
    for name in ("first", "second"):
        explanation(generator=Generator().manual_seed(0)).save_page(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_nothing_in_the_data_looks_like_html(tmp_path: Path) -> None:
    hostile = "</script><!-- <script> & {{data}} \u2028"
    explanation(title=hostile, class_names=[hostile] * 6, model_name=hostile).save_page(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    embedded = text.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(embedded)
    (photograph,) = json.loads(embedded)["photographs"]
    assert photograph["title"] == photograph["model"] == photograph["classes"][0]["name"] == hostile


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "page.html"
    file.write_text("as it was")

    def run_out_of_space(_descriptor: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", run_out_of_space)
        with pytest.raises(OSError, match="no space left"):
            explanation().save_page(file)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("page.html", "as it was")]
    explanation().save_page(str(file))
    assert file.stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_titles_and_names_of_any_kind(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    numbers = explanation(title="a\udcff.jpg", n_samples=np.int64(2), class_names=np.arange(6))
    save_page((one for one in [numbers]), file)
    (photograph,) = data(file)["photographs"]
    assert photograph["recipe"]["samples"] == 2
    assert {one["name"] for one in photograph["classes"]} <= set("012345")
    assert "a\udcff.jpg" not in file.read_text("utf-8")
    named = explanation(title=Path("photo.jpg"))
    assert named._repr_html_() and named.picture()


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    explained = explanation()
    explained.scores[0] = torch.inf
    with pytest.raises(ValueError, match="model: has scores that are not finite"):
        explained.save_page(tmp_path / "page.html")


@pytest.mark.parametrize("largest", [1e-44, 1e-40, 1.0, 3e38])
def test_halves_are_finite_and_near_whatever_the_unit(largest: float) -> None:
    values = torch.tensor([largest, -largest / 3, 0.0])
    packed = pack_halves(values)
    halves = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), "<f2")
    np.testing.assert_allclose(halves.astype(float) * packed["scale"], values.double(), rtol=2**-11)


def test_it_knows_the_class_of_each_method(tmp_path: Path) -> None:
    explanation().save_page(tmp_path / "page.html")
    methods = data(tmp_path / "page.html")["methods"]
    assert [method["name"] for method in methods] == list(METHODS)
    assert {method["withoutNoise"] for method in methods} <= {*METHODS}
    for method in methods:
        module, _, name = method["className"].rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), name), LayerAttribution)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        explanation().save_page(tmp_path / "none" / "page.html")


def test_the_largest_layers_are_left_out_with_the_reason(tmp_path: Path) -> None:
    explained = explanation()
    explained.save_page(tmp_path / "all.html")
    (photograph,) = data(tmp_path / "all.html")["photographs"]
    sizes = {layer["name"]: len(json.dumps(layer)) for layer in photograph["layers"]}
    assert list(sizes) == ["1", "2"]
    assert photograph["leftOut"] == []
    explained.save_page(tmp_path / "some.html", max_bytes=sum(sizes.values()) - 1)
    (photograph,) = data(tmp_path / "some.html")["photographs"]
    assert [layer["name"] for layer in photograph["layers"]] == ["2"]
    assert [left["name"] for left in photograph["leftOut"]] == ["1"]
    assert re.search("1 is too large: it takes .* MB, .* raise max_bytes", photograph["leftOut"][0]["why"])
    with pytest.raises(ValueError, match=r"layers: the page can show none\. 2 is too large.* 1 is too large"):
        explained.save_page(tmp_path / "none.html", max_bytes=10)
    assert not (tmp_path / "none.html").exists()


def with_layer(explained: Explanation, activations: Tensor) -> Explanation:
    return dataclasses.replace(explained, activations={**explained.activations, "1": activations})


def test_layers_that_cannot_be_shown_are_left_out(tmp_path: Path) -> None:
    explained = explanation()
    infinite = explained.activations["1"].clone()
    infinite[0, 0, 0, 0] = torch.inf
    for activations, why in [
        (infinite, "1 has activations or weights that are not finite"),
        (torch.rand(1, 8, 4), "1 has maps of shape (1, 8, 4), and the page shows those of shape (1, C, H, W)."),
    ]:
        with_layer(explained, activations).save_page(tmp_path / "page.html")
        (photograph,) = data(tmp_path / "page.html")["photographs"]
        assert photograph["leftOut"][0]["why"].startswith(why)
        assert [layer["name"] for layer in photograph["layers"]] == ["2"]


def test_what_is_no_image_is_refused_and_shown_otherwise_in_a_notebook(tmp_path: Path) -> None:
    explained = explain(cut_model(1), images(1, 2, 6), "layer", [0], n_samples=1)
    with pytest.raises(ValueError, match="photograph: a page needs one"):
        explained.save_page(tmp_path / "page.html")
    assert explained._repr_html_() is None
    shown = explain(cut_model(1), images(1, 2, 6), "layer", [0], n_samples=1, photograph=np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"layers: the page can show none\. layer has maps of shape"):
        shown.save_page(tmp_path / "page.html")
    with pytest.raises(ValueError, match="explanations: is empty"):
        save_page([], tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_large_photograph_is_scaled_down(tmp_path: Path) -> None:
    photograph = np.zeros((400, 1600, 3), dtype=np.uint8)
    explanation(photograph=photograph).save_page(tmp_path / "page.html")
    image = data(tmp_path / "page.html")["photographs"][0]["image"]
    assert (image["width"], image["height"]) == (768, 192)


def test_the_last_maps_of_each_resolution() -> None:
    class Down(nn.Module):
        """A block whose first convolution still has the resolution of its input."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 3, stride=2, padding=1)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.second(self.first(inputs))
            return outputs

    class Network(nn.Module):
        """A backbone, whose output is smaller than its input, is not such a block."""

        def __init__(self) -> None:
            super().__init__()
            relu = nn.ReLU()
            stem = [nn.Conv2d(3, 4, 3, stride=2, padding=1), relu, nn.Conv2d(4, 4, 1), relu]
            self.backbone = nn.Sequential(*stem, Down(), nn.Identity(), Down(), nn.MaxPool2d(2), Down())
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.head(self.backbone(inputs))
            return scores

    layers = list_layers(Network(), torch.rand(1, 3, 32, 32))
    # 16 x 16: not the ReLU, which runs twice; 8 x 8: the last before the next block; 4 x 4: not the pooling, and 2 x 2
    # is the pooling's; 1 x 1 is no map.
    assert [layer.name for layer in last_maps(layers)] == ["backbone.2", "backbone.5", "backbone.6"]
    assert last_maps(list_layers(nn.Linear(3, 2), torch.rand(1, 3))) == []


ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "conf.py"


@pytest.mark.skipif(not CONFIGURATION.exists(), reason="only in a checkout")
def test_the_readme_shows_it_and_says_how_to_write_the_one_that_the_site_has() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "](tutorials/images/page.jpg)" in readme
    (example,) = re.findall(r'^EXAMPLE = "(.*)"$', CONFIGURATION.read_text("utf-8"), re.MULTILINE)
    assert f"`captum-sgcampp --top-k 3 --page {example}`" in readme


def test_a_photograph_with_the_default_layers_takes_three_megabytes(tmp_path: Path) -> None:
    networks = pytest.importorskip("captum_sgcampp.cli.networks", reason="the network is in the extra demo")
    skimage = pytest.importorskip("skimage", reason="the photograph is in the extra demo")
    from PIL import Image

    classifier = networks.load_classifier("efficientnet_lite0", torch.device("cpu"))
    photograph = Image.fromarray(skimage.data.chelsea())
    inputs = classifier.inputs(photograph)
    layers = [layer.name for layer in last_maps(classifier.layers)]
    assert layers == ["_blocks.0", "_blocks.2", "_blocks.4", "_blocks.10", "_bn1"]
    crop = classifier.frame(photograph)
    file = tmp_path / "page.html"
    for top_k, left_out in [(3, []), (5, ["_blocks.0"])]:
        explain(classifier.model, inputs, layers, top_k=top_k, n_samples=2, photograph=crop).save_page(file)
        (written,) = data(file)["photographs"]
        assert [left["name"] for left in written["leftOut"]] == left_out
        assert 1_500_000 < file.stat().st_size < MAX_BYTES + 150_000  # with the photograph, and all else
        assert written["methods"] == list(METHODS)
