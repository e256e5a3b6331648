"""The significance audit: its interval against simulation and scipy, its verdicts on perturbed copies."""

import dataclasses
import math
import re
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
    table = significance.audit([TABLES[name] for name in significance.TABLES])
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
def test_a_planted_accuracy_moves_its_own_numbers_only(place, tenths):
    name, method, column = place
    table = TABLES[name]

    def judged(table):
        return {(c.column, c.row.removesuffix(" (best rival)")): c for c in significance.check([table])}

    before = judged(table)
    ours = table.row("Ours").values[column].value
    theirs = min(max(ours + Decimal(tenths).scaleb(-1), Decimal(0)), Decimal(100))
    rows = tuple(
        dataclasses.replace(row, values={**row.values, column: Printed(theirs)}) if row.method == method else row
        for row in table.rows
    )
    after = judged(dataclasses.replace(table, rows=rows))
    changed = (f"Table {name}, {column}", f"Ours against {method}")
    for other in before.keys() - {changed}:  # Holm's correction may move, by one comparison more or less
        assert before[other].detail["p alone"] == after[other].detail["p alone"]
        assert before[other].measured == after[other].measured
        assert {before[other].claim_verdict, after[other].claim_verdict} != {"holds", "fails"}
    # An oracle of its own: Wald's interval, from which Newcombe's differs by far less than the 0.2 tested here
    p, q, n = float(ours) / 100, float(theirs) / 100, table.images
    z = 4.5  # above every quantile used
    margin = 100 * z * math.sqrt((p * (1 - p) + q * (1 - q)) / n) + 0.2
    if float(theirs - ours) > margin:
        assert after[changed].claim_verdict == "fails"
    elif float(ours - theirs) > margin:
        assert after[changed].claim_verdict == "holds"
    elif ours == theirs:
        assert after[changed].claim_verdict == "undecided"


@given(PERCENT, IMAGES, st.sampled_from([1, 20]), st.booleans())
def test_what_it_takes_is_what_the_verdict_takes(against, images, comparisons, better):
    """By the same interval; so never nothing."""
    needed = significance.takes(against, images, decimals=1, better=better, comparisons=comparisons)
    unit = Decimal("0.1")

    def verdict(points):
        other = against + points if better else against - points
        found = significance.printed_interval(other, against, images, comparisons)
        return significance.judge(found)

    if needed is None:
        assert verdict(100 - against if better else against) == "undecided"
    else:
        assert needed >= unit
        assert verdict(needed) == ("holds" if better else "fails")
        assert verdict(needed - unit) == "undecided"


def test_86_against_78_5_of_200_takes_more_than_7_5():
    assert significance.takes(Decimal("78.5"), 200, decimals=0, better=True) == Decimal("8.5")
    low, high = significance.printed_interval(Decimal(86), Decimal("78.5"), 200)
    assert low < 0 < high


def test_half_a_unit_of_either_number_counts():
    plain = significance.difference_interval(Decimal("85.8"), Decimal("85.40"), 10_000)
    low, high = significance.printed_interval(Decimal("85.8"), Decimal("85.40"), 10_000)
    assert (plain[0] - low, high - plain[1]) == pytest.approx((0.055, 0.055))
    assert significance.chance(Decimal("85.8"), Decimal("85.7"), 10**9) == 1.0  # both may be 85.75
    assert significance.chance(Decimal("85.80"), Decimal("85.70"), 10**9) < 1e-9


@given(PERCENT, PERCENT, IMAGES)
def test_a_p_value_is_the_level_whose_interval_ends_at_0(ours, theirs, images):
    p = significance.chance(ours, theirs, images)
    assert p == significance.chance(theirs, ours, images)
    if p == 1.0:
        assert abs(ours - theirs) <= Decimal("0.1") or p > 0.99
    elif p > 1e-12:
        ends = significance.printed_interval(ours, theirs, images, significance.LEVEL / p)
        assert min(map(abs, ends)) == pytest.approx(0, abs=1e-6)
    for level in (0.05, 0.001):
        low, high = significance.printed_interval(ours, theirs, images, 0.05 / level)
        if abs(p - level) > 1e-9:
            assert (p < level) == (low > 0 or high < 0)


def mcnemar(better, worse):
    """Two-sided exact p-value: as many or more of one kind among the disagreeing images, were both kinds as likely."""
    total = better + worse
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(worse + 1)) / 2**total)


