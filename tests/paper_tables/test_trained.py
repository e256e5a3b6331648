"""What is said of training runs, against definitions written out: verdicts on numbers and orderings, in words."""

import dataclasses
import math
import re
import statistics
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from paper_tables import cells, reported, runs, scatter, table5, table6, table7, tables, trained
from paper_tables.cells import Cell
from paper_tables.scatter import Pooled
from paper_tables.tables import Options
from paper_tables.trained import Entry, Ordering
from tests.paper_tables import made_up
from tests.paper_tables.test_scatter import residuals
from torchimpl.training import recipe as recipes

# Printed numbers


@given(
    last=st.lists(st.integers(8500, 8660).map(lambda n: n / 100), min_size=1, max_size=6),
    up=st.integers(0, 100).map(lambda n: n / 100),
    deviation=st.floats(0.01, 0.6),
    degrees=st.integers(1, 40),
)
def test_a_printed_number_is_judged_by_what_one_more_run_would_give(last, up, deviation, degrees):
    best = [value + up for value in last]
    verdict, reason = trained.judge(last, best, Pooled(deviation, degrees), Decimal("85.8"))
    if len(last) < 3 or degrees < 10:
        assert verdict is None
        assert f"{len(last)} runs and {degrees} degrees" in reason
        return

    def half(runs_made):
        """With as many more runs of the other contenders, too."""
        grown = degrees * (runs_made - 1) // (len(last) - 1)
        return special.stdtrit(grown, 0.975) * deviation * math.sqrt(1 + 1 / runs_made) + 0.05

    off_last = abs(statistics.fmean(last) - 85.8)
    off_best = abs(statistics.fmean(best) - 85.8)
    inside = half(len(last))
    if off_last > inside and off_best > inside:
        expected = "contradicted"
    elif off_last <= inside <= 0.5:
        expected = "reproduced"
    else:
        expected = "undecided"
    if min(abs(off - inside) for off in (off_last, off_best)) > 1e-9:
        assert verdict == expected, reason
    takes = re.search(r"it would take about (\d+) seeds of each contender", reason)
    if takes:
        seeds = int(takes.group(1))
        assert half(seeds) <= 0.5 < half(seeds - 1)
        assert seeds > len(last)
    elif verdict == "undecided":
        assert inside <= 0.5 or (half(999) > 0.5 and "not even 1000 seeds" in reason)


def test_more_seeds_of_all_make_a_pooled_deviation_surer():
    """Of 0.22 points, the 95 % interval of one more run is 0.4312 wide for ever, and half a digit 0.05."""
    verdict, reason = trained.judge([85.8] * 3, [85.8] * 3, Pooled(0.22, 10), Decimal("85.8"))
    assert verdict == "undecided"
    (seeds,) = map(int, re.findall(r"about (\d+) seeds", reason))
    assert special.stdtrit(5 * (seeds - 1), 0.975) * 0.22 * math.sqrt(1 + 1 / seeds) + 0.05 <= 0.5
    assert "not even 1000 seeds" in trained.judge([85.8] * 3, [85.8] * 3, Pooled(0.23, 10), Decimal("85.8"))[1]


def test_the_half_unit_is_that_of_the_last_printed_digit():
    spread = Pooled(0.01, 12)
    assert trained.judge([85.84] * 3, [85.84] * 3, spread, Decimal("85.8"))[0] == "reproduced"
    assert trained.judge([85.84] * 3, [85.84] * 3, spread, Decimal("85.80"))[0] == "contradicted"


def test_the_best_epoch_keeps_a_number_from_being_contradicted():
    spread = Pooled(0.1, 12)
    verdict, reason = trained.judge([85.0, 85.1, 85.2], [85.7, 85.8, 85.9], spread, Decimal("85.8"))
    assert verdict == "undecided"
    assert "the best epoch on test images would" in reason


# Orderings

A = runs.Contender("a", "daq", ("1/1",))
B = runs.Contender("b", "ste", ("1/1",))
C = runs.Contender("c", "lsq", ("1/1",))


def entry(contender, measure="last"):
    return Entry(contender, "1/1", "1/1", measure)


AB, BC, AC = (
    Ordering(f"{more.name} over {less.name}", entry(more), entry(less)) for more, less in [(A, B), (B, C), (A, C)]
)


def measured(values, profile="embedded"):
    """Runs by contender; values are by seed."""
    return made_up.by_place(
        made_up.run(contender, "1/1", profile, seed, value)
        for contender, row in values.items()
        for seed, value in enumerate(row)
        if value is not None
    )


def verdicts(family, found, seeds=3):
    return {one.ordering.row: one.verdict for one in trained.compare(family, found, "embedded", seeds)}


SEEDS = [50.0, 70.0, 60.0]  # what a seed does to all


def test_planted_orderings_are_found():
    noise = [0.1, -0.1, 0.0]
    plain = [a + b for a, b in zip(SEEDS, noise, strict=True)]
    found = measured({A: [v + 5 for v in SEEDS], B: plain, C: [v + 0.05 for v in SEEDS]})
    assert verdicts([AB, BC, AC], found) == {"a over b": "holds", "b over c": "undecided", "a over c": "holds"}
    found = measured({A: [v - 5 for v in SEEDS], B: plain, C: SEEDS})
    assert verdicts([AB, BC, AC], found) == {"a over b": "fails", "b over c": "undecided", "a over c": "fails"}


