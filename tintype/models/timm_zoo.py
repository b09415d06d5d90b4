"""Every model of timm, as `timm/NAME` (pip install 'tintype[timm]')."""

from __future__ import annotations

from typing import Any

from torch import nn

from tintype.data.source import DataSpec
from tintype.errors import UserError, unknown_name
from tintype.models.parts.backbone import expand_grey

NAMES = {"timm/NAME": "One of timm's more than 1,000 networks, such as timm/resnet50d."}


def build(spec: DataSpec, name: str, dropout: float | None = None) -> nn.Module:
    """Return timm's network with random weights and a head for the classes of `spec`.

    Grey images are expanded to three equal channels inside.

    Args:
        spec: shape and classes of the images.
        name: "timm/" and the name in timm, which may carry a tag of its weights
            ("timm/resnet50.a1_in1k").
        dropout: the dropout before the head.

    Raises:
        UserError: timm is not installed or has no such model.
        ValueError: the network cannot take the images, or dropout is out of range.
    """
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, expected 0 or more and below 1.")
    network = create(name, spec, drop_rate=dropout or 0.0)
    if not isinstance(network.get_classifier(), nn.Linear):  # pyright: ignore[reportCallIssue]
        raise ValueError("its head is not one linear layer. Try another model.")
    return expand_grey(network) if spec.channels == 1 else network


def create(name: str, spec: DataSpec, **options: Any) -> nn.Module:
    """Return timm's network for colour images of the size and number of classes that `spec` gives.

    Raises:
        UserError: timm is not installed or has no such model.
        ValueError: the network cannot take the images.
    """
    if default_config(name).fixed_input_size:  # vision transformers; the others find the size out
        options["img_size"] = (spec.height, spec.width)
    try:
        return import_timm().create_model(
            name.removeprefix("timm/"), num_classes=spec.num_classes, **options
        )
    except AssertionError as error:
        raise ValueError(f"images of {spec.height}x{spec.width} do not fit ({error}).") from error


def default_config(name: str) -> Any:
    """Return what timm says about a model's weights: URL, mean, deviation, size and crop.

    Raises:
        UserError: timm is not installed or has no such model.
    """
    timm = import_timm()
    bare = name.removeprefix("timm/")
    if not timm.is_model(bare.partition(".")[0]):
        error = str(unknown_name("model of timm", bare, timm.list_models()))
        raise UserError(error if "Did you mean" in error else f"timm has no model '{bare}'.")

    config = timm.get_pretrained_cfg(bare)
    if config is None:
        raise UserError(
            f"timm has no weights '{bare}'. Leave out what follows the dot for its default."
        )

    return config


def import_timm() -> Any:
    """Return timm.

    Raises:
        UserError: it is not installed.
    """
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "models named timm/... need timm, which is not installed. "
            "Type: pip install 'tintype[timm]'"
        ) from None
    return timm
