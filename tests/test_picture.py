"""The picture: it reads in grayscale, compares what it says it compares, and takes names as they are."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from captum_sgcampp.picture import DPI, LINE_LENGTH, Panel, Row, blended, draw, shortened

GRAY = np.full((20, 20, 3), 0.5, dtype=np.float32)


def lightness(rgb: object) -> Any:
    """The lightness L* of CIELAB, 0 to 100: what a grayscale print shows."""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(rgb))[..., 0]


def ramp(brightness: float) -> Any:
    """The lightness of a map from 0 to 1 over a photograph of one brightness."""
    values = np.linspace(0, 1, 101, dtype=np.float32)[None]
    return lightness(blended(values, np.full((1, 101, 3), brightness, dtype=np.float32)))[0]


def test_the_map_reads_in_grayscale() -> None:
    pytest.importorskip("skimage")
    for brightness in (0, 0.5, 1):
        assert (np.diff(ramp(brightness)) > 0).all()
    assert ramp(1)[0] <= ramp(0)[36]  # white at 0 is no brighter than black at 0.36 of the maximum
    assert ramp(0)[75] > ramp(1)[0] + 25


def test_where_the_map_is_zero_the_photograph_is_visible() -> None:
    pytest.importorskip("skimage")
    assert ramp(1)[0] - ramp(0)[0] > 25


def images_of(figure: Figure) -> list[Any]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_maps_are_scaled_by_themselves_or_by_a_given_maximum() -> None:
    weak, strong = torch.full((1, 1, 4, 4), 1.0), torch.full((1, 1, 4, 4), 4.0)
    _, own_weak, own_strong = images_of(draw([Row(GRAY, "", [Panel("", weak), Panel("", strong)])]))
    assert np.array_equal(own_weak, own_strong)
    shared = [Panel("", weak, maximum=4), Panel("", strong, maximum=4)]
    _, shared_weak, shared_strong = images_of(draw([Row(GRAY, "", shared)]))
    assert np.array_equal(shared_strong, own_strong)
    quarter = blended(np.full((20, 20), 0.25, dtype=np.float32), GRAY)
    np.testing.assert_allclose(shared_weak, quarter, atol=0.01)  # 256 colors


def test_the_color_bar_says_what_the_colors_mean() -> None:
    figure = draw([Row(GRAY, "", [Panel("", torch.rand(1, 1, 4, 4))])], scale="parts of a whole")
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "parts of a whole"
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0.0", "0.5", "1.0"]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_a_positive_value_says_so_in_its_panel(value: float) -> None:
    figure = draw([Row(GRAY, "", [Panel("title", torch.full((1, 1, 4, 4), value))])])
    assert [text.get_text() for text in figure.axes[1].texts] == ["zero everywhere"]
    assert figure.axes[1].get_title() == "title"
    np.testing.assert_allclose(images_of(figure)[1], blended(np.zeros((20, 20), dtype=np.float32), GRAY))


def test_gradients_of_maps_are_not_needed() -> None:
    draw([Row(GRAY, "", [Panel("", torch.rand(1, 1, 4, 4, requires_grad=True))])])


def test_long_names_are_shortened_and_others_are_not() -> None:
    name = "a" * 30 + "the middle" + "z" * 30
    assert len(shortened(name)) == LINE_LENGTH
    assert shortened(name).startswith("aaa")
    assert shortened(name).endswith("zzz")
    assert shortened("short") == "short"
    figure = draw([Row(GRAY, name, [Panel(f"method\n{name}", torch.rand(1, 1, 4, 4))])])
    assert [len(line) for line in figure.axes[1].get_title().splitlines()] == [6, LINE_LENGTH]


def test_names_are_no_formulas(tmp_path: object) -> None:
    figure = draw([Row(GRAY, r"a$b$\frac{", [Panel(r"$\undefined$", torch.rand(1, 1, 4, 4))])], title="$x")
    figure.savefig(f"{tmp_path}/picture.png")
    assert figure.axes[0].get_title() == r"a$b$\frac{"


def test_the_resolution() -> None:
    assert draw([Row(GRAY, "", [Panel("", torch.rand(1, 1, 4, 4))])]).dpi == DPI == 200
