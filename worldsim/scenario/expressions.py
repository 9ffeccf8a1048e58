"""Expressions of scenarios: names, numbers, arithmetic, comparisons, and / or / not, and a fixed list of functions.

Nothing else is an expression: no attributes, no keywords, no definitions; subscripts only with a fixed number behind a name.
Numbers are computed as floats; what cannot be computed (a division by zero, a root of a negative number) is NaN, which every
comparison but ``!=`` answers with false.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from worldsim.targets import ConfigError, suggest

MOST_CHARACTERS = 500
MOST_NODES = 150
MOST_DEPTH = 24

_ARRAYS = (np.ndarray, np.generic)

Values: TypeAlias = Mapping[str, Any]
_Run: TypeAlias = Callable[[Values], Any]

STEP_SIGNALS = ("action", "reward", "step", "time", "uncertainty")
"""Names that a predicate knows in every world, beside the world's labelled state."""
EPISODE_SIGNALS = (*STEP_SIGNALS, "length", "terminated", "truncated")
"""Names that a filter or an expectation knows in every world, beside the labelled state."""


class ExpressionError(ConfigError):
    """A text is no expression; the message says where, and what is allowed."""


def _sign(value: Any) -> Any:
    return np.sign(value) if isinstance(value, np.ndarray) else float(value > 0) - float(value < 0)


def _fold(pick: Callable[[Any, Any], Any], reduce: Callable[[Any], Any]) -> Callable[..., Any]:
    """``max(x)`` of a whole column, or ``max(a, b)`` element by element."""

    def call(first: Any, *others: Any) -> Any:
        if not others:
            return reduce(np.asarray(first))
        for other in others:
            first = pick(first, other)
        return first

    return call


def _minimum(a: Any, b: Any) -> Any:
    return np.minimum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else min(a, b)


def _maximum(a: Any, b: Any) -> Any:
    return np.maximum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else max(a, b)


