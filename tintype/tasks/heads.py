"""The linear head on fixed features that cross-validation chooses.

Each candidate is fitted exactly (tasks/linear_heads.py), so a head takes seconds and needs no
learning rate. All of them are linear in the features, so the one that is chosen, or a sum of
several, is one plain linear layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from tintype.statistics import clustered_interval
from tintype.tasks.linear_heads import (
    PATH,
    RIDGES,
    Array,
    LinearHead,
    Rows,
    discriminant,
    log_losses,
    logistic_path,
    logistic_paths,
    ridge_path,
)

Integers = NDArray[np.int64]

USUAL = PATH[4]  # where nothing can be compared

COMPARED = 1e-3  # the largest gradient where heads are only compared
CLEARLY = 1.002  # times the least loss: a path that has passed its best so far ends

MOST_FACTOR = 1e4  # of a calibration
MOST_COLUMNS = 160  # of the products of logistic regressions that are fitted together
NUM_FOLDS = 5

# What is bounded, so that a head takes minutes at the most: numbers held at a time (N x F), terms
# of the loss (N x F x K), and products of a covariance (N x F x the smaller of both).
MOST_NUMBERS = 1.5e8
MOST_TERMS = 1e9
MOST_PRODUCTS = 2e11

LOGISTIC = "logistic regression"
DISCRIMINANT = "linear discriminant"
RIDGE = "ridge regression"
BOTH = "logistic regression and discriminant"
STAGED = "logistic regression and discriminants of each stage"
# From simple to less so: of those that are as good, the first is chosen.
SIMPLEST_FIRST = (LOGISTIC, DISCRIMINANT, RIDGE, BOTH, STAGED)


@dataclass(frozen=True)
class Candidate:
    """A kind of head, and how it does on rows that it has not seen.

    Attributes:
        name: what it is.
        setting: what was chosen for it on all rows, as in "C = 0.01"; may be empty.
        log_loss: the weighted mean over the rows that count, each answered by a head that was
            fitted, set and calibrated without its fold.
        log_loss_interval: 95 %, with groups of rows counted as such.
        accuracy: the share of right answers of the same heads.
        accuracy_interval: 95 %.
    """

    name: str
    setting: str
    log_loss: float
    log_loss_interval: tuple[float, float]
    accuracy: float
    accuracy_interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return what evaluation.json holds of it."""
        return {
            "name": self.name,
            "setting": self.setting,
            "log_loss": self.log_loss,
            "log_loss_ci95": list(self.log_loss_interval),
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_interval),
        }


