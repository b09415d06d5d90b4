"""A finished run is measured again: on photos that it has seen, on one class, where nothing can be
written.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from sklearn.metrics import classification_report

import tintype
from tintype import api
from tintype.data.identity import Identities, identify
from tintype.data.pixels import ResidentPixels
from tintype.data.source import DataSpec, StoredSource
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("short_pages")

PIECE = 64


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """60 pieces of two photos as PNG, in class folders; pieces do not overlap."""
    root = tmp_path_factory.mktemp("photos")
    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir()
        for i in range(30):
            top, left = divmod(i, 6)
            piece = photo[80 * top : 80 * top + 72, 100 * left : 100 * left + 96]
            Image.fromarray(piece).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> api.Run:
    recipe = {
        "model": "cnn",
        "weights": "none",
        "epochs": 2,
        "image_size": PIECE,
        "device": "cpu",
        "augment": "none",
    }
    return api.train(
        str(photos), out=tmp_path_factory.mktemp("runs"), name="r", watcher=Watcher(), **recipe
    )


def counts(run: api.Run) -> dict[str, int]:
    return run.read("data.json")["num_images"]


def test_photos_of_training_and_validation_are_counted_and_left_out(run, photos):
    figures = run.evaluate(data=str(photos))
    assert figures["num_images"] == 60
    assert figures["seen"] == {"train": counts(run)["train"], "val": counts(run)["val"], "near": 0}
    assert figures["without_seen"]["num_images"] == counts(run)["test"]
    assert figures["without_seen"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert "WARNING" in figures["remark"]


@pytest.mark.parametrize(
    "change",
    [
        lambda image, path: image.save(path.with_suffix(".jpg"), quality=80),
        lambda image, path: image.resize((72, 54)).save(path),
        lambda image, path: ImageOps.mirror(image).save(path),
    ],
    ids=["saved again", "smaller", "mirrored"],
)
def test_copies_that_were_changed_are_known_again(run, photos, tmp_path, change):
    names = [row["name"] for row in run.read_table("splits.csv") if row["split"] == "train"]
    for name in names[::3]:
        target = tmp_path / "other" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        change(Image.open(photos / name), target)
    figures = run.evaluate(data=str(tmp_path / "other"))
    assert figures["seen"]["near"] >= 0.8 * len(names[::3])  # pieces of sky are nearly flat
    assert figures["seen"]["val"] == 0


def test_new_photos_are_not_taken_for_seen_ones(run, tmp_path):
    """Pieces of the same two photos in other places and in another size: close relatives, but no
    copies.
    """
    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (tmp_path / "new" / name).mkdir(parents=True)
        for i in range(12):
            top, left = divmod(i, 4)
            piece = Image.fromarray(photo[40 + 120 * top :][:100, 50 + 140 * left :][:, :130])
            piece.save(tmp_path / "new" / name / f"{i}.png")
    figures = run.evaluate(data=str(tmp_path / "new"))
    assert figures["seen"] == {"train": 0, "val": 0, "near": 0}
    assert "without_seen" not in figures
    assert figures["remark"].startswith("None of the 24 images")


def test_where_every_photo_was_seen_nothing_is_left_to_say(run, photos, tmp_path):
    names = [row["name"] for row in run.read_table("splits.csv") if row["split"] == "train"]
    for name in names:
        (tmp_path / "seen" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, tmp_path / "seen" / name)
    figures = run.evaluate(data=str(tmp_path / "seen"))
    assert "without_seen" not in figures
    assert "nothing about new images" in figures["remark"]


def test_the_terminal_shows_both_figures(tt, run, photos):
    code, output, _ = tt("evaluate", run.path, "--data", photos)
    assert code == 0
    assert "without seen" in output
    assert f"{counts(run)['train']} in training and {counts(run)['val']} in validation" in output


def test_a_run_of_an_earlier_version_says_that_it_cannot_be_checked(run, photos, tmp_path):
    old = api.Run(shutil.copytree(run.path, tmp_path / "old"))
    (old.path / "photos.safetensors").unlink()
    figures = old.evaluate(data=str(photos))
    assert figures["accuracy"] == run.evaluate(data=str(photos))["accuracy"]
    assert "cannot be checked" in figures["remark"]
    (old.path / "photos.safetensors").write_bytes(b"\xff" * 100)
    assert "cannot be checked" in old.evaluate(data=str(photos))["remark"]


def test_a_packed_run_carries_its_digests(run, photos, tmp_path):
    packed = run.pack(tmp_path / "r.zip")
    assert (
        tintype.load(str(packed)).evaluate(data=str(photos))["seen"]["train"]
        == counts(run)["train"]
    )


def test_the_file_follows_the_table_of_splits_and_is_the_same_again(run, photos, tmp_path):
    stored = Identities.load(run.path / "photos.safetensors")
    assert stored is not None
    rows = run.read_table("splits.csv")
    assert [("train", "val", "test")[k] for k in stored.splits] == [row["split"] for row in rows]
    assert stored.shape == (PIECE, PIECE, 3)
    stored.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (run.path / "photos.safetensors").read_bytes()


def test_pictures_that_all_look_alike_are_known_by_their_pixels_alone():
    """Scans of one form: their hashes agree, so a new scan would pass for a seen one."""
    draw = np.random.default_rng(0)
    form = np.kron(draw.integers(0, 255, (8, 8, 1)), np.ones((8, 8, 3))).astype(np.uint8)
    sheets = np.repeat(form[None], 41, axis=0)
    for sheet in sheets:
        y, x = draw.integers(10, 50, 2)
        sheet[y : y + 4, x : x + 4] = draw.integers(0, 255)
    spec = DataSpec("forms", 3, 64, 64, Classes(("a",)), (0.5,) * 3, (0.5,) * 3, "")

    def source(pixels: np.ndarray) -> StoredSource:
        names = [str(i) for i in range(len(pixels))]
        store = ResidentPixels(torch.from_numpy(pixels))
        return StoredSource(spec, store, torch.zeros(len(pixels), dtype=torch.int64), names)

    stored = identify({"train": source(sheets[:40])})
    assert stored.hashes.shape == (40, 0)
    split, near = stored.seen(identify({"test": source(sheets[39:])}))
    assert split.tolist() == ["train", ""]
    assert not near.any()


def test_one_class_is_measured(run, photos, tmp_path):
    shutil.copytree(photos / "temple", tmp_path / "one" / "temple")
    figures = run.evaluate(data=str(tmp_path / "one"))
    assert figures["num_images"] == 30
    (tmp_path / "one.csv").write_text(
        f"path,label\n{photos / 'flower' / '00.png'},flower\n", encoding="utf-8"
    )
    assert run.evaluate(data=str(tmp_path / "one.csv"))["num_images"] == 1


def test_photos_without_a_class_are_still_refused(run, photos, tmp_path):
    shutil.copytree(photos / "temple", tmp_path / "loose")
    with pytest.raises(UserError, match="does not know the class"):
        run.evaluate(data=str(tmp_path / "loose"))


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")]
)
def test_a_run_that_cannot_be_written_gives_its_figures(tt, finished_run, monkeypatch, error):
    """Root may write everywhere, so the system's refusal is played."""
    before = (finished_run.path / "evaluation.json").read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tintype.training.measure.held", refuse)
    code, output, errors = tt("evaluate", finished_run.path, "--json")
    assert code == 0, errors
    figures = json.loads(output)
    assert figures["accuracy"] == finished_run.metrics["test"]["accuracy"]
    assert error.strerror in figures["remark"]
    assert "not counted" in figures["remark"]
    assert (finished_run.path / "evaluation.json").read_bytes() == before


