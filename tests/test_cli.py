"""The command line from end to end: what it prints, what it writes, its exit codes."""

from __future__ import annotations

import csv
import importlib
import json
import os
import pkgutil
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

import tintype
from tintype import api, cli, plugins
from tintype.progress import epochs
from tintype.recipe import Recipe, read_recipe, recipe_names, recipe_source

pytestmark = pytest.mark.usefixtures("short_pages")

TINY = shlex.split(
    "train digits-ann --set model.hidden=[16] --epochs 2 --batch-size 100 --lr 0.01 --precision fp32 --device cpu"
)


# ---- the start --------------------------------------------------------------------------------------------------------


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        encoding="utf-8",
    )


# Typer itself takes pydantic when it reads arguments; importing tintype does not.
HEAVY = (
    "torch",
    "numpy",
    "sklearn",
    "scipy",
    "plotly",
    "matplotlib",
    "PIL",
    "pandas",
    "torchvision",
)


@pytest.mark.parametrize(
    "start",
    [
        "import tintype, tintype.cli; dir(tintype); assert 'pydantic' not in sys.modules",
        "from tintype.cli import main; main(['--help'])",
        "from tintype.cli import main; main(['train', '--help'])",
        "from tintype.cli import main; main(['list', 'models', '--json'])",
        "from tintype.cli import main; main(['list', 'data', '--json'])",
        "from tintype.cli import main; main(['list', 'augmentations', '--json'])",
    ],
)
def test_nothing_heavy_is_imported_at_the_start(start):
    imported = f"print(sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr)"
    script = f"import sys\ntry:\n  {start}\nexcept SystemExit: pass\n{imported}"
    done = python("-c", script)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


# Runs a command, and prints whether a module was imported by its end. The command ends the process.
IMPORTED = """
import atexit, sys
from tintype.cli import main
module, *command = sys.argv[1:]
atexit.register(lambda: print(f"{module}: {module in sys.modules}"))
main(command)
"""


def test_a_prediction_imports_no_algebra(finished_run, digit_files):
    """PyTorch imports SymPy, which takes half a second, for tensors without values."""
    photo = next(digit_files.rglob("*.png"))
    done = python("-c", IMPORTED, "sympy", "predict", str(finished_run.path), str(photo))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("sympy: False\n")


def test_training_a_network_of_torchvision_imports_no_compiler(digit_files, tmp_path):
    """Importing torchvision as it comes imports PyTorch's compiler, which takes two seconds."""
    done = python(
        "-c", IMPORTED, "torch._dynamo", "train", str(digit_files), "--model", "mobilenet_v2", "--weights", "none",
        "--steps", "2", "--batch-size", "4", "--image-size", "32", "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("torch._dynamo: False\n")


def test_the_compiler_comes_when_an_operation_of_torchvision_asks_for_it():
    script = (
        "import sys, torch\n"
        "from tintype.hardware.vision import torchvision\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "asked = torchvision.ops.roi_align.__globals__['is_compile_supported']\n"
        "from torch._dynamo.utils import is_compile_supported\n"
        "assert asked('cpu') == is_compile_supported('cpu')\n"
        "assert torch.compile(torch.neg, backend='eager')(torch.ones(1)) == -1"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr


def test_as_a_module_and_as_a_shell_completes():
    done = python("-m", "tintype", "--version")
    assert (done.returncode, done.stdout) == (0, f"tintype {tintype.__version__}\n")
    script = "from tintype.cli import main; main()"
    completed = python(
        "-c", script, _TINTYPE_COMPLETE="complete_bash", COMP_WORDS="tintype ", COMP_CWORD="1",
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )  # fmt: skip
    assert {"train", "evaluate", "predict", "report", "list", "doctor"} <= set(
        completed.stdout.split()
    )


def test_help_names_every_command_and_option(tt):
    code, output, _ = tt("--help")
    assert code == 0
    for command in ("train", "evaluate", "predict", "report", "list", "doctor", "cache"):
        assert f" {command} " in output
        assert tt(command, "--help")[0] == 0
    options = shlex.split(
        """
        --data --model --epochs --steps --batch-size --lr --image-size --augment --seed --device --precision --name
        --out --resume --dry-run --json --set
        """
    )
    train = typer.main.get_command(cli.app).commands["train"]  # pyright: ignore[reportAttributeAccessIssue]
    assert set(options) <= {option for parameter in train.params for option in parameter.opts}


def test_without_a_command_it_shows_the_help(tt):
    code, output, errors = tt()
    assert code in (0, 2)
    assert "Usage: tintype" in output + errors


# ---- list -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("recipes", recipe_names()),
        ("models", plugins.names("models")),
        ("data", plugins.names("data")),
        ("augmentations", plugins.augmentation_names()),
    ],
)
def test_lists_name_everything_with_a_description(tt, what, names):
    code, output, _ = tt("list", what, "--json")
    rows = json.loads(output)
    assert code == 0
    assert {row["name"]: row["description"] for row in rows} == names
    assert all(len(description) > 10 for description in names.values())
    code, output, _ = tt("list", what)
    assert code == 0
    assert all(name in output for name in names)


