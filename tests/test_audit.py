"""The audit finds what is planted: copies, leaks, contradictions, wrong labels, poor and broken
pictures.
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cleanlab.count import compute_confident_joint
from cleanlab.rank import get_label_quality_scores
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from scaling import FlooredScaler
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import softmax
from sklearn.datasets import load_digits, load_sample_images
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import tintype
from tintype import Audit
from tintype.cli import main
from tintype.data import Images, open_data
from tintype.data.decode import Resize
from tintype.data.duplicates import (
    exact_copies,
    joined,
    kept_together,
    leaked_rows,
    members,
    near_pairs,
    quick_audit,
    thumbnails,
)
from tintype.data.plain_features import plain_features
from tintype.data.source import DataSplits
from tintype.data.split import three_splits
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.tasks.frozen import FrozenBackbone
from tintype.verbs.audit import backbone, labels
from tintype.verbs.audit.backbone import backbone_features
from tintype.verbs.audit.files import blur
from tintype.verbs.audit.findings import picture_findings
from tintype.verbs.audit.labels import (
    LabelIssues,
    assess,
    confident_count,
    confident_joint,
    find_label_issues,
    out_of_sample,
)
from tintype.verbs.audit.one_class import label_findings

pytestmark = pytest.mark.usefixtures("short_pages")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TINTYPE_DATA_ROOT", raising=False)


@pytest.fixture(scope="module")
def patches() -> list[Image.Image]:
    """48 pieces of 100 x 96 pixels of two photos; sky and petals among them, which resemble each
    other.
    """
    return [
        Image.fromarray(photo[top : top + 96, left : left + 100])
        for photo in load_sample_images().images
        for top in range(10, 400, 100)
        for left in range(10, 600, 105)
    ]


def save(image: Image.Image, path: Path, **how) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)


def plant(
    root: Path, patches: list[Image.Image], folders: tuple[str, ...] = ("a", "b"), first: int = 0
) -> Path:
    """Write the patches as PNG, numbered and in turn into the folders; returns the root."""
    for i, patch in enumerate(patches, start=first):
        save(patch, root / folders[i % len(folders)] / f"{i:02d}.png")
    return root


def audit(data: Path | str, **how) -> Audit:
    return tintype.audit(data, **{"labels": False, "copies": False, **how})


def pairs_in(found: Audit, *kinds: str) -> set[frozenset[str]]:
    return {frozenset(item.names) for kind in kinds if kind in found for item in found[kind].items}


def names_in(found: Audit, kind: str) -> set[str]:
    return {name for item in found[kind].items for name in item.names} if kind in found else set()


# --- the same picture twice ------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Image.Image, Path], None]] = {
    "quality 40": lambda image, path: save(image, path.with_suffix(".jpg"), quality=40),
    "smaller": lambda image, path: save(
        image.resize((62, 60)), path.with_suffix(".jpg"), quality=80
    ),
    "larger": lambda image, path: save(
        image.resize((180, 173)), path.with_suffix(".jpg"), quality=80
    ),
    "mirrored": lambda image, path: save(
        ImageOps.mirror(image), path.with_suffix(".jpg"), quality=80
    ),
    "mirrored and smaller": lambda image, path: save(
        ImageOps.mirror(image).resize((75, 72)), path.with_suffix(".png")
    ),
    "grey": lambda image, path: save(image.convert("L"), path.with_suffix(".png")),
    "few colours": lambda image, path: save(image, path.with_suffix(".gif")),
}


def test_exact_copies_are_all_found_and_nothing_else(tmp_path, patches):
    root = plant(tmp_path / "photos", patches)
    for i in range(0, 24, 2):
        shutil.copy(root / "a" / f"{i:02d}.png", root / "a" / f"copy {i:02d}.png")
        save(patches[i + 1], root / "b" / f"copy {i + 1:02d}.bmp")  # other bytes, equal pixels
    found = audit(root)
    expected = {frozenset((f"a/{i:02d}.png", f"a/copy {i:02d}.png")) for i in range(0, 24, 2)}
    expected |= {frozenset((f"b/{i:02d}.png", f"b/copy {i:02d}.bmp")) for i in range(1, 24, 2)}
    assert pairs_in(found, "copies") == expected
    assert {item.remark for item in found["copies"].items} == {"same bytes", "same pixels"}
    assert "near" not in found
    assert not found.serious


@pytest.mark.parametrize("how", COPIES)
def test_changed_copies_are_found(tmp_path, patches, how):
    root = plant(tmp_path / "photos", patches)
    for i, patch in enumerate(patches):
        COPIES[how](patch, root / "ab"[i % 2] / f"copy {i:02d}")
    found = audit(root)
    numbers = [
        sorted(Path(name).stem[-2:] for name in pair)
        for pair in pairs_in(found, "near", "copies", "contradictory")
    ]
    right = {pair[0] for pair in numbers if len(pair) == 2 and pair[0] == pair[1]}
    assert len(right) >= 0.95 * len(patches)
    assert len(numbers) - len(right) <= 1  # of 4,500 pairs of different pictures


def test_digits_resemble_each_other_and_are_no_duplicates():
    digits = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
    assert not quick_audit(
        Images(digits, np.zeros(len(digits), np.int64), [], Classes(("0",)))
    ).groups
    for count in (120, 1797):  # enlarged, as when photos of digits are trained on at 64 pixels
        near = near_pairs(thumbnails(digits[:count], 64))
        assert near.alike
        assert not len(near.pairs)


def test_many_crops_of_each_photo_do_not_pass_for_a_set_of_drawings(patches):
    rng = np.random.default_rng(0)
    detailed = [patch for patch in patches if np.asarray(patch.convert("L")).std() > 25]
    pictures = [np.asarray(patch.resize((64, 64))) for patch in detailed]
    for patch in detailed * 3:
        left, top, right, bottom = rng.integers(0, 4, 4)
        pictures.append(
            np.asarray(patch.crop((left, top, 100 - right, 96 - bottom)).resize((64, 64)))
        )
    assert not near_pairs(np.stack(pictures)).alike


@given(st.lists(st.integers(0, 5), max_size=30))
def test_exact_copies_as_numpy_finds_them(values):
    pixels = np.array(values, np.uint8).reshape(-1, 1, 1, 1)
    first = {}
    expected = [first.setdefault(value, i) for i, value in enumerate(values)]
    assert exact_copies(pixels).tolist() == expected
    assert exact_copies(pixels, pixels // 3).tolist() == expected  # thumbnails alike, pixels not


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19))))
def test_pairs_are_joined_as_scipy_joins_them(count, pairs):
    array = np.array(pairs, np.int64).reshape(-1, 2) % count
    group = joined(np.arange(count), array)
    graph = coo_matrix((np.ones(len(array)), (array[:, 0], array[:, 1])), shape=(count, count))
    number, labels = connected_components(graph, directed=False)
    assert len(set(group.tolist())) == number
    assert all(group[i] == np.flatnonzero(labels == labels[i])[0] for i in range(count))
    assert sorted(i for rows in members(group) for i in rows) == [
        i for i in range(count) if (group == group[i]).sum() > 1
    ]


# --- in training -----------------------------------------------------------------------------------------------------


def test_near_duplicates_stay_on_one_side(tmp_path, patches):
    root = plant(tmp_path / "photos", patches)
    for i in range(20):
        save(patches[i], root / "ab"[i % 2] / f"again {i:02d}.jpg", quality=70)
    for seed in range(3):
        splits = open_data(str(root), image_size=64, split_seed=seed)
        for i in range(20):
            sides = [
                s
                for s in ("train", "val", "test")
                for name in splits[s].names
                if Path(name).stem[-2:] == f"{i:02d}"
            ]
            assert len(sides) == 2
            assert len(set(sides)) == 1
        assert any(
            "40 near-duplicates in 20 groups stay on one side" in note for note in splits.notes
        )
        assert splits.leaked == {}


def members_of(splits: DataSplits) -> dict[str, list[str]]:
    return {split: list(splits[split].names) for split in ("train", "val", "test")}


@pytest.mark.machines
def test_splits_and_groups_follow_from_the_photos_whatever_a_model_sees(tmp_path, patches):
    root = plant(tmp_path / "photos", patches)
    for i in range(20):
        save(patches[i], root / "ab"[i % 2] / f"again {i:02d}.jpg", quality=70)
    (root / "a" / "torn.png").write_bytes((root / "a" / "00.png").read_bytes()[:99])
    usual = open_data(str(root))
    assert any("40 near-duplicates in 20 groups stay on one side" in note for note in usual.notes)
    assert (usual.spec.height, usual.spec.width) == (96, 96)

    ways: list[dict[str, Any]] = [{"image_size": size} for size in (24, 32, 48, 224, (40, 100))]
    ways += [
        {"image_size": 64, "channels": 1},
        {"image_size": 64, "resize": Resize("squash", 1, "bicubic")},
    ]
    for way in ways:
        splits = open_data(str(root), **way)
        assert members_of(splits) == members_of(usual), way
        assert splits.groups == usual.groups, way

    # in which there was nothing to find
    before = open_data(str(root), image_size=32, split_rule="at-image-size")
    assert not before.groups
    assert members_of(before) != members_of(usual)


def test_splits_of_a_set_of_arrays_follow_from_it_whatever_a_model_sees():
    usual = members_of(open_data("digits"))
    assert members_of(open_data("digits", image_size=56, channels=3)) == usual


def test_more_photos_than_are_compared_pair_by_pair_have_their_copies_together(
    tmp_path, patches, monkeypatch
):
    monkeypatch.setattr("tintype.data.duplicates.QUICK_IMAGES", 40)
    root = plant(tmp_path / "photos", patches)
    for i in range(6):
        save(patches[i], root / "ab"[i % 2] / f"again {i:02d}.bmp")
        save(patches[i], root / "ab"[i % 2] / f"nearly {i:02d}.jpg", quality=70)
    for size in (None, 32):
        splits = open_data(str(root), image_size=size)
        assert any("12 copies in 6 groups stay on one side" in note for note in splits.notes)
        assert sorted(splits.groups) == sorted(
            f"{'ab'[i % 2]}/{name}"
            for i in range(6)
            for name in (f"{i:02d}.png", f"again {i:02d}.bmp")
        )


def test_a_given_split_that_leaks_is_told_with_the_images(tmp_path, patches):
    root = plant(tmp_path / "photos", patches[:24], ("train/a", "train/b"))
    plant(root, patches[24:36], ("test/a", "test/b"), first=24)
    plant(root, patches[36:], ("val/a", "val/b"), first=36)
    save(patches[2], root / "test" / "a" / "from training.jpg", quality=80)
    save(ImageOps.mirror(patches[36]), root / "test" / "a" / "from validation.png")
    shutil.copy(root / "train" / "b" / "05.png", root / "val" / "b" / "from training.png")
    splits = open_data(str(root), image_size=64)
    assert {s: [splits[s].names[i] for i in rows] for s, rows in splits.leaked.items()} == {
        "test": ["test/a/from training.jpg", "test/a/from validation.png"],
        "val": ["val/b/from training.png"],
    }
    assert any(
        note.startswith("LEAK: 2 of 14 test images are duplicates of training or val")
        for note in splits.notes
    )
    found = audit(root)
    assert {"test/a/from training.jpg", "train/a/02.png"} in pairs_in(found, "leak")
    assert found["leak"].serious
    assert len(found["leak"].items) == 3


def test_the_split_of_a_set_without_duplicates_stays_as_it_was():
    splits = open_data("digits")
    targets = load_digits().target
    rows = three_splits(
        targets,
        [f"{i:04d}" for i in range(len(targets))],
        val_fraction=0.1,
        test_fraction=0.2,
        seed=0,
    )
    for split, positions in rows.items():
        assert list(splits[split].names) == [f"{i:04d}" for i in positions]


def test_duplicates_join_the_groups_that_are_given():
    pixels = np.array([1, 1, 2, 3, 3, 4, 4], np.uint8).reshape(-1, 1, 1, 1)
    names = list("abcdefg")
    images = Images(pixels, np.zeros(7, np.int64), names, Classes(("0",)))
    together = kept_together(quick_audit(images), names, np.array(["", "x", "", "", "", "y", "z"]))
    assert together is not None
    assert together.tolist() == ["x", "x", "", "same picture as d", "same picture as d", "y", "z"]
    alone = Images(pixels[[0, 2, 3]], np.zeros(3, np.int64), names[:3], Classes(("0",)))
    assert kept_together(quick_audit(alone), names[:3], None) is None


def test_what_was_seen_before_counts_as_leaked():
    pixels = np.array([1, 2, 3, 1, 2, 4], np.uint8).reshape(-1, 1, 1, 1)
    duplicates = quick_audit(Images(pixels, np.zeros(6, np.int64), list("abcdef"), Classes(("0",))))
    splits = {"train": np.array([0]), "val": np.array([1, 3]), "test": np.array([2, 4, 5])}
    assert {s: rows.tolist() for s, rows in leaked_rows(duplicates, splits).items()} == {
        "val": [1],
        "test": [1],
    }


def test_mirrored_pictures_with_different_labels_are_no_contradiction(tmp_path, patches):
    for i, patch in enumerate(patches[:6]):
        save(patch, tmp_path / "d" / "left" / f"{i}.png")
        save(ImageOps.mirror(patch), tmp_path / "d" / "right" / f"{i}.jpg", quality=90)
    found = audit(tmp_path / "d")
    assert "contradictory" not in found
    assert len(found["mirrored"].items) == 6
    assert not found["mirrored"].serious
    assert found.write_manifest(tmp_path / "clean.csv") == {"kept": 12}
    notes = open_data(str(tmp_path / "d"), image_size=64).notes
    assert not any("different labels" in note for note in notes)
    assert any("stay on one side" in note for note in notes)


def test_a_picture_saved_again_under_another_label_contradicts_its_mirrored_ones_or_not(
    tmp_path, patches
):
    """Of one picture in a, mirrored in b, and saved again in b, the first and the last contradict
    each other.
    """
    for i, patch in enumerate(patches[:4]):
        save(patch, tmp_path / "d" / "a" / f"{i}.png")
        save(ImageOps.mirror(patch), tmp_path / "d" / "b" / f"{i}.png")
    save(patches[0], tmp_path / "d" / "b" / "again.jpg", quality=90)
    symmetric = np.asarray(patches[20]).copy()
    symmetric[:, symmetric.shape[1] // 2 :] = symmetric[:, ::-1][:, symmetric.shape[1] // 2 :]
    save(Image.fromarray(symmetric), tmp_path / "d" / "a" / "symmetric.png")
    save(
        ImageOps.mirror(Image.fromarray(symmetric)),
        tmp_path / "d" / "b" / "symmetric.jpg",
        quality=90,
    )
    found = audit(tmp_path / "d")
    assert pairs_in(found, "contradictory") == {
        frozenset({"a/0.png", "b/again.jpg"}),
        frozenset({"a/symmetric.png", "b/symmetric.jpg"}),
    }
    counts = found.write_manifest(tmp_path / "clean.csv")
    assert counts == {"kept": 7, "same picture with another label": 4}


def test_a_mirrored_picture_of_another_class_does_not_leak(tmp_path, patches):
    for i, patch in enumerate(patches[:8]):
        save(patch, tmp_path / "d" / ("train" if i < 4 else "test") / "left" / f"{i}.png")
        save(
            ImageOps.mirror(patch),
            tmp_path / "d" / ("test" if i < 4 else "train") / "right" / f"{i}.png",
        )
    assert not open_data(str(tmp_path / "d"), image_size=64).leaked
    assert "leak" not in audit(tmp_path / "d")


# --- labels ----------------------------------------------------------------------------------------------------------


def test_confident_joint_by_hand():
    # Thresholds: class 0: (0.9 + 0.7 + 0.2) / 3 = 0.6; class 1: (0.8 + 0.9 + 0.4) / 3 = 0.7.
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4]])
    targets = np.array([0, 0, 0, 1, 1, 1])
    assert confident_joint(p, targets).tolist() == [[2, 1], [1, 2]]
    assert confident_count(p, targets) == 2
    issues = assess(p, targets)
    assert issues.rows.tolist() == [2, 5]
    assert issues.suggested.tolist() == [1, 0]
    assert issues.others.tolist() == [1, 3, 0, 4]
    unjudged = assess(p * [[1], [1], [1], [1], [1], [np.nan]], targets)
    assert sorted([*unjudged.rows, *unjudged.others]) == [0, 1, 2, 3, 4]


@given(st.integers(0, 2**32 - 1))
def test_as_many_labels_look_wrong_as_cleanlab_counts(seed):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 4, 60)
    targets[:4] = range(4)
    p = softmax(2 * rng.normal(size=(60, 4)) + 2 * np.eye(4)[targets], axis=1)
    joint = compute_confident_joint(targets, p, calibrate=False)
    diagonal = np.diag(confident_joint(p, targets))
    assert (confident_joint(p, targets) - joint)[~np.eye(4, dtype=bool)].tolist() == [0] * 12
    assert (diagonal <= np.diag(joint)).all()  # cleanlab counts those that are sure of nothing
    issues = assess(p, targets)
    quality = get_label_quality_scores(targets, p)
    assert (np.diff(quality[issues.rows]) >= 0).all()
    assert (np.diff(quality[issues.others]) >= 0).all()


@pytest.mark.machines
def test_wrong_labels_are_found_and_right_ones_left():
    digits = load_digits()
    pixels = np.rint(digits.images[:900] * (255 / 16)).astype(np.uint8)[..., None]
    features = plain_features(thumbnails(pixels, 32))
    targets = digits.target[:900].astype(np.int64)
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(targets), round(0.05 * len(targets)), replace=False)
    planted = targets.copy()
    planted[wrong] = (planted[wrong] + rng.integers(1, 10, len(wrong))) % 10
    issues = find_label_issues(features, planted)
    hit = np.isin(issues.rows, wrong)
    assert hit.mean() >= 0.9
    assert hit.sum() >= 0.7 * len(wrong)
    assert (issues.suggested[hit] == targets[issues.rows[hit]]).mean() >= 0.9
    assert len(find_label_issues(features, targets).rows) <= 0.01 * len(targets)


def test_heads_judge_labels_that_they_have_not_seen_as_scikit_learns_do():
    digits = load_digits()
    features, targets = digits.data[:600], digits.target[:600].astype(np.int64)
    groups = np.arange(600) // 2  # what belongs together stays on one side
    found = out_of_sample(features, targets, 12, groups)
    fold = labels._folds(targets, groups, 0)
    assert (fold[::2] == fold[1::2]).all()
    for k in range(5):
        train, held_out = fold != k, fold == k
        scaled = FlooredScaler().fit(features[train])
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        theirs.fit(scaled.transform(features[train]), targets[train])
        answers = theirs.predict_log_proba(scaled.transform(features[held_out]))
        ours = np.log(found[held_out, :10])
        # one factor and a constant of each image apart
        factor = np.ptp(ours, axis=1) / np.ptp(answers, axis=1)
        assert np.allclose(factor, factor[0], rtol=1e-6)
    assert (found[:, 10:] < 1e-9).all()
    assert np.allclose(found.sum(1), 1)


def test_an_embedded_network_looks_at_photos_and_remembers_them(patches, monkeypatch):
    pixels = np.stack([np.asarray(patch.resize((40, 40))) for patch in patches[:5]])
    features, notes = backbone_features(pixels, 64)
    assert (features.shape, notes) == ((5, 1280 + 112), [])
    network = backbone._backbone(64)
    shown = torch.from_numpy(
        np.stack([np.asarray(patch.resize((64, 64))) for patch in patches[:5]])
    )
    exact = network.compute(shown.permute(0, 3, 1, 2))
    assert np.corrcoef(features.ravel(), exact.ravel())[0, 1] > 0.8  # enlarged from 40 pixels

    def refuse(*_: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(FrozenBackbone, "compute", refuse)
    assert np.array_equal(backbone_features(pixels[::-1], 64)[0], features[::-1])
    with pytest.raises(AssertionError, match="computed"):
        backbone_features(pixels[:, :-1], 64)


def test_plain_features_tell_digits_apart():
    digits = np.rint(load_digits().images[:400] * (255 / 16)).astype(np.uint8)[..., None]
    features = plain_features(thumbnails(digits, 32))
    assert features.shape[0] == 400
    assert np.isfinite(features).all()
    assert find_label_issues(features, load_digits().target[:400].astype(np.int64)).accuracy > 0.9
    assert np.isfinite(plain_features(np.zeros((3, 64, 64, 3), np.uint8))).all()


def test_features_of_ones_own_are_taken(digit_files):
    names = audit(digit_files).names
    rng = np.random.default_rng(0)
    features = {
        name: rng.normal(size=16) + 6 * np.eye(16)[int(name.split("/")[0])] for name in names
    }
    wrong = "7/" + names[-30].split("/")[1] if names[-30].startswith("7/") else names[0]
    features[wrong] = rng.normal(size=16) + 6 * np.eye(16)[3]
    found = audit(digit_files, labels=True, features=features)
    assert names_in(found, "labels") == {wrong}
    typed = f"tintype audit {shlex.quote(str(digit_files))} --decide decided.csv"
    assert found.lines()[-2].endswith(typed)
    remark = found["labels"].items[0].remark
    assert re.fullmatch(
        rf"labelled {wrong.split('/')[0]} \(\d+ %\), looks like 3 \(\d+ %\)", remark
    )
    assert "Most of these labels may be correct" not in found["labels"].text
    array = np.stack([features[name] for name in names])
    assert names_in(audit(digit_files, labels=True, features=array), "labels") == {wrong}
    with pytest.raises(UserError, match="expected"):
        audit(digit_files, labels=True, features=array[1:])
    with pytest.raises(UserError, match="missing"):
        audit(digit_files, labels=True, features={names[0]: array[0]})


def test_weak_features_say_so(tmp_path, patches):
    root = plant(tmp_path / "photos", patches, tuple("abcdef"))
    found = audit(root, labels=True)
    assert "labels not judged" in found
    assert not found.serious


# --- poor pictures ---------------------------------------------------------------------------------------------------


def test_dark_is_relative_to_the_set():
    """Digits are white on black: they are no dark pictures, as photos of the same brightness among
    others would be.
    """
    found = audit("digits", labels=False)
    brightness = found.inspected.facts["brightness"]
    assert "dark" not in found
    found.inspected.facts["brightness"] = brightness / 4
    assert not [f for f in picture_findings(found.inspected) if f.kind == "dark"]
    # photos in bright light, and 797 of which nothing is seen
    found.inspected.facts["brightness"][:1000] = 120
    (dark,) = [f for f in picture_findings(found.inspected) if f.kind == "dark"]
    assert {item.rows[0] for item in dark.items} <= set(range(1000, 1797))
    assert len(dark.items) > 780  # some of them are blank as well


def test_poor_pictures_are_found(tmp_path, patches):
    root = plant(tmp_path / "photos", patches[:24])
    save(Image.new("RGB", (100, 96), "white"), root / "a" / "blank.png")
    save(patches[31].point(lambda value: value // 16), root / "a" / "dark.png")
    save(patches[32].resize((20, 19)), root / "a" / "small.png")
    save(patches[33].resize((400, 80)), root / "a" / "long.png")
    save(
        patches[37].resize((400, 384)).filter(ImageFilter.GaussianBlur(12)),
        root / "a" / "blurred.png",
    )
    save(patches[38], root / "a" / "moves.gif", save_all=True, append_images=[patches[39]])
    found = audit(root)
    assert names_in(found, "blank") == {"a/blank.png"}
    assert names_in(found, "dark") == {"a/dark.png"}
    assert names_in(found, "small") == {"a/small.png"}
    assert names_in(found, "aspect") == {"a/long.png"}
    assert "a/blurred.png" in names_in(found, "blurred")
    assert names_in(found, "animated") == {"a/moves.gif"}
    assert found.formats == {"PNG": 29, "GIF": 1}
    assert not found.serious


def test_blur_grows_with_blur_and_not_with_contrast(patches):
    for patch in patches[24:30]:
        grey = [
            np.asarray(patch.convert("L").filter(ImageFilter.GaussianBlur(r)), np.float32)
            for r in (0, 1, 2, 4)
        ]
        values = [blur(g) for g in grey]
        assert values == sorted(values)
        assert 0 <= values[0] < values[-1] <= 1
        assert blur(20 + grey[0] / 3) == pytest.approx(values[0], abs=1e-4)
    assert blur(np.full((60, 60), 7.0)) == 1


def test_classes_that_cannot_be_learned_or_measured(tmp_path, patches):
    root = plant(tmp_path / "photos", patches[:40], ("train/many",))
    plant(root, patches[40:43], ("train/few",))
    plant(root, patches[43:46], ("test/many",))
    plant(root, patches[46:], ("test/unseen",))
    found = audit(root)
    assert names_in(found, "not in training") == {"unseen"}
    assert found["not in training"].serious
    assert names_in(found, "few") == {"few", "unseen"}
    assert names_in(found, "imbalance") == {"many", "unseen"}
    assert found.classes["many"] == {"train": 40, "test": 3}


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def messy(tmp_path, patches) -> Path:
    """Odd names, odd formats, and files that are no pictures."""
    root = plant(tmp_path / "my photos", patches[:24], ("cat", "Cat"))
    save(patches[24], root / "cat" / "with space.png")
    save(patches[25], root / "cat" / "line\nend.png")
    save(patches[26], root / "cat" / "café 猫.png")
    save(patches[27], root / "Cat" / "<b>&\"'.png")
    save(patches[28].convert("CMYK"), root / "Cat" / "cmyk.jpg")
    deep = np.asarray(patches[29].convert("L")).astype(np.uint16) * 257
    save(Image.fromarray(deep), root / "Cat" / "deep.png")
    save(patches[30].resize((1, 1)), root / "Cat" / "one.png")
    whole = io.BytesIO()
    patches[31].save(whole, "JPEG")
    (root / "cat" / "truncated.jpg").write_bytes(whole.getvalue()[:1500])
    (root / "cat" / "text.jpg").write_text("no picture", encoding="utf-8")
    (root / "cat" / "empty.png").touch()
    (root / "cat" / "nowhere.png").symlink_to("missing.png")
    (root / "Cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "empty class").mkdir()
    return root


def test_nothing_is_dropped_silently(messy):
    found = audit(messy)
    reasons = {item.names[0]: item.remark for item in found["unreadable"].items}
    assert reasons.pop("cat/nowhere.png").startswith("cannot be read")
    assert reasons == {
        "cat/truncated.jpg": "truncated",
        "cat/text.jpg": "a text file, not an image",
        "cat/empty.png": "empty file",
    }
    assert found["unreadable"].serious
    assert found.num_images == 31
    assert {"cat/line\nend.png", "cat/café 猫.png", "Cat/one.png"} <= set(found.names)
    assert names_in(found, "links") == {"Cat/loop"}
    assert any("differ only in case" in note for note in found.notes)
    assert any("empty class" in note for note in found.notes)
    assert found.modes["I;16"] == found.modes["CMYK"] == 1
    assert all("\n" not in line for line in found.lines())
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is open to root"
)
def test_files_without_permission_are_told(tmp_path, patches):
    root = plant(tmp_path / "photos", patches[:8])
    (root / "a" / "00.png").chmod(0)
    assert names_in(audit(root), "unreadable") == {"a/00.png"}


def test_data_that_cannot_be_audited(tmp_path, patches):
    with pytest.raises(UserError, match="no folder"):
        audit(tmp_path / "nowhere")
    with pytest.raises(UserError, match="unknown data set"):
        audit("digit")
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "text.jpg").write_text("no picture", encoding="utf-8")
    with pytest.raises(UserError, match="can be read"):
        audit(tmp_path / "photos")
    save(patches[0], tmp_path / "photos" / "a" / "0.png")
    found = audit(tmp_path / "photos", labels=True)
    assert {"one class", "single", "unreadable"} <= {finding.kind for finding in found.serious}


def test_pixels_of_a_named_set(tmp_path):
    found = audit("digits")
    assert found.num_images == 1797
    assert found.formats == {"pixels": 1797}
    assert found.findings == ()
    with pytest.raises(UserError, match="no files to list"):
        found.write_manifest(tmp_path / "clean.csv")
    assert "Nothing was found" in found.write_html(tmp_path / "audit.html").read_text(
        encoding="utf-8"
    )


def test_files_that_change_after_the_look_leave_the_page_whole(tmp_path, patches):
    root = plant(tmp_path / "photos", patches[:8])
    shutil.copy(root / "a" / "00.png", root / "b" / "copy.png")
    found = audit(root)
    (root / "a" / "00.png").unlink()
    (root / "b" / "copy.png").write_text("changed", encoding="utf-8")
    page = found.write_html(tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "a/00.png" in page


def test_a_judge_that_errs_often_says_that_most_labels_may_be_correct(digit_files):
    inspected = audit(digit_files).inspected
    few = np.array([3, 7]), np.array([1, 2]), np.array([0.05, 0.1]), np.array([0.67, 0.9])
    (weak,) = label_findings(inspected, LabelIssues(*few, accuracy=0.67), True)
    assert weak.text.startswith(
        "Most of these labels may be correct: the classifier is itself wrong about 33%."
    )
    (sound,) = label_findings(inspected, LabelIssues(*few, accuracy=0.97), True)
    assert not sound.text.startswith("Most")
    assert "(5 %), looks like" in weak.items[0].remark


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_page_holds_the_pictures_and_escapes_names(messy, tmp_path):
    shutil.copy(messy / "Cat" / "<b>&\"'.png", messy / "cat" / "again.png")
    found = audit(messy)
    page = found.write_html(tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "<b>&\"'" not in page
    assert "Cat/&lt;b&gt;&amp;" in page
    assert "Same picture, different labels" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    # A command stands in a line of its own that does not break, and can be copied.
    command = f"<code>tintype audit {shlex.quote(str(messy))} --fix clean.csv</code></pre>"
    assert f'{command}<button type="button" class="copy"' in html.unescape(page)
    assert "Same picture, different labels" in found._repr_html_()


def test_fix_lists_what_is_sound_and_trains(tmp_path, patches, tiny, train_in):
    root = plant(tmp_path / "my photos", patches[:32], ("train/a", "train/b"))
    plant(root, patches[32:44], ("test/a", "test/b"), first=32)
    shutil.copy(root / "train/a/00.png", root / "train/a/copy\n.png")  # a copy
    save(patches[1], root / "train/b/near.jpg", quality=80)  # a near-duplicate
    save(patches[33], root / "train/b/leaks.jpg", quality=80)  # of a test image
    shutil.copy(root / "train/a/02.png", root / "train/b/contrary.png")
    (root / "train/b/text.jpg").write_text("no picture", encoding="utf-8")
    (root / "train/a/" / "é ü.png").write_bytes((root / "train/a/04.png").read_bytes())
    before = sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))
    manifest = tmp_path / "clean.csv"
    with pytest.raises(SystemExit) as end:
        main(["audit", str(root), "--no-labels", "--fix", str(manifest), "--strict"])
    assert end.value.code == 1
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert (
        not {"copy\n.png", "leaks.jpg", "contrary.png", "02.png", "text.jpg", "é ü.png"}
        & rows.keys()
    )
    assert len(rows) == 32 + 12 - 1 + 1
    assert rows["33.png"]["split"] == "test"
    assert rows["near.jpg"]["group"] == rows["01.png"]["group"] != ""
    assert sum(row["group"] != "" for row in rows.values()) == 2
    assert sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*")) == before
    assert not audit(manifest).serious
    splits = open_data(str(manifest), image_size=16)
    assert splits.leaked == {}
    assert sum(len(splits[s]) for s in ("train", "val", "test")) == len(rows)
    run = train_in(tmp_path / "run", tiny(data=str(manifest), image_size=16, steps=2, batch_size=8))
    assert run.read("evaluation.json")["splits"]["test"]["num_images"] == 12


def test_odd_names_come_back_from_the_list(messy, tmp_path):
    found = audit(messy)
    counts = found.write_manifest(tmp_path / "clean.csv")
    assert counts == {"kept": 31, "cannot be read": 5}
    again = audit(tmp_path / "clean.csv")
    assert sorted(name.split("/", 1)[1] for name in again.names) == sorted(found.names)
    assert set(again.classes) == {"cat", "Cat"}


def test_a_file_that_is_there_is_not_overwritten(tmp_path, patches, capsys):
    root = plant(tmp_path / "photos", patches[:8])
    (tmp_path / "clean.csv").write_text("mine", encoding="utf-8")
    for name in ("clean.csv", "clean.txt", "no folder/clean.csv"):
        with pytest.raises(SystemExit) as end:
            main(["audit", str(root), "--no-labels", "--fix", str(tmp_path / name)])
        assert end.value.code == 2
    assert (tmp_path / "clean.csv").read_text(encoding="utf-8") == "mine"
    assert "is there already" in capsys.readouterr().err


def test_exit_codes_and_json(tmp_path, patches, capsys):
    root = plant(tmp_path / "photos", patches)
    with pytest.raises(SystemExit) as end:
        main(["audit", str(root), "--strict", "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["serious"] is False
    shutil.copy(root / "a" / "00.png", root / "b" / "copy.png")
    for strict, code in (([], 0), (["--strict"], 1)):
        with pytest.raises(SystemExit) as end:
            main(["audit", str(root), "--no-labels", "--json", *strict])
        assert end.value.code == code
        told = json.loads(capsys.readouterr().out)
        assert told["findings"][0]["kind"] == "contradictory"
        assert told["findings"][0]["items"][0]["names"] == ["a/00.png", "b/copy.png"]


def test_rows_named_again_are_told(tmp_path, patches):
    plant(tmp_path, patches[:8])
    rows = [f"{'ab'[i % 2]}/{i:02d}.png,{'ab'[i % 2]}" for i in range(8)]
    (tmp_path / "list.csv").write_text(
        "\n".join(["path,label", *rows, "a/00.png,b", "a/02.png,a"]), encoding="utf-8"
    )
    found = audit(tmp_path / "list.csv")
    assert found["relabelled"].serious
    assert len(found["relabelled"].items) == len(found["repeated"].items) == 1
