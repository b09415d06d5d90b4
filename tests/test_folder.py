"""Photos from folders and CSV files: layouts, formats, bad input, the cache."""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin
from sklearn.datasets import load_sample_image
from torchvision.transforms import v2

from tintype.data import cache, contents, decode, open_data
from tintype.data.decode import Unreadable, image_files, natural_key
from tintype.data.sets import folder
from tintype.data.source import DataSplits
from tintype.errors import UserError

pytestmark = pytest.mark.usefixtures("short_pages")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TINTYPE_DATA_ROOT", raising=False)


@pytest.fixture(scope="module")
def china() -> np.ndarray:
    return load_sample_image("china.jpg")  # (427, 640, 3) uint8


def noise(seed: int, height: int = 20, width: int = 30, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values if channels == 3 else values[:, :, 0])


def plant(root: Path, layout: dict[str, int], extension: str = "png", **how) -> Path:
    """Make {folder: number of images}; returns the root."""
    seed = 0
    for name, count in layout.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed += 1
            noise(seed, **how).save(root / name / f"{i}.{extension}")
    return root


def tree(tmp_path: Path) -> Path:
    return plant(tmp_path / "pets", {"cat": 6, "dog": 7})


def all_names(splits) -> list[str]:
    return sorted([*splits.train.names, *splits.val.names, *splits.test.names])


# --- layouts -------------------------------------------------------------------------------------------------------


