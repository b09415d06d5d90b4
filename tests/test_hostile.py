"""Files of strangers: links that lead elsewhere, pipes, nests and bombs.

One line each; nothing waits, or changes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, PngImagePlugin

from tintype import api, own_code
from tintype.data.bounds import MOST_SCANS, count_scans
from tintype.data.cache import DRY_RUN_BYTES, cached_pixels, writing_at_most
from tintype.data.decode import Unreadable, decode
from tintype.errors import UserError
from tintype.files import bounded as files
from tintype.files import yaml_files
from tintype.recipe import Recipe, build, parse_assignments, read_recipe
from tintype.runs import catalogue
from tintype.runs.folder import RunFolder
from tintype.tasks.upscale.pictures import read_picture
from tintype.verbs import export as exporting
from tintype.verbs.board import Board
from tintype.verbs.export import formats
from tintype.verbs.study import Study

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


@pytest.mark.parametrize(
    "place", [".lock", "report.html", "figures", "samples", "checkpoints", "samples/deep"]
)
def test_nothing_in_a_run_folder_leads_out_of_it(place, copied_run, tmp_path, say):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("precious", encoding="utf-8")
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
    assert (outside / "mine.txt").read_text(encoding="utf-8") == "precious"
    assert not list(tmp_path.glob("**/*.zip"))


def test_links_to_a_run_and_within_a_run_are_followed(copied_run, tmp_path):
    shutil.move(copied_run.path / "report.html", copied_run.path / "samples" / "page.html")
    (copied_run.path / "report.html").symlink_to("samples/page.html")
    (tmp_path / "linked").symlink_to(copied_run.path, target_is_directory=True)
    assert api.Run.open(tmp_path / "linked").metrics == copied_run.metrics


@pytest.mark.parametrize(
    "name", ["recipe.yaml", "model.json", ".lock", "evaluation.json", "metrics.csv", "samples/x"]
)
def test_a_pipe_in_a_run_folder_makes_nobody_wait(name, copied_run, say):
    (copied_run.path / name).unlink(missing_ok=True)
    os.mkfifo(copied_run.path / name)
    for command in (["train", "--resume"], ["report"], ["evaluate"], ["pack"]):
        code, _, errors = say(*command, copied_run.path)
        assert code == 2
        assert name in errors


def test_a_lock_is_opened_without_following_and_without_emptying(tmp_path):
    (tmp_path / "mine.txt").write_text("precious", encoding="utf-8")
    (tmp_path / "r").mkdir()
    (tmp_path / "r/.lock").symlink_to("../mine.txt")
    with pytest.raises(UserError, match="link"), RunFolder(tmp_path / "r").locked():
        pass
    (tmp_path / "r/.lock").unlink()
    (tmp_path / "r/.lock").write_text("somebody's", encoding="utf-8")
    with RunFolder(tmp_path / "r").locked():
        pass
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "precious"
    assert (tmp_path / "r/.lock").read_text(encoding="utf-8") == "somebody's"


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "named pipe"),
        (Path("/dev/zero"), "device"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(OSError, match=kind):
            files.read_bytes(path)
        with pytest.raises(UserError, match=kind):
            read_recipe(path)


def test_a_study_does_not_follow_links_out_of_it(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/study.yaml").write_text(
        "recipe: digits-ann\nvary: {lr: [0.1, 0.2]}\n", encoding="utf-8"
    )
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


@pytest.mark.parametrize(
    ("name", "content"), [(n, c) for n, contents in STRANGE.items() for c in contents]
)
def test_a_broken_run_takes_no_other_with_it(name, content, copied_run, tmp_path, say):
    runs = copied_run.path.parent
    good = runs / "good"
    shutil.copytree(copied_run.path, good)
    (copied_run.path / name).write_text(content, encoding="utf-8")
    code, output, _ = say("list", "runs", "--out", runs)
    assert code == 0
    assert "good" in output
    for arguments in (["--json"], ["--sort", "seconds"], ["--where", "seconds>0"]):
        assert say("list", "runs", "--out", runs, *arguments)[0] == 0
    assert "good" in [row["name"] for row in json.loads(json.dumps(Board(runs).state()))["runs"]]


def test_a_listing_shows_nothing_of_what_a_link_leads_to(copied_run, tmp_path, say):
    runs = copied_run.path.parent / "below"
    (runs / "x").mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text("data: my-secret\n", encoding="utf-8")
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


def test_yaml_is_bounded_by_what_it_stands_for(monkeypatch):
    monkeypatch.setattr(yaml_files, "MOST_NODES", 1_000)  # reading so many is slow
    tens = [f"&b{i} [{','.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 5)]
    bomb = f"[&b0 [{','.join('l' * 10)}], {', '.join(tens)}]"  # 10^5 words in 200 bytes
    with pytest.raises(yaml.YAMLError, match=f"more than {yaml_files.MOST_NODES:,} values"):
        yaml_files.parse_yaml(bomb)
    assert (
        len(yaml_files.parse_yaml(f"[{','.join('l' * (yaml_files.MOST_NODES - 1))}]"))
        == yaml_files.MOST_NODES - 1
    )
    with pytest.raises(yaml.YAMLError, match="stands for more"):
        yaml_files.parse_yaml(f"[{','.join('l' * yaml_files.MOST_NODES)}]")
    with pytest.raises(yaml.YAMLError, match="alias"):
        yaml_files.parse_yaml("a: &a [*a]")
    assert yaml_files.parse_yaml("{a: &x {b: 1}, c: {<<: *x, d: *x}}") == {
        "a": {"b": 1},
        "c": {"b": 1, "d": {"b": 1}},
    }


@pytest.mark.parametrize("parse", [yaml_files.parse_yaml, files.parse_json])
def test_depth_and_digits_are_bounded(parse):
    assert json.dumps(parse(nested(files.MOST_DEPTH))) == nested(files.MOST_DEPTH)
    for text, said in (
        (nested(files.MOST_DEPTH + 1), "deep"),
        ("9" * (files.MOST_DIGITS + 1), "digits"),
    ):
        with pytest.raises((yaml.YAMLError, ValueError), match=said):
            parse(text)
    assert parse("9" * files.MOST_DIGITS) == 10**files.MOST_DIGITS - 1


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", "Infinity", "1e999", "-1e999", ""])
def test_json_that_is_none_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"deep|not a number|too large|Expecting"):
        files.parse_json(text)


@pytest.mark.parametrize("value", ["2020-13-45", "2020-02-30 25:61:61"])
def test_a_date_is_a_word(value, tmp_path):
    (tmp_path / "x.yaml").write_text(f"data: {value}\n", encoding="utf-8")
    assert read_recipe(tmp_path / "x.yaml").data == value
    assert parse_assignments([f"data={value}"]) == {"data": value}
    recipe = build({"data": "2020-01-02"}, "")
    (tmp_path / "y.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert read_recipe(tmp_path / "y.yaml") == recipe


@pytest.mark.parametrize(
    "value",
    [
        "!!timestamp 2020-13-45",
        "!!int x",
        "!!float x",
        "!!binary é",
        "!!python/name:os.system",
        "? [1]",
    ],
)
def test_a_value_that_yaml_cannot_make_is_one_line(value, tmp_path):
    (tmp_path / "x.yaml").write_text(f"data: {value}\n", encoding="utf-8")
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
    (tmp_path / "x.yaml").write_text(
        "data: &d digits\nmodel: ann\nmodel_options: {hidden: &h [8, 8]}\n", encoding="utf-8"
    )
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


# ---- photos -----------------------------------------------------------------------------------------------------------


def photos(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (16, 16), (40 * i, 9, 9)).save(folder / f"{i}.png")
    return folder


def test_a_pipe_among_photos_is_passed_over_and_counted(finished_run, tmp_path, say):
    folder = photos(tmp_path / "d")
    os.mkfifo(folder / "x.png")
    code, output, errors = say("predict", finished_run.path, folder, "--out", tmp_path / "p.csv")
    assert code == 0
    assert "1 passed over" in output + errors
    assert "named pipe" in (tmp_path / "p.csv").read_text(encoding="utf-8")
    assert say("predict", finished_run.path, folder / "x.png")[0] == 2
    os.mkfifo(tmp_path / "y.csv")
    assert (
        say("predict", finished_run.path, folder, "--out", tmp_path / "y.csv", "--resume")[0] == 2
    )


def test_pipes_in_the_place_of_a_list_or_a_photo_to_train_on(tmp_path, say):
    os.mkfifo(tmp_path / "x.csv")
    code, _, errors = say("train", tmp_path / "x.csv", "--dry-run")
    assert code == 2
    assert errors
    for label in "ab":
        photos(tmp_path / "d" / label, 12)
    os.mkfifo(tmp_path / "d/a/pipe.png")
    code, output, errors = say(
        "train", tmp_path / "d", "--model", "ann", "--weights", "none", "--dry-run", "--json"
    )
    # what is left may be too little to hold anything out; it waits for nothing
    assert code in (0, 2)
    assert "Traceback" not in output + errors


def test_a_path_that_no_file_can_have_is_skipped(tmp_path):
    from tintype.data.sets.csv_file import find_rows
    from tintype.data.sets.folder import read_photos

    folder = photos(tmp_path / "d")
    rows = [f"d/{i % 4}.png,{'ab'[i % 2]}" for i in range(4)] + [
        "d/\0.png,a",
        f"d/{'n' * 300}.png,b",
    ]
    (tmp_path / "x.csv").write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    images = read_photos(
        find_rows(tmp_path / "x.csv", None), "x", image_size=8, channels=3, resize="crop"
    )
    assert len(images.targets) == len(list(folder.iterdir()))
    assert len(images.skipped) == 2


def many_scans(count: int) -> bytes:
    """Return a progressive JPEG (ITU T.81) of 64x64 pixels whose coefficients are refined `count`
    times.
    """
    segment = lambda marker, body: struct.pack(">BBH", 255, marker, len(body) + 2) + body  # noqa: E731
    table = lambda kind, value: segment(0xC4, bytes([kind, 1] + [0] * 15 + [value]))  # noqa: E731
    refine = segment(0xDA, bytes([1, 1, 0, 1, 1, 0])) + b"\x00\x00" * 4
    frame = segment(0xC2, struct.pack(">BHHB", 8, 64, 64, 1) + b"\1\x11\0")
    first = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(8)
    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + frame + table(0, 0) + table(16, 0x60)
    return head + first + refine * (count - 1) + b"\xff\xd9"


def test_scans_are_counted_and_bounded(tmp_path):
    assert count_scans(many_scans(7)) == 7
    for count, refused in ((MOST_SCANS, False), (MOST_SCANS + 1, True), (10_000, True)):
        try:
            decode(many_scans(count), height=8, width=8, channels=1)
            said = ""
        except Unreadable as error:
            said = str(error)
        assert ("scans" in said) == refused
    (tmp_path / "x.jpg").write_bytes(many_scans(MOST_SCANS + 1))
    with pytest.raises(UserError, match="scans"):
        read_picture(tmp_path / "x.jpg")


def test_what_only_looks_like_scans_is_read():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for progressive, scans in ((False, 1), (True, 10)):  # ten are libjpeg's own script for colour
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95, progressive=progressive)
        plain = file.getvalue()
        assert count_scans(plain) == scans
        comment = struct.pack(">BBH", 255, 0xFE, 2 + 2 * 5000) + b"\xff\xda" * 5000
        # a preview, and a film behind the photo
        padded = plain[:2] + comment + plain[2:] + b"\xff\xda" * 5000
        assert count_scans(padded) == scans
        pictures = [decode(content, height=64, width=64, channels=3) for content in (padded, plain)]
        np.testing.assert_array_equal(*pictures)


def test_only_the_first_directories_of_a_tiff_are_looked_at(tmp_path, monkeypatch):
    from PIL import TiffImagePlugin

    pages = [Image.new("L", (4, 4), i) for i in range(50)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    loaded = []
    load = TiffImagePlugin.ImageFileDirectory_v2.load
    monkeypatch.setattr(
        TiffImagePlugin.ImageFileDirectory_v2,
        "load",
        lambda self, file: loaded.append(1) or load(self, file),
    )
    with pytest.raises(UserError, match="several pages"):
        read_picture(tmp_path / "x.tif")
    assert len(loaded) <= 2
    assert decode(tmp_path / "x.tif", height=4, width=4, channels=1).max() == 0


# ---- answers of an earlier part ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"sorted_to": "../../out.png"}, {"sorted_to": "/tmp/out.png"}, {"sorted_to": "a/../../out.png"},
        {"sorted_to": "C:/out.png"}, {"sorted_to": "a\\..\\out.png"}, {"sorted_to": ["a"]}, {"confidence": "abc"},
        {"confidence": None}, {"confidence": [1]}, {"confidence": 1e300}, {"prediction": None}, {"prediction": 3},
        {"file": None}, {"file": 7}, {"heatmap": "../x.png"}, {"error": {"a": 1}},
    ],
)  # fmt: skip
def test_answers_that_tintype_did_not_write_are_refused(change, finished_run, tmp_path, say):
    folder = photos(tmp_path / "d")
    row = {
        "file": str(folder / "1.png"),
        "prediction": "1",
        "confidence": 0.9,
        "sorted_to": "1/1.png",
    } | change
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    arguments = ("--out", tmp_path / "p.jsonl", "--sort-into", tmp_path / "s" / "x", "--resume")
    code, _, errors = say("predict", finished_run.path, folder, *arguments)
    assert code == 2
    assert "cannot go on with" in errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_confidence_of_a_table_that_is_no_number_is_refused(finished_run, tmp_path, say):
    folder = photos(tmp_path / "d")
    row = f"{folder / '1.png'},1,abc,,"
    (tmp_path / "p.csv").write_text(
        f"file,prediction,confidence,unlike,error\n{row}\n", encoding="utf-8"
    )
    code, _, errors = say(
        "predict", finished_run.path, folder, "--out", tmp_path / "p.csv", "--resume"
    )
    assert code == 2
    assert "no number" in errors


# ---- disks and names --------------------------------------------------------------------------------------------------


def test_a_dry_run_decodes_no_more_than_its_bound(tmp_path, monkeypatch, say):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.yaml").write_text("data: digits\nimage_size: [4096, 4096]\n", encoding="utf-8")
    for command in ("train", "study"):
        if command == "study":
            (tmp_path / "x.yaml").write_text(
                "recipe: {data: digits, image_size: [4096, 4096]}\nvary: {lr: [0.1, 0.2]}\n",
                encoding="utf-8",
            )
        code, _, errors = say(command, tmp_path / "x.yaml", "--dry-run")
        assert code == 2
        assert "a dry run decodes at most" in errors
        assert (
            sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file())
            < 1_000_000
        )
    assert DRY_RUN_BYTES < 1797 * 4096**2


def test_the_bound_counts_bytes_and_spares_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    arguments = (10, (4, 4, 1), lambda i: np.full((4, 4, 1), i, np.uint8))
    with writing_at_most(159), pytest.raises(UserError, match="dry run"):
        cached_pixels("a", *arguments, source="x")
    with writing_at_most(160):
        cached_pixels("a", *arguments, source="x")
    with writing_at_most(0):
        assert len(cached_pixels("a", *arguments, source="x").pixels) == 10
    cached_pixels("b", *arguments, source="x")


@pytest.mark.parametrize("command", ["train", "study", "tune"])
def test_a_name_that_no_file_can_have_is_one_line(command, tmp_path, say):
    (tmp_path / "s.yaml").write_text(
        "recipe: digits-ann\nvary: {lr: [0.1, 0.2]}\n", encoding="utf-8"
    )
    what = tmp_path / "s.yaml" if command == "study" else "digits-ann"
    code, _, errors = say(command, what, "--name", "n" * 256, "--out", tmp_path / "runs")
    assert code == 2
    assert "too long" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("runs/*"))


def test_an_export_that_finds_no_room_is_one_line_and_leaves_nothing(finished_run, tmp_path, say):
    resource = pytest.importorskip("resource")
    pytest.importorskip("onnx")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for format in ("onnx", "torchscript", "pt2"):
        target = tmp_path / f"e{exporting.formats.ENDINGS[format]}"
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        try:
            code, _, errors = say("export", finished_run.path, "--format", format, "--out", target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert code == 2, errors
        assert "cannot write" in errors
        assert not list(tmp_path.iterdir())


# ---- programs of torch -------------------------------------------------------------------------------------------------


class Creates:
    """What creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def program_with(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Write a program of torch.export whose entries went through `change`."""
    content = io.BytesIO()
    image = torch.rand(2, 3, 8, 8)
    free = {"input": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(torch.nn.Conv2d(3, 3, 3), (image,), dynamic_shapes=free)
    torch.export.save(program, content)
    with zipfile.ZipFile(content) as whole, zipfile.ZipFile(path, "w") as out:
        for name in whole.namelist():
            out.writestr(name, change(name, whole.read(name)))


def pickle_in_a_program(path: Path, mark: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name.endswith(".pt"):  # the example inputs
            return pickle.dumps(Creates(mark))
        return content

    program_with(path, change)


def pickled_weights(path: Path, mark: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name.endswith("_weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        if "/weights/weight_" in name:
            return pickle.dumps(Creates(mark))
        return content

    program_with(path, change)


def code_for(mark: Path) -> str:
    return f"__import__('pathlib').Path({str(mark)!r}).touch()"


def guard_that_runs(path: Path, mark: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        graph = json.loads(content)
        graph["guards_code"] = [f"{code_for(mark)} is None"]
        return json.dumps(graph).encode()

    program_with(path, change)


def expression_that_runs(path: Path, mark: Path) -> None:
    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            if "expr_str" in value:
                return {**value, "expr_str": code_for(mark)}
            return {key: changed(inner) for key, inner in value.items()}
        return [changed(inner) for inner in value] if isinstance(value, list) else value

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        return json.dumps(changed(json.loads(content))).encode()

    program_with(path, change)


class Opens(torch.nn.Module):
    """A module of TorchScript that creates a file as soon as it is read."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        assert torch.from_file(state[0], True, 4).numel() == 4


def script_that_runs(path: Path, mark: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have torch.export
        torch.jit.save(torch.jit.script(Opens(str(mark))), str(path))


@pytest.mark.parametrize(
    ("attack", "ending"),
    [
        (pickle_in_a_program, "pt2"),
        (pickled_weights, "pt"),
        (guard_that_runs, "pt2"),
        (expression_that_runs, "pth"),
        (script_that_runs, "ts"),
    ],
)
def test_nothing_in_a_program_runs_unless_it_is_trusted(
    attack, ending, digit_files, tmp_path, say, monkeypatch
):
    monkeypatch.setattr(own_code, "_trusted_content", set())
    mark = tmp_path / "mark"
    program = tmp_path / f"program.{ending}"
    attack(program, mark)
    for command in (
        ["predict", program, digit_files / "3"],
        ["serve", program, "--port", 0],
        ["upscale", program, digit_files / "3"],
        ["train", digit_files, "--out", tmp_path / "runs", "--weights", program],
        # another file is trusted, not this one
        ["predict", "--trust", __file__, program, digit_files / "3"],
    ):
        code, _, errors = say(*command)
        assert code == 2, command
        assert errors.count("\n") == 1
        assert "can run code" in errors
        assert f"--trust {program}" in errors
    for command in ("evaluate", "export", "load", "report", "pack", "card"):
        assert say(command, program)[0] == 2
    assert not mark.exists()
    assert not (tmp_path / "runs").exists()

    own_code.trust(program)
    with suppress(Exception):
        formats.load_program(program, 1)({"images": np.zeros((2, 3, 8, 8), np.float32)})
    if not mark.exists():
        pytest.skip("this version of torch does not run it either")


def test_trust_is_in_the_bytes_of_a_program(tmp_path, say, digit_files):
    mark = tmp_path / "mark"
    for name in ("mine.ts", "other.ts"):
        script_that_runs(tmp_path / name, mark)
    own_code.trust(tmp_path / "mine.ts")
    with (tmp_path / "mine.ts").open("ab") as file:
        file.write(b"\0")
    code, _, errors = say("predict", tmp_path / "mine.ts", digit_files / "3")
    assert code == 2
    assert "can run code" in errors
    assert not mark.exists()


def test_a_program_that_is_not_there_cannot_be_trusted(tmp_path, say, digit_files):
    code, _, errors = say("predict", "x.pt2", digit_files / "3", "--trust", tmp_path / "x.pt2")
    assert code == 2
    assert f"there is no file {tmp_path / 'x.pt2'}" in errors


# ---- ONNX --------------------------------------------------------------------------------------------------------------


def onnx_with(tensor: Any, *, deep: int = 0) -> bytes:
    """Return an ONNX model that adds a tensor to its input, inside so many branches."""
    helper = pytest.importorskip("onnx").helper
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    added = helper.make_tensor_value_info("y", 1, None)
    body = helper.make_graph(
        [constant, helper.make_node("Add", ["x", "w"], ["y"])], "g", [], [added]
    )
    for _ in range(deep):
        branch = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
        # one of two branches, so that the file grows by a line for each
        del branch.attribute[1]
        body = helper.make_graph([branch], "g", [], [added])
    body.input.append(helper.make_tensor_value_info("x", 1, ["n"]))
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(body, opset_imports=opset, ir_version=10).SerializeToString()


def graphs_inside_graphs(count: int) -> bytes:
    """Return an ONNX model deeper than the onnx package would write one."""
    content = b""
    for field in [6, 5, 1] * count + [7]:  # a node of a graph, its attribute, a graph in it
        length = len(content)
        size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
        content = bytes([field << 3 | 2]) + size + content
    return content


def tensor_of(location: str = "", side: int = 4) -> Any:
    onnx = pytest.importorskip("onnx")
    if not location:
        return onnx.TensorProto(name="w", data_type=1, dims=[side], raw_data=bytes(16))
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[side], data_location=1)
    for key, value in (("location", location), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize(
    "location", ["../../etc/passwd", "/etc/passwd", "beside", "C:\\x", "./a/../b"]
)
@pytest.mark.parametrize("deep", [0, 2])
def test_an_onnx_file_reads_no_other_file(location, deep, tmp_path, digit_files, say):
    (tmp_path / "beside").write_bytes(bytes(16))
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_with(tensor_of(location), deep=deep))
    for command in (["predict", path, digit_files / "3"], ["serve", path, "--port", 0]):
        code, _, errors = say(*command)
        assert code == 2
        assert "takes weights from another file, which is not followed" in errors
        assert errors.count("\n") == 1


def test_an_onnx_file_that_is_none_or_is_too_large_is_one_line(tmp_path, digit_files, say):
    path = tmp_path / "m.onnx"
    for content in (
        b"", b"\x08", bytes(300), b"PK\x03\x04" + bytes(99), b"\xff" * 40,
        onnx_with(tensor_of(side=2**40)), onnx_with(tensor_of(side=-4)),
        onnx_with(tensor_of(), deep=9), graphs_inside_graphs(60), onnx_with(tensor_of())[:-5],
    ):  # fmt: skip
        path.write_bytes(content)
        code, _, errors = say("predict", path, digit_files / "3")
        assert code == 2
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
    with path.open("wb") as file:
        file.truncate(3_000_000_000)  # without a block on the disk
    code, _, errors = say("predict", path, digit_files / "3")
    assert code == 2
    assert "larger than 2,000,000,000 bytes" in errors
    path.unlink()
    os.mkfifo(path)
    assert say("predict", path, digit_files / "3")[0] == 2


# ---- texts in pictures ------------------------------------------------------------------------------------------------


def with_text(kind: bytes, length: int) -> bytes:
    """Return a PNG of 4 by 4 pixels before whose pixels stands a compressed text of `length`
    characters.
    """
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 77).save(buffer, "PNG")
    text = zlib.compress(b"a" * length, 9)
    body = kind + (b"note\0\0" if kind == b"zTXt" else b"note\0\1\0\0\0") + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    # after the signature and the head
    return buffer.getvalue()[:33] + chunk + buffer.getvalue()[33:]


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
@pytest.mark.parametrize("length", [1_000, 1_000_000, 50_000_000])
def test_a_text_in_a_png_is_unpacked_to_a_megabyte_at_most(kind, length, monkeypatch):
    unpacked = []
    before = zlib.decompressobj

    class Counting:
        def __init__(self, *arguments: Any) -> None:
            self.inner = before(*arguments)

        def decompress(self, *arguments: Any) -> bytes:
            content = self.inner.decompress(*arguments)
            unpacked.append(len(content))
            return content

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    content = with_text(kind, length)
    monkeypatch.setattr(PngImagePlugin.zlib, "decompressobj", Counting)
    pixels = decode(content, height=4, width=4, channels=1)
    assert (pixels == 77).all()
    assert unpacked, "Pillow unpacks texts in another way: count there"
    assert max(unpacked) <= 2**20


