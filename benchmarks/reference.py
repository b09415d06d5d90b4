"""The twelve published systems measured again: as they were described and improved, in one table of docs/results.md.

    python benchmarks/reference.py --list python benchmarks/reference.py --data-root DATA --weights
    WEIGHTS [--only R1,R4] [--threads 1] [--quick] python benchmarks/reference.py --table-only

DATA holds `torchvision/` (MNIST, FashionMNIST), `cifar10/` and `cifar100/` as {train,test}/CLASS,
`trashnet/CLASS` and `pets/BREED`. WEIGHTS holds `mobilenet_v2.safetensors` and
`squeezenet1_0.safetensors` in torchvision's naming.

A cell is one `tintype train` or `tintype study`. Each finished cell is a JSON file in OUT/cells, so
that the next call goes on where this one stopped; a cell that was interrupted is resumed. The table
keeps the rows that were measured elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintype.statistics import mean_interval

BEGIN, END = "<!-- reference: begin -->", "<!-- reference: end -->"
TABLE = Path(__file__).parent.parent / "docs" / "results.md"
HEAD = "| cell | system | authors' figure | ours | test figure (95 % interval) | seconds | processor | command |"
NOT_MEASURED = "not measured"
QUICK_STEPS = "2"

# The published systems that recipes and studies rebuild as they were described. Their numbers are
# used in this script, its table and the tests only.
SOURCES = {
    "R1": "a recogniser of handwritten digits",
    "R2": "three depths of network on Fashion-MNIST",
    "R3": "the same three on CIFAR-100",
    "R4": "a small network of few filters on CIFAR-100",
    "R5": "fully connected networks on CIFAR-10, compared",
    "R6": "a convolutional network on CIFAR-10",
    "R7": "three pretrained networks on CIFAR-100",
    "R8": "seven pretrained networks on photos of nine people",
    "R9": "garbage from scratch or pretrained, with and without augmentation",
    "R10": "a fully connected GAN on MNIST",
    "R11": "a DCGAN on CIFAR-100",
    "R12": "photos of pets at twice the size",
}

REPORTED = {
    "R4": "10,000 steps: training 41.2 %, test 33.9 %, training loss 2.338",
    "R5": "validation 53 to 55 % (the best one)",
    "R6": "validation 82 to 83 %",
    "R8": "validation 90 % (Wide ResNet-50-2), on photos that are not public",
    "R9": "scratch 99.70 % (on photos it had seen), augmented 77.27 %; ResNet-18 83.06 %, augmented 81.67 %",
    "R10": "a picture",
    "R11": "FID 66.49 after 50,000 steps",
    "R12": "a picture",
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One command, and what stands for it in the table.

    Attributes:
        key: its name in --only, of its files, and in the table.
        ours: "as described", "improved", or what else it is for.
        verb: "train" or "study"; "elsewhere" for a command that cannot run here.
        what: a recipe or a study.
        arguments: as typed, with {places} that are filled in: data, mobilenet, squeezenet, nine,
            runs.
        length: --steps or --epochs, which --quick replaces.
        minutes: estimated on one quiet thread of an EPYC (Zen 4, bf16).
    """

    key: str
    ours: str
    verb: str
    what: str
    arguments: str = ""
    length: str = ""
    minutes: float = 1.0

    @property
    def system(self) -> str:
        return self.key.partition("-")[0]

    def words(self, places: dict[str, str], length: str) -> list[str]:
        """Return the command after `tintype`, its places filled in."""
        typed = f"{self.verb} {self.what} {self.arguments} {length}".split()
        return [word.format(**places) for word in typed]

    def command(self) -> str:
        """Return the command as the table shows it."""
        if self.verb == "elsewhere":
            return self.what.format(**SHOWN)
        return " ".join(["tintype", *self.words(SHOWN, self.length)])


