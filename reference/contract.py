"""What every quantizer meets: properties that can be checked on any implementation, the suite's or anybody's.

An implementation is handed over as a `Quantizer`, functions over numpy arrays, so that numpy, compiled and PyTorch
code meet the same checks: `of_numpy` and `torchimpl.contract.of_torch` make one of a function or a module. Each
property is a function of a quantizer and an input, and raises `Violation` where it does not hold. A property that a
method does not have is exempt, with its reason; `counterexample` demands that the reason is true.

`reference.conformance` finds the inputs, tries every property and reports.

>>> from reference import lsq
>>> params = lsq.Params(0.5, bits=2, role="weight")
>>> subject = of_reference(lsq, params)
>>> check_at(subject, np.array([-3.0, 0.2, 0.25, 0.9]))
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from reference.checks import as_float, refuse
from reference.comparing import NotApplicable as NotApplicable
from reference.comparing import Violation as Violation
from reference.comparing import WrongShape as WrongShape
from reference.comparing import cotangents as cotangents
from reference.comparing import demand as demand
from reference.comparing import equal as equal
from reference.comparing import expect as expect
from reference.comparing import near as near
from reference.comparing import same as same
from reference.grid import Array, Role, check_role
from reference.registry import Reference

Gradients = tuple[Array, dict[str, Array]]


def _no_codes(_: Array) -> NoReturn:
    raise NotApplicable("it offers no codes")


def _no_gradient(*_: Array) -> NoReturn:
    raise NotApplicable("it offers no gradient")


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
    codes, decode : callable, optional
        Array to the integers 0, 1, ... that number the levels, ValueError on NaN; and codes, as floating point numbers
        of the wanted dtype, to values.
    vjp : callable, optional
        Array and gradient of the loss for the output, to the gradients for the input and, by name, the parameters.
    exempt : mapping
        Properties that the method does not have, with the reason.
    from_whole_tensor : bool
        Whether statistics of all elements shape the result of each, so that one NaN reaches all.
    parameters : mapping of str to ndarray or number
        Values of the parameters, by the reference's names where it is to be compared with one.
    constants : collection of str
        Those of the parameters that no gradient is taken for.
    role : {"weight", "activation", "signed_activation"}, optional
        What it quantizes; needed only where the reference has several roles that fit.
    surrogate : callable, optional
        ``surrogate(x, **parameters)``, over float64 arrays: the function whose derivative the gradients claim to be.
    dtypes, devices : sequence of str
        Where it is to be tried: of "float64", "float32", "float16", "bfloat16"; arrays of the last are held in float32.
    shape : sequence of int, optional
        Shape of the inputs that it takes, with one -1, such as (3, -1) for three channels; by default any.
    kind : callable, optional
        Array to the name of the type of its values, where that is not the array's.
    view : callable, optional
        ``view(dtype, device)``: the same quantizer for arrays of a dtype on a device.
    """

    name: str
    bits: int
    forward: Callable[[Array], Array]
    codes: Callable[[Array], Array] = _no_codes
    decode: Callable[[Array], Array] = _no_codes
    vjp: Callable[[Array, Array], Gradients] = _no_gradient
    exempt: Mapping[str, str] = dataclasses.field(default_factory=dict)
    from_whole_tensor: bool = False
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    constants: Collection[str] = ()
    role: Role | None = None
    surrogate: Callable[..., Array] | None = None
    dtypes: Sequence[str] = ("float64",)
    devices: Sequence[str] = ("cpu",)
    shape: Sequence[int] | None = None
    kind: Callable[[Array], str] | None = None
    view: Callable[[str, str], Quantizer] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.exempt) - set(PROPERTIES))
        if unknown:
            raise refuse("exempt", unknown, "names of properties: " + ", ".join(PROPERTIES))
        whole = isinstance(self.bits, int | np.integer) and not isinstance(self.bits, bool)
        if not whole or self.bits < 1:
            raise refuse("bits", self.bits, "a whole number from 1")
        if self.role is not None:
            check_role(self.role)
        if self.shape is not None and list(self.shape).count(-1) != 1:
            raise refuse("shape", tuple(self.shape), "whole numbers from 1 and one -1, such as (3, -1)")
        if not self.dtypes or (other := sorted(set(self.dtypes) - set(DTYPES))):
            raise refuse("dtypes", other if self.dtypes else self.dtypes, "names of " + ", ".join(DTYPES))

    @property
    def axis(self) -> int:
        """The axis of its inputs that may have any length, counted from the last."""
        return -1 if self.shape is None else list(self.shape).index(-1) - len(self.shape)

    def at(self, dtype: str, device: str = "cpu") -> Quantizer:
        """Return the quantizer for arrays of a dtype on a device."""
        return self if self.view is None else self.view(dtype, device)


