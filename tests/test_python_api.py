"""tintype as it is from Python: what `dir` and `help` show, types, and what wrong calls say."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import subprocess
import sys

import fields
import pytest

import tintype
from tintype.recipe import ALIASES, Recipe, field_names
from tintype.recipe_fields import RecipeFields


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
