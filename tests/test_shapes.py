"""Files of a run that hold something else than tintype writes: each command ends with 0, or with 2
and one clear line.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tintype import tracking
from tintype.errors import UserError
from tintype.pages import print_figures
from tintype.runs import reading as folder
from tintype.runs import shapes
from tintype.runs.folder import RunFolder
from tintype.verbs.board import Board
from tintype.verbs.serve import loading
from tintype.verbs.study import Study, declare
from tintype.verbs.tune.folder import TuningRequest

Say = Callable[..., tuple[int, str, str]]
VALUES = [
    None, True, 0, -1, 5, 1e308, -0.5, 10**60, "x", "", [], {}, [None], ["a", "b"], {"a": 1}, [[1]], [1, 2, 3],
    {"a": {"b": []}}, float("nan"),
]  # fmt: skip
CELLS = ["", "x", "nan", "inf", "-1", "1e999", "9" * 50, '"', "é"]
KINDS = ("digits", "cnn", "gan", "sharp")


def places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value of a nest; of a long list to the first twelve and the
    last.
    """
    yield at
    items = content.items() if isinstance(content, dict) else []
    if isinstance(content, list):
        items = [pair for pair in enumerate(content) if pair[0] < 12 or pair[0] == len(content) - 1]
    for key, value in items:
        yield from places(value, (*at, key))


def changed(content: Any, chance: random.Random) -> tuple[Any, str]:
    """Return JSON or YAML with one value deleted, exchanged, nested, or of another length, and what
    was done.
    """
    content = copy.deepcopy(content)
    depth = chance.choice([1, 1, 2, 2, 3, 4, 9])
    near = [place for place in places(content) if 0 < len(place) <= depth]
    if not near or chance.random() < 0.03:
        return chance.choice(VALUES), "all of it"

    *way, last = chance.choice(near)
    parent = content
    for key in way:
        parent = parent[key]
    old, kind = parent[last], chance.choice(["delete", "value", "value", "nest", "length"])
    if kind == "delete":
        del parent[last]
    elif kind == "nest":
        parent[last] = chance.choice([[old], {"a": old}])
    elif kind == "length" and isinstance(old, str | list):
        parent[last] = chance.choice([old[:-1], old + old, old[:1]])
    else:
        parent[last] = chance.choice(VALUES)
    return content, f"{kind} {'.'.join(map(str, (*way, last)))}"


def changed_table(text: str, chance: random.Random) -> tuple[str, str]:
    """Return CSV with a cell or a line that is wrong, and what was done."""
    rows = list(csv.reader(io.StringIO(text)))
    number = chance.choice([0, 1, len(rows) - 1, chance.randrange(len(rows))]) % len(rows)
    row, kind = (
        rows[number],
        chance.choice(["line", "cell", "cells", "exchange", "exchange", "NUL"]),
    )
    column = chance.randrange(len(row))
    if kind == "line":
        del rows[number]
    elif kind == "cell":
        del row[column]
    elif kind == "cells":
        row.append(row[column])
    else:
        row[column] = "\0" if kind == "NUL" else chance.choice(CELLS)
    return "\n".join(map(",".join, rows)), f"{kind} in line {number}"


def damage(file: Path, chance: random.Random) -> str:
    """Change a file of a run, and return what was done."""
    text = file.read_text(encoding="utf-8")
    if chance.random() < 0.05:
        new, what = text[: chance.randrange(len(text) + 1)], "cut off"
    elif file.suffix == ".json":
        content, what = changed(json.loads(text), chance)
        new = json.dumps(content)
    elif file.suffix == ".yaml":
        content, what = changed(yaml.safe_load(text), chance)
        new = yaml.safe_dump(content, sort_keys=False)
    else:
        new, what = changed_table(text, chance)
    file.write_text(new, encoding="utf-8")
    return what


def commands(kind: str, run: Path, other: Path, beside: Path) -> list[tuple[Any, ...]]:
    """Return what is done with a damaged run, without what needs seconds."""
    of_kind = {
        "gan": ("generate", run, "--count", 2, "--out", beside / "made"),
        "sharp": ("upscale", run, beside / "photo.png", "--out", beside / "large"),
    }
    return [
        ("report", run),
        ("card", run),
        ("pack", run, "--out", beside / "packed.zip"),
        ("list", "runs", "--out", run.parent),
        ("compare", run, other, "--no-latency"),
        ("evaluate", run, "--split", "val"),
        of_kind.get(kind, ("predict", run, beside / "photo.png")),
    ]


