"""Super-resolution: MATLAB's resizing, the protocol, pairs, networks, tiles, files, and a run from
recipe to report.
"""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import skimage.color
import skimage.data
import skimage.metrics
import torch
import torchvision
from PIL import Image, ImageCms
from safetensors import safe_open

from tintype import api, cli
from tintype.data.source import Batch, DataSpec
from tintype.data.targets import Classes, NoTarget
from tintype.errors import UserError
from tintype.models import build_model, count_parameters
from tintype.models.parts import resample
from tintype.plugins import names
from tintype.progress import Watcher
from tintype.recipe import Recipe, as_new_run, build, read_recipe, recipe_names, resolve
from tintype.runs.packaged_weights import weights_file
from tintype.tasks.losses import RESTORATION, restoration_loss, structural_similarity
from tintype.tasks.upscale import quality
from tintype.tasks.upscale.degrade import degraded
from tintype.tasks.upscale.files import upscale_files
from tintype.tasks.upscale.perceptual import PerceptualDistance, PerceptualLoss
from tintype.tasks.upscale.pictures import read_picture
from tintype.tasks.upscale.sets.pairs import BlockSource, open_pairs, open_whole
from tintype.tasks.upscale.summary import protocol_in_words
from tintype.tasks.upscale.task import Upscale, _verdict
from tintype.tasks.upscale.upscaler import Upscaler

MODELS = sorted(names("models", "upscale"))
SMALL: dict[str, dict[str, Any]] = {
    "edsr": {"width": 8, "depth": 2}, "espcn": {"width": 8}, "fast-sr": {"width": 8, "depth": 2},
    "fsrcnn": {"width": 8, "narrow": 4, "depth": 2}, "srcnn": {"widths": [8, 4]},
}  # fmt: skip


def cat(height: int = 90, width: int = 131) -> np.ndarray:
    return np.ascontiguousarray(skimage.data.chelsea()[60 : 60 + height, 100 : 100 + width])


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def spec(channels: int = 1) -> DataSpec:
    return DataSpec("made", channels, 32, 32, NoTarget(), (0.0,) * channels, (1.0,) * channels, "")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    name, _ = resolve("photos-x2")
    return name.replace(
        steps=12, batch_size=4, lr=0.05, device="cpu", precision="fp32", evaluate_every=0.4, **{"model.width": 8}
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.train(
        recipe.replace(steps=30),
        out=tmp_path_factory.mktemp("runs"),
        name="sharp",
        watcher=Watcher(),
    )


# ---- resizing ---------------------------------------------------------------------------------------------------------


def test_halving_is_matlabs_filter():
    """imresize(x, 0.5) weighs eight pixels by these numbers; a row of a single one shows them."""
    rows = torch.eye(32)[None, None]
    half = resample.bicubic(rows, 16, 32)[0, 0]
    expected = torch.tensor([-3.0, -9.0, 29.0, 111.0, 111.0, 29.0, -9.0, -3.0]) / 256
    torch.testing.assert_close(half[7, 11:19], expected)
    assert float(half[7].abs().sum()) == pytest.approx(float(expected.abs().sum()))


def test_doubling_is_keys_kernel():
    column = resample.bicubic(torch.eye(16)[None, None], 32, 16)[0, 0]
    torch.testing.assert_close(
        column[16, 6:10], torch.tensor([-0.0234375, 0.2265625, 0.8671875, -0.0703125])
    )


def test_edges_are_mirrored():
    """Of a ramp, MATLAB's first half-size value: the weights beyond the edge fall on the pixels
    mirrored there.
    """
    ramp = torch.arange(8.0)[None, None, None]
    weights = torch.tensor([-3.0, -9.0, 29.0, 111.0, 111.0, 29.0, -9.0, -3.0]) / 256
    mirrored = torch.tensor([2.0, 1.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0])
    assert float(resample.bicubic(ramp, 1, 4)[0, 0, 0, 0]) == pytest.approx(
        float(weights @ mirrored)
    )


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pillow_agrees_inside(scale):
    """Pillow's BICUBIC has the same kernel and antialiasing, but other edges."""
    grey = skimage.data.camera()[:120, :144].astype(np.float32)
    ours = resample.bicubic(torch.from_numpy(grey)[None, None], 120 // scale, 144 // scale)[
        0, 0
    ].numpy()
    theirs = np.asarray(
        Image.fromarray(grey).resize((144 // scale, 120 // scale), Image.Resampling.BICUBIC)
    )
    np.testing.assert_allclose(ours[3:-3, 3:-3], theirs[3:-3, 3:-3], atol=2e-3)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 7)])
def test_enlarging_by_one_convolution_is_the_same(scale, size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        resample.enlarge(images, scale),
        resample.bicubic(images, size[0] * scale, size[1] * scale),
        rtol=0,
        atol=1e-5,
    )


# ---- the protocol -----------------------------------------------------------------------------------------------------


