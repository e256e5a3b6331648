"""DuQ as a module: its scales, and PROFIT's freezing of layers on a small network."""

import contextlib
import copy
import math
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from reference import duq
from reference.duq import activation_shift, average_shift, freezing_order
from tests.oracles import check_near, check_same
from tests.strategies import sample
from tests.torchimpl.modules import tensor, without_loops
from torchimpl import calibrate, layers
from torchimpl.layers import QuantConv2d, QuantLinear
from torchimpl.quantizers.duq import DuQ, scale_of
from torchimpl.training.profit import freeze, output_statistics, quantized_weights


def initialized(bits, role, data, **options):
    module = DuQ(bits, role, **options)
    module.initialize(torch.as_tensor(data))
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_have_all_digits_on_both_sides_of_the_threshold(dtype):
    """PyTorch's softplus is the identity above 20, where log(1 + exp(x)) still is 2e-9 more."""
    raw = torch.linspace(-60, 60, 2001, dtype=dtype, requires_grad=True)
    got = scale_of(raw, dtype)
    want = np.array([math.log1p(math.exp(v)) for v in raw.tolist()])
    check_near("softplus", got.detach().numpy(), want, 4 * torch.finfo(dtype).eps * want)
    got.sum().backward()
    slope = np.array([1 / (1 + math.exp(-v)) for v in raw.tolist()])
    check_near("its derivative", raw.grad.numpy(), slope, 4 * torch.finfo(dtype).eps * slope)


def test_half_precision_takes_its_scale_from_single():
    raw = torch.tensor(-10.0041)  # bfloat16 has -10: 0.4 % more of a scale
    want = torch.tensor(math.log1p(math.exp(-10.0041)))
    for dtype in (torch.float16, torch.bfloat16):
        check_same(
            f"softplus({raw}) in {dtype}",
            scale_of(raw, dtype).to(dtype).float().numpy(),
            want.to(dtype).float().numpy(),
        )


@pytest.mark.parametrize("role", ["weight", "activation", "signed_activation"])
def test_each_channel_starts_by_itself(role):
    x = sample(3, role)
    module = initialized(3, role, x, shape=(3, 1))
    for c, row in enumerate(x):
        want = duq.init(row, 3, role)
        check_near(f"a of channel {c}", module.a.detach().numpy()[c, 0], want.a, 1e-6)
        check_near(f"c of channel {c}", module.c.detach().numpy()[c, 0], want.c, 1e-6)


@pytest.mark.parametrize("role", ["activation", "signed_activation"])
def test_activations_of_several_channels_have_a_quantile_each(role):
    x = tensor(sample(3, role, (50, 3, 4)))
    module = initialized(3, role, x, shape=(3, 1))
    for c in range(3):
        want = duq.init(x[:, c].numpy(), 3, role)
        check_near(f"a of channel {c}", module.a.detach().numpy()[c, 0], want.a, 1e-6)


@pytest.mark.parametrize("batch", [[], [0.0, 0.0], [[0.0, 0.0], [1.0, 2.0]], [1.0, math.nan], [1.0, math.inf]], ids=str)
def test_a_batch_without_a_magnitude_is_refused(batch):
    x = torch.tensor(batch)
    shape = (2, 1) if x.dim() == 2 else ()
    with pytest.raises(ValueError, match="largest magnitude of the first batch must be positive and finite"):
        initialized(2, "weight", x, shape=shape)
    with pytest.raises(ValueError, match="first batch must be finite, with a positive number"):
        initialized(2, "signed_activation", x, shape=shape)


@pytest.mark.parametrize("name", ["a", "c"])
@pytest.mark.parametrize("value", [-200.0, math.inf, -math.inf, math.nan])
def test_scales_out_of_range_give_nan(name, value):
    """exp(-200) is 0 in float32."""
    module = initialized(2, "weight", [-1.0, 1.0])
    with torch.no_grad():
        module.get_parameter(name).fill_(value)
    assert module(torch.linspace(-2, 2, 9)).isnan().all()
    with pytest.raises(ValueError, match=rf"softplus\({name}\) must be positive and finite"):
        module.codes(torch.zeros(1))


