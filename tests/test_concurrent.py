"""Two processes at once on one run, one cache, one name or one file lose nothing; clocks that are
wrong change nothing.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_kills import Child, Command, forked
from test_resume import Stop, Stopper

import tintype
from tintype import api
from tintype.data import cache
from tintype.errors import UserError
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.rows import ClassRows
from tintype.training.measure import count_test_look
from tintype.verbs import board
from tintype.verbs.predict.output import Output

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def at_once(folder: Path, *commands: Command) -> list[tuple[int, str]]:
    """Run commands in the same folder at the same time; return the exit code of each, and what it
    said.
    """
    children = [Child(command, folder) for command in commands]
    return [child.ended()[:2] for child in children]


@pytest.fixture
def place(tmp_path: Path, kinds: dict[str, api.Run], tiny: Callable[..., Recipe]) -> Path:
    """A folder with a run, 40 photos of two classes, and a recipe for them."""
    shutil.copytree(kinds["cnn"].path, tmp_path / "cnn")
    for i in range(40):
        photo = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 50 + i).save(photo)
    recipe = tiny(data="photos", steps=3, batch_size=8)
    (tmp_path / "small.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    return tmp_path


# ---- one name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
def test_two_that_take_one_name_in_the_same_moment(tiny, tmp_path, monkeypatch, exact):
    """Both have found the name free before either takes it."""
    met, rename = threading.Barrier(2), os.rename
    waited: set[int] = set()

    def rename_together(source: Any, target: Any) -> None:
        if threading.get_ident() not in waited:
            waited.add(threading.get_ident())
            met.wait(30)
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_together)
    recipes, got = [tiny(seed=1), tiny(seed=2)], []

    def create(recipe: Recipe) -> None:
        try:
            got.append(
                (RunFolder.create(tmp_path, "run", exact=exact, recipe=recipe).name, recipe.seed)
            )
        except UserError as error:
            got.append((str(error), recipe.seed))

    threads = [threading.Thread(target=create, args=(recipe,)) for recipe in recipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = dict(got)
    assert RunFolder(tmp_path / "run").recipe.seed == names.pop("run")
    ((other, seed),) = names.items()
    if exact:
        assert "run is there already" in other
    else:
        assert (other, RunFolder(tmp_path / "run-2").recipe.seed) == ("run-2", seed)
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["run"] if exact else ["run", "run-2"]
    )


@forks
def test_two_trainings_of_one_recipe_at_once(short_reports, place):
    """They make the same entry of the cache, take two names, and count both looks at the test
    images.
    """
    train = ["train", "small.yaml"]
    for code, said in at_once(place, train, train):
        assert code == 0, said
    runs = [RunFolder(place / "runs" / name) for name in ("small", "small-2")]
    assert [run.status["state"] for run in runs] == ["finished", "finished"]
    assert len({(run.path / "model.safetensors").read_bytes() for run in runs}) == 1
    assert list(
        json.loads((place / "runs" / ".test-looks.json").read_text(encoding="utf-8")).values()
    ) == [2]
    hidden = [path.name for path in place.rglob(".*")]
    assert set(hidden) == {".lock", ".test-looks.json", ".test-looks.json.lock"}


# ---- one run ----------------------------------------------------------------------------------------------------------


@forks
def test_one_run_resumed_twice_at_once(short_reports, tiny, train_in, tmp_path, monkeypatch):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    whole = train_in(tmp_path / "whole" / "run", tiny(steps=6))
    with pytest.raises(Stop):
        train_in(tmp_path / "runs" / "run", tiny(steps=6), Stopper(4))
    resume = ["train", "--resume", "runs/run"]
    ends = at_once(tmp_path, resume, resume)
    assert sorted(code for code, _ in ends) in ([0, 0], [0, 2]), ends
    assert all("is being trained by another process" in said for code, said in ends if code)
    run = RunFolder(tmp_path / "runs" / "run")
    for file in ("model.safetensors", "metrics.csv", "predictions.csv"):
        assert (run.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert run.read("evaluation.json")["test_looks"] == {"run": 1, "data": 1}


def test_a_run_that_another_process_finished_meanwhile_is_not_measured_again(
    tiny, train_in, tmp_path
):
    run = train_in(tmp_path / "run", tiny(steps=2))
    # as one that prepared itself while the first one trained
    train_in(tmp_path / "run", tiny(steps=2))
    assert run.read("evaluation.json")["test_looks"] == {"run": 1, "data": 1}


@forks
def test_one_run_measured_and_reported_twice_at_once(place):
    ends = at_once(place, *2 * [["evaluate", "cnn", "--device", "cpu"]], *2 * [["report", "cnn"]])
    assert [code for code, _ in ends] == [0, 0, 0, 0], ends
    assert RunFolder(place / "cnn").read("evaluation.json")["test_looks"]["run"] == 3
    assert (place / "cnn" / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert not list(place.rglob("*.tmp"))


def test_a_run_counts_as_trained_only_where_it_is_held_for_longer(tiny, train_in, tmp_path):
    """Whoever asks whether it is held, as the board does, holds it for a moment."""
    run = train_in(tmp_path / "run", tiny(steps=2))
    asked, given_back = threading.Event(), threading.Event()

    def ask() -> None:
        with run.locked():
            asked.set()
            given_back.wait(0.1)

    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait()
    with run.locked(seconds=60):
        pass
    thread.join()
    with run.locked(), pytest.raises(UserError, match="is being trained"), run.locked(seconds=0):
        pass


@forks
def test_a_study_that_another_process_trains_keeps_its_declaration(place):
    study = {"recipe": "small.yaml", "vary": {"lr": [0.01, 0.1]}, "seeds": 1}
    (place / "study.yaml").write_text(json.dumps(study), encoding="utf-8")
    (place / "runs" / "s").mkdir(parents=True)
    with RunFolder(place / "runs" / "s").locked():
        code, said, _ = forked(["study", "study.yaml", "--name", "s", "--seeds", "5"], place)
    assert (code, "is being trained by another process" in said) == (2, True), said
    assert not (place / "runs" / "s" / "study.yaml").exists()


# ---- one file of answers ----------------------------------------------------------------------------------------------


@forks
@pytest.mark.parametrize("file", ["p.csv", "p.jsonl", "p.parquet"])
def test_two_jobs_never_write_into_one_file_of_answers(place, file):
    predict = ["predict", "cnn", "photos", "--out", file, "--device", "cpu"]
    ends = at_once(place, predict, predict)
    assert sorted(code for code, _ in ends) == [0, 2], ends
    refused = next(said for code, said in ends if code)
    assert "process" in refused or "is there already" in refused
    assert len(answered(place / file)) == len(set(answered(place / file))) == 40
    assert [path.name for path in place.glob("*p.*")] == [file]


def answered(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(file)["file"].to_pylist()
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            row["file"]
            for row in (csv.DictReader(lines) if file.suffix == ".csv" else map(json.loads, lines))
        ]


def test_a_job_that_is_under_way_is_not_gone_on_with(tmp_path):
    """A second one would cut off the line that the first one is writing."""
    row = {"file": "a.png", "prediction": "a", "confidence": 0.5, "top": []}
    first = Output(tmp_path / "p.jsonl", ClassRows())
    first.append([row])
    with pytest.raises(UserError, match="another process is writing"):
        Output(tmp_path / "p.jsonl", ClassRows(), resume=True)
    first.close()
    second = Output(tmp_path / "p.jsonl", ClassRows(), resume=True)
    assert second.done.count == 1
    second.release()


def test_a_file_that_another_job_made_meanwhile_is_kept(tmp_path):
    row = {"file": "a.png", "prediction": "a", "confidence": 0.5, "top": []}
    for name in ("p.jsonl", "p.parquet"):
        first, second = (Output(tmp_path / name, ClassRows()) for _ in range(2))
        first.append([row])
        first.close()
        before = (tmp_path / name).read_bytes()
        with pytest.raises(UserError, match="was made by another process"):
            second.append([row])
        assert (tmp_path / name).read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


# ---- one cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "photos"


def pixels(i: int) -> np.ndarray:
    return np.full((2, 2, 1), i, np.uint8)


def test_a_cache_that_is_cleared_while_it_is_written(own_cache, monkeypatch):
    """Before the space is checked, before the last photo is read, and before the finished entry is
    opened.
    """
    check_space = cache.check_space

    def cleared_before(*where: Any) -> None:
        cache.clear_cache()
        check_space(*where)

    def cleared_at_the_end(i: int) -> np.ndarray:
        if i == 4:
            cache.clear_cache()
        return pixels(i)

    monkeypatch.setattr(cache, "check_space", cleared_before)
    monkeypatch.setattr(cache, "trim_cache", lambda *_, **__: cache.clear_cache() and 0)
    made = cache.cached_pixels("key", 5, (2, 2, 1), cleared_at_the_end, source="photos")
    assert made.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert list(own_cache.iterdir()) == []


def test_an_entry_that_another_process_makes_first_is_used(own_cache):
    def slower(i: int) -> np.ndarray:
        if i == 4:
            cache.cached_pixels("key", 5, (2, 2, 1), pixels, source="photos")
        return pixels(i)

    made = cache.cached_pixels("key", 5, (2, 2, 1), slower, source="photos")
    assert made.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert [path.name for path in own_cache.iterdir()] == ["key"]


@forks
def test_trainings_while_the_cache_is_cleared_over_and_over(short_reports, place):
    trainings = [Child(["train", "small.yaml", "--name", name], place) for name in "ab"]
    clearing = [Child(["cache", "--clear"], place) for _ in range(5)]
    for code, said, _ in (child.ended() for child in (*clearing, *trainings)):
        assert code == 0, said


@forks
def test_a_packed_run_that_two_processes_unpack_at_once(place, kinds):
    kinds["cnn"].pack(place / "packed.zip")
    ends = at_once(
        place, *([["predict", "packed.zip", "photos", "--out", f"{i}.csv"] for i in range(2)])
    )
    assert [code for code, _ in ends] == [0, 0], ends
    ends = at_once(place, *2 * [["load", "packed.zip", "--name", "new"]])
    assert sorted(code for code, _ in ends) == [0, 2], ends
    assert any("is there already" in said for code, said in ends if code)
    assert not list(place.rglob("*.tmp"))


# ---- clocks -----------------------------------------------------------------------------------------------------------

# Where the time of day is what is meant: of a file, or for another program.
TIME_OF_DAY = {"verbs/board.py", "data/cache.py", "data/contents.py", "tracking/mlflow.py"}


def test_what_passes_is_measured_by_clocks_that_never_go_back():
    package = Path(tintype.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            of_day = isinstance(node, ast.Attribute) and node.attr in (
                "time",
                "time_ns",
                "now",
                "utcnow",
                "today",
            )
            if (
                of_day
                and isinstance(node.value, ast.Name)
                and node.value.id in ("time", "clock", "datetime", "date")
            ):
                found.add(path.relative_to(package).as_posix())
    assert found <= TIME_OF_DAY


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time of day go back by an hour with each look at it, from tomorrow on."""
    start = time.time() + 24 * 3600
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: start - 3600 * next(looks))
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))