SHOWN = {
    "data": "DATA",
    "mobilenet": "WEIGHTS/mobilenet_v2.safetensors",
    "squeezenet": "WEIGHTS/squeezenet1_0.safetensors",
    "nine": "NINE",
    "runs": "RUNS",
}
NAMED = "--data-root {data}"
HEADS = "--weights {mobilenet}"
SEEN = "--set task.features={mobilenet}"
BY_DIGITS = "--set task.features={runs}/R1-mnist"
PAIRS = "--weights {squeezenet} --set task.feature_network=squeezenet1_0"
SEVEN = (
    "vgg16",
    "resnet18",
    "densenet161",
    "googlenet",
    "mobilenet_v2",
    "resnext50_32x4d",
    "wide_resnet50_2",
)


def cells(steps: int = 10_000) -> list[Cell]:
    """Return all cells in the order of the table; `steps` are those of the DCGAN."""
    train, study, described, improved = "train", "study", "as described", "improved"
    open_points = "open points, {} seeds of 2,000 steps"
    path = "a path: random weights, {} epochs"
    found = [
        Cell("R1-mnist-ann", described, train, "mnist-ann", NAMED, minutes=2),
        Cell("R1-mnist-cnn", described, train, "mnist-cnn", NAMED, minutes=5),
        Cell("R1-mnist", improved, train, "mnist", NAMED, minutes=4),
        Cell("R2-fashion-ann", described, train, "fashion-ann", NAMED, minutes=3),
        Cell("R2-fashion-cnn", described, train, "fashion-cnn", NAMED, minutes=8),
        Cell("R2-fashion-deep-cnn", described, train, "fashion-deep-cnn", NAMED, minutes=30),
        Cell("R2-fashion-mnist", improved, train, "fashion-mnist", NAMED, minutes=12),
        Cell("R3-cifar100-ann", described, train, "cifar100-ann", NAMED, minutes=4),
        Cell("R3-cifar100-cnn", described, train, "cifar100-cnn", NAMED, minutes=10),
        Cell("R3-cifar100-deep-cnn", described, train, "cifar100-deep-cnn", NAMED, minutes=40),
        Cell("R3-cifar100", improved, train, "cifar100", NAMED, minutes=35),
        Cell("R4-small-filters", described, train, "cifar100-small-filters", NAMED, minutes=6),
        Cell("R4-small-filters-plus", improved, train, "cifar100-small-filters-plus", NAMED, minutes=12),
        Cell(
            "R4-open-points", open_points.format("three"), study, "small-filters-open-points", NAMED, "--steps 2000",
            minutes=45,
        ),
        Cell("R5-baseline", described, train, "cifar10-fcn-baseline", NAMED, minutes=3),
        Cell("R5-large", described, train, "cifar10-fcn-large", NAMED, minutes=4),
        Cell("R5-dropout", described, train, "cifar10-fcn-dropout", NAMED, minutes=4),
        Cell("R5-deep", described, train, "cifar10-fcn-deep", NAMED, minutes=4),
        Cell("R5-plus", improved, train, "cifar10-fcn-plus", NAMED, minutes=10),
        Cell("R6-cifar10-cnn", described, train, "cifar10-cnn", NAMED, minutes=40),
        Cell("R6-cifar10", improved, train, "cifar10", NAMED, minutes=10),
        Cell(
            "R6-dense-cnn", "dense against convolutional, all else equal", study, "cifar10-dense-cnn",
            f"{NAMED} --seeds 1", minutes=70,
        ),
        Cell("R7-mobilenet_v2", described, train, "cifar100-mobilenet_v2", f"{NAMED} {HEADS}", minutes=5),
        Cell(
            "R7-mobilenet_v2-128", "improved: 128 pixels", train, "cifar100-mobilenet_v2",
            f"{NAMED} {HEADS} --image-size 128", minutes=45,
        ),
        Cell(
            "R7-resnet50", path.format(2), train, "cifar100-resnet50", f"{NAMED} --weights none --tune all",
            "--epochs 2", minutes=20,
        ),
        Cell(
            "R7-vgg16", path.format(2), train, "cifar100-vgg16", f"{NAMED} --weights none --tune all", "--epochs 2",
            minutes=50,
        ),
    ]  # fmt: skip
    found += [
        Cell(
            f"R8-{name}", path.format(2), train, "faces", f"--data {{nine}} --model {name} --weights none", "--epochs 2",
            minutes=4,
        )
        for name in SEVEN
    ]  # fmt: skip
    found += [
        Cell(
            "R8-pipelines", "pipelines, class weights and schedules on TrashNet", study, "faces-pipelines",
            f"--data trashnet {NAMED} {HEADS}", "--epochs 6", minutes=90,
        ),
        Cell(
            "R9-two-by-two", "as described, MobileNetV2 for ResNet-18", study, "garbage-two-by-two", f"{NAMED} {HEADS}",
            minutes=40,
        ),
        Cell(
            "R9-two-by-two-clean", "the same, all else equal", study, "garbage-two-by-two-clean", f"{NAMED} {HEADS}",
            minutes=120,
        ),
        Cell("R9-garbage-tuned", improved, train, "garbage-tuned", f"{NAMED} {HEADS}", minutes=8),
        Cell("R10-mnist-gan", described, train, "mnist-gan", f"{NAMED} {BY_DIGITS}", minutes=25),
        Cell("R10-mnist-dcgan", improved, train, "mnist-dcgan", f"{NAMED} {BY_DIGITS}", minutes=12),
        Cell(
            f"R11-dcgan-{steps}", f"as described, {steps:,} steps", train, "cifar100-dcgan", f"{NAMED} {SEEN}",
            f"--steps {steps}", minutes=45 * steps / 10_000,
        ),
        Cell(
            f"R11-gan-{steps}", f"improved, {steps:,} steps", train, "cifar100-gan", f"{NAMED} {SEEN}",
            f"--steps {steps}", minutes=40 * steps / 10_000,
        ),
        Cell(
            "R11-open-points", "open points, one seed of 2,000 steps", study, "dcgan-open-points", f"{NAMED} {SEEN}",
            "--steps 2000", minutes=100,
        ),
        Cell(
            "R11-inception", "FID by Inception, where there is a network: the weights are fetched", "elsewhere",
            f"tintype evaluate {{runs}}/R11-dcgan-{steps} --inception-weights download", minutes=15,
        ),
        Cell("R12-pets-x2", "as described, SqueezeNet for VGG16", train, "pets-x2", f"{NAMED} {PAIRS}", minutes=8),
        Cell(
            "R12-pets-x2-plus", "improved, SqueezeNet for VGG16", train, "pets-x2-plus", f"{NAMED} {PAIRS}", minutes=8
        ),
    ]  # fmt: skip
    return found


