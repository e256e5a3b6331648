"""Checkpoints: the public layouts load with equal outputs, everything else is refused in one line."""

import argparse
import hashlib
import itertools
import json
import math
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from reference import registry
from tests.oracles import check_same
from tests.torchimpl.modules import every_method
from torchimpl import checkpoints, pickle_scan
from torchimpl.checkpoints import CheckpointError
from torchimpl.models import ARCHITECTURES, resnet20, resnet20_released


def network(make=resnet20, *arguments, **options):
    """A network with statistics and clip ranges of its own, in test mode; a batch sets them."""
    torch.manual_seed(0)
    model = make(*arguments, **options)
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 16, 16))
    return model.eval()


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
PLAIN = network()
PLAIN_STATE = PLAIN.state_dict()


def outputs(model):
    with torch.no_grad():
        return model(IMAGES).numpy()


def save(path, content):
    torch.save(content, path / "file.pth")
    return path / "file.pth"


def refusal(call, *arguments, **options):
    """The message of a refusal, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message
    assert message.isprintable(), f"{message!r} is not one line of text"
    assert len(message) < 1000
    return message


# Public layouts


def renamed(state, *pairs):
    return {next((name.replace(a, b) for a, b in pairs if a in name), name): value for name, value in state.items()}


LAYOUTS = {
    "plain": PLAIN_STATE,
    "DataParallel": {f"module.{name}": value for name, value in PLAIN_STATE.items()},
    "in state_dict": {"state_dict": PLAIN_STATE, "epoch": 7, "best_acc": 91.4, "arch": "resnet20"},
    "in model": {"model": PLAIN_STATE},
    "in net": {"net": PLAIN_STATE, "acc": 91.4},
    "in model_state_dict": {"model_state_dict": {f"module.{name}": v for name, v in PLAIN_STATE.items()}},
    "fc": renamed(PLAIN_STATE, ("linear.", "fc.")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_public_layouts(layout, tmp_path):
    path = save(tmp_path, LAYOUTS[layout])
    checkpoint = checkpoints.read(path)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.path == path
    model = checkpoints.load(checkpoint, "resnet20")
    assert not model.training
    check_same(f"outputs of {layout}", outputs(model), outputs(PLAIN))


@pytest.mark.parametrize("name", ["shortcut", "downsample"])
def test_projections(name, tmp_path):
    ours = network(shortcut="B")
    state = renamed(ours.state_dict(), (".shortcut.", f".{name}."))
    model = checkpoints.load(checkpoints.read(save(tmp_path, state)), "resnet20")
    check_same(f"outputs with {name}", outputs(model), outputs(ours))


def test_another_number_of_classes_is_another_network(tmp_path):
    checkpoint = checkpoints.read(save(tmp_path, network(classes=100).state_dict()))
    with pytest.raises(checkpoints.CheckpointError, match=r"linear\.weight \(100, 64\) instead of \(10, 64\)"):
        checkpoints.load(checkpoint, "resnet20")


def test_files_older_than_batch_counters(tmp_path):
    state = {name: v for name, v in PLAIN_STATE.items() if not name.endswith("num_batches_tracked")}
    check_same(
        "outputs", outputs(checkpoints.load(checkpoints.read(save(tmp_path, state)), "resnet20")), outputs(PLAIN)
    )


def test_compiled_networks(tmp_path):
    state = {f"module._orig_mod.{name}": v for name, v in PLAIN_STATE.items()}
    check_same(
        "outputs", outputs(checkpoints.load(checkpoints.read(save(tmp_path, state)), "resnet20")), outputs(PLAIN)
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layer1.0.bn1.running_var": -torch.ones(16)}, "layer1.0.bn1.running_var holds a negative variance"),
        ({"fc.bias": torch.zeros(10)}, "linear.bias stands in it twice"),
        ({"module.conv1.weight": torch.zeros(16, 3, 3, 3)}, "conv1.weight stands in it twice"),
    ],
)
def test_values_that_no_network_has(changed, said, tmp_path):
    path = save(tmp_path, {**PLAIN_STATE, **changed})
    with pytest.raises(checkpoints.CheckpointError, match=said):
        checkpoints.load(checkpoints.read(path), "resnet20")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "initialized is False: the network never saw a batch"),
        ({"input_quantizer.upper": torch.tensor(-1.0)}, "input_quantizer.upper is not above"),
    ],
)
def test_quantized_networks_that_cannot_be_used(changed, said, tmp_path):
    state = resnet20("daq", (1, 1)).state_dict()
    if changed:
        state = {name: torch.tensor(True) if name.endswith("initialized") else v for name, v in state.items()}
        state.update({f"layer2.1.conv2.{name}": value for name, value in changed.items()})
    with pytest.raises(checkpoints.CheckpointError, match=said):
        checkpoints.load(checkpoints.read(save(tmp_path, state)), "resnet20", "daq", (1, 1))


@pytest.mark.parametrize("method", [("dorefa", "pact"), ("lsq", "lsq"), ("qnet", "qnet"), ("irnet", "irnet")])
def test_files_without_the_marks_of_first_values(method, tmp_path):
    """They are the suite's own: where all parameters of a quantizer are there, it has them."""
    bits = (1, 1) if method[0] == "irnet" else (2, 2)
    ours = network(resnet20, method, bits)
    state = {name: v for name, v in ours.state_dict().items() if not name.endswith("initialized")}
    checkpoint = checkpoints.read(save(tmp_path, state))
    check_same(f"{method}", outputs(checkpoints.load(checkpoint, "resnet20", method, bits)), outputs(ours))


