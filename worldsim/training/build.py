"""Builds a world to train from a dataset, a tokenizer and a configuration, and what goes into its spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from worldsim import __version__
from worldsim.checkpoint import load_component
from worldsim.clips import load_episodes, state_statistics
from worldsim.conditioning import Vocabulary, move_columns
from worldsim.contexts import Context, Contexts
from worldsim.dit import VideoDiT
from worldsim.episode import Episode
from worldsim.evaluation.openloop import cut_segments, imagine, real
from worldsim.evaluation.pictures import real_above_imagined, rollout_video
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spaces import feature_size
from worldsim.spec import Sampling, WorldSpec
from worldsim.targets import ConfigError, instantiate_allowed
from worldsim.text_encoder import fit_encoding
from worldsim.tokenizer import FrameAutoencoder
from worldsim.training.dynamics_task import DynamicsLoss, DynamicsTask
from worldsim.training.objective import Objective
from worldsim.types import EpisodeStore

_EMBED, _CONDITION = "embed.weight", "condition_embed.weight"
_CARRY = "kernels."  # of a dynamics: zeros at first, so that it changes nothing
_RECALL = "memory."  # of heads: learned once the dynamics are done
_OF_DATA = ("_class_name", "_diffusers_version", "_name_or_path", "latent_shape", "action_features", "condition_features")
_OF_DOMAIN = ("action_embed.", "condition_embed.")  # of a dynamics: what its actions and conditioning mean


def start_from(module: ModelMixin, folder: Path, *, what: str, known: tuple[Vocabulary, Vocabulary] | None = None) -> None:
    """Fill ``module`` with the weights of the trained one in ``folder``.

    Args:
        module: What is trained on.
        folder: A component's folder.
        what: Its name in messages.
        known: Vocabulary of the trained one, and the same or larger one of ``module``, a ``VideoDiT``. None for a ``VideoDiT`` of another
            domain: its embeddings of actions and conditioning stay as they are.

    Raises:
        ValueError: They are damaged, of another shape, or the second vocabulary lacks something of the first.
    """
    older = load_component(type(module), folder)
    trained, own = older.state_dict(), module.state_dict()
    if _EMBED in trained:
        trained[_EMBED] = _with_anchor(trained[_EMBED], own[_EMBED], module)
    trained = {key: value for key, value in trained.items() if not key.startswith(_RECALL)}
    trained |= {key: value for key, value in own.items() if key.startswith(_CARRY) and key not in trained}
    if known is None:
        trained |= {key: value for key, value in own.items() if key.startswith(_OF_DOMAIN)}
    elif _CONDITION in trained:
        trained[_CONDITION] = move_columns(trained[_CONDITION], *known)
    shapes = {key: value.shape for key, value in own.items()}
    for key, value in trained.items():
        if shapes.get(key) != value.shape:
            misfit = f"{what} {key} has shape {tuple(value.shape)}, here {shapes.get(key)}"
            raise ValueError(f"init={folder} does not fit model: {misfit}; use its settings{_settings_apart(older, module)}")
    module.load_state_dict(trained)


def _settings_apart(older: ModelMixin, module: ModelMixin) -> str:
    """Name the settings of an older network that a new one does not share; nothing where all that is apart comes from the data."""
    apart = {key: value for key, value in older.config.items() if key not in _OF_DATA and module.config[key] != value}
    told = " ".join(f"model.{key}={str(value).lower()}" for key, value in apart.items())
    return f": {told}" if told else ""


def _with_anchor(trained: Tensor, own: Tensor, module: Any) -> Tensor:
    """Add the channels of an anchor to weights ``(D, channels, p, p)`` that had none: zeros, so that it changes nothing at first."""
    missing = own.shape[1] - trained.shape[1]
    if not module.config.anchor or missing != module.config.latent_shape[0]:
        return trained
    return torch.cat((trained, torch.zeros_like(trained[:, :missing])), dim=1)  # (D, channels + C, p, p)


def build_vocabulary(episodes: Sequence[Episode], text_encoder: Mapping[str, Any] | None, older: WorldSpec | None = None) -> Vocabulary:
    """Collect what a dataset tells.

    Args:
        episodes: Those to train on.
        text_encoder: ``name`` of a text encoder and optionally its ``pooling``; None for a world that knows the words in the data.
        older: The world to go on from: all that it knows is kept, standardised as it was.

    Raises:
        ValueError: The encoder cannot be loaded, or is not that of the older world.
    """
    told = Vocabulary.build([episode.conditioning for episode in episodes])
    if text_encoder is not None:
        told = replace(
            told, words=(), pairs=(), text=fit_encoding(texts=[e.conditioning.text for e in episodes], **_encoder_settings(text_encoder))
        )
    elif older is not None and older.vocabulary.text is not None:
        told = replace(told, words=(), pairs=())
    return told if older is None else older.vocabulary.grown(told)


def _encoder_settings(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or "name" not in given or not set(given) <= {"name", "pooling"}:
        raise ConfigError(f"text_encoder={given} must be null, or {{name: a Hub id or folder}} and optionally pooling: mean or first")
    return {"encoder": str(given["name"]), "pooling": str(given.get("pooling", "mean"))}


class WorldBuilder:
    """A world in the making.

    From a world of other actions (``cfg.init``), another domain's, the network that makes frames goes on; what its actions, conditioning,
    rewards and state mean starts afresh. From one of the same actions and another labelled state, all but the heads goes on.

    Args:
        store: The dataset.
        tokenizer: The trained tokenizer, on the device to train on.
        cfg: A composed ``configs/train_dynamics.yaml``.
        folder: The run's folder; encoded latents are kept in it.
    """

    def __init__(self, store: EpisodeStore, tokenizer: FrameAutoencoder, cfg: DictConfig, folder: Path) -> None:
        self.store, self.tokenizer, self.cfg = store, tokenizer, cfg
        episodes = [_without_pictures(store[i]) for i in store.split("train")]
        older = WorldSpec.load(Path(cfg.init)) if cfg.init else None
        elsewhere = older is not None and older.action_space != store.info.action_space
        if elsewhere:
            print(f"init={cfg.init} is a world of other actions: its network goes on; actions, conditioning and heads start afresh")
            older = None
        vocabulary = build_vocabulary(episodes, cfg.text_encoder, older)
        statistics = state_statistics(episodes, len(store.info.state_names))
        same_state = older is not None and older.state_names == tuple(store.info.state_names)
        if older is not None and same_state:  # its heads go on to mean the same
            statistics = (np.array(older.state_mean, np.float32), np.array(older.state_std, np.float32))
        elif older is not None:
            print(f"init={cfg.init} is a world of another labelled state: its heads start afresh")
        rewards = [episode.rewards for episode in episodes] + ([] if older is None else [np.array(older.reward_range)])
        self.spec = self._spec(vocabulary, statistics, np.concatenate(rewards))
        self.dynamics: VideoDiT = instantiate_allowed(
            cfg.model,
            latent_shape=list(tokenizer.latent_shape),
            action_features=feature_size(store.info.action_space),
            condition_features=vocabulary.size,
        )
        self.heads = Heads(tokens=len(self.dynamics.place), width=self.dynamics.config.width, state_size=len(self.spec.state_names))
        if older is not None:
            start_from(self.dynamics, Path(cfg.init) / "dynamics", what="dynamics", known=(older.vocabulary, vocabulary))
            if same_state:
                start_from(self.heads, Path(cfg.init) / "heads", what="heads")
        elif elsewhere:
            start_from(self.dynamics, Path(cfg.init) / "dynamics", what="dynamics")
        objective: Any = OmegaConf.to_container(cfg.objective, resolve=True)
        self.task = DynamicsTask(
            DynamicsLoss(self.dynamics, self.heads, Objective(**objective), tokenizer.decode),
            load_episodes(
                store,
                "train",
                tokenizer,
                vocabulary=vocabulary,
                statistics=statistics,
                cache=folder / "cache",
                device=next(tokenizer.parameters()).device,
            ),
            vocabulary,
            batch_size=cfg.batch_size,
            clip=cfg.clip,
            frame_size=store.info.frame_size,
            on_sample=self.sample,
        )

    def _spec(self, vocabulary: Vocabulary, statistics: tuple[Any, Any], rewards: Any) -> WorldSpec:
        info, cfg = self.store.info, self.cfg
        recipe: Any = OmegaConf.to_container(cfg, resolve=True)
        return WorldSpec(
            name=cfg.name,
            frame_size=info.frame_size,
            fps=info.fps,
            action_space=info.action_space,
            vocabulary=vocabulary,
            state_names=info.state_names,
            state_mean=tuple(statistics[0].tolist()),
            state_std=tuple(statistics[1].tolist()),
            reward_range=(float(rewards.min()), float(rewards.max())),
            window=cfg.model.window,
            context_frames=cfg.context_frames,
            sampling=Sampling(**cfg.sampling),
            keys=_plain(cfg["keys"]),
            source=dict(info.source),
            dataset={"name": info.name, "fingerprint": info.fingerprint, "episodes": len(self.store), "licence": info.licence},
            recipe={"worldsim": __version__, **{key: recipe[key] for key in ("model", "objective", "loop", "batch_size", "clip")}},
        )

    def world(self, *, contexts: bool = True) -> WorldModel:
        """Return the world with the weights as they are now, and its start contexts."""
        chosen = self._contexts() if contexts else Contexts(())
        return WorldModel(self.tokenizer, self.dynamics, self.heads, self.spec, chosen).eval()

    def _contexts(self) -> Contexts:
        found: list[Context] = []
        for split in ("heldout", "train"):
            want = self.cfg.contexts - len(found)
            if want > 0 and self.store.split(split):
                per_episode = max(1, -(-want // len(self.store.split(split))))
                segments = cut_segments(
                    self.store, split=split, context=self.cfg.context_frames, horizon=1, per_episode=per_episode, limit=want
                )
                found += [segment.context for segment in segments]
        return Contexts(tuple(found))

    def sample(self, step: int, folder: Path) -> None:
        """Write real above imagined for a few held-out stretches, as a sheet and as a video."""
        split = "heldout" if self.store.split("heldout") else "train"
        segments = cut_segments(
            self.store, split=split, context=self.cfg.context_frames, horizon=self.cfg.sample_horizon, per_episode=1, limit=8
        )
        simulator = Simulator(self.world(contexts=False))
        truth, made = real(segments), imagine(simulator, segments).frames
        real_above_imagined(folder / f"{step:07d}.png", truth, made)
        rollout_video(folder / f"{step:07d}.mp4", truth, made, self.store.info.fps)


def _without_pictures(episode: Episode) -> Episode:
    """Leave out what fills memory: a dataset may be larger than that."""
    return replace(episode, frames=np.empty((0, *episode.frames.shape[1:]), np.uint8), latents=None, labels={})


def _plain(value: Any) -> Mapping[str, Any]:
    plain: Any = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else dict(value or {})
    return plain
