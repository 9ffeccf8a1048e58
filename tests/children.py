"""Whether other processes are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def gone(processes: Iterable[int], *, seconds: float = 5.0) -> bool:
    """Wait for processes to end; False where one is still there at last."""
    end = time.monotonic() + seconds
    left = list(processes)
    while (left := [process for process in left if _alive(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    return not left


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
