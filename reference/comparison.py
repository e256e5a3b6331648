"""A quantizer held to a method of the suite, or its gradients to the function that they claim to be the derivative of.

Whose arithmetic differs in the last place may decide otherwise where the reference jumps. Hence a number is right if it
is the reference's at the input or at its neighbours within rounding errors; where the parameters are powers of two, so
that no arithmetic errs, at the input itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference import contract, registry
from reference.checks import refuse
from reference.contract import NotApplicable, Quantizer, Violation
from reference.grid import ROLES, Array
from reference.inputs import FORMATS, Format, arranged

Property = Callable[[Quantizer, Array], None]
REPEATS = 13  # elements that a parameter is shared by where its gradient is taken: their number shapes the scale
SAMPLED = 24  # inputs at which gradients for parameters are taken
TELLING = 256  # inputs at which variants are told apart by their gradients for parameters


@dataclass(frozen=True)
class Kin:
    """A method of the suite with a subject's parameters: what it is held to.

    Attributes
    ----------
    method : Method
    params : Params
        Of the reference module.
    exact : bool
        Whether no arithmetic errs, so that also what happens at a transition point and at an end is compared.
    observes : bool
        Whether the statistics among the parameters are those of each input, not what they are set to.
    """

    method: registry.Method
    params: Any
    exact: bool
    observes: bool

    @property
    def title(self) -> str:
        """Name, role and variant."""
        return f"{self.method.name}, {self.params.role}, {self.params.variant}"

    def observed(self, x: Array) -> Any:
        """The parameters, with the statistics of `x` where these are observed."""
        module: Any = registry.module(self.method.name)
        return module.observe(x.astype(np.float64), self.params) if self.observes else self.params

    def forward(self, x: Array) -> Array:
        """Values."""
        return registry.module(self.method.name).forward(x, self.observed(x), training=False)

    def vjp(self, x: Array, grad: Array) -> contract.Gradients:
        """Gradients."""
        return registry.module(self.method.name).vjp(x, self.observed(x), grad)


def relatives(subject: Quantizer, name: str, role: str | None = None, variant: str | None = None) -> list[Kin]:
    """Return the method `name` in every role and variant for which it is defined and that the parameters admit.

    Raises
    ------
    ValueError
        If there is none; the message says why.
    """
    module = registry.module(name)
    known = module.METHOD
    role = role or subject.role
    if role is not None and role not in ROLES:
        raise refuse("role", role, "one of " + ", ".join(ROLES))
    if variant is not None and variant not in known.variants:
        raise refuse("variant", variant, "one of " + ", ".join(known.variants))
    rows = [(r, v) for b, r, v in known.defined() if b == subject.bits and role in (None, r) and variant in (None, v)]
    if not rows:
        raise refuse("bits and role", (subject.bits, role or "any role"), f"what {known.title} is defined for")
    fields = {field.name: field for field in dataclasses.fields(module.Params)}
    missing = [
        n for n, field in fields.items()
        if n not in ("bits", "role", *subject.parameters)
        and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        named = ", ".join(subject.parameters) or "none"
        raise ValueError(
            f"{known.title} has the parameters {', '.join(missing)}, which {subject.name} does not name ({named}): "
            f"hand it over with parameters={{{missing[0]!r}: ...}}"
        )
    given = {n: v for n, v in subject.parameters.items() if n in fields and v is not None}
    observes = subject.from_whole_tensor and hasattr(module, "observe")
    foreign = [n for n in subject.parameters if n not in fields]
    if foreign:
        own = ", ".join(n for n in fields if n not in ("bits", "role", "variant"))
        raise refuse("parameters", foreign, f"those of {known.title}: {own}")
    found, refused = [], ""
    for r, v in rows:
        for numbers in ({n: _squeezed(value) for n, value in given.items()}, given):
            try:
                params = module.Params(**_plain(numbers, known), bits=subject.bits, role=r, variant=v)
            except (ValueError, TypeError) as error:
                refused = refused or str(error)
                continue
            found.append(Kin(known, params, _exact(module, params, numbers), observes))
            break
    if not found:
        raise ValueError(f"{known.title} refuses the parameters of {subject.name}: {refused}")
    return found


def _plain(numbers: Mapping[str, Any], known: registry.Method) -> dict[str, Any]:
    """Parameters as a reference takes them: what is not learned and one number is a float."""
    return {
        n: v.item() if isinstance(v, np.ndarray) and not v.ndim and n not in known.learnable else v
        for n, v in numbers.items()
    }


def properties(kin: Kin, subject: Quantizer) -> dict[str, Property]:
    """Return what the subject is held to: its values, and its gradients for the input and each parameter."""
    name = kin.method.name
    found: dict[str, Property] = {f"{name}: values": lambda q, x: _values(kin, q, x)}
    found[f"{name}: gradient for x"] = lambda q, x: _gradient_for_x(kin, q, x)
    for parameter in sorted(kin.method.learned(kin.params.role, kin.params.variant)):
        found[f"{name}: gradient for {parameter}"] = lambda q, x, p=parameter: _gradient_for(kin, q, x, p)  # type: ignore[misc]
    return found


def surrogate_properties(subject: Quantizer) -> dict[str, Property]:
    """Return that gradients are those of the function that the subject names."""
    found: dict[str, Property] = {"surrogate: gradient for x": _surrogate_for_x}
    for parameter in subject.parameters:
        found[f"surrogate: gradient for {parameter}"] = lambda q, x, p=parameter: _surrogate_for(q, x, p)  # type: ignore[misc]
    return found


def mismatches(kin: Kin, subject: Quantizer, x: Array) -> tuple[int, ...]:
    """Count the inputs whose values, and whose gradients, are not the method's; to tell which variant it is."""
    counts = []
    values, wide = subject.forward(x), kin.forward(_wide(x))
    counts.append(int((~_alike(values, wide, _kind(subject, x), kin)).sum()))
    try:
        by_x, by_name = subject.vjp(x, np.ones_like(x))
    except NotApplicable:
        return (counts[0],)
    want_x, want = kin.vjp(_wide(x), np.ones_like(_wide(x)))
    counts.append(int((~np.isclose(by_x, want_x, rtol=1e-3, atol=1e-6)).sum()))
    learned = [n for n in kin.method.learned(kin.params.role, kin.params.variant) if n in by_name and n in want]
    counts.append(sum(_differs(kin, subject, v, learned) for v in _some(x, TELLING)) if learned else 0)
    return tuple(counts)


