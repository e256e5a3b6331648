"""LSQ's module: the step size a channel, the mask of either variant. The rest is in test_contract.py."""

import math

import numpy as np
import pytest
import torch

from reference import lsq
from tests.oracles import check_near
from torchimpl.quantizers.lsq import LSQ


def gradients(module, x):
    leaf = x.clone().requires_grad_()
    module(leaf).sum().backward()
    return leaf.grad, module.step.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("variant", "for_x", "for_s"), [("paper", 0.0, 7.0), ("public", 1.0, -0.3)])
def test_a_value_a_bit_above_the_top(variant, for_x, for_s, dtype):
    module = LSQ(4, "weight", variant=variant)
    module.mark_initialized()
    grad_x, grad_s = gradients(module, torch.tensor([7.3], dtype=dtype))
    assert grad_x.item() == for_x
    check_near("step", grad_s.item() * math.sqrt(7), for_s, 1e-6)


@pytest.mark.parametrize("variant", ["paper", "public"])
def test_a_step_size_a_channel(variant):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    module = LSQ(3, "weight", variant=variant, shape=(4, 1, 1, 1))
    module(x)
    for c in range(4):
        check_near("step", module.step[c].item(), lsq.init(x[c].numpy(), 3, "weight").step, 1e-6)
    grad_x, grad_s = gradients(module, x)
    params = lsq.Params(module.step.detach().double().numpy(), 3, "weight", variant)
    want_x, want = lsq.vjp(x.numpy(), params, np.ones(x.shape))
    check_near("x", grad_x.numpy(), want_x, 0)
    check_near("step", grad_s.numpy(), want["step"], 1e-6)


def test_the_batch_does_not_count_among_the_features():
    """Twice the same images: twice the gradient, and not sqrt(2) of it."""
    x = torch.rand(4, 10)
    found = []
    for batch in (x, torch.cat([x, x])):
        module = LSQ(2, "activation")
        module.initialize(x)
        found.append(gradients(module, batch)[1].item())
    check_near("step", found[1], 2 * found[0], 1e-5 * abs(found[0]))


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan])
def test_a_step_size_out_of_range_gives_nan(step):
    module = LSQ(2, "weight")
    module.mark_initialized()
    with torch.no_grad():
        module.step.fill_(step)
    for dtype in (torch.float32, torch.float64):
        assert module(torch.ones(3, dtype=dtype)).isnan().all()
    with pytest.raises(ValueError, match="step must be positive and finite"):
        module.codes(torch.ones(3))