@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([100, 300, 1000]))
def test_the_tipping_disagreement_is_mcnemars(ours, theirs, images):
    first, second = Decimal(ours).scaleb(-1), Decimal(theirs).scaleb(-1)
    found = significance.tipping(first, second, images)
    apart = math.ceil((abs(ours - theirs) - 1) * images / 1000)  # less half a unit of both
    if apart <= 0 or mcnemar(apart, 0) > 0.05:
        assert found is None
        return
    wrong_by_better = (1000 - max(ours, theirs) + 0.5) * images / 1000
    right_by_worse = (min(ours, theirs) + 0.5) * images / 1000
    both = range((images - apart) // 2 + 1)
    kinds = [(apart + worse, worse) for worse in both if worse <= min(wrong_by_better, right_by_worse) + 1e-9]
    chance = [better + worse for better, worse in kinds if mcnemar(better, worse) > 0.05]
    assert found == (min(chance) if chance else images + 1)


def test_what_tips_is_said(monkeypatch):
    cells = {(cell.column, cell.row): cell for cell in significance.check([TABLES["5"]])}
    cell = cells["Table 5, 1/1", "Ours against IRNet (best rival)"]
    assert cell.detail["tipping"] == 220
    assert "chance if exactly one of the two is right on 220 images (2.2 %) or more" in cell.reason
    cell = cells["Table 5, 1/1", "Ours against DSQ"]  # it would take 6582 images, and the two are wrong on 3020 at most
    assert cell.detail["tipping"] == 10_001
    assert "paired" not in cell.reason


# Tables with other numbers: counts and sentences again, from the cells alone

MOVES = st.dictionaries(st.sampled_from(PLACES), st.integers(-25, 25), max_size=10)


def moved(changes):
    """Copy the tables, with rivals' accuracies at so many tenths of a point from ours."""
    found = []
    for name in significance.TABLES:
        table = TABLES[name]
        rows = []
        for row in table.rows:
            values = dict(row.values)
            for column in values:
                if (name, row.method, column) in changes:
                    ours = table.row("Ours").values[column].value
                    theirs = ours - Decimal(changes[name, row.method, column]).scaleb(-1)
                    values[column] = dataclasses.replace(values[column], value=theirs)
            rows.append(dataclasses.replace(row, values=values))
        found.append(dataclasses.replace(table, rows=tuple(rows)))
    return found


def interval(first, second, images, comparisons=1):
    """Newcombe's method 10, from Wilson's intervals as textbooks have them, and half a unit of each: 0.05."""
    return at(first, second, images, NormalDist().inv_cdf(1 - 0.05 / comparisons / 2))


def at(first, second, images, z):
    def ends(p):
        centre = p + z**2 / (2 * images)
        half = z * math.sqrt(p * (1 - p) / images + z**2 / (4 * images**2))
        return p, (centre - half) / (1 + z**2 / images), (centre + half) / (1 + z**2 / images)

    (p, p_low, p_high), (q, q_low, q_high) = ends(float(first) / 100), ends(float(second) / 100)
    return (
        100 * (p - q - math.hypot(p - p_low, q_high - q)) - 0.1,
        100 * (p - q + math.hypot(p_high - p, q - q_low)) + 0.1,
    )


def p_value(first, second, images):
    """By bisection over standard errors."""
    if abs(first - second) <= Decimal("0.1"):
        return 1.0
    low, high = 0.0, 37.0
    for _ in range(60):
        middle = (low + high) / 2
        ends = at(first, second, images, middle)
        low, high = (middle, high) if ends[0] > 0 or ends[1] < 0 else (low, middle)
    return math.erfc(low / math.sqrt(2))


def expected(tables):
    """Every comparison: column, rival, whether the best, difference, interval alone, p-value alone and by Holm."""
    pairs = [
        (table, column, row.method, table.row("Ours").values[column].value, row.values[column].value)
        for table in tables
        for column in table.columns
        for row in table.rows
        if column != "FP" and row.method != "Ours" and {column} <= row.values.keys() & table.row("Ours").values.keys()
    ]
    alone = [p_value(ours, theirs, table.images) for table, _column, _rival, ours, theirs in pairs]
    adjusted = {}
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(pairs)), key=lambda k: alone[k])):
        largest = max(largest, min(1.0, (len(pairs) - rank) * alone[index]))
        adjusted[index] = largest
    for k, (table, column, rival, ours, theirs) in enumerate(pairs):
        others = [(other[2], other[4]) for other in pairs if other[:2] == (table, column)]
        top = max(number for _, number in others)
        best = next(method for method, number in others if number == top)
        yield (
            f"Table {table.table}, {column}",
            rival,
            rival == best,
            ours - theirs,
            interval(ours, theirs, table.images),
            alone[k],
            adjusted[k],
        )


