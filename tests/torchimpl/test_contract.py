"""The contract, met by every quantizer module, and the module held to its reference: new methods need no change."""

import copy
import dataclasses
import inspect
import io
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from reference import contract, grid
from tests.oracles import check_near, check_same, eps
from tests.strategies import NIGHTLY, QUICK, contract_inputs, cotangents, definitions, dtypes, initial, sample, vectors
from tests.strategies import Case as ReferenceCase
from tests.torchimpl.modules import REFERENCE, every_method, every_variant
from torchimpl.contract import of_module, reference_params, tensor
from torchimpl.operators import Operator
from torchimpl.quantizers import build, quantizer_class

DEFINED = [(name, *row) for name, module in REFERENCE.items() for row in module.METHOD.defined()]
every_definition = definitions(REFERENCE)
some_widths = definitions(REFERENCE, (1, 2, 8))


def initialized(name, bits, role, variant, data):
    module = quantizer_class(name)(bits, role, variant=variant)
    module.initialize(tensor(data.astype(np.float32)))
    return module


@st.composite
def modules(draw, name, variant, dtype):
    """A module as its own rule initialises it, and then trained a bit, with inputs for it."""
    known = REFERENCE[name]
    bits, role = draw(st.sampled_from([(b, r) for b, r, v in known.METHOD.defined() if v == variant]))
    data = sample(draw(st.integers(0, 999)), role)
    module = initialized(name, bits, role, variant, data)
    for parameter in module.parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(draw(st.sampled_from([1.0, 0.5, 0.75, 1.25, 2.0])))
        try:
            reference_params(module)
        except ValueError:  # out of the admitted range: stay
            with torch.no_grad():
                parameter.copy_(before)
    case = ReferenceCase(known, reference_params(module), data)
    x = draw(contract_inputs(case, dtype, shape=vectors))
    x = np.where(np.abs(x) < 2.0**-100, dtype(0), x)  # quotients of subnormal numbers are 0 in one type, not in another
    x = np.concatenate([x, np.array([0.3125, -0.6875], dtype)])  # statistics need two values
    return module, x


def observed(name, module, x):
    """The reference's parameters, with statistics (where the method has any) of `x`."""
    params, known = reference_params(module), REFERENCE[name]
    return known.observe(x.astype(np.float64), params) if hasattr(known, "observe") else params


def away_from_ties(name, params, x):
    """Where rounding errors before the rounding do not decide."""
    known = REFERENCE[name]
    distance = known.threshold_distance(x.astype(np.float64), params)
    return distance > 4 * (known.METHOD.bound + 8) * eps(x) * 2**params.bits


# The properties, and the reference

ONCE = {  # properties of the code, whatever the numbers are
    name: "held by test_what_does_not_depend_on_the_numbers"
    for name in ("repeated calls", "input kept", "type", "shape", "0-d", "empty", "prints nothing")
}


@every_variant
@given(data=st.data(), dtype=dtypes)
def test_properties(method, variant, data, dtype):
    """Those of numbers; and values, codes and gradients are the reference's."""
    module, x = data.draw(modules(method, variant, dtype))
    params, subject = observed(method, module, x), of_module(module)
    check_values_and_codes(method, module, params, x)
    check_values_in_training(method, module, params, x)
    check_gradients(method, module, x)
    contract.check_at(dataclasses.replace(subject, exempt={**subject.exempt, **ONCE}), x)


@some_widths
def test_what_does_not_depend_on_the_numbers(name, role, variant, widths):
    """In one type by turns; test_handover tries every property, in one more."""
    for bits, dtype in zip(widths, ("float32", "float64", "float32"), strict=False):
        subject = of_module(initialized(name, bits, role, variant, sample(1, role))).at(dtype)
        drawn = {property_: "test_properties" for property_ in contract.PROPERTIES.keys() - ONCE.keys()}
        x = sample(2, role, (13,)).astype(dtype)
        contract.check_at(dataclasses.replace(subject, exempt={**subject.exempt, **drawn}), x)


