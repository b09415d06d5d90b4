"""What the README claims, measured in one run of at most 30 minutes beside peers that install from PyPI.

    make bench DATA=DIR                     # makes .venv-peers with the peers, measures, writes tables
    python benchmarks/bench.py --out OUT [--data-root DIR] [--python PEERS] [--write] [--quick]

Each part is another script of this folder, which runs both sides in turn; its ratios are collected
over rounds, and the table shows their median and from where to where they went. Peers are Keras,
fastai, scikit-learn and Ultralytics' classifier, each from scratch or from what it can load without
the internet. DIR holds `torchvision/MNIST/raw`, `cifar10/{train,test}/CLASS` and `pets/BREED`: a
part whose data is not there is named and left out. Each finished cell (a part and a round) is a
file in OUT/cells, and the next call goes on where this one stopped. --write puts the tables between
the markers of README.md and docs/results.md. Close other programs first: the load is stated.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- begin of make bench -->", "<!-- end of make bench -->"
PEERS = ("keras", "fastai", "scikit-learn", "ultralytics", "torch")
NUMBER = r"([+-]?[\d,]*\.?\d+)"

Cell = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A figure of a part.

    Attributes:
        what: what the table says of it.
        pattern: where it stands in what the part prints.
        unit: what follows the number.
        headline: whether the README shows it.
    """

    what: str
    pattern: str
    unit: str = " times"
    headline: bool = False


@dataclass(frozen=True)
class Part:
    """One script with its figures.

    Attributes:
        script: in this folder.
        arguments: with {mnist}, {cifar10}, {pets}, {data}, {python}, {photos}, {run} and {out}
            where those are.
        quick: the arguments of --quick, None where nothing is quick about it.
        figures: what is read from its output.
        seconds: about how long a cell takes.
        rounds: how many cells there are.
        peers: the packages that {python} must have.
    """

    script: str
    arguments: str
    quick: str | None
    figures: Sequence[Figure]
    seconds: float
    rounds: int = 3
    peers: Sequence[str] = ()


def mnist_beside(name: str, title: str, seconds: float) -> Part:
    """Return the part that trains MNIST to 99 % here and by the example that a peer teaches with."""
    return Part(
        "others.py",
        f"--data-root {{mnist}} --python {{python}} --others {name} --seeds 0",
        None,
        (
            Figure(
                f"MNIST to 99 %: seconds of {title}, of those of `tintype train mnist --epochs 0.3`",
                rf"^{name} .*; {NUMBER} times as long",
                headline=True,
            ),
            Figure(
                "MNIST: seconds of training of `tintype train mnist --epochs 0.3`",
                rf"^tintype .* epochs +{NUMBER} s",
                " s",
            ),
        ),
        seconds,
        1,
        {"keras": ("keras",), "fastai": ("fastai",), "pytorch": ()}[name],
    )


def photos_beside(name: str) -> Figure:
    return Figure(
        f"pets, accuracy after a minute: {name}",
        rf"\| {name} \| \d+ s \| [^|]* \| {NUMBER} %",
        " %",
        headline=True,
    )


# The order is that of the rounds: every part has its first cell before any has its second.
PARTS: dict[str, Part] = {
    "throughput": Part(
        "throughput.py",
        "--data-root {cifar10} --rounds 3",
        None,
        (
            Figure(
                "training images a second, of the usual DataLoader loop",
                rf"^engine / usual loop +{NUMBER}",
                headline=True,
            ),
            Figure("the same, of the bare step", rf"^engine / bare step +{NUMBER}"),
        ),
        90,
    ),
    "whole": Part(
        "whole.py",
        "--recipe digits",
        "--recipe digits --quick",
        (
            Figure("the whole command `tintype train digits`", rf"^digits: {NUMBER} s", " s"),
            Figure("`import tintype`", rf"^import tintype: {NUMBER} s", " s"),
            Figure("`tintype predict` of one photo", rf"^predict one photo: {NUMBER} s", " s"),
            Figure("first answer of `tintype serve`", rf"^first answer of serve: {NUMBER} s", " s"),
        ),
        40,
    ),
    "ingest": Part(
        "ingest.py",
        "--photos 300 --rounds 1",
        "--photos 24 --size 64x48 --image-size 32 --rounds 1 --workers 0",
        (
            Figure(
                "photos a second of the first pass, of ImageFolder and DataLoader",
                rf"^first pass .* {NUMBER}$",
            ),
            Figure("the same, later passes", rf"^later pass .* {NUMBER}$"),
        ),
        30,
    ),
    "predict": Part(
        "predict.py",
        "{run} {photos} --count 300 --repeats 1",
        None,
        (
            Figure(
                "photos a second of `tintype predict`, of what decoding and network allow together",
                rf"^share of the bound: median {NUMBER}",
            ),
        ),
        60,
    ),
    "serve": Part(
        "serve.py",
        "--run {run} --seconds 4 --rounds 1",
        None,
        (
            Figure(
                "answers a second of `tintype serve`, of a plain handler",
                rf"^batched / plain: {NUMBER}",
            ),
        ),
        60,
    ),
    "heads": Part(
        "heads.py",
        "--data-root {pets}/.. --only pets --seeds 2 --out {out}/heads",
        None,
        (
            Figure(
                "exact head on pets: seconds, of scikit-learn's LogisticRegressionCV",
                rf"seconds {NUMBER} of theirs in the median",
                headline=True,
            ),
            Figure(
                "the same: accuracy, difference in points",
                rf"accuracy {NUMBER} points",
                " points",
                headline=True,
            ),
        ),
        90,
        1,
    ),
    "photos": Part(
        "photos.py",
        "{pets} --out {out}/photos --python {python} --tables minutes --seeds 0 "
        "--peers sklearn fastai ultralytics",
        None,
        tuple(map(photos_beside, ("tintype", "sklearn", "fastai", "ultralytics"))),
        900,
        1,
        ("fastai", "ultralytics", "scikit-learn"),
    ),
    "mnist beside keras": mnist_beside("keras", "Keras' example", 220),
    "mnist beside pytorch": mnist_beside("pytorch", "PyTorch's example", 300),
    "mnist beside fastai": mnist_beside("fastai", "fastai's example", 600),
}  # fmt: skip