DTYPES = ("float64", "float32", "float16", "bfloat16")
COARSE = ("float16", "bfloat16")


def of_numpy(
    forward: Callable[[Array], npt.ArrayLike],
    *,
    bits: int,
    vjp: Callable[[Array, Array], tuple[npt.ArrayLike, Mapping[str, npt.ArrayLike]]] | None = None,
    name: str | None = None,
    **options: Any,
) -> Quantizer:
    """Hand over functions over numpy arrays; `options` are further attributes of `Quantizer`, by name.

    >>> of_numpy(lambda x: np.where(x < 0, -1.0, 1.0), bits=1, name="sign").dtypes
    ('float64',)
    """
    if not callable(forward):
        raise refuse("forward", forward, "a function of an array")
    if vjp is not None:
        options["vjp"] = vjp
    found = name or getattr(forward, "__name__", None) or type(forward).__name__
    return Quantizer(name=found, bits=bits, forward=forward, **options)  # type: ignore[arg-type]


def of_reference(module: Reference[Any], params: Any) -> Quantizer:
    """Hand over a reference module and its parameters; gradients are those of the parameters that are learned."""
    learned = module.METHOD.learned(params.role, params.variant)

    def vjp(x: Array, grad: Array) -> Gradients:
        by_x, by_name = module.vjp(x, params, grad)
        return by_x, {name: value for name, value in by_name.items() if name in learned}

    return Quantizer(
        name=f"{module.METHOD.name} with {params}",
        bits=params.bits,
        forward=lambda x: module.forward(x, params, training=False),
        codes=lambda x: module.codes(x, params),
        decode=lambda q: module.decode(q, params),
        vjp=vjp,
        exempt=module.METHOD.exempt,
        parameters=parameters_of(params),
        role=params.role,
        dtypes=("float64", "float32"),
    )


def parameters_of(params: Any) -> dict[str, Any]:
    """Return what a reference's parameters hold, by name, without bits, role and variant."""
    fields = (field.name for field in dataclasses.fields(params))
    return {name: getattr(params, name) for name in fields if name not in ("bits", "role", "variant")}


def level_set(quantizer: Quantizer, dtype: Any = np.float64) -> Array:
    """Return the values of the codes 0, 1, ... up to the code of infinity; one column a channel, if there are any."""
    highest = int(quantizer.codes(np.array(math.inf)).max())
    q = np.arange(highest + 1, dtype=dtype)
    one = quantizer.decode(q[:1])
    return quantizer.decode(q if one.ndim < 2 else q.reshape(-1, *[1] * one.ndim))


# Properties


def few_values(quantizer: Quantizer, x: Array) -> None:
    """There are at most 2^bits values, in each channel."""
    values = quantizer.forward(x)
    for line in _lines(quantizer, values):
        found = np.unique(line[np.isfinite(line)])
        if len(found) > 2**quantizer.bits:
            raise Violation("the number of values of forward(x)", f"{len(found)}: {_some(found)}", 2**quantizer.bits)


def codes_number_the_levels(quantizer: Quantizer, x: Array) -> None:
    """Levels ascend with their codes, and every value is the level that its code numbers, bit for bit."""
    q = quantizer.codes(x)
    if quantizer.from_whole_tensor:
        raise NotApplicable("its levels are those of a whole tensor, and codes alone do not tell which")
    levels, values = level_set(quantizer), quantizer.forward(x)
    demand(len(levels) <= 2**quantizer.bits, "the number of codes", len(levels), f"at most {2**quantizer.bits}")
    rises = np.diff(levels, axis=0)
    coarse = quantizer.kind is not None and quantizer.dtypes[0] in COARSE  # two levels may be one number
    demand(bool((rises >= 0 if coarse else rises > 0).all()), "decode(0), decode(1), ...", levels.tolist(), "ascending")
    demand(q.dtype.kind == "i", "the type of codes(x)", q.dtype, "an integer type")
    demand(bool(((q >= 0) & (q < len(levels))).all()), "codes(x)", q.tolist(), f"from 0 to {len(levels) - 1}")
    equal("forward(x)", values, quantizer.decode(q.astype(x.dtype)))


def levels_stay(quantizer: Quantizer, x: Array) -> None:
    """Idempotence: levels are quantized to themselves."""
    if quantizer.from_whole_tensor:
        raise NotApplicable(WHOLE)
    values = quantizer.forward(x)
    equal("forward(forward(x))", quantizer.forward(values), values)
    with contextlib.suppress(NotApplicable):
        equal("codes(forward(x))", quantizer.codes(values), quantizer.codes(x))


