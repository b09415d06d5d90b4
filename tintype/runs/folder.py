"""The run folder: plain files that hold all that later commands need.

Each is written whole or not at all.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tintype import own_code
from tintype.errors import UserError
from tintype.files.bounded import (
    open_text,
    read_json_object,
    refuse_ways_out,
    temporary_folder,
)
from tintype.files.names import check_name
from tintype.files.system import rename, why
from tintype.files.whole import held, write_json, written_whole
from tintype.plugins import find_part
from tintype.recipe import MOST_THREADS, Recipe, read_recipe
from tintype.runs import code, remote
from tintype.runs.packed import is_packed, unpacked
from tintype.runs.shapes import check, fitting

LOCK_SECONDS = 0.5  # how long a run may be held before it counts as being trained
PHOTOS_FILE = "photos.safetensors"  # which photos the run saw, see tintype.data.identity
FOLDS_FILE = "folds.csv"  # the fold of each photo, where the run has folds
# What the best figure of a run is called whose data had no test part.
BY_VALIDATION = "validation accuracy, on photos that chose the model"


def without_test(evaluation: Mapping[str, Any]) -> bool:
    """Return whether the data of a run had no test part.

    Its figures may then only be called `BY_VALIDATION`.
    """
    return evaluation.get("tested") is False


def estimated_by(folds: int) -> str:
    """Return what is said with every figure that folds estimate."""
    return f"estimated by {folds} folds"


def shown_split(evaluation: Mapping[str, Any]) -> str:
    """Return the split whose figures stand for the model: test, folds, or else validation."""
    measured = evaluation.get("splits") or {}
    return next((split for split in ("test", "folds") if split in measured), "val")


def called(evaluation: Mapping[str, Any], figure: str = "accuracy") -> str:
    """Return what `figure` of `shown_split` has to be called; "" for that of a test part."""
    if shown_split(evaluation) == "folds":
        return f"{figure} {estimated_by(int((evaluation.get('folds') or {}).get('count') or 0))}"
    return BY_VALIDATION if without_test(evaluation) else ""


class RunFolder:
    """One run on disk.

    Files: recipe.yaml, environment.json, data.json, splits.csv, status.json, metrics.csv,
    predictions.csv, evaluation.json, photos.safetensors, model.json + model.safetensors,
    checkpoints/, samples/, figures/, report.html; with code of the user's own code.json and code/.

    Attributes:
        path: the folder.
        mirror: what uploads it while it is trained, see `tintype.runs.remote`.
    """

    mirror: remote.Mirror | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def create(
        cls, out: str | Path, name: str, *, exact: bool, recipe: Recipe | None = None
    ) -> Self:
        """Make a new folder `out`/`name`, or, unless `exact`, `name`-2, `name`-3, ... if it exists.

        It appears with its recipe in it, so that a kill leaves no folder that can neither be
        resumed nor made again, and two processes never get one name. A folder in which an earlier
        version left nothing is taken over.

        Raises:
            UserError: the name is taken (with `exact`), or the folder cannot be made.
        """
        check_name(name, "run")
        path = Path(out) / name
        number = 1
        try:
            with temporary_folder(path) as made:
                if recipe is not None:
                    cls(made).write_recipe(recipe)
                while not cls._renamed(made, path):
                    if exact:
                        cls.refuse_taken(path)
                    number += 1
                    path = Path(out) / f"{name}-{number}"
        except OSError as error:
            if path.parent.exists() and not path.parent.is_dir():
                raise UserError(f"cannot make {path}: {path.parent} is not a folder.") from None
            raise UserError(
                f"cannot make the run folder {path}: {why(error)}. Choose another --out."
            ) from None

        return cls(path)

    @classmethod
    def _renamed(cls, made: Path, path: Path) -> bool:
        """Give a new folder its name, unless something is there already."""
        cls.remove_unstarted(path)
        try:
            rename(made, path)  # over a folder only where that is empty
        except OSError:
            if os.path.lexists(path):
                return False
            raise
        return True

    @staticmethod
    def is_unstarted(path: Path) -> bool:
        """Return whether a kill or a full disk left nothing but hidden leftovers in a folder."""
        try:
            inside = list(path.iterdir())
        except OSError:
            return False
        return all(entry.name == ".lock" or entry.name.endswith(".tmp") for entry in inside)

    @classmethod
    def remove_unstarted(cls, path: Path) -> None:
        """Remove a folder that `is_unstarted`; others stay."""
        if not cls.is_unstarted(path):
            return
        with suppress(OSError):
            for entry in path.iterdir():
                entry.unlink()
            path.rmdir()

    @staticmethod
    def refuse_taken(path: Path) -> None:
        """Raise where there is something at `path` already.

        Raises:
            UserError: nothing is overwritten.
        """
        # Unlike `exists`, it does not raise for a name that is too long: making the folder does,
        # and says so.
        if os.path.lexists(path):
            raise UserError(
                f"{path} is there already, and nothing is overwritten. Choose another --name, "
                "or go on with it: "
                f"tintype train --resume {path}"
            )

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run folder, or a copy in the cache of a zip file of `tintype pack` or an address.

        Raises:
            UserError: there is no such folder, it is not a run folder, or something in it leads out
                of it.
        """
        if address := remote.address_of(path):
            path = remote.here(address)
        run = cls(unpacked(Path(path)) if is_packed(path) else path)
        if not run.path.is_dir():
            raise UserError(
                f"there is no run folder {run.path}. `tintype list runs` shows what there is."
            )
        if not (run.path / "recipe.yaml").exists():
            if (run.path / "study.yaml").exists():
                raise UserError(
                    f"{run.path} is the folder of a study, not of a run. `tintype study "
                    f"{run.path}` continues it and draws its page again; its folders are the runs."
                )
            raise UserError(
                f"{run.path} is not a run folder: it has no recipe.yaml. "
                "`tintype list runs` shows the runs."
            )

        refuse_ways_out(run.path)
        return run

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.path.resolve().name

    @property
    def root(self) -> Path:
        """The folder of all runs; those of a study or a tuning lie deeper."""
        folder = self.path.resolve().parent
        while any((folder / name).exists() for name in ("study.yaml", "tune.yaml")):
            folder = folder.parent
        return folder

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the number of threads that the run was begun with.

        Data that were given in Python and written down in the folder are read from there.
        """
        try:
            recipe = code.with_task_here(read_recipe(self.path / "recipe.yaml"), self.path)
        except UserError:
            code.refuse_missing_packages(self.path)  # which names nobody knows without them
            raise
        written = self.path / f"{own_code.plain_name(recipe.data)}.csv"
        if recipe.data.startswith(own_code.IN_PYTHON) and written.is_file():
            recipe = recipe.replace(data=str(written.resolve()))
        threads = self._recorded_threads() if recipe.threads == "auto" else None
        return recipe.replace(threads=threads) if threads else recipe

    @property
    def is_measured(self) -> bool:
        """Whether the run is measured at its end, and so has figures and a report."""
        return self.recipe.measure != "none"

    @property
    def own_code(self) -> list[dict[str, str]]:
        """What the run records of the user's own code that it needs: see `tintype.runs.code`."""
        if not (self.path / code.FILE).exists():
            return []
        return code.rows_of(self.read(code.FILE, complete=True))

    def part(self, part: str, purpose: str) -> Any:
        """Return what the task of the run offers to a verb, see `tintype.plugins.find_part`.

        Raises:
            UserError: it does not offer this part, or is the user's own and not trusted here.
        """
        for row in self.own_code:
            if row["field"] == "task":
                code.trusted_reference(self.path, row)
        return find_part(self.recipe.task, part, purpose)

    def _recorded_threads(self) -> int | None:
        """Return the threads of a run that is older than that field of the recipe, if known."""
        try:
            threads = read_json_object(self.path / "environment.json")["threads"]
        except (OSError, ValueError, KeyError):  # absent, or broken from outside
            return None
        return threads if type(threads) is int and 1 <= threads <= MOST_THREADS else None

    def read(self, file: str, *, complete: bool = False) -> Any:
        """Return the content of a JSON file of the run, its types checked.

        With `complete`, every figure has to be there as well.

        Raises:
            UserError: the file is missing (the run did not get so far) or broken.
        """
        path = self.path / file

        try:
            content = read_json_object(path)
            check(path, content, complete=complete)
            return content
        except FileNotFoundError:
            state = self.status.get("state", "unfinished")
            if file == "evaluation.json" and state == "finished" and not self.is_measured:
                raise UserError(
                    f"{self.path} has no figures: its recipe asks for none (measure: none). "
                    f"To measure it: tintype evaluate {self.path} --data DATA"
                ) from None
            raise UserError(
                f"{self.path} has no {file}: the run is {state}. Go on with: "
                f"tintype train --resume {self.path}"
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{path} is broken ({reason}). Put the file back as it was, "
                "or train the run again: "
                f"tintype train {self.path / 'recipe.yaml'}"
            ) from None

    def write(self, file: str, content: Any) -> None:
        """Write a JSON file of the run."""
        write_json(self.path / file, content)

    @property
    def status(self) -> dict[str, Any]:
        """What status.json holds; {} before the start.

        That is the state ("running", "stopped", "failed", "finished"), step, total_steps and
        seconds.
        """
        try:
            return fitting("status.json", read_json_object(self.path / "status.json"))[0]
        except (OSError, ValueError):  # absent, or broken from outside: no later step needs it
            return {}

    def set_status(self, state: str, **more: Any) -> None:
        """Write status.json."""
        self.write(
            "status.json",
            {**self.status, "state": state, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more},
        )

    def write_recipe(self, recipe: Recipe) -> None:
        """Write recipe.yaml with every field stated, and at first the code that it needs."""
        if not (self.path / code.FILE).exists():
            code.keep(self.path, recipe.own_code(), recipe.plugins())
        with written_whole(self.path / "recipe.yaml") as temporary:
            temporary.write_text(recipe.to_yaml(), encoding="utf-8")

    def write_table(self, file: str, header: list[str], rows: Any) -> None:
        """Write a CSV file of the run."""
        with (
            written_whole(self.path / file) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as out,
        ):
            writer = csv.writer(out)
            writer.writerow(header)
            writer.writerows(rows)

    def read_table(self, file: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file of the run, empty where it does not exist.

        Raises:
            UserError: it is broken.
        """
        path = self.path / file
        try:
            with open_text(path, newline="") as lines:
                return list(csv.DictReader(lines))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(
                f"{path} is broken ({getattr(error, 'strerror', None) or error})."
            ) from None

    @contextmanager
    def locked(self, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the run for this process.

        Another may hold it for a moment only to ask whether it is held, hence `seconds` of
        patience.

        Raises:
            UserError: another process is training it.
        """
        until = time.monotonic() + seconds

        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(held(self.path / ".lock", wait=False))
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise UserError(
                            f"{self.path} is being trained by another process. "
                            "Wait for it, or stop it first."
                        ) from None
                time.sleep(0.02)
            yield
