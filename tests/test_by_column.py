"""Figures by the further columns of a table: of which columns, and that they are right."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.metrics import mean_absolute_error

from tintype import api
from tintype.data import open_data
from tintype.progress import Watcher
from tintype.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("short_reports")


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Digits as files, with what a camera would note: few values, many, one, and as many as rows."""
    folder = tmp_path_factory.mktemp("photos")
    digits: Any = load_digits()
    rows = []
    for i in range(240):
        path = folder / f"{i}.png"
        Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(path)
        rows.append(
            {
                "path": str(path), "label": str(digits.target[i]), "camera": f"camera {i % 3}",
                "year": 2020 + i % 2, "maker": "one", "serial": i, "value": float(digits.target[i]),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def answers_of(run: RunFolder, frame: Any) -> Any:
    """Return the answers to test images, with the camera of each."""
    rows: Any = pd.read_csv(run.path / "predictions.csv", dtype={"name": str})
    rows = rows[rows["split"] == "test"]
    camera = {Path(path).name: name for path, name in zip(frame.path, frame.camera, strict=True)}
    return rows.assign(camera=[camera[Path(name).name] for name in rows["name"]])


def test_accuracy_is_given_by_the_columns_of_a_frame(tmp_path: Path, frame: Any, say) -> None:
    run = api.train(
        frame, model="ann", weights="none", epochs=3, device="cpu", out=tmp_path, name="run",
        watcher=Watcher(),
    )  # fmt: skip
    found = run.read("evaluation.json")["by_column"]["test"]
    # the labels of another task are columns as others are; one value, or one for each, is none
    assert [(each["column"], len(each["values"])) for each in found] == [
        ("camera", 3), ("year", 2), ("value", 10),
    ]  # fmt: skip

    rows = answers_of(run, frame)
    for value in found[0]["values"]:
        some = rows[rows["camera"] == value["value"]]
        right = int((some["target"] == some["prediction"]).sum())
        assert value["num_images"] == len(some)
        assert value["accuracy"] == pytest.approx(right / len(some))
        interval = binomtest(right, len(some)).proportion_ci(method="wilson")
        assert value["accuracy_ci95"] == pytest.approx([interval.low, interval.high])

    code, output, errors = say("evaluate", run.path)
    assert code == 0, errors
    assert f"camera 0  {found[0]['values'][0]['num_images']:>6}" in output
    assert run.evaluate(split="test")["by_column"] == found


def test_errors_of_numbers_are_given_by_the_columns_of_a_file(tmp_path: Path, frame: Any) -> None:
    table = tmp_path / "photos.csv"
    frame.drop(columns="label").to_csv(table, index=False, quoting=csv.QUOTE_MINIMAL)
    run = api.train(
        str(table), task="regress", model="ann", weights="none", epochs=2, device="cpu",
        out=tmp_path, name="run", test_fraction=0.3, watcher=Watcher(),
    )  # fmt: skip
    found = run.read("evaluation.json")["by_column"]["test"]
    assert [each["column"] for each in found] == ["camera", "year"]
    rows = answers_of(run, frame)
    for value in found[0]["values"]:
        some = rows[rows["camera"] == value["value"]]
        expected = mean_absolute_error(some["target"], some["prediction"])
        assert value["mae"] == pytest.approx(expected, rel=1e-3)
        assert value["mae_ci95"][0] < value["mae"] < value["mae_ci95"][1]


def test_columns_change_neither_the_splits_nor_the_fingerprint(tmp_path: Path, frame: Any) -> None:
    with_more, without = tmp_path / "a.csv", tmp_path / "b.csv"
    frame.to_csv(with_more, index=False)
    frame[["path", "label"]].to_csv(without, index=False)
    splits, plain = open_data(str(with_more)), open_data(str(without))
    assert set(splits.columns) == {"camera", "year", "value"}
    assert splits.spec.fingerprint == plain.spec.fingerprint
    assert splits.train.names == plain.train.names
    assert not plain.columns
