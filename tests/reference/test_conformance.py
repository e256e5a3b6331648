"""The gate: what it finds, what it takes for a mistake and what not, and what it says of a subject that misbehaves."""

import contextlib
import dataclasses
import inspect
import math
import sys
import time

import numpy as np
import pytest

import quantgap_gate
from reference import comparison, conformance, contract, inputs, lsq, lsqplus, registry, subjects
from reference.gate import Gate
from reference.verdicts import Known, NoSubject
from tests.strategies import NIGHTLY, QUICK, definitions, initial, sample

MODULES = registry.modules()
every_definition = definitions(MODULES)


def codes_of(x, step=0.5):
    return np.clip(np.rint(x / step), -2, 1)


def forward(x):
    """LSQ, weights of two bits, step 1/2, in plain numpy."""
    return codes_of(x) * x.dtype.type(0.5)


def gradients(x, grad, *, masked=True, scaled=True, clipped=True, sign=1.0, zero=False):
    """LSQ's, as the paper has them; each option leaves one thing out."""
    q = x / 0.5
    inside = (q > -2) & (q < 1)
    by_x = grad * (inside if masked else np.ones_like(x)) * (0 if zero else sign)
    ends = np.where(q >= 1, 1, -2) if clipped else 0
    by_step = np.where(inside, codes_of(x) - q, ends) * grad
    factor = 1 / math.sqrt(max(x.size, 1)) if scaled else 1
    return by_x, {"step": np.asarray(by_step.sum() * factor)}


def subject(**wrong):
    return contract.of_numpy(
        forward, bits=2, vjp=lambda x, g: gradients(x, g, **wrong), parameters={"step": 0.5}, role="weight", name="mine"
    )


def rows(report):
    return {row.name: row for row in report.rows}


def failing(report):
    return {row.name for row in report.wrong}


# The mistakes that must be found

PLANTED = {
    "unmasked": ({"masked": False}, {"lsq: gradient for x"}),
    "zero": ({"zero": True}, {"gradient", "lsq: gradient for x"}),
    "no 1/sqrt(N Qp)": ({"scaled": False}, {"lsq: gradient for step"}),
    "wrong sign": ({"sign": -1.0}, {"lsq: gradient for x"}),
    "nothing where clipped": ({"clipped": False}, {"lsq: gradient for step"}),
}


def test_a_right_one_passes_and_is_recognised():
    report = conformance.check(subject(), reference="lsq")
    assert report.ok, str(report)
    assert report.kin == "lsq, weight, paper"
    assert set(report.others) == {"lsq-net", "mqbench"}
    assert report.others["lsq-net"] == "other gradients for x at 2 inputs and gradients for its parameters"


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_mistake_in_the_gradient_is_found(mistake):
    wrong, where = PLANTED[mistake]
    report = conformance.check(subject(**wrong), reference="lsq")
    assert failing(report) == where, str(report)
    for row in report.wrong:
        assert len(eval(row.witness)) <= 2 or row.name == "gradient"
        assert conformance.again(subject(**wrong), row.name, eval(row.witness), reference="lsq").verdict == "fails"
        right = conformance.again(subject(), row.name, eval(row.witness), reference="lsq")
        assert right.verdict == "holds" or row.name == "gradient"


@pytest.mark.parametrize("mistake", ["unmasked", "zero", "wrong sign"])
def test_a_mistake_is_found_without_a_reference_by_the_surrogate(mistake):
    wrong, _ = PLANTED[mistake]
    own = dataclasses.replace(subject(**wrong), surrogate=lambda x, step: np.clip(x, -2 * step, step))
    assert "surrogate: gradient for x" in failing(conformance.check(own))
    right = dataclasses.replace(subject(), surrogate=lambda x, step: np.clip(x, -2 * step, step))
    assert "surrogate: gradient for x" not in failing(conformance.check(right))


def test_a_parameter_of_the_surrogate():
    def soft(x, step):
        return step * np.tanh(x)

    def make(factor):
        vjp = lambda x, g: (g * 0.5 * (1 - np.tanh(x) ** 2), {"step": np.asarray(factor * (g * np.tanh(x)).sum())})  # noqa: E731
        return contract.of_numpy(np.sign, bits=2, vjp=vjp, parameters={"step": 0.5}, surrogate=soft)

    assert not any(":" in name for name in failing(conformance.check(make(1.0))))
    found = rows(conformance.check(make(1.5)))
    assert found["surrogate: gradient for step"].verdict == "fails"
    assert found["surrogate: gradient for x"].verdict == "holds"


