"""Every network keeps the same contract: any channels, sizes and classes that make sense, the
others refused clearly.
"""

from __future__ import annotations

import io

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model, count_multiply_adds, count_parameters, first_filter
from tintype.models.fast_cnn import FastCNN, Whitening
from tintype.models.parts.layers import ACTIVATIONS
from tintype.models.torchvision_zoo import NAMES as BACKBONES
from tintype.optim import build_optimizers
from tintype.plugins import names
from tintype.runs.packaged_weights import PACKAGES

# Backbones are held to a contract of their own, in test_backbones.py.
OWN = [
    name
    for name in names("models", "classify")
    if name not in (*BACKBONES, *PACKAGES) and "/" not in name
]


def spec(
    channels: int = 3, height: int = 32, width: int | None = None, classes: int = 10
) -> DataSpec:
    width = height if width is None else width
    class_names = tuple(f"class {k}" for k in range(classes))
    return DataSpec(
        "made",
        channels,
        height,
        width,
        Classes(class_names),
        (0.5,) * channels,
        (0.25,) * channels,
        "",
    )


def images(of: DataSpec, count: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, of.channels, of.height, of.width, generator=generator)


# ---- the contract -----------------------------------------------------------------------------------------------------

SIZES = [(8, 8), (28, 28), (32, 32), (33, 47), (47, 33)]


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OWN)
def test_logits_and_gradients(name, channels, size, classes):
    of = spec(channels, *size, classes)
    network = build_model(name, of, {}, seed=0)
    logits = network(images(of).to(memory_format=torch.channels_last))
    assert logits.shape == (3, classes)
    assert logits.dtype == torch.float32
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert trained
    for parameter_name, parameter in trained.items():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all()), parameter_name
    gradients = [p.grad for p in trained.values() if p.grad is not None]
    assert bool(gradients[0].any())
    assert bool(gradients[-1].any())


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 5), (4, 40), (40, 4)])
@pytest.mark.parametrize("name", OWN)
def test_small_images_work_or_are_refused_with_the_size_that_is_needed(name, size):
    of = spec(1, *size)
    message = ""
    try:
        network = build_model(name, of, {}, seed=0)
    except UserError as error:
        message = str(error)
        of = spec(1, int(message.split("image_size=")[1].split()[0]))
        network = build_model(name, of, {}, seed=0)
    assert not message or f"model {name}: images of {size[0]}x{size[1]} are too small" in message
    assert network.eval()(images(of)).shape == (3, 10)


