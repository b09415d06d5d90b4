"""The regressor among the estimators of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin

from tintype.data.targets import Numbers, TargetKind
from tintype.estimators.base import ImageEstimator
from tintype.estimators.mistakes import as_scikit_learn_has_it


class TintypeRegressor(RegressorMixin, ImageEstimator):
    """Read numbers from images, as an estimator of scikit-learn.

    Images and parameters are as for `TintypeClassifier`.

    Attributes:
        n_features_in_: how many values an image has.
        run_: the Run, where `run_folder` keeps it.
    """

    target: ClassVar[type[TargetKind]] = Numbers
    y_how: ClassVar[Mapping[str, Any]] = {"y_numeric": True, "multi_output": True}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all images.

        Args:
            X: images, rows or paths.
            y: (N,) or (N, K) numbers for each.
            sample_weight: (N,) the weight of each in the loss; all count the same by default.

        Raises:
            ValueError: they cannot be trained on; the message says why.
        """
        with as_scikit_learn_has_it():
            checked = self._checked(X, y, sample_weight)
            y = checked.y
            self._several = y.ndim == 2
            numbers = y.reshape(len(y), -1).astype(np.float32)
            names = tuple(f"value {k}" for k in range(numbers.shape[1]))
            return self._train(checked, numbers, Numbers(names if len(names) > 1 else ("value",)))

    def predict(self, X: Any) -> np.ndarray:
        """Return the numbers of each image, in the shape that `y` had."""
        numbers = self._answers(X, lambda predictor, pixels: predictor.numbers(pixels)[0])
        if self._several:
            return numbers.astype(np.float64)  # as scikit-learn expects of several numbers
        return numbers[:, 0]
