"""What bit-equal results depend on: threads, instruction set, libraries and kernels.

A sum taken in another order differs in its last bit. The number of threads, the width of the
processor's vectors and the kernel that a library picks all change the order, so a run fixes what it
can, records the rest, and compares it on resume.
"""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import psutil
import torch
from threadpoolctl import threadpool_limits

from tintype.hardware.cores import LOAD, allowed_cores, num_cores
from tintype.hardware.device import Choice, cpu_flags
from tintype.hardware.processes import current

# cuBLAS sums in a fixed order only with a workspace of fixed size, which it reads when CUDA starts.
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_SIZE = ":4096:8"
FIXED_SIZES = (":4096:8", ":16:8")

# What torch says of a kernel that has no deterministic counterpart; its name comes first.
NO_COUNTERPART = r"(\S+).* does not have a deterministic implementation"

# oneDNN's names of instruction sets with the flag of the processor that each needs, the widest
# first.
ONEDNN_SETS = (
    ("AVX10_1_512_AMX_FP16", "amx_fp16"),
    ("AVX512_CORE_AMX", "amx_tile"),
    ("AVX512_CORE_FP16", "avx512_fp16"),
    ("AVX512_CORE_BF16", "avx512_bf16"),
    ("AVX512_CORE_VNNI", "avx512_vnni"),
    ("AVX512_CORE", "avx512bw"),
    ("AVX2_VNNI_2", "avx_ne_convert"),
    ("AVX2_VNNI", "avx_vnni"),
    ("AVX2", "avx2"),
    ("AVX", "avx"),
    ("SSE41", "sse4_1"),
)
ONEDNN_ALIASES = {"AVX10_1_512": "AVX512_CORE_FP16", "AVX10_1_512_AMX": "AVX512_CORE_AMX"}

# How the recorded facts are named when they differ.
WORDS = {
    "threads": "the number of threads",
    "processor": "the processor",
    "instructions": "the instruction set",
    "onednn_instructions": "oneDNN's instruction set",
    "mkl": "MKL's setting",
    "torch": "torch",
    "onednn": "oneDNN",
    "device": "the device",
    "gpu": "the GPU",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "precision": "the precision",
    "compile": "torch.compile",
    "exact": "exact",
}


# How the reason begins where a run leaves cores to other processes.
OTHERS = "other processes keep"


