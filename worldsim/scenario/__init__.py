"""The scenario language: what should happen in episodes, checked and expanded before anything runs.

``load_scenarios`` reads YAML, ``expand`` makes concrete episodes of it, and ``script`` says what happens in each.
"""

from worldsim.scenario.expand import ConcreteEpisode, expand, plan_hash
from worldsim.scenario.files import load_many, load_scenarios, parse_scenario, parse_scenarios, read_scenarios, unique
from worldsim.scenario.problems import ScenarioError
from worldsim.scenario.scenario import MOST_EPISODES, Scenario, check_size
from worldsim.scenario.script import Script, script
from worldsim.scenario.support import check_world, world_of

__all__ = [
    "MOST_EPISODES",
    "ConcreteEpisode",
    "Scenario",
    "ScenarioError",
    "Script",
    "check_size",
    "check_world",
    "expand",
    "load_many",
    "load_scenarios",
    "parse_scenario",
    "parse_scenarios",
    "plan_hash",
    "read_scenarios",
    "script",
    "unique",
    "world_of",
]
