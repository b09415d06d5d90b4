"""Generation from end to end: networks and their sizes, losses, training, resume, images by seed,
figures, mistakes.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import re
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from tintype import api, plugins
from tintype.data import open_data
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model, count_parameters
from tintype.models.parts.gan_parts import MinibatchStd, SelfAttention
from tintype.progress import Watcher
from tintype.recipe import RECIPES, Recipe, read_recipe, recipe_names
from tintype.runs.catalogue import list_runs
from tintype.runs.checkpoint import load_checkpoint
from tintype.runs.folder import RunFolder
from tintype.runs.reading import read_run
from tintype.seeds import fold
from tintype.tasks import losses
from tintype.tasks.generate import distances, sampling
from tintype.tasks.generate import report as generate_sections
from tintype.tasks.generate.diff_augment import OPERATIONS, AdaptiveStrength, diff_augment
from tintype.tasks.generate.objective import Objective
from tintype.tasks.generate.trouble import Trouble, verdict
from tintype.tasks.restoring import load_task
from tintype.training.order import Order

GANS = [name for name in plugins.names("models", task="generate") if not name.startswith("flow")]


def spec(
    channels: int = 3, height: int = 32, width: int | None = None, classes: int = 10
) -> DataSpec:
    names = tuple(f"class {k}" for k in range(classes))
    return DataSpec(
        "made",
        channels,
        height,
        width or height,
        Classes(names),
        (0.5,) * channels,
        (0.25,) * channels,
        "",
    )


def gan(name: str, of: DataSpec, **options: Any) -> Any:
    return build_model(name, of, options, seed=0)


# ---- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 32, 64])
@pytest.mark.parametrize("name", GANS)
def test_a_generator_makes_what_its_discriminator_judges(name, side, channels, conditional):
    of = spec(channels, side)
    networks = gan(name, of, conditional=conditional).to(memory_format=torch.channels_last)
    latent = torch.randn(4, *networks["generator"].latent_shape)
    labels = torch.tensor([0, 1, 9, 3]) if conditional else None
    images = networks["generator"](latent, labels)
    assert images.shape == (4, channels, side, side)
    assert float(images.detach().abs().max()) <= 1
    logits = networks["discriminator"](images, labels)
    assert logits.shape == (4,)
    losses.generator_loss("bce", None, logits).backward()
    for network in networks.values():
        for key, weight in network.named_parameters():
            assert weight.grad is not None, key
            assert bool(weight.grad.isfinite().all()), key


def test_dcgan_has_the_sizes_of_r11():
    networks = gan("dcgan", spec(3, 32))
    assert count_parameters(networks["generator"]) == 370_624
    assert count_parameters(networks["discriminator"]) == 167_808
    first = networks["generator"].layers[0]
    assert (first.in_channels, first.out_channels, first.kernel_size, first.stride) == (
        100,
        128,
        (4, 4),
        (1, 1),
    )


def test_products_of_matrices_stand_for_the_layers_at_the_ends():
    networks = gan("dcgan", spec(3, 28), norm="spectral")
    generator, discriminator = networks["generator"].eval(), networks["discriminator"].eval()
    latent, images = torch.randn(5, 100), torch.randn(5, 3, 28, 28)
    torch.testing.assert_close(generator(latent), generator.layers(latent[:, :, None, None]))
    expected = discriminator.last(discriminator.layers(images)).flatten()
    torch.testing.assert_close(discriminator(images), expected)


def test_dcgan_at_64_pixels_is_that_of_the_paper():
    """The numbers of the PyTorch tutorial's network (nz 100, ngf and ndf 64)."""
    networks = gan("dcgan", spec(3, 64), width=64)
    assert count_parameters(networks["generator"]) == 3_576_704
    assert count_parameters(networks["discriminator"]) == 2_765_568
    networks = gan("dcgan", spec(1, 128))
    assert networks["generator"](torch.randn(2, 100)).shape == (2, 1, 128, 128)


def test_mlp_gan_has_the_sizes_of_r10():
    networks = gan("mlp-gan", spec(1, 28))
    sizes = [784, 512, 256, 1]
    by_hand = sum(i * o + o for i, o in itertools.pairwise(sizes))
    assert count_parameters(networks["discriminator"]) == by_hand == 533_505
    sizes = [100, 256, 512, 784]
    assert count_parameters(networks["generator"]) == sum(
        i * o + o for i, o in itertools.pairwise(sizes)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "spectral"},
        {"norm": "none"},
        {"minibatch": "stddev"},
        {"minibatch": "discrimination"},
    ],
)
def test_options_of_the_discriminator(options):
    networks = gan("dcgan", spec(1, 8), **options)
    images = torch.rand(6, 1, 8, 8) * 2 - 1
    assert networks["discriminator"](images).shape == (6,)
    if options.get("norm") == "spectral":
        judge = networks["discriminator"]
        for _ in range(20):  # the power iteration comes closer with each call
            judge(images)
        layer = next(m for m in judge.modules() if isinstance(m, nn.Conv2d))
        assert float(
            torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        ) == pytest.approx(1, abs=0.02)