def _differs(kin: Kin, subject: Quantizer, v: float, names: Sequence[str]) -> bool:
    """Whether the gradient of one input for any of these parameters is not the method's."""
    one = arranged(subject, np.full(1, v))
    got, want = subject.vjp(one, np.ones_like(one))[1], kin.vjp(_wide(one), np.ones_like(_wide(one)))[1]
    return not all(np.allclose(got[name], want[name], rtol=1e-2, atol=1e-4) for name in names)


def _some(x: Array, most: int) -> Array:
    """At most so many of the inputs, evenly."""
    flat = x.ravel()
    return flat[np.unique(np.linspace(0, len(flat) - 1, min(most, len(flat))).astype(int))] if len(flat) else flat


def _values(kin: Kin, subject: Quantizer, x: Array) -> None:
    kind = _kind(subject, x)
    values = subject.forward(x).astype(np.float64)
    candidates = np.stack([kin.forward(at) for at in _neighbours(kin, kind, x)]).astype(np.float64)
    bound = _value_bound(kin, kind, candidates)
    excess = np.maximum(candidates.min(axis=0) - values, values - candidates.max(axis=0)) - bound
    excess = np.where(np.isnan(values) & np.isnan(candidates[0]), 0, excess)
    if not (excess <= 0).all():
        i = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
        raise Violation(f"forward({_text(x[i])})", _text(values[i]), _text(candidates[0][i]))


