"""Predicting from Python: files, pictures in memory, lists of them; what is refused."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tintype.errors import UserError
from tintype.tasks.task import Prediction

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    """(8, 8) uint8, a zero; as `tintype/data/digits.py` reads it."""
    return np.rint(load_digits().images[0] * (255 / 16)).astype(np.uint8)


def test_every_form_of_a_picture_gives_the_same_answer(finished_run, digit, tmp_path):
    Image.fromarray(digit).save(tmp_path / "zero.png")
    in_bytes = io.BytesIO()
    Image.fromarray(digit).save(in_bytes, format="PNG")
    forms = [
        tmp_path / "zero.png",
        str(tmp_path / "zero.png"),
        in_bytes.getvalue(),
        Image.fromarray(digit),
        digit,
        digit[:, :, None],
        np.repeat(digit[:, :, None], 3, axis=2),
    ]
    answers = [finished_run.predict(form) for form in forms]
    assert all(isinstance(answer, Prediction) for answer in answers)
    for answer in answers:
        np.testing.assert_allclose(answer.probs, answers[0].probs, atol=1e-5)
    together = finished_run.predict(forms)
    assert [answer.top1 for answer in together] == [answer.top1 for answer in answers]


def test_a_larger_colour_picture_is_brought_to_the_size_of_the_model(finished_run, digit):
    large = Image.fromarray(digit).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
    assert finished_run.predict(large).top1 == finished_run.predict(digit).top1


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((8, 8)), "float64"),
        (np.zeros((8, 8, 4), np.uint8), "(8, 8, 4)"),
        (np.zeros((3, 8, 8), np.uint8), "(3, 8, 8)"),
        (np.zeros((0, 8), np.uint8), "(0, 8)"),
        (3.5, "float"),
        (b"no picture", "cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_line(finished_run, picture, says):
    with pytest.raises(UserError) as error:
        finished_run.predict(picture)
    assert says in str(error.value)


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "quickstart.py"))
    said = capsys.readouterr().out
    assert "the picture is a 0" in said
    assert (tmp_path / "runs" / "digits" / "report.html").exists()