def test_minibatch_deviation_shows_a_lack_of_variety():
    same, varied = torch.ones(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    layer = MinibatchStd(group=4)
    assert float(layer(same)[:, -1].max()) < 1e-3
    expected = varied.var(0, unbiased=False).sqrt().mean()
    torch.testing.assert_close(layer(varied)[:, -1], expected.expand(4, 3, 3), rtol=1e-4, atol=1e-4)
    assert layer(torch.randn(7, 2, 3, 3)).shape == (7, 3, 3, 3), (
        "a group of 1 where nothing larger divides 7"
    )


def test_minibatch_deviation_takes_a_batch_that_no_group_divides_as_one():
    x = torch.randn(7, 2, 3, 3)
    extra = MinibatchStd()(x)[:, 2]
    expected = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
    torch.testing.assert_close(extra, expected.expand(7, 3, 3))


def test_attention_starts_as_nothing_and_has_a_second_derivative():
    layer, x = SelfAttention(8), torch.randn(2, 8, 4, 4, requires_grad=True)
    torch.testing.assert_close(layer(x), x)
    nn.init.ones_(layer.gain)
    losses.squared_gradient(x, layer(x).square().sum((1, 2, 3))).sum().backward()
    assert layer.query.weight.grad is not None


@pytest.mark.parametrize(
    ("name", "of", "options", "message"),
    [
        ("dcgan", spec(3, 30), {}, "not 30x30. Try image_size=28"),
        ("dcgan", spec(3, 32, 64), {}, "not 32x64"),
        ("dcgan", spec(1, 4), {}, "Try image_size=8"),
        ("dcgan", spec(), {"norm": "layer"}, "expected batch, spectral or none"),
        ("dcgan", spec(), {"minibatch": "std"}, "expected none, stddev or discrimination"),
        ("dcgan", spec(), {"width": 0}, "Expected a whole number"),
        ("mlp-gan", spec(), {"hiden": [3]}, "Did you mean 'hidden'"),
    ],
)
def test_what_a_network_cannot_make_is_a_line(name, of, options, message):
    with pytest.raises(UserError, match=message) as error:
        gan(name, of, **options)
    assert "\n" not in str(error.value)


# ---- losses -----------------------------------------------------------------------------------------------------------


def test_losses_are_those_of_torch():
    real, fake = torch.tensor([0.3, -2.0, 4.0]), torch.tensor([-1.0, 0.5, 0.0])
    bce = nn.functional.binary_cross_entropy
    expected = bce(real.sigmoid(), torch.ones(3)) + bce(fake.sigmoid(), torch.zeros(3))
    torch.testing.assert_close(losses.discriminator_loss("bce", real, fake), expected)
    torch.testing.assert_close(
        losses.generator_loss("bce", None, fake), bce(fake.sigmoid(), torch.ones(3))
    )
    torch.testing.assert_close(
        losses.discriminator_loss("hinge", real, fake),
        torch.tensor((0.7 + 3 + 0) / 3 + (0 + 1.5 + 1) / 3),
    )
    torch.testing.assert_close(
        losses.discriminator_loss("wasserstein", real, fake), fake.mean() - real.mean()
    )
    pairs = bce((real - fake).sigmoid(), torch.ones(3))
    torch.testing.assert_close(losses.discriminator_loss("relativistic", real, fake), pairs)
    torch.testing.assert_close(
        losses.generator_loss("relativistic", real, fake),
        bce((fake - real).sigmoid(), torch.ones(3)),
    )


def test_penalties_of_a_known_function():
    """The gradient of w.x is w, whatever the image; that of |x|^2 is 2x."""
    images = torch.randn(5, 2, 3, 3, requires_grad=True)
    weight = torch.randn(2, 3, 3)
    linear = (images * weight).sum((1, 2, 3))
    torch.testing.assert_close(
        losses.squared_gradient(images, linear), weight.square().sum().expand(5)
    )
    torch.testing.assert_close(
        losses.length_penalty(images, (images * weight).sum((1, 2, 3))), (weight.norm() - 1) ** 2
    )
    squared = images.square().sum((1, 2, 3))
    torch.testing.assert_close(
        losses.squared_gradient(images, squared), 4 * images.detach().square().sum((1, 2, 3))
    )


# ---- augmentation that gradients pass through -------------------------------------------------------------------------


def test_diff_augment_changes_images_and_passes_gradients():
    images = (torch.rand(8, 3, 16, 16) * 2 - 1).requires_grad_()
    changed = diff_augment(images, OPERATIONS, 1.0, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    changed.square().sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())
    assert float(images.grad.abs().sum()) > 0
    same = diff_augment(images, OPERATIONS, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(changed, same)
    assert torch.equal(diff_augment(images, OPERATIONS, 0.0, torch.Generator()), images)


def test_translation_moves_without_changing_values():
    images = torch.zeros(64, 1, 16, 16)
    images[:, :, 8, 8] = 1
    moved = diff_augment(images, ["translation"], 1.0, torch.Generator().manual_seed(1))
    assert moved.sum((1, 2, 3)).tolist() == [1.0] * 64
    places = moved.flatten(1).argmax(1)
    shifts = torch.stack([places // 16 - 8, places % 16 - 8])
    assert set(shifts.unique().tolist()) == {-2, -1, 0, 1, 2}


def test_cutout_hides_at_most_a_quarter():
    hidden = (
        diff_augment(torch.ones(64, 1, 16, 16), ["cutout"], 1.0, torch.Generator().manual_seed(1))
        == 0
    ).float()
    shares = hidden.mean((1, 2, 3))
    assert float(shares.min()) > 0.05
    assert float(shares.max()) <= 0.28


def test_adaptive_strength_rises_and_falls_and_is_remembered():
    strength = AdaptiveStrength(target=0.6, images=800)
    for _ in range(8):
        strength.see(torch.ones(50))
    assert strength.probability == pytest.approx(0.5)
    strength.see(-torch.ones(50))
    other = AdaptiveStrength(target=0.6, images=800)
    other.load_state(strength.state())
    for each in (strength, other):
        for _ in range(3):
            each.see(-torch.ones(50))
    assert strength.probability == other.probability == pytest.approx(0.25)


# ---- noise ------------------------------------------------------------------------------------------------------------


def test_noise_follows_from_seed_and_index():
    some = sampling.latents(3, range(5, 9), (4, 2))
    assert np.array_equal(some[2], sampling.latents(3, [7], (4, 2))[0])
    assert not np.array_equal(some[2], sampling.latents(4, [7], (4, 2))[0])
    many = sampling.latents(0, range(2000), (10,))
    assert abs(many.mean()) < 0.02
    assert many.std() == pytest.approx(1, abs=0.02)


def test_truncation_keeps_the_order_and_the_bound():
    noise = sampling.latents(0, range(100), (20,))
    cut = sampling.truncated(noise, 0.7)
    assert float(np.abs(cut).max()) <= 0.7
    assert np.array_equal(
        np.argsort(noise.ravel(), kind="stable"), np.argsort(cut.ravel(), kind="stable")
    )
    np.testing.assert_allclose(sampling.truncated(noise, 9.0), noise, atol=1e-5)


def test_a_way_passes_its_stations_and_keeps_its_length():
    way = sampling.path(1, range(17), (64,), 8)
    stations = sampling.latents(1, range(3), (64,))
    np.testing.assert_allclose(way[[0, 8, 16]], stations, atol=1e-6)
    lengths = np.linalg.norm(way, axis=1)
    assert lengths.min() > 0.9 * np.linalg.norm(stations, axis=1).min()
    assert np.array_equal(way[9:12], sampling.path(1, range(9, 12), (64,), 8))


def test_a_grid_has_every_image_in_its_place():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 4, 3, 1), np.uint8)
    sheet = sampling.grid(images, 3, gap=1)
    assert sheet.shape == (9, 11, 1)
    assert [int(sheet[0, x, 0]) for x in (0, 4, 8)] == [0, 1, 2]
    assert int(sheet[5, 4, 0]) == 4
    assert int(sheet[5, 8, 0]) == 128


# ---- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_gan(tiny) -> Any:
    """Return a function that makes the recipe of a small conditional DCGAN on digits."""

    def make(**changes: Any) -> Recipe:
        fields: dict[str, Any] = {
            "task": "generate", "model": "dcgan", "model_options": {"width": 8, "latent": 8, "conditional": True}, "steps": 12,
            "batch_size": 50, "optimizer": "adam", "betas": (0.5, 0.999), "lr": 0.001, "ema": 0.9, "evaluate_every": 0.2,
        }  # fmt: skip
        return tiny(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def gan_run(tmp_path_factory, tiny_gan) -> api.Run:
    """A finished run of a GAN, with its report. Tests must not change it."""
    recipe = tiny_gan(steps=60, evaluate_every=1)
    return api.train(recipe, out=tmp_path_factory.mktemp("gans"), name="gan", watcher=Watcher())


def test_a_run_leaves_everything_that_was_promised(gan_run):
    history = gan_run.history
    assert len(history) == 60, "both losses at every step"
    assert all(row["loss_discriminator"] > 0 and row["loss_generator"] > 0 for row in history)
    grids = sorted((gan_run.path / "samples").glob("step-*.png"))
    assert [int(p.stem[5:]) for p in grids] == sorted({*range(0, 61, 5), 25, 50, 60}), (
        "from noise on, and at evaluations"
    )
    figures = gan_run.metrics["test"]
    assert figures["num_generated"] == figures["num_images"] == 359
    assert 0 < figures["fd_pixels8_floor"] < figures["fd_pixels8"]
    assert "fd_pixels8_floor" not in gan_run.metrics["train"]
    described = gan_run.read("model.json")
    counts = described["parameters_by_network"]
    assert counts["generator"] == described["parameters"]
    page = (gan_run.path / "report.html").read_text(encoding="utf-8")
    both = f"{counts['generator']:,} (generator) + {counts['discriminator']:,} (discriminator)"
    assert f"{both} = {sum(counts.values()):,}" in page
    (row,) = list_runs(gan_run.path.parent)
    assert (
        row["parameters.sum"]
        == row["parameters.generator"] + row["parameters.discriminator"]
        == sum(counts.values())
    )
    assert "no Inception weights" in gan_run.read("evaluation.json")["protocol"]["fid"]
    for name, sides in {
        "real-8x8": (8, 8),
        "generated-4x4": (4, 4),
        "classes": (10, 8),
        "nearest": (2, 8),
    }.items():
        with Image.open(gan_run.path / "samples" / f"{name}.png") as sheet:
            assert sheet.size == (sides[1] * 10 - 2, sides[0] * 10 - 2)
    rows = gan_run.read_table("predictions.csv")
    assert len(rows) == 64
    assert {row["class"] for row in rows} == set("0123456789")


def test_the_last_grid_shows_the_images_of_the_finished_run(gan_run):
    """Averaged weights, a save and a load later: the same images."""
    sheet = sampling.grid(gan_run.generate(64), 8)
    for name in ("step-0000060", "generated-8x8"):
        with Image.open(gan_run.path / "samples" / f"{name}.png") as shown:
            difference = np.abs(np.asarray(shown).astype(int) - sheet[:, :, 0])
        assert int(difference.max()) <= 1, "another batch size may round another way"


def test_an_image_depends_on_seed_and_index_alone(gan_run):
    many = gan_run.generate(40, seed=5)
    assert many.shape == (40, 8, 8, 1)
    assert many.dtype == np.uint8
    assert np.array_equal(many[:3], gan_run.generate(3, seed=5))
    assert np.array_equal(many[:17], gan_run.generate(17, seed=5))
    for start in (0, 7, 16, 39):
        assert np.array_equal(many[start:], gan_run.generate(40 - start, start=start, seed=5)), (
            start
        )
    assert not np.array_equal(many[:3], gan_run.generate(3, seed=6))
    of_three = gan_run.generate(14, seed=5, class_name="3")
    assert np.array_equal(of_three[[3, 13]], many[[3, 13]]), "classes come by turns"
    assert np.array_equal(of_three[:4], gan_run.generate(4, seed=5, class_name=3)), (
        "whole numbers name a class as well"
    )
    assert not np.array_equal(of_three[4], many[4])
    assert len(np.unique(gan_run.generate(12, truncation=0.01, class_name="3"), axis=0)) < 12
    way = gan_run.generate(9, interpolate=True, class_name="3")
    ends = gan_run.generate(2, class_name="3")
    assert np.abs(way[[0, 8]].astype(int) - ends).max() <= 1


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({"norm": "none"}, {"loss": "relativistic", "r1": 1.0, "r2": 1.0}),
        (
            {"norm": "spectral", "minibatch": "stddev"},
            {"loss": "hinge", "r1": 1.0, "penalty_every": 4},
        ),
        (
            {"norm": "none", "minibatch": "discrimination"},
            {"loss": "wgan-gp", "discriminator_steps": 2},
        ),
        ({}, {"loss": "bce", "ada": 0.6, "generator_steps": 2}),
    ],
)
def test_every_objective_goes_on_bit_equal_after_a_stop(
    tiny_gan, train_in, tmp_path, monkeypatch, options, task
):
    """Both optimizers, the average, the strength of augmentation and the accumulators of the watch
    come back.
    """
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    options = {"width": 4, "latent": 4, "conditional": True, **options}
    recipe = tiny_gan(model_options=options, task_options={**task, "num_samples": 50})
    whole = train_in(tmp_path / "whole" / "run", recipe)
    folder = tmp_path / "stopped" / "run"
    for at in sorted(random.Random(str(task)).sample(range(2, 12), 2)):
        with pytest.raises(Stop):
            train_in(folder, recipe, Stopper(at))
    train_in(folder, recipe)
    for file in ("model.safetensors", "metrics.csv", "predictions.csv"):
        assert (whole.path / file).read_bytes() == (folder / file).read_bytes(), file
    states = [load_checkpoint(path / "checkpoints")[0] for path in (whole.path, folder)]
    assert states[0]["task"] == states[1]["task"]
    assert all(
        torch.equal(a, b) for a, b in zip(_tensors(states[0]), _tensors(states[1]), strict=True)
    )
    for sheet in (whole.path / "samples").glob("*.png"):
        assert sheet.read_bytes() == (folder / "samples" / sheet.name).read_bytes(), sheet.name
    one, other = (api.Run(path).generate(5, seed=2) for path in (whole.path, folder))
    assert np.array_equal(one, other)


class Stop(Exception):
    """Stands for whatever ends a process."""


class Stopper(Watcher):
    """Raises when a step is logged, before its checkpoint is written."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if step >= self.at:
            raise Stop


def _tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in _tensors(value)]


def test_a_phase_comes_at_its_own_steps(tiny_gan, train_in, tmp_path):
    task = {"loss": "hinge", "discriminator_steps": 4, "r1": 1.0, "penalty_every": 2}
    run = train_in(tmp_path / "run", tiny_gan(steps=8, task_options=task))
    rows = api.Run(run.path).history
    assert [row["loss_generator"] is not None for row in rows] == [True, False, False, False] * 2
    assert [row["loss_penalty"] is not None for row in rows] == [True, False] * 4


def test_a_run_is_the_loop_that_alternates(tiny, train_in, tmp_path):
    """Two steps of plain PyTorch: the discriminator learns, then judges the same images anew for
    the generator.
    """
    options = {"latent": 4, "hidden": [8], "discriminator_hidden": [8]}
    recipe = tiny(
        task="generate", model="mlp-gan", model_options=options, task_options={"num_samples": 20}, augment="none",
        optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=0.5, schedule="constant", steps=2, batch_size=16, ema=0.0,
    )  # fmt: skip
    run = train_in(tmp_path / "run", recipe)
    splits = open_data("digits", split_seed=recipe.split_seed)
    networks = build_model("mlp-gan", splits.spec, options, recipe.seed)
    optimizers = {name: torch.optim.SGD(net.parameters(), lr=0.5) for name, net in networks.items()}
    for step in range(2):
        index = Order(recipe.seed, len(splits.train), 16).batch(step)
        real = splits.train.take(index).images.float() / 127.5 - 1
        draw = torch.Generator().manual_seed(fold(recipe.seed, "discriminator", step))
        fake = networks["generator"](torch.randn(16, 4, generator=draw))
        for name in ("discriminator", "generator"):
            judge = networks["discriminator"]
            if name == "discriminator":
                loss = losses.discriminator_loss("bce", judge(real), judge(fake.detach()))
            else:
                loss = losses.generator_loss("bce", None, judge(fake))
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
    made = load_file(run.path / "model.safetensors")
    for name, weight in networks["generator"].state_dict().items():
        torch.testing.assert_close(made[name], weight)


def test_the_network_that_has_no_turn_holds_still(tiny_gan, train_in, tmp_path):
    """With a generator that never has its turn again, only its batch norm's statistics move."""
    recipe = tiny_gan(steps=2, ema=0.0, task_options={"discriminator_steps": 1000})
    longer = recipe.replace(steps=6)
    states = [
        load_checkpoint(train_in(tmp_path / f"run{r.steps}", r).path / "checkpoints")[0]["networks"]
        for r in (recipe, longer)
    ]
    one, other = (
        {k: v for k, v in s["generator"].items() if "running" not in k and "num" not in k}
        for s in states
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(
        not torch.equal(states[0]["discriminator"][k], v)
        for k, v in states[1]["discriminator"].items()
    )


def test_a_collapsed_generator_is_told_with_a_remedy(tiny_gan, tmp_path):
    class Notes(Watcher):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def note(self, line: str) -> None:
            self.lines.append(line)

    notes = Notes()
    recipe = tiny_gan(steps=8, lr=1e-9, ema=0.0, task_options={"num_samples": 60})
    run = api.train(recipe, out=tmp_path, name="run", watcher=notes)
    told = [line for line in notes.lines if line.startswith("warning: step")]
    assert any("mode collapse" in line and "task.loss=relativistic" in line for line in told)
    assert len(told) == len(set(told))
    assert {line.removeprefix("warning: ") for line in told} <= set(
        run.read("evaluation.json")["warnings"]
    )


def test_divergence_is_a_line_that_keeps_the_last_checkpoint(
    tiny_gan, train_in, tmp_path, monkeypatch
):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    from tintype.tasks.generate.adversarial import Adversarial

    wrong = Adversarial._generator_loss

    def diverges(self, real, labels, context):
        return wrong(self, real, labels, context) * (math.nan if context.step == 5 else 1)

    monkeypatch.setattr(Adversarial, "_generator_loss", diverges)
    with pytest.raises(
        UserError, match=r"not finite after step 6.*The last good checkpoint is kept"
    ):
        train_in(tmp_path / "run", tiny_gan())
    assert load_checkpoint(tmp_path / "run" / "checkpoints")[0]["step"] == 5
    assert RunFolder(tmp_path / "run").status["state"] == "failed"


def test_a_classifier_run_tells_which_classes_are_made(tiny_gan, finished_run, tmp_path):
    recipe = tiny_gan(
        steps=4, task_options={"features": str(finished_run.path), "num_samples": 100}
    )
    run = api.train(recipe, out=tmp_path, name="run", watcher=Watcher())
    figures = run.metrics["test"]
    assert sum(figures["class_shares"].values()) == pytest.approx(1, abs=1e-3)
    assert figures["largest_class_share"] == pytest.approx(
        max(figures["class_shares"].values()), abs=1e-3
    )
    assert {"fd_digits", "fd_digits_floor", "precision_digits", "recall_digits"} <= set(figures)
    assert {"class_accuracy", "mean_confidence", "classes_present"} <= set(figures)
    again = run.evaluate()
    assert again["fd_digits"] == pytest.approx(figures["fd_digits"], rel=1e-6)
    assert "fd_pixels8" not in again
    assert "classifier run digits" in again["protocol"]["fd_digits"]


# ---- the command line -------------------------------------------------------------------------------------------------


def test_files_and_sheets_are_written_and_nothing_is_overwritten(tt, gan_run, tmp_path):
    code, output, _ = tt("generate", gan_run.path, "--count", 3, "--seed", 2, "--out", "made")
    assert (code, output) == (0, "3 images written to made\n")
    files = sorted((tmp_path / "made").iterdir())
    assert [f.name for f in files] == [f"seed2-{i:06d}.png" for i in range(3)]
    with Image.open(files[2]) as image:
        assert np.array_equal(np.asarray(image), gan_run.generate(3, seed=2)[2, :, :, 0])
    before = files[0].read_bytes()
    code, _, errors = tt("generate", gan_run.path, "--count", 3, "--seed", 2, "--out", "made")
    assert (code, errors.count("\n")) == (2, 1)
    assert "nothing is overwritten" in errors
    assert files[0].read_bytes() == before
    assert (
        tt("generate", gan_run.path, "--count", 3, "--seed", 2, "--class", "4", "--out", "made")[0]
        == 0
    )
    assert tt("generate", gan_run.path, "--grid", "sheet.png", "--interpolate")[0] == 0
    with Image.open("sheet.png") as sheet:
        # digits of 8 x 8 pixels, enlarged by 8
        assert sheet.size == (8 * 64 + 7 * 2, 8 * 64 + 7 * 2)


def test_a_sheet_is_nearly_square_and_shows_each_pixel(tt, gan_run, tmp_path):
    assert tt("generate", gan_run.path, "--count", 10, "--grid", "ten.png")[0] == 0
    with Image.open("ten.png") as sheet:
        assert sheet.size == (4 * 66 - 2, 3 * 66 - 2)
        corner = np.asarray(sheet)[:64, :64]
    first = gan_run.generate(1)[0, :, :, 0]
    assert np.array_equal(corner, np.kron(first, np.ones((8, 8), np.uint8)))

    asked = ("--count", 10, "--grid", "plain.png", "--columns", 5, "--scale", 1)
    assert tt("generate", gan_run.path, *asked)[0] == 0
    with Image.open("plain.png") as sheet:
        assert sheet.size == (5 * 10 - 2, 2 * 10 - 2)


@pytest.mark.parametrize(
    ("size", "columns", "scale"),
    [((8, 8), 8, 8), ((28, 28), 8, 2), ((64, 64), 8, 1), ((300, 200), 4, 1), ((8, 8), 100, 2)],
)
def test_only_small_images_are_enlarged(size, columns, scale):
    assert sampling.viewing_scale(size, columns) == scale


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", 0], "count is 0. Expected a whole number from 1 to"),
        (["--count", 10**9], "count is 1000000000"),
        (["--seed", -1], "seed is -1"),
        (["--class", "ten"], "unknown class 'ten'"),
        (["--truncation", 0], "truncation is 0"),
        (["--grid", "sheet.jpg"], "ends in .png"),
        (["--grid", "sheet.png", "--out", "made"], "Give one of them"),
        (["--grid", "sheet.png", "--count", 20_000], "too large to look at"),
        (["--grid", "sheet.png", "--scale", 10_000], "too large to look at"),
        (["--grid", "sheet.png", "--scale", 0], "--scale is 0"),
        (["--grid", "sheet.png", "--columns", -3], "--columns is -3"),
        (["--out", "made", "--columns", 3], "--columns is for a sheet"),
    ],
)
def test_what_cannot_be_made_is_a_line(tt, gan_run, tmp_path, arguments, message):
    code, output, errors = tt("generate", gan_run.path, *arguments)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert message in errors
    assert list(tmp_path.iterdir()) == []


