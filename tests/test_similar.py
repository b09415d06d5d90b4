"""Similar photos: the order of scikit-learn's cosine, any run, and nothing lost to a broken file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.metrics.pairwise import cosine_similarity

import tintype
from tintype.errors import UserError
from tintype.runs.packaged_weights import weights_file
from tintype.tasks.contract.network_predictor import NetworkPredictor


@pytest.fixture
def folder(digit_files, tmp_path) -> Path:
    """Some digits, a copy of the first, and two files that are no pictures."""
    found = sorted(digit_files.rglob("*.png"))[::5]
    photos = tmp_path / "photos"
    (photos / "deeper").mkdir(parents=True)
    for number, file in enumerate(found):
        (photos / f"{number}.png").write_bytes(file.read_bytes())
    with Image.open(photos / "0.png") as first:
        first.save(photos / "deeper" / "copy.bmp")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (photos / "text.jpg").write_text("no picture", encoding="utf-8")
    return photos


def test_the_order_is_that_of_scikit_learn(finished_run, folder):
    files = [file for file in sorted(folder.rglob("*.*")) if file.name not in BROKEN]
    features = finished_run.embed([str(file) for file in files])
    photo = folder / "0.png"
    cosines = dict(
        zip(files, cosine_similarity(features)[files.index(photo)].tolist(), strict=True)
    )
    del cosines[photo]

    found = finished_run.similar(photo, folder, top=100)
    assert {Path(row["file"]): row["similarity"] for row in found.found} == {
        file: pytest.approx(cosine, abs=1e-5) for file, cosine in cosines.items()
    }
    values = [row["similarity"] for row in found.found]
    assert values == sorted(values, reverse=True)
    assert (found.num_photos, len(found.found), found.network) == (24, 24, finished_run.name)
    assert {Path(file).name for file, _ in found.skipped} == BROKEN

    first = found.found[0]
    assert (Path(first["file"]).name, first["similarity"], first["same_pixels"]) == (
        "copy.bmp", 1.0, True,
    )  # fmt: skip
    assert not any(row["same_pixels"] for row in found.found[1:])


BROKEN = {"broken.png", "text.jpg"}


def test_a_second_search_computes_nothing_and_answers_the_same(finished_run, folder, monkeypatch):
    first = finished_run.similar(folder / "3.png", folder)

    def refuse(*_: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(NetworkPredictor, "features", refuse)
    assert finished_run.similar(folder / "3.png", folder) == first
    assert tintype.similar(folder / "3.png", folder, run=finished_run.path) == first
    with Image.open(folder / "3.png") as photo:
        pixels = np.asarray(photo)
    with_itself = finished_run.similar(pixels, [folder], top=1)
    assert (with_itself.photo, with_itself.found[0]["same_pixels"]) == ("image 0", True)


def test_without_a_run_installed_weights_look_as_timm_does(tmp_path):
    """A crop of a photo is the most similar one; cosines are those of timm's features."""
    import timm

    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    china.save(tmp_path / "china.png")
    china.crop((60, 40, 600, 400)).save(tmp_path / "crop.jpg")
    flower.save(tmp_path / "flower.png")
    found = tintype.similar(tmp_path / "china.png", tmp_path, verbose=False)
    assert [Path(row["file"]).name for row in found.found] == ["crop.jpg", "flower.png"]

    theirs: Any = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(weights_file("efficientnet_lite0"), weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors.values(), strict=True)))
    photos = [china, flower]
    with torch.no_grad():
        shown = torch.stack([torch.from_numpy(_prepared(photo)) for photo in photos])
        features = theirs.forward_head(theirs.forward_features(shown), pre_logits=True)
    expected = cosine_similarity(features)[0, 1]
    assert found.found[1]["similarity"] == pytest.approx(expected, abs=0.01)  # other resampling


def _prepared(photo: Image.Image) -> np.ndarray:
    """Return a photo as timm shows it: short side 256, bicubic, the middle 224 pixels, -1..1."""
    scale = 256 / min(photo.size)
    photo = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in photo.size)
    cut = np.asarray(photo.crop((left, top, left + 224, top + 224)), np.float32)
    return cut.transpose(2, 0, 1) / 127.5 - 1


def test_the_command_prints_a_table_and_writes_what_one_looks_at(tt, finished_run, folder):
    files = ["like.html", "like.png", "like.csv", "like.json"]
    out = [word for name in files for word in ("--out", folder.parent / name)]
    typed = ("similar", finished_run.path, folder / "0.png", folder)
    code, output, errors = tt(*typed, "--top", 5, *out)
    assert code == 0, errors
    assert "1.000" in output.splitlines()[0]
    assert "(same pixels)" in output.splitlines()[0]
    assert "passed over" in errors
    assert "5 of 24 photos" in errors

    page, sheet, table, plain = (folder.parent / name for name in files)
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") == 6
    assert "broken.png" in text
    with Image.open(sheet) as picture:
        assert picture.size == (4 * 204 + 12, 2 * 240 + 12)
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    content = json.loads(plain.read_text(encoding="utf-8"))
    assert [row["file"] for row in rows] == [row["file"] for row in content["similar"]]

    code, output, _ = tt(*typed, "--top", 5, "--json", "--out", page)  # replaced
    assert (code, json.loads(output)) == (0, content)
    code, _, errors = tt(*typed, "--out", sheet)
    assert (code, "nothing is overwritten" in errors) == (2, True)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("PHOTO", "there is no folder to look in"),
        ("RUN", "there is no photo and a folder"),
        ("RUN PHOTO", "there is no folder to look in"),
        ("RUN FOLDER FOLDER", "is a folder, and one photo is looked for"),
        ("FOLDER PHOTO FOLDER", "is not a run folder"),
        ("RUN BROKEN FOLDER", "cannot be read as an image"),
        ("RUN PHOTO PHOTO", "there is no photo but"),
        ("RUN PHOTO BROKEN", "cannot be read as an image"),
        ("RUN PHOTO gone", "there is no file or folder gone"),
        ("model.onnx PHOTO FOLDER", "is an exported model, which shows no features"),
        ("RUN PHOTO FOLDER --out like.gif", "Expected .html, .png, .csv or .json"),
        ("RUN PHOTO FOLDER --out gone/like.png", "there is no folder gone"),
    ],
)
def test_what_cannot_be_is_one_line(tt, finished_run, folder, typed, says):
    places = {
        "RUN": finished_run.path,
        "PHOTO": folder / "0.png",
        "FOLDER": folder,
        "BROKEN": folder / "broken.png",
    }
    code, _, errors = tt("similar", *(places.get(word, word) for word in typed.split()))
    assert (code, says in errors) == (2, True), errors
    assert len(errors.strip().splitlines()) == 1


def test_a_run_that_does_not_look_at_photos_says_so(kinds, folder):
    with pytest.raises(UserError, match="be used to predict"):
        tintype.similar(folder / "0.png", folder, run=kinds["gan"].path)
    with pytest.raises(UserError, match="top is 0"):
        tintype.similar(folder / "0.png", folder, top=0)


def test_a_notebook_shows_the_pictures(finished_run, folder):
    found = finished_run.similar(folder / "0.png", folder, top=3)
    html = found._repr_html_()
    assert html.count("data:image/jpeg") == 4
    assert "<script" not in html
    assert list(found.frame().columns) == ["file", "similarity", "same_pixels"]
    assert repr(found) == f"<3 of 24 photos like {folder / '0.png'}>"
