"""Tables `schedule`, `protocol`, `constants`, and the suite's own figures S1 to S3, of made-up measurements."""

import dataclasses
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from paper_tables import (
    arms,
    cells,
    constants,
    depth,
    disguise,
    evolution,
    figure_depth,
    figure_disguise,
    figure_evolution,
    figure_schedule,
    figures,
    protocol,
    runs,
    schedule,
)
from paper_tables.cells import Cell
from paper_tables.tables import Options
from tests.paper_tables.test_evolution import made_up
from torchimpl.training import trainer

OPTIONS = Options()


def cell(job, value, **detail):
    return Cell(**job.place._asdict(), unit=job.unit, measured=value, runs=3, detail=detail)


def of_schedule(value, profiles=("embedded", "cifar10-short")):
    """`value(contender's name, epochs)` gives what the seeds gave."""
    found = {}
    for job in schedule.jobs(OPTIONS):
        if job.profile not in profiles:
            found[job.place] = Cell(**job.place._asdict(), unit=job.unit, value_verdict="not run")
        elif job.place.table == "schedule":
            epochs = int(job.place.column.split()[1])
            some = value(job.place.row, epochs)[: schedule.SEEDS[job.profile][epochs]]
            found[job.place] = cell(job, sum(some) / len(some), accuracies=tuple(some))
        else:  # of the tables: a run each
            some = value(job.place.row.removesuffix(", 1/1"), 6)
            found[job.place] = cell(job, some[int(job.place.column[-1])])
    return found


def growing(row, epochs):
    """DAQ is a point ahead; what the second seed gives a contender, the third takes from it."""
    start = 90.0 if row == runs.DAQ.name else 89.0
    more = [one.name for one in schedule.CONTENDERS].index(row) / 10
    return [start + epochs / 10, start + epochs / 10 + 1 + more, start + epochs / 10 - 1 - more]


def test_jobs_of_the_schedule():
    found = schedule.jobs(OPTIONS)
    assert len({job.place for job in found}) == len(found) == (2 * 3 + 3) * len(schedule.CONTENDERS)
    assert len({job.key for job in found}) == len(found)
    assert {(job.place.table, job.profile, job.needs) for job in found} == {
        ("schedule", "embedded", ("tune",)),
        ("schedule", "cifar10-short", ("tune", "data")),
        ("training", "cifar10-short", ("tune", "data")),
    }


def test_the_runs_of_table_5_are_a_length():
    """They are the very recipes; one that is missing leaves the length out."""
    for contender in schedule.CONTENDERS:
        for seed, made in enumerate(schedule._recipes(contender, *schedule.OF_TABLES)):
            assert made == contender.recipe("cifar10-short", "1/1", seed)
    found = of_schedule(growing)
    shown = {(cell.row, cell.column): cell for cell in schedule.run(OPTIONS, found).cells}
    cell = shown["STE", "CIFAR-10, 6 epochs"]
    assert (cell.measured, cell.runs, cell.seeds) == (pytest.approx(89.6), 3, (0, 1, 2))
    assert (cell.recorded, cell.reason) == (False, "by seed: 89.60, 90.80, 88.40")
    for seed, (processor, detail) in enumerate((("A", {}), ("A", {"vouched": "elsewhere"}), ("B", {}))):
        place = runs.place(runs.STE, "1/1", "cifar10-short", seed)
        found[place] = dataclasses.replace(
            found[place], recorded=True, hardware={"processor": processor}, detail=detail, seconds=2.0
        )
    shown = {(cell.row, cell.column): cell for cell in schedule.run(OPTIONS, found).cells}
    cell = shown["STE", "CIFAR-10, 6 epochs"]
    assert (cell.recorded, cell.seconds) == (True, 6.0)
    assert cell.reason.endswith("; 1 recorded elsewhere; runs differ in processor (A, B)")
    place = runs.place(runs.STE, "1/1", "cifar10-short", 2)
    found[place] = dataclasses.replace(found[place], value_verdict="stale", reason="since")
    shown = {(cell.row, cell.column): cell for cell in schedule.run(OPTIONS, found).cells}
    cell = shown["STE", "CIFAR-10, 6 epochs"]
    assert (cell.measured, cell.value_verdict, cell.reason) == (None, "stale", "since")
    assert "after 3, 10, 30 epochs" in schedule.run(OPTIONS, found).findings[-2]


