"""The Minetest source: exact steps under a clock of its own; skipped where Minetest, Xvfb, libfaketime or python-xlib is missing."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from children import gone

import worldsim  # noqa: F401  (registers the source)
from worldsim import spaces
from worldsim.envs.sources import minetest_start
from worldsim.envs.sources.minetest import MinetestSource
from worldsim.envs.sources.minetest_screen import KEYS
from worldsim.envs.sources.minetest_start import Clock, Processes, find_programs, write_world


def _found() -> bool:
    try:
        find_programs()
    except ValueError:
        return False
    return True


needs_minetest = pytest.mark.skipif(not _found(), reason="Minetest, Xvfb, libfaketime or python-xlib is not installed")


def act(*keys: str, right: float = 0.0, up: float = 0.0) -> dict[str, Any]:
    return {"keys": np.array([name in keys for name in KEYS], np.int8), "look": np.array([right, up], np.float32)}


def heading(state: dict[str, float]) -> float:
    return math.degrees(math.atan2(state["heading_sin"], state["heading_cos"]))


def difference(a: Any, b: Any) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.fixture(scope="module")
def env() -> Iterator[MinetestSource]:
    source = MinetestSource(places=1, view=24)
    source.reset(seed=0)
    for _ in range(20):  # ground that the first visit still makes
        source.step(act())
    yield source
    source.close()


@pytest.fixture
def start(env: MinetestSource) -> tuple[Any, dict[str, Any]]:
    return env.reset(seed=0)


# ---------------------------------------------------------------- with the game


@needs_minetest
def test_the_frame_after_a_look_shows_all_of_it_and_the_next_nothing_more(env: MinetestSource, start: Any) -> None:
    before, info = start
    at = heading(info["state"])
    for _ in range(5):
        turned, *_, info = env.step(act(right=1.0))
        assert (at - heading(info["state"])) % 360 == pytest.approx(env.turn, abs=0.6)
        later, *_, rest = env.step(act())
        assert heading(rest["state"]) == pytest.approx(heading(info["state"]), abs=0.05)
        assert difference(before, turned) > 5 * max(difference(turned, later), 0.1)
        before, at = later, heading(rest["state"])


@needs_minetest
def test_looks_there_and_back_cancel_out(env: MinetestSource, start: Any) -> None:
    frame, info = start
    for right in (0.61, 0.61, 0.61, -0.61, -0.61, -0.61):
        shown, *_, after = env.step(act(right=right, up=right / 2))
    assert heading(after["state"]) == pytest.approx(heading(info["state"]), abs=0.6)
    assert after["state"]["pitch"] == pytest.approx(info["state"]["pitch"], abs=0.01)
    assert difference(frame, shown) < 6


@needs_minetest
def test_steps_are_of_equal_length_whatever_the_machine_does(env: MinetestSource, start: Any) -> None:
    places = [(info["state"]["x"], info["state"]["y"]) for *_, info in (env.step(act("back")) for _ in range(8))]
    lengths = [math.dist(a, b) for a, b in itertools.pairwise(places[2:])]
    assert min(lengths) == pytest.approx(max(lengths), abs=0.06)
    assert lengths[0] == pytest.approx(0.39, abs=0.06)
    rest = [env.step(act())[4]["state"] for _ in range(5)]
    assert math.hypot(rest[-1]["x"] - rest[-2]["x"], rest[-1]["y"] - rest[-2]["y"]) < 0.02


@needs_minetest
def test_time_stands_still_between_steps(env: MinetestSource, start: Any) -> None:
    env.step(act("jump"))
    first = env.step(act())[4]["state"]["z"]
    time.sleep(0.5)
    assert env.step(act())[4]["state"]["z"] != pytest.approx(first, abs=0.01)  # still in the air
    assert env.step(act())[3] is False


@needs_minetest
def test_what_was_dug_is_back_at_the_next_episode(env: MinetestSource, start: Any) -> None:
    before = start[1]["state"]["z"]
    for _ in range(6):
        env.step(act(up=-1.0))
    for _ in range(24):
        env.step(act("dig"))
    below = env.step(act("dig"))[4]["state"]["z"]
    assert below < before - 0.5
    assert env.reset(seed=0)[1]["state"]["z"] == pytest.approx(before, abs=0.3)


@needs_minetest
def test_seeds_settle_heading_and_time(env: MinetestSource) -> None:
    told = []
    for seed in (3, 4, 3):
        _, info = env.reset(seed=seed)
        told.append((info["conditioning"]["numbers"]["time_of_day"], round(heading(info["state"]), 2)))
        assert info["conditioning"]["tags"][0].startswith("time:")
        assert info["conditioning"]["tags"][1].startswith("biome:")
        assert tuple(info["state"]) == env.state_names
    assert told[0] == told[2] != told[1]


@needs_minetest
def test_actions_outside_the_space_are_refused(env: MinetestSource) -> None:
    with pytest.raises(ValueError, match="look right and up"):
        env.step(act(right=2.0))


@needs_minetest
def test_everything_ends_with_a_killed_parent() -> None:
    code = (
        "import os, signal, subprocess\n"
        "from worldsim.envs.sources.minetest_start import Processes, find_programs\n"
        "processes = Processes(); print(processes.start_screen(find_programs().screen, width=64))\n"
        "print(processes._running[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL, done.stderr
    process = int(done.stdout.split()[1])
    assert gone([process]), "the X server outlives its parent"


@needs_minetest
def test_displays_are_one_each_and_folders_go() -> None:
    one, two = Processes(), Processes()
    program = find_programs().screen
    assert one.start_screen(program, width=64) != two.start_screen(program, width=64)
    home = one.home
    one.close()
    two.check()
    two.close()
    assert not home.exists()


@needs_minetest
def test_a_game_that_ends_is_one_sentence() -> None:
    processes = Processes()
    processes.start(["sh", "-c", "echo no such luck; exit 3"], {})
    time.sleep(0.3)
    with pytest.raises(ValueError, match="a process has ended; last words: no such luck"):
        processes.check()


@needs_minetest
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 8}, "size=8"),
        ({"fps": 60}, "fps=60"),
        ({"places": 0}, "places=0"),
        ({"view": 400}, "view=400"),
        ({"turn": 90}, "turn=90"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_keywords_out_of_range_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinetestSource(**keywords)


@needs_minetest
def test_actions_have_rows() -> None:
    source = gym.make("worldsim/Minetest-v0").unwrapped
    action = act("jump", "dig", right=0.5, up=-1)
    row = spaces.to_row(source.action_space, action)
    assert row.tolist() == [0, 0, 0, 0, 1, 1, 0, 0.5, -1]
    again = spaces.from_row(source.action_space, row)
    np.testing.assert_array_equal(again["keys"], action["keys"])
    with pytest.raises(gym.error.ResetNeeded):
        source.step(action)


# ---------------------------------------------------------------- without


def test_the_clock_goes_on_only_when_moved(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock.txt", start=86400.0)
    first = (tmp_path / "clock.txt").read_text()
    clock.advance(0.025)
    clock.advance(0.975)
    second = (tmp_path / "clock.txt").read_text()
    assert (first.strip(), second.strip()) == ("2000-01-02 00:00:00.000000", "2000-01-02 00:00:01.000000")
    assert clock.settings("lib.so")["LD_PRELOAD"] == "lib.so"


def test_a_world_has_the_mod_and_its_seed(tmp_path: Path) -> None:
    world = write_world(tmp_path, seed=7, width=128, view=40)
    assert "fixed_map_seed = 7" in (tmp_path / "minetest.conf").read_text()
    assert (world / "worldmods/worldsim/init.lua").exists()
    assert (world / "worldmods/worldsim/mod.conf").exists()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minetest_start, "_GAMES", ())
    monkeypatch.setattr(minetest_start, "_CLOCKS", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"Minetest and Xvfb and libfaketime not found: on Debian, run apt install .*minetest-data xvfb"):
        MinetestSource()
