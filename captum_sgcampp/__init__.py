"""Grad-CAM++ and Smooth Grad-CAM++ for PyTorch, as Captum layer attributions."""

from captum_sgcampp.layer_grad_cam_plus_plus import LayerGradCamPlusPlus
from captum_sgcampp.layer_smooth_grad_cam_pp import LayerSmoothGradCAMpp
from captum_sgcampp.layers import LayerInfo, list_layers

__version__ = "0.1.0"

__all__ = ["LayerGradCamPlusPlus", "LayerInfo", "LayerSmoothGradCAMpp", "__version__", "list_layers"]
