"""Shards of a prediction: together they are what one process would have written."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tintype import api, cli

NUM_SHARDS = 8


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", *map(str, arguments)])
    return end.value.code if isinstance(end.value.code, int) else 0


@pytest.fixture
def photos(digit_files: Path, tmp_path: Path) -> Path:
    """120 photos, one of them broken."""
    shutil.copytree(digit_files, tmp_path / "photos")
    (tmp_path / "photos" / "3" / "broken, not a photo.png").write_bytes(b"nothing")
    return tmp_path / "photos"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_shards_that_are_killed_again_and_again_are_together_what_one_process_writes(
    finished_run: api.Run, photos: Path, tmp_path: Path, ending: str
):
    from test_kills import Child

    if ending == "parquet" and not importlib.util.find_spec("pyarrow"):
        pytest.skip("pyarrow is not installed")
    assert run(finished_run.path, photos, "--out", tmp_path / f"whole.{ending}") == 0
    moments, parts, killed = random.Random(0), [], 0
    for number in range(1, NUM_SHARDS + 1):
        parts.append(str(tmp_path / f"part-{number}.{ending}"))
        command = ["predict", str(finished_run.path), str(photos), "--out", parts[-1], "--resume"]
        command += ["--shard", f"{number}/{NUM_SHARDS}"]
        code = -9
        while code == -9:
            # most of them once, some of them more often
            at = moments.randint(1, 10) if moments.random() < 0.6 else 0
            code, said, _ = Child(command, tmp_path, at).ended()
            killed += code == -9
        assert code == 0 or "is finished" in said, said
    assert killed >= NUM_SHARDS / 2
    moments.shuffle(parts)
    merged = tmp_path / f"merged.{ending}"
    assert run("--merge", *parts, "--out", merged) == 0
    assert merged.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


@pytest.fixture(scope="module")
def two_shards(
    finished_run: api.Run, digit_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], list[Path]]:
    """Return a function that lays two shards of one prediction into a folder."""
    made = tmp_path_factory.mktemp("shards")
    for number in (1, 2):
        out = made / f"{number}.jsonl"
        assert run(finished_run.path, digit_files, "--shard", f"{number}/2", "--out", out) == 0

    def lay(folder: Path) -> list[Path]:
        shutil.copytree(made, folder)
        return [folder / "1.jsonl", folder / "2.jsonl"]

    return lay


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    return said


def test_what_is_no_whole_set_of_shards_is_refused(
    finished_run: api.Run,
    digit_files: Path,
    two_shards: Callable[[Path], list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    one, two = two_shards(tmp_path / "a")
    out = tmp_path / "all.jsonl"
    asked = (finished_run.path, digit_files / "0")

    def merged(*paths: Path) -> str:
        said = refused(capsys, "--merge", *paths, "--out", out)
        assert not out.exists()
        return said

    copied = Path(shutil.copy(one, tmp_path / "a" / "copy.jsonl"))
    assert "is no shard: copy.jsonl.shard.json is missing" in merged(two, copied)
    shutil.copy(f"{one}.shard.json", f"{copied}.shard.json")
    assert "are both shard 1" in merged(one, two, copied)
    assert "there is no file" in merged(one, tmp_path / "b.jsonl")
    third = tmp_path / "third.jsonl"
    assert run(*asked, "--shard", "2/3", "--out", third) == 0
    assert "shards of different lists of photos" in merged(one, third)
    assert "different numbers of shards" not in merged(one, third)
    assert "of 3 shards 2 are missing: 1, 3" in merged(third, Path(f"{third}.shard.json"))
    other = tmp_path / "other.jsonl"
    assert run(finished_run.path, digit_files, "--shard", "2/2", "--top", "2", "--out", other) == 0
    assert "different options" in merged(one, other)

    whole = two.read_bytes()
    two.write_bytes(whole[:-20])
    assert "is not finished: it has" in merged(one, two)
    two.write_bytes(one.read_bytes())
    assert "holds answers that are not its own" in merged(one, two)
    two.write_bytes(whole)
    assert "no file" not in str(run("--merge", one, two, "--out", out))
    assert "nothing is overwritten" in refused(capsys, "--merge", one, two, "--out", out)


def test_what_is_wrong_with_a_shard_is_one_clear_line(
    finished_run: api.Run,
    digit_files: Path,
    two_shards: Callable[[Path], list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    asked = (finished_run.path, digit_files, "--out", tmp_path / "part.jsonl")
    for shard in ("5/4", "0/4", "4", "a/b", "-1/4", "1/0"):
        said = refused(capsys, *asked, f"--shard={shard}")
        assert f"--shard is '{shard}'" in said
    assert "Name its file" in refused(capsys, *asked[:2], "--shard", "1/2")
    sort = ("--sort-into", tmp_path / "sorted")
    assert "Leave --sort-into" in refused(capsys, *asked, "--shard", "1/2", *sort)
    assert not list(tmp_path.iterdir())

    one, _ = two_shards(tmp_path / "a")
    again = (*asked[:2], "--out", one, "--resume")
    assert "was begun as shard 1/2" in refused(capsys, *again, "--shard", "2/2")
    assert "nothing is overwritten" in refused(capsys, *again[:-1], "--shard", "1/2")
    Path(f"{one}.shard.json").unlink()
    assert "was begun without --shard" in refused(capsys, *again, "--shard", "1/2")
