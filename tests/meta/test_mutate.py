"""Mistakes made by rule: each is one change that parses, the sample is stable, and the sums are right."""

import ast
import json
from contextlib import contextmanager

import pytest

from tests.meta import mutate
from tests.meta.copies import ROOT
from tests.meta.mutate import BROKEN, CAUGHT, HUNG, SURVIVED, Finding
from tests.meta.sites import mistakes
from tests.strategies import QUICK

FILES = ["torchimpl/kernels/dsq.py", "paper_tables/verdicts.py", "arm/checks.py"]
FILES += [] if QUICK else ["reference/grid.py"]
in_ci = pytest.mark.skipif(QUICK, reason="takes seconds, for what `tox -e mutants` runs: HYPOTHESIS_PROFILE=ci")


@pytest.mark.parametrize("file", FILES)
def test_each_mistake_is_another_program_that_parses(file):
    source = (ROOT / file).read_text()
    made = list(mistakes(file, source))
    trees = [ast.dump(ast.parse(one.source)) for one in made]
    assert ast.dump(ast.parse(source)) not in trees
    assert len({*trees}) == len(trees) == len({one.key for one in made}) > 20


@pytest.mark.parametrize("file", FILES)
def test_a_mistake_changes_nothing_before_its_line_and_after_its_code(file):
    source = (ROOT / file).read_text()
    lines, nodes = source.splitlines(), list(ast.walk(ast.parse(source)))
    for one in mistakes(file, source):
        changed = one.source.splitlines()
        assert changed[: one.line - 1] == lines[: one.line - 1]
        node = next(n for n in nodes if getattr(n, "lineno", 0) == one.line and ast.unparse(n) == one.old)
        after = len(lines) - node.end_lineno
        assert not after or changed[-after:] == lines[-after:]


def test_rules():
    source = (
        "x: int = 3\n"
        "def f(a: float = 0.5) -> 'b | c':\n"
        "    '''Text with 1 + 1.'''\n"
        "    a += 1\n"
        "    print(a)\n"
        "    return f'{a + 1}', a and not x, -a, True\n"
    )
    found = [(one.function, one.kind, one.old, one.new) for one in mistakes("f.py", source)]
    assert found == [
        ("", "constant", "3", "4"),
        ("f", "constant", "0.5", "0.75"),
        ("f", "arithmetic", "a += 1", "a -= 1"),
        ("f", "statement", "a += 1", "pass"),
        ("f", "constant", "1", "2"),
        ("f", "statement", "print(a)", "pass"),
        ("f", "comparison", "a and (not x)", "a or not x"),
        ("f", "negation", "not x", "x"),
        ("f", "negation", "-a", "a"),
        ("f", "constant", "True", "False"),
    ]


def test_a_key_outlives_a_move_and_tells_equal_places_apart():
    source = "def f(x):\n    return x + 1, x + 1\n"
    keys = [one.key for one in mistakes("f.py", source)]
    assert keys == [one.key for one in mistakes("f.py", "import os\n\n" + source)]
    assert len({*keys}) == 4


@in_ci
def test_the_sample_is_stable_and_spread():
    every = mutate.sample(10**9)
    assert {one.file.split("/")[0] for one in every[:60]} == {"reference", "torchimpl", "paper_tables", "arm"}
    own = [one for one in every if one.file == "reference/dasr.py"]
    assert mutate.sample(5, ["reference/dasr.py"]) == own[:5]


@in_ci
def test_every_module_has_tests():
    for package in mutate.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            file = str(path.relative_to(ROOT))
            runs = mutate.runs_of(file)
            assert runs[0][0] == file
            named = [name for run in runs for name in run if name.endswith(".py")]
            assert all((ROOT / name).is_file() for name in named)
            if any(mistakes(file, path.read_text())):
                assert len(named) > 1, file


def finding(key, status):
    return Finding(key, "", "reference/grid.py:f", "a  ->  b", status)


def test_the_share_is_of_what_changes_behaviour():
    found = [*(finding(f"c{i}", CAUGHT) for i in range(18)), finding("h", HUNG), finding("b", BROKEN)]
    survivors = [finding("same", SURVIVED), finding("open", SURVIVED)]
    reasons = {"same": {"kind": "same behaviour", "why": ""}, "open": {"kind": "not tested", "why": ""}}
    lines, enough = mutate.judge([*found, *survivors], reasons)
    assert lines[-1] == "19 of 20 mistakes that change behaviour are caught: 95.0 %"
    assert enough
    lines, enough = mutate.judge([*found[1:], *survivors], reasons)
    assert lines[-1].endswith("18 of 19 mistakes that change behaviour are caught: 94.7 %")
    assert not enough