@pytest.mark.parametrize("script", [table5, table6, table7])
def test_of_runs_that_are_all_alike_no_more_than_one_family_in_twenty_has_a_verdict(script):
    """Within three deviations of what 200 families would show."""
    random, wrong = np.random.default_rng(0), 0
    wanted = {(one.contender, one.width) for one in script.ENTRIES.values()}
    for _ in range(200):
        cells = [
            made_up.run(contender, width, "embedded", seed, last, detail={"as in training": trained_as})
            for contender, width in sorted(wanted, key=str)
            for seed, (last, trained_as) in enumerate(random.normal(80, 1, (3, 2)).tolist())
        ]
        found = trained.compare(script.ORDERINGS, made_up.by_place(cells), "embedded", 3)
        wrong += any(one.verdict != "undecided" for one in found)
    assert wrong <= 200 * (0.05 + 3 * math.sqrt(0.05 * 0.95 / 200))


def test_an_ordering_is_paired_by_seed_with_its_mean_interval_and_probability():
    differences = {AB: [1.0, 2.0, 3.0], AC: [0.5, -0.5, 0.3]}
    values = {
        A: SEEDS,
        B: [v - d for v, d in zip(SEEDS, differences[AB], strict=True)],
        C: [v - d for v, d in zip(SEEDS, differences[AC], strict=True)],
    }
    deviation = math.sqrt(2 * sum(v**2 for row in residuals(list(values.values())) for v in row) / 4)
    for one in trained.compare([AB, AC], measured(values), "embedded", 3):
        own = differences[one.ordering]
        half = special.stdtrit(4, 0.975) * deviation / math.sqrt(3)
        mean = statistics.fmean(own)
        assert one.difference == pytest.approx(mean)
        assert one.interval == pytest.approx((mean - half, mean + half))
        p = 2 * special.stdtr(4, -abs(mean) * math.sqrt(3) / deviation)
        assert f"p = {p:.2g}, among 2 comparisons" in one.reason
        assert one.seeds == (0, 1, 2)


@pytest.mark.parametrize("dead", [{}, {"diverged": "the loss is nan"}])
def test_who_is_not_judged_makes_nothing_easier_for_others(dead):
    """Judged or not, a family is as large; what nothing is concluded of comes last in it."""
    values = {A: [60.0, 71.0, 62.0], B: [59.3, 69.6, 60.8]}
    others = [runs.Contender(f"{i}", "ste", ("1/1",)) for i in range(12)]
    family = [AB, *(Ordering(f"a over {other.name}", entry(A), entry(other)) for other in others)]
    alone = trained.compare(family, measured(values), "embedded", 3)[0]
    cells = [made_up.run(one, "1/1", "embedded", seed, 10.0, detail=dead) for one in others for seed in range(3)]
    found = trained.compare(family, measured(values) | made_up.by_place(cells), "embedded", 3)
    assert alone == found[0]
    assert alone.verdict == "undecided"
    assert {one.verdict for one in found} == {"undecided"}
    assert not any("p = " in one.reason for one in found[1:])


@pytest.mark.parametrize("lost", [True, False])
def test_runs_that_rounding_brings_back_to_chance_scatter_apart(lost):
    """They are as good as still; were they pooled, one family in five would have a verdict on runs that are alike."""
    random, wrong = np.random.default_rng(0), 0
    alike = [runs.DAQ, runs.KERNEL[12], runs.KERNEL[24]]
    null = {one.row for one in table6.ORDERINGS if {one.more.contender, one.less.contender} <= set(alike)}
    assert len(null) == 3
    for _ in range(150):
        cells = []
        for contender in table6.CONTENDERS.values():
            for seed in range(3):
                trained_as = random.normal(80, 1.5)
                chance = contender not in alike and lost
                last = random.normal(10, 0.1) if chance else random.normal(80, 1.5)
                cells.append(
                    made_up.run(contender, "1/1", "cifar10", seed, last, detail={"as in training": trained_as})
                )
        found = trained.compare(table6.ORDERINGS, made_up.by_place(cells), "cifar10", 3)
        wrong += any(one.verdict != "undecided" for one in found if one.ordering.row in null)
        if lost:
            steep = next(one for one in found if one.ordering.row == "beta* over soft argmax, beta = 10")
            assert "(2 degrees of freedom)" in steep.reason
            assert steep.verdict == "holds"
    assert wrong <= 150 * (0.05 + 3 * math.sqrt(0.05 * 0.95 / 150))


def test_measures_and_bit_widths_have_deviations_of_their_own():
    drops = Ordering("drop", entry(A, "drop"), entry(B, "drop"))
    cells = [
        made_up.run(one, "1/1", "embedded", seed, last, detail={"as in training": last + drop})
        for one, by_seed in ((A, ((60, 9), (61, 1), (62, 5))), (B, ((50, 2), (51, 8), (52.3, 5))))
        for seed, (last, drop) in enumerate(by_seed)
    ]
    found = {one.ordering.row: one for one in trained.compare([AB, drops], made_up.by_place(cells), "embedded", 3)}
    assert (found["a over b"].verdict, found["drop"].verdict) == ("holds", "undecided")
    assert found["a over b"].interval[1] - found["a over b"].interval[0] < 2
    assert found["drop"].interval[1] - found["drop"].interval[0] > 20


