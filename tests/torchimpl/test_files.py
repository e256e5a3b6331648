import multiprocessing
import os
import time

import pytest

from torchimpl import files


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    files.write_atomic(path, "old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]
    assert path.read_text() == "old"


def test_temporary_files_of_killed_processes_go_and_those_being_written_stay(tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(files.os, "replace", lambda temporary, path: left.append(temporary))  # as if killed before
    files.write_atomic(tmp_path / "a.json", "{}")
    files.write_atomic(tmp_path / "b.json", "{}")
    (tmp_path / ".mine.tmp").write_text("")
    os.utime(left[0], (time.time() - 3600,) * 2)
    os.utime(tmp_path / ".mine.tmp", (0, 0))
    files.sweep(tmp_path)
    assert sorted(map(str, tmp_path.iterdir())) == sorted([left[1], str(tmp_path / ".mine.tmp")])
    files.sweep(tmp_path / "no such folder")


def hold(path, held, release):
    with files.locked(path):
        held.set()
        release.wait(30)


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "sub" / "lock", held, release))
    process.start()
    assert held.wait(30)
    assert files.is_locked(tmp_path / "sub" / "lock")
    process.kill()
    process.join()
    assert not files.is_locked(tmp_path / "sub" / "lock")
    with files.locked(tmp_path / "sub" / "lock"):
        assert files.is_locked(tmp_path / "sub" / "lock")
    assert not files.is_locked(tmp_path / "no such file")


def test_nobody_waits_for_another_user_s_lock(tmp_path, monkeypatch):
    """Anyone may create a file in the folder for temporary ones, and never let go of it."""
    path = tmp_path / "lock"
    with files.locked(path):
        monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
        assert not files.is_locked(path)
