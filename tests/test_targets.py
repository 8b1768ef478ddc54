"""Every kind of target that Captum takes, and the errors of wrong ones."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from helpers import Method, one, the_papers_with_and_without_noise, unchanged, with_and_without_noise
from models import images, seeded
from oracle import CutModel, expected, inputs_seen, noisy_copies, relative_error
from torch import Tensor, nn

from captum_sgcampp import LayerGradCamPlusPlus


class Shaped(nn.Module):
    """A model whose output has a shape (N, ...)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.ReLU()
        self.above = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, int(torch.tensor(shape).prod()))
        )

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.above(self.layer(self.conv(image)))
        return scores.reshape(-1, *self.shape)


def shaped(*shape: int) -> tuple[Shaped, CutModel, Tensor]:
    """The model, the same model with a flat output, and inputs."""
    model: Shaped = seeded(lambda: Shaped(*shape)).double()
    return model, CutModel(model.conv, model.layer, model.above), 2 * images()


@the_papers_with_and_without_noise
@pytest.mark.parametrize(
    ("shape", "target", "flat"),
    [
        ((4,), 2, [2, 2, 2]),
        ((4,), -1, [3, 3, 3]),
        ((4,), (1,), [1, 1, 1]),
        ((4,), torch.tensor(3), [3, 3, 3]),
        ((4,), torch.tensor([3]), [3, 3, 3]),
        ((4,), torch.tensor([[3]]), [3, 3, 3]),
        ((4,), torch.tensor([3, 0, 2]), [3, 0, 2]),
        ((4,), [3, 0, 2], [3, 0, 2]),
        ((4,), [(3,), (0,), (2,)], [3, 0, 2]),
        ((1,), None, [0, 0, 0]),
        ((), None, [0, 0, 0]),
        ((2, 3), (1, 0), [3, 3, 3]),
        ((2, 3), [(1, 0), (0, 2), (1, 1)], [3, 2, 4]),
        ((2, 1), 0, [0, 0, 0]),
        ((1, 2), (0, 1), [1, 1, 1]),
        ((2, 2, 2), (1, 0, 1), [5, 5, 5]),
        ((2, 2, 2), [(1, 0, 1), (0, 0, 1), (1, 1, 1)], [5, 1, 7]),
    ],
    ids=str,
)
def test_every_kind_of_target(
    build: Method, noise: dict[str, Any], shape: tuple[int, ...], target: Any, flat: list[int]
) -> None:
    model, cut, inputs = shaped(*shape)
    method = build(model, model.layer)
    with inputs_seen(model) as seen:
        attribution = one(method.attribute(inputs, target=target, relu_attributions=False, **noise))
    wanted = expected(cut, inputs, noisy_copies(seen), flat, relu=False)
    assert relative_error(attribution, wanted) < 1e-10


@pytest.mark.pairwise
@with_and_without_noise
@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((4,), None),
        ((4,), 4),
        ((4,), -5),
        ((4,), (4,)),
        ((4,), (1, 0)),
        ((4,), [1, 2]),
        ((4,), [1, 2, 3, 0]),
        ((4,), [1.0, 2.0, 3.0]),
        ((4,), torch.tensor([1, 2])),
        ((4,), torch.tensor(1.0)),
        ((4,), torch.tensor([[1], [2], [0]])),
        ((4,), "cat"),
        ((4,), 1.0),
        ((4,), [(1,), (2,), (9,)]),
        ((2, 3), 1),
        ((2, 3), None),
        ((2, 3), [1, 0, 1]),
        ((2, 3), torch.tensor([1, 0, 1])),
        ((2, 3), (1, 3)),
        ((2, 3), (1, 1, 1)),
        ((2, 3), [(1,), (0,), (1,)]),
        ((), 0),
    ],
    ids=str,
)
def test_wrong_targets_raise_what_captum_raises(
    build: Method, noise: dict[str, Any], shape: tuple[int, ...], target: Any
) -> None:
    model, _, inputs = shaped(*shape)
    with pytest.raises((AssertionError, IndexError)) as theirs:
        LayerGradCam(model, model.layer).attribute(inputs, target=target)
    with unchanged(model, inputs), pytest.raises(theirs.type):
        build(model, model.layer).attribute(inputs, target=target, **noise)


