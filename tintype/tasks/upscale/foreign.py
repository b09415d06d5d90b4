"""Networks of other projects that enlarge (ESRGAN, SwinIR, ...), recognised by spandrel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.data.targets import NoTarget
from tintype.errors import UserError
from tintype.models.parts.weights import read_content
from tintype.tasks.upscale.task import Upscale

HALO = 32  # small pixels; deep networks look further, but hardly depend on it


class Foreign(nn.Module):
    """A network as spandrel describes it; sizes that it cannot take are padded inside."""

    halo = HALO

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.network: nn.Module = descriptor.model
        self.descriptor = descriptor

    def forward(self, low: Tensor) -> Tensor:
        return torch.cat([self.descriptor(image[None]) for image in low])


def load_foreign(path: Path, device: torch.device) -> Upscale:
    """Return the task around the network that a weight file is for. No code in the file runs.

    Raises:
        UserError: spandrel is not installed, the file is damaged or unknown, or its network does
            not enlarge.
    """
    state, _ = read_content(path)  # first, since some files are of no use with spandrel either
    try:
        import spandrel
    except ImportError:
        raise UserError(
            f"{path.name} is somebody else's network, which spandrel recognises. Install it: pip "
            "install 'tintype[foreign]'"
        ) from None

    try:
        descriptor = spandrel.ModelLoader(device).load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        raise UserError(f"spandrel knows no network with the weights in {path}.") from None
    except Exception as error:  # whatever a damaged or foreign file makes a reader raise
        raise UserError(
            f"{path} holds no weights that can be read: {str(error).splitlines()[0][:120]}"
        ) from None

    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.scale < 2:
        raise UserError(f"{path} is {descriptor.architecture.name}, which does not enlarge photos.")
    channels = descriptor.input_channels
    if channels not in (1, 3) or descriptor.output_channels != channels:
        raise UserError(
            f"{path} takes {channels} channels and gives {descriptor.output_channels}. "
            "Expected 1 or 3 of both."
        )

    spec = DataSpec(
        path.stem, channels, 64, 64, NoTarget(), (0.0,) * channels, (1.0,) * channels, ""
    )
    return Upscale(Foreign(descriptor).to(device).eval(), spec, device, scale=descriptor.scale)
