"""Rates are sought on images held out, by one rule for all, and what is recorded is what trains."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import cells, cli, runs, tuning
from paper_tables.cells import Cell, Measurement
from paper_tables.tables import InputError, Options
from tests.torchimpl import networks
from torchimpl.data.cifar10 import Split
from torchimpl.training.trainer import State


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """An empty ``results/``, and no data but those given."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    monkeypatch.delenv("QUANTGAP_DATA", raising=False)
    return tmp_path / "results"


# The search


def sought(score, rates=tuning.RATES, others=tuning.QUANTIZER_RATES):
    """Search, and note what was tried, in order."""
    tried = {}

    def attempt(pair):
        tried.setdefault(pair, score(pair))
        return tried[pair]

    return tuning.search(attempt, rates, others), tried


def test_within_the_grid_nothing_is_added():
    best, tried = sought(lambda pair: -abs(pair[0] - 0.03) - abs(pair[1] - 1e-3))
    assert best == (0.03, 1e-3)
    assert set(tried) == set(itertools.product(tuning.RATES, tuning.QUANTIZER_RATES))


@pytest.mark.parametrize(
    ("score", "best", "rates", "others"),
    [
        (lambda p: p[0], 3.0, {0.3, 0.9, 3.0}, set()),  # three times, up
        (lambda p: -p[0], 0.0003, {0.003, 0.0009, 0.0003}, set()),  # three times, down
        (lambda p: -abs(p[0] - 0.3), 0.3, {0.3, 0.9}, set()),  # until the best is inside
        (lambda p: -abs(p[0] - 0.03) + p[1], 0.03, set(), {0.1, 1.0, 10.0}),
        (lambda p: -abs(p[0] - 0.03) - p[1], 0.03, set(), {1e-5, 1e-6, 1e-7}),
    ],
)
def test_the_grid_grows_where_the_best_lies_at_an_edge(score, best, rates, others):
    def steady(pair):
        return round(score(pair) - (0 if others else abs(pair[1] - 1e-3)), 12)

    found, tried = sought(steady)
    assert found[0] == best
    assert {pair[0] for pair in tried} == {*tuning.RATES, *rates}
    assert {pair[1] for pair in tried} == {*tuning.QUANTIZER_RATES, *others}


def test_of_equals_the_least_is_taken():
    middle = {0.03: 1.0, 0.1: 1.0}
    assert sought(lambda pair: middle.get(pair[0], 0.0) + (pair[1] == 1e-3))[0] == (0.03, 1e-3)
    assert sought(lambda pair: (pair[0] == 0.03) + (pair[1] >= 1e-3))[0] == (0.03, 1e-3)


def test_an_axis_of_one_value_does_not_grow():
    best, tried = sought(lambda pair: -abs(pair[0] - 0.03), others=(0.0,))
    assert best == (0.03, 0.0)
    assert {pair[1] for pair in tried} == {0.0}