def chosen(every: Sequence[Cell], only: str | None) -> list[Cell]:
    """Return the cells of the systems and keys that are named, separated by commas; all by default.

    Raises:
        SystemExit: a name is neither a system nor a cell.
    """
    if only is None:
        return list(every)
    names = {name.strip() for name in only.split(",")}
    unknown = sorted(names - {cell.key for cell in every} - {cell.system for cell in every})
    if unknown:
        sys.exit(
            f"--only {unknown[0]}: neither a system (R1 to R12) nor a cell. Type --list for all of them."
        )
    return [cell for cell in every if names & {cell.key, cell.system}]


class Bench:
    """Runs cells and keeps what they gave in a folder: OUT/cells/KEY.json, the runs themselves in
    OUT/runs.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.quick: bool = options.quick
        self.out = Path(options.out) / ("quick" if options.quick else "")
        self.runs = self.out / "runs"

    def record(self, cell: Cell) -> Record | None:
        """Return what a finished cell gave, or None where it is not finished or was another
        command.
        """
        path = self.out / "cells" / f"{cell.key}.json"
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content["command"] == cell.command() else None

    def run(self, cell: Cell) -> str | None:
        """Run a cell, or go on with it, and keep its record; return in a line why it failed, or
        None.
        """
        places, missing = self._places(cell)
        if missing:
            return missing
        begun = self.runs / cell.key
        mark = self.out / "begun" / f"{cell.key}.txt"
        if begun.exists() and mark.is_file() and mark.read_text(encoding="utf-8") != cell.command():
            return f"{begun} holds a run of another command. Remove it, or give another --out."
        _write(mark, cell.command())

        done = subprocess.run(
            [sys.executable, "-m", "tintype", *self._words(cell, places, begun)],
            capture_output=True, check=False, text=True, encoding="utf-8",
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
            errors = [line for line in said if line.startswith("error")]
            return (errors or said)[-1]
        rows = (
            rows_of_study(json.loads(done.stdout), begun)
            if cell.verb == "study"
            else [row_of_run(begun)]
        )
        content = {"cell": cell.key, "command": cell.command(), "quick": self.quick, "rows": rows}
        for row in rows:
            row["processor"] = self.options.processor or row["processor"]
            row["beside_other_work"] = self.options.beside_other_work
        _write(self.out / "cells" / f"{cell.key}.json", json.dumps(content, indent=1) + "\n")
        return None

    def _words(self, cell: Cell, places: dict[str, str], begun: Path) -> list[str]:
        if begun.exists():
            again = ["--resume", str(begun)] if cell.verb == "train" else [str(begun)]
            return [cell.verb, *again, "--json"]
        words = cell.words(places, f"--steps {QUICK_STEPS}" if self.quick else cell.length)
        if self.quick and cell.verb == "study":
            words += ["--seeds", "1"]
        threads = ["--threads", str(self.options.threads)]
        return [*words, *threads, "--out", str(self.runs), "--name", cell.key, "--json"]

    def _places(self, cell: Cell) -> tuple[dict[str, str], str | None]:
        """Return what the command's places stand for, and in a line what is missing."""
        root = self.options.data_root
        if root is None:
            return {}, "it needs --data-root"
        places = {
            "data": str(Path(root).resolve()),
            "runs": str(self.runs.resolve()),
            "nine": "",
            "mobilenet": "",
            "squeezenet": "",
        }
        for place, name in (("mobilenet", "mobilenet_v2"), ("squeezenet", "squeezenet1_0")):
            if f"{{{place}}}" not in cell.arguments:
                continue
            file = Path(self.options.weights or "") / f"{name}.safetensors"
            if self.options.weights is None or not file.is_file():
                return places, f"it needs --weights, a folder with {file.name}"
            places[place] = str(file.resolve())
        if "{nine}" in cell.arguments:
            if not (Path(root) / "pets").is_dir():
                return places, f"it needs pets/BREED in {root}"
            places["nine"] = str(self._nine_breeds(Path(root) / "pets"))
        if (
            BY_DIGITS in cell.arguments
            and not (self.runs / "R1-mnist" / "evaluation.json").is_file()
        ):
            return places, "it measures by the network of R1-mnist: run that cell first"
        return places, None

    def _nine_breeds(self, pets: Path) -> Path:
        """Return a folder with the first nine breeds by name, in place of nine people."""
        folder = self.out / "nine-breeds"
        if not folder.is_dir():
            partial = self.out / "nine-breeds.partial"
            shutil.rmtree(partial, ignore_errors=True)
            for breed in sorted(path for path in pets.iterdir() if path.is_dir())[:9]:
                shutil.copytree(breed, partial / breed.name)
            partial.rename(folder)
        return folder.resolve()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def row_of_run(folder: Path) -> Record:
    """Return figures, seconds and processor of a finished run, from its own files."""
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    threads = environment["threads"]
    return {
        "label": "",
        "figure": figure_of(evaluation),
        "seconds": environment["training_seconds"],
        "processor": environment["cpu"]
        if environment["device"] == "cpu"
        else environment["device"],
        "arithmetic": f"{environment['precision']}, {threads} thread{'' if threads == 1 else 's'}",
        "tintype": environment["tintype"],
    }


