"""Interrupted jobs: no process stays behind, and what was committed stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WAIT = 90  # seconds, far below the 600 that a worker left alone would sleep


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell starts what it puts in the background deaf to Ctrl-C, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to process groups are POSIX")
@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [
        pytest.param(signal.SIGINT, True, 130, id="ctrl-c"),
        pytest.param(signal.SIGTERM, False, 143, id="told to end"),
        pytest.param(signal.SIGKILL, False, -signal.SIGKILL, id="killed"),
    ],
)
def test_workers_end_with_their_parent(number: int, whole_group: bool, code: int, tmp_path: Path) -> None:
    settings = ["source=gym", "source.id=toy_sources:ToySource-v0", "source.kwargs={hang_at: 2}", "policy=random"]
    command = [
        sys.executable,
        "-m",
        "worldsim.cli",
        "collect",
        *settings,
        "frames=200",
        "horizon=10",
        "workers=2",
        f"out={tmp_path / 'out'}",
    ]
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True) as process:
        assert process.stdout is not None
        seen = [next((line for line in process.stdout if "hangs" in line), "") for _ in range(2)]
        (os.killpg if whole_group else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=WAIT)  # returns when the last process that holds the pipes is gone
    assert all(seen), errors
    assert process.returncode == code
    assert "Traceback" not in errors
