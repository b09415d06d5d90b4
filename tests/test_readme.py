"""The README keeps its word: its commands run as printed, and nothing that it names is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tintype import api
from tintype.verbs import board
from tintype.verbs.serve import server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What keeps a training short: the command's arguments are the README's, and these follow.
SHORT = {
    "train": ["--steps", "2", "--batch", "16", "--threads", "1"],
    "study": ["--steps", "2", "--threads", "1"],
    "tune": ["--steps", "2", "--trials", "2", "--threads", "1"],
}


def blocks(language: str = "") -> list[str]:
    """Return the code blocks of the README in a language; plain ones for ""."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for marked, text in found if marked == language]


def commands() -> list[list[str]]:
    """Return the arguments of every line that begins with `tintype`, in their order."""
    lines = [line for block in blocks() for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("tintype ")]


def shortened(line: list[str]) -> list[str]:
    """Return the arguments that keep a command short; of a repeated option the last one counts."""
    if "--time" in line:
        return ["--time", "2s", "--threads", "1"]
    if "--epochs" in line:
        return ["--epochs", "0.1", "--threads", "1"]
    return SHORT.get(line[0], [])


class Stopped:
    """A server that somebody stops as soon as it listens."""

    server_address = ("127.0.0.1", 8765)

    def __enter__(self) -> Stopped:
        return self

    def __exit__(self, *_: object) -> None: ...

    def serve_forever(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.slow
def test_every_line_of_the_readme_can_be_typed_after_the_demo(
    tt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_reports: None
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    monkeypatch.setattr(board, "make_server", lambda *_, **__: Stopped())
    monkeypatch.setattr(server, "serve", lambda *_, **__: None)

    listed = commands()
    assert len(listed) > 20
    assert {"train", "audit", "predict", "compare", "study", "tune", "export"} <= {
        line[0] for line in listed
    }

    # long enough that its confidence can promise something
    assert tt("train", "digits", "--epochs", "5", "--threads", "1")[0] == 0

    for line in listed:
        code, output, errors = tt(*line, *shortened(line))
        assert code == 0, (line, output, errors)

    assert (tmp_path / "which.html").is_file()
    assert (tmp_path / "answers.csv").read_text(encoding="utf-8").count("\n") == 76
    assert (tmp_path / "larger").is_dir()


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_reports: None
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    [block] = blocks("python")
    names: dict[str, Any] = {}
    exec(block.replace("epochs=5", "steps=2, threads=1"), names)
    assert isinstance(names["run"], api.Run)
    assert len(names["prediction"].top5) == 5


def test_the_test_command_of_the_readme_is_the_one_that_ci_calls() -> None:
    assert re.search(r"^make test\b", "\n".join(blocks()), re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda page: page.name,
)  # fmt: skip
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, target


def test_the_tree_of_the_design_page_is_the_tree() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    [tree] = re.findall(r"^```\ntintype/\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    named: set[str] = set()
    folder = ""
    for line in tree.splitlines():
        for name in re.findall(r"^ {2,4}(\S+\.py|\S+/)(?= |$)", line):
            inner = line.startswith("    ")
            folder = folder if inner else name
            named.add(f"{folder}{name}" if inner else name)

    missing = [name for name in named if not (ROOT / "tintype" / name).exists()]
    assert missing == ["tasks/NAME/"]
    files = {path.name for path in (ROOT / "tintype").glob("*.py")}
    folders = {path.parent.name + "/" for path in (ROOT / "tintype").glob("*/__init__.py")}
    assert (files | folders) <= named
