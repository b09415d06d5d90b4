"""Decide before training which flips to leave out.

They are those that change the class of a photo by mirroring or turning it. A network that was
trained on mirrored photos cannot tell left from right afterwards, so this cannot be seen in the
finished run. A linear probe is fitted to half of the training images as they are, and asked about
the other half, as they are and turned; then the halves change roles. Validation and test images
have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tintype.augment.spec import parse_augment, resolve
from tintype.data.duplicates import thumbnails
from tintype.data.plain_features import plain_features
from tintype.data.source import DataSplits, ImageSource
from tintype.hardware.device import Choice
from tintype.recipe import Recipe
from tintype.statistics import swap_p
from tintype.tasks.classify.options import Options

SIDE = 32  # pixels of the thumbnails that the probe sees
MOST_IMAGES = 800  # of which the features take about a second
FEWEST_OF_A_CLASS = 6
SIGNIFICANT = 0.01  # for all pairs of classes together
SMALLEST_SHARE = 0.1  # a smaller swap, however sure, costs less than the flips bring
RIDGE = 0.1
# Rotations by up to so many degrees reach a quarter turn, or a half turn, closely enough to look
# like one.
QUARTER_FROM, HALF_FROM = 60.0, 150.0

Move = Callable[[np.ndarray], np.ndarray]  # of images (N, H, W, C)


def _mirror(images: np.ndarray) -> np.ndarray:
    return images[:, :, ::-1]


def _upside_down(images: np.ndarray) -> np.ndarray:
    return images[:, ::-1]


def _left_turn(images: np.ndarray) -> np.ndarray:
    return np.rot90(images, 1, (1, 2))


def _right_turn(images: np.ndarray) -> np.ndarray:
    return np.rot90(images, -1, (1, 2))


def _half_turn(images: np.ndarray) -> np.ndarray:
    return images[:, ::-1, ::-1]


# Each symmetry and its inverse.
TURNS: dict[str, tuple[Move, Move]] = {
    "mirrored": (_mirror, _mirror),
    "turned upside down": (_upside_down, _upside_down),
    "turned by 90 degrees": (_left_turn, _right_turn),
    "turned by 180 degrees": (_half_turn, _half_turn),
}


@dataclass(frozen=True)
class Finding:
    """Whether a symmetry changes classes: True, False, or None where the images do not tell.

    `text` says why.
    """

    changes: bool | None
    text: str


def keep_orientation(
    recipe: Recipe, splits: DataSplits, asked: Collection[str]
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe without the flips that would change a photo's class.

    Each decision comes with its reason. Nothing is decided unless the recipe says `flips: auto`.
    Only what the recipe does to photos is looked into. What the user asked for by name stays, with
    a warning.

    Args:
        recipe: with its `augment` and `tta` settled.
        splits: whose training images are looked at.
        asked: the fields that the user set.
    """
    options = recipe.options
    assert isinstance(options, Options)
    if options.flips == "as-stated" or splits.spec.num_classes < 2:
        return recipe, []

    used = _used(recipe)
    recipe = recipe.replace(flips="as-stated")
    if not used:
        return recipe, []

    images, targets = _sample(splits.train)
    found = find_symmetries(images, targets, splits.spec.class_names, list(used))
    choices = []
    for turn, finding in found.items():
        # of what is left: without flips there is no half turn by two of them
        parts = _used(recipe).get(turn, [])
        if not parts:
            continue
        if not finding.changes:
            hint = "" if finding.changes is False else f" {_how_to_switch_off(turn)}"
            choices.append(Choice(f"{turn} photos", "used", f"{finding.text}.{hint}"))
            continue

        wanted = [part for part in parts if _asked_by_name(recipe, part, asked)]
        if wanted:
            reason = (
                f"as asked. WARNING: {finding.text}, "
                "and a network that sees both cannot tell them apart."
            )
            choices.append(Choice(f"{turn} photos", "used", f"{reason} {_how_to_switch_off(turn)}"))
        left_out = [part for part in parts if part not in wanted]
        if left_out:
            recipe = _without(recipe, left_out)
            where = " and ".join(
                "answers (tta)" if part == "tta" else f"augment ({part})" for part in left_out
            )
            choices.append(Choice(f"{turn} photos", f"left out of {where}", finding.text))
    return recipe, choices


