"""The methods of the suite: every module of this package that defines ``METHOD`` is one.

Tables, tests and benchmarks ask here, so that a new method needs no change to a standing file. What a method's module
must have is written down once, in `Reference`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role


@dataclass(frozen=True)
class Method:
    """What the suite knows of a method.

    Attributes
    ----------
    name : str
        Name on the command line, and of the module in ``reference`` and ``torchimpl.quantizers``.
    title : str
        Name in print.
    source : str
        Where the method is defined.
    bits : mapping of str to range
        What it quantizes (`grid.ROLES`), and to how many bits each.
    variants : sequence of str
        Where paper, released code and common practice differ, one name each; the first is the default.
    learnable : sequence of str
        Parameters that receive a gradient.
    fixed : mapping of str, or (str, str), to sequence of str
        Parameters that for one role, or for one role in one variant, are not learned, although they are for others.
    undefined : collection of (str, int, str)
        Role, bits and variant for which one variant is not defined although others are.
    exempt : mapping of str to str
        Properties of `reference.contract` that do not hold, each with its reason; the tests demand a counterexample.
    bound : float
        How far two implementations may be apart, given the same parameters, in units of the last place of the value
        before it is rounded to a level, and of the output. 0 means bit for bit.
    in_input_units : sequence of str, optional
        Parameters measured in units of the input: with them multiplied by a power of two, and the input as well, the
        output has the same bits or is multiplied by it. None if no such parameters make it so.
    standardized : bool
        Whether layers standardise the weights first, as in DAQ (Section 4.1).
    output_scale : bool
        Whether layers learn an output scale, as in DAQ (Eq. 3).
    channelwise : bool
        Whether layers give the weights of each output channel parameters of their own.
    stochastic : bool
        Whether training draws noise. What is tested for every method is then tested without any.
    """

    name: str
    title: str
    source: str
    bits: Mapping[str, range]
    variants: Sequence[str]
    learnable: Sequence[str]
    fixed: Mapping[str | tuple[str, str], Sequence[str]] = field(default_factory=dict)
    undefined: Collection[tuple[str, int, str]] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)
    bound: float = 0
    in_input_units: Sequence[str] | None = None
    standardized: bool = False
    output_scale: bool = False
    channelwise: bool = False
    stochastic: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """What it quantizes."""
        return tuple(self.bits)

    @property
    def input_role(self) -> Role:
        """Its role for the inputs of layers: "activation", the output of a ReLU, if it has that, else the signed one.

        Raises
        ------
        ValueError
            If it quantizes nothing but weights.

        >>> method("lsq").input_role, method("irnet").input_role
        ('activation', 'signed_activation')
        """
        if "activation" in self.bits:
            return "activation"
        if "signed_activation" not in self.bits:
            raise checks.refuse("method", self.name, "one that quantizes activations")
        return "signed_activation"

    def learned(self, role: str, variant: str | None = None) -> set[str]:
        """Names of the parameters that are learned for a role in a variant, by default the first.

        >>> sorted(method("qnet").learned("weight")), sorted(method("qnet").learned("weight", "released"))
        (['alpha', 'beta', 'biases'], ['alpha', 'beta'])
        """
        variant = self.variants[0] if variant is None else variant
        return set(self.learnable) - {*self.fixed.get(role, ()), *self.fixed.get((role, variant), ())}

    def check(self, bits: int, role: str, variant: str | None = None) -> str:
        """Return the variant, by default the first, if the method is defined for all three.

        Raises
        ------
        ValueError
            If not; the message has what is admitted.

        >>> method("lsq").check(1, "weight")
        Traceback (most recent call last):
            ...
        ValueError: bits must be a whole number from 2 to 8 for LSQ's role weight, got 1
        """
        grid.check_role(role)
        if role not in self.bits:
            raise checks.refuse("role", role, f"one of {', '.join(self.bits)} for {self.title}")
        variant = self.variants[0] if variant is None else variant
        if variant not in self.variants:
            raise checks.refuse("variant", variant, "one of " + ", ".join(self.variants))
        admitted = self.admitted(role, variant)
        grid.top_code(bits)
        if bits not in admitted:
            whose = f"{self.title}'s role {role}" + (f", variant {variant}" if self.undefined else "")
            raise checks.refuse("bits", bits, f"a whole number from {min(admitted)} to {max(admitted)} for {whose}")
        return variant

    def admitted(self, role: str, variant: str | None = None) -> list[int]:
        """Bits for which the method is defined, ascending, for one of its roles and a variant, by default the first.

        >>> method("duq").admitted("weight"), method("irnet").admitted("signed_activation")
        ([2, 3, 4, 5, 6, 7, 8], [1])
        """
        variant = self.variants[0] if variant is None else variant
        return [bits for bits in self.bits[role] if (role, bits, variant) not in self.undefined]

    def defined(self) -> list[tuple[int, str, str]]:
        """Return all bits, roles and variants for which the method is defined."""
        return [
            (bits, role, variant)
            for role, admitted in self.bits.items()
            for bits in admitted
            for variant in self.variants
            if (role, bits, variant) not in self.undefined
        ]


class Parameters(Protocol):
    """What every method's ``Params`` has, a frozen dataclass that refuses what is not admitted.

    Besides, there are the parameters themselves, float64 arrays of shape () or (C, 1, ...), or numbers: those that
    `Method` calls learnable at least.
    """

    @property
    def bits(self) -> int:
        """For which the method is defined."""

    @property
    def role(self) -> Role:
        """What is quantized."""

    @property
    def variant(self) -> str:
        """Which of the method's variants."""


