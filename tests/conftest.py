"""How much the property tests draw, where the real data are, and that tests can import each other's helpers."""

import gc
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # a bare `pytest` does not add the root, `python -m pytest` does
    sys.path.insert(0, str(ROOT))

slow_machine = [HealthCheck.too_slow]  # says something about the machine, nothing about the code
settings.register_profile("dev", max_examples=10, deadline=None, suppress_health_check=slow_machine)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=25, derandomize=True)
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=slow_machine)
# For tests/meta: what CI draws, without looking for the simplest failure.
settings.register_profile("mutants", settings.get_profile("ci"), database=None, phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def pytest_collection_finish() -> None:
    """One thread for torch, as xdist runs several processes; tests that need no torch do not import it.

    What has been imported stays: the garbage collector need not look at it again and again.
    """
    gc.freeze()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Examples of arm/ run kernels; without what builds and runs them they are skipped, as its tests are."""
    missing = [name for name in ("ziglang", "unicorn") if importlib.util.find_spec(name) is None]
    if missing:
        reason = pytest.mark.skip(reason=f"needs {' and '.join(missing)}: pip install quantgap[arm]")
        for item in items:
            if item.nodeid.startswith("arm/"):
                item.add_marker(reason)


def folder(variable: str, content: str) -> Path:
    """Return the folder that an environment variable names, or skip the test."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set: this test needs {content}; see README")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    return folder("QUANTGAP_DATA", "the CIFAR-10 images")


@pytest.fixture(scope="session")
def checkpoint_root() -> Path:
    return folder("QUANTGAP_CHECKPOINTS", "the checkpoints that DAQ's authors released")
