"""Products in bfloat16 on CPUs without instructions for it, held to sums of integers, which float64 has exactly."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from paper_tables import runs
from tests.torchimpl import networks
from tests.torchimpl.networks import images, small
from torchimpl.training import bfloat16, store, trainer
from torchimpl.training.bfloat16 import RoundedProducts

LINEAR = (F.linear, (3, 7), (4, 7), (4,))
CONVOLUTION = (partial(F.conv2d, stride=2, padding=1), (2, 3, 6, 5), (4, 3, 3, 3), (4,))
GROUPED = (partial(F.conv2d, groups=2), (1, 4, 5, 5), (2, 2, 3, 3))


def nearest(values):
    """Round integers to 8 significant bits, ties to even."""
    values = values.detach().numpy().astype(np.int64)
    unit = 2 ** np.maximum(np.frexp(values)[1] - 8, 0).astype(np.int64)
    return np.round(values / unit).astype(np.int64) * unit


def value_and_gradients(product, operands, behind):
    leaves = [operand.requires_grad_() for operand in operands]
    value = product(*leaves)
    return value, *torch.autograd.grad(value, leaves, behind.to(value.dtype))


@given(seed=st.integers(0, 2**32 - 1), case=st.sampled_from([LINEAR, CONVOLUTION, GROUPED]))
def test_operands_and_results_are_rounded_and_nothing_between(seed, case):
    rng = np.random.default_rng(seed)
    product, *shapes = case
    operands = [torch.tensor(rng.integers(-1000, 1001, shape), dtype=torch.float32) for shape in shapes]
    rounded = [torch.tensor(nearest(operand), dtype=torch.float64) for operand in operands]
    behind = torch.tensor(rng.integers(-3, 4, product(*operands).shape), dtype=torch.float64)
    expected = value_and_gradients(product, rounded, behind)
    with RoundedProducts(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradients(product, operands, behind)
    assert [each.dtype for each in found] == [torch.bfloat16] + [torch.float32] * len(operands)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.detach().float().numpy(), nearest(other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrowed", [None, torch.float16, torch.bfloat16])
def test_what_is_not_narrowed_to_bfloat16_is_as_without(dtype, narrowed):
    """Values that bfloat16 does not have would be rounded."""
    x, weight = torch.full((1, 2), 1 + 2**-9, dtype=dtype), torch.ones(1, 2, dtype=dtype)
    with torch.autocast("cpu", dtype=narrowed or torch.bfloat16, enabled=narrowed is not None):
        expected = F.linear(x, weight)
        with RoundedProducts():
            found = F.linear(x, weight)
    assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


@pytest.mark.parametrize("product", [F.conv2d, F.linear])
def test_operands_may_be_named(product):
    x = torch.full((1, 1, 1, 1), 1 + 2**-9)
    with RoundedProducts(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = product(input=x, weight=torch.full((1, 1, 1, 1) if product is F.conv2d else (1, 1), 1 + 2**-9))
    assert (found.dtype, found.item()) == (torch.bfloat16, 1.0)


def test_runs_and_rehearsals_take_what_the_cpu_has(monkeypatch, tmp_path):
    made = small("plain", precision="bfloat16")
    both = images("train", 96), images("test", 50)
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: True)
    with RoundedProducts():
        expected = networks.fingerprint(trainer.train(made, *both)), trainer.rehearsal(made, *both)
    seen = []  # by some CPUs' instructions the bits are the same
    monkeypatch.setattr(bfloat16, "_narrowed", lambda x, narrowed=bfloat16._narrowed: seen.append(x) or narrowed(x))
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: False)
    state, _ = store.run(made, tmp_path, *both)
    assert seen
    assert networks.fingerprint(state) == expected[0]
    seen.clear()
    assert runs.rehearsal(made, *both)["rehearsal"] == expected[1].digest
    assert seen
    seen.clear()
    assert not isinstance(bfloat16.products("cuda"), RoundedProducts)
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: True)
    store.run(made, tmp_path / "other", *both)
    runs.rehearsal(made, *both)
    assert not seen


def test_without_its_library_torch_has_no_instructions(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.delattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", raising=False)
    assert not bfloat16.has_instructions()
