"""Kinds of targets: read from folders and tables, divided, counted, compared, told apart, mixed."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit

from tintype import plugins
from tintype.augment import Augment
from tintype.augment.canvas import Canvas
from tintype.data import Classes, Labels, NoTarget, Numbers, open_data
from tintype.data.duplicates import Duplicates, NearPairs
from tintype.data.source import DataSplits
from tintype.data.split import SPLITS, three_splits
from tintype.data.targets import TargetKind, described, quantile_of
from tintype.errors import UserError

pytestmark = pytest.mark.usefixtures("short_pages")


def plant(root: Path, names: Sequence[str], seed: int = 0) -> Path:
    """Write photos of noise, all different, and return their folder."""
    rng = np.random.default_rng(seed)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return root


def floats(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def table(root: Path, rows: Sequence[Sequence[str]], name: str = "list.csv") -> Path:
    path = root / name
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[float, float]]]:
    """A table of 60 photos with an age and a height, and the numbers of each photo."""
    root = tmp_path_factory.mktemp("people")
    names = [f"{i:02d}.png" for i in range(60)]
    rng = np.random.default_rng(1)
    ages = rng.integers(1, 90, 60) / 2
    heights = np.round(rng.normal(170, 10, 60), 1)
    plant(root, names)

    rows = [[n, str(a), str(h)] for n, a, h in zip(names, ages, heights, strict=True)]
    path = table(root, [["file", "Height", "age"], *[[n, h, a] for n, a, h in rows]])
    return path, {n: (float(a), float(h)) for n, a, h in rows}


def opened(path: Path, target: TargetKind, **how: Any) -> DataSplits:
    return open_data(str(path), target=target, image_size=8, channels=3, **how)


# ---- classes ---------------------------------------------------------------------------------


def test_fingerprints_of_classes_are_those_of_earlier_versions():
    assert open_data("digits").spec.fingerprint == "1f21ff927a7205eea26c1cb1d0725ef2"
    other = open_data("digits", split_seed=3, val_fraction=50)
    assert other.spec.fingerprint == "1baf3fd212c87dfd22b93ca2df2c22f9"


def test_the_content_of_classes_is_their_names_and_positions():
    kind = Classes(("cat", "dog"))
    targets = np.array([1, 0, 1])
    digest = hashlib.blake2b(b"('cat', 'dog')" + targets.astype("<i8").tobytes())
    assert hashlib.blake2b(kind.content(targets)).digest() == digest.digest()


def test_a_specification_knows_its_classes():
    spec = open_data("digits").spec
    assert spec.target == Classes(tuple("0123456789"))
    assert spec.class_names == tuple("0123456789")
    assert spec.num_classes == spec.num_outputs == 10
    assert described({"class_names": ["cat", "dog"]}) == Classes(("cat", "dog"))
    assert Classes(("cat",)).describe() == {"class_names": ["cat"]}  # model.json stays as it was


# ---- numbers ---------------------------------------------------------------------------------


def test_numbers_are_read_from_columns(people):
    path, expected = people
    splits = opened(path, Numbers(("age", "height")))
    assert splits.spec.target == Numbers(("age", "height"))
    assert splits.spec.num_outputs == 2
    assert splits.spec.class_names == ()

    found = {
        name: tuple(values)
        for split in SPLITS
        for name, values in zip(splits[split].names, splits[split].targets.tolist(), strict=True)
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == tuple(floats(values).tolist())

    batch = splits.train.take(torch.arange(3))
    assert batch.targets.dtype == torch.float32
    assert batch.targets.shape == (3, 2)
    assert splits.train.subset(torch.tensor([2, 0])).targets.shape == (2, 2)


def test_the_notes_say_what_the_numbers_are(people):
    path, expected = people
    notes = opened(path, Numbers(("age",))).notes
    low, high = min(age for age, _ in expected.values()), max(age for age, _ in expected.values())
    assert any(f"60 images of 8x8x3, age {low:g} to {high:g}: " in note for note in notes)
    assert "validation: 10 % of all images, stratified by quantiles of age, seed 0" in notes


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("tall", "row 4 of {path} has the age 'tall', which is no number. Expected one such as"),
        (
            "36,5",
            "row 4 of {path} has the age '36,5', which is no number. Expected one such as 36.5",
        ),
        ("", "row 4 of {path} has no age. Fill it in, or remove the row."),
        ("nan", "row 4 of {path} has the age 'nan', which is no number."),
        ("inf", "row 4 of {path} has the age 'inf', which is no number."),
        ("1e300", "row 4 of {path} has the age '1e300', which is no number."),
        ("1_000", "row 4 of {path} has the age '1_000', which is no number."),
    ],
)
def test_a_cell_that_is_no_number_is_refused(tmp_path, cell, message):
    names = [f"{i}.png" for i in range(6)]
    rows = [["path", "age"], *[[name, str(i)] for i, name in enumerate(names)]]
    rows[3][1] = cell
    path = table(plant(tmp_path, names), rows)
    with pytest.raises(UserError) as error:
        opened(path, Numbers(("age",)))
    assert message.format(path=path) in str(error.value)


def test_a_column_that_is_missing_is_named(people):
    path, _ = people
    with pytest.raises(UserError, match="has no column 'weight'; its first line names: file, Hei"):
        opened(path, Numbers(("age", "weight")))


def test_numbers_that_are_all_equal_teach_nothing(tmp_path):
    names = [f"{i}.png" for i in range(8)]
    path = table(plant(tmp_path, names), [["path", "age"], *[[name, "7"] for name in names]])
    with pytest.raises(UserError, match="every age of list that is for training is 7"):
        opened(path, Numbers(("age",)))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{age}_*.png", ("36_a.png", "7.5_b.png", "x/41_c.png", "18_d.png")),
        ("*_{age}y.png", ("1_36y.png", "2_7.5y.png", "x/3_41y.png", "4_18y.png")),
        ("{AGE}*.PNG", ("36a.png", "7.5b.png", "x/41.png", "18.png")),
    ],
)
def test_numbers_are_read_from_the_names_of_photos(tmp_path, pattern, names):
    kind = Numbers.of(pattern=pattern)
    assert len(kind.names) == 1
    found = [float(kind.of_path("anything", name)[0]) for name in names]
    assert found == [36, 7.5, 41, 18]


def test_several_numbers_in_one_name_are_told_by_their_names():
    kind = Numbers.of("height,age", "{age}_{height}cm_*.jpg")
    assert kind.names == ("height", "age")
    assert kind.of_path("a", "a/36_-170.5cm_x.jpg") == ("-170.5", "36")
    with pytest.raises(UserError, match=r"the name a/old\.jpg does not fit"):
        kind.of_path("a", "a/old.jpg")


@pytest.mark.parametrize(
    ("columns", "pattern", "message"),
    [
        ("age,,height", None, "expected different names"),
        ("age,age", None, "expected different names"),
        (None, "photo_*.jpg", "has no place for a number"),
        (None, "{age}_{age}.jpg", "has a name twice"),
        ("age", "{height}.jpg", "names height, and the columns are age"),
    ],
)
def test_names_of_numbers_that_do_not_fit_are_refused(columns, pattern, message):
    with pytest.raises(UserError, match=message):
        Numbers.of(columns, pattern)


def test_a_folder_of_photos_gives_numbers_by_its_names(tmp_path):
    plant(tmp_path, [f"part{i % 3}/{i}_{i * 7}.png" for i in range(40)])
    splits = opened(tmp_path, Numbers.of(pattern="{age}_*.png"))
    for split in SPLITS:
        for name, target in zip(splits[split].names, splits[split].targets, strict=True):
            assert target.tolist() == [float(name.rpartition("/")[2].partition("_")[0])]


def test_a_folder_named_as_a_number_gives_it(tmp_path):
    plant(tmp_path, [f"{age}/{i}.png" for age in ("1", "2.5", "30") for i in range(8)])
    splits = opened(tmp_path, Numbers(("age",)))
    assert set(splits.train.targets.flatten().tolist()) == {1.0, 2.5, 30.0}
    plant(tmp_path, ["old/1.png"])
    with pytest.raises(UserError, match=r"old/1\.png lies in the folder 'old', which is no number"):
        opened(tmp_path, Numbers(("age",)))


def test_digits_are_numbers_as_well():
    splits = open_data("digits", target=Numbers(("digit",)))
    assert splits.spec.target == Numbers(("digit",))
    names = {f"{i:04d}": float(digit) for i, digit in enumerate(load_digits().target)}
    for split in SPLITS:
        expected = [[names[name]] for name in splits[split].names]
        assert splits[split].targets.tolist() == expected
    assert splits.spec.fingerprint != open_data("digits").spec.fingerprint


def test_the_fingerprint_follows_numbers_and_their_names(people):
    path, _ = people
    base = opened(path, Numbers(("age",))).spec.fingerprint
    assert opened(path, Numbers(("age",))).spec.fingerprint == base
    assert opened(path, Numbers(("height",))).spec.fingerprint != base
    kind = Numbers(("age",))
    assert kind.content(floats([[1], [2]])) != kind.content(floats([[2], [1]]))
    assert kind.content(floats([[1]])) != Numbers(("height",)).content(floats([[1]]))


# ---- dividing --------------------------------------------------------------------------------


@given(st.lists(st.integers(-30, 30), min_size=2, max_size=200), st.integers(1, 12))
def test_quantiles_lie_between_linear_quantiles_in_exact_arithmetic(values, parts):
    ordered = [Fraction(value) for value in sorted(values)]
    bounds = []
    for i in range(1, parts):
        place = Fraction((len(values) - 1) * i, parts)
        low = int(place)
        high = min(low + 1, len(values) - 1)
        bounds.append(ordered[low] + (place - low) * (ordered[high] - ordered[low]))

    expected = [sum(bound < value for bound in bounds) for value in values]
    assert quantile_of(np.array(values, np.float32), parts).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_each_split_has_its_share_of_each_quantile(seed):
    rng = np.random.default_rng(seed)
    ages = rng.gamma(2, 20, 1000).astype(np.float32)
    names = [f"{i}.jpg" for i in range(1000)]
    rows = three_splits(
        ages[:, None],
        names,
        kind=Numbers(("age",)),
        val_fraction=0.1,
        test_fraction=0.2,
        seed=seed,
    )
    tenths = pd.qcut(ages, 10, labels=False)
    reference = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed)
    _, theirs = next(reference.split(ages, tenths))
    ours = np.bincount(tenths[rows["test"]], minlength=10)
    assert np.abs(ours - np.bincount(tenths[theirs], minlength=10)).max() <= 1
    assert np.bincount(tenths[rows["val"]], minlength=10).tolist() == [10] * 10


def test_a_small_split_has_the_size_that_was_asked_for():
    ages = np.arange(100, dtype=np.float32)[:, None]
    names = [f"{i}.jpg" for i in range(100)]
    rows = three_splits(
        ages, names, kind=Numbers(("age",)), val_fraction=3, test_fraction=0.05, seed=0
    )
    assert len(rows["val"]) == 3
    assert len(rows["test"]) == 5


def test_several_numbers_are_divided_together():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 2)).astype(np.float32)
    strata = Numbers(("age", "height")).strata(values, 200)
    grid = 10 * quantile_of(values[:, 0], 10) + quantile_of(values[:, 1], 10)
    assert (strata == grid).all()
    assert len(np.unique(Numbers(tuple("abcdefghij")).strata(rng.normal(size=(50, 10)), 5))) <= 5


def test_a_split_that_goes_beyond_training_is_said():
    targets = floats([[1], [2], [3], [9]])
    rows = {"train": np.array([0, 1, 2]), "val": np.array([3]), "test": np.array([1])}
    kind = Numbers(("age",))
    assert kind.uneven(targets, rows, "val") == [
        "1 of 1 validation images have their age outside the range of training (1 to 3)"
    ]
    assert kind.uneven(targets, rows, "test") == []


# ---- no target -------------------------------------------------------------------------------


def test_images_without_targets_are_divided_by_chance(tmp_path):
    plant(tmp_path, [f"{i}.png" for i in range(30)])
    splits = opened(tmp_path, NoTarget())
    assert [splits[split].targets.shape for split in SPLITS] == [(21, 0), (3, 0), (6, 0)]
    assert "30 images of 8x8x3, no targets: 21 training, 3 validation, 6 test" in splits.notes
    assert splits.spec.class_names == ()


# ---- comparing and mixing --------------------------------------------------------------------


def test_numbers_of_copies_may_differ_a_little():
    targets = floats([[10], [10.1], [30], [50], [70]])
    differ = Numbers(("age",)).differing(targets)
    assert not differ(np.array([0, 1]))
    assert differ(np.array([0, 2]))
    assert not NoTarget().differing(np.empty((3, 0)))(np.array([0, 1]))
    assert Classes(("a", "b")).differing(np.array([0, 1, 0]))(np.array([0, 1, 2]))
    assert not Classes(("a", "b")).differing(np.array([0, 1, 0]))(np.array([0, 2]))


def test_mirrored_pictures_with_other_numbers_are_no_copies():
    near = NearPairs(np.array([[0, 1]]), np.ones(1), np.array([True]))
    duplicates = Duplicates.of(np.arange(4), near)
    kind = Numbers(("angle",))
    assert not duplicates.told_apart(kind.differing(floats([[-30], [30], [0], [9]]))).groups
    alike = duplicates.told_apart(kind.differing(floats([[30], [30], [0], [9]])))
    assert [group.tolist() for group in alike.groups] == [[0, 1]]


@pytest.mark.parametrize("kind", [Classes(tuple("abc")), Numbers(("age", "height"))])
def test_mixed_images_have_mixed_targets(kind):
    targets = torch.tensor([0, 1, 2, 1]) if kind.offer == "class" else torch.rand(4, 2)
    images = torch.rand(4, 3, 8, 8)
    augment = Augment("mixup", mixable=kind.mixable)
    mixed, found = augment(images, targets, generator=torch.Generator().manual_seed(0))
    assert found.dtype == torch.float32

    # what was drawn is drawn again; the targets have to be mixed by the same shares as the images
    whole = torch.eye(3)[targets] if kind.offer == "class" else targets
    generator = torch.Generator().manual_seed(0)
    canvas = Canvas(images, targets, generator=generator)
    canvas.chance(1.0)
    kept = canvas.beta(0.2)
    partner = torch.randperm(4, generator=generator)
    torch.testing.assert_close(mixed, images[partner].lerp(images, kept[:, None, None, None]))
    torch.testing.assert_close(found, whole[partner].lerp(whole, kept[:, None]))


# ---- which data sets have which ---------------------------------------------------------------


def test_data_sets_say_what_they_offer():
    assert "cifar10" in plugins.sets_with("class")
    assert "cifar10" not in plugins.sets_with("numbers")
    assert "digits" in plugins.sets_with("numbers")
    assert "photos" in plugins.sets_with("pictures")
    assert "photos" not in plugins.sets_with("class")
    with pytest.raises(UserError, match="'cifar10' come without numbers"):
        open_data("cifar10", target=Numbers())


def test_kinds_are_written_down_and_read_again():
    for kind in (Numbers(("age", "height")), NoTarget()):
        assert described({"class_names": [], **kind.describe()}) == kind
    with pytest.raises(ValueError, match="unknown kind"):
        described({"class_names": [], "target": {"kind": "smells", "names": []}})


# ---- several labels --------------------------------------------------------------------------


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A table of 40 photos: every second with a cat, every fourth with a dog, one with a fox."""
    names = [f"{i:02d}.png" for i in range(40)]
    rows = [["path", "labels"]]
    for i, name in enumerate(names):
        labels = ["cat"] * (i % 2 == 0) + ["dog"] * (i % 4 == 0) + ["fox"] * (i % 10 == 7)
        rows.append([name, "; ".join(labels)])
    rows[2][1] = "?dog|fox"
    rows[4][1] = "?"
    return table(plant(tmp_path, names), rows)