def test_fewer_seeds_of_the_tables_are_no_fewer_of_this_one():
    """What is missing is told with a command that trains it, and trained here with --tune only."""
    asked = [job for job in schedule.jobs(Options(seeds=1)) if job.place.table == "training"]
    assert len(asked) == 3 * len(schedule.CONTENDERS)
    command = "python -m paper_tables --table schedule --profile cifar10-short --tune --data DIR"
    assert {(job.command, job.needs) for job in asked} == {(command, ("tune", "data"))}


def test_a_length_is_all_that_differs():
    one, other = (schedule._recipes(runs.DAQ, "embedded", epochs)[1] for epochs in (3, 30))
    differing = {name for name, value in one.as_json().items() if other.as_json()[name] != value}
    assert differing == {"epochs"}
    assert one.seed == 1


def test_seeds_are_trained_and_averaged(monkeypatch, tmp_path):
    class State:
        correct = (10, 20)
        seconds = 2.0

    class Split:
        labels = range(40)

    asked = []
    monkeypatch.setattr(runs, "splits", lambda *of, held_out=False: asked.append(held_out) or (Split, Split))
    monkeypatch.setattr(runs, "rehearsal", lambda made, training, test: {"rehearsal": "bits", "threads": 1.0})
    monkeypatch.setattr(runs, "train", lambda made, folder, *rest: asked.append((made.epochs, made.seed)) or State)
    job = next(job for job in schedule.jobs(Options(out=tmp_path)) if job.place.column == "digits, 30 epochs")
    found = job.run(lambda part: None)
    assert asked == [False, (30, 0), (30, 1), (30, 2)]
    assert (found.measured, found.detail["accuracies"], found.seeds) == (50.0, (50.0, 50.0, 50.0), (0, 1, 2))
    assert found.seconds == 6.0
    assert "the same bits" in job.rehearse(found)["vouched"]
    held_out = next(job for job in constants.jobs(Options(out=tmp_path)))
    assert held_out.run(lambda part: None).measured == 50.0
    assert asked[-4:] == [True, (10, 0), (10, 1), (10, 2)]
    assert "the same bits" in held_out.rehearse(found)["vouched"]
    next(job for job in constants.jobs(Options(out=tmp_path)) if job.profile == "cifar10-short").run(lambda part: None)
    assert asked[-2:] == [True, (6, 0)]  # a single seed, as it takes long


def test_differences_are_paired_by_seed_and_have_an_interval():
    """DAQ is 1 point ahead; effects of contender and seed taken away, 0, 0.1, 0.2 and 0.3 points scatter."""
    squares = 2 * sum((more - 0.15) ** 2 for more in (0, 0.1, 0.2, 0.3))
    half = f"+/-{stats.t.ppf(0.975, 6) * np.sqrt(2 * squares / 6 / 3):.1f}"
    assert half == "+/-0.3"
    table = schedule.run(OPTIONS, of_schedule(growing))
    (*digits, of_digits), (*cifar, of_cifar) = table.findings[:4], table.findings[4:]
    assert len(digits) == len(cifar) == len(schedule.CONTENDERS) - 1
    assert all(
        "3, 10, 30 epochs: +1.0, +1.0, +1.0 points" in said and f"{half}, {half}, {half}" in said for said in digits
    )
    assert all("3, 6, 10, 30 epochs: +1.0, +1.0, +1.0, +1.0 points" in said for said in cifar)
    assert all(f"{half}, {half}, {half}, none)" in said for said in cifar)
    assert "adjusted for 9" in of_digits
    assert "adjusted for 12" in of_cifar  # those of which nothing is known are of the family
    assert (
        "those from DAQ, released kernel after 3 and 10 and 30 epochs; STE after 3 and 10 and 30 epochs; " in of_digits
    )
    missing = of_schedule(growing)
    missing.pop(next(iter(missing)))
    with pytest.raises(KeyError):
        schedule.run(OPTIONS, missing)
    assert len(schedule.run(OPTIONS, of_schedule(growing, profiles=("cifar10-short",))).findings) == 4


