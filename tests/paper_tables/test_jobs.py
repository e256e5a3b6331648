"""The runner: what is recorded is not measured again, a kill loses one cell, and no file is trusted blindly."""

import dataclasses
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from paper_tables import cells, cli, executors, jobs, reported, table5, tables
from paper_tables.cells import Cell, Measurement, Place
from paper_tables.jobs import Job
from paper_tables.tables import InputError, Options
from tests.strategies import QUICK

ROOT = Path(__file__).parents[2]
KILLS = 2 if QUICK else 3


@pytest.fixture(autouse=True)
def results(tmp_path_factory, monkeypatch):
    """An empty ``results/``, and no data but those given."""
    for name in ("QUANTGAP_DATA", "QUANTGAP_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path_factory.mktemp("results")
    monkeypatch.setattr(cells, "RESULTS", folder)
    return folder


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Bench:
    """Jobs that note when they are measured; job i measures i."""

    def __init__(self, keys, needs=(), fails=()):
        self.measured = []
        self.jobs = []
        for i, key in enumerate(keys):
            measure = partial(self.measure, i, i in fails)
            self.jobs.append(Job(Place("P", "bench", f"row {i}", "column"), "unit", key, "a command", measure, needs))

    def measure(self, i, fails, progress):
        progress(0.5)
        if fails:
            raise InputError(f"job {i} fails")
        self.measured.append(i)
        return {"measured": float(i), "protocol": "counted", "detail": {"i": i}}

    def run(self, options):
        """Run the jobs; returns which were measured, and the cells in order."""
        self.measured.clear()
        shown = jobs.run(self.jobs, dataclasses.replace(options, quiet=True))
        return list(self.measured), [shown[job.place] for job in self.jobs]


def test_what_is_measured_is_recorded_and_not_measured_again(tmp_path, results):
    bench, options = Bench("abc"), Options(out=tmp_path)
    measured, found = bench.run(options)
    assert measured == [0, 1, 2]
    assert [(cell.measured, cell.recorded, cell.value_verdict, cell.detail) for cell in found] == [
        (i, False, None, {"i": i}) for i in range(3)
    ]
    assert all(cell.seconds >= 0 and cell.hardware and cell.versions and cell.command for cell in found)
    measured, found = bench.run(options)
    assert measured == []
    assert [(cell.measured, cell.recorded, cell.value_verdict) for cell in found] == [(i, True, None) for i in range(3)]
    assert bench.run(dataclasses.replace(options, again=True))[0] == [0, 1, 2]
    assert files(results) == []


@given(before=st.lists(st.sampled_from("ab"), min_size=1, max_size=5), data=st.data())
def test_exactly_what_has_another_key_is_measured(tmp_path_factory, before, data):
    after = data.draw(st.lists(st.sampled_from("ab"), min_size=len(before), max_size=len(before) + 2))
    options = Options(out=tmp_path_factory.mktemp("out"))
    Bench(before).run(options)
    measured, found = Bench(after).run(options)
    assert measured == [i for i, key in enumerate(after) if i >= len(before) or key != before[i]]
    assert [cell.key for cell in found] == list(after)
    assert not any(cell.value_verdict for cell in found)


def test_stale_is_shown_with_its_value_and_never_as_a_result(tmp_path):
    given = Options(data=tmp_path, out=tmp_path)
    Bench("aa", needs=("data",)).run(given)
    bench = Bench("ab", needs=("data",))
    measured, (kept, stale) = bench.run(dataclasses.replace(given, data=None))
    assert measured == []
    assert (kept.value_verdict, kept.measured) == (None, 0)
    assert (stale.value_verdict, stale.measured, stale.command) == ("stale", 1, "a command")
    assert "other sources, configuration or data" in stale.reason
    assert "--data" in stale.reason
    assert bench.run(given)[0] == [1]


def test_another_unit_is_stale_too(tmp_path):
    bench = Bench("a")
    bench.run(Options(out=tmp_path))
    (bench.jobs[0],) = [dataclasses.replace(job, unit="another") for job in bench.jobs]
    assert bench.run(Options(out=tmp_path))[0] == [0]


def test_without_what_it_needs_nothing_is_measured_or_written(tmp_path):
    bench = Bench("a", needs=("data", "checkpoints"))
    for options in (Options(out=tmp_path), Options(out=tmp_path, data=tmp_path, again=True)):
        measured, (cell,) = bench.run(options)
        assert measured == []
        assert (cell.value_verdict, cell.measured, cell.command) == ("not run", None, "a command")
        assert "--data" in cell.reason
        assert "--checkpoints" in cell.reason
    assert files(tmp_path) == []


def test_record_also_writes_what_takes_data_to_results(tmp_path, results):
    options = Options(data=tmp_path, out=tmp_path, record=True)
    Bench("a").run(options)
    assert files(results) == []
    bench = Bench("a", needs=("data",))
    bench.run(dataclasses.replace(options, record=False, again=True))
    assert files(results) == []
    assert bench.run(options)[0] == []  # what is in OUT is recorded without measuring it again
    (path,) = files(results)
    assert path.read_bytes() == (tmp_path / "measured" / path.relative_to(results)).read_bytes()
    measured, (cell,) = bench.run(Options(out=tmp_path / "elsewhere"))
    assert (measured, cell.recorded, cell.measured) == ([], True, 0)


def test_what_was_measured_before_a_failure_is_kept(tmp_path):
    options = Options(out=tmp_path)
    with pytest.raises(InputError, match="job 2 fails"):
        Bench("abcd", fails={2}).run(options)
    assert Bench("abcd").run(options)[0] == [2, 3]


def test_an_executor_may_end_jobs_in_any_order(tmp_path, monkeypatch):
    bench, options = Bench("abcde"), Options(out=tmp_path, quiet=True)

    def shuffled(tasks, report):
        for place in random.Random(0).sample(list(tasks), len(tasks)):
            yield place, tasks[place](partial(report, place))
            last = max(files(tmp_path / "measured"), key=lambda path: path.stat().st_mtime_ns)
            assert cells.read(last, Measurement).place == place  # written before the next begins

    monkeypatch.setattr(executors, "in_turn", shuffled)
    shown = jobs.run(bench.jobs, options)
    assert [shown[job.place].measured for job in bench.jobs] == list(range(5))


def test_two_tables_share_a_job_and_cannot_disagree_on_it(tmp_path):
    bench = Bench("a")
    bench.jobs *= 2
    assert bench.run(Options(out=tmp_path))[0] == [0]
    bench.jobs[1] = dataclasses.replace(bench.jobs[0], key="b")
    with pytest.raises(ValueError, match="different keys"):
        bench.run(Options(out=tmp_path))


def test_of_two_tables_the_one_that_asks_for_less_has_a_job_measured(tmp_path):
    for more_first in (True, False):
        bench = Bench("a")
        more = dataclasses.replace(bench.jobs[0], needs=("tune",))
        bench.jobs = [more, bench.jobs[0]] if more_first else [bench.jobs[0], more]
        assert bench.run(Options(out=tmp_path / str(more_first)))[0] == [0]


def test_progress_tells_the_jobs_and_the_time_left(tmp_path, monkeypatch):
    console = Console(width=100, force_terminal=True, record=True, file=io.StringIO())
    monkeypatch.setattr(jobs, "console", console)
    bench = Bench("abc")
    jobs.run(bench.jobs, Options(out=tmp_path))
    said = console.export_text()
    assert "table bench: row 2, column" in said
    assert "3 of 3 measured" in said
    assert "-:--:--" in said or "0:00:0" in said


def test_progress_says_how_many_there_are_before_the_first_reports(monkeypatch):
    console = Console(width=100, force_terminal=True, record=True, file=io.StringIO())
    monkeypatch.setattr(jobs, "console", console)
    with jobs.Bars(3, quiet=False):
        pass
    assert "0 of 3 measured" in console.export_text()


# Damaged and foreign files

DAMAGE = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "another schema": lambda text: text.replace('"schema": 2', '"schema": 1'),
    "another row": lambda text: text.replace("row 1", "row 2"),
    "not a number": lambda text: text.replace('"measured": 1.0', '"measured": NaN'),
    "no number": lambda text: text.replace('"measured": 1.0', '"measured": null'),
    "a word": lambda text: text.replace('"measured": 1.0', '"measured": "1.0"'),
    "a shown cell": lambda text: text.replace('"schema": 2,', '"schema": 2, "reported": "1.0",'),
}


