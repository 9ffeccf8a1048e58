"""Which expectations held: ``worldsim scenario report``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worldsim.datasets.judge import Judge
from worldsim.datasets.junit import junit_xml
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.storage import Root, place
from worldsim.datasets.writer import read_plan
from worldsim.rollout import EpisodeJob
from worldsim.scenario.parts import Expect

_Row: TypeAlias = tuple[int, Mapping[str, Any], bool]  # an episode, its variant, and whether the expectation held
_MOST = 5  # failed episodes and variants that a table names


@dataclass(frozen=True)
class Share:
    """In how many episodes an expectation held, for one variant: its values, and ``branch`` for a sibling of a fork."""

    values: Mapping[str, Any]
    held: int
    episodes: int


@dataclass(frozen=True)
class Verdict:
    """What became of one expectation in one scenario.

    Attributes:
        name: Its name.
        that: The expression.
        wanted: Share of the episodes in which it has to hold, 0..1.
        held: Episodes in which it did.
        episodes: Usable episodes; rejected and failed ones do not count.
        missed: Ids of the episodes in which it did not.
        variants: The same by variant, where there are several.
    """

    name: str
    that: str
    wanted: float
    held: int
    episodes: int
    missed: tuple[int, ...]
    variants: tuple[Share, ...]

    @property
    def passed(self) -> bool:
        """Whether it held often enough; without a usable episode it did not."""
        return self.episodes > 0 and self.held >= self.wanted * self.episodes - 1e-9

    def said(self) -> str:
        """Say it in words."""
        if not self.episodes:
            return "there is no usable episode to judge it by"
        share = f", {self.wanted:g} of them wanted" if self.wanted < 1 else ""
        which = f"; not in {_some(self.missed)}" if self.missed else ""
        return f"held in {self.held} of {self.episodes} episodes{share}{which}"


@dataclass(frozen=True)
class ScenarioResult:
    """What became of one scenario: its episodes by status, why some were lost, and its expectations."""

    name: str
    planned: int
    ok: int
    rejected: int
    failed: int
    missing: int
    reasons: Mapping[str, int]
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether every expectation held; a scenario without any has nothing to fail."""
        return all(verdict.passed for verdict in self.verdicts)


def main(cfg: DictConfig) -> int:
    """Report on a dataset by a composed ``configs/scenario_report.yaml``; see there for the keys.

    Returns:
        0, or 1 where an expectation failed.

    Raises:
        ValueError: The folder is no dataset, an episode is damaged, or a file cannot be written.
    """
    results = report(str(cfg["dataset"]))
    console = Console()
    print_report(results, console)
    for key, text in (("json", report_json), ("junit", junit_of)):
        if cfg[key]:
            _write(Path(str(cfg[key])), text(results, name=str(cfg["dataset"])))
            console.print(str(cfg[key]), soft_wrap=True, markup=False, highlight=False)
    return 0 if all(result.passed for result in results) else 1


def report(path: Root | str) -> list[ScenarioResult]:
    """Judge every scenario of a dataset by its expectations.

    What was judged when an episode was made is read from its commit record; other episodes are judged here, by the plan.

    Args:
        path: The dataset; its job may be unfinished.

    Returns:
        One result a scenario, in the plan's order.

    Raises:
        DatasetError: The folder is no dataset, or an episode is damaged.
    """
    root = place(path)
    reader = EpisodeReader(root, decode=False)
    records, plan = read_commits(root), read_plan(root)
    judge = Judge(plan, reader, records)
    index_of = {int(record["episode"]): index for index, record in enumerate(records)}
    jobs: dict[str, list[EpisodeJob]] = {}
    for job in plan.jobs:
        jobs.setdefault(job.scenario, []).append(job)
    return [_result(name, own, judge, index_of) for name, own in jobs.items()]


def _result(name: str, jobs: Sequence[EpisodeJob], judge: Judge, index_of: Mapping[int, int]) -> ScenarioResult:
    own = [judge.records[index_of[job.id]] for job in jobs if job.id in index_of]
    status = Counter(str(record["status"]) for record in own)
    lost = [str(record["reason"]) for record in own if record["status"] != "ok"]
    told: dict[str, tuple[Expect, list[_Row]]] = {}
    for job in jobs:
        for expect in judge.expects(job):
            if expect.name not in told:
                told[expect.name] = judge.written(job, expect), []
            held = judge.held(index_of[job.id], expect) if job.id in index_of else None
            if held is not None:
                told[expect.name][1].append((job.id, _values(job.params), held))
    return ScenarioResult(
        name=name or "-",
        planned=len(jobs),
        ok=status["ok"],
        rejected=status["rejected"],
        failed=status["failed"],
        missing=len(jobs) - len(own),
        reasons=dict(Counter(lost).most_common()),
        verdicts=tuple(_verdict(expect, rows) for expect, rows in told.values()),
    )


