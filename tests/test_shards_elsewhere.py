"""Shards at an address: a bounded cache, read ahead, retries, checksums, and Parquet files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.spec import AbstractFileSystem
from PIL import Image
from test_shards import png, tar_of

from tintype import api
from tintype.data import open_data
from tintype.data.shards import fetching, parquet, places
from tintype.data.source import DataSplits, StoredSource
from tintype.errors import UserError
from tintype.training.order import Order, batches

NUM_SHARDS, PER_SHARD = 40, 12
SHARD_BYTES = 51_200  # a tar file is filled up to a multiple of 10,240


class Slow(AbstractFileSystem):
    """Files of a folder, each request 20 ms late; some fail, and all are counted."""

    protocol = "slow"
    cachable = False
    folder = Path()
    failing: dict[str, int] = {}  # noqa: RUF012 (of all its instances: fsspec makes them)
    requests: list[tuple[str, int | None]] = []  # noqa: RUF012
    most_kept = 0
    latency = 0.02

    def _file(self, path: str) -> Path:
        return self.folder / self._strip_protocol(path).lstrip("/")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        status = self._file(path).stat()
        kind = "directory" if self._file(path).is_dir() else "file"
        name = self._strip_protocol(path)
        return {"name": name, "size": status.st_size, "type": kind, "at": status.st_mtime_ns}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        inside = [f"{self._strip_protocol(path)}/{p.name}" for p in self._file(path).iterdir()]
        return [self.info(each) for each in inside] if detail else inside

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        time.sleep(self.latency)
        name = self._file(path).name
        if name.endswith(".tar"):
            self.requests.append((name, start))
            type(self).most_kept = max(self.most_kept, bytes_kept())
        if self.failing.get(name, 0):
            self.failing[name] -= 1
            raise ConnectionResetError("connection reset by peer")
        with open(self._file(path), "rb") as file:
            file.seek(start or 0)
            return file.read(-1 if end is None else end - (start or 0))


def cache_of_shards() -> list[Path]:
    folder = Path(os.environ["TINTYPE_CACHE"]) / "shards"
    return list(folder.glob("*.bytes")) if folder.is_dir() else []


def bytes_kept() -> int:
    """Return what shards take in the cache, while other threads may make room there."""
    count = 0
    for file in cache_of_shards():
        with suppress(FileNotFoundError):
            count += file.stat().st_size
    return count


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty shards of twelve pictures of two kinds, of 40 KB each, with their indexes."""
    from tintype.data.sets.folder import find_photos
    from tintype.data.shards.writing import write_shards

    root = tmp_path_factory.mktemp("forty")
    for i in range(NUM_SHARDS * PER_SHARD):
        folder = root / "photos" / ("even", "odd")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        content = np.frombuffer(png(i, 24), np.uint8)
        (folder / f"{i:04d}.png").write_bytes(content.tobytes())
    found = find_photos(root / "photos").photos
    total = sum(os.path.getsize(photo.path) + 2048 for photo in found)
    written = write_shards(found, ["label"], root / "shards", shard_bytes=total // NUM_SHARDS)
    assert written.num_shards == NUM_SHARDS
    assert max(p.stat().st_size for p in (root / "shards").glob("*.tar")) <= SHARD_BYTES
    return root / "shards"


@pytest.fixture
def slow(forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Slow]:
    """The forty shards at slow://, which a test may damage, and a cache of its own."""
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "PAUSE", 0.001)
    fsspec.register_implementation("slow", Slow, clobber=True)
    shutil.copytree(forty, tmp_path / "root" / "there")
    Slow.folder, Slow.failing, Slow.requests, Slow.most_kept = tmp_path / "root", {}, [], 0
    Slow.latency = 0.02
    return Slow


THREE = f"{3 * SHARD_BYTES}"
PATTERN = "slow://there/shard-{000000..000039}.tar"


def opened(**more: Any) -> DataSplits:
    return open_data(PATTERN, image_size=32, channels=3, cache_size=THREE, **more)


def epoch_of(
    splits: DataSplits, steps: int | None = None, batch_size: int = 24
) -> list[torch.Tensor]:
    """Train nothing, and take every batch of an epoch."""
    train = splits.train
    order = Order(0, len(train), batch_size, shards=train.shards)
    steps = len(train) // batch_size if steps is None else steps
    return [batch.images for batch in batches(train, order, 0, steps)]


