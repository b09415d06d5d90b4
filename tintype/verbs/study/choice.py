"""Which variant to take: the simplest that validation cannot tell from the best, with the reason
and the honest figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tintype.runs.ranking import Criterion
from tintype.statistics import BlockError, block_error, holm
from tintype.verbs.study.figures import Finished, VariantResult
from tintype.verbs.study.paired import on_images

# two variants differ where the p-value, corrected for their number, is below
CLAIM = 0.05
# degrees of freedom from which on the spread between seeds is asked as well; of one it is hardly
# known
FEWEST_DF = 2


@dataclass(frozen=True)
class Recommendation:
    """The variant to take: the best on validation, or the simplest one that is not clearly worse.

    The test figure is honest.
    """

    variant: str
    best: str
    reason: str
    honest: str


def choose(
    variants: Sequence[VariantResult], measure: Criterion, split: str
) -> Recommendation | None:
    """Recommend the simplest variant that validation cannot tell from the best; simpler is fewer
    parameters, then less time.
    """
    complete = [v for v in variants if v.values["val"]]
    most = max((len(v.values["val"]) for v in complete), default=0)
    # of a variant with fewer seeds less is known
    complete = [v for v in complete if len(v.values["val"]) == most]
    if len(complete) < 2:
        return None
    best = max(complete, key=lambda v: measure.sign * (v.mean("val") or 0.0))

    def cost(v: VariantResult) -> tuple[int, int, float]:
        return v.parameters, v.multiply_adds, 0.0

    simpler = [v for v in complete if cost(v) < cost(best)]
    between = _between_seeds(complete, measure)
    known = [(v, _p_on_validation(best, v, between)) for v in simpler]
    corrected = iter(holm([p for _, p in known if p is not None]))
    alike = [v for v, p in known if p is not None and next(corrected) >= CLAIM]
    chosen = min(alike, key=cost) if alike else best
    second = max(
        (v for v in complete if v is not best), key=lambda v: measure.sign * (v.mean("val") or 0.0)
    )
    lead = _p_on_validation(best, second, between)
    reason = (
        _simpler(chosen, best, measure)
        if chosen is not best
        else _best(best, simpler, second, lead, measure)
    )
    return Recommendation(chosen.title, best.title, reason, _honest(chosen, measure, split))


def _p_on_validation(
    best: VariantResult, other: VariantResult, between: BlockError | None
) -> float | None:
    """Return the p-value of equal figures on validation; None where nothing is known of the spread.

    Chance has two sources, the images and the seeds; the difference must stand out against each of
    them that is known: the images by each image's mean over seeds, the seeds by the spread that all
    variants share.
    """
    by_image = on_images(_same_seeds(best, other), "val")
    p_values = [by_image and by_image.p]
    if between is not None:
        p_values.append(between.p((best.mean("val") or 0.0) - (other.mean("val") or 0.0)))
    known = [p for p in p_values if p is not None]
    return max(known) if known else None


def _between_seeds(variants: Sequence[VariantResult], measure: Criterion) -> BlockError | None:
    """Return how far a difference of two variants' means may lie off because of the seeds; None of
    too few of them.
    """
    by_seed: list[dict[int, float]] = []
    for variant in variants:
        figures = {each.planned.seed: each.figure("val", measure.key) for each in variant.finished}
        by_seed.append({seed: value for seed, value in figures.items() if value is not None})
    shared = set.intersection(*(set(figures) for figures in by_seed))
    error = block_error([[figures[seed] for figures in by_seed] for seed in sorted(shared)])
    return error if error is not None and error.df >= FEWEST_DF else None


def _same_seeds(a: VariantResult, b: VariantResult) -> list[tuple[Finished, Finished]]:
    of_b = {each.planned.seed: each for each in b.finished}
    return [(each, of_b[each.planned.seed]) for each in a.finished if each.planned.seed in of_b]


def _simpler(chosen: VariantResult, best: VariantResult, measure: Criterion) -> str:
    return (
        f"{best.title} is the best on validation ({_mean(best, measure)}), but {chosen.title} "
        f"({measure.said(chosen.mean('val'))}) cannot be distinguished from it there and is the "
        "smallest such variant: "
        f"{chosen.parameters:,} parameters instead of {best.parameters:,}."
    )


def _best(
    best: VariantResult,
    simpler: Sequence[VariantResult],
    second: VariantResult,
    lead: float | None,
    measure: Criterion,
) -> str:
    said = f"It is the best on validation ({_mean(best, measure)})"
    if lead is None:
        return (
            f"{said}. So few runs cannot show how much of its lead over "
            f"{second.title} is luck; three seeds would."
        )

    rest = {
        0: "No other variant is smaller.",
        1: "It clearly beats the smaller variant.",
        2: "It clearly beats both smaller variants.",
    }
    said += f". {rest.get(len(simpler), f'It clearly beats all {len(simpler)} smaller variants.')}"
    if second not in simpler and lead >= CLAIM:
        said += f" Its lead over {second.title}, which is no smaller, may be luck."

    return said


def _mean(variant: VariantResult, measure: Criterion) -> str:
    seeds = len(variant.values["val"])
    return (
        f"{measure.said(variant.mean('val'))}, "
        f"{f'the mean of {seeds} seeds' if seeds > 1 else 'one seed'}"
    )


def _honest(chosen: VariantResult, measure: Criterion, split: str) -> str:
    if split != "test" or not chosen.values["test"]:
        return "The test split was not used."

    deviation = chosen.deviation("test")
    seeds = len(chosen.values["test"])
    between = ""
    if deviation is not None:
        between = f", standard deviation {measure.number(deviation)} over {seeds} seeds"

    interval = chosen.finished[0].evaluation["splits"]["test"].get(f"{measure.key}_ci95")
    more = ""
    if interval:
        which = "its first run" if seeds > 1 else "the run"
        more = f" (95 % interval of {which} {measure.interval(interval)})"

    return (
        "On test, which played no part in the choice: "
        f"{measure.said(chosen.mean('test'))}{between}{more}. "
        "Its validation figure is optimistic, because it was picked as the best of several."
    )
