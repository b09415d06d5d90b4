"""The second look of an audit: copies that hashes miss, and objects that were photographed again.

A network's features and keypoints name the photos that may show the same, and alignment tells
which of them do. It distinguishes three kinds: a copy (the same pixels, cropped, turned, framed,
inverted or painted over), the same object or scene, and what merely looks similar, of which nothing
is said.
"""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tintype.data import alignment
from tintype.data.alignment import Alignment, Look
from tintype.data.cache import cached_pixels
from tintype.data.duplicates import joined
from tintype.data.sets.folder import read_each
from tintype.errors import UserError
from tintype.hardware.cores import num_cores
from tintype.hardware.device import hold_memory
from tintype.models.efficientnet_lite import HEAD_WIDTH
from tintype.progress import Progress
from tintype.runs.packaged_weights import PACKAGES
from tintype.verbs.audit import backbone
from tintype.verbs.audit.files import TINY, Inspected, in_colour, reduced, squashed
from tintype.verbs.audit.neighbours import nearest_pairs, summaries

VERSION = 2  # raise it when the keypoints of a photo change
# Of a photo, by features of the last stage alone (what the one before it sees of a border, a third
# of the copies in one are not among the nearest) and as many by keypoints. Of 1,080 altered copies
# of TrashNet's photos, 9 are not among the 20 nearest by features, 2 are not among these eight and
# eight, and 5 not among three and three.
NEAREST, NEAREST_OF_MANY = 8, 3
LOOKS = 2048  # photos whose keypoints are held ready

LEFT_OUT = "copies that were cropped, turned or painted over were not looked for"


@dataclass(frozen=True)
class Pair:
    """Two photos, by position, and what was done to one of them to make the other."""

    rows: tuple[int, int]
    words: str


