"""Write a quantized network as ONNX, in operators that every runtime has.

What a quantizer does in test mode is a staircase: a code for each interval of inputs, a level for each code. Where its
steps are is found on the quantizer itself, by bisection over all float32 numbers; so every method can be exported, and
a new one needs nothing.

**Two forms.** "operators" searches an input's interval among the steps, by one comparison a bit, and looks the level
up: codes are the network's for every input but NaN, which ends up in some interval, and layers that compute with
integers here (`torchimpl.layers`) do so there, with the same bits, as long as sums stay below 2^24 and the runtime adds
products. "qcdq" is what deployment tools read: QuantizeLinear, Clip, DequantizeLinear for inputs, and DequantizeLinear
of integer weights. It takes even grids; steps are then computed, and an input within a rounding error of one may fall
on its other side. QuantizeLinear rounds ties to even, so an input that is exactly on a step may, too.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reference import checks
from torchimpl.conversion import Example, leave_parametrized
from torchimpl.layers import QuantConvTranspose1d, QuantConvTranspose2d, QuantConvTranspose3d, QuantizedLayer
from torchimpl.quantizers.base import Quantizer

OPSET = 21
FORMS = ("qcdq", "operators")
EVEN = 1e-4  # share of a step by which an even grid may seem uneven, from rounding


def export_onnx(model: nn.Module, example: Example, path: str | Path, form: str = "qcdq") -> Path:
    """Write a network in test mode to an ONNX file.

    Parameters
    ----------
    model : Module
        With quantized layers, or quantizers as modules or parametrizations, all with first values. It stays as it is.
    example : Tensor, tuple or mapping
        What it is called with, by position or by keyword. Where the first axis has two entries or more, its size is
        left open.
    path : path
        Of the file, which is one, and replaced if it exists.
    form : {"qcdq", "operators"}
        See above. "qcdq" takes inputs with one set of parameters a layer, and even grids: from 2 bits on neither inputs
        of APoT, QNet and Soft-to-hard nor the codebooks of LQ-Nets.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        If there is no such form, nothing is quantized, a parameter is out of range, or a layer has no even grid, which
        is named.
    RuntimeError
        If a quantizer has no first values.
    ImportError
        If onnx or onnxscript is missing.

    Examples
    --------
    >>> from torchimpl import calibrate
    >>> from torchimpl.layers import QuantLinear
    >>> images = torch.rand(4, 8)
    >>> layer = calibrate(QuantLinear(8, 2, method="lsq", bits=(4, 4)), images)
    >>> export_onnx(layer, images, "layer.onnx")  # doctest: +SKIP
    PosixPath('layer.onnx')
    """
    if form not in FORMS:
        raise checks.refuse("form", form, f"one of {', '.join(FORMS)}")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"export_onnx needs {' and '.join(missing)}: pip install 'quantgap[onnx]'")
    plain = for_export(model, form)
    args, keywords = ((), dict(example)) if isinstance(example, Mapping) else (_as_tuple(example), {})
    shapes: Any = {k: _open(v) for k, v in keywords.items()} if keywords else tuple(map(_open, args))
    with torch.no_grad():
        torch.onnx.export(
            plain, args, str(path), kwargs=keywords or None, dynamic_shapes=shapes, dynamo=True, opset_version=OPSET,
            external_data=False, verbose=False,
        )  # fmt: skip
    return Path(path)


def for_export(model: nn.Module, form: str) -> nn.Module:
    """Return a copy in test mode and float32 whose quantizers are made of the form's operators.

    Errors are those of `export_onnx`.
    """
    plain = copy.deepcopy(getattr(model, "_orig_mod", model)).float().eval().requires_grad_(False)
    parts = list(plain.named_modules())
    within = {
        id(own) for _, part in parts if isinstance(part, QuantizedLayer) for own in part.modules() if own is not part
    }
    found = 0
    for name, part in parts:
        if parametrize.is_parametrized(part):
            chains: Any = part.parametrizations
            within |= {id(own) for own in chains.modules()}
            for parameter in [n for n, chain in chains.items() if any(isinstance(step, Quantizer) for step in chain)]:
                _check_ready(name, chains[parameter])
                leave_parametrized(part, parameter)
                found += 1
        if isinstance(part, QuantizedLayer):
            _check_ready(name, part)
            _export_layer(name, part, form)
            found += 1
        elif isinstance(part, Quantizer) and id(part) not in within:
            _check_ready(name, part)
            part.exported = _of_inputs(name, part, form, integers=False)
            part.forward = part.exported.forward  # type: ignore[method-assign]
            found += 1
    if not found:
        raise checks.refuse("model", type(model).__name__, "one with quantized layers")
    return plain


def _as_tuple(example: Any) -> tuple[Any, ...]:
    return tuple(example) if isinstance(example, tuple | list) else (example,)


def _open(value: Any) -> Any:
    batch = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] > 1
    return {0: torch.export.Dim.AUTO} if batch else None


def _check_ready(name: str, part: nn.Module) -> None:
    for own in part.modules():
        if isinstance(own, Quantizer | QuantizedLayer):
            own.notice_first_values()
            if not own.has_first_values:
                whose = name or type(part).__name__
                raise RuntimeError(f"{whose} has no first values. Call torchimpl.calibrate(model, images) first")


# Staircases


@dataclass(frozen=True)
class Staircase:
    """A quantizer in test mode.

    Attributes
    ----------
    steps : ndarray of float32, shape (K, ...)
        The greatest input that has at most code 0, 1, ...; the other axes are those of the quantizer's parameters.
    levels : ndarray of float32, shape (K + 1, ...)
        The values of the codes.
    integers : ndarray of float32, shape (K + 1,)
        The integers of the codes, where values are a unit times these.
    """

    steps: np.ndarray[Any, Any]
    levels: np.ndarray[Any, Any]
    integers: np.ndarray[Any, Any]


LARGEST = float(np.finfo(np.float32).max)


@torch.no_grad()
def staircase(quantizer: Quantizer) -> Staircase:
    """Find the steps and levels of a quantizer of inputs.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    >>> from torchimpl.quantizers import build
    >>> found = staircase(build("pact", bits=1, role="activation"))  # alpha is 10
    >>> found.steps.tolist(), found.levels.tolist()
    ([5.0], [0.0, 10.0])
    """
    quantizer = copy.deepcopy(quantizer).cpu().float().eval()
    shape = quantizer.shape
    ends = torch.tensor([-LARGEST, LARGEST]).reshape(2, *[1] * len(shape)).expand(2, *shape)
    top = int(quantizer.codes(ends[1:]).max())
    wanted = torch.arange(top).reshape(-1, *[1] * len(shape)).expand(top, *shape)
    low = np.full(wanted.shape, _order(np.float32(-LARGEST)) - 1, dtype=np.int64)  # has at most the code
    high = np.full(wanted.shape, _order(np.float32(LARGEST)) + 1, dtype=np.int64)  # has more
    while (high - low > 1).any():
        middle = (low + high) // 2
        at_most = (quantizer.codes(torch.from_numpy(_number(middle))) <= wanted).numpy()
        low, high = np.where(at_most, middle, low), np.where(at_most, high, middle)
    codes = torch.arange(top + 1)
    levels = quantizer.decode(codes.float().reshape(-1, *[1] * len(shape)).expand(top + 1, *shape))
    table = quantizer.table or [quantizer.lowest + quantizer.stride * k for k in range(top + 1)]
    return Staircase(_number(low), levels.numpy(), np.array(table[: top + 1], dtype=np.float32))


def _order(x: np.float32) -> int:
    """Number the float32 numbers in their order; both zeros are 0."""
    bits = int(x.view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Undo `_order`; beyond the ends are infinities."""
    bits = np.abs(order).astype(np.int32)
    return np.where(order < 0, -1, 1).astype(np.float32) * bits.view(np.float32)


