"""How two results are compared, and what is raised where they differ: what, of which value, and what it ought to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from reference.grid import Array


class Violation(AssertionError):  # noqa: N818 - a finding
    """A property does not hold: `expression`, of the input x, is `got` and not `want`."""

    def __init__(self, expression: str, got: object, want: object) -> None:
        super().__init__(f"{expression} is {got}, expected {want}")
        self.expression, self.got, self.want = expression, str(got), str(want)


class NotApplicable(Exception):  # noqa: N818 - nothing is wrong
    """A property says nothing of a quantizer; the message has the reason."""


class WrongShape(Violation):
    """What the quantizer returns has not the shape of its input, so that nothing else can be said of it."""


def cotangents(x: Array) -> Array:
    """A gradient of the loss for `x`, of its shape and type: numbers that tell elements apart."""
    return ((1 + np.arange(x.size).reshape(x.shape) % 7) / 4).astype(x.dtype)


def demand(holds: bool | np.bool_, expression: str, got: object, want: object) -> None:
    """Raise `Violation` unless `holds`."""
    if not holds:
        raise Violation(expression, got, want)


def expect(holds: bool | np.bool_, message: str) -> None:
    """Raise AssertionError with `message` unless `holds`; unlike a bare assert, also under ``python -O``."""
    if not holds:
        raise AssertionError(message)


def same(expression: str, got: Any, want: Any) -> None:
    """Raise unless type, shape and bits are equal; one NaN is as good as another, and 0 is not -0."""
    got, want = np.asarray(got), np.asarray(want)
    demand(got.dtype == want.dtype, f"the type of {expression}", got.dtype, want.dtype)
    demand(got.shape == want.shape, f"the shape of {expression}", got.shape, want.shape)
    alike = (got == want) & (np.signbit(got) == np.signbit(want)) | np.isnan(got) & np.isnan(want)
    if not alike.all():
        i = np.unravel_index(np.argmin(alike), alike.shape)
        raise Violation(_element(expression, i), repr(got[i]), f"the same bits as {want[i]!r}")


def equal(expression: str, got: Array, want: Array) -> None:
    """Raise unless shape and numbers are equal; one NaN is as good as another, and 0 is -0."""
    demand(got.shape == want.shape, f"the shape of {expression}", got.shape, want.shape)
    alike = (got == want) | np.isnan(got) & np.isnan(want)
    if not alike.all():
        i = np.unravel_index(np.argmin(alike), alike.shape)
        raise Violation(_element(expression, i), got[i], want[i])


def near(expression: str, got: Any, want: Any, bound: Any) -> None:
    """Raise, showing the worst element, unless shapes are equal and ``|got - want| <= bound`` everywhere."""
    got, want = np.asarray(got), np.asarray(want)
    demand(got.shape == want.shape, f"the shape of {expression}", got.shape, want.shape)
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - want)
    error = np.where(got == want, 0, error)  # infinity is near itself
    excess = np.where(np.isnan(error), np.inf, error - bound)
    if excess.size and excess.max() > 0:
        i = np.unravel_index(excess.argmax(), excess.shape)
        allowed = np.broadcast_to(bound, got.shape)[i]
        raise Violation(_element(expression, i), repr(got[i]), f"{want[i]!r} within {allowed:.3g}")


def _element(expression: str, i: tuple[Any, ...]) -> str:
    """An element of an expression, as one says it."""
    if not i:
        return expression
    return f"{expression}: element {int(i[0]) if len(i) == 1 else tuple(map(int, i))}"
