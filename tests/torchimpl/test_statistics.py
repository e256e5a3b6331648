"""Sums of weights: all elements, in one order, whatever lies where in memory."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reference import grid
from tests.oracles import check_near, check_same
from tests.torchimpl.modules import layouts, threads
from torchimpl.quantizers import build
from torchimpl.statistics import ROW, ordered_sum, standardize

WEIGHTS = st.tuples(*[st.integers(1, 9)] * 4)


def weights(seed, shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=4, max_side=9), elements=st.floats(-1e3, 1e3)))
def test_the_sum_is_that_of_all_elements(x):
    bound = x.size * 2.3e-16 * np.abs(x).sum()
    check_near(f"ordered_sum({x!r})", ordered_sum(torch.from_numpy(x)).numpy(), math.fsum(x.ravel()), bound)


@pytest.mark.parametrize("count", [0, 1, ROW - 1, ROW, ROW + 1, 3 * ROW + 5, 40 * ROW + 7])
def test_whole_numbers_are_summed_exactly(count):
    """Whatever the number of elements: none is left out, none counts twice."""
    x = torch.arange(count, dtype=torch.float64)
    assert ordered_sum(x).item() == count * (count - 1) // 2


@given(st.integers(0, 2**31), st.tuples(st.integers(2, 40), st.integers(2, 20), st.integers(2, 5), st.integers(2, 5)))
def test_layout_and_threads_do_not_change_a_bit(seed, shape):
    w = weights(seed, shape)
    want = ordered_sum(w).numpy()
    for name, view in layouts(w).items():
        check_same(f"{name}, {shape}", ordered_sum(view).numpy(), want)
    with threads(3):
        check_same(f"three threads, {shape}", ordered_sum(w).numpy(), want)


@given(st.integers(0, 2**31), WEIGHTS.filter(lambda shape: math.prod(shape) > 1))
def test_standardised_weights_have_the_same_bits_in_any_layout(seed, shape):
    for dtype in (torch.float32, torch.float64):
        w = weights(seed, shape, dtype)
        want = standardize(w).numpy()
        for name, view in layouts(w).items():
            check_same(f"{name}, {shape}", standardize(view).contiguous().numpy(), want)


@pytest.mark.parametrize("shape", [(3,), (ROW,), (ROW + 1,), (64, 64, 3, 3), (256, 256, 3, 3), (7, ROW + 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_and_layout_change_no_bit(shape, dtype):
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    layouts = [x, x.flip(0).flip(0)]
    if len(shape) == 4:
        layouts.append(x.contiguous(memory_format=torch.channels_last))
    found = []
    for count in (1, 2, 3):
        with threads(count):
            for view in layouts:
                first = standardize(view).double()[(0,) * len(shape)]
                found.append(torch.stack([ordered_sum(view), first]).numpy())
    for other in found[1:]:
        check_same(f"{shape}", other, found[0])
    check_near("sum", found[0][0], math.fsum(x.flatten().tolist()), 1e-6 * float(x.abs().sum()))


@pytest.mark.parametrize(
    ("method", "channelwise"), [("daq", False), ("dorefa", False), ("irnet", False), ("irnet", True)]
)
def test_quantized_weights_depend_on_neither(method, channelwise):
    w = torch.randn(64, 600, 3, 3, generator=torch.Generator().manual_seed(0))
    options = {"shape": (64, 1, 1, 1)} if channelwise else {}
    module = build(method, bits=1, role="weight", **options).eval()
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found += [module(view).detach().numpy() for view in (w, w.contiguous(memory_format=torch.channels_last))]
    for other in found[1:]:
        check_same(method, np.ascontiguousarray(other), np.ascontiguousarray(found[0]))


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20).filter(lambda w: max(w) - min(w) > 1e-3))
def test_standardize_is_the_references(values):
    w = np.array(values)
    want = grid.standardize(w)
    # Mean and deviation are sums of 20 numbers, in another order.
    bound = 50 * 2.3e-16 * (1 + abs(want)) * (1 + abs(w).max() / w.std())
    check_near(f"standardize({w!r})", standardize(torch.from_numpy(w)).numpy(), want, bound)


def test_equal_weights_are_nan():
    for value in (0.0, 0.1, -3.7):
        assert standardize(torch.full((5, 7), value)).isnan().all()