@pytest.mark.parametrize("where", ["results", "out"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line_and_nothing_is_lost(damage, where, tmp_path, results):
    options = Options(data=tmp_path, out=tmp_path / "out", record=where == "results")
    Bench("ab", needs=("data",)).run(options)
    path = (
        (results if where == "results" else options.out / "measured")
        / "bench"
        / Place("P", "bench", "row 1", "column").filename
    )
    path.write_text(DAMAGE[damage](path.read_text()))
    before = {file: file.read_bytes() for file in [*files(tmp_path), *files(results)]}
    bench = Bench("cbd", needs=("data",))  # the first and the third could be measured
    with pytest.raises(InputError) as error:
        bench.run(dataclasses.replace(options, record=True))
    assert bench.measured == []
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert ("git checkout" in str(error.value)) is (where == "results")
    assert "delete" in str(error.value)
    assert {file: file.read_bytes() for file in [*files(tmp_path), *files(results)]} == before
    path.unlink()
    assert bench.run(options)[0] == ([0, 1, 2] if where == "out" else [0, 2])


@pytest.mark.parametrize("where", ["results", "out"])
def test_a_detail_that_is_missing_is_a_line_that_names_the_file(where, tmp_path, results):
    options = Options(data=tmp_path, out=tmp_path / "out", record=where == "results")
    bench = Bench("a", needs=("data",))
    bench.run(options)
    (path,) = [path for path in files(results if where == "results" else tmp_path) if path.suffix == ".json"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "detail": {"other": 2.0}}))
    measured, (found,) = bench.run(
        dataclasses.replace(options, record=False, out=tmp_path / "none" if where == "results" else options.out)
    )
    assert measured == []
    for one in (found, pickle.loads(pickle.dumps(found))):
        assert one.detail["other"] == 2.0
        assert one.detail.get("i") is None
        with pytest.raises(InputError) as error:
            one.detail["i"]
        remedy = f"`git checkout {path}` or delete it" if where == "results" else "delete it, to measure again"
        assert str(error.value) == f"{path}: damaged: detail has no 'i'; {remedy}"


