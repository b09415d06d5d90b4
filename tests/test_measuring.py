"""Of the training images as many are measured as the verdict needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.classifier import Classify


@pytest.mark.parametrize("settled", [True, False])
def test_training_images_are_measured_until_the_verdict_is_settled(
    tiny: Callable[..., Recipe],
    train_in: Callable[..., RunFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settled: bool,
) -> None:
    recipe = tiny(epochs=20, model_options={"hidden": [32]})
    if not settled:
        monkeypatch.setattr(Classify, "settles", lambda *_: False)
    found = {}
    for fewest in (0, 300):
        monkeypatch.setattr(Classify, "fewest_to_settle", fewest)
        run = train_in(tmp_path / str(fewest), recipe)
        found[fewest] = run.read("evaluation.json")

    usual, few = found[0], found[300]
    assert usual["splits"]["train"]["num_images"] > 1_000
    expected = 300 if settled else usual["splits"]["train"]["num_images"]
    assert few["splits"]["train"]["num_images"] == expected
    assert few["verdict"]["word"] == usual["verdict"]["word"]
    for split in ("val", "test"):
        assert few["splits"][split] == usual["splits"][split]

    assert run.read("analysis.json")["worst"]["num_searched"] == expected
