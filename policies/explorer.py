"""A walker for first-person worlds: keeps going, turns away from what stops it, and looks away and back on purpose."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldsim.policies.rows import Rows, stack
from worldsim.types import Actions, Frames, Observation

BUTTONS = ("forward", "back", "left", "right", "turn_left", "turn_right")
_STUCK = 2  # slow steps in a row after which it turns away; getting under way may be slow for one
_SAME_FRAME = 2.0  # mean difference of two frames, in 0..255, below which nothing moved


@dataclass(frozen=True)
class Move:
    """What is done in one step.

    Attributes:
        forward: 1 forward, -1 back.
        aside: 1 to the right, -1 to the left.
        turn: Turning to the right, in -1..1 of the strongest turn.
        tilt: Looking up, in -1..1.
        jump: Whether it jumps.
        dig: Whether it digs at what is in front.
        place: Whether it places something there.
    """

    forward: int = 0
    aside: int = 0
    turn: float = 0.0
    tilt: float = 0.0
    jump: bool = False
    dig: bool = False
    place: bool = False


class Explorer:
    """Walks about in stretches of some seconds, and gets itself out where it stops moving.

    Movement is read from the labelled state ``x`` and ``y`` where the world has both, in shares of the farthest step of the episode, and
    from the frames where not. Hardly moving for two steps on a walk, it turns away by half a circle or less, jumping where it can.
    In a share of the episodes it often stands, turns away by N steps, waits, and turns back by N: what a world has to remember.
    Episodes differ in liveliness; all is drawn from their seeds.
    """

    def __init__(
        self,
        action_space: Space[Any],
        *,
        buttons: Sequence[str] = BUTTONS,
        look_back: float = 0.5,
        half_circle: int = 18,
        hands: float = 0.0,
        still: float = 0.35,
    ) -> None:
        """Build the walker.

        Args:
            action_space: ``MultiBinary`` of ``buttons``; ``Box(3)``: forward, turn, sideways (right positive); or ``Dict`` of ``keys``,
                ``MultiBinary`` of ``buttons``, and ``look``, ``Box(2)``: right and up.
            buttons: What the numbers of ``MultiBinary`` hold down: the names of the default, and ``jump``, ``dig`` and ``place``. Others
                are never held.
            look_back: Share of the episodes in which it looks away and back.
            half_circle: Steps of the strongest turn that make 180 degrees.
            hands: How often a stretch is spent digging or placing, as a share, where the buttons have these.
            still: Share of the farthest step below which it counts as stopped.

        Raises:
            ValueError: The action space is none of these, or an argument is out of its range.
        """
        if not 0 <= look_back <= 1 or not 0 <= hands <= 1 or not 0 <= still <= 1:
            raise ValueError(f"look_back={look_back}, hands={hands} and still={still} must be shares in 0..1")
        if half_circle < 1:
            raise ValueError(f"half_circle={half_circle} must be 1 step or more")
        self._space, self._buttons = action_space, tuple(buttons)
        _check(action_space, self._buttons)
        self._look_back, self._half, self._hands, self._still = look_back, half_circle, hands, still
        self._rows = Rows(self._begin, salt=0xE7A1)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, ...)`` as the action space's batch space lays them out."""
        state = observation.state
        places: list[tuple[float, ...] | None] = [None] * len(observation.first)
        if "x" in state and "y" in state:
            places = [(float(x), float(y)) for x, y in zip(state["x"], state["y"], strict=True)]
        walkers = self._rows.update(observation)
        moves = [walker.next(place, frame) for walker, place, frame in zip(walkers, places, observation.frames, strict=True)]
        return stack(self._space, [_encode(self._space, self._buttons, move) for move in moves])

    def _begin(self, rng: np.random.Generator) -> _Walker:
        looks = float(rng.random()) < self._look_back
        return _Walker(rng, half=self._half, looks=looks, hands=self._hands, still=self._still)


