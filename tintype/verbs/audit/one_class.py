"""Checks for data with one class an image: missing or small classes, and doubtful labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tintype.verbs.audit.files import Inspected
from tintype.verbs.audit.findings import Finding, Item, given_split, item
from tintype.verbs.audit.labels import LabelIssues

IMBALANCE = 10  # images of the largest class for one of the smallest
FEW = 10  # images of a class
# accuracy of a classifier below which most of the labels that it doubts may be correct
UNSURE = 0.9
WEAK = 0.5  # accuracy below which a classifier says nothing of labels


def class_findings(inspected: Inspected) -> list[Finding]:
    """Return classes that cannot be learned or measured, that are small, or that another one
    outweighs.
    """
    names = inspected.target.names
    counts = np.bincount(inspected.targets, minlength=len(names))
    for_training = np.isin(given_split(inspected), ("train", ""))
    learnable = np.bincount(inspected.targets[for_training], minlength=len(names))

    def finding(kind: str, title: str, text: str, serious: bool, which: Sequence[int]) -> Finding:
        items = tuple(Item((names[c],), f"{counts[c]:,} images") for c in which)
        return Finding(kind, title, text, serious, items)

    def where(mask: np.ndarray) -> list[int]:
        return np.flatnonzero(mask).tolist()

    alone = where(counts) if (counts > 0).sum() < 2 else []
    found = [
        finding("one class", "One class only", "There is nothing to tell apart.", True, alone),
        finding(
            "no image",
            "Classes without an image that can be read",
            "They are left out.",
            True,
            where(counts == 0),
        ),
        finding(
            "not in training",
            "Classes without a training image",
            "No model can learn them.",
            True,
            where((learnable == 0) & (counts > 0)),
        ),
        finding(
            "single",
            "Classes with one image",
            "Training and test need one each.",
            True,
            where((counts == 1) & (learnable > 0)),
        ),
        finding(
            "few",
            "Classes with few images",
            f"Fewer than {FEW}: their figures will be mostly chance.",
            False,
            where((counts > 1) & (counts < FEW)),
        ),
    ]

    present = counts[counts > 0]
    if len(present) > 1 and present.max() >= IMBALANCE * present.min():
        order = [c for c in np.argsort(counts, kind="stable").tolist() if counts[c]]
        text = (
            f"The largest class has {present.max() / present.min():.0f} times the images of the "
            "smallest. Accuracy alone will hide the small ones: look at the balanced accuracy, and "
            "train with class weights."
        )
        ends = [order[-1], order[0]]
        found.append(finding("imbalance", "Classes of very different size", text, False, ends))
    return [each for each in found if each.items]


def label_findings(
    inspected: Inspected, issues: LabelIssues | None, own_features: bool
) -> list[Finding]:
    """Return the images whose label looks wrong, or why none was judged."""
    if issues is None:
        return []
    if issues.accuracy < WEAK:
        text = (
            f"The features tell the classes too badly: {issues.accuracy:.0%} of the images are "
            "recognised out of sample."
        )
        if not own_features:
            text += " Features of a trained network (Python: features=...) would say more."
        return [Finding("labels not judged", "Labels were not judged", text)]

    doubts = zip(
        issues.rows,
        issues.suggested,
        issues.given_probability,
        issues.suggested_probability,
        strict=True,
    )
    items = tuple(
        item(inspected, (int(i),), _doubt(inspected, int(i), int(other), given, suggested))
        for i, other, given, suggested in doubts
    )
    if not items:
        return []

    text = (
        "Judged by a classifier that had not seen them; it is right for "
        f"{issues.accuracy:.0%} of all images. Confident learning (Northcutt et al. 2021), the "
        "most doubtful first; expect hard pictures among them, and look before you change a label."
    )
    if issues.accuracy < UNSURE:
        text = (
            "Most of these labels may be correct: the classifier is itself wrong about "
            f"{1 - issues.accuracy:.0%}. {text}"
        )
    return [Finding("labels", "Labels that look wrong", text, items=items)]


def _doubt(inspected: Inspected, i: int, other: int, given_share: float, other_share: float) -> str:
    names = inspected.target.names
    given, looks_like = names[inspected.targets[i]], names[other]
    return (
        f"labelled {given} ({100 * given_share:.0f} %), "
        f"looks like {looks_like} ({100 * other_share:.0f} %)"
    )
