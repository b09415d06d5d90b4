"""What goes wrong in an estimator, as scikit-learn expects it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tintype.errors import Interrupted, UserError


class BadValue(UserError, ValueError):
    """A mistake of the user, which is a ValueError for scikit-learn."""


@contextmanager
def as_scikit_learn_has_it() -> Iterator[None]:
    """Raise what tintype raises in the block as scikit-learn expects it.

    A signal ends the process or the search that the fit is part of, as anywhere in Python.
    """
    try:
        yield
    except BadValue:
        raise
    except UserError as error:
        raise BadValue(str(error)) from error
    except Interrupted as error:
        if error.number == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise SystemExit(128 + error.number) from error