def check_values_and_codes(method, module, params, x):
    theirs = contract.of_reference(REFERENCE[method], params)
    distance = REFERENCE[method].threshold_distance(x.astype(np.float64), params)
    contract.agrees(of_module(module), theirs, x, distance=distance, bound=REFERENCE[method].METHOD.bound)


def check_values_in_training(method, module, params, x):
    clear = away_from_ties(method, params, x)
    expression = f"{module}({x!r}) in training"
    got = copy.deepcopy(module).train()(tensor(x)).detach().numpy()
    want = REFERENCE[method].forward(x.astype(np.float64), params, training=True)
    size = np.abs(contract.level_set(contract.of_reference(REFERENCE[method], params))).max()
    # The paper's literal computation in DAQ's reference errs by 16 eps of a level's number.
    bound = (32 + REFERENCE[method].METHOD.bound) * eps(x) * 2 ** (params.bits + 1) * size
    check_near(expression, got[clear], want[clear], bound)


def check_gradients(method, module, x):
    clear = away_from_ties(method, observed(method, module, x), x)
    x = np.concatenate([x[clear], np.array([0.40625, -0.21875], x.dtype)])
    params = observed(method, module, x)
    if not away_from_ties(method, params, x).all():  # statistics have moved a threshold
        return
    grad = cotangents(x)
    got_x, got = of_module(module).vjp(x, grad)
    want_x, want = REFERENCE[method].vjp(x.astype(np.float64), params, grad)
    expression = f"gradients of {module} at {x!r}"
    # A slope may vary by its own size over a hundredth of a level, which is known to 2^bits eps.
    relative = 400 * (1 + REFERENCE[method].METHOD.bound) * eps(x) * 2**params.bits
    check_near(f"{expression}, x", got_x, want_x, relative * (np.abs(want_x) + np.abs(want_x).max() + 1e-3))
    for name, value in got.items():
        size = 1 + np.abs(x).max() + np.abs(grad).sum() * (1 + np.abs(np.asarray(want[name]))).max()
        check_near(f"{expression}, {name}", value, want[name], (relative + 400 * 1.2e-7) * size)


@every_definition
def test_initial_parameters_are_the_references(name, role, variant, widths):
    for bits in widths:
        data = sample(3, role).astype(np.float32)
        module = initialized(name, bits, role, variant, data)
        want = initial(REFERENCE[name], data.astype(np.float64), bits, role, variant)
        assert bool(module.initialized)
        for parameter, value in module.named_parameters():
            expected = np.asarray(getattr(want, parameter))
            # Sums of 21 numbers in float32.
            check_near(
                f"{parameter} of {module}", value.detach().numpy(), expected, 50 * 1.2e-7 * (1e-3 + abs(expected))
            )
        assert set(dict(module.named_parameters())) == REFERENCE[name].METHOD.learned(role, variant)


@every_definition
def test_every_parameter_receives_a_gradient_in_training(name, role, variant, widths):
    for bits in widths:
        data = sample(1, role).astype(np.float32)
        module = quantizer_class(name)(bits, role, variant=variant).train()
        module(tensor(data))
        reach = np.float32(max(1, np.abs(data).max() / 3))
        among = np.linspace(data.min() - 0.1037, data.max() + 0.1013, 1009, dtype=np.float32)
        wide = np.linspace(-15.137, 15.261, 457, dtype=np.float32) * reach
        x = tensor(np.concatenate([wide, among])).requires_grad_()
        (module(x) * tensor(cotangents(x.detach().numpy()))).sum().backward()
        for parameter, value in module.named_parameters():
            assert value.grad.abs().min() > 1e-9, f"the gradient of {parameter} of {module} is {value.grad}"
        assert (x.grad != 0).any(), f"no gradient passes {module}"


# Parameters a channel

CHANNELWISE = [
    (name, *row)
    for name, *row in DEFINED
    if row[0] == max(REFERENCE[name].METHOD.bits[row[1]])
    and not (name == "lqnets" and row[1] == "activation")  # its channels are the first axis
    and "shape" in inspect.signature(quantizer_class(name)).parameters
]


