"""The report of a classifier: its sections in their order, and its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tintype.pages import figures, print_figures, words
from tintype.pages.drawings import Drawing
from tintype.pages.figures import Panel
from tintype.pages.pictures import data_uri, enlarged, png_bytes
from tintype.pages.section import SPLIT_NAMES, Chart, Section
from tintype.pages.sections import (
    by_column,
    history_axis,
    history_chart,
    history_drawing,
    range_test,
    split_label,
    warnings,
)
from tintype.pages.verdict import looks, verdict
from tintype.runs.folder import called, without_test
from tintype.runs.reading import RunFiles
from tintype.runs.summary import by_groups, own_rows, with_clean_rows
from tintype.statistics import rank_correlation
from tintype.tasks.class_counts import class_names_of, making
from tintype.tasks.classify import charts, print_charts
from tintype.tasks.classify import report_mistakes as mistakes
from tintype.tasks.classify.cards import (
    COLUMNS,
    filter_sheet,
    first_layer,
    picture_grid,
    print_grid,
    read_cards,
)
from tintype.tasks.classify.equations import learning
from tintype.tasks.classify.report_calibration import abstaining, reliability
from tintype.tasks.classify.report_heads import heads

# the largest class by the smallest from which on a diagram of their sizes says something
UNEQUAL = 2.0


FEWEST_RANKED = 8


FEW_VAL = 100  # validation images below which the report says that they decide little


def headline(run: RunFiles) -> Section:
    """Open with the figure that counts, its interval, the other splits and the verdict."""
    measured = {name: figures for name, figures in run.splits.items() if "accuracy" in figures}
    if without_test(run.evaluation):
        measured = {name: figures for name, figures in measured.items() if name == run.split}
    shown = with_clean_rows(measured)
    context = {
        "finished": run.finished,
        "reached": run.reached,
        "val_accuracy": _last(run.metrics.get("val_accuracy", [])),
        "split": run.split,
        "called": called(run.evaluation),
        "main": shown.get(run.split),
        "strip": _strip(shown),
        "verdict": verdict(run),
        "gap": _gap(run.evaluation.get("verdict") or {}),
        "looks": looks(run),
        "by_groups": by_groups(run.splits),
        "chosen": run.evaluation.get("chosen_by_validation"),
        "validation": (run.evaluation.get("validation") or {}).get("text"),
        "table": _figures_table(
            shown, own_rows(run.evaluation, shown), tested=not without_test(run.evaluation)
        ),
    }

    return Section("result", "Result", "classify/headline.html", context)


def _last(values: Sequence[float]) -> float | None:
    """Return the last value that was logged, or None."""
    return next((value for value in reversed(values) if not math.isnan(value)), None)


def _strip(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Place the accuracy of each split on a common scale, in percent of its width.

    Its interval is placed as well.
    """
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
                "label": split_label(name),
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


