"""The page of a study: the choice, the table over seeds, the effects, the comparison of its runs,
how each run went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.pages.pages import check_replaceable, render_page
from tintype.pages.section import Section
from tintype.pages.words import plural
from tintype.progress import Watcher
from tintype.runs.ranking import Criterion
from tintype.verbs.compare import Comparison
from tintype.verbs.compare.page import Line
from tintype.verbs.study.declaration import factor_name
from tintype.verbs.study.drawings import (
    FOLDER,
    MOST_COMPARED,
    compare_first_seed,
    figures_of,
    ordered,
)
from tintype.verbs.study.effects import Effect
from tintype.verbs.study.figures import Finished, VariantResult, image_figures
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.result import Result

MADE_BY = "tintype study"
MOST_STRIPS = 16
LETTERS_OF_MARKS = 14  # that have room below a scale; of more marks, every second one is written


def write_page(study: StudyFolder, result: Result | None, watcher: Watcher) -> Path:
    """Write study.html, and its figures as PNG and SVG; return the page's path.

    They are made from the files of the runs.

    Raises:
        UserError: something else is in the place of the page or of a figure, or it cannot be
            written.
    """
    page = study.path / "study.html"
    check_replaceable(page, MADE_BY)
    sections = [_result(study, result)]
    figures: list[Path] = []

    if result is not None:
        comparison = _compared(result, watcher)
        sections += [section for section in (_effects(study, result),) if section]
        sections += _comparison(study, result, comparison, watcher)
        figures = figures_of(study, result, comparison).save(study.path / FOLDER)

    sections.append(_runs(study))
    declaration = study.declaration
    facts = [plural(len(study.planned), "run")]
    facts += [_counted(name, len(levels)) for name, levels in declaration.factors.items()]
    facts.append("one seed" if len(declaration.seeds) == 1 else f"{len(declaration.seeds)} seeds")
    files = [
        name for name in ("study.yaml", "study.json", "table.csv") if (study.path / name).is_file()
    ]
    files += [f"{FOLDER}/{path.name}" for path in figures if path.suffix == ".png"]
    text = render_page(
        "study.html",
        sections,
        title=study.path.resolve().name,
        standfirst=["Study", *facts],
        made_by=MADE_BY,
        files=files,
        question=declaration.question,
    )
    with written_whole(page) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

    return page


def _counted(factor: str, num_levels: int) -> str:
    name = factor_name(factor)
    return plural(num_levels, name) if name == "variant" else f"{num_levels} × {name}"


def _result(study: StudyFolder, result: Result | None) -> Section:
    if result is None:
        context: dict[str, Any] = {"result": None, "failures": study.failures()}
        return Section("result", "Result", "study_result.html", context)

    split, measure = result.split, result.measure
    sign = -1 if measure.higher_is_better else 1
    ordered = sorted(result.variants, key=lambda v: sign * (v.mean("val") or 0.0))
    context = {
        "result": result,
        "measure": measure,
        "split": split,
        "factors": list(study.declaration.factors) if len(study.declaration.factors) > 1 else [],
        "rows": [_row(variant, result) for variant in ordered],
        "alike": len({len(variant.finished) for variant in ordered}) == 1,
        "several": len(study.declaration.seeds) if len(study.declaration.seeds) > 1 else 0,
        "strip": _strip(ordered[:MOST_STRIPS], split, measure),
        "left_out": max(0, len(ordered) - MOST_STRIPS),
        "chosen": next(
            (v for v in ordered if result.choice and v.title == result.choice.variant), ordered[0]
        ),
        "looks": sum(
            (each.evaluation.get("test_looks") or {}).get("run", 0)
            for v in ordered
            for each in v.finished
        ),
    }

    return Section("result", "Result", "study_result.html", context)


def _row(variant: VariantResult, result: Result) -> dict[str, Any]:
    cells = {split: spread(variant, split, result.measure) for split in ("val", "test", "train")}
    of_several = len(variant.verdicts) > 1
    verdicts = [
        f"{word} ({n} of {len(variant.finished)})" if of_several else word
        for word, n in variant.verdicts.items()
    ]
    first = variant.finished[0]

    return {
        "variant": variant,
        "cells": cells,
        "verdict": ", ".join(verdicts),
        "why": first.evaluation["verdict"]["text"],
        "page": f"{first.planned.name}/report.html",
        "chosen": variant.title
        in [choice.variant for choice in (result.choice, *result.choices.values()) if choice],
    }


def spread(variant: VariantResult, split: str, measure: Criterion) -> str:
    """Return the mean of a variant with its deviation between seeds: "93.2 % ± 0.2"."""
    deviation = variant.deviation(split)
    digits = _digits(variant) if measure.is_share else None
    text = measure.said(variant.mean(split), digits)
    return text if deviation is None else f"{text} ± {measure.number(deviation, digits)}"


def _digits(variant: VariantResult) -> int:
    """Return how many digits a share deserves: two from 5,000 images on."""
    splits = variant.finished[0].evaluation["splits"]
    return 2 if (splits.get("test") or splits["val"]).get("num_images", 0) >= 5000 else 1


def _strip(variants: Sequence[VariantResult], split: str, measure: Criterion) -> dict[str, Any]:
    """Place each seed's figure of each variant on a common scale, in percent of its width."""
    from matplotlib.ticker import MaxNLocator

    values = [value for variant in variants for value in variant.values[split]]
    low, high = min(values), max(values)
    least = (
        1 / measure.scale if measure.is_share else max(abs(low) * 0.01, 1e-9)
    )  # where all values are the same
    pad = max((high - low) * 0.05, (least - (high - low)) / 2)
    ticks = [
        float(tick) for tick in MaxNLocator(4, min_n_ticks=3).tick_values(low - pad, high + pad)
    ]

    def place(value: float) -> float:
        return round(100 * (value - ticks[0]) / (ticks[-1] - ticks[0]), 2)

    rows = [
        {
            "title": variant.title, "dots": [place(value) for value in variant.values[split]],
            "mean": place(variant.mean(split) or 0.0), "text": measure.said(variant.mean(split)),
        }
        for variant in variants
    ]  # fmt: skip
    marks = [(place(tick), measure.tick(tick, ticks[1] - ticks[0])) for tick in ticks]
    crowded = sum(len(label) for _, label in marks) > LETTERS_OF_MARKS
    return {"rows": rows, "ticks": marks[::2] if crowded else marks}