def _gradient_for_x(kin: Kin, subject: Quantizer, x: Array) -> None:
    kind = _kind(subject, x)
    grad = np.ones_like(x)
    got = subject.vjp(x, grad)[0].astype(np.float64)
    known = np.stack([kin.vjp(at, np.ones_like(at))[0] for at in _neighbours(kin, kind, x)]).astype(np.float64)
    low, high = known.min(axis=0), known.max(axis=0)
    bound = _relative(kin, kind.eps) * (np.abs(known[0]) + np.abs(known[0]).max(initial=0)) + 1e-9
    right = (got >= low - bound) & (got <= high + bound)
    if not right.all():
        excess = np.where(np.isnan(got), np.inf, np.maximum(low - got, got - high) - bound)
        i = np.unravel_index(np.argmax(excess), excess.shape)
        raise Violation(f"the gradient for x = {_text(x[i])}", _text(got[i]), _text(known[0][i]))


def _gradient_for(kin: Kin, subject: Quantizer, x: Array, parameter: str) -> None:
    kind = _kind(subject, x)
    if kind.digits < 24:
        raise NotApplicable(f"sums in {kind.name} are too coarse")
    for v in _some(x, SAMPLED):
        many = arranged(subject, np.full(REPEATS, v, x.dtype))
        _, by_name = subject.vjp(many, np.ones_like(many))
        if parameter not in by_name and parameter in subject.constants:
            raise NotApplicable(f"{parameter} is a constant of it")
        if parameter not in by_name:
            raise Violation("the gradients", f"for {', '.join(('x', *by_name))}", f"one for {parameter}, too")
        got = np.asarray(by_name[parameter], np.float64)
        known = [kin.vjp(at, np.ones_like(at))[1][parameter] for at in _neighbours(kin, kind, many)]
        every = np.stack([np.broadcast_to(np.asarray(one, np.float64), got.shape) for one in known])
        reach = abs(float(v))  # by which an error of a slope is multiplied
        size = float(np.abs(every).max()) + many.size * (1 + (min(reach, 2.0**subject.bits) if kin.exact else reach))
        own = np.asarray(by_name[parameter]).dtype  # parameters may be narrower than the input
        eps = max(kind.eps, float(np.finfo(own).eps) if own.kind == "f" else 0.0)
        bound = 8 * (8 + kin.method.bound) * eps * size + _relative(kin, eps) * np.abs(every).max()
        if not ((got >= every.min(axis=0) - bound) & (got <= every.max(axis=0) + bound)).all():
            i = np.unravel_index(np.argmax(np.abs(got - every[0])), got.shape)
            raise Violation(
                f"the gradient for {parameter}, x being {many.size} times {_text(v)}",
                _text(got[i]),
                _text(every[0][i]),
            )


# Without a reference


def _surrogate_for_x(subject: Quantizer, x: Array) -> None:
    kind, at = _kind(subject, x), _wide(x)
    got = subject.vjp(x, np.ones_like(x))[0].astype(np.float64)
    step = np.maximum(np.abs(at), 2.0**-10) * 2.0**-20

    def surrogate(value: Array) -> Array:
        return _surrogate(subject)(value, **subject.parameters)

    _near_slopes("x", got, surrogate, at, step, kind, x)


def _surrogate_for(subject: Quantizer, x: Array, parameter: str) -> None:
    kind = _kind(subject, x)
    by_name = subject.vjp(x, np.ones_like(x))[1]
    if parameter not in by_name:
        raise NotApplicable(f"{parameter} is a constant")
    for v in _some(x, SAMPLED):
        one = arranged(subject, np.full(1, v, x.dtype))
        at = np.asarray(subject.parameters[parameter], np.float64)
        got = np.asarray(subject.vjp(one, np.ones_like(one))[1][parameter], np.float64).reshape(at.shape)
        for index in np.ndindex(at.shape):

            def total(value: Array, one: Array = one, at: Array = at, index: tuple[int, ...] = index) -> Array:
                moved = at.copy()
                moved[index] = value
                return np.asarray(_surrogate(subject)(_wide(one), **{**subject.parameters, parameter: moved}).sum())

            here = np.asarray(at[index])
            step = np.maximum(np.abs(here), 2.0**-10) * 2.0**-20
            element = f"{parameter}{list(index)}" if at.size > 1 else parameter
            _near_slopes(f"{element} at x = {_text(v)}", np.asarray(got[index]), total, here, step, kind, here)


