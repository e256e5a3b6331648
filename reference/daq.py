"""DAQ, the distance-aware quantizer. Equations are numbered as in the paper.

Source: Kim, Lee, Ham: Distance-aware Quantization, ICCV 2021. What the paper leaves to its supplement is derived here
and marked so; closed forms that it does not state are in `reference.daq_theory`.

``released`` was held against its code, cvlab-yonsei/DAQ: outputs, gradients and first values are equal to rounding.
That code also takes q_c = q_f + 1, and |s| for the output scale; its configurations and checkpoints show gamma = 2,
clip ranges that start at -3 and 3 (weights) and at 3 sigma_A with the lower end fixed (activations), first and last
layer left as they are, 400 epochs of cosine decay and fine-tuning from full precision. Its trainer keeps the best
accuracy on the test images.

Notation of the paper: x-hat is a full-precision value and x its normalised value (Eq. 1); q_f = floor(x) and
q_c = q_f + 1 are the two nearest levels, q_t = q_f + 1/2 the transition point between them; beta is the temperature,
gamma the constant of the temperature controller, sigma the width of the Gaussian kernel. Besides: t = |x - nearest
level|, in [0, 1/2], and kappa, the kernel at distance one.

The file reads in the paper's order: distance score, kernel, soft assignment (Section 3.2); adaptive temperature,
lambda, rescaling, the composed quantizer (Section 3.3); then the closed form of its gradient, and the functions of the
suite's contract.

Two things the paper does not say, and which the functions below make plain. Its equations fix the *output* (a
rounding, ties down) for every gamma and sigma. And since the temperature is a constant in the backward pass, the
gradient is that of a straight-through estimator whose slope is a hyperbolic cotangent of t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

Variant: TypeAlias = Literal["paper", "released"]
VARIANTS: tuple[Variant, ...] = ("paper", "released")

METHOD = Method(
    name="daq",
    title="DAQ",
    source="Kim, Lee, Ham: Distance-aware Quantization, ICCV 2021",
    bits=dict.fromkeys(grid.ROLES, range(1, 9)),
    variants=VARIANTS,
    learnable=("lower", "upper"),
    fixed={"activation": ("lower",)},  # 0, after a ReLU
    exempt={"idempotence": grid.SCALED_LEVELS},
    in_input_units=("lower", "upper"),
    standardized=True,
    output_scale=True,
)

GAMMA = 2.0  # Section 4.1, for weights and activations
SIGMA: dict[Role, float] = {"weight": 1.0, "activation": 2.0, "signed_activation": 2.0}  # Section 4.1

# Admitted parameters. Outside, float32 could no longer tell the two scores, or the two assignments, apart.
GAMMA_RANGE = (1e-3, 1e3)
SIGMA_RANGE = (1e-2, 1e2)
BETA_RANGE = (0.0, 1e8)  # beyond the largest beta* of the parameters above, 3.3e7


def check_gamma(gamma: float) -> float:
    """Return `gamma` if it is admitted: 0.001 to 1000."""
    return checks.check_scalar("gamma", gamma, *GAMMA_RANGE)


def check_sigma(sigma: float, *, infinite: bool = False) -> float:
    """Return `sigma` if it is admitted: 0.01 to 100, or infinity (no kernel, k = 1) where that makes sense."""
    if infinite and sigma == math.inf:
        return math.inf
    return checks.check_scalar("sigma", sigma, *SIGMA_RANGE)


def check_variant(variant: str) -> Variant:
    """Return `variant` if it is "paper" or "released"."""
    if variant not in VARIANTS:
        raise checks.refuse("variant", variant, "one of paper, released")
    return variant


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.2: distance-aware soft rounding (DASR)
# ---------------------------------------------------------------------------------------------------------------------


def nearest_levels(x: npt.ArrayLike) -> tuple[Array, Array]:
    """Return q_f and q_c, the two levels around `x`: its floor, and one more.

    The paper has the *ceiling* for q_c, and at the same time q_c - q_f = 1; at a level the two disagree, and only the
    latter works.

    Raises
    ------
    ValueError
        If an input is so large (2^22 in float32, 2^51 in float64) that half-integers are not representable around it.
    """
    x = checks.as_float(x)
    largest = 2.0 ** (np.finfo(x.dtype).nmant - 1)
    if (np.abs(x) > largest).any():
        raise checks.refuse("x", float(np.abs(x).max()), f"normalised values of at most {largest:g} in size")
    q_f = np.floor(x)
    return q_f, q_f + 1


def distance_score(x: npt.ArrayLike, q: npt.ArrayLike) -> Array:
    """Eq. 4: ``d_x(q) = exp(-|x - q|)``.

    >>> distance_score(0.25, [0.0, 1.0]).round(4)
    array([0.7788, 0.4724])
    """
    x = checks.as_float(x)
    return np.asarray(np.exp(-np.abs(x - np.asarray(q, x.dtype))))


def kernel(q: npt.ArrayLike, centre: npt.ArrayLike, *, sigma: float, variant: Variant = "paper") -> Array:
    """Gaussian kernel k_x(q), centred on the level nearest to x (Section 3.2, after Eq. 6).

    The paper gives sigma but no formula. ``paper`` is the Gaussian of standard deviation sigma,
    ``exp(-(q - centre)^2 / (2 sigma^2))``; ``released`` is what the authors' code computes,
    ``exp(-(q - centre)^2 / sigma^2)``. An infinite sigma is no kernel (k = 1), the plain soft argmax of Table 6.

    >>> kernel([0.0, 1.0], 0.0, sigma=1.0).round(4)
    array([1.    , 0.6065])
    >>> kernel([0.0, 1.0], 0.0, sigma=1.0, variant="released").round(4)
    array([1.    , 0.3679])
    """
    q = checks.as_float(q)
    distance = q - np.asarray(centre, q.dtype)
    return np.asarray(np.exp(-(distance**2) * q.dtype.type(2 * kernel_exponent(sigma, variant))))


def kernel_exponent(sigma: float, variant: Variant = "paper") -> float:
    """Half the exponent of the kernel at distance one: c = 1/(4 sigma^2) (``paper``), 1/(2 sigma^2) (``released``).

    kappa = exp(-2c). The closed forms are shortest in c.
    """
    c = 0.25 / check_sigma(sigma, infinite=True) ** 2
    return c if check_variant(variant) == "paper" else 2 * c


def kappa(sigma: float, variant: Variant = "paper") -> float:
    """Kernel at the farther of the two levels, ``exp(-2c)``; it is 1 at the nearer.

    >>> round(kappa(1.0), 4), round(kappa(1.0, "released"), 4)
    (0.6065, 0.3679)
    """
    return math.exp(-2 * kernel_exponent(sigma, variant))


def weighted_scores(x: npt.ArrayLike, *, sigma: float, variant: Variant = "paper") -> tuple[Array, Array]:
    """Eq. 8: ``s_x(q) = k_x(q) d_x(q)`` for q_f and q_c. At the transition point q_f counts as the nearest level."""
    q_f, q_c = nearest_levels(x)
    nearest = grid.round_half_down(x)
    return (
        kernel(q_f, nearest, sigma=sigma, variant=variant) * distance_score(x, q_f),
        kernel(q_c, nearest, sigma=sigma, variant=variant) * distance_score(x, q_c),
    )


def distance_probability(scores: tuple[Array, ...], beta: npt.ArrayLike) -> tuple[Array, ...]:
    """Eq. 6: softmax over the levels' scores at temperature `beta`, one beta for all inputs or one for each.

    The largest score *of each input* is subtracted before exponentiating, which changes nothing in exact arithmetic
    and keeps every probability finite.
    """
    beta = np.asarray(beta, scores[0].dtype)
    top = np.maximum.reduce(scores)
    weights = [np.exp(beta * (score - top)) for score in scores]
    total = sum(weights)
    return tuple(np.asarray(weight / total) for weight in weights)


def kernel_soft_argmax(x: npt.ArrayLike, beta: npt.ArrayLike, *, sigma: float, variant: Variant = "paper") -> Array:
    """Eq. 5: the soft assignment ``phi(x; beta) = m(q_f) q_f + m(q_c) q_c``.

    Parameters
    ----------
    x : array_like
        Normalised inputs (Eq. 1).
    beta : array_like
        Temperature, at least 0; a scalar, or one for each input.
    sigma : float
        Width of the kernel, 0.01 to 100, or infinity for no kernel.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    >>> kernel_soft_argmax([0.0, 0.25, 0.5, 0.75, 1.0], beta=4.0, sigma=1.0).round(4)
    array([0.0428, 0.1225, 0.278 , 0.8775, 1.0428])
    """
    _check_beta(beta, x)
    q_f, q_c = nearest_levels(x)
    m_f, m_c = distance_probability(weighted_scores(x, sigma=sigma, variant=variant), beta)
    return np.asarray(m_f * q_f + m_c * q_c)


def frozen_assignment(
    x: npt.ArrayLike, at: npt.ArrayLike, beta: npt.ArrayLike, *, sigma: float, variant: Variant = "paper"
) -> Array:
    """Eq. 5 at `x`, with the two levels and the nearer of them those of `at`: smooth in `x`, for differentiating.

    >>> frozen_assignment([0.25, 0.51], [0.25, 0.25], beta=4.0, sigma=1.0).round(4)
    array([0.1225, 0.2858])
    """
    x = checks.as_float(x)
    q_f, q_c = nearest_levels(at)
    k_f, k_c = (kernel(q, grid.round_half_down(at), sigma=sigma, variant=variant) for q in (q_f, q_c))
    m_f, m_c = distance_probability((k_f * np.exp(-(x - q_f)), k_c * np.exp(-(q_c - x))), beta)
    return np.asarray(m_f * q_f + m_c * q_c)


def full_grid_kernel_soft_argmax(
    x: npt.ArrayLike, beta: npt.ArrayLike, *, bits: int, sigma: float, variant: Variant = "paper"
) -> Array:
    """Eq. 5 and 6 over all 2^bits levels: what Section 3.2 starts from, before it keeps the two nearest levels only.

    Cost and memory grow as 2^bits. `beta` as in `kernel_soft_argmax`.

    >>> full_grid_kernel_soft_argmax([0.25, 1.5], beta=4.0, bits=2, sigma=1.0).round(4)
    array([0.3006, 1.2643])
    """
    x = checks.as_float(x)
    _check_beta(beta, x)
    nearest = grid.round_half_down(x)
    q = [np.full_like(x, level) for level in range(grid.top_code(bits) + 1)]
    scores = tuple(kernel(level, nearest, sigma=sigma, variant=variant) * distance_score(x, level) for level in q)
    m = distance_probability(scores, beta)
    return np.asarray(sum(probability * level for probability, level in zip(m, q, strict=True)))


def kernel_soft_argmax_slope(
    x: npt.ArrayLike, beta: npt.ArrayLike, *, sigma: float, variant: Variant = "paper"
) -> Array:
    """Derive phi for x with `beta` held fixed: ``phi' = beta m_f m_c (s_f + s_c)`` (derived; drawn in Fig. 3 and 5).

    At a level the derivative is taken from the right, where q_f = x.

    >>> kernel_soft_argmax_slope([0.0, 0.5], beta=4.0, sigma=1.0).round(4)
    array([0.2004, 0.7822])
    """
    _check_beta(beta, x)
    s_f, s_c = weighted_scores(x, sigma=sigma, variant=variant)
    m_f, m_c = distance_probability((s_f, s_c), beta)
    return np.asarray(np.asarray(beta, s_f.dtype) * m_f * m_c * (s_f + s_c))


def _check_beta(beta: npt.ArrayLike, x: npt.ArrayLike) -> None:
    """Refuse a temperature out of range; NaN is admitted where the input is NaN, whose beta* is NaN."""
    beta, x = np.broadcast_arrays(beta, x)
    refused = ~((beta >= BETA_RANGE[0]) & (beta <= BETA_RANGE[1])) & ~np.isnan(x)
    if refused.any():
        raise checks.refuse(
            "beta", beta[refused].flat[0].item(), f"a number from {BETA_RANGE[0]:g} to {BETA_RANGE[1]:g}"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.3: the temperature controller
# ---------------------------------------------------------------------------------------------------------------------


def adaptive_temperature(x: npt.ArrayLike, *, gamma: float = GAMMA, sigma: float, variant: Variant = "paper") -> Array:
    """Eq. 7: ``beta* = gamma / |s_x(q_f) - s_x(q_c)|``. A constant in the backward pass (Section 3.3).

    >>> adaptive_temperature([0.0, 0.5], gamma=2.0, sigma=1.0).round(4)
    array([2.5744, 8.3804])
    """
    check_gamma(gamma)
    check_sigma(sigma)
    s_f, s_c = weighted_scores(x, sigma=sigma, variant=variant)
    return np.asarray(s_f.dtype.type(gamma) / np.abs(s_f - s_c))


def lambda_(gamma: float = GAMMA) -> float:
    """``lambda = 1 / (e^gamma + 1)``, the offset of Eq. 9.

    >>> round(lambda_(2.0), 4)
    0.1192
    """
    return math.exp(-check_gamma(gamma)) / (1 + math.exp(-gamma))


def adaptive_assignment(x: npt.ArrayLike, *, gamma: float = GAMMA) -> Array:
    """Eq. 9 as stated: ``phi(x; beta*) = q_f + lambda if x <= q_t else q_c - lambda``, whatever sigma is.

    >>> adaptive_assignment([0.2, 0.5, 0.7]).round(4)
    array([0.1192, 0.1192, 0.8808])
    """
    q_f, q_c = nearest_levels(x)
    offset = q_f.dtype.type(lambda_(gamma))
    return np.where(grid.round_half_down(x) == q_c, q_c - offset, q_f + offset)


def rescale(y: npt.ArrayLike, q_t: npt.ArrayLike, *, gamma: float = GAMMA) -> Array:
    """Eq. 10: ``f(y) = (y - q_t) / (1 - 2 lambda) + q_t``, with 1 - 2 lambda = tanh(gamma/2).

    >>> rescale(lambda_(2.0), 0.5, gamma=2.0).round(12) + 0
    np.float64(0.0)
    """
    y = checks.as_float(y)
    q_t = np.asarray(q_t, y.dtype)
    return np.asarray((y - q_t) / y.dtype.type(math.tanh(check_gamma(gamma) / 2)) + q_t)


def discretize(x: npt.ArrayLike, *, gamma: float = GAMMA, sigma: float, variant: Variant = "paper") -> Array:
    """The composed quantizer ``Q = f(phi(x; beta*))``, computed literally through Eq. 4 to 8 and 10.

    Eq. 11 says that this is `grid.round_half_down`; here it is computed, so that it can be tested. It equals the
    rounding up to the accuracy of the exponentials divided by tanh(gamma/2).

    >>> discretize([0.2, 0.5, 0.7], sigma=1.0).round(12) + 0
    array([0., 0., 1.])
    """
    q_f, q_c = nearest_levels(x)
    beta = adaptive_temperature(x, gamma=gamma, sigma=sigma, variant=variant)
    return rescale(kernel_soft_argmax(x, beta, sigma=sigma, variant=variant), (q_f + q_c) / 2, gamma=gamma)


# ---------------------------------------------------------------------------------------------------------------------
# The gradient in closed form (derived)
# ---------------------------------------------------------------------------------------------------------------------


def slope(x: npt.ArrayLike, *, gamma: float = GAMMA, sigma: float, variant: Variant = "paper") -> Array:
    """The derivative that DAQ uses backward: d f(phi(x; beta*)) / dx with beta* held fixed.

    At beta* the probabilities are those of a logistic at +-gamma whatever x is, so that
    ``m_f m_c = 1/(4 cosh^2(gamma/2))``; dividing by tanh(gamma/2) and inserting beta* (s_f + s_c) =
    gamma coth(1/2 - t + c) gives

        slope = gamma / (2 sinh gamma) * coth(1/2 - t + c).

    The forward pass is a rounding and the backward pass one factor: no softmax is left. gamma only scales it.

    >>> slope([0.0, 0.25, 0.5], gamma=2.0, sigma=1.0).round(4)
    array([0.4341, 0.5966, 1.1258])
    """
    x = checks.as_float(x)
    t = np.abs(x - grid.round_half_down(x))
    c = x.dtype.type(kernel_exponent(check_sigma(sigma), variant))
    return np.asarray(x.dtype.type(slope_factor(gamma)) / np.tanh(x.dtype.type(0.5) - t + c))


def slope_factor(gamma: float = GAMMA) -> float:
    """``gamma / (2 sinh gamma)``, written so that a large gamma cannot overflow.

    >>> round(slope_factor(2.0), 4)
    0.2757
    """
    return check_gamma(gamma) * math.exp(-gamma) / -math.expm1(-2 * gamma)


# ---------------------------------------------------------------------------------------------------------------------
# The contract
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Params(grid.UniformParams):
    """Parameters of DAQ.

    Attributes
    ----------
    gamma : float
        Constant of Eq. 7.
    sigma : float
        Width of the kernel; by default the paper's for the role, 1 for weights and 2 for activations.
    variant : {"paper", "released"}
        Formula of the kernel.
    """

    gamma: float = GAMMA
    sigma: float = None  # type: ignore[assignment]  # here; a number in every instance
    variant: Variant = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        check_gamma(self.gamma)
        object.__setattr__(self, "sigma", check_sigma(SIGMA[self.role] if self.sigma is None else self.sigma))


def init(
    x: npt.ArrayLike,
    bits: int,
    role: Role,
    *,
    gamma: float = GAMMA,
    sigma: float | None = None,
    variant: str = "paper",
) -> Params:
    """Initialise from a first batch (Section 4.1, "Initialization").

    Weights are expected standardised (`grid.standardize`). `sigma` is by default the paper's for `role`.

    Raises
    ------
    ValueError
        If a parameter is refused, or activations have no spread.

    >>> init([0.0, 1.0, 2.0], bits=1, role="activation")
    Params(lower=array(0.), upper=array(3.), bits=1, role='activation', gamma=2.0, sigma=2.0, variant='paper')
    """
    low, high = grid.initial_clip_range(x, role)
    return Params(np.asarray(low), np.asarray(high), bits, role, gamma, sigma, check_variant(variant))  # type: ignore[arg-type]


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize x-hat: in training through `discretize` (the paper's literal computation), in test by rounding.

    Returns
    -------
    ndarray
        w_q in [-1, 1] or a_q in [0, 1] (Eq. 2), in the dtype of `x`.

    >>> params = Params(-1.0, 1.0, bits=2, role="weight")
    >>> forward([-2.0, -0.5, 0.1], params, training=False)
    array([-1.        , -0.33333333,  0.33333333])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    normalized = grid.normalize(x, params.lower, params.upper, params.bits)
    if training:
        q = discretize(normalized, gamma=params.gamma, sigma=params.sigma, variant=params.variant)
    else:
        q = grid.round_half_down(normalized)
    return grid.decode(q, params.bits, params.role)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers Q(x-hat) in 0 ... 2^bits - 1 (Eq. 11). Raises ValueError on NaN."""
    return grid.codes(x, params.lower, params.upper, params.bits, "half_down")


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes (Eq. 2)."""
    return grid.decode(q, params.bits, params.role)


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return in test, ascending."""
    return grid.levels(params.bits, params.role)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers (Eq. 2).

    >>> integer_grid(Params(-1.0, 1.0, bits=2, role="weight"))
    IntegerGrid(unit=array(0.33333333), lowest=-3, stride=2)
    """
    return grid.integer_grid(params.bits, params.role)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of the normalised input from the nearest transition point, in levels."""
    return grid.tie_distance(grid.normalize(x, params.lower, params.upper, params.bits))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: `forward` with beta*, the two levels and the nearer of them held fixed."""
    x, (x0, params0) = checks.as_float(x), at
    normalized = grid.frozen_position(x, params.lower, params.upper, at) * grid.top_code(params.bits)
    fixed = grid.normalize(x0, params0.lower, params0.upper, params0.bits)
    beta = adaptive_temperature(fixed, gamma=params0.gamma, sigma=params0.sigma, variant=params0.variant)
    phi = frozen_assignment(normalized, fixed, beta, sigma=params0.sigma, variant=params0.variant)
    return grid.decode(rescale(phi, np.floor(fixed) + 0.5, gamma=params0.gamma), params.bits, params.role)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients that training uses: those of `forward` with beta* held fixed, in closed form.

    Parameters
    ----------
    x : array_like
        x-hat.
    grad : array_like
        Gradient of the loss for the quantized values, of the shape of the output.

    Returns
    -------
    grad_x : ndarray
    grad_params : dict of ndarray
        For "lower" and "upper", of the shapes of the parameters.

    >>> params = Params(-1.0, 1.0, bits=1, role="weight")
    >>> grad_x, grad_params = vjp([-2.0, 0.0], params, [1.0, 1.0])
    >>> grad_x.round(4), grad_params["upper"].round(4)
    (array([0.    , 1.1258]), np.float64(-0.5629))
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    normalized = grid.normalize(x, params.lower, params.upper, params.bits)
    g = slope(normalized, gamma=params.gamma, sigma=params.sigma, variant=params.variant)
    return grid.clip_range_vjp(grad, x, params.lower, params.upper, g, grid.output_scale(params.role))


# ---------------------------------------------------------------------------------------------------------------------
# Compiled twin of the slope, for large arrays
# ---------------------------------------------------------------------------------------------------------------------


# tanh(d) / d as a polynomial in d^2, for 0 <= d <= 1/2: the minimax one of degree 10, with a relative error of 2.6e-18,
# and for single precision that of degree 4, with 1.32e-8.
_TANH_SINGLE = (0.999999986872, -0.333330693959, 0.133247793375, -0.0529860758475, 0.0171350067316)
_TANH = (
    0.99999999999999999741,
    -0.33333333333333082428,
    0.1333333333329305151,
    -0.053968253942990944387,
    0.02186948772197372316,
    -0.0088632201808576322993,
    0.0035919469248914938793,
    -0.0014544532928672482157,
    0.00058318730371569148521,
    -0.00021762958017313771209,
    0.000056647121645890862033,
)


def _slope_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    x, out, half, factor, factor_tanh, tanh_c, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10
):
    for i in range(x.size):
        d = abs(x[i] - np.floor(x[i]) - half)  # 1/2 - t
        s = d * d
        tail = a5 + s * (a6 + s * (a7 + s * (a8 + s * (a9 + s * a10))))
        tanh_d = d * (a0 + s * (a1 + s * (a2 + s * (a3 + s * (a4 + s * tail)))))
        out[i] = (factor + factor_tanh * tanh_d) / (tanh_c + tanh_d)


def _slope_loop_single(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    x, out, half, factor, factor_tanh, tanh_c, a0, a1, a2, a3, a4
):
    for i in range(x.size):
        d = abs(x[i] - np.floor(x[i]) - half)
        s = d * d
        tanh_d = d * (a0 + s * (a1 + s * (a2 + s * (a3 + s * a4))))
        out[i] = (factor + factor_tanh * tanh_d) / (tanh_c + tanh_d)


def slope_numba(x: npt.ArrayLike, *, gamma: float = GAMMA, sigma: float, variant: Variant = "paper") -> Array:
    """Compiled twin of `slope`, up to a few units in the last place.

    By the addition theorem, ``coth(d + c) = (1 + tanh d tanh c) / (tanh d + tanh c)`` with d = 1/2 - t; all terms are
    positive, so that nothing cancels, and no transcendental function is called.

    >>> slope_numba(np.array([0.0, 0.25, 0.5]), gamma=2.0, sigma=1.0).round(4)
    array([0.4341, 0.5966, 1.1258])
    """
    x = checks.as_float(x)
    if not grid.can_compile():
        return slope(x, gamma=gamma, sigma=sigma, variant=variant)
    tanh_c, factor = math.tanh(kernel_exponent(check_sigma(sigma), variant)), slope_factor(gamma)
    loop, terms = (_slope_loop_single, _TANH_SINGLE) if x.dtype == np.float32 else (_slope_loop, _TANH)
    return grid.run_compiled(loop, x, 0.5, factor, factor * tanh_c, tanh_c, *terms)
