"""Sets in shards: what they hold is that of the folder, in a bounded cache, and never something else."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from tintype import api
from tintype.data import open_data
from tintype.data.cache import clear_cache
from tintype.data.sets.folder import find_photos
from tintype.data.shards.writing import Written, write_shards
from tintype.data.source import DataSplits, Shards
from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.tasks.upscale.sets.pairs import open_pairs
from tintype.training.order import Order
from tintype.verbs.audit import audit
from tintype.verbs.predict.files import list_images

STREAMED = "60KB"  # too small for the decoded pixels, and enough for three shards


@pytest.fixture(scope="module")
def photo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/, val/ and test/ with two classes of crops of two photos, as JPEG and PNG, one turned."""
    root = tmp_path_factory.mktemp("shards") / "photos"
    for label, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        for i in range(60):
            split = ("val", "test")[i % 2] if i < 16 else "train"
            top, left = 5 * i, 8 * i
            picture = Image.fromarray(photo[top : top + 70 + i, left : left + 90])
            exif = Image.Exif()
            exif[0x0112] = 6 if i % 5 == 0 else 1
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            ending, more = ("png", {}) if i % 7 == 0 else ("jpg", {"exif": exif, "quality": 50})
            picture.save(folder / f"{i:03d}.{ending}", **more)
    return root


@pytest.fixture(scope="module")
def shards(photo_files: Path) -> Path:
    """The photos in about 40 shards."""
    out = photo_files.parent / "shards"
    written = write(photo_files, out, 18_000)
    assert written.num_images == 120
    assert 30 <= written.num_shards <= 50
    return out


def write(folder: Path, out: Path, shard_bytes: int, **more: Any) -> Written:
    return write_shards(find_photos(folder).photos, ["label"], out, shard_bytes=shard_bytes, **more)


def by_name(splits: DataSplits, split: str) -> dict[str, torch.Tensor]:
    source = splits[split]
    return dict(zip(source.names, source.take(torch.arange(len(source))).images, strict=True))


# ---- the same as the folder ---------------------------------------------------------------------


@pytest.mark.parametrize("cache_size", ["20GB", STREAMED])
def test_pixels_targets_and_splits_are_those_of_the_folder(photo_files, shards, cache_size):
    folder = open_data(str(photo_files), image_size=48, resize="pad")
    found = open_data(str(shards), image_size=48, resize="pad", cache_size=cache_size)

    assert found.train.kind == ("streamed" if cache_size == STREAMED else "resident")
    assert found.spec.target == folder.spec.target
    for split in ("train", "val", "test"):
        ours, theirs = by_name(found, split), by_name(folder, split)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        targets = dict(zip(folder[split].names, folder[split].targets.tolist(), strict=True))
        for name, target in zip(found[split].names, found[split].targets.tolist(), strict=True):
            assert targets[name] == target


def test_kept_and_streamed_pixels_are_one_data_set(shards):
    kept = open_data(str(shards))
    streamed = open_data(str(shards), cache_size=STREAMED)
    assert kept.spec == streamed.spec
    some = torch.tensor([3, 3, 80, 0, 17])
    assert torch.equal(kept.train.take(some).images, streamed.train.take(some).images)


def test_the_same_photos_give_the_same_shards(photo_files, shards, tmp_path):
    write(photo_files, tmp_path / "again", 18_000)
    for path in shards.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_shards_are_read_by_other_programs(shards):
    """Samples are files of one name, as WebDataset has them; the bytes are those of the photos."""
    with tarfile.open(next(shards.glob("train-*.tar"))) as archive:
        names = archive.getnames()
        image, label = (archive.extractfile(name) for name in names[:2])
        assert image is not None
        assert label is not None
        assert Image.open(io.BytesIO(image.read())).size[0] > 0
        about = json.loads(label.read())
    assert names[0].rsplit(".", 1)[0] + ".json" == names[1]
    assert about["label"] in ("china", "flower")
    assert about["split"] == "train"


