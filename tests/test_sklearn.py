"""The estimators of scikit-learn: its own checks, and what people do with estimators."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

import tintype
from tintype import TintypeClassifier, TintypeRegressor, UserError, own_code

PRECISION = os.environ.get("TINTYPE_TEST_PRECISION", "fp32")
SMALL: dict[str, Any] = {
    "model": "ann",
    "steps": 120,
    "lr": 0.01,
    "recipe": {"model_options": {"hidden": [32]}, "precision": PRECISION, "optimizer": "adamw"},
}

# What scikit-learn asks for and these estimators do not do, each with the reason.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "steps take the images in an order that "
    "follows from their number: a row that is repeated is not in the batches of one that counts "
    "twice",
}


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    rows, digits = load_digits(return_X_y=True)
    return np.asarray(rows).reshape(-1, 8, 8), np.asarray(digits)


@pytest.fixture(scope="module")
def fitted(digits: tuple[np.ndarray, np.ndarray]) -> TintypeClassifier:
    images, labels = digits
    return TintypeClassifier(**SMALL).fit(images[:1000], labels[:1000])


@pytest.mark.parametrize("kind", [TintypeClassifier, TintypeRegressor])
def test_scikit_learn_takes_them_for_estimators(kind):
    recipe = {"precision": PRECISION}
    estimator = kind(steps=100, recipe=recipe)
    check_estimator(estimator, expected_failed_checks=EXPECTED, on_skip=None)


def test_digits_are_classified_as_well_as_by_a_plain_network(fitted, digits):
    images, labels = digits
    rows = images.reshape(len(images), -1)
    plain = MLPClassifier((32,), random_state=0, early_stopping=True).fit(
        rows[:1000], labels[:1000]
    )
    reference = plain.score(rows[1000:], labels[1000:])
    assert fitted.score(images[1000:], labels[1000:]) > reference - 0.05


def test_probabilities_are_in_the_order_of_the_classes(fitted, digits):
    images, _ = digits
    probabilities = fitted.predict_proba(images[1000:])
    assert probabilities.shape == (len(images) - 1000, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    most = fitted.classes_[probabilities.argmax(1)]
    np.testing.assert_array_equal(most, fitted.predict(images[1000:]))


def test_a_fit_leaves_nothing_behind(digits, tmp_path, monkeypatch):
    images, labels = digits
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    estimator = TintypeClassifier(**SMALL).fit(images[:200], labels[:200])
    estimator.predict(images[:5])
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]
    assert not hasattr(estimator, "run_")


def test_the_run_is_kept_where_it_is_asked_for(digits, tmp_path):
    images, labels = digits
    folder = tmp_path / "kept"
    estimator = TintypeClassifier(**SMALL, run_folder=folder).fit(images[:200], labels[:200])
    assert estimator.run_.path == folder
    run = tintype.load(str(folder))
    assert run.status["state"] == "finished"
    assert len(run.history) == 120
    assert not (folder / "report.html").exists()


def test_the_same_fit_gives_the_same_answers(digits):
    images, labels = digits
    estimator = TintypeClassifier(**SMALL, random_state=3)
    first = estimator.fit(images[:200], labels[:200]).predict_proba(images[200:300])
    again: Any = clone(estimator)
    again = again.fit(images[:200], labels[:200]).predict_proba(images[200:300])
    np.testing.assert_array_equal(first, again)
    other = estimator.set_params(random_state=4).fit(images[:200], labels[:200])
    assert (other.predict_proba(images[200:300]) != first).any()


def test_a_fitted_estimator_is_pickled_as_weights(fitted, digits):
    images, _ = digits
    stored = pickle.dumps(fitted)
    assert b"torch" not in stored
    restored = pickle.loads(stored)
    np.testing.assert_array_equal(
        restored.predict_proba(images[:50]), fitted.predict_proba(images[:50])
    )


def test_flat_rows_with_a_shape_are_images(fitted, digits):
    images, labels = digits
    rows = images.reshape(len(images), -1)
    flat = TintypeClassifier(**SMALL, image_shape=(8, 8)).fit(rows[:1000], labels[:1000])
    np.testing.assert_array_equal(
        flat.predict_proba(rows[1000:]), fitted.predict_proba(images[1000:])
    )
    assert flat.n_features_in_ == fitted.n_features_in_ == 64


def test_classes_may_be_text_and_arrays_may_have_any_strides(fitted, digits):
    images, labels = digits
    names = np.array([f"digit {label}" for label in labels])
    turned = np.asfortranarray(images)[:1000]
    estimator = TintypeClassifier(**SMALL).fit(turned, names[:1000])
    assert estimator.predict(images[1000:1010]).tolist() == [
        f"digit {label}" for label in fitted.predict(images[1000:1010])
    ]


@pytest.fixture(scope="module")
def files(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: Any) -> list[str]:
    """The digits as files of one size, in their order."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{number}.png" for number in range(300)]
    for path, image in zip(paths, digits[0], strict=False):
        Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)).save(path)
    return [str(path) for path in paths]


