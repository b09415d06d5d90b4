"""Prepare a run, up to its first step.

Open the data, take every automatic choice, build the network, and check that all fits.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from tintype.augment.spec import resolve
from tintype.data import open_data
from tintype.data.decode import Resize
from tintype.data.glance import glance
from tintype.data.source import DataSplits, Glance, ImageSource
from tintype.errors import UserError
from tintype.hardware.arithmetic import OTHERS, choose_exact, choose_threads, computing
from tintype.hardware.device import (
    IDLE,
    Choice,
    choose_compile,
    choose_device,
    choose_precision,
    hold_memory,
)
from tintype.models import count_parameters
from tintype.optim import OwnOptimizer
from tintype.own_code import called, is_own, running, with_references
from tintype.plugins import find, find_part, has_part, own_task
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.code import needed
from tintype.runs.model import describe_model, preprocessing
from tintype.tasks.contract.own_data import target_of
from tintype.tasks.task import Task
from tintype.tasks.validation import ValidationUse, use_validation
from tintype.training.automatic import choose_model, choose_training
from tintype.training.engine import Plan, monitored

# Choices about the machine, which change how fast a run is and not what it does.
MACHINE = ("memory", "device", "precision", "compile", "threads", "exact")


def is_detail(note: str) -> bool:
    """Return whether a note on the data repeats its sizes, or where pixels are kept."""
    return note.startswith("resident, ") or re.match(r"[\d,]+ images of \d", note) is not None


@dataclass
class Prepared:
    """A run that is ready to start: everything is checked and every choice is taken.

    Attributes:
        recipe: what will be done; of what it left open, what can be decided now is filled in.
        splits: the images.
        task: the networks and their mathematics.
        device: where the run computes.
        compile: whether the networks are compiled.
        plan: how long the run is, in steps.
        choices: what was decided, with the reasons, in the order in which it was.
        model: what model.json will say of the network.
    """

    recipe: Recipe
    splits: DataSplits
    task: Task
    device: torch.device
    compile: bool
    plan: Plan
    choices: list[Choice]
    model: dict[str, Any]

    def lines(self, *, verbose: bool = False) -> list[str]:
        """Return what a run says first; with `verbose`, also how it uses the machine."""
        choices = [
            choice
            for choice in self.choices
            if verbose or choice.name not in MACHINE or self._is_news(choice)
        ]
        lines = [
            *self._data_lines(verbose=verbose),
            *self._model_lines(),
            self._plan_line(),
            *map(str, choices),
        ]
        return lines if verbose else [*lines, self._machine_line()]

    def _data_lines(self, *, verbose: bool) -> list[str]:
        spec = self.splits.spec
        target = spec.target.brief()
        shape = f"{spec.channels}x{spec.height}x{spec.width}"
        sizes = ", ".join(f"{s} {_counted(self.splits[s])}" for s in ("train", "val", "test"))

        notes = [note for note in self.splits.notes if verbose or not is_detail(note)]
        return [
            f"data: {', '.join(filter(None, (spec.name, target, shape)))}: {sizes}",
            *(f"  {note}" for note in notes),
        ]

    def _model_lines(self) -> list[str]:
        parameters = f"{self.model['parameters']:,} parameters"
        cost = f"{self.model['multiply_adds']:,} multiply-adds per image"
        by_network = self.model.get("parameters_by_network", {})
        return [
            f"model: {self.recipe.model}, {parameters}, {cost}",
            *(f"  {name}: {count:,} parameters" for name, count in by_network.items()),
        ]

    def _plan_line(self) -> str:
        recipe = self.recipe
        plan = self.plan
        if recipe.options.without_steps:
            return "plan: the head is fitted exactly, without steps"

        schedule = recipe.schedule
        if plan.milestones:
            steps = ", ".join(f"{part * plan.total_steps:,.0f}" for part in plan.milestones)
            schedule = f"step (x {recipe.step_factor:g} at step {steps})"

        length = f"{plan.total_steps:,} steps of {plan.batch_size} images"
        return (
            f"plan: {length}, {called(recipe.optimizer)}, lr {recipe.lr}, {schedule}, "
            f"augment {with_references(recipe.augment, called)}"
        )

    def _machine_line(self) -> str:
        chosen = [c.choice for c in self.choices if c.name in ("device", "precision")]
        threads = f"{self.recipe.threads} thread{'' if self.recipe.threads == 1 else 's'}"
        sharing = [c.choice for c in self.choices if c.name == "processes" and c.choice != "1"]
        if sharing:
            threads = f"{sharing[0]} processes of {threads} each"
        return f"machine: {', '.join([*chosen, threads])} (--verbose says more)"

    def _is_news(self, choice: Choice) -> bool:
        """Return whether a choice about the machine matters to everybody.

        That is where equal bits, as promised, cannot be kept, where other processes compute, and
        where GPUs stay idle.
        """
        if choice.name == "device":
            return IDLE in choice.reason
        if choice.name == "threads":
            return choice.reason.startswith(OTHERS)
        return choice.name == "exact" and choice.choice == "no" and self.recipe.exact

    def summary(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        spec = self.splits.spec
        data = {
            "name": spec.name,
            "channels": spec.channels,
            "height": spec.height,
            "width": spec.width,
            **spec.target.summary(),
            "num_images": {s: len(self.splits[s]) for s in ("train", "val", "test")},
        }
        counts = ("parameters", "parameters_by_network", "multiply_adds")

        return {
            **{key: self.model[key] for key in counts if key in self.model},
            "recipe": self.recipe.model_dump(mode="json"),
            "data": data,
            "steps": self.plan.total_steps,
            "choices": [vars(choice) for choice in self.choices],
        }


def _counted(source: ImageSource) -> str:
    return f"{len(source):,}" if len(source) else "none"


def prepare(
    recipe: Recipe,
    watcher: Watcher,
    asked: Collection[str] = (),
    choices: Sequence[Choice] = (),
    *,
    free: bool = False,
) -> Prepared:
    """Make a run ready to start; nothing is written.

    Args:
        recipe: what to do.
        watcher: is shown the progress.
        asked: the fields that the user set, as against those of a built-in recipe.
        choices: what was decided before.
        free: whether settings that the recipe leaves unset may be chosen; otherwise they have their
            defaults.

    Raises:
        UserError: whatever is wrong with recipe, data, model or device.
    """
    threads, of_threads = choose_threads(recipe.threads, by_load=True)
    recipe = recipe.replace(threads=threads)
    choices = [*choices, of_threads]

    # Weights are made and choices are measured under the same arithmetic as training.
    with computing(threads, recipe.device, exact=recipe.exact):
        device, dtype, more = _choose_machine(recipe)
        choices += more
        _refuse_unmeasured(recipe)
        _refuse_augmentation(recipe)

        # The model comes before the data: its preprocessing says how images are read.
        recipe, more = choose_model(
            recipe, device, dtype, cache(partial(_look, recipe)), watcher.on_work, asked, free=free
        )
        choices += more
        resize = _resize(recipe)
        splits = _open(recipe, resize, watcher)
        _refuse_choice(recipe, splits)

        # How to train depends on the images.
        recipe, more = _choose_by_images(recipe, splits, device, dtype, asked, free=free)
        choices += more
        plan = Plan.of(recipe, len(splits.train))
        compile, more = _choose_kernels(recipe, plan, device)
        choices += more

        task = _build(recipe, splits, device, dtype, watcher)
        _refuse_weights(recipe, splits, task)
        task.validation = _use_of_validation(recipe, task, splits)
        choices += [*task.choices, *task.validation.choices()]
        _check(recipe, plan, task)
        choices += _without_effect(recipe, plan)

        model = _model_json(recipe, task, dtype, resize)
        return Prepared(recipe, splits, task, device, compile, plan, choices, model)


def _choose_machine(recipe: Recipe) -> tuple[torch.device, torch.dtype, list[Choice]]:
    memory = Choice("memory", "as the system does", "as asked")
    if recipe.hold_memory:
        memory = hold_memory()

    device, of_device = choose_device(recipe.device)
    dtype, of_precision = choose_precision(recipe.precision, device, any_units=recipe.rules < 3)
    return device, dtype, [memory, of_device, of_precision]


def _refuse_augmentation(recipe: Recipe) -> None:
    """Refuse an augmentation that cannot be read before any image is."""
    resolve(recipe.augment)


def _refuse_unmeasured(recipe: Recipe) -> None:
    """Refuse a run that is to be measured, and holds out nothing to be measured on."""
    if recipe.measure == "none":
        return
    if not recipe.val_fraction and not recipe.folds:
        raise UserError(
            "val_fraction is 0, and the figures of a run need validation images. "
            "Expected more, or measure: none, which trains and measures nothing."
        )
    if not recipe.test_fraction and recipe.options.needs_test:
        raise UserError(
            f"task {called(recipe.task)} cannot do without a test part: its figures need one. "
            "Leave --test none out."
        )


def _refuse_choice(recipe: Recipe, splits: DataSplits) -> None:
    """Refuse a choice by validation images where there are none."""
    if len(splits.val):
        return
    asked = "patience" if recipe.patience is not None else "keep: best"
    if recipe.patience is not None or recipe.keep == "best":
        raise UserError(
            f"{asked} chooses by validation images, and there are none (val_fraction is 0). "
            f"Leave it out, or set val_fraction, as in val_fraction=0.1."
        )


def _look(recipe: Recipe) -> Glance | None:
    """Return what a first look at the images says, before they are read."""
    return _call_with_fields(glance, recipe, target=target_of(recipe))


def refuse_missing_data(recipe: Recipe) -> None:
    """Raise where a look at the images finds none; a task that opens them itself looks for itself.

    Raises:
        UserError: the data cannot be found, or hold no image.
    """
    if not hasattr(find("tasks", recipe.task), "open_data"):
        _look(recipe)


def _resize(recipe: Recipe) -> Resize:
    crop_fraction = recipe.crop_fraction or 1.0
    return Resize(recipe.resize, crop_fraction, recipe.interpolation or "bilinear")


def _open(recipe: Recipe, resize: Resize, watcher: Watcher) -> DataSplits:
    """Return the images as the task wants them: by an opener of its own, or as all others do."""
    opener = getattr(find("tasks", recipe.task), "open_data", open_data)
    target = target_of(recipe)
    return _call_with_fields(opener, recipe, resize=resize, target=target, progress=watcher.on_work)


def _choose_by_images(
    recipe: Recipe,
    splits: DataSplits,
    device: torch.device,
    dtype: torch.dtype,
    asked: Collection[str],
    *,
    free: bool,
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with what depends on the images.

    That is how it trains, and which flips it keeps.
    """
    recipe, choices = choose_training(recipe, splits, device, dtype, free=free)
    if recipe.time and not recipe.options.without_steps:
        why = "at most; how many steps that is, is measured before the first one"
        choices = [*choices, Choice("time", recipe.time, why)]

    if has_part(recipe.task, "symmetry"):
        symmetry = find_part(recipe.task, "symmetry", "have symmetries")
        recipe, more = symmetry.keep_orientation(recipe, splits, asked)
        choices = [*choices, *more]
    return recipe, choices


