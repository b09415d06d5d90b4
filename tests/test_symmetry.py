"""Flips that would change a photo's class are found before training, and only those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from scipy.stats import fisher_exact
from sklearn.datasets import load_sample_images

from tintype import api
from tintype.progress import Watcher
from tintype.recipe import Recipe, build
from tintype.statistics import swap_p
from tintype.tasks.classify.symmetry import TURNS, find_symmetries
from tintype.training.prepare import prepare

pytestmark = pytest.mark.usefixtures("short_pages")


def arrow(kind: int, i: int, side: int = 32) -> Image.Image:
    """An arrow to the left, of any colour on any ground, another one for each (kind, i)."""
    draw = np.random.default_rng(1000 * kind + i)
    dark = tuple(int(v) for v in draw.integers(20, 110, 3))
    light = tuple(int(v) for v in draw.integers(150, 255, 3))
    ground, colour = (dark, light) if draw.random() < 0.5 else (light, dark)
    image = Image.new("RGB", (side, side), ground)
    x, y, length = int(draw.integers(3, 8)), int(draw.integers(10, 22)), int(draw.integers(15, 22))
    pen = ImageDraw.Draw(image)
    pen.line((x, y, x + length, y), fill=colour, width=3)
    pen.polygon([(x - 2, y), (x + 6, y - 6), (x + 6, y + 6)], fill=colour)
    return image


POINTED = {
    "left": lambda image: image,
    "right": ImageOps.mirror,
    "up": lambda image: image.rotate(-90),
    "down": lambda image: image.rotate(90),
}


def arrows(*directions: str, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    pictures = [
        POINTED[name](arrow(k, i)) for k, name in enumerate(directions) for i in range(count)
    ]
    return np.stack([np.asarray(p) for p in pictures]), np.repeat(np.arange(len(directions)), count)


def photos(count: int = 60, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of two photos (a temple, a flower), each as it is or mirrored at random."""
    draw = np.random.default_rng(0)
    pieces = []
    for photo in load_sample_images().images:
        for _ in range(count):
            size = int(draw.integers(80, 200))
            y, x = (int(draw.integers(0, length - size)) for length in photo.shape[:2])
            piece = Image.fromarray(photo[y : y + size, x : x + size]).resize((side, side))
            pieces.append(np.asarray(ImageOps.mirror(piece) if draw.random() < 0.5 else piece))
    return np.stack(pieces), np.repeat([0, 1], count)


def write(folder: Path, images: np.ndarray, targets: np.ndarray, names: list[str]) -> Path:
    for i, (pixels, target) in enumerate(zip(images, targets, strict=True)):
        place = folder / names[target]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def changes(images: np.ndarray, targets: np.ndarray, names: list[str]) -> dict[str, bool | None]:
    return {
        turn: found.changes
        for turn, found in find_symmetries(images, targets, names, list(TURNS)).items()
    }


@pytest.mark.parametrize(
    ("names", "changing"),
    [
        (["left", "right"], {"mirrored", "turned by 180 degrees"}),
        (["up", "down"], {"turned upside down", "turned by 180 degrees"}),
        (["left", "up"], {"turned by 90 degrees"}),
        (
            ["left", "right", "up", "down"],
            {"mirrored", "turned upside down", "turned by 90 degrees", "turned by 180 degrees"},
        ),
    ],
)
def test_arrows_change_class_where_they_are_turned_into_one_another(names, changing):
    found = changes(*arrows(*names), names)
    assert {turn for turn, changed in found.items() if changed} == changing


def test_photos_that_mirroring_does_not_change_keep_their_flips():
    assert changes(*photos(), ["temple", "flower"])["mirrored"] is False


def test_the_finding_names_the_classes():
    images, targets = arrows("left", "right")
    text = find_symmetries(images, targets, ["left", "right"], ["mirrored"])["mirrored"].text
    assert "'left'" in text
    assert "'right'" in text
    assert "60 training images" in text


def test_too_few_images_or_nothing_but_noise_decide_nothing():
    images, targets = arrows("left", "right", count=4)
    assert changes(images, targets, ["left", "right"])["mirrored"] is None
    noise = np.random.default_rng(1).integers(0, 255, (120, 32, 32, 3), np.uint8)
    assert changes(noise, np.arange(120) % 2, ["a", "b"])["mirrored"] is None


def test_labels_without_meaning_are_seldom_taken_for_mirrored_classes():
    draw = np.random.default_rng(2)
    images, _ = photos(count=40)
    found = [changes(images, draw.integers(0, 4, len(images)), list("abcd")) for _ in range(5)]
    assert not any(changed for each in found for changed in each.values())