# ---- foreign shards -----------------------------------------------------------------------------


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def png(value: int, size: int = 8) -> bytes:
    """A small picture that no other value gives."""
    pixels = np.random.default_rng(value).integers(0, 255, (size, size), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def foreign(folder: Path, count: int = 3, **endings: str) -> Path:
    """Shards as WebDataset's writer makes them: the same names in each, classes as numbers."""
    folder.mkdir(exist_ok=True)
    for k in range(count):
        files = {}
        for i in range(20):
            files[f"{i:04d}.png"] = png(100 * k + i)
            files[f"{i:04d}.cls"] = str(i % 2).encode()
        tar_of(folder / f"part-{k:02d}.tar", files)
    return folder


def test_a_foreign_tar_is_read_once_for_an_index(tmp_path):
    folder = foreign(tmp_path / "tars")
    first = open_data(str(folder / "part-{00..02}.tar"))
    assert any("read once to make one" in note for note in first.notes)
    assert first.spec.class_names == ("0", "1")
    assert "part-00/0000.png" in [*first.train.names, *first.val.names, *first.test.names]

    second = open_data(str(folder / "*.tar"))
    assert not any("read once" in note for note in second.notes)
    assert second.spec.fingerprint == first.spec.fingerprint
    assert not list(folder.glob("*.index"))


def test_what_is_kept_of_shards_is_cleared_with_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    folder = foreign(tmp_path / "tars", count=1)
    open_data(str(folder))
    assert list((tmp_path / "cache" / "shards" / "indexes").iterdir())
    assert clear_cache() > 0
    assert not list((tmp_path / "cache" / "shards").iterdir())


def test_shards_named_for_splits_are_splits(tmp_path):
    folder = foreign(tmp_path / "tars", count=3)
    for old, new in (("00", "train"), ("01", "val"), ("02", "test")):
        (folder / f"part-{old}.tar").rename(folder / f"set-{new}-0.tar")
    splits = open_data(str(folder))
    assert [len(splits[split]) for split in ("train", "val", "test")] == [20, 20, 20]


def test_exact_copies_stay_on_one_side_whatever_they_are_called(tmp_path):
    files = {}
    for i in range(60):  # each picture twice, in other shards and under other names
        for k in range(2):
            files[k, f"{i:03d}{'ab'[k]}.png"] = png(i)
            files[k, f"{i:03d}{'ab'[k]}.cls"] = b"ab"[i % 2 : i % 2 + 1]
    for k in range(2):
        some = {name: content for (which, name), content in files.items() if which == k}
        tar_of(tmp_path / f"{k}.tar", some)

    splits = open_data(str(tmp_path / "*.tar"))
    seen = [{name.split("/")[1][:3] for name in splits[s].names} for s in ("train", "val", "test")]
    assert not seen[0] & seen[1]
    assert not (seen[0] | seen[1]) & seen[2]
    assert not splits.leaked

    # other shards of the same images give the same split
    again = tmp_path / "again"
    again.mkdir()
    tar_of(again / "all.tar", {name: content for (_, name), content in files.items()})
    other = open_data(str(again / "all.tar"))
    for split in ("train", "val", "test"):
        short = {name.split("/")[1] for name in splits[split].names}
        assert short == {name.split("/")[1] for name in other[split].names}


def test_numbers_are_read_from_json(tmp_path):
    from tintype.data import Numbers

    files = {}
    for i in range(40):
        files[f"{i:03d}.png"] = png(i)
        files[f"{i:03d}.json"] = json.dumps({"age": i / 2, "of": {"more": 1}}).encode()
    tar_of(tmp_path / "ages.tar", files)
    splits = open_data(str(tmp_path / "ages.tar"), target=Numbers(("age",)))
    every = torch.cat([splits[split].targets for split in ("train", "val", "test")])
    assert sorted(every.flatten().tolist()) == [i / 2 for i in range(40)]


# ---- order --------------------------------------------------------------------------------------


def test_an_epoch_takes_each_image_once_window_after_window():
    numbers = np.repeat(np.arange(10), 7)
    order = Order(3, 70, 7, shards=Shards(numbers, 3))
    drawn = torch.cat([order.batch(step) for step in range(80)])
    assert len(drawn) == 8 * 70
    for epoch in drawn.split(70):
        assert sorted(epoch.tolist()) == list(range(70))
        windows = [set(numbers[part.numpy()].tolist()) for part in epoch.split(21)]
        assert [len(window) for window in windows] == [3, 3, 3, 1]
        assert not torch.equal(epoch[:21].sort().values, epoch[:21])
    assert not torch.equal(drawn[:70], drawn[70:140])

    # any step alone gives what it gives in its turn
    alone = Order(3, 70, 7, shards=Shards(numbers, 3))
    for step in (30, 2, 17):
        assert torch.equal(alone.batch(step), order.batch(step))
        needed = set(numbers[order.batch(step).numpy()].tolist())
        assert needed <= set(alone.shards_ahead(step))


def test_balanced_classes_are_taken_window_after_window():
    numbers = np.repeat(np.arange(6), 10)
    targets = torch.arange(60) % 7 // 6  # one in seven is of the second class
    order = Order(0, 60, 60, targets, Shards(numbers, 2)).batch(0)
    assert int(targets[order].sum()) == 30
    window_of = numbers[order.numpy()]
    changes = [len(set(part.tolist())) for part in np.split(window_of, 3)]
    assert max(changes) <= 4


# ---- training, stopping and going on ------------------------------------------------------------


@pytest.fixture
def fields() -> dict[str, Any]:
    return {
        "image_size": 24, "model": "ann", "model_options": {"hidden": [8]}, "epochs": 3,
        "batch_size": 20, "lr": 0.01, "augment": "light", "seed": 1, "device": "cpu",
        "precision": "fp32", "verbose": False, "weights": "none",
    }  # fmt: skip


def train(data: object, out: Path, fields: dict[str, Any], **changes: Any) -> api.Run:
    return api.train(str(data), out=out, **{**fields, **changes})


def test_kept_streamed_and_killed_runs_end_with_equal_bits(
    shards, tmp_path, fields, monkeypatch, killed_at, short_reports
):
    kept = train(shards, tmp_path, fields)
    monkeypatch.setattr("tintype.data.sets.shards._fits", lambda num_bytes, limit: False)
    streamed = train(shards, tmp_path, fields)

    killed_at(7, shards, out=tmp_path, name="killed", **fields)
    killed = api.train(resume=tmp_path / "killed", verbose=False)

    for file in ("model.safetensors", "metrics.csv", "predictions.csv", "splits.csv"):
        assert (streamed.path / file).read_bytes() == (kept.path / file).read_bytes(), file
        assert (killed.path / file).read_bytes() == (kept.path / file).read_bytes(), file
    assert RunFolder(killed.path).status["state"] == "finished"


# ---- the audit ----------------------------------------------------------------------------------


def test_the_audit_finds_copies_by_the_index_and_says_what_it_cannot_see(photo_files, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photo_files, folder)
    some = sorted((folder / "train" / "china").glob("*.jpg"))[20:]
    shutil.copy(some[0], folder / "test" / "china" / "same.jpg")
    upright = ImageOps.exif_transpose(Image.open(some[5])).convert("RGB")
    upright.save(folder / "test" / "china" / "near.jpg", quality=70)
    (folder / "train" / "china" / "broken.jpg").write_bytes(b"no picture")
    write(folder, tmp_path / "shards", 18_000)

    found = audit(str(tmp_path / "shards"), verbose=False)
    leaks = {frozenset(Path(name).name for name in item.names) for item in found["leak"].items}
    assert any({"same.jpg", some[0].name} <= names for names in leaks)
    assert any({"near.jpg", some[5].name} <= names for names in leaks)
    assert any("broken" in name for item in found["unreadable"].items for name in item.names)
    assert any("Not looked at" in note for note in found.notes)
    assert found.write_html(tmp_path / "audit.html").stat().st_size > 10_000

    for path in (tmp_path / "shards").glob("*.thumbs"):
        path.unlink()
    blind = audit(str(tmp_path / "shards"), verbose=False)
    assert any("have no .thumbs" in note for note in blind.notes)


# ---- other tasks --------------------------------------------------------------------------------


def test_numbers_and_images_are_learned_from_shards_too(tt, shards, tmp_path):
    files = {}
    for i in range(60):
        files[f"{i:03d}.png"] = png(i)
        files[f"{i:03d}.json"] = json.dumps({"age": i / 2}).encode()
    (tmp_path / "ages").mkdir()
    tar_of(tmp_path / "ages" / "0.tar", files)
    few = ("--steps", 2, "--batch-size", 8, "--out", tmp_path, "--set", "measure=none")
    net = ("--model", "ann", "--weights", "none")
    age = ("--task", "regress", "--set", "columns=age")
    assert tt("train", tmp_path / "ages", *age, *net, *few)[0] == 0
    assert tt("train", shards, "--task", "generate", "--image-size", 32, *few)[0] == 0


@pytest.mark.parametrize("room", [0, 10**9])
def test_an_upscaler_learns_from_shards_what_it_learns_from_their_folder(
    photo_files, shards, monkeypatch, room
):
    """Photos are decoded once, whole, into memory or a file of the cache."""
    monkeypatch.setattr("tintype.tasks.upscale.sets.pairs.MEMORY_SHARE", room)
    from_folder, from_shards = (open_pairs(str(data), patch=16) for data in (photo_files, shards))
    assert from_shards.spec.fingerprint == from_folder.spec.fingerprint
    for split in ("train", "val", "test"):
        ours, theirs = from_shards[split], from_folder[split]
        assert list(ours.names) == list(theirs.names)
        last = torch.tensor([len(ours) - 1])
        assert torch.equal(ours.take(last).images, theirs.take(last).images)


def test_an_upscaler_over_shards_goes_on_bit_equal_and_is_measured_on_others(
    tt, shards, photo_files, tmp_path, killed_at, short_reports
):
    size: dict[str, Any] = {"task": "upscale", "patch": 16, "batch_size": 4, "steps": 4}
    size |= {"device": "cpu", "precision": "fp32", "verbose": False}
    whole = train(photo_files, tmp_path, size)

    killed_at(2, shards, out=tmp_path, name="killed", **size)
    killed = api.train(resume=tmp_path / "killed", verbose=False)

    for file in ("model.safetensors", "metrics.csv", "predictions.csv"):
        assert (killed.path / file).read_bytes() == (whole.path / file).read_bytes(), file
    assert tt("evaluate", killed.path, "--data", shards)[0] == 0


def test_whoever_predicts_shards_is_led_to_what_measures_them(shards):
    instead = f"tt.load('RUN').evaluate(data='{shards}')"
    with pytest.raises(UserError, match=re.escape(instead)):
        list_images([shards])
