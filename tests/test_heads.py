"""Linear heads: equal to scikit-learn's, chosen by cross-validation that keeps groups together."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tintype.tasks.heads import STAGED, fit_head, stratified_folds
from tintype.tasks.linear_heads import (
    NEVER,
    RIDGES,
    Rows,
    discriminant,
    log_losses,
    logistic_path,
    logistic_paths,
    ridge_path,
)

pytestmark = pytest.mark.usefixtures("short_pages")


@pytest.fixture(scope="module")
def digits():
    """Features (400, 128) of digits, more than is usual for their number, and classes."""
    images, classes = load_digits(return_X_y=True)
    images = images[:400]
    return np.hstack([images, images**2 / 16]), classes[:400]


def centred(logits):
    """Leave out what softmax does."""
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_regression_is_that_of_scikit_learn(digits, weighted):
    features, classes = digits
    weights = np.random.default_rng(0).uniform(0.5, 2, len(classes)) if weighted else None
    rows = Rows(features, classes, 10, weights)

    path = logistic_path(rows, [0.01, 1.0], converged=1e-9)
    for strength, head in zip([0.01, 1.0], path, strict=True):
        known = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000)
        known.fit(rows.x, classes, sample_weight=weights)

        np.testing.assert_allclose(head.weight / rows.scale, known.coef_, atol=1e-6)
        wanted = known.decision_function(rows.x)
        np.testing.assert_allclose(centred(head.logits(features)), centred(wanted), atol=1e-4)


def test_regressions_that_are_fitted_together_are_those_of_each_part(digits):
    features, classes = digits
    rows = Rows(features, classes, 10, np.random.default_rng(0).uniform(0.5, 2, len(classes)))
    kept = [np.arange(400) % 5 > 0, np.arange(400) % 5 > 1, classes != 3]
    parts = [rows.some(each) for each in kept]

    together = logistic_paths(parts, [0.01, 0.1], converged=1e-5)
    for strength, heads in zip([0.01, 0.1], together, strict=True):
        for part, inside, head in zip(parts, kept, heads, strict=True):
            known = LogisticRegression(C=strength, tol=1e-8, max_iter=20_000)
            known.fit(rows.x[inside], classes[inside], sample_weight=rows.weights[inside])
            found = (head.weight / rows.scale)[part.present]
            np.testing.assert_allclose(found, known.coef_, atol=1e-3)
    assert (heads[2].logits(features).argmax(1) != 3).all()

    smoothed = next(logistic_paths(parts, [0.1], label_smoothing=0.1, converged=1e-5))
    for part, head in zip(parts, smoothed, strict=True):
        alone = next(logistic_path(part, [0.1], label_smoothing=0.1, converged=1e-5))
        np.testing.assert_allclose(head.weight / rows.scale, alone.weight / rows.scale, atol=1e-3)


def test_the_discriminant_is_that_of_scikit_learn(digits):
    features, classes = digits
    rows = Rows(features, classes, 10)
    head = discriminant(rows)
    known = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(rows.x, classes)

    np.testing.assert_allclose(head.weight / rows.scale, known.coef_, atol=1e-8)
    np.testing.assert_allclose(head.logits(features), known.decision_function(rows.x), atol=1e-7)


def test_a_weight_of_two_is_a_row_that_comes_twice(digits):
    features, classes = digits
    twice = np.random.default_rng(1).uniform(size=len(classes)) < 0.3
    repeated = np.repeat(np.arange(len(classes)), 1 + twice)
    weighted = Rows(features, classes, 10, np.where(twice, 2.0, 1.0))
    longer = Rows(features[repeated], classes[repeated], 10)

    np.testing.assert_allclose(weighted.scale, longer.scale)
    for fit in (lambda rows: next(logistic_path(rows, [0.1], converged=1e-9)),
                lambda rows: next(ridge_path(rows, [10.0]))):  # fmt: skip
        one, other = fit(weighted), fit(longer)
        np.testing.assert_allclose(one.logits(features), other.logits(features), atol=1e-6)


def test_ridge_is_that_of_scikit_learn(digits):
    features, classes = digits
    rows = Rows(features, classes, 10)
    for penalty, head in zip(RIDGES, ridge_path(rows), strict=True):
        known = Ridge(alpha=penalty).fit(rows.x, np.eye(10)[classes])
        np.testing.assert_allclose(head.weight / rows.scale, known.coef_, atol=1e-8)
        np.testing.assert_allclose(head.logits(features), known.predict(rows.x), atol=1e-8)


def test_the_chosen_head_beats_the_regression_of_scikit_learn(digits):
    features, classes = digits
    fitted = fit_head(features[:200], classes[:200], 10)
    losses = log_losses(fitted.head.logits(features[200:]), classes[200:])

    plain = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    known = plain.fit(features[:200], classes[:200]).predict_proba(features[200:])
    assert losses.mean() < log_loss(classes[200:], known)


def test_figures_out_of_fold_are_those_of_an_independent_computation(digits):
    features, classes = digits
    fitted = fit_head(features, classes, 10)
    pipeline = make_pipeline(
        StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    )
    folds = [(fitted.fold_of != k, fitted.fold_of == k) for k in range(5)]
    folds = [(np.flatnonzero(others), np.flatnonzero(inside)) for others, inside in folds]
    answers = cross_val_predict(pipeline, features, classes, cv=folds)

    (found,) = [each for each in fitted.candidates if each.name == "linear discriminant"]
    # scikit-learn also makes features equally large that hardly differ
    assert found.accuracy == pytest.approx((answers == classes).mean(), abs=0.006)
    right = fitted.out_of_fold.argmax(1) == classes
    assert fitted.nested is not None
    assert fitted.nested.accuracy == pytest.approx(right.mean())
    assert fitted.nested.log_loss == pytest.approx(
        log_losses(fitted.out_of_fold, classes).mean(), rel=1e-9
    )


def of_two_stages(num_rows, seed=0):
    """Return features (N, 60) and classes: 20 tell the class, 40 of another size are noise."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(3, size=num_rows)
    centres = np.eye(3).repeat(7, 1)[:, :20]
    telling = 1.2 * centres[classes] + generator.normal(size=(num_rows, 20))
    return np.hstack([telling, 30 * generator.normal(size=(num_rows, 40))]), classes


