"""Recipe: every setting of a run, checked before work starts, the same in YAML, on the command line
and in Python.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tintype.errors import UserError, no_data_set, unknown_name
from tintype.files.yaml_files import parse_yaml, read_yaml
from tintype.grouping import parse_groups
from tintype.plugins import head_sentence
from tintype.progress import parse_duration as parse_duration

RECIPES = Path(__file__).parent / "recipes"

MOST_THREADS = 1024  # beyond, systems refuse to begin them

OLD_SPLIT_RULE = "at-image-size"  # the field's default, as recipes of earlier runs do not state it
NEW_SPLIT_RULE = "from-photos"  # of every run that is begun now

# Short forms that users of other tools type.
ALIASES = {
    "batch": "batch_size",
    "imgsz": "image_size",
    "learning_rate": "lr",
    "img_size": "image_size",
    "wd": "weight_decay",
}


class Recipe(BaseModel):
    """The settings of one run. Frozen; an unknown field is an error.

    Lengths: give `epochs` (may be fractional) or `steps`. Fractions of the schedule (`warmup`,
    `resolutions`) are parts of the whole run from 0 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str = Field(default="classify", description="what is learned (`tintype list tasks`)")
    task_options: dict[str, Any] = Field(default={}, description="options that only this task has")
    data: str = Field(
        default="digits", description="a data set's name, a folder of images, or a CSV file"
    )
    data_root: str | None = Field(
        default=None, description="folder that holds the data set's files already"
    )
    image_size: int | tuple[int, int] | None = Field(
        default=None, description="pixels: side, or [height, width]"
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="1 grey, 3 colour; by default as the images are"
    )
    resize: Literal["crop", "squash", "pad"] = Field(
        default="crop", description="how an image is brought to image_size"
    )
    crop_fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="central part that resize: crop keeps; by default the backbone's own, or 1",
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        default=None, description="of resizing; by default the backbone's own, or bilinear"
    )
    normalise: Literal["none", "scale", "mean-std"] | None = Field(
        default=None,
        description="pixels as they are, divided by 255 alone, or then also centred; by default the backbone's own, "
        "or mean-std",
    )
    val_fraction: float = Field(
        default=0.1, gt=0, description="validation part: a fraction, or a number of images"
    )
    test_fraction: float = Field(
        default=0.2,
        ge=0,
        description="test part where the data brings none: a fraction, a number, or none (0), so that all others train",
    )
    split_seed: int = Field(default=0, ge=0, description="which images go to which split")
    groups: str | None = Field(
        default=None,
        description="what belongs together, and counts as one: '{group}_*.jpg', a regular expression, or exif:60s",
    )
    split_rule: Literal["from-photos", "at-image-size"] = Field(
        default="at-image-size",
        description="where near-copies are looked for, which stay on one side: in new runs from-photos",
    )

    model: str = Field(default="fast-cnn", description="the network (`tintype list models`)")
    model_options: dict[str, Any] = Field(default={}, description="options of the network")

    weights: str | None = Field(
        default=None,
        description="what a network starts from: default (downloaded once), a file, an earlier run, or none (from scratch)",
    )
    tune: str = Field(
        default="all",
        description="what of a backbone is trained: head, last:N (stages), all, or auto (by images and time)",
    )
    time: str | None = Field(
        default=None,
        description="what a run may take, as in 90s, 5m or 1h; it ends sooner where its epochs do",
    )
    head: list[int] = Field(
        default=[], description="hidden layers of a backbone's head; none is a linear head"
    )
    views: int = Field(
        default=0,
        ge=0,
        le=64,
        description="with tune: head, augmented copies of each image beside the clean one",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor on the lr from each stage of a backbone to the one before it",
    )
    unfreeze: float = Field(
        default=0.0, ge=0, le=1, description="part of the run over which stages thaw, last first"
    )
    freeze_norm: bool = Field(
        default=True, description="batch norm of a pretrained backbone keeps its statistics"
    )

    augment: str | dict[str, Any] = Field(
        default="none", description="a preset, or names and values (`tintype list augmentations`)"
    )
    epochs: float | None = Field(default=None, gt=0, description="passes over the training images")
    steps: int | None = Field(default=None, gt=0, description="batches; instead of epochs")
    batch_size: int = Field(default=256, gt=0, description="images a step")
    sampling: Literal["shuffle", "balanced"] = Field(
        default="shuffle",
        description="shuffle takes each image once an epoch, balanced each class equally often",
    )
    accumulate: int = Field(
        default=1, gt=0, description="parts that a batch is computed in, to save memory"
    )
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = Field(
        default="adamw", description="how weights are updated"
    )
    lr: float | Literal["auto"] = Field(
        default=1e-3,
        description="peak learning rate; auto measures it by a range test before training",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd (Nesterov) and muon")
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="of adam and adamw: decay of the averages"
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="on weight matrices and filters; not on biases and norms"
    )
    schedule: Literal["constant", "step", "cosine", "one-cycle", "linear"] = Field(
        default="cosine", description="of the lr"
    )
    milestones: list[float] = Field(
        default=[],
        description="of schedule: step: where the lr falls, as parts of the run ([0.5, 0.75], the default) or, from 1 on, "
        "after so many epochs ([30, 60])",
    )
    step_factor: float = Field(
        default=0.1, gt=0, lt=1, description="of schedule: step: what the lr is multiplied by"
    )
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="part of the run in which the lr rises from zero"
    )
    clip: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the averaged weights; 0 is off"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="part of the target spread over all classes"
    )
    one_hot: bool = Field(
        default=False, description="use one-hot targets (the result is the same as with integers)"
    )
    class_weights: Literal["balanced"] | list[float] | None = Field(
        default=None, description="weight of each class in the loss"
    )
    resolutions: list[tuple[float, int]] = Field(
        default=[], description="[[0, 20], [0.5, 32]]: side in pixels from a part on"
    )
    tta: Literal["none", "flip", "flip-shift"] = Field(
        default="none", description="views averaged when predicting"
    )

    flips: Literal["as-stated", "auto"] = Field(
        default="as-stated",
        description="auto leaves out flips that would change a photo's class; decided before training, and recorded",
    )

    patience: int | None = Field(
        default=None, gt=0, description="evaluations without gain before stopping early"
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="which weights the run ends with, judged on validation"
    )
    monitor: str | None = Field(
        default=None,
        description="validation figure that patience and keep: best judge by, such as loss; by default the task's own",
    )
    evaluate_every: float = Field(
        default=1.0, gt=0, description="epochs between evaluations on validation"
    )
    clean_sample: int = Field(
        default=0,
        ge=0,
        description="training images that are also measured as they are, without augmentation, at each evaluation",
    )
    seed: int = Field(default=0, ge=0, description="of weights, order, augmentation and dropout")
    measure: Literal["test", "val"] = Field(
        default="test",
        description="what the run ends with: a look at the test split, or on validation without one",
    )
    search: dict[str, Any] = Field(
        default={},
        description="what tuning chooses: {lr: {low: 0.001, high: 0.1, log: true}, batch_size: [64, 128]}",
    )
    track: list[str] = Field(
        default=[], description="who is told of the run beside the folder (`tintype list tracking`)"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="arithmetic of the network"
    )
    threads: int | Literal["auto"] = Field(
        default="auto",
        description="that share the arithmetic; auto is what torch takes (1 in a study), then recorded",
    )
    exact: bool = Field(
        default=True,
        description="a resume ends bit-equal where the device can; false allows faster kernels",
    )
    compile: Literal["auto", "on", "off"] = Field(default="auto", description="torch.compile")
    channels_last: bool = Field(default=True, description="memory format of images and filters")
    hold_memory: bool = Field(default=True, description="keep freed memory in the process (glibc)")

    @field_validator("compile", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare on and off as true and false.
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("test_fraction", mode="before")
    @classmethod
    def _none_is_zero(cls, value: Any) -> Any:
        return 0 if value == "none" else value

    @field_validator("track", mode="before")
    @classmethod
    def _by_commas(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()]
            if isinstance(value, str)
            else value
        )

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

    @field_validator("tune")
    @classmethod
    def _known_tune(cls, tune: str) -> str:
        kind, _, count = tune.partition(":")
        if tune not in ("head", "all", "auto") and not (
            kind == "last" and count.isdigit() and int(count) > 0
        ):
            raise ValueError("expected head, last:N (as in last:2), all or auto")
        return tune

    @field_validator("image_size")
    @classmethod
    def _positive_size(cls, size: Any) -> Any:
        sides = size if isinstance(size, tuple) else (size,)
        if any(side is not None and not 1 <= side <= 4096 for side in sides):
            raise ValueError("must lie between 1 and 4096 pixels")
        return size

    @field_validator("resolutions")
    @classmethod
    def _ordered(cls, resolutions: list[tuple[float, int]]) -> list[tuple[float, int]]:
        starts = [start for start, _ in resolutions]
        if (
            starts != sorted(set(starts))
            or any(not 0 <= s < 1 for s in starts)
            or (starts and starts[0] != 0)
        ):
            raise ValueError(
                "must begin with part 0 and rise, each part below 1, as in [[0, 20], [0.5, 32]]"
            )
        return resolutions

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: list[float]) -> list[float]:
        parts, epochs = [m for m in milestones if m < 1], [m for m in milestones if m >= 1]
        if (
            milestones != sorted(set(milestones))
            or any(m <= 0 for m in parts)
            or (parts and epochs)
        ):
            raise ValueError(
                "must rise, as parts of the run below 1 ([0.5, 0.75]) or as epochs from 1 on ([30, 60])"
            )
        return milestones

    @model_validator(mode="after")
    def _nothing_idle(self) -> Recipe:
        default = type(self).model_fields["step_factor"].default
        if self.schedule != "step" and (self.milestones or self.step_factor != default):
            idle = (
                f"milestones {self.milestones} belong"
                if self.milestones
                else f"step_factor {self.step_factor:g} belongs"
            )
            usual = "milestones=[]" if self.milestones else f"step_factor={default:g}"
            raise ValueError(
                f"{idle} to schedule: step, but the schedule is {self.schedule}; set schedule=step or {usual}"
            )

        if self.monitor is not None and self.patience is None and self.keep == "last":
            raise ValueError("monitor has no effect without patience or keep: best")
        if self.epochs is not None and any(m >= self.epochs for m in self.milestones if m >= 1):
            raise ValueError(
                f"the milestones {self.milestones} lie beyond the end of the run, which has {self.epochs:g} epochs"
            )

        return self

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.accumulate > self.batch_size:
            raise ValueError("accumulate cannot be larger than batch_size")
        return self

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with some fields changed, checked again.

        `epochs` replaces `steps` and the other way round. "model_options.width" sets one option.

        Raises:
            UserError: an unknown field, or a value out of range.
        """
        # what was left open stays open
        fields: dict[str, Any] = self.model_dump(exclude_unset=True)
        if changes.get("epochs") is not None and "steps" not in changes:
            fields["steps"] = None
        if changes.get("steps") is not None and "epochs" not in changes:
            fields["epochs"] = None
        if "model" in changes and changes["model"] != self.model:
            fields["model_options"] = {}

        for key, value in changes.items():
            name, _, option = key.replace("-", "_").partition(".")
            name = ALIASES.get(name, name)
            if option:
                if name not in ("model_options", "model", "task_options", "task", "augment"):
                    raise UserError(
                        f"'{key}': only model.NAME, task.NAME and augment.NAME can be set inside a field."
                    )
                name = f"{name}_options" if name in ("model", "task") else name
                now = fields.get(name, getattr(self, name))
                inner = now if isinstance(now, dict) else {"preset": now}
                fields[name] = {**inner, option: value}
            else:
                fields[name] = value

        return build(fields, where="")

    def to_yaml(self) -> str:
        """Return the recipe as YAML, every field stated."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `key=value` texts into changes of a recipe; values are read as YAML (3, 0.1, true, [1, 2], {a: 1}).

    Raises:
        UserError: a text without `=`, or a value that is not YAML.
    """
    changes: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {text}: expected key=value, as in --set weight_decay=0.0005.")
        try:
            parsed = parse_yaml(value)
        except yaml.YAMLError:
            raise UserError(
                f"--set {text}: the value is not readable. Expected a number, a word, [a, b] or {{a: b}}."
            ) from None
        # YAML 1.1 reads 1e-3 as a word; people mean the number.
        if isinstance(parsed, str):
            with suppress(ValueError):
                parsed = float(parsed)
        changes[key.strip().replace("-", "_")] = parsed

    return changes


def build(fields: dict[str, Any], where: str) -> Recipe:
    """Make a Recipe from a mapping.

    Raises:
        UserError: an unknown field (with the nearest one), or a value of the wrong type or range.
    """
    fields = {ALIASES.get(key, key): value for key, value in fields.items()}
    for key in fields:
        if key not in Recipe.model_fields:
            raise unknown_name("field", str(key), [*Recipe.model_fields, *ALIASES], hint=where)
    try:
        return Recipe(**fields)
    except ValidationError as error:
        raise UserError(_plain(error, where)) from None


def _plain(error: ValidationError, where: str) -> str:
    """Say in one line what pydantic found wrong first."""
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = f" (got {first['input']!r})" if field and not isinstance(first["input"], dict) else ""
    return f"{where + ': ' if where else ''}{field + ': ' if field else ''}{message}{given}."


def recipe_names() -> dict[str, str]:
    """Return every built-in recipe with the first sentence of its head comment."""
    return {path.stem: head_sentence(path) for path in sorted(RECIPES.glob("*.yaml"))}


def recipe_source(name: str) -> str:
    """Return the published work that a built-in recipe rebuilds, in words; "" if it is our own."""
    sentence = head_sentence(RECIPES / f"{name}.yaml", "Source: ")
    return sentence.removeprefix("Source: ").removesuffix(".")


def recipe_task(name: str) -> str:
    """Return the task of a built-in recipe; reads its text only, so that a listing answers at once."""
    found = re.search(
        r"^task: *(\w+)", (RECIPES / f"{name}.yaml").read_text(encoding="utf-8"), re.MULTILINE
    )
    return found[1] if found else Recipe.model_fields["task"].default


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
    return build(fields, where=str(path))


def resolve(what: str) -> tuple[Recipe, str]:
    """Turn what a user typed after `tintype train` into a recipe, and say which kind of thing it was.

    A recipe's name comes before a data set's name; a path ending in .yaml is a recipe file; a
    folder is data, and so is a .csv, .tsv or .jsonl file.

    Raises:
        UserError: it is none of these; the message suggests the nearest names.
    """
    from tintype.plugins import names

    if what in recipe_names():
        also = (
            f", not the folder {what} that is here; for the folder type ./{what}"
            if Path(what).is_dir()
            else ""
        )
        return read_recipe(RECIPES / f"{what}.yaml"), f"recipe '{what}' (built in){also}"
    path = Path(what).expanduser()
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_recipe(path), f"recipe file {path}"
    is_table = path.suffix.lower() in (".csv", ".tsv", ".jsonl")
    if (what and path.is_dir()) or is_table:  # an empty text is not the folder one is in
        if path.is_dir() and (path / "recipe.yaml").exists() and (path / "model.json").exists():
            raise UserError(
                f"{path} is a run folder. To go on with it: tintype train --resume {path}"
            )
        also = (
            f", not the data set '{what}'; for that type --data {what}"
            if what in names("data", "classify")
            else ""
        )
        return build({"data": str(path.resolve()), **PHOTOS}, where=""), f"images in {path}{also}"
    if what in names("data", "classify"):
        return build({"data": what, **QUICK}, where=""), f"data set '{what}'"
    if path.is_file():
        raise no_data_set(path)
    if "/" in what or "\\" in what:
        raise UserError(
            f"there is no {what}. Expected a folder of images, a .csv or a .yaml file, or a recipe's name."
        )
    raise unknown_name(
        "recipe or data set",
        what,
        {**recipe_names(), **names("data", "classify")},
        "`tintype list recipes` shows them.",
    )


# For a data set without a recipe of its own: what the recipes of its kind use.
QUICK: dict[str, Any] = {
    "model": "fast-cnn", "augment": "light", "epochs": 8, "batch_size": 256, "optimizer": "muon", "lr": 0.24, "momentum": 0.6,
    "schedule": "linear", "label_smoothing": 0.1,
}  # fmt: skip

# For photos of one's own `training/automatic.py` chooses the rest: backbone, what to train, how long.
PHOTOS: dict[str, Any] = {"model": "auto", "tune": "auto"}