@pytest.fixture
def bare_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the rendering of static figures, which takes longer than everything else; their
    axes are still filled.
    """
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    monkeypatch.setattr(print_figures, "png", lambda figure: buffer.getvalue())


def try_damages(kinds: dict[str, Any], folder: Path, say: Say, seed: int, count: int) -> None:
    chance = random.Random(seed)
    for number in range(count):
        kind, beside = chance.choice(KINDS), folder / str(number)
        run, other = beside / "runs" / kind, kinds[kind].path
        shutil.copytree(other, run, ignore=shutil.ignore_patterns("figures", "report.html"))
        Image.effect_noise((24, 24), 50).save(beside / "photo.png")
        files = sorted(p for p in run.rglob("*") if p.suffix in (".json", ".yaml", ".csv"))
        file = chance.choice(files)
        what = damage(file, chance)

        command = chance.choice(commands(kind, run, other, beside))
        code, output, errors = say(*command)
        told = f"seed {seed}, {number}: {command[0]} after {what} of {file.relative_to(run)} of {kind}:\n{output}{errors}"
        assert code in (0, 2), told
        assert "Traceback" not in errors, told
        assert code == 0 or 1 <= len(errors.strip().splitlines()) <= 3, told
        json.dumps(Board(run.parent).state(), allow_nan=False)
        try:
            loading.load("it", run)
        except UserError as error:
            errors = str(error)
        assert len(errors.splitlines()) <= 3, told
        shutil.rmtree(beside)


def test_whatever_a_file_of_a_run_holds_ends_in_a_line(kinds, tmp_path, say, bare_figures):
    try_damages(kinds, tmp_path, say, seed=1, count=25)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 22))
def test_whatever_a_file_of_a_run_holds_ends_in_a_line_many_times(
    kinds, tmp_path, say, bare_figures, seed
):
    try_damages(kinds, tmp_path, say, seed=seed, count=150)


# ---- what is said -----------------------------------------------------------------------------------------------------


def edit(file: Path, way: str, value: Any) -> None:
    """Exchange a value in a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    *keys, last = way.split(".")
    parent = content
    for key in keys:
        parent = parent[int(key) if isinstance(parent, list) else key]
    parent[int(last) if isinstance(parent, list) else last] = value
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "way", "value", "command", "said"),
    [
        (
            "model.json",
            "class_names",
            5,
            "predict",
            "model.json is broken (class_names: expected a list, found 5)",
        ),
        (
            "model.json",
            "preprocessing.mean",
            [0.5, 0.5],
            "predict",
            "mean and std need 1 values each",
        ),
        ("model.json", "architecture.options", {"hidden": [10**9]}, "predict", "is out of bounds"),
        (
            "model.json",
            "architecture.options",
            {"hidden": [90_000] * 3},
            "predict",
            "far more than model.safetensors",
        ),
        (
            "model.json",
            "temperature",
            -1,
            "predict",
            "temperature: expected greater than 0, found -1",
        ),
        (
            "evaluation.json",
            "splits.test.accuracy",
            "high",
            "card",
            "accuracy: expected a number, found 'high'",
        ),
        ("evaluation.json", "splits.test.accuracy_ci95", [0.5], "card", "accuracy_ci95: "),
        ("evaluation.json", "verdict", [], "card", "verdict: expected a mapping, found []"),
        ("data.json", "num_images", None, "card", "num_images: expected a mapping, found None"),
    ],
)
def test_a_value_of_another_kind_is_told_by_its_place(
    copied_run, digit_files, say, file, way, value, command, said
):
    edit(copied_run.path / file, way, value)
    code, _, errors = say(
        command, copied_run.path, *([digit_files / "1"] if command == "predict" else [])
    )
    assert code == 2
    assert said in errors
    assert str(copied_run.path / file) in errors


def test_a_page_leaves_out_what_is_damaged_and_says_so(copied_run, say, bare_figures):
    edit(copied_run.path / "analysis.json", "slices.attributes", "many")
    edit(copied_run.path / "evaluation.json", "per_class", {"test": [{}]})
    edit(copied_run.path / "environment.json", "choices", 3)
    assert say("report", copied_run.path)[0] == 0
    page = (copied_run.path / "report.html").read_text(encoding="utf-8")
    assert (
        "analysis.json: slices.attributes is left out: slices.attributes: expected a list" in page
    )
    assert "environment.json: choices is left out: choices: expected a list, found 3" in page
    assert 'id="confusion"' in page
    assert 'id="slices"' not in page


