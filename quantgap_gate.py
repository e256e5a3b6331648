"""The gate as a plug-in of pytest: options for ``pytest --pyargs reference.conformance``. It does nothing elsewhere.

Every run of pytest loads this where quantgap is installed. Hence a module of its own, beside the packages: it imports
nothing but the standard library until the gate is asked for, and adds no option before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

TESTS = "reference.conformance"
OPTIONS: dict[str, dict[str, Any]] = {
    "--implementation": {
        "metavar": "PKG.MODULE:FACTORY",
        "help": "what returns the quantizer, from torchimpl.contract.of_torch or reference.contract.of_numpy",
    },
    "--as": {"metavar": "METHOD", "dest": "as_method", "help": "the method of the suite that it claims to be"},
    "--role": {"metavar": "ROLE", "help": "what it quantizes: weight, activation or signed_activation"},
    "--variant": {"metavar": "NAME", "help": "of the method; by default the one that fits best"},
    "--expected": {"metavar": "FILE", "help": "TOML file of expected failures and exemptions, with reasons"},
    "--seconds": {"metavar": "S", "type": float, "default": 10.0, "help": "time that a property may take (10)"},
    "--examples": {"metavar": "N", "type": int, "default": 25, "help": "inputs that hypothesis draws for each (25)"},
}


def pytest_load_initial_conftests(early_config: Any, parser: Any, args: Sequence[str]) -> None:
    """Add the options, if the gate's tests are asked for."""
    if not any(word.partition("::")[0].startswith(TESTS) for word in args):
        return
    _refuse_others()
    group = parser.getgroup("quantgap", "the gate for quantizers")
    for name, options in OPTIONS.items():
        group.addoption(name, **options)


def pytest_configure(config: Any) -> None:
    """Import the implementation, if there is one; what is wrong with it is one line."""
    name = getattr(config.option, "implementation", None)
    if name is None and not any(str(word).partition("::")[0].startswith(TESTS) for word in config.args):
        return
    _refuse_others()
    import pytest

    from reference import conformance
    from reference.verdicts import Known, NoSubject

    if name is None:
        raise pytest.UsageError(f"{TESTS} needs --implementation package.module:factory")
    given = config.option
    try:
        config.stash[conformance.GATE] = conformance.Gate(
            conformance.load(name),
            given.as_method,
            role=given.role,
            variant=given.variant,
            known=Known.read(given.expected) if given.expected else None,
            source=repr(name),
            seconds=given.seconds,
        )
    except NoSubject as error:
        raise pytest.UsageError(str(error)) from None


def _refuse_others() -> None:
    from paper_tables import in_the_way

    if other := in_the_way.found(here=True):
        sys.stderr.write(f"error: {other}\n")
        raise SystemExit(2)
