"""Examine the installation and explain what is broken, without needing that anything works."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "pydantic",
    "scikit-learn",
    "scipy",
    "plotly",
    "matplotlib",
)


@dataclass
class Findings:
    """What is there, by name, and what is broken, in words with a remedy."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def examine() -> Findings:
    """Look at versions, devices, precision, memory, disk and cache."""
    from tintype.version import __version__

    found = Findings()
    found.facts["tintype"] = __version__
    found.facts["python"] = f"{platform.python_version()} ({sys.executable})"
    found.facts["system"] = platform.platform()
    for name in PACKAGES:
        try:
            found.facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.facts[name] = "missing"
            found.problems.append(f"{name} is not installed. Type: pip install {name}")
    _torch(found)
    _torchvision(found)
    _ray(found)
    _machine(found)
    return found


def _torch(found: Findings) -> None:
    try:
        torch: Any = importlib.import_module("torch")
    except Exception as error:  # a broken build fails in many ways; each is a finding
        found.problems.append(
            f"torch does not load ({_first_line(error)}). Type: "
            "pip install --force-reinstall torch torchvision"
        )
        return
    from tintype.hardware.arithmetic import onednn_instructions, onednn_version
    from tintype.hardware.device import choose_device, choose_precision

    found.facts["torch"] = torch.__version__
    device, why = choose_device("auto")
    found.facts["device"] = f"{device}: {why.reason}"
    _, precision = choose_precision("auto", device)
    found.facts["precision"] = f"{precision.choice}: {precision.reason}"
    found.facts["threads"] = str(torch.get_num_threads())
    found.facts["processes"] = _exchange(torch)
    found.facts["instructions"] = torch.backends.cpu.get_cpu_capability()
    found.facts["oneDNN"] = f"{onednn_version()} ({onednn_instructions()})"
    if torch.version.cuda and not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        found.problems.append(
            f"there is an NVIDIA driver, but torch (CUDA {torch.version.cuda}) cannot use it. "
            "Update the driver, or install the torch build for its CUDA version."
        )


def _exchange(torch: Any) -> str:
    """Say by what several processes can share a training here."""
    distributed = importlib.import_module("torch.distributed")
    if not distributed.is_available():
        return "torch was built without distributed: a training takes one process"
    there = [name for name in ("gloo", "nccl") if getattr(distributed, f"is_{name}_available")()]
    cards = torch.cuda.device_count()
    return f"exchange by {' and '.join(there) or 'nothing'}; {cards} GPU{'' if cards == 1 else 's'}"


def _ray(found: Findings) -> None:
    """Say whether a study could be trained by Ray, which nothing else needs."""
    from tintype.hardware.cluster import cluster_address, no_answer

    address = cluster_address()
    try:
        found.facts["ray"] = metadata.version("ray")
    except metadata.PackageNotFoundError:
        found.facts["ray"] = "not installed; only `tintype study --on ray` needs it"
        if address:
            found.problems.append(
                f"RAY_ADDRESS is {address}, but Ray is not installed. "
                "Type: pip install 'tintype[cluster]'"
            )
        return

    if address is None:
        found.facts["ray"] += ", started on this machine (no RAY_ADDRESS)"
    elif reason := no_answer(address):
        found.problems.append(
            f"Ray's cluster at RAY_ADDRESS={address} cannot be reached ({reason}). "
            "Start it there (ray start --head), or unset RAY_ADDRESS."
        )
    else:
        found.facts["ray"] += f", {address} answers"


def _torchvision(found: Findings) -> None:
    try:
        importlib.import_module("torchvision")
    # RuntimeError: operator torchvision::nms does not exist, or a missing library
    except Exception as error:
        found.problems.append(explain_torchvision(error))


def explain_torchvision(error: BaseException) -> str:
    """Say why torchvision does not load and what to type."""
    versions = []
    for name in ("torch", "torchvision"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} missing")

    together = " and ".join(versions)
    if "nms" in str(error) or "undefined symbol" in str(error) or "libcudart" in str(error):
        return (
            f"{together} were built differently (one for CUDA, one for the CPU, or for another "
            "release), so torchvision does not load. Install both from the same source: "
            "pip install --force-reinstall torch torchvision"
        )

    return (
        f"torchvision does not load ({_first_line(error)}); installed are {together}. "
        "Type: pip install --force-reinstall torchvision"
    )


def _machine(found: Findings) -> None:
    try:
        import psutil

        memory = psutil.virtual_memory()
        found.facts["memory"] = (
            f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"
        )
    except ImportError:
        pass
    try:
        from tintype.data.cache import cache_entries, cache_folder
    except Exception as error:
        found.problems.append(f"the data package does not load ({_first_line(error)}).")
        return
    folder = cache_folder()
    used = sum(entry.num_bytes for entry in cache_entries())
    free = shutil.disk_usage(folder if folder.exists() else folder.anchor).free
    found.facts["cache"] = (
        f"{folder} ({used / 1e6:,.0f} MB used, {free / 1e9:.1f} GB free on the disk)"
    )
    if folder.exists() and not os.access(folder, os.W_OK):
        found.problems.append(
            f"the cache folder {folder} cannot be written. Set TINTYPE_CACHE to a folder that can."
        )
    if free < 1e9:
        found.problems.append(
            f"less than 1 GB is free where the cache lies ({folder}). "
            "`tintype cache --clear` frees its part."
        )


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0][:200]
