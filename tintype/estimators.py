"""scikit-learn estimators: `TintypeClassifier` and `TintypeRegressor`.

They follow scikit-learn's conventions: every setting in the constructor, work in `fit`, ValueError
for what cannot be. A fit trains on all rows, measures nothing, and leaves no run folder behind
unless `run_folder` names one.

Values become pixels of 0..255, in which all of tintype computes: those of images by one range,
those of a table of features by one range for each column. A table is an image of one row.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y, validate_data

from tintype import own_code
from tintype.data.source import Images
from tintype.data.targets import Classes, Numbers, TargetKind
from tintype.errors import UserError
from tintype.plugins import task_of_target
from tintype.progress import Watcher, make_watcher
from tintype.recipe import options_of
from tintype.verbs.run import Run

if TYPE_CHECKING:
    from tintype.tasks.contract.predict import Predictor

__all__ = ["TintypeClassifier", "TintypeRegressor"]

CHANNELS = (1, 3)
BATCH_VALUES = 4_000_000  # of pixels that are computed at once

# What a fitted estimator keeps of its run: plain data, from which the model is loaded.
KEPT = ("recipe.yaml", "model.json", "model.safetensors")

# What a table of features is trained with where nothing is said.
TABLE: dict[str, Any] = {
    "model": "ann",
    "model_options": {"hidden": [100]},
    "augment": "none",
    "epochs": 60,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 3e-3,
    "schedule": "linear",
    "tta": "none",
}

# Training fixes the process's own random numbers, threads and signals while it lasts.
_training = threading.Lock()


class _BadValue(UserError, ValueError):
    """A mistake of the user, as scikit-learn expects it."""


@contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        yield
    except _BadValue:
        raise
    except UserError as error:
        raise _BadValue(str(error)) from error


class _Values(NamedTuple):
    """What was given for X, checked: (N, H, W, C), of a table (N, 1, F, 1)."""

    array: np.ndarray
    table: bool


@dataclass(frozen=True)
class _Range:
    """The values that become 0 and 255: one of each for images, one for each column of a table."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: _Values) -> _Range:
        """Return the range of training values."""
        array = values.array
        if values.table:
            low, high = array.min(0).astype(np.float64), array.max(0).astype(np.float64)
            return cls(low, np.where(high > low, high, low + 1))
        low = min(0.0, float(array.min()))
        high = 255.0 if array.dtype == np.uint8 else _white(float(array.max()))
        return cls(np.array(low), np.array(high))

    def pixels(self, values: _Values) -> np.ndarray:
        """Return values as (N, H, W, C) uint8; what lies beyond the range becomes its end."""
        array = values.array
        if array.dtype == np.uint8 and not values.table and self.low == 0 and self.high == 255:
            return np.ascontiguousarray(array)
        scaled = (array.astype(np.float64) - self.low) * (255 / (self.high - self.low))
        return np.ascontiguousarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _num_axes(X: Any) -> int:
    """Return the number of axes of an array, or of a list of arrays."""
    shape = getattr(X, "shape", None)
    if shape is None and isinstance(X, list | tuple) and len(X):
        return 1 + _num_axes(X[0])
    return len(shape or ())


def _white(largest: float) -> float:
    """Return the value that is white: 1 or 255 where it is meant, otherwise the largest."""
    if largest <= 1:
        return 1.0
    return 255.0 if 128 < largest <= 255 else largest


