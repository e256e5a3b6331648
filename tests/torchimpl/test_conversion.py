"""Replacing a network's layers: which, with which role, sharing what, and what is refused."""

import copy
import math
import re
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn

from reference import registry
from tests.oracles import check_near, check_same
from torchimpl import calibrate
from torchimpl.conversion import dequantize_model, plan_model, quantize_model, quantize_weight
from torchimpl.layers import QuantConv2d, QuantizedLayer, QuantLinear
from torchimpl.models.resnet import resnet20


class Net(nn.Module):
    """Layers defined in another order than they are used in; one is used twice, one input is signed."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.last = nn.Linear(4, 2)
        self.signed = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.twice(self.twice(x).relu())
        return self.last(self.norm(self.signed(x)).mean((2, 3)))


def kinds(model):
    return {name: type(m).__name__ for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def test_first_and_last_are_those_used_first_and_last_where_a_batch_tells():
    model = quantize_model(Net(), "lsq", (3, 3), example=torch.randn(2, 3, 8, 8))
    assert kinds(model) == {"last": "Linear", "twice": "QuantConv2d", "signed": "QuantConv2d", "first": "Conv2d"}
    assert model.twice.input_quantizer.role == "activation"
    assert model.signed.input_quantizer.role == "signed_activation"


def test_without_a_batch_the_order_is_that_of_definition():
    model = quantize_model(Net(), "lsq", (3, 3), input_role="signed_activation", keep=["signed"])
    assert kinds(model) == {"last": "QuantLinear", "twice": "Conv2d", "signed": "Conv2d", "first": "Conv2d"}
    assert model.last.input_quantizer.role == "signed_activation"


def test_all_layers():
    model = quantize_model(Net(), "lsq", (3, 3), keep_ends=False)
    assert set(kinds(model).values()) == {"QuantConv2d", "QuantLinear"}


def test_a_single_layer():
    conv = nn.Conv2d(2, 4, 3, 2, 1, 1, 2, bias=False)
    new = quantize_model(conv, ("lsq", "daq"), (2, 3), keep_ends=False, channelwise=False)
    assert isinstance(new, QuantConv2d)
    assert new.weight is conv.weight
    assert (new.stride, new.padding, new.groups, new.bias) == ((2, 2), (1, 1), 2, None)
    assert (new.weight_quantizer.method, new.input_quantizer.method) == ("lsq", "daq")
    assert (new.weight_quantizer.bits, new.input_quantizer.bits) == (2, 3)


def test_full_precision_changes_no_output():
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    want = model(x)
    check_same("outputs", quantize_model(model, bits=(None, None))(x).detach().numpy(), want.detach().numpy())


def test_parameters_modes_and_statistics_stay():
    model = Net()
    model.norm.eval()
    parameters, before = dict(model.named_parameters()), model.norm.running_mean.clone()
    quantize_model(model, example=torch.randn(2, 3, 8, 8))
    assert isinstance(model.twice, QuantConv2d)
    for name, value in parameters.items():
        assert model.get_parameter(name) is value
    assert model.training
    assert model.twice.training
    assert not model.norm.training
    assert (model.norm.running_mean == before).all()


def test_the_network_trains():
    torch.manual_seed(0)
    model = quantize_model(resnet20(), "daq", (1, 2))
    assert sum(isinstance(m, QuantConv2d) for m in model.modules()) == 18
    x, y = torch.rand(4, 3, 32, 32), torch.arange(4)
    model(x)  # sets clip ranges and scales
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    losses = []
    for _ in range(10):
        losses.append(nn.functional.cross_entropy(model(x), y))
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    assert min(losses[5:]) < losses[0]


def test_the_weight_as_a_parametrization():
    """The other way, for weights alone: torch's own parametrizations, on somebody's own layer."""
    from torch.nn.utils import parametrize

    from torchimpl.quantizers import build

    conv = nn.Conv2d(2, 3, 3)
    parametrize.register_parametrization(conv, "weight", build("lsq", bits=2, role="weight"), unsafe=True)
    conv(torch.randn(1, 2, 5, 5)).sum().backward()
    assert len(conv.weight.unique()) <= 4
    assert conv.parametrizations.weight.original.grad.abs().sum() > 0


def test_a_layer_that_stands_twice_in_one_place():
    shared = nn.Conv2d(4, 4, 1)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.ReLU(), shared, nn.Conv2d(4, 4, 1))
    quantize_model(net, "lsq", (3, 3))
    assert net[1] is net[3]
    assert isinstance(net[1], QuantConv2d)


def test_options_for_one_of_the_two():
    net = nn.Sequential(nn.Linear(4, 4))
    pair = {"weight_options": {"variant": "mqbench"}, "input_options": {"gamma": 3.0}}
    quantize_model(net, ("lsq", "daq"), (3, 3), keep_ends=False, **pair)
    assert net[0].weight_quantizer.variant == "mqbench"
    assert net[0].input_quantizer.gamma == 3


def test_a_method_for_one_kind_of_inputs_needs_no_role():
    for example in (None, torch.randn(9, 4)):
        net = quantize_model(nn.Sequential(nn.Linear(4, 4)), "irnet", (1, 1), keep_ends=False, example=example)
        assert net[0].input_quantizer.role == "signed_activation"
    for method, bits, example in (("irnet", (1, 1), torch.rand(9, 4)), ("dorefa", (2, 2), torch.randn(9, 4))):
        net = nn.Sequential(nn.Linear(4, 4))
        with pytest.raises(ValueError, match=r"inputs of layers to quantize must be .* knows no others, got \['0'\]"):
            quantize_model(net, method, bits, keep_ends=False, example=example)
        assert type(net[0]) is nn.Linear


@pytest.mark.parametrize(
    ("method", "bits", "role", "other"),
    [
        ("irnet", (1, 1), "signed_activation", "activation"),
        ("dorefa", (2, 2), "activation", "signed_activation"),
        (("lsq", "pact"), (2, 2), "activation", "signed_activation"),
    ],
)
def test_a_role_that_the_method_does_not_know_is_refused(method, bits, role, other):
    """It says so; it doesn't take the other one without a word."""
    for given in (None, role):
        net = quantize_model(nn.Sequential(nn.Linear(4, 4)), method, bits, keep_ends=False, input_role=given)
        assert net[0].input_quantizer.role == role
    net = nn.Sequential(nn.Linear(4, 4))
    for wrong in (other, "relu", "weight"):
        with pytest.raises(ValueError, match=rf"input_role must be {role} for .*, got '{wrong}'"):
            quantize_model(net, method, bits, keep_ends=False, input_role=wrong)
    assert type(net[0]) is nn.Linear
    weights_only = quantize_model(net, method, (bits[0], None), keep_ends=False, input_role=other)
    assert isinstance(weights_only[0].input_quantizer, nn.Identity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 4}, "bits must be a pair: for weights, and for inputs, got 4"),
        ({"bits": (4,)}, r"bits must be a pair: for weights, and for inputs, got \(4,\)"),
        ({"method": ("lsq",)}, r"method must be a pair: for weights, and for inputs, got \('lsq',\)"),
        ({"method": "pact"}, "method must be a pair, one for each, as PACT does not quantize weights, got 'pact'"),
        ({"keep": ["nothing"]}, r"keep must be names of its layers: twice, last, signed, first, got \['nothing'\]"),
        ({"keep": ["last", "signed"]}, r"module must be a network with layers to quantize \(kept: first, last, "),
        ({"method": "?"}, "method must be one of apot, daq"),
        ({"input_role": "relu"}, "input_role must be activation or signed_activation for DAQ, got 'relu'"),
        ({"input_role": "activation", "example": torch.randn(2, 3, 8, 8)}, "input_role must be None, as `example` "),
        ({"bits": (9, 1)}, "bits must be a whole number from 1 to 8"),
        ({"method": "dsq", "channelwise": True}, "channelwise must be False for DSQ, .*, got True"),
    ],
)
def test_what_is_refused(arguments, message):
    model = Net()
    with pytest.raises(ValueError, match=message):
        quantize_model(model, **arguments)
    assert "Quant" not in "".join(kinds(model).values()), "nothing was replaced"


