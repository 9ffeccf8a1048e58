"""``worldsim train recall``: roll a finished world out, and teach its heads to go on from the state that they told a frame before.

What frames do not show, as health, or show roughly, as speed, heads cannot read of a frame. Taught on whole rollouts, on what they told
themselves, they keep count of it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from worldsim.contexts import Contexts
from worldsim.evaluation.openloop import Segment
from worldsim.heads import Heads
from worldsim.recall import Recall, tell
from worldsim.simulator import Simulator
from worldsim.training.lesson import Lesson, end_share
from worldsim.training.outcomes import Outcome, end_weight, learn, said, surprise
from worldsim.training.run import check_counts
from worldsim.types import EpisodeStore

SETTINGS = ("segments", "per_episode", "context", "horizon", "batch", "seed")
"""What rollouts depend on."""
DROP = 0.5
"""Share of features that are hidden of a whole rollout (dropout): they tell recorded episodes apart, which would be learned by heart."""
_CUT = re.compile(r"episode seed (\d+), frame (\d+)")  # the name of a context of ``cut_segment``
_ONCE = ("guess", "begun")  # of ``Tapes``: once a rollout


@dataclass(frozen=True)
class Tapes:
    """N rollouts of T steps: what heads read of them without recall, and what happened.

    Attributes:
        features: ``(N, T, features)``, of ``Heads.look``, as the three below.
        logits: ``(N, T, bins)``.
        end: ``(N, T, 1)``.
        state: ``(N, T, S)`` standardised, as the four below.
        guess: ``(N, S)`` state of the last context frame as read.
        begun: ``(N, S)`` the same, recorded.
        truth: ``(N, T, S)`` recorded.
        reward: ``(N, T)`` recorded.
        ended: ``(N, T)``, 1 where the step ended the episode.
        there: ``(N, T)``, 0 beyond the end of a shorter rollout.
    """

    features: Tensor
    logits: Tensor
    end: Tensor
    state: Tensor
    guess: Tensor
    begun: Tensor
    truth: Tensor
    reward: Tensor
    ended: Tensor
    there: Tensor

    def rows(self, index: Tensor) -> Tapes:
        """Return some rollouts."""
        return Tapes(*(value[index] for value in vars(self).values()))

    @staticmethod
    def join(parts: Sequence[dict[str, Tensor]]) -> Tapes:
        """Lay what was rolled out one below the other, as long as the longest; parts may be empty, but not all."""
        longest = max(part["there"].shape[1] for part in parts if part)

        def fill(name: str, value: Tensor) -> Tensor:
            if name in _ONCE:
                return value
            missing = longest - value.shape[1]
            return torch.cat((value, value.new_zeros(len(value), missing, *value.shape[2:])), dim=1)  # (n, T, ...)

        return Tapes(*(torch.cat([fill(name, part[name]) for part in parts if part]) for name in Tapes.__dataclass_fields__))


def train_recall(cfg: DictConfig) -> None:
    """Teach ``cfg.world`` recall by ``configs/train_recall.yaml``; the world with it is saved to ``cfg.out``/world.

    Raises:
        ValueError: A count is below 1, there is too little data or no labelled state, or world and dataset cannot be read or do not fit.
    """
    check_counts(cfg, "segments", "per_episode", "context", "horizon", "batch", "steps", "batch_size")
    if not 0 <= cfg.unknown <= 1:
        raise ValueError(f"unknown={cfg.unknown} must be a share of rollouts between 0 and 1")
    lesson = Lesson.open(cfg, SETTINGS, ends=1.0)
    if not lesson.world.spec.state_names:
        raise ValueError(f"world {lesson.world.spec.name!r} tells no labelled state, so there is nothing to recall: record data with one")
    own, other, heldout = lesson.roll_out(roll, Tapes.join)
    natural, old = end_share(lesson.store), copy.deepcopy(lesson.world.heads).cpu()
    heads = with_recall(old, seed=cfg.seed)
    settings = {"steps": cfg.steps, "batch_size": cfg.batch_size, "lr": cfg.lr, "unknown": cfg.unknown, "seed": cfg.seed}
    assert heads.memory is not None
    heads.memory.load_state_dict(fit(heads, own, other, natural=natural, **settings).state_dict())
    if heldout is not None:
        for name, one in (("before", old), ("after", heads)):
            print(f"{name}, held-out rollouts: {said(measure(one, heldout, natural=natural))}")
    taught = replace(lesson, world=lesson.world.replaced(contexts=with_states(lesson.world.contexts, lesson.store)))
    # by stretches of both lengths: what keeps count must not end long ones by chance
    taught.save(heads, "recall", ("steps", "batch_size", "lr", "unknown"), [cfg.horizon // 4, cfg.horizon])


def with_states(contexts: Contexts, store: EpisodeStore) -> Contexts:
    """Return start contexts with the recorded state of their last frames, those whose episode is in ``store``."""
    items = list(contexts)
    cut = [_CUT.fullmatch(item.name) for item in items]
    wanted = {int(match[1]) for match in cut if match}
    for i in (*store.split("heldout"), *store.split("train")):
        if not wanted:
            break
        if (episode := store[i]).seed not in wanted:
            continue
        for place, (item, match) in enumerate(zip(items, cut, strict=True)):
            if match and int(match[1]) == episode.seed:
                start, stop = int(match[2]), int(match[2]) + len(item.frames)
                if np.array_equal(episode.frames[start:stop], item.frames):  # other datasets have such seeds too
                    items[place] = replace(item, state=episode.state[stop - 1])
        wanted.remove(episode.seed)
    return Contexts(tuple(items))


def with_recall(heads: Heads, *, seed: int) -> Heads:
    """Return heads with a recall that has learned nothing; one seed gives the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Heads(**{**heads.config, "recall": True})
    made.load_state_dict(heads.state_dict(), strict=False)
    return made.eval()


