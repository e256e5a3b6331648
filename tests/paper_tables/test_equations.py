"""The table of equations: every formula holds, and a wrong one is found out."""

import dataclasses
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import cells, definitions, equations
from paper_tables.cells import Cell
from paper_tables.tables import Options
from reference import daq, daq_theory, dsq, grid, integer


def by_name(part):
    (statement,) = (s for s in equations.statements() if part in s.name)
    return statement


@pytest.mark.parametrize("statement", list(equations.statements()), ids=lambda s: s.name[:50])
def test_every_statement_holds(statement):
    error = statement.worst()
    assert error <= statement.accuracy, f"{statement.name}: {error:.2e}"


@pytest.mark.parametrize(
    ("module", "function", "factor", "statement"),
    [
        (daq, "adaptive_assignment", 1 + 1e-9, "phi(x; beta*) is"),
        (daq, "slope", 1 + 1e-6, "by finite differences with beta* frozen"),
        (daq, "slope", 1 + 1e-10, "relative to autograd"),
        (daq_theory, "mean_slope", 1 + 1e-6, "mean slope, by quadrature"),
        (daq_theory, "fixed_beta_gap", 1 + 1e-6, "largest gap"),
        (daq_theory, "fixed_beta_mean_gap", 1 + 1e-2, "mean gap"),
        (daq_theory, "fixed_beta_transition_slope", 1 + 1e-6, "phi' at the transition"),
        (daq_theory, "combine_ste_ratio", 1 + 1e-3, "times coth"),
        (dsq, "slope", 1 + 1e-5, "DSQ: slope"),
    ],
)
def test_a_formula_that_is_slightly_wrong_is_contradicted(monkeypatch, module, function, factor, statement):
    right = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *args, **named: right(*args, **named) * factor)
    found = by_name(statement)
    assert found.worst() > found.accuracy


def test_worst_counts_nan_as_infinite():
    assert equations.worst([0.0, math.nan], [0.0, 0.0]) == math.inf
    assert equations.worst(1, [1, 3, 2]) == 2


def test_an_accuracy_is_shown_as_it_is_judged_by():
    for statement in equations.statements():
        assert float(f"{statement.accuracy:.0e}") == pytest.approx(statement.accuracy, rel=0.1), statement.name


@pytest.mark.parametrize("sigma", equations.SIGMAS)
def test_gradients_of_the_sum_rules_are_those_of_the_formula(sigma):
    """At two bits: the slope of two levels of [-1, 1] a cell within the clip range, and beyond it only the bounds'."""
    found = list(zip(*equations._gradients(2.0, sigma, "paper"), strict=True))
    assert [x for x, *_ in found] == pytest.approx([k / 100 for k in range(-200, 201)])
    low, high = equations.LOWER, equations.UPPER
    for x, dx, dl, du in found:
        cells = 3 * (x - low) / (high - low)
        if low < x < high:
            t = abs(cells - round(cells))
            slope = 2 / (2 * math.sinh(2) * math.tanh(0.5 - t + 1 / (4 * sigma**2)))
            assert dx == pytest.approx(2 * slope / (high - low))
            assert (dl, du) == pytest.approx((-dx * (1 - cells / 3), -dx * cells / 3))
        elif x not in (low, high):
            assert (dx, dl, du) == (0, 0, 0)


def test_two_levels_are_all_levels_at_one_bit(monkeypatch):
    monkeypatch.setattr(equations, "_time", lambda function: 1.0)
    table = equations.run(Options(quiet=True))
    changes = {cell.column: cell.measured for cell in table.cells if cell.row.startswith("all 2^b")}
    assert changes["1 bit, 2 scores"] == 0
    assert list(changes) == [f"{b} bit, {2**b} scores" for b in range(1, 9)]
    # by hand, two bits, x = 0.25 at beta* of Eq. 7: four scores, softmax, mean
    x, kappa = 0.25, math.exp(-0.5)
    score = [math.exp(-(q**2) / 2 - abs(x - q)) for q in range(4)]
    beta = 2 / abs(score[0] - score[1])
    assert score[1] == pytest.approx(kappa * math.exp(-0.75))
    weights = [math.exp(beta * s) for s in score]
    phi = sum(q * w for q, w in enumerate(weights)) / sum(weights)
    assert daq.full_grid_kernel_soft_argmax(x, beta, bits=2, sigma=1.0) == pytest.approx(phi)
    assert changes["2 bit, 4 scores"] >= phi - daq.lambda_(2.0)
    assert table.counts().keys() == {"reproduced", "holds", "by definition"}
    assert {cell.column for cell in table.cells if cell.value_verdict} == {"Eq. 9", "Eq. 10, 11"}


def test_a_time_is_the_median_of_five(monkeypatch):
    ends = iter([0, 5, 10, 11, 20, 22, 30, 39, 40, 43])  # 5, 1, 2, 9 and 3 seconds
    monkeypatch.setattr(equations.time, "perf_counter", lambda: next(ends))
    assert equations._time(lambda: None) == 3


# Verdicts and sentences, of statements made up for it

WHERE = st.sampled_from(["Eq. 9", "Eq. 10, 11", "derived", "derived (Eq. 7)", "derived (DSQ)", "derived (Table 6)"])
ERRORS = st.sampled_from([0.0, 1e-15, 1e-9, 1.0, math.inf])
NOTHING = Cell(
    paper="DAQ", table="equations", row="all 2^b levels", column="2 bit", unit="levels", measured=0.25, reason="R"
)


