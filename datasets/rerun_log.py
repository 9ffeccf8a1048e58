"""Episodes as a recording for the rerun viewer (https://rerun.io); needs the extra ``rerun``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldsim.datasets.layout import DatasetError
from worldsim.datasets.optional import need
from worldsim.datasets.preview import pick_episodes
from worldsim.episode import Episode
from worldsim.types import EpisodeStore, StoreInfo


def write_rerun(store: EpisodeStore, path: Path | str, *, episodes: int = 24) -> Path:
    """Write frames, actions, rewards and state on the timelines ``frame`` and ``time``, one entity tree an episode.

    Open it by ``rerun FILE.rrd``.

    Args:
        store: At least one episode.
        path: ``.rrd`` file to write.
        episodes: At most so many, spread over the store.

    Returns:
        The file.

    Raises:
        ValueError: ``rerun-sdk`` is not installed, or ``path`` does not end in ``.rrd``.
    """
    path = Path(path)
    if path.suffix != ".rrd":
        raise DatasetError(f"rerun={path} must end in .rrd, the rerun viewer's format")
    rerun = need("rerun", "rerun")
    path.parent.mkdir(parents=True, exist_ok=True)
    with rerun.RecordingStream("worldsim", recording_id=store.info.fingerprint) as stream:
        stream.save(str(path))
        for i in pick_episodes(store, episodes):
            _log(rerun, stream, f"episode_{i:06d}", store[i], store.info)
        stream.flush()
    return path


def _log(rerun: Any, stream: Any, entity: str, episode: Episode, info: StoreInfo) -> None:
    told = f"scenario: {episode.scenario}\npolicy: {episode.policy}\nseed: {episode.seed}\n{episode.conditioning.text}"
    stream.log(f"{entity}/about", rerun.TextDocument(told), static=True)
    for t in range(len(episode) + 1):
        stream.set_time("frame", sequence=t)
        stream.set_time("time", duration=t / info.fps)
        stream.log(f"{entity}/frame", rerun.Image(episode.frames[t]))
        for name, value in zip(info.state_names, episode.state[t].tolist(), strict=True):
            stream.log([entity, "state", name], rerun.Scalars(value))
        if t < len(episode):
            stream.log(f"{entity}/reward", rerun.Scalars(float(episode.rewards[t])))
            for a, value in enumerate(episode.actions[t].tolist()):
                stream.log(f"{entity}/action/{a}", rerun.Scalars(float(value)))
