"""Table `depth`: which arms there are, what they need, and what is said of them; nothing is trained."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from paper_tables import cells, depth
from paper_tables.cells import Cell, Measurement
from paper_tables.tables import Options
from reference import daq_theory


def test_only_the_arms_on_cifar10_need_images():
    needs = {(job.place.row, job.place.column): job.needs for job in depth.jobs(Options())}
    arms = {place: some for place, some in needs.items() if place[0] in depth.arms()}
    assert len(arms) == len(depth.arms()) * len(depth.PROFILES)
    assert all(some == (("tune", "data") if "CIFAR" in column else ("tune",)) for (_, column), some in arms.items())
    rest = [some for place, some in needs.items() if place not in arms]
    assert rest == [("data", "checkpoints")] * 4


@pytest.mark.parametrize(
    ("what", "another"),
    [
        ("RATES", (*depth.RATES, 2 * depth.RATES[-1])),
        ("PROFILES", {name: (images, epochs, seeds + 1) for name, (images, epochs, seeds) in depth.PROFILES.items()}),
    ],
)
def test_another_grid_or_number_of_seeds_is_another_measurement(what, another, monkeypatch):
    before = {job.place: job.key for job in depth.jobs(Options()) if job.unit == "percent"}
    monkeypatch.setattr(depth, what, another)
    after = {job.place: job.key for job in depth.jobs(Options()) if job.unit == "percent"}
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_levels_are_those_of_the_kernels():
    """Mean and root mean square of the coth slope over a cell, by a sum over its points."""
    x = (np.arange(100_000) + 0.5) / 100_000
    t = np.abs(x - np.rint(x))
    for variant, c in (("paper", 1 / 16), ("released", 1 / 8)):  # 1/(4 sigma^2) and 1/(2 sigma^2), sigma = 2
        slope = 2 / (2 * math.sinh(2)) / np.tanh(0.5 - t + c)
        mean, square = slope.mean(), math.sqrt((slope**2).mean())
        found = {
            name: (shape, pytest.approx(factor, rel=1e-6))
            for name, shape, factor in (
                (f"coth, {variant}, as it is", f"coth, {variant}", 1.0),
                (f"coth, {variant}, mean 1", f"coth, {variant}", 1 / mean),
                (f"coth, {variant}, root mean square 1", f"coth, {variant}", 1 / square),
                (f"flat, mean of {variant} ({mean:.3f})", "flat", mean),
                (f"flat, root mean square of {variant} ({square:.3f})", "flat", square),
            )
        }
        assert {name: arm for name, arm in depth.arms().items() if variant in name} == found


def made_up(values):
    """The arms' cells on digits; `values` are accuracies by seed."""
    found = []
    for job in depth.jobs(Options()):
        if job.profile != "embedded":
            continue
        some = tuple(values(job.place.row))
        detail = {"at the best rate": some, "held out": (float(np.mean(some)),) * len(depth.RATES), "best rate": 3.0}
        place = job.place._asdict()
        found.append(Cell(**place, unit="percent", measured=float(np.mean(some)), runs=len(some), detail=detail))
    return found


def test_pairs_differ_in_shape_or_in_level_alone():
    level = {}
    for name, (shape, factor) in depth.arms().items():
        for kind, of in (("mean", daq_theory.mean_slope), ("square", daq_theory.root_mean_square_slope)):
            own = 1.0 if shape == "flat" else of(sigma=depth.SIGMA, variant=shape.removeprefix("coth, "))
            level[name, kind] = own * factor
    assert len(depth.pairs()) == 16
    for differs, one, other in depth.pairs():
        same_shape = depth.arms()[one][0] == depth.arms()[other][0]
        same_level = [level[one, kind] == pytest.approx(level[other, kind]) for kind in ("mean", "square")]
        assert (differs == "level") == same_shape
        assert any(same_level) == (differs == "shape")


def test_what_shape_and_level_do_is_said_with_the_interval_of_all_comparisons():
    wave = ([1.0, -1.0, 0.0], [0.0, 1.0, -1.0])

    def values(row):
        up = 5.0 * row.startswith("coth, paper, as")
        return [90.0 + seed + up + wave[row.startswith("flat")][seed] for seed in range(3)]

    (said,) = depth._findings(made_up(values))
    shape, level = said.split("; level at equal shape")
    assert (
        "shape at equal level is worth +0.0 to +5.0 points, beyond chance in coth, paper, as it is over flat" in shape
    )
    assert shape.count("(+5.0)") == 2
    assert level.count("(+5.0)") == 2
    assert "in 11 of 11 arms" in said
    table = np.array([values(row) for row in depth.arms()])
    residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    half = stats.t.ppf(1 - 0.05 / (2 * 16), 20) * np.sqrt(2 * (residual**2).sum() / 20) / np.sqrt(3)
    assert f"(each arm at its best rate; 95 % interval, for 16 comparisons: +/-{half:.1f})" in said
    (said,) = depth._findings(
        made_up(lambda row: [90.0 + seed + wave[row.startswith("flat")][seed] for seed in range(3)])
    )
    assert said.count("none of it beyond chance") == 2


def test_one_seed_has_no_interval():
    (said,) = depth._findings(made_up(lambda row: [90.0 + row.startswith("flat")]))
    assert "level at equal shape is worth +0.0 points (each arm at its best rate; no interval)" in said
    assert "shape at equal level is worth -1.0 points; " in said
    assert "chance" not in said
    assert "arms are there" not in said