def test_a_folder_in_a_files_place_is_one_line(tmp_path):
    path = tmp_path / "measured" / "bench" / Place("P", "bench", "row 0", "column").filename
    path.mkdir(parents=True)
    with pytest.raises(InputError, match="Is a directory"):
        Bench("a").run(Options(out=tmp_path))


@pytest.mark.parametrize("option", ["--out", "--record"])
def test_what_cannot_be_written_names_the_option(option, tmp_path, monkeypatch, results):
    def full(folder, found):
        if (folder == results) is (option == "--record"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(cells, "write", full)
    with pytest.raises(InputError) as error:
        Bench("a", needs=("data",)).run(Options(data=tmp_path, out=tmp_path, record=True))
    place = results if option == "--record" else tmp_path
    assert str(error.value) == f"{option} {place}: No space left on device"


# Judged when shown


def test_a_changed_printed_number_changes_the_verdict_of_a_recorded_cell(tmp_path, monkeypatch):
    (job,) = [job for job in table5.jobs(Options()) if job.place.column == "1/1"]
    measurement = Measurement(
        **job.place._asdict(), unit=job.unit, key=job.key, measured=85.62, ci95=(84.9, 86.3), images=10_000, runs=1
    )
    cells.write(tmp_path / "measured", [measurement])
    before = (tmp_path / "measured" / "5" / job.place.filename).read_bytes()

    def verdict():
        (table,), _ = jobs.regenerate([table5], Options(out=tmp_path, profile="cifar10"))
        (cell,) = [cell for cell in table.cells if cell.place == job.place]
        assert (cell.measured, cell.recorded) == (85.62, True)
        return cell.reported, cell.value_verdict, any(sentence.startswith("1/1: ") for sentence in table.findings)

    assert verdict() == ("85.8", "released file differs", True)
    printed = (Path(reported.__file__).parent / "table5.toml").read_text()
    (tmp_path / "table5.toml").write_text(printed.replace("value = 85.8, difference = -5.6", "value = 85.6"))
    changed = reported.load_table(tmp_path / "table5.toml")
    monkeypatch.setattr(reported, "tables", lambda: {"5": changed})
    assert verdict() == ("85.6", "matches", False)
    assert (tmp_path / "measured" / "5" / job.place.filename).read_bytes() == before


@pytest.fixture
def quick(monkeypatch):
    """Table 5 with a quick measurement; returns the columns that were measured."""
    measured, real = [], table5.jobs

    def measure(column, progress):
        measured.append(column)
        return {"measured": 85.0, "images": 100, "protocol": "guessed"}

    def quick_jobs(options):
        released = [job for job in real(options) if "checkpoints" in job.needs]
        return [dataclasses.replace(job, measure=partial(measure, job.place.column)) for job in released]

    monkeypatch.setattr(table5, "jobs", quick_jobs)
    return measured


def test_the_command_line_records_and_measures_again(tmp_path, results, quick, capsys):
    command = ["--table", "5", "--quiet", "--data", str(tmp_path), "--checkpoints", str(tmp_path)]
    assert cli.main([*command, "--out", str(tmp_path / "a")]) == 0
    assert files(results) == []
    assert cli.main([*command, "--out", str(tmp_path / "b"), "--record"]) == 0
    assert len(files(results)) == 3
    assert cli.main([*command, "--out", str(tmp_path / "c")]) == 0
    assert len(quick) == 6
    assert cli.main([*command, "--out", str(tmp_path / "c"), "--again"]) == 0
    assert len(quick) == 9
    assert capsys.readouterr() == ("", "")


def test_the_report_marks_what_is_recorded_and_what_is_stale(tmp_path, results, quick, monkeypatch, capsys):
    command = ["--table", "5", "--data", str(tmp_path), "--checkpoints", str(tmp_path), "--out", str(tmp_path)]
    assert cli.main(command) == 0
    assert "85.00 ≠*" not in capsys.readouterr().out
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("85.00 ≠*") == 3
    monkeypatch.setattr(table5.cifar10, "SHA256", {"test": "other images"})
    assert cli.main(["--table", "5", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("85.00 stale") == 3
    assert "Table 5, 3 numbers: recorded with other sources, configuration or data" in out
    assert "released file differs" not in out


def test_a_damaged_result_ends_with_one_line(tmp_path, results, quick, capsys):
    command = ["--table", "5", "--data", str(tmp_path), "--checkpoints", str(tmp_path), "--out", str(tmp_path / "a")]
    assert cli.main([*command, "--record", "--quiet"]) == 0
    path = files(results)[0]
    path.write_text("{")
    before = files(tmp_path)
    assert cli.main([*command[:-1], str(tmp_path / "b")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert str(path) in err
    assert path.read_text() == "{"
    assert files(tmp_path) == before


# A kill in the middle

SLOW = """
    import os, time
    from pathlib import Path
    from paper_tables.cells import Place
    from paper_tables.jobs import Job
    from paper_tables.tables import Table
    from functools import partial

    TITLE, NEEDS = "slow", "nothing"
    LOG = Path(os.environ["SLOW_LOG"])

    def measure(i, progress):
        with LOG.open("a") as log:
            log.write(f"{os.getpid()} {i}\\n")
        for part in range(10):
            time.sleep(0.01)
            progress(part / 10)
        return {"measured": float(i), "protocol": "slept"}

    def jobs(options):
        return [Job(Place("P", "slow", str(i), "c"), "", "key", "", partial(measure, i)) for i in range(12)]

    def run(options, measured):
        return Table("slow", TITLE, "", tuple(measured[job.place] for job in jobs(options)))

    if __name__ == "__main__":
        import sys
        from paper_tables import cells, cli, tables
        cells.RESULTS = Path(sys.argv.pop(1))
        tables.SCRIPTS["slow"] = "slow_table"
        raise SystemExit(cli.main(["--table", "slow", *sys.argv[1:]]))
"""


def test_a_kill_loses_at_most_the_cell_being_measured(tmp_path, results):
    """Killed at random moments and started again until it ends: each job ends once, and begins again only if killed."""
    (tmp_path / "slow_table.py").write_text(textwrap.dedent(SLOW))
    log, out = tmp_path / "log", tmp_path / "out"
    log.touch()
    command = [sys.executable, "-m", "slow_table", str(results), "--out", str(out), "--quiet"]
    own = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "SLOW_LOG": str(log)}
    moment = random.Random()
    finished = set()
    for kills in range(KILLS + 1):
        begun = log.read_text().count("\n")
        with subprocess.Popen(command, env=os.environ | own, cwd=tmp_path) as process:
            if kills < KILLS:
                while log.read_text().count("\n") == begun and process.poll() is None:
                    time.sleep(0.005)
                time.sleep(moment.uniform(0, 0.35))
                process.send_signal(signal.SIGKILL)
            status = process.wait()
        assert status == (0 if kills == KILLS else -signal.SIGKILL)
        started = [int(line.split()[1]) for line in log.read_text().splitlines()[begun:]]
        ended = {int(cells.read(path, Measurement).row) for path in (out / "measured").rglob("*.json")}
        assert started == sorted(set(range(12)) - finished)[: len(started)]  # none that had finished, none twice
        assert finished <= ended
        assert len(started) - len(ended - finished) <= 1  # at most one was lost
        finished = ended
        for path in out.rglob(".*.tmp"):  # as if the next start came later
            os.utime(path, (0, 0))
    assert finished == set(range(12))
    assert not list(out.rglob(".*"))
    shown = [cells.read(path, Cell) for path in (out / "cells" / "slow").iterdir()]
    assert sorted(cell.measured for cell in shown) == list(range(12))


def test_an_interruption_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    bench = Bench("abc")
    measure = bench.measure

    def interrupted(i, fails, progress):
        if i == 1:
            raise KeyboardInterrupt
        return measure(i, fails, progress)

    bench.jobs = [dataclasses.replace(job, measure=partial(interrupted, *job.measure.args)) for job in bench.jobs]
    monkeypatch.setattr("paper_tables.table5.jobs", lambda options: bench.jobs)
    assert cli.main(["--table", "5", "--out", str(tmp_path), "--quiet"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(files(tmp_path)) == 1


def all_jobs(options):
    scripts = [tables.script(name) for name in tables.SCRIPTS]
    return [job for script in scripts if hasattr(script, "jobs") for job in script.jobs(options)]


def test_jobs_can_be_sent_to_other_processes(tmp_path):
    options = Options(data=tmp_path, checkpoints=tmp_path)
    assert [pickle.loads(pickle.dumps(job)).place for job in all_jobs(options)] == [j.place for j in all_jobs(options)]


def test_every_recorded_result_is_of_a_job():
    places = {job.place for job in all_jobs(Options())}
    for path in (ROOT / "results").rglob("*.json"):
        assert Place(*(json.loads(path.read_text())[name] for name in Place._fields)) in places, path