def test_lengths_that_were_not_run_are_left_out_but_stay_of_the_family():
    found = of_schedule(growing, profiles=("cifar10-short",))
    for place, cell in found.items():
        if "30 epochs" in place.column or ("10 epochs" in place.column and place.row == "STE"):
            found[place] = dataclasses.replace(cell, measured=None, value_verdict="not run")
    *lines, said = schedule.run(OPTIONS, found).findings
    assert len(lines) == 3
    assert all("after 3, 6 epochs: +1.0, +1.0 points (95 % intervals: +/-0.3, +/-0.3)" in line for line in lines)
    assert "adjusted for 12" in said


def test_of_nine_differences_by_chance_none_is_said_to_be_beyond_it():
    """Though one is far from 0 by itself; each length has its own scatter."""
    scatter = {3: 1.0, 10: 0.6, 30: 0.2}
    wave = {"DAQ": (0, 0, 0), "STE": (1, -1, 0.5), "IR-Net": (-1, 0.4, 1), "DAQ, released kernel": (0.3, 0.6, -1)}

    def value(row, epochs):
        less = 1.3 * scatter[epochs] * (row == "STE" and epochs == 10)
        return [90.0 + seed + scatter[epochs] * wave[row][seed] - less for seed in range(3)]

    *lines, said = schedule.run(OPTIONS, of_schedule(value, profiles=("embedded",))).findings
    (least, half) = re.search(r"less STE .*: \S+, \+(\S+), \S+ points .*/-\S+, \+/-(\S+), \S+\)", lines[1]).groups()
    halves = [float(value) for value in re.search(r"/-(\S+), \+/-(\S+), \+/-(\S+)\)", lines[0]).groups()]
    assert halves[0] > halves[1] > halves[2] > 0
    assert float(half) == halves[1]
    assert float(least) > 0.5 * float(half)
    assert "of these differences none is beyond chance (least p = " in said


@pytest.mark.parametrize(
    ("base", "some", "dead"),
    [
        ((90, 91, 92), (40, 41, 42), True),  # less than half of what the other reaches
        ((90, 91, 92), (50, 51, 52), False),
        ((90, 91, 92), (80, 40, 80), True),  # one run is enough
        ((30, 31, 32), (19, 25, 25), True),  # less than twice what ten classes give by chance
        ((30, 31, 32), (21, 25, 25), False),
    ],
)
def test_which_arm_hardly_learned(base, some, dead):
    found = arms.paired({"base": base, "some": some, "alike": [base[0], *(value + 1 for value in base[1:])]}, "base")
    assert found.dead == ({"some"} if dead else set())
    assert (found.chances["some"] == 1.0) is dead
    assert found.spread.degrees == (2 if dead else 4)
    assert found.means["some"] == pytest.approx(sum(some) / 3 - sum(base) / 3)


def test_a_contender_that_hardly_learned_does_not_tell_the_others_scatter():
    wave = {"DAQ": (0, 0.2, 0), "STE": (0.2, 0, 0.4), "DAQ, released kernel": (0, 0.4, 0.2)}

    def value(row, epochs):
        dead = row == "IR-Net" and epochs == 3
        return [12.0, 35.0, 20.0] if dead else [80.0 + seed + 5 * wave.get(row, (0, 0, 0))[seed] for seed in range(3)]

    *lines, said = schedule.run(OPTIONS, of_schedule(value, profiles=("embedded",))).findings
    halves = [float(half) for half in re.findall(r"\+/-([\d.]+)", lines[0])]
    assert halves[0] < 5
    assert "DAQ less IR-Net after 3, 10, 30 epochs: +59.0 (hardly learned), " in lines[2]
    assert "hardly" not in lines[0] + lines[1]
    assert "none is beyond chance" in said


