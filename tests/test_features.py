"""Features of a frozen network are kept for each photo: what was computed once is not computed again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tintype import api
from tintype.data import cache, features
from tintype.data.features import Network, photo_features
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.models import build_model
from tintype.progress import Watcher
from tintype.recipe import Recipe, build
from tintype.tasks.classify.transfer import Transfer
from tintype.tasks.frozen import FrozenBackbone

pytestmark = pytest.mark.usefixtures("short_pages")

BACKBONE = "mobilenet_v3_small"
NETWORK = Network("network", "a network at 4x4")
DIGESTS = [bytes([i]) * 16 for i in range(40)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


class Computed:
    """What stands for a network: features that follow from photo and view, and how many were asked for."""

    def __init__(self, digests: list[bytes]) -> None:
        self.digests, self.count = digests, 0

    def __call__(self, rows: np.ndarray, view: int) -> np.ndarray:
        assert len(rows) <= features.BATCH
        self.count += len(rows)
        first = np.array([self.digests[row][0] for row in rows], np.float32)
        return np.stack([first, first + view, first * 0 + 0.1], axis=1)


def asked(
    digests: list[bytes], views: int = 2, network: Network = NETWORK
) -> tuple[int, list[str]]:
    """Return how many features were computed for photos, and what was said; the features are checked."""
    compute, lines = Computed(digests), []
    found = photo_features(
        digests,
        ["as it is", "mirrored", "3"][:views],
        compute,
        network,
        lambda *line: lines.append(line[0]),
    )
    expected = [
        compute(np.arange(len(digests))[i : i + 1], v)[0]
        for i in range(len(digests))
        for v in range(views)
    ]
    compute.count -= len(expected)
    assert np.array_equal(found.values, np.reshape(expected, found.values.shape))
    return compute.count, [*lines[:1], *found.notes]


# ---- the cache --------------------------------------------------------------------------------------------------------


def test_only_what_is_new_is_computed(own_cache):
    assert asked(DIGESTS[:30]) == (60, ["features of 30 new photos"])
    assert asked(DIGESTS[29::-1]) == (0, [])
    assert asked([*DIGESTS, *DIGESTS[:5]]) == (20, ["features of 10 new photos; 30 from the cache"])
    assert asked(DIGESTS[5:35], views=3) == (30, ["features of 30 new photos"])
    assert asked(DIGESTS[:4], network=Network("another", "another")) == (
        8,
        ["features of 4 new photos"],
    )
    entries = cache.cache_entries()
    assert {(entry.source, entry.count, entry.what) for entry in entries} == {
        (NETWORK.name, 110, "features"),
        ("another", 8, "features"),
    }


def test_equal_photos_are_computed_once():
    assert asked([DIGESTS[0]] * 3, views=1)[0] == 1


@pytest.mark.parametrize("damage", ["cut short", "empty", "a bit of a feature", "a bit of a name"])
def test_what_is_damaged_is_computed_again_and_said(own_cache, damage):
    asked(DIGESTS[:10])
    (file,) = own_cache.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "a bit of a feature":
        content[content.index(np.float32(9).tobytes())] ^= 1
    if damage == "a bit of a name":
        content[12] ^= 1
    file.write_bytes({"cut short": content[:-7], "empty": b""}.get(damage, content))

    computed, said = asked(DIGESTS[:10])
    assert computed == 20
    assert any(f"{file} is damaged" in line for line in said)
    assert asked(DIGESTS[:10]) == (0, [])


def test_what_was_computed_before_an_error_is_kept():
    class Stopped(Computed):
        def __call__(self, rows: np.ndarray, view: int) -> np.ndarray:
            if self.count >= features.BATCH:
                raise KeyboardInterrupt
            return super().__call__(rows, view)

    with pytest.raises(KeyboardInterrupt):
        photo_features(DIGESTS, ["as it is"], Stopped(DIGESTS), NETWORK)
    assert asked(DIGESTS, views=1)[0] == len(DIGESTS) - features.BATCH


def test_many_small_files_are_joined(own_cache):
    for i in range(features.MOST_SMALL + 3):
        asked(DIGESTS[i : i + 1])
    assert len(list(own_cache.rglob("*.safetensors"))) <= 3
    assert asked(DIGESTS[: features.MOST_SMALL + 3]) == (0, [])


def test_a_large_set_is_written_in_parts(own_cache, monkeypatch):
    monkeypatch.setattr(features, "FULL", 32)
    assert asked(DIGESTS, views=1)[0] == 40
    assert sorted(int(f.name.split("-")[0]) for f in own_cache.rglob("*.safetensors")) == [8, 32]
    assert asked(DIGESTS, views=1)[0] == 0


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "file"))
    computed, said = asked(DIGESTS[:3])
    assert computed == 6
    assert "without being kept" in said[-1]


def test_features_are_shown_bounded_and_cleared_as_photos_are(own_cache, say):
    asked(DIGESTS[:3])
    assert f"6 features of {NETWORK.name}" in say("cache")[1]
    assert "removed 1 entries" in say("cache", "--limit", "0")[1]
    assert asked(DIGESTS[:3])[0] == 6
    say("cache", "--clear")
    assert not list(own_cache.iterdir())


def test_processes_that_add_to_one_entry_lose_nothing(own_cache):
    script = """if True:
        import sys, numpy as np
        from tintype.data.features import Network, photo_features
        start = int(sys.argv[1])
        for i in range(start, start + 20):
            digests = [bytes([j]) * 16 for j in range(start, i + 1)]
            photo_features(digests, ["as it is", "mirrored"], lambda rows, view: np.stack(
                [np.array([digests[r][0], digests[r][0] + view, 0.1], np.float32) for r in rows]
            ), Network("network", "a network at 4x4"))
    """
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(start)], env=os.environ.copy())
        for start in (0, 10, 20)
    ]
    assert [child.wait() for child in children] == [0, 0, 0]
    computed, said = asked(DIGESTS)
    assert computed <= 8  # a process may join a file while another one reads it
    assert not any("damaged" in line for line in said)


# ---- a network --------------------------------------------------------------------------------------------------------


def weights(folder: Path, seed: int) -> Path:
    classes = Classes(tuple(map(str, range(1000))))
    spec = DataSpec("", 3, 32, 32, classes, (0.5,) * 3, (0.25,) * 3, "")
    network = build_model(BACKBONE, spec, {}, seed=seed)
    save_file(network.state_dict(), folder / f"{seed}-{BACKBONE}.safetensors")
    return folder / f"{seed}-{BACKBONE}.safetensors"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The images whose features a network computed."""
    seen: list[torch.Tensor] = []
    compute = FrozenBackbone.compute

    def counted(self: FrozenBackbone, images: torch.Tensor) -> np.ndarray:
        seen.extend(images)
        return compute(self, images)

    monkeypatch.setattr(FrozenBackbone, "compute", counted)
    return seen


