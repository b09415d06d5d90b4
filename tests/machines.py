"""Run the tests marked `machines` as other machines would: python tests/machines.py [NAME...], or make test-machines.

Each combination sets the environment of one pytest process. What this processor or system lacks is
listed as "not run here".
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
MARKED = "pytest.mark.machines"
SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Combination:
    """A machine that is imitated.

    Args:
        name: what `python tests/machines.py NAME` takes.
        environment: of the process; `tests/conftest.py` reads those that begin with TINTYPE_TEST.
        processor: flags of /proc/cpuinfo that it takes.
        locale: a locale of the system, in force for numbers, dates and the encoding of files.
        options: more options of pytest.
    """

    name: str
    environment: dict[str, str]
    processor: tuple[str, ...] = ()
    locale: str = "C.UTF-8"
    options: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether it takes several cores; side by side, threads would wait for each other."""
        return self.environment["TINTYPE_TEST_THREADS"] != "1"


def instructions(torch: str, onednn: str, openblas: str) -> dict[str, str]:
    return {
        "ATEN_CPU_CAPABILITY": torch,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "OPENBLAS_CORETYPE": openblas,
    }


def suite(*, threads: int = 1, precision: str = "fp32") -> dict[str, str]:
    return {"TINTYPE_TEST_THREADS": str(threads), "TINTYPE_TEST_PRECISION": precision}


COMBINATIONS = (
    Combination(
        "sse",
        {**instructions("default", "SSE41", "Nehalem"), **suite(), "TZ": "America/St_Johns"},
        processor=("sse4_1",),
    ),
    Combination(
        "avx2",
        {**instructions("avx2", "AVX2", "Haswell"), **suite(threads=2), "TZ": "UTC"},
        processor=("avx2", "fma"),
    ),
    Combination(
        "avx512",
        {**instructions("avx512", "AVX512_CORE", "SkylakeX"), **suite(), "TZ": "Asia/Tokyo"},
        processor=("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    ),
    Combination("bf16", {**suite(precision="bf16"), "TZ": "UTC"}, processor=("avx512_bf16",)),
    # Decimal commas, and a time zone that is off by a quarter of an hour.
    Combination("german", {**suite(threads=4), "TZ": "Asia/Kathmandu"}, locale="de_DE.UTF-8"),
    # Files and the terminal are ASCII where nothing else is asked for.
    Combination(
        "ascii",
        {**suite(), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Pacific/Apia"},
        locale="C",
    ),
    Combination("random-order", {**suite(), "TZ": "UTC"}, options=("-p", "randomly")),
)


def lacking(combination: Combination, flags: set[str], locales: set[str]) -> str:
    """Return what is missing here, or ""."""
    missing = [flag for flag in combination.processor if flag not in flags]
    if missing:
        return f"the processor lacks {', '.join(missing)}"
    if _plain(combination.locale) not in locales:
        return f"the system lacks the locale {combination.locale}"
    return ""


def processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next(
        (set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set()
    )


def system_locales() -> set[str]:
    try:
        listed = subprocess.run(
            ["locale", "-a"], capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = ""
    return {"c", *map(_plain, listed.split())}


def _plain(locale: str) -> str:
    return locale.lower().replace("-", "")


@dataclass
class Outcome:
    """What came of one combination."""

    combination: Combination
    status: str
    text: str = ""
    output: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.combination.name:13} {self.status:13} {self.text}"


def run(combination: Combination) -> Outcome:
    began = time.monotonic()
    environment = {**os.environ, **combination.environment, "LC_ALL": combination.locale}
    files = [
        str(file)
        for file in sorted(TESTS.glob("test_*.py"))
        if MARKED in file.read_text(encoding="utf-8")
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-m",
        "machines",
        *combination.options,
        *files,
    ]
    settings: dict[str, Any] = {
        "cwd": TESTS.parent,
        "env": environment,
        "encoding": "utf-8",
        "errors": "replace",
    }
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **settings
    )
    lines = done.stdout.splitlines()
    summary = next((line for line in reversed(lines) if " passed" in line or " failed" in line), "")
    if not summary:
        summary = f"{time.monotonic() - began:.0f} s"
    return Outcome(
        combination, "failed" if done.returncode else "passed", summary.strip("= "), done.stdout
    )


def main(names: list[str]) -> int:
    known = {c.name: c for c in COMBINATIONS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no combination {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2

    flags, locales = processor_flags(), system_locales()
    chosen = [known[name] for name in names] or list(COMBINATIONS)
    missing = {c.name: lacking(c, flags, locales) for c in chosen}
    for combination in chosen:
        if missing[combination.name]:
            print(Outcome(combination, "not run here", missing[combination.name]))

    here = [c for c in chosen if not missing[c.name]]
    outcomes = []
    for abreast, part in (
        (SIDE_BY_SIDE, [c for c in here if not c.alone]),
        (1, [c for c in here if c.alone]),
    ):
        with ThreadPoolExecutor(abreast) as pool:
            for outcome in pool.map(run, part):
                print(outcome, outcome.output if outcome.status == "failed" else "", flush=True)
                outcomes.append(outcome)
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