def test_figures_agree_with_scikit_image():
    one = cat()
    other = np.asarray(Image.fromarray(one).resize((65, 45)).resize((131, 90)))
    x, y = quality.luma(one), quality.luma(other)
    np.testing.assert_array_equal(x, np.rint(skimage.color.rgb2ycbcr(one)[:, :, 0]))
    assert quality.psnr(x, y) == pytest.approx(
        skimage.metrics.peak_signal_noise_ratio(x, y, data_range=255), abs=1e-9
    )
    window = {
        "data_range": 255,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    assert quality.ssim(x, y) == pytest.approx(
        skimage.metrics.structural_similarity(x, y, **window), abs=1e-9
    )
    theirs = skimage.metrics.structural_similarity(one, other, channel_axis=2, **window)
    assert quality.ssim(one, other) == pytest.approx(theirs, abs=1e-6)
    assert quality.compare(one, one, 2) == {
        "psnr_y": 130.0,
        "ssim_y": 1.0,
        "psnr_rgb": 130.0,
        "ssim_rgb": 1.0,
    }


def test_the_border_is_cut_and_grey_counts_as_colour():
    one, other = cat(), cat()
    other[:3] = other[:, -3:] = 0
    assert quality.compare(other, one, 3)["psnr_rgb"] == 130.0
    assert quality.compare(other, one, 2)["psnr_rgb"] < 40
    grey = cat()[:, :, :1]
    np.testing.assert_array_equal(quality.luma(grey), quality.luma(grey.repeat(3, 2)))


def test_the_loss_ssim_is_the_figure():
    one, other = cat(), np.asarray(Image.fromarray(cat()).resize((65, 45)).resize((131, 90)))
    loss = structural_similarity(planes(one)[None] / 255, planes(other)[None] / 255)
    assert float(loss) == pytest.approx(quality.ssim(one, other), abs=1e-4)


@pytest.mark.parametrize("kind", RESTORATION)
def test_losses_fall_to_their_least_at_the_original(kind):
    original = planes(cat(40, 40))[None] / 255
    worse = (original + 0.1).requires_grad_()
    loss = restoration_loss(kind, worse, original)
    loss.backward()
    assert worse.grad is not None
    assert bool(worse.grad.any())
    assert float(restoration_loss(kind, original, original)) <= 1e-3 + 1e-6 < loss.item()


def test_golden_losses():
    one, other = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), 0.25)
    expected = {
        "mse": 0.0625,
        "l1": 0.25,
        "charbonnier": 0.250002,
        "ssim": 1 - (2 * 0.125 + 1e-4) / (0.3125 + 1e-4),
    }
    assert {
        k: pytest.approx(float(restoration_loss(k, one, other)), abs=1e-6) for k in RESTORATION
    } == expected


def test_the_perceptual_loss_compares_features(tmp_path):
    """By hand on the same network: ImageNet normalisation, three layers, each by the size of its
    features.
    """
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_0().eval()
    save_file(network.state_dict(), tmp_path / "squeezenet1_0.safetensors")
    loss = PerceptualLoss.of(None, str(tmp_path / "squeezenet1_0.safetensors"), None)
    original = planes(cat(64, 64))[None] / 255
    picture = (original * 0.8).requires_grad_()
    found = loss(picture, original)
    found.backward()
    assert picture.grad is not None
    assert all(weight.grad is None for weight in loss.parameters())
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    )
    x, y, parts = (picture.detach() - mean) / std, (original - mean) / std, []
    with torch.no_grad():
        for number, layer in enumerate(network.features[:8]):
            x, y = layer(x), layer(y)
            if number in (1, 4, 7):
                parts.append((x - y).square().mean() / y.square().mean())
    assert found.item() == pytest.approx(float(torch.stack(parts).mean()), rel=1e-4)
    assert float(loss(original, original)) == 0


def test_the_perceptual_loss_compares_by_installed_weights():
    """By hand on timm's network: its own normalisation, three stages, nothing downloaded."""
    import timm

    loss = PerceptualLoss.of("efficientnet_lite0", None, None)
    theirs: Any = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(weights_file("efficientnet_lite0"), weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors.values(), strict=True)))

    original = planes(cat(64, 64))[None] / 255
    parts = []
    with torch.no_grad():
        x = theirs.bn1(theirs.conv_stem(original * 1.6 - 1))
        y = theirs.bn1(theirs.conv_stem(original * 2 - 1))
        for stage in theirs.blocks[:3]:
            x, y = stage(x), stage(y)
            parts.append((x - y).square().mean() / y.square().mean())
    found = loss(original * 0.8, original)
    assert found.item() == pytest.approx(float(torch.stack(parts).mean()), rel=1e-4)


