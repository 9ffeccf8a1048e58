"""Action spaces as rows, features and JSON; the records at which the rooms meet."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from gymnasium import Space, spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.episode import Conditioning, Episode
from worldsim.spaces import feature_size, from_row, is_integer, row_size, space_from_json, space_to_json, to_features, to_row
from worldsim.types import Observation, Policy

SPACES: dict[str, Space[Any]] = {
    "box": spaces.Box(np.array([-1.0, 0.0, 0.0], dtype=np.float32), np.ones(3, dtype=np.float32)),
    "box-2d": spaces.Box(-2.0, 3.0, (2, 3)),
    "box-scalar": spaces.Box(-1.0, 1.0, ()),
    "box-f64": spaces.Box(-0.1, 0.1, (2,), np.float64),
    "box-open": spaces.Box(np.array([-np.inf, 0, -np.inf]), np.array([np.inf, np.inf, 1]), dtype=np.float64),
    "box-u8": spaces.Box(0, 255, (4,), np.uint8),
    "box-i64": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    "discrete": spaces.Discrete(5),
    "discrete-start": spaces.Discrete(3, start=-1),
    "discrete-i32": spaces.Discrete(3, dtype=np.int32),
    "multidiscrete": spaces.MultiDiscrete([2, 5, 3]),
    "multidiscrete-2d": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [-2, 0]])),
    "multibinary": spaces.MultiBinary(4),
    "multibinary-2d": spaces.MultiBinary([2, 3]),
    "dict": spaces.Dict({"steer": spaces.Box(-0.1, 0.1, (2,), np.float64), "gear": spaces.Discrete(3, start=1)}),
    "dict-order": spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.MultiDiscrete([2, 3]))]),
    "dict-nested": spaces.Dict(
        {"in": spaces.Dict({"x": spaces.Box(0.0, 10.0, (1,)), "b": spaces.MultiBinary(2)}), "n": spaces.Discrete(2)}
    ),
}
UNSUPPORTED: list[Space[Any]] = [spaces.Text(3), spaces.Tuple([spaces.Discrete(2)]), spaces.Dict({"t": spaces.Text(3)})]

every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return np.allclose(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), rtol=1e-6, atol=1e-6)


@every_space
def test_json_gives_the_same_space_back(space: Space[Any]) -> None:
    text = json.dumps(space_to_json(space), sort_keys=True, allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space
    assert again.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert isinstance(again, spaces.Dict)
        assert list(again.spaces) == list(space.spaces)


@every_space
def test_a_row_gives_the_same_action_back(space: Space[Any]) -> None:
    space.seed(0)
    for _ in range(20):
        action = space.sample()
        row = to_row(space, action)
        assert row.shape == (row_size(space),)
        assert row.dtype == (np.int64 if is_integer(space) else np.float32)
        again = from_row(space, row)
        assert space.contains(again)
        assert same(again, action)


@every_space
def test_features_are_finite_and_as_wide_as_told(space: Space[Any]) -> None:
    space.seed(1)
    rows = np.stack([to_row(space, space.sample()) for _ in range(6)]).reshape(2, 3, -1)
    features = to_features(space, rows)
    assert features.shape == (2, 3, feature_size(space))
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    if space.is_bounded() if isinstance(space, spaces.Box) else True:
        assert np.abs(features).max() <= 1


def test_bounded_boxes_are_scaled_wherever_they_are() -> None:
    rows = np.array([[0.0], [5.0], [10.0]], dtype=np.float32)
    box = spaces.Box(0.0, 10.0, (1,))
    nested = spaces.Dict({"outer": spaces.Dict({"x": box})})
    for space in (box, spaces.Dict({"x": box}), nested):
        np.testing.assert_allclose(to_features(space, rows)[:, 0], [-1, 0, 1])


def test_classes_become_one_hot() -> None:
    np.testing.assert_array_equal(to_features(spaces.Discrete(3, start=-1), np.array([[0]])), [[0, 1, 0]])
    np.testing.assert_array_equal(to_features(spaces.MultiDiscrete([2, 3]), np.array([[1, 0]])), [[0, 1, 1, 0, 0]])


@given(st.floats(-10, 10), st.floats(0.001, 10), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_an_action_at_the_edge_of_a_wide_box_stays_inside(low: float, width: float, share: float) -> None:
    space = spaces.Box(low, low + width, (1,), np.float64)
    action = np.clip(np.array([low + share * width]), space.low, space.high)
    assert space.contains(from_row(space, to_row(space, action)))


@pytest.mark.parametrize("space", UNSUPPORTED, ids=str)
def test_other_spaces_are_refused_with_the_way_out(space: Space[Any]) -> None:
    for function in (row_size, feature_size, space_to_json):
        with pytest.raises(ValueError, match=r"is not supported: use Box, Discrete, .* or wrap the environment"):
            function(space)


def test_an_unknown_type_in_json_is_named() -> None:
    with pytest.raises(ValueError, match=r"type 'Graph' is unknown: the known ones are Box"):
        space_from_json({"type": "Graph"})


def test_an_episode_has_one_frame_more_than_steps() -> None:
    episode = Episode(
        frames=np.zeros((4, 2, 2, 3), np.uint8),
        actions=np.zeros((3, 1), np.float32),
        rewards=np.zeros(3, np.float32),
        terminated=np.zeros(3, np.bool_),
        truncated=np.zeros(3, np.bool_),
        state=np.zeros((4, 0), np.float32),
    )
    assert len(episode) == 3 == len(episode.frames) - 1
    assert episode.conditioning == Conditioning()
    with pytest.raises(FrozenInstanceError):
        episode.seed = 3  # type: ignore[misc]


def test_whatever_acts_is_a_policy() -> None:
    class Still:
        def act(self, observation: Observation) -> Any:
            return np.zeros((len(observation.frames), 1), np.float32)

    assert isinstance(Still(), Policy)
    assert not isinstance(object(), Policy)
