"""A run that was stopped, killed or damaged ends bit-equal to the run that never was."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tintype import api
from tintype.errors import STOPPING, Interrupted, UserError
from tintype.pages.report import write_report
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.checkpoint import load_checkpoint, save_checkpoint
from tintype.runs.folder import RunFolder

RESULT = ("model.safetensors", "metrics.csv", "predictions.csv", "splits.csv")


def assert_same_result(one: Path, other: Path) -> None:
    """Weights, metrics and figures agree bit for bit; how often the test images were looked at may
    differ.
    """
    for file in RESULT:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
    figures = [
        json.loads((path / "evaluation.json").read_text(encoding="utf-8")) for path in (one, other)
    ]
    for evaluation in figures:
        assert evaluation.pop("test_looks")["run"] >= 1
    assert figures[0] == figures[1]
    assert RunFolder(other).status["state"] == "finished"


class Stop(Exception):
    """Stands for whatever ends a process."""


class Stopper(Watcher):
    """Raises when a step is logged, before the checkpoint of that step is written."""

    def __init__(self, at: int, where: str = "on_step") -> None:
        self.at, self.where = at, where
        self.notes: list[str] = []

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if self.where == "on_step" and step >= self.at:
            raise Stop

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        if self.where == "on_evaluation" and step >= self.at:
            raise Stop

    def on_work(self, what: str, done: int, total: int) -> None:
        if self.where == what:
            raise Stop

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def every_step(monkeypatch):
    """Write a checkpoint after every step."""
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)


@pytest.fixture
def full(tiny) -> Recipe:
    """Everything that holds state: Muon and AdamW, averaged weights, batch norm, dropout,
    augmentation, patience.
    """
    return tiny(
        model="cnn", model_options={"widths": [8], "hidden": [16], "batch_norm": True, "dropout": 0.3},
        optimizer="muon", lr=0.05, ema=0.9, augment="standard", patience=9, evaluate_every=0.5, epochs=3, batch_size=200,
        warmup=0.1, label_smoothing=0.1,
    )  # fmt: skip


# ---- in one process, at chosen steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.machines), 1, 2])
def test_stopped_at_random_steps_over_an_epoch_boundary(every_step, full, train_in, tmp_path, seed):
    """19 steps of 200 images in 3 epochs of 1,258 images: an epoch ends inside step 7 and inside
    step 13.
    """
    whole = train_in(tmp_path / "whole" / "run", full)
    stops = sorted(random.Random(seed).sample(range(2, 20), 3))
    folder = tmp_path / "stopped" / "run"
    for at in stops:
        with pytest.raises(Stop):
            train_in(folder, full, Stopper(at))
        assert RunFolder(folder).status["state"] == "stopped"
    watcher = Stopper(10**9)
    train_in(folder, full, watcher)
    assert f"resumed at step {stops[-1] - 1}" in watcher.notes
    assert_same_result(whole.path, folder)


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adam", pytest.param("adamw", marks=pytest.mark.machines)]
)
def test_every_optimizer_goes_on(every_step, tiny, train_in, tmp_path, optimizer):
    recipe = tiny(
        optimizer=optimizer,
        steps=9,
        model="cnn",
        model_options={"widths": [4, 8]},
        keep="best",
        schedule="one-cycle",
    )
    whole = train_in(tmp_path / "whole" / "run", recipe)
    with pytest.raises(Stop):
        train_in(tmp_path / "stopped" / "run", recipe, Stopper(5))
    train_in(tmp_path / "stopped" / "run", recipe)
    assert_same_result(whole.path, tmp_path / "stopped" / "run")


@pytest.mark.parametrize("model", ["fast-cnn", "deep-cnn", "resnet", "small-filters"])
def test_every_network_goes_on(every_step, tiny, train_in, tmp_path, model):
    """channels_last weights and their optimizer's state must come back in the same memory format."""
    options = {
        "fast-cnn": {"widths": [8, 8]}, "deep-cnn": {"widths": [8], "hidden": [8]}, "resnet": {"depth": 8, "width": 4},
        "small-filters": {"attention": True},
    }[model]  # fmt: skip
    recipe = tiny(
        optimizer="muon",
        lr=0.1,
        steps=5,
        model=model,
        model_options=options,
        precision="bf16",
        ema=0.5,
    )
    whole = train_in(tmp_path / "whole" / "run", recipe)
    with pytest.raises(Stop):
        train_in(tmp_path / "stopped" / "run", recipe, Stopper(3))
    train_in(tmp_path / "stopped" / "run", recipe)
    assert_same_result(whole.path, tmp_path / "stopped" / "run")


