"""Functional forms of learning curves: value, gradient, starting points and named parameters of each. Pure mathematics.

A form is fitted in a *space* in which its noise is taken as normal (`Link`): the power law in log y, the approach to a limit
in y itself. Sizes enter as u = ln(x / x0), x0 the geometric mean of the sizes, so that parameters are nearly independent.

M1 to M4 are the names of Alabdulmohsin et al., "Revisiting Neural Scaling Laws in Language and Vision" (NeurIPS 2022): M1 is
`power`, M2 `power_offset`. BNSL is the broken neural scaling law with one break of Caballero et al. (ICLR 2023). They describe
losses; for scores that rise within [0, 1] they describe the error 1 - y.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Curve = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Bounds = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Link:
    """The space in which a form is fitted: z = to_space(y)."""

    name: str
    to_space: Callable[[np.ndarray], np.ndarray]
    to_score: Callable[[np.ndarray], np.ndarray]
    log_slope: Callable[[np.ndarray], np.ndarray]
    """ln |dz/dy|, which makes likelihoods of different spaces comparable."""
    low: float
    high: float
    """The open interval of scores that the space can hold."""

    def holds(self, scores: np.ndarray) -> bool:
        return bool(((scores > self.low) & (scores < self.high)).all())


IDENTITY = Link("score", lambda y: y, lambda z: z, lambda y: np.zeros_like(y), -np.inf, np.inf)
LOG = Link("log score", np.log, np.exp, lambda y: -np.log(y), 0.0, np.inf)
LOG_ERROR = Link(
    "log error", lambda y: np.log1p(-y), lambda z: -np.expm1(np.minimum(z, 700.0)), lambda y: -np.log1p(-y), -np.inf, 1.0
)
LOGIT = Link("logit", lambda y: np.log(y) - np.log1p(-y), lambda z: _sigmoid(z), lambda y: -np.log(y) - np.log1p(-y), 0.0, 1.0)


@dataclass(frozen=True)
class Form:
    """One functional form. Arrays of parameters are (S, p): S fits at once."""

    name: str
    parameters: tuple[str, ...]
    formula: str
    curve: Curve
    """(theta (S, p), u (n,)) -> values (S, n) in the form's space and gradient (S, n, p)."""
    starts: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    """(u (n,), z (n,), weights (n,)) -> (S, p)."""
    bounds: Callable[[np.ndarray, np.ndarray], Bounds]
    """(u (n,), z (n,)) -> lowest and highest (p,) of each parameter."""
    named: Callable[[np.ndarray, float], np.ndarray]
    """(theta (p,), ln x0) -> (p,) parameters of the formula, in the order of `parameters`."""
    link: Link | None
    """None: log y for losses, log (1 - y) for rising scores."""
    linear: bool = False
    """Whether the curve is linear in theta, so that least squares and t intervals are exact."""

    @property
    def num_parameters(self) -> int:
        return len(self.parameters)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def _softplus(z: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, z)


def _columns(theta: np.ndarray) -> list[np.ndarray]:
    """Parameters as (S, 1) columns, which broadcast against (n,) sizes."""
    return [theta[:, index : index + 1] for index in range(theta.shape[1])]


def _stack(*columns: np.ndarray) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


# --- curves -----------------------------------------------------------------------------------------------------------


