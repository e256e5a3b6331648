"""``python -m torchimpl.training``: one run from the command line, in this process, on a few digits."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
import torch

from tests.torchimpl import networks
from torchimpl.training import __main__ as command
from torchimpl.training import batches, store, trainer
from torchimpl.training.recipe import recipe


@pytest.fixture(autouse=True)
def few(monkeypatch):
    both = networks.images("train", 96), networks.images("test", 50)
    real = batches.splits
    monkeypatch.setattr(
        command.batches, "splits", lambda images, data: both if images == "digits" else real(images, data)
    )
    monkeypatch.delenv("QUANTGAP_DATA", raising=False)
    with torch.random.fork_rng(devices=[]):
        yield both


def run(out, *arguments):
    return command.main(["--profile", "smoke", "--quiet", "--out", str(out), *arguments])


def files(out):
    return sorted(out.glob("*.pt"))


def test_a_method_is_trained_from_full_precision_by_the_profile_s_recipe(few, tmp_path, capsys):
    assert run(tmp_path, "--method", "daq", "--bits", "1/1", "--epochs", "2", "--seed", "3") == 0
    first = trainer.train(recipe("smoke", seed=3), *few)
    state = trainer.train(recipe("smoke", method="daq", bits=(1, 1), epochs=2, seed=3), *few, start=first.model)
    out = capsys.readouterr().out
    said = re.findall(r"daq 1/1: epoch (\d), loss ([\d.]+), test accuracy ([\d.]+) %", out)
    expected = zip((1, 2), state.loss, state.correct, strict=True)
    assert said == [(str(i), f"{loss:.4f}", f"{100 * correct / 50:.2f}") for i, loss, correct in expected]
    assert len(files(tmp_path)) == 2
    assert all(str(path) in out for path in files(tmp_path))


def test_a_run_that_has_ended_is_read(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, "--method", "lsq", "--bits", "2/2") == 0
    before = capsys.readouterr().out
    monkeypatch.setattr(store.trainer, "train", lambda *_, **__: pytest.fail("trained again"))
    assert run(tmp_path, "--method", "lsq", "--bits", "2/2") == 0
    now = capsys.readouterr().out
    assert now.count(" (trained before; --again trains it anew)\n") == 1
    assert now.replace(" (trained before; --again trains it anew)", "") in before
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run(tmp_path, "--method", "lsq", "--bits", "2/2", "--again")


def test_steps_are_compiled_where_that_is_asked_for(tmp_path, monkeypatch):
    """Compiled code has a file of its own, as its bits are others; a run goes on with the same code."""
    devices = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(store.trainer, "train", lambda *_, device, state, **__: devices.append(device) or state)
    assert run(tmp_path, "--compile") == 0
    assert run(tmp_path) == 0
    assert devices == [("cpu", True), ("cpu", False)]


def test_a_machine_without_a_compiler_is_told_at_once(tmp_path, monkeypatch, capsys):
    def none(*_, **__):
        raise RuntimeError("no working C++ compiler was found\nand more")

    monkeypatch.setattr(torch, "compile", none)
    assert run(tmp_path, "--compile") == 2
    said = "error: --compile: torch.compile does not work here: no working C++ compiler was found\n"
    assert capsys.readouterr().err == said


def test_the_recipe_is_shown_with_where_it_comes_from(tmp_path, capsys):
    assert run(tmp_path, "--method", "dsq", "--rate", "0.5", "--show") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == {field.name for field in dataclasses.fields(recipe("smoke"))} - {"profile"}
    assert re.fullmatch(r"rate +0\.5 +as asked for", lines["rate"])
    assert re.fullmatch(r"bits +\(1, 1\) +the default", lines["bits"])
    assert re.fullmatch(r"method +dsq +as asked for", lines["method"])
    assert re.fullmatch(r"weight_decay +0\.0001 +DAQ, Section 4\.1", lines["weight_decay"])
    assert re.fullmatch(r"penalty +0\.0001 +ours: .*coefficient was not at hand", lines["penalty"])
    assert not files(tmp_path)
    for arguments, words in (([], "the method takes signs"), (["--activation", "hardtanh"], "as asked for")):
        assert run(tmp_path, "--method", "irnet", *arguments, "--show") == 0
        assert re.search(rf"^activation +hardtanh +{words}$", capsys.readouterr().out, re.MULTILINE)


def test_again_trains_the_run_that_is_asked_for_and_not_its_start(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, "--method", "daq") == 0
    capsys.readouterr()
    assert run(tmp_path, "--method", "daq", "--again") == 0
    ended = [line for line in capsys.readouterr().out.splitlines() if ".pt" in line]
    assert ["trained before" in line for line in ended] == [line.startswith("full precision") for line in ended]
    monkeypatch.setattr(store.trainer, "train", interrupted)
    assert run(tmp_path, "--method", "daq", "--again") == 130
    assert "the same command without --again goes on where it was" in capsys.readouterr().err


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_from_new_weights_is_another_run(tmp_path, capsys):
    assert run(tmp_path, "--method", "daq") == 0
    one = capsys.readouterr().out
    assert run(tmp_path, "--method", "daq", "--scratch") == 0
    other = capsys.readouterr().out
    assert len(files(tmp_path)) == 3
    assert one.splitlines()[-1] != other.splitlines()[-1]
    assert "full precision" not in other


def test_a_method_of_signs_gets_a_network_with_signs(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(command, "run", lambda recipe, *_: made.append(recipe))
    for method, bits in (("irnet", "1/1"), ("irnet", "1/32"), ("daq", "1/1")):
        assert run(tmp_path, "--method", method, "--bits", bits) == 0
    assert run(tmp_path, "--method", "irnet", "--bits", "1/32", "--activation", "hardtanh") == 0
    assert [one.activation for one in made] == ["hardtanh", "relu", "relu", "hardtanh"]


def test_options_are_the_methods(tmp_path):
    options = ["--option", "variant=kernel", "--option", "beta=12.5"]
    assert run(tmp_path, "--method", "dasr", "--scratch", *options) == 0
    (path,) = files(tmp_path)
    state = torch.load(path, weights_only=True)["model"]
    assert {float(value) for name, value in state.items() if name.endswith("beta")} == {12.5}


def test_a_network_of_ones_own(tmp_path, capsys):
    assert run(tmp_path, "--network", f"{networks.HERE}:linear") == 0
    assert f"{networks.HERE}:linear: epoch 1" in capsys.readouterr().out
    (path,) = files(tmp_path)
    assert torch.load(path, weights_only=True)["model"]["1.weight"].shape == (10, 64)


BAD = [
    (["--method", "nn"], "method must be one of"),
    (["--method", "daq", "--bits", "9/1"], "bits must be W/A"),
    (["--method", "pact", "--bits", "2/2"], "PACT does not quantize weights"),
    (["--method", "daq", "--option", "gamma"], "--option must be NAME=VALUE, got 'gamma'"),
    (["--network", "nothing.here:make"], "No module named 'nothing'"),
    (["--network", f"{networks.HERE}:none"], "no attribute 'none'"),
    (["--network", "vgg"], "network must be one of"),
    (["--epochs", "0"], "epochs must be a whole number from 1, got 0"),
    (["--device", "gpu"], "--device gpu: "),
    (["--network", f"{networks.HERE}:linear", "--option", "x={1}"], "options must be what JSON can hold"),
    (["--method", "daq", "--option", "foo=1"], "unexpected keyword argument 'foo'"),
    (["--method", "daq", "--network", f"{networks.HERE}:linear"], "makes its own; --option tells it more"),
    (["--activation", "hardtanh", "--network", f"{networks.HERE}:linear"], "--activation hardtanh: "),
    (["--method", "irnet", "--activation", "relu"], "--activation relu: irnet's inputs must have both signs"),
    (["--bits", "2/2"], "--bits is of quantizers: it needs --method"),
    (["--option", "gamma=2"], "--option is of quantizers: it needs --method"),
    (["--network", "resnet20"], "--network resnet20 cannot be trained: "),
    (["--network", "os:getcwd"], "--network os:getcwd cannot be trained: "),
    (["--scratch"], "--scratch is of quantized networks, it needs --method"),
    (["--method", "dasr", "--option", "beta=4", "--option", "beta=12"], "--option beta is given twice"),
    (["--data", "/tmp"], "--data /tmp: smoke trains on digits, which need no folder"),
    (["--profile", "cifar10"], "CIFAR-10 is needed"),
    (["--profile", "cifar10", "--data", "/no/such/folder"], "/no/such/folder"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[-30:])
def test_bad_input_is_one_line_and_status_2(arguments, message, tmp_path, capsys):
    assert run(tmp_path, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_ranks_are_not_taken_for_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(tmp_path) == 2
    assert "under torchrun call torchimpl.training.trainer.train" in capsys.readouterr().err


def test_damaged_files_and_folders_are_one_line_and_status_2(tmp_path, capsys):
    assert run(tmp_path) == 0
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    assert run(tmp_path) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert "delete it, to train again" in err
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error():
    """As when it is piped into `head -1`."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "torchimpl.training", "--profile", "smoke", "--show"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        process.stdout.close()
        assert process.wait(120) == 141
        assert process.stderr.read() == b""


def test_an_interruption_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store.trainer, "train", interrupted)
    assert run(tmp_path) == 130
    assert capsys.readouterr().err == "error: interrupted; the same command goes on where it was\n"
