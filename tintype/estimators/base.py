"""What classifier and regressor share: settings, what X may be, training, and answering."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y, validate_data

from tintype import own_code
from tintype.data.targets import TargetKind
from tintype.estimators.fitted import FittedModel, process
from tintype.estimators.mistakes import BadValue, as_scikit_learn_has_it
from tintype.estimators.pixels import (
    Given,
    Range,
    Training,
    Values,
    as_images,
    as_rows,
    num_axes,
    paths_in,
    pictures_in,
)
from tintype.plugins import task_of_target
from tintype.progress import Watcher, make_watcher
from tintype.recipe import Recipe, options_of
from tintype.runs.pretrained import is_backbone
from tintype.verbs.run import Run

# The fields of a recipe that are parameters of an estimator; all others are given in `recipe`.
FIELDS = ("model", "epochs", "steps", "lr", "batch_size", "augment", "weights")

# What is trained with where nothing is said: a fit is the same on every machine, takes no look at
# the images to choose how it trains, and mirrors nothing that may have a left and a right.
IMAGES: dict[str, Any] = {"augment": "light", "tta": "none"}
PRETRAINED: dict[str, Any] = {"tune": "head", "views": 0, "augment": "none", "tta": "none"}
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


class Checked(NamedTuple):
    """What is trained on: the images, `y` as an array, and the weights, where there are any."""

    given: Given
    y: np.ndarray
    weights: np.ndarray | None


class ImageEstimator(BaseEstimator):
    """An estimator whose X is images; a subclass says what is learned of them.

    Attributes:
        target: the kind of targets.
        y_how: how scikit-learn checks `y`.
    """

    target: ClassVar[type[TargetKind]]
    y_how: ClassVar[Mapping[str, Any]] = {}

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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # ---- what X is -------------------------------------------------------------------------------

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> Checked:
        """Return what to train on; images without weight are left out."""
        given, y = self._images_and_targets(X, y)
        if sample_weight is None:
            return Checked(given, y, None)

        how: Any = {"ensure_2d": False, "dtype": np.float64, "input_name": "sample_weight"}
        weights = check_array(sample_weight, **how)
        if weights.shape != (len(given),) or weights.min() < 0 or not weights.any():
            raise BadValue(
                f"sample_weight has the shape {weights.shape} and values from "
                f"{weights.min():.3g} on. Expected a number for each of {len(given):,} rows, none "
                "below zero and not all of them zero."
            )
        rows = np.flatnonzero(weights)
        return Checked(given.rows(rows), y[rows], weights[rows].astype(np.float32))

    def _images_and_targets(self, X: Any, y: Any) -> tuple[Given, np.ndarray]:
        single = paths_in(X) or pictures_in(X)
        if single is not None:
            places = np.zeros((len(single), 1))
            _, y = check_X_y(places, y, estimator=self, **self.y_how)
            return single, y
        if num_axes(X) > 2:
            X, y = check_X_y(X, y, allow_nd=True, dtype="numeric", estimator=self, **self.y_how)
            images = as_images(X)
            self.n_features_in_ = prod(images.array.shape[1:])
            return images, y
        rows, y = validate_data(self, X, y, dtype="numeric", **self.y_how)
        return as_rows(np.asarray(rows), self.image_shape), np.asarray(y)

    def _checked_again(self, X: Any) -> Given:
        """Return what to answer."""
        single = paths_in(X) or pictures_in(X)
        if single is not None:
            return single
        if num_axes(X) > 2:
            return as_images(check_array(X, allow_nd=True, dtype="numeric", estimator=self))
        rows = validate_data(self, X, reset=False, dtype="numeric")
        return as_rows(np.asarray(rows), self.image_shape)

    # ---- training --------------------------------------------------------------------------------

    def _train(self, checked: Checked, targets: np.ndarray, kind: TargetKind) -> Self:
        """Train on what was checked, with the targets of `y` as `kind` has them."""
        given = checked.given
        table = isinstance(given, Values) and given.table
        training = Training(given, Range.of(given), targets, kind, checked.weights)
        fields = self._fields(table=table)
        own: dict[str, Any] = {}

        with process, self._folder() as folder, ExitStack() as stack:
            fields = {name: _referenced(value, own, stack) for name, value in fields.items()}
            run = self._run(stack.enter_context(own_code.given(training)), folder, fields)
            self._model = FittedModel.of(run, training.range, own)
        vars(self).pop("run_", None)
        if self.run_folder is not None:
            self.run_ = run
        return self

    def _run(self, data: str, folder: Path, fields: dict[str, Any]) -> Run:
        from tintype.training.run import train

        watcher = make_watcher() if self.verbose else Watcher()
        command = f"{type(self).__name__}(...).fit(X, y)"
        how: dict[str, Any] = {"out": folder.parent, "name": folder.name, "command": command}
        return Run(train(data, watcher, **how, **fields).path)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Yield where the run is made: `run_folder`, or a place that is removed afterwards."""
        if self.run_folder is not None:
            yield Path(self.run_folder)
            return
        with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
            yield Path(folder) / "fit"

    def _fields(self, *, table: bool) -> dict[str, Any]:
        """Return the fields of the recipe."""
        stated = {name: getattr(self, name) for name in FIELDS}
        own = {name: value for name, value in stated.items() if value is not None}
        further = dict(self.recipe or {})
        twice = sorted(own.keys() & further.keys())
        if twice:
            raise BadValue(f"{twice[0]} is given twice: as a parameter, and in recipe.")

        task = task_of_target(self.target.offer)
        given = {**own, **further}
        return {
            "task": task,
            "val_fraction": self.validation_fraction,
            "test_fraction": 0,
            "measure": "none",
            "seed": self._seed(),
            **_usual(given, task, table=table),
            **given,
        }

    def _seed(self) -> int:
        """Return the seed; without a `random_state`, each fit is the same."""
        if self.random_state is None:
            return 0
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    # ---- answering -------------------------------------------------------------------------------

    def _answers(self, X: Any, answer: Callable[[Any, np.ndarray], np.ndarray]) -> np.ndarray:
        check_is_fitted(self, "_model")
        with as_scikit_learn_has_it():
            return self._model.answers(self._checked_again(X), answer)


def _usual(given: Mapping[str, Any], task: str, *, table: bool) -> dict[str, Any]:
    """Return the usual settings beside those that were given."""
    options = options_of(task)
    if table:
        usual = dict(TABLE)
    elif _is_pretrained(given):
        usual = {} if "tune" in given else dict(PRETRAINED)
    else:
        usual = {"model": options.from_scratch["model"], **IMAGES}

    # not each task has every setting
    known = {*Recipe.model_fields, *options.model_fields}
    usual = {name: value for name, value in usual.items() if name in known}
    if "model" in given:
        usual.pop("model_options", None)
    if "steps" in given:
        usual.pop("epochs", None)
    return usual


def _is_pretrained(given: Mapping[str, Any]) -> bool:
    """Return whether the network begins with weights, which a backbone does by itself."""
    weights = given.get("weights")
    if weights is not None:
        return weights != "none"
    model = given.get("model")
    return isinstance(model, str) and not own_code.is_own(model) and is_backbone(model)


def _referenced(value: Any, own: dict[str, Any], stack: ExitStack) -> Any:
    """Return the value of a field; of code of the user's own its reference, which `own` notes.

    An object is known to the process as long as `stack` is open.
    """
    if callable(value):
        reference = stack.enter_context(own_code.given(value))
        own[reference] = value
        return reference
    if own_code.is_own(value):
        own[own_code.absolute(value)] = None
    return value