def find_symmetries(
    images: np.ndarray, targets: np.ndarray, class_names: Collection[str], turns: Collection[str]
) -> dict[str, Finding]:
    """Return for each of `turns` (keys of TURNS) whether turned images change their class.

    For each pair of classes it is tested whether turned images of the one are taken for the other
    more often than turned images of the other are, and the same the other way round
    (`statistics.swap_p`). A probe that merely fails on turned images, since it never saw any, takes
    both for the same class, and is no evidence.

    Args:
        images: (N, 32, 32, C) uint8.
        targets: (N,) int64.
        class_names: K names.
        turns: what to look into.
    """
    names = list(class_names)
    counts = np.bincount(targets, minlength=len(names))
    large = np.flatnonzero(counts >= FEWEST_OF_A_CLASS)
    if len(large) < 2:
        few = (
            "too few images to tell whether a class changes "
            f"(fewer than {FEWEST_OF_A_CLASS} of each)"
        )
        return dict.fromkeys(turns, Finding(None, few))

    moved = {"": images}
    for turn in turns:
        forth, back = TURNS[turn]
        moved[turn] = forth(images)
        moved[f"back {turn}"] = moved[turn] if forth is back else back(images)
    answers = _answers(moved, targets, len(names))

    # Mean recall: answers that are always the same are right for 1 / K of the classes, however
    # common one is.
    recall = np.mean([(answers[""][targets == k] == k).mean() for k in large])
    chance = 1 / len(large)
    error = np.sqrt(chance * (1 - chance) * (1 / counts[large]).sum()) / len(large)
    tells = recall > chance + 2.33 * error  # one-sided, 1 %
    probe = f"a linear probe on {len(images):,} training images"
    found = {}
    for turn in turns:
        swap = _clearest_swap(answers[turn], answers[f"back {turn}"], targets, large, len(names))
        if swap is not None:
            a, b, share_a, share_b = swap
            found[turn] = Finding(
                True,
                f"{turn}, {share_a:.0%} of '{names[a]}' are taken for '{names[b]}' and "
                f"{share_b:.0%} of '{names[b]}' for '{names[a]}' ({probe})",
            )
        elif not tells:
            found[turn] = Finding(
                None,
                f"it is not known whether a class changes: {probe} does not tell them apart",
            )
        else:
            found[turn] = Finding(False, f"no two classes change places when {turn} ({probe})")
    return found


def _clearest_swap(
    forth: np.ndarray, back: np.ndarray, targets: np.ndarray, classes: np.ndarray, num_classes: int
) -> tuple[int, int, float, float] | None:
    """Return the pair of classes that change places most surely, or None.

    With it comes the share of each that does. `forth` and `back` (N,) are the answers to images
    under a turn and its inverse: what takes A to B by the one takes B to A by the other. Of a
    mirror they are the same array.
    """
    counts = np.bincount(targets, minlength=num_classes)
    taken = np.zeros((2, num_classes, num_classes), np.int64)
    for table, answers in zip(taken, (forth, back), strict=True):
        np.add.at(table, (targets, answers), 1)

    pairs = [
        (a, b)
        for a in classes.tolist()
        for b in classes.tolist()
        if a < b or (a > b and forth is not back)
    ]
    clearest, least = None, SIGNIFICANT / len(pairs)
    for a, b in pairs:
        share_a, share_b = taken[0, a, b] / counts[a], taken[1, b, a] / counts[b]
        excess = min(share_a - taken[0, b, b] / counts[b], share_b - taken[1, a, a] / counts[a])
        if excess < SMALLEST_SHARE:
            continue
        p = max(
            swap_p(int(taken[0, a, b]), int(counts[a]), int(taken[0, b, b]), int(counts[b])),
            swap_p(int(taken[1, b, a]), int(counts[b]), int(taken[1, a, a]), int(counts[a])),
        )
        if p < least:
            clearest, least = (a, b, float(share_a), float(share_b)), p
    return clearest


