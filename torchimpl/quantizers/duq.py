"""DuQ as a module, and PROFIT's freezing of layers. Formulas and their sources are in `reference.duq`.

A whole schedule, where `train` is the caller's own:

    before = output_statistics(model, images)
    train(model)  # a little: the update of the weights whose effect is measured
    after = output_statistics(model, images)
    for names in freezing_order({name: activation_shift(*before[name], *after[name]) for name in before}):
        train(model)
        freeze(model, names)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference import grid
from reference.duq import INITIAL_SHARE
from torchimpl.kernels import ROW, Fused, Kernel, reciprocal
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    finite_number,
    keep_nan,
    largest_magnitude,
    parameter_shape,
    positive_number,
    positive_or_nan,
    reduce_to,
)


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor, x: Tensor, a: Tensor, c: Tensor, lowest: float, steps: int, is_odd: bool
):
    own_a, own_c = positive_or_nan(a, x.dtype), positive_or_nan(c, x.dtype)
    p = x / own_a
    inside = (p >= lowest) & (p <= 1)
    p = torch.clamp(p, lowest, 1)
    grad_x = keep_nan(x, torch.where(inside, grad * own_c / own_a, 0.0))
    by_c = grad * _normalized(_rounded(p, steps, is_odd), steps, is_odd)
    return reduce_to(grad_x, x), reduce_to(-grad_x * p, a), reduce_to(by_c, c)


def _forward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    x, out, a, c, lowest, steps, is_odd, high, low
):
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    for i in range(x.size):
        p = x[i] / a
        p = lowest if p < lowest else (one if p > one else p)
        q = np.rint((p + one) * steps / two if is_odd else p * steps) + zero
        q = two * q - steps if is_odd else q
        out[i] = (q * high + q * low) * c


def _backward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    grad, x, grad_x, sums, a, factor, lowest, steps, is_odd, step
):
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    for row in range(len(sums)):
        by_a = by_c = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = x[i]
            p = v / a  # the forward pass's own quotient: the ends of the range decide
            outside = (p < lowest) | (p > one)
            p = lowest if p < lowest else (one if p > one else p)
            g = grad[i]
            g = v if v != v else g  # NaN is not outside
            gx = zero if outside else g * factor
            grad_x[i] = gx
            q = np.rint((p + one) * steps * half if is_odd else p * steps)
            by_a += gx * p
            by_c += g * ((q + q - steps if is_odd else q) * step)
        sums[row, 0] = by_a
        sums[row, 1] = by_c


def _numbers(a: float, c: float, lowest: float, steps: int, is_odd: bool) -> tuple[Any, ...]:
    return positive_number(a), positive_number(c), np.float32(lowest), np.float32(steps), is_odd, *reciprocal(steps)


def _backward_numbers(a: float, c: float, lowest: float, steps: int, is_odd: bool) -> tuple[Any, ...]:
    a = float(positive_number(a))
    factor = finite_number(float(positive_number(c)) / a)
    return np.float32(a), factor, np.float32(lowest), np.float32(steps), is_odd, np.float32(1 / steps)


FUSED = Fused(
    forward=Kernel(_forward_loop, exact=True),
    backward=Kernel(_backward_loop, exact=False),
    numbers=_numbers,
    backward_numbers=_backward_numbers,
    sums=2,
    gradients=lambda sums, *_: (-sums[0], sums[1]),
)


@operator("duq", _backward, FUSED)
def duq_quantize(x: Tensor, a: Tensor, c: Tensor, lowest: float, steps: int, is_odd: bool) -> Tensor:
    """Clip `x` to [lowest a, a], round x/a to a grid, and scale by c.

    With `is_odd` the grid is that of the odd multiples of 1/steps, otherwise of all multiples.
    """
    a, c = positive_or_nan(a, x.dtype), positive_or_nan(c, x.dtype)
    return _normalized(_rounded(torch.clamp(x / a, lowest, 1), steps, is_odd), steps, is_odd) * c


def _rounded(p: Tensor, steps: int, is_odd: bool) -> Tensor:
    return torch.round((p + 1) * steps / 2 if is_odd else p * steps) + 0.0


def _normalized(level: Tensor, steps: int, is_odd: bool) -> Tensor:
    return (2 * level - steps) / steps if is_odd else level / steps


class DuQ(Quantizer):
    """The quantizer of PROFIT (Park, Yoo, ECCV 2020): one learned scale to clip by, another for the output.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`. Variants are "paper" and "released" (see `reference.duq`).
    shape : tuple of int
        Of the raw parameters a and c: () for one, (C, 1, ...) for one a channel.

    >>> quantizer = DuQ(2, "weight")
    >>> quantizer(torch.tensor([-10.0, -1.0, 0.1, 6.5])).detach()  # both scales start at 0.9 max|x| = 9
    tensor([-9., -3.,  3.,  9.])
    """

    method = "duq"

    def __init__(
        self,
        bits: int | None,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        signed = self.role != "activation"
        self.is_odd = signed and self.variant == "paper"
        top = 2 ** (self.bits or 1) - 1
        self.steps = top // 2 if signed and not self.is_odd else top
        shape = parameter_shape(shape)
        self.lowest = 0.0 if role == "activation" else -1.0
        self.a = nn.Parameter(torch.zeros(shape))
        self.c = nn.Parameter(torch.zeros(shape))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set both scales to 0.9 times the largest magnitude. Raises ValueError if that is not positive and finite."""
        scale = INITIAL_SHARE * largest_magnitude(x.double(), self.a.shape)
        raw = scale + torch.log(-torch.expm1(-scale))
        self.a.copy_(raw)
        self.c.copy_(raw)
        self.mark_initialized()

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the scales as they stand."""
        a, c = scale_of(self.a, x.dtype), scale_of(self.c, x.dtype)
        return duq_quantize(x, a, c, self.lowest, self.steps, self.is_odd)

    def check_parameters(self) -> None:
        """Raise ValueError unless both scales are positive and finite."""
        check_positive("softplus(a)", F.softplus(self.a.detach()))
        check_positive("softplus(c)", F.softplus(self.c.detach()))

    def encode(self, x: Tensor) -> Tensor:
        """Codes: the level's number, the lowest being 0."""
        p = torch.clamp(x / positive_or_nan(scale_of(self.a, x.dtype), x.dtype), self.lowest, 1)
        return _rounded(p, self.steps, self.is_odd) + self._offset()

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes."""
        q = as_float(codes, self.c)
        return _normalized(q - self._offset(), self.steps, self.is_odd) * scale_of(self.c.detach(), q.dtype).to(q.dtype)

    def _offset(self) -> int:
        return 0 if self.is_odd or self.role == "activation" else self.steps


def scale_of(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Softplus, in the wider of both types; NaN where it is not finite.

    PyTorch's threshold of 20, above which it is the identity, would be off by 2e-9 in float64.

    >>> scale_of(torch.tensor([0.0, 30.0]), torch.float64)
    tensor([ 0.6931, 30.0000], dtype=torch.float64)
    """
    scale = F.softplus(raw.to(torch.promote_types(raw.dtype, dtype)), threshold=40)
    return torch.where(scale.isfinite(), scale, torch.nan)


# PROFIT


def _quantized_layers(model: nn.Module) -> dict[str, Any]:
    """Layers with quantized weights, by name, in the model's order."""
    from torchimpl.layers import QuantConv2d, QuantLinear  # which build quantizers

    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, QuantConv2d | QuantLinear) and isinstance(layer.weight_quantizer, Quantizer)
    }


@torch.no_grad()
def output_statistics(model: nn.Module, images: Tensor) -> dict[str, tuple[grid.Array, grid.Array]]:
    """Mean and variance of the outputs of each layer with quantized weights.

    The model is run once, in test mode, and then has its modes again. Of a layer that runs several times, the last
    output counts.

    Parameters
    ----------
    model : Module
        With initialised quantizers.
    images : Tensor
        One batch.

    Returns
    -------
    dict of str to (ndarray, ndarray)
        By the layer's name in `model`, both float64 of shape (C,). The variance is that of the batch, divided by the
        number of elements.
    """
    found: dict[str, tuple[grid.Array, grid.Array]] = {}

    def hook_of(name: str, channel: int) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            rows = output.detach().double().movedim(channel, 0).flatten(1)
            varies = rows.amin(1) < rows.amax(1)  # equal values can have a rounded mean
            var = torch.where(varies, rows.var(1, correction=0), 0.0)
            found[name] = (rows.mean(1).cpu().numpy(), var.cpu().numpy())

        return hook

    modes = {module: module.training for module in model.modules()}
    hooks = [
        layer.register_forward_hook(hook_of(name, -3 if isinstance(layer, nn.Conv2d) else -1))
        for name, layer in _quantized_layers(model).items()
    ]
    try:
        model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return found


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Stop the training of what the quantized weights of some layers are made of.

    That is ``weight`` and all parameters of ``weight_quantizer``, so that no weight changes its level any more, which
    is what makes outputs jump. Bias, output scale and the input's quantizer go on learning, as do batch normalisations.
    Gradients already there are dropped: an optimizer would go on applying them, with momentum and weight decay.

    Parameters
    ----------
    model : Module
    names : collection of str
        As in `output_statistics`.

    Raises
    ------
    ValueError
        If one of them is no layer of `model` with quantized weights, or its quantizer follows the data in training
        mode without having learned anything (LQ-Nets); then none is frozen.
    """
    layers = _quantized_layers(model)
    for name in names:
        if name not in layers:
            raise grid.refuse("name", name, f"a layer with quantized weights (there are {', '.join(layers) or 'none'})")
        if layers[name].weight_quantizer.follows_data:
            method = layers[name].weight_quantizer.method
            raise grid.refuse(f"method of {name}", method, "one whose levels stay while no parameter is learned")
    for name in names:
        for parameter in (layers[name].weight, *layers[name].weight_quantizer.parameters()):
            parameter.requires_grad_(False)
            parameter.grad = None


QUANTIZER = DuQ
