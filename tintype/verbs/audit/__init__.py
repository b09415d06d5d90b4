"""Look for what is wrong in a data set before a model is trained on it: `tintype audit DATA`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tintype.data.memory import fields_of
from tintype.data.plain_features import plain_features
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.interface.calls import public
from tintype.interface.lazy import Lazy
from tintype.interface.tables import Table
from tintype.own_code import is_in_python
from tintype.progress import Progress, working
from tintype.verbs.audit import backbone
from tintype.verbs.audit import findings as checks
from tintype.verbs.audit.decide import check_list
from tintype.verbs.audit.doubts import Doubts
from tintype.verbs.audit.files import Inspected, inspect, squashed
from tintype.verbs.audit.findings import Finding, Twins, in_colour
from tintype.verbs.audit.labels import LabelIssues, assess, find_label_issues
from tintype.verbs.audit.manifest import check_new, write_manifest
from tintype.verbs.audit.of_run import judgements_of, probabilities_of
from tintype.verbs.audit.one_class import WEAK, class_findings, label_findings
from tintype.verbs.audit.page import decide_command

if TYPE_CHECKING:
    import pandas
else:
    pandas = Lazy("pandas")

__all__ = ["Audit", "Finding", "audit"]


SHOWN = 3  # examples of a finding in the terminal


@dataclass(frozen=True, repr=False)
class Audit:
    """What was found in a data set; `findings` come with the serious ones first.

    `classes` counts images by class and split ("" where the data gives none), `formats` and `modes`
    count files.
    """

    data: str
    source: str  # as it was given
    num_images: int
    names: list[str] = field(repr=False)
    classes: dict[str, dict[str, int]]
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: dict[str, Any]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    seconds: float
    inspected: Inspected = field(repr=False)
    twins: Twins = field(repr=False)
    doubted: Doubts | None = field(default=None, repr=False)  # None where no label was judged

    @property
    def serious(self) -> tuple[Finding, ...]:
        """The findings that make a figure wrong or lose images."""
        return tuple(finding for finding in self.findings if finding.serious)

    def __getitem__(self, kind: str) -> Finding:
        for finding in self.findings:
            if finding.kind == kind:
                return finding
        raise KeyError(
            f"no finding '{kind}'; there are: {', '.join(f.kind for f in self.findings) or 'none'}"
        )

    def __repr__(self) -> str:
        kinds = ", ".join(finding.kind for finding in self.findings) or "nothing"
        return f"Audit({self.source!r}, {self.num_images:,} images: {kinds})"

    def table(self) -> Table:
        """Return a row for each finding: kind, whether it is serious, title, number of images."""
        return Table(
            {
                "kind": finding.kind,
                "serious": finding.serious,
                "title": finding.title,
                "num_images": finding.num_images,
            }
            for finding in self.findings
        )

    def frame(self) -> pandas.DataFrame:
        """Return the table as a pandas frame.

        Raises:
            UserError: pandas is not installed.
        """
        return self.table().frame()

    def doubts(self) -> Table:
        """Return a row for each label that looks wrong, the most doubtful first.

        It holds name, label, suggested, probability (of the class that is suggested) and
        label_probability, as a classifier says that has not seen the image.
        """
        return Table() if self.doubted is None else self.doubted.table()

    def __contains__(self, kind: str) -> bool:
        return any(finding.kind == kind for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "data": self.data,
            "source": self.source,
            "in_files": self.inspected.photos is not None,
            "num_images": self.num_images,
            "serious": bool(self.serious),
            "classes": self.classes,
            "formats": self.formats,
            "modes": self.modes,
            "sizes": self.sizes,
            "findings": [
                {
                    "kind": f.kind,
                    "serious": f.serious,
                    "title": f.title,
                    "text": f.text,
                    "num_images": f.num_images,
                    "items": [
                        {"names": list(item.names), "remark": item.remark} for item in f.items
                    ],
                    **({"suggestion": f.suggestion} if f.suggestion else {}),
                }
                for f in self.findings
            ],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 2),
        }

    def lines(self) -> list[str]:
        """Return the audit as lines for a terminal: each finding with its first examples."""
        word = "class" if len(self.classes) == 1 else "classes"
        lines = [
            f"{self.data}: {self.num_images:,} images, {len(self.classes)} {word}, "
            f"{self.seconds:.1f} s"
        ]

        for finding in self.findings:
            count = f": {len(finding.items):,}" if finding.items else ""
            lines.append(f"{'SERIOUS  ' if finding.serious else '         '}{finding.title}{count}")
            if not finding.items or finding.suggestion or finding.kind == "same object":
                lines.append(f"           {finding.text}")
            for item in finding.items[:SHOWN]:
                between = ", " if finding.suggestion else " = "
                names = between.join(printable(name) for name in item.names[:4])
                lines.append(f"           {names}{f'  ({item.remark})' if item.remark else ''}")
            if len(finding.items) > SHOWN:
                lines.append(f"           and {len(finding.items) - SHOWN:,} more")

        if command := decide_command(self.to_dict()):
            lines.append(f"         Decide these labels on a page: {command}")
        lines += [f"         {printable(note)}" for note in self.notes]
        verdict = f"{len(self.serious)} serious" if self.serious else "nothing serious"
        count = f"{len(self.findings)} finding{'' if len(self.findings) == 1 else 's'}"

        return [*lines, f"{count}, {verdict}"]

    def write_html(self, path: str | Path) -> Path:
        """Write the report with the pictures as one self-contained page; a page of that name is
        replaced.
        """
        from tintype.verbs.audit.page import write_audit

        return write_audit(Path(path), self.to_dict(), self._rows(), self.inspected.picture)

    def write_manifest(self, path: str | Path) -> dict[str, int]:
        """Write a cleaned list of the photos, and return how many stay and why the others do not.

        `tintype train` takes it in place of the data.

        Raises:
            UserError: the images are no files, or `path` is there already.
        """
        return write_manifest(self.inspected, self.twins, Path(path))

    def _rows(self) -> dict[str, list[tuple[int, ...]]]:
        return {finding.kind: [item.rows for item in finding.items] for finding in self.findings}

    def _repr_html_(self) -> str:
        from tintype.verbs.audit.page import audit_table

        return audit_table(self.to_dict())


@public(hint="Its page: tt.audit(...).write_html(FILE).")
def audit(
    data: Any,
    *,
    data_root: str | None = None,
    columns: Mapping[str, str] | None = None,
    labels: bool = True,
    copies: bool = True,
    features: np.ndarray | Mapping[str, np.ndarray] | None = None,
    run: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    verbose: bool | None = None,
) -> Audit:
    """Look for broken files, duplicates, leaks, wrong labels and poor pictures in a data set.

    Nothing is changed. Photos are decoded in parallel to thumbnails, which are cached; memory stays
    bounded.

    Args:
        data: a data set's name, a folder of photos, a CSV file, or images in memory, as `train`
            takes them.
        data_root: a folder that holds the data set's files already, or where the paths of a CSV
            begin.
        columns: what the columns of data in memory are called, see `train`.
        labels: also look for labels that seem wrong, which takes the most time.
        copies: also look for copies that were cropped, turned or painted over, and for objects
            that were photographed again; that takes the extra `audit`.
        features: for the labels, in place of simple ones: (N, F) in the order of `Audit.names`, or
            {name: (F,)}.
        run: a run that was trained on this data with folds; its models assess the labels.
        seed: decides on the folds of the cross-validation.
        progress: called as progress(what, done, total) while something takes long; by default a
            bar or lines show it.
        verbose: False shows no progress, and keeps libraries silent too.

    Raises:
        UserError: there is no such data, it holds no image, or the features do not fit.
    """
    fields = fields_of(data, columns=columns, data_root=data_root)
    with working(verbose, progress) as report:
        judges = _Judges(labels, features, None if run is None else Path(run), seed)
        return _audit(fields["data"], fields.get("data_root"), judges, copies, report)


@dataclass(frozen=True)
class _Judges:
    """By what labels are judged, if they are; the fields are arguments of `audit`."""

    labels: bool
    features: np.ndarray | Mapping[str, np.ndarray] | None
    run: Path | None
    seed: int

    def features_of(self, inspected: Inspected, progress: Progress) -> tuple[np.ndarray, bool]:
        """Return features (N, F) of all images, and whether they are simple ones.

        An embedded network looks at pictures such as it was trained on: in colour, and not tiny.
        """
        if self.features is not None:
            return _given_features(self.features, inspected), False
        large = np.median(inspected.short_side) >= backbone.LEAST_SIDE
        if not (large and in_colour(inspected.thumbs) and backbone.at_hand()):
            return plain_features(inspected.thumbs, self.seed), True

        side = backbone.side_for(len(inspected))
        pictures = squashed(inspected, side, progress)
        values, notes = backbone.backbone_features(pictures, side, progress)
        inspected.notes.extend(notes)
        return values, False

    def assess(
        self, inspected: Inspected, twins: Twins, progress: Progress
    ) -> tuple[LabelIssues, Doubts | None, str]:
        """Return the labels that look wrong, all of them in the order of doubt, and what objects
        that were photographed again do to the figures.

        Raises:
            UserError: the features or the run do not fit the images.
        """
        said = None if self.run is None else probabilities_of(self.run, inspected)
        values, simple = self.features_of(inspected, progress)
        effect = ""
        if said is None:
            progress("judging labels", 0, len(inspected))
            groups, targets = twins.together, inspected.targets
            issues = find_label_issues(values, targets, groups, self.seed, only_very_sure=simple)
            if twins.second.objects:
                apart = find_label_issues(
                    values, targets, twins.copied, self.seed, only_very_sure=simple
                )
                effect = (
                    f"The classifier that judges labels is right for {issues.accuracy:.1%} of the "
                    f"photos when they are kept together, and for {apart.accuracy:.1%} when not."
                )
            progress("judging labels", len(inspected), len(inspected))
        else:
            issues = assess(said, inspected.targets)
        doubted = Doubts(inspected, issues, values) if issues.accuracy >= WEAK else None
        return issues, doubted, effect


def _audit(
    data: str, data_root: str | None, judges: _Judges, copies: bool, progress: Progress
) -> Audit:
    """Look at a data set; the arguments are those of `audit`."""
    start = time.perf_counter()
    if judges.run is not None:
        judgements_of(judges.run)  # before anything takes long
    inspected = inspect(data, data_root, progress)
    again = copies and not inspected.streamed
    twins = checks.find_twins(inspected, progress, second_look=again)
    if twins.second.note:
        inspected.notes.append(twins.second.note)
    issues = doubted = None
    effect = ""

    one_class = isinstance(inspected.target, Classes)
    if judges.labels and one_class and len(set(inspected.targets.tolist())) > 1:
        issues, doubted, effect = judges.assess(inspected, twins, progress)

    found = [
        *checks.unreadable_findings(inspected),
        *(class_findings(inspected) if one_class else ()),
        *checks.duplicate_findings(inspected, twins),
        *checks.copy_findings(inspected, twins, effect),
        *checks.group_findings(inspected, data),
        *label_findings(inspected, issues, judges.features is not None),
        *checks.picture_findings(inspected),
    ]
    return Audit(
        data=inspected.name,
        source=inspected.name if is_in_python(data) else data,
        num_images=len(inspected),
        names=inspected.names,
        classes=_classes(inspected),
        formats=checks.counted(inspected.facts["format"].tolist()),
        modes=checks.counted(inspected.facts["mode"].tolist()),
        sizes=_sizes(inspected),
        findings=tuple(sorted(found, key=lambda finding: not finding.serious)),
        notes=tuple(dict.fromkeys(inspected.notes)),
        seconds=time.perf_counter() - start,
        inspected=inspected,
        twins=twins,
        doubted=doubted,
    )


def audit_command(
    data: str,
    *,
    data_root: str | None,
    html: Path | None,
    fix: Path | None,
    decide: Path | None,
    run: Path | None,
    labels: bool,
    copies: bool = True,
    progress: Progress,
) -> tuple[Audit, list[str]]:
    """Audit, write what was asked for, and return the audit with a line for each file written."""
    if fix is not None:
        check_new(fix)
    if decide is not None:
        _check_decide(data, decide, labels)
    result = audit(
        data, data_root=data_root, labels=labels, copies=copies, run=run, progress=progress
    )
    lines = []

    if fix is not None:
        counts = result.write_manifest(fix)
        dropped = ", ".join(
            f"{count:,} {reason}" for reason, count in counts.items() if reason != "kept"
        )
        lines.append(
            f"{counts['kept']:,} photos listed in {fix}"
            + (f"; left out: {dropped}" if dropped else "")
        )

    if html is not None:
        lines.append(f"report  {result.write_html(html)}")
    return result, lines


def _check_decide(data: str, decide: Path, labels: bool) -> None:
    """Raise UserError, before anything takes long, if no labels can be decided so."""
    if not labels:
        raise UserError("--decide is about labels: leave out --no-labels.")
    if Path(data).expanduser().resolve() == decide.resolve():
        raise UserError(f"{decide} is the data itself. Choose another name for the list to write.")
    check_list(decide)


def printable(name: str) -> str:
    """Return a name on one line: what a terminal would act upon (line ends, escapes) is written as
    an escape.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _given_features(
    features: np.ndarray | Mapping[str, np.ndarray], inspected: Inspected
) -> np.ndarray:
    if isinstance(features, Mapping):
        absent = [name for name in inspected.names if name not in features]
        if absent:
            raise UserError(
                f"features are missing for {len(absent):,} images, the first: {absent[0]}."
            )
        features = np.stack([features[name] for name in inspected.names])

    if features.ndim != 2 or len(features) != len(inspected):
        raise UserError(
            f"features of shape {features.shape}; expected ({len(inspected)}, F): one row for each "
            "image in the order of Audit.names."
        )
    return features.astype(np.float32)


