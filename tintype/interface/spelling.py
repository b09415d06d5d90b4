"""Spell options and commands as whoever asks would type them: `--out` in a shell, `out=` in Python.

Messages are written for the command line. `spelled` turns one into Python's spelling unless
`on_the_command_line` is active, so that no message has to be written twice.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_in_a_shell = False

# Options whose argument in Python has another name.
NAMES = {"test": "test_fraction", "batch": "batch_size"}
# Options without a value.
SWITCHES = {"classes", "force", "fp16", "heatmaps", "int8", "interpolate", "join", "verbose", "yes"}
# Options whose value may be a plain word; after others a plain word goes on with the sentence.
CHOICES = {"augment", "device", "features", "format", "keep", "measure", "model", "names", "split"}
CHOICES |= {"test_fraction", "track", "tune", "weights"}
PROSE = {"and", "as", "for", "has", "is", "or", "out", "takes", "to", "too", "with"}

OF_THE_PACKAGE = {"audit", "study", "train", "tune"}
OF_A_RUN = "card|evaluate|export|generate|pack|predict|report|upscale"

# Commands of other programs, and those of tintype that Python has no function for.
OTHER_COMMANDS = re.compile(
    r"(?:pip install|curl|mlflow ui|tensorboard --logdir|trackio show"
    r"|tintype (?:board|cache|doctor|list|load|pull|push))\b[^`;,\n]*"
)
WORD = r"(?:'[^']*'|[^\s`',;()](?:,(?=\S)|[^\s`',;()])*(?<![.:,]))"
OPTION = re.compile(rf"(?<![\w-])--([a-z][\w-]*)(?:[ =]({WORD}))?")
COMMAND = re.compile(
    rf"\btintype ({'|'.join(OF_THE_PACKAGE)}|compare|serve|{OF_A_RUN})\b((?: {WORD})*)"
)


@contextmanager
def on_the_command_line() -> Iterator[None]:
    """Leave messages as a shell has them while this lasts."""
    global _in_a_shell
    before = _in_a_shell
    _in_a_shell = True
    try:
        yield
    finally:
        _in_a_shell = before


def spelled(message: str) -> str:
    """Return a message with options and commands spelled for whoever asks."""
    if _in_a_shell or ("--" not in message and "tintype " not in message):
        return message
    message = re.sub(r" ?`?--debug`? shows [^.]*\.", "", message)
    message = message.replace("`tintype list runs`", "`tt.runs()`")

    others = [(command.start(), command.end()) for command in OTHER_COMMANDS.finditer(message)]
    parts = []
    done = 0
    for start, end in others:
        parts += [_in_python(message[done:start]), message[start:end]]
        done = end
    return "".join([*parts, _in_python(message[done:])])


def _in_python(text: str) -> str:
    return OPTION.sub(_argument, COMMAND.sub(_call, text))


def _call(command: re.Match[str]) -> str:
    """Return a command as a call: `tintype train --resume RUN` is `tt.train(resume='RUN')`."""
    verb, tail = command[1], command[2]
    with suppress(ValueError):
        tail = " ".join(map(_quoted, shlex.split(tail)))
    options = [OPTION.sub(_argument, option[0]).strip() for option in OPTION.finditer(tail)]
    positional = [_value(word) for word in OPTION.sub("", tail).split()]

    if verb in ("compare", "serve"):
        return f"tt.{verb}([{', '.join(positional)}])"
    if verb in OF_THE_PACKAGE:
        return f"tt.{verb}({', '.join([*positional, *options])})"
    run, *others = positional or ["run"]
    opened = run if run == "run" else f"tt.load({run})"
    return f"{opened}.{verb}({', '.join([*others, *options])})"


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _argument(option: re.Match[str]) -> str:
    """Return an option as an argument, with the words after it where they are not its value."""
    name, value = option[1].replace("-", "_"), option[2]
    name = NAMES.get(name, name)
    rest = option[0].removeprefix(f"--{option[1]}")

    if name == "set" and value is not None:
        field, equals, assigned = value.partition("=")
        if not equals:
            return field.rpartition(".")[2]
        inner, _, key = field.partition(".")
        if key and inner == "model":
            return f"model_options={{'{key}': {_value(assigned)}}}"
        return f"{key or field}={_value(assigned)}"
    if name in SWITCHES:
        return f"{name}=True{rest}" if name in ("yes", "verbose", "force") else f"{name}={rest}"
    if value is None or not _is_value(name, value):
        return f"{name}={rest}"
    return f"{name}={_value(value)}"


def _is_value(name: str, word: str) -> bool:
    plain = re.fullmatch(r"[a-z]+", word) is not None
    return word not in PROSE and (not plain or name in CHOICES)


def _value(text: str) -> str:
    """Return the value of an option as Python has it."""
    if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text) or text in ("run", "..."):
        return text
    if text in ("true", "false"):
        return text.capitalize()
    if text.startswith("[") and text.endswith("]"):
        return f"[{', '.join(_value(part.strip()) for part in text[1:-1].split(',') if part)}]"
    if "," in text and text[0] != "'":
        return _value(f"[{text}]")
    return text if text.startswith("'") else f"'{text}'"
