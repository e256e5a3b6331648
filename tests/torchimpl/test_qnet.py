"""QNet's module: temperature, biases, what the released code does otherwise. The rest is in test_contract.py."""

import copy
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from reference import qnet
from reference.integer import convolve
from tests.oracles import check_near, check_same
from tests.strategies import sample
from tests.torchimpl.modules import without_loops
from torchimpl.layers import QuantConv2d
from torchimpl.quantizers.qnet import QNet, targets


def module(bits=2, role="activation", **options):
    """A quantizer with steps halfway between the integers, alpha 1/2 and beta 2."""
    made = QNet(bits, role, **options)
    with torch.no_grad():
        made.alpha.fill_(0.5)
        made.beta.fill_(2.0)
        made.biases.copy_(torch.tensor([(a + b) / 2 for a, b in zip(made.targets, made.targets[1:], strict=False)]))
    made.mark_initialized()
    return made


def gradients(made, x):
    """Those for x, alpha and beta."""
    made.zero_grad()
    leaf = x.clone().requires_grad_()
    made.train()(leaf).sum().backward()
    return leaf.grad.numpy(), made.alpha.grad.item(), made.beta.grad.item()


@pytest.mark.parametrize(("bits", "role", "variant"), qnet.METHOD.defined())
def test_first_values_are_the_references(bits, role, variant):
    x = sample(7, role, (30, 30))
    made = QNet(bits, role, variant=variant)
    made.initialize(torch.from_numpy(x))
    want = qnet.init(x, bits, role, variant=variant)
    assert made.targets == targets(bits, role, variant) == qnet.integers(bits, role, variant).tolist()
    for name in ("alpha", "beta", "biases"):
        check_same(name, getattr(made, name).detach().numpy(), np.asarray(getattr(want, name), np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_input_on_a_step_stays_below(dtype):
    x = torch.tensor([0.25, 0.75, 1.25], dtype=dtype)
    assert module().eval()(x).tolist() == [0, 0.5, 1]
    assert module().codes(x).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_sigmoids_are_summed(dtype):
    """x = 1 at T = 4 is 1.0025 from both sides, with the slope .85."""
    made = module(temperature=4.0)
    for at in (0.5, math.nextafter(0.5, 0)):
        x = torch.tensor([at], dtype=dtype)
        check_near("1", 2 * made.train()(x).detach().numpy(), [1.0025], 5e-5)
        check_near("slope", gradients(made, x)[0], [0.850], 5e-4)


def test_the_temperature_shapes_training_and_not_test():
    x, made = torch.linspace(-0.5, 2, 26), module()
    soft, hard = [], []
    for temperature in (4.0, 48.0):
        made.set_temperature(temperature)
        soft.append(made.train()(x).detach().numpy())
        hard.append(made.eval()(x).detach().numpy())
    assert abs(soft[0] - soft[1]).max() > 0.05
    check_same("test mode", *hard)
    check_same("levels", np.unique(hard[0]), np.array([0, 0.5, 1, 1.5], np.float32))


def test_temperature_and_biases_are_saved():
    ours, other = module(temperature=7.0), QNet(2, temperature=9.0)
    other.load_state_dict(ours.state_dict())
    assert other.temperature == copy.deepcopy(ours).temperature == 7
    assert other.biases.tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(("variant", "learned"), [("paper", True), ("paper_pm2", True), ("released", False)])
def test_the_released_code_does_not_learn_biases(variant, learned):
    """A state has the same names whether they are learned or not: one saved before they were still loads."""
    ours, other = module(variant=variant), QNet(2, variant=variant)
    assert ("biases" in dict(ours.named_parameters())) == learned
    ours(torch.linspace(-1, 2, 9)).sum().backward()
    assert (ours.biases.grad is not None) == learned
    state = ours.state_dict()
    assert set(state) == {"alpha", "beta", "biases", "temperature", "initialized", "_extra_state"}
    other.load_state_dict(state)
    assert other.biases.tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_biases_that_pass_one_another(dtype, loops):
    """The steps are those of the sorted biases; each bias has the gradient of the step that is its own."""
    order, x = torch.tensor([3, 0, 5, 1, 4, 2]), torch.linspace(-2, 2, 41).to(dtype)
    ours, turned = module(3, "weight", temperature=2.0), module(3, "weight", temperature=2.0)
    with torch.no_grad():
        turned.biases.copy_(ours.biases[order])
    with nullcontext() if loops else without_loops():
        check_same("in training", *(made.train()(x).detach().float().numpy() for made in (turned, ours)))
        check_same("in test", *(made.eval()(x).detach().float().numpy() for made in (turned, ours)))
        check_same("gradients", gradients(turned, x.float())[0], gradients(ours, x.float())[0])
        for made in (turned, ours):
            gradients(made, x.to(dtype).float())
    check_same("gradients of biases", turned.biases.grad.numpy(), ours.biases.grad[order].numpy())
    u = 2 * x.double().numpy()[:, None] - np.array([-3, -1.5, -0.5, 0.5, 1.5, 3])
    want = -0.5 * np.array([2, 1, 1, 1, 1, 2]) * 2 / (4 * np.cosh(u) ** 2)  # sigmoid'(2 u) is 1/(4 cosh^2 u)
    check_near("Eq. 11", ours.biases.grad.numpy(), want.sum(0), 1e-5)


def test_a_bias_that_is_not_finite():
    for value in (math.nan, math.inf):
        made = module(3, "weight")
        with torch.no_grad():
            made.biases[2] = value
        x = torch.linspace(-2, 2, 41)
        for _ in range(2):
            assert made.train()(x).isnan().all()
        with without_loops():
            assert made.train()(x).isnan().all()
        with pytest.raises(ValueError, match="biases must be finite"):
            made.eval().codes(x)


def test_a_new_temperature_needs_no_new_compilation():
    torch.compiler.reset()
    ours, x = module(), torch.linspace(-1.2, 1.2, 25)
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    compiled(x)
    with torch.compiler.set_stance("fail_on_recompile"):
        ours.set_temperature(3.0)
        check_same("compiled", compiled(x).detach().numpy(), ours(x).detach().numpy())


def test_progress_raises_the_temperature():
    made = QNet(2)
    assert made.temperature == 5
    for progress in (0, 0.25, 1):
        made.set_progress(progress)
        check_near("temperature", made.temperature.numpy(), qnet.annealed_temperature(progress), 1e-5)
    made.set_progress(0.5, start=20, end=700)
    assert made.temperature == 360
    for call in (lambda: made.set_progress(1.5), lambda: made.set_progress(0, start=0), lambda: QNet(2, temperature=0)):
        with pytest.raises(ValueError, match="must be a number from"):
            call()
    assert made.temperature == 360


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_released_gradient_for_weights_is_t_times_that_at_1(dtype):
    x = torch.linspace(-2, 2, 41, dtype=dtype)
    u, temperature = 2 * x.double().numpy()[:, None] - np.array([-3, -1.5, -0.5, 0.5, 1.5, 3]), 30.0
    at_one = (np.array([2, 1, 1, 1, 1, 2]) / (4 * np.cosh(u / 2) ** 2)).sum(1)
    got = gradients(module(3, "weight", variant="released", temperature=temperature), x)
    check_near("x", got[0], temperature * at_one, 1e-4)
    check_near("beta", got[2], (temperature * at_one * x.double().numpy() / 2).sum(), 1e-3)
    at_t = (np.array([2, 1, 1, 1, 1, 2]) / (4 * np.cosh(np.clip(temperature * u, -300, 300) / 2) ** 2)).sum(1)
    check_near("paper", gradients(module(3, "weight", temperature=temperature), x)[0], temperature * at_t, 2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_released_sigmoid_keeps_the_slope_of_its_clamp(dtype):
    x = torch.tensor([99.0], dtype=dtype)
    slope = math.exp(-10) / (1 + math.exp(-10)) ** 2
    check_near("released", gradients(module(variant="released", temperature=50.0), x)[0], [3 * 50 * slope], 1e-7)
    check_near("paper", gradients(module(temperature=50.0), x)[0], [0.0], 1e-9)


def test_the_temperature_of_released_weights_ends_at_2000():
    x = torch.linspace(-2, 2, 41)
    for role, same in (("weight", True), ("activation", False)):
        ours, other = (gradients(module(2, role, variant="released", temperature=t), x)[0] for t in (2000.0, 4000.0))
        assert np.array_equal(ours, other) == same


@pytest.mark.parametrize("variant", ["paper", "paper_pm2", "released"])
def test_loops_at_high_temperatures(variant):
    """Where sigmoids are steps, and on the steps themselves."""
    for role in ("weight", "activation"):
        made = module(3, role, variant=variant, temperature=5e4)
        x = torch.cat(
            [made.biases.detach() / 2, torch.linspace(-3, 5, 101), torch.tensor([math.inf, -math.inf, math.nan])]
        )
        got = made.train()(x).detach().numpy()
        with without_loops():
            check_near(f"{made}", np.nan_to_num(got), np.nan_to_num(made(x).detach().numpy()), 1e-5)
        assert np.isnan(got).tolist() == x.isnan().tolist()
        check_same("NaN", made.eval()(x).isnan().numpy(), x.isnan().numpy())


def test_a_layer_of_an_uneven_set_convolves_its_integers():
    torch.manual_seed(0)
    layer = QuantConv2d(4, 6, 3, method="qnet", bits=(3, 2), bias=False)
    x = torch.rand(2, 4, 7, 7)
    layer.train()(x)
    layer.eval()
    assert layer.is_integral
    w = layer.weight_quantizer.integers(layer.weight)
    assert set(w.unique().tolist()) == {-4, -2, -1, 0, 1, 2, 4}
    assert layer.weight_quantizer.largest_integer == 4
    sums = convolve(layer.input_quantizer.integers(x).long().numpy(), w.long().numpy())
    want = sums * (layer.weight_quantizer.alpha * layer.input_quantizer.alpha).detach().numpy()
    check_same("layer", layer(x).detach().numpy(), want.astype(np.float32))


def test_codes_that_an_uneven_set_does_not_have_are_refused():
    made = module(3, "weight")
    assert made.decode(torch.tensor([0, 3, 6])).tolist() == [-2, 0, 2]
    for q in (-1.0, 7.0, 0.5):
        with pytest.raises(ValueError, match="codes must be whole numbers from 0 to 6"):
            made.decode(torch.tensor([q]))