def test_recipes_are_listed_by_task_in_whole_sentences_with_their_sources(tt):
    _, output, _ = tt("list", "recipes")
    tasks = [
        output.index(heading)
        for heading in ("Classification\n", "Generation\n", "Super-resolution\n")
    ]
    places = [output.index(name) for name in ("cifar10-fast ", "mnist-flow ", "pets-x2 ")]
    assert [*sorted([*tasks, *places])] == [
        place for pair in zip(tasks, places, strict=True) for place in pair
    ]
    sources = {recipe_source(name) for name in recipe_names()} - {""}
    assert len(sources) == 12
    for source in sources:
        assert re.search(rf"^\S+, rebuilt from {source}$", output, re.MULTILINE)
    assert output.index("mnist-flow ") < output.index("rebuilt from a published DCGAN")
    assert not re.search(r"\bR\d+\b", output), "a number that nobody outside could look up"
    assert all(text.endswith(".") for text in recipe_names().values())


@pytest.mark.machines
def test_list_runs(tt, finished_run):
    code, output, _ = tt("list", "runs", "--out", finished_run.path.parent, "--json")
    assert code == 0
    (row,) = json.loads(output)
    assert (row["name"], row["state"], row["model"], row["data"]) == (
        "digits",
        "finished",
        "ann",
        "digits",
    )
    assert row["test_accuracy"] == finished_run.metrics["test"]["accuracy"]
    assert "digits" in tt("list", "runs", "--out", finished_run.path.parent)[1]
    assert tt("list", "runs") == (0, "There are no runs in runs.\n", "")
    assert tt("list", "runs", "--json")[:2] == (0, "[]\n")


def test_list_runs_shows_a_run_that_never_started_and_passes_over_a_broken_one(
    tt, copied_run, tmp_path
):
    for name, text in (("begun", "model: ann"), ("broken", "modle: ann")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "begun" / "status.json").write_text("{", encoding="utf-8")
    code, output, errors = tt("list", "runs", "--out", tmp_path, "--json")
    assert code == 0
    assert {row["name"]: row["state"] for row in json.loads(output)} == {
        "copied": "finished",
        "begun": "empty",
    }
    assert "passed over" in errors
    assert "modle" in errors


# ---- train ------------------------------------------------------------------------------------------------------------


def test_dry_run_prints_the_plan_and_writes_nothing(tt, tmp_path):
    code, output, _ = tt(*TINY, "--dry-run", "--json")
    plan = json.loads(output)
    assert code == 0
    assert {"parameters", "multiply_adds", "recipe", "data"} <= set(plan)
    assert plan["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert plan["multiply_adds"] == 64 * 16 + 16 * 10
    assert Recipe(**plan["recipe"]).lr == 0.01
    assert plan["recipe"]["model_options"] == {"hidden": [16]}
    assert (plan["data"]["channels"], plan["data"]["height"], plan["data"]["width"]) == (1, 8, 8)
    assert sum(plan["data"]["num_images"].values()) == 1797
    assert {choice["name"] for choice in plan["choices"]} >= {
        "device",
        "precision",
        "compile",
        "memory",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"), [("taken", "is there already, and nothing is overwritten"), ("a/b", "name")]
)
def test_dry_run_refuses_the_name_that_a_run_would_refuse(tt, tmp_path, name, said):
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "recipe.yaml").write_text("data: digits\n", encoding="utf-8")
    planned = tt(*TINY, "--name", name, "--dry-run")
    assert planned == tt(*TINY, "--name", name)
    assert planned[0] == 2
    assert said in planned[2]


def test_dry_run_leaves_what_a_run_that_never_started_has_left(tt, tmp_path):
    left = tmp_path / "runs" / "killed" / ".lock"
    left.parent.mkdir(parents=True)
    left.touch()
    assert tt(*TINY, "--name", "killed", "--dry-run")[0] == 0
    assert left.exists()


