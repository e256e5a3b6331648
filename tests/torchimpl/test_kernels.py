"""Compiled kernels: the portable path's bits forward, its gradients backward; threads, memory, caches, accuracy."""

import contextlib
import io
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reference import daq as reference_daq
from tests.oracles import check_near, check_same
from tests.strategies import NIGHTLY, definitions, sample
from tests.torchimpl.modules import REFERENCE, threads, without_loops
from torchimpl import kernels
from torchimpl.kernels import daq, dasr, dsq, irnet, native, ste
from torchimpl.quantizers import quantizer_class

ROOT = Path(__file__).parents[2]
FAST = [
    name for name in REFERENCE if (ROOT / "torchimpl" / "kernels" / f"{name}.py").exists()
]  # the rest is torch alone
some_widths = definitions(REFERENCE, (1, 2, 8))


def module_for(name, bits, role, variant):
    module = quantizer_class(name)(bits, role, variant=variant)
    module.initialize(torch.from_numpy(sample(3, role).astype(np.float32)))
    return module.eval()


def run(module, x, grad):
    leaf = x.detach().requires_grad_()
    parameters = list(module.parameters())
    out = module(leaf)
    return out.detach(), *torch.autograd.grad(out, [leaf, *parameters], grad)


# Against torch's own operations


@definitions({name: REFERENCE[name] for name in FAST})
@pytest.mark.parametrize("training", [False, True])
def test_the_portable_path_gives_the_same(name, role, variant, widths, training):
    for bits in {*widths[:2], widths[-1]} if training else widths:
        module = module_for(name, bits, role, variant).train(training)
        generator = torch.Generator().manual_seed(bits)
        x = 1.5 * torch.randn(3, 400, generator=generator)
        if not hasattr(REFERENCE[name], "observe"):  # statistics of the whole tensor are finite
            x[0, :4] = torch.tensor([math.inf, -math.inf, 0.0, -0.0])
        grad = torch.randn(3, 400, generator=generator)
        state = {key: value.clone() for key, value in module.state_dict().items()}
        got, integers = run(module, x, grad), module.integers(x)
        module.load_state_dict(state)
        with without_loops():
            want, wanted = run(module, x, grad), module.integers(x)
        others = float((integers != wanted).double().mean())
        assert others <= (0 if REFERENCE[name].METHOD.bound == 0 else 0.01), f"{module}: {others:.0%} other integers"
        exact = REFERENCE[name].METHOD.bound == 0 and not (training and variant in getattr(REFERENCE[name], "SOFT", ()))
        if exact:
            check_same(f"{module}", got[0].numpy(), want[0].numpy())
        else:
            check_near(f"{module}", got[0].numpy(), want[0].numpy(), 1e-5 * (1 + want[0].abs().numpy()))
        # A slope may vary by its own size over a sixteenth of a level, and the input in levels is known to 2^bits eps.
        relative = 16 * 2**bits * 1.2e-7 * 16
        check_near(f"{module}: x", got[1].numpy(), want[1].numpy(), relative * (1e-3 + want[1].abs().numpy()))
        for g, w in zip(got[2:], want[2:], strict=True):
            check_near(f"{module}: parameter", g.numpy(), w.numpy(), relative * (1200 + np.abs(w.numpy())))


def test_infinite_gradients_of_both_signs_add_up_to_nan():
    """Silently: numpy would warn, of a sum that is what it should be."""
    x, grad = torch.full((2, kernels.ROW), 0.1), torch.zeros(2, kernels.ROW)
    grad[:, 0] = torch.tensor([math.inf, -math.inf])
    assert run(module_for("ste", 1, "weight", None), x, grad)[-1].isnan()


# bfloat16


@some_widths
def test_bfloat16_is_float32_rounded(name, role, variant, widths):
    """Elements are widened, computed with as float32, and rounded to nearest, ties to even, as torch rounds."""
    for bits in widths:
        module = module_for(name, bits, role, variant)
        generator = torch.Generator().manual_seed(bits)
        x, grad = (1.5 * torch.randn(2500, generator=generator).bfloat16() for _ in range(2))
        if not hasattr(REFERENCE[name], "observe"):
            x[:5] = torch.tensor([math.inf, -math.inf, 0.0, -0.0, 1e-39])
        state = {key: value.clone() for key, value in module.state_dict().items()}
        got = run(module, x, grad)
        module.load_state_dict(state)
        want = run(module, x.float(), grad.float())
        assert {value.dtype for value in got[:2]} == {torch.bfloat16}
        check_same(f"{module}", got[0].float().numpy(), want[0].bfloat16().float().numpy())
        bound = 2**-8 * want[1][5:].abs().numpy()
        if name == "dorefa":  # the gradient through the maximum is rounded, and the sum with the others
            bound = bound + 2**-8 * want[1][5:].abs().max().item()
        check_near(f"{module}: x", got[1][5:].float().numpy(), want[1][5:].numpy(), bound)
        for g, w in zip(got[2:], want[2:], strict=True):
            check_near(f"{module}: parameter", g.numpy(), w.numpy(), 1e-4 * (100 + w.abs().numpy()))