def test_commands_of_another_task_are_a_line(tt, gan_run, finished_run):
    for arguments, message in [
        (["generate", finished_run.path], "is a run of task classify and cannot generate images"),
        (
            ["predict", gan_run.path, gan_run.path / "samples"],
            "runs of task generate cannot be used to predict.",
        ),
        (
            ["evaluate", gan_run.path, "--data", "digits"],
            "runs of task generate cannot be measured on other data",
        ),
        (["evaluate", gan_run.path, "--classes"], "has no classes to report on"),
        (["evaluate", finished_run.path, "--features", gan_run.path], "makes none"),
        (
            ["evaluate", gan_run.path, "--features", gan_run.path],
            "whose features say nothing of images. Expected a classifier",
        ),
        (
            ["evaluate", gan_run.path, "--inception-weights", "no.pth"],
            "FID needs torch-fidelity|no file no.pth",
        ),
    ]:
        code, output, errors = tt(*arguments)
        assert (code, output) == (2, "")
        assert any(part in errors for part in message.split("|")), errors


def test_an_unconditional_generator_knows_no_class(tiny_gan, tmp_path):
    recipe = tiny_gan(
        steps=2,
        model="mlp-gan",
        model_options={"hidden": [16], "discriminator_hidden": [16], "latent": 4},
    )
    run = api.train(recipe, out=tmp_path, name="run", watcher=Watcher())
    assert run.generate(2).shape == (2, 8, 8, 1)
    with pytest.raises(UserError, match="knows no classes"):
        run.generate(1, class_name="3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_options": {"loss": "bcee"}}, "unknown loss"),
        ({"task_options": {"los": "bce"}}, "unknown option of task generate: 'los'"),
        ({"task_options": {"r1": -1}}, "task.r1: input should be greater"),
        ({"task_options": {"r1": math.nan}}, "task.r1: input should be a finite number"),
        ({"task_options": {"diff_augment": 3}}, "task.diff_augment: input should be a valid"),
        ({"lr": "auto"}, "lr: auto measures one loss"),
        ({"task_options": {"penalty_every": 0}}, "task.penalty_every: input should be greater"),
        ({"task_options": {"diff_augment": ["rotate"]}}, "unknown operation of diff_augment"),
        ({"task_options": {"ada": 3}}, "task.ada: input should be less than 1"),
        ({"task_options": {"ada": 0.6, "loss": "relativistic"}}, "task.ada reads the sign"),
        (
            {"model": "flow-unet", "model_options": {}, "task_options": {"r1": 1}},
            "task.r1 concerns a discriminator",
        ),
        (
            {"task_options": {"num_samples": 2}},
            "task.num_samples: input should be greater than or equal to 5",
        ),
        ({"task_options": {"features": "nowhere"}}, "features: there is no nowhere"),
        ({"augment": {"mixup": 0.2}}, "mixup and cutmix blend images"),
        ({"model": "cnn", "model_options": {}}, "model cnn makes no images"),
        ({"image_size": 30}, "not 30x30"),
        (
            {"label_smoothing": 0.1},
            "label_smoothing has no effect on task generate, only on task classify",
        ),
        (
            {"weights": "default"},
            "weights has no effect on task generate, only on tasks classify, regress and upscale",
        ),
        ({"tta": "flip"}, "tta has no effect on task generate"),
    ],
)
def test_a_recipe_that_cannot_be_is_a_line(tiny_gan, changes, message):
    with pytest.raises(UserError, match=message) as error:
        api.plan(tiny_gan(**changes), watcher=Watcher())
    assert "\n" not in str(error.value)