def test_paths_are_images_as_much_as_arrays(files, digits):
    images, labels = digits
    of_files = TintypeClassifier(**SMALL).fit(files[:200], labels[:200])
    of_arrays = TintypeClassifier(**SMALL).fit(images[:200], labels[:200])
    expected = of_arrays.predict_proba(images[200:300])
    np.testing.assert_allclose(of_files.predict_proba(files[200:]), expected, atol=1e-6)

    frame = pd.DataFrame({"photo": [Path(file) for file in files[200:]]})
    np.testing.assert_allclose(of_files.predict_proba(frame), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"there is no file nowhere\.png"):
        of_files.predict(["nowhere.png"])
    with pytest.raises(ValueError, match=r"nowhere\.png cannot be used"):
        of_files.fit([*files[:20], "nowhere.png"], labels[:21])


def test_pictures_may_be_pillow_images_of_several_sizes(files, digits):
    _, labels = digits
    pictures = [Image.open(file) for file in files]
    of_pictures = TintypeClassifier(**SMALL).fit(pictures[:200], labels[:200])
    of_files = TintypeClassifier(**SMALL).fit(files[:200], labels[:200])
    np.testing.assert_allclose(
        of_pictures.predict_proba(pictures[200:]), of_files.predict_proba(files[200:]), atol=1e-6
    )

    several = [picture.resize((40 + k % 3, 44)) for k, picture in enumerate(pictures)]
    recipe = {**SMALL["recipe"], "image_size": 8}
    estimator = TintypeClassifier(**{**SMALL, "recipe": recipe})
    assert estimator.fit(several[:200], labels[:200]).score(several[200:], labels[200:300]) > 0.5


def test_other_tools_of_scikit_learn_use_them(files, digits):
    images, labels = digits
    images, labels = images[:300], labels[:300]
    estimator = TintypeClassifier(**SMALL)
    alone = cross_val_score(estimator, images, labels, cv=2)
    np.testing.assert_array_equal(cross_val_score(estimator, files, labels, cv=2, n_jobs=2), alone)
    search = GridSearchCV(Pipeline([("net", estimator)]), {"net__steps": [1, 120]}, cv=2)
    assert search.fit(images[..., None], labels).best_params_ == {"net__steps": 120}
    assert search.best_score_ == pytest.approx(alone.mean())

    rows = images.reshape(len(images), -1)
    scaled = make_pipeline(StandardScaler(), estimator.set_params(image_shape=(8, 8)))
    assert scaled.fit(rows[:200], labels[:200]).score(rows[200:], labels[200:]) > 0.7
    calibrated = CalibratedClassifierCV(estimator, cv=2).fit(images[:200], labels[:200])
    assert calibrated.score(images[200:], labels[200:]) > 0.5


def test_channels_may_come_first_and_colour_is_seen(digits):
    images, labels = digits
    colour = np.stack([images, images * 0, images], axis=3)[:300]
    last = TintypeClassifier(**SMALL).fit(colour, labels[:300])
    first = TintypeClassifier(**SMALL).fit(colour.transpose(0, 3, 1, 2), labels[:300])
    np.testing.assert_array_equal(last.predict_proba(colour), first.predict_proba(colour))


def test_images_of_another_scale_are_refused(fitted, digits):
    whole = np.rint(digits[0] * (255 / 16)).astype(np.uint8)
    estimator = TintypeClassifier(**SMALL).fit(whole[:200], digits[1][:200])
    with pytest.raises(ValueError, match="scale"):
        estimator.predict(whole / 255)


def test_what_was_fitted_on_images_is_not_asked_about_a_table(fitted, digits):
    with pytest.raises(ValueError, match="image_shape"):
        fitted.predict(digits[0].reshape(-1, 64))


class Net(nn.Module):
    """A network of the user's own."""

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images))


def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    return ((1 - torch.exp(-losses)) ** 2 * losses).mean()


