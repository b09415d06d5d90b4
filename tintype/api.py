"""The verbs, in Python: `train` makes a Run, `load` opens one; a Run evaluates, predicts and
reports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype.errors import UserError
from tintype.plugins import data_sets
from tintype.progress import Watcher, make_watcher
from tintype.recipe import ALIASES, Recipe, as_new_run, resolve
from tintype.runs.folder import RunFolder
from tintype.tracking import check_trackers, tracked

if TYPE_CHECKING:
    import numpy as np

    from tintype.pages.run_figures import RunFigures
    from tintype.tasks.task import Prediction
    from tintype.training.prepare import Prepared
    from tintype.verbs.export import Exported


class Run(RunFolder):
    """A run folder with what can be done with it."""

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of the splits "train", "val" and "test": accuracy, accuracy_ci95, loss, num_images and more.

        Raises:
            UserError: the run has not been measured yet.
        """
        return self.read("evaluation.json")["splits"]

    @property
    def history(self) -> list[dict[str, float | None]]:
        """metrics.csv as a list of rows; a figure that was not measured in a row is None."""
        return [
            {k: float(v) if v else None for k, v in row.items()}
            for row in self.read_table("metrics.csv")
        ]

    def predict(self, images: Any, *, device: str = "auto") -> Prediction | list[Prediction]:
        """Predict one image (a file, a PIL image or a NumPy array) or many (a folder, or a list of images).

        Returns:
            A Prediction for one image, a list of them for many.

        Raises:
            UserError: there is no such file, a file is not an image, or a folder holds none.
        """
        from tintype.verbs.predict.files import list_images
        from tintype.verbs.predict.opening import open_run

        predictor = open_run(self, device)
        if isinstance(images, str | Path) and Path(images).is_dir():
            images = list_images([images])
        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            return list(predictor.predict(images))
        return next(iter(predictor.predict([images])))

    def generate(
        self,
        count: int = 1,
        *,
        start: int = 0,
        seed: int = 0,
        class_name: str | int | None = None,
        truncation: float | None = None,
        interpolate: bool = False,
        device: str = "auto",
    ) -> np.ndarray:
        """Make images with a generator; image i follows from (seed, i) alone, whatever the count.

        Args:
            count: how many.
            start: index of the first one.
            seed: another seed gives other images.
            class_name: what to show, its name or a whole number that is one; by default the classes
                by turns, where the
                generator knows classes.
            truncation: bound of the noise; lower is more typical and less varied.
            interpolate: images on a way from one to the next, 8 for each stretch.
            device: where to compute.

        Returns:
            Images (N, H, W, C) uint8.

        Raises:
            UserError: the run makes no images, or an argument cannot be.
        """
        import numpy

        from tintype.tasks.generate.images import Sampler

        how = {
            "start": start,
            "seed": seed,
            "class_name": class_name,
            "truncation": truncation,
            "interpolate": interpolate,
        }
        return numpy.stack(list(Sampler.of(self, device=device).images(count, **how)))

    def upscale(self, image: Any, *, tile: int = 256, device: str = "auto") -> Any:
        """Enlarge an image: a file or a Pillow image gives a Pillow image, a NumPy array an array.

        Args:
            image: a path, a Pillow image, or (H, W) or (H, W, C) of uint8 or uint16; alpha is kept.
            tile: side of the tiles in pixels of the small image.
            device: where to compute.

        Raises:
            UserError: the run enlarges nothing, or the image cannot be read.
        """
        from tintype.tasks.upscale.upscaler import Upscaler

        return Upscaler.of(self, tile=tile, device=device)(image)

    def evaluate(
        self,
        *,
        data: str | None = None,
        split: str | None = None,
        features: str | None = None,
        inception_weights: str | None = None,
        classes: bool = False,
        groups: str | None = None,
        device: str = "auto",
    ) -> dict[str, Any]:
        """Measure the model again: on a split of its own data ("test" by default), or on another data set.

        With `data` and no split, all its images are taken. Looking at the own test split is
        counted. A generator is measured on `features` (a classifier's run folder or a weight file),
        and by FID where Inception weights are given. With `classes`, a classifier's figures hold
        precision, recall and F1 of each class, and their averages. `groups` says which images of
        `data` belong together ("{group}_*.jpg", a regular expression, "exif:60s").

        Returns:
            The figures: accuracy, accuracy_ci95, loss, num_images and more.

        Raises:
            UserError: the data is not there, has other classes, or is no longer what the run was
                trained on.
        """
        from tintype.verbs.evaluate import evaluate_run

        watcher = make_watcher()
        try:
            return evaluate_run(
                self, data=data, split=split, device=device, features=features, inception_weights=inception_weights,
                classes=classes, groups=groups, progress=watcher.on_work,
            )  # fmt: skip
        finally:
            watcher.close()

    def export(
        self,
        *,
        format: str = "onnx",
        int8: bool = False,
        fp16: bool = False,
        out: str | Path | None = None,
        data: str | None = None,
        max_loss: float | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Exported:
        """Write the model as one file for other programs, with all preprocessing inside; checked before it is kept.

        Args:
            format: "onnx", "torchscript" or "pt2".
            int8: quantise to 8 bits, calibrated on validation images (ONNX only).
            fp16: weights and arithmetic of the network in float16.
            out: the file, which must be new; RUN/exports/NAME by default.
            data: other images to check on, where the run's own are gone.
            max_loss: how much a quantised model may lose: points of accuracy (2 by default), or dB
                (0.3).
            progress: called as progress(what, done, total).

        Raises:
            UserError: the run has no finished model, something is missing, or the exported model
                does not agree.
        """
        from tintype.verbs.export import export_run

        out = None if out is None else Path(out)
        return export_run(
            self,
            format=format,
            int8=int8,
            fp16=fp16,
            out=out,
            data=data,
            max_loss=max_loss,
            progress=progress,
        )

    def card(self, out: str | Path | None = None, *, licence: str | None = None) -> Path | str:
        """Write a model card: what the model is, how good, where it fails, how to use it.

        Args:
            out: the file; MODEL_CARD.md of the run by default, which is made again. "-" returns the
                text.
            licence: identifier of the licence of the weights, such as "apache-2.0"; none is
                assumed.

        Raises:
            UserError: the run is not finished, or another file is there already.
        """
        from tintype.files.whole import written_whole
        from tintype.verbs.share.card import make_card

        text = make_card(self, licence=licence)
        if str(out) == "-":
            return text
        path = self.path / "MODEL_CARD.md" if out is None else Path(out)
        if out is not None and path.exists():
            raise UserError(
                f"{path} is there already, and nothing is overwritten. Choose another --out."
            )
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    def pack(self, out: str | Path | None = None) -> Path:
        """Make one zip file that `tintype.load` opens elsewhere, and return its path; NAME.zip by default.

        Raises:
            UserError: the run is not finished, or the file is there already.
        """
        from tintype.runs.packed import pack

        for name in ("model.json", "evaluation.json"):
            self.read(name)  # which says what is missing of a run that is not finished
        target = Path(f"{self.name}.zip") if out is None else Path(out)
        if target.suffix.lower() != ".zip":
            raise UserError(f"--out {target}: expected a file that ends in .zip.")
        pack(self.path, target)
        return target

    def report(self) -> Path:
        """Write report.html and its figures again, and return the path of the page.

        They are made from the files of the folder alone.
        """
        from tintype.pages.report import write_report

        return write_report(self.path)

    @property
    def figures(self) -> RunFigures:
        """Return the figures of the report as objects.

        `run.figures.history()`, `.confusion()`, `.mistakes()` and so on.
        """
        from tintype.pages.run_figures import RunFigures

        return RunFigures(self.path)

    def result(self) -> dict[str, Any]:
        """Return what `tintype train --json` prints.

        That is run, parameters, multiply_adds, seconds, and the figures by split.
        """
        model, environment = self.read("model.json"), self.read("environment.json")
        return {
            "run": str(self.path),
            "parameters": model["parameters"],
            "multiply_adds": model["multiply_adds"],
            "seconds": environment["seconds"],
            "warnings": self.read("evaluation.json").get("warnings", []),
            **self.metrics,
        }

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status.get('state', 'empty')})"

    def _repr_html_(self) -> str:
        from tintype.pages.run_figures import run_card

        return run_card(self.path)


