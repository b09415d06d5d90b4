"""Augmentation: a contract for every one in the listing, the mathematics against torchvision,
chance by its laws.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from scipy import stats
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from tintype import plugins
from tintype.augment import Augment, operations, pixels
from tintype.augment.canvas import Canvas
from tintype.augment.pixels import affine_matrix
from tintype.augment.spec import ALIASES, PRESETS, names, parse_augment, resolve
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.own_code import is_own
from tintype.progress import Watcher
from tintype.recipe import Recipe, read_recipe
from tintype.training import prepare


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(n: int = 16, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """Return pieces of a real photo, (N, C, H, W) uint8 in channels_last memory."""
    photo = torch.from_numpy(load_sample_image("china.jpg").copy())[..., :channels]
    generator = seeded(1)
    tops = torch.randint(0, photo.shape[0] - height, (n,), generator=generator).tolist()
    lefts = torch.randint(0, photo.shape[1] - width, (n,), generator=generator).tolist()
    pieces = [photo[y : y + height, x : x + width] for y, x in zip(tops, lefts, strict=True)]
    return torch.stack(pieces).permute(0, 3, 1, 2)


def apply(spec: Any, images: Tensor, seed: int = 0, **more: Any) -> tuple[Tensor, Tensor]:
    targets = torch.arange(len(images)) % 5
    augment = Augment(spec, mixable=FIVE)
    return augment(images, targets, index=torch.arange(len(images)), generator=seeded(seed), **more)


# The contract, for every name and preset

FIVE = Classes(tuple("abcde")).mixable

EVERY = [
    *names(),
    *PRESETS,
    "flip.mode=alternate",
    "erase.area=0.1:0.3,erase.fill=noise",
    "colour_jitter.hue=0.3",
]


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 23), (3, 1, 5), (4, 6, 5)])
@pytest.mark.parametrize("floating", [False, True])
def test_contract(spec: str, shape: tuple[int, int, int], floating: bool) -> None:
    images = torch.randint(0, 256, (9, *shape), dtype=torch.uint8, generator=seeded())
    images = (images / 255 if floating else images).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    first, targets = apply(spec, images)
    again, targets_again = apply(spec, images)
    assert torch.equal(images, before), "the input was modified"
    assert torch.equal(first, again), "the same generator gave another result"
    assert torch.equal(targets, targets_again)
    assert first.shape == images.shape
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert first.dtype in ({torch.float32} if floating else {torch.uint8, torch.float32})
    assert first.min() >= 0
    assert first.max() <= (1 if floating else 255)
    if targets.ndim == 1:
        assert targets.dtype == torch.int64
    else:
        assert targets.shape == (9, 5)
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets.sum(1), torch.ones(9))


@pytest.mark.parametrize("name", names())
def test_every_image_has_its_own_decision(name: str) -> None:
    """Of 32 copies of one image many must come out different (two for a flip, more for the rest)."""
    copies = photos(1).expand(32, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    partners = torch.cat([copies[:16], photos(16)])
    options: dict[str, Any] = {"probability": 0.5} if name == "grey" else {}
    images, _ = apply({name: options}, partners if name in ("mixup", "cutmix") else copies)
    num_kinds = len(images[:16].flatten(1).unique(dim=0))
    assert num_kinds >= (2 if name in ("flip", "vertical_flip", "grey") else 8)


@pytest.mark.parametrize("name", names())
def test_seeds_differ(name: str) -> None:
    images = photos(32)
    assert not torch.equal(apply(name, images, seed=0)[0], apply(name, images, seed=1)[0])


@pytest.mark.parametrize(
    "spec", ["flip,vertical_flip,crop=4,translate,erase,cutmix", "none", "light", "standard"]
)
def test_what_moves_or_hides_keeps_uint8(spec: str) -> None:
    assert apply(spec, photos())[0].dtype == torch.uint8


def test_nothing_asked_is_nothing_done() -> None:
    images = photos()
    for spec in (
        None,
        "none",
        {},
        {"flip": False},
        "flip=0",
        "crop=0",
        "rotate=0",
        "erase=0",
        "cutmix.probability=0",
    ):
        torch.testing.assert_close(
            apply(spec, images)[0].float(), images.float(), atol=1e-3, rtol=0
        )
    assert not Augment("none", mixable=FIVE)
    assert Augment("flip", mixable=FIVE)


# Flips


def test_flips_mirror_about_half_of_the_images() -> None:
    images = photos(1000, height=8, width=8)
    for name, mirrored in (
        ("flip", reference.horizontal_flip(images)),
        ("vertical_flip", reference.vertical_flip(images)),
    ):
        result, _ = apply(name, images)
        flipped = (result == mirrored).all(dim=(1, 2, 3))
        assert ((result == images).all(dim=(1, 2, 3)) | flipped).all()
        assert stats.binomtest(int(flipped.sum()), 1000, 0.5).pvalue > 1e-4
        rarely = (apply(f"{name}=0.1", images)[0] == mirrored).all(dim=(1, 2, 3))
        assert stats.binomtest(int(rarely.sum()), 1000, 0.1).pvalue > 1e-4


def test_alternate_flips_show_both_sides_in_any_two_epochs() -> None:
    images = photos(1000, height=8, width=8)
    epochs = [
        apply("flip.mode=alternate", images, seed=epoch, epoch=epoch)[0] for epoch in range(4)
    ]
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])
    assert torch.equal(epochs[1], reference.horizontal_flip(epochs[0]))
    flipped = (epochs[0] == reference.horizontal_flip(images)).all(dim=(1, 2, 3))
    assert stats.binomtest(int(flipped.sum()), 1000, 0.5).pvalue > 1e-4
    # Neighbours must not follow a pattern: runs of heads and tails as a fair coin has them.
    assert stats.binomtest(int((flipped[1:] == flipped[:-1]).sum()), 999, 0.5).pvalue > 1e-4


def test_alternate_flip_follows_the_index_not_the_place() -> None:
    images, order = photos(50), torch.randperm(50, generator=seeded())
    augment = Augment("flip.mode=alternate", mixable=FIVE)
    straight, _ = augment(images, order, index=torch.arange(50), epoch=3)
    shuffled, _ = augment(images[order], order, index=order, epoch=3)
    assert torch.equal(shuffled, straight[order])
    with pytest.raises(ValueError, match="needs the index"):
        augment(images, order)


# Crops and shifts


@pytest.mark.parametrize(("fill", "mode"), [("reflect", "reflect"), ("zero", "constant")])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_takes_every_window_of_the_padded_image(fill: str, mode: str, channels: int) -> None:
    image = photos(1, channels, 9, 7)
    padded = reference.pad(image[0], [2, 2, 2, 2], padding_mode=mode)
    windows = [reference.crop(padded, y, x, 9, 7) for y in range(5) for x in range(5)]
    result, _ = apply({"crop": {"padding": 2, "fill": fill}}, image.expand(500, -1, -1, -1))
    seen = [sum(torch.equal(one, window) for one in result) for window in windows]
    assert sum(seen) == 500
    assert stats.chisquare(seen).pvalue > 1e-4


def test_flip_then_crop_in_one_lookup_is_flip_then_crop() -> None:
    images = photos(64, height=10, width=12)
    canvas = Canvas(images, torch.arange(64))
    mirrored = torch.rand(64, generator=seeded()) < 0.5
    offsets = torch.randint(-3, 4, (2, 64), generator=seeded())
    canvas.mirror(mirrored)
    canvas.shift(offsets[0], "reflect", vertical=True)
    canvas.shift(offsets[1], "zero")
    for i, result in enumerate(canvas.pixels()):
        dy, dx = offsets[:, i].tolist()
        image = reference.horizontal_flip(images[i]) if mirrored[i] else images[i]
        image = reference.crop(
            reference.pad(image, [0, 3], padding_mode="reflect"), 3 + dy, 0, 10, 12
        )
        assert torch.equal(result, reference.crop(reference.pad(image, [3, 0]), 0, 3 + dx, 10, 12))


def test_translate_fills_with_black_and_lengths_may_be_fractions() -> None:
    white = torch.full((400, 1, 8, 16), 255, dtype=torch.uint8)
    result, _ = apply("translate=0.25", white)  # a quarter of 8: up to 2 pixels
    black = (result == 0).flatten(1).sum(1)
    assert set(black.tolist()) == {128 - (8 - y) * (16 - x) for y in range(3) for x in range(3)}
    # Reflection far beyond the image repeats it.
    assert set(
        apply("crop=100", torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2))[0].flatten().tolist()
    ) <= {
        0,
        1,
        2,
        3,
    }


def test_black_stays_black_beside_reflection_and_rotation() -> None:
    white = torch.full((200, 1, 16, 16), 255, dtype=torch.uint8)
    result, _ = apply("translate=8,rotate=0.001", white)
    assert (result < 1).float().mean() > 0.2
    # Where several ask for a fill, black wins in any order.
    for spec in (
        "rotate=45,rotate.fill=zero,affine=0",
        "rotate=0,affine=45,affine.fill=zero,resized_crop=1:1",
    ):
        assert (apply(spec, white)[0] < 1).any()
    assert apply("rotate=45,affine=45", white)[0].min() > 254


# Rotation, affine maps, resized crops


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_exact(turns: int) -> None:
    images = photos(4)
    canvas = Canvas(images, torch.zeros(4, dtype=torch.int64))
    canvas.transform(affine_matrix(torch.full((4,), 90.0 * turns)))
    expected = torch.rot90(images, -turns, (2, 3)).float()  # clockwise
    torch.testing.assert_close(canvas.pixels(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (17, 30)])
def test_affine_agrees_with_torchvision(size: tuple[int, int]) -> None:
    images = photos(6, 3, *size)
    degrees = torch.tensor([0.0, 30.0, -75.0, 10.0, 170.0, 0.0])
    dx, dy = torch.tensor([0.0, 2, -3, 0, 1, 4]), torch.tensor([0.0, 0, 5, -1, 2, -4])
    scale, shear = torch.tensor([1.0, 1.3, 0.7, 1, 0.9, 2]), torch.tensor([0.0, 0, 10, -20, 5, 0])
    canvas = Canvas(images, torch.zeros(6, dtype=torch.int64))
    canvas.transform(affine_matrix(degrees, dx, dy, scale, shear), "zero")
    for i, result in enumerate(canvas.pixels()):
        expected = reference.affine(
            images[i].float(),
            degrees[i].item(),
            [int(dx[i]), int(dy[i])],
            scale[i].item(),
            [shear[i].item(), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(result, expected, atol=0.05, rtol=0)


def test_resized_crop_agrees_with_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(1, 3, 40, 40)
    # area 20x20, ratio 1, right end, a quarter from the middle
    draws = iter([400.0 / 1600, 0.0, 0.5 - 1e-6, -0.25])
    monkeypatch.setattr(
        Canvas, "uniform", lambda self, low=0.0, high=1.0: torch.tensor([next(draws)])
    )
    result, _ = Augment("resized_crop=0.1:1", mixable=FIVE)(images, torch.tensor([0]))
    expected = reference.resized_crop(images[0].float(), 5, 20, 20, 20, [40, 40], antialias=False)
    # At the box's border torchvision repeats its edge, where we see the image go on.
    torch.testing.assert_close(result[0, :, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=0.05, rtol=0)


def test_resized_crop_draws_the_stated_boxes() -> None:
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    ramps = (torch.stack([x, y]) / 63).expand(2000, -1, -1, -1)
    result, _ = apply({"resized_crop": {"scale": [0.25, 0.5], "ratio": [0.8, 1.25]}}, ramps)
    # The slopes tell the sides of the box, in pixels of the image.
    width = 63 * (result[:, 0, 24, 60] - result[:, 0, 24, 3]) * 64 / 57
    height = 63 * (result[:, 1, 44, 32] - result[:, 1, 3, 32]) * 48 / 41
    area, ratio = width * height / (48 * 64), width / height
    assert stats.kstest(area.numpy(), stats.uniform(0.25, 0.25).cdf).pvalue > 1e-4
    assert (
        stats.kstest(
            ratio.log().numpy(), stats.uniform(math.log(0.8), 2 * math.log(1.25)).cdf
        ).pvalue
        > 1e-4
    )


def test_geometry_is_sampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    sample = Canvas._sampled
    monkeypatch.setattr(
        Canvas, "_sampled", lambda self, matrix: calls.append(1) or sample(self, matrix)
    )
    apply("flip,crop,rotate,affine,resized_crop,colour_jitter", photos())
    assert len(calls) == 1


def test_merged_matrices_act_one_after_the_other() -> None:
    images = photos(3, height=41, width=41)
    first = affine_matrix(
        torch.full((3,), 90.0), dx=torch.full((3,), 3.0), dy=torch.full((3,), 1.0)
    )
    second = affine_matrix(
        torch.full((3,), 180.0), dx=torch.full((3,), -2.0), dy=torch.full((3,), 4.0)
    )
    merged, apart = (Canvas(images, torch.zeros(3, dtype=torch.int64)) for _ in range(2))
    for canvas in (merged, apart):
        canvas.transform(first)
        if canvas is apart:
            canvas.pixels()
        canvas.transform(second)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    torch.testing.assert_close(merged.pixels()[inner], apart.pixels()[inner], atol=0.05, rtol=0)


def test_rotation_stays_within_its_degrees() -> None:
    """A dot right of the centre must move by an angle within the limits, and use them up."""
    dot = torch.zeros(500, 1, 41, 41)
    dot[:, :, 20, 36] = 1
    result, _ = apply({"rotate": {"degrees": 30, "fill": "zero"}}, dot)
    where = torch.arange(41.0) - 20
    mass = result.sum((1, 2, 3))
    x, y = (result.sum((1, 2)) * where).sum(1) / mass, (result.sum((1, 3)) * where).sum(1) / mass
    angle = torch.rad2deg(torch.atan2(y, x))
    assert angle.abs().max() < 31
    assert stats.kstest(angle.numpy(), stats.uniform(-30, 60).cdf).pvalue > 1e-4


# Colour


FACTORS = [0.0, 0.4, 0.9, 1.0, 1.3, 1.9]


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (pixels.adjust_brightness, reference.adjust_brightness, FACTORS),
        (pixels.adjust_contrast, reference.adjust_contrast, FACTORS),
        (pixels.adjust_saturation, reference.adjust_saturation, FACTORS),
        (pixels.adjust_hue, reference.adjust_hue, [-0.5, -0.31, 0.0, 0.1, 0.25, 0.5]),
    ],
)
def test_colours_agree_with_torchvision(ours: Any, theirs: Any, values: list[float]) -> None:
    images = photos(len(values)) / 255
    images[:, :, :4] = 0.5  # grey has no hue
    result = ours(images, torch.tensor(values), 1.0)
    expected = torch.stack(
        [theirs(image, value) for image, value in zip(images, values, strict=True)]
    )
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(
        ours(images * 255, torch.tensor(values), 255.0) / 255, expected, atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("ours", [pixels.adjust_brightness, pixels.adjust_contrast])
def test_grey_images_agree_with_torchvision(ours: Any) -> None:
    digits = torch.from_numpy(load_digits(return_X_y=True)[0][:6] / 16).float().view(6, 1, 8, 8)
    theirs = getattr(reference, ours.__name__)
    expected = torch.stack(
        [theirs(image, value) for image, value in zip(digits, FACTORS, strict=True)]
    )
    torch.testing.assert_close(ours(digits, torch.tensor(FACTORS), 1.0), expected)


def test_jitter_draws_within_its_strength() -> None:
    middle = torch.full((1000, 1, 4, 4), 100, dtype=torch.uint8)
    result, _ = apply({"colour_jitter": {"strength": 0, "brightness": 0.4}}, middle)
    assert (
        stats.kstest((result[:, 0, 0, 0] / 100).numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 1e-4
    )
    spared, _ = apply({"colour_jitter": {"strength": 0.5, "probability": 0.3}}, photos(400))
    untouched = (spared - photos(400)).abs().amax((1, 2, 3)) < 1e-3
    assert stats.binomtest(int(untouched.sum()), 400, 0.7).pvalue > 1e-4


def test_grey_takes_the_colour_of_some() -> None:
    images = photos(400)
    result, _ = apply("grey=0.25", images)
    is_grey = (result.amax(1) - result.amin(1)).amax((1, 2)) < 1e-3
    assert stats.binomtest(int(is_grey.sum()), 400, 0.25).pvalue > 1e-4
    torch.testing.assert_close(result[~is_grey], images[~is_grey].float(), atol=1e-3, rtol=0)
    expected = reference.rgb_to_grayscale(images.float(), num_output_channels=3)
    torch.testing.assert_close(result[is_grey], expected[is_grey], atol=0.1, rtol=0)


# Erasing and mixing


def test_cutout_hides_a_square_that_may_stand_over_the_edge() -> None:
    white = torch.full((2000, 3, 12, 12), 255, dtype=torch.uint8)
    hidden = apply("erase=4,erase.fill=zero", white)[0] == 0
    assert (hidden[:, 0] == hidden[:, 1]).all()
    rows, columns = hidden[:, 0].any(2), hidden[:, 0].any(1)
    assert (hidden[:, 0] == rows[:, :, None] & columns[:, None, :]).all()
    for lines in (rows, columns):
        assert set(lines.sum(1).tolist()) == {2, 3, 4}
        assert lines.float().mean(0).min() > 0.1  # every place is hidden at times


def test_random_erasing_hides_the_stated_area_inside() -> None:
    white = torch.full((1000, 1, 40, 60), 255, dtype=torch.uint8)
    hidden = (apply("erase.area=0.1:0.3,erase.ratio=0.5:2,erase.fill=zero", white)[0] == 0)[:, 0]
    area = hidden.float().mean((1, 2))
    ratio = hidden.any(1).sum(1) / hidden.any(2).sum(1)
    assert area.min() > 0.085
    assert area.max() < 0.32
    assert abs(float(area.mean()) - 0.2) < 0.01
    assert ratio.min() > 0.45
    assert ratio.max() < 2.2


def test_erased_parts_have_the_mean_colour_or_noise() -> None:
    images = photos(50)
    result, _ = apply("erase=8", images)
    changed = (result != images).any(1, keepdim=True).expand_as(images)
    means = images.float().mean((2, 3), keepdim=True).round().expand_as(images)
    assert torch.equal(result[changed].float(), means[changed])
    noise = apply("erase=32,erase.fill=noise", images)[0]
    changed = (noise != images).any(1, keepdim=True).expand_as(images)
    assert abs(float(noise[changed].float().mean()) - 127.5) < 3
    half = (
        (apply({"erase": {"probability": 0.5, "fill": "noise"}}, photos(1000))[0] != photos(1000))
        .any(1)
        .any(1)
        .any(1)
    )
    assert stats.binomtest(int(half.sum()), 1000, 0.5).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 4.0, 50.0])
def test_beta_agrees_with_scipy(alpha: float) -> None:
    canvas = Canvas(torch.zeros(20_000, 1, 1, 1), torch.zeros(0), generator=seeded())
    drawn = canvas.beta(alpha).double().numpy()
    # Below 0.5 much of the law lies nearer to 1 than float32 can say, so that only the quantiles
    # are compared.
    if alpha >= 0.5:
        assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    for quantile in (0.01, 0.25, 0.5, 0.9):
        share = stats.beta(alpha, alpha).cdf(quantile)
        assert stats.binomtest(int((drawn < quantile).sum()), 20_000, share).pvalue > 1e-4


def ramp_of_classes(n: int) -> Tensor:
    """Return images whose every pixel shows the class: 0, 60, 120, 180, 240."""
    return (60 * (torch.arange(n) % 5)).to(torch.uint8)[:, None, None, None].expand(n, 1, 20, 20)


@pytest.mark.parametrize(
    "spec", ["mixup=1", "cutmix=1", "mixup=0.4,cutmix=1", "mixup=1,cutmix=1,mixup.probability=1"]
)
def test_mixed_targets_tell_the_mixed_pixels(spec: str) -> None:
    images, targets = apply(spec, ramp_of_classes(500))
    assert targets.shape == (500, 5)
    torch.testing.assert_close(targets.sum(1), torch.ones(500))
    told = targets @ (60 * torch.arange(5.0))
    torch.testing.assert_close(images.float().mean((1, 2, 3)), told, atol=1e-2, rtol=0)
    assert (targets.amax(1) < 0.99).sum() > 200, "hardly anything was mixed"


def test_cutmix_pastes_one_box_and_mixup_blends() -> None:
    pasted, _ = apply("cutmix", ramp_of_classes(500))
    assert set(pasted.unique().tolist()) == {0, 60, 120, 180, 240}
    assert max(len(image.unique()) for image in pasted) == 2
    blended, _ = apply("mixup=1", ramp_of_classes(500))
    assert max(len(image.unique()) for image in blended) == 1


def test_cutmix_leaves_alone_what_mixup_has_changed() -> None:
    canvas = Canvas(photos(200), torch.arange(200) % 5, generator=seeded(), mixable=FIVE)
    operations.mixup(canvas, alpha=1.0, probability=0.5)
    blended, mixed = canvas.images, canvas.mixed
    operations.cutmix(canvas)
    assert mixed is not None
    assert 60 < mixed.sum() < 140
    same = (canvas.images == blended).flatten(1).all(1)
    assert same[mixed].all()
    assert same[~mixed].float().mean() < 0.2


def test_mixing_can_spare_some() -> None:
    _, targets = apply("mixup=1,mixup.probability=0.25", photos(1000))
    # a fifth meets its like
    assert stats.binomtest(int((targets.amax(1) < 1).sum()), 1000, 0.25 * 0.8).pvalue > 1e-4


# What a recipe says


def test_command_line_form() -> None:
    assert parse_augment("flip, crop=4,rotate=15") == {"flip": True, "crop": 4, "rotate": 15}
    assert parse_augment("standard,mixup=0.2") == {"preset": "standard", "mixup": 0.2}
    assert parse_augment("vertical-flip=false") == {"vertical_flip": False}
    assert parse_augment("crop=4,crop.fill=zero") == {"crop": {"padding": 4, "fill": "zero"}}
    assert parse_augment("flip,flip.mode=alternate") == {"flip": {"mode": "alternate"}}
    assert parse_augment("resized_crop=0.3:1") == {"resized_crop": [0.3, 1]}
    assert parse_augment("") == {}
    boxes = {"scale": [0.5, 1.0]}
    expected = {"resized_crop": boxes, "flip": True}
    assert parse_augment("resized_crop={scale: [0.5, 1.0]}, flip") == expected
    assert parse_augment("crop={fill: zero},crop=4") == {"crop": {"fill": "zero", "padding": 4}}
    assert parse_augment("crop=4,crop={fill: zero}") == {"crop": {"padding": 4, "fill": "zero"}}


@pytest.mark.parametrize(
    "written",
    [
        "[{flip: true}, {resized_crop: {scale: [0.5, 1.0]}}]",
        "[flip, {resized_crop: [0.5, 1.0]}]",
        "{flip: true, resized_crop: {scale: [0.5, 1.0]}}",
        "flip, resized_crop=[0.5, 1.0]",
        "[light, {crop: false, resized_crop: {scale: [0.5, 1.0]}, flip: true}]",
    ],
)
def test_a_recipe_may_list_augmentations_with_their_options(tmp_path: Path, written: str) -> None:
    (tmp_path / "boxes.yaml").write_text(f"data: digits\naugment: {written}\n", encoding="utf-8")
    recipe = read_recipe(tmp_path / "boxes.yaml")
    assert resolve(recipe.augment) == resolve({"flip": True, "resized_crop": {"scale": [0.5, 1.0]}})


def test_presets_take_additions_and_changes() -> None:
    options = resolve(
        {"preset": "standard", "crop": {"fill": "zero"}, "flip": False, "color_jitter": 0.4}
    )
    assert list(options) == ["crop", "colour_jitter"]
    assert options["crop"] == {"padding": 0.125, "fill": "zero"}
    assert options["colour_jitter"]["strength"] == 0.4
    assert resolve("standard") == resolve(PRESETS["standard"])
    assert resolve("mixup,cutmix")["mixup"]["probability"] == 0.5
    assert resolve("mixup")["mixup"]["probability"] == 1.0
    assert resolve("affine.scale=0.8")["affine"]["scale"] == (0.8, 1.0)
    assert str(Augment("standard,mixup=0.2", mixable=FIVE)) == "flip=0.5, crop=0.125, mixup=0.2"
    assert str(Augment(None, mixable=FIVE)) == "none"


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(names())), st.floats(0.3, 0.9)),
        unique_by=lambda pair: pair[0],
    )
)
def test_order_in_the_recipe_does_not_matter(parts: list[tuple[str, float]]) -> None:
    text = ",".join(f"{name}={value}" for name, value in parts)
    options = resolve(text)
    assert list(options) == [name for name in names() if name in dict(parts)]
    assert options == resolve(dict(reversed(parts)))
    # What was resolved may be given again: a run folder repeats its recipe.
    assert resolve(options) == options


@given(st.text(alphabet="flipcrop=.,:0123 -{}[]", max_size=30))
def test_any_text_is_read_or_refused_clearly(text: str) -> None:
    try:
        options = resolve(text)
    except UserError as error:
        message = str(error)
    else:
        assert {name for name in options if not is_own(name)} <= set(names())
        return
    assert 1 <= len(message.splitlines()) <= 2


WRONG = [
    ("flop", "Did you mean 'flip'"),
    ("flip,standart", "'standard'"),
    ({"preset": "standart"}, "'standard'"),
    ("crop.pading=3", "Did you mean 'padding'"),
    ("flip=2", "flip.probability is 2. Expected a number from 0 to 1"),
    ("crop=-1", "Expected a number from 0"),
    ("crop=four", "'four'. Expected a number"),
    ({"crop": [1, 2]}, "Expected a number"),
    ({"crop": 10**400}, "Expected a number from 0 to 10000"),
    ({"flip": {"probability": True}}, "Expected a number"),
    ("rotate=nan", "Expected a number from 0 to 180"),
    ("flip.mode=sometimes", "Expected random or alternate"),
    ("resized_crop=0.8:0.2", "Expected low:high"),
    ("resized_crop=0:1", "within 0.001 and 1"),
    ("affine.scale=1:2:3", "Expected low:high"),
    ("crop=", "has no value"),
    ("resized_crop={scale: [0.5, 1.0}, flip", "cannot be read"),
    ("resized_crop={scale: [0.5, 1.0", "cannot be read"),
    ("flip={probability: 2}", "flip.probability is 2"),
    ("flip={3: 2}", "'3'"),
    ("light,strong", "two presets"),
]


@pytest.mark.parametrize(("spec", "message"), WRONG)
def test_mistakes_are_told_with_the_way_out(spec: Any, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        Augment(spec, mixable=FIVE)


def test_listing_reads_the_source_without_torch() -> None:
    assert names() == plugins.augmentation_names()
    assert plugins.augmentation_presets() == PRESETS
    assert all(line.endswith(".") for line in names().values())
    assert set(ALIASES.values()) <= set(names())
    script = "import sys, tintype.plugins as p; assert 'flip' in p.augmentation_names() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", names())
def test_every_option_has_limits_and_a_default_within(name: str) -> None:
    defaults = resolve({name: True})[name]
    assert resolve({name: defaults}) == {name: defaults}
    for option in defaults:
        with pytest.raises(UserError, match=rf"{name}\.{option} is 'nonsense'"):
            resolve({name: {option: "nonsense"}})


def test_an_added_function_declares_options_of_any_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def sharpen(
        canvas: Canvas,
        *,
        times: int = 1,
        soft: bool = False,
        above: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        """Sharpen."""

    monkeypatch.setattr(operations, "sharpen", sharpen, raising=False)
    monkeypatch.setattr("tintype.augment.spec.names", lambda: {"sharpen": "Sharpen."})
    assert resolve("sharpen=2,sharpen.soft=true") == {
        "sharpen": {"times": 2, "soft": True, "above": 0.0}
    }
    for text, expected in (
        ("sharpen=x", "times is 'x'. Expected a valid integer"),
        ("sharpen.soft=3", "soft is 3. Expected a valid boolean"),
        ("sharpen.above=-1", "above is -1. Expected greater than or equal to 0"),
    ):
        with pytest.raises(UserError, match=expected):
            resolve(text)


def test_what_cannot_be_read_ends_a_run_before_any_image_is(
    tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prepare, "_open", lambda *_: pytest.fail("images were opened"))
    with pytest.raises(UserError, match="unknown augmentation 'flop'"):
        prepare.prepare(tiny(augment="flop"), Watcher())
