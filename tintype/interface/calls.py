"""What the public functions say of a call that cannot be: one line in place of a TypeError."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from tintype.errors import UserError, unknown_name

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

# Types that are checked, as annotations have them: what is taken for one, and its name in messages.
# One that would have to be imported is known by the name of its class.
KNOWN: dict[str, tuple[type | str, str]] = {
    "bool": (bool, "True or False"),
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "str": (str, "a text"),
    "Path": (os.PathLike, "a path"),
    "Mapping": (Mapping, "a mapping"),
    "None": (type(None), "None"),
    "Declaration": ("Declaration", "a declaration"),
    "Recipe": ("Recipe", "a Recipe"),
    "RunFolder": ("RunFolder", "a Run"),
}


def public(*, hint: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Answer wrong calls of a function by a UserError, which ends in the hint.

    Checked are the number and the names of the arguments, and values whose annotation is simple.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*positional: P.args, **named: P.kwargs) -> R:
            _check(function, positional, named, hint)
            return function(*positional, **named)

        return call

    return decorate


def public_methods(cls: C) -> C:
    """Do for all public methods that a class defines what `public` does for a function."""
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(cls, name, public()(method))
    return cls


def _check(
    function: Callable[..., Any], positional: tuple[Any, ...], named: dict[str, Any], hint: str
) -> None:
    """Raise a UserError for the first thing that is wrong with a call."""
    known = _parameters(function)
    given = positional[1:] if "self" in known else positional
    shown = {name: parameter for name, parameter in known.items() if name != "self"}
    first = [name for name, p in shown.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    call = getattr(function, "__name__", "this")

    if len(given) > len(first):
        only = f"only {' and '.join(first)}" if first else "nothing"
        named_ones = [name for name in shown if name not in first]
        rest = f", the rest by name, as in {named_ones[0]}=..." if named_ones else ""
        raise _error(f"{call} takes {only} by position{rest} (got {len(given)}).", hint)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in shown.values()):
        for name in named:
            if name == "progress" and "verbose" in shown and name not in shown:
                raise UserError(f"{call} has no argument progress. Expected verbose=False.")
            if name not in shown:
                raise unknown_name(f"argument of {call}:", name, shown, hint)

    for name in first[: len(given)]:
        if name in named:
            raise UserError(f"{call} was given {name} twice.")
    values = {**dict(zip(first, given, strict=False)), **named}
    for name, parameter in shown.items():
        open_ended = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name not in values and parameter.default is parameter.empty and not open_ended:
            raise _error(f"{call} needs {name}.", hint)

    for name, value in values.items():
        if name in shown:
            _check_type(name, value, str(shown[name].annotation))


@functools.cache
def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _check_type(name: str, value: Any, annotation: str) -> None:
    """Raise a UserError if an argument has another type than a simple annotation says."""
    if inner := re.fullmatch(r"Sequence\[((?:(?!\] \|).)*)\]", annotation):
        if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
            raise UserError(f"{name}: expected a list (got {_shown(value)}).")
        if isinstance(value, Sequence):
            for number, element in enumerate(value):
                _check_type(f"{name}[{number}]", element, inner[1])
        return

    kinds = [kind.partition("[")[0] for kind in annotation.split(" | ")]
    if KNOWN.keys() >= set(kinds) and not any(_is(value, kind) for kind in kinds):
        *words, last = dict.fromkeys(KNOWN[kind][1] for kind in kinds)
        expected = f"{', '.join(words)} or {last}" if words else last
        raise UserError(f"{name}: expected {expected} (got {_shown(value)}).")


def _is(value: Any, kind: str) -> bool:
    wanted = KNOWN[kind][0]
    if isinstance(wanted, str):
        return wanted in {base.__name__ for base in type(value).__mro__}
    if isinstance(value, bool):
        return kind == "bool"
    zero_or_one = kind == "bool" and isinstance(value, numbers.Integral) and value in (0, 1)
    return isinstance(value, wanted) or zero_or_one


def _shown(value: Any) -> str:
    text = repr(value)
    plain = len(text) <= 60 and " object at 0x" not in text
    return text if plain else f"an object of type {type(value).__name__}"


def _error(message: str, hint: str) -> UserError:
    return UserError(f"{message} {hint}" if hint else message)
