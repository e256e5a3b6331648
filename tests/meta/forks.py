"""Run pytest again and again in fresh processes, importing what takes long only once.

Each line on standard input is the JSON of pytest's arguments, the file for its output and the seconds that it may take
(0: any), of processor time, as a busy machine must not look like a test that hangs; what waits for ever is ended after
four times that. Each is answered with the exit status, -SIGPROF or -SIGALRM where time ran out. The tests run in a fork
of this process, which has imported libraries, but nothing of the suite.
"""

import contextlib
import gc
import json
import os
import signal
import sys


def prepare() -> None:
    """Import the libraries; within a function, as processes that the tests start import this file, too."""
    import hypothesis.extra.numpy  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import numba
    import numpy as np
    import rich.progress  # noqa: F401
    import scipy.integrate
    import scipy.stats  # noqa: F401
    import torch._dynamo  # noqa: F401

    numba.njit(lambda x: x[0] + 1)(np.ones(1, np.float32))  # the compiler gets ready when it is first used
    gc.freeze()  # pytest collects garbage a few times, and need not look at all of this again


def main() -> None:
    import pytest

    prepare()
    for line in sys.stdin:
        arguments, output, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.alarm(4 * seconds)
            target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            status = pytest.main(arguments)
            sys.stdout.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the tests started and left
        print(status, flush=True)


if __name__ == "__main__":  # and not where doctest imports this
    main()