@pytest.mark.parametrize(("variant", "count"), [("paper", 8), ("released", 7)])
def test_level_counts(variant, count):
    module = initialized(3, "weight", [-1.0, 1.0], variant=variant)
    values = module(torch.linspace(-1, 1, 999)).detach().unique()
    assert len(values) == count
    assert bool((values == 0).any()) == (variant == "released")


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize("loops", [True, False])
def test_ends_of_the_range_give_no_gradient(variant, loops):
    """As torch's hardtanh, which the code clips with."""
    module = initialized(2, "weight", [-1.0, 1.0], variant=variant)
    a = float(scale_of(module.a, torch.float32).detach())
    points = [-2 * a, -a, -0.4 * a, 0.4 * a, a, 2 * a]
    x = torch.tensor(points, requires_grad=True)
    with contextlib.nullcontext() if loops else without_loops():
        module(x).sum().backward()
    check_same("gradient for x", x.grad.numpy(), np.array([0, 0, 1, 1, 0, 0], np.float32))
    theirs = (torch.tensor(points) / a).requires_grad_()
    nn.functional.hardtanh(theirs, -1, 1).sum().backward()
    check_same("hardtanh's", theirs.grad.numpy(), x.grad.numpy())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_are_those_of_the_codes_own_operations(bits):
    """Softplus, hardtanh and the rounding of n_lv // 2 levels, with autograd of torch's own: values and gradients."""
    generator = torch.Generator().manual_seed(bits)
    x, grad = (torch.randn(500, generator=generator, dtype=torch.float64) for _ in range(2))
    module = initialized(bits, "weight", x / 2).double()
    leaves = [v.detach().clone().requires_grad_() for v in (x, module.a, module.c)]
    p = nn.functional.hardtanh(leaves[0] / nn.functional.softplus(leaves[1]), -1, 1)
    q = 2**bits // 2 - 1
    rounded = p + ((p * q).round() / q - p).detach()
    want = torch.autograd.grad(rounded * nn.functional.softplus(leaves[2]), leaves, grad)
    leaf = x.clone().requires_grad_()
    got = torch.autograd.grad(module(leaf), [leaf, module.a, module.c], grad)
    for name, ours, theirs in zip(("x", "a", "c"), got, want, strict=True):
        check_near(f"gradient for {name}", ours.numpy(), theirs.numpy(), 1e-12 * (1 + theirs.abs().numpy()))


# PROFIT's freezing


def network():
    """Three layers with quantized weights, one without."""
    torch.manual_seed(0)
    options = {"method": "duq", "standardized": False}
    return nn.Sequential(
        QuantConv2d(2, 4, 3, bits=(None, None), bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        QuantConv2d(4, 4, 3, bits=(3, 3), **options),
        nn.ReLU(),
        QuantConv2d(4, 5, 3, bits=(3, None), **options),
        nn.Flatten(),
        QuantLinear(20, 3, bits=(3, 3), input_role="signed_activation", **options),
    )


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 2, 8, 8, generator=generator), torch.randint(3, (16,), generator=generator)


def train(model, steps=3, optimizer=None):
    images, labels = batch()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
    return optimizer


def shifts_of(model, images, before):
    return {name: activation_shift(*found) for name, found in output_statistics(model, images, before).items()}


def divergence(old, new):
    """KL of the new Gaussians from the old ones, the mean over the channels, of outputs of shape (C, N)."""
    each = []
    for before, after in zip(old.tolist(), new.tolist(), strict=True):
        (m0, s0), (m1, s1) = ((statistics.mean(v), statistics.stdev(v)) for v in (before, after))
        each.append(math.log(s0 / s1) + (s1**2 + (m1 - m0) ** 2) / (2 * s0**2) - 0.5)
    return statistics.mean(each)


def test_shifts_are_those_of_a_layers_own_weights():
    """Inputs are what they are after the update, as in training: normalised by the batch, with values dropped."""
    model, (images, _) = network(), batch()
    model[2] = nn.Sequential(model[2], nn.Dropout(0.3))
    train(model, 1)
    before = quantized_weights(model)
    assert list(before) == ["3", "5", "7"], "layers with quantized weights, in their order"
    assert not any(w.requires_grad for w in before.values())
    train(model, 2)
    model.train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    random = torch.get_rng_state()
    got = shifts_of(model, images, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert list(got) == list(before)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())
    for name, value in model.state_dict().items():
        check_same(name, value.numpy(), state[name].numpy())
    model.train()
    for place in (3, 5, 7):
        model[place].eval()

    def inputs_of(place):
        torch.manual_seed(7)
        return model[place].input_quantizer(model[:place](images))

    with torch.no_grad():
        x = inputs_of(5)
        old, new = (
            nn.functional.conv2d(x, w, model[5].bias).permute(1, 0, 2, 3).reshape(5, -1)
            for w in (before["5"], model[5].quantized_weight())
        )
        check_near("shift of 5", got["5"], divergence(old, new), 1e-6)
        x = inputs_of(7)
        old, new = (nn.functional.linear(x, w, model[7].bias).T for w in (before["7"], model[7].quantized_weight()))
        check_near("shift of 7", got["7"], divergence(old, new), 1e-6)
    assert got["5"] > 1e-3
    assert got["7"] > 1e-3
    assert set(shifts_of(model, images, quantized_weights(model)).values()) == {0.0}


