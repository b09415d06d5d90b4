"""One training by several processes: the same bits by any number of them, and an end for all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tintype import api
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model
from tintype.progress import Watcher
from tintype.recipe import Recipe, build, resolve
from tintype.runs.folder import RunFolder
from tintype.training.engine import Engine

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

RESULT = ("model.safetensors", "metrics.csv", "predictions.csv", "splits.csv")
USUAL: dict[str, Any] = {
    "data": "digits", "device": "cpu", "precision": "fp32", "parts": 4, "steps": 4, "batch_size": 50,
}  # fmt: skip
SMALL_CNN = {"model": "cnn", "model_options": {"widths": [4], "hidden": [8], "batch_norm": True}}
GAN = {
    "task": "generate", "model": "resnet-gan", "optimizer": "adam", "augment": "none",
    "model_options": {"width": 4, "latent": 4, "spectral_norm": True}, "loss": "hinge",
    "diff_augment": ["translation", "cutout"], "ada": 0.1, "ema": 0.9, "num_samples": 100,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "all at once": {
        **SMALL_CNN, "model_options": {**SMALL_CNN["model_options"], "dropout": 0.3}, "optimizer": "muon",
        "lr": 0.05, "ema": 0.9, "augment": "flip,crop=2,mixup=0.4", "accumulate": 2, "clip": 0.5, "keep": "best",
        "evaluate_every": 0.06, "clean_sample": 50,
    },
    "gan": GAN,
    "flow": {"task": "generate", "model": "flow-unet", "model_options": {"width": 8}, "augment": "none", "num_samples": 100},
    "resident numbers": {"model": "ann", "model_options": {"hidden": [16]}, "optimizer": "sgd", "batch_size": 51},
    "live norms": {
        "model": "mobilenet_v3_small", "tune": "all", "freeze_norm": False, "image_size": 32, "steps": 3,
        "batch_size": 16, "optimizer": "adamw", "sampling": "balanced",
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _pages(short_pages):
    """Leave the pages short."""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    file = tmp_path_factory.mktemp("weights") / "mobilenet.safetensors"
    spec = DataSpec("", 3, 32, 32, Classes(("a", "b")), (0.5,) * 3, (0.5,) * 3, "")
    save_file(build_model("mobilenet_v3_small", spec, {}, seed=1).state_dict(), file)
    kinds = {**KINDS, "live norms": {**KINDS["live norms"], "weights": str(file)}}
    made = {name: build({**USUAL, **fields}, where="") for name, fields in kinds.items()}
    sharp = resolve("photos-x2")[0].replace(
        steps=4, batch_size=4, evaluate_every=1, device="cpu", precision="fp32", parts=4
    )
    return {**made, "upscaler": sharp.replace(**{"model.width": 8})}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def in_processes(count: int, work: Callable[[int], object], **more: str) -> list[str]:
    """Do work in forked processes that a launcher has started; return what each ends with."""
    port = free_port()
    children = []
    for rank in range(count):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = io.StringIO()
            try:
                os.close(read)
                place = {
                    "RANK": rank,
                    "WORLD_SIZE": count,
                    "MASTER_ADDR": "localhost",
                    "MASTER_PORT": port,
                }
                os.environ.update({name: str(value) for name, value in place.items()} | more)
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    found = str(work(rank))
            except (UserError, SystemExit) as error:
                found = f"{type(error).__name__}: {error}"
            except BaseException:
                found = traceback.format_exc()
            with os.fdopen(write, "w", encoding="utf-8") as out:
                out.write(found)
            os._exit(0)
        os.close(write)
        children.append((pid, read))

    found = []
    for pid, read in children:
        with os.fdopen(read, encoding="utf-8") as answer:
            found.append(answer.read())
        os.waitpid(pid, 0)
    return found


def digest(folder: Path) -> str:
    """Return one sha256 of weights, metrics, predictions and figures."""
    found = hashlib.sha256()
    for file in RESULT:
        found.update((folder / file).read_bytes())
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    evaluation.pop("test_looks")
    found.update(json.dumps(evaluation).encode())
    return found.hexdigest()


def trained(recipes: dict[str, Recipe], names: Sequence[str], out: Path, count: int) -> list[str]:
    def work(rank: int) -> None:
        for name in names:
            api.train(
                recipes[name], out=out / str(count), name=name.replace(" ", "-"), watcher=Watcher()
            )

    if count == 1:
        work(0)
    else:
        assert in_processes(count, work) == ["None"] * count
    return [digest(out / str(count) / name.replace(" ", "-")) for name in names]


def test_equal_parts_give_equal_bits(recipes, tmp_path):
    names = ["all at once", "gan", "upscaler", "live norms"]
    alone = trained(recipes, names, tmp_path, 1)
    assert trained(recipes, names, tmp_path, 4) == alone
    assert trained(recipes, names[:1], tmp_path, 2) == alone[:1]


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [2, 4])
def test_every_kind_has_equal_bits(recipes, tmp_path, count):
    names = list(recipes)
    assert trained(recipes, names, tmp_path, count) == trained(recipes, names, tmp_path, 1)


# ---- what goes wrong ----------------------------------------------------------------------------


def begun(
    recipe: Recipe, out: Path, count: int, differ: Callable[[int], dict[str, Any]]
) -> list[str]:
    def work(rank: int) -> None:
        api.train(recipe, out=out, name="run", watcher=Watcher(), **differ(rank))

    return in_processes(count, work)


def test_processes_that_cannot_train_together(recipes, tmp_path):
    recipe = recipes["resident numbers"]
    three = begun(recipe.replace(parts=1), tmp_path, 3, lambda rank: {})
    assert three[0].startswith("UserError: 3 processes cannot share parts: 1 equally")
    assert all(said.startswith("ProcessLost: process 0 of 3 failed") for said in three[1:])

    seeds = begun(recipe, tmp_path, 2, lambda rank: {"seed": rank})
    assert seeds[0].startswith("UserError: process 1 has other arguments than process 0")
    assert not (tmp_path / "run").exists()


def test_a_process_that_fails_ends_all(recipes, tmp_path, monkeypatch):
    """Another process has too little memory, or is gone; a checkpoint is kept for any number."""
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    recipe = recipes["resident numbers"]
    whole = api.train(recipe, out=tmp_path, name="whole", watcher=Watcher())

    def work(rank: int, end: Callable[[], None]) -> None:
        step = Engine._train_step

        def failing(engine: Engine, *arguments: Any) -> Any:
            if engine.step == 2 and rank == 1:
                end()
            return step(engine, *arguments)

        monkeypatch.setattr(Engine, "_train_step", failing)
        resumed = (tmp_path / "run").exists()
        what = (
            {"resume": tmp_path / "run"}
            if resumed
            else {"what": recipe, "out": tmp_path, "name": "run"}
        )
        api.train(watcher=Watcher(), **what)

    def full() -> None:
        raise MemoryError("cannot allocate 9 bytes")

    said = in_processes(2, lambda rank: work(rank, full))[0]
    assert said.startswith("ProcessLost: process 1 of 2 failed: ")
    assert RunFolder(tmp_path / "run").status == {
        **RunFolder(tmp_path / "run").status,
        "state": "stopped",
    }

    said = in_processes(4, lambda rank: work(rank, lambda: os._exit(9)))[0]
    assert said.startswith("ProcessLost: one of the 4 processes of this run was killed")
    assert "continue with: tt.train(resume=" in said

    api.train(resume=tmp_path / "run", watcher=Watcher())
    assert digest(tmp_path / "run") == digest(whole.path)


def test_a_port_that_is_taken(recipes, tmp_path):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        work = lambda rank: api.train(recipes["gan"], out=tmp_path, watcher=Watcher())  # noqa: E731
        said = in_processes(2, lambda rank: work(rank) if rank == 0 else None, MASTER_PORT=port)
    assert said[0].startswith(f"UserError: the port of localhost:{port} is taken")


@pytest.mark.exhaustive
def test_the_command_starts_them_and_stops_them(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tintype",
        "train",
        "digits",
        "--processes",
        "2",
        "--name",
        "run",
    ]
    environment = {**os.environ, "TINTYPE_CHECKPOINT_SECONDS": "0.5"}
    three = [*command, "--set", "parts=1"]
    refused = subprocess.run(
        three, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", env=environment
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1

    long = [*command, "--steps", "100000", "--model", "ann"]
    child = subprocess.Popen(
        long, cwd=tmp_path, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    )
    while not list(tmp_path.glob("runs/run/checkpoints/*.safetensors")):
        time.sleep(0.5)
        assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    said = child.communicate()[1]
    assert child.returncode == 128 + signal.SIGTERM
    assert said.startswith("stopped by SIGTERM; continue with: tintype train --resume")
