"""PACT's module: alpha is learned from the first batch on. What all methods share is in test_contract.py."""

import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import check_same
from tests.strategies import bit_widths, dtypes, finite_inputs
from tests.torchimpl.modules import tensor, without_loops
from torchimpl.quantizers.pact import PACT

alphas = st.floats(2.0**-5, 20, width=32)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_gets_a_gradient_from_the_first_batch_on(bits, dtype):
    """Code that clips only once a calibration has run gives it none."""
    module = PACT(bits).train()
    x = torch.tensor([-1.0, 4.0, 10.0, 11.0, 12.0], dtype=dtype, requires_grad=True)
    for batch in (1, 2):
        module(x).sum().backward()
        assert module.alpha.grad.item() == 3 * batch
        assert (x.grad / batch).tolist() == [0, 1, 0, 0, 0]


@given(st.data(), dtypes, bit_widths, alphas)
def test_gradients_are_whole_on_and_next_to_the_ends(data, dtype, bits, alpha):
    x = data.draw(finite_inputs(0.0, alpha, bits, dtype))
    module = PACT(bits)
    with torch.no_grad():
        module.alpha.fill_(alpha)
    leaf = tensor(x).requires_grad_()
    module(leaf).sum().backward()
    want = [float(0 <= v < dtype(alpha)) for v in x]
    check_same(f"gradient of {x!r}, alpha={alpha}", leaf.grad.numpy(), np.array(want, dtype))
    assert module.alpha.grad.item() == sum(v >= dtype(alpha) for v in x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("variant", "want"),
    [("paper", [0, 1, 1, 1, 0, 0]), ("distiller", [0, 0, 0, 1, 0, 0]), ("fms-model-optimizer", [0, 1, 1, 1, 1, 0])],
)
def test_the_ends_of_the_clip_range(variant, want, dtype):
    """By the compiled loops as by torch's operations."""
    module = PACT(2, variant=variant).train()
    with torch.no_grad():
        module.alpha.fill_(1.5)
    x = torch.tensor([-0.25, -0.0, 0.0, 0.75, 1.5, 1.75], dtype=dtype)
    for setting in (contextlib.nullcontext, without_loops):
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        with setting():
            module(leaf).sum().backward()
        assert leaf.grad.tolist() == want
        assert module.alpha.grad.item() == 2


@given(st.data(), dtypes, alphas)
def test_distiller_is_relu_and_where_as_autograd_has_them(data, dtype, alpha):
    x = data.draw(finite_inputs(0.0, alpha, 2, dtype))
    module = PACT(2, variant="distiller")
    with torch.no_grad():
        module.alpha.fill_(alpha)
    ours, theirs = tensor(x).requires_grad_(), tensor(x).requires_grad_()
    top = torch.tensor(alpha, dtype=theirs.dtype, requires_grad=True)
    module(ours).sum().backward()
    ramp = torch.nn.functional.relu(theirs)
    torch.where(ramp < top, ramp, top).sum().backward()
    check_same(f"gradient of {x!r}, alpha={alpha}", ours.grad.numpy(), theirs.grad.numpy())
    assert module.alpha.grad.item() == top.grad.item()


def test_the_penalty_is_alpha_squared():
    module = PACT(2)
    assert module.penalty().item() == 100
    module.penalty().backward()
    assert module.alpha.grad.item() == 20
    assert PACT(2, shape=(3, 1)).penalty().item() == 300


def test_no_batch_is_needed_and_none_moves_alpha():
    module = PACT(3).eval()
    assert module(torch.tensor(20.0)).item() == 10
    module.train()(torch.full((4,), 50.0))
    module.initialize(torch.full((4,), 50.0))
    assert module.alpha.item() == 10


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_an_alpha_that_is_not_positive(alpha):
    module = PACT(2)
    with torch.no_grad():
        module.alpha.fill_(alpha)
    x = torch.tensor([-1.0, 0.0, 1.0])
    assert module(x).isnan().all()
    with pytest.raises(ValueError, match="alpha must be positive and finite"):
        module.codes(x)


def test_one_alpha_a_channel():
    module = PACT(1, shape=(2, 1))
    with torch.no_grad():
        module.alpha.copy_(torch.tensor([[1.0], [2.0]]))
    x = torch.tensor([[3.0, 0.2, 5.0], [0.4, 1.2, 2.0]])
    got = module(x)
    got.sum().backward()
    assert got.tolist() == [[1, 0, 1], [0, 2, 2]]
    assert module.alpha.grad.tolist() == [[2], [1]]
    assert module.decode(module.codes(x)).tolist() == got.tolist()


def test_an_alpha_that_is_infinite():
    for alpha, dtype in ((math.inf, torch.float32), (math.inf, torch.float16)):
        module = PACT(2)
        with torch.no_grad():
            module.alpha.fill_(alpha)
        x = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
        assert module(x).isnan().all()
        with pytest.raises(ValueError, match="must be positive and finite"):
            module.codes(x)