def _name_a_network(run: Path, reference: str) -> None:
    """Let model.json ask for a network that is code."""
    description = json.loads((run / "model.json").read_text(encoding="utf-8"))
    description["architecture"] = {"name": reference, "options": {}}
    (run / "model.json").write_text(json.dumps(description), encoding="utf-8")


def _name_a_loss(run: Path, reference: str) -> None:
    """Let the recipe of a run that was stopped ask for a loss that is code."""
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    recipe = recipe.replace("loss: cross-entropy", f"loss: {reference}")
    (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    (run / "status.json").write_text(json.dumps({**status, "state": "stopped"}), encoding="utf-8")


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("hidden", ["file", "module"])
@pytest.mark.parametrize(
    ("attack", "commands"),
    [
        (_name_a_network, ("predict RUN PHOTO", "evaluate RUN", "train digits --weights RUN")),
        (_name_a_loss, ("train --resume RUN",)),
    ],
)
def test_a_run_that_names_code_does_not_run_it(
    attack, commands, hidden, recorded, copied_run, digit_files, tmp_path, say, monkeypatch
):
    mark = tmp_path / "mark"
    (tmp_path / "bomb.py").write_text(f"open({str(mark)!r}, 'w')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    reference = f"{tmp_path / 'bomb.py'}:build" if hidden == "file" else "bomb:build"
    attack(copied_run.path, reference)
    if recorded:  # whatever hash a stranger writes down
        sha256 = hashlib.sha256((tmp_path / "bomb.py").read_bytes()).hexdigest()
        row = {"field": "model", "reference": reference, "sha256": sha256, "copy": ""}
        (copied_run.path / "code.json").write_text(json.dumps({"code": [row]}), encoding="utf-8")

    photo = next(digit_files.rglob("*.png"))
    for command in commands:
        words = command.replace("RUN", str(copied_run.path)).replace("PHOTO", str(photo))
        code, _, errors = say(*words.split())
        assert code == 2, command
        assert "executes no code" in errors, command
    assert not mark.exists()
