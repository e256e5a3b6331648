"""Convolution and linear layers with quantized weights and inputs.

Layers follow the method. DAQ, and what is compared with it on its grid, standardises the weights and learns an output
scale (Eq. 3 and Section 4.1); APoT standardises without one; the other methods' papers have neither.

**Integers inside.** In test mode, where weights and inputs are both a unit times integers, a layer convolves the
integers, held as floating-point numbers, and multiplies once by units and scale. While no sum can pass 2^24, float32
holds every partial sum exactly, in whatever order products are added: the output has the same bits for any split into
batches, memory layout, number of threads and algorithm that adds products, and the sums are those of the convolution
in int64 (`reference.integer`). Layers whose sums could be larger are computed in float64, which is exact up to 2^53.
Where only one side is quantized the layer is an ordinary one, without that promise.

Algorithms that multiply by fractions (Winograd's, FFT) leave errors. On a CPU, torch has them for float32 only (NNPACK)
and where oneDNN is absent or switched off: there layers are computed in float64. On other devices, where a library may
choose them, sums are rounded to the nearest integer: the right one while these errors are below 1/2.

In training the scale multiplies the weights, which are fewer than the outputs.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, fx, nn

from reference import checks, registry
from torchimpl.operators import is_traced
from torchimpl.quantizers import build, quantizer_class
from torchimpl.quantizers.base import Quantizer, as_leaf, check_calibrating, is_calibrating, named, wide
from torchimpl.statistics import standardize

Bits: TypeAlias = tuple[int | None, int | None]


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return what there is for weights and for inputs."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise checks.refuse(name, value, "a pair: for weights, and for inputs")
    return value[0], value[1]


def channel_options(method: registry.Method, weight: Tensor, channelwise: bool | None) -> dict[str, Any]:
    """Return the option that gives each output channel parameters of its own, if it is to have them.

    Raises
    ------
    ValueError
        If the method has one set a layer.
    """
    if not (method.channelwise if channelwise is None else channelwise):
        return {}
    if "shape" not in inspect.signature(quantizer_class(method.name)).parameters:
        raise checks.refuse("channelwise", channelwise, f"False for {method.title}, which has one set a layer")
    return {"shape": (weight.shape[0], *[1] * (weight.dim() - 1))}


def check_weights(weight: Tensor, *, standardized: bool) -> None:
    """Raise ValueError unless weights are finite and, where they are to be standardised, not all equal."""
    if not bool(weight.isfinite().all()):
        raise checks.refuse("weights", "NaN or infinity among them", "finite")
    if standardized and not bool(weight.min() < weight.max()):
        raise checks.refuse("standard deviation of the weights", 0.0, "positive: they are all equal, or none")


class QuantizedLayer(nn.Module):
    """The part that `QuantConv2d` and `QuantLinear` share: two quantizers and, where the method has it, a scale."""

    weight: Tensor
    bias: Tensor | None
    weight_quantizer: Any  # a Quantizer, or nn.Identity for full precision
    input_quantizer: Any
    scale: nn.Parameter | None
    scale_initialized: Tensor
    channel_shape: tuple[int, ...]  # of what the output's channels have one each of, beside the output
    plain: ClassVar[type[nn.Module]]  # torch's layer that computes the same in full precision
    label = ""  # its name in the network, where a conversion or a calibration told it
    _had_a_batch = False  # in training mode, which looked at the weights

    def _add_quantizers(
        self,
        method: str | tuple[str, str],
        bits: Bits,
        input_role: str | None,
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
                raise checks.refuse(
                    "method", method, f"a pair, one for each, as {known.title} does not quantize {role}s"
                )
        self.role_was_given = input_role is not None
        if input_role is None:
            input_role = "activation" if bits[1] is None else for_inputs.input_role
        used = [known for known, b in zip((for_weights, for_inputs), bits, strict=True) if b is not None]
        standardized = for_weights.standardized if standardized is None else standardized
        self.standardized = standardized and bits[0] is not None
        by_output = self.output_first(self.weight)
        own = channel_options(for_weights, by_output, channelwise) if bits[0] is not None else {}
        self.weight_quantizer = build(self.methods[0], bits=bits[0], role="weight", **own, **weight_options)
        self.input_quantizer = build(self.methods[1], bits=bits[1], role=input_role, **input_options)
        if isinstance(self.weight_quantizer, Quantizer):
            self.weight_quantizer.context = {"standardized": self.standardized}
        scaled = any(known.output_scale for known in used)
        self.register_parameter("scale", nn.Parameter(torch.tensor(1.0)) if scaled else None)
        self.register_buffer("scale_initialized", torch.tensor(not scaled))
        self._scale_ready = not scaled  # mirrors `scale_initialized`, so that forward reads no tensor

    @classmethod
    def prepare(
        cls,
        layer: nn.Module,
        *,
        method: str | tuple[str, str] = "daq",
        bits: Bits,
        input_role: str | None = None,
        standardized: bool | None = None,
        channelwise: bool | None = None,
        weight_options: Mapping[str, Any] | None = None,
        input_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Callable[[], None]:
        """Build what makes a quantized layer of a plain one; what is returned does it, in place.

        The layer stays the object that it is, with its parameters, hooks and modes: whoever holds it holds the
        quantized one. Keywords are those of `QuantConv2d`.

        Raises
        ------
        ValueError
            If a setting is refused; the layer is as it was.
        """
        made = cls.__new__(cls)
        own = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
        made.__dict__.update({k: v.copy() if k in own else v for k, v in layer.__dict__.items()})
        each = ({**options, **(weight_options or {})}, {**options, **(input_options or {})})
        made._add_quantizers(method, bits, input_role, standardized, channelwise, *each)
        device = made.weight.device
        for part in (made.weight_quantizer, made.input_quantizer):
            part.to(device).train(layer.training)
        made.scale_initialized = made.scale_initialized.to(device)
        if made.scale is not None:
            made.scale.data = made.scale.data.to(device)

        def become() -> None:
            layer.__class__ = cls
            layer.__dict__.update(made.__dict__)
            layer._let_calls_be_seen()  # type: ignore[operator]

        return become

    @torch.no_grad()
    def dequantize(self) -> None:
        """Become the plain layer again, in place, with the weights that test mode computes with.

        Raises
        ------
        RuntimeError
            If a first value is missing.
        """
        was_training = self.training
        self.eval()
        try:
            if not self.scale_is_ready():
                check_calibrating(self)
            w = self.quantized_weight()
        finally:
            self.train(was_training)
        if not isinstance(self.weight_quantizer, nn.Identity) or self.scale is not None:
            w = self.stored_order(w if self.scale is None else w * self.scale.abs())
            self.weight = nn.Parameter(w.clone(), requires_grad=self.weight.requires_grad)
        for name in ("weight_quantizer", "input_quantizer", "scale", "scale_initialized"):
            delattr(self, name)
        for key, hook in list(self._forward_pre_hooks.items()):
            if hook is calls_are_seen:
                del self._forward_pre_hooks[key]
        for name in ("methods", "standardized", "role_was_given", "_scale_ready", "_had_a_batch"):
            self.__dict__.pop(name, None)
        self.__class__ = self.plain  # type: ignore[assignment]

    def _let_calls_be_seen(self) -> None:
        """Have modules call the layer that otherwise would read its weights."""

    def output_first(self, w: Tensor) -> Tensor:
        """Arrange weights with the output channels along the first axis."""
        return w

    def stored_order(self, w: Tensor) -> Tensor:
        """Undo `output_first`."""
        return w

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``|s| (w_q * a_q) + bias`` (Eq. 3; the released code takes the scale's absolute value).

        Raises
        ------
        RuntimeError
            If a quantizer or the scale has no first value, and this is no time for it
            (`torchimpl.quantizers.base.check_calibrating`).
        ValueError
            If it is the first batch in training mode, and the weights have no levels (`check_weights`), or first values
            are to be taken, and the batch is empty or not finite, or a quantizer refuses its first data.
        """
        if isinstance(x, fx.Proxy):
            found: Tensor = as_leaf(self, x)
            return found
        on_integers = not self.training and self.scale_is_ready() and self.is_integral
        first = self.training and not torch.compiler.is_compiling() and (is_calibrating() or not self._had_a_batch)
        if first:
            out = self._from_first_batch(x)
        else:
            out = self._from_integers(x) if on_integers else self._from_values(x)
        return out if self.bias is None else out + self.bias.view(self.channel_shape).to(out.dtype)

    def _from_first_batch(self, x: Tensor) -> Tensor:
        with named(self):
            self.check_weights()
            self._look_at_signs(x)
            out = self._from_values(x)
        self._had_a_batch = True
        return out

    def _look_at_signs(self, x: Tensor) -> None:
        """Warn of negative inputs that would be quantized to 0 because nobody said whether there are any.

        It is a warning, and no refusal: behind GELU, SiLU or Hardswish a little below 0 may well be given up. Nor is
        the quantizer exchanged for a signed one: an optimizer may hold its parameters already.
        """
        quantizer = self.input_quantizer
        if self.role_was_given or not isinstance(quantizer, Quantizer) or quantizer.role != "activation":
            return
        magnitude = float(x.detach().abs().sum(dtype=torch.float64))
        lost = float(x.detach().clamp(max=0).abs().sum(dtype=torch.float64))
        if lost > 0 and math.isfinite(magnitude):
            warnings.warn(
                f"{self.label or _shown(self)}: {lost / magnitude:.0%} of its inputs' magnitude is negative, and "
                f"becomes 0: {type(quantizer).__name__} takes them to be behind a ReLU, as nothing was said. Pass "
                "example=..., from which quantize_model learns it, or input_role='signed_activation'; "
                "input_role='activation' says that it is meant.",
                UserWarning,
                stacklevel=2,
            )

    def _from_values(self, x: Tensor) -> Tensor:
        x_q, w_q = self.input_quantizer(x), self.quantized_weight()
        if not self.scale_is_ready():
            self._initialize_scale(x.detach(), x_q.detach(), w_q.detach())
        return self.linear_map(x_q, w_q if self.scale is None else w_q * self.scale.abs())

    def _from_integers(self, x: Tensor) -> Tensor:
        w = self.raw_weight()
        x_unit, w_unit = self.input_quantizer.unit(x), self.weight_quantizer.unit(w)
        sums = self._exact_sums(_integers(self.input_quantizer, x, x_unit), _integers(self.weight_quantizer, w, w_unit))
        return self._scaled(sums, x, x_unit, w_unit)

    def _scaled(self, sums: Tensor, x: Tensor, x_unit: Tensor | float, w_unit: Tensor | float) -> Tensor:
        """What sums of the integers of inputs like `x` are worth."""
        factor = self._by_channel(w_unit) * self._by_channel(x_unit)
        scaled = sums.to(wide(x)) * (factor if self.scale is None else factor * self.scale.abs())
        return scaled.to(_computing_type(x))

    @torch.no_grad()
    def output_of_sums(self, sums: Tensor) -> Tensor:
        """Return the layer's output in test mode where the sums of products of integers are `sums`.

        Parameters
        ----------
        sums : Tensor of float32, or of float64 where they pass 2^24, of the output's shape

        Returns
        -------
        Tensor of float32

        Raises
        ------
        ValueError
            If the layer does not compute with integers.

        Examples
        --------
        >>> from torchimpl import calibrate
        >>> layer = calibrate(QuantConv2d(1, 1, 1, method="lsq", bits=(2, 2)), torch.rand(2, 1, 8, 8)).eval()
        >>> x = torch.rand(1, 1, 2, 2)
        >>> sums = layer.input_quantizer.integers(x) * layer.weight_quantizer.integers(layer.raw_weight())
        >>> torch.equal(layer.output_of_sums(sums), layer(x))
        True
        """
        if not (self.is_integral and self._scale_ready):
            raise checks.refuse("layer", str(self), "one that computes with integers, with first values")
        like = torch.empty(0, dtype=torch.float32, device=sums.device)
        w = self.raw_weight()
        out = self._scaled(sums, like, self.input_quantizer.unit(like), self.weight_quantizer.unit(w))
        return out if self.bias is None else out + self.bias.view(self.channel_shape)

    def raw_weight(self) -> Tensor:
        """Return what the weight quantizer is given: the weights, standardised where the method has it.

        The first axis has the output channels, also where a transposed convolution keeps them elsewhere.
        """
        w = self.output_first(self.weight)
        return standardize(w) if self.standardized else w

    def linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply the layer's linear map, without bias.

        Parameters
        ----------
        x : Tensor of shape (N, C, ...), or (..., C) for a linear layer
        w : Tensor
            Shaped as `raw_weight` is: the K output channels along the first axis.

        Returns
        -------
        Tensor of shape (N, K, ...), or (..., K)
        """
        raise NotImplementedError

    def quantized_weight(self) -> Tensor:
        """Return the weights on their levels: standardised where the method has it, quantized, not scaled."""
        return self.weight_quantizer(self.raw_weight())

    # Integers

    @property
    def is_integral(self) -> bool:
        """Whether test mode convolves integers: inputs have one unit, weights one, or one an output channel."""
        if not all(isinstance(q, Quantizer) and q.is_integral for q in (self.weight_quantizer, self.input_quantizer)):
            return False
        by_weight, by_input = self.weight_quantizer.shape, self.input_quantizer.shape
        an_output_channel = len(by_weight) == self.weight.dim() and math.prod(by_weight[1:]) == 1
        return math.prod(by_input) == 1 and (math.prod(by_weight) == 1 or an_output_channel)

    def largest_sum(self) -> int:
        """Bound on the magnitude of any sum of products of integers: their number times the largest of each side."""
        terms = math.prod(self.output_first(self.weight).shape[1:])
        return terms * self.weight_quantizer.largest_integer * self.input_quantizer.largest_integer

    def _exact_sums(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply the linear map to integers, in a type that holds every partial sum.

        On a CPU sums of bfloat16 products are taken in float32 and rounded once.
        """
        kind = _computing_type(x)
        if kind != torch.bfloat16 or not x.is_cpu or self.largest_sum() > _largest_exact(torch.float32):
            types = (kind, torch.float32, torch.float64)
            kinds = [t for t in types if self.largest_sum() <= _largest_exact(t)]
            if not kinds:
                raise checks.refuse("largest sum of products", self.largest_sum(), "at most 2^53, which float64 holds")
            kind = kinds[0]
        if x.is_cpu and not _has_onednn():
            kind = torch.float64
        narrowed = torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False) if narrowed else nullcontext():
            sums = self.linear_map(x.to(kind), w.to(kind))
        return sums if x.is_cpu else sums.round()

    def _by_channel(self, unit: Tensor | float) -> Tensor | float:
        """Line a unit up with the channels of the output."""
        if isinstance(unit, float):
            return unit
        return unit.reshape(() if unit.numel() == 1 else self.channel_shape)

    # First values

    def check_weights(self) -> None:
        """Raise ValueError if the weights' levels depend on statistics that the weights do not have: all zero, say.

        Quantizers that take first values from the weights look at them by themselves.
        """
        quantizer = self.weight_quantizer
        if self.standardized:
            check_weights(self.weight, standardized=True)
        elif isinstance(quantizer, Quantizer) and quantizer.ready_at_once():
            with named(quantizer):
                quantizer.initialize(self.output_first(self.weight))

    @torch.no_grad()
    def _initialize_scale(self, x: Tensor, x_q: Tensor, w_q: Tensor) -> None:
        """Give the quantized output the mean magnitude of the full-precision one, of weights not standardised.

        That is the released code's rule; the paper says nothing on it.
        """
        check_calibrating(self)
        check_weights(self.weight, standardized=self.standardized)
        w = self.output_first(self.weight)
        quantized, full = (float(self.linear_map(*both).abs().mean()) for both in ((x_q, w_q), (x, w)))
        if not (math.isfinite(quantized) and math.isfinite(full)):
            means = (quantized, full)
            raise checks.refuse("mean magnitude of the first batch's outputs", means, "finite (is the batch empty?)")
        if self.scale is not None and quantized > 0:  # all-zero codes carry no scale: keep 1
            self.scale.fill_(full / quantized)
        self.mark_scale_initialized()

    @property
    def has_first_values(self) -> bool:
        """Whether the scale is set, where there is one."""
        return self._scale_ready

    def scale_is_ready(self) -> bool:
        """Whether the scale is set, if need be by a look at `scale_initialized`."""
        if not (self._scale_ready or torch.compiler.is_compiling() or self.scale_initialized.is_meta):
            self.notice_first_values()
        return self._scale_ready

    def notice_first_values(self) -> None:
        """Look at `scale_initialized`, which was set behind the module's back."""
        self._scale_ready = bool(self.scale_initialized)

    def mark_scale_initialized(self) -> None:
        """Say that the scale is set."""
        self._scale_ready = True
        self.scale_initialized.fill_(True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.notice_first_values()


def _shown(layer: nn.Module) -> str:
    return f"{type(layer).__name__}({layer.extra_repr()})"


def _integers(quantizer: Quantizer, x: Tensor, unit: Tensor | float) -> Tensor:
    """Integers of a quantizer, with the gradient of values over their unit."""
    q = quantizer.integers(x)
    if not torch.is_grad_enabled() or is_traced():  # a trace is compared with one without gradients
        return q
    v = quantizer(x.to(wide(x))) / unit
    return (v + (q - v).detach()).to(x.dtype)  # a difference of neighbours is exact, and so is the sum


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]