def test_signs_behind_relu_are_refused_and_behind_hardtanh_are_not(tmp_path):
    checkpoint = checkpoints.read(save(tmp_path, network(resnet20, "irnet", (1, 1)).state_dict()))
    bits = (1, 1)
    assert checkpoints.load(checkpoint, "resnet20", "irnet", bits).activation is F.hardtanh
    assert checkpoints.load(checkpoint, "resnet20", "irnet", bits, "hardtanh").activation is F.hardtanh
    assert "must have both signs, and ReLU leaves one" in refusal(
        checkpoints.load, checkpoint, "resnet20", "irnet", bits, "relu"
    )
    assert refusal(checkpoints.load, checkpoint, "resnet20", None, (None, None), "tanh").startswith(
        "activation must be one of relu, hardtanh, got 'tanh'"
    )


def nested_tuples(depth):
    """A pickle of a dict whose key is a tuple of a tuple of ..., each held twice: 2^depth hashes."""
    content = b"\x80\x02}" + b"K\x01\x85q\x00"
    for i in range(depth):
        content += b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])  # fetch, TUPLE2, store
    return content + b"K\x01s."


@pytest.mark.parametrize("zipped", [True, False])
def test_tuples_that_take_for_ever_to_hash_are_refused_unread(zipped, tmp_path):
    path = tmp_path / "file.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", nested_tuples(40))
            archive.writestr("archive/version", "3")
    else:
        path.write_bytes(nested_tuples(40))
    with pytest.raises(checkpoints.CheckpointError, match="tuples nested over 8 deep"):
        checkpoints.read(path)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.tuples(x, x) | st.dictionaries(st.text(), x)
    )
)
def test_the_depth_of_tuples_is_counted_as_they_nest(value):
    def depth(value):
        if isinstance(value, tuple):
            return 1 + max(map(depth, value))
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return max(map(depth, parts), default=0)

    for protocol in (0, 1, 2, 4):
        refused = pickle_scan.pickle_problem(pickle.dumps(value, protocol), 1) != ""
        # A tuple in a list in a tuple counts from the list on: lists cannot be hashed.
        assert not refused or depth(value) > 8


@pytest.mark.parametrize("depth", [1, 7, 8, 9, 20])
def test_tuples_may_nest_8_deep(depth):
    value = ()
    for _ in range(depth - 1):
        value = (value,)
    assert (pickle_scan.pickle_problem(pickle.dumps(value, 2), 1) != "") == (depth > 8)


def test_half_precision_files(tmp_path):
    state = {name: v.half() if v.is_floating_point() else v for name, v in PLAIN_STATE.items()}
    model = checkpoints.load(checkpoints.read(save(tmp_path, state)), "resnet20")
    check_same("linear.bias", model.linear.bias.detach().numpy(), PLAIN_STATE["linear.bias"].half().float().numpy())


