"""The sections on a classifier's confidence: whether it can be believed, and from where on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tintype.pages import print_figures
from tintype.pages.section import SPLIT_NAMES, Chart, Section
from tintype.runs.reading import RunFiles
from tintype.tasks.classify import charts, print_charts


def reliability(run: RunFiles) -> Section | None:
    """Show whether the confidence can be believed."""
    bins = [each for each in run.evaluated("reliability") or [] if each.get("count")]
    if not bins:
        return None

    split = run.evaluation["splits"].get(run.split) or {}
    chart = Chart(
        "reliability",
        charts.reliability(bins, _bins_before(run)),
        print_figures.png(print_charts.reliability(bins, _bins_before(run))),
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
        "reliability", "Calibration", "classify/reliability.html", context, {chart.name: chart.png}
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


def abstaining(run: RunFiles) -> Section | None:
    """Show which accuracy can be had for which share of the images, and the thresholds that
    validation promises.
    """
    curves = run.analysis.get("risk_coverage") or {}
    table = _abstain_rows(run.evaluation.get("abstain") or [])
    if not curves.get(run.split) or not table:
        return None

    kept = [row for row in table if row.get("threshold") is not None]
    chart = None

    # Where every answer counts anyway, a curve would show a choice that nobody has.
    if not kept or any(row["threshold"] > 0 for row in kept):
        chart = Chart(
            "risk_coverage",
            charts.risk_coverage(curves, table),
            print_figures.png(print_charts.risk_coverage(curves, table)),
            "Accuracy among the answered images against the share that is answered, "
            "for validation and test.",
        )

    val = next((row["val"] for row in table if row.get("val")), None)
    context = {
        "chart": chart,
        "rows": kept,
        "unkept": [row["accuracy"] for row in table if row.get("threshold") is None],
        "num_val": val["num_images"] if val else None,
        "unlike": run.evaluation.get("unlike"),
    }
    return Section(
        "abstain",
        "Confidence thresholds",
        "classify/abstain.html",
        context,
        {chart.name: chart.png} if chart else {},
    )


def _abstain_rows(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out targets below one that is reached without abstaining."""
    idle = [entry["accuracy"] for entry in entries if entry.get("threshold") == 0]
    return [entry for entry in entries if not idle or entry["accuracy"] >= max(idle)]