def test_a_stage_that_tells_nothing_hardly_counts():
    features, classes = of_two_stages(150)
    unseen, right = of_two_stages(20_000, seed=1)
    together, apart = (fit_head(features, classes, 3, stages=each) for each in [(), (20, 40)])

    assert apart.chosen == STAGED
    by_both, by_stages = (log_losses(each.head.logits(unseen), right) for each in [together, apart])
    gain = by_both - by_stages
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))
    # scikit-learn's, fitted to the stage that does tell, is the most that could be had of it
    known = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    known.fit(features[:, :20], classes)
    at_most = (known.predict(unseen[:, :20]) == right).mean()
    assert (apart.head.logits(unseen).argmax(1) == right).mean() == pytest.approx(at_most, abs=0.03)


def test_the_sum_of_stages_is_made_of_the_heads_of_scikit_learn():
    features, classes = of_two_stages(150)
    fitted = fit_head(features, classes, 3, stages=(20, 40))
    rows = Rows(features, classes, 3)
    (found,) = [each for each in fitted.candidates if each.name == STAGED]
    strength = float(found.setting.removeprefix("C = "))

    parts = [LogisticRegression(C=strength, tol=1e-10, max_iter=20_000).fit(rows.x, classes)]
    parts = [parts[0].decision_function(rows.x)]
    for columns in (slice(None), slice(20), slice(20, None)):
        known = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        parts.append(known.fit(rows.x[:, columns], classes).decision_function(rows.x[:, columns]))
    wanted = centred(fitted.head.logits(features)).ravel()
    basis = np.stack([centred(each).ravel() for each in parts], 1)
    factors, *_ = np.linalg.lstsq(basis, wanted)

    np.testing.assert_allclose(basis @ factors, wanted, atol=0.01 * np.abs(wanted).max())
    assert (factors > -0.01).all()


