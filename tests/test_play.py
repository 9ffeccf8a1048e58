"""Playing with the keyboard, without a display: keys to actions, Gymnasium's play, and the command."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium import spaces
from omegaconf import OmegaConf

from worldsim.config import compose
from worldsim.envs.keys import keys_to_action
from worldsim.envs.play import main
from worldsim.model import WorldModel
from worldsim.spaces import rest_action
from worldsim.spec import WorldSpec

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*matplotlib is not installed", UserWarning)
    from gymnasium.utils.play import play

KEYS = {"w": [0, 0.8, 0], "a": [-1, 0, 0], "s": [0, 0, 0.6], "d": [1, 0, 0], "space": [0, 0.5, 0]}


@pytest.fixture(autouse=True)
def _headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def spec(make_world: Any) -> WorldSpec:
    world: WorldModel = make_world()
    return replace(world.spec, keys=KEYS)


@pytest.fixture
def world(make_world: Any, tmp_path: Path) -> str:
    """Save a tiny world with keys, whose episodes do not end by themselves."""
    built, folder = make_world(end_logit=-50.0), tmp_path / "tiny"
    built.spec = replace(built.spec, keys=KEYS)
    built.save_pretrained(folder)
    return str(folder)


def codes(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(ord, text)))


def test_keys_held_together_are_added_and_clipped(spec: WorldSpec) -> None:
    keys = keys_to_action(spec)
    assert keys[codes("w")].tolist() == pytest.approx([0, 0.8, 0])
    assert keys[codes("wa")].tolist() == pytest.approx([-1, 0.8, 0])
    assert keys[codes("ad")].tolist() == [0, 0, 0]
    assert keys[codes("w ")].tolist() == [0, 1, 0]
    assert len(keys) == 5 + 10 + 10
    assert all(action in spec.action_space for action in keys.values())
    assert {action.dtype for action in keys.values()} == {np.dtype(np.float32)}


def test_discrete_keys_stand_alone_unless_a_pair_is_named(spec: WorldSpec) -> None:
    keys = keys_to_action(replace(spec, action_space=spaces.Discrete(4)), {"left": 1, "d": 2, "left+d": 3})
    assert keys == {(pygame.K_LEFT,): 1, codes("d"): 2, (codes("d")[0], pygame.K_LEFT): 3}
    buttons = keys_to_action(replace(spec, action_space=spaces.MultiBinary(2)), {"a": [1, 0], "b": [0, 1]})
    assert buttons[codes("ab")].tolist() == [1, 1]
    switches = keys_to_action(replace(spec, action_space=spaces.MultiDiscrete([3, 2])), {"a": [2, 0], "b": [1, 1]})
    assert switches[codes("ab")].tolist() == [2, 1]
    gears = spaces.Dict({"gear": spaces.Discrete(2), "gas": spaces.Box(0, 1, (1,), np.float32)})
    assert keys_to_action(replace(spec, action_space=gears), {"g": {"gear": 1, "gas": [0.5]}})[codes("g")]["gas"] == 0.5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "world 'tiny' names no keyboard keys: give them"),
        ({"lft": [0, 0, 0]}, "key 'lft' is unknown: name a character, or left, right"),
        ({"a": [0, 0]}, r"key 'a': action \[0, 0\] is outside Box"),
        ({"a": [1, 0, 0], "a+w": [2, 0, 0]}, r"key 'a\+w': action \[2, 0, 0\] is outside Box"),
    ],
)
def test_wrong_keys_are_named(spec: WorldSpec, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keys_to_action(spec, keys)


def test_no_key_is_rest() -> None:
    assert rest_action(spaces.Box(np.array([-1, 0.5], np.float32), np.array([1, 1], np.float32))).tolist() == [0, 0.5]
    assert rest_action(spaces.Discrete(3, start=2)) == 2
    assert rest_action(spaces.MultiDiscrete([2, 2], start=[1, 0])).tolist() == [1, 0]
    assert rest_action(spaces.MultiBinary(2)).tolist() == [0, 0]
    assert rest_action(spaces.Dict({"a": spaces.Discrete(2)})) == {"a": 0}


class Fingers:
    """Posts key events after each step, and records the actions that followed."""

    def __init__(self, events: list[tuple[int, int]]) -> None:
        self.events, self.actions = list(events), list[Any]()

    def __call__(self, before: Any, after: Any, action: Any, *rest: Any) -> None:
        self.actions.append(np.asarray(action).tolist())
        kind, key = self.events.pop(0)
        pygame.event.post(pygame.event.Event(kind, key=key))


EVENTS = [(pygame.KEYDOWN, pygame.K_w), (pygame.KEYDOWN, pygame.K_a), (pygame.KEYUP, pygame.K_w), (pygame.KEYDOWN, pygame.K_ESCAPE)]
DRIVEN: list[list[float]] = [[0, 0, 0], [0, 0.8, 0], [-1, 0.8, 0], [-1, 0, 0]]


def test_gymnasiums_play_drives_it(world: str) -> None:
    env = gym.make("WorldSim-v0", world=world, render_mode="rgb_array", horizon=3)
    fingers = Fingers(EVENTS)
    play(env, callback=fingers, noop=np.zeros(3, np.float32), fps=1000, zoom=4, seed=0)
    np.testing.assert_allclose(fingers.actions, DRIVEN)
    env.close()


def test_the_command_plays_until_escape(world: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fingers = Fingers(EVENTS)
    caption = "worldsim.envs.play._Caption.__call__"
    monkeypatch.setattr(caption, lambda self, *args: fingers(*args))
    main(compose("play", [f"world={world}", "fps=1000", "seed=1", "keys={w: [0, 0.5, 0], a: [-1, 0, 0]}"]))
    expected: list[list[float]] = [[0, 0, 0], [0, 0.5, 0], [-1, 0.5, 0], [-1, 0, 0]]
    np.testing.assert_allclose(fingers.actions, expected)
    assert "tiny: keys w a, Escape ends" in capsys.readouterr().out


def test_the_caption_counts_steps_and_return(world: str) -> None:
    from worldsim.envs.play import _Caption

    pygame.display.init()
    caption = _Caption("tiny")
    for end in (False, True, False):
        caption(None, None, None, 1.5, end, False, {})
    assert pygame.display.get_caption()[0] == "tiny   step 1   return 1.5"
    pygame.quit()


def test_without_a_display_the_command_says_so(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "nothing")
    with pytest.raises(ValueError, match=r"no window can be opened here .*: run this where there is a display"):
        main(compose("play", [f"world={world}"]))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
    with pytest.raises(ValueError, match="no window can be opened here: there is no display"):
        main(compose("play", [f"world={world}"]))
    pygame.quit()


def test_settings_reach_the_environment() -> None:
    config = compose("play", ["context={frames: image.png}", "conditioning={tags: [dark]}"])
    assert OmegaConf.to_container(config)["context"] == {"frames": "image.png"}  # type: ignore[index, call-overload]
