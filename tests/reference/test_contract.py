"""The contract, met by every reference method: a new method is tested here without change."""

import contextlib
import dataclasses
import inspect
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import contract, grid, integer, registry
from tests.oracles import check_same, eps
from tests.strategies import contract_cases, contract_inputs, definitions, dtypes, initial, sample, vectors

MODULES = registry.modules()
VARIANTS = [(name, variant) for name, module in MODULES.items() for variant in module.METHOD.variants]
DEFINED = [(name, *row) for name, module in MODULES.items() for row in module.METHOD.defined()]
every_definition = definitions(MODULES)
every_method = pytest.mark.parametrize("method", MODULES.values(), ids=MODULES)
every_variant = pytest.mark.parametrize(("name", "variant"), VARIANTS)


def spread(data):
    """Inputs on both sides of, and inside, any range that was initialised from `data`; on no special point.

    Among the data they are dense, so that every element of a codebook has some.
    """
    return np.concatenate(
        [
            np.linspace(-15.137, 15.261, 457) * max(1, np.abs(data).max() / 3),
            np.linspace(data.min() - 0.1037, data.max() + 0.1013, 1009),
        ]
    )


# The properties


@every_variant
@given(data=st.data(), dtype=dtypes, exponent=st.integers(-8, 8))
def test_properties_and_units_of_the_input(name, variant, data, dtype, exponent):
    case = data.draw(contract_cases(MODULES[name], variant))
    x = data.draw(contract_inputs(case, dtype))
    contract.check_at(contract.of_reference(case.module, case.params), x)
    if MODULES[name].METHOD.in_input_units is not None:
        x = np.where(np.abs(x) < 2.0**-100, dtype(0), x)  # subnormal numbers do not scale exactly
        contract.scales_with_its_parameters(case.module, case.params, x, 2.0**exponent)


@every_variant
@given(data=st.data())
def test_gradients_are_those_of_the_surrogate(name, variant, data):
    case = data.draw(contract_cases(MODULES[name], variant))
    x = data.draw(contract_inputs(case, np.float64, shape=vectors))
    x = np.concatenate([x, [0.3, -0.7]])  # statistics need two values
    contract.gradients_are_those_of_the_surrogate(case.module, case.observed(x), x)


@every_variant
@given(data=st.data())
def test_float32_has_the_codes_of_float64(name, variant, data):
    case = data.draw(contract_cases(MODULES[name], variant))
    x = data.draw(contract_inputs(case, np.float32))
    subject = contract.of_reference(case.module, case.params)
    distance = case.module.threshold_distance(x.astype(np.float64), case.params)
    # 8: quotient, product and the parameters' own rounding to float32, in levels
    contract.agrees(subject, subject, x, distance=distance, bound=max(8, case.module.METHOD.bound))


@every_method
def test_exemptions_have_a_counterexample(method):
    for property_, reason in method.METHOD.exempt.items():
        found = False
        for bits, role, variant in method.METHOD.defined():
            first = initial(method, sample(1, role), bits, role, variant)
            others = [initial(method, 1 + sample(1, role), bits, role, variant)]  # from data that lie elsewhere
            for name in method.METHOD.learnable:  # with one parameter trained
                with contextlib.suppress(ValueError):  # out of the admitted range
                    others.append(dataclasses.replace(first, **{name: getattr(first, name) * 0.5}))
            for params in (first, *others):
                subject = contract.of_reference(method, params)
                found |= contract.counterexample(subject, property_, np.linspace(-2, 2, 41))
        assert found, f"{method.METHOD.name} has the property {property_}, from which it is exempt: {reason}"


@every_definition
def test_every_learnable_parameter_receives_a_gradient(name, role, variant, widths):
    for bits in widths:
        method = MODULES[name]
        data = sample(1, role)
        x = spread(data)
        params = initial(method, data, bits, role, variant)
        if hasattr(method, "observe"):
            params = method.observe(x, params)
        contract.parameters_receive_gradients(
            contract.of_reference(method, params), x, method.METHOD.learned(role, variant)
        )


# What the contract needs


