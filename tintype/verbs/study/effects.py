"""What each change brings: the mean difference of runs that differ in one thing only, with its
interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tintype.runs.ranking import Criterion
from tintype.statistics import BlockError, block_error, holm
from tintype.verbs.compare.settings import Confounding
from tintype.verbs.study.confounding import confounding_of
from tintype.verbs.study.declaration import Declaration
from tintype.verbs.study.figures import Finished
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.paired import OnImages, on_images

# (levels of the other factors, seed) -> level -> run
Blocks = dict[tuple[str, int], dict[str, Finished]]

CLAIM = 0.05  # an effect is claimed where its p-value, corrected for their number, is below


@dataclass
class Effect:
    """What a level of a factor brings against the first level.

    `parts` holds the mean difference in each combination of the other factors. The interval is
    Student's: of the paired differences of runs, their spread pooled over the levels of the factor,
    with a variance between the combinations of the other factors (`basis` "runs"): what is to be
    expected of further seeds. Or, where there is but one seed, that of the differences on each
    image (`basis` "images"): what holds for these runs. `images` has the latter for several seeds
    too. `confounding` says in what the two levels differ where that is more than the one thing that
    is asked about. `data` names the data where the study varies it: effects are taken on each
    apart.
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
    images: OnImages | None = None
    confounding: Confounding | None = None
    data: str = ""
    p_holm: float | None = None
    sentence: str = ""

    @property
    def shown(self) -> bool:
        """Whether the effect is beyond chance, corrected for the number of effects."""
        return self.p_holm is not None and self.p_holm < CLAIM

    @property
    def shown_on_images(self) -> bool:
        """Whether these very runs differ beyond chance on their images, corrected for the number of
        effects.
        """
        return (
            self.images is not None
            and self.images.p_holm is not None
            and self.images.p_holm < CLAIM
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the effect as plain data."""
        return {
            **asdict(self),
            "confounding": self.confounding.to_dict() if self.confounding else None,
            "shown": self.shown,
            "shown_on_images": self.shown_on_images,
        }


def effects_of(
    study: StudyFolder, finished: Sequence[Finished], measure: Criterion, split: str
) -> list[Effect]:
    """Return the effect of each level of each factor against the first level, those without a pair
    of runs left out.
    """
    effects = [effect for effect in _effects(study, finished, measure, split) if effect]
    known = [effect for effect in effects if effect.p is not None]
    for effect, p in zip(
        known, holm([effect.p for effect in known if effect.p is not None]), strict=True
    ):
        effect.p_holm = p

    images = [effect.images for effect in effects if effect.images and effect.images.p is not None]
    for each, p in zip(
        images, holm([each.p for each in images if each.p is not None]), strict=True
    ):
        each.p_holm = p

    for effect in effects:
        effect.confounding = confounding_of(study, effect.factor, effect.level)
        names = [
            study.declaration.shown(effect.factor, level)
            for level in (effect.level, effect.reference)
        ]
        effect.sentence = _sentence(effect, names, measure, split, len(known))

    return effects


def _effects(
    study: StudyFolder, finished: Sequence[Finished], measure: Criterion, split: str
) -> Iterator[Effect | None]:
    declaration = study.declaration
    for data, members in by_data(declaration, finished).items():
        for factor, levels in declaration.factors.items():
            if factor in declaration.data_factors:
                continue
            blocks = _blocks(factor, members, study)
            reference = next(iter(levels))
            for level in list(levels)[1:]:
                effect = _effect(factor, level, reference, list(levels), blocks, measure, split)
                yield effect and replace(effect, data=data)


def by_data(declaration: Declaration, finished: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Return the runs on each data, under "" where the study has one data only."""
    found: dict[str, list[Finished]] = {}
    for each in finished:
        found.setdefault(declaration.data_of(each.planned.levels), []).append(each)
    return found


def _blocks(factor: str, finished: Sequence[Finished], study: StudyFolder) -> Blocks:
    """Return the runs by what they share but for the factor, and then by its level."""
    blocks: Blocks = {}
    for each in finished:
        apart = {factor, *study.declaration.data_factors}
        levels = [
            study.declaration.shown(*level)
            for level in each.planned.levels.items()
            if level[0] not in apart
        ]
        others = " + ".join(levels)
        blocks.setdefault((others, each.planned.seed), {})[each.planned.levels[factor]] = each
    return blocks


def _effect(
    factor: str,
    level: str,
    reference: str,
    levels: Sequence[str],
    blocks: Blocks,
    measure: Criterion,
    split: str,
) -> Effect | None:
    """Return the effect of a level, over all pairs of runs that differ in nothing else; None where
    there is no pair.
    """
    pairs = {
        key: (runs[level], runs[reference])
        for key, runs in blocks.items()
        if level in runs and reference in runs
    }
    measured = {
        key: (a.figure(split, measure.key), b.figure(split, measure.key))
        for key, (a, b) in pairs.items()
    }
    figures = {key: (a, b) for key, (a, b) in measured.items() if a is not None and b is not None}
    if not pairs or len(figures) < len(pairs):
        return None

    differences = {key: a - b for key, (a, b) in figures.items()}
    estimate = float(np.mean(list(differences.values())))
    one_seed = len({seed for _, seed in pairs}) == 1
    by_image = on_images(list(pairs.values()), split)
    pooled = None if one_seed else _error_of_all_levels(blocks, levels, measure, split)

    if one_seed and by_image is not None:
        basis, interval, p = "images", by_image.ci95, by_image.p
    elif pooled is not None and len(pairs) == len(_complete(blocks, levels)):
        basis, interval, p = "runs", pooled.interval(estimate), pooled.p(estimate)
    else:  # some runs are missing: only these pairs are left
        error = block_error(list(figures.values()), [context for context, _ in figures])
        basis, interval, p = "runs", error and error.interval(estimate), error and error.p(estimate)

    parts: dict[str, list[float]] = {}
    for (context, _), difference in differences.items():
        parts.setdefault(context, []).append(difference)
    shown = (
        {context: float(np.mean(values)) for context, values in parts.items()}
        if len(parts) > 1
        else {}
    )

    return Effect(
        factor, level, reference, estimate, interval, p, len(pairs), basis, shown, by_image
    )


def _complete(blocks: Blocks, levels: Sequence[str]) -> Blocks:
    return {key: runs for key, runs in blocks.items() if all(level in runs for level in levels)}


def _error_of_all_levels(
    blocks: Blocks, levels: Sequence[str], measure: Criterion, split: str
) -> BlockError | None:
    """Return the error of an effect from the blocks that have a run at each level, or None of too
    few of them.
    """
    rows: list[list[float]] = []
    contexts: list[str] = []
    for (context, _seed), runs in _complete(blocks, levels).items():
        row = [runs[level].figure(split, measure.key) for level in levels]
        known = [value for value in row if value is not None]
        if len(known) == len(row):
            rows.append(known)
            contexts.append(context)
    return block_error(rows, contexts)


def _sentence(
    effect: Effect, names: Sequence[str], measure: Criterion, split: str, num_effects: int
) -> str:
    where = "test" if split == "test" else "validation"
    where += f" of {effect.data}" if effect.data else ""
    level, reference = names
    what = f"{level} compared with {reference}"
    size = measure.difference(effect.estimate)
    if effect.ci95 is None:
        return (
            f"{what}: {size} on {where} in one pair of runs, "
            "which cannot show whether that is luck."
        )

    source = f"{effect.num_pairs} pairs of runs"
    if effect.basis == "images" and effect.images:
        source = f"for these runs, paired on {effect.images.num_images:,} images, one seed"
    within = f"({measure.interval(effect.ci95)}; {source})"
    corrected = f" after correction for {num_effects} comparisons" if num_effects > 1 else ""

    if effect.shown:
        good = (effect.estimate > 0) == measure.higher_is_better
        verb = "is better than" if good else "is worse than"
        text = (
            f"{level} {verb} {reference} by {size[1:]} on {where} {within}, significant{corrected}."
        )
    elif effect.ci95[0] <= 0 <= effect.ci95[1]:
        text = f"{what}: no significant effect on {where}, {size} {within}."
    else:
        text = f"{what}: {size} on {where} {within}, not significant{corrected}."

    if effect.basis == "runs" and not effect.shown and effect.shown_on_images:
        text += f" {_of_these_runs(effect, measure)}"
    if effect.confounding:
        text += (
            f" They differ in {len(effect.confounding.differences)} settings, "
            "none of which is credited with that."
        )
    return text


def _of_these_runs(effect: Effect, measure: Criterion) -> str:
    """Say that these runs do differ, where seeds are too few to say it of the recipes."""
    assert effect.images is not None
    size = f"{measure.difference(effect.images.estimate)} ({measure.interval(effect.images.ci95)})"
    return (
        f"These very runs differ significantly on their {effect.images.num_images:,} images, "
        f"{size}; so few seeds cannot show that others would."
    )
