"""Says why a layer may not run, though it should."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.fx import GraphModule
from torch.jit import ScriptModule
from torch.nn import Module

from captum_sgcampp._torch import is_compiled

SCRIPTED = "torch.jit has scripted or traced it, and its layers take no hooks. Attribute to the model before that."
EXPORTED = (
    "The model is a graph, as of torch.export, whose layers are gone; torch.export.unflatten(program) has them, with "
    "their names."
)


def reason(forward_func: Callable[..., Any], roots: Iterable[Module]) -> str:
    """Says why a layer may not run, as far as the model shows; nothing if it does not.

    Args:
        forward_func: The model.
        roots: The modules that it may call.
    """
    parts = [part for root in roots for part in root.modules()]
    if any(isinstance(part, ScriptModule) for part in parts) or isinstance(forward_func, ScriptModule):
        return f" If it is a part of the scripted or traced model: {SCRIPTED}"
    if any(isinstance(part, GraphModule) for part in parts):
        return f" {EXPORTED}"
    if is_compiled(forward_func):
        return (
            " If the model is compiled, its layers may already be inlined: attribute before the first compiled "
            "run, or to the model before torch.compile."
        )
    return ""