def test_every_bfloat16_survives():
    """All bit patterns as gradients that pass, NaN with any payload as NaN."""
    grad = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    x = torch.full_like(grad, 0.5).requires_grad_()
    quantizer_class("dorefa")(2, "activation")(x).backward(grad)
    check_same("gradients", x.grad.float().numpy(), grad.float().numpy())


@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32) | st.integers(-(2**20), 2**20).map(lambda k: k / 2**16), min_size=1
    )
)
def test_rounding_to_bfloat16_is_torchs(steps):
    """LSQ's values are 1 times its step: whatever number that is."""
    for step in steps:
        module = quantizer_class("lsq")(2, "activation")
        with torch.no_grad():
            module.step.fill_(abs(step) + 1e-30)
        module.mark_initialized()
        x = module.step.detach().bfloat16().reshape(1)
        check_same(
            f"step {step}", module(x).float().detach().numpy(), module(x.float()).bfloat16().float().detach().numpy()
        )


def test_every_method_has_loops_unless_it_takes_noise():
    """Noise is a number for each element and level, and a loop goes over arrays of one size."""
    assert set(REFERENCE) - set(FAST) == {name for name, module in REFERENCE.items() if module.METHOD.stochastic}


@pytest.mark.parametrize("name", FAST)
def test_blocks_threads_and_memory_change_nothing(name):
    known = REFERENCE[name].METHOD
    role = known.input_role
    module = module_for(name, max(known.bits[role]), role, None)
    x = torch.randn(2 * kernels.GRAIN + 1001)
    grad = torch.randn_like(x)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(run(module, x, grad))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            check_same(f"{module} with more threads", two.numpy(), one.numpy())
    parts = [run(module, part.clone(), g.clone()) for part, g in zip(x.split(999), grad.split(999), strict=True)]
    check_same(f"{module} in parts", torch.cat([part[0] for part in parts]).numpy(), found[0][0].numpy())
    whole = found[0][1].numpy()
    near = 4e-3 * (1 + np.abs(whole))  # the ends of a loop may be computed with other roundings
    check_near(f"{module} in parts: gradient", torch.cat([part[1] for part in parts]).numpy(), whole, near)


def test_where_memory_lies_changes_nothing():
    """An output at least MARGIN elements away from its inputs has the same bits wherever these lie."""
    values = np.random.default_rng(0).standard_normal((2, 10)).astype(np.float32)
    numbers = daq.LOOPS["daq"].backward_numbers(-3.0, 3.0, 31, False, 2.0, 1 / 16)
    buffer = np.zeros(8 * kernels.MARGIN, np.float32)
    middle = 4 * kernels.MARGIN
    out = buffer[middle : middle + 10]
    found = set()
    for shift in [*range(0, 200, 7), *(-2 * kernels.MARGIN - 20 - k for k in range(0, 200, 7))]:
        first = middle + 10 + kernels.MARGIN + shift
        grad, x = buffer[first : first + 10], buffer[first + 10 : first + 20]
        grad[:], x[:] = values
        sums = kernels.launch(daq.LOOPS["daq"].backward, (grad, x, out), numbers, daq.LOOPS["daq"].sums)
        found.add((out.tobytes(), sums.tobytes()))
    assert len(found) == 1


def test_outputs_keep_their_distance():
    """Also from inputs in the middle of a heap full of holes."""
    heap = [torch.empty(12) for _ in range(2000)]
    for i in range(0, 2000, 2):
        heap[i] = None
    for x in heap[1::40]:
        out = kernels._empty_like(x)
        assert abs(out.data_ptr() - x.data_ptr()) >= 4 * (12 + kernels.MARGIN)


