"""What a recipe leaves open.

The preprocessing of a backbone; for photos the backbone, what of it to train, and how long. Every
choice is returned with its reason and printed; the recipe holds the result, so that a run repeats
without choosing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from tintype.data.source import DataSplits
from tintype.errors import UserError
from tintype.hardware.device import Choice
from tintype.models.parts.own import network_beside
from tintype.own_code import called, is_own
from tintype.progress import Progress
from tintype.recipe import Recipe, build
from tintype.runs.code import is_same, rows_of, trusted_reference
from tintype.runs.pretrained import (
    OwnRun,
    is_backbone,
    model_of_weights,
    own_preprocessing,
    own_run,
    require_weights,
)
from tintype.tasks.contract.options import TransferOptions
from tintype.training.backbone import (
    ENOUGH_EPOCHS,
    TRAINING_COST,
    Look,
    choose_backbone,
    choose_crop,
    choose_looks,
    prefers_head,
)
from tintype.training.bundles import LENGTH, UPDATE, Source, completed, settled
from tintype.training.speed import inference_speed, seconds_of

HEAD_EPOCHS, HEAD_VIEWS = 60, 4
FEWEST_EPOCHS, MOST_EPOCHS = 4, 20  # of fine-tuning
ABOUT_DATA = (
    "data",
    "data_root",
    "channels",
    "val_fraction",
    "test_fraction",
    "split_seed",
    "split_rule",
    "rules",
    "groups",
    "sampling",
    "class_weights",
    "device",
    "precision",
    "seed",
)
# images; below, a head on fixed features generalises as well, and is done at once
FEWEST_TO_FINE_TUNE = 500

HEAD: dict[str, Any] = {
    "tune": "head",
    "augment": "photos",
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 1e-3,
    "schedule": "cosine",
    "tta": "flip",
    "epochs": HEAD_EPOCHS,
}
EXACT_HEAD: dict[str, Any] = {"tune": "head", "solver": "exact", "tta": "flip"}
FINE_TUNE: dict[str, Any] = {
    "tune": "all",
    "augment": "photos",
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 5e-4,
    "weight_decay": 0.05,
    "layer_decay": 0.8,
    "schedule": "cosine",
    "warmup": 0.1,
    "label_smoothing": 0.1,
    "tta": "flip",
}


def without_idle(recipe: Recipe, asked: Collection[str]) -> tuple[Recipe, list[Choice]]:
    """Return the recipe without options that have no effect beside others.

    Raises:
        UserError: the user has set one.
    """
    fields = type(recipe.options).model_fields
    usual = {field: fields[field].get_default() for field in recipe.options.idle()}
    changes = {name: value for name, value in usual.items() if getattr(recipe, name) != value}

    choices = []
    for name in changes:
        why = recipe.options.idle()[name]
        if name in asked:
            raise UserError(f"{name} has no effect here: {why}. Leave it out.")
        choices.append(Choice(name.replace("_", " "), "none", why))
    return (recipe.replace(**changes) if changes else recipe), choices


def choose_model(
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    look: Look,
    progress: Progress | None = None,
    asked: Collection[str] = (),
    *,
    free: bool = False,
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with a model in place of "auto".

    A backbone's weights and preprocessing are filled in. Weights of an earlier run bring its
    network.

    Args:
        recipe: with or without model and weights.
        device: where it will compute.
        dtype: in which precision.
        look: returns what a first look at the images says.
        progress: called as progress(what, done, total) while weights are downloaded.
        asked: the fields that the user set.
        free: whether settings that the recipe leaves unset may be chosen.

    Raises:
        UserError: the weights' file name tells no model, or they are those of another model than
            the user asked for.
    """
    options = recipe.options
    if not isinstance(options, TransferOptions):
        return _with_usual_model(recipe)

    run = own_run(options.weights)
    if run is not None:
        recipe, choice = _with_network_of(run, recipe, asked)
        choices = [choice]
    elif recipe.model == "auto":
        recipe, choices = _with_model(recipe, device, dtype, look, progress)
    else:
        choices = []

    if not is_backbone(recipe.model):
        return recipe, choices
    if options.weights in (None, "default"):
        require_weights(recipe.model)
    head_or_open = options.tune == "auto" or (free and options.tune == "head")
    if run is None and options.weights != "none" and head_or_open:
        recipe, more = choose_looks(recipe, device, dtype, look)
        recipe, of_crop = choose_crop(recipe)
        choices += [*more, *of_crop]
    weights = options.weights or "default"
    own = own_preprocessing(recipe.model, weights)
    assert own is not None
    changes: dict[str, Any] = {"weights": weights}
    if recipe.image_size is None:
        changes["image_size"] = own.image_size
    if weights != "none" and run is None:
        changes["channels"] = 3
    if recipe.crop_fraction is None:
        changes["crop_fraction"] = own.crop_fraction if recipe.resize == "crop" else 1.0
    if recipe.interpolation is None:
        changes["interpolation"] = own.interpolation

    return recipe.replace(**changes), choices


