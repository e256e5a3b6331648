"""A copy of the sources and their tests, in which a mistake can be planted and tests can be run."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from py_compile import PycInvalidationMode

ROOT = Path(__file__).parents[2]
PACKAGES = ("reference", "torchimpl", "paper_tables", "arm")
FILES = ("pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE", "quantgap_gate.py")
QUIET = ["-x", "-q", "--tb=short", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
TIMED_OUT = (-signal.SIGPROF, -signal.SIGALRM)  # as exit statuses


class Copy:
    """Sources and tests in a folder of their own; tests run there in forks of one process that has the libraries.

    Parameters
    ----------
    folder : Path
        Where the copy goes, with what compiling leaves; it must be empty.
    """

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.tree.mkdir(parents=True)
        for package in (*PACKAGES, "tests", "docs"):
            shutil.copytree(ROOT / package, self.tree / package, ignore=shutil.ignore_patterns("__pycache__", "meta"))
        for file in FILES:
            shutil.copy(ROOT / file, self.tree)
        # Bytecode is known by the second of its source, if not by a digest: two mutants may share a second.
        compileall.compile_dir(self.tree, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        passed_on = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "QUANTGAP_")) and k != "CI"}
        own = {
            "HYPOTHESIS_PROFILE": "mutants",
            "NUMBA_CACHE_DIR": str(folder / "numba"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": str(self.tree),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # hypothesis does without its plugin
        }
        self._output = folder / "output"
        self._temporary = f"--basetemp={folder / 'temporary'}"  # pytest's usual place is cleared of older runs' files
        self._forks = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forks.py"))],
            cwd=self.tree,
            env=passed_on | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process; the folder stays."""
        self._forks.stdin.close()
        self._forks.wait()
        self._forks.stdout.close()

    @contextmanager
    def holding(self, file: str, source: str) -> Iterator[None]:
        """Have `source` in the place of a file."""
        place = self.tree / file
        original = place.read_text()
        place.write_text(source)
        try:
            yield
        finally:
            place.write_text(original)

    def run(self, tests: list[str], seconds: int = 0) -> tuple[int, str]:
        """Run tests until one fails, or for so many seconds (of the processor) if not 0; return status and output."""
        self._forks.stdin.write(json.dumps([[*QUIET, self._temporary, *tests], str(self._output), seconds]) + "\n")
        self._forks.stdin.flush()
        return int(self._forks.stdout.readline()), self._output.read_text(errors="replace")
