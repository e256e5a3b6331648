"""The recipes are true: each block runs as it stands, in an empty folder; commands have the options that they use."""

import builtins
import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from paper_tables import checkpoint, cli
from tests.paper_tables.test_checkpoint import trained
from tests.strategies import QUICK
from torchimpl import calibrate, quantize_model
from torchimpl.models import resnet20

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "recipes.md").read_text()
RECIPES = {part.split("\n")[0]: part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}


def blocks(recipe, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", RECIPES[recipe], re.DOTALL)


def block(recipe, language="python"):
    (found,) = blocks(recipe, language)
    return found


def run(code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(code, "recipes.md", "exec"), names)
    return names


def test_every_recipe_is_linked_and_has_its_test():
    links = dict(re.findall(r"^- \[(.*)\]\(#(.*)\)$", TEXT, re.MULTILINE))
    assert list(links) == list(RECIPES)
    assert all(re.sub(r"[^a-z ]", "", name.lower()).replace(" ", "-") == link for name, link in links.items())
    assert "docs/recipes.md" in (ROOT / "README.md").read_text()


def test_my_network_my_layers_my_loop(tmp_path, monkeypatch, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = run(block("My network, my layers, my loop"), tmp_path, monkeypatch)
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["layer", "0", "3", "8"]
    assert "keep_ends" in table[1]
    assert "4/4" in table[2]
    assert type(names["model"][3]).__name__ == "QuantConv2d"
    assert (tmp_path / "model.pth").exists()


def test_mixed_bits(tmp_path, monkeypatch):
    model = run(block("Mixed bits"), tmp_path, monkeypatch)["model"]
    bits = {n: m.weight_quantizer.bits for n, m in model.named_modules() if hasattr(m, "weight_quantizer")}
    assert bits["layer1.0.conv1"] == 4
    assert bits["layer3.2.conv1"] == 3
    assert bits["linear"] == 8
    assert bits["layer3.0.conv1"] == 2
    assert "conv1" not in bits
    assert "layer2.0.conv1" not in bits
    assert model.layer2[1].conv1.weight_quantizer.method == "dorefa"


@pytest.mark.skipif(QUICK, reason="takes ten seconds: HYPOTHESIS_PROFILE=ci")
def test_two_ranks(tmp_path):
    (tmp_path / "ranks.py").write_text(block("Two ranks"))
    (command,) = block("Two ranks", "sh").splitlines()
    program, *arguments = command.split()
    assert program == ".venv/bin/torchrun"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    alone = ["--standalone"]  # so that tests side by side do not want one port
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *alone, *arguments], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: tox -e onnx",
)
def test_export(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(block("Export"), tmp_path, monkeypatch)
    assert (tmp_path / "model.onnx").exists()


def test_audit_my_checkpoint(tmp_path, monkeypatch, capsys):
    code = block("Audit my checkpoint")
    kind, text = re.search(r"# (\w+Error): \.\.\. (.*)", code).groups()
    with pytest.raises(getattr(builtins, kind), match=re.escape(text)):
        run(code, tmp_path, monkeypatch)
    (command,) = block("Audit my checkpoint", "sh").splitlines()

    def make():
        model = quantize_model(resnet20(), "lsq", (2, 2))
        return calibrate(model, torch.randn(4, 3, 32, 32))

    model, test = trained(make, "cifar10")
    torch.save(model.state_dict(), tmp_path / "FILE")
    (tmp_path / "DIR").mkdir()
    monkeypatch.setattr(checkpoint.cifar10, "load", lambda root, name: test)
    monkeypatch.chdir(tmp_path)
    arguments = command.removeprefix(".venv/bin/quantgap ").split()
    status = cli.main([*arguments, "--out", str(tmp_path / "out"), "--strict"])
    assert status == 1, capsys.readouterr()  # it has 100 %
    assert "91.7" in capsys.readouterr().out
    arguments[arguments.index("2/2")] = "4/4"
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "saved from lsq(variant=paper, bits=2" in capsys.readouterr().err
