"""The gate: every property of the contract tried on anybody's quantizer, at inputs that it finds, and reported.

    report = conformance.check(contract.of_numpy(forward, bits=2, vjp=vjp, parameters={"step": 0.5}), reference="lsq")

No property stops another. A row of the report has a property, its verdict, the smallest witness that was found, what
was expected and the expression that runs it again. As a plug-in of pytest, one test a property:

    python -m pytest --pyargs reference.conformance --implementation package.module:factory --as lsq
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import signal
import sys
import threading
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reference import comparison, contract, inputs
from reference.comparison import Kin, Property
from reference.contract import NotApplicable, Quantizer, Violation, WrongShape
from reference.grid import Array, refuse
from reference.inputs import FORMATS
from reference.shrinking import shrink

SECONDS = 10.0  # that one property may take
HANGS = 2  # after as many, no other is tried
WRONG = ("fails", "raises", "hangs", "stale")
OF_SHAPE = ("shape", "0-d", "empty")  # who report another shape; the others have nothing to say then


class Raised(Exception):  # noqa: N818 - what the subject raised, not the suite
    """The subject raised something; it is the cause."""


class Hung(Exception):  # noqa: N818
    """The subject took too long."""


class NoSubject(ValueError):
    """What is to be gated cannot be had; the message is one line."""


@dataclass(frozen=True)
class Row:
    """What was found of one property.

    Attributes
    ----------
    property, dtype, device : str
    verdict : str
        "holds"; "fails", "raises" (the subject's own error) or "hangs"; "expected" (fails or raises, as is known),
        "exempt" (so too, and is not meant to hold), "stale" (neither, although the file says so); "not applicable".
    witness : str
        The smallest input that was found, as a list.
    expression, got, want : str
        What of it is what, and what it ought to be.
    again : str
        The call that runs it again, at the witness.
    reason : str
        Why it is not applicable, exempt or expected.
    """

    property: str
    dtype: str
    device: str
    verdict: str
    witness: str = ""
    expression: str = ""
    got: str = ""
    want: str = ""
    again: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """The property, and where it was tried."""
        return f"{self.property}-{self.dtype}" + (f"-{self.device}" if self.device != "cpu" else "")

    @property
    def said(self) -> str:
        """What was found, as one sentence."""
        if self.verdict in ("fails", "expected", "exempt") and self.expression:
            return f"x = {self.witness}: {self.expression} is {self.got}, expected {self.want}"
        if self.verdict == "raises":
            return f"x = {self.witness}: {self.got}"
        return self.got or self.reason


@dataclass(frozen=True)
class Report:
    """What was found of a quantizer.

    Attributes
    ----------
    name : str
    kin : str
        Which of the suite's methods it was held to, with role and variant.
    others : mapping of str to str
        Of the other roles and variants, what does not fit; empty where all does.
    rows : tuple of Row
    """

    name: str
    rows: tuple[Row, ...]
    kin: str = ""
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def wrong(self) -> tuple[Row, ...]:
        """The rows for which a gate is shut."""
        return tuple(row for row in self.rows if row.verdict in WRONG)

    @property
    def ok(self) -> bool:
        """Whether it passes."""
        return not self.wrong

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [f"{self.name}: {self.summary}"]
        if self.kin:
            lines.append(f"held to {self.kin}" + "".join(f"; {n}: {w}" for n, w in self.others.items()))
        for row in self.rows:
            lines.append(f"  {row.name:{width}}  {row.verdict:14}  {row.said}".rstrip())
            if row.again and row.verdict in WRONG:
                lines.append(f"  {'':{width}}  {'again:':14}  {row.again}")
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """The verdicts, counted."""
        verdicts = [row.verdict for row in self.rows]
        return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts, key=_order)))

    def raise_if_wrong(self) -> None:
        """Raise AssertionError with the report if anything is wrong."""
        if self.wrong:
            raise AssertionError(str(self))


def _order(verdict: str) -> int:
    return [*WRONG, "holds", "expected", "exempt", "not applicable"].index(verdict)


@dataclass(frozen=True)
class Known:
    """What is known not to hold: properties, by name or with their dtype (nan-float16), and why."""

    expected: Mapping[str, str] = dataclasses.field(default_factory=dict)
    exempt: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Known:
        """Read a TOML file with the tables ``[expected]`` and ``[exempt]``: a reason for each property.

        Raises
        ------
        NoSubject
            If the file cannot be read, has anything else in it, or a reason is missing.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise NoSubject(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise NoSubject(f"{path}: no TOML: {error}") from None
        unknown = sorted(set(content) - {"expected", "exempt"})
        if unknown or not all(isinstance(table, dict) for table in content.values()):
            raise NoSubject(f"{path}: has [{', '.join(unknown or content)}], where [expected] and [exempt] are known")
        for table in content.values():
            for name, why in table.items():
                if not isinstance(why, str) or not why.strip():
                    raise NoSubject(f"{path}: {name} must have a reason, got {why!r}")
        return cls(content.get("expected", {}), content.get("exempt", {}))

    def of(self, name: str, dtype: str) -> tuple[str, str]:
        """Return the verdict on a failure, and the reason for it; empty if none is known."""
        for verdict, table in (("expected", self.expected), ("exempt", self.exempt)):
            for key in (f"{name}-{dtype}", name):
                if key in table:
                    return verdict, table[key]
        return "", ""

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Raise NoSubject if a property is named that there is none of."""
        unknown = sorted({*self.expected, *self.exempt} - set(names))
        if unknown:
            raise NoSubject(f"expected failures of {', '.join(unknown)}: properties are {', '.join(names)}")


@dataclass(frozen=True)
class Case:
    """A property to be tried in a type, on a device."""

    property: str
    dtype: str
    device: str

    @property
    def name(self) -> str:
        """As pytest shows it."""
        return f"{self.property}-{self.dtype}" + (f"-{self.device}" if self.device != "cpu" else "")


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
                f"it is {_article(type(subject).__name__)}, not what torchimpl.contract.of_torch or "
                "reference.contract.of_numpy returns"
            )
        self.subject, self.source, self.seconds = subject, source, seconds
        self.known = known or Known()
        self._views: dict[tuple[str, str], Quantizer] = {}
        self._vectors: dict[tuple[str, str], Array] = {}
        self._points: dict[tuple[str, str], inputs.Points] = {}
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
        self.known.refuse_unknown([n for case in self.cases for n in (case.property, case.name)])

    @cached_property
    def kin(self) -> Kin | None:
        """The role and variant that fit best."""
        return min(self._relatives, key=self.misfit, default=None)

    def misfit(self, kin: Kin) -> tuple[int, ...]:
        """Say how much of a method, role and variant does not fit."""
        if len(self._relatives) == 1:
            return ()
        dtype, device = self._first
        try:
            with self._limited(), _captured():
                return comparison.mismatches(kin, self._view(dtype, device), self.array(dtype, device))
        except (Raised, Hung, Violation, ValueError):
            return (sys.maxsize,)

    @property
    def others(self) -> dict[str, str]:
        """The other roles and variants, with what does not fit."""
        words = ("values", "gradients for x", "gradients for parameters")
        found = {}
        for kin in self._relatives:
            if kin is not self.kin:
                counts = self.misfit(kin)
                parts = [f"{n} {w}" for n, w in zip(counts, words, strict=False) if n]
                if counts == (sys.maxsize,):
                    parts = ["could not be tried"]
                found[f"{kin.params.role}, {kin.params.variant}"] = f"{', '.join(parts)} differ" if parts else "fits, too"
        return found

    @property
    def _first(self) -> tuple[str, str]:
        return self.subject.dtypes[0], self.subject.devices[0]

    @cached_property
    def properties(self) -> dict[str, Property]:
        """Everything that is tried, by name."""
        found: dict[str, Property] = dict(contract.PROPERTIES)
        if self.subject.surrogate is not None:
            found |= comparison.surrogate_properties(self.subject)
        return found

    @cached_property
    def cases(self) -> list[Case]:
        """Every property, in every type, on every device."""
        names = list(self.properties)
        if self._relatives:
            names += list(comparison.properties(self._relatives[0], self.subject))
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
        subject, name = self._view(case.dtype, case.device), case.property
        blank = Row(name, case.dtype, case.device, "holds")
        if name in subject.exempt:
            return dataclasses.replace(blank, verdict="exempt", reason=subject.exempt[name])
        if self._hung >= HANGS:
            return dataclasses.replace(blank, verdict="hangs", got=f"not tried: it has hung {HANGS} times")
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
        kin = "" if self.kin is None else self.kin.title
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
        try:
            with self._limited(), _captured():
                whole = self.array(blank.dtype, blank.device) if x is None else x
                property_(subject, whole)
        except NotApplicable as why:
            return dataclasses.replace(blank, verdict="not applicable", reason=str(why))
        except WrongShape as violation:
            if blank.property not in OF_SHAPE:
                return dataclasses.replace(blank, verdict="not applicable", reason="its values have another shape")
            return self._shown(blank, violation, np.zeros(0, kind.carrier) if x is None else x)
        except (Violation, Raised) as first:
            error: Violation | Raised = first
        else:
            return blank
        if "whole" not in locals():  # already while it was looked at
            return self._shown(blank, error, np.zeros(0, kind.carrier))
        # The same along the free axis: a vector is what is made smaller.
        vector = np.moveaxis(whole, subject.axis, -1).reshape(-1, whole.shape[subject.axis])[0] if whole.ndim else whole.reshape(1)
        last = error

        def shows(points: Array) -> bool:
            nonlocal last
            try:
                with _captured():
                    property_(subject, inputs.arranged(subject, points))
            except type(error) as again:
                if isinstance(error, Raised) and type(again.__cause__) is not type(error.__cause__):
                    return False
                last = again
                return True
            except (NotApplicable, Violation, Raised):
                return False
            return False

        found = vector
        with contextlib.suppress(Hung), self._limited():
            if shows(vector):
                found = shrink(vector, kind, shows)
                shows(found)
        return self._shown(blank, last, found)

    def _shown(self, blank: Row, error: Violation | Raised, points: Array) -> Row:
        witness = _listed(points)
        held = f", reference={self.reference!r}" if ":" in blank.property and self.reference else ""
        dtype = "" if blank.dtype == self.subject.dtypes[0] else f", dtype={blank.dtype!r}"
        again = f"conformance.again({self.source}, {blank.property!r}, {witness}{dtype}{held})"
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
            self._views[key] = _guarded(self.subject.at(dtype, device))
        return self._views[key]

    def _limited(self) -> contextlib.AbstractContextManager[None]:
        return limited(self.seconds)


def check(
    subject: Quantizer,
    reference: str | None = None,
    *,
    role: str | None = None,
    variant: str | None = None,
    expected: str | Path | None = None,
    seconds: float = SECONDS,
) -> Report:
    """Try every property, and hold the subject to a method of the suite if one is named.

    Parameters
    ----------
    subject : Quantizer
        From `contract.of_numpy` or `torchimpl.contract.of_torch`.
    reference : str, optional
        A method: values, and gradients for the input and every parameter, are compared with it. Without, gradients are
        compared with the subject's surrogate, if it names one.
    role, variant : str, optional
        Of the method; by default those that fit best, and the report says how the others differ.
    expected : path, optional
        TOML file of expected failures and exemptions: see `Known.read`.
    seconds : float
        Time that one property may take.

    Raises
    ------
    ValueError
        If there is nothing to be checked.

    >>> from reference import lsq
    >>> subject = contract.of_reference(lsq, lsq.Params(0.5, 2, "weight", "mqbench"))
    >>> report = check(subject, reference="lsq")
    >>> report.ok, report.kin
    (True, 'lsq, weight, mqbench')
    >>> [row.witness for row in check(contract.of_numpy(np.sign, bits=1)).wrong]
    ['[0.0, 1.0, -1.0]']
    """
    known = Known.read(expected) if expected is not None else None
    return Gate(subject, reference, role=role, variant=variant, known=known, seconds=seconds).run_all()


def again(
    subject: Quantizer | str,
    name: str,
    x: npt.ArrayLike,
    *,
    dtype: str | None = None,
    device: str | None = None,
    reference: str | None = None,
) -> Row:
    """Run one property again, at one input; `subject` may be named as ``"package.module:factory"``.

    >>> print(again(contract.of_numpy(np.sign, bits=1), "levels", [-1.0, 0.0, 1.0]).said)
    x = [0.0, 1.0, -1.0]: the number of values of forward(x) is 3: -1, 0, 1, expected 2
    """
    subject = load(subject) if isinstance(subject, str) else subject
    gate = Gate(subject, reference)
    case = Case(name, dtype or subject.dtypes[0], device or subject.devices[0])
    if case not in gate.cases:
        names = ", ".join(dict.fromkeys(one.property for one in gate.cases))
        raise refuse("property", name, f"one of {names}")
    points = np.ravel(np.asarray(x, np.float64)).astype(FORMATS[case.dtype].carrier)
    return gate.run(case, inputs.arranged(subject, points))


def load(name: str) -> Quantizer:
    """Import ``package.module:factory`` and return the quantizer that the factory returns, or that it is.

    The present folder is looked at first, as ``python -m`` does.

    Raises
    ------
    NoSubject
        If that fails in any way; the message is one line.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise NoSubject(f"{name}: must be package.module:factory")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with limited(6 * SECONDS), _captured():
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
            if not isinstance(found, Quantizer) and callable(found):
                found = found()
        except Hung:
            raise NoSubject(f"{name}: nothing came within {6 * SECONDS:g} s") from None
        except (Exception, SystemExit) as error:
            raise NoSubject(f"{name}: {_one_line(error)}") from None
    if not isinstance(found, Quantizer):
        raise NoSubject(f"{name}: returns {_article(type(found).__name__)}, not what of_torch or of_numpy returns")
    return found


# What a subject may do


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Hung` where a block takes longer; only in a main thread, on systems with alarms."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _captured() -> Iterator[None]:
    """Let what is printed go nowhere: "prints nothing" tells."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _guarded(subject: Quantizer) -> Quantizer:
    """The same quantizer, whose errors are told from ours, and which returns arrays."""

    def guard(function: Callable[..., Any], *, codes: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            except (NotApplicable, Hung, WrongShape):
                raise
            except ValueError as error:
                if codes:  # which is how NaN is to be refused
                    raise
                raise Raised(_one_line(error)) from error
            except (Exception, SystemExit) as error:
                raise Raised(_one_line(error)) from error

        return call

    def forward(x: Array) -> Array:
        values = _as_numbers(guard(subject.forward)(x), "values")
        if values.shape != x.shape:
            raise WrongShape(f"the shape of forward(x), x of shape {x.shape},", values.shape, x.shape)
        return values

    def vjp(x: Array, grad: Array) -> contract.Gradients:
        found = guard(subject.vjp)(x, grad)
        if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Mapping):
            raise Raised("its vjp must return the gradient for x and a mapping of those for the parameters")
        by_x = _as_numbers(found[0], "gradient for x")
        return by_x, {name: _as_numbers(value, f"gradient for {name}") for name, value in found[1].items()}

    return dataclasses.replace(
        subject,
        forward=forward,
        codes=guard(subject.codes, codes=True),
        decode=guard(subject.decode),
        vjp=vjp,
        surrogate=None if subject.surrogate is None else guard(subject.surrogate),
        kind=None if subject.kind is None else guard(subject.kind),
    )


def _as_numbers(value: Any, what: str) -> Array:
    found = np.asarray(value)
    if found.dtype.kind not in "iuf":
        raise Raised(f"its {what} must be an array of numbers, got {_article(type(value).__name__)}")
    return found


def _one_line(error: BaseException) -> str:
    """An error as one line, with the place in the subject's own file."""
    text = " ".join(str(error).split()) or "no message"
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    own = [f for f in own if Path(f.filename).parent != Path(__file__).parent]
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text[:300]}{where}"


def _article(name: str) -> str:
    return f"an {name}" if name[:1] in "AEIOUaeiou" else f"a {name}"


def _listed(points: Array, most: int = 24) -> str:
    """An array as a list that can be pasted; infinity and NaN as text, which `again` reads."""
    flat = [float(v) for v in np.ravel(points)]
    words = [repr(v) if np.isfinite(v) else repr(str(v)) for v in flat]
    if points.dtype != np.float64:
        words = [_short(v, points.dtype) if np.isfinite(v) else repr(str(v)) for v in flat]
    return f"[{', '.join(words)}]"


def _short(value: float, dtype: Any) -> str:
    """The shortest text of a number that is read as the same one in its type."""
    for digits in range(1, 18):
        text = repr(float(f"{value:.{digits}g}"))
        if dtype.type(float(text)) == dtype.type(value):
            return text
    return repr(value)


# The plug-in of pytest: the options are in quantgap_gate.py, which pytest finds by its entry point


def pytest_generate_tests(metafunc: Any) -> None:
    """One test a property."""
    if "case" in metafunc.fixturenames:
        gate = metafunc.config.stash[GATE]
        metafunc.parametrize("case", gate.cases, ids=[case.name for case in gate.cases])


def test_property(case: Case, request: Any) -> None:
    """A property holds at the inputs that the gate finds, and at those that hypothesis draws."""
    import pytest

    gate: Gate = request.config.stash[GATE]
    row = gate.run(case)
    if row.verdict == "holds":
        row = drawn(gate, case, request.config.getoption("--examples")) or row
    words = f"{row.said}\n{row.again}".strip()
    if row.verdict in ("exempt", "not applicable"):
        pytest.skip(row.reason)
    if row.verdict == "expected":
        pytest.xfail(f"{row.reason}: {row.said}")
    if row.verdict in WRONG:
        pytest.fail(f"{gate.subject.name}, {row.name}, {row.verdict}: {words}", pytrace=False)


def drawn(gate: Gate, case: Case, examples: int) -> Row | None:
    """Try a property at inputs that hypothesis draws, if it is installed; return what is wrong, if anything is."""
    try:
        from hypothesis import HealthCheck, Phase, given, settings
    except ImportError:
        return None
    from reference import strategies

    wrong: list[Row] = []

    @settings(
        max_examples=max(examples, 1), database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategies.arrays(gate.subject.at(case.dtype, case.device), case.dtype, points=gate.points(case.dtype, case.device)))
    def look(x: Array) -> None:
        row = None if wrong else gate.run(case, x)
        if row is not None and row.verdict in ("fails", "raises", "hangs"):
            wrong.append(row)

    if examples:
        look()
    return wrong[0] if wrong else None


class _Key:
    """Where the plug-in keeps the gate."""


GATE: Any = _Key()
