"""The preview page: everything is in it, and nothing of the dataset is taken for markup."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from gymnasium import spaces

from worldsim.config import compose
from worldsim.datasets.page import main, page_html, write_page
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Conditioning, Episode

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def episode(steps: int, seed: int, **kwargs: Any) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        frames=np.full((steps + 1, 16, 16, 3), 40 * seed % 255, np.uint8),
        actions=rng.random((steps, 2)).astype(np.float32),
        rewards=np.arange(steps, dtype=np.float32),
        terminated=np.arange(steps) == steps - 1,
        truncated=np.zeros(steps, np.bool_),
        state=rng.random((steps + 1, 1)).astype(np.float32),
        **{"seed": seed, "scenario": "calm", "policy": "dice", **kwargs},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "toy"
    evil = episode(5, 1, scenario=EVIL, policy=EVIL, conditioning=Conditioning((EVIL,), {EVIL: 1.0}, EVIL))
    odd = replace(episode(4, 2), rewards=np.array([1, np.nan, np.inf, 0], np.float32), status="rejected", reason=EVIL)
    write_dataset(
        path,
        [episode(6, 0), evil, odd, *(episode(3, i) for i in range(3, 9))],
        name=EVIL,
        fps=10.0,
        action_space=spaces.Box(-1, 1, (2,), np.float32),
        state_names=(f"speed {EVIL}",),
        source={"id": EVIL},
        licence=EVIL,
    )
    return path


class Tags(HTMLParser):
    """Collects start tags, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts[-1] += data


def shown(page: Path) -> dict[str, Any]:
    found = json.loads(Tags(page.read_text(encoding="utf-8")).scripts[0])
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def page(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(root, tmp_path_factory.mktemp("out"))


def test_texts_of_the_dataset_stay_texts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert [tag for tag, _ in tags.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in tags.tags]
    assert "<script>alert" not in text
    assert html.escape(EVIL) in text
    evil = shown(page)["episodes"][1]
    assert (evil["scenario"], evil["policy"]) == (EVIL, EVIL)
    assert EVIL in evil["told"]
    assert "innerHTML" not in tags.scripts[1]
    assert not re.search(r"\beval\b|document\.write|insertAdjacent", tags.scripts[1])


def test_page_needs_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tags = Tags(text).tags
    policy = next(values["content"] for _, values in tags if values.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert not [values for _, values in tags if "src" in values or "href" in values]
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in text
    assert list(page.parent.iterdir()) == [page]


def test_episodes_are_all_there_with_their_curves(page: Path, root: Path) -> None:
    found = shown(page)
    assert [one["episode"] for one in found["episodes"]] == list(range(9))
    assert {one["status"] for one in found["episodes"]} == {"ok", "rejected"}
    first = found["episodes"][0]
    sizes = [(signal["kind"], len(signal["values"])) for signal in first["signals"]]
    assert sizes == [
        ("action", 6),
        ("action", 6),
        ("reward", 6),
        ("state", 7),
    ]
    np.testing.assert_allclose(first["signals"][0]["values"], EpisodeReader(root)[0].actions[:, 0], rtol=1e-4)
    assert first["signals"][2]["values"] == [0, 1, 2, 3, 4, 5]
    assert found["episodes"][2]["signals"][2]["values"] == [1, None, None, 0]
    assert found["fps"] == 10


def test_videos_are_inside_or_beside(page: Path, root: Path, tmp_path: Path) -> None:
    address = shown(page)["episodes"][0]["video"]
    (tmp_path / "one.mp4").write_bytes(base64.b64decode(address.removeprefix("data:video/mp4;base64,")))
    beside = shown(write_page(root, tmp_path, embed=False))["episodes"][0]["video"]
    assert beside == "videos/000000.mp4"
    for file in (tmp_path / "one.mp4", tmp_path / beside):
        with av.open(str(file)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert (len(frames), frames[0].shape) == (7, (256, 256, 3))


def test_few_episodes_are_spread_over_what_there_is(root: Path, tmp_path: Path) -> None:
    found = shown(write_page(root, tmp_path, episodes=3))["episodes"]
    assert len(found) == 3
    assert {(one["scenario"], one["status"]) for one in found} == {("calm", "ok"), (EVIL, "ok"), ("calm", "rejected")}
    with pytest.raises(ValueError, match="episodes=0 must be 1 or more"):
        write_page(root, tmp_path, episodes=0)


def test_same_dataset_same_page(root: Path, page: Path) -> None:
    info = EpisodeReader(root).info
    assert page_html(info, shown(page)["episodes"]) == page_html(info, shown(page)["episodes"])
    assert page_html(info, []) != page_html(replace(info, name="other"), [])


def test_command_writes_sheet_video_and_page(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(compose("data_preview", [f"dataset={root}", f"out={tmp_path / 'look'}", "episodes=2"], None))
    assert sorted(path.name for path in (tmp_path / "look").iterdir()) == ["contact_sheet.png", "index.html", "preview.mp4"]
    assert "index.html" in capsys.readouterr().out
    with pytest.raises(ValueError, match="lies inside the dataset"):
        main(compose("data_preview", [f"dataset={root}", f"out={root / 'look'}"], None))


def test_rerun_file(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    from worldsim.datasets.rerun_log import write_rerun

    file = write_rerun(EpisodeReader(root), tmp_path / "sub" / "look.rrd", episodes=2)
    assert file.read_bytes()[:3] == b"RRF"
    assert file.stat().st_size > write_rerun(EpisodeReader(root), tmp_path / "one.rrd", episodes=1).stat().st_size > 1000


def test_rerun_file_needs_its_ending_and_its_package(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worldsim.datasets.rerun_log import write_rerun

    with pytest.raises(ValueError, match=r"must end in \.rrd"):
        write_rerun(EpisodeReader(root), tmp_path / "look.mp4")
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(ValueError, match=r"worldsim-gym\[rerun\]"):
        write_rerun(EpisodeReader(root), tmp_path / "look.rrd")