def roll(simulator: Simulator, segments: Sequence[Segment]) -> dict[str, Tensor]:
    """Roll segments out with their recorded actions; see ``Tapes``."""
    spec, heads = simulator.spec, simulator.world.heads
    mean, spread = (torch.tensor(values, dtype=torch.float32) for values in (spec.state_mean, spec.state_std))

    def standard(values: Any) -> Tensor:
        return (torch.from_numpy(np.array(values)).float() - mean) / spread

    state, guess = simulator.begin([segment.context for segment in segments], [segment.seed for segment in segments])
    seen = []
    for t in range(len(segments[0].actions)):
        state, step = simulator.step(state, np.stack([segment.actions[t] for segment in segments]), decode=False)
        with torch.inference_mode():
            seen.append([part[:, 0].cpu() for part in heads.look(step.hidden[:, None].to(heads.squeeze.weight.dtype))])
    features, logits, end, read = (torch.stack(parts, dim=1) for parts in zip(*seen, strict=True))  # (B, T, ...)
    return {
        "features": features,
        "logits": logits,
        "end": end,
        "state": read,
        "guess": standard(guess),
        "begun": standard([segment.context.state for segment in segments]),
        "truth": standard([segment.state for segment in segments]),
        "reward": torch.from_numpy(np.stack([segment.rewards for segment in segments])).float(),
        "ended": torch.from_numpy(np.stack([segment.terminated for segment in segments])).float(),
        "there": torch.ones(len(segments), len(segments[0].actions)),
    }


def fit(
    heads: Heads,
    data: Tapes,
    spared: Tapes,
    *,
    natural: float,
    steps: int,
    batch_size: int,
    lr: float,
    unknown: float,
    seed: int,
) -> Recall:
    """Return a trained copy of the recall of heads; the same data and seed give the same.

    Args:
        heads: They stay as they are.
        data: What is learned.
        spared: What is not: the copy is as it was when it told these best.
        natural: Share of steps that end an episode; those in the data count so much.
        steps: Of training.
        batch_size: Rollouts a step.
        lr: Highest rate.
        unknown: Share of rollouts that begin from the state as read.
        seed: What rollouts are drawn from.
    """
    assert heads.memory is not None
    generator, weight = torch.Generator().manual_seed(seed), _weight(data, natural)
    taught = copy.deepcopy(heads).requires_grad_(False)
    recall: Any = taught.memory
    blank = measure(heads.without_recall(), spared, natural=natural)

    def loss() -> Tensor:
        some = data.rows(torch.randint(len(data.begun), (batch_size,), generator=generator))
        blind = torch.rand(batch_size, 1, generator=generator) < unknown
        shown = (torch.rand(batch_size, 1, data.features.shape[-1], generator=generator) >= DROP) / (1 - DROP)  # (n, 1, features)
        some = replace(some, begun=torch.where(blind, some.guess, some.begun), features=some.features * shown)
        total: Tensor = _over(losses(taught, some, weight=weight), blank)
        return total

    best: Recall = learn(
        recall.requires_grad_(True),
        loss,
        lambda: measure(taught, spared, natural=natural),
        steps=steps,
        lr=lr,
        total=lambda found: float(_over(found, blank)),
        longest=1.0,
    )
    return best


def _over(found: Mapping[str, Any], blank: Mapping[str, float]) -> Any:
    """Return the sum of losses, each over what it is without recall: ends are rare, and count as much as states."""
    return sum(value / max(blank[name], 1e-6) for name, value in found.items())


def run(heads: Heads, data: Tapes) -> tuple[Tensor, Tensor, Tensor]:
    """Tell reward logits ``(N, T, bins)``, end logits ``(N, T)`` and states ``(N, T, S)``, each frame by the state told before."""
    if heads.memory is None:
        return data.logits, data.end.squeeze(-1), data.state
    told, found = data.begun, []
    for t in range(data.reward.shape[1]):
        found.append(heads.memory(data.features[:, t], data.logits[:, t], data.end[:, t], data.state[:, t], tell(told)))
        told = found[-1][2]  # (N, S)
    logits, end, state = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))  # (N, T, ...)
    return logits, end.squeeze(-1), state


def _weight(data: Tapes, natural: float) -> float:
    return end_weight(data.ended, data.there, natural)


def losses(heads: Heads, data: Tapes, *, weight: float) -> dict[str, Tensor]:
    """Return the losses of ``surprise``; ends count ``weight`` times."""
    count = data.there * (1 + (weight - 1) * data.ended)  # (N, T)
    return surprise(heads, run(heads, data), Outcome(data.reward, data.ended, data.truth, count))


@torch.no_grad()
def measure(heads: Heads, data: Tapes, *, natural: float) -> dict[str, float]:
    """Return the ``losses`` of all rollouts, each from its recorded state."""
    return {name: float(value) for name, value in losses(heads, data, weight=_weight(data, natural)).items()}
