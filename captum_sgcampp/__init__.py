"""Grad-CAM++, Smooth Grad-CAM++ and Smooth Layer-CAM for PyTorch, as Captum layer attributions."""

from captum_sgcampp.explanation import Explanation, explain
from captum_sgcampp.layer_grad_cam_plus_plus import LayerGradCamPlusPlus
from captum_sgcampp.layer_smooth_grad_cam_pp import LayerSmoothGradCAMpp
from captum_sgcampp.layer_smooth_layer_cam import LayerSmoothLayerCAM
from captum_sgcampp.layers import LayerInfo, list_layers
from captum_sgcampp.reshape import channels_last_to_map, tokens_to_map

__version__ = "0.1.0"

__all__ = [
    "Explanation",
    "LayerGradCamPlusPlus",
    "LayerInfo",
    "LayerSmoothGradCAMpp",
    "LayerSmoothLayerCAM",
    "__version__",
    "channels_last_to_map",
    "explain",
    "list_layers",
    "tokens_to_map",
]