def test_networks_that_are_refused():
    with pytest.raises(ValueError, match="module must be a network with layers to quantize"):
        quantize_model(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="padding_mode of 0 must be zeros, got 'circular'"):
        quantize_model(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), keep_ends=False)
    unused = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    unused.forward = lambda x: unused["a"](x)
    with pytest.raises(ValueError, match=r"example must be a batch that uses every layer; unused: \['b'\]"):
        quantize_model(unused, example=torch.rand(1, 2))


def test_a_linear_layer_is_replaced_by_a_linear_layer():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU())
    quantize_model(net, "ste", keep_ends=False)
    assert isinstance(net[0], QuantLinear)
    assert net[0].bias is None


class Signs(nn.Module):
    """One-bit weights by hand: signs of the standardised weights, as DAQ's rounding has them."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return nn.functional.linear(x, torch.where(self.weight > self.weight.mean(), 1.0, -1.0), self.bias)


def encoder(**options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2).eval()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_transformer_computes_with_its_quantized_layers(padded, gradients):
    """In test mode without gradients, torch's encoder reads weights instead of calling layers."""
    x = torch.randn(3, 5, 8)
    mask = torch.arange(5) >= torch.tensor([[5], [3], [4]]) if padded else None
    plain, by_hand, ours = encoder(), encoder(), encoder()
    for layer in by_hand.layers:
        layer.linear1, layer.linear2 = Signs(layer.linear1), Signs(layer.linear2)
    quantize_model(ours, bits=(1, None), keep_ends=False)
    for layer in ours.layers:
        layer.linear1.mark_scale_initialized(), layer.linear2.mark_scale_initialized()
    assert kinds(ours)["layers.0.self_attn.out_proj"] == "NonDynamicallyQuantizableLinear"
    with torch.enable_grad():
        want = by_hand(x, src_key_padding_mask=mask)
    with torch.set_grad_enabled(gradients):
        got, float_network = ours(x, src_key_padding_mask=mask), plain(x, src_key_padding_mask=mask)
    real = slice(None) if mask is None else ~mask
    check_near("outputs", got[real].detach().numpy(), want[real].detach().numpy(), 1e-5)
    assert float((got - float_network)[real].detach().abs().max()) > 0.1


