"""Studies: what is declared is what is run; a kill changes nothing; effects and choice agree with
SciPy and with reason.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import pytest
import scipy.stats
import yaml
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

import tintype
from tintype import cli
from tintype.errors import UserError
from tintype.files.lease import Leases, this_process
from tintype.files.whole import write_json
from tintype.hardware.device import num_cores
from tintype.plugins import names, study_names
from tintype.progress import Watcher
from tintype.recipe import resolve
from tintype.runs.folder import RunFolder
from tintype.runs.ranking import Criterion
from tintype.statistics import block_error
from tintype.verbs import study as studying
from tintype.verbs.compare import compare
from tintype.verbs.study import Study, declare, declared_confounding, study
from tintype.verbs.study.choice import choose
from tintype.verbs.study.declaration import label_of
from tintype.verbs.study.effects import _sentence
from tintype.verbs.study.figures import Finished, VariantResult, image_figures
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.page import _strip
from tintype.verbs.study.queue import Queue
from tintype.verbs.study.run_all import Progress

ACCURACY = Criterion("accuracy", "accuracy", "points", scale=100.0, digits=1)
TINY: dict[str, Any] = {
    "data": "digits", "model": "ann", "batch_size": 100, "lr": 0.01, "precision": "fp32", "device": "cpu", "epochs": 2,
}  # fmt: skip
GRID: dict[str, Any] = {
    "recipe": TINY,
    "question": "Which <b>width</b>?",
    "vary": {"model_options.hidden": [[8], [32]]},
}


def written(folder: Path, text: str, name: str = "grid.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, short_report: Callable[[Path], Path]
) -> Study:
    """Two widths with two seeds each. Tests must not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tintype.training.run.write_report", short_report)
        return study(
            {**GRID, "seeds": 2},
            out=tmp_path_factory.mktemp("runs"),
            name="widths",
            watcher=Watcher(),
        )


# ---- the declaration --------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_with_every_seed():
    content = {
        **GRID,
        "vary": {**GRID["vary"], "augment": {"plain": "none", "moved": "light"}},
        "seeds": [3, 5],
    }
    runs = declare(content).runs()
    assert [(r.name, r.seed, r.recipe.seed) for r in runs[:2]] == [
        ("hidden-8-plain-seed3", 3, 3), ("hidden-8-moved-seed3", 3, 3)
    ]  # fmt: skip
    assert len(runs) == declare(content).num_runs == 8
    assert {(tuple(r.recipe.model_options["hidden"]), r.recipe.augment, r.seed) for r in runs} == {
        ((h,), a, s) for h in (8, 32) for a in ("none", "light") for s in (3, 5)
    }
    assert runs[1].levels == {"model_options.hidden": "hidden 8", "augment": "moved"}


def test_variants_bring_a_recipe_and_what_is_given_to_all_comes_last():
    content = {
        "variants": {
            "small": {"recipe": "digits-ann"},
            "large": {"recipe": "digits-cnn", "lr": 0.5},
        },
        "weight_decay": 0.3,
    }
    small, large = declare(content).replace(epochs=2, seeds=[7]).runs()
    wanted = resolve("digits-cnn")[0].replace(weight_decay=0.3, lr=0.5, epochs=2, seed=7, threads=1)
    assert large.recipe == wanted
    assert (small.recipe.model, small.recipe.lr, small.recipe.weight_decay) == ("ann", 0.002, 0.3)


def test_a_study_can_be_written_and_read_again(tmp_path):
    for what in (
        {**GRID, "seeds": 2, "variants": {"a": {}, "b": {"lr": 0.1}}},
        "garbage-two-by-two",
        "cifar10-fcn",
    ):
        declaration = declare(what).replace(epochs=3)
        again = declare(written(tmp_path, declaration.to_yaml()))
        assert [vars(run) for run in again.runs()] == [vars(run) for run in declaration.runs()]


def test_a_file_in_a_study_is_found_beside_it(tmp_path, monkeypatch):
    written(tmp_path, yaml.safe_dump({**TINY, "lr": 0.125}), "base.yaml")
    path = written(tmp_path, "recipe: base.yaml\nvary: {batch_size: [50, 100]}\n")
    monkeypatch.chdir("/")
    assert [run.recipe.lr for run in declare(path).runs()] == [0.125, 0.125]


@pytest.mark.parametrize(
    ("value", "factor", "label"),
    [
        ("swish", "model_options.activation", "swish"), ("none", "augment", "augment none"), (0.01, "lr", "lr 0.01"),
        (True, "model_options.residual", "residual on"), (None, "clip", "clip none"),
        ([64, 10], "model.hidden", "hidden 64-10"),
        ({"flip": True, "crop": 4}, "augment", "flip crop 4"), ("/a/b/model.safetensors", "weights", "model.safetensors"),
    ],
)  # fmt: skip
def test_values_have_short_names(value, factor, label):
    assert label_of(value, factor) == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: digits\nvary: {lrr: [1, 2]}", "unknown field in vary: 'lrr'. Did you mean 'lr'"),
        ("recipe: digits\nvary: {lr: []}", "vary.lr is empty"),
        ("recipe: digits\nvary: {lr: 0.1}", "vary.lr is 0.1. Expected a list"),
        ("recipe: digits\nvary: {seed: [0, 1]}", "seeds have a place of their own"),
        ("recipe: digits\nvary: {lr: [0.1, 0.1]}", "'lr 0.1' stands twice"),
        ("recipe: digits\nvary: [lr]", "vary is ['lr']"),
        ("recipe: digits\nvariants: {a: {lrr: 1}}", "unknown field 'lrr'"),
        ("recipe: digits\nvariants: {a: 3}", "a is 3. Expected fields"),
        ("recipe: digits\nvariants: {a: {lr: 0.1}, a: {lr: 0.2}}", "'a' stands twice"),
        (
            "recipe: digits\nvariants: {a: {lr: 0.1}, b: {lr: 0.1}}",
            "'a' and 'b' are the same recipe",
        ),
        (
            "recipe: digits\nvariants: {a b: {lr: 0.1}, A-b: {lr: 0.2}}",
            "two variants are called 'A-b'",
        ),
        ("recipe: digits\nvary: {lr: [-1, 1]}", "must be greater than 0"),
        ("recipe: digits\nseeds: 0", "seeds is 0"),
        ("recipe: digits\nseeds: [1, 1]", "seeds is [1, 1]"),
        ("recipe: digits\nseeds: [1, a]", "seeds is [1, 'a']"),
        ("recipe: digits\nseed: first", "grid: seed: input should be a valid integer"),
        ("recipe: digits\nseed: [1]", "grid: seed: input should be a valid integer"),
        ("recipe: digist", "unknown recipe or data set 'digist'"),
        ("recipee: digits", "unknown key in the study grid: 'recipee'. Did you mean 'recipe'"),
        ("seeds: 2", "says nothing of what is trained"),
        ("variants: {a: {recipe: digits}, b: {lr: 0.1}}\n", "grid, b: no recipe is named"),
        ("recipe: 3", "recipe is 3"),
        ("- 1", "is not a study"),
        ("a: [", "the YAML is broken"),
    ],
)
def test_what_is_wrong_with_a_study_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        declare(written(tmp_path, text)).runs()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_change_of_what_varies_is_refused():
    declaration = declare({**GRID, "vary": {"lr": [0.1, 0.2], "model.hidden": [[8], [9]]}})
    for changes in ({"lr": 1.0}, {"learning_rate": 1.0}, {"model_options.hidden": [4]}):
        with pytest.raises(UserError, match="is what the study study varies"):
            declaration.replace(**changes)
    named = declare({"recipe": TINY, "variants": {"a": {"lr": 0.1}, "b": {"lr": 0.2}}})
    with pytest.raises(UserError, match="'a' and 'b' are the same recipe"):
        named.replace(lr=0.3).runs()


