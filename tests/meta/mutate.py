"""How strong the tests are: small mistakes, made by rule all over the sources, of which they must catch 95 %.

`python -m tests.meta.mutate` takes the same few hundred of the thousands of places each time, plants one mistake after
the other and runs the tests that import the module, nearest first, until one fails. What none of them finds is a
survivor: it needs a better test, or a reason in survivors.toml why no test can tell (the same behaviour), or need not.
Each finding is written as it is made; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import hashlib
import json
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from tests.meta.copies import PACKAGES, ROOT, TIMED_OUT, Copy
from tests.meta.sites import Mistake, mistakes

COUNT = 300
LEAST = 0.95  # of the mistakes that change behaviour are to be caught
SECONDS = 600  # of the processor for the tests of one mistake: who takes longer hangs
SURVIVORS = Path(__file__).with_name("survivors.toml")
CAUGHT, SURVIVED, BROKEN, HUNG = "caught", "survived", "does not import", "hangs"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of a mistake; `by` is the test that caught it."""

    key: str
    tests: str  # digest of their sources
    place: str
    change: str
    status: str
    by: str = ""


def sample(count: int, files: Sequence[str] = ()) -> list[Mistake]:
    """Return so many mistakes of all that the rules make, by least digest: what is elsewhere changes nothing.

    Parameters
    ----------
    count : int
        How many, spread over the packages by how much there is to get wrong.
    files : sequence of str
        Files or folders to choose from, below the root; by default all packages.
    """
    sources = sorted(file for name in files or PACKAGES for file in _python(ROOT / name))
    found = [m for file in sources for m in mistakes(str(file.relative_to(ROOT)), file.read_text())]
    return sorted(found, key=lambda mistake: mistake.key)[:count]


def _python(place: Path) -> list[Path]:
    return [place] if place.is_file() else [*place.rglob("*.py")]


def runs_of(file: str) -> list[list[str]]:
    """Return the arguments of pytest, one run after the other, that are to find a mistake in a module.

    First its examples, the tests of its name and those that import it. A method is found by its name in the registry:
    then the tests of all methods run with what concerns this one. Last come the tests of its package that import what
    imports it, or all of them where none does.

    >>> runs_of("reference/dasr.py")[0][:2]
    ['reference/dasr.py', 'tests/reference/test_dasr.py']
    """
    package, stem = file.split("/")[0], Path(file).stem
    imports = _imports()
    module = _module(file)
    users = {_module(name) for name, names in imports.items() if module in names}
    tests = [name for name in imports if name.startswith("tests/") and Path(name).name.startswith("test_")]
    own = f"tests/{package}/test_{stem}.py"
    direct = {test for test in tests if module in imports[test] or test == own}
    nearby = {test for test in tests if test.startswith(f"tests/{package}/")} - direct
    further = {test for test in nearby if imports[test] & users} or (set() if direct else nearby)

    def order(test: str) -> tuple[bool, bool, int]:
        return test != own, not test.startswith(f"tests/{package}/"), (ROOT / test).stat().st_size

    runs = [[file, *sorted(direct, key=order)], sorted(further, key=order)]
    if (ROOT / "reference" / f"{stem}.py").is_file() and package in METHODS:
        runs.insert(1, [*METHODS[package], "-k", stem])
    return [run for run in runs if run]


METHODS = {  # files of tests that find methods by their names, and what they hold
    "reference": ["tests/reference/test_contract.py"],
    "torchimpl": ["tests/torchimpl/test_contract.py", "tests/torchimpl/test_kernels.py"],
}


@cache
def _imports() -> dict[str, set[str]]:
    """Return the modules that each file imports; tests import what their helpers import, too."""
    found = {}
    for path in (path for folder in (*PACKAGES, "tests") for path in _python(ROOT / folder)):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[str(path.relative_to(ROOT))] = names
    helpers = {_module(name): names for name, names in found.items() if name.startswith("tests/")}
    for names in helpers.values():
        names.update(*(helpers[name] for name in names & helpers.keys()))
    return {name: names for name, names in found.items() if not name.startswith("tests/meta/")}


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _digest(mistake: Mistake) -> str:
    """Say with which tests and which source a mistake was tried."""
    names = {name for run in runs_of(mistake.file) for name in run if name.endswith(".py")}
    content = "\0".join((ROOT / name).read_text() for name in sorted(names))
    return hashlib.sha256(f"{mistake.source}\0{content}".encode()).hexdigest()[:12]


_copy: Copy | None = None  # of this process
_failing: set[str] = set()  # tests that fail in it without a mistake