def test_a_run_under_a_clock_that_goes_backwards(backwards, short_reports, tiny, tmp_path):
    run = api.train(tiny(epochs=3), out=tmp_path, name="run", time="20s", verbose=False)
    assert run.recipe.epochs == 3  # all of it fits, whatever time of day it is
    assert run.status["state"] == "finished"
    assert 0 < run.status["seconds"] < 20
    environment = run.read("environment.json")
    assert all(
        environment[name] > 0 for name in ("seconds", "training_seconds", "preparing_seconds")
    )


def test_times_in_the_future_change_nothing(tiny, train_in, tmp_path, monkeypatch):
    """A lock, a status and a recipe of tomorrow: nobody holds the run, and it is gone on with."""
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    folder = tmp_path / "runs" / "run"
    with pytest.raises(Stop):
        train_in(folder, tiny(steps=6), Stopper(4))
    run = RunFolder(folder)
    run.set_status("running")
    tomorrow = time.time() + 24 * 3600
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (tomorrow, tomorrow))

    (row,) = board.Board(tmp_path / "runs").state()["runs"]
    assert row["state"] == "interrupted"
    whole = train_in(tmp_path / "whole" / "run", tiny(steps=6))
    train_in(folder, tiny(steps=6))
    assert (folder / "model.safetensors").read_bytes() == (
        whole.path / "model.safetensors"
    ).read_bytes()


def test_entries_of_the_cache_with_times_in_the_future_are_removed_as_others_are(own_cache):
    for key in ("old", "wrong clock", "new"):
        cache.cached_pixels(key, 5, (2, 2, 1), pixels, source=key)
    now = time.time()
    for key, used in {"old": now - 7200, "wrong clock": now + 10**9, "new": now - 60}.items():
        os.utime(own_cache / key / "entry.json", (used, used))
    size = cache.cache_entries()[0].num_bytes
    assert cache.trim_cache(3 * size + 100) == 0  # seen for the first time, it counts as used now
    used = {entry.source: entry.last_used for entry in cache.cache_entries()}
    assert used["wrong clock"] <= time.time() + 1


def test_each_look_counts_whoever_looks_at_the_same_time(tiny, train_in, tmp_path):
    run = train_in(tmp_path / "run", tiny(steps=2))
    threads = [threading.Thread(target=count_test_look, args=(run, "data")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count_test_look(run, "data")["data"] == 9