def test_a_large_grid_asks_first(tmp_path):
    grid = {
        "recipe": TINY,
        "vary": {"lr": [i / 100 for i in range(1, 31)], "weight_decay": list(range(20))},
    }
    with pytest.raises(UserError, match=r"a grid of 600 runs.*yes=True"):
        study(grid, out=tmp_path, watcher=Watcher())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "widths").mkdir()
    (tmp_path / "widths" / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is not a study"):
        study(GRID, out=tmp_path, name="widths", watcher=Watcher())
    for name in ("a/b", ".."):
        with pytest.raises(UserError, match="cannot be a study's name"):
            study(GRID, out=tmp_path, name=name, watcher=Watcher())
    with pytest.raises(
        UserError,
        match=r"unknown study 'fashon-three-depths'\. Did you mean 'fashion-three-depths'",
    ):
        declare("fashon-three-depths")
    with pytest.raises(UserError, match="is not the folder of a study"):
        declare(tmp_path)


# ---- the built-in studies ---------------------------------------------------------------------------------------------

ON_PHOTOS = {
    "fine-tuning",
    "faces-seven-backbones",
    "faces-pipelines",
    "garbage-two-by-two",
    "garbage-two-by-two-clean",
}
BACKBONES = {"cifar100-three-backbones", "cifar100-three-backbones-as-described"}
LARGE = {"cifar10-speed", "cifar10-dense-cnn"}  # their networks take seconds to build


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in LARGE else ())
        for name in sorted(set(study_names()) - ON_PHOTOS - BACKBONES - {"three-depths"})
    ],
)
def test_built_in_studies_are_checked_by_a_dry_run(name):
    rows = studying.plan(name, data="digits", val_fraction=0.1, steps=2)
    assert len(rows) == declare(name).num_runs
    assert len({run.name for run, _ in rows}) == len(rows)
    assert all(summary["parameters"] > 0 and summary["steps"] == 2 for _, summary in rows)


def test_garbage_is_two_by_two(digit_files):
    rows = studying.plan(
        "garbage-two-by-two", data=str(digit_files), weights="none", image_size=32, steps=2
    )
    assert [run.variant for run, _ in rows] == [
        "scratch + plain", "scratch + augmented", "pretrained + plain", "pretrained + augmented"
    ]  # fmt: skip
    for (run, _), recipe in zip(
        rows, ("scratch", "scratch-augmented", "frozen", "frozen-augmented"), strict=True
    ):
        built_in = resolve(f"garbage-{recipe}")[0]
        assert run.recipe.augment == built_in.augment
        assert run.recipe.model == built_in.model


def test_fine_tuning_is_compared_with_what_may_be_added_to_it():
    runs = declare("fine-tuning").runs()
    ways = {run.variant: (run.recipe.tune, run.recipe.ema, run.recipe.interpolate) for run in runs}
    assert ways == {
        "the head alone": ("head", 0.0, False),
        "fine-tuned": ("all", 0.0, False),
        "averaged": ("all", 0.99, False),
        "interpolated": ("all", 0.0, True),
        "averaged and interpolated": ("all", 0.99, True),
    }


def test_a_recipe_is_a_study_of_its_seeds():
    declaration = declare("digits-ann")
    assert declaration.name == "digits-ann-seeds"
    assert declaration.num_runs == 1
    rows = studying.plan("digits-ann", seeds=3)
    assert [run.seed for run, _ in rows] == [0, 1, 2]
    assert {run.recipe.model for run, _ in rows} == {"ann"}


def test_pipelines_on_photos_are_checked_by_a_dry_run(digit_files):
    rows = studying.plan(
        "faces-pipelines", data=str(digit_files), weights="none", image_size=32, steps=1
    )
    assert len(rows) == declare("faces-pipelines").num_runs == 9
    assert {str(run.recipe.augment) for run, _ in rows} == {
        "all",
        "none",
        "flips",
        "rotations",
        "shifts",
        "colours",
    }
    assert {run.recipe.schedule for run, _ in rows} == {"step", "cosine", "constant"}
    assert {run.recipe.class_weights for run, _ in rows} == {"balanced", None}


def test_garbage_all_else_equal(digit_files):
    declaration = declare("garbage-two-by-two-clean")
    started = {run.levels["start"]: run.recipe.weights for run in declaration.runs()}
    assert started == {"pretrained": "default", "from scratch": "none"}
    # which needs no weights here
    scratch = replace(declaration, factors={"augment": declaration.factors["augment"]})
    rows = studying.plan(scratch, data=str(digit_files), weights="none", image_size=32, steps=1)
    assert [run.recipe.model for run, _ in rows] == ["resnet18"] * 2


