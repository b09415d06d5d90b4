"""`make bench` goes on where it stopped, and every figure of the documentation names what gave it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

# What parts print, with the figures that stand in it.
PRINTED = {
    "throughput": ("engine / bare step   0.976\nengine / usual loop  4.15\n", [4.15, 0.976]),
    "ingest": (
        "first pass                   1,020                       340      3.0\n"
        "later pass                   9,020                       350     25.8\n",
        [3.0, 25.8],
    ),
    "serve": ("batched / plain: 2.31 (2.20 to 2.40)\n", [2.31]),
    "predict": ("share of the bound: median 0.93 (0.90 to 0.96)\n", [0.93]),
    "heads": (
        "2 pairs: log loss -0.0848 on average (lower in 2); accuracy +1.89 points (paired 95 % "
        "interval +0.10 to +3.68); seconds 0.15 of theirs in the median, 0.16 at the most.",
        [0.15, 1.89],
    ),
    "mnist beside keras": (
        "tintype   0.3 epochs    14.7 s  99.10% (99.10%)\n"
        "keras      11 epochs   195.8 s  99.09%; 13.3 times as long\n",
        [13.3, 14.7],
    ),
    "photos": (
        "| pets | tintype | 60 s | 86.5 | 86.5 % | 58 |\n| pets | fastai | 60 s | 80.1 | 80.1 % | 61 |",
        [86.5, 80.1],
    ),
    "whole": ("digits: 9.71 s, 6.70 s of computing\nimport tintype: 0.11 s\n", [9.71, 0.11]),
}


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / "bench.py"))


@pytest.mark.parametrize("name", PRINTED)
def test_figures_are_read_from_what_a_part_prints(bench, name):
    text, figures = PRINTED[name]
    assert list(bench["read"](bench["PARTS"][name], text).values()) == figures


def test_cells_are_kept_and_tables_stand_between_the_markers(bench, tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/results.md"):
        text = f"before\n{bench['BEGIN']}\nstale\n{bench['END']}\nafter\n"
        (tmp_path / page).write_text(text, encoding="utf-8")
    arguments = [
        "--quick", "--rounds", "1", "--out", str(tmp_path / "out"), "--write", "--pages", str(tmp_path),
        "--only", "ingest", "predict", "mnist beside keras",
    ]  # fmt: skip
    bench["main"](arguments)
    said = capsys.readouterr().out
    assert "ingest 1: " in said
    assert "predict: skipped, it is not part of --quick" in said
    assert "mnist beside keras: skipped" in said

    page = (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "stale" not in page
    assert "| photos a second of the first pass, of ImageFolder and DataLoader | " in page
    assert "`benchmarks/ingest.py`" in page

    bench["main"](arguments)
    assert "ingest 1: " not in capsys.readouterr().out  # the cell is on disk


def test_a_part_that_fails_is_named(bench, tmp_path):
    gone = bench["Part"]("gone.py", "", None, (), 1.0)
    assert "ended with 2: " in bench["measure"](gone, "", 60.0)["failed"]
    slow = bench["measure"](bench["PARTS"]["ingest"], "--photos 8", 0.01)
    assert slow == {"failed": "it took more than 0 s"}
    assert "no pets" in bench["missing"](bench["PARTS"]["photos"], {}, {"fastai": "1"})


def options_of(script: str) -> set[str]:
    """Return the options that a script of benchmarks/ declares."""
    text = (BENCHMARKS / script).read_text(encoding="utf-8")
    return set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", text)) | {"--help"}


def test_parts_name_scripts_and_options_that_exist(bench):
    for part in bench["PARTS"].values():
        for arguments in filter(None, (part.arguments, part.quick)):
            assert set(re.findall(r"--[\w-]+", arguments)) <= options_of(part.script)


def test_the_pages_have_a_place_for_the_tables(bench):
    for page in ("README.md", "docs/results.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert text.count(bench["BEGIN"]) == text.count(bench["END"]) == 1


# ---- each figure names what gave it --------------------------------------------------------------


def code_of(page: Path) -> list[str]:
    """Return what stands as code in a page."""
    text = page.read_text(encoding="utf-8")
    return [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_name_scripts_options_and_recipes_that_exist(page):
    known = {file.stem for file in (ROOT / "tintype" / "recipes").glob("*.yaml")}
    for code in code_of(page):
        for script, rest in re.findall(r"benchmarks/(\w+\.py)([^`;]*)", code):
            assert (BENCHMARKS / script).is_file(), code
            own = options_of(script)
            if "parse_known_args" not in (BENCHMARKS / script).read_text(encoding="utf-8"):
                assert set(re.findall(r"(?<=\s)--[a-z][\w-]*", rest)) <= own, code
        for name in re.findall(r"^tintype train ([a-z0-9]+(?:-[a-z0-9_]+)*)(?: |$)", code):
            assert name in known or page.name not in ("README.md", "results.md"), code


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs" / "results.md"], ids=lambda p: p.name
)
def test_each_table_of_figures_names_the_command_that_gave_it(page):
    section: list[str] = []
    for block in page.read_text(encoding="utf-8").split("\n\n"):
        if block.startswith("#"):
            section = []
        section.append(block)
        is_table = re.search(r"^\|[-:| ]+\|$", block, re.MULTILINE)
        if is_table and re.search(r"\d \|", block):
            assert re.search(r"`[^`]*(tintype |benchmarks/|make )[^`]*`", "\n".join(section)), block
