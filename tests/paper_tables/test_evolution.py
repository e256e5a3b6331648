"""Table `evolution`: what it looks at in a network, and what it says of made-up runs."""

import dataclasses
import math

import pytest
import torch
from scipy.integrate import quad

from paper_tables import cells, evolution, figure_evolution, jobs, runs
from paper_tables.cells import Cell
from paper_tables.evolution import ARMS, FIXED, LEARNED, STE
from paper_tables.tables import Options
from torchimpl.data import digits
from torchimpl.layers import QuantizedLayer
from torchimpl.quantizers.dsq import DSQ
from torchimpl.training import batches, bounds, trainer
from torchimpl.training.trainer import State


def test_arms_differ_in_the_quantizer_alone():
    made = [evolution._recipe(arm, 1) for arm in ARMS]
    kept = ("images", "epochs", "batch", "rate", "quantizer_rate", "momentum", "weight_decay", "normalize", "seed")
    assert len({tuple(getattr(one, name) for name in kept) for one in made}) == 1
    assert len({runs.key_of(evolution._first(one)) for one in made}) == 1
    shapes = [{n: v.shape for n, v in trainer.build(one).named_parameters()} for one in made]
    assert shapes[0] == shapes[1]
    assert shapes[0].keys() - shapes[2].keys() == {n for n in shapes[0] if n.endswith("alpha")}


def test_jobs():
    found = evolution.jobs(Options())
    assert [job.place.row for job in found] == list(ARMS)
    assert len({job.key for job in found}) == 3
    assert {job.needs for job in found} == {("tune",)}


@pytest.mark.parametrize("arm", ARMS)
def test_a_recorded_measurement_outlives_other_sources(arm):
    (job,) = (job for job in evolution.jobs(Options()) if job.place.row == arm)
    recorded = jobs.recorded(job, Options())
    assert job.matches(recorded)
    assert job.rehearse(recorded)["vouched"]
    assert job.rehearse(dataclasses.replace(recorded, detail={})) == {}


@pytest.fixture(scope="module")
def trained():
    """A few steps of each kind of DSQ, the network looked at after them, and what the measuring says of one epoch."""
    split = digits.load("train")
    few = type(split)(split.images[:192], split.labels[:192], split.sha256)
    found = {}
    for arm in (LEARNED, FIXED):
        made = evolution._recipe(arm, 0)
        state = trainer.train(evolution.dataclasses.replace(made, epochs=1), few, few)
        found[arm] = made, state
    return found


def quantizers(made, state):
    model = trainer.build(made)
    model.load_state_dict(state.model)
    return [part for part in model.modules() if isinstance(part, DSQ)]


def test_fixed_bounds_are_those_of_the_first_batch_and_alpha_learns(trained):
    fixed, learned = (quantizers(*trained[arm]) for arm in (FIXED, LEARNED))
    made = trained[FIXED][0]
    at_first = trainer.build(made)
    few = digits.load("train")
    few = type(few)(few.images[:192], few.labels[:192], few.sha256)
    evolution.trainer.calibrate(at_first, next(batches.Batches(few, made, torch.device("cpu")).epoch(0))[0])
    start = [part for part in at_first.modules() if isinstance(part, DSQ)]
    assert len(start) == len(fixed) == 12
    for before, own, other in zip(start, fixed, learned, strict=True):
        assert (own.lower, own.upper) == (before.lower, before.upper)
        assert own.upper != other.upper
        assert own.alpha != before.alpha


def test_what_is_looked_at(trained):
    made, state = trained[LEARNED]
    model = trainer.build(made)
    model.load_state_dict(state.model)
    modes = [part.training for part in model.train().modules()]
    found = bounds.look(model)
    assert [part.training for part in model.modules()] == modes
    layers = [part for part in model.modules() if isinstance(part, QuantizedLayer)]
    for role, name in (("weights", "weight_quantizer"), ("activations", "input_quantizer")):
        alphas = sorted(getattr(layer, name).alpha.item() for layer in layers)
        assert found[f"alpha of {role}"] == pytest.approx((alphas[2] + alphas[3]) / 2)
    errors = []
    for layer in layers:
        w = layer.weight.detach().double()
        q = layer.weight_quantizer.eval()(layer.weight).detach().double()
        errors.append(float(((q - w) ** 2).sum() / (w**2).sum()))
    assert found["error"] == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert bounds.look(trainer.build(evolution._recipe(STE, 0))).keys() == {"error"}


@pytest.mark.parametrize("alpha", [1e-6, 0.01, 0.2, 0.4, 0.9])
def test_the_distance_by_integration(alpha):
    steepness, amplitude = math.log(2 / alpha - 1), 1 / (1 - alpha)
    half = quad(lambda z: 1 / 2 - amplitude * math.tanh(steepness * z) / 2, 0, 0.5, epsabs=1e-9)[0]
    assert evolution.distance(alpha) == pytest.approx(2 * half, abs=1e-5)


