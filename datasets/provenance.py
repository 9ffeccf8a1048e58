"""Where data comes from: versions, device, host and the state of the source code."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import zarr

import worldsim


def versions() -> dict[str, str]:
    """Return the versions of what makes data; torch where it is in use."""
    torch = sys.modules.get("torch")
    return {
        "worldsim": worldsim.__version__,
        "python": platform.python_version(),
        "gymnasium": gymnasium.__version__,
        "zarr": zarr.__version__,
        "numpy": np.__version__,
        **({"torch": str(torch.__version__)} if torch is not None else {}),
    }


def device() -> str:
    """Return the name of the accelerator that torch sees in this process, else the processor's architecture."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return platform.machine()


@cache
def git_state() -> dict[str, Any]:
    """Return ``{"sha": ..., "dirty": ...}`` of the checkout that this package runs from; empty for an installed one."""
    root = Path(worldsim.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return {}
    try:
        sha = _git(root, "rev-parse", "HEAD").strip()
        return {"sha": sha, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no").strip())}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20).stdout


def provenance() -> dict[str, Any]:
    """Return what this process makes data with, JSON types only."""
    state = git_state()
    return {**versions(), "device": device(), "host": platform.node(), **({"git": state} if state else {})}
