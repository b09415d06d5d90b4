"""One training by several processes: the same bits by any number of them, and an end for all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from tintype import api
from tintype.data.sets.digits import read_digits
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.hardware.processes import joined
from tintype.models import build_model
from tintype.progress import Watcher
from tintype.recipe import Recipe, build, resolve
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.classifier import Classify
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
    "rate to be found": {
        "model": "fast-cnn", "model_options": {"widths": [8, 16, 16]}, "optimizer": "muon", "lr": "auto", "tta": "flip",
        "label_smoothing": 0.1, "class_weights": "balanced", "augment": "translate=1,cutmix=1.0,erase=2",
        "resolutions": [[0, 6], [0.5, 8]], "hardest": 0.7, "patience": 1, "evaluate_every": 0.06,
    },
    "penalties": {
        "task": "generate", "model": "dcgan", "loss": "relativistic", "r1": 0.5, "r2": 0.5, "augment": "flip",
        "model_options": {"width": 4, "latent": 4, "norm": "none", "conditional": True, "minibatch": "stddev"},
        "optimizer": "adam", "ema": 0.9, "accumulate": 2, "num_samples": 100,
    },
    "norms of classes": {
        "task": "generate", "model": "fast-gan", "model_options": {"width": 4}, "loss": "hinge", "augment": "none",
        "diff_augment": ["colour"], "optimizer": "adam", "ema": 0.9, "num_samples": 100,
    },
    "angles": {
        "task": "regress", "data": "turned-digits", "angle": True, "optimizer": "adamw", "augment": "crop=0.0625",
        "model": "cnn", "model_options": {"widths": [4], "hidden": [8], "batch_norm": True},
    },
    "folds": {"model": "ann", "model_options": {"hidden": [8]}, "optimizer": "adam", "folds": 2},
    "head": {
        "model": "mobilenet_v3_small", "tune": "head", "solver": "steps", "views": 1, "image_size": 32,
        "batch_size": 64, "optimizer": "adamw", "augment": "flip", "head": [16],
    },
    "last stages": {
        "model": "mobilenet_v3_small", "tune": "last:2", "unfreeze": 0.5, "layer_decay": 0.7, "image_size": 32,
        "steps": 3, "batch_size": 16, "optimizer": "adamw",
    },
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
    made = {}
    for name, fields in KINDS.items():
        weights = {"weights": str(file)} if "tune" in fields else {}
        made[name] = build({**USUAL, **fields, **weights}, where="")
    for name, of in {"upscaler": "photos-x2", "judged upscaler": "photos-x4-gan"}.items():
        sharp = resolve(of)[0].replace(
            steps=4, batch_size=4, evaluate_every=1, device="cpu", precision="fp32", parts=4
        )
        made[name] = sharp.replace(**{"model.width": 8})
    return made


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
    assert trained(recipes, names, tmp_path, 2) == alone
    assert trained(recipes, names[:1], tmp_path, 4) == alone[:1]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [*KINDS, "upscaler", "judged upscaler"])
def test_every_kind_has_equal_bits(recipes, tmp_path, name):
    found = {count: trained(recipes, [name], tmp_path, count) for count in (1, 2, 4)}
    assert found[1] == found[2] == found[4]


def test_images_that_are_measured_are_dealt(recipes, tmp_path, monkeypatch):
    """Each process measures whole chunks of them, during training and of the finished model, and
    all have the figures of one process.
    """
    measured: list[int] = []
    logits = Classify.logits

    def noted(task: Classify, network: Any, images: torch.Tensor) -> torch.Tensor:
        measured.append(len(images))
        return logits(task, network, images)

    monkeypatch.setattr(Classify, "logits", noted)
    monkeypatch.setattr("tintype.tasks.classify.classifier.images_at_once", lambda size: 50)
    monkeypatch.setattr("tintype.training.run.write_report", lambda folder: folder)
    recipe = recipes["resident numbers"].replace(evaluate_every=0.05)

    def work(rank: int) -> str:
        measured.clear()
        api.train(recipe, out=tmp_path / str(rank), name="run", watcher=Watcher())
        return json.dumps(measured)

    alone = json.loads(work(0))
    assert len(alone) > 4, "several chunks at each of several evaluations"

    first, second = (json.loads(said) for said in in_processes(2, lambda rank: work(rank + 1)))
    assert sorted(first + second) == sorted(alone)
    assert len(second) > len(alone) // 3
    for file in RESULT:
        one, two = (tmp_path / rank / "run" / file for rank in ("0", "1"))
        assert one.read_bytes() == two.read_bytes()
    one, two = (RunFolder(tmp_path / rank / "run").read("evaluation.json") for rank in ("0", "1"))
    assert one == two


@pytest.mark.exhaustive
def test_whoever_waits_for_process_0_has_patience(recipes, tmp_path, monkeypatch):
    """What it does alone, as to look for copies among millions of photos, may take long."""
    monkeypatch.setattr("tintype.hardware.processes.WAIT_SECONDS", 10.0)
    monkeypatch.setattr("tintype.training.run.record_photos", lambda *_: time.sleep(15.0))
    assert begun(recipes["resident numbers"], tmp_path, 2, lambda rank: {}) == ["None", "None"]
    assert RunFolder(tmp_path / "run").status["state"] == "finished"


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
    reason = "3 processes cannot share parts: 1 equally"
    lost = f"ProcessLost: process 0 of 3 failed: {reason}"
    assert [said for said in three[1:] if not said.startswith(lost)] == []

    seeds = begun(recipe, tmp_path, 2, lambda rank: {"seed": rank})
    assert seeds[0].startswith("UserError: process 1 has other arguments than process 0")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["images", "own code", "tintype"])
def test_what_differs_between_processes_is_named(recipes, tmp_path, monkeypatch, what):
    (tmp_path / "my_loss.py").write_text(
        "def plain(logits, targets):\n    return (logits.softmax(1)[:, 0] - 0.1).square()\n",
        encoding="utf-8",
    )
    own: dict[str, Any] = {"loss": f"{tmp_path / 'my_loss.py'}:plain"} if what == "own code" else {}

    def work(rank: int) -> None:
        if rank == 1:
            others(what, monkeypatch)
        api.train(recipes["resident numbers"], out=tmp_path, name="run", watcher=Watcher(), **own)

    said = in_processes(2, work)
    assert said[0].startswith(f"UserError: process 1 has other {what} than process 0 ("), said
    assert said[0].count("\n") == 0


def others(what: str, patch: pytest.MonkeyPatch) -> None:
    """Let this process be one of a machine with other images, other code or another version."""
    if what == "tintype":
        patch.setattr("tintype.training.together.__version__", "0.0.1")
    elif what == "own code":
        patch.setattr("tintype.own_code.code_of", lambda reference: SimpleNamespace(sha256="0"))
    else:
        values, targets = read_digits()
        values[0] += 1
        patch.setattr("tintype.data.sets.digits.read_digits", lambda: (values, targets))


def test_processes_that_were_restarted_meet_again(tmp_path):
    """torchrun keeps its place for names over a restart, with what those before have left there."""
    port = str(free_port())
    place = TCPStore("localhost", int(port), is_master=True, wait_for_workers=False)

    def work(rank: int) -> list[int]:
        with joined("the same") as group:
            return group.from_all(rank)

    kept = {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for _ in range(2):
        assert in_processes(2, work, **kept) == ["[0, 1]"] * 2
    assert place.num_keys() > 4


def test_a_launch_that_was_restarted_goes_on_with_its_run(recipes, tmp_path, monkeypatch):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    step = Engine._train_step

    def killed(engine: Engine, *arguments: Any) -> Any:
        if engine.step == 2 and engine.group.rank == 1:
            os._exit(9)
        return step(engine, *arguments)

    def work(rank: int) -> str:
        run = api.train(recipes["resident numbers"], out=tmp_path, watcher=Watcher(), command="it")
        return run.path.name

    monkeypatch.setattr(Engine, "_train_step", killed)
    said = in_processes(2, work, TORCHELASTIC_RUN_ID="job1")[0]
    assert said.startswith("ProcessLost: one of the 2 processes of this run was killed")
    monkeypatch.setattr(Engine, "_train_step", step)

    again = {"TORCHELASTIC_RUN_ID": "job1", "TORCHELASTIC_RESTART_COUNT": "1"}
    assert in_processes(2, work, **again) == ["digits"] * 2
    assert in_processes(2, work, **again) == ["digits"] * 2, "it was killed while it ended"
    assert in_processes(2, work, TORCHELASTIC_RUN_ID="job1") == ["digits-2"] * 2, "launched anew"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "0"], "--processes is 0. Expected 1, 2, 4, 8"),
        (["--processes", "-2"], "--processes is -2. Expected 1, 2, 4, 8"),
        (["--processes", "3"], "3 processes cannot share a batch in equal parts"),
        (["--processes", "4", "--set", "parts=2"], "Expected --processes 1 or 2, or more parts"),
        (["--processes", "256"], "parts times accumulate cannot be larger than batch_size"),
        (["--processes", "2", "--device", "cuda:1"], "device cuda:1 is one GPU"),
        (["--processes", "2", "--name", "taken"], "taken is there already"),
    ],
)
def test_nothing_is_started_that_cannot_be(tt, monkeypatch, options, message):
    monkeypatch.setattr("tintype.training.run.launch", None)
    Path("runs/taken").mkdir(parents=True)
    Path("runs/taken/recipe.yaml").touch()
    code, _, said = tt("train", "digits", *options)
    assert (code, said.count("\n")) == (2, 1)
    assert message in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "3"], "3 processes cannot share a batch in equal parts"),
        (["--processes", "4", "--set", "parts=2"], "Expected --processes 1 or 2, or more parts"),
        (["--processes", "2", "--device", "cuda:1"], "device cuda:1 is one GPU"),
    ],
)
def test_a_plan_refuses_what_processes_cannot_share(tt, options, message):
    code, output, said = tt("train", "digits", "--dry-run", *options)
    assert (code, output, said.count("\n")) == (2, "", 1)
    assert message in said


@pytest.mark.parametrize("launched", [False, True])
def test_a_plan_tells_of_its_processes(tt, monkeypatch, launched):
    if launched:
        place = {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
    asked = ["--set", "parts=8"] + ([] if launched else ["--processes", "4"])
    code, output, said = tt("train", "digits-ann", "--dry-run", "--device", "cpu", *asked)
    assert (code, list(Path().iterdir())) == (0, [])
    assert re.search(r"machine: cpu, .*4 processes of \d+ threads? each", output + said)
    assert "parts: 8" in output

    code, output, _ = tt("train", "digits-ann", "--dry-run", "--json", "--processes", "4")
    plan = json.loads(output)
    choices = {choice["name"]: choice["choice"] for choice in plan["choices"]}
    assert plan["recipe"]["parts"] == 4
    assert (choices["parts"], choices["processes"]) == ("4", "4")


def test_a_run_that_goes_on_is_refused_before_it_starts(tt, monkeypatch, finished_run):
    monkeypatch.setattr("tintype.training.run.launch", None)
    code, _, said = tt("train", "--resume", finished_run.path, "--processes", "2")
    assert code == 2
    assert "2 processes cannot share parts: 1 equally" in said


def test_the_launcher_has_started_another_number(tt, monkeypatch):
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    code, _, said = tt("train", "digits", "--processes", "4")
    assert code == 2
    assert "--processes is 4, and the launcher has started 2. Leave --processes out." in said


# ---- what depends on time or on the order of sums ------------------------------------------------


def test_process_0_says_how_many_steps_fit_into_a_time(recipes, tmp_path):
    recipe = recipes["resident numbers"].replace(steps=100_000, time="2s")

    def work(rank: int) -> int:
        return int(api.train(recipe, out=tmp_path, name="run", watcher=Watcher()).status["step"])

    first, second = in_processes(2, work)
    assert first == second
    assert 0 < int(first) < 100_000


def test_sums_in_any_order_are_close(recipes, tmp_path):
    """With exact: false gradients are added by all-reduce, and the report says so."""
    recipe = recipes["gan"].replace(exact=False, steps=2)
    alone = api.train(recipe, out=tmp_path, name="alone", watcher=Watcher())
    begun(recipe, tmp_path, 2, lambda rank: {})
    together = RunFolder(tmp_path / "run")
    choices = {each["name"]: each for each in together.read("environment.json")["choices"]}
    assert "added by all-reduce" in choices["processes"]["reason"]
    ours, theirs = (load_file(path / "model.safetensors") for path in (alone.path, together.path))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)


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


TRAIN = ["train", "digits", "--model", "ann", "--epochs", "2000"]


def started(folder: Path, *command: str, by: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start `python -m COMMAND` in a folder, with many checkpoints and a thread for each process."""
    environment = {**os.environ, "TINTYPE_CHECKPOINT_SECONDS": "0.5", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*by, sys.executable, "-m", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )


