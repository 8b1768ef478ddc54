"""Filters and neurons: sections 3.5 and 3.6 of the paper."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from helpers import SMOOTH, one
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CHANNELS, TARGETS, cut_inputs, cut_model
from oracle import expected, inputs_seen, noisy_copies, relative_error
from torch import Tensor

from captum_sgcampp import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
from captum_sgcampp._passes.selection import Selection

GRIDS = {1: (3,), 2: (3, 3), 3: (3, 3, 3)}
"""The layer's grid of `cut_model` by number of dimensions."""


def attribute(dims: int = 2, noise: dict[str, Any] | None = None, rectified: bool = False, **selection: Any) -> Tensor:
    """Attributes with the same noise at every call."""
    model, inputs = cut_model(dims, rectified=rectified), cut_inputs(dims)
    options: dict[str, Any] = dict(noise or {}, target=TARGETS, **selection)
    if noise is None:
        return one(LayerGradCamPlusPlus(model, model.layer).attribute(inputs, **options))
    generator = torch.Generator().manual_seed(7)
    return one(LayerSmoothGradCAMpp(model, model.layer).attribute(inputs, generator=generator, **options))


def neurons(dims: int) -> list[tuple[int, ...]]:
    return list(product(*map(range, GRIDS[dims])))


@pytest.mark.pairwise
@pytest.mark.parametrize("noise", [None, SMOOTH])
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "filters",
    [
        [2],
        [2, 0],
        [1, 1],
        (0, 1, 2),
        range(2),
        torch.tensor([2, 1]),
        torch.tensor([2, 1], dtype=torch.uint8),
        list(torch.tensor([2, 1])),
        np.array([2, 1]),
        [np.int64(2), 1],
    ],
    ids=repr,
)
def test_filters_are_the_channels_of_the_unsummed_map(
    filters: Sequence[int], dims: int, noise: dict[str, Any] | None
) -> None:
    every = attribute(dims, noise, attr_dim_summation=False)
    assert every.shape[1] == CHANNELS
    picked = attribute(dims, noise, filters=filters)
    assert torch.equal(picked, every[:, [int(index) for index in filters]])
    assert torch.equal(picked, attribute(dims, noise, filters=filters, attr_dim_summation=False))


@pytest.mark.parametrize("noise", [None, SMOOTH])
def test_true_sums_over_just_the_filters(noise: dict[str, Any] | None) -> None:
    every = attribute(2, noise, attr_dim_summation=False, relu_attributions=False)
    wanted = every[:, [2, 0]].sum(dim=1, keepdim=True)
    summed = attribute(2, noise, filters=[2, 0], attr_dim_summation=True, relu_attributions=False)
    torch.testing.assert_close(summed, wanted)
    assert (wanted < 0).any()
    rectified = attribute(2, noise, filters=[2, 0], attr_dim_summation=True)
    torch.testing.assert_close(rectified, wanted.relu())
    torch.testing.assert_close(
        attribute(2, noise, filters=range(CHANNELS), attr_dim_summation=True), attribute(2, noise)
    )


def test_filters_against_the_oracle() -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    method = LayerSmoothGradCAMpp(model, model.layer)
    with inputs_seen(model) as seen:
        picked = one(method.attribute(inputs, target=TARGETS, filters=[1, 0], relu_attributions=False, **SMOOTH))
    noisy = noisy_copies(seen)
    every = expected(model, inputs, noisy, TARGETS, relu=False, sum_channels=False)
    assert relative_error(picked, every[:, [1, 0]]) < 1e-10


@settings(deadline=None, max_examples=25)
@given(data=st.data(), dims=st.sampled_from([1, 2, 3]), smooth=st.booleans())
def test_maps_of_disjoint_subsets_add_up(data: st.DataObject, dims: int, smooth: bool) -> None:
    noise = SMOOTH if smooth else None
    every = neurons(dims)
    part = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=len(every) - 1, unique=True))
    rest = [neuron for neuron in every if neuron not in part]
    maps = [attribute(dims, noise, subset=subset, relu_attributions=False) for subset in (part, rest)]
    assert torch.equal(maps[0] + maps[1], attribute(dims, noise, relu_attributions=False))
    assert not (maps[0].bool() & maps[1].bool()).any()


