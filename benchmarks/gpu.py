"""What a GPU does with tintype, in one command of at most six minutes that needs no internet.

    python benchmarks/gpu.py [--data-root DIR] [--airbench FOLDER] [--out gpu.json]
    python benchmarks/gpu.py --quick --device cpu      # small sizes, to see that it works

Each task's smoke recipe is trained, stopped half-way and resumed: the weights must be equal bit for
bit with `exact: true`, and its cost over `exact: false` is timed. Then come answers beside those of
the CPU, precision and memory format, torch.compile, `cifar10-fast` (beside airbench94's code, where
FOLDER holds legacy/airbench94.py and airbench94_muon.py of KellerJordan/cifar10-airbench at
f1c599c), reading photos and predicting. Without --data-root the digits of scikit-learn, enlarged and
coloured, stand in for CIFAR-10: then only seconds mean something, not accuracy.

Each part runs in a process of its own with a time limit: one that fails shows its error in the
table, and the others go on. Finished parts stay in the JSON file and are not run again (--again
does). What no longer fits into --minutes is skipped, with a line. Exits with 1 where a promise of
equal bits is broken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# So that asking for a GPU leaves CUDA alone in this process, whose children are forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import numpy as np
import torch
from PIL import Image

import tintype
from tintype.errors import Interrupted
from tintype.hardware.device import choose_device, choose_precision
from tintype.progress import Watcher
from tintype.recipe import Recipe, build, resolve
from tintype.runs.folder import RunFolder
from tintype.training import engine
from tintype.training.prepare import prepare
from tintype.training.run import train_run

Rows = dict[str, Any]  # figures of a part by name, in the order in which they are shown


@dataclass(frozen=True)
class Settings:
    """What the parts are given; `folder` is for their files."""

    device: str
    quick: bool
    data_root: Path | None
    airbench: Path | None
    folder: Path

    @property
    def place(self) -> torch.device:
        return choose_device(self.device)[0]


@dataclass(frozen=True)
class Part:
    """A part of the table: at least so many seconds must be left to begin it, and at most so many
    may it take.
    """

    run: Callable[[Settings], Rows]
    least: float
    most: float


# ---- what the parts share ------------------------------------------------------------------------


class Halfway(Watcher):
    """Stops a run half-way, as Ctrl-C does."""

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if 2 * step >= total_steps:
            os.kill(os.getpid(), signal.SIGTERM)


def train(run: RunFolder, recipe: Recipe, watcher: Watcher) -> float:
    """Train in `run` from where it stands, with an empty cache; return the seconds of preparing and
    training.
    """
    with tempfile.TemporaryDirectory(prefix="tintype-gpu-") as cache, variable("CACHE", cache):
        prepared = prepare(recipe, watcher)  # features are computed, not read
        if not (run.path / "recipe.yaml").exists():
            run.path.mkdir(parents=True)
            run.write_recipe(prepared.recipe)
        train_run(run, prepared, watcher, "benchmarks/gpu.py")
        del prepared  # pixels may be mapped from the cache
    environment = run.read("environment.json")
    return environment["preparing_seconds"] + environment["training_seconds"]


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable of tintype within the block."""
    key = f"TINTYPE_{name}"
    before = os.environ.get(key)
    os.environ[key] = value
    try:
        yield
    finally:
        del os.environ[key]
        if before is not None:
            os.environ[key] = before


@contextmanager
def peak_memory(place: torch.device, rows: Rows) -> Iterator[None]:
    """Note the most memory of the GPU that the block held, in MiB."""
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    yield
    if place.type == "cuda":
        rows["peak MiB"] = round(torch.cuda.max_memory_allocated(place) / 2**20)


