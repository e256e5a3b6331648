"""What the methods with a clip range on the uniform grid share, beyond the contract."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import grid, registry
from tests.oracles import check_near, check_same, eps
from tests.strategies import (
    bit_widths,
    clip_ranges,
    cotangents,
    definitions,
    dtypes,
    initial,
    inputs,
    layouts,
    roles,
    sample,
)

MODULES = {n: m for n, m in registry.modules().items() if issubclass(m.Params, grid.UniformParams)}
every_method = pytest.mark.parametrize("method", MODULES.values(), ids=MODULES)

# The registry


@every_method
def test_parameters_are_float64_arrays(method):
    for ends in [(-1, 1), (np.float32(-1), [1.0]), ([[-1], [0]], [[1], [2]])]:
        params = method.Params(*ends, 2, "weight")
        for got, want in zip((params.lower, params.upper), ends, strict=True):
            check_same(f"Params{ends}", got, np.array(want, np.float64))
            assert isinstance(got, np.ndarray)


# Values


@every_method
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges())
def test_values_are_levels_and_codes_are_their_numbers(method, data, dtype, bits, role, clip_range):
    params = method.Params(*clip_range, bits, role)
    x = data.draw(inputs(*clip_range, bits, dtype))
    levels, q = method.levels(params), method.codes(x, params)
    assert levels.shape == (2**bits,)
    assert (np.diff(levels) > 0).all()
    assert q.dtype == np.int64
    assert ((q >= 0) & (q < 2**bits)).all()
    values = method.forward(x, params, training=False)
    expression = f"{method.METHOD.name}.forward({x!r}, {params}, training=False)"
    check_same(expression, values, method.decode(q.astype(dtype), params))
    if dtype is np.float64:
        check_same(expression, values, levels[q])


@every_method
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_and_values_agree_on_every_tie(method, bits, dtype):
    n = 2**bits - 1
    params = method.Params(0.0, n, bits, "activation")
    x = np.arange(2 * n + 1, dtype=dtype) / dtype(2)
    want = method.decode(method.codes(x, params).astype(dtype), params)
    check_same(f"forward(ties, {params})", method.forward(x, params, training=False), want)


@every_method
@given(bits=bit_widths, role=roles, dtype=dtypes, clip_range=clip_ranges())
def test_levels_are_quantized_to_themselves_on_their_own_range(method, bits, role, dtype, clip_range):
    levels = method.levels(method.Params(*clip_range, bits, role))
    params = method.Params(levels[0], levels[-1], bits, role)
    q = np.arange(2**bits)
    values = method.decode(q.astype(dtype), params)
    check_same(f"codes(decode(codes)), {params}", method.codes(values, params), q)
    check_same(f"forward(levels), {params}", method.forward(values, params, training=False), values)


@every_method
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_nan_gives_nan(method, training, shape):
    params = method.Params(-1.0, 1.0, 2, "weight")
    got = method.forward(np.full(shape, math.nan), params, training=training)
    check_same(f"forward(nan, {params}, training={training})", got, np.full(shape, math.nan))


@every_method
def test_nan_among_numbers(method):
    params = method.Params(-1.0, 1.0, 2, "weight")
    x = np.array([0.3, math.nan, -0.3])
    assert np.isnan(method.forward(x, params, training=True)).tolist() == [False, True, False]
    assert np.isnan(method.vjp(x, params, np.ones(3))[0]).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="x must be free of NaN"):
        method.codes(x, params)


# Shapes, memory, types


@every_method
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges())
def test_permutation_and_memory_change_nothing(method, data, dtype, bits, role, clip_range):
    params = method.Params(*clip_range, bits, role)
    x = data.draw(inputs(*clip_range, bits, dtype, nan=True, shape=st.sampled_from([(6,), (2, 3), (2, 1, 4)])))
    order = np.array(data.draw(st.permutations(range(x.size))))
    for training in (False, True):
        want = method.forward(x, params, training=training)
        shuffled = method.forward(x.ravel()[order], params, training=training)
        expression = f"{method.METHOD.name}.forward({x!r}, {params}, training={training})"
        check_near_or_nan(f"{expression} permuted by {order}", shuffled, want.ravel()[order])
        for name, view in layouts(x).items():
            check_near_or_nan(f"{expression} {name}", method.forward(view, params, training=training), want)
    grad = cotangents(x)
    want = method.vjp(x, params, grad)[0]
    for name, view in layouts(x).items():
        check_near_or_nan(f"vjp({x!r}, {params}) {name}", method.vjp(view, params, grad)[0], want)


def check_near_or_nan(expression, got, want):
    """numpy's exp and tanh may differ in the last bit between vector and scalar loops, which memory decides."""
    check_same(f"isnan of {expression}", np.isnan(got), np.isnan(want))
    assert got.dtype == want.dtype
    # Where gamma = 2, the literal form turns eps of a probability into 16 eps of the result, in units of n levels.
    check_near(expression, np.nan_to_num(got), np.nan_to_num(want), 32 * eps(want) * (1 + np.abs(np.nan_to_num(want))))


