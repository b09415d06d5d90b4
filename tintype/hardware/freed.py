"""Memory that the process has freed, without torch: a service of exported files does without it."""

from __future__ import annotations

import ctypes
import platform
import sys


def release_memory() -> None:
    """Return the freed memory that `device.hold_memory` keeps to the system.

    No effect if libc is not glibc.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
