"""Splits: disjoint, complete, stratified, the same in every order, groups together."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tintype.data.split import SPLITS, describe_splits, fold_numbers, three_splits
from tintype.data.targets import Classes
from tintype.errors import UserError

pytestmark = pytest.mark.usefixtures("short_pages")

class_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(sum)
fractions = st.floats(0.02, 0.3)
seeds = st.integers(0, 1000)


def labelled(sizes: list[int]) -> tuple[np.ndarray, list[str]]:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    return targets, [f"class{c}/{i}.jpg" for i, c in enumerate(targets)]


def membership(names: list[str], splits: dict[str, np.ndarray]) -> dict[str, str]:
    return {names[i]: split for split in SPLITS for i in splits[split]}


def counts(
    targets: np.ndarray, splits: dict[str, np.ndarray], num_classes: int
) -> dict[str, np.ndarray]:
    return {split: np.bincount(targets[splits[split]], minlength=num_classes) for split in SPLITS}


@given(class_sizes, fractions, fractions, seeds)
def test_splits_are_disjoint_complete_sorted_and_stratified(sizes, val, test, seed):
    targets, names = labelled(sizes)
    splits = three_splits(targets, names, val_fraction=val, test_fraction=test, seed=seed)
    assert sorted(np.concatenate([splits[s] for s in SPLITS]).tolist()) == list(range(len(names)))
    assert all((np.diff(splits[s]) > 0).all() for s in SPLITS)
    per_class = counts(targets, splits, len(sizes))
    for c, size in enumerate(sizes):
        assert abs(per_class["test"][c] - test * size) <= 1
        if size >= 3:
            assert abs(per_class["val"][c] - val * size) <= 1
            assert min(per_class[split][c] for split in SPLITS) >= 1
        if size == 2:
            assert [per_class[split][c] for split in SPLITS] == [1, 0, 1]
        if size == 1:
            assert per_class["train"][c] == 1


@given(class_sizes, fractions, fractions, seeds, st.randoms(use_true_random=False))
def test_membership_does_not_depend_on_order(sizes, val, test, seed, random):
    targets, names = labelled(sizes)
    order = list(range(len(names)))
    random.shuffle(order)
    groups = [f"g{i % 7}" if i % 3 else "" for i in range(len(names))]
    for grouped in (False, True):
        wishes = {"val_fraction": val, "test_fraction": test, "seed": seed}
        one = three_splits(targets, names, None, groups if grouped else None, **wishes)
        shuffled = [names[i] for i in order]
        two = three_splits(
            targets[order],
            shuffled,
            None,
            [groups[i] for i in order] if grouped else None,
            **wishes,
        )
        assert membership(names, one) == membership(shuffled, two)


@given(class_sizes, st.integers(1, 12), seeds)
def test_groups_stay_on_one_side(sizes, num_groups, seed):
    targets, names = labelled(sizes)
    groups = np.array([f"g{(i * 7919) % num_groups}" if i % 4 else "" for i in range(len(names))])
    splits = three_splits(
        targets, names, None, groups, val_fraction=0.1, test_fraction=0.2, seed=seed
    )
    assert sum(len(splits[s]) for s in SPLITS) == len(names)
    assert len(splits["train"])
    sides = defaultdict(set)
    for split in SPLITS:
        for group in groups[splits[split]]:
            sides[group].add(split)
    assert all(len(where) == 1 for group, where in sides.items() if group)


def test_groups_of_equal_size_are_cut_near_the_fraction():
    targets = np.repeat(np.arange(4), 300)
    names = [f"{i}" for i in range(1200)]
    groups = [f"{i // 3}" for i in range(1200)]
    splits = three_splits(targets, names, None, groups, val_fraction=0.1, test_fraction=0.2, seed=0)
    per_class = counts(targets, splits, 4)
    assert (abs(per_class["test"] - 60) <= 2).all()
    assert (abs(per_class["val"] - 30) <= 2).all()


@settings(max_examples=20)
@given(seeds)
def test_another_seed_gives_another_membership(seed):
    targets, names = labelled([100, 100])
    one = three_splits(targets, names, val_fraction=0.1, test_fraction=0.2, seed=seed)
    two = three_splits(targets, names, val_fraction=0.1, test_fraction=0.2, seed=seed + 1)
    assert membership(names, one) != membership(names, two)
    assert counts(targets, one, 2)["test"].tolist() == [20, 20]


def test_membership_is_the_same_on_every_machine_and_for_ever():
    targets, names = labelled([12])
    splits = three_splits(targets, names, val_fraction=0.2, test_fraction=0.2, seed=0)
    assert splits["val"].tolist() == [0, 2]
    assert splits["test"].tolist() == [5, 11]
    ranked = sorted(
        range(12), key=lambda i: hashlib.blake2b(f"0\0{names[i]}".encode(), digest_size=16).digest()
    )
    assert sorted(ranked[:2]) == [5, 11]


@given(class_sizes, seeds)
def test_a_given_test_split_is_kept_and_validation_cut_from_training(sizes, seed):
    targets, names = labelled(sizes)
    given_split = np.array(["test" if i % 3 == 1 else "train" for i in range(len(names))])
    if not (given_split == "test").any():
        return
    splits = three_splits(
        targets, names, given_split, val_fraction=0.1, test_fraction=0.2, seed=seed
    )
    assert splits["test"].tolist() == np.flatnonzero(given_split == "test").tolist()
    assert set(splits["val"]) <= set(np.flatnonzero(given_split == "train"))
    train_sizes = np.bincount(targets[given_split == "train"], minlength=len(sizes))
    val_sizes = counts(targets, splits, len(sizes))["val"]
    assert (abs(val_sizes - 0.1 * train_sizes) <= 1).all()
    assert (val_sizes[train_sizes >= 2] >= 1).all()


def test_given_validation_stays_and_test_is_cut_from_training():
    targets, names = labelled([100])
    given_split = np.array(["val"] * 20 + ["train"] * 80)
    splits = three_splits(targets, names, given_split, val_fraction=0.1, test_fraction=0.25, seed=0)
    assert splits["val"].tolist() == list(range(20))
    assert len(splits["test"]) == 20
    lines = describe_splits(given_split, val_fraction=0.1, test_fraction=0.25, seed=0)
    assert lines[0] == "splits given by the data are kept: train, val"
    assert lines[1].startswith("test: 25 % of training, stratified, seed 0 (held out, since")
    assert "--test none" not in lines[1]
    assert len(lines) == 2


def test_all_three_given_are_kept_and_free_images_train():
    targets, names = labelled([8])
    given_split = np.array(["val", "test", "train", "", "train", "", "val", "test"])
    splits = three_splits(targets, names, given_split, val_fraction=0.1, test_fraction=0.2, seed=0)
    assert {s: splits[s].tolist() for s in SPLITS} == {
        "train": [2, 3, 4, 5],
        "val": [0, 6],
        "test": [1, 7],
    }


def test_a_number_of_images_is_met_exactly():
    targets, names = labelled([333, 333, 334])
    splits = three_splits(targets, names, val_fraction=50, test_fraction=101, seed=0)
    assert [len(splits[s]) for s in SPLITS] == [849, 50, 101]


def test_a_fraction_of_none_cuts_no_part():
    targets, names = labelled([50, 50])
    splits = three_splits(targets, names, val_fraction=0, test_fraction=0.2, seed=0)
    assert [len(splits[split]) for split in ("train", "val", "test")] == [80, 0, 20]
    lines = describe_splits(None, val_fraction=0, test_fraction=0, seed=0)
    assert lines == ["validation: none, as asked", "test: none, as asked"]


@pytest.mark.parametrize(
    ("val", "test"), [(-0.1, 0.2), (0.1, -1), (0.5, 0.5), (60, 0.5), (0.1, 500)]
)
def test_fractions_that_leave_nothing_are_refused(val, test):
    targets, names = labelled([50, 50])
    with pytest.raises(UserError, match="fraction"):
        three_splits(targets, names, val_fraction=val, test_fraction=test, seed=0)


def test_nothing_for_training_is_refused():
    targets, names = labelled([4])
    with pytest.raises(UserError, match="left for training"):
        three_splits(targets, names, ["test"] * 4, val_fraction=0.1, test_fraction=0.2, seed=0)


def test_names_must_differ():
    with pytest.raises(ValueError, match="different names"):
        three_splits(np.zeros(2, int), ["a", "a"], val_fraction=0.1, test_fraction=0.2, seed=0)


@given(st.lists(st.integers(5, 40), min_size=1, max_size=5), st.integers(2, 5), seeds)
def test_folds_are_stratified_and_depend_on_no_order(sizes, folds, seed):
    targets, names = labelled(sizes)
    numbers = fold_numbers(targets, names, folds=folds, seed=seed)
    assert set(numbers.tolist()) == set(range(1, folds + 1))
    for c in range(len(sizes)):
        assert np.ptp(np.bincount(numbers[targets == c] - 1, minlength=folds)) <= 1
    assert np.ptp(np.bincount(numbers - 1, minlength=folds)) <= 1
    order = np.random.default_rng(seed).permutation(len(names))
    again = fold_numbers(targets[order], [names[i] for i in order], folds=folds, seed=seed)
    assert (again == numbers[order]).all()


@given(seeds)
def test_groups_stay_in_one_fold(seed):
    targets, names = labelled([60, 45])
    groups = [f"g{i // 3}" if i % 2 else "" for i in range(len(names))]
    numbers = fold_numbers(targets, names, groups, folds=5, seed=seed)
    for group in set(groups) - {""}:
        assert len({numbers[i] for i, each in enumerate(groups) if each == group}) == 1
    assert np.ptp(np.bincount(numbers)[1:]) <= 3


@pytest.mark.parametrize(
    ("sizes", "groups", "message"),
    [
        ([2, 1], None, "5 folds need at least as many images, and there are 3"),
        ([20, 4], None, "'b' has 4 images, too few for 5 folds. Ask for at most 4 folds"),
        ([20, 1], None, "'b' has 1 image, too few for 5 folds. Add images"),
        ([20, 6], ["", *"xxxy"], "'b' has 6 images in 4 groups, which stay together, too few"),
        ([6, 6], list("uuuvvvwwwzzz"), "the 12 images are in 4 groups, which stay together"),
    ],
)
def test_too_few_images_for_folds_are_refused_in_one_line(sizes, groups, message):
    targets, names = labelled(sizes)
    if groups is not None:
        groups = [*[""] * (len(names) - len(groups)), *groups]
    kind = Classes(("a", "b"))
    with pytest.raises(UserError, match=re.escape(message)):
        fold_numbers(targets, names, groups, folds=5, seed=0, kind=kind)
