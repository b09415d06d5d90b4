"""Read a study from YAML: a built-in one by name, a file, the folder of a study that was begun."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tintype.errors import UserError, unknown_name
from tintype.files.names import check_name
from tintype.files.yaml_files import BoundedLoader, read_yaml
from tintype.own_code import absolute, references_in, with_references
from tintype.plugins import PACKAGE, study_names
from tintype.recipe import ALIASES, build, field_names, recipe_names
from tintype.verbs.study.declaration import Changes, Declaration, checked_seeds, is_field, label_of

STUDIES = PACKAGE / "studies"
KEYS = ("name", "recipe", "question", "about", "vary", "variants", "seeds", "set", "weights")


class _OnceOnly(BoundedLoader):
    """The safe loader, which refuses a key that stands twice where YAML itself would take the last
    one.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                line = node.value[number][0].start_mark.line + 1
                raise UserError(
                    f"'{key}' stands twice (again in line {line}). Give each a name of its own."
                )
        return super().construct_mapping(node, deep)


def declare(what: str | Path | Mapping[str, Any] | Declaration) -> Declaration:
    """Read a study.

    It is a built-in one by name, a YAML file, the folder of a study, or a mapping of the same form.
    A built-in recipe is a study of its seeds.

    Raises:
        UserError: it is none of these, or something in it is wrong.
    """
    if isinstance(what, Declaration):
        return what
    if isinstance(what, Mapping):
        return _declaration("study", dict(what), Path())
    if str(what) in study_names():
        return _read(STUDIES / f"{what}.yaml")
    if str(what) in recipe_names():
        return _declaration(f"{what}-seeds", {"recipe": str(what)}, Path())

    path = Path(what).expanduser()
    if (path / "study.yaml").is_file():
        return _read(path / "study.yaml", path.resolve().name)
    if path.suffix in (".yaml", ".yml"):
        return _read(path)
    if str(what) and path.is_dir():
        raise UserError(f"{path} is not the folder of a study: it holds no study.yaml.")

    raise unknown_name(
        "study",
        str(what),
        study_names(),
        "`tintype list studies` shows them; a file ends in .yaml.",
    )


def _read(path: Path, name: str = "") -> Declaration:
    try:
        content = read_yaml(path, _OnceOnly)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the study {path}: {getattr(error, 'strerror', None) or error}."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(
            f"{path} is not a study: the YAML is broken ({' '.join(str(error).split())[:200]})."
        ) from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None

    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not a study: expected `recipe: NAME` and `vary:` with lists of values."
        )
    return _declaration(name or path.stem, _beside(content, path.parent), path.parent)


def _declaration(name: str, content: Mapping[Any, Any], folder: Path) -> Declaration:
    content = {str(key): value for key, value in content.items()}
    if "name" in content:
        name = str(content.pop("name"))
        check_name(name, "study")
    known = {*KEYS, *field_names(), *ALIASES}
    for key in content:
        if key not in known and not ("." in key and is_field(key)):
            raise unknown_name(f"key in the study {name}:", key, known)

    if not set(content) - {"question", "about", "seeds", "set", "weights"}:
        raise UserError(
            f"{name} says nothing of what is trained. "
            "Expected `recipe:` with a recipe's name, file or fields."
        )
    fields = {key: value for key, value in content.items() if key not in KEYS}

    factors = _factors(content, name)
    for changes in (
        changes for levels in factors.values() for changes in levels.values() if "recipe" in changes
    ):
        changes["recipe"] = _recipe(changes["recipe"], folder, name)

    variants_bring_it = any(
        "recipe" in changes for levels in factors.values() for changes in levels.values()
    )
    base = (
        None
        if variants_bring_it and not content.get("recipe")
        else _recipe(content.get("recipe") or {}, folder, name)
    )
    seed = build({"seed": fields.get("seed", 0)}, where=name).seed

    return Declaration(
        name,
        base,
        str(content.get("question") or ""),
        fields,
        factors,
        checked_seeds(content.get("seeds", [seed]), name),
        _changes(content.get("set") or {}, f"{name}: set"),
        str(content["weights"]) if content.get("weights") else None,
        _about(content.get("about"), name),
    )


