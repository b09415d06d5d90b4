"""The classifier among the estimators of scikit-learn."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from tintype.data.targets import Classes, TargetKind
from tintype.estimators.base import ImageEstimator
from tintype.estimators.mistakes import BadValue, as_scikit_learn_has_it


class TintypeClassifier(ClassifierMixin, ImageEstimator):
    """Classify images, as an estimator of scikit-learn.

    It trains on all rows that `fit` is given, and measures nothing: that is left to scikit-learn.
    X is images (N, H, W), (N, H, W, C) or (N, C, H, W) with one or three channels, as uint8 or as
    numbers whose range is taken from the training images; or a list of paths of image files; or
    rows (N, F), which are images where `image_shape` is given, and else a table of features.

    Args:
        model: a network by its name, or your own; None takes the usual one.
        epochs: passes over the images; None for the usual length.
        steps: steps, instead of epochs.
        lr: peak learning rate; None for that of the optimizer.
        batch_size: images per step.
        augment: a preset, or names and values.
        weights: pretrained weights: "default", a file, or a run folder.
        image_shape: (height, width) or (height, width, channels) of the images in flat rows.
        validation_fraction: part of the rows by which `patience` and `keep` choose, where `recipe`
            asks for them; by default there is none, and the last weights are kept.
        recipe: all other fields of a recipe, by name, as in {"patience": 5}.
        random_state: a number, a RandomState, or None, which stands for 0: each fit is the same.
        run_folder: where to keep the run, which must be new; by default nothing is left behind.
        verbose: whether progress is shown.

    Attributes:
        classes_: (K,) the classes, sorted.
        n_features_in_: how many values an image has.
        run_: the Run, where `run_folder` keeps it.
    """

    target: ClassVar[type[TargetKind]] = Classes

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all images.

        Args:
            X: images, rows or paths.
            y: (N,) the class of each, as number or text.
            sample_weight: (N,) the weight of each in the loss; all count the same by default.

        Raises:
            ValueError: they cannot be trained on; the message says why.
        """
        with as_scikit_learn_has_it():
            checked = self._checked(X, y, sample_weight)
            y = checked.y
            check_classification_targets(y)
            self.classes_, targets = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                only = self.classes_[0]
                raise BadValue(f"y holds one class alone, {only!r}. Expected two or more.")

            names = tuple(str(name) for name in self.classes_)
            return self._train(checked, targets.astype(np.int64), Classes(names))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class (N,) of each image."""
        most_probable = self.predict_proba(X).argmax(1)
        return self.classes_[most_probable]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (N, K) float32, in the order of `classes_`."""
        return self._answers(X, lambda predictor, pixels: predictor.probabilities(pixels))
