"""RQ's module: the noise that it draws; with the same noise it is the reference. The rest is in test_contract.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import rq
from tests.oracles import check_near
from tests.strategies import cotangents, sample
from torchimpl.contract import reference_params
from torchimpl.quantizers.base import noiseless
from torchimpl.quantizers.rq import RQ

ROLES = ["weight", "activation", "signed_activation"]


def module_for(bits, role, variant="paper", **options):
    module = RQ(bits, role, variant=variant, **options)
    module.initialize(torch.from_numpy(sample(3, role)).float())
    return module


@pytest.mark.draws_noise
@given(st.integers(2, 4), st.sampled_from(ROLES), st.sampled_from(rq.METHOD.variants), st.integers(0, 99))
def test_with_the_same_noise_it_is_the_reference(bits, role, variant, seed):
    module = module_for(bits, role, variant).double()
    x = torch.from_numpy(sample(seed, role))
    torch.manual_seed(seed)
    noise = module.draw(x)
    torch.manual_seed(seed)
    leaf = x.clone().requires_grad_()
    got = module.train()(leaf)
    grad = cotangents(x.numpy())
    params = reference_params(module)
    want = rq.forward(x.numpy(), params, training=True, noise=noise.numpy())
    check_near("forward", got.detach().numpy(), want, 1e-12)
    got.backward(torch.from_numpy(grad))
    by_x, by = rq.vjp(x.numpy(), params, grad, noise=noise.numpy())
    check_near("x", leaf.grad.numpy(), by_x, 1e-10)
    for name, value in module.named_parameters():
        check_near(name, value.grad.numpy(), by[name], 1e-10 * (1 + abs(by[name])))


@pytest.mark.draws_noise
def test_noise_is_drawn_anew_in_training_and_never_in_test():
    x = torch.linspace(-2, 2, 50)
    for variant in rq.METHOD.variants:
        module = module_for(2, "weight", variant).train()
        assert not torch.equal(module(x), module(x))
        torch.manual_seed(1)
        first = module(x)
        torch.manual_seed(1)
        assert torch.equal(module(x), first)
        with noiseless():
            assert torch.equal(module(x), module(x))
        before = torch.random.get_rng_state()
        assert torch.equal(module.eval()(x), module(x))
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.draws_noise
def test_the_noise_is_of_a_gumbel_distribution():
    """Mean 0.5772 and variance pi^2/6, within 5 deviations of the mean of 200,000 numbers."""
    torch.manual_seed(0)
    u = module_for(1, "activation").draw(torch.zeros(100_000)).double()
    assert u.shape == (2, 100_000)
    assert u.isfinite().all()
    check_near("mean", u.mean().item(), np.euler_gamma, 5 * np.pi / np.sqrt(6 * u.numel()))
    check_near("variance", u.var().item(), np.pi**2 / 6, 0.03)


@pytest.mark.draws_noise
def test_rq_st_is_on_the_grid_in_training_and_rq_is_not():
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    levels = torch.from_numpy(rq.levels(reference_params(module_for(2, "weight")))).float()
    assert torch.isin(module_for(2, "weight", "straight_through").train()(x), levels).all()
    assert not torch.isin(module_for(2, "weight", "paper").train()(x), levels).any()


@pytest.mark.draws_noise
def test_half_precision_draws_in_float32():
    module, x = module_for(2, "activation").train(), torch.rand(40, dtype=torch.bfloat16, requires_grad=True)
    assert module.draw(x).dtype == torch.float32
    out = module(x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.draws_noise
def test_a_compiled_module_draws_too():
    module = module_for(2, "weight").train()
    torch.compiler.reset()
    compiled, x = torch.compile(module, fullgraph=True, backend="eager"), torch.linspace(-2, 2, 30)
    assert not torch.equal(compiled(x), compiled(x))


def test_the_offset_is_learned_where_0_need_not_be_a_level():
    learned = {role: "beta" in dict(module_for(2, role).named_parameters()) for role in ROLES}
    assert learned == {"weight": False, "activation": False, "signed_activation": True}
    assert [module_for(2, role).is_integral for role in ROLES] == [True, True, False]


def test_temperatures_that_are_refused():
    with pytest.raises(ValueError, match=r"temperature must be a number from 0\.01 to 100, got 0"):
        RQ(2, "weight", temperature=0)


@pytest.mark.draws_noise
def test_a_noise_scale_that_training_has_driven_below_0_counts_as_the_smallest():
    module, smallest = module_for(2, "weight").train(), module_for(2, "weight").train()
    x = torch.linspace(-2, 2, 41, requires_grad=True)
    with torch.no_grad():
        module.sigma.fill_(-0.1)
        smallest.sigma.copy_(smallest.alpha / rq.STEEPEST)
    for each in (module, smallest):
        torch.manual_seed(0)
        each(x).square().sum().backward()
    check_near("gradient", module.sigma.grad.item(), smallest.sigma.grad.item(), 1e-4)
    assert torch.equal(module.eval()(x), smallest.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_little_noise_and_inputs_far_outside(dtype):
    """Where all probabilities underflow, ratios of them do not."""
    module = module_for(2, "activation").to(dtype).train()
    with torch.no_grad():
        module.sigma.copy_(module.alpha / 500)
    x = torch.tensor([-1e30, -9.0, 0.3, 9.0, 1e30, math.inf, -math.inf], dtype=dtype, requires_grad=True)
    out = module(x)
    params = reference_params(module)
    want = rq.forward(x.detach().double().numpy(), params, training=True)
    check_near("forward", out.detach().numpy(), want, 1e-5 * (1 + abs(want)))
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite() for p in module.parameters())


def test_a_state_of_another_temperature_is_refused():
    made = RQ(2, "weight", temperature=0.5)
    made.initialize(torch.tensor([0.0, 1.0, 2.0]))
    RQ(2, "weight", temperature=0.5).load_state_dict(made.state_dict())
    with pytest.raises(RuntimeError, match=r"temperature=0\.5.* loaded into .*temperature=1"):
        RQ(2, "weight").load_state_dict(made.state_dict())