def test_only_seeds_that_both_have_count():
    found = measured({A: [60.0, None, 62.0, 63.0], B: [50.0, 51.0, None, 53.0], C: [None, None, 55.0, None]})
    by_row = {one.ordering.row: one for one in trained.compare([AB, AC, BC], found, "embedded", 4)}
    assert by_row["a over b"].seeds == (0, 3)
    assert by_row["a over c"].seeds == (2,)
    assert by_row["a over b"].difference == 10
    assert "b over c" not in by_row
    assert {one.ordering.row for one in trained.compare([AB, AC, BC], found, "embedded", 1)} == {"a over b"}
    assert trained.compare([AB, AC, BC], found, "cifar10", 4) == []


def test_one_seed_decides_nothing():
    (one,) = trained.compare([AB], measured({A: [90.0], B: [10.0]}), "embedded", 3)
    assert (one.verdict, one.interval, one.difference) == ("undecided", None, 80)
    assert "no deviation is known" in one.reason


def test_equal_runs_are_undecided():
    (one,) = trained.compare([AB], measured({A: SEEDS, B: SEEDS}), "embedded", 3)
    assert (one.verdict, one.difference) == ("undecided", 0)


def test_a_larger_family_takes_stronger_evidence():
    """p = 0.03 holds alone; among 20 others that are chance it does not."""
    noise = [0.0, 0.5, -0.5]
    values = {A: [61.0, 71.0, 61.0], B: [60.0 - 0.3, 70.0, 60.0 + 0.3]}
    (alone,) = trained.compare([AB], measured(values), "embedded", 3)
    assert (alone.verdict, alone.difference) == ("holds", pytest.approx(1.0))
    family = [AB]
    for i in range(20):
        other = runs.Contender(f"other {i}", "ste", ("1/1",))
        values[other] = [v + noise[(i + j) % 3] for j, v in enumerate(SEEDS)]
        family.append(Ordering(f"b over {i}", entry(B), entry(other)))
    values[A], values[B] = ([v + up for v in SEEDS] for up in (1.0, 0.0))
    found = trained.compare(family, measured(values), "embedded", 3)
    p = float(re.search(r"p = ([\d.e-]+),", found[0].reason).group(1))
    assert 0.05 / 21 < p < 0.05
    assert {one.verdict for one in found} == {"undecided"}


def test_orderings_without_runs_are_of_the_family():
    """What is judged first does not change when the others come."""
    values = {A: [61.0, 71.0, 61.0], B: [60.0 - 0.3, 70.0, 60.0 + 0.3]}
    family = [
        AB,
        *(Ordering(f"b over {i}", entry(B), entry(runs.Contender(f"{i}", "ste", ("1/1",)))) for i in range(9)),
    ]
    (alone,) = trained.compare([AB], measured(values), "embedded", 3)
    (early,) = trained.compare(family, measured(values), "embedded", 3)
    p = float(re.search(r"p = ([\d.e-]+),", early.reason).group(1))
    assert (alone.verdict, early.verdict) == ("holds", "undecided")
    assert f"among 10 comparisons {10 * p:.2g}" in early.reason


def test_an_undecided_ordering_says_how_many_seeds_would_tell():
    values = {A: [62.0, 70.0, 61.5], B: [60.0, 70.0, 60.0], C: [59.0, 70.0, 60.5]}
    (one, _) = trained.compare([AB, AC], measured(values), "embedded", 3)
    table = residuals(list(values.values()))
    deviation = math.sqrt(2 * sum(v**2 for row in table for v in row) / 4)
    takes = scatter.seeds_to_tell(one.difference, deviation, 3, 2, more_than=3)
    assert one.verdict == "undecided"
    assert f"; {takes} seeds would tell, were these the true ones (80 % power)" in one.reason


def test_who_learned_but_is_lost_by_rounding_has_learned():
    """What Table 6 is about: its drops are judged by their own scatter."""
    drops = Ordering("drop", entry(A, "drop"), entry(B, "drop"))
    cells = [
        made_up.run(one, "1/1", "embedded", seed, last, detail={"as in training": trained_as})
        for one, by_seed in ((A, ((10, 80), (11, 82), (9, 78))), (B, ((85, 85), (86, 86), (84, 84))))
        for seed, (last, trained_as) in enumerate(by_seed)
    ]
    (found,) = trained.compare([drops], made_up.by_place(cells), "embedded", 3)
    assert found.verdict == "holds"
    assert found.interval[1] - found.interval[0] > 1


def test_a_number_of_who_hardly_learned_has_no_interval_and_no_verdict():
    cells = all_runs(table5, "cifar10", lambda c, w, s: (50.0 if c != runs.DSQ else 10.0) + wobble(s))
    found = judged("5", cells)
    assert found["DSQ", "1/1"].value_verdict is None
    assert found["DSQ", "1/1"].ci95 is None
    assert found["DAQ", "1/1"].value_verdict == "contradicted"
    assert found["DAQ over DSQ", "1/1"].claim_verdict == "undecided"