@pytest.mark.parametrize("name", FAST)
def test_where_kernels_do_not_apply_results_are_right(name):
    known = REFERENCE[name].METHOD
    role = known.input_role
    module = module_for(name, max(known.bits[role]), role, None)
    x = torch.randn(4, 6, 5, 3)
    grad = torch.randn_like(x)
    want = run(module, x, grad)
    assert kernels.apply(x, ())
    assert kernels.apply(x.contiguous(memory_format=torch.channels_last), ())
    views = {"strided": torch.stack([x, x], -1)[..., 0], "transposed": x.transpose(0, 1).contiguous().transpose(0, 1)}
    for label, view in views.items():
        assert not kernels.apply(view, ())
        for got, expected in zip(run(module, view, grad), want, strict=True):
            check_near(f"{module} {label}", got.numpy(), expected.numpy(), 4e-3 * (1 + expected.abs().numpy()))
    for dtype in (torch.float64, torch.float16):
        assert not kernels.apply(x.to(dtype), ())
        assert run(module, x.to(dtype), grad.to(dtype))[1].dtype == dtype
    last = x.contiguous(memory_format=torch.channels_last)
    for got, expected in zip(run(module, last, grad), want, strict=True):
        check_near(f"{module} channels last", got.numpy(), expected.numpy(), 4e-3 * (1 + expected.abs().numpy()))
    assert not kernels.apply(x, (torch.ones(4, 1, 1, 1),)), "a parameter a channel"


@pytest.mark.parametrize("name", REFERENCE)
def test_what_is_kept_for_the_backward_pass(name):
    """The input, and parameters."""
    known = REFERENCE[name].METHOD
    role = known.input_role
    module = module_for(name, max(known.bits[role]), role, None)
    x = torch.randn(1000, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        module(x)
    large = [t for t in kept if t.numel() > 256]  # levels at 8 bits
    assert len(large) == 1
    assert any(t.data_ptr() == x.data_ptr() for t in large)


# Derivatives that there are none of


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", REFERENCE)
def test_a_second_derivative_is_refused(name, fused):
    known = REFERENCE[name].METHOD
    role = known.input_role
    module = module_for(name, max(known.bits[role]), role, None)
    x = torch.randn(5, dtype=torch.float32 if fused else torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="backward"):
        grad.sum().backward()


@pytest.mark.parametrize("name", REFERENCE)
def test_forward_mode_is_refused(name):
    known = REFERENCE[name].METHOD
    role = known.input_role
    module = module_for(name, max(known.bits[role]), role, None)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.randn(5), torch.ones(5))
        with pytest.raises(RuntimeError, match="forward"):
            module(dual)
        x = torch.randn(5)
        for parameter in module.parameters():
            tangents = {
                key: torch.autograd.forward_ad.make_dual(value.detach(), torch.ones_like(value))
                if value is parameter
                else value.detach()
                for key, value in module.named_parameters()
            }
            with pytest.raises(RuntimeError, match="forward"):
                torch.func.functional_call(module, tangents, (x,))


@pytest.mark.parametrize("name", REFERENCE)
def test_functional_gradients_are_refused(name):
    known = REFERENCE[name].METHOD
    role = known.input_role
    module = module_for(name, max(known.bits[role]), role, None)
    with pytest.raises(RuntimeError, match=r"functorch|torch\.func"):  # torch's own words
        torch.func.grad(lambda x: module(x).sum())(torch.randn(5))


# What the kernels rest on


def test_quotients_without_a_division():
    """q/n as two products and a sum: every quotient that a quantizer of 1 to 8 bits takes."""
    for n in range(1, 512, 2):
        high, low = kernels.reciprocal(n)
        q = np.arange(-n, n + 1, dtype=np.float32)
        check_same(f"q/{n}", q * high + q * low, q / np.float32(n))


@numba.njit
def copied(x, out):
    for i in range(x.size):
        native.store(out, i, native.load(x, i))


def test_every_bfloat16_is_widened_and_stored_again():
    bits = np.arange(2**16, dtype=np.uint16)
    wide, narrow = np.empty(2**16, np.float32), np.empty(2**16, np.uint16)
    copied(bits, wide)
    want = torch.from_numpy(bits).view(torch.bfloat16)
    check_same("load", wide, want.float().numpy())
    copied(wide, narrow)
    check_same("store", torch.from_numpy(narrow).view(torch.bfloat16).float().numpy(), want.float().numpy())


@given(hnp.arrays(np.uint32, 64))
@example(np.array([0, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x18000, 0x7F7FFFFF, 0xFF7F8000], np.uint32))
def test_bfloat16_is_the_nearest_with_ties_to_even(bits):
    """Of all patterns, and of those halfway between two bfloat16 and next to them; too large ones are infinite."""
    halfway = bits & np.uint32(0xFFFF0000) | np.uint32(0x8000)
    x = np.concatenate([bits, halfway - np.uint32(1), halfway, halfway + np.uint32(1)]).view(np.float32)
    got = np.empty(x.size, np.uint16)
    copied(x, got)
    want = torch.from_numpy(x).bfloat16().float().numpy()
    check_same(f"store({x!r})", torch.from_numpy(got).view(torch.bfloat16).float().numpy(), want)


