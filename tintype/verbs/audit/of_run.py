"""Judge labels by the folds of a run, whose models have not seen the photos that they answer."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tintype.errors import UserError
from tintype.plugins import find_part
from tintype.runs.folder import FOLDS_FILE, RunFolder
from tintype.tasks.contract.doubts import DoubtsPart, Judgements
from tintype.training.folds import POOLED_FILE
from tintype.verbs.audit.files import Inspected
from tintype.verbs.audit.labels import calibrated


def judgements_of(path: Path) -> tuple[list[str], Judgements]:
    """Return the names of a run's photos, and what its folds say of each.

    Raises:
        UserError: there is no such run, it has no folds, or their files are broken.
    """
    run = RunFolder.open(path)
    part = cast(DoubtsPart, find_part(run.recipe.task, "doubts", "assess labels"))
    names = [row.get("name", "") for row in run.read_table(FOLDS_FILE)]
    if not names:
        raise UserError(
            f"{path} has no answers of folds, and its model has seen the photos. Train with "
            "--folds 5."
        )

    try:
        answers = load_file(run.path / POOLED_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{run.path / POOLED_FILE} cannot be read ({error}).") from None
    found = part.judgements(answers, run.read("model.json"))
    if len(names) != len(found.targets):
        raise UserError(f"{run.path / FOLDS_FILE} does not fit {POOLED_FILE}.")
    return names, found


def probabilities_of(path: Path, inspected: Inspected) -> np.ndarray:
    """Return (N, C) probabilities of a data set's images by the folds of a run.

    NaN stands where the run had no such photo.

    Raises:
        UserError: as of `judgements_of`, or photos or classes are not those of the run.
    """
    names, judged = judgements_of(path)
    position = {name: i for i, name in enumerate(names)}
    pairs = [(i, position[n]) for i, n in enumerate(inspected.names) if n in position]
    known = [name for name in inspected.target.names if name in judged.names]
    if not pairs or len(known) < 2:
        what = "photos" if not pairs else "classes"
        raise UserError(
            f"{path} was trained on other {what} than those of {inspected.name}: none of the "
            "names is the same."
        )

    places = [inspected.target.names.index(name) for name in known]
    here, there = (np.array(each) for each in zip(*pairs, strict=True))
    learned = np.isin(inspected.targets[here], places)  # nothing is said of other labels
    here, there = here[learned], there[learned]
    if len(here) < len(inspected):
        inspected.notes.append(
            f"{path} answers {len(here):,} of {len(inspected):,} images; the labels of the others "
            "are not judged"
        )

    columns = [judged.names.index(name) for name in known]
    found = np.full((len(inspected), len(inspected.target.names)), np.nan)
    found[here] = 0.0
    of_run = calibrated(judged.logits, judged.targets)
    found[here[:, None], places] = of_run[there][:, columns]
    return found
