"""A user's YAML: plain values only, and messages that name file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.composer import ComposerError

from worldsim.targets import ConfigError

MAX_YAML_BYTES = 1 << 20
_RESOLVER = re.compile(r"\$\{[^}]*(:|\$\{)")

Lines = dict[tuple[str, ...], int]
"""Line of every key, by its path."""


def load_user_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of at most 1 MiB that nobody vouches for: plain values only, no aliases, no resolvers.

    Raises:
        ConfigError: The file is no such YAML; the message names file and line.
        OSError: The file cannot be read.
    """
    return parse_yaml(Path(path))[0]


def parse_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read as ``load_user_yaml``, and tell the line of every key; a key with dots counts as several keys."""
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
