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

JOURNAL = "optuna.journal"  # the trials of a tuning that several processes share by its folder
LOCK_SECONDS = 10  # after which the lock of the journal counts as that of a dead process
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
    folder: Path, name: str, url: str | None, *, higher_is_better: bool, joined: bool = False
) -> optuna.Study:
    """Open the trials called `name` in a database, or begin them there.

    That is the one at `url`, else a journal in the folder where the trials were begun there or are
    to be `joined` by others, else SQLite in the folder.

    Raises:
        UserError: Optuna or a database's driver is missing, or the database cannot be reached or is
            none.
    """
    optuna = import_optuna()
    sqlite = folder / "optuna.db"
    if url is None and ((folder / JOURNAL).exists() or (joined and not sqlite.exists())):
        return _open_journal(folder, name, higher_is_better=higher_is_better)
    if joined and url is None:
        raise UserError(
            f"the trials of {folder} lie in SQLite, which one process at a time can use. Begin a "
            "new tuning with --workers, or share a database: --storage URL"
        )
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


def _open_journal(folder: Path, name: str, *, higher_is_better: bool) -> optuna.Study:
    """Open the trials in the journal of a folder, which works on network file systems too."""
    optuna = import_optuna()
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    file = str((folder / JOURNAL).resolve())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in Optuna 4 the journal is called experimental
            lock = JournalFileOpenLock(file, grace_period=LOCK_SECONDS)
            backend = JournalFileBackend(file, lock_obj=lock)
            return optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name=name,
                direction="maximize" if higher_is_better else "minimize",
                load_if_exists=True,
            )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot use {folder / JOURNAL}: {error}. Begin a new tuning.") from None
