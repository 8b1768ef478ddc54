"""Smooth Grad-CAM++ as a Captum layer attribution."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Generator, Tensor

from captum_sgcampp._captum import TargetType, log_usage
from captum_sgcampp.layer_grad_cam_plus_plus import Attribution, LayerGradCamPlusPlus
from captum_sgcampp.noise import Noise
from captum_sgcampp.selection import Selection
from captum_sgcampp.user_warnings import no_noise, warn


class LayerSmoothGradCAMpp(LayerGradCamPlusPlus):
    r"""Smooth Grad-CAM++ for a layer: Grad-CAM++ whose derivatives are averaged over noisy copies of the input.

    With :math:`g_s` the gradient of the score at the s-th of n noisy copies, and :math:`A` the activations of
    the input without noise,

    .. math::
        D_p = \frac{1}{n} \sum_s g_s^p, \qquad
        \alpha_{ki} = \frac{D_2}{2 D_2 + \sum_j A_{kj} D_3}, \qquad
        w_k = \sum_i \alpha_{ki} \, \mathrm{relu}(D_1), \qquad
        L_i = \mathrm{relu}\Big(\sum_k w_k A_{ki}\Big)

    as eqs. (5) to (8) and (2) of Omeiza et al. define it (*Smooth Grad-CAM++*, arXiv:1908.01224). It averages the
    derivatives; ``NoiseTunnel(LayerGradCamPlusPlus(...))`` averages the maps.

    Parameters and errors are those of :class:`LayerGradCamPlusPlus`.

    Example::

        >>> import torch
        >>> from captum_sgcampp import LayerSmoothGradCAMpp
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 10)
        ... )
        >>> method = LayerSmoothGradCAMpp(model, model[0])
        >>> attribution = method.attribute(torch.rand(2, 3, 8, 8), target=3, n_samples=5, stdevs=0.3)
        >>> attribution.shape
        torch.Size([2, 1, 6, 6])

        One map for each of two filters, and in them the neurons of the upper left quarter:

        >>> corners = [(0, 0), (2, 2)]
        >>> method.attribute(torch.rand(2, 3, 8, 8), 3, n_samples=5, filters=[4, 1], subset=corners, region=True).shape
        torch.Size([2, 2, 6, 6])
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
    ) -> Attribution | list[Attribution]:
        r"""Computes the Smooth Grad-CAM++ map of each example.

        The first seven parameters are those of :meth:`LayerGradCamPlusPlus.attribute`, and so is what is returned
        and raised. The noise parameters mean what Captum's :class:`~captum.attr.NoiseTunnel` means by `nt_samples`,
        `stdevs` and `nt_samples_batch_size`. Tensors in `additional_forward_args`, and a `target` for each
        example, are repeated along with the inputs.

        Args:
            inputs: Input tensor, or a tuple of them, each (N, ...).
            target: The class to explain. Default: None
            additional_forward_args: What else `forward_func` takes, after the inputs. Default: None
            attribute_to_layer_input: Attribute to the layer's input, not its output. Default: False
            relu_attributions: Rectify the map. Default: True
            attr_dim_summation: Sum over the channels. Default: None, which sums unless there are `filters`
            grad_kwargs: Further arguments for `torch.autograd.grad`. Default: None
            n_samples: Number of noisy copies of each input. With 0, the paper's default, no noise is added and the
                map is that of Grad-CAM++; the paper's figures have 5. Default: 0
            stdevs: Standard deviation of the noise, in the units of the input as `forward_func` takes it (of the
                normalized image, where that is); one number, or a tuple with one for each input tensor.
                Default: 0.15
            n_samples_batch_size: How many noisy copies of each input go through the model at once, at most; the
                passes are of even size. It changes speed and memory, not the result: the same seed gives the same
                noise. Where the first dimension of the inputs, the layer and the scores differ, rows are not examples,
                and only 1 is possible. A model whose examples influence one another also needs 1, which cannot be seen
                from shapes: with a batch norm in training mode, or where it sorts its examples by length.
                Default: None, which puts 5 images at once through the model on the CPU, and 32 on other devices, but
                at least one copy of each input, and only one where rows are not examples
            generator: Source of the noise, on the device of the inputs. With one for the whole batch, the same example
                gets other noise alone than within a batch; a sequence of generators, one for each example, gives it the
                same. Default: None, a generator of its own, seeded by torch's, which :func:`torch.manual_seed` seeds
            filters: Indices of the channels to see; a map for each. Default: None, which is all
            subset: Coordinates of the neurons to see. Default: None, which is all
            region: Take `subset` as two opposite corners of a box of neurons. Default: False
            show_progress: Show a progress bar over the noise samples. Default: False

        Returns:
            The attributions, as :meth:`LayerGradCamPlusPlus.attribute` returns them.

        Raises:
            AssertionError: `target` does not fit the output (Captum's checks).
            IndexError: The layer does not have a filter or a neuron that is asked for.
            TypeError: An input that noise is to be added to is not of floating point, or an argument is no number or
                generator.
            ValueError: `n_samples`, `n_samples_batch_size` or `stdevs` is out of range; the number of `stdevs` is not
                that of the inputs, or the number of generators not that of the examples; several copies are to share
                a pass, and rows are not examples.

        Warns:
            UserWarning: `n_samples` is 0; or the gradient is the same for all noisy copies, and smoothing changes
                nothing.
        """
        (attribution,) = self._attribute(
            _noise(n_samples, stdevs, n_samples_batch_size, generator),
            Selection(filters, subset, region),
            inputs,
            [target],
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
            show_progress,
        )
        return attribution

    @log_usage
    def attribute_targets(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Iterable[TargetType],
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
    ) -> tuple[Attribution | list[Attribution], ...]:
        """Computes the maps of several targets from the same passes, and so from the same noise.

        What costs most, the passes through the part below the layer, is done once for all of them.

        Args:
            inputs: Input tensor, or a tuple of them, each (N, ...).
            targets: The targets, each of which can be anything that :meth:`attribute` takes as its target.
            additional_forward_args: As in :meth:`attribute`.
            attribute_to_layer_input: As in :meth:`attribute`.
            relu_attributions: As in :meth:`attribute`.
            attr_dim_summation: As in :meth:`attribute`.
            grad_kwargs: As in :meth:`attribute`.
            n_samples: As in :meth:`attribute`.
            stdevs: As in :meth:`attribute`.
            n_samples_batch_size: As in :meth:`attribute`.
            generator: As in :meth:`attribute`.
            filters: As in :meth:`attribute`.
            subset: As in :meth:`attribute`.
            region: As in :meth:`attribute`.
            show_progress: As in :meth:`attribute`.

        Returns:
            For each target, what :meth:`attribute` returns for it.

        Raises:
            ValueError: There are no targets. Beyond that, what :meth:`attribute` raises.
        """
        return self._attribute(
            _noise(n_samples, stdevs, n_samples_batch_size, generator),
            Selection(filters, subset, region),
            inputs,
            targets,
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
            show_progress,
        )


def _noise(
    n_samples: int,
    stdevs: float | Sequence[float],
    batch_size: int | None,
    generator: Generator | Sequence[Generator] | None,
) -> Noise:
    noise = Noise(n_samples, stdevs, batch_size, generator)
    if not noise.n_samples:
        warn(no_noise())
    return noise