@pytest.mark.parametrize(
    "where",
    [
        "before the first checkpoint",
        "at an evaluation",
        "measuring train",
        "measuring val",
        "measuring test",
    ],
)
def test_stopped_at_the_seams(full, train_in, tmp_path, where):
    whole = train_in(tmp_path / "whole" / "run", full)
    folder = tmp_path / "stopped" / "run"
    stopper = {
        "before the first checkpoint": Stopper(2),
        "at an evaluation": Stopper(6, "on_evaluation"),
    }.get(where, Stopper(0, where))
    with pytest.raises(Stop):
        train_in(folder, full, stopper)
    assert RunFolder(folder).status["state"] == "stopped"
    assert not (folder / "evaluation.json").exists()
    train_in(folder, full)
    assert_same_result(whole.path, folder)


def test_stopped_after_early_stopping(every_step, tiny, train_in, tmp_path):
    recipe = tiny(epochs=50, lr=0.02, schedule="constant", patience=2, evaluate_every=0.5)
    whole = train_in(tmp_path / "whole" / "run", recipe)
    folder = tmp_path / "stopped" / "run"
    with pytest.raises(Stop):
        train_in(folder, recipe, Stopper(0, "measuring train"))
    watcher = Stopper(10**9)
    train_in(folder, recipe, watcher)
    assert any(note.startswith("stopped early") for note in watcher.notes), "it does not train on"
    assert_same_result(whole.path, folder)


# ---- damage -----------------------------------------------------------------------------------------------------------


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    path.write_bytes(content)


def flip_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[30] ^= 0xFF
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_byte, flip_the_header, cut_short, empty])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    every_step, full, train_in, tmp_path, damage
):
    whole = train_in(tmp_path / "whole" / "run", full)
    folder = tmp_path / "stopped" / "run"
    with pytest.raises(Stop):
        train_in(folder, full, Stopper(9))
    older, newest = sorted((folder / "checkpoints").iterdir())
    damage(newest)
    watcher = Stopper(10**9)
    train_in(folder, full, watcher)
    assert any(f"checkpoint {newest.name} is broken" in note for note in watcher.notes)
    assert f"resumed at step {int(older.stem.removeprefix('step-'))}" in watcher.notes
    assert_same_result(whole.path, folder)


def test_without_a_whole_checkpoint_it_starts_over(every_step, full, train_in, tmp_path):
    whole = train_in(tmp_path / "whole" / "run", full)
    folder = tmp_path / "stopped" / "run"
    with pytest.raises(Stop):
        train_in(folder, full, Stopper(9))
    for checkpoint in (folder / "checkpoints").iterdir():
        flip_a_byte(checkpoint)
    watcher = Stopper(10**9)
    train_in(folder, full, watcher)
    assert "no checkpoint is whole, so the run starts over" in watcher.notes
    assert_same_result(whole.path, folder)


def test_two_checkpoints_are_kept_and_nothing_half_written(every_step, tiny, train_in, tmp_path):
    run = train_in(tmp_path / "run", tiny(steps=6))
    assert [p.name for p in sorted((run.path / "checkpoints").iterdir())] == [
        "step-000000005.safetensors", "step-000000006.safetensors",
    ]  # fmt: skip
    assert not list(run.path.rglob("*.tmp"))


def test_a_full_disk_keeps_the_checkpoint_before(every_step, tiny, train_in, tmp_path, monkeypatch):
    recipe = tiny(steps=6)
    whole = train_in(tmp_path / "whole" / "run", recipe)
    folder, flush = tmp_path / "stopped" / "run", os.fsync

    def full_at_step_4(file: int) -> None:
        if "step-000000004" in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(28, "No space left on device")
        flush(file)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file is flushed")
    monkeypatch.setattr("os.fsync", full_at_step_4)
    with pytest.raises(
        UserError, match=r"cannot write .*No space left on device\. Free some space"
    ):
        train_in(folder, recipe)
    assert max((folder / "checkpoints").iterdir()).name == "step-000000003.safetensors"
    assert not list(folder.rglob("*.tmp"))
    monkeypatch.setattr("os.fsync", flush)
    train_in(folder, recipe)
    assert_same_result(whole.path, folder)


