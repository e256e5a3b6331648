"""ResNet-20: its parameters, its names, and its value computed again without modules."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference import registry
from tests.oracles import check_near, check_same
from tests.torchimpl.modules import PAIRS, REFERENCE, every_method, fit, input_role
from torchimpl.conversion import quantize_model
from torchimpl.layers import QuantConv2d
from torchimpl.models import ARCHITECTURES, NETWORKS, resnet, resnet20, resnet20_released
from torchimpl.models.resnet import ZeroPadShortcut

CHANNELS = [16, *[16] * 3, *[32] * 3, *[64] * 3]
BATCH_NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def names(*, released=False, shortcut="A", conv=()):
    """Names of a state_dict, from the paper's description. `conv`: what a quantized convolution has besides."""
    found = ["conv1.weight", "linear.weight", "linear.bias"]
    found += [f"{'bn2' if released else 'bn1'}.{leaf}" for leaf in BATCH_NORM]
    for stage in (1, 2, 3):
        for block in range(3):
            for i in (1, 2):
                found += [f"layer{stage}.{block}.conv{i}.{leaf}" for leaf in ("weight", *conv)]
                found += [f"layer{stage}.{block}.bn{i}.{leaf}" for leaf in BATCH_NORM]
        if shortcut == "B" and stage > 1:
            found += [f"layer{stage}.0.shortcut.0.weight"]
            found += [f"layer{stage}.0.shortcut.1.{leaf}" for leaf in BATCH_NORM]
    return sorted(found)


def count(model):
    return sum(p.numel() for p in model.parameters())


def convolutions():
    """Weights of the 19 convolutions: 3x3, from the image to 16 channels, then two in each block."""
    inner = sum(9 * (a * b + b * b) for a, b in itertools.pairwise(CHANNELS))
    return 9 * 3 * 16 + inner


def test_parameter_counts():
    batch_norms = 2 * (16 + 2 * sum(CHANNELS[1:]))  # weight and bias
    linear = 64 * 10 + 10
    assert count(resnet20()) == convolutions() + batch_norms + linear == 269722
    projections = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert count(resnet20(shortcut="B")) == 269722 + projections
    assert count(resnet20_released()) == 269722 - 2 * 16 + 2 * 64
    assert count(resnet20(classes=100)) == 269722 + 90 * 65
    # Table 6 of He et al., in millions: 0.27, 0.46, 0.66, 0.85
    deeper = {depth: count(ARCHITECTURES[f"resnet{depth}"]()) for depth in (32, 44, 56)}
    assert {depth: round(number / 1e6, 2) for depth, number in deeper.items()} == {32: 0.46, 44: 0.66, 56: 0.85}
    assert deeper[56] - deeper[44] == 4 * sum(9 * c * c + 2 * c for c in (16, 32, 64))


@pytest.mark.parametrize("depth", [2, 19, 21, -4])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=f"got {depth}"):
        resnet(depth)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_names(shortcut):
    assert sorted(resnet20(shortcut=shortcut).state_dict()) == names(shortcut=shortcut)


def test_names_of_the_released_network():
    assert sorted(resnet20_released().state_dict()) == names(released=True)


@every_method
def test_the_18_convolutions_of_the_blocks_are_quantized(method):
    bits = fit(method, (1, 2))
    model = resnet20(PAIRS[method], bits, input_role=input_role(method))
    quantized = [name for name, module in model.named_modules() if isinstance(module, QuantConv2d)]
    assert len(quantized) == 18
    assert all(name.startswith("layer") for name in quantized)
    assert type(model.conv1) is nn.Conv2d
    for name in quantized:
        layer = model.get_submodule(name)
        assert (layer.weight_quantizer.bits, layer.input_quantizer.bits) == bits
        assert layer.bias is None
    weights, inputs = (registry.method(name) for name in PAIRS[method])
    scale = weights.output_scale or inputs.output_scale
    each = [
        *((bits[0], n) for n in weights.learned("weight")),
        *((bits[1], n) for n in inputs.learned(input_role(method))),
    ]
    # A codebook; QNet's steps, of 2-bit inputs here (its 1-bit weights have one).
    sizes = {"centers": lambda b: 2**b, "biases": lambda b: 2**b - 1}
    learned = sum(sizes[name](b) if name in sizes else 1 for b, name in each) + scale
    assert count(model) - count(resnet20()) == 18 * learned


def test_names_of_a_quantized_network():
    leaves = ("lower", "upper", "initialized", "_extra_state")
    ends = [f"{which}_quantizer.{leaf}" for which in ("weight", "input") for leaf in leaves]
    conv = ["scale", "scale_initialized", *ends]
    assert sorted(resnet20("daq", (1, 1)).state_dict()) == names(conv=conv)
    assert sorted(resnet20_released("daq", (1, 1)).state_dict()) == names(released=True, conv=conv)


