"""What a task offers to a verb: each part holds what the contract asks, and a missing one is a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tintype import plugins
from tintype.errors import UserError
from tintype.tasks.contract.card import TaskCard
from tintype.tasks.contract.export import Exportable
from tintype.tasks.contract.measure import Measurement
from tintype.tasks.contract.predict import AnswerOptions, Picture, Predictor, Row, Rows
from tintype.verbs.evaluate import evaluate_run
from tintype.verbs.export import export_run
from tintype.verbs.predict.job import JobOptions, run_job
from tintype.verbs.predict.opening import open_run
from tintype.verbs.predict.output import Output
from tintype.verbs.serve.loading import load
from tintype.verbs.share.card import make_card

PARTS = {
    "predict": ("open_run", "open_exported"),
    "export": ("Export",),
    "serve": ("open_run", "open_exported"),
    "routes": ("EXAMPLES", "add"),
    "card": ("Card",),
    "measure": ("Measure",),
}
CLASSES = {"Export": Exportable, "Card": TaskCard, "Measure": Measurement}


OFFERED = [
    (task, part)
    for task in plugins.names("tasks")
    for part in PARTS
    if plugins.has_part(task, part)
]


@pytest.mark.parametrize(("task", "part"), OFFERED)
def test_a_part_holds_what_its_contract_asks(task, part):
    module = plugins.find_part(task, part, "be used")
    for name in PARTS[part]:
        member = getattr(module, name)
        if name in CLASSES:
            assert issubclass(member, CLASSES[name])


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (open_run, "cannot be used to predict"),
        (export_run, "cannot be exported"),
        (lambda run: load("it", run.path), "cannot be served"),
        (make_card, "cannot have a model card"),
        (lambda run: evaluate_run(run, data=None, split=None, device="cpu"), "be measured again"),
    ],
)
def test_a_verb_politely_declines_a_task_that_lacks_its_part(finished_run, monkeypatch, verb, said):
    monkeypatch.setattr(plugins, "has_part", lambda task, part: False)
    with pytest.raises(UserError, match=f"runs of task classify .*{said}"):
        verb(finished_run)


# ---- a task whose answers are numbers ---------------------------------------------------------


class NumberRows(Rows):
    """Rows of a number with an interval."""

    columns = {"value": float, "low": float, "high": float}  # noqa: RUF012

    def row(self, prediction: float) -> Row:
        return {"value": prediction, "low": prediction - 1, "high": prediction + 1}

    def line(self, row: Row) -> str:
        return f"{row['value']:.2f}"

    def check(self, row: Row) -> None:
        float(row["value"])

    def difference(self, row: Row, prediction: float) -> tuple[str, str] | None:
        before = float(row["value"])
        return None if abs(before - prediction) < 1e-3 else (f"{before:.2f}", f"{prediction:.2f}")


class Brightness(Predictor):
    """Says how bright a picture is."""

    def __init__(self, scale: float = 1.0) -> None:
        how = {"channels": 1, "height": 4, "width": 4, "resize": "squash"}
        super().__init__(how, batch_size=3)
        self.scale = scale

    def answer(self, names: Sequence[str], pictures: Sequence[Picture]) -> list[float]:
        return [self.scale * float(picture.pixels.mean()) for picture in pictures]

    def rows(self, options: AnswerOptions) -> NumberRows:
        return NumberRows()


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        Image.new("L", (6, 5), 20 * number).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_numbers_are_written_exactly_once_whenever_a_job_is_cut_off(photos, tmp_path, ending):
    rows, whole = NumberRows(), tmp_path / f"whole.{ending}"
    run_job(Brightness(), photos, rows, output=Output(whole, rows))
    content = whole.read_bytes()
    if ending == "csv":
        assert content.splitlines()[0] == b"file,value,low,high,error"

    cut = tmp_path / f"cut.{ending}"
    for length in range(0, len(content), 97):
        cut.write_bytes(content[:length])
        run_job(Brightness(), photos, rows, output=Output(cut, rows, resume=True))
        assert cut.read_bytes() == content, length

    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="was begun with another model"):
        run_job(Brightness(0.5), photos, rows, output=Output(cut, rows, resume=True))


def test_numbers_are_numbers_in_parquet_and_sort_no_photo(photos, tmp_path):
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    rows, path = NumberRows(), tmp_path / "answers.parquet"
    run_job(Brightness(), photos, rows, output=Output(path, rows))
    values = parquet.read_table(path).to_pydict()["value"]
    np.testing.assert_allclose(values, [20 * number for number in range(10)])

    with pytest.raises(UserError, match="Leave sort_into= out"):
        run_job(Brightness(), photos, rows, JobOptions(sort_into=tmp_path / "sorted"))