def test_old_files_without_an_archive(tmp_path):
    torch.save(PLAIN_STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model = checkpoints.load(checkpoints.read(tmp_path / "old.pth"), "resnet20")
    check_same("outputs of an old file", outputs(model), outputs(PLAIN))


@every_method
@pytest.mark.parametrize(("arch", "bits"), [("resnet20", (2, 2)), ("resnet20_released", (1, None))])
def test_the_suites_own_networks(method, bits, arch, tmp_path):
    make = {"resnet20": resnet20, "resnet20_released": resnet20_released}[arch]
    known = registry.method(method)
    bits = tuple(
        None if b is None or role not in known.bits else min(max(b, known.admitted(role)[0]), known.admitted(role)[-1])
        for role, b in zip(("weight", "activation"), bits, strict=True)
    )
    ours = network(make, method, bits)
    model = checkpoints.load(checkpoints.read(save(tmp_path, ours.state_dict())), arch, method, bits)
    check_same(f"outputs of {method} {bits}", outputs(model), outputs(ours))
    with torch.no_grad():  # what is loaded is set: a batch in training mode leaves it
        before = {name: value.clone() for name, value in model.named_parameters()}
        model.train()(3 * IMAGES)
    for name, value in model.named_parameters():
        check_same(name, value.detach().numpy(), before[name].numpy())


def said(content):
    """What a quantizer's state says, as bytes."""
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


def test_a_file_says_which_variant_and_options_its_quantizers_have(tmp_path):
    ours = network(resnet20, "daq", (2, 2), variant="released", gamma=3.0)
    model = checkpoints.load(checkpoints.read(save(tmp_path, ours.state_dict())), "resnet20", "daq", (2, 2))
    quantizers = (model.layer1[0].conv1.weight_quantizer, model.layer1[0].conv1.input_quantizer)
    assert [(q.variant, q.gamma) for q in quantizers] == [("released", 3.0)] * 2
    check_same("outputs", outputs(model), outputs(ours))


def test_other_bits_than_a_file_says_are_refused(tmp_path):
    file = checkpoints.read(save(tmp_path, network(resnet20, "lsq", (2, 2)).state_dict()))
    message = refusal(checkpoints.load, file, "resnet20", "lsq", (4, 4))
    assert "layer1.0.conv1.weight_quantizer: saved from lsq(variant=paper, bits=2" in message
    assert "loaded into lsq(variant=paper, bits=4" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(9999, dtype=torch.uint8), "has 9999 bytes; at most 4096"),
        (torch.tensor([123, 34], dtype=torch.uint8), "settings in the state are damaged"),
        (said({"method": "daq", "gamma": ["x"]}), "what it says of its quantizers builds none"),
        (said({"method": "daq", "variant": {"a": "\n"}}), "what it says of its quantizers builds none"),
        (said({"method": "daq", "bits": 3, "role": "a\nb" * 500}), "saved from daq"),
        (torch.tensor([1.0, 2.0]), "settings in the state are damaged"),
    ],
)
def test_what_a_file_says_of_its_quantizers_is_not_trusted(content, message, tmp_path):
    state = {**DAQ_STATE, "layer1.0.conv1.weight_quantizer._extra_state": content}
    path = save(tmp_path, state)
    assert message in refusal(lambda: checkpoints.load(checkpoints.read(path), "resnet20", "daq", (2, 2)))


DAQ_STATE = network(resnet20, "daq", (2, 2)).state_dict()


# The released layout


def released(ours, *, activations=True):
    """The state of a network of ours, as DAQ's authors name it."""
    leaves = {
        "weight_quantizer.lower": "lW",
        "weight_quantizer.upper": "uW",
        "input_quantizer.upper": "uA",
        "scale": "beta",
    }
    found = {f"bn1.{leaf}": torch.ones(16) for leaf in ("weight", "bias", "running_mean", "running_var")}
    for name, value in ours.state_dict().items():
        if name.endswith(("initialized", "input_quantizer.lower", "_extra_state")):  # theirs says nothing of itself
            continue
        for ending, leaf in leaves.items():
            if name.endswith(f".{ending}"):
                name = name.removesuffix(ending) + leaf
        if name.startswith("layer"):
            stage, block, rest = name.split(".", 2)
            name = f"{stage}.block_{block}.0.{rest}"
        found[name] = value
        if name.endswith(".beta"):
            found[name.replace(".beta", ".init")] = torch.tensor(0.0)
            if not activations:  # full precision: bounds that were never set
                found[name.replace(".beta", ".uA")] = torch.tensor(2.0**31)
                found[name.replace(".beta", ".lA")] = torch.tensor(-(2.0**32))
    return {"state_dict": found, "optimizer_dict": {}, "epoch": 399, "step": 78400}


@pytest.mark.parametrize("bits", [(None, None), (1, 1), (2, 3), (1, None)])
def test_released_layout(bits, tmp_path):
    method = None if bits == (None, None) else "daq"
    ours = network(resnet20_released, method, bits, **({"variant": "released"} if method else {}))
    content = released(ours, activations=bits[1] is not None)
    assert "layer2.block_0.0.conv1.weight" in content["state_dict"]
    model = checkpoints.load(checkpoints.read(save(tmp_path, content)), "resnet20_released", method, bits)
    check_same(f"outputs of {bits}", outputs(model), outputs(ours))
    if method:
        assert model.layer1[0].conv1.weight_quantizer.variant == "released"
        assert bool(model.layer1[0].conv1.scale_initialized)


