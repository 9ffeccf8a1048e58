"""Scenario files that nobody vouches for: each is refused by a sentence, none crashes, and nothing in them runs."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import worldsim
from worldsim.cli import main
from worldsim.scenario import ScenarioError, load_scenarios, parse_scenario
from worldsim.scenario.expressions import EPISODE_FUNCTIONS, ExpressionError, parse_expression
from worldsim.targets import ConfigError

SHIPPED = sorted((Path(worldsim.__file__).parent / "configs" / "scenario").glob("*.yaml"))
GOLDEN = Path(__file__).parent / "golden" / "scenarios.yaml"
RANDOM = {"_target_": "worldsim.policies.random.RandomPolicy"}
TARGETS = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "worldsim.targets.os.system",
    "worldsim.cli.main",
    "worldsim.policies.random",
    3,
    None,
]
WRONG_VALUES: list[Any] = ["no such thing", -7, 1e999, [[]], {"x": {"y": 1}}, "$undefined", True, ["\x01"], "${oc.env:HOME}"]


def bodies() -> list[dict[str, Any]]:
    shipped = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in SHIPPED]
    return [*shipped, *yaml.safe_load(GOLDEN.read_text(encoding="utf-8")).values()]


def nodes(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    children: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def mutated(count: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield shipped scenarios with one thing made wrong, and the key that has to be named."""
    rng, known = random.Random(3), bodies()
    made = 0
    while made < count:
        body = copy.deepcopy(rng.choice(known))
        path = rng.choice([p for p in nodes(body) if isinstance(p[-1], str) and "description" not in p and "numbers" not in p[:-1]])
        parent, key = at(body, path[:-1]), path[-1]
        kind = rng.choice(["rename", "target", "value"])
        if (
            kind == "rename"
            and not ({"policies", "variants", "randomize", "grid", "zip", "ranges"} & {*path[-2:-1]})
            and path[-3:-2] != ("list",)
        ):
            parent[f"{key}x"] = parent.pop(key)
            yield body, f"{key}x"
        elif kind == "target" and key == "_target_":
            parent[key] = rng.choice(TARGETS)
            yield body, key
        elif kind == "value" and path[-3:-2] == ("list",):
            continue  # a variant may give a name any value
        elif kind == "value" and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
            in_policy = bool({"policy", "policies"} & {*path[:-1]})  # the ranges of a policy's own settings are told when it is planned
            parent[key] = rng.choice(["many", [[]], {"x": 1}, "$undefined", *([] if in_policy else [-3])])
            yield body, key
        else:
            continue
        made += 1


def test_two_hundred_mutations_of_scenarios_are_refused_by_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accepted = []
    for i, (body, key) in enumerate(mutated(200)):
        file = tmp_path / f"{i}.yaml"
        file.write_text(yaml.safe_dump({"one": body}, sort_keys=False), encoding="utf-8")
        try:
            load_scenarios(file)
            told: tuple[str, ...] = ()
        except ScenarioError as error:
            told = error.problems
        if not any(key in line for line in told) or not all(line.startswith(f"{file}:") for line in told):
            accepted.append((key, body, told))
    assert accepted == []


HOSTILE_FILES = [
    "a: &a [x, x, x]\nb: &b [*a, *a]\nc: {{policy: *b}}\n",
    "a: !!python/object/apply:os.system [touch {mark}]\n",
    "a: {{policy: {{_target_: os.system, command: 'touch {mark}'}}}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy, hold: {{_target_: os.system, command: 'touch {mark}'}}}}}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy, _partial_: true}}}}\n",
    "a: {{policy: {{_target_: $t}}, variants: {{grid: {{t: [os.system]}}}}}}\n",
    "a: {{policy: $t, policies: $t, variants: {{grid: {{t: [{{_target_: os.system}}]}}}}}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}, initial: ${{oc.env:HOME}}}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}, horizon: {nines}}}\n" + "b: [1",
    "a: " + "[" * 3000,
    "a: " + "{{b: " * 3000,
    "a: {{events: " + "[" * 90 + "]" * 90 + "}}\n",
    "? [a, b]\n: 1\n",
    "- a\n- b\n",
    "a:\n\t- b\n",
    "\x00\x01\x02",
    "3: {{policy: x}}\n",
    "a.b: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}, seeds: 1e99}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}, variants: {{grid: {{x: {{range: [0, 1e18]}}}}}}}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}, variants: {{sobol: {{ranges: {{x: [0, 1]}}, n: 999999999}}}}}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}, randomize: {{x: {{range: [0, 1.e+30]}}}}}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}, weight: .nan}}\n",
    "a: {{policy: {{_target_: worldsim.policies.random.RandomPolicy}}, conditioning: {{numbers: {{x: .inf}}}}}}\n",
]