@pytest.mark.parametrize(
    ("taken", "n", "kept", "other_n"), [(9, 10, 2, 12), (3, 40, 30, 40), (5, 5, 0, 5)]
)
def test_the_test_is_fishers(taken, n, kept, other_n):
    table = [[taken, n - taken], [kept, other_n - kept]]
    assert swap_p(taken, n, kept, other_n) == pytest.approx(fisher_exact(table, "greater")[1])


@pytest.fixture(scope="module")
def left_and_right(tmp_path_factory) -> str:
    return str(
        write(tmp_path_factory.mktemp("arrows"), *arrows("left", "right"), ["left", "right"])
    )


SMALL = {"model": "cnn", "weights": "none", "image_size": 24, "device": "cpu"}


def choices_of(prepared) -> dict[str, str]:
    return {choice.name: str(choice) for choice in prepared.choices}


def test_a_run_leaves_out_flips_of_presets_and_tells(left_and_right):
    prepared = api.plan(left_and_right, watcher=Watcher(), **SMALL)
    assert prepared.recipe.tta == "none"
    assert prepared.recipe.flips == "as-stated"
    assert "flip" not in prepared.task.augment.options  # pyright: ignore[reportAttributeAccessIssue]
    assert "left out" in choices_of(prepared)["mirrored photos"]


def test_a_preset_that_was_asked_for_loses_its_flip_alone(left_and_right):
    prepared = api.plan(left_and_right, watcher=Watcher(), augment="standard", **SMALL)
    assert list(prepared.task.augment.options) == ["crop"]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_flip_that_was_asked_for_by_name_stays_with_a_warning(left_and_right):
    prepared = api.plan(
        left_and_right, watcher=Watcher(), augment="flip,crop=2", tta="flip", **SMALL
    )
    assert "flip" in prepared.task.augment.options
    assert prepared.recipe.tta == "flip"
    assert "WARNING" in choices_of(prepared)["mirrored photos"]


def test_two_flips_make_a_half_turn(tmp_path):
    """Of arrows to the upper left and the lower right neither flip makes the other, both together
    do.
    """
    up_left = [
        arrow(k, i).rotate(-45, fillcolor=arrow(k, i).getpixel((0, 0)))
        for k in (0, 1)
        for i in range(40)
    ]
    images = np.stack([np.asarray(p.rotate(180 * (i >= 40))) for i, p in enumerate(up_left)])
    data = str(write(tmp_path, images, np.repeat([0, 1], 40), ["in", "out"]))
    prepared = api.plan(data, watcher=Watcher(), augment="flips", tta="none", **SMALL)
    assert list(prepared.task.augment.options) == ["flip"]  # pyright: ignore[reportAttributeAccessIssue]
    assert "turned upside down photos" not in choices_of(prepared)


def test_without_mirroring_turning_upside_down_is_no_half_turn(left_and_right):
    prepared = api.plan(left_and_right, watcher=Watcher(), augment="flips", tta="none", **SMALL)
    assert list(prepared.task.augment.options) == ["vertical_flip"]  # pyright: ignore[reportAttributeAccessIssue]


def test_nothing_is_looked_into_where_nothing_is_flipped(left_and_right):
    prepared = api.plan(left_and_right, watcher=Watcher(), augment="none", tta="none", **SMALL)
    assert "mirrored photos" not in choices_of(prepared)


def test_a_recipe_of_an_earlier_version_goes_on_with_its_flips(left_and_right):
    """Its recipe.yaml has no field `flips`, and no decision is taken while it is resumed."""
    stated = {"data": left_and_right, "augment": "standard", "tta": "flip", "epochs": 1, **SMALL}
    recipe = build(stated, where="")
    assert recipe.flips == Recipe().flips == "as-stated"
    prepared = prepare(recipe, Watcher())
    assert prepared.recipe.tta == "flip"
    assert "mirrored photos" not in choices_of(prepared)


def test_a_built_in_recipe_on_mirrored_classes_learns_them(left_and_right, tmp_path):
    """The recipe names its flips, but the user did not."""
    changes = {"val_fraction": 0.1, "model": "cnn", "epochs": 25, "batch_size": 16, "device": "cpu"}
    run = api.train(
        "fashion-mnist", data=left_and_right, out=tmp_path, watcher=Watcher(), **changes
    )
    assert run.recipe.tta == "none"
    assert run.metrics["test"]["accuracy"] == 1.0
