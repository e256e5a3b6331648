"""The significance audit: its interval against simulation and scipy, its verdicts on perturbed copies."""

import dataclasses
import math
from decimal import Decimal
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from paper_tables import reported
from paper_tables.audit import significance
from paper_tables.reported import Printed
from paper_tables.tables import Options

TABLES = reported.tables()
PERCENT = st.integers(0, 1000).map(lambda tenths: Decimal(tenths).scaleb(-1))
IMAGES = st.sampled_from([100, 10_000, 50_000])


@given(PERCENT, IMAGES)
def test_wilson_is_scipys(accuracy, images):
    correct = int(accuracy * images / 100)
    found = significance.wilson(correct / images, images, 1.959963984540054)
    expected = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(PERCENT, PERCENT, IMAGES, st.integers(1, 100))
def test_the_interval_contains_the_difference_and_mirrors(ours, theirs, images, comparisons):
    low, high = significance.difference_interval(ours, theirs, images, comparisons)
    assert -100.0001 <= low <= float(ours - theirs) + 1e-9
    assert float(ours - theirs) - 1e-9 <= high <= 100.0001
    assert significance.difference_interval(theirs, ours, images, comparisons) == pytest.approx((-high, -low))


@given(PERCENT, PERCENT, IMAGES)
def test_more_comparisons_widen_and_more_images_narrow(ours, theirs, images):
    low, high = significance.difference_interval(ours, theirs, images)
    wide = significance.difference_interval(ours, theirs, images, 50)
    narrow = significance.difference_interval(ours, theirs, images * 10)
    assert wide[0] <= low <= narrow[0]
    assert narrow[1] <= high <= wide[1]
    if 0 < ours < 100 and 0 < theirs < 100:  # at the ends of the scale an interval may end where it is
        assert wide[0] < low
        assert high < wide[1]


def test_the_correction_is_bonferronis():
    # Far from the ends and for many images, the interval is nearly normal: half its width is z times the standard error
    p, images, comparisons = 0.66, 50_000, 52
    low, high = significance.difference_interval(Decimal(66), Decimal(66), images, comparisons)
    z = NormalDist().inv_cdf(1 - 0.05 / comparisons / 2)
    assert (high - low) / 2 == pytest.approx(100 * z * math.sqrt(2 * p * (1 - p) / images), rel=1e-3)


def test_newcombes_published_example():
    # Newcombe, Statistics in Medicine 17 (1998), table II, case (a): 56/70 against 48/80, method 10: 0.0524 to 0.3339
    low, high = significance.difference_interval(Decimal(80), Decimal(60), 70, their_images=80)
    assert (low, high) == pytest.approx((5.24, 33.39), abs=0.005)


def test_coverage_by_simulation():
    # 95 % of the intervals contain the true difference; 20,000 draws leave 0.15 points of standard error
    rng = np.random.default_rng(1)
    p, q, n = 0.858, 0.848, 10_000
    inside = 0
    draws = 4000
    for a, b in zip(rng.binomial(n, p, draws), rng.binomial(n, q, draws), strict=True):
        low, high = significance.difference_interval(Decimal(int(a)) / 100, Decimal(int(b)) / 100, n)
        inside += low <= 100 * (p - q) <= high
    error = math.sqrt(0.95 * 0.05 / draws)
    assert abs(inside / draws - 0.95) < 4 * error


def test_the_papers_comparisons():
    table = significance.run(Options())
    assert len(table.cells) == 52
    best = [cell for cell in table.cells if cell.row.endswith("(best rival)")]
    assert len(best) == 16
    wins = [cell for cell in best if cell.measured > 0]
    sure = [cell for cell in best if cell.ci95[0] > 0]
    assert (len(wins), len(sure)) == (12, 6)
    assert sum(cell.measured == 0 for cell in best) == 2
    losses = {(cell.column, cell.row) for cell in table.cells if cell.measured < 0}
    assert losses == {
        ("Table 2, 4/4", "Ours against LSQ"),
        ("Table 2, 4/4", "Ours against LSQ+ (best rival)"),
        ("Table 4, 4/4", "Ours against PROFIT (best rival)"),
    }
    (failed,) = (cell for cell in table.cells if cell.claim_verdict == "fails")
    assert "PROFIT" in failed.row


def test_marked_models_are_not_like_for_like():
    cells = {(cell.column, cell.row): cell.reason for cell in significance.check([TABLES["2"], TABLES["4"]])}
    assert "only theirs quantizes every layer" in cells["Table 2, 4/4", "Ours against RQ"]
    assert "only ours quantizes every layer" in cells["Table 4, 4/4", "Ours against PACT"]
    assert "like for like" not in cells["Table 4, 4/4", "Ours against PROFIT (best rival)"]


PLACES = [
    (name, row.method, column)
    for name in significance.TABLES
    for row in TABLES[name].rows
    for column in row.values
    if row.method != "Ours" and column != "FP" and column in TABLES[name].row("Ours").values
]


@given(st.sampled_from(PLACES), st.integers(-300, 300))
def test_a_planted_accuracy_moves_its_own_verdict_only(place, tenths):
    name, method, column = place
    table = TABLES[name]
    before = {(c.column, c.row.removesuffix(" (best rival)")): c.claim_verdict for c in significance.check([table])}
    ours = table.row("Ours").values[column].value
    theirs = min(max(ours + Decimal(tenths).scaleb(-1), Decimal(0)), Decimal(100))
    rows = tuple(
        dataclasses.replace(row, values={**row.values, column: Printed(theirs)}) if row.method == method else row
        for row in table.rows
    )
    after = {
        (c.column, c.row.removesuffix(" (best rival)")): c.claim_verdict
        for c in significance.check([dataclasses.replace(table, rows=rows)])
    }
    changed = (f"Table {name}, {column}", f"Ours against {method}")
    assert {k: v for k, v in before.items() if k != changed} == {k: v for k, v in after.items() if k != changed}
    # An oracle of its own: Wald's interval, from which Newcombe's differs by far less than the 0.1 tested here
    p, q, n = float(ours) / 100, float(theirs) / 100, table.images
    z = 4.5  # above every Bonferroni quantile used
    margin = 100 * z * math.sqrt((p * (1 - p) + q * (1 - q)) / n) + 0.1
    if float(theirs - ours) > margin:
        assert after[changed] == "fails"
    elif float(ours - theirs) > margin:
        assert after[changed] == "holds"
    elif ours == theirs:
        assert after[changed] == "undecided"


def test_how_much_two_accuracies_must_differ():
    for accuracy, images in ((Decimal("85.6"), 10_000), (Decimal(66), 50_000)):
        needed = Decimal(significance.smallest_significant(accuracy, images))
        for factor, significant in ((Decimal("1.03"), True), (Decimal("0.97"), False)):
            ours, theirs = accuracy + needed * factor / 2, accuracy - needed * factor / 2
            low, _ = significance.difference_interval(ours, theirs, images)
            assert (low > 0) == significant