def test_a_file_for_another_network_changes_the_runs_from_scratch_too(tmp_path):
    """Else a pretrained network would be compared with another one from scratch."""
    file = tmp_path / "mobilenet_v2.safetensors"
    file.touch()  # its name says which network it is for
    declaration = declare("garbage-two-by-two-clean").replace(weights=str(file))
    assert {run.recipe.model for run in declaration.runs()} == {"mobilenet_v2"}
    assert declared_confounding(declaration) == []

    described = declare("garbage-two-by-two").replace(weights=str(file))
    assert [run.recipe.model for run in described.runs()] == ["cnn"] * 2 + ["mobilenet_v2"] * 2

    own = replace(
        declaration,
        factors={"start": {"pretrained": {}, "small": {"model": "resnet18", "weights": "none"}}},
    )
    assert [run.recipe.model for run in own.runs()] == ["mobilenet_v2", "resnet18"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_three_backbones(name):
    rows = studying.plan(name, data="digits", channels=3, weights="none", tune="all", steps=1)
    assert [run.recipe.model for run, _ in rows] == ["resnet50", "vgg16", "mobilenet_v2"]


def test_three_depths_across_two_sets(digit_files):
    declaration = declare("three-depths")
    planned = declaration.runs()
    assert [(run.recipe.data, run.recipe.model) for run in planned] == [
        (data, model)
        for data in ("fashion-mnist", "cifar100")
        for model in ("ann", "cnn", "deep-cnn")
    ]
    for run, name in zip(planned, ("fashion-ann", "fashion-cnn", "fashion-deep-cnn"), strict=False):
        assert run.recipe == resolve(name)[0].replace(threads=1)
    for run, name in zip(
        planned[3:], ("cifar100-ann", "cifar100-cnn", "cifar100-deep-cnn"), strict=True
    ):
        assert run.recipe == resolve(name)[0].replace(threads=1)
    sets = {"digits": {"data": "digits"}, "files": {"data": str(digit_files)}}
    rows = studying.plan(
        replace(declaration, factors={**declaration.factors, "data": sets}), steps=2, image_size=28
    )
    assert len(rows) == 6


CLEAN = {
    "cifar10-dense-cnn": "cifar10-dense-cnn-as-described",
    "cifar100-three-backbones": "cifar100-three-backbones-as-described",
    "garbage-two-by-two-clean": "garbage-two-by-two",
}


def test_comparisons_exist_clean_and_as_described():
    """A clean one differs in what it asks about alone; one as described may differ in more, which
    is then told.
    """
    for clean, described in CLEAN.items():
        assert declared_confounding(declare(clean)) == []
        assert declare(clean).name != declare(described).name
    for alone in (
        "fashion-three-depths",
        "cifar100-three-depths",
        "three-depths",
        "faces-pipelines",
        "faces-seven-backbones",
    ):
        assert declared_confounding(declare(alone)) == [], alone
    (dense,) = declared_confounding(declare("cifar10-dense-cnn-as-described"))
    assert {"optimizer", "augment", "length", "schedule", "lr"} <= {
        each.field for each in dense.differences
    }
    assert dense.about == ("network",)
    assert "not the effect of network alone" in dense.sentence()
    (garbage,) = declared_confounding(declare("garbage-two-by-two"))
    assert (garbage.name, garbage.reference) == ("pretrained", "scratch")
    assert {"model", "weights", "tune", "image_size"} <= {
        each.field for each in garbage.differences
    }


@pytest.mark.slow
def test_faces_by_seven_backbones():
    runs = declare("faces-seven-backbones").runs()
    assert len(runs) == 14
    assert {run.recipe.model for run in runs} == {
        "resnet18", "vgg16", "densenet161", "googlenet", "mobilenet_v2", "resnext50_32x4d", "wide_resnet50_2"
    }  # fmt: skip


@pytest.mark.exhaustive
def test_each_of_seven_backbones_is_checked_by_a_dry_run(digit_files):
    declaration = declare("faces-seven-backbones")
    # augmentation builds no other network
    once = replace(declaration, factors={"model": declaration.factors["model"]})
    rows = studying.plan(once, data=str(digit_files), weights="none", image_size=32, steps=1)
    assert len(rows) == 7


def test_the_studies_are_of_the_recipes_that_they_name():
    for name, prefix in (
        ("fashion-three-depths", "fashion"),
        ("cifar100-three-depths", "cifar100"),
    ):
        runs = declare(name).runs()[:3]
        wanted = [
            resolve(f"{prefix}-{m}")[0].replace(threads=1) for m in ("ann", "cnn", "deep-cnn")
        ]
        assert [r.recipe for r in runs] == wanted
    small = declare("small-filters-open-points").runs()
    assert small[0].recipe == resolve("cifar100-small-filters")[0].replace(
        augment="none", threads=1
    )
    backbones = names("models")
    assert all(run.recipe.model in backbones for run in declare("faces-seven-backbones").runs())


def test_weights_are_given_to_the_pretrained_runs_only(tmp_path):
    declaration = declare("garbage-two-by-two")
    (tmp_path / "mobilenet_v2.safetensors").write_bytes(b"")
    runs = declaration.replace(weights=str(tmp_path / "mobilenet_v2.safetensors")).runs()
    assert [(r.recipe.model, bool(r.recipe.weights)) for r in runs] == [("cnn", False)] * 2 + [
        ("mobilenet_v2", True)
    ] * 2
    with pytest.raises(UserError, match=r"holds no resnet18\.safetensors"):
        declare("faces-seven-backbones").replace(weights=str(tmp_path)).runs()
    with pytest.raises(UserError, match="the study varies the model"):
        declare("faces-seven-backbones").replace(
            weights=str(tmp_path / "mobilenet_v2.safetensors")
        ).runs()
    with pytest.raises(UserError, match="there is no nowhere"):
        declaration.replace(weights="nowhere")


def test_names_of_several_values_are_joined_by_plus_and_their_folders_stay(tmp_path):
    grid = {
        **GRID,
        "vary": {"model_options.hidden": {"narrow, flat": [8]}, "augment": ["none", "light"]},
    }
    planned = declare(grid).runs()
    assert [run.variant for run in planned] == [
        "narrow, flat + no augmentation",
        "narrow, flat + light",
    ]
    # The folders of studies that were begun by an earlier version are found again.
    assert [run.name for run in planned] == [
        "narrow-flat-augment-none-seed0",
        "narrow-flat-light-seed0",
    ]


# ---- running ----------------------------------------------------------------------------------------------------------


def test_a_study_is_a_folder_of_ordinary_runs(finished):
    assert [run.name for run in finished.runs()] == [
        "hidden-8-seed0", "hidden-32-seed0", "hidden-8-seed1", "hidden-32-seed1"
    ]  # fmt: skip
    rows = finished.table()
    assert [row["state"] for row in rows] == ["finished"] * 4
    for row, run in zip(rows, finished.runs(), strict=True):
        assert row["test_accuracy"] == run.metrics["test"]["accuracy"]
        assert row["parameters"] == run.read("model.json")["parameters"]
    with (finished.path / "table.csv").open(encoding="utf-8", newline="") as lines:
        assert [float(row["val_loss"]) for row in csv.DictReader(lines)] == [
            row["val_loss"] for row in rows
        ]
    assert finished.frame()["test_accuracy"].tolist() == [row["test_accuracy"] for row in rows]
    assert declare(finished.path).runs() == finished.planned


def test_the_looks_at_the_test_split_are_counted_beside_the_study(finished):
    (count,) = json.loads(
        (finished.path.parent / ".test-looks.json").read_text(encoding="utf-8")
    ).values()
    assert count == 4
    assert not (finished.path / ".test-looks.json").exists()


def test_what_is_done_is_not_done_again(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.path.glob("*/*.json")}
    tintype.study(finished.path, watcher=Watcher())
    assert {path: path.stat().st_mtime_ns for path in finished.path.glob("*/*.json")} == before


def test_runs_of_another_recipe_are_not_mixed_in(finished):
    with pytest.raises(UserError, match=r"was begun with epochs 2.0, and now it is 3.0"):
        study(
            {**GRID, "seeds": 2},
            out=finished.path.parent,
            name="widths",
            epochs=3,
            watcher=Watcher(),
        )


def begun(folder: Path, content: Mapping[str, Any], name: str) -> Study:
    """Begin a study of which the runs are left to those who join."""
    return study(content, out=folder, name=name, workers=0, watcher=Watcher())


def assert_same_runs(one: Study, other: Study) -> None:
    assert (one.path / "table.csv").read_bytes() == (other.path / "table.csv").read_bytes()
    for run in one.runs():
        for name in ("metrics.csv", "predictions.csv", "model.safetensors"):
            assert (other.path / run.name / name).read_bytes() == (run.path / name).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("short_reports")
def test_those_who_join_may_be_killed_and_the_table_is_the_same(finished, tmp_path, monkeypatch):
    """Two at a time join and are killed at random moments, until two are left alive."""
    from test_kills import Child

    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("tintype.verbs.study.queue.MOST_DEATHS", 100)
    begun(tmp_path, {**GRID, "seeds": 2}, "widths")
    moments = random.Random(0)
    codes: list[int] = []
    while codes[-2:] != [0, 0]:
        most = 400 if len(codes) < 4 else 0
        joining = ["study", str(tmp_path / "widths"), "--join"]
        pair = [Child(joining, tmp_path, moments.randint(0, most)) for _ in range(2)]
        codes += [child.ended()[0] for child in pair]
    assert codes.count(-9) >= 2
    assert_same_runs(finished, Study.open(tmp_path / "widths"))
    assert not (tmp_path / "widths" / ".leases").exists()


def eventually(happens: Callable[[], Any]) -> Any:
    until = time.monotonic() + 300
    while not (found := happens()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def kill_one(leases: Leases, job: str = "") -> bool:
    """Kill a process that holds a job, or this one, if there is one.

    A lease that was taken this moment is still empty.
    """
    for name, says in leases.held().items():
        with suppress(KeyError, psutil.NoSuchProcess):
            if job in (name, ""):
                psutil.Process(says["process"]).kill()
                return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(num_cores() < 2, reason="two workers need two cores")
@pytest.mark.usefixtures("short_reports")
def test_the_number_of_workers_changes_nothing_and_one_that_dies_is_replaced(tmp_path):
    """Where OMP_NUM_THREADS is not set, a worker and this process would take different numbers of
    threads.
    """
    convolution = {"model": "cnn", "model_options": {"widths": [16], "hidden": [16]}}
    content = {"recipe": {**TINY, **convolution, "epochs": 1}, "seeds": 2}
    one = study(content, out=tmp_path / "one", name="seeds", watcher=Watcher())
    two = begun(tmp_path / "two", content, "seeds")
    environment = {**os.environ, "TINTYPE_CHECKPOINT_SECONDS": "0"}
    for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.pop(key, None)
    command = [sys.executable, "-m", "tintype", "study", str(two.path), "--workers", "2"]
    parent = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert parent.stdout is not None
    begins = next(line for line in iter(parent.stdout.readline, "") if line.startswith("["))
    run = f"study-seed{begins.split()[-1]}"  # the other one may not have been seen to begin yet
    assert eventually(lambda: kill_one(Leases(two.path / ".leases"), run))
    said = parent.communicate()[0]
    assert parent.returncode == 0, said
    assert "its process has ended; another one goes on with it" in said
    assert_same_runs(one, two)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there a process that was ended cannot be waited for")
def test_workers_end_with_the_study_and_save_their_state(tmp_path):
    """They notice the end of their input, which they also do on Windows."""
    begun(tmp_path, {"recipe": {**TINY, "epochs": 100_000}}, "long")
    worker = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tintype.verbs.study.worker",
            str(tmp_path / "long"),
            "tintype study",
        ],
        stdin=subprocess.PIPE,
    )
    leases = Leases(tmp_path / "long" / ".leases")
    eventually(lambda: any("step" in says for says in leases.held().values()))
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait() == 0
    assert RunFolder(tmp_path / "long" / "study-seed0").status["state"] == "stopped"
    assert list((tmp_path / "long" / "study-seed0" / "checkpoints").glob("step-*.safetensors"))
    assert leases.held() == {}