def rows_of_study(content: Record, folder: Path) -> list[Record]:
    """Return a row for each variant of a study, the mean of its seeds, and one for each effect that
    was measured.
    """
    grouped: dict[str, list[Record]] = {}
    for run in content["runs"]:
        grouped.setdefault(run["variant"], []).append(run)

    rows = []
    for variant, runs in grouped.items():
        singles = [row_of_run(folder / run["run"]) for run in runs]
        row = singles[0] | {
            "label": variant,
            "seconds": statistics.mean(each["seconds"] for each in singles),
        }
        if len(runs) > 1:
            row["figure"] = seeds_figure(
                content["measure"], [run[f"test_{content['measure']}"] for run in runs]
            )
        rows.append(row)

    for effect in content["effects"]:
        label = f"{effect['level']} against {effect['reference']}"
        figure = effect_figure(effect, content["measure"] == "accuracy")
        rows.append(rows[0] | {"label": label, "figure": figure, "seconds": None})
    return rows


def effect_figure(effect: Record, as_points: bool) -> str:
    """Return an effect with its interval, in percentage points where it is one of accuracy, and
    whether it is confounded.
    """
    scale, unit = (100, " points") if as_points else (1, "")
    text = f"{scale * effect['estimate']:+.3g}{unit}"
    if effect["ci95"]:
        low, high = effect["ci95"]
        text += f" ({scale * low:+.3g} to {scale * high:+.3g})"
    if effect["confounding"]:
        text += ", the sum of several differences"
    return text


