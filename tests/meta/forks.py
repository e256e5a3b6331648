"""Run pytest again and again in fresh processes, importing what takes long only once.

Each line on standard input is the JSON of pytest's arguments and the file for its output; each is answered with the
exit status. The tests run in a fork of this process, which has imported libraries, but nothing of the suite.
"""

import json
import os
import sys

import hypothesis  # noqa: F401
import numba  # noqa: F401
import pytest
import scipy.integrate  # noqa: F401
import torch._dynamo  # noqa: F401


def main() -> None:
    for line in sys.stdin:
        arguments, output = json.loads(line)
        child = os.fork()
        if child == 0:
            target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            status = pytest.main(arguments)
            sys.stdout.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":  # and not where doctest imports this
    main()
