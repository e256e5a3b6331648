"""The tests tested: each mistake in mutants.toml is planted in a copy of the sources, and must make a test fail."""

from __future__ import annotations

import ast
import compileall
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

from tests.meta.planting import plant

ROOT = Path(__file__).parents[2]
MUTANTS = {m["name"]: m for m in tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())["mutant"]}
Run = Callable[[list[str]], tuple[int, str]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources and their tests."""
    copy = tmp_path_factory.mktemp("mutants") / "tree"
    copy.mkdir()
    for folder in ("reference", "torchimpl", "paper_tables", "arm", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "meta"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    # Bytecode is known by the second of its source, if not by a digest: two mutants may share a second.
    compileall.compile_dir(copy, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return copy


@pytest.fixture(scope="module")
def run(tree) -> Iterator[Run]:
    """Run test files of the copy until one fails, in a process of their own; returns exit status and output."""
    passed_on = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "QUANTGAP_")) and k != "CI"}
    own = {
        "HYPOTHESIS_PROFILE": "mutants",
        "NUMBA_CACHE_DIR": str(tree.parent / "numba"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(tree),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # hypothesis does without its plugin
    }
    output = tree.parent / "output"
    command = [sys.executable, str(Path(__file__).with_name("forks.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tree, env=passed_on | own, **pipes) as forks:

        def request(files: list[str]) -> tuple[int, str]:
            quiet = ["-q", "--tb=short", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
            arguments = ["-x", *quiet, *files]
            forks.stdin.write(json.dumps([arguments, str(output)]) + "\n")
            forks.stdin.flush()
            return int(forks.stdout.readline()), output.read_text()

        yield request


@pytest.fixture(scope="module")
def caught_by(run) -> Iterator[set[str]]:
    """The tests that caught a mistake; when all mistakes are through, each of them must pass without one."""
    tests: set[str] = set()
    yield tests
    status, output = run(sorted(tests)) if tests else (0, "")
    assert status == 0, f"what caught a mistake fails without any, too:\n{output[-5000:]}"


def planted(mutant: dict, source: str) -> str:
    """Return `source` with the mistake."""
    try:
        return plant(source, mutant["old"], mutant["new"], mutant.get("function", ""))
    except (LookupError, SyntaxError) as error:
        pytest.fail(f"{mutant['name']}: not planted in {mutant['file']}: {error}")


@cache
def formats(file: str) -> tuple[str, str]:
    """Return a source as it is, and without comments, line breaks and parentheses that are not needed."""
    original = (ROOT / file).read_text()
    return original, ast.unparse(ast.parse(original))


@pytest.mark.parametrize("name", MUTANTS)
def test_places_are_found_whatever_the_formatting(name):
    mutant = MUTANTS[name]
    one, other = (ast.dump(ast.parse(planted(mutant, source))) for source in formats(mutant["file"]))
    assert one == other


@pytest.mark.parametrize("name", MUTANTS)
def test_mistakes_are_caught(tree, run, caught_by, name):
    mutant = MUTANTS[name]
    source = tree / mutant["file"]
    original = source.read_text()
    source.write_text(planted(mutant, original))
    try:
        status, output = run(mutant["tests"])
    finally:
        source.write_text(original)
    failed = [line for line in output.splitlines() if line.startswith("FAILED ")]
    caught = status == 1 and failed  # and not an error while collecting, or in a fixture
    assert caught, f"{name}: not caught (exit status {status}).\n{mutant['why']}\n{output[-5000:]}"
    caught_by.add(failed[0].removeprefix("FAILED ").split(" - ")[0])
    print(f"{name}: {failed[0]}")