@dataclass(frozen=True)
class FittedHead:
    """The head that cross-validation chose, fitted to all rows.

    Attributes:
        head: for features as they come, calibrated.
        chosen: the name of its kind.
        reason: why that one.
        candidates: every kind that was tried.
        nested: what the whole procedure reaches on rows that it has not seen: in each fold the kind
            of head, its setting and its calibration are those that the other folds choose. None
            where nothing was compared.
        out_of_fold: those answers, as logits (N, K).
        fold_of: the fold (N,) of each row.
        counts: which rows (N,) the figures count: a class that no other fold holds cannot be known.
        notes: what was left out, and why.
    """

    head: LinearHead
    chosen: str
    reason: str
    candidates: tuple[Candidate, ...]
    nested: Candidate | None
    out_of_fold: Array
    fold_of: Integers
    counts: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what evaluation.json holds of the comparison."""
        return {
            "chosen": self.chosen,
            "reason": self.reason,
            "num_images": int(self.counts.sum()),
            "candidates": [each.to_dict() for each in self.candidates],
            "nested": self.nested.to_dict() if self.nested else None,
            "notes": list(self.notes),
        }


def fits_in(num_rows: int, num_features: int) -> bool:
    """Return whether features are few enough for exact heads, in double precision."""
    size = num_rows * num_features
    return size <= MOST_NUMBERS and size * min(num_rows, num_features) <= MOST_PRODUCTS


def fit_head(
    features: ArrayLike,
    targets: ArrayLike,
    num_classes: int,
    *,
    groups: Sequence[str] | ArrayLike | None = None,
    weights: ArrayLike | None = None,
    clean: int | None = None,
    label_smoothing: float = 0.0,
    stages: Sequence[int] = (),
    num_folds: int = NUM_FOLDS,
    fold_of: ArrayLike | None = None,
    strict: bool = False,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> FittedHead:
    """Return the linear head that cross-validation chooses, fitted to all rows.

    Candidates are logistic regression with an L2 penalty, linear discriminant analysis with a
    shrunk covariance, ridge regression, and the sum of the first two; where the features are those
    of several stages of a network, also the sum of these two and of a discriminant of each stage.
    Each is calibrated by one factor on out-of-fold logits (a sum by one for each part, so that a
    stage which tells nothing is left out). The measure is the log loss; of the candidates
    within one standard error of the best, the simplest is taken (the error is that of the paired
    difference).

    Args:
        features: (N, F), or (N, V, F) of V views of each row, which stay together.
        targets: (N,) in 0..K-1; a class may have few rows, or none.
        num_classes: K.
        groups: (N,) names of rows that belong together; "" belongs to none.
        weights: (N,) of the rows, which hold what classes weigh and how they are sampled.
        clean: how many of the first views are averaged where a head answers; by default all. The
            others are augmented copies, for fitting alone.
        label_smoothing: of the targets of logistic regression.
        stages: how many of the features, in their order, each stage of a network brings; they add
            up to F.
        num_folds: at the most; never more than there are groups.
        fold_of: (N,) the fold of each row, where it is given.
        strict: what answers a fold was also chosen and calibrated by heads that never saw it: they
            are fitted without it and another one. That takes three times as long. By default the
            heads by whose answers one is chosen have seen all folds but the one they answer.
        seed: of the folds.
        progress: called as progress(what, done, total).

    Raises:
        ValueError: there are no rows that count, or more than `fits_in` allows, or the stages do
            not add up.
    """
    of_views = np.asarray(features, np.float64)
    if of_views.ndim == 2:
        of_views = of_views[:, None]
    if not fits_in(of_views.shape[0] * of_views.shape[1], of_views.shape[2]):
        raise ValueError(f"features of shape {of_views.shape} are too many for an exact head")
    if stages and sum(stages) != of_views.shape[2]:
        raise ValueError(f"stages {list(stages)} are not {of_views.shape[2]} features together")

    table = _Table.of(of_views, targets, num_classes, weights, clean, label_smoothing)
    if fold_of is None:
        numbers = stratified_folds(table.targets, groups, num_folds, seed)
    else:
        numbers = np.unique(np.asarray(fold_of), return_inverse=True)[1].astype(np.int64)
    of_groups = _group_numbers(groups, len(numbers))
    trial = _Trial(table, numbers, of_groups, _slices(stages), strict, progress)
    return trial.result()


def stratified_folds(
    targets: ArrayLike, groups: Sequence[str] | ArrayLike | None, num_folds: int, seed: int
) -> Integers:
    """Return the fold (N,) of each row: classes are spread evenly, and groups stay together.

    Groups are dealt from large to small, each to the fold that holds fewest rows of its classes,
    and of those the fold with fewest rows.
    """
    classes = np.unique(np.asarray(targets), return_inverse=True)[1]
    numbers = _group_numbers(groups, len(classes))
    num_groups = int(numbers.max()) + 1
    counts = np.zeros((num_groups, int(classes.max()) + 1))
    np.add.at(counts, (numbers, classes), 1)

    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(num_groups)
    order = shuffled[np.argsort(-counts[shuffled].sum(1), kind="stable")]
    folds = min(num_folds, num_groups)
    held = np.zeros((folds, counts.shape[1]))
    share = 1 / counts.sum(0)  # rare classes count as much as common ones
    fold_of_group = np.zeros(num_groups, np.int64)

    for group in order:
        inside = counts[group]
        crowded = held @ (inside * share)
        fold = int(np.lexsort((held.sum(1), crowded.round(12)))[0])
        fold_of_group[group] = fold
        held[fold] += inside

    return fold_of_group[numbers]


def _group_numbers(groups: Sequence[str] | ArrayLike | None, num_rows: int) -> Integers:
    """Return the number (N,) of the group of each row; a row without one is a group of its own."""
    if groups is None:
        return np.arange(num_rows)
    names = np.asarray(groups)
    units = [name or f"\0{row}" for row, name in enumerate(names.astype(str).tolist())]
    return np.unique(units, return_inverse=True)[1].astype(np.int64)


def _slices(stages: Sequence[int]) -> dict[str, slice]:
    """Return the place of each stage's features by the name of its discriminant; none of one."""
    if len(stages) < 2:
        return {}
    ends = np.cumsum([0, *stages]).tolist()
    return {
        f"{DISCRIMINANT} of stage {number}": slice(*place)
        for number, place in enumerate(itertools.pairwise(ends), 1)
    }


