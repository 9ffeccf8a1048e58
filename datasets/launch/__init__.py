"""Where groups run: in this process, in local processes, on a Ray cluster, or in a Slurm array. All of them call ``Worker.run_group``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeAlias

from worldsim.datasets.layout import DatasetError
from worldsim.datasets.work import Recorded, Task
from worldsim.rollout import EpisodeJob

Group: TypeAlias = Sequence[EpisodeJob]
Results: TypeAlias = Generator[tuple[Group, list[Recorded]], None, None]
Launcher: TypeAlias = Callable[[Task, Sequence[Group], int, Callable[[int], None], Mapping[str, Any]], Results]
"""``(task, groups, workers, on_step, cluster)`` gives each group once it is committed, in any order; ``cluster`` is the settings'."""

LAUNCHERS = {"here": "here", "processes": "processes", "ray": "ray_cluster", "slurm": "slurm"}
"""Names of launchers, and their modules beside this one."""


def find_launcher(name: str) -> Launcher:
    """Return the launcher called ``name``, importing what it needs.

    Raises:
        ValueError: There is none of this name, or its package is not installed.
    """
    if name not in LAUNCHERS:
        raise DatasetError(f"launcher={name!r} does not exist: choose one of {', '.join(LAUNCHERS)}")
    try:
        module = import_module(f"worldsim.datasets.launch.{LAUNCHERS[name]}")
    except ModuleNotFoundError as error:
        raise DatasetError(f"launcher={name} needs the package {error.name!r}: pip install 'worldsim-gym[{name}]'") from error
    launch: Launcher = module.launch
    return launch


def deadly(task: Task) -> DatasetError:
    """Say that workers die of a group."""
    return DatasetError(
        f"a worker process died (killed, or out of memory?) while recording {task.path}: committed episodes are kept; "
        "run the same command again, with fewer 'workers' if memory is short"
    )