def _with_usual_model(recipe: Recipe) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with the usual network of its task, if it starts from scratch."""
    if recipe.model != "auto":
        return recipe, []
    usual = recipe.options.from_scratch.get("model") or network_beside(recipe.task)
    why = f"the usual network of task {called(recipe.task)}"
    if usual is None:
        usual = type(recipe).model_fields["model"].get_default()
        why = f"task {called(recipe.task)} names none of its own"
    return recipe.replace(model=usual), [Choice("model", called(usual), why)]


def _with_network_of(run: OwnRun, recipe: Recipe, asked: Collection[str]) -> tuple[Recipe, Choice]:
    """Return the recipe with the network of an earlier run, which sees images as it did there."""
    code = {row["field"]: row for row in rows_of(run.description)}.get("model")
    again = code is not None and is_own(recipe.model) and is_same(code, recipe.model)
    if "model" in asked and recipe.model not in ("auto", run.model) and not again:
        raise UserError(
            f"the network of {run.folder} is {run.model}, not {recipe.model}. Leave out --model, "
            "or give other --weights."
        )
    own_options = any(key.startswith(("model_options", "model.")) for key in asked)
    own = run.preprocessing
    model = recipe.model if again else run.model
    if code is not None and not again:
        model = trusted_reference(run.folder, code)
    changes: dict[str, Any] = {
        "model": model,
        "model_options": {**run.options, **(recipe.model_options if own_options else {})},
        "image_size": own.image_size if recipe.image_size is None else recipe.image_size,
        "channels": recipe.fields().get("channels") or len(own.mean),
        "crop_fraction": own.crop_fraction
        if recipe.crop_fraction is None
        else recipe.crop_fraction,
        "interpolation": own.interpolation
        if recipe.interpolation is None
        else recipe.interpolation,
    }
    if "resize" not in recipe.model_fields_set:
        changes["resize"] = own.mode

    return recipe.replace(**changes), Choice(
        "model", run.model, f"the network of {run.folder.name}, a run of your own"
    )


def _with_model(
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    look: Look,
    progress: Progress | None,
) -> tuple[Recipe, list[Choice]]:
    weights = recipe.fields()["weights"]
    if weights not in (None, "none", "default"):
        model = model_of_weights(Path(str(weights)))
        if not Path(str(weights)).exists():
            raise UserError(f"there is no weight file {weights}.")
        if model is None:
            raise UserError(
                f"the name of {weights} tells no model. Say which it is, as in --model resnet18."
            )
        return recipe.replace(model=model), [Choice("model", model, "by the name of the weights")]

    return choose_backbone(recipe, device, dtype, look, progress)


def open_settings(
    base: Recipe, recipe: Recipe, asked: Collection[str], kind: str
) -> tuple[Recipe, list[Choice], bool]:
    """Return a recipe whose settings fit together after the user has set some.

    With it come the reason, and whether the rest may be chosen.

    Args:
        base: what the user named.
        recipe: `base` with the changes of the user.
        asked: the fields that the user changed.
        kind: which kind of thing `base` is, as `recipe.resolve` says it.

    Returns:
        The recipe, the decisions, and whether `choose_training` may fill in what the recipe leaves
        unset.
    """
    given = {field: value for field, value in recipe.fields().items() if field in asked}
    if kind.startswith("images in"):
        return recipe, [], True

    named = kind.startswith("data set") or kind.endswith("(built in)")
    other = recipe.model != base.model
    if named and other and _starts_pretrained(recipe) and not _names_weights(base):
        # How another network is trained from scratch says nothing about one with pretrained
        # weights.
        kept = {
            field: value
            for field, value in recipe.stated().items()
            if field in given or field in ABOUT_DATA
        }
        return (
            build({**kept, "model": recipe.model, "tune": given.get("tune", "auto")}, where=""),
            [],
            True,
        )

    name = "a data set without a recipe" if kind.startswith("data set") else _name_of(kind)
    # The rate and the optimizer of what is built in were found for its own network.
    stands = not kind.startswith("data set") and not (named and other)
    settings, choices = completed(base.stated(), given, name, stands=stands)
    fields = recipe.fields()
    changes = {field: value for field, value in settings.items() if fields[field] != value}
    return (recipe.replace(**changes) if changes else recipe), choices, False


def _starts_pretrained(recipe: Recipe) -> bool:
    weights = recipe.fields().get("weights")
    return _names_weights(recipe) or (is_backbone(recipe.model) and weights != "none")


def _names_weights(recipe: Recipe) -> bool:
    return recipe.fields().get("weights") not in (None, "none")


def _name_of(kind: str) -> str:
    return "the recipe" if kind == "a Recipe" else kind.removesuffix(" (built in)")


def choose_training(
    recipe: Recipe,
    splits: DataSplits,
    device: torch.device,
    dtype: torch.dtype,
    *,
    free: bool = False,
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with a way to train and a length where it leaves them open.

    That is so with tune "auto", for heads, and for everything where the user named only images
    (`free`).
    """
    options = recipe.options
    if not isinstance(options, TransferOptions):
        return _from_scratch(recipe) if free else (recipe, [])

    if options.weights in (None, "none"):
        left_open = free or options.tune == "auto"
        recipe, choices = _from_scratch(recipe) if left_open else (recipe, [])
        return recipe, [*choices, *_all_is_trained(options.tune)]
    if options.without_steps and options.needs_steps:
        raise UserError(
            f"solver: exact fits a linear head by the usual loss, but {options.needs_steps}. "
            "Leave one of the two out, or set solver=steps."
        )
    if options.tune == "head":
        return _head(recipe, splits, device, dtype) if free else _length_of_head(recipe)
    if options.tune == "auto" or free:
        return _by_time(recipe, splits, device, dtype)
    return recipe, []


