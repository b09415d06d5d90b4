"""How folders of photos are read: splits and classes by structure, never wrong without a word."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tintype import api
from tintype.data import open_data
from tintype.data.decode import Walk, image_files
from tintype.data.layout import Layout, read_layout, split_of
from tintype.data.sets.csv_file import find_rows
from tintype.data.sets.folder import find_photos
from tintype.errors import UserError
from tintype.recipe import resolve
from tintype.tasks.upscale.sets import pairs

pytestmark = pytest.mark.usefixtures("short_pages")

Truth = dict[str, tuple[str, str]]  # {file: (class, split)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TINTYPE_DATA_ROOT", raising=False)


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def plant(root: Path, **folders: int) -> Path:
    """Make {folder: number of pictures}, "__" in a name standing for "/"; return the root."""
    seed = 0
    for name, count in folders.items():
        (root / name.replace("__", "/")).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed += 1
            picture(root / name.replace("__", "/") / f"{i}.png", seed)
    return root


def read(*files: str, one_class: bool = False) -> Layout:
    folders = sorted({str(parent) for file in files for parent in Path(file).parents} - {"."})
    return read_layout(Path("d"), Walk(sorted(files), Counter(), [], folders, []), one_class)


def answer(layout: Layout) -> Truth:
    return {
        photo: (place.label, place.split)
        for place in layout.places
        for photo in place.folder.all_photos()
    }


# ---- the words of names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("TRAIN", "train"), ("training_set", "train"), ("seg_train", "train"), ("trainA", "train"),
        ("train2017", "train"), ("trainset", "train"), ("TrainingData", "train"), ("train_val", "train"), ("Xtrain", ""),
        ("test_set", "test"), ("PublicTest", "test"), ("hold-out", "test"), ("holdout", "test"), ("test1", "test"),
        ("eval", "val"), ("dev", "val"), ("valid", "val"), ("validation_images", "val"), ("val2017", "val"),
        ("valley", ""), ("trains", ""), ("training shoes", "train"), ("attest", ""), ("contest", ""), ("evaluator", ""),
        ("train_test", ""), ("images", ""), ("", ""), ("2019", ""), ("café", ""),
    ],
)  # fmt: skip
def test_the_words_of_a_name_say_which_split_it_is(name, split):
    assert split_of(name) == split


# ---- 300 layouts with known truth -------------------------------------------------------------------------------------

CLASSES = [
    ("cats", "dogs"),
    ("a", "b", "c"),
    ("NORMAL", "PNEUMONIA"),
    ("0", "1", "2", "10"),
    ("left", "right"),
    ("tea", "été"),
]
PAIRS = [
    ("train", "test"), ("training_set", "test_set"), ("seg_train", "seg_test"), ("train", "eval"), ("Train", "Holdout"),
    ("trainset", "testset"), ("train_images", "test_images"), ("train-v2", "dev-v2"), ("TrainData", "ValData"),
    ("01_training", "02_validation"), ("train2017", "val2017"), ("x_train", "x_test"),
]  # fmt: skip
UNNAMED = [
    ("part1", "part2"),
    ("A", "B"),
    ("2019", "2020"),
    ("color", "grayscale"),
    ("learn", "exam"),
    ("amazon", "dslr"),
]


def below(folder: str, classes: tuple[str, ...], split: str, count: int = 3) -> Truth:
    return {f"{folder}/{name}/{i}.jpg": (name, split) for name in classes for i in range(count)}


def flat(folder: str, label: str, split: str = "", count: int = 3) -> Truth:
    return {f"{folder}/{i}.jpg": (label, split) for i in range(count)}


def layouts() -> Iterator[tuple[str, Truth, dict[str, tuple[str, str] | None]]]:
    """Give kind, the truth, and files that are in no class (so that any class is wrong for them)."""
    for classes in CLASSES:
        for train, other in PAIRS:
            split = split_of(other)
            both = below(train, classes, "train") | below(other, classes, split)
            yield "splits", both, {}
            yield (
                "splits with unlabelled pictures beside them",
                both,
                dict.fromkeys(["pred/1.jpg", "pred/2.jpg"]),
            )
            inner = below(f"{train}/{train}", classes, "train") | below(
                f"{other}/{other}", classes, split
            )
            yield "unpacked twice", inner, {}
        for one, two in UNNAMED:
            yield (
                "splits without words",
                below(one, classes, "train") | below(two, classes, "test"),
                {},
            )
            outer = {
                file: (file.split("/")[0], "")
                for file in below(one, classes, "") | below(two, classes, "")
            }
            yield "classes with folders of the same names", outer, {}
        train, other = PAIRS[len(classes)]
        plain: Truth = {}
        inside: Truth = {}
        deeper: Truth = {}
        for name in classes:
            plain |= flat(name, name)
            inside |= flat(f"{name}/train", name, "train") | flat(f"{name}/test", name, "test")
            deeper |= flat(f"{name}/{name}1", name) | flat(f"{name}/{name}2", name)
        yield "classes", plain, {}
        yield "splits inside classes", inside, {}
        yield "folders inside classes", deeper, {}
        yield "inner classes", {file: (file.split("/")[1], "") for file in deeper}, {}
        yield (
            "train and extra",
            below("train", classes, "train") | below("extra", classes, "test"),
            {},
        )
        yield (
            "validation and test alone",
            below("val", classes, "val") | below("test", classes, "test"),
            {},
        )
        nowhere = dict.fromkeys([f"{train}/{name}.{i}.jpg" for name in classes for i in range(4)])
        yield "flat splits", {}, nowhere | dict.fromkeys([f"{other}/{i}.jpg" for i in range(4)])
        yield (
            "unlabelled test",
            below("train", classes, "train"),
            dict.fromkeys(["test/1.jpg", "test/2.jpg"]),
        )
        yield (
            "test in one folder",
            below(train, classes, "train"),
            dict.fromkeys(["test/images/1.jpg"]),
        )
        yield (
            "train and unlabelled",
            below("train", classes, "train"),
            dict.fromkeys(["new/1.jpg", "new/2.jpg"]),
        )
        yield "a class named train", plain | flat("train", "train"), {}
        yield (
            "copies beside the splits",
            below("train", classes, "train") | below("test", classes, "test"),
            dict.fromkeys(plain),
        )


READ = {"classes", "splits", "unpacked twice", "splits inside classes", "folders inside classes", "unlabelled test",
        "splits with unlabelled pictures beside them", "a class named train", "test in one folder",
        "copies beside the splits", "validation and test alone"}  # fmt: skip
REFUSED = {"splits without words", "classes with folders of the same names", "train and extra", "flat splits",
           "train and unlabelled"}  # fmt: skip


def reading(files: list[str]) -> Layout | str:
    """Return the layout, or why it is refused."""
    try:
        return read(*files)
    except UserError as error:
        return str(error)


def test_no_layout_of_300_is_wrong_without_a_word():
    kinds: Counter[str] = Counter()
    for kind, truth, unlabelled in layouts():
        kinds[kind] += 1
        files = [*truth, *unlabelled]
        tops = {file.split("/")[0] for file in files}
        layout = reading(files)
        assert isinstance(layout, str) == (kind in REFUSED), f"{kind}: {files[:1]}: {layout}"
        if isinstance(layout, str):
            assert any(name in layout for name in tops)
        elif kind in READ:
            assert answer(layout) == truth, kind
        elif answer(layout) != truth:
            assert any(name in note for note in layout.notes for name in tops), kind
    assert kinds.total() >= 300
    assert kinds.keys() >= READ | REFUSED


def test_a_reading_that_is_not_plain_is_noted():
    for kind, truth, unlabelled in layouts():
        if kind not in READ - {
            "classes",
            "splits",
            "unlabelled test",
            "copies beside the splits",
            "validation and test alone",
        }:
            continue
        assert read(*truth, *unlabelled).notes, kind


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["left/cam1/1.jpg", "left/cam2/1.jpg", "right/cam1/1.jpg", "right/cam2/1.jpg"], "left and right hold folders"),
        (["train/1.jpg", "test/1.jpg"], "no class folders. Expected train/CLASS"),
        (["val/1.jpg", "test/1.jpg"], "no class folders. Expected test/CLASS"),
        (["train/seg_train/1.jpg", "train/seg_test/1.jpg"], "named as splits themselves"),
        (["train/train/1.jpg", "test/test/1.jpg"], "no class folders. Expected train/CLASS"),
        (["train_cats/1.jpg", "train_dogs/1.jpg", "test_cats/1.jpg", "test_dogs/1.jpg"], "no class folders"),
        (["cats/1.jpg", "dogs/1.jpg", "val/cats/1.jpg", "val/dogs/1.jpg"], "val holds folders named as those beside it"),
        (["train/a/1.jpg", "train/b/1.jpg", "training_2/a/1.jpg", "test/a/1.jpg"], "several folders for one split"),
        (["cat/train/1.jpg", "cat/test/1.jpg", "dog/1.jpg"], "dog holds photos and no folders"),
        (["train/a/im/1.jpg", "train/a/masks/1.jpg", "train/b/im/1.jpg", "train/b/masks/1.jpg", "test/a/1.jpg"], "same names"),
        (["boots/1.jpg", "test tubes/x/1.jpg", "training shoes/a/1.jpg", "training shoes/b/1.jpg"], "may be splits"),
        (["fold1/train/a/1.jpg", "fold1/train/b/1.jpg", "fold1/test/a/1.jpg", "fold1/test/b/1.jpg",
          "fold2/train/a/1.jpg", "fold2/train/b/1.jpg", "fold2/test/a/1.jpg", "fold2/test/b/1.jpg"], "same names"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused_by_name(files, said):
    with pytest.raises(UserError, match=said):
        read(*files)


def test_many_classes_of_which_two_sound_like_splits_are_classes():
    names = ("train_station", "test_kitchen", "beach", "forest", "street", "office")
    layout = read(*(f"{name}/{i}.jpg" for name in names for i in range(2)))
    assert {place.label for place in layout.places} == set(names)
    assert any("test_kitchen, train_station" in note for note in layout.notes)


def test_folders_of_a_training_set_that_lack_a_class_elsewhere():
    layout = read(
        "seg_train/a/1.jpg",
        "seg_train/b/1.jpg",
        "seg_train/c/1.jpg",
        "seg_test/a/1.jpg",
        "seg_test/b/2.jpg",
    )
    assert answer(layout)["seg_test/b/2.jpg"] == ("b", "test")


def test_one_class_takes_flat_splits():
    layout = read("train/1.jpg", "train/2.jpg", "test/1.jpg", one_class=True)
    assert answer(layout) == {
        "train/1.jpg": ("d", "train"),
        "train/2.jpg": ("d", "train"),
        "test/1.jpg": ("d", "test"),
    }
    assert answer(read("1.jpg", "2.jpg", one_class=True)) == {
        "1.jpg": ("d", ""),
        "2.jpg": ("d", ""),
    }


NAMES = st.sampled_from(
    ["train", "test", "val", "seg_train", "seg_test", "a", "b", "cat", "images", "part1", "part2"]
)


@given(st.sets(st.lists(NAMES, max_size=4).map(tuple), min_size=1, max_size=12), st.booleans())
@settings(deadline=None, max_examples=300)
def test_any_layout_is_read_or_refused_and_no_photo_is_lost_without_a_word(folders, one_class):
    files = ["/".join([*folder, f"{i}.jpg"]) for folder in folders for i in range(2)]
    try:
        layout = read(*files, one_class=one_class)
    except UserError:
        return
    taken = [photo for place in layout.places for photo in place.folder.all_photos()]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(files)
    assert not taken or len(taken) == len(files) or layout.notes


def test_thousands_of_classes_with_folders_inside_are_read_at_once():
    layout = read(*(f"{i:04d}/{part}/1.jpg" for i in range(4000) for part in (f"a{i}", "images")))
    assert len({place.label for place in layout.places}) == 4000


# ---- on the disk ------------------------------------------------------------------------------------------------------


def test_splits_under_other_names_train_and_measure(tmp_path):
    root = plant(
        tmp_path / "d",
        **{f"{s}__{c}": 6 for s in ("training_set", "test_set") for c in ("cats", "dogs")},
    )
    splits = open_data(str(root), image_size=8)
    assert splits.spec.class_names == ("cats", "dogs")
    assert {name.split("/")[0] for name in splits.test.names} == {"test_set"}
    assert {name.split("/")[0] for name in (*splits.train.names, *splits.val.names)} == {
        "training_set"
    }
    assert any("test_set is test, training_set is train" in note for note in splits.notes)


@pytest.mark.parametrize("command", ["train --dry-run", "audit"])
def test_every_command_reads_the_same_layouts(tt, tmp_path, command):
    plant(tmp_path / "d", **{f"{s}__{c}": 4 for s in ("seg_train", "seg_test") for c in ("a", "b")})
    code, said, errors = tt(
        *command.split(), "d", *["--model", "ann"] * command.startswith("train")
    )
    assert code == 0, errors
    assert "seg_test is test, seg_train is train" in said + errors
    plant(tmp_path / "flat", train=4, test=4)
    code, _, errors = tt(*command.split(), "flat")
    assert code == 2
    assert "no class folders" in errors


def test_evaluate_reads_the_same_layouts(tt, tmp_path, finished_run, digit_files):
    for split in ("training_set", "test_set"):
        shutil.copytree(digit_files, tmp_path / "d" / split)
    assert finished_run.evaluate(data=str(tmp_path / "d"))["num_images"] == 240
    assert finished_run.evaluate(data=str(tmp_path / "d"), split="test")["num_images"] == 120
    plant(tmp_path / "digits", a=2, b=2)
    assert "not the folder digits that is here" in finished_run.evaluate(data="digits")["remark"]


def test_longer_names_are_splits_of_photos_to_enlarge():
    files = ["DIV2K_train/1.png", "DIV2K_valid/2.png", "3.png"]
    assert pairs._splits_by_words(files) == dict(zip(files, ("train", "val", ""), strict=True))
    assert pairs._splits_by_words(["test drive/1.png", "holidays/2.png"]) == {}
    assert pairs._splits_by_words(["train/1.png", "seg_test/2.png"]) == {}, (
        "read by the plain names"
    )


def test_run_folders_are_never_classes(tt, tmp_path, monkeypatch):
    root = plant(tmp_path / "d", cat=8, dog=8)
    monkeypatch.chdir(root)
    settings = {
        "model": "ann",
        "weights": "none",
        "tune": "all",
        "epochs": 1,
        "image_size": 8,
        "device": "cpu",
    }
    monkeypatch.setattr("tintype.training.run.write_report", lambda path: path / "report.html")
    before = api.plan(".", **settings).splits
    run = api.train(".", name="first", **settings)
    picture(run.path / "samples" / "1.png")
    picture(root / "cat" / "runs" / "second" / "samples" / "1.png")
    for file in ("recipe.yaml", "status.json"):
        (root / "cat" / "runs" / "second" / file).write_text("{}", encoding="utf-8")
    (root / "tuned" / "final").mkdir(parents=True)
    (root / "tuned" / "tune.yaml").write_text("", encoding="utf-8")
    (root / "tuned" / "optuna.db").write_text("", encoding="utf-8")
    picture(root / "tuned" / "final" / "1.png")
    after = api.plan(".", **settings).splits
    assert after.spec == before.spec
    assert (
        "folders of tintype's own runs are passed over: cat/runs/second, runs/first, tuned"
        in after.notes
    )
    assert not any("runs" in note and "class folder" in note for note in after.notes)
    assert len(image_files(root)) == 16
    assert [path.name for path in image_files(run.path / "samples") if path.name == "1.png"] == [
        "1.png"
    ]
    code, _, errors = tt("audit", root / "runs")
    assert code == 2
    assert "only what tintype made" in errors


def test_accents_in_two_spellings_are_one_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = plant(
        tmp_path / "d",
        **{f"train__{composed}": 5, "train__tea": 5, f"test__{apart}": 5, "test__tea": 5},
    )
    splits = open_data(str(root), image_size=8)
    assert splits.spec.class_names == (composed, "tea")
    assert splits.test.targets.tolist() == [0] * 5 + [1] * 5
    both = plant(tmp_path / "both", **{composed: 5, apart: 5, "tea": 5})
    if len(list(both.iterdir())) == 3:  # some file systems keep one spelling
        assert Counter(photo.label for photo in find_photos(both).photos) == {
            composed: 10,
            "tea": 5,
        }
        assert any("one class: café" in note for note in find_photos(both).notes)


def test_classes_that_differ_in_case_between_splits_are_named(tmp_path):
    root = plant(tmp_path / "d", train__Cat=4, train__dog=4, test__cat=4, test__dog=4)
    with pytest.raises(UserError, match=r"'cat' .* no training image.*'Cat'.*only in case"):
        open_data(str(root), image_size=8)


def test_folders_below_classes_are_named(tmp_path):
    root = plant(tmp_path / "d", animal__cat=3, animal__dog=3, plant__tree=3, plant__rose=3)
    found = find_photos(root)
    assert {photo.label for photo in found.photos} == {"animal", "plant"}
    note = next(note for note in found.notes if "below them" in note)
    assert "animal/cat, animal/dog, plant/rose, plant/tree" in note
    assert "move them up" in note


def test_folders_in_a_folder_of_its_own_are_hinted_at(tmp_path):
    root = plant(tmp_path / "d", archive__pets__cat=3, archive__pets__dog=3)
    with pytest.raises(UserError, match=r"one class only .* Did you mean .*d/archive/pets\?"):
        open_data(str(root), image_size=8)


def test_a_link_to_a_class_is_read_once_under_its_own_name(tmp_path):
    root = plant(tmp_path / "d", cat=3, dog=3)
    (root / "alias").symlink_to(root / "dog")
    (root / "cat" / "other").symlink_to(root / "dog")
    found = find_photos(root)
    assert Counter(photo.label for photo in found.photos) == {"cat": 3, "dog": 3}
    assert {name for name, _ in found.skipped} == {"alias", "cat/other"}


@pytest.mark.parametrize("kind", ["jxl", "jp2", "cr2", "psd"])
def test_pictures_of_a_kind_that_is_not_read_are_told(tmp_path, kind):
    for label in ("a", "b"):
        (tmp_path / "d" / label).mkdir(parents=True)
        (tmp_path / "d" / label / f"1.{kind}").write_bytes(b"\xff\n" + bytes(100))
    with pytest.raises(UserError, match=rf"2 \.{kind} \("):
        find_photos(tmp_path / "d")
    plant(tmp_path / "d", a=2, b=2)
    assert any(
        f"not read are passed over: 2 .{kind}" in note for note in find_photos(tmp_path / "d").notes
    )


def test_validation_and_test_alone_cannot_be_trained_on(tmp_path):
    root = plant(tmp_path / "d", val__a=3, val__b=3, test__a=3, test__b=3)
    with pytest.raises(
        UserError, match="no image of d is for training: all are given to val and test"
    ):
        open_data(str(root), image_size=8)


# ---- lists ------------------------------------------------------------------------------------------------------------


def table(root: Path, lines: list[str], name: str = "list.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


def rows_with(column: str, value: Callable[[int], str]) -> list[str]:
    rows = [f"{c}/{i}.png,{c},{value(i)}" for c in ("a", "b") for i in range(10)]
    return [f"path,label,{column}", *rows]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("set", ("train", "val", "test")),
        ("Subset", ("Training", "valid", "TEST")),
        ("data set", ("train", "dev", "holdout")),
        ("partition", ("training_set", "validation_set", "test_set")),
        ("Usage", ("Training", "Validation", "PrivateTest")),
        ("kind", ("train", "eval", "test")),
    ],
)
def test_a_column_of_splits_is_told_by_its_values(tmp_path, column, names):
    root = plant(tmp_path, a=10, b=10)
    path = table(root, rows_with(column, lambda i: names[0 if i < 6 else 1 if i < 8 else 2]))
    splits = open_data(str(path), image_size=8)
    assert [len(splits[split]) for split in ("train", "val", "test")] == [12, 4, 4]
    assert {int(name[2]) for name in splits.test.names} == {8, 9}
    assert any(note.startswith(f"column '{column}' gives the splits") for note in splits.notes)


@pytest.mark.parametrize(
    ("column", "value"), [("fold", lambda i: str(i % 5)), ("set", lambda i: "ABC"[i % 3]), ("is_valid", lambda i: str(i > 7))]
)  # fmt: skip
def test_a_column_that_only_sounds_like_splits_is_named(tmp_path, column, value):
    found = find_rows(table(plant(tmp_path, a=10, b=10), rows_with(column, value)), None)
    assert not any(photo.split for photo in found.photos)
    assert any(
        note.startswith(f"column '{column}' is not read as a split, since its values are")
        for note in found.notes
    )


def test_other_columns_are_left_alone(tmp_path):
    lines = rows_with("vehicle", lambda i: ("train", "car", "test")[i % 3])
    notes = find_rows(table(plant(tmp_path, a=10, b=10), lines), None).notes
    assert notes == ["figures are also given by column: vehicle"]  # and no split is read


def test_columns_of_splits_that_contradict_are_refused(tmp_path):
    root = plant(tmp_path, a=10, b=10)
    with pytest.raises(UserError, match=r"column 'subset' .* holds splits and also 'spare'"):
        find_rows(
            table(root, rows_with("subset", lambda i: ("train", "test", "spare")[i % 3])), None
        )
    header, *rows = rows_with("set", lambda i: ("train", "test")[i % 2])
    lines = [
        f"{header},phase",
        *(f"{row},{('train', 'test')[i > 5]}" for i, row in enumerate(rows)),
    ]
    with pytest.raises(UserError, match=r"'set' and 'phase' .* different splits"):
        find_rows(table(root, lines), None)


def test_ids_without_an_ending_find_their_files(tmp_path):
    root = plant(tmp_path / "im", a=3, b=3)
    (root / "a" / "2").mkdir()
    picture(root / "1.2.840.png")
    ids = [f"{c}/{i},{c}" for c in ("a", "b") for i in range(3)]
    path = table(tmp_path, ["image,label", *ids, "1.2.840,a", "A/0.PNG,a", "b/0.png,b"])
    found = find_rows(path, root)
    assert {
        photo.name: Path(photo.path).relative_to(root).as_posix() for photo in found.photos
    } == {
        **{f"{c}/{i}": f"{c}/{i}.png" for c in ("a", "b") for i in range(3)},
        "1.2.840": "1.2.840.png",
    }
    assert {name for name, _ in found.skipped} == {"A/0.PNG (row 9)", "b/0.png (row 10)"}
    assert any(
        "7 names are found by adding the ending: a/0 (0.png)" in note for note in found.notes
    )
    picture(root / "a" / "0.jpg")
    with pytest.raises(UserError, match=r"row 2 .*'0' may be any of 0\.jpg, 0\.png"):
        find_rows(path, root)


def test_names_match_files_in_either_spelling_of_accents(tmp_path):
    composed, apart = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    root = plant(tmp_path, **{apart: 2})
    picture(root / "b" / f"{composed}.png")
    lines = [
        "path,label",
        f"{composed}/0.png,{apart}",
        f"{apart}/1.png,{composed}",
        f"b/{apart}.png,b",
    ]
    found = find_rows(table(root, lines), None)
    assert [Path(photo.path).is_file() for photo in found.photos] == [True] * 3
    assert {photo.label for photo in found.photos} == {composed, "b"}
    assert found.notes == []


def test_lists_of_which_no_file_is_there_say_where_they_looked(tmp_path):
    path = table(plant(tmp_path, a=2), ["path,label", "x/0.png,a", "x/1.png,b"])
    with pytest.raises(
        UserError,
        match=r"none of the 2 images .* is there. The first: x/0.png, looked for in .*data_root=",
    ):
        find_rows(path, None)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "LIST.CSV", "list.tsv"])
def test_lists_are_read_by_position(tt, tmp_path, name):
    root = plant(tmp_path / "im", a=6, b=6)
    rows = [(f"{c}/{i}.png", c) for c in ("a", "b") for i in range(6)]
    if name.endswith("jsonl"):
        lines = [
            json.dumps({"file_name": path, "label": label, "objects": {"bbox": []}})
            for path, label in rows
        ]
    else:
        comma = "\t" if name.endswith("tsv") else ","
        lines = [comma.join(row) for row in [("file_name", "label"), *rows]]
    path = table(root, lines, name)
    code, said, errors = tt(
        "train", path, "--model", "ann", "--weights", "none", "--dry-run", "--json"
    )
    assert code == 0, errors
    assert json.loads(said)["data"]["classes"] == ["a", "b"]
    code, _, errors = tt("audit", path)
    assert code in (0, 1), errors


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1 .* is no JSON"),
        (["[1]"], "line 1 .* is no object"),
        (['{"file_name": "1.png"}'], "no column 'label'"),
        ([""], "no column 'path'"),
    ],
)
def test_json_lines_that_are_none_are_refused(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        find_rows(table(tmp_path, lines, "metadata.jsonl"), None)


@pytest.mark.parametrize(
    ("file", "said"), [("0.png", "is one picture"), ("photos.zip", "is an archive"), ("notes.txt", "is a file, but not a .csv")]
)  # fmt: skip
@pytest.mark.parametrize("command", ["train", "train --data", "train photos-x2 --data", "audit"])
def test_a_file_that_is_no_data_is_refused_as_what_it_is(tt, tmp_path, command, file, said):
    (tmp_path / file).write_bytes(b"x")
    code, _, errors = tt(*command.split(), file)
    assert code == 2
    assert said in errors


def test_a_folder_with_a_list_but_no_classes_names_the_list(tmp_path):
    root = plant(tmp_path / "im", **{"": 3})
    table(root, ["file_name,label", "0.png,a"], "metadata.csv")
    with pytest.raises(UserError, match=r"no class folders.*tt\.train\('.*im/metadata\.csv'\)"):
        find_photos(root)


# ---- names of built-in sets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("train photos-x2 --dry-run --data", "photos"),
        ("train --dry-run --data", "digits"),
        ("train --dry-run", "digits"),
        ("audit --no-labels", "digits"),
    ],
)
def test_a_folder_named_as_a_built_in_set_is_named(tt, tmp_path, command, name):
    assert "built-in set" not in "".join(tt(*command.split(), name)[1:])
    plant(tmp_path / name, a=4, b=4)
    code, said, errors = tt(*command.split(), name)
    assert code in (0, 1), errors
    assert (
        f"data '{name}' is the built-in set, not the folder {name} that is here; for the folder type ./{name}"
        in said + errors
    )


def test_a_folder_named_as_a_built_in_set_is_taken_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "digits", a=6, b=6)
    assert open_data("./digits", image_size=8).spec.class_names == ("a", "b")
    assert open_data("digits").spec.num_classes == 10
    assert "not the folder digits" in resolve("digits")[1]