def test_where_nothing_but_the_first_learned_there_is_no_interval():
    values = {arm: [10.0, 11.0, 10.0] for arm in protocol.ARMS} | {protocol.PAPER: [90.0, 91.0, 92.0]}
    (said,) = protocol.run(OPTIONS, of_protocol(values)).findings
    assert "points (none of them learned: no interval)" in said
    assert "p = " not in said


def test_a_network_that_diverged_is_written_and_said(tmp_path):
    apart = disguise.disguise.Distance
    found = {1: {arm: (None, apart(float("nan") if arm == "M and alpha" else 1e-3, 0.1)) for arm in disguise.ARMS}}
    made = of_disguise()
    (place,) = (p for p in made if (p.row, p.column) == ("paper kernel", f"{disguise.RECIPE}, CIFAR-10"))
    result = disguise._result(found)
    cells.write(tmp_path, [cells.Measurement(**place._asdict(), unit="deviations", **result)])
    accuracies = {f"{arm}, accuracy": (90.0,) for arm in disguise.ARMS}
    made[place] = dataclasses.replace(made[place], detail=result["detail"] | accuracies)
    said = disguise.run(OPTIONS, made).findings
    assert f"{place.row}, {place.column}: M and alpha diverged: nothing is to be said." in said
    FigureCanvasAgg(figure_disguise.draw(OPTIONS, made)).draw()


def fields(made):
    return {name: str(value) for name, value in made.as_json().items()}


@pytest.mark.parametrize("profile", protocol.SEEDS)
def test_each_arm_of_the_protocol_changes_what_its_name_says(profile):
    made = {arm: fields(protocol._recipe(arm, profile, 1)) for arm in protocol.ARMS}
    paper = made[protocol.PAPER]
    assert (paper["rate"], paper["quantizer_rate"]) == ("0.01", "0.0001")
    assert (paper["method"], paper["bits"]) == ("daq", "(1, 1)")
    assert "paper" in paper["options"]
    changed = {arm: {name for name in paper if own[name] != paper[name]} for arm, own in made.items()}
    assert changed == {
        protocol.PAPER: set(),
        "the released kernel": {"options"},
        "rate 0.1": {"rate"},
        "the released network": {"network"},
        "ImageNet's normalisation": {"normalize"},
        protocol.TOGETHER: {"options", "rate", "network", "normalize"},
    }
    start = runs.first_of(protocol._recipe(protocol.TOGETHER, profile, 1))
    assert (start.network, start.normalize, start.method) == (made[protocol.TOGETHER]["network"], "imagenet", None)


def test_what_the_protocols_changes_add():
    gains = dict(zip(protocol.ARMS, (0, 1, -2, 0, 3, 4), strict=True))
    found = {}
    for job in protocol.jobs(OPTIONS):
        some = [90.0 + seed + gains[job.place.row] for seed in range(3)]
        found[job.place] = cell(job, some[1], accuracies=tuple(some))
        if job.profile != "embedded":
            found[job.place] = Cell(**job.place._asdict(), unit=job.unit, value_verdict="not run")
    table = protocol.run(OPTIONS, found)
    (said,) = table.findings
    assert "kernel +1.0; rate 0.1 -2.0; the released network +0.0; ImageNet's normalisation +3.0; all four" in said
    assert "code +4.0 points (by seed they differ alike: no interval)" in said
    assert "the 4 changes alone would add up to +2.0; together they are +2.0 off." in said
    assert next(iter(table.cells)).reason == "by seed: 90.00, 91.00, 92.00"
    found[protocol.jobs(OPTIONS)[0].place] = Cell(
        **protocol.jobs(OPTIONS)[0].place._asdict(), unit="percent", value_verdict="not run"
    )
    assert protocol.run(OPTIONS, found).findings == ()


