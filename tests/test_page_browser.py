"""The page in a browser: pointing, clicking, typing, keys, the address, and what it must never do."""

import base64
import html
import io
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as chrome
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
import torch
from browser import settled, wait_until
from models import images, seeded
from PIL import Image
from torch import nn

from captum_sgcampp import Explanation, explain
from captum_sgcampp.page import save_page

pytestmark = pytest.mark.slow  # a browser

HOSTILE = (
    """</script><script>window.hacked = 1</script><!-- <img src=x onerror="hacked=1"> 'a' & "b" 猫 \\u003c {{data}}"""
)
NAMES = ["ant", "bee", HOSTILE, "dog", "eel", "fox"]
PHOTOGRAPH = np.full((60, 60, 3), (0.9, 0.2, 0.1), dtype=np.float32)


def explanation(title: str = "photo", **arguments: Any) -> Explanation:
    """An explanation with two layers, a 10 x 10 and a 4 x 4 grid."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 70, 3),
            nn.ReLU(),
            nn.Conv2d(70, 5, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(80, 6),
            nn.Softplus(),
        )
    )
    call = {"targets": [5, 2, 0], "n_samples": 3, "title": title, "class_names": NAMES, "photograph": PHOTOGRAPH}
    inputs = images(1, 3, 12, 12, dtype=torch.float32)
    return explain(model, inputs, ["3", "1"], generator=torch.Generator().manual_seed(0), **{**call, **arguments})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chrome.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page # ä.html"
    explanation().save_page(path)
    return path


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    with chrome.open_page(browser, file) as page:
        yield settled(page)


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).inner_text())


def state(page: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = page.evaluate("store.now.state")
    return chosen


WEIGHTS = "weightsOf(store.now.layer, store.now.state)"


def ranking(page: Any, key: str, positions: str = "null") -> list[Any]:
    """A number of each filter, from the filter that adds the most at some positions."""
    ranked = page.evaluate(f"ranking(store.now.layer, {WEIGHTS}, {positions})")
    return [one[key] for one in ranked]


def maximum(method: str, target: str) -> str:
    """The expression for the maximum of a map."""
    return f"largest(wholeSum(store.now.layer, weightsOf(store.now.layer, {{ method: '{method}', target: {target} }})))"


def center(page: Any, row: int, column: int, size: int = 10) -> tuple[float, float]:
    """Where a neuron is on the screen."""
    page.locator("#picture").scroll_into_view_if_needed()
    box = page.locator("#photograph").bounding_box()
    return box["x"] + (column + 0.5) * box["width"] / size, box["y"] + (row + 0.5) * box["height"] / size


def call(page: Any) -> str:
    """The call in one line."""
    return " ".join(text(page, "#call").split())


def point_at(page: Any, row: int, column: int) -> None:
    page.mouse.move(*center(page, row, column))


def click(page: Any, row: int, column: int) -> None:
    page.mouse.click(*center(page, row, column))


def drag(page: Any, *corners: tuple[int, int]) -> None:
    point_at(page, *corners[0])
    page.mouse.down()
    point_at(page, *corners[1])
    page.mouse.up()


def pixels(png: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def choose(page: Any, group: str, value: str) -> None:
    page.locator(f"#{group} input[value='{value}']").check(force=True)


def test_it_opens_with_the_last_layer_and_the_smooth_map(page: Any) -> None:
    assert text(page, "h1") == "photo"
    assert text(page, "#model") == "Sequential, 3 noisy copies with \u03c3 = 0.3"
    assert state(page)["layer"] == "1"
    assert state(page)["method"] == "Smooth Grad-CAM++"
    assert page.locator("#classes .name").all_inner_texts() == ["fox", HOSTILE, "ant"]
    assert page.locator("#layers .aside").last.inner_text() == "10\u2009\u00d7\u200910, 70 filters"
    assert page.locator("#classes input:checked").input_value() == "5"
    assert not page.locator("#photographs").is_visible()


def test_pointing_shows_a_neuron_at_once_and_a_click_keeps_it(page: Any) -> None:
    whole = page.evaluate("[...shownMap()]")
    assert text(page, "#place") == "The whole map"
    point_at(page, 3, 7)
    assert text(page, "#place") == "Row 3, column 7"
    assert text(page, "#value").startswith(f"map {page.evaluate('digits(shownMap()[37])')}, ")
    rows = page.locator("#strongest tr")
    assert rows.count() == 6
    strongest = ranking(page, "number", "[37]")[:6]
    assert [int(name) for name in page.locator("#strongest .number").all_inner_texts()] == strongest
    assert state(page)["neurons"] == []
    assert page.evaluate("[...shownMap()]") == whole

    click(page, 3, 7)
    assert state(page)["neurons"] == [[3, 7]]
    kept = page.evaluate("[...shownMap()]")
    assert kept[37] == whole[37]
    assert not any(value for place, value in enumerate(kept) if place != 37)
    click(page, 4, 1)
    assert state(page)["neurons"] == [[3, 7], [4, 1]]
    point_at(page, 9, 9)
    page.mouse.move(5, 5)
    assert text(page, "#place") == "2 neurons"
    click(page, 3, 7)
    assert state(page)["neurons"] == [[4, 1]]


def test_dragging_takes_a_region_which_shows_on_the_way(page: Any) -> None:
    whole = page.evaluate("[...shownMap()]")
    point_at(page, 6, 2)
    page.mouse.down()
    point_at(page, 3, 4)
    inside = [10 * row + column for row in range(3, 7) for column in range(2, 5)]
    wanted = [value if place in inside else 0 for place, value in enumerate(whole)]
    assert page.evaluate("[...shownMap()]") == wanted
    assert state(page)["neurons"] == []
    page.mouse.up()
    assert state(page)["neurons"] == [[6, 2], [3, 4]]
    assert state(page)["region"] is True
    assert page.evaluate("[...shownMap()]") == wanted
    page.mouse.move(5, 5)
    assert text(page, "#place") == "Rows 3 to 6, columns 2 to 4"
    assert "subset=[(6, 2), (3, 4)], region=True" in call(page)
    click(page, 0, 0)  # a neuron in place of the region
    assert state(page)["neurons"] == [[0, 0]]
    assert state(page)["region"] is False


def test_undo_and_clear(page: Any) -> None:
    opening = state(page)
    assert page.locator("#undo").get_attribute("aria-disabled") == "true"
    click(page, 1, 1)
    choose(page, "classes", "0")
    page.locator("#strip button").nth(2).click()
    last = state(page)
    page.locator("#clear").click()
    assert (state(page)["neurons"], state(page)["filters"], state(page)["target"]) == ([], [], 0)
    assert page.locator("#clear").get_attribute("aria-disabled") == "true"
    page.locator("#undo").click()
    assert state(page) == last
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert state(page) == opening
    page.locator("#undo").click(force=True)  # there is nothing before
    assert state(page) == opening


def test_filters_by_pointing_clicking_and_typing(page: Any) -> None:
    numbers = [int(number) for number in page.locator("#strip .number").all_inner_texts()]
    ranked = ranking(page, "number")
    assert numbers == ranked[:36]
    shares = ranking(page, "share")
    assert shares == sorted(shares, reverse=True)
    page.locator("#more").click()
    assert page.locator("#strip button").count() == 70
    assert not page.locator("#more").is_visible()

    page.locator("#filters-head").hover()
    whole = page.evaluate("[...shownMap()]")
    second = page.locator("#strip button").nth(1)
    second.hover()
    alone = page.evaluate("[...shownMap()]")
    assert alone == page.evaluate(f"[...mapOf(store.now.layer, {WEIGHTS}, [{ranked[1]}], [], false)]")
    assert alone != whole
    page.locator("#filters-head").hover()
    assert page.evaluate("[...shownMap()]") == whole
    second.click()
    page.locator("#strip button").nth(4).click()
    assert state(page)["filters"] == [ranked[1], ranked[4]]
    assert second.get_attribute("aria-pressed") == "true"
    assert page.locator("#filters").input_value() == f"{ranked[1]}, {ranked[4]}"
    assert f"filters=[{ranked[1]}, {ranked[4]}], attr_dim_summation=True" in call(page)

    hidden = ranked[-1]
    page.reload()
    settled(page)
    page.locator("#filters").fill(str(hidden))
    page.keyboard.press("Enter")
    assert [int(number) for number in page.locator("#strip .number").all_inner_texts()] == [*ranked[:36], hidden]
    page.locator("#filters").fill("10 32;3, 99 10")
    page.keyboard.press("Enter")
    assert state(page)["filters"] == [10, 32, 3]
    assert text(page, "#status") == "This layer has no filter 99."
    assert page.locator("#filters").input_value() == "10, 32, 3"


def test_neurons_by_typing(page: Any) -> None:
    page.locator("#neurons").fill("2,4 9, 8 3,10")
    page.keyboard.press("Enter")
    assert state(page)["neurons"] == [[2, 4], [9, 8]]
    assert text(page, "#status") == "This layer has no neuron 3,10."
    page.locator("#region").check()
    assert state(page)["region"] is True
    page.keyboard.press("Tab")
    page.locator("#neurons").fill("")
    page.keyboard.press("Enter")
    assert (state(page)["neurons"], state(page)["region"]) == ([], False)


def test_keys_point_keep_and_take_a_region(page: Any) -> None:
    page.locator("#picture").focus()
    for key in ["ArrowUp", "ArrowUp", "ArrowLeft"]:
        page.keyboard.press(key)
    assert text(page, "#place") == "Row 3, column 4"
    page.keyboard.press("Enter")
    assert state(page)["neurons"] == [[3, 4]]
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    assert state(page)["neurons"] == [[3, 4]]
    page.keyboard.press("Space")
    assert (state(page)["neurons"], state(page)["region"]) == ([[3, 4], [4, 5]], True)
    page.keyboard.press("Escape")
    assert state(page)["neurons"] == []
    for _ in range(12):
        page.keyboard.press("ArrowDown")  # no further than the last row
    assert text(page, "#place") == "Row 9, column 5"


def test_every_control_is_reached_by_tab_and_works_by_keys(page: Any) -> None:
    reached: set[str] = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        here = page.evaluate("document.activeElement.closest('#strip, #strongest')?.id ?? document.activeElement.id")
        here = here or page.evaluate("document.activeElement.name || document.activeElement.tagName")
        if here in {"classes", "show"} and here not in reached:
            page.keyboard.press("ArrowDown")
        reached.add(here)
    wanted = {"picture", "undo", "clear", "download", "show", "scale", "drawn", "classes", "methods", "layers"}
    assert wanted | {"strongest", "neurons", "filters", "strip", "more", "copy", "PRE"} <= reached
    assert (state(page)["target"], state(page)["show"]) == (2, "map")


def test_a_filter_in_keyboard_focus_is_shown_and_enter_keeps_it(page: Any) -> None:
    page.locator("#filters").focus()
    page.keyboard.press("Tab")
    number = int(page.evaluate("document.activeElement.dataset.filter"))
    assert page.evaluate("store.now.peek") == {"filters": [number]}
    page.keyboard.press("Enter")
    assert state(page)["filters"] == [number]
    assert page.evaluate("document.activeElement.dataset.filter") == str(number)


def test_controls_have_names(page: Any) -> None:
    unnamed = page.evaluate("""[...document.querySelectorAll("input, button, pre, table, [tabindex]")].filter((one) =>
        !(one.labels?.length && one.labels[0].textContent.trim()) && !one.textContent.trim() && !one.ariaLabel
    ).map((one) => one.outerHTML)""")
    assert unnamed == []
    assert page.evaluate("""[...document.querySelectorAll("fieldset")].every(
        (one) => one.querySelector("legend")?.textContent)""")
    label = page.locator("#picture").get_attribute("aria-label")
    assert label.startswith("Smooth Grad-CAM++ map of 1 for fox, maximum ")


def test_what_is_pointed_at_no_more_is_shown_no_more(page: Any) -> None:
    whole = page.evaluate("[...shownMap()]")
    page.locator("#picture").focus()
    for keys in ["ArrowDown", "Shift+ArrowDown"]:
        page.keyboard.press(keys)
    assert page.evaluate("[...shownMap()]") != whole  # a region is being drawn
    region = page.locator("#picture").get_attribute("aria-label")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("[...shownMap()]") == whole
    label = page.locator("#picture").get_attribute("aria-label")
    assert label != region
    page.locator("#methods label").first.hover()
    assert page.locator("#picture").get_attribute("aria-label").startswith("Grad-CAM map")
    page.keyboard.press("ArrowUp")
    assert page.locator("#picture").get_attribute("aria-label") == label


def test_class_method_and_layer(page: Any) -> None:
    maps = {tuple(page.evaluate("[...shownMap()]"))}
    page.locator("#classes label").nth(2).hover()
    maps.add(tuple(page.evaluate("[...shownMap()]")))
    assert state(page)["target"] == 5
    page.locator("#classes label").nth(2).click()
    assert state(page)["target"] == 0
    page.mouse.move(5, 5)
    assert tuple(page.evaluate("[...shownMap()]")) in maps
    for method in ["Grad-CAM", "Grad-CAM++", "Smooth Layer-CAM"]:
        choose(page, "methods", method)
        maps.add(tuple(page.evaluate("[...shownMap()]")))
        page.mouse.move(5, 5)
        maps.add(tuple(page.evaluate("[...shownMap()]")))
    assert len(maps) >= 5
    click(page, 1, 1)
    page.locator("#filters").fill("60")
    page.keyboard.press("Enter")
    choose(page, "layers", "3")
    wait_until(page, "store.now.layer.name === '3'")
    assert (state(page)["filters"], state(page)["neurons"]) == ([], [])  # they are another layer's
    assert page.locator("#strip button").count() == 5
    page.locator("#undo").click()
    wait_until(page, "store.now.layer.name === '1'")
    assert (state(page)["filters"], state(page)["neurons"]) == ([60], [[1, 1]])


def test_the_colors_are_those_of_the_map_and_the_legend_says_their_values(page: Any) -> None:
    choose(page, "show", "map")
    choose(page, "drawn", "squares")
    values = np.array(page.evaluate("[...shownMap()]")).reshape(10, 10)
    inferno = mpl.colormaps["inferno"](np.rint(255 * values / values.max()).astype(int), bytes=True)[..., :3]
    shown = pixels(page.locator("#picture").screenshot())
    at = [int((place + 0.3) * len(shown) / 10) for place in range(10)]
    difference = np.abs(shown[np.ix_(at, at)].astype(int) - inferno)
    assert difference[1:].max() <= 3  # the first row has the rounded corners
    zero, *others = page.locator("#legend-values span").all_inner_texts()
    assert zero == "0"
    assert list(map(float, others)) == pytest.approx([values.max() / 2, values.max()], rel=5e-3)


def test_smooth_is_what_interpolate_computes(page: Any) -> None:
    drawn = page.evaluate("""() => {
        const canvas = document.createElement("canvas");
        drawSmooth(canvas, [0, 1, 0.5, 0.25, 0.75, 1], 2, 3, 1, 9, 8);
        return [...canvas.getContext("2d").getImageData(0, 0, 9, 8).data];
    }""")
    values = torch.tensor([[[[0, 1, 0.5], [0.25, 0.75, 1]]]], dtype=torch.float64)
    smooth = nn.functional.interpolate(values, (8, 9), mode="bilinear", align_corners=False)[0, 0].numpy()
    wanted = mpl.colormaps["inferno"](np.rint(255 * smooth).astype(int), bytes=True)
    assert np.abs(np.array(drawn).reshape(8, 9, 4) - wanted).max() <= 5  # where a half is rounded to the other color


def test_photograph_overlay_and_opacity(page: Any) -> None:
    def middle() -> npt.NDArray[np.uint8]:
        shown = pixels(page.locator("#picture").screenshot())
        color: npt.NDArray[np.uint8] = shown[len(shown) // 2, len(shown) // 2]
        return color

    choose(page, "show", "photograph")
    np.testing.assert_allclose(middle(), [230, 51, 26], atol=4)
    choose(page, "show", "overlay")
    page.locator("#opacity").fill("0")
    grey = middle()
    assert grey.max() - grey.min() <= 1
    page.locator("#opacity").fill("50")
    assert state(page)["opacity"] == 50
    overlay = middle() / 255
    choose(page, "show", "map")
    behind = 1 - 0.66 * grey / 255
    np.testing.assert_allclose(overlay, 1 - behind * (1 - 0.5 * middle() / 255), atol=0.01)
    page.locator("#download").scroll_into_view_if_needed()
    choose(page, "show", "overlay")
    with page.expect_download() as download:
        page.locator("#download").click()
    picture = pixels(download.value.path().read_bytes())
    np.testing.assert_allclose(picture[len(picture) // 2, len(picture) // 2] / 255, overlay, atol=0.02)


def test_a_shared_scale_is_that_of_the_brightest_class(page: Any) -> None:
    maxima = {target: page.evaluate(maximum("Smooth Grad-CAM++", str(target))) for target in [5, 2, 0]}
    choose(page, "scale", "shared")
    for target in maxima:
        choose(page, "classes", str(target))
        high = float(page.locator("#legend-values span").last.inner_text())
        assert high == pytest.approx(max(maxima.values()), rel=5e-3)
    page.locator("#methods label").first.hover()
    of_method = f"Math.max(...[5, 2, 0].map((target) => {maximum('Grad-CAM', 'target')}))"
    assert float(page.locator("#legend-values span").last.inner_text()) == pytest.approx(
        page.evaluate(of_method), rel=5e-3
    )
    page.mouse.move(5, 5)
    choose(page, "scale", "each")
    assert float(page.locator("#legend-values span").last.inner_text()) == pytest.approx(maxima[0], rel=5e-3)


def test_the_address_holds_the_choice(page: Any, file: Path) -> None:
    assert page.evaluate("location.hash") == ""
    choose(page, "methods", "Grad-CAM++")
    choose(page, "classes", "2")
    choose(page, "drawn", "squares")
    page.locator("#filters").fill("10, 32")
    page.keyboard.press("Enter")
    drag(page, (2, 4), (9, 8))
    page.locator("#opacity").fill("35")
    chosen, shown = state(page), page.evaluate("[...shownMap()]")
    address = page.url
    assert "filters=10%2C32" in address
    page.reload()
    settled(page)
    assert (state(page), page.evaluate("[...shownMap()]")) == (chosen, shown)
    page.goto(file.as_uri())
    settled(page)
    assert state(page)["filters"] == []
    page.goto(address)  # the same document: only the fragment changes
    wait_until(page, "store.now.state.filters.length && listed !== null")
    assert (state(page), page.evaluate("[...shownMap()]")) == (chosen, shown)


@pytest.mark.parametrize(
    "fragment",
    [
        "constructor=1&toString=2&__proto__=3",
        "photograph=9&target=4&method=CAM&layer=none&show=all&opacity=-3&scale=x&drawn=",
        "filters=-1,999,1.5e9&neurons=99,99+a,b&region=true&opacity=NaN",
        "%E0%A4%A&=&&",
        "layer=3&neurons=1,1&region=true&target=constructor&photograph=-1",
    ],
)
def test_a_wrong_address_shows_what_exists(browser: Any, file: Path, fragment: str) -> None:
    with chrome.open_page(browser, file, fragment) as page:
        settled(page)
        chosen = state(page)
        assert (chosen["photograph"], chosen["target"], chosen["method"]) == (0, 5, "Smooth Grad-CAM++")
        assert (chosen["region"], chosen["opacity"]) == (False, 80)
        assert set(chosen["filters"]) <= set(range(70))
        assert "LayerSmoothGradCAMpp" in text(page, "#call")


def test_the_call_is_copied(browser: Any, file: Path) -> None:
    with chrome.open_page(browser, file, permissions=["clipboard-read", "clipboard-write"]) as page:
        settled(page).locator("#copy").click()
        wait_until(page, "element('status').textContent === 'Copied.'")
        assert page.evaluate("navigator.clipboard.readText()") == page.locator("#call").text_content()


def test_the_picture_is_downloaded(page: Any) -> None:
    choose(page, "show", "map")
    drag(page, (2, 4), (5, 8))
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "photo-1-fox-Smooth-Grad-CAM++.png"
    picture = pixels(download.value.path().read_bytes())
    assert picture.shape == (660, 660, 3)
    values = np.array(page.evaluate("[...shownMap()]")).reshape(10, 10)
    inferno = mpl.colormaps["inferno"](np.rint(255 * values / values.max()).astype(int), bytes=True)[..., :3]
    at = [66 * place + 33 for place in range(10)]
    np.testing.assert_allclose(picture[np.ix_(at, at)], inferno, atol=1)
    assert picture[2 * 66, 6 * 66].tolist() == [255, 255, 255]  # the outline of the region


def test_several_photographs(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "several.html"
    others = [explanation("second", targets=[1, 5]), explanation("", methods=["Grad-CAM"])]
    save_page([explanation("first"), *others], file)
    with chrome.open_page(browser, file) as page:
        settled(page)
        assert page.locator("#photographs .name").all_inner_texts() == ["first", "second", "Photograph 3"]
        page.locator("#photographs label").nth(1).click()
        wait_until(page, "element('title').textContent === 'second'")
        assert state(page)["target"] == 5  # it has that class too
        page.locator("#photographs label").nth(2).click()
        wait_until(page, "listed === 2")
        assert state(page)["method"] == "Grad-CAM"
        page.reload()
        settled(page)
        assert (state(page)["photograph"], state(page)["method"]) == (2, "Grad-CAM")


def test_it_opens_with_the_selection(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    explained = explanation(filters=[2, 0], subset=[(1, 2), (3, 3)], region=True, methods=["Smooth Layer-CAM"])
    explained.save_page(file)
    with chrome.open_page(browser, file) as page:
        settled(page)
        assert state(page)["filters"] == [2, 0]
        assert state(page)["neurons"] == [[1, 2], [3, 3]]
        assert state(page)["region"] is True
        page.locator("#clear").click()
        page.reload()
        settled(page)
        assert (state(page)["filters"], state(page)["neurons"]) == ([], [])
        assert page.locator("#strip button").count() == 36  # all filters can be chosen


def test_names_stay_text(browser: Any, tmp_path: Path) -> None:
    model = nn.Module()
    model.add_module(HOSTILE.replace(".", ""), seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())))
    (layer,) = model.children()
    head = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(400, 3), nn.Softplus()))
    model.forward = lambda image: head(layer(image))
    name = HOSTILE.replace(".", "")
    inputs = images(1, 3, 12, 12, dtype=torch.float32)
    explained = explain(
        model, inputs, [name], [2, 1], n_samples=2, title=HOSTILE, class_names=NAMES[:3], model_name=HOSTILE
    )
    file = tmp_path / "hostile.html"
    explained.save_page(file)
    with chrome.open_page(browser, file) as page:
        settled(page)
        assert page.evaluate("window.hacked") is None
        assert page.title() == HOSTILE
        assert page.locator("h1").text_content() == HOSTILE
        assert page.locator("#classes .name").first.text_content() == HOSTILE
        assert page.locator("#layers .name").first.text_content() == name
        assert page.locator("script").count() == 2
        names: dict[str, Any] = {"model": model, "x": inputs}
        call = str(page.locator("#call").text_content()).split("\nattribution")[0]
        exec(call, names)  # noqa: S102
        assert names["method"].layer is layer
        with page.expect_download() as download:
            page.locator("#download").click()
        assert re.fullmatch(r"[\w.+-]+\.png", download.value.suggested_filename)


def test_the_browser_refuses_all_else(browser: Any, file: Path) -> None:
    """The policy holds even if someone finds a way to put markup into the page."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    page = browser.new_page()
    page.goto(file.as_uri())
    settled(page)
    refused = page.evaluate(
        """async (server) => {
        const refused = [];
        addEventListener("securitypolicyviolation", ({ effectiveDirective }) => refused.push(effectiveDirective));
        const [script, style, image] = ["script", "style", "img"].map((name) => document.createElement(name));
        script.textContent = "window.hacked = 1";
        style.textContent = "body { display: none }";
        image.src = `${server}/image.png`;
        document.body.append(script, style, image);
        document.body.insertAdjacentHTML("beforeend", '<b onclick="window.hacked = 1">b</b>');
        document.querySelector("b").click();
        await fetch(`${server}/data`).catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, 200));
        return [refused.sort(), window.hacked ?? null, getComputedStyle(document.body).display];
    }""",
        f"http://127.0.0.1:{server.getsockname()[1]}",
    )
    page.close()
    directives = ["connect-src", "img-src", "script-src-attr", "script-src-elem"]
    assert refused == [[*directives, "style-src-elem"], None, "block"]
    with server, pytest.raises(BlockingIOError):
        server.accept()  # nobody has called


