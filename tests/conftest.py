"""Shared by all tests: an own cache, one thread (bit-equal everywhere), and small runs on
scikit-learn's digits.
"""

# ruff: noqa: E402 (the environment must be set before torch is imported)

from __future__ import annotations

import gc
import locale
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch is imported, and inherited by the subprocesses. tests/machines.py asks for other
# machines.
os.environ["OMP_NUM_THREADS"] = os.environ.get("TINTYPE_TEST_THREADS", "1")
PRECISION = os.environ.get("TINTYPE_TEST_PRECISION", "fp32")
if "TINTYPE_TEST_THREADS" in os.environ:
    locale.setlocale(locale.LC_ALL, "")
_CACHE = tempfile.TemporaryDirectory(prefix="tintype-tests-")
os.environ["TINTYPE_CACHE"] = _CACHE.name
os.environ.pop("TINTYPE_DATA_ROOT", None)
os.environ["TINTYPE_WEIGHTS_MIRROR"] = "http://127.0.0.1:9"  # no test downloads pretrained weights

# Under nohup it is ignored, by all that the tests start as well.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import hypothesis
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from tintype import api, cli
from tintype.pages import print_figures
from tintype.pages.report import write_report
from tintype.progress import Watcher
from tintype.recipe import Recipe, build, resolve
from tintype.runs.folder import RunFolder

# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# What is imported stays, and to look through it again and again took a tenth of the suite's time.
gc.freeze()


def _written(_: int) -> None:
    """Leave what was written to the system: nobody pulls the plug here, and to wait for the disk
    after each file took longer than most tests compute.
    """


os.fsync = _written

# Most of the time of a page goes into the dots of its figures for print.
FEW_DOTS = 40
print_figures.DPI = FEW_DOTS

_render = print_figures._rendered
_rendered: dict[tuple[Any, ...], bytes] = {}


