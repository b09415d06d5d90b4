"""What runs differ in: settings, data, splits and preprocessing; said before any ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tintype.files.names import last_part
from tintype.tasks.contract.compare import compare_part, listed

if TYPE_CHECKING:
    from tintype.tasks.contract.compared_run import Compared

# Where and how fast a run computes, what is kept of it, and chance: nothing that a result could be
# credited to. Targets as integers and as one-hot vectors give the same loss.
NO_SETTING = {
    "seed",
    "device",
    "threads",
    "compile",
    "exact",
    "channels_last",
    "hold_memory",
    "track",
    "search",
    "measure",
    "data",
    "data_root",
    "split_rule",
    "flips",
    "time",
    "one_hot",
    "clean_sample",
}
# Fields that only some values of another field read.
READ_BY = {
    "momentum": ("optimizer", ("sgd", "muon")),
    "betas": ("optimizer", ("adam", "adamw")),
    "milestones": ("schedule", ("step",)),
    "step_factor": ("schedule", ("step",)),
}
# read where a run stops early or keeps its best weights
READ_TO_STOP = ("monitor", "evaluate_every")
CHOSEN = (
    "image_size",
    "channels",
    "crop_fraction",
    "interpolation",
    "normalise",
)  # by the data and network if left open
OPTIONS = ("model_options", "task_options")
NAMES = {
    "lr": "learning rate",
    "augment": "augmentation",
    "model": "network",
    "val fraction": "validation part",
    "test fraction": "test part",
    "hidden": "hidden layers",
}
PARTS = ("data", "splits", "preprocessing")
MOST_SETTINGS = 8  # that a sentence lists


@dataclass(frozen=True)
class Difference:
    """A setting with its value in the reference and in the other run, as they are written; `field`
    is the recipe's.
    """

    field: str
    setting: str
    reference: str
    value: str

    def __str__(self) -> str:
        return f"{self.setting} ({self.reference} → {self.value})"


@dataclass(frozen=True)
class Confounding:
    """Two runs or variants that differ in more than one setting.

    No difference can then be credited to one of them. `about` names the settings that the question
    is about; empty where it names none.
    """

    name: str
    reference: str
    differences: tuple[Difference, ...]
    about: tuple[str, ...] = ()

    def sentence(self, size: str = "") -> str:
        """Return what is to be said first: in how many settings they differ, in which, and what
        `size` is the sum of.
        """
        settings = [str(difference) for difference in self.differences]
        which = ", ".join(settings[:MOST_SETTINGS])
        more = f" and {len(settings) - MOST_SETTINGS} more" if len(settings) > MOST_SETTINGS else ""
        what = f"The {size} between them are" if size else "Any difference between them is"
        asked = f", not the effect of {listed(self.about)} alone" if self.about else ""
        return (
            f"{self.name} differs from {self.reference} in {len(settings)} settings: "
            f"{which}{more}. "
            f"{what} the sum of these{asked}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "sentence": self.sentence()}


@dataclass(frozen=True)
class Row:
    """One fact of each run of a comparison, in their order, as it is written."""

    part: str
    what: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs do not all have the same."""
        return len(set(self.values)) > 1


def settings_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return what a recipe sets that can change its result, as it is written; options of the
    network one by one.
    """
    fields = {
        key: value
        for key, value in recipe.items()
        if key not in NO_SETTING and key not in ("epochs", "steps")
    }
    for key, (other, values) in READ_BY.items():
        if fields.get(other) not in values:
            fields.pop(key, None)
    if fields.get("patience") is None and fields.get("keep") != "best":
        for key in READ_TO_STOP:
            fields.pop(key, None)
    chosen = {key for key in CHOSEN if fields.get(key) is None}
    found = {
        key: "default" if key in chosen else said(fields[key])
        for key in fields
        if key not in OPTIONS
    }
    for options in OPTIONS:
        found |= {
            f"{options}.{key}": said(value) for key, value in (fields.get(options) or {}).items()
        }

    if isinstance(fields.get("image_size"), list | tuple):
        found["image_size"] = "x".join(map(str, reversed(fields["image_size"])))

    steps = recipe.get("steps")
    epochs = recipe.get("epochs")
    found["length"] = f"{said(epochs)} epochs" if epochs else "chosen"
    if steps is not None:
        found["length"] = f"{steps:,} steps"
    return found


def completed(recipe: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's recipe with the size and channels that its network sees, whether they were
    asked for or chosen.
    """
    how = model.get("preprocessing") or {}
    found = {
        key: how[key]
        for key in ("channels", "crop_fraction", "interpolation")
        if how.get(key) is not None
    }
    if how.get("height") and how.get("width"):
        found["image_size"] = [how["height"], how["width"]]
    return {**recipe, **found}


