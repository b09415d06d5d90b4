"""What was typed and cannot be, in one line of tintype's own: options, values, arguments, commands.

The parser of the command line knows what is wrong; its classes and words change with its version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer.main

from tintype.cli.base import app
from tintype.errors import near, unknown_name

# What the values of an option are, and one of them.
KINDS = {int: ("a whole number", "2"), float: ("a number", "0.5")}
TOO_MANY = re.compile(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", re.DOTALL)
NO_COMMAND = re.compile(r"No such command '(.*?)'", re.DOTALL)
OPTION = re.compile(r"'(-.*?)'")


def what_is_wrong(error: Any, arguments: Sequence[str]) -> str:
    """Say what of the arguments cannot be, what was expected, and what to type.

    Args:
        error: the `UsageError` of Click, or that of the Click which Typer brings.
        arguments: what was typed after `tintype`.
    """
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    message = error.format_message()
    if unknown := NO_COMMAND.search(message):
        return str(unknown_name("command", unknown[1], commands))

    command = commands.get(arguments[0]) or typer.main.get_command(app)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return _unknown_option(command, error.option_name)
    if kind == "MissingParameter":
        about = (getattr(error.param, "help", None) or "").rstrip(".")
        return f"{_name(error.param)} is missing ({_lower(about)}). Type {_usage(command)}."
    if extra := TOO_MANY.search(message):
        return (
            f"'{extra[1]}' is more than {_usage(command)} takes. Leave it out, or put it in quotes."
        )

    option = error.param if kind == "BadParameter" else _named(command, message)
    if option is None:
        return f"{message.rstrip('.')}. {_more(command)}"
    name = max(option.opts, key=len)
    if kind == "BadParameter":
        given = _given(option, arguments)
        return f"{name} cannot be {given}. Expected {_expected(command, option)}."
    if "does not take a value" in message:
        return f"{name} takes no value. Type {name} alone."
    return f"{name} has no value. Expected {_expected(command, option)}. {_more(command)}"


def _unknown_option(command: Any, typed: str) -> str:
    """Say that a command has no such option, and which one is near."""
    options = [name for parameter in command.params for name in _options(parameter)]
    word = typed.lstrip("-")
    if "--set" in options:
        from tintype.recipe import field_names

        field = word.replace("-", "_")
        if field in field_names():
            return f"unknown option {typed}. It is a field of the recipe: --set {field}=..."

    if found := near(word, [name.lstrip("-") for name in options], cutoff=0.6):
        meant = " or ".join(f"--{name}" for name in found)
        return f"unknown option {typed}. Did you mean {meant}?"
    return f"unknown option {typed}. {_more(command)}"


def _options(parameter: Any) -> list[str]:
    if parameter.param_type_name != "option":
        return []
    return [*parameter.opts, *parameter.secondary_opts]


def _named(command: Any, message: str) -> Any:
    """Return the option of a command that a message names."""
    name = OPTION.search(message)
    of_that_name = [each for each in command.params if name and name[1] in _options(each)]
    return of_that_name[0] if of_that_name else None


def _given(option: Any, arguments: Sequence[str]) -> str:
    """Return the value that an option was given, in quotes."""
    for word, following in pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name in option.opts:
            return f"'{value if equals else following}'"
    return "that"


def _expected(command: Any, option: Any) -> str:
    """Return which values an option has, with one of them."""
    name = max(option.opts, key=len)
    hint = get_type_hints(command.callback, include_extras=True).get(option.name)
    annotation, *about = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    for kind, (words, example) in KINDS.items():
        if _is(kind, annotation):
            return f"{words}{_bounds(about)}, as in {name} {option.default or example}"
    return f"{name} {option.metavar or option.name.upper()}"


def _bounds(about: Sequence[Any]) -> str:
    """Return between which numbers a value has to be."""
    low, high = (next((getattr(each, of, None) for each in about), None) for of in ("min", "max"))
    if low is None:
        return "" if high is None else f" of at most {high}"
    return f" from {low} on" if high is None else f" from {low} to {high}"


def _is(kind: type, annotation: Any) -> bool:
    """Return whether an annotation is a type, or that and None."""
    if get_origin(annotation) in (Union, UnionType):
        return any(_is(kind, each) for each in get_args(annotation))
    return annotation is kind


def _usage(command: Any) -> str:
    needed = [each for each in command.params if each.param_type_name == "argument"]
    words = [_name(each) if each.required else f"[{_name(each)}]" for each in needed]
    return f"`{' '.join(['tintype', command.name, *words])}`"


def _name(argument: Any) -> str:
    return argument.metavar or argument.name.rstrip("_").upper()


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _more(command: Any) -> str:
    name = "tintype" if command.name == "tintype" else f"tintype {command.name}"
    return f"`{name} --help` lists what there is."
