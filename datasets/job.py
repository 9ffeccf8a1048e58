"""A planned dataset on its way: ``worldsim data run``, ``resume`` and ``finalize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from worldsim.datasets.batch import close_run, done_episodes, record
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.lock import job_lock
from worldsim.datasets.plan import Plan
from worldsim.datasets.progress import Meter
from worldsim.datasets.reader import read_attributes, read_commits
from worldsim.datasets.storage import Root, place
from worldsim.datasets.work import Recipe, Task
from worldsim.datasets.writer import read_plan, write_error


def run_job(cfg: Mapping[str, Any], *, console: Console | None = None) -> int:
    """Record what a planned dataset lacks; a committed group is left alone.

    Args:
        cfg: The keys of ``configs/data_run.yaml``.
        console: Where progress is shown; default: standard output.

    Returns:
        0, or 1 where episodes have failed ``attempts`` times.

    Raises:
        ValueError: The folder is no planned dataset, another job runs in it, its world is another one, workers die, or the disk refuses.
    """
    console = console or Console()
    for name in ("workers", "attempts"):
        if int(cfg[name]) < 1:
            raise DatasetError(f"{name}={cfg[name]} must be 1 or more")
    root, attempts, cluster = place(cfg["out"]), int(cfg["attempts"]), dict(cfg.get("cluster") or {})
    plan, recipe = read_job(root, world=cfg.get("world"), device=cfg.get("device"))
    task = Task(str(root.absolute()), recipe, attempts=attempts, keep_going=True, retries=int(cluster.get("retries", 3)))
    meter = Meter(f"recording {read_attributes(root)['name']}", console=console)
    try:
        with job_lock(root):
            for _ in range(attempts):
                record(
                    plan,
                    task,
                    launcher=cfg["launcher"],
                    workers=int(cfg["workers"]),
                    cluster=cluster,
                    shuffle=cfg.get("shuffle"),
                    meter=meter,
                )
                if len(done_episodes(root, attempts)) == len(plan.jobs):
                    break
            if cfg.get("finalize", True):
                close_run(root, meter, console, preview=bool((cfg.get("writer") or {}).get("preview")))
    except OSError as error:
        raise write_error(root, error) from error
    return _report_failures(root, console)


def read_job(root: Root, *, world: str | None = None, device: str | None = None) -> tuple[Plan, Recipe]:
    """Read what a dataset's episodes are made by.

    Args:
        root: The dataset.
        world: Where its world is on this machine; None: as the plan names it.
        device: Where the world runs; None: as the plan says.

    Raises:
        ValueError: The folder is no dataset, its plan is damaged, or it tells no recipe.
    """
    read_attributes(root)
    plan = read_plan(root)
    if not plan.recipe:
        raise DatasetError(f"{root} holds episodes that no recipe tells how to make: it was written by other means than a plan")
    return plan, Recipe.from_json(plan.recipe).here(world=world, device=device)


def finalize_job(cfg: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Write index, statistics, manifest and card of a dataset whose job is done.

    Args:
        cfg: The keys of ``configs/data_finalize.yaml``.
        console: Where the summary is shown; default: standard output.

    Raises:
        ValueError: The folder is no dataset, a job runs in it, episodes are missing, or the disk refuses.
    """
    console = console or Console()
    root = place(cfg["dataset"])
    read_attributes(root)
    missing = len(read_plan(root).jobs) - len(read_commits(root))
    if missing and not cfg.get("partial"):
        raise DatasetError(
            f"{root} lacks {missing} episodes of its plan: 'worldsim data resume {root}' records them, 'partial=true' does without"
        )
    try:
        with job_lock(root):
            close_run(root, Meter(console=console), console, preview=bool((cfg.get("writer") or {}).get("preview")))
    except OSError as error:
        raise write_error(root, error) from error


def _report_failures(root: Root, console: Console) -> int:
    failed = [record for record in read_commits(root) if record["status"] == "failed"]
    if failed:
        console.print(f"{len(failed)} episodes failed; the first reason: {failed[0]['reason']}", soft_wrap=True, markup=False)
        console.print(f"'worldsim data resume {root}' tries them again", soft_wrap=True, markup=False)
    return 1 if failed else 0