def test_a_classifier_is_not_built_from_a_generator(tt, photos):
    for what, model in (("digits", "dcgan"), ("digits", "flow-unet"), (photos, "mlp-gan")):
        code, _, errors = tt("train", what, "--model", model, "--dry-run")
        assert code == 2
        assert f"model {model} is there to generate, not to classify" in errors


@pytest.fixture
def photos(tmp_path) -> Any:
    """A folder of 60 dark pictures and one of 60 light ones."""
    numbers = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 160)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(60):
            pixels = (low + numbers.integers(0, 90, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_some_real_images_stand_for_all_of_them(photos):
    """A test split in the order of its classes, of which a part is measured: real images of the
    other split are as near.
    """
    from tintype.tasks.generate.measuring import Measure

    splits = open_data(str(photos), val_fraction=30, test_fraction=30)
    measure = Measure(None, None, torch.device("cpu"), splits.train)

    def make(indices):
        return splits.train.take(torch.as_tensor(indices) * 5).images  # of both kinds

    figures, _ = measure.figures(nn.Linear(1, 1), make, splits.test, 12)
    dark = splits.test.take(torch.arange(12)).images
    one_kind = distances.pixel_features().extract(dark)[0]
    both = distances.pixel_features().extract(make(range(12)))[0]
    alone = distances.frechet_distance(one_kind, both)
    assert figures["fd_pixels8_floor"] < 0.3 * alone
    assert figures["fd_pixels8"] < 0.3 * alone
    assert figures["recall_pixels8"] > 0.5


@pytest.mark.parametrize("layout", ["flat", "one", "train"])
def test_photos_without_classes_train_a_generator(photos, tt, layout):
    place = photos.parent / "unsorted" / {"flat": "", "one": "faces", "train": "train"}[layout]
    place.mkdir(parents=True)
    for i, file in enumerate(sorted(photos.rglob("*.png"))):
        file.rename(place / f"{i}.png")
    root = str(photos.parent / "unsorted")
    options = (
        "--data-root",
        root,
        "--image-size",
        "16",
        "--steps",
        "2",
        "--batch-size",
        "8",
        "--set",
        "model.width=4",
    )
    code, _, errors = tt(
        "train", "faces-gan", *options, "--out", photos.parent / "runs", "--name", "run"
    )
    assert code == 0, errors
    run = api.Run(photos.parent / "runs" / "run")
    assert sum(run.read("data.json")["num_images"].values()) == 120
    assert tt("evaluate", run.path)[0] == 0
    with pytest.raises(UserError, match=r"one class only|no class folders|no images"):
        open_data(root)


def test_a_folder_trains_the_model_that_was_asked_for(photos):
    planned = api.plan(str(photos), model="resnet", watcher=Watcher())
    assert planned.recipe.model == "resnet"
    planned = api.plan(
        str(photos), model="dcgan", task="generate", image_size=16, watcher=Watcher()
    )
    assert (planned.recipe.model, planned.recipe.optimizer, planned.recipe.steps) == (
        "dcgan",
        "adam",
        5000,
    )


def test_only_the_standard_features_are_called_fid(finished_run, tiny_gan, tmp_path):
    import shutil

    shutil.copytree(finished_run.path, tmp_path / "inception")
    with pytest.raises(UserError, match="a run named inception would be taken"):
        api.plan(
            tiny_gan(task_options={"features": str(tmp_path / "inception")}), watcher=Watcher()
        )


def test_trouble_names_remedies_that_are_there_and_not_in_use():
    def told(objective, **options):
        trouble = Trouble(objective)
        trouble.options, trouble.step = options, 100
        shares = {str(k): 0.0 if k < 1 else 0.1 for k in range(10)}
        trouble.assess({"diversity": 0.1, "class_shares": shares, "classes_present": 9}, recall=0.0)
        return " ".join(trouble.warnings)

    first = told(Objective("bce"), minibatch="none", conditional=False)
    for part in (
        "mode collapse",
        "little variety",
        "task.loss=relativistic",
        "model.minibatch=stddev",
        "conditional=true",
    ):
        assert part in first
    second = told(Objective("relativistic", r1=1.0), conditional=True)
    assert "Try longer training." in second
    assert "=" not in second
    early = Trouble(Objective("bce"))
    early.step, early.progress = 5, 0.01
    early.assess({"diversity": 0.1}, recall=0.0)
    assert early.warnings == []


GOOD = {"diversity": 1.0, "recall": 0.5, "nearness": 1.0, "shares": {"a": 0.5, "b": 0.5}}


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({}, "varies"),
        ({"nearness": 0.49, "diversity": 0.5}, "memorises"),
        ({"diversity": 0.59, "recall": 0.0}, "collapses"),
        ({"shares": {"a": 0.96, "b": 0.04}, "recall": 0.0}, "misses classes"),
        ({"recall": 0.019}, "lacks variety"),
        ({"shares": None, "nearness": 0.5, "diversity": 0.6, "recall": 0.02}, "varies"),
    ],
)
def test_the_verdict_is_the_first_rule_that_holds(bad, word):
    case = GOOD | bad
    figures = {"diversity": case["diversity"]}
    if case["shares"]:
        figures |= {
            "class_shares": case["shares"],
            "classes_present": sum(v >= 0.05 for v in case["shares"].values()),
        }
    said, why = verdict(figures, recall=case["recall"], nearness=case["nearness"])
    assert said == word
    assert f"{case['nearness']:.0%} as far" in why
    assert ("classes" in why) == bool(case["shares"])