def _from_scratch(recipe: Recipe) -> tuple[Recipe, list[Choice]]:
    wanted = {**recipe.options.from_scratch, "model": recipe.model}
    return _filled(recipe, Source("training from scratch", wanted))


def _all_is_trained(tune: str) -> list[Choice]:
    """Return what becomes of a part to tune where a network starts from scratch."""
    if tune in ("auto", "all"):
        return []
    why = (
        f"there are no pretrained weights of which tune {tune} could keep a part; "
        "--weights FILE gives some"
    )
    return [Choice("tune", "all", why)]


def _by_time(
    recipe: Recipe, splits: DataSplits, device: torch.device, dtype: torch.dtype
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe for fine-tuning as long as the time allows, or for a head where it does not
    allow enough.
    """
    train = len(splits.train)
    part = recipe.fields()["tune"]
    asked = part != "auto"
    if not asked and train < FEWEST_TO_FINE_TUNE:
        reason = f"{train:,} training images are few"
        return _head(recipe, splits, device, dtype, reason=reason)
    if not asked and prefers_head(recipe, device):
        reason = "no time is given; --time 30m may let all layers be trained"
        return _head(recipe, splits, device, dtype, reason=reason)

    speed, spare, budget = _spare_seconds(recipe, splits, device, dtype)
    epoch = TRAINING_COST * train / speed
    if not asked and spare < ENOUGH_EPOCHS * epoch:
        reason = f"an epoch of all layers takes about {epoch:.0f} s"
        return _head(recipe, splits, device, dtype, reason=reason)

    epochs = int(min(MOST_EPOCHS, max(FEWEST_EPOCHS, spare / epoch)))
    tune = part if asked else "all"
    chosen, choices = _filled(
        recipe,
        Source("fine-tuning", {**FINE_TUNE, "tune": tune, "epochs": epochs}, pretrained=True),
    )
    why = (
        f"{train:,} training images, {epochs} epochs of about {epoch:.0f} s fit into {budget:.0f} s"
    )
    if asked:
        why = (
            f"as asked; {_length_in_words(chosen)}, "
            f"each epoch of {train:,} images at most about {epoch:.0f} s"
        )
    return chosen, [Choice("tune", tune, why), *choices]


def _head(
    recipe: Recipe,
    splits: DataSplits,
    device: torch.device,
    dtype: torch.dtype,
    reason: str = "as asked",
) -> tuple[Recipe, list[Choice]]:
    steps = _why_steps(recipe)
    if not steps:
        chosen, choices = _filled(recipe, Source("a head", EXACT_HEAD, pretrained=True))
        why = f"{reason}; the features of each image are computed once"
        how = "linear heads are fitted in seconds, and cross-validation chooses one"
        return chosen, [Choice("tune", "head", why), Choice("solver", "exact", how), *choices]

    speed, spare, _ = _spare_seconds(recipe, splits, device, dtype)
    views = int(min(HEAD_VIEWS, max(0, spare / (len(splits.train) / speed))))
    chosen, choices = _filled(recipe, Source("a head", {**HEAD, "views": views}, pretrained=True))
    views = chosen.fields()["views"]
    copies = f" and of {views} augmented copies" if views else ""
    why = f"{reason}; the features of each image{copies} are computed once ({speed:.0f} images/s)"
    return chosen, [Choice("tune", "head", why), *choices]


def _why_steps(recipe: Recipe) -> str:
    """Return why a head is trained in steps; empty where it is fitted exactly."""
    options = recipe.options
    assert isinstance(options, TransferOptions)
    stated = recipe.stated()
    if stated.get("solver", options.usual_solver) == "steps":
        return "as is usual"
    if "solver" in stated:
        return ""

    of_steps = [field for field in (*UPDATE, *LENGTH, "ema") if field in stated]
    return options.needs_steps or (f"{of_steps[0]} is stated" if of_steps else "")


def _length_of_head(recipe: Recipe) -> tuple[Recipe, list[Choice]]:
    """Return a recipe that states a head with the length and the optimizer that heads need, where
    it leaves them open.
    """
    if recipe.options.without_steps:
        return recipe, []
    settings, choices = settled(recipe.stated(), Source("a head", HEAD, pretrained=True))
    bundles = {key: value for key, value in settings.items() if key in (*UPDATE, *LENGTH)}
    fields = recipe.fields()
    changes = {key: value for key, value in bundles.items() if fields[key] != value}
    if not changes:
        return recipe, choices
    chosen = recipe.replace(**changes)
    return chosen, [
        Choice("length", _length_in_words(chosen), "what a head on fixed features needs"),
        *choices,
    ]


def _length_in_words(recipe: Recipe) -> str:
    count = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs or 10:g} epochs"
    return (
        f"{count} of {recipe.batch_size} images a step"
        if not recipe.steps
        else f"{count} of {recipe.batch_size} images"
    )


def _spare_seconds(
    recipe: Recipe, splits: DataSplits, device: torch.device, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Return how many images a second the network takes, the seconds that are left for training,
    and those of the budget.
    """
    budget = seconds_of(recipe)
    speed = inference_speed(recipe, splits.spec, device, dtype)
    # measuring, with mirrored views
    others = 2 * (len(splits.val) + len(splits.test)) + 2 * len(splits.train)
    return speed, budget - others / speed, budget


def _filled(recipe: Recipe, source: Source) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with the settings of a source wherever the user has set none."""
    given = {
        field: value for field, value in recipe.stated().items() if field not in ("model", "tune")
    }
    settings, choices = settled(given, source)
    if given.get("epochs") is not None or given.get("steps") is not None:
        settings = {key: value for key, value in settings.items() if key not in ("epochs", "steps")}

    # a source serves several tasks, of which not each has every setting
    known = recipe.fields().keys()
    return recipe.replace(**{k: v for k, v in settings.items() if k in known}), choices