@pytest.mark.parametrize("kind", KINDS)
def test_what_tintype_writes_fits(kinds, kind):
    """Otherwise a page would leave out parts of a run that is whole."""
    run = RunFolder(kinds[kind].path)
    for file in [*run.path.glob("*.json"), *run.path.glob("samples/samples.json")]:
        if file.name in {*shapes.SHAPES, "analysis.json"}:
            shapes.check(
                file,
                json.loads(file.read_text(encoding="utf-8")),
                complete=True,
                task=run.recipe.task,
            )
    assert folder.read_run(run.path).problems == ()


def test_threads_are_read_within_the_bounds_of_json(copied_run):
    (copied_run.path / "environment.json").write_text(
        '{"threads": ' + "[" * 100_000, encoding="utf-8"
    )
    recipe = copied_run.path / "recipe.yaml"
    lines = [
        line
        for line in recipe.read_text(encoding="utf-8").splitlines()
        if not line.startswith("threads")
    ]
    recipe.write_text("\n".join(lines), encoding="utf-8")
    assert copied_run.recipe.threads == "auto"


@pytest.mark.parametrize(
    "runs",
    [
        3, [], {"one-seed0": 3}, {"one-seed0": {"state": 5}}, {"one-seed0": {"state": "failed"}},
        {"one-seed0": {"state": "failed", "message": [1], "recipe": "all"}}, {"other": None},
    ],
)  # fmt: skip
def test_a_damaged_record_of_a_study_takes_no_run_with_it(tmp_path, runs):
    declaration = declare({"recipe": {"data": "digits", "model": "ann", "epochs": 1}})
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "study.yaml").write_text(declaration.to_yaml(), encoding="utf-8")
    (tmp_path / "one" / "study.json").write_text(json.dumps({"runs": runs}), encoding="utf-8")
    found = Study.open(tmp_path / "one")
    assert len(found.waiting()) == len(found.planned) > 0
    assert all(isinstance(message, str) for message in found.failures().values())
    found.note(found.planned[0], "failed", message="no disk", seconds=1.0)
    assert Study.open(tmp_path / "one").failures() == {found.planned[0].name: "no disk"}


@pytest.mark.parametrize("key", ["recipe", "search", "score", "higher_is_better", "shared"])
@pytest.mark.parametrize("value", [None, [], {"a": [[1]]}, 7, "x"])
def test_a_damaged_wish_of_a_tuning_is_one_line(tmp_path, key, value):
    content = {
        "recipe": {"data": "digits", "model": "ann"}, "search": {"lr": {"low": 0.001, "high": 0.1}}, "score": "accuracy",
        "higher_is_better": True, "shared": False,
    }  # fmt: skip
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump({**content, key: value}), encoding="utf-8")
    try:
        TuningRequest.read(tmp_path / "tune.yaml")
    except UserError as error:
        told = str(error)
    else:
        told = ""
    assert len(told.splitlines()) <= 2


def test_a_damaged_record_of_trackers_is_begun_again(tmp_path):
    for content in (
        "3",
        "[]",
        '{"tensorboard": 3}',
        '{"tensorboard": {"id": "a", "step": "many"}}',
    ):
        (tmp_path / "tracking.json").write_text(content, encoding="utf-8")
        assert tracking._read_record(RunFolder(tmp_path)).get("tensorboard", {}).get("step") is None


def test_a_comparison_names_the_column_that_is_broken(finished_run, copied_run, say):
    file = copied_run.path / "predictions.csv"
    rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
    place = rows[0].index("confidence")
    for cells, said in (
        ({0: "sure"}, "it has no column confidence"),
        ({-1: "sure"}, "column confidence: could not"),
    ):
        broken = copy.deepcopy(rows)
        for number, cell in cells.items():
            broken[number][place] = cell
        file.write_text("\n".join(map(",".join, broken)), encoding="utf-8")
        code, _, errors = say("compare", copied_run.path, finished_run.path, "--no-latency")
        assert code == 2
        assert said in errors