def test_an_epoch_through_a_cache_of_three_fetches_each_shard_about_once(slow, forty):
    here = open_data(f"{forty}/*.tar", image_size=32, channels=3, cache_size=THREE)
    splits = opened()
    assert splits.train.kind == here.train.kind == "streamed"
    assert splits.spec.fingerprint == here.spec.fingerprint

    slow.requests.clear()
    # of batches smaller than a shard, as usual ones are
    both = (epoch_of(one, batch_size=4) for one in (splits, here))
    for ours, theirs in zip(*both, strict=True):
        assert torch.equal(ours, theirs)
    whole = [name for name, start in slow.requests if start == 0]
    assert len(set(whole)) >= NUM_SHARDS - 1
    assert len(whole) <= NUM_SHARDS + 3
    assert slow.most_kept <= 3 * SHARD_BYTES
    assert sum(path.stat().st_size for path in cache_of_shards()) <= 3 * SHARD_BYTES


def test_few_images_are_asked_for_without_their_shards(slow):
    splits = opened()
    for path in cache_of_shards():
        path.unlink()
    slow.requests.clear()
    some = splits.train.take(torch.arange(0, len(splits.train), 30)).images
    assert len(slow.requests) == len(some)
    assert not cache_of_shards()


def test_memory_stays_flat(slow, monkeypatch):
    monkeypatch.setattr("tintype.data.shards.streamed.MOST_AHEAD_BYTES", 0)
    monkeypatch.setattr("tintype.data.shards.streamed.LEAST_AHEAD", 30)
    slow.latency = 0.0
    splits = opened()
    source = splits.train
    assert isinstance(source, StoredSource)
    decoder = source.store.decoder  # pyright: ignore[reportAttributeAccessIssue]
    for epochs in range(2):
        epoch_of(splits)
        assert 0 < decoder.most_alive <= 2 * 30 + 24, epochs
        assert decoder.alive == 0, epochs


def test_interrupted_downloads_are_repeated(slow):
    splits = opened()
    slow.failing.update({f"shard-{k:06d}.tar": 2 for k in range(0, NUM_SHARDS, 5)})
    assert len(epoch_of(splits)) == len(splits.train) // 24
    assert not any(slow.failing.values())


def test_a_shard_that_cannot_be_fetched_is_named(slow):
    splits = opened()
    slow.failing["shard-000007.tar"] = 1000
    with pytest.raises(UserError, match=r"shard-000007.tar cannot be fetched \(5 tries\)"):
        epoch_of(splits)


def test_a_truncated_shard_is_named_before_anything_is_trained(slow):
    path = slow.folder / "there" / "shard-000011.tar"
    path.write_bytes(path.read_bytes()[:-10_240])
    with pytest.raises(UserError, match=r"shard-000011.tar has .* truncated"):
        opened()


def test_a_shard_replaced_behind_our_back_is_named_and_never_used(slow):
    splits = opened()
    path = slow.folder / "there" / "shard-000023.tar"
    other = (slow.folder / "there" / "shard-000024.tar").read_bytes()
    path.write_bytes(other[: path.stat().st_size].ljust(path.stat().st_size, b"\0"))
    with pytest.raises(UserError, match=r"shard-000023.tar holds other bytes"):
        epoch_of(splits)
    names = [hashlib.sha256(p.read_bytes()).hexdigest() for p in cache_of_shards()]
    assert sorted(names) == sorted(p.stem for p in cache_of_shards())


def test_a_local_shard_changed_while_it_is_used_is_named(forty, tmp_path):
    shutil.copytree(forty, tmp_path / "here")
    splits = open_data(str(tmp_path / "here"), image_size=32, channels=3, cache_size="150KB")
    path = tmp_path / "here" / "shard-000005.tar"
    content = bytearray(path.read_bytes())
    content[700::1024] = bytes(255 - b for b in content[700::1024])
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"shard-000005.tar was replaced or damaged"):
        epoch_of(splits)
    path.write_bytes(content[:5000])
    with pytest.raises(UserError, match=r"shard-000005.tar is truncated"):
        epoch_of(splits)
    path.unlink()
    with pytest.raises(UserError, match="is gone"):
        epoch_of(splits)


def test_a_damaged_copy_in_the_cache_is_fetched_again(slow):
    splits = opened()
    before = epoch_of(splits, 3)
    for path in cache_of_shards():
        path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(a, b) for a, b in zip(epoch_of(splits, 3), before, strict=True))