def test_a_large_activation_bound_is_a_learned_one(tmp_path):
    ours = network(resnet20_released, "daq", (1, 1), variant="released")
    with torch.no_grad():
        ours.layer1[0].conv1.input_quantizer.upper.fill_(1000.0)
    path = save(tmp_path, released(ours))
    model = checkpoints.load(checkpoints.read(path), "resnet20_released", "daq", (1, 1))
    assert model.layer1[0].conv1.input_quantizer.upper.item() == 1000


def test_the_released_files(checkpoint_root):
    for name, method, bits in [("fp", None, (None, None)), ("W1A1", "daq", (1, 1)), ("W1A32", "daq", (1, None))]:
        model = checkpoints.load(
            checkpoints.read(checkpoint_root / f"cifar10_{name}.pth"), "resnet20_released", method, bits
        )
        assert np.isfinite(outputs(model)).all()
        if method:
            conv = model.layer1[0].conv1
            assert set(np.unique(conv.quantized_weight().detach().numpy())) == {-1, 1}
            assert -3.5 < conv.weight_quantizer.lower < -2 < 2 < conv.weight_quantizer.upper < 3.5


def test_a_released_file_of_other_bits(checkpoint_root):
    message = refusal(
        checkpoints.load, checkpoints.read(checkpoint_root / "cifar10_fp.pth"), "resnet20_released", "daq", (1, 1)
    )
    assert "missing: layer1.0.conv1.scale" in message


# The layout of APoT's code


def literal_apot(state, images, bits):
    """The released network, written out: each quantizer by the nearest of all sums, both ends with 8-bit weights."""

    def nearest(u, grid):
        return grid[(u.unsqueeze(-1) - grid).abs().argmin(-1)]

    def grid(bits):  # 1: binary; 2: one term; 3: two terms, the second with one choice
        some = {
            1: [0, 1],
            2: [0, 1 / 8, 1 / 4, 1 / 2],
            3: [a + b for a in (0, 1 / 2, 1 / 4, 1 / 16) for b in (0, 1 / 8)],
        }
        return torch.tensor(sorted(value / max(some[bits]) for value in some[bits]))

    def ends(weight):
        return (weight / weight.max() * 127).round() / 127 * weight.max()

    def conv(x, name, stride):
        weight, alpha = state[f"{name}.weight"], state[f"{name}.weight_quant.wgt_alpha"]
        u = ((weight - weight.mean()) / weight.std() / alpha).clamp(-1, 1)
        weight = nearest(u.abs(), grid(bits - 1)) * u.sign() * alpha
        alpha = state[f"{name}.act_alpha"]
        x = nearest((x / alpha).clamp(max=1), grid(bits)) * alpha
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x, name):
        leaves = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{leaf}"] for leaf in leaves))

    x = norm(F.conv2d(images, ends(state["conv1.weight"]), padding=1), "bn1").relu()
    for stage, block in itertools.product((1, 2, 3), range(3)):
        name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        out = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
        out = norm(conv(out, f"{name}.conv2", 1), f"{name}.bn2")
        if stride == 2:
            x = norm(conv(x, f"{name}.downsample.0", 2), f"{name}.downsample.1")
        x = (out + x).relu()
    return F.linear(x.mean((2, 3)), ends(state["fc.weight"]), state["fc.bias"])


def apot_state(bits):
    """Parameters for that network, not ours renamed: shapes by its layers, values at random."""
    torch.manual_seed(bits)
    state = {"conv1.weight": torch.randn(16, 3, 3, 3) / 5, "fc.weight": torch.randn(10, 64), "fc.bias": torch.randn(10)}

    def conv(name, channels, inputs, size):
        state[f"{name}.weight"] = torch.randn(channels, inputs, size, size)
        state[f"{name}.weight_quant.wgt_alpha"] = torch.rand(()) * 2 + 1
        state[f"{name}.act_alpha"] = torch.rand(()) + 1

    def norm(name, channels):
        values = (torch.randn(channels), torch.rand(channels) + 50, torch.rand(channels) + 0.5, torch.randn(channels))
        leaves = ("running_mean", "running_var", "weight", "bias")
        state.update({f"{name}.{leaf}": value for leaf, value in zip(leaves, values, strict=True)})

    norm("bn1", 16)
    channels = 16
    for stage, block in itertools.product((1, 2, 3), range(3)):
        name, wider = f"layer{stage}.{block}", 8 * 2**stage
        conv(f"{name}.conv1", wider, channels, 3)
        conv(f"{name}.conv2", wider, wider, 3)
        norm(f"{name}.bn1", wider)
        norm(f"{name}.bn2", wider)
        if wider != channels:
            conv(f"{name}.downsample.0", wider, channels, 1)
            norm(f"{name}.downsample.1", wider)
        channels = wider
    return state


