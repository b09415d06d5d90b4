"""tintype as it is from Python: what `dir` and `help` show, types, and what wrong calls say."""

from __future__ import annotations

import importlib
import inspect
import logging
import pydoc
import shutil
import subprocess
import sys
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fields
import pytest
import torch

import tintype
from tintype import api, progress
from tintype.interface.recipe_fields import RecipeFields
from tintype.recipe import ALIASES, Recipe, field_names

pytestmark = pytest.mark.usefixtures("short_pages")


def test_the_fields_for_type_checkers_are_those_of_the_models() -> None:
    written = fields.WRITTEN.read_text(encoding="utf-8")
    assert written == fields.source(), "python tests/fields.py writes the file again"
    assert set(RecipeFields.__annotations__) == {*field_names(), *ALIASES}


def test_dir_shows_what_a_user_may_use_and_nothing_else() -> None:
    assert set(dir(tintype)) == {*tintype.__all__, "__version__"}
    for name in dir(tintype):
        assert getattr(tintype, name) is not None


@pytest.mark.parametrize("thing", [tintype.train, tintype.Recipe])
def test_help_lists_every_field_with_its_meaning(thing: object) -> None:
    shown = pydoc.render_doc(thing, renderer=pydoc.plaintext)
    for name in field_names():
        assert f"    {name}: " in shown, name
    assert Recipe.model_fields["ema"].description in shown
    assert "pydantic_" not in shown
    assert len(shown) < 15_000


def test_a_submodule_does_not_take_the_place_of_a_public_name() -> None:
    for name in tintype.__all__:
        before = getattr(tintype, name)
        if importlib.util.find_spec(f"tintype.{name}") is not None:
            importlib.import_module(f"tintype.{name}")
        setattr(tintype, name, sys)
        assert getattr(tintype, name) is before