def test_what_came_of_the_temperature_that_the_paper_could_not_train():
    cells = [
        made_up.run(
            runs.SOFT_ARGMAX[beta], "1/1", "embedded", seed, last + seed, detail={"as in training": soft + each * seed}
        )
        for beta, last, soft, each in ((60, 12.0, 24.0, 2), (150, 11.0, 29.0, 1))
        for seed in range(3)
    ]
    said = table6._unprinted(Options(), made_up.by_place(cells), "embedded")
    assert "could not train, trained to the end on digits, 10 epochs: 30.0 % with the training function, 12.0 %" in said
    assert "The drop is 18.0 points, at beta = 60 13.0." in said
    assert table6._unprinted(Options(), made_up.by_place(cells), "cifar10") == ""
    fewer = made_up.by_place(cells[:4])  # of beta = 150 the first seed alone: it is compared with that of beta = 60
    assert "29.0 % with the training function, 11.0 %" in table6._unprinted(Options(), fewer, "embedded")
    assert "The drop is 18.0 points, at beta = 60 12.0." in table6._unprinted(Options(), fewer, "embedded")
    assert table6._unprinted(Options(), made_up.by_place([cells[0], cells[4]]), "embedded") == ""
    cells[-1] = made_up.run(runs.SOFT_ARGMAX[150], "1/1", "embedded", 2, 0.0, detail={"diverged": "the loss is nan"})
    assert "could not train, ended early on digits" in table6._unprinted(Options(), made_up.by_place(cells), "embedded")


def test_a_claim_about_the_state_of_the_art_is_about_printed_rivals():
    """Table 5 prints no straight-through estimator."""
    claimed = {one.row for one in table5.ORDERINGS if one.claims and one.less.width == "1/1"}
    assert claimed == {"DAQ over DoReFa", "DAQ over DSQ", "DAQ over IR-Net"}


def test_an_ordering_says_where_the_paper_claims_it():
    cells = all_runs(table7, "embedded", lambda c, width, seed: 95.0 + wobble(seed))
    found = [cell for cell in trained_rows(table("7", cells), "embedded") if cell.claim_verdict]
    ending = "; claimed in Section 4.3, Temperature controller (outperforms the other methods by a large margin)"
    assert len(found) == len(table7.ORDERINGS)
    assert all(cell.reason.endswith(ending) for cell in found)


def test_nothing_is_concluded_of_a_contender_below_the_floor():
    ours = Entry(runs.DAQ, "1/1", "1/1")
    others = [Entry(one, "1/1", "1/1") for one in (runs.DSQ, runs.STE, runs.DAQ_RELEASED)]
    family = [Ordering(f"over {other.contender.name}", ours, other) for other in others]
    values = {runs.DAQ: 95.0, runs.DSQ: 70.0, runs.STE: 92.0, runs.DAQ_RELEASED: 70.0}
    found = measured(
        {one: [value + wobble(seed + i) for seed in range(3)] for i, (one, value) in enumerate(values.items())}
    )
    found = {one.ordering.row: one for one in trained.compare(family, found, "embedded", 3)}
    assert (found["over DSQ"].verdict, found["over STE"].verdict) == ("undecided", "holds")
    assert found["over DSQ"].reason.endswith("DSQ is below the floor of 90 %, of which nothing else is to be concluded")
    assert "floor" not in found["over STE"].reason