def channelwise(name, bits, role, variant):
    """A module with parameters for each of three channels, and what it was initialised from."""
    x = tensor(sample(5, role).astype(np.float32))
    x = x if role == "weight" else x.T.contiguous().reshape(7, 3, 1)  # channels first, or after the batch
    module = quantizer_class(name)(bits, role, variant=variant, shape=(3, 1))
    module.initialize(x)
    return module, x


@pytest.mark.parametrize(("name", "bits", "role", "variant"), CHANNELWISE)
def test_a_channel_is_a_quantizer_of_its_own(name, bits, role, variant):
    module, x = channelwise(name, bits, role, variant)
    channels = x if role == "weight" else x[..., 0].T.contiguous()
    leaf = x.clone().requires_grad_()
    module.eval()(leaf).square().sum().backward()
    for c in range(3):
        one = quantizer_class(name)(bits, role, variant=variant)
        one.initialize(channels[c])
        for key, value in one.named_parameters():
            own = module.get_parameter(key)[c].detach().numpy()
            check_near(
                f"{key} of channel {c} of {module}", own.ravel()[0], value.item(), 1e-5 * (1e-3 + abs(value.item()))
            )
            with torch.no_grad():
                value.copy_(module.get_parameter(key)[c].reshape(()))
        for key, value in one.named_buffers():  # which may start from the shape
            if (found := module.get_buffer(key)).numel() == 3 * value.numel():
                value.copy_(found.reshape(-1, 3)[:, c].reshape(value.shape))
        part = channels[c].clone().requires_grad_()
        want = one.eval()(part)
        got = module(x)[c] if role == "weight" else module(x)[:, c, 0]
        bound = REFERENCE[name].METHOD.bound * 1.2e-7 * (1 + want.abs().max().item())
        check_near(f"channel {c} of {module}", got.detach().numpy(), want.detach().numpy(), bound)
        want.square().sum().backward()
        grad = leaf.grad[c] if role == "weight" else leaf.grad[:, c, 0]
        check_near(
            f"gradient of channel {c}", grad.numpy(), part.grad.numpy(), 1e-4 * (1 + part.grad.abs().max().item())
        )
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        check_same("copy", other(x).detach().numpy(), module(x).detach().numpy())
    fresh = quantizer_class(name)(bits, role, variant=variant, shape=(3, 1))
    fresh.load_state_dict(module.state_dict())
    check_same("state", fresh.eval()(x).detach().numpy(), module(x).detach().numpy())


@pytest.mark.parametrize(("name", "bits", "role", "variant"), CHANNELWISE)
@pytest.mark.parametrize("second", ["empty", "zero", "constant"])
def test_a_channel_that_tells_nothing(name, bits, role, variant, second):
    """It is refused; or it does (a constant has a magnitude)."""
    data = torch.tensor([[1.0, 2.0], [5.0 if second == "constant" else 0.0] * 2, [3.0, 4.0]])
    data = data[:, :0] if second == "empty" else data
    module = quantizer_class(name)(bits, role, variant=variant, shape=(3, 1))
    try:
        module.initialize(data)
    except ValueError as error:
        assert "must be" in str(error)  # noqa: PT017 - either answer will do
        assert needs_data(name, role) or (name, role) == ("irnet", "weight")  # whose statistics are of each input
        return
    got = module.eval()(data)
    assert got.shape == data.shape
    assert not got.isnan().any()


