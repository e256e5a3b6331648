"""Convolution and linear layers with quantized weights and inputs, and a network's plain layers replaced by them.

Layers follow the method. DAQ, and what is compared with it on its grid, standardises the weights and learns an output
scale (Eq. 3 and Section 4.1); the other methods' papers have neither.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from reference import grid, registry
from torchimpl.operators import standardize
from torchimpl.quantizers import build, quantizer_class
from torchimpl.quantizers.uniform import UniformQuantizer

Bits: TypeAlias = tuple[int | None, int | None]


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return what there is for weights and for inputs."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise grid.refuse(name, value, "a pair: for weights, and for inputs")
    return value[0], value[1]


class _Quantized(nn.Module):
    """The part that `QuantConv2d` and `QuantLinear` share: two quantizers and, where the method has it, a scale."""

    weight: Tensor
    bias: Tensor | None
    scale: nn.Parameter | None
    scale_initialized: Tensor
    bias_shape: tuple[int, ...]

    def _add_quantizers(
        self,
        method: str | tuple[str, str],
        bits: Bits,
        input_role: str,
        standardized: bool | None,
        channelwise: bool | None,
        weight_options: Mapping[str, Any],
        input_options: Mapping[str, Any],
    ) -> None:
        self.methods = pair("method", (method, method) if isinstance(method, str) else method)
        bits = pair("bits", bits)
        for_weights, for_inputs = (registry.method(name) for name in self.methods)
        for known, role, b in ((for_weights, "weight", bits[0]), (for_inputs, "activation", bits[1])):
            if b is not None and not any(r.endswith(role) for r in known.roles):
                raise grid.refuse("method", method, f"a pair, one for each, as {known.title} does not quantize {role}s")
        used = [known for known, b in zip((for_weights, for_inputs), bits, strict=True) if b is not None]
        standardized = for_weights.standardized if standardized is None else standardized
        self.standardized = standardized and bits[0] is not None
        own = self._channelwise(for_weights, channelwise) if bits[0] is not None else {}
        self.weight_quantizer = build(self.methods[0], bits=bits[0], role="weight", **own, **weight_options)
        self.input_quantizer = build(self.methods[1], bits=bits[1], role=input_role, **input_options)
        scaled = any(known.standardized for known in used)
        self.register_parameter("scale", nn.Parameter(torch.tensor(1.0)) if scaled else None)
        self.register_buffer("scale_initialized", torch.tensor(not scaled))
        self._scale_ready = not scaled  # mirrors `scale_initialized`, so that forward reads no tensor
        self._kept: tuple[tuple[Any, ...], list[Tensor], Tensor] | None = None

    def _channelwise(self, method: registry.Method, channelwise: bool | None) -> dict[str, Any]:
        """Return the option that gives each output channel parameters of its own, if it is to have them."""
        if not (method.channelwise if channelwise is None else channelwise):
            return {}
        if "shape" not in inspect.signature(quantizer_class(method.name)).parameters:
            raise grid.refuse("channelwise", channelwise, f"False for {method.title}, which has one set a layer")
        return {"shape": (self.weight.shape[0], *[1] * (self.weight.dim() - 1))}

    def _linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply the layer's linear map, without bias."""
        raise NotImplementedError

    def quantized_weight(self) -> Tensor:
        """Return the weights on their levels: standardised where the method has it, quantized, not scaled."""
        return self.weight_quantizer(standardize(self.weight) if self.standardized else self.weight)

    def scaled_weight(self) -> Tensor:
        """Return the quantized weights times the output scale's absolute value, as the linear map takes them.

        On the CPU, in test mode and without gradients, they are computed once and kept until something that they depend
        on changes.
        """
        nothing_to_keep = isinstance(self.weight_quantizer, nn.Identity)
        busy = self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if nothing_to_keep or busy or self.weight.device.type != "cpu":
            self._kept = None
            return self._scaled_weight()
        # By value: a version counter misses what is written through .data.
        settings = (self.weight_quantizer, self.weight_quantizer.extra_repr(), self.standardized)
        sources = [
            self.weight,
            *self.weight_quantizer.state_dict().values(),
            *([] if self.scale is None else [self.scale]),
        ]
        known = self._kept
        if (
            known is not None
            and (known[0], len(known[1])) == (settings, len(sources))
            and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(known[1], sources, strict=True))
        ):
            return known[2]
        kept = self._scaled_weight()
        self._kept = (settings, [source.clone() for source in sources], kept)
        return kept

    def _scaled_weight(self) -> Tensor:
        if self.standardized and self.scale is not None and isinstance(self.weight_quantizer, UniformQuantizer):
            return self.weight_quantizer(self.weight, self.scale)  # at once
        return self._scaled(self.quantized_weight())

    def _scaled(self, w_q: Tensor) -> Tensor:
        return w_q if self.scale is None else w_q * self.scale.abs()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}  # a copy computes its own

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(|s| w_q) * a_q + bias`` (Eq. 3; the released code takes the scale's absolute value).

        The scale, where the method has one, multiplies the weights, which are fewer than the outputs. The first batch
        in training mode initialises both quantizers and the scale.

        Raises
        ------
        RuntimeError
            If there was no such batch: in test mode, or while being compiled.
        ValueError
            At that batch, if weights that are to be standardised are all equal, the batch is empty or not finite, or a
            quantizer refuses its first data.
        """
        x_q = self.input_quantizer(x)
        if self._scale_ready:
            w = self.scaled_weight()
        else:
            w_q = self.quantized_weight()
            self._initialize_scale(x.detach(), x_q.detach(), w_q.detach())
            w = self._scaled(w_q)
        out = self._linear_map(x_q, w)
        if self.bias is not None:
            out = out + self.bias.view(self.bias_shape).to(out.dtype)  # under autocast they differ
        return out

    @torch.no_grad()
    def _initialize_scale(self, x: Tensor, x_q: Tensor, w_q: Tensor) -> None:
        """Give the quantized output the mean magnitude of the full-precision one, of weights not standardised.

        That is the released code's rule; the paper says nothing on it.
        """
        if torch.compiler.is_compiling() or not self.training:
            raise RuntimeError(
                f"{type(self).__name__} has no output scale yet: run one batch in training mode (before compiling), or "
                "load a state_dict"
            )
        if self.standardized and not bool(self.weight.min() < self.weight.max()):
            raise grid.refuse("standard deviation of the weights", 0.0, "positive: they are all equal, or none")
        quantized, full = (float(self._linear_map(*pair).abs().mean()) for pair in ((x_q, w_q), (x, self.weight)))
        if not (math.isfinite(quantized) and math.isfinite(full)):
            means = (quantized, full)
            raise grid.refuse("mean magnitude of the first batch's outputs", means, "finite (is the batch empty?)")
        if self.scale is not None and quantized > 0:  # all-zero codes carry no scale: keep 1
            self.scale.fill_(full / quantized)
        self.mark_scale_initialized()

    def mark_scale_initialized(self) -> None:
        """Say that the scale is set; otherwise the first batch in training sets it."""
        self._scale_ready = True
        self.scale_initialized.fill_(True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._scale_ready = bool(self.scale_initialized)


class QuantConv2d(_Quantized, nn.Conv2d):
    """Convolution with quantized weights and inputs.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        As in `torch.nn.Conv2d`. Padding is with zeros, as in the papers; where a quantizer has no level there (an LSQ+
        offset, a clip range of both signs), padded values lie between levels.
    method : str or (str, str)
        Name of a method of the suite, or one for the weights and one for the inputs.
    bits : tuple of (int or None)
        Bit-widths of weights and of inputs; None is full precision, and twice None the plain layer.
    input_role : {"activation", "signed_activation"}
        Whether the input comes from a ReLU.
    standardized : bool, optional
        Standardise the weights before quantizing (Section 4.1); by default as the weights' method has it.
    channelwise : bool, optional
        Give the weights of each output channel parameters of their own; by default as the method has it.
    weight_options, input_options : mapping, optional
        For one of the quantizers: ``{"variant": "released"}``, ...
    **options
        For both: ``variant=...``, ``literal=True``, ...

    Examples
    --------
    >>> layer = QuantConv2d(3, 8, 3, padding=1, method="daq", bits=(1, 2))
    >>> layer(torch.rand(1, 3, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    """

    bias_shape = (-1, 1, 1)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        method: str | tuple[str, str] = "daq",
        bits: Bits,
        input_role: str = "activation",
        standardized: bool | None = None,
        channelwise: bool | None = None,
        weight_options: Mapping[str, Any] | None = None,
        input_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        each = ({**options, **(weight_options or {})}, {**options, **(input_options or {})})
        self._add_quantizers(method, bits, input_role, standardized, channelwise, *each)

    def _linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        return self._conv_forward(x, w, None)


class QuantLinear(_Quantized, nn.Linear):  # type: ignore[misc]  # torch types bias as never None here
    """Linear layer with quantized weights and inputs; the keywords are those of `QuantConv2d`.

    Examples
    --------
    >>> layer = QuantLinear(8, 2, method="ste", bits=(2, 2))
    >>> layer(torch.rand(4, 8)).shape
    torch.Size([4, 2])
    """

    bias_shape = (-1,)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        method: str | tuple[str, str] = "daq",
        bits: Bits,
        input_role: str = "activation",
        standardized: bool | None = None,
        channelwise: bool | None = None,
        weight_options: Mapping[str, Any] | None = None,
        input_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias)
        each = ({**options, **(weight_options or {})}, {**options, **(input_options or {})})
        self._add_quantizers(method, bits, input_role, standardized, channelwise, *each)

    def _linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        return nn.functional.linear(x, w)
