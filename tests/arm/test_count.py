"""`python -m arm count`: ResNet-18's layers, their counts against the numbers that the kernels are to reach."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arm import __main__ as command_line
from arm import build, count, kernels
from arm.count import Layer
from tests.arm.convolutions import needs_emulator
from tests.strategies import QUICK

ROOT = Path(__file__).parents[2]
SMALL = Layer(20, 6, 9, 3, 2, "small")


def run(*arguments: str) -> int:
    return command_line.main(["count", *arguments])


class TestLayers:
    def test_resnet18(self):
        """As torchvision's network has them; the products are those of its convolutions but the first."""
        layers = {layer.name: layer for layer in count.resnet18()}
        assert len(layers) == 19
        assert layers["layer1.0.conv1"].key == (64, 64, 56, 3, 1)
        assert layers["layer2.0.conv1"].key == (64, 128, 56, 3, 2)
        assert layers["layer2.0.conv2"].key == (128, 128, 28, 3, 1)
        assert layers["layer2.0.downsample.0"].key == (64, 128, 56, 1, 2)
        assert layers["layer4.1.conv2"].key == (512, 512, 7, 3, 1)
        parameters = sum(layer.inputs * layer.outputs * layer.kernel**2 for layer in layers.values())
        assert parameters == 11_689_512 - 513_000 - 9_600 - 9_408  # all but classifier, BatchNorm, first convolution

    @pytest.mark.parametrize(("size", "kernel", "stride"), [(56, 3, 1), (56, 3, 2), (56, 1, 2), (7, 3, 2), (5, 5, 3)])
    def test_out_is_how_often_the_kernel_fits(self, size, kernel, stride):
        places = range(-(kernel // 2), size + kernel // 2 - kernel + 1, stride)
        assert Layer(1, 1, size, kernel, stride).out == len(places)


@needs_emulator
class TestCounting:
    @pytest.mark.parametrize("bits", [(8, 8), (4, 4), (2, 2), (1, 2)])
    def test_a_layer_is_packing_convolution_and_requantization(self, tmp_path, bits):
        found = count.count_layer(SMALL, bits, folder=tmp_path)
        x, w = np.zeros((1, 9, 9, 20), np.uint8), np.ones((6, 3, 3, 20), np.uint8)
        sums, convolution = kernels.conv2d(x, w, bits=bits, stride=2, padding=1, count=True)
        if bits == (8, 8):
            _, after = kernels.rescale(sums, 1, shift=3, count=True)
        else:
            _, after = kernels.requantize(sums, np.ones((6, 2 ** bits[1] - 1), int), falling=True, count=True)
        assert found.convolution == convolution
        assert found.requantization == after
        assert found.total.instructions == convolution.instructions + after.instructions
        assert found.weight_bytes == len(kernels.pack_weights(w, bits=bits).data)

    def test_kept_and_read(self, tmp_path, monkeypatch):
        found = count.count_layer(SMALL, (2, 2), folder=tmp_path)
        (kept,) = tmp_path.iterdir()
        with monkeypatch.context() as patch:
            patch.setattr(count, "_count", lambda *_: pytest.fail("counted again"))
            assert count.count_layer(SMALL, (2, 2), folder=tmp_path) == found
        kept.write_text("{")
        assert count.count_layer(SMALL, (2, 2), folder=tmp_path) == found  # a torn file is counted again
        assert json.loads(kept.read_text())["weight_bytes"] == found.weight_bytes

    def test_kept_by_all_that_it_depends_on(self, tmp_path, monkeypatch):
        def names():
            count.count_layer(SMALL, (2, 2), folder=tmp_path)
            return len(list(tmp_path.iterdir()))

        assert names() == 1
        count.count_layer(SMALL, (2, 2), weights="signed", folder=tmp_path)
        count.count_layer(SMALL, (2, 2), batch=2, folder=tmp_path)
        count.count_layer(SMALL, (2, 1), folder=tmp_path)
        count.count_layer(Layer(20, 6, 9, 3, 1), (2, 2), folder=tmp_path)
        assert names() == 5
        count.count_layer(Layer(*SMALL.key, "another name"), (2, 2), folder=tmp_path)
        assert names() == 5
        monkeypatch.setattr(count, "digest", lambda: "another machine code")
        assert names() == 6

    def test_nothing_is_kept_where_nothing_can_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert count.count_layer(SMALL, (2, 2), folder=tmp_path / "file" / "below").total.instructions > 0

    def test_a_layer_that_occurs_twice_is_run_once(self, tmp_path, monkeypatch):
        ran = []
        monkeypatch.setattr(count, "count_layer", lambda layer, *_, **__: ran.append(layer) or len(ran))
        assert count.count_layers([SMALL, Layer(1, 1, 1, 1, 1), SMALL], (2, 2), folder=tmp_path) == [1, 2, 1]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"layer": Layer(0, 6, 9, 3, 1)}, "inputs must be a whole number from 1"),
            ({"layer": Layer(1, 6, 9, 3, 0)}, "stride must be a whole number from 1"),
            ({"batch": 0}, "batch must be"),
            ({"bits": (2, 9)}, "bits must be"),
            ({"weights": "ternary"}, "weights must be one of"),
        ],
    )
    def test_refused(self, tmp_path, change, message):
        arguments = {"layer": SMALL, "bits": (2, 2), "folder": tmp_path} | change
        with pytest.raises(ValueError, match=message):
            count.count_layer(**arguments)