def seeds_figure(measure: str, values: Sequence[float]) -> str:
    """Return the mean of several seeds with Student's interval, an accuracy in percent."""
    scale, begin, unit = (100, "", " %") if measure == "accuracy" else (1, f"{measure} ", "")
    text = f"{begin}{scale * statistics.mean(values):.4g}{unit}"
    interval = mean_interval(values)
    if interval is not None:
        text += f" ({scale * interval[0]:.4g} to {scale * interval[1]:.4g})"
    return f"{text}, mean of {len(values)} seeds"


def figure_of(evaluation: Record) -> str:
    """Return a run's figures on test, and what else its authors reported, in words."""
    test = evaluation["splits"]["test"]
    if "accuracy" in test:
        low, high = test["accuracy_ci95"]
        train = evaluation["splits"]["train"]
        losses = evaluation.get("calibration", {}).get("splits", {}).get("train", {})
        loss = losses.get("loss_before", train["loss"])
        return (
            f"{100 * test['accuracy']:.2f} % ({100 * low:.2f} to {100 * high:.2f}); "
            f"training images {100 * train['accuracy']:.1f} %, loss {loss:.3f}"
        )
    if "psnr_y" in test:
        text = f"{test['psnr_y']:.2f} dB, bicubic {test['bicubic']['psnr_y']:.2f}"
        if test.get("gain_ci95"):
            low, high = test["gain_ci95"]
            text += f"; gain {test['gain']:+.2f} ({low:+.2f} to {high:+.2f})"
        return text
    distance = next(key for key in test if key.startswith("fd_") and not key.endswith("_floor"))
    features = distance.removeprefix("fd_")
    precision, recall = (test.get(f"{kind}_{features}") for kind in ("precision", "recall"))
    floor = test.get(f"{distance}_floor")
    text = f"{distance} {test[distance]:.4g}"
    text += "" if floor is None else f" (real against real {floor:.3g})"
    return (
        text
        if precision is None or recall is None
        else f"{text}, precision {precision:.2f}, recall {recall:.2f}"
    )


def lines_of(cell: Cell, record: Record | None) -> list[str]:
    """Return the rows of the table for a cell."""
    source = f"{cell.system}: {SOURCES[cell.system]}"
    begin = [source, REPORTED.get(cell.system, "none")]
    if record is None:
        missing = "not run here" if cell.verb == "elsewhere" else NOT_MEASURED
        return [_line([f"`{cell.key}`", *begin, cell.ours, missing, "", "", f"`{cell.command()}`"])]
    lines = []
    for row in record["rows"]:
        label = f": {row['label']}" if row["label"] else ""
        figure, seconds = row["figure"], "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        if record["quick"]:
            figure, seconds = f"{NOT_MEASURED}; runs ({QUICK_STEPS} steps)", ""
        elif seconds and row["beside_other_work"]:
            seconds += ", beside other work"
        processor = f"{row['processor']}, {row['arithmetic']}"
        lines.append(
            _line(
                [
                    f"`{cell.key}`",
                    *begin,
                    cell.ours + label,
                    figure,
                    seconds,
                    processor,
                    f"`{cell.command()}`",
                ]
            )
        )
    return lines


