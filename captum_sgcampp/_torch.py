"""Torch's private API. No other file of the package uses it, so a new release of torch affects only this one."""

import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.autograd.graph import GradientEdge, disable_saved_tensors_hooks, get_gradient_edge, saved_tensors_hooks
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormWithStatistics
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd as AdaptiveAvgPool
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd as AdaptiveMaxPool
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode

__all__ = ["AdaptiveAvgPool", "AdaptiveMaxPool", "BatchNorm", "DispatchMode", "Dropout", "NormWithStatistics"]

FORWARD_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
"""The attributes of a module with the functions that may change what goes in or comes out."""
OF_EVERY_MODULE = frozenset({*vars(Module()), *vars(Module), "_is_torch_compile"} - {"forward"})
"""The attributes that torch gives modules."""


def is_persistent(module: Module, buffer: str) -> bool:
    """Whether a buffer is part of the state that is saved."""
    return buffer not in module._non_persistent_buffers_set


def put_buffer_back(module: Module, name: str, tensor: Tensor, *, persistent: bool) -> None:
    """Makes a tensor the buffer of that name again, also if it was deleted or something else is in its place."""
    if name in module._buffers:
        setattr(module, name, tensor)
        return
    if hasattr(module, name):
        delattr(module, name)
    module.register_buffer(name, tensor, persistent=persistent)


def version_of(tensor: Tensor) -> int:
    """The number of in-place operations on a tensor so far, as autograd counts them."""
    return tensor._version


@contextmanager
def preserved_version(tensor: Tensor) -> Iterator[None]:
    """A context that hides in-place operations from graphs that saved the tensor; they must not change its values."""
    with _unsafe_preserve_version_counter(tensor):
        yield


def version_counter(tensor: Tensor) -> Tensor:
    """A tensor that has the version of another one, now and later, but none of its memory if that can be avoided."""
    counter = tensor.detach()
    if type(counter) is Tensor and counter.layout == torch.strided:
        counter.data = counter.new_empty(0)
    return counter


def modified_in_place(tensor: Tensor, version: int, expected: int) -> RuntimeError:
    """Torch's own error for a saved tensor that has been written to, in torch's own words."""
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"[{tensor.type()} {list(tensor.shape)}] is at version {version}; expected version {expected} instead. Hint: "
        "enable anomaly detection to find the operation that failed to compute its gradient, with "
        "torch.autograd.set_detect_anomaly(True)."
    )


def is_view(tensor: Tensor) -> bool:
    """Whether autograd treats a tensor as a view of another one."""
    return tensor._is_view()


def gradient_edge(tensor: Tensor) -> GradientEdge:
    """The gradient edge of a tensor itself; a subclass of Tensor would return that of a temporary view."""
    with torch._C.DisableTorchFunctionSubclass():
        return get_gradient_edge(tensor)


def base_of(tensor: Tensor) -> Tensor:
    """The base of a view; the tensor itself if it is not a view."""
    return tensor if tensor._base is None else tensor._base


def refuses_saved_tensors_hooks(error: BaseException) -> bool:
    """Whether torch raised an error because of hooks on saved tensors.

    It does so where they are disabled, as inside torch.func, and where a saved tensor is to get others of its own.
    """
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    is_refusal = traceback is not None and traceback.tb_frame.f_code in _REFUSALS
    return is_refusal or "saved tensor whose hooks have already been set" in str(error)


_DISABLE: Any = disable_saved_tensors_hooks.__wrapped__  # type: ignore[attr-defined]
_REFUSALS = {_DISABLE.__code__, saved_tensors_hooks.__enter__.__code__}
"""The functions that raise it: on disabling hooks that are set, or on setting hooks that are disabled."""


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor is one of `torch.func.vmap`, which stands for several."""
    return bool(torch._C._functorch.is_batchedtensor(tensor))


def in_reentrant_checkpoint() -> bool:
    """Whether the current function is called from a checkpoint that records nothing of what it runs."""
    checkpoint: Any = sys.modules.get("torch.utils.checkpoint")
    frame = inspect.currentframe()
    while checkpoint and frame:
        if frame.f_code is checkpoint.CheckpointFunction.forward.__code__:
            return True
        frame = frame.f_back
    return False


def is_compiled(forward_func: Callable[..., Any]) -> bool:
    """Whether torch.compile has been applied to a model or a part of it, or may have been to a function."""
    if not isinstance(forward_func, Module):
        return "torch._dynamo" in sys.modules
    return any(
        hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in forward_func.modules()
    )


def uncompiled(model: Any) -> Any:
    """The module that torch.compile has wrapped; anything else as it is."""
    return getattr(model, "_orig_mod", model)


def uncompiled_function(function: Any) -> Any:
    """The function that torch.compile has wrapped; anything else as it is."""
    return getattr(function, "_torchdynamo_orig_callable", function)


def untraced(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps torch.compile from tracing a hook. Nothing is compiled unless its modules are imported."""
    return torch.compiler.disable(hook) if "torch._dynamo" in sys.modules else hook  # type: ignore[no-untyped-call]


def is_replica(module: Module) -> bool:
    """Whether a module is a copy that DataParallel made for one of its devices."""
    return bool(getattr(module, "_is_replica", False))


def weights_are_cached() -> bool:
    """Whether parametrized weights computed now will be reused, by `torch.nn.utils.parametrize.cached`."""
    return bool(parametrize._cache_enabled)


def state_dict_without_prefix(
    state: Mapping[str, Tensor], prefix: str, of_model: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Removes a prefix from the names of a state dict, and from those of the versions that it keeps of its modules.

    Args:
        state: The state dict.
        prefix: The prefix.
        of_model: That of the model, whose own version is assumed where `state` has none, as in safetensors.
    """
    renamed: Any = OrderedDict((name.removeprefix(prefix), value) for name, value in state.items())
    versions = getattr(state, "_metadata", {})
    renamed._metadata = OrderedDict((name.removeprefix(prefix), version) for name, version in versions.items())
    # The model itself is "module" where its parameters are "module.weight".
    of_root = getattr(of_model, "_metadata", {}).get("", {})
    renamed._metadata[""] = versions.get(prefix.rstrip("."), of_root)
    result: dict[str, Tensor] = renamed
    return result