@pytest.mark.parametrize("bits", [2, 3])
def test_apots_layout_is_its_network_written_out(bits, tmp_path):
    state = apot_state(bits)
    content = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "best_prec": 90.96}
    model = checkpoints.load(checkpoints.read(save(tmp_path, content)), "resnet20_apot", "apot", (bits, bits))
    expected = literal_apot(state, IMAGES, bits)
    with torch.no_grad():
        found = model(IMAGES)
    assert float(expected.std()) > 1
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_ends_that_the_suite_trained_are_not_rounded(tmp_path):
    ours = network(ARCHITECTURES["resnet20_apot"], "lsq", (2, 2))
    read = checkpoints.read(save(tmp_path, ours.state_dict()))
    check_same("logits", outputs(checkpoints.load(read, "resnet20_apot", "lsq", (2, 2))), outputs(ours))


def test_8_bit_ends_without_a_positive_weight_are_refused(tmp_path):
    state = {**apot_state(2), "fc.weight": -torch.ones(10, 64)}
    message = refusal(checkpoints.load, checkpoints.read(save(tmp_path, state)), "resnet20_apot", "apot", (2, 2))
    assert "linear.weight has no positive weight" in message


def test_deeper_networks_are_told_apart(tmp_path):
    deeper = network(ARCHITECTURES["resnet32"])
    path = save(tmp_path, deeper.state_dict())
    model = checkpoints.load(checkpoints.read(path), "resnet32")
    check_same("outputs of ResNet-32", outputs(model), outputs(deeper))
    assert "unexpected: layer1.3.conv1.weight" in refusal(checkpoints.load, checkpoints.read(path), "resnet20")


# Files that are no checkpoints


class Hostile:
    """Unpickled carelessly, it makes a folder; or a file, by a function of torch, which only torch's reader refuses."""

    def __init__(self, target, by):
        self.target, self.by = str(target), by

    def __reduce__(self):
        return self.by, ((self.target,) if self.by is os.mkdir else (0, self.target))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("by", [os.mkdir, torch.save])
def test_a_hostile_pickle_does_nothing(by, archive, tmp_path):
    target = tmp_path / "made by the file"
    content = {"state_dict": PLAIN_STATE, "note": Hostile(target, by)}
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=archive)
    assert "refused, holds more than tensors" in refusal(checkpoints.read, tmp_path / "file.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Hostile(target, by)))
    refusal(checkpoints.read, tmp_path / "bare.pth")
    assert not target.exists()


def test_a_missing_file(tmp_path):
    assert refusal(checkpoints.read, tmp_path / "no.pth").endswith("no.pth: no such file")


def test_a_folder(tmp_path):
    assert "not a file" in refusal(checkpoints.read, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"PK\x03\x04garbage", b"\x80\x02.", b"<html>moved</html>", bytes(512)]
)
def test_garbage(content, tmp_path):
    (tmp_path / "file.pth").write_bytes(content)
    refusal(checkpoints.read, tmp_path / "file.pth")


@pytest.mark.parametrize("archive", [True, False])
def test_truncated_files(archive, tmp_path):
    torch.save(PLAIN_STATE, tmp_path / "file.pth", _use_new_zipfile_serialization=archive)
    whole = (tmp_path / "file.pth").read_bytes()
    for size in [1, 100, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "file.pth").write_bytes(whole[:size])
        refusal(checkpoints.read, tmp_path / "file.pth")


def test_an_archive_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "file.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**21))
    assert (tmp_path / "file.pth").stat().st_size < 2**20
    assert "unpacks to 2097152 bytes" in refusal(checkpoints.read, tmp_path / "file.pth")
    (tmp_path / "file.pth").write_bytes(bytes(2**20 + 1))
    assert "not a file of at most 1 MiB" in refusal(checkpoints.read, tmp_path / "file.pth")