def choose_threads(
    threads: int | Literal["auto"], *, by_load: bool = False, setting: str = "--threads "
) -> tuple[int, Choice]:
    """Return how many threads share the arithmetic of a run.

    Args:
        threads: the number that was given, or "auto".
        by_load: whether "auto" leaves out the cores on which other processes compute. Threads wait
            for each other many times in a step, so one that shares its core holds up all.
        setting: what a user types before the number to be given all cores after all.
    """
    cores = num_cores()
    if threads != "auto":
        slow = f", although there are only {cores} cores, which is slow" if threads > cores else ""
        return threads, Choice("threads", str(threads), f"as the recipe says{slow}")

    usual = torch.get_num_threads()
    if _given(usual):
        why = "as this process is set; recorded, because the number can change the last bits"
        return usual, Choice("threads", str(usual), why)
    if usual > cores:
        usual = cores
    if (sharing := current().local_size) > 1:
        number = max(1, cores // sharing)
        return number, Choice("threads", str(number), f"{sharing} processes share {cores} cores")

    others = LOAD.others() if by_load and usual > 1 else 0.0
    # Where all cores are busy, the system shares them fairly, so half of them are still to be had.
    number = min(usual, max(cores - round(others), (cores + 1) // 2))
    if number < usual:
        why = f"{OTHERS} {others:.1f} of the {cores} cores busy; {setting}{usual} takes all"
        return number, Choice("threads", str(number), why)

    why = "PyTorch's own choice; recorded, because the number can change the last bits"
    return usual, Choice("threads", str(usual), why)


@contextmanager
def beside_others() -> Iterator[str]:
    """Leave the cores on which other processes compute to them within the block.

    For commands that compute without a recipe, whose threads would wait for each other as those of
    a training do.

    Yields:
        What was decided and why, or "" where all cores are taken.
    """
    before = torch.get_num_threads()
    number, choice = choose_threads("auto", by_load=True, setting="OMP_NUM_THREADS=")
    if number == before:
        yield ""
        return

    torch.set_num_threads(number)
    try:
        yield str(choice)
    finally:
        torch.set_num_threads(before)


def _given(threads: int) -> bool:
    """Return whether someone has set the number of torch's threads for this process."""
    if any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        return True
    return threads not in (allowed_cores(), psutil.cpu_count(logical=False))


def choose_exact(exact: bool, device: torch.device, *, compile: bool) -> Choice:
    """Say whether a run ends in the same bits when it is resumed or repeated here, and why."""
    if not exact:
        faster = (
            "faster kernels are allowed whose sums may differ"
            if device.type == "cuda"
            else "as asked"
        )
        return Choice("exact", "no", faster)

    if device.type == "cpu":
        return Choice(
            "exact",
            "yes",
            "a resume ends bit-equal on this processor, with these threads and this torch",
        )
    if device.type != "cuda":
        return Choice("exact", "no", f"torch promises no deterministic kernels on {device.type}")
    if compile:
        return Choice(
            "exact",
            "no",
            "what torch.compile makes may differ when it is compiled again; compile: off",
        )

    if not _workspace_is_fixed():
        reason = (
            f"CUDA was in use before {WORKSPACE} was set. "
            f"Set it to {FIXED_SIZE} before Python starts"
        )
        return Choice("exact", "no", reason)

    return Choice("exact", "yes", "deterministic kernels; exact: false allows faster ones")


# ---- fixed during a run --------------------------------------------------------------------------


@contextmanager
def computing(threads: int, device: str, *, exact: bool) -> Iterator[list[str]]:
    """Fix the number of threads and the choice of kernels within the block, and restore them after.

    Args:
        threads: of torch, OpenMP and BLAS.
        device: "auto", or a device's name; only CUDA has kernels to choose from.
        exact: ask CUDA for deterministic kernels; otherwise for the fastest.

    Yields:
        A list that fills with the names of operations that have no deterministic kernel.
    """
    import scipy.linalg  # noqa: F401 (only libraries that are loaded already can be limited)

    without: list[str] = []
    before = torch.get_num_threads()

    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, before)
        torch.set_num_threads(threads)
        stack.enter_context(threadpool_limits(threads))
        if device.partition(":")[0] in ("auto", "cuda") and torch.cuda.is_available():
            stack.enter_context(deterministic_kernels(without) if exact else fastest_kernels())
        yield without


@contextmanager
def deterministic_kernels(without: list[str]) -> Iterator[None]:
    """Ask for deterministic kernels within the block; add operations without one to `without`."""
    global _fixed_before_cuda
    utilities: Any = torch.utils.deterministic
    cudnn = torch.backends.cudnn
    benchmark = cudnn.benchmark
    deterministic = cudnn.deterministic
    asked = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = utilities.fill_uninitialized_memory
    workspace = os.environ.get(WORKSPACE)

    if workspace not in FIXED_SIZES:
        _fixed_before_cuda = _fixed_before_cuda or not torch.cuda.is_initialized()
        os.environ[WORKSPACE] = FIXED_SIZE
    cudnn.benchmark = False
    cudnn.deterministic = True
    # A warning rather than an error: a network with an operation that has no such kernel still
    # trains, and the run says so.
    torch.use_deterministic_algorithms(True, warn_only=True)
    utilities.fill_uninitialized_memory = False  # nothing here reads memory before writing it

    try:
        with _noting(without):
            yield
    finally:
        cudnn.benchmark = benchmark
        cudnn.deterministic = deterministic
        torch.use_deterministic_algorithms(asked, warn_only=only_warned)
        utilities.fill_uninitialized_memory = filled
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
        else:
            os.environ[WORKSPACE] = workspace


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Let cuDNN measure which of its kernels is fastest within the block."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark


# Whether CUBLAS_WORKSPACE_CONFIG was set by us while CUDA had not begun; a later run in this
# process profits from it.
_fixed_before_cuda = False


def _workspace_is_fixed() -> bool:
    return _fixed_before_cuda or os.environ.get(WORKSPACE) in FIXED_SIZES


@contextmanager
def _noting(without: list[str]) -> Iterator[None]:
    """Collect the names of operations that torch warns about; pass other warnings on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=NO_COUNTERPART)
        shown = warnings.showwarning

        def note(message: Any, category: Any, *place: Any, **more: Any) -> None:
            found = re.match(NO_COUNTERPART, str(message))
            if found is None:
                shown(message, category, *place, **more)
            elif found[1] not in without:
                without.append(found[1])

        warnings.showwarning = note
        yield


# ---- recorded and compared -----------------------------------------------------------------------


def facts(
    device: torch.device, *, threads: int, precision: str, compile: bool, exact: bool
) -> dict[str, Any]:
    """Return what the bits of a run depend on, as environment.json holds it."""
    found: dict[str, Any] = {
        "threads": threads,
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "onednn_instructions": onednn_instructions(),
        "mkl": " ".join(
            f"{name}={os.environ[name]}" for name in _MKL_SETTINGS if os.environ.get(name)
        )
        or "default",
        "torch": torch.__version__,
        "onednn": onednn_version(),
        "device": device.type,
        "precision": precision,
        "compile": compile,
        "exact": exact,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()

    return found


_MKL_SETTINGS = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")


def recorded(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the bits of an earlier part of a run depended on, as far as it was recorded."""
    known = {
        key: environment[key] for key in ("threads", "torch", "precision") if key in environment
    }
    if "cpu" in environment:
        known["processor"] = environment["cpu"]
    if "device" in environment:
        known["device"] = str(environment["device"]).partition(":")[0]
    return {**known, **environment.get("arithmetic", {})}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say how two records differ; empty if they agree in everything that both hold."""
    changed = [key for key in WORDS if key in before and key in now and before[key] != now[key]]
    return "; ".join(
        f"{WORDS[key]} is {_said(now[key])} and was {_said(before[key])}" for key in changed
    )


def _said(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def onednn_version() -> str:
    """Return the version of the oneDNN that torch was built with, or "none"."""
    found = re.search(r"(?:MKL-DNN|oneDNN)\D*v?(\d+(?:\.\d+)+)", torch.__config__.show())
    return found[1] if found else "none"


def onednn_instructions() -> str:
    """Return the widest instruction set that oneDNN uses, within ONEDNN_MAX_CPU_ISA.

    "default" if the system does not report the flags of the processor.
    """
    asked = (
        os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    ).upper()
    asked = ONEDNN_ALIASES.get(asked, asked)
    names = [name for name, _ in ONEDNN_SETS]
    allowed = ONEDNN_SETS[names.index(asked) :] if asked in names else ONEDNN_SETS
    flags = cpu_flags()
    return next((name for name, flag in allowed if flag in flags), asked or "default")


def processor() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
