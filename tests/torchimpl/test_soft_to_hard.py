"""Soft-to-hard quantization's module: its schedule and its codebook. Values and gradients are in test_contract.py."""

import math

import numpy as np
import pytest
import torch

from reference import soft_to_hard
from tests.oracles import check_near, check_same
from torchimpl.contract import reference_params
from torchimpl.quantizers.soft_to_hard import SoftToHard


def module_for(bits=2, variant="paper", **options):
    module = SoftToHard(bits, "weight", variant=variant, **options)
    module.initialize(torch.randn(200, generator=torch.Generator().manual_seed(0)))
    return module


def test_sigma_is_the_hardness_over_the_square_of_the_spacing():
    module = module_for(hardness=3.0)
    spacing = soft_to_hard.spacing(module.centers.detach().double().numpy())
    check_near("sigma", module.sigma.item(), 3.0 / spacing**2, 1e-5)
    with torch.no_grad():
        module.centers.mul_(2)
    check_near("it does not follow the centres", module.sigma.item(), 3.0 / spacing**2, 1e-5)


def test_before_a_first_batch_centres_are_even_and_sigma_is_the_references_default():
    """The hardness is then in the input's own unit, as in the public code."""
    check_near("centres", SoftToHard(2, "weight").centers.tolist(), [-1, -1 / 3, 1 / 3, 1], 1e-6)
    assert SoftToHard(2, "weight").sigma.item() == soft_to_hard.Params([0, 1, 2, 3], 2, "weight").sigma
    assert SoftToHard(2, "weight", hardness=3.0).sigma.item() == 3.0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_it_hardens_with_the_training_as_the_reference_says(share):
    module = module_for()
    module.set_progress(share)
    check_near("hardness", module.hardness.item(), soft_to_hard.annealed_hardness(share), 1e-5)
    other = module_for(variant="imgcomp-cvpr")
    other.set_progress(share)
    assert other.hardness.item() == 1.0


def test_the_gap_closes_as_it_hardens():
    module, x = module_for(), torch.randn(300, generator=torch.Generator().manual_seed(1))
    gaps = []
    for hardness in (1.0, 10.0, 1e4):
        module.set_hardness(hardness)
        gaps.append(float((module.train()(x) - module.eval()(x)).abs().mean()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.01


def test_centres_may_pass_each_other():
    """Levels are what is sorted; gradients go to the centres in their own order."""
    module = module_for()
    x = torch.linspace(-2, 2, 33)
    module(x).square().sum().backward()
    want, before = module.centers.grad.clone(), module.eval()(x).detach()
    module.train()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        module.centers.copy_(module.centers[order])
    module.centers.grad = None
    module(x).square().sum().backward()
    check_near("gradient", module.centers.grad.numpy(), want[order].numpy(), 1e-4)
    check_same("values", module.eval()(x).detach().numpy(), before.numpy())
    check_same(
        "levels", soft_to_hard.levels(reference_params(module)), np.sort(module.centers.detach().double().numpy())
    )


def test_far_inputs_and_a_hard_softmax_are_finite():
    for hardness in (1.0, 1e6):
        for dtype in (torch.float32, torch.float64):
            module = module_for(hardness=hardness).to(dtype)
            x = torch.tensor([-math.inf, -1e30, 1e30, math.inf], dtype=dtype, requires_grad=True)
            out = module(x)
            low, high = module.centers.min().item(), module.centers.max().item()
            check_near("values", out.detach().numpy(), [low, low, high, high], 1e-6)
            out.sum().backward()
            check_same("gradient", x.grad.numpy(), torch.zeros(4, dtype=dtype).numpy())
            check_near("centres", sorted(module.centers.grad.tolist()), [0, 0, 2, 2], 1e-6)


@pytest.mark.parametrize("hardness", [0, -1, 1e7, math.nan, None])
def test_hardnesses_that_are_refused(hardness):
    with pytest.raises(ValueError, match="hardness must be a number from"):
        SoftToHard(2, "weight", hardness=hardness)