def of_protocol(values):
    """`values` are accuracies on digits, by arm and seed; nothing else was run."""
    found = {}
    for job in protocol.jobs(OPTIONS):
        some = values[job.place.row]
        found[job.place] = cell(job, sum(some) / len(some), accuracies=tuple(some))
        if job.profile != "embedded":
            found[job.place] = Cell(**job.place._asdict(), unit=job.unit, value_verdict="not run")
    return found


def test_what_the_changes_are_off_their_sum_has_the_interval_of_that_contrast():
    """All arms and seeds scatter alike, about a mean of the arm and one of the seed."""
    table = np.random.default_rng(3).normal(80, 2, (6, 3))
    (said,) = protocol.run(OPTIONS, of_protocol(dict(zip(protocol.ARMS, table.tolist(), strict=True)))).findings
    residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    deviation = np.sqrt((residual**2).sum() / (5 * 2))
    paper, *changes, together = table.mean(1)
    contrast = together - paper - sum(change - paper for change in changes)
    half = stats.t.ppf(0.975, 10) * deviation * np.sqrt((1 + 4 + 3**2) / 3)
    assert f"together they are {contrast:+.1f} +/-{half:.1f} off." in said
    one = stats.t.ppf(0.975, 10) * deviation * np.sqrt(2 / 3)
    assert f"95 % interval of one: +/-{one:.1f}" in said
    chances = [2 * stats.t.sf(abs(mean - paper) / (deviation * np.sqrt(2 / 3)), 10) for mean in (*changes, together)]
    least = min(float(p) for p in re.findall(r"\(p = ([\d.e-]+)\)", said))
    assert least == pytest.approx(min(1, 5 * min(chances)), rel=0.05)


def test_arms_that_hardly_learned_have_no_probability_and_one_seed_no_interval():
    values = {arm: [90.0, 91.0, 92.5 - i / 5] for i, arm in enumerate(protocol.ARMS)}
    (usual,) = protocol.run(OPTIONS, of_protocol(values)).findings
    values["rate 0.1"] = [10.0, 30.0, 12.0]
    (dead,) = protocol.run(OPTIONS, of_protocol(values)).findings
    assert "rate 0.1 -73.8 (hardly learned);" in dead
    halves = [float(re.search(r"one: \+/-([\d.]+)", said)[1]) for said in (usual, dead)]
    assert halves[1] < 2 * halves[0] < 4
    assert re.search(r"together they are [+-][\d.]+ \+/-[\d.]+ off", usual)
    assert re.search(r"together they are [+-][\d.]+ off", dead)  # the sum has an arm that is not in the deviation
    (alone,) = protocol.run(OPTIONS, of_protocol({arm: some[:1] for arm, some in values.items()})).findings
    assert "ImageNet's normalisation +0.0; all four, as the released code +0.0 points (one seed: no interval)" in alone
    assert "rate 0.1 -80.0 (hardly learned)" in alone
    assert "together they are +80.0 off." in alone
    assert "p = " not in alone
    values = {arm: [90.0, 91.0, 92.5 - i / 5] for i, arm in enumerate(protocol.ARMS)} | {protocol.PAPER: [10, 12, 11]}
    (lost,) = protocol.run(OPTIONS, of_protocol(values)).findings
    assert "points (that with which they are compared hardly learned: no interval)" in lost
    assert "+/-" not in lost
    assert "p = " not in lost


def test_what_stands_by_a_rehearsal_says_so():
    found = of_protocol({arm: [90.0, 91.0] for arm in protocol.ARMS})
    place = next(iter(found))
    why = "with other sources; a rehearsal gives the same bits"
    found[place] = dataclasses.replace(found[place], detail={**found[place].detail, "vouched": why})
    reasons = [one.reason for one in protocol.run(OPTIONS, found).cells]
    gain = "against the paper's protocol +0.0; "
    assert reasons[:2] == [f"by seed: 90.00, 91.00; 1 recorded {why}", f"{gain}by seed: 90.00, 91.00"]