def _classes(inspected: Inspected) -> dict[str, dict[str, int]]:
    """Return how many images each class has in each split; nothing of other targets."""
    if not isinstance(inspected.target, Classes):
        return {}

    splits = [split for split in ("train", "val", "test", "") if (inspected.split == split).any()]
    return {
        name: {
            split: int(((inspected.targets == c) & (inspected.split == split)).sum())
            for split in splits
        }
        for c, name in enumerate(inspected.target.names)
    }


def _sizes(inspected: Inspected) -> dict[str, Any]:
    """Return how many different sizes there are, the commonest, and the smallest, median and
    largest side.
    """
    facts = inspected.facts
    sizes, counts = np.unique(
        np.stack([facts["width"], facts["height"]], axis=1), axis=0, return_counts=True
    )
    most = int(counts.argmax())
    long_side = np.maximum(facts["width"], facts["height"])

    return {
        "different": len(sizes),
        "commonest": {
            "width": int(sizes[most][0]),
            "height": int(sizes[most][1]),
            "count": int(counts[most]),
        },
        "short_side": [int(v) for v in np.quantile(inspected.short_side, [0, 0.5, 1])],
        "long_side": [int(v) for v in np.quantile(long_side, [0, 0.5, 1])],
        "total_bytes": int(facts["num_bytes"].sum()),
    }
