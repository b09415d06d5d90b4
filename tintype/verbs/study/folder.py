"""The folder of a study: study.yaml (what was declared), study.json (how far each run is), and the
runs themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from tintype.errors import UserError
from tintype.files.bounded import is_temporary, read_json_object, refuse_ways_out
from tintype.files.whole import held, write_json, written_whole
from tintype.recipe import NEW_RULES, NEW_SPLIT_RULE, Recipe
from tintype.runs.folder import RunFolder
from tintype.runs.shapes import fitting
from tintype.training.engine import FREE_TO_CHANGE
from tintype.verbs.study.declaration import Declaration, PlannedRun
from tintype.verbs.study.reading import declare


class StudyFolder:
    """A study on disk: its declaration, its planned runs, and the record of what became of each.

    The record holds, for each run by name: state ("waiting", "running", "finished", "failed",
    "stopped"), the message of a failure, the seconds that it took in all, and the recipe that it
    was begun with. Several processes may write it, each what became of its own runs.
    """

    def __init__(self, path: Path, declaration: Declaration) -> None:
        self.path, self.declaration = path, declaration
        self.planned: list[PlannedRun] = _divided_as_before(path, declaration.runs())
        self.record: dict[str, dict[str, Any]] = {}
        self.read_record()

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the folder of a study.

        Raises:
            UserError: it is none.
        """
        path = Path(path)
        if not (path / "study.yaml").is_file():
            raise UserError(f"{path} is not the folder of a study: it holds no study.yaml.")
        refuse_ways_out(path)
        return cls(path, declare(path))

    @staticmethod
    def make_folder(path: Path) -> None:
        """Make the folder of a study, unless it is there.

        Raises:
            UserError: something else is there, or it cannot be made.
        """
        if not (path / "study.yaml").exists() and is_occupied(path):
            raise UserError(
                f"{path} is there already and is not a study. Choose another --name or --out."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make {path}: {error.strerror}. Choose another --out."
            ) from None

    @classmethod
    def create(cls, path: Path, declaration: Declaration) -> Self:
        """Make the folder, or go on with the one that is there.

        Raises:
            UserError: something else is there, or its runs were begun with other recipes.
        """
        cls.make_folder(path)
        refuse_ways_out(path)
        study = cls(path, declaration)
        study._refuse_other_recipes()
        with written_whole(path / "study.yaml") as temporary:
            text = declaration.to_yaml(path.resolve().name)
            temporary.write_text(text, encoding="utf-8")
        return study

    def run(self, planned: PlannedRun) -> RunFolder:
        """Return the folder of a run, which may not be there yet."""
        return RunFolder(self.path / planned.name)

    def is_done(self, planned: PlannedRun) -> bool:
        """Return whether nothing of a run is left to do."""
        run = self.run(planned)
        return run.status.get("state") == "finished" and (run.path / "report.html").exists()

    def waiting(self) -> list[PlannedRun]:
        """Return the runs that are left, in order."""
        return [planned for planned in self.planned if not self.is_done(planned)]

    def note(
        self, planned: PlannedRun, state: str, *, message: str = "", seconds: float = 0.0
    ) -> None:
        """Write down what became of a run; `seconds` are added to those before."""
        with self._record_to_change() as record:
            before = record.get(planned.name, {})
            record[planned.name] = {
                "state": state,
                "message": message,
                "seconds": round((before.get("seconds") or 0.0) + seconds, 3),
                "recipe": planned.recipe.model_dump(mode="json", exclude_unset=True),
            }

    def save(self) -> None:
        """Write study.json, with the runs that it does not have yet."""
        with self._record_to_change() as record:
            for planned in self.planned:
                if planned.name not in record:
                    state = "finished" if self.is_done(planned) else "waiting"
                    record[planned.name] = {"state": state}

    def forget_failures(self) -> None:
        """Let the runs that have failed be tried again."""
        with self._record_to_change() as record:
            for row in record.values():
                if row.get("state") == "failed":
                    row["state"] = "waiting"

    @contextmanager
    def _record_to_change(self) -> Iterator[dict[str, dict[str, Any]]]:
        """Yield the record as other processes have left it, and write it back."""
        with held(self.path / ".record.lock"):
            self.read_record()
            yield self.record
            write_json(
                self.path / "study.json",
                {"question": self.declaration.question, "runs": self.record},
            )

    def failures(self) -> dict[str, str]:
        """Return why runs failed, by name."""
        names = [planned.name for planned in self.planned]
        return {
            n: self.record[n].get("message") or ""
            for n in names
            if self.record.get(n, {}).get("state") == "failed"
        }

    def left_over(self) -> list[str]:
        """Return runs in the folder that the declaration does not have (any more)."""
        names = {planned.name for planned in self.planned}
        found = [path.parent for path in self.path.glob("*/recipe.yaml")]
        return sorted(
            path.name for path in found if path.name not in names and not is_temporary(path)
        )

    def read_record(self) -> None:
        """Read study.json, which other processes may have written since."""
        try:
            found = fitting("study.json", read_json_object(self.path / "study.json"))[0]
            self.record = dict(found["runs"])
        # absent, or broken from outside: the runs themselves tell
        except (OSError, ValueError, KeyError):
            self.record = {}

    def _refuse_other_recipes(self) -> None:
        for planned in self.planned:
            before = self.record.get(planned.name, {}).get("recipe")
            if before is None or not (self.path / planned.name).exists():
                continue

            now = planned.recipe.model_dump(mode="json", exclude_unset=True)
            # Earlier studies had no such fields; the rules are those of the runs that were begun.
            younger = {"split_rule", "rules", "threads"} - before.keys()
            free = FREE_TO_CHANGE - {"threads"} | younger

            changed = [
                k for k in _keys(before, now) if k not in free and before.get(k) != now.get(k)
            ]
            if changed:
                raise UserError(
                    f"{self.path / planned.name} was begun with {changed[0]} "
                    f"{_said(before, changed[0])}, and now it is "
                    f"{_said(now, changed[0])}. Choose another --name, or leave it as it was."
                )