def test_a_change_s_row_says_what_it_is_worth():
    values = {arm: [90.0 + 3 * i, 91.0 + 3 * i, 92.5 + 2.8 * i] for i, arm in enumerate(protocol.ARMS)}
    table = protocol.run(OPTIONS, of_protocol(values))
    (said,) = table.findings
    changed = [row for row in table.cells[1:] if row.column == "digits, 10 epochs"]
    assert len(changed) == 5
    for row in changed:
        gain = re.search(rf"{re.escape(row.row)} (\+[\d.]+ \(p = [\d.e-]+\))", said)[1]
        assert row.reason.startswith(f"against the paper's protocol {gain}; by seed: ")


def test_the_constants_that_are_tried():
    made = {arm: constants._recipe(arm, "embedded", 0) for arm in constants.ARMS}
    paper = made[constants.PAPER]
    assert constants.PAPER == "gamma = 2; sigma = 1, 2"
    assert (paper.rate, paper.quantizer_rate) == tuple(runs.tuned_rates("DAQ", "embedded").values())
    for arm, own in made.items():
        gamma, weight, activation = map(float, re.findall(r"[\d.]+", arm))
        assert own.options == {
            "variant": "paper", "gamma": gamma, "weight_options": {"sigma": weight},
            "input_options": {"sigma": activation},
        }  # fmt: skip
        layer = trainer.build(own).layer1[0].conv1
        assert (layer.weight_quantizer.sigma, layer.input_quantizer.sigma) == (weight, activation)
        assert layer.weight_quantizer.gamma == layer.input_quantizer.gamma == gamma
    assert len({job.key for job in constants.jobs(OPTIONS)}) == 2 * len(made) == 16
    one = runs.job_of_seeds(constants.jobs(OPTIONS)[0].place, [paper], OPTIONS)
    assert one.key != runs.job_of_seeds(constants.jobs(OPTIONS)[0].place, [paper], OPTIONS, held_out=True).key


def test_what_other_constants_add():
    found = {}
    for job in constants.jobs(OPTIONS):
        some = [90.0, 91.0, 92.0 + (job.place.row == constants.PAPER)]
        found[job.place] = cell(job, some[1], accuracies=tuple(some))
        if job.profile != "embedded":
            found[job.place] = Cell(**job.place._asdict(), unit=job.unit, value_verdict="not run")
    (said,) = constants.run(OPTIONS, found).findings
    assert said.count(" -0.3 (p = ") == 7
    assert len(re.findall(r"\+/-([\d.]+)", said)) == 1


def of_depth():
    found = {}
    for job in depth.jobs(OPTIONS):
        if job.unit == "ratio":
            found[job.place] = cell(job, 4.0, **{"by layer": (4.0, 2.0, 1.0)})
        elif job.profile == "embedded":
            found[job.place] = cell(
                job, 95.0, **{"at the best rate": (94.0, 95.0, 96.0), "held out": (95.0,) * len(depth.RATES)}
            )
        else:
            found[job.place] = Cell(**job.place._asdict(), unit=job.unit, value_verdict="not run")
    return found


def of_disguise():
    found = {}
    for job in disguise.jobs(OPTIONS):
        count = len(disguise.HALVINGS)
        if job.place.column.startswith(disguise.RECIPE):
            count = len(disguise.RECIPE_HALVINGS[job.profile])
        lines = {arm: (4e-3, 2e-3, 1e-3)[:count] for arm in disguise.ARMS}
        codes = {f"{arm}, codes": (0.1, 0.0, 0.0)[:count] for arm in disguise.ARMS}
        accuracies = {f"{arm}, accuracy": (90.0, 91.0, 92.0)[:count] for arm in disguise.ARMS}
        found[job.place] = cell(job, 1e-3, **lines, **codes, **accuracies)
    return found


FIGURES = {
    "S1": (figure_schedule, lambda: of_schedule(growing)),
    "S2": (figure_depth, of_depth),
    "S3": (figure_disguise, of_disguise),
    "S4": (figure_evolution, made_up),
}


