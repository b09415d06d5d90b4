"""Packed runs: one zip file that holds a run folder.

Unpacking trusts nothing that the file says.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import zipfile
from pathlib import Path

from tintype.errors import UserError
from tintype.files.bounded import refuse_ways_out, regular_only, temporary_folder, temporary_for
from tintype.files.names import is_device
from tintype.files.system import rename, replace

# What a run folder may bring to another machine; everything else in a zip file is refused.
FILES = (
    "recipe.yaml",
    "model.json",
    "model.safetensors",
    "graph.onnx",
    "code.json",
    "data.json",
    "evaluation.json",
    "status.json",
    "environment.json",
    "metrics.csv",
    "predictions.csv",
    "folds.csv",
    "splits.csv",
    "photos.safetensors",
    "analysis.json",
    "lr_finder.csv",
    "classification_report.csv",
    "report.html",
    "MODEL_CARD.md",
)
NEEDED = ("recipe.yaml", "model.json", "model.safetensors")
CODE = re.compile(r"code/[A-Za-z0-9_]{1,100}\.py")  # text, which is not run
SAMPLE = re.compile(r"samples/[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}\.(png|json)")

MOST_ENTRIES = 5_000
MOST_BYTES = 8_000_000_000  # of all files together
# times the size of the zip file: weights hardly shrink, tables and JSON some ten times
MOST_RATIO = 100
PIECE = 1 << 20


def may_hold(name: str) -> bool:
    """Return whether a run folder may hold a file of this name (relative, with "/")."""
    further = any(kind.fullmatch(name) for kind in (SAMPLE, CODE))
    return name in FILES or (further and not is_device(name.partition("/")[2]))


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a file that calls itself a zip file."""
    return Path(path).suffix.lower() == ".zip" and Path(path).is_file()


def unpack(path: Path, folder: Path) -> None:
    """Unpack a run into a new folder, whole or not at all.

    Only regular files with the names that a run folder may hold are taken, each written under its
    own name in `folder`. The number of files and of bytes is bounded by what is really read, not by
    what the file says of itself.

    Raises:
        UserError: it is no zip file, it is damaged, it holds something else than a run, or the
            folder cannot be written.
    """
    _refuse_taken(folder)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _checked(archive, path)
            with temporary_folder(folder) as inside:
                _extract(archive, entries, inside, bound=_bound(path))
                rename(inside, folder)
    except UserError:
        raise
    except OSError as error:
        _refuse_taken(folder)  # another process was faster
        raise UserError(f"cannot unpack {path} into {folder}: {error.strerror or error}.") from None
    except Exception as error:  # damaged, each kind of compression raises an error type of its own
        raise UserError(
            f"{path} is no zip file that can be read, or is damaged ({error})."
        ) from None


def _refuse_taken(folder: Path) -> None:
    if folder.exists():
        raise UserError(
            f"{folder} is there already, and nothing is overwritten. Choose another --name."
        )


def unpacked(path: Path) -> Path:
    """Return the folder of a packed run in the cache, where it is unpacked at first use.

    It has the name of the file.

    Raises:
        UserError: it cannot be unpacked.
    """
    from tintype.data.cache import cache_folder

    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb", opener=regular_only) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    folder = cache_folder() / "packed" / digest.hexdigest() / path.stem
    if not folder.is_dir():
        try:
            unpack(path, folder)
        except UserError:
            if not folder.is_dir():  # otherwise another process was faster: its folder is the same
                raise
    return folder


def _bound(path: Path) -> int:
    return min(MOST_BYTES, MOST_RATIO * path.stat().st_size + 1_000_000)


def _checked(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """Return the entries to unpack, all of them looked at first."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise UserError(
            f"{path} holds {len(entries):,} files; "
            f"a run has fewer than {MOST_ENTRIES:,}. It is not unpacked."
        )

    entries = [entry for entry in entries if entry.filename != "samples/"]
    seen: set[str] = set()
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise UserError(
                f"{path} holds a link or a device ({_shown(name)}), which no run does. "
                "It is not unpacked."
            )
        if not may_hold(name):
            raise UserError(
                f"{path} holds {_shown(name)}, which is no file of a run. It is not unpacked."
            )
        if name in seen:
            raise UserError(f"{path} holds {_shown(name)} twice. It is not unpacked.")
        if entry.flag_bits & 1:
            raise UserError(f"{path} is encrypted. Unpack it yourself, and give the folder.")
        seen.add(name)

    missing = [name for name in NEEDED if name not in seen]
    if missing:
        raise UserError(
            f"{path} is no packed run: it has no {missing[0]}. `tintype pack RUN` makes one."
        )
    if sum(entry.file_size for entry in entries) > _bound(path):
        raise UserError(
            f"{path} would unpack to far more than its own size (a bomb?). It is not unpacked."
        )

    return entries


def _extract(
    archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path, *, bound: int
) -> None:
    left = bound
    for entry in entries:
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)

        with archive.open(entry) as source, open(target, "xb") as out:
            while piece := source.read(PIECE):
                left -= len(piece)
                if left < 0:
                    raise UserError(
                        f"{archive.filename} holds more than it says (a bomb?). It is not unpacked."
                    )
                out.write(piece)


def _shown(name: str) -> str:
    """Return a name from outside as it can be printed."""
    return ascii(name[:80])


def pack(folder: Path, target: Path) -> int:
    """Write the files of a run that others need into one new zip file; return how many.

    Raises:
        UserError: the run is not finished, the file is there already, or it cannot be written.
    """
    if target.exists():
        raise UserError(
            f"{target} is there already, and nothing is overwritten. Choose another --out."
        )
    refuse_ways_out(folder)
    files = [name for name in FILES if (folder / name).is_file()]
    further = sorted(
        f"{inside}/{path.name}"
        for inside in ("code", "samples")
        for path in (folder / inside).glob("*")
        if path.is_file()
    )
    files += [name for name in further if may_hold(name)]

    partial = temporary_for(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "x", allowZip64=True) as archive:
            for name in files:
                stored = name.endswith((".safetensors", ".png"))  # which do not become smaller
                how = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                # no times: the same run gives the same bytes
                entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                entry.compress_type, entry.external_attr = how, 0o644 << 16
                with (
                    open(folder / name, "rb", opener=regular_only) as source,
                    archive.open(entry, "w", force_zip64=True) as out,
                ):
                    shutil.copyfileobj(source, out, PIECE)
        replace(partial, target)
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error.strerror or error}. Choose another --out."
        ) from None
    finally:
        partial.unlink(missing_ok=True)

    return len(files)
