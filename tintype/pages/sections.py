"""The sections of a report: each a function from the files of a run to a Section, or None with nothing to show.

A further section is one more function here with its template beside it, and its place in
`SECTIONS`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tintype.pages import figures, print_figures, words
from tintype.pages.objectives import learning
from tintype.pages.pictures import Card, data_uri, enlarged, filter_sheet, png_bytes, read_cards
from tintype.pages.section import SPLIT_NAMES, Chart, Section
from tintype.pages.verdict import looks, verdict
from tintype.runs.folder import BY_VALIDATION, without_test
from tintype.runs.reading import RunFiles, first_layer, read_metrics
from tintype.runs.summary import by_groups, with_clean_rows
from tintype.statistics import rank_correlation
from tintype.tasks.classify import report_mistakes as mistakes
from tintype.tasks.generate import report as generate_sections
from tintype.tasks.upscale import report as upscale_sections

# the largest class by the smallest from which on a diagram of their sizes says something
UNEQUAL = 2.0
FEWEST_RANKED = 8
FEW_VAL = 100  # validation images below which the report says that they decide little


def headline(run: RunFiles) -> Section:
    """Open with the figure that counts, its interval, the other splits beside it and the verdict."""
    measured = {name: figures for name, figures in run.splits.items() if "accuracy" in figures}
    if without_test(run.evaluation):
        measured = {name: figures for name, figures in measured.items() if name == "val"}
    shown = with_clean_rows(measured)
    context = {
        "finished": run.finished,
        "reached": run.reached,
        "val_accuracy": _last(run.metrics.get("val_accuracy", [])),
        "split": run.split,
        "called": BY_VALIDATION if without_test(run.evaluation) else "",
        "main": shown.get(run.split),
        "strip": _strip(shown),
        "verdict": verdict(run),
        "gap": _gap(run.evaluation.get("verdict") or {}),
        "looks": looks(run),
        "by_groups": by_groups(run.splits),
        "chosen": run.evaluation.get("chosen_by_validation"),
        "table": _figures_table(shown, tested=not without_test(run.evaluation)),
    }

    return Section("result", "Result", "headline.html", context)


def _last(values: Sequence[float]) -> float | None:
    """Return the last value that was logged, or None."""
    return next((value for value in reversed(values) if not math.isnan(value)), None)


def _strip(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Place the accuracy of each split and its interval on a common scale, in percent of its width."""
    rows = [
        (name, split["accuracy"], split.get("accuracy_ci95") or [split["accuracy"]] * 2)
        for name, split in splits.items()
    ]
    if not rows:
        return None
    low, high = min(bounds[0] for _, _, bounds in rows), max(bounds[1] for _, _, bounds in rows)
    step = next(
        s for s in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 5 or s == 0.2
    )
    first, last = math.floor(low / step), min(math.ceil(high / step), round(1 / step))
    last = max(last, first + 1)

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value / step - first) / (last - first))), 2)

    digits = 1 if step < 0.01 else 0
    return {
        "rows": [
            {
                "name": name,
                "label": _split_label(name),
                "accuracy": accuracy,
                "bounds": bounds,
                "dot": place(accuracy),
                "left": place(bounds[0]),
                "width": round(place(bounds[1]) - place(bounds[0]), 2),
            }
            for name, accuracy, bounds in rows
        ],
        "ticks": [
            (place(tick * step), f"{100 * tick * step:.{digits}f}" + ("%" if tick == last else ""))
            for tick in range(first, last + 1)
        ],
    }


def _split_label(name: str) -> str:
    """Return "test without leaks" of "test without leaks", and "validation" of "val"."""
    split, _, rest = name.partition(" ")
    return f"{SPLIT_NAMES[split]} {rest}".strip()