def test_a_generator_that_copies_is_said_to_memorise(tiny_gan, tmp_path, monkeypatch):
    from tintype.tasks.generate.task import Generate

    copies = lambda task, network, noise, labels: task.train.take(torch.arange(len(noise))).images  # noqa: E731
    monkeypatch.setattr(Generate, "make_images", copies)
    run = api.train(tiny_gan(steps=2), out=tmp_path, name="run", watcher=Watcher())
    evaluation = run.read("evaluation.json")
    assert evaluation["verdict"]["word"] == "memorises"
    assert any(
        "memorisation: generated images are 0% as far" in line for line in evaluation["warnings"]
    )
    page = run.report().read_text(encoding="utf-8")
    assert "Copies of training images." in page
    assert "The test set has been used once" in page


def test_a_penalty_behind_batch_norm_is_told_and_never_a_remedy():
    trouble = Trouble(Objective("bce", r1=1.0))
    trouble.options = {"norm": "batch"}
    trouble.assess({"diversity": 1.0}, recall=1.0)
    trouble.assess({"diversity": 1.0}, recall=1.0)
    assert len(trouble.warnings) == 1
    assert "Try --set model.norm=none" in trouble.warnings[0]
    for norm, remedy in (
        ("batch", "--set model.norm=none --set task.loss=relativistic"),
        ("none", "Try --set task.loss"),
    ):
        trouble = Trouble(Objective("bce"))
        trouble.options, trouble.step = {"norm": norm}, 100
        trouble.assess({"diversity": 0.1}, recall=1.0)
        assert remedy in trouble.warnings[0]


