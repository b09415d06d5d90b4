"""What an embedded network sees in the pictures of a data set."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tintype.data.features import photo_features
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.hardware.device import choose_precision
from tintype.models import build_model
from tintype.progress import Progress
from tintype.runs.packaged_weights import installed
from tintype.runs.pretrained import load_pretrained, own_preprocessing
from tintype.tasks.frozen import FrozenBackbone

NETWORK = "efficientnet_lite0"
# of the last one, and of the last but one, which tells textures and small parts apart
STAGES = 2
SIDE, SMALL_SIDE = 128, 96  # pixels at which pictures are looked at
MANY = 20_000  # pictures, beyond which they are looked at in the smaller size
LEAST_SIDE = 32  # pixels of a picture of which the network says more than simple features


def at_hand() -> bool:
    """Return whether the weights of the network are installed."""
    return installed(NETWORK)


def side_for(num_pictures: int) -> int:
    """Return the size in pixels at which so many pictures are looked at."""
    return SIDE if num_pictures <= MANY else SMALL_SIDE


def backbone_features(
    pictures: np.ndarray, side: int, progress: Progress | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return the features (N, F) float32 of pictures, and notes; only new ones are computed.

    Args:
        pictures: (N, H, W, C) uint8 of any size, in memory or a memory map.
        side: pixels at which the network looks at them, whatever their shape.
        progress: called as progress(what, done, total).

    Raises:
        UserError: the weights are not those that were checked.
    """
    backbone = _backbone(side)

    def compute(rows: np.ndarray, view: int) -> np.ndarray:
        del view  # there is one
        images = torch.from_numpy(np.ascontiguousarray(pictures[rows])).permute(0, 3, 1, 2)
        return backbone.compute(_resized(images, side))

    digests = [
        hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=16).digest()
        for picture in pictures
    ]
    shape = pictures.shape[1:]
    found = photo_features(digests, [f"squashed {shape}"], compute, backbone.identity, progress)
    return found.values[:, 0], found.notes


@lru_cache(maxsize=2)
def _backbone(side: int) -> FrozenBackbone:
    own = own_preprocessing(NETWORK)
    assert own is not None
    spec = DataSpec(NETWORK, 3, side, side, Classes(("0", "1")), own.mean, own.std, "")
    network = build_model(NETWORK, spec, {"stages": STAGES}, seed=0)
    load_pretrained(network, NETWORK, spec)
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) * 255 for each in (own.mean, own.std))

    device = torch.device("cpu")
    return FrozenBackbone(
        network.eval(),
        NETWORK,
        spec,
        device,
        choose_precision("auto", device)[0],
        lambda images: (images.float() - mean) / std,
    )


def _resized(images: Tensor, side: int) -> Tensor:
    """Return pictures (M, C, H, W) uint8 as (M, 3, side, side) uint8."""
    if images.shape[2:] != (side, side):
        larger = functional.interpolate(
            images.float(), size=(side, side), mode="bicubic", antialias=True
        )
        images = larger.round().clamp(0, 255).to(torch.uint8)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