def _effects(study: StudyFolder, result: Result) -> Section | None:
    if not result.effects:
        return None
    declaration = study.declaration
    ends = [
        end
        for effect in result.effects
        for end in (effect.ci95 or (effect.estimate, effect.estimate))
    ]
    line = Line.of(ends, result.measure.scale)

    def row(effect: Effect) -> dict[str, Any]:
        start, end = effect.ci95 or (effect.estimate, effect.estimate)
        within = f" ({result.measure.interval(effect.ci95)})" if effect.ci95 else ""
        text = result.measure.signed(effect.estimate) + within

        return {
            "effect": effect,
            "level": declaration.shown(effect.factor, effect.level)
            + (f" on {effect.data}" if effect.data else ""),
            "reference": declaration.shown(effect.factor, effect.reference),
            "dot": line.place(effect.estimate),
            "left": line.place(start),
            "right": line.place(end),
            "text": text,
        }

    by_factor: dict[str, list[dict[str, Any]]] = {}
    for effect in result.effects:
        by_factor.setdefault(factor_name(effect.factor), []).append(row(effect))
    context = {
        "factors": by_factor,
        "zero": line.place(0.0),
        "ticks": line.ticks,
        "measure": result.measure,
        "split": result.split,
        "num": len(result.effects),
        "images": any(effect.basis == "images" for effect in result.effects),
        "known": any(effect.ci95 for effect in result.effects),
        "confounded": any(effect.confounding for effect in result.effects),
        "all_confounded": all(effect.confounding for effect in result.effects),
    }
    # A title that speaks of changes one by one would credit them.
    title = (
        "What the variants differ by" if context["all_confounded"] else "What each change brings"
    )
    return Section("effects", title, "study_effects.html", context)


def _compared(result: Result, watcher: Watcher) -> Comparison | None:
    """Return the comparison of the variants by their runs of the first seed, None where they cannot
    be compared.
    """
    try:
        comparison = compare_first_seed(result, watcher.on_work)
    except UserError as error:
        watcher.note(f"the runs could not be compared: {error}")
        return None
    finally:
        watcher.close()
    for group in comparison.groups if comparison else []:
        group.confounding = []  # the study has said it of the levels that it compares
    return comparison


def _comparison(
    study: StudyFolder, result: Result, comparison: Comparison | None, watcher: Watcher
) -> list[Section]:
    """Return the sections of the comparison of the first seed's runs."""
    if comparison is None:
        return []
    try:
        sections = comparison.sections(watcher.on_work, study.path / "study.html")
    except UserError as error:
        watcher.note(f"the runs could not be compared: {error}")
        return []
    finally:
        watcher.close()
    first = ordered(result.variants, result.measure)[0].finished[0]
    return [_of_one_seed(section, first, study, result) for section in sections]


def _of_one_seed(section: Section, first: Finished, study: StudyFolder, result: Result) -> Section:
    """Return a section of the comparison as a part of the study's page, whose headline is that of
    the study.

    Args:
        section: of the comparison.
        first: one of the runs that it compares.
        study: what the runs are of.
        result: of the study.
    """
    seed = first.planned.seed
    title, context = section.title, dict(section.context)
    if section.id == "result":
        paired = image_figures(first, result.split) is not None
        title = f"Seed {seed}, {'image by image' if paired else 'side by side'}"
        if len(result.variants) > MOST_COMPARED:
            title += f", the {MOST_COMPARED} best by validation"
        context["aside"] = _why_it_may_disagree(len(study.declaration.seeds), seed, paired)
    elif len(study.declaration.seeds) > 1:
        title += f" (seed {seed})"
    return replace(section, id=f"compared-{section.id}", title=title, context=context)


def _why_it_may_disagree(num_seeds: int, seed: int, paired: bool) -> str:
    if num_seeds == 1:
        shown = "with what pairing them image by image shows" if paired else "with all figures"
        return f"These are the same runs as above, {shown}."
    why = ", because only single runs can be compared image by image" if paired else ""
    return (
        f"The figures above are means over {num_seeds} seeds. Here each variant is represented by "
        f"its run of seed {seed} alone{why}. One run may be luckier than the mean of its "
        "variant, so the order here may differ; the recommendation above counts."
    )


def _runs(study: StudyFolder) -> Section:
    rows = []
    for planned in study.planned:
        record: Mapping[str, Any] = study.record.get(planned.name, {})
        report = study.path / planned.name / "report.html"
        rows.append(
            {
                "planned": planned,
                "state": "finished" if study.is_done(planned) else record.get("state", "waiting"),
                "message": record.get("message", ""),
                "seconds": record.get("seconds") or None,
                "page": f"{planned.name}/report.html" if report.is_file() else "",
            }
        )

    return Section(
        "runs", "All runs", "study_runs.html", {"rows": rows, "failures": study.failures()}
    )
