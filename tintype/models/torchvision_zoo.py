"""Every classifier of torchvision under its name there: backbones with weights from ImageNet.

`python -m tintype.models.torchvision_zoo` prints the names and figures below. A MAC is one multiply
and one add. torchvision is imported when one of its networks is built, since that takes as long as
importing torch itself.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import nn

from tintype.data.source import DataSpec
from tintype.models.parts.backbone import expand_grey
from tintype.models.parts.layers import need_size

NAMES = {
    "alexnet": "Reaches 56.5 % on ImageNet at 224 px; 61.1 M parameters, 0.71 G MACs.",
    "convnext_base": "Reaches 84.1 % on ImageNet at 224 px; 88.6 M parameters, 15 G MACs.",
    "convnext_large": "Reaches 84.4 % on ImageNet at 224 px; 197.8 M parameters, 34 G MACs.",
    "convnext_small": "Reaches 83.6 % on ImageNet at 224 px; 50.2 M parameters, 8.7 G MACs.",
    "convnext_tiny": "Reaches 82.5 % on ImageNet at 224 px; 28.6 M parameters, 4.5 G MACs.",
    "densenet121": "Reaches 74.4 % on ImageNet at 224 px; 8.0 M parameters, 2.8 G MACs.",
    "densenet161": "Reaches 77.1 % on ImageNet at 224 px; 28.7 M parameters, 7.7 G MACs.",
    "densenet169": "Reaches 75.6 % on ImageNet at 224 px; 14.1 M parameters, 3.4 G MACs.",
    "densenet201": "Reaches 76.9 % on ImageNet at 224 px; 20.0 M parameters, 4.3 G MACs.",
    "efficientnet_b0": "Reaches 77.7 % on ImageNet at 224 px; 5.3 M parameters, 0.39 G MACs.",
    "efficientnet_b1": "Reaches 79.8 % on ImageNet at 240 px; 7.8 M parameters, 0.69 G MACs.",
    "efficientnet_b2": "Reaches 80.6 % on ImageNet at 288 px; 9.1 M parameters, 1.1 G MACs.",
    "efficientnet_b3": "Reaches 82.0 % on ImageNet at 300 px; 12.2 M parameters, 1.8 G MACs.",
    "efficientnet_b4": "Reaches 83.4 % on ImageNet at 380 px; 19.3 M parameters, 4.4 G MACs.",
    "efficientnet_b5": "Reaches 83.4 % on ImageNet at 456 px; 30.4 M parameters, 10 G MACs.",
    "efficientnet_b6": "Reaches 84.0 % on ImageNet at 528 px; 43.0 M parameters, 19 G MACs.",
    "efficientnet_b7": "Reaches 84.1 % on ImageNet at 600 px; 66.3 M parameters, 38 G MACs.",
    "efficientnet_v2_l": "Reaches 85.8 % on ImageNet at 480 px; 118.5 M parameters, 56 G MACs.",
    "efficientnet_v2_m": "Reaches 85.1 % on ImageNet at 480 px; 54.1 M parameters, 25 G MACs.",
    "efficientnet_v2_s": "Reaches 84.2 % on ImageNet at 384 px; 21.5 M parameters, 8.4 G MACs.",
    "googlenet": "Reaches 69.8 % on ImageNet at 224 px; 6.6 M parameters, 1.5 G MACs.",
    "inception_v3": "Reaches 77.3 % on ImageNet at 299 px; 27.2 M parameters, 5.7 G MACs.",
    "maxvit_t": "Reaches 83.7 % on ImageNet at 224 px; 30.9 M parameters, 5.6 G MACs.",
    "mnasnet0_5": "Reaches 67.7 % on ImageNet at 224 px; 2.2 M parameters, 0.10 G MACs.",
    "mnasnet0_75": "Reaches 71.2 % on ImageNet at 224 px; 3.2 M parameters, 0.21 G MACs.",
    "mnasnet1_0": "Reaches 73.5 % on ImageNet at 224 px; 4.4 M parameters, 0.31 G MACs.",
    "mnasnet1_3": "Reaches 76.5 % on ImageNet at 224 px; 6.3 M parameters, 0.53 G MACs.",
    "mobilenet_v2": "Reaches 72.2 % on ImageNet at 224 px; 3.5 M parameters, 0.30 G MACs.",
    "mobilenet_v3_large": "Reaches 75.3 % on ImageNet at 224 px; 5.5 M parameters, 0.22 G MACs.",
    "mobilenet_v3_small": "Reaches 67.7 % on ImageNet at 224 px; 2.5 M parameters, 0.06 G MACs.",
    "regnet_x_16gf": "Reaches 82.7 % on ImageNet at 224 px; 54.3 M parameters, 16 G MACs.",
    "regnet_x_1_6gf": "Reaches 79.7 % on ImageNet at 224 px; 9.2 M parameters, 1.6 G MACs.",
    "regnet_x_32gf": "Reaches 83.0 % on ImageNet at 224 px; 107.8 M parameters, 32 G MACs.",
    "regnet_x_3_2gf": "Reaches 81.2 % on ImageNet at 224 px; 15.3 M parameters, 3.2 G MACs.",
    "regnet_x_400mf": "Reaches 74.9 % on ImageNet at 224 px; 5.5 M parameters, 0.41 G MACs.",
    "regnet_x_800mf": "Reaches 77.5 % on ImageNet at 224 px; 7.3 M parameters, 0.80 G MACs.",
    "regnet_x_8gf": "Reaches 81.7 % on ImageNet at 224 px; 39.6 M parameters, 8.0 G MACs.",
    "regnet_y_128gf": "Reaches 88.2 % on ImageNet at 384 px; 644.8 M parameters, 375 G MACs.",
    "regnet_y_16gf": "Reaches 82.9 % on ImageNet at 224 px; 83.6 M parameters, 16 G MACs.",
    "regnet_y_1_6gf": "Reaches 80.9 % on ImageNet at 224 px; 11.2 M parameters, 1.6 G MACs.",
    "regnet_y_32gf": "Reaches 83.4 % on ImageNet at 224 px; 145.0 M parameters, 32 G MACs.",
    "regnet_y_3_2gf": "Reaches 82.0 % on ImageNet at 224 px; 19.4 M parameters, 3.2 G MACs.",
    "regnet_y_400mf": "Reaches 75.8 % on ImageNet at 224 px; 4.3 M parameters, 0.40 G MACs.",
    "regnet_y_800mf": "Reaches 78.8 % on ImageNet at 224 px; 6.4 M parameters, 0.83 G MACs.",
    "regnet_y_8gf": "Reaches 82.8 % on ImageNet at 224 px; 39.4 M parameters, 8.5 G MACs.",
    "resnet101": "Reaches 81.9 % on ImageNet at 224 px; 44.5 M parameters, 7.8 G MACs.",
    "resnet152": "Reaches 82.3 % on ImageNet at 224 px; 60.2 M parameters, 12 G MACs.",
    "resnet18": "Reaches 69.8 % on ImageNet at 224 px; 11.7 M parameters, 1.8 G MACs.",
    "resnet34": "Reaches 73.3 % on ImageNet at 224 px; 21.8 M parameters, 3.7 G MACs.",
    "resnet50": "Reaches 80.9 % on ImageNet at 224 px; 25.6 M parameters, 4.1 G MACs.",
    "resnext101_32x8d": "Reaches 82.8 % on ImageNet at 224 px; 88.8 M parameters, 16 G MACs.",
    "resnext101_64x4d": "Reaches 83.2 % on ImageNet at 224 px; 83.5 M parameters, 15 G MACs.",
    "resnext50_32x4d": "Reaches 81.2 % on ImageNet at 224 px; 25.0 M parameters, 4.2 G MACs.",
    "shufflenet_v2_x0_5": "Reaches 60.6 % on ImageNet at 224 px; 1.4 M parameters, 0.04 G MACs.",
    "shufflenet_v2_x1_0": "Reaches 69.4 % on ImageNet at 224 px; 2.3 M parameters, 0.14 G MACs.",
    "shufflenet_v2_x1_5": "Reaches 73.0 % on ImageNet at 224 px; 3.5 M parameters, 0.30 G MACs.",
    "shufflenet_v2_x2_0": "Reaches 76.2 % on ImageNet at 224 px; 7.4 M parameters, 0.58 G MACs.",
    "squeezenet1_0": "Reaches 58.1 % on ImageNet at 224 px; 1.2 M parameters, 0.82 G MACs.",
    "squeezenet1_1": "Reaches 58.2 % on ImageNet at 224 px; 1.2 M parameters, 0.35 G MACs.",
    "swin_b": "Reaches 83.6 % on ImageNet at 224 px; 87.8 M parameters, 15 G MACs.",
    "swin_s": "Reaches 83.2 % on ImageNet at 224 px; 49.6 M parameters, 8.7 G MACs.",
    "swin_t": "Reaches 81.5 % on ImageNet at 224 px; 28.3 M parameters, 4.5 G MACs.",
    "swin_v2_b": "Reaches 84.1 % on ImageNet at 256 px; 87.9 M parameters, 20 G MACs.",
    "swin_v2_s": "Reaches 83.7 % on ImageNet at 256 px; 49.7 M parameters, 12 G MACs.",
    "swin_v2_t": "Reaches 82.1 % on ImageNet at 256 px; 28.4 M parameters, 5.9 G MACs.",
    "vgg11": "Reaches 69.0 % on ImageNet at 224 px; 132.9 M parameters, 7.6 G MACs.",
    "vgg11_bn": "Reaches 70.4 % on ImageNet at 224 px; 132.9 M parameters, 7.6 G MACs.",
    "vgg13": "Reaches 69.9 % on ImageNet at 224 px; 133.0 M parameters, 11 G MACs.",
    "vgg13_bn": "Reaches 71.6 % on ImageNet at 224 px; 133.1 M parameters, 11 G MACs.",
    "vgg16": "Reaches 71.6 % on ImageNet at 224 px; 138.4 M parameters, 15 G MACs.",
    "vgg16_bn": "Reaches 73.4 % on ImageNet at 224 px; 138.4 M parameters, 15 G MACs.",
    "vgg19": "Reaches 72.4 % on ImageNet at 224 px; 143.7 M parameters, 20 G MACs.",
    "vgg19_bn": "Reaches 74.2 % on ImageNet at 224 px; 143.7 M parameters, 20 G MACs.",
    "vit_b_16": "Reaches 81.1 % on ImageNet at 224 px; 86.6 M parameters, 18 G MACs.",
    "vit_b_32": "Reaches 75.9 % on ImageNet at 224 px; 88.2 M parameters, 4.4 G MACs.",
    "vit_h_14": "Reaches 88.6 % on ImageNet at 518 px; 633.5 M parameters, 1017 G MACs.",
    "vit_l_16": "Reaches 79.7 % on ImageNet at 224 px; 304.3 M parameters, 62 G MACs.",
    "vit_l_32": "Reaches 77.0 % on ImageNet at 224 px; 306.5 M parameters, 15 G MACs.",
    "wide_resnet101_2": "Reaches 82.5 % on ImageNet at 224 px; 126.9 M parameters, 23 G MACs.",
    "wide_resnet50_2": "Reaches 81.6 % on ImageNet at 224 px; 68.9 M parameters, 11 G MACs.",
}

# The smallest side that a network can take; those that are missing take any. A contract test finds
# the same.
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

# Networks that are built for one size of square images, whose side is a multiple of this.
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
    their own inside (`transform_input=True`).

    The head of SqueezeNet is a linear layer on the averaged maps, under torchvision's name
    `classifier.1`. Torchvision averages after a 1x1 convolution and ReLU, where a fresh logit can
    die, and where there is no vector for each image that a head could be trained on. (Logistic
    regression on averaged, maximal and quadratic means of the maps gives the same within a standard
    error on pets and TrashNet.)

    Args:
        spec: shape and classes of the images.
        name: the network's name in torchvision.
        dropout: replaces torchvision's own in networks that have it.

    Raises:
        ValueError: the network cannot take the images, or has no dropout.
    """
    from tintype.hardware.vision import torchvision

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
        dropout_layer = network.get_submodule("classifier.0")
        network.classifier = _linear_head(spec.num_classes, dropout_layer)
    # torchvision's own demands a version number that plain tensors do not carry
    if name.startswith("mnasnet"):
        load = nn.Module._load_from_state_dict
        network._load_from_state_dict = MethodType(load, network)  # pyright: ignore
    return expand_grey(network) if spec.channels == 1 else network