# As torch.compiler.assume_constant_result does, which imports the whole compiler: a second of each start
_has_onednn._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _computing_type(x: Tensor) -> torch.dtype:
    """The type in which a layer computes and of its output: that of `x`, or what autocast makes of it."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _largest_exact(kind: torch.dtype) -> float:
    """Up to here a floating-point type holds every integer: 2^24 for float32."""
    return 2 / torch.finfo(kind).eps


class _QuantConvolution(QuantizedLayer):
    """What the convolutions share: how they are built."""

    _conv_forward: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        method: str | tuple[str, str] = "daq",
        bits: Bits,
        input_role: str | None = None,
        standardized: bool | None = None,
        channelwise: bool | None = None,
        weight_options: Mapping[str, Any] | None = None,
        input_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
        self.plain.__init__(self, in_channels, out_channels, kernel_size, **geometry)
        each = ({**options, **(weight_options or {})}, {**options, **(input_options or {})})
        self._add_quantizers(method, bits, input_role, standardized, channelwise, *each)

    def linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        convolve: Callable[..., Tensor] = self._conv_forward
        return convolve(x, w, None)


class QuantConv2d(_QuantConvolution, nn.Conv2d):
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
    input_role : {"activation", "signed_activation"}, optional
        Whether the input comes from a ReLU; by default it does, unless the inputs' method knows signed ones only.
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

    channel_shape = (-1, 1, 1)
    plain = nn.Conv2d


class QuantConv1d(_QuantConvolution, nn.Conv1d):
    """Convolution over one axis; see `QuantConv2d`.

    >>> layer = QuantConv1d(3, 8, 3, padding=1, method="lsq", bits=(2, 2))
    >>> layer(torch.rand(1, 3, 4)).shape
    torch.Size([1, 8, 4])
    """

    channel_shape = (-1, 1)
    plain = nn.Conv1d


class QuantConv3d(_QuantConvolution, nn.Conv3d):
    """Convolution over three axes; see `QuantConv2d`.

    >>> layer = QuantConv3d(3, 8, 3, padding=1, method="lsq", bits=(2, 2))
    >>> layer(torch.rand(1, 3, 4, 4, 4)).shape
    torch.Size([1, 8, 4, 4, 4])
    """

    channel_shape = (-1, 1, 1, 1)
    plain = nn.Conv3d


class _QuantTransposed(QuantizedLayer):
    """What the transposed convolutions share. Torch keeps their output channels along the second axis, by groups."""

    map_: ClassVar[Callable[..., Tensor]]
    kernel_size: Any
    groups: int
    _output_padding: Any
    _wanted_size: Sequence[int] | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        *,
        method: str | tuple[str, str] = "daq",
        bits: Bits,
        input_role: str | None = None,
        standardized: bool | None = None,
        channelwise: bool | None = None,
        weight_options: Mapping[str, Any] | None = None,
        input_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        numbers = (stride, padding, output_padding, groups, bias, dilation)
        self.plain.__init__(self, in_channels, out_channels, kernel_size, *numbers)
        each = ({**options, **(weight_options or {})}, {**options, **(input_options or {})})
        self._add_quantizers(method, bits, input_role, standardized, channelwise, *each)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Compute as `QuantizedLayer.forward` does; `output_size` as in torch."""
        if output_size is None:
            return super().forward(x)
        self._wanted_size = output_size
        try:
            return super().forward(x)
        finally:
            self._wanted_size = None

    def linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        axes = len(self.kernel_size)
        numbers = (self.stride, self.padding, self.kernel_size, axes, self.dilation)
        added = self._output_padding(x, self._wanted_size, *numbers)
        geometry = (self.stride, self.padding, added, self.groups, self.dilation)
        return type(self).map_(x, self.stored_order(w), None, *geometry)

    def output_first(self, w: Tensor) -> Tensor:
        """Arrange weights (inputs, outputs of a group, ...) as (outputs, inputs of a group, ...)."""
        return w.reshape(self.groups, -1, *w.shape[1:]).transpose(1, 2).flatten(0, 1)

    def stored_order(self, w: Tensor) -> Tensor:
        """Undo `output_first`; it is its own inverse."""
        return w.reshape(self.groups, -1, *w.shape[1:]).transpose(1, 2).flatten(0, 1)