def test_dry_run_for_people_prints_a_recipe_that_can_be_used(tt, tmp_path):
    code, output, _ = tt(*TINY, "--dry-run")
    assert code == 0
    for said in (
        "recipe 'digits-ann' (built in)",
        "model: ann, 1,210 parameters",
        "machine: cpu, fp32",
        "plan: ",
    ):
        assert said in output
    (tmp_path / "again.yaml").write_text(output[output.index("task: ") :], encoding="utf-8")
    assert read_recipe(tmp_path / "again.yaml").lr == 0.01


def test_every_option_reaches_the_recipe(tt):
    code, output, errors = tt(
        "train", "--data", "digits", "--model", "cnn", "--steps", 7, "--batch", 50, "--lr", "3e-2", "--imgsz", 16,
        "--augment", "flip,crop=1", "--seed", 3, "--device", "cpu", "--precision", "bf16", "--set", "weight-decay=1e-4",
        "--set", "model.widths=[4]", "--set", "ema=0.5", "--dry-run", "--json",
    )  # fmt: skip
    assert code == 0, errors
    recipe = json.loads(output)["recipe"]
    expected = {
        "data": "digits", "model": "cnn", "steps": 7, "epochs": None, "batch_size": 50, "lr": 0.03, "image_size": 16,
        "seed": 3, "device": "cpu", "precision": "bf16", "weight_decay": 1e-4, "model_options": {"widths": [4]}, "ema": 0.5,
    }  # fmt: skip
    assert {key: recipe[key] for key in expected} == expected


