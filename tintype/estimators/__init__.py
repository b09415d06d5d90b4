"""scikit-learn estimators: `TintypeClassifier` and `TintypeRegressor`.

They follow scikit-learn's conventions: every setting in the constructor, work in `fit`, ValueError
for what cannot be. A fit trains on all rows, measures nothing, and leaves no run folder behind
unless `run_folder` names one.
"""

from tintype.estimators.classifier import TintypeClassifier
from tintype.estimators.regressor import TintypeRegressor

__all__ = ["TintypeClassifier", "TintypeRegressor"]
