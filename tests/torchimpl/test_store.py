"""Where runs are kept: no file is trusted blindly, a full disk loses one epoch, and nobody trains a run twice."""

import dataclasses
import errno
import importlib
import multiprocessing
import os
import pickle
import warnings

import numpy as np
import pytest
import torch

from tests.torchimpl import networks
from tests.torchimpl.networks import images, small
from torchimpl import checkpoints, files, sources
from torchimpl.checkpoints import CheckpointError
from torchimpl.training import store, trainer
from torchimpl.training.recipe import recipe


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Training seeds torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        yield


def run(made, folder, **options):
    return store.run(made, folder, images("train", 96), images("test", 50), **options)


def key_of(made):
    """The key of a run that `run` makes."""
    return store.here(store.identify(made), images("train", 96), images("test", 50))


def never(share):
    pytest.fail("trained")


def test_what_has_ended_is_read_and_not_trained_again(tmp_path):
    made = small()
    ended, path = run(made, tmp_path)
    assert path.parent == tmp_path
    again, same = run(made, tmp_path, progress=never, start=lambda: pytest.fail("asked for"))
    assert same == path
    assert networks.fingerprint(again) == networks.fingerprint(ended)
    assert networks.fingerprint(store.read(path, key_of(made))) == networks.fingerprint(ended)


def test_what_has_diverged_is_not_trained_again(tmp_path):
    made = small("plain", rate=1e3, epochs=5)
    ended, _ = run(made, tmp_path)
    assert ended.diverged
    assert run(made, tmp_path, progress=never)[0].diverged == ended.diverged


def test_what_diverges_says_so_once(tmp_path):
    """And not with a warning of every layer whose parameters are NaN then."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended, _ = run(small("plain", "dsq", options={"bits": (1, 1)}, rate=1e3, quantizer_rate=1e3), tmp_path)
    assert ended.diverged


def test_another_recipe_or_key_has_another_file(tmp_path):
    made = small()
    others = [dataclasses.replace(made, **{k: v}) for k, v in (("seed", 1), ("rate", 0.1), ("options", {"width": 3}))]
    paths = {store.path_of(tmp_path, each, store.identify(each)) for each in (made, *others)}
    paths.add(store.path_of(tmp_path, made, "another key"))
    assert len(paths) == 5
    assert store.identify(made) == store.identify(dataclasses.replace(made, profile="embedded"))


def test_other_sources_make_another_run(tmp_path, monkeypatch):
    """Of the suite, or of the package that a network of one's own comes from."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "models.py").write_text("")
    (tmp_path / "alone.py").write_text("")
    made = {name: small(seed=5).as_json() | {"network": f"{name}:make"} for name in ("own.models", "alone")}
    recipes = {name: recipe("smoke", **fields) for name, fields in made.items()}

    def found():
        sources._lines.cache_clear()  # which a process keeps
        importlib.invalidate_caches()
        return {name: store.identify(one) for name, one in recipes.items()}

    before = found()
    assert found() == before
    (folder / "parts.py").write_text("WIDTH = 4")
    assert found() == before  # which nothing imports
    (folder / "models.py").write_text("from own import parts  # a comment")
    now = found()
    assert (now["own.models"] != before["own.models"], now["alone"]) == (True, before["alone"])
    (folder / "models.py").write_text("from own import parts")
    assert found() == now
    (folder / "parts.py").write_text("WIDTH = 5")
    assert found()["own.models"] != now["own.models"]
    (tmp_path / "alone.py").write_text("WIDTH = 4")
    assert found()["alone"] != before["alone"]
    for built_in in ("sys:make", "torch._C:make"):
        assert len(store.identify(recipe("smoke", network=built_in))) == 64  # they have no source
    usual = store.identify(recipe("smoke", method="daq", bits=(1, 1)))
    real = sources._read
    monkeypatch.setattr(sources, "_read", lambda text, package: real(text + b"\nX = 1", package))
    sources._lines.cache_clear()
    assert store.identify(recipe("smoke", method="daq", bits=(1, 1))) != usual
    sources._lines.cache_clear()


def test_a_large_network_can_be_read_again(tmp_path, monkeypatch):
    """What others hand over is bounded tightly, what the suite itself wrote is not."""
    made = small(epochs=1)
    _, path = run(made, tmp_path)
    monkeypatch.setattr(checkpoints, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="not a file of at most"):
        checkpoints.read(path)
    run(made, tmp_path, progress=never)
    monkeypatch.setattr(store, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"not a file of at most .* delete it, to train again"):
        run(made, tmp_path, progress=never)


def test_again_trains_what_has_ended(tmp_path):
    made, shares = small(), []
    ended, path = run(made, tmp_path)
    again, same = run(made, tmp_path, again=True, progress=shares.append)
    assert same == path
    assert (shares[0], shares[-1]) == (0, 1)
    assert networks.fingerprint(again) == networks.fingerprint(ended)


def test_what_fixes_the_bits_beside_the_recipe_has_a_file_of_its_own(tmp_path, monkeypatch):
    made, threads = small(), torch.get_num_threads()
    _, path = run(made, tmp_path)
    torch.set_num_threads(threads + 1)
    try:
        assert run(made, tmp_path)[1] != path
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(torch, "__version__", "another")
    assert run(made, tmp_path)[1] != path
    device = trainer.Device
    assert store.here("key", device=device("cuda:1")) == store.here("key", device=device("cuda:0")) != store.here("key")
    assert store.here("key", device=device("cuda:1", compiled=True)) != store.here("key", device=device("cuda:1"))


