"""The X server that a game draws to: presses its keys, moves its mouse, counts and grabs its frames."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = ("forward", "back", "left", "right", "jump", "dig", "place")
_SYMBOLS = {"forward": "w", "back": "s", "left": "a", "right": "d", "jump": "space"}
_MOUSE_BUTTONS = {"dig": 1, "place": 3}


class Screen:
    """A connection to an X server whose one window is the game's."""

    def __init__(self, display: str, *, width: int) -> None:
        """Connect to ``display``, a name as ``:7``, whose screen is ``width`` pixels wide and high."""
        self._x: Any = importlib.import_module("Xlib.X")
        self._test: Any = importlib.import_module("Xlib.ext.xtest")
        self._damage: Any = importlib.import_module("Xlib.ext.damage")
        names: Any = importlib.import_module("Xlib.XK")
        self._display: Any = importlib.import_module("Xlib.display").Display(display)
        self._root = self._display.screen().root
        self._width = width
        self._codes = {name: self._display.keysym_to_keycode(names.string_to_keysym(symbol)) for name, symbol in _SYMBOLS.items()}
        self._held: set[str] = set()
        self._drawn = 0

    def watch(self) -> None:
        """Give the window the keyboard, and count from now on how often it is drawn."""
        for window in self._root.query_tree().children:
            window.set_input_focus(self._x.RevertToParent, self._x.CurrentTime)
        self._display.damage_query_version()
        self._root.damage_create(self._damage.DamageReportRawRectangles)
        self._display.sync()

    def drawn(self) -> int:
        """Return how often the window has been drawn."""
        for _ in range(self._display.pending_events()):
            self._drawn += type(self._display.next_event()).__name__ == "DamageNotify"
        return self._drawn

    def hold(self, keys: Iterable[str]) -> None:
        """Hold down the keys of these names out of ``KEYS``, and let the others go."""
        wanted = set(keys)
        for name in sorted(self._held - wanted):
            self._press(name, down=False)
        for name in sorted(wanted - self._held):
            self._press(name, down=True)
        self._held = wanted
        self._display.sync()

    def move(self, right: int, down: int) -> None:
        """Move the mouse by pixels."""
        self._test.fake_input(self._display, self._x.MotionNotify, 1, x=right, y=down)
        self._display.sync()

    def grab(self) -> NDArray[np.uint8]:
        """Return what is shown, ``(width, width, 3)`` uint8."""
        width = self._width
        raw = self._root.get_image(0, 0, width, width, self._x.ZPixmap, 0xFFFFFFFF).data
        pixels = np.frombuffer(raw, np.uint8).reshape(width, width, 4)  # blue, green, red, nothing
        return np.ascontiguousarray(pixels[..., 2::-1])

    def close(self) -> None:
        """End the connection."""
        self._display.close()

    def _press(self, name: str, *, down: bool) -> None:
        if name in _MOUSE_BUTTONS:
            event, detail = (self._x.ButtonPress if down else self._x.ButtonRelease), _MOUSE_BUTTONS[name]
        else:
            event, detail = (self._x.KeyPress if down else self._x.KeyRelease), self._codes[name]
        self._test.fake_input(self._display, event, detail)