def test_what_a_name_is_does_not_depend_on_what_was_imported_before() -> None:
    code = """
import tintype as tt
assert tt.progress.Watcher and tt.models
for name in ("predict", "export", "trian"):
    try:
        getattr(tt, name)
    except AttributeError as error:
        print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    )
    predict, export, train = ran.stdout.splitlines()
    assert predict.endswith("`predict` belongs to a run: tt.load('runs/NAME').predict.")
    assert export.endswith("`export` belongs to a run: tt.load('runs/NAME').export.")
    assert train.endswith("Did you mean 'train'?")


def test_a_recipe_completes_its_fields_and_says_how_it_is_changed() -> None:
    recipe = Recipe(epochs=2, label_smoothing=0.1)
    assert field_names() - set(dir(recipe)) == field_names() - {*recipe.fields(), "task_options"}
    assert not [
        name for name in dir(recipe) if name.startswith("model_") and name != "model_options"
    ]
    with pytest.raises(tintype.UserError, match=r"recipe\.replace\(epochs=3\)"):
        recipe.epochs = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(tintype.UserError, match="by name"):
        Recipe("digits")  # pyright: ignore[reportCallIssue]
    assert list(inspect.signature(Recipe).parameters) == ["fields"]


def public_functions() -> dict[str, Callable[..., Any]]:
    """Return the functions of the package, and the methods and properties of its classes."""
    found: dict[str, Callable[..., Any]] = {}
    for name in tintype.__all__:
        thing = getattr(tintype, name)
        if inspect.isfunction(thing):
            found[name] = thing
        for key in dir(thing) if inspect.isclass(thing) else ():
            method = inspect.getattr_static(thing, key)
            method = method.fget if isinstance(method, property) else method
            public = not key.startswith("_")
            if public and inspect.isfunction(method) and method.__module__.startswith("tintype"):
                found[f"{name}.{key}"] = method
    return found


def test_the_types_of_all_public_functions_can_be_asked_for() -> None:
    functions = public_functions()
    assert len(functions) > 60
    for name, function in functions.items():
        assert isinstance(typing.get_type_hints(function), dict), name


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import tintype.api, sys; print({'torch', 'pandas', 'optuna', 'plotly'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert ran.stdout.strip() == "set()"


def test_results_say_what_they_are_in_a_line(digit_files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(digit_files, tmp_path / "photos")
    shutil.copy(next((folder / "3").iterdir()), folder / "3" / "copy.png")
    audit = tintype.audit(folder, labels=False)
    assert repr(audit).startswith(f"Audit({str(folder)!r}, 121 images: ")
    assert list(audit.frame().columns) == ["kind", "serious", "title", "num_images"]
    assert [row["kind"] for row in audit.table()] == [finding.kind for finding in audit.findings]


# ---- wrong calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tintype.train([1], [2]), r"train takes only what by position.*\(got 2\)\. Images in memory: tt\.train\(\("),
        (lambda: tintype.train("digits", epohcs=5), "unknown field 'epohcs'. Did you mean 'epochs'\\?$"),
        (lambda: tintype.train("digits", out=3), r"^out: expected a text or a path \(got 3\)\.$"),
        (lambda: tintype.train("digits", watcher=object()), "watcher= takes the place of the display, and object is none"),
        (lambda: tintype.Recipe(dta="x"), "unknown field 'dta'. Did you mean 'data'"),
        (lambda: tintype.Recipe(pretrained=True), "Did you mean 'weights'"),
        (lambda: tintype.Recipe(verbose=False), "Did you mean the argument 'verbose' of tt.train"),
        (lambda: tintype.compare("a", "b"), r"compare takes only runs by position.*tt\.compare\(\[a, b\]\)"),
        (lambda: tintype.compare("a"), r"runs: expected a list \(got 'a'\)"),
        (lambda: tintype.compare(["a", 3]), r"runs\[1\]: expected a text, a path or a Run \(got 3\)"),
        (lambda: tintype.audit("digits", out="x"), r"unknown argument of audit: 'out'.*write_html"),
        (lambda: tintype.audit(), "audit needs data"),
        (lambda: tintype.load(3), "folder: expected a text, a path or a Run"),
        (lambda: tintype.study(3), "what: expected .* a mapping or a declaration"),
        (lambda: tintype.tune("digits", trials="five"), "trials: expected a whole number or None"),
        (lambda: tintype.serve("runs/a"), "runs: expected a list"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_answered_in_one_line(call: Callable[[], object], said: str) -> None:
    with pytest.raises(tintype.UserError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


def test_wrong_calls_of_a_run_are_answered_in_one_line(finished_run: api.Run) -> None:
    for call, said in [
        (lambda: finished_run.export("onnx"), "export takes nothing by position, the rest by name"),
        (
            lambda: finished_run.evaluate(splt="val"),
            "unknown argument of evaluate: 'splt'. Did you",
        ),
        (lambda: finished_run.predict(), "predict needs images"),
        (lambda: finished_run.predict("x.png", device=3), "device: expected a text"),
        (
            lambda: tintype.train(resume=finished_run, epochs=3),
            rf"leave out everything else: tt\.train\(resume='{finished_run.path}'\)",
        ),
    ]:
        with pytest.raises(tintype.UserError, match=said):
            call()


def test_a_run_is_taken_where_a_path_is_and_choices_in_any_case(finished_run: api.Run) -> None:
    recipe = Recipe(optimizer="SGD", weights=finished_run, keep="Best", data=Path("photos"))
    assert recipe.optimizer == "sgd"
    assert recipe.keep == "best"
    assert recipe.fields()["weights"] == str(finished_run.path)
    assert recipe.data == "photos"
    assert Recipe.model_validate({"model": "CNN"}).model == "CNN"


# ---- progress and silence ---------------------------------------------------------------------------------------------


class Heard(progress.Watcher):
    """Remembers what work it was shown."""

    def __init__(self) -> None:
        self.work: list[str] = []

    def on_work(self, what: str, done: int, total: int) -> None:
        self.work.append(what)


def long_calls(run: api.Run, folder: Path) -> dict[str, Callable[..., Any]]:
    """Return calls that may take long, by the word under which they show progress."""
    image = next(folder.rglob("*.png"))
    return {
        "judging labels": lambda **how: tintype.audit(folder, **how),
        "measuring": lambda **how: run.evaluate(**how),
        "predicting": lambda **how: run.predict([image] * 3, **how),
        "writing the graph": lambda **how: run.export(out=folder / "new.onnx", **how),
    }


def test_long_calls_show_progress_once_they_are_long_and_none_if_silent(
    copied_run: api.Run, digit_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(digit_files, tmp_path / "photos")
    heard = Heard()
    monkeypatch.setattr(
        progress, "make_watcher", lambda *, quiet=False: progress.Watcher() if quiet else heard
    )
    for what, call in long_calls(copied_run, folder).items():
        for patience, how, shown in [
            (1e9, {}, False),
            (-1.0, {}, True),
            (-1.0, {"verbose": False}, False),
        ]:
            heard.work.clear()
            monkeypatch.setattr(progress, "PATIENCE", patience)
            call(**how)
            assert (what in heard.work) == shown, (what, how)
            (folder / "new.onnx").unlink(missing_ok=True)


class Noisy(torch.nn.Module):
    """A network that warns and logs, as libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        warnings.warn("too loud", UserWarning, stacklevel=2)
        logging.getLogger("library").warning("too loud")
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("silent", [False, 0])
def test_a_silent_training_prints_nothing_and_silences_libraries(
    silent: Any,
    tmp_path: Path,
    short_reports: None,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    how: dict[str, Any] = {"model": Noisy, "steps": 2, "threads": 1, "lr": 0.01, "optimizer": "sgd"}
    run = tintype.train("digits", out=tmp_path, verbose=silent, **how)
    run.evaluate(verbose=silent)
    assert capfd.readouterr() == ("", "")
    assert "library" not in {record.name for record in caplog.records}
    with pytest.warns(UserWarning, match="too loud"):
        tintype.train("digits", out=tmp_path, **how)
    assert "data: digits" in capfd.readouterr().out
    assert "library" in {record.name for record in caplog.records}
