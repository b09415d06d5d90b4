"""Settings that are measured before the first step.

The learning rate, and the number of steps that fit into a time.
"""

from __future__ import annotations

import time

from tintype.data.source import DataSplits, ImageSource
from tintype.errors import UserError
from tintype.hardware.device import Choice
from tintype.hardware.processes import current
from tintype.optim import steepest_rate
from tintype.progress import Watcher
from tintype.recipe import Recipe, parse_duration
from tintype.runs.folder import RunFolder
from tintype.training.engine import Engine, Plan
from tintype.training.measure import to_measure
from tintype.training.prepare import Prepared
from tintype.training.record import replace_choice


def with_rate(run: RunFolder, prepared: Prepared, train: ImageSource, watcher: Watcher) -> Recipe:
    """Return the recipe with its learning rate, measured by a range test if it says auto.

    The rate and the curve are written down.

    Raises:
        UserError: no learning rate makes the loss fall.
    """
    recipe, task = prepared.recipe, prepared.task
    if recipe.lr != "auto" or recipe.options.without_steps:
        return recipe

    watcher.note("measuring the learning rate")
    trial = recipe.replace(lr=1.0)
    curve = Engine(task, trial, run, watcher, device=prepared.device).range_test(train)

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


def within_time(
    run: RunFolder,
    prepared: Prepared,
    recipe: Recipe,
    seen: DataSplits,
    watcher: Watcher,
    started: float,
) -> Recipe:
    """Return the recipe with as many steps as its time allows, measured before the first one.

    The number is fixed once and written down, so that a resumed run is as long. A run of an earlier
    version that is under way, for which the time had no effect, keeps its length.
    """
    if recipe.options.without_steps:
        return recipe
    group = current()
    has_begun = any((run.path / "checkpoints").glob("step-*.safetensors"))
    if recipe.time is None or group.from_first(has_begun):
        return recipe

    budget = parse_duration(recipe.time)
    watcher.note(f"measuring how many steps fit into {recipe.time}")
    engine = Engine(
        prepared.task, recipe, run, watcher, device=prepared.device, compile=prepared.compile
    )
    step, evaluation = engine.timing(seen.train, seen.val, most_seconds=min(2.0, budget / 50))

    measured = sum(len(source) for source in to_measure(seen).values())
    # process 0 measures alone what all share during training
    final = evaluation * group.size * measured / max(1, len(seen.val))
    left = budget - (time.perf_counter() - started) - final
    plan = Plan.of(recipe, len(seen.train))
    steps = group.from_first(
        steps_within(left, step=step, evaluation=evaluation, every=plan.evaluation_steps)
    )

    times = (
        f"{step:.2g} s per step, {evaluation:.2g} s per evaluation, "
        f"{final:.2g} s to measure at the end"
    )
    recipe = recipe.replace(time=None)
    if steps >= plan.total_steps:
        choice = Choice(
            "time", f"all {plan.total_steps:,} steps", f"they fit into {budget:g} s ({times})"
        )
    else:
        # Milestones that name epochs may lie beyond the end of the shorter run, so they keep their
        # part of it.
        milestones = [part for part in plan.milestones if part > 0]
        recipe = recipe.replace(steps=steps, milestones=milestones)
        count = f"{steps:,} of {plan.total_steps:,} steps"
        choice = Choice("time", count, f"what fits into {budget:g} s ({times})")

    watcher.note(str(choice))
    run.write_recipe(recipe)
    replace_choice(run, choice)
    run.set_status("running", total_steps=Plan.of(recipe, len(seen.train)).total_steps)
    return recipe


def steps_within(seconds: float, *, step: float, evaluation: float, every: int) -> int:
    """Return how many steps fit into a time, at least one, where each `every` steps and the last
    are evaluated.
    """
    return max(1, int((seconds - evaluation) / (step + evaluation / every)))
