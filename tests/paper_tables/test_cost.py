"""The cost table: every method in it, printed ratios beside measured ones, and no verdict on another's machine."""

import itertools
import time
from types import SimpleNamespace

import pytest

from paper_tables import cells, cost, jobs
from paper_tables.tables import Options
from reference import registry
from torchimpl import timing

ONCE = {"rounds": 1, "warmup": 0}  # a step of a network takes long
medians = timing.medians


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def table(out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "ELEMENTS", 1 << 12)  # what is tested is the table, not the machine
        patch.setattr(cost, "BATCH", 2)
        patch.setattr(timing, "medians", lambda turns, **how: medians(turns, **(ONCE if "full" in turns else how)))
        patch.setattr(timing, "time", SimpleNamespace(perf_counter=time.process_time))  # others cannot take it
        patch.setattr(cells, "RESULTS", out / "results")
        yield jobs.regenerate([cost], Options(out=out, record=True, quiet=True))[0][0]


def test_every_method_and_the_literal_computation(table):
    rows = [cell.row for cell in table.cells if not cell.row.startswith("Table 7")]
    assert set(rows) == {*registry.methods(), cost.LITERAL}
    for row, found in itertools.groupby(rows):
        assert len(list(found)) == len(cost.COLUMNS), row
    assert all(cell.measured > 0 and cell.hardware and cell.reason for cell in table.cells)


def test_what_is_measured_is_this_machines(table, out, monkeypatch):
    """Written to OUT, not to results/, and measured anew on another machine."""
    assert len(list((out / "measured" / "cost").iterdir())) == len(cost.jobs(Options()))
    assert not (out / "results").exists()
    before = {job.key for job in cost.jobs(Options())}
    monkeypatch.setattr(cells, "hardware", lambda: {"processor": "another"})
    assert before.isdisjoint(job.key for job in cost.jobs(Options()))


def test_what_is_kept_is_the_input_where_a_method_has_kernels(table):
    kept = {cell.row: cell.measured for cell in table.cells if cell.column == "kept"}
    for name in set(registry.methods()) - {"lqnets"}:
        assert 4 <= kept[name] < 4.1, f"{name} keeps {kept[name]} bytes an element"
    assert kept[cost.LITERAL] > 20


def test_the_printed_times_as_ratios(table):
    """296.9 ms over 286.2 and over 287.8."""
    printed = {cell.row: cell.reported for cell in table.cells if cell.reported}
    assert sorted(printed.values()) == ["1.032", "1.032", "1.037", "1.037"]
    assert all("RTX 2080Ti" in cell.reason for cell in table.cells if cell.reported)
    assert not any(cell.value_verdict or cell.claim_verdict for cell in table.cells)


def test_findings_are_computed(table):
    ns = {(cell.row, cell.column): cell.measured for cell in table.cells}
    total = ns["daq", "forward"] + ns["daq", "backward"]
    assert f"{total:.2f} ns an element" in table.findings[0]
    assert f"{ns['daq', 'ResNet-20 step']:.2f}" in table.findings[1]
