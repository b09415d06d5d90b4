"""Classifiers on the same test images: exact McNemar, score intervals, a bootstrap for macro F1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype import statistics
from tintype.pages import words
from tintype.runs.folder import BY_VALIDATION, without_test
from tintype.tasks.classify.metrics import calibration_errors
from tintype.tasks.classify.ranking import ACCURACY, LOSS
from tintype.tasks.contract.compare import (
    CLAIM,
    Column,
    Group,
    HistoryCurve,
    Pair,
    PairColumn,
    Progress,
    Ranked,
    Row,
    conclude,
    correct,
    figure_column,
    listed,
    more_needed,
)
from tintype.tasks.contract.compared_run import (
    Compared,
    groups_of,
    remark_on_folds,
    remark_on_groups,
)
from tintype.tasks.contract.paired import across_folds, folds_column, gathered

COLUMNS = ("target", "prediction", "confidence")
NUMBERS = ("confidence",)
APART = "different data"
PAIRED = (
    "Each run compared with {best} on the same images: how many points of accuracy it is behind, "
    "with the 95 % score interval for paired proportions (Tango), "
    "and the p-value of the exact McNemar test"
)
METHOD = (
    "Runs are ranked by accuracy. Differences are paired: they come from the images on which two "
    "runs differ. A difference is called significant if p < 0.05 after Holm's correction for all "
    "pairs. The number of further images is what McNemar's test would need to detect a difference "
    "of the observed size with a power of 80 % (Connor 1987)."
)
HISTORY_AXIS = "epoch"
MANY = 5000  # images that deserve a second decimal

RESAMPLES = 1000
SPLIT_WORDS = {"test": "test", "val": "validation", "folds": "out-of-fold"}


def groups(runs: Sequence[Compared]) -> list[Group]:
    """Return the runs in groups that share their test images, ranked by accuracy.

    Each group holds all paired differences.

    Raises:
        UserError: a run has no predictions.
    """
    return [_group(members) for members in grouped(runs)]


def grouped(runs: Sequence[Compared]) -> list[list[Compared]]:
    """Put runs together that were measured on the same images, and their images into one order."""
    groups = gathered(runs, same_images)
    for first, *others in groups:
        for run in others:
            if run.table["name"] != first.table["name"]:
                run.reorder(_order_of(first, run))
    return groups


def same_images(one: Compared, other: Compared) -> bool:
    """Return whether two runs were measured on the same images.

    Where both see images in the same way, the digests of the pixels say so, whatever the images are
    called and wherever they are. Otherwise names and labels have to be the same, and either the
    data's fingerprint is too, or the images came from the same place and the fingerprints differ
    for a reason that leaves the images what they are: another size, or another division of the rest
    (which runs without digests may have). Images that were replaced have no such reason.
    """
    if one.input_format == other.input_format and one.photos and other.photos:
        return sorted(_answered(one)) == sorted(_answered(other))
    if _images(one) != _images(other):
        return False
    if one.data.get("fingerprint") == other.data.get("fingerprint"):
        return True
    return one.where == other.where and (
        one.input_format != other.input_format or one.members != other.members
    )


def _answered(run: Compared) -> list[tuple[bytes, str]]:
    """Return digest and label of each image."""
    return list(zip(run.photos, run.table["target"], strict=True))


def _order_of(one: Compared, other: Compared) -> list[int]:
    """Return which image of `other` is each image of `one`; equal photos are in any order."""
    place: dict[tuple[bytes, str], list[int]] = {}
    for i, image in enumerate(_answered(other)):
        place.setdefault(image, []).append(i)
    return [place[image].pop() for image in _answered(one)]


def _images(run: Compared) -> str:
    digest = hashlib.blake2b()
    for column in ("name", "target"):
        digest.update("\0".join(run.table[column]).encode("utf-8", "surrogatepass") + b"\1")
    return digest.hexdigest()


def _group(runs: list[Compared]) -> Group:
    runs = sorted(runs, key=lambda run: (-run.figures["accuracy"], run.figures["loss"]))
    count, split = len(runs[0].table["name"]), SPLIT_WORDS[runs[0].split]
    title = f"{runs[0].data.get('name')}, {count:,} {split} images"
    group = Group(title, runs, [_row(run) for run in runs], details=_answers(runs))
    group.pairs = _pairs(runs, group.details, split)
    accuracy, (low, high) = runs[0].figures["accuracy"], runs[0].figures["accuracy_ci95"]
    called = "validation accuracy" if untested(runs) else "accuracy"
    if runs[0].split == "folds":
        called = "accuracy by folds"
    group.conclusion = conclude(
        group, f"the highest {called}, {100 * accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    )
    group.remarks = [
        *remark_on_folds(runs, "accuracy", "the exact McNemar test"),
        *_remarks(runs, split),
    ]
    if names := untested(runs):
        group.remarks.insert(
            0, f"{BY_VALIDATION[:1].upper()}{BY_VALIDATION[1:]}: {listed(names)} had no test part."
        )

    return group


def untested(runs: Sequence[Compared]) -> list[str]:
    """Return the names of the runs whose data had no test part, and no folds in its place."""
    if runs[0].split == "folds":
        return []
    return [run.name for run in runs if without_test(run.evaluation)]


def _row(run: Compared) -> dict[str, Any]:
    figures = run.figures
    row = {
        **run.facts,
        "num_images": figures["num_images"],
        "accuracy": figures["accuracy"],
        "accuracy_ci95": figures["accuracy_ci95"],
        "macro_f1": figures["macro_f1"],
        "loss": figures["loss"],
        "expected_calibration_error": figures["expected_calibration_error"],
        "calibration_error": _calibration_error(run),
        **run.latency,
    }

    clean = figures.get("without_leaked")
    if clean:
        row |= {
            "accuracy_without_leaked": clean["accuracy"],
            "accuracy_without_leaked_ci95": clean["accuracy_ci95"],
        }

    return row


def _calibration_error(run: Compared) -> float:
    """Return the debiased calibration error, from the predictions: runs of earlier versions have
    the plain one only.
    """
    right = np.array(run.table["prediction"]) == np.array(run.table["target"])
    return calibration_errors(np.array(run.table["confidence"], np.float64), right).debiased


def _answers(runs: Sequence[Compared]) -> dict[str, Any]:
    """Return the targets (N,), and of each run the predictions (N,), both as class numbers, and the
    log losses (N,).
    """
    names = [str(name) for name in runs[0].data["class_names"]]
    number = {name: k for k, name in enumerate(names)}

    def numbers(column: Sequence[str]) -> NDArray[np.int64]:
        return np.array([number.setdefault(name, len(number)) for name in column], np.int64)

    return {
        "class_names": names,
        "names": runs[0].table["name"],
        "groups": groups_of(runs),
        "targets": numbers(runs[0].table["target"]),
        "predictions": [numbers(run.table["prediction"]) for run in runs],
        "losses": [np.array(run.table["loss"], np.float64) for run in runs],
    }


def _pairs(runs: Sequence[Compared], answers: dict[str, Any], split: str) -> list[Pair]:
    targets = answers["targets"]
    right = [predictions == targets for predictions in answers["predictions"]]
    groups = answers["groups"]
    redrawn = resampled(targets, answers["predictions"], groups=groups) if len(runs) > 1 else {}

    pairs = []
    for a, b in combinations(range(len(runs)), 2):
        only_a, only_b = int((right[a] & ~right[b]).sum()), int((right[b] & ~right[a]).sum())
        intervals = {
            key: list(statistics.percentile_interval(values[a] - values[b]))
            for key, values in redrawn.items()
        }
        losses = answers["losses"][a] - answers["losses"][b]
        more = {
            "num_images": len(targets),
            "only_better": only_a,
            "only_other": only_b,
            "both": int((right[a] & right[b]).sum()),
            "neither": int((~right[a] & ~right[b]).sum()),
            "bootstrap_ci95": intervals["accuracy"],
            "macro_f1": runs[a].figures["macro_f1"] - runs[b].figures["macro_f1"],
            "macro_f1_ci95": intervals["macro_f1"],
            "loss": float(losses.mean()),
            "loss_ci95": statistics.mean_interval(losses)
            if groups is None
            else statistics.clustered_mean_interval(losses, groups),
        }
        if groups is None:
            interval = statistics.paired_interval(only_a, only_b, len(targets))
            p = statistics.mcnemar_p(only_a, only_b)
        else:
            interval, p = statistics.clustered_pair(
                right[a] & ~right[b], right[b] & ~right[a], groups
            )
            found = statistics.clusters_of(right[a].astype(float) - right[b], groups)
            more |= {"num_groups": found.num_groups, "design_effect": found.design_effect}
        if over_folds := across_folds(runs[a], runs[b], right[a].astype(float) - right[b]):
            more |= {"folds": over_folds, "p_images": p}
            p = max(p, over_folds["p"])
        pairs.append(
            Pair(
                runs[a].name, runs[b].name, "accuracy", (only_a - only_b) / len(targets),
                interval, p, more=more,
            )
        )  # fmt: skip

    correct(pairs)
    for pair in pairs:
        counts = pair.more["only_better"], pair.more["only_other"], pair.more["num_images"]
        # At the level that the smallest of so many p-values must reach.
        needed = None
        if not pair.shown:
            effect = pair.more.get("design_effect", 1.0)
            needed = statistics.more_cases_of_proportions(
                *counts, alpha=CLAIM / len(pairs), design_effect=effect
            )
        pair.more["more_images"] = needed
        pair.sentence = _sentence(pair, split)

    return pairs


def _sentence(pair: Pair, split: str) -> str:
    low, high = pair.ci95 or (float("nan"), float("nan"))
    size = f"{100 * pair.estimate:.1f} points ({100 * low:.1f} to {100 * high:.1f})"
    if pair.shown:
        return f"{pair.better} is better than {pair.other} by {size}"

    text = f"no difference can be shown between {pair.better} and {pair.other}"
    if not pair.more["only_better"] + pair.more["only_other"]:
        return f"{text}: they get the same {split} images right"
    if not pair.estimate:
        return (
            f"{text}: both get as many {split} images right ({100 * low:.1f} to {100 * high:.1f})"
        )

    return f"{text}: {size}{more_needed(pair.more['more_images'], f'{split} images')}"


def resampled(
    targets: NDArray[np.int64],
    predictions: Sequence[NDArray[np.int64]],
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, list[NDArray[np.float64]]]:
    """Return accuracy and macro F1 of each model on the same resamples of the images, each (R,).

    `targets` and each of `predictions` are (N,) class numbers. Macro F1 is the mean over the
    classes that occur among the targets or predictions of a resample, as scikit-learn takes it. Of
    images in `groups` (N,), numbers from 0 on, whole groups are drawn.
    """
    from scipy.sparse import csr_array

    n, num_classes = len(targets), 1 + int(max(targets.max(), *(p.max() for p in predictions)))

    def members(classes: NDArray[np.int64], kept: NDArray[np.bool_] | None = None) -> csr_array:
        rows = np.arange(n) if kept is None else np.flatnonzero(kept)
        return csr_array((np.ones(len(rows)), (classes[rows], rows)), shape=(num_classes, n))

    of_target = members(targets)
    of_prediction = [members(p) for p in predictions]
    of_both = [members(p, p == targets) for p in predictions]
    accuracy: list[list[NDArray[np.float64]]] = [[] for _ in predictions]
    macro_f1: list[list[NDArray[np.float64]]] = [[] for _ in predictions]
    for block in statistics.bootstrap_counts(
        n if groups is None else int(groups.max()) + 1, resamples, seed
    ):
        counts = (block if groups is None else block[:, groups]).T.astype(np.float64)  # (N, R)
        wanted = of_target @ counts  # (K, R)
        for i in range(len(predictions)):
            hit, said = of_both[i] @ counts, of_prediction[i] @ counts
            accuracy[i].append(hit.sum(0) / counts.sum(0))
            total = wanted + said
            macro_f1[i].append(
                (2 * hit / np.maximum(total, 1)).sum(0) / np.maximum((total > 0).sum(0), 1)
            )
    return {
        "accuracy": [np.concatenate(parts) for parts in accuracy],
        "macro_f1": [np.concatenate(parts) for parts in macro_f1],
    }


def _remarks(runs: Sequence[Compared], split: str) -> list[str]:
    """Return what a reader must know of how comparable the figures are."""
    first, remarks = runs[0], []
    for run in runs[1:]:
        if run.data.get("fingerprint") == first.data.get("fingerprint"):
            continue
        if run.input_format != first.input_format:
            sizes = [f"{r.input_format[2]}x{r.input_format[1]}" for r in (run, first)]
            how = (
                f"at {sizes[0]} instead of {sizes[1]}"
                if sizes[0] != sizes[1]
                else "brought to size in another way"
            )
            remarks.append(f"{run.name} sees the same {split} images as {first.name}, {how}.")
        if run.members != first.members:
            remarks.append(
                f"{run.name} divides the other images into training and validation in another way."
            )

    remarks += remark_on_groups(groups_of(runs), "images")
    leaked = [run for run in runs if "without_leaked" in run.figures]
    if leaked:
        count = leaked[0].figures["num_images"] - leaked[0].figures["without_leaked"]["num_images"]
        remarks.append(
            f"{count:,} of the {split} images are duplicates of training images; "
            "the table has the accuracy without them, "
            "the differences between runs are taken on all."
        )

    if split == "validation" and len(untested(runs)) < len(runs):
        remarks.append(
            "Validation images took part in choosing epochs and temperature; "
            "test figures are the honest ones."
        )
    return remarks


# ---- tables and figures --------------------------------------------------------------------------


def figures(group: Group) -> list[Ranked]:
    """Return accuracy and log loss."""
    digits = 2 if group.rows[0]["num_images"] >= MANY else 1
    split = SPLIT_WORDS[group.runs[0].split].capitalize()
    return [
        Ranked(ACCURACY, f"{split} accuracy", lambda v: words.percent(v, digits), "accuracy_ci95"),
        Ranked(LOSS, f"{split} log loss", "{:.4f}".format),
    ]


def columns(group: Group) -> dict[str, Column]:
    """Return accuracy, macro F1, log loss and calibration error."""
    head = "validation accuracy % (95 %)" if untested(group.runs) else "accuracy % (95 %)"
    if group.runs[0].split == "folds":
        head = "accuracy by folds % (95 %)"
    return {
        "accuracy": Column(head, _accuracy("accuracy")),
        "accuracy_without_leaked": Column("without leaks", _accuracy("accuracy_without_leaked")),
        "macro_f1": figure_column("macro_f1", "macro F1", "{:.3f}".format),
        "loss": figure_column("loss", "log loss", "{:.4f}".format),
        "calibration_error": figure_column("calibration_error", "ECE", "{:.3f}".format),
    }


def _accuracy(key: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        if row.get(key) is None:
            return "–"
        digits = 2 if row["num_images"] >= MANY else 1
        low, high = row[f"{key}_ci95"]
        return f"{100 * row[key]:.{digits}f} ({100 * low:.{digits}f} to {100 * high:.{digits}f})"

    return text


def pair_columns(group: Group) -> list[PairColumn]:
    """Return the bootstrap interval, the images on which two runs differ, macro F1 and log loss."""
    return [
        PairColumn(
            "Bootstrap",
            lambda pair: pair.more["bootstrap_ci95"][0],
            lambda pair: words.short_interval(pair.more["bootstrap_ci95"]),
        ),
        _count("Only better right", "only_better"),
        _count("Only other right", "only_other"),
        PairColumn("Macro F1 (95 %)", lambda pair: pair.more["macro_f1"], _macro_f1),
        PairColumn("Log loss (95 %)", lambda pair: pair.more["loss"], _loss),
        *folds_column(group, words.points),
    ]


def _count(head: str, key: str) -> PairColumn:
    return PairColumn(head, lambda pair: pair.more[key], lambda pair: words.number(pair.more[key]))


def _macro_f1(pair: Pair) -> str:
    low, high = (words.points(bound) for bound in pair.more["macro_f1_ci95"])
    return f"{words.points(pair.more['macro_f1'])} ({low} to {high})"


def _loss(pair: Pair) -> str:
    interval = pair.more["loss_ci95"]
    within = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
    return f"{pair.more['loss']:+.3f}{within}"


def curves(group: Group) -> list[HistoryCurve]:
    """Return accuracy and loss on validation."""
    return [
        HistoryCurve("val_accuracy", "Validation accuracy", percent=True),
        HistoryCurve("val_loss", "Validation loss"),
    ]


def facts(run: Compared) -> dict[tuple[str, str], Any]:
    """Return the number of classes, and how targets are written."""
    names = run.data.get("class_names") or []
    targets = "integers" if names else None
    return {
        ("data", "classes"): f"{len(names):,}" if names else None,
        ("preprocessing", "targets"): "one-hot" if run.recipe.get("one_hot") else targets,
    }


def measure_costs(
    runs: Sequence[Compared], device: str, progress: Progress | None
) -> dict[str, Any]:
    """Measure how long each classifier takes for an answer, on this machine, now."""
    import torch

    from tintype.hardware.device import choose_device
    from tintype.tasks.classify.latency import measure_latency

    for number, run in enumerate(runs, 1):
        run.latency = measure_latency(run.folder, device)
        if progress:
            progress("measuring latency", number, len(runs))
    return {"device": str(choose_device(device)[0]), "threads": torch.get_num_threads()}
