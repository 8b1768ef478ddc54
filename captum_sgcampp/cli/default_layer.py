"""The default layer of a network: the last map that smoothing still changes.

Where everything above a layer is affine, as after the last block of a ResNet, smoothing changes nothing. The layer is
therefore, in convolutional networks, the last block but one; where there are no blocks, as in VGG, the last map before
the pooling that has a nonlinearity above it; and in vision transformers the first normalization of the last block,
whose output attention reads. Where a transformer merges its patches from stage to stage, as Swin does, attention in the
last stage spans the whole image and positions lose their meaning; there it is the first normalization of the last block
of the stage before.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Linear, Module, Sequential, modules

from captum_sgcampp.cli.map_of_layer import unchanged
from captum_sgcampp.layers import LayerInfo, is_convolution

Reshape = Callable[[LayerInfo], Callable[[Tensor], Tensor] | None]
"""Finds the function that makes a layer a map; None if there is none."""


def default_layer(layers: Sequence[LayerInfo], reshape: Reshape) -> str | None:
    """Chooses the layer.

    Args:
        layers: All layers of the network, in the order in which they finish, as `list_layers` returns them.
        reshape: Finds the function that makes each a map.

    Returns:
        Its name; None if the network has no maps, or only near its beginning.
    """
    once = [layer for layer in layers if layer.calls == 1 and len(layer.shapes) == 1]
    chosen = _in_last_attention(once, reshape) or _last_block_but_one(once, reshape) or _last_map(once, reshape)
    return chosen if chosen and not _is_early(chosen, once) else None


def _in_last_attention(layers: Sequence[LayerInfo], reshape: Reshape) -> str | None:
    """In a transformer: the first normalization of the last block, or of the last block with smaller patches."""
    norms: dict[str, list[LayerInfo]] = {}  # of each block, in the order in which they run
    for layer in layers:
        if "Norm" in type(layer.module).__name__:
            norms.setdefault(_parent(layer.name), []).append(layer)
    first = [found[0] for found in norms.values() if len(found) > 1 and reshape(found[0]) not in {None, unchanged}]
    if not first:
        return None
    n_positions = [_n_positions(layer, reshape) for layer in first]
    smaller = [layer for layer, number in zip(first, n_positions, strict=True) if number > n_positions[-1]]
    return (smaller if len(smaller) > len(first) / 2 else first)[-1].name


def _last_block_but_one(layers: Sequence[LayerInfo], reshape: Reshape) -> str | None:
    """In a convolutional network: the last block but one, or the only one."""
    maps = {layer.name: layer for layer in layers if _is_map(layer, reshape)}
    spatial = [layer.name for layer in layers if _has_weights(layer) and _n_positions(layer, reshape) > 1]
    composed = [name for name, layer in maps.items() if _has_forward(layer.module) and len(_inside(name, spatial)) > 1]
    stages = {name for name in composed if _is_stage([maps[inner] for inner in _outermost(_inside(name, composed))])}
    blocks = _outermost([name for name in composed if name not in stages])
    # A block whose output is part of a wider map, as in a DenseNet, stands for the whole map.
    whole = dict.fromkeys(next(_wider(name, composed, maps), name) for name in blocks)
    return [*whole][-2:][0] if whole else None


def _last_map(layers: Sequence[LayerInfo], reshape: Reshape) -> str | None:
    """The last map below a nonlinearity with the resolution of the last convolution, before any pooling."""
    maps = [layer for layer in layers if _is_map(layer, reshape)]
    unpooled = [layer for layer in maps if "Pool" not in type(layer.module).__name__]
    convolved = [layer for layer in unpooled if is_convolution(layer.module)] or unpooled  # it may be a function
    unpooled = [layer for layer in unpooled if layer.shapes[0][2:] == convolved[-1].shapes[0][2:]]
    nonlinear = [number for number, layer in enumerate(layers) if _is_activation(layer.module)]
    last_nonlinear = nonlinear[-1] if nonlinear else len(layers)  # it may be a function
    below = [layer for layer in unpooled if layers.index(layer) < last_nonlinear]
    return (below or unpooled)[-1].name if unpooled else None


def _is_early(chosen: str, layers: Sequence[LayerInfo]) -> bool:
    """Whether most of what the network computes at positions comes later, as after the stem of a transformer."""
    weighted = [layer.name == chosen or _is_positional(layer) for layer in layers]
    place = [layer.name for layer in layers].index(chosen)
    return sum(weighted[place + 1 :]) > sum(weighted[: place + 1])


def _is_positional(layer: LayerInfo) -> bool:
    return _has_weights(layer) and len(layer.shapes[0]) > 2


def _has_weights(layer: LayerInfo) -> bool:
    return isinstance(layer.module, Linear) or is_convolution(layer.module)


def _is_activation(module: Module) -> bool:
    return type(module).__module__ == modules.activation.__name__


def _is_map(layer: LayerInfo, reshape: Reshape) -> bool:
    """Whether the layer returns a map with more than one position."""
    return reshape(layer) is unchanged and _n_positions(layer, reshape) > 1


def _has_forward(module: Module) -> bool:
    """Whether it is more than a list of modules that run one after the other."""
    return type(module).forward is not Sequential.forward


def _inside(outer: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{outer}.")]


def _outermost(names: Sequence[str]) -> list[str]:
    return [name for name in names if not any(_inside(other, [name]) for other in names)]


def _is_stage(parts: Sequence[LayerInfo]) -> bool:
    """Whether a module with these parts only runs the same kind of block several times."""
    return len(parts) > 1 and len({type(part.module) for part in parts}) == 1


def _wider(block: str, composed: Sequence[str], maps: dict[str, LayerInfo]) -> Iterator[str]:
    """The modules around a block that return more channels of the same resolution, from the inside out."""
    _, channels, *resolution = maps[block].shapes[0]
    for other in composed:
        _, other_channels, *other_resolution = maps[other].shapes[0]
        if _inside(other, [block]) and other_resolution == resolution and other_channels > channels:
            yield other


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _n_positions(layer: LayerInfo, reshape: Reshape) -> int:
    """The number of positions of the layer's map; 0 if it cannot be made one."""
    to_map = reshape(layer)
    return to_map(torch.empty(layer.shapes[0], device="meta")).shape[2:].numel() if to_map else 0