def test_damage_follows_from_the_generator_and_blurs_what_it_should():
    photo = planes(cat(64, 64))[None].expand(6, -1, -1, -1)
    one, same = (degraded(photo, 2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, same)
    assert one.shape == (6, 3, 32, 32)
    assert len({tuple(image.flatten().tolist()) for image in one}) == 6
    clean = resample.shrink(photo, 2).float()
    error = (one.float() - clean).abs().mean(dim=(1, 2, 3))
    assert 1 < float(error.min()) < float(error.max()) < 30


# ---- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_enlarges_and_learns(name, channels, scale):
    network = build_model(name, spec(channels), {**SMALL[name], "scale": scale}, seed=0)
    low = torch.rand(2, channels, 9, 12, generator=torch.Generator().manual_seed(0))
    large = network(low.to(memory_format=torch.channels_last))
    assert large.shape == (2, channels, 9 * scale, 12 * scale)
    large.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    one, other = (
        build_model(name, spec(channels), {"scale": scale}, seed=s).state_dict() for s in (0, 1)
    )
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_sees_no_further_than_its_halo(name):
    network = wild(build_model(name, spec(), {**SMALL[name], "scale": 3}, seed=0))
    halo = int(network.halo)
    low = torch.rand(1, 1, 4 * halo + 9, 5, generator=torch.Generator().manual_seed(0))
    other = low.clone()
    middle = 2 * halo + 4
    other[:, :, middle] += 1
    with torch.no_grad():
        changed = (network(low) - network(other)).abs()[0, 0].amax(1) > 1e-6
    seen = torch.nonzero(changed)[:, 0] // 3 - middle
    assert -halo <= int(seen.min()) < 0 < int(seen.max()) <= halo


def wild(network: torch.nn.Module) -> torch.nn.Module:
    """Draw all weights anew, since some begin at zero."""
    generator = torch.Generator().manual_seed(7)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return network.eval()


def test_merged_convolutions_are_the_same_function_and_smaller():
    network = wild(build_model("fast-sr", spec(), SMALL["fast-sr"], seed=0))
    merged = network.merged()
    low = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(merged(low), network(low), rtol=1e-4, atol=1e-4)
    assert count_parameters(merged) < count_parameters(network) / 2


def test_sizes_of_the_papers():
    """Weights without biases and slopes: SRCNN 9-1-5 8,032; 9-5-5 57,184; FSRCNN(56, 12, 4) 12,464."""

    def weights(name: str, **options: Any) -> int:
        return sum(
            p.numel()
            for p in build_model(name, spec(), options, seed=0).parameters()
            if p.ndim == 4
        )

    assert weights("srcnn") == 8_032
    assert weights("srcnn", kernels=[9, 5, 5]) == 57_184
    assert weights("fsrcnn") == 12_464


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("residual", [True, False])
def test_srcnn_begins_at_bicubic(residual, channels):
    low = torch.rand(1, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    bicubic = resample.enlarge(low, 2)
    with torch.no_grad():
        answer = build_model("srcnn", spec(channels), {"residual": residual}, seed=0)(low)
    assert torch.equal(answer, bicubic if residual else bicubic.clamp(min=0))


# ---- data -------------------------------------------------------------------------------------------------------------


def test_blocks_hold_every_crop_of_a_photo():
    splits = open_pairs("photos", patch=64)
    train = splits.train
    assert isinstance(train, BlockSource)
    covered = torch.zeros(427, 480, dtype=torch.int64)
    for photo, top, left in train.corners.tolist():
        assert top + train.side <= train.photos[photo].high.shape[0]
        assert left + train.side <= train.photos[photo].high.shape[1]
        if photo == 0:
            covered[top : top + train.side, left : left + train.side] = 1
    assert covered.float().mean() > 0.99
    batch = train.take(torch.tensor([5, 0]))
    photo, top, left = train.corners[5].tolist()
    expected = train.photos[photo].high[top : top + train.side, left : left + train.side]
    assert torch.equal(batch.images[0].permute(1, 2, 0), expected)
    assert open_pairs("photos", patch=64).spec.fingerprint == splits.spec.fingerprint
    assert open_pairs("photos", patch=48).spec.fingerprint != splits.spec.fingerprint


def task_for(patch: int = 32, scale: int = 2, **more: Any) -> Upscale:
    network = build_model("srcnn", spec(3), {"scale": scale}, seed=0)
    shape = DataSpec("", 3, patch, patch, NoTarget(), (), (), "")
    return Upscale(network, shape, torch.device("cpu"), scale=scale, **more)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_training_pair_is_cut_from_a_photo_and_its_small_version(scale):
    """The small patch equals the same place of the whole photo made small: its edges have seen what
    lies around.
    """
    patch, photo = 8 * scale, cat(24 * scale, 24 * scale)
    task = task_for(patch, scale, symmetries=False)
    batch = Batch(
        planes(photo)[None], torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    )
    whole = resample.shrink(planes(photo)[None], scale)[0].float()
    seen = 0
    for seed in range(60):
        low, high = task.pairs(batch, torch.Generator().manual_seed(seed))
        room = 24 * scale - (patch + 4 * scale)
        drawn = torch.randint(room + 1, (1, 2), generator=torch.Generator().manual_seed(seed))[0]
        top, left = (drawn + 2 * scale).tolist()
        assert torch.equal(
            high[0], planes(photo).float()[:, top : top + patch, left : left + patch]
        )
        assert low.shape == (1, 3, 8, 8)
        if top % scale == 0 and left % scale == 0:  # elsewhere the photo's own grid lies between
            y, x = top // scale, left // scale
            assert torch.equal(low[0], whole[:, y : y + 8, x : x + 8])
            seen += 1
    assert seen > 0


def test_symmetries_and_colours_keep_the_pair_together():
    task = task_for(32, symmetries=True, colour_jitter=0.3)
    blocks = torch.stack([planes(cat(64, 64))] * 8)
    zeros = torch.zeros(8, dtype=torch.int64)
    low, high = task.pairs(Batch(blocks, zeros, zeros), torch.Generator().manual_seed(1))
    assert len({tuple(image.flatten().tolist()) for image in high}) == 8
    again = resample.shrink(high.to(torch.uint8), 2).float()
    assert float((low - again)[:, :, 2:-2, 2:-2].abs().max()) <= 1
    given = resample.shrink(blocks, 2)
    low, high = task.pairs(Batch(blocks, given, zeros), torch.Generator().manual_seed(1))
    again = resample.shrink(high.clamp(0, 255).round().to(torch.uint8), 2).float()
    # more only where the photo was clipped
    assert float((low - again)[:, :, 2:-2, 2:-2].abs().mean()) < 0.5


def write_pairs(root: Path, count: int = 5, scale: int = 2) -> Path:
    for folder in ("hr", "lr"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        photo = cat(64, 64 + 8 * i)
        Image.fromarray(photo).save(root / "hr" / f"{i}.png")
        small = resample.shrink(planes(photo)[None], scale)[0].permute(1, 2, 0).numpy()
        Image.fromarray(small).save(root / "lr" / f"{i}x{scale}.png")
    return root


def test_given_pairs_are_used(tmp_path):
    splits = open_pairs(str(write_pairs(tmp_path / "data")), patch=32)
    batch = splits.train.take(torch.tensor([0]))
    assert torch.equal(batch.targets, resample.shrink(batch.images, 2)) or batch.targets.ndim == 4
    whole = splits.test.take(torch.tensor([0]))
    assert torch.equal(whole.targets, resample.shrink(whole.images, 2))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "lr" / "0x2.png").unlink(),
            "0.png has no partner of the same name in lr/",
        ),
        (
            lambda root: (root / "hr" / "0.png").unlink(),
            "0x2.png has no partner of the same name in hr/",
        ),
        (
            lambda root: Image.new("RGB", (9, 9)).save(root / "lr" / "0x2.png"),
            "does not fit: lr is 9 x 9, so hr must be 18",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_told(tmp_path, damage, message):
    damage(write_pairs(tmp_path / "data"))
    with pytest.raises(UserError, match=message):
        open_pairs(str(tmp_path / "data"), patch=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "fotos"}, "unknown data set 'fotos'. Did you mean 'photos'"),
        ({"data": "./nowhere"}, "there is no folder ./nowhere"),
        ({"data": "t91"}, "give it by data_root="),
        ({"model": "resnet"}, "unknown model that enlarges 'resnet'"),
        ({"task.scale": 5}, "task.scale: input should be 2, 3, 4 or 8"),
        ({"task.patch": 33}, "patch is 33; expected a multiple of scale 2"),
        ({"task.patch": 1000}, "every training photo in photos is smaller than the patch of 1000"),
        ({"task.loss": "l3"}, "unknown loss 'l3'"),
        ({"task.loss": {"mse": 1, "l4": 1}}, "unknown loss 'l4'"),
        ({"task.colour": "yuv"}, "task.colour: input should be 'luma' or 'rgb' \\(got 'yuv'"),
        ({"task.degrade": "foto"}, "task.degrade: input should be 'bicubic' or 'photo'"),
        ({"task.loss": {"mse": 0}}, "the weight of loss mse is 0.0. Expected a number above 0"),
        ({"task.loss": "adversarial"}, "the adversarial loss alone does not see the original"),
        ({"task.adversarial_from": 1.0}, "task.adversarial_from: input should be less than 1"),
        ({"task.discriminator_lr": 0}, "task.discriminator_lr: input should be greater than 0"),
        ({"task.loss": "perceptual"}, "the perceptual loss sees colours. Set task.colour=rgb"),
        (
            {"task.loss": "perceptual", "task.colour": "rgb", "weights": "gone.pth"},
            "there is no weight file .*gone.pth",
        ),
        ({"task.skale": 2}, "unknown option of task upscale: 'skale'. Did you mean 'scale'"),
        ({"model.scale": 3}, "model.scale is 3, but task.scale 2"),
        ({"augment": "light"}, "augment is for classification"),
        ({"model.width": 0}, "width is 0"),
    ],
)
def test_mistakes_in_a_recipe_are_a_line(recipe, monkeypatch, changes, message):
    monkeypatch.delenv("TINTYPE_DATA_ROOT", raising=False)
    with pytest.raises(UserError, match=message) as error:
        api.plan(recipe.replace(**changes), watcher=Watcher())
    assert "\n" not in str(error.value)


