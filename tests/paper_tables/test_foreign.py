"""Public quantizers at the gate: the data, what is recorded, and that each recorded witness runs in three lines."""

import contextlib
import dataclasses
import importlib.metadata
import re

import pytest

from paper_tables import cells, jobs
from paper_tables.audit import foreign
from paper_tables.cells import Cell, Measurement
from paper_tables.tables import Options
from reference import registry
from reference.verdicts import Row

VERSIONS, ENTRIES = foreign.data()
JOBS = {job.place.row: job for job in foreign.jobs(Options())}
RECORDED = {
    entry.name: cells.read(cells.RESULTS / "foreign" / JOBS[entry.name].place.filename, Measurement)
    for entry in ENTRIES
    if (cells.RESULTS / "foreign" / JOBS[entry.name].place.filename).exists()
}
every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def installed(entry):
    for package in ("torch", entry.package, *(["onnx"] if entry.package == "onnxruntime" else [])):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if importlib.metadata.version(package).partition("+")[0] == VERSIONS.get(
                package, importlib.metadata.version(package)
            ):
                continue
        pytest.skip(f"{package} {VERSIONS.get(package, '')} is not installed (tox -e foreign has it)")


def test_versions_are_those_of_the_constraints():
    pinned = dict(re.findall(r"^(\w+)==(\S+)$", (cells.ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert VERSIONS.items() <= pinned.items()
    assert {entry.package for entry in ENTRIES} == set(VERSIONS)


@every_entry
def test_what_the_data_say(entry):
    assert entry.setup.count("\n") == 0
    compile(entry.setup, entry.name, "exec")
    if entry.method:
        registry.method(entry.method).check(entry.bits, entry.role)


def test_every_one_is_recorded():
    assert set(RECORDED) == {entry.name for entry in ENTRIES}


def witnesses(found):
    return [name.removesuffix(", witness") for name in found.detail if name.endswith(", witness")]


@every_entry
def test_every_recorded_witness_runs_in_three_lines(entry):
    """And prints what is recorded."""
    installed(entry)
    found = RECORDED[entry.name]
    assert len(witnesses(found)) == found.measured
    for name in witnesses(found):
        three = found.detail[f"{name}, witness"].split("\n")
        assert len(three) == 3
        assert foreign.printed(tuple(three)) == found.detail[f"{name}, prints"], name


@every_entry
def test_the_gate_finds_what_is_recorded(entry):
    installed(entry)
    found = Measurement(
        paper="", table="", row="", column="", unit="", **foreign._measure(entry, lambda part: None)
    )  # witnesses may be larger where the machine is slow, and the time for making them smaller is over
    assert found.measured == RECORDED[entry.name].measured
    assert witnesses(found) == witnesses(RECORDED[entry.name])
    assert found.detail["holding"] == RECORDED[entry.name].detail["holding"]


def test_nan_is_lost_by_torch():
    """The witness as anybody would write it, beside the recorded one."""
    import torch

    x = torch.tensor([float("nan")])
    assert torch.fake_quantize_per_tensor_affine(x, 0.5, 0, -2, 1).tolist() == [-1.0]
    found = RECORDED["torch.fake_quantize_per_tensor_affine"]
    assert "nan-float32" in witnesses(found)


def test_another_version_is_not_taken_for_this_one(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    with pytest.raises(foreign.InputError, match=r"torch 0\.0\.1 is installed, and 2\.13\.0 is what is tried"):
        foreign._measure(ENTRIES[0], lambda part: None)


# The table


def table():
    measured = {}
    for entry in ENTRIES:
        job = JOBS[entry.name]
        measured[job.place] = jobs.shown(job, dataclasses.replace(RECORDED[entry.name], key=job.key), recorded=True)
    return foreign.run(Options(), measured)


def test_the_table_has_a_line_for_each_difference_and_one_for_the_rest():
    found = table()
    for entry in ENTRIES:
        lines = [cell for cell in found.cells if cell.row == entry.name]
        assert lines[-1].value_verdict == "same"
        assert all(cell.value_verdict == "differs" for cell in lines[:-1])
        names = {name.rpartition("-")[0] for name in witnesses(RECORDED[entry.name])}
        assert [cell.column for cell in lines[:-1]] == list(dict.fromkeys(cell.column for cell in lines[:-1]))
        assert {cell.column for cell in lines[:-1]} == names
        assert all("In three lines, which print" in cell.reason for cell in lines[:-1])
    assert found.findings[0].startswith("NaN is lost by ")


def test_what_is_not_recorded_says_so():
    measured = {job.place: jobs.shown(job, None, recorded=False) for job in JOBS.values()}
    found = foreign.run(Options(), measured)
    assert {cell.value_verdict for cell in found.cells} == {"not run"}
    assert "tox -e foreign" in found.cells[0].reason


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("levels", ("x = torch.tensor([0.5, float('nan')], dtype=torch.float32)", "print(q(x))")),
        ("nan", ("x = torch.tensor([float('nan'), float('nan')], dtype=torch.float32)", "print(q(x))")),
        ("0-d", ("x = torch.tensor(0.5, dtype=torch.float32)", "print(q(x).shape)")),
        ("empty", ("x = torch.tensor([], dtype=torch.float32)", "print(q(x).shape)")),
        ("type", ("x = torch.tensor([0.5, float('nan')], dtype=torch.float32)", "print(q(x).dtype)")),
        (
            "lsq: gradient for step",
            (
                "x = torch.tensor([0.5, float('nan')] * 13, dtype=torch.float32, requires_grad=True)",
                "print(torch.autograd.grad(q(x).sum(), s))",
            ),
        ),
    ],
)
def test_three_lines(name, want):
    entry = next(entry for entry in ENTRIES if entry.parameters)
    row = Row(name, "float32", "cpu", "fails", witness="[0.5, 'nan']")
    assert foreign.lines(entry, row) == (entry.setup, *want)


def test_who_loses_nan_is_counted():
    found = [
        Cell(paper="", table="foreign", row=row, column="nan", unit="", value_verdict=verdict)
        for row, verdict in (("a", "differs"), ("b", "same"), ("c", "differs"))
    ]
    (said,) = foreign._findings(found)
    assert said == f"NaN is lost by 2 of {len(foreign.data()[1])}: a; c."
    assert foreign._findings([found[1], dataclasses.replace(found[0], column="codes")]) == ()
