"""Targets of benchmarks: a ratio that is missed is a warning that has it, and a failure only where that is wanted."""

import warnings

import pytest


class TargetMissed(UserWarning):
    """A ratio that this machine, or the code as it is, does not reach."""


def pytest_addoption(parser):
    parser.addoption("--strict-targets", action="store_true", help="fail where a target is missed, do not only warn")


@pytest.fixture
def target(request):
    """Return a function that says whether what was measured is as wanted; the message has the ratio."""

    def check(met, message):
        if met:
            return
        if request.config.getoption("--strict-targets"):
            pytest.fail(message, pytrace=False)
        warnings.warn(TargetMissed(message), stacklevel=2)

    return check
