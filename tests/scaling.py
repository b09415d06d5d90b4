"""Scikit-learn's StandardScaler with the floor that heads on features have."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler


class FlooredScaler(StandardScaler):
    """Divides by the deviation of a feature, and at least by a fifth of the median deviation."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> FlooredScaler:
        super().fit(X, y, sample_weight)
        deviation = np.sqrt(self.var_)
        self.scale_ = np.maximum(deviation, 0.2 * np.median(deviation[deviation > 1e-6]))
        return self
