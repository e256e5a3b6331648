"""Table 1, against what the functions' derivatives are known to be."""

import dataclasses
import math

import numpy as np
import pytest

from paper_tables import agreement, table1
from paper_tables.tables import Options


@pytest.fixture(scope="module")
def table():
    return table1.run(Options(quiet=True))


@pytest.fixture(scope="module")
def measured(table):
    return {(cell.row, cell.column): cell.measured for cell in table.cells}, table.wrong + table.findings


def slope(t, gamma, c):
    return gamma / (2 * math.sinh(gamma) * math.tanh(0.5 - t + c))


@pytest.mark.parametrize(
    ("row", "c"),
    [
        ("DAQ weights", 1 / 4),
        ("DAQ activations", 1 / 16),
        ("DAQ weights, released", 1 / 2),
        ("DAQ activations, released", 1 / 8),
    ],
)
def test_daq_is_exact_per_input_and_off_by_its_slope_as_realised(measured, row, c):
    values, _ = measured
    assert values[row, "a max"] < table1.RESOLUTION
    assert values[row, "c max"] < 1e-14  # a softmax and a division in float64
    grid = (np.arange(2048) + 0.5) / 4096
    slopes = [slope(t, 2.0, c) for t in grid]
    assert values[row, "b max"] == pytest.approx(slope(0.5, 2.0, c), rel=1e-4)
    assert values[row, "b mean"] == pytest.approx(np.mean(slopes), abs=1e-5)


def test_ste_is_off_by_one_and_has_no_gap(measured):
    values, _ = measured
    assert [values["STE", column] for column in table1.COLUMNS[:6]] == pytest.approx([1, 1, 1, 1, 0, 0], abs=1e-9)


def column_of(noise):
    return f"d s=.{round(10 * noise)}"


def cosine(slope_at, noise):
    """With the derivative of the smoothed staircase: one Gaussian bump at each half-integer."""
    steps = 2000
    dot = own = other = 0.0
    for k in range(steps):
        x = (k + 0.5) / steps
        bumps = sum(math.exp(-(((x - 0.5 - j) / noise) ** 2) / 2) for j in range(-12, 13))
        used = slope_at(min(x, 1 - x))
        dot, own, other = dot + used * bumps, own + used * used, other + bumps * bumps
    return dot / math.sqrt(own * other)


@pytest.mark.parametrize(
    ("row", "slope_at"),
    [
        ("STE", lambda t: 1.0),
        ("DAQ weights", lambda t: slope(t, 2.0, 1 / 4)),
        ("DAQ activations", lambda t: slope(t, 2.0, 1 / 16)),
        ("DAQ weights, released", lambda t: slope(t, 2.0, 1 / 2)),
        ("DSQ alpha = 0.2", lambda t: dsq_slope(t)),
    ],
)
def test_the_agreement_with_the_smoothed_staircase(measured, row, slope_at):
    values, _ = measured
    for noise in (0.1, 0.5):
        assert values[row, column_of(noise)] == pytest.approx(cosine(slope_at, noise), abs=2e-5)


def dsq_slope(t):
    """Of tanh in a cell between two levels, whose middle is the transition point; t is from the nearest level."""
    K = math.log(9)
    return 1.25 * K / 2 / math.cosh(K * (0.5 - t)) ** 2


def test_known_agreements(measured):
    values, _ = measured
    for noise, expected in ((0.1, (0.595, 0.785, 0.920)), (0.5, (1.000, 0.965, 0.838))):
        found = [values[row, column_of(noise)] for row in ("STE", "DAQ weights", "DAQ activations")]
        assert [round(value, 3) for value in found] == list(expected)