def refuses(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except ValueError as error:
        assert "must be" in str(error)  # noqa: PT017 - the question is whether
        return True
    return False


SPOILED = [math.nan, math.inf, -math.inf]


@some_widths
@pytest.mark.parametrize("data", [*SPOILED, "zero", "empty"], ids=str)
def test_what_the_reference_does_not_start_from_the_module_does_not(name, role, variant, widths, data):
    for bits in widths:
        x = sample(2, role).astype(np.float32)
        if data == "zero":
            x[:] = 0
        elif data == "empty":
            x = x[:0]
        else:
            x[1, 3] = data
        refused = refuses(REFERENCE[name].init, x.astype(np.float64), bits, role, variant=variant)
        module = quantizer_class(name)(bits, role, variant=variant)
        assert refuses(module.initialize, tensor(x)) == refused, f"{module} started from {x!r}"
        if refused and needs_data(name, role):
            assert not bool(module.initialized)


@pytest.mark.parametrize(("name", "bits", "role", "variant"), CHANNELWISE)
@pytest.mark.parametrize("bad", SPOILED)
@pytest.mark.parametrize("channel", range(3))
def test_one_spoiled_channel_among_good_ones_is_refused(name, bits, role, variant, bad, channel):
    """Wherever it would be refused alone."""
    data = sample(5, role).astype(np.float32)
    data[channel, 2] = bad
    refused = refuses(REFERENCE[name].init, data[channel].astype(np.float64), bits, role, variant=variant)
    module = quantizer_class(name)(bits, role, variant=variant, shape=(3, 1))
    x = tensor(data) if role == "weight" else tensor(data.T.copy()).reshape(7, 3, 1)
    assert refuses(module.initialize, x) == refused, f"{module} started from {data!r}"
    for value in module.parameters():
        assert value.isfinite().all()


# Types, devices, memory


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type(method, dtype):
    for role in REFERENCE[method].METHOD.roles:
        module = initialized(method, max(REFERENCE[method].METHOD.bits[role]), role, None, sample(1, role))
        x = torch.linspace(-2, 2, 12, dtype=dtype).reshape(3, 4).requires_grad_()
        for training in (True, False):
            got = module.train(training)(x)
            assert (got.dtype, got.shape) == (dtype, x.shape)
            assert not got.isnan().any()
        got.sum().backward()
        assert (x.grad.dtype, x.grad.shape) == (dtype, x.shape)


def check_on(method, device, values):
    for role in REFERENCE[method].METHOD.roles:
        bits = max(REFERENCE[method].METHOD.bits[role])
        module = initialized(method, bits, role, None, sample(1, role))
        x = tensor(sample(2, role).astype(np.float32))
        want = module.eval()(x)
        moved = copy.deepcopy(module).to(device)
        leaf = x.to(device).requires_grad_()
        got = moved(leaf)
        assert (got.device.type, got.shape, got.dtype) == (device, want.shape, want.dtype)
        assert moved.penalty().device.type == device
        got.sum().backward()
        assert leaf.grad.device.type == device
        if values:
            check_near(f"{moved} on {device}", got.detach().cpu().numpy(), want.detach().numpy(), 1e-5)


@every_method
def test_the_device_is_kept(method):
    """On the meta device, which has shapes and no values."""
    check_on(method, "meta", values=False)


@every_method
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_on_a_gpu(method):
    check_on(method, "cuda", values=True)


@every_method
def test_memory_layout_changes_nothing(method):
    for role in REFERENCE[method].METHOD.roles:
        module = initialized(method, min(REFERENCE[method].METHOD.admitted(role)), role, None, sample(1, role)).eval()
        x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        leaf = x.clone().requires_grad_()
        want = module(leaf)
        want.backward(torch.ones_like(x).cumsum(-1))
        bound = REFERENCE[method].METHOD.bound * 1.2e-7 * 4  # sums in another order
        for name, view in {
            "every second": torch.stack([x, x], -1)[..., 0],
            "transposed": x.transpose(1, 3).contiguous().transpose(1, 3),
            "channels last": x.contiguous(memory_format=torch.channels_last),
            "expanded": x[:1].expand(2, 3, 4, 5),
        }.items():
            strided = view.detach().requires_grad_()
            got = module(strided)
            got.backward(torch.ones_like(x).cumsum(-1))
            if name != "expanded":
                check_near(f"{module} {name}", got.detach().numpy(), want.detach().numpy(), bound)
                slack = bound + 1e-5 * (1 + leaf.grad.abs().numpy())  # another path may compute it
                check_near(f"{module} {name}: gradient", strided.grad.numpy(), leaf.grad.numpy(), slack)


# Operators, compiling


class Operators(TorchDispatchMode):
    """Record the calls of the suite's operators, which in eager mode go past the dispatcher."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.patch = pytest.MonkeyPatch()

    def __enter__(self):
        self.patch.setattr(Operator, "__call__", lambda operator, x, *arguments: operator._call(x, *arguments))
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.undo()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "quantgap":
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


def widest(method):
    """Modules of most bits, with inputs: by default one of each role, in CI of each variant; also with channels."""
    x = torch.linspace(-2, 2, 18).reshape(3, 6)
    rows = REFERENCE[method].METHOD.defined()
    kinds = list(dict.fromkeys((r, v) for _, r, v in rows))
    for role, variant in {one[0]: one for one in reversed(kinds)}.values() if QUICK else kinds:
        bits = max(b for b, r, v in rows if (r, v) == (role, variant))
        yield initialized(method, bits, role, variant, sample(1, role)), (x, x.mT, x.double())
        if (method, bits, role, variant) in CHANNELWISE:
            module, own = channelwise(method, bits, role, variant)
            yield module, (own,)


def kind(argument):
    """What an operator may branch on while it is traced."""
    if isinstance(argument, torch.Tensor):
        return argument.dim(), argument.dtype
    return argument if isinstance(argument, str | bool) else type(argument)


@every_method
def test_operators_are_registered_as_they_behave(method):
    """Tracing sees no numbers of tensors: an operator is traced once for each kind of arguments."""
    traced = set()
    for module, inputs in widest(method):
        for x in inputs:
            with Operators() as found, torch.no_grad():
                module.eval()(x)
            assert found.calls, f"{module} uses no operator of the suite"
            for function, args in found.calls:
                leaves = [v.detach().requires_grad_() if isinstance(v, torch.Tensor) else v for v in args]
                checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
                kinds = (function, *map(kind, args))
                if kinds not in traced or NIGHTLY:
                    checks.append("test_aot_dispatch_dynamic")
                    traced.add(kinds)
                torch.library.opcheck(function, tuple(leaves), test_utils=checks)


def strides(found):
    """Where elements lie; of a dimension of one element nothing depends on it."""
    outputs = found if isinstance(found, tuple) else (found,)
    return [[step for size, step in zip(g.shape, g.stride(), strict=True) if size > 1] for g in outputs]


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
}


MIXED = [("contiguous", "channels last"), ("channels last", "contiguous")]  # what networks hand to each other


@every_method
def test_operators_lay_their_outputs_out_as_compilers_are_told(method):
    """Whatever layout a gradient comes in: code that was compiled for one reads another wrongly, or refuses it."""
    values = torch.linspace(-2, 2, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    pairs = MIXED if QUICK else itertools.product(LAYOUTS, repeat=2)
    for (of_x, of_grad), dtype in itertools.product(pairs, (torch.float32, torch.float64)):
        x, mode = LAYOUTS[of_x](values.to(dtype)), FakeTensorMode()
        for module, inputs in widest(method):
            if len(inputs) == 1:
                continue  # it takes channels of its own, in one layout
            with Operators() as found, torch.no_grad():
                module.eval()(x)
            for function, args in found.calls:
                backward = getattr(torch.ops.quantgap, f"{function.__name__.partition('.')[0]}_backward").default
                grad = LAYOUTS[of_grad](torch.ones_like(args[0]))
                for one, its in ((function, args), (backward, (grad, *args))):
                    with mode:
                        told = one(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in its))
                    assert strides(one(*its)) == strides(told), (one, of_x, dtype)


@every_method
def test_compiles_without_a_graph_break(method):
    """All of a method's in one graph: compiling one after the other would take several times as long."""
    torch.compiler.reset()
    found = list(widest(method))
    eager = [copy.deepcopy(module).train(training) for module, _ in found for training in (True, False)]
    inputs = [given[0] for _, given in found for _ in (True, False)]

    def run(modules, leaves):
        return [module(leaf) for module, leaf in zip(modules, leaves, strict=True)]

    outputs, compiled = [], torch.compile(run, fullgraph=True, backend="eager")
    for function, modules in ((run, eager), (compiled, copy.deepcopy(eager))):
        leaves = [x.clone().requires_grad_() for x in inputs]
        values = function(modules, leaves)
        sum(value.square().sum() for value in values).backward()
        outputs.append([(value.detach(), leaf.grad) for value, leaf in zip(values, leaves, strict=True)])
    for module, want, got in zip(eager, *outputs, strict=True):
        check_same(f"compiled {module}", got[0].numpy(), want[0].numpy())
        check_same(f"gradient of compiled {module}", got[1].numpy(), want[1].numpy())


# The first batch


def needs_data(method, role):
    bits = max(REFERENCE[method].METHOD.bits[role])
    return not bool(quantizer_class(method)(bits, role).initialized)


@every_method
def test_the_first_batch_in_training_initialises(method):
    for role in filter(lambda r: needs_data(method, r), REFERENCE[method].METHOD.roles):
        bits = max(REFERENCE[method].METHOD.bits[role])
        module, x = quantizer_class(method)(bits, role), tensor(sample(1, role).astype(np.float32))
        with pytest.raises(RuntimeError, match="has no first values: only a batch in training mode"):
            module.eval()(x)
        torch.compiler.reset()
        with pytest.raises(RuntimeError):  # the compiler wraps the message
            torch.compile(module.train(), fullgraph=True, backend="eager")(x)
        assert not bool(module.initialized)
        module.train()(x)
        want = initialized(method, bits, role, None, x.numpy())
        for name, value in module.named_parameters():
            check_same(name, value.detach().numpy(), want.get_parameter(name).detach().numpy())
        module(10 * x)
        for name, value in module.named_parameters():
            check_same(f"{name} after the second", value.detach().numpy(), want.get_parameter(name).detach().numpy())


@every_method
@pytest.mark.parametrize("batch", [[], [0.0], [0.0] * 7, [1.0, math.nan], [1.0, math.inf]], ids=str)
def test_a_first_batch_that_tells_nothing_is_refused(method, batch):
    """Or it is not looked at."""
    for role in REFERENCE[method].METHOD.roles:
        bits = min(REFERENCE[method].METHOD.admitted(role))
        module, usual = (quantizer_class(method)(bits, role) for _ in range(2))
        try:
            module.initialize(torch.tensor(batch))
        except ValueError as error:
            assert "must be" in str(error)  # noqa: PT017 - either answer will do
            assert not needs_data(method, role) or not bool(module.initialized)
        else:
            usual.initialize(tensor(sample(1, role, (len(batch),))))
            for name, value in module.state_dict().items():
                check_same(name, value.numpy(), usual.state_dict()[name].numpy())
        module.initialize(tensor(sample(1, role).astype(np.float32)))  # a later batch may do
        assert bool(module.initialized)


@every_method
def test_a_first_batch_of_whole_numbers_in_an_integer_type_is_refused(method):
    """By hand as in a network: a step is no integer, and torch's own words do not say what is asked for."""
    for role in REFERENCE[method].METHOD.roles:
        module = quantizer_class(method)(min(REFERENCE[method].METHOD.admitted(role)), role)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        with pytest.raises(ValueError, match=r"x must be a floating-point tensor, got torch\.int64"):
            module.initialize(torch.arange(-3, 4))
        for name, value in module.state_dict().items():
            check_same(name, value.numpy(), before[name].numpy())


BACKWARD_ONLY = {("dsq", "alpha"), ("rq", "sigma")}  # and taken for the nearest admitted there


@every_method
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_parameters_driven_out_of_range_give_nan(method, value):
    """Out of range is what the reference refuses."""
    for role in REFERENCE[method].METHOD.roles:
        bits = max(REFERENCE[method].METHOD.bits[role])
        for name, _ in initialized(method, bits, role, None, sample(1, role)).named_parameters():
            module = initialized(method, bits, role, None, sample(1, role))
            with torch.no_grad():
                module.get_parameter(name).fill_(value)
            try:
                reference_params(module)
            except ValueError:
                if (method, name) in BACKWARD_ONLY:
                    continue
                for x in (tensor(sample(2, role)), tensor(sample(2, role).astype(np.float32))):
                    got = module.eval()(x)
                    assert got.isnan().all(), f"{module} with {name} = {value} gives {got}"
                with pytest.raises(ValueError, match=rf"{name}\b.* must be"):
                    module.codes(x)


# Saving, copying, parametrizing


def through_a_file(module):
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh = quantizer_class(module.method)(module.bits, module.role, variant=module.variant)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    return fresh


@every_method
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_a_file])
def test_copies_behave_alike(method, copied):
    for role in REFERENCE[method].METHOD.roles:
        bits = max(REFERENCE[method].METHOD.bits[role])
        x = tensor(sample(2, role).astype(np.float32))
        fresh = copied(quantizer_class(method)(bits, role))
        assert bool(fresh.initialized) == (not needs_data(method, role))
        module = initialized(method, bits, role, None, sample(1, role))
        other = copied(module)
        for training in (True, False):
            got, want = (m.train(training)(2 * x).detach().numpy() for m in (other, module))
            check_same(f"copy of {module}", got, want)
        for name, value in module.named_parameters():
            with torch.no_grad():
                other.get_parameter(name).add_(1)
            assert (other.get_parameter(name) != value).all(), "a copy has parameters of its own"


