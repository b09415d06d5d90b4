"""Runs at an address: uploaded as a whole or not at all, resumed and read from there by anyone."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

import tintype
from tintype import api
from tintype.data.shards.places import file_system
from tintype.errors import Interrupted, UserError
from tintype.recipe import Recipe
from tintype.runs import remote
from tintype.training import engine

pytestmark = pytest.mark.usefixtures("short_reports")
TINY = ("train", "digits", "--model", "ann", "--epochs", "2", "--threads", "1", "--device", "cpu")
NOTHING_SHOWN: dict[str, Any] = {"verbose": False}
SAME = ("model.safetensors", "metrics.csv", "predictions.csv")


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """An address in memory that this test has alone."""
    yield f"memory://{tmp_path.name}/runs"
    for path in [p for p in MemoryFileSystem.store if p.startswith(f"/{tmp_path.name}/")]:
        del MemoryFileSystem.store[path]


@pytest.fixture
def server() -> Iterator[str]:
    """An address in a bucket of a local stand-in for S3."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[s3]' flask flask-cors")
    here = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    here.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = here.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        files, _ = file_system("s3://bucket")
        files.clear_instance_cache()
        file_system("s3://bucket")[0].mkdir("bucket")
        yield "s3://bucket/runs"
    here.stop()


def elsewhere(tmp_path: Path, patch: pytest.MonkeyPatch, name: str) -> Path:
    """Go to another folder with another cache, as on another machine."""
    folder = tmp_path / name
    folder.mkdir()
    patch.chdir(folder)
    patch.setenv("TINTYPE_CACHE", str(folder / "cache"))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", remote.RECORD)
    }