def _choose_kernels(recipe: Recipe, plan: Plan, device: torch.device) -> tuple[bool, list[Choice]]:
    compile, of_compile = choose_compile(
        recipe.compile, device, plan.total_steps, exact=recipe.exact
    )
    return compile, [of_compile, choose_exact(recipe.exact, device, compile=compile)]


def _build(
    recipe: Recipe, splits: DataSplits, device: torch.device, dtype: torch.dtype, watcher: Watcher
) -> Task:
    make = find("tasks", recipe.task).make
    whose = f"the task {called(recipe.task)}"
    with running(whose) if own_task(recipe.task) else nullcontext():
        task = _call_with_fields(
            make, recipe, splits, device=device, dtype=dtype, progress=watcher.on_work
        )
    # A network of the user's own may reshape what it computes, which takes contiguous memory.
    if recipe.channels_last and not is_own(recipe.model):
        for network in task.networks.values():
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return task


def _refuse_weights(recipe: Recipe, splits: DataSplits, task: Task) -> None:
    if splits.train.weights is not None and not task.weighs_images:
        raise UserError(
            f"task {called(recipe.task)} weighs no images. Leave sample_weight out, or the column "
            "of that name."
        )


def _use_of_validation(recipe: Recipe, task: Task, splits: DataSplits) -> ValidationUse:
    """Decide what the validation images are used for: to choose weights, to calibrate, or both."""
    if task.fits_validation:
        return ValidationUse.fitted(len(splits.val), calibrates=not recipe.folds)

    at_once = recipe.options.without_steps
    chose = [] if recipe.patience is None or at_once else ["when to stop"]
    if (recipe.keep == "best" or recipe.patience is not None) and not at_once:
        chose.append("the best weights")

    return use_validation(
        splits.val,
        splits.groups,
        rules=recipe.rules,
        seed=recipe.split_seed,
        chose=chose,
        chose_in_task=task.chooses,
        fewest_to_calibrate=0 if recipe.folds else task.fewest_to_calibrate,  # folds calibrate
        calibrated=task.calibrated,
    )


