"""What cameras and the web do to small pictures: blur, noise and JPEG, drawn for each picture."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tintype.models.parts.resample import bicubic

BLUR = (0.2, 1.2)  # deviation of the Gaussian in small pixels
NOISE = (0.0, 8.0)  # deviation, of 0..255
JPEG = (50, 95)  # quality
_REACH = 3  # small pixels that the widest Gaussian reaches


def degraded(images: Tensor, scale: int, generator: torch.Generator) -> Tensor:
    """Return images (N, C, H, W) uint8 blurred, reduced by `scale`, with noise and JPEG.

    Strengths are drawn for each image from `generator`; the order is that of the classical
    degradation model (Wang et al. 2021, Real-ESRGAN, first order).
    """
    count = len(images)
    device = generator.device
    sigma, noise, quality = torch.rand(3, count, generator=generator, device=device).cpu()

    low = bicubic(images.float(), images.shape[2] // scale, images.shape[3] // scale)
    low = _blurred(low, BLUR[0] + (BLUR[1] - BLUR[0]) * sigma.to(low.device))

    grain = torch.randn(low.shape, generator=generator, device=device).to(low.device)
    low = low + grain * (NOISE[0] + (NOISE[1] - NOISE[0]) * noise.to(low.device)).view(-1, 1, 1, 1)
    low = low.round().clamp(0, 255).to(torch.uint8)

    levels = (JPEG[0] + (JPEG[1] - JPEG[0]) * quality).round().int().tolist()
    return torch.stack(
        [_through_jpeg(image, level) for image, level in zip(low, levels, strict=True)]
    ).to(images.device)


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image (N, C, H, W) by a Gaussian of its own deviation (N,)."""
    count, channels, height, width = images.shape
    line = torch.arange(-_REACH, _REACH + 1, device=images.device)
    kernel = torch.exp(-0.5 * (line / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # (N * C, 7)
    flat = F.pad(images.reshape(1, -1, height, width), (_REACH,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    return F.conv2d(flat, kernel[:, None, None, :], groups=count * channels).view(images.shape)


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    pixels = image.permute(1, 2, 0).cpu().numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as back:
        return torch.from_numpy(np.array(back.convert("RGB"))).permute(2, 0, 1)