def monotone(quantizer: Quantizer, x: Array) -> None:
    """A larger input has no smaller value, and no smaller code."""
    if not x.ndim:
        return
    ordered = np.sort(x, axis=None).reshape(x.shape) if quantizer.shape is None else np.sort(x, axis=quantizer.axis)
    lines = _lines(quantizer, quantizer.forward(ordered))
    falls = np.argwhere(np.diff(lines, axis=-1) < 0)
    if len(falls):
        row, i = falls[0]
        inputs = _lines(quantizer, ordered)[row]
        raise Violation(f"forward({inputs[i + 1]}) in forward(x)", lines[row, i + 1],
                        f"{lines[row, i]} or more, as forward({inputs[i]}) is")  # fmt: skip
    with contextlib.suppress(NotApplicable):
        q = _lines(quantizer, quantizer.codes(ordered))
        demand(bool((np.diff(q, axis=-1) >= 0).all()), "codes(x)", q.tolist(), "ascending, as x is")


def zeros_are_one(quantizer: Quantizer, x: Array) -> None:
    """-0 has the value of 0."""
    zeros = np.where(np.signbit(x), -np.zeros_like(x), np.zeros_like(x))
    equal("forward(-0.0 * (x < 0))", quantizer.forward(zeros), quantizer.forward(np.zeros_like(x)))


def infinities_clip(quantizer: Quantizer, x: Array) -> None:
    """-inf and inf have the lowest and the highest value that there is for any input."""
    if quantizer.from_whole_tensor:
        raise NotApplicable(WHOLE)
    if not x.size:
        return
    values = quantizer.forward(x)
    for end, extreme in ((-math.inf, values.min), (math.inf, values.max)):
        got, known = quantizer.forward(np.full_like(x, end)), extreme(axis=quantizer.axis if x.ndim else None)
        lines, known = _lines(quantizer, got), np.reshape(known, -1) if quantizer.shape else np.atleast_1d(extreme())
        beyond = lines <= known[:, None] if end < 0 else lines >= known[:, None]
        if not (beyond & np.isfinite(lines)).all():
            word = "at most" if end < 0 else "at least"
            raise Violation(f"forward({end})", _some(lines[0]), f"{word} forward(x) = {_some(known)}, and finite")
    with contextlib.suppress(NotApplicable):
        lowest, highest = (quantizer.codes(np.full_like(x, end)) for end in (-math.inf, math.inf))
        demand(bool((lowest == 0).all()), "codes(-inf)", lowest.tolist(), 0)
        demand(bool((highest > 0).all()), "codes(inf)", highest.tolist(), "the highest code")
        for end, q in ((-math.inf, lowest), (math.inf, highest)):
            equal(f"forward({end})", quantizer.forward(np.full_like(x, end)), quantizer.decode(q.astype(x.dtype)))


def nan_gives_nan(quantizer: Quantizer, x: Array) -> None:
    """NaN has a NaN value and no code, and leaves other elements alone."""
    if not x.size:
        return
    holed = x.copy()
    holed.flat[0] = math.nan
    want, got = quantizer.forward(x).copy(), quantizer.forward(holed)
    want.flat[0] = math.nan
    if quantizer.from_whole_tensor:
        want = np.where(np.isnan(got), got, want)
        want.flat[0] = math.nan
        if not np.isnan(got).all():
            want = np.where(np.isnan(want), want, got)  # statistics that leave NaN out are others
    equal("forward(x), x[0] being NaN", got, want)
    try:
        q = quantizer.codes(holed)
    except ValueError as error:
        demand("NaN" in str(error), "the refusal of codes(nan)", repr(str(error)), "one that says NaN")
    except NotApplicable:
        return
    else:
        raise Violation("codes(nan)", q.tolist(), "a ValueError")