@with_and_without_noise
@pytest.mark.parametrize("target", [torch.tensor([1, 2, 4]), [1, -1, 2]], ids=str)
def test_wrong_targets_for_each_example(build: Method, noise: dict[str, Any], target: Any) -> None:
    model, _, inputs = shaped(4)
    with unchanged(model, inputs), pytest.raises((RuntimeError, IndexError)):
        build(model, model.layer).attribute(inputs, target=target, **noise)


def test_the_message_of_a_missing_target() -> None:
    model, _, inputs = shaped(4)
    with pytest.raises(AssertionError, match=r"target=None.*\(3, 4\)"):
        LayerGradCamPlusPlus(model, model.layer).attribute(inputs)


@with_and_without_noise
@pytest.mark.parametrize(
    ("target", "same"),
    [
        (np.int64(2), 2),
        (np.int64(-1), -1),
        (np.uint8(2), 2),
        ((np.int64(2),), 2),
        ([np.int64(1), np.int64(0), np.int64(3)], [1, 0, 3]),
        ([(np.int64(1),), (np.int64(0),), (3,)], [1, 0, 3]),
        (torch.tensor(2, dtype=torch.uint8), 2),
        (torch.tensor([1, 0, 3], dtype=torch.uint8), [1, 0, 3]),
        (torch.tensor([1, 0, 3], dtype=torch.int16), [1, 0, 3]),
    ],
    ids=str,
)
def test_integers_of_other_libraries_and_sizes(build: Method, noise: dict[str, Any], target: Any, same: Any) -> None:
    model, _, inputs = shaped(4)
    method = build(model, model.layer)
    maps = []
    for each in (target, same):
        torch.manual_seed(0)
        maps.append(one(method.attribute(inputs, target=each, **noise)))
    assert torch.equal(*maps)
    torch.manual_seed(0)
    assert torch.equal(one(method.attribute_targets(inputs, [target], **noise)[0]), maps[0])


@pytest.mark.pairwise
@with_and_without_noise
@pytest.mark.parametrize("n_examples", [1, 3])
@pytest.mark.parametrize(
    "target",
    [
        4,
        -5,
        2**40,
        True,
        1.0,
        slice(0, 1),
        {1},
        (),
        [],
        ["cat"],
        [True],
        [-1],
        [4],
        [1.0],
        [None],
        torch.tensor([1.0]),
        torch.tensor([True]),
        torch.tensor([4]),
        torch.tensor([]),
        np.array([1]),
    ],
    ids=str,
)
def test_what_captum_refuses(build: Method, noise: dict[str, Any], target: Any, n_examples: int) -> None:
    """With an error of the same kind."""
    model, _, inputs = shaped(4)
    inputs = inputs[:n_examples]
    if isinstance(target, (list, Tensor)) and len(target):
        target = target * n_examples if isinstance(target, list) else target.repeat(n_examples)
    with pytest.raises((AssertionError, IndexError, RuntimeError)) as theirs:
        LayerGradCam(model, model.layer).attribute(inputs, target=target)
    with unchanged(model, inputs), pytest.raises(theirs.type):
        build(model, model.layer).attribute(inputs, target=target, **noise)


@with_and_without_noise
@pytest.mark.parametrize("target", [[1, -1, 2], [1, 4, 2], torch.tensor([1, 4, 2])], ids=str)
def test_a_target_of_an_example_that_is_no_class_is_named(build: Method, noise: dict[str, Any], target: Any) -> None:
    model, _, inputs = shaped(4)
    with pytest.raises(RuntimeError, match=r"^target: (-1|4) is out of range; .* 0 to 3"):
        build(model, model.layer).attribute(inputs, target=target, **noise)
