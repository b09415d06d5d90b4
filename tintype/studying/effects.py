"""What each change brings: the mean difference of runs that differ in one thing only, with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tintype.statistics import BlockError, block_error, holm, mean_interval, paired_p
from tintype.studying.figures import Finished, Measure, image_differences
from tintype.studying.folder import StudyFolder

Blocks = dict[tuple[str, int], dict[str, Finished]]  # (levels of the other factors, seed) -> level -> run

CLAIM = 0.05  # an effect is claimed where its p-value, corrected for their number, is below


@dataclass
class Effect:
    """What a level of a factor brings against the first level, all else equal.

    `parts` holds the mean difference in each combination of the other factors. The interval is Student's: of the paired
    differences of runs, their spread pooled over the levels of the factor, with a variance between the combinations of the
    other factors (`basis` "runs"); or of the differences on each image where there is but one seed (`basis` "images").
    """

    factor: str
    level: str
    reference: str
    estimate: float
    ci95: tuple[float, float] | None
    p: float | None
    num_pairs: int
    basis: str
    parts: Mapping[str, float]
    p_holm: float | None = None
    sentence: str = ""

    @property
    def shown(self) -> bool:
        """Whether the effect is beyond chance, corrected for the number of effects."""
        return self.p_holm is not None and self.p_holm < CLAIM


def effects_of(study: StudyFolder, finished: Sequence[Finished], measure: Measure, split: str) -> list[Effect]:
    """Return the effect of each level of each factor against the first level, those without a pair of runs left out."""
    effects = [effect for effect in _effects(study, finished, measure, split) if effect]
    known = [effect for effect in effects if effect.p is not None]
    for effect, p in zip(known, holm([effect.p for effect in known if effect.p is not None]), strict=True):
        effect.p_holm = p
    for effect in effects:
        names = [study.declaration.shown(effect.factor, level) for level in (effect.level, effect.reference)]
        effect.sentence = _sentence(effect, names, measure, split, len(known))
    return effects


def _effects(study: StudyFolder, finished: Sequence[Finished], measure: Measure, split: str) -> Iterator[Effect | None]:
    for factor, levels in study.declaration.factors.items():
        blocks = _blocks(factor, finished, study)
        reference = next(iter(levels))
        for level in list(levels)[1:]:
            yield _effect(factor, level, reference, list(levels), blocks, measure, split)


def _blocks(factor: str, finished: Sequence[Finished], study: StudyFolder) -> Blocks:
    """Return the runs by what they share but for the factor, and then by its level."""
    blocks: Blocks = {}
    for each in finished:
        levels = [study.declaration.shown(*level) for level in each.planned.levels.items() if level[0] != factor]
        others = " + ".join(levels)
        blocks.setdefault((others, each.planned.seed), {})[each.planned.levels[factor]] = each
    return blocks


def _effect(
    factor: str, level: str, reference: str, levels: Sequence[str], blocks: Blocks, measure: Measure, split: str
) -> Effect | None:
    """Return the effect of a level, over all pairs of runs that differ in nothing else; None where there is no pair."""
    pairs = {key: (runs[level], runs[reference]) for key, runs in blocks.items() if level in runs and reference in runs}
    measured = {key: (a.figure(split, measure.key), b.figure(split, measure.key)) for key, (a, b) in pairs.items()}
    figures = {key: (a, b) for key, (a, b) in measured.items() if a is not None and b is not None}
    if not pairs or len(figures) < len(pairs):
        return None
    differences = {key: a - b for key, (a, b) in figures.items()}
    estimate = float(np.mean(list(differences.values())))
    one_seed = len({seed for _, seed in pairs}) == 1
    by_image = image_differences(list(pairs.values()), split) if one_seed else None
    pooled = None if one_seed else _error_of_all_levels(blocks, levels, measure, split)
    if by_image is not None:
        basis, interval, p = "images", mean_interval(by_image), paired_p(by_image)
    elif pooled is not None and len(pairs) == len(_complete(blocks, levels)):
        basis, interval, p = "runs", pooled.interval(estimate), pooled.p(estimate)
    else:  # some runs are missing: only these pairs are left
        error = block_error(list(figures.values()), [context for context, _ in figures])
        basis, interval, p = "runs", error and error.interval(estimate), error and error.p(estimate)
    parts: dict[str, list[float]] = {}
    for (context, _), difference in differences.items():
        parts.setdefault(context, []).append(difference)
    shown = {context: float(np.mean(values)) for context, values in parts.items()} if len(parts) > 1 else {}
    return Effect(factor, level, reference, estimate, interval, p, len(pairs), basis, shown)


def _complete(blocks: Blocks, levels: Sequence[str]) -> Blocks:
    return {key: runs for key, runs in blocks.items() if all(level in runs for level in levels)}


def _error_of_all_levels(blocks: Blocks, levels: Sequence[str], measure: Measure, split: str) -> BlockError | None:
    """Return the error of an effect from the blocks that have a run at each level, or None of too few of them."""
    rows: list[list[float]] = []
    contexts: list[str] = []
    for (context, _seed), runs in _complete(blocks, levels).items():
        row = [runs[level].figure(split, measure.key) for level in levels]
        known = [value for value in row if value is not None]
        if len(known) == len(row):
            rows.append(known)
            contexts.append(context)
    return block_error(rows, contexts)


def _sentence(effect: Effect, names: Sequence[str], measure: Measure, split: str, num_effects: int) -> str:
    where = "test" if split == "test" else "validation"
    level, reference = names
    what = f"{level} compared with {reference}"
    size = measure.difference(effect.estimate)
    if effect.ci95 is None:
        return f"{what}: {size} on {where} in one pair of runs, which cannot show whether that is luck."
    source = f"{effect.num_pairs} pairs of runs" if effect.basis == "runs" else "paired by image, one seed"
    within = f"({measure.interval(effect.ci95)}; {source})"
    corrected = f" after correction for {num_effects} comparisons" if num_effects > 1 else ""
    if not effect.shown and effect.ci95[0] <= 0 <= effect.ci95[1]:
        return f"{what}: no significant effect on {where}, {size} {within}."
    if not effect.shown:
        return f"{what}: {size} on {where} {within}, not significant{corrected}."
    good = (effect.estimate > 0) == measure.higher_is_better
    verb = "is better than" if good else "is worse than"
    return f"{level} {verb} {reference} by {size[1:]} on {where} {within}, significant{corrected}."