def test_labels_are_read_from_one_column(animals):
    splits = opened(animals, Labels())
    assert splits.spec.target == Labels(("cat", "dog", "fox"))
    found = {}
    for split in SPLITS:
        found |= dict(zip(splits[split].names, splits[split].targets.tolist(), strict=True))
    assert found["00.png"] == [1, 1, 0]
    assert found["02.png"] == [1, 0, 0]
    assert found["05.png"] == [0, 0, 0]
    np.testing.assert_equal(found["01.png"], [0, math.nan, 1])
    np.testing.assert_equal(found["03.png"], [math.nan] * 3)
    assert any("3 labels (0.88 for each image, 3.3 % not annotated)" in n for n in splits.notes)


def test_labels_are_read_from_a_column_each(tmp_path):
    names = [f"{i:02d}.png" for i in range(30)]
    cells = [["1", ""], ["0", "no"], ["", "yes"]]
    rows = [["path", "cat", "dog"], *[[n, *cells[i % 3]] for i, n in enumerate(names)]]
    path = table(plant(tmp_path, names), rows)
    kind = Labels(("dog", "cat"))
    targets = opened(path, kind).train.targets
    assert {str(row) for row in targets.tolist()} == {"[nan, 1.0]", "[0.0, 0.0]", "[1.0, nan]"}
    rows[5][1] = "maybe"
    with pytest.raises(UserError, match=r"row 6 of .* has the cat 'maybe'. Expected 1 or 0"):
        opened(table(tmp_path, rows), kind)


