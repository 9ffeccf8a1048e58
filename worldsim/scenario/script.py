"""The contract between scenarios and whatever runs them: one episode's ``Script``, complete and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worldsim.episode import Conditioning
from worldsim.rollout import EpisodeJob
from worldsim.scenario.events import Event
from worldsim.scenario.expand import branch_events, fork_event
from worldsim.scenario.old import modern
from worldsim.scenario.parts import Expect, Filter, Perturb, RandomStart, Start, Told
from worldsim.scenario.problems import Place, Problems
from worldsim.scenario.scenario import BODY, Scenario, check_body
from worldsim.scenario.template import Template


@dataclass(frozen=True)
class Script:
    """What happens in one episode, with every value fixed.

    All of its randomness comes from ``EpisodeJob.seed``; with it and the step, siblings of a fork share their past bit for bit.

    Attributes:
        scenario: Name of the scenario.
        initial: Where it starts.
        conditioning: What the world is told in place of the start's own conditioning; None leaves that.
        policies: Config of every policy, with its ``_target_``; each is built with ``action_space=``.
        policy: Name of the one that drives at first.
        perturb: Disturbances of the policy's actions, applied in order.
        events: Asked before every action, in order; forks are replaced by the effects of this episode's branch.
        horizon: Most steps.
        fps: Frames a second that it was written for; None for any.
        record: Streams to record beside actions, rewards and ends, out of ``parts.STREAMS``.
        filters: What the finished episode has to meet.
        expects: What a report asserts.
        values: Values of the variant and of the draws by name.
        fork: Index of the event at which siblings part; None without a fork.
    """

    scenario: str
    initial: Start = field(default_factory=RandomStart)
    conditioning: Conditioning | None = None
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy: str = ""
    perturb: tuple[Perturb, ...] = ()
    events: tuple[Event, ...] = ()
    horizon: int = 128
    fps: float | None = None
    record: tuple[str, ...] = ("frames", "state")
    filters: tuple[Filter, ...] = ()
    expects: tuple[Expect, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    fork: int | None = None


def script(job: EpisodeJob, scenario: Scenario | Mapping[str, Any]) -> Script:
    """Return the script of a planned episode.

    Args:
        job: The episode; its ``params`` are those of ``ConcreteEpisode.params``.
        scenario: Its scenario, or what a plan keeps of it: ``Plan.scenarios[job.scenario]``; earlier spellings are read too.

    Raises:
        ScenarioError: The scenario is wrong, or a value does not fit where it stands; names scenario, key and value.
    """
    log = Problems(f"episode {job.id}")
    place = Place(log, job.scenario)
    body = scenario.body if isinstance(scenario, Scenario) else _body(scenario, place)
    params = job.params
    starts = body["initial"] if isinstance(body["initial"], list) else [body["initial"]]
    draws = dict(params.get("draws", {}))
    start = int(draws.pop("initial", 0))
    values = {**params.get("values", {}), **draws}
    known = {**values, "seed": job.seed}
    open_body = {**body, "initial": starts[min(start, len(starts) - 1)], "events": branch_events(body["events"], params.get("branch"))}
    template = Template(open_body)
    for name in sorted(template.names - known.keys()):
        place.fail(f"the plan has no value of ${name}: plan the dataset anew")
    log.raise_any()
    parts = check_body(template.fill(known), place)
    log.raise_any()
    return make_script(job.scenario, parts, values, fork=fork_event(body["events"]))


def make_script(scenario: str, parts: Mapping[str, Any], values: Mapping[str, Any], *, fork: int | None = None) -> Script:
    """Return the script of checked parts, as ``check_body`` gives them."""
    return Script(
        scenario,
        initial=parts["initial"][0],
        conditioning=_conditioning(parts["conditioning"]),
        policies=parts["policies"],
        policy=parts["policy"],
        perturb=parts["perturb"],
        events=parts["events"],
        horizon=parts["horizon"],
        fps=parts["fps"],
        record=parts["record"],
        filters=parts["after"],
        expects=parts["expect"],
        values=values,
        fork=fork,
    )


def _conditioning(told: Told) -> Conditioning | None:
    if told == Told():
        return None
    return Conditioning(told.tags or (), told.numbers or {}, told.text or "")


def _body(data: Mapping[str, Any], place: Place) -> dict[str, Any]:
    told = modern(data, place, {})
    require = told.get("require") or {}
    return {**BODY, **{key: told[key] for key in BODY if key in told}, **({"after": require["after"]} if "after" in require else {})}