# Operators


def _call(operator: str, inputs: tuple[Tensor, ...], like: Tensor, dtype: torch.dtype, **attributes: Any) -> Tensor:
    """Put one ONNX operator, whose output has the shape of `like`, into the graph."""
    found: Tensor = torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=dtype, shape=like.shape, version=OPSET)
    return found


class Levels(nn.Module):
    """A staircase by comparisons: the code by bisection among the steps, one bit after the other, then the level."""

    def __init__(self, found: Staircase, *, integers: bool) -> None:
        super().__init__()
        values = found.integers if integers else found.levels
        self.channels = math.prod(found.steps.shape[1:])
        self.bits = max(len(found.steps), 1).bit_length()
        steps = np.full((2**self.bits, self.channels), np.inf, dtype=np.float32)  # no number is above the added ones
        steps[: len(found.steps)] = found.steps.reshape(len(found.steps), -1)
        levels = np.repeat(values.reshape(len(values), -1)[-1:], 2**self.bits, 0)
        levels[: len(values)] = values.reshape(len(values), -1)
        levels = np.broadcast_to(levels, (2**self.bits, self.channels))
        self.register_buffer("steps", torch.from_numpy(np.ascontiguousarray(steps.T.reshape(-1))))
        self.register_buffer("levels", torch.from_numpy(np.array(levels.T.reshape(-1))))
        start = torch.arange(self.channels) * 2**self.bits
        self.register_buffer("start", start.reshape(found.steps.shape[1:]) if self.channels > 1 else torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize; the shape is kept."""
        steps, levels, start = self.get_buffer("steps"), self.get_buffer("levels"), self.get_buffer("start")
        code = start
        for bit in reversed(range(self.bits)):
            step = _call("Gather", (steps, code + (2**bit - 1)), code, torch.float32)
            code = torch.where(x > step, code + 2**bit, code)
        return _call("Gather", (levels, code), x, torch.float32)


class QuantizeClip(nn.Module):
    """An even staircase: QuantizeLinear, Clip and DequantizeLinear, with offsets where 0 is no level."""

    def __init__(self, found: Affine) -> None:
        super().__init__()
        self.subtracted, self.added = found.subtracted, found.added
        self.dtype = found.dtype
        for name, value in (("scale", found.scale), ("unit", found.unit)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        for name, integer in (("zero", found.zero), ("least", found.least), ("most", found.most)):
            self.register_buffer(name, torch.tensor(integer, dtype=found.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize; the shape is kept."""
        scale, unit, zero, least, most = map(self.get_buffer, ("scale", "unit", "zero", "least", "most"))
        x = x - self.subtracted if self.subtracted else x
        q = _call("QuantizeLinear", (x, scale, zero), x, self.dtype)
        q = _call("Clip", (q, least, most), x, self.dtype)
        x = _call("DequantizeLinear", (q, unit, zero), x, torch.float32)
        return x + self.added if self.added else x


@dataclass(frozen=True)
class Affine:
    """``unit * (clip(round((x - subtracted) / scale) + zero, least, most) - zero) + added``, in integers of 8 bits."""

    subtracted: float
    scale: float
    zero: int
    least: int
    most: int
    dtype: torch.dtype
    unit: float
    added: float


def affine(found: Staircase) -> Affine | None:
    """Return an even staircase as what QuantizeLinear computes; None if it is uneven, or has channels.

    >>> from torchimpl.quantizers import build
    >>> affine(staircase(build("pact", bits=2, role="activation"))).most
    3
    """
    steps, levels = found.steps.astype(np.float64), found.levels.astype(np.float64)
    top = len(steps)
    if steps.ndim > 1 or not np.isfinite(steps).all():
        return None
    unit = float((levels[-1] - levels[0]) / top)
    if top == 1:
        # One step fixes no scale: where 0 is a level it is twice the step, else the levels' distance.
        scale = 2 * float(steps[0]) if levels[0] == 0 and steps[0] > unit * EVEN else unit
    else:
        scale = float((steps[-1] - steps[0]) / (top - 1))
    even_steps = np.abs(steps - (steps[0] + scale * np.arange(top))).max() <= EVEN * scale
    even_levels = np.abs(levels - (levels[0] + unit * np.arange(top + 1))).max() <= EVEN * abs(unit)
    if not (scale > 0 and unit > 0 and even_steps and even_levels):
        return None
    start = float(steps[0]) - scale / 2  # the middle of code 0
    first = round(start / scale)
    if abs(start - first * scale) > EVEN * scale or not -255 <= first <= 255 - top:  # 0 is in no middle
        return _nudged(found, Affine(start, scale, 0, 0, top, torch.uint8, unit, float(levels[0])))
    if 0 <= 1 - first <= top and abs(float(levels[1 - first]) / unit - 1) < EVEN / top:
        unit = float(levels[1 - first])  # the level next to 0 is one, without a rounding error
    if abs(scale / unit - 1) < EVEN / top:
        scale = unit
    added = float(levels[0]) - unit * first
    added = 0.0 if abs(added) <= EVEN * unit else added
    fits = first >= 0 or (first >= -128 and first + top <= 127)
    zero, dtype = (0, torch.uint8 if first >= 0 else torch.int8) if fits else (-first, torch.uint8)
    return Affine(0.0, scale, zero, first + zero, first + top + zero, dtype, unit, added)


def _nudged(found: Staircase, made: Affine) -> Affine:
    """Move the offset of a single step by a rounding error, if the step falls on a tie that rounding to even lowers."""
    subtracted = np.float32(made.subtracted)
    above = np.nextafter(found.steps[0], np.float32(np.inf))
    if made.most == 1 and np.rint((above - subtracted) / np.float32(made.scale)) < 1:
        subtracted = np.nextafter(subtracted, np.float32(-np.inf))
    return Affine(float(subtracted), *[getattr(made, name) for name in list(made.__dataclass_fields__)[1:]])


def _of_inputs(name: str, quantizer: nn.Module, form: str, *, integers: bool) -> nn.Module:
    """Return what stands for a quantizer of inputs."""
    if not isinstance(quantizer, Quantizer):
        return nn.Identity()
    try:
        found = staircase(quantizer)
    except ValueError as error:
        raise ValueError(f"{name or 'the layer'}: {error}") from None
    if form == "operators":
        return Levels(found, integers=integers)
    made = affine(found)
    if made is None:
        raise _uneven(name, quantizer)
    return QuantizeClip(made)


def _uneven(name: str, quantizer: Quantizer) -> ValueError:
    shown = f"{type(quantizer).__name__}({quantizer.extra_repr()})"
    return checks.refuse(
        f"quantizer of {name or 'the layer'}",
        shown,
        "one with an even grid, for QuantizeLinear (form='operators' takes all)",
    )


class IntegerWeights(nn.Module):
    """Weights as integers: DequantizeLinear, along the first axis where there is a scale for each output."""

    def __init__(self, integers: Tensor, unit: Tensor, added: Tensor | None) -> None:
        super().__init__()
        ends = int(integers.min()), int(integers.max())
        small = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int32: (-(2**31), 2**31 - 1)}
        dtype = next(kind for kind, (least, most) in small.items() if least <= ends[0] and ends[1] <= most)
        self.register_buffer("integers", integers.to(dtype))
        self.register_buffer("unit", unit.float())
        self.register_buffer("added", added)

    def forward(self) -> Tensor:
        """Return the weights."""
        integers, unit, added = self.get_buffer("integers"), self.get_buffer("unit"), self._buffers["added"]
        axis = {"axis": 0} if unit.dim() else {}
        w = _call("DequantizeLinear", (integers, unit), integers, torch.float32, **axis)
        return w if added is None else w + added


