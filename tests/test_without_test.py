"""Runs on data without a test part: all photos train, and what is measured is called what it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from tintype import api
from tintype.data.source import DataSpec
from tintype.data.split import three_splits
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model
from tintype.progress import Watcher
from tintype.verbs.tune import tune

CALLED = "alidation accuracy, on photos that chose the model"
FIELDS = {
    "model": "ann",
    "model_options": {"hidden": [16]},
    "epochs": 2,
    "batch_size": 20,
    "lr": 0.01,
    "device": "cpu",
}
SET = (
    "--model",
    "ann",
    "--epochs",
    "2",
    "--lr",
    "0.01",
    "--set",
    "model.hidden=[16]",
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def train_and_val(tmp_path_factory, digit_files) -> Path:
    """A folder of three digits in train/ (nine of each) and val/ (three of each)."""
    root = tmp_path_factory.mktemp("data") / "three"
    for digit in "013":
        for number, photo in enumerate(sorted((digit_files / digit).iterdir())):
            split = "val" if number < 3 else "train"
            (root / split / digit).mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, root / split / digit)
    return root


@pytest.fixture(scope="module")
def untested(tmp_path_factory, train_and_val) -> list[api.Run]:
    """Two runs without a test part, of two seeds. Tests must not change them."""
    out = tmp_path_factory.mktemp("runs")
    return [
        api.train(
            str(train_and_val),
            out=out,
            name=f"seed-{seed}",
            test_fraction=0,
            seed=seed,
            watcher=Watcher(),
            **FIELDS,
        )
        for seed in (0, 1)
    ]


def only_called_what_it_is(text: str) -> None:
    """Assert that a text has the whole name once, and speaks of no other accuracy, and of no figure
    of a test.
    """
    plain = " ".join(text.split())
    assert CALLED in plain
    for found in re.finditer("accuracy", plain, re.IGNORECASE):
        before = plain[: found.start()].lower()
        assert (
            before.endswith(("validation ", "val_"))
            or "accuracy minus validation" in plain[found.start() :][:40]
        ), plain[max(0, found.start() - 60) : found.end() + 20]
    assert not re.search(
        r"[Tt]est (set has|accuracy|images (were|show))|on test\b|test_accuracy", plain
    )


def test_no_test_part_is_cut_where_none_is_wanted():
    targets, names = np.repeat([0, 1], 20), [f"{i}" for i in range(40)]
    rows = three_splits(targets, names, val_fraction=0.1, test_fraction=0, seed=0)
    assert [len(rows[split]) for split in ("train", "val", "test")] == [36, 4, 0]
    given = np.array(["val"] * 5 + ["train"] * 35)
    rows = three_splits(targets, names, given, val_fraction=0.1, test_fraction=0, seed=0)
    assert [len(rows[split]) for split in ("train", "val", "test")] == [35, 5, 0]


def test_the_line_on_a_test_part_names_ways_out_that_work(tt, train_and_val):
    code, output, errors = tt("train", train_and_val, *SET, "--dry-run")
    assert code == 0
    line = next(line for line in (output + errors).splitlines() if line.strip().startswith("test:"))
    assert "20 % of training" in line
    assert "test/ beside train/ and val/" in line
    ways = re.findall(r"--test [\w.]*\w", line)
    assert ways == ["--test 0.1", "--test none"]
    for way, left in zip(ways, (3, 0), strict=True):
        code, output, errors = tt("train", train_and_val, *SET, *way.split(), "--dry-run", "--json")
        assert code == 0, errors
        counts = json.loads(output)["data"]["num_images"]
        assert counts == {"train": 27 - left, "val": 9, "test": left}


def test_a_run_without_a_test_part_says_what_its_figure_is(tt, train_and_val, short_reports):
    code, output, errors = tt("train", train_and_val, *SET, "--test", "none", "--name", "none")
    assert code == 0, errors
    assert "train 27, val 9, test none" in output + errors
    only_called_what_it_is(output)

    code, output, errors = tt("evaluate", "runs/none")
    assert code == 0, errors
    only_called_what_it_is(output)
    code, _, errors = tt("evaluate", "runs/none", "--split", "test")
    assert (code, "Type: --split val" in errors) == (2, True)


def test_the_report_and_the_card_say_what_the_figure_is(untested):
    run = untested[0]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL))
    only_called_what_it_is(text)

    card = str(run.card("-"))
    # the hub's name for the kind of figure
    only_called_what_it_is(card.replace("type: accuracy", ""))


def test_the_list_and_a_comparison_say_what_the_figures_are(tt, untested):
    folder = untested[0].path.parent
    code, output, _ = tt("list", "runs", "--out", folder)
    assert code == 0
    assert output.count(CALLED) == 2
    only_called_what_it_is(output)

    code, output, errors = tt("compare", *(run.path for run in untested), "--html", "page.html")
    assert code == 0, errors
    only_called_what_it_is(output)
    assert CALLED in Path("page.html").read_text(encoding="utf-8")


def test_a_test_part_that_the_data_brings_stays(tmp_path, train_and_val):
    shutil.copytree(train_and_val, tmp_path / "data")
    shutil.copytree(train_and_val / "val", tmp_path / "data" / "test")
    for digit in (tmp_path / "data" / "test").iterdir():
        for photo in digit.iterdir():
            photo.rename(photo.with_stem(f"test-{photo.stem}"))
    prepared = api.plan(str(tmp_path / "data"), test_fraction="none", watcher=Watcher(), **FIELDS)
    assert len(prepared.splits.test) == 9
    assert any(
        "changes nothing, since the data brings a test part" in note
        for note in prepared.splits.notes
    )


def test_a_head_is_trained_without_a_test_part(tmp_path, train_and_val):
    spec = DataSpec(
        "", 3, 32, 32, Classes(tuple(map(str, range(1000)))), (0.5,) * 3, (0.25,) * 3, ""
    )
    weights = tmp_path / "mobilenet_v3_small.safetensors"
    save_file(build_model("mobilenet_v3_small", spec, {}, seed=1).state_dict(), weights)
    run = api.train(
        str(train_and_val), out=tmp_path, name="run", watcher=Watcher(), test_fraction=0, weights=str(weights), tune="head",
        image_size=32, epochs=1, views=0, device="cpu",
    )  # fmt: skip
    assert set(run.metrics) == {"train", "val"}
    assert len(list((train_and_val / "val").rglob("*.png"))) == run.metrics["val"]["num_images"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: api.plan("digits-gan", test_fraction=0, watcher=Watcher()),
            "task generate cannot do without a test part",
        ),
        (
            lambda: tune("digits", trials=1, test_fraction=0),
            "a tuning ends with its winner's figures on the test part",
        ),
        (lambda: api.plan("digits", val_fraction=0, watcher=Watcher()), "val_fraction"),
        (lambda: api.plan("digits", test_fraction=-1, watcher=Watcher()), "test_fraction"),
    ],
)
def test_what_needs_a_test_part_says_so(call: Callable[[], object], message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call()