def _values(params: Mapping[str, Any]) -> Mapping[str, Any]:
    branch = {"branch": params["branch"]} if params.get("branch") is not None else {}
    return {**params.get("values", {}), **branch}


def _verdict(expect: Expect, rows: Sequence[_Row]) -> Verdict:
    groups: dict[str, list[tuple[Mapping[str, Any], bool]]] = {}
    for _, values, held in rows:
        groups.setdefault(json.dumps(values, sort_keys=True), []).append((values, held))
    shares = tuple(Share(group[0][0], sum(held for _, held in group), len(group)) for group in groups.values())
    return Verdict(
        name=expect.name,
        that=expect.that,
        wanted=expect.share,
        held=sum(row[2] for row in rows),
        episodes=len(rows),
        missed=tuple(i for i, _, held in rows if not held),
        variants=shares if len(shares) > 1 else (),
    )


# ---------------------------------------------------------------- what people and machines read


def print_report(results: Sequence[ScenarioResult], console: Console) -> None:
    """Print a table of expectations, where failed ones fail, and what was lost."""
    table = Table(title=_summary(results), title_justify="left")
    for name in ("scenario", "ok", "lost", "expectation", "held", "wanted", ""):
        table.add_column(name, justify="right" if name in ("ok", "lost", "held", "wanted") else "left")
    for result in results:
        lost = str(result.rejected + result.failed + result.missing)
        rows = [_cells(verdict) for verdict in result.verdicts] or [("-", "", "", Text(""))]
        for number, row in enumerate(rows):
            table.add_row(*((Text(result.name), str(result.ok), lost) if number == 0 else ("", "", "")), *row)
    console.print(table)
    for line in _remarks(results):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cells(verdict: Verdict) -> tuple[Any, ...]:
    mark = Text("pass", style="green") if verdict.passed else Text("FAIL", style="bold red")
    return Text(verdict.name), f"{verdict.held}/{verdict.episodes}", f"{verdict.wanted:g}", mark


def _summary(results: Sequence[ScenarioResult]) -> str:
    verdicts = [verdict for result in results for verdict in result.verdicts]
    failed = sum(not verdict.passed for verdict in verdicts)
    return f"{len(results)} scenarios, {len(verdicts)} expectations, {failed} failed"


def _remarks(results: Sequence[ScenarioResult]) -> Iterable[str]:
    for result in results:
        for verdict in result.verdicts:
            if not verdict.passed:
                yield f"{result.name}: {verdict.name!r} {verdict.said()}"
                worst = sorted(_missing(verdict.variants), key=lambda share: share.held / share.episodes)[:_MOST]
                yield from (f"    {_said(share.values)}: {share.held} of {share.episodes}" for share in worst)
        for reason, count in result.reasons.items():
            yield f"{result.name}: {count} lost: {reason}"
        if result.missing:
            yield f"{result.name}: {result.missing} of {result.planned} episodes are not recorded yet: 'worldsim data resume' goes on"


def _missing(shares: Sequence[Share]) -> list[Share]:
    return [share for share in shares if share.held < share.episodes]


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()) or "-"


def _some(ids: Sequence[int]) -> str:
    more = f" and {len(ids) - _MOST} more" if len(ids) > _MOST else ""
    return f"episode{'s' * (len(ids) > 1)} {', '.join(map(str, ids[:_MOST]))}{more}"


def report_json(results: Sequence[ScenarioResult], *, name: str) -> str:
    """Return the report as JSON text: ``dataset``, ``passed``, and ``scenarios`` with the fields of ``ScenarioResult``."""
    told = [
        {
            **asdict(result),
            "passed": result.passed,
            "verdicts": [{**asdict(verdict), "passed": verdict.passed} for verdict in result.verdicts],
        }
        for result in results
    ]
    about = {"dataset": name, "passed": all(result.passed for result in results), "scenarios": told}
    return json.dumps(about, indent=2, ensure_ascii=False) + "\n"


def junit_of(results: Sequence[ScenarioResult], *, name: str) -> str:
    """Return the report as JUnit XML: a suite a scenario, a case an expectation."""
    suites = []
    for result in results:
        counts = {key: getattr(result, key) for key in ("planned", "ok", "rejected", "failed", "missing")}
        lost = [f"{count} lost: {reason}" for reason, count in result.reasons.items()]
        cases = [(verdict.name, "" if verdict.passed else verdict.said(), verdict.that) for verdict in result.verdicts]
        suites.append((result.name, counts, cases, "\n".join(lost)))
    return junit_xml(name, suites)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror or error}") from error
