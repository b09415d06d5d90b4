"""How often tintype's intervals hold the truth, and its promises are kept, in simulations whose truth is known.

python benchmarks/coverage.py [effects] [thresholds] [calibration] [selection] [groups] [verdicts] [means]
[sample] [folds] [--tries 10000]

A short form of each stands in tests/.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from tintype.statistics import (
    block_error,
    clustered_interval,
    clustered_mean_interval,
    clustered_pair,
    folds_interval,
    mean_interval,
    newcombe_interval,
    wilson_interval,
)
from tintype.tasks.classify.calibration import abstain_threshold, fit_temperature
from tintype.tasks.classify.metrics import calibration_errors
from tintype.tasks.classify.verdict import ClassCounts, fit_verdict, is_settled
from tintype.tasks.folds import nested_of_features
from tintype.tasks.heads import stratified_folds
from tintype.tasks.linear_heads import LinearHead, Rows, discriminant


def effects(tries: int) -> None:
    """Effects in a study: coverage of the 95 % interval where the effect differs between the other
    factors' combinations.
    """
    print(
        "effects: levels, contexts, seeds, part of the variance that is between contexts: coverage"
    )
    draw = np.random.default_rng(0)
    for levels in (2, 3):
        for num_contexts in (2, 3, 4, 9):
            for seeds in (2, 3, 5):
                contexts = np.repeat(np.arange(num_contexts), seeds).tolist()
                found = []
                for part in (0.0, 0.05, 0.15, 0.4):
                    between = np.sqrt(part) * draw.normal(size=(tries, num_contexts, 1, levels))
                    within = np.sqrt(1 - part) * draw.normal(
                        size=(tries, num_contexts, seeds, levels)
                    )
                    hits = [
                        _holds_zero(each, contexts)
                        for each in (between + within).reshape(tries, -1, levels)
                    ]
                    found.append(f"{part:.0%} {100 * np.mean(hits):.1f}")
                print(
                    f"  {levels} levels, {num_contexts} contexts, {seeds} seeds: {', '.join(found)}"
                )


def _holds_zero(values: np.ndarray, contexts: list[int]) -> bool:
    error = block_error(values, contexts)
    assert error is not None
    low, high = error.interval(float(values[:, 1].mean() - values[:, 0].mean()))
    return low <= 0 <= high


def thresholds(tries: int) -> None:
    """Thresholds for abstaining: how often the true accuracy of the answers is below the one that
    was promised.
    """
    print(
        "thresholds: images, wish: broken where confidence tells nothing; broken, given, answered where it does"
    )
    draw = np.random.default_rng(0)
    for n in (60, 200, 1000, 5000):
        for wish in (0.8, 0.9, 0.95, 0.99):
            ramp = np.linspace(1, 0.5, n)
            flat = [
                abstain_threshold(ramp, draw.random(n) < wish - 1e-3, wish) is not None
                for _ in range(tries // 5)
            ]
            print(
                f"  {n:,} images, {wish:.0%}: {100 * np.mean(flat):.1f} %; {_telling(draw, n, wish, tries // 20)}"
            )


def _telling(draw: np.random.Generator, n: int, wish: float, tries: int) -> str:
    """Simulate a confidence c that follows Beta(4, 1), of which answers are right with probability
    0.3 + 0.7 c.
    """
    sure = np.sort(draw.beta(4, 1, 100_000))[::-1]
    truth = np.cumsum(0.3 + 0.7 * sure) / np.arange(1, len(sure) + 1)
    broken, answered = [], []
    for _ in range(tries):
        confidence = draw.choice(sure, n)
        threshold = abstain_threshold(confidence, draw.random(n) < 0.3 + 0.7 * confidence, wish)
        last = 0 if threshold is None else int(np.searchsorted(-sure, -threshold, side="right"))
        broken.append(last > 0 and truth[last - 1] < wish)
        answered.append(last / len(sure))
    given = np.mean(np.array(answered) > 0)
    return f"{100 * np.mean(broken):.1f} %, {100 * given:.0f} %, {100 * np.mean(answered):.0f} %"


def calibration(tries: int) -> None:
    """Calibration errors: the means of the plain and of the debiased reading, where the true error
    is known.
    """
    print("calibration: images, true error: plain, if perfect, debiased")
    draw = np.random.default_rng(0)
    for n in (50, 359, 1000, 10_000):
        for error in (0.0, 0.05, 0.1):
            found = []
            for _ in range(tries // 50):
                confidence = 0.1 + 0.9 * draw.beta(4, 1, n)
                found.append(calibration_errors(confidence, draw.random(n) < confidence - error))
            means = [
                np.mean([getattr(each, key) for each in found])
                for key in ("plain", "if_perfect", "debiased")
            ]
            print(f"  {n:,} images, {error:.2f}: {', '.join(f'{mean:.3f}' for mean in means)}")


def selection(tries: int) -> None:
    """Best weights that are chosen on the images that calibrate, against halves and all images untouched.

    Thirty evaluations are equally good in truth, so that the best of them is luck; a third of the
    answers differ between any two. The network is overconfident: its logits are 1.5 times too
    large.
    """
    print(
        "selection: images, how validation is used: thresholds broken, answers above them; "
        "true calibration error, confidence above accuracy"
    )
    draw = np.random.default_rng(0)
    for n in (60, 200, 500, 2000):
        for how in ("all for both", "halves", "untouched"):
            found = [_chosen_and_calibrated(draw, n, how) for _ in range(tries // 20)]
            broken, answered, error, excess = np.mean(found, axis=0)
            print(
                f"  {n:,} images, {how}: {100 * broken:.1f} %, {100 * answered:.0f} %; "
                f"{100 * error:.2f}, {100 * excess:+.2f} points"
            )


def _chosen_and_calibrated(
    draw: np.random.Generator, n: int, how: str, num_evaluations: int = 30, wish: float = 0.9
) -> tuple[bool, float, float, float]:
    """Simulate one run; return whether its promise of 90 % is broken, the share it answers, and how
    far its confidence lies from the truth.

    Images have two classes: an answer of logit z is right with probability sigmoid(z / 1.5).
    """
    logits = draw.gamma(2.0, 1.5, n)
    chance = 1 / (1 + np.exp(-logits / 1.5))
    usual, fresh = draw.random(n), draw.random((num_evaluations, n))
    right = np.where(draw.random((num_evaluations, n)) < 1 / 3, fresh, usual) < chance

    selecting, calibrating = {
        "all for both": (slice(None), slice(None)),
        "halves": (slice(0, n // 2), slice(n // 2, None)),
        "untouched": (slice(0, 0), slice(None)),
    }[how]
    best = int(right[:, selecting].sum(1).argmax())
    z, kept = logits[calibrating], right[best, calibrating]

    temperature = fit_temperature(np.stack([z, 0 * z], axis=1), np.where(kept, 0, 1)).value
    everything = np.sort(draw.gamma(2.0, 1.5, 20_000))[::-1]
    truth = 1 / (1 + np.exp(-everything / 1.5))
    off = 1 / (1 + np.exp(-everything / temperature)) - truth

    threshold = abstain_threshold(z, kept, wish)
    last = 0 if threshold is None else int(np.searchsorted(-everything, -threshold, side="right"))
    broken = last > 0 and bool(truth[:last].mean() < wish)
    return broken, last / len(everything), float(np.abs(off).mean()), float(off.mean())


def groups(tries: int) -> None:
    """Images in groups: coverage of the interval of an accuracy, of images as if alone and by
    group, and of a difference.
    """
    print(
        "groups: share right, groups x size, correlation: as if alone, by group, difference by group"
    )
    draw = np.random.default_rng(0)
    for share in (0.7, 0.8, 0.9):
        for num_groups, size in ((40, 5), (100, 3), (100, 5)):
            numbers = np.arange(num_groups).repeat(size)
            for alike in (0.2, 0.5, 0.8):
                strength = 1 / alike - 1
                own = draw.beta(
                    share * strength, (1 - share) * strength, (2, tries // 5, num_groups, 1)
                )
                right = (draw.random((*own.shape[:3], size)) < own).reshape(2, tries // 5, -1)
                alone = [wilson_interval(int(each.sum()), len(each)) for each in right[0]]
                clustered = [clustered_interval(each, numbers) for each in right[0]]
                pairs = [
                    clustered_pair(a & ~b, b & ~a, numbers)[0] for a, b in zip(*right, strict=True)
                ]
                found = [
                    f"{100 * np.mean([low <= truth <= high for low, high in ends]):.1f}"
                    for ends, truth in ((alone, share), (clustered, share), (pairs, 0.0))
                ]
                print(f"  {share:.0%}, {num_groups} x {size}, {alike}: {', '.join(found)}")


def verdicts(tries: int) -> None:
    """The verdict on images in groups: coverage of the gap's interval, as if alone and by group,
    and of a balanced accuracy.
    """
    print(
        "verdicts: groups x size, correlation: gap as if alone, gap by group, balanced accuracy by group"
    )
    draw = np.random.default_rng(0)
    for num_groups, size in ((40, 5), (100, 3), (100, 5)):
        numbers = [np.arange(part * num_groups).repeat(size) for part in (2, 1)]
        targets = np.array([0, 1, 2, 0, 0])[numbers[0] % 5]
        for alike in (0.2, 0.5, 0.8):
            hits = []
            for _ in range(tries // 5):
                train, val = (
                    _alike(draw, share, each, alike)
                    for share, each in zip((0.95, 0.8), numbers, strict=True)
                )
                sides = [
                    ClassCounts.of(right, targets[: len(right)], 3, each)
                    for right, each in zip((train, val), numbers, strict=True)
                ]
                counts = int(train.sum()), len(train), int(val.sum()), len(val)
                by_group = newcombe_interval(
                    *counts, clusters1=sides[0].clusters, clusters2=sides[1].clusters
                )
                balanced = sides[1].mean_recall()[1:]
                ends = (newcombe_interval(*counts), 0.15), (by_group, 0.15), (balanced, 0.8)
                hits.append([low <= truth <= high for (low, high), truth in ends])
            found = ", ".join(f"{100 * share:.1f}" for share in np.mean(hits, axis=0))
            print(f"  {num_groups} x {size}, {alike}: {found}")


def _alike(
    draw: np.random.Generator, share: float, numbers: np.ndarray, alike: float
) -> np.ndarray:
    """Return (N,) of right or wrong, with the correlation `alike` in a group (beta-binomial)."""
    strength = 1 / alike - 1
    own = draw.beta(share * strength, (1 - share) * strength, int(numbers.max()) + 1)
    return draw.random(len(numbers)) < own[numbers]


def means(tries: int) -> None:
    """Means over groups, as of PSNR over crops of photos: coverage of Student's interval, as if
    alone and by group.
    """
    print("means: groups x size, correlation: as if alone, by group")
    draw = np.random.default_rng(0)
    for num_groups, size in ((10, 4), (40, 5), (100, 3), (100, 5)):
        numbers = np.arange(num_groups).repeat(size)
        for alike in (0.2, 0.5, 0.8):
            hits = []
            for _ in range(tries):
                own = draw.normal(size=num_groups)[numbers]
                values = np.sqrt(alike) * own + np.sqrt(1 - alike) * draw.normal(size=len(numbers))
                ends = mean_interval(values), clustered_mean_interval(values, numbers)
                hits.append([each is not None and each[0] <= 0 <= each[1] for each in ends])
            found = ", ".join(f"{100 * share:.1f}" for share in np.mean(hits, axis=0))
            print(f"  {num_groups} x {size}, {alike}: {found}")


def sample(tries: int) -> None:
    """The verdict on 2,000 training images where that is settled: how often 10,000 would settle it,
    too, and how often they would give another word. Beside it, 2,000 in any case.
    """
    print("sample: classes, validation images: settled by 2,000, then another word; always 2,000")
    draw = np.random.default_rng(0)
    few, many = 2_000, 10_000
    for num_classes, num_val in ((2, 2000), (10, 500), (10, 2000), (10, 5000), (100, 2000)):
        settled, other, others = [], [], []
        for _ in range(tries // 5):
            easy = draw.normal(size=num_classes)  # some classes are easier than others
            strength, gap = draw.uniform(0.5, 5), draw.choice([0, 0.5, 1.0, 1.5])
            recall = 1 / (1 + np.exp(-strength - 0.5 * easy))
            recalled = 1 / (1 + np.exp(-strength + gap - 0.5 * easy))

            targets = draw.integers(0, num_classes, many)
            right = draw.random(many) < recall[targets]
            val_targets = draw.integers(0, num_classes, num_val)
            val_right = draw.random(num_val) < recalled[val_targets]
            val = ClassCounts.of(val_right, val_targets, num_classes)
            parts = [ClassCounts.of(right[:n], targets[:n], num_classes) for n in (few, many)]

            words = [_word(each, val) for each in parts]
            others.append(words[0] != words[1])
            settled.append(is_settled(parts[0], val, many))
            if settled[-1]:
                other.append(others[-1])
        shares = np.mean(settled), np.mean(other), np.mean(others)
        found = ", ".join(f"{100 * share:.2f}" for share in shares)
        print(f"  {num_classes}, {num_val}: {found} %")


def _word(train: ClassCounts, val: ClassCounts) -> str:
    num_classes = len(val.num_images)
    return fit_verdict(
        int(train.num_right.sum()),
        int(train.num_images.sum()),
        int(val.num_right.sum()),
        int(val.num_images.sum()),
        num_classes,
        train_classes=train,
        val_classes=val,
        class_names=[str(k) for k in range(num_classes)],
    ).word


def folds(tries: int) -> None:
    """Accuracies by folds: how often the naive and the widened interval hold the accuracy of the
    model that was trained on all images.

    Heads are shrunk discriminants; a fiftieth of the tries is made.
    """
    print(
        "folds: images, features, classes: accuracy; coverage of the naive interval, widened; width"
    )
    draw = np.random.default_rng(0)
    num_tries = max(20, tries // 50)
    for num_images, num_features, num_classes, apart, num_folds in (
        (100, 20, 2, 2.0, 5),
        (200, 50, 2, 2.0, 5),
        (200, 20, 5, 3.0, 5),
        (400, 100, 5, 3.0, 5),
        (400, 100, 2, 1.0, 10),
    ):
        centres = draw.normal(size=(num_classes, num_features)) * apart / np.sqrt(num_features)

        def images(count: int, centres: np.ndarray = centres) -> tuple[np.ndarray, np.ndarray]:
            targets = draw.integers(len(centres), size=count)
            return centres[targets] + draw.normal(size=(count, centres.shape[1])), targets

        found = [
            _folds_hold(*images(num_images), *images(20_000), num_folds) for _ in range(num_tries)
        ]
        name = f"{num_images} images, {num_features} features, {num_classes} classes"
        print(f"  {name}, {num_folds} folds: {_in_short(found)}", flush=True)

    digits: Any = load_digits()
    found = []
    for _ in range(num_tries):
        order = draw.permutation(len(digits.target))
        some, others = order[:200], order[200:]
        x, y = digits.data, digits.target
        found.append(_folds_hold(x[some], y[some], x[others], y[others], 5))
    print(f"  200 digits, 5 folds: {_in_short(found)}", flush=True)


def _in_short(found: list[tuple[float, bool, bool, float]]) -> str:
    accuracy, naive, widened, width = np.mean(found, axis=0)
    return f"{accuracy:.1%}; {naive:.1%}, {widened:.1%}; {width:.2f}"


def _folds_hold(
    features: np.ndarray,
    targets: np.ndarray,
    others: np.ndarray,
    their_targets: np.ndarray,
    num_folds: int,
) -> tuple[float, bool, bool, float]:
    """Return the true accuracy, whether either interval holds it, and how much wider one is."""
    num_classes = int(max(targets.max(), their_targets.max())) + 1

    def head(rows: np.ndarray) -> LinearHead:
        return discriminant(Rows(features[rows], targets[rows], num_classes))

    everything = np.ones(len(targets), bool)
    truth = float((head(everything).logits(others).argmax(1) == their_targets).mean())
    fold_of = stratified_folds(targets, None, num_folds, 0)
    right = np.zeros(len(targets), bool)
    for each in np.unique(fold_of):
        out = fold_of == each
        right[out] = head(~out).logits(features[out]).argmax(1) == targets[out]

    nested = nested_of_features(features, targets, num_classes, num_folds)
    naive, widened = folds_interval(right), folds_interval(right, None, nested)
    width = (widened[1] - widened[0]) / (naive[1] - naive[0])
    return truth, naive[0] <= truth <= naive[1], widened[0] <= truth <= widened[1], width


SIMULATIONS: dict[str, Callable[[int], None]] = {
    "effects": effects,
    "thresholds": thresholds,
    "calibration": calibration,
    "selection": selection,
    "groups": groups,
    "verdicts": verdicts,
    "means": means,
    "sample": sample,
    "folds": folds,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", nargs="*", choices=[*SIMULATIONS, []], help="by default all")
    parser.add_argument("--tries", type=int, default=10_000)
    options = parser.parse_args()
    for name in options.which or SIMULATIONS:
        SIMULATIONS[name](options.tries)


if __name__ == "__main__":
    main()
