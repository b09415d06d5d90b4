"""What validation is used for: some of its images choose among weights, others calibrate.

An image that helped to choose the weights is answered a little too well by them, so that a
temperature or a threshold fitted to it promises too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tintype.data.source import ImageSource
from tintype.data.split import three_splits
from tintype.hardware.device import Choice
from tintype.seeds import fold

NUM_FOLDS = 5

How = Literal["all", "halves", "out-of-fold"]


@dataclass(frozen=True)
class ValidationUse:
    """Which validation images choose among weights, and which calibrate.

    Attributes:
        how: "halves": each image does one of both. "out-of-fold": every image does both, but what
            calibrates is its answer by weights that were chosen without it. "all": every image
            does whatever is done.
        chose: what is chosen on validation, in words; empty where nothing is.
        num_images: of validation.
        calibrates: whether anything is calibrated.
        selecting: positions of the images that choose, or None for all.
        calibrating: positions of the images that calibrate, or None for all.
        folds: the fold of each image, where answers are out of fold.
        reason: why it is so.
        calibrated: what is calibrated, in words.
        fits: whether the weights are fitted to validation images as to those of training; whatever
            is measured on them is then out of fold.
    """

    how: How = "all"
    chose: tuple[str, ...] = ()
    num_images: int = 0
    calibrates: bool = False
    selecting: np.ndarray | None = None
    calibrating: np.ndarray | None = None
    folds: np.ndarray | None = None
    reason: str = ""
    calibrated: str = "the confidence"
    fits: bool = False

    @classmethod
    def fitted(cls, num_images: int, calibrates: bool) -> ValidationUse:
        """Return the use of images that weights are fitted to, and that measure out of fold."""
        why = "each is answered by a head that was fitted and chosen without it"
        return cls("out-of-fold", (), num_images, calibrates, reason=why, fits=True)

    def selecting_part(self, val: ImageSource) -> ImageSource:
        """Return the validation images on which training may choose."""
        return val if self.selecting is None else val.subset(self.selecting)

    @property
    def num_selecting(self) -> int:
        if not self.chose:
            return 0
        return self.num_images if self.selecting is None else len(self.selecting)

    @property
    def num_calibrating(self) -> int:
        if not self.calibrates:
            return 0
        return self.num_images if self.calibrating is None else len(self.calibrating)

    @property
    def text(self) -> str:
        """One sentence that says what validation was used for; empty where it only measured."""
        chosen = f"{self.num_selecting:,} chose {' and '.join(self.chose)}"
        everything = f"All {self.num_images:,} validation images"
        calibrated = f"calibrated {self.calibrated}"

        if self.fits:
            return (
                f"{everything} helped to fit and to choose the head, as those of training did. All "
                f"figures on them are out of fold: {self.reason} ({NUM_FOLDS} folds)."
            )
        if self.how == "halves":
            return (
                f"Of {self.num_images:,} validation images, {chosen}, and the other "
                f"{self.num_calibrating:,} {calibrated}."
            )
        if self.how == "out-of-fold":
            return (
                f"{everything} chose {' and '.join(self.chose)}; each {calibrated} by the answer "
                f"that was chosen without it ({NUM_FOLDS} folds)."
            )
        if self.chose and self.calibrates:
            return (
                f"{everything} both chose {' and '.join(self.chose)} and {calibrated} "
                f"({self.reason}), so it may promise slightly too much."
            )
        if self.chose:
            return f"{everything} chose {' and '.join(self.chose)}."
        return f"{everything} {calibrated}; nothing was chosen on them." if self.calibrates else ""

    def choices(self) -> list[Choice]:
        """Return what was decided, for the user; nothing where there was nothing to decide."""
        if self.fits:
            said = "helps to fit and choose the head, and is measured out of fold"
            return [Choice("validation", said, self.reason)]
        if not (self.chose and self.calibrates):
            return []

        what = " and ".join(self.chose)
        if self.how == "halves":
            said = (
                f"{self.num_selecting:,} images choose {what}, {self.num_calibrating:,} calibrate"
            )
        elif self.how == "out-of-fold":
            said = f"chooses {what}, and calibrates out of fold"
        else:
            said = f"all {self.num_images:,} images both choose {what} and calibrate"
        return [Choice("validation", said, self.reason)]

    def to_dict(self, rules: int) -> dict[str, Any]:
        """Return what evaluation.json holds of it."""
        return {
            "rules": rules,
            "how": self.how,
            "chose": list(self.chose),
            "num_selecting": self.num_selecting,
            "num_calibrating": self.num_calibrating,
            "text": self.text,
        }


def use_validation(
    val: ImageSource,
    groups: Mapping[str, str],
    *,
    rules: int,
    seed: int,
    chose: Sequence[str],
    chose_in_task: str = "",
    fewest_to_calibrate: int,
    calibrated: str = "the confidence",
) -> ValidationUse:
    """Decide which validation images choose among weights, and which calibrate.

    Halves are cut by a hash of each image's name, stratified, with groups kept together, so that
    they are the same on every machine and after a resume.

    Args:
        val: the validation images.
        groups: the group of each image that belongs together with others, by the image's name.
        rules: 1 uses all images for both, as earlier versions did.
        seed: another seed gives other halves.
        chose: what training chooses on validation.
        chose_in_task: what the task itself chooses there, among answers that it can give out of
            fold.
        fewest_to_calibrate: fewer images cannot calibrate; 0 where nothing is calibrated.
        calibrated: what is calibrated, in words.
    """
    everything = (*chose, *([chose_in_task] if chose_in_task else []))
    both = ValidationUse(
        "all", everything, len(val), bool(fewest_to_calibrate), calibrated=calibrated
    )
    if not everything or not fewest_to_calibrate or not len(val):
        return both
    if rules == 1:
        return _because(both, "the rule of earlier versions")

    of_image = [groups.get(name, "") for name in val.names]
    if chose_in_task and not chose:
        folds = _folds(val.names, of_image, seed)
        if folds.max() < NUM_FOLDS - 1:
            return _because(both, f"they cannot be cut into {NUM_FOLDS} folds")
        why = "what chose an answer must not calibrate it"
        return replace(both, how="out-of-fold", folds=folds, reason=why)

    if len(val) < 2 * fewest_to_calibrate:
        return _because(both, f"fewer than {2 * fewest_to_calibrate} are too few to be halved")
    parts = three_splits(
        val.targets.numpy(), val.names, None, of_image, val_fraction=0.5, test_fraction=0,
        seed=fold(seed, "calibration"), kind=val.spec.target,
    )  # fmt: skip
    selecting, calibrating = parts["train"], parts["val"]
    if min(len(selecting), len(calibrating)) < fewest_to_calibrate:
        return _because(both, "they are in too few groups to be halved")

    return replace(
        both,
        how="halves",
        selecting=selecting,
        calibrating=calibrating,
        reason="what chose the weights must not calibrate them",
    )


def _because(use: ValidationUse, reason: str) -> ValidationUse:
    return replace(use, reason=reason)


def _folds(names: Sequence[str], groups: Sequence[str], seed: int) -> np.ndarray:
    """Return the fold (N,) of each image, equal for images of one group."""
    units = [(bool(group), group or name) for name, group in zip(names, groups, strict=True)]
    ranked = sorted(set(units), key=lambda unit: fold(seed, "folds", *unit))
    number = {unit: place % NUM_FOLDS for place, unit in enumerate(ranked)}
    return np.array([number[unit] for unit in units], np.int64)