class Ends:
    """A watcher that sends SIGTERM after a step, as a machine does that is taken away."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_row(self, row: dict[str, Any]) -> None:
        if int(row["step"]) == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/runs/", "s3://bucket/runs"),
        (Path("s3://bucket/runs"), "s3://bucket/runs"),
        (Path("file:///data/runs"), "file:///data/runs"),
        ("runs", None),
        ("/data/runs", None),
        ("C:/data/runs", None),
    ],
)
def test_an_address_is_known_as_text_and_as_path(text: object, address: str | None):
    assert remote.address_of(text) == address


@pytest.mark.parametrize("text", ["memory://", "s3:/", "file:///"])
def test_an_address_that_names_no_place_is_refused(text: str, tt, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, said = tt(*TINY, "--out", text)

    scheme = text.partition(":")[0]
    assert code == 2
    assert f"{scheme}:// names no place" in " ".join(said.split())
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_read_by_its_address(tt, bucket: str, tmp_path: Path, monkeypatch):
    assert tt(*TINY, "--out", bucket)[0] == 0
    first = files_of(tmp_path / "runs" / "digits")

    elsewhere(tmp_path, monkeypatch, "other")
    loaded = tintype.load(f"{bucket}/digits")
    without = {k: v for k, v in first.items() if not k.startswith("checkpoints/")}
    assert files_of(loaded.path) == without

    code, output, _ = tt("evaluate", f"{bucket}/digits", "--json")
    assert code == 0
    measured = json.loads(first["evaluation.json"])["splits"]["test"]["accuracy"]
    assert json.loads(output)["accuracy"] == measured
    code, output, _ = tt("report", f"{bucket}/digits")
    assert (code, Path(output.strip()).exists()) == (0, True)
    code, output, _ = tt("list", "runs", "--out", bucket, "--json")
    assert [(run["name"], run["state"]) for run in json.loads(output)] == [("digits", "finished")]


def test_a_stopped_run_goes_on_elsewhere_with_the_same_bits(
    bucket: str, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch
):
    whole = api.train(tiny(), out=tmp_path / "whole", **NOTHING_SHOWN)

    elsewhere(tmp_path, monkeypatch, "first")
    with pytest.raises(Interrupted):
        api.train(tiny(), out=bucket, name="shared", watchers=Ends(12), **NOTHING_SHOWN)

    second = elsewhere(tmp_path, monkeypatch, "second")
    run = api.train(resume=f"{bucket}/shared", **NOTHING_SHOWN)

    assert run.path.resolve() == second / "runs" / "shared"
    assert run.status["state"] == "finished"
    for name in SAME:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_it_goes_on_in_the_folder_that_it_has_here(
    bucket: str, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted):
        api.train(tiny(), out=bucket, name="mine", watchers=Ends(12), **NOTHING_SHOWN)

    run = api.train(resume=f"{bucket}/mine", **NOTHING_SHOWN)

    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()] == ["mine"]
    assert run.status["state"] == "finished"


def test_an_upload_that_is_cut_off_leaves_the_one_before(
    bucket: str, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted):
        api.train(tiny(), out=bucket, name="cut", watchers=Ends(6), **NOTHING_SHOWN)

    put = remote.Store.put

    def fails(store: remote.Store, path: str, data: bytes) -> None:
        if path.endswith("model.safetensors"):
            raise UserError("cannot write: the line is cut")
        put(store, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(remote.Store, "put", fails)
        with pytest.raises(UserError, match=r"the line is cut.*resume"):
            api.train(resume=f"{bucket}/cut", **NOTHING_SHOWN)

    assert (tmp_path / "runs" / "cut" / "model.safetensors").exists()
    elsewhere(tmp_path, monkeypatch, "reader")
    read = tintype.load(f"{bucket}/cut")  # as at the last checkpoint
    assert read.status["state"] == "running"
    assert not (read.path / "model.safetensors").exists()

    monkeypatch.chdir(tmp_path)
    api.train(resume="runs/cut", **NOTHING_SHOWN)  # finished here, and now there too
    elsewhere(tmp_path, monkeypatch, "later")
    assert tintype.load(f"{bucket}/cut").status["state"] == "finished"


def test_whoever_lost_the_run_to_another_stops(
    bucket: str, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(remote, "SHARE", 1.0)

    class TakesOver:
        def on_row(self, row: dict[str, Any]) -> None:
            if int(row["step"]) == 10:
                with monkeypatch.context() as patch:
                    patch.setattr(remote, "FOLDER", tmp_path / "other")
                    folder = remote.taken_here(f"{bucket}/both")
                remote.Mirror(folder, print).take()

    with pytest.raises(UserError, match="another process went on"):
        api.train(tiny(), out=bucket, name="both", watchers=TakesOver(), **NOTHING_SHOWN)

    other = tmp_path / "other" / "both"
    assert list(other.glob("checkpoints/*"))
    with pytest.raises(UserError, match="another process went on"):  # nor does it come back
        api.train(resume="runs/both", **NOTHING_SHOWN)
    run = api.train(resume=other, **NOTHING_SHOWN)
    assert run.status["state"] == "finished"


def test_a_name_that_is_taken_there_gets_a_number(tt, bucket: str, tmp_path: Path):
    remote._claim(bucket, "digits", "a0", exact=True)

    code, _, errors = tt(*TINY, "--out", bucket, "--name", "digits")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"is taken by a run that {platform.node()} prepares, or was killed at" in errors
    assert not (tmp_path / "runs").exists()
    assert tt(*TINY, "--out", bucket, "--name", "digits", "--dry-run") == (2, "", errors)
    assert tt(*TINY, "--out", bucket, "--name", "free", "--dry-run")[0] == 0

    assert tt(*TINY, "--steps", "1", "--out", bucket)[0] == 2  # both lengths: nothing is claimed
    assert remote._claim(bucket, "digits", "b1", exact=False)[0].name == "digits-2"


def test_the_claim_of_a_preparation_that_was_killed_is_taken_over(tt, bucket: str, monkeypatch):
    """SIGKILL leaves it: a manifest without files."""
    script = (
        "from tintype.files.lease import this_process as p; import json; print(json.dumps(p()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, encoding="utf-8"
    )
    gone = json.loads(said.stdout)
    store = remote.Store(f"{bucket}/digits")
    store.create(1, {"owner": "a0", "files": {}, "by": {**gone, "machine": "far away"}})

    code, _, errors = tt("train", "--resume", store.address)
    assert (code, errors.count("\n")) == (2, 1)
    assert "has not begun" in errors
    code, _, errors = tt(*TINY, "--out", bucket, "--name", "digits")
    assert (code, errors.count("\n")) == (2, 1)
    assert "is taken by a run that far away prepares, or was killed at" in errors

    store.remove_manifest(1)
    store.create(1, {"owner": "a0", "files": {}, "by": gone})
    assert tt(*TINY, "--out", bucket, "--name", "digits")[0] == 0
    assert api.load(store.address).status["state"] == "finished"


def test_a_kind_of_address_that_nobody_knows(tt, tmp_path: Path):
    """It is neither read nor written, so that the line speaks of neither."""
    for arguments in ([*TINY, "--out", "nosuch://bucket/runs"], ["train", "nosuch://a/b.tar"]):
        code, _, errors = tt(*arguments)
        assert (code, errors.count("\n")) == (2, 1)
        assert "is no address that fsspec knows: there is no nosuch://" in errors
    assert not (tmp_path / "runs").exists()


def test_without_the_right_to_write_it_says_so_at_once(tt, bucket: str, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)

    code, _, errors = tt(*TINY, "--out", bucket)

    assert (code, errors.count("\n")) == (2, 1)
    assert "cannot write to memory://" in errors
    assert "Access Denied" in errors
    assert not (tmp_path / "runs").exists()


def test_a_store_that_is_down_for_a_while_costs_no_training(
    bucket: str, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(remote, "SHARE", 1.0)
    put = remote.Store.put
    seen: list[str] = []

    def often_down(store: remote.Store, path: str, data: bytes) -> None:
        seen.append(path)
        if 10 < len(seen) < 30:
            raise UserError("cannot write: no answer in time.")
        put(store, path, data)

    monkeypatch.setattr(remote.Store, "put", often_down)
    api.train(tiny(), out=bucket, name="patient", **NOTHING_SHOWN)

    elsewhere(tmp_path, monkeypatch, "reader")
    assert tintype.load(f"{bucket}/patient").status["state"] == "finished"


@pytest.mark.parametrize("path", ["../../secrets", "/etc/passwd", "a/../../b", "C:\\x", ""])
def test_no_file_leads_out_of_the_folder(bucket: str, path: str):
    store = remote.Store(f"{bucket}/bad")
    file = {"at": "000002-ab", "bytes": 1, "sha256": "0" * 64}
    store.create(2, {"owner": "ab", "files": {path: file}})

    with pytest.raises(UserError, match="broken"):
        tintype.load(f"{bucket}/bad")


def test_bytes_that_the_manifest_does_not_name_are_refused(bucket: str):
    store = remote.Store(f"{bucket}/bad")
    store.put("000002-ab/recipe.yaml", b"data: digits")
    file = {"at": "000002-ab", "bytes": 1, "sha256": "0" * 64}
    store.create(2, {"owner": "ab", "files": {"recipe.yaml": file}})

    with pytest.raises(UserError, match=r"recipe\.yaml is not what its manifest says"):
        tintype.load(f"{bucket}/bad")


def test_what_is_no_run_is_said_in_a_line(bucket: str, tt):
    code, _, errors = tt("report", f"{bucket}/nobody")
    assert (code, errors.count("\n")) == (2, 1)
    assert "there is no run at memory://" in errors

    code, _, errors = tt("study", "widths.yaml", "--out", bucket)
    assert (code, errors.count("\n")) == (2, 1)
    assert "a study cannot lie at" in errors


def test_an_address_may_be_a_folder(tt, tmp_path: Path, monkeypatch):
    assert tt(*TINY, "--out", f"file://{tmp_path}/shared")[0] == 0

    elsewhere(tmp_path, monkeypatch, "other")
    loaded = tintype.load(f"file://{tmp_path}/shared/digits")
    assert loaded.status["state"] == "finished"


def test_s3_keeps_one_owner_and_the_same_bits(
    server: str, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch
):
    whole = api.train(tiny(), out=tmp_path / "whole", **NOTHING_SHOWN)
    elsewhere(tmp_path, monkeypatch, "first")
    with pytest.raises(Interrupted):
        api.train(tiny(), out=server, name="shared", watchers=Ends(12), **NOTHING_SHOWN)

    elsewhere(tmp_path, monkeypatch, "second")
    run = api.train(resume=f"{server}/shared", **NOTHING_SHOWN)
    for name in SAME:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()

    store = remote.Store(f"{server}/shared")
    number, manifest = store.latest()
    assert not store.create(number, {**manifest, "owner": "00"})  # If-None-Match
    there = {path.split("/shared/")[1] for path in store.files.find(store.path)}
    named = {f"{file['at']}/{path}" for path, file in manifest["files"].items()}
    assert there == {*named, f"manifests/{number:06d}.json"}

    with pytest.raises(UserError, match="no such bucket"):
        api.train(tiny(), out="s3://nowhere/runs", **NOTHING_SHOWN)
