"""The base of the methods that average derivatives over noisy copies of the input."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Generator, Tensor

from captum_sgcampp._captum import TargetType, log_usage
from captum_sgcampp._passes.noise import Noise
from captum_sgcampp._passes.user_warnings import no_noise, warn
from captum_sgcampp.methods import catalogue
from captum_sgcampp.methods.base import Arguments, CamAttribution


class SmoothCamAttribution(CamAttribution):
    """The base of the methods whose derivatives are averaged over noisy copies of the input, eqs. (6), (7).

    A method is a subclass that overrides :meth:`weights`. Parameters and errors are those of :class:`CamAttribution`;
    :meth:`attribute` also takes the parameters of the noise.

    Example::

        >>> import torch
        >>> from captum_sgcampp import SmoothCamAttribution
        >>> class SmoothGradCam(SmoothCamAttribution):
        ...     def weights(self, activations, derivatives):
        ...         return derivatives.gradient.mean(dim=(2, 3), keepdim=True)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> SmoothGradCam(model, "0").attribute(torch.rand(2, 3, 8, 8), target=3, n_samples=5, stdevs=0.3).shape
        torch.Size([2, 1, 6, 6])
    """

    @log_usage
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool | None = None,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        n_samples: int = 0,
        stdevs: float | Sequence[float] = 0.15,
        n_samples_batch_size: int | None = None,
        generator: Generator | Sequence[Generator] | None = None,
        filters: Iterable[int] | None = None,
        subset: Iterable[Iterable[int]] | None = None,
        region: bool = False,
        show_progress: bool = False,
    ) -> Tensor | Any:
        r"""Computes the map of each example.

        The first seven parameters are those of :meth:`CamAttribution.attribute`, which also documents what is
        returned and raised. The noise parameters mean what Captum's :class:`~captum.attr.NoiseTunnel` means by
        `nt_samples`, `stdevs` and `nt_samples_batch_size`. Tensors in `additional_forward_args`, and a `target` for
        each example, are repeated along with the inputs.

        Args:
            inputs: Input tensor, or a tuple of them, each (N, ...).
            target: The class to explain. Default: None
            additional_forward_args: Further arguments of `forward_func`, after the inputs. Default: None
            attribute_to_layer_input: Attribute to the layer's input instead of its output. Default: False
            relu_attributions: Rectify the map. Default: True
            attr_dim_summation: Sum over the channels. Default: None, which sums unless `filters` are given
            grad_kwargs: Further arguments for `torch.autograd.grad`. Default: None
            n_samples: Number of noisy copies of each input. With 0, as in the paper's API, no noise is added. The
                paper's figures use 5; :func:`explain` and the command use 25, where less is left to chance.
                Default: 0
            stdevs: Standard deviation of the noise, in the units of the input as `forward_func` takes it (usually
                those of the normalized image); one number, or a tuple with one for each input tensor. A fraction of
                the range from black to white, divided by the standard deviation of the normalization, is in these
                units: 0.15 of the range is 0.3 for a standard deviation of 0.5, and 0.66 for torchvision's (0.226).
                Default: 0.15
            n_samples_batch_size: The largest number of noisy copies of each input that go through the model at once;
                passes are of even size. It affects speed and memory, not the result: the same seed gives the same
                noise. Where the first dimensions of the inputs, the layer and the scores differ, rows are not examples,
                and only 1 is possible. Copies also go one at a time, with a warning, through models that take one only,
                and through those whose examples influence one another, such as with a batch norm without running
                statistics. The first pass with several copies shows this: the inputs without noise are behind them.
                Default: None, which puts 5 images at once through the model on the CPU, and 32 on other devices, but
                at least one copy of each input, and only one where rows are not examples
            generator: Source of the noise, on the device of the inputs. With one generator for the whole batch, an
                example gets different noise alone than within a batch; a sequence with one for each example gives it
                the same. Default: None, a generator of its own, seeded from torch's, so that
                :func:`torch.manual_seed` applies
            filters: Indices of the channels to show; a map for each. Default: None, all channels
            subset: Coordinates of the neurons to show. Default: None, all neurons
            region: Treat `subset` as two opposite corners of a box of neurons. Default: False
            show_progress: Show a progress bar over the noise samples. Default: False

        Returns:
            The attributions, as :meth:`CamAttribution.attribute` returns them.

        Raises:
            AssertionError: `target` does not fit the output (Captum's checks).
            IndexError: A filter or neuron is out of range for the layer.
            TypeError: Noise is to be added to an input that is not of floating point, or an argument is not a number
                or generator where it must be.
            ValueError: `n_samples`, `n_samples_batch_size` or `stdevs` is out of range; the number of `stdevs` is not
                that of the inputs, or the number of generators not that of the examples; several copies are to share
                a pass, and rows are not examples; or the rows of the layer depend on values, as a detector's boxes do,
                so that noise changes them.

        Warns:
            UserWarning: `n_samples` is 0; the gradient is the same for all noisy copies, so that smoothing changes
                nothing; or copies go through the model one at a time although shapes let them share a pass.
        """
        arguments = self._arguments(
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
            n_samples=n_samples,
            stdevs=stdevs,
            n_samples_batch_size=n_samples_batch_size,
            generator=generator,
            filters=filters,
            subset=subset,
            region=region,
            show_progress=show_progress,
        )
        return self._attribute(inputs, lambda _output: [target], arguments)[0]

    _plain_attribute = attribute

    def _arguments(  # type: ignore[override]  # called with what this class's `attribute` takes
        self,
        *args: Any,
        n_samples: int,
        stdevs: float | Sequence[float],
        n_samples_batch_size: int | None,
        generator: Generator | Sequence[Generator] | None,
        show_progress: bool,
        **kwargs: Any,
    ) -> Arguments:
        noise = Noise(n_samples, stdevs, n_samples_batch_size, generator)
        arguments = replace(super()._arguments(*args, **kwargs), noise=noise, show_progress=show_progress)
        if not noise.n_samples:
            known = catalogue.method_of(type(self))
            warn(no_noise(known.without_noise if known else None))
        return arguments
