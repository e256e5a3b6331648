"""LSQ+ as a module: what is learned, how it starts per channel, and what parameters out of range do."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import lsqplus
from tests.oracles import check_near, check_same
from tests.strategies import sample
from tests.torchimpl.modules import tensor, without_loops
from torchimpl.quantizers.lsqplus import LSQPlus

activations = pytest.mark.parametrize("role", ["activation", "signed_activation"])


def quantizer(bits, role, step, beta=0.0, **options):
    module = LSQPlus(bits, role, **options)
    with torch.no_grad():
        module.step.fill_(step)
        module.beta.fill_(beta)
    module.mark_initialized()
    return module


def test_weights_have_no_offset_to_learn():
    module = LSQPlus(3, "weight")
    module.initialize(torch.tensor([1.0, 2.0, 3.0]))
    assert [name for name, _ in module.named_parameters()] == ["step"]
    assert module.state_dict()["beta"] == 0
    check_near("step", module.step.detach().numpy(), 5 / 4, 1e-6)
    public = LSQPlus(3, "weight", variant="public")
    public.initialize(torch.tensor([1.0, 2.0, 3.0]))
    check_near("step, public", public.step.detach().numpy(), 5 / 7, 1e-6)


@pytest.mark.parametrize("role", ["weight", "activation", "signed_activation"])
def test_ibms_code_learns_an_offset_for_weights_too(role):
    """2 bits, levels -2 ... 1 times s and beta: they span -1 ... 5 at first. No gradient has a factor."""
    module = LSQPlus(2, role, variant="fms-model-optimizer")
    module.initialize(torch.tensor([-1.0, 0.0, 2.0, 5.0]))
    assert {name: value.item() for name, value in module.named_parameters()} == {"step": 2, "beta": 3}
    assert not module.is_integral
    for loops in (True, False):
        x = torch.tensor([-9.0, -1.0, 0.5, 2.0, 5.0, 9.0], requires_grad=True)
        module.zero_grad()
        with nullcontext() if loops else without_loops():
            out = module(x)
            out.backward(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
        assert out.tolist() == [-1, -1, 1, 3, 5, 5]  # of the tie between 1 and 3, which are -1 and 0 times s, the even
        assert x.grad.tolist() == [0, 0, 4, 8, 0, 0]
        assert module.step.grad.item() == -2 * 3 + 0.25 * 4 + 0.5 * 8 + 48
        assert module.beta.grad.item() == 51


def test_ibms_code_starts_with_the_range_of_each_channel():
    module = LSQPlus(2, "weight", variant="fms-model-optimizer", shape=(2, 1))
    module.initialize(torch.tensor([[-1.0, 0.5, 5.0], [2.0, 2.5, 3.5]]))
    assert module.step.flatten().tolist() == [2, 0.5]
    assert module.beta.flatten().tolist() == [3, 3]
    assert module(torch.tensor([[-9.0, 9.0]] * 2)).tolist() == [[-1, 5], [2, 3.5]]


@activations
@pytest.mark.parametrize("variant", ["paper", "public"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_offset_learns_from_clipped_elements_only(role, variant, dtype):
    """One image of 4 elements at 2 bits: q is 0.5, -1, 3 (an end, inside by ``public``) and 5; N p = 12."""
    module = quantizer(2, role, 0.5, -1.0, variant=variant)
    x = torch.tensor([[-0.75, -1.5, 0.5, 1.5]], dtype=dtype, requires_grad=True)
    (module(x) * torch.tensor([[1.0, 2.0, 4.0, 8.0]])).sum().backward()
    public, scale = variant == "public", 1 / math.sqrt(12)
    check_same("gradient for x", x.grad.numpy(), torch.tensor([[1, 0, 4 * public, 0]], dtype=dtype).numpy())
    by_beta = 10 * scale if public else 14
    check_near("gradient for beta", module.beta.grad.numpy(), by_beta, 1e-5)
    by_step = -0.5 + 0 + (0 if public else 3 * 4) + 3 * 8
    check_near("gradient for step", module.step.grad.numpy(), by_step * scale, 1e-5)


@given(st.integers(1, 8), st.integers(0, 999))
def test_each_channel_starts_by_itself(bits, seed):
    x = sample(seed, "signed_activation", (3, 11))
    both = LSQPlus(bits, "signed_activation", shape=(3, 1))
    both.initialize(tensor(x))
    for c in range(3):
        want = lsqplus.init(x[c], bits, "signed_activation")
        for name in ("step", "beta"):
            got = getattr(both, name).detach().numpy()[c, 0]
            check_near(f"{name} of channel {c}, seed {seed}", got, getattr(want, name), 1e-6 * (1 + abs(got)))
    weights = LSQPlus(bits + (bits == 1), "weight", shape=(3, 1))
    weights.initialize(tensor(x))
    want = [lsqplus.init(row, weights.bits, "weight").step for row in x]
    check_near(f"steps of weights, seed {seed}", weights.step.detach().numpy()[:, 0], want, 1e-6 * np.array(want))


@pytest.mark.parametrize("role", ["weight", "activation", "signed_activation"])
@pytest.mark.parametrize("batch", [[], [2.0], [2.0, 2.0], [0.0, math.nan], [0.0, math.inf]], ids=str)
def test_a_batch_without_a_range_is_refused(role, batch):
    module = LSQPlus(2, role)
    with pytest.raises(ValueError, match="range of the first batch must be finite, with unequal ends"):
        module.initialize(torch.tensor(batch))
    assert not bool(module.initialized)


def test_one_constant_channel_is_refused():
    with pytest.raises(ValueError, match="range of the first batch must be"):
        LSQPlus(2, "activation", shape=(2, 1)).initialize(torch.tensor([[0.0, 1.0], [2.0, 2.0]]))


@activations
@pytest.mark.parametrize(
    ("name", "value"), [("step", 0.0), ("step", -1.0), ("beta", math.inf), ("beta", -math.inf), ("beta", math.nan)]
)
def test_parameters_out_of_range_give_nan(role, name, value):
    module = quantizer(2, role, **({"step": 1.0, "beta": 0.0} | {name: value}))
    x = torch.linspace(-2, 2, 9)
    assert module(x).isnan().all()
    with pytest.raises(ValueError, match=f"{name} must be "):
        module.codes(x)


@activations
def test_training_lowers_the_squared_error(role):
    """Shifted data: the offset follows them, as the step size alone could not."""
    x = tensor(sample(5, "signed_activation", (4, 64)).astype(np.float32)) + 3
    module = quantizer(2, role, 1.0, 0.0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    errors = []
    for _ in range(150):
        optimizer.zero_grad()
        error = (module(x) - x).square().mean()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.5 * errors[0], f"squared error from {errors[0]:.3f} to {errors[-1]:.3f}"
    assert float(module.beta.detach()) > 0.5


def test_a_step_size_a_channel_of_activations():
    """N counts the elements of one image that share a step size: 16, not all 48."""
    module = quantizer(2, "activation", 1.0, shape=(3, 1, 1))
    module(torch.full((2, 3, 4, 4), 9.0)).sum().backward()
    check_near("step", module.step.grad.flatten().numpy(), np.full(3, 32 * 3 / math.sqrt(16 * 3)), 1e-5)
    public = quantizer(2, "activation", 1.0, variant="public", shape=(3, 1, 1))
    public(torch.full((2, 3, 4, 4), 9.0)).sum().backward()  # N counts all 96
    check_near("step", public.step.grad.flatten().numpy(), np.full(3, 32 * 3 / math.sqrt(96 * 3)), 1e-5)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("seed", range(3))
def test_the_search_is_the_references(bits, seed):
    """In float64, by the same sums in the same order: more than near, on the CPU."""
    x = np.random.default_rng(seed).standard_t(2, (2, 3001))
    module = LSQPlus(bits, "signed_activation").double()
    module.initialize(tensor(x))
    want = lsqplus.init(x, bits, "signed_activation")
    for name in ("step", "beta"):
        check_near(name, getattr(module, name).item(), getattr(want, name), 1e-12 * (1 + abs(getattr(want, name))))


@pytest.mark.parametrize(("share", "stays"), [(0.8, True), (1.25, False)])
def test_the_range_stays_until_a_billionth_of_the_variation_is_gained(share, stays):
    """Of 0, d, 1 - d and 1 the range leaves 2 d^2, the two means half of it; the variation is 1."""
    d = math.sqrt(share * 1e-9)
    module = LSQPlus(1, "activation").double()
    module.initialize(torch.tensor([0, d, 1 - d, 1], dtype=torch.float64))
    step, beta = module.step.item(), module.beta.item()
    check_near("step, beta", [step, beta], [1, 0] if stays else [1 - d, d / 2], 1e-12)


def test_public_code_starts_with_the_range_of_each_channel():
    x = torch.tensor([[-1.0, 0.5, 5.0], [2.0, 2.5, 3.5]])
    module = LSQPlus(2, "activation", variant="public", shape=(2, 1))
    module.initialize(x)
    assert module.step.flatten().tolist() == [2, 0.5]
    assert module.beta.flatten().tolist() == [-1, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("role", ["weight", "activation"])
def test_a_channel_with_a_value_that_is_not_finite_is_refused(bad, channel, role):
    x = torch.rand(3, 4)
    x[channel, 1] = bad
    module = LSQPlus(2, role, shape=(3, 1))
    with pytest.raises(ValueError, match="range of the first batch must be finite, with unequal ends"):
        module.initialize(x)
    assert not bool(module.initialized)