def cifar(settings: Settings) -> tuple[Any, str]:
    """Return CIFAR-10, or a set of its shape, as `tintype.train` takes it, and what it is."""
    if settings.data_root is not None:
        return None, "CIFAR-10"
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    rng = np.random.default_rng(0)
    counts = {"train": 400, "test": 200} if settings.quick else {"train": 50_000, "test": 10_000}
    parts = {}
    for split, count in counts.items():
        which = rng.integers(0, len(digits.images), count)
        large = np.kron(digits.images[which], np.ones((1, 4, 4)))[..., None]  # (N, 32, 32, 1)
        colours = rng.uniform(4, 15, (count, 1, 1, 3))
        grain = rng.integers(0, 16, (count, 32, 32, 3))
        pixels = (large * colours + grain).clip(0, 255).astype(np.uint8)
        parts[split] = (pixels, digits.target[which])
    return parts, "digits in the shape of CIFAR-10"


def speed(settings: Settings, rounds: int = 1, **fields: Any) -> tuple[float, Rows]:
    """Return images per second of a plain CNN on images of 32 pixels, and figures of the run."""
    data, _ = cifar(settings)
    recipe = "cifar10" if data is None else "digits-cnn"
    steps = 4 if settings.quick else 300
    given: dict[str, Any] = (
        {"data_root": str(settings.data_root)} if data is None else {"data": data}
    )
    widths = [8, 16] if settings.quick else [64, 128, 256]
    common = {
        "model": "cnn", "model_options": {"widths": widths, "hidden": [], "dropout": 0}, "epochs": None,
        "steps": steps, "batch_size": 100 if settings.quick else 512, "augment": "standard",
        "evaluate_every": 1000, "measure": "none", "keep": "last", "patience": None, "optimizer": "adamw",
        "lr": 0.001, "device": settings.device, "exact": False,
    }  # fmt: skip
    found: list[float] = []
    rows: Rows = {}
    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory(dir=settings.folder) as out,
            peak_memory(settings.place, rows),
        ):
            run = tintype.train(recipe, out=out, watcher=Watcher(), **{**common, **given, **fields})
            environment = run.read("environment.json")
            found.append(steps * common["batch_size"] / environment["training_seconds"])
    return statistics.median(found), rows


# ---- the parts -----------------------------------------------------------------------------------


