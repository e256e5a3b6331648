"""The straight-through module: rounding rules forward, the identity backward. The rest is in test_base.py."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import grid, ste
from tests.oracles import check_near, check_same, elementwise, eps, round_by
from tests.strategies import bit_widths, clip_ranges, cotangents, dtypes, finite_inputs, normalized, roles
from tests.torchimpl.modules import gradients, quantizer, tensor
from torchimpl.quantizers import ste as torch_ste

rules = st.sampled_from(sorted(grid.ROUNDINGS))


@given(st.data(), dtypes, rules)
def test_rounding(data, dtype, rule):
    x = data.draw(normalized(dtype))
    want = elementwise(lambda v: round_by(rule, v), x).astype(dtype)
    check_same(f"round_by({rule!r}, {x!r})", torch_ste.round_by(rule, tensor(x)).numpy(), want)


@pytest.mark.parametrize("rule", sorted(grid.ROUNDINGS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_half_integer_and_its_neighbours(rule, dtype):
    ties = np.arange(0, 256, dtype=dtype) + dtype(0.5)
    x = np.concatenate([np.nextafter(ties, dtype(0)), ties, np.nextafter(ties, dtype(999))])
    want = elementwise(lambda v: round_by(rule, v), x).astype(dtype)
    check_same(f"round_by({rule!r}, half-integers)", torch_ste.round_by(rule, tensor(x)).numpy(), want)


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), rules)
def test_gradients_are_the_references(data, dtype, bits, role, clip_range, rule):
    x = data.draw(finite_inputs(*clip_range, bits, dtype))
    ours = quantizer("ste", bits, role, *clip_range, variant=rule)
    got = gradients(ours, x, cotangents(x))
    grad_x, ends = ste.vjp(x, ste.Params(*clip_range, bits, role, rule), cotangents(x))
    expression = f"{ours} at {x!r}, {clip_range}"
    # Product, quotient and width in either, in another order: four roundings of eps/2 each.
    check_near(f"{expression}: gradient of x", got["x"], grad_x, 4 * eps(x) * np.abs(grad_x))
    # The parameters are float32, and so is the gradient that they receive.
    total = ((8 + x.size) * eps(x) + 1.2e-7) * np.abs(grad_x).sum()
    for end in set(got) - {"x"}:
        check_near(f"{expression}: gradient of {end}", got[end], ends[end], total)


def test_gradients_of_one_input():
    """x = -0.4 in [-1, 1] has p = 0.3; weights are scaled by 2, and the width is 2."""
    found = gradients(quantizer("ste", 2, "weight"), np.array([-0.4, 5.0]), np.ones(2))
    got = [*found["x"], found["lower"], found["upper"]]
    check_near("gradients at -0.4 and 5", got, [1, 0, -0.7, -0.3], 1.2e-7)  # the parameters are float32


def test_the_operator_broadcasts_what_it_quantizes():
    """To the shape of a range per channel; other shapes, types and strides are the contract's."""
    ends = [torch.full((3, 1), end, requires_grad=True) for end in (-1.0, 1.0)]
    x = torch.randn(4, requires_grad=True)
    torch.library.opcheck(torch.ops.quantgap.ste.default, (x, *ends, 3, True, "half_even"))
