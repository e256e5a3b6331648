"""DASR's module: temperature set and saved, and the equality with DAQ. The rest is in test_contract.py."""

import copy
import math

import numpy as np
import pytest
import torch

from reference.dasr import annealed_beta
from tests.oracles import check_near, check_same
from tests.strategies import cotangents
from tests.torchimpl.modules import gradients, quantizer
from torchimpl.quantizers.dasr import DASR


@pytest.mark.parametrize("role", ["weight", "activation"])
@pytest.mark.parametrize("kernel", ["paper", "released"])
def test_combined_ste_at_the_adaptive_temperature_is_daq_up_to_coth(role, kernel):
    x = np.linspace(-1.2, 1.2, 97)
    ours = quantizer("dasr", 2, role, variant="combined_ste_adaptive", kernel=kernel)
    theirs = quantizer("daq", 2, role, variant=kernel)
    assert ours.sigma == theirs.sigma
    check_same(f"{ours}", *(q.train()(torch.from_numpy(x)).detach().numpy() for q in (ours, theirs)))
    got, want = (gradients(q, x, cotangents(x)) for q in (ours, theirs))
    for name, value in want.items():
        check_near(f"{ours}: gradient of {name}", got[name] / math.tanh(1), value, 1e-6 * (1 + np.abs(value)))


def test_the_temperature_shapes_training_and_not_test():
    x = torch.linspace(-1.2, 1.2, 25)
    ours = quantizer("dasr", 2, "weight", variant="kernel")
    soft, hard = [], []
    for beta in (4.0, 48.0):
        ours.set_beta(beta)
        soft.append(ours.train()(x).detach().numpy())
        hard.append(ours.eval()(x).detach().numpy())
    assert abs(soft[0] - soft[1]).max() > 0.1
    check_same("test mode", *hard)


def test_the_temperature_is_saved():
    ours, other = (DASR(2, "weight", beta=beta) for beta in (7.0, 9.0))
    other.load_state_dict(ours.state_dict())
    assert other.beta == copy.deepcopy(ours).beta == 7


def test_a_new_temperature_needs_no_new_compilation():
    torch.compiler.reset()
    ours = quantizer("dasr", 2, "weight", variant="kernel")
    x = torch.linspace(-1.2, 1.2, 25)
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    compiled(x)
    with torch.compiler.set_stance("fail_on_recompile"):
        ours.set_beta(3.0)
        check_same("compiled", compiled(x).detach().numpy(), ours(x).detach().numpy())


@pytest.mark.parametrize("beta", [-1, math.nan, math.inf, 2e8, None])
def test_temperatures_that_are_refused(beta):
    with pytest.raises(ValueError, match=f"beta must be a number from 0 to 1e\\+08, got {beta}"):
        DASR(2, "weight", beta=beta)
    ours = DASR(2, "weight")
    with pytest.raises(ValueError, match="beta must be a number"):
        ours.set_beta(beta)
    assert ours.beta == 24


def test_progress_anneals_the_temperature_of_those_built_for_it():
    fixed, annealed = DASR(2, "weight"), DASR(2, "weight", annealed=True)
    for progress in (0, 0.25, 1):
        for ours in (fixed, annealed):
            ours.set_progress(progress)
        assert fixed.beta == 24
        check_near("beta", annealed.beta.numpy(), annealed_beta(progress), 1e-6)
    for ours in (fixed, annealed):
        with pytest.raises(ValueError, match="progress must be a number from 0 to 1"):
            ours.set_progress(1.5)


@pytest.mark.parametrize("variant", ["kernel", "soft_argmax", "combined_ste", "combined_ste_adaptive"])
@pytest.mark.parametrize("role", ["weight", "activation"])
def test_literal_and_closed_form_train_alike(role, variant):
    x = np.linspace(-1.2, 1.2, 98)
    ours, literal = (quantizer("dasr", 2, role, variant=variant, beta=8.0, literal=form) for form in (False, True))
    ours.train(), literal.train()
    outputs = [q(torch.from_numpy(x)).detach().numpy() for q in (ours, literal)]
    check_near(f"{literal}", outputs[1], outputs[0], 1e-13 * np.ones_like(x))
    want, got = (gradients(q, x, cotangents(x)) for q in (ours, literal))
    for name, value in want.items():
        check_near(f"{literal}: gradient of {name}", got[name], value, 1e-12 * (1 + np.abs(value)))
    check_same("test mode", *(q.eval()(torch.from_numpy(x)).detach().numpy() for q in (ours, literal)))
