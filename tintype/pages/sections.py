"""The sections that every run can have: functions from the files of a run to a Section, or None.

This module is also the report part of a task that brings none of its own.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tintype.pages import figures, print_figures, words
from tintype.pages.drawings import Drawing
from tintype.pages.section import SPLIT_NAMES, Chart, Section
from tintype.pages.verdict import looks, verdict
from tintype.runs.ranking import criterion_called
from tintype.runs.reading import RunFiles, read_metrics

Facts = Sequence[tuple[str, Any]]  # name and value, where the value is known


def headline(run: RunFiles) -> Section:
    """Open with the verdict and every figure that was measured, split by split."""
    context = {
        "finished": run.finished,
        "reached": run.reached,
        "verdict": verdict(run),
        "looks": looks(run),
        "table": figures_table(run.splits),
    }
    return Section("result", "Result", "headline.html", context)


def figures_table(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the numbers of all splits as a table; None where nothing was measured."""
    keys = dict.fromkeys(key for split in splits.values() for key in split)
    rows = []
    for key in keys:
        values = [split.get(key) for split in splits.values()]
        if any(isinstance(value, int | float) for value in values):
            rows.append((_label(key), [words.number(value) for value in values]))

    if not rows:
        return None
    return {"columns": [split_label(name) for name in splits], "rows": rows}


def _label(key: str) -> str:
    text = key.removeprefix("num_").replace("_", " ")
    return f"{text[:1].upper()}{text[1:]}"


def split_label(name: str) -> str:
    """Return "validation" for "val", and "test without leaks" for "test without leaks"."""
    split, _, rest = name.partition(" ")
    return f"{SPLIT_NAMES[split]} {rest}".strip()


def by_column(run: RunFiles) -> Section | None:
    """Show the figure that counts by each value of the columns that the data brings."""
    found = run.evaluated("by_column")
    if not found:
        return None
    tables = []
    for each in found:
        criterion = criterion_called(run.task, each["figure"])
        rows = [criterion.row_of_value(row) for row in each["values"]]
        tables.append({"column": each["column"], "figure": criterion.label, "rows": rows})
    context = {"split": split_label(run.split), "tables": tables}
    return Section("by-column", "By columns of the data", "by_column.html", context)


def history(run: RunFiles) -> Section | None:
    """Show the loss, the validation figures and the learning rate over the training."""
    chart = history_chart(figures.history_panels(run.metrics), history_axis(run))
    if chart is None:
        return None
    return Section(
        "history", "Training curves", "history.html", {"chart": chart}, {chart.name: chart.png}
    )


def history_axis(run: RunFiles) -> str:
    """Return what the training curves of a run are drawn over: epochs, or steps without epochs."""
    return "epoch" if run.metrics.get("epoch") else "step"


def history_chart(panels: Sequence[figures.Panel], x_title: str) -> Chart | None:
    """Return training curves as a chart; None where nothing was logged."""
    if not panels:
        return None
    titles = ", ".join(panel.title.lower() for panel in panels)
    return Chart(
        "history",
        figures.history(panels, x_title),
        print_figures.png(print_figures.history(panels, x_title)),
        f"Line diagrams over the training: {titles}.",
    )


def range_test(run: RunFiles) -> Section | None:
    """Show the loss against the learning rate, where the rate was measured before training (lr:
    auto).
    """
    curve = read_metrics(run.folder / "lr_finder.csv")
    rates, losses, chosen = curve.get("lr", []), curve.get("loss", []), run.recipe.get("lr")
    if not rates or not isinstance(chosen, float):
        return None

    nearest = min(range(len(rates)), key=lambda i: abs(math.log(rates[i] / chosen)))
    measured = figures.Series("loss", rates, losses, "train", "line")
    mark = figures.Series("chosen", [chosen], [losses[nearest]], "val", "points")
    panels = [figures.Panel("Loss", [measured, mark], share=1.0)]
    figure, printed = (
        figures.history(panels, "learning rate"),
        print_figures.history(panels, "learning rate"),
    )
    figure.update_xaxes(type="log")
    printed.axes[-1].set_xscale("log")
    chart = Chart(
        "range-test", figure, print_figures.png(printed), "The loss against a rising learning rate."
    )
    context = {"chart": chart, "lr": chosen, "num_steps": len(rates)}

    return Section(
        "range-test",
        "Learning rate range test",
        "range_test.html",
        context,
        {chart.name: chart.png},
    )


def making(
    run: RunFiles,
    *,
    facts: Facts = (),
    units: Mapping[str, str] | None = None,
    counts: Mapping[str, Any] | None = None,
) -> Section:
    """Show what was trained on what, on which machine, and how to repeat it.

    Args:
        facts: what a task adds to the facts about the data.
        units: what the images of a split are called where they are not whole images, by split.
        counts: a table of image counts by kind and split, with title, head, columns, rows, largest.
    """
    environment = run.environment
    command = environment.get("command")
    again = f"tintype train {shlex.quote((run.folder / 'recipe.yaml').as_posix())}"
    groups = {
        "Data": _data_facts(run, facts, units or {}),
        "Model": _model_facts(run),
        "Machine": _machine_facts(run),
    }

    context = {
        "commands": [
            *([("As it was typed", command)] if command else []),
            ("From this run folder", again),
        ],
        "recipe": run.recipe_text.strip(),
        "facts": [(title, _known(facts)) for title, facts in groups.items()],
        "choices": _mappings(environment.get("choices")),
        "departures": _mappings(environment.get("not_bit_equal")),
        "notes": [note for note in run.data.get("notes") or [] if not _is_leak(note)],
        "counts": counts,
    }
    return Section("making", "How it was made", "making.html", context)


