"""Least squares of one form on the points of encoders, and what the data say about any quantity of the fitted curve.

Levenberg-Marquardt runs on many starts, held-out sets or constraints at once: curves have few points, so that the time of one
fit is that of Python's loop, and sharing the loop is what makes profiles and rolling origins affordable.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from radscale.analysis.scaling_forms import Bounds, Form, Link

Functional = Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray]]
"""Quantities of a curve, in units of the score: theta (S, p) and None -> all m of them, (S, m), and their gradient (S, m, p);
theta and (S,) indices -> one of them for each theta, (S, 1) and (S, 1, p)."""
NUM_STARTS = 30
"""With 10, BNSL on ten points (NMT, decoder only) ended 37 % above the least sum of squares."""
TINY = 1e-300


Batch = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""theta (S, p) and which problems they belong to (S,) -> values (S, n) and gradient (S, n, p)."""


def levenberg_marquardt(
    curve: Batch, theta: np.ndarray, z: np.ndarray, weights: np.ndarray, bounds: Bounds, num_steps: int = 80
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the weighted sums of squares of S problems at once; those that are done leave the batch.

    Args:
        curve: see `Batch`.
        theta: (S, p) starting points.
        z: (S, n) observations.
        weights: (S, n), 0 for points that do not count.
        bounds: (p,) lowest and highest.
        num_steps: at most.

    Returns:
        theta (S, p) and sums of squares (S,).
    """
    found = np.clip(theta, *bounds)
    losses = np.empty(len(found))
    identity = np.eye(found.shape[1])
    active = np.arange(len(found))
    theta = found
    values, gradient = curve(theta, active)
    residual = z - values
    loss = _sum(weights, residual)
    damping = np.full(len(found), 1e-2)
    quiet = np.zeros(len(found), dtype=int)
    for _ in range(num_steps):
        transposed = np.swapaxes(gradient * weights[active][..., None], 1, 2)
        gram = transposed @ gradient
        diagonal = np.maximum(np.einsum("spp->sp", gram), 1e-12)
        damped = gram + damping[:, None, None] * diagonal[:, :, None] * identity
        proposal = np.clip(theta + np.linalg.solve(damped, transposed @ residual[..., None])[..., 0], *bounds)
        values, new_gradient = curve(proposal, active)
        new_residual = z[active] - values
        new_loss = _sum(weights[active], new_residual)
        better = new_loss < loss
        worth = better & (loss - new_loss > 1e-9 * loss)
        quiet = np.where(worth, 0, quiet + 1)
        theta = np.where(better[:, None], proposal, theta)
        residual = np.where(better[:, None], new_residual, residual)
        gradient = np.where(better[:, None, None], new_gradient, gradient)
        loss = np.where(better, new_loss, loss)
        damping = np.where(better, np.maximum(damping / 5, 1e-9), np.minimum(damping * 4, 1e9))
        # Steps that gain nothing worth the name, or no way down at any damping.
        done = (better & (quiet >= 3)) | (quiet >= 14) | (damping >= 1e8)
        if done.any():
            found[active[done]], losses[active[done]] = theta[done], loss[done]
            active, theta, residual, gradient, loss, damping, quiet = (
                part[~done] for part in (active, theta, residual, gradient, loss, damping, quiet)
            )
            if not active.size:
                break
    found[active], losses[active] = theta, loss
    return found, losses


def _sum(weights: np.ndarray, residual: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        total = (weights * residual * residual).sum(axis=1)
    return np.where(np.isfinite(total), total, np.inf)


@dataclass(frozen=True)
class Points:
    """Scores of encoders, those of one size put together (for least squares, their mean and number say everything)."""

    sizes: np.ndarray
    """(m,) distinct, rising."""
    scores: list[np.ndarray]
    """(m) scores of the encoders of each size."""
    rising: bool

    @property
    def num_encoders(self) -> int:
        return sum(len(group) for group in self.scores)

    @property
    def flat(self) -> np.ndarray:
        return np.concatenate(self.scores)

    def up_to(self, num_sizes: int) -> "Points":
        """The points of the smallest sizes only."""
        return Points(self.sizes[:num_sizes], self.scores[:num_sizes], self.rising)


@dataclass(frozen=True)
class FormFit:
    """A form at its least-squares optimum."""

    form: Form
    link: Link
    theta: np.ndarray
    """(p,) in the form's own coordinates."""
    log_x0: float
    u: np.ndarray
    z: np.ndarray
    weights: np.ndarray
    bounds: Bounds
    pool: np.ndarray
    """(S, p) starting points: they lie along the valleys in which parameters can be traded for one another."""
    sum_of_squares: float
    """In the form's space, over all encoders."""
    num_encoders: int
    aicc: float
    """Corrected Akaike criterion for the scores themselves: comparable between forms and spaces."""

    @property
    def degrees_of_freedom(self) -> int:
        return self.num_encoders - self.form.num_parameters

    @property
    def variance(self) -> float:
        """Of one encoder about the curve, in the form's space."""
        return max(self.sum_of_squares / max(self.degrees_of_freedom, 1), 1e-20)

    def predict(self, sizes: np.ndarray) -> np.ndarray:
        """Scores at sizes (k,)."""
        return np.asarray(self.link.to_score(self.form.curve(self.theta[None], np.log(sizes) - self.log_x0)[0][0]))

    def score_at(self, sizes: np.ndarray) -> Functional:
        """The curve at sizes (k,), as a functional of its parameters."""
        u = np.log(sizes) - self.log_x0

        def value(theta: np.ndarray, which: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
            z, gradient = self.form.curve(theta, u if which is None else u[which, None])
            # Far outside the sizes that were tried a curve may leave the range of numbers; its limits are then infinite.
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                scores = self.link.to_score(z)
                slope = np.exp(-self.link.log_slope(scores))
            # 1 - y falls as y rises.
            sign = -1.0 if self.link.name == "log error" else 1.0
            return scores, sign * slope[..., None] * gradient

        return value

    def gain_between(self, before: float, after: float) -> Functional:
        """Change of the curve between two sizes, as a functional of its parameters."""
        score = self.score_at(np.array([before, after]))

        def value(theta: np.ndarray, which: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
            values, gradient = score(theta, None)
            return values[:, 1:] - values[:, :1], gradient[:, 1:] - gradient[:, :1]

        return value

    def parameter(self, index: int) -> Functional:
        """A named parameter as a functional."""

        def value(theta: np.ndarray, which: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
            return _with_numerical_gradient(lambda t: self.form.named(t, self.log_x0)[index], theta)

        return value

    def covariance(self) -> np.ndarray:
        """(p, p) of theta, from the curvature at the optimum."""
        gradient = self.form.curve(self.theta[None], self.u)[1][0]
        gram = (gradient * self.weights[:, None]).T @ gradient
        return np.asarray(self.variance * np.linalg.pinv(gram, rcond=1e-14, hermitian=True))

    def confidence(self, functional: Functional) -> "Confidence":
        """What the data say about quantities of the curve: their profile likelihood."""
        return profile(self, functional)

    def confidence_at(self, sizes: np.ndarray) -> "Confidence":
        """Confidence of the curve at sizes (k,): exact t for linear forms, profile likelihood otherwise."""
        if not self.form.linear:
            return profile(self, self.score_at(sizes))
        z, gradient = self.form.curve(self.theta[None], np.log(sizes) - self.log_x0)
        error = np.sqrt(np.einsum("kp,pq,kq->k", gradient[0], self.covariance(), gradient[0]))
        return ExactConfidence(self.link, z[0], np.maximum(error, 1e-12), self.degrees_of_freedom)


def _with_numerical_gradient(function: Callable[[np.ndarray], float], theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([[function(row)] for row in theta])
    gradient = np.empty((*values.shape, theta.shape[1]))
    for index in range(theta.shape[1]):
        step = 1e-6 * np.maximum(np.abs(theta[:, index]), 1e-3)
        shifted = theta.copy()
        shifted[:, index] += step
        gradient[:, 0, index] = (np.array([function(row) for row in shifted]) - values[:, 0]) / step
    return values, gradient


def fit_form(form: Form, points: Points, link: Link) -> FormFit:
    """Least squares from several starts, deterministic."""
    log_sizes = np.log(points.sizes)
    counts = np.array([len(group) for group in points.scores], dtype=np.float64)
    log_x0 = float(np.average(log_sizes, weights=counts))
    u = log_sizes - log_x0
    spaced = [link.to_space(group) for group in points.scores]
    z = np.array([group.mean() for group in spaced])
    within = float(sum(((group - mean) ** 2).sum() for group, mean in zip(spaced, z, strict=True)))
    bounds = form.bounds(u, z)
    pool = np.clip(form.starts(u, z, counts), *bounds)
    if not form.linear:
        first = _sum(counts, z - form.curve(pool, u)[0])
        starts = pool[np.argsort(first, kind="stable")[:NUM_STARTS]]
        observed, weights = (np.broadcast_to(part, (len(starts), len(u))) for part in (z, counts))
        solutions, losses = levenberg_marquardt(lambda theta, _: form.curve(theta, u), starts, observed, weights, bounds)
        theta = solutions[np.argmin(losses)]
    else:
        theta = pool[0]
    between = float(_sum(counts, z - form.curve(theta[None], u)[0])[0])
    total = between + within
    n = points.num_encoders
    log_slope = float(sum(link.log_slope(group).sum() for group in points.scores))
    aicc = _aicc(n, total, form.num_parameters + 1) - 2.0 * log_slope
    return FormFit(form, link, theta, log_x0, u, z, counts, bounds, pool, total, n, aicc)


def _aicc(n: int, sum_of_squares: float, num_parameters: int) -> float:
    """Of normal residuals; the number of parameters counts their variance. Infinite where the correction has no meaning."""
    if n - num_parameters - 1 <= 0:
        return float("inf")
    correction = 2.0 * num_parameters * (num_parameters + 1) / (n - num_parameters - 1)
    return float(n * np.log(max(sum_of_squares / n, 1e-24)) + 2.0 * num_parameters + correction)


class Confidence(ABC):
    """Confidence distributions of m quantities, as signed roots: how far a value is from the estimate, on the scale of t."""

    degrees_of_freedom: int

    @abstractmethod
    def root(self, values: np.ndarray) -> np.ndarray:
        """(m,) signed roots of values (m,); they rise with the value."""

    @abstractmethod
    def value(self, root: float) -> np.ndarray:
        """(m,) values whose signed root this is."""

    def limits(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Two-sided limits (m,), (m,)."""
        bound = float(stats.t.ppf(0.5 + level / 2, self.degrees_of_freedom))
        return self.value(-bound), self.value(bound)

    def cumulative(self, values: np.ndarray) -> np.ndarray:
        """(m,) share of confidence at or below each value."""
        return np.asarray(stats.t.cdf(self.root(values), self.degrees_of_freedom))


@dataclass(frozen=True)
class ExactConfidence(Confidence):
    """Student's t in the form's space."""

    link: Link
    centre: np.ndarray
    error: np.ndarray
    degrees_of_freedom: int

    def root(self, values: np.ndarray) -> np.ndarray:
        inside = np.clip(values, np.nextafter(self.link.low, np.inf), np.nextafter(self.link.high, -np.inf))
        return np.asarray((self.link.to_space(inside) - self.centre) / self.error)

    def value(self, root: float) -> np.ndarray:
        return np.asarray(self.link.to_score(self.centre + root * self.error))


@dataclass(frozen=True)
class ProfileConfidence(Confidence):
    """Profile likelihood, known at a few values of each quantity and linear between them."""

    values: np.ndarray
    """(m, K) rising along the last axis."""
    roots: np.ndarray
    """(m, K) likewise."""
    degrees_of_freedom: int

    def root(self, values: np.ndarray) -> np.ndarray:
        return _interpolate(self.values, self.roots, np.broadcast_to(values, len(self.values)))

    def value(self, root: float) -> np.ndarray:
        # A profile that has gone flat excludes nothing further out: twice as far again as it was looked at stands for that.
        span = np.ptp(self.values, axis=1)
        found = _interpolate(self.roots, self.values, np.full(len(self.values), root))
        return np.clip(found, self.values[:, 0] - span, self.values[:, -1] + span)


def _interpolate(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Row-wise linear interpolation of (m, K) knots at (m,); beyond the ends the last segment goes on."""
    place = np.clip((x <= at[:, None]).sum(axis=1), 1, x.shape[1] - 1)
    rows = np.arange(len(x))
    left, right = x[rows, place - 1], x[rows, place]
    with np.errstate(over="ignore"):
        share = np.clip((at - left) / np.maximum(right - left, TINY), -1e12, 1e12)
    return np.asarray(y[rows, place - 1] + share * (y[rows, place] - y[rows, place - 1]))


PROFILE_STEPS = np.array([0.2, 0.5, 0.8, 1.1, 1.6, 3.0, 8.0])
"""Where a profile is looked at, in units of the 99 % limit of the local normal approximation."""
PULL = 10.0
WALL = 1e6
"""Signed root of what lies beyond a bound."""


def profile(fit: FormFit, functional: Functional) -> ProfileConfidence:
    """Profile likelihood of m quantities.

    Each quantity is pulled towards a value away from its estimate by a spring; wherever spring and data balance, the fit is the
    best one with that value, so its sum of squares is a point of the profile. All quantities and values run as one batch.
    """
    theta = fit.theta[None]
    centre, gradient = (part[0] for part in functional(theta, None))
    num_quantities = len(centre)
    error = np.sqrt(np.maximum(np.einsum("mp,pq,mq->m", gradient, fit.covariance(), gradient), 0.0))
    error = np.maximum(error, 1e-9 * np.maximum(np.abs(centre), 1e-3))
    reach = float(stats.t.ppf(0.995, fit.degrees_of_freedom))
    steps = np.concatenate([-PROFILE_STEPS[::-1], PROFILE_STEPS]) * reach
    spread = error[:, None]
    goals = (centre[:, None] + steps * spread).ravel()
    # The spring is measured in the data's own variance, so that the balance is near the goal whatever the units.
    strength = np.repeat(PULL * fit.variance / error**2, len(steps))
    which = np.repeat(np.arange(num_quantities), len(steps))

    def pulled(candidates: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, slopes = fit.form.curve(candidates, fit.u)
        quantity, quantity_slope = functional(candidates, which[problems])
        bad = ~np.isfinite(quantity)
        quantity = np.where(bad, 1e150, quantity)
        quantity_slope = np.where(bad[..., None] | ~np.isfinite(quantity_slope), 0.0, quantity_slope)
        return np.concatenate([values, quantity], axis=1), np.concatenate([slopes, quantity_slope], axis=1)

    observed = np.concatenate([np.broadcast_to(fit.z, (len(goals), len(fit.z))), goals[:, None]], axis=1)
    weights = np.concatenate([np.broadcast_to(fit.weights, (len(goals), len(fit.z))), strength[:, None]], axis=1)
    # Where the optimum is a long way off along a valley, a starting point that lies there already saves hundreds of steps; the
    # second round starts from the best that the first found for any goal.
    pool = np.concatenate([theta, fit.pool])
    for _ in range(2):
        quantity = np.nan_to_num(functional(pool, None)[0][:, which], nan=1e150, posinf=1e150, neginf=-1e150)
        misfit = _sum(fit.weights, fit.z - fit.form.curve(pool, fit.u)[0])
        with np.errstate(over="ignore"):
            start = pool[np.argmin(misfit[:, None] + strength * (goals - quantity) ** 2, axis=0)]
        pool, _ = levenberg_marquardt(pulled, start, observed, weights, fit.bounds, num_steps=60)
    found = pool
    reached = functional(found, which)[0].reshape(num_quantities, -1)
    loss = _sum(fit.weights, fit.z - fit.form.curve(found, fit.u)[0]).reshape(num_quantities, -1)
    best = _sum(fit.weights, fit.z - fit.form.curve(theta, fit.u)[0])[0]
    roots = np.sign(reached - centre[:, None]) * np.sqrt(np.maximum(loss - best, 0.0) / fit.variance)
    # A quantity that stops half-way because a parameter is at its bound goes no further: no line is drawn beyond such an end.
    stuck = ((found <= fit.bounds[0]) | (found >= fit.bounds[1])).any(axis=1).reshape(num_quantities, -1)
    goals = goals.reshape(num_quantities, -1)
    stuck &= np.abs(reached - centre[:, None]) < 0.5 * np.abs(goals - centre[:, None])
    lowest, highest = reached.min(axis=1), reached.max(axis=1)
    ends = np.stack([lowest, highest], axis=1)
    walls = np.where(stuck[:, [0, -1]], [-WALL, WALL], 0.0)
    values = np.concatenate([reached, centre[:, None], np.where(walls != 0, ends, centre[:, None])], axis=1)
    roots = np.concatenate([roots, np.zeros((num_quantities, 1)), walls], axis=1)
    order = np.lexsort((roots, values), axis=1)
    values, roots = np.take_along_axis(values, order, axis=1), np.take_along_axis(roots, order, axis=1)
    return ProfileConfidence(values, np.maximum.accumulate(roots, axis=1), fit.degrees_of_freedom)
