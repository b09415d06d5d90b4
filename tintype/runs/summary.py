"""The result of a run in the terminal: a small table and the verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from tintype.runs.folder import BY_VALIDATION, without_test


def result_table(splits: dict[str, dict[str, Any]], *, tested: bool = True) -> Table:
    """Return a table with a row for each split: images, accuracy with its interval, top-5, macro F1, loss, calibration.

    Where there was no test part (`tested` is False), it holds validation alone, and its heading
    says so.
    """
    if not tested:
        splits = {"val": splits["val"]}
    if all("psnr_y" in figures for figures in splits.values()):
        return _upscale_table(splits)
    if not all("accuracy" in figures for figures in splits.values()):
        return _any_table(splits)

    top5 = any("top5_accuracy" in figures for figures in splits.values())
    # With top-5 the columns stand closer, so that no figure is cut where a line has 80 characters.
    table = Table(box=None, pad_edge=False, collapse_padding=top5, header_style="bold")
    if not tested:
        table.title, table.title_justify = f"{BY_VALIDATION[:1].upper()}{BY_VALIDATION[1:]}", "left"

    head = "accuracy" if tested else "right"
    for column in (
        "",
        "images",
        head,
        "95 % interval",
        *(["top-5"] if top5 else []),
        "macro F1",
        "loss",
        "ECE",
    ):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)

    for split, figures in with_clean_rows(splits).items():
        low, high = figures["accuracy_ci95"]
        clean = split.partition(" ")[2]  # "without leaks", under the row of its split
        table.add_row(
            f"[bold]{f'  {clean}' if clean else split}[/bold]",
            f"{figures['num_images']:,}",
            f"[bold]{figures['accuracy']:.2%}[/bold]",
            f"{low:.2%} to {high:.2%}",
            *([f"{figures['top5_accuracy']:.2%}"] if top5 else []),
            f"{figures['macro_f1']:.3f}",
            f"{figures['loss']:.4f}",
            f"{figures.get('calibration_error', figures['expected_calibration_error']):.3f}",
        )

    return table


def class_table(figures: Mapping[str, Any]) -> Table:
    """Return a table with precision, recall, F1 and the number of images of each class, and their
    averages.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("class", "precision", "recall", "F1", "images"):
        table.add_column(
            column, justify="left" if column == "class" else "right", no_wrap=column != "class"
        )

    means = [
        {"name": f"{kind} average", **figures["averages"][kind]} for kind in ("macro", "weighted")
    ]
    last = len(figures["per_class"]) - 1
    for number, row in enumerate([*figures["per_class"], *means]):
        rates = (f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        table.add_row(
            escape(row["name"]), *rates, f"{row['support']:,}", end_section=number == last
        )

    return table


def by_groups(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Return that the intervals of a run are by group, and of how many, or an empty text."""
    words = {"train": "training", "val": "validation", "test": "test"}
    told = [
        f"{figures['num_images']:,} {words.get(split, split)} images in {figures['num_groups']:,}"
        for split, figures in splits.items()
        if figures.get("num_groups")
    ]
    if not told:
        return ""
    return f"Intervals are by group, since images that belong together tell less than as many others: {', '.join(told)}."


def with_clean_rows(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the figures of each split, followed by those without leaked images where there are
    such.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for split, figures in splits.items():
        rows[split] = figures
        if "without_leaked" in figures:
            rows[f"{split} without leaks"] = figures["without_leaked"]
        if "without_seen" in figures:
            rows[f"{split} without seen"] = figures["without_seen"]
    return rows


def _upscale_table(splits: dict[str, dict[str, Any]]) -> Table:
    """Return a table with PSNR and SSIM of each split beside bicubic and nearest, and what they are
    of.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.caption = protocol_in_words(next(iter(splits.values()))["protocol"])

    looks = [key for key in next(iter(splits.values())) if key.startswith("lpips_")]
    more = [head for key in looks for head in (key, "bicubic")]
    for head in (
        "",
        "images",
        "PSNR",
        "bicubic",
        "nearest",
        "gain on bicubic (95 %)",
        "SSIM",
        "bicubic",
        *more,
    ):
        table.add_column(head, justify="left" if not head else "right", no_wrap=not looks)

    for split, figures in splits.items():
        bicubic, interval = figures["bicubic"], figures["gain_ci95"]
        within = f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else ""
        table.add_row(
            f"[bold]{split}[/bold]",
            f"{figures['num_images']:,}",
            f"[bold]{figures['psnr_y']:.2f}[/bold]",
            f"{bicubic['psnr_y']:.2f}",
            f"{figures['nearest']['psnr_y']:.2f}",
            f"{figures['gain']:+.2f}{within}",
            f"{figures['ssim_y']:.4f}",
            f"{bicubic['ssim_y']:.4f}",
            *(f"{which[key]:.4f}" for key in looks for which in (figures, bicubic)),
        )

    return table


def protocol_in_words(protocol: str) -> str:
    """Return what PSNR and SSIM are of by the protocol of that name, in words."""
    known = re.fullmatch(r"Y, border (\d+), 8 bit, mean of images(.*)", protocol)
    if known is None:
        return f"PSNR and SSIM by the protocol: {protocol}"
    border, more = known.groups()
    return f"PSNR and SSIM of the brightness channel, without a {border}-pixel border, averaged over images{more}"


def _any_table(splits: dict[str, dict[str, Any]]) -> Table:
    """Return a table with a row for each figure that is a number, and a column for each split."""
    names = dict.fromkeys(
        n for figures in splits.values() for n, v in figures.items() if isinstance(v, int | float)
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", *splits):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)

    for name in names:
        values = (figures.get(name) for figures in splits.values())
        table.add_row(
            name,
            *(f"{v:,}" if isinstance(v, int) else "" if v is None else f"{v:.4g}" for v in values),
        )

    return table


def verdict_line(evaluation: dict[str, Any]) -> str:
    """Return the verdict, what calibration changed, and how often the test set was used."""
    looks = (evaluation.get("test_looks") or {}).get("data", 0)
    lines = [evaluation["verdict"]["text"]]
    lines += [evaluation["chosen_by_validation"]] if evaluation.get("chosen_by_validation") else []
    if by_group := by_groups(evaluation.get("splits", {})):
        lines.append(by_group)

    calibration = evaluation.get("calibration")
    if calibration and calibration["temperature"] != 1.0:
        test = calibration["splits"]["test"]
        # runs of earlier versions have the plain one
        kind = "ece_debiased" if "ece_debiased_after" in test else "ece"
        lines.append(
            f"Confidence, calibrated on validation, is off by {test[f'{kind}_after']:.1%} on test "
            f"({test[f'{kind}_before']:.1%} before)."
        )

    plain = evaluation["splits"].get("test", {})
    if "calibration_error_if_perfect" in plain:
        lines.append(
            f"ECE is debiased; the plain figure on test is {plain['expected_calibration_error']:.3f}, and "
            f"{plain['calibration_error_if_perfect']:.3f} for a perfectly calibrated model."
        )
    if evaluation.get("protocol", {}).get("fid", "").startswith("left out"):
        lines.append(f"FID is {evaluation['protocol']['fid']}.")

    lines += [f"Warning: {line}" for line in evaluation.get("warnings", ())]
    if not without_test(evaluation):
        lines.append(_uses(looks))

    return "\n".join(lines)


def _uses(count: int) -> str:
    """Return how often the runs in a folder used the test set."""
    if not count:
        return "The test set has not been used."
    return f"The test set has been used {'once' if count == 1 else f'{count} times by the runs in this folder'}."
