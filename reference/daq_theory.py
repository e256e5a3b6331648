"""What follows from DAQ's equations and is not stated in the paper: closed forms, each derived here.

Notation as in `reference.daq`: t is the distance of the normalised input from the nearest level, c half the exponent of
the kernel at distance one, kappa = exp(-2c) the kernel there. First the gradient and the temperature that the
controller gives, then the quantizer at a temperature that is held fixed, as Tables 6 and 7 compare it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.integrate import quad
from scipy.special import expit

from reference import checks, daq
from reference.grid import Array

# ---------------------------------------------------------------------------------------------------------------------
# The gradient, and the adaptive temperature
# ---------------------------------------------------------------------------------------------------------------------


def slope_range(*, gamma: float = daq.GAMMA, sigma: float, variant: daq.Variant = "paper") -> tuple[float, float]:
    """Least slope, at a level (t = 0), and greatest, at a transition point (t = 1/2).

    >>> [round(value, 4) for value in slope_range(gamma=2.0, sigma=2.0)]
    [0.5408, 4.4173]
    """
    c = daq.kernel_exponent(daq.check_sigma(sigma), variant)
    factor = daq.slope_factor(gamma)
    return factor / math.tanh(0.5 + c), factor / math.tanh(c)


def mean_slope(*, gamma: float = daq.GAMMA, sigma: float, variant: daq.Variant = "paper") -> float:
    """Mean of the slope over a cell: ``gamma / sinh(gamma) * ln(sinh(1/2 + c) / sinh(c))``.

    A straight-through estimator has 1.

    >>> round(mean_slope(gamma=2.0, sigma=1.0), 4), round(mean_slope(gamma=2.0, sigma=2.0), 4)
    (0.6508, 1.2401)
    """
    c = daq.kernel_exponent(daq.check_sigma(sigma), variant)
    log_ratio = 0.5 + math.log(-math.expm1(-1 - 2 * c)) - math.log(-math.expm1(-2 * c))
    return 2 * daq.slope_factor(gamma) * log_ratio


def root_mean_square_slope(*, gamma: float = daq.GAMMA, sigma: float, variant: daq.Variant = "paper") -> float:
    """Root mean square of the slope over a cell, by the integral of coth^2, which is ``u - coth(u)``.

    It is what a slope does to the size of a gradient, where gradients are independent of it.

    >>> [round(root_mean_square_slope(sigma=2.0, variant=variant), 3) for variant in ("paper", "released")]
    [1.488, 1.012]
    """
    c = daq.kernel_exponent(daq.check_sigma(sigma), variant)
    return daq.slope_factor(gamma) * math.sqrt(1 + 2 * (1 / math.tanh(c) - 1 / math.tanh(0.5 + c)))


def harmonic_mean_slope(*, gamma: float = daq.GAMMA, sigma: float, variant: daq.Variant = "paper") -> float:
    """Harmonic mean of the slope over a cell: ``gamma/(2 sinh gamma) / (2 ln(cosh(1/2 + c) / cosh(c)))``.

    >>> [round(harmonic_mean_slope(sigma=1.0, variant=variant), 3) for variant in ("paper", "released")]
    [0.606, 0.44]
    """
    c = daq.kernel_exponent(daq.check_sigma(sigma), variant)
    return daq.slope_factor(gamma) / (2 * float(_log_cosh_ratio(0.5 + c, c)))


def straight_through_map(
    x: npt.ArrayLike, *, gamma: float = daq.GAMMA, sigma: float, variant: daq.Variant = "paper"
) -> Array:
    """M(x): what weights with DAQ's slope are as straight-through weights in disguise.

    M' is the slope's harmonic mean over the slope, so that a small step of x along slope times gradient moves M(x)
    along the gradient. It increases, and fixes levels and transition points: codes stay. After Schoenbauer et al.:
    Custom Gradient Estimators are Straight-Through Estimators in Disguise, arXiv 2405.05171.

    Parameters
    ----------
    x : array_like
        Normalised inputs, finite.
    gamma, sigma, variant
        As in `reference.daq`.

    Returns
    -------
    ndarray of float64, of the shape of `x`

    >>> straight_through_map([0.0, 0.25, 0.5, 0.75], sigma=1.0).round(4)
    array([0.    , 0.3038, 0.5   , 0.6962])
    """
    x = np.asarray(x, float)
    c = daq.kernel_exponent(daq.check_sigma(sigma), variant)
    level = np.round(x)
    t = np.abs(x - level)
    share = _log_cosh_ratio(0.5 + c, 0.5 - t + c) / (2 * _log_cosh_ratio(0.5 + c, c))
    return level + np.copysign(share, x - level)


def _log_cosh_ratio(a: float, b: npt.ArrayLike) -> Array:
    """ln(cosh(a) / cosh(b)) for a, b >= 0, without overflow."""
    return a - np.asarray(b) + np.log1p(np.exp(-2 * a)) - np.log1p(np.exp(-2 * np.asarray(b)))


def combine_ste_ratio(gamma: float = daq.GAMMA) -> float:
    """DAQ's slope divided by phi' at beta*: ``coth(gamma/2)``, the same for every input.

    "Combine STE" of Table 7 (rounding forward, derivative of DASR backward) at beta* is therefore DAQ with another
    learning rate.

    >>> round(combine_ste_ratio(2.0), 4)
    1.313
    """
    return 1 / math.tanh(daq.check_gamma(gamma) / 2)


def adaptive_temperature_range(
    *, gamma: float = daq.GAMMA, sigma: float, variant: daq.Variant = "paper"
) -> tuple[float, float]:
    """beta* at a level and at a transition point: ``gamma / (1 - kappa/e)`` and ``gamma sqrt(e) / (1 - kappa)``.

    beta* = gamma e^t / (1 - kappa e^(2t - 1)) increases with t, so these are its least and greatest values.

    >>> [round(value, 4) for value in adaptive_temperature_range(gamma=2.0, sigma=1.0)]
    [2.5744, 8.3804]
    """
    c = daq.kernel_exponent(daq.check_sigma(sigma), variant)
    return daq.check_gamma(gamma) / -math.expm1(-1 - 2 * c), gamma * math.sqrt(math.e) / -math.expm1(-2 * c)


def adaptive_temperature_at(
    t: npt.ArrayLike, *, gamma: float = daq.GAMMA, sigma: float, variant: daq.Variant = "paper"
) -> Array:
    """beta* in closed form, of the distance t to the nearest level: ``gamma e^t / (1 - kappa e^(2t - 1))``.

    >>> adaptive_temperature_at([0.0, 0.5], gamma=2.0, sigma=1.0).round(4)
    array([2.5744, 8.3804])
    """
    t = checks.as_float(t)
    c = t.dtype.type(daq.kernel_exponent(daq.check_sigma(sigma), variant))
    return np.asarray(t.dtype.type(daq.check_gamma(gamma)) * np.exp(t) / -np.expm1(2 * t - 1 - 2 * c))


def distance_at_temperature(
    beta: float, *, gamma: float = daq.GAMMA, sigma: float, variant: daq.Variant = "paper"
) -> float:
    """The distance t to the nearest level at which beta* = `beta`: the points x_1 and x_2 of Fig. 4 and 5.

    ``gamma e^t = beta (1 - kappa e^(2t - 1))`` is quadratic in e^t.

    Raises
    ------
    ValueError
        If no input has that temperature.

    >>> round(distance_at_temperature(4.0, sigma=1.0), 4), round(distance_at_temperature(6.0, sigma=1.0), 4)
    (0.2428, 0.4041)
    """
    low, high = adaptive_temperature_range(gamma=gamma, sigma=sigma, variant=variant)
    beta = checks.check_scalar("beta", beta, low, high)
    a = beta * daq.kappa(sigma, variant) / math.e
    z = 2 * beta / (gamma + math.sqrt(gamma**2 + 4 * a * beta))
    return min(max(math.log(z), 0.0), 0.5)


# ---------------------------------------------------------------------------------------------------------------------
# A fixed temperature: the quantizer gap of Table 6. sigma = inf is the plain soft argmax.
# ---------------------------------------------------------------------------------------------------------------------


def fixed_beta_gap(beta: float, *, sigma: float, variant: daq.Variant = "paper") -> float:
    """Largest |phi(x; beta) - rounding|, reached at the transition point: ``1 / (1 + exp(beta (1-kappa)/sqrt(e)))``.

    Without kernel it is 1/2 at every temperature.

    >>> round(fixed_beta_gap(24.0, sigma=1.0), 4), fixed_beta_gap(150.0, sigma=math.inf)
    (0.0032, 0.5)
    """
    return float(expit(-_score_distance_at_transition(beta, sigma, variant)))


def fixed_beta_mean_gap(beta: float, *, sigma: float, variant: daq.Variant = "paper") -> float:
    """Mean |phi(x; beta) - rounding| over a cell, by quadrature.

    >>> [round(fixed_beta_mean_gap(beta, sigma=math.inf), 3) for beta in (10, 20, 60, 150)]
    [0.113, 0.057, 0.019, 0.008]
    """
    beta, c = _check_scalar_beta(beta), daq.kernel_exponent(sigma, variant)

    def gap(u: float) -> float:
        """Return the gap at the distance u from the transition point, near which equal scores would cancel."""
        return float(expit(-beta * (math.expm1(u) - math.expm1(-u - 2 * c)) / math.sqrt(math.e)))

    far = min(0.5, 60 / max(beta, 1))  # the gap falls at least as exp(-0.6 beta u): beyond, it is nothing
    return float(2 * quad(gap, 0, far, epsabs=0, epsrel=1e-12)[0])


def fixed_beta_jumps(beta: float, *, sigma: float, variant: daq.Variant = "paper") -> tuple[float, float]:
    """Jumps of phi(.; beta) at integers and at half-integers: phi is not continuous.

    ``2 / (1 + exp(beta (1 - kappa/e)))`` and ``tanh(beta (1 - kappa) / (2 sqrt(e)))``.

    >>> [round(value, 4) for value in fixed_beta_jumps(24.0, sigma=1.0)]
    [0.0, 0.9935]
    """
    at_level = 2 * float(expit(-_check_scalar_beta(beta) * (1 - daq.kappa(sigma, variant) / math.e)))
    return at_level, math.tanh(_score_distance_at_transition(beta, sigma, variant) / 2)


def fixed_beta_mean_slope(beta: float, *, sigma: float, variant: daq.Variant = "paper") -> float:
    """Mean of phi'(.; beta) over a cell: what the two jumps leave of a rise of 1.

    >>> round(fixed_beta_mean_slope(24.0, sigma=1.0), 4)
    0.0065
    """
    at_level, _ = fixed_beta_jumps(beta, sigma=sigma, variant=variant)
    below_one = 2 * float(expit(-_score_distance_at_transition(beta, sigma, variant)))  # 1 - the jump at half-integers
    return below_one - at_level


def fixed_beta_transition_slope(beta: float, *, sigma: float, variant: daq.Variant = "paper") -> float:
    """phi'(q_t; beta): with a kernel it vanishes as beta grows, without it is ``beta / (2 sqrt(e))`` and explodes.

    >>> round(fixed_beta_transition_slope(24.0, sigma=1.0), 4), round(fixed_beta_transition_slope(150, sigma=math.inf))
    (0.0756, 45)
    """
    distance = _score_distance_at_transition(beta, sigma, variant)
    return beta * float(expit(distance) * expit(-distance)) * (1 + daq.kappa(sigma, variant)) / math.sqrt(math.e)


def _check_scalar_beta(beta: float) -> float:
    return checks.check_scalar("beta", beta, *daq.BETA_RANGE)


def _score_distance_at_transition(beta: float, sigma: float, variant: daq.Variant) -> float:
    """Return beta |s_f - s_c| at q_t."""
    return _check_scalar_beta(beta) * -math.expm1(-2 * daq.kernel_exponent(sigma, variant)) / math.sqrt(math.e)
