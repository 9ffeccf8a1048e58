"""The table of recipes that ``ablation.py`` compares: one change each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BASE = (
    "preset=carracing_nano",
    "objective.self_context=0",
    "loop.warmup=60",
    "loop.threads=1",
    "loop.log_every=50",
    "loop.save_every=100",
    "loop.sample_every=0",
    "contexts=8",
)
"""What all variants share: the settings of the shipped world, without its own frames as context, which pay late."""


@dataclass(frozen=True)
class Variant:
    """One recipe.

    Attributes:
        says: What is other than in the base.
        overrides: Settings of ``worldsim train dynamics``.
        late: Share of the steps after which ``self_context`` and ``shortcut`` begin.
        sampling: How frames are made, where it is not the base's way.
        sink: Attention sinks of the rollout.
        of: Another variant whose weights are sampled in another way; nothing is trained.
        init: Another variant whose weights training goes on from.
        share: Of the budget.
        tokenizer: Name of a tokenizer of ``--tokenizer NAME=FOLDER``; empty for the usual one.
    """

    says: str
    overrides: tuple[str, ...] = ()
    late: float = 0.0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    sink: int = 0
    of: str = ""
    init: str = ""
    share: float = 1.0
    tokenizer: str = ""


def _of(name: str, says: str, **sampling: Any) -> Variant:
    return Variant(f"{says}; weights of `{name}`", of=name, sampling=sampling)


PLAIN = (
    "objective.forcing=1",
    "objective.from_noise=0",
    "objective.context_loss=1",
    "objective.pixel_loss=0",
    "objective.latent_floor=0",
    "objective.pixel_floor=0",
)
"""Plain diffusion forcing (Chen et al. 2024): every frame at its own uniform level, squared errors in latents alone."""

VARIANTS: dict[str, Variant] = {
    "base": Variant("the base"),
    "base-seed1": Variant("the base, another seed", ("loop.seed=1",)),
    "no-pixel-loss": Variant("no error in pixels", ("objective.pixel_loss=0",)),
    "squared": Variant("squared errors, not by ratio", ("objective.latent_floor=0", "objective.pixel_floor=0")),
    "muon": Variant("Muon for the matrices in blocks", ("loop.optimizer=muon",)),
    "muon-lr2": Variant("Muon, 2.5 times the rate", ("loop.optimizer=muon", "loop.lr=2e-3")),
    "adamw-lr2": Variant("AdamW, 2.5 times the rate", ("loop.lr=2e-3",)),
    "forcing-0.5": Variant("half the clips by diffusion forcing", ("objective.forcing=0.5",)),
    "plain-forcing": Variant("plain diffusion forcing", PLAIN),
    "plain-forcing-10": _of("plain-forcing", "10 sampling steps", steps=10),
    "from-noise-0.3": Variant("0.3 of targets at pure noise, not 0.9", ("objective.from_noise=0.3",)),
    "from-noise-0.3-4": _of("from-noise-0.3", "4 sampling steps", steps=4),
    "ramp": Variant("ramp weight: 0.1 at noise (with 0.3 of targets there)", ("objective.from_noise=0.3", "objective.weight_floor=0.1")),
    "ramp-4": _of("ramp", "4 sampling steps", steps=4),
    "velocity": Variant(
        "errors of velocities (with 0.3 of targets at noise)", ("objective.from_noise=0.3", "objective.loss_space=velocity")
    ),
    "velocity-4": _of("velocity", "4 sampling steps", steps=4),
    "steps-2": _of("base", "2 sampling steps", steps=2),
    "steps-4": _of("base", "4 sampling steps", steps=4),
    "context-0.9": _of("base", "frames are remembered at level 0.9", context_level=0.9),
    "no-context-noise": Variant("no noise on the context", ("objective.lowest_context=1",)),
    "context-noise-0.6": Variant("context levels from 0.6, not 0.85", ("objective.lowest_context=0.6",)),
    "shortcut-1": Variant(
        "a quarter of the clips for shortcuts, after 0.2 of the steps",
        ("objective.shortcut=0.25",),
        late=0.2,
        sampling={"steps": 1, "shortcut": True},
    ),
    "shortcut-2": _of("shortcut-1", "2 sampling steps", steps=2, shortcut=True),
    "shortcut-4": _of("shortcut-1", "4 sampling steps", steps=4, shortcut=True),
    "tail": Variant("on from the base, as it was", init="base", share=0.5),
    "tail-self-3": Variant(
        "on from the base, half the clips on 3 rounds of own frames",
        ("objective.self_context=0.5", "objective.self_rounds=3"),
        init="base",
        share=0.5,
    ),
    "tail-self-8": Variant(
        "on from the base, half the clips on 8 rounds of own frames",
        ("objective.self_context=0.5", "objective.self_rounds=8"),
        init="base",
        share=0.5,
    ),
    "tail-anchor": Variant(
        "on from the base, the first frame of a rollout stacked for ever", ("model.anchor=true",), init="base", share=0.5
    ),
    "tail-fading": Variant("the same, half the contexts faded", ("model.anchor=true", "objective.fading=0.5"), init="base", share=0.5),
    "tail-no-pixel-loss": Variant("on from the base, no error in pixels", ("objective.pixel_loss=0",), init="base", share=0.5),
    "history-0": Variant("no frames stacked to the channels", ("model.history=0",)),
    "history-1": Variant("one frame stacked, not two", ("model.history=1",)),
    "window-4": Variant("window of 4 frames, not 8", ("model.window=4",)),
    "window-2": Variant("window of 2 frames, not 8", ("model.window=2",)),
    "sink-untrained": Variant("an attention sink in the rollout alone; weights of `base`", of="base", sink=1),
    "sink": Variant("an attention sink, trained for", ("objective.sink=1",), sink=1),
    "registers-4": Variant("4 registers", ("model.registers=4",)),
    "time-2": Variant("time attention in every 2nd block, not every 3rd", ("model.temporal_every=2",)),
    "time-6": Variant("time attention in the last block alone", ("model.temporal_every=6",)),
    "no-action-drop": Variant("no dropped actions", ("objective.action_drop=0",)),
    "width-160": Variant("width 160, not 224: more steps", ("model.width=160",)),
    "width-320": Variant("width 320, not 224: fewer steps", ("model.width=320",)),
    "depth-4": Variant("4 blocks, not 6: more steps", ("model.depth=4", "model.temporal_every=2")),
    "patch-1": Variant(
        "a token for each latent, not for 2x2; width 112, for the same operations", ("model.patch_size=1", "model.width=112")
    ),
    "patch-1-160": Variant("the same, width 160: fewer steps", ("model.patch_size=1", "model.width=160")),
    "carry-3": Variant("latents carried along by kernels of 3x3", ("model.carry=3",)),
    "conv": Variant("a depthwise convolution before each block", ("model.conv=true",)),
    "long-skips": Variant("long skips", ("model.long_skips=true",)),
    "batch-4": Variant("4 clips a step, not 8: twice the steps", ("batch_size=4",)),
    "no-heads": Variant("no reward, end and state", ("objective.reward_loss=0", "objective.end_loss=0", "objective.state_loss=0")),
    "tokenizer-young": Variant("latents of a tokenizer of 1,200 steps", tokenizer="young"),
    "tokenizer-8": Variant("the same, 8 channels, not 16", tokenizer="8"),
    "tokenizer-32": Variant("the same, 32 channels", tokenizer="32"),
    "tokenizer-plain": Variant("the same, 16, trained without equivariance", tokenizer="plain"),
}
"""In the order in which they are run: what matters most first."""
