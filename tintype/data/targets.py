"""What a data set says of each image: one class, numbers, several labels, or nothing.

A target kind owns all that follows from this: how targets are read from folders and tables, how
they are divided, counted, compared and mixed. The rest of `data/` and `augment/` knows the methods
of `TargetKind` alone, so that a new kind is one class here.

A kind is named before the data are read (`Numbers(("age",))`), and `collect` returns the one that
the data turned out to hold (`Classes()` becomes `Classes(("cat", "dog"))`).
"""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tintype.data.layout import class_name, listed
from tintype.errors import UserError

QUANTILES = 10  # strata of a number, most: every split has its share of each
Folders = Literal["needed", "welcome", "ignored"]
SAME_NUMBER = 0.05  # standard deviations by which the numbers of two copies may differ

WORDS = {"train": "training", "val": "validation", "test": "test"}


class Listed(Protocol):
    """A photo as it is listed, before its pixels are read; `cells` hold its target as text."""

    @property
    def name(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def cells(self) -> tuple[str, ...]: ...


class TargetKind(ABC):
    """What the targets of a data set are.

    Attributes:
        offer: the kind's short name: a file in `data/sets/` whose images have such targets lists it
            in its literal `TARGETS`.
        title: what an image has then, for sentences.
        dtype: of the array of targets.
        names: of the outputs: the classes, the numbers or the labels.
        shape: of one target; () for one value.
        columns: of a table, in order; for each the headings that it may have, the usual one first.
        folders: whether the folder of a photo is its target, so that it is "needed", may be its
            target and is "welcome", or says nothing and is "ignored".
        stratified: how a split is cut, for the line that describes it.
    """

    offer: ClassVar[str]
    title: ClassVar[str]
    dtype: ClassVar[np.dtype]
    names: tuple[str, ...]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def columns(self) -> tuple[tuple[str, ...], ...]: ...

    @property
    @abstractmethod
    def folders(self) -> Folders: ...

    @property
    @abstractmethod
    def stratified(self) -> str: ...

    @property
    def expected_folder(self) -> str:
        """What a folder of photos looks like, for someone who gave another one."""
        return "Expected ROOT/CLASS/*.jpg, with one folder for each class."

    @property
    def folder_word(self) -> str:
        """What a folder of photos that says their target is called."""
        return "class"

    @property
    def num_outputs(self) -> int:
        """The number of values that a network gives for one image."""
        return len(self.names)

    # ---- reading ------------------------------------------------------------------------------

    @abstractmethod
    def read(self, cells: Sequence[str], where: str) -> tuple[str, ...]:
        """Return the cells of one row as they are kept, one for each of `columns`.

        Raises:
            UserError: a cell is empty or cannot be read; `where` names the row.
        """

    @abstractmethod
    def of_path(self, folder: str, name: str) -> tuple[str, ...]:
        """Return the cells of a photo that lies in a class folder.

        Args:
            folder: the name of the class folder.
            name: the path of the photo below the folder of the data.

        Raises:
            UserError: they do not say what the target is.
        """

    def remarks(self, photos: Sequence[Listed]) -> list[str]:
        """Return lines on what is odd about the targets of the photos that are listed."""
        del photos
        return []

    @abstractmethod
    def collect(
        self, photos: Sequence[Listed], everything: Sequence[Listed], source: str, notes: list[str]
    ) -> tuple[TargetKind, np.ndarray]:
        """Return the kind that these photos have, and their targets (N, *shape).

        Args:
            photos: those that can be decoded.
            everything: those that are listed, decoded or not.
            source: what the user calls the data.
            notes: lines for the user, to which this adds.

        Raises:
            UserError: nothing can be learned from these targets.
        """

    @abstractmethod
    def check(self, targets: np.ndarray, split: np.ndarray | None, name: str) -> None:
        """Refuse targets that no model can learn, or that could not be measured.

        Args:
            targets: (N, *shape).
            split: (N,) "train", "val", "test" or "" (free), or None where the data bring no split.
            name: of the data set.

        Raises:
            UserError: there are such targets.
        """

    # ---- dividing and counting ----------------------------------------------------------------

    @abstractmethod
    def strata(self, targets: np.ndarray, most: int) -> np.ndarray:
        """Return the stratum of each image (N,) int64; every split has its share of each stratum.

        Kinds that may choose how many there are make at most `most`.
        """

    @abstractmethod
    def counted(self, targets: np.ndarray) -> str:
        """Return what there is, for the line that counts the images, such as "10 classes"."""

    @abstractmethod
    def uneven(self, targets: np.ndarray, rows: Mapping[str, np.ndarray], split: str) -> list[str]:
        """Return lines on what a split lacks, or on what only this split has.

        Args:
            targets: (N, *shape).
            rows: positions of the images of "train", "val" and "test".
            split: "val" or "test".
        """

    # ---- comparing and mixing -----------------------------------------------------------------

    @abstractmethod
    def differing(self, targets: np.ndarray) -> Callable[[np.ndarray], bool]:
        """Return a function of positions: whether the images there have targets that differ."""

    def rarest(self, targets: np.ndarray, units: np.ndarray) -> tuple[str, int, int] | None:
        """Return what is rarest, of what every fold must have: its name, images and units.

        None where folds need nothing of the kind.

        Args:
            targets: (N, *shape).
            units: (N,) a number for each image, equal for images that stay together.
        """
        del targets, units
        return None

    @abstractmethod
    def content(self, targets: np.ndarray) -> bytes:
        """Return what of the targets enters the fingerprint of the data."""

    @abstractmethod
    def mixable(self, targets: Tensor) -> Tensor:
        """Return targets (N, K) float32 whose weighted mean is the target of a mixed image.

        Targets that are mixed already are returned as they are.
        """

    def describe(self) -> dict[str, Any]:
        """Return what model.json and data.json hold of the kind (JSON-ready).

        `described` makes the same kind of it again.
        """
        return {"class_names": [], "target": {"kind": self.offer, "names": list(self.names)}}

    def record(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return what data.json holds of the targets of each split (JSON-ready)."""
        return {**self.describe(), "class_counts": {split: [] for split in targets}}

    def summary(self) -> dict[str, Any]:
        """Return what a dry run prints of the kind (JSON-ready)."""
        return {"classes": [], "target": {"kind": self.offer, "names": list(self.names)}}

    def brief(self) -> str:
        """Return the kind in a few words, such as "10 classes", or "" where there is none."""
        return f"{len(self.names)} {self.title}"


@dataclass(frozen=True)
class Classes(TargetKind):
    """One class for each image: targets (N,) int64, the position in `names`.

    With `single`, one class alone will do, and so will photos that lie in no class folder.
    """

    names: tuple[str, ...] = ()
    single: bool = field(default=False, compare=False)

    offer: ClassVar[str] = "class"
    title: ClassVar[str] = "classes"
    dtype: ClassVar[np.dtype] = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        return (("label", "class", "target", "category", "class_name", "label_name"),)

    @property
    def folders(self) -> Folders:
        return "welcome" if self.single else "needed"

    @property
    def stratified(self) -> str:
        return "stratified"

    def read(self, cells: Sequence[str], where: str) -> tuple[str, ...]:
        _refuse_empty(cells, ("label",), where)
        return (class_name(cells[0]),)

    def of_path(self, folder: str, name: str) -> tuple[str, ...]:
        return (folder,)

    def remarks(self, photos: Sequence[Listed]) -> list[str]:
        """Return a line for classes that differ only in case.

        Some systems have one folder for both.
        """
        labels = sorted({photo.cells[0] for photo in photos})
        alike = Counter(label.casefold() for label in labels)

        notes = []
        for folded, count in sorted(alike.items()):
            if count > 1:
                same = [label for label in labels if label.casefold() == folded]
                notes.append(f"classes that differ only in case are kept apart: {listed(same)}")
        return notes

    def collect(
        self, photos: Sequence[Listed], everything: Sequence[Listed], source: str, notes: list[str]
    ) -> tuple[Classes, np.ndarray]:
        labels = {photo.cells[0] for photo in photos}
        lost = sorted({photo.cells[0] for photo in everything} - labels)
        if lost:
            notes.append(f"classes of which no photo can be read are left out: {listed(lost)}")
        if len(labels) == 1 and not self.single:
            raise UserError(_one_class(source, next(iter(labels)), photos))

        names = sorted_classes(labels)
        number = {label: i for i, label in enumerate(names)}
        targets = np.array([number[photo.cells[0]] for photo in photos], self.dtype)
        return Classes(names, self.single), targets

    def check(self, targets: np.ndarray, split: np.ndarray | None, name: str) -> None:
        counts = self._counts(targets)
        single = [self.names[c] for c in np.flatnonzero(counts == 1)]
        if single and split is None:
            raise UserError(
                f"class '{single[0]}' of {name} has one image only{_more(single)}; each split needs"
                " one. Add images, or remove the class."
            )
        if split is None:
            return

        # A given split may hold classes in validation or test alone.
        learnable = self._counts(targets[np.isin(split, ("train", ""))])
        unseen = [self.names[c] for c in np.flatnonzero((learnable == 0) & (counts > 0))]
        if not unseen:
            return

        folded = unseen[0].casefold().strip()
        in_training = [self.names[c] for c in np.flatnonzero(learnable)]
        alike = next((c for c in in_training if c.casefold().strip() == folded), None)
        mend = "Add some, or remove the class."
        if alike:
            mend = f"Training has '{alike}', which differs only in case or spaces: rename one."
        raise UserError(
            f"class '{unseen[0]}' of {name} has no training image{_more(unseen)}. {mend}"
        )

    def strata(self, targets: np.ndarray, most: int) -> np.ndarray:
        return targets.astype(np.int64)

    def counted(self, targets: np.ndarray) -> str:
        return f"{len(self.names)} classes"

    def uneven(self, targets: np.ndarray, rows: Mapping[str, np.ndarray], split: str) -> list[str]:
        present = self._counts(targets[rows[split]]) > 0
        absent = [self.names[c] for c in np.flatnonzero(~present)]
        if not absent:
            return []
        return [
            f"{WORDS[split]} holds no image of {len(absent)} classes with too few: "
            f"{', '.join(absent[:5])}"
        ]

    def rarest(self, targets: np.ndarray, units: np.ndarray) -> tuple[str, int, int] | None:
        counts = {
            int(c): (len(np.unique(units[targets == c])), int((targets == c).sum()))
            for c in np.unique(targets)
        }
        rarest = min(counts, key=lambda c: counts[c])
        num_units, num_images = counts[rarest]
        name = self.names[rarest] if self.names else str(rarest)
        return name, num_images, num_units

    def differing(self, targets: np.ndarray) -> Callable[[np.ndarray], bool]:
        return lambda rows: len(set(targets[rows].tolist())) > 1

    def content(self, targets: np.ndarray) -> bytes:
        # Runs of earlier versions are compared by this: it may not change.
        names = repr(self.names).encode("utf-8", "backslashreplace")
        return names + targets.astype("<i8").tobytes()

    def mixable(self, targets: Tensor) -> Tensor:
        return F.one_hot(targets, len(self.names)).float() if targets.ndim == 1 else targets

    def describe(self) -> dict[str, Any]:
        return {"class_names": list(self.names)}

    def summary(self) -> dict[str, Any]:
        return {"classes": list(self.names)}

    def record(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        counts = {split: self._counts(given).tolist() for split, given in targets.items()}
        return {**self.describe(), "class_counts": counts}

    def _counts(self, targets: np.ndarray) -> np.ndarray:
        return np.bincount(targets, minlength=len(self.names))


CLASSES = Classes()
ANY_CLASSES = Classes(single=True)


@dataclass(frozen=True)
class Numbers(TargetKind):
    """One number or several for each image: targets (N, K) float32, a column for each name.

    They stand in columns of a table under their names; in the names of photos, where `pattern`
    says; or, as a single number, in the name of the folder.
    """

    names: tuple[str, ...] = ("value",)
    pattern: str | None = field(default=None, compare=False)

    offer: ClassVar[str] = "numbers"
    title: ClassVar[str] = "numbers"
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    @classmethod
    def of(cls, columns: str | Sequence[str] | None = None, pattern: str | None = None) -> Numbers:
        """Return the kind for what a user says: columns "age,height", or a pattern "{age}_*.jpg".

        Raises:
            UserError: no name, a name twice, a pattern without a place for a number, or one with
                other names than `columns`.
        """
        names = columns.split(",") if isinstance(columns, str) else list(columns or ())
        names = [name.strip() for name in names]
        if "" in names or len(set(names)) < len(names):
            raise UserError(f"columns '{columns}': expected different names, as in age,height.")
        if pattern is None:
            return cls(tuple(names)) if names else cls()

        held = tuple(_PLACE.findall(pattern))
        example = "{" + (names[0] if names else "age") + "}_*.jpg"
        if not held or len(set(held)) < len(held):
            raise UserError(
                f"'{pattern}' has {'a name twice' if held else 'no place for a number'}. "
                f"Expected a name in braces where the number stands, as in '{example}'."
            )
        if names and set(names) != set(held):
            raise UserError(
                f"'{pattern}' names {', '.join(held)}, and the columns are {', '.join(names)}. "
                "Expected the same names in both, or one of the two alone."
            )
        return cls(tuple(names) or held, pattern)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.names),)

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        if self.names == Numbers.names:
            return (("value", "number", "target", "label"),)
        return tuple((name,) for name in self.names)

    @property
    def folders(self) -> Folders:
        return "needed" if self.pattern is None else "ignored"

    @property
    def expected_folder(self) -> str:
        name = self.names[0]
        return (
            f"Expected ROOT/{name.upper()}/*.jpg, with a number as the name of each folder, or a "
            f"pattern for the names of the photos, such as '{{{name}}}_*.jpg'."
        )

    @property
    def folder_word(self) -> str:
        return "numbered"

    @property
    def stratified(self) -> str:
        return f"stratified by quantiles of {' and '.join(self.names)}"

    def read(self, cells: Sequence[str], where: str) -> tuple[str, ...]:
        _refuse_empty(cells, self.names, where)
        for name, cell in zip(self.names, cells, strict=True):
            _number(cell, f"{where} has the {name} '{cell}'")
        return tuple(cells)

    def of_path(self, folder: str, name: str) -> tuple[str, ...]:
        if self.pattern is None:
            return self._of_folder(folder, name)

        match = re.fullmatch(_expression(self.pattern), name.replace("\\", "/"), re.IGNORECASE)
        if match is None:
            raise UserError(
                f"the name {name} does not fit '{self.pattern}'. Expected a number in each place in"
                " braces; * stands for any characters, ? for one."
            )
        held = dict(zip(_PLACE.findall(self.pattern), match.groups(), strict=True))
        return self.read([held[each] for each in self.names], name)

    def _of_folder(self, folder: str, name: str) -> tuple[str, ...]:
        way_out = (
            f"Name them in the photos, with a pattern such as '{{{self.names[0]}}}_*.jpg', or in "
            f"the columns of a .csv file: path,{','.join(self.names)}"
        )
        if len(self.names) > 1:
            raise UserError(f"a folder's name cannot give {len(self.names)} numbers. {way_out}")
        _number(folder, f"{name} lies in the folder '{folder}'", f" {way_out}")
        return (folder,)

    def collect(
        self, photos: Sequence[Listed], everything: Sequence[Listed], source: str, notes: list[str]
    ) -> tuple[Numbers, np.ndarray]:
        cells = [[float(cell) for cell in photo.cells] for photo in photos]
        return self, np.array(cells, self.dtype).reshape(len(photos), *self.shape)

    def check(self, targets: np.ndarray, split: np.ndarray | None, name: str) -> None:
        known = targets if split is None else targets[np.isin(split, ("train", ""))]
        for each, column in zip(self.names, known.T, strict=True):
            if len(column) > 1 and column.min() == column.max():
                raise UserError(
                    f"every {each} of {name} that is for training is {column[0]:g}, so there is "
                    "nothing to learn. Expected numbers that differ."
                )

    def strata(self, targets: np.ndarray, most: int) -> np.ndarray:
        """Return cells of a grid of quantiles, of the first columns alone where there are many.

        The grid has as many columns, and then as many parts of each, as `most` cells allow.
        """
        num_columns = max(1, min(len(self.names), most.bit_length() - 1))
        parts = max(n for n in range(1, QUANTILES + 1) if n == 1 or n**num_columns <= most)

        result = np.zeros(len(targets), np.int64)
        for column in targets.T[:num_columns]:
            result = result * parts + quantile_of(column, parts)
        return result

    def counted(self, targets: np.ndarray) -> str:
        ranges = zip(self.names, targets.min(axis=0), targets.max(axis=0), strict=True)
        return ", ".join(f"{name} {low:g} to {high:g}" for name, low, high in ranges)

    def uneven(self, targets: np.ndarray, rows: Mapping[str, np.ndarray], split: str) -> list[str]:
        notes = []
        for i, name in enumerate(self.names):
            known = targets[rows["train"], i]
            values = targets[rows[split], i]
            beyond = int(((values < known.min()) | (values > known.max())).sum())
            if beyond:
                notes.append(
                    f"{beyond:,} of {len(values):,} {WORDS[split]} images have their {name} "
                    f"outside the range of training ({known.min():g} to {known.max():g})"
                )
        return notes

    def differing(self, targets: np.ndarray) -> Callable[[np.ndarray], bool]:
        tolerance = SAME_NUMBER * targets.std(axis=0)
        return lambda rows: bool((np.ptp(targets[rows], axis=0) > tolerance).any())

    def content(self, targets: np.ndarray) -> bytes:
        return repr((self.offer, self.names)).encode() + targets.astype("<f4").tobytes()

    def brief(self) -> str:
        return ", ".join(self.names)

    def mixable(self, targets: Tensor) -> Tensor:
        return targets


@dataclass(frozen=True)
class Labels(TargetKind):
    """Several labels for each image: targets (N, L) float32.

    A target is 1 where the image has the label, 0 where it has not, NaN where nobody has said.

    A table names the labels of an image in one column, separated by ; | or commas ("?cat" says that
    nobody has looked for a cat, "?" alone that nobody has looked at the image); or, where `names`
    are given, has a column for each label, with 1, 0 or nothing. A folder is named by the labels of
    the photos in it.
    """

    names: tuple[str, ...] = ()

    offer: ClassVar[str] = "labels"
    title: ClassVar[str] = "several labels"
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.names),)

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        if not self.names:
            return (("labels", "label", "tags", "classes"),)
        return tuple((name,) for name in self.names)

    @property
    def folders(self) -> Folders:
        return "needed"

    @property
    def stratified(self) -> str:
        return "stratified by the rarest label of each image"

    def read(self, cells: Sequence[str], where: str) -> tuple[str, ...]:
        # Without names there is one cell, in which any text will do.
        for name, cell in zip(self.names, cells, strict=False):
            if cell.lower() not in _YES_OR_NO:
                raise UserError(
                    f"{where} has the {name} '{cell}'. "
                    "Expected 1 or 0, or nothing where nobody has looked."
                )
        return tuple(cells)

    def of_path(self, folder: str, name: str) -> tuple[str, ...]:
        if self.names:
            raise UserError(
                f"the labels {listed(self.names)} are columns of a table, and {name} lies in a "
                f"folder. Expected a .csv file with path,{','.join(self.names)}"
            )
        return (folder,)

    def collect(
        self, photos: Sequence[Listed], everything: Sequence[Listed], source: str, notes: list[str]
    ) -> tuple[Labels, np.ndarray]:
        if self.names:
            rows = [[_YES_OR_NO[cell.lower()] for cell in photo.cells] for photo in photos]
            return self, np.array(rows, self.dtype).reshape(len(photos), len(self.names))

        given = [_labels_in(photo.cells[0]) for photo in photos]
        names = sorted_classes(
            {label.removeprefix("?") for labels in given for label in labels} - {""}
        )
        targets = np.zeros((len(photos), len(names)), self.dtype)
        column = {label: i for i, label in enumerate(names)}
        for row, labels in zip(targets, given, strict=True):
            if "?" in labels:
                row[:] = np.nan
            for label in labels - {"?"}:
                unsure = label.startswith("?")
                row[column[label.removeprefix("?")]] = np.nan if unsure else 1
        return Labels(names), targets

    def check(self, targets: np.ndarray, split: np.ndarray | None, name: str) -> None:
        known = targets if split is None else targets[np.isin(split, ("train", ""))]
        if not self.names:
            raise UserError(f"no image of {name} has a label. Expected some, as in: cat;dog")

        for label, column in zip(self.names, known.T, strict=True):
            if not (column == 1).any():
                raise UserError(
                    f"no image of {name} that is for training has the label '{label}'. "
                    "Add some, or leave the label out."
                )
            if not (column == 0).any():
                raise UserError(
                    f"every image of {name} that is for training has the label '{label}', so there "
                    "is nothing to learn. Add images without it, or leave the label out."
                )

    def strata(self, targets: np.ndarray, most: int) -> np.ndarray:
        """Return the rarest label of each image, one stratum more for images without any."""
        present = targets == 1
        rarest_first = np.argsort(present.sum(axis=0), kind="stable")
        rank = np.argsort(rarest_first, kind="stable")  # of each label, 0 for the rarest
        ranks = np.where(present, rank, len(self.names))
        return ranks.min(axis=1, initial=len(self.names)).astype(np.int64)

    def counted(self, targets: np.ndarray) -> str:
        unknown = np.isnan(targets)
        each = np.nansum(targets) / max(1, len(targets))
        open_ones = f", {100 * unknown.mean():.2g} % not annotated" if unknown.any() else ""
        return f"{len(self.names)} labels ({each:.2g} for each image{open_ones})"

    def uneven(self, targets: np.ndarray, rows: Mapping[str, np.ndarray], split: str) -> list[str]:
        present = (targets[rows[split]] == 1).any(axis=0)
        absent = [self.names[i] for i in np.flatnonzero(~present)]
        if not absent:
            return []
        what = "1 label" if len(absent) == 1 else f"{len(absent)} labels"
        return [f"{WORDS[split]} holds no image with {what}: {listed(absent)}"]

    def differing(self, targets: np.ndarray) -> Callable[[np.ndarray], bool]:
        """Return a function that compares what somebody has said: NaN agrees with both."""
        return lambda rows: bool(
            ((targets[rows] == 1).any(axis=0) & (targets[rows] == 0).any(axis=0)).any()
        )

    def content(self, targets: np.ndarray) -> bytes:
        numbers = np.where(np.isnan(targets), -1, targets)  # NaN has many bit patterns
        names = repr((self.offer, self.names)).encode("utf-8", "backslashreplace")
        return names + numbers.astype("i1").tobytes()

    def mixable(self, targets: Tensor) -> Tensor:
        return targets


@dataclass(frozen=True)
class NoTarget(TargetKind):
    """Nothing is known of an image but the image itself: targets (N, 0) int64."""

    names: tuple[str, ...] = ()

    offer: ClassVar[str] = "none"
    title: ClassVar[str] = "being images alone"
    dtype: ClassVar[np.dtype] = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        return (0,)

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        return ()

    @property
    def folders(self) -> Folders:
        return "ignored"

    @property
    def stratified(self) -> str:
        return "by chance"

    def read(self, cells: Sequence[str], where: str) -> tuple[str, ...]:
        return ()

    def of_path(self, folder: str, name: str) -> tuple[str, ...]:
        return ()

    def collect(
        self, photos: Sequence[Listed], everything: Sequence[Listed], source: str, notes: list[str]
    ) -> tuple[NoTarget, np.ndarray]:
        return self, np.empty((len(photos), 0), self.dtype)

    def check(self, targets: np.ndarray, split: np.ndarray | None, name: str) -> None:
        """Pass: images without targets can always be learned."""

    def strata(self, targets: np.ndarray, most: int) -> np.ndarray:
        return np.zeros(len(targets), np.int64)

    def counted(self, targets: np.ndarray) -> str:
        return "no targets"

    def uneven(self, targets: np.ndarray, rows: Mapping[str, np.ndarray], split: str) -> list[str]:
        return []

    def differing(self, targets: np.ndarray) -> Callable[[np.ndarray], bool]:
        return lambda rows: False

    def content(self, targets: np.ndarray) -> bytes:
        return self.offer.encode()

    def brief(self) -> str:
        return ""

    def mixable(self, targets: Tensor) -> Tensor:
        return targets.float()


def quantile_of(values: np.ndarray, parts: int) -> np.ndarray:
    """Return in which of `parts` quantiles each value (N,) lies, 0 for the smallest.

    Equal values share one. The bounds are values of the data, so that no arithmetic of a machine
    decides.
    """
    ordered = np.sort(values)
    bounds = ordered[[(len(values) - 1) * i // parts for i in range(1, parts)]]
    return np.searchsorted(bounds, values, side="left").astype(np.int64)


def described(description: Mapping[str, Any]) -> TargetKind:
    """Return the kind that model.json holds: what `describe` returned, or else classes.

    Raises:
        ValueError: there is no such kind.
    """
    found = description.get("target")
    if found is None:
        return Classes(tuple(description["class_names"]))

    for kind in (Numbers, Labels, NoTarget):
        if kind.offer == found["kind"]:
            return kind(tuple(found["names"]))
    raise ValueError(f"unknown kind of target '{found['kind']}'")


def sorted_classes(labels: set[str]) -> tuple[str, ...]:
    """Return class names sorted, by value where all are whole numbers."""
    numeric = all(label.isascii() and label.isdigit() for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label), label) if numeric else (0, label)))


# What a column of one label may hold.
_YES_OR_NO = {
    **dict.fromkeys(("1", "1.0", "yes", "true"), 1.0),
    **dict.fromkeys(("0", "0.0", "no", "false"), 0.0),
    **dict.fromkeys(("", "?", "nan"), math.nan),
}


def _labels_in(text: str) -> set[str]:
    """Return the labels that a cell or a folder names."""
    parts = (part.strip() for part in re.split(r"[;|,]", text))
    return {class_name(part) for part in parts if part}


# A place for a number in a pattern, and what may stand there.
_PLACE = re.compile(r"\{([^{}/]+)\}")
_DIGITS = r"((?<![0-9.])[-+]?[0-9]+(?:\.[0-9]+)?(?![0-9]))"


def _expression(pattern: str) -> str:
    """Return the regular expression of a pattern, which fits the end of a path."""
    parts = re.split(r"(\{[^{}/]+\}|\*+|\?)", pattern)
    body = ""
    for part in parts:
        if part.startswith("{"):
            body += _DIGITS
        elif part.startswith("*"):
            body += "[^/]*?"
        else:
            body += "[^/]" if part == "?" else re.escape(part)
    return rf"(?:.*/)?{body}"


def _number(text: str, what: str, way_out: str = "") -> float:
    """Return the number that a text gives, or raise a UserError that begins with `what`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Python reads 1_000 and inf as well, which a table does not mean.
    if "_" not in text and abs(value) <= float(np.finfo(np.float32).max):
        return value

    example = "36.5"
    if text.count(",") == 1 and "." not in text:
        example = text.replace(",", ".")
    raise UserError(f"{what}, which is no number. Expected one such as {example}.{way_out}")


def _refuse_empty(cells: Sequence[str], names: Sequence[str], where: str) -> None:
    for name, cell in zip(names, cells, strict=True):
        if not cell:
            raise UserError(f"{where} has no {name}. Fill it in, or remove the row.")


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more classes)" if len(names) > 1 else ""


def _one_class(source: str, label: str, photos: Sequence[Listed]) -> str:
    inner = [photo.name.rpartition("/")[0] for photo in photos if not photo.split]
    shared = os.path.commonpath(inner) if len(set(inner)) > 1 else ""
    hint = f" Did you mean {source}/{shared}?" if shared else ""
    return (
        f"{source} holds one class only ('{label}', {len(photos):,} photos); "
        f"at least two are needed.{hint}"
    )