@every_method
def test_what_a_method_declares(method):
    known = method.METHOD
    assert method.__name__ == f"reference.{known.name}"
    assert known.title
    assert known.source
    assert set(known.roles) <= set(grid.ROLES)
    assert all(set(admitted) <= set(range(1, 9)) and admitted for admitted in known.bits.values())
    assert len(set(known.variants)) == len(known.variants) >= 1
    assert set(known.exempt) <= set(contract.PROPERTIES)
    for name in [
        "init",
        "forward",
        "codes",
        "decode",
        "levels",
        "vjp",
        "surrogate",
        "threshold_distance",
        "integer_grid",
    ]:
        assert inspect.getdoc(getattr(method, name)), f"{name} has no docstring"


@every_definition
def test_levels_are_the_values_of_the_codes(name, role, variant, widths):
    for bits in widths:
        method = MODULES[name]
        params = initial(method, sample(2, role), bits, role, variant)
        assert (params.bits, params.role) == (bits, role)
        check_same(
            f"levels of {params}", method.levels(params), contract.level_set(contract.of_reference(method, params))
        )


@every_variant
@given(data=st.data(), dtype=dtypes)
def test_a_channel_is_a_quantizer_of_its_own(name, variant, data, dtype):
    case = data.draw(contract_cases(MODULES[name], variant))
    values = {n: getattr(case.params, n) for n in case.module.METHOD.learnable}
    learnable = [n for n, v in values.items() if isinstance(v, np.ndarray) and not v.ndim]  # no table for all channels
    x = data.draw(contract_inputs(case, dtype, shape=st.just((2, 4))))

    def scaled(factor):
        return {n: values[n] * factor for n in learnable}

    try:
        channels = [dataclasses.replace(case.params, **scaled(factor)) for factor in (1.0, 1.5)]
        stacked = {n: np.stack([getattr(c, n) for c in channels]).reshape(2, 1) for n in learnable}
        both = dataclasses.replace(case.params, **stacked)
    except ValueError:  # 1.5 times an alpha, say, may be out of range
        return
    got, q = case.module.forward(x, both, training=False), case.module.codes(x, both)
    if learnable:
        levels = case.module.levels(both)
        check_same(f"levels of {both}", levels, contract.level_set(contract.of_reference(case.module, both)))
        for c, params in enumerate(channels):
            check_same(f"channel {c} of {both}", got[c], case.module.forward(x[c], params, training=False))
            check_same(f"codes of channel {c} of {both}", q[c], case.module.codes(x[c], params))
            check_same(f"levels of {c}", levels[:, c, 0] if levels.ndim > 1 else levels, case.module.levels(params))


# Levels that are a unit times integers


@every_variant
@given(data=st.data(), channels=st.booleans())
def test_levels_are_a_unit_times_integers(name, variant, data, channels):
    method, params = MODULES[name], data.draw(contract_cases(MODULES[name], variant)).params
    if channels:
        learned = {n: getattr(params, n) for n in method.METHOD.learned(params.role, params.variant)}
        each = {
            n: np.reshape([v, v / 2], (2, 1)) for n, v in learned.items() if isinstance(v, np.ndarray) and not v.ndim
        }
        params = dataclasses.replace(params, **each)
    grid_ = method.integer_grid(params)
    values = method.levels(params)
    if grid_ is None:
        return
    assert grid_.unit.dtype == np.float64
    assert (grid_.unit > 0).all()
    q = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    k = grid_.integers(q)
    assert k.dtype == np.int64
    assert np.abs(k).max() <= grid_.largest(params.bits) <= integer.EXACT_IN_BFLOAT16, f"integers of {params}: {k}"
    contract.near(f"unit times integers of {params}", grid_.unit * k, values, 2 * eps(values) * np.abs(values))


def test_for_what_there_is_no_unit():
    without = {
        (name, role)
        for name, bits, role, variant in DEFINED
        if MODULES[name].integer_grid(initial(MODULES[name], sample(1, role), bits, role, variant)) is None
    }
    assert without >= {("lqnets", "weight"), ("lsqplus", "activation"), ("dsq", "weight")}
    always = {"daq", "dasr", "ste", "dorefa", "pact", "lsq", "qil", "qnet", "duq", "irnet"}
    assert not {name for name, _ in without} & always


# Bad input


