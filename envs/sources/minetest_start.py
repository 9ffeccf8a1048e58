"""What it takes to start Minetest: its programs, a world and settings in a folder of their own, processes that die with their parent."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import tempfile
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

_MOD = Path(__file__).parent / "minetest_mod"
_GAMES = ("/usr/games", "/usr/local/games")  # where Debian has games, which PATH often lacks
_CLOCKS = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
_PACKAGES = "minetest minetest-data xvfb libgl1-mesa-dri libfaketime"
DEGREES_A_PIXEL = 0.5  # by mouse_sensitivity below, and by fov: in a square window it makes 91 degrees
_SETTINGS = """
fixed_map_seed = {seed}
mg_name = v7
creative_mode = true
enable_damage = false
time_speed = 0
dedicated_server_step = 0.02
screen_w = {width}
screen_h = {width}
autosave_screensize = false
fps_max = 300
fps_max_unfocused = 300
pause_on_lost_focus = false
viewing_range = {view}
fov = 72
mouse_sensitivity = 0.3565
enable_sound = false
enable_shaders = false
enable_clouds = false
enable_particles = false
view_bobbing_amount = 0
fall_bobbing_amount = 0
arm_inertia = false
node_highlighting = none
hud_scaling = 0.2
font_size = 5
show_debug = false
menu_clouds = false
server_map_save_interval = 3600
max_block_send_distance = {blocks}
max_block_generate_distance = {blocks}
active_object_send_range_blocks = 2
active_block_range = 1
num_emerge_threads = 1
debug_log_level = error
chat_log_level = none
"""


@dataclass(frozen=True)
class Programs:
    """Paths of what is run.

    Attributes:
        game: Minetest.
        screen: Xvfb.
        clock: libfaketime's library for programs with threads.
    """

    game: str
    screen: str
    clock: str


def find_programs() -> Programs:
    """Find what is run.

    Raises:
        ValueError: Something is not installed.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), *_GAMES])
    game, screen = shutil.which("minetest", path=path), shutil.which("Xvfb", path=path)
    clock = next((str(file) for root in _CLOCKS for file in sorted(Path(root).glob("**/faketime/libfaketimeMT.so.1"))), None)
    missing = [name for name, found in (("Minetest", game), ("Xvfb", screen), ("libfaketime", clock)) if found is None]
    if game is None or screen is None or clock is None:
        raise ValueError(f"{' and '.join(missing)} not found: on Debian, run apt install --no-install-recommends {_PACKAGES}")
    try:
        importlib.import_module("Xlib")
    except ImportError as error:
        raise ValueError(f"python-xlib is not installed: run pip install 'worldsim-gym[minetest]' ({error})") from error
    return Programs(game, screen, clock)


class Clock:
    """The time that a process is told, which moves only when it is moved."""

    def __init__(self, file: Path, *, start: float) -> None:
        """Keep the time in ``file``, beginning ``start`` seconds after the year 2000 began."""
        self._file, self._now = file, datetime(2000, 1, 1, tzinfo=UTC).timestamp() + start
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        """Move it on."""
        self._now += seconds
        draft = self._file.with_suffix(".draft")
        draft.write_text(datetime.fromtimestamp(self._now, UTC).strftime("%Y-%m-%d %H:%M:%S.%f\n"), encoding="ascii")
        draft.replace(self._file)

    def settings(self, library: str) -> dict[str, str]:
        """Return environment variables that put a process under this clock."""
        told = {"FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1", "NO_FAKE_STAT": "1"}
        return {"LD_PRELOAD": library, "TZ": "UTC", **told}


class Processes:
    """A folder, and processes in it; gone with this object or with this process.

    Attributes:
        home: The folder.
    """

    def __init__(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="worldsim-minetest-")
        self.home = Path(folder.name)
        self._running: list[subprocess.Popen[bytes]] = []
        self._end = weakref.finalize(self, _end, self._running, folder)

    def start(self, command: list[str], settings: dict[str, str], keep: tuple[int, ...] = ()) -> int:
        """Start a program that, on Linux, dies with this process; return its number.

        Args:
            command: Program and arguments.
            settings: Environment variables beside this process's own.
            keep: File descriptors that it inherits.
        """
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with (self.home / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [*leash, *command],
                cwd=self.home,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=keep,
            )
        self._running.append(process)
        return process.pid

    def start_screen(self, program: str, *, width: int) -> str:
        """Start an X server on a free display and return its name.

        Raises:
            ValueError: It does not start.
        """
        read, write = os.pipe()
        size = f"{width}x{width}x24"
        self.start([program, "-displayfd", str(write), "-screen", "0", size, "-nolisten", "tcp", "-noreset"], {}, keep=(write,))
        os.close(write)
        with os.fdopen(read) as pipe:
            number = pipe.readline().strip()
        if not number:
            self.fail("Xvfb does not start")
        return f":{number}"

    def check(self) -> None:
        """Raise ValueError where one of them has ended."""
        if any(process.poll() is not None for process in self._running):
            self.fail("a process has ended")

    def fail(self, what: str) -> NoReturn:
        """End all and raise ValueError with what they said last."""
        said = []
        for name in ("output.txt", "log.txt"):
            with contextlib.suppress(OSError):
                said.append((self.home / name).read_text(encoding="utf-8", errors="replace")[-400:].strip())
        self.close()
        raise ValueError(f"Minetest: {what}; last words: {' | '.join(filter(None, said)) or 'none'}")

    def close(self) -> None:
        """End all and remove the folder."""
        self._end()


def _end(running: list[subprocess.Popen[bytes]], folder: tempfile.TemporaryDirectory[str]) -> None:
    for process in reversed(running):
        process.kill()
        process.wait()
    folder.cleanup()


def write_world(home: Path, *, seed: int, width: int, view: int) -> Path:
    """Write settings, a world and the mod below ``home``; return the world's folder."""
    settings = _SETTINGS.format(seed=seed, width=width, view=view, blocks=-(-view // 16))
    (home / "minetest.conf").write_text(settings, encoding="utf-8")
    world = home / "worlds" / "world"
    shutil.copytree(_MOD, world / "worldmods" / "worldsim")
    about = "gameid = minetest\nbackend = sqlite3\nplayer_backend = sqlite3\nauth_backend = sqlite3\nmod_storage_backend = sqlite3\n"
    (world / "world.mt").write_text(about, encoding="utf-8")
    return world