def archive_of(path, *entries, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path / "file.pth", "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path / "file.pth"


MANY = pickle_scan.MAX_OPCODES + 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes(pickle_scan.MAX_PICKLE + 1), "holds a pickle of 4194305 bytes; at most 4194304 are admitted"),
        (b"\x80\x02" + b"]" * MANY, "its pickles have over 500000 opcodes"),
        (b"\x80\x02]" + b"q\x00h\x00" * MANY, "its pickles have over 500000 opcodes"),
        # A tuple of a thousand times a tuple of a thousand times ...: eight deep, a thousand^8 hashes.
        (b"\x80\x02)q\x00" + b"".join(b"(" + b"h%c" % i * 1000 + b"tq%c" % (i + 1) for i in range(7)), "tuples nested"),
        (b"\x80\x02)" + b"2\x86" * 40, "tuples nested over 8 deep"),  # DUP, TUPLE2
    ],
)
def test_a_small_file_does_not_become_a_large_one(content, reason, tmp_path):
    path = archive_of(tmp_path, ("archive/data.pkl", content), method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    assert reason in refusal(checkpoints.read, path)


def test_the_pickles_of_an_old_file_are_counted_together(tmp_path):
    (tmp_path / "file.pth").write_bytes((b"\x80\x02" + b"]" * (MANY // 2) + b".") * 5)
    assert "its pickles have over 500000 opcodes" in refusal(checkpoints.read, tmp_path / "file.pth")


def test_an_archive_of_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_scan, "MAX_ENTRIES", 20)
    many = archive_of(tmp_path, *((f"archive/{i}", b"") for i in range(21)))
    assert "has over 20 entries" in refusal(checkpoints.read, many)
    checkpoint = checkpoints.read(save(tmp_path, {"a": torch.ones(1)}))
    assert list(checkpoint.state) == ["a"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(tmp_path):
    path = archive_of(tmp_path, ("archive/data.pkl", b"}."), ("archive/data.pkl", nested_tuples(40)))
    assert "has two entries of one name" in refusal(checkpoints.read, path)


def test_an_archive_behind_a_pickle_does_not_hide_it(tmp_path):
    """Torch goes by the first bytes, and what asks for an archive anywhere in a file finds the one at its end."""
    harmless = save(tmp_path, PLAIN_STATE).read_bytes()
    (tmp_path / "file.pth").write_bytes(nested_tuples(16) + harmless)
    assert "tuples nested over 8 deep" in refusal(checkpoints.read, tmp_path / "file.pth")


def test_every_bit_of_an_archive_is_checked(tmp_path):
    """A wrong bit in a tensor's bytes leaves a readable file, and another accuracy."""
    whole = save(tmp_path, PLAIN_STATE).read_bytes()
    with zipfile.ZipFile(tmp_path / "file.pth") as archive:
        names = [entry.filename for entry in archive.infolist() if entry.file_size]
    for name in names:
        with zipfile.ZipFile(tmp_path / "file.pth") as archive:
            content = archive.read(name)
        at = whole.index(content)
        (tmp_path / "bad.pth").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refusal(checkpoints.read, tmp_path / "bad.pth")
    assert len(names) > 100
    weights = PLAIN_STATE["layer3.2.conv2.weight"].numpy().tobytes()
    at = whole.index(weights) + 1000
    (tmp_path / "bad.pth").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    message = refusal(checkpoints.read, tmp_path / "bad.pth")
    assert "damaged, or not whole: Bad CRC-32 for file 'file/data/" in message


def test_a_pickled_module_is_named_with_the_remedy(tmp_path):
    for content in (PLAIN, {"net": PLAIN, "epoch": 3}):
        message = refusal(checkpoints.read, save(tmp_path, content))
        assert "a pickled module, torchimpl.models.resnet.ResNet: save its state_dict" in message


def test_other_objects_are_named(tmp_path):
    content = {"state_dict": PLAIN_STATE, "args": argparse.Namespace(lr=0.1)}
    message = refusal(checkpoints.read, save(tmp_path, content))
    assert "refused, holds more than tensors and plain containers: argparse.Namespace; save the state_dict" in message


def test_a_torchscript_program_is_named(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "file.pt"))
    assert "is a TorchScript program: save the state_dict" in refusal(checkpoints.read, tmp_path / "file.pt")


def test_a_tar_archive_is_named(tmp_path):
    with tarfile.open(tmp_path / "file.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    assert "is a tar archive" in refusal(checkpoints.read, tmp_path / "file.tar")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer, which stands for"),
        (b"<!DOCTYPE html><html>moved</html>", "a web page"),
        (b"  <html>moved</html>", "a web page"),
        (b"epoch,accuracy\n1,91.2\n", "text, which begins with 'epoch,accuracy 1,91.2'"),
        ("Größe ".encode() * 200, "text, which begins with 'Größe Größe"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (b"\x1f\x8b\x08\x00" + bytes(99), "a gzip archive: unpack it"),
    ],
)
def test_other_files_are_named(content, kind, tmp_path):
    (tmp_path / "file.pth").write_bytes(content)
    assert f"file.pth: no checkpoint but {kind}" in refusal(checkpoints.read, tmp_path / "file.pth")


def test_a_state_dict_of_many_names_for_one_storage(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 2**20)
    storage = torch.zeros(2**16)
    path = save(tmp_path, {f"name{i}": storage for i in range(9)})
    assert path.stat().st_size < 2**19
    assert "name4 claims more elements than a file of 1 MiB holds" in refusal(checkpoints.read, path)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool])