def made_up():
    """Accuracies and losses by seed; alpha, and errors that tell the arms apart, by epoch."""
    alpha = {"alpha of weights": (0.25, 0.2, 0.125), "alpha of activations": (0.3, 0.21, 0.15)}
    errors = {LEARNED: (0.06, 0.05, 0.04), FIXED: (0.09, 0.08, 0.07), STE: (0.03, 0.02, 0.01)}
    rows = {
        LEARNED: ((3.0, 2.0, 1.0), (3.0, 2.0, 2.5), (3.0, 2.0, 2.0)),
        FIXED: ((3.0, 2.0, 1.0),) * 3,
        STE: ((1.0, 2.0, 3.0),) * 3,
    }
    found = {}
    for job in evolution.jobs(Options()):
        losses = {f"loss, seed {seed}": some for seed, some in enumerate(rows[job.place.row])}
        detail = {"accuracies": (95.0, 96.0, 97.0), **losses, **alpha, "error": errors[job.place.row]}
        found[job.place] = Cell(**job.place._asdict(), unit="percent", measured=96.0, seeds=(0, 1, 2), detail=detail)
    return found


def test_what_is_said():
    table = evolution.run(Options(), made_up())
    said = " ".join(table.findings)
    assert "alpha of weights: 0.25 after the first epoch, 0.125 after the last; of activations: 0.3 after the" in said
    assert "the first epoch, 0.15 after the last (0.2 at first)." in said
    distances = [f"{evolution.distance(alpha):.3g}" for alpha in (0.25, 0.125, 0.2)]
    assert "at that alpha: {} and {} ({} at first)".format(*distances) in said
    assert (
        "l and u learned: 0.06 after the first epoch, 0.04 after the last; fixed: 0.09 after the first epoch, 0.07 "
        "after the last." in said
    )
    assert "Of 6 steps from one epoch to the next the training loss rises in 1 (DSQ), 0 (DSQ, fixed l and u), 6" in said
    assert "in the end it is 1.83 (DSQ), 1 (DSQ, fixed l and u), 3 (STE)." in said
    assert [cell.reason for cell in table.cells] == ["by seed: 95.00, 96.00, 97.00"] * 3
    missing = made_up()
    place = next(iter(missing))
    missing[place] = Cell(**place._asdict(), unit="percent", value_verdict="not run")
    assert evolution.run(Options(), missing).findings == ()


def test_a_measurement(monkeypatch, tmp_path):
    """Of one epoch and two seeds, from new weights."""
    monkeypatch.setattr(runs, "train", lambda made, *rest: State(model=trainer.build(made).state_dict()))
    short = [evolution.dataclasses.replace(evolution._recipe(LEARNED, seed), epochs=2, batch=256) for seed in (0, 1)]
    parts = []
    found = evolution._measure(short, tmp_path, trainer.CPU, parts.append)
    assert (found["runs"], found["seeds"], parts) == (2, (0, 1), [0.5, 1.0])
    assert len(found["detail"]["alpha of weights"]) == len(found["detail"]["loss, seed 1"]) == 2
    assert found["measured"] == pytest.approx(sum(found["detail"]["accuracies"]) / 2)


def test_a_seed_that_diverges_is_written_and_said(monkeypatch, tmp_path):
    """At its second epoch; the other goes to its end."""
    monkeypatch.setattr(runs, "train", lambda made, *rest: State(model=trainer.build(made).state_dict()))
    monkeypatch.setattr(evolution.bounds, "look", lambda model: {"error": math.nan, "alpha of weights": 0.2})
    ends = {0: ([2.0, math.nan], "the loss is nan"), 1: ([2.0, 1.5, 1.0], "")}

    def train(made, training, test, *, start, device, keep):
        loss, diverged = ends[made.seed]
        state = State(model=trainer.build(made).state_dict(), loss=loss, correct=[30] * len(loss), diverged=diverged)
        for _ in loss:
            keep(state)
        return state

    monkeypatch.setattr(evolution.trainer, "train", train)
    monkeypatch.setattr(runs, "rehearsal", lambda *rest: {})
    made = [evolution._recipe(LEARNED, seed) for seed in ends]
    place = evolution._place(LEARNED)
    found = evolution._measure(made, tmp_path, trainer.CPU, lambda share: None)
    cells.write(tmp_path, [cells.Measurement(**place._asdict(), unit="percent", **found)])
    assert found["detail"]["loss, seed 0"] == (2.0,)
    shown = made_up() | {place: Cell(**place._asdict(), unit="percent", **found)}
    assert evolution.run(Options(), shown).findings == ("DSQ diverged: seed 0: the loss is nan.",)
    (text,) = figure_evolution.draw(Options(), shown).texts
    assert "diverged" in text.get_text()