def test_labels_are_read_from_folders(tmp_path):
    plant(tmp_path, [f"{each}/{i}.png" for each in ("cat", "cat,dog", "dog") for i in range(9)])
    splits = opened(tmp_path, Labels())
    assert splits.spec.target == Labels(("cat", "dog"))
    for name, target in zip(splits.train.names, splits.train.targets.tolist(), strict=True):
        assert target == [float("cat" in name), float("dog" in name)]


@given(st.integers(2, 6), st.integers(5, 80), st.integers(0, 1000))
def test_images_are_divided_by_their_rarest_label(num_labels, num_images, seed):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_images, num_labels)) < rng.random(num_labels)).astype(np.float32)
    strata = Labels(tuple(map(str, range(num_labels)))).strata(targets, 10)
    counts = targets.sum(axis=0)
    for row, stratum in zip(targets, strata.tolist(), strict=True):
        mine = [(counts[label], label) for label in np.flatnonzero(row)]
        order = sorted(range(num_labels), key=lambda label: (counts[label], label))
        expected = order.index(min(mine)[1]) if mine else num_labels
        assert stratum == expected


def test_a_rare_label_is_in_every_split():
    rng = np.random.default_rng(0)
    targets = (rng.random((1000, 3)) < (0.5, 0.2, 0.01)).astype(np.float32)
    rows = three_splits(
        targets,
        [f"{i}.jpg" for i in range(1000)],
        kind=Labels(tuple("abc")),
        val_fraction=0.1,
        test_fraction=0.2,
        seed=0,
    )
    for split, share in (("val", 0.1), ("test", 0.2)):
        assert abs(targets[rows[split], 2].sum() - share * targets[:, 2].sum()) <= 1


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "no image of list has a label"),
        ("cat", "every image of list that is for training has the label 'cat'"),
        ("?cat", "no image of list that is for training has the label 'cat'"),
    ],
)
def test_labels_that_teach_nothing_are_refused(tmp_path, cell, message):
    names = [f"{i}.png" for i in range(8)]
    path = table(plant(tmp_path, names), [["path", "labels"], *[[name, cell] for name in names]])
    with pytest.raises(UserError, match=message):
        opened(path, Labels())