@every_method
def test_bits_roles_and_variants_that_are_refused(method):
    known = method.METHOD
    for role in grid.ROLES:
        x = sample(1, role)
        if role not in known.roles:
            with pytest.raises(ValueError, match=rf"role must be one of .* for {re.escape(known.title)}, got '{role}'"):
                initial(method, x, 1, role, known.variants[0])
            continue
        for variant in known.variants:
            admitted = {bits for bits, r, v in known.defined() if (r, v) == (role, variant)}
            params = initial(method, x, max(admitted), role, variant)
            for bits in [*(set(range(1, 9)) - admitted), 0, 9, -1, 2.0, True, "2", None]:
                for call in (
                    lambda b=bits, r=role, v=variant, x=x: initial(method, x, b, r, v),
                    lambda b=bits, p=params: dataclasses.replace(p, bits=b),
                ):
                    with pytest.raises(ValueError, match=rf"bits must be a whole number from .*, got {bits!r}"):
                        call()
    x = sample(1, "weight")
    for role in ["", "weights", None]:
        with pytest.raises(ValueError, match=rf"role must be one of .*, got {role!r}"):
            initial(method, x, 2, role, known.variants[0])
    if len(known.variants) > 1:
        with pytest.raises(ValueError, match=r"(variant|rounding) must be one of .*, got '\?'"):
            initial(method, x, 2, known.roles[0], "?")


@every_method
def test_parameters_that_are_refused(method):
    role = method.METHOD.roles[0]
    bits = min(method.METHOD.admitted(role))
    params = initial(method, sample(1, role), bits, role, method.METHOD.variants[0])
    for name in method.METHOD.learnable:
        for value in [math.nan, math.inf, -math.inf]:
            with pytest.raises(ValueError, match=r"must be "):
                dataclasses.replace(params, **{name: value})
    refused = "shape of noise must be" if method.METHOD.stochastic else "noise must be None"
    with pytest.raises(ValueError, match=refused):
        method.forward([0.0], params, training=True, noise=0.5)
    if method.METHOD.stochastic:
        with pytest.raises(ValueError, match="noise must be None in test mode"):
            method.forward([0.0], params, training=False, noise=np.zeros((2**bits, 1)))


@every_variant
def test_init_refuses_data_that_tell_nothing(name, variant):
    """Or it does not look at the data."""
    method = MODULES[name]
    for bits, role, _ in [row for row in method.METHOD.defined() if row[2] == variant]:
        for x in [[], [0.0], [0.0] * 7, [[0.0, 0.0], [0.0, 0.0]], [1.0, math.inf], [1.0, math.nan]]:
            try:
                params = initial(method, x, bits, role, variant)
            except ValueError as error:
                assert "must be" in str(error)  # noqa: PT017 - either answer will do
            else:
                usual = initial(method, sample(1, role, np.shape(x)), bits, role, variant)
                assert repr(params) == repr(usual), f"init({x}) gives {params}"


@every_method
def test_integers_are_taken_and_other_types_refused(method):
    role = method.METHOD.roles[0]
    bits = min(method.METHOD.admitted(role))
    params = initial(method, sample(1, role), bits, role, method.METHOD.variants[0])
    want = method.forward([0.0, 1.0, 2.0, 3.0], params, training=False)
    for x in [[0, 1, 2, 3], np.arange(4, dtype=np.int8), range(4)]:
        check_same(f"forward({x})", method.forward(x, params, training=False), want)
    for x in [[True], [1j], ["a"], [None]]:
        for call in [lambda x: method.forward(x, params, training=True), lambda x: method.codes(x, params)]:
            with pytest.raises(ValueError, match="x must be an array of real numbers, got '"):
                call(x)


# The contract itself


def test_what_is_checked_is_checked_for_its_form():
    good = contract.of_reference(MODULES["lsq"], MODULES["lsq"].Params(0.5, 2, "activation"))
    with pytest.raises(ValueError, match=r"exempt must be names of properties: levels, .*, got \['idempotense'\]"):
        dataclasses.replace(good, exempt={"idempotense": ""})
    with pytest.raises(ValueError, match="x must be finite numbers"):
        contract.check_at(good, np.array([1.0, math.nan]))
    contract.check_at(good, [1, 2])
    for constant in (lambda q: 0 * q, lambda q: -q):
        with pytest.raises(
            AssertionError, match=r"lsq with .*, codes, at x = .*: decode\(0\), decode\(1\), .* ascending"
        ):
            contract.check_at(dataclasses.replace(good, decode=constant), np.array([1.0]))