@pytest.mark.parametrize("number", FIGURES)
def test_nothing_is_clipped_and_pictures_are_the_same_again(number):
    script, made = FIGURES[number]
    figure = script.draw(OPTIONS, made())
    FigureCanvasAgg(figure).draw()
    box, (width, height) = figure.get_tightbbox(figure.canvas.get_renderer()), figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01
    assert (box.x1 <= width + 0.01, box.y1 <= height + 0.01) == (True, True)
    one, other = (figures.render(script.draw(OPTIONS, made()), "svg") for _ in range(2))
    assert one == other


@pytest.mark.parametrize("number", FIGURES)
def test_without_measurements_it_says_so(number):
    script, made = FIGURES[number]
    nothing = {place: Cell(**place._asdict(), unit=one.unit, value_verdict="not run") for place, one in made().items()}
    figure = script.draw(OPTIONS, nothing)
    assert [text.get_text() for text in figure.texts] in (["no run is recorded"], ["nothing is recorded"])


def test_lines_of_the_schedule_are_means_over_seeds():
    (digits, cifar) = figure_schedule.draw(OPTIONS, of_schedule(growing)).axes
    assert (digits.get_title(), cifar.get_title()) == ("digits", "CIFAR-10")
    (line,) = (line for line in digits.get_lines() if line.get_label() == "DAQ")
    assert line.get_xdata().tolist() == [3, 10, 30]
    assert line.get_ydata() == pytest.approx([90.3, 91.0, 93.0])
    printed = [line.get_ydata().tolist() for line in cifar.get_lines() if line.get_xdata().tolist() == [400]]
    assert printed == [[85.8], [85.4]]  # DAQ and IR-Net, Table 5 at 1/1


def test_lines_of_the_schedule_are_labelled_at_their_ends():
    """Far apart, and one crossing the next on the way."""
    ends = {contender.name: 50.0 + 10 * i for i, contender in enumerate(figure_schedule.LINES)}
    made = of_schedule(lambda row, epochs: [ends[row] + (0 if epochs == 30 else 25)] * 3)
    labels = {label: contender.name for contender, (_, _, label) in figure_schedule.LINES.items()}
    for axes in figure_schedule.draw(OPTIONS, made).axes:
        assert {labels[text.get_text()]: text.xy for text in axes.texts} == {row: (30, at) for row, at in ends.items()}


def test_gradients_are_drawn_by_layer():
    left, *_ = figure_depth.draw(OPTIONS, of_depth()).axes
    curves = [line.get_ydata().tolist() for line in left.get_lines() if len(line.get_xdata()) == 3]
    assert curves == [[4.0, 2.0, 1.0]] * 4
    gradients = {
        p: c if c.unit == "ratio" else dataclasses.replace(c, value_verdict="stale") for p, c in of_depth().items()
    }
    (left,) = figure_depth.draw(OPTIONS, gradients).axes
    assert len(left.get_lines()) == 5


def test_arms_stand_by_accuracy_on_digits_and_in_the_same_row_on_cifar10():
    rows = list(depth.arms())
    made = of_depth()
    for job in depth.jobs(OPTIONS):
        if (row := job.place.row) in rows:
            value = 90.0 + rows.index(row) if job.profile == "embedded" else 60.0 - rows.index(row)
            if job.profile == "embedded" or row in rows[:2]:
                detail = {"at the best rate": (value,), "held out": (value,) * len(depth.RATES)}
                made[job.place] = cell(job, value, **detail)
    _, digits, cifar = figure_depth.draw(OPTIONS, made).axes
    assert (digits.get_title(), cifar.get_title()) == (
        "accuracy (%)\ndigits, 10 epochs",
        "accuracy (%)\nCIFAR-10, 3 epochs",
    )
    assert [label.get_text() for label in digits.get_yticklabels()] == rows
    dots = [
        {int(line.get_ydata()[0]): line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "o"}
        for axes in (digits, cifar)
    ]
    assert dots == [{i: 90.0 + i for i in range(len(rows))}, {0: 60.0, 1: 59.0}]


