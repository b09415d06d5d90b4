"""A task of the user's own, in one file, and what of it runs where nobody has named it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from tintype import api, own_code
from tintype.data import open_data
from tintype.errors import UserError
from tintype.pages.report import write_report
from tintype.progress import Watcher
from tintype.recipe import UnreadOptions, build
from tintype.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("short_reports")

EXAMPLES = Path(__file__).parent.parent / "examples"
RAN = "\nimport pathlib\n\npathlib.Path(__file__).with_suffix('.ran').touch()\n"


def _no_graph(*_: Any) -> None:
    """Keep no graph, which takes longer than the run."""


class _Stop(Watcher):
    """Ends the process, so to speak, at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_row(self, row: dict[str, Any]) -> None:
        if row["step"] == self.at:
            raise KeyboardInterrupt


def forget_code() -> None:
    """Forget what code was named, as another process would not know it."""
    own_code._trusted.clear()
    own_code._approved.clear()
    for name in [name for name in sys.modules if name.startswith("tintype_own_my_task")]:
        del sys.modules[name]


@pytest.fixture
def forget() -> Iterator[Callable[[], None]]:
    """Return what forgets the code that was named, and do so after the test."""
    yield forget_code
    forget_code()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in a folder of its own, which leaves a mark where it runs."""
    path = tmp_path_factory.mktemp("task") / "my_task.py"
    path.write_text((EXAMPLES / "my_task.py").read_text(encoding="utf-8") + RAN, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def once(written: Path, short_report: Callable[[Path], Path]) -> RunFolder:
    """A run of the task."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tintype.training.run.write_report", short_report)
        return api.train(
            "digits", task=str(written), task_options={"noise": 0.1}, epochs=2, device="cpu",
            out=written.parent, name="run", watcher=Watcher(),
        )  # fmt: skip


@pytest.fixture
def file(written: Path, tmp_path: Path) -> Path:
    """The example in the folder of the test."""
    return Path(shutil.copy(written, tmp_path))


@pytest.fixture
def trained(once: RunFolder, written: Path, tt, forget: Callable[[], None]) -> RunFolder:
    """A run of the task, in a process that was never shown its code."""
    shutil.copytree(once.path, "runs/run")
    forget()
    written.with_suffix(".ran").unlink(missing_ok=True)
    return RunFolder(Path("runs/run"))


def test_a_file_is_a_task(trained: RunFolder, written: Path, file: Path, tt) -> None:
    assert {row["field"]: row["reference"] for row in trained.own_code} == {
        "task": str(written), "model": f"{written}:Net",
    }  # fmt: skip
    kept = trained.path / "code" / "my_task.py"
    assert kept.read_bytes() == file.read_bytes()
    figures = trained.read("evaluation.json")["splits"]

    code, output, errors = tt("evaluate", trained.path, "--trust", file, "--split", "val", "--json")
    assert code == 0, errors
    measured = json.loads(output)
    assert measured["psnr"] == figures["val"]["psnr"]

    run = api.load(trained.path)
    network = run.model
    images = open_data("digits").test.take(torch.arange(40)).images.float() / 255
    with torch.no_grad():
        rebuilt = network(images)
    expected = [
        peak_signal_noise_ratio(image.numpy(), answer.numpy(), data_range=1)
        for image, answer in zip(images, rebuilt, strict=True)
    ]
    pixels = (images[:, 0] * 255).round().numpy().astype(np.uint8)
    answers: Any = run.predict(pixels)
    assert [answer.values["psnr"] for answer in answers] == pytest.approx(expected, abs=0.05)
    assert run.recipe.fields()["noise"] == 0.1