def test_a_process_that_ends_before_it_notes_anything_is_missed(tmp_path):
    """It may die between taking a run and writing that the run is under way."""
    begun(tmp_path, {"recipe": TINY}, "one")
    (tmp_path / "one" / ".leases").mkdir()
    lease = tmp_path / "one" / ".leases" / "study-seed0.1"
    opened = StudyFolder.open(tmp_path / "one")
    lines: list[str] = []
    queue = Queue(opened)
    progress = Progress(opened, cast(Watcher, SimpleNamespace(note=lines.append)), 1)

    write_json(lease, {"state": "held", **this_process(), "notes": []})
    progress.look(queue)
    write_json(lease, {"state": "held", **this_process(), "born": 0.0, "notes": []})
    progress.look(queue)
    progress.look(queue)
    begins, ends = lines
    assert begins.startswith("[1 of 1]")
    assert "its process has ended; another one goes on with it" in ends


@pytest.mark.slow
@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("seeds", [1, 2])
def test_generators_are_studied_by_their_distance(tmp_path, seeds):
    """Their images have no figure each, so that nothing is paired by image."""
    generator = {
        "task": "generate", "data": "digits", "model": "mlp-gan", "model_options": {"hidden": [32]},
        "steps": 30, "batch_size": 50, "precision": "fp32", "device": "cpu",
        "task_options": {"num_samples": 50},
    }  # fmt: skip
    content = {"recipe": generator, "vary": {"lr": [0.0001, 0.002]}, "seeds": seeds}
    found = study(content, out=tmp_path, name="generators", watcher=Watcher())
    result = found.result()
    assert found.failures() == {}
    assert result is not None
    assert result.measure.key == "fd_pixels8"

    (effect,) = result.effects
    best = min(result.variants, key=lambda variant: variant.mean("val"))
    assert result.choice is not None
    assert result.choice.variant == best.title
    assert ("cannot show whether that is luck" in effect.sentence) == (seeds == 1)
    said = [str(each) for each in found.lines()]
    assert "The figure is the Fréchet distance; lower is better." in said
    page = (found.path / "study.html").read_text(encoding="utf-8")
    assert "Seed 0, side by side" in page
    assert "image by image" not in page


@pytest.mark.usefixtures("short_reports")
def test_a_run_over_which_processes_end_has_failed_until_it_is_asked_for_again(tmp_path):
    begun(tmp_path, {"recipe": {**TINY, "model_options": {"hidden": [8]}, "epochs": 1}}, "one")
    (tmp_path / "one" / ".leases").mkdir()
    gone = {"machine": platform.node(), "process": 2**22 + 1, "born": 0.0, "deaths": 2}
    write_json(tmp_path / "one" / ".leases" / "study-seed0.3", gone)
    joined = study(tmp_path / "one", join=True, watcher=Watcher())
    (message,) = joined.failures().values()
    assert message.startswith("3 processes ended over it")
    assert study(tmp_path / "one", watcher=Watcher()).failures() == {}


def test_without_ray_there_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'tintype\[cluster\]'") as error:
        study(GRID, out=tmp_path, on="ray", watcher=Watcher())
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"is 'slurm'. Expected ray"):
        study(GRID, out=tmp_path, on="slurm", watcher=Watcher())


@pytest.mark.slow
def test_ray_that_cannot_be_reached_or_is_another_is_said_in_a_line(tmp_path, monkeypatch):
    def refuse(**_: Any) -> None:
        raise RuntimeError("Version mismatch:\nThe cluster was started with Ray: 1.0")

    fake = SimpleNamespace(is_initialized=lambda: False, init=refuse)
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(UserError, match=r"Version mismatch: .* same version") as error:
        study(GRID, out=tmp_path, on="ray", watcher=Watcher())
    assert "\n" not in str(error.value)

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(UserError, match=r"cannot reach Ray at RAY_ADDRESS=127") as error:
            study(GRID, out=tmp_path, on="ray", watcher=Watcher())
        assert "\n" not in str(error.value)


def test_a_worker_of_ray_that_dies_is_begun_again(finished, tmp_path):
    """Two workers of a local Ray, of which one is killed."""
    ray: Any = pytest.importorskip("ray")
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    leases = Leases(tmp_path / "widths" / ".leases")
    killer = ThreadPoolExecutor(1).submit(lambda: eventually(lambda: kill_one(leases)))
    try:
        found = study(
            {**GRID, "seeds": 2}, out=tmp_path, name="widths", on="ray", watcher=Watcher()
        )
    finally:
        ray.shutdown()
    assert killer.result(0)
    assert_same_runs(finished, found)


