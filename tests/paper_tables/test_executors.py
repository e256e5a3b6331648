"""Runs side by side: results and errors come back, and no worker outlives who wanted its result."""

import multiprocessing
import os
import signal
import time
from functools import partial

import pytest

from paper_tables import executors
from paper_tables.tables import InputError
from tests.paper_tables import work


@pytest.fixture(scope="session")
def forks():
    """Processes that have torch imported already, one for each start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.HERE])
    return context


@pytest.fixture
def quick(forks, monkeypatch):
    """Workers that need not import torch first."""
    monkeypatch.setattr(executors.multiprocessing, "get_context", lambda kind: forks)


def tasks(names, run=work.measure):
    return {work.place(name): partial(run, name) for name in names}


def test_one_after_the_other_in_order():
    reports = []
    found = list(executors.beside(1)(tasks("cab"), lambda *report: reports.append(report)))
    assert [place for place, _ in found] == [work.place(name) for name in "cab"]
    assert reports == [(work.place(name), 0.5) for name in "cab"]
    assert {one.unit for _, one in found} == {str(os.getpid())}


@pytest.mark.usefixtures("quick")
def test_side_by_side_each_result_comes_once_from_a_process_with_one_thread():
    reports = []
    found = dict(executors.beside(2)(tasks("abcde"), lambda *report: reports.append(report)))
    assert found.keys() == {work.place(name) for name in "abcde"}
    assert all(one.place == place and one.measured == 1 for place, one in found.items())
    assert str(os.getpid()) not in {one.unit for one in found.values()}
    assert set(reports) <= {(work.place(name), 0.5) for name in "abcde"}
    assert list(executors.beside(2)({}, pytest.fail)) == []


@pytest.mark.usefixtures("quick")
def test_an_error_in_a_worker_is_the_users():
    with pytest.raises(InputError) as error:
        list(executors.beside(2)(tasks("a", work.refuse) | tasks("b"), lambda *report: None))
    assert str(error.value) == "a: cannot be used"


@pytest.mark.usefixtures("quick")
def test_a_worker_that_was_killed_is_one_line():
    with pytest.raises(InputError, match=r"a worker was killed.*--workers"):
        list(executors.beside(2)(tasks("a", work.be_killed), lambda *report: None))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def soon(condition, seconds=60):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_who_wanted_its_result(how, tmp_path, forks):
    """Killed, or interrupted as Ctrl-C does it, parent and workers: also a worker without work, or one that is busy."""
    parent = forks.Process(target=work.parent, args=(tmp_path, forks))
    parent.start()

    def ready():
        return list(tmp_path.glob("long.*")) and (tmp_path / "short.ended").exists()

    soon(ready)
    workers = {int(path.suffix[1:]) for path in tmp_path.glob("*.*") if path.suffix[1:].isdigit()}
    assert workers
    assert all(map(alive, workers))
    for pid in [parent.pid, *(workers if how == signal.SIGINT else ())]:
        os.kill(pid, how)
    parent.join(60)
    soon(lambda: not any(map(alive, workers)))
    assert not (tmp_path / "long.ended").exists()
    if how == signal.SIGINT:
        assert (tmp_path / "status").read_text() == "130"
        assert (tmp_path / "stderr").read_text() == "interrupted\n"
    else:
        assert parent.exitcode == -how
