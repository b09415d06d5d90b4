"""What a run writes down beside its weights and figures.

Images, splits, machine, choices and times.
"""

from __future__ import annotations

import platform
import time
from typing import Any

import torch
from torch import Tensor

from tintype.data.identity import identify
from tintype.data.source import DataSplits, StoredSource
from tintype.data.targets import NoTarget
from tintype.data.typical import learn
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.hardware.arithmetic import differences, facts, processor, recorded
from tintype.hardware.device import Choice
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import PHOTOS_FILE, RunFolder
from tintype.runs.graph import MOST_IMAGES, keep_graph
from tintype.tasks.task import Task
from tintype.training.measure import typical_images
from tintype.training.prepare import Prepared
from tintype.version import __version__

SPLITS = ("train", "val", "test")


def write_origin(run: RunFolder, prepared: Prepared, command: str) -> str:
    """Write down data, splits and environment before training.

    Returns:
        Why what is computed from here on is not bit-equal to a run never stopped; empty if nothing
        speaks against it.

    Raises:
        UserError: the images are not those that the run began with.
    """
    _refuse_other_images(run, prepared)
    _write_data(run, prepared.splits)
    _write_place(run, prepared.recipe)

    arithmetic, departures, why = _arithmetic(run, prepared)
    _write_environment(
        run, prepared, {"arithmetic": arithmetic, "not_bit_equal": departures, "command": command}
    )
    return why


def _refuse_other_images(run: RunFolder, prepared: Prepared) -> None:
    spec = prepared.splits.spec
    begun = (run.path / "data.json").exists()
    if not begun or run.read("data.json")["fingerprint"] == spec.fingerprint:
        return

    recipe = prepared.recipe
    before = run.recipe
    if (recipe.data, recipe.data_root) != (before.data, before.data_root):
        raise UserError(
            f"the images of {recipe.data} are not those that this run began with (pixels, labels, "
            "names and splits must be the same). Give their place, or start a new run."
        )
    raise UserError(
        f"the images of {spec.name} have changed since this run began, so it cannot go on as it "
        "was. Put them back, or start a new run."
    )


def _write_data(run: RunFolder, splits: DataSplits) -> None:
    spec = splits.spec
    run.write(
        "data.json",
        {
            "name": spec.name,
            "fingerprint": spec.fingerprint,
            "channels": spec.channels,
            "height": spec.height,
            "width": spec.width,
            **spec.target.record({s: splits[s].targets.numpy() for s in SPLITS}),
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_images": {split: len(splits[split]) for split in SPLITS},
            "notes": list(splits.notes),
            "skipped": [list(item) for item in splits.skipped],
        },
    )

    rows = ([name, split] for split in SPLITS for name in splits[split].names)
    run.write_table("splits.csv", ["name", "split"], rows)


def _write_place(run: RunFolder, recipe: Recipe) -> None:
    """Write down where the images now are, if that has changed; they are the
    same ones.
    """
    before = run.recipe
    if (before.data, before.data_root) != (recipe.data, recipe.data_root):
        run.write_recipe(before.replace(data=recipe.data, data_root=recipe.data_root))


def _write_environment(run: RunFolder, prepared: Prepared, more: dict[str, Any]) -> None:
    earlier = run.path / "environment.json"
    before = run.read(earlier.name)["choices"] if earlier.exists() else []
    timed = [choice for choice in before if choice["name"] == "time" and not prepared.recipe.time]

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
            **more,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "choices": [vars(choice) for choice in prepared.choices] + timed,
        },
    )


def _arithmetic(
    run: RunFolder, prepared: Prepared
) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Compare what the bits of a run depend on with what it was before the run was stopped.

    Returns:
        What they depend on here; all steps from which on a difference was found, with the reason;
        today's reason, or "".
    """
    recipe, device = prepared.recipe, prepared.device
    now = facts(
        device,
        threads=torch.get_num_threads(),
        precision=prepared.model["precision"],
        compile=prepared.compile,
        exact=recipe.exact,
    )
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


def replace_choice(run: RunFolder, choice: Choice) -> None:
    """Write down a choice in place of an earlier one of its name."""
    environment = run.read("environment.json")
    others = [other for other in environment["choices"] if other["name"] != choice.name]
    run.write("environment.json", {**environment, "choices": [*others, vars(choice)]})


def write_times(
    run: RunFolder, *, preparing: float, training: float, measuring: float, images: int
) -> None:
    """Write down the seconds that each part took, and how fast `images` were trained on."""
    run.write(
        "environment.json",
        {
            **run.read("environment.json"),
            "training_seconds": round(training, 3),
            "preparing_seconds": round(preparing, 3),
            "images_per_second": round(images / max(training, 1e-9), 1),
            "seconds": round(preparing + training + measuring, 3),
        },
    )


def record_photos(run: RunFolder, splits: DataSplits) -> None:
    """Write down which photos the run saw, so that they are recognised in other data.

    Streamed ones are left out: that would take one more pass over all shards.
    """
    sources = {split: splits[split] for split in SPLITS}
    if all(isinstance(s, StoredSource) and s.kind != "streamed" for s in sources.values()):
        with written_whole(run.path / PHOTOS_FILE) as temporary:
            identify(sources).save(temporary)


def record_graph(run: RunFolder, task: Task, splits: DataSplits, watcher: Watcher) -> None:
    """Keep the network as a graph where it can be, so that the run opens without its code."""
    if isinstance(task.spec.target, NoTarget):  # a graph has one size of picture
        why = "it takes pictures of any size. Opening the run will need its code: --trust FILE"
        choice = Choice("graph", "none", why)
    else:
        choice = keep_graph(run.path, task.result(), _some_images(task, splits))

    watcher.note(str(choice))
    replace_choice(run, choice)


def _some_images(task: Task, splits: DataSplits) -> Tensor:
    """Return some images (N, C, H, W) float32 as the network sees them."""
    source = splits.val if len(splits.val) else splits.train
    some = source.take(torch.arange(min(len(source), MOST_IMAGES))).images
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1) for values in (task.spec.mean, task.spec.std)
    )
    return (some.cpu().float() / 255 - mean) / std


def record_typical(run: RunFolder, splits: DataSplits, recipe: Recipe, task: Task) -> None:
    """Write down what the training images have in common, so that images of another kind show."""
    if not task.recognises_others:
        return

    # Grey images of files that are not known to be grey: the user wanted them without their colour.
    coloured = None if recipe.fields().get("channels") == 1 else 0.0
    found = learn(typical_images(splits.train), typical_images(splits.val), coloured=coloured)
    if found is not None:
        run.write("model.json", {**run.read("model.json"), "typical": found.to_dict()})
