"""The model card: what a model is, how good it is and where it fails, for somebody who has only the
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from tintype.runs.folder import BY_VALIDATION, RunFolder, without_test
from tintype.verbs.share.plain import plain_architecture

PIPELINES = {
    "classify": "image-classification",
    "generate": "unconditional-image-generation",
    "upscale": "image-to-image",
}
TASKS = {
    "classify": "It says which of {count} classes a picture shows.",
    "generate": "It generates pictures from noise.",
    "upscale": "It enlarges pictures {scale} times.",
}
# figure of ours, type of the hub, name in its tables
FOR_TABLES = (
    ("accuracy", "accuracy", "accuracy"),
    ("macro_f1", "f1", "macro F1"),
    ("psnr_y", "psnr", "PSNR (Y)"),
)
SPLITS = {"test": "test", "val": "validation"}
WEAK = 5  # classes that are named as the weakest
NO_LICENCE = "other"


def make_card(run: RunFolder, *, licence: str | None = None, repository: str | None = None) -> str:
    """Return the model card of a finished run as Markdown with a YAML head, in the form of the model hubs.

    Args:
        run: a finished and measured run.
        licence: its identifier, such as apache-2.0; it is for the owner to choose, and none is
            assumed.
        repository: where the model will lie ("user/name"), for the lines on how to use it.

    Raises:
        UserError: the run is not finished.
    """
    model, evaluation, data = (
        run.read(file, complete=True) for file in ("model.json", "evaluation.json", "data.json")
    )
    split = _measured(evaluation)
    parts = [
        _head(
            run, model, data, evaluation["splits"][split], split, licence, without_test(evaluation)
        ),
        f"# {run.name}",
        _what(run, model, data),
        _figures(evaluation),
        _limits(model, evaluation, data),
        _use(run, model, repository),
        _licence(model, licence),
    ]

    return "\n\n".join(parts) + "\n"


def _measured(evaluation: Mapping[str, Any]) -> str:
    """Return the split whose figures stand for the model: test, or validation of a run that leaves
    test alone.
    """
    return "test" if "test" in evaluation["splits"] else "val"


def _head(
    run: RunFolder,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    figures: Mapping[str, Any],
    split: str,
    licence: str | None,
    no_test: bool,
) -> str:
    task = model["task"]
    head: dict[str, Any] = {
        "license": licence or NO_LICENCE,
        "library_name": "tintype",
        "pipeline_tag": PIPELINES.get(task, "image-to-image"),
        "tags": ["tintype", task, str(model["architecture"]["name"])],
    }

    names = {"accuracy": BY_VALIDATION} if no_test else {}
    metrics = [
        {"type": kind, "value": round(float(figures[key]), 6), "name": names.get(key, f"{split} {name}")}
        for key, kind, name in FOR_TABLES
        if key in figures
    ]  # fmt: skip
    if metrics:
        result = {
            "task": {"type": head["pipeline_tag"]},
            "dataset": {"type": "custom", "name": data["name"], "split": split},
            "metrics": metrics,
        }
        head["model-index"] = [{"name": run.name, "results": [result]}]

    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _what(run: RunFolder, model: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    how, counts = model["preprocessing"], data["num_images"]
    sentence = TASKS.get(model["task"], "").format(
        count=len(model["class_names"]), scale=model.get("scale", "")
    )
    pieces, whole = (
        ("tiles of photos", "photos") if model["task"] == "upscale" else ("images", "images")
    )
    lines = [
        sentence,
        "",
        f"- Network: `{model['architecture']['name']}`, {model['parameters']:,} parameters, "
        f"{model['multiply_adds'] / 1e6:,.1f} million multiply-adds per picture.",
        f"- Data: {_plain(data['name'])}, with {counts['train']:,} {pieces} for training, {counts['val']:,} {whole} for "
        f"validation and {_count(counts['test'])} for testing.",
    ]
    if model["class_names"]:
        lines.append(f"- Classes: {', '.join(_plain(name) for name in model['class_names'])}.")
    if model["task"] == "classify":
        lines.append(
            f"- Input: {how['height']}x{how['width']} pixels, {'grey' if how['channels'] == 1 else 'RGB'}; resized with "
            f"{how['interpolation']} filtering ({how['resize']}), then (x / 255 - mean) / deviation."
        )
    if "pretrained" in model:
        lines.append(
            f"- Started from weights: {_plain(str(model['pretrained'].get('source', 'pretrained')))}."
        )

    lines.append(f"- Made with tintype; the recipe is in `recipe.yaml`, seed {run.recipe.seed}.")
    return "\n".join(lines)


def _count(number: int) -> str:
    return f"{number:,}" if number else "none"


def _figures(evaluation: Mapping[str, Any]) -> str:
    splits = evaluation["splits"]
    first = splits[_measured(evaluation)]
    lines = ["## How good it is", "", evaluation.get("verdict", {}).get("text", ""), ""]
    if without_test(evaluation):
        splits = {"val": first}

    if "accuracy" in first:
        called = BY_VALIDATION if without_test(evaluation) else "accuracy"
        lines += [
            f"| split | images | {called} | 95 % interval | macro F1 | log loss | calibration error |"
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        for name, figures in _with_clean(splits).items():
            low, high = figures["accuracy_ci95"]
            error = figures.get("calibration_error", figures["expected_calibration_error"])
            lines.append(
                f"| {name} | {figures['num_images']:,} | {figures['accuracy']:.2%} | {low:.2%} to {high:.2%} | "
                f"{figures['macro_f1']:.3f} | {figures['loss']:.3f} | {error:.3f} |"
            )
    elif "psnr_y" in first:
        lines += [
            f"Measured by the protocol `{first['protocol']}`. PSNR depends on the photo, so compare the splits by the gain:",
            "",
        ]
        lines += [
            "| split | images | PSNR | bicubic | gain | 95 % interval | SSIM |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, figures in splits.items():
            between = figures["gain_ci95"]
            interval = (
                f"{between[0]:+.2f} to {between[1]:+.2f} dB" if between else "too few pictures"
            )
            lines.append(
                f"| {name} | {figures['num_images']:,} | {figures['psnr_y']:.2f} dB | {figures['bicubic']['psnr_y']:.2f} dB | "
                f"{figures['gain']:+.2f} dB | {interval} | {figures['ssim_y']:.4f} |"
            )
    else:
        names = [name for name, value in first.items() if isinstance(value, int | float)]
        lines += [f"| figure | {' | '.join(splits)} |", "|---|" + "---|" * len(splits)]
        lines += [
            f"| {name} | {' | '.join(_number(figures.get(name)) for figures in splits.values())} |"
            for name in names
        ]
        protocol = evaluation.get("protocol")
        lines += (
            ["", *(f"- {name}: {how}" for name, how in protocol.items())]
            if isinstance(protocol, dict)
            else []
        )

    return "\n".join(lines)


def _with_clean(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of each split, each followed by those without leaked images."""
    rows: dict[str, Any] = {}
    for name, figures in splits.items():
        rows[name] = figures
        if "without_leaked" in figures:
            rows[f"{name}, without leaked images"] = figures["without_leaked"]
    return rows


