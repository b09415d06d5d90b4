"""The report of a regression: its sections in their order, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tintype.pages import figures, words
from tintype.pages.drawings import Drawing
from tintype.pages.figures import Panel, Series, column
from tintype.pages.pictures import THUMBNAIL, TINY, data_uri, open_picture, png_bytes
from tintype.pages.section import SPLIT_NAMES, Section
from tintype.pages.sections import (
    by_column,
    history_axis,
    history_chart,
    history_drawing,
    making,
    range_test,
    split_label,
    warnings,
)
from tintype.pages.verdict import looks, verdict
from tintype.runs.folder import called, without_test
from tintype.runs.reading import RunFiles
from tintype.runs.summary import by_groups, own_rows, with_clean_rows
from tintype.tasks.regress.answers import read_answers
from tintype.tasks.regress.charts import Answers, agreement, residuals
from tintype.tasks.regress.equations import learning
from tintype.tasks.regress.metrics import in_digits

FIGURE_NAMES = {
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "baseline_mae": "MAE of the mean",
    "relative_mae": "MAE / MAE of the mean",
}


def headline(run: RunFiles) -> Section:
    """Open with the mean absolute error, what the mean would reach, and the verdict."""
    measured = {name: each for name, each in run.splits.items() if "mae" in each}
    if without_test(run.evaluation):
        measured = {name: each for name, each in measured.items() if name == run.split}
    shown = with_clean_rows(measured)
    main = shown.get(run.split)

    context = {
        "finished": run.finished,
        "reached": run.reached,
        "main": main,
        "what": " and ".join(_columns(run)),
        "called": called(run.evaluation, "").strip(),
        "of": SPLIT_NAMES[run.split],
        "better": None if main is None else 1 - main["relative_mae"],
        "verdict": verdict(run),
        "looks": looks(run),
        "by_groups": by_groups(run.splits),
        "table": _table(shown, own_rows(run.evaluation, shown)),
        "columns": _by_column(main),
        "digits": in_digits,
    }
    return Section("result", "Result", "regress/headline.html", context)


def _columns(run: RunFiles) -> list[str]:
    return [str(name) for name in run.evaluation.get("columns") or ["number"]]


def _table(
    splits: Mapping[str, Mapping[str, Any]], own: Sequence[tuple[str, list[str]]]
) -> dict[str, Any] | None:
    if not splits:
        return None

    each = list(splits.values())
    rows = [("Images", [words.number(split.get("num_images")) for split in each])]
    if any("num_groups" in split for split in each):
        rows.append(("Groups", [words.number(split.get("num_groups")) for split in each]))
    for key, title in FIGURE_NAMES.items():
        rows.append((title, [in_digits(split[key]) for split in each]))
        rows.append(("95 % interval", [_interval(split.get(f"{key}_ci95")) for split in each]))
    rows.append(("Rank correlation (Spearman)", [in_digits(split["spearman"]) for split in each]))

    return {"columns": [split_label(name) for name in splits], "rows": [*rows, *own]}


def _by_column(figures: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the figures of each number, where there are several."""
    columns = (figures or {}).get("per_column")
    if not columns:
        return None
    rows = [
        (title, [f"{in_digits(each[key])} ({_interval(each[f'{key}_ci95'])})" for each in columns])
        for key, title in FIGURE_NAMES.items()
    ]
    return {"columns": [each["column"] for each in columns], "rows": rows}


def _interval(ends: Sequence[float] | None) -> str:
    return f"{in_digits(ends[0])} to {in_digits(ends[1])}" if ends else "–"


def predicted(run: RunFiles) -> Section | None:
    """Show predictions against the truth, and the errors against it."""
    answers = read_answers(run.folder, run.split, _columns(run))
    if not answers:
        return None

    parts = [
        {
            "column": each.column if len(answers) > 1 else "",
            "agreement": _named(agreement(each), answers, each).chart(),
            "residuals": _named(residuals(each), answers, each).chart(),
            "slope": _slope(each),
        }
        for each in answers
    ]
    charts = [part[name] for part in parts for name in ("agreement", "residuals")]
    context = {"parts": parts, "of": SPLIT_NAMES[run.split], "digits": in_digits}
    static = {chart.name: chart.png for chart in charts}
    return Section("predicted", "Predicted and true", "regress/predicted.html", context, static)


def _named(drawing: Drawing, answers: Sequence[Answers], each: Answers) -> Drawing:
    """Return a drawing under a file name of its own where there are several numbers."""
    if len(answers) == 1:
        return drawing
    number = 1 + [other.column for other in answers].index(each.column)
    return Drawing(f"{drawing.name}-{number}", drawing.alt, drawing.plotly, drawing.matplotlib)


def _slope(answers: Answers) -> float | None:
    """Return by how much the prediction rises with the truth: below 1 it is drawn to the mean."""
    truth = answers.targets - answers.targets.mean()
    spread = float((truth**2).sum())
    return float((truth * answers.predictions).sum()) / spread if spread else None