@torch.no_grad()
def _integer_weights(name: str, layer: QuantizedLayer) -> IntegerWeights:
    """Return a layer's weights, times its scale, as integers; raises ValueError if their grid is uneven."""
    quantizer, w, scale = layer.weight_quantizer, layer.raw_weight(), 1.0 if layer.scale is None else layer.scale.abs()
    if quantizer.is_integral:
        unit = torch.as_tensor(quantizer.unit(w), dtype=torch.float32)
        unit = unit.reshape(()) if unit.numel() == 1 else unit.reshape(-1)
        return IntegerWeights(quantizer.integers(w), unit * scale, None)
    codes, values = quantizer.codes(w), quantizer(w)
    rows, of_codes = values.reshape(len(values), -1).double(), codes.reshape(len(values), -1).double()
    if not quantizer.shape:
        rows, of_codes = rows.reshape(1, -1), of_codes.reshape(1, -1)
    last, first = of_codes.argmax(1, keepdim=True), of_codes.argmin(1, keepdim=True)
    span = of_codes.gather(1, last) - of_codes.gather(1, first)
    unit = torch.where(span > 0, (rows.gather(1, last) - rows.gather(1, first)) / span, 1.0)
    added = rows.gather(1, first) - unit * of_codes.gather(1, first)
    if bool(((rows - (added + unit * of_codes)).abs() > EVEN * unit).any()):
        raise _uneven(f"{name or 'the layer'}'s weights", quantizer)
    shape = (-1, *[1] * (w.dim() - 1)) if len(unit) > 1 else ()
    unit = unit.reshape(-1) if len(unit) > 1 else unit.reshape(())
    return IntegerWeights(codes, unit * scale, (added.reshape(shape) * scale).float())


