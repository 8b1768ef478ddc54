"""The page on troubleshooting names every warning of the package."""

import ast
import re
from pathlib import Path

import pytest
import torch

from captum_sgcampp._passes import user_warnings
from captum_sgcampp.formulas import sum_of_powers

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"


def messages() -> list[str]:
    """One of each."""
    infinite, one = torch.full((1, 1, 2, 2), torch.inf), torch.ones(1, 1, 2, 2)
    huge = torch.full((1, 1, 2, 2), 3e38)
    return [
        *user_warnings.training_mode([torch.nn.Dropout()]),
        *user_warnings.no_noise("Grad-CAM++"),
        *user_warnings.repeated_layer("LAYER", 2),
        *user_warnings.not_finite("LAYER", one, sum_of_powers(infinite[None])),
        *user_warnings.not_finite("LAYER", infinite, sum_of_powers(one[None])),
        *user_warnings.not_finite("LAYER", huge, sum_of_powers(one[None])),
        *user_warnings.underflow("LAYER"),
        *user_warnings.smoothing_without_effect("LAYER"),
        *user_warnings.examples_influence_one_another(),
        *user_warnings.several_copies_refused(RuntimeError("sizes differ")),
        *user_warnings.no_curvature("LAYER"),
        *user_warnings.images_without_map({"cat.jpg": "an error"}, 5),
        *user_warnings.images_influence_one_another(),
    ]


def templates() -> list[re.Pattern[str]]:
    """What the module can yield, with anything where it puts something in."""
    source = ast.parse(Path(user_warnings.__file__).read_text("utf-8"))
    return [re.compile(template_of(node.value), re.DOTALL) for node in ast.walk(source) if isinstance(node, ast.Yield)]


def template_of(text: ast.expr | None) -> str:
    if isinstance(text, ast.JoinedStr):
        return "".join(map(template_of, text.values))
    return re.escape(text.value) if isinstance(text, ast.Constant) and isinstance(text.value, str) else ".*"


@pytest.mark.skipif(not PAGE.exists(), reason="only in a checkout")
def test_it_names_every_warning() -> None:
    """Each by its beginning, in which an ellipsis stands for what varies."""
    beginnings = re.findall(r"^\| `(.*?)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    patterns = [re.compile(".*".join(map(re.escape, beginning.split("...")))) for beginning in beginnings]
    found = messages()
    for message in found:
        assert any(pattern.match(message) for pattern in patterns), message
    for pattern in patterns:
        assert any(pattern.match(message) for message in found), pattern


def test_these_are_all_of_them() -> None:
    assert len(templates()) == len(messages())
    for template in templates():
        assert sum(bool(template.fullmatch(message)) for message in messages()) == 1, template
