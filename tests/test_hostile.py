"""Files of strangers: links that lead elsewhere, pipes, nests and bombs. One line each; nothing waits, or changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import yaml

from tintype import api, catalogue, files
from tintype.board import Board
from tintype.errors import UserError
from tintype.recipe import Recipe, build, parse_assignments, read_recipe
from tintype.run import RunFolder
from tintype.studying import Study

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@pytest.fixture(autouse=True)
def nothing_waits():
    """End a test that hangs: a pipe that is opened waits for ever."""

    def ended(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ---- links and pipes in a run folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".lock", "report.html", "figures", "samples", "checkpoints", "samples/deep"])
def test_nothing_in_a_run_folder_leads_out_of_it(place, copied_run, tmp_path, say):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("precious")
    link = copied_run.path / place
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside if "." not in place else outside / "mine.txt")
    for command in (["train", "--resume"], ["report"], ["evaluate"], ["pack"], ["card"]):
        code, _, errors = say(*command, copied_run.path)
        assert code == 2
        assert "leads out" in errors
    assert [p.name for p in outside.iterdir()] == ["mine.txt"]
    assert (outside / "mine.txt").read_text() == "precious"
    assert not list(tmp_path.glob("**/*.zip"))


def test_links_to_a_run_and_within_a_run_are_followed(copied_run, tmp_path):
    shutil.move(copied_run.path / "report.html", copied_run.path / "samples" / "page.html")
    (copied_run.path / "report.html").symlink_to("samples/page.html")
    (tmp_path / "linked").symlink_to(copied_run.path, target_is_directory=True)
    assert api.Run.open(tmp_path / "linked").metrics == copied_run.metrics


@pytest.mark.parametrize("name", ["recipe.yaml", "model.json", ".lock", "evaluation.json", "metrics.csv", "samples/x"])
def test_a_pipe_in_a_run_folder_makes_nobody_wait(name, copied_run, say):
    (copied_run.path / name).unlink(missing_ok=True)
    os.mkfifo(copied_run.path / name)
    for command in (["train", "--resume"], ["report"], ["evaluate"], ["pack"]):
        code, _, errors = say(*command, copied_run.path)
        assert code == 2
        assert name in errors


def test_a_lock_is_opened_without_following_and_without_emptying(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / "r").mkdir()
    (tmp_path / "r/.lock").symlink_to("../mine.txt")
    with pytest.raises(UserError, match="link"), RunFolder(tmp_path / "r").locked():
        pass
    (tmp_path / "r/.lock").unlink()
    (tmp_path / "r/.lock").write_text("somebody's")
    with RunFolder(tmp_path / "r").locked():
        pass
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert (tmp_path / "r/.lock").read_text() == "somebody's"


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "named pipe"), (Path("/dev/zero"), "device"), (tmp_path, "directory")):
        with pytest.raises(OSError, match=kind):
            files.read_bytes(path)
        with pytest.raises(UserError, match=kind):
            read_recipe(path)


def test_a_study_does_not_follow_links_out_of_it(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/study.yaml").write_text("recipe: digits-ann\nvary: {lr: [0.1, 0.2]}\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "s/lr-0.1-seed0").symlink_to("../mine", target_is_directory=True)
    with pytest.raises(UserError, match="leads out"):
        Study.open(tmp_path / "s")


# ---- one broken run among others --------------------------------------------------------------------------------------

STRANGE = {
    "recipe.yaml": ["data: !!timestamp 2020-13-45", "[" * 200, "- 1", "\x00", "data: {a: 1}", "&a [*a]", "epochs: 1e999"],
    "evaluation.json": ["[" * 100_000, "3", '{"splits": 3}', '{"splits": [], "verdict": 1}', '{"splits": {"test": 3}}', "NaN"],
    "model.json": ["[]", "{", "9" * 5000],
    "status.json": ["[]", '{"state": {}}', '{"seconds": "x"}', '{"state": 1, "step": []}', '"running"'],
    "metrics.csv": ["\x00", "a,a\n1\n", '"'],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, contents in STRANGE.items() for c in contents])
def test_a_broken_run_takes_no_other_with_it(name, content, copied_run, tmp_path, say):
    runs = copied_run.path.parent
    good = runs / "good"
    shutil.copytree(copied_run.path, good)
    (copied_run.path / name).write_text(content)
    code, output, _ = say("list", "runs", "--out", runs)
    assert code == 0
    assert "good" in output
    for arguments in (["--json"], ["--sort", "seconds"], ["--where", "seconds>0"]):
        assert say("list", "runs", "--out", runs, *arguments)[0] == 0
    assert "good" in [row["name"] for row in json.loads(json.dumps(Board(runs).state()))["runs"]]


def test_a_listing_shows_nothing_of_what_a_link_leads_to(copied_run, tmp_path, say):
    runs = copied_run.path.parent / "below"
    (runs / "x").mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text("data: my-secret\n")
    (runs / "x/recipe.yaml").symlink_to(tmp_path / "mine.yaml")
    code, output, errors = say("list", "runs", "--out", runs)
    assert code == 0
    assert "my-secret" not in output + errors
    assert "leads out" in errors
    assert Board(runs).state()["runs"] == []


def test_a_run_that_is_only_a_link_to_nowhere_is_passed_over(copied_run):
    runs = copied_run.path.parent
    (runs / "x").mkdir()
    (runs / "x/recipe.yaml").symlink_to("nowhere.yaml")
    assert [row["name"] for row in catalogue.list_runs(runs)] == [copied_run.name]


# ---- bounds of YAML and JSON ------------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_yaml_is_bounded_by_what_it_stands_for():
    tens = [f"&b{i} [{','.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 5)]
    bomb = f"[&b0 [{','.join('l' * 10)}], {', '.join(tens)}]"  # 10^5 words in 200 bytes
    with pytest.raises(yaml.YAMLError, match=f"more than {files.MOST_NODES:,} values"):
        files.parse_yaml(bomb)
    assert len(files.parse_yaml(f"[{','.join('l' * (files.MOST_NODES - 1))}]")) == files.MOST_NODES - 1
    with pytest.raises(yaml.YAMLError, match="stands for more"):
        files.parse_yaml(f"[{','.join('l' * files.MOST_NODES)}]")
    with pytest.raises(yaml.YAMLError, match="alias"):
        files.parse_yaml("a: &a [*a]")
    assert files.parse_yaml("{a: &x {b: 1}, c: {<<: *x, d: *x}}") == {"a": {"b": 1}, "c": {"b": 1, "d": {"b": 1}}}


@pytest.mark.parametrize("parse", [files.parse_yaml, files.parse_json])
def test_depth_and_digits_are_bounded(parse):
    assert json.dumps(parse(nested(files.MOST_DEPTH))) == nested(files.MOST_DEPTH)
    for text, said in ((nested(files.MOST_DEPTH + 1), "deep"), ("9" * (files.MOST_DIGITS + 1), "digits")):
        with pytest.raises((yaml.YAMLError, ValueError), match=said):
            parse(text)
    assert parse("9" * files.MOST_DIGITS) == 10**files.MOST_DIGITS - 1


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", "Infinity", "1e999", "-1e999", ""])
def test_json_that_is_none_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"deep|not a number|too large|Expecting"):
        files.parse_json(text)


@pytest.mark.parametrize("value", ["2020-13-45", "2020-02-30 25:61:61"])
def test_a_date_is_a_word(value, tmp_path):
    (tmp_path / "x.yaml").write_text(f"data: {value}\n")
    assert read_recipe(tmp_path / "x.yaml").data == value
    assert parse_assignments([f"data={value}"]) == {"data": value}
    recipe = build({"data": "2020-01-02"}, "")
    (tmp_path / "y.yaml").write_text(recipe.to_yaml())
    assert read_recipe(tmp_path / "y.yaml") == recipe


@pytest.mark.parametrize(
    "value", ["!!timestamp 2020-13-45", "!!int x", "!!float x", "!!binary é", "!!python/name:os.system", "? [1]"]
)
def test_a_value_that_yaml_cannot_make_is_one_line(value, tmp_path):
    (tmp_path / "x.yaml").write_text(f"data: {value}\n")
    with pytest.raises(UserError, match="YAML is broken"):
        read_recipe(tmp_path / "x.yaml")
    with pytest.raises(UserError, match="not readable"):
        parse_assignments([f"data={value}"])


def test_a_large_file_is_no_recipe(tmp_path):
    with (tmp_path / "x.yaml").open("wb") as file:
        file.truncate(10**11)  # without a block on the disk
    with pytest.raises(UserError, match="larger than"):
        read_recipe(tmp_path / "x.yaml")


def test_recipes_that_use_aliases_are_read(tmp_path):
    (tmp_path / "x.yaml").write_text("data: &d digits\nmodel: ann\nmodel_options: {hidden: &h [8, 8]}\n")
    assert read_recipe(tmp_path / "x.yaml") == Recipe(model="ann", model_options={"hidden": [8, 8]})


# ---- packed runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_a_damaged_zip_is_one_line_however_it_is_compressed(kind, copied_run, tmp_path, say):
    copied_run.pack(tmp_path / "whole.zip")
    with (
        zipfile.ZipFile(tmp_path / "whole.zip") as whole,
        zipfile.ZipFile(tmp_path / "x.zip", "w", getattr(zipfile, kind)) as out,
    ):
        for name in whole.namelist():
            out.writestr(name, whole.read(name))
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[200:2000] = bytes(byte ^ 0x55 for byte in content[200:2000])
    (tmp_path / "x.zip").write_bytes(content)
    code, _, errors = say("load", tmp_path / "x.zip", "--out", tmp_path / "o")
    assert code == 2
    assert errors.startswith("error: ")
    assert not list((tmp_path / "o").glob("*"))