@torch.no_grad()
def _export_layer(name: str, layer: QuantizedLayer, form: str) -> None:
    """Give a layer the form's operators, in place: with the weights' values, or with integers where it computes so."""
    by_integers = form == "operators" and layer.is_integral
    inputs = _of_inputs(f"{name or 'the layer'}'s inputs", layer.input_quantizer, form, integers=by_integers)
    of_weights: IntegerWeights | None = None
    factor: Tensor | None = None
    if by_integers:
        w = layer.raw_weight()
        units = (layer.weight_quantizer.unit(w), layer.input_quantizer.unit(torch.empty(0)))
        by_channel = torch.as_tensor(layer._by_channel(units[0]) * layer._by_channel(units[1]), dtype=torch.float32)
        factor = by_channel if layer.scale is None else by_channel * layer.scale.abs()
        weight = layer.weight_quantizer.integers(w)
    elif form == "qcdq" and isinstance(layer.weight_quantizer, Quantizer):
        of_weights, weight = _integer_weights(name, layer), layer.weight
    else:
        weight = layer.quantized_weight()
        weight = weight if layer.scale is None else weight * layer.scale.abs()
    bias = None if layer.bias is None else layer.bias.detach().view(layer.channel_shape)
    layer.exported = _Layer(layer, inputs, of_weights, None if of_weights else weight, factor, bias)
    for own in ("weight_quantizer", "input_quantizer", "scale"):
        setattr(layer, own, None)
    layer.forward = layer.exported.forward  # type: ignore[method-assign]


class _Layer(nn.Module):
    """A layer's linear map of what stands for its quantizers."""

    def __init__(
        self,
        layer: QuantizedLayer,
        inputs: nn.Module,
        of_weights: IntegerWeights | None,
        weight: Tensor | None,
        factor: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        super().__init__()
        self.inputs, self.of_weights = inputs, of_weights
        for name, value in (("constant", weight), ("factor", factor), ("offset", bias)):
            self.register_buffer(name, None if value is None else value.detach().clone())
        self._layer = (layer,)  # no submodule: it holds this one

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Compute as the layer does in test mode."""
        (layer,) = self._layer
        w = self.get_buffer("constant") if self.of_weights is None else self.of_weights()
        if isinstance(layer, QuantConvTranspose1d | QuantConvTranspose2d | QuantConvTranspose3d):
            layer._wanted_size = output_size
        out = layer.linear_map(self.inputs(x), w)
        factor, offset = self._buffers["factor"], self._buffers["offset"]
        out = out if factor is None else out * factor
        return out if offset is None else out + offset