def _about(about: Any, name: str) -> tuple[str, ...]:
    """Return the fields that the question is about.

    Raises:
        UserError: not a field, nor a list of them.
    """
    named = [about] if isinstance(about, str) else about or []
    if not isinstance(named, list) or not all(isinstance(field, str) for field in named):
        raise UserError(
            f"{name}: about is {about!r}. "
            "Expected fields of the recipe, as in [schedule, milestones]."
        )
    for field in named:
        if not is_field(field):
            raise unknown_name("field in about:", field, [*field_names(), *ALIASES])
    return tuple(named)


def _beside(value: Any, folder: Path) -> Any:
    """Return what a study's file holds, with own code that is not where the command was typed
    taken from the folder of the file.
    """
    if isinstance(value, dict):
        return {key: _beside(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_beside(inner, folder) for inner in value]
    if not isinstance(value, str) or not references_in(value):
        return value

    def there(reference: str) -> str:
        file = Path(absolute(reference).rpartition(".py")[0] + ".py")
        is_beside = (folder / reference.rpartition(".py")[0]).with_suffix(".py").is_file()
        found = not file.is_file() and is_beside
        return absolute(str(folder.resolve() / reference)) if found else reference

    return with_references(value, there)


def _recipe(recipe: Any, folder: Path, name: str) -> str | Changes:
    """Return a recipe's name or fields; a file's path is taken from the folder of the study."""
    if isinstance(recipe, str) and Path(recipe).suffix in (".yaml", ".yml"):
        path = folder / Path(recipe).expanduser()
        return str(path.resolve())
    if isinstance(recipe, str | dict):
        return recipe
    raise UserError(f"{name}: recipe is {recipe!r}. Expected a recipe's name, file or fields.")


def _factors(content: Changes, name: str) -> dict[str, dict[str, Changes]]:
    """Return what varies: {factor: {level: changes}}; the variants are one factor.

    Raises:
        UserError: a factor that is not a field, an empty list, or levels that look the same.
    """
    vary, variants = content.get("vary") or {}, content.get("variants") or {}
    if not isinstance(vary, dict):
        raise UserError(
            f"{name}: vary is {vary!r}. Expected fields with lists of values, as in lr: [0.1, 0.2]."
        )
    if not isinstance(variants, dict) or ("variants" in content and not variants):
        raise UserError(
            f"{name}: variants is {variants!r}. "
            "Expected names with changes, as in small: {model: cnn}."
        )

    factors = {
        "variant": {
            _level(key): _changes(value, f"{name}, {key}") for key, value in variants.items()
        }
    }
    factors = factors if variants else {}
    for factor, values in vary.items():
        factors[str(factor)] = _levels(str(factor), values, f"{name}: vary.{factor}")

    return factors


def _levels(factor: str, values: Any, where: str) -> dict[str, Changes]:
    if factor.replace("-", "_") == "seed":
        raise UserError(
            f"{where}: seeds have a place of their own. Expected `seeds: 3` or `seeds: [0, 1, 2]`."
        )
    if not isinstance(values, list | dict):
        raise UserError(f"{where} is {values!r}. Expected a list of values, or names with values.")
    if not values:
        raise UserError(
            f"{where} is empty. Expected at least one value, as in {factor}: [0.1, 0.2]."
        )

    if not is_field(factor):
        if isinstance(values, list):  # a list is of values of a field, and this is none
            raise unknown_name("field in vary:", factor, [*field_names(), *ALIASES])
        return {
            _level(key): _changes(changes, f"{where}, {key}") for key, changes in values.items()
        }

    named = values if isinstance(values, dict) else {}
    if not named:
        for value in values:
            label = label_of(value, factor)
            if label in named:
                raise UserError(
                    f"{where}: '{label}' stands twice. Give each value once, or names with values."
                )
            named[label] = value

    return {_level(label): {factor: value} for label, value in named.items()}


def _level(key: Any) -> str:
    """Return the name of a level; YAML 1.1 reads a bare on and off as true and false."""
    if isinstance(key, bool) or key is None:
        return {True: "on", False: "off", None: "none"}[key]
    return str(key)


def _changes(value: Any, where: str) -> Changes:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}. Expected fields of the recipe with their values.")
    return {str(key): inner for key, inner in value.items()}