def _mappings(entries: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in entries or [] if isinstance(entry, dict)]


def _data_facts(run: RunFiles, more: Facts, units: Mapping[str, str]) -> Facts:
    data = run.data
    counts = [
        " ".join(filter(None, [f"{count:,}", SPLIT_NAMES.get(split, split), units.get(split)]))
        for split, count in (data.get("num_images") or {}).items()
    ]
    known = {"channels", "height", "width"} <= data.keys()
    size = "{channels} × {height} × {width} (channels, height, width)"

    return [
        ("Set", data.get("name") or run.recipe.get("data")),
        ("Images", " · ".join(counts)),
        *more,
        ("Size", size.format_map(data) if known else None),
        ("Fingerprint", data.get("fingerprint")),
    ]


def _model_facts(run: RunFiles) -> Facts:
    model = run.model
    architecture = model.get("architecture") or {}
    options = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in (architecture.get("options") or {}).items()
    ]

    return [
        ("Architecture", architecture.get("name") or run.recipe.get("model")),
        ("Options", ", ".join(options)),
        ("Parameters", _parameters(model)),
        ("Multiply-adds", _if_known(words.magnitude, model.get("multiply_adds"))),
    ]


def _machine_facts(run: RunFiles) -> Facts:
    environment = run.environment

    # With a trained head alone it is features that pass through training, and their speed says
    # nothing about images.
    on_images = run.recipe.get("tune") != "head"
    rate = environment.get("images_per_second") if on_images else None
    threads = environment.get("threads")
    precision = " · ".join(filter(None, [_device(environment), environment.get("precision")]))

    return [
        ("Training", _if_known(words.duration, environment.get("training_seconds"))),
        ("Preparation", _if_known(words.duration, environment.get("preparing_seconds"))),
        ("Total", _if_known(words.duration, environment.get("seconds"))),
        ("Speed", f"{rate:,.0f} training images per second" if rate else None),
        ("Device", precision),
        ("Processor", environment.get("cpu")),
        ("Instructions", _instructions(environment.get("arithmetic"))),
        ("Threads", words.plural(threads, "thread") if threads else None),
        ("Started", _if_known(words.date, environment.get("started"))),
        ("Software", _versions(environment)),
        ("System", environment.get("platform")),
    ]


def _if_known(text: Callable[[Any], str], value: Any) -> str | None:
    return text(value) if value else None


def _device(environment: Mapping[str, Any]) -> str:
    """Return "CPU" for cpu; a GPU has its name already, or is called by its number."""
    device = str(environment.get("device") or "")
    return device.replace("cpu", "CPU").replace("cuda", "GPU").replace("mps", "Apple GPU (MPS)")


def _instructions(arithmetic: Any) -> str | None:
    if not isinstance(arithmetic, dict):
        return None
    onednn = " ".join(
        str(arithmetic[key]) for key in ("onednn", "onednn_instructions") if key in arithmetic
    )
    return " · ".join(filter(None, [arithmetic.get("instructions"), onednn and f"oneDNN {onednn}"]))


def _parameters(model: Mapping[str, Any]) -> str | None:
    """Say how many parameters the network has; of a run that trains several, each and their sum."""
    by_network = model.get("parameters_by_network")
    if isinstance(by_network, Mapping) and len(by_network) > 1:
        return words.networks(by_network)
    return words.number(model["parameters"]) if model.get("parameters") else None


def _versions(environment: Mapping[str, Any]) -> str:
    names = {"tintype": "tintype", "torch": "PyTorch", "python": "Python"}
    return " · ".join(
        f"{name} {environment[key]}" for key, name in names.items() if environment.get(key)
    )


def _known(facts: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in facts if value not in (None, "")]


def warnings(run: RunFiles) -> Section | None:
    """Gather warnings and skipped files."""
    leaks = [note for note in run.data.get("notes") or [] if _is_leak(note)]
    context = {
        "warnings": [*run.problems, *leaks, *(run.evaluation.get("warnings") or [])],
        "skipped": run.data.get("skipped") or [],
    }
    if not any(context.values()):
        return None
    return Section("warnings", "Warnings", "warnings.html", context)


def _is_leak(note: Any) -> bool:
    return str(note).startswith("LEAK")


def draw_history(run: RunFiles, *, smooth: bool = True) -> Drawing | None:
    """Return the training curves as a figure; None where nothing was logged."""
    panels = figures.history_panels(run.metrics, smooth=smooth)
    return history_drawing(panels, history_axis(run))


def history_drawing(panels: Sequence[figures.Panel], x_title: str) -> Drawing | None:
    """Return training curves as a figure of either library; None where nothing was logged."""
    if not panels:
        return None
    return Drawing(
        "history",
        "Training curves.",
        lambda: figures.history(panels, x_title),
        lambda: print_figures.history(panels, x_title),
    )


# What a run without a report part shows: the result and what limits it, the training, and last how
# it was made.
SECTIONS = (headline, warnings, by_column, history, making)
FIGURES: Mapping[str, Callable[[RunFiles], Drawing | None]] = {}