def machine(settings: Settings) -> Rows:
    """Say what computes, and how fast it multiplies matrices."""
    place = settings.place
    dtype, why = choose_precision("auto", place)
    rows: Rows = {"torch": torch.__version__, "precision": f"{why.choice} ({why.reason})"}
    if place.type == "cuda":
        facts = torch.cuda.get_device_properties(place)
        rows["GPU"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
        rows["CUDA"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        rows["GPUs"] = torch.cuda.device_count()

    size = 256 if settings.quick else 4096
    for kind in dict.fromkeys((torch.float32, dtype)):
        matrix = torch.randn(size, size, device=place, dtype=kind)
        torch.mm(matrix, matrix)  # the first one is slower
        began = time.perf_counter()
        for _ in range(10):
            product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        seconds = time.perf_counter() - began
        rows[f"TFLOP/s {str(kind)[6:]}"] = round(10 * 2 * size**3 / seconds / 1e12, 2)
    return rows


# A recipe's name or fields, what is changed, and what is changed for --quick.
BACKBONE = {
    "data": "digits", "model": "resnet18", "weights": "FILE", "batch_size": 64, "epochs": 3, "image_size": 64
}  # fmt: skip
TASKS: dict[str, tuple[str | dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "classify": (
        "digits-cnn",
        {"evaluate_every": 2},
        {
            "epochs": 1, "batch_size": 200, "evaluate_every": 1,
            "model_options": {"widths": [8], "hidden": [8]},
        },
    ),
    "regress": (
        "digits-number",
        {"evaluate_every": 2},
        {"epochs": 1, "batch_size": 200, "evaluate_every": 1, "model_options": {"widths": [8]}},
    ),
    "generate": (
        "digits-gan",
        {"steps": 1000},
        {"steps": 6, "evaluate_every": 1},
    ),
    "upscale": (
        "photos-x2",
        {"steps": 300},
        {"steps": 4, "batch_size": 4, "evaluate_every": 1, "model_options": {"width": 8}},
    ),
    "fine-tuned": (
        {**BACKBONE, "tune": "all", "augment": "photos"},
        {},
        {"image_size": 32, "epochs": 0.4, "batch_size": 200},
    ),
    "head by steps": (
        {**BACKBONE, "tune": "head", "solver": "steps", "augment": "photos", "views": 2, "epochs": 20},
        {"image_size": 128},
        {"image_size": 32, "epochs": 0.4, "views": 0, "batch_size": 200},
    ),
    "exact head": (
        {**BACKBONE, "tune": "head", "solver": "exact", "epochs": None},
        {"image_size": 128},
        {"image_size": 32},
    ),
}  # fmt: skip


def smoke(name: str, settings: Settings) -> Rows:
    """Train a task's smoke recipe whole, and in two parts; time `exact`; answer here and on a CPU."""
    what, sizes, quick = TASKS[name]
    if isinstance(what, str):
        recipe = resolve(what)[0]
    else:
        recipe = build({**what, "weights": str(random_weights(settings.folder))}, where="")
    changes = {**sizes, **({**quick, "measure": "none"} if settings.quick else {})}
    recipe = recipe.replace(**changes, device=settings.device, exact=True)
    rows: Rows = {}
    folder = settings.folder / name.replace(" ", "-")
    whole = RunFolder(folder / "whole")
    with peak_memory(settings.place, rows):
        train(whole, recipe, Watcher())  # kernels are slower when they are first called: not timed

    resumed = RunFolder(folder / "resumed")
    if recipe.options.without_steps:
        train(resumed, recipe, Watcher())
        rows["repeated"] = same_bits(whole, resumed)
    else:
        rows["stopped at"] = stopped_and_resumed(resumed, recipe)
        rows["resumed"] = same_bits(whole, resumed)
    choices = whole.read("environment.json")["choices"]
    choice = next(c for c in choices if c["name"] == "exact")
    rows["promised"] = choice["choice"]
    if choice["choice"] != "yes":
        rows["why not"] = choice["reason"]

    rows |= beside_the_cpu(tintype.load(whole.path), settings)
    if not recipe.options.without_steps:
        slow = train(RunFolder(folder / "exact"), recipe, Watcher())
        fast = train(RunFolder(folder / "fast"), recipe.replace(exact=False), Watcher())
        rows["exact s"] = round(slow, 2)
        rows["cost of exact"] = round(slow / fast, 2)
    return rows


def random_weights(folder: Path) -> Path:
    """Return a file of weights of a ResNet-18 that nothing was trained on."""
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    file = folder / "resnet18.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        save_file(resnet18().state_dict(), file)
    return file


def stopped_and_resumed(run: RunFolder, recipe: Recipe) -> str:
    """Train in two parts; return the step between them."""
    read_seconds = {**engine.READ_SECONDS}
    engine.READ_SECONDS.update(dict.fromkeys(read_seconds, 0.0))  # to be asked at every step
    try:
        train(run, recipe, Halfway())
    except Interrupted:
        status = run.status
        train(run, run.recipe, Watcher())
        return f"{status['step']} of {status['total_steps']}"
    finally:
        engine.READ_SECONDS.update(read_seconds)
    raise RuntimeError(f"{recipe.model} came to its end before it could be stopped")


def same_bits(one: RunFolder, other: RunFolder) -> str:
    files = ("model.safetensors", "metrics.csv")
    equal = all((one.path / f).read_bytes() == (other.path / f).read_bytes() for f in files)
    return "bit-equal" if equal else "DIFFERS"


def beside_the_cpu(run: tintype.Run, settings: Settings) -> Rows:
    """Return the largest difference between answers here and on the CPU, in units of the answer."""
    task = run.recipe.task
    rng = np.random.default_rng(0)
    answers = []
    for device in (settings.device, "cpu"):
        if task == "generate":
            answers.append(run.generate(4, seed=0, device=device).astype(float) / 255)
        elif task == "upscale":
            picture = (np.arange(24 * 20 * 3).reshape(24, 20, 3) % 256).astype(np.uint8)
            answers.append(np.asarray(run.upscale(picture, device=device)).astype(float) / 255)
        elif task == "regress":
            images = [
                (np.arange(64).reshape(8, 8) * (i + 1) % 256).astype(np.uint8) for i in range(4)
            ]
            found: Any = run.predict(images, device=device)
            answers.append(np.stack([np.asarray(each.values) for each in found]))
        else:
            images = [rng.integers(0, 256, (8, 8)).astype(np.uint8)] * 4
            answers.append(run.predict_proba(images, device=device))
            rng = np.random.default_rng(0)
    return {"beside the CPU": f"{np.abs(answers[0] - answers[1]).max():.1e}"}


def precision(settings: Settings) -> Rows:
    """Time float32 and bfloat16, with and without channels_last, and the memory of each."""
    rows: Rows = {}
    for dtype in ("fp32", "bf16"):
        for last in (True, False):
            found, more = speed(settings, precision=dtype, channels_last=last)
            name = f"{dtype}{' channels_last' if last else ''}"
            rows[f"{name} images/s"] = round(found)
            rows |= {f"{name} {key}": value for key, value in more.items()}
    return rows


def compiled(settings: Settings) -> Rows:
    """Time a training with torch.compile, compilation left out, and the compilation."""
    if settings.place.type != "cuda":
        return {"skipped": "torch.compile is for GPUs here"}
    plain, _ = speed(settings, compile="off")
    began = time.perf_counter()
    first, _ = speed(settings, compile="on")
    seconds = time.perf_counter() - began
    second, _ = speed(settings, compile="on")  # the kernels are cached by now
    return {
        "off images/s": round(plain), "on images/s": round(second), "on, first time images/s": round(first),
        "first run s": round(seconds, 1),
    }  # fmt: skip


def cifar10_fast(settings: Settings) -> Rows:
    """Train `cifar10-fast` as it stands, once to warm up and then with other seeds."""
    data, name = cifar(settings)
    given: dict[str, Any] = {"data": data} if data else {"data_root": str(settings.data_root)}
    if settings.quick:
        given |= {
            "model_options": {"widths": [8, 8]}, "resolutions": [[0, 16]], "epochs": 1, "batch_size": 100,
            "val_fraction": 0.1,
        }  # fmt: skip
    seconds: list[float] = []
    accuracies: list[float] = []
    rows: Rows = {"data": name}
    for seed in range(1 if settings.quick else 4):
        with (
            tempfile.TemporaryDirectory(dir=settings.folder) as out,
            peak_memory(settings.place, rows),
        ):
            run = tintype.train(
                "cifar10-fast", out=out, seed=seed, exact=False, device=settings.device,
                watcher=Watcher(), **given,
            )  # fmt: skip
            if seed or settings.quick:  # the first one finds the kernels
                seconds.append(run.read("environment.json")["training_seconds"])
                accuracies.append(run.metrics["test"]["accuracy"])
    rows["seconds"] = round(statistics.median(seconds), 3)
    rows["spread"] = f"{min(seconds):.3f} to {max(seconds):.3f}"
    if data is None:
        rows["accuracy"] = round(statistics.mean(accuracies), 4)
    return rows


def airbench(script: str, settings: Settings) -> Rows:
    """Run a script of airbench on this GPU, uncompiled, with its own timer; the first run warms up."""
    if settings.airbench is None:
        return {"skipped": "--airbench FOLDER was not given"}
    if settings.place.type != "cuda" and not settings.quick:
        return {"skipped": "it needs a GPU"}
    data, name = cifar(settings)
    folder = settings.folder / "airbench" / "cifar10"
    folder.mkdir(parents=True, exist_ok=True)
    for split, (pixels, targets) in (data or official(settings)).items():
        content = {"images": torch.tensor(pixels), "labels": torch.tensor(targets)}
        torch.save({**content, "classes": list(map(str, range(10)))}, folder / f"{split}.pt")

    os.chdir(folder.parent)
    file = settings.airbench / script
    sys.argv = [str(file)]  # it reads itself
    names: dict[str, Any] = {"__name__": "airbench"}
    torch_compile = torch.compile
    torch.compile = lambda function, **_: function  # pyright: ignore
    try:
        exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)
    finally:
        torch.compile = torch_compile

    times: list[float] = []

    def noted(variables: dict[str, Any], is_final_entry: bool) -> None:
        if is_final_entry:
            times.append(variables.get("time_seconds", variables.get("total_time_seconds", 0.0)))

    names["print_training_details"] = noted
    runs: list[Any] = ["warmup", *range(1 if settings.quick else 3)]
    if "CifarNet" in names and "model" in names["main"].__code__.co_varnames[:2]:
        network = names["CifarNet"]().cuda().to(memory_format=torch.channels_last)
        accuracies = [names["main"](run, network) for run in runs]
    else:
        accuracies = [names["main"](run) for run in runs]
    kept = times[1:]
    rows: Rows = {
        "data": name,
        "seconds": round(statistics.median(kept), 3),
        "spread": f"{min(kept):.3f} to {max(kept):.3f}",
    }
    if data is None:
        rows["accuracy"] = round(statistics.mean(accuracies[1:]), 4)
    return rows


def official(settings: Settings) -> dict[str, Any]:
    """Return the pixels and labels of CIFAR-10 by split, as tintype reads them."""
    from tintype.data.sets.torchvision_sets import load

    images = load("cifar10", data_root=str(settings.data_root))
    assert images.split is not None
    assert isinstance(images.pixels, np.ndarray)
    pixels = images.pixels
    which = {name: images.split == name for name in ("train", "test")}
    return {name: (pixels[rows], images.targets[rows]) for name, rows in which.items()}


def photos(settings: Settings) -> Path:
    """Write photos of two classes, once."""
    folder = settings.folder / "photos"
    if folder.exists():
        return folder
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images
    rng = np.random.default_rng(0)
    size = (64, 48) if settings.quick else (640, 480)
    for i in range(16 if settings.quick else 1000):
        left = int(rng.integers(0, 200))
        picture = Image.fromarray(pictures[i % 2]).crop(
            (left, left // 2, left + 400, left // 2 + 300)
        )
        (folder / f"kind{i % 2}").mkdir(parents=True, exist_ok=True)
        picture.resize(size).save(folder / f"kind{i % 2}" / f"{i:04d}.jpg", quality=90)
    return folder


def ingest(settings: Settings) -> Rows:
    """Time the first reading of photos into the cache, and training from them at 128 pixels."""
    from tintype.data import open_data

    folder = photos(settings)
    count = sum(1 for _ in folder.rglob("*.jpg"))
    side = 32 if settings.quick else 128
    rows: Rows = {"photos": count}
    with tempfile.TemporaryDirectory(prefix="tintype-gpu-") as cache, variable("CACHE", cache):
        for name in ("first", "again"):
            began = time.perf_counter()
            splits = open_data(str(folder), image_size=side)
            rows[f"{name} photos/s"] = round(count / (time.perf_counter() - began))
        del splits
    return rows


def predict(settings: Settings) -> Rows:
    """Time the answers to a folder of photos by a ResNet-18 at 224 pixels, with decoding and without."""
    folder = photos(settings)
    count = sum(1 for _ in folder.rglob("*.jpg"))
    with tempfile.TemporaryDirectory(dir=settings.folder) as out:
        run = tintype.train(
            str(folder), model="resnet18", weights=str(random_weights(settings.folder)), tune="head",
            solver="exact", image_size=32 if settings.quick else 224, measure="none", out=out,
            device=settings.device, watcher=Watcher(),
        )  # fmt: skip
        run.predict(str(next(folder.rglob("*.jpg"))), device=settings.device)  # loads the network
        began = time.perf_counter()
        answers: Any = run.predict(str(folder), device=settings.device)
        done = len(list(answers))
        seconds = time.perf_counter() - began
        pixels = [np.asarray(Image.open(file)) for file in sorted(folder.rglob("*.jpg"))[:200]]
        began = time.perf_counter()
        run.predict_proba(pixels, device=settings.device)
        ready = len(pixels) / (time.perf_counter() - began)
    assert done == count, f"{done} of {count} photos were answered"
    return {"photos": count, "files/s": round(count / seconds), "arrays/s": round(ready)}


PARTS: dict[str, Part] = {
    "machine": Part(machine, 5, 30),
    **{name: Part(partial(smoke, name), 10, 60) for name in TASKS},
    "cifar10-fast": Part(cifar10_fast, 15, 90),
    "airbench94_muon": Part(partial(airbench, "airbench94_muon.py"), 15, 60),
    "airbench94": Part(partial(airbench, "legacy/airbench94.py"), 15, 60),
    "precision": Part(precision, 15, 60),
    "compile": Part(compiled, 30, 90),
    "predict": Part(predict, 15, 60),
    "ingest": Part(ingest, 10, 40),
}


# ---- running them --------------------------------------------------------------------------------


def alone(part: Part, settings: Settings, seconds: float) -> Rows:
    """Run a part in a process of its own; an error or the limit becomes its only figure."""
    context = multiprocessing.get_context("fork")
    receives, sends = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(part, settings, sends))
    process.start()
    sends.close()
    try:
        return receives.recv() if receives.poll(seconds) else {"failed": f"over {seconds:.0f} s"}
    except EOFError:
        process.join()
        return {"failed": f"its process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _child(part: Part, settings: Settings, sends: Any) -> None:
    sends.send(here(part, settings))


def here(part: Part, settings: Settings) -> Rows:
    """Run a part in this process."""
    try:
        return part.run(settings)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        line = str(error).strip().split("\n")[0][:150]
        return {"failed": f"{type(error).__name__}: {line} ({place})"}


def line_of(name: str, rows: Rows, seconds: float) -> str:
    """Return a line of the table."""
    return f"{name:16}{seconds:7.1f} s  " + "; ".join(f"{key} {rows[key]}" for key in rows)


def main() -> None:
    """Run every part, say what came of it, and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--minutes", type=float, default=6.0, help="how long it may take in all")
    parser.add_argument("--data-root", type=Path, help="folder that holds CIFAR-10")
    parser.add_argument("--airbench", type=Path, help="folder of airbench94's code")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--here", action="store_true", help="in this process, without time limits")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts")
    parser.add_argument("--again", action="store_true", help="also what is finished")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON of the table")
    options = parser.parse_args()
    began = time.perf_counter()
    out = options.out.resolve()  # a part may change the folder

    kind = options.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        kind = "mps" if torch.backends.mps.is_available() else kind
    key = f"{kind}, torch {torch.__version__}, {'quick' if options.quick else 'full'}"
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if known.get("of") != key or options.again:
        known = {"of": key, "parts": {}}
    print(f"{key}, {torch.get_num_threads()} threads", flush=True)

    with tempfile.TemporaryDirectory(prefix="tintype-gpu-") as folder:
        settings = Settings(
            options.device, options.quick, options.data_root and options.data_root.resolve(),
            options.airbench and options.airbench.resolve(), Path(folder),
        )  # fmt: skip
        for name in options.only or PARTS:
            part = PARTS[name]
            if name in known["parts"]:
                print(line_of(name, known["parts"][name], 0.0) + "  (kept)", flush=True)
                continue
            left = 60 * options.minutes - (time.perf_counter() - began)
            if left < part.least:
                print(f"{name:16}skipped: {part.least:.0f} s are needed, {left:.0f} s are left")
                continue
            started = time.perf_counter()
            limit = min(left, part.most)
            rows = here(part, settings) if options.here else alone(part, settings, limit)
            print(line_of(name, rows, time.perf_counter() - started), flush=True)
            if not {"failed", "skipped"} & rows.keys():
                known["parts"][name] = rows
                out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")

    broken = [
        name
        for name, rows in known["parts"].items()
        if rows.get("promised") == "yes" and "DIFFERS" in rows.values()
    ]
    if broken:
        sys.exit(f"a promise was broken: no equal bits in {', '.join(broken)}")


if __name__ == "__main__":
    main()