def trainers(*launchers: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """Return the processes that train, by their RANK."""
    children = [each for one in launchers for each in psutil.Process(one.pid).children()]
    return {rank: each for each in children if (rank := each.environ().get("RANK"))}


def wait_for_checkpoint(run: Path, child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 200
    while not list(run.glob("checkpoints/*.safetensors")):
        assert time.monotonic() < until
        assert child.poll() is None, child.communicate()
        time.sleep(0.2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("killed", ["0", "1", ""], ids=["leader", "follower", "stopped"])
def test_the_command_ends_all_and_any_number_goes_on(tmp_path, killed):
    run = tmp_path / "runs" / "run"
    child = started(tmp_path, "tintype", *TRAIN, "--processes", "2", "--name", "run")
    wait_for_checkpoint(run, child)
    training = trainers(child)
    if killed:
        training[killed].kill()
    else:
        child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=30)[1]

    if killed:
        assert child.returncode == 2
        assert said.startswith("error: ")
        assert "tintype train --resume" in said
    else:
        assert child.returncode == 128 + signal.SIGTERM
        assert said.startswith("stopped by SIGTERM; continue with: tintype train --resume")
    assert said.count("\n") == 1, said
    assert not any(each.is_running() for each in training.values())

    child = started(tmp_path, "tintype", "train", "--resume", "runs/run")
    wait_for_step(run, RunFolder(run).status["step"])
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nohup"), reason="needs nohup")
def test_under_nohup_all_processes_outlive_the_terminal(tmp_path):
    run = tmp_path / "runs" / "run"
    options = ("--processes", "2", "--name", "run")
    child = started(tmp_path, "tintype", *TRAIN, *options, by=["nohup"])
    wait_for_checkpoint(run, child)
    for each in (child, *trainers(child).values()):
        each.send_signal(signal.SIGHUP)
    wait_for_step(run, RunFolder(run).status["step"])
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 128 + signal.SIGTERM
    assert said.startswith("stopped by SIGTERM; continue with: tintype train --resume")


def wait_for_step(run: Path, before: int) -> None:
    until = time.monotonic() + 200
    while RunFolder(run).status["step"] <= before:
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.exhaustive
def test_two_machines_restart_and_go_on(tmp_path):
    """Two launches of torchrun stand for two machines; a killed process restarts all."""
    place = f"localhost:{free_port()}"
    launch = [
        "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "1",
        "--rdzv-id", "job1", "--rdzv-backend", "c10d", "--rdzv-endpoint", place,
        "-m", "tintype", *TRAIN[:-1], "40",
    ]  # fmt: skip
    machines = [started(tmp_path, *launch) for _ in range(2)]
    wait_for_checkpoint(tmp_path / "runs" / "digits", machines[0])
    trainers(*machines)["1"].kill()
    said = [machine.communicate(timeout=280) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert any("resumed at step" in out for out, _ in said)
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()] == ["digits"]

    recipe = RunFolder(tmp_path / "runs" / "digits").recipe
    alone = api.train(recipe, out=tmp_path, name="alone", watcher=Watcher())
    assert digest(alone.path) == digest(tmp_path / "runs" / "digits")