def test_a_folder_of_photos_with_a_small_and_a_broken_one(tmp_path):
    for i in range(6):
        Image.fromarray(cat(70, 70 + i)).save(tmp_path / f"{i}.png")
    Image.fromarray(cat(20, 20)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    splits = open_pairs(str(tmp_path), patch=32, val_fraction=1, test_fraction=1)
    assert len(splits.val) == len(splits.test) == 1
    assert ("broken.png", "a text file, not an image") in splits.skipped
    assert len(open_whole(str(tmp_path), 4)) == 7


@pytest.mark.parametrize("with_pairs", [False, True])
def test_photos_beyond_memory_are_mapped_from_disk(tmp_path, monkeypatch, with_pairs):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    if with_pairs:
        write_pairs(root)
    else:
        root.mkdir()
        for i in range(7):
            Image.fromarray(cat(70 + i, 71)).save(root / f"{i}.png")
    in_memory = open_pairs(str(root), patch=32)
    # room for the first
    monkeypatch.setattr(
        "tintype.tasks.upscale.sets.pairs.MEMORY_SHARE", 3e4 / psutil.virtual_memory().total
    )
    mapped = open_pairs(str(root), patch=32)
    assert any("pixels are mapped from disk" in note for note in mapped.notes)
    assert not any("mapped" in note for note in in_memory.notes)
    assert mapped.spec.fingerprint == in_memory.spec.fingerprint
    index = torch.arange(len(in_memory.train))
    one, other = in_memory.train.take(index), mapped.train.take(index)
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.targets, other.targets)
    assert torch.equal(one.index, other.index)
    whole = torch.tensor([0])
    assert torch.equal(in_memory.test.take(whole).images, mapped.test.take(whole).images)


def test_every_recipe_of_the_task_is_read():
    from tintype.recipe import RECIPES

    found = [
        r
        for name in recipe_names()
        if (r := read_recipe(RECIPES / f"{name}.yaml")).task == "upscale"
    ]
    assert found
    for each in found:
        assert each.model in MODELS
        build(each.model_dump(), where="")


def test_data_of_the_task_alone_names_no_classifier():
    with pytest.raises(
        UserError, match=r"unknown recipe or data set 'photos'. Did you mean 'photos-x2'"
    ):
        resolve("photos")


# ---- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_beats_bicubic_and_says_by_which_protocol(run):
    test = run.metrics["test"]
    assert test["protocol"] == "Y, border 2, 8 bit, mean of images"
    assert test["psnr_y"] > test["bicubic"]["psnr_y"] > test["nearest"]["psnr_y"]
    assert test["gain"] == pytest.approx(test["psnr_y"] - test["bicubic"]["psnr_y"])
    rows = run.read_table("predictions.csv")
    assert [row["name"] for row in rows if row["split"] == "test"] == ["grace_hopper.jpg"]
    assert {"val_psnr_y", "val_ssim_y"} <= set(run.history[-1])
    assert run.read("model.json")["architecture"]["options"]["scale"] == 2


def test_measured_again_it_is_the_same(run, tmp_path, capsys):
    assert run.evaluate(split="val")["psnr_y"] == pytest.approx(
        run.metrics["val"]["psnr_y"], abs=1e-3
    )
    Image.fromarray(cat()).save(tmp_path / "cat.png")
    cli.app(["evaluate", str(run.path), "--data", str(tmp_path)], standalone_mode=False)
    assert "without a 2-pixel border" in " ".join(capsys.readouterr().out.split())
    figures = run.evaluate(data=str(tmp_path))
    assert figures["num_images"] == 1
    assert figures["gain_ci95"] is None
    val = run.metrics["val"]
    assert (val["num_images"], val["gain_ci95"]) == (2, None), (
        "of two photos an interval says nothing"
    )
    photo = cat()[:90, :130]
    low = resample.shrink(planes(photo)[None], 2)[0].permute(1, 2, 0).numpy()
    expected = quality.compare(run.upscale(low), photo, 2)
    assert figures["psnr_y"] == pytest.approx(expected["psnr_y"])
    floor = np.asarray(Image.fromarray(low).resize((130, 90), Image.Resampling.BICUBIC))
    assert figures["bicubic"]["psnr_y"] == pytest.approx(
        quality.compare(floor, photo, 2)["psnr_y"], abs=0.05
    )


class Stop(Exception):
    pass


class Stopper(Watcher):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if step >= self.at:
            raise Stop