def compared_with_ste(tmp_path, monkeypatch, width, rates, profile="embedded"):
    """DAQ, well ahead of STE: its rates were sought at 1/1, on a grid of three, and its own was the `rates`-th."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    for name, taken in (("DAQ", rates), ("STE", 1)):
        tried = (0.01, 0.03, 0.1)
        detail = {"rate": tried[taken], "rates": tried, "quantizer_rate": 0.0, "quantizer_rates": (0.0,)}
        place = runs.tuned_place(name, "embedded")
        cells.write(tmp_path, [cells.Measurement(**place._asdict(), unit="percent", measured=90.0, detail=detail)])
    ours, other = (Entry(one, width, width) for one in (runs.DAQ, runs.STE))
    found = made_up.by_place(
        made_up.run(one, width, profile, seed, value + wobble(seed + i))
        for i, (one, value) in enumerate([(runs.DAQ, 99.0), (runs.STE, 96.0)])
        for seed in range(3)
    )
    (one,) = trained.compare([Ordering("DAQ over STE", ours, other)], found, profile, 3)
    return one


def test_nothing_is_concluded_of_rates_from_an_edge_of_the_grid(tmp_path, monkeypatch):
    assert compared_with_ste(tmp_path, monkeypatch, "1/1", 1).verdict == "holds"
    for edge in (0, 2):
        found = compared_with_ste(tmp_path, monkeypatch, "1/1", edge)
        assert found.verdict == "undecided"
        assert "DAQ may have better rates (the rate of weights is at an edge of what was tried)" in found.reason
    assert compared_with_ste(tmp_path, monkeypatch, "1/1", 0, "smoke").verdict == "holds"  # which has other rates


def test_rates_that_were_sought_at_other_bit_widths_are_named(tmp_path, monkeypatch):
    said = "; the rates of DAQ and STE were sought at 1/1"
    assert compared_with_ste(tmp_path, monkeypatch, "1/32", 1).reason.endswith(said)
    assert "sought" not in compared_with_ste(tmp_path, monkeypatch, "1/1", 1).reason
    assert "sought" not in compared_with_ste(tmp_path, monkeypatch, "1/32", 1, "smoke").reason


def test_who_hardly_learned_or_ended_early_does_not_tell_the_others_scatter():
    values = {A: [60.0, 61.5, 62.0], B: [50.0, 51.0, 52.5], C: [10.0, 10.0, 10.0]}
    plain = trained.compare([AB], measured({A: values[A], B: values[B]}), "embedded", 3)[0]
    dead, with_dead = trained.compare([AB, AC], measured(values), "embedded", 3)
    assert dead.interval == pytest.approx(plain.interval)
    assert (with_dead.verdict, with_dead.difference) == ("undecided", pytest.approx(51.17, abs=0.01))
    assert "c hardly learned, of which nothing else is to be concluded" in with_dead.reason
    early = measured({**values, C: [55.0, 40.0, 70.0]})
    early |= made_up.by_place([made_up.run(C, "1/1", "embedded", 1, 40.0, detail={"diverged": "the loss is nan"})])
    found, with_early = trained.compare([AB, AC], early, "embedded", 3)
    assert found.interval == pytest.approx(plain.interval)
    assert "c ended early, of which nothing else is to be concluded" in with_early.reason


def test_who_is_below_the_floor_does_not_tell_the_others_scatter():
    values = {runs.DAQ: [95.0, 96.0, 95.5], runs.STE: [94.0, 93.5, 94.5], runs.DSQ: [57.0, 30.0, 64.0]}
    ours, *others = (Entry(one, "1/1", "1/1") for one in values)
    family = [Ordering(f"over {other.contender.name}", ours, other) for other in others]
    (plain,) = trained.compare(family[:1], measured({one: values[one] for one in (runs.DAQ, runs.STE)}), "embedded", 3)
    found, _ = trained.compare(family, measured(values), "embedded", 3)
    assert found.interval == pytest.approx(plain.interval)
    shown = {
        cell.row.split(" (")[0]: cell.ci95[1] - cell.ci95[0]
        for cell in trained._accuracies(
            reported.tables()["5"], (ours, *others), "embedded", Options(seeds=3), measured(values)
        )
    }
    deviation = math.sqrt((statistics.variance(values[runs.DAQ]) + statistics.variance(values[runs.STE])) / 2)
    assert shown["STE"] == pytest.approx(2 * special.stdtrit(4, 0.975) * deviation / math.sqrt(3))
    assert shown["DSQ"] == pytest.approx(
        2 * special.stdtrit(2, 0.975) * statistics.stdev(values[runs.DSQ]) / math.sqrt(3)
    )


def test_a_single_run_has_an_interval_by_the_scatter_of_several_others_alone():
    three, one = [60.0, 61.0, 62.0], [50.0]
    some = (entry(A), entry(B), entry(C))

    def intervals(values):
        found = trained._accuracies(reported.tables()["5"], some, "embedded", Options(seeds=3), measured(values))
        return {cell.row[0]: cell.ci95 is not None for cell in found}

    assert intervals({A: three, B: one, C: one}) == {"a": True, "b": False, "c": False}
    assert intervals({A: three, B: three, C: one}) == {"a": True, "b": True, "c": True}


def test_stale_runs_are_left_out_and_diverged_ones_are_results():
    found = measured({A: [60.0, 61.0, 62.0], B: [50.0, 51.0, 52.0]})
    place = runs.place(B, "1/1", "embedded", 1)
    stale = found | {place: dataclasses.replace(found[place], value_verdict="stale")}
    assert trained.compare([AB], stale, "embedded", 3)[0].seeds == (0, 2)
    absent = found | {place: dataclasses.replace(found[place], measured=None, value_verdict="not run")}
    assert trained.compare([AB], absent, "embedded", 3)[0].seeds == (0, 2)
    diverged = found | {place: made_up.run(B, "1/1", "embedded", 1, 10.0, detail={"diverged": "the loss is nan"})}
    assert trained.compare([AB], diverged, "embedded", 3)[0].difference == pytest.approx((10 + 51 + 10) / 3)


def test_drops_are_what_rounding_costs():
    cell = made_up.run(A, "1/1", "embedded", 0, 40.0, detail={"as in training": 65.0})
    for measure, value in (("last", 40.0), ("as in training", 65.0), ("drop", 25.0)):
        assert entry(A, measure).runs({cell.place: cell}, "embedded", 3).values == {0: value}


@pytest.mark.parametrize("script", [table5, table6, table7])
def test_families_are_named_once_with_sentences_that_the_paper_has(script):
    known = {claim.id for claim in reported.claims()}
    assert len({(one.row, one.more.column) for one in script.ORDERINGS}) == len(script.ORDERINGS)
    for one in script.ORDERINGS:
        assert set(one.claims) <= known, one.row
        assert one.more != one.less


def test_labels_are_of_the_recipes():
    assert tuple(trained.LABELS) == recipes.profiles()
    for profile, label in trained.LABELS.items():
        made = recipes.recipe(profile)
        images = {"cifar10": "CIFAR-10", "digits": "digits"}[made.images]
        assert label == f"{images}, {made.epochs} epoch" + "s" * (made.epochs > 1)


# Tables

SCRIPTS = {"5": table5, "6": table6, "7": table7}
RELEASED = [
    Cell(paper="DAQ", table="5", row="Ours", column=column, unit="percent", value_verdict="not run", reason="-")
    for column in table5.RELEASED
]
QUARTILES = [f"{name}, {end} quartile" for name in table7.TIMED for end in ("lower", "upper")]
TIMES = [
    Cell(
        **table7._place(form)._asdict(),
        unit="ms",
        measured=10.0,
        detail={**dict.fromkeys(table7.TIMED, 10.0), **dict.fromkeys(QUARTILES, 10.0)},
    )
    for form in table7.FORMS
]


def entries(script):
    return tuple(script.ENTRIES.values())


def all_runs(script, profile, value, seeds=3):
    """Every run of a table; ``value(contender, width, seed)`` is its accuracy."""
    wanted = {(one.contender, one.width) for one in entries(script)}
    return [made_up.run(c, width, profile, seed, value(c, width, seed)) for c, width in wanted for seed in range(seeds)]


def table(name, cells, **options):
    given = made_up.by_place([*cells, *RELEASED, *TIMES])
    return SCRIPTS[name].run(Options(**options), given)


def trained_rows(found, profile):
    label = f"({trained.LABELS[profile]})"
    return [cell for cell in found.cells if cell.row.endswith(label)]


def judged(name, cells):
    """The rows of the full protocol, by what comes before the label, and column."""
    rows = trained_rows(table(name, cells, profile="cifar10"), "cifar10")
    return {(cell.row.split(" (")[0], cell.column): cell for cell in rows}


def detailed(cells, **detail):
    """Runs with other details."""
    return [dataclasses.replace(cell, detail={**cell.detail, **detail}) for cell in cells]


def wobble(seed):
    return (0.03, -0.03, 0.0)[seed % 3]


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("profile", recipes.profiles())
def test_tables_show_means_of_runs_and_no_verdict_on_a_number_but_by_the_full_protocol(name, profile):
    script = SCRIPTS[name]
    cells = all_runs(script, profile, lambda c, width, seed: 50.0 + wobble(seed))
    found = table(name, cells, profile=profile)
    accuracies = [cell for cell in trained_rows(found, profile) if cell.claim_verdict is None]
    assert len(accuracies) == len(entries(script))
    for cell in accuracies:
        assert (cell.measured, cell.runs, cell.seeds, cell.images) == (50.0, 3, (0, 1, 2), 10_000)
        assert cell.ci95[0] < 50 < cell.ci95[1]
        judged = profile == "cifar10" and cell.reported is not None and cell.column != "FP"  # two networks: 4 degrees
        assert cell.value_verdict == ("contradicted" if judged else None), cell.row
        assert (cell.reported is not None) <= (profile in runs.LONG)
        if profile == "cifar10-short" and cell.reported:
            assert "not the paper's protocol" in cell.reason
    orderings = [cell for cell in trained_rows(found, profile) if cell.claim_verdict]
    assert [cell.claim_verdict for cell in orderings] == ["undecided"] * len(script.ORDERINGS)
    others = [other for other in recipes.profiles() if other != profile]
    assert not any(trained_rows(found, other) for other in others)


@pytest.mark.parametrize("name", SCRIPTS)
def test_two_seeds_give_no_verdict_on_a_number(name):
    cells = all_runs(SCRIPTS[name], "cifar10", lambda c, width, seed: 50.0 + wobble(seed), seeds=2)
    found = trained_rows(table(name, cells, profile="cifar10"), "cifar10")
    assert found
    assert {cell.value_verdict for cell in found} == {None}
    assert all("no verdict with 2 runs" in cell.reason for cell in found if cell.reported)


@pytest.mark.parametrize(("count", "degrees", "seeds"), [(3, 4, 6), (2, 5, 3), (2, 2, 6), (2, 12, 3), (1, 0, 3)])
def test_how_many_seeds_give_the_degrees_is_said(count, degrees, seeds):
    """Degrees grow by as many a seed as there are contenders: of two, six seeds give ten."""
    reason = trained.judge([91.4] * count, [91.4] * count, Pooled(0.1, degrees), Decimal("91.4"))[1]
    assert f"--seeds {seeds} for" in reason


def test_numbers_are_judged_one_by_one():
    """What is printed for DAQ is reproduced, a rival's 5 points off is contradicted."""
    printed = {("DAQ", "1/1"): 85.8, ("IR-Net", "1/1"): 85.4 - 5}
    cells = all_runs(
        table5, "cifar10", lambda c, w, seed: printed.get((c.name, w), 80.0) + wobble(seed + runs.MAIN.index(c))
    )
    found = judged("5", cells)
    assert found["DAQ", "1/1"].value_verdict == "reproduced"
    assert found["DAQ", "1/1"].reported == "85.8"
    assert found["IR-Net", "1/1"].value_verdict == "contradicted"
    assert found["STE", "1/1"].value_verdict is None
    assert found["DAQ over IR-Net", "1/1"].claim_verdict == "holds"
    assert found["DAQ over STE", "2/2"].claim_verdict == "undecided"