def attempt(mistake: Mistake) -> Finding:
    """Plant a mistake and run the tests that are to find it."""
    global _copy
    if _copy is None:
        _copy = Copy(Path(tempfile.mkdtemp(prefix="quantgap-mutants-")) / "copy")
    status, by = SURVIVED, ""
    for run in runs_of(mistake.file):
        status, by = _outcome(_copy, mistake, run)
        if status != SURVIVED:
            break
    place = f"{mistake.file}:{mistake.function}" if mistake.function else mistake.file
    return Finding(mistake.key, _digest(mistake), place, f"{mistake.old}  ->  {mistake.new}", status, by)


def _outcome(copy: Copy, mistake: Mistake, run: Sequence[str]) -> tuple[str, str]:
    """Run tests on a mistake: what becomes of it, and the test that says so, which must pass without the mistake."""
    while True:
        wanted = [name for name in run if name not in _failing]
        if not any(name.endswith(".py") for name in wanted):
            return SURVIVED, ""
        with copy.holding(mistake.file, mistake.source):
            code, output = copy.run([*wanted, *(f"--deselect={test}" for test in sorted(_failing))], SECONDS)
        if code in TIMED_OUT:
            return HUNG, ""
        failed = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        if not failed:
            return (SURVIVED, "") if code in (0, 5) else (CAUGHT, f"pytest ends with {code}")  # 5: no test of this name
        by = failed[0].split(" - ")[0].split(maxsplit=1)[1]
        if by in _failing or copy.run([by], SECONDS)[0] not in (1, 2):  # 2: the file cannot be imported
            return (BROKEN if code == 2 else CAUGHT), by
        _failing.add(by)


def known(file: Path) -> dict[str, Finding]:
    """Read what was found before; a line that was cut off is left out."""
    found = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            finding = Finding(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[finding.key] = finding
    return found


def findings(chosen: Sequence[Mistake], out: Path, workers: int) -> Iterator[Finding]:
    """Yield what becomes of each mistake, and write it; not tried again is what was caught, or has the same tests."""
    before = known(out)
    done = [
        m for m in chosen if m.key in before and (before[m.key].status != SURVIVED or before[m.key].tests == _digest(m))
    ]
    waiting = [mistake for mistake in chosen if mistake not in done]
    yield from (before[mistake.key] for mistake in done)
    out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool, out.open("a") as file:
        for future in as_completed([pool.submit(attempt, mistake) for mistake in waiting]):
            found = future.result()
            file.write(json.dumps(dataclasses.asdict(found)) + "\n")
            file.flush()
            yield found


def judge(found: Sequence[Finding], reasons: dict[str, dict[str, str]]) -> tuple[list[str], bool]:
    """Return what is to be said, and whether the tests are strong enough.

    Parameters
    ----------
    found : sequence of Finding
    reasons : dict
        Of survivors, by key: `kind` is "same behaviour" (not counted at all) or "not tested", and `why`.
    """
    counts = Counter(finding.status for finding in found)
    same = {key for key, reason in reasons.items() if reason["kind"] == "same behaviour"}
    survivors = [f for f in found if f.status == SURVIVED]
    changing = [f for f in found if f.status != BROKEN and not (f.status == SURVIVED and f.key in same)]
    caught = [f for f in changing if f.status != SURVIVED]
    share = len(caught) / len(changing) if changing else 1.0
    lines = [f"{f.key}  {f.place}\n              {f.change}" for f in survivors if f.key not in reasons]
    if lines:
        lines.insert(0, f"{len(lines)} survivors without a reason in {SURVIVORS.name}:")
    stale = sorted(f.key for f in found if f.key in reasons and f.status != SURVIVED)
    if stale:
        lines.append(f"reasons for mistakes that are caught: {', '.join(stale)}")
    lines.append(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    lines.append(f"{len(caught)} of {len(changing)} mistakes that change behaviour are caught: {100 * share:.1f} %")
    return lines, share >= LEAST and not stale and all(f.key in reasons for f in survivors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the sample; returns 0 if enough are caught and every survivor has its reason, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.meta.mutate", description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="files or folders to choose from (default: all)")
    parser.add_argument("--count", type=int, default=COUNT, help="how many mistakes (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/mutants.jsonl"), help="default: %(default)s")
    given = parser.parse_args(arguments)
    for name in given.files:
        if not (ROOT / name).exists():
            parser.error(f"no such file or folder below {ROOT}: {name}")
    chosen = sample(given.count, given.files)
    found = []
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for finding in progress.track(findings(chosen, given.out, given.workers), len(chosen), description="mistakes"):
            found.append(finding)
    lines, enough = judge(found, tomllib.loads(SURVIVORS.read_text()))
    print("\n".join(lines))
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