def test_what_the_contract_reports(capsys):
    """A quantizer with one mistake each fails the property that names it."""
    params = MODULES["lsq"].Params(0.5, 2, "activation")
    good = contract.of_reference(MODULES["lsq"], params)
    x = np.array([0.1, 0.3, 0.9, 1.4])
    wide = np.linspace(-1, 3, 81)
    calls = iter(range(99))

    def spoiling(x):
        x[:1] = 0
        return good.forward(x)

    def loud(x):
        print("quantizing")
        return good.forward(x)

    mistakes = {
        "levels": {"forward": lambda x: good.forward(x) + x / 8},
        "codes": {"forward": lambda x: good.forward(x) * 1.0001},
        "idempotence": {"codes": lambda x: good.codes(x / 1.9)},
        "monotone": {"codes": lambda x: 3 - good.codes(x)},
        "signed zero": {"forward": lambda x: np.where(np.signbit(x), 0.5, good.forward(x))},
        "infinities": {"forward": lambda x: np.where(np.isinf(x), x, good.forward(x))},
        "nan": {"forward": lambda x: np.nan_to_num(good.forward(x))},
        "order": {"forward": lambda x: good.forward(x) + np.arange(x.size).reshape(x.shape)},
        "each for itself": {"forward": lambda x: good.forward(x - x.mean())},
        "memory layout": {"forward": lambda x: good.forward(x) + (x.strides[-1] > x.itemsize)},
        "repeated calls": {"forward": lambda x: good.forward(x) + next(calls)},
        "input kept": {"forward": spoiling},
        "type": {"forward": lambda x: good.forward(x).astype(np.float32)},
        "shape": {"forward": lambda x: good.forward(x)[None]},
        "0-d": {"forward": lambda x: np.atleast_1d(good.forward(x))},
        "empty": {"forward": lambda x: good.forward(x) if x.size else np.zeros(1)},
        "prints nothing": {"forward": loud},
        "linear gradient": {"vjp": lambda x, grad: (grad**2, {})},
        "gradient": {"vjp": lambda x, grad: (0 * grad, {})},
    }
    assert set(mistakes) == set(contract.PROPERTIES)
    contract.check_at(good, x)
    contract.check_at(good, wide)
    for name, mistake in mistakes.items():
        own = {"levels": wide, "gradient": wide, "signed zero": -x}.get(name, x)
        assert contract.counterexample(dataclasses.replace(good, **mistake), name, own), name
        assert not contract.counterexample(good, name, own), name
    scaled = {"vjp": lambda x, grad: (grad, {"step": (grad**2).sum()})}  # a parameter's alone
    assert contract.counterexample(dataclasses.replace(good, **scaled), "linear gradient", x)
    with pytest.raises(AssertionError, match=r"codes, at x = array\(.*: forward\(x\): element .* is .*, expected"):
        contract.check_at(dataclasses.replace(good, **mistakes["codes"]), x)
    assert capsys.readouterr() == ("", "")


def test_two_that_do_not_agree_are_told_apart():
    """By codes alone, and by values alone; a code may differ by one at a tie."""
    good = contract.of_reference(MODULES["lsq"], MODULES["lsq"].Params(0.5, 2, "activation"))
    x = np.array([0.1, 0.25, 0.9])  # in levels 0.2, 0.5 and 1.8
    distance = np.array([0.3, 0.0, 0.3])

    def of(**wrong):
        return dataclasses.replace(good, name="ours", **wrong)

    def moved(at):
        return of(
            codes=lambda x: good.codes(x) + (x == at),
            forward=lambda x: good.forward(x) + np.where(x == at, 0.5, 0),
        )

    for bound in (0, 8):
        contract.agrees(of(), good, x, distance=distance, bound=bound)
        for wrong in (of(codes=lambda x: good.codes(x) + 1), of(forward=lambda x: good.forward(x) * 1.001), moved(0.1)):
            with pytest.raises(AssertionError, match=r"ours at array\(\[0.1 , 0.25, 0.9 \]\): (codes|forward)"):
                contract.agrees(wrong, good, x, distance=distance, bound=bound)
    contract.agrees(moved(0.25), good, x, distance=distance, bound=8)
