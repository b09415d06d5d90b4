"""Images that are unlike the training images are said to be so, wherever a classifier answers; the
others are left alone.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from tintype import api
from tintype.data import open_data
from tintype.data.typical import PROPERTIES, Typical, colours, learn, measure
from tintype.errors import UserError
from tintype.verbs.export import export_run
from tintype.verbs.predict.opening import open_exported

COLOUR = "it has colour, and the training images are grey"
INVERTED = "it is dark on light, and the training images are light on dark"


def pixels_of(split: str) -> np.ndarray:
    """Return the digits of a split (N, 8, 8, 1) uint8."""
    source = open_data("digits")[split]
    return source.take(torch.arange(len(source))).images.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def test_digits() -> np.ndarray:
    return pixels_of("test")


@pytest.fixture(scope="module")
def strange(tmp_path_factory, test_digits) -> Path:
    """A folder with a digit, the same one as dark ink on paper, and a photo in colour."""
    folder = tmp_path_factory.mktemp("strange")
    digit = np.kron(test_digits[0, :, :, 0], np.ones((20, 20), np.uint8))
    Image.fromarray(digit).save(folder / "digit.png")
    Image.fromarray(255 - digit).save(folder / "ink.png")
    Image.fromarray(skimage.data.chelsea()).save(folder / "photo.jpg")
    return folder


def share(run: api.Run, images: np.ndarray) -> float:
    answers: Any = run.predict(list(images))
    return float(np.mean([bool(answer.unlike) for answer in answers]))


def test_test_images_are_like_the_training_images_and_inverted_ones_are_not(
    finished_run, test_digits
):
    assert share(finished_run, test_digits) <= 0.02
    answers: Any = finished_run.predict(list(255 - test_digits))
    assert np.mean([answer.unlike == INVERTED for answer in answers]) >= 0.95


def test_the_run_says_how_many_of_its_test_images_would_be_called_unlike(finished_run, test_digits):
    counted = finished_run.read("evaluation.json")["unlike"]
    assert counted["num_images"] == len(test_digits)
    assert counted["num_unlike"] == round(share(finished_run, test_digits) * len(test_digits))
    said = f"{counted['num_unlike']} of {len(test_digits)} test images would"
    assert said in (finished_run.path / "report.html").read_text(encoding="utf-8")
    assert said in str(finished_run.card("-"))


def test_noise_faint_and_empty_images_are_unlike_digits(finished_run, test_digits):
    noise = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1)).astype(np.uint8)
    empty = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (0, 128, 255)])
    for images in (noise, test_digits // 4, empty):
        assert share(finished_run, images) >= 0.95


def test_a_colour_photo_is_unlike_grey_images_in_every_form_in_which_it_comes(
    finished_run, strange
):
    path = strange / "photo.jpg"
    with Image.open(path) as image:
        image.load()
        forms: list[Any] = [path, str(path), path.read_bytes(), image, np.asarray(image)]
        assert {finished_run.predict(form).unlike for form in forms} == {COLOUR}


def test_a_grey_picture_in_a_colour_file_has_no_colour(finished_run, test_digits, tmp_path):
    for i, digit in enumerate(test_digits[:20, :, :, 0]):
        large = Image.fromarray(digit).resize((160, 160), Image.Resampling.NEAREST).convert("RGB")
        large.save(tmp_path / f"{i}.jpg", quality=90)
        assert finished_run.predict(tmp_path / f"{i}.jpg").unlike == ""


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_files_of_answers_say_it(tt, finished_run, strange, tmp_path, ending):
    out = tmp_path / f"answers.{ending}"
    code, _, errors = tt("predict", finished_run.path, strange, "--out", out)
    assert code == 0
    if ending == "csv":
        rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    elif ending == "jsonl":
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table(out).to_pylist()
    assert {Path(row["file"]).name: row["unlike"] or "" for row in rows} == {
        "digit.png": "",
        "ink.png": INVERTED,
        "photo.jpg": COLOUR,
    }
    assert "2 of 3 are unlike the training images" in errors
    if ending == "csv":
        assert tt("predict", finished_run.path, strange, "--out", out, "--resume")[0] == 0, (
            "its columns are the same"
        )


def test_the_terminal_says_it_and_what_validation_promised_is_withheld(tt, finished_run, strange):
    code, printed, _ = tt("predict", finished_run.path, strange, "--abstain", "--wish", "0.8")
    digit, ink, ink_more, photo, photo_more = printed.splitlines()
    assert code == 0
    assert "unsure" not in digit
    assert "ink.png: unsure (" in ink
    assert "photo.jpg: unsure (" in photo
    assert (
        ink_more.strip()
        == f"This image is unlike the training images: {INVERTED}. Its confidence does not apply."
    )
    assert COLOUR in photo_more

    answers = json.loads(tt("predict", finished_run.path, strange, "--json")[1])["predictions"]
    assert [answer["unlike"] for answer in answers] == [None, INVERTED, COLOUR]


def test_it_travels_with_an_export_and_a_packed_run(
    tt, finished_run, strange, test_digits, tmp_path
):
    exported = export_run(finished_run, out=tmp_path / "digits.onnx").path
    packed = finished_run.pack(tmp_path / "digits.zip")
    expected = [answer["unlike"] for answer in _answers(tt, finished_run.path, strange)]
    assert expected == [None, INVERTED, COLOUR]
    assert [answer["unlike"] for answer in _answers(tt, exported, strange)] == expected
    assert [answer["unlike"] for answer in _answers(tt, packed, strange)] == expected
    images = [*test_digits[:50], *(255 - test_digits[:50])]
    ours: Any = finished_run.predict(images)
    theirs = open_exported(exported).predict(images)
    assert [answer.unlike for answer in theirs] == [answer.unlike for answer in ours]


def _answers(tt: Any, model: Path, photos: Path) -> list[dict[str, Any]]:
    return json.loads(tt("predict", model, photos, "--json")[1])["predictions"]


def test_evaluating_on_images_unlike_the_training_images_says_so(
    finished_run, digit_files, tmp_path
):
    assert "unlike" not in finished_run.evaluate(data=str(digit_files))["remark"]
    for path in digit_files.rglob("*.png"):
        target = tmp_path / "ink" / path.relative_to(digit_files)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Image.fromarray(255 - np.asarray(image)).save(target)
    remark = finished_run.evaluate(data=str(tmp_path / "ink"))["remark"]
    assert (
        f"WARNING: 120 of 120 images are unlike the training images, 120 of them because {INVERTED}"
        in remark
    )


def test_a_run_of_an_earlier_version_answers_as_before(tt, copied_run, strange, tmp_path):
    description = copied_run.read("model.json")
    del description["typical"]
    copied_run.write("model.json", description)
    assert copied_run.predict(strange / "photo.jpg").unlike == ""
    assert tt("predict", copied_run.path, strange, "--out", tmp_path / "answers.csv")[0] == 0
    assert (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()[
        0
    ] == "file,prediction,confidence,error"
    assert "unlike" not in tt("predict", copied_run.path, strange, "--json")[1]


def ranges(ends: list[Any]) -> dict[str, Any]:
    return {name: list(ends) for name in PROPERTIES}


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {},
        {"ranges": 1, "coloured": 0},
        {"ranges": {"brightness": [0, 1]}, "coloured": 0.0},
        {"ranges": ranges([0]), "coloured": 0},
        {"ranges": ranges([0, "x"]), "coloured": 0},
        {"ranges": ranges([0, float("inf")]), "coloured": 0},
        {"ranges": ranges([0, 1]), "coloured": "all"},
    ],
)
def test_a_broken_record_is_one_line(broken):
    with pytest.raises(UserError, match=r"\(typical\) is incomplete or broken"):
        Typical.of(broken)


def test_a_record_comes_back_as_it_was_written():
    images = pixels_of("train")
    found = learn([images[:600], images[600:]], [pixels_of("val")], coloured=0.0)
    assert found is not None
    assert Typical.of(json.loads(json.dumps(found.to_dict()))) == found
    assert learn([images], [], coloured=0.0) is not None, "without validation images"
    assert learn([images[:49]], [], coloured=0.0) is None, "too few"
    assert learn([], [], coloured=0.0) is None


def patches(photo: np.ndarray, size: int = 24) -> np.ndarray:
    """Return half-overlapping squares of a photo (N, size, size, 3) uint8."""
    height, width = photo.shape[:2]
    corners = [
        (y, x)
        for y in range(0, height - size, size // 2)
        for x in range(0, width - size, size // 2)
    ]
    return np.stack([photo[y : y + size, x : x + size] for y, x in corners])


def test_a_model_of_colour_images_knows_grey_ones():
    colour = patches(skimage.data.chelsea())
    order = np.random.default_rng(0).permutation(len(colour))
    train, val, test = np.split(colour[order], [len(colour) * 6 // 10, len(colour) * 8 // 10])
    found = learn([train], [val], coloured=None)
    assert found is not None
    assert Typical.of(json.loads(json.dumps(found.to_dict()))) == found, "the record comes back"
    grey = np.repeat(
        np.asarray([np.asarray(Image.fromarray(image).convert("L")) for image in test])[..., None],
        3,
        3,
    )
    unknown = [None] * len(test)
    assert np.mean([bool(reason) for reason in found.reasons(test, unknown)]) <= 0.02
    assert set(found.reasons(grey, unknown)) == {"it is grey, and the training images have colour"}
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 24, 3)).astype(np.uint8)
    assert all(found.reasons(noise, [None] * 20))


def test_what_is_measured_of_an_image():
    grey = np.full((1, 16, 16, 1), 200, np.uint8)
    grey[:, 4:12, 4:12] = 100
    found = {name: values[0] for name, values in measure(grey).items()}
    assert found["brightness"] == pytest.approx(175)
    assert found["contrast"] == pytest.approx(np.std(grey.astype(float)))
    assert (found["border"], found["polarity"]) == (200, -100)
    assert (found["darkest"], found["brightest"]) == (100, 200)
    # Of 15 steps in each of 16 rows, two are of 100 in half of the rows.
    assert found["roughness"] == pytest.approx(
        100 * (8 * 2 * 100 / (15 * 16)) / (found["contrast"] + 4)
    )
    colour = np.repeat(grey, 3, axis=3)
    assert measure(colour)["colourfulness"] == 0
    assert {name: pytest.approx(float(v[0]), abs=1e-3) for name, v in measure(colour).items()} == {
        **found,
        "colourfulness": 0,
    }
    colour[..., 0] += 30
    assert measure(colour)["colourfulness"] == 30
    assert list(colours(colour)) == [True]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 3), (3, 2, 2, 1), (1, 300, 200, 3)])
def test_images_of_any_size_are_measured(shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = measure(images)
    assert all(
        values.shape == (shape[0],) and np.isfinite(values).all() for values in found.values()
    )
