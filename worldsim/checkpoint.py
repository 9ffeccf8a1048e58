"""Worlds on disk: finding them by name, reading components in diffusers' folder style, and noticing damage."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldsim.changes import BASE, CHANGES, LEVELS, apply_changes, find_changes
from worldsim.files import save_tensors
from worldsim.spec import FILE

SHIPPED = Path(__file__).parent / "worlds"
WEIGHTS = "diffusion_pytorch_model.safetensors"
COMPONENTS = ("tokenizer", "dynamics", "heads")
OPTIONAL = ("uncertainty", "starter", "labels")

M = TypeVar("M", bound=ModelMixin)


def shipped_worlds() -> list[str]:
    """Return the names of the worlds in the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{FILE}"))


def resolve(name: str | Path) -> Path:
    """Return the folder of a world: a shipped one, else a local folder, else a Hub repository's snapshot.

    Raises:
        ValueError: There is no such world.
    """
    if str(name) in shipped_worlds():
        return SHIPPED / str(name)
    folder = Path(name)
    if folder.is_dir():
        return folder
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    close = difflib.get_close_matches(str(name), shipped_worlds(), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"shipped worlds are {shipped_worlds()}"
    raise ValueError(f"world {str(name)!r} is neither shipped nor a folder nor a Hub repository (owner/name): {hint}")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        raise ValueError(f"world {name!r} is no local folder and could not be fetched from the Hub: {error}") from error


def read_files(folder: Path) -> list[Path]:
    """Return the files that make up a world, sorted.

    Raises:
        ValueError: One is missing, or the folder is no world at all.
    """
    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} is no world: it has no {FILE}; train one with 'worldsim train dynamics' or use a shipped name")
    parts = [*COMPONENTS, *(part for part in OPTIONAL if (folder / part).is_dir())]
    files = [folder / FILE, *(folder / part / file for part in parts for file in ("config.json", *_weight_files(folder / part)))]
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"world {folder} is incomplete: {file.relative_to(folder)} is missing; restore it from a copy of the checkpoint"
            )
    return sorted([*files, *folder.glob("contexts.safetensors")])


def _weight_files(part: Path) -> tuple[str, ...]:
    """Return the names of the files that hold a component's weights: one, or older ones and what has changed since."""
    changed = (part / CHANGES).is_file() and not (part / WEIGHTS).is_file()
    return (BASE, CHANGES) if changed else (WEIGHTS,)


def content_hash(folder: Path) -> str:
    """Return the sha256 over the files of a world."""
    digest = hashlib.sha256()
    for file in read_files(folder):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def save_component(module: ModelMixin, folder: Path) -> None:
    """Write ``config.json`` and the weights, floating-point ones as float16, which costs no quality that can be measured.

    Raises:
        ValueError: The disk is full or refuses.
    """
    module.save_config(folder)
    half = {name: value.half() if value.dtype == torch.float32 else value for name, value in module.state_dict().items()}
    save_tensors(half, folder / WEIGHTS, metadata={"format": "pt"})
    for old in (CHANGES, BASE):
        (folder / old).unlink(missing_ok=True)


def save_changes(module: ModelMixin, folder: Path, *, levels: int = LEVELS) -> None:
    """Store a component as what it changed of the weights that are in ``folder``, which stay: see ``worldsim.changes``.

    Args:
        module: The component as it is now.
        folder: That of an older state of it, whole or stored in this way; older changes are replaced.
        levels: See ``worldsim.changes.find_changes``.

    Raises:
        ValueError: There are no older weights, they are damaged, or the disk is full or refuses.
    """
    kept = BASE if _weight_files(folder) == (BASE, CHANGES) else WEIGHTS
    changes = find_changes(module.state_dict(), _read_tensors(folder / kept), levels=levels)
    save_tensors(changes, folder / CHANGES, metadata={"format": "pt"})
    (folder / kept).replace(folder / BASE)
    module.save_config(folder)


def load_component(kind: type[M], folder: Path) -> M:
    """Build a component from its ``config.json`` and fill in its weights as float32.

    Raises:
        ValueError: The configuration is damaged, or the weights are truncated or altered, or do not fit the configuration.
    """
    config = folder / "config.json"
    try:
        build: Any = kind  # diffusers' ConfigMixin beside ModelMixin
        module: M = build.from_config(json.loads(config.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{config} is no valid JSON ({error}): restore it from a copy of the checkpoint") from error
    except TypeError as error:
        raise ValueError(f"{config} is damaged ({error}): restore it from a copy of the checkpoint") from error
    *base, name = _weight_files(folder)
    file, tensors = folder / name, _read_tensors(folder / name)
    if base:
        try:
            tensors = apply_changes(tensors, _read_tensors(folder / base[0]))
        except ValueError as error:
            raise ValueError(f"weights {file} are damaged ({error}): restore both from one copy of the checkpoint") from error
    tensors = {name: value.float() if value.dtype == torch.float16 else value for name, value in tensors.items()}
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(
                f"weights {file} are altered: {name} has values that are not finite; restore the file from a copy of the checkpoint"
            )
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"weights {file} do not fit {config} ({error}): restore both from one copy of the checkpoint") from error
    return module


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights {file} are truncated or damaged ({error}): restore the file from a copy of the checkpoint") from error