@numba.njit
def worst_error(got, x, factor, c):
    worst = 0.0
    for i in range(x.size):
        v = np.float64(x[i])
        want = factor / math.tanh(abs(v - math.floor(v) - 0.5) + c)
        worst = max(worst, abs(got[i] / want - 1))
    return worst


@pytest.mark.parametrize(("sigma", "binades"), [(1.0, 24), (2.0, 6), (100.0, 6), (0.01, 3)])
def test_the_slope_for_every_float32_of_a_cell(sigma, binades):
    """The stated bound, 7 * 2^-24, over the numbers of [2^-binades, 1]: nightly all, of most binades each seventh else.

    Below 2^-24, 1/2 - t is 1/2.
    """
    c, factor = reference_daq.kernel_exponent(sigma), reference_daq.slope_factor(2.0)
    numbers = daq.LOOPS["daq"].backward_numbers(0.0, 1.0, 1, False, 2.0, c)
    worst = 0.0
    for exponent in range(-binades, 0):
        first = np.float32(2.0**exponent).view(np.int32)
        step = 1 if NIGHTLY or exponent == -1 else 7
        x = np.arange(first, first + 2**23 + 1, step, dtype=np.int32).view(np.float32)
        got = np.empty_like(x)
        kernels.launch(daq.LOOPS["daq"].backward, (np.ones_like(x), x, got), numbers, daq.LOOPS["daq"].sums)
        worst = max(worst, worst_error(got, x, factor, c))
    assert worst < 7 * 2**-24, f"relative error {worst * 2**24:.2f} * 2^-24"


@pytest.mark.parametrize(
    ("terms", "end", "bound"), [(daq.TANH, 0.5, 1.32e-8), (dsq.TANH, 0.91, 1.62e-8), (irnet.TANH, 0.5647, 1.3e-9)]
)
@given(share=st.floats(0, 1))
@example(share=0.0)
@example(share=1.0)
def test_the_polynomials_are_tanh(terms, end, bound, share):
    """Over its argument, by its square; each with the error that its file states."""
    d = share * end
    got = sum(a * d ** (2 * k) for k, a in enumerate(terms))
    want = math.tanh(d) / d if d else 1.0
    assert abs(got / want - 1) < bound


@given(st.floats(0, 1))
@example(0.0)
@example(1.0)
def test_the_polynomial_is_exp(a):
    assert abs(sum(e * a**k for k, e in enumerate(dasr.EXP)) * math.exp(a) - 1) < 7.6e-10


# Processes, threads, caches


def in_a_child(function):
    """What a function returns in a fork of this process."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: theirs.send(function()))
    child.start()
    theirs.close()  # so that a child that fails is heard of at once
    try:
        assert ours.poll(60), "it waits for ever"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def test_what_compiles_has_the_bits_of_what_finds_it_compiled(tmp_path, monkeypatch):
    """In processes of their own: in one there would be one loop, the one compiled here or the one kept on disk."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    loop, module = ste.LOOPS["ste"].backward, module_for("ste", 1, "weight", None)
    monkeypatch.setattr(loop, "_tasks", {})
    x, grad = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))

    def found():
        gradients = [value.numpy() for value in run(module, x, grad)]
        return gradients, [task.cache_hits for task in loop._tasks.values()]

    (first, compiled), (second, loaded) = in_a_child(found), in_a_child(found)
    assert (compiled, loaded) == ([0], [1])
    for one, two in zip(first, second, strict=True):
        check_same("found on disk", two, one)


def test_a_cache_that_cannot_be_used_is_harmless(tmp_path, monkeypatch):
    loop = ste.LOOPS["ste"].forward

    def compiled(folder):
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
        monkeypatch.setattr(loop, "_tasks", {})
        found = run(module_for("ste", 2, "weight", None), torch.tensor([-9.0, 0.0, 9.0]), torch.ones(3))[0].tolist()
        assert loop._tasks, "compiled anew"
        return found

    rubbish = tmp_path / "cache"
    want = compiled(rubbish)
    written = list(rubbish.rglob("*.nb?"))
    assert written, "kernels are kept on disk"
    assert all(kernels._version() in file.name for file in written), "and not found by other versions"
    assert compiled(rubbish) == want
    for file in written:
        file.write_bytes(b"rubbish")
    assert compiled(rubbish) == want
    not_a_folder = tmp_path / "file"
    not_a_folder.touch()
    assert compiled(not_a_folder) == want


