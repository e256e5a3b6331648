"""The gate as a command and as a plug-in of pytest: exit statuses, one line for what is wrong, what is in the way."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from paper_tables import cells, cli, gate, in_the_way
from tests.strategies import NIGHTLY

MINE = """
import numpy as np
import torch
from reference.contract import of_numpy
from torchimpl import contract


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def right():
    step = torch.tensor(0.5)
    return contract.of_torch(
        lambda x: Round.apply((x / step).clamp(-2, 1)) * step,
        bits=2,
        parameters={"step": step},
        surrogate=lambda x, step: x.clamp(-2 * step, step),
    )


def sign():
    return of_numpy(np.sign, bits=1)


def sign_with_codes():
    return of_numpy(np.sign, bits=1, codes=lambda x: (x > 0).astype(int), decode=lambda q: 2 * q - 1)


def loud():
    print("hello")
    return sign()
"""
EXPECTED = '[expected]\nlevels = "0 is a level, as in the paper"\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "gated_mine.py").write_text(MINE)
    (tmp_path / "expected.toml").write_text(EXPECTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("gated_mine", None)


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(cells.ROOT), **more}


# The command


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["gated_mine:right"], 0, "gated_mine:right: 20 holds, 2 not applicable"),
        (["gated_mine:right", "--as", "lsq", "--variant", "lsq-net"], 0, "held to lsq, weight, lsq-net"),
        (["gated_mine:sign"], 1, "again: conformance.again('gated_mine:sign', 'levels', [-1.0, 0.0, 1.0])"),
        (["gated_mine:sign", "--expected", "expected.toml"], 0, "1 expected"),
        (["gated_mine:right", "--expected", "expected.toml"], 1, "1 stale"),
        (["gated_mine:loud", "gated_mine:right"], 1, "gated_mine:right: 20 holds"),
    ],
)
def test_the_exit_status_says_it(folder, capsys, arguments, status, words):
    assert cli.main(["gate", *arguments]) == status
    out = capsys.readouterr().out
    assert words in out.replace("\n", " ").replace("  ", " ")
    assert "hello" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch:right"], "error: nosuch:right: ModuleNotFoundError: No module named 'nosuch'"),
        (["gated_mine:absent"], "has no attribute 'absent'"),
        (["gated_mine:np"], "returns a module, not what of_torch or of_numpy returns"),
        (["gated_mine"], "error: gated_mine: must be package.module:factory"),
        (["gated_mine:right", "--as", "lsg"], "method must be one of"),
        (["gated_mine:right", "--as", "pact"], "PACT has the parameters alpha"),
        (["gated_mine:right", "--role", "weight"], "a role or a variant is of a method"),
        (["gated_mine:right", "--expected", "none.toml"], "none.toml: No such file or directory"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, words):
    assert cli.main(["gate", *arguments]) == 2
    out, error = capsys.readouterr()
    assert words in error
    assert error.count("\n") == 1
    assert out == ""


def test_one_that_cannot_be_had_stops_no_other(folder, capsys):
    assert cli.main(["gate", "--quiet", "nosuch:x", "gated_mine:sign"]) == 2
    out, error = capsys.readouterr()
    assert "No module named 'nosuch'" in error
    assert "gated_mine:sign: 1 fails" in out


def test_quiet_shows_what_is_wrong(folder, capsys):
    assert cli.main(["gate", "--quiet", "gated_mine:right"]) == 0
    assert capsys.readouterr().out == "gated_mine:right: 20 holds, 2 not applicable\n"


def test_help_names_the_parameters():
    text = gate.parser().format_help()
    assert "lsq step" in text
    assert "[expected]" in text


@pytest.mark.parametrize("seconds", ["0", "x", "1e9"])
def test_seconds_that_are_refused(seconds, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["gate", "a:b", "--seconds", seconds])
    assert stop.value.code == 2
    assert "must be more than 0 and at most 3600 seconds" in capsys.readouterr().err


# What is in the way


def test_nothing_is_in_the_way_here(tmp_path, monkeypatch):
    assert in_the_way.found() == ""
    (tmp_path / "reference").mkdir()  # a folder of texts is no module
    monkeypatch.chdir(tmp_path)
    assert in_the_way.found(here=True) == ""


@pytest.mark.parametrize("place", ["reference.py", "reference/__init__.py", "torchimpl.py"])
def test_another_module_of_the_name_is_told(tmp_path, monkeypatch, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    monkeypatch.chdir(tmp_path)
    found = in_the_way.found(here=True)
    name = place.partition("/")[0]
    assert f"another module named {name.removesuffix('.py')} is in the way: {tmp_path / name} is found before" in found
    monkeypatch.syspath_prepend(tmp_path)
    assert in_the_way.found() == found


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "paper_tables", "gate", "mine:right"],
        ["-m", "paper_tables", "--list"],
        ["-m", "pytest", "-p", "quantgap_gate", "--pyargs", "reference.conformance", "--implementation", "mine:right"],
    ],
)
def test_a_reference_of_the_callers_own_ends_it_at_once(tmp_path, command):
    (tmp_path / "reference.py").write_text("mine = 1\n")
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: another module named reference is in the way: {tmp_path / 'reference.py'}")
    assert done.stderr.count("\n") == 1


# The plug-in

by_night = pytest.mark.skipif(not NIGHTLY, reason="takes half a minute: HYPOTHESIS_PROFILE=nightly")


def pytest_gate(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "quantgap_gate"]
    return subprocess.run(
        [*command, "--pyargs", "reference.conformance", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )


def test_one_test_a_property(folder):
    done = pytest_gate(
        folder, "--implementation", "gated_mine:sign_with_codes", "--junitxml", "j.xml", "--examples", "3"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    suite = ElementTree.parse(folder / "j.xml").getroot()[0]
    names = {case.get("name"): {child.tag for child in case} for case in suite}
    assert names["test_property[levels-float64]"] == {"failure"}
    assert names["test_property[codes-float64]"] == {"failure"}
    assert names["test_property[gradient-float64]"] == {"skipped"}
    assert names["test_property[order-float64]"] == set()
    assert "x = [-1.0, 0.0, 1.0]: the number of values of forward(x) is 3" in done.stdout
    assert "conformance.again('gated_mine:sign_with_codes', 'levels', [-1.0, 0.0, 1.0])" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("several", [(), pytest.param(("-n", "2"), marks=by_night)], ids=["one", "xdist"])
def test_expected_failures_and_a_choice_of_properties(folder, several):
    done = pytest_gate(
        folder, "--implementation", "gated_mine:sign", "--expected", "expected.toml", "-k", "levels or order", *several
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "1 xfailed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "ERROR: reference.conformance needs --implementation package.module:factory"),
        (["--implementation", "gated_mine:absent"], "ERROR: gated_mine:absent: AttributeError"),
    ],
)
def test_what_cannot_be_had_is_one_line(folder, arguments, words):
    done = pytest_gate(folder, *arguments)
    assert done.returncode == 4
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_other_runs_of_pytest_have_no_such_options(folder):
    (folder / "test_own.py").write_text("def test(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "quantgap_gate", "-p", "no:cacheprovider", "test_own.py"]
    done = subprocess.run(
        [*command, "--help"], cwd=folder, capture_output=True, text=True, env=environment(), check=True
    )
    assert "--implementation" not in done.stdout
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(), check=True)
    assert "1 passed" in done.stdout
