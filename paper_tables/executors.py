"""How jobs are executed: one after the other, in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeAlias

from paper_tables.cells import Measurement, Place
from paper_tables.tables import InputError

Report: TypeAlias = Callable[[Place, float], None]
Task: TypeAlias = Callable[[Callable[[float], None]], Measurement | None]
Executor: TypeAlias = Callable[[Mapping[Place, Task], Report], Iterator[tuple[Place, Measurement | None]]]


def in_turn(tasks: Mapping[Place, Task], report: Report) -> Iterator[tuple[Place, Measurement | None]]:
    """Run one task after the other in this process. Executors yield results in any order, each as it ends."""
    for place, task in tasks.items():
        yield place, task(partial(report, place))


def beside(workers: int) -> Executor:
    """Run tasks in processes side by side, each on one thread; with one worker, in this process."""
    return partial(_in_processes, workers) if workers > 1 else in_turn


KEPT = "what had ended is kept, and the same command goes on"
KILLED = f"a worker was killed, perhaps for want of memory: try fewer --workers; {KEPT}"
NICE = 10  # how much a worker stands back for whatever else the machine does
_reports: Any = None  # in a worker: where it reports to


def _begin(reports: Any) -> None:
    global _reports
    _reports = reports
    _use_one_thread()
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _use_one_thread() -> None:
    import torch  # which takes long; a command that trains nothing does without

    torch.set_num_threads(1)


def _end_after(parent: Any) -> None:
    """End this process when its parent has ended, killed or not: nobody waits for a result."""
    parent.join()
    os._exit(1)


def _execute(place: Place, task: Task) -> Measurement | None:
    def report(share: float) -> None:
        _reports.put((place, share))

    return task(report)


def _in_processes(
    workers: int, tasks: Mapping[Place, Task], report: Report
) -> Iterator[tuple[Place, Measurement | None]]:
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(min(workers, len(tasks)), context, _begin, (reports,)) as pool:
        running = {pool.submit(_execute, place, task): place for place, task in tasks.items()}
        try:
            while running:
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                while True:
                    try:
                        place, share = reports.get_nowait()
                    except queue.Empty:
                        break
                    if place in running.values():  # a result may come before the last report
                        report(place, share)
                for future in done:
                    try:
                        found = future.result()
                    except BrokenProcessPool:
                        raise InputError(KILLED) from None
                    yield running.pop(future), found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def on_ray(address: str, device: str = "cpu", *, compiled: bool = False) -> Executor:
    """Run tasks on a Ray cluster, each on one core, and on a card of its own if they are to train on one.

    Its machines have this checkout, the data and the folder of results at the same paths: what a task computes comes
    back to the caller, who writes it; networks that are trained stay in the folder.

    Parameters
    ----------
    address : str
        Of a running cluster, "auto" for the one of this machine, or "local" to start one here.
    device : str
        Where tasks train, as they see it: "cuda" is the card that a task has to itself.
    compiled : bool
        Whether they compile their steps.

    Raises
    ------
    InputError
        If Ray is not installed, or there is no such cluster; if none of its machines has a card, or a machine has not
        what tasks are to train with.
    """
    return partial(_on_ray, address, device, compiled)


def _alone(task: Task, device: str, compiled: bool) -> Measurement | None:
    from torchimpl.training import store

    try:
        store.check_device(device, compiled=compiled)
    except ValueError as error:
        raise InputError(f"a machine of the cluster: {error}") from None
    _use_one_thread()
    return task(lambda share: None)


def _on_ray(
    address: str, device: str, compiled: bool, tasks: Mapping[Place, Task], report: Report
) -> Iterator[tuple[Place, Measurement | None]]:
    if not tasks:
        return
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs the package ray: pip install ray") from None
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no such cluster: {' '.join(str(error).split())[:200]}") from None
    try:
        cards = int(device.startswith("cuda"))
        if cards and not ray.cluster_resources().get("GPU"):  # Ray would wait for one for ever
            raise InputError(f"--device {device}: no machine of the cluster {address} has a GPU")
        remote = ray.remote(num_cpus=1, num_gpus=cards, max_retries=2)(_alone)
        running = {remote.remote(task, device, compiled): place for place, task in tasks.items()}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            try:
                found = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:  # a worker was killed, or its machine is gone
                raise InputError(f"--ray {address}: {' '.join(str(error).split())[:200]}; {KEPT}") from None
            yield running.pop(done), found
    finally:
        ray.shutdown()