@every_method
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges((3, 1)))
def test_a_clip_range_per_channel_is_three_quantizers(method, data, dtype, bits, role, clip_range):
    params = method.Params(*clip_range, bits, role)
    x = data.draw(inputs(*clip_range, bits, dtype, shape=st.sampled_from([(3, 2), (2, 3, 2), (3, 0)])))
    grad = cotangents(x)
    got = method.forward(x, params, training=False)
    grad_x, grads = method.vjp(x, params, grad)
    assert grads["lower"].shape == grads["upper"].shape == (3, 1)
    for c in range(3):
        one = method.Params(clip_range[0][c, 0], clip_range[1][c, 0], bits, role)
        expression = f"channel {c} of {method.METHOD.name} at {x!r}, {params}"
        check_same(expression, got[..., c, :], method.forward(x[..., c, :], one, training=False))
        check_same(expression, method.codes(x, params)[..., c, :], method.codes(x[..., c, :], one))
        want_x, want = method.vjp(x[..., c, :], one, grad[..., c, :])
        check_near(expression, grad_x[..., c, :], want_x, 8 * eps(x) * np.abs(want_x))
        for end in ("lower", "upper"):  # the same numbers, summed in another order
            size = np.abs(grad).sum() * (1 + np.abs(want_x).max(initial=0))
            check_near(f"{expression} {end}", grads[end][c, 0], want[end], 8 * eps(x) * size)


@every_method
def test_an_input_that_is_broadcast_gets_the_sum_of_its_gradients(method):
    ends = np.array([[1.0], [2.0], [4.0]])
    params = method.Params(-ends, ends, 2, "weight")
    x, grad = np.array([0.3, -0.4]), np.arange(6.0).reshape(3, 2)
    got = method.forward(x, params, training=True)
    check_same("forward", got, method.forward(np.broadcast_to(x, (3, 2)), params, training=True))
    grad_x, _ = method.vjp(x, params, grad)
    full, _ = method.vjp(np.broadcast_to(x, (3, 2)), params, grad)
    check_near(f"vjp({x}, {params})[0]", grad_x, full.sum(0), 1e-14)


@every_method
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_and_0_d(method, shape, dtype):
    params = method.Params(-1.0, 1.0, 2, "weight")
    x = np.zeros(shape, dtype)
    for training in (False, True):
        got = method.forward(x, params, training=training)
        assert (type(got), got.shape, got.dtype) == (np.ndarray, shape, dtype)
    assert method.codes(x, params).shape == shape
    grad_x, grads = method.vjp(x, params, x)
    assert (grad_x.shape, grad_x.dtype) == (shape, dtype)
    assert all(g.shape == () and g.dtype == dtype for g in grads.values())


@every_method
def test_inputs_are_left_as_they_are(method):
    x, grad = np.linspace(-2, 2, 9), np.ones(9)
    lower, upper = np.array(-1.0), np.array(1.0)
    params = method.Params(lower, upper, 2, "weight")
    for array in (x, grad, lower, upper, params.lower, params.upper):
        array.flags.writeable = False
    method.forward(x, params, training=True)
    method.codes(x, params)
    method.vjp(x, params, grad)