def _gap(verdict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the verdict where it brings a gap between training and validation that its text does
    not tell.
    """
    return {} if "gap of" in str(verdict.get("text")) or verdict.get("gap") is None else verdict


LABELS = {
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
    splits: Mapping[str, Mapping[str, Any]],
    own: Sequence[tuple[str, list[str]]],
    *,
    tested: bool = True,
) -> dict[str, Any] | None:
    if not splits:
        return None
    rows = [
        (
            label if tested else UNTESTED.get(key, label),
            [as_text(split.get(key)) for split in splits.values()],
        )
        for key, (label, as_text) in LABELS.items()
        if any(split.get(key) is not None for split in splits.values())
    ]
    return {"columns": [split_label(name) for name in splits], "rows": [*rows, *own]}


def history_panels(metrics: Mapping[str, Sequence[float]], *, smooth: bool = True) -> list[Panel]:
    """Arrange the columns of metrics.csv as loss, accuracy and learning rate.

    What was never logged is left out. What was measured on training batches, which is noisy, comes
    twice: faint as it is, and smoothed by an exponential mean; without `smooth`, once, each value
    as it was logged. It is of the images as they were trained on, augmentation and dropout
    included.
    """
    x = metrics.get("epoch") or metrics.get("step") or []
    loss = figures.noisy(x, metrics.get("loss", []), smooth=smooth)
    # A loss of the user's own is measured on validation too, beside the log loss.
    measured = metrics.get("val_own_loss") or metrics.get("val_loss", [])
    val_loss = figures.column("validation", x, measured, "val", "points")
    batches = figures.noisy(x, metrics.get("train_accuracy", []), smooth=smooth)
    clean = figures.column(
        "training, not augmented", x, metrics.get("clean_train_accuracy", []), "train", "points"
    )
    accuracy = figures.column("validation", x, metrics.get("val_accuracy", []), "val", "points")
    rate = figures.column("learning rate", x, metrics.get("lr", []), "rate", "line")
    panels = [
        Panel("Loss", [s for s in (*loss, val_loss) if len(s.x)], share=1.0),
        Panel(
            "Accuracy",
            [s for s in (*batches, clean, accuracy) if len(s.x)],
            share=0.8,
            percent=True,
        ),
        Panel("Learning rate", [s for s in (rate,) if len(s.x)], share=0.42),
    ]

    return [panel for panel in panels if panel.series]


def history(run: RunFiles) -> Section | None:
    """Show loss, accuracy and learning rate over the training, where there were steps."""
    if run.evaluation.get("heads"):
        return None
    chart = history_chart(history_panels(run.metrics), history_axis(run))
    if chart is None:
        return None

    num_val = (run.data.get("num_images") or {}).get("val") or 0
    context = {
        "chart": chart,
        "best": _best(run),
        "few_val": num_val if 0 < num_val < FEW_VAL else None,
        "harder": bool(run.recipe.get("label_smoothing"))
        or run.recipe.get("augment") not in (None, "none"),
    }

    return Section(
        "history", "Training curves", "classify/history.html", context, {chart.name: chart.png}
    )


def _best(run: RunFiles) -> dict[str, float] | None:
    pairs = zip(run.metrics.get("val_accuracy", []), run.metrics.get("epoch", []), strict=False)
    known = [(accuracy, -epoch) for accuracy, epoch in pairs if not math.isnan(accuracy + epoch)]
    return {"accuracy": max(known)[0], "epoch": -max(known)[1]} if known else None


def confusion(run: RunFiles) -> Section | None:
    """Show which classes are taken for which."""
    matrix, names = run.evaluated("confusion"), class_names_of(run)
    if not matrix or len(matrix) != len(names):
        return None

    wrong = sum(sum(row) for row in matrix) - sum(row[number] for number, row in enumerate(matrix))
    chart = Chart(
        "confusion",
        charts.confusion(matrix, names),
        print_figures.png(print_charts.confusion(matrix, names)),
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
        "confusion", "Confusion matrix", "classify/confusion.html", context, {chart.name: chart.png}
    )


def classes(run: RunFiles) -> Section | None:
    """Show precision, recall and F1 of each class."""
    per_class = run.evaluated("per_class")
    if not per_class:
        return None

    by_split = run.data.get("class_counts") or {}
    counts_of = [by_split.get("train") or []]
    if run.evaluated("heads") and by_split.get("val"):  # exact heads are fitted to both
        counts_of.append(by_split["val"])
    counted = [sum(counts) for counts in zip(*counts_of, strict=True)]
    trained = dict(zip(class_names_of(run), counted, strict=False))
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
        return Section("classes", "Results by class", "classify/classes.html", context)

    chart = Chart(
        "class_sizes",
        charts.class_sizes(sized),
        print_figures.png(print_charts.class_sizes(sized)),
        "Recall of each class, with its 95 % interval, by the number of its training images.",
    )
    context |= {"chart": chart, "size_words": _size_words(sized)}
    return Section(
        "classes", "Results by class", "classify/classes.html", context, {chart.name: chart.png}
    )


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
        return few + (
            "Recall does not depend significantly on class size "
            f"(rank correlation {rho:.2f}, p = {p:.2g})."
        )

    kind = "less" if rho > 0 else "more"
    return few + (
        f"Classes with fewer training images are recognised {kind} often (rank correlation "
        f"{rho:.2f}, p = {p:.2g})."
    )


def predictions(run: RunFiles) -> Section | None:
    """Show a sample of pictures, right and wrong mixed."""
    lede = (
        "A sample of the test images. Mistakes are included on purpose, "
        "so their share here is not the error rate."
    )
    return _pictures(run, "grid", "predictions", "Example predictions", lede)


def _pictures(run: RunFiles, key: str, name: str, title: str, lede: str) -> Section | None:
    cards = read_cards(run.folder / "samples", run.samples.get(key) or [])
    if not cards:
        return None
    static = print_figures.png(print_grid(cards))
    return Section(
        name.replace("_", "-"),
        title,
        "classify/pictures.html",
        {"cards": cards, "lede": lede},
        {name: static},
    )


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
        "classify/filters.html",
        context,
        {"filters": png_bytes(enlarged(sheet))},
    )


def draw_history(run: RunFiles, *, smooth: bool = True) -> Drawing | None:
    """Return loss, accuracy and learning rate over the training as a figure."""
    return history_drawing(history_panels(run.metrics, smooth=smooth), history_axis(run))


def draw_confusion(run: RunFiles) -> Drawing | None:
    """Return the confusion matrix of the test split as a figure."""
    matrix, names = run.evaluated("confusion"), class_names_of(run)
    if not matrix:
        return None
    return Drawing(
        "confusion",
        f"Confusion matrix of {len(names)} classes.",
        lambda: charts.confusion(matrix, names),
        lambda: print_charts.confusion(matrix, names),
    )


def draw_mistakes(run: RunFiles) -> Drawing | None:
    """Return the most confident mistakes on test images as a figure."""
    cards = read_cards(run.folder / "samples", run.samples.get("worst") or [])
    if not cards:
        return None
    return Drawing(
        "mistakes",
        "The most confident mistakes.",
        lambda: picture_grid(cards, COLUMNS),
        lambda: print_grid(cards, COLUMNS),
    )


# The result and what limits it, the mistakes, the training, and last how the run was made.
SECTIONS = (
    headline,
    warnings,
    mistakes.worst_mistakes,
    mistakes.pairs,
    confusion,
    classes,
    mistakes.slices,
    by_column,
    heads,
    history,
    range_test,
    reliability,
    abstaining,
    mistakes.embedding,
    predictions,
    filters,
    learning,
    making,
)
FIGURES = {"confusion": draw_confusion, "mistakes": draw_mistakes}
