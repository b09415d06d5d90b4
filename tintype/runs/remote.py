"""Runs at an address that fsspec writes to, such as s3://bucket/runs.

Such a run lives in a folder of this machine. At checkpoints and at the end, files that are new go
to `ADDRESS/NAME/NUMBER-OWNER/`, and after them a manifest of all files goes to
`ADDRESS/NAME/manifests/NUMBER.json`, with the next number. The highest one is the run, so that an
upload is there as a whole or not at all.

A manifest is written only where there is none of its number, by one request where the store has
that (`If-None-Match` of S3). Of two processes that go on with one run, one gets the number, and the
other stops at its next upload.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from tintype.data.cache import cache_folder
from tintype.data.shards.places import asked, file_system, in_threads, why
from tintype.errors import UserError
from tintype.files.bounded import is_temporary, read_json_object, temporary_folder
from tintype.files.lease import is_running, this_process
from tintype.files.names import check_name
from tintype.files.system import rename
from tintype.files.whole import write_json, written_whole

FOLDER = Path("runs")  # where runs live that are uploaded
RECORD = "remote.json"  # of such a run: its address, whose it is, and the number of its manifest
COPIES = "remote"  # in the cache: runs that were read by their address
CHECKPOINTS = "checkpoints/"
SHARE = 0.1  # of the time of a training that uploads take, at most
TRIES = 3  # to read a run whose files are replaced meanwhile
MOST_BYTES = 10_000_000  # of a manifest

# A Path has lost one slash of an address, and both where nothing follows them.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/+(.*))?", re.DOTALL)
_NUMBER = re.compile(r"(\d{6,})\.json")
_AT = re.compile(r"\d{6,}-[0-9a-f]+")

Files = dict[str, dict[str, Any]]  # by path: at (the upload), bytes and sha256


def address_of(path: object) -> str | None:
    """Return the address that a text or a Path is, without a slash at its end; None of a path.

    Raises:
        UserError: it says how the place is reached, and not which.
    """
    found = _ADDRESS.fullmatch(str(path))
    if found is None:
        return None
    if not (found[2] or "").strip("/"):
        if Path(str(path)).exists():
            return None
        raise UserError(
            f"{found[1]}:// names no place. Expected an address such as {found[1]}://bucket/runs"
        )
    slashes = ":///" if found[1] in ("file", "local") else "://"
    return f"{found[1]}{slashes}{found[2]}".rstrip("/")


def refuse_address(path: object, what: str) -> None:
    """Raise where a folder has to be on a disk.

    Raises:
        UserError: it is an address.
    """
    if address := address_of(path):
        raise UserError(
            f"{what} cannot lie at {address}: its folder is the queue of those who work on it. "
            "Expected a folder that all of them see."
        )


# ---- what lies at the address of one run ---------------------------------------------------------


class Store:
    """The manifests and files of one run at its address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files, self.path = file_system(address)

    @property
    def name(self) -> str:
        """The name of the run."""
        return PurePosixPath(self.path).name

    def numbers(self) -> list[int]:
        """Return the numbers of the manifests that are there, in their order."""

        def listed() -> list[str]:
            self.files.invalidate_cache()
            try:
                return self.files.ls(f"{self.path}/manifests", detail=False)
            except FileNotFoundError:
                return []

        names = [PurePosixPath(each).name for each in asked(self.address, listed)]
        return sorted(int(found[1]) for found in map(_NUMBER.fullmatch, names) if found)

    def latest(self) -> tuple[int, dict[str, Any]]:
        """Return the newest manifest and its number; 0 and {} where there is none.

        Raises:
            UserError: it cannot be read, or is none.
        """
        for _ in range(TRIES):
            numbers = self.numbers()
            if not numbers:
                return 0, {}
            with suppress(FileNotFoundError):  # a newer one took its place
                content = self._manifest(numbers[-1])
                return numbers[-1], _checked(self.address, content)
        raise UserError(f"{self.address} changes while it is read. Type the same again.")

    def create(self, number: int, manifest: Mapping[str, Any]) -> bool:
        """Write a manifest, unless there is one of its number."""
        data = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        path = self._manifest_path(number)

        def put() -> bool:
            self._make_folder(path)
            try:
                self.files.pipe_file(path, data, mode="create")
            except FileExistsError:
                # The answer may have been lost, and the request been sent again.
                return self.files.cat_file(path) == data
            return True

        return self._written(put)

    def put(self, path: str, data: bytes) -> None:
        """Write a file, which nobody else writes."""

        def put() -> None:
            self._make_folder(f"{self.path}/{path}")
            self.files.pipe_file(f"{self.path}/{path}", data)

        self._written(put)

    def get(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: there is no such file any more.
        """
        return self._read(f"{self.path}/{path}")

    def remove(self, paths: Collection[str]) -> None:
        """Remove files that no manifest names; without the right to do so they stay."""
        for path in paths:
            with suppress(Exception):  # each file system has errors of its own
                self.files.rm_file(f"{self.path}/{path}")

    def remove_manifest(self, number: int) -> None:
        """Remove a manifest that is not the newest."""
        self.remove([f"manifests/{number:06d}.json"])

    def _manifest(self, number: int) -> bytes:
        return self._read(self._manifest_path(number))

    def _manifest_path(self, number: int) -> str:
        return f"{self.path}/manifests/{number:06d}.json"

    def _read(self, path: str) -> bytes:
        try:
            return self.files.cat_file(path)
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise UserError(f"'{self.address}' cannot be read: {why(error)}.") from error

    def _make_folder(self, path: str) -> None:
        # Of object stores there are no folders, and s3fs would make a bucket that is not there.
        if not self.files.async_impl:
            self.files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)

    def _written(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except UserError:
            raise
        except FileNotFoundError:
            reason = "there is no such bucket or folder"
        except NotImplementedError:
            reason = "nothing can be written to such an address"
        except Exception as error:  # each file system has errors of its own
            reason = why(error)
        raise UserError(f"cannot write to {self.address}: {reason}.")


def _checked(address: str, content: bytes) -> dict[str, Any]:
    """Return a manifest whose paths stay in the folder of the run.

    Raises:
        UserError: it is none, or some of them do not.
    """
    try:
        if len(content) > MOST_BYTES:
            raise ValueError("it is too large")
        manifest = json.loads(content)
        for path, file in manifest["files"].items():
            parts = PurePosixPath(path).parts
            if path.startswith("/") or ".." in parts or re.search(r"[\\:\0]", path) or not parts:
                raise ValueError(f"the path {path!r}")
            if not _AT.fullmatch(file["at"]) or len(file["sha256"]) != 64:
                raise ValueError(f"the entry of {path!r}")
        return {
            "owner": str(manifest["owner"]),
            "files": dict(manifest["files"]),
            "by": dict(manifest.get("by", {})),
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"the manifest of {address} is broken ({error}).") from None


# ---- a new run -----------------------------------------------------------------------------------


@dataclass
class Claim:
    """A name for a new run, here and, with an address, there too.

    Attributes:
        folder: that the run folder is made in.
        name: of the run; "" where none is claimed.
        exact: whether no other name will do.
        number: of the manifest that claims it.
    """

    folder: Path
    name: str
    exact: bool
    store: Store | None = None
    owner: str = ""
    number: int = 0

    def keep(self, run: Path) -> None:
        """Note in the run folder where the run is uploaded."""
        if self.store is not None:
            _write_record(run, self.store.address, self.owner, self.number)


@contextmanager
def claimed(out: str | Path, named: Callable[[], str], *, exact: bool) -> Iterator[Claim]:
    """Claim a name for a new run at `out`, before anything is prepared.

    If the block fails, the claim is withdrawn. A folder of this machine needs none, and has the
    name "".

    Raises:
        UserError: nothing can be written to the address, or (with `exact`) the name is taken.
    """
    address = address_of(out)
    if address is None:
        yield Claim(Path(out), "", exact)
        return

    name = named()
    check_name(name, "run")
    owner = uuid.uuid4().hex[:12]
    store, number = _claim(address, name, owner, exact=exact)
    try:
        yield Claim(FOLDER, store.name, True, store, owner, number)
    except BaseException:
        store.remove_manifest(number)
        raise


def _claim(address: str, name: str, owner: str, *, exact: bool) -> tuple[Store, int]:
    """Claim a name by a manifest without files; return its place and the manifest's number.

    The claim of a process of this machine that is gone counts for nothing.
    """
    tried = 1
    while True:
        store = Store(f"{address}/{name}" if tried == 1 else f"{address}/{name}-{tried}")
        number, manifest = store.latest()
        if _is_free(store, number, manifest):
            claim = {"owner": owner, "files": {}, "by": this_process()}
            if store.create(number + 1, claim) and store.numbers()[-1:] == [number + 1]:
                if number:
                    store.remove_manifest(number)
                return store, number + 1
        if exact:
            raise _taken(store)
        tried += 1


def refuse_taken(address: str, name: str) -> None:
    """Raise where a run has a name, or is about to have it.

    Raises:
        UserError: it is taken, or the address cannot be read.
    """
    store = Store(f"{address}/{name}")
    if not _is_free(store, *store.latest()):
        raise _taken(store)


def _is_free(store: Store, number: int, manifest: Mapping[str, Any]) -> bool:
    claimed = number and (manifest["files"] or is_running(manifest["by"]) is not False)
    return not claimed and not (FOLDER / store.name).exists()


def _taken(store: Store) -> UserError:
    """Return the error for a name that a run has, or is about to have."""
    number, manifest = store.latest()
    if number and not manifest["files"]:
        machine = manifest["by"].get("machine", "another machine")
        return UserError(
            f"{store.address} is taken by a run that {machine} prepares, or was killed at. Choose "
            f"another --name; if it was killed, {store.address}/manifests may be removed."
        )
    taken = store.address if number else FOLDER / store.name
    return UserError(
        f"{taken} is there already, and nothing is overwritten. Choose another --name, "
        f"or go on with it: tintype train --resume {taken}"
    )


def _write_record(run: Path, address: str, owner: str, number: int) -> None:
    write_json(run / RECORD, {"address": address, "owner": owner, "number": number})


# ---- uploads -------------------------------------------------------------------------------------


class Mirror:
    """Uploads a run folder.

    Args:
        folder: of the run.
        note: called with what went wrong and is tried again.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        record = read_json_object(folder / RECORD)
        self.folder, self.note = folder, note
        self.store = Store(str(record["address"]))
        self.owner, self.number = str(record["owner"]), int(record["number"])
        self.files: Files = {}
        self.lost = False
        self._states: dict[str, tuple[int, int]] = {}  # size and time of each file, as uploaded
        self._rest_until = 0.0

    def take(self) -> None:
        """Make the run that of this folder.

        Raises:
            UserError: another process went on with it.
        """
        number, manifest = self.store.latest()
        if number != self.number and manifest.get("owner") != self.owner:
            self._lose()
        self.number, self.files = number, manifest.get("files", {})
        if manifest.get("owner") != self.owner:
            self._commit(self.files)

    def after_checkpoint(self) -> None:
        """Upload what is new, unless uploads take too much of the time.

        What fails is tried again after the next checkpoint.

        Raises:
            UserError: another process went on with the run.
        """
        if time.monotonic() < self._rest_until:
            return
        began = time.monotonic()
        try:
            self.upload()
        except UserError as error:
            if self.lost:
                raise
            self.note(f"warning: {error} The run stays in {self.folder}; tried again later")
        now = time.monotonic()
        self._rest_until = now + (now - began) * (1 / SHARE - 1)

    def upload(self) -> None:
        """Upload what is new.

        Raises:
            UserError: it cannot be written, or another process went on with the run.
        """
        at = f"{self.number + 1:06d}-{self.owner}"
        states = dict(self._present())
        files = {path: self.files[path] for path in states if path in self.files}
        changed = [path for path, state in states.items() if self._states.get(path) != state]

        def put(path: str) -> dict[str, Any]:
            data = (self.folder / path).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if files.get(path, {}).get("sha256") == digest:
                return files[path]
            self.store.put(f"{at}/{path}", data)
            return {"at": at, "bytes": len(data), "sha256": digest}

        files.update(zip(changed, in_threads(put, changed), strict=True))
        if files != self.files:
            self._commit(files)
        self._states = states

    def _present(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield the files of the run with their size and time."""
        for path in sorted(self.folder.rglob("*")):
            below = path.relative_to(self.folder)
            hidden = any(part.startswith(".") for part in below.parts)
            if hidden or is_temporary(path) or path.is_symlink() or not path.is_file():
                continue
            if below.as_posix() != RECORD:
                status = path.stat()
                yield below.as_posix(), (status.st_size, status.st_mtime_ns)

    def _commit(self, files: Files) -> None:
        number = self.number + 1
        created = self.store.create(number, {"owner": self.owner, "files": files})
        if not created or self.store.numbers()[-1:] != [number]:
            self._lose()
        _write_record(self.folder, self.store.address, self.owner, number)

        # Only what this process itself replaced: another may upload already.
        kept = {f"{file['at']}/{path}" for path, file in files.items()}
        before = {f"{file['at']}/{path}" for path, file in self.files.items()}
        self.store.remove_manifest(self.number)
        self.store.remove(before - kept)
        self.number, self.files = number, files

    def _lose(self) -> None:
        self.lost = True
        raise UserError(
            f"another process went on with {self.store.address}, so this one stops; what it has "
            f"stays in {self.folder}. To go on from there: "
            f"tintype train --resume {self.store.address}"
        )


class Mirrored(Protocol):
    """A run folder that can be uploaded."""

    path: Path
    mirror: Mirror | None

    def locked(self) -> Any: ...


@contextmanager
def mirrored(run: Mirrored, note: Callable[[str], None]) -> Iterator[None]:
    """Upload a run at its checkpoints in the block, and at its end, if it has an address.

    Raises:
        UserError: it cannot be uploaded; it stays whole in its folder.
    """
    if not (run.path / RECORD).is_file():
        yield
        return

    with run.locked():
        mirror = Mirror(run.path, note)
        mirror.take()
    run.mirror = mirror
    note(f"uploaded to: {mirror.store.address}")
    try:
        yield
    except BaseException:
        if not mirror.lost:
            try:
                mirror.upload()
            except UserError as error:
                note(f"warning: {error} The run stays in {run.path}")
        raise
    finally:
        run.mirror = None

    try:
        mirror.upload()
    except UserError as error:
        if mirror.lost:
            raise
        raise UserError(
            f"{error} The run is whole in {run.path}; to upload it later: "
            f"tintype train --resume {run.path}"
        ) from None


# ---- reading -------------------------------------------------------------------------------------


def here(address: str, only: Collection[str] | None = None) -> Path:
    """Return a copy, in the cache, of a run at an address, without its checkpoints.

    Args:
        address: of the run.
        only: files that are wanted; by default all.

    Raises:
        UserError: there is no run, or it cannot be read.
    """
    store = Store(address)
    check_name(store.name, "run")
    folder = _copies(address.rpartition("/")[0]) / store.name

    def wanted(path: str) -> bool:
        return not path.startswith(CHECKPOINTS) if only is None else path in only

    _fetch(store, folder, folder.with_name(f".{store.name}.json"), wanted)
    return folder


def runs_here(address: str, only: Collection[str]) -> Path:
    """Return a folder with copies of all runs at an address, of each the files that are wanted.

    Raises:
        UserError: the address cannot be read.
    """
    files, path = file_system(address)

    def listed() -> list[str]:
        files.invalidate_cache()
        return files.ls(path, detail=False)

    names = [PurePosixPath(each).name for each in asked(address, listed)]
    for name in names:
        store = Store(f"{address}/{name}")
        if store.latest()[1].get("files"):
            here(store.address, only)
    return _copies(address)


def taken_here(address: str) -> Path:
    """Return the folder in which a run at an address goes on: as it is, or fetched.

    Raises:
        UserError: there is no run, or it cannot be read.
    """
    store = Store(address)
    number, manifest = store.latest()
    tried = 1
    while True:
        folder = FOLDER / (store.name if tried == 1 else f"{store.name}-{tried}")
        record = _record_of(folder)
        if record.get("address") == address or not folder.exists():
            break
        tried += 1

    if record and (record["number"] == number or record["owner"] == manifest.get("owner")):
        return folder  # which has all that was uploaded, or more
    if record:
        _fetch(store, folder, folder / RECORD, lambda path: True)
    else:
        with temporary_folder(folder) as made:
            _fetch(store, made, made / RECORD, lambda path: True)
            rename(made, folder)
    return folder


def _record_of(folder: Path) -> dict[str, Any]:
    try:
        record = read_json_object(folder / RECORD)
        return record if {"address", "owner", "number"} <= record.keys() else {}
    except (OSError, ValueError):
        return {}


def _copies(address: str) -> Path:
    digest = hashlib.blake2b(address.encode(), digest_size=12).hexdigest()
    return cache_folder() / COPIES / digest


def _fetch(store: Store, folder: Path, record: Path, wanted: Callable[[str], bool]) -> None:
    """Make a folder hold the wanted files of a run, and write down which ones it has."""
    for _ in range(TRIES):
        number, manifest = store.latest()
        files: Files = {p: f for p, f in manifest.get("files", {}).items() if wanted(p)}
        if number and not manifest["files"]:
            raise UserError(
                f"the run at {store.address} has not begun: it is being prepared, or was killed "
                "before anything was uploaded. Nothing is there to go on with."
            )
        if not number:
            raise UserError(
                f"there is no run at {store.address}. "
                "Expected the address of one, such as s3://bucket/runs/NAME."
            )
        try:
            known = read_json_object(record).get("files", {})
        except (OSError, ValueError):
            known = {}
        new = [
            path
            for path, file in files.items()
            if known.get(path) != file["sha256"] or not (folder / path).exists()
        ]
        with suppress(FileNotFoundError):  # replaced meanwhile
            in_threads(lambda path, files=files: _fetch_one(store, folder, path, files[path]), new)
            break
    else:
        raise UserError(f"{store.address} changes while it is read. Type the same again.")

    # A checkpoint that was not uploaded would go on from rows that metrics.csv does not have.
    extra = [path for path in known if path not in manifest["files"]]
    extra += [
        f"{CHECKPOINTS}{file.name}"
        for file in folder.glob(f"{CHECKPOINTS}*.safetensors")
        if f"{CHECKPOINTS}{file.name}" not in manifest["files"]
    ]
    for path in extra:
        (folder / path).unlink(missing_ok=True)
    have = {path: digest for path, digest in known.items() if path in manifest["files"]}
    have |= {path: file["sha256"] for path, file in files.items()}
    owner = uuid.uuid4().hex[:12]
    write_json(record, {"address": store.address, "owner": owner, "number": number, "files": have})


def _fetch_one(store: Store, folder: Path, path: str, file: Mapping[str, Any]) -> None:
    data = store.get(f"{file['at']}/{path}")
    if hashlib.sha256(data).hexdigest() != file["sha256"]:
        raise UserError(f"{store.address} is broken: {path} is not what its manifest says.")
    with written_whole(folder / path) as temporary:
        temporary.write_bytes(data)
