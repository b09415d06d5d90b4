"""Figures of a classifier: accuracy, F1, log loss, calibration, confusion.

Plain numbers, ready for JSON.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from tintype.statistics import clustered_interval, clusters_of, wilson_interval

# Top-5 accuracy says nothing of few classes.
TOP5_ABOVE = 10
# Of a reliability diagram: enough dots to show a curve, and enough images behind each to say
# something.
FEWEST_BINS, MOST_BINS, IMAGES_IN_BIN = 3, 10, 25


def classification_figures(
    probabilities: ArrayLike, targets: ArrayLike, groups: ArrayLike | None = None
) -> dict[str, Any]:
    """Return the headline figures of predicted probabilities (N, K) against true classes (N,).

    `accuracy`, `accuracy_ci95` [low, high] (Wilson; with `groups` (N,), numbers of which equal ones
    mark images that belong together, that of clusters, and `num_groups` and `design_effect`),
    `loss` (mean negative log-likelihood, natural logarithm), `balanced_accuracy` (mean recall of
    the classes that occur in the targets), `macro_f1` (mean F1 of the classes that occur in targets
    or predictions), `expected_calibration_error` (15 bins), `calibration_error` (the same,
    debiased), `calibration_error_if_perfect` (what a perfectly calibrated model would read without
    that), `num_images`, `num_correct`, and for more than 10 classes `top5_accuracy`,
    `top5_accuracy_ci95`. Of equal probabilities the lower class wins.

    Raises:
        ValueError: no images, shapes that do not fit, probabilities that are none, classes outside
            0..K-1.
    """
    probabilities, targets = _checked(probabilities, targets)
    tally = Tally(probabilities.shape[1])
    tally.update(probabilities, targets, None if groups is None else np.asarray(groups).tolist())
    return tally.compute()


class Tally:
    """Count answers that come in parts; `compute` gives the headline figures of all of them.

    The state holds counts and, for each image, one number (its log loss), but neither logits nor
    probabilities. Parts may be folds, shards, processes or a stream: merged in any grouping and any
    order they give the same figures (counts exactly, sums of decimals to rounding).

    Args:
        num_classes: K, how many classes the model tells apart.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.calibration = CalibrationBins.empty()
        # Images by whether they are right and whether the true class is among the first five.
        self.alone = np.zeros((2, 2), np.int64)
        self.of_group: dict[Hashable, NDArray[np.int64]] = {}
        self.has_groups = False
        # One by one, since the mean of them all has the bits of earlier versions only so.
        self._log_losses: list[NDArray[np.float64]] = []

    def update(
        self,
        probabilities: ArrayLike,
        targets: ArrayLike,
        groups: Sequence[Hashable | None] | None = None,
    ) -> None:
        """Add probabilities (N, K) and true classes (N,).

        Args:
            probabilities: the answers.
            targets: the true classes.
            groups: the group of each image, by a name that means the same in every part; None for
                an image, or for all, that stands alone.

        Raises:
            ValueError: shapes that do not fit, probabilities that are none, classes outside 0..K-1.
        """
        probabilities, targets = _checked(probabilities, targets)
        guesses = probabilities.argmax(1)
        right = guesses == targets
        in_top5 = np.zeros(len(targets), bool)
        if self.num_classes > TOP5_ABOVE:
            in_top5 = target_ranks(probabilities, targets) < 5

        self.confusion += confusion_matrix(guesses, targets, self.num_classes)
        self.calibration += CalibrationBins.of(probabilities.max(1), right)
        self._log_losses.append(_log_losses(probabilities, targets))

        cells = np.stack([right, in_top5]).astype(np.int64)
        if groups is None:
            np.add.at(self.alone, tuple(cells), 1)
            return
        self.has_groups = True
        for name, cell in zip(groups, cells.T.tolist(), strict=True):
            self._counts_of(name)[tuple(cell)] += 1

    def merge(self, other: Tally) -> None:
        """Add what another tally of the same classes has counted.

        Raises:
            ValueError: it has another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise ValueError(
                f"{self.num_classes} classes cannot be merged with {other.num_classes}"
            )

        self.confusion += other.confusion
        self.calibration += other.calibration
        self._log_losses += other._log_losses
        self.alone += other.alone
        self.has_groups |= other.has_groups
        for name, counts in other.of_group.items():
            self._counts_of(name)[:] += counts

    def compute(self) -> dict[str, Any]:
        """Return the figures that `classification_figures` describes.

        Raises:
            ValueError: nothing was counted.
        """
        num_images = int(self.confusion.sum())
        num_correct = int(np.trace(self.confusion))
        if not num_images:
            raise ValueError("expected at least one image, got none")

        right, groups = self._answers(axis=0)
        calibration = self.calibration.errors()
        figures: dict[str, Any] = {
            "accuracy": num_correct / num_images,
            "accuracy_ci95": _share_interval(right, groups),
            "loss": float(np.concatenate(self._log_losses).mean()) + 0.0,
            "balanced_accuracy": balanced_accuracy(self.confusion),
            "macro_f1": macro_f1(self.confusion),
            "expected_calibration_error": calibration.plain,
            "calibration_error": calibration.debiased,
            "calibration_error_if_perfect": calibration.if_perfect,
            "num_images": num_images,
            "num_correct": num_correct,
        }

        if self.num_classes > TOP5_ABOVE:
            in_top5, _ = self._answers(axis=1)
            figures["top5_accuracy"] = int(in_top5.sum()) / num_images
            figures["top5_accuracy_ci95"] = _share_interval(in_top5, groups)
        if groups is not None:
            found = clusters_of(right, groups, spread=0.25)
            figures |= {"num_groups": found.num_groups, "design_effect": found.design_effect}

        return figures

    def _counts_of(self, group: Hashable | None) -> NDArray[np.int64]:
        if group is None:
            return self.alone
        return self.of_group.setdefault(group, np.zeros((2, 2), np.int64))

    def _answers(self, axis: int) -> tuple[NDArray[np.bool_], NDArray[np.int64] | None]:
        """Return for each image whether it counts, and the number of its group.

        With axis 0 right answers count, with axis 1 those with the true class among the first five.

        The order of the images is lost, and so are the names of the groups; neither matters to an
        interval.
        """
        counts = np.stack([self.alone, *self.of_group.values()]).sum(2 - axis)  # (G, 2)
        answers = [np.arange(2).repeat(each).astype(bool) for each in counts]
        if not self.has_groups:
            return answers[0], None

        sizes = [len(each) for each in answers[1:]]
        singles = np.arange(len(answers[0]))
        numbers = len(singles) + np.arange(len(sizes)).repeat(sizes)
        return np.concatenate(answers), np.concatenate([singles, numbers])


def _share_interval(right: NDArray[np.bool_], groups: ArrayLike | None) -> list[float]:
    by_image = groups is None
    return list(
        wilson_interval(int(right.sum()), len(right))
        if by_image
        else clustered_interval(right, groups)
    )


def log_loss(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Return the mean negative log-likelihood (natural logarithm).

    Probabilities below 2.2e-16 count as that.
    """
    return float(_log_losses(*_checked(probabilities, targets)).mean()) + 0.0


