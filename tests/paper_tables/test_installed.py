"""What is installed without a checkout: the command, the report's templates, and the recorded results."""

import configparser
import os
import subprocess
import sys
import zipfile

import pytest

from paper_tables import cells, cli
from paper_tables.cells import Cell

pytest.importorskip("setuptools", reason="setuptools is needed to build a wheel")
PACKAGES = ("reference", "torchimpl", "paper_tables", "arm")
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "quantgap_gate.py", *PACKAGES, "results")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel of a copy of the sources, with nothing downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (cells.ROOT / name).exists():
            subprocess.run(["cp", "-R", cells.ROOT / name, folder / name], check=True)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """Unpack the wheel, which is what installing it does."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(site, arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUANTGAP")}
    code = "import sys; sys.argv[0] = 'quantgap'; from paper_tables.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment | {"PYTHONPATH": str(site)}, cwd=cwd, capture_output=True, text=True)


def test_the_command_is_the_command_line(site):
    (entry,) = site.glob("*.dist-info/entry_points.txt")
    points = configparser.ConfigParser()
    points.read(entry)
    assert dict(points["console_scripts"]) == {"quantgap": f"{cli.__name__}:{cli.main.__name__}"}
    assert dict(points["pytest11"]) == {"quantgap_gate": "quantgap_gate"}  # of its own name: loaded once
    assert (site / "quantgap_gate.py").is_file()


def test_every_recorded_result_is_in_the_wheel(site):
    recorded = {path.relative_to(cells.ROOT / "results") for path in (cells.ROOT / "results").rglob("*.json")}
    installed = {path.relative_to(site / "paper_tables/recorded") for path in (site / "paper_tables").rglob("*.json")}
    assert installed == recorded != set()


def test_every_file_that_is_read_is_in_the_wheel(site):
    """Whatever lies beside the modules, but for what only the README shows."""
    for package in PACKAGES:
        kept = subprocess.run(
            ["git", "-C", cells.ROOT, "ls-files", package], capture_output=True, text=True, check=False
        ).stdout.split()
        missing = [
            name for name in kept if not (site / name).is_file() and not name.endswith((".md", ".gitignore", ".png"))
        ]
        assert missing == []


def test_an_installation_shows_the_recorded_results(site, tmp_path, monkeypatch):
    for name in ("QUANTGAP_DATA", "QUANTGAP_CHECKPOINTS"):  # with data, the papers' protocol would be trained
        monkeypatch.delenv(name, raising=False)
    done = run_installed(site, ["--table", "5", "--profile", "cifar10", "--out", "out"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert cli.main(["--table", "5", "--profile", "cifar10", "--out", str(tmp_path / "checkout"), "--quiet"]) == 0
    ours, theirs = (
        {path.name: cells.read(path, Cell) for path in (tmp_path / name / "cells" / "5").iterdir()}
        for name in ("out", "checkout")
    )
    assert ours == theirs
    assert sum(cell.measured is not None for cell in ours.values()) >= 3
    assert "installed, not a checkout" in (tmp_path / "out" / "report.html").read_text()


def test_a_stranger_gates_a_quantizer(site, tmp_path):
    """In a folder of their own, with the command and with pytest, which finds the plug-in by itself."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom reference.contract import of_numpy\n\ndef sign(): return of_numpy(np.sign, bits=1)\n"
    )
    done = run_installed(site, ["gate", "mine:sign"], tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "mine:sign: 1 fails" in done.stdout
    command = ["-m", "pytest", "-q", "--pyargs", "reference.conformance", "--implementation", "mine:sign"]
    done = subprocess.run(
        [sys.executable, *command, "-k", "levels or order", "-p", "no:cacheprovider"],
        env=os.environ | {"PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["gate", "--help"]])
def test_the_command_names_itself(site, arguments, tmp_path):
    done = run_installed(site, arguments, tmp_path)
    assert done.returncode == 0
    words = " ".join(["quantgap", *arguments[:-1]])
    assert done.stdout.startswith(f"usage: {words} [")
