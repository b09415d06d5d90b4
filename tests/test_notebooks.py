"""The notebooks of examples/ run from top to bottom in a kernel, and show what they are there to
show.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tintype import progress
from tintype.interface import notebook
from tintype.interface.notebook import MOST_POINTS, Curve, Panel, in_notebook, picture
from tintype.progress import Live, Watcher, make_watcher

EXAMPLES = Path(__file__).parent.parent / "examples"


class RunInfo:
    """A display that keeps what it was shown last, and how often it was."""

    def __init__(self) -> None:
        self.count, self.html, self.text = 0, "", ""

    def show(self, content: str, text: str) -> None:
        self.count, self.html, self.text = self.count + 1, content, text


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def drawn(html: str) -> str:
    """Return the SVG of the picture in a piece of HTML."""
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert found
    return base64.b64decode(found[1]).decode()


# ---- the live display, without a kernel -------------------------------------------------------------------------------


def train(live: Live, clock: Clock, steps: int, seconds: float = 0.1, total: int = 400) -> None:
    """Tell of steps as the engine does."""
    for step in range(1, steps + 1):
        clock.now += seconds
        live.on_step(step, total, 2 / step, 640.0)
        if step % 20 == 0:
            live.on_evaluation(step, step / 20, {"accuracy": 1 - 1 / step, "loss": 0.5})
        live.on_row({"step": step, "loss": 2 / step})


def test_a_live_display_is_updated_at_most_once_in_a_second(clock):
    told = RunInfo()
    live = Live(told)  # pyright: ignore[reportArgumentType]
    train(live, clock, steps=200)  # 20 seconds
    assert 15 <= told.count <= 21
    assert "step 19" in told.text
    assert "about 20 s left" in told.html or "about 21 s left" in told.html
    before = told.count
    live.close()
    assert told.count == before + 1
    assert "step 200 of 400 · 20 s" in told.text


def test_a_live_display_shows_losses_the_validation_figure_and_notes(clock):
    told = RunInfo()
    live = Live(told)  # pyright: ignore[reportArgumentType]
    live.note("model: <cnn>")
    live.note("warning: little memory")
    train(live, clock, steps=100)
    live.close()
    svg = drawn(told.html)
    assert "validation accuracy" in svg
    assert "99.0%" in svg  # the highest
    assert svg.count("<polyline") == 2
    assert len(re.findall("<circle", svg)) == 5  # an evaluation at every 20th step
    assert "<p>warning: little memory</p>" in told.html  # outside the fold
    assert "model: &lt;cnn&gt;" in told.html
    live.note("report: runs/x/report.html")  # after the end nobody else would show it
    assert "report: runs/x/report.html" in told.html


def test_a_live_display_needs_no_script_and_no_widget(clock):
    told = RunInfo()
    live = Live(told)  # pyright: ignore[reportArgumentType]
    train(live, clock, steps=100)
    live.close()
    assert not re.search(
        r"<script|<svg|onload|http://(?!www\.w3\.org/2000/svg)|https://", told.html
    )
    assert len(told.html) < 20_000


def test_both_losses_of_a_gan_and_its_distance_are_drawn(clock):
    told = RunInfo()
    live = Live(told)  # pyright: ignore[reportArgumentType]
    for step in range(1, 40):
        clock.now += 0.1
        live.on_step(step, 40, 0.7, 100.0)
        live.on_row(
            {
                "step": step,
                "loss_discriminator": 0.7,
                "loss_generator": 2.0 - step / 40,
                "right": 0.5,
            }
        )
    live.on_evaluation(40, 2.0, {"num_images": 9, "kid_x": 0.1, "fd_x": 0.6, "fd_x_floor": 0.1})
    live.close()
    svg = drawn(told.html)
    assert "discriminator" in svg
    assert "generator" in svg
    assert "validation fd_x<" in svg


def test_another_run_begins_new_curves(clock):
    told = RunInfo()
    live = Live(told)  # pyright: ignore[reportArgumentType]
    train(live, clock, steps=100)
    train(live, clock, steps=5)
    assert len(live.losses["loss"].points) <= 5
    assert live.figures.points == []


def test_a_study_shows_the_whole_and_its_lines(clock):
    told = RunInfo()
    live = Live(told)  # pyright: ignore[reportArgumentType]
    live.note("[1 of 4] wide, seed 0")
    clock.now += 2
    live.on_runs(1.5, 4, "wide, seed 1: step 5 of 10", 75.0)
    assert "37 % of 4 runs done · about 1 min 15 s left" in told.html
    assert "<details open>" in told.html
    assert "wide, seed 0" in told.html
    live.on_runs(4, 4, "wide, seed 1: step 10 of 10", 0.0)
    live.close()
    assert "<p>100 % of 4 runs done</p>" in told.html
    assert "step 10 of 10" not in told.html


def test_a_long_run_takes_no_more_room_than_a_short_one():
    curve = Curve()
    for step in range(1, 100_001):
        curve.add(step, float(step), 100_000)
    curve.add(7, float("nan"), 100_000)
    points = curve.points
    assert MOST_POINTS <= len(points) <= MOST_POINTS + 1
    assert all(x == pytest.approx(y) for x, y in points)  # means of stretches lie on the line


@pytest.mark.parametrize("values", [[1.0], [0.5, 0.5], [1e-9, 1e9], [-2.0, 3.0], [0.0, 0.0, 1.0]])
def test_curves_stay_within_their_panel(values):
    points = [(float(step), value) for step, value in enumerate(values)]
    svg = drawn(picture([Panel("loss", {"loss": points}, len(values))], 0.5))
    found = re.search(r"<polyline points='([^']+)'", svg)
    assert found
    for place in found[1].split():
        x, y = map(float, place.split(","))
        assert notebook.LEFT <= x <= notebook.WIDTH
        assert notebook.TOP <= y <= notebook.HEIGHT - notebook.BOTTOM


def test_outside_a_notebook_there_is_none(monkeypatch):
    assert not in_notebook()
    assert not isinstance(make_watcher(), Live)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    assert isinstance(make_watcher(), Live)
    assert type(make_watcher(quiet=True)) is Watcher


# ---- the examples, in a kernel ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def execute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[Any]]]:
    """Return a function that runs an example in a folder of its own and returns the outputs of all
    cells.
    """
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("jupyter")
        patch.setenv("TINTYPE_QUICK", "1")
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(home / name.lower()))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")

        def run(name: str) -> list[Any]:
            content = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
            folder = tmp_path_factory.mktemp(name)
            NotebookClient(
                content,
                timeout=240,
                kernel_name="python3",
                resources={"metadata": {"path": str(folder)}},
            ).execute()
            return [
                output
                for cell in content.cells
                if cell.cell_type == "code"
                for output in cell.outputs
            ]

        yield run


def shown(outputs: list[Any], kind: str) -> list[str]:
    """Return all outputs of a media type."""
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def printed(outputs: list[Any]) -> str:
    return "".join(output["text"] for output in outputs if output.output_type == "stream")


def live_displays(outputs: list[Any]) -> list[str]:
    """Return the displays of training: where they ended, since each is replaced in its place."""
    return [
        content for content in shown(outputs, "text/html") if 'src="data:image/svg+xml' in content
    ]


def num_trained(outputs: list[Any]) -> int:
    """Check that each display came to its end, with curves, and return how many there are."""
    displays = live_displays(outputs)
    for content in displays:
        reached, total = re.findall(r"<p>step ([\d,]+) of ([\d,]+) ·", content)[0]
        assert reached == total
        assert "report.html" in content
        assert drawn(content).count("<polyline") >= 2
    return len(displays)


@pytest.mark.slow
def test_the_notebook_on_classification(execute):
    outputs = execute("classification")
    assert num_trained(outputs) == 2
    tables = shown(outputs, "text/html")
    accuracy = re.search(r"([\d.]+)% of 359 test images", printed(outputs))
    assert accuracy
    assert float(accuracy[1]) > 50
    assert any(f"accuracy {accuracy[1]}" in table and "<table" in table for table in tables)
    assert len(shown(outputs, "image/png")) >= 2  # history, confusion
    assert any("digits-ann" in table and "digits</" in table for table in tables)  # the comparison


@pytest.mark.exhaustive
def test_the_notebook_on_own_code(execute):
    outputs = execute("own_code")
    assert num_trained(outputs) == 1
    assert "the first picture is a " in printed(outputs)
    assert "model: python:Net, kept as code/Net.py" in printed(outputs)
    assert any("accuracy" in table and "<table" in table for table in shown(outputs, "text/html"))


@pytest.mark.exhaustive
def test_the_notebook_on_transfer(execute):
    outputs = execute("transfer")
    assert num_trained(outputs) == 3
    tables = [table for table in shown(outputs, "text/html") if "<table" in table]
    assert any("transferred" in table and "scratch" in table for table in tables)
    assert any("accuracy" in table and "verdict" not in table for table in tables)
    assert shown(outputs, "image/png")


@pytest.mark.exhaustive
def test_the_notebook_on_generation(execute):
    outputs = execute("generation")
    assert num_trained(outputs) == 1
    assert re.search(r"distance [\d.]+, real against real 0\.\d+", printed(outputs))
    assert any("fd_pixels8" in table and "<table" in table for table in shown(outputs, "text/html"))
    assert len(shown(outputs, "image/png")) == 3  # generated, real, history


@pytest.mark.exhaustive
def test_the_notebook_on_super_resolution(execute):
    outputs = execute("super_resolution")
    assert num_trained(outputs) == 1
    assert any("PSNR" in table and "<table" in table for table in shown(outputs, "text/html"))
    found = re.search(r"bicubic ([\d.]+) dB, tintype ([\d.]+) dB", printed(outputs))
    assert found
    assert all(20 < float(value) < 50 for value in found.groups())
    assert len(shown(outputs, "image/png")) == 2  # the crops, history


@pytest.mark.exhaustive
def test_the_notebook_on_studies(execute):
    outputs = execute("study")
    whole = live_displays(outputs)
    assert len(whole) == 1  # one display for all four runs
    assert all(f"[{number} of 4]" in whole[0] for number in range(1, 5))
    assert "study.html" in whole[0]
    tables = [table for table in shown(outputs, "text/html") if "<table" in table]
    assert any("wide + light" in table and "Recommended" in table for table in tables)
    assert "points" in printed(outputs)
    assert any("dataframe" in table for table in tables)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "num_displays", "num_pictures", "words"),
    [
        ("digits_gan", 2, 6, "mnist-dcgan"),
        ("fashion_three_depths", 1, 5, "deep cnn"),
        ("photos_nine_classes", 2, 3, "augmented"),
        ("garbage_two_by_two", 1, 4, "differs from"),
        ("pets_x2", 2, 3, "over bicubic"),
    ],
)
def test_the_notebook_of_each_collection(execute, name, num_displays, num_pictures, words):
    outputs = execute(name)
    assert len(live_displays(outputs)) == num_displays
    assert len(shown(outputs, "image/png")) >= num_pictures
    assert words in printed(outputs)
    assert any("<table" in table for table in shown(outputs, "text/html"))


# ---- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_examples_are_stored_without_outputs(path):
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    assert path.stat().st_size < 20_000
    for cell in content.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_every_kind_of_work_has_a_notebook():
    found = {path.stem for path in EXAMPLES.glob("*.ipynb")}
    small = {
        "classification",
        "transfer",
        "generation",
        "super_resolution",
        "study",
        "own_code",
    }
    collections = {
        "fashion_three_depths",
        "photos_nine_classes",
        "garbage_two_by_two",
        "digits_gan",
        "pets_x2",
    }
    assert found == small | collections
