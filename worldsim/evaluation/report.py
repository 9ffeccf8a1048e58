"""Reports for people: tables of a world's figures, its model card, and the summary kept in ``world.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.evaluation.speed import frame_flops
from worldsim.model import WorldModel
from worldsim.spec import WorldSpec

CARD = "README.md"
_NAMES = {
    "tokenizer": "tokenizer alone (ceiling)",
    "world": "**world**",
    "other_actions": "world, another episode's actions",
    "copy_last": "copy of the last frame",
}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; numbers are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join([" --- ", *[" ---: "] * (len(head) - 1)]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number as people read it; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the figures of ``evaluate`` as Markdown."""
    world, data, made = report["world"], report["data"], report["made"]
    sampling, versions = world["sampling"], made["versions"]
    intro = (
        f"World `{world['name']}`, {sampling['steps']} denoising steps a frame, context level {sampling['context_level']}; "
        f"{data['segments']} segments of {data['episodes']} {data['split']} episodes of `{data['name']}`, "
        f"{data['context']} context frames, recorded actions.\n"
        f"Measured {made['date']} with worldsim {versions['worldsim']}, torch {versions['torch']}, {made['cpu']}.\n"
    )
    return "\n".join([f"# Figures of {world['name']}\n", intro, *figures(report)])


def figures(report: Mapping[str, Any]) -> list[str]:
    """Return the sections of figures, each with its heading."""
    parts = [_open_loop(report["open_loop"]), _reward(report["reward"]), _endings(report["endings"])]
    if "uncertainty" in report:
        parts.append(_uncertainty(report["uncertainty"]))
    if "labels" in report:
        parts.append(_labels(report["labels"]))
    return [*parts, _state(report["state"])] if "state" in report else parts


def _open_loop(part: Mapping[str, Any]) -> str:
    head = ["", *(f"step {step}" for step in part["steps"])]
    lines = ["## Open loop\n"]
    for title, key, digits in (("PSNR to the real frames, dB", "psnr", 2), ("SSIM", "ssim", 3)):
        lines.append(
            table([title, *head[1:]], [[_NAMES[name], *(number(x, digits) for x in values)] for name, values in part[key].items()])
        )
    margins = part["margins"]
    for name, said in (("copy_last", "over the copy of the last frame"), ("other_actions", "over another episode's actions")):
        if name in margins:
            m = margins[name]
            verdict = "met" if m["met"] else "missed"
            lines.append(
                f"- Step {margins['step']}: {m['db']:+.2f} ± {m['standard_error']:.2f} dB {said} (bar {m['bar']:.0f} dB: {verdict})."
            )
    lines.append(f"- Latents that are turned and shifted decode at {part['moved']:.1f} dB to the frame turned and shifted alike.")
    return "\n".join(lines) + "\n"


def _reward(part: Mapping[str, Any]) -> str:
    rows = [
        ["correlation with the true reward, per step", number(part["correlation_per_step"])],
        [f"correlation of the sums over {part['steps']} steps", number(part["correlation_of_sums"])],
        ["mean error of the sums", number(part["error_of_sums"])],
        ["mean true reward / predicted", f"{part['mean_true']:.3f} / {part['mean_predicted']:.3f}"],
    ]
    return "## Reward\n\n" + table(["open loop", "value"], rows)


def _endings(part: Mapping[str, Any]) -> str:
    if not part["terminated"]:
        return f"## Endings\n\nNone of the {part['episodes']} episodes that were rolled out to their last step ended by termination.\n"
    rest = part["episodes"] - part["terminated"]
    rows = [
        ["area under the curve of the end probability, all steps", number(part["auc"])],
        ["terminated episodes that the world ended within their last 4 steps", f"{part['found']} of {part['terminated']}"],
        ["other episodes that it ended", f"{part['false_alarms']} of {rest}"],
    ]
    return "## Endings\n\n" + table([f"last {part['horizon']} steps of {part['episodes']} episodes", "value"], rows)


def _uncertainty(part: Mapping[str, Any]) -> str:
    rows = [
        ["area under the ROC curve for errors above their 90th percentile", number(part["auroc"], 3)],
        ["the same with the number of the step as the score", number(part["auroc_age"], 3)],
        ["correlation with the logarithm of the error", number(part["correlation"])],
        [f"frames worse than {part['threshold_psnr']:.1f} dB: foretold / found", f"{part['foretold']:.1%} / {part['found']:.1%}"],
    ]
    return "## Uncertainty\n\n" + table(["all frames of the rollouts", "value"], rows)


def _labels(part: Mapping[str, Any]) -> str:
    said = {"tokenizer": "real frames", "world": "**imagined frames**", "copy_last": "truth of the last context frame"}
    head = ["IoU with the source's segmentation", *(f"step {step}" for step in part["steps"])]
    rows = [[f"mean, {text}", *(number(x, 3) for x in part[name]["mean"])] for name, text in said.items()]
    for k, own in enumerate(part["classes"]):
        if any(each[k] is not None for each in part["world"]["each"]):
            rows += [[f"`{own}`, {text}", *(number(each[k], 3) for each in part[name]["each"])] for name, text in said.items()]
    return "## Labels beside pixels\n\n" + table(head, rows)


def _state(part: Mapping[str, Any]) -> str:
    said = {"guess": "guess", "probe_real": "probe, real frames", "probe_imagined": "probe, imagined frames", "head": "world's own head"}
    first = next(iter(part["figures"][part["names"][0]].values()))
    kinds = [kind for kind in said if kind in first]
    rows = [
        [f"`{name}`, step {step}", *(_errors(values[kind]) for kind in kinds)]
        for name in part["names"]
        for step, values in part["figures"][name].items()
    ]
    note = "Mean / median absolute error in the source's units (correlation with the true value). `guess` always gives the same answer.\n"
    note += "The probe is a small network that was trained on real frames alone.\n" if "probe_real" in first else ""
    return "## State read back\n\n" + note + "\n" + table(["", *(said[kind] for kind in kinds)], rows)


def _errors(values: Mapping[str, Any]) -> str:
    correlated = "" if values["correlation"] is None else f" ({values['correlation']:.2f})"
    return f"{values['error']:.3f} / {values['typical_error']:.3f}{correlated}"


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
    if "uncertainty" in report:
        kept["uncertainty"] = dict(report["uncertainty"])
    if "labels" in report:
        kept["labels"] = dict(report["labels"])
    if "state" in report:
        kept["state"] = report["state"]["figures"]
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
        ["sampling", f"{spec.sampling.steps} denoising steps, window of {spec.window} frames, {spec.context_frames} context frames"],
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
    said = {
        "rollouts": "Real frames above imagined ones, at steps 1, 4, 8, 16, 32 and 64 after the context.",
        "open_loop": "PSNR over steps.",
    }
    found = [(name, text) for name, text in said.items() if (folder / "pictures" / f"{name}.png").exists()]
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
