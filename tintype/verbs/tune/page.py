"""The page of a tuning: the honest figure beside the flattering one, what matters, how the search
went.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import plotly.graph_objects as go
from matplotlib.figure import Figure

from tintype.files.whole import written_whole
from tintype.pages import figures, print_figures
from tintype.pages.figures import COLOURS
from tintype.pages.pages import check_replaceable, render_page
from tintype.pages.section import Chart, Section
from tintype.verbs.tune.space import Range, tuning_part

if TYPE_CHECKING:
    from tintype.verbs.tune.folder import Tuning

MADE_BY = "tintype tune"


def write_page(tuning: Tuning) -> Path:
    """Write tuning.html and return its path.

    Raises:
        UserError: something else is in its place, or it cannot be written.
    """
    page = tuning.path / "tuning.html"
    check_replaceable(page, MADE_BY)
    made = (_result(tuning), _search(tuning), _importance(tuning), _trials(tuning))
    sections = [section for section in made if section]
    names = (
        "tune.yaml",
        "tuning.json",
        "table.csv",
        f"{tuning.winner_folder.name}/study.html" if tuning.winner_folder else "",
    )
    files = [name for name in names if name and (tuning.path / name).is_file()]
    facts = ["Tuning", f"{len(tuning.trials())} trials", f"{len(tuning.request.space)} settings"]
    recipe = tuning.request.recipe
    question = f"What settings suit {recipe.model} on {Path(recipe.data).name} best?"
    text = render_page(
        "tuning.html",
        sections,
        title=tuning.path.resolve().name,
        standfirst=facts,
        made_by=MADE_BY,
        files=files,
        question=question,
    )
    with written_whole(page) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

    return page


def _result(tuning: Tuning) -> Section:
    outcome = tuning.outcome()
    best = tuning.best
    recipe = tuning.path / best.user_attrs["run"] / "recipe.yaml" if best else None
    command = f"tintype train {shlex.quote(str(recipe))} --set measure=test" if recipe else ""
    context: dict[str, Any] = {
        "outcome": outcome,
        "measure": tuning.measure,
        "sentences": tuning.sentences(),
        "honest": outcome.winner.get("test", (None, None))[0],
        "command": command,
        **_winner(tuning),
    }
    return Section("result", "Result", "tuning_result.html", context)


def _winner(tuning: Tuning) -> dict[str, Any]:
    """Return where the winner lies that is best on validation, its report, and the command that
    uses it.
    """
    result = tuning.winner.result() if tuning.winner else None
    if result is None:
        return {"winner": ""}

    sign = 1 if tuning.request.higher_is_better else -1
    runs = result.variants[0].finished
    best = max(runs, key=lambda each: sign * (each.figure("val", tuning.request.score) or 0.0))
    path, inside = best.run.path, best.run.path.relative_to(tuning.path).as_posix()
    part = tuning_part(best.task)
    use = f"tintype {part.USE.format(run=shlex.quote(str(path)))}" if part else ""
    page = f"{inside}/report.html" if (path / "report.html").is_file() else ""

    return {"winner": inside, "winners": runs, "winner_page": page, "use": use}


def _trials(tuning: Tuning) -> Section:
    space, best = tuning.request.space, tuning.best
    rows = [
        {
            "trial": row["trial"],
            "state": row["state"],
            "value": row[f"val_{tuning.request.score}"],
            "message": row["message"],
            "params": [row[field] for field in space],
            "page": f"{row['run']}/report.html"
            if (tuning.path / row["run"] / "report.html").is_file()
            else "",
        }
        for row in tuning.table()
    ]
    context = {
        "rows": rows,
        "fields": list(space),
        "measure": tuning.measure,
        "best": best.number if best else None,
    }

    return Section("trials", "All trials", "tuning_trials.html", context)


def _search(tuning: Tuning) -> Section | None:
    """Show each trial's figure in order, and the best so far."""
    complete = tuning.trials("COMPLETE")
    if len(complete) < 2:
        return None

    numbers, values = [t.number for t in complete], [float(t.value or 0.0) for t in complete]
    best, sign = [], 1 if tuning.request.higher_is_better else -1
    for value in values:
        best.append(value if not best or sign * value > sign * best[-1] else best[-1])
    percent, label = tuning.measure.is_share, f"validation {tuning.measure.label}"
    figure = figures.new_figure(height=340)
    dots = {"color": COLOURS["val"], "size": 9}
    figure.add_trace(
        go.Scatter(
            x=numbers, y=values, mode="markers", name="trials", marker=dots, meta={"role": "val"}
        )
    )
    line = {"color": COLOURS["guide"], "shape": "hv"}
    figure.add_trace(
        go.Scatter(
            x=numbers, y=best, mode="lines", name="best so far", line=line, meta={"role": "guide"}
        )
    )
    _axes(figure, "trial", label, percent)
    figure.update_xaxes(tick0=0, dtick=max(1, -(-(max(numbers) + 1) // 10)))
    printed = _printed([("trial", numbers, values)], label, False, best)
    chart = Chart("search", figure, printed, f"{label} of each trial, in order.")
    text = (
        "The validation figure of each finished trial, and the best so far. "
        "The more trials there are, the more optimistic "
        "is the figure of the best one."
    )

    return Section(
        "search", "How the search went", "tuning_charts.html", {"charts": [chart], "text": text}
    )


def _importance(tuning: Tuning) -> Section | None:
    """Show how much each setting matters, and the figure against each setting."""
    importances, complete = tuning.importances(), tuning.trials("COMPLETE")
    if not importances:
        return None

    label, percent = f"validation {tuning.measure.label}", tuning.measure.is_share
    charts = []
    for field in importances:
        entry = tuning.request.space[field]
        known = [t for t in complete if field in t.params]
        x, y = [t.params[field] for t in known], [float(t.value or 0.0) for t in known]
        figure = figures.new_figure(height=300)
        numbers = [t.number for t in known]
        figure.add_trace(
            go.Scatter(
                x=[html.escape(v) if isinstance(v, str) else v for v in x],
                y=y,
                mode="markers",
                showlegend=False,
                marker={"color": COLOURS["val"], "size": 8, "opacity": 0.75},
                text=[f"trial {n}" for n in numbers],
                hovertemplate="%{text}<br>%{x}<br>%{y:.4g}<extra></extra>",
                meta={"role": "val"},
            )
        )
        _axes(figure, field, label, percent)
        log = isinstance(entry, Range) and entry.log
        scale = "linear" if isinstance(entry, Range) else "category"
        figure.update_xaxes(type="log" if log else scale)
        charts.append(
            Chart(
                f"slice-{len(charts)}",
                figure,
                _printed([(field, x, y)], label, log),
                f"{label} against {field}.",
            )
        )

    text = (
        "The share of the variance of the validation figures that each setting explains "
        "(functional analysis of variance "
        "over the finished trials), and below it each trial at its value of the setting. "
        "This is a rough estimate."
    )
    context = {"charts": charts, "bars": list(importances.items()), "text": text}
    return Section("importance", "What matters", "tuning_charts.html", context)


def _axes(figure: go.Figure, x: str, y: str, percent: bool) -> None:
    common = {"gridcolor": COLOURS["grid"], "zeroline": False, "automargin": True}
    figure.update_layout(
        margin={"t": 24},
        hovermode="closest",
        xaxis={**common, "title": {"text": html.escape(x)}},
        yaxis={**common, "title": {"text": y}, "tickformat": ".4~p" if percent else None},
    )


@matplotlib.rc_context(print_figures.STYLE)
def _printed(
    panels: Sequence[tuple[str, Sequence[Any], Sequence[float]]],
    label: str,
    log: bool,
    best: Sequence[float] | None = None,
) -> bytes:
    figure: Figure = print_figures.new_figure(4.6, 2.6)
    ax = figure.subplots()
    for title, x, y in panels:
        ax.plot(
            [str(v) if isinstance(v, str) else v for v in x],
            y,
            "o",
            color=COLOURS["val"],
            markersize=4,
        )
        if best is not None:
            ax.plot(x, best, color=COLOURS["guide"], drawstyle="steps-post")
        ax.set(xlabel=title, ylabel=label)

    if log:
        ax.set_xscale("log")
    return print_figures.png(figure)
