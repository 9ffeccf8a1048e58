"""What is kept with a world: its model card, and the summary of its figures in ``world.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.evaluation.gallery import CAPTIONS
from worldsim.evaluation.speed import frame_flops
from worldsim.evaluation.tables import number, table, to_markdown
from worldsim.model import WorldModel
from worldsim.spec import WorldSpec

__all__ = ["model_card", "number", "record_quality", "summary", "table", "to_markdown"]

CARD = "README.md"
_DRIFT = ("rows", "steps", "inside", "failed", "median_failure", "longest")

# ---------------------------------------------------------------- what is kept with a world


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures worth keeping in ``world.json``."""
    loop, reward = report["open_loop"], report["reward"]
    kept: dict[str, Any] = {
        "date": report["made"]["date"],
        "segments": report["data"]["segments"],
        "steps": loop["steps"],
        "psnr": dict(loop["psnr"]),
        "ssim": dict(loop["ssim"]),
        "margins": dict(loop["margins"]),
        "moved": loop["moved"],
        "reward": {key: reward[key] for key in ("correlation_per_step", "correlation_of_sums")},
    }
    if "generalisation" in report:
        kept["generalisation"] = {key: report["generalisation"][key] for key in ("steps", "train", "unseen", "lost")}
    if "long" in report:
        kept["long"] = {key: report["long"][key] for key in ("segments", "steps", "psnr", "ssim")}
    if "distance" in report:
        kept["distance"] = {key: report["distance"][key] for key in ("steps", "world", "other_actions", "blurred", "elsewhere")}
    if "fidelity" in report:
        periods = report["fidelity"]["periods"].items()
        kept["fidelity"] = {name: {key: period[key] for key in ("mean", "ceiling", "ratio") if key in period} for name, period in periods}
    if "drift" in report:
        kept["drift"] = {name: {key: own[key] for key in _DRIFT} for name, own in report["drift"]["policies"].items()}
        for name, own in report["drift"]["source"].items():
            kept["drift"][name]["source_inside"] = own["inside"]
    if report.get("endings", {}).get("positives"):
        kept["endings"] = {key: report["endings"][key] for key in ("positives", "negatives", "auc", "rule", "score", "tuned")}
    if "uncertainty" in report:
        kept["uncertainty"] = dict(report["uncertainty"])
    if "labels" in report:
        kept["labels"] = dict(report["labels"])
    if "state" in report:
        kept["state"] = report["state"]["figures"]
        kept["state_accuracy"] = report["state"]["accuracy"]
    return kept


def record_quality(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the figures into ``world.json``'s ``quality``.

    Raises:
        ValueError: ``folder`` is no world.
    """
    dataclasses.replace(WorldSpec.load(folder), quality=summary(report)).save(folder)


def model_card(folder: Path, report: Mapping[str, Any] | None = None, *, cost: str = "") -> Path:
    """Write a world's ``README.md``.

    Args:
        folder: The world. Pictures ``pictures/*.png`` in it are shown.
        report: What ``evaluate`` returned; None leaves the figures out.
        cost: What training took, in words.

    Returns:
        The file.

    Raises:
        ValueError: ``folder`` is no world, or its weights are damaged.
    """
    world = WorldModel.from_pretrained(folder)
    parts = [_front(world.spec), _what(world, cost), _use(world.spec), _pictures(folder)]
    if report is not None:
        parts += [to_markdown(report).replace("\n## ", "\n### ").replace("# Figures of", "## Figures of", 1)]
    parts += [_recipe(world.spec), _limits(world.spec)]
    file = folder / CARD
    file.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    return file


def _front(spec: WorldSpec) -> str:
    tags = "[world-model, video-generation, gymnasium, reinforcement-learning]"
    return f"---\nlicense: {spec.licence.lower()}\nlibrary_name: worldsim\ntags: {tags}\n---\n\n# {spec.name}\n"


def _sampling(spec: WorldSpec) -> str:
    own = spec.sampling
    temperature = "" if own.temperature == 1 else f" at temperature {own.temperature:g}"
    return f"{own.steps} denoising steps{temperature}, window of {spec.window} frames, {spec.context_frames} context frames"


def _what(world: WorldModel, cost: str) -> str:
    spec, flops = world.spec, frame_flops(world)
    counts = {name: sum(p.numel() for p in getattr(world, name).parameters()) / 1e6 for name in ("tokenizer", "dynamics", "heads")}
    rows = [
        ["learned from", f"`{spec.source.get('id', 'unknown')}`"],
        ["frames", f"{spec.frame_size[0]}×{spec.frame_size[1]} RGB, {spec.fps:g} a second"],
        ["actions", f"`{spec.action_space}`"],
        ["labelled state", ", ".join(f"`{name}`" for name in spec.state_names) or "none"],
        ["weights", ", ".join(f"{name} {count:.2f} M" for name, count in counts.items())],
        [
            "a frame costs",
            f"{flops['total']:.3f} GFLOP: dynamics {flops['dynamics']:.3f}, decoding {flops['decode']:.3f}, heads {flops['heads']:.3f}",
        ],
        ["sampling", _sampling(spec)],
        ["start contexts", str(len(world.contexts))],
        [
            "training data",
            f"{spec.dataset.get('episodes', '?')} episodes of `{spec.dataset.get('name', '?')}` ({spec.dataset.get('licence', 'unknown')})",
        ],
    ]
    rows += [["training cost", cost]] if cost else []
    said = (
        "A learned, action-conditioned video world: an autoencoder, a video diffusion transformer, and heads for reward, end and state.\n"
    )
    return said + "\n" + _plain_table(rows)


def _plain_table(rows: Iterable[Sequence[Any]]) -> str:
    return (
        "\n".join(["| | |", "| --- | --- |", *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)])
        + "\n"
    )


def _use(spec: WorldSpec) -> str:
    return f"""```python
import gymnasium as gym
import worldsim

env = gym.make("WorldSim-v0", world="{spec.name}")
frame, info = env.reset(seed=0)
frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
```
"""


def _pictures(folder: Path) -> str:
    found = [(name, text) for name, text in CAPTIONS.items() if (folder / "pictures" / f"{name}.png").exists()]
    return "\n".join(f"![{text}](pictures/{name}.png)\n\n{text}\n" for name, text in found)


def _recipe(spec: WorldSpec) -> str:
    rows = [[f"`{key}`", f"`{value}`"] for key, value in _flat(spec.recipe)]
    return "## Recipe\n\n" + _plain_table(rows) if rows else ""


def _flat(node: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in node.items():
        path = f"{where}.{key}" if where else str(key)
        found += _flat(value, path) if isinstance(value, Mapping) else [(path, value)]
    return found


def _limits(spec: WorldSpec) -> str:
    return f"""## Limits

- It remembers {spec.window} frames ({spec.window / spec.fps:.2g} s): what was out of the picture for longer may look different later.
- It knows what its data showed. Actions, speeds and places that are rare there are imagined worse, and errors add up.
- Reward, end and state are predictions of its heads, not a simulator's truth.
- Nothing about it carries over to real vehicles or robots.

## Licence

{spec.licence}
"""
