"""Settings: shipped YAML, a user's YAML and overrides put together and checked, with messages that name key, place and way out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from worldsim.targets import ConfigError, check_name, instantiate_allowed, keyword_names, locate, resolved, suggest, targets
from worldsim.user_yaml import load_user_yaml, parse_yaml

__all__ = ["ConfigError", "compose", "instantiate_allowed", "load_user_yaml", "suggest"]

CONFIGS = Path(__file__).parent / "configs"
PACKS_VARIABLE = "WORLDSIM_PACKS"
"""Environment variable: packages or folders, separated by commas, with further options of groups, as scenarios."""
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a group"}
_REFERENCE = re.compile(r"\?\?\?|\$\{[^}]*\}")


@dataclass(frozen=True)
class Edit:
    """One value that a user sets: ``path`` in the settings, and ``value``; ``source`` and ``lines`` tell where it is written."""

    path: tuple[str, ...]
    value: Any
    source: str = "command line"
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The path as people write it."""
        return ".".join(self.path)

    @property
    def place(self) -> str:
        """File and line, or the command line."""
        known = (self.lines[self.path[:n]] for n in range(len(self.path), 0, -1) if self.path[:n] in self.lines)
        line = next(known, None)
        return self.source if line is None else f"{self.source}:{line}"

    def at(self, *below: str, value: Any = None) -> Edit:
        """Return the edit of a key further down."""
        return replace(self, path=(*self.path, *below), value=value)


def compose(name: str, overrides: Sequence[str] = (), file: str | Path | None = None, *, allow_missing: bool = False) -> DictConfig:
    """Put the settings of command ``name`` together: shipped YAML, then the user's ``file``, then ``overrides``.

    Args:
        name: A primary config in ``worldsim.configs``, as ``collect``.
        overrides: Hydra overrides, as ``source=gym`` (an option of a group) and ``source.id=CartPole-v1`` (a value).
        file: A YAML file with the same keys; ``source: gym`` chooses an option and ``source.id: CartPole-v1`` sets a value.
        allow_missing: Whether values that the user has to give (``???``) may still be absent.

    Returns:
        The settings; interpolations are not resolved yet.

    Raises:
        ConfigError: A key is unknown, a value of the wrong type, an option unknown, a ``_target_`` not allowed, or the file is no YAML.
    """
    edits = [*_file_edits(file), *map(_override_edit, overrides)]
    with initialize_config_module("worldsim.configs", version_base="1.3"):
        base, rest, groups = _choose(name, edits)
    free = _list_groups(name)
    for edit in rest:
        if edit.path[0] not in {*base, *groups}:
            raise ConfigError(f"{edit.place}: unknown key {edit.path[0]!r}: {suggest(edit.path[0], [*base, *groups])}")
        _apply(base, edit, free)
    config = OmegaConf.create(base)
    missing = list(_missing(base))
    if missing and not allow_missing:
        raise ConfigError(f"no value for {', '.join(missing)}: add {' '.join(f'{key}=...' for key in missing)}")
    if not missing:
        _check_targets(config, rest)
    OmegaConf.set_struct(config, True)
    return config


# ---------------------------------------------------------------- packs of settings


class Packs(SearchPathPlugin):
    """Adds to Hydra's search path what the environment variable ``WORLDSIM_PACKS`` names: packages or folders, separated by commas.

    A pack holds groups as ``worldsim.configs`` does, as ``scenario/wet.yaml``; it cannot replace a shipped option. It is named in
    the environment alone: a settings file that nobody vouches for must not choose what is imported.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the packs, behind what is shipped."""
        for pack in filter(None, (name.strip() for name in os.environ.get(PACKS_VARIABLE, "").split(","))):
            place = pack.removeprefix("pkg://").removeprefix("file://")
            if Path(place).is_dir():
                search_path.append("worldsim packs", f"file://{Path(place).resolve()}")
            elif all(part.isidentifier() for part in place.split(".")) and _exists(place):
                search_path.append("worldsim packs", f"pkg://{place}")
            else:
                raise ConfigError(f"{PACKS_VARIABLE}: {pack!r} is neither an installed package nor a folder: correct the variable")


def _exists(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


Plugins.instance().register(Packs)


# ---------------------------------------------------------------- options of groups


def group_options(name: str) -> dict[str, list[str]]:
    """Return the groups that the settings of command ``name`` draw on, and the options of each."""
    with initialize_config_module("worldsim.configs", version_base="1.3"):
        groups = [*_compose(name, []).hydra.runtime.choices, *_list_groups(name)]
        loader = _loader()
        return {group: loader.get_group_options(group.partition("@")[0]) for group in groups if not group.startswith("hydra/")}


def _list_groups(name: str) -> frozenset[str]:
    """Return the groups of which a command takes several options; the command checks what stands below them."""
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    defaults = config.get("defaults", []) if isinstance(config, DictConfig) else []
    return frozenset(str(key) for item in defaults if OmegaConf.is_dict(item) for key, value in item.items() if OmegaConf.is_list(value))


def _loader() -> ConfigLoader:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "Hydra is initialised by the caller"
    return hydra.config_loader


def _choose(name: str, edits: Sequence[Edit]) -> tuple[dict[str, Any], list[Edit], list[str]]:
    """Compose with the options that ``edits`` choose; return plain settings, the edits that set values, and the groups there are."""
    chosen: dict[str, Edit] = {}
    rest = list(edits)
    while True:
        config = _compose(name, [f"{key}={_option_text(edit.value)}" for key, edit in chosen.items()])
        groups, several = config.hydra.runtime.choices, _list_groups(name)
        more = [edit for edit in rest if (edit.key in groups or edit.key in several) and _names_options(edit, edit.key in several)]
        if not more:
            break
        for edit in more:
            _check_options(_loader(), edit)
            chosen[edit.key] = edit
        rest = [edit for edit in rest if edit not in more]
    base = OmegaConf.to_container(config, resolve=False)
    assert isinstance(base, dict), "a primary config is a mapping"
    del base["hydra"]
    return {str(key): value for key, value in base.items()}, rest, [str(group) for group in groups if not str(group).startswith("hydra/")]


def _compose(name: str, overrides: list[str]) -> DictConfig:
    try:
        return hydra_compose(name, overrides, return_hydra_config=True)
    except MissingConfigException as error:
        raise ConfigError(f"there are no settings for {name!r}: {str(error).splitlines()[0]}") from error


def _names_options(edit: Edit, several: bool) -> bool:
    return isinstance(edit.value, str) or (several and isinstance(edit.value, list))


def _option_text(value: Any) -> str:
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)


