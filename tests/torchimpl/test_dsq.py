"""DSQ's module: the soft quantizer's gradients. The rest is in test_base.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from reference import dsq
from tests.oracles import check_near, check_same, eps, steepness
from tests.strategies import bit_widths, clip_ranges, cotangents, dtypes, finite_inputs, roles
from tests.torchimpl.modules import gradients, quantizer
from torchimpl.quantizers.dsq import DSQ

single_alphas = st.floats(2.0**-19, 0.875, width=32) | st.floats(2.0**-6, 0.5, width=32)  # exact in float32


@pytest.mark.parametrize("variant", ["hard", "soft"])
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges(), alpha=single_alphas)
@example(data=None, dtype=np.float32, bits=2, role="weight", clip_range=(-1.0, 1.0), alpha=0.9)
@example(data=None, dtype=np.float64, bits=2, role="weight", clip_range=(-1.0, 1.0), alpha=0.25)
def test_gradients_are_the_references(variant, data, dtype, bits, role, clip_range, alpha):
    if data is None:
        x = np.linspace(-1.2, 1.2, 49, dtype=dtype)
    else:
        x = data.draw(finite_inputs(*clip_range, bits, dtype))
    ours = quantizer("dsq", bits, role, *clip_range, alpha=alpha, variant=variant)
    got = gradients(ours, x, cotangents(x))
    grad_x, want = dsq.vjp(x, dsq.Params(*clip_range, bits, role, alpha, variant), cotangents(x))
    # As in tests/reference/test_dsq.py, for both; the parameters and their gradients are float32.
    s, K, n = 1 / (1 - alpha), float(steepness(alpha)), 2**bits - 1
    slope_error = 2 * (12 + (1 + 2 * n) * K) * eps(x) * s * K
    expression = f"{ours} with alpha={alpha} at {x!r}, {clip_range}"
    check_near(f"{expression}: gradient of x", got["x"], grad_x, slope_error * cotangents(x))
    end_error = 2 * slope_error + (8 + x.size) * (1 + s * K) * eps(x)
    a, width = alpha * (2 - alpha), float(clip_range[1] - clip_range[0]) / n
    size = width * (s + s / a)
    by_alpha = 2 * eps(x) * ((12 + x.size) * size + width * (0.25 + 2 * n) * (s * s * K + 3 * s * K / a))
    total = cotangents(x).sum()
    for name, error in {"lower": end_error, "upper": end_error, "alpha": by_alpha}.items():
        if name in got:
            bound = (error + 1.2e-7 * (size if name == "alpha" else s * K)) * total
            check_near(f"{expression}: gradient of {name}", got[name], want[name], bound)


@pytest.mark.parametrize(("alpha", "admitted"), [(-1.0, 1e-6), (0.0, 1e-6), (1.0, 0.9), (2.0, 0.9)])
def test_an_alpha_that_has_left_its_range_counts_as_the_nearest_admitted(alpha, admitted):
    x = np.linspace(-1.1, 1.1, 23, dtype=np.float32)
    found = []
    for value in (alpha, admitted):
        ours = quantizer("dsq", 2, "weight")
        with torch.no_grad():
            ours.alpha.fill_(value)
        found.append(gradients(ours, x, cotangents(x)))
    for name, value in found[0].items():
        assert np.isfinite(value).all()
        check_same(f"gradient of {name} at alpha={alpha}", value, found[1][name])


def test_alpha_is_learned_and_starts_at_one_fifth():
    ours = DSQ(2, "weight")
    assert ours.alpha.item() == np.float32(0.2)
    assert ours.alpha.requires_grad


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, math.nan, None])
def test_alphas_that_are_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha must be a number from 1e-06 to 0.9, got {alpha}"):
        DSQ(2, "weight", alpha=alpha)


@pytest.mark.parametrize("soft", [False, True])
def test_the_operator_broadcasts_what_it_quantizes(soft):
    """To the shape of a range per channel; other shapes, types and strides are the contract's."""
    ends = [torch.full((3, 1), end, requires_grad=True) for end in (-1.0, 1.0)]
    x, alpha = torch.randn(4, requires_grad=True), torch.tensor(0.2, requires_grad=True)
    torch.library.opcheck(torch.ops.quantgap.dsq.default, (x, *ends, alpha, 3, soft))


def test_equal_activations_have_a_range():
    """From 0 to their value, as in the reference; values that are not finite are refused in any role."""
    ours = DSQ(2)
    ours.initialize(torch.tensor([2.0, 2.0]))
    assert (ours.lower.item(), ours.upper.item()) == (0, 2)
    with pytest.raises(ValueError, match="range of the first batch must be of finite values that differ"):
        DSQ(2).initialize(torch.tensor([-math.inf, 2.0]))


def test_the_penalty_is_alpha_squared():
    ours = DSQ(2, alpha=0.5)
    assert ours.penalty().item() == dsq.penalty(dsq.Params(0.0, 1.0, 2, "activation", 0.5)) == 0.25
    ours.penalty().backward()
    assert ours.alpha.grad.item() == 1


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_level_in_the_gradient_is_the_one_put_out(bits):
    """At ties and next to them too: at alpha = 0.9 du = P - g p tells the levels apart, and P is the output's."""
    low, high, n = -1.1, 1.7, 2**bits - 1
    ties = low + (high - low) * (np.arange(n) + 0.5) / n
    x = np.concatenate([np.nextafter(np.float32(ties), np.float32(k)) for k in (-9, 9)] + [np.float32(ties)])
    for each in x:
        ours = quantizer("dsq", bits, "weight", low, high, alpha=0.9)
        got = gradients(ours, np.array([each], np.float32), np.ones(1, np.float32))
        p = (float(each) - float(np.float32(low))) / (float(np.float32(high)) - float(np.float32(low)))
        level = ours.codes(torch.tensor([each])).item() / n
        check_near(f"gradient of u at {each}", got["upper"] + got["x"][0] * p, level, 0.1 / n)
