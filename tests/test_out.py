"""The way out of tintype: a run's network, features and probabilities as PyTorch and NumPy."""

from __future__ import annotations

import base64
import gc
import io
import json
import pickle
import re
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report, confusion_matrix
from torch import nn

import tintype
from tintype import api
from tintype.errors import UserError
from tintype.interface.cards import BAR, MOST_CARDS
from tintype.interface.tables import ConfusionMatrix, Figures, Table
from tintype.tasks.classify.classifier import Classify
from tintype.tasks.restoring import load_task_of
from tintype.verbs.predict.inputs import given_images


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """(40, 8, 8) uint8, as `tintype/data/sets/digits.py` reads them."""
    data: Any = load_digits()
    return np.rint(data.images[:40] * (255 / 16)).astype(np.uint8)


# ---- the network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "cnn"])
def test_the_network_and_its_input_give_what_predict_says(kinds, digits, name):
    run = kinds[name]
    network = run.model
    assert isinstance(network, nn.Module)
    assert not network.training
    image = run.preprocess(digits[0])
    assert image.shape == (1, 8, 8)
    assert image.dtype == torch.float32

    task, description = load_task_of(Classify, run, "cpu")
    with torch.no_grad():
        logits = network(image[None])
        pixels = torch.from_numpy(digits[:1, None])
        torch.testing.assert_close(logits, task.logits(task.networks[task.main], pixels))
        probabilities = torch.softmax(logits / description["temperature"], 1)
    np.testing.assert_allclose(run.predict(digits[0]).probs, probabilities[0], atol=1e-6)


def test_every_task_hands_out_its_network(kinds):
    noise = torch.randn(2, *kinds["gan"].model.latent_shape)
    assert kinds["gan"].model(noise, torch.tensor([0, 1])).shape == (2, 1, 8, 8)
    assert kinds["sharp"].model(torch.rand(1, 1, 8, 8)).shape == (1, 1, 16, 16)
    for name in ("gan", "sharp"):
        with pytest.raises(UserError, match="cannot be used to predict"):
            kinds[name].preprocess(np.zeros((8, 8), np.uint8))


def test_what_is_done_to_the_network_does_not_change_the_answers(copied_run, digits):
    before = copied_run.predict_proba(list(digits[:3]))
    network = copied_run.model
    assert copied_run.model is network
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    network.train().double()
    np.testing.assert_array_equal(copied_run.predict_proba(list(digits[:3])), before)


def test_a_run_without_a_model_says_so(tmp_path, tiny):
    run = api.Run.create(tmp_path, "begun", exact=True, recipe=tiny())
    for use in (lambda: run.model, lambda: run.embed(np.zeros((8, 8), np.uint8))):
        with pytest.raises(UserError, match=r"has no model.json: the run is unfinished"):
            use()


# ---- features and probabilities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "cnn"])
def test_features_are_what_the_head_sees(kinds, digits, name):
    run = kinds[name]
    features = run.embed(list(digits))
    assert features.dtype == np.float32
    head = [layer for layer in run.model.modules() if isinstance(layer, nn.Linear)][-1]
    assert features.shape == (40, head.in_features)
    with torch.no_grad():
        expected = run.model(torch.stack([run.preprocess(image) for image in digits]))
        torch.testing.assert_close(head(torch.from_numpy(features)), expected)
    np.testing.assert_allclose(run.embed(digits[0]), features[:1], atol=1e-6)


def test_features_serve_scikit_learn(kinds, digits):
    data: Any = load_digits()
    features = kinds["digits"].embed(list(digits))
    fitted = LogisticRegression(max_iter=1000).fit(features[:30], data.target[:30])
    assert fitted.score(features[:30], data.target[:30]) == 1