def test_the_deviation_is_that_of_the_bit_width():
    """2/2 runs that scatter more do not widen the intervals of 1/1."""
    scatter = {"2/2": 30.0}
    cells = all_runs(table5, "cifar10", lambda c, width, seed: 50 + scatter.get(width, 1.0) * wobble(seed))
    rows = trained_rows(table("5", cells, profile="cifar10"), "cifar10")
    found = {cell.column: cell for cell in rows if not cell.claim_verdict}
    widths = {column: cell.ci95[1] - cell.ci95[0] for column, cell in found.items()}
    assert widths["2/2"] > 20 * widths["1/1"]
    assert widths["1/1"] == pytest.approx(2 * special.stdtrit(12, 0.975) * 0.03 / math.sqrt(3), abs=1e-6)


def test_best_on_test_is_never_the_number_shown():
    cells = detailed(all_runs(table5, "cifar10", lambda c, w, s: 70.0 + wobble(s)), **{"best on test": 85.8})
    found = judged("5", cells)
    assert found["DAQ", "1/1"].measured == 70.0
    assert found["DAQ", "1/1"].value_verdict == "undecided"  # 85.8 is in reach of the best epoch
    assert found["DoReFa", "1/1"].value_verdict == "contradicted"


def test_the_training_function_s_accuracy_has_no_best_epoch():
    """Printed are 86.8 with DASR; that some epoch rounded to 86.8 says nothing of it."""
    cells = all_runs(table6, "cifar10", lambda c, w, s: 50 + wobble(s))
    found = {"best on test": 86.8}
    cells = [detailed([cell], **found, **{"as in training": 60 + wobble(cell.seeds[0])})[0] for cell in cells]
    found = judged("6", cells)
    cell = found["soft argmax, beta = 10", "DASR"]
    assert (cell.measured, cell.reported, cell.value_verdict) == (60.0, "86.8", "contradicted")