def test_a_copied_and_a_saved_transformer_do_so_too(tmp_path):
    ours = quantize_model(encoder(), "lsq", (2, 2), keep_ends=False, input_role="signed_activation")
    x = torch.randn(3, 5, 8)
    calibrate(ours, x)
    torch.save(ours, tmp_path / "whole.pth")
    want = ours(x).detach()
    for again in (copy.deepcopy(ours), torch.load(tmp_path / "whole.pth", weights_only=False)):
        with torch.no_grad():
            check_near("outputs", again(x).numpy(), want.numpy(), 1e-5)


def test_a_layer_put_into_a_transformer_by_hand_is_used():
    layer = encoder().layers[0]
    x, before = torch.randn(3, 5, 8), layer.linear1
    with torch.no_grad():
        plain = layer(x)
        layer.linear1 = QuantLinear(8, 16, method="ste", bits=(1, None)).eval()
        layer.linear1.weight, layer.linear1.bias = before.weight, before.bias
        layer.linear1.mark_scale_initialized()
        assert float((layer(x) - plain).abs().max()) > 0.1


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="younger than this torch")
def test_layers_whose_weights_are_read_stay():
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "loss": nn.LinearCrossEntropyLoss(4, 3)})
    quantize_model(net, "lsq", (2, 2), keep_ends=False)
    assert kinds(net) == {"a": "QuantLinear", "loss.linear": "Linear"}


# Parametrizations

WITH_WEIGHTS = [name for name, known in registry.methods().items() if "weight" in known.bits]