def test_stages_that_are_not_the_features_are_refused(digits):
    features, classes = digits
    with pytest.raises(ValueError, match="are not 128 features together"):
        fit_head(features, classes, 10, stages=(100, 20))


def test_rows_without_their_labels_are_answered_at_chance():
    generator = np.random.default_rng(3)
    features = generator.normal(size=(120, 40))
    classes = generator.integers(3, size=120)
    fitted = fit_head(features, classes, 3)

    assert fitted.nested is not None
    low, high = fitted.nested.accuracy_interval
    assert low < 1 / 3 < high
    assert fitted.nested.log_loss == pytest.approx(np.log(3), abs=0.1)


def test_folds_are_stratified_and_keep_groups_together():
    classes = load_iris(return_X_y=True)[1]
    folds = stratified_folds(classes, None, 5, seed=0)
    for fold in range(5):
        assert (np.bincount(classes[folds == fold], minlength=3) == 10).all()
    known = [
        np.bincount(classes[test], minlength=3).tolist()
        for _, test in StratifiedKFold(5).split(classes, classes)
    ]
    assert known == [[10, 10, 10]] * 5

    groups = [f"group {number // 7}" for number in range(150)]
    folds = stratified_folds(classes, groups, 5, seed=0)
    for group in set(groups):
        inside = [fold for fold, name in zip(folds, groups, strict=True) if name == group]
        assert len(set(inside)) == 1
    assert (np.bincount(folds) >= 21).all()
    assert (folds == stratified_folds(classes, groups, 5, seed=0)).all()
    assert (folds != stratified_folds(classes, groups, 5, seed=1)).any()


def test_copies_of_a_row_in_its_group_do_not_flatter():
    """Two photos of each object, whose class is drawn: alone they would tell each other's class."""
    generator = np.random.default_rng(4)
    objects = generator.normal(size=(60, 50))
    features = np.repeat(objects, 2, axis=0) + 0.01 * generator.normal(size=(120, 50))
    classes = np.repeat(generator.integers(2, size=60), 2)
    groups = np.repeat([f"object {number}" for number in range(60)], 2)

    apart = fit_head(features, classes, 2, groups=groups)
    together = fit_head(features, classes, 2)
    assert apart.nested is not None
    assert together.nested is not None
    assert apart.nested.accuracy < 0.7 < together.nested.accuracy


def test_views_are_averaged_where_a_head_answers_and_copies_only_train(digits):
    features, classes = digits
    generator = np.random.default_rng(5)
    noise = generator.normal(size=features.shape)
    views = np.stack([features + noise, features - noise], axis=1)
    averaged = fit_head(views, classes, 10)
    plain = fit_head(features, classes, 10)
    np.testing.assert_allclose(averaged.head.weight, plain.head.weight, atol=1e-4)

    copies = np.stack([features, features + generator.normal(size=features.shape)], axis=1)
    fitted = fit_head(copies, classes, 10, clean=1)
    assert fitted.out_of_fold.shape == (400, 10)
    assert np.abs(fitted.head.weight - plain.head.weight).max() > 1e-4


def test_heavy_classes_are_answered_more_often():
    generator = np.random.default_rng(6)
    classes = (generator.uniform(size=300) < 0.1).astype(np.int64)
    features = generator.normal(size=(300, 10)) + classes[:, None] * 0.4
    counts = np.bincount(classes)
    plain = fit_head(features, classes, 2)
    heavy = fit_head(features, classes, 2, weights=(300 / 2 / counts)[classes])

    assert (heavy.out_of_fold.argmax(1)).mean() > 2 * (plain.out_of_fold.argmax(1)).mean()


