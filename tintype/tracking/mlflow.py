"""MLflow: logs to the server in MLFLOW_TRACKING_URI, or to mlflow.db next to the runs."""

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


def start(info: RunInfo) -> Tracker:
    """Begin a run in the experiment named after the folder of runs, or continue the earlier one."""
    return MLflow(info)


class MLflow(Tracker):
    """Log through a client of its own, so that a run which the caller has open is left alone."""

    def __init__(self, info: RunInfo) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        local = f"sqlite:///{info.root.resolve() / 'mlflow.db'}"
        address = os.environ.get("MLFLOW_TRACKING_URI") or local
        self.client = MlflowClient(address)
        self.where = f"mlflow ui --backend-store-uri {address}" if address == local else address

        if info.id is None:
            experiment = (
                os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"tintype {info.root.resolve().name}"
            )
            found = self.client.get_experiment_by_name(experiment)
            place = str(info.root.resolve() / "mlartifacts") if address == local else None
            number = (
                found.experiment_id
                if found
                else self.client.create_experiment(experiment, artifact_location=place)
            )

            self.id = self.client.create_run(number, run_name=info.name).info.run_id
            params = [
                Param(key, str(value)[:LONGEST_VALUE]) for key, value in info.settings().items()
            ]
            for first in range(0, len(params), MOST_PARAMS):
                self.client.log_batch(self.id, params=params[first : first + MOST_PARAMS])
            self.client.set_tag(self.id, "tintype.folder", str(info.folder.resolve()))
        else:
            self.id = info.id
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
