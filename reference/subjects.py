"""Somebody's quantizer: how it is imported, and how what it raises, prints or takes too long for is told apart."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reference import contract
from reference.contract import NotApplicable, Quantizer, WrongShape
from reference.grid import Array
from reference.verdicts import NoSubject

IMPORTING = 60.0  # seconds that an import may take


class Raised(Exception):  # noqa: N818 - what the subject raised, not the suite
    """The subject raised something; it is the cause."""


class Hung(BaseException):
    """The subject took too long; no Exception, which it might catch."""


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
    with limited(IMPORTING), captured():
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
            if not isinstance(found, Quantizer) and callable(found):
                found = found()
        except Hung:
            raise NoSubject(f"{name}: nothing came within {IMPORTING:g} s") from None
        except (Exception, SystemExit) as error:
            raise NoSubject(f"{name}: {one_line(error)}") from None
    if not isinstance(found, Quantizer):
        raise NoSubject(f"{name}: returns {article(type(found).__name__)}, not what of_torch or of_numpy returns")
    return found


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Hung` where a block takes longer; only in a main thread, on systems with alarms."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # and again, if it is caught all the same
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def captured() -> Iterator[None]:
    """Let what is printed go nowhere: "prints nothing" tells."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def guarded(subject: Quantizer) -> Quantizer:
    """The same quantizer, whose errors are told from ours, and which returns arrays."""

    def guard(function: Callable[..., Any], *, codes: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            except (NotApplicable, Hung, WrongShape):
                raise
            except ValueError as error:
                if codes and np.isnan(arguments[0]).any():  # which is how NaN is to be refused
                    raise
                raise Raised(one_line(error)) from error
            except (Exception, SystemExit) as error:
                raise Raised(one_line(error)) from error

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

    def numbers(function: Callable[..., Any], what: str) -> Callable[..., Array]:
        return lambda *arguments, **named: _as_numbers(function(*arguments, **named), what)

    return dataclasses.replace(
        subject,
        forward=forward,
        codes=numbers(guard(subject.codes, codes=True), "codes"),
        decode=numbers(guard(subject.decode), "decoded values"),
        vjp=vjp,
        surrogate=None if subject.surrogate is None else numbers(guard(subject.surrogate), "surrogate's values"),
        kind=None if subject.kind is None else guard(subject.kind),
    )


def _as_numbers(value: Any, what: str) -> Array:
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise Raised(f"its {what} must be an array of numbers: {one_line(error)}") from None
    if found.dtype.kind not in "iuf":
        raise Raised(f"its {what} must be an array of numbers, got {article(type(value).__name__)}")
    return found


def one_line(error: BaseException) -> str:
    """An error as one line, with the place in the subject's own file."""
    text = " ".join(str(error).split()) or "no message"
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    own = [f for f in own if Path(f.filename).parent != Path(__file__).parent]
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text[:300]}{where}"


def article(name: str) -> str:
    return f"an {name}" if name[:1] in "AEIOUaeiou" else f"a {name}"
