"""What a pass through a model changes, and how to undo it before the model runs again."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from captum_sgcampp._torch import is_persistent, put_buffer_back, version_of


class _Buffer(NamedTuple):
    module: Module
    name: str
    persistent: bool
    tensor: Tensor
    value: Tensor
    version: int

    def has_changed(self) -> bool:
        """Whether it has been written to. Batch normalization does so without a new version."""
        if version_of(self.tensor) != self.version:
            return True
        comparable = self.tensor.layout == torch.strided and not self.tensor.is_meta
        return comparable and not torch.equal(self.tensor, self.value)


class PassState:
    """The buffers of all modules in training mode, such as running statistics, and the state of torch's random numbers.

    For modules in evaluation mode nothing is copied.

    Args:
        modules: The modules, each by itself: not those within it.
        inputs: The inputs, which tell whose random numbers the model may draw: besides the CPU's those of their GPUs.
    """

    def __init__(self, modules: Iterable[Module], inputs: Iterable[Tensor]) -> None:
        self._buffers = [
            _Buffer(module, name, is_persistent(module, name), tensor, tensor.detach().clone(), version_of(tensor))
            for module in modules
            if module.training
            for name, tensor in module.named_buffers(recurse=False)
            if not is_lazy(tensor) and not tensor.is_inference()  # the latter cannot be written to
        ]
        self._random = torch.get_rng_state()
        self._random_of_gpus = {
            device: torch.cuda.get_rng_state(device)
            for device in {tensor.device for tensor in inputs if tensor.is_cuda}
        }

    def restore(self) -> None:
        """Puts everything back."""
        with torch.no_grad():
            for buffer in self._buffers:
                if getattr(buffer.module, buffer.name, None) is not buffer.tensor:
                    put_buffer_back(buffer.module, buffer.name, buffer.tensor, persistent=buffer.persistent)
                if buffer.has_changed():
                    buffer.tensor.copy_(buffer.value)
        torch.set_rng_state(self._random)
        for device, state in self._random_of_gpus.items():
            torch.cuda.set_rng_state(state, device)