def test_the_sign_is_no_quantizer_of_one_bit():
    """0 is a third value."""
    report = conformance.check(contract.of_numpy(np.sign, bits=1))
    assert failing(report) == {"levels"}
    (row,) = report.wrong
    assert row.witness == "[-1.0, 0.0, 1.0]"
    assert row.said == "x = [-1.0, 0.0, 1.0]: the number of values of forward(x) is 3: -1, 0, 1, expected 2"
    assert row.again == "conformance.again(subject, 'levels', [-1.0, 0.0, 1.0])"
    assert conformance.check(contract.of_numpy(lambda x: np.where(x < 0, -1.0, np.where(x < 9, 1.0, x)), bits=1)).wrong


FORWARD = {
    "levels": lambda x: forward(x) + (x == 0.125) * 0.25,  # one number among all
    "idempotence": lambda x: forward(x) * 2,
    "monotone": lambda x: np.where(x == 7.0, 0.0, forward(x)),
    "signed zero": lambda x: np.where((x == 0) & np.signbit(x), -0.5, forward(x)),
    "infinities": lambda x: np.where(np.isinf(x), 0, forward(x)),
    "nan": lambda x: np.nan_to_num(forward(x)),
    "order": lambda x: np.concatenate([forward(x.ravel())[:1], 0 * x.ravel()[1:]]).reshape(x.shape),
    "each for itself": lambda x: forward(x - x.mean()) if x.size else x,
    "type": lambda x: forward(x).astype(np.float32),
    "shape": lambda x: forward(x).reshape(-1) if x.ndim > 1 else forward(x),
    "0-d": lambda x: forward(x) if x.ndim else forward(x)[None],
    "empty": lambda x: forward(x) if x.size else np.zeros(1),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_mistake_in_the_values_is_found(name):
    """Special points are found without being told."""
    own = contract.of_numpy(FORWARD[name], bits=2)
    if name == "monotone":  # a single number that no search can know: from hypothesis or the caller
        row = conformance.again(own, name, [7.0, 8.0, 6.0])
        assert row.verdict == "fails"
        return
    if name == "levels":
        assert conformance.again(own, name, [0.125, -9.0, 9.0, -0.5, 0.0]).verdict == "fails"
        return
    assert name in failing(conformance.check(own))


def test_a_single_number_that_is_off_is_found_beside_a_transition_point():
    """Just above the point, where x / s rounds to what it should not."""
    off = np.nextafter(np.float32(0.75 * 0.5), np.float32(1))
    own = contract.of_numpy(lambda x: np.where(x == off, x.dtype.type(9), forward(x)), bits=2, dtypes=("float32",))
    report = conformance.check(dataclasses.replace(own, bits=1))
    assert "levels" in failing(report)


def test_values_that_are_kept_from_call_to_call():
    calls = iter(range(10**6))
    own = contract.of_numpy(lambda x: forward(x) + next(calls), bits=2)
    assert "repeated calls" in failing(conformance.check(own))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_parameter_that_one_role_learns_and_another_does_not(factor):
    """The offset of LSQ+ is learned for activations: tried there although weights come first, and of weights not."""

    def verdict(role):
        own = contract.of_reference(lsqplus, lsqplus.Params(0.5, 0.0, 2, role))

        def vjp(x, grad):
            by_x, by = own.vjp(x, grad)
            return by_x, {name: factor * value if name == "beta" else value for name, value in by.items()}

        report = conformance.check(dataclasses.replace(own, vjp=vjp, role=None), reference="lsqplus")
        assert report.kin == f"lsqplus, {role}, paper"
        row = rows(report)["lsqplus: gradient for beta"]
        return row.verdict, row.reason

    assert verdict("activation") == ("holds" if factor == 1 else "fails", "")
    assert verdict("weight") == ("not applicable", "lsqplus, weight, paper does not learn it")


# What a subject may do


def endless(x):
    while True:
        time.sleep(0.01)


def loud(x):
    print("quantizing")
    print("and more", file=sys.stderr)
    return forward(x)


def spoiling(x):
    np.clip(x, -1, 0.5, out=x)
    return forward(x)


def refusing(x):
    raise RuntimeError("not for\nyou")


MISBEHAVIOUR = {
    endless: ("answers", "hangs", "nothing came within 1.2 s"),
    loud: ("prints nothing", "fails", "print is 'quantizing', expected nothing"),
    spoiling: ("input kept", "fails", "x after forward(x): element 0 is"),
    refusing: ("answers", "raises", "RuntimeError: not for you (test_conformance.py:"),
    (lambda x: None): ("answers", "raises", "its values must be an array of numbers, got a NoneType"),
    (lambda x: forward(x)[None]): ("shape", "fails", "expected"),
    (lambda x: sys.exit(3)): ("answers", "raises", "SystemExit: 3"),
}


@pytest.mark.parametrize(
    "function", MISBEHAVIOUR, ids=["endless", "loud", "spoiling", "refusing", "none", "shape", "exit"]
)
def test_misbehaviour_is_one_line_and_the_rest_goes_on(function, capsys):
    name, verdict, words = MISBEHAVIOUR[function]
    report = conformance.check(contract.of_numpy(function, bits=2), seconds=0.2)
    assert {row.name: row.verdict for row in report.wrong} == {name: verdict}, str(report)
    assert words in report.wrong[0].said
    assert "\n" not in report.wrong[0].said
    assert len(report.rows) == len(contract.PROPERTIES) + 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "spoiled", [lambda by_x, by: by_x, lambda by_x, by: (by_x, by, by), lambda by_x, by: (by_x, list(by.values()))]
)
def test_gradients_that_are_no_gradient_and_mapping_are_what_the_subject_raises(spoiled):
    own = dataclasses.replace(subject(), vjp=lambda x, grad: spoiled(*gradients(x, grad)))
    report = conformance.check(own, reference="lsq", role="weight", variant="paper")
    assert {row.name for row in report.wrong} >= {"gradient", "lsq: gradient for x", "lsq: gradient for step"}
    for row in report.wrong:
        assert row.verdict == "raises"
        assert row.got == "its vjp must return the gradient for x and a mapping of those for the parameters"


