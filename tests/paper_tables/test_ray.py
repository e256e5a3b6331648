"""Jobs on a Ray cluster: one is started here for the test."""

import dataclasses
from functools import partial

import pytest

from paper_tables import cells, jobs, runs
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


def test_no_such_cluster():
    with pytest.raises(InputError, match="no such cluster"):
        list(on_ray("127.0.0.1:1")({"place": None}, lambda *_: None))