def test_missing_classes_are_told():
    trouble = Trouble(Objective("bce"))
    trouble.step = 100
    shares = {str(k): 0.0 if k in (3, 7) else 0.125 for k in range(10)}
    trouble.assess({"diversity": 1.0, "class_shares": shares, "classes_present": 8}, recall=0.5)
    assert "2 of 10 classes are hardly made (3, 7)" in trouble.warnings[0]


def test_a_lazy_penalty_counts_the_turns_of_the_discriminator():
    from tintype.tasks.generate.adversarial import _turns

    phases = {
        phase.name: phase
        for phase in _turns(Objective("bce", generator_steps=3, r1=1.0, penalty_every=4))
    }
    assert phases["discriminator"].every == 3
    assert phases["penalty"].every == 12


def test_too_few_images_to_measure_against_are_told_before_training():
    from tintype.data import DataSplits, open_data
    from tintype.tasks.generate.task import make

    splits = open_data("digits")
    few = DataSplits(
        splits.spec, splits.train, splits.val, splits.test.subset(torch.arange(4)), (), ()
    )
    cpu = torch.device("cpu")
    with pytest.raises(
        UserError, match="4 test images are too few to measure generated ones against"
    ):
        make(
            few,
            device=cpu,
            dtype=torch.float32,
            model="dcgan",
            model_options={},
            seed=0,
            augment="none",
        )


