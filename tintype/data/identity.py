"""Which photos a run saw: a digest of the pixels of each, and a perceptual hash to find copies.

Kept in `photos.safetensors` of the run folder, in the order of `splits.csv`; neither shows what is
on a photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tintype.data.duplicates import QUICK_SIDE, THUMBNAIL, perceptual_hashes, thumbnails
from tintype.data.source import ImageSource
from tintype.data.split import SPLITS

VERSION = "1"
# Of 800 photos of TrashNet and pets, 95 % of the copies that were saved again in quality 20,
# halved, mirrored or made grey lie above 0.998, and no two different photos above 0.99.
SAME_HASH = 0.995
# Drawings and scans in one frame have equal hashes without being copies; there the digest decides
# alone.
ALIKE_SHARE = 0.05
ALIKE_SAMPLE = 2000
BATCH = 64


@dataclass(frozen=True)
class Identities:
    """Photos, recognised by what they show.

    `digests` (N, 16) uint8: blake2b of the pixels (H, W, C) as the model's preprocessing gives
    them. `hashes` (N, 64) int8: the perceptual hash, times 127; zeros where a picture has nothing
    to compare, and (N, 0) where the pictures are smaller than 48 pixels or resemble each other too
    much. `splits` (N,) uint8: the place in ("train", "val", "test"). `shape` (H, W, C) is that of
    the pixels.
    """

    digests: np.ndarray
    hashes: np.ndarray
    splits: np.ndarray
    shape: tuple[int, int, int]

    def save(self, path: Path) -> None:
        """Write everything into one safetensors file; the same photos give the same bytes."""
        from safetensors.numpy import save_file

        # One entry: safetensors writes several in a random order.
        metadata = {"version and shape": " ".join(map(str, (VERSION, *self.shape)))}
        save_file(
            {"digests": self.digests, "hashes": self.hashes, "splits": self.splits},
            path,
            metadata=metadata,
        )

    @classmethod
    def load(cls, path: Path) -> Identities | None:
        """Read what `save` wrote; None where there is no such file, or one that cannot be used."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                metadata = file.metadata() or {}
                digests, hashes, splits = (
                    file.get_tensor(name) for name in ("digests", "hashes", "splits")
                )
            version, *sides = metadata["version and shape"].split()
            height, width, channels = (int(side) for side in sides)
        # TypeError: a type that NumPy lacks
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        sound = (
            version == VERSION
            and digests.dtype == splits.dtype == np.uint8
            and hashes.dtype == np.int8
            and digests.shape == (len(splits), 16)
            and hashes.shape in ((len(splits), 64), (len(splits), 0))
            and splits.ndim == 1
            and bool((splits < len(SPLITS)).all())
        )
        return cls(digests, hashes, splits, (height, width, channels)) if sound else None

    def seen(self, others: Identities) -> tuple[np.ndarray, np.ndarray]:
        """Return for each of `others` (M,) the split that holds it, and whether it is a near copy.

        The split is "" where none does. A photo of several splits counts for the first of them:
        training, validation, test.
        """
        first: dict[bytes, int] = {}
        for digest, split in zip(self.digests, self.splits.tolist(), strict=True):
            key = digest.tobytes()
            first[key] = min(split, first.get(key, split))
        found = np.array([first.get(digest.tobytes(), -1) for digest in others.digests], np.int64)

        near = np.zeros(len(found), bool)
        if self.hashes.shape[1] and others.hashes.shape[1]:
            missing = np.flatnonzero(found < 0)
            for split in range(len(SPLITS)):
                mine = _unit(self.hashes[self.splits == split])
                for start in range(0, len(missing), 256):
                    rows = missing[start : start + 256]
                    alike = _nearest(_unit(others.hashes[rows]), mine) >= SAME_HASH
                    found[rows[alike & (found[rows] < 0)]] = split
            near[missing] = found[missing] >= 0
        return np.array(["", *SPLITS])[found + 1], near


def identify(sources: Mapping[str, ImageSource]) -> Identities:
    """Return the digests and hashes of all photos of some splits ("train", "val", "test"), in this
    order.
    """
    digests, hashes, splits = [], [], []
    shape = (0, 0, 0)
    for split, source in sources.items():
        spec = source.spec
        shape = (spec.height, spec.width, spec.channels)
        large = min(spec.height, spec.width) >= QUICK_SIDE
        splits.append(np.full(len(source), SPLITS.index(split), np.uint8))
        for start in range(0, len(source), BATCH):
            taken = source.take(torch.arange(start, min(start + BATCH, len(source)))).images
            pixels = np.ascontiguousarray(taken.permute(0, 2, 3, 1).cpu().numpy())
            digests += map(_digest, pixels)
            hashes.append(
                perceptual_hashes(thumbnails(pixels, THUMBNAIL))
                if large
                else np.empty((len(pixels), 0))
            )

    joined = (
        np.rint(127 * np.concatenate(hashes)).astype(np.int8)
        if hashes
        else np.empty((0, 0), np.int8)
    )
    if joined.shape[1] and _resemble(joined, digests):
        joined = joined[:, :0]
    return Identities(
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16),
        np.ascontiguousarray(joined),
        np.concatenate(splits),
        shape,
    )


def pixel_digests(source: ImageSource) -> list[bytes]:
    """Return the digest of each photo's pixels (H, W, C), as `Identities` holds them."""
    digests: list[bytes] = []
    for index in torch.arange(len(source)).split(BATCH):
        pixels = source.take(index).images.permute(0, 2, 3, 1).cpu().numpy()
        digests += map(_digest, np.ascontiguousarray(pixels))
    return digests


def _digest(picture: np.ndarray) -> bytes:
    return hashlib.blake2b(picture.data, digest_size=16).digest()


def _resemble(hashes: np.ndarray, digests: list[bytes]) -> bool:
    """Return whether so many pictures have equal hashes that these say nothing about copies."""
    alone = np.array(sorted({digest: i for i, digest in enumerate(digests)}.values()))
    values = _unit(hashes[alone])
    asked = np.linspace(0, len(alone) - 1, min(len(alone), ALIKE_SAMPLE)).astype(np.int64)
    near = 0
    for rows in np.array_split(asked, max(1, len(asked) // 256)):
        cosine = _cosines(values[rows], values)
        cosine[np.arange(len(rows)), rows] = 0
        near += int((cosine.max(1) >= SAME_HASH).sum())
    return near > max(ALIKE_SHARE * len(asked), 8)


def _nearest(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    return _cosines(hashes, others).max(1) if len(others) else np.zeros(len(hashes))


def _cosines(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how alike pictures are, as they are or mirrored: the odd horizontal frequencies stand
    last.
    """
    half = hashes.shape[1] // 2
    return hashes[:, :half] @ others[:, :half].T + np.abs(hashes[:, half:] @ others[:, half:].T)


def _unit(hashes: np.ndarray) -> np.ndarray:
    values = hashes.astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-6)
