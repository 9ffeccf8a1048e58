"""What a scenario is made of: starts, disturbances, events, filters and expectations, and how each is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from worldsim.scenario.checks import (
    Check,
    as_mapping,
    boolean,
    is_number,
    key,
    many,
    named,
    number,
    one_of,
    optional,
    record,
    single_key,
    text,
    whole,
)
from worldsim.scenario.expressions import EPISODE_FUNCTIONS, STEP_FUNCTIONS, ExpressionError, parse_expression
from worldsim.scenario.problems import REFERENCE, Place, shorten
from worldsim.targets import suggest

STREAMS = ("frames", "latents", "state", "uncertainty", "labels")


def expression(functions: Mapping[str, Any]) -> Check:
    """Check an expression; ``$name`` within it stands for a value."""

    def check(value: Any, place: Place) -> Any:
        if not isinstance(value, str):
            place.fail(f"={shorten(value)} must be an expression in quotes, as 'speed > 30'")
            return ""
        place.names(value)
        try:
            parse_expression(value if place.scope is None else REFERENCE.sub(lambda m: m[1] or "1", value), functions=functions)
        except ExpressionError as error:
            place.fail(f": {error}")
        return value

    return check


_PATH = text(least=1)
_NAME = text(80, least=1)

# ---------------------------------------------------------------- what is told


@dataclass(frozen=True)
class Told:
    """What the world is told: ``tags``, ``numbers`` and ``text``; None where nothing is said."""

    tags: tuple[str, ...] | None = key(optional(many(text(200), "[night, wet]")), None)
    numbers: Mapping[str, float] | None = key(optional(named(number())), None)
    text: str | None = key(optional(text()), None)


# ---------------------------------------------------------------- where an episode starts


@dataclass(frozen=True)
class RandomStart:
    """``random``: one of the world's own start contexts, drawn by the episode's seed."""


@dataclass(frozen=True)
class ContextStart:
    """``3``: the world's own start context of that index."""

    index: int


@dataclass(frozen=True)
class ClipStart:
    """``{clip: {dataset, episode, step}}``: frames ``step`` and on of an episode; what is left out is drawn by the episode's seed.

    With ``resize`` frames of another size are cut to the world's shape and scaled; likewise for the other starts that have it.
    """

    dataset: str = key(_PATH)
    episode: int | None = key(optional(whole()), None)
    step: int | None = key(optional(whole()), None)
    resize: bool = key(boolean, False)


@dataclass(frozen=True)
class ImageStart:
    """``{image: path}``: one picture."""

    image: str = key(_PATH)
    resize: bool = key(boolean, False)


def _range(value: Any, place: Place) -> Any:
    pair = many(number(), "[0.2, 0.6]", least=2, most=2)(value, place)
    if len(pair) == 2 and all(map(is_number, pair)) and pair[0] > pair[1]:
        place.fail(f"={shorten(value)} must be [lowest, highest]")
    return pair


@dataclass(frozen=True)
class Where:
    """Which episodes of a dataset: those with all ``tags``, one of the ``scenarios`` and ``policies``, and every number in its range."""

    tags: tuple[str, ...] = key(many(text(200), "[night]"), ())
    numbers: Mapping[str, tuple[float, float]] = key(named(_range), {})
    scenarios: tuple[str, ...] = key(many(_NAME, "[calm]"), ())
    policies: tuple[str, ...] = key(many(_NAME, "[PurePursuit]"), ())


@dataclass(frozen=True)
class DatasetStart:
    """``{dataset: path, where: {...}}``: a clip, drawn by the episode's seed from the episodes that a query finds."""

    dataset: str = key(_PATH)
    where: Where | None = key(optional(record(Where)), None)  # noqa: RUF009 - a field
    resize: bool = key(boolean, False)


@dataclass(frozen=True)
class SnapshotStart:
    """``{snapshot: path}``: a stored state of the world."""

    snapshot: str = key(_PATH)


@dataclass(frozen=True)
class GeneratedStart:
    """``generate``: first frames sampled from the conditioning alone."""


Start: TypeAlias = RandomStart | ContextStart | ClipStart | ImageStart | DatasetStart | SnapshotStart | GeneratedStart


def start(value: Any, place: Place) -> Any:
    """Check where an episode starts."""
    if place.refers(value):
        return value
    if isinstance(value, str) and value in ("random", "generate"):
        return RandomStart() if value == "random" else GeneratedStart()
    if isinstance(value, int) and not isinstance(value, bool):
        return ContextStart(whole()(value, place))
    forms = "'random', 'generate', the index of a start context (0 or more), or {clip|image|dataset|snapshot: ...}"
    if not isinstance(value, Mapping):
        hint = f"; {suggest(value[:80], ('random', 'generate'))}" if isinstance(value, str) else ""
        place.fail(f"={shorten(value)} must be {forms}{hint}")
        return None
    kind = single_key(value, place, tuple(_STARTS), ignore=("where", "resize"))
    if kind == "clip":
        return record(ClipStart)(value["clip"], place.at("clip")) if _alone(value, place) else None
    return None if kind is None else record(_STARTS[kind])(value, place)