@pytest.mark.parametrize("method", WITH_WEIGHTS)
@pytest.mark.parametrize("deviation", [0.01, 1.0])
def test_a_parametrization_reaches_every_level(method, deviation):
    """Weights of a fresh layer lie within a hundredth of the clip range that DAQ has for standardised ones."""
    torch.manual_seed(0)
    admitted = registry.method(method).bits["weight"]
    bits = min(2, admitted[-1])
    for layer in (nn.Conv2d(64, 8, 3), nn.Linear(576, 8), nn.Conv1d(64, 8, 9)):
        with torch.no_grad():
            # LQ-Nets' first basis is that of weights drawn so, whatever they are.
            fan_out = layer.weight.numel() // layer.weight.shape[1]
            layer.weight.normal_(0, math.sqrt(2 / fan_out) if method == "lqnets" else deviation)
        assert quantize_weight(layer, method, bits) is layer
        reached = [len(channel.unique()) for channel in layer.eval().weight]
        levels = 2**bits - (method in ("qil", "duq", "qnet", "apot"))  # whose levels are 0 and as many on either side
        assert max(reached) == levels, f"{method}: {layer} reaches {reached} levels"
        assert min(reached) >= levels - 1
        x = torch.randn(2, *{2: (576,), 3: (64, 9), 4: (64, 5, 5)}[layer.weight.dim()])
        layer(x).square().sum().backward()
        assert layer.parametrizations.weight.original.grad.abs().sum() > 0


def test_a_parametrized_layer_is_saved_and_loaded():
    torch.manual_seed(0)
    ours, fresh = (quantize_weight(nn.Linear(64, 4), "daq", 2) for _ in range(2))
    fresh.load_state_dict(ours.state_dict())
    check_same("weights", fresh.weight.detach().numpy(), ours.weight.detach().numpy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "kernel"}, "name must be one of the layer's parameters: weight, bias, got 'kernel'"),
        ({"method": "?"}, "method must be one of apot, daq"),
        ({"method": "pact"}, "role must be"),
        ({"bits": 9}, "bits must be"),
        ({"method": "dsq", "channelwise": True}, "channelwise must be False for DSQ"),
    ],
)
def test_parametrizations_that_are_refused(arguments, message):
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=message):
        quantize_weight(layer, **arguments)
    assert type(layer) is nn.Linear


def test_the_first_axis_of_a_transposed_convolution_is_not_its_output():
    conv = nn.ConvTranspose2d(32, 8, 3)
    with pytest.raises(ValueError, match="channelwise must be False for a transposed convolution"):
        quantize_weight(conv, "lqnets")
    assert len(quantize_weight(conv, "lqnets", channelwise=False).weight.unique()) == 4


def test_weights_are_quantized_once():
    layer = quantize_weight(nn.Linear(64, 4))
    with pytest.raises(ValueError, match="weight must be a plain parameter of the layer"):
        quantize_weight(layer)


# Which layers, and how


def three():
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict([("a", nn.Linear(8, 8)), ("b", nn.Linear(8, 8)), ("c", nn.Linear(8, 8)), ("d", nn.Linear(8, 8))])
    )


def bits_of(model):
    return {
        name: (m.weight_quantizer.bits, m.input_quantizer.bits)
        for name, m in model.named_modules()
        if isinstance(m, QuantizedLayer)
    }