# ---- what the parts need -------------------------------------------------------------------------


def places(options: argparse.Namespace) -> dict[str, str]:
    """Return where the data sets are that were given, by name."""
    found = {"out": str(options.out), "python": options.python}
    root = options.data_root
    if root is None:
        return found
    for folder in (root / "torchvision", root):
        if (folder / "MNIST" / "raw").is_dir():
            found.setdefault("mnist", str(folder))
    if (root / "cifar10").is_dir() or (root / "cifar-10-batches-py").is_dir():
        found["cifar10"] = str(root)
    if (root / "pets").is_dir():
        found["pets"] = str(root / "pets")
    return found


def made_photos(out: Path) -> dict[str, str]:
    """Make photos and a run on them, once, for the parts that need these alone."""
    import runpy

    folder, run = out / "made" / "photos", out / "made" / "runs" / "photos"
    if not folder.exists():
        make_photos = runpy.run_path(str(ROOT / "benchmarks" / "ingest.py"))["make_photos"]
        make_photos(folder, 120, 800, 600)
    if not (run / "report.html").exists():
        train = [
            "-m",
            "tintype",
            "train",
            str(folder),
            "--out",
            str(run.parent),
            "--name",
            run.name,
        ]
        more = ["--tune", "head", "--time", "30s", "--model", "efficientnet_lite0"]
        subprocess.run([sys.executable, *train, *more], check=True, capture_output=True)
    return {"photos": str(folder), "run": str(run)}