EVERY_METHOD = """
import torch
from reference import daq, integer, lqnets, registry
from reference.grid import quantize_numba
from torchimpl.quantizers import build
from torchimpl.quantizers.base import noiseless
torch.manual_seed(0)
x = torch.rand(64, 8) + 0.01
for name, method in registry.methods().items():
    for role in method.roles:
        module = build(name, bits=max(method.bits[role]), role=role)
        module.initialize(x)
        leaf = x.clone().requires_grad_()
        with noiseless():
            module(leaf).square().sum().backward()
        print(name, role, module.codes(x).sum().item(), module.integers(x).sum().item(), f"{leaf.grad.abs().sum():.3g}")
a = x.double().numpy()
print(quantize_numba(a, 0.0, 1.0, 3).sum(), daq.slope_numba(a, gamma=2.0, sigma=1.0).sum().round(9))
print(integer.convolve_numba([[[[1, 2, 3], [4, 5, 6]]]], [[[[1, -1]]]]).tolist())
print([v.round(9).tolist() for v in lqnets.normal_equations_numba(a, [0.25, 0.5], "activation")])
"""


def test_without_compiling_every_method_and_every_twin_works_the_same():
    """Numba can be told not to compile, for a debugger or a coverage report; torch and numpy do the work then.

    And before the first quantizer computes, nobody waits for numba.
    """
    want = io.StringIO()
    with contextlib.redirect_stdout(want), torch.random.fork_rng():
        exec(EVERY_METHOD, {})
    imports = "import sys, torchimpl.layers, reference.registry as r; r.modules(); assert 'numba' not in sys.modules\n"
    got = subprocess.run(
        [sys.executable, "-c", imports + EVERY_METHOD],
        cwd=ROOT,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert got.returncode == 0, got.stderr
    assert got.stdout == want.getvalue()
    assert len(got.stdout.splitlines()) > len(REFERENCE)


def test_kernels_after_a_fork():
    """Torch's own threads do not survive one: the kernels do without them, where they would wait for ever."""
    x = np.linspace(-4, 4, 4 * kernels.GRAIN, dtype=np.float32)

    def run():
        out = np.empty_like(x)
        kernels.launch(ste.LOOPS["ste"].forward, (x, x, out), ste.LOOPS["ste"].numbers(-3.0, 3.0, 3, True))
        return out

    with threads(2):
        want = run()  # by two threads
        check_same("in a child", in_a_child(run), want)


@pytest.mark.parametrize("other", [np.zeros(9, np.float32), np.zeros(10, np.float64), np.zeros(20, np.float32)[::2]])
def test_arrays_that_native_code_would_read_beyond_are_refused(other):
    x = np.zeros(10, np.float32)
    numbers = ste.LOOPS["ste"].numbers(-3.0, 3.0, 3, True, "half_even")
    with pytest.raises(ValueError, match="arrays must be alike and contiguous"):
        kernels.launch(ste.LOOPS["ste"].forward, (x, x, other), numbers)


def test_what_no_thread_has_compiled_yet_may_be_wanted_by_several_at_once(monkeypatch):
    module = module_for("daq", 2, "activation", None)
    x = torch.randn(5000)
    want = run(module, x, x)
    for loop in (daq.LOOPS["daq"].forward, daq.LOOPS["daq"].backward):
        monkeypatch.setattr(loop, "_tasks", {})
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run(module, x, x), range(4)):
            for one, two in zip(found, want, strict=True):
                check_same("compiled at once", one.numpy(), two.numpy())


def test_several_callers_at_once():
    module = module_for("daq", 2, "activation", None)
    x = torch.randn(3 * kernels.GRAIN)
    want = run(module, x, x)
    with threads(2), ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run(module, x, x), range(20)):
            for one, two in zip(found, want, strict=True):
                check_same("called at once", one.numpy(), two.numpy())


def test_a_change_of_what_all_loops_share_leaves_no_stale_one(tmp_path, monkeypatch):
    """On disk, loops are found by a version: of every file whose constants and functions are compiled into them."""
    package = tmp_path / "kernels"
    shutil.copytree(ROOT / "torchimpl" / "kernels", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernels, "__file__", str(package / "__init__.py"))
    version = kernels._version.__wrapped__
    known = {kernels._version(), version()}
    assert len(known) == 1
    for file in package.glob("*.py"):
        file.write_text(file.read_text() + "# changed\n")
        assert version() not in known, f"{file.name} is not looked at"
        known.add(version())