def test_killed_over_slow_shards_a_run_goes_on_bit_equal(slow, tmp_path, killed_at):
    slow.latency = 0.0
    fields: dict[str, Any] = {
        "image_size": 32, "model": "ann", "model_options": {"hidden": [4]}, "steps": 12,
        "batch_size": 24, "lr": 0.01, "augment": "none", "device": "cpu", "precision": "fp32",
        "verbose": False, "weights": "none", "measure": "none", "cache_size": THREE,
        "out": tmp_path,
    }  # fmt: skip
    whole = api.train(PATTERN, **fields)
    killed_at(7, PATTERN, **fields, name="killed")
    killed = api.train(resume=tmp_path / "killed", verbose=False)
    for file in ("model.safetensors", "metrics.csv", "splits.csv"):
        assert (killed.path / file).read_bytes() == (whole.path / file).read_bytes(), file


# ---- Parquet ------------------------------------------------------------------------------------


def parquet_of(path: Path, rows: list[dict[str, Any]], names: list[str] | None = None) -> Path:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_pylist(rows)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": about})
    pq.write_table(table, path, row_group_size=10)
    return path


def test_parquet_as_hugging_face_writes_it(tmp_path, slow):
    for k, split in enumerate(("train", "validation", "test")):
        rows = [
            {"image": {"bytes": png(100 * k + i), "path": f"{i}.png"}, "label": i % 2}
            for i in range(20)
        ]
        parquet_of(slow.folder / "there" / f"{split}-00000-of-00001.parquet", rows, ["cat", "dog"])
    splits = open_data(f"{slow.folder}/there/*.parquet")
    assert splits.spec.class_names == ("cat", "dog")
    assert [len(splits[split]) for split in ("train", "val", "test")] == [20, 20, 20]

    elsewhere = open_data("slow://there/*.parquet", cache_size="15KB")
    assert elsewhere.spec.fingerprint == splits.spec.fingerprint
    every = torch.arange(20)
    for split in ("train", "val", "test"):
        for source in (splits[split], elsewhere[split]):
            images = source.take(every).images
            for name, image in zip(source.names, images, strict=True):
                i = int(name.split("/")[1].split(".")[0])
                k = ("train", "val", "test").index(split)
                expected = np.asarray(Image.open(io.BytesIO(png(100 * k + i))))
                assert np.array_equal(image[0].numpy(), expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": 1, "url": "x"}], "has no column of images (it has label, url)"),
        ([{"image": {"bytes": png(1), "path": None}}] * 3, "3 images without label"),
    ],
)
def test_parquet_without_images_or_labels(tmp_path, rows, message):
    path = parquet_of(tmp_path / "some.parquet", rows)
    with pytest.raises(UserError) as caught:
        open_data(str(path))
    assert message in str(caught.value)


# ---- what cannot be read ------------------------------------------------------------------------


