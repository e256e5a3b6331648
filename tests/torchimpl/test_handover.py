"""Somebody's torch quantizer, handed over: functions and modules, types, devices, what autograd gives and what not."""

import copy
import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from reference import conformance, registry
from tests.oracles import check_same
from tests.strategies import NIGHTLY, QUICK, sample
from tests.torchimpl.modules import REFERENCE
from torchimpl import contract
from torchimpl.contract import of_module, tensor
from torchimpl.handover import of_torch
from torchimpl.quantizers import quantizer_class


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class LSQ(torch.autograd.Function):
    """LSQ for weights of two bits, as one writes it; `mistake` names what is left out."""

    @staticmethod
    def forward(ctx, x, step, mistake):
        ctx.save_for_backward(x, step)
        ctx.mistake = mistake
        return (x / step).round().clamp(-2, 1) * step

    @staticmethod
    def backward(ctx, grad):
        x, step = ctx.saved_tensors
        q = x / step
        inside = (q > -2) & (q < 1)
        by_x = grad * (torch.ones_like(q) if ctx.mistake == "unmasked" else inside)
        ends = torch.where(q >= 1, 1.0, -2.0) * (ctx.mistake != "nothing where clipped")
        factor = 1.0 if ctx.mistake == "unscaled" else max(x.numel(), 1) ** -0.5
        by_step = (grad * torch.where(inside, q.round() - q, ends)).sum() * factor
        return by_x * {"zero": 0, "wrong sign": -1}.get(ctx.mistake, 1), by_step, None


class Mine(nn.Module):
    """A module whose parameter has a name of its own."""

    def __init__(self, mistake=""):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.mistake = mistake

    def forward(self, x):
        return LSQ.apply(x, self.scale, self.mistake)


def wrong(report):
    return {row.name for row in report.wrong}


def test_a_module_by_the_names_of_the_reference():
    module = Mine()
    for parameters in ({"step": module.scale}, {"step": "scale"}):
        report = contract.check(of_torch(module, bits=2, parameters=parameters), reference="lsq")
        assert wrong(report) == set(), str(report)
        assert report.kin == "lsq, weight, paper"
        assert module.scale.grad is None


def test_its_own_names_are_not_the_references():
    with pytest.raises(ValueError, match=r"LSQ has the parameters step, which Mine\(\) does not name \(scale\)"):
        contract.check(of_torch(Mine(), bits=2), reference="lsq")