@pytest.mark.parametrize(("channels", "out_channels"), [(16, 32), (32, 64), (3, 6), (2, 3)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_option_a_shortcut(channels, out_channels, size):
    x = torch.randn(2, channels, *size)
    got = ZeroPadShortcut(out_channels)(x)
    missing = out_channels - channels
    want = torch.zeros(2, out_channels, (size[0] + 1) // 2, (size[1] + 1) // 2)
    for c in range(channels):
        want[:, missing // 2 + c] = x[:, c, ::2, ::2]
    check_same(f"shortcut from {channels} to {out_channels}", got.numpy(), want.numpy())


def batch_norm(x, state, name):
    mean, var, weight, bias = (state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
    shape = (1, -1, *[1] * (x.dim() - 2))
    scaled = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return scaled * weight.view(shape) + bias.view(shape)


def forward(x, state, *, released=False, shortcut="A"):
    """The network without modules."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    x = F.relu(x if released else batch_norm(x, state, "bn1"))
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = F.relu(batch_norm(out, state, f"{name}.bn1"))
            out = batch_norm(F.conv2d(out, state[f"{name}.conv2.weight"], padding=1), state, f"{name}.bn2")
            if stride == 2 and shortcut == "B":
                x = F.conv2d(x, state[f"{name}.shortcut.0.weight"], stride=2)
                x = batch_norm(x, state, f"{name}.shortcut.1")
            elif stride == 2:
                zeros = torch.zeros(len(x), x.shape[1] // 2, x.shape[2] // 2, x.shape[3] // 2, dtype=x.dtype)
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
            x = F.relu(out + x)
    x = x.flatten(2).mean(2)
    x = batch_norm(x, state, "bn2") if released else x
    return x @ state["linear.weight"].T + state["linear.bias"]


def randomized(model):
    """Statistics and affine parameters that are neither 0 nor 1."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "bias")) and value.dim() == 1:
                value.normal_(0, 0.1)
            elif name.endswith("running_var") or ".bn" in name:
                value.uniform_(0.5, 1.5) if value.is_floating_point() else None
    return model.double().eval()


@pytest.mark.parametrize("options", [{}, {"shortcut": "B"}, {"released": True}], ids=str)
def test_value(options):
    torch.manual_seed(0)
    make = resnet20_released if options.get("released") else resnet20
    model = randomized(make(**{k: v for k, v in options.items() if k == "shortcut"}))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    want = forward(x, model.state_dict(), **options)
    # 20 layers of sums of at most 576 products; 1e-10 is far above their rounding and far below any other network.
    check_near(f"{make.__name__}({options})", model(x).detach().numpy(), want.detach().numpy(), 1e-10)
    assert model(x).shape == (2, 10)


def test_the_released_network_differs_in_two_places():
    torch.manual_seed(0)
    model = randomized(resnet20_released())
    assert isinstance(model.bn1, nn.Identity)
    assert isinstance(model.bn2, nn.BatchNorm1d)
    assert isinstance(resnet20().bn1, nn.BatchNorm2d)
    assert isinstance(resnet20().bn2, nn.Identity)


def test_sizes_within():
    sizes = {}
    model = resnet20()
    for name in ("layer1", "layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: sizes.update({name: out.shape[1:]})
        )
    model(torch.randn(1, 3, 32, 32))
    assert sizes == {"layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}


@pytest.mark.parametrize(
    ("method", "name"),
    [*itertools.product(REFERENCE, ("resnet20", "resnet20_released")), *itertools.product(["daq"], ARCHITECTURES)],
)
def test_quantized_networks_train_and_test(method, name):
    torch.manual_seed(0)
    model = ARCHITECTURES[name](PAIRS[method], fit(method, (1, 1)), input_role=input_role(method))
    x = torch.rand(3, 3, 8, 8)
    model.train()(x).square().sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
    got = model.eval()(x)
    assert got.shape == (3, 10)
    assert got.isfinite().all()
    assert np.unique(got.detach().numpy()).size > 1


def test_the_small_network_as_released():
    """Against the small one as the large ones: no BatchNorm behind the first convolution, one before the classifier."""
    own, plain = (set(NETWORKS[name]().state_dict()) for name in ("resnet8_released", "resnet8"))
    large = [set(NETWORKS[name]().state_dict()) for name in ("resnet20_released", "resnet20")]
    assert own - plain == large[0] - large[1] == {f"bn2.{leaf}" for leaf in BATCH_NORM}
    assert plain - own == large[1] - large[0] == {f"bn1.{leaf}" for leaf in BATCH_NORM}
    assert NETWORKS["resnet8_released"]("daq", (1, 1))(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_the_role_of_inputs_and_the_activation_follow_the_method():
    for method, bits, role, activation in (
        ("irnet", (1, 1), "signed_activation", F.hardtanh),
        (("lsq", "irnet"), (2, 1), "signed_activation", F.hardtanh),
        (("irnet", "pact"), (1, 2), "activation", F.relu),
        ("lsq", (2, 2), "activation", F.relu),
        ("irnet", (1, None), None, F.relu),
        (None, (None, None), None, F.relu),
    ):
        model = resnet20(method, bits)
        assert model.activation is model.layer3[2].activation is activation
        assert role is None or model.layer1[0].conv1.input_quantizer.role == role
    model = resnet20("irnet", (1, 1), activation=F.hardtanh)
    model.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    assert model.layer1[0].conv1.weight.grad.abs().sum() > 0
    assert resnet20("irnet", (1, 1), activation=torch.tanh).activation is torch.tanh


def test_signs_need_inputs_of_both_signs():
    """With ReLU every input of a convolution is quantized to +1; Hardtanh leaves both signs."""
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"inputs of layers to quantize must be of both signs .*'layer1.0.conv1'"):
        quantize_model(resnet20(), "irnet", (1, 1), example=x)
    model = quantize_model(resnet20(activation=F.hardtanh), "irnet", (1, 1), example=x)
    signs = []
    for conv in filter(lambda m: isinstance(m, QuantConv2d), model.modules()):
        conv.input_quantizer.register_forward_hook(lambda _, inputs, out: signs.append(set(out.unique().tolist())))
    model.eval()(x)
    assert signs == [{-1.0, 1.0}] * 18


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_every_network_leaves_both_signs_to_a_method_that_takes_them(make):
    """So that training and a checkpoint's evaluation build the same, without being told."""
    assert make("irnet", (1, 1)).activation is F.hardtanh
    assert make("irnet", (1, None)).activation is make().activation is F.relu
