"""Runs of earlier versions open, resume, predict and report.

`tests/earlier/` holds two runs that commit 252718c made with one thread and that were stopped half-way: a classifier and a
GAN. `ends.json` holds that commit's own end of them: digests of the weights and of the optimizers' state, and metrics.csv.
"""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tintype import api
from tintype.hardware.arithmetic import processor
from tintype.progress import Watcher
from tintype.runs.checkpoint import load_checkpoint
from tintype.tasks.contract.prediction import Prediction

EARLIER = Path(__file__).parent / "earlier"
ENDS = json.loads((EARLIER / "ends.json").read_text(encoding="utf-8"))
MADE = ENDS.pop("made")


@pytest.fixture(params=sorted(ENDS))
def stopped(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / request.param
    with zipfile.ZipFile(EARLIER / f"{request.param}.zip") as archive:
        archive.extractall(folder)
    return folder


def same_arithmetic(made: Path) -> bool:
    """Whether this machine adds and multiplies in the order in which a stopped run was made.

    Two makes of processor with the same instructions may be given other kernels. The number of
    threads is that of the run.
    """
    environment = json.loads((made / "environment.json").read_text(encoding="utf-8"))
    here = processor(), torch.backends.cpu.get_cpu_capability(), torch.__version__
    return here == (environment["cpu"], MADE["instructions"], MADE["torch"])


def flat(state: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield a path and a digest (of a tensor) or the text (of anything else) for each leaf of a nest."""
    if isinstance(state, torch.Tensor):
        content = state.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield path, hashlib.sha256(content).hexdigest()[:32]
    elif isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from flat(value, f"{path}/{key}")
    else:
        yield path, repr(state)[:32]


@pytest.mark.machines
def test_a_stopped_run_of_an_earlier_version_ends_as_it_would_have_there(stopped: Path) -> None:
    exact = same_arithmetic(stopped)
    run = api.train(resume=stopped, watcher=Watcher())

    end = ENDS[stopped.name]
    assert run.status["state"] == "finished"
    assert run.status["step"] == end["step"]
    assert (stopped / "report.html").is_file()

    with (stopped / "metrics.csv").open(encoding="utf-8", newline="") as lines:
        now = list(csv.DictReader(lines))
    before = list(csv.DictReader(end["metrics"].splitlines()))
    assert before[0].keys() <= now[0].keys()
    assert len(now) == len(before)
    if not exact:
        return

    shared = [{key: row[key] for key in before[0]} for row in now]
    assert shared == before
    from safetensors.torch import load_file

    weights = load_file(stopped / "model.safetensors")
    assert dict(flat(weights)) == {f"/{k}": v for k, v in end["tensors"].items()}
    checkpoint, broken = load_checkpoint(stopped / "checkpoints")
    assert broken == []
    assert dict(flat(checkpoint["optimizers"])) == end["optimizers"]


def test_a_finished_run_of_an_earlier_version_answers(stopped: Path, digit_files: Path) -> None:
    run = api.train(resume=stopped, watcher=Watcher())
    if stopped.name == "gan":
        images = run.generate(2, seed=1)
        assert len(images) == 2
        return

    photo = sorted((digit_files / "3").iterdir())[0]
    prediction = run.predict(photo)
    assert isinstance(prediction, Prediction)
    assert prediction.top1 in {str(digit) for digit in range(10)}
    assert sum(prediction.probs) == pytest.approx(1, abs=1e-5)