def _gap(verdict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the verdict where it brings a gap between training and validation that its text does
    not tell.
    """
    return {} if "gap of" in str(verdict.get("text")) or verdict.get("gap") is None else verdict


FIGURES = {
    "num_images": ("Images", words.number),
    "num_groups": ("Groups", words.number),
    "accuracy": ("Accuracy", words.percent),
    "accuracy_ci95": ("95 % interval", words.short_interval),
    "top5_accuracy": ("Top-5 accuracy", words.percent),
    "top5_accuracy_ci95": ("95 % interval", words.short_interval),
    "balanced_accuracy": ("Balanced accuracy", words.percent),
    "macro_f1": ("Macro F1", words.percent),
    "loss": ("Log loss", words.fixed),
    "calibration_error": ("Calibration error, debiased", words.percent),
    "expected_calibration_error": ("Expected calibration error", words.percent),
    "calibration_error_if_perfect": ("… of a perfectly calibrated model", words.percent),
}


UNTESTED = {
    "accuracy": "Right",
    "top5_accuracy": "Right among five answers",
    "balanced_accuracy": "Mean recall",
}  # what figures of validation photos alone are called


def _figures_table(
    splits: Mapping[str, Mapping[str, Any]], *, tested: bool = True
) -> dict[str, Any] | None:
    if not splits:
        return None
    rows = [
        (
            label if tested else UNTESTED.get(key, label),
            [as_text(split.get(key)) for split in splits.values()],
        )
        for key, (label, as_text) in FIGURES.items()
        if any(split.get(key) is not None for split in splits.values())
    ]
    return {"columns": [_split_label(name) for name in splits], "rows": rows}


def making(run: RunFiles) -> Section:
    """Tell what was trained on what, on which machine, and how to do it again."""
    environment, data, model = run.environment, run.data, run.model
    architecture = model.get("architecture") or {}
    command = environment.get("command")
    commands = [("As it was typed", command)] if command else []
    commands.append(
        (
            "From this run folder",
            f"tintype train {shlex.quote((run.folder / 'recipe.yaml').as_posix())}",
        )
    )
    images = data.get("num_images") or {}
    context = {
        "commands": commands,
        "recipe": run.recipe_text.strip(),
        "facts": [(title, _known(facts)) for title, facts in _facts(run, architecture).items()],
        "choices": [
            choice for choice in environment.get("choices") or [] if isinstance(choice, dict)
        ],
        "departures": [d for d in environment.get("not_bit_equal") or [] if isinstance(d, dict)],
        "notes": [note for note in data.get("notes") or [] if not _is_leak(note)],
        "images": [(SPLIT_NAMES.get(split, split), count) for split, count in images.items()],
        "classes": _class_counts(data),
    }

    return Section("making", "How it was made", "making.html", context)


def _facts(run: RunFiles, architecture: Mapping[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    environment, data, model, recipe = run.environment, run.data, run.model, run.recipe
    size = (
        "{channels} × {height} × {width}".format_map(data)
        if {"channels", "height", "width"} <= data.keys()
        else None
    )
    options = ", ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in (architecture.get("options") or {}).items()
    )
    # With a trained head alone it is features that pass through training, and their speed says
    # nothing of images.
    rate = environment.get("images_per_second") if recipe.get("tune") != "head" else None
    precision = " · ".join(filter(None, [_device(environment), environment.get("precision")]))

    return {
        "Data": [
            ("Set", data.get("name") or recipe.get("data")),
            (
                "Images",
                " · ".join(
                    f"{n:,} {SPLIT_NAMES.get(name, name)}{' tiles' if run.task == 'upscale' and name == 'train' else ''}"
                    for name, n in (data.get("num_images") or {}).items()
                ),
            ),
            ("Classes", len(data.get("class_names") or []) or None),
            ("Size", size and f"{size} (channels, height, width)"),
            ("Fingerprint", data.get("fingerprint")),
        ],
        "Model": [
            ("Architecture", architecture.get("name") or recipe.get("model")),
            ("Options", options),
            ("Parameters", _parameters(model)),
            (
                "Multiply-adds",
                words.magnitude(model["multiply_adds"]) if model.get("multiply_adds") else None,
            ),
        ],
        "Machine": [
            (
                "Training",
                words.duration(environment["training_seconds"])
                if environment.get("training_seconds")
                else None,
            ),
            (
                "Preparation",
                words.duration(environment["preparing_seconds"])
                if environment.get("preparing_seconds")
                else None,
            ),
            (
                "In all",
                words.duration(environment["seconds"]) if environment.get("seconds") else None,
            ),
            ("Speed", f"{rate:,.0f} training images per second" if rate else None),
            ("Device", precision),
            ("Processor", environment.get("cpu")),
            ("Instructions", _instructions(environment.get("arithmetic"))),
            (
                "Threads",
                words.plural(environment["threads"], "thread")
                if environment.get("threads")
                else None,
            ),
            ("Started", words.date(environment["started"]) if environment.get("started") else None),
            ("Software", _versions(environment)),
            ("System", environment.get("platform")),
        ],
    }


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


def _class_counts(data: Mapping[str, Any]) -> dict[str, Any] | None:
    names, counts = data.get("class_names") or [], data.get("class_counts") or {}
    columns = [split for split in SPLIT_NAMES if len(counts.get(split) or []) == len(names) > 0]
    if not columns:
        return None
    largest = max(1, max(max(counts[split]) for split in columns))
    rows = [
        (name, [counts[split][number] for split in columns]) for number, name in enumerate(names)
    ]
    return {"columns": [SPLIT_NAMES[split] for split in columns], "rows": rows, "largest": largest}


def history(run: RunFiles) -> Section | None:
    """Show loss, accuracy and learning rate over the training."""
    panels = figures.history_panels(run.metrics)
    if not panels:
        return None

    x_title = "epoch" if run.metrics.get("epoch") else "step"
    chart = Chart(
        "history",
        figures.history(panels, x_title),
        print_figures.png(print_figures.history(panels, x_title)),
        "Line diagrams over the training: "
        + ", ".join(panel.title.lower() for panel in panels)
        + ".",
    )
    num_val = (run.data.get("num_images") or {}).get("val") or 0
    context = {
        "chart": chart,
        "best": _best(run),
        "few_val": num_val if 0 < num_val < FEW_VAL else None,
        "harder": bool(run.recipe.get("label_smoothing"))
        or run.recipe.get("augment") not in (None, "none"),
    }

    return Section("history", "Training curves", "history.html", context, {chart.name: chart.png})


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


def _best(run: RunFiles) -> dict[str, float] | None:
    pairs = zip(run.metrics.get("val_accuracy", []), run.metrics.get("epoch", []), strict=False)
    known = [(accuracy, -epoch) for accuracy, epoch in pairs if not math.isnan(accuracy + epoch)]
    return {"accuracy": max(known)[0], "epoch": -max(known)[1]} if known else None


def confusion(run: RunFiles) -> Section | None:
    """Show which classes are taken for which."""
    matrix, names = run.evaluated("confusion"), run.class_names
    if not matrix or len(matrix) != len(names):
        return None

    wrong = sum(sum(row) for row in matrix) - sum(row[number] for number, row in enumerate(matrix))
    chart = Chart(
        "confusion",
        figures.confusion(matrix, names),
        print_figures.png(print_figures.confusion(matrix, names)),
        f"Confusion matrix of {len(names)} classes on the {SPLIT_NAMES[run.split]} split; "
        "the pairs most confused are listed with it.",
    )
    pairs = (run.evaluated("most_confused") or [])[:12]
    context = {
        "chart": chart,
        "pairs": pairs,
        "unequal": len({pair.get("count") for pair in pairs}) > 1,
        "split": SPLIT_NAMES[run.split],
        "wrong": wrong,
        "many": len(names) > 20,
    }

    return Section(
        "confusion", "Confusion matrix", "confusion.html", context, {chart.name: chart.png}
    )


def classes(run: RunFiles) -> Section | None:
    """Show precision, recall and F1 of each class."""
    per_class = run.evaluated("per_class")
    if not per_class:
        return None

    trained = dict(
        zip(run.class_names, (run.data.get("class_counts") or {}).get("train") or [], strict=False)
    )
    rows = [{**row, "trained": trained.get(str(row.get("name")))} for row in per_class]
    means = run.evaluated("averages") or {}
    averages = [(kind.capitalize(), means[kind]) for kind in ("macro", "weighted") if kind in means]
    context = {
        "rows": rows,
        "averages": averages,
        "trained": bool(trained),
        "split": SPLIT_NAMES[run.split],
    }
    sized = [row for row in rows if row["trained"] and row.get("support")]
    counts = [row["trained"] for row in sized]
    if len(sized) < 2 or max(counts) < UNEQUAL * min(counts):
        return Section("classes", "Results by class", "classes.html", context)

    chart = Chart(
        "class_sizes",
        figures.class_sizes(sized),
        print_figures.png(print_figures.class_sizes(sized)),
        "Recall of each class, with its 95 % interval, by the number of its training images.",
    )
    context |= {"chart": chart, "size_words": _size_words(sized)}
    return Section("classes", "Results by class", "classes.html", context, {chart.name: chart.png})


def _size_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say whether rare classes are found less often: by Spearman's rank correlation, where there
    are classes enough.
    """
    few = "Each dot is a class, with the 95 % interval of its recall. "
    if len(rows) < FEWEST_RANKED:
        return (
            few + f"{len(rows)} classes are too few to tell whether recall depends on class size."
        )

    rho, p = rank_correlation([row["trained"] for row in rows], [row["recall"] for row in rows])
    if p >= 0.05:
        return (
            few
            + f"Recall does not depend significantly on class size (rank correlation {rho:.2f}, p = {p:.2g})."
        )

    kind = "less" if rho > 0 else "more"
    return (
        few
        + f"Classes with fewer training images are recognised {kind} often (rank correlation {rho:.2f}, p = {p:.2g})."
    )


def predictions(run: RunFiles) -> Section | None:
    """Show a sample of pictures, right and wrong mixed."""
    lede = "A sample of the test images. Mistakes are included on purpose, so their share here is not the error rate."
    return _pictures(run, "grid", "predictions", "Example predictions", lede)


def _pictures(run: RunFiles, key: str, name: str, title: str, lede: str) -> Section | None:
    cards: list[Card] = read_cards(run.folder / "samples", run.samples.get(key) or [])
    if not cards:
        return None
    static = print_figures.png(print_figures.picture_grid(cards))
    return Section(
        name.replace("_", "-"),
        title,
        "pictures.html",
        {"cards": cards, "lede": lede},
        {name: static},
    )


def reliability(run: RunFiles) -> Section | None:
    """Show whether the confidence can be believed."""
    bins = [each for each in run.evaluated("reliability") or [] if each.get("count")]
    if not bins:
        return None

    split = run.evaluation["splits"].get(run.split) or {}
    chart = Chart(
        "reliability",
        figures.reliability(bins, _bins_before(run)),
        print_figures.png(print_figures.reliability(bins, _bins_before(run))),
        "Reliability diagram: accuracy against confidence, a dot for each group of images.",
    )
    mean = sum(each["confidence"] * each["count"] for each in bins) / sum(
        each["count"] for each in bins
    )
    low, high = split.get("accuracy_ci95") or [mean, mean]
    context = {
        "chart": chart,
        "per_dot": _images_per_dot(bins),
        "error": split.get("expected_calibration_error"),
        "debiased": split.get("calibration_error"),
        "if_perfect": split.get("calibration_error_if_perfect"),
        "num_images": split.get("num_images"),
        "calibration": _calibration(run.evaluation.get("calibration") or {}),
        "mean": mean,
        "accuracy": split.get("accuracy"),
        "word": _calibration_word(mean, low, high),
    }

    return Section(
        "reliability", "Calibration", "reliability.html", context, {chart.name: chart.png}
    )


def _images_per_dot(bins: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many images stand behind each dot, where it is the same number; earlier versions
    had equal widths.
    """
    counts = [int(each["count"]) for each in bins]
    return max(counts) if max(counts) - min(counts) <= 1 else None


def _calibration_word(mean: float, low: float, high: float) -> str:
    """Say how the mean confidence compares with the interval of the accuracy."""
    if mean > high:
        return "overconfident"
    return "underconfident" if mean < low else "well calibrated"


def _bins_before(run: RunFiles) -> list[dict[str, Any]]:
    """The bins without temperature, where there was one."""
    calibration = run.evaluation.get("calibration") or {}
    before = (calibration.get("reliability") or {}).get(run.split) or []
    return before if calibration.get("temperature", 1.0) != 1.0 else []


def _calibration(found: Mapping[str, Any]) -> dict[str, Any] | None:
    if not found.get("temperature"):
        return None
    rows = [
        {"name": SPLIT_NAMES[split], **found["splits"][split]}
        for split in ("val", "test")
        if split in found["splits"]
    ]
    return {"temperature": found["temperature"], "reason": found.get("reason"), "rows": rows}


def filters(run: RunFiles) -> Section | None:
    """Show the first layer's filters of a convolutional network, where this run trained them."""
    tune = str(run.recipe.get("tune") or "all")
    weights = first_layer(run) if tune == "all" else None
    if weights is None:
        return None

    sheet = filter_sheet(weights)
    num_filters, channels, height, width = weights.shape
    context = {
        "uri": data_uri(png_bytes(sheet)),
        "count": num_filters,
        "size": f"{height} × {width}",
        "colour": channels == 3,
    }

    return Section(
        "filters",
        "First-layer filters",
        "filters.html",
        context,
        {"filters": png_bytes(enlarged(sheet))},
    )


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


# The order of the sections, by task: the result and what limits it, the mistakes, the training, and
# last how the run was made. A task without an entry gets the sections that every run has.
COMMON: tuple[Callable[[RunFiles], Section | None], ...] = (headline, warnings, history, making)
SECTIONS: dict[str, tuple[Callable[[RunFiles], Section | None], ...]] = {
    "classify": (
        headline,
        warnings,
        mistakes.worst_mistakes,
        mistakes.pairs,
        confusion,
        classes,
        mistakes.slices,
        history,
        range_test,
        reliability,
        mistakes.abstaining,
        mistakes.embedding,
        predictions,
        filters,
        learning,
        making,
    ),
    "generate": (
        generate_sections.headline,
        warnings,
        generate_sections.memory,
        generate_sections.classes,
        generate_sections.lapse,
        generate_sections.ways,
        generate_sections.history,
        learning,
        making,
    ),
    "upscale": (
        upscale_sections.headline,
        warnings,
        upscale_sections.pictures,
        upscale_sections.by_picture,
        upscale_sections.history,
        learning,
        making,
    ),
}
