"""The range of deep pictures, odd files named by what they are, and files that only look damaged."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from tintype.data import decode
from tintype.data.decode import Unreadable
from tintype.data.kinds import kind_of
from tintype.data.opening import open_data

pytestmark = pytest.mark.usefixtures("short_pages")

WHOLE = {"height": None, "width": None, "channels": 1}


def light(seed: int = 7, level: float = 0.8, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).normal(level, 0.05, (side, side)).clip(0, 1)


@pytest.mark.parametrize("full", [1.0, 255.0, 65_535.0])
@pytest.mark.parametrize("outlier", [1.0, 1.01, 3.0, float("nan")])
def test_one_pixel_does_not_change_the_range_of_floating_point_values(tmp_path, full, outlier):
    values = (light() * full).astype(np.float32)
    values[3, 3] = outlier * full
    Image.fromarray(values).save(tmp_path / "a.tif")
    pixels = decode.decode(tmp_path / "a.tif", **WHOLE)
    assert np.delete(pixels.ravel(), 3 * 32 + 3).mean() == pytest.approx(0.8 * 255, abs=3)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["tif", "png"])
def test_a_container_of_16_bits_that_holds_fewer(tmp_path, bits, kind):
    values = (light() * (2**bits - 1)).astype(np.uint16)
    values[0, 0] = 65_535  # a hot pixel
    Image.fromarray(values).save(tmp_path / f"a.{kind}")
    notes: list[str] = []
    pixels = decode.decode(tmp_path / f"a.{kind}", **WHOLE, on_note=notes.append)
    assert pixels.mean() == pytest.approx(0.8 * 255, abs=3)
    assert bool(notes) == (bits < 16)
    assert all(f"only {bits} of 16 bits" in note for note in notes)


def test_whole_numbers_of_32_bits(tmp_path):
    for top in (4095, 65_535, 2**31 - 1):
        Image.fromarray((light() * top).astype(np.int32)).save(tmp_path / "a.tif")
        assert decode.decode(tmp_path / "a.tif", **WHOLE).mean() == pytest.approx(0.8 * 255, abs=3)


def test_the_tag_of_the_largest_sample_comes_first(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 16_383
    Image.fromarray((light(level=0.2) * 16_383).astype(np.uint16)).save(
        tmp_path / "a.tif", tiffinfo=tags
    )
    assert decode.decode(tmp_path / "a.tif", **WHOLE).mean() == pytest.approx(0.2 * 255, abs=3)


def test_the_set_decides_so_that_dark_pictures_stay_dark(tmp_path):
    """A dark picture of 12 bits fills 10 of them; beside light ones it is dark, in training and
    when it is predicted.
    """
    for name, level in (("dark", 0.1), ("light", 0.8)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(12):
            values = (light(i, level) * 4095).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "d" / name / f"{i}.tif")

    splits = open_data(str(tmp_path / "d"), image_size=32, channels=1)
    assert splits.spec.white == 4095
    assert any("4,095 is white" in note for note in splits.notes)
    images, targets = _all(splits.train)
    assert images[targets == 0].mean() == pytest.approx(0.1 * 255, abs=4)
    assert images[targets == 1].mean() == pytest.approx(0.8 * 255, abs=4)
    alone = decode.decode(tmp_path / "d/dark/0.tif", **WHOLE, resize=decode.Resize(white=4095))
    assert alone.mean() == pytest.approx(0.1 * 255, abs=4)


def _all(source) -> tuple[np.ndarray, np.ndarray]:
    import torch

    batch = source.take(torch.arange(len(source)))
    return batch.images.numpy(), batch.targets.numpy()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_pillow_image_is_turned_as_its_file_is(tmp_path, orientation, kind):
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:20], pixels[:, :10] = 200, 90
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "photo"
    Image.fromarray(pixels).save(path, kind, exif=exif)
    wanted = {"height": 24, "width": 24, "channels": 3}
    with Image.open(path) as image:
        in_memory = decode.fit(image, **wanted).astype(int)
        again = decode.fit(image, **wanted).astype(int)
    assert np.abs(in_memory - decode.decode(path, **wanted)).mean() < 3
    assert (in_memory == again).all()


def test_an_image_that_was_turned_already_is_not_turned_again():
    from PIL import ImageOps

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    image.info["exif"] = exif.tobytes()
    upright = ImageOps.exif_transpose(image)
    assert (decode.fit(upright, **WHOLE)[:, :, 0] == np.asarray(upright)).all()
    assert not (decode.fit(image, **WHOLE)[:, :, 0] == np.asarray(image)).all()


@pytest.mark.parametrize("chunk", [b"zTXt", b"iTXt"])
def test_long_texts_are_no_part_of_a_picture(tmp_path, chunk):
    Image.fromarray((light() * 255).astype(np.uint8)).save(tmp_path / "plain.png")
    png = (tmp_path / "plain.png").read_bytes()
    start = png.index(b"IDAT") - 4
    head = b"Comment\0\0" if chunk == b"zTXt" else b"Comment\0\1\0\0\0"
    text = head + zlib.compress(b"x" * 3_000_000)
    texts = (
        struct.pack(">I", len(text)) + chunk + text + struct.pack(">I", zlib.crc32(chunk + text))
    )
    long = png[:start] + texts + png[start:]
    assert (decode.decode(long, **WHOLE) == decode.decode(png, **WHOLE)).all()


@pytest.mark.skipif(not decode.READS_AVIF, reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    Image.fromarray((light() * 255).astype(np.uint8)).convert("RGB").save(tmp_path / "a.avif")
    assert decode.decode(tmp_path / "a.avif", **WHOLE).mean() == pytest.approx(0.8 * 255, abs=4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0" + bytes(99), "video"),
        (b"<!DOCTYPE html><html>403</html>", "web page"),
        (b"\xef\xbb\xbf  <html>", "web page"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"hello\n", "text"),
        (b"\xff\x0a" + bytes(99), "JPEG XL"),
        (b"%PDF-1.7\n\xff\xfe", "PDF"),
        (b"PK\x03\x04" + bytes(99), "ZIP"),
        (b"8BPS" + bytes(99), "Photoshop"),
        (bytes(128) + b"DICM" + bytes(9), "DICOM"),
        (bytes(500), "not an image"),
        (b"", "empty"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, said):
    (tmp_path / "photo.jpg").write_bytes(content)
    for source in (tmp_path / "photo.jpg", content):
        with pytest.raises(Unreadable, match=said):
            decode.decode(source, **WHOLE)


def test_bands_of_a_tiff_are_counted():
    entries = [
        (256, 4, 1, 8),
        (257, 4, 1, 8),
        (258, 3, 1, 16),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (277, 3, 1, 13),
    ]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)
    assert "13 bands of 16 bits" in kind_of(content)


def test_odd_but_readable_files_warn_nobody(tmp_path):
    path = tmp_path / "odd.jpg"
    Image.fromarray((light() * 255).astype(np.uint8)).save(
        path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(30)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode.decode(path, **WHOLE)
        with decode.quiet_pillow():
            image = Image.open(path)
        decode.fit(image, **WHOLE)
        image.close()
        decode.read_header(path)
        warnings.warn("somebody else's", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["somebody else's"]


@pytest.mark.skipif(sys.platform == "win32", reason="names there are no bytes")
def test_names_that_are_no_utf8_end_nothing(tmp_path, finished_run):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"a.png", b"caf\xe9.png", b"z.png"):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            Image.fromarray((light(side=8) * 255).astype(np.uint8)).save(file, "PNG")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for more in ([], ["--json"]):
        command = [
            sys.executable,
            "-m",
            "tintype",
            "predict",
            str(finished_run.path),
            str(folder),
            *more,
        ]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b".png") == 3


def test_importing_the_decoder_does_not_reach_the_locale():
    """Tk sets the locale of the whole process when it is loaded, after which commas are no decimal
    points any more.
    """
    code = "import tintype.data.decode, sys; sys.exit(sorted({'tkinter', '_tkinter'} & {*sys.modules}) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