@pytest.mark.parametrize(
    ("colour", "loss"), [("luma", "l1"), ("rgb", "l1"), ("rgb", {"l1": 1, "adversarial": 0.1})]
)
def test_resume_is_exact(recipe, train_in, tmp_path, monkeypatch, colour, loss):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        Image.fromarray(cat(72, 72 + 8 * i)).save(photos / f"{i}.png")
    recipe = recipe.replace(
        **{
            "data": str(photos),
            "task.patch": 32,
            "task.colour": colour,
            "task.loss": loss,
            "task.colour_jitter": 0.1,
            "ema": 0.5,
            "steps": 8,
            "task.degrade": "photo" if colour == "rgb" else "bicubic",
        }
    )
    whole = train_in(tmp_path / "whole" / "run", recipe)
    with pytest.raises(Stop):
        train_in(tmp_path / "stopped" / "run", recipe, Stopper(5))
    train_in(tmp_path / "stopped" / "run", recipe)
    for file in ("model.safetensors", "metrics.csv", "predictions.csv", "splits.csv"):
        assert (whole.path / file).read_bytes() == (
            tmp_path / "stopped" / "run" / file
        ).read_bytes(), file


def test_the_discriminator_learns_to_tell_enlarged_patches_from_real_ones(
    recipe, train_in, tmp_path
):
    """Its answers hardly count for the network that enlarges, which is left behind; only that one
    is kept.
    """
    changes = {"task.loss": {"l1": 1, "adversarial": 1e-6}, "task.colour": "rgb", "task.patch": 32}
    recipe = recipe.replace(optimizer="adam", lr=0.001, steps=80, batch_size=8, **changes)
    run = train_in(tmp_path / "run", recipe.replace(**{"task.adversarial_from": 0.25}))
    rows = run.read_table("metrics.csv")
    judged = [int(row["step"]) for row in rows if row["discriminator_accuracy"]]
    assert min(judged) > 20  # a quarter of the steps are trained by pixels alone
    assert "Trained against a discriminator" in run.read("evaluation.json")["verdict"]["text"]
    right = [float(row["discriminator_accuracy"]) for row in rows if row["discriminator_accuracy"]]
    assert right[0] < 0.7 < np.mean(right[2:])  # from chance to knowing
    with safe_open(run.path / "model.safetensors", "numpy") as tensors:
        assert not any("layers" in name for name in tensors.keys())  # noqa: SIM118
    assert Upscaler.of(run)(Image.fromarray(cat())).size == (262, 180)


def test_the_discriminator_sees_every_piece_of_a_batch(
    recipe, train_in, tmp_path, monkeypatch
) -> None:
    """It saw the last piece once for each; runs that were begun like that go on like that."""
    seen: list[float] = []

    def sees(task: Upscale, fake: torch.Tensor, real: torch.Tensor) -> Any:
        if not fake.requires_grad:  # its own turn
            seen.append(float(real.mean()))
        return judged(task, fake, real)

    judged = Upscale._judged
    monkeypatch.setattr(Upscale, "_judged", sees)
    changes = {"task.loss": {"l1": 1, "adversarial": 0.1}, "task.adversarial_from": 0.0}
    halves = recipe.replace(steps=1, accumulate=2, **{"task.colour": "rgb", **changes})
    assert as_new_run(halves).rules >= 3
    train_in(tmp_path / "new", as_new_run(halves))
    train_in(tmp_path / "earlier", halves.replace(rules=2))
    first, second, *earlier = seen
    assert first != second
    assert earlier == [second] * 2


@pytest.mark.parametrize(
    ("gain", "interval", "word"),
    [(1.0, (0.5, 1.5), "sharpens"), (1.0, (-0.5, 2.5), "may sharpen"), (1.0, None, "may sharpen"),
     (-0.3, None, "is not shown to sharpen"), (-0.3, (-0.8, 0.2), "is not shown to sharpen"),
     (-0.3, (-0.5, -0.1), "does not sharpen")],
)  # fmt: skip
def test_the_verdict_says_no_more_than_the_interval(gain, interval, word):
    figures = {"gain": gain, "gain_ci95": interval, "num_images": 3}
    assert _verdict(figures, adversarial=False)["word"] == word


def test_one_photo_proves_little():
    one = _verdict({"gain": 2.13, "gain_ci95": None, "num_images": 1}, adversarial=False)
    assert one["text"] == "may sharpen: +2.13 dB over bicubic, but on one test photo only."


def test_the_protocol_is_put_into_words():
    said = protocol_in_words(quality.protocol(2))
    assert (
        said
        == "PSNR and SSIM of the brightness channel, without a 2-pixel border, averaged over images"
    )
    assert protocol_in_words(f"{quality.protocol(4)}, degraded as photos are").endswith(
        "images, degraded as photos are"
    )
    assert protocol_in_words("another") == "PSNR and SSIM by the protocol: another"


