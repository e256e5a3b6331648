"""Strategies: what the tests draw. Parameters range over all that the code admits, with the usual values favoured."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reference import checks, contract, daq, dsq, grid
from reference import inputs as input_points
from reference.contract import cotangents as cotangents
from reference.registry import Reference

PROFILE = settings.get_current_profile_name()  # see conftest.py
NIGHTLY = PROFILE == "nightly"  # more of the same, where hypothesis does not draw it
QUICK = PROFILE == "dev"  # the default run: less of the same than in CI
FEW = max(5, settings.get_profile(PROFILE).max_examples // 5)  # examples, where an oracle is slow
ALL_MISTAKES = os.environ.get("QUANTGAP_MISTAKES") == "all"  # are planted; otherwise a few

dtypes = st.sampled_from([np.float32, np.float64])
bit_widths = st.integers(1, 8)
roles = st.sampled_from(grid.ROLES)
variants = st.sampled_from(["paper", "released"])
gammas = st.floats(0.5, 8) | st.floats(*daq.GAMMA_RANGE)
sigmas = st.floats(0.5, 4) | st.floats(*daq.SIGMA_RANGE)
alphas = st.floats(0.01, 0.9) | st.floats(*dsq.ALPHA_RANGE)
kernels = st.fixed_dictionaries({"sigma": sigmas, "variant": variants})
daq_options = st.fixed_dictionaries({"gamma": gammas, "sigma": sigmas, "variant": variants})

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
vectors = hnp.array_shapes(min_dims=1, max_dims=1, min_side=1, max_side=8)


def nudge(x: Any, steps: int) -> Any:
    """Return the floating point number `steps` above (or below) `x`."""
    for _ in range(abs(steps)):
        x = np.nextafter(x, x.dtype.type(math.copysign(math.inf, steps)))
    return x


@st.composite
def arrays_of(draw: st.DrawFn, elements: st.SearchStrategy, dtype: Any, shape: st.SearchStrategy) -> np.ndarray:
    """Arrays filled with `elements`."""
    size = draw(shape)
    count = math.prod(size)
    return np.array(draw(st.lists(elements, min_size=count, max_size=count)), dtype).reshape(size)


def normalized(dtype: Any, *, top: int = 255, shape: st.SearchStrategy = vectors) -> st.SearchStrategy:
    """Arrays of normalised inputs (Eq. 1): levels, transition points, their neighbours, and all between."""
    half_integers = st.integers(0, 2 * top).map(lambda twice: dtype(twice / 2))
    neighbours = st.builds(nudge, half_integers, st.integers(-2, 2)).map(lambda x: np.clip(x, 0, top))
    anywhere = st.floats(0, top, width=32).map(dtype)
    return arrays_of(half_integers | neighbours | anywhere, dtype, shape)


@st.composite
def clip_ranges(draw: st.DrawFn, shape: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """l and u, exact in float32, for which every level has its own value in float32."""
    count = math.prod(shape)
    low = draw(st.lists(st.floats(-4, 4, width=32), min_size=count, max_size=count))
    width = draw(st.lists(st.floats(2**-5, 8, width=32), min_size=count, max_size=count))
    lower = np.array(low, np.float32)
    upper = lower + np.array(width, np.float32)
    return lower.reshape(shape).astype(np.float64), upper.reshape(shape).astype(np.float64)


@st.composite
def any_clip_ranges(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """l and u of any size, exact in float32, with a distance that float32 can hold and divide by."""
    ends = st.floats(-(2.0**126), 2.0**126, width=32)
    lower, upper = sorted([draw(ends), draw(ends)])
    assume(upper - lower > 2 * checks.NARROWEST["float32"])
    return np.asarray(lower), np.asarray(upper)


def inputs(
    lower: Any, upper: Any, bits: int, dtype: Any, *, nan: bool = False, shape: st.SearchStrategy = shapes
) -> st.SearchStrategy:
    """Arrays of x-hat: levels and transition points of the clip range, their neighbours, in and out of it, +-inf."""
    low, high = float(np.ravel(lower)[0]), float(np.ravel(upper)[0])
    n = 2**bits - 1

    def place(twice: int) -> Any:
        return dtype(low + (high - low) * (twice / (2 * n)))

    special = st.integers(-1, 2 * n + 1).map(place)
    anywhere = st.floats(-0.5, 1.5).map(lambda p: dtype(low + (high - low) * p))
    odd = [-math.inf, math.inf, 0.0, -0.0, low, high, *([math.nan] if nan else [])]
    return arrays_of(
        special | st.builds(nudge, special, st.integers(-2, 2)) | anywhere | st.sampled_from(odd).map(dtype),
        dtype,
        shape,
    )


def finite_inputs(
    lower: Any, upper: Any, bits: int, dtype: Any, *, shape: st.SearchStrategy = vectors
) -> st.SearchStrategy:
    """Arrays of `inputs` without infinities, which no finite difference is taken of."""
    return inputs(lower, upper, bits, dtype, shape=shape).map(lambda x: np.nan_to_num(x, posinf=99, neginf=-99))


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same values in other memory: reversed, column-major, strided, misaligned, read-only."""
    doubled = np.repeat(x[..., None], 2, axis=-1)
    packed = np.zeros(x.size, np.dtype([("pad", "u1"), ("value", x.dtype)]))
    packed["value"] = x.ravel()
    frozen = x.copy()
    frozen.flags.writeable = False
    return {
        "negative strides": np.flip(np.flip(x).copy()),
        "transposed": np.ascontiguousarray(x.T).T,
        "every second": doubled[..., 0],
        "misaligned": packed["value"].reshape(x.shape),
        "read-only": frozen,
    }


