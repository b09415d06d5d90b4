"""The model card: what a model is, how good it is, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import yaml

from tintype import own_code
from tintype.errors import UserError
from tintype.plugins import find_part, has_part, own_task
from tintype.runs.code import rows_of
from tintype.runs.folder import RunFolder, called, without_test
from tintype.tasks.contract.card import CardPart, TaskCard, escaped, measured_split
from tintype.verbs.share.paths import shortened

NO_LICENCE = "other"


def make_card(run: RunFolder, *, licence: str | None = None, repository: str | None = None) -> str:
    """Return the model card of a finished run as Markdown with a YAML head, as model hubs read it.

    Args:
        run: a finished and measured run.
        licence: its identifier, such as apache-2.0; it is for the owner to choose, and none is
            assumed.
        repository: where the model will lie ("user/name"), for the lines on how to use it.

    Raises:
        UserError: the run is not finished, or its task has no card.
    """
    files = ("model.json", "evaluation.json", "data.json")
    model, evaluation, data = (run.read(file, complete=True) for file in files)
    named = ("architecture", "code")  # may hold paths of files of the user's own
    model = {key: shortened(value) if key in named else value for key, value in model.items()}
    task = task_card(model["task"])
    parts = [
        _head(run, task, model, data, evaluation, licence),
        f"# {run.name}",
        _what(run, task, model, data),
        _figures(task, evaluation),
        _limits(task, model, evaluation, data),
        _use(run, task, model, repository),
        _licence(model, licence),
    ]

    return "\n\n".join(parts) + "\n"


def task_card(task: str) -> TaskCard:
    """Return what a task says of its models.

    Raises:
        UserError: there is no such task, or it has no card.
    """
    if own_task(task) and not has_part(task, "card"):
        raise UserError(
            f"runs of task {own_code.called(task)}, which is your own, have no model card."
        )
    return cast(CardPart, find_part(task, "card", "have a model card")).Card()


def _head(
    run: RunFolder,
    task: TaskCard,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    licence: str | None,
) -> str:
    head: dict[str, Any] = {
        "license": licence or NO_LICENCE,
        "library_name": "tintype",
        "pipeline_tag": task.pipeline,
        "tags": ["tintype", model["task"], str(model["architecture"]["name"])],
    }

    metrics = _metrics(task, evaluation)
    if metrics:
        split = measured_split(evaluation)
        result = {
            "task": {"type": task.pipeline},
            "dataset": {"type": "custom", "name": data["name"], "split": split},
            "metrics": metrics,
        }
        head["model-index"] = [{"name": run.name, "results": [result]}]

    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _metrics(task: TaskCard, evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    split = measured_split(evaluation)
    figures = evaluation["splits"][split]
    found = []
    for metric in task.metrics:
        if metric.key in figures:
            name = f"{split} {metric.name}"
            if split == "folds":
                name = called(evaluation, metric.name)
            elif without_test(evaluation) and metric.by_validation:
                name = metric.by_validation
            value = round(float(figures[metric.key]), 6)
            found.append({"type": metric.kind, "value": value, "name": name})
    return found


def _what(run: RunFolder, task: TaskCard, model: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    counts = data["num_images"]
    testing = f"{counts['test']:,}" if counts["test"] else "none"
    lines = [
        task.sentence(model),
        "",
        f"- Network: `{model['architecture']['name']}`, {model['parameters']:,} parameters, "
        f"{model['multiply_adds'] / 1e6:,.1f} million multiply-adds per picture.",
        f"- Data: {escaped(data['name'])}, with {counts['train']:,} {task.pieces} for training, "
        f"{counts['val']:,} {task.whole} for validation and {testing} for testing.",
        *task.facts(model),
    ]

    if "pretrained" in model:
        source = escaped(str(model["pretrained"].get("source", "pretrained")))
        lines.append(f"- Started from weights: {source}.")
    lines += [_code(row) for row in rows_of(model)]
    lines.append(f"- Made with tintype; the recipe is in `recipe.yaml`, seed {run.recipe.seed}.")
    return "\n".join(lines)


def _code(row: Mapping[str, str]) -> str:
    where = f"the copy in `{row['copy']}`" if row["copy"] else "the author's notebook"
    return (
        f"- Needs code of its author for the {row['field']}, `{row['reference']}`: {where}, "
        f"SHA-256 {row['sha256'][:16]}. Opening the run executes none of it; read it before you "
        "trust it."
    )


def _figures(task: TaskCard, evaluation: Mapping[str, Any]) -> str:
    splits = evaluation["splits"]
    if without_test(evaluation):
        split = measured_split(evaluation)
        splits = {split: splits[split]}
    verdict = evaluation.get("verdict", {}).get("text", "")
    return "\n".join(["## How good it is", "", verdict, "", *task.table(evaluation, splits)])


def _limits(
    task: TaskCard,
    model: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    data: Mapping[str, Any],
) -> str:
    split = measured_split(evaluation)

    lines = [
        "## Limits",
        "",
        _test_use(evaluation, split),
        *_validation_use(evaluation),
        *(f"- Warning: {escaped(text)}" for text in evaluation.get("warnings", ())),
        *(f"- {escaped(note)}" for note in data.get("notes", ()) if note.startswith("LEAK")),
        *task.limits(model, evaluation, split),
        "- The figures hold for pictures like those it was trained on; "
        "nothing is known about others.",
    ]
    return "\n".join(lines)


def _validation_use(evaluation: Mapping[str, Any]) -> list[str]:
    """Return a line on what validation was used for, where the run says it."""
    text = (evaluation.get("validation") or {}).get("text")
    return [f"- {text}"] if text else []


def _test_use(evaluation: Mapping[str, Any], split: str) -> str:
    """Return a line on how often the test set was used, or on what its place was taken by."""
    if split == "folds":
        looks = evaluation.get("test_looks", {}).get("data", 1)
        often = "once" if looks == 1 else f"{looks} times, by this run and others"
        return (
            f"- {evaluation['folds']['text']} The folds have been looked at {often}; choosing "
            "among runs by them makes the figures optimistic."
        )
    if split != "test":
        why = "It was not measured on its test set"
        if without_test(evaluation):
            why = "No images were kept to test it on"
        return f"- {why}: the figures above were used to choose it, and are optimistic."

    looks = evaluation.get("test_looks", {}).get("data", 1)
    if looks == 1:
        return "- The test set has been used once."
    return (
        f"- The test set has been used {looks} times, by this run and others; choosing among them "
        "makes the figures optimistic."
    )


def _use(run: RunFolder, task: TaskCard, model: Mapping[str, Any], repository: str | None) -> str:
    fetch = f"tintype pull {repository}\n" if repository else ""
    where = f"runs/{repository.rpartition('/')[2]}" if repository else run.name
    lines = [
        "## How to use it", "", "```",
        f"pip install tintype\n{fetch}{task.command.replace('RUN', where)}", "```", "",
        "```python", "import tintype as tt", "", f'run = tt.load("{where}")', task.call, "```",
    ]  # fmt: skip

    plain = task.plain(run, model)
    if plain:
        lines += [
            "",
            f"The weights are a plain state dict of {plain.library}:",
            "",
            "```python",
            plain.snippet,
            "```",
        ]

    return "\n".join(lines)


def _licence(model: Mapping[str, Any], licence: str | None) -> str:
    own = "No licence was chosen for these weights yet: ask their owner."
    if licence:
        own = f"These weights: {licence}."
    start = model.get("pretrained", {})
    if start.get("licence"):
        said = escaped(str(start["licence"]))[:200]
        own += f" The weights that training started from: {said}."
    return f"## Licence\n\n{own}"
