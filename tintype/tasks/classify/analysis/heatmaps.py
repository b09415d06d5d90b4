"""Where a convolutional network looked: Grad-CAM.

Written here and not taken from a library: `grad-cam` brings OpenCV, and neither it nor captum
chooses the layer.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.models.parts.modes import evaluating

SMALLEST_SIDE = 3  # positions; coarser maps do not tell where
# pixels of the pictures that are written; smaller ones are enlarged by a whole factor
LARGEST_SIDE = 224

# From transparent over rust to light yellow: ordered by lightness too, so that it can be read
# without colours.
HEAT = np.array(
    [[92, 22, 22], [176, 52, 16], [232, 112, 20], [250, 182, 60], [255, 244, 180]], np.float32
)


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps (N, h, w) float32 in 0..1 of a layer's own size, and its name."""

    maps: np.ndarray
    layer: str


def grad_cam(network: nn.Module, images: Tensor, classes: Tensor) -> HeatMaps | None:
    """Return where the network found evidence for a class, for each image.

    It is the sum of the last layer's maps, weighted by their gradient.

    The map is ReLU(sum over k of w_k A_k), A_k the k-th map of the layer and w_k the mean gradient
    of the class's logit over it; each image is scaled by its own maximum (0 where no position
    speaks for the class).

    Args:
        network: any network that has a layer with spatial maps; see `spatial_layer`.
        images: (N, C, H, W) float32, as the network takes them.
        classes: (N,) int64.

    Returns:
        None where no layer has maps.

    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
    localization" (2017).
    """
    with evaluating(network):
        layer = spatial_layer(network, images[:1])
        if layer is None:
            return None
        activation: list[Tensor] = []

        def keep(_: nn.Module, __: Any, output: Tensor) -> None:
            activation.append(output)

        with network.get_submodule(layer).register_forward_hook(keep):
            with torch.enable_grad():
                # Gradients flow from the images on, so that frozen layers do not matter; the sum
                # spares the leaf from layers that write in place.
                logits = network(images.detach().requires_grad_() + 0)
                score = logits.gather(1, classes.to(logits.device)[:, None]).sum()
            gradient = torch.autograd.grad(score, activation[-1])[0].float()
        maps = F.relu(
            (gradient.mean((2, 3), keepdim=True) * activation[-1].detach().float()).sum(1)
        )
        maps = maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)
        return HeatMaps(maps.cpu().numpy(), layer)


@torch.no_grad()
def spatial_layer(network: nn.Module, image: Tensor) -> str | None:
    """Return the name of the last layer before pooling.

    Its output (N, C, h, w) has at least 3 positions a side.

    Where no layer has so many, 2 a side. None for networks without maps, and for those that turn
    them into a sequence of tokens (vision transformers), where gradients at the last map say
    little.
    """
    seen: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.append((name, tuple(output.shape)))

        return hook

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(note(name)))
        network(image)
    for side in (SMALLEST_SIDE, 2):
        fit = [i for i, (_, shape) in enumerate(seen) if len(shape) == 4 and min(shape[2:]) >= side]
        if fit:
            tokens_follow = any(len(shape) == 3 for _, shape in seen[fit[-1] + 1 :])
            return None if tokens_follow else seen[fit[-1]][0]
    return None


def overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map (h, w) in 0..1 over an image (H, W, 1 or 3) uint8; return (H', W', 3) uint8.

    Small images are enlarged by a whole factor. The picture below is grey, so that all colour is
    heat.
    """
    factor = max(1, LARGEST_SIDE // 2 // max(image.shape[:2]))
    grey = image.astype(np.float32).mean(2).repeat(factor, 0).repeat(factor, 1)
    strength = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(heat))[None, None],
        size=grey.shape,
        mode="bilinear",
        align_corners=False,
    )[0, 0].numpy()  # (H', W')
    stops = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(strength, stops, HEAT[:, c]) for c in range(3)], axis=2)
    opacity = (0.75 * np.sqrt(strength))[..., None]

    return (
        ((1 - opacity) * (0.25 * 255 + 0.6 * grey)[..., None] + opacity * colour)
        .clip(0, 255)
        .astype(np.uint8)
    )
