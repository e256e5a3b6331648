"""Training runs as measurements: what is recorded of one, what it rests on, when it stands, how errors end."""

import dataclasses
import errno
import json
import math

import pytest
import torch

from paper_tables import (
    cells,
    cli,
    constants,
    depth,
    disguise,
    evolution,
    jobs,
    protocol,
    runs,
    schedule,
    table5,
    tuning,
)
from paper_tables.cells import Cell, Measurement, Place
from paper_tables.tables import InputError, Options
from tests.torchimpl import networks
from torchimpl import timing
from torchimpl.checkpoints import CheckpointError
from torchimpl.training import recipe as recipes
from torchimpl.training import trainer
from torchimpl.training.trainer import State

CONTENDER = runs.DAQ


@pytest.fixture(autouse=True)
def results(tmp_path_factory, monkeypatch):
    """An empty ``results/``, and no data but those given."""
    for name in ("QUANTGAP_DATA", "QUANTGAP_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path_factory.mktemp("results")
    monkeypatch.setattr(cells, "RESULTS", folder)
    return folder


@pytest.fixture
def few(monkeypatch):
    """A few digits in the place of all, and of CIFAR-10."""
    both = networks.images("train", 128), networks.images("test", 40)
    monkeypatch.setattr(runs, "splits", lambda images, data, *, held_out=False: both)
    with torch.random.fork_rng(devices=[]):
        yield both


def job(options, contender=CONTENDER, width="1/1", profile="smoke", seed=0):
    place = runs.place(contender, width, profile, seed)
    (found,) = [one for one in runs.jobs(options, [contender]) if one.place == place]
    return found


# Who takes part


def test_there_is_a_job_for_each_run_and_no_other():
    options = Options(profile="embedded", seeds=2)
    found = runs.jobs(options, runs.CONTENDERS)
    expected = {
        (f"{one.name}, {width}", f"{profile}, seed {seed}")
        for one in runs.CONTENDERS
        for width in one.widths
        for profile in ("embedded", "cifar10-short", "cifar10")
        for seed in range(2)
    }
    assert {(one.place.row, one.place.column) for one in found} == expected
    assert len(found) == len(expected)
    assert len({one.key for one in found}) == len(found)  # none is another under two names
    for one in found:
        assert one.profile == one.place.column.split(",")[0]
        assert one.needs == (() if one.profile == "embedded" else ("data",))
        assert one.parallel
        assert f"--profile {one.profile}" in one.command


def test_one_network_schedule_and_start_for_all_but_what_a_row_is_about():
    for profile in recipes.profiles():
        base = runs.FULL_PRECISION.recipe(profile, "FP", 3)
        for one in runs.CONTENDERS:
            for width in one.widths:
                made = one.recipe(profile, width, 3)
                own = {"method", "bits", "options", "penalty"}
                own |= {"activation"} if one in (runs.IRNET, runs.FULL_PRECISION_HARDTANH) else set()
                if one.network:  # that of the profile, with another gradient
                    own |= {"network"}
                    assert made.options["network"] == base.network
                changed = {name for name, value in made.as_json().items() if value != base.as_json()[name]}
                assert changed <= own, f"{one.name} at {width}"
                if width == "FP":
                    assert runs.first_of(made) is None
                    continue
                first = runs.first_of(made)
                assert (first.method, first.seed, first.profile) == (None, 3, profile)
                assert (first.activation, first.network, first.epochs) == (made.activation, base.network, made.epochs)
    assert runs.IRNET.recipe("embedded", "1/1", 0).activation == "hardtanh"
    assert runs.IRNET.recipe("embedded", "1/32", 0).activation == "relu"
    assert runs.DSQ.recipe("embedded", "1/1", 0).penalty > 0


def test_what_a_run_rests_on_is_in_its_key(monkeypatch):
    made = CONTENDER.recipe("cifar10", "1/1", 0)
    before = runs.key_of(made)
    for change in ({"seed": 1}, {"rate": 0.02}, {"options": {"variant": "released"}}, {"precision": "bfloat16"}):
        assert runs.key_of(dataclasses.replace(made, **change)) != before
    assert runs.key_of(dataclasses.replace(made, profile="smoke")) != before  # it starts from another network
    with monkeypatch.context() as patch:
        patch.setattr(runs.cifar10, "SHA256", {"train": "other images"})
        assert runs.key_of(made) != before
    full_precision = runs.tuned_place("full precision", "cifar10")
    rates = {"rate": 0.5, "quantizer_rate": 0.0}
    cells.write(cells.RESULTS, [Measurement(**full_precision._asdict(), unit="percent", measured=1.0, detail=rates)])
    assert runs.key_of(made) != before  # its start is trained otherwise
    assert runs.key_of(dataclasses.replace(made, method="ste", options={})) != runs.key_of(made)


# One run


def test_a_run_is_measured_as_it_was_trained(few, tmp_path):
    shares = []
    found = job(Options(profile="smoke", out=tmp_path)).run(shares.append)
    made = CONTENDER.recipe("smoke", "1/1", 0)
    first = trainer.train(runs.first_of(made), *few)
    state = trainer.train(made, *few, start=first.model)
    assert found.detail["weights"] == trainer.digest(state.model)
    assert found.measured == pytest.approx(100 * state.correct[-1] / 40)
    assert found.detail["loss"] == tuple(state.loss)
    assert json.loads(found.detail["recipe"]) == json.loads(json.dumps(made.as_json()))
    assert (found.runs, found.seeds, found.images, found.selection) == (1, (0,), 40, "last")
    assert found.detail["as in training"] == found.measured  # DAQ computes the same in training
    assert found.detail["threads"] == torch.get_num_threads()
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert "from the full-precision network of the same seed" in found.protocol
    assert len(list((tmp_path / "training").glob("*.pt"))) == 2
    path = tmp_path / "training"
    before = {file: file.stat().st_mtime_ns for file in path.glob("*.pt")}
    again = job(Options(profile="smoke", out=tmp_path)).run(lambda share: None)
    assert again.detail == found.detail
    assert {file: file.stat().st_mtime_ns for file in path.glob("*.pt")} == before


def made_up_state(monkeypatch, **fields):
    state = State(epochs=3, model={"a": torch.ones(2)}, loss=[3.0, 2.0, 1.0], correct=[10, 30, 20], undefined=[0, 0, 0])
    monkeypatch.setattr(runs, "train", lambda *a, **k: dataclasses.replace(state, **fields))
    monkeypatch.setattr(runs, "_as_in_training", lambda *a: 12.5)


@pytest.mark.usefixtures("few")
def test_the_last_epoch_is_the_number_and_the_best_stands_apart(monkeypatch, tmp_path):
    made_up_state(monkeypatch)
    found = job(Options(profile="smoke", out=tmp_path)).run(lambda share: None)
    assert (found.measured, found.detail["best on test"], found.detail["as in training"]) == (50.0, 75.0, 12.5)
    assert found.detail["accuracy"] == (25.0, 75.0, 50.0)
    assert found.selection == "last"


@pytest.mark.usefixtures("few")
def test_a_run_that_diverged_is_written_with_its_reason(monkeypatch, tmp_path):
    why = "the loss is nan at step 2 of epoch 3"
    made_up_state(monkeypatch, diverged=why, loss=[3.0, 2.0, float("nan")], undefined=[0, 0, 40], correct=[10, 5, 0])
    found = job(Options(profile="smoke", out=tmp_path)).run(lambda share: None)
    cells.write(tmp_path, [found])
    back = cells.read(tmp_path / found.table / found.place.filename, Measurement)
    assert (back.measured, back.detail["diverged"], back.detail["undefined"]) == (0.0, why, 40.0)
    assert back.detail["loss"] == (3.0, 2.0)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("module", [runs, tuning])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "--out .*: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/out/x.pt"), "Permission denied: /out/x.pt"),
        (CheckpointError("x.pt: damaged; delete it, to train again"), "x.pt: damaged; delete it"),
    ],
)
def test_a_full_disk_or_a_damaged_run_is_one_line(module, error, said, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(module.store, "run", refuse)
    options = Options(profile="smoke", out=tmp_path, tune=True)
    wanted = job(options) if module is runs else tuning.jobs(options)[0]
    with pytest.raises(InputError, match=said):
        wanted.run(lambda share: None)


def test_without_cifar10_its_runs_ask_for_it(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    runs.splits.cache_clear()
    with pytest.raises(InputError, match="empty"):
        job(Options(profile="cifar10", data=tmp_path / "empty"), profile="cifar10").run(lambda share: None)


# When a recorded run stands


REHEARSAL = trainer.Rehearsal("bits", 1.5, 7, 9, 2.5, 3.5)


@pytest.fixture
def rehearsed(monkeypatch, few):
    """How often a rehearsal was made, which gives "bits"."""
    found = []
    monkeypatch.setattr(runs.trainer, "rehearsal", lambda made, *both: found.append(made) or REHEARSAL)
    return found


def record(folder, wanted, key=None, **detail):
    made = wanted.measure.args[0]
    key = key or "other sources-" + wanted.key.partition("-")[2]
    found = {"rehearsal": "bits", "threads": 1.0, "diverged": "", **detail}
    found = {name: value for name, value in found.items() if value is not None}
    given = {"measured": 80.0, "seeds": (made.seed,), "images": 10_000, "detail": found}
    cells.write(folder, [Measurement(**wanted.place._asdict(), unit="percent", key=key, **given)])


def shown(wanted, options):
    """What is shown of a run that must not be trained, unless that is noticed here."""
    trained = []

    def measure(progress):
        trained.append(wanted.place)
        return {"measured": 1.0, "seeds": (0,), "protocol": "trained"}

    found = jobs.run([dataclasses.replace(wanted, measure=measure)], dataclasses.replace(options, quiet=True))
    return found[wanted.place], bool(trained)


@pytest.fixture
def wanted():
    return job(Options(profile="embedded"), profile="cifar10-short")


def test_a_run_with_its_key_stands_without_a_rehearsal(wanted, results, rehearsed, tmp_path):
    record(results, wanted, key=wanted.key)
    cell, trained = shown(wanted, Options(data=tmp_path, out=tmp_path, profile="cifar10-short"))
    assert (cell.measured, cell.value_verdict, trained, rehearsed) == (80.0, None, False, [])
    assert "vouched" not in cell.detail


@pytest.mark.parametrize("profile", ["embedded", "cifar10-short"])
def test_a_run_of_other_sources_stands_if_its_rehearsal_has_the_same_bits(
    profile, wanted, results, rehearsed, tmp_path
):
    record(results, wanted)
    options = Options(data=tmp_path, out=tmp_path, profile=profile)
    cell, trained = shown(wanted, options)
    assert (cell.measured, cell.value_verdict, trained) == (80.0, None, False)
    assert "other sources" in cell.detail["vouched"]
    assert "same bits" in cell.detail["vouched"]
    assert cell.recorded
    assert rehearsed == [wanted.measure.args[0]]
    again, _ = shown(wanted, options)  # it is written with its new key: no rehearsal is needed
    assert again.detail == cell.detail
    assert len(rehearsed) == 1


@pytest.mark.parametrize(
    "detail",
    [{"rehearsal": "other bits"}, {"rehearsal": None}, {"key": "of another format"}, {"key": "a-0"}],
    ids=["bits", "none", "no configuration", "another configuration"],
)
def test_a_run_of_other_sources_is_stale_or_trained_again_otherwise(detail, wanted, results, rehearsed, tmp_path):
    record(results, wanted, **detail)
    cell, trained = shown(wanted, Options(data=tmp_path, out=tmp_path, profile="embedded"))
    assert (cell.measured, cell.value_verdict, trained) == (80.0, "stale", False)
    assert runs.found({wanted.place: cell}, CONTENDER, "1/1", "cifar10-short", range(3)) == []
    assert len(rehearsed) == (detail.get("rehearsal") is not None)  # only where there is something to compare
    cell, trained = shown(wanted, Options(data=tmp_path, out=tmp_path, profile="cifar10-short"))
    assert (cell.measured, cell.value_verdict, trained) == (1.0, None, True)


def test_a_rehearsal_is_made_with_as_many_threads_as_the_run(wanted, results, few, monkeypatch, tmp_path):
    threads, before = [], torch.get_num_threads()
    monkeypatch.setattr(runs.trainer, "rehearsal", lambda *_: threads.append(torch.get_num_threads()) or REHEARSAL)
    record(results, wanted, threads=3.0)
    cell, _ = shown(wanted, Options(data=tmp_path, out=tmp_path, profile="embedded"))
    assert (threads, torch.get_num_threads(), cell.value_verdict) == ([3], before, None)


@pytest.mark.usefixtures("few")
def test_a_rehearsal_that_diverges_can_be_written(monkeypatch, tmp_path):
    made_up_state(monkeypatch)
    monkeypatch.setattr(runs.trainer, "rehearsal", lambda *_: REHEARSAL._replace(loss=math.nan, gradient=math.inf))
    wanted = job(Options(profile="cifar10", data=tmp_path, out=tmp_path), profile="cifar10")
    found = wanted.run(lambda share: None)
    cells.write(tmp_path, [found])
    assert wanted.rehearse(found)["vouched"]


def test_without_data_a_run_of_other_sources_is_stale(wanted, results, rehearsed, tmp_path):
    record(results, wanted)
    cell, trained = shown(wanted, Options(out=tmp_path, profile="embedded"))
    assert (cell.value_verdict, trained, rehearsed) == ("stale", False, [])
    assert "--data" in cell.reason


def test_a_run_whose_configuration_is_recorded_elsewhere_too_is_rehearsed(wanted, results, rehearsed, tmp_path):
    """In `results` of another recipe, in the folder of this machine of this one: both with other sources."""
    record(results, wanted, key="a-0")
    record(tmp_path / "measured", wanted)
    cell, trained = shown(wanted, Options(data=tmp_path, out=tmp_path, profile="cifar10-short"))
    assert (cell.value_verdict, trained, len(rehearsed)) == (None, False, 1)


JOBS_BY_REHEARSAL = {
    "runs": lambda options: runs.jobs(options, [CONTENDER]),
    **{script.__name__: script.jobs for script in (tuning, depth, schedule, protocol, constants)},
}


@pytest.mark.parametrize("name", JOBS_BY_REHEARSAL)
def test_a_rehearsal_without_its_images_is_one_line(name, tmp_path):
    options = Options(data=tmp_path, tune=True, out=tmp_path)
    wanted = next(j for j in JOBS_BY_REHEARSAL[name](options) if j.rehearse and "data" in j.needs)
    detail = {"rehearsal": "bits", "best rate": 0.1, "rate": 0.1, "quantizer_rate": 0.1}
    recorded = cells.Measurement(**wanted.place._asdict(), unit=wanted.unit, measured=1.0, key="a-0", detail=detail)
    with pytest.raises(InputError, match=str(tmp_path)):
        wanted.vouch(recorded, lambda share: None)


def test_what_is_missing_and_the_command_that_measures_it(tmp_path):
    options = Options(data=tmp_path, tune=True, seeds=5)
    commands = {}
    for script in (table5, depth, schedule, protocol, constants, disguise, evolution, tuning):
        for wanted in script.jobs(options):
            if wanted.profile == "cifar10-short":
                cell = jobs.shown(wanted, None, recorded=False)
                assert "--profile cifar10-short; see README" in cell.reason
                assert all(f"--{need}" in cell.command for need in wanted.needs)
                assert "--profile cifar10-short" in cell.command
                commands[script.__name__] = cell.command
    assert commands["paper_tables.table5"].endswith("--table 5 6 7 --profile cifar10-short --data DIR --seeds 5")
    assert len(commands) == 7  # evolution has digits only


def test_what_long_runs_leave_lets_them_be_rehearsed(rehearsed, monkeypatch, tmp_path):
    made_up_state(monkeypatch)
    wanted = job(Options(profile="cifar10", data=tmp_path, out=tmp_path), profile="cifar10")
    found = wanted.run(lambda share: None)
    assert found.detail["rehearsal"] == "bits"
    names = ("loss", "correct", "as in training", "first loss", "gradient")
    assert tuple(found.detail[f"rehearsal {name}"] for name in names) == REHEARSAL[1:]
    assert len(rehearsed) == 1
    added = wanted.rehearse(found)
    of_the_rehearsal = added.keys() - {"vouched", "rehearsed on"}
    assert {name: added[name] for name in of_the_rehearsal}.items() <= found.detail.items()
    for name in ("rehearsal", *(f"rehearsal {name}" for name in names)):  # each counts: accuracies are not in the bits
        other = {**found.detail, name: "others" if name == "rehearsal" else 8.0}
        assert wanted.rehearse(dataclasses.replace(found, detail=other)) == {}


def test_runs_are_found_by_seed_without_those_that_are_missing():
    place = runs.place(CONTENDER, "1/1", "smoke", 1)
    there = Cell(**place._asdict(), unit="percent", measured=50.0)
    for cell, count in ((there, 1), (dataclasses.replace(there, measured=None), 0)):
        assert len(runs.found({place: cell}, CONTENDER, "1/1", "smoke", range(3))) == count
    assert runs.found({place: there}, CONTENDER, "1/1", "smoke", range(1)) == []
    assert runs.found({place: dataclasses.replace(there, value_verdict="stale")}, CONTENDER, "1/1", "smoke", [1]) == []


# From the command line


@pytest.mark.usefixtures("few")
def test_the_command_line_trains_all_that_tables_and_the_figure_show(tmp_path, monkeypatch, capsys):
    """The smoke profile with one seed, on a few digits; and not again."""
    monkeypatch.setattr(timing, "training_step", lambda method, bits, **options: None)
    monkeypatch.setattr(timing, "by_turns", lambda steps, rounds: {name: [0.1, 0.2, 0.3] for name in steps})
    command = ["--table", "5", "6", "7", "--figure", "6", "--profile", "smoke", "--seeds", "1", "--workers", "1"]
    command += ["--out", str(tmp_path)]
    assert cli.main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    wanted = {(one, width) for one in runs.CONTENDERS for width in one.widths}
    assert len(list((tmp_path / "measured" / "training").glob("*.json"))) == len(wanted)
    assert len(list((tmp_path / "training").glob("*.pt"))) == len(wanted)
    assert "(digits, 1 epoch)" in out
    assert not list(cells.RESULTS.rglob("*.json"))  # short runs are this machine's
    shown = [cells.read(path, Cell) for path in (tmp_path / "cells").rglob("*.json")]
    trained = [cell for cell in shown if "(digits, 1 epoch)" in cell.row]
    assert trained
    assert {cell.value_verdict for cell in trained} == {None}
    assert {cell.claim_verdict for cell in trained} == {None, "undecided"}
    assert (tmp_path / "figures" / "figure6.png").stat().st_size > 10_000
    monkeypatch.setattr(runs.store, "run", lambda *_, **__: pytest.fail("trained again"))
    assert cli.main([*command, "--quiet"]) == 0


HERE = {"hardware": {"processor": "this", "cores": "2"}, "versions": {"torch": "1"}}


ELSEWHERE = {**HERE, "hardware": {"processor": "another"}}
NEWER = {**HERE, "versions": {"torch": "2"}}


@pytest.mark.parametrize(
    ("there", "now", "stands"),
    [
        (HERE, {}, False),  # the bits should be the same
        (ELSEWHERE, {}, True),
        (NEWER, {}, True),
        (NEWER, {"loss": 1.574, "correct": 41.0, "first loss": 2.514, "gradient": 4.54}, True),
        (NEWER, {"loss": 1.424}, False),
        (NEWER, {"loss": -1.0}, False),  # it diverges, as the recorded one did not
        (NEWER, {"correct": 161.0}, False),
        (NEWER, {"first loss": 2.484}, False),
        (NEWER, {"gradient": 4.56}, False),
        (NEWER, {"gradient": 2.44}, False),
    ],
)
def test_elsewhere_a_rehearsal_may_differ_within_the_bounds(there, now, stands, monkeypatch):
    monkeypatch.setattr(cells, "hardware", lambda: HERE["hardware"])
    monkeypatch.setattr(cells, "versions", lambda: HERE["versions"])
    numbers = {"loss": 1.5, "correct": 100.0, "first loss": 2.5, "gradient": 3.5}
    detail = {"rehearsal": "bits", **{f"rehearsal {name}": value for name, value in numbers.items()}}
    found = Measurement(paper="P", table="t", row="r", column="c", unit="percent", detail=detail, **there)
    given = {**detail, "rehearsal": "other bits", **{f"rehearsal {name}": value for name, value in now.items()}}
    added = runs.stands(found, given)
    assert bool(added) is stands
    assert added.keys() == ({"vouched"} if stands else set())  # what was recorded there is what is compared with
    again = runs.stands(found, detail)
    assert "the same bits" in again["vouched"]
    for recorded_by in (HERE, ELSEWHERE, NEWER):  # whichever, this machine is known since
        assert not runs.stands(dataclasses.replace(found, detail={**detail, **again}, **recorded_by), given)
    before = {name: detail[name] for name in ("rehearsal", "rehearsal loss", "rehearsal correct")}  # of older records
    assert runs.stands(dataclasses.replace(found, detail=before), detail)
    assert not runs.stands(dataclasses.replace(found, detail=before), given)  # it lacks what there is to compare


@pytest.mark.parametrize(("loss", "stands"), [(-1.0, True), (10.1, True), (9.9, False)])
def test_elsewhere_a_rehearsal_that_diverged_is_told_by_its_first_step(loss, stands, monkeypatch):
    monkeypatch.setattr(cells, "hardware", lambda: HERE["hardware"])
    monkeypatch.setattr(cells, "versions", lambda: HERE["versions"])
    step = {"rehearsal first loss": 2.5, "rehearsal gradient": 3.5}
    detail = {"rehearsal": "bits", "rehearsal loss": loss, "rehearsal correct": 0.0, **step}
    found = Measurement(paper="P", table="t", row="r", column="c", unit="percent", detail=detail, **ELSEWHERE)
    now = {"rehearsal": "other bits", "rehearsal loss": 2.3, "rehearsal correct": 97.0, **step}
    assert bool(runs.stands(found, now)) is stands
    assert not runs.stands(found, {**now, "rehearsal first loss": 2.6})
    assert not runs.stands(found, {**now, "rehearsal gradient": 7.0})


def test_a_job_of_more_seeds_or_another_length_is_not_what_was_recorded(results, rehearsed, tmp_path):
    """Their rehearsals are the same: an epoch of one seed."""
    made = [CONTENDER.recipe("embedded", "1/1", seed) for seed in range(3)]
    place, options = Place("DAQ", "t", "r", "c"), Options(out=tmp_path, quiet=True)
    wanted = runs.job_of_seeds(place, made, options)
    detail = {"rehearsal": "bits", "threads": 1.0}
    key = "other sources-" + wanted.key.partition("-")[2]
    given = {"unit": "percent", "measured": 80.0, "detail": detail, "key": key}
    cells.write(results, [Measurement(**place._asdict(), **given)])
    others = [made[:1], [dataclasses.replace(one, epochs=400) for one in made]]
    for some in others:
        assert jobs.run([runs.job_of_seeds(place, some, options)], options)[place].value_verdict == "stale"
    held_out = runs.job_of_seeds(place, made, options, held_out=True)
    assert jobs.run([held_out], options)[place].value_verdict == "stale"
    rates = {"rate": 0.5, "quantizer_rate": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "tuned_rates", lambda name, profile: rates if name == "full precision" else {})
        other_start = runs.job_of_seeds(place, made, options)
    assert jobs.run([other_start], options)[place].value_verdict == "stale"
    assert rehearsed == []
    assert jobs.run([wanted], options)[place].value_verdict is None  # though it is not asked for with --tune
    assert len(rehearsed) == 1