@given(st.dictionaries(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), st.integers(0, 5)), st.integers(0, 3))
def test_what_is_found_is_the_best_of_what_was_tried(values, plain):
    """Whatever the accuracies: and at an edge only if the grid had grown as far as it may."""
    scores = {}

    def score(pair):
        return scores.setdefault(pair, values.get((len(scores) % 19 - 9, len(scores) // 19 - 9), plain))

    best, tried = sought(score)
    assert tried[best] == max(tried.values())
    assert best == min(pair for pair in tried if tried[pair] == tried[best])
    for axis, start in ((0, tuning.RATES), (1, tuning.QUANTIZER_RATES)):
        have = sorted({pair[axis] for pair in tried})
        assert len([v for v in have if v > max(start)]) <= tuning.LIMIT
        assert len([v for v in have if v < min(start)]) <= tuning.LIMIT
        added = len({pair[0] for pair in tried}) + len({pair[1] for pair in tried}) - 6
        assert have[0] < best[axis] < have[-1] or added >= tuning.LIMIT


# A search measured


@pytest.fixture
def asked(monkeypatch):
    """Runs that are made up: the better, the nearer to 0.03 and 0.01; returns what was asked for."""
    found = []
    everything = networks.images("train", 300)
    others = Split(everything.images[:40], everything.labels[:40], "")

    def splits(images, data, *, held_out=False):
        assert held_out, "rates must not be sought on test images"
        return everything, others

    def run(made, folder, training, test, *, start=None, key_of, device):
        assert test is others
        found.append((made, len(training.labels), start and start(), key_of(made)))
        right = 20 - (made.rate != 0.03) - (made.quantizer_rate != 0.01)
        return State(epochs=1, model={"of": made.method}, correct=[40, right]), folder / "a file"

    monkeypatch.setattr(runs, "splits", splits)
    monkeypatch.setattr(tuning.store, "run", run)
    return found


def job(name, options=None, profile="embedded"):
    (found,) = [j for j in tuning.jobs(options or Options(tune=True)) if j.place == runs.tuned_place(name, profile)]
    return found


def test_a_search_is_recorded_with_all_that_was_tried(asked):
    shares = []
    found = job("DAQ").run(shares.append)
    first, *attempts = asked
    assert (first[0].method, first[1], first[0].seed) == (None, 300, tuning.SEED)
    assert len(attempts) == len({a[3] for a in attempts}) == 3 * 4  # 0.01 lay at an edge: one more column
    assert {a[0].seed for a in attempts} == {tuning.SEED}
    assert all(a[2] == {"of": None} for a in attempts)  # from full precision
    assert (found.detail["rate"], found.detail["quantizer_rate"]) == (0.03, 0.01)
    tried = zip(found.detail["rates"], found.detail["quantizer_rates"], strict=True)
    assert sorted(tried) == sorted((a[0].rate, a[0].quantizer_rate) for a in attempts)
    assert max(found.detail["accuracies"]) == found.measured == 50.0  # the last epoch's 20 of 40, not the best's
    assert (found.seeds, found.images, found.selection) == ((tuning.SEED,), 40, "last")
    assert all(0 <= share < 1 for share in shares)


def test_the_best_attempt_is_rehearsed_where_one_was_recorded(asked, monkeypatch):
    made = []

    def rehearsal(recipe, training, test):
        made.append((recipe.rate, recipe.quantizer_rate, len(training.labels), len(test.labels)))
        return {"rehearsal": "bits", "threads": 1.0}

    monkeypatch.setattr(tuning.runs, "rehearsal", rehearsal)
    search = job("DAQ")
    found = search.run(lambda share: None)
    assert "the same bits" in search.rehearse(found)["vouched"]
    assert made == [(0.03, 0.01, 300, 40)] * 2
    others = dataclasses.replace(found, detail={**found.detail, "rehearsal": "others"})
    assert search.rehearse(others) == {}
    without = {name: value for name, value in found.detail.items() if name != "rehearsal"}
    assert search.rehearse(dataclasses.replace(found, detail=without)) == {}
    assert len(made) == 3


def test_attempts_see_no_more_images_than_said_and_full_precision_has_no_quantizers(asked, monkeypatch):
    monkeypatch.setitem(tuning.PROFILES, "embedded", 64)
    job("DAQ").run(lambda share: None)
    assert [count for _, count, _, _ in asked] == [300] + [64] * 12
    asked.clear()
    found = job("full precision").run(lambda share: None)
    assert {(made.quantizer_rate, count, start) for made, count, start, _ in asked} == {(0.0, 300, None)}
    assert found.detail["rate"] == 0.03


def test_every_contender_with_rates_of_its_own_has_the_same_grid_and_length():
    by_profile = {}
    for each in tuning.jobs(Options()):
        (made, first, images, *_) = each.measure.args
        assert (made.seed, made.rate, made.quantizer_rate) == (tuning.SEED, 0.0, 0.0)
        assert first is None or first.seed == tuning.SEED
        if first is not None:
            by_profile.setdefault(each.place.column, set()).add((made.epochs, made.batch, made.momentum, images))
    assert all(len(given) == 1 for given in by_profile.values())
    names = {each.place.row for each in tuning.jobs(Options())}
    assert names == {one.name for one in runs.MAIN if not one.rates}
    assert {one.rates for one in runs.CONTENDERS if one.rates} <= names


@pytest.mark.parametrize(
    ("what", "another"),
    [
        ("RATES", (0.01, 0.03)),
        ("QUANTIZER_RATES", (1e-4, 1e-3)),
        ("LIMIT", 4),
        ("PROFILES", {profile: images - 1 for profile, images in tuning.PROFILES.items()}),
    ],
)
def test_another_grid_or_number_of_images_is_another_measurement(what, another, monkeypatch):
    before = {each.place: each.key for each in tuning.jobs(Options())}
    monkeypatch.setattr(tuning, what, another)
    after = {each.place: each.key for each in tuning.jobs(Options())}
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_no_seed_of_tuning_can_be_reported():
    assert cli._count("1000") == 1000
    with pytest.raises(Exception, match="from 1 to 1000"):
        cli._count("1001")
    assert tuning.SEED not in range(1000)


def recorded(name, profile, rate, quantizer_rate):
    return Measurement(
        **runs.tuned_place(name, profile)._asdict(),
        unit="percent",
        measured=50.0,
        detail={"rate": rate, "quantizer_rate": quantizer_rate},
    )


def test_recipes_have_the_rates_that_are_recorded(results):
    before = runs.DAQ.recipe("embedded", "1/1", 0)
    cells.write(results, [recorded("DAQ", "embedded", 0.07, 0.003), recorded("full precision", "embedded", 0.3, 0.0)])
    for contender in (runs.DAQ, *runs.SOFT_ARGMAX.values(), *runs.KERNEL.values(), runs.ANNEALED):
        made = contender.recipe("embedded", "1/1", 0)
        assert (made.rate, made.quantizer_rate) == (0.07, 0.003), contender.name
    for other in (runs.STE.recipe("embedded", "1/1", 0), runs.DAQ.recipe("cifar10", "1/1", 0)):
        assert (other.rate, other.quantizer_rate) in ((before.rate, before.quantizer_rate), (0.01, 1e-4))
    for made in (runs.IRNET.recipe("embedded", "1/1", 0), runs.DAQ.recipe("embedded", "1/1", 0)):
        assert runs.first_of(made).rate == 0.3
    assert dataclasses.replace(runs.DAQ.recipe("embedded", "1/1", 0), rate=0.05, quantizer_rate=1e-3) == before


def test_rates_that_are_recorded_in_the_repository_are_those_of_the_recipes(monkeypatch):
    monkeypatch.setattr(cells, "RESULTS", cells.ROOT / "results")
    for path in (cells.RESULTS / "tuning").glob("*.json"):
        found = cells.read(path, Measurement)
        (contender,) = [one for one in runs.MAIN if one.name == found.row]
        made = contender.recipe(found.column, contender.widths[0], 0)
        assert made.rate == found.detail["rate"]
        assert made.method is None or made.quantizer_rate == found.detail["quantizer_rate"]


def test_a_damaged_record_of_rates_is_one_line(results):
    place = runs.tuned_place("DAQ", "embedded")
    cells.write(results, [recorded("DAQ", "embedded", 0.07, 0.003)])
    (results / "tuning" / place.filename).write_text("{")
    with pytest.raises(InputError, match="restore it"):
        runs.DAQ.recipe("embedded", "1/1", 0)


def test_the_table_shows_rates_and_what_was_not_sought(results, tmp_path, capsys):
    options = Options()
    places = [each.place for each in tuning.jobs(options)]
    found = {one: Cell(**one._asdict(), unit="percent", value_verdict="not run") for one in places}
    place = runs.tuned_place("DAQ", "embedded")
    tried = {"accuracies": (1.0, 2.0, 3.0), "rates": (0.01, 0.07, 0.1), "quantizer_rates": (0.003, 0.01, 0.03)}
    detail = {"rate": 0.07, "quantizer_rate": 0.003, **tried}
    found[place] = dataclasses.replace(found[place], measured=90.0, value_verdict=None, detail=detail)
    shown = {cell.place: cell for cell in tuning.run(options, found).cells}
    assert shown[place].reason == (
        "weights 0.07, quantizers 0.003; best of 3; the rate of quantizers is at an edge of what was tried"
    )
    stale = dataclasses.replace(found[place], value_verdict="stale", reason="recorded with other sources")
    assert stale in tuning.run(options, found | {place: stale}).cells
    assert cli.main(["--table", "tuning", "--out", str(tmp_path / "out"), "--profile", "smoke"]) == 0
    out = capsys.readouterr().out
    assert "--tune" in " ".join(out.split())
    assert not (tmp_path / "out" / "tuning").exists()