MISTAKES = {
    "unmasked": {"lsq: gradient for x"},
    "zero": {"lsq: gradient for x", "gradient"},
    "unscaled": {"lsq: gradient for step"},
    "wrong sign": {"lsq: gradient for x"},
    "nothing where clipped": {"lsq: gradient for step"},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_gradient_is_found(mistake):
    subject = of_torch(Mine(mistake), bits=2, parameters={"step": "scale"})
    report = contract.check(subject, reference="lsq", role="weight")
    assert wrong(report) == MISTAKES[mistake], str(report)


def test_a_function_of_tensors_with_a_surrogate():
    step = torch.tensor(0.5, requires_grad=True)
    subject = of_torch(
        lambda x: Round.apply((x / 0.5).clamp(-2, 1)) * 0.5 + 0 * step,
        bits=2,
        parameters={"step": step},
        surrogate=lambda x, step: x.clamp(-1, 0.5) + 0 * step,
        dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
    )
    report = conformance.check(subject)
    found = {row.id: row.verdict for row in report.rows}
    assert {name for name in found if found[name] == "fails"} <= {
        f"{name}-{dtype}" for name in ("gradient", "type") for dtype in ("float32", "float64", "bfloat16", "float16")
    }, str(report)
    assert found["surrogate: gradient for x-bfloat16"] == "holds"
    assert found["surrogate: gradient for step-float32"] == "holds"


def test_types_are_those_that_were_asked_for():
    seen = set()

    def function(x):
        seen.add(x.dtype)
        return torch.where(x < 0, -1.0, 1.0).to(torch.float32)

    subject = of_torch(function, bits=1, dtypes=(torch.bfloat16, "float16"), gradient=False)
    report = conformance.check(subject)
    assert seen == {torch.bfloat16, torch.float16}
    rows = {row.id: row for row in report.wrong}
    assert rows["type-bfloat16"].said.endswith("the type of forward(x) is float32, expected bfloat16")
    assert rows["type-float16"].got == "float32"
    assert "gradient-float16" not in rows


def test_strides_and_changes_reach_the_function():
    seen = set()

    def function(x):
        seen.add(x.is_contiguous())
        return x.clamp_(-1, 1).round()

    report = conformance.check(of_torch(function, bits=2, gradient=False))
    assert seen == {True, False}
    assert wrong(report) == {"input kept"}, str(report)


def test_training_mode_is_tried_on_a_copy():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            if self.training:
                self.calls += 1
            return Round.apply(x.clamp(-2, 1)) + 0 * self.calls

    module = Counting().train()
    report = conformance.check(of_torch(module, bits=2))
    assert report.ok, str(report)
    assert module.calls == 0
    assert module.training


def test_what_has_no_gradient_says_so():
    report = conformance.check(of_torch(lambda x: x.detach().clamp(-2, 1).round(), bits=2))
    rows = {row.name: row for row in report.wrong}
    assert rows["gradient"].verdict == "raises"
    assert "nothing leads back from them to x" in rows["gradient"].said
    report = conformance.check(of_torch(lambda x: x.clamp(-2, 1).round(), bits=2))
    assert {row.name: row.said for row in report.wrong}["gradient"].endswith(
        "is 0 everywhere, expected not 0 for some x"
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: of_torch(3, bits=2), "subject must be a function of a tensor"),
        (lambda: of_torch(Mine(), bits=2, parameters={"step": "size"}), "parameter step must be one of .* scale"),
        (
            lambda: of_torch(Mine(), bits=2, parameters={"step": torch.ones(1, requires_grad=True)}),
            "one of the module's",
        ),
        (lambda: of_torch(Mine(), bits=2, dtypes=(torch.int8,)), "dtypes must be names of float64"),
        (lambda: of_torch(Mine(), bits=True), "bits must be a whole number"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_tuple_is_no_tensor():
    (row,) = conformance.check(of_torch(lambda x: (x, 1), bits=2)).wrong
    assert "it returns a tuple, not a tensor" in row.said


def test_nothing_of_the_subject_is_changed():
    module = Mine()
    before = copy.deepcopy(module.state_dict())
    contract.check(of_torch(module, bits=2, parameters={"step": "scale"}), reference="lsq")
    for name, value in module.state_dict().items():
        check_same(name, value.numpy(), before[name].numpy())


# The suite's own modules


@pytest.mark.parametrize("name", REFERENCE)
def test_every_module_of_the_suite_passes_as_itself(name):
    """By default one width of each role, in CI of each variant too, in a type by turns; by night all, in all types."""
    chosen = registry.method(name).defined()
    if not NIGHTLY:
        chosen = list({one[1] if QUICK else one[1:]: one for one in reversed(chosen)}.values())
    for i, (bits, role, variant) in enumerate(chosen, start=len(name)):
        module = quantizer_class(name)(bits, role, variant=variant)
        module.initialize(tensor(sample(1, role).astype(np.float32)))
        subject = of_module(module.eval())
        if not NIGHTLY:
            dtype = subject.dtypes[i % len(subject.dtypes)]
            subject = dataclasses.replace(subject, dtypes=("float32", dtype)[i % 2 :][:1])
        report = conformance.check(subject, reference=name, role=role, variant=variant)
        assert report.ok, f"{bits} {role} {variant}: {report}"


def test_levels_that_half_precision_cannot_tell_apart_are_no_finding():
    """Of 256 levels in a range that does not begin at 0, bfloat16 has fewer."""
    module = quantizer_class("dsq")(8, "activation", variant="hard")
    module.initialize(tensor(sample(1, "activation").astype(np.float32)))
    subject = dataclasses.replace(of_module(module.eval()), dtypes=("bfloat16",))
    report = conformance.check(subject)
    assert report.ok, str(report)


# What a subject may do that is not foreseen


class Lsq2(torch.autograd.Function):
    """2-bit LSQ with a step of 0.5 that lets every gradient through for x."""

    @staticmethod
    def forward(ctx, x, step):
        ctx.save_for_backward(x, step)
        return (x / step).clamp(-2, 1).round() * step

    @staticmethod
    def backward(ctx, grad):
        x, step = ctx.saved_tensors
        q = x / step
        inside = (q >= -2) & (q <= 1)
        by_step = torch.where(inside, q.round() - q, q.clamp(-2, 1)) / math.sqrt(x.numel())
        return grad, (grad * by_step).sum().reshape(step.shape)


def unmasked():
    step = torch.tensor(0.5, requires_grad=True)
    return of_torch(lambda x: Lsq2.apply(x, step), bits=2, parameters={"step": step})


def test_the_variant_is_that_of_what_is_right():
    """Its step has the gradient of lsq-net; of what is wrong, one thing is, and running it again shows that."""
    report = contract.check(unmasked(), reference="lsq")
    assert report.kin == "lsq, weight, lsq-net"
    (row,) = report.wrong
    assert row.name == "lsq: gradient for x"
    assert "role='weight', variant='lsq-net'" in row.again
    again = eval(row.again, {"conformance": conformance, "subject": unmasked()})
    assert again.verdict == "fails"


def test_a_mistake_where_statistics_scale_is_a_finding_and_no_failure_of_ours():
    def binary(x):
        scale = x.abs().mean().detach()
        values = torch.where(x >= 0, scale, -scale)
        return values + 2 * (x - x.detach())

    subject = of_torch(binary, bits=1, from_whole_tensor=True, parameters={"mean": 1.0}, role="weight")
    report = contract.check(subject, reference="dorefa")
    assert "dorefa: gradient for x" in [row.name for row in report.wrong]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_the_surrogates_gradient_for_a_parameter_of_any_shape(shape, factor):
    step = torch.full(shape, 0.5, requires_grad=True)

    def quantize(x):
        s = step.reshape(())
        own = s.detach() + factor * (s - s.detach())
        q = (x / own).clamp(-2, 1)
        return (q + (q.round() - q).detach()) * s

    def surrogate(x, step):
        fixed = (x / 0.5).clamp(-2, 1)
        jump = fixed.round() - fixed
        return ((x / step.reshape(())).clamp(-2, 1) + jump) * step.reshape(())

    report = contract.check(of_torch(quantize, bits=2, parameters={"step": step}, surrogate=surrogate))
    named = [row for row in report.rows if row.name == "surrogate: gradient for step"]
    assert {row.verdict for row in named} == {"holds" if factor == 1 else "fails"}


def ones(x):
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


ODD = {
    "integers": of_torch(lambda x: ones(x).long(), bits=1),
    "codes are a list": of_torch(ones, bits=1, codes=lambda x: [0], decode=lambda q: 2 * q - 1),
    "codes refuse numbers": of_torch(ones, bits=1, codes=lambda x: int("?"), decode=lambda q: 2 * q - 1),
    "decode returns None": of_torch(ones, bits=1, codes=lambda x: (x >= 0).long(), decode=lambda q: None),
    "surrogate returns a list": of_torch(ones, bits=1, surrogate=lambda x: [[1.0], [2.0, 3.0]]),
    "raises": of_torch(lambda x: 1 // 0, bits=1),
}


@pytest.mark.parametrize("name", ODD)
def test_whatever_comes_is_a_row(name):
    report = contract.check(ODD[name])
    assert not report.ok
    assert "failure of the suite" not in str(report)


def test_what_does_not_answer_has_no_kin():
    subject = of_torch(lambda x: 1 // 0, bits=2, parameters={"step": torch.tensor(0.5, requires_grad=True)})
    report = contract.check(subject, reference="lsq")
    assert (report.kin, report.others) == ("", {})
    assert "9223372036854775807" not in str(report)


def test_who_swallows_every_exception_hangs():
    def swallow(x):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    start = time.monotonic()
    report = contract.check(of_torch(swallow, bits=1), seconds=0.2)
    assert {row.verdict for row in report.wrong} == {"hangs"}
    assert time.monotonic() - start < 30


def test_a_module_keeps_the_modes_of_its_parts():
    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.nn.Dropout()

        def forward(self, x):
            return ones(x) + 0 * self.part(x)

    module = Mine().train()
    module.part.eval()
    contract.check(of_torch(module, bits=1))
    assert (module.training, module.part.training) == (True, False)


def test_in_place_only_the_input_is_at_fault():
    report = contract.check(of_torch(lambda x: x.clamp_(-1, 1).sign_(), bits=1))
    assert not [row for row in report.wrong if "leaf" in row.got]
    assert "input kept" in [row.name for row in report.wrong]


def test_a_parameter_that_the_method_has_not_is_refused():
    step = torch.tensor(0.5, requires_grad=True)
    subject = of_torch(lambda x: Lsq2.apply(x, step), bits=2, parameters={"step": step, "offset": 3})
    with pytest.raises(ValueError, match=r"parameters must be those of LSQ: step.*got \['offset'\]"):
        contract.check(subject, reference="lsq")
