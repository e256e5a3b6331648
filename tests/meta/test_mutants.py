"""The tests tested: each mistake of mutants.toml, and each that the suite documents, must make a test fail.

It is planted in a copy of the sources: by default one of each package, in CI one of each file, and with
QUANTGAP_MISTAKES=all, as in `tox -e mutants` and `tox -e nightly`, every one.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from paper_tables.audit import divergence
from paper_tables.audit.planting import plant
from tests.meta.copies import ROOT, Copy
from tests.strategies import ALL_MISTAKES, QUICK

MUTANTS = {m["name"]: m for m in tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())["mutant"]} | {
    f"{m.title}: {m.name}": {"name": m.name, "file": f"reference/{m.method}.py", **dataclasses.asdict(m)}
    for m in divergence.mistakes()
}
FIRST_OF_FILE = {mutant["file"]: name for name, mutant in reversed(MUTANTS.items())}
FIRST_OF_PACKAGE = {Path(mutant["file"]).parent: name for name, mutant in reversed(MUTANTS.items())}
PLANTED = MUTANTS if ALL_MISTAKES else (FIRST_OF_PACKAGE if QUICK else FIRST_OF_FILE).values()


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Iterator[Copy]:
    made = Copy(tmp_path_factory.mktemp("mutants"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def caught_by(copy) -> Iterator[set[str]]:
    """The tests that caught a mistake; where all mistakes are planted, each of them must then pass without one."""
    tests: set[str] = set()
    yield tests
    status, output = copy.run(sorted(tests)) if ALL_MISTAKES and tests else (0, "")
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


def test_every_mistake_has_its_place():
    for mutant in MUTANTS.values():
        ast.parse(planted(mutant, formats(mutant["file"])[0]))


@pytest.mark.parametrize("name", PLANTED if QUICK else MUTANTS)
def test_places_are_found_whatever_the_formatting(name):
    mutant = MUTANTS[name]
    one, other = (ast.dump(ast.parse(planted(mutant, source))) for source in formats(mutant["file"]))
    assert one == other


def test_the_tests_that_are_named_are_there():
    """Also those of mistakes that are planted nightly only."""
    for name in sorted({name for mutant in MUTANTS.values() for name in mutant["tests"]}):
        file, *parts = name.split("::")
        source = (ROOT / file).read_text()
        assert all(re.search(rf"^ *(def|class) {part.split('[')[0]}\b", source, re.M) for part in parts), name


@pytest.mark.parametrize("name", PLANTED)
def test_mistakes_are_caught(copy, caught_by, name):
    mutant = MUTANTS[name]
    with copy.holding(mutant["file"], planted(mutant, (ROOT / mutant["file"]).read_text())):
        status, output = copy.run(mutant["tests"])
    failed = [line for line in output.splitlines() if line.startswith("FAILED ")]
    caught = status == 1 and failed  # and not an error while collecting, or in a fixture
    assert caught, f"{name}: not caught (exit status {status}).\n{mutant['why']}\n{output[-5000:]}"
    caught_by.add(failed[0].removeprefix("FAILED ").split(" - ")[0])
    print(f"{name}: {failed[0]}")
