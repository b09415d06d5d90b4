"""Every backbone keeps the same contract: build, find the parts, freeze, step, save, load; figures
as torchvision says.
"""

from __future__ import annotations

import copy
import sys

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model, first_filter
from tintype.models.parts.backbone import (
    backbone_parts,
    for_inference,
    freeze,
    keep_norm_in_eval,
    make_head,
)
from tintype.models.parts.head import features_before, head_of
from tintype.models.torchvision_zoo import MULTIPLES, NAMES, SMALLEST, listing
from tintype.plugins import canonical, find, names

pytestmark = pytest.mark.usefixtures("short_pages")

# One or two of each family for every run of the tests, larger ones after the smaller; `make test-all`
# takes their relatives too, but for what needs gigabytes.
FAST = {
    "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1",
}  # fmt: skip
GIANTS = {"regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32"}
LARGER = {"resnet50", "vgg16", "convnext_tiny", "vit_b_16"}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in sorted(LARGER)]
REST = [
    pytest.param(name, marks=pytest.mark.exhaustive)
    for name in NAMES
    if name not in FAST | LARGER | GIANTS
]
OWN = [name for name in names("models", "classify") if name not in NAMES and "/" not in name]


def side_of(name: str) -> int:
    """Return a small side that the network takes, 32 at least."""
    for start, multiple in MULTIPLES.items():
        if name.startswith(start):
            return -(-32 // multiple) * multiple
    return max([32, *(least for start, least in SMALLEST.items() if name.startswith(start))])


def spec(side: int = 32, channels: int = 3, classes: int = 4) -> DataSpec:
    class_names = tuple(f"class {k}" for k in range(classes))
    return DataSpec(
        "made",
        channels,
        side,
        side,
        Classes(class_names),
        (0.5,) * channels,
        (0.25,) * channels,
        "",
    )


def images(of: DataSpec, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        count, of.channels, of.height, of.width, generator=torch.Generator().manual_seed(seed)
    )


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Compare relative to the largest value: networks with random weights answer in all magnitudes."""
    found, expected = found.detach(), expected.detach()
    assert float((found - expected).abs().max()) <= tolerance * max(
        float(expected.abs().max()), 1e-30
    )


# ---- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*sorted(FAST), *SLOW, *REST])
def test_a_backbone_is_built_frozen_trained_saved_and_loaded(name, tmp_path):
    of = spec(side_of(name))
    network, x = build_model(name, of, {}, seed=0), images(of)
    parts = backbone_parts(network, of)
    units = [unit for stage in parts.stages for unit in stage]
    grouped = [id(p) for group in parts.parameters() for p in group]
    assert len(units) == len(set(units))
    assert all(network.get_submodule(unit) is not None for unit in units)
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    assert all(parts.parameters()), "a stage has parameters"
    assert 4 <= len(parts.stages) <= 30

    network.eval()
    with torch.no_grad():
        features, logits = parts.features(x), network(x)
        assert features.shape == (2, parts.num_features)
        assert_same(parts.head(features), logits, 1e-5)
        assert_same(for_inference(network, of)(x), logits)

    freeze(network, parts, thawed=1)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    nn.functional.cross_entropy(network(x), torch.tensor([0, 1])).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    trained = (*parts.stages[-1], parts.head_name)
    changed = {
        key for key, value in network.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all(key.startswith(tuple(f"{unit}." for unit in trained)) for key in changed)
    assert any(key.startswith(parts.head_name) for key in changed)

    safetensors.torch.save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "model.safetensors"
    )
    again = build_model(name, of, {}, seed=1)
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    (tmp_path / "model.safetensors").unlink()  # some are large, and pytest keeps the folder
    with torch.no_grad():
        assert_same(again.eval()(x), network.eval()(x), 1e-5)


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "shufflenet_v2_x0_5", "regnet_y_400mf", "densenet121", "googlenet"]
)
def test_the_state_dict_is_torchvisions(name):
    network = build_model(name, spec(), {}, seed=0)
    more = (
        {"aux_logits": False, "init_weights": False, "transform_input": True}
        if name == "googlenet"
        else {}
    )
    theirs = torchvision.models.get_model(name, num_classes=4, **more)
    theirs.load_state_dict(network.state_dict())
    x = images(spec())
    with torch.no_grad():
        assert torch.equal(theirs.eval()(x), network.eval()(x))


def test_the_backbone_of_squeezenet_is_torchvisions_and_its_head_linear():
    network = build_model("squeezenet1_1", spec(), {}, seed=0).eval()
    theirs = torchvision.models.squeezenet1_1(num_classes=4).eval()
    state = network.state_dict()
    state["classifier.1.weight"] = state["classifier.1.weight"].view(4, 512, 1, 1)
    theirs.load_state_dict(state)
    x = images(spec())
    with torch.no_grad():
        maps = theirs.features(x)
        torch.testing.assert_close(backbone_parts(network, spec()).features(x), maps.mean((2, 3)))
        torch.testing.assert_close(
            network(x), theirs.classifier[1](maps).mean((2, 3)), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("resnet18", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v2", ["features.1", "features.3", "features.6", "features.13", "features.18"]),
        (
            "densenet121",
            [
                "features.relu0",
                "features.denseblock1",
                "features.denseblock2",
                "features.denseblock3",
                "features.norm5",
            ],
        ),
        ("googlenet", ["conv1", "conv3", "inception3b", "inception4e", "inception5b"]),
        ("shufflenet_v2_x0_5", ["maxpool", "stage2", "stage3", "conv5"]),
    ],
)
def test_stages_end_where_the_resolution_is_reduced(name, ends):
    assert [
        stage[-1] for stage in backbone_parts(build_model(name, spec(), {}, seed=0), spec()).stages
    ] == ends


def test_every_block_of_a_vision_transformer_is_a_stage():
    network = torchvision.models.VisionTransformer(32, 16, 3, 2, 16, 32, num_classes=4)
    parts = backbone_parts(network, spec())
    layers = [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
    assert [stage[0] for stage in parts.stages] == ["conv_proj", *layers]
    assert parts.head_name == "heads.head"
    loose = [network.class_token, network.encoder.pos_embedding]
    assert all(any(p is other for other in parts.parameters()[0]) for p in loose)


# ---- sizes, grey, options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "googlenet", "squeezenet1_1"])
def test_grey_images_are_three_equal_channels(name):
    colour, grey = (
        build_model(name, spec(), {}, seed=0).eval(),
        build_model(name, spec(channels=1), {}, seed=0).eval(),
    )
    x = images(spec(channels=1))
    assert torch.equal(grey(x), colour(x.expand(-1, 3, -1, -1)))
    assert torch.equal(copy.deepcopy(grey)(x), grey(x))
    assert_same(for_inference(grey, spec(channels=1))(x), grey(x))
    assert first_filter(grey, spec(channels=1)) == first_filter(colour, spec())


SIZED = [
    ("googlenet", 15),
    ("squeezenet1_0", 21),
    ("squeezenet1_1", 17),
    ("densenet121", 29),
    ("inception_v3", 75),
]
SIZED_SLOW = [("alexnet", 63), ("convnext_tiny", 32), ("vgg11", 32)]


@pytest.mark.parametrize(
    ("name", "least"), [*SIZED, *(pytest.param(*p, marks=pytest.mark.slow) for p in SIZED_SLOW)]
)
def test_the_smallest_size_is_the_smallest_that_works(name, least):
    network = build_model(name, spec(least), {}, seed=0).eval()
    assert network(images(spec(least))).shape == (2, 4)
    with pytest.raises((RuntimeError, ValueError)):
        network(images(spec(least - 1)))
    message = f"model {name}: images of {least - 1}x{least - 1} are too small, it needs at least {least}x{least}"
    with pytest.raises(UserError, match=f"{message}.*image_size={least}"):
        build_model(name, spec(least - 1), {}, seed=0)


@pytest.mark.parametrize(("name", "side", "fits"), [("vit_b_16", 100, 96), ("maxvit_t", 200, 224)])
def test_networks_for_one_size_say_which_would_do(name, side, fits):
    with pytest.raises(
        UserError, match=rf"of {side}x{side} do not fit.* image_size={fits} or another model"
    ):
        build_model(name, spec(side), {}, seed=0)


def test_dropout_is_an_option_where_the_network_has_it():
    network = build_model("mobilenet_v2", spec(), {"dropout": 0.5}, seed=0)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5]
    with pytest.raises(UserError, match="model resnet18: it has no dropout"):
        build_model("resnet18", spec(), {"dropout": 0.5}, seed=0)
    with pytest.raises(UserError, match=r"dropout is 1\.5, expected 0 or more and below 1"):
        build_model("mobilenet_v2", spec(), {"dropout": 1.5}, seed=0)
    with pytest.raises(
        UserError, match=r"unknown option of model resnet18.*Did you mean 'dropout'"
    ):
        build_model("resnet18", spec(), {"drop_out": 0.5}, seed=0)


# ---- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("resnet18", "resnet18"),
        ("ResNet18", "resnet18"),
        ("mobilenet-v2", "mobilenet_v2"),
        ("fast_cnn", "fast-cnn"),
        ("vit-b-16", "vit_b_16"),
        ("timm/ResNet50d.tag", "timm/ResNet50d.tag"),
    ],
)
def test_a_name_may_be_written_with_hyphens_or_capitals(written, name):
    assert canonical("models", written) == name


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("mobilenetv2", "'mobilenet_v2'"),
        ("resnet19", "'resnet18'"),
        ("timn/resnet18", "'resnet18'"),
        ("timm", "timm"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(wrong, near):
    with pytest.raises(UserError, match=f"unknown model '{wrong}'. Did you mean .*{near}"):
        find("models", wrong)


def test_the_listed_figures_are_torchvisions():
    current = listing()
    both = NAMES.keys() & current.keys()
    assert len(both) >= 80
    assert {name: NAMES[name] for name in both} == {name: current[name] for name in both}
    assert list(names("models"))[-len(NAMES) :] == list(NAMES), "the backbones come after our own"
    assert (
        NAMES["resnet18"] == "Reaches 69.8 % on ImageNet at 224 px; 11.7 M parameters, 1.8 G MACs."
    )


# ---- freezing ---------------------------------------------------------------------------------------------------------


def in_training(network: nn.Module) -> set[str]:
    return {
        name.split(".")[0] for name, module in network.named_modules() if name and module.training
    }


def trainable(network: nn.Module) -> set[str]:
    return {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}


def test_freezing_holds_through_train_and_copies_and_is_undone_by_thawing():
    network = build_model("resnet18", spec(), {}, seed=0)
    parts = backbone_parts(network, spec())
    freeze(network, parts, thawed=2)
    copied = copy.deepcopy(network)
    for some in (network, copied):
        some.eval()
        some.train()
        assert trainable(some) == {"layer3", "layer4", "fc"}
        assert in_training(some) == {"layer3", "layer4", "avgpool", "fc"}
    freeze(network, parts, thawed=0)
    assert trainable(network) == {"fc"}
    assert in_training(network.train()) == {"avgpool", "fc"}
    freeze(network, parts, thawed=100)
    assert trainable(network) == in_training(network) - {"relu", "maxpool", "avgpool"}
    assert len(trainable(network)) == 7
    assert in_training(copied) == {"layer3", "layer4", "avgpool", "fc"}, "a copy has its own state"
    with pytest.raises(ValueError, match="-1, expected 0 or more"):
        freeze(network, parts, thawed=-1)


def test_norms_stay_in_eval_where_wished_and_are_still_trained():
    network = build_model("mobilenet_v2", spec(), {}, seed=0)
    assert keep_norm_in_eval(network) == 52
    parts = backbone_parts(network, spec())
    for thawed in (0, 2, 5):
        freeze(network, parts, thawed)
        network.eval()
        network.train()
        assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(p.requires_grad for p in network.parameters())
    before = network.features[0][1].running_mean.clone()
    network(images(spec()))
    assert torch.equal(network.features[0][1].running_mean, before)


def test_dropout_before_the_head_works_while_all_is_frozen():
    network = build_model("mobilenet_v2", spec(), {"dropout": 0.5}, seed=0)
    freeze(network, backbone_parts(network, spec()), thawed=0)
    network.train()
    x = images(spec())
    assert not torch.equal(network(x), network(x))


def test_what_was_never_trained_stays_so():
    network = build_model("fast-cnn", spec(), {}, seed=0)
    fixed = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert "whitening.weight" in fixed
    for thawed in (0, 100):
        freeze(network, backbone_parts(network, spec()), thawed)
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == fixed


def test_another_head_is_found_by_the_same_parts():
    network = build_model("mobilenet_v2", spec(), {}, seed=0).eval()
    parts = backbone_parts(network, spec())
    network.set_submodule(parts.head_name, make_head(parts.num_features, 7, (16, 8), 0.1).eval())
    x = images(spec())
    with torch.no_grad():
        assert parts.features(x).shape == (2, 1280)
        torch.testing.assert_close(parts.head(parts.features(x)), network(x))
        assert features_before(network, head_of(network, spec()))(x).shape == (2, 8)
    assert sum(len(group) for group in parts.parameters()) == len(list(network.parameters()))


# ---- inference and features of any network ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_our_own_networks_have_features_and_a_copy_for_inference(name):
    network = build_model(name, spec(), {}, seed=0)
    network(images(spec(), 8))  # moves the statistics of batch norm
    network.eval()
    x = images(spec(), seed=1)
    with torch.no_grad():
        features, logits = backbone_parts(network, spec()).features(x), network(x)
        assert_same(for_inference(network, spec())(x), logits)
    head = backbone_parts(network, spec()).head
    scale = head.in_features if name == "fast-cnn" else 1
    torch.testing.assert_close(head(features) / scale, logits)


def test_the_copy_for_inference_has_no_weights_that_a_processor_is_slow_at():
    network = build_model("ann", spec(), {}, seed=0).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight[::2] = 1e-40
        fast, x = for_inference(network, spec()), images(spec())
        assert all((weight[::2] == 0).all() for weight in fast.parameters())
        assert all((weight[::2] == 1e-40).all() for weight in network.parameters())
        torch.testing.assert_close(fast(x), network(x), rtol=1e-6, atol=1e-30)


def test_folding_leaves_no_norm_and_no_gradient_and_not_the_network():
    network = build_model("resnet18", spec(), {}, seed=0)
    network(images(spec(), 8))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fast = for_inference(network, spec())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    assert not fast.training
    assert not any(p.requires_grad for p in fast.parameters())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    x = images(spec())
    features = (backbone_parts(each.eval(), spec()).features(x) for each in (fast, network))
    assert_same(*features)


def test_norms_are_folded_where_the_arithmetic_around_is_bfloat16():
    network = build_model("resnet18", spec(), {}, seed=0)
    network(images(spec(), 8))
    with torch.autocast("cpu", torch.bfloat16):
        fast = for_inference(network, spec())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())


class Forked(nn.Module):
    """A convolution whose answer is used twice, once out of sight of any module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.head((y * 0.5 + self.norm(y)).mean((2, 3)))


def test_where_folding_would_change_the_answer_it_is_left_out():
    network = Forked()
    network(images(spec(), 8))
    fast = for_inference(network, spec())
    assert isinstance(fast.norm, nn.BatchNorm2d)
    assert_same(fast(images(spec())), network.eval()(images(spec())))


def test_a_network_that_does_not_end_in_a_linear_layer_has_no_parts():
    squeezed = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3), nn.Unflatten(1, (3, 1, 1)))
    network = nn.Sequential(*squeezed, nn.Conv2d(3, 4, 1), nn.Flatten())
    with pytest.raises(ValueError, match="its head, 3, is a Conv2d"):
        backbone_parts(network, spec())


# ---- timm -------------------------------------------------------------------------------------------------------------


def test_without_timm_it_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"need timm, which is not installed. Type: pip install 'tintype\[timm\]'"
    ):
        build_model("timm/resnet18", spec(), {}, seed=0)


@pytest.mark.parametrize(
    "name", ["resnet18d", "vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto"]
)
def test_a_model_of_timm_keeps_the_contract(name):
    pytest.importorskip("timm")
    of = spec(64, channels=1)
    network, x = build_model(f"timm/{name}", of, {}, seed=0).eval(), images(of)
    parts = backbone_parts(network, of)
    assert len(parts.stages) >= 4
    with torch.no_grad():
        assert_same(parts.head(parts.features(x)), network(x), 1e-5)
        assert_same(for_inference(network, of)(x), network(x))


def test_unknown_models_of_timm_are_told():
    pytest.importorskip("timm")
    with pytest.raises(
        UserError, match=r"unknown model of timm 'resnet18x'\. Did you mean .*'resnet18'"
    ):
        build_model("timm/resnet18x", spec(), {}, seed=0)
    with pytest.raises(UserError, match="its head is not one linear layer"):
        build_model("timm/deit_tiny_distilled_patch16_224", spec(), {}, seed=0)