def test_joining_takes_a_study_as_it_is(tmp_path, capsys):
    begun(tmp_path, GRID, "widths")
    for more, wanted in (
        (["nothing", "--join"], "there is no study to join in"),
        (["widths", "--join", "--epochs", "3"], "Leave --epochs out"),
        (["widths", "--join", "--seeds", "3"], "Leave --seeds out"),
        (["widths", "--join", "--workers", "0"], "Expected a number from 1 on"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["study", *more, "--out", str(tmp_path)])
        assert end.value.code == 2
        said = capsys.readouterr().err.strip()
        assert wanted in said
        assert len(said.splitlines()) == 1
    assert not list((tmp_path / "widths").glob("*/recipe.yaml"))


def test_data_that_are_not_there_are_refused_before_the_folder_is_made(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out, nowhere = tmp_path / "out", str(tmp_path / "nowhere")
    for more, wanted in (
        (["--data", "digitz"], "unknown data set 'digitz'"),
        (["--data", nowhere], "there is no folder or file"),
        (["--data", str(tmp_path / "empty")], "is empty"),
        (["--data", "mnist", "--data-root", nowhere], "is not a folder"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["study", "digits", *more, "--seeds", "2", "--out", str(out)])
        assert end.value.code == 2
        said = capsys.readouterr().err.strip()
        assert wanted in said
        assert len(said.splitlines()) <= 2
    assert not out.exists()


def test_a_study_is_begun_for_others_whose_machines_alone_have_the_data(tmp_path):
    elsewhere = str(tmp_path / "there")
    found = study(GRID, out=tmp_path, data=elsewhere, workers=0, watcher=Watcher())
    assert (found.path / "study.yaml").is_file()


def test_the_folder_of_a_study_is_not_mistaken_for_a_run(tmp_path):
    found = study(GRID, out=tmp_path, workers=0, watcher=Watcher())
    with pytest.raises(UserError, match="folder of a study, not of a run"):
        RunFolder.open(found.path)


def test_a_study_computes_with_one_thread_unless_more_are_asked_for():
    assert {run.recipe.threads for run in declare(GRID).runs()} == {1}
    assert {run.recipe.threads for run in declare({**GRID, "threads": 3}).runs()} == {3}
    assert {run.recipe.threads for run in declare(GRID).replace(threads=2).runs()} == {2}
    assert {
        run.recipe.threads for run in declare({**GRID, "threads": 3}).replace(threads="auto").runs()
    } == {1}


def test_workers_whose_threads_exceed_the_cores_are_refused_with_both_numbers(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(studying, "num_cores", lambda: 4)
    for workers, threads, wanted in ((2, 3, "2 workers with 3 threads each would need 6 cores, and there are 4"),
                                     (1, 5, "1 worker with 5 threads each would need 5 cores, and there are 4")):  # fmt: skip
        with pytest.raises(UserError, match=wanted):
            study(GRID, out=tmp_path, workers=workers, threads=threads, watcher=Watcher())
    assert not list(tmp_path.iterdir())  # refused before anything is written


@pytest.mark.usefixtures("short_reports")
def test_a_study_of_a_larger_machine_goes_on_with_its_own_threads(tmp_path, monkeypatch):
    grid = {**GRID, "vary": {"model_options.hidden": [[8]]}, "epochs": 1}
    monkeypatch.setattr(studying, "num_cores", lambda: 2)
    study(grid, out=tmp_path, name="moved", threads=2, watcher=Watcher())
    monkeypatch.setattr(studying, "num_cores", lambda: 1)
    again = study(tmp_path / "moved", seeds=2, watcher=Watcher())
    assert [run.read("environment.json")["threads"] for run in again.runs()] == [2, 2]
    with pytest.raises(UserError, match="was begun with threads 2, and now it is 1"):
        study(tmp_path / "moved", threads=1, watcher=Watcher())


@pytest.mark.usefixtures("short_reports")
def test_a_study_that_is_older_than_the_field_goes_on(tmp_path):
    grid = {**GRID, "vary": {"model_options.hidden": [[8]]}, "epochs": 1}
    begun = study(grid, out=tmp_path, name="older", watcher=Watcher())
    record = json.loads((begun.path / "study.json").read_text(encoding="utf-8"))
    for run in record["runs"].values():
        del run["recipe"]["threads"]
    (begun.path / "study.json").write_text(json.dumps(record), encoding="utf-8")
    assert len(study(begun.path, seeds=2, watcher=Watcher()).runs()) == 2


@pytest.mark.usefixtures("short_reports")
def test_all_runs_of_a_study_of_an_earlier_version_are_divided_as_its_first_ones(tmp_path):
    grid = {**GRID, "vary": {"model_options.hidden": [[8]]}, "epochs": 1}
    begun = study(grid, out=tmp_path, name="older", watcher=Watcher())
    assert [run.recipe.split_rule for run in begun.runs()] == ["from-photos"]
    recipe = begun.runs()[0].path / "recipe.yaml"
    recipe.write_text(
        recipe.read_text(encoding="utf-8").replace("split_rule: from-photos\n", ""),
        encoding="utf-8",
    )
    again = study(begun.path, seeds=2, watcher=Watcher())
    assert [run.recipe.split_rule for run in again.runs()] == ["at-image-size"] * 2
    assert len(study(begun.path, seeds=3, watcher=Watcher()).runs()) == 3


@pytest.mark.usefixtures("short_reports")
def test_a_run_that_fails_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = yaml.safe_dump(
        {
            "recipe": TINY,
            "vary": {"lr": {"mad": 1e30, "calm": 0.01}},
            "model_options": {"hidden": [8]},
        },
        sort_keys=False,
    )
    with pytest.raises(SystemExit) as end:
        cli.main(["study", str(written(tmp_path, text)), "--json"])
    assert end.value.code == 1
    answer = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in answer["runs"]] == ["failed", "finished"]
    assert "not finite" in answer["failures"]["mad-seed0"]
    page = (tmp_path / "runs" / "grid" / "study.html").read_text(encoding="utf-8")
    assert "mad-seed0" in page
    assert "1 of 2 runs are not finished, 1 failed." in page


@pytest.mark.usefixtures("short_reports")
def test_a_run_that_never_began_leaves_no_trace_in_the_way(tmp_path):
    unborn = tmp_path / "one" / "one-seed0"
    unborn.mkdir(parents=True)
    (unborn / ".recipe.yaml.1.tmp").write_text("half", encoding="utf-8")
    declaration = declare({"recipe": {**TINY, "model_options": {"hidden": [8]}, "epochs": 1}})
    (tmp_path / "one" / "study.yaml").write_text(declaration.to_yaml(), encoding="utf-8")
    assert study(tmp_path / "one", watcher=Watcher()).failures() == {}


def test_the_time_that_is_left_follows_the_runs_before(finished):
    progress = Progress(finished, Watcher(), 1)
    assert progress.seconds_left() == 0
    waiting = SimpleNamespace(
        planned=finished.planned,
        record=finished.record,
        is_done=lambda p: p.seed == 0,
        waiting=lambda: finished.planned[2:],
    )
    progress = Progress(cast(Study, waiting), Watcher(), 1)
    both = sum(finished.record[p.name]["seconds"] for p in finished.planned[:2])
    assert progress.seconds_left() == pytest.approx(both)
    progress.parts[finished.planned[2].name] = 0.5
    first = finished.record[finished.planned[0].name]["seconds"]
    assert progress.seconds_left() == pytest.approx(both - first / 2)


# ---- what it found ----------------------------------------------------------------------------------------------------


def test_the_effect_is_the_paired_difference_with_students_interval(finished):
    result = finished.result()
    (effect,) = result.effects
    figures = {(r["model_options.hidden"], r["seed"]): r["test_accuracy"] for r in finished.table()}
    differences = [figures["hidden 32", seed] - figures["hidden 8", seed] for seed in (0, 1)]
    outside = scipy.stats.ttest_1samp(differences, 0)
    assert effect.estimate == pytest.approx(np.mean(differences))
    assert effect.ci95 == pytest.approx(tuple(outside.confidence_interval(0.95)))
    assert effect.p == pytest.approx(outside.pvalue)
    assert (effect.basis, effect.num_pairs) == ("runs", 2)
    (small, large) = result.variants
    assert large.mean("test") == pytest.approx(np.mean([figures["hidden 32", s] for s in (0, 1)]))
    assert large.deviation("val") == pytest.approx(
        np.std([r.metrics["val"]["accuracy"] for r in finished.runs()[1::2]], ddof=1)
    )
    assert small.parameters < large.parameters


def test_with_one_seed_the_effect_is_paired_on_the_images(finished):
    one = Study(finished.path, declare(finished.path).replace(seeds=[0]))
    (effect,) = one.result().effects
    a, b = (image_figures(each, "test") for each in _finished(one))
    assert a is not None
    assert b is not None
    assert a[0] == b[0]
    only_large, only_small = int((b[1] > a[1]).sum()), int((b[1] < a[1]).sum())
    assert effect.basis == "images"
    assert len(a[1]) == one.runs()[0].metrics["test"]["num_images"]
    assert effect.estimate == pytest.approx((b[1] - a[1]).mean())
    assert effect.p == pytest.approx(
        mcnemar([[0, only_large], [only_small, 0]], exact=True).pvalue, rel=1e-9
    )
    compared = compare([run.path for run in one.runs()], latency=False).pairs[0]
    assert effect.p == pytest.approx(compared.p)  # `tintype compare` says the same
    assert effect.ci95 == pytest.approx(compared.ci95)
    assert "significant" in effect.sentence
    assert f"for these runs, paired on {len(a[1])} images, one seed" in effect.sentence


def test_beside_the_seeds_the_effect_is_tested_on_the_images_of_these_runs(finished):
    (effect,) = finished.result().effects
    runs = {
        (each.planned.levels["model_options.hidden"], each.planned.seed): each
        for each in _finished(finished)
    }
    right = {
        key: figures[1] for key, each in runs.items() if (figures := image_figures(each, "test"))
    }
    twice = sum(right["hidden 32", seed] - right["hidden 8", seed] for seed in (0, 1))
    assert effect.basis == "runs"
    assert effect.images.test == "sign flips"
    assert effect.images.estimate == pytest.approx(effect.estimate)
    assert effect.images.ci95 == pytest.approx(
        tuple(scipy.stats.ttest_1samp(twice / 2, 0).confidence_interval(0.95))
    )
    flipped = scipy.stats.permutation_test(
        (twice,), np.sum, permutation_type="samples", n_resamples=2000, rng=0, vectorized=False
    )
    assert (effect.images.p < 0.01) == (flipped.pvalue < 0.01)
    assert effect.shown_on_images
    unsure = replace(effect, p=0.2, p_holm=0.2, ci95=(-0.3, 0.9))  # as far as two seeds can say
    said = _sentence(unsure, ["large", "small"], ACCURACY, "test", 1)
    assert said.startswith("large compared with small: no significant effect on test")
    assert f"These very runs differ significantly on their {len(twice)} images, " in said
    assert "luck" not in said
    written = finished.to_dict()["effects"][0]
    assert written["shown_on_images"]
    assert written["images"]["num_images"] == len(twice)


def test_images_that_belong_together_are_tested_together(finished, tmp_path):
    one = Study(
        Path(shutil.copytree(finished.path, tmp_path / "grouped")),
        declare(finished.path).replace(seeds=[0]),
    )
    (alone,) = one.result().effects
    for run in one.runs():
        path = run.path / "predictions.csv"
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        rows = [f"{line},{number // 3}" for number, line in enumerate(lines)]
        path.write_text("\n".join([f"{header},group", *rows]) + "\n", encoding="utf-8")
    (grouped,) = one.result().effects
    assert (alone.images.test, alone.images.num_groups) == ("McNemar", None)
    assert grouped.images.test == "sign flips"
    assert grouped.images.num_groups == pytest.approx(alone.images.num_images / 3, abs=2)
    assert grouped.estimate == pytest.approx(alone.estimate)
    assert grouped.p > alone.p


# ---- what variants differ in -------------------------------------------------------------------------------------------

MIXED: dict[str, Any] = {
    "recipe": {**TINY, "model_options": {"hidden": [8]}, "epochs": 1},
    "variants": {
        "plain": {},
        "faster": {"lr": 0.03},
        "large": {"model_options.hidden": [32], "lr": 0.02, "batch_size": 50},
    },
}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"large": ["model_options.hidden", "lr", "batch_size"]}),
        ({"about": "lr"}, {"large": ["model_options.hidden", "lr", "batch_size"]}),
        ({"about": ["model", "lr", "batch"]}, {}),  # of which the question is the sum
    ],
)
def test_levels_that_differ_in_more_than_the_question_names_are_found(more, expected):
    found = {each.name: each for each in declared_confounding(declare({**MIXED, **more}))}
    assert {name: sorted(d.field for d in each.differences) for name, each in found.items()} == {
        name: sorted(fields) for name, fields in expected.items()
    }
    assert all(each.reference == "plain" for each in found.values())


