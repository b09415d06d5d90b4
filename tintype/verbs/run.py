"""A run with what can be done with it: evaluate, predict, generate, upscale, export and report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from tintype.errors import UserError
from tintype.interface.calls import public_methods
from tintype.interface.cards import Predictions
from tintype.interface.lazy import Lazy
from tintype.interface.tables import ConfusionMatrix, Figures, Table
from tintype.own_code import called
from tintype.progress import Progress, working
from tintype.runs.folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
    from torch import nn

    from tintype.pages import run_figures
    from tintype.tasks.contract.network_predictor import NetworkPredictor
    from tintype.tasks.contract.predict import Predictor
    from tintype.tasks.task import Prediction
    from tintype.verbs import export as exporting
    from tintype.verbs.similar import result as finding
else:
    exporting = Lazy("tintype.verbs.export")
    finding = Lazy("tintype.verbs.similar.result")
    nn = Lazy("torch.nn")
    np = Lazy("numpy")
    run_figures = Lazy("tintype.pages.run_figures")
    torch = Lazy("torch")


MODEL_FILES = ("model.json", "model.safetensors", "graph.onnx")
# What a user may use of the folder itself.
FOR_USERS = ("name", "path", "read", "read_table", "recipe", "status")
BATCH_SIZE = 64  # images that are computed at once unless a caller says otherwise

T = TypeVar("T")


@public_methods
class Run(RunFolder):
    """A run folder with what can be done with it.

    A model that was loaded stays loaded until its files change, `close` is called, or the Run is
    forgotten. A pickled Run is its path alone.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._loaded: dict[tuple[str, str], tuple[object, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Run.__init__(self, state["path"])

    def __dir__(self) -> list[str]:
        """List what a user may use; how a run folder is written is no part of it."""
        inherited = [name for name in super().__dir__() if name.startswith("_")]
        own = [name for name in vars(Run) if not name.startswith("_")]
        return sorted({*inherited, *own, *FOR_USERS})

    def delete(self) -> None:
        """Delete the run folder with all that is in it, without asking.

        Raises:
            UserError: it is no run folder, is being trained, or cannot be deleted.
        """
        from tintype.runs.catalogue import delete_run

        self.close()
        delete_run(self)

    def close(self) -> None:
        """Forget the loaded model, so that its memory is free again; the next call loads it."""
        self._loaded.clear()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the network's outputs; () where the run knows none."""
        return tuple(self.read("data.json")["class_names"])

    @property
    def model(self) -> nn.Module:
        """The network, in eval mode on the CPU, as PyTorch uses it.

        It takes what `preprocess` returns, in batches, and gives the raw output: logits (N, K) of a
        classifier, before the temperature and without test-time views. It is yours to change or
        move; what `predict` answers does not follow it.

        Raises:
            UserError: the run has no finished model.
        """

        def load() -> nn.Module:
            import torch

            from tintype.runs.model import load_model

            return load_model(self, torch.device("cpu"), whole=True)[0]

        return self._kept("model", "cpu", load)

    def preprocess(self, image: Any) -> torch.Tensor:
        """Return an image as `model` takes it: (C, H, W) float32 on the CPU, normalised.

        Args:
            image: a file, its bytes, a Pillow image or an array, as for `predict`.

        Raises:
            UserError: it cannot be read, or runs of this task do not predict.
        """
        import numpy

        from tintype.verbs.predict.inputs import given_images

        predictor = self._network_predictor("cpu")
        given = given_images(image, predictor.channels)
        if given.form != "one":
            raise UserError(
                "preprocess takes one image. Of many: [run.preprocess(i) for i in ...]."
            )
        pixels = [predictor.pixels(one) for _, one in given.images]
        return predictor.shown(numpy.stack(pixels))[0]  # of a copy, which torch may write to

    def embed(
        self,
        images: Any,
        *,
        device: str = "auto",
        batch_size: int = BATCH_SIZE,
        verbose: bool | None = None,
    ) -> np.ndarray:
        """Return the features of images: what the network's last layer with weights sees.

        Of a head with hidden layers it is the last of them. A layer of maps or tokens is averaged
        over its places.

        Args:
            images: one or many, as for `predict`.
            device: where to compute.
            batch_size: how many images are computed at once.
            verbose: False shows no progress.

        Returns:
            Features (N, F) float32. The row of a file among others that cannot be read is NaN, and
            a warning counts them.

        Raises:
            UserError: no image can be read, or runs of this task do not predict.
        """
        predictor = self._network_predictor(device, batch_size)
        try:
            return self._stacked(predictor, predictor.features, images, verbose)
        except ValueError as error:
            raise UserError(f"{self.path} has no features: {error}") from None

    def similar(
        self,
        photo: Any,
        folder: str | Path | Sequence[str | Path],
        *,
        top: int = 12,
        device: str = "auto",
        verbose: bool | None = None,
    ) -> finding.Similar:
        """Find the photos of a folder that are most like one photo, by what this network sees.

        Args:
            photo: a file, its bytes, a Pillow image or an array. Where it is in the folder itself,
                it is left out.
            folder: a folder, searched with those below it, or files and folders.
            top: how many are found.
            device: where to compute.
            verbose: False shows no progress.

        Returns:
            What `tintype.similar` returns: `.table()`, `.write("like.html")`.

        Raises:
            UserError: the photo cannot be read, there are no others, or the run has no features.
        """
        from tintype.verbs.similar import find

        predictor = self._network_predictor(device)
        with working(verbose) as report:
            return find(predictor, self.name, photo, folder, top=top, progress=report)

    def predict_proba(
        self,
        images: Any,
        *,
        device: str = "auto",
        batch_size: int = BATCH_SIZE,
        verbose: bool | None = None,
    ) -> np.ndarray:
        """Return class probabilities (N, K) float32, in the order of `class_names`.

        They are those of `predict`: calibrated, and averaged over the views of test-time
        augmentation.

        Args:
            images: one or many, as for `predict`. The row of a file among others that cannot be
                read is NaN, and a warning counts them.
            device: where to compute.
            batch_size: how many images are computed at once.
            verbose: False shows no progress.

        Raises:
            UserError: no image can be read, or the run is no classifier.
        """
        from tintype.tasks.contract.predict import GivesProbabilities

        predictor = self._predictor(device, batch_size)
        if not isinstance(predictor, GivesProbabilities):
            raise UserError(
                f"{self.path} is a run of task {called(self.recipe.task)}, which knows no classes "
                "and so gives no probabilities. Use run.predict."
            )
        return self._stacked(predictor, predictor.probabilities, images, verbose)

    def _kept(self, what: str, device: str, load: Callable[[], T]) -> T:
        """Return what `load` loads, once for as long as the files of the model stay the same."""
        files = tuple(_identity(self.path / name) for name in MODEL_FILES)
        known, loaded = self._loaded.get((what, device), (None, None))
        if known != files:
            loaded = load()
            self._loaded[what, device] = (files, loaded)
        return cast(T, loaded)

    def _stacked(
        self,
        predictor: Predictor,
        compute: Callable[[np.ndarray], np.ndarray],
        images: Any,
        verbose: bool | None,
    ) -> np.ndarray:
        from tintype.verbs.predict.inputs import given_images
        from tintype.verbs.predict.pipeline import stacked

        given = given_images(images, predictor.channels)
        if given.form != "many":
            return stacked(predictor, given.images, compute)
        with working(verbose) as report:
            counted = _counted(given.images, "predicting", given.total, report)
            return stacked(predictor, counted, compute, decoders=given.decoders)

    def _predictor(self, device: str, batch_size: int = BATCH_SIZE) -> Predictor:
        from tintype.verbs.predict.opening import open_run

        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}. Expected a whole number of at least 1.")
        predictor = self._kept("predictor", device, lambda: open_run(self, device))
        predictor.batch_size = int(batch_size)
        return predictor

    def _network_predictor(
        self, device: str, batch_size: int = BATCH_SIZE
    ) -> NetworkPredictor[Any]:
        from tintype.tasks.contract.network_predictor import NetworkPredictor

        predictor = self._predictor(device, batch_size)
        if not isinstance(predictor, NetworkPredictor):  # of a task of the user's own
            raise UserError(
                f"{self.path} is a run of task {called(self.recipe.task)}, whose network tintype "
                "does not look into. Use run.model."
            )
        if predictor.outdated:
            self.close()
            return self._network_predictor(device, batch_size)
        return predictor

    @property
    def metrics(self) -> Figures:
        """The figures of the splits "train", "val" and "test" (or "folds"), as a dictionary.

        They are accuracy, accuracy_ci95, loss, num_images and more: `metrics["test"]["accuracy"]`.
        `metrics.frame()` is a pandas frame of them.

        Raises:
            UserError: the run has not been measured yet.
        """
        return Figures(self.read("evaluation.json")["splits"])

    @property
    def per_class(self) -> Table:
        """Precision, recall, F1 and support of each class, as a list of dictionaries.

        They are of the test split or of all folds, or of validation where the run has no test part.
        `per_class.frame()` is a pandas frame of them.

        Raises:
            UserError: the run has not been measured yet, or knows no classes.
        """
        return Table(self._by_split("per_class"))

    @property
    def confusion_matrix(self) -> ConfusionMatrix:
        """How often images of each class (rows) got each answer (columns), an array (K, K).

        It is of the test split or of all folds, or of validation where the run has no test part.
        `confusion_matrix.frame()` is a pandas frame of it.

        Raises:
            UserError: the run has not been measured yet, or knows no classes.
        """
        return ConfusionMatrix.of(self._by_split("confusion"), self.class_names)

    @property
    def history(self) -> Table:
        """metrics.csv as a list of rows; a figure that was not measured in a row is None.

        `history.frame()` is a pandas frame of it.
        """
        return Table(
            {k: float(v) if v else None for k, v in row.items()}
            for row in self.read_table("metrics.csv")
        )

    def _by_split(self, what: str) -> Any:
        by_split = self.read("evaluation.json").get(what) or {}
        found = next(
            (by_split[split] for split in ("test", "folds", "val") if split in by_split), None
        )
        if found is None:
            raise UserError(
                f"{self.path} is a run of task {called(self.recipe.task)}, whose answers are no "
                "classes. "
                "Its figures are in run.metrics."
            )
        return found

    @overload
    def predict(
        self,
        images: str | Path | bytes | Image,
        *,
        device: str = ...,
        batch_size: int = ...,
        verbose: bool | None = ...,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: np.ndarray | torch.Tensor,
        *,
        device: str = ...,
        batch_size: int = ...,
        verbose: bool | None = ...,
    ) -> Any: ...

    @overload
    def predict(
        self,
        images: Iterator[Any],
        *,
        device: str = ...,
        batch_size: int = ...,
        verbose: bool | None = ...,
    ) -> Iterator[Prediction]: ...

    @overload
    def predict(
        self,
        images: Iterable[Any],
        *,
        device: str = ...,
        batch_size: int = ...,
        verbose: bool | None = ...,
    ) -> Predictions[Prediction]: ...

    def predict(
        self,
        images: Any,
        *,
        device: str = "auto",
        batch_size: int = BATCH_SIZE,
        verbose: bool | None = None,
    ) -> Any:
        """Predict one image or many.

        Args:
            images: one: a file, its bytes, a Pillow image, an array (H, W) or (H, W, C), a tensor
                (C, H, W). Many: a list of these, a batch (N, H, W), (N, H, W, C) or (N, C, H, W), a
                pandas Series, a DataFrame with a column of paths, a folder, a pattern such as
                "photos/*.jpg". A stream: a generator, of which `batch_size` images are read at a
                time. Values are uint8, or floats of 0..1 or 0..255.
            device: where to compute.
            batch_size: how many images are computed at once.
            verbose: False shows no progress.

        Returns:
            A Prediction for one image, a list of them for many, an iterator of them for a stream.
            A file among many that cannot be read loses no other: its prediction holds the reason in
            `error`, and a warning counts them.

        Raises:
            UserError: one image cannot be read, or none of many; an object is no image, or runs of
                this task do not predict.
        """
        from tintype.verbs.predict.inputs import given_images
        from tintype.verbs.predict.pipeline import predictions

        predictor = self._predictor(device, batch_size)
        given = given_images(images, predictor.channels)
        answers = predictions(predictor, given.images, decoders=given.decoders)
        if given.form == "stream":
            return answers
        if given.form == "many":
            with working(verbose) as report:
                counted = _counted(answers, "predicting", given.total, report)
                return Predictions(counted)
        answer = next(answers)
        if answer.error:
            raise UserError(answer.error)
        return answer

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
        verbose: bool | None = None,
    ) -> np.ndarray:
        """Make images with a generator; image i follows from (seed, i) alone, whatever the count.

        Args:
            count: how many.
            start: index of the first one.
            seed: another seed gives other images.
            class_name: what to show: a class, by its name or, where that is a number, as one; by
                default each class in turn, if the generator knows classes.
            truncation: bound of the noise; lower is more typical and less varied.
            interpolate: blend each image into the next, in 8 steps.
            device: where to compute.
            verbose: False shows no progress, and keeps libraries silent too.

        Returns:
            Images (N, H, W, C) uint8.

        Raises:
            UserError: the run makes no images, or an argument cannot be.
        """
        import numpy

        how = {
            "start": start,
            "seed": seed,
            "class_name": class_name,
            "truncation": truncation,
            "interpolate": interpolate,
        }
        part = self.part("images", "make images")
        made = part.Sampler.of(self, device=device).images(count, **how)
        with working(verbose) as report:
            return numpy.stack(list(_counted(made, "generating", count, report)))

    def upscale(
        self, image: Any, *, tile: int = 256, device: str = "auto", verbose: bool | None = None
    ) -> Any:
        """Enlarge an image: a file or a Pillow image gives a Pillow image, a NumPy array an array.

        Args:
            image: a path, a Pillow image, or (H, W) or (H, W, C) of uint8 or uint16; alpha is kept.
            tile: side of the tiles in pixels of the small image.
            device: where to compute.
            verbose: False shows no progress, and keeps libraries silent too.

        Raises:
            UserError: the run enlarges nothing, or the image cannot be read.
        """
        part = self.part("upscaler", "enlarge pictures")
        upscaler = part.Upscaler.of(self, tile=tile, device=device)
        with working(verbose) as report:
            return upscaler(image, lambda done, total: report("upscaling", done, total))

    def evaluate(
        self,
        *,
        data: Any = None,
        split: str | None = None,
        splits: Any = None,
        features: str | None = None,
        inception_weights: str | None = None,
        classes: bool = False,
        groups: Any = None,
        sample_weight: Any = None,
        columns: Mapping[str, str] | None = None,
        device: str = "auto",
        verbose: bool | None = None,
    ) -> dict[str, Any]:
        """Measure the model once more.

        It is measured on a split of its own data ("test" by default), or on another data set. With
        `data` and no split, all its images are taken. Looking at the own test split is counted. A
        generator is measured on `features` (a classifier's run folder or a weight file), and by FID
        where Inception weights are given. With `classes`, a classifier's figures hold precision,
        recall and F1 of each class, and their averages. `groups` says which images of `data` belong
        together ("{group}_*.jpg", a regular expression, "exif:60s").

        `data` may be in memory, as in `tintype.train`, with `splits`, `groups` and `columns`. A
        run on data in memory is measured on a split of its own by giving it the same data again,
        with the same `splits`, `groups` and `sample_weight`.

        `verbose=False` shows no progress, and keeps libraries silent too.

        Returns:
            The figures: accuracy, accuracy_ci95, loss, num_images and more.

        Raises:
            UserError: the data is not there, has other classes, or is no longer what the run was
                trained on.
        """
        from tintype.data.memory import fields_of
        from tintype.verbs.evaluate import evaluate_run

        said = {"splits": splits, "groups": groups, "sample_weight": sample_weight}
        fields = fields_of(data, **said, columns=columns)
        groups = fields.get("groups")
        with working(verbose) as report:
            return evaluate_run(
                self,
                data=fields.get("data"),
                split=split,
                device=device,
                features=features,
                inception_weights=inception_weights,
                classes=classes,
                groups=groups,
                progress=report,
            )

    def export(
        self,
        *,
        format: str = "onnx",
        int8: bool = False,
        fp16: bool = False,
        out: str | Path | None = None,
        data: Any = None,
        max_loss: float | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        verbose: bool | None = None,
    ) -> exporting.Exported:
        """Write the model as one file for other programs, with all preprocessing inside.

        It is checked before it is kept.

        Args:
            format: "onnx", "torchscript" or "pt2".
            int8: quantise to 8 bits, calibrated on validation images (ONNX only).
            fp16: weights and arithmetic of the network in float16.
            out: the file, which must be new; RUN/exports/NAME by default.
            data: other images to check on, where the run's own are gone or no longer in memory.
            max_loss: how much a quantised model may lose: points of accuracy (2 by default), or dB
                (0.3).
            progress: called as progress(what, done, total); by default a bar or lines show it.
            verbose: False shows no progress, and keeps libraries silent too.

        Raises:
            UserError: the run has no finished model, something is missing, or the exported model
                does not agree.
        """
        from tintype.data.memory import fields_of
        from tintype.verbs.export import export_run

        out = None if out is None else Path(out)
        with working(verbose, progress) as report:
            return export_run(
                self,
                format=format,
                int8=int8,
                fp16=fp16,
                out=out,
                data=fields_of(data).get("data"),
                max_loss=max_loss,
                progress=report,
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
                f"{path} already exists and will not be overwritten. Choose another --out."
            )
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    def pack(self, out: str | Path | None = None) -> Path:
        """Make one zip file that `tintype.load` opens elsewhere, and return its path.

        It is NAME.zip by default.

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
    def figures(self) -> run_figures.RunFigures:
        """Return the figures of the report as objects.

        `run.figures.history()`, `.confusion()`, `.mistakes()` and so on.
        """
        return run_figures.RunFigures(self.path)

    def result(self) -> dict[str, Any]:
        """Return what `tintype train --json` prints.

        That is run, parameters, multiply_adds, seconds, and the figures by split.
        """
        model, environment = self.read("model.json"), self.read("environment.json")
        evaluation = self.read("evaluation.json") if self.is_measured else {"splits": {}}
        return {
            "run": str(self.path),
            "parameters": model["parameters"],
            "multiply_adds": model["multiply_adds"],
            "seconds": environment["seconds"],
            "warnings": evaluation.get("warnings", []),
            **evaluation["splits"],
        }

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status.get('state', 'empty')})"

    def _repr_html_(self) -> str:
        from tintype.pages.run_figures import run_card

        return run_card(self.path)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written again; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _counted(parts: Iterable[T], what: str, total: int, report: Progress) -> Iterator[T]:
    """Yield the parts of some work, and report after each."""
    for done, part in enumerate(parts, start=1):
        yield part
        report(what, done, total)
