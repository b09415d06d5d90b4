"""The runs of a folder: what is known of each, sorted and chosen by it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tintype.data.cache import cache_folder
from tintype.errors import UserError, unknown_name
from tintype.files.bounded import is_temporary, refuse_link_out
from tintype.files.yaml_files import parse_yaml
from tintype.runs import remote
from tintype.runs.folder import RunFolder, called
from tintype.runs.ranking import criterion_of

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b, "!=": lambda a, b: a != b,
    "=": lambda a, b: a == b, ">": lambda a, b: a > b, "<": lambda a, b: a < b,
}  # fmt: skip
READ = ("recipe.yaml", "status.json", "evaluation.json", "model.json", "metrics.csv")
COLUMNS = ("name", "state", "task", "data", "model", "parameters")


def list_runs(
    folder: str | Path = "runs",
    *,
    sort: str | None = None,
    where: Sequence[str] = (),
    reverse: bool = False,
) -> list[dict[str, Any]]:
    """Return what is known of every run in `folder` and in its studies.

    That is name, state, data, model and figures; no weights are read.

    Args:
        folder: holds the run folders; also an address.
        sort: a field or figure; numbers the largest first, texts in the order of letters. By
            default the newest first.
        where: conditions such as "task=classify" or "test_accuracy>0.9"; a run must fulfil all of
            them.
        reverse: the other way round.

    Raises:
        UserError: a condition that is none, or a name that no run has.
    """
    conditions = [_condition(text) for text in where]
    named = [name for name, _, _ in conditions] + ([sort] if sort else [])

    if address := remote.address_of(folder):
        folder = remote.runs_here(address, READ)
    found = list(_described(Path(folder)))
    for name in named:
        if found and not any(name in facts for _, facts in found):
            raise unknown_name(
                "field or figure", name, {key for _, facts in found for key in facts}
            )

    kept = [
        (run, facts)
        for run, facts in found
        if all(_fulfils(facts, *condition) for condition in conditions)
    ]
    if sort:
        with_value = [item for item in kept if item[1].get(sort) is not None]
        texts = not all(isinstance(facts[sort], int | float) for _, facts in with_value)
        with_value.sort(
            key=lambda item: str(item[1][sort]) if texts else float(item[1][sort]),
            reverse=reverse == texts,
        )
        # what has no figure stands last
        kept = with_value + [item for item in kept if item[1].get(sort) is None]
    elif reverse:
        kept.reverse()

    networks = dict.fromkeys(
        name for _, facts in kept for name in facts if name.startswith("parameters.")
    )
    figures = [*_usual_figures(facts for _, facts in kept), "figures"]
    shown = dict.fromkeys([*COLUMNS, *networks, *figures, *named])

    return [{name: facts[name] for name in shown if name in facts} for _, facts in kept]


def delete_run(run: RunFolder) -> None:
    """Delete a run folder; it vanishes from the list of runs before its files go.

    Raises:
        UserError: it is no run folder, is being trained, or cannot be deleted.
    """
    path = run.path
    if path.is_symlink():
        raise UserError(f"{path} is a link. Delete the folder that it leads to, {path.resolve()}.")
    if not (path / "recipe.yaml").is_file():
        raise UserError(f"{path} is not a run folder, so nothing was deleted.")
    if path.resolve().is_relative_to((cache_folder() / "packed").resolve()):
        raise UserError(f"{path} was unpacked from a file. Delete that file instead.")

    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with run.locked():
            pass
        path.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise UserError(f"{path} cannot be deleted: {error.strerror or error}.") from None


def run_folders(folder: Path) -> list[RunFolder]:
    """Return the runs in a folder, and those in its studies and tunings, the newest first."""
    paths = [
        path.parent
        for depth in ("*", "*/*", "*/*/*")
        for path in folder.glob(f"{depth}/recipe.yaml")
    ]
    paths = [path for path in paths if not is_temporary(path)]
    inside = [
        path for path in paths if path.parent == folder or RunFolder(path).root == folder.resolve()
    ]
    return [RunFolder(path) for path in sorted(inside, key=_changed, reverse=True)]


def _changed(path: Path) -> float:
    try:
        return (path / "recipe.yaml").stat().st_mtime
    except OSError:  # deleted since, or a link that leads nowhere
        return 0.0


def facts_of(run: RunFolder, folder: Path) -> dict[str, Any]:
    """Return what is known of a run, by name.

    That is its recipe, "test_accuracy" and the like, parameters, seconds and the verdict.

    Raises:
        UserError: whatever is wrong with one of its files; those may come from a stranger.
    """
    try:
        for name in READ:
            refuse_link_out(run.path / name, run.path)
        return _facts(run, folder)
    except UserError:
        raise
    except Exception as error:  # a file that is valid, and holds something else than tintype writes
        raise UserError(
            f"its files are not those of a run ({type(error).__name__}: {error})."
        ) from None


def _facts(run: RunFolder, folder: Path) -> dict[str, Any]:
    recipe = run.recipe.model_dump(mode="json")
    name = run.path.relative_to(folder).as_posix()

    facts: dict[str, Any] = {"name": name, "state": run.status.get("state", "empty")}
    for key, value in recipe.items():
        options = value.items() if isinstance(value, Mapping) else ()
        facts |= {f"{key}.{option}": inner for option, inner in options} or {key: value}

    if (run.path / "evaluation.json").exists():
        evaluation = run.read("evaluation.json")
        facts["verdict"] = evaluation.get("verdict", {}).get("word")
        if evaluation.get("score"):
            facts["score"] = evaluation["score"]
        if name := called(evaluation, "").strip():
            facts["figures"] = name
        for split, figures in evaluation["splits"].items():
            numbers = {
                k: v
                for k, v in figures.items()
                if isinstance(v, int | float) and not isinstance(v, bool)
            }
            facts |= {f"{split}_{name}": value for name, value in numbers.items()}
    if (run.path / "model.json").exists():
        model = run.read("model.json")
        facts["parameters"] = model.get("parameters")
        for network, count in (model.get("parameters_by_network") or {}).items():
            facts[f"parameters.{network}"] = count
        if model.get("parameters_by_network"):
            facts["parameters.sum"] = sum(model["parameters_by_network"].values())

    facts["seconds"] = run.status.get("seconds")
    return {key: value for key, value in facts.items() if value is not None}


def _described(folder: Path) -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    for run in run_folders(folder):
        try:
            yield run, facts_of(run, folder)
        except UserError as error:
            print(f"passed over {run.path}: {error}", file=sys.stderr)


def _usual_figures(every: Iterator[dict[str, Any]]) -> list[str]:
    """Return the validation and test figures that the runs there are ranked by."""
    found: dict[str, None] = {}
    for facts in every:
        figures = {
            key.removeprefix("val_"): value
            for key, value in facts.items()
            if key.startswith("val_")
        }
        with suppress(UserError):  # a task that does not rank its runs
            key = facts.get("score") or criterion_of(facts["task"], figures).key
            found |= dict.fromkeys(
                name for name in facts if name in (f"val_{key}", f"test_{key}", f"folds_{key}")
            )
    return list(found)


def _condition(text: str) -> tuple[str, str, Any]:
    found = re.fullmatch(r"\s*([\w.-]+)\s*(>=|<=|!=|==|=|>|<)\s*(.+?)\s*", text)
    if not found:
        raise UserError(
            f"--where {text}: expected FIELD=VALUE, FIELD!=VALUE or FIELD>VALUE, "
            "as in test_accuracy>0.9."
        )

    name, operator, value = found.groups()
    try:
        parsed = parse_yaml(value)
    except yaml.YAMLError:
        parsed = value

    if isinstance(parsed, str):  # YAML 1.1 reads 1e-3 as a word
        with suppress(ValueError):
            parsed = float(parsed)

    return name.replace("-", "_"), operator.replace("==", "="), parsed


def _fulfils(facts: Mapping[str, Any], name: str, operator: str, value: Any) -> bool:
    own = facts.get(name)
    if own is None:
        return operator == "!="

    numbers = all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in (own, value)
    )
    if not numbers and operator in ("<", ">", "<=", ">=") and isinstance(own, int | float):
        raise UserError(
            f"--where {name}{operator}{value}: {name} is a number. "
            "Expected one to compare it with, as in 0.9."
        )

    if not numbers:
        own, value = str(own), str(value)
    return OPERATORS[operator](own, value)