def test_checkpoints_hold_any_nesting(tmp_path):
    import torch

    state = {
        "a": [1, 2.5, None, "text", True], 3: {"deep": (torch.arange(4), {"x": torch.tensor(2.5)})}, "empty": {}, "none": [],
        "b": torch.ones(2, 3, dtype=torch.bfloat16), "flag": torch.tensor([True, False]), "nothing": torch.zeros(0, 4),
    }  # fmt: skip
    save_checkpoint(tmp_path, 7, state)
    loaded, warnings = load_checkpoint(tmp_path)
    assert warnings == []
    assert loaded["a"] == state["a"]
    assert torch.equal(loaded[3]["deep"][0], torch.arange(4))
    assert loaded[3]["deep"][1]["x"] == 2.5
    assert loaded["empty"] == {}
    assert loaded["none"] == []
    for key in ("b", "flag", "nothing"):
        assert torch.equal(loaded[key], state[key])
        assert loaded[key].dtype == state[key].dtype


# ---- what is refused --------------------------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_stays(copied_run):
    before = {p: p.read_bytes() for p in copied_run.path.iterdir() if p.is_file()}
    watcher = Stopper(0)
    run = api.train(resume=copied_run.path, watcher=watcher)
    assert watcher.notes == [f"{copied_run.path} is finished; nothing is left to do"]
    assert run.metrics == copied_run.metrics
    assert {p: p.read_bytes() for p in copied_run.path.iterdir() if p.is_file()} == before


def test_a_folder_that_is_named_for_a_finished_run_is_looked_for(copied_run, tmp_path):
    for changes in ({"data": str(tmp_path / "nowhere")}, {"data_root": str(tmp_path / "nowhere")}):
        with pytest.raises(UserError, match="there is no folder"):
            api.train(resume=copied_run.path, watcher=Watcher(), **changes)
    watcher = Stopper(0)
    api.train(resume=copied_run.path, watcher=watcher, data=str(tmp_path))
    assert watcher.notes[-1] == "warning: --data changes nothing of a finished run"


def test_a_finished_run_without_its_report_gets_it(copied_run):
    (copied_run.path / "report.html").unlink()
    api.train(resume=copied_run.path, watcher=Watcher())
    assert (copied_run.path / "report.html").exists()


def test_images_that_changed_are_refused(every_step, tiny, train_in, tmp_path, digit_files):
    data = Path(shutil.copytree(digit_files, tmp_path / "photos"))
    recipe = tiny(data=str(data), steps=6, batch_size=30, val_fraction=0.2)
    with pytest.raises(Stop):
        train_in(tmp_path / "run", recipe, Stopper(4))
    next((data / "3").iterdir()).unlink()
    with pytest.raises(UserError, match="the images of photos have changed since this run began"):
        train_in(tmp_path / "run", recipe)
    assert max((tmp_path / "run" / "checkpoints").iterdir()).name == "step-000000003.safetensors"


def as_csv(folder: Path, target: Path) -> Path:
    rows = [
        f"{file.parent.name}/{file.name},{file.parent.name}" for file in sorted(folder.glob("*/*"))
    ]
    target.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return target


@pytest.mark.parametrize("way", ["folder", "csv moved too", "csv stays"])
def test_photos_that_were_moved_are_found_at_their_new_place(
    every_step, tiny, train_in, tmp_path, digit_files, monkeypatch, way
):
    """The run ends as the one whose photos stayed; afterwards its recipe names the new place."""
    old = Path(shutil.copytree(digit_files, tmp_path / "old"))
    new, table = (
        tmp_path / "new",
        as_csv(old, tmp_path / ("table.csv" if way == "csv stays" else "old/table.csv")),
    )
    data = {
        "data": str(old if way == "folder" else table),
        "data_root": str(old) if way == "csv stays" else None,
    }
    recipe = tiny(**data, steps=6, batch_size=30, val_fraction=0.2)
    train_in(tmp_path / "whole", recipe)
    with pytest.raises(Stop):
        train_in(tmp_path / "run", recipe, Stopper(4))
    old.rename(new)

    with pytest.raises(UserError, match=r"resume='.*run', data='NEW'\) \(or data_root='NEW'\)"):
        api.train(resume=tmp_path / "run", watcher=Watcher())
    moved = {
        "folder": {"data": str(new)}, "csv moved too": {"data": str(new / "table.csv")},
        "csv stays": {"data_root": str(new)},
    }[way]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run = api.train(
        resume=tmp_path / "run",
        watcher=Watcher(),
        **{k: os.path.relpath(v) for k, v in moved.items()},
    )
    assert_same_result(tmp_path / "whole", run.path)
    assert {key: getattr(run.recipe, key) for key in moved} == moved
    assert run.evaluate()["num_images"] == run.metrics["test"]["num_images"]