def test_which_slope_agrees_better_is_undecided(table):
    crossings = {cell.row: cell for cell in table.cells if cell.column == "d from"}
    for row, cell in crossings.items():
        assert cell.claim_verdict == ("undecided" if row.startswith("DAQ") else None)
    assert sum(row.startswith("DAQ") for row in crossings) == 4
    # at the crossing both agree alike
    at = crossings["DAQ weights"].detail["d from"]
    assert crossings["DAQ weights"].measured == round(at, 2) == 0.34
    assert cosine(lambda t: slope(t, 2.0, 1 / 4), at) == pytest.approx(cosine(lambda t: 1.0, at), abs=1e-5)
    assert any(sentence.startswith("Undecided, and no fault of either") for sentence in table.findings)
    curves = {cell.row: cell.detail for cell in table.cells if "s" in cell.detail}
    assert set(curves) == {cell.row for cell in table.cells if cell.protocol == "dense grid, float64"}
    for row, slope_at in (("STE", lambda t: 1.0), ("DAQ weights", lambda t: slope(t, 2.0, 1 / 4))):
        for noise, found in zip(curves[row]["s"], curves[row]["agreement"], strict=True):
            assert found == round(found, 6) == pytest.approx(cosine(slope_at, noise), abs=5e-5)


def test_every_line_has_a_place_of_its_own(table):
    places = [cell.place for cell in table.cells]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("instead", "verdict"), [(lambda x: np.ones(x.shape), "fails"), (None, "holds")], ids=["constant", "better"]
)
def test_a_slope_that_agrees_better_nowhere_or_everywhere_is_decided(instead, verdict, monkeypatch):
    best = instead or (lambda x: agreement.smoothed_slope(x, 0.15) + 0.35)
    monkeypatch.setattr(table1.agreement, "crossing", lambda used, other: None)
    entries = [
        dataclasses.replace(entry, backward=best) if entry.name == "DAQ weights" else entry
        for entry in table1.entries()
    ]
    monkeypatch.setattr(table1, "entries", lambda: iter(entries))
    found = {cell.claim_verdict for cell in table1.run(Options(quiet=True)).cells if cell.row == "DAQ weights"}
    assert found == {None, verdict}


def test_what_is_compared_with_itself_says_so(table):
    labelled = {(cell.row.split(" ")[0], cell.column) for cell in table.cells if cell.value_verdict == "by definition"}
    assert labelled == {
        *((row, f"c {which}") for row in ("STE", "DSQ") for which in ("max", "mean")),
        *(("QNet", f"a {which}") for which in ("max", "mean")),
    }
    assert {cell.value_verdict for cell in table.cells} == {None, "by definition"}
    assert {cell.measured for cell in table.cells if cell.value_verdict and cell.column.startswith("c")} == {0.0}


@pytest.mark.parametrize("temperature", [4, 10, 100])
def test_the_sigmoid_matches_its_gradient_and_has_a_gap_of_one_half(measured, temperature):
    values, _ = measured
    row = f"QNet T = {temperature}"
    assert max(values[row, "a max"], values[row, "b max"]) < table1.RESOLUTION
    assert values[row, "c max"] == 0.5

    # Twice the integral from a level to a transition point, of a pair of sigmoids for each distance.
    def up_to(x, step):
        return math.log1p(math.exp(temperature * (x - step))) / temperature

    def part(step):
        return up_to(0.5, step) - up_to(0, step)

    pairs = sum(part(k + 0.5) - (0.5 - part(0.5 - k)) for k in range(1, 6))  # below, a sigmoid less the 1 of its level
    assert values[row, "c mean"] == pytest.approx(2 * (part(0.5) + pairs), abs=1e-5)


def test_one_sigmoid_a_cell_would_be_another_function(measured):
    """Whose mean gap is .283 at T = 4: those of the other cells count."""
    assert measured[0]["QNet T = 4", "c mean"] == pytest.approx(0.2356, abs=5e-5)


def test_dsq_is_off_by_its_soft_slope_of_mean_one(measured):
    values, _ = measured
    for alpha in (0.2, 0.01):
        K = math.log(2 / alpha - 1)
        row = f"DSQ alpha = {alpha:g}"
        assert values[row, "b max"] == pytest.approx(K / 2 / (1 - alpha), rel=1e-5)
        assert values[row, "b mean"] == pytest.approx(1, abs=1e-5)
        assert values[row, "c max"] == 0


def test_the_finding_is_stated(measured):
    _, findings = measured
    assert any("straight-through estimator with a coth-shaped slope" in sentence for sentence in findings)
    assert any("No quantizer gap" in sentence for sentence in findings)