# Gradients: what holds for all methods of the suite, on this grid or not


every_definition = definitions(registry.modules())


@every_definition
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_stays_nan_in_the_backward_pass(name, role, variant, widths, dtype):
    for bits in widths:
        method = registry.module(name)
        data = sample(4, role)
        params = initial(method, data, bits, role, variant)
        if hasattr(method, "observe") and role == "weight":
            continue  # each gradient depends on all elements
        x = data.astype(dtype)
        x[1, 2] = math.nan
        grad_x, grads = method.vjp(x, params, cotangents(x))
        assert np.argwhere(np.isnan(grad_x)).tolist() == [[1, 2]], f"{params}: the gradient for x is {grad_x}"
        for parameter, value in grads.items():
            assert np.isnan(value).all(), f"{params}: the gradient for {parameter} is {value}"


@pytest.mark.parametrize("name", registry.modules())
def test_without_a_variant_it_is_the_first(name):
    method = registry.module(name)
    role = method.METHOD.roles[0]
    params = initial(method, sample(4, role), max(method.METHOD.bits[role]), role, method.METHOD.variants[0])
    assert dataclasses.replace(params, variant=None).variant == method.METHOD.variants[0]
    with pytest.raises(ValueError, match="variant must be one of"):
        dataclasses.replace(params, variant="")


@pytest.mark.parametrize("name", registry.modules())
def test_only_the_channel_of_a_nan_loses_its_gradients(name):
    method = registry.module(name)
    role = method.METHOD.roles[-1]
    params = initial(method, sample(4, role), max(method.METHOD.bits[role]), role, method.METHOD.variants[0])
    scalars = [key for key in method.METHOD.learnable if key != "alpha" and np.shape(getattr(params, key)) == ()]
    each = {key: np.full((3, 1), getattr(params, key)) for key in scalars}
    if not each:
        return
    params = dataclasses.replace(params, **each)
    x = sample(4, role)
    x[1, 2] = math.nan
    _, grads = method.vjp(x, params, cotangents(x))
    for key in each:
        assert np.isnan(grads[key]).tolist() == [[False], [True], [False]], f"{params}: {key} has {grads[key]}"


# What is refused


@every_method
def test_parameters_that_are_refused(method):
    for bits in [0, 9, -1, 2.0, True, "2", None]:
        with pytest.raises(ValueError, match=rf"bits must be a whole number from 1 to 8.*, got {bits!r}"):
            method.Params(-1.0, 1.0, bits, "weight")
    for role in ["", "weights", None]:
        with pytest.raises(ValueError, match=rf"role must be one of weight, .*, got {role!r}"):
            method.Params(-1.0, 1.0, 2, role)
    for lower, upper in [(1.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (0.0, math.inf), ([0.0, 0.0], [1.0, 0.0])]:
        with pytest.raises(ValueError, match=r"clip range \(lower, upper\) must be finite with lower < upper"):
            method.Params(lower, upper, 2, "weight")
    with pytest.raises(ValueError, match="noise must be None"):
        method.forward([0.0], method.Params(-1.0, 1.0, 2, "weight"), training=True, noise=0.5)


@every_method
@pytest.mark.parametrize("role", grid.ROLES)
def test_init_gives_parameters_that_work(method, role):
    x = np.linspace(-2, 2, 21)
    params = method.init(x, 2, role)
    assert (params.bits, params.role) == (2, role)
    assert params.lower == 0 or role != "activation"
    assert len(np.unique(method.codes(x, params))) > 1


@every_method
def test_init_without_spread_is_refused(method):
    for x in [[], [1.0], [0.1, 0.1, 0.1], [0.0, math.inf], [0.0, math.nan]]:
        with pytest.raises(ValueError, match=r"must be .*(positive and finite|finite values that differ)"):
            print(x, method.init(x, 2, "signed_activation"))  # shown where nothing is raised