@pytest.fixture(scope="module")
def copied_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pieces of two photos, half of them saved again: small pictures of them were not searched
    for copies before.
    """
    root = tmp_path_factory.mktemp("photos")
    for number, (top, left) in enumerate(product(range(10, 310, 60), range(10, 510, 85))):
        photo = load_sample_images().images[number % 2]
        piece = Image.fromarray(photo[top : top + 96, left : left + 96])
        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        piece.save(folder / f"{number:02d}.png")
        piece.save(folder / f"again {number:02d}.jpg", quality=80)
    return root


def without_rule(run: Path) -> None:
    """Bring the recipe of a run to the form that earlier versions wrote."""
    recipe = run / "recipe.yaml"
    lines = recipe.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("split_rule:")]
    assert len(kept) == len(lines) - 1
    recipe.write_text("".join(kept), encoding="utf-8")


@pytest.mark.machines
def test_a_run_of_an_earlier_version_keeps_its_splits(
    every_step, tiny, train_in, tmp_path, copied_photos
):
    recipe = tiny(data=str(copied_photos), image_size=16, steps=6, batch_size=20)
    train_in(tmp_path / "whole", recipe)
    with pytest.raises(Stop):
        train_in(tmp_path / "run", recipe, Stopper(4))
    without_rule(tmp_path / "run")

    run = api.train(resume=tmp_path / "run", watcher=Watcher())
    assert_same_result(tmp_path / "whole", run.path)
    assert run.evaluate()["accuracy"] == run.metrics["test"]["accuracy"]
    before = {row["name"]: row["split"] for row in run.read_table("splits.csv")}

    new = api.train(recipe, out=tmp_path, name="new", watcher=Watcher())
    now = {row["name"]: row["split"] for row in new.read_table("splits.csv")}
    assert new.recipe.split_rule == "from-photos"
    pairs = [
        (name, name.replace("again ", "").replace(".jpg", ".png"))
        for name in now
        if "again" in name
    ]
    assert all(now[one] == now[other] for one, other in pairs)
    assert not all(before[one] == before[other] for one, other in pairs)
    assert new.evaluate()["accuracy"] == new.metrics["test"]["accuracy"]


def test_other_photos_are_not_taken_for_moved_ones(
    every_step, tiny, train_in, tmp_path, digit_files
):
    recipe = tiny(data=str(digit_files), steps=6, batch_size=30, val_fraction=0.2)
    with pytest.raises(Stop):
        train_in(tmp_path / "run", recipe, Stopper(4))
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    other = Path(shutil.copytree(digit_files, tmp_path / "other"))
    next((other / "3").iterdir()).unlink()
    with pytest.raises(UserError, match="are not those that this run began with"):
        api.train(resume=tmp_path / "run", data=str(other), watcher=Watcher())
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before
    with pytest.raises(UserError, match="leave out everything else"):
        api.train(resume=tmp_path / "run", data=str(digit_files), lr=0.1, watcher=Watcher())


@pytest.mark.parametrize(
    ("line", "edited", "message"),
    [
        ("model: ann", "model: cnn", "model is 'cnn' and was 'ann'"),
        ("optimizer: adamw", "optimizer: sgd", "optimizer is 'sgd' and was 'adamw'"),
        ("ema: 0.0", "ema: 0.5", "ema is 0.5 and was 0.0"),
        ("seed: 0", "seed: 1", "seed is 1 and was 0"),
        ("model: ann", "model: cnnn", "unknown model 'cnnn'"),
        ("model: ann", "modle: ann", "unknown field 'modle'"),
    ],
)
def test_an_edited_recipe_is_refused(every_step, tiny, train_in, tmp_path, line, edited, message):
    recipe = tiny(steps=6, model_options={})
    with pytest.raises(Stop):
        train_in(tmp_path / "run", recipe, Stopper(4))
    path = tmp_path / "run" / "recipe.yaml"
    text = path.read_text(encoding="utf-8")
    assert f"\n{line}\n" in text
    path.write_text(text.replace(f"\n{line}\n", f"\n{edited}\n"), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        train_in(tmp_path / "run", recipe)
    path.write_text(text, encoding="utf-8")
    train_in(tmp_path / "run", recipe)


def test_the_device_may_change(every_step, tiny, train_in, tmp_path):
    with pytest.raises(Stop):
        train_in(tmp_path / "run", tiny(steps=6), Stopper(4))
    path = tmp_path / "run" / "recipe.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("device: cpu", "device: cpu:0"), encoding="utf-8"
    )
    assert train_in(tmp_path / "run", tiny()).status["state"] == "finished"


def test_a_second_process_on_one_run_is_refused(tiny, train_in, tmp_path):
    class Second(Watcher):
        told = ""

        def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
            script = (
                "import sys; from pathlib import Path\n"
                "from tintype.runs.folder import RunFolder; from tintype.errors import UserError\n"
                "try:\n  RunFolder(Path(sys.argv[1])).locked().__enter__()\nexcept UserError as e: print(e)"
            )
            done = subprocess.run(
                [sys.executable, "-c", script, tmp_path / "run"],
                capture_output=True,
                text=True,
                encoding="utf-8",
            )
            self.told = done.stdout + done.stderr

    watcher = Second()
    train_in(tmp_path / "run", tiny(steps=2), watcher)
    assert "is being trained by another process" in watcher.told


def test_resume_takes_nothing_else(tmp_path):
    with pytest.raises(
        UserError, match=r"keeps its own settings; leave out everything else: tt\.train\(resume="
    ):
        api.train("digits", resume=tmp_path, watcher=Watcher())
    with pytest.raises(
        UserError, match=r"keeps its own settings; leave out everything else: tt\.train\(resume="
    ):
        api.train(resume=tmp_path, watcher=Watcher(), lr=0.1)


# ---- signals ----------------------------------------------------------------------------------------------------------


class Signaller(Stopper):
    """Sends a signal to its own process where the others raise."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(3, where)
        self.number = number

    def on_step(self, *_: Any) -> None:
        if self.where == "on_step" and _[0] == self.at:
            signal.raise_signal(self.number)

    def on_work(self, what: str, done: int, total: int) -> None:
        if self.where == what:
            signal.raise_signal(self.number)
            time.sleep(0.01)

    def note(self, line: str) -> None:
        super().note(line)
        if line.startswith(self.where):
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("where", ["on_step", "measuring val"])
def test_a_signal_saves_and_says_how_to_go_on(tiny, train_in, tmp_path, number, where):
    recipe = tiny(steps=6, rules=2)
    whole = train_in(tmp_path / "whole" / "tiny", recipe)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"continue with: tt\.train\(resume=") as stopped:
        api.train(recipe, out=tmp_path / "stopped", name="tiny", watcher=Signaller(number, where))
    assert stopped.value.number == number
    assert signal.getsignal(number) == before
    folder = tmp_path / "stopped" / "tiny"
    assert RunFolder(folder).status["state"] == "stopped"
    watcher = Stopper(10**9)
    api.train(resume=folder, watcher=watcher)
    assert f"resumed at step {3 if where == 'on_step' else 6}" in watcher.notes
    assert_same_result(whole.path, folder)


