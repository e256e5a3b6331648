"""The registry: methods by name, and for what each is defined."""

import dataclasses
import importlib
import pkgutil

import pytest

import reference
from reference import registry

MODULES = registry.modules()


def test_methods_by_name():
    assert {"daq", "dsq", "ste"} <= set(MODULES)
    assert list(MODULES) == sorted(MODULES)
    assert registry.methods() == {name: module.METHOD for name, module in MODULES.items()}
    assert all(registry.module(name) is module for name, module in MODULES.items())


@pytest.mark.parametrize("name", ["", "DAQ", "grid", "cell", None])
def test_unknown_methods_are_refused(name):
    with pytest.raises(ValueError, match=rf"method must be one of apot, daq, .*, got {name!r}"):
        registry.module(name)


def test_a_method_is_asked_by_name():
    assert registry.method("lsq") is registry.module("lsq").METHOD


def test_the_role_of_inputs():
    lsq = registry.method("lsq")
    for bits, want in [
        ({"signed_activation": range(1, 2), "activation": range(1, 2)}, "activation"),
        ({"weight": range(1, 2), "signed_activation": range(1, 2)}, "signed_activation"),
    ]:
        assert dataclasses.replace(lsq, bits=bits).input_role == want
    with pytest.raises(ValueError, match="method must be one that quantizes activations, got 'lsq'"):
        print(dataclasses.replace(lsq, bits={"weight": range(1, 2)}).input_role)


def test_check_tells_what_is_admitted():
    lsq = registry.method("lsq")
    assert lsq.check(2, "weight") == "paper"
    assert lsq.check(1, "activation", "mqbench") == "mqbench"
    with pytest.raises(ValueError, match=r"bits must be a whole number from 2 to 8 for LSQ's role weight, got 1$"):
        lsq.check(1, "weight")
    with pytest.raises(ValueError, match="variant must be one of paper, lsq-net, mqbench, got 'Paper'"):
        lsq.check(2, "weight", "Paper")
    assert (1, "weight", "paper") not in lsq.defined()
    assert (8, "activation", "lsq-net") in lsq.defined()


# What the paper says; where it is silent, what runs: the code that its authors, or most of its users, have.
DEFAULTS = {
    "apot": "paper", "daq": "paper", "dasr": "kernel", "dorefa": "released", "dsq": "hard", "duq": "released",
    "irnet": "released", "lqnets": "released", "lsq": "paper", "lsqplus": "paper", "pact": "paper", "qil": "paper",
    "qnet": "paper", "rq": "paper", "soft_to_hard": "paper", "ste": "half_even",
}  # fmt: skip


def test_defaults():
    assert {name: registry.method(name).variants[0] for name in DEFAULTS} == DEFAULTS


def test_a_method_has_the_name_of_its_file():
    """Two of one name would take each other's place."""
    found = [importlib.import_module(f"reference.{info.name}") for info in pkgutil.iter_modules(reference.__path__)]
    named = {module.__name__: module.METHOD.name for module in found if hasattr(module, "METHOD")}
    assert named == {f"reference.{name}": name for name in MODULES}
