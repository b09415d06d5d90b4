"""One run from recipe to report: prepare (check all, decide all), train, measure, write down."""

from __future__ import annotations

import inspect
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tintype.data import open_data
from tintype.data.decode import Resize
from tintype.data.identity import identify
from tintype.data.source import DataSplits, ImageSource, StoredSource
from tintype.data.typical import learn
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.hardware.arithmetic import (
    choose_exact,
    choose_threads,
    computing,
    differences,
    facts,
    processor,
    recorded,
)
from tintype.hardware.device import (
    Choice,
    choose_compile,
    choose_device,
    choose_precision,
    hold_memory,
)
from tintype.models import count_parameters
from tintype.optim import steepest_rate
from tintype.plugins import find, find_part, has_part
from tintype.progress import Watcher
from tintype.recipe import Recipe, parse_duration
from tintype.runs.folder import PHOTOS_FILE, RunFolder
from tintype.runs.model import describe_model, preprocessing, save_model
from tintype.tasks.contract.own_data import asks
from tintype.tasks.task import Task
from tintype.tasks.validation import ValidationUse, use_validation
from tintype.training.automatic import choose_model, choose_training
from tintype.training.engine import Engine, Plan, monitored
from tintype.training.measure import measure_run, to_measure, typical_images
from tintype.version import __version__

# Choices about the machine, which change how fast a run is and not what it does.
MACHINE = ("memory", "device", "precision", "compile", "threads", "exact")


def is_detail(note: str) -> bool:
    """Return whether a note on the data repeats its sizes, or says only where the pixels are kept."""
    return note.startswith("resident, ") or re.match(r"[\d,]+ images of \d", note) is not None


