"""A game of Minetest with a world of its own, whose time stands still between steps."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.sources.minetest_screen import Screen
from worldsim.envs.sources.minetest_start import DEGREES_A_PIXEL, Clock, Processes, find_programs, write_world

_TICK = 1 / 30  # seconds of game time by which the clock is moved on
_LAST = 0.002  # seconds of game time for the server to tell what it has heard of the client
_STALLED = 60.0  # real seconds without a frame or a server's step that are too many
_PATIENCE = 300.0  # real seconds for a start, or for the ground of an episode


@dataclass(frozen=True)
class Told:
    """What the server says of the player.

    Attributes:
        tick: Number of the server's step.
        ready: Number of the episode whose ground is there.
        place: x (east), y (up) and z (north) [nodes].
        yaw: Heading [rad], from north to the left.
        pitch: Looking down [rad].
        speed: Velocity [nodes/s] along x, y and z.
        biome: Name of the biome that the episode began in.
    """

    tick: int
    ready: int
    place: tuple[float, float, float]
    yaw: float
    pitch: float
    speed: tuple[float, float, float]
    biome: str


class Client:
    """One game on an X server of its own, under a clock of its own: it goes on only while ``advance`` runs."""

    def __init__(self, *, width: int, world_seed: int, view: int) -> None:
        """Start the game; returns once the player is in its world.

        Args:
            width: Width and height of the window [pixels].
            world_seed: Settles the world.
            view: How far one sees [nodes].

        Raises:
            ValueError: Something is not installed, or the game does not start.
        """
        programs = find_programs()
        self._view, self._orders, self._line = view, 0, b""
        self._rest = (0.0, 0.0)  # of a pixel, that turns still owe
        self._processes = Processes()
        home = self._processes.home
        world = write_world(home, seed=world_seed, width=width, view=view)
        self._asked = world / "asked.txt"
        self._clock = Clock(home / "clock.txt", start=float(secrets.randbelow(10**9)))  # the game draws its port by the second
        display = self._processes.start_screen(programs.screen, width=width)
        settings = {"DISPLAY": display, "HOME": str(home), "MINETEST_USER_PATH": str(home), "LIBGL_ALWAYS_SOFTWARE": "1"}
        settings |= {"LP_NUM_THREADS": "1", **self._clock.settings(programs.clock)}
        options = ["--go", "--world", str(world), "--gameid", "minetest", "--config", str(home / "minetest.conf")]
        game = self._processes.start([programs.game, *options, "--logfile", str(home / "log.txt")], settings)
        self._screen = Screen(display, width=width)
        try:
            self._reader = self._join(world / "told.txt")
        except BaseException:
            self._screen.close()
            self._processes.close()
            raise
        self._threads = _Threads(game)
        self._screen.watch()

    def begin(self, *, seed: int, time_of_day: float, heading: float) -> Told:
        """Put the player to the place that ``seed`` settles, and wait until the ground is there and drawn.

        Raises:
            ValueError: It takes too long.
        """
        self._screen.hold(())
        self._orders += 1
        draft = self._asked.with_suffix(".draft")
        draft.write_text(f"{self._orders} {seed} {time_of_day:.5f} {heading:.5f} {self._view + 8}\n", encoding="ascii")
        draft.replace(self._asked)
        limit = time.monotonic() + _PATIENCE
        while self.told().ready != self._orders:
            self._run_free(limit, "the ground of an episode does not get ready")
        self._settle(limit)
        self._rest = (0.0, 0.0)
        return self.told()

    def hold(self, keys: Iterable[str]) -> None:
        """Hold down these keys, and let the others go."""
        self._screen.hold(keys)

    def turn(self, right: float, up: float) -> None:
        """Turn by degrees, to whole pixels of the mouse; what is left over goes into the next turn."""
        wanted = (right / DEGREES_A_PIXEL + self._rest[0], -up / DEGREES_A_PIXEL + self._rest[1])
        pixels = (round(wanted[0]), round(wanted[1]))
        self._rest = (wanted[0] - pixels[0], wanted[1] - pixels[1])
        if any(pixels):
            self._screen.move(*pixels)

    def advance(self, seconds: float) -> None:
        """Let the game go on for ``seconds`` of its time, and wait until its last frame is drawn.

        The clock moves in parts of about 1/30 s; each waits for a step of the server, which comes with a step of the client. The
        client tells the server where it is, and so after messages have come in, a last small part makes the server tell. A frame that
        is drawn before that part may come after it, so two are waited for: the second shows all that was pressed and all that passed.

        Raises:
            ValueError: The game has ended or hangs.
        """
        parts = max(1, round(seconds / _TICK))
        for _ in range(1, parts):
            self._move(seconds / parts)
        self._move(seconds / parts - _LAST, frames=1)
        self._threads.wait(time.monotonic() + _STALLED)
        self._move(_LAST, frames=2)

    def grab(self) -> NDArray[np.uint8]:
        """Return what the screen shows, ``(width, width, 3)`` uint8."""
        return self._screen.grab()

    def told(self) -> Told:
        """Return what the server told last."""
        *whole, rest = (self._line + self._reader.read()).split(b"\n")
        self._line = whole[-1] + b"\n" + rest
        words = whole[-1].split()
        x, y, z, yaw, pitch, east, up, north = (float(word) for word in words[2:10])
        return Told(int(words[0]), int(words[1]), (x, y, z), yaw, pitch, (east, up, north), words[10].decode())

    def close(self) -> None:
        """End the game and its X server, and remove their folder."""
        self._reader.close()
        self._screen.close()
        self._processes.close()

    def _join(self, told: Path) -> IO[bytes]:
        """Wait for the first line that the server tells."""
        limit = time.monotonic() + _PATIENCE
        while not told.exists() or b"\n" not in told.read_bytes():
            self._run_free(limit, "the game does not start")
        return told.open("rb")

    def _run_free(self, limit: float, what: str) -> None:
        """Let time pass as it does."""
        self._processes.check()
        if time.monotonic() > limit:
            self._processes.fail(what)
        self._clock.advance(0.03)
        time.sleep(0.03)

    def _move(self, seconds: float, *, frames: int = 0) -> None:
        """Move the clock, and wait for a step of the server and for frames after it."""
        tick = self.told().tick
        self._clock.advance(seconds)
        limit = time.monotonic() + _STALLED
        while self.told().tick <= tick:
            self._pause(limit)
        drawn = self._screen.drawn() + frames
        while self._screen.drawn() < drawn:
            self._pause(limit)

    def _pause(self, limit: float) -> None:
        self._processes.check()
        if time.monotonic() > limit:
            self._processes.fail(f"no frame, or no step of the server, for {_STALLED:.0f} s")
        time.sleep(0.001)

    def _settle(self, limit: float) -> None:
        """Wait until the picture stands still, since ground is sent and drawn bit by bit, and the sky fades in."""
        last, calm, steps = self.grab(), 0, 0
        while calm < 4 or steps < 15:
            self._run_free(limit, "the picture does not come to rest")
            self._move(0.1, frames=1)
            now = self.grab()
            moving = float(np.mean(np.abs(now.astype(np.int16) - last) > 6)) > 0.005
            last, calm, steps = now, 0 if moving else calm + 1, steps + 1


class _Threads:
    """The game's threads that carry messages; they spin where time stands still, as their waits have ended by the clock."""

    def __init__(self, process: int) -> None:
        tasks = [task for task in Path(f"/proc/{process}/task").glob("*") if _named(task, "ConnectionSend", "Server")]
        self._running = [task / "schedstat" for task in tasks]
        for task in tasks:
            if _named(task, "ConnectionSend"):
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, int(task.name), min(19, os.getpriority(os.PRIO_PROCESS, process) + 5))

    def wait(self, limit: float) -> None:
        """Wait until each has run a while, so that what was sent has come in."""
        before = [_run_for(file) for file in self._running]
        for file, earlier in zip(self._running, before, strict=True):
            while _run_for(file) == earlier and time.monotonic() < limit:
                time.sleep(0.0005)


def _named(task: Path, *names: str) -> bool:
    with contextlib.suppress(OSError):
        return (task / "comm").read_text(encoding="utf-8").startswith(names)
    return False


def _run_for(file: Path) -> int:
    """Return the nanoseconds that a thread has run."""
    with contextlib.suppress(OSError):
        return int(file.read_text(encoding="ascii").split()[0])
    return -1