def test_integers_are_no_weights(kind, tmp_path):
    state = {**PLAIN_STATE, "layer1.0.conv1.weight": torch.ones(16, 16, 3, 3, dtype=kind)}
    name = str(kind).removeprefix("torch.")
    message = refusal(read_and_load, save(tmp_path, state))
    assert f"layer1.0.conv1.weight holds {name}, not real numbers" in message


def test_numbers_beyond_the_networks_type(tmp_path):
    state = {**PLAIN_STATE, "linear.bias": torch.full((10,), 1e300, dtype=torch.float64)}
    assert "linear.bias holds numbers beyond the range of torch.float32" in refusal(
        read_and_load, save(tmp_path, state)
    )


@pytest.mark.parametrize("name", ["state_dict", "model", "net", "weights", "params", "ema", "model_ema"])
def test_usual_names_for_a_state_dict(name, tmp_path):
    found = checkpoints.read(save(tmp_path, {"epoch": 3, name: PLAIN_STATE}))
    assert found.state.keys() == PLAIN_STATE.keys()
    assert (found.entry, found.others) == ("", "")


def test_of_two_state_dicts_the_first_is_taken_and_both_are_named(tmp_path):
    found = checkpoints.read(save(tmp_path, {"ema": {"a": torch.ones(1)}, "model": {"a": torch.zeros(1)}}))
    assert float(found.state["a"]) == 0
    assert (found.entry, found.others) == ("model", "ema")


def test_another_file_than_expected(tmp_path):
    path = save(tmp_path, PLAIN_STATE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoints.read(path, sha256=digest).sha256 == digest
    assert f"has sha256 {digest}" in refusal(checkpoints.read, path, sha256="0" * 64)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "holds no state_dict but a list"),
        ({}, "holds no state_dict but a dict"),
        (torch.ones(1), "holds no state_dict but a Tensor"),
        ({"state_dict": {}}, "holds no state_dict"),
        ({"conv1.weight": [1.0]}, "entry 'conv1.weight' is a list, not a tensor"),
        ({"state_dict": {"conv1": {"weight": torch.ones(1)}}}, "entry 'conv1' is a dict, not a tensor"),
        ({"a": 1, "b": torch.ones(1)}, "entry 'a' is a int, not a tensor"),
        ({1: torch.ones(1)}, "entry 1 is a Tensor"),
    ],
)
def test_files_without_a_state_dict(content, reason, tmp_path):
    assert reason in refusal(checkpoints.read, save(tmp_path, content))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(value, tmp_path):
    state = {**PLAIN_STATE, "layer1.0.bn1.bias": torch.full((16,), value)}
    assert "layer1.0.bn1.bias holds NaN or infinity" in refusal(checkpoints.read, save(tmp_path, state))


def read_and_load(path, arch="resnet20"):
    return checkpoints.load(checkpoints.read(path), arch)


ODD = {
    "sparse": torch.eye(16).to_sparse(),
    "without data": torch.empty(16, device="meta"),
    "8-bit float": torch.ones(16).to(torch.float8_e4m3fn),
    "complex": torch.ones(16, dtype=torch.complex64),
    "a petabyte by strides": torch.zeros(1).expand(2**48),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors(kind, tmp_path):
    message = refusal(read_and_load, save(tmp_path, {**PLAIN_STATE, "layer1.0.bn1.bias": ODD[kind]}))
    assert "layer1.0.bn1.bias" in message


def test_names_cannot_break_the_line(tmp_path):
    for name in ["a\nb", "a\x1b[2Jb", "a\rb", "a" * 10**5]:
        for value in (1.0, math.nan):
            refusal(read_and_load, save(tmp_path, {**PLAIN_STATE, name: torch.tensor(value)}))


# Checkpoints of other networks


def without(state, *prefixes):
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        (without(PLAIN_STATE, "linear."), ["2 missing: linear.weight, linear.bias"]),
        (without(PLAIN_STATE, "linear.", "conv1."), ["3 missing: conv1.weight, linear.weight, linear.bias"]),
        (without(PLAIN_STATE, "layer3.0.bn1."), ["missing: layer3.0.bn1.weight", "more"]),
        (without(PLAIN_STATE, "layer3."), ["missing: layer3.0.conv1.weight", "more"]),
        ({**PLAIN_STATE, "extra.weight": torch.ones(1)}, ["1 unexpected: extra.weight"]),
        (
            {**PLAIN_STATE, "conv1.weight": torch.ones(16, 3, 5, 5)},
            ["1 of another shape: conv1.weight (16, 3, 5, 5) instead of (16, 3, 3, 3)"],
        ),
        ({**PLAIN_STATE, "linear.bias": torch.ones(3, 3)}, ["of another shape: linear.bias"]),
        ({"a": torch.ones(1)}, ["missing: conv1.weight", "1 unexpected: a"]),
    ],
)
def test_other_networks(state, reasons, tmp_path):
    message = refusal(read_and_load, save(tmp_path, state))
    assert "not a checkpoint of resnet20; " in message
    for reason in reasons:
        assert reason in message