class QuantConvTranspose1d(_QuantTransposed, nn.ConvTranspose1d):
    """Transposed convolution over one axis; keywords as for `QuantConv2d`.

    >>> layer = QuantConvTranspose1d(3, 8, 2, stride=2, method="lsq", bits=(2, 2))
    >>> layer(torch.rand(1, 3, 4)).shape
    torch.Size([1, 8, 8])
    """

    channel_shape = (-1, 1)
    plain = nn.ConvTranspose1d
    map_ = staticmethod(nn.functional.conv_transpose1d)


class QuantConvTranspose2d(_QuantTransposed, nn.ConvTranspose2d):
    """Transposed convolution over two axes; keywords as for `QuantConv2d`.

    >>> layer = QuantConvTranspose2d(3, 8, 2, stride=2, method="lsq", bits=(2, 2))
    >>> layer(torch.rand(1, 3, 4, 4)).shape
    torch.Size([1, 8, 8, 8])
    """

    channel_shape = (-1, 1, 1)
    plain = nn.ConvTranspose2d
    map_ = staticmethod(nn.functional.conv_transpose2d)


class QuantConvTranspose3d(_QuantTransposed, nn.ConvTranspose3d):
    """Transposed convolution over three axes; keywords as for `QuantConv2d`.

    >>> layer = QuantConvTranspose3d(3, 8, 2, stride=2, method="lsq", bits=(2, 2))
    >>> layer(torch.rand(1, 3, 2, 2, 2)).shape
    torch.Size([1, 8, 4, 4, 4])
    """

    channel_shape = (-1, 1, 1, 1)
    plain = nn.ConvTranspose3d
    map_ = staticmethod(nn.functional.conv_transpose3d)