def _rendered_once(figure: Figure, form: str, metadata: dict[str, str | None]) -> bytes:
    """Render one figure of each kind and hand it out for the others of that kind.

    Two are of one kind if their axes are about the same and they hold the same unusual words. Tests
    of the files themselves set another DPI, with which each figure is rendered.
    """
    if print_figures.DPI != FEW_DOTS:
        return _render(figure, form, metadata)

    about = [(ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes[:4]]
    words = {text.get_text() for text in figure.findobj(Text)}
    unusual = {word for word in words if re.search(r"[^\w\s.,:;%()/+−–·×-]", word)}
    kind = (form, *about, frozenset(unusual))
    if kind not in _rendered:
        _rendered[kind] = _render(figure, form, metadata)
    return _rendered[kind]


print_figures._rendered = _rendered_once

# PyTorch counts no more threads than there are cores unless it is asked.
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

Answer = tuple[int, str, str]  # exit code, output, errors


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Fail a test after which this process computes on another number of threads.

    The tests after it would compare other last bits.
    """
    before = int(os.environ["OMP_NUM_THREADS"])
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before, f"{after} threads are left, and {before} were there"


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """Return a function that makes the recipe of a run of a fraction of a second; its arguments are
    fields.
    """
    fields = {
        "data": "digits", "model": "ann", "model_options": {"hidden": [16]}, "epochs": 2, "batch_size": 100,
        "lr": 0.01, "precision": PRECISION, "device": "cpu",
    }  # fmt: skip

    def make(**changes: Any) -> Recipe:
        if "steps" in changes:
            changes["epochs"] = None
        return build({**fields, **changes}, where="")

    return make


@pytest.fixture(scope="session")
def train_in() -> Callable[..., RunFolder]:
    """Return a function that trains a recipe in a folder as `tintype train` does, without the
    report.
    """
    from tintype.training.prepare import prepare
    from tintype.training.run import train_run

    def train(folder: Path, recipe: Recipe, watcher: Watcher | None = None) -> RunFolder:
        run = RunFolder(folder)
        if not folder.exists():
            run = RunFolder.create(folder.parent, folder.name, exact=True)
            run.write_recipe(recipe)
        watcher = watcher or Watcher()
        train_run(run, prepare(run.recipe, watcher), watcher, "test")
        return run

    return train


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe]) -> api.Run:
    """A finished run on digits, with its report.

    Tests must not change it; `copied_run` may be changed.
    """
    recipe = tiny(model_options={"hidden": [32]}, epochs=10)
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:  # also where pages are short
        patch.setattr("tintype.training.run.write_report", write_report)
        return api.train(recipe, out=folder, name="digits", watcher=Watcher())


@pytest.fixture
def copied_run(finished_run: api.Run, tmp_path: Path) -> api.Run:
    import shutil

    return api.Run(shutil.copytree(finished_run.path, tmp_path / "copied"))


@pytest.fixture(scope="session")
def kinds(
    tmp_path_factory: pytest.TempPathFactory,
    finished_run: api.Run,
    tiny: Callable[..., Recipe],
    train_in: Callable[..., RunFolder],
) -> dict[str, api.Run]:
    """Runs by name: a classifier without heat maps ("digits") and one with them ("cnn"), a
    generator, one that enlarges.
    """
    folder = tmp_path_factory.mktemp("kinds")
    gan = {
        "task": "generate",
        "model": "dcgan",
        "model_options": {"width": 8, "latent": 8, "conditional": True},
    }
    x2 = resolve("photos-x2")[0].replace(
        steps=4, batch_size=4, evaluate_every=1, device="cpu", precision="fp32"
    )
    made = {
        "cnn": tiny(model="cnn", model_options={"widths": [8], "hidden": [16]}, epochs=6),
        "gan": tiny(**gan, steps=10, batch_size=50, optimizer="adam", lr=0.001, evaluate_every=1),
        "sharp": x2.replace(**{"model.width": 8}),
    }
    return {
        "digits": finished_run,
        **{name: api.Run(train_in(folder / name, recipe).path) for name, recipe in made.items()},
    }


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Return a function that runs `tintype ARGUMENTS` and gives exit code, output and errors."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def tt(
    say: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Answer]:
    """Return what `say` does, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return say


@pytest.fixture(scope="session")
def short_report() -> Callable[[Path], Path]:
    """Return a function that writes a line in place of a run's page, which takes longer than the
    run.
    """

    def write(path: Path) -> Path:
        (path / "report.html").write_text("a report", encoding="utf-8")
        return path / "report.html"

    return write


@pytest.fixture
def short_reports(monkeypatch: pytest.MonkeyPatch, short_report: Callable[[Path], Path]) -> None:
    """Leave the pages of runs short; those of studies and tunings are whole."""
    monkeypatch.setattr("tintype.training.run.write_report", short_report)


@pytest.fixture(scope="module")
def short_pages(short_report: Callable[[Path], Path]) -> Iterator[None]:
    """Leave the pages of all runs of a module short, those of its fixtures as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tintype.training.run.write_report", short_report)
        yield


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten class folders of twelve digits each, as PNG."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("photos") / "digits"
    digits: Any = load_digits()
    for k in range(10):
        (root / str(k)).mkdir(parents=True)
        for i in (digits.target == k).nonzero()[0][:12]:
            Image.fromarray((digits.images[i] * (255 / 16)).round().astype("uint8")).save(
                root / str(k) / f"{i:04d}.png"
            )
    return root


class _Killer(Watcher):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, step: int, *_: Any) -> None:
        if step >= self.at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def killed_at(monkeypatch) -> Callable[..., None]:
    """Return a function (step, data, **fields) that trains in a process which kills itself there."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")

    def begin(step: int, data: object, **fields: Any) -> None:
        monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
        child = os.fork()
        if not child:
            try:
                api.train(str(data), **fields, watcher=_Killer(step))
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL

    return begin