def words(files: dict[str, bytes], tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_data(str(tar_of(tmp_path / "bad.tar", files)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tars_that_are_no_data(tmp_path):
    images = {f"{i}.png": png(i) for i in range(5)}
    assert "5 images without label" in words(images, tmp_path)
    assert "holds no images" in words({"notes.txt": b"hello"}, tmp_path)
    broken = {f"{i}.png": b"no picture" for i in range(3)}
    labels = {f"{i}.cls": b"1" for i in range(3)}
    assert "none of the images" in words({**broken, **labels}, tmp_path)
    assert "not an image" in words({**broken, **labels}, tmp_path)


def test_a_member_that_is_no_image_is_left_out_and_named(tmp_path):
    files = {f"{i:02d}.png": png(i) if i else b"no picture" for i in range(40)}
    labels = {f"{i:02d}.cls": b"ab"[i % 2 : i % 2 + 1] for i in range(40)}
    splits = open_data(str(tar_of(tmp_path / "x.tar", {**files, **labels})))
    assert splits.skipped == (("x/00.png", "a text file, not an image"),)
    assert any("skipped: 1 files" in note for note in splits.notes)


def refused(say: Any, *command: object) -> str:
    code, _, errors = say(*command)
    assert code == 2, errors
    assert len(errors.strip().splitlines()) <= 2
    return errors


class Web(SimpleHTTPRequestHandler):
    """A server of files. Of those that are to break it sends a half, and closes the connection."""

    protocol_version = "HTTP/1.1"
    gives_parts = True
    breaking: dict[str, int] = {}  # noqa: RUF012 (of all its instances: each request has one)
    asked_for_parts = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return

        content = path.read_bytes()
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part and self.gives_parts:
            type(self).asked_for_parts += 1
            start, end = int(part[1]), min(int(part[2]) + 1, len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            content = content[start:end]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if self.gives_parts:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

        if self.breaking.get(path.name, 0):
            self.breaking[path.name] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def web(forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a local server of the first ten shards, and a cache of its own."""
    pytest.importorskip("aiohttp", reason="pip install 'tintype[shards]'")
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "PAUSE", 0.001)
    Web.gives_parts, Web.breaking, Web.asked_for_parts = True, {}, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=forty)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/shard-{{000000..000009}}.tar"
        server.shutdown()


@pytest.mark.parametrize("gives_parts", [True, False])
def test_a_web_server_whose_connections_break(web, forty, gives_parts):
    Web.gives_parts = gives_parts
    how: dict[str, Any] = {"image_size": 32, "channels": 3, "cache_size": THREE}
    here = open_data(f"{forty}/shard-{{000000..000009}}.tar", **how)
    there = open_data(web, **how)
    assert there.train.kind == here.train.kind == "streamed"
    assert there.spec.fingerprint == here.spec.fingerprint

    Web.breaking.update({"shard-000001.tar": 1, "shard-000002.tar": 1})
    both = (epoch_of(one, batch_size=4) for one in (there, here))
    for ours, theirs in zip(*both, strict=True):
        assert torch.equal(ours, theirs)
    assert not any(Web.breaking.values())
    assert bool(Web.asked_for_parts) == gives_parts


def test_a_web_server_whose_connections_break_for_good_is_named(web, say, tmp_path):
    splits = open_data(web, image_size=32, channels=3, cache_size=THREE)
    Web.breaking["shard-000002.tar"] = 10**6
    with pytest.raises(UserError, match=r"shard-000002.tar cannot be fetched \(5 tries\)") as error:
        epoch_of(splits)
    assert "\n" not in str(error.value)

    code, _, errors = say("train", web.replace("shard", "nothing"), "--out", str(tmp_path / "runs"))
    assert (code, errors.count("\n")) == (2, 1)
    assert "nothing-000000.tar" in errors
    assert "there is no such file" in errors


def test_clear_lines_for_what_is_not_there(say, slow, tmp_path, monkeypatch):
    train = ("train", "--out", tmp_path / "runs")
    assert "matches no shard" in refused(say, *train, f"{tmp_path}/nothing-*.tar")
    assert "there is no shard" in refused(say, *train, f"{tmp_path}/nothing.tar")
    assert "there is no such file" in refused(say, *train, "slow://there/nothing.tar")
    assert "matches no shard" in refused(say, *train, "slow://there/nothing-*.tar")
    assert "is no shard" in refused(say, *train, "slow://photos.zip")
    assert "there is no nowhere://" in refused(say, *train, "nowhere://a/b.tar")
    text = refused(say, *train, PATTERN, "--cache-size", "20KB")
    assert "Expected one that holds at least a shard" in text
    assert "is no size" in refused(say, *train, PATTERN, "--cache-size", "much")
    assert "is one name of 2" in refused(say, *train, "a.tar", "digits")
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b and so on")
    assert "it is compressed (gzip)" in refused(say, *train, tmp_path / "a.tar")
    (tmp_path / "b.parquet").write_bytes(b"nothing of the kind")
    assert "no Parquet file" in refused(say, *train, tmp_path / "b.parquet")
    assert not (tmp_path / "runs").exists()


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    path = parquet_of(tmp_path / "a.parquet", [{"image": {"bytes": png(1), "path": None}}])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs pyarrow"):
        parquet.list_members(path, "a.parquet")

    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(
        UserError, match=r"s3:// needs a package .* pip install 'tintype\[shards\]'"
    ):
        places.find_shards("s3://bucket/a.tar")


def test_shard_and_train_on_the_command_line(say, digit_files, tmp_path):
    out = tmp_path / "shards"
    code, said, errors = say("shard", digit_files, out, "--size", "100KB")
    assert code == 0, errors
    assert f"tintype train {out}" in said
    assert "is taken" in refused(say, "shard", digit_files, out)
    some = sorted(str(path) for path in out.glob("*.tar"))
    code, said, errors = say(
        "train", *some, "--model", "ann", "--steps", 2, "--set", "measure=none", "--weights", "none",
        "--out", tmp_path / "runs", "--name", "one",
    )  # fmt: skip
    assert code == 0, errors
    recipe = (tmp_path / "runs" / "one" / "recipe.yaml").read_text(encoding="utf-8")
    assert f"data: {out}/shard-{{" in recipe