# Cases for the contract


@dataclass(frozen=True)
class Case:
    """A method with parameters, and inputs for it."""

    module: Reference[Any]
    params: Any
    data: np.ndarray  # what the parameters were initialised from, float64

    def observed(self, x: np.ndarray) -> Any:
        """The parameters, with the statistics (where the method has any) taken of `x`."""
        return self.module.observe(x, self.params) if hasattr(self.module, "observe") else self.params


def sample(seed: int, role: str, shape: tuple[int, ...] = (3, 7)) -> np.ndarray:
    """Numbers as weights or activations are distributed, exact in float32; after a ReLU for plain activations."""
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return (np.abs(x) if role == "activation" else x).astype(np.float64)


def initial(module: Reference[Any], x: Any, bits: int, role: str, variant: str) -> Any:
    """Initial parameters."""
    return module.init(x, bits, role, variant=variant)


def definitions(modules: Mapping[str, Reference[Any]], admitted: Container[int] = range(1, 9)) -> pytest.MarkDecorator:
    """Call a test with every name, role and variant, and all the admitted bit-widths there are.

    It goes through the widths itself: a test of each would take longer to report than to run.
    """
    widths: dict[tuple[str, str, str], list[int]] = {}
    for name, module in modules.items():
        for bits, role, variant in module.METHOD.defined():
            if bits in admitted:
                widths.setdefault((name, role, variant), []).append(bits)
    cases = [pytest.param(*key, found, id="-".join(key)) for key, found in widths.items()]
    return pytest.mark.parametrize(("name", "role", "variant", "widths"), cases)


@st.composite
def contract_cases(draw: st.DrawFn, module: Reference[Any], variant: str) -> Case:
    """A method as its own rule initialises it, at bits and a role for which it is defined, and then trained a bit."""
    defined = [(bits, role) for bits, role, named in module.METHOD.defined() if named == variant]
    bits, role = draw(st.sampled_from(defined))
    data = sample(draw(st.integers(0, 999)), role)
    params = initial(module, data, bits, role, variant)
    for name in module.METHOD.learnable:
        factor = draw(st.sampled_from([1.0, 0.5, 0.75, 1.25, 2.0]))
        moved = getattr(params, name) * factor
        try:
            params = replace(params, **{name: moved})
        except ValueError:  # out of the admitted range: stay
            continue
    return Case(module, params, data)


def contract_inputs(case: Case, dtype: Any, *, shape: st.SearchStrategy = shapes) -> st.SearchStrategy:
    """Finite inputs for a case: transition points, their neighbours, zeros, and numbers around the data."""
    points = input_points.transition_points(contract.of_reference(case.module, case.params), dtype)
    special = [*points.astype(dtype), dtype(0.0), dtype(-0.0)]

    def array(drawn: tuple[tuple[int, ...], list[Any]]) -> np.ndarray:
        numbers = [nudge(special[p[0] % len(special)], p[1]) if isinstance(p, tuple) else p for p in drawn[1]]
        return np.array(numbers, dtype).reshape(drawn[0])

    return shape.flatmap(place_lists).map(array)


which = st.integers(0, 2**16 - 1)  # of the special numbers, counted round and round
places = st.tuples(which, st.just(0)) | st.tuples(which, st.integers(-2, 2)) | st.floats(-6, 6, width=32)


@cache
def place_lists(shape: tuple[int, ...]) -> st.SearchStrategy:
    """Shapes with as many places: made once, as hypothesis looks at every strategy before it draws."""
    count = math.prod(shape)
    return st.tuples(st.just(shape), st.lists(places, min_size=count, max_size=count))
