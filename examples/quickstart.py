"""The whole of tintype in Python: train, read the figures, predict a picture, open the report.

python examples/quickstart.py
"""

from __future__ import annotations

from pathlib import Path

import tintype as tt

run = tt.train("digits", epochs=10)

test = run.metrics["test"]
low, high = test["accuracy_ci95"]
print(
    f"test accuracy {test['accuracy']:.1%} ({low:.1%} to {high:.1%}) on {test['num_images']} images"
)

prediction = run.predict(Path(__file__).parent / "seven.png")
print(
    f"it looks like {prediction.top1} ({prediction.confidence:.1%}); next: {prediction.top(3)[1:]}"
)
print(f"open {run.path / 'report.html'}")
