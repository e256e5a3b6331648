"""The gate: every property of the contract tried on anybody's quantizer, at inputs that it finds, and reported.

    report = conformance.check(contract.of_numpy(forward, bits=2, vjp=vjp, parameters={"step": 0.5}), reference="lsq")

No property stops another. A row of the report has a property, its verdict, the smallest witness that was found, what
was expected and the expression that runs it again. As a plug-in of pytest, one test a property:

    python -m pytest --pyargs reference.conformance --implementation package.module:factory --as lsq
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reference import inputs
from reference.checks import refuse
from reference.contract import Quantizer
from reference.gate import SECONDS, Case, Gate
from reference.grid import Array
from reference.inputs import FORMATS
from reference.subjects import load
from reference.verdicts import WRONG, Known, Report, Row


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

    >>> from reference import contract, lsq
    >>> subject = contract.of_reference(lsq, lsq.Params(0.5, 2, "weight", "mqbench"))
    >>> report = check(subject, reference="lsq")
    >>> report.ok, report.kin
    (True, 'lsq, weight, mqbench')
    >>> [row.witness for row in check(contract.of_numpy(np.sign, bits=1)).wrong]
    ['[-1.0, 0.0, 1.0]']
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
    role: str | None = None,
    variant: str | None = None,
) -> Row:
    """Run one property again, at one input; `subject` may be named as ``"package.module:factory"``.

    >>> from reference import contract
    >>> print(again(contract.of_numpy(np.sign, bits=1), "levels", [-1.0, 0.0, 1.0]).said)
    x = [-1.0, 0.0, 1.0]: the number of values of forward(x) is 3: -1, 0, 1, expected 2
    """
    subject = load(subject) if isinstance(subject, str) else subject
    gate = Gate(subject, reference, role=role, variant=variant)
    case = Case(name, dtype or subject.dtypes[0], device or subject.devices[0])
    if case not in gate.cases:
        names = ", ".join(dict.fromkeys(one.name for one in gate.cases))
        raise refuse("property", name, f"one of {names}")
    points = np.ravel(np.asarray(x, np.float64)).astype(FORMATS[case.dtype].carrier)
    return gate.run(case, inputs.arranged(subject, points))


# The plug-in of pytest: the options are in quantgap_gate.py, which pytest finds by its entry point


def pytest_generate_tests(metafunc: Any) -> None:
    """One test a property; none, and a reason, where this file was named and no implementation."""
    if "case" in metafunc.fixturenames:
        import pytest

        gate = metafunc.config.stash.get(GATE, None)
        if gate is None:
            skipped = pytest.mark.skip(reason="needs --implementation, as in --pyargs reference.conformance")
            metafunc.parametrize("case", [pytest.param(None, marks=skipped)])
            return
        metafunc.parametrize("case", gate.cases, ids=[case.id for case in gate.cases])


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
        pytest.fail(f"{gate.subject.name}, {row.id}, {row.verdict}: {words}", pytrace=False)


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
    @given(
        strategies.arrays(
            gate.subject.at(case.dtype, case.device), case.dtype, points=gate.points(case.dtype, case.device)
        )
    )
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
