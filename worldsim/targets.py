"""Objects from settings: ``_target_`` names what to build, from an allow-list."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

TRUST_VARIABLE = "WORLDSIM_TRUST"
"""Environment variable: packages, separated by commas, that a ``_target_`` may also name."""

ALLOWED_NAMES = frozenset(
    {
        "diffusers.AutoencoderDC",
        "diffusers.AutoencoderKL",
        "diffusers.AutoencoderKLWan",
        "diffusers.AutoencoderTiny",
        "diffusers.DDIMScheduler",
        "diffusers.DPMSolverMultistepScheduler",
        "diffusers.EulerDiscreteScheduler",
        "diffusers.FlowMatchEulerDiscreteScheduler",
        "diffusers.FlowMatchHeunDiscreteScheduler",
        "diffusers.HeunDiscreteScheduler",
        "diffusers.UniPCMultistepScheduler",
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.SGD",
    }
)
"""Classes of other libraries that a ``_target_`` may name."""


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or not allowed; the message names it and the way out."""


def suggest(name: str, options: Iterable[str]) -> str:
    """Return a half sentence: what ``name`` was probably meant to be, and all ``options``."""
    known = sorted(map(str, options))
    close = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"Allowed: {', '.join(known) or 'nothing'}"


# ---------------------------------------------------------------- objects from settings


def instantiate_allowed(cfg: DictConfig | Mapping[str, Any], **extra: Any) -> Any:
    """Build the object that ``cfg`` describes: ``_target_`` is called with the other keys, nested ones first.

    Interpolations are resolved before anything is checked, and everything is checked before anything is built.
    ``_partial_: true`` gives a ``functools.partial``. No other underscore key is accepted.

    Args:
        cfg: A mapping with ``_target_``: a class or function defined in ``worldsim``, in a package named by the
            environment variable ``WORLDSIM_TRUST``, or one of ``ALLOWED_NAMES``.
        **extra: Further keywords of the outermost call, passed as they are; they win over ``cfg``'s.

    Raises:
        ConfigError: A ``_target_`` is not allowed, does not exist, or does not take one of the keywords.
    """
    where = cfg._get_full_key(None) if isinstance(cfg, DictConfig) else ""
    node = resolved(cfg)
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{where or 'settings'}: there is no '_target_': name the class to build, as 'worldsim.module.Name'")
    for key, target in targets(node, where):
        locate(target, key)
    return _build({**node, **extra}, where, skip=frozenset(extra))


def resolved(cfg: DictConfig | Mapping[str, Any]) -> Any:
    """Return plain containers with every interpolation replaced by its value."""
    try:
        config = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg))
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"settings cannot be resolved: {_first_line(error)}") from error


def targets(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(key path, value)`` of every ``_target_`` in plain containers."""
    children: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        path = f"{where}.{key}" if where else str(key)
        if key == "_target_":
            yield path, child
        else:
            yield from targets(child, path)


def check_name(target: Any, key: str) -> None:
    """Refuse a ``_target_`` by its name alone, without importing anything.

    Raises:
        ConfigError: ``target`` is no dotted public name under an allowed package.
    """
    if isinstance(target, str) and target in ALLOWED_NAMES:
        return
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts) or any(part.startswith("_") for part in parts):
        raise ConfigError(f"{key}: {target!r} is not allowed: name a public class or function as 'worldsim.module.Name'")
    if parts[0] not in _packages():
        raise ConfigError(
            f"{key}: {target!r} is not allowed: settings may only build what is defined in {', '.join(sorted(_packages()))}; "
            f"for a package of your own, set {TRUST_VARIABLE} to its name"
        )


def _packages() -> set[str]:
    return {"worldsim", *filter(None, (name.strip() for name in os.environ.get(TRUST_VARIABLE, "").split(",")))}


def locate(target: str, key: str) -> Any:
    """Import ``target`` and make sure that it is defined where its name says.

    Raises:
        ConfigError: ``target`` does not exist, cannot be called, or is defined outside the allowed packages.
    """
    check_name(target, key)
    found: Any = None
    parts = target.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:depth])
        try:
            found = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            continue
        for part in parts[depth:]:
            found = _attribute(found, part, target, key)
        break
    if found is None:
        raise ConfigError(f"{key}: {target!r} does not exist: is package {parts[0]!r} installed?")
    if not callable(found):
        raise ConfigError(f"{key}: {target!r} is not a class or function: it cannot be called")
    home = getattr(found, "__module__", None) or "no module"
    if target not in ALLOWED_NAMES and home.split(".")[0] not in _packages():
        raise ConfigError(f"{key}: {target!r} is not allowed: it is defined in {home!r}, not in {', '.join(sorted(_packages()))}")
    return found


def _attribute(owner: Any, name: str, target: str, key: str) -> Any:
    found = getattr(owner, name, None)
    if isinstance(found, ModuleType):
        raise ConfigError(f"{key}: {target!r} is not allowed: it reaches the module {found.__name__!r} through another one")
    if found is None:
        public = [other for other, value in vars(owner).items() if getattr(value, "__module__", None) == owner.__name__]
        raise ConfigError(f"{key}: {target!r} does not exist: {suggest(name, public)}")
    return found


def _build(node: Any, where: str, skip: frozenset[str] = frozenset()) -> Any:
    if isinstance(node, list):
        return [_build(child, f"{where}.{i}") for i, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    built = {key: value if key in skip else _build(value, f"{where}.{key}" if where else str(key)) for key, value in node.items()}
    if "_target_" not in built:
        return built
    key = f"{where}._target_" if where else "_target_"
    call = locate(built.pop("_target_"), key)
    only_bind = built.pop("_partial_", False)
    _check_keywords(call, built, where or "(top level)", complete=not only_bind)
    return partial(call, **built) if only_bind else call(**built)


def _check_keywords(call: Any, keywords: Mapping[str, Any], where: str, *, complete: bool) -> None:
    name = getattr(call, "__qualname__", str(call))
    allowed = keyword_names(call)
    for key in keywords:
        if key.startswith("_") or (allowed is not None and key not in allowed):
            raise ConfigError(f"{where}: {name} has no setting {key!r}: {suggest(key, allowed or ())}")
    missing = {key for key, value in keywords.items() if isinstance(value, str) and value == "???"}
    if complete:
        missing |= {key for key, needed in (allowed or {}).items() if needed and key not in keywords}
    if missing:
        raise ConfigError(f"{where}: {name} needs {', '.join(map(repr, sorted(missing)))}: give a value")


def keyword_names(call: Any) -> dict[str, bool] | None:
    """Return the keywords that ``call`` takes and whether each is required; None where it takes any."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name: p.default is p.empty for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def keyword_kinds(call: Any) -> dict[str, type]:
    """Return the keywords of ``call`` that are annotated as a plain ``float``, ``int``, ``bool`` or ``str``, and which."""
    plain = {kind.__name__: kind for kind in (float, int, bool, str)}
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return {}
    named = {p.name: p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "") for p in parameters}
    return {name: plain[annotation] for name, annotation in named.items() if annotation in plain}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
