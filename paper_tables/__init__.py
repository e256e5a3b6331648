"""The papers' tables and claims, measured again and set beside what is printed."""

import sys as _sys
from pathlib import Path as _Path
from types import TracebackType as _TracebackType


def _interrupted(kind: type[BaseException], error: BaseException, trace: _TracebackType | None) -> None:
    """Say that an interruption is one, without the traceback; anything else as usual."""
    if issubclass(kind, KeyboardInterrupt):
        _sys.stderr.write("interrupted\n")
    else:
        _sys.__excepthook__(kind, error, trace)


# While Python looks for what "python -m paper_tables..." names, argv[0] is "-m", and the installed command has its own
# name: one of the commands is about to start, and to import for seconds, in which one may think better of it.
if _sys.argv[:1] == ["-m"] or _Path(*_sys.argv[:1]).stem == "quantgap":
    _sys.excepthook = _interrupted
    from paper_tables import in_the_way as _in_the_way

    if _other := _in_the_way.found():
        _sys.stderr.write(f"error: {_other}\n")
        raise SystemExit(2)