def test_a_subject_that_hangs_now_and_then():
    own = contract.of_numpy(lambda x: endless(x) if x.ndim != 1 else forward(x), bits=2)
    report = conformance.check(own, seconds=0.2)
    assert [row.name for row in report.wrong] == ["shape", "0-d"]
    assert rows(report)["empty"].reason == "not tried: it has hung 2 times"


def test_a_first_call_may_take_longer():
    """It may import or compile."""
    slow = iter([0.5])

    def first_slow(x):
        time.sleep(next(slow, 0))
        return forward(x)

    assert conformance.check(contract.of_numpy(first_slow, bits=2), seconds=0.2).ok


def test_the_time_that_a_property_may_take_is_the_same_by_every_door():
    option = quantgap_gate.OPTIONS["--seconds"]
    of_check = inspect.signature(conformance.check).parameters["seconds"].default
    assert option["default"] == of_check == Gate(subject()).seconds
    assert f"({option['default']:g})" in option["help"]


def test_an_error_of_the_suite_is_not_the_subjects(monkeypatch):
    monkeypatch.setitem(contract.PROPERTIES, "order", lambda q, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        conformance.check(subject())


def test_a_subject_without_codes_and_gradients():
    found = rows(conformance.check(contract.of_numpy(forward, bits=2)))
    assert (found["codes"].verdict, found["codes"].reason) == ("not applicable", "it offers no codes")
    assert found["gradient"].reason == "it offers no gradient"


# What is known


def written(tmp_path, text):
    path = tmp_path / "expected.toml"
    path.write_text(text)
    return path


def test_expected_failures(tmp_path):
    sign = contract.of_numpy(np.sign, bits=1)
    for table, verdict in (("expected", "expected"), ("exempt", "exempt")):
        report = conformance.check(
            sign, expected=written(tmp_path, f'[{table}]\nlevels = "0 is a level; known to its authors"\n')
        )
        assert report.ok
        row = rows(report)["levels"]
        assert (row.verdict, row.reason, row.witness) == (
            verdict,
            "0 is a level; known to its authors",
            "[-1.0, 0.0, 1.0]",
        )


def test_an_expected_failure_that_holds_is_wrong(tmp_path):
    path = written(
        tmp_path, '[expected]\n"nan-float64" = "not so"\nlevels = "0 is a level"\n[exempt]\norder = "why not"\n'
    )
    report = conformance.check(contract.of_numpy(np.sign, bits=1), expected=path)
    assert {row.name: row.verdict for row in report.wrong} == {"nan": "stale", "order": "stale"}
    assert rows(report)["nan"].said == "it holds: take it off the list, which says 'not so'"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("levels = 1", "where \\[expected\\] and \\[exempt\\] are known"),
        ('[expect]\nlevels = "x"', r"has \[expect\]"),
        ('[expected]\nlevels = ""', "levels must have a reason, got ''"),
        ("[expected]\nlevels = 3", "levels must have a reason, got 3"),
        (
            '[expected]\nlevel = "x"',
            "expected failures of level: properties are answers",
        ),
        ("[expected", "no TOML"),
    ],
)
def test_expected_failures_that_are_refused(tmp_path, text, words):
    with pytest.raises(NoSubject, match=words):
        conformance.check(contract.of_numpy(np.sign, bits=1), expected=written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NoSubject, match="No such file"):
        Known.read(tmp_path / "none.toml")