@dataclass(frozen=True)
class _Table:
    """All rows with their views, and how much they weigh.

    Attributes:
        answered: the features (N, F) by which rows are answered.
        copies: the features (N, A, F) of augmented copies.
        weights: (N,), 1 on average.
    """

    answered: Array
    copies: Array
    targets: Integers
    num_classes: int
    weights: Array
    label_smoothing: float

    @classmethod
    def of(
        cls,
        of_views: Array,
        targets: ArrayLike,
        num_classes: int,
        weights: ArrayLike | None,
        clean: int | None,
        label_smoothing: float,
    ) -> _Table:
        clean = of_views.shape[1] if clean is None else clean
        given = np.ones(len(of_views)) if weights is None else np.asarray(weights, np.float64)
        if not len(of_views) or not given.sum() > 0:
            raise ValueError("there are no rows that a head could be fitted to")
        return cls(
            of_views[:, :clean].mean(1),
            of_views[:, clean:],
            np.asarray(targets, np.int64),
            num_classes,
            given * (len(given) / given.sum()),
            label_smoothing,
        )

    def rows(self) -> tuple[Rows, Integers]:
        """Return all rows that count and their copies, to fit heads to, and which (M,) each is."""
        kept = np.flatnonzero(self.weights > 0)
        num_views = 1 + self.copies.shape[1]
        features = np.concatenate([self.answered[kept], *self.copies[kept].swapaxes(0, 1)])
        which = np.tile(kept, num_views)
        weights = self.weights[which] / num_views
        return Rows(features, self.targets[which], self.num_classes, weights), which


@dataclass(frozen=True)
class _Setting:
    """A head with its setting: `factors` for each of the `parts`, which are summed up."""

    name: str
    parts: tuple[tuple[str, float], ...]
    factors: Array

    @property
    def text(self) -> str:
        said = {LOGISTIC: "C", RIDGE: "penalty"}
        return ", ".join(
            f"{said[kind]} = {value:.3g}" for kind, value in self.parts if kind in said
        )


@contextmanager
def _single_threads() -> Iterator[Executor]:
    """Let each product take one thread, and yield what runs several heads side by side.

    Most products are small: two threads of a BLAS wait for each other longer than they work (five
    times as long in L-BFGS), and most heads do not depend on each other. SciPy has a BLAS of its
    own, which can only be limited once it is loaded.
    """
    import scipy.linalg  # noqa: F401
    import scipy.optimize  # noqa: F401

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        yield threads


Families = Mapping[str, Mapping[float, Array]]  # logits (N, K) by kind and setting