def test_a_grid_of_single_settings_is_not_confounded():
    grid = {
        **GRID,
        "vary": {
            "lr": [0.1, 0.2],
            "optimizer": ["adamw", "sgd"],
            "augment": ["none", {"flip": True, "crop": 2}],
        },
    }
    assert declared_confounding(declare(grid)) == []


@pytest.mark.usefixtures("short_reports")
def test_what_variants_differ_in_is_said_first_and_nothing_is_credited(
    tmp_path, monkeypatch, capsys
):
    found = study(MIXED, out=tmp_path, name="mixed", watcher=Watcher())
    result = found.result()
    faster, large = result.effects
    assert faster.confounding is None
    (told,) = result.confounding
    size = f"{ACCURACY.number(abs(large.estimate))} points"
    assert told.startswith("large differs from plain in 3 settings: ")
    assert "hidden layers (8 → 32)" in told
    assert told.endswith(f"The {size} between them are the sum of these.")
    assert large.sentence.endswith(
        "They differ in 3 settings, none of which is credited with that."
    )
    assert "settings" not in faster.sentence

    assert str(found.lines()[0]) == told
    page = (found.path / "study.html").read_text(encoding="utf-8")
    assert page.index(told) < page.index('class="plate study"')
    assert "differ in one thing only, or in the settings that stand above" in page
    written = found.to_dict()
    assert written["confounding"] == [told]
    assert written["effects"][1]["confounding"]["differences"][0].keys() == {
        "field",
        "setting",
        "reference",
        "value",
    }

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["study", str(written_to(tmp_path)), "--dry-run"])
    assert "large differs from plain in 3 settings" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        cli.main(["study", str(written_to(tmp_path)), "--dry-run", "--json"])
    rows = {row["variant"]: row for row in json.loads(capsys.readouterr().out)}
    assert [len(rows[name]["confounding"]) for name in ("plain", "faster", "large")] == [0, 0, 1]
    assert rows["large"]["confounding"][0]["sentence"].startswith(
        "large differs from plain in 3 settings"
    )


def written_to(folder: Path) -> Path:
    return written(folder, yaml.safe_dump(MIXED, sort_keys=False), "mixed.yaml")


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (
            {"a": {}, "b": {"data": "mnist"}},
            "'a' and 'b' are trained on different data (data digits and mnist)",
        ),
        (
            {"a": {}, "b": {"split_seed": 3}},
            "'a' and 'b' are split in different ways (split_seed 0 and 3)",
        ),
        (
            {"a": {}, "b": {"val_fraction": 200}},
            "'a' and 'b' are split in different ways (val_fraction 0.1 and 200)",
        ),
        ({"a": {}, "b": {"recipe": "digits-gan"}}, "'a' and 'b' have different tasks"),
        (
            {"a": {}, "b": {"momentum": 0.5}},
            "'a' and 'b' are the same but for momentum, which neither of them reads",
        ),
        ({"a": {}, "b": {"evaluate_every": 3}}, "'a' and 'b' are the same but for evaluate every"),
        ({"a": {}, "b": {"epochs": 2}}, "'a' and 'b' are the same recipe"),
    ],
)
def test_variants_that_are_equal_or_of_other_data_are_one_line(tmp_path, capsys, variants, message):
    text = yaml.safe_dump({"recipe": TINY, "variants": variants}, sort_keys=False)
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit) as end:
            cli.main(
                ["study", str(written(tmp_path, text)), "--out", str(tmp_path / "runs"), *more]
            )
        assert end.value.code == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("short_reports")
