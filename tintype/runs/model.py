"""A trained model on disk: model.safetensors and model.json.

The first holds plain state-dict keys, the second architecture, classes and preprocessing. Loading
reads data only; no code comes out of these files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tintype.data.decode import Resize
from tintype.data.source import DataSpec
from tintype.data.targets import described
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.models import build_model, count_parameters, first_filter
from tintype.models.parts.backbone import backbone_parts, make_head
from tintype.own_code import is_own
from tintype.runs import code
from tintype.runs.folder import RunFolder
from tintype.runs.graph import has_graph, open_graph
from tintype.runs.shapes import FORMAT, MISFIT

# of networks that are built beside the one in the file, and of heads that are exchanged
SPARE_PARAMETERS = 50_000_000
DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)
MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)


class _TooLarge(Exception):
    """A network has more weights than its file can hold."""


class _Undrawn(TorchFunctionMode):
    """Leave weights undrawn, since those of a file take their place, and end before there are more
    than `most`.

    To count them on tensors without values would import SymPy, which takes half a second.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS:
            size = kwargs.get("size", args[:1] if func is torch.full else args)
            sides = size[0] if size and not isinstance(size[0], int) else size
            self.count += math.prod(sides)
            if self.count > self.most:
                raise _TooLarge(f"it has more than {self.most:,} parameters")

        if func in DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def describe_model(
    network: nn.Module,
    spec: DataSpec,
    name: str,
    options: dict[str, Any],
    *,
    multiply_adds: int,
    **more: Any,
) -> dict[str, Any]:
    """Return what model.json says; `more` are fields of the task, such as its name and test-time
    views.
    """
    return {
        "format": FORMAT,
        **more,
        "architecture": {"name": name, "options": options},
        **spec.target.describe(),
        "parameters": count_parameters(network),
        "multiply_adds": multiply_adds,
        "first_layer": first_filter(network, spec),
    }


def preprocessing(spec: DataSpec, resize: Resize) -> dict[str, Any]:
    """Return how a photo becomes the network's input: decode, bring to size, (x / 255 - mean) /
    std.
    """
    return {
        "channels": spec.channels,
        "height": spec.height,
        "width": spec.width,
        "resize": resize.mode,
        "crop_fraction": resize.crop_fraction,
        "interpolation": resize.interpolation,
        "mean": list(spec.mean),
        "std": list(spec.std),
        **({} if spec.white is None else {"white": spec.white}),
    }


def resize_of(description: dict[str, Any]) -> Resize:
    """Return how a photo is brought to size, from model.json."""
    how = description["preprocessing"]
    return Resize(
        how["resize"],
        how.get("crop_fraction", 1.0),
        how.get("interpolation", "bilinear"),
        how.get("white"),
    )


def save_model(run: RunFolder, network: nn.Module, description: dict[str, Any]) -> None:
    """Write model.safetensors and model.json."""
    from safetensors.torch import save_file

    tensors = {
        name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()
    }
    with written_whole(run.path / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    run.write("model.json", description)


def load_model(
    run: RunFolder, device: torch.device, *, whole: bool = False
) -> tuple[nn.Module, DataSpec, dict[str, Any]]:
    """Return the network in eval mode, what it expects of images, and model.json.

    The network of a run with the user's own code, which is not trusted here, is one that computes
    the run's graph (`GraphNetwork`), unless it is asked for as a `whole`, with layers and weights.

    Raises:
        UserError: a file is missing or broken, or was written by a newer tintype; or the network
            needs code that is not trusted.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    code.refuse_missing_packages(run.path)
    description = run.read("model.json", complete=True)
    how = description["preprocessing"]
    spec = DataSpec(
        name=run.name,
        channels=how["channels"],
        height=how["height"],
        width=how["width"],
        target=described(description),
        mean=tuple(how["mean"]),
        std=tuple(how["std"]),
        fingerprint="",
        white=how.get("white"),
    )
    rows = _rows_of_network(description)
    if rows and not whole and not code.is_trusted(rows) and has_graph(run.path):
        network = open_graph(run.path, (spec.channels, spec.height, spec.width), rows)
        return network.eval(), spec, description

    try:
        network = _network(description, spec, run.path / "model.safetensors")
    except MISFIT as error:  # options that the architecture does not take
        line = str(error).split("\n")[0]
        raise UserError(
            f"{run.path / 'model.json'} is broken (architecture: {type(error).__name__}: {line})."
        ) from None
    path = run.path / "model.safetensors"
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, *MISFIT) as error:
        line = str(error).split("\n")[0]
        raise UserError(
            f"cannot load {path} ({line}). Go on with the run to write it again: "
            f"tintype train --resume {run.path}"
        ) from None
    network = network.to(device)
    if not is_own(description["architecture"]["name"]):
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore
    return network.eval(), spec, description


def _rows_of_network(description: dict[str, Any]) -> list[dict[str, str]]:
    """Return the code that the network alone needs; a loss, say, is of no use to a finished one."""
    return [row for row in code.rows_of(description) if row["field"] == "model"]


def _network(description: dict[str, Any], spec: DataSpec, weights: Path) -> nn.Module:
    """Return the network that model.json describes, with weights that are yet to be loaded.

    Raises:
        ValueError, TypeError, ...: it describes none, or one that is far larger than the file of
        weights. UserError: there is no such model.
    """
    name, options = description["architecture"]["name"], description["architecture"]["options"]
    with code.trusted(weights.parent, _rows_of_network(description)):
        network = _undrawn(name, options, spec, weights)

    if description.get("head"):
        parts = backbone_parts(network, spec)
        network.set_submodule(
            parts.head_name, make_head(parts.num_features, spec.num_outputs, description["head"])
        )

    if isinstance(network, nn.ModuleDict):  # a model of several networks, as a GAN
        network = network[description["network"]]
    return network


def _undrawn(name: str, options: dict[str, Any], spec: DataSpec, weights: Path) -> nn.Module:
    if is_own(name):
        return build_model(name, spec, options, seed=0)
    size = weights.stat().st_size if weights.exists() else 0
    try:
        with _Undrawn(SPARE_PARAMETERS + 10 * size):
            return build_model(name, spec, options, seed=0)
    except _TooLarge as error:
        raise ValueError(f"{error}, far more than {weights.name} holds") from None