@pytest.mark.parametrize("name", OWN)
def test_weights_follow_from_the_seed_alone(name):
    of = spec(1, 16)
    torch.manual_seed(123)
    state_before = torch.get_rng_state()
    first = build_model(name, of, {}, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state_before), (
        "building disturbs the random numbers outside"
    )
    torch.rand(7)
    same, other = (
        build_model(name, of, {}, seed=5).state_dict(),
        build_model(name, of, {}, seed=6).state_dict(),
    )
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", OWN)
def test_weights_travel_through_safetensors(name, tmp_path):
    of = spec(3, 16)
    network = build_model(name, of, {}, seed=1).to(memory_format=torch.channels_last)
    network(images(of, 8))  # moves the statistics of batch norm away from where they start
    saved = {key: value.contiguous() for key, value in network.state_dict().items()}
    safetensors.torch.save_file(saved, tmp_path / "model.safetensors")
    other = build_model(name, of, {}, seed=2)
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    x = images(of, 2, seed=9)
    torch.testing.assert_close(other.eval()(x), network.eval()(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, saved[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("name", OWN)
def test_memory_format_does_not_change_the_answer(name):
    of = spec(3, 32)
    network = build_model(name, of, {}, seed=0).eval()
    plain = network(images(of))
    torch.testing.assert_close(
        network.to(memory_format=torch.channels_last)(images(of).to(memory_format=torch.channels_last)),
        plain, rtol=1e-3, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_images_of_a_batch_do_not_see_each_other(name):
    of = spec(3, 32)
    network = build_model(name, of, {}, seed=0).eval()
    together, alone = network(images(of)), network(images(of)[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OWN)
def test_a_network_is_a_plain_module_in_training_mode(name):
    network = build_model(name, spec(), {}, seed=0)
    assert network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    assert buffer.tell() > 0


@pytest.mark.parametrize("name", OWN)
def test_unknown_options_are_told_with_the_nearest(name):
    with pytest.raises(UserError, match=f"unknown option of model {name}"):
        build_model(name, spec(), {"widthz": [3]}, seed=0)


# ---- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("annn", {}, "unknown model 'annn'. Did you mean 'ann'"),
        ("smallfilters", {}, "'small-filters'"),
        ("cnn", {"width": [8]}, "Did you mean 'widths'"),
        ("cnn", {"spec": 1}, "unknown option of model cnn: 'spec'"),
        ("ann", {"activation": "rellu"}, "unknown activation 'rellu', expected one of relu"),
        ("ann", {"hidden": [0]}, "hidden is \\[0\\]. Expected a list of whole numbers"),
        ("ann", {"hidden": 20}, "model ann: "),
        ("ann", {"dropout": 2}, "model ann: dropout"),
        ("resnet", {"depth": 21}, "depth must be 6n\\+2"),
        ("small-filters", {"residual": True, "widths": [2, 4]}, "widths that do not shrink"),
        ("cnn", {"widths": [8] * 6}, "too small, it needs at least 64x64"),
        ("cnn", {"widths": ["a"]}, "model cnn: "),
        ("cnn", {"widths": [-3]}, "model cnn: "),
        ("fast-cnn", {"widths": 3}, "model fast-cnn: "),
        ("fast-cnn", {"widths": []}, "model fast-cnn: "),
        ("small-filters", {"widths": []}, "model small-filters: "),
        ("resnet", {"depth": "deep"}, "depth is 'deep'. Expected a whole number"),
        ("fast-cnn", {"stem": 0}, "stem is 0. Expected a whole number"),
        ("small-filters", {"residual": "yes"}, "residual is 'yes'. Expected true or false"),
    ],
)
def test_a_mistake_is_a_line(name, options, message):
    with pytest.raises(UserError, match=message) as error:
        build_model(name, spec(), options, seed=0)
    assert "\n" not in str(error.value)


# ---- counts -----------------------------------------------------------------------------------------------------------


def test_small_filters_has_57332_parameters_for_cifar100():
    of = spec(3, 32, classes=100)
    assert count_parameters(build_model("small-filters", of, {}, seed=0)) == 57_332
    assert count_parameters(build_model("small-filters", of, {"residual": True}, seed=0)) == 57_332
    # A gate of c -> max(2, c // 4) -> c, with biases, for 8, 16 and 32 channels.
    gates = sum(c * i + i + i * c + c for c, i in [(8, 2), (16, 4), (32, 8)])
    assert (
        count_parameters(build_model("small-filters", of, {"attention": True}, seed=0))
        == 57_332 + gates
    )


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_small_filters_takes_every_activation(activation):
    of = spec(3, 32, classes=100)
    network = build_model(
        "small-filters", of, {"activation": activation, "residual": True, "attention": True}, seed=0
    )
    assert network(images(of)).shape == (3, 100)


def test_ann_3072_100_20_10():
    network = build_model("ann", spec(), {"hidden": [100, 20]}, seed=0)
    assert count_parameters(network) == (3072 * 100 + 100) + (100 * 20 + 20) + (20 * 10 + 10)
    assert count_multiply_adds(network, spec()) == 3072 * 100 + 100 * 20 + 20 * 10


def test_multiply_adds_of_the_three_block_network():
    options = {"widths": [64, 128, 256], "hidden": [], "dropout": 0}
    by_hand = (
        32 * 32 * 64 * 3 * 9 + 16 * 16 * 128 * 64 * 9 + 8 * 8 * 256 * 128 * 9 + 4 * 4 * 256 * 10
    )
    network = build_model("cnn", spec(), options, seed=0)
    assert count_multiply_adds(network, spec()) == by_hand
    assert network.training, "counting leaves the mode as it was"


def test_resnet20_has_the_size_of_the_paper():
    """He et al.

    2016, table 6: 0.27 million parameters, 41 million multiply-adds (the shortcuts of option A have
    none).
    """
    network = build_model("resnet", spec(), {"depth": 20}, seed=0)
    shortcuts = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert round((count_parameters(network) - shortcuts) / 1e6, 2) == 0.27
    assert round(count_multiply_adds(network, spec()) / 1e6) == 41


def test_the_first_filters_are_found_where_there_are_some():
    assert first_filter(build_model("ann", spec(), {}, seed=0), spec()) is None
    for name in OWN:
        network = build_model(name, spec(), {}, seed=0)
        filters = first_filter(network, spec())
        assert (filters is None) == (name == "ann")
        assert filters is None or network.state_dict()[filters].shape[1] == 3


# ---- whitening --------------------------------------------------------------------------------------------------------


def test_whitening_makes_patches_uncorrelated_with_variance_one():
    """On correlated images, the answers of all twelve filters have the unit matrix as covariance."""
    x = nn.functional.avg_pool2d(
        torch.randn(64, 3, 24, 24, generator=torch.Generator().manual_seed(0)), 3, 1
    )
    layer = Whitening(3, kernel=2, stride=1)
    layer.initialise_from(x, epsilon=0.0)
    answers = layer(x).detach().transpose(0, 1).flatten(1)[: layer.num_pairs]
    torch.testing.assert_close(
        answers @ answers.T / answers.shape[1], torch.eye(12), rtol=0, atol=2e-2
    )
    torch.testing.assert_close(layer.weight[:12], -layer.weight[12:])
    assert not layer.weight.requires_grad


def test_the_last_block_of_the_fast_cnn_may_pool_first():
    digits = spec(1, 8)
    usual = build_model("fast-cnn", digits, {"widths": [8, 16]}, seed=0)
    early = build_model("fast-cnn", digits, {"widths": [8, 16], "pool_first": True}, seed=0).eval()
    assert isinstance(early, FastCNN)
    early.load_state_dict(usual.state_dict())
    assert count_multiply_adds(early, digits) < count_multiply_adds(usual, digits)

    seen = early.blocks[0](F.gelu(early.whitening(images(digits))))
    convs = early.blocks.get_submodule("1.convs")
    norms = early.blocks.get_submodule("1.norms")
    first, second = convs.children()
    norm, last_norm = norms.children()
    x = F.gelu(norm(first(F.max_pool2d(seen, 2))))
    x = F.gelu(last_norm(second(x)))
    torch.testing.assert_close(early(images(digits)), early.head(x.amax((2, 3))) / 16)


def test_no_gradient_reaches_the_stem_of_the_fast_cnn_without_its_bias():
    digits = spec(1, 8)
    network = build_model("fast-cnn", digits, {"widths": [8, 16], "stem_bias": False}, seed=0)
    assert isinstance(network, FastCNN)
    seen: list[torch.Tensor] = []
    network.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(images(digits)).sum().backward()
    assert not seen[0].requires_grad
    assert network.whitening.bias.grad is None
    assert network.blocks.get_parameter("0.convs.0.weight").grad is not None


def test_faster_biases_of_the_fast_cnn_move_farther_in_a_step_and_nothing_else_does():
    digits = spec(1, 8)
    moved: list[dict[str, torch.Tensor]] = []
    for bias_lr in (1, 16):
        network = build_model("fast-cnn", digits, {"widths": [8, 16], "bias_lr": bias_lr}, seed=0)
        before = {name: weight.clone() for name, weight in network.state_dict().items()}
        optimizers = build_optimizers(network, "muon", lr=0.01, momentum=0.6)

        F.cross_entropy(network(images(digits)), torch.tensor([0, 1, 2])).backward()
        for optimizer in optimizers:
            optimizer.step()
        moved.append({name: w.detach() - before[name] for name, w in network.named_parameters()})

    usual, faster = moved
    for name, step in usual.items():
        factor = 16 if "norms" in name and name.endswith("bias") else 1
        torch.testing.assert_close(faster[name], factor * step, msg=name)
    assert any(step.abs().sum() > 0 for name, step in usual.items() if "norms" in name)

    with pytest.raises(UserError, match="bias_lr must be above 0"):
        build_model("fast-cnn", digits, {"bias_lr": 0}, seed=0)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), True, "fast", [1, 2]])
def test_an_option_that_is_a_number_takes_nothing_else(value):
    with pytest.raises(UserError, match=r"model fast-cnn: bias_lr is .*\. Expected a number\."):
        build_model("fast-cnn", spec(1, 8), {"bias_lr": value}, seed=0)