def test_what_nobody_has_said_agrees_with_both():
    targets = floats([[1, 0], [math.nan, 0], [0, 0], [1, 1]])
    differ = Labels(("cat", "dog")).differing(targets)
    assert not differ(np.array([0, 1]))
    assert not differ(np.array([1, 2]))
    assert differ(np.array([0, 2]))
    assert differ(np.array([0, 3]))
    content = Labels(("cat", "dog")).content(targets)
    targets[1, 0] = -np.float32(math.nan)
    assert Labels(("cat", "dog")).content(targets) == content
    assert Labels(("dog", "cat")).content(targets) != content


# ---- folders that say nothing -------------------------------------------------------------------


def test_folders_that_are_no_targets_may_be_splits(tmp_path):
    plant(tmp_path, [f"train/{i}/{i}.png" for i in range(9)])
    plant(tmp_path, [f"test_set/{i}.png" for i in range(4)], seed=1)
    splits = opened(tmp_path, Numbers.of(pattern="{age}.png"))
    assert sorted(splits.test.targets.flatten().tolist()) == [0, 1, 2, 3]
    assert (
        "folders are read as splits, by their structure and names: test_set is test" in splits.notes
    )
    assert len(splits.train) + len(splits.val) == 9


def test_every_photo_of_a_folder_counts_where_folders_say_nothing(tmp_path):
    plant(tmp_path, [f"a/{i}.png" for i in range(9)] + ["10.png", "test/11.png", "a/b/12.png"])
    splits = opened(tmp_path, Numbers.of(pattern="{age}.png"))
    assert sum(len(splits[split]) for split in SPLITS) == 12