def versions(python: str) -> dict[str, str]:
    """Return the versions of the peers that an interpreter has."""
    program = (
        "import importlib.metadata as m, json\nfound = {}\n"
        f"for name in {PEERS!r}:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    try:
        done = subprocess.run(
            [python, "-c", program], capture_output=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return json.loads(done.stdout)


def missing(part: Part, have: Mapping[str, str], peers: Mapping[str, str]) -> str:
    """Say what a part needs that is not here, "" if it can run."""
    names = re.findall(r"{(\w+)}", part.arguments)
    data = [name for name in names if name in ("mnist", "cifar10", "pets") and name not in have]
    packages = [name for name in part.peers if name not in peers]
    return ", ".join([*(f"no {name} below --data-root" for name in data),
                      *(f"no {name} for --python" for name in packages)])  # fmt: skip


# ---- cells ---------------------------------------------------------------------------------------


def read(part: Part, text: str) -> dict[str, float]:
    """Return the figures of what a part has printed."""
    found = {}
    for figure in part.figures:
        match = re.search(figure.pattern, text, re.MULTILINE)
        if match:
            found[figure.what] = float(match[1].replace(",", ""))
    return found


def measure(part: Part, arguments: str, seconds: float) -> Cell:
    """Run a cell; of one that fails, or takes longer, the "failed" says why."""
    script = ROOT / "benchmarks" / part.script
    began = time.perf_counter()
    load = os.getloadavg()[0]
    command = [sys.executable, str(script), *shlex.split(arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # what it has started as well
        process.communicate()
        return {"failed": f"it took more than {seconds:.0f} s"}

    figures = read(part, output)
    lines = (errors.strip() or output.strip() or "nothing").split("\n")
    if process.returncode or not figures:
        return {"failed": f"it ended with {process.returncode}: {lines[-1][:150]}"}
    return {
        "figures": figures, "seconds": round(time.perf_counter() - began, 1), "load": round(load, 1),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def run_all(options: argparse.Namespace) -> None:
    """Measure what is not measured yet, round by round, as long as the time lasts."""
    began = time.perf_counter()
    have = places(options)
    peers = versions(options.python)
    cells = options.out / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    said: set[str] = set()

    for number in range(options.rounds):
        for name in options.only:
            part = PARTS[name]
            arguments = part.quick if options.quick else part.arguments
            file = (
                cells
                / f"{name.replace(' ', '-')}-{'quick' if options.quick else 'full'}-{number}.json"
            )
            if number >= part.rounds or name in said or file.exists():
                continue
            why = missing(part, have, peers)
            if arguments is None:
                why = "it is not part of --quick"
            left = 60 * options.minutes - (time.perf_counter() - began)
            if not why and left < part.seconds:
                why = f"about {part.seconds:.0f} s are needed, and {left:.0f} s are left"
            if why:
                print(f"{name}: skipped, {why}", flush=True)
                said.add(name)
                continue

            assert arguments is not None
            if {"{run}", "{photos}"} & set(arguments.split()):
                have |= made_photos(options.out)
            cell = measure(part, arguments.format(**have), min(left, 2.5 * part.seconds))
            if "failed" in cell:
                print(f"{name}: {cell['failed']}", flush=True)
                said.add(name)
                continue
            file.write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")
            print(f"{name} {number + 1}: {cell['figures']} ({cell['seconds']:.0f} s)", flush=True)


# ---- tables --------------------------------------------------------------------------------------


def rows(out: Path, *, quick: bool, headline: bool) -> list[str]:
    """Return the rows of a table of all finished cells."""
    lines = []
    seen = set()
    for name, part in PARTS.items():
        kind = "quick" if quick else "full"
        files = sorted((out / "cells").glob(f"{name.replace(' ', '-')}-{kind}-*.json"))
        cells = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        for figure in part.figures:
            values = [c["figures"][figure.what] for c in cells if figure.what in c["figures"]]
            if not values or figure.what in seen or (headline and not figure.headline):
                continue
            seen.add(figure.what)
            spread = f"{min(values):g} to {max(values):g}" if len(values) > 1 else "one round"
            median = f"{statistics.median(values):.3g}{figure.unit}"
            lines.append(f"| {figure.what} | {median} | {spread} | `benchmarks/{part.script}` |")
    return lines


def table(out: Path, peers: Mapping[str, str], *, quick: bool, headline: bool) -> str:
    """Return a table in Markdown with the command, the processor, the versions and the date."""
    from tintype.hardware.arithmetic import processor
    from tintype.hardware.device import num_cores

    found = rows(out, quick=quick, headline=headline)
    files = list((out / "cells").glob("*.json"))
    cells = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    load = max((cell["load"] for cell in cells), default=0.0)
    date = max((cell["date"] for cell in cells), default="")
    own = ("tintype", "torch", "scikit-learn")
    here = {name: version(name) for name in own if _installed(name)}
    stated = ", ".join(f"{name} {number}" for name, number in {**peers, **here}.items())
    return "\n".join(
        [
            f"`make bench`, {date}, {processor()}, {num_cores()} cores, load at most {load:g} when a "
            f"part began; {stated}.",
            "",
            "| | median | from round to round | part |",
            "|---|---:|---|---|",
            *found,
        ]
    )


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def write(file: Path, text: str) -> None:
    """Put a table between the markers of a page.

    Raises:
        SystemExit: the page has no markers.
    """
    page = file.read_text(encoding="utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        sys.exit(f"{file} has no place for the table. Expected the lines {BEGIN} and {END} in it.")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write it where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder of finished cells")
    parser.add_argument("--data-root", type=Path, help="folder that holds the data sets")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long it may take in all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    parser.add_argument("--write", action="store_true", help="put the tables into the pages")
    parser.add_argument("--pages", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.data_root = options.data_root and options.data_root.resolve()
    if options.quick and options.write and options.pages == ROOT:
        parser.error("--quick measures nothing worth writing into the pages")

    run_all(options)
    peers = versions(options.python)
    whole = table(options.out, peers, quick=options.quick, headline=False)
    print(f"\n{whole}")
    if options.write:
        write(options.pages / "docs" / "results.md", whole)
        short = table(options.out, peers, quick=options.quick, headline=options.quick is False)
        write(options.pages / "README.md", short)


if __name__ == "__main__":
    main()