def test_a_full_precision_file_is_not_a_quantized_one(tmp_path):
    checkpoint = checkpoints.read(save(tmp_path, PLAIN_STATE))
    message = refusal(checkpoints.load, checkpoint, "resnet20", "daq", (1, None))
    assert "not a checkpoint of resnet20 with daq 1/32" in message
    assert "missing: layer1.0.conv1.scale" in message


def test_the_two_architectures_are_told_apart(tmp_path):
    assert "bn2" in refusal(read_and_load, save(tmp_path, PLAIN_STATE), "resnet20_released")
    other = network(resnet20_released).state_dict()
    assert "unexpected: bn2" in refusal(read_and_load, save(tmp_path, other), "resnet20")


@pytest.mark.parametrize(
    ("entry", "value", "reason"),
    [
        ("layer1.block_0.0.conv1.lA", torch.tensor(-1.5), "lA = -1.5 was learned"),
        ("layer1.block_0.0.conv1.lA", torch.ones(2), "layer1.0.conv1.lA"),
        ("layer1.block_0.0.conv1.uA", torch.ones(2), "layer1.0.conv1"),
        ("layer1.block_0.0.conv1.uA", torch.ones(0), "layer1.0.conv1"),
        ("layer4.block_0.0.conv1.weight", torch.ones(2), "unexpected: layer4.block_0.0.conv1.weight"),
        ("loose", torch.ones(2), "unexpected: loose"),
    ],
)
def test_odd_entries_of_the_released_layout(entry, value, reason, tmp_path):
    state = {**released(network(resnet20_released))["state_dict"], entry: value}
    assert reason in refusal(read_and_load, save(tmp_path, state), "resnet20_released")


def test_an_entry_that_stands_twice_in_the_released_layout_is_refused(tmp_path):
    state = released(network(resnet20_released))["state_dict"]
    name = "layer1.block_0.0.conv1.weight"
    state |= {"layer1.0.conv1.weight": state[name]}
    assert "layer1.0.conv1.weight stands in it twice" in refusal(
        read_and_load, save(tmp_path, state), "resnet20_released"
    )


def test_unknown_architectures(tmp_path):
    checkpoint = checkpoints.read(save(tmp_path, PLAIN_STATE))
    assert refusal(checkpoints.load, checkpoint, "resnet18").startswith("arch must be one of resnet20, ")


# The command line's notations


def test_bits():
    assert checkpoints.parse_bits("1/1") == (1, 1)
    assert checkpoints.parse_bits("32/8") == (None, 8)
    for text in ["", "1", "1/", "/1", "0/1", "9/1", "16/16", "1/1/1", " 1/1", "1/1\n", "-1/1", "a/b"]:
        with pytest.raises(ValueError, match="bits must be W/A with 1 to 8, or 32 for full precision, got "):
            checkpoints.parse_bits(text)


def test_normalizations():
    assert checkpoints.parse_normalization("imagenet") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert checkpoints.parse_normalization("cifar10") == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert checkpoints.parse_normalization("0,0,0/1,1,1") == ((0, 0, 0), (1, 1, 1))
    wrong = [
        "",
        "x",
        "0,0,0",
        "0,0/1,1",
        "0,0,0/1,1,0",
        "0,0,0/1,1,-1",
        "nan,0,0/1,1,1",
        "0,0,0/1,inf,1",
        "0,0,0/1,nan,1",
    ]
    for text in wrong:
        with pytest.raises(
            ValueError, match=r"normalize must be cifar10, .*, none or M,M,M/S,S,S with S at least 0.001, got "
        ):
            checkpoints.parse_normalization(text)