def test_a_run_of_a_task_is_read_without_its_code(
    trained: RunFolder, written: Path, file: Path, tt
) -> None:
    assert isinstance(trained.recipe.options, UnreadOptions)
    assert trained.recipe.fields()["noise"] == 0.1
    code, output, errors = tt("list", "runs")
    assert code == 0, errors
    psnr = trained.read("evaluation.json")["splits"]["test"]["psnr"]
    assert f"{psnr:.2f}" in output
    assert write_report(trained.path).is_file()

    kept = trained.path / "code" / "my_task.py"
    for command in (
        ("evaluate", trained.path), ("predict", trained.path, EXAMPLES / "seven.png"),
        ("export", trained.path),
    ):  # fmt: skip
        code, _, errors = tt(*command)
        assert code == 2
        assert errors.splitlines()[-1].endswith(f"If you trust it: --trust {kept}.")
    assert not written.with_suffix(".ran").exists()
    assert not (kept.with_suffix(".ran")).exists()

    file.write_text(file.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    code, _, errors = tt("evaluate", trained.path, "--trust", file)
    assert code == 2
    assert "is not the task that" in errors


def test_what_a_task_does_not_offer_is_said(trained: RunFolder, file: Path, tt) -> None:
    for command, says in [
        (("export", trained.path, "--trust", file), "runs of task my_task cannot be exported."),
        (("card", trained.path), "which is your own, have no model card."),
    ]:  # fmt: skip
        code, _, errors = tt(*command)
        assert code == 2
        assert says in errors
    with pytest.raises(UserError, match=r"task my_task, whose network .* Use run\.model"):
        api.load(trained.path).embed(EXAMPLES / "seven.png")


def test_a_run_of_a_task_resumes_with_the_same_bits(
    tt, file: Path, forget: Callable[[], None], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("tintype.training.run.record_graph", _no_graph)
    fields: dict[str, Any] = {
        "task": f"{file}:Autoencoder", "epochs": 1, "device": "cpu", "threads": 1,
        "task_options": {"noise": 0.2},
    }  # fmt: skip
    whole = api.train("digits", out=tmp_path, name="whole", watcher=Watcher(), **fields)
    with pytest.raises(KeyboardInterrupt):
        api.train("digits", out=tmp_path, name="parts", watcher=_Stop(at=7), **fields)

    forget()
    code, _, errors = tt("train", "--resume", "parts")
    assert code == 2
    assert "--trust parts/code/my_task.py" in errors
    code, _, errors = tt("train", "--resume", "parts", "--trust", "parts/code/my_task.py")
    assert code == 0, errors
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    recipes = [(tmp_path / name / "recipe.yaml").read_bytes() for name in ("whole", "parts")]
    assert recipes[0] == recipes[1]
    assert whole.recipe.fields()["noise"] == 0.2


def test_a_class_in_python_is_a_task(file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tintype.training.run.record_graph", _no_graph)
    shutil.copy(file, tmp_path / "given_task.py")
    import given_task  # pyright: ignore[reportMissingImports]

    run = api.train(
        "digits", task=given_task.Autoencoder, epochs=1, out=tmp_path, watcher=Watcher(),
        test_fraction=0,
    )  # fmt: skip
    assert run.recipe.task == "python:Autoencoder"
    assert type(run.model).__name__ == "Net"
    evaluation = run.read("evaluation.json")
    assert not evaluation["tested"]
    assert f"{evaluation['splits']['val']['psnr']:.4g}" in evaluation["verdict"]["text"]


LACKING = """\
from tintype.tasks.task import Task


class Empty(Task):
    pass


class Other(Task):
    make = restore = classmethod(lambda cls, *_, **__: cls())


class Failing(Task):
    score_name = "none"
    make = restore = classmethod(lambda cls, *_, **__: 1 / 0)
"""


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("absent.py", "there is no file"),
        ("lacking.py", r"which task of .*lacking\.py\? It has Empty, Other, Failing"),
        ("lacking.py:Empty", "the task Empty has no make"),
        ("lacking.py:Failing", "the task Failing fails with ZeroDivisionError"),
        ("lacking.py:Othre", "Did you mean 'Other'"),
        ("json:loads", "the task loads is no task"),
        ("clasify", "unknown task 'clasify'"),
    ],
)
def test_what_is_no_task_is_refused_before_a_folder_is_made(tt, task: str, says: str) -> None:
    Path("lacking.py").write_text(LACKING, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        api.train("digits", task=task, epochs=1, watcher=Watcher())
    assert not Path("runs").exists()


def test_the_fields_of_a_task_are_checked(tt, file: Path) -> None:
    for wrong, says in [
        ("nois=1", "Did you mean 'noise'"), ("noise=-1", "greater than or equal to 0"),
        ("label_smoothing=0.1", "no effect on task my_task"),
    ]:  # fmt: skip
        code, _, errors = tt("train", "digits", "--task", "my_task.py", "--set", wrong)
        assert code == 2
        assert says in errors
    assert isinstance(
        build({"task": "never_named.py", "anything": 3}, where="").options, UnreadOptions
    )