LAYERS = [
    (layers.QuantConv1d(3, 5, 3, method="lsq", bits=(2, 2)), (16, 3, 9), 1),
    (layers.QuantConv3d(3, 5, 2, method="lsq", bits=(2, 2)), (16, 3, 3, 3, 3), 1),
    (layers.QuantConvTranspose2d(3, 5, 2, method="lsq", bits=(2, 2)), (16, 3, 3, 3), 1),
    (layers.QuantLinear(3, 5, method="lsq", bits=(2, 2)), (16, 4, 3), 2),
]


@pytest.mark.parametrize(("layer", "shape", "axis"), LAYERS, ids=lambda value: type(value).__name__)
def test_layers_of_every_kind_have_shifts(layer, shape, axis):
    """By channel: the second axis, or the last one of what linear layers give."""
    model, x = nn.Sequential(copy.deepcopy(layer)), torch.rand(shape)
    calibrate(model, x)
    before = quantized_weights(model)
    (found,) = output_statistics(model, x, before).values()
    rows = model.eval()(x).detach().double().movedim(axis, 0).reshape(5, -1)
    for mean, variance in (found[:2], found[2:]):
        check_near("means", mean, rows.mean(1).numpy(), 1e-5)
        check_near("variances", variance, rows.var(1).numpy(), 1e-5)


def test_shifts_need_first_values():
    """Measuring takes none, although it is in training mode."""
    model, (images, _) = network(), batch()
    with pytest.raises(RuntimeError, match="has no first values"):
        output_statistics(model, images, {"3": torch.zeros(4, 4, 3, 3)})
    assert not any(q.has_first_values for q in (model[3].weight_quantizer, model[3].input_quantizer))


def test_constant_outputs_have_no_shift():
    """A channel is left out, a layer without any other refused. The mean of equal numbers is not always that number."""
    model, (images, _) = network(), batch()
    train(model, 1)
    model, images = model.double(), images.double() / 3
    before = quantized_weights(model)
    scaled = {"5": before["5"] * 1.1}
    whole = shifts_of(model, images, scaled)["5"]
    scaled["5"][0] = 0
    assert 0 < shifts_of(model, images, scaled)["5"] != whole
    scaled["5"][:] = 0
    with pytest.raises(ValueError, match="var0 and var1 must be positive for one channel at least"):
        shifts_of(model, images, scaled)
    with pytest.raises(ValueError, match=r"name must be a layer .*\(there are 3, 5, 7\), got 'nowhere'"):
        shifts_of(model, images, {"nowhere": before["5"]})


def test_what_is_frozen_does_not_move():
    """Neither by momentum and weight decay, of gradients that were there before."""
    model = network()
    optimizer = train(model)
    assert model[3].weight.grad is not None
    freeze(model, ["3"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.step()
    train(model, optimizer=optimizer)
    still = {n for n, _ in model.named_parameters() if torch.equal(before[n], model.state_dict()[n])}
    assert still == {"3.weight", "3.bias"}, "and quantizers go on, that of the weights too"


def test_names_that_are_no_quantized_layer_are_refused():
    model = network()
    for name in ["0", "2", "nowhere"]:
        with pytest.raises(ValueError, match=rf"name must be a layer .*\(there are 3, 5, 7\), got '{name}'"):
            freeze(model, ["3", name])
    assert all(p.requires_grad for p in model[3].parameters()), "none is frozen"


def test_a_whole_schedule():
    """PROFIT: measure, order, then train and freeze by thirds."""
    model, (images, _) = network(), batch()
    optimizer = train(model)
    average = dict.fromkeys(quantized_weights(model), 0.0)
    for _ in range(3):
        before = quantized_weights(model)
        train(model, 1, optimizer)
        for name, found in output_statistics(model, images, before).items():
            average[name] = average_shift(average[name], activation_shift(*found))
    groups = freezing_order(average)
    assert [len(group) for group in groups] == [1, 1, 1]
    assert average[groups[0][0]] > average[groups[1][0]] > average[groups[2][0]] > 0
    frozen = set()
    for group in groups:
        weights = {name: model.get_submodule(name).weight.detach().clone() for name in average}
        train(model)
        moved = {n for n, value in weights.items() if not torch.equal(value, model.get_submodule(n).weight.detach())}
        assert moved == set(average) - frozen, "a stage trains all that is not frozen"
        freeze(model, group)
        frozen |= set(group)


def test_values_are_the_references_for_large_scales():
    x = tensor(np.linspace(-40, 40, 81))
    module = initialized(8, "weight", 33 * np.array([-1.0, 1.0]))  # raw values of 29.7
    params = duq.Params(*(v.detach().double().numpy() for v in (module.a, module.c)), 8, "weight")
    want = duq.forward(x.numpy(), params, training=False)
    check_near("forward", module(x).detach().numpy(), want, 8 * 2.3e-16 * 30)
