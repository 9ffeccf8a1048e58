"""Drivers that scenarios need: one that brakes, and one that sees the road in the frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.policies import Braking, RoadCamera
from worldsim.types import Observation, Policy

DRIVE = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))


def road(lean: float, *, size: int = 64, colours: tuple[int, int] = (60, 180)) -> NDArray[np.uint8]:
    """Draw a road on grass that starts below the car and leaves ``lean`` columns a row to the right."""
    frame = np.full((size, size, 3), colours[1], np.uint8)
    for row in range(size):
        middle = size / 2 + lean * (0.75 * size - row)
        frame[row, max(0, int(middle - size / 10)) : max(0, int(middle + size / 10))] = colours[0]
    return frame


def seen(frames: list[NDArray[np.uint8]], *, first: bool = True, speed: float = 20.0) -> Observation:
    count = len(frames)
    names = {"path_angle_near": 0.3, "path_angle_far": 0.2, "speed": speed}
    state = {name: np.full(count, value, np.float32) for name, value in names.items()}
    return Observation(np.stack(frames), state, np.full(count, first), np.arange(count, dtype=np.int64))


def test_both_are_policies_of_rows_on_their_own() -> None:
    frames = [road(0.4), road(-0.4), road(0.0)]
    for make in (Braking, RoadCamera):
        policy: Any = make(DRIVE)
        assert isinstance(policy, Policy)
        together, alone = policy.act(seen(frames)), make(DRIVE).act(seen(frames[:1]))
        assert together.shape == (3, 3)
        assert all(DRIVE.contains(row) for row in together)
        np.testing.assert_array_equal(together[:1], alone)


def test_braking_brakes_and_steers_or_does_not() -> None:
    steered = Braking(DRIVE, force=0.6).act(seen([road(0)]))[0]
    straight = Braking(DRIVE, force=0.6, steer=False).act(seen([road(0)]))[0]
    assert steered[1:].tolist() == straight[1:].tolist() == [0.0, np.float32(0.6)]
    assert steered[0] < 0 == straight[0]


@pytest.mark.parametrize("colours", [(60, 180), (200, 30), (120, 90)])
def test_camera_steers_to_where_the_road_goes(colours: tuple[int, int]) -> None:
    left, straight, right = RoadCamera(DRIVE).act(seen([road(lean, colours=colours) for lean in (-0.5, 0.0, 0.5)]))[:, 0]
    assert left < -0.2
    assert abs(straight) < 0.05
    assert right > 0.2


def test_camera_in_the_dark_goes_on_as_before() -> None:
    policy = RoadCamera(DRIVE)
    before = policy.act(seen([road(0.5)]))[0, 0]
    dark = np.zeros((64, 64, 3), np.uint8)
    assert policy.act(seen([dark], first=False))[0, 0] == before
    assert policy.act(seen([road(0.0)], first=False))[0, 0] != before
    assert RoadCamera(DRIVE).act(seen([dark]))[0, 0] == 0


def test_camera_holds_its_speed() -> None:
    slow, fast = (RoadCamera(DRIVE, speed=30).act(seen([road(0)], speed=speed))[0] for speed in (10, 60))
    assert slow[1] > 0 == slow[2]
    assert fast[2] > 0 == fast[1]


def test_what_they_cannot_drive_is_refused() -> None:
    for make in (Braking, RoadCamera):
        with pytest.raises(ValueError, match=r"drives Box\(3\)"):
            make(spaces.Discrete(3))
    with pytest.raises(ValueError, match="force=0"):
        Braking(DRIVE, force=0)
    with pytest.raises(ValueError, match="speed=0"):
        RoadCamera(DRIVE, speed=0)
    with pytest.raises(ValueError, match="needs frames"):
        RoadCamera(DRIVE).act(seen([np.zeros((0, 0, 3), np.uint8)]))
