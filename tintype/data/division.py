"""Divide images into training, validation and test, and say what is to be known of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tintype.data.duplicates import Duplicates, kept_together, leaked_rows
from tintype.data.source import Images
from tintype.data.split import SPLITS, describe_splits, fold_numbers, three_splits
from tintype.errors import UserError


@dataclass(frozen=True)
class Division:
    """How images are to be divided, where the data does not say it.

    Attributes:
        val_fraction: below 1 a fraction of what may be cut, from 1 on a number of images.
        test_fraction: the same for the test split.
        seed: another one gives another membership.
        folds: how many folds all images are cut into, in place of a test part.
        fold: the fold that is the test part; none is held out where it is None.
    """

    val_fraction: float
    test_fraction: float
    seed: int
    folds: int | None = None
    fold: int | None = None

    def of(self, images: Images, duplicates: Duplicates, name: str) -> Divided:
        """Divide the images of the data set `name`; those of one picture stay on one side.

        Raises:
            UserError: they cannot be divided like this.
        """
        kind = images.target
        together = kept_together(duplicates, images.names, images.groups)
        given = images.split
        numbers = None
        if self.folds is not None:
            numbers = self._fold_numbers(images, name, together, self.folds)
            given = np.where(numbers == self.fold, "test", "")

        cut = {"val": self.val_fraction, "test": self._cut_for_test}
        rows = three_splits(
            images.targets,
            images.split_by or images.names,
            given,
            together,
            val_fraction=cut["val"],
            test_fraction=cut["test"],
            seed=self.seed,
            kind=kind,
        )
        _check_held_out(rows, duplicates, images, [split for split in cut if cut[split]])

        # A mirrored copy with another target is no copy.
        leaked = leaked_rows(duplicates.told_apart(kind.differing(images.targets)), rows)
        return Divided(images, duplicates, rows, leaked, together, numbers)

    def notes(self, images: Images, *, can_do_without_test: bool) -> list[str]:
        """Return a line for each split that was cut, see `describe_splits`."""
        return describe_splits(
            images.split,
            val_fraction=self.val_fraction,
            test_fraction=self._cut_for_test,
            seed=self.seed,
            can_do_without_test=can_do_without_test,
            stratified=images.target.stratified,
            folds=self.folds,
            fold=self.fold,
        )

    @property
    def _cut_for_test(self) -> float:
        return self.test_fraction if self.folds is None else 0.0

    def _fold_numbers(
        self, images: Images, name: str, together: np.ndarray | None, folds: int
    ) -> np.ndarray:
        """Return the fold (N,) of each image, 1 and up.

        Raises:
            UserError: the data bring a split of their own, or are too few.
        """
        given = [] if images.split is None else sorted(set(images.split.tolist()) - {""})
        if given:
            raise UserError(
                f"folds: {name} brings a split of its own ({', '.join(given)}), and folds take all "
                "images. Leave --folds out, or give the images without their split."
            )
        keys = images.split_by or images.names
        return fold_numbers(
            images.targets, keys, together, folds=folds, seed=self.seed, kind=images.target
        )


@dataclass(frozen=True)
class Divided:
    """Images, and which of them are in which split.

    Attributes:
        images: all N of them.
        duplicates: which of them show one picture.
        rows: the positions of each split, by its name.
        leaked: the positions within a split whose picture an earlier split has too, by its name.
        together: the group (N,) of each image that stays on one side, "" for none; None where
            there are no groups.
        folds: the fold (N,) of each image, 1 and up; None where there are none.
    """

    images: Images
    duplicates: Duplicates
    rows: dict[str, np.ndarray]
    leaked: dict[str, np.ndarray]
    together: np.ndarray | None
    folds: np.ndarray | None

    def folds_by_name(self) -> dict[str, int]:
        """Return the fold of each image by its name."""
        if self.folds is None:
            return {}
        return dict(zip(self.images.names, self.folds.tolist(), strict=True))

    def split_notes(self) -> list[str]:
        """Return how many images went where, and what a split lacks."""
        images = self.images
        rows = self.rows
        num_images, height, width, channels = images.pixels.shape
        counts = ", ".join(
            f"{len(rows[split]):,} {word}"
            for split, word in zip(SPLITS, ("training", "validation", "test"), strict=True)
            if len(rows[split])
        )
        there = images.target.counted(images.targets)
        notes = [f"{num_images:,} images of {height}x{width}x{channels}, {there}: {counts}"]

        for split in ("val", "test"):
            if len(rows[split]):
                notes += images.target.uneven(images.targets, rows, split)
        return notes

    def group_notes(self) -> list[str]:
        """Return a warning where images of one group lie on both sides of a given split."""
        images = self.images
        if images.groups is None:
            return []

        train, val, test = ({str(images.groups[i]) for i in self.rows[split]} for split in SPLITS)
        divided = sorted(((train & (val | test)) | (val & test)) - {""})
        if not divided:
            return []

        what = "1 group has" if len(divided) == 1 else f"{len(divided):,} groups have"
        return [
            f"LEAK: {what} images on both sides of the split that the data gives, "
            f"such as {divided[0]}: figures on them say little about new ones"
        ]

    def copy_notes(self) -> list[str]:
        """Return what to know of images of one picture: kept together, leaked, labels differ."""
        images = self.images
        duplicates = self.duplicates
        notes = [f"duplicates: {duplicates.note}"] if duplicates.note else []

        # Only where tintype divides the images can it keep copies together.
        split = images.split
        free = np.ones(len(images.names), bool)
        if split is not None:
            free = ~np.isin(split, ("val", "test"))
        if split is None or not set(np.unique(split)) >= {"train", "val", "test"}:
            free_copies = [group[free[group]] for group in duplicates.groups]
            together = [found for found in free_copies if len(found) > 1]
            if together:
                near = (duplicates.group != duplicates.copy_of).any()
                copies = "near-duplicates" if near else "copies"
                count = sum(map(len, together))
                notes.append(f"{count:,} {copies} in {len(together):,} groups stay on one side")

        for part, word, before in (
            ("val", "validation", "training"),
            ("test", "test", "training or validation"),
        ):
            if part in self.leaked:
                count = len(self.leaked[part])
                total = len(self.rows[part])
                notes.append(
                    f"LEAK: {count:,} of {total:,} {word} images are duplicates of {before} images"
                )

        # a mirrored picture with another target is no contradiction
        differing = images.target.differing(images.targets)
        same_way = duplicates.told_apart(differing)
        contrary = [group for group in same_way.groups if differing(group)]
        if contrary:
            names = " and ".join(images.names[i] for i in contrary[0][:2])
            notes.append(
                f"{len(contrary):,} pictures are there with different labels, "
                f"such as {names}; see `tintype audit`"
            )

        return notes


def _check_held_out(
    rows: dict[str, np.ndarray], duplicates: Duplicates, images: Images, needed: Sequence[str]
) -> None:
    """Refuse data that leave a split of `needed` empty, and say what keeps them together."""
    words = {"val": "validation", "test": "test"}
    empty = [words[split] for split in needed if not len(rows[split])]
    if not empty:
        return

    num_images = len(images.names)
    num_pictures = len(np.unique(duplicates.group))
    if num_pictures < num_images:
        why = (
            f"the {num_images:,} images show {num_pictures:,} different pictures, "
            "and copies stay on one side"
        )
    elif images.groups is not None:
        why = f"the {num_images:,} images are in too few groups, which stay on one side"
    else:
        counted = images.target.counted(images.targets)
        are = "image ({}) is" if num_images == 1 else "images ({}) are"
        why = f"{num_images:,} {are.format(counted)} too few"

    raise UserError(
        f"nothing can be held out for {' and '.join(empty)}: {why}. Add other images, or say "
        "yourself which to measure on: folders train/, val/ and test/, "
        "or a column split in a CSV file."
    )
