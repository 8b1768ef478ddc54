"""Captum's private helpers. No other file imports them, so a new release of Captum affects only this one."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import captum

SUPPORTED_CAPTUM = ">=0.8,<0.10"
"""The releases of Captum that the tests pass with; the same as in `pyproject.toml`."""

try:
    from captum._utils.common import (
        ExpansionTypes,
        _expand_additional_forward_args,
        _expand_target,
        _format_additional_forward_args,
        _format_outputs,
        _reduce_list,
        _run_forward,
        _select_targets,
        _sort_key_list,
    )
    from captum._utils.gradient import _extract_device_ids
    from captum._utils.progress import NullProgress, progress
    from captum._utils.typing import TargetType
    from captum.log import log_usage as _log_usage
except ImportError as error:
    raise ImportError(
        f"captum-sgcampp works with captum{SUPPORTED_CAPTUM}; "
        f"captum {captum.__version__} is installed and lacks something that it needs: {error}"
    ) from error

__all__ = [
    "SUPPORTED_CAPTUM",
    "ExpansionTypes",
    "NullProgress",
    "TargetType",
    "_expand_additional_forward_args",
    "_expand_target",
    "_extract_device_ids",
    "_format_additional_forward_args",
    "_format_outputs",
    "_reduce_list",
    "_run_forward",
    "_select_targets",
    "_sort_key_list",
    "log_usage",
    "progress",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def log_usage(function: _Function) -> _Function:
    """Captum's `log_usage`, which gives `attribute` its `__wrapped__`, typed to keep the signature."""
    return cast(_Function, _log_usage()(function))
