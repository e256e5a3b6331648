"""The gate as a plug-in of pytest: options for ``pytest --pyargs reference.conformance``. It does nothing elsewhere.

Every run of pytest loads this where quantgap is installed. Hence a module of its own, beside the packages: it imports
nothing but the standard library until the gate is asked for, and adds no option before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference.gate import Gate

TESTS = "reference.conformance"


def seconds(text: str) -> float:
    """Read a time: more than 0, and at most an hour."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 3600 seconds, got {text!r}")
    return value


OPTIONS: dict[str, dict[str, Any]] = {  # of the command "gate", too
    "--as": {"metavar": "METHOD", "dest": "method", "help": "the method of the suite that it claims to be"},
    "--role": {"metavar": "ROLE", "help": "what it quantizes: weight, activation or signed_activation"},
    "--variant": {"metavar": "NAME", "help": "of the method; by default the one that fits best"},
    "--expected": {"metavar": "FILE", "help": "TOML file of expected failures and exemptions, with reasons"},
    "--seconds": {"metavar": "S", "type": seconds, "default": 10.0, "help": "time that a property may take (10)"},
}
OF_PYTEST: dict[str, dict[str, Any]] = {
    "--implementation": {
        "metavar": "PKG.MODULE:FACTORY",
        "help": "what returns the quantizer, from torchimpl.contract.of_torch or reference.contract.of_numpy",
    },
    "--examples": {"metavar": "N", "type": int, "default": 25, "help": "inputs that hypothesis draws for each (25)"},
}


def gate(name: str, given: Any) -> Gate:
    """Return the gate of an implementation for what `OPTIONS` gave; raises NoSubject."""
    from reference.gate import Gate
    from reference.subjects import load
    from reference.verdicts import Known

    known = Known.read(given.expected) if given.expected else None
    return Gate(
        load(name), given.method, role=given.role, variant=given.variant, known=known, source=repr(name),
        seconds=given.seconds,
    )  # fmt: skip


def pytest_load_initial_conftests(early_config: Any, parser: Any, args: Sequence[str]) -> None:
    """Add the options, if the gate's tests are asked for."""
    if not any(word.partition("::")[0].startswith(TESTS) for word in args):
        return
    _refuse_others()
    group = parser.getgroup("quantgap", "the gate for quantizers")
    for name, options in (OF_PYTEST | OPTIONS).items():
        group.addoption(name, **options)


def pytest_configure(config: Any) -> None:
    """Import the implementation, if there is one; what is wrong with it is one line."""
    name = getattr(config.option, "implementation", None)
    if name is None and not any(str(word).partition("::")[0].startswith(TESTS) for word in config.args):
        return
    _refuse_others()
    import pytest

    from reference import conformance
    from reference.verdicts import NoSubject

    if name is None:
        raise pytest.UsageError(f"{TESTS} needs --implementation package.module:factory")
    try:
        config.stash[conformance.GATE] = gate(name, config.option)
    except NoSubject as error:
        raise pytest.UsageError(str(error)) from None


def _refuse_others() -> None:
    from paper_tables import in_the_way

    if other := in_the_way.found(here=True):
        sys.stderr.write(f"error: {other}\n")
        raise SystemExit(2)