@dataclass(eq=False)
class _Answers:
    """Answers to rows by heads that never saw their fold, nor `fold` where one is left out.

    Attributes:
        fold: which is to be answered by what these answers choose; None is all of them.
        rows: that choose (N,).
        families: logits (N, K) by kind and setting.
        losses: along the path of each kind.
    """

    fold: int | None
    rows: NDArray[np.bool_]
    families: dict[str, dict[float, Array]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)

    def without(self, fold: int) -> frozenset[int]:
        """Return the folds that a head has not seen which answers `fold`."""
        return frozenset([fold] if self.fold is None else [fold, self.fold])


class _Trial:
    """The cross-validation of all candidates on one table."""

    def __init__(
        self,
        table: _Table,
        fold_of: Integers,
        groups: Integers,
        stages: Mapping[str, slice],
        strict: bool,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self.table = table
        self.fold_of = fold_of
        self.num_folds = int(fold_of.max()) + 1
        self.groups = groups
        self.stages = stages
        self.progress = progress
        self.notes: list[str] = []

        self.counts = np.zeros(len(fold_of), np.bool_)
        for inside, others in self._folds():
            known = np.isin(table.targets, table.targets[others & (table.weights > 0)])
            self.counts |= inside & known
        self.counts &= table.weights > 0

        self.rows, self.which = table.rows()
        kinds = self._kinds()
        self.answers = _Answers(None, self.counts)
        # By which a fold is chosen for: those of heads that never saw it.
        self.choosing = [self.answers] * self.num_folds
        weight_of = np.bincount(fold_of, weights=table.weights)
        if strict and (weight_of > 0).sum() > 2:
            self.choosing = [
                _Answers(fold, self.counts & others)
                for fold, (_, others) in enumerate(self._folds())
            ]
        if self.counts.any():
            _ = self.rows.along  # once, by as many threads as there are
            with _single_threads() as threads:
                self._answer(kinds, threads)

    def _folds(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        for fold in range(self.num_folds):
            inside = self.fold_of == fold
            yield inside, ~inside

    def _kinds(self) -> list[str]:
        """Return the kinds of head that are small enough, and note those that are not."""
        num_rows = len(self.fold_of) * (1 + self.table.copies.shape[1])
        num_features = self.table.answered.shape[1]
        num_classes = len(np.unique(self.table.targets))
        size = f"{num_rows:,} rows of {num_features:,} features in {num_classes:,} classes"

        kinds = [DISCRIMINANT, RIDGE, *self.stages]
        if num_rows * num_features * num_classes <= MOST_TERMS:
            return [LOGISTIC, *kinds]
        self.notes.append(f"{LOGISTIC} is left out: {size} would take minutes")
        return kinds

    def _walk(
        self, kind: str, parts: Sequence[Rows], threads: Executor
    ) -> Iterator[list[LinearHead]]:
        """Yield the heads of a kind that are fitted to each of the parts, for each setting."""
        at_once = 1
        if kind == LOGISTIC:
            share = math.ceil(len(parts) / torch.get_num_threads())
            at_once = max(1, min(share, MOST_COLUMNS // self.rows.num_classes))
        groups = [parts[start : start + at_once] for start in range(0, len(parts), at_once)]
        paths = [self._path(kind, group) for group in groups]

        none: list[LinearHead] = []
        while True:
            found = list(threads.map(lambda path: next(path, none), paths))
            if not all(found):
                return
            yield [head for heads in found for head in heads]

    def _path(self, kind: str, parts: Sequence[Rows]) -> Iterator[list[LinearHead]]:
        """Yield the heads of a kind for each setting; of logistic regression for several parts."""
        if kind == LOGISTIC:
            smoothing = self.table.label_smoothing
            yield from logistic_paths(parts, PATH, label_smoothing=smoothing, converged=COMPARED)
            return

        (rows,) = parts
        if kind == RIDGE:
            yield from ([head] for head in ridge_path(rows, RIDGES, converged=COMPARED))
            return
        columns = self._discriminants[kind]
        assert rows.whole is not None
        # Whose copy of the features is gone after it.
        yield [self._discriminant(self.rows.of_features(columns).some(rows.whole[1]), columns)]

    @property
    def _discriminants(self) -> dict[str, slice]:
        """The features of each discriminant by its name: all of them, and those of each stage."""
        return {DISCRIMINANT: slice(None), **self.stages}

    def _discriminant(self, rows: Rows, columns: slice) -> LinearHead:
        """Return the discriminant of rows of some of the features, as a head for all of them."""
        of_some = discriminant(rows)
        weight = np.zeros((len(of_some.weight), self.table.answered.shape[1]))
        weight[:, columns] = of_some.weight
        return LinearHead(weight, of_some.bias)

    def _answer(self, kinds: Sequence[str], threads: Executor) -> None:
        """Find the logits of each kind and setting, each row's by a head that never saw its fold.

        All heads go along a path together; for those that choose together it ends where they have
        passed their best.
        """
        tables = list(dict.fromkeys([self.answers, *self.choosing]))
        folds = range(self.num_folds)
        needed = list(dict.fromkeys(table.without(fold) for table in tables for fold in folds))
        parts = [
            self.rows.some(~np.isin(self.fold_of, list(without))[self.which]) for without in needed
        ]

        grids = {LOGISTIC: PATH, RIDGE: RIDGES} | dict.fromkeys(self._discriminants, (0.0,))
        total = sum(len(grids[kind]) for kind in kinds)
        for number, kind in enumerate(kinds):
            going = tables
            done = sum(len(grids[each]) for each in kinds[:number])
            for setting, found in zip(grids[kind], self._walk(kind, parts, threads), strict=True):
                heads = dict(zip(needed, found, strict=True))
                for table in going:
                    answers = self._answers_by(heads, table)
                    table.families.setdefault(kind, {})[setting] = answers
                going = [table for table in going if not self._has_passed_its_best(table, kind)]
                done += 1
                if self.progress:
                    self.progress("heads compared", done, total)
                if not going:
                    break

    def _answers_by(self, heads: Mapping[frozenset[int], LinearHead], table: _Answers) -> Array:
        """Return logits (N, K), each row's by the head that has not seen its fold."""
        logits = np.zeros((len(self.fold_of), self.table.num_classes))
        for fold, (inside, _) in enumerate(self._folds()):
            logits[inside] = heads[table.without(fold)].logits(self.table.answered[inside])
        return logits

    def _has_passed_its_best(self, table: _Answers, kind: str) -> bool:
        path = list(table.families[kind].values())
        table.losses.setdefault(kind, []).append(self._calibrated(path[-1:], table.rows)[1])
        losses = table.losses[kind]
        best = min(losses)
        return losses[-1] > CLEARLY * best or min(losses[-2:]) > best

    def _calibrated(self, logits: Sequence[Array], rows: NDArray[np.bool_]) -> tuple[Array, float]:
        """Return the factors (M,) >= 0 of least log loss of a sum of logits, and that loss.

        The loss is convex in the factors.
        """
        targets = self.table.targets[rows]
        shares = self.table.weights[rows] / self.table.weights[rows].sum()
        parts = np.stack([each[rows] - each[rows].max(1, keepdims=True) for each in logits])
        # Each in units of its own size, which differ by a hundred.
        units = np.quantile(np.abs(parts), 0.75, axis=(1, 2))
        units[units == 0] = 1  # there is one class
        parts = parts / units[:, None, None]
        numbers = np.arange(len(targets))
        right = parts[:, numbers, targets]

        def objective(factors: Array) -> tuple[float, Array, Array]:
            logits = factors @ parts.reshape(len(parts), -1)
            logits = logits.reshape(parts.shape[1:])
            logits -= logits.max(1, keepdims=True)
            probabilities = np.exp(logits)
            sums = probabilities.sum(1)
            probabilities /= sums[:, None]
            chances = np.log(np.maximum(probabilities[numbers, targets], 1e-300))
            weighted = parts * probabilities
            off = weighted.sum(2) - right
            curvature = (weighted * parts).sum(2) - (off + right) ** 2
            return -float(shares @ chances), off @ shares, curvature @ shares

        if len(parts) == 1:
            factor = self._newton(objective)
            return factor / units, objective(factor)[0]
        from scipy.optimize import minimize

        found = minimize(
            lambda factors: objective(factors)[:2], np.full(len(parts), 1.0 / len(parts)),
            jac=True, method="L-BFGS-B", bounds=[(0.0, MOST_FACTOR)] * len(parts),
            options={"maxiter": 200, "gtol": 1e-6, "ftol": 0.0},
        )  # fmt: skip
        return found.x / units, float(found.fun)

    @staticmethod
    def _newton(objective: Callable[[Array], tuple[float, Array, Array]]) -> Array:
        """Return the one factor of least loss, which is convex in it; steps are kept moderate."""
        factor = np.ones(1)
        for _ in range(50):
            _, slope, curvature = objective(factor)
            wanted = factor - slope / np.maximum(curvature, 1e-12)
            following = np.clip(wanted, factor / 4, np.minimum(factor * 4, MOST_FACTOR))
            if abs(float((following - factor)[0])) <= 1e-6 * float(factor[0]):
                break
            factor = following
        return np.maximum(factor, 1e-9)

    def _settings(self, families: Families, rows: NDArray[np.bool_]) -> list[_Setting]:
        """Return each kind of head with the setting and calibration that answers to `rows` choose.

        Paths begin with what is simplest.
        """
        found: dict[str, _Setting] = {}
        for kind, path in families.items():
            tried = [
                _Setting(kind, ((kind, value),), self._calibrated((logits,), rows)[0])
                for value, logits in path.items()
            ]
            found[kind] = tried[self._simplest(tried, families, rows)]

        sums: dict[str, tuple[str, ...]] = {BOTH: (LOGISTIC, DISCRIMINANT)}
        if self.stages:
            sums[STAGED] = (LOGISTIC, *self._discriminants)
        for name, kinds in sums.items():
            if all(kind in found for kind in kinds):
                parts = tuple(part for kind in kinds for part in found[kind].parts)
                logits = tuple(families[kind][value] for kind, value in parts)
                found[name] = _Setting(name, parts, self._calibrated(logits, rows)[0])
        return [found[name] for name in SIMPLEST_FIRST if name in found]

    @staticmethod
    def _logits(setting: _Setting, families: Families) -> Array:
        parts = [families[kind][value] for kind, value in setting.parts]
        return sum(
            (factor * logits for factor, logits in zip(setting.factors, parts, strict=True)),
            start=np.zeros_like(parts[0]),
        )

    def _simplest(
        self, settings: Sequence[_Setting], families: Families, rows: NDArray[np.bool_]
    ) -> int:
        """Return the place of the first setting within one standard error of the best on `rows`."""
        losses = [log_losses(self._logits(each, families), self.table.targets) for each in settings]
        means = [self._mean(each, rows)[0] for each in losses]
        best = int(np.argmin(means))
        for place, each in enumerate(losses):
            difference, error = self._mean(each - losses[best], rows)
            if difference <= error:
                return place
        return best

    def _mean(self, values: Array, rows: NDArray[np.bool_]) -> tuple[float, float]:
        """Return the weighted mean of values (N,) over rows, and its standard error by groups."""
        weights = self.table.weights[rows]
        mean = float(weights @ values[rows] / weights.sum())
        numbers = np.unique(self.groups[rows], return_inverse=True)[1]
        off = np.bincount(numbers, weights=weights * (values[rows] - mean))
        count = len(off)
        if count < 2:
            return mean, math.inf
        error = math.sqrt(float((off**2).sum()) * count / (count - 1)) / float(weights.sum())
        return mean, error

    def _figures(self, name: str, setting: str, logits: Array) -> Candidate:
        """Return the figures of out-of-fold logits."""
        rows = self.counts
        loss, error = self._mean(log_losses(logits, self.table.targets), rows)
        right = logits.argmax(1) == self.table.targets
        return Candidate(
            name,
            setting,
            loss,
            (max(0.0, loss - 1.96 * error), loss + 1.96 * error),
            float(right[rows].mean()),
            clustered_interval(right[rows], self.groups[rows]),
        )

    def result(self) -> FittedHead:
        """Return the head that is chosen, and what it is expected to reach."""
        families = self.answers.families
        if not families:
            return self._unchosen()

        settings = self._settings(families, self.counts)
        shape = (len(self.fold_of), self.table.num_classes)
        answers = {each.name: np.zeros(shape) for each in settings}
        nested = np.zeros(shape)
        for (inside, others), choosing in zip(self._folds(), self.choosing, strict=True):
            rows = others & self.counts
            rows = rows if rows.any() else self.counts
            by_others = self._settings(choosing.families, rows)
            for each in by_others:
                answers[each.name][inside] = self._logits(each, choosing.families)[inside]
            taken = by_others[self._simplest(by_others, choosing.families, rows)]
            nested[inside] = answers[taken.name][inside]

        chosen = settings[self._simplest(settings, families, self.counts)]
        candidates = tuple(
            self._figures(each.name, each.text, answers[each.name]) for each in settings
        )
        return FittedHead(
            self._fitted(chosen),
            chosen.name,
            _reason(chosen.name, candidates),
            candidates,
            self._figures("the choice itself", "", nested),
            nested,
            self.fold_of,
            self.counts,
            tuple(self.notes),
        )

    def _fitted(self, setting: _Setting) -> LinearHead:
        """Return the sum of the parts of a setting, fitted to all rows."""
        rows = self.rows
        smoothing = self.table.label_smoothing
        fits = {
            LOGISTIC: lambda c: next(logistic_path(rows, [c], label_smoothing=smoothing)),
            RIDGE: lambda penalty: next(ridge_path(rows, [penalty])),
            **{
                kind: lambda _, columns=columns: self._discriminant(
                    rows.of_features(columns), columns
                )
                for kind, columns in self._discriminants.items()
            },
        }
        with _single_threads():
            heads = [fits[kind](value) for kind, value in setting.parts]
        pairs = list(zip(setting.factors, heads, strict=True))
        return LinearHead(
            np.sum([factor * head.weight for factor, head in pairs], axis=0),
            np.sum([factor * head.bias for factor, head in pairs], axis=0),
        )

    def _unchosen(self) -> FittedHead:
        """Return the usual head, where rows of other folds know no class of a fold."""
        usual = _Setting(LOGISTIC, ((LOGISTIC, USUAL),), np.ones(1))
        why = "the usual one, since no class has rows in two folds to compare heads by"
        logits = np.zeros((len(self.fold_of), self.table.num_classes))
        return FittedHead(
            self._fitted(usual), LOGISTIC, why, (), None, logits, self.fold_of, self.counts,
            tuple(self.notes),
        )  # fmt: skip


def _reason(chosen: str, candidates: Sequence[Candidate]) -> str:
    """Say why a candidate was chosen."""
    of_name = {each.name: each.log_loss for each in candidates}
    best = min(of_name, key=lambda name: of_name[name])
    said = f"log loss {of_name[chosen]:.3f} out of fold"
    if best == chosen:
        others = [name for name in of_name if name != chosen]
        return f"{said}, the least of {len(others) + 1} kinds" if others else said
    return f"{said}, within one standard error of {best} ({of_name[best]:.3f}), and simpler"