@settings(deadline=None, max_examples=25)
@given(data=st.data(), dims=st.sampled_from([1, 2, 3]), smooth=st.booleans())
def test_a_region_is_the_subset_of_all_its_coordinates(data: st.DataObject, dims: int, smooth: bool) -> None:
    noise = SMOOTH if smooth else None
    corners = data.draw(st.lists(st.sampled_from(neurons(dims)), min_size=2, max_size=2))
    ranges = [range(min(ends), max(ends) + 1) for ends in zip(*corners, strict=True)]
    region = attribute(dims, noise, subset=corners, region=True)
    assert torch.equal(region, attribute(dims, noise, subset=list(product(*ranges))))
    every = attribute(dims, noise)
    for neuron in neurons(dims):
        inside = all(place in ends for place, ends in zip(neuron, ranges, strict=True))
        there: Any = (slice(None), slice(None), *neuron)
        assert torch.equal(region[there], every[there] * inside)


def test_filters_subsets_and_relu_combine() -> None:
    every = attribute(noise=SMOOTH, attr_dim_summation=False, relu_attributions=False)
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[0:2, 1:3] = True
    box: dict[str, Any] = {"subset": [(1, 1), (0, 2)], "region": True}  # corners in neither order
    picked = attribute(noise=SMOOTH, filters=[2, 1], relu_attributions=False, **box)
    assert torch.equal(picked, every[:, [2, 1]] * mask)
    assert torch.equal(attribute(noise=SMOOTH, filters=[2, 1], **box), (every[:, [2, 1]] * mask).relu())
    summed = attribute(noise=SMOOTH, filters=[2, 1], attr_dim_summation=True, relu_attributions=False, **box)
    torch.testing.assert_close(summed, (every[:, [2, 1]] * mask).sum(dim=1, keepdim=True))


def test_a_neuron_outside_stays_zero_where_the_map_is_not_finite() -> None:
    attribution = torch.full((1, 1, 2, 2), torch.inf)
    assert Selection(subset=[(0, 1)]).neurons(attribution).tolist() == [[[[0, torch.inf], [0, 0]]]]


@pytest.mark.parametrize(
    "subset",
    [
        torch.tensor([[0, 1], [2, 2]]),
        torch.tensor([[0, 1], [2, 2]], dtype=torch.uint8),
        list(torch.tensor([[0, 1], [2, 2]])),
        np.array([[0, 1], [2, 2]]),
        [np.array([0, 1]), (2, np.int32(2))],
        ([0, 1], [2, 2]),
    ],
    ids=repr,
)
def test_coordinates_may_be_integers_of_any_kind(subset: Any) -> None:
    assert torch.equal(attribute(subset=subset), attribute(subset=[(0, 1), (2, 2)]))


MASKS: list[Any] = [
    [True, False, True],
    (True, False, True),
    [0, True],
    torch.tensor([True, False, True]),
    list(torch.tensor([True, False, True])),
    np.array([True, False, True]),
    list(np.array([True, False, True])),
    [2, np.True_],
]
"""One for each channel, or indices with a boolean among them."""


@pytest.mark.parametrize("noise", [None, SMOOTH])
@pytest.mark.parametrize(
    ("name", "mask"),
    [
        *(("filters", mask) for mask in MASKS),
        *(("subset", [mask[:2]]) for mask in MASKS),
        ("subset", torch.eye(3, dtype=torch.bool)),
        ("subset", torch.eye(2, dtype=torch.bool)),
        ("subset", np.eye(2, dtype=bool)),
        ("subset", [(0, 1), (False, 1)]),
        ("subset", True),
    ],
    ids=repr,
)
def test_masks_are_refused(name: str, mask: Any, noise: dict[str, Any] | None) -> None:
    model = cut_model()
    method = (LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus)(model, model.layer)
    with inputs_seen(model) as seen, pytest.raises(TypeError, match=f"^{name}: must be a list of "):
        method.attribute(cut_inputs(), target=TARGETS, **(noise or {}), **{name: mask})
    assert seen == []