def _call_with_fields(
    function: Callable[..., Any], recipe: Recipe, *arguments: Any, **more: Any
) -> Any:
    """Call a function with those fields of the recipe, and of `more`, that are its parameters."""
    parameters = inspect.signature(function).parameters
    fields = {**recipe.fields(), **more}
    known = {name: value for name, value in fields.items() if name in parameters}
    return function(*arguments, **known)


def _check(recipe: Recipe, plan: Plan, task: Task) -> None:
    """Refuse settings that do not fit the networks of the task."""
    _check_batches(recipe, plan, task)
    if is_own(recipe.optimizer):
        OwnOptimizer(recipe.optimizer).try_out(1e-3 if recipe.lr == "auto" else recipe.lr)
    monitored(recipe, task)
    if recipe.lr == "auto" and len(task.phases) > 1:
        raise UserError(
            "lr: auto measures one loss, but this task has several. "
            "Give a number, as in --lr 0.0002."
        )


def _check_batches(recipe: Recipe, plan: Plan, task: Task) -> None:
    at_once = plan.batch_size // (recipe.parts * recipe.accumulate)
    if not at_once and not recipe.options.without_steps:
        raise UserError(
            f"a batch of {plan.batch_size} images cannot have {recipe.parts} parts"
            + (f" of {recipe.accumulate} (accumulate)" if recipe.accumulate > 1 else "")
            + ". Expected an image for each at least."
        )

    layers = [m for network in task.networks.values() for m in network.modules()]
    has_norm = any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in layers)
    if has_norm and at_once < 2:
        fewer = "fewer parts" if recipe.parts > 1 else "a smaller accumulate"
        raise UserError(
            f"model {recipe.model} has batch norm, which needs at least 2 images at once. "
            f"Try a larger --batch-size or {fewer}."
        )


