"""The Doom engine of ViZDoom, set up to be recorded: silent, unseen, in a folder of its own, dead when its parent is."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

TICS = 35  # of the engine, a second
SCENARIOS = (
    "my_way_home",
    "health_gathering_supreme",
    "health_gathering",
    "deadly_corridor",
    "defend_the_center",
    "defend_the_line",
    "take_cover",
    "basic",
)
_MAP = re.compile(r"(freedoom1:E[1-4]M[1-9]|freedoom2:MAP(0[1-9]|[12][0-9]|3[0-2]))")
_RESOLUTIONS = ((80, "RES_160X120"), (160, "RES_320X240"), (512, "RES_640X480"))  # largest frame, what is drawn for it
_VARIABLES = ("POSITION_X", "POSITION_Y", "ANGLE", "VELOCITY_X", "VELOCITY_Y", "HEALTH")
BUTTONS: Mapping[str, str] = MappingProxyType(
    {
        "forward": "MOVE_FORWARD",
        "back": "MOVE_BACKWARD",
        "left": "MOVE_LEFT",
        "right": "MOVE_RIGHT",
        "turn_left": "",
        "turn_right": "",
        "run": "SPEED",
        "jump": "JUMP",
        "attack": "ATTACK",
        "use": "USE",
    }
)
"""What the engine calls each button; turns are made by the mouse, by a fixed angle."""
MOUSE = ("TURN_LEFT_RIGHT_DELTA", "MOVE_FORWARD_BACKWARD_DELTA", "MOVE_LEFT_RIGHT_DELTA")
"""The engine's numbers that come first in every action: degrees a tic to the right, pushes forward and to the right (25 is walking)."""


def load_vizdoom() -> Any:
    """Import the package.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return importlib.import_module("vizdoom")
    except ImportError as error:
        raise ValueError(f"ViZDoom is not installed: run pip install 'worldsim-gym[doom]' ({error})") from error


def check_scenario(scenario: str) -> None:
    """Raise ValueError where ``scenario`` is neither one of ``SCENARIOS`` nor a Freedoom map."""
    if scenario not in SCENARIOS and not _MAP.fullmatch(scenario):
        known = ", ".join(SCENARIOS)
        raise ValueError(f"scenario={scenario!r} is unknown: use one of {known}, or a map as 'freedoom2:MAP01' or 'freedoom1:E1M1'")


class Engine:
    """One engine process, and the folder that it writes to.

    Attributes:
        game: The ``vizdoom.DoomGame``.
    """

    def __init__(self, scenario: str, *, size: int, buttons: tuple[str, ...], labels: bool) -> None:
        """Start it.

        Args:
            scenario: One of ``SCENARIOS``, or a map as ``freedoom2:MAP01``.
            size: Height of the frames [pixels] that are made of what it draws.
            buttons: Names of ``BUTTONS``.
            labels: Whether it tells what each pixel shows.

        Raises:
            ValueError: ViZDoom is not installed.
        """
        vzd = load_vizdoom()
        self._folder = tempfile.TemporaryDirectory(prefix="worldsim-vizdoom-")
        os.environ.setdefault("ALSOFT_DRIVERS", "null")
        game: Any = vzd.DoomGame()
        _load(vzd, game, scenario)
        game.set_vizdoom_path(str(_leash(Path(game.get_vizdoom_path() or Path(vzd.__file__).parent / "vizdoom"), Path(self._folder.name))))
        game.set_doom_config_path(str(Path(self._folder.name) / "engine.ini"))
        game.set_screen_resolution(getattr(vzd.ScreenResolution, next(name for most, name in _RESOLUTIONS if size <= most)))
        game.set_screen_format(vzd.ScreenFormat.RGB24)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_audio_buffer_enabled(False)
        game.add_game_args("-nosound")
        for what in ("hud", "weapon", "crosshair", "decals", "particles", "messages", "screen_flashes"):
            getattr(game, f"set_render_{what}")(False)
        game.set_labels_buffer_enabled(labels)
        game.set_mode(vzd.Mode.PLAYER)
        game.set_episode_timeout(0)
        pressed = [BUTTONS[name] for name in buttons if BUTTONS[name]]
        game.set_available_buttons([getattr(vzd.Button, name) for name in (*MOUSE, *pressed)])
        game.set_available_game_variables([getattr(vzd.GameVariable, name) for name in _VARIABLES])
        game.init()
        self.game = game
        self._end = weakref.finalize(self, _end, game, self._folder)

    def begin(self, seed: int) -> None:
        """Begin an episode that ``seed`` settles, with a field of view of 90 degrees in the square in the middle."""
        self.game.set_seed(seed)
        self.game.new_episode()
        self.game.advance_action(1)
        self.game.send_game_command("fov 106")  # across a width 4/3 of the height
        self.game.advance_action(6)  # the engine widens the view by 7 degrees a tic

    def close(self) -> None:
        """End the process and remove its folder."""
        self._end()


def _end(game: Any, folder: tempfile.TemporaryDirectory[str]) -> None:
    game.close()
    folder.cleanup()


def _load(vzd: Any, game: Any, scenario: str) -> None:
    """Load the scenario's own rewards, or a map with the reward 1 for each kill and each item and 100 for the exit."""
    here = Path(vzd.__file__).parent
    if scenario in SCENARIOS:
        game.load_config(str(here / "scenarios" / f"{scenario}.cfg"))
        return
    wad, name = scenario.split(":")
    game.set_doom_game_path(str(here / f"{wad}.wad"))
    game.set_doom_map(name)
    game.set_doom_skill(3)
    game.set_kill_reward(1)
    game.set_item_reward(1)
    game.set_map_exit_reward(100)
    game.set_death_penalty(10)


def _leash(engine: Path, folder: Path) -> Path:
    """Write a script that runs the engine in ``folder`` and, on Linux, has it die with its parent."""
    setpriv = shutil.which("setpriv")
    leash = "setpriv --pdeathsig KILL " if setpriv else ""
    script = folder / "engine.sh"
    script.write_text(f'#!/bin/sh\ncd {shlex.quote(str(folder))} && exec {leash}{shlex.quote(str(engine))} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    return script