def _check_options(loader: ConfigLoader, edit: Edit) -> None:
    options = loader.get_group_options(edit.key.partition("@")[0])
    for value in edit.value if isinstance(edit.value, list) else [edit.value]:
        if value not in options:
            raise ConfigError(f"{edit.place}: {edit.key} has no option {value!r}: {suggest(str(value), options)}")


# ---------------------------------------------------------------- values


def _apply(base: dict[str, Any], edit: Edit, free: frozenset[str] = frozenset()) -> None:
    """Set one value in plain settings ``base``, or raise ConfigError; below the keys ``free`` anything goes."""
    if isinstance(edit.value, Mapping) and not _replaces(base, edit):
        for key, value in edit.value.items():
            _apply(base, edit.at(*str(key).split("."), value=value), free)
        return
    node: Any = base
    for depth, part in enumerate(edit.path[:-1]):
        _check_key(node, part, edit, depth, free)
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    last = edit.path[-1]
    _check_key(node, last, edit, len(edit.path) - 1, free)
    if isinstance(node, list):
        node[int(last)] = edit.value
    else:
        node[last] = _typed(node.get(last), edit)


def _replaces(base: Any, edit: Edit) -> bool:
    """Whether a mapping takes the old value's place: there is none to merge with, it is empty, or it builds something else."""
    node = base
    for part in edit.path:
        node = node.get(part) if isinstance(node, dict) else None
    return not isinstance(node, dict) or not node or edit.value.get("_target_", node.get("_target_")) != node.get("_target_")


def _check_key(node: Any, part: str, edit: Edit, depth: int, free: frozenset[str]) -> None:
    """Refuse a key that ``node`` lacks, unless it is open: empty, or a ``_target_`` that takes the keyword."""
    parent = ".".join(edit.path[:depth])
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise ConfigError(f"{edit.place}: {parent} is a list of {len(node)}: {part!r} is none of its positions")
        return
    if not isinstance(node, dict):
        raise ConfigError(f"{edit.place}: {parent} is {node!r}: it has no key {part!r}")
    if part in node or (not node and depth) or edit.path[0] in free:
        return
    known = {str(key): False for key in node}
    if "_target_" in node:
        takes = keyword_names(locate(node["_target_"], f"{parent}._target_"))
        if takes is None or part in takes:
            return
        known |= takes
    raise ConfigError(f"{edit.place}: unknown key {'.'.join(edit.path[: depth + 1])!r}: {suggest(part, known)}")


def _typed(default: Any, edit: Edit) -> Any:
    """Return the value as the type of ``default``; null, ``???`` and references to other keys go with every type."""
    value = edit.value
    if default is None or value is None or any(isinstance(x, str) and _REFERENCE.fullmatch(x) for x in (default, value)):
        return value
    kind, given = type(default), type(value)
    if kind is given:
        return value
    if kind is float and given is int:
        return float(value)
    if kind is int and given is float and value.is_integer():
        return int(value)
    if kind is str and given in (int, float):
        return str(value)
    example = f" of keys {', '.join(map(str, default))}" if isinstance(default, dict) else f", as {default!r}"
    raise ConfigError(f"{edit.place}: {edit.key} is {value!r}: it must be {_KINDS[kind]}{example}")


def _missing(node: Any, where: str = "") -> Iterator[str]:
    """Yield the keys of values that the user has to give."""
    if node == "???":
        yield where
    children: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _missing(child, f"{where}.{key}" if where else str(key))


def _check_targets(config: DictConfig, edits: Sequence[Edit]) -> None:
    for key, target in targets(resolved(config)):
        path = tuple(key.split("."))
        edit = next((edit for edit in reversed(edits) if edit.path == path[: len(edit.path)]), None)
        check_name(target, f"{replace(edit, path=path).place}: {key}" if edit else key)


# ---------------------------------------------------------------- the command line's overrides


def _override_edit(text: str) -> Edit:
    try:
        override: Override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"command line: {text!r} is not of the form key=value: quote special characters, as 'key=\"a,b\"'") from error
    if override.is_sweep_override():
        raise ConfigError(f"command line: {text!r} gives several values: write a list, as {override.key_or_group}=[a,b]")
    if override.is_delete():
        raise ConfigError(f"command line: {text!r} would remove a key: set it to null instead, as {override.key_or_group}=null")
    return Edit(tuple(override.get_key_element().lstrip("+").split(".")), _plain(override.value()))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, list) else value


def _file_edits(file: str | Path | None) -> list[Edit]:
    if file is None:
        return []
    content, lines = parse_yaml(Path(file))
    return [Edit(tuple(key.split(".")), value, str(file), lines) for key, value in content.items()]
