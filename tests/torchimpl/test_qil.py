"""QIL's module: what is learned, the first interval, and gradients at the interval's ends."""

import math

import numpy as np
import pytest
import torch

from reference import qil
from tests.oracles import check_near
from torchimpl.contract import reference_params
from torchimpl.quantizers.qil import QIL


def module(role, center, distance, gamma, bits=4, shape=()):
    made = QIL(bits, role, shape=shape)
    with torch.no_grad():
        for name, value in {"center": center, "distance": distance, "gamma": gamma}.items():
            getattr(made, name).copy_(torch.as_tensor(value))
    made.mark_initialized()
    return made


def test_gamma_is_learned_for_weights_only():
    assert {name for name, _ in QIL(4, "weight").named_parameters()} == {"center", "distance", "gamma"}
    activations = QIL(4)
    assert {name for name, _ in activations.named_parameters()} == {"center", "distance"}
    assert activations.gamma.item() == 1
    assert "gamma" in activations.state_dict()


@pytest.mark.parametrize("role", ["weight", "activation"])
def test_the_first_interval_reaches_from_0_to_the_largest_magnitude(role):
    made = QIL(3, role).train()
    made(torch.tensor([0.5, 3.0, 1.0]))
    assert (made.center.item(), made.distance.item(), made.gamma.item()) == (1.5, 1.5, 1)
    channels = QIL(3, role, shape=(2, 1)).train()
    channels(torch.tensor([[0.5, 3.0], [1.0, 0.25]]))
    assert channels.center.tolist() == channels.distance.tolist() == [[1.5], [0.5]]
    for bad in (torch.zeros(3), torch.zeros(0), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="largest magnitude of the first batch must be positive and finite"):
            QIL(3, role).train()(bad)


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("role", ["weight", "activation"])
def test_gradients_at_the_ends_of_the_interval(gamma, role):
    """Finite at the lower end, where u^(gamma-1) may be infinite; nothing for what is pruned or clipped."""
    made = module(role, 1.0, 0.5, gamma)
    x = np.array([-math.inf, -2.0, -1.0, -0.4, 0.0, 0.4, 0.5, 0.5 + 2.0**-14, 0.75, 1.5, 1.6, math.inf])
    leaf = torch.from_numpy(x).requires_grad_()
    made(leaf).sum().backward()
    want_x, want = qil.vjp(x, reference_params(made), np.ones_like(x))
    assert np.isfinite(want_x).all()
    check_near(f"x, gamma={gamma}", leaf.grad.numpy(), want_x, 1e-12 * (1 + np.abs(want_x)))
    pruned_or_clipped = [0, 1, 3, 4, 5, 10, 11] if role == "weight" else [0, 1, 2, 3, 4, 5, 10, 11]
    assert (leaf.grad.numpy() == 0).nonzero()[0].tolist() == pruned_or_clipped
    for name, value in made.named_parameters():
        check_near(f"{name}, gamma={gamma}", value.grad.numpy(), want[name], 1e-6 * (1 + np.abs(want[name])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [2.0**-10, 0.5])
def test_gradients_are_finite_in_every_type(dtype, gamma):
    made = module("weight", 0.5, 0.5, gamma)
    x = torch.linspace(-1.25, 1.25, 2001).to(dtype).requires_grad_()
    made(x).sum().backward()
    assert x.grad.isfinite().all()
    assert all(value.grad.isfinite() for value in made.parameters())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("distance", 0.0),
        ("distance", -1.0),
        ("distance", math.inf),
        ("gamma", 0.0),
        ("gamma", -1.0),
        ("gamma", math.inf),
    ],
)
def test_parameters_driven_out_of_range(name, value):
    made = module("weight", **({"center": 1.0, "distance": 0.5, "gamma": 1.0} | {name: value}))
    x = torch.tensor([-1.0, 0.0, 0.1, 5.0])
    assert made(x).isnan().all()
    with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
        made.codes(x)


def test_one_interval_a_channel():
    made = module("weight", [[1.0], [2.0]], [[0.5], [1.0]], [[1.0], [2.0]], bits=3, shape=(2, 1))
    x = torch.tensor([[0.4, -1.0, 3.0], [0.8, -2.0, 6.0]])
    got = made(x)
    check_near("forward", (3 * got).detach().numpy(), [[0, -2, 3], [0, -1, 3]], 1e-6)
    got.sum().backward()
    assert made.center.grad.shape == (2, 1)
    assert made.codes(x).tolist() == [[3, 1, 6], [3, 2, 6]]


@pytest.mark.parametrize("center", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("role", ["weight", "activation"])
def test_a_center_that_is_not_finite(role, center):
    made = module(role, center, 0.5, 1.0)
    x = torch.tensor([-1.0, 0.0, 0.1, 5.0])
    assert made(x).isnan().all()
    with pytest.raises(ValueError, match="center must be finite"):
        made.codes(x)
