"""MLflow: to the server that MLFLOW_TRACKING_URI names, or into mlflow.db beside the runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tintype.tracking.tracker import RunInfo, Tracker, numbers

NEEDS = "mlflow"
AT_ONCE = 1000  # metrics that MLflow takes in one call
MOST_PARAMS = 100
LONGEST_VALUE = 500  # characters of a parameter
STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def start(told: RunInfo) -> Tracker:
    """Begin a run in the experiment that is called as the folder of runs, or go on with the one of
    before.
    """
    return MLflow(told)


class MLflow(Tracker):
    """Speaks to one run by a client of its own, so that a run which the caller has open is not
    disturbed.
    """

    def __init__(self, told: RunInfo) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        local = f"sqlite:///{told.root.resolve() / 'mlflow.db'}"
        address = os.environ.get("MLFLOW_TRACKING_URI") or local
        self.client = MlflowClient(address)
        self.where = f"mlflow ui --backend-store-uri {address}" if address == local else address
        if told.id is None:
            experiment = (
                os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"tintype {told.root.resolve().name}"
            )
            found = self.client.get_experiment_by_name(experiment)
            place = str(told.root.resolve() / "mlartifacts") if address == local else None
            number = (
                found.experiment_id
                if found
                else self.client.create_experiment(experiment, artifact_location=place)
            )
            self.id = self.client.create_run(number, run_name=told.name).info.run_id
            params = [
                Param(key, str(value)[:LONGEST_VALUE]) for key, value in told.settings().items()
            ]
            for first in range(0, len(params), MOST_PARAMS):
                self.client.log_batch(self.id, params=params[first : first + MOST_PARAMS])
            self.client.set_tag(self.id, "tintype.folder", str(told.folder.resolve()))
        else:
            self.id = told.id
            self.client.update_run(self.id, status="RUNNING")

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._log(
            [
                (name, value, int(row["step"]))
                for row in rows
                for name, value in numbers(row).items()
            ]
        )

    def _log(self, values: list[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value, step in values]
        for first in range(0, len(metrics), AT_ONCE):
            self.client.log_batch(self.id, metrics=metrics[first : first + AT_ONCE])

    def picture(self, name: str, path: Path, step: int) -> None:
        self.client.log_artifact(self.id, str(path), "pictures")

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        self._log([(name, value, step) for name, value in figures.items()])

    def file(self, path: Path) -> None:
        self.client.log_artifact(self.id, str(path))

    def finish(self, state: str) -> None:
        self.client.set_terminated(self.id, STATES[state])
