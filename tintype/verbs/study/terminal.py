"""A study in the terminal: its table, its effects, its choice, what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tintype.tasks.contract.compare import listed
from tintype.verbs.study.page import spread

if TYPE_CHECKING:
    from tintype.verbs.study import Study

MOST_EFFECTS = 12


def lines(study: Study) -> list[RenderableType]:
    """Return table, effects, choice and failures."""
    result, shown = study.result(), []
    if result is not None:
        shown += [Text(said) for said in result.confounding]
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("variant", "seeds", "validation", "test", "parameters", "verdict"):
            justify = "left" if column in ("variant", "verdict") else "right"
            grid.add_column(column, justify=justify, no_wrap=column != "variant", overflow="fold")
        sign = -1 if result.measure.higher_is_better else 1
        for variant in sorted(result.variants, key=lambda v: sign * (v.mean("val") or 0.0)):
            cells = [spread(variant, split, result.measure) for split in ("val", "test")]
            words = [
                word if count == len(variant.finished) else f"{word} {count}x"
                for word, count in variant.verdicts.items()
            ]
            grid.add_row(
                variant.title,
                str(len(variant.finished)),
                *cells,
                f"{variant.parameters:,}",
                ", ".join(words),
            )
        shown.append(grid)
        if not result.measure.higher_is_better:
            shown.append(Text(f"The figure is the {result.measure.label}; lower is better."))
        shown += [Text(effect.sentence) for effect in result.effects[:MOST_EFFECTS]]
        if result.choice:
            shown.append(
                Text(
                    f"Recommended: {result.choice.variant}. "
                    f"{result.choice.reason} {result.choice.honest}"
                )
            )
        for data, choice in result.choices.items():
            shown.append(
                Text(f"Recommended on {data}: {choice.variant}. {choice.reason} {choice.honest}")
            )
        shown += [Text(remark) for remark in result.remarks]

    by_message: dict[str, list[str]] = {}
    for name, message in study.failures().items():
        by_message.setdefault(message, []).append(name)
    shown += [Text(f"failed: {listed(names)}: {message}") for message, names in by_message.items()]

    return shown