def order_does_not_matter(quantizer: Quantizer, x: Array) -> None:
    """Permuting the elements along the axis that channels share permutes the values."""
    if x.ndim:
        count = x.shape[quantizer.axis]
        order = np.roll(np.arange(count)[::-1], count // 3)
        got, want = quantizer.forward(np.take(x, order, quantizer.axis)), quantizer.forward(x)
        _like(quantizer, "forward(x[order])", got, np.take(want, order, quantizer.axis), x)


def each_for_itself(quantizer: Quantizer, x: Array) -> None:
    """A value does not depend on the elements beside it."""
    if quantizer.from_whole_tensor:
        raise NotApplicable(WHOLE)
    count = x.shape[quantizer.axis] if x.ndim else 0
    together = quantizer.forward(x)
    for i in sorted({0, count // 3, count // 2, count - 1} - {-1}) if count else ():
        alone = quantizer.forward(np.take(x, [i], quantizer.axis))
        equal(f"forward(x[{i}:{i + 1}])", alone, np.take(together, [i], quantizer.axis))


def memory_does_not_matter(quantizer: Quantizer, x: Array) -> None:
    """Values are the same whatever the memory layout: every second element, or column after column."""
    want = quantizer.forward(x)
    spread = np.repeat(x[..., None], 2, axis=-1)[..., 0]
    _like(quantizer, "forward(x) of every second number in memory", quantizer.forward(spread), want, x)
    if x.ndim > 1:
        columns = np.asfortranarray(x)
        _like(quantizer, "forward(x) with columns in memory", quantizer.forward(columns), want, x)


def calls_repeat(quantizer: Quantizer, x: Array) -> None:
    """Forward and backward give the same bits again."""
    first = quantizer.forward(x)
    equal("the second forward(x)", quantizer.forward(x), first)
    grad = cotangents(x)
    with contextlib.suppress(NotApplicable):
        first_grads, second_grads = quantizer.vjp(x, grad), quantizer.vjp(x, grad)
        equal("the second gradient for x", second_grads[0], first_grads[0])
        for name, value in first_grads[1].items():
            equal(f"the second gradient for {name}", second_grads[1][name], value)


def input_stays(quantizer: Quantizer, x: Array) -> None:
    """Forward and backward leave their arguments as they were."""
    own, grad = x.copy(), cotangents(x)
    quantizer.forward(own)
    equal("x after forward(x)", own, x)
    with contextlib.suppress(NotApplicable):
        quantizer.vjp(own, grad)
        equal("x after the gradient", own, x)
        equal("the gradient that came in", grad, cotangents(x))


def type_stays(quantizer: Quantizer, x: Array) -> None:
    """Values have the type of the input, and so has its gradient."""
    got = str(quantizer.forward(x).dtype) if quantizer.kind is None else quantizer.kind(x)
    wanted = str(x.dtype) if quantizer.kind is None else quantizer.dtypes[0]
    demand(got == wanted, "the type of forward(x)", got, wanted)
    with contextlib.suppress(NotApplicable):
        grad = quantizer.vjp(x, cotangents(x))[0]
        demand(grad.dtype == x.dtype, "the type of the gradient for x", grad.dtype, x.dtype)


def shape_stays(quantizer: Quantizer, x: Array) -> None:
    """Values have the shape of the input, whatever that is, and so has its gradient."""
    _keeps_shape(quantizer, x)
    if quantizer.shape is None and x.size:
        flat = np.resize(x, max(x.size // 4, 1) * 4)
        want = None if quantizer.from_whole_tensor else quantizer.forward(flat)
        for shape in ((-1, 1), (2, -1), (1, 2, -1), (2, 1, 2, -1)):
            got = _keeps_shape(quantizer, flat.reshape(shape))
            if want is not None:
                equal(f"forward(x.reshape{shape})", got, want.reshape(shape))


def zero_dimensions(quantizer: Quantizer, x: Array) -> None:
    """A single number, of shape (), is quantized as within an array."""
    if quantizer.shape is not None:
        raise NotApplicable(f"it takes inputs of shape {tuple(quantizer.shape)}")
    if not x.size:
        return
    got = _keeps_shape(quantizer, x.reshape(-1)[:1].reshape(()))
    if not quantizer.from_whole_tensor:
        equal("forward(x[0])", got, quantizer.forward(x.reshape(-1))[0])


def empty(quantizer: Quantizer, x: Array) -> None:
    """No numbers have no values."""
    _keeps_shape(quantizer, np.take(x, [], quantizer.axis) if x.ndim else np.zeros(0, x.dtype))


def quiet(quantizer: Quantizer, x: Array) -> None:
    """Nothing is printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(NotApplicable):
        quantizer.forward(x)
        quantizer.vjp(x, cotangents(x))
    lines = said.getvalue().splitlines()
    if lines:
        raise Violation("what forward(x) and its gradient print", repr(lines[0][:80]), "nothing")


def linear_in_the_gradient(quantizer: Quantizer, x: Array) -> None:
    """Twice the incoming gradient is twice every gradient: exact, but for subnormal numbers."""
    grad = cotangents(x)
    (once_x, once), (twice_x, twice) = quantizer.vjp(x, grad), quantizer.vjp(x, 2 * grad)
    near("the gradient for x of twice the loss", twice_x, 2 * once_x, _subnormal(x))
    for name, value in once.items():  # which may be held in another type
        bound = max(_subnormal(x), _subnormal(value))
        near(f"the gradient for {name} of twice the loss", twice[name], 2 * value, bound)


def _subnormal(x: Any) -> float:
    """What numbers of the type of `x` may be off below their normal range."""
    return 8 * float(np.finfo(np.asarray(x).dtype).tiny)


def gradients_are_there(quantizer: Quantizer, x: Array) -> None:
    """Gradients are finite, of the shape of what they are for, and some of them not 0."""
    by_x, by_name = quantizer.vjp(x, cotangents(x))
    demand(by_x.shape == x.shape, "the shape of the gradient for x", by_x.shape, x.shape)
    demand(bool(np.isfinite(by_x).all()), "the gradient for x", _some(by_x), "finite")
    enough = len(np.unique(x)) >= ENOUGH  # such are on both sides of, and in, the range
    if enough:
        demand(bool((by_x != 0).any()), "the gradient for x", "0 everywhere", "not 0 for some x")
    for name, value in by_name.items():
        demand(bool(np.isfinite(value).all()), f"the gradient for {name}", _some(value), "finite")
        if enough:
            demand(bool((value != 0).all()), f"the gradient for {name}", _some(value), "not 0 for these x")


PROPERTIES: dict[str, Callable[[Quantizer, Array], None]] = {
    "levels": few_values,
    "codes": codes_number_the_levels,
    "idempotence": levels_stay,
    "monotone": monotone,
    "signed zero": zeros_are_one,
    "infinities": infinities_clip,
    "nan": nan_gives_nan,
    "order": order_does_not_matter,
    "each for itself": each_for_itself,
    "memory layout": memory_does_not_matter,
    "repeated calls": calls_repeat,
    "input kept": input_stays,
    "type": type_stays,
    "shape": shape_stays,
    "0-d": zero_dimensions,
    "empty": empty,
    "prints nothing": quiet,
    "linear gradient": linear_in_the_gradient,
    "gradient": gradients_are_there,
}
ENOUGH = 64  # different numbers that the gate's inputs have at least
WHOLE = "statistics of the whole tensor shape its values"


def check_at(quantizer: Quantizer, x: Array) -> None:
    """Check every property that the quantizer is not exempt from, on the finite inputs `x`.

    Raises
    ------
    AssertionError
        At the first that does not hold; it names the property and the input.
    ValueError
        If `x` is not an array of finite numbers.
    """
    x = as_float(x)
    if not np.isfinite(x).all():
        raise refuse("x", x.tolist(), "finite numbers")
    for name, property_ in PROPERTIES.items():
        if name not in quantizer.exempt:
            try:
                property_(quantizer, x)
            except NotApplicable:
                continue
            except Violation as violation:
                raise AssertionError(f"{quantizer.name}, {name}, at x = {x!r}: {violation}") from None


def counterexample(quantizer: Quantizer, name: str, x: Array) -> bool:
    """Tell whether `x` shows that the property `name` does not hold."""
    try:
        PROPERTIES[name](quantizer, x)
    except AssertionError:
        return True
    return False


def _keeps_shape(quantizer: Quantizer, x: Array) -> Array:
    values = quantizer.forward(x)
    if values.shape != x.shape:
        raise WrongShape(f"the shape of forward(x), x of shape {x.shape},", values.shape, x.shape)
    with contextlib.suppress(NotApplicable):
        grad = quantizer.vjp(x, cotangents(x))[0]
        demand(grad.shape == x.shape, f"the shape of the gradient for x, of shape {x.shape},", grad.shape, x.shape)
    return values


def _lines(quantizer: Quantizer, values: Array) -> Array:
    """Return values as one line a channel."""
    if quantizer.shape is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, quantizer.axis, -1).reshape(-1, values.shape[quantizer.axis])


def _like(quantizer: Quantizer, expression: str, got: Array, want: Array, x: Array) -> None:
    """Raise unless values are equal; or, of statistics, whose sums vary with the order of the numbers, nearly so."""
    if not quantizer.from_whole_tensor:
        equal(expression, got, want)
        return
    near(expression, got, want, 16 * float(np.finfo(x.dtype).eps) * float(np.abs(want).max(initial=0)))


def _some(values: Array, count: int = 6) -> str:
    """The first few numbers, as text."""
    flat = [f"{float(v):.9g}" for v in np.ravel(values)[:count]]
    return ", ".join(flat) + (", ..." if np.size(values) > count else "")


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
