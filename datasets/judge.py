"""Whether expectations hold in recorded episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from worldsim.datasets.layout import ACTION, REWARD, STATE, TERMINATED, TRUNCATED
from worldsim.datasets.plan import Plan
from worldsim.datasets.reader import EpisodeReader
from worldsim.episode import Episode
from worldsim.rollout import EpisodeJob
from worldsim.scenario.director_verdict import columns
from worldsim.scenario.expressions import EPISODE_FUNCTIONS, parse_expression
from worldsim.scenario.parts import Expect
from worldsim.scenario.script import script
from worldsim.scenario.template import Template

_NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)


class Judge:
    """Says what was expected of a plan's episodes, and whether it held.

    Args:
        plan: The dataset's plan.
        reader: The dataset, opened for this alone: from here on its episodes are those of ``records``.
        records: Commit records of any status.
    """

    def __init__(self, plan: Plan, reader: EpisodeReader, records: Sequence[dict[str, Any]]) -> None:
        self.records = records
        self._plan, self._reader, self._info = plan, reader, reader.info
        reader.records = records
        self._same: dict[str, tuple[Expect, ...]] = {}

    def expects(self, job: EpisodeJob) -> tuple[Expect, ...]:
        """Return what is expected of an episode, with its values filled in.

        Raises:
            ScenarioError: The plan's scenario cannot be read.
        """
        body = self._plan.scenarios.get(job.scenario) or {}
        if not isinstance(body, Mapping) or not body.get("expect"):
            return ()
        if job.scenario not in self._same:
            found = script(job, body).expects
            if Template({"expect": body["expect"]}).names:
                return found
            self._same[job.scenario] = found
        return self._same[job.scenario]

    def written(self, job: EpisodeJob, expect: Expect) -> Expect:
        """Return one of ``expects(job)`` as its author wrote it, with ``$name``s for values."""
        i = [other.name for other in self.expects(job)].index(expect.name)
        return replace(expect, that=self._plan.scenarios[job.scenario]["expect"][i]["that"])

    def held(self, index: int, expect: Expect) -> bool | None:
        """Return whether an expectation holds in record ``index``; None where the episode is not usable.

        Raises:
            ValueError: The episode is damaged, or the expression reads what it does not have.
        """
        record = self.records[index]
        if record["status"] != "ok":
            return None
        told = record["params"].get("expect") or {}
        if expect.name in told:
            return bool(told[expect.name])
        return parse_expression(expect.that, functions=EPISODE_FUNCTIONS).holds(self._columns(index))

    def _columns(self, index: int) -> dict[str, Any]:
        rows, length = self._reader.rows, int(self.records[index]["length"])
        state = rows(index, STATE) if self._info.state_names else np.zeros((length + 1, 0), np.float32)
        flags = rows(index, TERMINATED), rows(index, TRUNCATED)
        episode = Episode(_NO_FRAMES, rows(index, ACTION), rows(index, REWARD), *flags, state)
        return columns(episode, state_names=self._info.state_names, fps=self._info.fps)