def calls_are_seen(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Do nothing, as a hook: nn.TransformerEncoderLayer calls layers that have one.

    In test mode without gradients it reads the weights of the others and computes the float network from them.
    """


class QuantLinear(QuantizedLayer, nn.Linear):  # type: ignore[misc]  # torch types bias as never None here
    """Linear layer with quantized weights and inputs; the keywords are those of `QuantConv2d`.

    Examples
    --------
    >>> layer = QuantLinear(8, 2, method="ste", bits=(2, 2))
    >>> layer(torch.rand(4, 8)).shape
    torch.Size([4, 2])
    """

    channel_shape = (-1,)
    plain = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        method: str | tuple[str, str] = "daq",
        bits: Bits,
        input_role: str | None = None,
        standardized: bool | None = None,
        channelwise: bool | None = None,
        weight_options: Mapping[str, Any] | None = None,
        input_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias)
        each = ({**options, **(weight_options or {})}, {**options, **(input_options or {})})
        self._add_quantizers(method, bits, input_role, standardized, channelwise, *each)
        self._let_calls_be_seen()

    def _let_calls_be_seen(self) -> None:
        if calls_are_seen not in self._forward_pre_hooks.values():
            self.register_forward_pre_hook(calls_are_seen)

    def linear_map(self, x: Tensor, w: Tensor) -> Tensor:
        return nn.functional.linear(x, w)


#: The quantized layer of each of torch's.
QUANTIZED: Mapping[type[nn.Module], type[QuantizedLayer]] = {
    kind.plain: kind
    for kind in (
        QuantConv1d, QuantConv2d, QuantConv3d, QuantLinear,
        QuantConvTranspose1d, QuantConvTranspose2d, QuantConvTranspose3d,
    )
}  # fmt: skip