P = TypeVar("P", bound=Parameters)
Given = TypeVar("Given", bound=Parameters, contravariant=True)


class Reference(Protocol[P]):
    """What the module of a method has: constants, and pure functions over arrays. This is the whole contract.

    Arrays are float32 or float64, and what is computed from one has its dtype; other numbers become float64, other
    types are refused (`checks.as_float`). Inputs have any shape, and broadcast against parameters of shape (C, 1, ...).
    Errors are ValueErrors, with name, value and what is admitted (`checks.refuse`). How the functions fit together is
    tested by `reference.contract`.

    Two further functions are optional: those of `Observes` and `Penalizes`.
    """

    METHOD: Method

    @property
    def Params(self) -> type[P]:  # noqa: N802 - a class
        """The class of the parameters."""

    def init(self, x: npt.ArrayLike, bits: int, role: Role, *, variant: str = ...) -> P:
        """First parameters, from the weights or a first batch; by default of the first variant.

        Raises ValueError if the method is not defined for bits, role and variant, or if the data tell nothing.
        """

    def forward(self, x: npt.ArrayLike, params: P, *, training: bool, noise: None = None) -> Array:
        """Quantized values, of the shape and dtype of `x`; in test mode levels, bit for bit.

        NaN stays NaN, infinities clip. A stochastic method takes an array of noise in training, where None is no noise,
        and so do its `surrogate` and `vjp`; others refuse any.
        """

    def codes(self, x: npt.ArrayLike, params: P) -> Array:
        """Numbers of the levels of test mode, int64, ascending with them from 0. Raises ValueError on NaN."""

    def decode(self, q: npt.ArrayLike, params: P) -> Array:
        """Values of codes, which may be held as floating point numbers: their dtype is the result's."""

    def levels(self, params: P) -> Array:
        """All values of test mode, float64, ascending along the first axis; 2^bits at most.

        Parameters of channels give it their axes, after the first, if the levels depend on them.
        """

    def integer_grid(self, params: P) -> IntegerGrid | None:
        """The levels as a unit times integers of at most 256; None where they are not."""

    def threshold_distance(self, x: npt.ArrayLike, params: P) -> Array:
        """Distance of the value that is rounded from where its code (or training's value) jumps, in levels."""

    def surrogate(self, x: npt.ArrayLike, params: P, *, at: tuple[npt.ArrayLike, P]) -> Array:
        """The function of `x` and `params` whose derivative at the pair `at` training takes for its own.

        Whatever has no derivative, or is detached, is taken at `at` and stays as it is there: which level, which side
        of the clip range, statistics.
        """

    def vjp(self, x: npt.ArrayLike, params: P, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
        """Gradients of training: for `x`, and by name for all learnable parameters, each of its shape.

        `grad` is that of the loss for the output. NaN in `x` is NaN in the gradient for it.
        """


class Observes(Protocol[P]):
    """An optional function, of methods whose parameters contain statistics of the tensor that is quantized."""

    def observe(self, x: npt.ArrayLike, params: P) -> P:
        """The parameters with the statistics of `x`."""


class Penalizes(Protocol[Given]):
    """An optional function, of methods with a term of their own in the loss."""

    def penalty(self, params: Given) -> float:
        """That term, before its coefficient."""


@functools.cache
def modules() -> Mapping[str, Reference[Any]]:
    """Return the reference module of every method, by name.

    >>> sorted(modules())[:2]
    ['apot', 'daq']
    """
    import reference

    found = {}
    for info in pkgutil.iter_modules(reference.__path__):
        module = importlib.import_module(f"reference.{info.name}")
        if hasattr(module, "METHOD"):
            found[module.METHOD.name] = module
    return MappingProxyType(dict(sorted(found.items())))


def methods() -> dict[str, Method]:
    """Return every method, by name."""
    return {name: module.METHOD for name, module in modules().items()}


def method(name: str) -> Method:
    """Return the method `name`. Raises ValueError if there is none."""
    return module(name).METHOD


def module(name: str) -> Reference[Any]:
    """Return the reference module of the method `name`.

    Raises
    ------
    ValueError
        If there is no such method; the message lists those there are.
    """
    found = modules()
    if name not in found:
        raise ValueError(f"method must be one of {', '.join(found)}, got {name!r}")
    return found[name]
