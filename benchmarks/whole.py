"""Where the seconds of a whole command go: a waterfall of `tintype train`, and other first answers.

    python benchmarks/whole.py [--recipe digits cifar10 garbage] [--quick] [--data-root FOLDER]
                               [--threads 1] [--out whole.json] [OPTIONS of tintype train]

Each recipe is trained by a process of its own, in which the parts are timed where they happen: a
part that runs within another counts for itself alone, so that the parts sum to the wall time. An
import counts as such wherever it happens. Beside the wall time stands what the process computed,
which other work on the machine changes little. Then come `import tintype`, `predict` of one photo and
the first answer of `serve`, from the start of the process. `--quick` trains 38 steps of a small
network. Data sets lie in FOLDER under their names; a recipe whose data is not there is left out.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS: tuple[str, ...] = (
    "start", "import", "choices", "reading", "training", "checkpoints", "measuring",
    "error analysis", "figures", "report", "end",
)  # fmt: skip
# Functions by the part that they are; of "module:Class.method" the class is looked into.
TIMED = {
    "reading": ("tintype.training.prepare:_open",),
    "training": ("tintype.training.engine:Engine.fit",),
    "checkpoints": (
        "tintype.training.engine:save_checkpoint",
        "tintype.training.run:save_model",
    ),
    "measuring": ("tintype.training.run:measure_run",),
    "error analysis": ("tintype.tasks.classify.analysis:analyse",),
    "figures": (
        "tintype.pages.print_figures:_rendered",
        "plotly.basedatatypes:BaseFigure.to_json",
    ),
    "report": ("tintype.training.run:write_report",),
}
SHORT = ("--model", "ann", "--steps", "38", "--image-size", "32")
NOT_HERE = 2  # the exit code of a mistake that can be mended, such as data that is not here


class Stopwatch:
    """Seconds by part; at each moment the innermost part counts."""

    def __init__(self, began: float) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.computed = dict.fromkeys(PARTS, 0.0)  # seconds of processor time
        self.inside = ["start"]
        self.since = began
        self.computed_before = 0.0

    def enter(self, part: str) -> None:
        self._count()
        self.inside.append(part)

    def leave(self) -> None:
        self._count()
        self.inside.pop()

    def _count(self) -> None:
        now, computed = time.monotonic(), time.process_time()
        self.seconds[self.inside[-1]] += now - self.since
        self.computed[self.inside[-1]] += computed - self.computed_before
        self.since, self.computed_before = now, computed

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose time counts as a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            self.enter(part)
            try:
                return function(*arguments, **named)
            finally:
                self.leave()

        return call


def child(began: float, out: str, arguments: list[str]) -> None:
    """Run the command in this process and write down the seconds of its parts."""
    watch = Stopwatch(began)
    watch.enter("choices")
    builtins.__import__ = watch.timed("import", builtins.__import__)
    importlib.import_module = watch.timed("import", importlib.import_module)

    for part, places in TIMED.items():
        for place in places:
            module, _, path = place.partition(":")
            owner: Any = importlib.import_module(module)
            *classes, name = path.split(".")
            for each in classes:
                owner = getattr(owner, each)
            setattr(owner, name, watch.timed(part, getattr(owner, name)))

    from tintype.cli import main

    try:
        main(arguments)
    finally:
        watch.enter("end")
        content = {"seconds": watch.seconds, "computed": watch.computed, "ended": watch.since}
        Path(out).write_text(json.dumps(content), encoding="utf-8")


def waterfall(recipe: str, options: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    """Train a recipe; return the seconds of its parts and of all, None where its data is missing."""
    arguments = ["train", recipe, "--out", str(folder), "--name", recipe]
    arguments += SHORT[: 4 if recipe == "digits" else None] if options.quick else ()
    arguments += ["--threads", str(options.threads)] if options.threads else ()
    arguments += options.further
    if options.data_root and recipe != "digits":
        arguments += ["--data-root", options.data_root]

    out = folder / f"{recipe}.json"
    before = computed_by_children()
    began = time.monotonic()
    command = [sys.executable, __file__, "--child", str(began), str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    wall = time.monotonic() - began
    if done.returncode == NOT_HERE:
        print(f"{recipe}: not run. {done.stderr.strip().splitlines()[-1]}")
        return None
    if done.returncode:
        sys.exit(done.stderr)

    content = json.loads(out.read_text(encoding="utf-8"))
    computed = computed_by_children() - before
    content["computed"]["end"] += computed - sum(content["computed"].values())
    content["seconds"]["end"] += began + wall - content.pop("ended")
    return {"recipe": recipe, "arguments": arguments, "wall": wall, **content}


def computed_by_children() -> float:
    """Return the processor time of all processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system


def show(found: dict[str, Any]) -> None:
    """Print the parts one below the other, each begun where the one before ends."""
    wall, before = found["wall"], 0.0
    print(f"{found['recipe']}: {wall:.2f} s, {sum(found['computed'].values()):.2f} s of computing")
    print(f"  {'':15}{'wall':>8}{'share':>8}{'computing':>11}")
    for part in PARTS:
        seconds = found["seconds"][part]
        first, last = (round(50 * moment / wall) for moment in (before, before + seconds))
        before += seconds
        row = f"  {part:15}{seconds:7.2f}s{100 * seconds / wall:7.1f}%"
        bar = " " * first + "#" * (last - first)
        print(f"{row}{found['computed'][part]:10.2f}s  {bar}")
    print(f"  {'sum':15}{before:7.2f}s{100 * before / wall:7.1f}%")


def first_answers(run: Path, folder: Path) -> dict[str, float]:
    """Return the seconds from the start of a process to what it was started for."""
    from PIL import Image

    photo = folder / "photo.png"
    Image.new("L", (8, 8), 128).save(photo)

    def seconds(*arguments: str) -> float:
        began = time.monotonic()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.monotonic() - began

    return {
        "import tintype": seconds("-c", "import tintype"),
        "predict one photo": seconds("-m", "tintype", "predict", str(run), str(photo)),
        "first answer of serve": first_answer_of_serve(run, photo),
    }


def first_answer_of_serve(run: Path, photo: Path) -> float:
    """Return the seconds until a service has answered for one photo."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tintype", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            address = next(line for line in lines if line.startswith("serving at ")).split()[2]
            asked = urllib.request.Request(
                f"{address.rstrip('/')}/v1/predict",
                data=photo.read_bytes(),
                headers={"Content-Type": "image/png"},
            )
            with urllib.request.urlopen(asked) as answer:
                answer.read()
            return time.monotonic() - began
        finally:
            process.terminate()


def main() -> None:
    """Measure each recipe and the first answers, print them and write them down."""
    if "--child" in sys.argv[1:2]:
        child(float(sys.argv[2]), sys.argv[3], sys.argv[4:])
        return

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", nargs="+", default=["digits", "cifar10", "garbage"])
    parser.add_argument("--quick", action="store_true", help="38 steps of a small network")
    parser.add_argument("--data-root", help="folder that holds the data sets under their names")
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's choice")
    parser.add_argument("--out", type=Path, help="JSON of the figures")
    options, options.further = parser.parse_known_args()

    with tempfile.TemporaryDirectory(prefix="tintype-whole-") as place:
        folder = Path(place)
        found = [each for name in options.recipe if (each := waterfall(name, options, folder))]
        for each in found:
            show(each)
        answers = first_answers(folder / found[0]["recipe"], folder) if found else {}
    for what, seconds in answers.items():
        print(f"{what}: {seconds:.2f} s")
    if options.out:
        content = {"waterfalls": found, "first answers": answers}
        options.out.write_text(json.dumps(content, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
