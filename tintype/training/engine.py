"""The training loop, the only one.

It owns the mechanics: order, randomness, precision, steps, checkpoints and resume.

Every random number follows from (seed, purpose, step), and the order of the images from (seed,
epoch). No generator state is saved, so a resumed run is bit-equal to one never stopped, and nothing
outside the loop can disturb it.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tintype.data.source import Batch, ImageSource
from tintype.errors import Interrupted, OwnCodeError, UserError, unknown_name
from tintype.files.whole import write_picture, written_whole
from tintype.hardware.eager import let_compiler_load
from tintype.hardware.processes import ALONE, current, dealing
from tintype.interface.watching import Start
from tintype.optim import WeightAverage, build_optimizers, clear_traces, lr_factor
from tintype.own_code import is_own, name_of, running
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.checkpoint import load_checkpoint, save_checkpoint
from tintype.runs.folder import RunFolder
from tintype.seeds import fold, seed_generators
from tintype.tasks.task import Phase, StepContext, Task
from tintype.training.order import Order, batches
from tintype.training.parts import Parts, pieces
from tintype.training.signals import caught_signals
from tintype.training.speed import Clock, Pace

# A checkpoint is written when the last one is older than this; tests and fragile machines want it
# more often.
CHECKPOINT_SECONDS = float(os.environ.get("TINTYPE_CHECKPOINT_SECONDS", "20"))

FRAMES = 12  # pictures of the time lapse, beside those of evaluations

# How long the figures of steps may stay unread on a device. Reading one from an accelerator makes
# the host wait for it, and it then waits for the host's next step.
READ_SECONDS = {"cpu": 0.0, "cuda": 0.2, "mps": 0.2}

# What may change between the parts of a run: where it computes and where the files lie, not what is
# computed. Where the last bits change with it (device, threads), the run says so and records it.
FREE_TO_CHANGE = {
    "data",
    "data_root",
    "device",
    "compile",
    "hold_memory",
    "search",
    "track",
    "threads",
    "exact",
}

# The rules (a field of the recipe) from which on a loss knows which piece of a batch it sees.
RULES_WITH_PIECES = 3

# The rules from which on weights that are nearly zero become zero, and after how many steps each.
RULES_WITHOUT_TRACES = 4
STEPS_TO_CLEAR = 100

# The learning rates between which a range test looks. Muon's rate is a relative step.
RANGE = {"sgd": (1e-5, 10.0), "adam": (1e-6, 1.0), "adamw": (1e-6, 1.0), "muon": (1e-4, 2.0)}

# Where in a run steps are tried to see how long it takes, and how many at the most.
TIMED_PARTS = (0.99, 0.0, 0.3, 0.6)
MOST_TIMED_STEPS = 60
STEPS_ALIKE = 0.15  # of the time of a step


@dataclass(frozen=True)
class Plan:
    """How long a run is.

    Attributes:
        num_images: training images.
        batch_size: images of a step, never more than there are.
        total_steps: the length of the run.
        evaluation_steps: the steps from one evaluation to the next.
        milestones: where a schedule of steps lowers the learning rate, as parts of the run, 0..1.
    """

    num_images: int
    batch_size: int
    total_steps: int
    evaluation_steps: int
    milestones: tuple[float, ...] = ()

    @property
    def num_evaluations(self) -> int:
        """How often the run is measured on validation: each `evaluation_steps`, and at the end."""
        return -(-self.total_steps // self.evaluation_steps)

    @classmethod
    def of(cls, recipe: Recipe, num_images: int) -> Plan:
        """Return the plan of a recipe for so many training images.

        What is fitted at once counts as one step with all images.

        Raises:
            UserError: a milestone lies beyond the end.
        """
        if recipe.options.without_steps:
            return cls(num_images, num_images, 1, 1)

        batch_size = min(recipe.batch_size, num_images)
        steps = recipe.steps or max(1, round((recipe.epochs or 10) * num_images / batch_size))
        every = max(1, round(recipe.evaluate_every * num_images / batch_size))

        # A milestone below 1 is a part of the run, and others are epochs, which may be too many.
        milestones = [
            round(m * steps if m < 1 else m * num_images / batch_size) for m in recipe.milestones
        ]
        stated = zip(recipe.milestones, milestones, strict=True)
        if any(m >= 1 and step >= steps for m, step in stated):
            end = steps * batch_size / num_images
            raise UserError(
                f"the milestones {recipe.milestones} lie beyond the end of the run, which has "
                f"{steps:,} steps or {end:.3g} epochs. Expected earlier ones, "
                "or parts of the run such as [0.5, 0.75]."
            )

        return cls(num_images, batch_size, steps, every, tuple(step / steps for step in milestones))


@dataclass
class History:
    """metrics.csv: a row for each logging interval.

    Validation figures stand in the rows of the steps where they were measured. Rows behind the step
    that a run resumes from are cut off, so that the file too is that of a run never stopped.
    """

    path: Path
    rows: list[dict[str, Any]]

    @classmethod
    def open(cls, path: Path, num_rows: int) -> History:
        if num_rows and path.exists():
            with path.open(encoding="utf-8", newline="") as lines:
                return cls(path, list(csv.DictReader(lines))[:num_rows])
        return cls(path, [])

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def save(self) -> None:
        header = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, header, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        with written_whole(self.path) as temporary:
            temporary.write_bytes(text.getvalue().encode())


def monitored(recipe: Recipe, task: Task) -> tuple[str, bool]:
    """Return the figure of early stopping and `keep: best`, and whether higher is better.

    Raises:
        UserError: the recipe names a figure that the task does not measure.
    """
    known = {task.score_name: task.higher_is_better, **task.monitors}
    name = task.score_name if recipe.monitor is None else recipe.monitor.removeprefix("val_")
    if name not in known:
        raise unknown_name("figure to monitor on validation:", name, known)
    return name, known[name]


class Engine:
    """Trains the networks of a task and leaves the result in them.

    Args:
        task: networks and mathematics.
        recipe: lengths, optimizers, schedules.
        run: where checkpoints and metrics go.
        watcher: is shown the progress.
        device: where the networks are.
        checkpoint_seconds: a checkpoint is written when the last one is older than this, and at the
            end; by default CHECKPOINT_SECONDS.
        compile: whether the networks are compiled.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        run: RunFolder,
        watcher: Watcher,
        *,
        device: torch.device,
        checkpoint_seconds: float | None = None,
        compile: bool = False,
    ) -> None:
        self.task = task
        self.recipe = recipe
        self.run = run
        self.watcher = watcher
        self.device = device
        self.lr = float(recipe.lr)  # auto was resolved before
        self.own = " and ".join(f"{field} {name_of(code)}" for field, code in recipe.own_code())
        self.read_seconds = READ_SECONDS[device.type]
        if checkpoint_seconds is None:
            checkpoint_seconds = CHECKPOINT_SECONDS
        self.checkpoint_seconds = checkpoint_seconds

        # One set for each network; phases that train the same network share it. In reverse order,
        # so that the first phase of a network has the last word on its learning rate.
        self.optimizers: dict[str, Sequence[torch.optim.Optimizer]] = {
            phase.network: build_optimizers(
                task.networks[phase.network],
                recipe.optimizer,
                lr=self.lr * phase.lr_scale,
                momentum=recipe.momentum,
                betas=recipe.betas,
                weight_decay=recipe.weight_decay,
            )
            for phase in reversed(task.phases)
        }
        # The schedule multiplies the rates that the optimizers begin with.
        self.peaks = {
            name: [_learning_rates(optimizer) for optimizer in optimizers]
            for name, optimizers in self.optimizers.items()
        }
        self.trainable = {
            name: [p for p in network.parameters() if p.requires_grad]
            for name, network in task.networks.items()
        }
        self.group = ALONE if recipe.options.without_steps else current()
        modules = [*task.networks.values(), *task.stateful]
        self.parts = Parts(recipe.parts, modules, self.group, exact=recipe.exact)
        main = task.networks[task.main]
        averages = recipe.ema and not recipe.options.without_steps
        self.average = WeightAverage(main, recipe.ema) if averages else None

        self.monitor, self.higher_is_better = monitored(recipe, task)
        self.best: dict[str, Any] = {}  # "score", "step", "tensors" of the best evaluation so far
        self.evaluations_without_gain = 0
        self.ended = ""  # why a watcher ended the run
        self.step = 0
        self.seconds = 0.0
        self.history = History(run.path / "metrics.csv", [])

        if compile:
            let_compiler_load()
            for network in task.networks.values():
                network.compile()

    # ---- the loop --------------------------------------------------------------------------------

    def fit(self, train: ImageSource, val: ImageSource) -> None:
        """Train to the end of the plan, from the newest whole checkpoint if there is one.

        Without validation images there are no evaluations, and the last weights are kept.

        Raises:
            Interrupted: a signal came; the state is saved.
            UserError: the loss is not finite.
        """
        plan = Plan.of(self.recipe, len(train))
        if self.recipe.options.without_steps:
            self._fit_at_once(train, val, plan)
            return

        order = self._order(train, plan)
        log_steps = 1 if self.task.log_every_step else max(1, plan.total_steps // 2000)
        frames = {plan.total_steps * k // FRAMES for k in range(1, FRAMES)}
        self._begin(train)
        clean = self._clean_sample(train)

        with (
            torch.random.fork_rng(devices=_cuda_devices(self.device)),
            caught_signals() as signal_seen,
        ):
            clock = Clock(self.seconds, self.step)
            self._show_beginning(plan)
            pace = Pace(torch.get_num_threads() if self.device.type == "cpu" else 1, self.run.path)
            pending: list[dict[str, Tensor]] = []  # what the steps since the last row logged
            unread: list[dict[str, Any]] = []  # rows whose figures are still on the device

            for batch in batches(train, order, self.step, plan.total_steps, self.parts.own_images):
                if self._stopped_early():
                    break

                factor = self._lr_factor(plan)
                pending.append(self._paced_step(batch, plan, factor, pace))
                evaluate = self.step % plan.evaluation_steps == 0 or self.step == plan.total_steps
                if self.step in frames and not evaluate:
                    self._show()
                if not evaluate and self.step % log_steps:
                    continue

                # From here on the step ends a logging interval.
                unread.append(self._row(pending, plan, factor))
                pending = []
                read = evaluate or clock.since_reading() >= self.read_seconds
                if not self.group.from_first(read):
                    continue

                # From here on the host waits for the device.
                rows = self._read(unread)
                unread = []
                self._show_step(rows[-1], plan, clock)
                if evaluate:
                    rows[-1].update(self._measured(val, clean, plan))
                self._keep(rows)
                if self._asked_to_end(plan) and not evaluate:  # what it ends with is measured
                    rows[-1].update(self._measured(val, clean, plan))
                self._save_when_due(clock, signal_seen())

            self.seconds = clock.seconds()
            self.save()
            self._leave_on(signal_seen())

        self._take_result()

    def _fit_at_once(self, train: ImageSource, val: ImageSource, plan: Plan) -> None:
        """Fit without steps: one row of metrics.csv, and one checkpoint at the end."""
        if self.restore():
            return
        self._show_start(plan)
        started = time.perf_counter()
        task = self.task
        with caught_signals() as signal_seen:
            task.start(train)
            self.step = 1
            self.seconds = time.perf_counter() - started

            figures = task.figures(task.networks[task.main], train)
            row = {"step": 1, "epoch": 1.0}
            row |= {
                {"loss": "loss"}.get(name, f"train_{name}"): figures[name]
                for name in task.watched
                if name in figures
            }
            self.watcher.on_step(1, 1, figures["loss"], plan.num_images / self.seconds)
            if len(val):
                row.update(self._evaluate(val, plan))
            self._keep([row])
            self.save()
            self._leave_on(signal_seen())

    def _begin(self, train: ImageSource) -> None:
        """Go on from the newest whole checkpoint, or begin with the same weights everywhere."""
        if self.restore():
            return
        self.task.start(train)
        self._take_state_of_first()
        if self.recipe.own_code():  # no seed draws the weights of the user's own network again
            self.save()

    def _show_beginning(self, plan: Plan) -> None:
        for network in self.task.networks.values():
            network.train()
        if self.step == 0:
            self._show()
        self._show_start(plan)

    def _order(self, train: ImageSource, plan: Plan) -> Order:
        balance = train.targets if self.recipe.sampling == "balanced" else None
        return Order(self.recipe.seed, len(train), plan.batch_size, balance, train.shards)

    def _lr_factor(self, plan: Plan) -> float:
        """Return the part of the peak learning rate that the schedule gives the next step."""
        return lr_factor(
            self.recipe.schedule,
            self.step / plan.total_steps,
            self.recipe.warmup,
            milestones=plan.milestones,
            step_factor=self.recipe.step_factor,
        )

    def _paced_step(self, batch: Batch, plan: Plan, factor: float, pace: Pace) -> dict[str, Tensor]:
        """Train a step, count it, and warn where steps have become slow."""
        began = time.perf_counter()
        logged = self._train_step(batch, plan, factor)
        self.step += 1
        if warning := pace.step(time.perf_counter() - began):
            self.watcher.note(warning)
        return logged

    def _train_step(self, batch: Batch, plan: Plan, factor: float) -> dict[str, Tensor]:
        """Train each phase that has its turn, at `factor` times its peak learning rate.

        Returns the scalars to log, on the device.
        """
        recipe = self.recipe
        task = self.task
        logged: dict[str, Tensor] = {}
        if recipe.parts == 1:
            seed_generators(fold(recipe.seed, "step", self.step), self.device)  # dropout

        for phase in task.phases:
            if self.step % phase.every or self.step / plan.total_steps < phase.start:
                continue
            self._hold_still_all_but(phase.network)
            network = task.networks[phase.network]
            optimizers = self.optimizers[phase.network]

            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            for key, value in self._gradients(phase, batch, plan).items():
                logged[key] = logged[key] + value if key in logged else value

            if recipe.clip:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
            for optimizer, peaks in zip(optimizers, self.peaks[phase.network], strict=True):
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
                optimizer.step()

        if self.average:
            self.average.update(task.networks[task.main])
        if recipe.rules >= RULES_WITHOUT_TRACES and (self.step + 1) % STEPS_TO_CLEAR == 0:
            self._clear_traces()
        return logged

    def _clear_traces(self) -> None:
        # An optimizer of the user's own may go by the sign of what it keeps.
        own = is_own(self.recipe.optimizer)
        for name, weights in self.trainable.items():
            clear_traces(weights, () if own else self.optimizers[name])
        if self.average:
            clear_traces(self.average.tensors.values())

    def _gradients(self, phase: Phase, batch: Batch, plan: Plan) -> dict[str, Tensor]:
        """Leave the gradient of a batch in the weights of a phase; return the scalars to log."""
        recipe = self.recipe
        task = self.task

        def backward(part: Batch, number: int, total: int) -> dict[str, Tensor]:
            of_part: tuple[int, ...] = () if recipe.parts == 1 else (number,)
            if of_part:
                seed_generators(
                    fold(recipe.seed, "step", self.step, phase.name, number), self.device
                )
            generator = torch.Generator(part.images.device).manual_seed(
                fold(recipe.seed, phase.name, self.step, *of_part)
            )
            context = StepContext(
                self.step,
                self.step * plan.batch_size // plan.num_images,
                self.step / plan.total_steps,
                generator,
                part=number,
                parts=recipe.parts,
            )

            return self._backward(phase, part, total, context)

        logged = self.parts.gradients(
            batch, plan.batch_size, self.trainable[phase.network], backward
        )
        return logged if recipe.parts == 1 else task.decide(phase, logged, plan.batch_size)

    def _backward(
        self, phase: Phase, images: Batch, total: int, context: StepContext
    ) -> dict[str, Tensor]:
        """Leave the gradient of some of `total` images in the weights; return the scalars to log.

        They are computed in as many pieces as the recipe says (`accumulate`).
        """
        logged: dict[str, Tensor] = {}
        for turn, piece in enumerate(pieces(images, self.recipe.accumulate)):
            share = len(piece.targets) / total
            if turn and self.recipe.rules >= RULES_WITH_PIECES:
                context = replace(context, piece=turn)
            with self._named():
                loss, more = self.task.loss(phase, piece, context)
                (loss * share).backward()
            name = "loss" if len(self.task.phases) == 1 else f"loss_{phase.name}"
            for key, value in {name: loss, **more}.items():
                logged[key] = logged.get(key, 0.0) + value.detach() * share
        return logged

    def _named(self) -> AbstractContextManager[None]:
        """Say of an error in the block that it may be one of the user's own code, if there is."""
        return running(f"training with {self.own}") if self.own else nullcontext()

    def _hold_still_all_but(self, name: str) -> None:
        """Let gradients reach the weights of one network only, which saves those of the others."""
        if len(self.task.networks) > 1:
            for other, weights in self.trainable.items():
                for weight in weights:
                    weight.requires_grad_(other == name)

    def _row(self, pending: list[dict[str, Tensor]], plan: Plan, factor: float) -> dict[str, Any]:
        """Return a row of metrics.csv: means of what the steps since the last row logged.

        They are still tensors on the device, see `_read`.
        """
        names = list(dict.fromkeys(name for step in pending for name in step))
        means = {
            name: torch.stack([step[name].float() for step in pending if name in step]).mean()
            for name in names
        }
        epoch = self.step * plan.batch_size / plan.num_images
        return {"step": self.step, "epoch": round(epoch, 4), "lr": self.lr * factor, **means}

    def _read(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return rows with their figures read from the device, all at once.

        Raises:
            UserError: a figure is not finite.
        """
        figures = [
            value.to(self.device)
            for row in rows
            for value in row.values()
            if isinstance(value, Tensor)
        ]
        values = iter(torch.stack(figures).tolist())
        for row in rows:
            row.update(
                {name: next(values) for name, value in row.items() if isinstance(value, Tensor)}
            )
            for name, value in row.items():
                if not math.isfinite(value):
                    raise self._diverged(f"the {name.replace('_', ' ')} is", row["step"])

        return rows

    def _show_step(self, row: dict[str, Any], plan: Plan, clock: Clock) -> None:
        """Show the loss of a row that was just read, and the speed until then."""
        now = clock.read_at = time.perf_counter()
        self.seconds = clock.seconds(now)
        speed = (self.step - clock.first_step) * plan.batch_size / (now - clock.started)
        shown = next(value for name, value in row.items() if name.startswith("loss"))
        self.watcher.on_step(self.step, plan.total_steps, shown, speed)

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self.history.add(row)
            self.watcher.on_row(row)

    def _diverged(self, what: str, step: int) -> UserError:
        kept = any((self.run.path / "checkpoints").glob("step-*.safetensors"))
        return UserError(
            f"{what} not finite after step {step} (peak lr {self.lr:.3g}). "
            f"Try --lr {self.lr / 5:.2g}, --set clip=1 or --set warmup=0.1."
            + (" The last good checkpoint is kept." if kept else "")
        )

    # ---- evaluation, early stopping, the best weights --------------------------------------------

    def _measured(self, val: ImageSource, clean: ImageSource | None, plan: Plan) -> dict[str, Any]:
        """Return what an evaluation adds to a row: validation, and clean training images."""
        row = self._evaluate(val, plan) if len(val) else {}
        if clean is not None:
            with self.averaged():
                figures = self._figures(clean)
            watched = self.task.watched
            row |= {f"clean_train_{name}": figures[name] for name in watched if name in figures}
        return row

    def _evaluate(self, val: ImageSource, plan: Plan) -> dict[str, Any]:
        """Measure validation, remember the best weights, and return the figures for metrics.csv."""
        task = self.task
        with self.averaged():
            num_warnings = len(task.warnings)
            figures = self._figures(val)
            for line in task.warnings[num_warnings:]:
                self.watcher.note(f"warning: {line}")

            score = self.group.from_first(figures[self.monitor])
            best = self.best.get("score")
            better = best is None or (score > best if self.higher_is_better else score < best)
            if better:
                tensors = {}
                if self.recipe.keep == "best" or self.recipe.patience:
                    tensors = {
                        k: v.detach().clone()
                        for k, v in task.networks[task.main].state_dict().items()
                    }
                self.best = {"score": score, "step": self.step, "tensors": tensors}

        self._show()
        self.evaluations_without_gain = 0 if better else self.evaluations_without_gain + 1
        self.watcher.on_evaluation(
            self.step, self.step * plan.batch_size / plan.num_images, figures
        )

        return {f"val_{name}": figures[name] for name in task.watched if name in figures}

    def _clean_sample(self, train: ImageSource) -> ImageSource | None:
        """Return the training images that every evaluation measures without augmentation."""
        size = min(self.recipe.clean_sample, len(train))
        if not size:
            return None

        generator = torch.Generator().manual_seed(fold(self.recipe.seed, "clean sample"))
        return train.subset(torch.randperm(len(train), generator=generator)[:size].sort().values)

    def _figures(self, source: ImageSource) -> dict[str, Any]:
        """Return the figures of the main network; the processes share the images."""
        with dealing(self.group):
            return self.task.figures(self.task.networks[self.task.main], source)

    def _show(self) -> None:
        """Keep a picture of how far the main network is, where the task has one."""
        if not self.group.is_first:
            return
        with self.averaged():
            picture = self.task.snapshot(self.task.networks[self.task.main])
        if picture is not None:
            write_picture(self.run.path / "samples" / f"step-{self.step:07d}.png", picture)

    def _show_start(self, plan: Plan) -> None:
        network = self.task.networks[self.task.main]
        settings = self.recipe.model_dump(mode="json")
        self.watcher.on_start(Start(self.run.path, settings, self.step, plan.total_steps, network))

    def _asked_to_end(self, plan: Plan) -> bool:
        """Return whether a watcher ends the run before its last step.

        Raises:
            OwnCodeError: one has failed; the state is saved.
        """
        try:
            why = self.group.from_first(self.watcher.reason_to_stop())
        except OwnCodeError:
            self.save()
            raise
        if why and self.step < plan.total_steps:
            self.ended = why
        return bool(self.ended)

    def _stopped_early(self) -> bool:
        if self.ended:
            best = self.recipe.keep == "best" and self.best.get("tensors")
            kept = f"those of step {self.best['step']:,}, the best" if best else "the last"
            self.watcher.note(f"ended at step {self.step:,}: {self.ended}; its weights are {kept}")
            return True

        patience = self.recipe.patience
        if patience is None or self.evaluations_without_gain < patience:
            return False
        self.watcher.note(
            f"stopped early at step {self.step:,}: "
            f"no better {self.monitor} in {patience} evaluations; the weights of step "
            f"{self.best['step']:,} are kept"
        )
        return True

    def choice_by_validation(self) -> str:
        """Return a warning for readers of the validation figure, "" where it chose nothing."""
        if not self.best.get("tensors"):
            return ""

        scores = [row.get(f"val_{self.task.score_name}", "") for row in self.history.rows]
        num = sum(score != "" for score in scores)  # rows that were read again have every column
        if num < 2:
            return ""

        best = "the best" if self.recipe.monitor is None else f"those with the best {self.monitor}"
        return (
            f"These weights are {best} of {num:,} evaluations on validation, "
            "so the validation figure is slightly optimistic. "
            "The test images had no part in this choice."
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the main network for the time of the block."""
        if not self.average:
            yield
            return
        network = self.task.networks[self.task.main]
        own = {k: v.detach().clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.average.tensors)
        try:
            yield
        finally:
            network.load_state_dict(own)

    def _take_result(self) -> None:
        """Leave the final weights in the main network: the best, the averaged or the last."""
        network = self.task.networks[self.task.main]
        if self.best.get("tensors"):
            network.load_state_dict(self.best["tensors"])
        elif self.average:
            network.load_state_dict(self.average.tensors)

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save_when_due(self, clock: Clock, signal: int | None) -> None:
        """Save the state where the last checkpoint is old, or a signal came.

        Raises:
            Interrupted: a signal came to process 0.
        """
        number = self.group.from_first(signal)
        if number or clock.since_saving() > self.checkpoint_seconds:
            self.save()
            clock.saved_at = time.perf_counter()
        if number:
            raise Interrupted(number, self.run.path)

    def _leave_on(self, signal: int | None) -> None:
        """Raise Interrupted where a signal came to process 0."""
        if number := self.group.from_first(signal):
            raise Interrupted(number, self.run.path)

    def save(self) -> None:
        """Write metrics.csv and a checkpoint from which `fit` goes on bit-equal.

        Raises:
            UserError: a weight is not finite; the checkpoints before are left as they are.
        """
        if not all(
            bool(w.isfinite().all())
            for network in self.task.networks.values()
            for w in network.parameters()
        ):
            raise self._diverged("the weights are", self.step)
        if not self.group.is_first:
            return

        self.history.save()
        save_checkpoint(self.run.path / "checkpoints", self.step, self._state())
        self.run.set_status("running", step=self.step, seconds=round(self.seconds, 3))
        if self.run.mirror is not None:
            self.run.mirror.after_checkpoint()

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        average: dict[str, Any] = {}
        if self.average:
            average = {"num_updates": self.average.num_updates, "tensors": self.average.tensors}
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "step": self.step,
            "rows": len(self.history.rows),
            "seconds": self.seconds,
            "networks": {
                name: network.state_dict() for name, network in self.task.networks.items()
            },
            "optimizers": {
                name: [optimizer.state_dict() for optimizer in optimizers]
                for name, optimizers in self.optimizers.items()
            },
            "average": average,
            "best": self.best,
            "evaluations_without_gain": self.evaluations_without_gain,
            "task": self.task.state(),
            **({"ended": self.ended} if self.ended else {}),
        }

    def restore(self) -> bool:
        """Load the newest whole checkpoint; return whether there was one.

        Process 0 reads it for all.

        Raises:
            UserError: the checkpoint belongs to another recipe.
        """
        state, warnings = self.group.from_first(self._newest())
        for line in warnings:
            self.watcher.note(line)

        if state is None:
            if warnings:
                self.watcher.note("no checkpoint is whole, so the run starts over")
            return False

        self._refuse_other_recipe(state["recipe"])
        self._take(state)
        self.watcher.note(f"resumed at step {self.step:,}")
        return True

    def _newest(self) -> tuple[Any, list[str]]:
        if not self.group.is_first:
            return None, []
        return load_checkpoint(self.run.path / "checkpoints")

    def _take_state_of_first(self) -> None:
        """Begin with the weights of process 0, wherever those of this one come from."""
        if self.group.size == 1:
            return
        state = self.group.from_first(self._state() if self.group.is_first else {})
        if not self.group.is_first:
            self._take(state)

    def _take(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint.

        Raises:
            UserError: it is that of another network.
        """
        try:
            for name, network in self.task.networks.items():
                network.load_state_dict(state["networks"][name])
            for name, optimizers in self.optimizers.items():
                for optimizer, saved in zip(optimizers, state["optimizers"][name], strict=True):
                    optimizer.load_state_dict(saved)
                    _like_parameters(optimizer)
        except (KeyError, RuntimeError, ValueError) as error:
            line = str(error).split("\n")[0]
            raise UserError(
                f"the checkpoint in {self.run.path} does not fit "
                f"this version of the network ({line})."
            ) from error

        if self.average:
            self.average.num_updates = state["average"]["num_updates"]
            self.average.tensors = {
                k: v.to(self.device) for k, v in state["average"]["tensors"].items()
            }

        self.best = state["best"]
        self.evaluations_without_gain = state["evaluations_without_gain"]
        self.task.load_state(state.get("task", {}))
        self.ended = state.get("ended", "")
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.history = History.open(self.history.path, state["rows"])

    def _refuse_other_recipe(self, before: dict[str, Any]) -> None:
        now = self.recipe.model_dump(mode="json")

        # A run may be older than a field; it then had the field's default.
        usual = Recipe(task=self.recipe.task).model_dump(mode="json")
        edited = [
            key
            for key in now
            if key not in FREE_TO_CHANGE and now[key] != before.get(key, usual[key])
        ]

        if edited:
            file = self.run.path / "recipe.yaml"
            field = edited[0]
            raise UserError(
                f"{file} was edited since this run began: {field} is {now[field]!r} and was "
                f"{before.get(field)!r}. Put it back, or start a new run: tintype train {file}"
            )

    # ---- trials before a run ---------------------------------------------------------------------

    def range_test(self, train: ImageSource, *, num_steps: int = 100) -> list[tuple[float, float]]:
        """Raise the learning rate from step to step and return (rate, loss) of each.

        This is the range test of Smith (2017), "Cyclical learning rates". It ends where the loss is
        four times its smallest. The engine's recipe must have lr 1. The networks end as they began.
        """
        self.task.start(train)
        before = {
            name: copy.deepcopy(network.state_dict())
            for name, network in self.task.networks.items()
        }
        low, high = RANGE.get(self.recipe.optimizer, RANGE["adam"])
        plan = Plan(len(train), min(self.recipe.batch_size, len(train)), num_steps, num_steps)
        seed = fold(self.recipe.seed, "range test")
        order = Order(seed, len(train), plan.batch_size, shards=train.shards)

        curve: list[tuple[float, float]] = []
        with torch.random.fork_rng(devices=_cuda_devices(self.device)):
            taken = batches(train, order, 0, num_steps, self.parts.own_images)
            for step, batch in enumerate(taken):
                rate = low * (high / low) ** (step / (num_steps - 1))
                self.step = step
                logged = self._train_step(batch, plan, rate)
                loss = float(next(v for name, v in logged.items() if name.startswith("loss")))
                smallest = min((value for _, value in curve), default=math.inf)
                if not math.isfinite(loss) or loss > 4 * smallest:
                    break
                curve.append((rate, loss))

        for name, network in self.task.networks.items():
            network.load_state_dict(before[name])
        return curve

    def timing(
        self, train: ImageSource, val: ImageSource, *, most_seconds: float
    ) -> tuple[float, float]:
        """Return the seconds of a step, averaged over the run, and those of an evaluation.

        Networks and task end as they began. Steps are tried all along the run, since images may
        grow and layers thaw on the way. Of long steps one is enough where the last of the run takes
        about as long as the first.

        Args:
            train: what is trained on.
            val: what evaluations measure.
            most_seconds: how long steps are tried; each part of the run is tried once, but for
                steps that are longer and alike.
        """
        self.task.start(train)
        networks = {
            name: copy.deepcopy(network.state_dict())
            for name, network in self.task.networks.items()
        }
        state = copy.deepcopy(self.task.state())
        warnings = list(self.task.warnings)
        plan = Plan.of(self.recipe, len(train))
        order = self._order(train, plan)
        parts = [int(plan.total_steps * part) for part in TIMED_PARTS]

        spent: list[float] = []
        with torch.random.fork_rng(devices=_cuda_devices(self.device)):
            for network in self.task.networks.values():
                network.train()
            first = self._timed_step(train, order, plan, 0)  # a little slower than others
            while len(spent) < len(parts) or (
                sum(spent) < most_seconds and len(spent) < MOST_TIMED_STEPS
            ):
                turn, place = divmod(len(spent), len(parts))
                spent.append(self._timed_step(train, order, plan, parts[place] + turn))
                if spent[0] > most_seconds and abs(first / spent[0] - 1) < STEPS_ALIKE:
                    break

            started = time.perf_counter()
            if len(val):
                self._figures(val)
            evaluation = time.perf_counter() - started

        for name, network in self.task.networks.items():
            network.load_state_dict(networks[name])
        for weights in self.trainable.values():
            for weight in weights:
                weight.requires_grad_(True)

        self.task.load_state(state)
        if isinstance(self.task.warnings, list):
            self.task.warnings[:] = warnings
        return sum(spent) / len(spent), evaluation

    def _timed_step(self, train: ImageSource, order: Order, plan: Plan, step: int) -> float:
        started = time.perf_counter()
        self.step = min(step, plan.total_steps - 1)
        positions = self.parts.own_images(order.batch(self.step))
        self._train_step(train.take(positions), plan, 0.0)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.group.from_first(time.perf_counter() - started)


def _learning_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the learning rate of each group of weights."""
    return [group["lr"] for group in optimizer.param_groups]


def _like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded optimizer state the memory format of its parameter.

    Sums taken in another order differ in the last bit.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _cuda_devices(device: torch.device) -> list[int]:
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]