def _constant(theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = theta[:, :1] + np.zeros_like(u)
    return values, np.ones_like(values)[..., None]


def _line(theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _columns(theta)
    return a + b * u, _stack(np.ones_like(a), u)


def _saturating(theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    limit, amplitude, log_k = _columns(theta)
    k = np.exp(log_k)
    decay = np.exp(-k * u)
    return limit - amplitude * decay, _stack(np.ones_like(limit), -decay, amplitude * decay * k * u)


def _power_offset(theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, c, log_offset = _columns(theta)
    power = a + c * u
    values = np.logaddexp(power, log_offset)
    share = np.exp(power - values)
    return values, _stack(share, share * u, 1.0 - share)


def _m3(theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, c, log_offset, log_gamma = _columns(theta)
    inner = np.logaddexp(-u, log_gamma)
    power = a + c * inner
    values = np.logaddexp(power, log_offset)
    share = np.exp(power - values)
    return values, _stack(share, share * inner, 1.0 - share, share * c * np.exp(log_gamma - inner))


def _m4(theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Implicit: ln(y - e) - alpha ln(e0 - y) = b + c u. With y = e + (e0 - e) sigmoid(t), t solves a monotone equation."""
    log_low, log_range, b, c, log_alpha = _columns(theta)
    alpha = np.exp(log_alpha)
    right = b + c * u - (1.0 - alpha) * log_range
    t = np.where(right < 0, right, right / alpha)
    for _ in range(60):
        step = (-_softplus(-t) + alpha * _softplus(t) - right) / (_sigmoid(-t) + alpha * _sigmoid(t))
        t = t - np.clip(step, -5.0, 5.0)
        if not np.any(np.abs(step) > 1e-12 * (1.0 + np.abs(t))):
            break
    above_low = log_range - _softplus(-t)
    values = np.logaddexp(log_low, above_low)
    share = np.exp(above_low - values)
    slope = share * _sigmoid(-t) / (_sigmoid(-t) + alpha * _sigmoid(t))
    by_alpha = slope * alpha * (log_range - _softplus(t))
    return values, _stack(1.0 - share, share - slope * (1.0 - alpha), slope, slope * u, by_alpha)


def _logistic(theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, gradient = _m4(np.concatenate([theta, np.zeros((len(theta), 1))], axis=1), u)
    return values, gradient[..., :4]


def _bnsl(theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    log_offset, b, c0, c1, place, log_f = _columns(theta)
    f = np.exp(log_f)
    z = (u - place) / f
    bend, beyond = _softplus(z), _sigmoid(z)
    power = b - c0 * u - c1 * f * bend
    values = np.logaddexp(power, log_offset)
    share = np.exp(power - values)
    by_width = -share * c1 * f * (bend - z * beyond)
    return values, _stack(1.0 - share, share, -share * u, -share * f * bend, share * c1 * beyond, by_width)


# --- starting points: the linear part by least squares on a small grid of the others ------------------------------------

OFFSET_DEPTHS = np.array([0.02, 0.1, 0.3, 0.7, 1.5, 4.0, 1e9])
"""How far the irreducible loss lies below the smallest loss seen, in units of the range of the losses (1e9: at zero)."""


def _least_squares(columns: Sequence[np.ndarray], response: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(S, p) coefficients of S regressions at once; columns and response broadcast to (S, n)."""
    design = _stack(*columns, response)
    design, response = design[..., :-1], design[..., -1]
    weighted = np.swapaxes(design * weights[:, None], 1, 2)
    gram = weighted @ design
    # A column that is constant on the points in use leaves the system singular; a trace of ridge keeps such a start harmless.
    gram += 1e-10 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(gram.shape[1])
    return np.asarray(np.linalg.solve(gram, weighted @ response[..., None])[..., 0])


def _grid(*axes: np.ndarray) -> list[np.ndarray]:
    return [axis.reshape(-1, 1) for axis in np.meshgrid(*axes, indexing="ij")]


def _losses(z: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float, float]:
    y = np.exp(z)
    return y, float(y[weights > 0].min()), float(y[weights > 0].max())


def _offsets(smallest: float, largest: float) -> np.ndarray:
    return np.maximum(smallest - OFFSET_DEPTHS * max(largest - smallest, 1e-3 * smallest), 1e-6 * smallest)


def _safe_log(values: np.ndarray, largest: float) -> np.ndarray:
    return np.log(np.maximum(values, 1e-12 * largest))


def _start_constant(u: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.array([[np.average(z, weights=weights)]])


def _start_line(u: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    centre, mean = np.average(u, weights=weights), np.average(z, weights=weights)
    spread = np.average((u - centre) ** 2, weights=weights)
    slope = np.average((u - centre) * (z - mean), weights=weights) / spread if spread > 0 else 0.0
    return np.array([[mean - slope * centre, slope]])


def _start_saturating(u: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    log_k = np.log(np.geomspace(0.02, 3.0, 16))[:, None]
    coefficients = _least_squares([np.ones_like(log_k), -np.exp(-np.exp(log_k) * u)], z, weights)
    return np.concatenate([coefficients, log_k], axis=1)


def _start_power_offset(u: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    y, smallest, largest = _losses(z, weights)
    (offset,) = _grid(_offsets(smallest, largest))
    coefficients = _least_squares([np.ones_like(offset), u], _safe_log(y - offset, largest), weights)
    return np.concatenate([coefficients, np.log(offset)], axis=1)


def _start_m3(u: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    y, smallest, largest = _losses(z, weights)
    seen = u[weights > 0]
    bends = np.append(-np.quantile(seen, [0.0, 0.25, 0.5, 0.75]), -seen.max() - 8.0)
    offset, log_gamma = _grid(_offsets(smallest, largest), bends)
    inner = np.logaddexp(-u, log_gamma)
    coefficients = _least_squares([np.ones_like(offset), inner], _safe_log(y - offset, largest), weights)
    return np.concatenate([coefficients, np.log(offset), log_gamma], axis=1)


def _start_m4(u: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    y, smallest, largest = _losses(z, weights)
    low, high, log_alpha = _grid(
        _offsets(smallest, largest)[[0, 1, 2, 4, 6]], np.array([1.01, 1.1, 1.5, 4.0]) * largest, np.array([-1.0, 0.0, 1.0])
    )
    response = _safe_log(y - low, largest) - np.exp(log_alpha) * _safe_log(high - y, largest)
    coefficients = _least_squares([np.ones_like(low), u], response, weights)
    return np.concatenate([np.log(low), np.log(high - low), coefficients, log_alpha], axis=1)


def _start_logistic(u: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    starts = _start_m4(u, z, weights)
    return starts[starts[:, 4] == 0.0, :4]


def _start_bnsl(u: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    y, smallest, largest = _losses(z, weights)
    places = np.quantile(u[weights > 0], [0.15, 0.35, 0.5, 0.65, 0.85])
    offset, place, log_f = _grid(_offsets(smallest, largest)[[0, 2, 4, 6]], places, np.log([0.1, 0.5, 1.5]))
    bend = np.exp(log_f) * _softplus((u - place) / np.exp(log_f))
    coefficients = _least_squares([np.ones_like(offset), -u, -bend], _safe_log(y - offset, largest), weights)
    return np.concatenate([np.log(offset), coefficients, place, log_f], axis=1)


# --- bounds: wide enough never to matter for a curve that the data know something about ----------------------------------


def _bounds(*pairs: tuple[float, float]) -> Bounds:
    array = np.array(pairs, dtype=np.float64)
    return array[:, 0], array[:, 1]


FREE = (-np.inf, np.inf)
EXPONENT = (-5.0, 5.0)
INTERCEPT = (-80.0, 80.0)


def _offset_range(z: np.ndarray) -> tuple[float, float]:
    return (float(z.min()) - 12.0, float(z.max()))


def _bound_m3(u: np.ndarray, z: np.ndarray) -> Bounds:
    return _bounds(INTERCEPT, EXPONENT, _offset_range(z), (-float(u.max()) - 12.0, -float(u.min()) + 6.0))


def _bound_m4(u: np.ndarray, z: np.ndarray) -> Bounds:
    low, high = _offset_range(z)
    return _bounds((low, high), (low, high + 3.0), INTERCEPT, EXPONENT, (-3.0, 3.0))


def _bound_bnsl(u: np.ndarray, z: np.ndarray) -> Bounds:
    width = max(float(np.ptp(u)), 0.1)
    return _bounds(
        _offset_range(z), INTERCEPT, EXPONENT, (-10.0, 10.0), (float(u.min()), float(u.max())), (np.log(0.02), np.log(width))
    )


def _bound_saturating(u: np.ndarray, z: np.ndarray) -> Bounds:
    """A rising score in [0, 1] has a limit of at most 1, a falling loss above 0 one of at least 0."""
    rising = np.polyfit(u, z, 1)[0] > 0
    lowest = 0.0 if z.min() >= 0 and not rising else -np.inf
    highest = 1.0 if z.min() >= 0 and z.max() <= 1 and rising else np.inf
    return _bounds((lowest, highest), FREE, (np.log(1e-3), np.log(5.0)))


# --- parameters as the formulas write them --------------------------------------------------------------------------------


def _name_line(theta: np.ndarray, log_x0: float) -> np.ndarray:
    return np.array([theta[0] - theta[1] * log_x0, theta[1]])


def _name_power(theta: np.ndarray, log_x0: float) -> np.ndarray:
    return np.array([np.exp(theta[0] - theta[1] * log_x0), theta[1]])


def _name_saturating(theta: np.ndarray, log_x0: float) -> np.ndarray:
    k = np.exp(theta[2])
    return np.array([theta[0], theta[1] * np.exp(k * log_x0), k])


def _name_power_offset(theta: np.ndarray, log_x0: float) -> np.ndarray:
    return np.array([np.exp(theta[0] - theta[1] * log_x0), theta[1], np.exp(theta[2])])


def _name_m3(theta: np.ndarray, log_x0: float) -> np.ndarray:
    return np.array([np.exp(theta[0] + theta[1] * log_x0), theta[1], np.exp(theta[2]), np.exp(theta[3] - log_x0)])


def _name_m4(theta: np.ndarray, log_x0: float) -> np.ndarray:
    low = np.exp(theta[0])
    first = [np.exp(theta[2] - theta[3] * log_x0), theta[3], low, low + np.exp(theta[1])]
    return np.array([*first, np.exp(theta[4])] if len(theta) == 5 else first)


def _name_bnsl(theta: np.ndarray, log_x0: float) -> np.ndarray:
    # At size x0 the bend already weighs (1 + e^(-place / f)) ^ (-c1 f); the formula's b is the value without it.
    return np.array(
        [
            np.exp(theta[0]),
            np.exp(theta[1] + theta[2] * log_x0),
            theta[2],
            theta[3],
            np.exp(theta[4] + log_x0),
            np.exp(theta[5]),
        ]
    )


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form(
            "constant",
            ("level",),
            "y = level",
            _constant,
            _start_constant,
            lambda u, z: _bounds(FREE),
            lambda theta, log_x0: theta,
            IDENTITY,
            linear=True,
        ),
        Form(
            "power",
            ("alpha", "k"),
            "y = alpha x^k",
            _line,
            _start_line,
            lambda u, z: _bounds(FREE, FREE),
            _name_power,
            LOG,
            linear=True,
        ),
        Form(
            "log_linear",
            ("intercept", "slope"),
            "y = intercept + slope ln x",
            _line,
            _start_line,
            lambda u, z: _bounds(FREE, FREE),
            _name_line,
            IDENTITY,
            linear=True,
        ),
        Form(
            "logit_linear",
            ("intercept", "slope"),
            "logit y = intercept + slope ln x",
            _line,
            _start_line,
            lambda u, z: _bounds(FREE, FREE),
            _name_line,
            LOGIT,
            linear=True,
        ),
        Form(
            "saturating",
            ("limit", "amplitude", "k"),
            "y = limit - amplitude x^-k",
            _saturating,
            _start_saturating,
            _bound_saturating,
            _name_saturating,
            IDENTITY,
        ),
        Form(
            "power_offset",
            ("beta", "c", "epsilon"),
            "e = beta x^c + epsilon",
            _power_offset,
            _start_power_offset,
            lambda u, z: _bounds(INTERCEPT, EXPONENT, _offset_range(z)),
            _name_power_offset,
            None,
        ),
        Form(
            "m3",
            ("beta", "c", "epsilon", "gamma"),
            "e = beta (1/x + gamma)^c + epsilon",
            _m3,
            _start_m3,
            _bound_m3,
            _name_m3,
            None,
        ),
        Form(
            "logistic",
            ("beta", "c", "epsilon_inf", "epsilon_0"),
            "(e - epsilon_inf) / (epsilon_0 - e) = beta x^c",
            _logistic,
            _start_logistic,
            lambda u, z: (_bound_m4(u, z)[0][:4], _bound_m4(u, z)[1][:4]),
            _name_m4,
            None,
        ),
        Form(
            "m4",
            ("beta", "c", "epsilon_inf", "epsilon_0", "alpha"),
            "(e - epsilon_inf) / (epsilon_0 - e)^alpha = beta x^c",
            _m4,
            _start_m4,
            _bound_m4,
            _name_m4,
            None,
        ),
        Form(
            "bnsl",
            ("a", "b", "c0", "c1", "d1", "f1"),
            "e = a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1)",
            _bnsl,
            _start_bnsl,
            _bound_bnsl,
            _name_bnsl,
            None,
        ),
    )
}
"""By name. `e` is the loss, or 1 - y for a score that rises within [0, 1]."""