def test_a_survivor_without_a_reason_and_a_reason_without_a_survivor_are_told():
    found = [finding(f"c{i}", CAUGHT) for i in range(99)]
    lines, enough = mutate.judge([*found, finding("open", SURVIVED)], {})
    assert not enough
    assert "open  reference/grid.py:f" in lines[1]
    lines, enough = mutate.judge(found, {"c7": {"kind": "not tested", "why": ""}})
    assert not enough
    assert "reasons for mistakes that are caught: c7" in lines
    assert mutate.judge(found, {"of another sample": {"kind": "not tested", "why": ""}})[1]


def test_every_reason_is_one():
    for key, reason in mutate.tomllib.loads(mutate.SURVIVORS.read_text()).items():
        assert reason.keys() == {"place", "change", "kind", "why"}, key
        assert reason["kind"] in ("same behaviour", "not tested")
        assert len(reason["why"]) > 20


@in_ci
def test_a_run_goes_on_where_it_was(tmp_path, capsys):
    """With the tests of one mistake really run; a line that was cut off is of no use, and of no harm."""
    out = tmp_path / "mutants.jsonl"
    arguments = ["reference/dasr.py", "--count", "1", "--workers", "1", "--out", str(out)]
    assert mutate.main(arguments) == 0
    assert "1 of 1 mistakes that change behaviour are caught" in capsys.readouterr().out
    (line,) = out.read_text().splitlines()
    assert json.loads(line)["status"] == CAUGHT
    marked = line.replace(CAUGHT, HUNG)
    out.write_text(f"{marked}\n{line[:30]}\n")
    assert mutate.main(arguments) == 0
    assert "1 hangs" in capsys.readouterr().out


class Pretended:
    """A copy in which tests fail as they are told to, with a mistake and without."""

    def __init__(self, **failing):
        self.failing, self.asked, self.planted = failing, [], False

    @contextmanager
    def holding(self, file, source):
        self.planted = True
        yield
        self.planted = False

    def run(self, arguments, seconds=0):
        self.asked.append(arguments)
        names = [name for name in arguments if not name.startswith("--deselect")]
        for test in self.failing["always"] + self.failing["planted"] * self.planted:
            file = test.split("::")[0]
            if (test in names or file in names) and f"--deselect={test}" not in arguments:
                return (1, f"FAILED {test} - why\n") if "::" in test else (2, f"ERROR {test} - why\n")
        return 0, ""


@pytest.mark.parametrize(
    ("always", "planted", "found"),
    [
        ([], [], (SURVIVED, "")),
        ([], ["tests/a.py::one"], (CAUGHT, "tests/a.py::one")),
        ([], ["tests/b.py"], (BROKEN, "tests/b.py")),
        (["tests/a.py::one"], [], (SURVIVED, "")),
        (["tests/a.py::one", "tests/b.py"], [], (SURVIVED, "")),
        (["tests/a.py", "tests/b.py"], [], (SURVIVED, "")),
        (["tests/a.py::one"], ["tests/a.py::two"], (CAUGHT, "tests/a.py::two")),
        (["tests/a.py"], ["tests/b.py::two"], (CAUGHT, "tests/b.py::two")),
    ],
)
def test_what_fails_without_the_mistake_catches_nothing(always, planted, found, monkeypatch):
    monkeypatch.setattr(mutate, "_failing", set())
    copy, mistake = Pretended(always=always, planted=planted), next(mistakes("a.py", "x = 1\n"))
    assert mutate._outcome(copy, mistake, ["tests/a.py", "tests/b.py"]) == found
    before = len(copy.asked)
    assert mutate._outcome(copy, mistake, ["tests/a.py", "tests/b.py"]) == found
    assert len(copy.asked) - before <= 2  # what fails anyway is known


def test_what_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        mutate.main(["reference/nothing.py"])
    assert ended.value.code == 2
    assert "reference/nothing.py" in capsys.readouterr().err