def test_a_full_disk_does_not_swallow_the_figures(copied_run, monkeypatch):
    def refuse(*_: object) -> None:
        raise UserError("cannot write it") from OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "write", refuse)
    assert "No space left on device" in copied_run.evaluate()["remark"]


# ---- the figures of the classes ---------------------------------------------------------------------------------------


def test_the_classification_report_is_that_of_scikit_learn(tt, copied_run):
    rows = [row for row in copied_run.read_table("predictions.csv") if row["split"] == "test"]
    expected: Any = classification_report(
        [row["target"] for row in rows],
        [row["prediction"] for row in rows],
        output_dict=True,
        zero_division=0,
    )
    expected["macro average"], expected["weighted average"] = (
        expected["macro avg"],
        expected["weighted avg"],
    )

    code, output, errors = tt("evaluate", copied_run.path, "--classes", "--csv", "classes.csv")
    assert code == 0, errors
    with open("classes.csv", encoding="utf-8", newline="") as lines:
        written = list(csv.DictReader(lines))
    kept = [
        row for row in copied_run.read_table("classification_report.csv") if row["split"] == "test"
    ]
    assert written == kept
    assert len(kept) == 12
    for row in kept:
        reference = expected[row["class"]]
        for key, name in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("support", "support"),
        ):
            assert float(row[key]) == pytest.approx(reference[name])
        assert f"{reference['f1-score']:.3f}" in next(
            line for line in output.splitlines() if line.startswith(row["class"])
        )

    code, output, errors = tt("evaluate", copied_run.path, "--csv", "classes.csv")
    assert (code, output) == (2, "")
    assert (
        errors
        == "error: classes.csv already exists and will not be overwritten. Choose another --csv.\n"
    )
    assert tt("evaluate", copied_run.path, "--csv", "nowhere/classes.csv")[0] == 2