class _Walker:
    """One row: the moves that are planned, and how far the last ones went."""

    def __init__(self, rng: np.random.Generator, *, half: int, looks: bool, hands: float, still: float) -> None:
        self._rng, self._half, self._looks, self._hands, self._still = rng, half, looks, hands, still
        self._patience = float(rng.uniform(0.5, 2.0))  # of stretches, by episode
        self._plan: deque[Move] = deque()
        self._last = Move()
        self._place: tuple[float, ...] | None = None
        self._frame: Frames | None = None
        self._farthest, self._slow = 0.0, 0

    def next(self, place: tuple[float, ...] | None, frame: Frames) -> Move:
        """Return the next move from the place on the map, where it is known, and the frame ``(H, W, 3)``."""
        walking = self._last.forward != 0 or self._last.aside != 0
        self._slow = self._slow + 1 if walking and not self._moved(place, frame) else 0
        self._place, self._frame = place, np.array(frame)
        if self._slow >= _STUCK:
            self._slow = 0
            self._plan = deque(self._away())
        if not self._plan:
            self._plan = deque(self._stretch())
        self._last = self._plan.popleft()
        return self._last

    def _moved(self, place: tuple[float, ...] | None, frame: Frames) -> bool:
        if place is not None and self._place is not None:
            step = math.dist(place, self._place)
            self._farthest = max(self._farthest, step)
            return step > self._still * self._farthest
        if self._frame is None or frame.shape != self._frame.shape or frame.size == 0:
            return True
        return float(np.abs(frame.astype(np.int16) - self._frame).mean()) > _SAME_FRAME

    def _stretch(self) -> list[Move]:
        """Draw what is done next."""
        rng = self._rng
        if self._hands and rng.random() < self._hands:
            return self._work()
        if self._looks and rng.random() < 0.2:
            return self._away_and_back()
        kind, side = float(rng.random()), float(rng.choice((-1.0, 1.0)))
        if kind < 0.55:
            return self._walk(side)
        if kind < 0.70:  # turn on the spot
            return [Move(turn=side)] * int(rng.integers(2, self._half * 2 // 3 + 3))
        if kind < 0.80:  # sideways, sometimes around what is looked at
            circling = -side * float(rng.random() < 0.5)
            return [Move(aside=int(side), turn=circling)] * self._steps(3, 9)
        if kind < 0.88:  # up and down
            up = [Move(forward=int(rng.random() < 0.5), tilt=side)] * int(rng.integers(1, 4))
            return [*up, *[Move(forward=1)] * self._steps(3, 8), *[replace(one, tilt=-one.tilt) for one in up]]
        if kind < 0.95:
            return [Move(forward=-1)] * self._steps(2, 6)
        return [Move()] * self._steps(1, 4)

    def _walk(self, side: float) -> list[Move]:
        """Go forward, with a bend in it half of the time, jumping now and then."""
        steps = self._steps(6, 26)
        moves = [Move(forward=1)] * steps
        if self._rng.random() < 0.5:
            start = int(self._rng.integers(steps))
            length = int(self._rng.integers(1, max(2, self._half // 2)))
            moves = [replace(one, turn=side) if start <= i < start + length else one for i, one in enumerate(moves)]
        if self._rng.random() < 0.2:
            moves[int(self._rng.integers(steps))] = Move(forward=1, jump=True)
        return moves

    def _away(self) -> list[Move]:
        """Leave what is in the way: try a jump, step back, turn by up to half a circle, and go on; or look about first."""
        rng, side = self._rng, float(self._rng.choice((-1.0, 1.0)))
        if self._looks and rng.random() < 0.2:
            return self._away_and_back()
        jump = [Move(forward=1, jump=True)] * 3 if rng.random() < 0.4 else []
        back = [Move(forward=-1)] * int(rng.integers(0, 5))
        turn = [Move(turn=side)] * int(rng.integers(max(1, self._half // 4), self._half * 3 // 4 + 2))
        return [*jump, *back, *turn, *[Move(forward=1)] * self._steps(4, 12)]

    def _away_and_back(self) -> list[Move]:
        """Stand, turn away, wait, turn back, and wait again; an episode's memory test."""
        rng, side = self._rng, float(self._rng.choice((-1.0, 1.0)))
        steps = int(rng.integers(max(1, self._half // 3), self._half + 1))
        stop, pause, look = (int(rng.integers(low, high)) for low, high in ((2, 5), (0, 5), (1, 4)))
        back = [Move(turn=-side)] * steps
        return [*[Move()] * stop, *[Move(turn=side)] * steps, *[Move()] * pause, *back, *[Move()] * look]

    def _work(self) -> list[Move]:
        """Look down, dig or place for a while, and look up again."""
        rng = self._rng
        down = int(rng.integers(1, 5))
        what = Move(dig=True) if rng.random() < 0.7 else Move(place=True)
        work = [what] * self._steps(3, 12) if what.dig else [what, Move(), Move()] * int(rng.integers(1, 4))
        return [*[Move(tilt=-1.0)] * down, *work, *[Move(tilt=1.0)] * down]

    def _steps(self, low: int, high: int) -> int:
        return max(1, round(self._patience * float(self._rng.uniform(low, high))))


def _check(space: Space[Any], buttons: tuple[str, ...]) -> None:
    """Raise ValueError where moves cannot be told in ``space``."""
    keys = space
    if isinstance(space, spaces.Dict):
        keys = space.spaces.get("keys", space)
        look = space.spaces.get("look")
        if set(space.spaces) != {"keys", "look"} or not isinstance(look, spaces.Box) or look.shape != (2,):
            raise ValueError(f"Explorer takes a Dict of keys (MultiBinary) and look (Box(2)), not {space}: choose another policy")
    elif isinstance(space, spaces.Box) and space.shape == (3,):
        return
    if not isinstance(keys, spaces.MultiBinary):
        raise ValueError(f"Explorer walks by MultiBinary, Box(3) or Dict actions, not {space}: choose another policy")
    if keys.n != len(buttons):
        raise ValueError(
            f"Explorer has {len(buttons)} buttons ({', '.join(buttons)}), but {space} has {keys.n}: name them by buttons=[...]"
        )


def _encode(space: Space[Any], buttons: tuple[str, ...], move: Move) -> Any:
    if isinstance(space, spaces.Box):
        return np.array([move.forward, move.turn, move.aside], np.float32)
    held = {
        "forward": move.forward > 0,
        "back": move.forward < 0,
        "left": move.aside < 0,
        "right": move.aside > 0,
        "turn_left": move.turn < 0,
        "turn_right": move.turn > 0,
        "jump": move.jump,
        "dig": move.dig,
        "place": move.place,
    }
    keys: NDArray[np.int8] = np.array([held.get(name, False) for name in buttons], np.int8)
    if isinstance(space, spaces.Dict):
        return {"keys": keys, "look": np.array([move.turn, move.tilt], np.float32)}
    return keys