def _log_losses(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    of_target = probabilities[np.arange(len(targets)), targets]
    # 1.0 needs no clipping, but float32 softmax may give 1.0000001, which must not count as a gain.
    return -np.log(np.clip(of_target, np.finfo(np.float64).eps, 1.0))


def target_ranks(probabilities: ArrayLike, targets: ArrayLike) -> NDArray[np.int64]:
    """Return for each image (N,) how many classes are preferred to the true one.

    It is 0 where the prediction is right.
    """
    probabilities, targets = _checked(probabilities, targets)
    of_target = probabilities[np.arange(len(targets)), targets][:, None]
    lower_class = np.arange(probabilities.shape[1]) < targets[:, None]
    return ((probabilities > of_target) | ((probabilities == of_target) & lower_class)).sum(1)


def confusion_matrix(
    predictions: ArrayLike, targets: ArrayLike, num_classes: int
) -> NDArray[np.int64]:
    """Return counts (K, K): the row is the true class, the column the predicted one.

    Raises:
        ValueError: lengths that differ, or classes outside 0..K-1.
    """
    predictions = _checked_classes(predictions, num_classes, "predictions")
    targets = _checked_classes(targets, num_classes, "targets")
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    cells = np.bincount(targets * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the mean recall of the classes that occur in the targets."""
    _, recall, _, support = _rates(confusion)
    return float(recall[support > 0].mean())


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Return the mean F1 of the classes that occur in the targets or in the predictions."""
    _, _, f1, support = _rates(confusion)
    occurs = (support > 0) | (confusion.sum(0) > 0)
    return float(f1[occurs].mean())


def per_class(confusion: NDArray[np.int64], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return name, precision, recall, F1 and support (true images) of each class.

    A rate is 0.0 where its denominator is zero.
    """
    rates = zip(class_names, *_rates(confusion), strict=True)
    return [
        {
            "name": str(name),
            "precision": float(p),
            "recall": float(r),
            "f1": float(f1),
            "support": int(support),
        }
        for name, p, r, f1, support in rates
    ]


def recall_intervals(
    right: ArrayLike, targets: ArrayLike, num_classes: int, groups: ArrayLike | None = None
) -> list[list[float]]:
    """Return the 95 % interval [low, high] of the recall of each class.

    `right` (N,) says which images of the classes `targets` (N,) are recognised.

    Wilson's; of images in `groups` (N,), that of clusters. [0, 1] for a class without images.
    """
    right, targets = np.asarray(right, dtype=bool), np.asarray(targets)
    numbers = None if groups is None else np.asarray(groups)

    intervals = []
    for k in range(num_classes):
        of_class = targets == k
        if not of_class.any():
            intervals.append([0.0, 1.0])
            continue
        intervals.append(
            _share_interval(right[of_class], None if numbers is None else numbers[of_class])
        )

    return intervals


def averages(confusion: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Return the averages of precision, recall and F1 over the classes, and the support.

    "macro" is the plain mean, "weighted" the mean by support.

    Classes that occur neither in the targets nor in the predictions are left out, as scikit-learn
    does.
    """
    *rates, support = _rates(confusion)
    occurs = (support > 0) | (confusion.sum(0) > 0)
    total = int(support.sum())

    found: dict[str, dict[str, float]] = {}
    for name, weights in (("macro", occurs.astype(float)), ("weighted", support.astype(float))):
        means = (float(np.average(rate, weights=weights)) for rate in rates)
        found[name] = {
            **dict(zip(("precision", "recall", "f1"), means, strict=True)),
            "support": total,
        }
    return found


REPORT_HEADER = ["split", "class", "precision", "recall", "f1", "support"]


def report_rows(
    split: str, classes: Sequence[Mapping[str, Any]], means: Mapping[str, Mapping[str, Any]]
) -> list[list[Any]]:
    """Return the rows of classification_report.csv: a row for each class, then the two averages.

    Args:
        split: the name of the split.
        classes: what `per_class` returned.
        means: what `averages` returned.
    """
    rows = [
        *classes,
        *({"name": f"{kind} average", **means[kind]} for kind in ("macro", "weighted")),
    ]
    return [
        [split, *(row[key] for key in ("name", "precision", "recall", "f1", "support"))]
        for row in rows
    ]


def most_confused(
    confusion: NDArray[np.int64], class_names: Sequence[str], k: int = 10
) -> list[dict[str, Any]]:
    """Return the `k` most frequent mistakes, the most frequent first; none of count 0.

    Each holds the names `target` and `prediction`, the `count`, and its `share` of the target
    class's images. Of equal counts the larger share comes first, then the order of the classes.
    """
    support = confusion.sum(1)
    mistakes = [
        (
            int(confusion[target, prediction]),
            float(confusion[target, prediction] / support[target]),
            target,
            prediction,
        )
        for target, prediction in np.argwhere(confusion > 0).tolist()
        if target != prediction
    ]
    mistakes.sort(key=lambda mistake: (-mistake[0], -mistake[1], mistake[2], mistake[3]))

    return [
        {
            "target": str(class_names[t]),
            "prediction": str(class_names[p]),
            "count": count,
            "share": share,
        }
        for count, share, t, p in mistakes[:k]
    ]


def reliability_bins(
    probabilities: ArrayLike,
    targets: ArrayLike,
    num_bins: int | None = None,
    groups: ArrayLike | None = None,
) -> list[dict[str, Any]]:
    """Return how often predictions of each confidence are right.

    Bins hold equal counts, the least confident first.

    Bins of equal width would put nearly all images of a good model into the last one. Each bin
    holds the ends of its confidences, `low` and `high`, its `count`, and the means `confidence` and
    `accuracy`. Confidence is the probability of the predicted class. Without `num_bins` there are 3
    to 10, of at least 25 images each where there are as many. Of images in `groups` (N,) each bin
    also has the interval of clusters, `accuracy_ci95`.

    Source: Nguyen and O'Connor, "Posterior calibration and exploratory analysis for NLP models"
    (2015).
    """
    probabilities, targets = _checked(probabilities, targets)
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == targets
    numbers = None if groups is None else np.asarray(groups)

    wanted = num_bins or min(MOST_BINS, max(FEWEST_BINS, len(targets) // IMAGES_IN_BIN))
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, wanted) if len(part)]

    return [
        {
            "low": float(confidence[part[0]]),
            "high": float(confidence[part[-1]]),
            "count": len(part),
            "confidence": float(confidence[part].mean()),
            "accuracy": float(right[part].mean()),
            **(
                {}
                if numbers is None
                else {"accuracy_ci95": _share_interval(right[part], numbers[part])}
            ),
        }
        for part in parts
    ]


def expected_calibration_error(
    probabilities: ArrayLike, targets: ArrayLike, num_bins: int = 15
) -> float:
    """Return the mean distance of confidence and accuracy over the bins.

    Bins are weighted by count (Guo et al., 2017).
    """
    probabilities, targets = _checked(probabilities, targets)
    return calibration_errors(
        probabilities.max(1), probabilities.argmax(1) == targets, num_bins
    ).plain


@dataclass(frozen=True)
class CalibrationErrors:
    """The expected calibration error in three readings.

    As it is defined, debiased, and as a perfectly calibrated model would read it.
    """

    plain: float
    debiased: float
    if_perfect: float


def calibration_errors(
    confidence: ArrayLike, right: ArrayLike, num_bins: int = 15
) -> CalibrationErrors:
    """Return the calibration errors of answers.

    `confidence` (N,) is that of each answer, `right` (N,) whether it is right.

    Few answers in a bin are never right just as often as their confidence says, so that the plain
    figure is too large: a perfectly calibrated model reads 0.16 at 50 images. With its bins'
    deviations all scaled by one factor, the debiased figure is the error of which a sample as large
    as this one would, on average, read as high as this one does; 0 where a perfectly calibrated
    model would read as much. In a bin of n answers of mean confidence c, the deviation that is read
    is taken as normal, of variance c (1 - c) / n.

    Source: Kumar et al., "Verified uncertainty calibration" (2019), and Roelofs et al., "Mitigating
    bias in calibration error estimation" (2022), on the bias; theirs is subtracted once, which
    leaves half of it where calibration is good.
    """
    return CalibrationBins.of(confidence, right, num_bins).errors()


@dataclass(frozen=True)
class CalibrationBins:
    """What the calibration error follows from, summed for each bin of confidence (B,).

    Sums of parts may be added: how many answers there are, their confidences c, how many are
    right, and c (1 - c).
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.int64]
    variance: NDArray[np.float64]

    @classmethod
    def of(cls, confidence: ArrayLike, right: ArrayLike, num_bins: int = 15) -> CalibrationBins:
        """Return the sums for answers of `confidence` (N,), `right` (N,) or not."""
        confidence = np.asarray(confidence, dtype=np.float64)
        edges = np.linspace(0, 1, num_bins + 1)  # bins are (low, high]
        bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)

        def summed(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.bincount(bin_of, weights=values, minlength=num_bins).astype(np.float64)

        return cls(
            np.bincount(bin_of, minlength=num_bins),
            summed(confidence),
            np.bincount(bin_of[np.asarray(right, dtype=bool)], minlength=num_bins),
            summed(confidence * (1 - confidence)),
        )

    @classmethod
    def empty(cls) -> CalibrationBins:
        return cls.of([], [])

    def __add__(self, other: CalibrationBins) -> CalibrationBins:
        return CalibrationBins(
            self.count + other.count,
            self.confidence + other.confidence,
            self.right + other.right,
            self.variance + other.variance,
        )

    def errors(self) -> CalibrationErrors:
        """Return the calibration errors, see `calibration_errors`."""
        filled = self.count > 0
        num, share = self.count[filled], self.count[filled] / self.count.sum()
        deviation = np.abs(self.confidence[filled] / num - self.right[filled] / num)
        by_chance = np.sqrt(np.maximum(self.variance[filled] / num, 0) / num)

        def reading(factor: float) -> float:
            return float((share * _mean_distance(factor * deviation, by_chance)).sum())

        plain, if_perfect = float((share * deviation).sum()), reading(0.0)
        if plain <= if_perfect:
            return CalibrationErrors(plain, 0.0, if_perfect)

        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if reading(middle) < plain else (low, middle)
        return CalibrationErrors(plain, low * plain, if_perfect)


def _mean_distance(
    mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of |X| for normal X (the folded normal distribution)."""
    spread = np.maximum(deviation, 1e-12)
    z = mean / spread
    return spread * math.sqrt(2 / math.pi) * np.exp(-z * z / 2) + mean * (
        1 - 2 * scipy.special.ndtr(-z)
    )


def _rates(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return precision, recall, F1 and support of each class (K,)."""
    right, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision = right / np.maximum(predicted, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    return precision, recall, f1, support


def _checked(
    probabilities: ArrayLike, targets: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[0] == 0 or probabilities.shape[1] == 0:
        raise ValueError(
            f"expected probabilities (N, K) of at least one image, got shape {probabilities.shape}"
        )

    targets = _checked_classes(targets, probabilities.shape[1], "targets")
    if len(targets) != len(probabilities):
        raise ValueError(f"{len(probabilities)} rows of probabilities for {len(targets)} targets")
    # The tolerance lets half precision pass and stops logits.
    if not (probabilities.min() >= 0 and np.abs(probabilities.sum(1) - 1).max() < 0.02):
        raise ValueError(
            "expected finite probabilities of 0 or more whose "
            "rows sum to one (logits need a softmax)"
        )

    return probabilities, targets


def _checked_classes(classes: ArrayLike, num_classes: int, what: str) -> NDArray[np.int64]:
    classes = np.asarray(classes)
    if classes.ndim != 1 or (classes.size and not np.issubdtype(classes.dtype, np.integer)):
        raise ValueError(
            f"expected {what} (N,) of integers, got shape {classes.shape} of {classes.dtype}"
        )
    if classes.size and not (classes.min() >= 0 and classes.max() < num_classes):
        raise ValueError(
            f"{what} must lie in 0..{num_classes - 1}, got {classes.min()}..{classes.max()}"
        )
    return classes.astype(np.int64)
