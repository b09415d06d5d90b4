"""The database of the trials: SQLite in the folder by default, or a URL that several machines
share.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype.errors import UserError

if TYPE_CHECKING:
    import optuna

CONNECT_SECONDS = 10  # that a server is given to answer


def import_optuna() -> Any:
    """Return Optuna, with its own messages silenced.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "tuning needs Optuna, which is not installed. Type: pip install 'tintype[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def without_password(url: str) -> str:
    """Return a database URL that may be shown."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", url)


def open_database(
    folder: Path, name: str, url: str | None, *, higher_is_better: bool
) -> optuna.Study:
    """Open the trials called `name` in a database, or begin them there.

    Raises:
        UserError: Optuna or a database's driver is missing, or the database cannot be reached or is
            none.
    """
    optuna = import_optuna()
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    shown = without_password(url) if url else str(folder / "optuna.db")
    address = (
        url
        or URL.create("sqlite", database=str((folder / "optuna.db").resolve())).render_as_string()
    )
    timeout = (
        {"connect_args": {"connect_timeout": CONNECT_SECONDS}}
        if re.match(r"(postgresql|mysql)", address)
        else None
    )
    direction = "maximize" if higher_is_better else "minimize"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what SQLAlchemy and Optuna say to each other
            storage = optuna.storages.RDBStorage(address, engine_kwargs=timeout)
            study = optuna.create_study(
                storage=storage, study_name=name, direction=direction, load_if_exists=True
            )
            same = study.direction.name.lower() == direction
    except ImportError as error:
        raise UserError(
            f"the database {shown} needs a driver that is not installed ({error}). "
            "Type: pip install it."
        ) from None
    except (
        SQLAlchemyError,
        optuna.exceptions.OptunaError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error.__cause__ or error).split())[
            :200
        ]
        raise UserError(
            f"cannot use the database {shown}: {without_password(reason)}. "
            "Expected one that answers, as in "
            "--storage postgresql://user:password@host/name or sqlite:///trials.db."
        ) from None
    if not same:
        raise UserError(
            f"the trials '{name}' in {shown} are of another kind of task. Choose another --name."
        )
    return study