@needs_emulator
class TestResNet18:
    """The sums over ResNet-18, packing and requantization included, that the kernels are to reach."""

    @pytest.mark.parametrize(
        ("width", "millions"),
        [((8, 8), 440), ((1, 1), 110), *([] if QUICK else [((4, 4), 260), ((3, 3), 235), ((2, 2), 210)])],
    )
    def test_instructions(self, tmp_path, width, millions):
        found = count.count_layers(count.resnet18(), width, folder=tmp_path)
        total = sum(one.total.instructions for one in found)
        assert total <= millions * 1e6
        products = sum(layer.products for layer in count.resnet18())
        widest = {8: 16 / 3, 4: 32 / 3, 3: 16, 2: 16, 1: 128 / 3}[width[0]]  # products of an operation on 128 bits
        assert total > products / widest  # as many as there must be


@needs_emulator
class TestCommandLine:
    def test_json(self, tmp_path, capsys):
        assert run("--layer", "20,6,9,3,2", "3,4,5,1,1", "--bits", "2/2", "1/2", "--json", "--out", str(tmp_path)) == 0
        found = json.loads(capsys.readouterr().out)
        assert list(found) == ["2/2", "1/2"]
        first, second = found["2/2"]["layers"]
        one = count.count_layer(SMALL, (2, 2), folder=tmp_path)
        assert first["layer"] == "20,6,9,3,2"
        assert first["products"] == 5 * 5 * 6 * 20 * 9
        assert first["instructions"] == one.total.instructions == sum(first["kinds"].values())
        assert first["modelled_cycles_a53"] == one.total.cycles
        assert first["neon"] == one.total.neon
        for name in ("instructions", "neon", "requantization", "weight_bytes"):
            assert found["2/2"]["sum"][name] == first[name] + second[name]

    def test_tables(self, tmp_path, capsys):
        assert run("--layer", "20,6,9,3,2", "3,4,5,1,1", "--bits", "2/2", "--out", str(tmp_path)) == 0
        title, heads, *rows = capsys.readouterr().out.splitlines()
        assert "modelled" in title
        assert heads.split()[:2] == ["layer", "instructions"]
        assert [row.split()[0] for row in rows] == ["20,6,9,3,2", "3,4,5,1,1", "sum"]
        one = count.count_layer(SMALL, (2, 2), folder=tmp_path)
        assert float(rows[0].split()[1]) == pytest.approx(one.total.instructions / 1e6, abs=5e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--layer", "1,2,3"], "layer must be five whole numbers, as in 64,64,56,3,1, got '1,2,3'"),
            (["--layer", "1,2,3,x,1"], "layer must be five whole numbers"),
            (["--layer", "1,2,3,1,0"], "stride must be a whole number from 1, got 0"),
            (["--layer", "1,2,3,1,1", "--bits", "2"], "bits must be two whole numbers, as in 2/2, got '2'"),
            (["--layer", "1,2,3,1,1", "--bits", "2/9"], "bits must be a whole number from 1 to 8, got 9"),
            (["--layer", "1,2,3,1,1", "--batch", "0"], "batch must be a whole number from 1, got 0"),
        ],
    )
    def test_bad_input(self, capsys, arguments, message):
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {message}")
        assert not captured.out

    @pytest.mark.parametrize("arguments", [[], ["--network", "vgg"], ["--layer", "1,2,3,1,1", "--network", "resnet18"]])
    def test_usage(self, capsys, arguments):
        with pytest.raises(SystemExit) as status:
            run(*arguments)
        assert status.value.code == 2
        assert "usage: python -m arm count" in capsys.readouterr().err

    def test_help_suffices(self, capsys):
        with pytest.raises(SystemExit) as status:
            run("--help")
        assert status.value.code == 0
        text = capsys.readouterr().out
        for word in (
            "--layer",
            "--network",
            "resnet18",
            "--bits",
            "--json",
            "modelled",
            "1/2",
            "sadalp",
        ):
            assert word in text

    def test_missing_toolchain(self, capsys, monkeypatch):
        def missing():
            raise build.MissingToolchainError("no ziglang: pip install quantgap[arm]")

        monkeypatch.setattr(build, "library", missing)
        assert run("--layer", "1,2,3,1,1") == 2
        assert capsys.readouterr().err == "error: no ziglang: pip install quantgap[arm]\n"

    def test_as_a_program(self):
        def started(*arguments):
            command = [sys.executable, "-m", "arm", *arguments]
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

        shown = started("--help")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "count" in shown.stdout
        for wrong in ([], ["counts"]):
            refused = started(*wrong)
            assert (refused.returncode, refused.stdout) == (2, "")
            assert "usage: python -m arm" in refused.stderr

    def test_a_reader_that_has_enough_is_no_error(self):
        """As when it is piped into `head`."""
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "arm", "--help"]
        with subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE) as process:
            os.close(writer)
            assert process.stderr.read() == b""
        assert process.returncode == 141