@pytest.mark.parametrize("change", ["fewer", "another order", "another label", "other test images"])
def test_other_images_make_another_run(tmp_path, change):
    """Whatever their split calls itself: a part of one goes under the name of the whole."""
    made, (training, test) = small(epochs=1), (images("train", 96), images("test", 50))
    _, path = store.run(made, tmp_path, training, test)
    turned, label = np.r_[1, 0, 2 : len(training.labels)], (training.labels[0] + 1) % 10
    others = {
        "fewer": ({"images": training.images[:80], "labels": training.labels[:80]}, test),
        "another order": ({"images": training.images[turned], "labels": training.labels[turned]}, test),
        "another label": ({"labels": np.r_[label, training.labels[1:]]}, test),
        "other test images": ({}, images("test", 49)),
    }
    fields, tested = others[change]
    assert store.run(made, tmp_path, dataclasses.replace(training, **fields), tested)[1] != path
    assert store.run(made, tmp_path, training, test, progress=never)[1] == path


def test_the_time_of_all_epochs_is_added_up(tmp_path):
    run(small(epochs=2), tmp_path)
    (path,) = tmp_path.glob("*.pt")
    before = store.read(path, key_of(small(epochs=2)))
    before.epochs, before.seconds = 1, 1000.0  # as if it had been killed, after an epoch that took long
    store.write(path, key_of(small(epochs=2)), before)
    ended, _ = run(small(epochs=2), tmp_path)
    assert 1000 < ended.seconds < 1500


def test_the_start_is_asked_for_when_a_run_begins_and_not_when_it_goes_on(tmp_path):
    made, asked = small(epochs=3), []
    weights = trainer.build(small(seed=7)).state_dict()

    def interrupted(share):
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path, start=lambda: asked.append(1) or weights, progress=interrupted)
    ended, _ = run(made, tmp_path, start=lambda: asked.append(2) or weights)
    assert asked == [1]
    whole = trainer.train(made, images("train", 96), images("test", 50), start=weights)
    assert networks.fingerprint(ended) == networks.fingerprint(whole)


def damaged(path, how):
    content = path.read_bytes()
    known = torch.load(path, weights_only=True)
    match how:
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "without its end":
            path.write_bytes(content[:-1])
        case "a bit":
            path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
        case "text":
            path.write_text("weights")
        case "another's pickle":
            path.write_bytes(pickle.dumps({"schema": 1}))
        case "another version":
            torch.save(known | {"schema": store.SCHEMA + 1}, path)
        case "a field less":
            torch.save({name: value for name, value in known.items() if name != "optimizers"}, path)
        case "weights only":
            torch.save(known["model"], path)
        case "another key":
            torch.save(known | {"key": "0" * 64}, path)


DAMAGE = [
    "empty", "half", "without its end", "a bit", "text", "another's pickle", "another version", "a field less",
    "weights only", "another key",
]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_a_file_that_cannot_be_this_run_is_one_line_that_says_what_to_do(how, tmp_path):
    made = small(epochs=1)
    _, path = run(made, tmp_path)
    damaged(path, how)
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as error:
        run(made, tmp_path, progress=never)
    said = str(error.value)
    assert str(path) in said
    assert said.endswith("delete it, to train again")
    assert "\n" not in said
    assert path.read_bytes() == before
    path.unlink()
    run(made, tmp_path)


def test_a_full_disk_leaves_the_last_epoch_and_the_run_goes_on_from_there(tmp_path, monkeypatch):
    made, written, real = small(epochs=4), [], os.fdopen

    class Full:
        """A file on a disk that has room for two epochs."""

        def __init__(self, handle, mode):
            self.stream = real(handle, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def write(self, content):
            written.append(len(content))
            self.stream.write(content[: len(content) // 2] if len(written) > 2 else content)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fdopen", Full)
        with pytest.raises(OSError, match="No space left on device"):
            run(made, tmp_path)
    (path,) = tmp_path.glob("*.pt")
    assert not list(tmp_path.glob(".*.tmp"))
    assert store.read(path, key_of(made)).epochs == 2
    shares = []
    ended, _ = run(made, tmp_path, progress=shares.append)
    assert min(shares) == 0.5
    assert networks.fingerprint(ended) == networks.fingerprint(run(made, tmp_path / "whole")[0])


def test_a_folder_that_cannot_be_made_is_an_oserror_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/runs"):
        run(small(), tmp_path / "file" / "runs")


def test_two_processes_that_want_the_same_run_train_it_once(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([networks.HERE])
    made, pipes, processes = small(epochs=3), [], []
    for _ in range(2):
        receive, send = context.Pipe(duplex=False)
        processes.append(context.Process(target=networks.run, args=(made, tmp_path, send)))
        processes[-1].start()
        send.close()
        pipes.append(receive)
    reported = []
    for process, receive in zip(processes, pipes, strict=True):
        process.join(120)
        assert process.exitcode == 0
        reported.append(0)
        try:
            while receive.recv() is not None:
                reported[-1] += 1
        except EOFError:
            pass
    assert sorted(reported) == [0, 3 * 3 + 1]  # steps, and the end