def test_a_study_that_mixed_data_before_goes_on(tmp_path):
    content = {"recipe": {**TINY, "epochs": 1}, "variants": {"a": {}, "b": {"split_seed": 3}}}
    with pytest.raises(UserError, match="split in different ways"):
        study(content, out=tmp_path, name="mixed", watcher=Watcher())
    studying.run_study(
        replace(declare(content), name="mixed"), tmp_path / "mixed", watcher=Watcher()
    )
    again = study(tmp_path / "mixed", seeds=2, watcher=Watcher())
    assert len(again.runs()) == 4
    assert any(
        "Not all runs were measured on the same images" in remark
        for remark in again.result().remarks
    )


@pytest.mark.usefixtures("short_reports")
def test_where_data_is_varied_effects_and_choices_are_those_on_each(tmp_path, digit_files):
    sets = {"arrays": "digits", "files": str(digit_files)}
    content = {
        **GRID,
        "vary": {"data": sets, "model.hidden": {"narrow": [2], "wide": [32]}},
        "image_size": 8,
        "channels": 1,
    }
    found = study(content, out=tmp_path, name="across", watcher=Watcher())
    result = found.result()
    assert [(effect.data, effect.level, effect.reference) for effect in result.effects] == [
        ("arrays", "wide", "narrow"), ("files", "wide", "narrow")
    ]  # fmt: skip
    assert [effect.images.num_images for effect in result.effects] == [
        run.metrics["test"]["num_images"] for run in found.runs()[::2]
    ]
    first = result.effects[0]
    assert "on test of arrays" in first.sentence
    figures = {run.name: run.metrics["test"]["accuracy"] for run in found.runs()}
    assert first.estimate == pytest.approx(
        figures["arrays-wide-seed0"] - figures["arrays-narrow-seed0"]
    )
    assert result.choice is None
    assert set(result.choices) == {"arrays", "files"}
    assert result.choices["arrays"].variant == "arrays + wide"
    assert set(found.to_dict()["choices"]) == {"arrays", "files"}
    page = (found.path / "study.html").read_text(encoding="utf-8")
    assert "<b>On arrays: arrays + wide.</b>" in page
    assert "The data sets are not ranked against each other" in page
    for cost in ("parameters", "multiply-adds"):
        for suffix in ("1", "2"):
            assert f"cost-{cost}-{suffix}" in page
            assert f"cost-{cost}-loss-{suffix}" in page
            assert (found.path / "figures" / f"cost-{cost}-loss-{suffix}.svg").is_file()
    second = found.figures.ranking(number=2).data
    assert {trace.name for trace in second} == {
        v.title for v in found.result().variants if v.levels["data"] == "files"
    }


def _finished(of: Study) -> list[Finished]:
    return [each for variant in of.result().variants for each in variant.finished]  # pyright: ignore[reportOptionalMemberAccess]


def test_the_page_says_what_was_found(finished):
    page = (finished.path / "study.html").read_text(encoding="utf-8")
    result = finished.result()
    assert "Which &lt;b&gt;width&lt;/b&gt;?" in page  # what a user wrote is text
    assert "Which <b>" not in page
    assert result.choice.variant in page
    (effect,) = result.effects
    assert ACCURACY.signed(effect.estimate) in page
    for run in finished.runs():
        assert f'href="{run.name}/report.html"' in page
    assert "http" not in page.split("<main")[1].split("<script")[0].replace("http://www.w3.org", "")
    assert "Seed 0, image by image" in page
    assert page.count('class="big"') == 1, "one headline"
    assert "the order here may differ" in page
    assert "evaluated the test images 4 times in all" in page


def test_figures_of_a_study_are_the_means_over_its_seeds(finished):
    result = finished.result()
    best = max(result.variants, key=lambda variant: variant.mean("val"))
    figure = finished.figures.against("parameters")
    dot = figure.data[1]
    assert dot.name == f"1  {best.title}"
    assert dot.x[0] == best.parameters
    assert dot.y[0] == pytest.approx(best.mean("test"))
    assert dot.y[0] + dot.error_y.array[0] == pytest.approx(max(best.values["test"]))
    assert "mean over 2 seeds" in figure.layout.yaxis.title.text

    losses = [each.figure("test", "loss") for each in best.finished]
    assert finished.figures.ranking("loss").data[0].x[0] == pytest.approx(np.mean(losses))


def test_figures_of_a_study_lie_in_its_folder(finished):
    names = {path.name for path in (finished.path / "figures").iterdir()}
    stems = {drawing.name for drawing in finished.figures.drawings}
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("png", "svg")}
    assert stems >= {
        "ranking",
        "ranking-loss",
        "cost-parameters",
        "cost-parameters-loss",
        "histories",
    }
    assert 'href="figures/cost-parameters.png"' in (finished.path / "study.html").read_text(
        encoding="utf-8"
    )


@given(st.lists(st.tuples(*[st.floats(-5, 5)] * 2), min_size=2, max_size=8))
def test_of_two_levels_the_error_of_blocks_is_the_paired_t_test(rows):
    values = np.round(np.array(rows), 3)
    differences = values[:, 1] - values[:, 0]
    error = block_error(values)
    assert error is not None
    if differences.std() < 1e-6:
        return
    outside = scipy.stats.ttest_rel(values[:, 1], values[:, 0])
    assert error.p(differences.mean()) == pytest.approx(outside.pvalue, rel=1e-6)
    assert error.interval(differences.mean()) == pytest.approx(
        tuple(outside.confidence_interval(0.95)), rel=1e-6, abs=1e-9
    )


def test_the_error_of_blocks_is_that_of_an_analysis_of_variance():
    import pandas as pd
    import statsmodels.formula.api as smf

    draw = np.random.default_rng(3)
    values = draw.normal(size=(4, 5)) + draw.normal(size=(4, 1)) + np.arange(5) / 3
    frame = pd.DataFrame(
        [(f"b{i}", f"l{j}", values[i, j]) for i in range(4) for j in range(5)],
        columns=["b", "l", "y"],
    )
    fitted = smf.ols("y ~ C(b) + C(l)", frame).fit()
    error = block_error(values)
    assert error is not None
    assert error.df == fitted.df_resid
    for j in range(1, 5):
        difference = values[:, j].mean() - values[:, 0].mean()
        assert difference == pytest.approx(fitted.params[f"C(l)[T.l{j}]"])
        assert error.p(difference) == pytest.approx(fitted.pvalues[f"C(l)[T.l{j}]"])
        assert error.interval(difference) == pytest.approx(
            tuple(fitted.conf_int().loc[f"C(l)[T.l{j}]"])
        )


def test_the_interval_of_an_effect_covers_the_truth_as_often_as_it_says():
    """Seven variants, three seeds: seeds differ, variants differ, and the truth is known."""
    draw, hits = np.random.default_rng(0), 0
    truth = np.array([0, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0])
    for _ in range(4000):
        values = truth + draw.normal(0, 0.5, (3, 1)) + draw.normal(0, 0.3, (3, 7))
        error = block_error(values)
        assert error is not None
        low, high = error.interval(values[:, 4].mean() - values[:, 0].mean())
        hits += low <= 1.0 <= high
    assert 0.94 < hits / 4000 < 0.96