def _size_options(spec: DataSpec, name: str) -> dict[str, Any]:
    """Return the arguments that fix the size of the images in networks that need it.

    Raises:
        ValueError: the network cannot take the images.
    """
    smallest = [least for start, least in SMALLEST.items() if name.startswith(start)]
    need_size(spec.height, spec.width, max(smallest, default=1))

    for start, multiple in MULTIPLES.items():
        if not name.startswith(start):
            continue
        if spec.height != spec.width or spec.height % multiple:
            nearest = max(1, round(min(spec.height, spec.width) / multiple)) * multiple
            raise ValueError(
                f"images of {spec.height}x{spec.width} do not fit, since it needs squares "
                f"whose side is a multiple of {multiple}. "
                f"Try --image-size {nearest} or another model."
            )
        if start == "maxvit":
            return {"input_size": (spec.height, spec.width)}
        return {"image_size": spec.height}

    return {}


def _linear_head(num_classes: int, dropout: nn.Module) -> nn.Sequential:
    linear = nn.Linear(512, num_classes)
    nn.init.normal_(linear.weight, std=0.01)  # as torchvision does for its own
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), dropout), linear)


def describe(name: str) -> str:
    """Return the line of `tintype list models`, by what torchvision says of the weights."""
    from tintype.hardware.vision import torchvision

    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    size = weights.transforms().crop_size[0]
    accuracy = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    millions = weights.meta["num_params"] / 1e6

    giga = weights.meta["_ops"]
    digits = sum(giga < bound for bound in (1, 10))
    return (
        f"Reaches {accuracy:.1f} % on ImageNet at {size} px; "
        f"{millions:.1f} M parameters, {giga:.{digits}f} G MACs."
    )


def listing() -> dict[str, str]:
    """Return what NAMES should hold with the torchvision that is installed."""
    from tintype.hardware.vision import torchvision

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