class _Model:
    """A finished model as the files of its run, opened when it is first asked.

    It is pickled as those files, so that it holds weights and no code.
    """

    def __init__(self, files: Mapping[str, bytes], device: str) -> None:
        self.files = dict(files)
        self.device = device
        self._predictor: Predictor | None = None

    @classmethod
    def of(cls, run: Run) -> _Model:
        """Return the model of a finished run."""
        return cls({name: (run.path / name).read_bytes() for name in KEPT}, run.recipe.device)

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["files"], state["device"])

    @property
    def predictor(self) -> Predictor:
        if self._predictor is None:
            from tintype.verbs.predict.opening import open_run

            with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
                for name, content in self.files.items():
                    (Path(folder) / name).write_bytes(content)
                self._predictor = open_run(Run(folder), self.device)
        return self._predictor

    def answers(
        self, pixels: np.ndarray, answer: Callable[[Any, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Return `answer(predictor, batch)` of all images (N, H, W, C) uint8, in one array."""
        predictor = self.predictor
        size = (predictor.height, predictor.width, predictor.channels)
        step = max(1, BATCH_VALUES // prod(size))

        found = []
        for start in range(0, len(pixels), step):
            some = pixels[start : start + step]
            if some.shape[1:] != size:
                some = np.stack([predictor.pixels(image) for image in some])
            found.append(answer(predictor, some))
        return np.concatenate(found)


class _ImageEstimator(BaseEstimator):
    """What classifier and regressor share: settings, images, training, and the fitted model."""

    _target: ClassVar[type[TargetKind]]

    def __init__(
        self,
        model: Any = None,
        *,
        epochs: float | None = None,
        steps: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        augment: Any = None,
        weights: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        validation_fraction: float = 0.0,
        recipe: Mapping[str, Any] | None = None,
        random_state: Any = None,
        run_folder: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.steps = steps
        self.lr = lr
        self.batch_size = batch_size
        self.augment = augment
        self.weights = weights
        self.image_shape = image_shape
        self.validation_fraction = validation_fraction
        self.recipe = recipe
        self.random_state = random_state
        self.run_folder = run_folder
        self.verbose = verbose

    # ---- images ----------------------------------------------------------------------------------

    def _values_and_targets(self, X: Any, y: Any, **how: Any) -> tuple[_Values, np.ndarray]:
        """Return the checked images to train on, and their targets; `how` says what targets are."""
        if _num_axes(X) > 2:
            X, y = check_X_y(X, y, allow_nd=True, dtype="numeric", estimator=self, **how)
            values = self._images(X)
            self.n_features_in_ = prod(values.shape[1:])
            return _Values(values, table=False), y
        rows, y = validate_data(self, X, y, dtype="numeric", **how)
        return self._rows(np.asarray(rows)), np.asarray(y)

    def _values(self, X: Any) -> _Values:
        """Return the checked images to answer."""
        if _num_axes(X) > 2:
            X = check_array(X, allow_nd=True, dtype="numeric", estimator=self)
            return _Values(self._images(X), table=False)
        return self._rows(np.asarray(validate_data(self, X, reset=False, dtype="numeric")))

    def _rows(self, rows: np.ndarray) -> _Values:
        """Return flat rows (N, F) as images, by `image_shape` or as a table."""
        if self.image_shape is None:
            return _Values(rows[:, None, :, None], table=True)
        shape = self._shape(rows.shape[1])
        return _Values(rows.reshape(-1, *shape), table=False)

    def _images(self, values: np.ndarray) -> np.ndarray:
        if values.ndim not in (3, 4):
            raise _BadValue(f"X is {values.shape}; expected images (N, H, W) or (N, H, W, C).")
        values = values[..., None] if values.ndim == 3 else values
        if values.shape[3] not in CHANNELS:
            first = values.shape[1] in CHANNELS
            hint = " The channels come last: X.transpose(0, 2, 3, 1)." if first else ""
            raise _BadValue(
                f"X is {values.shape}, with {values.shape[3]} channels; expected (N, H, W, C) with "
                f"1 (grey) or 3 (colour).{hint}"
            )
        return values

    def _shape(self, num_values: int) -> tuple[int, int, int]:
        """Return the height, width and channels that `image_shape` gives to a row."""
        shape = tuple(self.image_shape or ())
        shape = (*shape, 1) if len(shape) == 2 else shape
        if len(shape) != 3 or shape[2] not in CHANNELS or prod(shape) != num_values:
            raise _BadValue(
                f"image_shape is {self.image_shape}, and a row has {num_values} values; expected "
                "(height, width) or (height, width, channels) of as many, with 1 or 3 channels."
            )
        return shape

    # ---- training --------------------------------------------------------------------------------

    def _fit(self, values: _Values, targets: np.ndarray, kind: TargetKind) -> Self:
        self._range = _Range.of(values)
        images = Images(
            pixels=self._range.pixels(values),
            targets=targets,
            names=[f"{number:07d}" for number in range(len(targets))],
            target=kind,
            split=np.full(len(targets), "train"),
        )

        fields = self._fields(table=values.table)
        watcher = make_watcher() if self.verbose else Watcher()
        with _as_value_error(), _training, self._folder() as folder:
            run = self._trained(images, folder, watcher, fields)
            self._model = _Model.of(run)
        if self.run_folder is not None:
            self.run_ = run
        elif hasattr(self, "run_"):
            del self.run_
        return self

    def _trained(
        self, images: Images, folder: Path, watcher: Watcher, fields: dict[str, Any]
    ) -> Run:
        from tintype.training.run import train

        command = f"{type(self).__name__}(...).fit(X, y)"
        with own_code.given(images) as data:
            run = train(
                data, watcher, out=folder.parent, name=folder.name, command=command, **fields
            )
        return Run(run.path)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Yield where the run is made: `run_folder`, or a place that is removed afterwards."""
        if self.run_folder is not None:
            yield Path(self.run_folder)
            return
        with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
            yield Path(folder) / "fit"

    def _fields(self, *, table: bool) -> dict[str, Any]:
        """Return the fields of the recipe, from the parameters of the constructor."""
        task = task_of_target(self._target.offer)
        own = {
            name: value
            for name in ("model", "epochs", "steps", "lr", "batch_size", "augment", "weights")
            if (value := getattr(self, name)) is not None
        }
        further = dict(self.recipe or {})
        twice = sorted(own.keys() & further.keys())
        if twice:
            raise _BadValue(f"{twice[0]} is given twice: as a parameter, and in recipe.")

        given = {**own, **further}
        usual = self._table_fields(given) if table else {}
        if not table and "model" not in given:
            usual = {"model": options_of(task).from_scratch["model"]}
        return {
            "task": task,
            "val_fraction": self.validation_fraction,
            "test_fraction": 0,
            "measure": "none",
            "seed": self._seed(),
            **usual,
            **given,
        }

    def _table_fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        usual = dict(TABLE)
        if "model" in given:
            del usual["model_options"]
        if "steps" in given:
            del usual["epochs"]
        known = options_of(task_of_target(self._target.offer)).model_fields
        return {key: value for key, value in usual.items() if key != "tta" or key in known}

    def _seed(self) -> int:
        """Return the seed; without a `random_state`, each fit is the same."""
        if self.random_state is None:
            return 0
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    # ---- answering -------------------------------------------------------------------------------

    def _answers(self, X: Any, answer: Callable[[Any, np.ndarray], np.ndarray]) -> np.ndarray:
        check_is_fitted(self)
        pixels = self._range.pixels(self._values(X))
        with _as_value_error():
            return self._model.answers(pixels, answer)


class TintypeClassifier(ClassifierMixin, _ImageEstimator):
    """Classify images, as an estimator of scikit-learn.

    It trains on all rows that `fit` is given, and measures nothing: that is left to scikit-learn.
    Images are (N, H, W) or (N, H, W, C) with one or three channels, as uint8 or as numbers whose
    range is taken from the training images. Rows (N, F) are images where `image_shape` is given,
    and else a table of features.

    Args:
        model: a network by its name, or your own; None takes the usual one.
        epochs: passes over the images; None for the usual length.
        steps: steps, instead of epochs.
        lr: peak learning rate; None for that of the optimizer.
        batch_size: images per step.
        augment: a preset, or names and values.
        weights: pretrained weights: "default", a file, or a run folder.
        image_shape: (height, width) or (height, width, channels) of the images in flat rows.
        validation_fraction: part of the rows by which `patience` and `keep` choose, where `recipe`
            asks for them; by default there is none, and the last weights are kept.
        recipe: all other fields of a recipe, by name, as in {"patience": 5}.
        random_state: a number, a RandomState, or None, which stands for 0: each fit is the same.
        run_folder: where to keep the run, which must be new; by default nothing is left behind.
        verbose: whether progress is shown.

    Attributes:
        classes_: (K,) the classes, sorted.
        n_features_in_: how many values an image has.
        run_: the Run, where `run_folder` keeps it.
    """

    _target = Classes

    def fit(self, X: Any, y: Any) -> Self:
        """Train on all images; `y` (N,) holds a class for each, as number or text."""
        values, y = self._values_and_targets(X, y)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise _BadValue(f"y holds one class alone, {self.classes_[0]!r}; expected two or more.")
        names = tuple(str(name) for name in self.classes_)
        return self._fit(values, targets.astype(np.int64), Classes(names))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class (N,) of each image."""
        most_probable = self.predict_proba(X).argmax(1)
        return self.classes_[most_probable]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (N, K) float32, in the order of `classes_`."""
        return self._answers(X, lambda predictor, pixels: predictor.probabilities(pixels))


class TintypeRegressor(RegressorMixin, _ImageEstimator):
    """Read numbers from images, as an estimator of scikit-learn.

    Images and parameters are as for `TintypeClassifier`.

    Attributes:
        n_features_in_: how many values an image has.
        run_: the Run, where `run_folder` keeps it.
    """

    _target = Numbers

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Train on all images; `y` (N,) or (N, K) holds numbers for each."""
        values, y = self._values_and_targets(X, y, y_numeric=True, multi_output=True)
        self._one = y.ndim == 1
        numbers = y.reshape(len(y), -1).astype(np.float32)
        names = (
            ("value",)
            if numbers.shape[1] == 1
            else tuple(f"value {k}" for k in range(numbers.shape[1]))
        )
        return self._fit(values, numbers, Numbers(names))

    def predict(self, X: Any) -> np.ndarray:
        """Return the numbers of each image, in the shape that `y` had."""
        numbers = self._answers(X, lambda predictor, pixels: predictor.numbers(pixels)[0])
        if self._one:
            return numbers[:, 0]
        return numbers.astype(np.float64)  # as scikit-learn expects of several numbers
