"""The ``worldsim data`` commands of a job: each takes its composed settings and calls one function."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict), "settings are a mapping"
    return {str(key): value for key, value in plain.items()}


def plan(cfg: DictConfig) -> None:
    """Write down a dataset's episodes, by ``configs/data_plan.yaml``.

    Raises:
        ValueError: A scenario or value is wrong, the world cannot be loaded, or the folder cannot be written.
    """
    from worldsim.datasets.generate import plan_dataset

    plan_dataset(_plain(cfg))


def run(cfg: DictConfig) -> int:
    """Record what a planned dataset lacks, by ``configs/data_run.yaml``.

    Returns:
        0, or 1 where episodes have failed for good.

    Raises:
        ValueError: The folder is no planned dataset, another job runs in it, its world is another one, or a group failed.
    """
    from worldsim.datasets.job import run_job

    return run_job(_plain(cfg))


def resume(cfg: DictConfig) -> int:
    """Go on with a job, by ``configs/data_resume.yaml``: what ``run`` does, and failed episodes once more."""
    return run(cfg)


def status(cfg: DictConfig) -> None:
    """Say how far a job is, by ``configs/data_status.yaml``.

    Raises:
        ValueError: The folder is no dataset.
    """
    from worldsim.datasets.status import show_status

    show_status(_plain(cfg))


def finalize(cfg: DictConfig) -> None:
    """Write what is derived from the episodes, by ``configs/data_finalize.yaml``.

    Raises:
        ValueError: The folder is no dataset, or episodes are missing.
    """
    from worldsim.datasets.job import finalize_job

    finalize_job(_plain(cfg))


def merge(cfg: DictConfig) -> None:
    """Put several datasets into one, by ``configs/data_merge.yaml``.

    Raises:
        ValueError: They do not fit together, or the folder cannot be written.
    """
    from worldsim.datasets.merge import merge_command

    merge_command(_plain(cfg))


def regenerate(cfg: DictConfig) -> int:
    """Make an episode again and compare it, by ``configs/data_regenerate.yaml``.

    Returns:
        0 where it is bit-equal, else 1.

    Raises:
        ValueError: The dataset has no such episode or no recipe, or its world is not the recorded one.
    """
    from worldsim.datasets.regenerate import regenerate_command

    return regenerate_command(_plain(cfg))
