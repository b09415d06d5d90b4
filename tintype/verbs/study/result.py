"""What a study found: a table with means over seeds, the effect of each factor, the recommended
choice with its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tintype.errors import UserError
from tintype.runs.ranking import Criterion, criterion_of
from tintype.verbs.study.choice import Recommendation, choose
from tintype.verbs.study.effects import Effect, by_data, effects_of
from tintype.verbs.study.figures import (
    Finished,
    VariantResult,
    read_finished,
    variants_of,
)
from tintype.verbs.study.folder import StudyFolder


@dataclass(frozen=True)
class Result:
    """All that a study found."""

    measure: Criterion
    split: str
    variants: Sequence[VariantResult]
    effects: Sequence[Effect]
    choice: Recommendation | None
    remarks: Sequence[str] = field(default_factory=list)
    # on each data, where the study varies it
    choices: Mapping[str, Recommendation] = field(default_factory=dict)

    @property
    def confounding(self) -> list[str]:
        """What is to be said first: which levels differ in more than what the study asks about, and
        in what.
        """
        said = []
        for effect in self.effects:
            if effect.confounding:
                size = (
                    f"{self.measure.number(abs(effect.estimate))} {self.measure.unit}"
                    if self.measure.unit
                    else ""
                )
                on = f" on {effect.data}" if effect.data and size else ""
                said.append(effect.confounding.sentence(size + on))
        return said


def result_of(study: StudyFolder) -> Result | None:
    """Return what the finished runs say, or None where none is finished or they are of different
    tasks.
    """
    finished = read_finished(study)
    if not finished or len({each.task for each in finished}) > 1:
        return None

    measure = criterion_of(finished[0].task, finished[0].evaluation["splits"]["val"])
    split = "test" if all("test" in each.evaluation["splits"] for each in finished) else "val"
    variants = variants_of(finished, measure)

    choices: dict[str, Recommendation] = {}
    for data, members in by_data(study.declaration, finished).items():
        choice = choose(variants_of(members, measure), measure, split)
        if choice is not None:
            choices[data] = choice

    effects, remarks = effects_of(study, finished, measure, split), _remarks(study, finished)
    choice = None if study.declaration.data_factors else choices.pop("", None)
    return Result(measure, split, variants, effects, choice, remarks, choices)


def _remarks(study: StudyFolder, finished: Sequence[Finished]) -> list[str]:
    remarks = []
    missing = len(study.planned) - len(finished)
    if missing:
        failed = len(study.failures())
        remarks.append(
            f"{missing} of {len(study.planned)} runs are not finished"
            + (f", {failed} failed." if failed else ".")
        )

    if len(study.declaration.seeds) == 1:
        remarks.append(
            "One seed each: what is said of the images holds for these runs; "
            "what other seeds of the recipes would give is not known (three would show)."
        )
    if study.declaration.data_factors:
        remarks.append(
            "The data sets are not ranked against each other: "
            "effects and choices are those on each of them."
        )
    elif len(_image_sets(finished)) > 1:
        remarks.append(
            "Not all runs were measured on the same images; "
            "part of their differences comes from that."
        )

    left = study.left_over()
    if left:
        remarks.append(
            f"{len(left)} runs in the folder are no part of the study as it stands now: "
            f"{', '.join(left[:3])}."
        )

    return remarks


def _image_sets(finished: Sequence[Finished]) -> set[tuple[str, bytes]]:
    """Return the different sets of images: where they come from, and which is in which split.

    Fingerprints would tell apart the same photos that two backbones see at different sizes.
    """
    found = set()
    for each in finished:
        path = each.run.path / "splits.csv"
        try:
            found.add((each.planned.recipe.data, hashlib.blake2b(path.read_bytes()).digest()))
        except OSError as error:
            raise UserError(f"{path} is missing ({error.strerror}).") from None
    return found
