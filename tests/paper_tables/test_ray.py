"""Jobs on a Ray cluster: one is started here for the test."""

import dataclasses
from functools import partial

import pytest

from paper_tables import cells, cli, jobs, runs
from paper_tables.executors import on_ray
from paper_tables.tables import InputError, Options
from tests.paper_tables import work

pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    return Options(out=tmp_path / "out", quiet=True, profile="smoke", seeds=1, ray="local")


def test_a_cluster_measures_what_a_process_measures(options, tmp_path):
    contenders = (runs.FULL_PRECISION, dataclasses.replace(runs.STE, widths=("1/1",)))
    here = dataclasses.replace(options, ray=None, out=tmp_path / "here")
    found = [jobs.run(runs.jobs(some, contenders), some) for some in (options, here)]
    for place, cell in found[1].items():
        if cell.measured is not None:
            assert found[0][place].measured == cell.measured
            assert found[0][place].detail["weights"] == cell.detail["weights"]
    assert len(list((options.out / "measured" / runs.TABLE).iterdir())) == 2


def test_an_error_on_the_cluster_is_one_line(options, tmp_path):
    (tmp_path / "data").mkdir()
    bad = dataclasses.replace(options, profile="cifar10-short", data=tmp_path / "data")
    with pytest.raises(InputError, match="holds no CIFAR-10 batch file"):
        jobs.run(runs.jobs(bad, (runs.FULL_PRECISION,)), bad)


def test_a_machine_that_is_lost_is_one_line():
    with pytest.raises(InputError, match=r"--ray local: .* what had ended is kept, and the same command goes on"):
        list(on_ray("local")({work.place("dies"): partial(work.be_killed, "dies")}, lambda *_: None))


def test_a_relative_folder_is_that_of_the_caller(tmp_path, monkeypatch):
    """Tasks of a cluster that was started elsewhere have another working directory."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(wanted, options):
        seen.append(options)
        return {}

    monkeypatch.setattr(jobs, "run", run)
    assert cli.main(["--table", "2", "--ray", "auto", "--out", "here", "--data", ".", "--quiet"]) == 0
    assert (seen[0].out, seen[0].data) == (tmp_path / "here", tmp_path)


def test_a_cluster_without_a_card_is_one_line(options):
    with pytest.raises(InputError, match="--device cuda: no machine of the cluster local has a GPU"):
        list(on_ray("local", "cuda")({work.place("a"): partial(work.measure, "a")}, lambda *_: None))


def test_each_run_has_a_card_of_its_own(capsys, tmp_path):
    assert cli.main(["--table", "5", "--ray", "auto", "--device", "cuda:1", "--out", str(tmp_path)]) == 2
    assert "--device cuda:1: on a cluster each run has a card of its own: say cuda" in capsys.readouterr().err


def test_a_device_that_the_machine_of_the_cluster_has_not(options):
    with pytest.raises(InputError, match="a machine of the cluster: --device nonsense"):
        list(on_ray("local", "nonsense")({work.place("a"): partial(work.measure, "a")}, lambda *_: None))


def test_no_such_cluster():
    with pytest.raises(InputError, match="no such cluster"):
        list(on_ray("127.0.0.1:1")({"place": None}, lambda *_: None))