@pytest.mark.parametrize(
    ("layers", "want"),
    [
        ({"b": (8, 8)}, {"b": (8, 8), "c": (4, 4)}),
        ({"[bc]": (8, 8)}, {"b": (8, 8), "c": (8, 8)}),
        ({"*": (8, 8)}, {"b": (8, 8), "c": (8, 8)}),  # a pattern leaves the ends as they are
        ({"d": (8, 8)}, {"b": (4, 4), "c": (4, 4), "d": (8, 8)}),  # a name does not
        ({re.compile("b|c"): (8, 8), "c": None}, {"b": (8, 8)}),
        ({"c": None, "*": (8, 8)}, {"b": (8, 8), "c": (8, 8)}),  # the later one counts
        ({(lambda name, layer: name == "b"): {"bits": (3, 8)}}, {"b": (3, 8), "c": (4, 4)}),
        ({"*": {"input_role": "signed_activation"}, "b": {"bits": (2, 3)}}, {"b": (2, 3), "c": (4, 4)}),
    ],
)
def test_mixed_bits_in_one_call(layers, want):
    model = quantize_model(three(), "lsq", (4, 4), layers=layers)
    assert bits_of(model) == want
    if "*" in layers and isinstance(layers["*"], dict):
        assert {model[i].input_quantizer.role for i in (1, 2)} == {"signed_activation"}


def test_a_method_and_options_for_one_layer():
    layers = {"b": {"method": ("lqnets", "pact"), "bits": (3, 2), "channelwise": False}, "c": {"gamma": 4.0}}
    model = quantize_model(three(), "daq", (1, 2), layers=layers)
    assert (model.b.weight_quantizer.method, model.b.input_quantizer.method) == ("lqnets", "pact")
    assert model.b.weight_quantizer.shape == ()
    assert (model.c.weight_quantizer.gamma, model.c.input_quantizer.gamma) == (4.0, 4.0)


def test_layers_to_keep_by_pattern_and_predicate():
    for keep in (["b*"], "b", re.compile("[b]"), [lambda name, layer: name.startswith("b")]):
        assert set(bits_of(quantize_model(three(), "lsq", (4, 4), keep=keep))) == {"c"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": {"e.*": (8, 8)}}, r"layers must be names of its layers: a, b, c, d, got \['e\.\*'\]"),
        ({"layers": {re.compile("e"): (8, 8)}}, "layers must be names of its layers: a, b, c, d, got re.compile"),
        ({"layers": {3: (8, 8)}}, "layers must be names, patterns, regular expressions or functions"),
        ({"layers": {"b": 8}}, r"bits of layers\['b'\] must be a pair: for weights, and for inputs, got 8"),
        ({"layers": {"[bc]": (9, 8)}}, r"^b, by layers\['\[bc\]'\]: bits must be a whole number from 1 to 8"),
        ({"layers": {"c": {"method": "dsq", "channelwise": True}}}, r"^c, by layers\['c'\]: channelwise must be False"),
        ({"layers": {"c": {"method": "?"}}}, "method must be one of .*daq, dasr"),
        ({"keep": ["nothing*"]}, r"keep must be names of its layers: a, b, c, d, got \['nothing\*'\]"),
    ],
)
def test_choices_that_do_not_match_say_where(arguments, message):
    model = three()
    with pytest.raises(ValueError, match=message):
        quantize_model(model, "lsq", (4, 4), **arguments)
    assert not bits_of(model)