def _alone(value: Mapping[str, Any], place: Place) -> bool:
    place.only(value, ("clip",))
    return len(value) == 1


_STARTS: dict[str, type[Any]] = {"clip": ClipStart, "image": ImageStart, "dataset": DatasetStart, "snapshot": SnapshotStart}

# ---------------------------------------------------------------- what disturbs the driver


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Steps ``start`` to ``stop - 1`` of the episode; without ``stop``, to its end."""

    start: int = key(whole(), 0)
    stop: int | None = key(optional(whole(1)), None)


@dataclass(frozen=True, kw_only=True)
class NoisePerturb(_Span):
    """Jitter of ``gaussian`` half ranges of a number, and with probability ``epsilon`` a random action."""

    gaussian: float = key(number(0), 0.0)
    epsilon: float = key(number(0, 1), 0.0)


@dataclass(frozen=True, kw_only=True)
class DelayPerturb(_Span):
    """Actions take effect ``steps`` later, 0 for at once; until then the first one given does."""

    steps: int = key(whole(0, 1000), 1)


@dataclass(frozen=True, kw_only=True)
class StickyPerturb(_Span):
    """With probability ``p`` a step, the last action is done again."""

    p: float = key(number(0, 1))


@dataclass(frozen=True, kw_only=True)
class DropoutPerturb(_Span):
    """With probability ``p`` a step, actions are lost for ``steps`` steps: zeros (``zero``) or the last one (``hold``) in their place."""

    p: float = key(number(0, 1))
    steps: int = key(whole(1, 100_000), 1)
    fill: str = key(one_of("zero", "hold"), "zero")


def _numbers(value: Any, place: Place) -> Any:
    return many(number(), "[0.1, 0, 0]", least=1, wrap=True)(value, place)


@dataclass(frozen=True, kw_only=True)
class BiasPerturb(_Span):
    """``amount`` is added: one number to all numbers of the action, or a list with one for each; the result stays in the space."""

    amount: tuple[float, ...] = key(_numbers)


Perturb: TypeAlias = NoisePerturb | DelayPerturb | StickyPerturb | DropoutPerturb | BiasPerturb
PERTURBS: dict[str, type[Any]] = {
    "noise": NoisePerturb,
    "delay": DelayPerturb,
    "sticky": StickyPerturb,
    "dropout": DropoutPerturb,
    "bias": BiasPerturb,
}


def perturb(value: Any, place: Place) -> Any:
    """Check one disturbance: ``kind``, its amounts, and ``start`` and ``stop`` in steps."""
    given = as_mapping(value, place)
    if given is None:
        return None
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in PERTURBS:
        found = f"kind={shorten(kind)} is none" if "kind" in given else f"there is no 'kind' among {', '.join(given) or 'no keys'}"
        place.at("kind").log.add(
            (*place.root, *place.path, "kind"),
            f"scenario {place.scenario!r}: ",
            f"{place.key}: {found}: {suggest(str(kind)[:80], PERTURBS)}",
        )
        return None
    return record(PERTURBS[kind], ignore=("kind",), also=_ordered)(given, place)


def _ordered(span: Any, place: Place) -> None:
    if isinstance(span.start, int) and isinstance(span.stop, int) and span.stop <= span.start:
        place.at("stop").fail(f"={span.stop} must be after start={span.start}")


# ---------------------------------------------------------------- filters and expectations


@dataclass(frozen=True)
class Filter:
    """An expression over a finished episode that has to hold.

    Attributes:
        that: The expression, as ``length >= 20``.
        otherwise: ``drop`` commits the episode as rejected; ``mark`` keeps it. The reason is stored either way.
        reason: What is stored; default: the expression.
    """

    that: str = key(expression(EPISODE_FUNCTIONS))
    otherwise: str = key(one_of("drop", "mark"), "drop", name="else")
    reason: str = key(text(200), "")


@dataclass(frozen=True)
class Expect:
    """An assertion: ``that`` holds in at least ``share`` of a scenario's episodes."""

    name: str = key(_NAME)
    that: str = key(expression(EPISODE_FUNCTIONS))
    share: float = key(number(above=0, high=1), 1.0)


def shorthand(kind: type[Any], *, with_name: bool = False) -> Check:
    """Check a filter or an expectation; an expression alone stands for ``{that: ...}``."""

    def check(value: Any, place: Place) -> Any:
        given = {"that": value} if isinstance(value, str) else value
        if with_name and isinstance(given, Mapping) and "name" not in given and isinstance(given.get("that"), str):
            given = {"name": given["that"][:80], **given}
        return record(kind)(given, place)

    return check


STEP_EXPRESSION = expression(STEP_FUNCTIONS)
"""Check of a predicate over one moment."""
