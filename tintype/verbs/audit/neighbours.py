"""Which photos of a data set may show the same: the nearest of each, as two judges see it.

A network sees what a photo shows, but a wide border, a box of text or a deep crop changes that as a
whole. Keypoints are changed where they are only, so that what they have in common names such
copies. Each names a few for every photo, and alignment decides.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from tintype.data.alignment import descriptors_of
from tintype.progress import Progress

BLOCK = 1024  # rows of similarities in memory
PHOTOS = 256  # whose descriptors are in memory
LEARNED_FROM, SEEN_FOR_WORDS = 1500, 200  # photos, at random
WORDS = 32  # kinds of keypoints
WIDTH = 64  # numbers that are left of a descriptor
SUMMARY = 256  # numbers for a photo
EMPTY = 1e-6  # of the largest variance


def nearest_pairs(features: np.ndarray, count: int, progress: Progress | None = None) -> np.ndarray:
    """Return the pairs (P, 2), i < j, of which one is among the nearest of the other.

    All are compared, block by block, by the cosine of what differs from the mean.

    Args:
        features: (N, F) float32.
        count: how many are the nearest of each.
        progress: called as progress(what, done, total) after each block.
    """
    values = torch.from_numpy(features - features.mean(axis=0))
    values /= torch.linalg.norm(values, dim=1, keepdim=True).clip(1e-6)
    count = min(count + 1, len(values))  # one of them is the image itself
    found = []
    for start in range(0, len(values), BLOCK):
        cosine = values[start : start + BLOCK] @ values.T
        nearest = cosine.topk(count, dim=1, sorted=False).indices.numpy()
        own = np.broadcast_to(np.arange(start, start + len(nearest))[:, None], nearest.shape)
        found.append(np.stack([np.minimum(own, nearest), np.maximum(own, nearest)], axis=-1))
        if progress:
            progress("comparing features", min(start + BLOCK, len(values)), len(values))

    pairs = np.unique(np.concatenate([each.reshape(-1, 2) for each in found]), axis=0)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def summaries(keypoints: np.ndarray, progress: Progress | None = None) -> np.ndarray:
    """Return what the keypoints of each photo look like together, (N, F) float32.

    Args:
        keypoints: (N, K, OF_KEYPOINT) uint8, as `alignment.keypoints` packs them.
        progress: called as progress(what, done, total) after each block.
    """
    order = np.random.default_rng(0).permutation(len(keypoints))
    sample = keypoints[np.sort(order[:LEARNED_FROM])]
    there = descriptors_of(sample[:SEEN_FOR_WORDS])
    there = torch.from_numpy(there[there.any(axis=2)])
    if len(there) < WORDS:
        return np.zeros((len(keypoints), 1), np.float32)

    summary = _Summary(there)
    summary.reduce(torch.cat([summary(block) for block in _blocks(sample)]))
    found = []
    done = 0
    for block in _blocks(keypoints):
        found.append(summary(block).numpy())
        done += len(block)
        if progress:
            progress("comparing keypoints", done, len(keypoints))
    return np.concatenate(found)


class _Summary:
    """A vector of locally aggregated descriptors (Jégou et al. 2010) for each photo.

    Each word's part has length one (Arandjelović and Zisserman 2013), and the whole is reduced to
    its principal directions, of which the strong ones count less (Jégou and Chum 2012).
    """

    def __init__(self, descriptors: Tensor) -> None:
        self.mean = descriptors.mean(dim=0)
        self.narrow = _directions(descriptors - self.mean, WIDTH)[0]
        narrowed = ((descriptors - self.mean) @ self.narrow).numpy()
        words = KMeans(WORDS, max_iter=10, random_state=0).fit(narrowed)  # one start
        self.words = torch.from_numpy(words.cluster_centers_.astype(np.float32))
        self.centre: Tensor | None = None

    def reduce(self, summaries: Tensor) -> None:
        """Take the principal directions of some summaries for all that come."""
        self.centre = summaries.mean(dim=0)
        directions, deviations = _directions(summaries - self.centre, SUMMARY)
        self.directions = directions / deviations.sqrt()

    def __call__(self, keypoints: np.ndarray) -> Tensor:
        found = torch.from_numpy(descriptors_of(keypoints))  # (M, K, 128)
        seen = found.any(dim=2, keepdim=True)
        found = (found - self.mean) @ self.narrow

        nearest = (found @ self.words.T - self.words.square().sum(dim=1) / 2).argmax(dim=2)
        word = one_hot(nearest, WORDS).float() * seen
        sums = word.transpose(1, 2) @ found - word.sum(dim=1)[..., None] * self.words
        summary = normalize(sums, dim=2).flatten(1)
        return summary if self.centre is None else (summary - self.centre) @ self.directions


def _directions(values: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the principal directions (F, D) of centred rows (N, F), and deviations (D,)."""
    wide = values.shape[1] > len(values)
    square = values @ values.T if wide else values.T @ values
    variances, found = torch.linalg.eigh(square.double())
    kept = variances.flip(0)[:most] > EMPTY * variances[-1]
    variances, found = variances.flip(0)[:most][kept], found.flip(1)[:, :most][:, kept]
    if wide:
        found = values.T.double() @ found / variances.sqrt()
    return found.float(), variances.sqrt().float()


def _blocks(keypoints: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(keypoints), PHOTOS):
        yield keypoints[start : start + PHOTOS]