# ---- LPIPS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squeezenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of SqueezeNet 1.1, drawn at random, in the file that torchvision would have
    downloaded.
    """
    network = build_model(
        "squeezenet1_1", DataSpec("", 3, 224, 224, Classes(tuple("abc")), (), (), ""), {}, seed=0
    )
    folder = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    tensors = {k: v for k, v in network.state_dict().items() if k.startswith("features.")}
    full = torchvision.models.squeezenet1_1().state_dict() | tensors
    torch.save(full, folder / "squeezenet1_1-b8a52dc0.pth")
    return folder / "squeezenet1_1-b8a52dc0.pth"


def test_lpips_is_that_of_the_package(squeezenet_file, monkeypatch):
    import lpips

    monkeypatch.setenv("TORCH_HOME", str(squeezenet_file.parents[2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lpips.LPIPS(net="squeeze", verbose=False)
    ours = PerceptualDistance(str(squeezenet_file), torch.device("cpu"))
    assert ours.name == "lpips_squeeze"
    photo, other = cat(), np.roll(cat(), 3, axis=1)
    expected = float(
        reference(*(planes(p)[None].float() / 127.5 - 1 for p in (other, photo))).detach()
    )
    assert ours(other, photo) == pytest.approx(expected, rel=1e-5)
    assert ours(photo, photo) == pytest.approx(0, abs=1e-7)


def test_lpips_is_measured_beside_bicubic(run, squeezenet_file, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    cli.app(
        ["evaluate", str(run.path), "--split", "val", "--features", str(squeezenet_file)],
        standalone_mode=False,
    )
    assert "lpips_squeeze" in capsys.readouterr().out
    figures = run.evaluate(split="val", features=str(squeezenet_file))
    assert figures["lpips_squeeze"] > 0
    assert figures["nearest"]["lpips_squeeze"] != figures["bicubic"]["lpips_squeeze"]
    assert figures["psnr_y"] == pytest.approx(run.metrics["val"]["psnr_y"], abs=1e-3)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("resnet18", "LPIPS knows no network resnet18. Expected alexnet, vgg16"),
        ("gone.pth", "knows no network gone.pth"),
    ],
)
def test_lpips_on_what_it_does_not_know_is_a_line(run, network, message):
    with pytest.raises(UserError, match=message):
        run.evaluate(features=network)


# ---- enlarging photos -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_tiles_leave_no_seam(name, channels):
    network = build_model(name, spec(channels), {**SMALL[name], "scale": 2}, seed=0).eval()
    task = Upscale(network, spec(channels), torch.device("cpu"), scale=2)
    low = planes(cat(53, 71))
    whole, tiled = (task.enlarge(network, low, tile=side).int() for side in (1000, 16))
    assert whole.shape == (3, 106, 142)
    assert int((whole - tiled).abs().max()) <= 1


def test_colour_is_left_as_it_is_by_a_network_of_luma(run):
    """Cb and Cr are those of bicubic."""
    small = cat(60, 60)
    ours = skimage.color.rgb2ycbcr(run.upscale(small))
    bicubic = skimage.color.rgb2ycbcr(
        np.asarray(Image.fromarray(small).resize((120, 120), Image.Resampling.BICUBIC))
    )
    assert np.abs(ours - bicubic)[4:-4, 4:-4, 1:].mean() < 0.5


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (1, 40, 3), (17, 3, 1), (20, 20), (9, 9, 4), (9, 9, 2)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_of_any_shape(run, shape, dtype):
    pixels = np.full(shape, np.iinfo(dtype).max // 3, dtype)
    large = run.upscale(pixels)
    assert large.dtype == dtype
    assert large.shape == (shape[0] * 2, shape[1] * 2, *shape[2:])
    assert abs(float(large.mean()) / np.iinfo(dtype).max - 1 / 3) < 0.1


def disc(colour: tuple[int, ...], hidden: int, dtype: Any, side: int = 48) -> np.ndarray:
    """Draw a smooth disc (side, side, C + alpha); what lies under full transparency has the value
    `hidden` of 255.
    """
    white = np.iinfo(dtype).max
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = (side / 3 + 0.5 - np.hypot(x, y)).clip(0, 1)
    colours = np.where(alpha[:, :, None] > 0, np.array(colour), hidden) / 255
    return (np.concatenate([colours, alpha[:, :, None]], 2) * white).round().astype(dtype)


def over(picture: np.ndarray, page: float) -> np.ndarray:
    """Lay a picture with alpha on a page of one brightness, all in 0..1."""
    values = picture / np.iinfo(picture.dtype).max
    return values[:, :, :-1] * values[:, :, -1:] + page * (1 - values[:, :, -1:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", [(255, 255, 255), (230, 40, 60), (255,), (0,)])
@pytest.mark.parametrize("hidden", [0, 255, 90])
def test_the_edge_of_a_transparent_picture_keeps_its_colour(run, colour, hidden, dtype):
    """What lies under full transparency means nothing and does not count."""
    pixels = disc(colour, hidden, dtype)
    for large in (run.upscale(pixels), Upscaler.of(run).bicubic(pixels)):
        values = large / np.iinfo(dtype).max * 255
        edge = (values[:, :, -1] > 8) & (values[:, :, -1] < 247)
        assert edge.sum() > 100
        assert np.abs(values[edge][:, :-1] - np.array(colour)).max() < 12
    np.testing.assert_array_equal(run.upscale(pixels), run.upscale(disc(colour, 128, dtype)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("page", [0.0, 1.0])
def test_a_faint_shadow_beside_a_solid_picture_leaves_no_rim(run, dtype, page):
    """Enlarged and laid on a page it is what the page with the picture on it becomes when it is
    enlarged.
    """
    pixels = disc((255, 250, 240), 0, dtype)
    white = np.iinfo(dtype).max
    shadow = pixels[:, :, 3] == 0
    pixels[shadow] = np.array([0, 0, 0, round(0.3 * white)], dtype)
    together = (over(pixels, page) * white).round().astype(dtype)
    upscaler = Upscaler.of(run)
    apart = np.abs(over(upscaler.bicubic(pixels), page) - upscaler.bicubic(together) / white)
    assert apart.mean() < 0.002  # what is cut off beyond black, white and full alpha
    assert apart.max() < 0.1

    network = (upscaler.enlarge(pixels).astype(float) - upscaler.bicubic(pixels))[:, :, :3]
    alone = upscaler.enlarge(pixels[:, :, :3]).astype(float) - upscaler.bicubic(pixels[:, :, :3])
    # what the network adds to bicubic stays as it is
    assert np.abs(network - alone).mean() < 0.005 * white


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_full_alpha_changes_nothing(run, dtype):
    white = np.iinfo(dtype).max
    colour = (cat(60, 60).astype(np.uint32) * (white // 255)).astype(dtype)
    expected = run.upscale(colour)
    alpha = np.full((60, 60, 1), white, dtype)
    large = run.upscale(np.concatenate([colour, alpha], 2))
    np.testing.assert_array_equal(large[:, :, :3], expected)
    assert (large[:, :, 3] == white).all()

    alpha[:4, :4] = 0  # far from there all is as before
    partly = run.upscale(np.concatenate([colour, alpha], 2))
    np.testing.assert_array_equal(partly[80:, 80:, :3], expected[80:, 80:])
    alpha[:] = 0
    assert run.upscale(np.concatenate([colour, alpha], 2))[:, :, 3].max() == 0


def test_sixteen_bits_are_not_cut_to_eight(run):
    ramp = np.tile(np.arange(20000, 20000 + 64 * 8, 8, dtype=np.uint16), (64, 1))
    deep, cut = (
        run.upscale(ramp).astype(int),
        run.upscale((ramp // 257).astype(np.uint8)).astype(int),
    )
    assert len(np.unique(deep[64])) > 60 > 10 > len(np.unique(cut[64]))


def loaded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


@lru_cache  # it holds the time of day
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_files_keep_what_they_are(run, tmp_path):
    photo, source, out = Image.fromarray(cat(40, 56)), tmp_path / "in", tmp_path / "out"
    (source / "below").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    photo.save(source / "turned.jpg", exif=exif, icc_profile=profile())
    photo.save(source / "below" / "web.webp", icc_profile=profile())
    photo.convert("L").save(source / "grey.png")
    clear = photo.convert("RGBA")
    clear.putalpha(Image.fromarray(np.linspace(0, 255, 40 * 56).reshape(40, 56).astype(np.uint8)))
    clear.save(source / "clear.png", icc_profile=profile())
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(
        source / "deep.png"
    )
    photo.save(source / "old.bmp")
    done = upscale_files(run, [source], out=out, compare=True, tile=32)
    assert not done.skipped
    assert len(done.written) == 12
    found = {
        path.relative_to(out).as_posix(): loaded(path)
        for path in done.written
        if "compare" not in path.name
    }
    assert {name: (i.format, i.mode, i.size) for name, i in found.items()} == {
        "turned-x2.jpg": ("JPEG", "RGB", (80, 112)),
        "below/web-x2.webp": ("WEBP", "RGB", (112, 80)),
        "grey-x2.png": ("PNG", "L", (112, 80)),
        "clear-x2.png": ("PNG", "RGBA", (112, 80)),
        "deep-x2.png": ("PNG", "I;16", (112, 80)),
        "old-x2.png": ("PNG", "RGB", (112, 80)),
    }
    turned = found["turned-x2.jpg"]
    assert turned.getexif()[0x010F] == "Maker"
    assert turned.getexif().get(0x0112, 1) == 1
    assert turned.info["icc_profile"] == found["clear-x2.png"].info["icc_profile"] == profile()
    upright = np.asarray(
        photo.rotate(-90, expand=True).resize((80, 112), Image.Resampling.BICUBIC)
    ).astype(float)
    assert np.abs(np.asarray(turned) - upright).mean() < 6
    assert loaded(out / "grey-x2-compare.png").size == (3 * 112 + 8, 80)
    again = upscale_files(run, [source], out=out)
    assert not again.written
    assert all("nothing is overwritten without force=True" in reason for _, reason in again.skipped)
    assert len(upscale_files(run, [source], out=out, force=True).written) == 6


def test_two_photos_of_one_stem_never_share_a_result(run, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    Image.new("RGB", (16, 16), "red").save(source / "a.png")
    Image.new("RGB", (16, 16), "blue").save(source / "a.bmp")
    for compare, force in ((False, False), (True, True), (False, True)):
        done = upscale_files(run, [source, source / "a.png"], out=out, compare=compare, force=force)
        assert [path.name for path in done.written] == ["a-x2.png", "a-x2-compare.png"][
            : 1 + compare
        ]
        assert loaded(done.written[0]).getpixel((16, 16))[2] > 200  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]
        assert [name for name, _ in done.skipped] == [str(source / "a.png")] * 2
        assert all(
            f"it was just made of {source / 'a.bmp'}" in reason for _, reason in done.skipped
        )
        if not force:
            shutil.rmtree(out)


def test_results_that_one_file_system_takes_for_the_same_are_not_written_twice(run, tmp_path):
    """Names that differ in case or in how an accent is written, on a system that does not tell them
    apart.
    """
    for folder, name in [("one", "caf\u00e9.png"), ("two", "CAFE\u0301.png")]:
        (tmp_path / folder).mkdir()
        Image.fromarray(cat(16, 16)).save(tmp_path / folder / name)
    photos = [tmp_path / "one" / "caf\u00e9.png", tmp_path / "two" / "CAFE\u0301.png"]
    written = upscale_files(run, photos, out=tmp_path / "apart").written
    assert len(written) == len(list((tmp_path / "apart").iterdir()))

    (tmp_path / "alike").mkdir()
    (tmp_path / "alike" / "CAFE\u0301-x2.png").symlink_to(tmp_path / "alike" / "caf\u00e9-x2.png")
    done = upscale_files(run, photos, out=tmp_path / "alike", force=True)
    assert len(done.written) == 1
    assert "it was just made of" in done.skipped[0][1]


def test_a_photo_to_enlarge_is_never_overwritten(run, tmp_path):
    Image.fromarray(cat(16, 16)).save(tmp_path / "a.png")
    Image.fromarray(cat(20, 24)).save(tmp_path / "a-x2.png")  # the user's own, as its size says
    before = (tmp_path / "a-x2.png").read_bytes()
    done = upscale_files(run, [tmp_path], force=True)
    assert [path.name for path in done.written] == ["a-x2-x2.png"]
    assert "it is one of the photos to enlarge" in done.skipped[0][1]
    assert (tmp_path / "a-x2.png").read_bytes() == before


def test_photos_named_like_results_are_enlarged_and_results_are_left_out(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, how in [
        ("photo-x2.png", {}),
        ("b.png", {"exif": exif}),
        ("c-x2-compare.png", {}),
        ("d.jpg", {}),
    ]:
        Image.fromarray(cat(16, 20)).save(tmp_path / name, **how)
    first = upscale_files(run, [tmp_path], compare=True)
    assert not first.skipped
    assert len(first.written) == 8

    again = upscale_files(run, [tmp_path], compare=True, force=True)
    assert again.written == first.written
    made = {Path(name).name: reason for name, reason in again.skipped}
    assert set(made) == {path.name for path in first.written}
    assert made["d-x2-compare.png"].startswith("it was made from d.jpg next to it")
    [by_name] = upscale_files(run, [tmp_path / "d-x2.jpg"]).written
    assert by_name.name == "d-x2-x2.jpg"
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "d-x2.jpg", alone)
    shutil.copy(tmp_path / "d-x2-compare.png", alone)
    assert [path.name for path in upscale_files(run, [alone]).written] == ["d-x2-x2.jpg"]


def test_sixteen_bit_colour_goes_through_a_file(run, tmp_path):
    from tintype.tasks.upscale.pictures import DecodedPhoto, write_picture

    pixels = (cat(20, 30).astype(np.uint16) * 257) ^ 5
    write_picture(tmp_path / "deep.png", DecodedPhoto(pixels, "PNG", b"", profile()))
    eight = np.asarray(loaded(tmp_path / "deep.png"))  # what Pillow makes of it
    np.testing.assert_array_equal(eight, (pixels >> 8).astype(np.uint8))
    back = read_picture(tmp_path / "deep.png")
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.profile == profile()
    [written] = upscale_files(run, [tmp_path / "deep.png"]).written
    large = read_picture(written).pixels
    assert large.dtype == np.uint16
    assert large.shape == (40, 60, 3)
    assert written.name == "deep-x2.png"


def test_a_folder_goes_on_without_its_bad_files(run, tmp_path, capsys):
    photo = Image.fromarray(cat(20, 30))
    photo.save(tmp_path / "good.png")
    photo.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    (tmp_path / "empty.png").write_bytes(b"")
    photo.save(tmp_path / "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    Image.new("RGB", (9000, 1)).save(tmp_path / "long.webp")
    cli.app(
        ["upscale", str(run.path), str(tmp_path), "--out", str(tmp_path / "out")],
        standalone_mode=False,
    )
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].endswith("good-x2.png")
    for name, reason in [("cut.jpg", "cannot be read"), ("empty.png", "it is empty"), ("moving.gif", "animated (2 frames)"),
                         ("long.webp", "WEBP holds 16383 at most")]:  # fmt: skip
        assert any(name in line and reason in line for line in said.err.splitlines()), name
    assert said.err.splitlines()[-1] == "1 written, 4 skipped"


def test_what_cannot_be_enlarged_is_told(run, finished_run, tmp_path):
    with pytest.raises(
        UserError,
        match="task classify cannot enlarge pictures",
    ):
        finished_run.upscale(cat())
    with pytest.raises(UserError, match="cannot be used to predict"):
        run.predict(cat())
    with pytest.raises(UserError, match="there is no file or folder"):
        upscale_files(run, [tmp_path / "nowhere"])
    with pytest.raises(UserError, match="there is no image in"):
        upscale_files(run, [tmp_path])
    with pytest.raises(UserError, match="cannot enlarge an array"):
        run.upscale(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(UserError, match="more than a billion"):
        Upscaler.of(run).enlarge(
            np.broadcast_to(np.zeros((1, 1, 1), np.uint8), (30_000, 30_000, 1))
        )
    with pytest.raises(UserError, match="a tile of 8 pixels is too small"):
        run.upscale(cat(), tile=8)


def compact_weights(path: Path) -> torch.nn.Module:
    """Write the weights of a small Real-ESRGAN network of x2, and return it."""
    from safetensors.torch import save_file
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(0)
    network = SRVGGNetCompact(
        num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2, act_type="prelu"
    ).eval()
    save_file(network.state_dict(), path)
    return network


def test_other_peoples_weights_enlarge(tmp_path):
    network = compact_weights(tmp_path / "theirs.safetensors")
    Image.fromarray(cat(40, 56)).save(tmp_path / "cat.png")
    [written] = upscale_files(
        tmp_path / "theirs.safetensors", [tmp_path / "cat.png"], tile=16
    ).written
    with torch.no_grad():
        expected = network(planes(cat(40, 56))[None] / 255)[0].clamp(0, 1) * 255
    assert (
        np.abs(np.asarray(loaded(written)).astype(float) - expected.permute(1, 2, 0).numpy()).max()
        <= 1
    )


def test_weights_that_are_no_network_are_told(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    Image.fromarray(cat(40, 56)).save(tmp_path / "cat.png")
    save_file({"a": torch.zeros(3)}, tmp_path / "odd.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"PK nothing")
    for name, message in [
        ("odd.safetensors", "spandrel knows no network"),
        ("broken.pth", "is damaged, not complete"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            upscale_files(tmp_path / name, [tmp_path / "cat.png"])
        assert "\n" not in str(error.value)
    torch.save(torch.nn.Conv2d(3, 3, 3), tmp_path / "whole.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have torch.export
        torch.jit.save(
            torch.jit.trace(torch.nn.Conv2d(3, 3, 3), torch.zeros(1, 3, 9, 9)),
            tmp_path / "program.pt",
        )
    (tmp_path / "graph.onnx").write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(40))
    for spandrel in (True, False):  # which would not help
        if not spandrel:
            monkeypatch.setitem(sys.modules, "spandrel", None)
        for name, message in [("whole.pth", "running code that it names, which tintype never does. Save the weights"),
                              ("program.pt", "is a TorchScript archive"), ("graph.onnx", "is an ONNX graph"),
                              ("cat.png", "is a picture")]:  # fmt: skip
            with pytest.raises(UserError, match=message) as error:
                upscale_files(tmp_path / name, [tmp_path / "cat.png"])
            assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"pip install 'tintype\[foreign\]'"):
        upscale_files(tmp_path / "odd.safetensors", [tmp_path / "cat.png"])


# ---- the report -------------------------------------------------------------------------------------------------------


def test_the_report_shows_the_pictures(run, tmp_path):
    copied = api.Run(shutil.copytree(run.path, tmp_path / "copied"))
    page = copied.report().read_text(encoding="utf-8")
    result = page[page.index('<section id="result"') : page.index('<section id="pictures"')]
    gain = f"{run.metrics['test']['gain']:+.2f}<span>dB</span>"
    assert (
        result.index("Gain over bicubic, 2 times larger")
        < result.index(gain)
        < result.index("This model")
    )
    assert "95 % interval" not in result, "there is one test photo, and two of validation"
    assert re.search(r"trained on \d+ tiles cut from 2 photos", result)
    assert '<h3 class="plain"><b>grace_hopper.jpg</b></h3>' in page, "not in capitals"
    order = ["result", "pictures", "by-picture", "history", "learning", "making"]
    assert [
        section for section in re.findall(r'<section id="([^"]+)"', page) if section != "warnings"
    ] == order
    assert page.count("grace_hopper.jpg") >= 2
    assert page.count("data:image/") >= 8
    for figure in ("comparison", "history"):
        assert loaded(copied.path / "figures" / f"{figure}.png").width > 200
    (copied.path / "samples" / "test-000000-ours.png").unlink()
    (copied.path / "predictions.csv").unlink()
    without = copied.report().read_text(encoding="utf-8")
    assert "Results by photo" not in without
    assert len(without) < len(page)
    (copied.path / "evaluation.json").unlink()
    assert "has not been measured" in copied.report().read_text(encoding="utf-8")