def test_a_signal_while_the_report_is_written(tiny, tmp_path, monkeypatch):
    def interrupted(path: Path) -> Path:
        signal.raise_signal(signal.SIGTERM)
        return write_report(path)

    monkeypatch.setattr("tintype.training.run.write_report", interrupted)
    with pytest.raises(Interrupted):
        api.train(tiny(steps=2), out=tmp_path, name="run", watcher=Watcher())
    monkeypatch.setattr("tintype.training.run.write_report", write_report)
    assert not (tmp_path / "run" / "report.html").exists()
    api.train(resume=tmp_path / "run", watcher=Watcher())
    assert (tmp_path / "run" / "report.html").exists()


# ---- real processes ---------------------------------------------------------------------------------------------------

# Steps that leave time to be killed in, and a page of one line, which takes longer than the run.
SLOW_ENOUGH = """
import sys, time
from tintype.training import engine, run
def short(path):
    (path / "report.html").write_text("a report")
    return path / "report.html"
run.write_report = short
step = engine.Engine._train_step
def slowly(*arguments):
    time.sleep(0.02)
    return step(*arguments)
engine.Engine._train_step = slowly
from tintype.cli import main
main(sys.argv[1:])
"""

OPTIONS = shlex.split(
    "--data digits --model cnn --set model.widths=[8] --set model.batch_norm=true --set model.hidden=[16] "
    "--set optimizer=muon --lr 0.05 --set ema=0.9 --augment light --batch-size 200 --epochs 6 --precision fp32 "
    "--device cpu --name run"
)


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TINTYPE_CHECKPOINT_SECONDS": "0"}
    command = [sys.executable, "-c", SLOW_ENOUGH, "train", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def wait_until_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Wait until the run has saved a step, or the process has ended."""
    while process.poll() is None and RunFolder(run).status.get("step", 0) < step:
        time.sleep(0.005)


# Two optimizers, averaged weights, a lazy penalty, and augmentation whose strength follows the
# discriminator.
GAN_OPTIONS = shlex.split(
    "digits-gan --steps 38 --set task.loss=bce --set task.ada=0.6 --set task.r1=1 --set task.penalty_every=4 "
    "--set task.num_samples=50 --set ema=0.9 --batch-size 32 --precision fp32 --device cpu --name run"
)


@pytest.mark.slow
@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize(
    ("options", "moments"),
    [
        (OPTIONS, (11, 28)),
        pytest.param(OPTIONS, (8, 20, 33), marks=pytest.mark.exhaustive),
        pytest.param(GAN_OPTIONS, (8, 20, 33), marks=pytest.mark.exhaustive),
    ],
    ids=["classifier", "classifier, more often", "gan"],
)
def test_killed_several_times_in_one_run(options, moments, tmp_path, tt):
    """SIGKILL at random moments of the 38 steps, each time going on from the newest checkpoint."""
    code, _, errors = tt("train", *options, "--out", "whole")
    assert code == 0, errors
    never_stopped = tmp_path / "whole" / "run"
    run = tmp_path / "runs" / "run"
    draw = random.Random(time.time_ns())
    arguments = [*options]
    for last in moments:
        process = start(*arguments, folder=tmp_path)
        wait_until_step(process, run, last)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        arguments = ["--resume", "runs/run"]
    process = start(*arguments, folder=tmp_path)
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert "resumed at step" in output
    assert_same_result(never_stopped, run)
    assert (run / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive)],
)
def test_signals_end_with_the_usual_code(tmp_path, number, code):
    process = start(*OPTIONS, folder=tmp_path)
    wait_until_step(process, tmp_path / "runs" / "run", 10)
    process.send_signal(number)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == code
    assert errors.count("\n") == 1
    assert errors.rstrip().endswith("continue with: tintype train --resume runs/run")
    status = RunFolder(tmp_path / "runs" / "run").status
    assert status["state"] == "stopped"
    state, _ = load_checkpoint(tmp_path / "runs" / "run" / "checkpoints")
    assert state["step"] == status["step"] >= 10


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGHUP on Windows")
def test_where_nobody_reads_what_it_says_a_run_saves_its_state(tmp_path):
    """As with `tintype train ... | head -3`, or where a terminal is closed."""
    with start(*OPTIONS, folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(line.startswith("epoch 1") for line in iter(process.stdout.readline, ""))
        process.stdout.close()
        errors = process.stderr.read()
    assert process.wait(280) == 128 + signal.SIGHUP
    assert errors == "stopped by SIGHUP; continue with: tintype train --resume runs/run\n"
    state, _ = load_checkpoint(tmp_path / "runs" / "run" / "checkpoints")
    assert state["step"] == RunFolder(tmp_path / "runs" / "run").status["step"]
