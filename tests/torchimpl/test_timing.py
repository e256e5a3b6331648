"""Timing: turns, medians, what is counted."""

import threading
import time

import pytest
import torch

from reference import registry
from torchimpl import timing
from torchimpl.quantizers import build


def test_alternatives_take_turns():
    calls = []
    found = timing.medians({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=9, warmup=1)
    rounds = {"".join(calls[i : i + 4]) for i in range(0, len(calls), 4)}
    assert rounds == {"aabb", "bbaa"}
    assert len(calls) == 4 * 10
    assert set(found) == {"a", "b"}
    assert all(seconds >= 0 for seconds in found.values())


def test_whoever_waits_for_quiet_lets_others_compute():
    """While a thread times something for a third of a second; what is counted is this one's processor time."""
    started, ended = threading.Event(), []

    def measure():
        with timing.quiet():
            started.set()
            time.sleep(0.3)
            ended.append(time.monotonic())

    other = threading.Thread(target=measure)
    other.start()
    started.wait()
    before = time.thread_time()
    timing.wait_for_quiet()
    spent, at = time.thread_time() - before, time.monotonic()
    other.join()
    assert at >= ended[0]
    assert spent < 0.05


def test_whoever_waits_for_minutes_says_for_whom(monkeypatch):
    answers = iter([True, True, True, False])
    monkeypatch.setattr(timing.files, "is_locked", lambda path: next(answers))
    monkeypatch.setattr(timing, "LONG", 0.0)
    with pytest.warns(UserWarning, match=f"waiting: a process that times something holds {timing.QUIET}") as said:
        timing.wait_for_quiet()
    assert len(said) == 1


def test_bytes_kept():
    x = torch.randn(1000)
    quantizer = build("ste", bits=2, role="weight")
    assert timing.bytes_kept(quantizer, x) == 4 * 1000 + 2 * 4  # the input, and both ends of the clip range
    assert timing.bytes_kept(lambda leaf: leaf.sin().cos(), x) == 2 * 4 * 1000


def test_the_copy_moves_20_bytes_an_element():
    x, grad = torch.randn(1000), torch.randn(1000)
    copied = timing.copy_of_20_bytes(x, grad)()
    assert copied.numel() * 4 * 2 == 20 * 1000  # read, and written


def test_lowest_bits():
    assert timing.lowest_bits("daq") == (1, 1)
    assert timing.lowest_bits("lsq") == (2, 1)
    assert timing.lowest_bits("pact") == (None, 1)
    assert timing.lowest_bits("irnet") == (1, 1)
    for name in registry.methods():
        timing.training_step(name, timing.lowest_bits(name), batch=2)()