def _either(array: Callable[[Any], Any], number: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: array(value) if isinstance(value, np.ndarray) else number(value)


_EACH: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 1, 1),
    "cos": (_either(np.cos, math.cos), 1, 1),
    "exp": (_either(np.exp, math.exp), 1, 1),
    "log": (_either(np.log, math.log), 1, 1),
    "max": (_fold(_maximum, np.max), 1, 8),
    "min": (_fold(_minimum, np.min), 1, 8),
    "sign": (_sign, 1, 1),
    "sin": (_either(np.sin, math.sin), 1, 1),
    "sqrt": (_either(np.sqrt, math.sqrt), 1, 1),
}
_WHOLE: dict[str, tuple[Callable[..., Any], int, int]] = {
    "all": (lambda x: bool(np.all(x)), 1, 1),
    "any": (lambda x: bool(np.any(x)), 1, 1),
    "count": (lambda x: float(np.count_nonzero(x)), 1, 1),
    "first": (lambda x: np.asarray(x).reshape(-1)[0], 1, 1),
    "last": (lambda x: np.asarray(x).reshape(-1)[-1], 1, 1),
    "mean": (np.mean, 1, 1),
    "median": (np.median, 1, 1),
    "quantile": (np.quantile, 2, 2),
    "std": (np.std, 1, 1),
    "sum": (np.sum, 1, 1),
}
STEP_FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = _EACH
"""Functions of one moment: name to the function, its fewest and its most arguments."""
EPISODE_FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = {**_EACH, **_WHOLE}
"""Functions of a whole episode, where a name is a column of values."""


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        text: As it was written.
        names: Names that it reads.
    """

    text: str
    names: frozenset[str]
    _run: _Run

    def __call__(self, values: Values) -> Any:
        """Evaluate with ``values`` of all names: numbers, booleans, text, or arrays ``(T,)``; ``action`` may be ``(T, A)``.

        Raises:
            ExpressionError: A value is missing, or text and numbers are mixed.
        """
        try:
            if not any(isinstance(value, _ARRAYS) for value in values.values()):
                return self._run(values)
            with np.errstate(all="ignore"):
                return self._run(values)
        except KeyError as error:
            raise ExpressionError(
                f"{self.text!r}: there is no value of {error.args[0]!r}: {suggest(str(error.args[0]), values)}"
            ) from error
        except (TypeError, IndexError) as error:
            raise ExpressionError(f"{self.text!r} cannot be computed: {error}") from error

    def holds(self, values: Values) -> bool:
        """Whether the expression is true; an array is, where all of it is.

        Raises:
            ExpressionError: As for a call.
        """
        result = self(values)
        return bool(np.all(result)) if isinstance(result, np.ndarray) else bool(result == result and result)

    def check_names(self, known: Iterable[str]) -> None:
        """Refuse names that are not known.

        Raises:
            ExpressionError: Names the first that is not.
        """
        allowed = sorted(known)
        for name in sorted(self.names):
            if name not in allowed:
                raise ExpressionError(f"{self.text!r} reads {name!r}, which is not there: {suggest(name, allowed)}")


def parse_expression(text: str, *, functions: Mapping[str, tuple[Callable[..., Any], int, int]] = STEP_FUNCTIONS) -> Expression:
    """Parse one expression; nothing in it is executed.

    Raises:
        ExpressionError: It is too long, nested too deeply, or has something that is no part of an expression.
    """
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(f"an expression has at most {MOST_CHARACTERS} characters, this one has {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is no expression, as 'speed > 30 and abs(offset) < 2': {getattr(error, 'msg', error)}") from error
    if sum(1 for _ in ast.walk(tree)) > 2 * MOST_NODES:
        raise ExpressionError(f"{text[:80]!r}...: an expression has at most {MOST_NODES} parts: split it")
    names: set[str] = set()
    run = _Builder(text, functions, names).build(tree.body, 0)
    return Expression(text, frozenset(names), run)


@dataclass
class _Builder:
    text: str
    functions: Mapping[str, tuple[Callable[..., Any], int, int]]
    names: set[str]

    def build(self, node: ast.expr, depth: int) -> _Run:
        if depth > MOST_DEPTH:
            raise ExpressionError(f"{self.text[:80]!r}...: an expression is nested at most {MOST_DEPTH} deep: split it")
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return self._constant(value)
            case ast.Name(id="true" | "false" as word):
                return self._constant(word == "true")
            case ast.Name(id=name):
                return self._name(name)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _unary(_UNARY[type(op)], self.build(operand, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _binary(_BINARY[type(op)], self.build(left, depth + 1), self.build(right, depth + 1))
            case ast.BoolOp(op=op, values=values):
                parts = [self.build(value, depth + 1) for value in values]
                return _joined(parts, every=isinstance(op, ast.And))
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
                parts = [self.build(part, depth + 1) for part in (left, *others)]
                pairs = [_compared(_COMPARE[type(op)], parts[i], parts[i + 1]) for i, op in enumerate(ops)]
                return pairs[0] if len(pairs) == 1 else _joined(pairs, every=True)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(name, args, depth)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(index))) if not isinstance(index, bool):
                return self._item(name, index)
            case _:
                found = ast.get_source_segment(self.text.strip(), node) or type(node).__name__
                raise ExpressionError(
                    f"{self.text!r}: {found[:80]!r} is no part of an expression: names, numbers, + - * / // % **, comparisons, "
                    f"and, or, not, and {', '.join(self.functions)} are"
                )

    def _constant(self, value: Any) -> _Run:
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 1e300 else math.nan
        return lambda _: value

    def _name(self, name: str) -> _Run:
        if name.startswith("_") or name in self.functions:
            raise ExpressionError(
                f"{self.text!r}: {name!r} is no name of a value" + ("" if name.startswith("_") else f": write {name}(...)")
            )
        self.names.add(name)
        return lambda values: values[name]

    def _item(self, name: str, index: int) -> _Run:
        whole = self._name(name)

        def run(values: Values) -> Any:
            found = np.asarray(whole(values))
            if found.ndim == 0:
                raise TypeError(f"{name!r} is a single value: leave [{index}] out")
            return found[..., index]

        return run

    def _call(self, name: str, args: list[ast.expr], depth: int) -> _Run:
        if name not in self.functions:
            raise ExpressionError(f"{self.text!r}: there is no function {name[:80]!r}: {suggest(name[:80], self.functions)}")
        function, least, most = self.functions[name]
        if not least <= len(args) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise ExpressionError(f"{self.text!r}: {name} takes {wanted} arguments, not {len(args)}")
        parts = [self.build(arg, depth + 1) for arg in args]

        def run(values: Values) -> Any:
            given = [_number(part(values)) for part in parts]
            try:
                return function(*given)
            except (ValueError, OverflowError, ZeroDivisionError):
                return math.nan

        return run


def _number(value: Any) -> Any:
    """Return a value to compute with; text is none."""
    if type(value) is float:
        return value
    if isinstance(value, str):
        raise TypeError(f"{value!r} is text: it can only be compared by == and !=")
    return value if isinstance(value, (np.ndarray, float)) else float(value)


def _power(base: Any, exponent: Any) -> Any:
    result = np.power(base, exponent) if isinstance(base, np.ndarray) or isinstance(exponent, np.ndarray) else base**exponent
    return math.nan if isinstance(result, complex) else result


def _negate(value: Any) -> Any:
    value = np.asarray(value)
    return ~value.astype(np.bool_) if value.ndim else not value


def _unary(operation: Callable[[Any], Any], part: _Run) -> _Run:
    if operation is _negate:
        return lambda values: _negate(part(values))
    return lambda values: operation(_number(part(values)))


def _binary(operation: Callable[[Any, Any], Any], left: _Run, right: _Run) -> _Run:
    def run(values: Values) -> Any:
        try:
            return operation(_number(left(values)), _number(right(values)))
        except (ZeroDivisionError, OverflowError, ValueError):
            return math.nan

    return run


def _compared(operation: Callable[[Any, Any], Any], left: _Run, right: _Run) -> _Run:
    def run(values: Values) -> Any:
        one, other = left(values), right(values)
        if isinstance(one, str) != isinstance(other, str) and operation not in (operator.eq, operator.ne):
            raise TypeError(f"text and a number ({one!r} and {other!r}) are compared by == and != alone")
        return operation(one, other)

    return run


def _joined(parts: list[_Run], *, every: bool) -> _Run:
    def run(values: Values) -> Any:
        result: Any = every
        for part in parts:
            found = part(values)
            if isinstance(found, np.ndarray) or isinstance(result, np.ndarray):
                result = np.logical_and(result, found) if every else np.logical_or(result, found)
            else:
                result = bool(found) and result if every else bool(found) or result
                if result is not every:
                    return result
        return result

    return run


_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: _negate}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
