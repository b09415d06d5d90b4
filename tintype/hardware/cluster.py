"""The cluster of Ray that RAY_ADDRESS names, as far as it can be seen without joining it."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

SECONDS = 5.0  # in which it has to answer; Ray itself would try for minutes


def cluster_address() -> str | None:
    """Return what RAY_ADDRESS names; None where Ray looks on this machine or starts there."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return address if address not in ("", "auto", "local") else None


def no_answer(address: str) -> str:
    """Return why a cluster does not answer; "" where it does, or cannot be asked so simply."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.hostname is None or parts.port is None:
            return "" if "://" in address else "it is no HOST:PORT"
        with socket.create_connection((parts.hostname, parts.port), timeout=SECONDS):
            return ""
    except TimeoutError:
        return f"no answer in {SECONDS:.0f} seconds"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