def differing(reference: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return the settings in which two recipes differ.

    Of another network the options are part of the network.
    """
    one, other = settings_of(reference), settings_of(recipe)
    if one.get("model") != other.get("model"):
        one, other = (
            {k: v for k, v in each.items() if not k.startswith("model_options.")}
            for each in (one, other)
        )

    readers = {key: reader for key, (reader, _) in READ_BY.items()} | dict.fromkeys(
        READ_TO_STOP, ""
    )
    # a consequence of another setting is no difference of its own
    for key, reader in readers.items():
        if one.get(reader) != other.get(reader) or (key in one) != (key in other):
            one.pop(key, None)
            other.pop(key, None)

    keys = dict.fromkeys([*one, *other])
    return tuple(
        Difference(key, name_of(key), one.get(key, "default"), other.get(key, "default"))
        for key in keys
        if one.get(key, "default") != other.get(key, "default")
    )


def name_of(field: str) -> str:
    """Return what a setting is called in a sentence: "learning rate" for lr, "dropout" for
    model_options.dropout.
    """
    short = field.rpartition(".")[2].replace("_", " ")
    return NAMES.get(short, short)


def said(value: Any) -> str:
    """Return a value of a recipe as it is written: "flip, crop 4", "100-20-10", "none"."""
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, Mapping):
        return (
            ", ".join(
                key if inner is True else f"{key} {said(inner)}" for key, inner in value.items()
            )
            or "none"
        )
    if isinstance(value, list | tuple):
        return "-".join(said(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:g}"

    return last_part(str(value))


def confounded(runs: Sequence[Compared]) -> list[Confounding]:
    """Return those of some runs that differ from the first one in more than one setting."""
    found = []
    for run in runs[1:]:
        differences = differing(
            completed(runs[0].recipe, runs[0].model), completed(run.recipe, run.model)
        )
        if len(differences) > 1:
            found.append(Confounding(run.name, runs[0].name, differences))
    return found


def side_by_side(runs: Sequence[Compared]) -> list[Row]:
    """Return the data, splits and preprocessing of runs, and those settings of training in which
    they differ.
    """
    facts = [_facts(run) for run in runs]
    rows = [
        Row(part, what, tuple(each.get((part, what), "–") for each in facts))
        for part, what in dict.fromkeys(key for each in facts for key in each)
    ]
    rows = [row for row in rows if set(row.values) != {"–"}]
    rows.sort(key=lambda row: PARTS.index(row.part))  # what a task adds stands with its part

    settings = [settings_of(run.recipe) for run in runs]
    known = {
        "image_size",
        "channels",
        "resize",
        "crop_fraction",
        "interpolation",
        "normalise",
        "augment",
    }
    known |= {"val_fraction", "test_fraction", "split_seed", "groups", "task"}
    for key in dict.fromkeys(key for each in settings for key in each):
        row = Row("training", name_of(key), tuple(each.get(key, "–") for each in settings))
        if key not in known and row.differs:
            rows.append(row)
    return rows


def _facts(run: Compared) -> dict[tuple[str, str], str]:
    """Return what is written of one run's data, splits and preprocessing."""
    recipe, data, how = run.recipe, run.data, run.model.get("preprocessing") or {}
    counts = data.get("num_images") or {}
    shape = [how.get(key) for key in ("width", "height")]
    found: dict[tuple[str, str], Any] = {
        ("data", "data set"): data.get("name"),
        ("data", "place"): recipe.get("data_root") or recipe.get("data"),
        ("data", "skipped files"): f"{len(data.get('skipped') or []):,}",
        ("splits", "training images"): _count(counts.get("train")),
        ("splits", "validation images"): _count(counts.get("val")),
        ("splits", "test images"): _count(counts.get("test")),
        ("splits", "validation part"): said(recipe.get("val_fraction")),
        ("splits", "test part"): said(recipe.get("test_fraction")),
        ("splits", "seed of the split"): said(recipe.get("split_seed")),
        ("splits", "groups"): said(recipe.get("groups")),
        ("splits", "near-copies looked for"): said(
            recipe.get("split_rule", "at-image-size")
        ).replace("-", " "),
        ("splits", "membership"): run.members[:8],
        ("preprocessing", "image size"): "x".join(map(str, shape)) if all(shape) else None,
        ("preprocessing", "colours"): {1: "grey", 3: "RGB"}.get(how.get("channels") or 0),
        ("preprocessing", "resize"): how.get("resize"),
        ("preprocessing", "part of the centre"): _share(how.get("crop_fraction")),
        ("preprocessing", "interpolation"): how.get("interpolation"),
        ("preprocessing", "mean"): _numbers(how.get("mean")),
        ("preprocessing", "deviation"): _numbers(how.get("std")),
        ("preprocessing", "augmentation"): said(recipe.get("augment")),
        **compare_part(run.task).facts(run),
    }

    return {key: str(value) for key, value in found.items() if value not in (None, "")}


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _share(value: Any) -> str | None:
    return f"{value:.4g}" if isinstance(value, int | float) else None


def _numbers(values: Any) -> str | None:
    return (
        ", ".join(f"{value:.3f}" for value in values)
        if isinstance(values, list) and values
        else None
    )
