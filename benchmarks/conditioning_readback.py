"""Whether a world listens: a probe that was trained on real frames alone reads the asked-for tag back from generated starts.

python benchmarks/conditioning_readback.py --world carracing-nano --data data/carracing.worldsim
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, describe, save
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from worldsim.datasets.reader import EpisodeReader
from worldsim.episode import Conditioning
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.starter import StartSampling, sample_starts
from worldsim.tokenizer import to_model

Groups = dict[str, list[str]]
"""Name of a group to its tags, of which a frame has one."""


def main() -> None:
    """Train the probe, ask for every tag, by itself and in words, and say how often it shows."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    world, store = WorldModel.from_pretrained(args.world), EpisodeReader(args.data)
    assert world.starter is not None, f"world {args.world} has no starter"
    groups = group(world.spec.vocabulary.tags)
    train, heldout = (frames_and_tags(store, split, args.per_episode, groups) for split in ("train", "heldout"))
    probe = fit(*train, groups, steps=args.steps, seed=0)
    sampling = StartSampling(args.sampling_steps, args.guidance)
    figures: dict[str, Any] = {"made": machine_facts(), "sampling": vars(sampling), "groups": {}}
    asked = [tag for tags in groups.values() for tag in tags for _ in range(args.samples)]
    by_tag = make(world, [Conditioning((tag,)) for tag in asked], sampling, ahead=args.ahead)
    for name, tags in groups.items():
        rows = [i for i, tag in enumerate(asked) if tag in tags]
        wanted = np.array([tags.index(asked[i]) for i in rows])
        counts = Counter(train[1][name].tolist())
        figures["groups"][name] = {
            "tags": len(tags),
            "probe_on_heldout_frames": share(read(probe, heldout[0], name), heldout[1][name]),
            "asked_start": share(read(probe, by_tag[0][rows], name), wanted),
            f"asked_after_{args.ahead}_steps": share(read(probe, by_tag[1][rows], name), wanted),
            "chance": 1 / len(tags),
            "commonest": counts.most_common(1)[0][1] / len(train[1][name]),
        }
    figures["text"] = _text(world, probe, groups, sampling, args)
    _picture(world, groups, sampling, args.out / "conditioning_readback.png")
    save("conditioning_readback", figures, _markdown(figures, args), args.out)


def group(tags: Sequence[str]) -> Groups:
    """Sort tags into groups: those before a colon, and all others as one."""
    groups: Groups = {}
    for tag in tags:
        groups.setdefault(tag.partition(":")[0] if ":" in tag else "others", []).append(tag)
    return {name: members for name, members in groups.items() if len(members) > 1}


def frames_and_tags(
    store: EpisodeReader, split: str, per_episode: int, groups: Groups
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    """Return frames ``(K, H, W, 3)`` at random places, and the number of each one's tag in its group ``(K,)``."""
    random, frames, labels = np.random.default_rng(0), [], {name: list[int]() for name in groups}
    for i in store.split(split):
        episode = store[i]
        own = {name: [n for n, tag in enumerate(tags) if tag in episode.conditioning.tags] for name, tags in groups.items()}
        if all(own.values()):
            frames.append(episode.frames[random.choice(len(episode.frames), per_episode)])
            for name, found in own.items():
                labels[name] += [found[0]] * per_episode
    return np.concatenate(frames), {name: np.array(values) for name, values in labels.items()}


class Probe(nn.Module):
    """A small network from frames ``(B, 3, H, W)`` to the logits of each group's tags."""

    def __init__(self, groups: Groups) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96 * 16, 128), nn.SiLU())
        self.ends = nn.ModuleDict({name: nn.Linear(128, len(tags)) for name, tags in groups.items()})

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Return logits ``(B, tags)`` by group."""
        x = self.body(frames)  # (B, 128)
        return {name: end(x) for name, end in self.ends.items()}


def fit(frames: NDArray[np.uint8], labels: dict[str, NDArray[np.int64]], groups: Groups, *, steps: int, seed: int) -> Probe:
    """Train a probe on real frames."""
    torch.manual_seed(seed)
    probe, generator = Probe(groups), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(probe.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(frames), (64,), generator=generator)
        made = probe(to_model(torch.from_numpy(frames[rows.numpy()])))
        loss = sum((nn.functional.cross_entropy(made[name], torch.from_numpy(labels[name])[rows]) for name in groups), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def read(probe: Probe, frames: NDArray[np.uint8], name: str) -> NDArray[np.int64]:
    """Return the number of the tag that the probe sees in each frame ``(K,)``."""
    parts = [probe(to_model(torch.from_numpy(frames[i : i + 256])))[name].argmax(1) for i in range(0, len(frames), 256)]
    return torch.cat(parts).numpy()


def make(
    world: WorldModel, told: Sequence[Conditioning], sampling: StartSampling, *, ahead: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Generate a start for each conditioning and roll it ``ahead`` steps on at rest; return the frames of both ``(K, H, W, 3)``."""
    assert world.starter is not None
    simulator, firsts, lasts = Simulator(world, in_place=True), [], []
    for start in range(0, len(told), 16):
        part = told[start : start + 16]
        contexts = sample_starts(world.starter, world.tokenizer, world.spec, part, range(start, start + len(part)), sampling=sampling)
        state = simulator.start(contexts, range(start, start + len(part)))
        rest = np.repeat(contexts[0].actions[:1], len(part), axis=0)
        for _ in range(ahead):
            state, step = simulator.step(state, rest)
        firsts.append(np.stack([context.frames[-1] for context in contexts]))
        lasts.append(step.frames)
    return np.concatenate(firsts), np.concatenate(lasts)