def test_a_dry_run_names_the_parameters_of_each_network(tt):
    code, output, _ = tt("train", "digits-gan", "--dry-run", "--json")
    assert code == 0
    planned = json.loads(output)
    assert set(planned["parameters_by_network"]) == {"generator", "discriminator"}
    assert planned["parameters"] == planned["parameters_by_network"]["generator"]


# ---- flow matching ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 28, 32])
def test_a_flow_starts_at_rest_and_makes_images_of_its_size(side):
    of = spec(3, side)
    network: Any = build_model("flow-unet", of, {"width": 8, "sampling_steps": 2}, seed=0)
    noise = torch.randn(3, 3, side, side)
    labels = torch.tensor([0, 4, 9])
    torch.testing.assert_close(network(noise, labels), noise)
    nn.init.normal_(network.last.weight, std=0.1)
    network.velocity(noise, torch.tensor([0.1, 0.5, 0.9]), labels).square().sum().backward()
    assert all(w.grad is not None and bool(w.grad.isfinite().all()) for w in network.parameters())


def test_a_flow_follows_its_velocity_by_the_midpoint_rule():
    """The velocity x at time t has the solution exp(1) after one unit of time; the error falls with
    the square.
    """

    from tintype.models.flow_unet import FlowUNet

    class Known(FlowUNet):
        no_class = None

        def __init__(self):
            nn.Module.__init__(self)

        def velocity(self, x, time, labels=None):
            return x * 2 * time[:, None, None, None]

    start, errors = torch.ones(1, 1, 2, 2, dtype=torch.float64), []
    for steps in (8, 16):
        known = Known()
        known.sampling_steps = steps
        errors.append(abs(float(known(start).mean()) - math.e))
    assert errors[0] < 0.04
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("guidance", [0, 0.5, 2])
def test_guidance_goes_from_the_velocity_of_any_class_towards_and_past_that_of_one(guidance):
    options = {"width": 8, "levels": 1, "sampling_steps": 1, "guidance": guidance}
    network: Any = build_model("flow-unet", spec(1, 8), options, seed=0)
    nn.init.normal_(network.last.weight, std=0.1)
    noise, labels, any_class = torch.randn(2, 1, 8, 8), torch.tensor([3, 7]), torch.tensor([10, 10])

    def velocity(x, time):
        times = torch.full((2,), time)
        towards, anywhere = (
            network.velocity(x, times, labels),
            network.velocity(x, times, any_class),
        )
        return guidance * towards + (1 - guidance) * anywhere

    torch.testing.assert_close(
        network(noise, labels), noise + velocity(noise + velocity(noise, 0.0) / 2, 0.5)
    )


@pytest.mark.parametrize(("guidance", "hidden"), [(1, 0.0), (1.5, 0.1)])
def test_guidance_needs_a_tenth_of_the_classes_hidden_in_training(
    tiny_gan, tmp_path, guidance, hidden, monkeypatch
):
    from tintype.models.flow_unet import FlowUNet

    seen, velocity = [], FlowUNet.velocity

    def watched(self, x, time, labels=None):
        if torch.is_grad_enabled():
            seen.append(labels)
        return velocity(self, x, time, labels)

    monkeypatch.setattr(FlowUNet, "velocity", watched)
    options = {"width": 4, "levels": 1, "sampling_steps": 1, "guidance": guidance}
    recipe = tiny_gan(
        model="flow-unet",
        model_options=options,
        steps=40,
        batch_size=64,
        optimizer="adamw",
        measure="none",
    )
    api.train(recipe, out=tmp_path, name="run", watcher=Watcher())
    labels = torch.cat(seen)
    assert len(labels) == 40 * 64
    assert float((labels == 10).float().mean()) == pytest.approx(hidden, abs=0.03)
    assert set(labels.tolist()) >= set(range(10))


def test_a_flow_trains_resumes_and_makes_the_class_that_is_asked_for(
    tiny_gan, train_in, finished_run, tmp_path, monkeypatch
):
    recipe = tiny_gan(
        model="flow-unet", model_options={"width": 8, "levels": 1, "sampling_steps": 3, "guidance": 1.5}, lr=0.003, steps=10,
        optimizer="adamw", evaluate_every=1, task_options={"num_samples": 100, "features": str(finished_run.path)},
    )  # fmt: skip
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    whole = train_in(tmp_path / "whole" / "run", recipe)
    with pytest.raises(Stop):
        train_in(tmp_path / "stopped" / "run", recipe, Stopper(5))
    train_in(tmp_path / "stopped" / "run", recipe)
    for file in ("model.safetensors", "metrics.csv"):
        assert (whole.path / file).read_bytes() == (
            tmp_path / "stopped" / "run" / file
        ).read_bytes(), file
    run = api.Run(whole.path)
    assert run.read("model.json")["loss"] == "flow"
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert run.generate(3, class_name="7").shape == (3, 8, 8, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 3}, "cannot be cut into 8x8 blocks"),
        ({"width": 7}, "expected an even number"),
        ({"guidance": -1}, "guidance is -1"),
        ({"guidance": "strong"}, "guidance is 'strong'. Expected a number"),
        ({"guidance": 2, "conditional": False}, "and 1 without classes"),
    ],
)
def test_a_flow_that_cannot_be_is_a_line(options, message):
    with pytest.raises(UserError, match=message):
        build_model("flow-unet", spec(1, 28), options, seed=0)
    with pytest.raises(UserError, match="unknown loss"):
        api.plan("digits-gan", model="flow-unet", watcher=Watcher(), task_options={"loss": "hinge"})


