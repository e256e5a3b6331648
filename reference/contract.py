"""What every quantizer meets: properties that can be checked on any implementation, the suite's or anybody's.

An implementation is handed over as a `Quantizer`, functions over numpy arrays, so that numpy, compiled and PyTorch
code meet the same checks. Each check raises AssertionError with the call, the element, what came and what was
expected. A property that a method does not have is exempt, with its reason; `counterexample` demands that the reason
is true.

>>> from reference import lsq
>>> params = lsq.Params(0.5, bits=2, role="weight")
>>> subject = of_reference(lsq, params)
>>> check(subject, np.array([-3.0, 0.2, 0.25, 0.9]))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.grid import Array, as_float, refuse
from reference.registry import Reference

Gradients = tuple[Array, dict[str, Array]]


@dataclass(frozen=True)
class Quantizer:
    """A quantizer with its parameters set, as the contract sees it.

    Attributes
    ----------
    name : str
        For messages.
    bits : int
        There are at most 2^bits levels.
    forward : callable
        Array to the quantized values as test mode has them, of the same shape and dtype.
    codes : callable
        Array to the integers 0, 1, ... that number the levels; raises ValueError on NaN.
    decode : callable
        Codes, as floating point numbers of the wanted dtype, to values.
    vjp : callable
        Array and gradient of the loss for the output, to the gradients for the input and, by name, the parameters.
    exempt : mapping
        Properties that the method does not have, with the reason.
    from_whole_tensor : bool
        Whether statistics of all elements shape the result of each, so that one NaN reaches all.
    """

    name: str
    bits: int
    forward: Callable[[Array], Array]
    codes: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    vjp: Callable[[Array, Array], Gradients]
    exempt: Mapping[str, str] = dataclasses.field(default_factory=dict)
    from_whole_tensor: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.exempt) - set(PROPERTIES))
        if unknown:
            raise refuse("exempt", unknown, "names of properties: " + ", ".join(PROPERTIES))


def of_reference(module: Reference[Any], params: Any) -> Quantizer:
    """Hand over a reference module and its parameters."""
    return Quantizer(
        name=f"{module.METHOD.name} with {params}",
        bits=params.bits,
        forward=lambda x: module.forward(x, params, training=False),
        codes=lambda x: module.codes(x, params),
        decode=lambda q: module.decode(q, params),
        vjp=lambda x, grad: module.vjp(x, params, grad),
        exempt=module.METHOD.exempt,
    )


def level_set(quantizer: Quantizer, dtype: Any = np.float64) -> Array:
    """Return the values of the codes 0, 1, ... up to the code of infinity; one column a channel, if there are any."""
    highest = int(quantizer.codes(np.array(math.inf)).max())
    q = np.arange(highest + 1, dtype=dtype)
    one = quantizer.decode(q[:1])
    return quantizer.decode(q if one.ndim < 2 else q.reshape(-1, *[1] * one.ndim))


def transition_points(quantizer: Quantizer, dtype: Any, limit: float = 2.0**20) -> Array:
    """Return, for each two neighbouring codes, the greatest number of the dtype that still has the lower of them.

    Found by bisection between -limit and limit over the floating point numbers themselves, whatever the method is.

    >>> from reference import lsq
    >>> transition_points(of_reference(lsq, lsq.Params(1.0, 2, "weight")), np.float64)
    array([-1.5, -0.5,  0.5])
    """
    bits, kind = (np.int32, np.float32) if dtype == np.float32 else (np.int64, np.float64)
    highest = int(quantizer.codes(np.array(limit, dtype)).max())

    def number(order: Array) -> Array:
        """The float of this rank: floats are ordered as the integers of their bits are, the sign apart."""
        return np.where(order < 0, -1, 1).astype(kind) * np.abs(order).astype(bits).view(kind)

    top = int(np.array(limit, kind).view(bits))
    low, high = np.full(highest, -top, np.int64), np.full(highest, top, np.int64)
    while (high // 2 - low // 2 > 1).any() or (high - low > 1).any():
        middle = low // 2 + high // 2 + (low & high & 1)
        below = quantizer.codes(number(middle)) <= np.arange(highest)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return number(low)


# Properties


def values_are_levels(quantizer: Quantizer, x: Array) -> None:
    """At most 2^bits levels, ascending; every value is the level that its code numbers, bit for bit."""
    levels = level_set(quantizer)
    expect(len(levels) <= 2**quantizer.bits, f"{quantizer.name} has {len(levels)} levels, more than 2^bits")
    expect((np.diff(levels, axis=0) > 0).all(), f"the levels of {quantizer.name} do not ascend: {levels}")
    q, values = quantizer.codes(x), quantizer.forward(x)
    expect(q.dtype.kind == "i", f"{quantizer.name}: codes have the type {q.dtype}")
    expect(((q >= 0) & (q < len(levels))).all(), f"{quantizer.name}: codes({x!r}) = {q}")
    same(f"{quantizer.name}: forward({x!r})", values, quantizer.decode(q.astype(x.dtype)))


def levels_stay(quantizer: Quantizer, x: Array) -> None:
    """Idempotence: levels are quantized to themselves."""
    values = quantizer.forward(x)
    same(f"{quantizer.name}: codes(forward({x!r}))", quantizer.codes(values), quantizer.codes(x))
    same(f"{quantizer.name}: forward(forward({x!r}))", quantizer.forward(values), values)


def monotone(quantizer: Quantizer, x: Array) -> None:
    """A larger input has no smaller code."""
    x = np.sort(x, axis=-1) if x.ndim else x
    q = quantizer.codes(x)
    expect(x.ndim == 0 or (np.diff(q, axis=-1) >= 0).all(), f"{quantizer.name}: codes({x!r}) = {q}")


def infinities_clip(quantizer: Quantizer, x: Array) -> None:
    """-inf and inf go to the lowest and the highest level."""
    del x
    infinity = np.array(math.inf)
    lowest, highest = quantizer.codes(-infinity), quantizer.codes(infinity)
    expect(bool((lowest == 0).all() and (highest > 0).all()), f"{quantizer.name}: codes(-+inf) = {lowest}, {highest}")
    for end, q in ((-infinity, lowest), (infinity, highest)):
        same(f"{quantizer.name}: forward({end})", quantizer.forward(end), quantizer.decode(q.astype(np.float64)))


def nan_gives_nan(quantizer: Quantizer, x: Array) -> None:
    """NaN has a NaN value and no code, and leaves other elements alone."""
    if x.size < 2:
        return
    holed = x.copy()
    holed.flat[0] = math.nan
    want = quantizer.forward(x)
    want.flat[0] = math.nan
    got = quantizer.forward(holed)
    if quantizer.from_whole_tensor:
        got = np.where(np.isnan(got), want, got)
        got.flat[0] = quantizer.forward(holed).flat[0]
    same(f"{quantizer.name}: forward({holed!r})", got, want)
    try:
        q = quantizer.codes(holed)
    except ValueError as error:
        expect("NaN" in str(error), f"{quantizer.name}: codes of NaN are refused without saying so: {error}")
    else:
        expect(False, f"{quantizer.name}: codes({holed!r}) = {q}, expected ValueError")


def order_does_not_matter(quantizer: Quantizer, x: Array) -> None:
    """Permuting the elements along the last axis (within a channel) permutes the values."""
    if x.ndim:
        order = np.roll(np.arange(x.shape[-1])[::-1], x.shape[-1] // 3)
        want = quantizer.forward(x)[..., order]
        same(f"{quantizer.name}: forward({x!r}) permuted by {order}", quantizer.forward(x[..., order]), want)


def calls_repeat(quantizer: Quantizer, x: Array) -> None:
    """Forward and backward give the same bits again, and leave their arguments as they were."""
    before, grad = x.copy(), cotangents(x)
    first, first_grads = quantizer.forward(x), quantizer.vjp(x, grad)
    same(f"{quantizer.name}: the second forward({x!r})", quantizer.forward(x), first)
    second_grads = quantizer.vjp(x, grad)
    same(f"{quantizer.name}: the second gradient for {x!r}", second_grads[0], first_grads[0])
    for name, value in first_grads[1].items():
        same(f"{quantizer.name}: the second gradient for {name}", second_grads[1][name], value)
    same(f"{quantizer.name}: its input", x, before)


def type_and_shape_stay(quantizer: Quantizer, x: Array) -> None:
    """Values have the shape and the type of the input, and so has its gradient; empty and 0-d inputs too."""
    for array in (x, x[..., :0] if x.ndim else x, x.reshape(-1)[:1].reshape(()) if x.size else x):
        value = quantizer.forward(array)
        got = (value.shape, value.dtype)
        expect(got == (array.shape, x.dtype), f"{quantizer.name}: forward({array!r}) is {got}")
        grad = quantizer.vjp(array, cotangents(array))[0]
        got = (grad.shape, grad.dtype)
        expect(got == (array.shape, x.dtype), f"{quantizer.name}: the gradient for {array!r} is {got}")


def linear_in_the_gradient(quantizer: Quantizer, x: Array) -> None:
    """Twice the incoming gradient is twice every gradient: exact, but for subnormal numbers."""
    grad = cotangents(x)
    (once_x, once), (twice_x, twice) = quantizer.vjp(x, grad), quantizer.vjp(x, 2 * grad)
    near(f"{quantizer.name}: vjp({x!r})", twice_x, 2 * once_x, _subnormal(x))
    for name, value in once.items():  # which may be held in another type
        bound = max(_subnormal(x), _subnormal(value))
        near(f"{quantizer.name}: gradient of {name} for {x!r}", twice[name], 2 * value, bound)


PROPERTIES: dict[str, Callable[[Quantizer, Array], None]] = {
    "levels": values_are_levels,
    "idempotence": levels_stay,
    "monotone": monotone,
    "infinities": infinities_clip,
    "nan": nan_gives_nan,
    "order": order_does_not_matter,
    "repeated calls": calls_repeat,
    "type and shape": type_and_shape_stay,
    "linear gradient": linear_in_the_gradient,
}


def check(quantizer: Quantizer, x: Array) -> None:
    """Check every property that the quantizer is not exempt from, on the finite inputs `x`.

    Raises
    ------
    AssertionError
        At the first that does not hold.
    ValueError
        If `x` is not an array of finite numbers.
    """
    x = as_float(x)
    if not np.isfinite(x).all():
        raise refuse("x", x.tolist(), "finite numbers")
    for name, property_ in PROPERTIES.items():
        if name not in quantizer.exempt:
            property_(quantizer, x)


def counterexample(quantizer: Quantizer, name: str, x: Array) -> bool:
    """Tell whether `x` shows that the property `name` does not hold."""
    try:
        PROPERTIES[name](quantizer, x)
    except AssertionError:
        return True
    return False


# Gradients against the surrogate


def gradients_are_those_of_the_surrogate(module: Reference[Any], params: Any, x: Array) -> None:
    """`vjp` is the derivative of ``surrogate``, by central differences in float64.

    ``surrogate(x, params, at=(x0, params0))`` is the function that training claims to differentiate at (x0, params0):
    whatever has no derivative (which level, which side of the clip range, detached quantities) is taken at x0, params0
    and stays as it is while x and params move.
    """
    x = np.asarray(x, np.float64)
    grad = cotangents(x)
    got_x, got_params = module.vjp(x, params, grad)
    name = f"{module.METHOD.name}.vjp({x!r}, {params})"
    expect(set(got_params) == set(module.METHOD.learnable), f"{name} has gradients for {sorted(got_params)}")

    def loss(value: Array, parameters: Any) -> float:
        return math.fsum((grad * module.surrogate(value, parameters, at=(x, params))).ravel())

    def difference(at: Array, move: Callable[[Array], float]) -> Array:
        found = np.zeros_like(at)
        for i in np.ndindex(at.shape):
            step = 2e-6 * max(abs(float(at[i])), 0.1)
            for multiple, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):  # of fourth order
                moved = at.copy()
                moved[i] += multiple * step
                found[i] += weight * move(moved) / (12 * step)
        return found

    scale = float(np.abs(grad).sum()) + 1
    # Rounding: of values of some 10, over a step of 2e-7 at least.
    want_x = difference(x, lambda moved: loss(moved, params))
    near(f"{name}, for x", got_x, want_x, 3e-6 * (np.abs(want_x) + scale * 1e-2))
    for parameter, got in got_params.items():
        at = np.array(getattr(params, parameter), np.float64)

        def moved_parameter(moved: Array, parameter: str = parameter) -> float:
            return loss(x, dataclasses.replace(params, **{parameter: moved}))

        want = difference(at, moved_parameter)
        near(f"{name}, for {parameter}", got, want, 3e-6 * (np.abs(want) + scale))


def parameters_receive_gradients(quantizer: Quantizer, x: Array, learned: Collection[str]) -> None:
    """Every learned parameter has a nonzero gradient for `x`, which must lie on both sides of and in the range."""
    _, found = quantizer.vjp(x, cotangents(x))
    for name in learned:
        value = found.get(name, np.zeros(()))
        expect(bool((np.abs(value) > 1e-9).all()), f"{quantizer.name}: the gradient for {name} is {value}")


# One implementation against another


def agrees(ours: Quantizer, theirs: Quantizer, x: Array, *, distance: Array, bound: float) -> None:
    """Two implementations have the same bits, or the same codes and values within a bound.

    Parameters
    ----------
    ours, theirs : Quantizer
        With the same parameters; `ours` is called with `x`, `theirs` with `x` as it is for the bits to be the same,
        and in float64 otherwise.
    distance : ndarray
        Of the value that is rounded from the nearest transition point, in levels.
    bound : float
        0 for the same bits; otherwise in units of the last place. Codes may differ (by one) where `distance` is
        within it.
    """
    expression = f"{ours.name} at {x!r}"
    if bound == 0:
        same(f"{expression}: codes", ours.codes(x), theirs.codes(x))
        same(f"{expression}: forward", ours.forward(x), theirs.forward(x))
        return
    wide = x.astype(np.float64)
    error = bound * float(np.finfo(x.dtype).eps)
    got, want = ours.codes(x), theirs.codes(wide)
    near_tie = distance <= error * (2**ours.bits)
    expect(bool(((got == want) | near_tie & (abs(got - want) == 1)).all()), f"{expression}: codes {got}, not {want}")
    value, expected = ours.forward(x).astype(np.float64), theirs.decode(got.astype(np.float64))
    near(f"{expression}: forward", value, expected, error * np.abs(level_set(theirs)).max())


def scales_with_its_parameters(module: Reference[Any], params: Any, x: Array, factor: float) -> None:
    """With input and parameters multiplied by a power of two, the codes stay; the values stay or are multiplied."""
    names = [name for name in module.METHOD.in_input_units or () if getattr(params, name) is not None]
    scaled = dataclasses.replace(params, **{name: getattr(params, name) * factor for name in names})
    expression = f"{module.METHOD.name} at {x!r} times {factor}, {scaled}"
    same(f"{expression}: codes", module.codes(x * x.dtype.type(factor), scaled), module.codes(x, params))
    got = module.forward(x * x.dtype.type(factor), scaled, training=False)
    want = module.forward(x, params, training=False)
    kept = bool((got == want).all())
    same(f"{expression}: forward", got, want if kept else want * x.dtype.type(factor))


# Comparing


def cotangents(x: Array) -> Array:
    """A gradient of the loss for `x`, of its shape and type: numbers that tell elements apart."""
    return (1 + np.arange(x.size, dtype=x.dtype).reshape(x.shape) % 7) / 4


def expect(holds: bool | np.bool_, message: str) -> None:
    """Raise AssertionError with `message` unless `holds`; unlike a bare assert, also under ``python -O``."""
    if not holds:
        raise AssertionError(message)


def same(expression: str, got: Any, want: Any) -> None:
    """Raise unless type, shape and bits are equal; one NaN is as good as another, and 0 is not -0."""
    got, want = np.asarray(got), np.asarray(want)
    expect(got.dtype == want.dtype, f"{expression} is {got.dtype}, expected {want.dtype}")
    expect(got.shape == want.shape, f"{expression} has shape {got.shape}, expected {want.shape}")
    equal = (got == want) & (np.signbit(got) == np.signbit(want)) | np.isnan(got) & np.isnan(want)
    if not equal.all():
        i = np.unravel_index(np.argmin(equal), equal.shape)
        expect(False, f"{expression}: element {_index(i)} is {got[i]!r}, expected the same bits as {want[i]!r}")


def near(expression: str, got: Any, want: Any, bound: Any) -> None:
    """Raise, showing the worst element, unless shapes are equal and ``|got - want| <= bound`` everywhere."""
    got, want = np.asarray(got), np.asarray(want)
    expect(got.shape == want.shape, f"{expression} has shape {got.shape}, expected {want.shape}")
    error = np.abs(got.astype(np.float64) - want)
    excess = np.where(np.isnan(error), np.inf, error - bound)
    if excess.size and excess.max() > 0:
        i = np.unravel_index(excess.argmax(), excess.shape)
        allowed = np.broadcast_to(bound, got.shape)[i]
        expect(False, f"{expression}: element {_index(i)} is {got[i]!r}, expected {want[i]!r} within {allowed:.3g}")


def _subnormal(x: Any) -> float:
    """What numbers of the type of `x` may be off below their normal range."""
    return 8 * float(np.finfo(np.asarray(x).dtype).tiny)


def _index(i: tuple[Any, ...]) -> int | tuple[int, ...]:
    """An index as one writes it."""
    return int(i[0]) if len(i) == 1 else tuple(map(int, i))