def test_rows_say_what_was_vouched_for_and_what_ended_early():
    cells = all_runs(table6, "cifar10-short", lambda c, w, s: 50 + wobble(s))
    steep = runs.SOFT_ARGMAX[150]
    others = [cell for cell in cells if steep.name not in cell.row]
    ended = [cell for cell in cells if steep.name in cell.row]
    cells = detailed(others, vouched="with other sources") + detailed(ended, diverged="the loss is nan at step 3")
    for cell in trained_rows(table("6", cells, profile="cifar10-short"), "cifar10-short"):
        if cell.claim_verdict is None:
            assert ("ended early: the loss is nan at step 3" in cell.reason) is (steep.name in cell.row)
            assert ("3 recorded with other sources" in cell.reason) is (steep.name not in cell.row)


MACHINES = {
    "processor": ({"hardware": {"processor": "one"}}, {"hardware": {"processor": "other"}}, "processor (one, other)"),
    "device": ({}, {"detail": {"device": "cuda, compiled"}}, "device (cpu, cuda, compiled)"),
    "threads": ({"detail": {"threads": 1.0}}, {"detail": {"threads": 4.0}}, "threads (1, 4)"),
    "torch": ({"versions": {"torch": "2.12"}}, {"versions": {"torch": "2.13"}}, "torch (2.12, 2.13)"),
    "none": ({}, {}, None),
}


@pytest.mark.parametrize(("usual", "another", "said"), MACHINES.values(), ids=MACHINES)
def test_rows_say_in_what_runs_of_different_machines_differ(usual, another, said):
    """The second seed's run of A is of another machine: of a number, any may be; of an ordering, one of a pair."""
    cells = [
        made_up.run(one, "1/1", "embedded", seed, value + 10 * seed, **(another if (one, seed) == (A, 1) else usual))
        for one, row in ((A, [60.0, 60.5]), (B, [50.0, 50.0]), (C, [40.0, 40.0]))
        for seed, value in enumerate(row)
    ]
    by_place = made_up.by_place(cells)
    for one in trained.compare([AB, BC], by_place, "embedded", 2):
        differ = said and one.ordering == AB
        assert (f"; the two of seed 1 differ in {said}" in one.reason) is bool(differ)
        assert "of seed 0" not in one.reason
    numbers = trained._accuracies(reported.tables()["5"], [entry(A), entry(B)], "embedded", Options(seeds=2), by_place)
    assert [(f"; runs differ in {said}" in cell.reason) for cell in numbers] == [bool(said), False]


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_runs_a_table_is_what_is_printed_and_the_command_that_trains_it(name):
    found = table(name, [], profile="embedded")
    assert not any(trained_rows(found, profile) for profile in recipes.profiles())
    said = " ".join(found.findings)
    wanted = 3 * len({(one.contender, one.width) for one in entries(SCRIPTS[name])})
    for profile in ("embedded", *runs.LONG):
        assert f"{trained.LABELS[profile]}: 0 of {wanted} runs are there" in said
        data = " --data DIR" if profile in runs.LONG else ""
        assert f"--profile {profile}{data}" in said
        assert data or f"--profile {profile} --data" not in said
    assert "Verdicts on orderings" not in said


def test_the_noise_of_test_images_is_stated():
    """Two networks of 80 % on 10,000 images: 1.96 times the root of 2 * 0.8 * 0.2 / 10,000."""
    cells = all_runs(table7, "cifar10-short", lambda c, w, s: 20.0 if c == runs.ANNEALED else 80.0)  # of most: 80
    (said,) = [line for line in table("7", cells, profile="cifar10-short").findings if "test images" in line]
    assert f"{100 * 1.96 * math.sqrt(2 * 0.8 * 0.2 / 10_000):.1f} points for CIFAR-10, 6 epochs (10,000 images)" in said