@dataclass(frozen=True)
class SecondLook:
    """Pairs that are copies, pairs that show the same object, and a note on what was left out."""

    copies: tuple[Pair, ...] = ()
    objects: tuple[Pair, ...] = ()
    note: str = ""

    def copied(self, group: np.ndarray) -> np.ndarray:
        """Return groups (N,) of duplicates, joined by the copies."""
        return joined(group, _positions(self.copies))

    def together(self, group: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Return groups (N,) of duplicates, joined by copies and by objects on the same side."""
        pairs = _positions(self.objects)
        alike = sides[pairs[:, 0]] == sides[pairs[:, 1]]
        return joined(self.copied(group), pairs[alike])


def look_again(
    inspected: Inspected, copy_of: np.ndarray, progress: Progress | None = None
) -> SecondLook:
    """Return the copies and the objects seen twice among images of which none is an exact copy.

    Photos are decoded once more, to keypoints and a small picture, which are cached.

    Args:
        inspected: the images.
        copy_of: (N,) the first exact copy of each.
        progress: called as progress(what, done, total).
    """
    rows = np.flatnonzero(copy_of == np.arange(len(copy_of)))
    small = float(np.median(inspected.short_side)) < TINY
    if len(rows) < 2 or (small and not in_colour(inspected.thumbs)):
        return SecondLook()
    if not alignment.available():
        return SecondLook(note=f"{LEFT_OUT}, which takes OpenCV: pip install 'tintype[audit]'")
    if not backbone.at_hand():
        return SecondLook(note=f"{LEFT_OUT}: {PACKAGES[backbone.NETWORK].install}")

    hold_memory()
    side = backbone.side_for(len(inspected))
    pictures = squashed(inspected, side, progress)
    try:
        features, notes = backbone.backbone_features(pictures, side, progress)
    except UserError as error:
        return SecondLook(note=f"{LEFT_OUT}: {error}")
    inspected.notes.extend(notes)

    last = np.ascontiguousarray(features[rows, -HEAD_WIDTH:])
    looks = _Looks(inspected, pictures, progress)
    many = len(inspected) > backbone.MANY
    found = [
        nearest_pairs(seen, NEAREST_OF_MANY if many else NEAREST, progress)
        for seen in (last, summaries(looks.keypoints[rows], progress))
    ]
    return looks.judged(rows[np.unique(np.concatenate(found), axis=0)], progress)


class _Looks:
    """The keypoints of all images, in a file of the cache, and their pictures."""

    def __init__(
        self, inspected: Inspected, pictures: np.ndarray, progress: Progress | None
    ) -> None:
        self.inspected = inspected
        self.pictures = pictures
        self.keypoints = _keypoints(inspected, progress)
        self.look = functools.lru_cache(LOOKS)(self._look)

    def _look(self, i: int) -> Look:
        return alignment.look_of(self.pictures[i], self.keypoints[i])

    def judged(self, pairs: np.ndarray, progress: Progress | None) -> SecondLook:
        """Return which pairs (P, 2) of positions are copies, and which show one object."""

        def assess(some: np.ndarray) -> list[Alignment | None]:
            one, others = self.look(int(some[0, 0])), [self.look(int(j)) for j in some[:, 1]]
            return alignment.align_all(one, others)

        copies: list[Pair] = []
        objects: list[Pair] = []
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        chunks = np.split(pairs, np.flatnonzero(np.diff(pairs[:, 0])) + 1) if len(pairs) else []
        with alignment.single_threaded(), ThreadPoolExecutor(num_cores()) as pool:
            done = 0
            for chunk, found in zip(chunks, pool.map(assess, chunks), strict=True):
                for (i, j), aligned in zip(chunk.tolist(), found, strict=True):
                    if aligned is not None and aligned.is_copy:
                        copies.append(self._pair(i, j, aligned))
                    elif aligned is not None and aligned.is_same_object:
                        words = f"{aligned.num_keypoints} keypoints in common"
                        objects.append(Pair((i, j), words))
                done += len(chunk)
                if progress:
                    progress("aligning photos", done, len(pairs))

        return SecondLook(tuple(copies), tuple(objects))

    def _pair(self, i: int, j: int, aligned: Alignment) -> Pair:
        facts = self.inspected.facts
        size, other = ((int(facts["width"][row]), int(facts["height"][row])) for row in (i, j))
        return Pair((i, j), alignment.transform_words(aligned, size, other))


def _keypoints(inspected: Inspected, progress: Progress | None) -> np.ndarray:
    """Return the keypoints of every image, (N, K, B) uint8; none of one that changed meanwhile."""
    shape = (alignment.MOST_KEYPOINTS, alignment.OF_KEYPOINT, 1)
    many = len(inspected) > backbone.MANY
    side = alignment.SHORTER_SIDE if many else alignment.LONG_SIDE
    purpose = f"keypoints {VERSION}{f' at {side}' if many else ''}"
    source = f"{inspected.name} (keypoints)"

    with alignment.single_threaded():
        if inspected.photos is None:
            pixels = inspected.pixels
            assert pixels is not None
            key = hashlib.blake2b(purpose.encode(), digest_size=16)
            key.update(np.ascontiguousarray(inspected.facts["digest"]).data)
            return cached_pixels(
                key.hexdigest(),
                len(inspected),
                shape,
                lambda i: alignment.keypoints(_at_most(pixels[i], side), side).reshape(shape),
                source=source,
                progress=progress,
            ).pixels[..., 0]

        photos, cached, _ = read_each(
            inspected.photos,
            shape,
            lambda path: alignment.keypoints(reduced(path, side), side).reshape(shape),
            purpose=purpose,
            source=source,
            progress=progress,
        )

    if len(photos) == len(inspected):
        return cached.pixels[..., 0]
    position = {name: i for i, name in enumerate(inspected.names)}
    found = np.zeros((len(inspected), *shape[:2]), np.uint8)
    found[[position[photo.name] for photo in photos]] = cached.pixels[..., 0]
    return found


def _at_most(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return an image (H, W, C) at most `side` pixels long."""
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    grey = pixels.shape[2] == 1
    image = Image.fromarray(pixels[:, :, 0] if grey else pixels)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    return np.asarray(small).reshape(small.height, small.width, -1)


def _positions(pairs: tuple[Pair, ...]) -> np.ndarray:
    return np.array([pair.rows for pair in pairs], np.int64).reshape(-1, 2)
