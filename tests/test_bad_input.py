"""Whatever a user does wrong: one or two clear lines, exit code 2, no traceback, nothing lost,
nothing left behind.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
import typer.main
from PIL import Image

from tintype import api, cli
from tintype.progress import Watcher

Refusal = Callable[..., str]


def files_below(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path) -> Refusal:
    """Return a function that runs a command that must be refused, holds the contract, and gives
    what was said.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> str:
        before = files_below(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        output, errors = capsys.readouterr()
        assert end.value.code == 2, errors
        assert "Traceback" not in output + errors
        assert "\u256d" not in errors, "a box"
        if errors.startswith("error: "):  # others first say what they pass over
            assert 1 <= len(errors.rstrip("\n").split("\n")) <= 2
        after = files_below(tmp_path)
        assert {p: after.get(p) for p in before} == before, "something was lost or overwritten"
        left = {p for p in after if p not in before and "cache" not in p.parts}
        assert not left, "something was left behind"
        assert not list(tmp_path.glob("runs/*"))
        return errors

    return run


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of six pictures, 16x16."""
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(6):
            pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    return tmp_path / "photos"


# ---- names and options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train digtis", "unknown recipe or data set 'digtis'. Did you mean 'digits'"),
        ("train ''", "unknown recipe or data set ''"),
        ("train none.yaml", "cannot read the recipe none.yaml: No such file or directory"),
        ("train no/such", "there is no no/such"),
        ("train --model cnnn", "unknown model 'cnnn'. Did you mean 'cnn'"),
        ("train --data mnits", "unknown data set 'mnits'. Did you mean 'mnist'"),
        ("train --data none.csv", "there is no folder or file 'none.csv'"),
        ("train --augment flop", "'flip'"),
        ("train --augment crop=-3", "crop"),
        ("train --set optimiser=sgd", "unknown field 'optimiser'. Did you mean 'optimizer'"),
        (
            "train --set optimizer=sdg",
            "optimizer: input should be 'sgd', 'adam', 'adamw' or 'muon', or a file",
        ),
        (
            "train --set model.widht=3",
            "unknown option of model fast-cnn: 'widht'. Did you mean 'widths'",
        ),
        ("train --set model.widths=3", "widths is 3. Expected a list of whole numbers"),
        ("train --set model.widths=[]", "widths is []"),
        ("train --model ann --set model.activation=rellu", "unknown activation 'rellu'"),
        ("train --set lr", "--set lr: expected key=value"),
        ("train --set lr=[1", "--set lr=[1: the value is not readable"),
        ("train --epochs 1 --steps 2", "give epochs or steps, not both"),
        ("train --epochs -1", "epochs: input should be greater than 0"),
        ("train --epochs inf", "epochs: input should be a finite number"),
        ("train --steps 0", "steps: input should be greater than 0"),
        ("train --batch-size 0", "batch_size: input should be greater than 0"),
        ("train --batch-size 1", "needs at least 2 images at once"),
        ("train --lr -1", "lr: must be greater than 0, or auto"),
        ("train --lr nan", "lr: "),
        ("train --seed -1", "seed: "),
        ("train --image-size 0", "between 1 and 4096 pixels"),
        ("train --image-size 4", "too small, it needs at least 6x6 pixels"),
        ("train --set class_weights=[1,2]", "10"),
        ("train --set val_fraction=5000", "val"),
        ("train --set test_fraction=0.95", "test"),
        ("train --precision fp16", "precision: input should be 'auto', 'fp32' or 'bf16'"),
        ("train --device gpu", "unknown device 'gpu'. Expected auto, cpu, cuda, cuda:1 or mps"),
        ("train --device xpu", "device 'xpu' is not supported"),
        ("train --device cuda:99", "device 'cuda:99' is not available here"),
        ("train --name a/b", "'a/b' cannot be a run's name"),
        ("train --name ..", "'..' cannot be a run's name"),
        ("train --epochs many", "--epochs cannot be 'many'. Expected a number, as in --epochs 0.5"),
        ("train --folds=two", "--folds cannot be 'two'. Expected a whole number, as in --folds 2"),
        ("train --epochs", "--epochs has no value. Expected a number"),
        ("train --json=3", "--json takes no value. Type --json alone"),
        ("train --epoch 3", "unknown option --epoch. Did you mean --epochs?"),
        ("train --val-fraction 0.2", "a field of the recipe: --set val_fraction=..."),
        ("train --zzz", "unknown option --zzz. `tintype train --help` lists what there is"),
        ("--zzz train", "unknown option --zzz. `tintype --help` lists"),
        ("trian", "unknown command 'trian'. Did you mean 'train'"),
        ("report a b", "'b' is more than `tintype report RUN` takes"),
        ("train digits --data-root none --data mnist", "none"),
        ("train digits --data-root none", "there is no folder"),
        ("train digits --data-root none --dry-run", "Expected one for --data-root"),
        ("list modells", "unknown listing 'modells'. Did you mean 'models'"),
        ("evaluate", "RUN is missing (run folder, or its address). Type `tintype evaluate RUN`."),
        ("evaluate none", "there is no run folder none. `tintype list runs`"),
        ("predict none x.png", "there is no run folder none"),
        ("report none", "there is no run folder none"),
        ("train --resume none", "there is no run folder none"),
        ("train --resume none --dry-run", "--dry-run"),
        ("train digits --resume none", "leave out everything else: tintype train --resume none"),
        ("train --resume none --lr 0.1", "leave out everything else: tintype train --resume none"),
    ],
)
def test_wrong_words(refused, arguments, said):
    assert said in refused(*shlex.split(arguments))


COMMANDS = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_what_it_does_not_know(refused, name):
    """The parser draws a box around what it says, and here it is a line as everywhere."""
    command = COMMANDS[name]
    words = ["word" for each in command.params if each.param_type_name == "argument"]
    assert "unknown option --no-such-thing" in refused(name, *words, "--no-such-thing")

    needed = [each for each in command.params if each.required]
    if needed:
        assert "is missing" in refused(name)
    for option in command.params:
        kind = str(get_type_hints(command.callback).get(option.name))
        if "int" in kind or "float" in kind:
            said = refused(name, *words, option.opts[0], "many")
            assert "cannot be 'many'. Expected a" in said


@pytest.mark.parametrize("width", ["20", "200"])
def test_a_mistyped_option_is_one_line_without_a_terminal(tmp_path, width):
    done = subprocess.run(
        [sys.executable, "-m", "tintype", "train", "digits", "--processes", "two"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": width},
        timeout=60,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: --processes cannot be 'two'. Expected a whole number, as in --processes 2.\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(refused):
    assert "device 'cuda' is not available here (have: cpu" in refused("train", "--device", "cuda")


def test_the_traceback_is_there_for_who_asks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="unknown recipe or data set"):
        cli.main(["--debug", "train", "digtis"])


# ---- images -----------------------------------------------------------------------------------------------------------


def empty_the_folder(photos: Path) -> None:
    shutil.rmtree(photos)
    photos.mkdir()


def leave_one_class(photos: Path) -> None:
    shutil.rmtree(photos / "dog")


def leave_one_image(photos: Path) -> None:
    for file in sorted((photos / "dog").iterdir())[1:]:
        file.unlink()


def break_all(photos: Path) -> None:
    for file in photos.rglob("*.png"):
        file.write_bytes(b"\x89PNG\r\n\x1a\n broken")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (empty_the_folder, "is empty"),
        (leave_one_class, "holds one class only ('cat', 6 photos)"),
        (leave_one_image, "class 'dog' of photos has one image only"),
        (break_all, "none of the 12 images"),
    ],
)
def test_folders_that_cannot_be_trained_on(refused, photos, damage, said):
    damage(photos)
    assert said in refused("train", "photos")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\nphotos/cat/0.png,cat\nphotos/dog/0.png,\n", "list.csv has no label"),
        ("photos/cat/0.png,cat\n", "has no column 'path'"),
        ("path,label\n", "names no image"),
        ("", "has no column 'path'"),
        ("path,label\nnone1.png,a\nnone2.png,b\n", "none of the 2 images"),
    ],
)
def test_lists_that_cannot_be_trained_on(refused, photos, text, said):
    Path("list.csv").write_text(text, encoding="utf-8")
    assert said in refused("train", "list.csv")


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_hostile_and_damaged_images_are_named_and_passed_over(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (photos / "cat" / "bomb.png").write_bytes(png_that_claims(50_000, 50_000))
    Image.effect_noise((64, 64), 90).convert("RGB").save(photos / "dog" / "cut.jpg", quality=95)
    cut = (photos / "dog" / "cut.jpg").read_bytes()
    (photos / "dog" / "cut.jpg").write_bytes(cut[: len(cut) // 10])
    (photos / "dog" / "text.png").write_text("no image at all", encoding="utf-8")
    run = api.train(
        "photos",
        model="ann",
        epochs=1,
        batch_size=4,
        val_fraction=2,
        augment="none",
        watcher=Watcher(),
    )
    skipped = {name for name, _ in run.read("data.json")["skipped"]}
    assert {"cat/bomb.png", "dog/text.png"} <= skipped
    assert sum(run.read("data.json")["num_images"].values()) + len(skipped) == 15
    assert "bomb.png" in (run.path / "report.html").read_text(encoding="utf-8")


# ---- where things are written -----------------------------------------------------------------------------------------


def test_a_name_that_is_taken(refused, tmp_path):
    (tmp_path / "kept" / "mine").mkdir(parents=True)
    (tmp_path / "kept" / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    said = refused("train", "digits", "--name", "mine", "--out", "kept")
    assert "kept/mine is there already, and nothing is overwritten. Choose another --name" in said


def test_an_output_folder_that_is_a_file(refused, tmp_path):
    (tmp_path / "file").write_text("text", encoding="utf-8")
    assert "cannot make" in refused("train", "digits", "--out", "file")
    assert "cannot make" in refused("train", "digits", "--out", "file/deeper")


def test_a_prediction_file_in_a_place_that_cannot_be_written(
    refused, finished_run, digit_files, tmp_path
):
    (tmp_path / "file").write_text("text", encoding="utf-8")
    photo = next((digit_files / "1").iterdir())
    assert "cannot write file/out.csv" in refused(
        "predict", finished_run.path, photo, "--csv", "file/out.csv"
    )
    assert "file is there already" in refused("predict", finished_run.path, photo, "--csv", "file")


def test_a_full_disk_while_a_run_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "digits-ann", "--steps", "2", "--name", "run"])
    errors = capsys.readouterr().err
    assert end.value.code == 2
    assert "No space left on device. Free some space or choose another --out." in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.rglob("*.tmp"))


# ---- finished runs that were damaged ----------------------------------------------------------------------------------


def edit_model(run: Path, **changes: object) -> None:
    description = json.loads((run / "model.json").read_text(encoding="utf-8"))
    (run / "model.json").write_text(json.dumps({**description, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda run: (run / "model.json").write_text("{", encoding="utf-8"),
            "model.json is broken",
        ),
        (lambda run: (run / "model.json").write_text("[]", encoding="utf-8"), "model.json"),
        (
            lambda run: (run / "model.json").write_text("{}", encoding="utf-8"),
            "model.json is broken (format: it is missing)",
        ),
        (lambda run: (run / "model.json").unlink(), "has no model.json"),
        (lambda run: edit_model(run, format=99), "was made by a newer tintype"),
        (
            lambda run: edit_model(run, architecture={"name": "annn", "options": {}}),
            "unknown model 'annn'",
        ),
        (
            lambda run: edit_model(run, architecture={"name": "ann"}),
            "(architecture.options: it is missing)",
        ),
        (lambda run: edit_model(run, architecture={"name": "cnn", "options": {}}), "cannot load"),
        (lambda run: edit_model(run, class_names=["a", "b"]), "cannot load"),
        (lambda run: (run / "model.safetensors").unlink(), "cannot load"),
        (lambda run: (run / "model.safetensors").write_bytes(b""), "cannot load"),
        (
            lambda run: (run / "model.safetensors").write_bytes(
                (run / "model.safetensors").read_bytes()[:2000]
            ),
            "cannot load",
        ),
        (lambda run: (run / "recipe.yaml").unlink(), "is not a run folder"),
    ],
)
def test_a_damaged_model_is_told(refused, copied_run, digit_files, damage, said):
    damage(copied_run.path)
    assert said in refused("predict", copied_run.path, digit_files / "1")
    assert said in refused("evaluate", copied_run.path, "--split", "val")


def test_a_recipe_broken_afterwards(refused, copied_run):
    (copied_run.path / "recipe.yaml").write_text("modle: cnn", encoding="utf-8")
    assert "unknown field 'modle'" in refused("evaluate", copied_run.path)


def test_a_run_folder_is_no_data(refused, copied_run):
    assert "is a run folder. To go on with it: tintype train --resume" in refused(
        "train", copied_run.path
    )


def test_predicting_what_is_no_image(refused, finished_run, tmp_path):
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "bomb.png").write_bytes(png_that_claims(50_000, 50_000))
    assert "no image could be read" in refused("predict", finished_run.path, "notes.txt")
    assert "no image could be read" in refused(
        "predict", finished_run.path, "notes.txt", "--csv", "out.csv"
    )
    assert "no image could be read" in refused("predict", finished_run.path, "bomb.png", "--json")
    assert "there is no image in folder" in refused("predict", finished_run.path, "folder")
    assert "there is no file or folder none.png" in refused(
        "predict", finished_run.path, "none.png"
    )
    said = refused("predict", finished_run.path, "notes.txt", "--top", 0)
    assert "--top cannot be '0'. Expected a whole number from 1 on, as in --top 1" in said


def test_evaluating_on_other_classes(refused, finished_run, photos):
    said = refused("evaluate", finished_run.path, "--data", "photos")
    assert "the model does not know the classes cat, dog of photos. It knows: 0, 1, 2" in said
    assert "unknown split 'tset'" in refused("evaluate", finished_run.path, "--split", "tset")


def test_an_unfinished_run_says_how_to_go_on(refused, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text("model: ann", encoding="utf-8")
    for command in (("evaluate", "begun"), ("predict", "begun", "begun")):
        assert "Go on with: tintype train --resume begun" in refused(*command)


# ---- interruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "tune"])
def test_the_file_of_a_study_is_no_recipe(refused, tmp_path, command):
    file = tmp_path / "rates.yaml"
    file.write_text("question: Which?\nrecipe: digits\nvary: {lr: [0.1, 0.2]}\n", encoding="utf-8")
    assert f"a recipe was expected. Type: tintype study {file}" in refused(command, str(file))


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that is in use")
def test_a_folder_that_was_removed_under_the_shell_is_one_line(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    lost = f"import os; os.rmdir('{here}'); from tintype.cli import main; main(['list', 'runs'])"
    done = subprocess.run(
        [sys.executable, "-c", lost],
        cwd=here,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the folder that this shell is in was removed. Type cd .")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_outside_training_is_one_word():
    script = (
        "import signal, tintype.verbs.listing as l\n"
        # a shell's background job ignores it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "l.listing = lambda *a, **k: signal.raise_signal(signal.SIGINT)\n"
        "from tintype.cli import main; main(['list'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, encoding="utf-8"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_a_fault_of_ours_is_called_one(monkeypatch, capsys):
    def fault(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("tintype.verbs.listing.listing", fault)
    with pytest.raises(SystemExit) as end:
        cli.main(["list"])
    assert end.value.code == 1
    assert "This is a bug in tintype, not your mistake" in capsys.readouterr().err


# ---- nothing to measure on --------------------------------------------------------------------------------------------


def one_burst_a_class(photos: Path) -> Path:
    for label in ("cat", "dog"):
        for i in range(1, 6):
            shutil.copy(photos / label / "0.png", photos / label / f"{i}.png")
    return photos


def one_group_a_class(photos: Path) -> Path:
    rows = [f"{label}/{i}.png,{label},{label}" for label in ("cat", "dog") for i in range(6)]
    (photos / "list.csv").write_text("\n".join(["path,label,group", *rows]), encoding="utf-8")
    return photos / "list.csv"


def two_photos_a_class(photos: Path) -> Path:
    for label in ("cat", "dog"):
        for i in range(2, 6):
            (photos / label / f"{i}.png").unlink()
    return photos


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (one_burst_a_class, "validation and test: the 12 images show 2 different pictures"),
        (one_group_a_class, "validation and test: the 12 images are in too few groups"),
        (two_photos_a_class, "validation: 4 images (2 classes) are too few"),
    ],
)
def test_data_of_which_nothing_can_be_held_out(refused, photos, make, said):
    data = make(photos)
    errors = refused("train", data, "--model", "cnn", "--weights", "none", "--device", "cpu")
    assert said in errors
    assert "column split" in errors