CONVOLUTIONS = [
    (nn.Conv1d, (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, 1),
    (nn.Conv2d, (4, 6, 3), {"padding": "same", "dilation": 2}, 2),
    (nn.Conv3d, (4, 6, 2), {"bias": False}, 3),
    (nn.ConvTranspose1d, (4, 6, 3), {"stride": 2, "output_padding": 1}, 1),
    (nn.ConvTranspose2d, (4, 6, 3), {"stride": 2, "groups": 2, "bias": False}, 2),
    (nn.ConvTranspose3d, (4, 6, 2), {"padding": 1, "dilation": 2}, 3),
]


@pytest.mark.parametrize(("kind", "sizes", "geometry", "axes"), CONVOLUTIONS)
@pytest.mark.parametrize("method", ["lsq", "daq", "lqnets", "dorefa"])
def test_every_convolution(kind, sizes, geometry, axes, method):
    """In place, of the same shape; what is computed is torch's layer of the quantized weights and inputs."""
    torch.manual_seed(0)
    layer, x = kind(*sizes, **geometry), torch.rand(2, 4, *[7] * axes)
    want_shape, weight = layer(x).shape, layer.weight
    assert quantize_model(layer, method, (2, 2)) is layer
    assert type(layer).__name__ == f"Quant{kind.__name__}"
    assert layer.weight is weight
    calibrate(layer, x).eval()
    got = layer(x).detach()
    assert got.shape == want_shape
    plain = copy.deepcopy(layer)
    x_q = layer.input_quantizer(x).detach()
    want = dequantize_model(plain)(x_q).detach()
    assert type(plain) is kind
    check_near("outputs", got.numpy(), want.numpy(), 1e-4 * float(want.abs().max()))


def test_a_transposed_convolution_has_levels_for_each_output():
    """By hand: the outputs are along the second axis, and groups come first."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    weight = layer.weight.detach().clone()
    quantize_model(layer, "lqnets", (1, None))
    dequantize_model(calibrate(layer, torch.rand(2, 4, 5, 5)))
    for group in range(2):
        for out in range(3):
            own = layer.weight[2 * group : 2 * group + 2, out]
            assert len(own.unique()) == 2
            assert ((own > 0) == (weight[2 * group : 2 * group + 2, out] > 0)).all()


def test_the_size_of_the_output_of_a_transposed_convolution():
    layer, x = nn.ConvTranspose2d(2, 3, 3, stride=2), torch.rand(1, 2, 4, 4)
    quantize_model(layer, "lsq", (4, 4))
    for size in ((9, 9), (10, 10)):
        assert calibrate(layer, x)(x, output_size=size).shape[2:] == size
    assert layer(x).shape[2:] == (9, 9)


def test_a_network_that_is_a_layer():
    layer = nn.Linear(4, 4)
    assert quantize_model(layer, "lsq", (2, 2)) is layer
    assert type(layer) is QuantLinear


def test_whoever_holds_a_layer_holds_the_quantized_one():
    """Lists, hooks and their handles, aliases: the layer is the same object."""

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.alias = self.one
            self.listed = [self.one, self.other]

        def forward(self, x):
            for layer in self.listed:
                x = layer(x)
            return x

    model, seen = Holder(), []
    handle = model.one.register_forward_hook(lambda *_: seen.append("after"))
    model.one.register_forward_pre_hook(lambda *_: seen.append("before"))
    quantize_model(model, "lsq", (2, 2), keep_ends=False, input_role="signed_activation")
    assert model.one is model.alias is model.listed[0]
    assert all(type(layer) is QuantLinear for layer in model.listed)
    calibrate(model, torch.randn(3, 4))
    assert seen == ["before", "after"]
    handle.remove()
    model(torch.randn(3, 4))
    assert seen == ["before", "after", "before"]
    by_alias = quantize_model(Holder(), "lsq", (2, 2), keep_ends=False, layers={"alias": (8, 8)})
    assert by_alias.one.weight_quantizer.bits == 8


def made_by_a_hook():
    layer = nn.Linear(4, 4)
    own = layer.weight
    del layer.weight
    layer.register_parameter("own", own)
    layer.register_forward_pre_hook(lambda module, _: setattr(module, "weight", module.own * 2))
    return layer


def pruned():
    return torch.nn.utils.prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)


def patched():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pruned, "weight of 1 must be a plain parameter .torch.nn.utils.prune.remove makes it one.*, got 'pruned'"),
        (lambda: torch.nn.utils.weight_norm(nn.Linear(4, 4)), "weight of 1 must .*remove_weight_norm.*'weight-normed'"),
        (
            lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
            r"weight of 1 must .*remove_parametrizations.*'parametrized \(WeightNorm\)'",
        ),
        (
            lambda: torch.nn.utils.prune.l1_unstructured(nn.Linear(4, 4), "bias", 0.5),
            "bias of 1 must be a plain parameter .torch.nn.utils.prune.remove makes it one.*, got 'pruned'",
        ),
        (lambda: torch.nn.utils.spectral_norm(nn.Linear(4, 4)), "weight of 1 must .*remove_spectral_norm.*'normed by"),
        (made_by_a_hook, "weight of 1 must .*'made by a hook .function.'"),
        (lambda: quantize_weight(nn.Linear(4, 4), "lsq"), r"weight of 1 must .*'parametrized \(LSQ\)'"),
        (patched, r"forward of 1 must be its type's, or kept \(keep=\.\.\.\), got \"one of this object's own\""),
    ],
)
def test_layers_whose_weights_are_made_elsewhere_are_refused_by_name(make, message):
    model = nn.Sequential(nn.Linear(4, 4), make(), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=message):
        quantize_model(model, "lsq", (2, 2), keep_ends=False)
    assert type(model[0]) is nn.Linear, "nothing was replaced"
    quantize_model(model, "lsq", (2, 2), keep_ends=False, keep=["1"])
    assert type(model[0]) is QuantLinear


def test_what_a_network_without_layers_consists_of_is_said():
    with pytest.raises(
        ValueError, match=r"a network with layers to quantize \(kept: none; types seen: 1 GRU, 2 ReLU\)"
    ):
        quantize_model(nn.Sequential(nn.ReLU(), nn.GRU(2, 2), nn.ReLU()))


# The table


class Mixture(nn.Module):
    """Of what stays: a subclass, attention, a function, weights of a module's own."""

    class Own(nn.Linear):
        pass

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(4, 4) for _ in range(3))
        self.own = self.Own(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.kernel = nn.Parameter(torch.randn(4, 4))
        self.norm, self.table = nn.LayerNorm(4), nn.Embedding(3, 4)

    def forward(self, x, *, scale=1.0):
        x = self.middle(self.norm(self.first(x)) * scale)
        x = self.own(self.attention(x, x, x)[0] @ self.kernel)
        return self.last(nn.functional.linear(x, self.kernel))


def test_the_table_names_what_is_done_and_what_stays(caplog):
    x = torch.randn(2, 3, 4)
    plan = plan_model(Mixture(), "lsq", (4, 8), example={"x": x, "scale": 2.0})
    rows = {row.name: row for row in plan.rows if not row.kept.startswith("calls")}
    assert rows["middle"].method == "lsq"
    assert (rows["middle"].bits, rows["middle"].role) == ((4, 8), "signed_activation")
    assert rows["first"].kept == "the first layer (keep_ends)"
    assert rows["last"].kept == "the last layer (keep_ends)"
    assert rows["own"].kept == "a subclass, which may compute something else"
    packed = "its projections are packed, and computed by a function of torch's: in_proj_weight"  # biases stay anyway
    assert rows["attention"].kept == packed
    assert rows["attention.out_proj"].kept == "torch reads its weights without calling it"
    assert rows[""].kept == "no layer that is known here, which computes with: kernel"
    assert not rows.keys() & {"norm", "table"}
    functions = {(row.name, row.kept.split()[1].strip("_,")) for row in plan.rows if row.kept.startswith("calls")}
    assert functions == {("", "matmul"), ("", "linear"), ("attention", "multi_head_attention_forward")}
    assert not any(isinstance(m, QuantizedLayer) for m in plan.module.modules()), "it is a plan"
    printed = str(plan).splitlines()
    assert len(printed) == 1 + len(plan.rows)
    assert printed[0].split() == ["layer", "type", "method", "bits", "inputs", "kept"]
    with caplog.at_level("INFO", logger="torchimpl.conversion"):
        quantize_model(plan.module, "lsq", (4, 8), example=(x,))
    assert "middle  " in caplog.text
    assert "4/8" in caplog.text
    with pytest.raises(ValueError, match="plan must be a new one"):
        plan.apply()


def test_the_same_layers_a_second_time():
    """What is quantized stays so; the rest can be quantized otherwise."""
    model = quantize_model(three(), "lsq", (4, 4), input_role="signed_activation")
    x = torch.randn(5, 8)
    with pytest.raises(RuntimeError, match=r"LSQ b\.input_quantizer has no first values.*torchimpl\.calibrate"):
        plan_model(model, "lsq", (8, 8), keep_ends=False, example=x)
    calibrate(model, x)
    plan = plan_model(model, "lsq", (8, 8), keep_ends=False, example=x)
    assert [row.kept for row in plan.rows] == ["", "", "quantized already", "quantized already"]
    assert bits_of(calibrate(plan.apply(), x)) == {"a": (8, 8), "b": (4, 4), "c": (4, 4), "d": (8, 8)}


# Signed inputs that nobody announced


class Block(nn.Module):
    """As in a ViT: inputs of linear layers come from LayerNorm and GELU."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return self.down(nn.functional.gelu(self.up(self.norm(x))))


def relative_error(model, plain, x):
    with torch.no_grad():
        want = plain(x)
        return float((model.eval()(x) - want).norm() / want.norm())


def test_signed_inputs_do_not_lose_their_negative_half_silently():
    torch.manual_seed(0)
    plain, x = nn.Sequential(*(Block() for _ in range(3))), torch.randn(32, 5, 16)
    model = quantize_model(copy.deepcopy(plain), "lsq", (8, 8), keep_ends=False)
    with pytest.warns(UserWarning, match="is negative, and becomes 0") as told:
        calibrate(model, x)
    assert {str(w.message).split(":")[0] for w in told} == {f"{i}.{n}" for i in range(3) for n in ("up", "down")}
    with_example = quantize_model(copy.deepcopy(plain), "lsq", (8, 8), keep_ends=False, example=x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(with_example, x)
    assert relative_error(with_example, plain, x) < 0.2 < 0.7 < relative_error(model, plain, x)
    meant = quantize_model(copy.deepcopy(plain), "lsq", (8, 8), keep_ends=False, input_role="activation")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(meant, x)


def test_the_first_batch_in_training_warns_too_once():
    layer = QuantLinear(4, 4, method=("lsq", "pact"), bits=(4, 4))
    with pytest.warns(UserWarning, match=r"^QuantLinear\(in_features=4, .*: \d+% of its inputs' magnitude is negative"):
        layer.train()(torch.randn(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.randn(8, 4))


# Back


@pytest.mark.parametrize("method", ["daq", "lsq", "irnet", "qnet", "dsq"])
def test_a_network_is_dequantized(method):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardtanh(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )
    x = torch.randn(4, 3, 8, 8)
    quantize_model(net, method, (1 if method == "irnet" else 2, None), keep_ends=False)
    calibrate(net, x).eval()
    want = net(x).detach()
    assert dequantize_model(net) is net
    assert [type(m) for m in net] == [nn.Conv2d, nn.BatchNorm2d, nn.Hardtanh, nn.Conv2d, nn.Flatten, nn.Linear]
    assert set(dict(net.named_parameters())) == {f"{i}.{n}" for i in (0, 1, 3, 5) for n in ("weight", "bias")}
    check_near("outputs", net(x).detach().numpy(), want.numpy(), 1e-5 * float(want.abs().max()))
    net(x).sum().backward()
    assert net[0].weight.grad is not None
    assert not net[5]._forward_pre_hooks
    net.load_state_dict({name: value.clone() for name, value in net.state_dict().items()})
    assert bits_of(quantize_model(net, "lsq", (4, 4), keep_ends=False)) == dict.fromkeys(["0", "3", "5"], (4, 4))


def test_dequantizing_takes_first_values_and_parametrizations():
    model = quantize_model(three(), "daq", (2, 2))
    with pytest.raises(RuntimeError, match=r"b has no first values. Call torchimpl\.calibrate"):
        dequantize_model(model)
    assert bits_of(model)
    layer = quantize_weight(nn.Linear(64, 64), "lsq", 2)
    weight, other = layer.weight.detach().clone(), copy.deepcopy(layer)
    dequantize_model(layer)
    assert type(layer) is nn.Linear
    check_same("weight of a copy", other.weight.detach().numpy(), weight.numpy())
    check_same("weight", layer.weight.detach().numpy(), weight.numpy())