def test_a_point_is_filled_where_no_code_differs():
    found = figure_disguise.draw(OPTIONS, of_disguise()).axes
    assert len(found) == len(disguise.jobs(OPTIONS)) == 12
    for axes in found:
        fills = [line.get_markerfacecolor() for line in axes.get_lines() if line.get_marker() == "o"]
        count = len(fills) // len(figure_disguise.ARMS)
        assert [fill == "none" for fill in fills] == [True, False, False][:count] * len(figure_disguise.ARMS)
        assert count == (1 if axes.get_title().endswith("recipe,\nCIFAR-10") else 3)


def test_a_network_without_measurements_has_no_row():
    some = {
        job.place: of_disguise()[job.place]
        if job.profile == "embedded"
        else Cell(**job.place._asdict(), unit=job.unit, value_verdict="not run")
        for job in disguise.jobs(OPTIONS)
    }
    assert len(figure_disguise.draw(OPTIONS, some).axes) == 6


@pytest.mark.parametrize(
    ("distances", "said"),
    [
        ((4e-3, 2e-3, 1e-3), "falls with the rate, by 2.00, 2.00 for each halving: the theorem holds to first order."),
        ((8e-3, 2e-3, 1e-3), "falls with the rate, by 4.00, 2.00 for each halving: the theorem holds to first order."),
        ((4e-3, 2e-3, 2e-3), "does not fall with the rate, by 2.00, 1.00 for each halving: the theorem does not hold"),
        ((1e-3, 2e-3, 4e-3), "does not fall with the rate, by 0.50, 0.50 for each halving: the theorem does not hold"),
    ],
)
def test_the_theorem_is_judged_by_how_the_distance_falls_where_no_code_differs(distances, said):
    made = of_disguise()
    (place,) = (p for p in made if (p.row, p.column) == ("paper kernel", "small steps"))
    more = {"M and alpha": distances, "M and alpha, codes": (0.0, 0.0, 0.0)}
    made[place] = dataclasses.replace(made[place], detail={**made[place].detail, **more})
    found = disguise.run(OPTIONS, made).findings
    (line,) = (line for line in found if line.startswith("paper kernel, small steps:"))
    assert f"no code differs, and the distance {said}" in line
    assert sum("no code differs" in line for line in found) == 1


def test_what_came_of_the_recipe_is_said_of_as_many_rates_as_were_run():
    said = [line for line in disguise.run(OPTIONS, of_disguise()).findings if disguise.RECIPE in line]
    assert len(said) == 4
    for line in said:
        assert ("at the rates, half and a quarter: " in line) is ("CIFAR-10" not in line)
        assert line.count(" → ") == (0 if "CIFAR-10" in line else 2 * (2 * len(disguise.ARMS) + 1 + 3))


def test_curves_of_dsq_begin_before_training_and_have_every_seed():
    alpha, error, loss = figure_evolution.draw(OPTIONS, made_up()).axes
    assert [line.get_ydata().tolist() for line in alpha.get_lines()] == [
        [0.2, 0.25, 0.2, 0.125],
        [0.2, 0.3, 0.21, 0.15],
    ]
    assert [line.get_xdata().tolist() for line in alpha.get_lines()] == [[0, 1, 2, 3]] * 2
    assert [line.get_xdata().tolist() for line in error.get_lines()] == [[1, 2, 3]] * 2
    assert [line.get_ydata().tolist() for line in error.get_lines()] == [[0.06, 0.05, 0.04], [0.09, 0.08, 0.07]]
    drawn = [line.get_ydata().tolist() for line in loss.get_lines()]
    assert len(drawn) == 8
    assert drawn[:3] == [[3, 2, 1], [3, 2, 2.5], [3, 2, 2]]
    assert drawn[3] == pytest.approx([3, 2, 5.5 / 3])
    words = [axes.get_ylabel().split()[0] for axes in (alpha, error, loss)]
    assert words == ["alpha", "relative", "training"]


def test_what_is_drawn_is_in_the_tables():
    for number, table in (("S1", schedule), ("S2", depth), ("S3", disguise), ("S4", evolution)):
        assert {job.place for job in figures.script(number).jobs(OPTIONS)} == {job.place for job in table.jobs(OPTIONS)}
