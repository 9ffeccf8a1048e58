"""How an episode starts: from reset options to a start context, alike in the single and the batched environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from worldsim.contexts import Context
from worldsim.engine import World
from worldsim.envs.actions import action_row
from worldsim.envs.snapshot import WorldSnapshot, as_snapshot
from worldsim.episode import Conditioning
from worldsim.spaces import is_integer, row_size
from worldsim.starter import sample_starts
from worldsim.targets import instantiate_allowed, suggest
from worldsim.types import EpisodeStore, Frames

GENERATE = "generate"
_FRAMES_KEYS = ("frames", "actions", "state", "resize")
_DATASET_KEYS = ("dataset", "episode", "start", "resize")


@dataclass(frozen=True)
class Start:
    """Where one row begins.

    Attributes:
        context: What it has seen; None where it goes on from a snapshot.
        seed: What its noise is drawn from.
        snapshot: One row of a stored state to go on from.
        told: What the world is told.
        name: What it is called.
    """

    context: Context | None
    seed: int
    snapshot: WorldSnapshot | None = None
    told: Conditioning | None = None
    name: str = ""


class Starts:
    """Draws the starts of one world.

    ``context`` is one of

    - an index into the contexts that ship with the world;
    - ``{"frames": ..., "actions": ..., "state": ...}``: frames ``(F, H, W, 3)`` or ``(H, W, 3)`` uint8, or the path of an image file, the
      F - 1 actions between them, and the labelled state ``(S,)`` of the last where it is known;
    - ``{"dataset": path, "episode": i, "start": t}``: frames ``t`` and on of episode ``i``; what is left out is drawn;
    - ``{"snapshot": path}``: a stored state, the bytes of ``clone_state().to_bytes()``; one of its rows is drawn. The world goes on
      from there with the row's own noise, in an episode of its own;
    - ``"generate"``: first frames that the world makes from the conditioning alone.

    With ``"resize": True`` frames of another size are cut to the world's shape around their middle and scaled.
    ``conditioning`` is ``{"tags": [...], "numbers": {...}, "text": ...}`` and takes the place of the context's own.

    Args:
        world: The world.
        context: Used where the options of a reset name none; None draws one of the world's own.
        conditioning: Likewise; None leaves the context's own.

    Raises:
        ValueError: ``context`` or ``conditioning`` is not of that form.
    """

    def __init__(self, world: World, *, context: Any = None, conditioning: Mapping[str, Any] | None = None) -> None:
        self.world, self.spec = world, world.spec
        self._defaults = {"context": context, "conditioning": conditioning}
        self._stores: dict[str, EpisodeStore] = {}
        self._snapshots: dict[str, WorldSnapshot] = {}

    def draw(self, options: Mapping[str, Any] | None, generator: np.random.Generator) -> Start:
        """Return a start; the noise seed is drawn first, so that it does not depend on what the options say.

        Args:
            options: ``{"context": ..., "conditioning": ...}``, both optional.
            generator: What is not named is drawn from it.

        Raises:
            ValueError: An option is unknown, or what it names is not there or does not fit the world.
        """
        given = {**self._defaults, **(options or {})}
        _only(given, tuple(self._defaults), "reset option")
        seed = int(generator.integers(2**62))
        told = None if given["conditioning"] is None else as_conditioning(given["conditioning"])
        if isinstance(given["context"], str) and given["context"] == GENERATE:
            return _start(self._generated(told or Conditioning(), seed), seed)
        if isinstance(given["context"], Mapping) and "snapshot" in given["context"]:
            _only(given["context"], ("snapshot",), "key of context")
            path = str(given["context"]["snapshot"])
            snapshot = self._snapshot(path)
            if told is not None:
                self.spec.vocabulary.features(told)
            row = int(generator.integers(len(snapshot)))
            return Start(None, seed, snapshot.take(row), told, path)
        context = self._context(given["context"], generator)
        if told is not None:
            context = replace(context, conditioning=told)
        self.spec.vocabulary.features(context.conditioning)
        return _start(context, seed)

    def _context(self, given: Any, generator: np.random.Generator) -> Context:
        if given is None:
            return self._shipped(generator)
        if isinstance(given, int | np.integer) and not isinstance(given, bool):
            return self.world.contexts[int(given)]
        if isinstance(given, Mapping) and "dataset" in given:
            _only(given, _DATASET_KEYS, "key of context")
            return self._recorded(given, generator)
        if isinstance(given, Mapping) and "frames" in given:
            _only(given, _FRAMES_KEYS, "key of context")
            return self._given(given)
        raise ValueError(
            f"context {given!r} is no start: give the index of one of the world's own, {{'frames': array or image file}}, "
            "{'dataset': path, 'episode': 0, 'start': 0}, {'snapshot': path}, or 'generate'"
        )

    def _generated(self, told: Conditioning, seed: int) -> Context:
        if self.world.starter is None:
            raise ValueError(
                f"world {self.spec.name!r} cannot generate starts: give another context, or teach it by 'worldsim train starter'"
            )
        network, tokenizer = self.world.starter, self.world.tokenizer
        return sample_starts(network, tokenizer, self.spec, [told], [seed])[0]

    def _snapshot(self, path: str) -> WorldSnapshot:
        if path not in self._snapshots:
            try:
                data = Path(path).read_bytes()
            except OSError as error:
                raise ValueError(
                    f"snapshot {path} cannot be read: {error.strerror or error}; write it by clone_state().to_bytes()"
                ) from error
            self._snapshots[path] = as_snapshot(data, self.world)
        return self._snapshots[path]

    def _shipped(self, generator: np.random.Generator) -> Context:
        if not len(self.world.contexts):
            raise ValueError(f"world {self.spec.name!r} ships no start contexts: give options={{'context': {{'frames': 'image.png'}}}}")
        return self.world.contexts[int(generator.integers(len(self.world.contexts)))]

    def _given(self, given: Mapping[str, Any]) -> Context:
        source = given["frames"]
        frames = _read_image(Path(source)) if isinstance(source, str | Path) else np.array(source)
        frames = frames[None] if frames.ndim == 3 else frames
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"context frames are {frames.dtype} of shape {frames.shape}: give uint8 of (F, H, W, 3) or (H, W, 3)")
        name = str(source) if isinstance(source, str | Path) else "given frames"
        rows = self._rows(given.get("actions"), len(frames))
        return Context(self._fitted(frames, given, name), rows, name=name, state=_state(given.get("state")))

    def _rows(self, actions: Any, frames: int) -> NDArray[Any]:
        space = self.spec.action_space
        given: Sequence[Any] = [] if actions is None else list(actions)
        if len(given) != frames - 1:
            raise ValueError(f"context has {frames} frames and {len(given)} actions: give one action between two frames, or a single frame")
        rows = [action_row(space, action) for action in given]
        return np.stack(rows) if rows else np.zeros((0, row_size(space)), np.int64 if is_integer(space) else np.float32)

    def _recorded(self, given: Mapping[str, Any], generator: np.random.Generator) -> Context:
        path = str(given["dataset"])
        store = self._store(path)
        index = _index(given.get("episode"), len(store), generator, f"episode of {path}")
        episode, count = store[index], self.spec.context_frames
        start = _index(given.get("start"), len(episode.frames) - count + 1, generator, f"start in episode {index} of {path}")
        name = f"{path}, episode {index}, frame {start}"
        frames = self._fitted(episode.frames[start : start + count], given, name)
        same = tuple(store.info.state_names) == tuple(self.spec.state_names)
        state = episode.state[start + count - 1] if same else None
        return Context(frames, episode.actions[start : start + count - 1], episode.conditioning, name, state)

    def _store(self, path: str) -> EpisodeStore:
        if path not in self._stores:
            store: EpisodeStore = instantiate_allowed({"_target_": "worldsim.datasets.reader.EpisodeReader", "path": path})
            if store.info.action_space != self.spec.action_space:
                raise ValueError(
                    f"dataset {path} has actions of {store.info.action_space}, world {self.spec.name!r} takes {self.spec.action_space}: "
                    "use a dataset of the simulator that the world was learned from"
                )
            self._stores[path] = store
        return self._stores[path]

    def _fitted(self, frames: Frames, given: Mapping[str, Any], name: str) -> Frames:
        (height, width), (rows, columns) = self.spec.frame_size, frames.shape[1:3]
        if (rows, columns) == (height, width):
            return frames
        if not given.get("resize"):
            raise ValueError(
                f"context {name} has frames of {rows}x{columns}, world {self.spec.name!r} makes {height}x{width}: "
                "resize them, or add 'resize': True to the context"
            )
        return np.stack([np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height), Image.Resampling.LANCZOS)) for frame in frames])


def _start(context: Context, seed: int) -> Start:
    return Start(context, seed, told=context.conditioning, name=context.name)


def _state(given: Any) -> NDArray[np.float32] | None:
    try:
        state = None if given is None else np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"context state {given!r} must be a list of numbers, one for each name of the labelled state") from error
    if state is not None and not np.isfinite(state).all():
        raise ValueError(f"context state {given!r} must be finite")
    return state


def _read_image(path: Path) -> Frames:
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"context image {path} cannot be read ({error}): give a PNG or JPEG file") from error


def _index(given: Any, count: int, generator: np.random.Generator, what: str) -> int:
    if count < 1:
        raise ValueError(f"there is no {what}: the context that the world needs is longer; take another")
    if given is None:
        return int(generator.integers(count))
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 0 <= given < count:
        raise ValueError(f"{what} is {given!r}: it must be a whole number in 0..{count - 1}")
    return int(given)


def as_conditioning(given: Any) -> Conditioning:
    """Return a ``Conditioning``, or a mapping of its parts, as a ``Conditioning``.

    Raises:
        ValueError: It is neither, or has parts of other kinds.
    """
    if isinstance(given, Conditioning):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"conditioning {given!r} must be a mapping {{'tags': [...], 'numbers': {{...}}, 'text': '...'}}")
    _only(given, ("tags", "numbers", "text"), "key of conditioning")
    tags, numbers, text = given.get("tags", ()), given.get("numbers", {}), given.get("text", "")
    if isinstance(tags, str) or not isinstance(numbers, Mapping) or not isinstance(text, str):
        raise ValueError(f"conditioning {dict(given)!r} must have a list of tags, a mapping of numbers and a text")
    return Conditioning(tuple(map(str, tags)), {str(name): float(value) for name, value in numbers.items()}, text)


def _only(given: Mapping[str, Any], allowed: Sequence[str], what: str) -> None:
    for key in given:
        if key not in allowed:
            raise ValueError(f"{what} {key!r} is unknown: {suggest(str(key), allowed)}")
