"""What decides what a module computes, besides its code and its state dict."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_sgcampp._torch import FORWARD_HOOKS, OF_EVERY_MODULE
from captum_sgcampp.dataset.results import attributes_of

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)
"""Types whose values are known by their text."""


def settings_of(module: Module) -> dict[str, Any]:
    """What decides what a module computes and is neither in its state dict nor a result or a cache of its passes."""
    compiled = compiled_graph(module)
    settings = {
        name: value
        for name, value in attributes_of(module).items()
        if name not in OF_EVERY_MODULE
        and (not compiled or isinstance(value, (Tensor, *PLAIN)))  # the others are torch's own
    }
    hooks = {name: hooks for name in FORWARD_HOOKS if (hooks := list(vars(module).get(name, {}).values()))}
    return {**settings, **compiled, **hooks}


def compiled_graph(value: Any) -> dict[str, Any]:
    """The graph and the constants of what torch has scripted, traced or exported."""
    graph = getattr(value, "graph", None)
    if isinstance(graph, torch.fx.Graph):
        return {"graph": str(graph)}
    if isinstance(value, (torch.jit.ScriptModule, torch.jit.ScriptFunction)) and graph is not None:
        _, constants = getattr(value, "code_with_constants", (None, None))
        text = re.sub(r"\.___torch_mangle_\d+", "", graph.str(False))  # without places, and the number of the copy
        return {"graph": text, "constants": getattr(constants, "const_mapping", None)}
    return {}
