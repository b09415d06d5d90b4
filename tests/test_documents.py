"""What docs/python.md shows can be typed in its order, and all Python that is shown is typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/python.md")
EXAMPLES = ("examples/my_task.py", "examples/own_code.py", "examples/quickstart.py")


def blocks(page: str, language: str = "python") -> list[str]:
    """Return the Python of a page, block by block; `py` marks what calls libraries without types."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{language})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_block_of_the_python_page_can_be_typed_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_reports: None
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("docs/python.md", "python|py"):
        exec(re.sub(r"epochs=5|steps=30", "steps=2", block).replace("cv=3", "cv=2"), names)

    assert names["run"].status["state"] == "finished"
    assert (tmp_path / "runs" / "own" / "report.html").is_file()
    assert names["seen"]


@pytest.mark.slow
def test_python_that_is_shown_passes_a_strict_type_checker(tmp_path: Path) -> None:
    # Results are shown by standing alone in a line, as in a notebook.
    strict = "# pyright: strict, reportUnusedExpression=false, reportMissingTypeStubs=false\n"
    shown = {page.replace("/", "_"): "\n".join(blocks(page)) for page in PAGES}
    shown |= {
        name.replace("/", "_"): (ROOT / name).read_text(encoding="utf-8") for name in EXAMPLES
    }
    shown["wrong"] = 'import tintype as tt\ntt.train("digits", epohcs=5)\ntt.Recipe(epohcs=5)\n'
    for name, text in shown.items():
        (tmp_path / f"{name.removesuffix('.py').replace('.', '_')}.py").write_text(
            strict + text, encoding="utf-8"
        )

    project = {"include": ["."], "extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(project), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)],
        capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False,
    )  # fmt: skip
    said = json.loads(ran.stdout)["generalDiagnostics"]
    lines = [
        f"{Path(each['file']).name}:{each['range']['start']['line'] + 1}: {each['message']}"
        for each in said
        if each["severity"] == "error"
    ]
    assert [line for line in lines if not line.startswith("wrong.py")] == []
    assert [line.split(":")[1] for line in lines] == ["3", "4"]
    assert all("epohcs" in line for line in lines)
