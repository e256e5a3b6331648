"""Convolution and linear layers with quantized weights and inputs (DAQ, Eq. 3 and Section 4.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchimpl.quantizers import build


def standardize(w: Tensor) -> Tensor:
    """Weight standardisation over the whole tensor: mean 0, unbiased standard deviation 1, both detached.

    >>> standardize(torch.tensor([1.0, 2.0, 3.0]))
    tensor([-1.,  0.,  1.])
    """
    return (w - w.detach().mean()) / w.detach().std()


class _Quantized(nn.Module):
    """The part that `QuantConv2d` and `QuantLinear` share: two quantizers and an output scale."""

    weight: Tensor
    bias: Tensor | None
    scale_initialized: Tensor
    bias_shape: tuple[int, ...]

    def _add_quantizers(
        self, method: str, bits: tuple[int | None, int | None], input_role: str, standardized: bool, options: Any
    ) -> None:
        self.full_precision = bits == (None, None)
        self.standardized = standardized and bits[0] is not None
        self.weight_quantizer = build(method, bits=bits[0], role="weight", **options)
        self.input_quantizer = build(method, bits=bits[1], role=input_role, **options)
        self.scale = nn.Parameter(torch.tensor(1.0), requires_grad=not self.full_precision)
        self.register_buffer("scale_initialized", torch.tensor(False))
        self._scale_ready = False  # mirrors `scale_initialized`, so that forward reads no tensor

    def _linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply the layer's linear map, without bias."""
        raise NotImplementedError

    def quantized_weight(self) -> Tensor:
        """Return the weights as the layer uses them: standardised, quantized."""
        return self.weight_quantizer(standardize(self.weight) if self.standardized else self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``|s| (w_q * a_q) + bias`` (Eq. 3; the released code takes the scale's absolute value).

        The first batch in training mode sets the clip ranges and the scale.

        Raises
        ------
        RuntimeError
            If there was no such batch: in test mode, or while being compiled.
        """
        w_q, x_q = self.quantized_weight(), self.input_quantizer(x)
        out = self._linear_map(x_q, w_q)
        if not self.full_precision:
            if not self._scale_ready:
                self._initialize_scale(x.detach(), out.detach())
            out = out * self.scale.abs()
        if self.bias is not None:
            out = out + self.bias.view(self.bias_shape)
        return out

    @torch.no_grad()
    def _initialize_scale(self, x: Tensor, out: Tensor) -> None:
        """Give the quantized output the mean magnitude of the full-precision one, of weights not standardised.

        That is the released code's rule; the paper says nothing on it.
        """
        if torch.compiler.is_compiling() or not self.training:
            raise RuntimeError(
                f"{type(self).__name__} has no output scale yet: run one batch in training mode (before compiling), or "
                "load a state_dict"
            )
        quantized = float(out.abs().mean())
        if quantized > 0:  # all-zero codes carry no scale: keep 1
            self.scale.fill_(float(self._linear_map(x, self.weight).abs().mean()) / quantized)
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
        As in `torch.nn.Conv2d`. Padding is with zeros, which are code 0 of unsigned activations.
    method : str
        Name of a method of the suite.
    bits : tuple of (int or None)
        Bit-widths of weights and of inputs; None is full precision, and twice None the plain layer.
    input_role : {"activation", "signed_activation"}
        Whether the input comes from a ReLU.
    standardized : bool
        Standardise the weights before quantizing (Section 4.1).
    **options
        For both quantizers: ``variant=...``, ``literal=True``, ...

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
        method: str = "daq",
        bits: tuple[int | None, int | None],
        input_role: str = "activation",
        standardized: bool = True,
        **options: Any,
    ) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self._add_quantizers(method, bits, input_role, standardized, options)

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
        method: str = "daq",
        bits: tuple[int | None, int | None],
        input_role: str = "activation",
        standardized: bool = True,
        **options: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias)
        self._add_quantizers(method, bits, input_role, standardized, options)

    def _linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        return nn.functional.linear(x, w)