# ---- the report -------------------------------------------------------------------------------------------------------


def test_the_report_shows_sheets_lapse_and_losses(gan_run):
    page = (gan_run.path / "report.html").read_text(encoding="utf-8")
    shown = re.findall(r'<section id="([^"]+)"', page)
    order = [
        "result",
        "warnings",
        "memory",
        "classes",
        "lapse",
        "interpolation",
        "history",
        "learning",
        "making",
    ]
    assert shown == [section for section in order if section in shown]
    assert set(shown) >= {
        "result",
        "memory",
        "classes",
        "lapse",
        "interpolation",
        "history",
        "making",
    }
    assert page.count('<img src="data:image/png') >= 8
    assert (gan_run.path / "figures" / "generated-8x8.png").exists()

    result = page[page.index('<section id="result"') : page.index(f'<section id="{shown[1]}"')]
    places = [
        result.index(part)
        for part in ("<img", "64 generated images", 'class="word"', "Two sets of real images")
    ]
    assert places == sorted(places), (
        "the images, then the verdict, then the distance with what it means"
    )
    assert result.index("<details") < result.index("Kernel distance (KID)"), "folded away"
    assert not re.search(r"\de-\d\d<", result), "no figure is written with an exponent"
    assert 'type="range" aria-label="Training step"' in page


@pytest.mark.parametrize(
    ("nearness", "said"), [(1.05, "no copies."), (0.7, "70% as far"), (0.3, "copies.")]
)
def test_copies_are_told_by_the_distance_of_unseen_images(nearness, said):
    text = generate_sections._said_of_copies(
        {"median_generated": 30 * nearness, "median_test": 30.0}
    )
    assert said in text
    assert ("no copies" in text) == (nearness >= 0.5)


def test_the_verdict_has_a_plain_title(gan_run, tmp_path):
    folder = shutil.copytree(gan_run.path, tmp_path / "run")
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["verdict"] = {"word": "varies", "text": "varies: and so on."}
    evaluation["splits"]["test"]["diversity"] = 0.95
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    assert (
        generate_sections.headline(read_run(folder)).context["verdict"]["title"]
        == "As varied as real images, and no copies."
    )


def test_real_images_beside_generated_ones_are_of_the_same_classes(gan_run):
    (task, _), test = load_task(gan_run, "cpu"), open_data("digits").test
    like = task._like(test, range(64))
    assert test.targets[like].tolist() == [i % 10 for i in range(64)]
    assert len(set(like.tolist())) == 64


def test_the_report_of_an_unfinished_run_says_how_to_go_on(tiny_gan, train_in, tmp_path):
    with pytest.raises(Stop):
        train_in(tmp_path / "run", tiny_gan(), Stopper(6))
    page = api.Run(tmp_path / "run").report().read_text(encoding="utf-8")
    assert "This run has not been measured" in page
    assert "tintype train --resume" in page


# ---- the recipes ------------------------------------------------------------------------------------------------------

SHAPES = {
    "digits": (1, 8, 10),
    "mnist": (1, 28, 10),
    "fashion-mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
}
SHAPES |= {"cifar100": (3, 32, 100), "own-photos": (3, 64, 2)}
RECIPES_HERE = {
    name: recipe
    for name in recipe_names()
    if (recipe := read_recipe(RECIPES / f"{name}.yaml")).task == "generate"
}


def test_the_recipes_are_there():
    expected = {
        "digits-gan",
        "mnist-gan",
        "fashion-gan",
        "mnist-dcgan",
        "cifar100-dcgan",
        "cifar10-gan",
        "cifar100-gan",
    }
    assert expected | {"mnist-flow", "faces-gan"} == set(RECIPES_HERE)


@pytest.mark.parametrize("name", RECIPES_HERE)
def test_a_recipe_makes_images_of_its_data(name):
    recipe = RECIPES_HERE[name]
    of = spec(*SHAPES[recipe.data][:2], classes=SHAPES[recipe.data][2])
    networks: Any = build_model(recipe.model, of, recipe.model_options, seed=0)
    adversarial = isinstance(networks, nn.ModuleDict)
    known = {f.name for f in dataclasses.fields(Objective)}
    given = {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in recipe.task_options.items()
        if k in known
    }
    assert Objective(**given).checked(adversarial).loss in (*losses.ADVERSARIAL, "flow")
    generator = networks["generator"] if adversarial else networks
    labels = torch.zeros(2, dtype=torch.int64) if generator.conditional else None
    with torch.no_grad():
        images = generator.eval()(torch.randn(2, *generator.latent_shape), labels)
    assert images.shape == (2, of.channels, of.height, of.width)
    if name == "cifar100-dcgan":
        assert (recipe.steps, recipe.task_options["loss"]) == (50_000, "minimax")
        assert [count_parameters(network) for network in networks.values()] == [370_624, 167_808]
    if name == "mnist-gan":
        assert (recipe.lr, recipe.optimizer, recipe.task_options["loss"]) == (0.0002, "adam", "bce")
        assert count_parameters(networks["discriminator"]) == 533_505


@pytest.mark.slow
def test_digits_gan_makes_digits_that_a_classifier_recognises(finished_run, tmp_path):
    """A quarter of the recipe's steps: all ten digits, mostly the one asked for, and varied."""
    task = {**RECIPES_HERE["digits-gan"].task_options, "features": str(finished_run.path)}
    run = api.train(
        RECIPES_HERE["digits-gan"],
        steps=500,
        task_options=task,
        device="cpu",
        out=tmp_path,
        name="run",
        watcher=Watcher(),
    )
    figures = run.metrics["test"]
    assert figures["classes_present"] == 10
    assert figures["class_accuracy"] > 0.8
    assert figures["recall_digits"] > 0.1
    assert figures["fd_digits"] < 15 * figures["fd_digits_floor"]
    assert run.read("evaluation.json")["warnings"] == []