def _line(parts: Iterable[str]) -> str:
    return f"| {' | '.join(part.replace('|', '/') for part in parts)} |"


def write_table(path: Path, every: Sequence[Cell], records: dict[str, Record]) -> None:
    """Write the rows of all cells between the two marks; measured rows of the same command that were there stay.

    Raises:
        SystemExit: there is no such file, or it lacks the marks.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(
            f"{path} has to hold the lines {BEGIN} and {END} once, in this order: the table goes between them."
        )
    before, rest = text.split(BEGIN)
    inside, after = rest.split(END)
    rows = [line for line in inside.splitlines() if line.startswith("| `")]
    lines = [HEAD, "|---|---|---|---|---|---:|---|---|"]
    for cell in every:
        record = records.get(cell.key)
        written = [
            row
            for row in rows
            if row.startswith(f"| `{cell.key}` |") and row.endswith(f"`{cell.command()}` |")
        ]
        measured = any(f"| {NOT_MEASURED}" not in row for row in written)
        keep = measured and (record is None or record["quick"])
        lines += written if keep and cell.verb != "elsewhere" else lines_of(cell, record)
    _write(path, before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)


def main() -> None:
    """Run what is not finished, and write the table after each cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="folder that holds the data sets")
    parser.add_argument(
        "--weights", help="folder that holds the weights of MobileNetV2 and SqueezeNet"
    )
    parser.add_argument(
        "--out", default="runs/reference", help="folder for finished cells and their runs"
    )
    parser.add_argument("--only", help="systems or cells, separated by commas: R4,R5-dropout")
    parser.add_argument("--steps", type=int, default=10_000, help="of the DCGAN on CIFAR-100 (R11)")
    parser.add_argument("--threads", type=int, default=1, help="that share the arithmetic")
    parser.add_argument(
        "--processor", help="its name in the table, where the machine does not give all of it"
    )
    parser.add_argument(
        "--beside-other-work",
        action="store_true",
        help="mark the seconds: the machine was not quiet",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_STEPS} steps each, only to see that all of it runs",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the cells, what they cost, and stop"
    )
    parser.add_argument(
        "--table", type=Path, default=TABLE, help="Markdown file that holds the two marks"
    )
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the table")
    options = parser.parse_args()

    every = cells(options.steps)
    selected = chosen(every, options.only)
    bench = Bench(options)
    if options.list:
        for cell in selected:
            state = "finished" if bench.record(cell) else f"about {cell.minutes:.0f} min"
            print(f"{cell.key:24} {state:14} {cell.ours}: {cell.command()}")
        left = sum(
            cell.minutes for cell in selected if not bench.record(cell) and cell.verb != "elsewhere"
        )
        print(
            f"about {left / 60:.1f} hours left, estimated for one quiet thread of an EPYC (Zen 4, bf16)"
        )
        return

    write_table(
        options.table, every, _records(bench, every)
    )  # a table that cannot be written is known before hours of work
    failed = 0
    for cell in selected if not options.table_only else []:
        if cell.verb == "elsewhere" or bench.record(cell):
            continue
        print(f"{cell.key}: {cell.command()}", flush=True)
        try:
            reason = bench.run(cell)
        except KeyboardInterrupt:
            sys.exit("stopped; the same command goes on from here")
        failed += reason is not None
        print(f"  {'done' if reason is None else f'not done: {reason}'}", flush=True)
        if reason is None:
            write_table(options.table, every, _records(bench, every))
    sys.exit(1 if failed else 0)


def _records(bench: Bench, every: Sequence[Cell]) -> dict[str, Record]:
    found = {cell.key: bench.record(cell) for cell in every}
    return {key: record for key, record in found.items() if record is not None}


if __name__ == "__main__":
    main()
