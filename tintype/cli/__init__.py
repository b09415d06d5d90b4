"""The command line: every command calls one function of the package in a few lines."""

from __future__ import annotations

import atexit
import errno
import gc
import glob
import os
import sys
from typing import Any

import typer

# The order is that of `tintype --help`.
# isort: off
from tintype.cli import make as make
from tintype.cli import study as study
from tintype.cli import look as look
from tintype.cli import compare as compare
from tintype.cli import use as use
from tintype.cli import export as export
from tintype.cli import share as share
from tintype.cli import serve as serve

# isort: on
from tintype.cli.base import app
from tintype.errors import Interrupted, OwnCodeError, UserError, memory_is_full
from tintype.files import system
from tintype.hardware.processes import silence_others
from tintype.interface.spelling import on_the_command_line
from tintype.interface.streams import let_print

__all__ = ["app", "main"]

# Of Click, or of the Click that newer versions of Typer bring.
UsageError: Any = typer.BadParameter.__mro__[1]

# Errors of the system that a user can mend: names, permissions and disks.
OF_THE_SYSTEM = {
    errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES,
    errno.EPERM, errno.EIO, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EMFILE, errno.ENFILE,
}  # fmt: skip


@atexit.register
def _leave_memory() -> None:
    """Leave what is still in memory to the system; to collect it would take a second.

    Triton complains of that, so where it was imported all is collected.
    """
    if "triton" not in sys.modules:
        gc.freeze()


# Of what an import makes, nothing is garbage: to look for some after every 700 objects took a tenth
# of the time until a first answer.
gc.set_threshold(50_000, 20, 20)


def _arguments() -> list[str]:
    """Return what was typed; on Windows, patterns such as *.jpg are left to the program."""
    typed = sys.argv[1:]
    if not system.WINDOWS:
        return typed
    return [name for argument in typed for name in _matching(argument)]


def _matching(argument: str) -> list[str]:
    """Return the files that a pattern names, and any other argument as it is."""
    is_pattern = any(mark in argument for mark in "*?[") and not argument.startswith("-")
    if not is_pattern or os.path.lexists(argument):
        return [argument]
    return sorted(glob.glob(argument)) or [argument]


def _say_usage(error: Any, arguments: list[str]) -> None:
    """Say in one line what of the arguments cannot be; without any, show the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return

    from tintype.cli.mistakes import what_is_wrong

    silence_others()
    with on_the_command_line():
        print(f"error: {what_is_wrong(error, arguments)}", file=sys.stderr)


def _refuse_lost_folder() -> None:
    """Say so where the folder in which this runs was removed: libraries fail obscurely there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        print(
            "error: the folder that this shell is in was removed. Type cd . if there is one of "
            "that name again, or go to another one.",
            file=sys.stderr,
        )
        sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake prints one line on standard error and exits with 2."""
    arguments = _arguments() if arguments is None else arguments
    debug = "--debug" in arguments
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        let_print(getattr(sys, name))

    arguments = [a for a in arguments if a != "--debug"]
    _refuse_lost_folder()
    try:
        code = app(args=arguments, prog_name="tintype", obj=arguments, standalone_mode=False) or 0
        if code == 130:  # Ctrl-C, which Typer turns into a silent exit
            print("stopped", file=sys.stderr)
        sys.exit(code)
    except UsageError as error:
        _say_usage(error, arguments)
        sys.exit(2)
    except UserError as error:
        if debug:
            raise
        if isinstance(error, OwnCodeError):
            print(error.own_traceback(), end="", file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        if debug:
            raise
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and (
            error.errno in OF_THE_SYSTEM or system.is_too_long(error)
        ):
            print(
                f"error: {error.filename or 'a file cannot be written'}: {system.why(error)}.",
                file=sys.stderr,
            )
            sys.exit(2)

        if memory_is_full(error):
            line = str(error).split("\n")[0]
            print(
                f"error: the memory is not enough ({line}). End other programs that use it, "
                "or type --device cpu; `tintype upscale` takes less with --tile 128.",
                file=sys.stderr,
            )
            sys.exit(2)

        print(
            f"error: {type(error).__name__}: {error}\n"
            "This is a bug in tintype, not your mistake. `tintype --debug ...` shows where it is.",
            file=sys.stderr,
        )
        sys.exit(1)