def _without_effect(recipe: Recipe, plan: Plan) -> list[Choice]:
    """Return a line on patience that is longer than the run, or that has nothing to wait for."""
    if recipe.patience is not None and recipe.options.without_steps:
        return [Choice("patience", "without effect", "the head is fitted at once, without steps")]
    if recipe.patience is None or recipe.patience < plan.num_evaluations:
        return []
    why = (
        f"the run has {plan.num_evaluations} evaluations, so {recipe.patience} without improvement "
        "cannot come before its end"
    )
    return [Choice("patience", "without effect", why)]


def _model_json(recipe: Recipe, task: Task, dtype: torch.dtype, resize: Resize) -> dict[str, Any]:
    """Return what model.json says of the networks and of their input."""
    model = describe_model(
        task.result(),
        task.spec,
        recipe.model,
        {**recipe.model_options, **task.options_of_model},
        task=recipe.task,
        precision="bf16" if dtype == torch.bfloat16 else "fp32",
        preprocessing=preprocessing(task.spec, resize),
        multiply_adds=task.multiply_adds(),
        **task.describe(),
    )

    if code := needed(recipe.own_code()):
        model["code"] = code
    if len(task.networks) > 1:
        model["network"] = task.main
        model["parameters_by_network"] = {
            name: count_parameters(network) for name, network in task.networks.items()
        }
    return model
