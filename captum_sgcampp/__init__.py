"""Grad-CAM++, Smooth Grad-CAM++ and Smooth Layer-CAM for PyTorch, as Captum layer attributions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_sgcampp import picture
    from captum_sgcampp.dataset.attribute_dataset import attribute_dataset
    from captum_sgcampp.dataset.maps import Maps, open_maps
    from captum_sgcampp.explanation import Explanation, explain
    from captum_sgcampp.layers import LayerInfo, list_layers
    from captum_sgcampp.methods.base import CamAttribution
    from captum_sgcampp.methods.grad_cam_plus_plus import LayerGradCamPlusPlus, LayerSmoothGradCAMpp
    from captum_sgcampp.methods.layer_cam import LayerSmoothLayerCAM
    from captum_sgcampp.methods.smooth_base import SmoothCamAttribution
    from captum_sgcampp.reshape import channels_last_to_map, tokens_to_map

__version__ = "0.2.0.dev0"

__all__ = [
    "CamAttribution",
    "Explanation",
    "LayerGradCamPlusPlus",
    "LayerInfo",
    "LayerSmoothGradCAMpp",
    "LayerSmoothLayerCAM",
    "Maps",
    "SmoothCamAttribution",
    "__version__",
    "attribute_dataset",
    "channels_last_to_map",
    "explain",
    "list_layers",
    "open_maps",
    "picture",
    "tokens_to_map",
]

# Imported on first use, so that the command can print its help without waiting for torch.
_HOMES = {
    "CamAttribution": "methods.base",
    "Explanation": "explanation",
    "LayerGradCamPlusPlus": "methods.grad_cam_plus_plus",
    "LayerInfo": "layers",
    "LayerSmoothGradCAMpp": "methods.grad_cam_plus_plus",
    "LayerSmoothLayerCAM": "methods.layer_cam",
    "Maps": "dataset.maps",
    "SmoothCamAttribution": "methods.smooth_base",
    "attribute_dataset": "dataset.attribute_dataset",
    "channels_last_to_map": "reshape",
    "explain": "explanation",
    "list_layers": "layers",
    "open_maps": "dataset.maps",
    "tokens_to_map": "reshape",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name == "picture":
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """Includes what has not been imported yet."""
    return sorted({*globals(), *__all__})