def share(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """Return the share of rows where both are the same."""
    return float((found == wanted).mean())


def _text(world: WorldModel, probe: Probe, groups: Groups, sampling: StartSampling, args: argparse.Namespace) -> dict[str, Any]:
    """Ask in words: ``red road on blue grass``."""
    colours = [tag.partition(":")[2] for tag in groups["road"] if f"grass:{tag.partition(':')[2]}" in groups["grass"]]
    random = np.random.default_rng(1)
    asked = [(str(random.choice(colours)), str(random.choice(colours))) for _ in range(10 * args.samples)]
    frames, _ = make(world, [Conditioning(text=f"{road} road on {grass} grass") for road, grass in asked], sampling, ahead=1)
    wanted = {name: np.array([groups[name].index(f"{name}:{pair[n]}") for pair in asked]) for n, name in enumerate(("road", "grass"))}
    seen = {name: read(probe, frames, name) == wanted[name] for name in wanted}
    return {"sentences": len(asked), **{name: float(hit.mean()) for name, hit in seen.items()}, "chance": 1 / len(colours)}


def _picture(world: WorldModel, groups: Groups, sampling: StartSampling, file: Path) -> None:
    """Draw six starts for each tag of a group, a group below the other."""
    told = [tag for tags in groups.values() for tag in tags]
    frames, _ = make(world, [Conditioning((tag,)) for tag in told for _ in range(6)], sampling, ahead=1)
    columns = frames.reshape(len(told), 6, *frames.shape[1:]).transpose(1, 2, 0, 3, 4).reshape(6 * frames.shape[1], -1, 3)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(columns).save(file)


def _markdown(figures: dict[str, Any], args: argparse.Namespace) -> str:
    percent = "{:.0%}".format
    keys = ("probe_on_heldout_frames", "asked_start", f"asked_after_{args.ahead}_steps", "chance", "commonest")
    head = ["tags asked one by one", "tags", "probe, real frames", "start", f"after {args.ahead} steps", "chance", "commonest tag"]
    rows = [[name, str(group["tags"]), *(percent(group[key]) for key in keys)] for name, group in figures["groups"].items()]
    text = figures["text"]
    words = f"Asked in words (`red road on blue grass`, {text['sentences']} sentences of any two colours): road {percent(text['road'])}, "
    words += f"grass {percent(text['grass'])}, chance {percent(text['chance'])}."
    return (
        "# Conditioning read back\n\n"
        f"Starts of `{args.world}` from one tag alone, {args.samples} a tag, guidance {args.guidance:g}, {args.sampling_steps} steps; "
        f"a probe trained on real frames names what it sees.\n\n{table(head, rows)}\n{words}\n\nMeasured {describe(figures['made'])}\n"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=16, help="starts a tag")
    parser.add_argument("--guidance", type=float, default=StartSampling.guidance)
    parser.add_argument("--sampling-steps", type=int, default=StartSampling.steps)
    parser.add_argument("--ahead", type=int, default=32, help="steps of the world after the start")
    parser.add_argument("--per-episode", type=int, default=16, help="real frames of an episode that the probe learns from")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of the probe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
