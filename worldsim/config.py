"""Settings: shipped YAML, a user's YAML and overrides put together and checked, with messages that name key, place and way out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.composer import ComposerError

from worldsim.targets import ConfigError, check_name, instantiate_allowed, keyword_names, locate, resolved, suggest, targets

__all__ = ["ConfigError", "compose", "instantiate_allowed", "load_user_yaml", "suggest"]

MAX_YAML_BYTES = 1 << 20
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a group"}
_RESOLVER = re.compile(r"\$\{[^}]*(:|\$\{)")
_REFERENCE = re.compile(r"\?\?\?|\$\{[^}]*\}")

Lines = dict[tuple[str, ...], int]


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
        base, rest = _choose(name, edits)
    for edit in rest:
        _apply(base, edit)
    config = OmegaConf.create(base)
    missing = list(_missing(base))
    if missing and not allow_missing:
        raise ConfigError(f"no value for {', '.join(missing)}: add {' '.join(f'{key}=...' for key in missing)}")
    if not missing:
        _check_targets(config, rest)
    OmegaConf.set_struct(config, True)
    return config


# ---------------------------------------------------------------- options of groups


def group_options(name: str) -> dict[str, list[str]]:
    """Return the groups that the settings of command ``name`` draw on, and the options of each."""
    with initialize_config_module("worldsim.configs", version_base="1.3"):
        groups = _compose(name, []).hydra.runtime.choices
        loader = _loader()
        return {group: loader.get_group_options(group.partition("@")[0]) for group in groups if not group.startswith("hydra/")}


def _loader() -> ConfigLoader:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "Hydra is initialised by the caller"
    return hydra.config_loader


def _choose(name: str, edits: Sequence[Edit]) -> tuple[dict[str, Any], list[Edit]]:
    """Compose with the options that ``edits`` choose; return plain settings and the edits that set values."""
    chosen: list[Edit] = []
    while True:
        config = _compose(name, [f"{edit.key}={edit.value}" for edit in chosen])
        groups = config.hydra.runtime.choices
        more = [edit for edit in edits if edit not in chosen and edit.key in groups and isinstance(edit.value, str)]
        if not more:
            break
        for edit in more:
            _check_option(_loader(), edit)
        keys = {edit.key for edit in more}
        chosen = [edit for edit in chosen if edit.key not in keys] + list({edit.key: edit for edit in more}.values())
        edits = [edit for edit in edits if edit in chosen or edit not in more]
    base = OmegaConf.to_container(config, resolve=False)
    assert isinstance(base, dict), "a primary config is a mapping"
    del base["hydra"]
    return {str(key): value for key, value in base.items()}, [edit for edit in edits if edit not in chosen]


def _compose(name: str, overrides: list[str]) -> DictConfig:
    try:
        return hydra_compose(name, overrides, return_hydra_config=True)
    except MissingConfigException as error:
        raise ConfigError(f"there are no settings for {name!r}: {str(error).splitlines()[0]}") from error


def _check_option(loader: ConfigLoader, edit: Edit) -> None:
    options = loader.get_group_options(edit.key.partition("@")[0])
    if edit.value not in options:
        raise ConfigError(f"{edit.place}: {edit.key} has no option {edit.value!r}: {suggest(edit.value, options)}")


# ---------------------------------------------------------------- values


def _apply(base: dict[str, Any], edit: Edit) -> None:
    """Set one value in plain settings ``base``, or raise ConfigError."""
    if isinstance(edit.value, Mapping) and not _replaces(base, edit):
        for key, value in edit.value.items():
            _apply(base, edit.at(*str(key).split("."), value=value))
        return
    node: Any = base
    for depth, part in enumerate(edit.path[:-1]):
        _check_key(node, part, edit, depth)
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    last = edit.path[-1]
    _check_key(node, last, edit, len(edit.path) - 1)
    if isinstance(node, list):
        node[int(last)] = edit.value
    else:
        node[last] = _typed(node.get(last), edit)


def _replaces(base: Any, edit: Edit) -> bool:
    """Whether a mapping takes the old value's place: there is none to merge with, or it builds something else."""
    node = base
    for part in edit.path:
        node = node.get(part) if isinstance(node, dict) else None
    return not isinstance(node, dict) or edit.value.get("_target_", node.get("_target_")) != node.get("_target_")


def _check_key(node: Any, part: str, edit: Edit, depth: int) -> None:
    """Refuse a key that ``node`` lacks, unless it is open: empty, or a ``_target_`` that takes the keyword."""
    parent = ".".join(edit.path[:depth])
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise ConfigError(f"{edit.place}: {parent} is a list of {len(node)}: {part!r} is none of its positions")
        return
    if not isinstance(node, dict):
        raise ConfigError(f"{edit.place}: {parent} is {node!r}: it has no key {part!r}")
    if part in node or (not node and depth):
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


# ---------------------------------------------------------------- a user's YAML


def load_user_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of at most 1 MiB that nobody vouches for: plain values only, no aliases, no resolvers.

    Raises:
        ConfigError: The file is no such YAML; the message names file and line.
        OSError: The file cannot be read.
    """
    return _parse(Path(path))[0]


def _file_edits(file: str | Path | None) -> list[Edit]:
    if file is None:
        return []
    content, lines = _parse(Path(file))
    return [Edit(tuple(key.split(".")), value, str(file), lines) for key, value in content.items()]


def _parse(path: Path) -> tuple[dict[str, Any], Lines]:
    if path.stat().st_size > MAX_YAML_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes: settings have at most {MAX_YAML_BYTES}; is it the right file?")
    try:
        text = path.read_text(encoding="utf-8")
        lines = dict(_walk(yaml.compose(text, Loader=_NoAliases), path))
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if lines else {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: settings are YAML") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: this is not the YAML that settings are written in: {error.problem}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: this is not the YAML that settings are written in: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply: settings have a handful of levels") from error
    assert isinstance(content, dict), "checked while walking"
    return {str(key): value for key, value in content.items()}, lines


class _NoAliases(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, "aliases (*name) are not allowed: repeat the value", mark)
        return super().compose_node(parent, index)


def _walk(node: yaml.Node | None, path: Path, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the line of every key below a mapping, and check keys and text on the way."""
    if not where and node is not None and not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: settings are lines of 'key: value'")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"{path}:{line}: key {key.value!r} is no text: quote it")
            below = (*where, *key.value.split("."))
            yield below, line
            yield from _walk(value, path, below)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _walk(value, path, (*where, str(i)))
    elif isinstance(node, yaml.ScalarNode) and _RESOLVER.search(node.value):
        line = node.start_mark.line + 1
        raise ConfigError(f"{path}:{line}: {node.value!r} calls a resolver: a settings file may only refer to keys, as ${{seed}}")
