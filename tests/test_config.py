"""Settings: what is refused and how it is said, what wins, and what a `_target_` may build."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import worldsim
from worldsim.config import ConfigError, compose, group_options, instantiate_allowed, load_user_yaml
from worldsim.episode import Conditioning
from worldsim.targets import ALLOWED_NAMES, TRUST_VARIABLE, locate, targets

CONFIGS = Path(worldsim.__file__).parent / "configs"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(text: str | bytes) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return _write


# ---------------------------------------------------------------- compose


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(write: Any) -> None:
    file = write("frames: 10\nseed: 3\n")
    default, filed, told = compose("collect"), compose("collect", file=file), compose("collect", ["seed=4"], file)
    assert (filed.frames, filed.seed) == (10, 3)
    assert (told.frames, told.seed) == (10, 4)
    assert default.horizon == told.horizon


def test_options_of_groups_are_chosen_in_a_file_and_on_the_command_line(write: Any) -> None:
    file = write("source: gym\nsource.id: CartPole-v1\nsource.kwargs: {gravity: 3.0}\n")
    for config in (compose("collect", file=file), compose("collect", ["source=gym", "source.id=CartPole-v1", "source.kwargs.gravity=3.0"])):
        assert config.source.id == config.source.name == "CartPole-v1"
        assert config.source.kwargs.gravity == 3.0
    assert compose("collect", ["source=carracing"], write("source: gym\n")).source.name == "carracing"


def test_a_group_may_take_several_options(write: Any) -> None:
    assert list(compose("generate", ["scenario=night"]).scenario) == ["night"]
    assert list(compose("generate", ["scenario=[night,calm]"]).scenario) == ["night", "calm"]
    config = compose("generate", ["scenario.calm.horizon=3"], write("scenario: [calm]\nscenario.mine: {horizon: 4}\n"))
    assert {name: scenario.horizon for name, scenario in config.scenario.items()} == {"calm": 3, "mine": 4}
    with pytest.raises(ConfigError, match=r"scenario has no option 'nihgt': did you mean 'night'"):
        compose("generate", ["scenario=[calm,nihgt]"])


def test_keywords_of_a_target_are_settings_even_if_the_shipped_file_does_not_list_them() -> None:
    assert compose("collect", ["policy=random", "policy.hold=[2,3]"]).policy.hold == [2, 3]
    with pytest.raises(ConfigError, match=r"unknown key 'policy.hodl': did you mean 'hold'"):
        compose("collect", ["policy=random", "policy.hodl=[2,3]"])


def test_a_mapping_that_builds_something_else_takes_the_old_ones_place(write: Any) -> None:
    config = compose("collect", ["policy=random"], write("policy:\n  _target_: worldsim.episode.Conditioning\n  text: x\n"))
    assert dict(config.policy) == {"_target_": "worldsim.episode.Conditioning", "text": "x"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=3", r"command line: unknown key 'sed': did you mean 'seed'\? Allowed: .*frames.*seed"),
        ("source.sise=3", r"unknown key 'source.sise': did you mean 'size'"),
        ("seed.x=3", r"seed is 0: it has no key 'x'"),
        ("seed=abc", r"seed is 'abc': it must be a whole number, as 0"),
        ("seed=1.5", r"seed is 1.5: it must be a whole number"),
        ("seed=true", r"seed is True: it must be a whole number"),
        ("source=gim", r"source has no option 'gim': did you mean 'gym'\? Allowed: carracing, carracing_grip, gym"),
        ("source=3", r"source is 3: it must be a group of keys"),
        ("seed=1,2", r"'seed=1,2' gives several values"),
        ("~seed", r"'~seed' would remove a key: set it to null"),
        ("seed", r"'seed' is not of the form key=value"),
        ("policy._target_=os.system", r"_target_: 'os.system' is not allowed"),
        ("source.name=${nix}", r"cannot be resolved: .*'nix' not found"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose("collect", ["policy=random", override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nsed: 3\n", r"mine.yaml:2: unknown key 'sed': did you mean 'seed'"),
        ("source:\n\n  sise: 3\n", r"mine.yaml:3: unknown key 'source.sise': did you mean 'size'"),
        ("\nseed: abc\n", r"mine.yaml:2: seed is 'abc': it must be a whole number"),
        ("source: gim\n", r"mine.yaml:1: source has no option 'gim'"),
        ("policy:\n  x: 1\n  _target_: os.system\n", r"mine.yaml:3: policy._target_: 'os.system' is not allowed"),
        ("policy:\n  _target_: ${out}\nout: os.system\n", r"mine.yaml:2: policy._target_: 'os.system' is not allowed"),
    ],
)
def test_a_wrong_line_of_a_file_is_named(write: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("collect", file=write(text))


def test_a_value_that_has_to_be_given_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"no value for source.id: add source.id=\.\.\."):
        compose("collect", ["source=gym"])
    assert compose("collect", ["source=gym"], allow_missing=True).source.size == 64


def test_settings_that_do_not_exist_are_named() -> None:
    for function in (compose, group_options):
        with pytest.raises(ConfigError, match=r"there are no settings for 'colect'"):
            function("colect")


def test_an_empty_mapping_takes_several_keys_at_once() -> None:
    cfg = compose("train_dynamics", ["keys={a: [-2.0], d: [2.0]}"])
    assert dict(cfg["keys"]) == {"a": [-2.0], "d": [2.0]}
    with pytest.raises(ConfigError, match=r"unknown key 'loop.speed'"):
        compose("train_dynamics", ["loop={speed: 3}"])


def test_numbers_take_the_type_of_the_default() -> None:
    assert compose("collect", ["seed=3.0", "out=2024"]).out == "2024"
    assert isinstance(compose("collect", ["seed=3.0"]).seed, int)


def test_a_preset_wins_over_the_defaults_and_the_user_over_the_preset(write: Any) -> None:
    default, preset = compose("train_dynamics"), compose("train_dynamics", ["preset=carracing_nano"])
    assert (default.name, preset.name) == ("my-world", "carracing-nano")
    assert preset.loop.steps != default.loop.steps
    assert preset.loop.weight_decay == default.loop.weight_decay
    for overrides in (["preset=carracing_nano", "loop.steps=7", "name=mine"], ["name=mine", "loop.steps=7", "preset=carracing_nano"]):
        told = compose("train_dynamics", overrides)
        assert (told.loop.steps, told.name, told.clip, told.objective) == (7, "mine", preset.clip, preset.objective)
    filed = compose("train_dynamics", ["clip=99"], write("preset: carracing_nano\nloop:\n  steps: 9\n"))
    assert (filed.loop.steps, filed.clip, filed.batch_size) == (9, 99, preset.batch_size)
    for override, message in (
        ("preset=carracing", "preset has no option 'carracing': did you mean 'carracing_nano'"),
        ("presett=custom", "unknown key 'presett': did you mean 'preset'"),
        ("tokenizer=x", "unknown key 'tokenizer': did you mean 'tokenizer_dir'"),
    ):
        with pytest.raises(ConfigError, match=message):
            compose("train_dynamics", [override])


def test_groups_are_listed() -> None:
    assert "night" in group_options("generate")["scenario"]
    assert {"carracing", "gym"} <= set(group_options("collect")["source"])


# ---------------------------------------------------------------- a user's YAML


def test_plain_yaml_is_read(write: Any) -> None:
    assert load_user_yaml(write("a: 1e-3\nb: [x, {c: null}]\n")) == {"a": 0.001, "b": ["x", {"c": None}]}
    assert load_user_yaml(write("# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\n", r"mine.yaml:\d: this is not the YAML"),
        ("a: 1\na: 2\n", r"mine.yaml:2: .*duplicate key"),
        ("- 1\n", r"mine.yaml:1: settings are lines of 'key: value'"),
        ("word", r"mine.yaml:1: settings are lines of 'key: value'"),
        ("3: x\n", r"mine.yaml:1: key '3' is no text: quote it"),
        ("a: !!python/object/apply:os.system [x]\n", r"mine.yaml:1: .*could not determine a constructor"),
        ("a: &x 1\nb: *x\n", r"mine.yaml:2: .*aliases \(\*name\) are not allowed"),
        ("a: ${oc.env:HOME}\n", r"mine.yaml:1: .*calls a resolver"),
        ("a: ${${b}:HOME}\n", r"mine.yaml:1: .*calls a resolver"),
        ("a: ${b\n", r"mine.yaml: this is not the YAML"),
        (b"a: \xff\n", r"mine.yaml is not UTF-8 text"),
        ("a: " + "[" * 5000, r"mine.yaml is nested too deeply"),
        ("# " + "x" * (1 << 20), r"has 1048578 bytes: settings have at most 1048576"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_yaml_is_refused_with_its_place(write: Any, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_user_yaml(write(text))


# ---------------------------------------------------------------- objects


def test_an_allowed_target_is_built_nested_ones_first() -> None:
    built = instantiate_allowed({"_target_": "worldsim.episode.Conditioning", "text": {"_target_": "worldsim.episode.Conditioning"}})
    assert built == Conditioning(text=Conditioning())  # type: ignore[arg-type]


def test_extra_keywords_are_passed_as_they_are_and_win() -> None:
    thing = object()
    cfg = {"_target_": "worldsim.episode.Conditioning", "text": "a", "tags": ["b"]}
    built = instantiate_allowed(cfg, text=thing)
    assert built.text is thing
    assert built.tags == ["b"]
    assert cfg["text"] == "a"


def test_partial_binds_keywords() -> None:
    built = instantiate_allowed({"_target_": "worldsim.episode.Conditioning", "_partial_": True, "text": "a"})
    assert isinstance(built, partial)
    assert built().text == "a"


EVIL = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "worldsim.user_yaml.yaml.unsafe_load",
    "worldsim.config.Path",
    "worldsim.config.hydra_compose",
    "worldsim.targets.os.system",
    "worldsim.targets.import_module",
    "worldsim.targets.inspect.os.system",
    "worldsim.targets.partial",
    "worldsim.targets._build",
    "worldsim.episode.Episode.__init__",
    "worldsim.episode.Conditioning.__class__.mro",
    "worldsim.episode.Episode.mro",
    "worldsim.config.ConfigError.with_traceback",
    "worldsim.episode.np.load",
    "worldsim.targets",
    "worldsim",
    "worldsimevil.Thing",
    "worldsim..os",
    "diffusers.utils.import_utils.importlib.import_module",
    "torch.load",
    "torch.hub.load",
    "",
    3,
    None,
    ["os.system"],
]


@pytest.mark.parametrize("target", EVIL, ids=str)
@pytest.mark.parametrize("place", ["top", "nested", "list"])
def test_nothing_else_is_built(target: Any, place: str, tmp_path: Path) -> None:
    evil = {"_target_": target, "command": f"touch {tmp_path / 'done'}"}
    inner = {"top": None, "nested": {"a": evil}, "list": [[evil]]}[place]
    with pytest.raises(ConfigError, match=r"is not allowed|is not a class or function"):
        instantiate_allowed(evil if place == "top" else {"_target_": "worldsim.episode.Conditioning", "text": inner})
    assert not (tmp_path / "done").exists()


def test_interpolation_smuggles_no_target() -> None:
    with pytest.raises(ConfigError, match=r"_target_: 'os.system' is not allowed"):
        instantiate_allowed({"_target_": "${text}", "text": "os.system"})
    with pytest.raises(ConfigError, match=r"text._target_: 'os.system' is not allowed"):
        instantiate_allowed({"_target_": "worldsim.episode.Conditioning", "text": "${numbers}", "numbers": {"_target_": "os.system"}})


@pytest.mark.parametrize("key", ["_args_", "_convert_", "_recursive_", "__class__"])
def test_other_underscore_keys_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"Conditioning has no setting '{key}'"):
        instantiate_allowed({"_target_": "worldsim.episode.Conditioning", key: []})


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"text": "a"}, r"there is no '_target_': name the class to build"),
        ({"_target_": "worldsim.episode.Conditionin"}, r"does not exist: did you mean 'Conditioning'"),
        ({"_target_": "worldsim.nowhere.Thing"}, r"'worldsim.nowhere.Thing' does not exist"),
        ({"_target_": "worldsim.episode.Conditioning", "txt": "a"}, r"Conditioning has no setting 'txt': did you mean 'text'"),
        ({"_target_": "worldsim.episode.Conditioning", "text": "???"}, r"Conditioning needs 'text': give a value"),
        ({"_target_": "worldsim.spaces.row_size"}, r"row_size needs 'space': give a value"),
        ({"_target_": "worldsim.targets.TRUST_VARIABLE"}, r"is not a class or function"),
    ],
)
def test_mistakes_are_named(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        instantiate_allowed(cfg)


def test_a_package_of_the_users_own_is_built_once_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_drivers.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"for a package of your own, set {TRUST_VARIABLE}"):
        instantiate_allowed({"_target_": "my_drivers.Mine"})
    monkeypatch.setenv(TRUST_VARIABLE, "other, my_drivers")
    assert type(instantiate_allowed({"_target_": "my_drivers.Mine"})).__name__ == "Mine"


def test_every_allowed_name_exists() -> None:
    for name in ALLOWED_NAMES:
        assert isinstance(locate(name, "_target_"), type)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_target_of_the_shipped_settings_exists(path: Path) -> None:
    for key, target in targets(yaml.safe_load(path.read_text(encoding="utf-8"))):
        locate(target, key)
