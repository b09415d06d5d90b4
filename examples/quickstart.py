"""The whole of tintype in Python: train, read the figures, predict a picture, open the report.

python examples/quickstart.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

import tintype as tt

run = tt.train("digits", epochs=10)

test = run.metrics["test"]
low, high = test["accuracy_ci95"]
print(
    f"test accuracy {test['accuracy']:.1%} ({low:.1%} to {high:.1%}) on {test['num_images']} images"
)

picture = (load_digits().images[0] * 255 / 16).astype(np.uint8)  # (8, 8), a zero
prediction = run.predict(picture)
print(
    f"the picture is a {prediction.top1} ({prediction.confidence:.1%}); next: {prediction.top(3)[1:]}"
)
print(f"open {run.path / 'report.html'}")
