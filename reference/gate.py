"""A quantizer and what it is held to: every property is tried at inputs that are found for it, and none stops another.

`reference.conformance` has the functions that are called, and the tests of pytest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reference import comparison, contract, inputs
from reference.comparison import Kin, Property
from reference.contract import NotApplicable, Quantizer, Violation, WrongShape
from reference.grid import Array
from reference.inputs import FORMATS
from reference.shrinking import shrink
from reference.subjects import Hung, Raised, article, captured, guarded, limited
from reference.verdicts import Known, NoSubject, Report, Row

SECONDS = 10.0  # that one property may take
FIRST = 6  # times as long may the first call take
HANGS = 2  # after as many, no other is tried
ANSWERS = "answers"  # without which nothing else is tried


@dataclass(frozen=True)
class Case:
    """A property to be tried in a type, on a device."""

    name: str
    dtype: str
    device: str

    @property
    def id(self) -> str:
        """As pytest shows it."""
        return self.row().id

    def row(self) -> Row:
        """A row that says it holds."""
        return Row(self.name, self.dtype, self.device, "holds")


class Gate:
    """A quantizer, and what it is held to.

    Parameters
    ----------
    subject : Quantizer
    reference : str, optional
        Name of one of the suite's methods.
    role, variant : str, optional
        Of that method; by default the one that fits best.
    known : Known
        Failures that are expected.
    source : str
        How the subject is written in the expressions that run a property again.
    seconds : float
        Time that one property may take.

    Raises
    ------
    NoSubject
        If `subject` is no `Quantizer`, or cannot be compared with the reference.
    """

    def __init__(
        self,
        subject: Quantizer,
        reference: str | None = None,
        *,
        role: str | None = None,
        variant: str | None = None,
        known: Known | None = None,
        source: str = "subject",
        seconds: float = SECONDS,
    ) -> None:
        if not isinstance(subject, Quantizer):
            raise NoSubject(
                f"it is {article(type(subject).__name__)}, not what torchimpl.contract.of_torch or "
                "reference.contract.of_numpy returns"
            )
        self.subject, self.source, self.seconds = subject, source, seconds
        self.known = known or Known()
        self._views: dict[tuple[str, str], Quantizer] = {}
        self._vectors: dict[tuple[str, str], Array] = {}
        self._points: dict[tuple[str, str], inputs.Points] = {}
        self._misfits: dict[str, tuple[int, ...]] = {}
        self._answered: dict[tuple[str, str], str] = {}
        self._hung = 0
        self.reference = reference
        self._relatives: list[Kin] = []
        if reference is not None:
            try:
                self._relatives = comparison.relatives(subject, reference, role, variant)
            except ValueError as error:
                raise NoSubject(str(error)) from None
        elif role is not None or variant is not None:
            raise NoSubject("a role or a variant is of a method: name one, with --as or reference=")
        names = list(dict.fromkeys(case.name for case in self.cases))
        self.known.refuse_unknown(names, [case.id for case in self.cases])

    @cached_property
    def kin(self) -> Kin | None:
        """The role and variant that fit best: of which the fewest of values and gradients differ, and these least."""

        def order(kin: Kin) -> tuple[int, ...]:
            counts = self.misfit(kin)
            return (*counts[:1], sum(map(bool, counts)), *counts)

        return min(self._relatives, key=order, default=None)

    @property
    def fits(self) -> bool:
        """Whether anything is known of how it fits: a subject that does not answer has no kin."""
        return self.kin is not None and self.misfit(self.kin)[:1] != (sys.maxsize,)

    def misfit(self, kin: Kin) -> tuple[int, ...]:
        """Say how much of a method, role and variant does not fit: values, gradients for x and for parameters."""
        if len(self._relatives) == 1:
            return ()
        if kin.title not in self._misfits:
            self._misfits[kin.title] = self._misfit(kin)
        return self._misfits[kin.title]

    def _misfit(self, kin: Kin) -> tuple[int, ...]:
        dtype, device = self._first
        if self._first_answer(dtype, device) != "values":
            return (sys.maxsize,)
        try:
            with self._limited(), captured():
                return comparison.mismatches(kin, self._view(dtype, device), self.array(dtype, device))
        except (Raised, Hung, Violation, ValueError):
            return (sys.maxsize,)

    @property
    def others(self) -> dict[str, str]:
        """The other roles and variants that have the same values, with what else does not fit."""
        words = ("values", "gradients for x", "gradients for its parameters")
        found = {}
        for kin in self._relatives if self.fits else ():
            counts = self.misfit(kin)
            if kin is self.kin or self.kin is None or kin.params.role != self.kin.params.role or not counts:
                continue
            parts = [f"{word} at {n} inputs" for n, word in zip(counts[:2], words, strict=False) if n]
            parts += words[2:] * any(counts[2:])
            found[kin.params.variant] = f"other {' and '.join(parts)}" if parts else "fits as well"
        return found

    @property
    def _first(self) -> tuple[str, str]:
        return self.subject.dtypes[0], self.subject.devices[0]

    @cached_property
    def properties(self) -> dict[str, Property]:
        """Everything that is tried, by name."""
        found: dict[str, Property] = {ANSWERS: answers, **contract.PROPERTIES}
        if self.subject.surrogate is not None:
            found |= comparison.surrogate_properties(self.subject)
        return found

    @cached_property
    def cases(self) -> list[Case]:
        """Every property, in every type, on every device."""
        names = list(self.properties)
        for kin in self._relatives:  # a role may learn what another does not
            names += [name for name in comparison.properties(kin, self.subject) if name not in names]
        return [
            Case(name, dtype, device)
            for device in self.subject.devices
            for dtype in self.subject.dtypes
            for name in names
        ]

    def array(self, dtype: str, device: str) -> Array:
        """The inputs that the gate has found, in the shape that the subject takes."""
        key = (dtype, device)
        if key not in self._vectors:
            view, kind = self._view(dtype, device), FORMATS[dtype]
            if not view.from_whole_tensor:
                self._points[key] = inputs.find(view, kind)
            self._vectors[key] = inputs.vector(view, kind, self._points.get(key))
        return inputs.arranged(self.subject, self._vectors[key])

    def points(self, dtype: str, device: str) -> inputs.Points | None:
        """What is known of the subject, for strategies."""
        self.array(dtype, device)
        return self._points.get((dtype, device))

    def run(self, case: Case, x: Array | None = None) -> Row:
        """Try a property, at the gate's inputs or at `x`; what is wrong is shown at the smallest input."""
        subject, name = self._view(case.dtype, case.device), case.name
        blank = case.row()
        if name in subject.exempt:
            return dataclasses.replace(blank, verdict="exempt", reason=subject.exempt[name])
        if self._hung >= HANGS:
            return dataclasses.replace(blank, verdict="not applicable", reason=f"not tried: it has hung {HANGS} times")
        try:
            property_ = self._property(name)
            row = self._tried(blank, property_, subject, x)
        except Hung:
            self._hung += 1
            row = dataclasses.replace(blank, verdict="hangs", got=f"nothing came within {self.seconds:g} s")
        verdict, why = self.known.of(name, case.dtype)
        if not verdict:
            return row
        if row.verdict in ("fails", "raises", "hangs"):
            return dataclasses.replace(row, verdict=verdict, reason=why)
        if row.verdict == "not applicable":
            return row
        said = f"it holds: take it off the list, which says {why!r}"
        return dataclasses.replace(row, verdict="stale", reason=said)

    def run_all(self) -> Report:
        """Try everything."""
        rows = tuple(self.run(case) for case in self.cases)
        kin = self.kin.title if self.kin and self.fits else ""
        return Report(self.subject.name, rows, kin, self.others)

    def _property(self, name: str) -> Property:
        if name in self.properties:
            return self.properties[name]
        assert self.kin is not None
        found = comparison.properties(self.kin, self.subject)
        if name not in found:  # another role has no such parameter

            def not_of_it(*_: Any) -> None:
                raise NotApplicable(f"{self.kin.title if self.kin else ''} does not learn it")

            return not_of_it
        return found[name]

    def _tried(self, blank: Row, property_: Property, subject: Quantizer, x: Array | None) -> Row:
        kind = FORMATS[blank.dtype]
        first = self._first_answer(blank.dtype, blank.device)
        if blank.name != ANSWERS and first != "values":
            return dataclasses.replace(blank, verdict="not applicable", reason="it does not answer")
        if first == "hangs":
            return dataclasses.replace(blank, verdict="hangs", got=f"nothing came within {FIRST * self.seconds:g} s")
        try:
            with self._limited(), captured():
                if x is None and blank.name == ANSWERS:
                    x = inputs.arranged(subject, inputs.plain(kind))
                whole = self.array(blank.dtype, blank.device).copy() if x is None else x
        except WrongShape as violation:
            if blank.name == "shape":
                return self._shown(blank, violation, inputs.plain(kind))
            return dataclasses.replace(blank, verdict="not applicable", reason="its values have another shape")
        try:
            with self._limited(), captured():
                property_(subject, whole)
        except NotApplicable as why:
            return dataclasses.replace(blank, verdict="not applicable", reason=str(why))
        except (Violation, Raised) as found_first:
            error: Violation | Raised = found_first
        else:
            return blank
        # The same along the free axis: a vector is what is made smaller.
        vector = whole.reshape(1) if not whole.ndim else np.moveaxis(whole, subject.axis, -1)
        vector = vector.reshape(-1, vector.shape[-1])[0]
        last = error

        def shows(points: Array) -> bool:
            nonlocal last
            try:
                with captured():
                    property_(subject, inputs.arranged(subject, points.copy()))
            except (NotApplicable, Violation, Raised) as again:
                if type(again) is not type(error) or type(again.__cause__) is not type(error.__cause__):
                    return False
                last = again
                return True
            except ValueError:  # the method's: it refuses so few numbers, or such
                return False
            return False

        found = vector
        with contextlib.suppress(Hung), self._limited():
            if shows(vector):
                found = shrink(vector, kind, shows)
                shows(found)
        return self._shown(blank, last, found)

    def _first_answer(self, dtype: str, device: str) -> str:
        """Return "values" if anything comes, of any shape, for three plain numbers; else "raises" or "hangs".

        What a first call imports or compiles takes its time, and must not be interrupted: hence the longer limit, and
        that gradients are asked for, too.
        """
        key = (dtype, device)
        if key not in self._answered:
            subject = self._view(dtype, device)
            x = inputs.arranged(subject, inputs.plain(FORMATS[dtype]))
            self._answered[key] = "hangs"
            with contextlib.suppress(Hung), limited(FIRST * self.seconds), captured():
                try:
                    subject.forward(x.copy())
                except Raised:
                    self._answered[key] = "raises"
                except WrongShape:
                    self._answered[key] = "values"
                else:
                    self._answered[key] = "values"
                    with contextlib.suppress(Raised, Violation, NotApplicable):
                        subject.vjp(x.copy(), contract.cotangents(x))
        return self._answered[key]

    def _shown(self, blank: Row, error: Violation | Raised, points: Array) -> Row:
        witness = _listed(points)
        held = ""
        if ":" in blank.name and self.reference and self.kin:
            params = self.kin.params
            held = f", reference={self.reference!r}, role={params.role!r}, variant={params.variant!r}"
        if blank.device != self.subject.devices[0]:
            held += f", device={blank.device!r}"
        dtype = "" if blank.dtype == self.subject.dtypes[0] else f", dtype={blank.dtype!r}"
        again = f"conformance.again({self.source}, {blank.name!r}, {witness}{dtype}{held})"
        if isinstance(error, Raised):
            return dataclasses.replace(blank, verdict="raises", witness=witness, got=str(error), again=again)
        return dataclasses.replace(
            blank,
            verdict="fails",
            witness=witness,
            expression=error.expression,
            got=error.got,
            want=error.want,
            again=again,
        )

    def _view(self, dtype: str, device: str) -> Quantizer:
        key = (dtype, device)
        if key not in self._views:
            self._views[key] = guarded(self.subject.at(dtype, device))
        return self._views[key]

    def _limited(self) -> contextlib.AbstractContextManager[None]:
        return limited(self.seconds)


def answers(quantizer: Quantizer, x: Array) -> None:
    """An array comes, of numbers, within the time."""
    with contextlib.suppress(WrongShape):  # which is told elsewhere
        quantizer.forward(x)


def _listed(points: Array) -> str:
    """An array as a list that can be pasted; infinity and NaN as text, which `again` reads."""
    flat = [float(v) for v in np.ravel(points)]
    words = [_short(v, points.dtype) if np.isfinite(v) else repr(str(v)) for v in flat]
    return f"[{', '.join(words)}]"


def _short(value: float, dtype: Any) -> str:
    """The shortest text of a number that is read as the same one in its type."""
    texts = (repr(float(f"{value:.{digits}g}")) for digits in range(1, 18))
    return next(text for text in texts if dtype.type(float(text)) == dtype.type(value))