def intervals(run: RunFiles) -> Section | None:
    """Show how often the predictive intervals hold the truth, and how wide they are."""
    found = run.evaluation.get("intervals") or {}
    if not found:
        return None

    rows = [
        {
            "column": each["column"],
            "coverage": words.percent(each["coverage"]),
            "interval": words.short_interval(each["coverage_ci95"]),
            "width": in_digits(each["mean_width"]),
            "narrow": in_digits(each["width_deciles"][0]),
            "wide": in_digits(each["width_deciles"][2]),
        }
        for each in found.get("test") or []
    ]
    context = {
        "level": words.percent(found["level"], 0),
        "rows": rows,
        "calibrated": found["num_calibrated"],
        "needed": found["num_needed"],
        "enough": None not in found["quantiles"],
    }
    return Section("intervals", "Predictive intervals", "regress/intervals.html", context)


@dataclass(frozen=True)
class NumberCard:
    """A picture with its true number, its prediction and its interval, in words."""

    image: Image.Image
    name: str
    target: str
    prediction: str
    interval: str

    @property
    def tiny(self) -> bool:
        """Whether the picture is enlarged with its pixels kept apart."""
        return max(self.image.size) < TINY

    @property
    def alt(self) -> str:
        """What the picture is of, for those who do not see it."""
        return f"{self.name}: true {self.target}, predicted {self.prediction}"

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return data_uri(png_bytes(self.image))


def worst(run: RunFiles) -> Section | None:
    """Show the test images with the largest errors."""
    cards = _cards(run, "worst")
    if not cards:
        return None
    lede = (
        "The largest errors first: hard images, gaps in the training data, "
        "or wrong numbers in the table."
    )
    context = {"lede": lede, "cards": cards, "wrong": True}
    return Section("worst", "Worst mistakes", "regress/pictures.html", context)


def samples(run: RunFiles) -> Section | None:
    """Show test images at random, in the order of their numbers."""
    cards = _cards(run, "grid")
    if not cards:
        return None
    context = {
        "lede": "Test images at random, from the smallest number to the largest.",
        "cards": cards,
    }
    return Section("samples", "Examples", "regress/pictures.html", context)


def _cards(run: RunFiles, group: str) -> list[NumberCard]:
    """Read the pictures of a group; what cannot be read is left out.

    Only files in samples/ itself are read, whatever path an entry holds.
    """
    cards = []
    for entry in run.samples.get(group) or []:
        file = run.folder / "samples" / Path(str(entry.get("file", ""))).name
        image = open_picture(file, THUMBNAIL)
        if image is None:
            continue
        target, prediction = (
            ", ".join(map(_text, entry[key])) for key in ("targets", "predictions")
        )
        ends = zip(entry["low"], entry["high"], strict=True)
        interval = ", ".join(
            f"{_text(low)} to {_text(high)}" for low, high in ends if low is not None
        )
        cards.append(NumberCard(image, str(entry.get("name", "")), target, prediction, interval))
    return cards


def _text(value: float | None) -> str:
    return "–" if value is None else in_digits(float(value))


def history(run: RunFiles) -> Section | None:
    """Show the loss, the MAE and the learning rate over the training."""
    chart = history_chart(history_panels(run.metrics), history_axis(run))
    if chart is None:
        return None
    static = {chart.name: chart.png}
    return Section("history", "Training curves", "history.html", {"chart": chart}, static)


def history_panels(metrics: Mapping[str, Sequence[float]], *, smooth: bool = True) -> list[Panel]:
    """Arrange the columns of metrics.csv as loss, MAE, R² and learning rate."""
    known = {
        key: metrics[key] for key in ("epoch", "step", "loss", "val_loss", "lr") if key in metrics
    }
    panels = figures.history_panels(known, smooth=smooth)
    x = metrics.get("epoch") or metrics.get("step") or []

    errors = [
        *figures.noisy(x, metrics.get("train_mae", []), smooth=smooth),
        column("training, not augmented", x, metrics.get("clean_train_mae", []), "train", "points"),
        column("validation", x, metrics.get("val_mae", []), "val", "points"),
    ]
    explained: list[Series] = [column("validation", x, metrics.get("val_r2", []), "val", "points")]
    for title, series in (("MAE", errors), ("R²", explained)):
        there = [each for each in series if len(each.x)]
        if there:
            panels.insert(-1, Panel(title, there, share=0.7))
    return panels


def draw_history(run: RunFiles, *, smooth: bool = True) -> Drawing | None:
    """Return the training curves as a figure; None where nothing was logged."""
    return history_drawing(history_panels(run.metrics, smooth=smooth), history_axis(run))


def _drawing(run: RunFiles, draw: Callable[[Answers], Drawing]) -> Drawing | None:
    """Return a figure of the first number; None where there are no answers."""
    answers = read_answers(run.folder, run.split, _columns(run))
    return draw(answers[0]) if answers else None


SECTIONS = (
    headline,
    warnings,
    predicted,
    intervals,
    worst,
    samples,
    by_column,
    history,
    range_test,
    learning,
    making,
)
FIGURES: Mapping[str, Callable[[RunFiles], Drawing | None]] = {
    "agreement": lambda run: _drawing(run, agreement),
    "residuals": lambda run: _drawing(run, residuals),
}