@pytest.mark.parametrize("build", [LayerGradCamPlusPlus, LayerSmoothGradCAMpp])
@pytest.mark.filterwarnings("ignore:n_samples. is 0")
def test_through_noise_tunnel(build: type[LayerGradCamPlusPlus]) -> None:
    model, inputs = cut_model(rectified=False), cut_inputs()
    tunnel = NoiseTunnel(build(model, model.layer))

    def smoothed(**selection: Any) -> Tensor:
        torch.manual_seed(3)
        attribution = tunnel.attribute(inputs, nt_samples=3, stdevs=0.1, target=TARGETS, **selection)
        assert isinstance(attribution, Tensor)
        return attribution

    every = smoothed(attr_dim_summation=False)
    picked = smoothed(filters=[2, 0], subset=[(0, 0), (1, 2)], region=True)
    wanted = every[:, [2, 0]].clone()
    wanted[..., 2, :] = 0
    torch.testing.assert_close(picked, wanted)


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        ({"filters": [0, 3]}, IndexError, r"filters: 3 is out of range; .*'layer'.* has 3 channels, 0 to 2"),
        ({"filters": [-1]}, IndexError, r"filters: -1 is out of range; .* has 3 channels"),
        ({"filters": []}, ValueError, "filters: is empty"),
        ({"filters": 1}, TypeError, "filters: must be a list of channel indices, but is 1"),
        ({"filters": [1.0]}, TypeError, r"filters: must be a list of channel indices, but is \[1.0\]"),
        ({"subset": []}, ValueError, "subset: is empty"),
        ({"subset": (1, 2)}, TypeError, r"subset: must be a list of coordinates, .* \(1, 2\)"),
        ({"subset": [(0.5, 1)]}, TypeError, "subset: must be a list of coordinates"),
        ({"subset": [(1,)]}, ValueError, r"subset: \(1,\) has 1 number\(s\), .* 2 spatial .* \(3, 3\)"),
        ({"subset": [(1, 1), (0, 1, 2)]}, ValueError, r"subset: \(0, 1, 2\) has 3 number\(s\)"),
        ({"subset": [(0, 3)]}, IndexError, r"subset: \(0, 3\) is out of range; the grid of .* is \(3, 3\)"),
        ({"subset": [(-1, 0)]}, IndexError, r"subset: \(-1, 0\) is out of range"),
        ({"region": True}, ValueError, "region: needs two opposite corners .* subset is None"),
        ({"region": True, "subset": [(1, 1)]}, ValueError, r"region: needs two .* subset is \[\(1, 1\)\]"),
        ({"region": True, "subset": [(0, 0), (1, 1), (2, 2)]}, ValueError, "region: needs two opposite corners"),
    ],
)
@pytest.mark.parametrize("noise", [None, SMOOTH])
def test_bad_selections_are_refused_before_the_noisy_passes(
    selection: dict[str, Any], error: type[Exception], message: str, noise: dict[str, Any] | None
) -> None:
    model = cut_model()
    method = (LayerSmoothGradCAMpp if noise else LayerGradCamPlusPlus)(model, model.layer)
    with inputs_seen(model) as seen, pytest.raises(error, match=message):
        method.attribute(cut_inputs(), target=TARGETS, **(noise or {}), **selection)
    assert len(seen) <= 1


def test_without_spatial_dimensions_there_are_no_coordinates() -> None:
    with pytest.raises(ValueError, match=r"subset: \(0,\) has 1 number\(s\), .* has 0 spatial dimension"):
        attribute(0, subset=[(0,)])
