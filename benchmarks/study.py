"""What a study costs beside the time of its runs.

python benchmarks/study.py [--seeds 3] [--epochs 30] [--out DIR]

A run's own time is that of `tintype.train` called for it: data, training, measuring, its report.
What the study adds is its checks and records between the runs, and at the end the comparison and
the page. All is timed in one process and one go, so that other work on the machine slows both
alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import tintype as tt
from tintype.progress import Watcher


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--out", help="folder for the runs; by default one that is removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(options.out or temporary), options.seeds, options.epochs)


def measure(out: Path, seeds: int, epochs: float) -> None:
    """Print the seconds of a study of three variants, and what part of them is not its runs' own."""
    content = {
        "recipe": "digits-cnn",
        "epochs": epochs,
        "vary": {"model_options.widths": [[16, 32], [32, 64], [64, 128]]},
        "seeds": seeds,
    }
    # imports are not the study's
    tt.train("digits-cnn", epochs=1, out=out, name="warm", watcher=Watcher())
    started = time.perf_counter()
    study = tt.study(content, out=out, watcher=Watcher())
    whole = time.perf_counter() - started
    own = sum(record["seconds"] for record in study.record.values())
    started = time.perf_counter()
    study.report()
    page = time.perf_counter() - started
    print(
        f"{len(study.planned)} runs, {own:.1f} s of their own, {own / len(study.planned):.1f} s each; {whole:.1f} s in all"
    )
    print(
        f"between the runs: {whole - own - page:.2f} s, {(whole - own - page) / own:.2%} of the runs' own time"
    )
    print(f"the page at the end: {page:.2f} s, {page / own:.2%}")


if __name__ == "__main__":
    main()