@pytest.fixture
def photos(digit_files: Path, tmp_path: Path) -> Callable[..., Recipe]:
    shutil.copytree(digit_files, tmp_path / "photos")

    def make(**changes: object) -> Recipe:
        fields = {
            "data": str(tmp_path / "photos"), "model": BACKBONE, "weights": str(weights(tmp_path, 1)), "tune": "head",
            "image_size": 32, "epochs": 2, "batch_size": 16, "lr": 1e-3, "precision": "fp32", "device": "cpu",
            "val_fraction": 0.2,
        }  # fmt: skip
        return build({**fields, **changes}, where="")

    return make


def test_ten_more_photos_cost_ten(photos, tmp_path, shown):
    def computed(name: str, **changes: object) -> int:
        before = len(shown)
        api.train(photos(**changes), out=tmp_path / "runs", name=name, watcher=Watcher())
        return len(shown) - before

    count = len(list((tmp_path / "photos").rglob("*.png")))
    assert computed("first") == count
    for i in range(10):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        folder = sorted(path for path in (tmp_path / "photos").iterdir() if path.is_dir())[i % 2]
        Image.fromarray(noise).save(folder / f"new{i}.png")

    assert computed("ten more") == 10
    assert computed("another seed", seed=3) == 0
    assert computed("another split", split_seed=3) == 0
    assert computed("another size", image_size=40) == count + 10
    assert computed("other weights", weights=str(weights(tmp_path, 2))) == count + 10
    assert computed("mirrored", tta="flip") <= count + 10
    assert computed("mirrored again", tta="flip", lr=1e-2) == 0


def test_augmented_views_are_kept_too(photos, tmp_path, shown):
    recipe = photos(views=2, augment="photos")
    first = api.train(recipe, out=tmp_path, name="a", watcher=Watcher())
    before = len(shown)
    again = api.train(recipe, out=tmp_path, name="b", watcher=Watcher())
    api.train(recipe.replace(seed=4), out=tmp_path, name="c", watcher=Watcher())
    assert len(shown) == before
    same = [(run.path / "model.safetensors").read_bytes() for run in (first, again)]
    assert same[0] == same[1]
    api.train(recipe.replace(views=3), out=tmp_path, name="d", watcher=Watcher())
    assert 0 < len(shown) - before <= len(first.read_table("splits.csv"))


@pytest.mark.machines
def test_the_bits_of_a_photo_do_not_follow_from_its_company(photos, tmp_path):
    from tintype.training.prepare import prepare

    prepared = prepare(photos(views=1, augment="photos"), Watcher())
    task, train = prepared.task, prepared.splits.train
    assert isinstance(task, Transfer)
    whole = task.features_of(train, 1)
    cache.clear_cache()
    part = task.features_of(train.subset(torch.arange(len(train) - 1, 3, -7)), 1)
    assert torch.equal(part, whole[torch.arange(len(train) - 1, 3, -7)])
