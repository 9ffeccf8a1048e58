"""WorldModel: tokenizer, dynamics, heads and spec of one trained world, from a folder and back to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from worldsim.checkpoint import content_hash, load_component, resolve, save_component
from worldsim.contexts import Contexts
from worldsim.devices import find_device
from worldsim.dit import VideoDiT
from worldsim.heads import Heads
from worldsim.labeller import NAME as LABELS
from worldsim.labeller import Labeller
from worldsim.spaces import feature_size
from worldsim.spec import WorldSpec
from worldsim.starter import NAME as STARTER
from worldsim.starter import starter_shape
from worldsim.tokenizer import FrameAutoencoder
from worldsim.uncertainty import NAME, ErrorHead

if TYPE_CHECKING:
    from worldsim.oasis import OasisWorld

_CACHE: dict[tuple[str, str, torch.dtype], WorldModel] = {}


class WorldModel(nn.Module):
    """One learned world.

    Args:
        tokenizer: Frames to latents and back.
        dynamics: Latents and actions to the next latents.
        heads: Reward, end and state.
        spec: What it is.
        contexts: Clips that rollouts start from.
        uncertainty: Foretells the error of made frames; None for a world that was not taught to.
        starter: Makes first frames from conditioning alone, see ``worldsim.starter``; None for a world that was not taught to.
        labeller: Tells what each pixel shows, see ``worldsim.labeller``; None for a world that was not taught to.
        fingerprint: sha256 over the files it was loaded from; empty for one that was not.
    """

    def __init__(
        self,
        tokenizer: FrameAutoencoder,
        dynamics: VideoDiT,
        heads: Heads,
        spec: WorldSpec,
        contexts: Contexts,
        *,
        uncertainty: ErrorHead | None = None,
        starter: VideoDiT | None = None,
        labeller: Labeller | None = None,
        fingerprint: str = "",
    ) -> None:
        super().__init__()
        self.tokenizer, self.dynamics, self.heads, self.uncertainty = tokenizer, dynamics, heads, uncertainty
        self.starter, self.labeller = starter, labeller
        self.spec, self.contexts, self.fingerprint = spec, contexts, fingerprint

    def replaced(self, **parts: Any) -> WorldModel:
        """Return a world that has the given parts, named as in the arguments above, and shares all others with this one."""
        names = ("tokenizer", "dynamics", "heads", "spec", "contexts", "uncertainty", "starter", "labeller")
        return WorldModel(**{name: getattr(self, name) for name in names} | parts)

    @staticmethod
    def from_pretrained(name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> WorldModel:
        """Load a world, once per process for each content, device and dtype.

        Args:
            name: A shipped world such as ``carracing-nano``, a folder, or a Hub repository.
            device: Where to put it.
            dtype: Weights' type.

        Returns:
            The world in evaluation mode. It is shared: do not train it in place.

        Raises:
            ValueError: There is no such world, a file of it is missing or altered, or the device is not there.
        """
        folder = resolve(name)
        place = find_device(device)
        fingerprint = content_hash(folder)
        key = (fingerprint, str(place), dtype)
        if key not in _CACHE:
            _CACHE[key] = _load(folder, fingerprint).to(device=place, dtype=dtype).eval().requires_grad_(False)
        return _CACHE[key]

    @staticmethod
    def from_oasis(
        dit_safetensors: str | Path, vae_safetensors: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> OasisWorld:
        """Load Oasis-500M, or a model of its architecture, from the two files it is published as.

        Args:
            dit_safetensors: The denoiser's weights.
            vae_safetensors: The autoencoder's weights.
            device: Where to put it.
            dtype: Weights' type.

        Raises:
            ValueError: A file is missing, damaged, no safetensors file, or does not fit the architecture.
        """
        from worldsim.oasis import from_oasis

        return from_oasis(dit_safetensors, vae_safetensors, device=device, dtype=dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the world to ``folder``: one sub-folder a component, the contexts, and ``world.json`` last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer", "dynamics", "heads"):
            save_component(getattr(self, name), folder / name)
        if self.uncertainty is not None:
            save_component(self.uncertainty, folder / NAME)
        if self.starter is not None:
            save_component(self.starter, folder / STARTER)
        if self.labeller is not None:
            save_component(self.labeller, folder / LABELS)
        self.contexts.save(folder)
        self.spec.save(folder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dynamics.place.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the dynamics' weights."""
        return self.dynamics.place.dtype


def _load(folder: Path, fingerprint: str) -> WorldModel:
    spec = WorldSpec.load(folder)
    parts = (
        load_component(FrameAutoencoder, folder / "tokenizer"),
        load_component(VideoDiT, folder / "dynamics"),
        load_component(Heads, folder / "heads"),
    )
    uncertainty = load_component(ErrorHead, folder / NAME) if (folder / NAME).is_dir() else None
    starter = load_component(VideoDiT, folder / STARTER) if (folder / STARTER).is_dir() else None
    labeller = load_component(Labeller, folder / LABELS) if (folder / LABELS).is_dir() else None
    _check_fit(folder, spec, *parts, uncertainty, starter, labeller)
    return WorldModel(
        *parts,
        spec,
        Contexts.load(folder),
        uncertainty=uncertainty,
        starter=starter,
        labeller=labeller,
        fingerprint=fingerprint,
    )


def _check_fit(
    folder: Path,
    spec: WorldSpec,
    tokenizer: FrameAutoencoder,
    dynamics: VideoDiT,
    heads: Heads,
    uncertainty: ErrorHead | None,
    starter: VideoDiT | None,
    labeller: Labeller | None,
) -> None:
    """Refuse parts that do not belong together.

    Raises:
        ValueError: Names the first two that differ.
    """
    own: Any = tokenizer.config
    video: Any = dynamics.config
    reading: Any = heads.config
    pairs = [
        ("frame size of tokenizer and world.json", tuple(own.frame_size), tuple(spec.frame_size)),
        ("latent shape of dynamics and tokenizer", tuple(video.latent_shape), tuple(tokenizer.latent_shape)),
        (f"action features of dynamics and {spec.action_space}", video.action_features, feature_size(spec.action_space)),
        ("conditioning features of dynamics and world.json", video.condition_features, spec.vocabulary.size),
        ("window of dynamics and world.json", video.window, spec.window),
        ("tokens of heads and dynamics", reading.tokens, len(dynamics.place)),
        ("width of heads and dynamics", reading.width, video.width),
        ("state labels of heads and world.json", reading.state_size, len(spec.state_names)),
    ]
    if uncertainty is not None:
        error: Any = uncertainty.config
        pairs.append(("tokens and width of uncertainty and heads", (error.tokens, error.width), (reading.tokens, reading.width)))
    if starter is not None:
        first: Any = starter.config
        pairs.append(("latent shape of starter and its frames", tuple(first.latent_shape), starter_shape(tokenizer.latent_shape)))
        pairs.append(("conditioning features of starter and world.json", first.condition_features, spec.vocabulary.size))
    if labeller is not None:
        seen: Any = labeller.config
        sizes = tuple(seen.latent_shape), tuple(seen.frame_size)
        pairs.append(("latent shape and frame size of labels and tokenizer", sizes, (tuple(tokenizer.latent_shape), tuple(own.frame_size))))
    for what, one, other in pairs:
        if one != other:
            raise ValueError(
                f"world {folder} is put together wrongly: {what} are {one} and {other}; restore it from a copy of the checkpoint"
            )
