"""The benchmark of the published systems: its cells exist, and its table is written twice without a
change.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tintype
from tintype.plugins import study_names
from tintype.recipe import recipe_names

pytestmark = pytest.mark.usefixtures("short_pages")

FOLDERS = {"train": "recipes", "study": "studies"}
SCRIPT = Path(__file__).parent.parent / "benchmarks" / "reference.py"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def table(tmp_path, reference) -> Path:
    path = tmp_path / "results.md"
    path.write_text(f"# Before\n\n{reference.BEGIN}\n{reference.END}\n\nAfter.\n", encoding="utf-8")
    return path


def record(cell, figure: str = "98.00 % (97.71 to 98.26)", quick: bool = False) -> dict:
    row = {
        "label": "", "figure": figure, "seconds": 61.4, "processor": "a processor", "arithmetic": "fp32, 1 thread",
        "beside_other_work": True,
    }  # fmt: skip
    return {"cell": cell.key, "command": cell.command(), "quick": quick, "rows": [row]}


def test_every_system_has_cells_of_recipes_and_studies_that_exist(reference):
    every = reference.cells()
    assert {cell.system for cell in every} == set(reference.SOURCES)
    assert len({cell.key for cell in every}) == len(every)
    known = {"train": set(recipe_names()), "study": set(study_names())}
    for cell in every:
        if cell.verb != "elsewhere":
            assert cell.what in known[cell.verb], cell.key

    described = {cell.system for cell in every if cell.ours.startswith("as described")}
    assert described == set(reference.SOURCES) - {"R8"}, "the photos of R8 are not public"


def test_list_names_each_cell_and_trains_nothing(reference, tmp_path):
    command = [
        sys.executable,
        str(SCRIPT),
        "--list",
        "--only",
        "R4,R11-inception",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    named = [line.split()[0] for line in done.stdout.splitlines()[:-1]]
    assert named == ["R4-small-filters", "R4-small-filters-plus", "R4-open-points", "R11-inception"]
    assert "--inception-weights download" in done.stdout
    assert not (tmp_path / "out").exists()

    with pytest.raises(SystemExit, match="R13: neither a system"):
        reference.chosen(reference.cells(), "R13")


def test_the_table_is_idempotent_and_says_what_is_not_measured(reference, table):
    every = reference.cells()
    reference.write_table(table, every, {})
    empty = table.read_text(encoding="utf-8")
    assert empty.startswith("# Before\n")
    assert empty.endswith("\n\nAfter.\n")
    assert empty.count("| not measured |") == len(
        [cell for cell in every if cell.verb != "elsewhere"]
    )

    records = {every[0].key: record(every[0])}
    reference.write_table(table, every, records)
    once = table.read_text(encoding="utf-8")
    assert (
        "| 98.00 % (97.71 to 98.26) | 61, beside other work | a processor, fp32, 1 thread |" in once
    )
    reference.write_table(table, every, records)
    assert table.read_text(encoding="utf-8") == once


def test_what_was_measured_elsewhere_stays_until_its_command_changes(reference, table):
    every = reference.cells()
    cell = every[0]
    reference.write_table(table, every, {cell.key: record(cell)})
    measured = table.read_text(encoding="utf-8")
    for records in ({}, {cell.key: record(cell, quick=True)}):
        reference.write_table(table, every, records)
        assert table.read_text(encoding="utf-8") == measured

    table.write_text(
        measured.replace("train mnist-ann", "train mnist-ann --lr 0.1"), encoding="utf-8"
    )
    reference.write_table(table, every, {})
    assert "98.00 %" not in table.read_text(encoding="utf-8")


def test_a_page_without_the_marks_is_left_alone(reference, tmp_path):
    path = tmp_path / "page.md"
    for text in (None, "no marks", f"{reference.END}{reference.BEGIN}"):
        if text is not None:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit, match="has to hold the lines"):
            reference.write_table(path, reference.cells(), {})
        assert text is None or path.read_text(encoding="utf-8") == text


def test_a_quick_cell_gives_no_figure(reference, table):
    every = reference.cells()
    reference.write_table(
        table, every, {every[0].key: record(every[0], figure="11.00 %", quick=True)}
    )
    text = table.read_text(encoding="utf-8")
    assert "11.00 %" not in text
    assert "not measured; runs (2 steps)" in text


def test_the_published_page_holds_a_row_of_each_cell(reference):
    text = reference.TABLE.read_text(encoding="utf-8")
    for cell in reference.cells():
        assert f"\n| `{cell.key}` |" in text
        assert f"`{cell.command()}` |\n" in text


def test_a_head_states_the_figure_of_the_published_table(reference):
    page = reference.TABLE.read_text(encoding="utf-8")
    for cell in reference.cells():
        if cell.verb == "elsewhere":
            continue
        rows = [line for line in page.splitlines() if line.startswith(f"| `{cell.key}` |")]
        figures = [row.split("|")[5] for row in rows]
        if reference.NOT_MEASURED in figures[0]:
            continue

        file = Path(tintype.__file__).parent.joinpath(FOLDERS[cell.verb], f"{cell.what}.yaml")
        lines = file.read_text(encoding="utf-8").splitlines()
        head = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
        if cell.ours.startswith("as described") and " %" in figures[0]:
            accuracies = [each.split()[0] for each in figures if " %" in each]
            assert [each for each in accuracies if each not in head] == [], cell.key
        assert "not measured" not in head.lower(), cell.key


def test_a_study_gives_a_row_for_each_variant_and_each_effect(reference, tmp_path):
    runs = []
    for variant, seed, accuracy in (
        ("plain", 0, 0.30),
        ("plain", 1, 0.32),
        ("swish", 0, 0.33),
        ("swish", 1, 0.35),
    ):
        name = f"{variant}-seed{seed}"
        runs.append({"run": name, "variant": variant, "test_accuracy": accuracy})
        (tmp_path / name).mkdir()
        environment = {
            "threads": 2, "training_seconds": 10.0 + seed, "cpu": "a processor", "device": "cpu", "precision": "fp32",
            "tintype": "0.1.0",
        }  # fmt: skip
        measured = {
            "accuracy": accuracy,
            "accuracy_ci95": [accuracy - 0.01, accuracy + 0.01],
            "loss": 2.5,
        }
        evaluation = {"splits": {"train": measured, "test": measured}}
        (tmp_path / name / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
        (tmp_path / name / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    effect = {
        "level": "swish",
        "reference": "plain",
        "estimate": 0.03,
        "ci95": [0.01, 0.05],
        "confounding": None,
    }

    rows = reference.rows_of_study(
        {"measure": "accuracy", "runs": runs, "effects": [effect]}, tmp_path
    )
    assert [row["label"] for row in rows] == ["plain", "swish", "swish against plain"]
    # Student's quantile with one degree of freedom is 12.706, the standard error one point
    assert rows[0]["figure"] == "31 % (18.29 to 43.71), mean of 2 seeds"
    assert rows[0]["seconds"] == 10.5
    assert rows[0]["arithmetic"] == "fp32, 2 threads"
    assert rows[2]["figure"] == "+3 points (+1 to +5)"

    confounded = reference.effect_figure(
        effect | {"confounding": {"differences": ["lr", "model"]}}, True
    )
    assert confounded == "+3 points (+1 to +5), the sum of several differences"


def test_a_cell_that_lacks_something_says_what(reference, table, tmp_path, monkeypatch, capsys):
    begin = ["reference.py", "--out", str(tmp_path / "out"), "--table", str(table), "--only"]
    for more, said in (
        (["R1-mnist-ann"], "it needs --data-root"),
        (["R9-garbage-tuned", "--data-root", str(tmp_path)], "with mobilenet_v2.safetensors"),
        (["R8-vgg16", "--data-root", str(tmp_path)], "it needs pets/BREED"),
        (["R10-mnist-gan", "--data-root", str(tmp_path)], "run that cell first"),
    ):
        monkeypatch.setattr(sys, "argv", begin + more)
        with pytest.raises(SystemExit) as ended:
            reference.main()
        assert ended.value.code == 1
        assert said in capsys.readouterr().out


@pytest.mark.slow
def test_a_cell_is_run_kept_and_not_run_again(reference, table, tmp_path, monkeypatch):
    cell = reference.Cell("R1-mnist-ann", "as described", "train", "digits-ann")
    monkeypatch.setattr(reference, "cells", lambda steps: [cell])
    begin = [
        "reference.py",
        "--data-root",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--table",
        str(table),
    ]
    monkeypatch.setattr(sys, "argv", [*begin, "--quick"])
    with pytest.raises(SystemExit) as ended:
        reference.main()
    assert ended.value.code == 0
    kept = tmp_path / "out" / "quick" / "cells" / "R1-mnist-ann.json"
    content = json.loads(kept.read_text(encoding="utf-8"))
    assert content["quick"]
    assert "% (" in content["rows"][0]["figure"]
    assert "runs (2 steps)" in table.read_text(encoding="utf-8")

    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: pytest.fail("a finished cell was run again")
    )
    with pytest.raises(SystemExit) as again:
        reference.main()
    assert again.value.code == 0