def _near_slopes(
    name: str, got: Array, function: Callable[[Array], Array], at: Array, step: Array, kind: Format, x: Array
) -> None:
    """Raise unless gradients are within the slopes on either side, which differ where the function has a kink."""
    here = function(at)
    right, left = (function(at + step) - here) / step, (here - function(at - step)) / step
    size = float(np.abs(np.where(np.isfinite(right), right, 0)).max(initial=0))
    bound = 1e-4 + 64 * kind.eps + 1e-3 * size
    fits = (got >= np.minimum(left, right) - bound) & (got <= np.maximum(left, right) + bound)
    if not fits.all():
        i = np.unravel_index(np.argmin(fits), fits.shape)
        raise Violation(f"the gradient for {name}" + (f" = {_text(x[i])}" if name == "x" else ""),
                        _text(got[i]), f"{_text(right[i])}, the surrogate's slope")  # fmt: skip


def _surrogate(subject: Quantizer) -> Callable[..., Array]:
    if subject.surrogate is None:
        raise NotApplicable("it names no surrogate")
    return subject.surrogate


# How near


def _kind(subject: Quantizer, x: Array) -> Format:
    """The type in which the subject is tried."""
    return FORMATS[str(x.dtype) if subject.kind is None else subject.dtypes[0]]


def _squeezed(value: Any) -> Any:
    """A parameter in float64, one number being of shape (); what is no number stays as it is."""
    if isinstance(value, str | bool):
        return value
    found = np.asarray(value, np.float64)
    return found.reshape(()) if found.size == 1 else found


def _wide(x: Array) -> Array:
    return x.astype(np.float64)


def _exact(module: Any, params: Any, given: Mapping[str, Array]) -> bool:
    """Whether parameters and the levels' unit are powers of two, and the method does with + - * / and rounding."""
    grid = module.integer_grid(params)
    numbers = [*(v for v in given.values() if not isinstance(v, str)), *([] if grid is None else [grid.unit])]
    powers = all(bool(np.isin(np.abs(np.frexp(np.asarray(v))[0]), (0, 0.5)).all()) for v in numbers)
    return grid is not None and module.METHOD.bound == 0 and powers


def _neighbours(kin: Kin, kind: Format, x: Array) -> list[Array]:
    """The inputs, and where rounding errors may have moved them; in float64."""
    at = _wide(x)
    if kin.exact:
        return [at]
    names = kin.method.in_input_units or kin.method.learnable
    sizes = [np.abs(_squeezed(getattr(kin.params, name))) for name in names if getattr(kin.params, name) is not None]
    size = max([1.0, *(float(v.max()) for v in sizes if v.size)])
    step = (8 + kin.method.bound) * kind.eps * (np.abs(at) + min(size, 2.0**10))
    return [at, *(at + sign * step * share for sign in (-1, 1) for share in (1, 1 / 8, 1 / 64, 1 / 512))]


def _value_bound(kin: Kin, kind: Format, values: Array) -> float:
    return (4 + kin.method.bound) * kind.eps * float(np.abs(values[np.isfinite(values)]).max(initial=0))


def _relative(kin: Kin, eps: float) -> float:
    """How far slopes may be apart: one may vary by its size over a hundredth of a level, known to 2^bits eps."""
    return float(min(100 * (1 + kin.method.bound) * eps * 2**kin.params.bits, 0.02))


def _alike(values: Array, wanted: Array, kind: Format, kin: Kin) -> Array:
    bound = _value_bound(kin, kind, wanted)
    return np.asarray((np.abs(values - wanted) <= bound) | np.isnan(values) & np.isnan(wanted))


def _text(value: Any) -> str:
    return f"{float(value):.9g}" if math.isfinite(float(value)) else str(float(value))
