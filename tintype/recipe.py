"""Recipe: every setting of a run, checked before work starts.

A setting has the same name in YAML, on the command line and in Python. `resolve` and `read_recipe`
make a Recipe, and both end in `build`; from there `Recipe._with_options` divides the flat set of
fields into those of every run and those of its task (`TaskOptions`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cache
from inspect import Parameter, Signature, cleandoc, get_annotations
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from tintype.errors import UserError, no_data_set, unknown_name
from tintype.files.shard_names import absolute, names_shards
from tintype.files.whole import parse_bytes
from tintype.files.yaml_files import parse_yaml, read_yaml
from tintype.grouping import parse_groups
from tintype.interface.recipe_fields import RecipeFields
from tintype.own_code import (
    IN_PYTHON,
    Reference,
    as_list,
    as_reference,
    as_references,
    called,
    is_code,
    is_own,
    may_run,
    references_in,
    with_references,
)
from tintype.plugins import (
    Installed,
    data_sets,
    default_task,
    find_part,
    has_part,
    head_sentence,
    installed,
    names,
    own_task,
)
from tintype.progress import parse_duration as parse_duration

RECIPES = Path(__file__).parent / "recipes"

# A pattern that begins with a place in braces, such as {age}_*.jpg.
_PLACES = re.compile(r"\{\w+\}")

MOST_THREADS = 1024  # beyond, systems refuse to begin them

# Fields whose default is what runs of earlier versions did, since their recipes do not state them;
# `as_new_run` gives every run that is begun now the new value.
OLD_SPLIT_RULE = "at-image-size"
NEW_SPLIT_RULE = "from-photos"
NEW_RULES = 4

# Fields of a study's file that no recipe has.
OF_STUDIES = {"vary", "variants", "question"}

OPTIMIZERS = ("sgd", "adam", "adamw", "muon")

# Fields that may hold several references to the user's own code.
SEVERAL = ("augment", "metrics", "track")

# The fields that may name a plug-in of an installed package, and of which kind.
KIND_OF = {
    "task": "tasks", "data": "data", "model": "models", "loss": "losses",
    "augment": "augmentations", "track": "tracking",
}  # fmt: skip

# Short forms that users of other tools type.
ALIASES = {
    "batch": "batch_size",
    "imgsz": "image_size",
    "learning_rate": "lr",
    "img_size": "image_size",
    "wd": "weight_decay",
}

# What other tools call a field or an argument; not taken, but understood.
FROM_ELSEWHERE = {
    "bs": "'batch_size'",
    "callbacks": "'watchers', an argument of tt.train",
    "criterion": "'loss'",
    "dropout": "'model_options', as in model_options={'dropout': 0.2}",
    "early_stopping": "'patience'",
    "lr_scheduler": "'schedule'",
    "max_epochs": "'epochs'",
    "pretrained": "'weights'",
    "progress": "the argument 'verbose' of tt.train, as in verbose=False",
    "random_state": "'seed'",
    "scheduler": "'schedule'",
    "val_split": "'val_fraction'",
    "validation_split": "'val_fraction'",
    "verbose": "the argument 'verbose' of tt.train",
}

# For photos of one's own, `training/automatic.py` chooses the rest: backbone, what to train, how
# long.
PHOTOS: dict[str, Any] = {"model": "auto", "tune": "auto"}

# Marks an option (`Annotated[str, PLACE]`) that may name a file or a folder; a run keeps its
# absolute path.
PLACE = "a file or a folder"


class TaskOptions(BaseModel):
    """The settings that a task adds to a recipe.

    `tasks/NAME/options.py` holds a subclass named `Options`, which is imported without torch. A
    field that several tasks have is declared in a class that their options share. To a user all
    fields are one flat set of names.

    Attributes:
        nested: the fields that recipe.yaml keeps under `task_options`. `class Options(TaskOptions,
            nested=True)` nests those that it declares itself, as earlier versions wrote them; a new
            task nests none.
        new_runs: what a new run has where its recipe does not say. The defaults of the fields are
            what a recipe of an earlier version means.
        from_scratch: what a network is trained with where the user named only images; its `model`
            is the usual network of the task.
        data_set: the settings for a data set without a recipe of its own; of the default task.
        needs_test: whether the figures of the task need images that were held out for a test.
        takes_folds: whether images come with labels, so that folds can answer each of them.
        lends_network: whether another run may start from a network of this task, and measure by
            its features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    nested: ClassVar[frozenset[str]] = frozenset()
    new_runs: ClassVar[Mapping[str, Any]] = {}
    from_scratch: ClassVar[Mapping[str, Any]] = {}
    data_set: ClassVar[Mapping[str, Any]] = {}
    needs_test: ClassVar[bool] = True
    takes_folds: ClassVar[bool] = False
    lends_network: ClassVar[bool] = False

    @property
    def without_steps(self) -> bool:
        """Whether what is trained is fitted at once, and not step by step."""
        return False

    def idle(self) -> Mapping[str, str]:
        """Return the options that have no effect beside others, each with the reason."""
        return {}

    def places(self) -> dict[str, str]:
        """Return the options that name a file or a folder, or may do so."""
        marked = [
            name for name, field in type(self).model_fields.items() if PLACE in field.metadata
        ]
        values = {name: getattr(self, name) for name in marked}
        return {name: value for name, value in values.items() if value is not None}

    def __init_subclass__(cls, *, nested: bool = False, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.nested = frozenset(get_annotations(cls) if nested else ())


class UnreadOptions(TaskOptions):
    """The settings of a task of the user's own whose code may not run here, as a recipe states
    them.
    """

    model_config = ConfigDict(frozen=True, extra="allow")


class _ByName(type(BaseModel)):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """Lists of a Recipe what its users need; the methods of pydantic stay reachable."""

    if not TYPE_CHECKING:  # which would see it in the place of `Recipe.__init__`

        def __call__(cls, *positional: Any, **fields: Any) -> Any:
            if positional:
                raise UserError(
                    f"a Recipe takes its fields by name (got {positional[0]!r}). "
                    "Expected, for example, Recipe(data='digits', epochs=5)."
                )
            return super().__call__(**fields)

    def __dir__(cls) -> list[str]:
        return [name for name in vars(cls) if name[0] != "_" and not hasattr(BaseModel, name)]


class Recipe(BaseModel, metaclass=_ByName):
    """The settings of one run. Frozen; an unknown field is an error.

    All fields are given and read by name: `Recipe(epochs=3, label_smoothing=0.1).label_smoothing`.
    Those of the task are also in `options`.

    Lengths: give `epochs` (may be fractional) or `steps`. Fractions of the schedule (`warmup`,
    `resolutions`) are parts of the whole run from 0 to 1.

    Raises:
        UserError: an unknown field (with the nearest one), a field that only other tasks have, or a
            value of the wrong type or range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Reference = Field(
        default_factory=default_task,
        description="What the network learns (`tintype list tasks`), or a task of your own: "
        "my_task.py:MyTask.",
    )
    data: str = Field(
        default="digits",
        description="Name of a data set, a folder of images, a CSV file, shards (.tar, .parquet, "
        "s3://...), or a function of your own that returns images and labels: my_data.py:load.",
    )
    data_root: str | None = Field(
        default=None, description="Folder that already holds the files of the data set."
    )
    image_size: int | tuple[int, int] | None = Field(
        default=None, description="Size of the images in pixels: one side, or [height, width]."
    )
    resize: Literal["crop", "squash", "pad"] = Field(
        default="crop", description="How an image is brought to image_size."
    )
    crop_fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Central part that resize: crop keeps (default: the backbone's own, or 1).",
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        default=None, description="Filter for resizing (default: the backbone's own, or bilinear)."
    )
    val_fraction: float = Field(
        default=0.1,
        ge=0,
        description="Validation part: a fraction, a number of images, or none (0) where nothing is "
        "measured.",
    )
    test_fraction: float = Field(
        default=0.2,
        ge=0,
        description="Test part, if the data has none: a fraction, a number of images, or none (0), "
        "which leaves all other images for training.",
    )
    split_seed: int = Field(
        default=0, ge=0, description="Seed that decides which images go into which split."
    )
    groups: str | None = Field(
        default=None,
        description="Images that belong together and count as one: '{group}_*.jpg', a regular "
        "expression, or exif:60s.",
    )
    folds: int | None = Field(
        default=None,
        ge=2,
        description="Folds for a figure of every image: each is answered by a model that was "
        "trained without it, and then one model is trained on all of them.",
    )
    fold: int | None = Field(
        default=None,
        ge=1,
        description="One of the folds alone: a run whose test part it is.",
    )
    split_rule: Literal["from-photos", "at-image-size"] = Field(
        default="at-image-size",
        description="Where near-copies, which stay in one split, are looked for: in the photos "
        "(new runs), or in the images after resizing (runs of earlier versions).",
    )
    cache_size: str = Field(
        default="20GB",
        description="What is kept on disk of data in shards (.tar, .parquet), such as 20GB. "
        "Images are shuffled within as many shards as half of it holds, at most 8.",
    )

    model: Reference = Field(
        default="fast-cnn",
        description="Network (`tintype list models`), or your own: my_net.py:Net.",
    )
    model_options: dict[str, Any] = Field(default={}, description="Options of the network.")
    time: str | None = Field(
        default=None,
        description="Time limit for the run, such as 90s, 5m or 1h. It ends earlier if its epochs "
        "do.",
    )
    augment: str | dict[str, Any] = Field(
        default="none",
        description="Augmentation: a preset, or names and values (`tintype list augmentations`), "
        "your own among them: flip,my_aug.py:noisy.",
    )
    epochs: float | None = Field(default=None, gt=0, description="Passes over the training images.")
    steps: int | None = Field(default=None, gt=0, description="Steps, instead of epochs.")
    batch_size: int = Field(default=256, gt=0, description="Images per step.")
    sampling: Literal["shuffle", "balanced"] = Field(
        default="shuffle",
        description="shuffle takes each image once per epoch, balanced each class equally often.",
    )
    accumulate: int = Field(
        default=1,
        gt=0,
        description="Parts into which a batch is divided to save memory.",
    )
    parts: int = Field(
        default=1,
        gt=0,
        description="Parts of a batch that processes may share, a power of two. Equal parts give "
        "equal bits, however many processes there are.",
    )
    optimizer: Reference = Field(
        default="adamw",
        description="Optimizer that updates the weights: sgd, adam, adamw, muon, or your own, a "
        "function of params and lr: my_optimizer.py:make.",
    )
    lr: float | Literal["auto"] = Field(
        default=1e-3,
        description="Peak learning rate. auto measures it in a range test before training.",
    )
    momentum: float = Field(
        default=0.9, ge=0, lt=1, description="Momentum of sgd (Nesterov) and muon."
    )
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="Decay of the two running averages of adam and adamw."
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="Weight decay on matrices and filters, not on biases and norms.",
    )
    schedule: Literal["constant", "step", "cosine", "one-cycle", "linear"] = Field(
        default="cosine", description="Schedule of the learning rate."
    )
    milestones: list[float] = Field(
        default=[],
        description="Where schedule: step lowers the learning rate: parts of the run ([0.5, 0.75], "
        "the default), or epochs, from 1 upwards ([30, 60]).",
    )
    step_factor: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Factor by which schedule: step lowers the learning rate.",
    )
    warmup: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Part of the run in which the learning rate rises from zero.",
    )
    clip: float | None = Field(
        default=None, gt=0, description="Largest norm of the gradient; larger ones are scaled down."
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of the averaged weights; 0 switches them off."
    )

    patience: int | None = Field(
        default=None, gt=0, description="Evaluations without improvement before the run stops."
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="Weights that the run ends with: the last, or the best on validation.",
    )
    monitor: str | None = Field(
        default=None,
        description="Validation figure for patience and keep: best, such as loss (default: the "
        "task's own).",
    )
    evaluate_every: float = Field(
        default=1.0, gt=0, description="Epochs between two evaluations on validation."
    )
    clean_sample: int = Field(
        default=0,
        ge=0,
        description="Training images that each evaluation also measures without augmentation.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Seed for the weights, the order of the images, augmentation and dropout.",
    )
    rules: Literal[1, 2, 3, 4] = Field(
        default=1,
        description="Rules of the version that the run was begun with. From 2 on, what chooses the "
        "weights does not calibrate the confidence; with 1, all images do both. From 3 on, "
        "precision: auto takes bf16 only where the processor is faster at it, and a discriminator "
        "sees all pieces of a batch (accumulate), not the last one alone. With 4 (new runs), "
        "weights and moments below 1e-30 become zero, since processors are slow at tiny numbers.",
    )
    measure: Literal["test", "val", "none"] = Field(
        default="test",
        description="Split that the finished model is measured on. With val, the test images stay "
        "unused; with none, the run has no figures and no report.",
    )
    search: dict[str, Any] = Field(
        default={},
        description="What tuning may choose: {lr: {low: 0.001, high: 0.1, log: true}, "
        "batch_size: [64, 128]}.",
    )
    track: list[str] = Field(
        default=[],
        description="Trackers that the run is also logged to (`tintype list tracking`), your own "
        "among them: my_tracker.py:Tracker.",
    )
    device: str = Field(
        default="auto", description="Device to compute on: auto, cpu, cuda, cuda:1 or mps."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Precision of the network's arithmetic."
    )
    threads: int | Literal["auto"] = Field(
        default="auto",
        description="CPU threads. auto takes as many as PyTorch does (1 in a study), and records "
        "the number.",
    )
    exact: bool = Field(
        default=True,
        description="Whether a resumed run ends with the same bits as one never stopped, where the "
        "device can. false allows faster kernels.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="Whether the network is compiled by torch.compile."
    )
    channels_last: bool = Field(
        default=True, description="Whether images and filters are stored with the channels last."
    )
    hold_memory: bool = Field(
        default=True, description="Whether the process keeps freed memory (glibc)."
    )

    _options: TaskOptions = PrivateAttr()

    if TYPE_CHECKING:
        # The fields of the task are known when a recipe is made, not to a type checker.
        def __init__(self, **fields: Unpack[RecipeFields]) -> None: ...
    else:

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse to change a field: a run is what its recipe says."""
            if not name.startswith("_"):
                raise UserError(
                    f"a Recipe is frozen. Type recipe.replace({name}={value!r}) for a changed one."
                )
            super().__setattr__(name, value)

        def __getattr__(self, name: str) -> Any:
            """Return a field of the task; the recipe's own ones are found before."""
            if name != "_options" and name in dict(self._options):
                return getattr(self._options, name)
            return super().__getattr__(name)

    def __dir__(self) -> list[str]:
        return [*self.fields(), *dir(type(self))]

    @property
    def options(self) -> TaskOptions:
        """The fields that the task of this recipe adds, typed."""
        return self._options

    @property
    def task_options(self) -> dict[str, Any]:
        """The options that were set, of those that recipe.yaml keeps under this name."""
        stated = self._options.model_dump(exclude_unset=True)
        return {name: value for name, value in stated.items() if name in self._options.nested}

    def fields(self) -> dict[str, Any]:
        """Return every setting by name, those of the task among them."""
        return {**dict(self), **dict(self._options)}

    def own_code(self) -> list[tuple[str, str]]:
        """Return the references to the user's own code, each after its field."""
        values = self.fields()
        one = [(name, values[name]) for name in self._with_one_reference()]
        several = [(name, each) for name in SEVERAL for each in references_in(values.get(name))]
        data = [("data", self.data)] if is_code(self.data) else []  # other data are no code
        return [*data, *((name, value) for name, value in one if is_own(value)), *several]

    def plugins(self) -> list[tuple[str, Installed]]:
        """Return the plug-ins of installed packages that are named, each after its field."""
        values = self.fields()
        named = [
            (field, kind, name)
            for field, kind in KIND_OF.items()
            for name in _names_in(values.get(field))
        ]
        return [
            (field, installed(kind)[name]) for field, kind, name in named if name in installed(kind)
        ]

    def with_own_code(self, change: Callable[[str], str]) -> dict[str, Any]:
        """Return the fields that hold references to the user's own code, with each one changed."""
        values = self.fields()
        changes = {
            name: with_references(values[name], change) if name in SEVERAL else change(values[name])
            for name in dict(self.own_code())
        }
        if "model" in changes and self.model_options:
            changes["model_options"] = self.model_options  # which another model would not keep
        return changes

    def _with_one_reference(self) -> list[str]:
        """Return the fields that hold one name or reference."""
        taken = BeforeValidator(as_reference)
        return [
            name
            for shape in (self, self._options)
            for name, field in type(shape).model_fields.items()
            if taken in field.metadata
        ]

    def stated(self) -> dict[str, Any]:
        """Return by name the settings that were given, and not left at their defaults."""
        names = self.model_fields_set | self._options.model_fields_set
        return {name: value for name, value in self.fields().items() if name in names}

    @field_validator("data", mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        if data is not None and not isinstance(data, str | Path | int | float | dict):
            raise ValueError(
                "a recipe names its data; images in memory go to train(recipe, data=(images, "
                "labels))"
            )
        return data

    @field_validator("cache_size", mode="before")
    @classmethod
    def _a_size(cls, size: Any) -> Any:
        text = str(size) if isinstance(size, int | float) else size
        if isinstance(text, str):
            parse_bytes(text)
        return text

    @field_validator("compile", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare on and off as true and false.
        if isinstance(value, bool):
            return "on" if value else "off"
        return value

    @field_validator("augment", mode="before")
    @classmethod
    def _own_augmentations(cls, value: Any) -> Any:
        return as_references(value)

    @field_validator("test_fraction", mode="before")
    @classmethod
    def _none_is_zero(cls, value: Any) -> Any:
        return 0 if value == "none" else value

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, optimizer: str) -> str:
        optimizer = optimizer.lower() if optimizer.lower() in OPTIMIZERS else optimizer
        if optimizer not in OPTIMIZERS and not is_own(optimizer):
            *others, last = map(repr, OPTIMIZERS)
            raise ValueError(
                f"input should be {', '.join(others)} or {last}, or a file such as "
                "my_optimizer.py:make"
            )
        return optimizer

    @field_validator("track", mode="before")
    @classmethod
    def _by_commas(cls, value: Any) -> Any:
        return as_list(value)

    @field_validator("lr")
    @classmethod
    def _positive(cls, lr: Any) -> Any:
        if lr != "auto" and lr <= 0:
            raise ValueError("must be greater than 0, or auto")
        return lr

    @field_validator("threads")
    @classmethod
    def _some_threads(cls, threads: Any) -> Any:
        if threads != "auto" and not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"must be a number from 1 to {MOST_THREADS}, or auto")
        return threads

    @field_validator("time")
    @classmethod
    def _duration(cls, time: str | None) -> str | None:
        if time is not None:
            try:
                parse_duration(time)
            except UserError as error:
                raise ValueError(str(error).rstrip(".")) from None
        return time

    @field_validator("groups")
    @classmethod
    def _readable_groups(cls, groups: str | None) -> str | None:
        if groups is not None:
            try:
                parse_groups(groups)
            except UserError as error:
                raise ValueError(str(error).rstrip(".")) from None
        return groups

    @field_validator("image_size")
    @classmethod
    def _positive_size(cls, size: Any) -> Any:
        sides = size if isinstance(size, tuple) else (size,)
        if any(side is not None and not 1 <= side <= 4096 for side in sides):
            raise ValueError("must lie between 1 and 4096 pixels")
        return size

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: list[float]) -> list[float]:
        parts = [m for m in milestones if m < 1]
        epochs = [m for m in milestones if m >= 1]
        rising = milestones == sorted(set(milestones))
        if not rising or any(m <= 0 for m in parts) or (parts and epochs):
            raise ValueError(
                "must rise, as parts of the run below 1 ([0.5, "
                "0.75]) or as epochs from 1 on ([30, 60])"
            )
        return milestones

    @model_validator(mode="after")
    def _nothing_idle(self) -> Recipe:
        """Refuse what was asked for and would silently do nothing."""
        default = type(self).model_fields["step_factor"].default
        if self.schedule != "step" and (self.milestones or self.step_factor != default):
            idle = f"step_factor {self.step_factor:g} belongs"
            usual = f"step_factor={default:g}"
            if self.milestones:
                idle = f"milestones {self.milestones} belong"
                usual = "milestones=[]"
            raise ValueError(
                f"{idle} to schedule: step, but the schedule is {self.schedule}; "
                f"set schedule=step or {usual}"
            )

        if self.monitor is not None and self.patience is None and self.keep == "last":
            raise ValueError("monitor has no effect without patience or keep: best")
        if self.epochs is not None and any(m >= self.epochs for m in self.milestones if m >= 1):
            raise ValueError(
                f"the milestones {self.milestones} lie beyond the end of the run, "
                f"which has {self.epochs:g} epochs"
            )

        return self

    @model_validator(mode="after")
    def _fold_of_folds(self) -> Recipe:
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            there = "there are no folds" if self.folds is None else f"there are {self.folds} folds"
            raise ValueError(f"fold is {self.fold}, and {there}; set folds and a fold among them")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.accumulate > self.batch_size:
            raise ValueError("accumulate cannot be larger than batch_size")
        if self.parts & (self.parts - 1):
            raise ValueError(f"parts is {self.parts}; expected a power of two: 1, 2, 4, 8")
        if self.parts * self.accumulate > self.batch_size:
            raise ValueError(
                "parts times accumulate cannot be larger than batch_size: "
                f"{self.parts} x {self.accumulate}, and {self.batch_size}"
            )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _with_options(cls, fields: Any, validate: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        """Validate the fields of every run, then those of the task, which the first ones name."""
        if not isinstance(fields, dict):
            return validate(fields)
        own, options = _sorted_out(fields)

        try:
            recipe = validate(_as_written(cls, own))
        except ValidationError as error:
            raise UserError(_plain(error)) from None

        options_class = options_of(recipe.task)
        try:
            recipe._options = options_class(**_as_written(options_class, options))
        except ValidationError as error:
            raise UserError(_plain(error, options_class.nested)) from None

        return recipe

    @model_serializer(mode="wrap")
    def _flat(self, serialise: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        """Return all fields as recipe.yaml has them: the task first, then its nested options."""
        own = serialise(self)
        options = self._options.model_dump(mode=info.mode, exclude_unset=info.exclude_unset)
        nested = {name: options.pop(name) for name in self._options.nested if name in options}
        stated = {key: nested[key] for key in self.task_options}

        first = {"task": own.pop("task")} if "task" in own else {}
        if stated or not info.exclude_unset:
            first["task_options"] = stated
        return {**first, **own, **options}

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with some fields changed, checked again.

        `epochs` replaces `steps` and the other way round. "model_options.width" sets one option of
        the network, "task_options" all options of the task that stand there.

        Raises:
            UserError: an unknown field, or a value out of range.
        """
        # What was left open stays open.
        fields = self.stated()

        # What one change makes meaningless goes with it.
        if changes.get("epochs") is not None and "steps" not in changes:
            fields["steps"] = None
        if changes.get("steps") is not None and "epochs" not in changes:
            fields["epochs"] = None
        if "model" in changes and changes["model"] != self.model:
            fields["model_options"] = {}

        for key, value in changes.items():
            name, _, option = key.replace("-", "_").partition(".")
            name = ALIASES.get(name, name)

            if not option:
                if name == "task_options":
                    fields = {k: v for k, v in fields.items() if k not in self._options.nested}
                fields[name] = value
            elif name in ("task", "task_options"):
                fields["task_options"] = {**fields.get("task_options", {}), option: value}
            elif name in ("model", "model_options", "augment"):
                name = "model_options" if name == "model" else name
                now = fields.get(name, getattr(self, name))
                inner = now if isinstance(now, dict) else {"preset": now}
                fields[name] = {**inner, option: value}
            else:
                raise UserError(
                    f"'{key}': only model.NAME, "
                    "task.NAME and augment.NAME can be set inside a field."
                )

        return build(fields, where="")

    def to_yaml(self) -> str:
        """Return the recipe as YAML, every field stated."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# What `help` shows; the fields of the tasks are no part of the signature that pydantic would make.
Recipe.__doc__ = f"{cleandoc(Recipe.__doc__ or '')}\n\n{cleandoc(RecipeFields.__doc__ or '')}"
Recipe.__signature__ = Signature(
    [Parameter("fields", Parameter.VAR_KEYWORD, annotation="Unpack[RecipeFields]")]
)


def _names_in(value: Any) -> list[str]:
    """Return the names in what a field holds: one, several by commas, a list, or keys."""
    names = value.split(",") if isinstance(value, str) else list(value or ())
    return [str(name).strip() for name in names]


def as_new_run(recipe: Recipe) -> Recipe:
    """Return the recipe of a run that begins now: what it leaves open follows the newest rules."""
    new = {"split_rule": NEW_SPLIT_RULE, "rules": NEW_RULES, **recipe.options.new_runs}
    stated = recipe.stated()
    return recipe.replace(**{field: new[field] for field in new if field not in stated})


def with_folds(recipe: Recipe, asked: Collection[str]) -> Recipe:
    """Return the recipe without a test part where folds answer every image in its place.

    Args:
        recipe: of a run that begins now.
        asked: the fields that the user set.

    Raises:
        UserError: images of the task have no labels, or a test part was asked for as well.
    """
    if recipe.folds is None:
        return recipe
    if not recipe.options.takes_folds:
        raise UserError(
            f"folds are for tasks with labels, which each photo is asked for; task {recipe.task} "
            "has none. Leave --folds out."
        )
    if "test_fraction" in asked and recipe.test_fraction:
        raise UserError(
            "with --folds every photo is tested by a model that was trained without it, so that "
            "no test part is cut. Leave --test out, or --folds."
        )
    return recipe.replace(test_fraction=0)


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `key=value` texts into changes of a recipe.

    Values are read as YAML (3, 0.1, true, [1, 2], {a: 1}).

    Raises:
        UserError: a text without `=`, or a value that is not YAML.
    """
    changes: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {text}: expected key=value, as in --set weight_decay=0.0005.")
        changes[key.strip().replace("-", "_")] = _value(text, value)

    return changes


def _value(text: str, value: str) -> Any:
    """Return what stands behind the equals sign of `--set`, read as YAML."""
    # '{age}_*.jpg' names parts of file names; to YAML it is a mapping, or a broken one.
    if _PLACES.match(value):
        return value
    try:
        parsed = parse_yaml(value)
    except yaml.YAMLError:
        raise UserError(
            f"--set {text}: the value is not readable. "
            "Expected a number, a word, [a, b] or {a: b}."
        ) from None

    # YAML 1.1 reads 1e-3 as a word; people mean the number.
    if isinstance(parsed, str):
        with suppress(ValueError):
            return float(parsed)
    return parsed


def build(fields: dict[str, Any], where: str) -> Recipe:
    """Make a Recipe from a mapping; `where` it was read begins the message of an error.

    Raises:
        UserError: an unknown field (with the nearest one), or a value of the wrong type or range.
    """
    try:
        return Recipe(**{str(key): value for key, value in fields.items()})
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None


def options_of(task: str) -> type[TaskOptions]:
    """Return the class of the settings that a task adds to a recipe.

    Raises:
        UserError: there is no such task.
    """
    own = own_task(task)
    if own is None:
        return options_by_name(task)
    if not may_run(own):
        return UnreadOptions
    return find_part(task, "options", "").Options if has_part(task, "options") else TaskOptions


@cache
def options_by_name(task: str) -> type[TaskOptions]:
    """Return what `options_of` does, for a task that is a folder: it stays as it is."""
    if not has_part(task, "options"):
        return TaskOptions
    return find_part(task, "options", "have settings of their own").Options


def field_names() -> set[str]:
    """Return the name of every field: those of the recipe, and of all tasks."""
    of_tasks = (options_of(task).model_fields for task in names("tasks"))
    return {"task_options", *Recipe.model_fields, *chain.from_iterable(of_tasks)}


def _sorted_out(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a flat set of fields into those of the recipe itself and those of its task.

    A field of another task is left out if it asks for nothing: recipes of earlier versions state
    every field.

    Raises:
        UserError: a field that is unknown, or that only other tasks have.
    """
    fields = {ALIASES.get(key, key): value for key, value in fields.items()}
    nested = fields.pop("task_options", None) or {}
    if not isinstance(nested, Mapping):
        raise UserError(f"task_options: expected a mapping of names and values (got {nested!r}).")

    own = {key: value for key, value in fields.items() if key in Recipe.model_fields}
    task = as_reference(own.get("task", default_task()))
    if not isinstance(task, str):
        return own, {}  # `Recipe` refuses its type, as it does with other fields
    options_class = options_of(task)
    if options_class is UnreadOptions:
        return own, {key: value for key, value in fields.items() if key not in own} | {**nested}
    known = options_class.model_fields

    for option in nested:
        if option not in known:
            raise unknown_name(f"option of task {called(task)}:", str(option), known)
    for field, value in fields.items():
        if field not in own and field not in known:
            _refuse_unless_idle(field, value, task)

    options = {key: value for key, value in fields.items() if key in known}
    return own, {**options, **nested}


def _as_written(model: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as a recipe holds them: paths as texts, and choices in small letters."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        written = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(written, str):
            choices = _choices(model.model_fields[name].annotation)
            small = written.lower()
            written = small if written not in choices and small in choices else written
        values[name] = written
    return values


def _choices(annotation: Any) -> set[Any]:
    """Return the words that a field may be, where its type says so."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return set().union(*map(_choices, get_args(annotation)))


def _refuse_unless_idle(field: str, value: Any, task: str) -> None:
    """Raise for a field that a task does not have, and that would silently do nothing."""
    others = [name for name in names("tasks") if field in options_of(name).model_fields]
    if not others:
        meant = FROM_ELSEWHERE.get(field)
        if meant is not None:
            raise UserError(f"unknown field '{field}'. Did you mean {meant}?")
        of_task = options_of(task).model_fields  # of the user's own, which is not listed
        raise unknown_name("field", field, [*field_names(), *of_task, *ALIASES])

    defaults = [options_of(name).model_fields[field].get_default() for name in others]
    if value not in (*defaults, "auto"):
        *all_but_last, last = others
        only = f"tasks {', '.join(all_but_last)} and {last}" if all_but_last else f"task {last}"
        raise UserError(
            f"{field} has no effect on task {called(task)}, only on {only}. Leave it out."
        )


def _plain(error: ValidationError, nested: Collection[str] = ()) -> str:
    """Say in one line what pydantic found wrong first."""
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = ""
    if field and not isinstance(first["input"], dict):
        brief = _brief(first["input"])
        # a number such as 0 may stand in another one
        named = isinstance(first["input"], str) and brief in message
        given = "" if named else f" (got {brief})"

    shown = f"task.{field}" if field in nested else field
    return f"{shown + ': ' if shown else ''}{message.removesuffix('.')}{given}."


def _brief(value: Any) -> str:
    """Return a value as it is typed; of one that is long, such as an array, its type."""
    if isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float) for v in value):
        return repr(value)
    return f"a {type(value).__name__}"


def recipe_names() -> dict[str, str]:
    """Return every built-in recipe with the first sentence of its head comment."""
    return {path.stem: head_sentence(path) for path in sorted(RECIPES.glob("*.yaml"))}


def recipe_source(name: str) -> str:
    """Return the published work that a built-in recipe rebuilds, in words; "" if it is our own."""
    sentence = head_sentence(RECIPES / f"{name}.yaml", "Source: ")
    return sentence.removeprefix("Source: ").removesuffix(".")


def recipe_task(name: str) -> str:
    """Return the task of a built-in recipe, from its text alone: listings answer at once."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    found = re.search(r"^task: *(\w+)", text, re.MULTILINE)
    return found[1] if found else default_task()


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        UserError: not readable, not YAML, not a mapping, or a field is wrong.
    """
    try:
        fields = read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}."
        ) from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path} is not a recipe: the YAML is broken ({problem[:200]}).") from None

    if not isinstance(fields, dict):
        raise UserError(
            f"{path} is not a recipe: expected lines of `field: value`, as in `model: cnn`."
        )
    if OF_STUDIES & fields.keys():
        raise UserError(
            f"{path} is the file of a study, and a recipe was expected. Type: tintype study {path}"
        )
    return build(fields, where=str(path))


def _for_data_set(task: str | None) -> dict[str, Any]:
    """Return the settings for a data set without a recipe of its own."""
    if task in (None, default_task()):
        return {**options_of(default_task()).data_set}
    options = options_of(task)
    return {"task": task, "model": "auto", **(options.data_set or options.from_scratch)}


def resolve(what: str, task: str | None = None) -> tuple[Recipe, str]:
    """Turn what a user typed after `tintype train` into a recipe, and say what it was.

    A recipe's name comes before a data set's name; a path ending in .yaml is a recipe file; a
    folder is data, and so are a .csv, .tsv or .jsonl file, and shards (.tar, .parquet). With
    `task`, a recipe of another task steps back behind the data set of its name.

    Raises:
        UserError: it is none of these; the message suggests the nearest names.
    """
    if what.startswith(IN_PYTHON):
        return build({"data": what, **PHOTOS}, where=""), "images in memory"
    if is_code(what):
        return build({"data": what, **PHOTOS}, where=""), f"images of your own code, {what}"
    known_data = data_sets(task or default_task())
    is_recipe = what in recipe_names()
    if is_recipe and what in known_data and task is not None:
        is_recipe = task == recipe_task(what)
    if is_recipe:
        also = ""
        if Path(what).is_dir():
            also = f", not the folder {what} that is here; for the folder type ./{what}"
        return read_recipe(RECIPES / f"{what}.yaml"), f"recipe '{what}' (built in){also}"
    if what not in known_data and names_shards(what):
        return build({"data": absolute(what), **PHOTOS}, where=""), f"images in shards, {what}"
    path = Path(what).expanduser()
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_recipe(path), f"recipe file {path}"

    is_table = path.suffix.lower() in (".csv", ".tsv", ".jsonl")
    if (what and path.is_dir()) or is_table:  # an empty text is not the folder one is in
        if path.is_dir() and (path / "recipe.yaml").exists() and (path / "model.json").exists():
            raise UserError(
                f"{path} is a run folder. To go on with it: tintype train --resume {path}"
            )
        also = ""
        if what in known_data:
            also = f", not the data set '{what}'; for that type --data {what}"
        return build({"data": str(path.resolve()), **PHOTOS}, where=""), f"images in {path}{also}"

    if what in known_data:
        return build({"data": what, **_for_data_set(task)}, where=""), f"data set '{what}'"

    if path.is_file():
        raise no_data_set(path)
    if "/" in what or "\\" in what:
        raise UserError(
            f"there is no {what}. Expected a folder of images, a .csv or a .yaml file, "
            "or a recipe's name."
        )
    raise unknown_name(
        "recipe or data set",
        what,
        {**recipe_names(), **known_data},
        "`tintype list recipes` shows them.",
    )
