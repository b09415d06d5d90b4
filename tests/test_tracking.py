"""Trackers hold what the run folder holds: values are read back from TensorBoard and MLflow; a
broken one costs no run.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tintype import api
from tintype.errors import Interrupted, UserError
from tintype.plugins import names
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.tracking import check_trackers
from tintype.tracking.tracker import RunInfo

# The libraries warn of each other's age; that is no business of these tests.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


class Heard(Watcher):
    """Keeps what is noted, and stops at a step as a signal would."""

    def __init__(self, stop_at: int = -1) -> None:
        self.lines: list[str] = []
        self.stop_at = stop_at

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if step == self.stop_at:
            raise Interrupted(2, Path())

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe]) -> api.Run:
    """A finished run that TensorBoard and MLflow were told of; MLflow's store is a SQLite file
    beside it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        recipe = tiny(track="tensorboard, mlflow")
        assert recipe.track == ["tensorboard", "mlflow"]
        return api.train(
            recipe, out=tmp_path_factory.mktemp("runs"), name="told", watcher=Watcher()
        )


def rows_of(run: RunFolder, column: str) -> dict[int, float]:
    """Return the steps and values of a column of metrics.csv."""
    return {
        int(float(r["step"])): float(r[column])
        for r in run.read_table("metrics.csv")
        if r[column] != ""
    }


def test_tensorboard_reads_back_what_the_folder_holds(told):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(told.path / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
    )
    events.Reload()
    for column in ("loss", "lr", "epoch", "val_accuracy", "val_loss"):
        scalars = {event.step: event.value for event in events.Scalars(column)}
        assert scalars == pytest.approx(rows_of(told, column), rel=1e-6)
    (final,) = events.Scalars("final/test_accuracy")
    assert final.value == pytest.approx(told.metrics["test"]["accuracy"])
    pictures = {tag for tag in events.Tags()["images"] if tag.startswith("figures/")}
    assert {f"figures/{path.stem}" for path in (told.path / "figures").glob("*.png")} == pictures
    (recipe,) = events.Tensors("recipe/text_summary")
    assert "model: ann" in recipe.tensor_proto.string_val[0].decode()


def test_mlflow_reads_back_what_the_folder_holds(told):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{told.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(f"tintype {told.path.parent.name}")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("told", "FINISHED")
    for column in ("loss", "lr", "val_accuracy"):
        history = {
            metric.step: metric.value
            for metric in client.get_metric_history(run.info.run_id, column)
        }
        assert history == pytest.approx(rows_of(told, column))
    assert run.data.metrics["test_accuracy"] == told.metrics["test"]["accuracy"]
    assert run.data.params["model_options.hidden"] == "[16]"
    assert run.data.params["lr"] == "0.01"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"recipe.yaml", "report.html", "evaluation.json", "pictures"}
    kept = Path(client.download_artifacts(run.info.run_id, "report.html"))
    assert kept.read_bytes() == (told.path / "report.html").read_bytes()
    assert len(client.list_artifacts(run.info.run_id, "pictures")) == len(
        list((told.path / "figures").glob("*.png"))
    )