def plan(
    what: str | Recipe,
    *,
    watcher: Watcher | None = None,
    verbose: bool | None = None,
    **changes: Any,
) -> Prepared:
    """Resolve and check everything that `train` would do, and stop there (`--dry-run`)."""
    from tintype.training.automatic import open_settings
    from tintype.training.prepare import prepare

    watcher = watcher or make_watcher(quiet=verbose is False)
    recipe, kind = (what, "a Recipe") if isinstance(what, Recipe) else resolve(str(what))
    base, changed = recipe, {ALIASES.get(key, key) for key in changes}
    recipe, choices, free = open_settings(
        base, _with_absolute_paths(recipe.replace(**changes)), changed, kind
    )
    recipe = as_new_run(recipe)
    own_recipe = kind == "a Recipe" or kind.startswith("recipe file")
    asked = recipe.stated().keys() if own_recipe else changed
    check_trackers(recipe.track)
    watcher.note(f"training {kind}")
    prepared = prepare(recipe, watcher, asked, choices, free=free)
    # afterwards, since a loader that reads the folder says better what belongs into it
    _check_there(recipe)
    for line in prepared.lines(verbose=bool(verbose)):
        watcher.note(line)
    watcher.close()
    return prepared


def train(
    what: str | Recipe | None = None,
    *,
    out: str | Path = "runs",
    name: str | None = None,
    resume: str | Path | None = None,
    watcher: Watcher | None = None,
    verbose: bool | None = None,
    command: str | None = None,
    **changes: Any,
) -> Run:
    """Train a model and measure it: on validation while it trains, once on test at the end.

    Args:
        what: a recipe's name or file, a data set's name, a folder of images, or a Recipe; "digits"
            by default.
        out: folder in which the run folder is made.
        name: name of the run folder; must be new. By default that of the recipe, with a number
            where it is taken.
        resume: a run folder to go on with; everything else is then read from its recipe. Only
            `data` and `data_root`
            may be given as well, where the same photos now are somewhere else.
        watcher: who is told of progress; by default a bar on a terminal, a curve in a notebook,
            lines elsewhere.
        verbose: False prints nothing, True also how the run uses the machine.
        command: how to repeat the run, for the report.
        changes: any field of the recipe, as in `epochs=5, lr=0.01`.

    Returns:
        The finished Run.

    Raises:
        UserError: a mistake that can be mended; the message says how.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    from tintype.training.prepare import prepare, train_run
    from tintype.training.signals import interruptible

    watcher = watcher or make_watcher(quiet=verbose is False)
    if resume is not None:
        moved = {key: value for key, value in changes.items() if key in ("data", "data_root")}
        if what is not None or name is not None or len(moved) < len(changes):
            raise UserError(
                f"resume goes on with the recipe that lies in the run. Type only: tintype train --resume {resume}, "
                "with --data or --data-root where the photos were moved."
            )
        run = Run.open(resume)
        if run.status.get("state") == "finished":
            _check_there(run.recipe.replace(**moved), moved)
            watcher.note(f"{run.path} is finished; nothing is left to do")
            for key in moved:
                watcher.note(
                    f"warning: --{key.replace('_', '-')} changes nothing of a finished run"
                )
            if not (run.path / "report.html").exists():  # stopped while it was written
                watcher.note(f"report: {run.report()}")
            return run
        recipe = _with_absolute_paths(run.recipe.replace(**moved)) if moved else run.recipe
        try:
            prepared = prepare(recipe, watcher)
        except UserError as error:
            gone = [path for path in (recipe.data, recipe.data_root) if path and path in str(error)]
            if not gone:
                raise
            raise UserError(
                f"{error}\nIf the photos were moved, unchanged: tintype train --resume {resume} --data NEW "
                "(or --data-root NEW)"
            ) from None
        command = (
            run.read("environment.json")["command"]
            if (run.path / "environment.json").exists()
            else command
        )
    else:
        what = "digits" if what is None else what
        if name is not None:
            Run.remove_unstarted(Path(out) / name)
            Run.refuse_taken(Path(out) / name)  # at once, not after the data was read
        prepared = plan(what, watcher=watcher, verbose=verbose, **changes)
        run = Run.create(
            out, name or _default_name(what), exact=name is not None, recipe=prepared.recipe
        )
    watcher.note(f"run: {run.path}")
    with interruptible(run.path), tracked(run, prepared.recipe, watcher) as watcher:
        train_run(run, prepared, watcher, command or _python_call(what, changes))
        watcher.note(f"report: {run.report()}")
    return run


def _check_there(recipe: Recipe, named: Collection[str] = ("data_root",)) -> None:
    """Raise where a place that the user has named does not exist, also where the data set at hand needs none.

    Raises:
        UserError: it does not.
    """
    root = recipe.data_root
    if "data_root" in named and root and not Path(root).expanduser().is_dir():
        raise UserError(
            f"there is no folder {root}. Expected one for --data-root that holds the files of the data set."
        )
    if "data" in named and not _is_set(recipe) and not Path(recipe.data).expanduser().exists():
        raise UserError(f"there is no folder or file '{recipe.data}' (looked from {Path.cwd()}).")


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with paths that hold from every folder, so that the run can be resumed from
    any.
    """
    changes: dict[str, Any] = (
        {"data_root": str(Path(recipe.data_root).expanduser().resolve())}
        if recipe.data_root
        else {}
    )
    for option, file in recipe.options.places().items():
        if Path(file).expanduser().exists():
            changes[option] = str(Path(file).expanduser().resolve())

    weights = recipe.fields().get("weights")
    if weights and weights not in ("default", "none"):
        changes["weights"] = str(Path(weights).expanduser().resolve())
    if recipe.data and not _is_set(recipe) and Path(recipe.data).expanduser().exists():
        changes["data"] = str(Path(recipe.data).expanduser().resolve())
    return recipe.replace(**changes) if changes else recipe


def _is_set(recipe: Recipe) -> bool:
    return recipe.data in data_sets(recipe.task)


def _default_name(what: str | Recipe) -> str:
    if isinstance(what, Recipe):
        what = what.data
    path = Path(what).expanduser().resolve()
    return (
        path.stem
        if path.suffix.lower() in (".yaml", ".yml", ".csv", ".tsv", ".jsonl")
        else path.name
    ) or "run"


def _python_call(what: str | Recipe | None, changes: dict[str, Any]) -> str:
    arguments = [
        "recipe" if isinstance(what, Recipe) else repr(what),
        *(f"{k}={v!r}" for k, v in changes.items()),
    ]
    return f"tintype.train({', '.join(arguments)})"
