"""How often tintype's intervals hold the truth, and its promises are kept, in simulations whose truth is known.

python benchmarks/coverage.py [effects] [--tries 10000]

A short form of each stands in tests/.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from tintype.statistics import block_error


def effects(tries: int) -> None:
    """Effects in a study: coverage of the 95 % interval where the effect differs between the other factors' combinations."""
    print("effects: levels, contexts, seeds, part of the variance that is between contexts: coverage")
    draw = np.random.default_rng(0)
    for levels in (2, 3):
        for num_contexts in (2, 3, 4, 9):
            for seeds in (2, 3, 5):
                contexts = np.repeat(np.arange(num_contexts), seeds).tolist()
                found = []
                for part in (0.0, 0.05, 0.15, 0.4):
                    between = np.sqrt(part) * draw.normal(size=(tries, num_contexts, 1, levels))
                    within = np.sqrt(1 - part) * draw.normal(size=(tries, num_contexts, seeds, levels))
                    hits = [_holds_zero(each, contexts) for each in (between + within).reshape(tries, -1, levels)]
                    found.append(f"{part:.0%} {100 * np.mean(hits):.1f}")
                print(f"  {levels} levels, {num_contexts} contexts, {seeds} seeds: {', '.join(found)}")


def _holds_zero(values: np.ndarray, contexts: list[int]) -> bool:
    error = block_error(values, contexts)
    assert error is not None
    low, high = error.interval(float(values[:, 1].mean() - values[:, 0].mean()))
    return low <= 0 <= high


SIMULATIONS: dict[str, Callable[[int], None]] = {"effects": effects}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=[*SIMULATIONS, []], help="by default all")
    parser.add_argument("--tries", type=int, default=10_000)
    options = parser.parse_args()
    for name in options.which or SIMULATIONS:
        SIMULATIONS[name](options.tries)


if __name__ == "__main__":
    main()