def test_rows_of_no_weight_do_not_count(digits):
    features, classes = digits
    weights = (np.arange(400) < 300).astype(np.float64)
    wrong = np.where(weights > 0, classes, 0)
    fitted = fit_head(features, wrong, 10, weights=weights)

    assert (fitted.counts == (weights > 0)).all()
    assert (fitted.head.logits(features[300:]).argmax(1) == classes[300:]).mean() > 0.85


def test_classes_of_one_row_or_none_are_borne(digits):
    features, classes = digits
    kept = np.flatnonzero(classes < 3)
    single = np.append(kept, np.flatnonzero(classes == 7)[0])
    fitted = fit_head(features[single], classes[single], 10)

    assert not fitted.counts[-1]
    assert fitted.counts[:-1].all()
    assert fitted.head.logits(features[single[-1:]]).argmax() == 7
    answers = fitted.head.logits(features)
    assert set(answers.argmax(1)) <= {0, 1, 2, 7}
    assert np.isfinite(answers).all()
    assert answers.min() < -NEVER / 1000


@pytest.mark.parametrize("classes", [[0], [0, 0], [0, 1], [0, 0, 0, 1], [0, 1, 2, 3, 4, 5]])
def test_hardly_any_rows_give_a_head_all_the_same(classes):
    features = np.random.default_rng(7).normal(size=(len(classes), 5))
    fitted = fit_head(features, classes, 6)
    assert np.isfinite(fitted.head.logits(features)).all()
    assert np.isfinite(fitted.out_of_fold).all()
    assert fitted.reason


def test_what_is_too_large_is_left_out_and_said(digits, monkeypatch):
    features, classes = digits
    monkeypatch.setattr("tintype.tasks.heads.MOST_TERMS", 1e5)
    fitted = fit_head(features, classes, 10)
    assert fitted.chosen in ("linear discriminant", "ridge regression")
    assert "logistic regression is left out: 400 rows of 128 features" in fitted.notes[0]

    monkeypatch.setattr("tintype.tasks.heads.MOST_NUMBERS", 1e4)
    with pytest.raises(ValueError, match="too many"):
        fit_head(features, classes, 10)


def test_the_same_rows_give_the_same_bits(digits):
    features, classes = digits
    one, other = (fit_head(features[:150], classes[:150], 10, seed=3) for _ in range(2))
    assert (one.head.weight == other.head.weight).all()
    assert (one.out_of_fold == other.out_of_fold).all()


def test_a_part_of_the_rows_is_fitted_in_the_units_of_all(digits):
    features, classes = digits
    rows = Rows(features, classes, 10)
    kept = np.arange(400) % 5 > 0
    part = rows.some(kept)

    known = LogisticRegression(C=0.1, tol=1e-8, max_iter=20_000).fit(rows.x[kept], classes[kept])
    head = next(logistic_path(part, [0.1], converged=1e-5))
    np.testing.assert_allclose(head.weight / rows.scale, known.coef_, atol=1e-3)

    ridge = Ridge(alpha=100.0).fit(rows.x[kept], np.eye(10)[classes[kept]])
    head = next(ridge_path(part, [100.0], converged=1e-6))
    np.testing.assert_allclose(head.weight / rows.scale, ridge.coef_, atol=1e-5)
    np.testing.assert_allclose(head.logits(features), ridge.predict(rows.x), atol=1e-4)


def test_a_feature_that_hardly_any_row_has_does_not_decide():
    generator = np.random.default_rng(8)
    classes = np.arange(200) % 2
    features = generator.normal(size=(200, 20)) + classes[:, None]
    features[:, 0] = 0.0
    features[3, 0] = 1e-3
    fitted = fit_head(features, classes, 2)

    new = generator.normal(size=(200, 20)) + classes[:, None]
    new[:, 0] = generator.uniform(0, 2, 200)  # it occurs after all
    assert log_losses(fitted.head.logits(new), classes).mean() < 0.2