def _limits(
    model: Mapping[str, Any], evaluation: Mapping[str, Any], data: Mapping[str, Any]
) -> str:
    looks, split = evaluation.get("test_looks", {}).get("data", 1), _measured(evaluation)
    lines = ["## Limits", ""]
    often = (
        f"{looks} times, by this run and others; choosing among them makes the figures optimistic"
    )

    if split == "test":
        lines.append(f"- The test set has been used {'once' if looks == 1 else often}.")
    else:
        why = (
            "No images were kept to test it on"
            if without_test(evaluation)
            else "It was not measured on its test set"
        )
        lines.append(f"- {why}: the figures above were used to choose it, and are optimistic.")

    lines += [f"- Warning: {_plain(text)}" for text in evaluation.get("warnings", ())]
    lines += [f"- {_plain(note)}" for note in data.get("notes", ()) if note.startswith("LEAK")]

    per_class = evaluation.get("per_class", {}).get(split, [])
    weak = sorted(
        (row for row in per_class if row.get("f1") is not None), key=lambda row: row["f1"]
    )[:WEAK]
    if weak:
        said = ", ".join(
            f"{_plain(row['name'])} (F1 {row['f1']:.2f} of {row['support']:,} images)"
            for row in weak
        )
        lines.append(f"- Weakest classes on {split}: {said}.")

    confused = evaluation.get("most_confused", {}).get(split, [])[:3]
    if confused:
        said = "; ".join(
            f"{_plain(row['target'])} taken for {_plain(row['prediction'])} ({row['share']:.0%})"
            for row in confused
        )
        lines.append(f"- Most confused on {split}: {said}.")

    promised = [entry for entry in model.get("abstain", ()) if entry["threshold"] is not None]
    if promised:
        best = promised[-1]
        right = f"{evaluation['splits'][split]['accuracy']:.1%} were right on {SPLITS[split]}"
        lines.append(
            f"- Every answer counts; {right}."
            if best["threshold"] == 0
            else f"- On validation, at least {best['accuracy']:.0%} of the answers with a confidence of "
            f"{best['threshold']:.2f} or more are right; below that, a person should be asked. Of all answers, {right}."
        )

    if model.get("typical"):
        alarms = evaluation.get("unlike")
        often = (
            f" ({alarms['num_unlike']:,} of {alarms['num_images']:,} test images would be)"
            if alarms
            else ""
        )
        lines.append(
            "- A picture that is plainly unlike the training images (colour where they are grey, light and dark exchanged, "
            f"noise) is said to be so{often}, and its confidence does not apply. Other strange pictures pass unnoticed."
        )

    if model["task"] == "classify":
        lines.append(
            "- It knows only its classes: a picture of anything else is given one of them all the same."
        )
    lines.append(
        "- The figures hold for pictures like those it was trained on; nothing is known about others."
    )
    return "\n".join(lines)


def _use(run: RunFolder, model: Mapping[str, Any], repository: str | None) -> str:
    fetch = f"tintype pull {repository}\n" if repository else ""
    name = repository.rpartition("/")[2] if repository else run.name
    where = f"runs/{name}" if repository else name
    verb = {"classify": "predict", "generate": "generate", "upscale": "upscale"}.get(
        model["task"], "predict"
    )
    argument = "" if verb == "generate" else " photo.jpg"
    call = {
        "predict": 'print(run.predict("photo.jpg").top5)', "generate": "pictures = run.generate(16, seed=0)",
        "upscale": 'run.upscale("photo.jpg").save("large.png")',
    }[verb]  # fmt: skip
    lines = [
        "## How to use it", "", "```", f"pip install tintype\n{fetch}tintype {verb} {where}{argument}", "```", "",
        "```python", "import tintype as tt", "", f'run = tt.load("{where}")', call, "```",
    ]  # fmt: skip

    plain = plain_architecture(run, model)
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
    own = (
        f"These weights: {licence}."
        if licence
        else "No licence was chosen for these weights yet: ask their owner."
    )
    start = model.get("pretrained", {})
    if start.get("licence"):
        own += f" The weights that training started from: {_plain(str(start['licence']))[:200]}."
    return f"## Licence\n\n{own}"


def _plain(text: str) -> str:
    """Return a text from outside as one line that Markdown takes for nothing else."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
