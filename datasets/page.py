"""A dataset to look at: a contact sheet, a video, and one page with its episodes playable beside their curves."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console

from worldsim.datasets.bar import Bar
from worldsim.datasets.layout import DatasetError, canonical_json
from worldsim.datasets.page_parts import BODY, SCRIPT, STYLE
from worldsim.datasets.preview import contact_sheet, preview_video
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.storage import Root, place
from worldsim.episode import Episode
from worldsim.types import StoreInfo
from worldsim.video import write_video

_WIDE = 256  # pixels that a frame is enlarged to, at least


def main(cfg: DictConfig) -> None:
    """Draw a dataset by a composed ``configs/data_preview.yaml``; see there for the keys.

    Raises:
        ValueError: The folder is no dataset, ``out`` lies inside it, or an episode is damaged.
    """
    root, console = place(str(cfg["dataset"])), Console()
    beside = root.with_name(f"{root.name}.preview")
    out = Path(str(cfg["out"])) if cfg["out"] else beside if isinstance(beside, Path) else Path(beside.name)
    store = EpisodeReader(root)
    if isinstance(root, Path) and out.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"out={out} lies inside the dataset, whose manifest lists every file: choose a folder elsewhere")
    out.mkdir(parents=True, exist_ok=True)
    files = [contact_sheet(store, out / "contact_sheet.png"), preview_video(store, out / "preview.mp4")] if len(store) else []
    files.append(write_page(root, out, episodes=int(cfg["episodes"]), embed=bool(cfg["embed"]), console=console))
    if cfg["rerun"]:
        from worldsim.datasets.rerun_log import write_rerun

        files.append(write_rerun(store, Path(str(cfg["rerun"])), episodes=int(cfg["episodes"])))
    for file in files:
        console.print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)", soft_wrap=True, markup=False, highlight=False)


def write_page(root: Root | str, out: Path | str, *, episodes: int = 24, embed: bool = True, console: Console | None = None) -> Path:
    """Write ``index.html``: it needs no network and no other file, unless videos are to lie beside it.

    Rejected episodes are shown, too. Names and texts of the dataset appear as text, whatever they hold.

    Args:
        root: The dataset.
        out: Folder to write into.
        episodes: At most so many, spread over scenarios, policies and statuses.
        embed: Whether the videos are inside the page; otherwise they lie in ``videos/`` beside it.
        console: Where progress is shown; None shows nothing.

    Returns:
        The page.

    Raises:
        DatasetError: The dataset cannot be read, or there is no episode to show.
    """
    root, out = place(root), Path(out)
    records = [record for record in read_commits(root) if int(record["frames"]) > 0]
    if not records or episodes < 1:
        raise DatasetError(f"{root} has no episode to show" if not records else f"episodes={episodes} must be 1 or more")
    store = EpisodeReader(root)
    info = store.info
    store.records = _spread(records, episodes)
    (out / "videos").mkdir(parents=True, exist_ok=True)
    shown = []
    with Bar("drawing", len(store.records), console=console) as bar:
        for i, record in enumerate(store.records):
            episode = store[i]
            shown.append({**_describe(episode, record, info), "video": _video(episode, record, info, out, embed=embed)})
            bar.step()
    if embed:
        (out / "videos").rmdir()
    page = out / "index.html"
    page.write_text(page_html(info, shown, counts=_counts(records)), encoding="utf-8")
    return page


def page_html(info: StoreInfo, episodes: Sequence[Mapping[str, Any]], *, counts: str = "") -> str:
    """Return the page as one HTML text.

    Args:
        info: What the dataset says of itself.
        episodes: What the script shows of each, as ``write_page`` makes them.
        counts: How many episodes there are, in words.
    """
    height, width = info.frame_size
    facts = [counts, f"{width} × {height} pixels, {info.fps:g} frames a second", f"licence {info.licence}"]
    facts += [f"from {canonical_json(info.source)}", f"fingerprint {info.fingerprint[:16]}"]
    policy = (
        f"default-src 'none'; script-src '{_hash(SCRIPT)}'; style-src '{_hash(STYLE)}'; "
        "media-src data: file: 'self'; img-src data: file: 'self'"
    )
    return "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{html.escape(info.name)}</title>\n<style>{STYLE}</style></head>\n<body><header><h1>{html.escape(info.name)}</h1>\n",
            *(f'<div class="facts">{html.escape(fact)}</div>\n' for fact in facts if fact),
            f"</header>{BODY}",
            f'<script type="application/json" id="data">{_json({"fps": info.fps, "episodes": list(episodes)})}</script>\n',
            f"<script>{SCRIPT}</script>\n</body></html>\n",
        ]
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(value: Any) -> str:
    """Write JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _counts(records: Sequence[Mapping[str, Any]]) -> str:
    statuses = [str(record["status"]) for record in records]
    frames = sum(int(record["frames"]) for record in records)
    return ", ".join([f"{len(records)} episodes", f"{frames:,} frames", *(f"{statuses.count(s)} {s}" for s in sorted(set(statuses)))])


def _spread(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Pick records over scenarios, policies and statuses in turn, evenly within each; in the plan's order."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(str(record[key]) for key in ("scenario", "policy", "status")), []).append(record)
    shares = [0] * len(groups)
    own = list(groups.values())
    while sum(shares) < min(count, len(records)):
        for i, group in enumerate(own):
            if shares[i] < len(group) and sum(shares) < count:
                shares[i] += 1
    picked = [group[int(i)] for group, share in zip(own, shares, strict=True) for i in np.linspace(0, len(group) - 1, share).round()]
    return sorted(picked, key=lambda record: int(record["episode"]))


def _describe(episode: Episode, record: Mapping[str, Any], info: StoreInfo) -> dict[str, Any]:
    told = record["conditioning"]
    numbers = [f"{name} {value:.4g}" for name, value in told["numbers"].items()]
    ended = "terminated" if episode.terminated[-1:].any() else "truncated" if episode.truncated[-1:].any() else ""
    return {
        **{key: record[key] for key in ("episode", "scenario", "policy", "status", "reason", "seed", "length")},
        "return": _number(float(record["return"])),
        "ended": ended,
        "told": " · ".join(part for part in (told["text"], ", ".join(told["tags"]), ", ".join(numbers)) if part),
        "signals": [
            *_signals("action", [f"action {i}" for i in range(episode.actions.shape[1])], episode.actions),
            *_signals("reward", ["reward"], episode.rewards[:, None]),
            *_signals("state", info.state_names, episode.state),
        ],
    }


def _signals(kind: str, names: Sequence[str], values: NDArray[Any]) -> list[dict[str, Any]]:
    return [{"kind": kind, "name": name, "values": [_number(x) for x in values[:, i].tolist()]} for i, name in enumerate(names)]


def _number(value: float) -> float | int | None:
    """Return a number as JSON has it, to five digits."""
    if isinstance(value, int):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _video(episode: Episode, record: Mapping[str, Any], info: StoreInfo, out: Path, *, embed: bool) -> str:
    """Write an episode as a video; return its address, which with ``embed`` is the video itself."""
    scale = max(1, -(-_WIDE // episode.frames.shape[2]))
    frames = (frame.repeat(scale, axis=0).repeat(scale, axis=1) for frame in episode.frames)
    file = write_video(frames, out / "videos" / f"{int(record['episode']):06d}.mp4", info.fps)
    if not embed:
        return f"videos/{file.name}"
    data = base64.b64encode(file.read_bytes()).decode()
    file.unlink()
    return f"data:{'image/gif' if file.suffix == '.gif' else 'video/mp4'};base64,{data}"
