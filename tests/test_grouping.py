"""Photos in groups, by a pattern of their names or by EXIF time: what is a group, the split, the
figures, the errors.
"""

from __future__ import annotations

import csv
import datetime
import html
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tintype import api
from tintype.data import open_data
from tintype.errors import UserError
from tintype.grouping import (
    Taken,
    check_groups,
    parse_groups,
    suggest_by_names,
    suggest_by_times,
    united,
)
from tintype.recipe import build
from tintype.runs.folder import RunFolder
from tintype.statistics import clustered_interval
from tintype.tasks.upscale.sets.pairs import open_pairs
from tintype.training.prepare import prepare
from tintype.verbs.audit import audit

pytestmark = pytest.mark.usefixtures("short_pages")

NAMES = [
    "cat/cat_012_1.jpg",
    "cat/cat_012_2.jpg",
    "cat/cat_013_1.jpg",
    "dog/clip3_frame0001.JPG",
    "dog/other.jpg",
]


def photo(
    path: Path, seed: int, when: datetime.datetime | None = None, camera: str = "A", size: int = 32
) -> None:
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
            photo(
                root / label / f"{label}_{number // 4:03d}_{number % 4 + 1}.jpg", 1000 * c + number
            )
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
    taken = [
        Taken(0, "A"),
        Taken(50, "A"),
        Taken(100, "A"),
        Taken(161, "A"),
        Taken(60, "B"),
        None,
        Taken(120, "B"),
    ]

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
    # bursts of 4 photos, 0.4 s apart, over midnight; a new one every two minutes
    for number in range(40):
        when = start + datetime.timedelta(minutes=2 * (number // 4), seconds=0.4 * (number % 4))
        photo(tmp_path / "ab"[number % 8 // 4] / f"{number}.jpg", number, when)
    photo(tmp_path / "a" / "none.jpg", 99)

    splits = open_data(str(tmp_path), groups="exif:1s")

    assert (
        "groups: 10 of 4 images each (by EXIF time, at most 1 s apart); 1 stands alone"
        in splits.notes
    ), splits.notes
    assert sorted(len(splits[split]) % 4 for split in ("train", "val", "test")) == [0, 0, 1]
    alone = open_data(str(tmp_path), groups="exif:0.1s")
    assert "groups: none, no two photos of one camera were taken within 0.1 s" in alone.notes


def test_photos_that_say_no_time_are_one_line(objects: Path):
    with pytest.raises(
        UserError, match="none of the 80 images says in its EXIF data when it was taken"
    ):
        open_data(str(objects), groups="exif:60s")


def test_groups_join_those_of_the_column(objects: Path, tmp_path: Path):
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "group"])
        for path in sorted(objects.rglob("*.jpg")):
            object_number = int(path.stem.split("_")[1])
            rows.writerow(
                [
                    path,
                    path.parent.name,
                    f"box {object_number // 2}" if path.parent.name == "cat" else "",
                ]
            )

    splits = open_data(str(tmp_path / "list.csv"), groups="{group}_*.jpg")

    assert len(set(splits.groups.values())) == 15  # 5 boxes of 2 cats, 10 dogs


def test_a_group_on_both_sides_of_a_given_split_is_told(tmp_path: Path):
    for number, split in enumerate(
        ("train", "train", "val", "test", "train", "train", "val", "test")
    ):
        photo(tmp_path / split / "ab"[number // 4] / f"x{number // 3}_{number}.jpg", number)

    notes = open_data(str(tmp_path), groups="{group}_*.jpg").notes

    assert any(
        note.startswith("LEAK: 3 groups have images on both sides of the split") for note in notes
    ), notes


def test_a_run_keeps_its_groups_and_measures_by_them(objects: Path, tmp_path: Path, tiny, train_in):
    recipe = tiny(data=str(objects), groups="{group}_*.jpg", epochs=1, batch_size=16)
    run = train_in(tmp_path / "run", recipe)

    assert RunFolder.open(run.path).recipe.groups == "{group}_*.jpg"
    figures = run.read("evaluation.json")["splits"]["test"]
    assert figures["num_groups"] * 4 == figures["num_images"]
    with (run.path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    evaluation = run.read("evaluation.json")
    for of_class in evaluation["per_class"]["test"]:
        mine = [row for row in rows if row["target"] == of_class["name"]]
        right = [row["prediction"] == row["target"] for row in mine]
        assert of_class["recall_ci95"] == list(
            clustered_interval(right, [row["group"] for row in mine])
        )
    filled = [each for each in evaluation["reliability"]["test"] if each["count"]]
    assert all(
        each["accuracy_ci95"][0] <= each["accuracy"] <= each["accuracy_ci95"][1] for each in filled
    )

    again = api.Run(run.path).evaluate(split="test")
    assert again["accuracy_ci95"] == figures["accuracy_ci95"]


def test_other_groups_are_another_split(objects: Path, tiny):
    from tintype.progress import Watcher

    recipe = tiny(data=str(objects), epochs=1, batch_size=16)
    one = prepare(recipe, Watcher()).splits.spec.fingerprint
    other = prepare(recipe.replace(groups="{group}_*.jpg"), Watcher()).splits.spec.fingerprint
    assert one != other


def test_crops_of_one_photo_stay_on_one_side(tmp_path: Path):
    for number in range(30):
        photo(tmp_path / f"photo{number // 3}_crop{number % 3}.png", number, size=64)

    splits = open_pairs(str(tmp_path), groups="{group}_crop*", patch=32, image_size=64)

    sides = [
        {name.split("_")[0] for name in splits[split].names} for split in ("train", "val", "test")
    ]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 10
    assert splits.groups["photo0_crop0.png"] == "photo0"


def test_the_command_takes_groups(objects: Path, tt):
    code, out, _ = tt(
        "train",
        objects,
        "--groups",
        "{group}_*.jpg",
        "--model",
        "cnn",
        "--weights",
        "none",
        "--dry-run",
    )
    assert code == 0
    assert "groups: '{group}_*.jpg'" in out

    code, _, err = tt(
        "train", objects, "--groups", "{group}.jpg", "--model", "cnn", "--weights", "none"
    )
    assert code == 2
    assert "makes each image a group of its own" in err


# Names with known truth

CLASSES = ("cat", "dog", "fox")
DRAW = random.Random(0)


def in_classes(
    name: str, counts: Mapping[str, Iterable[object]], classes: tuple[str, ...] = CLASSES
) -> list[tuple[str, str]]:
    """Return (path, class) for each class and each combination of numbers; {h} in `name` is a
    random code.
    """
    keys = list(counts)
    return [
        (
            f"{c}/{name.format(c=c, h=DRAW.getrandbits(64), **dict(zip(keys, values, strict=True)))}",
            c,
        )
        for c in classes
        for values in product(*counts.values())
    ]


PETS = ("Abyssinian", "american_pit_bull_terrier", "Bombay")
MATERIALS = ("cardboard", "glass", "metal")
DAYS = {"d": range(10, 28), "i": range(10, 20)}
PLAIN = {
    "trashnet": in_classes("{c}{i}.jpg", {"i": range(1, 400)}, MATERIALS),
    "pets": in_classes("{c}_{i}.jpg", {"i": range(1, 200, 17)}, PETS),
    "pets by kind": [
        (f"animals/{n.split('/')[1]}", "x")
        for n, _ in in_classes("{c}_{i}.jpg", {"i": range(30)}, PETS)
    ],
    "digits": [(f"{i:05d}", str(i % 10)) for i in range(1797)],
    "mnist": [(f"{'train' if i < 6000 else 'test'}/{i:05d}", str(i * 7 % 10)) for i in range(7000)],
    "camera": in_classes("IMG_{i:04d}.JPG", {"i": range(100)}),
    "cameras": [
        p
        for a in ("IMG_", "DSC", "P101", "img-")
        for p in in_classes(a + "{i:04d}.jpg", {"i": range(50)})
    ],
    "class and number": in_classes("{c}_{i:04d}.png", {"i": range(50)}, tuple("0123456789")),
    "imagenet": in_classes(
        "{c}_{i}.JPEG", {"i": range(7, 20000, 97)}, ("n01440764", "n01443537", "n01484850")
    ),
    "one prefix": in_classes("ILSVRC2012_val_{i:08d}.JPEG", {"i": range(1, 50000, 499)}),
    "moments": in_classes("IMG_202405{d}_1204{i}.jpg", DAYS),
    "days": in_classes("202405{d}_{i:03d}.jpg", DAYS),
    "whatsapp": in_classes("IMG-202405{d}-WA{i:04d}.jpg", DAYS),
    "dropbox": in_classes("2024-05-{d} 12.{i}.30.jpg", DAYS),
    "codes": in_classes("{h:016x}.jpg", {"i": range(300)}),
    "short codes": [
        (f"{p}/{DRAW.getrandbits(32):08x}.jpg", p) for p in CLASSES for _ in range(300)
    ],
    "sizes": in_classes("photo_640x480_{i:04d}.jpg", {"i": range(100)}),
    "some copies": in_classes("IMG_{i:04d}.jpg", {"i": range(99)})
    + in_classes("IMG_{i:04d} (1).jpg", {"i": range(20)}),
    "number and class": in_classes("{i:04d}_{c}.jpg", {"i": range(100)}),
    "birds": in_classes("Black_{c}_{i:04d}_{h}.jpg", {"i": range(60)}),
    "one object each": in_classes(
        "{c}__{i}.png", {"i": range(0, 360, 5)}, tuple(f"obj{k}" for k in range(12))
    ),
    "inner classes": [
        (f"pet/{name}", "pet")
        for name, _ in in_classes("{c}{i}.jpg", {"i": range(40)}, tuple("abcdef"))
    ],
    "too few": in_classes("{c}_{o}_{i}.jpg", {"o": range(2), "i": range(4)}, ("cat",)),
}
GROUPED = {
    "objects": (in_classes("{c}_{o:03d}_{i}.jpg", {"o": range(20), "i": range(1, 5)}), r"(\w+_\d+)_\d\.jpg"),
    "clips": (in_classes("clip{o}_frame{i:04d}.jpg", {"o": range(9), "i": range(40)}), r"(clip\d+)_"),
    "eyes": (in_classes("{o}_{i}.jpeg", {"o": range(90), "i": ("left", "right")}), r"/(\d+)_"),
    "sides": (in_classes("P{o:03d}_{i}.jpg", {"o": range(90), "i": "LR"}), r"(P\d+)_"),
    "letters": (in_classes("img{o:03d}{i}.jpg", {"o": range(50), "i": "abc"}), r"(img\d+)[abc]"),
    "x-rays": (in_classes("person{o}_bacteria_{i}.jpeg", {"o": range(50), "i": range(1, 4)}), r"(person\d+)_"),
    "slides": (in_classes("SOB_B-14-{o}AB-40-{i:03d}.png", {"o": range(22549, 22570), "i": range(1, 9)}), r"-(\d+)AB"),
    "pedestrians": (in_classes("{o:04d}_c{i}s1_{h}_00.jpg", {"o": range(60), "i": range(1, 6)}), r"/(\d{4})_c"),
    "folders": (in_classes("clip_{o}/{i:03d}.jpg", {"o": range(8), "i": range(12)}), r"(.+)/"),
    "augmented": (in_classes("{c}_{o}_aug{i}.png", {"o": range(30), "i": range(3)}), r"(\w+_\d+)_aug"),
    "exported": (in_classes("IMG_{o:04d}_JPG.rf.{h:016x}{i}.jpg", {"o": range(30), "i": range(3)}), r"(IMG_\d+)_"),
    "crops of frames": (
        in_classes("clip{o}_frame{f}_crop{i}.png", {"o": range(12), "f": range(5), "i": range(3)}),
        r"(clip\d+)_",
    ),
    "bursts": (in_classes("IMG_202405{o}_121230_BURST{i:03d}.jpg", {"o": range(10, 28), "i": range(5)}), r"(2024\d+)_"),
    "numbered": (in_classes("obj {o} ({i}).jpg", {"o": range(20), "i": range(1, 5)}), r"(obj \d+) "),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_numbering_suggests_no_groups(kind):
    names, labels = zip(*PLAIN[kind], strict=True)
    assert suggest_by_names(names, labels) is None


@pytest.mark.parametrize("kind", GROUPED)
def test_names_of_objects_and_clips_suggest_their_groups(kind):
    pairs, truth = GROUPED[kind]
    names, labels = zip(*pairs, strict=True)
    expected = [re.search(truth, name)[1] for name in names]  # pyright: ignore[reportOptionalSubscript]

    found = suggest_by_names(names, labels)

    assert found is not None
    assert len(found.groups) == len(names)
    assert set(zip(found.groups, expected, strict=True)) == set(
        dict(zip(found.groups, expected, strict=True)).items()
    ), "one group of the truth for each group that was found"
    assert len(set(found.groups)) == len(set(expected)), "and the other way round"
    assert parse_groups(found.text).of_names(names) == found.groups, (
        "what is typed gives what was counted"
    )


def test_names_are_looked_at_in_part_where_there_are_many():
    names, labels = zip(
        *in_classes("{c}_{o:04d}_{i}.jpg", {"o": range(800), "i": range(4)}), strict=True
    )
    found = suggest_by_names(names, labels)
    assert found is not None
    assert len(found.sizes) == 2400
    assert found.median == 4


def test_bursts_suggest_groups_and_one_moment_for_all_does_not():
    names = [f"{i}.jpg" for i in range(60)]
    bursts = [Taken(600 * (i // 3) + i % 3, "A") for i in range(60)]

    found = suggest_by_times(bursts, names)
    assert found is not None
    assert found.sizes == [3] * 20
    assert found.option == "--groups exif:5s"

    assert suggest_by_times([Taken(0, "A")] * 60, names) is None
    assert suggest_by_times([Taken(60 * i, "A") for i in range(60)], names) is None
    assert suggest_by_times([None] * 60, names) is None


def test_the_audit_names_the_groups_that_names_suggest(objects: Path, tt, tmp_path: Path):
    code, out, _ = tt("audit", objects, "--no-labels", "--html", "page.html")
    assert code == 0
    typed = f"tintype train {objects} --groups '{{group}}_*.jpg'"
    assert "Names that suggest groups: 20" in out
    assert typed in out

    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert typed in html.unescape(page)
    assert 'id="groups-by-name"' in page

    code, out, _ = tt("audit", objects, "--no-labels", "--json", "--strict")
    assert code == 0, "a suggestion is not serious"
    (finding,) = [each for each in json.loads(out)["findings"] if each["kind"] == "groups by name"]
    assert finding["suggestion"] == {
        "groups": "{group}_*.jpg", "option": "--groups '{group}_*.jpg'", "num_groups": 20, "median_size": 4, "num_divided": 0,
    }  # fmt: skip


def test_the_audit_names_bursts_and_those_on_both_sides(tmp_path: Path):
    start = datetime.datetime(2024, 5, 1, 12)
    for number in range(36):
        when = start + datetime.timedelta(minutes=number // 3, seconds=number % 3)
        split = "test" if number % 9 == 0 else "train"
        photo(tmp_path / split / "ab"[number // 18] / f"x{number}.jpg", number, when)

    finding = audit(tmp_path, labels=False)["groups by time"]

    assert finding.suggestion is not None
    assert finding.suggestion["option"] == "--groups exif:5s"
    assert (finding.suggestion["num_groups"], finding.suggestion["median_size"]) == (12, 3)
    assert finding.suggestion["num_divided"] == 4
    assert "4 of them lie on both sides of the given split" in finding.text


def test_the_audit_suggests_nothing_where_groups_are_given(objects: Path, tmp_path: Path):
    table = tmp_path / "list.csv"
    rows = [f"{path},{path.parent.name},{path.stem[:7]}" for path in sorted(objects.rglob("*.jpg"))]
    table.write_text("\n".join(["path,label,group", *rows]), encoding="utf-8")
    assert "groups by name" not in audit(table, labels=False)


def test_training_names_what_to_type_once(objects: Path):
    notes = open_data(str(objects)).notes
    (line,) = [note for note in notes if "suggest" in note]
    assert "20 groups" in line
    assert "--groups '{group}_*.jpg'" in line
    assert not any(
        "suggest" in note for note in open_data(str(objects), groups="{group}_*.jpg").notes
    )


def test_an_upscaler_measures_crops_by_photo(tmp_path: Path, tiny, train_in):
    import statsmodels.api as sm

    for number in range(60):
        photo(
            tmp_path / "crops" / f"photo{number // 3:02d}_crop{number % 3}.png",
            number // 3,
            size=48 + number % 3,
        )
    fields = {
        "task": "upscale",
        "model": "espcn",
        "model_options": {},
        "batch_size": 8,
        "lr": 0.003,
        "optimizer": "adam",
    }
    options = {"scale": 2, "patch": 32}
    recipe = tiny(
        **fields,
        task_options=options,
        data=str(tmp_path / "crops"),
        groups="{group}_crop*",
        steps=1,
        test_fraction=36,
    )
    run = train_in(tmp_path / "run", recipe)

    with (run.path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    gain = np.array([float(row["psnr_y"]) - float(row["bicubic_psnr_y"]) for row in rows])
    groups = [row["group"] for row in rows]
    outside = sm.OLS(gain, np.ones(len(gain))).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.unique(groups, return_inverse=True)[1]},
        use_t=True,
    )

    evaluation = run.read("evaluation.json")
    figures = evaluation["splits"]["test"]
    assert figures["num_groups"] == len(set(groups)) == 12
    assert figures["gain_ci95"] == pytest.approx(
        list(outside.conf_int()[0]), abs=0.2 * np.ptp(outside.conf_int()[0])
    )
    assert "36 test photos in 12 groups" in evaluation["verdict"]["text"]