def _by_the_rules_of(first: Recipe, planned: PlannedRun) -> PlannedRun:
    rules: dict[str, Any] = {"split_rule": first.split_rule}
    if "rules" not in planned.recipe.stated():
        rules["rules"] = first.rules
    return replace(planned, recipe=planned.recipe.replace(**rules))


def _divided_as_before(path: Path, planned: list[PlannedRun]) -> list[PlannedRun]:
    """Return the runs with the rules by which the study was begun, so that all are comparable."""
    for begun in planned:
        if not (path / begun.name / "recipe.yaml").is_file():
            continue
        with suppress(UserError):  # a recipe that cannot be read is reported when its run continues
            first = RunFolder(path / begun.name).recipe
            if (first.split_rule, first.rules) == (NEW_SPLIT_RULE, NEW_RULES):
                return planned
            return [_by_the_rules_of(first, one) for one in planned]
    return planned


def is_occupied(path: Path, *, but_for: Sequence[str] = ()) -> bool:
    """Return whether something of the user's is at `path`; hidden files are what an earlier attempt
    has left.
    """
    if not path.is_dir():
        return path.exists()
    return any(
        not inside.name.startswith(".") and inside.name not in but_for for inside in path.iterdir()
    )


def remove_unstarted(path: Path) -> None:
    """Remove the empty folder of a run that was killed before anything was written in it.

    Raises:
        UserError: it holds something.
    """
    RunFolder.remove_unstarted(path)
    if path.exists():
        raise UserError(
            f"{path} is in the way: it is not a run, and not empty. Move it, "
            "or choose another --name."
        )


def _keys(*mappings: dict[str, Any]) -> Iterable[str]:
    return dict.fromkeys(key for mapping in mappings for key in mapping)


def _said(recipe: dict[str, Any], key: str) -> str:
    return repr(recipe[key]) if key in recipe else "left open"
