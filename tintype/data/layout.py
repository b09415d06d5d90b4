"""Read the layout of a folder of photos: which folders are splits, and which are classes.

Siblings whose folders have the same names are splits of one data set; the words in their names say
which is which. What remains unclear is refused, and every reading but the plain one is noted.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

from tintype.data.decode import Walk, natural_key
from tintype.errors import UserError

# A folder of one of these names is a split without further explanation.
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

# What longer names are read by, as in training_set, seg_train, trainA, test2017, PublicTest.
_SPLIT_WORDS = {
    **SPLIT_FOLDERS,
    "trn": "train", "trainval": "train",
    "dev": "val", "eval": "val", "evaluation": "val",
    "tst": "test", "holdout": "test",
}  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_GLUED = re.compile(r"(set|data|images|imgs|split)$")


# folders of which each is compared with each; of more, which are no splits, each with the next
MANY = 100


@dataclass
class Folder:
    """One folder: the photos directly in it (paths below the root), and the folders in it."""

    path: str
    photos: list[str] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @cached_property
    def num_photos(self) -> int:
        """The number of photos in it and below it."""
        return len(self.photos) + sum(inner.num_photos for inner in self.folders.values())

    def all_photos(self) -> list[str]:
        """Return the photos in it and below it, in natural order."""
        inner = [photo for folder in self.folders.values() for photo in folder.all_photos()]
        return sorted([*self.photos, *inner], key=natural_key) if inner else self.photos

    @cached_property
    def full(self) -> list[Folder]:
        """The folders in it that hold photos, sorted by name."""
        return [
            self.folders[name] for name in sorted(self.folders) if self.folders[name].num_photos
        ]

    @cached_property
    def core(self) -> Folder:
        """The folder itself, or the only folder in it, as where an archive was unpacked."""
        single = self.full[0] if len(self.full) == 1 and not self.photos else None
        return single.core if single and single.full and not single.photos else self

    @property
    def holds_classes(self) -> bool:
        """Whether most of its photos lie in folders below it, and not in a single split."""
        unpacked_twice = (
            len(self.full) == 1 and not self.full[0].full and bool(split_of(self.full[0].name))
        )
        return bool(self.full) and 2 * len(self.photos) < self.num_photos and not unpacked_twice

    @cached_property
    def inner_names(self) -> set[str]:
        """The names of the folders in it as splits are compared by them: case does not count."""
        return {class_name(inner.name).casefold() for inner in self.full}


class Place(NamedTuple):
    """A folder whose photos, with those below it, have one class and one split ("" for none)."""

    folder: Folder
    label: str
    split: str = ""


class Layout(NamedTuple):
    """Where the photos of each class and split lie, and what had to be decided."""

    places: list[Place]
    notes: list[str]


def split_of(name: str) -> str:
    """Return the split that a name speaks of, "" for none: "test" for "test_set2" or "PublicTest".

    A name that speaks of training and validation ("train_val") is training; any other two cancel
    each other.
    """
    words = words_of(name)
    words += [first + second for first, second in pairwise(words)]
    found = {
        _SPLIT_WORDS.get(word) or _SPLIT_WORDS.get(_GLUED.sub("", word), "") for word in words
    } - {""}
    if found == {"train", "val"}:
        return "train"
    return found.pop() if len(found) == 1 else ""


def words_of(name: str) -> list[str]:
    """Return the words of a name in small letters: "seg", "train" for "seg_train2"."""
    return [word.lower() for word in _WORD.findall(name)]


def class_name(name: str) -> str:
    """Return a folder's name as a class: always writable, and with composed accents.

    Archives made on a Mac bring accents apart from their letters.
    """
    return unicodedata.normalize("NFC", safe(name))


def safe(text: str) -> str:
    """Return a file name as text that can be written anywhere; other bytes become escapes."""
    return (
        text
        if text.isascii()
        else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    )


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def tree(files: Iterable[str], folders: Iterable[str] = ()) -> Folder:
    """Return the tree of a folder from the paths below it, with "/"."""
    top = Folder("")
    known = {"": top}

    def folder(path: str) -> Folder:
        if path not in known:
            parent, _, name = path.rpartition("/")
            known[path] = folder(parent).folders[name] = Folder(path)
        return known[path]

    for path in folders:
        folder(path)
    for file in files:
        folder(file.rpartition("/")[0]).photos.append(file)
    return top


def read_layout(root: Path, walk: Walk, one_class: bool = False) -> Layout:
    """Return the classes and splits among the folders that a walk through `root` found.

    With `one_class`, photos without class folders are taken as well, in a class named like `root`;
    what would only be unclear as to classes is then noted, not refused.

    Raises:
        UserError: folders may be splits or classes, or it is unclear which split a folder is.
    """
    reader = _Reader(root, tree(walk.files, walk.folders), one_class)
    reader.read()
    for place in walk.own:
        reader.own.add(place.partition("/")[0])
    reader.note_what_is_left_out(walk.own)
    return Layout(reader.places, reader.notes)


def read_splits(root: Path, walk: Walk) -> Layout:
    """Return the splits among the folders in `root`, where folders say nothing else of a photo.

    Folders are splits where the names of at least two of them speak of different ones; everything
    is taken where there are none.

    Raises:
        UserError: several folders are named as one split.
    """
    reader = _Reader(root, tree(walk.files, walk.folders), one_class=True)
    reader.read_splits_alone()
    reader.own = {place.partition("/")[0] for place in walk.own}
    reader.note_what_is_left_out(walk.own)
    return Layout(reader.places, reader.notes)


class _Reader:
    """The reading of one folder: collects places and notes."""

    def __init__(self, root: Path, top: Folder, one_class: bool) -> None:
        self.root = root
        self.top = top
        self.one_class = one_class
        self.places: list[Place] = []
        self.notes: list[str] = []
        self.own: set[str] = set()
        self.splits: dict[str, str] = {}
        self.bases: list[Folder] = []

    def read(self) -> None:
        siblings = self.top.full
        if self._splits_inside(siblings):
            self._read_splits_inside(siblings)
            return

        self.splits = self._splits(siblings)
        if not self.splits:
            self._note_class_named_as_split(siblings)
            self._read_classes(self.top, "")
            return

        self._note_named()
        self._note_loose(self.top)
        for name, split in list(self.splits.items()):
            self._read_split(self.top.folders[name], split)

    def read_splits_alone(self) -> None:
        siblings = self.top.full
        roles = {sibling.name: split_of(sibling.name) for sibling in siblings}
        if len(set(roles.values()) - {""}) < 2:
            self.places = [Place(self.top, "")]
            return

        self.splits = self._one_each([s for s in siblings if roles[s.name]], roles)
        self._note_named()
        self._note_loose(self.top, "beside the splits")
        self.places = [
            Place(self.top.folders[name], "", split) for name, split in self.splits.items()
        ]

    def _note_named(self) -> None:
        """Note the folders that are read as splits under names of their own."""
        named = [
            f"{name} is {split}"
            for name, split in self.splits.items()
            if name.lower() not in SPLIT_FOLDERS
        ]
        if named:
            self.notes.append(
                f"folders are read as splits, by their structure and names: {', '.join(named)}"
            )

    # ---- which siblings are splits ------------------------------------------------------------

    def _splits(self, siblings: Sequence[Folder]) -> dict[str, str]:
        """Return {folder: split}, empty where the siblings are classes.

        Raises:
            UserError: they may be either.
        """
        roles = {sibling.name: split_of(sibling.name) for sibling in siblings}
        trains = [s for s in siblings if roles[s.name] == "train"]
        measured = [s for s in siblings if roles[s.name] in ("val", "test")]
        strangers = [s for s in siblings if not roles[s.name]]

        if not trains:
            if not strangers and len({roles[s.name] for s in measured}) > 1:
                if not self.one_class and not any(s.core.holds_classes for s in measured):
                    raise self._flat(measured)
                return self._one_each(measured, roles)  # nothing to train on, but to measure on
            self._refuse_alike(siblings)
            return {}
        if not any(train.core.holds_classes for train in trains):
            return self._flat_splits(siblings, roles, trains, measured, strangers)
        if strangers and not measured:
            self._refuse_train_alone(trains, strangers)
            return {}
        plain = all(s.name.lower() in SPLIT_FOLDERS for s in (*trains, *measured))
        alike = any(_alike(train.core, s.core) for train in trains for s in measured)
        if strangers and not plain and not alike:
            raise UserError(
                f"{self.root}: {_names([*trains, *measured])} may be splits, by their names, or "
                f"classes as {_names(strangers)}. Name splits train, val and test, "
                "or name the classes otherwise."
            )
        return self._one_each([*trains, *measured], roles)

    def _one_each(self, named: Sequence[Folder], roles: dict[str, str]) -> dict[str, str]:
        """Return one folder for each split; one with classes counts before one without."""
        chosen: dict[str, str] = {}
        for split in ("train", "val", "test"):
            candidates = [s for s in named if roles[s.name] == split]
            candidates = [s for s in candidates if s.core.holds_classes] or candidates

            if len(candidates) > 1:
                raise UserError(
                    f"{self.root} holds several folders for one split ({split}): "
                    f"{_names(candidates)}. Keep one of them there, or merge them."
                )
            chosen.update({s.name: split for s in candidates})
        return {name: chosen[name] for name in sorted(chosen)}

    def _flat_splits(
        self,
        siblings: Sequence[Folder],
        roles: dict[str, str],
        trains: Sequence[Folder],
        measured: Sequence[Folder],
        strangers: Sequence[Folder],
    ) -> dict[str, str]:
        """Decide on folders named as splits of which the one for training has no class folders."""
        if not measured and len(trains) == 1:
            self._refuse_alike(siblings)
            return {}
        # scenes such as train_station and test_kitchen among many
        if len(strangers) > len(trains) + len(measured):
            self._refuse_alike(siblings)
            return {}
        if self.one_class and measured:
            return self._one_each([*trains, *measured], roles)
        raise self._flat([*trains, *measured])

    def _flat(self, splits: Sequence[Folder]) -> UserError:
        """Return the error for folders named as splits, the first without class folders."""
        first = splits[0]
        return UserError(
            f"{self.root} holds {_names(splits)}, but {first.path} has {first.num_photos} photos "
            "and no class folders. "
            f"Expected {first.path}/CLASS/*.jpg. A .csv file with path,label does as "
            f"well{self._metadata(first)}."
        )

    def _metadata(self, folder: Folder) -> str:
        """Return where a list of the kind that Hugging Face writes lies in a folder."""
        for name in ("metadata.csv", "metadata.jsonl"):
            path = self.root / folder.path / name
            if path.is_file():
                return f", such as {path}"
        return ""

    def _refuse_train_alone(self, trains: Sequence[Folder], strangers: Sequence[Folder]) -> None:
        """Refuse a folder train with folders in it, beside others that are not named as splits."""
        train = trains[0]
        alike = [s for s in strangers if _alike(train.core, s.core)]
        flat = [s for s in strangers if not s.holds_classes]
        if not alike and (len(train.core.full) < 2 or not flat):
            # a class of that name, such as the vehicle, with folders below it as the other classes
            # have
            return

        what = (
            "and its name does not say which split that is"
            if alike
            else "which holds no class folders"
        )
        raise UserError(
            f"{self.root}: {train.name} holds folders "
            f"({listed(f.name for f in train.core.full)}) as a split does, and "
            f"beside it is {(alike or flat)[0].name}, {what}. Name splits train, val and test; a "
            "class that is named "
            f"train, otherwise; or type the folder itself: {self.root / train.core.path}"
        )

    def _refuse_alike(self, folders: Sequence[Folder]) -> None:
        """Refuse siblings that hold folders of the same names: they may be splits or classes.

        Raises:
            UserError: there are such siblings (a note, where classes do not matter).
        """
        holders = [f for f in folders if f.core.holds_classes]
        names = {class_name(f.name).casefold() for f in folders}
        again = next((f for f in holders if len(f.core.inner_names & names) >= 2), None)
        if again is not None and not self.one_class:
            raise UserError(
                f"{self.root}: {safe(again.path)} holds folders named as those beside it "
                f"({listed(sorted(again.core.inner_names & names))}), so it may be a split of "
                "the same classes. "
                "Move the others into a folder named train and "
                "name it val or test, or take it away."
            )

        pairs = combinations(holders, 2) if len(holders) <= MANY else pairwise(holders)
        pair = next((p for p in pairs if _alike(p[0].core, p[1].core)), None)
        if pair is None:
            return

        common = sorted(pair[0].core.inner_names & pair[1].core.inner_names)
        what = (
            f"{safe(pair[0].path)} and {safe(pair[1].path)} hold folders "
            f"of the same names ({listed(common)})"
        )

        if self.one_class:
            self.notes.append(f"{what}; the outer folders are read as the classes")
            return

        raise UserError(
            f"{self.root}: {what}, so they may be splits or classes. Name splits train, val and "
            "test; or use one alone "
            f"({self.root / pair[0].core.path}); or say it in a .csv file with path,label,split."
        )

    # ---- splits inside each class -------------------------------------------------------------

    def _splits_inside(self, siblings: Sequence[Folder]) -> bool:
        """Return whether the layout is CLASS/{train,test}.

        Raises:
            UserError: some classes have splits inside and some have not.
        """
        if any(split_of(sibling.name) for sibling in siblings) or (
            len(siblings) < 2 and not self.one_class
        ):
            return False
        inside = [s for s in siblings if {split_of(f.name) for f in s.full} - {""} > {"train"}]
        if not inside:
            return False

        whole = [s for s in inside if all(split_of(f.name) for f in s.full)]
        if len(whole) < len(siblings):
            other = next(s for s in siblings if s not in whole)
            held = f"the folders {_names(other.full)}" if other.full else "photos and no folders"
            raise UserError(
                f"{self.root}: {inside[0].path} holds folders named as splits, and {other.path} "
                f"holds {held}. "
                "Expected the same splits in each class, or train/CLASS and test/CLASS."
            )

        return True

    def _read_splits_inside(self, siblings: Sequence[Folder]) -> None:
        parts = [part for sibling in siblings for part in sibling.full]
        self._refuse_alike(parts)
        names = {part.name: split_of(part.name) for part in parts}
        named = ", ".join(f"{name} is {split}" for name, split in sorted(names.items()))
        self.notes.append(
            f"the classes are {listed(s.name for s in siblings)}; "
            f"the folders inside them are splits: {named}"
        )

        for sibling in siblings:
            self._note_loose(sibling)
            for split, count in Counter(split_of(part.name) for part in sibling.full).items():
                if count > 1:
                    raise UserError(
                        f"{self.root / sibling.path} holds several folders for one split: {split}."
                    )
            self.places += [
                Place(part, class_name(sibling.name), split_of(part.name)) for part in sibling.full
            ]

        self.bases = [self.top]

    # ---- classes ------------------------------------------------------------------------------

    def _read_split(self, folder: Folder, split: str) -> None:
        """Take the classes of one split; one without classes is passed over."""
        base = folder.core
        if base is not folder:
            self.notes.append(f"the classes of {split} are read in {safe(base.path)}")

        trained = {label for train in self._training() for label in train.inner_names}
        unlabelled = len(base.full) == 1 and len(trained) > 1 and not base.inner_names & trained
        roles = {split_of(inner.name) for inner in base.full} - {""}
        if roles > {"train"} and not self.one_class:
            raise UserError(
                f"{self.root / base.path} holds folders that are named as splits themselves: "
                f"{_names(base.full)}. "
                f"If they are, type that folder: {self.root / base.path}. Classes need other names."
            )

        if self.one_class and not base.full:
            self.places.append(Place(base, class_name(self.root.resolve().name), split))
            self.bases.append(base)
        elif split != "train" and (not base.full or unlabelled):
            del self.splits[folder.name]
            if unlabelled:
                self.notes.append(
                    f"{safe(base.path)} has no folder of a class in training, "
                    f"only {base.full[0].name}"
                )
        else:
            self._refuse_alike(base.full)
            self._read_classes(base, split)

    def _training(self) -> list[Folder]:
        return [
            self.top.folders[name].core for name, split in self.splits.items() if split == "train"
        ]

    def _read_classes(self, base: Folder, split: str) -> None:
        self.bases.append(base)
        if not base.full and base.photos and self.one_class:
            self.places.append(Place(base, class_name(self.root.resolve().name), split))
            return

        self.places += [Place(inner, class_name(inner.name), split) for inner in base.full]
        self._note_loose(base)
        self._note_nested(base)
        spelled = Counter(class_name(inner.name) for inner in base.full)
        twice = [name for name, count in spelled.items() if count > 1]
        if twice:
            self.notes.append(
                "folders whose accents are written in two ways "
                f"(Unicode) are one class: {listed(twice)}"
            )

    def _note_loose(self, base: Folder, how: str = "without a class folder") -> None:
        if base.photos:
            where = safe(str(self.root / base.path))
            self.notes.append(f"{len(base.photos)} images lie in {where} {how}: passed over")

    def _note_nested(self, base: Folder) -> None:
        outer = [folder for folder in base.full if folder.full]
        if not outer:
            return
        inner = [safe(folder.path) for each in outer for folder in each.full]
        self.notes.append(
            f"the classes are the outer folders ({listed(safe(f.name) for f in base.full)}); "
            "folders below them count as "
            f"part of them: {listed(inner)}. For these as classes, move them up into "
            f"{safe(str(self.root / base.path))}"
        )

    def _note_class_named_as_split(self, siblings: Sequence[Folder]) -> None:
        named = [s.name for s in siblings if split_of(s.name)]
        if named and len(siblings) > 1:
            self.notes.append(
                f"read as classes, not as splits, since no other folders fit: {listed(named)}"
            )

    def note_what_is_left_out(self, own: Sequence[str]) -> None:
        """Note folders that give no photos: empty ones, those beside splits, tintype's own."""
        used = {place.folder.path for place in self.places}
        for base in self.bases:
            for _, folder in sorted(base.folders.items()):
                held = any(
                    path == folder.path or path.startswith(f"{folder.path}/") for path in own
                )
                if folder.path not in used and not folder.num_photos and not held:
                    self.notes.append(
                        f"class folder '{safe(folder.path)}' holds no images: passed over"
                    )

        if self.splits:
            passed = [
                name
                for name in sorted(self.top.folders)
                if name not in self.splits and name not in self.own
            ]
            if passed:
                self.notes.append(
                    "folders beside the splits are passed over: "
                    f"{listed(safe(name) for name in passed)}"
                )

        if own:
            self.notes.append(
                "folders of tintype's own runs are passed over: "
                f"{listed(safe(path) for path in own)}"
            )


def _alike(one: Folder, other: Folder) -> bool:
    """Return whether two folders hold folders of the same names, as splits of one data set do."""
    common = one.inner_names & other.inner_names
    fewer = min(len(one.inner_names), len(other.inner_names))
    return len(common) >= 2 and 2 * len(common) >= fewer


def _names(folders: Iterable[Folder]) -> str:
    return listed(safe(folder.name) for folder in folders)