def _answers(
    moved: Mapping[str, np.ndarray], targets: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
    """Return the classes (N,) that ridge regression, fitted to the other half of moved[""], gives
    each set of images.
    """
    distinct = {id(images): images for images in moved.values()}
    stacked = np.concatenate([np.ascontiguousarray(images) for images in distinct.values()])
    parts = np.split(plain_features(stacked, 0), len(distinct))
    features = dict(zip(distinct, parts, strict=True))

    half = _halves(targets)
    answers = {key: np.zeros(len(targets), np.int64) for key in distinct}
    for side in (0, 1):
        train, asked = np.flatnonzero(half != side), np.flatnonzero(half == side)
        known = features[id(moved[""])][train].astype(np.float64)
        mean, deviation = known.mean(0), known.std(0) + 1e-3 * known.std() + 1e-9
        known = (known - mean) / deviation
        one_hot = np.eye(num_classes)[targets[train]]
        kernel = known @ known.T / known.shape[1] + RIDGE * np.eye(len(train))
        weights = known.T @ np.linalg.solve(kernel, one_hot - one_hot.mean(0)) / known.shape[1]
        for key, values in features.items():
            scores = (values[asked] - mean) / deviation @ weights + one_hot.mean(0)
            answers[key][asked] = scores.argmax(1)
    return {name: answers[id(images)] for name, images in moved.items()}


def _halves(targets: np.ndarray) -> np.ndarray:
    """Return 0 or 1 for each image, alternating at random within each class."""
    generator = np.random.default_rng(0)
    half = np.zeros(len(targets), np.int64)
    for k in np.unique(targets):
        rows = np.flatnonzero(targets == k)
        half[generator.permutation(rows)] = np.arange(len(rows)) % 2
    return half


def _sample(train: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """Return thumbnails and targets of at most 800 training images, as evenly over the classes as
    they allow.
    """
    targets = train.targets.numpy()
    generator = np.random.default_rng(0)
    shuffled = generator.permutation(len(targets))
    rank = np.zeros(len(targets), np.int64)  # of each image within its class
    for k in np.unique(targets):
        rows = shuffled[targets[shuffled] == k]
        rank[rows] = np.arange(len(rows))
    rows = np.sort(shuffled[np.argsort(rank[shuffled], kind="stable")][:MOST_IMAGES])

    parts = []
    for start in range(0, len(rows), 64):
        taken = train.take(torch.from_numpy(rows[start : start + 64])).images
        parts.append(
            thumbnails(np.ascontiguousarray(taken.permute(0, 2, 3, 1).cpu().numpy()), SIDE)
        )
    return np.concatenate(parts), targets[rows]


def _used(recipe: Recipe) -> dict[str, list[str]]:
    """Return, for each symmetry that the recipe shows photos in, the parts that do so:
    augmentations, or "tta".
    """
    augment = resolve(recipe.augment)
    used: dict[str, list[str]] = {}
    if "flip" in augment:
        used["mirrored"] = ["flip"]
    if recipe.fields()["tta"] != "none":
        used.setdefault("mirrored", []).append("tta")

    if {"flip", "vertical_flip"} <= set(augment):  # both at once
        used["turned by 180 degrees"] = ["vertical_flip"]
    if "vertical_flip" in augment:
        used["turned upside down"] = ["vertical_flip"]

    for name in ("rotate", "affine"):
        degrees = augment.get(name, {}).get("degrees", 0)
        for turn, least in (
            ("turned by 90 degrees", QUARTER_FROM),
            ("turned by 180 degrees", HALF_FROM),
        ):
            if degrees >= least:
                used.setdefault(turn, []).append(name)

    return used


def _asked_by_name(recipe: Recipe, part: str, asked: Collection[str]) -> bool:
    """Return whether the user named a flip. A preset that brings it does not count."""
    if part == "tta":
        return "tta" in asked
    given = parse_augment(recipe.augment) if isinstance(recipe.augment, str) else recipe.augment
    named = resolve({key: value for key, value in given.items() if key != "preset"})
    return "augment" in asked and part in named


def _without(recipe: Recipe, parts: Collection[str]) -> Recipe:
    """Return the recipe without some augmentations, or without mirrored views in answers."""
    given = parse_augment(recipe.augment) if isinstance(recipe.augment, str) else recipe.augment
    augment = {key: value for key, value in resolve(given).items() if key not in parts}
    preset = given.get("preset")
    if preset is not None and set(given) == {"preset"}:
        augment = {
            "preset": preset,
            **dict.fromkeys((part for part in parts if part != "tta"), False),
        }
    changes: dict[str, Any] = {"augment": augment} if set(parts) - {"tta"} else {}
    return recipe.replace(**changes, **({"tta": "none"} if "tta" in parts else {}))


def _how_to_switch_off(turn: str) -> str:
    """Return what to type where photos must keep their orientation."""
    if turn == "mirrored":
        return "Where left and right matter: --augment none --set tta=none."
    return "Where up and down matter: --augment none."
