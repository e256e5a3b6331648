"""The C sources made a shared library, once for each state of sources, options and compiler."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("src")
OPTIONS = (
    "-O3",
    "-mcpu=cortex_a53",  # ARMv8.0-A; every 64-bit core runs it
    "-ffreestanding",
    "-fno-builtin",  # no calls of memcpy or memset instead of loops
    "-fno-sanitize=undefined",  # which zig adds
    "-fPIC",
    "-fvisibility=hidden",
    "-shared",
    "-nostdlib",
    "-Wl,-Bsymbolic",
    "-Wl,--no-undefined",
    "-g0",
)
INSTALL = "pip install quantgap[arm]"


class MissingToolchainError(RuntimeError):
    """Nothing here can build the kernels, or run them."""


def on_arm() -> bool:
    """Return whether this process is one of Linux on 64-bit ARM, and can run the kernels itself."""
    return sys.platform == "linux" and platform.machine() == "aarch64" and sys.maxsize > 2**32


def sources() -> list[Path]:
    """Return the C files and headers, sorted by name."""
    return sorted(path for path in FOLDER.iterdir() if path.suffix in (".c", ".h"))


@cache
def library() -> Path:
    """Build the kernels unless that was done, and return the shared library: ELF for 64-bit ARM, without relocations.

    It is kept in a folder of the user's (``$XDG_CACHE_HOME/quantgap``, else ``~/.cache/quantgap``), under a name that
    depends on sources, options and the compiler's version.

    Raises
    ------
    MissingToolchainError
        If there is no compiler: neither the package ziglang, nor, on an ARM host, clang or cc.
    RuntimeError
        If the compiler fails; the message has its output.
    """
    return built(tuple(sources()), compiler())


def compiler() -> tuple[tuple[str, ...], str]:
    """Return the command that compiles for ARM, options included, and which compiler it is.

    Raises
    ------
    MissingToolchainError
        If there is none.
    """
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", *OPTIONS)
        return command, f"ziglang {importlib.metadata.version('ziglang')}"
    if on_arm():
        for name in ("clang", "cc"):
            path = shutil.which(name)
            if path is not None:
                version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
                own = [option.replace("cortex_a53", "cortex-a53") for option in OPTIONS]
                return (path, *own), version
    raise MissingToolchainError(f"ARM kernels need the compiler of the package ziglang: {INSTALL}")


def cache_folder() -> Path:
    """Return the folder for what is built and counted; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantgap"


def built(files: tuple[Path, ...], how: tuple[tuple[str, ...], str]) -> Path:
    """Return the shared library of C files with their headers, by a command, options included, of some version.

    Raises
    ------
    RuntimeError
        If the compiler fails; the message has its output.
    """
    command, version = how
    digest = hashlib.sha256("\0".join([version, *command[1:]]).encode())
    for path in files:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    name = f"kernels-{digest.hexdigest()[:24]}.so"
    folder = cache_folder()
    if (folder / name).is_file():
        return folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = tempfile.mkdtemp(prefix="build-", dir=folder)
    except OSError:  # a home that cannot be written
        folder = Path(tempfile.mkdtemp(prefix="quantgap-"))
        work = tempfile.mkdtemp(prefix="build-", dir=folder)
    try:
        made = Path(work) / name
        inputs = [str(path) for path in files if path.suffix == ".c"]
        own = {"ZIG_GLOBAL_CACHE_DIR": work, "ZIG_LOCAL_CACHE_DIR": work}
        run = subprocess.run(
            [*command, *inputs, "-o", str(made)], capture_output=True, text=True, check=False, env=os.environ | own
        )
        if run.returncode or not made.is_file():
            raise RuntimeError(f"{version} cannot build the ARM kernels:\n{run.stderr[-4000:]}")
        os.replace(made, folder / name)  # whole or not at all, also where two processes build
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder / name
