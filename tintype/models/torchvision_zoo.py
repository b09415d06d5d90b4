"""Every classifier of torchvision, by its name there: backbones with ImageNet weights to start from.

The names and figures below are printed by `python -m tintype.models.torchvision_zoo`.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torchvision
from torch import nn

from tintype.data.source import DataSpec
from tintype.models.parts.backbone import expand_grey
from tintype.models.parts.layers import need_size

NAMES = {
    "alexnet": "ImageNet backbone: 56.5 % top-1 at 224 px, 61.1 M parameters, 0.71 G multiply-adds",
    "convnext_base": "ImageNet backbone: 84.1 % top-1 at 224 px, 88.6 M parameters, 15 G multiply-adds",
    "convnext_large": "ImageNet backbone: 84.4 % top-1 at 224 px, 197.8 M parameters, 34 G multiply-adds",
    "convnext_small": "ImageNet backbone: 83.6 % top-1 at 224 px, 50.2 M parameters, 8.7 G multiply-adds",
    "convnext_tiny": "ImageNet backbone: 82.5 % top-1 at 224 px, 28.6 M parameters, 4.5 G multiply-adds",
    "densenet121": "ImageNet backbone: 74.4 % top-1 at 224 px, 8.0 M parameters, 2.8 G multiply-adds",
    "densenet161": "ImageNet backbone: 77.1 % top-1 at 224 px, 28.7 M parameters, 7.7 G multiply-adds",
    "densenet169": "ImageNet backbone: 75.6 % top-1 at 224 px, 14.1 M parameters, 3.4 G multiply-adds",
    "densenet201": "ImageNet backbone: 76.9 % top-1 at 224 px, 20.0 M parameters, 4.3 G multiply-adds",
    "efficientnet_b0": "ImageNet backbone: 77.7 % top-1 at 224 px, 5.3 M parameters, 0.39 G multiply-adds",
    "efficientnet_b1": "ImageNet backbone: 79.8 % top-1 at 240 px, 7.8 M parameters, 0.69 G multiply-adds",
    "efficientnet_b2": "ImageNet backbone: 80.6 % top-1 at 288 px, 9.1 M parameters, 1.1 G multiply-adds",
    "efficientnet_b3": "ImageNet backbone: 82.0 % top-1 at 300 px, 12.2 M parameters, 1.8 G multiply-adds",
    "efficientnet_b4": "ImageNet backbone: 83.4 % top-1 at 380 px, 19.3 M parameters, 4.4 G multiply-adds",
    "efficientnet_b5": "ImageNet backbone: 83.4 % top-1 at 456 px, 30.4 M parameters, 10 G multiply-adds",
    "efficientnet_b6": "ImageNet backbone: 84.0 % top-1 at 528 px, 43.0 M parameters, 19 G multiply-adds",
    "efficientnet_b7": "ImageNet backbone: 84.1 % top-1 at 600 px, 66.3 M parameters, 38 G multiply-adds",
    "efficientnet_v2_l": "ImageNet backbone: 85.8 % top-1 at 480 px, 118.5 M parameters, 56 G multiply-adds",
    "efficientnet_v2_m": "ImageNet backbone: 85.1 % top-1 at 480 px, 54.1 M parameters, 25 G multiply-adds",
    "efficientnet_v2_s": "ImageNet backbone: 84.2 % top-1 at 384 px, 21.5 M parameters, 8.4 G multiply-adds",
    "googlenet": "ImageNet backbone: 69.8 % top-1 at 224 px, 6.6 M parameters, 1.5 G multiply-adds",
    "inception_v3": "ImageNet backbone: 77.3 % top-1 at 299 px, 27.2 M parameters, 5.7 G multiply-adds",
    "maxvit_t": "ImageNet backbone: 83.7 % top-1 at 224 px, 30.9 M parameters, 5.6 G multiply-adds",
    "mnasnet0_5": "ImageNet backbone: 67.7 % top-1 at 224 px, 2.2 M parameters, 0.10 G multiply-adds",
    "mnasnet0_75": "ImageNet backbone: 71.2 % top-1 at 224 px, 3.2 M parameters, 0.21 G multiply-adds",
    "mnasnet1_0": "ImageNet backbone: 73.5 % top-1 at 224 px, 4.4 M parameters, 0.31 G multiply-adds",
    "mnasnet1_3": "ImageNet backbone: 76.5 % top-1 at 224 px, 6.3 M parameters, 0.53 G multiply-adds",
    "mobilenet_v2": "ImageNet backbone: 72.2 % top-1 at 224 px, 3.5 M parameters, 0.30 G multiply-adds",
    "mobilenet_v3_large": "ImageNet backbone: 75.3 % top-1 at 224 px, 5.5 M parameters, 0.22 G multiply-adds",
    "mobilenet_v3_small": "ImageNet backbone: 67.7 % top-1 at 224 px, 2.5 M parameters, 0.06 G multiply-adds",
    "regnet_x_16gf": "ImageNet backbone: 82.7 % top-1 at 224 px, 54.3 M parameters, 16 G multiply-adds",
    "regnet_x_1_6gf": "ImageNet backbone: 79.7 % top-1 at 224 px, 9.2 M parameters, 1.6 G multiply-adds",
    "regnet_x_32gf": "ImageNet backbone: 83.0 % top-1 at 224 px, 107.8 M parameters, 32 G multiply-adds",
    "regnet_x_3_2gf": "ImageNet backbone: 81.2 % top-1 at 224 px, 15.3 M parameters, 3.2 G multiply-adds",
    "regnet_x_400mf": "ImageNet backbone: 74.9 % top-1 at 224 px, 5.5 M parameters, 0.41 G multiply-adds",
    "regnet_x_800mf": "ImageNet backbone: 77.5 % top-1 at 224 px, 7.3 M parameters, 0.80 G multiply-adds",
    "regnet_x_8gf": "ImageNet backbone: 81.7 % top-1 at 224 px, 39.6 M parameters, 8.0 G multiply-adds",
    "regnet_y_128gf": "ImageNet backbone: 88.2 % top-1 at 384 px, 644.8 M parameters, 375 G multiply-adds",
    "regnet_y_16gf": "ImageNet backbone: 82.9 % top-1 at 224 px, 83.6 M parameters, 16 G multiply-adds",
    "regnet_y_1_6gf": "ImageNet backbone: 80.9 % top-1 at 224 px, 11.2 M parameters, 1.6 G multiply-adds",
    "regnet_y_32gf": "ImageNet backbone: 83.4 % top-1 at 224 px, 145.0 M parameters, 32 G multiply-adds",
    "regnet_y_3_2gf": "ImageNet backbone: 82.0 % top-1 at 224 px, 19.4 M parameters, 3.2 G multiply-adds",
    "regnet_y_400mf": "ImageNet backbone: 75.8 % top-1 at 224 px, 4.3 M parameters, 0.40 G multiply-adds",
    "regnet_y_800mf": "ImageNet backbone: 78.8 % top-1 at 224 px, 6.4 M parameters, 0.83 G multiply-adds",
    "regnet_y_8gf": "ImageNet backbone: 82.8 % top-1 at 224 px, 39.4 M parameters, 8.5 G multiply-adds",
    "resnet101": "ImageNet backbone: 81.9 % top-1 at 224 px, 44.5 M parameters, 7.8 G multiply-adds",
    "resnet152": "ImageNet backbone: 82.3 % top-1 at 224 px, 60.2 M parameters, 12 G multiply-adds",
    "resnet18": "ImageNet backbone: 69.8 % top-1 at 224 px, 11.7 M parameters, 1.8 G multiply-adds",
    "resnet34": "ImageNet backbone: 73.3 % top-1 at 224 px, 21.8 M parameters, 3.7 G multiply-adds",
    "resnet50": "ImageNet backbone: 80.9 % top-1 at 224 px, 25.6 M parameters, 4.1 G multiply-adds",
    "resnext101_32x8d": "ImageNet backbone: 82.8 % top-1 at 224 px, 88.8 M parameters, 16 G multiply-adds",
    "resnext101_64x4d": "ImageNet backbone: 83.2 % top-1 at 224 px, 83.5 M parameters, 15 G multiply-adds",
    "resnext50_32x4d": "ImageNet backbone: 81.2 % top-1 at 224 px, 25.0 M parameters, 4.2 G multiply-adds",
    "shufflenet_v2_x0_5": "ImageNet backbone: 60.6 % top-1 at 224 px, 1.4 M parameters, 0.04 G multiply-adds",
    "shufflenet_v2_x1_0": "ImageNet backbone: 69.4 % top-1 at 224 px, 2.3 M parameters, 0.14 G multiply-adds",
    "shufflenet_v2_x1_5": "ImageNet backbone: 73.0 % top-1 at 224 px, 3.5 M parameters, 0.30 G multiply-adds",
    "shufflenet_v2_x2_0": "ImageNet backbone: 76.2 % top-1 at 224 px, 7.4 M parameters, 0.58 G multiply-adds",
    "squeezenet1_0": "ImageNet backbone: 58.1 % top-1 at 224 px, 1.2 M parameters, 0.82 G multiply-adds",
    "squeezenet1_1": "ImageNet backbone: 58.2 % top-1 at 224 px, 1.2 M parameters, 0.35 G multiply-adds",
    "swin_b": "ImageNet backbone: 83.6 % top-1 at 224 px, 87.8 M parameters, 15 G multiply-adds",
    "swin_s": "ImageNet backbone: 83.2 % top-1 at 224 px, 49.6 M parameters, 8.7 G multiply-adds",
    "swin_t": "ImageNet backbone: 81.5 % top-1 at 224 px, 28.3 M parameters, 4.5 G multiply-adds",
    "swin_v2_b": "ImageNet backbone: 84.1 % top-1 at 256 px, 87.9 M parameters, 20 G multiply-adds",
    "swin_v2_s": "ImageNet backbone: 83.7 % top-1 at 256 px, 49.7 M parameters, 12 G multiply-adds",
    "swin_v2_t": "ImageNet backbone: 82.1 % top-1 at 256 px, 28.4 M parameters, 5.9 G multiply-adds",
    "vgg11": "ImageNet backbone: 69.0 % top-1 at 224 px, 132.9 M parameters, 7.6 G multiply-adds",
    "vgg11_bn": "ImageNet backbone: 70.4 % top-1 at 224 px, 132.9 M parameters, 7.6 G multiply-adds",
    "vgg13": "ImageNet backbone: 69.9 % top-1 at 224 px, 133.0 M parameters, 11 G multiply-adds",
    "vgg13_bn": "ImageNet backbone: 71.6 % top-1 at 224 px, 133.1 M parameters, 11 G multiply-adds",
    "vgg16": "ImageNet backbone: 71.6 % top-1 at 224 px, 138.4 M parameters, 15 G multiply-adds",
    "vgg16_bn": "ImageNet backbone: 73.4 % top-1 at 224 px, 138.4 M parameters, 15 G multiply-adds",
    "vgg19": "ImageNet backbone: 72.4 % top-1 at 224 px, 143.7 M parameters, 20 G multiply-adds",
    "vgg19_bn": "ImageNet backbone: 74.2 % top-1 at 224 px, 143.7 M parameters, 20 G multiply-adds",
    "vit_b_16": "ImageNet backbone: 81.1 % top-1 at 224 px, 86.6 M parameters, 18 G multiply-adds",
    "vit_b_32": "ImageNet backbone: 75.9 % top-1 at 224 px, 88.2 M parameters, 4.4 G multiply-adds",
    "vit_h_14": "ImageNet backbone: 88.6 % top-1 at 518 px, 633.5 M parameters, 1017 G multiply-adds",
    "vit_l_16": "ImageNet backbone: 79.7 % top-1 at 224 px, 304.3 M parameters, 62 G multiply-adds",
    "vit_l_32": "ImageNet backbone: 77.0 % top-1 at 224 px, 306.5 M parameters, 15 G multiply-adds",
    "wide_resnet101_2": "ImageNet backbone: 82.5 % top-1 at 224 px, 126.9 M parameters, 23 G multiply-adds",
    "wide_resnet50_2": "ImageNet backbone: 81.6 % top-1 at 224 px, 68.9 M parameters, 11 G multiply-adds",
}

# The smallest side that the network can compute on; what is not here takes any. A contract test
# finds the same.
SMALLEST = {
    "alexnet": 63,
    "convnext": 32,
    "densenet": 29,
    "googlenet": 15,
    "inception": 75,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "swin": 4,
    "vgg": 32,
}

# Networks that are built for one size of square images: sides are multiples of this.
MULTIPLES = {
    "maxvit": 224,
    "vit_b_16": 16,
    "vit_b_32": 32,
    "vit_h_14": 14,
    "vit_l_16": 16,
    "vit_l_32": 32,
}


def build(spec: DataSpec, name: str, dropout: float | None = None) -> nn.Module:
    """Return torchvision's network with random weights and a head for the classes of `spec`.

    State-dict keys are torchvision's own. Grey images are expanded to three equal channels inside.
    GoogLeNet and Inception come without auxiliary heads, and change ImageNet's normalisation to
    their own inside (`transform_input=True`). The head of SqueezeNet is linear on the averaged
    maps, under torchvision's name `classifier.1`, where torchvision's is a 1x1 convolution and ReLU
    that are averaged: after a ReLU a fresh logit can die, and features of one vector for each image
    are what a head can be trained on alone. (Logistic regression on averaged, maximal and quadratic
    means of the maps: the same within a standard error on pets and TrashNet.)

    Args:
        spec: shape and classes of the images.
        name: the network's name in torchvision.
        dropout: instead of torchvision's own, in networks that have it.

    Raises:
        ValueError: images that the network cannot take, or dropout where it has none.
    """
    options = _size_options(spec, name)
    if dropout is not None:
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, expected 0 or more and below 1.")
        options["dropout"] = dropout

    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True, "transform_input": True}
    try:
        network = torchvision.models.get_model(
            name, weights=None, num_classes=spec.num_classes, **options
        )
    except TypeError as error:
        if "'dropout'" in str(error):
            raise ValueError("it has no dropout. Leave that option out.") from None
        raise

    if name.startswith("squeezenet"):
        network.classifier = _linear_head(spec.num_classes, network.get_submodule("classifier.0"))
    # torchvision's own demands a version number that plain tensors do not carry
    if name.startswith("mnasnet"):
        network._load_from_state_dict = MethodType(nn.Module._load_from_state_dict, network)  # pyright: ignore
    return expand_grey(network) if spec.channels == 1 else network


def _size_options(spec: DataSpec, name: str) -> dict[str, Any]:
    """Return the arguments that fix the size of the images, in networks that need them.

    Raises:
        ValueError: images that the network cannot take.
    """
    need_size(
        spec.height,
        spec.width,
        max([least for start, least in SMALLEST.items() if name.startswith(start)] or [1]),
    )
    for start, multiple in MULTIPLES.items():
        if not name.startswith(start):
            continue
        if spec.height != spec.width or spec.height % multiple:
            nearest = max(1, round(min(spec.height, spec.width) / multiple)) * multiple
            raise ValueError(
                f"images of {spec.height}x{spec.width} do not fit, it needs squares with a side that is a multiple of "
                f"{multiple}. Try --image-size {nearest} or another model."
            )
        return (
            {"input_size": (spec.height, spec.width)}
            if start == "maxvit"
            else {"image_size": spec.height}
        )

    return {}


def _linear_head(num_classes: int, dropout: nn.Module) -> nn.Sequential:
    linear = nn.Linear(512, num_classes)
    nn.init.normal_(linear.weight, std=0.01)  # as torchvision begins its own
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), dropout), linear)


def describe(name: str) -> str:
    """Return the line that `tintype list models` shows, from what torchvision says of its default
    weights.
    """
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    meta, size = weights.meta, weights.transforms().crop_size[0]
    accuracy, giga = meta["_metrics"]["ImageNet-1K"]["acc@1"], meta["_ops"]
    return (
        f"ImageNet backbone: {accuracy:.1f} % top-1 at {size} px, {meta['num_params'] / 1e6:.1f} M parameters, "
        f"{giga:.{2 if giga < 1 else 1 if giga < 10 else 0}f} G multiply-adds"
    )


def listing() -> dict[str, str]:
    """Return what NAMES should hold with the torchvision that is installed."""
    return {
        name: describe(name) for name in torchvision.models.list_models(module=torchvision.models)
    }


if __name__ == "__main__":
    print(
        "NAMES = {",
        *(f'    "{name}": "{line}",' for name, line in listing().items()),
        "}",
        sep="\n",
    )