@pytest.mark.machines
def test_train_json_prints_one_object_with_the_agreed_fields(tt, tmp_path):
    code, output, errors = tt(*TINY, "--json", "--name", "first", "--out", "here")
    assert code == 0, errors
    result = json.loads(output)
    assert set(result) >= {"run", "parameters", "multiply_adds", "seconds", "train", "val", "test"}
    assert result["run"] == "here/first"
    for split, num_images in (("train", 1258), ("val", 180), ("test", 359)):
        figures = result[split]
        assert figures["num_images"] == num_images
        low, high = figures["accuracy_ci95"]
        assert 0 <= low < figures["accuracy"] < high <= 1
        assert figures["loss"] > 0
    assert "validation accuracy" in errors, "progress goes to standard error"
    run = tmp_path / "here" / "first"
    files = shlex.split(
        """
        recipe.yaml environment.json data.json splits.csv status.json metrics.csv predictions.csv evaluation.json
        model.json model.safetensors report.html samples/samples.json
        """
    )
    assert all((run / file).is_file() for file in files)
    assert json.loads((run / "environment.json").read_text(encoding="utf-8"))["command"].startswith(
        "tintype "
    )
    with (run / "predictions.csv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == "test"]
    right = sum(row["target"] == row["prediction"] for row in rows)
    assert right / len(rows) == pytest.approx(result["test"]["accuracy"])


def test_train_for_people_says_figures_verdict_and_where_the_report_lies(tt):
    code, output, errors = tt(*TINY)
    assert (code, errors) == (0, "")
    for said in (
        "run: runs/digits-ann",
        "validation accuracy",
        "95 % interval",
        "The test set has been used",
        "runs/digits-ann/report.html",
    ):
        assert said in output
    assert tt(*TINY[:2], "--steps", 1)[1].count("runs/digits-ann-2") >= 2, (
        "the next one takes the next number"
    )
    assert tt("evaluate", "runs/digits-ann", "--split", "val")[0] == 0


def test_the_figures_are_shown_before_the_report_is_made(tt, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tintype.training.run.write_report", interrupted)
        code, output, _ = tt(*TINY, "--name", "run")
    assert code == 130
    assert "95 % interval" in output
    assert "report.html" not in output

    for _ in range(2):  # what was left to do, and nothing
        code, output, _ = tt("train", "--resume", "runs/run")
        assert code == 0
        assert output.count("95 % interval") == output.count("report.html") == 1


def test_no_figure_is_cut_where_a_line_has_80_characters():
    from rich.console import Console

    from tintype.runs.summary import result_table

    figures = {
        "num_images": 10_000, "accuracy": 1.0, "accuracy_ci95": [0.9997, 1.0], "top5_accuracy": 1.0, "macro_f1": 1.0,
        "loss": 10.1234, "expected_calibration_error": 0.123,
    }  # fmt: skip
    splits = {"train": figures, "val": figures, "test": figures | {"without_leaked": figures}}
    console = Console(width=80)
    with console.capture() as captured:
        console.print(result_table("classify", splits))
    text = captured.get()
    assert "…" not in text
    assert text.count("99.97% to 100.00%") == 4
    assert "  without leaks" in text


@pytest.mark.machines
def test_the_same_in_python(finished_run, digit_files):
    run = tintype.load(str(finished_run.path))
    assert run.metrics["test"]["accuracy"] > 0.85
    assert run.history[-1]["val_accuracy"] == pytest.approx(
        run.metrics["val"]["accuracy"], abs=1e-9
    )
    one = run.predict(str(next((digit_files / "7").iterdir())))
    assert not isinstance(one, list)
    assert one.top1 == "7"
    assert len(one.top5) == 5
    many = run.predict(str(digit_files))
    assert isinstance(many, list)
    assert np.mean([Path(p.name).parent.name == p.top1 for p in many]) > 0.85
    assert "finished" in repr(run)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        tintype.trian  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


# ---- predict, evaluate, report ----------------------------------------------------------------------------------------


def test_predict_a_file_for_people(tt, finished_run, digit_files):
    file = sorted((digit_files / "0").iterdir())[0]
    code, output, errors = tt("predict", finished_run.path, file, "--top", 3)
    assert (code, errors) == (0, "")
    assert output.startswith(f"{file}: 0 ")
    assert output.count("%") == 3


@pytest.mark.machines
def test_predict_a_folder_as_json_passes_over_what_is_no_image(
    tt, finished_run, digit_files, tmp_path
):
    (tmp_path / "photos").mkdir()
    for k in (1, 5):
        Image.open(next((digit_files / str(k)).iterdir())).save(tmp_path / "photos" / f"{k}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG broken")
    code, output, errors = tt("predict", finished_run.path, "photos", "--top", 2, "--json")
    assert code == 0, errors
    answer = json.loads(output)
    assert [Path(row["file"]).name for row in answer["predictions"]] == ["1.png", "5.png"]
    for row in answer["predictions"]:
        first, second = row["top"]
        assert first["probability"] >= second["probability"]
    assert len(answer["skipped"]) == 1
    assert "passed over photos/broken.png" in errors


def test_predict_into_a_csv_that_must_be_new(tt, finished_run, digit_files, tmp_path):
    arguments = (
        "predict",
        finished_run.path,
        digit_files / "3",
        digit_files / "4",
        "--top",
        2,
        "--csv",
        "out.csv",
    )
    assert tt(*arguments)[:2] == (0, "24 predictions written to out.csv\n")
    with (tmp_path / "out.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == [
        "file",
        "prediction",
        "confidence",
        "prediction2",
        "confidence2",
        "unlike",
        "error",
    ]
    assert np.mean([row["prediction"] == Path(row["file"]).parent.name for row in rows]) > 0.8
    before = (tmp_path / "out.csv").read_bytes()
    code, _, errors = tt(*arguments)
    assert code == 2
    assert "out.csv is there already" in errors
    assert (tmp_path / "out.csv").read_bytes() == before


def test_evaluate_gives_the_figures_of_the_run(tt, copied_run):
    for split in ("train", "val", "test"):
        code, output, _ = tt("evaluate", copied_run.path, "--split", split, "--json")
        assert code == 0
        figures, expected = json.loads(output), copied_run.metrics[split]
        assert (figures["split"], figures["data"]) == (split, "digits")
        for name, value in expected.items():
            assert figures[name] == pytest.approx(value, rel=1e-6), name


def test_looks_at_the_test_split_are_counted(tt, copied_run):
    before = copied_run.read("evaluation.json")["test_looks"]
    tt("evaluate", copied_run.path, "--split", "val")
    assert copied_run.read("evaluation.json")["test_looks"] == before
    tt("evaluate", copied_run.path)
    assert copied_run.read("evaluation.json")["test_looks"]["run"] == before["run"] + 1


def test_evaluate_on_a_folder_with_the_same_classes(tt, copied_run, digit_files):
    looks = copied_run.read("evaluation.json")["test_looks"]
    code, output, _ = tt("evaluate", copied_run.path, "--data", digit_files, "--json")
    figures = json.loads(output)
    assert code == 0
    assert (figures["split"], figures["num_images"]) == ("all", 120)
    assert figures["accuracy"] > 0.85
    assert copied_run.read("evaluation.json")["test_looks"] == looks, (
        "other images are not the run's test split"
    )


def test_evaluate_on_some_of_the_classes_keeps_their_numbers(tt, copied_run, digit_files, tmp_path):
    """Classes 3 and 7 alone are classes 0 and 1 of the folder; the model's numbers count."""
    for k in ("3", "7"):
        (tmp_path / "some" / k).mkdir(parents=True)
        for file in (digit_files / k).iterdir():
            (tmp_path / "some" / k / file.name).write_bytes(file.read_bytes())
    code, output, _ = tt("evaluate", copied_run.path, "--data", "some", "--json")
    assert code == 0
    assert json.loads(output)["accuracy"] > 0.8


@pytest.mark.machines
def test_report_is_made_again_from_the_files(tt, copied_run):
    (copied_run.path / "report.html").unlink()
    code, output, _ = tt("report", copied_run.path)
    assert (code, output) == (0, f"{copied_run.path / 'report.html'}\n")
    assert (copied_run.path / "report.html").stat().st_size > 10_000


# ---- doctor and cache -------------------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_well(tt):
    code, output, _ = tt("doctor", "--json")
    findings = json.loads(output)
    assert {
        "tintype",
        "python",
        "torch",
        "torchvision",
        "device",
        "precision",
        "memory",
        "cache",
    } <= set(findings["facts"])
    assert code == (1 if findings["problems"] else 0)
    assert tt("doctor")[0] == code


def test_doctor_tells_of_ray(tt, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "ray" in json.loads(tt("doctor", "--json")[1])["facts"]

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{nobody.getsockname()[1]}")
        code, output, _ = tt("doctor", "--json")
    problems = json.loads(output)["problems"]
    assert code == 1
    assert any("RAY_ADDRESS" in problem for problem in problems)


def test_doctor_explains_a_torchvision_built_otherwise(tt, monkeypatch):
    import importlib

    real = importlib.import_module

    def broken(name: str, *rest: str):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", broken)
    code, output, _ = tt("doctor")
    assert code == 1
    assert "were built differently" in output
    assert "pip install --force-reinstall torch torchvision" in output


def test_cache_is_shown_bounded_and_cleared(tt, digit_files, monkeypatch, tmp_path):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    assert "in 0 entries" in tt("cache")[1]
    assert tt("train", digit_files, "--model", "ann", "--dry-run")[0] == 0
    assert "in 1 entries" in tt("cache")[1]
    assert tt("cache", "--limit", 1)[0] == 0
    assert "in 1 entries" in tt("cache")[1]
    assert tt("cache", "--clear")[0] == 0
    assert "in 0 entries" in tt("cache")[1]
    assert len(list(digit_files.rglob("*.png"))) == 120


def test_public_names_stay_functions_after_use() -> None:
    """`tintype.train` must not turn into a submodule of that name once training has imported its
    parts.
    """
    for module in pkgutil.walk_packages(tintype.__path__, "tintype."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in tintype.__all__:
        assert callable(getattr(tintype, name)), name
    assert tintype.Run.open
    assert tintype.Recipe()


def test_names_of_runs_stand_first_and_are_never_cut(finished_run, tmp_path, tt):
    long = "a run with a name that is far longer than a column would like to be, number 17"
    for name in (long, "[draft] two", "[bold]"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in ("recipe.yaml", "status.json", "evaluation.json", "model.json"):
            shutil.copy(finished_run.path / file, tmp_path / "runs" / name / file)

    code, output, _ = tt("list", "runs")
    rows = output.splitlines()
    assert code == 0
    assert rows[0].split()[0] == "name"
    assert {row.split("  ")[0].strip() for row in rows[1:]} == {long, "[draft] two", "[bold]"}
    assert all(row.count(" %") == 1 and "test accuracy" in row for row in rows[1:])
    assert "val accuracy" in tt("list", "runs", "--wide")[1]


def test_evaluations_are_told_in_whole_epochs(tt):
    _, output, _ = tt(
        "train",
        "digits-ann",
        "--epochs",
        "2",
        "--batch-size",
        "100",
        "--device",
        "cpu",
        "--name",
        "r",
    )
    said = [line for line in output.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in said] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert not any(line.startswith(("memory:", "compile:")) for line in output.splitlines())

    _, verbose, _ = tt("train", "digits-ann", "--verbose", "--dry-run")
    assert {line.split(":")[0] for line in verbose.splitlines()} >= {
        "memory",
        "compile",
        "device",
        "precision",
    }


@pytest.mark.parametrize(
    ("epoch", "said"),
    [
        (1.01749, "1"),
        (2.95072, "3"),
        (0.8889, "0.9"),
        (6.003, "6"),
        (0.25, "0.2"),
        (24.1, "24"),
        (9.15, "9"),
        (29.507, "29"),
    ],
)
def test_epochs_are_counted_as_people_count_them(epoch, said):
    assert epochs(epoch) == said


def test_python_can_be_silent(tmp_path, capfd):
    api.train("digits-ann", epochs=1, out=tmp_path, verbose=False)
    assert capfd.readouterr() == ("", "")