@every_method
def test_parametrize(method):
    if "weight" not in REFERENCE[method].METHOD.roles:
        pytest.skip(f"{method} quantizes activations only")
    bits = max(REFERENCE[method].METHOD.bits["weight"])
    conv = nn.Conv2d(2, 3, 3)
    plain = conv.weight.detach().clone()
    parametrize.register_parametrization(conv, "weight", initialized(method, bits, "weight", None, plain.numpy()))
    conv.eval()
    module = conv.parametrizations.weight[0]
    check_same("conv.weight", conv.weight.detach().numpy(), module(plain).detach().numpy())
    conv(torch.randn(1, 2, 5, 5)).square().sum().backward()
    assert conv.parametrizations.weight.original.grad.abs().sum() > 0


# What is built, and what is refused


@every_method
def test_full_precision(method):
    role = REFERENCE[method].METHOD.roles[0]
    assert isinstance(build(method, bits=None, role=role), nn.Identity)


@every_method
def test_build_by_name(method):
    known = REFERENCE[method].METHOD
    role = known.roles[0]
    bits = max(known.bits[role])
    module = build(method, bits=bits, role=role)
    assert type(module) is quantizer_class(method)
    assert (module.method, module.variant) == (method, known.variants[0])
    assert f"bits={bits}, role={role}, variant={module.variant}" in repr(module)
    assert module.penalty().shape == ()


@every_method
def test_what_is_refused(method):
    known, make = REFERENCE[method].METHOD, quantizer_class(method)
    for role in known.roles:
        for bits in [*(set(range(1, 9)) - set(known.bits[role])), 0, 9, -1, 2.0, True, "2"]:
            with pytest.raises(ValueError, match=rf"bits must be a whole number from .*, got {bits!r}"):
                make(bits, role)
    for role in ["", "weights", *(set(grid.ROLES) - set(known.roles))]:
        with pytest.raises(ValueError, match=rf"role must be one of .*, got {role!r}"):
            make(max(known.bits[known.roles[0]]), role)
    for variant in ["", "Paper"]:
        with pytest.raises(ValueError, match=rf"variant must be one of .*, got {variant!r}"):
            make(max(known.bits[known.roles[0]]), known.roles[0], variant=variant)
    module = initialized(method, max(known.bits[known.roles[0]]), known.roles[0], None, sample(1, known.roles[0]))
    with pytest.raises(ValueError, match=r"x must be a floating-point tensor, got torch\.int64"):
        module(torch.arange(3))
    with pytest.raises(ValueError, match="x must be free of NaN"):
        module.codes(torch.tensor([0.0, math.nan]))
