"""C headers of layers: compiled with the kernels by others' rules, they compute the simulation's codes."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from arm import __main__ as command
from arm import build, deployment, emulator, export
from reference import exchange
from reference.requantization import IntegerLayer
from tests.arm.convolutions import layers, needs_emulator
from tests.oracles import check_same
from tests.strategies import QUICK
from tests.torchimpl.modules import block_and_input
from torchimpl import checkpoints, evaluation
from torchimpl import deployment as deploying
from torchimpl.data import cifar10
from torchimpl.deployment import integer_block

pytestmark = needs_emulator


def compiled(folder, name, parameters):
    """A shared library of what lies in a folder: the kernels, and a function `run` that includes one of the headers."""
    (folder / "yours.c").write_text(
        f'#include "{name}.h"\n'
        f'__attribute__((visibility("default"))) void run({parameters}) {{ '
        f"{name}({', '.join(word.split('*')[-1] for word in parameters.split(','))}); }}\n"
    )
    command, _version = build.compiler()
    sources = [str(path) for path in sorted(folder.glob("*.c"))]
    made = folder / "yours.so"
    subprocess.run(
        [*command, "-Wall", "-Werror", "-Wno-unused", *sources, "-I", str(folder), "-o", str(made)], check=True
    )
    return made


def run(made, layer, x):
    """What the library makes of codes (N, C, H, W)."""
    image = np.ascontiguousarray(np.moveaxis(x, 1, 3), np.uint8)
    image.flags.writeable = False
    o, height, width = (layer.run(x[:1])).shape[1:]
    sums = np.zeros((1, height, width, o), np.int32)
    work = np.zeros(1 << 20, np.uint8)
    codes = np.zeros(sums.shape, np.uint8)
    arguments = [image, sums, work] + [codes] * (layer.thresholds is not None)
    emulator.call("run", arguments, path=made)
    return np.moveaxis(sums if layer.thresholds is None else codes, 3, 1)


def parameters(layer):
    return "const uint8_t *x,int32_t *sums,uint8_t *work" + ",uint8_t *codes" * (layer.thresholds is not None)


@settings(max_examples=2 if QUICK else 3, suppress_health_check=[HealthCheck.too_slow])
@given(case=layers())
def test_headers_compute_what_the_reference_computes(case, tmp_path_factory):
    layer, x = case
    folder = tmp_path_factory.mktemp("export")
    export.write(folder, {"1x1.of-mine": (layer, x.shape[2:])})
    made = compiled(folder, "layer_1x1_of_mine", parameters(layer))
    check_same(f"{layer}", run(made, layer, x[:1]).astype(np.int64), layer.run(x[:1]))


def test_from_a_released_checkpoint_to_a_library_of_ones_own(tmp_path, cifar10_root, checkpoint_root, capsys):
    """The two commands, a compiler, and the codes and outputs of the network on test images."""
    file = checkpoint_root / "cifar10_W1A1.pth"
    arguments = ["--checkpoint", str(file), "--block", "layer2.0", "--out", str(tmp_path / "block.npz")]
    assert deploying.main(arguments) == 0
    assert command.main(["export", str(tmp_path / "block.npz"), "--out", str(tmp_path / "c")]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in listed][:2] == ["layer2_0_conv1.h", "layer2_0_conv2.h"]
    model = checkpoints.load(checkpoints.read(file), "resnet20_released", "daq", (1, 1))
    images = cifar10.load(cifar10_root, "test").images[:2]
    block, x = block_and_input(model, "layer2.0", evaluation.normalize(images, *checkpoints.NORMALIZATIONS["imagenet"]))
    deployed = integer_block(block)
    stored = exchange.read(tmp_path / "block.npz")
    assert {name: size for name, (_, size) in stored.items()} == {
        "layer2.0.conv1": (32, 32),
        "layer2.0.conv2": (16, 16),
    }
    made = {}
    for name, (layer, _) in stored.items():
        made[name] = compiled(tmp_path / "c", export.identifier(name), parameters(layer)).rename(
            tmp_path / f"{name}.so"
        )

    def by_header(layer, codes):
        name = "layer2.0.conv1" if layer is deployed.first else "layer2.0.conv2"
        return np.concatenate([run(made[name], layer, one[None]) for one in codes])

    inner = block.activation(block.bn1(block.conv1(x)))
    want = block.conv2.input_quantizer.codes(inner).numpy()
    codes = by_header(deployed.first, deployed.input_codes(x))
    check_same("codes between", codes.astype(np.int64), want)
    check_same("outputs", deployed.run(x, by_header).numpy(), block(x).detach().numpy())


def test_sizes_in_the_header_are_those_of_the_buffers():
    layer = IntegerLayer(np.ones((5, 3, 3, 3), np.uint8), -2, 1, (2, 2), 2, 1)
    text = export.header("conv", deployment.pack(layer), (9, 7))
    assert f"CONV_X = {9 * 7 * 3}," in text
    assert f"CONV_SUMS = {5 * 4 * 5 * 4}," in text
    assert "conv: 3 to 5 channels, 3x3, stride 2, padding 1;" in text
    assert "x: codes (1, 9, 7, 3); sums: (1, 5, 4, 5)" in text
    assert f"CONV_X = {2 * 9 * 7 * 3}," in export.header("conv", deployment.pack(layer), (9, 7), batch=2)


def test_deploying_needs_no_torch():
    """Whoever runs kernels on a board, or exports a file, need not have what trained the network."""
    code = "import sys, arm.count, arm.deployment, arm.export, arm.kernels; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=export.build.FOLDER.parents[1])


@pytest.mark.parametrize("name", ["int", "main", "uint8_t", "qg_conv2d", "3x3"])
def test_names_that_c_has_taken_get_a_word_before_them(name, tmp_path):
    layer = IntegerLayer(np.ones((1, 1, 1, 1), np.uint8), -1, 2, (1, 1))
    header = export.write(tmp_path / "out", {name: (layer, (4, 4))})[0]
    assert header.name == f"layer_{name}.h"
    assert f"static void layer_{name}(const uint8_t *x" in header.read_text()


# What is refused


def test_names_that_c_cannot_tell_apart_are_refused(tmp_path):
    layer = IntegerLayer(np.ones((1, 1, 1, 1), np.uint8), -1, 2, (1, 1))
    for names, message in [
        (["a.b", "a_b"], "name must be one of its own in C, in capitals too: a_b.h is there already, got 'a_b'"),
        (["conv", "Conv"], "name must be one of its own in C, in capitals too: conv.h is there already, got 'Conv'"),
        (["frame"], "name must be one of its own in C, in capitals too: frame.h is there already"),
        (["..."], "name must be one with letters or digits"),
    ]:
        with pytest.raises(ValueError, match=message):
            export.write(tmp_path / "out", dict.fromkeys(names, (layer, (4, 4))))
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="extent of the kernel must be"):
        export.header("a", deployment.pack(IntegerLayer(np.ones((1, 1, 3, 3), np.uint8), -1, 2, (1, 1))), (2, 2))


def test_bad_input_is_one_line_and_status_2(tmp_path, capsys):
    layer = IntegerLayer(np.ones((1, 1, 1, 1), np.uint8), -1, 2, (1, 1))
    exchange.write(tmp_path / "net.npz", {"conv": (layer, (4, 4))})
    (tmp_path / "broken.npz").write_bytes(b"PK")
    (tmp_path / "file").write_text("")
    for file, more, message in [
        ("none.npz", [], "No such file or directory"),
        ("broken.npz", [], "no file of integer layers, or damaged"),
        ("net.npz", ["--layer", "other"], "--layer must be one of conv, got 'other'"),
        ("net.npz", ["--out", str(tmp_path / "file")], "File exists"),
    ]:
        arguments = ["export", str(tmp_path / file), "--out", str(tmp_path / "out"), *more]
        assert command.main(arguments) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_some_layers_only(tmp_path, capsys):
    layer = IntegerLayer(np.ones((1, 1, 1, 1), np.uint8), -1, 2, (1, 1))
    exchange.write(tmp_path / "net.npz", {"one": (layer, (4, 4)), "two": (layer, (4, 4))})
    assert command.main(["export", str(tmp_path / "net.npz"), "--layer", "two", "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.h")} == {"two.h", "frame.h"}
    assert "two.h" in capsys.readouterr().out