def test_within_a_notebooks_frame(browser: Any, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook.html"
    shown = explanation()._repr_html_()
    assert shown is not None
    notebook.write_text(f"<!DOCTYPE html><title>notebook</title><p id=cell>a cell</p>{shown}", encoding="utf-8")
    with chrome.open_page(browser, notebook) as page:
        (frame,) = page.main_frame.child_frames
        frame.wait_for_selector("#strip button")
        frame.locator("#strip button").first.click()
        assert len(frame.evaluate("store.now.state.filters")) == 1
        frame.locator("#layers input").first.check(force=True)
        wait_until(frame, "store.now.layer.name === '3'")
        frame.locator("#undo").click()
        frame.locator("#copy").click()
        wait_until(frame, "element('status').textContent === 'Copied.'")
        with page.expect_download() as download:
            frame.locator("#download").click()
        assert len(pixels(download.value.path().read_bytes())) == 660
        assert (
            frame.evaluate("""() => { try { return parent.document.title } catch { return "cut off" } }""") == "cut off"
        )
        assert page.url == notebook.as_uri()  # nothing of it in the notebook's address


@pytest.mark.parametrize("width", [320, 390, 700, 900, 1280, 1800])
def test_it_fits_any_width(browser: Any, file: Path, width: int) -> None:
    with chrome.open_page(browser, file, viewport={"width": width, "height": 844}) as page:
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_tap_keeps_a_neuron(browser: Any, file: Path) -> None:
    with chrome.open_page(browser, file, viewport={"width": 390, "height": 844}, has_touch=True) as page:
        settled(page)
        page.touchscreen.tap(*center(page, 4, 2))
        assert state(page)["neurons"] == [[4, 2]]
        assert text(page, "#place") == "Row 4, column 2"


def luminance(color: str) -> float:
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(browser: Any, file: Path, scheme: str) -> None:
    with chrome.open_page(browser, file, color_scheme=scheme) as page:
        settled(page)
        paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert (paper > 0.5) == (scheme == "light")
        for selector in ["h1", "#model", "#call", ".strip .share", "thead th", "#picture-help"]:
            ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color"))
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector


def test_what_is_left_out_is_said(browser: Any, tmp_path: Path) -> None:
    explained, file = explanation(), tmp_path / "small.html"
    explained.save_page(file, max_bytes=20_000)
    with chrome.open_page(browser, file) as page:
        settled(page)
        assert state(page)["layer"] == "3"
        assert re.match(r"Left out: 1 is too large: it takes 0\.\d MB, and", text(page, "#left-out"))


def test_the_photograph_is_in_the_file(page: Any) -> None:
    url = page.locator("#photograph").get_attribute("src")
    picture = pixels(base64.b64decode(html.unescape(url).partition(",")[2]))
    np.testing.assert_allclose(picture / 255, PHOTOGRAPH, atol=0.02)


def test_a_neuron_of_another_grid_is_forgotten(page: Any) -> None:
    choose(page, "layers", "3")
    choose(page, "layers", "1")
    point_at(page, 9, 9)
    assert text(page, "#place") == "Row 9, column 9"
    page.keyboard.press("Control+z")
    wait_until(page, "store.now.layer.name === '3' && store.isReady")
    assert text(page, "#place") == "The whole map"
    page.mouse.up()  # of a drag that was cut off
    assert state(page)["neurons"] == []


def test_another_address_while_pointing_at_a_class(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "two.html"
    save_page([explanation("one"), explanation("two", targets=[1, 3], methods=["Grad-CAM"])], file)
    with chrome.open_page(browser, file) as page:
        settled(page)
        page.locator("#classes label").nth(1).hover()
        page.evaluate("location.hash = '#photograph=1'")
        wait_until(page, "store.now.state.photograph === 1 && store.isReady")
        assert text(page, "h1") == "two"
        assert "target=1" in call(page)
        assert page.locator("#methods .name").all_inner_texts() == ["Grad-CAM"]


def test_chosen_filters_are_named_beside_the_picture(page: Any) -> None:
    page.fill("#filters", "2, 3")
    page.locator("#filters").blur()
    assert text(page, "#place") == "The whole map of filters 2, 3"
    assert " of filters 2, 3 for fox" in str(page.locator("#picture").get_attribute("aria-label"))
    click(page, 1, 1)
    assert "of filters 2, 3" in text(page, "#value")


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("filters", "1.5"),
        ("filters", "1e3"),
        ("filters", "abc"),
        ("neurons", "2.5,4"),
        ("neurons", "1,2,3"),
        ("neurons", "3 4"),
    ],
)
def test_what_is_not_understood_changes_nothing(page: Any, field: str, typed: str) -> None:
    page.fill("#filters", "2")
    page.locator("#filters").blur()
    page.fill("#neurons", "1,1")
    page.locator("#neurons").blur()
    before = state(page)
    page.fill(f"#{field}", typed)
    page.locator(f"#{field}").blur()
    assert text(page, "#status").startswith("Not understood: ")
    assert state(page) == before


def test_undo_after_the_opacity(page: Any) -> None:
    click(page, 2, 2)
    page.locator("#opacity").focus()
    page.keyboard.press("ArrowLeft")
    before = len(state(page)["neurons"])
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert before == 1
    assert state(page)["neurons"] == []


def test_long_models_and_tall_photographs_fit(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    photograph = np.full((768, 60, 3), 0.5, dtype=np.float32)
    explanation(model_name="x" * 150, photograph=photograph).save_page(file)
    for width in (390, 1280):
        with chrome.open_page(browser, file, viewport={"width": width, "height": 900}) as page:
            settled(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("#picture").bounding_box()["height"] <= 900
            assert page.locator("#strip canvas").first.bounding_box()["height"] <= 100
