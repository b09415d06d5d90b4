"""Photos in groups, by a pattern of their names or by EXIF time: what is a group, the split, the figures, the errors."""

from __future__ import annotations

import csv
import datetime
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tintype import api
from tintype.data import open_data
from tintype.data.pairs import open_pairs
from tintype.errors import UserError
from tintype.grouping import Taken, check_groups, parse_groups, united
from tintype.recipe import build
from tintype.run import RunFolder
from tintype.training import prepare

NAMES = ["cat/cat_012_1.jpg", "cat/cat_012_2.jpg", "cat/cat_013_1.jpg", "dog/clip3_frame0001.JPG", "dog/other.jpg"]


def photo(path: Path, seed: int, when: datetime.datetime | None = None, camera: str = "A", size: int = 32) -> None:
    """Write a photo of noise, with the time that it was taken in its EXIF data."""
    exif = Image.Exif()
    if when is not None:
        exif[0x0110] = camera
        inner = exif.get_ifd(0x8769)
        inner[0x9003] = when.strftime("%Y:%m:%d %H:%M:%S")
        inner[0x9291] = f"{when.microsecond // 1000:03d}"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 10 objects, each in 4 photos, with names that say so."""
    root = tmp_path_factory.mktemp("objects")
    for c, label in enumerate(("cat", "dog")):
        for number in range(40):
            photo(root / label / f"{label}_{number // 4:03d}_{number % 4 + 1}.jpg", 1000 * c + number)
    return root


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{group}_*.jpg", ["cat_012", "cat_012", "cat_013", "clip3", ""]),
        ("{group}_*_?.jpg", ["cat", "cat", "cat", "", ""]),
        ("{group}/*", ["cat", "cat", "cat", "dog", "dog"]),
        ("dog/{group}_frame*", ["", "", "", "clip3", ""]),
        ("og/{group}_frame*", ["", "", "", "", ""]),
        (r"(.+)_\d+\.jpg", ["cat/cat_012", "cat/cat_012", "cat/cat_013", "", ""]),
        (r"(?P<group>clip\d+)_(frame)", ["", "", "", "clip3", ""]),
        (r"_(\d*)", ["012", "012", "013", "", ""]),
    ],
)
def test_a_pattern_says_which_names_belong_together(text, groups):
    assert parse_groups(text).of_names(NAMES) == groups


def test_names_with_backslashes_are_paths_as_well():
    assert parse_groups("{group}/*.jpg").of_names([r"cat\a7\1.jpg"]) == ["a7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat_*", "no capturing group"),
        ("(a)(b)", "2 capturing groups"),
        ("(", "is no regular expression"),
        ("{group}_{group}.jpg", "more than once"),
        ("exif:soon", "names no time"),
        ("exif:0s", "names no time"),
        ("", "no capturing group"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_one_line(text, message):
    with pytest.raises(UserError, match="Expected") as error:
        build({"groups": text}, where="")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{group}_*.png", "fits none of the 5 names, such as cat/cat_012_1.jpg"),
        (r"(.+)\.", "makes each image a group of its own"),
        (r"(/)", "puts all 5 images into one group"),
    ],
)
def test_a_pattern_that_gives_no_groups_is_one_line(text, message):
    grouping = parse_groups(text)
    with pytest.raises(UserError, match="Expected") as error:
        check_groups(grouping, grouping.of_names(NAMES), NAMES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gap_in_time_or_another_camera_begins_a_new_group():
    taken = [Taken(0, "A"), Taken(50, "A"), Taken(100, "A"), Taken(161, "A"), Taken(60, "B"), None, Taken(120, "B")]

    groups = parse_groups("exif:60s").of_times(taken, list("abcdefg"))

    assert groups == ["taken with a"] * 3 + ["taken with d", "taken with e", "", "taken with e"]


def test_groups_of_two_sources_are_joined_where_they_share_an_image():
    column = ["x", "x", "", "y", "", "z"]
    names = ["", "1", "1", "2", "", ""]

    assert united(column, names) == ["1", "1", "1", "2", "", "z"]


def test_groups_of_names_stay_on_one_side_and_are_counted(objects: Path):
    for seed in range(3):
        splits = open_data(str(objects), groups="{group}_*.jpg", split_seed=seed)
        sides: dict[str, set[str]] = defaultdict(set)
        for split in ("train", "val", "test"):
            for name in splits[split].names:
                sides[name.rpartition("_")[0]].add(split)
        assert len(sides) == 20
        assert all(len(found) == 1 for found in sides.values())
        assert "groups: 20 of 4 images each (by the names, {group}_*.jpg)" in splits.notes

    without = open_data(str(objects)).groups
    assert not without


def test_groups_by_time_stay_on_one_side(tmp_path: Path):
    start = datetime.datetime(2024, 5, 1, 23, 59, 30)
    for number in range(40):  # bursts of 4 photos, 0.4 s apart, over midnight; a new one every two minutes
        when = start + datetime.timedelta(minutes=2 * (number // 4), seconds=0.4 * (number % 4))
        photo(tmp_path / "ab"[number % 8 // 4] / f"{number}.jpg", number, when)
    photo(tmp_path / "a" / "none.jpg", 99)

    splits = open_data(str(tmp_path), groups="exif:1s")

    assert "groups: 10 of 4 images each (by EXIF time, at most 1 s apart); 1 stands alone" in splits.notes, splits.notes
    assert sorted(len(splits[split]) % 4 for split in ("train", "val", "test")) == [0, 0, 1]
    alone = open_data(str(tmp_path), groups="exif:0.1s")
    assert "groups: none, no two photos of one camera were taken within 0.1 s" in alone.notes


def test_photos_that_say_no_time_are_one_line(objects: Path):
    with pytest.raises(UserError, match="none of the 80 images says in its EXIF data when it was taken"):
        open_data(str(objects), groups="exif:60s")


def test_groups_join_those_of_the_column(objects: Path, tmp_path: Path):
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "group"])
        for path in sorted(objects.rglob("*.jpg")):
            object_number = int(path.stem.split("_")[1])
            rows.writerow([path, path.parent.name, f"box {object_number // 2}" if path.parent.name == "cat" else ""])

    splits = open_data(str(tmp_path / "list.csv"), groups="{group}_*.jpg")

    assert len(set(splits.groups.values())) == 15  # 5 boxes of 2 cats, 10 dogs


def test_a_group_on_both_sides_of_a_given_split_is_told(tmp_path: Path):
    for number, split in enumerate(("train", "train", "val", "test", "train", "train", "val", "test")):
        photo(tmp_path / split / "ab"[number // 4] / f"x{number // 3}_{number}.jpg", number)

    notes = open_data(str(tmp_path), groups="{group}_*.jpg").notes

    assert any(note.startswith("LEAK: 3 groups have images on both sides of the split") for note in notes), notes


def test_a_run_keeps_its_groups_and_measures_by_them(objects: Path, tmp_path: Path, tiny, train_in):
    recipe = tiny(data=str(objects), groups="{group}_*.jpg", epochs=1, batch_size=16)
    run = train_in(tmp_path / "run", recipe)

    assert RunFolder.open(run.path).recipe.groups == "{group}_*.jpg"
    figures = run.read("evaluation.json")["splits"]["test"]
    assert figures["num_groups"] * 4 == figures["num_images"]
    again = api.Run(run.path).evaluate(split="test")
    assert again["accuracy_ci95"] == figures["accuracy_ci95"]


def test_other_groups_are_another_split(objects: Path, tiny):
    from tintype.progress import Silent

    recipe = tiny(data=str(objects), epochs=1, batch_size=16)
    one = prepare(recipe, Silent()).splits.spec.fingerprint
    other = prepare(recipe.with_(groups="{group}_*.jpg"), Silent()).splits.spec.fingerprint
    assert one != other


def test_crops_of_one_photo_stay_on_one_side(tmp_path: Path):
    for number in range(30):
        photo(tmp_path / f"photo{number // 3}_crop{number % 3}.png", number, size=64)

    splits = open_pairs(str(tmp_path), groups="{group}_crop*", patch=32, image_size=64)

    sides = [{name.split("_")[0] for name in splits[split].names} for split in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 10
    assert splits.groups["photo0_crop0.png"] == "photo0"


def test_the_command_takes_groups(objects: Path, tt):
    code, out, _ = tt("train", objects, "--groups", "{group}_*.jpg", "--model", "cnn", "--weights", "none", "--dry-run")
    assert code == 0
    assert "groups: '{group}_*.jpg'" in out

    code, _, err = tt("train", objects, "--groups", "{group}.jpg", "--model", "cnn", "--weights", "none")
    assert code == 2
    assert "makes each image a group of its own" in err
