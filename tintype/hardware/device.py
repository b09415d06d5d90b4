"""Device, precision and memory of a run. Every automatic choice carries its reason."""

from __future__ import annotations

import ctypes
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch

from tintype.errors import UserError
from tintype.hardware.cores import num_cores as num_cores
from tintype.hardware.processes import current

IDLE = "the others stay idle"  # GPUs that a run leaves alone


@dataclass(frozen=True)
class Choice:
    """An automatic decision and its reason, printed at the start and kept in environment.json."""

    name: str
    choice: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.choice}, {self.reason}"


def choose_device(device: str) -> tuple[torch.device, Choice]:
    """Return the device to compute on.

    Raises:
        UserError: the device is unknown or not there.
    """
    asked = device
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), Choice("device", "cuda", _first_gpu())
        if torch.backends.mps.is_available():
            return torch.device("mps"), Choice("device", "mps", "the GPU of this Mac")
        return torch.device("cpu"), Choice("device", "cpu", "no GPU was found")

    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(
            f"unknown device '{asked}'. Expected auto, cpu, cuda, cuda:1 or mps."
        ) from None

    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if chosen.type not in there:
        raise UserError(
            f"device '{asked}' is not supported. Expected auto, cpu, cuda, cuda:1 or mps."
        )

    if not there[chosen.type] or (
        chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()
    ):
        have = ", ".join(name for name, ok in there.items() if ok)
        raise UserError(
            f"device '{asked}' is not available here (have: {have}). "
            "Leave out --device to choose automatically."
        )

    return chosen, Choice("device", str(chosen), "as asked")


def _first_gpu() -> str:
    """Return the name of the GPU that is taken, and how to use others where there are several."""
    name = torch.cuda.get_device_name(0)
    count = torch.cuda.device_count()
    if count == 1:
        return name
    if current().local_size > 1:
        return f"{name}, the first of {count} GPUs; each process takes one"

    together = 2 ** (count.bit_length() - 1)
    return (
        f"{name}, the first of {count} GPUs; {IDLE} unless --processes {together} shares the run "
        f"(--device cuda:1 takes the second, and a study with --workers {count} uses all)"
    )


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float64: where it lies, or on the CPU if its device has no such numbers.

    Apple's GPUs have none.
    """
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


@lru_cache
def cpu_flags() -> frozenset[str]:
    """Return the processor's instruction-set flags; empty if the system does not report them."""
    return frozenset(_cpu_line("flags").split())


def _cpu_line(begins: str) -> str:
    """Return what the system says of the first core under a name, "" if it says nothing."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(begins):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def bf16_units() -> list[str]:
    """Return the instructions that make bf16 fast on this CPU; without any it is emulated."""
    return (
        sorted(cpu_flags() & {"avx512_bf16", "amx_bf16"})
        if torch.backends.mkldnn.is_available()
        else []
    )


def fast_bf16_units() -> list[str]:
    """Return those of `bf16_units` with which this CPU is faster than in float32.

    Intel's avx512_bf16 makes as many multiply-adds in a second as its float32, and oneDNN's
    convolutions then take 1.6 times as long; only its amx_bf16 is faster.
    """
    units = bf16_units()
    if _cpu_line("vendor_id") == "GenuineIntel" and "amx_bf16" not in units:
        return []
    return units


def choose_precision(
    precision: str, device: torch.device, *, any_units: bool = False
) -> tuple[torch.dtype, Choice]:
    """Return torch.bfloat16 where the hardware is fast at it, else torch.float32.

    Args:
        precision: "fp32", "bf16" or "auto".
        device: that computes.
        any_units: whether all that `bf16_units` gives are held to be fast, as earlier versions did.
    """
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision], Choice(
            "precision", precision, "as asked"
        )
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, Choice("precision", "bf16", "the GPU has bf16 matrix units")
        return torch.float32, Choice("precision", "fp32", "the GPU has no bf16 matrix units")
    units = bf16_units() if any_units else fast_bf16_units()
    if device.type == "cpu" and units:
        return torch.bfloat16, Choice("precision", "bf16", f"the CPU has {' and '.join(units)}")
    return torch.float32, Choice("precision", "fp32", f"no fast bf16 on this {device.type}")


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Return the context in which the network computes in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def images_at_once(values: int) -> int:
    """Return how many images of so many values a network is shown at once where it only answers.

    Some 4 million values, so that memory is bounded for large images as well.
    """
    return max(1, min(1000, 2**22 // values))


def hold_memory() -> Choice:
    """Tell glibc to keep freed memory in the process instead of giving it back to the kernel.

    Large CPU tensors otherwise cost page faults at every step. M_MMAP_MAX=0 keeps large blocks off
    mmap, and the largest M_TRIM_THRESHOLD keeps the top of the heap.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return Choice("memory", "as the system does", "only glibc can keep freed memory")
    m_trim_threshold = -1
    m_mmap_max = -4
    libc = ctypes.CDLL("libc.so.6")
    held = libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1)
    if not held:
        return Choice("memory", "as the system does", "glibc refused")
    return Choice(
        "memory", "held", "the process keeps freed memory, which avoids page faults at every step"
    )


def choose_compile(
    compile: str, device: torch.device, total_steps: int, *, exact: bool = False
) -> tuple[bool, Choice]:
    """Decide whether torch.compile pays off within the run; it would break an exact resume."""
    if compile != "auto":
        return compile == "on", Choice("compile", compile, "as asked")
    if device.type != "cuda":
        return False, Choice(
            "compile", "off", f"it does not speed up convolutions on {device.type}"
        )
    if total_steps < 2000:
        return False, Choice(
            "compile", "off", f"{total_steps:,} steps are too few for the compilation to pay off"
        )

    if exact:
        reason = (
            "code compiled again after a stop may differ in the last bits; exact: false compiles"
        )
        return False, Choice("compile", "off", reason)

    return True, Choice("compile", "on", f"the compilation pays off within {total_steps:,} steps")