def test_the_classes_of_other_data_are_reported_too(run, photos):
    figures = run.evaluate(data=str(photos), classes=True)
    assert sum(row["support"] for row in figures["per_class"]) == figures["num_images"]
    assert figures["averages"]["macro"]["f1"] == pytest.approx(figures["macro_f1"])
    assert figures["averages"]["weighted"]["recall"] == pytest.approx(figures["accuracy"])


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (72, 96, 3), np.uint8)).save(path)


def test_copies_in_groups_tell_no_more_than_the_images(run, tmp_path):
    """Other photos of 40 objects: one of each, or four of each in a group, by their names or by a
    list's column.
    """
    for i in range(40):
        label = "temple" if i % 3 else "flower"
        noise(tmp_path / "one" / label / f"o{i}.png", i)
        for k in range(4):
            noise(tmp_path / "four" / label / f"o{i}_{k}.png", i)
    listed = sorted((tmp_path / "four").rglob("*.png"))
    rows = [f"{path},{path.parent.name},{path.stem.split('_')[0]}" for path in listed]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *rows]), encoding="utf-8")

    one = run.evaluate(data=str(tmp_path / "one"))
    by_name = run.evaluate(data=str(tmp_path / "four"), groups="{group}_*.png")
    by_column = run.evaluate(data=str(tmp_path / "list.csv"))

    assert "num_groups" not in one
    for four in (by_name, by_column):
        assert (four["num_images"], four["num_groups"]) == (160, 40)
        assert four["accuracy"] == pytest.approx(one["accuracy"])
        assert four["accuracy_ci95"] == pytest.approx(one["accuracy_ci95"], abs=0.02)
        assert "Intervals are by group: 160 images in 40 groups." in four["remark"]


def test_groups_are_for_other_data(tt, run, tmp_path):
    code, _, err = tt("evaluate", run.path, "--groups", "{group}_*.png")
    assert code == 2
    assert "groups are for other data, named by --data" in err

    noise(tmp_path / "x" / "temple" / "a1.png", 1)
    code, _, err = tt("evaluate", run.path, "--data", tmp_path / "x", "--groups", "{group}_*.jpg")
    assert code == 2
    assert "fits none of the 1 names" in err