@dataclass
class Prepared:
    """A run that is ready to start: everything is checked and every choice is taken."""

    recipe: Recipe
    splits: DataSplits
    task: Task
    device: torch.device
    compile: bool
    plan: Plan
    choices: list[Choice]
    model: dict[str, Any]

    def lines(self, *, verbose: bool = False) -> list[str]:
        """Return what a run says first; with `verbose` also how it uses the machine, which the
        report says as well.
        """
        spec, recipe, model = self.splits.spec, self.recipe, self.model
        sizes = ", ".join(f"{s} {_counted(self.splits[s])}" for s in ("train", "val", "test"))
        notes = [note for note in self.splits.notes if verbose or not is_detail(note)]
        choices = [
            choice
            for choice in self.choices
            if verbose or choice.name not in MACHINE or self._breaks(choice)
        ]
        machine = ", ".join(c.choice for c in self.choices if c.name in ("device", "precision"))
        machine += f", {recipe.threads} thread{'' if recipe.threads == 1 else 's'}"
        classes = f"{spec.num_classes} classes, " if spec.class_names else ""
        milestones = ", ".join(
            f"{part * self.plan.total_steps:,.0f}" for part in self.plan.milestones
        )
        schedule = (
            f"step (x {recipe.step_factor:g} at step {milestones})"
            if milestones
            else recipe.schedule
        )

        return [
            f"data: {spec.name}, {classes}{spec.channels}x{spec.height}x{spec.width}: {sizes}",
            *(f"  {note}" for note in notes),
            f"model: {recipe.model}, {model['parameters']:,} parameters, {model['multiply_adds']:,} multiply-adds an image",
            *(
                f"  {name}: {n:,} parameters"
                for name, n in model.get("parameters_by_network", {}).items()
            ),
            f"plan: {self.plan.total_steps:,} steps of {self.plan.batch_size} images, {recipe.optimizer}, lr {recipe.lr}, "
            f"{schedule}, augment {recipe.augment}",
            *(str(choice) for choice in choices),
            *([] if verbose else [f"machine: {machine} (--verbose says more)"]),
        ]

    def _breaks(self, choice: Choice) -> bool:
        """Return whether a choice says that the recipe's promise of equal bits cannot be kept here."""
        return choice.name == "exact" and choice.choice == "no" and self.recipe.exact

    def summary(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        spec = self.splits.spec
        data = {
            "name": spec.name,
            "channels": spec.channels,
            "height": spec.height,
            "width": spec.width,
        }
        data["classes"] = list(spec.class_names)
        data["num_images"] = {s: len(self.splits[s]) for s in ("train", "val", "test")}

        return {
            "parameters": self.model["parameters"],
            **{key: self.model[key] for key in ("parameters_by_network",) if key in self.model},
            "multiply_adds": self.model["multiply_adds"],
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
    """Open the data, build the network and take every automatic choice; nothing is written.

    Args:
        recipe: what to do.
        watcher: who is told of progress.
        asked: the fields that the user set, as against those of a built-in recipe.
        choices: what was decided before.
        free: whether settings that the recipe leaves unset may be chosen; otherwise they have their
            defaults.

    Raises:
        UserError: whatever is wrong with recipe, data, model or device.
    """
    threads, why = choose_threads(recipe.threads)
    recipe = recipe.replace(threads=threads)
    with computing(threads, recipe.device, exact=recipe.exact):
        return _prepared(recipe, watcher, asked, [*choices, why], free=free)


def _prepared(
    recipe: Recipe, watcher: Watcher, asked: Collection[str], choices: list[Choice], *, free: bool
) -> Prepared:
    choices.append(
        hold_memory() if recipe.hold_memory else Choice("memory", "as the system does", "as asked")
    )
    device, why = choose_device(recipe.device)
    choices.append(why)
    dtype, why = choose_precision(recipe.precision, device)
    choices.append(why)
    module = find("tasks", recipe.task)
    if not recipe.test_fraction and recipe.options.needs_test:
        raise UserError(
            f"task {recipe.task} cannot do without a test part: its figures need one. Leave --test none out."
        )

    recipe, why = choose_model(recipe, device, watcher.on_work, asked)
    choices += why
    opener = getattr(module, "open_data", open_data)
    target = asks(module)
    resize = Resize(recipe.resize, recipe.crop_fraction or 1.0, recipe.interpolation or "bilinear")
    splits = _called(
        opener, recipe, resize=resize, target=_called(target, recipe), progress=watcher.on_work
    )
    recipe, why = choose_training(recipe, splits, device, dtype, free=free)
    choices += why
    if recipe.time:
        choices.append(
            Choice(
                "time",
                recipe.time,
                "at most; how many steps that is, is measured before the first one",
            )
        )

    if has_part(recipe.task, "symmetry"):
        symmetry = find_part(recipe.task, "symmetry", "have symmetries")
        recipe, why = symmetry.keep_orientation(recipe, splits, asked)
        choices += why

    plan = Plan.of(recipe, len(splits.train))
    compile, why = choose_compile(recipe.compile, device, plan.total_steps, exact=recipe.exact)
    choices += [why, choose_exact(recipe.exact, device, compile=compile)]
    task = _called(
        module.make, recipe, splits, device=device, dtype=dtype, progress=watcher.on_work
    )
    task.validation = _validation(recipe, task, splits)
    choices += [*task.choices, *task.validation.choices()]
    _check_batches(recipe, plan, task)
    monitored(recipe, task)

    if recipe.patience is not None and recipe.patience >= plan.num_evaluations:
        told = f"the run has {plan.num_evaluations} evaluations, so {recipe.patience} without gain cannot come before its end"
        choices.append(Choice("patience", "without effect", told))

    if recipe.lr == "auto" and len(task.phases) > 1:
        raise UserError(
            "lr: auto measures one loss, but this task has several. Give a number, as in --lr 0.0002."
        )
    if recipe.channels_last:
        for network in task.networks.values():
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    model = describe_model(
        task.result(), task.spec, recipe.model, {**recipe.model_options, **task.options_of_model}, task=recipe.task,
        precision="bf16" if dtype == torch.bfloat16 else "fp32", preprocessing=preprocessing(task.spec, resize),
        multiply_adds=task.multiply_adds(), **task.describe(),
    )  # fmt: skip
    if len(task.networks) > 1:
        model["network"] = task.main
        model["parameters_by_network"] = {
            name: count_parameters(net) for name, net in task.networks.items()
        }

    return Prepared(recipe, splits, task, device, compile, plan, choices, model)


def _validation(recipe: Recipe, task: Task, splits: DataSplits) -> ValidationUse:
    """Decide what the validation images are used for: to choose weights, to calibrate, or both."""
    chose = [] if recipe.patience is None else ["when to stop"]
    if recipe.keep == "best" or recipe.patience is not None:
        chose.append("the best weights")

    return use_validation(
        splits.val,
        splits.groups,
        rules=recipe.rules,
        seed=recipe.split_seed,
        chose=chose,
        chose_in_task=task.chooses,
        fewest_to_calibrate=task.fewest_to_calibrate,
        calibrated=task.calibrated,
    )


def _called(function: Callable[..., Any], recipe: Recipe, *arguments: Any, **more: Any) -> Any:
    """Call a function with those fields of the recipe that it has as parameters."""
    parameters = inspect.signature(function).parameters
    fields = {**recipe.fields(), **more}
    return function(
        *arguments, **{name: value for name, value in fields.items() if name in parameters}
    )


def _check_batches(recipe: Recipe, plan: Plan, task: Task) -> None:
    layers = [m for network in task.networks.values() for m in network.modules()]
    if plan.batch_size // recipe.accumulate < 2 and any(
        isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in layers
    ):
        raise UserError(
            f"model {recipe.model} has batch norm, which needs at least 2 images at once. "
            "Try a larger --batch-size or a smaller accumulate."
        )


def train_run(run: RunFolder, prepared: Prepared, watcher: Watcher, command: str) -> None:
    """Train, measure and report in `run`, from where it stands.

    Raises:
        UserError: the data is no longer that of the run, or training cannot go on.
        Interrupted: a signal came; the state is saved.
    """
    recipe = prepared.recipe
    threads, _ = choose_threads(recipe.threads)
    with run.locked(), computing(threads, str(prepared.device), exact=recipe.exact) as without:
        # by another process, while this one prepared itself
        if run.status.get("state") == "finished":
            watcher.note(f"{run.path} is finished; nothing is left to do")
            return
        departure = _write_origin(run, prepared, command)
        _write_place(run, prepared.recipe)
        if departure:
            watcher.note(f"not bit-equal from here: {departure}")
        splits, task = prepared.splits, prepared.task
        if prepared.device.type != "cpu":
            splits = _on_device(splits, prepared.device)
        run.set_status("running", total_steps=prepared.plan.total_steps)
        try:
            started = time.perf_counter()
            task.groups = splits.groups
            seen = task.sources(splits, watcher.on_work)
            watcher.close()
            recipe = _with_lr(run, prepared, seen.train, watcher)
            recipe = _within_time(run, prepared, recipe, seen, watcher, started)
            preparing = time.perf_counter() - started
            engine = Engine(
                task, recipe, run, watcher, device=prepared.device, compile=prepared.compile
            )
            task.selection = task.validation.selecting_part(seen.val)
            engine.fit(seen.train, task.selection)
            trained = time.perf_counter()
            for line in task.remarks():
                watcher.note(line)
            save_model(run, task.result(), prepared.model)
            _record_photos(run, prepared.splits)
            _record_typical(run, prepared.splits, recipe)
            measure_run(run, seen, splits, task, watcher)
            if chosen := engine.choice_by_validation():
                run.write(
                    "evaluation.json",
                    {**run.read("evaluation.json"), "chosen_by_validation": chosen},
                )
        except UserError:
            run.set_status("failed")
            raise
        except BaseException:
            run.set_status("stopped")
            raise
        finally:
            watcher.close()
        environment = run.read("environment.json")
        if without:
            choice = Choice(
                "exact", "no", f"there is no deterministic kernel for {', '.join(without)}"
            )
            watcher.note(str(choice))
            environment["choices"] = [c for c in environment["choices"] if c["name"] != "exact"] + [
                vars(choice)
            ]
        environment["training_seconds"] = round(engine.seconds, 3)
        environment["preparing_seconds"] = round(preparing, 3)
        environment["images_per_second"] = round(
            engine.step * prepared.plan.batch_size / max(engine.seconds, 1e-9), 1
        )
        environment["seconds"] = round(
            preparing + engine.seconds + time.perf_counter() - trained, 3
        )
        run.write("environment.json", environment)
        run.set_status("finished", step=engine.step, seconds=round(engine.seconds, 3))


def _with_lr(run: RunFolder, prepared: Prepared, train: ImageSource, watcher: Watcher) -> Recipe:
    """Return the recipe with its learning rate, measured by a range test where it says auto, and write it down.

    Raises:
        UserError: no learning rate makes the loss fall.
    """
    recipe, task = prepared.recipe, prepared.task
    if recipe.lr != "auto":
        return recipe

    watcher.note("measuring the learning rate")
    curve = Engine(task, recipe.replace(lr=1.0), run, watcher, device=prepared.device).range_test(
        train
    )

    try:
        lr = float(f"{steepest_rate(curve):.2g}")
    except ValueError as error:
        raise UserError(
            f"lr: auto found no learning rate: {error}. Give a number, as in --lr 0.001."
        ) from None

    watcher.note(f"lr: {lr:g}, where the loss falls fastest in a range test of {len(curve)} steps")
    run.write_table(
        "lr_finder.csv", ["lr", "loss"], ([f"{rate:.6g}", f"{loss:.6g}"] for rate, loss in curve)
    )
    recipe = recipe.replace(lr=lr)
    run.write_recipe(recipe)

    return recipe


def _within_time(
    run: RunFolder,
    prepared: Prepared,
    recipe: Recipe,
    seen: DataSplits,
    watcher: Watcher,
    started: float,
) -> Recipe:
    """Return the recipe with as many steps as its time allows, measured before the first one, and write it down.

    The number is fixed once, so that a resumed run is as long. A run of an earlier version that is
    under way, for which the time had no effect, goes on as it was begun.
    """
    if recipe.time is None or any((run.path / "checkpoints").glob("step-*.safetensors")):
        return recipe
    budget = parse_duration(recipe.time)
    watcher.note(f"measuring how many steps fit into {recipe.time}")
    engine = Engine(
        prepared.task, recipe, run, watcher, device=prepared.device, compile=prepared.compile
    )
    step, evaluation = engine.timing(seen.train, seen.val, most_seconds=min(2.0, budget / 50))
    plan = Plan.of(recipe, len(seen.train))
    measured = sum(len(source) for source in to_measure(seen).values())
    final = evaluation * measured / max(1, len(seen.val))
    left = budget - (time.perf_counter() - started) - final
    steps = steps_within(left, step=step, evaluation=evaluation, every=plan.evaluation_steps)

    times = f"{step:.2g} s a step, {evaluation:.2g} s an evaluation, {final:.2g} s to measure at the end"
    recipe = recipe.replace(time=None)
    if steps >= plan.total_steps:
        choice = Choice(
            "time", f"all {plan.total_steps:,} steps", f"they fit into {budget:g} s ({times})"
        )
    else:
        # Milestones that name epochs may lie beyond the end of the shorter run, so they keep their
        # part of it.
        recipe = recipe.replace(
            steps=steps, milestones=[part for part in plan.milestones if part > 0]
        )
        choice = Choice(
            "time",
            f"{steps:,} of {plan.total_steps:,} steps",
            f"what fits into {budget:g} s ({times})",
        )
    watcher.note(str(choice))
    run.write_recipe(recipe)
    environment = run.read("environment.json")
    environment["choices"] = [c for c in environment["choices"] if c["name"] != "time"] + [
        vars(choice)
    ]
    run.write("environment.json", environment)
    run.set_status("running", total_steps=Plan.of(recipe, len(seen.train)).total_steps)
    return recipe


def steps_within(seconds: float, *, step: float, evaluation: float, every: int) -> int:
    """Return how many steps fit into a time, at least one, where each `every` steps and the last
    are evaluated.
    """
    return max(1, int((seconds - evaluation) / (step + evaluation / every)))


def _write_origin(run: RunFolder, prepared: Prepared, command: str) -> str:
    """Write down data, splits and environment before training; on resume, refuse data that has changed.

    Returns:
        Why what is computed from here on is not bit-equal to a run never stopped; empty where
        nothing speaks against it.
    """
    splits, spec = prepared.splits, prepared.splits.spec
    if (run.path / "data.json").exists():
        before = run.read("data.json")["fingerprint"]
        if before != spec.fingerprint:
            if (prepared.recipe.data, prepared.recipe.data_root) != (
                run.recipe.data,
                run.recipe.data_root,
            ):
                raise UserError(
                    f"the images of {prepared.recipe.data} are not those that this run began with (pixels, labels, names "
                    "and splits must be the same). Give their place, or start a new run."
                )
            raise UserError(
                f"the images of {spec.name} have changed since this run began, so it cannot go on as it was. "
                "Put them back, or start a new run."
            )

    parts = ("train", "val", "test")
    # other targets than classes are no keys to count by
    classes = range(len(spec.class_names))
    counts = {s: Counter(splits[s].targets.tolist() if classes else ()) for s in parts}
    run.write(
        "data.json",
        {
            "name": spec.name,
            "fingerprint": spec.fingerprint,
            "channels": spec.channels,
            "height": spec.height,
            "width": spec.width,
            "class_names": list(spec.class_names),
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_images": {s: len(splits[s]) for s in counts},
            "class_counts": {s: [c[k] for k in classes] for s, c in counts.items()},
            "notes": list(splits.notes),
            "skipped": [list(item) for item in splits.skipped],
        },
    )
    run.write_table(
        "splits.csv", ["name", "split"], ([n, s] for s in counts for n in splits[s].names)
    )
    arithmetic, departures, why = _arithmetic(run, prepared)
    before = (
        run.read("environment.json")["choices"] if (run.path / "environment.json").exists() else []
    )
    measured = [
        choice for choice in before if choice["name"] == "time" and not prepared.recipe.time
    ]
    run.write(
        "environment.json",
        {
            "tintype": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "cpu": processor(),
            "device": str(prepared.device),
            "precision": prepared.model["precision"],
            "threads": torch.get_num_threads(),
            "arithmetic": arithmetic,
            "not_bit_equal": departures,
            "command": command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "choices": [vars(choice) for choice in prepared.choices] + measured,
        },
    )

    return why


def _write_place(run: RunFolder, recipe: Recipe) -> None:
    """Write down where the images now are, if that has changed; `_write_origin` made sure that they
    are the same.
    """
    before = run.recipe
    if (before.data, before.data_root) != (recipe.data, recipe.data_root):
        run.write_recipe(before.replace(data=recipe.data, data_root=recipe.data_root))


def _record_photos(run: RunFolder, splits: DataSplits) -> None:
    """Write down which photos the run saw, so that they are known again when the model is measured
    on other data.
    """
    sources = {split: splits[split] for split in ("train", "val", "test")}
    if all(isinstance(source, StoredSource) for source in sources.values()):
        with written_whole(run.path / PHOTOS_FILE) as temporary:
            identify(sources).save(temporary)


def _record_typical(run: RunFolder, splits: DataSplits, recipe: Recipe) -> None:
    """Write down with a classifier what its training images have in common, so that others are
    known for what they are.
    """
    if recipe.task != "classify":
        return
    # Grey images of files that are not known to be grey: the user wanted them without their colour.
    coloured = None if recipe.fields().get("channels") == 1 else 0.0
    found = learn(typical_images(splits.train), typical_images(splits.val), coloured=coloured)
    if found is not None:
        run.write("model.json", {**run.read("model.json"), "typical": found.to_dict()})


def _arithmetic(
    run: RunFolder, prepared: Prepared
) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Compare what the bits of the run depend on here with what they depended on before it was stopped.

    Returns:
        What they depend on here; all steps from which on a difference was found, with the reason;
        today's reason, or "".
    """
    recipe, device = prepared.recipe, prepared.device
    now = facts(
        device, threads=torch.get_num_threads(), precision=prepared.model["precision"], compile=prepared.compile,
        exact=recipe.exact,
    )  # fmt: skip
    begun = any((run.path / "checkpoints").glob("step-*.safetensors"))
    before = (
        run.read("environment.json") if begun and (run.path / "environment.json").exists() else {}
    )
    departures = list(before.get("not_bit_equal", []))
    earlier = recorded(before)
    why = differences(earlier, now) if recipe.exact or earlier.get("exact") else ""
    if why:
        departures.append({"step": run.status.get("step", 0), "why": why})

    return now, departures, why


def _on_device(splits: DataSplits, device: torch.device) -> DataSplits:
    """Move resident pixels to the device."""

    def move(source: ImageSource) -> ImageSource:
        if not isinstance(source, StoredSource):
            return source
        return StoredSource(source.spec, source.store.to(device), source.targets, source.names)

    return replace(splits, train=move(splits.train), val=move(splits.val), test=move(splits.test))
