"""The table of the methods. Reading it imports nothing slow, so that the command's help comes at once."""

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_sgcampp.methods.base import CamAttribution


@dataclass(frozen=True)
class Method:
    """A method: what it is called, and the class that computes it."""

    name: str
    """Its name in an explanation, a picture and a page."""
    word: str
    """Its name in the command."""
    module: str
    """The module from which users import its class."""
    class_name: str
    """The name of its class."""
    is_smooth: bool = False
    """Whether its derivatives are averaged over noise samples, or those at the input."""
    without_noise: str | None = None
    """What a smooth method is called without noise."""
    captums: str | None = None
    """The name of Captum's own class of this method."""

    def load(self) -> "type[CamAttribution]":
        """Imports its class."""
        loaded: type[CamAttribution] = getattr(import_module(self.module), self.class_name)
        return loaded

    def takes(self, setting: str) -> bool:
        """Whether its class has a parameter of this name, or hands keywords on to a base that has it."""
        for base in self.load().__mro__:
            if "__init__" in vars(base):
                parameters = inspect.signature(vars(base)["__init__"]).parameters
                if setting in parameters:
                    return True
                if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
                    return False
        return False

    def make(self, forward_func: Any, layer: Any, **settings: Any) -> "CamAttribution":
        """Makes the method for a model and a layer.

        Args:
            forward_func: The model, or a function that calls it.
            layer: The layer, or a list of layers.
            **settings: Further arguments of its class. Those that it does not take are left out.
        """
        taken = {name: value for name, value in settings.items() if self.takes(name)}
        return self.load()(forward_func, layer, **taken)


METHODS = (
    Method("Grad-CAM", "grad-cam", "captum_sgcampp.methods.grad_cam", "GradCam", captums="LayerGradCam"),
    Method("Grad-CAM++", "grad-cam++", "captum_sgcampp", "LayerGradCamPlusPlus"),
    Method(
        "Smooth Grad-CAM++",
        "smooth-grad-cam++",
        "captum_sgcampp",
        "LayerSmoothGradCAMpp",
        is_smooth=True,
        without_noise="Grad-CAM++",
    ),
    Method(
        "Smooth Layer-CAM",
        "smooth-layer-cam",
        "captum_sgcampp",
        "LayerSmoothLayerCAM",
        is_smooth=True,
        without_noise="Layer-CAM",
    ),
)
"""The methods, in the order of a picture's columns."""

DEFAULT = "Smooth Grad-CAM++"
"""The name of the method to show where only one is shown."""


def by_name() -> dict[str, Method]:
    """The methods by their names."""
    return {method.name: method for method in METHODS}


def by_word() -> dict[str, Method]:
    """The methods by their names in the command."""
    return {method.word: method for method in METHODS}


def method_of(method_class: "type[CamAttribution]") -> Method | None:
    """The method that a class computes: that of the nearest base whose weights it has; None if the table has none."""
    for base in method_class.__mro__:
        for method in METHODS:
            if method.class_name == base.__name__ and (loaded := method.load()) is base:
                return method if method_class.weights is loaded.weights else None
    return None