@pytest.mark.parametrize("text", HOSTILE_FILES, ids=lambda text: text[:40])
def test_hostile_files_are_refused_in_sentences(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark, file = tmp_path / "mark", tmp_path / "mine.yaml"
    file.write_text(text.format(mark=mark, nines="9" * 5000), encoding="utf-8")
    assert main(["scenario", "validate", str(file)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"worldsim: error: {file}")
    assert "Traceback" not in told
    assert not mark.exists()


HOSTILE_EXPRESSIONS = [
    "__import__('os').system('x')",
    "().__class__.__bases__[0]",
    "speed.__class__",
    "(lambda: 1)()",
    "[x for x in (1, 2)]",
    "{1: 2}",
    "speed[speed]",
    "speed['a']",
    "action[0:3]",
    "f'{speed}'",
    "max(*speed)",
    "max(speed, key=abs)",
    "speed if 1 else 2",
    "(x := 3)",
    "await speed",
    "yield",
    "speed is None",
    "1 in speed",
    "speed @ speed",
    "1 << 99999999",
    "~speed",
    "...",
    "None",
    "b'x'",
    "1j",
    "speed > ",
    "speed > 3; import os",
    "",
    "a" * 501,
    "-" * 400 + "1",
    "+".join(["a"] * 200),
    "open('x')",
    "eval('1')",
    "_speed > 1",
    "abs()",
    "abs(1, 2)",
    "max",
    "\x00",
    "9" * 499 + "*",
]


@pytest.mark.parametrize("text", HOSTILE_EXPRESSIONS, ids=lambda text: text[:30])
def test_hostile_expressions_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text, functions=EPISODE_FUNCTIONS)
    with pytest.raises(ScenarioError, match=r"expect\.0\.that"):
        parse_scenario("a", {"policy": RANDOM, "expect": [{"name": "x", "that": text}]}, where="here")


@pytest.mark.parametrize("text", ["9**9**9**9**9", "1e308 * 1e308", "1 / 0", "sqrt(-1)", "exp(9999)", "(-8) ** 0.5", "5 % 0", "log(0)"])
def test_what_cannot_be_computed_is_false(text: str) -> None:
    assert not parse_expression(f"{text} < 1").holds({})
    assert not parse_expression(f"{text} == 1").holds({})


def test_text_and_numbers_are_not_mixed() -> None:
    assert parse_expression("colour == 'red' and x > 1").holds({"colour": "red", "x": 2})
    for text in ("colour < 3", "colour * 99999999 == 'a'", "-colour == 1", "abs(colour) == 1"):
        with pytest.raises(ExpressionError, match="cannot be computed"):
            parse_expression(text).holds({"colour": "red"})


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["$x", "$a", "random", "$$", "${x}"])
)
WORDS = """policy policies initial events perturb variants randomize require expect seeds grid do when x kind _target_ uniform that
fork clip count context action_noise list zip sobol n ranges p"""
KEYS = st.sampled_from(WORDS.split())
ANYTHING = st.recursive(LEAVES, lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS, below, max_size=5), max_leaves=25)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=cast("list[HealthCheck]", list(HealthCheck)))
@given(st.dictionaries(KEYS, ANYTHING, max_size=6), st.booleans())
def test_anything_is_read_or_refused_in_sentences(body: dict[str, Any], with_policy: bool) -> None:
    given = {**body, "policy": RANDOM} if with_policy else body
    told = ""
    try:
        parse_scenario("one", given, where="here")
    except ConfigError as error:
        told = str(error)
    assert all(line.startswith(("here: ", "... and")) for line in told.split("\n") if told)
