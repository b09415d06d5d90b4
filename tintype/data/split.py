"""Divide a data set into training, validation and test, stratified and by a seed.

Membership follows from a hash of the seed and an image's name, so that it depends on nothing else
that may differ between machines: no generator, no listing order, no library version.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from tintype.data.targets import Classes, TargetKind
from tintype.errors import UserError
from tintype.seeds import fold

SPLITS = ("train", "val", "test")


def three_splits(
    targets: np.ndarray,
    names: Sequence[str],
    given: np.ndarray | Sequence[str] | None = None,
    groups: np.ndarray | Sequence[str] | None = None,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    kind: TargetKind | None = None,
) -> dict[str, np.ndarray]:
    """Return the sorted positions of the images in "train", "val" and "test".

    A split that is given is kept as it is; one that is missing is cut from training, which takes in
    the images of no given split. Within each class (or other stratum of `kind`) the cut is off by
    at most one image from the fraction asked for; each with enough images has at least one in every
    split that is cut. A class with two images where two splits are missing has one in training and
    one in test; a class with one image stays in training.

    Args:
        targets: (N, ...) as `kind` has them.
        names: N names, all different.
        given: N of "train", "val", "test" or "" (free), or None.
        groups: N names of what must stay together where a split is cut ("" stands alone), or None.
        val_fraction: below 1 a fraction of the images that may be cut, from 1 on a number of
            images.
        test_fraction: the same. Of a fraction of 0, no part is cut.
        seed: another seed gives another membership.
        kind: of the targets; by default classes.

    Raises:
        UserError: the fractions leave nothing for training, or nothing is given for training.
    """
    targets = np.asarray(targets)
    if len(set(names)) != len(targets):
        raise ValueError(
            f"{len(targets)} images need as many different names, got {len(set(names))}"
        )

    given = np.full(len(targets), "") if given is None else np.asarray(given)
    result = np.where(np.isin(given, ("val", "test")), given, "train").astype("<U5")
    pool = np.flatnonzero(result == "train")
    asked = {"test": test_fraction, "val": val_fraction}
    missing = [split for split in asked if asked[split] and not (result == split).any()]
    if not len(pool):
        raise UserError(
            "no image is left for training: every image is given to validation or test."
        )

    fractions = _fractions(asked, missing, len(pool))
    smallest = min((fractions[split] for split in missing), default=0) * len(pool)
    strata = np.zeros(len(targets), np.int64)
    strata[pool] = (kind or Classes()).strata(targets[pool], max(1, int(smallest)))
    units = _units(pool, strata, names, groups, seed)

    amounts = {split: _amounts(units, fractions[split]) for split in missing}
    for position, split in enumerate(missing):
        later = len(missing) - position - 1
        for label, class_units in units.items():
            # training, and what is cut later, need a unit as well while there are enough
            spare = len(class_units) - 1 - (later if len(class_units) > later + 1 else 0)
            chosen = _choose(class_units, amounts[split][label], spare)
            for unit in chosen:
                result[class_units[unit]] = split
            units[label] = [unit for i, unit in enumerate(class_units) if i not in chosen]

    return {split: np.flatnonzero(result == split) for split in SPLITS}


def fold_numbers(
    targets: np.ndarray,
    names: Sequence[str],
    groups: np.ndarray | Sequence[str] | None = None,
    *,
    folds: int,
    seed: int,
    kind: TargetKind | None = None,
) -> np.ndarray:
    """Return the fold (N,) of each image, 1 to `folds`.

    Each fold has its share of each class (or other stratum of `kind`), as near as groups allow: the
    largest groups come first, each into the fold that has fewest images of its stratum, and among
    equals fewest in all. As with `three_splits`, order and machine change nothing.

    Args:
        targets: (N, ...) as `kind` has them.
        names: N names, all different.
        groups: N names of what must stay together ("" stands alone), or None.
        folds: how many, at least 2.
        seed: another seed gives another membership.
        kind: of the targets; by default classes.

    Raises:
        UserError: there are too few images, or groups of them, for so many folds.
    """
    targets, kind = np.asarray(targets), kind or Classes()
    _refuse_few(targets, names, groups, folds, kind)
    strata = kind.strata(targets, max(1, len(targets) // folds))
    units = _units(np.arange(len(targets)), strata, names, groups, fold(seed, "folds"))

    result = np.zeros(len(targets), np.int64)
    in_all = [0] * folds
    for members in units.values():
        of_stratum = [0] * folds
        for unit in sorted(members, key=len, reverse=True):  # stable: by hash among equals
            chosen = min(range(folds), key=lambda k: (of_stratum[k], in_all[k], k))
            result[unit] = chosen + 1
            of_stratum[chosen] += len(unit)
            in_all[chosen] += len(unit)
    if empty := [k + 1 for k in range(folds) if not in_all[k]]:
        raise UserError(
            f"folds: {folds} leaves fold {empty[0]} empty, since images of a group stay together. "
            "Ask for fewer folds."
        )
    return result


def _refuse_few(
    targets: np.ndarray,
    names: Sequence[str],
    groups: np.ndarray | Sequence[str] | None,
    folds: int,
    kind: TargetKind,
) -> None:
    """Refuse images of which a fold would have none, or none of a class."""
    given = [""] * len(names) if groups is None else [str(group) for group in groups]
    labels = [f"group {g}" if g else f"image {n}" for g, n in zip(given, names, strict=True)]
    units = np.unique(labels, return_inverse=True)[1]
    num_units = int(units.max(initial=-1)) + 1

    if len(names) < folds:
        raise UserError(
            f"folds: {folds} folds need at least as many images, and there are {len(names):,}. "
            "Ask for fewer folds, or add images."
        )
    if num_units < folds:
        raise UserError(
            f"folds: the {len(names):,} images are in {num_units:,} groups, which stay together, "
            f"so that {folds} folds leave one empty. Ask for fewer folds, or add images."
        )
    rarest = kind.rarest(targets, units)
    if rarest is None or rarest[2] >= folds:
        return

    name, num_images, num_together = rarest
    count = f"{num_images:,} image{'s' if num_images > 1 else ''}"
    if num_together < num_images:
        count += f" in {num_together:,} group{'s' if num_together > 1 else ''}, which stay together"
    fewer = f"Ask for at most {num_together} folds, add" if num_together > 1 else "Add"
    raise UserError(
        f"folds: '{name}' has {count}, too few for {folds} folds. "
        f"{fewer} images, or remove the class."
    )


def _fractions(
    asked: dict[str, float], missing: Sequence[str], num_images: int
) -> dict[str, float]:
    """Return what is asked for as fractions of the pool, checked."""
    for split, amount in asked.items():
        if amount < 0:
            raise UserError(
                f"{split}_fraction is {amount:g}; "
                "it must not be below 0 (below 1 a fraction, else a number)."
            )

    fractions = {
        split: amount if amount < 1 else int(amount) / num_images for split, amount in asked.items()
    }
    if sum(fractions[split] for split in missing) >= 1:
        parts = " and ".join(f"{split}_fraction {asked[split]:g}" for split in missing)
        raise UserError(
            f"{parts} leave nothing of {num_images:,} images for training. Choose less."
        )

    return fractions


def _units(
    pool: np.ndarray,
    strata: np.ndarray,
    names: Sequence[str],
    groups: np.ndarray | Sequence[str] | None,
    seed: int,
) -> dict[int, list[list[int]]]:
    """Return, for each stratum, what moves as one (lists of positions), in the seeded order of
    their hashes.

    A group belongs to the stratum of most of its images, and its name is that of its first image by
    name.
    """
    together: dict[str, list[int]] = defaultdict(list)
    for i in pool.tolist():
        group = "" if groups is None else str(groups[i])
        together[f"group {group}" if group else f"image {names[i]}"].append(i)

    ranked: dict[int, list[tuple[bytes, list[int]]]] = defaultdict(list)
    for members in together.values():
        label = int(strata[members[0]])
        name = names[members[0]]
        if len(members) > 1:
            counts = Counter(strata[members].tolist())
            label = min(counts, key=lambda c: (-counts[c], c))
            name = min(names[i] for i in members)
        digest = hashlib.blake2b(
            f"{seed}\0{name}".encode("utf-8", "surrogateescape"), digest_size=16
        ).digest()
        ranked[label].append((digest, members))

    for members in ranked.values():
        members.sort()
    return {label: [unit for _, unit in ranked[label]] for label in sorted(ranked)}


def _amounts(units: dict[int, list[list[int]]], fraction: float) -> dict[int, int]:
    """Return how many images of each stratum to take, by the largest remainders.

    The total is then right as well.
    """
    exact = {label: fraction * sum(map(len, members)) for label, members in units.items()}
    counts = {label: int(value) for label, value in exact.items()}
    left = round(sum(exact.values())) - sum(counts.values())
    for label in sorted(exact, key=lambda c: (counts[c] - exact[c], c))[: max(left, 0)]:
        counts[label] += 1
    return counts


def _choose(class_units: list[list[int]], amount: int, spare: int) -> set[int]:
    """Return which units to take, in order of rank: about `amount` images in 1 to `spare` units."""
    chosen: set[int] = set()
    taken = 0
    for i, unit in enumerate(class_units):
        if len(chosen) == spare or (chosen and taken >= amount):
            return chosen
        if taken + len(unit) / 2 <= amount:  # nearer with this unit than without it
            chosen.add(i)
            taken += len(unit)
    if not chosen and spare > 0:
        chosen.add(min(range(len(class_units)), key=lambda i: len(class_units[i])))
    return chosen


def describe_splits(
    given: np.ndarray | Sequence[str] | None,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    can_do_without_test: bool = False,
    stratified: str = "stratified",
    folds: int | None = None,
    fold: int | None = None,
) -> list[str]:
    """Return a line for each split that was cut from training, and one for splits that were kept.

    Where only a test part is missing, its line says what else can be done; with
    `can_do_without_test` that is also to have none. `stratified` is how the kind of target is cut.
    """
    there = set() if given is None else {str(split) for split in np.unique(np.asarray(given))}
    lines = []
    kept = [split for split in ("train", "val", "test") if split in there]
    if kept:
        lines.append(f"splits given by the data are kept: {', '.join(kept)}")

    for split, word, asked in (
        ("val", "validation", val_fraction),
        ("test", "test", test_fraction),
    ):
        if split in there and not asked:
            lines.append(
                f"{word}: none was asked for, which changes nothing, since the data brings a "
                f"{word} part"
            )
        if split in there:
            continue
        if split == "test" and folds:
            which = f"fold {fold} of {folds}" if fold else f"every photo, in {folds} folds"
            lines.append(f"{word}: {which}, {stratified}, seed {seed}")
            continue
        if not asked:
            none = f"{word}: none, as asked"
            if val_fraction:
                none += ", so that all figures are of validation photos, which chose the model"
            lines.append(none)
            continue
        amount = f"{int(asked):,} of" if asked >= 1 else f"{100 * asked:.3g} % of"
        pool = "training" if kept else "all images"
        line = f"{word}: {amount} {pool}, {stratified}, seed {seed}"
        if split == "test" and "val" in there:
            line += _ways_out(can_do_without_test)
        lines.append(line)

    return lines


def _ways_out(can_do_without_test: bool) -> str:
    """Return how to have another test part than one that is cut from training, for the end of a
    line.
    """
    others = (
        "put photos of your own into test/ beside train/ and val/, "
        "or choose how many with --test 0.1"
    )
    if can_do_without_test:
        others += (
            "; --test none trains on all of train/, and then nothing but validation is measured"
        )
    return f" (held out, since there are train and val alone; {others})"
