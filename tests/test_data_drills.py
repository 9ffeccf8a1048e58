"""Short forms of the drills whose long forms are ``benchmarks/dataset_*.py``."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from dataset_drills import environment, fault_drill, kill_drill
from dataset_machine import DatasetMachine
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from worldsim.cli import main


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


def command(arguments: list[str]) -> tuple[int, str]:
    """Run the command line here."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        code = main(arguments)
    return code, said.getvalue()


@pytest.mark.skipif(not Path("/proc").exists(), reason="worker processes are found by /proc")
def test_killed_jobs_are_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    told = kill_drill(tmp_path, kills=3, count=12, workers=2, seed=1, most=0.4)
    assert (told.total(), told.lost, told.doubled, told.left_over) == (3, 0, 0, 0)
    assert told.identical == told.datasets


def test_a_disk_that_refuses_is_told_and_a_later_job_completes(tmp_path: Path) -> None:
    told = fault_drill(tmp_path, command, count=1, every=17)
    assert told.injected > 4
    assert not told.wrong, told.wrong


def test_dataset_and_model_tell_the_same() -> None:
    short = settings(max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    run_state_machine_as_test(DatasetMachine, settings=short)