@given(MOVES)
def test_every_count_and_every_sentence_is_that_of_the_numbers(changes):
    tables = moved(changes)
    table = significance.audit(tables)
    lines = list(expected(tables))
    assert len(table.cells) == len(lines)
    cells = {(cell.column, cell.row.removesuffix(" (best rival)")): cell for cell in table.cells}
    losses = []
    for column, rival, best, difference, alone, p, adjusted in lines:
        cell = cells[column, f"Ours against {rival}"]
        verdict = "undecided" if adjusted > 0.05 else "holds" if difference > 0 else "fails"
        assert cell.row.endswith(" (best rival)") == best
        assert (cell.claim_verdict, cell.measured) == (verdict, float(difference))
        assert cell.ci95 == pytest.approx(alone)
        assert cell.images == TABLES[column[6]].images
        assert cell.reported == f"{TABLES[column[6]].row('Ours').values[column[9:]].value} against " + str(
            next(t for t in tables if t.table == column[6]).row(rival).values[column[9:]].value
        )
        assert cell.detail["p alone"] == pytest.approx(p, rel=1e-6, abs=1e-290)
        assert cell.detail["p adjusted"] == pytest.approx(adjusted, rel=1e-6, abs=1e-290)
        assert cell.reason.startswith(
            f"{difference:+} points, 95 % interval {alone[0]:+.2f} to {alone[1]:+.2f}; p = "
            f"{cell.detail['p alone']:.2g} alone, {cell.detail['p adjusted']:.2g} as one of {len(lines)}"
        )
        assert ("; alone it would count, not as one of many" in cell.reason) == (p <= 0.05 < adjusted)
        assert cell.protocol.endswith(f"one of {len(lines)} comparisons")
        if verdict == "fails":
            losses.append((column, cell.row, cell.reason))
    assert sorted(table.wrong) == sorted(f"{column}: {row}, {reason}." for column, row, reason in losses)
    for sentence, some in zip(table.findings, ([line for line in lines if line[2]], lines), strict=True):
        signs = [(line[3] > 0) - (line[3] < 0) for line in some]
        sure_alone = sum(line[4][0] > 0 for line in some)
        sure = sum(line[6] <= 0.05 and line[3] > 0 for line in some)
        beaten = [(line[0], line[1]) for line in some if line[6] <= 0.05 and line[3] < 0]
        said, _, which = sentence.partition(" by more than chance")
        numbers = [int(number) for number in re.findall(r"\d+", said)]
        assert numbers == [
            len(some), signs.count(1), sure_alone, sure, len(lines), signs.count(0), signs.count(-1), len(beaten)
        ], sentence  # fmt: skip
        listed = f" ({'; '.join(f'{column}, {rival}' for column, rival in beaten)})" if beaten else ""
        assert which == f"{listed}."


@given(PERCENT, PERCENT, IMAGES, IMAGES, st.integers(1, 100))
def test_exchanging_the_two_exchanges_the_ends(ours, theirs, images, their_images, comparisons):
    low, high = significance.difference_interval(ours, theirs, images, comparisons, their_images=their_images)
    other = significance.difference_interval(theirs, ours, their_images, comparisons, their_images=images)
    assert other == pytest.approx((-high, -low), abs=1e-9)
    mirrored = {"holds": "fails", "fails": "holds", "undecided": "undecided"}
    if min(abs(low), abs(high)) > 1e-9:
        assert significance.judge(other) == mirrored[significance.judge((low, high))]


@given(IMAGES, st.integers(1, 100))
def test_the_ends_of_the_scale_are_exact(images, comparisons):
    # At 0 and 100 % the far end of Wilson's interval is the accuracy itself, whatever the rounding
    low, high = significance.difference_interval(Decimal(100), Decimal(0), images, comparisons)
    assert low < high == 100
    assert significance.difference_interval(Decimal(0), Decimal(100), images, comparisons) == (-100, -low)


def test_what_has_no_images_is_no_comparison():
    without = dataclasses.replace(TABLES["2"], images=None)
    assert significance.check([without, TABLES["4"]]) == significance.check([TABLES["4"]])