# What is refused


def roleless():
    return dataclasses.replace(subject(), role=None)


NINE = contract.of_numpy(forward, bits=9)
NEGATIVE = contract.of_numpy(forward, bits=2, parameters={"step": -1.0})
REFUSED = [
    (lambda: conformance.check(forward), "it is a function, not what torchimpl.contract.of_torch or"),
    (lambda: conformance.check(subject(), "lsg"), "method must be one of .*, got 'lsg'"),
    (lambda: conformance.check(roleless(), "pact"), "PACT has the parameters alpha, which mine does not name"),
    (lambda: conformance.check(subject(), "pact"), "bits and role must be what PACT is defined for"),
    (lambda: conformance.check(subject(), "lsq", role="weights"), "role must be one of"),
    (lambda: conformance.check(subject(), "lsq", variant="?"), "variant must be one of paper, "),
    (lambda: conformance.check(subject(), role="weight"), "a role or a variant is of a method"),
    (lambda: conformance.again(subject(), "levles", [0.0]), "property must be one of answers, levels"),
    (lambda: contract.of_numpy(forward, bits=0), "bits must be a whole number from 1, got 0"),
    (lambda: contract.of_numpy(forward, bits=2, shape=(3, 4)), "shape must be whole numbers from 1 and one -1"),
    (lambda: contract.of_numpy(forward, bits=2, dtypes=("int8",)), "dtypes must be names of float64"),
    (lambda: contract.of_numpy(3, bits=2), "forward must be a function"),
    (lambda: conformance.check(NINE, "lsq"), r"bits and role must be what LSQ is defined for, got \(9, "),
    (lambda: conformance.check(NEGATIVE, "lsq"), "LSQ refuses the parameters of forward: step must be"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


LOADED = {
    "nosuch.module:f": "ModuleNotFoundError: No module named 'nosuch'",
    "mine_gated:absent": "AttributeError: module 'mine_gated' has no attribute 'absent'",
    "mine_gated:number": "returns an int, not what of_torch or of_numpy returns",
    "mine_gated:raising": "ValueError: no (mine_gated.py:4)",
    "mine_gated:leaving": "SystemExit: 5",
    "mine_gated": "must be package.module:factory",
    "broken_gated:f": "SyntaxError",
}


def test_what_cannot_be_loaded_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_gated.py").write_text(
        "import sys\nnumber = 3\nprint('hello')\ndef raising(): raise ValueError('no')\ndef leaving(): sys.exit(5)\n"
        "import numpy as np\nfrom reference import contract\nright = contract.of_numpy(np.sign, bits=1)\n"
        "class Made:\n    @staticmethod\n    def one(): return right\n"
    )
    (tmp_path / "broken_gated.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, words in LOADED.items():
        with pytest.raises(NoSubject) as error:
            subjects.load(name)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
    assert subjects.load("mine_gated:right") is subjects.load("mine_gated:Made.one")
    assert conformance.again("mine_gated:right", "levels", [0.0, 1.0, -1.0]).verdict == "fails"
    assert capsys.readouterr() == ("", "")


# No false alarms


@pytest.mark.parametrize("name", MODULES)
def test_every_combination_of_the_suite_passes(name):
    """By default the least width of each role and variant, in CI the greatest too, in a type by turns; by night all."""
    module = MODULES[name]
    defined = list(module.METHOD.defined())
    if not NIGHTLY:
        least, greatest = ({one[1:]: one for one in some} for some in (defined[::-1], defined))
        defined = list(dict.fromkeys([*least.values(), *({} if QUICK else greatest).values()]))
    for i, (bits, role, variant) in enumerate(defined):
        own = contract.of_reference(module, initial(module, sample(1, role), bits, role, variant))
        own = dataclasses.replace(own, dtypes=own.dtypes if NIGHTLY else own.dtypes[i % 2 :][:1])
        report = conformance.check(own)
        assert report.ok, f"{bits} {role} {variant}: {report}"


@every_definition
def test_every_method_of_the_suite_passes_as_itself(name, role, variant, widths):
    """At one width, another for each variant; by night at all."""
    module = MODULES[name]
    for bits in widths if NIGHTLY else [widths[:4][len(role + variant) % len(widths[:4])]]:
        own = contract.of_reference(module, initial(module, sample(1, role), bits, role, variant))
        own = dataclasses.replace(own, dtypes=own.dtypes if NIGHTLY else ("float32",))
        report = conformance.check(own, reference=name, role=role, variant=variant)
        assert report.ok, f"{bits} {role} {variant}: {report}"


@pytest.mark.parametrize("name", ["lsq", "pact", "dorefa", "dsq"])
def test_a_variant_is_told_from_the_others(name):
    """Where the variants differ at all, in what can be seen for given parameters."""
    module = MODULES[name]
    role = module.METHOD.roles[0]
    for variant in module.METHOD.variants:
        params = initial(module, sample(1, role), 3, role, variant)
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            params = dataclasses.replace(params, step=np.asarray(0.25))
        report = conformance.check(contract.of_reference(module, params), reference=name)
        assert report.ok, str(report)
        assert report.kin.endswith(f", {variant}") or report.others[variant] == "fits as well", str(report)


@pytest.mark.parametrize("exponent", [-20, 0, 20])
def test_values_are_compared_in_their_own_size(exponent):
    """A factor of 1 + 2^-45 is 128 units in the last place, however small the levels are."""
    own = contract.of_reference(lsq, lsq.Params(2.0**exponent, 2, "weight"))
    other = dataclasses.replace(own, forward=lambda x: own.forward(x) * (1 + 2.0**-45), dtypes=("float64",))
    assert "lsq: values" in failing(conformance.check(other, reference="lsq"))
    report = conformance.check(own, reference="lsq")
    assert report.ok, str(report)


def test_negative_zero_is_no_finding():
    own = contract.of_numpy(lambda x: -forward(-x), bits=3)
    assert conformance.check(own).ok


def test_statistics_of_the_whole_tensor_are_no_finding():
    def scaled(x):
        return np.where(x < 0, -1, 1) * np.abs(x).mean() if x.size else x

    own = contract.of_numpy(scaled, bits=1, from_whole_tensor=True)
    report = conformance.check(own)
    assert failing(report) <= {"nan"}, str(report)
    assert "each for itself" in failing(conformance.check(dataclasses.replace(own, from_whole_tensor=False)))


@pytest.mark.parametrize("shape", [(3, -1), (-1, 3), (2, -1, 2)])
def test_channels(shape):
    """Inputs have the shape that the subject takes, and channels are looked at one by one."""
    steps = np.array([0.5, 0.25, 1.0])

    def each(x):
        assert [a for a, b in zip(x.shape, shape, strict=True) if b != -1] == [b for b in shape if b != -1]
        step = (steps[:, None] if shape == (3, -1) else steps if shape == (-1, 3) else steps[:2]).astype(x.dtype)
        return np.clip(np.rint(x / step), -2, 1) * step

    report = conformance.check(contract.of_numpy(each, bits=2, shape=shape))
    assert report.ok, str(report)
    assert rows(report)["0-d"].verdict == "not applicable"
    assert failing(conformance.check(contract.of_numpy(each, bits=1, shape=shape))) == {"levels"}


# Inputs and witnesses


@pytest.mark.parametrize("name", inputs.FORMATS)
def test_ranks_are_in_the_order_of_the_numbers(name):
    kind = inputs.FORMATS[name]
    ranks = np.array([-kind.top, -5, -1, 0, 1, 2, kind.top // 2, kind.top])
    numbers = kind.number(ranks)
    assert (np.diff(numbers.astype(np.float64)) > 0).all()
    assert (kind.rank(numbers) == ranks).all()
    assert np.isfinite(numbers).all()
    assert not np.isfinite(kind.number(np.array([kind.top + 1]))).any()
    assert float(kind.number(kind.rank(np.ones(1, kind.carrier)) + 1)[0]) == 1 + kind.eps


@pytest.mark.parametrize("name", inputs.FORMATS)
def test_transition_points_are_found_in_every_type(name):
    kind = inputs.FORMATS[name]
    own = contract.of_numpy(lambda x: np.clip(np.rint(x.astype(np.float64) / 0.25), -8, 7) / 4, bits=4)
    points = inputs.find(own, kind).transitions
    assert len(points) == 15
    above = kind.number(kind.rank(points) + 1)
    values = own.forward(points), own.forward(above)
    assert (values[0] < values[1]).all()


@pytest.mark.parametrize("bits", range(1, 7))
def test_what_is_no_staircase_has_no_transition_points(bits):
    """Each of 2048 numbers has another value: many more than 2^bits."""
    assert not len(inputs.find(contract.of_numpy(lambda x: x, bits=bits), inputs.FORMATS["float64"]).transitions)


def test_what_the_gate_knows_of_a_subject():
    """Its transition points; nothing where statistics of all inputs move them."""
    points = Gate(subject()).points("float64", "cpu")
    assert points.transitions.tolist() == [-0.75, np.nextafter(-0.25, -1), 0.25]  # ties go to even
    assert Gate(dataclasses.replace(subject(), from_whole_tensor=True)).points("float64", "cpu") is None


@pytest.mark.parametrize(
    "levels", [np.array([-1e-3, 0, 1e-6, 5.0, 5.1]), 2.0 ** -np.arange(12.0), np.array([100.0, 101.0])]
)
def test_uneven_levels_are_found(levels):
    levels = np.sort(levels)
    middles = (levels[1:] + levels[:-1]) / 2
    own = contract.of_numpy(lambda x: levels[np.searchsorted(middles, x)], bits=4)
    np.testing.assert_allclose(inputs.find(own, inputs.FORMATS["float64"]).transitions, middles, rtol=1e-15)


def test_the_inputs_have_what_is_promised():
    own = contract.of_reference(lsq, lsq.Params(0.5, 2, "weight"))
    for name, kind in inputs.FORMATS.items():
        if name in ("float16", "bfloat16"):
            continue
        x = inputs.vector(own, kind)
        assert {0.25, -0.25, -0.75, 1.0, -1.0, 0.0} <= set(x.tolist())
        for point in (-0.75, -0.25, 0.25):
            for way in (-math.inf, math.inf):
                assert np.nextafter(kind.carrier(point), kind.carrier(way)) in x
        assert np.signbit(x[x == 0]).any()
        assert not np.signbit(x[x == 0]).all()
        assert ((np.abs(x) < kind.smallest_normal) & (x != 0)).any()
        assert np.abs(x).max() > 1e20
        assert np.isfinite(x).all()


def test_what_hypothesis_draws():
    from hypothesis import find

    from reference import strategies

    own = contract.of_reference(lsq, lsq.Params(0.5, 2, "weight"))
    x = find(strategies.arrays(own, "float32"), lambda x: bool((x == np.float32(0.25)).any()))
    assert x.dtype == np.float32
    assert x.shape == (1,)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-7, -2049.0, 5e4 / 3])
def test_a_witness_is_the_shortest_text_of_its_number(dtype, value):
    """In its own type, as numpy prints it: 0.1, not 0.10000000149011612."""
    number, calls = np.dtype(dtype).type(value), iter(range(10**6))
    own = contract.of_numpy(lambda x: np.where(x == number, x.dtype.type(next(calls)), x), bits=8, dtypes=(dtype,))
    row = conformance.again(own, "repeated calls", [value, 2.0])
    assert row.witness == f"[{float(np.format_float_positional(number))!r}]", str(row)


def test_the_exact_is_told_from_the_inexact():
    exact = comparison.relatives(subject(), "lsq", "weight", "paper")
    other = comparison.relatives(dataclasses.replace(subject(), parameters={"step": 0.3}), "lsq", "weight", "paper")
    assert [kin.exact for kin in (*exact, *other)] == [True, False]