@pytest.mark.parametrize("model", [Net, Net(10)], ids=["class", "module"])
def test_a_network_of_ones_own_is_trained_stored_and_cloned(model, digits):
    images, labels = digits
    recipe = {"optimizer": "adamw", "precision": PRECISION, "loss": focal}
    estimator = TintypeClassifier(model, steps=150, lr=0.01, augment="none", recipe=recipe)
    probabilities = estimator.fit(images[:1000], labels[:1000]).predict_proba(images[1000:])
    assert estimator.score(images[1000:], labels[1000:]) > 0.8
    restored = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(restored.predict_proba(images[1000:]), probabilities)
    again: Any = clone(estimator)
    again = again.fit(images[:1000], labels[:1000])
    np.testing.assert_array_equal(again.predict_proba(images[1000:]), probabilities)


def test_weights_of_zero_leave_images_out_and_others_count(digits):
    images, labels = digits
    estimator = TintypeClassifier(**SMALL)
    kept = np.arange(300) % 3 > 0
    of_kept = estimator.fit(images[:300][kept], labels[:300][kept]).predict_proba(images[300:400])
    weighted = estimator.fit(images[:300], labels[:300], sample_weight=kept)
    np.testing.assert_array_equal(weighted.predict_proba(images[300:400]), of_kept)

    other = np.where(labels[:300] == 1, 50.0, 1.0)
    favoured = estimator.fit(images[:300], labels[:300], sample_weight=other)
    assert (favoured.predict_proba(images[300:400])[:, 1]).mean() > of_kept[:, 1].mean()
    for wrong in (other[:10], -other, 0 * other):
        with pytest.raises(ValueError, match="sample_weight"):
            estimator.fit(images[:300], labels[:300], sample_weight=wrong)


@pytest.mark.parametrize("kind", [TintypeClassifier, TintypeRegressor])
def test_a_pretrained_network_needs_no_validation(kind, digits, tmp_path):
    images, labels = digits
    first = TintypeClassifier("cnn", steps=60, run_folder=tmp_path / "first")
    first.fit(images[:300], labels[:300])
    estimator = kind(weights=str(tmp_path / "first"), recipe={"precision": PRECISION})
    assert estimator.fit(images[:300], labels[:300]).score(images[300:600], labels[300:600]) > 0.5
    tuned = kind(weights=str(tmp_path / "first"), epochs=2, recipe={"tune": "all"})
    assert tuned.fit(images[:300], labels[:300]).score(images[300:600], labels[300:600]) > 0.2


def test_patience_chooses_by_a_validation_fraction(digits, tmp_path):
    images, labels = digits
    estimator = TintypeClassifier(
        **{**SMALL, "steps": None, "epochs": 60},
        validation_fraction=0.2,
        run_folder=tmp_path / "kept",
    )
    estimator.set_params(recipe={**SMALL["recipe"], "patience": 2, "keep": "best"})
    run = estimator.fit(images[:500], labels[:500]).run_
    assert (run.history[-1]["epoch"] or 60) < 60
    assert max(row["val_accuracy"] or 0 for row in run.history) > 0.5


def test_nothing_that_was_given_is_held_on_to(digits):
    images, labels = digits
    before = dict(own_code._given)
    estimator = TintypeClassifier(Net, steps=1, recipe={"optimizer": "adamw"})
    estimator.fit(images[:100], labels[:100]).predict(images[:5])
    assert own_code._given == before


def test_mistakes_are_value_errors_of_one_line(digits, tmp_path):
    images, labels = digits
    with pytest.raises(NotFittedError):
        TintypeClassifier().predict(images)
    for estimator, X in (
        (TintypeClassifier(model="fsat-cnn"), images),
        (TintypeClassifier(recipe={"epohcs": 3}), images),
        (TintypeClassifier(epochs=3, recipe={"epochs": 3}), images),
        (TintypeClassifier(image_shape=(9, 8)), images.reshape(-1, 64)),
        (TintypeClassifier(recipe={"patience": 3}), images),
        (TintypeClassifier(), np.zeros((len(images), 8, 8, 4))),
        (TintypeClassifier(), np.full(images.shape, np.nan)),
        (TintypeClassifier(), np.zeros((len(images), 2, 2))),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            estimator.fit(X, labels)
    with pytest.raises(UserError, match=r"fast-cnn"):
        TintypeClassifier(model="fsat-cnn").fit(images, labels)
