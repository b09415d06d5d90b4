"""Linear heads on fixed features, each strictly convex or in closed form, fitted exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.floating]  # in single precision, where heads are only compared

# Inverse strengths of the L2 penalty, from strong to weak; a path stops where it has clearly passed
# its best.
PATH = tuple(float(each) for each in np.logspace(-4, 1, 9))
RIDGES = tuple(float(each) for each in np.logspace(5, 0, 11))

CONVERGED = 1e-6  # the largest gradient of the mean loss, in preconditioned coordinates
NEARLY = 1e-5  # what single precision, which is twice as fast, reaches as surely

# Of the usual one: a feature that hardly any row has would count a thousandfold in a new one.
SMALLEST_DEVIATION = 0.2
MOST_STEPS = 50  # of conjugate gradients

# Of L-BFGS: the steps that it remembers and takes, and how often one of them is halved.
MEMORY = 10
MOST_EVALUATIONS = 500
MOST_HALVINGS = 20

# Classes without a row are never the answer: their logits lie so far below the smallest bias. A
# calibration multiplies them by 0.01 or so.
NEVER = 1e4


@dataclass(frozen=True)
class LinearHead:
    """Logits of features x (N, F) are x @ weight.T + bias; weight (K, F), bias (K,)."""

    weight: Array
    bias: Array

    def logits(self, features: ArrayLike) -> Array:
        """Return logits (N, K) of features (N, F)."""
        return np.asarray(features, np.float64) @ self.weight.T + self.bias


class Rows:
    """Features (N, F) with classes (N,) in 0..K-1 and weights (N,), as heads are fitted to them.

    Heads are fitted to standardised features, and for the classes that have rows here. Features
    that hardly differ are left smaller than that.

    Args:
        features: as they come.
        targets: the class of each row.
        num_classes: K.
        weights: how much each row counts; 1 each by default.
    """

    def __init__(
        self,
        features: Array,
        targets: NDArray[np.integer],
        num_classes: int,
        weights: Array | None = None,
    ) -> None:
        self.all_classes = num_classes
        self.whole: tuple[Rows, NDArray[np.bool_]] | None = None  # of which these are some
        self._take(targets, np.ones(len(targets)) if weights is None else weights)

        self.mean = self.shares @ features
        x = features - self.mean
        deviation = np.sqrt(self.shares @ x**2)
        usual = np.median(deviation[deviation > 1e-6]) if (deviation > 1e-6).any() else 1.0
        self.scale = 1 / np.maximum(deviation, SMALLEST_DEVIATION * usual)
        x *= self.scale
        self.x = x

    def _take(self, targets: NDArray[np.integer], weights: Array) -> None:
        self.present, self.targets = np.unique(targets, return_inverse=True)
        self.num_classes = len(self.present)
        self.weights = weights
        self.total = float(weights.sum())
        self.shares = weights / self.total

    def some(self, kept: NDArray[np.bool_]) -> Rows:
        """Return some of the rows, in the units and along the axes of all of them.

        These say nothing of the classes. Numbers are held in single precision, and only where they
        are asked for.
        """
        part = copy.copy(self)
        part._take(self.present[self.targets[kept]], self.weights[kept])
        part.whole = (self, kept)
        for name in ("x", "axes", "along", "one_hot"):
            part.__dict__.pop(name, None)
        return part

    def of_features(self, columns: slice) -> Rows:
        """Return the same rows with some of their features, in the same units."""
        part = copy.copy(self)
        part.x = self.x[:, columns]
        part.mean, part.scale = self.mean[columns], self.scale[columns]
        part.whole = None
        for name in ("axes", "along"):
            part.__dict__.pop(name, None)
        return part

    @cached_property
    def x(self) -> NDArray[np.floating]:
        """The rows (N, F), standardised."""
        assert self.whole is not None  # of all rows they are there from the start
        whole, kept = self.whole
        return whole.x[kept].astype(np.float32)

    @cached_property
    def one_hot(self) -> Array:
        """The targets (N, K)."""
        return np.eye(self.num_classes)[self.targets]

    @cached_property
    def axes(self) -> tuple[Array, Array]:
        """The principal axes (F, R) of all rows, and the variance (R,) along each."""
        if self.whole is not None:
            return self.whole[0].axes
        scaled = self.x * np.sqrt(self.shares)[:, None]
        rows, columns = scaled.shape
        if rows < columns:
            variances, left = np.linalg.eigh(scaled @ scaled.T)
            kept = variances > variances[-1] * 1e-12
            return (scaled.T @ left[:, kept]) / np.sqrt(variances[kept]), variances[kept]

        variances, axes = np.linalg.eigh(scaled.T @ scaled)
        kept = variances > variances[-1] * 1e-12
        return axes[:, kept], variances[kept]

    @cached_property
    def along(self) -> NDArray[np.floating]:
        """The rows (N, R) along the axes; nothing outside of them lowers a loss."""
        if self.whole is None:
            return self.x @ self.axes[0]
        whole, kept = self.whole
        return whole.along[kept].astype(np.float32)

    def plain(self, weight: Array, bias: Array) -> LinearHead:
        """Return a head for features as they come and all classes, from one for those here."""
        full = np.zeros((self.all_classes, weight.shape[1]))
        full[self.present] = weight * self.scale
        biases = np.full(self.all_classes, bias.min() - NEVER)
        biases[self.present] = bias - full[self.present] @ self.mean
        return LinearHead(full, biases)


def logistic_path(
    rows: Rows,
    strengths: Sequence[float] = PATH,
    *,
    label_smoothing: float = 0.0,
    converged: float = CONVERGED,
) -> Iterator[LinearHead]:
    """Yield the multinomial logistic regression of each inverse penalty `strengths`, in order.

    Minimises sum_i w_i loss_i + |W|^2 / (2 C), as scikit-learn does; the bias is free. L-BFGS works
    along the principal axes, each scaled by the curvature of the loss there: where all classes are
    equally likely the problem is then round, and elsewhere nearly so. Each fit begins with the one
    before, and what is held in double precision with a fit in single precision.
    """
    axes, variances = rows.axes
    shares = rows.shares
    passes = [(rows.along, converged)]
    if rows.along.dtype == np.float64:
        passes.insert(0, (rows.along.astype(np.float32), max(converged, NEARLY)))
    num_classes, rank = rows.num_classes, len(variances)
    even = max((1 - 1 / num_classes) / num_classes, 1e-6)
    wanted = (1 - label_smoothing) * rows.one_hot + label_smoothing / num_classes
    weight = np.zeros((num_classes, rank))
    bias = np.zeros(num_classes)
    level = math.sqrt(even)

    for strength in strengths:
        penalty = 1 / (strength * rows.total)
        scales = 1 / np.sqrt(even * variances + penalty)

        def objective(
            flat: Array,
            along: NDArray[np.floating],
            penalty: float = penalty,
            scales: Array = scales,
        ) -> tuple[float, Array]:
            point = flat.reshape(num_classes, rank + 1)
            heads = point[:, :rank] * scales
            logits = along @ heads.T.astype(along.dtype) + point[:, rank] / level
            logits -= logits.max(1, keepdims=True)
            probabilities = np.exp(logits)
            sums = probabilities.sum(1)
            probabilities /= sums[:, None]
            loss = shares @ (np.log(sums) - (wanted * logits).sum(1))
            loss += 0.5 * penalty * (heads**2).sum()

            off = (probabilities - wanted) * shares[:, None]
            gradient = np.empty_like(point)
            gradient[:, :rank] = (off.T.astype(along.dtype) @ along + penalty * heads) * scales
            gradient[:, rank] = off.sum(0) / level
            return float(loss), gradient.ravel()

        from scipy.optimize import minimize

        point = np.hstack([weight / scales, bias[:, None] * level])
        for along, goal in passes:
            options = {"maxiter": 1000, "maxcor": 20, "gtol": goal, "ftol": 0.0}
            found = minimize(
                objective, point.ravel(), (along,), jac=True, method="L-BFGS-B", options=options
            )
            point = found.x.reshape(num_classes, rank + 1)
        weight, bias = point[:, :rank] * scales, point[:, rank] / level
        yield rows.plain(weight @ axes.T, bias)


def logistic_paths(
    parts: Sequence[Rows],
    strengths: Sequence[float] = PATH,
    *,
    label_smoothing: float = 0.0,
    converged: float = NEARLY,
) -> Iterator[list[LinearHead]]:
    """Yield what `logistic_path` does for several parts of the same rows (`Rows.some`), together.

    The parts share nearly all of their rows. One product with all rows serves all parts, in single
    precision, in a third of the time of one for each. A row that a part leaves out weighs nothing
    in it: no number of another part enters into its head.
    """
    assert parts[0].whole is not None
    rows = parts[0].whole[0]
    axes, variances = rows.axes
    along = rows.along.astype(np.float32)
    num_parts, num_classes, rank = len(parts), rows.num_classes, len(variances)

    shares = np.zeros((len(along), num_parts))
    known = np.zeros((num_parts, num_classes), np.bool_)
    for number, part in enumerate(parts):
        assert part.whole is not None
        shares[part.whole[1], number] = part.shares
        known[number] = np.isin(rows.present, part.present)
    counts = known.sum(1)
    totals = np.array([part.total for part in parts])
    smoothed = label_smoothing * (known / counts[:, None]).astype(np.float32)
    wanted = (1 - label_smoothing) * rows.one_hot[:, None].astype(np.float32) + smoothed
    never = np.where(known, 0, -1e30).astype(np.float32)
    even = np.maximum((1 - 1 / counts) / counts, 1e-6)[:, None, None]
    weight = np.zeros((num_parts, num_classes, rank), np.float32)
    bias = np.zeros((num_parts, num_classes, 1), np.float32)
    level = np.sqrt(even).astype(np.float32)

    for strength in strengths:
        penalty = (1 / (strength * totals))[:, None, None].astype(np.float32)
        scales = (1 / np.sqrt(even * variances + penalty)).astype(np.float32)

        def objective(
            flat: Numbers, penalty: Numbers = penalty, scales: Numbers = scales
        ) -> tuple[Array, Numbers]:
            point = flat.reshape(num_parts, num_classes, rank + 1)
            heads = point[..., :rank] * scales
            logits = (along @ heads.reshape(-1, rank).T).reshape(-1, num_parts, num_classes)
            logits += (point[..., rank:] / level)[..., 0] + never
            logits -= logits.max(2, keepdims=True)
            probabilities = np.exp(logits)
            sums = probabilities.sum(2)
            probabilities /= sums[..., None]
            right = np.where(wanted > 0, wanted * logits, 0).sum(2)
            loss = (shares * (np.log(sums) - right)).sum(0)
            loss += 0.5 * (penalty * heads**2).sum((1, 2), dtype=np.float64)

            off = (probabilities - wanted) * shares[..., None].astype(np.float32)
            gradient = np.empty_like(point)
            products = off.reshape(len(along), -1).T @ along
            gradient[..., :rank] = (products.reshape(heads.shape) + penalty * heads) * scales
            gradient[..., rank:] = off.sum(0)[..., None] / level
            return loss, gradient.reshape(num_parts, -1)

        start = np.concatenate([weight / scales, bias * level], 2).reshape(num_parts, -1)
        point = _minimised(objective, start, converged).reshape((*weight.shape[:2], rank + 1))
        weight, bias = point[..., :rank] * scales, point[..., rank:] / level
        yield [
            part.plain(weight[number, there].astype(np.float64) @ axes.T, bias[number, there, 0])
            for number, (part, there) in enumerate(zip(parts, known, strict=True))
        ]


def _minimised(
    objective: Callable[[Numbers], tuple[Array, Numbers]], start: Numbers, converged: float
) -> Numbers:
    """Return the minima (P, D) of P convex functions, by L-BFGS with steps that are halved.

    Each goes its own way, until none of its derivatives is larger than `converged`.

    Args:
        objective: returns the values (P,) of all functions and their derivatives (P, D).
        start: where each begins (P, D).
        converged: the largest derivative at the end.
    """
    point = start
    loss, gradient = objective(point)
    history: list[tuple[Numbers, Numbers, Numbers]] = []  # steps, changes, 1 / their product

    for _ in range(MOST_EVALUATIONS):
        going = np.abs(gradient).max(1) > converged
        if not going.any():
            break
        direction = -_newton_like(gradient, history) * going[:, None]
        slope = (direction * gradient).sum(1, dtype=np.float64)
        length = np.ones((len(point), 1), np.float32)
        if not history:
            length /= np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1)

        for _ in range(MOST_HALVINGS):
            moved = point + length * direction
            found, steepness = objective(moved)
            # a part in ten million is what single precision cannot tell
            enough = found <= loss + 1e-4 * length[:, 0] * slope + 1e-7 * np.abs(loss)
            if enough.all():
                break
            length[~enough] /= 2

        step, change = moved - point, steepness - gradient
        product = _inner(step, change)
        inverse = np.divide(1, product, out=np.zeros_like(product), where=product > 1e-20)
        history = [*history[1 - MEMORY :], (step, change, inverse)]
        point, loss, gradient = moved, found, steepness
    return point


def _newton_like(gradient: Numbers, history: Sequence[tuple[Numbers, Numbers, Numbers]]) -> Numbers:
    """Return the gradients (P, D) times the inverse curvatures that the last steps tell.

    A function that did not move in a step (a product of 0) learns nothing of it.

    Source: Nocedal, "Updating quasi-Newton matrices with limited storage" (1980).
    """
    left = gradient
    shares = []
    for step, change, inverse in reversed(history):
        share = inverse * _inner(step, left)
        left = left - share * change
        shares.append(share)

    if history:
        _, change, inverse = history[-1]
        size = inverse * _inner(change, change)
        left = left / np.where(size > 0, size, 1)
    for (step, change, inverse), share in zip(history, reversed(shares), strict=True):
        left = left + (share - inverse * _inner(change, left)) * step
    return left


def _inner(one: Numbers, other: Numbers) -> Numbers:
    return np.einsum("pd,pd->p", one, other)[:, None]


def discriminant(rows: Rows) -> LinearHead:
    """Return linear discriminant analysis with the covariance shrunk after Ledoit and Wolf (2004).

    The covariance is that within the classes, each shrunk on its own, weighted by their shares,
    which are the priors as well (as scikit-learn's `shrinkage="auto"`).
    """
    num_features = rows.x.shape[1]
    means = np.zeros((rows.num_classes, num_features))
    shares = np.zeros(rows.num_classes)
    diagonal = np.zeros(num_features)
    centred = np.empty_like(rows.x)

    for number in range(rows.num_classes):
        inside = rows.targets == number
        weights = rows.weights[inside]
        shares[number] = weights.sum() / rows.total
        means[number] = np.average(rows.x[inside], axis=0, weights=weights)
        roots = np.sqrt(weights / weights.mean())[:, None].astype(rows.x.dtype)
        within = (rows.x[inside] - means[number].astype(rows.x.dtype)) * roots
        part, targets = _shrinkage(within)
        centred[inside] = within * math.sqrt(shares[number] * (1 - part) / len(within))
        diagonal += shares[number] * part * targets

    weight = _solve(centred, diagonal, means.T).T
    bias = -0.5 * (means * weight).sum(1) + np.log(shares)
    return rows.plain(weight, bias)


def _shrinkage(centred: NDArray[np.floating]) -> tuple[float, NDArray[np.floating]]:
    """Return how far the covariance of centred rows (N, F) is shrunk, and the diagonal (F,) that it
    is shrunk to (Ledoit and Wolf 2004).

    The diagonal is a multiple of the identity in units of each feature's deviation.
    """
    deviation = np.sqrt((centred**2).mean(0))
    deviation[deviation < 1e-8] = 1  # constant within the class
    x = centred / deviation
    num_rows, num_features = x.shape
    lengths = (x**2).sum(1)
    level = float(lengths.mean()) / num_features

    # The sum of the squares of x.T @ x is that of x @ x.T, which may be the smaller one.
    product = x @ x.T if num_rows < num_features else x.T @ x
    squares = float((product**2).sum()) / num_rows**2
    spread = float((lengths**2).sum()) / num_rows
    distance = (squares - num_features * level**2) / num_features
    error = min((spread - squares) / num_rows / num_features, distance)
    part = 0.0 if error <= 0 else error / distance
    return part, level * deviation**2


def _solve(centred: NDArray[np.floating], diagonal: Array, wanted: Array) -> Array:
    """Return the solution (F, K) of (centred.T @ centred + diagonal) @ solution = wanted (F, K)."""
    num_rows, num_features = centred.shape
    if num_rows < num_features and diagonal.min() > 1e-6 * diagonal.max():  # Woodbury's identity
        # in units in which the diagonal is 1, so that a product with itself is half of the work
        units = np.sqrt(diagonal)[:, None]
        scaled = centred / units.T.astype(centred.dtype)
        inner = scaled @ scaled.T
        inner[np.diag_indices(num_rows)] += 1
        plain = wanted / units
        factor = scipy.linalg.cho_factor(inner, overwrite_a=True)
        along = scaled @ plain.astype(centred.dtype)
        return (plain - scaled.T @ scipy.linalg.cho_solve(factor, along)) / units

    covariance = centred.T @ centred
    covariance[np.diag_indices(num_features)] += np.maximum(diagonal, 1e-12)
    try:
        return scipy.linalg.cho_solve(scipy.linalg.cho_factor(covariance, overwrite_a=True), wanted)
    except scipy.linalg.LinAlgError:
        # nearly singular, which single precision cannot tell from singular
        if centred.dtype == np.float64:
            raise
        return _solve(centred.astype(np.float64), diagonal, wanted)


def ridge_path(
    rows: Rows, penalties: Sequence[float] = RIDGES, *, converged: float = 1e-12
) -> Iterator[LinearHead]:
    """Yield least squares to one-hot targets with each penalty on |W|^2, in order.

    Solved by conjugate gradients along the principal axes of the rows, which takes one step where
    they are the rows' own; `converged` is relative to the right-hand side.
    """
    axes, variances = rows.axes
    along, shares = rows.along, rows.shares
    middle = shares @ along
    means = shares @ rows.one_hot
    off = (rows.one_hot - means) * shares[:, None]
    wanted = (along.T @ off.astype(along.dtype)).astype(np.float64)  # (R, K)
    weight = np.zeros_like(wanted)
    size = max(float(np.abs(wanted).max()), 1e-300)

    for penalty in penalties:
        level = penalty / rows.total
        scales = 1 / (variances + level)[:, None]

        def applied(vectors: Array, level: float = level) -> Array:
            answers = along @ vectors.astype(along.dtype)
            answers = shares[:, None] * (answers - middle @ vectors)
            return along.T @ answers.astype(along.dtype) + level * vectors

        left = wanted - applied(weight)
        direction = scales * left
        product = (left * direction).sum(0)
        for _ in range(MOST_STEPS):
            if np.abs(left).max() <= converged * size:
                break
            moved = applied(direction)
            length = product / np.maximum((direction * moved).sum(0), 1e-300)
            weight = weight + length * direction
            left = left - length * moved
            better = scales * left
            following = (left * better).sum(0)
            direction = better + following / np.maximum(product, 1e-300) * direction
            product = following
        yield rows.plain(weight.T @ axes.T, means - middle @ weight)


def log_losses(logits: ArrayLike, targets: ArrayLike) -> Array:
    """Return the log loss (N,) of each row."""
    of_class = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=1)
    return -of_class[np.arange(len(of_class)), np.asarray(targets)]
