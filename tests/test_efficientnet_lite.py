"""EfficientNet-Lite against timm's, with timm's weights under timm's names."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F

from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.models import build_model, count_multiply_adds, count_parameters
from tintype.models.efficientnet_lite import EfficientNetLite, SameConv2d, Size
from tintype.models.parts.backbone import backbone_parts, for_inference
from tintype.models.parts.programs import quiet
from tintype.models.parts.resample import AtScale
from tintype.runs.onnx_writing import to_onnx


def spec(channels: int = 3, side: int = 64, num_classes: int = 1000) -> DataSpec:
    names = tuple(map(str, range(num_classes)))
    level = (0.5,) * channels
    return DataSpec("photos", channels, side, side, Classes(names), level, level, "")


@pytest.mark.parametrize(("name", "side"), [("efficientnet_lite0", 63), ("efficientnet_lite2", 64)])
def test_it_computes_what_timm_does(name, side):
    theirs = timm.create_model(f"tf_{name}").eval()
    ours = build_model(name, spec(side=side), {}, seed=0).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())

    torch.manual_seed(1)
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [("efficientnet_lite0", 4.7, 0.38), ("efficientnet_lite2", 6.1, 0.60)],
)
def test_the_listed_costs_are_those_of_the_network(name, millions, giga):
    side = 224
    network = build_model(name, spec(side=side), {}, seed=0)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.05)
    assert count_multiply_adds(network, spec(side=side)) / 1e9 == pytest.approx(giga, rel=0.06)


def test_grey_images_and_dropout():
    network = build_model("efficientnet_lite0", spec(channels=1), {"dropout": 0.5}, seed=0).eval()
    assert network.dropout.p == 0.5
    with torch.no_grad():
        assert network(torch.randn(1, 1, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(("side", "kernel"), [(7, 3), (8, 3), (9, 5), (10, 5), (224, 3)])
def test_padding_is_that_of_tensorflow(side, kernel):
    layer = SameConv2d(1, 1, kernel, stride=2)
    assert layer(torch.zeros(1, 1, side, side)).shape[2:] == (-(-side // 2),) * 2


@pytest.mark.parametrize(
    ("side", "options", "says"),
    [
        (16, {}, "at least 32x32 pixels"),
        (64, {"dropout": 1.0}, "expected 0 or more and below 1"),
        (64, {"stages": 6}, "stages is 6, expected 1 to 5"),
        (64, {"stages": 0}, "Expected a whole number of at least 1"),
        (64, {"scales": [16, 64]}, "expected sides of 32 pixels or more"),
        (64, {"scales": 64}, "Expected a list of whole numbers"),
    ],
)
def test_what_it_cannot_take_is_said(side, options, says):
    from tintype.errors import UserError

    with pytest.raises(UserError, match=says):
        build_model("efficientnet_lite0", spec(side=side), options, seed=0)


@pytest.fixture(scope="module")
def two_looks():
    """A network that pools two stages at two scales, and timm's with the same weights."""
    options = {"stages": 2, "scales": [64, 96]}
    ours = build_model("efficientnet_lite0", spec(side=96, num_classes=7), options, seed=0).eval()
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    backbone = {k: v for k, v in ours.state_dict().items() if not k.startswith("classifier.")}
    theirs.load_state_dict(backbone)
    return ours, theirs


def test_two_stages_at_two_scales_are_pooled_side_by_side(two_looks):
    ours, theirs = two_looks
    images = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    small = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)

    pooled = []
    with torch.no_grad():
        for look in (small, images):
            stages = theirs.forward_intermediates(look, indices=[3], intermediates_only=True)
            pooled += [stages[0].mean((2, 3)), theirs(look)]
        expected = torch.cat(pooled, 1)
        features = backbone_parts(ours, spec(side=96, num_classes=7)).features(images)
        logits = ours(images)

    assert features.shape == (3, 2 * (112 + 1280))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, ours.classifier(expected), rtol=1e-5, atol=1e-5)


def test_the_last_maps_are_pooled_by_their_root_mean_square_where_that_is_asked(two_looks):
    _, theirs = two_looks
    options = {"stages": 2, "pooling": "rms"}
    ours = build_model("efficientnet_lite0", spec(side=96, num_classes=7), options, seed=0).eval()
    known = ours.state_dict() | theirs.state_dict()
    ours.load_state_dict(known)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps = theirs.forward_features(images)
        features = backbone_parts(ours, spec(side=96, num_classes=7)).features(images)
    expected = maps.square().mean((2, 3)).sqrt()
    torch.testing.assert_close(features[:, 112:], expected, rtol=1e-5, atol=1e-5)


def test_what_lies_between_the_ends_of_stages_is_pooled_where_that_is_asked(two_looks):
    _, theirs = two_looks
    options = {"stages": 2, "each_block": True}
    ours = build_model("efficientnet_lite0", spec(side=96, num_classes=7), options, seed=0).eval()
    ours.load_state_dict(ours.state_dict() | theirs.state_dict())
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(3))

    with torch.no_grad():
        maps = theirs.bn1(theirs.conv_stem(images))
        pooled = []
        for block in theirs.blocks:
            maps = block(maps)
            pooled.append(maps.mean((2, 3)))
        expected = torch.cat([*pooled[4:], theirs(images)], 1)
        features = backbone_parts(ours, spec(side=96, num_classes=7)).features(images)

    assert features.shape == (2, 112 + 192 + 320 + 1280)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_norms_are_folded_where_a_network_looks_twice(two_looks):
    folded = for_inference(two_looks[0], spec(side=96, num_classes=7))
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_what_is_pooled_decides_on_the_digest_of_the_features():
    choices = [
        {},
        {"scales": [64]},
        {"scales": [64, 96]},
        {"stages": 2},
        {"stages": 3},
        {"stages": 2, "each_block": True},
        {"pooling": "rms"},
    ]
    networks = [build_model("efficientnet_lite0", spec(side=96), some, seed=0) for some in choices]
    digests = {backbone_parts(network, spec(side=96)).digest() for network in networks}
    assert len(digests) == len(choices)


@pytest.mark.parametrize(
    "format", ["torchscript", "pt2", pytest.param("onnx", marks=pytest.mark.exhaustive)]
)
def test_an_exported_network_looks_twice_as_well(format):
    shallow = Size(width=0.25, depth=0.2, dropout=0.0)
    looks = [AtScale(48, 64, scale) for scale in (32, 48)]
    network = EfficientNetLite(7, shallow, (4,), looks).eval()
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        expected = network(images)
    answer = EXPORTED[format](network, images[:1].repeat(3, 1, 1, 1))
    torch.testing.assert_close(answer(images), expected, rtol=1e-4, atol=1e-4)


def as_onnx(network: torch.nn.Module, images: torch.Tensor) -> Callable:
    model = to_onnx(network, {"images": images}, "logits", {"images": {0: "batch"}})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def as_torchscript(network: torch.nn.Module, images: torch.Tensor) -> Callable:
    with quiet():
        return torch.jit.trace(network, images)


def as_program(network: torch.nn.Module, images: torch.Tensor) -> Callable:
    free = ({0: torch.export.Dim.DYNAMIC},)
    return torch.export.export(network, (images,), dynamic_shapes=free).module()


EXPORTED = {"onnx": as_onnx, "torchscript": as_torchscript, "pt2": as_program}