@given(st.lists(st.tuples(WHERE, ERRORS, st.sampled_from([1e-15, 1e-9])), max_size=6))
def test_each_statement_gets_the_one_verdict_that_is_its_own(made_up):
    made = [
        equations.Statement(f"statement {k}", where, lambda error=error: error, accuracy)
        for k, (where, error, accuracy) in enumerate(made_up)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equations, "statements", lambda: iter(made))
        patch.setattr(equations.definitions, "cells", lambda: iter([]))
        patch.setattr(equations, "two_level_cells", lambda: iter([NOTHING]))
        table = equations.run(Options(quiet=True))
    assert [(cell.row, cell.column) for cell in table.cells[:-1]] == [(one.name, one.where) for one in made]
    wrong = []
    for cell, (where, error, accuracy) in zip(table.cells, made_up, strict=False):
        right = error <= accuracy
        if where.startswith("Eq"):
            assert (cell.value_verdict, cell.claim_verdict) == ("reproduced" if right else "contradicted", None)
        else:
            assert (cell.value_verdict, cell.claim_verdict) == (None, "holds" if right else "fails")
        assert cell.paper == ("DSQ" if "DSQ" in where else "DAQ")
        assert cell.measured == (None if error == math.inf else error)
        assert cell.reason == f"worst error {error:.1e}, accuracy of the comparison {accuracy:.0e}"
        if not right:
            wrong.append(f"Does not hold: {cell.row}.")
    assert list(table.wrong) == wrong
    assert table.cells[-1] == NOTHING
    assert "differs by up to 0 levels (2 bit). What the two save: R." in table.findings[1]


def test_every_line_but_the_cost_of_levels_has_a_verdict():
    made = list(equations.statements())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equations, "statements", lambda: (dataclasses.replace(s, worst=lambda: 0.0) for s in made))
        patch.setattr(equations, "two_level_cells", lambda: iter([NOTHING]))
        cells = equations.run(Options(quiet=True)).cells
    for cell in cells:
        given_verdicts = [verdict for verdict in (cell.value_verdict, cell.claim_verdict) if verdict]
        assert len(given_verdicts) == (0 if cell.row.startswith("all 2^b") else 1), cell.row
    assert len(made) == len(cells) - 1 - len(equations.definitions.DEFINITIONS)


@given(st.lists(st.floats(0, 9.4), min_size=1, max_size=8))
def test_the_finding_on_two_levels_names_the_largest_change(changes):
    found = [
        dataclasses.replace(NOTHING, column=f"column {k}", measured=change, reason=f"saves {k}")
        for k, change in enumerate(changes)
    ]
    sentence = equations._two_level_finding([dataclasses.replace(NOTHING, row="other", measured=99.0), *found])
    k = changes.index(max(changes))
    assert f"up to {changes[k]:.0f} levels (column {k}). What the two save: saves {k}." in sentence


# Eq. 1 to 8: definitions, and who follows them

WRONG = {
    1: (grid, "normalize", lambda x, low, high, bits: np.asarray(x)),
    2: (grid, "decode", lambda q, bits, role: np.asarray(q) / 3),
    3: (integer, "multiply", lambda x, w: np.asarray([1.0])),
    4: (daq, "distance_score", lambda x, q: np.exp(-2 * np.abs(np.asarray(x) - q))),
    5: (daq, "kernel_soft_argmax", lambda x, beta, *, sigma: np.asarray(x)),
    6: (daq, "distance_probability", lambda scores, beta: scores),
    7: (daq, "adaptive_temperature", lambda x, **_: np.full(np.shape(x), 4.0)),
    8: (daq, "weighted_scores", lambda x, right=daq.weighted_scores, **_: right(x, sigma=1.0, variant="released")),
}


def test_definitions_are_followed_all_over_the_cells_and_beyond_the_clip_range():
    """Each half of a cell has as many inputs, none of which is at a level or a transition point."""
    assert all(2 * x % 1 for x in definitions.INPUTS)
    halves = Counter(math.floor(2 * x) for x in definitions.INPUTS)
    assert halves == dict.fromkeys(range(2 * definitions.TOP), 16)
    low, high = min(definitions.RAW), max(definitions.RAW)
    assert (low, high) == (-2, 2)
    assert low < definitions.LOWER < definitions.UPPER < high


@pytest.mark.parametrize("number", range(1, 9))
def test_a_definition_is_followed_or_not(number, monkeypatch):
    def line():
        (cell,) = (cell for cell in definitions.cells() if cell.column == f"Eq. {number}, definition")
        return cell

    right = line()
    assert (right.claim_verdict, right.value_verdict) == ("by definition", None)
    path, at, function = re.search(r"reference: (\S+):(\d+), (\w+),", right.reason).groups()
    assert (cells.ROOT / path).read_text().splitlines()[int(at) - 1].startswith(f"def {function}(")
    assert re.search(r"released: models/resnet20_DAQ\.py:\d+", right.reason)
    module, name, wrong = WRONG[number]
    monkeypatch.setattr(definitions, "DEFINITIONS", (definitions.DEFINITIONS[number - 1],))
    monkeypatch.setattr(definitions.Definition, "line", "somewhere")
    monkeypatch.setattr(module, name, wrong)
    assert line().claim_verdict == "fails"