def test_probabilities_are_those_of_the_predictions(kinds, digits):
    run = kinds["digits"]
    probabilities = run.predict_proba(list(digits))
    assert probabilities.shape == (40, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(
        probabilities, [each.probs for each in run.predict(list(digits))], atol=1e-6
    )
    assert run.class_names == tuple("0123456789")
    assert [run.class_names[k] for k in probabilities.argmax(1)] == [
        each.top1 for each in run.predict(list(digits))
    ]
    np.testing.assert_allclose(run.predict_proba(digits[0]), probabilities[:1], atol=1e-6)


# ---- the model stays loaded --------------------------------------------------------------------------------------------


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs whose model was opened, in order."""
    from tintype.verbs.predict import opening

    found: list[Path] = []
    real: Callable[..., Any] = opening.open_run

    def noted(run: api.Run, device: str = "auto") -> Any:
        found.append(run.path)
        return real(run, device)

    monkeypatch.setattr(opening, "open_run", noted)
    return found


def test_one_image_after_another_opens_the_model_once(copied_run, digits, openings):
    answers = [copied_run.predict(image).top1 for image in digits[:5]]
    copied_run.embed(digits[0])
    copied_run.predict_proba(digits[0])
    assert len(openings) == 1
    assert answers == [each.top1 for each in copied_run.predict(list(digits[:5]))]
    copied_run.close()
    copied_run.predict(digits[0])
    assert len(openings) == 2


def test_a_model_that_was_written_again_is_seen(copied_run, kinds, digits, openings):
    before, network = copied_run.predict_proba(digits[0]), copied_run.model
    for name in ("model.json", "model.safetensors"):
        (copied_run.path / name).unlink()
        shutil.copy(kinds["cnn"].path / name, copied_run.path / name)
    assert not np.allclose(copied_run.predict_proba(digits[0]), before)
    np.testing.assert_allclose(
        copied_run.predict_proba(digits[0]), kinds["cnn"].predict_proba(digits[0]), atol=1e-6
    )
    assert copied_run.model is not network
    assert openings.count(copied_run.path) == 2


def test_a_run_with_a_loaded_model_is_pickled_and_forgotten(copied_run, digits):
    run = api.Run(copied_run.path)
    answer = run.predict_proba(digits[0])
    network = weakref.ref(run.model)
    assert len(pickle.dumps(run)) < 1000
    again = pickle.loads(pickle.dumps(run))
    assert again.path == run.path
    np.testing.assert_allclose(again.predict_proba(digits[0]), answer, atol=1e-6)
    del run
    gc.collect()
    assert network() is None


# ---- what may be given -------------------------------------------------------------------------------------------------


def test_images_of_files_and_of_memory_are_taken_alike(kinds, digits, tmp_path):
    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    Image.fromarray(digits[1]).save(tmp_path / "b.png")
    run = kinds["digits"]
    for method in (run.embed, run.predict_proba):
        np.testing.assert_allclose(method(tmp_path), method(list(digits[:2])), atol=1e-6)
        np.testing.assert_allclose(method(tmp_path / "b.png"), method([digits[1]]), atol=1e-6)
    torch.testing.assert_close(run.preprocess(tmp_path / "b.png"), run.preprocess(digits[1]))


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(lambda x: list(x), id="list"),
        pytest.param(lambda x: tuple(torch.from_numpy(x)), id="tensors"),
        pytest.param(lambda x: x, id="(N, H, W)"),
        pytest.param(lambda x: x[..., None], id="(N, H, W, 1)"),
        pytest.param(lambda x: np.repeat(x[..., None], 3, 3), id="(N, H, W, 3)"),
        pytest.param(lambda x: x[:, None], id="(N, 1, H, W)"),
        pytest.param(lambda x: (x / 255).astype(np.float32), id="floats of 0..1"),
        pytest.param(lambda x: x.astype(np.float64), id="floats of 0..255"),
        pytest.param(lambda x: torch.from_numpy(x)[:, None] / 255, id="tensor"),
        pytest.param(lambda x: [Image.fromarray(each) for each in x], id="Pillow"),
    ],
)
def test_a_batch_is_many_images_whatever_its_form(kinds, digits, batch):
    expected = kinds["digits"].predict_proba(list(digits[:5]))
    answers = kinds["digits"].predict(batch(digits[:5]))
    assert isinstance(answers, list)
    np.testing.assert_allclose([each.probs for each in answers], expected, atol=1e-5)
    assert [each.name for each in answers] == [f"image {k}" for k in range(5)]
    np.testing.assert_allclose(
        kinds["digits"].predict_proba(batch(digits[:5])), expected, atol=1e-5
    )


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda x: x, id="(H, W)"),
        pytest.param(lambda x: x / 255.0, id="floats"),
        pytest.param(lambda x: torch.from_numpy(x), id="tensor (H, W)"),
        pytest.param(lambda x: torch.from_numpy(x)[None], id="tensor (1, H, W)"),
        pytest.param(lambda x: torch.from_numpy(x)[None].expand(3, 8, 8), id="tensor (3, H, W)"),
    ],
)
def test_one_image_has_one_answer(kinds, digits, form):
    run = kinds["digits"]
    answer = run.predict(form(digits[3]))
    np.testing.assert_allclose(answer.probs, run.predict_proba(digits[3])[0], atol=1e-5)
    torch.testing.assert_close(run.preprocess(form(digits[3])), run.preprocess(digits[3]))


def test_pandas_columns_and_patterns_name_files(kinds, digits, tmp_path):
    pandas = pytest.importorskip("pandas")
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, image in zip(files, digits, strict=False):
        Image.fromarray(image).save(file)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    frame = pandas.DataFrame({"path": [str(file) for file in files], "label": [0, 1, 2]})

    run = kinds["digits"]
    expected = [
        (str(file), each.top1) for file, each in zip(files, run.predict(files), strict=True)
    ]
    for given in (
        frame,
        frame["path"],
        frame[["path"]],
        np.array(frame["path"]),
        str(tmp_path / "*.png"),
        tmp_path,
    ):
        assert [(each.name, each.top1) for each in run.predict(given)] == expected
    with pytest.raises(UserError, match=r"which column .* There are a, b\."):
        run.predict(pandas.DataFrame({"a": ["x"], "b": ["y"]}))


def test_a_generator_is_answered_as_it_goes(kinds, digits):
    taken: list[int] = []

    def frames():
        for number, image in enumerate(digits):
            taken.append(number)
            yield image

    run = kinds["digits"]
    answers = run.predict(frames(), batch_size=4)
    assert taken == []
    first = next(answers)
    assert (first.name, len(taken)) == ("image 0", 4)
    rest = [each.top1 for each in answers]
    assert [first.top1, *rest] == [each.top1 for each in run.predict(list(digits))]
    assert run.predict_proba(image for image in digits[:3]).shape == (3, 10)


def test_a_broken_file_loses_no_other(kinds, digits, tmp_path):
    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    files = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "gone.png", tmp_path / "a.png"]
    run = kinds["digits"]
    for given in (files, iter(files)):
        with pytest.warns(UserWarning, match=r"2 of 4 images cannot be read; the first: .*b\.png"):
            answers = list(run.predict(given))
        assert [bool(each.error) for each in answers] == [False, True, True, False]
        assert answers[0].top1 == run.predict(digits[0]).top1
        assert "b.png cannot be read as an image" in answers[1].error
        assert f"there is no file {files[2]}" in answers[2].error
        assert (answers[1].top1, answers[1].top5, np.isnan(answers[1].confidence)) == ("", [], True)
        assert "cannot be read" in repr(answers[1])

    for method in (run.predict_proba, run.embed):
        with pytest.warns(UserWarning, match="2 of 4 images"):
            rows = method(files)
        assert np.isnan(rows).any(1).tolist() == [False, True, True, False]
    for use in (run.predict, run.embed):
        with pytest.raises(UserError, match="None of the 2 images can be read"):
            use(files[1:3])
        with pytest.raises(UserError, match="there is no file"):
            use(files[2])


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([3.5], r"image 0: cannot predict a float\. Expected files, bytes"),
        ([(np.zeros((8, 8), np.uint8), 3)], "give the images alone"),
        (["https://example.org/a.png"], "is an address"),
        ([np.zeros((8, 8), np.uint8), np.full((8, 8), np.inf)], "image 1: .*NaN or infinite"),
        ([np.zeros((2, 8, 8, 1), np.uint8)], r"image 0: .*\(2, 8, 8, 1\) as one image"),
    ],
)
def test_what_is_no_image_among_many_is_refused(kinds, images, says):
    for method in (kinds["digits"].predict, kinds["digits"].embed):
        with pytest.raises(UserError, match=says):
            method(images)


def test_three_channels_first_are_asked_about(kinds):
    array = np.zeros((3, 8, 8), np.uint8)
    assert len(kinds["digits"].predict(array)) == 3  # a grey model is given three grey images
    with pytest.raises(UserError, match=r"one image or three grey ones\? .*transpose\(1, 2, 0\)"):
        given_images(array, channels=3)
    assert given_images(torch.from_numpy(array), channels=3).form == "one"
    assert given_images(array[:2], channels=3).form == "many"
    assert kinds["digits"].predict([]) == []
    with pytest.raises(UserError, match="the list is empty"):
        kinds["digits"].embed([])
    with pytest.raises(UserError, match="batch_size is 0"):
        kinds["digits"].predict([], batch_size=0)
    with pytest.raises(UserError, match="preprocess takes one image"):
        kinds["digits"].preprocess(np.zeros((2, 8, 8), np.uint8))


def test_a_prediction_is_shown_in_a_line(kinds, digits):
    answer = kinds["digits"].predict(digits[0])
    assert repr(answer).startswith(f"Prediction('image': {answer.top1} {answer.confidence:.1%}, ")
    assert len(repr(answer)) < 80
    assert answer.thumbnail.shape == (8, 8, 1)


# ---- figures -----------------------------------------------------------------------------------------------------------


def test_figures_are_plain_objects_with_frames(kinds):
    run = kinds["digits"]
    assert run.metrics == run.read("evaluation.json")["splits"]
    assert json.loads(json.dumps(run.metrics)) == run.metrics
    pandas = pytest.importorskip("pandas")
    frame = run.metrics.frame()
    assert list(frame.index) == ["train", "val", "test"]
    assert all(pandas.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes)
    test = run.metrics["test"]
    assert frame.loc["test", ["accuracy_low", "accuracy_high"]].tolist() == test["accuracy_ci95"]
    assert frame.loc["test", "accuracy"] == test["accuracy"]

    assert len(run.history.frame()) == len(run.history)
    assert run.history.frame()["loss"].dtype == float


def test_the_confusion_matrix_and_the_classes_agree_with_scikit_learn(kinds):
    run = kinds["digits"]
    rows = [row for row in run.read_table("predictions.csv") if row["split"] == "test"]
    truth, answers = ([row[key] for row in rows] for key in ("target", "prediction"))
    matrix = run.confusion_matrix
    expected = confusion_matrix(truth, answers, labels=list(run.class_names))
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.trace() == run.metrics["test"]["num_correct"]

    report: Any = classification_report(truth, answers, output_dict=True, zero_division=0)
    pytest.importorskip("pandas")
    frame = run.per_class.frame().set_index("name")
    for name in run.class_names:
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert frame.loc[name, ours] == pytest.approx(report[name][theirs])
    assert {"recall_low", "recall_high"} <= set(frame.columns)

    of_classes = matrix.frame()
    assert of_classes.index.name == "true class"
    assert of_classes.columns.name == "answer"
    np.testing.assert_array_equal(of_classes.loc["3"], expected[3])


def test_a_run_without_classes_has_no_confusion_matrix(kinds):
    for use in (lambda: kinds["sharp"].confusion_matrix, lambda: kinds["sharp"].per_class):
        with pytest.raises(UserError, match=r"whose answers are no classes\. .* run\.metrics"):
            use()


def test_frames_say_that_pandas_is_missing(kinds, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for figures in (kinds["digits"].metrics, kinds["digits"].confusion_matrix):
        with pytest.raises(UserError, match=r"a frame needs pandas, .* pip install pandas"):
            figures.frame()


def test_names_of_classes_are_escaped_in_tables():
    matrix = ConfusionMatrix.of([[1, 0], [0, 2]], ["<script>", "b&c"])
    for table in (matrix, Table([{"name": "<script>", "f1": None}])):
        assert "&lt;script&gt;" in table._repr_html_()
        assert "<script" not in table._repr_html_()
    assert matrix[0]._repr_html_().startswith("<pre>")
    assert Figures({"test": {"accuracy": 0.98765, "per": [1]}})._repr_html_().count("<td") == 2


# ---- runs --------------------------------------------------------------------------------------------------------------


def test_runs_of_a_folder_are_listed_and_deleted(tmp_path, kinds, tiny):
    for name, kind in (("one", "digits"), ("two", "cnn")):
        shutil.copytree(kinds[kind].path, tmp_path / name)
    begun = api.Run.create(tmp_path, "begun", exact=True, recipe=tiny())
    found = tintype.runs(tmp_path)
    assert sorted(run.name for run in found) == ["begun", "one", "two"]
    assert all(isinstance(run, api.Run) for run in found)
    assert "one    finished" in repr(found)
    pytest.importorskip("pandas")
    frame = found.frame().set_index("name")
    assert frame.loc["one", "test_accuracy"] == kinds["digits"].metrics["test"]["accuracy"]
    assert "finished" in found._repr_html_()

    for run in found:
        run.delete()
    assert list(tmp_path.iterdir()) == []
    assert tintype.runs(tmp_path) == []
    assert repr(tintype.runs(tmp_path / "none")) == f"no runs in {tmp_path / 'none'}"
    with pytest.raises(UserError, match="is a file"):
        tintype.runs(__file__)
    with pytest.raises(UserError, match="is not a run folder, so nothing was deleted"):
        begun.delete()


def test_what_is_no_run_or_is_being_trained_is_not_deleted(tmp_path, copied_run):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(UserError, match="is not a run folder"):
        api.Run(tmp_path / "notes").delete()
    with copied_run.locked(), pytest.raises(UserError, match="is being trained"):
        api.Run(copied_run.path).delete()
    packed = tintype.load(copied_run.pack(tmp_path / "packed.zip"))
    with pytest.raises(UserError, match="was unpacked from a file"):
        packed.delete()
    (tmp_path / "link").symlink_to(copied_run.path)
    with pytest.raises(UserError, match="is a link"):
        api.Run(tmp_path / "link").delete()
    assert copied_run.predict(np.zeros((8, 8), np.uint8)).top1
    assert (tmp_path / "notes" / "a.txt").exists()


def test_dir_of_a_run_shows_what_a_user_may_use(kinds):
    shown = {name for name in dir(kinds["digits"]) if not name.startswith("_")}
    assert {"model", "predict", "embed", "metrics", "delete", "path", "name", "read"} <= shown
    hidden = {"create", "set_status", "write_recipe", "refuse_taken", "locked", "write"}
    assert not shown & hidden
    for name in shown - {"model", "own_code"}:
        documented = getattr(type(kinds["digits"]), name, None)
        assert name == "path" or documented.__doc__, f"{name} says what it is"


# ---- in a notebook -----------------------------------------------------------------------------------------------------


def test_a_prediction_is_shown_as_a_picture_with_bars(kinds, digits, tmp_path):
    run = kinds["digits"]
    answer = run.predict(digits[0])
    shown = answer._repr_html_()
    assert shown.count(f"background: {BAR}") == 3
    assert f"width: {answer.confidence:.1%}" in shown
    source = re.search(r"src='data:image/png;base64,([^']+)'", shown)
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source[1]))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), digits[0])

    Image.fromarray(digits[0]).save(tmp_path / "a&<b>.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 of 42 images"):
        many = run.predict([tmp_path / "a&<b>.png", tmp_path / "broken.png", *digits])
    shown = many._repr_html_()
    assert shown.count("<img") == MOST_CARDS - 1
    assert "and 18 more" in shown
    assert "a&amp;&lt;b&gt;.png" in shown
    assert "<b>" not in shown
    assert "cannot be read as an image" in shown

    pytest.importorskip("pandas")
    frame = many.frame()
    assert list(frame.columns) == ["name", "prediction", "confidence", "unlike", "error"]
    assert frame["prediction"][0] == answer.top1
    assert np.isnan(frame["confidence"][1])


def test_a_run_links_its_report_where_a_notebook_serves_it(copied_run, tmp_path, monkeypatch):
    folder = tmp_path / "my #1 run"
    shutil.copytree(copied_run.path, folder / "copied")
    run = api.Run(folder / "copied")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert 'href="my%20%231%20run/copied/report.html"' in run._repr_html_()
    monkeypatch.setenv("JPY_SESSION_NAME", str(folder / "notebook.ipynb"))
    assert 'href="copied/report.html"' in run._repr_html_()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "elsewhere" / "notebook.ipynb"))
    assert "href" not in run._repr_html_()
    assert f"<code>{(run.path / 'report.html').resolve()}</code>" in run._repr_html_()
