"""The cost table: every method in it, each row by turns, and nothing said that the spread does not bear."""

import dataclasses
import io
import itertools
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from paper_tables import cells, cost, jobs, render
from paper_tables.cells import Cell
from paper_tables.tables import Options
from reference import registry
from torchimpl import timing
from torchimpl.models import resnet


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def table(out):
    """What is tested is the table, not the machine: few elements and rounds, a small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "ELEMENTS", 1 << 12)
        patch.setattr(cost, "BATCH", 2)
        patch.setattr(cost, "ROUNDS", 3)
        patch.setattr(timing, "resnet20", partial(resnet, 8))
        patch.setattr(timing, "by_turns", partial(timing.by_turns, warmup=0))
        patch.setattr(cells, "RESULTS", out / "results")
        yield jobs.regenerate([cost], Options(out=out, record=True, quiet=True))[0][0]


def test_every_method_and_the_literal_computation(table):
    rows = [cell.row for cell in table.cells]
    assert set(rows) == {*registry.methods(), cost.LITERAL}
    for row, found in itertools.groupby(rows):
        assert len(list(found)) == len(cost.COLUMNS), row
    assert all(cell.measured > 0 or cell.column == "spread %" for cell in table.cells)
    assert all(cell.hardware and cell.reason for cell in table.cells)
    assert not any(cell.value_verdict or cell.claim_verdict or cell.reported for cell in table.cells)


def test_a_row_is_one_measurement_with_its_own_baselines(table, out):
    """Each ratio is of two times that were taken by turns in that row's job."""
    assert len(list((out / "measured" / "cost").iterdir())) == len(cost.jobs(Options())) == len(registry.methods()) + 1
    for cell in table.cells:
        time = cell.detail
        expected = {
            "forward ns": time["forward"] * 1e9 / (1 << 12),
            "both ns": time["both"] * 1e9 / (1 << 12),
            "/ STE": time["both"] / time["ste"],
            "/ copy": time["both"] / time["copy"],
            "kept B": time["kept"],
            "step ms": time["own step"] * 1000,
            "/ full": time["own step"] / time["full step"],
        }
        if cell.column in expected:
            assert cell.measured == pytest.approx(expected[cell.column], rel=0.006)
        else:
            shares = [(time[f"{t}, upper quartile"] - time[f"{t}, lower quartile"]) / time[t] for t in cost.TURNS]
            assert cell.measured == pytest.approx(100 * max(shares), rel=0.006)


def test_times_are_medians_with_quartiles(monkeypatch):
    """Of 9 rounds, sorted: the third, the fifth and the seventh."""
    monkeypatch.setattr(cost.timing, "by_turns", lambda turns, rounds: {turn: [*range(9)] for turn in turns})
    monkeypatch.setattr(cost, "ELEMENTS", 1 << 12)
    detail = cost._measure("ste", lambda part: None)["detail"]
    assert {detail[turn] for turn in ("forward", "both", "own step")} == {4}
    assert {detail[f"{turn}, lower quartile"] for turn in ("forward", "both", "own step")} == {2}
    assert {detail[f"{turn}, upper quartile"] for turn in ("forward", "both", "own step")} == {6}


def test_units_stand_in_the_header():
    for column in cost.COLUMNS:
        assert column.startswith("/ ") or column.rpartition(" ")[2] in ("ns", "B", "ms", "%")


def test_nothing_is_cut_at_80_columns(table):
    console = Console(width=80, file=io.StringIO())
    render.show(table, console)
    shown = console.file.getvalue()
    assert "…" not in shown
    for column in cost.COLUMNS:  # a title may take two lines
        assert all(word in shown for word in column.split())
    for cell in table.cells:
        assert render.summary(cell) in shown
        assert cell.row.split(" ")[0] in shown


def test_what_is_measured_is_this_machines(table, out, monkeypatch):
    """Written to OUT, not to results/, and measured anew on another machine."""
    assert not (out / "results").exists()
    before = {job.key for job in cost.jobs(Options())}
    monkeypatch.setattr(cells, "hardware", lambda: {"processor": "another"})
    assert before.isdisjoint(job.key for job in cost.jobs(Options()))


def test_what_is_kept_is_the_input_where_a_method_has_kernels(table):
    kept = {cell.row: cell.measured for cell in table.cells if cell.column == "kept B"}
    for name in set(registry.methods()) - {"lqnets", "rq"}:
        assert 4 <= kept[name] < 4.1, f"{name} keeps {kept[name]} bytes an element"
    assert 20 <= kept["rq"] < 20.1, "the input, and noise for each of four levels"
    assert kept[cost.LITERAL] > 20


TIMES = st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3).map(sorted)


@given(TIMES, TIMES)
def test_no_ranking_within_the_spread(first, second):
    detail = {}
    for turn, times in (("a", first), ("b", second)):
        detail |= dict(zip((f"{turn}, lower quartile", turn, f"{turn}, upper quartile"), times, strict=True))
    row = Cell(paper="DAQ", table="cost", row="r", column="c", unit="", detail=detail)
    said = cost.compared(row, "a", "b")
    assert said.startswith(f"{first[1] / second[1]:.2f} times")
    overlap = first[0] <= second[2] and second[0] <= first[2]
    assert said.endswith("(within the spread)") == overlap


def test_findings_are_of_one_row_and_name_what_is_not_alike(table):
    rows = {name: next(cell for cell in table.cells if cell.row == name) for name in ("daq", cost.LITERAL)}
    assert cost.compared(rows["daq"], "both", "ste") in table.findings[0]
    assert cost.compared(rows[cost.LITERAL], "both", "closed form") in table.findings[1]
    assert "not like for like" in table.findings[1]
    other = dataclasses.replace(rows["daq"], detail={**rows["daq"].detail, "closed form": 99.0})
    assert cost._findings({"daq": other, cost.LITERAL: rows[cost.LITERAL]})[1] == table.findings[1]