def test_a_resumed_run_is_told_each_step_once(tiny, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # no checkpoint: all is computed a second time
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr("tintype.tracking.SECONDS", 0.0)
    monkeypatch.setattr("tintype.training.run.write_report", lambda path: path / "report.html")
    with pytest.raises(Interrupted):
        api.train(tiny(track=["tensorboard"]), out=tmp_path, name="run", watcher=Heard(stop_at=9))
    assert (
        json.loads((tmp_path / "run" / "tracking.json").read_text(encoding="utf-8"))["tensorboard"][
            "step"
        ]
        == 8
    )
    run = api.train(resume=tmp_path / "run", watcher=Watcher())
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    steps = [event.step for event in events.Scalars("loss")]
    assert steps == sorted(rows_of(run, "loss"))


# ---- trackers that need an account or much room: their interface, by a recording --------------------------------------


class Recording(types.ModuleType):
    """Stands for a library: keeps every call by name, and gives itself back for what it does not
    know.
    """

    def __init__(self, name: str, run: Any) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.run, self.calls = run, []

    def init(self, **settings: Any) -> Any:
        self.calls.append(("init", settings))
        return self.run

    def Image(self, path: str) -> str:
        return f"image of {Path(path).name}"

    def log_artifact(self, path: str, type: str) -> None:
        self.calls.append(("artifact", Path(path).name))


class RecordedRun:
    """Stands for a run of wandb or trackio."""

    id, dir = "abc", "/there"

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.summary: dict[str, float] = {}
        self.saved: list[str] = []
        self.ended: list[Any] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((values, step))

    def save(self, path: str, base_path: str, policy: str) -> None:
        self.saved.append(Path(path).name)

    def finish(self, exit_code: int | None = None) -> None:
        self.ended.append(exit_code)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_other_trackers_are_told_the_same(name, told, monkeypatch, tmp_path):
    recorded = RecordedRun()
    library = Recording(name, recorded)
    monkeypatch.setitem(sys.modules, name, library)
    check_trackers([name])
    from tintype.plugins import find

    before = RunInfo("told", told.path, told.root, told.recipe.model_dump(mode="json"))
    tracker = find("tracking", name).start(before)
    settings = library.calls[0][1]
    assert settings["project"] == "tintype"
    assert settings["config"]["model"] == "ann"
    rows = told.read_table("metrics.csv")
    tracker.rows(rows)
    assert [step for _, step in recorded.logged] == [int(row["step"]) for row in rows]
    assert recorded.logged[0][0]["loss"] == float(rows[0]["loss"])
    assert "val_accuracy" in {key for values, _ in recorded.logged for key in values}
    assert all(value != "" for values, _ in recorded.logged for value in values.values())
    tracker.picture("figures/history", told.path / "figures" / "history.png", 26)
    assert recorded.logged[-1] == ({"figures/history": "image of history.png"}, 26)
    tracker.figures({"test_accuracy": 0.5}, 26)
    assert recorded.summary.get("test_accuracy") == 0.5 or recorded.logged[-1] == (
        {"final/test_accuracy": 0.5},
        26,
    )
    tracker.file(told.path / "recipe.yaml")
    assert "recipe.yaml" in recorded.saved or ("artifact", "recipe.yaml") in library.calls
    tracker.finish("stopped")
    assert len(recorded.ended) == 1
    find("tracking", name).start(RunInfo("told", told.path, told.root, {}, id=tracker.id))
    assert library.calls[-1][1]["resume"] == "allow"


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = api.train(tiny(track=["wandb"]), out=tmp_path, name="run", watcher=Watcher())
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb"))
    assert json.loads((run.path / "tracking.json").read_text(encoding="utf-8"))["wandb"][
        "step"
    ] == max(rows_of(run, "loss"))


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_locally(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = api.train(tiny(track=["trackio"]), out=tmp_path / "runs", name="run", watcher=Watcher())
    assert json.loads((run.path / "tracking.json").read_text(encoding="utf-8"))["trackio"][
        "step"
    ] == max(rows_of(run, "loss"))


# ---- what goes wrong ----------------------------------------------------------------------------------------------------


def test_what_is_missing_is_told_before_anything_is_written(tiny, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "mlflow" else find_spec(name, *a),
    )
    with pytest.raises(UserError, match=r"pip install 'tintype\[mlflow\]'"):
        api.train(tiny(track=["mlflow"]), out=tmp_path, watcher=Watcher())
    with pytest.raises(
        UserError, match=r"unknown tracker 'tensorbord'\. Did you mean 'tensorboard'"
    ):
        api.train(tiny(track=["tensorbord"]), out=tmp_path, watcher=Watcher())
    assert list(tmp_path.iterdir()) == []
    assert set(names("tracking")) == {"tensorboard", "mlflow", "wandb", "trackio"}


def test_a_tracker_that_cannot_begin_is_one_clear_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.db'}")
    (tmp_path / "no").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(UserError, match="track='mlflow' failed to start"):
        api.train(tiny(track=["mlflow"]), out=tmp_path, name="run", watcher=Watcher())


def test_a_tracker_that_breaks_costs_no_run(tiny, tmp_path, monkeypatch):
    from tintype.tracking import tensorboard

    def broken(*_: Any) -> None:
        raise ConnectionError("the server has gone")

    monkeypatch.setattr(tensorboard.TensorBoard, "rows", broken)
    monkeypatch.setattr("tintype.training.run.write_report", lambda path: path / "report.html")
    heard = Heard()
    run = api.train(tiny(track=["tensorboard"]), out=tmp_path, name="run", watcher=heard)
    assert run.status["state"] == "finished"
    told = [line for line in heard.lines if line.startswith("warning")]
    assert told == [
        "warning: tensorboard failed and logs no more of this run (ConnectionError: the server has gone)"
    ]