def test_a_row_is_recorded_if_all_its_runs_are_and_missing_ones_are_counted_once():
    """Table 6 has two rows of each run."""
    cells = all_runs(table6, "embedded", lambda c, w, s: 80.0 + wobble(s))
    recorded = [
        dataclasses.replace(cell, recorded=cell.seeds != (1,) or runs.DAQ.name not in cell.row) for cell in cells
    ]
    rows = {c.row: c.recorded for c in trained_rows(table("6", recorded, profile="embedded"), "embedded")}
    assert not rows["DAQ (digits, 10 epochs)"]
    assert rows["kernel soft argmax, beta = 4 (digits, 10 epochs)"]
    found = table("6", cells[1:], profile="embedded")
    assert any(f"digits, 10 epochs: {len(cells) - 1} of {len(cells)} runs are there" in line for line in found.findings)


def test_floors_are_stated_and_who_is_below_is_named():
    cells = all_runs(table5, "embedded", lambda c, w, s: 60.0 if (c, w) == (runs.DSQ, "1/1") else 99.5 + wobble(s) / 9)
    (said,) = [line for line in table("5", cells, profile="embedded").findings if "is to reach" in line]
    assert (
        "on digits, 10 epochs is to reach: FP 95 %, 1/32 95 %, 2/2 95 %, 1/1 90 %; below are DSQ, 1/1 (60.0)," in said
    )
    cells = all_runs(table7, "embedded", lambda c, w, s: 90.0)
    (said,) = [line for line in table("7", cells, profile="embedded").findings if "is to reach" in line]
    assert said.endswith("1/1 90 % (asked of DAQ); none is below.")
    found = table("7", all_runs(table7, "cifar10", lambda c, w, s: 20.0), profile="cifar10")
    assert not any("is to reach" in line for line in found.findings)


def test_an_interval_of_accuracies_ends_at_100(monkeypatch):
    monkeypatch.setattr(trained, "LEARNED", 0.0)
    cells = all_runs(table5, "embedded", lambda c, w, s: (99.99, 0.01)[w == "1/1"] + wobble(s) / 3)
    found = [cell for cell in trained_rows(table("5", cells, profile="embedded"), "embedded") if not cell.claim_verdict]
    assert all(0 <= cell.ci95[0] < cell.measured < cell.ci95[1] <= 100 for cell in found)
    assert {cell.ci95[1] for cell in found} >= {100.0}
    assert {cell.ci95[0] for cell in found} >= {0.0}


def test_who_is_ahead_during_training_is_said():
    """By the seeds that both have, as far as both were trained."""
    curves = {
        (runs.DAQ, 0): (10.0, 20.0, 30.0),
        (runs.DAQ, 1): (10.0, 20.0, 30.0),
        (runs.ANNEALED, 0): (9.0, 21.0, 31.0),
        (runs.ANNEALED, 1): (9.0, 18.0, 30.0),
        (runs.COMBINED_ADAPTIVE, 1): (20.0, 10.0),
        (runs.COMBINED[4], 2): (0.0, 0.0, 0.0),
    }
    found = [
        run
        for (contender, seed), curve in curves.items()
        for run in detailed([made_up.run(contender, "1/1", "embedded", seed, curve[-1])], accuracy=curve)
    ]
    (said,) = (one for one in table("7", found, profile="embedded").findings if "Figure 6" in one)
    assert said.startswith("digits, 10 epochs, ")
    annealed = "annealing, beta from 2 to 48: after 2 of 3 epochs (2 seeds)"
    assert f"ahead of {annealed}; combined STE, beta*: after 1 of 2 epochs (1 seed)." in said


def test_printed_times_are_shown_without_a_verdict():
    found = table("7", [], profile="embedded")
    times = [cell for cell in found.cells if cell.column == "Time/iters" and cell.measured is not None]
    assert [cell.reported for cell in times] == ["286.2", "287.8", "296.9"] * 2
    assert all("RTX 2080Ti" in cell.reason and cell.value_verdict is cell.claim_verdict is None for cell in times)
    assert sum("1.00 times annealing's (within the spread)" in line for line in found.findings) == 2


@pytest.mark.parametrize("own", [8.0, 12.0])
def test_a_time_outside_the_spread_is_said_without_a_word(own):
    detail = {**dict.fromkeys(table7.TIMED, 10.0), **dict.fromkeys(QUARTILES, 10.0)}
    detail |= {name: own for name in detail if name.startswith(table7.CONTROLLER)}
    cells = [dataclasses.replace(cell, detail=detail) for cell in TIMES]
    found = SCRIPTS["7"].run(Options(), made_up.by_place([*cells, *RELEASED]))
    assert sum(f"{own / 10:.2f} times annealing's and" in line for line in found.findings) == 2


@pytest.mark.parametrize("script", [table5, table6, table7])
def test_a_table_trains_what_it_shows(script):
    """And the full-precision networks that it starts from."""
    made = [job for job in script.jobs(Options(profile="embedded")) if job.place.table == runs.TABLE]
    shown = {f"{one.contender.name}, {one.width}" for one in entries(script)} | {"full precision, FP"}
    assert {job.place.row for job in made} == shown
    assert {job.profile for job in made} == {"embedded", *runs.LONG}


def test_every_table_of_training_is_a_script():
    assert all(tables.script(name) is script for name, script in SCRIPTS.items())
    assert np.isfinite([one.measured for one in TIMES]).all()