def test_class_folders_give_stratified_splits_with_right_pixels(tmp_path):
    root = tree(tmp_path)
    splits = open_data(str(root), image_size=(20, 30))
    assert splits.spec.name == "pets"
    assert splits.spec.class_names == ("cat", "dog")
    assert len(all_names(splits)) == 13
    assert all(len(splits[s]) >= 2 for s in ("train", "val", "test"))
    for split in ("train", "val", "test"):
        source = splits[split]
        batch = source.take(torch.arange(len(source)))
        for image, target, name in zip(batch.images, batch.targets, source.names, strict=True):
            assert splits.spec.class_names[target] == name.split("/")[0]
            expected = np.asarray(Image.open(root / name))
            assert (image.permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders_are_respected(tmp_path, val):
    layout = {f"{split}/{label}": 3 for split in ("train", val, "test") for label in ("a", "b")}
    splits = open_data(str(plant(tmp_path / "set", layout)), image_size=16)
    assert {name.split("/")[0] for name in splits.train.names} == {"train"}
    assert {name.split("/")[0] for name in splits.val.names} == {val}
    assert {name.split("/")[0] for name in splits.test.names} == {"test"}
    assert "splits given by the data are kept: train, val, test" in splits.notes


def test_validation_is_cut_from_training_where_only_test_is_given(tmp_path):
    layout = {f"{split}/{label}": 10 for split in ("train", "test") for label in ("a", "b")}
    splits = open_data(str(plant(tmp_path / "set", layout)), image_size=16)
    assert {name.split("/")[0] for name in splits.val.names} == {"train"}
    assert [len(splits[s]) for s in ("train", "val", "test")] == [18, 2, 20]


def test_a_class_named_train_is_a_class(tmp_path):
    splits = open_data(
        str(plant(tmp_path / "vehicles", {"train": 4, "car": 4, "bus": 4})), image_size=16
    )
    assert splits.spec.class_names == ("bus", "car", "train")


def test_a_test_folder_without_classes_is_noted(tmp_path):
    root = plant(tmp_path / "contest", {"train/a": 5, "train/b": 5, "test": 4})
    splits = open_data(str(root), image_size=16)
    assert len(all_names(splits)) == 10
    assert any("test" in note and "passed over" in note for note in splits.notes)


def test_hidden_files_empty_classes_and_other_files_are_passed_over(tmp_path):
    root = tree(tmp_path)
    plant(root, {".cache": 2, "empty": 0, "cat/.thumbs": 2})
    noise(1).save(root / "cat" / ".hidden.png")
    noise(1).save(root / "loose.png")
    (root / "cat" / "notes.txt").write_text("no image", encoding="utf-8")
    (root / "dog" / "Thumbs.db").write_bytes(b"x")
    splits = open_data(str(root), image_size=16)
    assert len(all_names(splits)) == 13
    assert splits.skipped == ()
    notes = "\n".join(splits.notes)
    assert "class folder 'empty' holds no images" in notes
    assert "1 .txt" in notes
    assert "1 images lie in" in notes


def test_names_with_spaces_newlines_and_other_letters(tmp_path):
    root = plant(tmp_path / "odd names", {"grüne Bäume": 3, "a\nb": 3, "日本": 3})
    raw = os.fsencode(root) + b"/a\nb/\xff\xfe.png"  # a name that is not UTF-8
    Image.new("RGB", (9, 9)).save(raw.decode("utf-8", "surrogateescape"))
    splits = open_data(str(root), image_size=16)
    assert splits.spec.class_names == ("a\nb", "grüne Bäume", "日本")
    assert len(all_names(splits)) == 10
    assert all(name.encode("utf-8") for name in all_names(splits))


def test_folders_below_a_class_belong_to_it_and_loops_end(tmp_path):
    root = tree(tmp_path)
    plant(root, {"cat/kittens/young": 2})
    os.symlink(root, root / "cat" / "loop")
    os.symlink("self", root / "cat" / "self")
    os.symlink("nowhere.png", root / "dog" / "broken.png")
    splits = open_data(str(root), image_size=16)
    assert "cat/kittens/young/0.png" in all_names(splits)
    assert len(all_names(splits)) == len(set(all_names(splits)))
    assert ("dog/broken.png", "cannot be read: No such file or directory") in splits.skipped
    assert ("cat/loop", "a link to a folder that is read in its own place") in splits.skipped
    assert sum(name.startswith("cat/") for name in all_names(splits)) == 8
    assert sum(name.startswith("dog/") for name in all_names(splits)) == 7


def test_a_pipe_named_as_an_image_does_not_stall(tmp_path):
    root = tree(tmp_path)
    os.mkfifo(root / "cat" / "pipe.jpg")
    os.mkfifo(root / "cat" / "pipe")
    splits = open_data(str(root), image_size=16)
    assert splits.skipped == (("cat/pipe.jpg", "not a regular file"),)


def test_class_folders_that_differ_only_in_case_are_noted(tmp_path):
    root = plant(tmp_path / "set", {"Cat": 3, "cat": 3})
    if len(list(root.iterdir())) < 2:
        pytest.skip("this file system ignores case")
    splits = open_data(str(root), image_size=16)
    assert splits.spec.class_names == ("Cat", "cat")
    assert any("differ only in case" in note for note in splits.notes)


def test_files_without_an_image_extension_are_found_by_content(tmp_path):
    root = tree(tmp_path)
    noise(77).save(root / "cat" / "scan", format="PNG")
    noise(78).save(root / "cat" / "photo.JPG_original", format="JPEG")
    splits = open_data(str(root), image_size=16)
    assert {"cat/scan", "cat/photo.JPG_original"} <= set(all_names(splits))


@given(st.lists(st.text("ab019", min_size=1, max_size=6), unique=True))
def test_natural_order_puts_numbers_by_value(names):
    ordered = sorted(names, key=natural_key)
    assert sorted(ordered, key=natural_key) == ordered
    plain_numbers = [int(name) for name in ordered if name.isdigit()]
    assert plain_numbers == sorted(plain_numbers)


def test_image_files_lists_in_natural_order(tmp_path):
    plant(tmp_path / "p", {"x": 11, ".h": 1})
    names = [path.relative_to(tmp_path / "p").as_posix() for path in image_files(tmp_path / "p")]
    assert names == [f"x/{i}.png" for i in range(11)]
    assert image_files(tmp_path / "p" / "x" / "3.png") == [tmp_path / "p" / "x" / "3.png"]


# --- bad input -----------------------------------------------------------------------------------------------------


def bad_tree(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Two good classes, and files that no one can read with a word of the reason expected."""
    root = tree(tmp_path)
    good = io.BytesIO()
    noise(5, 100, 100).save(good, "JPEG")
    (root / "cat" / "text.jpg").write_text("this is no picture", encoding="utf-8")
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "cat" / "cut.jpg").write_bytes(good.getvalue()[: len(good.getvalue()) // 2])
    (root / "dog" / "bomb.png").write_bytes(png_bomb(60_000))
    (root / "dog" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 50)
    png = io.BytesIO()
    noise(6, 100, 100).save(png, "PNG")
    (root / "dog" / "cut.png").write_bytes(png.getvalue()[:3000])
    return root, {
        "cat/text.jpg": "a text file, not an image",
        "cat/empty.png": "empty file",
        "cat/cut.jpg": "truncated",
        "dog/bomb.png": "bomb",
        "dog/phone.heic": "HEIC",
        "dog/cut.png": "truncated",
    }


def png_bomb(side: int) -> bytes:
    """A PNG of some hundred bytes whose header claims side x side pixels."""
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    data = bytearray(small.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def test_unreadable_files_are_skipped_counted_and_named(tmp_path):
    root, expected = bad_tree(tmp_path)
    splits = open_data(str(root), image_size=16)
    skipped = dict(splits.skipped)
    assert skipped.keys() == expected.keys()
    for name, word in expected.items():
        assert word in skipped[name], (name, skipped[name])
    assert len(all_names(splits)) == 13
    assert any(note.startswith("skipped: 6 files") for note in splits.notes)
    again = open_data(str(root), image_size=16)  # from the cache: the same files, the same reasons
    assert dict(again.skipped) == skipped
    assert again.spec == splits.spec


def test_a_class_whose_photos_are_all_broken_is_left_out_and_noted(tmp_path):
    root = tree(tmp_path)
    (root / "bird").mkdir()
    (root / "bird" / "x.jpg").write_bytes(b"no")
    splits = open_data(str(root), image_size=16)
    assert splits.spec.class_names == ("cat", "dog")
    assert any("left out: bird" in note for note in splits.notes)


def break_all(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"broken")


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ({}, None, "is empty"),
        ({"a": 0, "b": 0}, None, "no images in the 2 folders"),
        ({"": 3}, None, "no class folders"),
        ({"cat": 4}, None, "one class only \\('cat'"),
        ({"set/cat": 4, "set/dog": 4}, None, "Did you mean .*set\\?"),
        ({"cat": 4, "dog": 1}, None, "class 'dog' .* one image only"),
        ({"cat": 4, "dog": 4}, break_all, "none of the 8 images .* can be read"),
        (
            {"train/a": 3, "train/b": 3, "test/c": 3, "test/a": 3},
            None,
            "class 'c' .* no training image",
        ),
        ({"train/a": 3, "training/b": 3}, None, "several folders for one split"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, layout, change, message):
    root = tmp_path / "root"
    root.mkdir()
    plant(root, layout)
    if change:
        change(root)
    for size in (16, None):
        with pytest.raises(UserError, match=message):
            open_data(str(root), image_size=size)


def test_a_folder_of_other_files_is_not_called_empty(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt", "README"):
        (tmp_path / name).write_text("a letter", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"holds no image; it has 3 \.txt files, 1 file without an extension\. "
    ):
        open_data(str(tmp_path))


def test_two_images_of_a_class_train_and_test(tmp_path):
    splits = open_data(str(plant(tmp_path / "set", {"a": 20, "b": 2})), image_size=16)
    assert [(splits[s].targets == 1).sum().item() for s in ("train", "val", "test")] == [1, 0, 1]
    assert any(
        note == "validation holds no image of 1 classes with too few: b" for note in splits.notes
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digts", "Did you mean 'digits'"),
        ("./nowhere", "there is no folder or file"),
        ("labels.csv", "there is no folder or file"),
        ("folder", "unknown data set"),
    ],
)
def test_unknown_data_is_told_clearly(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_data(data)


def test_a_file_that_is_no_csv_is_refused(tmp_path):
    noise(1).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"not a \.csv"):
        open_data(str(tmp_path / "one.png"))


# --- CSV -----------------------------------------------------------------------------------------------------------


def write_csv(
    root: Path, lines: list[str], name: str = "labels.csv", encoding: str = "utf-8"
) -> str:
    (root / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(root / name)


def rows(**more: Callable[[int], str]) -> list[str]:
    lines = ["path,label" + "".join(f",{key}" for key in more)]
    for i in range(13):
        label, file = ("cat", f"cat/{i}.png") if i < 6 else ("dog", f"dog/{i - 6}.png")
        lines.append(f"{file},{label}" + "".join(f",{value(i)}" for value in more.values()))
    return lines


def test_csv_equals_folder(tmp_path):
    root = tree(tmp_path)
    by_folder = open_data(str(root), image_size=16)
    lines = rows()
    by_csv = open_data(write_csv(root, [lines[0], *reversed(lines[1:])]), image_size=16)
    assert by_csv.spec.fingerprint == by_folder.spec.fingerprint
    assert list(by_csv.test.names) == list(by_folder.test.names)


@pytest.mark.parametrize("header", ["image;class", "Filename;Target", "file;label"])
def test_csv_accepts_other_headers_and_separators(tmp_path, header):
    root = tree(tmp_path)
    lines = [header, *(line.replace(",", ";").replace("/", "\\") for line in rows()[1:])]
    splits = open_data(write_csv(root, lines, encoding="utf-8-sig"), image_size=16)
    assert splits.spec.class_names == ("cat", "dog")
    assert len(all_names(splits)) == 13


def test_csv_split_group_and_data_root(tmp_path):
    root = tree(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lines = rows(
        split=lambda i: ("test", "", "Train", "")[i % 4], group=lambda i: f"animal{i // 3}"
    )
    csv_path = write_csv(elsewhere, lines)
    splits = open_data(csv_path, data_root=str(root), image_size=16, val_fraction=0.3)
    names = [line.split(",")[0] for line in lines[1:]]
    assert set(splits.test.names) == {names[i] for i in range(0, 13, 4)}
    group = {name: f"animal{i // 3}" for i, name in enumerate(names)}
    assert not {group[n] for n in splits.val.names} & {group[n] for n in splits.train.names}
    assert len(splits.val)


def test_csv_classes_that_are_numbers_are_sorted_by_value(tmp_path):
    root = tree(tmp_path)
    lines = [rows()[0], *(f"{line.split(',')[0]},{i % 3 * 5}" for i, line in enumerate(rows()[1:]))]
    assert open_data(write_csv(root, lines), image_size=16).spec.class_names == ("0", "5", "10")


def test_csv_names_what_is_missing_or_twice(tmp_path):
    root = tree(tmp_path)
    lines = [*rows(), "cat/gone.png,cat", "cat/0.png,cat", "cat/1.png,dog"]
    splits = open_data(write_csv(root, lines), image_size=16)
    assert dict(splits.skipped) == {
        "cat/gone.png": "cannot be read: No such file or directory",
        "cat/0.png (row 16)": "named again, first in row 2",
        "cat/1.png (row 17)": "named again, first in row 3 with another label ('cat', now 'dog')",
    }
    assert len(all_names(splits)) == 13


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", "a.png,cat", "b.png,"], "row 3 .* no label"),
        (["path,label", ",cat"], "row 2 .* no path"),
        (["path,kind", "a.png,cat"], "no column 'label'.*path, kind"),
        (["cat/0.png,cat", "cat/1.png,cat"], "no column 'path'"),
        (["path,label"], "no rows"),
        ([], "no column 'path'"),
        (["path,label,split", "a.png,cat,tset"], "row 2 .* split 'tset'"),
        (["path,label", "a.png,cat", "b.png,dog"], "none of the 2 images"),
        (["path,label", "cat/0.png,cat", "cat/1.png,cat"], "one class only"),
    ],
)
def test_csv_mistakes_are_told_with_the_row(tmp_path, lines, message):
    root = tree(tmp_path)
    with pytest.raises(UserError, match=message):
        open_data(write_csv(root, lines), image_size=16)


def test_csv_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff\xfe\x00,cat\n")
    with pytest.raises(UserError, match="UTF-8"):
        open_data(str(tmp_path / "x.csv"))


# --- decoding ------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_picture_of_the_target_size_passes_bit_for_bit(kind):
    image = noise(3, 17, 23)
    for resize in ("crop", "squash", "pad"):
        pixels = decode.decode(encoded(image, kind), height=17, width=23, channels=3, resize=resize)
        assert pixels.dtype == np.uint8
        assert (pixels == np.asarray(image)).all()


@pytest.mark.parametrize(
    ("kind", "how"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("GIF", {})]
)
def test_lossy_formats_come_near(kind, how, china):
    image = Image.fromarray(china).resize((160, 107))
    pixels = decode.decode(encoded(image, kind, **how), height=107, width=160, channels=3)
    assert np.abs(pixels.astype(int) - np.asarray(image)).mean() < (12 if kind == "GIF" else 3)


def test_crop_agrees_with_torchvision(china):
    reference = v2.Compose([v2.Resize(96, antialias=True), v2.CenterCrop(96)])
    china = china[
        :400, :600
        # a size at which torchvision's margins are whole pixels; else it is off centre by half of
        # one
    ]
    for image in (Image.fromarray(china), Image.fromarray(china.transpose(1, 0, 2).copy())):
        pixels = decode.fit(image, height=96, width=96, channels=3)
        expected = np.asarray(reference(image)).astype(int)
        assert np.abs(pixels - expected).max() <= 3


def test_squash_agrees_with_torchvision(china):
    pixels = decode.fit(china, height=200, width=180, channels=3, resize="squash")
    expected = np.asarray(
        v2.functional.resize(Image.fromarray(china), [200, 180], antialias=True)
    ).astype(int)
    assert np.abs(pixels - expected).max() <= 1


def test_pad_keeps_everything_and_fills_with_black(china):
    pixels = decode.fit(np.maximum(china, 1), height=64, width=64, channels=3, resize="pad")
    tall = round(427 * 64 / 640)
    top = (64 - tall) // 2
    assert (pixels[:top] == 0).all()
    assert (pixels[top + tall :] == 0).all()
    assert (pixels[top : top + tall].max(axis=2) > 0).all()


def test_reduced_scale_jpeg_comes_near_the_full_decoding(china):
    data = encoded(Image.fromarray(china).resize((1283, 857)), "JPEG", quality=95)
    for side in (96, 112, 128, 160, 224):
        for resize in decode.RESIZE_MODES:
            quick = decode.decode(data, height=side, width=side, channels=3, resize=resize).astype(
                int
            )
            full = decode.fit(
                Image.open(io.BytesIO(data)), height=side, width=side, channels=3, resize=resize
            )
            assert 10 * np.log10(255**2 / ((quick - full) ** 2).mean()) > 40


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("before", "side"), [(256, 224), (232, 224), (342, 299), (97, 96), (600, 300)]
)
def test_a_part_of_the_centre_agrees_with_torchvision(china, before, side, interpolation):
    reference = v2.Compose(
        [v2.Resize(before, v2.InterpolationMode(interpolation)), v2.CenterCrop(side)]
    )
    how = decode.Resize("crop", side / before, interpolation)
    for picture in (china, china[:, :321], china[:301, :300], china[100:230, 100:233]):
        image = Image.fromarray(np.ascontiguousarray(picture))
        pixels = decode.fit(image, height=side, width=side, channels=3, resize=how)
        differences = np.abs(pixels - np.asarray(reference(image)).astype(int))
        assert differences.mean() < 0.3
        assert differences.max() <= 12, "two passes, each rounded; bicubic overshoots"


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (90, 40), (427, 640)])
def test_a_part_of_the_centre_is_that_part(china, size):
    """Half of the centre, drawn as a ramp: its ends are the quarters of what fills the target."""
    height, width = size
    ramp = np.tile(np.linspace(0, 255, 640), (427, 1)).round().astype(np.uint8)
    whole, half = (
        decode.fit(
            ramp, height=height, width=width, channels=1, resize=decode.Resize("crop", fraction)
        )[0, :, 0]
        for fraction in (1.0, 0.5)
    )
    middle = (float(whole[0]) + float(whole[-1])) / 2
    assert np.interp([0, width - 1], range(width), half) == pytest.approx(
        [middle - (middle - whole[0]) / 2, middle + (whole[-1] - middle) / 2], abs=255 / width + 2
    )


def test_reduced_scale_jpeg_of_a_part_comes_near_the_full_decoding(china):
    data = encoded(Image.fromarray(china).resize((1283, 857)), "JPEG", quality=95)
    how = decode.Resize("crop", 0.5, "bicubic")
    for side in (32, 48, 64):
        quick = decode.decode(data, height=side, width=side, channels=3, resize=how).astype(int)
        full = decode.fit(
            Image.open(io.BytesIO(data)), height=side, width=side, channels=3, resize=how
        )
        assert ((quick - full) ** 2).mean() < 255**2 / 10**3.8, "38 dB (PSNR) at least"


def test_how_to_resize_is_written_as_before_where_nothing_is_new():
    assert [str(decode.as_resize(mode)) for mode in decode.RESIZE_MODES] == list(
        decode.RESIZE_MODES
    )
    assert f"{decode.Resize('crop', 0.875)}" == "crop 0.875 bilinear"
    assert decode.as_resize(decode.Resize("squash", 0.875, "bicubic")) == decode.Resize(
        "squash", 1.0, "bicubic"
    )
    for wrong, message in [
        (decode.Resize("corp"), "Did you mean 'crop'"),
        (decode.Resize(interpolation="cubic"), "Did you mean 'bicubic'"),
        (decode.Resize(crop_fraction=0), "the crop fraction is 0; expected more than 0"),
        (decode.Resize(crop_fraction=1.5), r"the crop fraction is 1\.5; expected .* at most 1"),
    ]:
        with pytest.raises(UserError, match=message):
            decode.as_resize(wrong)


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    fraction=st.floats(0.01, 1.0),
    mode=st.sampled_from(decode.RESIZE_MODES),
)
def test_every_picture_comes_out_at_the_wished_size(width, height, fraction, mode):
    image = Image.new("L", (width, height), 200)
    pixels = decode.fit(
        image, height=11, width=7, channels=1, resize=decode.Resize(mode, fraction, "bicubic")
    )
    assert pixels.shape == (11, 7, 1)
    assert pixels.max() == 200


def test_photos_are_cached_apart_for_each_way_of_resizing(tmp_path):
    photos = tree(tmp_path)
    first = open_data(str(photos), image_size=16)
    again = open_data(str(photos), image_size=16, resize=decode.Resize())
    part = open_data(str(photos), image_size=16, resize=decode.Resize("crop", 0.5))
    assert again.spec.fingerprint == first.spec.fingerprint
    assert len(cache.cache_entries()) == 3  # and one in which near-copies are looked for
    assert part.spec.fingerprint != first.spec.fingerprint


def test_arrays_are_resized_too_where_a_part_is_wished():
    first = open_data("digits")
    part = open_data("digits", resize=decode.Resize("crop", 0.5))
    assert (part.spec.height, part.spec.width) == (8, 8)
    assert part.spec.fingerprint != first.spec.fingerprint


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind, china):
    from PIL import ImageOps

    image = Image.fromarray(china).resize((96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    header = decode.read_header(data)
    if kind == "JPEG":
        assert (header.width, header.height) == upright.size
    full = decode.decode(data, height=None, width=None, channels=3)
    assert (full == np.asarray(upright.convert("RGB"))).all()
    small = decode.decode(data, height=40, width=24, channels=3)
    assert (
        np.abs(small.astype(int) - decode.fit(upright, height=40, width=24, channels=3)).mean() < 3
    )


def test_grey_palette_alpha_cmyk_and_bits():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    size = {"height": 16, "width": 16}
    same = decode.decode(encoded(Image.fromarray(grey), "PNG"), **size, channels=3)
    assert (same == grey[:, :, None]).all()
    assert decode.decode(encoded(Image.fromarray(grey), "PNG"), **size, channels=1).shape == (
        16,
        16,
        1,
    )

    palette = Image.fromarray(np.stack([grey, grey, 255 - grey], 2)).quantize(64)
    assert (
        decode.decode(encoded(palette, "PNG"), **size, channels=3)
        == np.asarray(palette.convert("RGB"))
    ).all()

    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    for kind in ("PNG", "TIFF"):
        assert (decode.decode(encoded(deep, kind), **size, channels=1)[:, :, 0] == grey).all()

    bits = Image.fromarray((grey % 2).astype(bool))
    assert (
        decode.decode(encoded(bits, "PNG"), **size, channels=1)[:, :, 0] == grey % 2 * 255
    ).all()

    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # pure red in print
    red = decode.decode(encoded(cmyk, "JPEG", quality=95), **size, channels=3)[8, 8].astype(int)
    assert np.abs(red - [255, 0, 0]).max() < 12

    floats = Image.fromarray(grey.astype(np.float32) / 255)
    assert (decode.decode(encoded(floats, "TIFF"), **size, channels=1)[:, :, 0] == grey).all()


def test_transparency_is_laid_on_white():
    size = {"height": 8, "width": 8, "channels": 3}
    assert (
        decode.decode(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG"), **size) == 255
    ).all()
    assert (
        decode.decode(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 255)), "PNG"), **size)
        == [255, 0, 0]
    ).all()
    assert (decode.decode(encoded(Image.new("LA", (8, 8), (0, 51)), "PNG"), **size) == 204).all()
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (decode.decode(encoded(palette, "PNG", transparency=1), **size) == 255).all()
    assert (decode.decode(encoded(palette, "PNG", transparency=0), **size) == [10, 20, 30]).all()
    keyed = encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert (decode.decode(keyed, **size) == 255).all()


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    for kind in ("GIF", "WEBP"):
        data = encoded(
            frames[0],
            kind,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if kind == "WEBP" else {}),
        )
        assert (decode.decode(data, height=8, width=8, channels=3) == [255, 0, 0]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_extreme_sizes(size):
    for resize in ("crop", "squash", "pad"):
        for data in (encoded(Image.new("RGB", size, "red"), kind) for kind in ("PNG", "JPEG")):
            assert decode.decode(data, height=32, width=48, channels=3, resize=resize).shape == (
                32,
                48,
                3,
            )


def test_a_photo_of_108_million_pixels_is_read():
    data = encoded(Image.new("L", (12_000, 9_000), 200), "JPEG")
    pixels = decode.decode(data, height=64, width=64, channels=3)
    assert np.abs(pixels.astype(int) - 200).max() <= 1


def test_a_bomb_is_refused_without_decoding():
    for side in (15_000, 60_000):
        with pytest.raises(Unreadable, match="bomb"):
            decode.decode(png_bomb(side), height=8, width=8, channels=3)


@given(st.data())
def test_damaged_bytes_never_do_more_than_say_so(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    content = bytearray(encoded(noise(9, 12, 12), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shape = decode.decode(bytes(content), height=8, width=8, channels=3).shape
        except Unreadable:
            return
    assert shape == (8, 8, 3)


def test_folder_and_predict_see_the_same_pixels(tmp_path, china):
    root = tmp_path / "set"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(china[20 * i :, 30 * i :]).save(root / label / f"{i}.jpg", quality=90)
    splits = open_data(str(root), image_size=48)
    images = splits.test.take(torch.arange(len(splits.test))).images
    for image, name in zip(images, splits.test.names, strict=True):
        again = decode.decode(root / name, height=48, width=48, channels=3)
        assert (image.permute(1, 2, 0).numpy() == again).all()


# --- choice of shape -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "shape"),
    [
        ({"height": 20, "width": 30}, (20, 30, 3)),
        ({"height": 28, "width": 28, "channels": 1}, (28, 28, 1)),
        ({"height": 110, "width": 150}, (96, 96, 3)),
        ({"height": 300, "width": 200}, (128, 128, 3)),
        ({"height": 20, "width": 100}, (32, 32, 3)),
    ],
)
def test_size_and_channels_are_chosen_from_the_photos_and_noted(tmp_path, how, shape):
    splits = open_data(str(plant(tmp_path / "set", {"a": 4, "b": 4}, **how)))
    assert (splits.spec.height, splits.spec.width, splits.spec.channels) == shape
    assert any(note.startswith("image size: ") for note in splits.notes)
    assert any(note.startswith("channels: 1") for note in splits.notes) == (shape[2] == 1)


def test_grey_pictures_in_colour_files_are_grey(tmp_path):
    root = tmp_path / "set"
    for i in range(8):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        noise(i, channels=1).convert("RGB").save(root / "ab"[i % 2] / f"{i}.png")
    assert open_data(str(root)).spec.channels == 1
    noise(9).save(root / "a" / "colour.png")
    assert open_data(str(root)).spec.channels == 3


# --- cache ---------------------------------------------------------------------------------------------------------


def open_pixels(root: Path, **how: Any) -> DataSplits:
    """Open photos without the search for near-copies, which decodes them at another size."""
    return open_data(str(root), split_rule="at-image-size", **how)


def count_decoding(monkeypatch) -> list[str]:
    seen: list[str] = []

    def counted(path, shapes):
        seen.append(path)
        return decode.decode_each(path, shapes)

    monkeypatch.setattr(folder, "decode_each", counted)
    return seen


def test_photos_are_decoded_once_while_unchanged(tmp_path, monkeypatch):
    root = tree(tmp_path)
    seen = count_decoding(monkeypatch)
    first = open_pixels(root, image_size=16, channels=3)
    assert len(seen) == 13
    second = open_pixels(root, image_size=16, channels=3, split_seed=3)
    assert len(seen) == 13
    assert second.spec.fingerprint != first.spec.fingerprint  # other membership
    os.rename(root, tmp_path / "moved")
    assert (
        open_pixels(tmp_path / "moved", image_size=16, channels=3).spec.fingerprint
        == first.spec.fingerprint
    )
    assert len(seen) == 13
    open_pixels(tmp_path / "moved", image_size=17, channels=3)
    assert len(seen) == 26


def test_a_changed_photo_is_seen(tmp_path, monkeypatch):
    root = tree(tmp_path)
    first = open_pixels(root, image_size=16)
    noise(99).save(root / "cat" / "0.png")
    second = open_pixels(root, image_size=16)
    assert second.spec.fingerprint != first.spec.fingerprint
    os.remove(root / "cat" / "1.png")
    assert len(all_names(open_pixels(root, image_size=16))) == 12
    assert len(cache.cache_entries()) == 3


@pytest.mark.parametrize("remembered", [False, True])
def test_photos_replaced_with_the_same_size_and_time_are_read_again(
    tmp_path, monkeypatch, remembered
):
    """As archives and build systems leave them, which write one fixed time."""
    monkeypatch.setattr(contents, "JUST_NOW", 0 if remembered else 10**18)
    files = [tmp_path / "set" / label / f"{i}.bmp" for label in "ab" for i in range(10)]
    for seed, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(seed, 16, 16).save(file)
        os.utime(file, (1e9, 1e9))
    before = open_data(str(tmp_path / "set"))
    assert open_data(str(tmp_path / "set")).spec == before.spec

    state = files[7].stat()
    noise(99, 16, 16).save(files[7])
    os.utime(files[7], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert files[7].stat().st_size == state.st_size
    after = open_data(str(tmp_path / "set"))
    assert after.spec.fingerprint != before.spec.fingerprint
    assert len(cache.cache_entries()) == 2


def test_a_copied_folder_finds_the_pixels_of_the_first(tmp_path, monkeypatch):
    root = tree(tmp_path)
    seen = count_decoding(monkeypatch)
    first = open_pixels(root, image_size=16, channels=3)
    decoded = len(seen)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)  # with new times
    assert (
        open_pixels(tmp_path / "copy", image_size=16, channels=3).spec.fingerprint
        == first.spec.fingerprint
    )
    assert len(seen) == decoded


@pytest.mark.skipif(os.name == "nt", reason="there every file is read every time")
def test_unchanged_photos_are_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "JUST_NOW", 0)
    root = tree(tmp_path)
    read: list[str] = []

    def counted(paths):
        read.extend(paths)
        return reader(paths)

    reader = contents._reader
    monkeypatch.setattr(contents, "_reader", counted)
    first = open_data(str(root), image_size=16)
    assert len(read) == 13
    assert open_data(str(root), image_size=16).spec == first.spec
    assert len(read) == 13

    for kept in (tmp_path / "cache" / "contents").iterdir():
        kept.write_text("cut off", encoding="utf-8")
    assert open_data(str(root), image_size=16).spec == first.spec
    assert len(read) == 26
    cache.clear_cache()
    assert not list((tmp_path / "cache" / "contents").iterdir())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ([1_700_000_000_123_456_789], True),
        ([1_700_000_000_123_456_789, 1_700_000_000_000_000_000], True),
        ([1_700_000_000_000_000_000, 1_700_000_002_000_000_000], False),  # FAT, HFS+
        ([1_700_000_000_120_000_000], False),  # exFAT
        ([1_700_000_000_123_456_789, 1_700_000_099_500_000_001], False),  # half a second ago
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="there the time of the last change is not known")
def test_times_of_change_are_trusted_where_they_are_fine_and_past(changed, told):
    states: list[Any] = [SimpleNamespace(st_dev=5, st_ctime_ns=time) for time in changed]
    assert contents._tell_of_changes(states, 1_700_000_100_000_000_000) is told


def test_a_new_link_to_a_photo_is_no_change_while_it_is_read(tmp_path, monkeypatch):
    root = tree(tmp_path)

    def linking(path, shapes):
        if path.endswith("dog/3.png"):
            os.link(path, tmp_path / "backup.png")
        return decode.decode_each(path, shapes)

    monkeypatch.setattr(folder, "decode_each", linking)
    splits = open_pixels(root, image_size=16, channels=3)
    assert not any("changed" in note for note in splits.notes)


def test_entries_trim_and_clear(tmp_path):
    root = tree(tmp_path)
    for size in (8, 16, 32):
        open_pixels(root, image_size=size)
        for entry in cache.cache_entries():
            os.utime(
                entry.path / "entry.json", (1000 + size, 1000 + size)
            ) if entry.last_used > 2000 else None
    entries = cache.cache_entries()
    assert [entry.num_bytes // 13 // 3 for entry in entries] == pytest.approx(
        [1024, 256, 64], rel=0.5
    )
    assert all(entry.count == 13 and entry.source == str(root) for entry in entries)
    assert cache.trim_cache(entries[0].num_bytes + 1000) == 2
    assert cache.cache_entries() == entries[:1]
    assert cache.clear_cache() >= 13 * 3 * 1024
    assert cache.cache_entries() == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = tmp_path / "cache" / "photos" / "tmp-999999999-x"
    left.mkdir(parents=True)
    (left / "pixels.u8").write_bytes(b"half")
    mine = left.with_name(f"tmp-{os.getpid()}-y")
    mine.mkdir()
    assert cache.cache_entries() == []
    cache.trim_cache()
    assert not left.exists()
    assert mine.exists()


def test_a_damaged_entry_is_made_again(tmp_path):
    root = tree(tmp_path)
    first = open_data(str(root), image_size=16)
    entry = cache.cache_entries()[0].path
    for damage in (
        lambda: (entry / "pixels.u8").write_bytes(b"short"),
        lambda: (entry / "entry.json").write_text("{", encoding="utf-8"),
    ):
        damage()
        assert open_data(str(root), image_size=16).spec == first.spec


def test_two_at_once(tmp_path):
    root = tree(tmp_path)
    found, threads = [], []
    for _ in range(4):
        threads.append(
            threading.Thread(target=lambda: found.append(open_data(str(root), image_size=16).spec))
        )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert [path.name[:4] for path in (tmp_path / "cache" / "photos").iterdir()].count("tmp-") == 0


def test_no_disk_space_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    root = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(UserError, match="TINTYPE_CACHE"):
            open_data(str(root), image_size=16)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:  # the disk fills up while photos are written
        patch.setattr(cache.os, "fsync", full)
        with pytest.raises(UserError, match="needs"):
            open_data(str(root), image_size=16)
    assert list((tmp_path / "cache" / "photos").iterdir()) == []
    assert len(all_names(open_data(str(root), image_size=16))) == 13


def test_an_interruption_leaves_nothing_half_made(tmp_path, monkeypatch):
    root = tree(tmp_path)

    def stop(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_data(str(root), image_size=16, progress=stop)
    assert list((tmp_path / "cache" / "photos").iterdir()) == []


def test_a_cache_that_cannot_be_written_falls_back(tmp_path, monkeypatch):
    root = tree(tmp_path)
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "file" / "cache"))
    splits = open_data(str(root), image_size=16)
    assert any("cannot be written" in note for note in splits.notes)
    assert len(all_names(splits)) == 13


def test_photos_that_change_while_they_are_read_are_noted_and_read_again(tmp_path, monkeypatch):
    root = tree(tmp_path)
    with monkeypatch.context() as patch:

        def meddling(path, shapes):
            if path.endswith("dog/3.png"):
                noise(1234, 21, 30).save(path)
            return decode.decode_each(path, shapes)

        patch.setattr(folder, "decode_each", meddling)
        splits = open_pixels(root, image_size=16, channels=3)
    assert any("1 photos changed while they were read (dog/3.png)" in note for note in splits.notes)
    seen = count_decoding(monkeypatch)
    splits = open_pixels(root, image_size=16, channels=3)
    assert len(seen) == 13
    assert not any("changed" in note for note in splits.notes)


def test_near_copies_are_sought_in_the_pass_that_reads_the_photos(tmp_path, monkeypatch):
    root = tree(tmp_path)
    seen = count_decoding(monkeypatch)

    def decoded(**how: Any) -> int:
        """Return how many pictures were decoded, but for one that may be to see whether all are
        grey.
        """
        before = len(seen)
        open_data(str(root), **how)
        return (len(seen) - before) // 13 * 13

    assert decoded(image_size=16, channels=3) == 13
    assert decoded(image_size=16, channels=3, split_seed=1) == 0
    assert decoded(image_size=24, channels=3) == 13  # its own pixels, and nothing for near-copies
    assert decoded() == 13
    assert decoded() == 0


@pytest.mark.parametrize("broken", [False, True])
def test_one_pass_gives_what_two_gave(tmp_path, monkeypatch, broken):
    root = plant(tmp_path / "pets", {"cat": 6, "dog": 7}, "jpg", height=200, width=300)
    if broken:
        (root / "cat" / "broken.jpg").write_bytes(b"no picture")

    def entries(cached: str, *rules: str) -> set[str]:
        monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / cached))
        for rule in rules:
            open_data(str(root), image_size=48, channels=3, split_rule=rule)
        return {
            f"{entry.path.name} {file.name} {file.read_bytes()!r}"
            for entry in cache.cache_entries()
            for file in entry.path.iterdir()
        }

    together = entries("together", "from-photos")
    with monkeypatch.context() as patch:
        # as before: what is held beside the pixels is forgotten
        patch.setattr(folder, "is_cached", lambda key: True)
        apart = entries("apart", "from-photos")
    assert len(together) == 4
    assert together == apart


def made_of(picture: Image.Image, kind: str) -> bytes:
    """Return a file of a picture, of a size at which JPEG is decoded at several scales."""
    buffer = io.BytesIO()
    how: dict[str, Any] = {"exif": picture.getexif()} if kind != "GIF" else {}
    if kind == "JPEG":
        how["exif"][0x0112] = 6
    if kind == "TIFF":
        picture = picture.convert("I;16")
        how = {}
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_several_shapes_of_a_file_are_those_of_single_decodings(china, kind):
    content = made_of(Image.fromarray(china), kind)
    shapes = [
        decode.Shape(224, 224, 3),
        decode.Shape(128, 128, 3, decode.Resize("pad")),
        decode.Shape(32, 48, 1, decode.Resize("squash")),
        decode.Shape(30, 44, 3),
        decode.Shape(None, None, 3),
    ]
    for found, shape in zip(decode.decode_each(content, shapes), shapes, strict=True):
        alone = decode.decode(content, **shape._asdict())
        assert np.array_equal(found, alone), shape
    for found, shape in zip(decode.decode_each(content, shapes[::-1]), shapes[::-1], strict=True):
        assert np.array_equal(found, decode.decode(content, **shape._asdict())), shape


def test_a_large_photo_is_decoded_once_for_all_shapes(china, monkeypatch):
    content = made_of(Image.fromarray(china).resize((2600, 1800)), "JPEG")
    loads: list[tuple[int, int]] = []
    usual = JpegImagePlugin.JpegImageFile.load

    def counted(image: Any) -> Any:
        if image.tile:
            loads.append(image.size)
        return usual(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", counted)
    decode.decode_each(content, [decode.Shape(144, 144, 3), decode.Shape(128, 128, 3)])
    assert loads == [(325, 225)]


def test_progress_reaches_the_end(tmp_path):
    calls = []
    open_data(str(tree(tmp_path)), image_size=16, progress=lambda *call: calls.append(call))
    assert calls[-1][1:] == (13, 13)


def test_mapped_and_resident_give_the_same(tmp_path):
    root = tree(tmp_path)
    resident = open_data(str(root), image_size=16)
    mapped = open_data(str(root), image_size=16, memory_limit=100)
    assert resident.train.kind == "resident"
    assert mapped.train.kind == "mapped"
    assert mapped.spec == resident.spec
    assert "mapped from disk, 10.0 kB is more than a limit of 100 bytes" in mapped.notes
    index = torch.tensor([3, 0, 2])
    for split in ("train", "val", "test"):
        chosen = index[index < len(resident[split])]
        one, two = resident[split].take(chosen), mapped[split].take(chosen)
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.targets, two.targets)
    one = resident.train.subset(index).subset(torch.tensor([2, 0])).take(torch.arange(2))
    two = mapped.train.subset(index).subset(torch.tensor([2, 0])).take(torch.arange(2))
    assert torch.equal(one.images, two.images)