def test_where_contexts_differ_the_error_is_that_of_a_mixed_model():
    import pandas as pd
    import statsmodels.formula.api as smf

    draw = np.random.default_rng(1)
    contexts = [f"c{i}" for i in range(5) for _ in range(4)]
    effect = np.repeat(draw.normal(1, 2, 5), 4)
    values = (
        np.stack([np.zeros(20), effect], axis=1)
        + draw.normal(size=(20, 1))
        + draw.normal(0, 0.5, (20, 2))
    )
    error = block_error(values, contexts)
    assert error is not None
    frame = pd.DataFrame({"difference": values[:, 1] - values[:, 0], "context": contexts})
    fitted = smf.mixedlm("difference ~ 1", frame, groups=frame["context"]).fit(reml=True)
    assert error.standard_error == pytest.approx(fitted.bse["Intercept"], rel=1e-3)
    assert error.df == pytest.approx(4)
    assert error.standard_error > 2 * block_error(values).standard_error  # pyright: ignore[reportOptionalMemberAccess]


def test_contexts_that_agree_change_nothing():
    values = np.array([[0.0, 1.0], [0.1, 1.3], [0.0, 1.2], [0.2, 1.2]])
    assert block_error(values, ["a", "a", "b", "b"]) == block_error(values)
    assert block_error(values, list("abcd")) == block_error(values)
    assert block_error(values, list("aaaa")) == block_error(values)


@pytest.mark.parametrize(("seeds", "part"), [(s, p) for s in (2, 3, 5) for p in (0.05, 0.15)])
def test_the_interval_covers_the_truth_where_an_effect_differs_between_contexts(seeds, part):
    """Three levels in three contexts, whose own effects have `part` of the variance; the true
    difference is zero.
    """
    draw, tries = np.random.default_rng(seeds), 2000
    own = np.sqrt(part) * draw.normal(size=(tries, 3, 1, 3)) + np.sqrt(1 - part) * draw.normal(
        size=(tries, 3, seeds, 3)
    )
    contexts, hits = np.repeat(np.arange(3), seeds).tolist(), 0
    for values in own.reshape(tries, 3 * seeds, 3):
        error = block_error(values, contexts)
        assert error is not None
        difference = float(values[:, 1].mean() - values[:, 0].mean())
        low, high = error.interval(difference)
        hits += low <= 0 <= high
        assert (error.p(difference) < 0.05) == (not low <= 0 <= high)
    tolerance = 3 * np.sqrt(0.05 * 0.95 / tries)
    assert 0.93 - tolerance < hits / tries < 0.97 + tolerance


def variant(
    folder: Path, title: str, parameters: int, right: Mapping[int, np.ndarray]
) -> VariantResult:
    """Return a variant whose run of each seed got these validation images right."""
    finished = []
    for seed, of_seed in right.items():
        path = folder / f"{title}-{seed}"
        path.mkdir()
        rows = "".join(f"val,{i},image{i},a,{'a' if ok else 'b'}\n" for i, ok in enumerate(of_seed))
        (path / "predictions.csv").write_text(
            "split,position,name,target,prediction\n" + rows, encoding="utf-8"
        )
        figures = {
            split: {"accuracy": float(of_seed.mean()), "accuracy_ci95": [0.1, 0.9]}
            for split in ("val", "test")
        }
        evaluation = {"task": "classify", "splits": figures, "verdict": {"word": "fits"}}
        planned = SimpleNamespace(seed=seed, variant=title, levels={"variant": title})
        finished.append(Finished(cast(Any, planned), RunFolder(path), evaluation, {}, {}))
    values = {s: [float(r.mean()) for r in right.values()] for s in ("val", "test")}
    return VariantResult(title, {}, finished, values, parameters, parameters, 1.0, {})


def test_the_simplest_that_validation_cannot_tell_from_the_best_is_chosen(tmp_path):
    draw = np.random.default_rng(0)
    hard = draw.random(2000)

    def right(accuracy: float, seeds: int = 3) -> dict[int, np.ndarray]:
        return {seed: hard + draw.normal(0, 0.02, 2000) < accuracy for seed in range(seeds)}

    large, equal = (
        variant(tmp_path, "large", 900, right(0.901)),
        variant(tmp_path, "equal", 300, right(0.9)),
    )
    poor, huge = (
        variant(tmp_path, "poor", 100, right(0.7)),
        variant(tmp_path, "huge", 9000, right(0.85)),
    )
    found = choose([large, equal, poor, huge], ACCURACY, "test")
    assert found is not None
    assert found.variant == "equal"  # poor is simpler still, and worse
    assert found.best in ("large", "equal")
    best = choose([large, poor, huge], ACCURACY, "test")
    assert best is not None
    assert (best.variant, best.best) == ("large", "large")
    assert "It clearly beats the smaller variant." in best.reason
    assert "Its lead over huge" not in best.reason
    assert choose([large], ACCURACY, "test") is None


def test_of_few_images_nothing_is_claimed(tmp_path):
    few = {0: np.arange(20) < 15}
    fewer = {0: np.arange(20) < 14}
    found = choose(
        [variant(tmp_path, "a", 900, few), variant(tmp_path, "b", 10, fewer)], ACCURACY, "test"
    )
    assert found is not None
    assert (found.variant, found.best) == ("b", "a")
    assert "cannot be distinguished from it" in found.reason


# ---- without a look at the test split -----------------------------------------------------------------------------------


def test_a_run_can_leave_the_test_split_alone(tiny, train_in, tmp_path):
    run = train_in(tmp_path / "run", tiny(measure="val"))
    evaluation = run.read("evaluation.json")
    assert set(evaluation["splits"]) == {"train", "val"}
    assert evaluation["test_looks"] == {"run": 0, "data": 0}
    assert not (tmp_path / ".test-looks.json").exists()
    assert not (run.path / "predictions.csv").exists()
    looked = tintype.load(str(run.path)).evaluate()
    assert looked["split"] == "test"
    assert run.read("evaluation.json")["test_looks"] == {"run": 1, "data": 1}


def test_it_is_told_when_runs_have_other_test_images(finished, tmp_path):
    def remarks(of: Study) -> str:
        return " ".join(of.result().remarks)  # pyright: ignore[reportOptionalMemberAccess]

    assert "same images" not in remarks(finished)
    other = Study(Path(shutil.copytree(finished.path, tmp_path / "other")), finished.declaration)
    splits = other.path / other.planned[0].name / "splits.csv"
    splits.write_text(
        splits.read_text(encoding="utf-8").replace(",test", ",val", 1), encoding="utf-8"
    )
    assert "Not all runs were measured on the same images" in remarks(other)


@pytest.mark.parametrize("values", [[1 / 9] * 3, [1 / 9, 0.112], [0.5, 0.9], [0.892, 0.914, 0.932]])
def test_marks_of_the_scale_are_told_exactly(values):
    measure = Criterion("accuracy", "accuracy", "points", scale=100.0, digits=1)
    variants: Any = [
        SimpleNamespace(title="", values={"test": [v]}, mean=lambda _, v=v: v) for v in values
    ]
    found = _strip(variants, "test", measure)
    labels = [label for _, label in found["ticks"]]
    assert 2 <= len(labels) <= 7
    assert len("".join(labels)) <= 16
    steps = np.diff([float(label) for label in labels])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert all(0 <= row["mean"] <= 100 for row in found["rows"])