def test_of_some_arms_those_pairs_are_compared_that_are_there():
    whole = made_up(lambda row: [90.0 + row.startswith("flat") + 3.0 * ("as it is" in row)])
    some = ["flat, level 1", "coth, paper, mean 1", "coth, paper, as it is"]
    (said,) = depth._findings([cell for cell in whole if cell.row in some])
    assert "shape at equal level is worth -1.0 points; " in said
    assert "level at equal shape is worth +3.0 points (" in said
    assert "no interval; 3 of 11 arms are there)" in said
    assert "in 3 of 3 arms" in said
    (said,) = depth._findings([cell for cell in whole if cell.row in some[:2]])
    assert "level at equal shape" not in said
    assert depth._findings([cell for cell in whole if cell.row in (some[0], some[2])]) == []
    stale = [dataclasses.replace(cell, value_verdict="stale") if cell.row == some[1] else cell for cell in whole]
    (said,) = depth._findings(stale)
    assert "shape at equal level is worth -1.0 to +2.0 points; " in said
    assert "10 of 11 arms are there" in said


def test_what_the_kernels_do_to_gradients_is_said_of_both_networks():
    found = [
        Cell(**job.place._asdict(), unit="ratio", measured=ratio)
        for job, ratio in zip(depth._gradient_jobs(Options()), (44.25, 1.1, 5.74, 1.04), strict=True)
    ]
    paper, released = depth._findings(found)
    assert "With the paper kernel the gradient" in paper
    assert "44.2 times that of flat slopes before fine-tuning, and 5.74 times in the released network" in paper
    assert "1.1 times that of flat slopes before fine-tuning, and 1.04 times" in released
    stale = [dataclasses.replace(cell, value_verdict="stale") for cell in found[:1]]
    assert depth._findings([*stale, *found[1:]]) == [released]


def test_reasons():
    (cell, *_) = made_up(lambda row: [90.0, 91.0])
    assert f"{depth.RATES[0]:g}: 90.5" in depth._shown(cell).reason
    layers = Cell(paper="DAQ", table="depth", row="r", column="c", unit="ratio", measured=2.0,
                  detail={"by layer": (4.0, 2.0)})  # fmt: skip
    assert depth._shown(layers).reason == "from layer to layer: 4, 2"


def test_an_arm_stands_if_its_rehearsal_at_the_best_rate_has_the_same_bits(monkeypatch):
    asked = []

    def rehearsal(made, training, test):
        asked.append(made.rate)
        return {"rehearsal": "bits", "rehearsal loss": 1.0, "rehearsal correct": 5.0, "rehearsal first loss": 2.0}

    monkeypatch.setattr(depth.runs, "rehearsal", rehearsal)
    job = next(job for job in depth.jobs(Options()) if job.profile == "embedded")
    detail = {"best rate": 0.03, "rehearsal": "bits", "threads": 1.0}
    found = Measurement(**job.place._asdict(), unit="percent", measured=90.0, detail=detail)
    assert "the same bits" in job.rehearse(found)["vouched"]
    assert asked == [0.03]
    assert job.rehearse(dataclasses.replace(found, detail={"best rate": 0.03})) == {}
    other = {**detail, "rehearsal": "others"}
    same_machine = dict(hardware=cells.hardware(), versions=cells.versions())
    assert job.rehearse(dataclasses.replace(found, detail=other, **same_machine)) == {}


def test_rates_are_chosen_on_images_held_out_with_seeds_of_their_own(monkeypatch, tmp_path):
    """The best rate there is not that on the test images, which is not asked for."""
    asked = []

    class State:
        seconds = 2.0

        def __init__(self, correct):
            self.correct = [correct]

    class Split:
        labels = range(100)

    held, full = (Split(), Split()), (Split(), Split())

    def train(made, folder, training, test, device):
        asked.append((made.rate, made.seed, training is held[0]))
        assert (training, test) in (held, full)
        if training is held[0]:
            return State(90 if made.rate == 0.1 else 80)
        return State(70 + made.seed + 20 * (made.rate != 0.1))

    monkeypatch.setattr(depth.runs, "splits", lambda images, data, held_out=False: held if held_out else full)
    monkeypatch.setattr(depth.runs, "train", train)
    monkeypatch.setattr(depth.runs, "rehearsal", lambda made, training, test: {"of rate": made.rate})
    job = next(job for job in depth.jobs(Options(out=tmp_path)) if job.profile == "embedded")
    shares = []
    found = job.measure(shares.append)
    assert asked[:-3] == [(rate, seed, True) for rate in depth.RATES for seed in (1000, 1001, 1002)]
    assert asked[-3:] == [(0.1, seed, False) for seed in range(3)]
    assert (found["measured"], found["detail"]["at the best rate"]) == (71.0, (70.0, 71.0, 72.0))
    assert (found["detail"]["best rate"], found["detail"]["of rate"], found["seconds"]) == (0.1, 0.1, 48.0)
    assert shares == [(i + 1) / 24 for i in range(24)]


def test_at_the_last_quantized_layer_nothing_has_compounded(cifar10_root, checkpoint_root):
    """The released 1/1 network: gradients there are those of flat slopes, and grow towards the first layer."""
    found = depth._gradient("1/1", "paper", cifar10_root, checkpoint_root, lambda part: None)
    ratios = found["detail"]["by layer"]
    assert len(ratios) == 18
    assert ratios[-1] == pytest.approx(1, rel=0.05)
    assert found["measured"] == ratios[0] > 3
