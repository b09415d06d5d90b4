"""Whether the weights of a run load into the plain network of torchvision or timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tintype.runs.folder import RunFolder
from tintype.tasks.contract.card import Plain


def plain_architecture(run: RunFolder, model: Mapping[str, Any]) -> Plain | None:
    """Return the library whose own network takes the weights of a classifier as they are, or None.

    The network is built without weights on the meta device, and names and shapes of its state dict
    are compared with those in the file. SqueezeNet's head differs from torchvision's (see
    tintype.models.torchvision_zoo), as does a head of several layers; those are not plain.
    """
    if model["preprocessing"]["channels"] != 3:
        return None
    name, count = str(model["architecture"]["name"]), len(model["class_names"])
    size = int(model["preprocessing"]["height"])

    if name.startswith("timm/"):
        library, bare = "timm", name.removeprefix("timm/")
        build = f'timm.create_model("{bare}", num_classes={count})'
    else:
        library, bare = "torchvision", name
        build = f'torchvision.models.get_model("{bare}", num_classes={count})'

    expected = _shapes(library, bare, count)
    if expected is None or expected != _shapes_in(run):
        return None

    lines = [
        f"import {library}", "from safetensors.torch import load_file", "", f"network = {build}",
        'network.load_state_dict(load_file("model.safetensors"))', "network.eval()",
        f"# pictures: RGB, {size} pixels, (x / 255 - mean) / std with the values in "
        "preprocessor_config.json",
    ]  # fmt: skip
    return Plain(library, bare, "\n".join(lines))


def _shapes(library: str, name: str, count: int) -> dict[str, tuple[int, ...]] | None:
    try:
        with torch.device("meta"):
            if library == "timm":
                import timm

                network = timm.create_model(name, num_classes=count)
            else:
                from tintype.hardware.vision import torchvision

                options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
                network = torchvision.models.get_model(
                    name, weights=None, num_classes=count, **options
                )
    except Exception:  # not theirs, or the library is not there: then it is no plain network
        return None
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _shapes_in(run: RunFolder) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    with safe_open(run.path / "model.safetensors", "pt") as file:
        names = list(file.keys())
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}
